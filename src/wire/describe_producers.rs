//! The producers whose state a partition holds.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(DescribeProducers, versions 0..=0, flexible 0, DescribeProducersRequest => DescribeProducersResponse);

schema! {
    /// Asks for partitions.
    struct DescribeProducersRequest {
        topics: Vec<TopicRequest>,
    }

    /// One topic.
    struct TopicRequest {
        name: String,
        partition_indexes: Vec<i32>,
    }

    /// Their producers.
    struct DescribeProducersResponse {
        throttle_time_ms: i32,
        topics: Vec<TopicResponse>,
    }

    /// One topic.
    struct TopicResponse {
        name: String,
        partitions: Vec<PartitionResponse>,
    }

    /// One partition.
    struct PartitionResponse {
        partition_index: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
        active_producers: Vec<ProducerState>,
    }

    /// One producer.
    struct ProducerState {
        producer_id: i64,
        producer_epoch: i32,
        last_sequence: i32 = -1,
        last_timestamp: i64 = -1,
        coordinator_epoch: i32,
        current_txn_start_offset: i64 = -1,
    }
}
