//! ConsumerGroupHeartbeat: v0–1.
//!
//! Behaviour
//! * All of a member's life in a group of the consumer protocol (KIP-848): epoch 0 joins, -1 leaves, -2 leaves for a while
//!   as a static member, any other stays. The state machine is `groups/consumer.rs`; nothing is ever parked.
//! * The answer has the member's partitions where they changed or the request was full.
//! * An empty classic group turns to this protocol, and so does one whose members are consumers, which stay in it
//!   (`groups/consumer/classic.rs`). Any other, or where `group.consumer.migration.policy` forbids it, is GROUP_ID_NOT_FOUND.
//! * Refusals have Kafka's codes: FENCED_MEMBER_EPOCH and UNKNOWN_MEMBER_ID make a client give everything up and join anew.
//!
//! Version notes
//! * v0: the broker makes the member id. v1: the client does, and topics may be given by a pattern.

use std::collections::BTreeSet;

use super::{Close, Context, group_error_code};
use crate::{
    groups::{Error, Heard, Heartbeat, fresh_consumer_id},
    wire::{
        Uuid,
        consumer_group_heartbeat::{
            Assignment, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicPartitions,
        },
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: ConsumerGroupHeartbeatRequest,
) -> Result<ConsumerGroupHeartbeatResponse, Close> {
    let makes_id = context.version == 0 && request.member_epoch == 0 && request.member_id.is_empty();
    let owned = request.topic_partitions.map(|topics| {
        let pairs = |t: TopicPartitions| t.partitions.into_iter().map(move |index| (t.topic_id, index));
        topics.into_iter().flat_map(pairs).collect()
    });
    let heartbeat = Heartbeat {
        member_id: if makes_id { fresh_consumer_id() } else { request.member_id },
        epoch: request.member_epoch,
        instance_id: request.instance_id.map(Into::into),
        rack_id: request.rack_id.map(Into::into),
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        topic_names: request.subscribed_topic_names,
        topic_pattern: request.subscribed_topic_regex,
        assignor: request.server_assignor,
        owned,
        client_id: context.client_id.as_str().into(),
        client_host: context.client_host().into(),
    };
    Ok(match context.broker.groups.consumer_heartbeat(&request.group_id, &heartbeat) {
        Ok(heard) => answer(heard),
        Err(error) => ConsumerGroupHeartbeatResponse {
            error_code: group_error_code(&error),
            error_message: Some(match error {
                Error::NotConsumer if heartbeat.epoch == 0 => {
                    let group = &request.group_id;
                    format!("Cannot upgrade classic group {group} to consumer group because online upgrade is disabled.")
                }
                Error::NotConsumer => format!("Group {} is not a consumer group.", request.group_id),
                other => other.to_string(),
            }),
            ..Default::default()
        },
    })
}

fn answer(heard: Heard) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse {
        member_id: Some(heard.member_id.to_string()),
        member_epoch: heard.epoch,
        heartbeat_interval_ms: heard.interval_ms,
        assignment: heard.assigned.map(|all| Assignment { topic_partitions: by_topic(&all) }),
        ..Default::default()
    }
}

fn by_topic(partitions: &BTreeSet<(Uuid, i32)>) -> Vec<TopicPartitions> {
    let mut topics: Vec<TopicPartitions> = Vec::new();
    for (topic_id, index) in partitions {
        match topics.last_mut().filter(|last| last.topic_id == *topic_id) {
            Some(last) => last.partitions.push(*index),
            None => topics.push(TopicPartitions { topic_id: *topic_id, partitions: vec![*index] }),
        }
    }
    topics
}
