//! Electing leaders.
//!
//! Null partitions mean all; from version 1 the election may be unclean.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(ElectLeaders, versions 0..=2, flexible 2, ElectLeadersRequest => ElectLeadersResponse);

schema! {
    /// The partitions.
    struct ElectLeadersRequest {
        election_type: i8 [1..],
        topic_partitions: Option<Vec<TopicPartitions>>,
        timeout_ms: i32 = 60000,
    }

    /// One topic.
    struct TopicPartitions {
        topic: String,
        partitions: Vec<i32>,
    }

    /// What became of each.
    struct ElectLeadersResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode [1..],
        replica_election_results: Vec<ReplicaElectionResult>,
    }

    /// One topic.
    struct ReplicaElectionResult {
        topic: String,
        partition_result: Vec<PartitionResult>,
    }

    /// One partition.
    struct PartitionResult {
        partition_id: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}
