//! ListTransactions: v0–2.
//!
//! Behaviour
//! * All transactional ids that pass the filters; an empty filter lets all pass. A state that Kafka does not have is
//!   named in the answer.
//!
//! Version notes
//! * v1: only those that did not begin within so long; as in Kafka also those that have ended, or have not begun any. v2: only ids that a pattern matches as a whole.

use regex_lite::Regex;

use super::{Close, Context};
use crate::wire::{
    ErrorCode,
    list_transactions::{ListTransactionsRequest, ListTransactionsResponse, TransactionState},
};

/// Kafka's; those that are never seen here are not unknown for that.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

pub(super) async fn handle(
    context: &Context<'_>,
    request: ListTransactionsRequest,
) -> Result<ListTransactionsResponse, Close> {
    let pattern = match request.transactional_id_pattern.filter(|p| !p.is_empty()).map(|p| whole(&p)) {
        Some(Err(_)) => {
            let error_code = ErrorCode::INVALID_REGULAR_EXPRESSION;
            return Ok(ListTransactionsResponse { error_code, ..Default::default() });
        }
        Some(Ok(pattern)) => Some(pattern),
        None => None,
    };
    let (states, unknown_state_filters): (Vec<_>, Vec<_>) =
        request.state_filters.into_iter().partition(|state| STATES.contains(&&**state));
    let has_state_filter = !states.is_empty() || !unknown_state_filters.is_empty();
    let least_ms = u64::try_from(request.duration_filter).ok();
    let mut found = context.broker.txns.list().await;
    found.retain(|txn| {
        (!has_state_filter || states.iter().any(|state| state == txn.state.name()))
            && (request.producer_id_filters.is_empty() || request.producer_id_filters.contains(&txn.owner.id))
            && least_ms.is_none_or(|least| txn.began_ago_ms.is_none_or(|ago| ago > least))
            && pattern.as_ref().is_none_or(|pattern| pattern.is_match(&txn.id))
    });
    let shown = found.into_iter().map(|txn| TransactionState {
        transactional_id: txn.id.to_string(),
        producer_id: txn.owner.id,
        transaction_state: txn.state.name().into(),
    });
    Ok(ListTransactionsResponse { unknown_state_filters, transaction_states: shown.collect(), ..Default::default() })
}

fn whole(pattern: &str) -> Result<Regex, regex_lite::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}
