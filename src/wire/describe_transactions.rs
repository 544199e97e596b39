//! Transactions with their partitions.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(DescribeTransactions, versions 0..=0, flexible 0, DescribeTransactionsRequest => DescribeTransactionsResponse);

schema! {
    /// Asks by transactional id.
    struct DescribeTransactionsRequest {
        transactional_ids: Vec<String>,
    }

    /// The transactions.
    struct DescribeTransactionsResponse {
        throttle_time_ms: i32,
        transaction_states: Vec<TransactionState>,
    }

    /// One transaction.
    struct TransactionState {
        error_code: ErrorCode,
        transactional_id: String,
        transaction_state: String,
        transaction_timeout_ms: i32,
        transaction_start_time_ms: i64,
        producer_id: i64,
        producer_epoch: i16,
        topics: Vec<TopicData>,
    }

    /// The partitions in it, of one topic.
    struct TopicData {
        topic: String,
        partitions: Vec<i32>,
    }
}
