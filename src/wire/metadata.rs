//! Brokers, topics, partitions and their leaders.
//!
//! All topics: an empty list in version 0, null from version 1. From version 10 a topic may be named by id alone;
//! from 11 the operations on the cluster are asked with DescribeCluster instead.

use super::{
    ErrorCode, Uuid,
    schema::{api, schema},
};

api!(Metadata, versions 0..=13, flexible 9, MetadataRequest => MetadataResponse);

schema! {
    /// Asks for topics; creates missing ones where allowed.
    struct MetadataRequest {
        topics: Option<Vec<MetadataRequestTopic>> [0..; null 1..],
        allow_auto_topic_creation: bool [4..] = true,
        include_cluster_authorized_operations: bool [8..=10],
        include_topic_authorized_operations: bool [8..],
    }

    /// A topic by name or, with no name, by id.
    struct MetadataRequestTopic {
        topic_id: Uuid [10..],
        name: Option<String> [0..; null 10..],
    }

    /// Brokers and topics.
    struct MetadataResponse {
        throttle_time_ms: i32 [3..],
        brokers: Vec<MetadataResponseBroker>,
        cluster_id: Option<String> [2..],
        controller_id: i32 [1..] = -1,
        topics: Vec<MetadataResponseTopic>,
        cluster_authorized_operations: i32 [8..=10] = -2147483648,
        error_code: ErrorCode [13..],
    }

    /// One broker.
    struct MetadataResponseBroker {
        node_id: i32,
        host: String,
        port: i32,
        rack: Option<String> [1..],
    }

    /// One topic.
    struct MetadataResponseTopic {
        error_code: ErrorCode,
        name: Option<String> [0..; null 12..],
        topic_id: Uuid [10..],
        is_internal: bool [1..],
        partitions: Vec<MetadataResponsePartition>,
        topic_authorized_operations: i32 [8..] = -2147483648,
    }

    /// One partition.
    struct MetadataResponsePartition {
        error_code: ErrorCode,
        partition_index: i32,
        leader_id: i32,
        leader_epoch: i32 [7..] = -1,
        replica_nodes: Vec<i32>,
        isr_nodes: Vec<i32>,
        offline_replicas: Vec<i32> [5..],
    }
}
