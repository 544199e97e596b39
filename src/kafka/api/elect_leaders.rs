//! ElectLeaders: v0–2.
//!
//! Behaviour
//! * Every partition has its one leader: ELECTION_NOT_NEEDED for those named; asked for all, there is none to report.
//!
//! Version notes
//! * v1: unclean elections, no different. v2: flexible.

use super::{Close, Context, partition_of};
use crate::wire::{
    ErrorCode,
    elect_leaders::{ElectLeadersRequest, ElectLeadersResponse, PartitionResult, ReplicaElectionResult},
};

pub(super) async fn handle(context: &Context<'_>, request: ElectLeadersRequest) -> Result<ElectLeadersResponse, Close> {
    let topics = context.topics();
    let results = request.topic_partitions.unwrap_or_default().into_iter().map(|asked| {
        let topic = topics.get(&asked.topic);
        let results = asked.partitions.iter().map(|index| {
            let is_known = topic.is_some_and(|topic| partition_of(topic, *index).is_some());
            let (error_code, message) = match (is_known, topic) {
                (true, _) => (ErrorCode::ELECTION_NOT_NEEDED, "the partition has its leader".to_owned()),
                (_, Some(_)) => (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "no such partition".to_owned()),
                (_, None) => (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("No such topic as {}", asked.topic)),
            };
            PartitionResult { partition_id: *index, error_code, error_message: Some(message) }
        });
        ReplicaElectionResult { partition_result: results.collect(), topic: asked.topic }
    });
    Ok(ElectLeadersResponse { replica_election_results: results.collect(), ..Default::default() })
}
