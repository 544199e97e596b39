//! AlterPartitionReassignments: v0.
//!
//! Behaviour
//! * A partition may be moved to where it is: this node. Cancelling finds nothing to cancel.

use super::{Close, Context, partition_of};
use crate::{
    log::Topic,
    wire::{
        ErrorCode,
        alter_partition_reassignments::{
            AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ReassignablePartition,
            ReassignablePartitionResponse, ReassignableTopicResponse,
        },
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: AlterPartitionReassignmentsRequest,
) -> Result<AlterPartitionReassignmentsResponse, Close> {
    let topics = context.topics();
    let responses = request.topics.into_iter().map(|asked| {
        let topic = topics.get(&asked.name).map(AsRef::as_ref);
        let partitions = asked.partitions.iter().map(|part| {
            let (error_code, message) = judge(context, topic, part);
            ReassignablePartitionResponse {
                partition_index: part.partition_index,
                error_code,
                error_message: message.map(str::to_owned),
            }
        });
        ReassignableTopicResponse { partitions: partitions.collect(), name: asked.name }
    });
    Ok(AlterPartitionReassignmentsResponse { responses: responses.collect(), ..Default::default() })
}

fn judge(
    context: &Context<'_>,
    topic: Option<&Topic>,
    asked: &ReassignablePartition,
) -> (ErrorCode, Option<&'static str>) {
    if topic.and_then(|topic| partition_of(topic, asked.partition_index)).is_none() {
        return (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, Some("no such partition"));
    }
    match &asked.replicas {
        None => (ErrorCode::NO_REASSIGNMENT_IN_PROGRESS, Some("nothing is being moved")),
        Some(replicas) if *replicas == [context.broker.node_id] => (ErrorCode::NONE, None),
        Some(_) => (ErrorCode::INVALID_REPLICA_ASSIGNMENT, Some("there is one broker")),
    }
}
