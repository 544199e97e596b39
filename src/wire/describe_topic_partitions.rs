//! Topics and partitions, page by page.

use super::{
    ErrorCode, Uuid,
    schema::{api, schema},
};

api!(
    DescribeTopicPartitions, versions 0..=0, flexible 0,
    DescribeTopicPartitionsRequest => DescribeTopicPartitionsResponse
);

schema! {
    /// Asks for topics from a cursor on.
    struct DescribeTopicPartitionsRequest {
        topics: Vec<TopicRequest>,
        response_partition_limit: i32 = 2000,
        cursor: Option<Cursor>,
    }

    /// A topic wanted.
    struct TopicRequest {
        name: String,
    }

    /// Where a page begins.
    struct Cursor {
        topic_name: String,
        partition_index: i32,
    }

    /// A page, and the cursor of the next.
    struct DescribeTopicPartitionsResponse {
        throttle_time_ms: i32,
        topics: Vec<DescribeTopicPartitionsResponseTopic>,
        next_cursor: Option<Cursor>,
    }

    /// One topic.
    struct DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode,
        name: Option<String>,
        topic_id: Uuid,
        is_internal: bool,
        partitions: Vec<DescribeTopicPartitionsResponsePartition>,
        topic_authorized_operations: i32 = -2147483648,
    }

    /// One partition.
    struct DescribeTopicPartitionsResponsePartition {
        error_code: ErrorCode,
        partition_index: i32,
        leader_id: i32,
        leader_epoch: i32 = -1,
        replica_nodes: Vec<i32>,
        isr_nodes: Vec<i32>,
        eligible_leader_replicas: Option<Vec<i32>>,
        last_known_elr: Option<Vec<i32>>,
        offline_replicas: Vec<i32>,
    }
}
