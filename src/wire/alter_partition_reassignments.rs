//! Moving partitions between brokers.
//!
//! Null replicas cancel a move.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(
    AlterPartitionReassignments, versions 0..=0, flexible 0,
    AlterPartitionReassignmentsRequest => AlterPartitionReassignmentsResponse
);

schema! {
    /// The moves.
    struct AlterPartitionReassignmentsRequest {
        timeout_ms: i32 = 60000,
        topics: Vec<ReassignableTopic>,
    }

    /// One topic.
    struct ReassignableTopic {
        name: String,
        partitions: Vec<ReassignablePartition>,
    }

    /// One partition.
    struct ReassignablePartition {
        partition_index: i32,
        replicas: Option<Vec<i32>>,
    }

    /// What became of each.
    struct AlterPartitionReassignmentsResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
        responses: Vec<ReassignableTopicResponse>,
    }

    /// One topic.
    struct ReassignableTopicResponse {
        name: String,
        partitions: Vec<ReassignablePartitionResponse>,
    }

    /// One partition.
    struct ReassignablePartitionResponse {
        partition_index: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}
