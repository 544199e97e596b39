//! Sign of life of a group's member; the answer says when the group rebalances.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(Heartbeat, versions 0..=4, flexible 4, HeartbeatRequest => HeartbeatResponse);

schema! {
    /// The member and the generation it believes in.
    struct HeartbeatRequest {
        group_id: String,
        generation_id: i32,
        member_id: String,
        group_instance_id: Option<String> [3..],
    }

    /// Whether that still holds.
    struct HeartbeatResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode,
    }
}
