//! InitProducerId: v0–5.
//!
//! Behaviour
//! * Gives a producer id that was never given out before, with epoch 0. What a producer did is remembered by the log,
//!   in the same commit as its records.
//! * A transactional id is refused: transactions are not offered, and their other APIs not advertised.
//!
//! Version notes
//! * v3: a producer that lost track brings its id and epoch to have the epoch bumped (KIP-360); an idempotent producer
//!   without a transactional id gets a fresh id instead, as from Kafka.

use super::{Close, Context, error_code};
use crate::wire::{
    ErrorCode,
    init_producer_id::{InitProducerIdRequest, InitProducerIdResponse},
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: InitProducerIdRequest,
) -> Result<InitProducerIdResponse, Close> {
    let failed = |error_code| InitProducerIdResponse { error_code, producer_epoch: -1, ..Default::default() };
    if request.transactional_id.is_some() {
        // The code that every client takes as final; a retriable one would have it wait for ever.
        return Ok(failed(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED));
    }
    Ok(match context.broker.log.next_producer_id().await {
        Ok(producer_id) => InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() },
        Err(error) => failed(error_code(&error)),
    })
}
