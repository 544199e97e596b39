//! The transactions there are.
//!
//! From version 1 only those running longer than a duration; from 2 by a pattern of their ids.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(ListTransactions, versions 0..=2, flexible 0, ListTransactionsRequest => ListTransactionsResponse);

schema! {
    /// Asks, by filters that let all pass when empty.
    struct ListTransactionsRequest {
        state_filters: Vec<String>,
        producer_id_filters: Vec<i64>,
        duration_filter: i64 [1..] = -1,
        transactional_id_pattern: Option<String> [2..],
    }

    /// The transactions.
    struct ListTransactionsResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        unknown_state_filters: Vec<String>,
        transaction_states: Vec<TransactionState>,
    }

    /// One transaction.
    struct TransactionState {
        transactional_id: String,
        producer_id: i64,
        transaction_state: String,
    }
}
