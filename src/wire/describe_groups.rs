//! Groups with their members.
//!
//! An unknown group is `Dead` without an error up to version 5, code 69 from version 6.

use bytes::Bytes;

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(DescribeGroups, versions 0..=6, flexible 5, DescribeGroupsRequest => DescribeGroupsResponse);

schema! {
    /// Asks for groups.
    struct DescribeGroupsRequest {
        groups: Vec<String>,
        include_authorized_operations: bool [3..],
    }

    /// The groups.
    struct DescribeGroupsResponse {
        throttle_time_ms: i32 [1..],
        groups: Vec<DescribedGroup>,
    }

    /// One group.
    struct DescribedGroup {
        error_code: ErrorCode,
        error_message: Option<String> [6..],
        group_id: String,
        group_state: String,
        protocol_type: String,
        protocol_data: String,
        members: Vec<DescribedGroupMember>,
        authorized_operations: i32 [3..] = -2147483648,
    }

    /// One member; metadata and assignment are its protocol's.
    struct DescribedGroupMember {
        member_id: String,
        group_instance_id: Option<String> [4..],
        client_id: String,
        client_host: String,
        member_metadata: Bytes,
        member_assignment: Bytes,
    }
}
