//! AddOffsetsToTxn: v0–4.
//!
//! Behaviour
//! * Takes a group into the transaction; durable before the answer. Its positions come with TxnOffsetCommit.
//!
//! Version notes
//! * v2: PRODUCER_FENCED, INVALID_PRODUCER_EPOCH before.

use super::{Close, Context, txn_error_code};
use crate::{
    groups::offsets::MAX_GROUP_ID_BYTES,
    txn::Identity,
    wire::{
        ErrorCode,
        add_offsets_to_txn::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse},
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: AddOffsetsToTxnRequest,
) -> Result<AddOffsetsToTxnResponse, Close> {
    if request.group_id.is_empty() || request.group_id.len() > MAX_GROUP_ID_BYTES {
        return Ok(AddOffsetsToTxnResponse { error_code: ErrorCode::INVALID_GROUP_ID, ..Default::default() });
    }
    let who = Identity { id: request.producer_id, epoch: request.producer_epoch };
    let added = context.broker.txns.add_group(&request.transactional_id, who, &request.group_id).await;
    let error_code = added.map_or_else(|error| txn_error_code(&error, context.version >= 2), |()| ErrorCode::NONE);
    Ok(AddOffsetsToTxnResponse { error_code, ..Default::default() })
}
