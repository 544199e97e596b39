//! Making topics.
//!
//! From version 4 a partition count and replication factor of -1 mean the broker's defaults; from 5 the response
//! holds the topic's settings, from 7 its id.

use super::{
    ErrorCode, Uuid,
    schema::{api, schema},
};

api!(CreateTopics, versions 2..=7, flexible 5, CreateTopicsRequest => CreateTopicsResponse);

schema! {
    /// The topics wanted.
    struct CreateTopicsRequest {
        topics: Vec<CreatableTopic>,
        timeout_ms: i32 = 60000,
        validate_only: bool,
    }

    /// A topic to make.
    struct CreatableTopic {
        name: String,
        num_partitions: i32,
        replication_factor: i16,
        assignments: Vec<CreatableReplicaAssignment>,
        configs: Vec<CreatableTopicConfig>,
    }

    /// Which brokers shall hold one partition.
    struct CreatableReplicaAssignment {
        partition_index: i32,
        broker_ids: Vec<i32>,
    }

    /// A setting of the topic.
    struct CreatableTopicConfig {
        name: String,
        value: Option<String>,
    }

    /// What became of each.
    struct CreateTopicsResponse {
        throttle_time_ms: i32,
        topics: Vec<CreatableTopicResult>,
    }

    /// One topic.
    struct CreatableTopicResult {
        name: String,
        topic_id: Uuid [7..],
        error_code: ErrorCode,
        error_message: Option<String>,
        topic_config_error_code: ErrorCode [5..; tag 0],
        num_partitions: i32 [5..] = -1,
        replication_factor: i16 [5..] = -1,
        configs: Option<Vec<CreatableTopicConfigs>> [5..],
    }

    /// A setting the topic got.
    struct CreatableTopicConfigs {
        name: String,
        value: Option<String>,
        read_only: bool,
        config_source: i8 = -1,
        is_sensitive: bool,
    }
}
