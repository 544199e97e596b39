//! Taking a group's positions into a transaction.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(AddOffsetsToTxn, versions 0..=4, flexible 3, AddOffsetsToTxnRequest => AddOffsetsToTxnResponse);

schema! {
    /// The group.
    struct AddOffsetsToTxnRequest {
        transactional_id: String,
        producer_id: i64,
        producer_epoch: i16,
        group_id: String,
    }

    /// Whether it was taken.
    struct AddOffsetsToTxnResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
    }
}
