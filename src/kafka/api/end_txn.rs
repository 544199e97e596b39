//! EndTxn: v0–5.
//!
//! Behaviour
//! * The markers of all partitions, the positions of all groups and the transaction's new state are one commit of the
//!   log; the answer comes when it is durable. A repeated request gets the same answer.
//!
//! Version notes
//! * v2: PRODUCER_FENCED, INVALID_PRODUCER_EPOCH before.
//! * v5: the second version of transactions (KIP-890): the producer gets another epoch with every end, and may abort
//!   what it does not know to have begun.

use super::{Close, Context, txn_error_code};
use crate::{
    record::Outcome,
    txn::{Flow, Identity},
    wire::end_txn::{EndTxnRequest, EndTxnResponse},
};

pub(super) async fn handle(context: &Context<'_>, request: EndTxnRequest) -> Result<EndTxnResponse, Close> {
    let who = Identity { id: request.producer_id, epoch: request.producer_epoch };
    let outcome = if request.committed { Outcome::Commit } else { Outcome::Abort };
    let flow = if context.version >= 5 { Flow::Second } else { Flow::First };
    Ok(match context.broker.txns.end(&request.transactional_id, who, outcome, flow).await {
        Ok(Identity { id, epoch }) => EndTxnResponse { producer_id: id, producer_epoch: epoch, ..Default::default() },
        Err(error) => {
            EndTxnResponse { error_code: txn_error_code(&error, context.version >= 2), ..Default::default() }
        }
    })
}
