//! Moves of partitions between brokers that are under way.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(
    ListPartitionReassignments, versions 0..=0, flexible 0,
    ListPartitionReassignmentsRequest => ListPartitionReassignmentsResponse
);

schema! {
    /// Asks for topics or, with null, all.
    struct ListPartitionReassignmentsRequest {
        timeout_ms: i32 = 60000,
        topics: Option<Vec<ListPartitionReassignmentsTopics>>,
    }

    /// One topic.
    struct ListPartitionReassignmentsTopics {
        name: String,
        partition_indexes: Vec<i32>,
    }

    /// The moves.
    struct ListPartitionReassignmentsResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
        topics: Vec<OngoingTopicReassignment>,
    }

    /// One topic.
    struct OngoingTopicReassignment {
        name: String,
        partitions: Vec<OngoingPartitionReassignment>,
    }

    /// One partition.
    struct OngoingPartitionReassignment {
        partition_index: i32,
        replicas: Vec<i32>,
        adding_replicas: Vec<i32>,
        removing_replicas: Vec<i32>,
    }
}
