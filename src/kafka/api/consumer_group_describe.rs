//! ConsumerGroupDescribe: v0–1.
//!
//! Behaviour
//! * Groups of the consumer protocol with epochs, members, what each has and what it is meant to have. Others are
//!   GROUP_ID_NOT_FOUND: clients ask DescribeGroups for those.
//! * Partitions of a topic that is gone are left out.
//!
//! Version notes
//! * v1: by which protocol a member came; here always the consumer protocol.

use std::collections::BTreeSet;

use super::{
    Close, Context,
    describe_groups::{ALL_OPERATIONS, NO_OPERATIONS},
    group_error_code,
};
use crate::{
    groups::{ConsumerMemberDescription, Error, Share},
    log::Topics,
    wire::{
        ErrorCode,
        consumer_group_describe::{
            Assignment, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DescribedGroup, Member,
            TopicPartitions,
        },
    },
};

/// Kafka's number for a member that speaks the consumer protocol.
const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;

pub(super) async fn handle(
    context: &Context<'_>,
    request: ConsumerGroupDescribeRequest,
) -> Result<ConsumerGroupDescribeResponse, Close> {
    let authorized_operations = if request.include_authorized_operations { ALL_OPERATIONS } else { NO_OPERATIONS };
    let topics = context.topics();
    // One answer however often a group is named: a request of 1 MiB must not ask for gigabytes.
    let mut seen = BTreeSet::new();
    let groups = request.group_ids.into_iter().filter(|group_id| seen.insert(group_id.clone())).map(|group_id| {
        let found = match context.broker.groups.describe_consumer(&group_id) {
            Ok(found) => found,
            Err(error) => {
                let error_message = match error {
                    Error::NotFound => format!("Group {group_id} not found."),
                    Error::NotConsumer => format!("Group {group_id} is not a consumer group."),
                    ref other => other.to_string(),
                };
                let error_code = match error {
                    Error::NotFound => ErrorCode::GROUP_ID_NOT_FOUND,
                    ref other => group_error_code(other),
                };
                return DescribedGroup { error_code, error_message: Some(error_message), group_id, ..Default::default() };
            }
        };
        DescribedGroup {
            group_id,
            group_state: found.state.to_owned(),
            group_epoch: found.epoch,
            assignment_epoch: found.target_epoch,
            assignor_name: found.assignor.to_owned(),
            members: found.members.into_iter().map(|m| member(m, &topics)).collect(),
            authorized_operations,
            ..Default::default()
        }
    });
    Ok(ConsumerGroupDescribeResponse { groups: groups.collect(), ..Default::default() })
}

fn member(m: ConsumerMemberDescription, topics: &Topics) -> Member {
    Member {
        member_id: m.member_id.to_string(),
        instance_id: m.instance_id.map(|id| id.to_string()),
        rack_id: m.rack_id.map(|id| id.to_string()),
        member_epoch: m.epoch,
        client_id: m.client_id.to_string(),
        client_host: m.client_host.to_string(),
        subscribed_topic_names: m.topic_names.iter().map(ToString::to_string).collect(),
        subscribed_topic_regex: m.topic_pattern.map(|pattern| pattern.to_string()),
        assignment: assignment(m.assigned, topics),
        target_assignment: assignment(m.target, topics),
        member_type: if m.is_classic { CLASSIC_MEMBER } else { CONSUMER_MEMBER },
    }
}

fn assignment(share: Share, topics: &Topics) -> Assignment {
    let named = share.into_iter().filter_map(|(topic_id, partitions)| {
        let topic_name = topics.by_id(topic_id)?.name.to_string();
        Some(TopicPartitions { topic_id, topic_name, partitions })
    });
    Assignment { topic_partitions: named.collect() }
}
