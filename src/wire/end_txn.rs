//! Ending a transaction.
//!
//! From version 5 each end gives the producer a new epoch (KIP-890).

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(EndTxn, versions 0..=5, flexible 3, EndTxnRequest => EndTxnResponse);

schema! {
    /// Commit or abort.
    struct EndTxnRequest {
        transactional_id: String,
        producer_id: i64,
        producer_epoch: i16,
        committed: bool,
    }

    /// Whether it ended.
    struct EndTxnResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        producer_id: i64 [5..] = -1,
        producer_epoch: i16 [5..] = -1,
    }
}
