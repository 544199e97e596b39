//! DescribeQuorum: v0–2.
//!
//! Behaviour
//! * The quorum is this node alone, voter and leader at once. Topics and settings lie in the log like the records, so
//!   there is no log of metadata with offsets of its own: they read as 0. Any partition but `__cluster_metadata`-0 is
//!   UNKNOWN_TOPIC_OR_PARTITION, as on a controller.
//!
//! Version notes
//! * v1: times, the present for the leader. v2: directories and nodes; no node is named, because no listener speaks to
//!   controllers.

use super::{Close, Context, LEADER_EPOCH};
use crate::wire::{
    ErrorCode,
    describe_quorum::{
        DescribeQuorumRequest, DescribeQuorumResponse, PartitionResponse, ReplicaState, TopicResponse,
    },
};

const METADATA_TOPIC: &str = "__cluster_metadata";

pub(super) async fn handle(
    context: &Context<'_>,
    request: DescribeQuorumRequest,
) -> Result<DescribeQuorumResponse, Close> {
    let topics = request.topics.into_iter().map(|asked| {
        let is_known = |index| asked.topic_name == METADATA_TOPIC && index == 0;
        let partitions = asked.partitions.iter().map(|p| match is_known(p.partition_index) {
            true => quorum(context),
            false => PartitionResponse {
                partition_index: p.partition_index,
                error_code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                error_message: Some(format!("only partition 0 of {METADATA_TOPIC} has a quorum")),
                ..Default::default()
            },
        });
        TopicResponse { partitions: partitions.collect(), topic_name: asked.topic_name }
    });
    Ok(DescribeQuorumResponse { topics: topics.collect(), ..Default::default() })
}

fn quorum(context: &Context<'_>) -> PartitionResponse {
    let now_ms = (context.broker.clock)();
    PartitionResponse {
        leader_id: context.broker.node_id,
        leader_epoch: LEADER_EPOCH,
        current_voters: vec![ReplicaState {
            replica_id: context.broker.node_id,
            last_fetch_timestamp: now_ms,
            last_caught_up_timestamp: now_ms,
            ..Default::default()
        }],
        ..Default::default()
    }
}
