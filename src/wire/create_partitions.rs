//! Giving topics more partitions.
//!
//! The response names every topic of the request: clients look each up.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(CreatePartitions, versions 0..=3, flexible 2, CreatePartitionsRequest => CreatePartitionsResponse);

schema! {
    /// The new counts.
    struct CreatePartitionsRequest {
        topics: Vec<CreatePartitionsTopic>,
        timeout_ms: i32,
        validate_only: bool,
    }

    /// One topic.
    struct CreatePartitionsTopic {
        name: String,
        count: i32,
        assignments: Option<Vec<CreatePartitionsAssignment>>,
    }

    /// Which brokers shall hold one new partition.
    struct CreatePartitionsAssignment {
        broker_ids: Vec<i32>,
    }

    /// What became of each.
    struct CreatePartitionsResponse {
        throttle_time_ms: i32,
        results: Vec<CreatePartitionsTopicResult>,
    }

    /// One topic.
    struct CreatePartitionsTopicResult {
        name: String,
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}
