//! A producer id and epoch, for idempotence and transactions.
//!
//! From version 3 a producer names the id and epoch it has, to have the epoch bumped.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(InitProducerId, versions 0..=5, flexible 2, InitProducerIdRequest => InitProducerIdResponse);

schema! {
    /// Asks for an id, or for a new epoch of one.
    struct InitProducerIdRequest {
        transactional_id: Option<String>,
        transaction_timeout_ms: i32,
        producer_id: i64 [3..] = -1,
        producer_epoch: i16 [3..] = -1,
    }

    /// The id and epoch.
    struct InitProducerIdResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        producer_id: i64 = -1,
        producer_epoch: i16,
    }
}
