//! Entering a group, and its next generation.
//!
//! From version 4 a new member is first told its id (code 79) and joins again with it; from 5 it may be static, by
//! `group_instance_id`; from 9 `skip_assignment` tells the leader to leave the assignment as it is.

use bytes::Bytes;

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(JoinGroup, versions 0..=9, flexible 6, JoinGroupRequest => JoinGroupResponse);

schema! {
    /// Asks to be a member, naming the protocols it can.
    struct JoinGroupRequest {
        group_id: String,
        session_timeout_ms: i32,
        rebalance_timeout_ms: i32 [1..] = -1,
        member_id: String,
        group_instance_id: Option<String> [5..],
        protocol_type: String,
        protocols: Vec<JoinGroupRequestProtocol>,
        reason: Option<String> [8..],
    }

    /// A protocol (an assignor) and what it needs to know of the member.
    struct JoinGroupRequestProtocol {
        name: String,
        metadata: Bytes,
    }

    /// The generation; to its leader also the members.
    struct JoinGroupResponse {
        throttle_time_ms: i32 [2..],
        error_code: ErrorCode,
        generation_id: i32 = -1,
        protocol_type: Option<String> [7..],
        protocol_name: Option<String> [0..; null 7..],
        leader: String,
        skip_assignment: bool [9..],
        member_id: String,
        members: Vec<JoinGroupResponseMember>,
    }

    /// A member, for the leader to assign to.
    struct JoinGroupResponseMember {
        member_id: String,
        group_instance_id: Option<String> [5..],
        metadata: Bytes,
    }
}
