//! DescribeGroups: v0–6.
//!
//! Behaviour
//! * State, protocol and members; metadata and assignments only while the group is `Stable`, as from Kafka.
//! * A group of the consumer protocol is not found here: clients ask ConsumerGroupDescribe first, and this for the rest.
//! * A group that only has committed offsets, such as a stream's, is `Empty`.
//!
//! Version notes
//! * v3: authorized operations: all that a group has, while there are no ACLs. v4: instance ids.
//! * v6: an unknown group is GROUP_ID_NOT_FOUND with a message; before it is `Dead` without an error.

use std::collections::BTreeSet;

use super::{Close, Context, group_error_code};
use crate::{
    groups::{Description, Error, MemberDescription, State},
    wire::{
        ErrorCode,
        describe_groups::{DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember},
    },
};

/// Kafka's bits for READ, DELETE and DESCRIBE.
pub(super) const ALL_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8;
/// Kafka's word for "was not asked".
pub(super) const NO_OPERATIONS: i32 = i32::MIN;

pub(super) async fn handle(
    context: &Context<'_>,
    request: DescribeGroupsRequest,
) -> Result<DescribeGroupsResponse, Close> {
    let authorized_operations = if request.include_authorized_operations { ALL_OPERATIONS } else { NO_OPERATIONS };
    // One answer however often a group is named: a request of 1 MiB must not ask for gigabytes.
    let mut seen = BTreeSet::new();
    let groups = request.groups.into_iter().filter(|group_id| seen.insert(group_id.clone())).map(|group_id| {
        let described = if group_id.is_empty() { Err(Error::InvalidGroupId) } else { context.broker.groups.describe(&group_id) };
        let (error_code, error_message, description) = match described {
            Ok(Some(description)) => (ErrorCode::NONE, None, description),
            Ok(None) if context.version < 6 => (ErrorCode::NONE, None, nothing()),
            Ok(None) if context.broker.groups.is_consumer(&group_id) => {
                let message = format!("Group {group_id} is not a classic group.");
                (ErrorCode::GROUP_ID_NOT_FOUND, Some(message), nothing())
            }
            Ok(None) => (ErrorCode::GROUP_ID_NOT_FOUND, Some(format!("Group {group_id} not found.")), nothing()),
            Err(error) => (group_error_code(&error), Some(error.to_string()), nothing()),
        };
        DescribedGroup {
            error_code,
            error_message,
            group_id,
            group_state: description.state.name().to_owned(),
            protocol_type: description.protocol_type.to_string(),
            protocol_data: description.protocol.to_string(),
            members: description.members.into_iter().map(member).collect(),
            authorized_operations,
        }
    });
    Ok(DescribeGroupsResponse { groups: groups.collect(), ..Default::default() })
}

fn nothing() -> Description {
    Description { state: State::Dead, protocol_type: "".into(), protocol: "".into(), members: Vec::new() }
}

fn member(m: MemberDescription) -> DescribedGroupMember {
    DescribedGroupMember {
        member_id: m.member_id.to_string(),
        group_instance_id: m.instance_id.map(|id| id.to_string()),
        client_id: m.client_id.to_string(),
        client_host: m.client_host.to_string(),
        member_metadata: m.metadata,
        member_assignment: m.assignment,
    }
}
