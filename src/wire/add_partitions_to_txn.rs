//! Taking partitions into a transaction.
//!
//! One transaction up to version 3, which is what clients send; a list of them from version 4, which is what brokers
//! send each other.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(AddPartitionsToTxn, versions 0..=5, flexible 3, AddPartitionsToTxnRequest => AddPartitionsToTxnResponse);

schema! {
    /// The partitions.
    struct AddPartitionsToTxnRequest {
        transactions: Vec<AddPartitionsToTxnTransaction> [4..],
        v3_and_below_transactional_id: String [..=3],
        v3_and_below_producer_id: i64 [..=3],
        v3_and_below_producer_epoch: i16 [..=3],
        v3_and_below_topics: Vec<AddPartitionsToTxnTopic> [..=3],
    }

    /// One transaction.
    struct AddPartitionsToTxnTransaction {
        transactional_id: String,
        producer_id: i64,
        producer_epoch: i16,
        verify_only: bool,
        topics: Vec<AddPartitionsToTxnTopic>,
    }

    /// One topic.
    struct AddPartitionsToTxnTopic {
        name: String,
        partitions: Vec<i32>,
    }

    /// What became of each.
    struct AddPartitionsToTxnResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode [4..],
        results_by_transaction: Vec<AddPartitionsToTxnResult> [4..],
        results_by_topic_v3_and_below: Vec<AddPartitionsToTxnTopicResult> [..=3],
    }

    /// One transaction.
    struct AddPartitionsToTxnResult {
        transactional_id: String,
        topic_results: Vec<AddPartitionsToTxnTopicResult>,
    }

    /// One topic.
    struct AddPartitionsToTxnTopicResult {
        name: String,
        results_by_partition: Vec<AddPartitionsToTxnPartitionResult>,
    }

    /// One partition.
    struct AddPartitionsToTxnPartitionResult {
        partition_index: i32,
        partition_error_code: ErrorCode,
    }
}
