//! InitProducerId: v0–5.
//!
//! Behaviour
//! * Without a transactional id: a producer id that was never given out before, with epoch 0. What a producer did is
//!   remembered by the log, in the same commit as its records.
//! * With one: the id's producer with the next epoch, durable before the answer. Whoever had it is fenced and his open
//!   transaction aborted in the same commit, so that CONCURRENT_TRANSACTIONS is never answered.
//!
//! Version notes
//! * v3: a producer that lost track brings its id and epoch to have the epoch bumped (KIP-360); an idempotent producer
//!   without a transactional id gets a fresh id instead, as from Kafka.
//! * v4: PRODUCER_FENCED, INVALID_PRODUCER_EPOCH before.

use super::{Close, Context, error_code, txn_error_code};
use crate::{
    txn::Identity,
    wire::{
        ErrorCode,
        init_producer_id::{InitProducerIdRequest, InitProducerIdResponse},
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: InitProducerIdRequest,
) -> Result<InitProducerIdResponse, Close> {
    let broker = context.broker;
    let failed = |error_code| InitProducerIdResponse { error_code, producer_epoch: -1, ..Default::default() };
    let Some(id) = request.transactional_id else {
        return Ok(match broker.log.next_producer_id().await {
            Ok(producer_id) => InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() },
            Err(error) => failed(error_code(&error)),
        });
    };
    let Identity { id: claimed, epoch } = Identity { id: request.producer_id, epoch: request.producer_epoch };
    let claimed = match (claimed >= 0, epoch >= 0) {
        (true, true) => Some(Identity { id: claimed, epoch }),
        (false, false) => None,
        _ => return Ok(failed(ErrorCode::INVALID_REQUEST)),
    };
    Ok(match broker.txns.init(&id, claimed, request.transaction_timeout_ms).await {
        Ok(Identity { id, epoch }) => {
            InitProducerIdResponse { producer_id: id, producer_epoch: epoch, ..Default::default() }
        }
        Err(error) => failed(txn_error_code(&error, context.version >= 4)),
    })
}
