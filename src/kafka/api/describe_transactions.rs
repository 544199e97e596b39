//! DescribeTransactions: v0.
//!
//! Behaviour
//! * One answer for each id; TRANSACTIONAL_ID_NOT_FOUND for one that no producer has used.

use std::collections::BTreeMap;

use super::{Close, Context, txn_error_code};
use crate::{
    txn::Description,
    wire::{
        ErrorCode,
        describe_transactions::{
            DescribeTransactionsRequest, DescribeTransactionsResponse, TopicData, TransactionState,
        },
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: DescribeTransactionsRequest,
) -> Result<DescribeTransactionsResponse, Close> {
    let mut transaction_states = Vec::with_capacity(request.transactional_ids.len().min(16));
    for transactional_id in request.transactional_ids {
        let failed = |error_code| TransactionState {
            transaction_start_time_ms: -1,
            producer_id: -1,
            producer_epoch: -1,
            error_code,
            ..Default::default()
        };
        let state = match context.broker.txns.describe(&transactional_id).await {
            Ok(Some(description)) => shown(description),
            Ok(None) => failed(ErrorCode::TRANSACTIONAL_ID_NOT_FOUND),
            Err(error) => failed(txn_error_code(&error, true)),
        };
        transaction_states.push(TransactionState { transactional_id, ..state });
    }
    Ok(DescribeTransactionsResponse { transaction_states, ..Default::default() })
}

fn shown(description: Description) -> TransactionState {
    let mut topics: BTreeMap<_, Vec<i32>> = BTreeMap::new();
    for partition in description.partitions {
        topics.entry(partition.topic).or_default().push(partition.index);
    }
    let topics = topics.into_iter().map(|(name, partitions)| TopicData { topic: name.to_string(), partitions });
    TransactionState {
        transaction_state: description.state.name().into(),
        transaction_timeout_ms: description.timeout_ms,
        transaction_start_time_ms: description.began_ms,
        producer_id: description.owner.id,
        producer_epoch: description.owner.epoch,
        topics: topics.collect(),
        ..Default::default()
    }
}
