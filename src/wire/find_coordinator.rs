//! Which broker coordinates a group or transaction.
//!
//! One key up to version 3, a list of keys from version 4. Key types: 0 group, 1 transaction, 2 share group.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(FindCoordinator, versions 0..=6, flexible 3, FindCoordinatorRequest => FindCoordinatorResponse);

schema! {
    /// Asks by key.
    struct FindCoordinatorRequest {
        key: String [..=3],
        key_type: i8 [1..],
        coordinator_keys: Vec<String> [4..],
    }

    /// The coordinators.
    struct FindCoordinatorResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode [..=3],
        error_message: Option<String> [1..=3],
        node_id: i32 [..=3],
        host: String [..=3],
        port: i32 [..=3],
        coordinators: Vec<Coordinator> [4..],
    }

    /// The coordinator of one key.
    struct Coordinator {
        key: String,
        node_id: i32,
        host: String,
        port: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}
