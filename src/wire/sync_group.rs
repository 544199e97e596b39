//! Each member's part of the assignment.
//!
//! From version 5 the protocol is named, so that a wrong one is noticed.

use bytes::Bytes;

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(SyncGroup, versions 0..=5, flexible 4, SyncGroupRequest => SyncGroupResponse);

schema! {
    /// Asks for the assignment; the leader brings it.
    struct SyncGroupRequest {
        group_id: String,
        generation_id: i32,
        member_id: String,
        group_instance_id: Option<String> [3..],
        protocol_type: Option<String> [5..],
        protocol_name: Option<String> [5..],
        assignments: Vec<SyncGroupRequestAssignment>,
    }

    /// The part of one member.
    struct SyncGroupRequestAssignment {
        member_id: String,
        assignment: Bytes,
    }

    /// The member's part, which only the members understand.
    struct SyncGroupResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode,
        protocol_type: Option<String> [5..],
        protocol_name: Option<String> [5..],
        assignment: Bytes,
    }
}
