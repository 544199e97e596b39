//! DescribeTopicPartitions: v0.
//!
//! Behaviour
//! * Topics in the order of their names, from the cursor on, up to the client's limit of partitions and the broker's;
//!   where there is more, the answer ends with the cursor to come back with. No topics named means all.

use super::{
    Close, Context, LEADER_EPOCH,
    metadata::{TOPIC_OPERATIONS, check_name, is_internal},
};
use crate::wire::{
    ErrorCode,
    describe_topic_partitions::{
        Cursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
        DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: DescribeTopicPartitionsRequest,
) -> Result<DescribeTopicPartitionsResponse, Close> {
    let topics = context.topics();
    let asks_all = request.topics.is_empty();
    let mut names: Vec<String> = match asks_all {
        true => topics.by_name.keys().map(|name| name.to_string()).collect(),
        false => request.topics.into_iter().map(|topic| topic.name).collect(),
    };
    names.sort();
    names.dedup();
    let (from_name, from_index) = match request.cursor {
        Some(cursor) => (cursor.topic_name, cursor.partition_index.max(0)),
        None => (String::new(), 0),
    };
    let own_limit = i32::try_from(context.broker.settings.broker_number("max.request.partition.size.limit"));
    let mut room = request.response_partition_limit.clamp(1, own_limit.unwrap_or(1).max(1));

    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names.into_iter().filter(|name| *name >= from_name) {
        if room == 0 {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: 0 });
            break;
        }
        let Some(topic) = topics.get(&name) else {
            let error_code = match check_name(&name) {
                Ok(()) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                Err(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
            };
            response.topics.push(DescribeTopicPartitionsResponseTopic {
                error_code,
                name: Some(name),
                ..Default::default()
            });
            continue;
        };
        let first = if name == from_name { from_index } else { 0 };
        let end = topic.partitions.min(first.saturating_add(room));
        room -= (end - first).max(0);
        response.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(name.clone()),
            topic_id: topic.id,
            is_internal: is_internal(&name),
            partitions: (first..end).map(|index| partition(context.broker.node_id, index)).collect(),
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..Default::default()
        });
        if end < topic.partitions {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: end });
            break;
        }
    }
    Ok(response)
}

fn partition(node_id: i32, partition_index: i32) -> DescribeTopicPartitionsResponsePartition {
    DescribeTopicPartitionsResponsePartition {
        partition_index,
        leader_id: node_id,
        leader_epoch: LEADER_EPOCH,
        replica_nodes: vec![node_id],
        isr_nodes: vec![node_id],
        eligible_leader_replicas: Some(Vec::new()),
        last_known_elr: Some(Vec::new()),
        ..Default::default()
    }
}
