//! Leaving a group.
//!
//! One member up to version 2, a list from version 3: an administrator removes static members by their instance ids.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(LeaveGroup, versions 0..=5, flexible 4, LeaveGroupRequest => LeaveGroupResponse);

schema! {
    /// Who leaves.
    struct LeaveGroupRequest {
        group_id: String,
        member_id: String [..=2],
        members: Vec<MemberIdentity> [3..],
    }

    /// A member by its id or its instance id.
    struct MemberIdentity {
        member_id: String,
        group_instance_id: Option<String>,
        reason: Option<String> [5..],
    }

    /// What became of each.
    struct LeaveGroupResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode,
        members: Vec<MemberResponse> [3..],
    }

    /// One member.
    struct MemberResponse {
        member_id: String,
        group_instance_id: Option<String>,
        error_code: ErrorCode,
    }
}
