//! AddPartitionsToTxn: v0–5.
//!
//! Behaviour
//! * All partitions of a transaction are added or none: where one does not exist, the others get
//!   OPERATION_NOT_ATTEMPTED. Durable before the answer.
//!
//! Version notes
//! * v2: PRODUCER_FENCED, INVALID_PRODUCER_EPOCH before.
//! * v4: a list of transactions, and `verify_only`: what brokers ask each other. Clients stay at v3, and those of the
//!   second version of transactions do not ask at all. v5: TRANSACTION_ABORTABLE, INVALID_TXN_STATE before.

use super::{Close, Context, partition_of, txn_error_code};
use crate::{
    record::Partition,
    txn::{Error, Identity},
    wire::{
        ErrorCode,
        add_partitions_to_txn::{
            AddPartitionsToTxnPartitionResult, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
            AddPartitionsToTxnResult, AddPartitionsToTxnTopic, AddPartitionsToTxnTopicResult,
        },
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: AddPartitionsToTxnRequest,
) -> Result<AddPartitionsToTxnResponse, Close> {
    if context.version <= 3 {
        let id = request.v3_and_below_transactional_id;
        let who =
            Identity { id: request.v3_and_below_producer_id, epoch: request.v3_and_below_producer_epoch };
        let results_by_topic_v3_and_below = add(context, &id, who, request.v3_and_below_topics, false).await;
        return Ok(AddPartitionsToTxnResponse { results_by_topic_v3_and_below, ..Default::default() });
    }
    let mut results_by_transaction = Vec::with_capacity(request.transactions.len());
    for asked in request.transactions {
        let who = Identity { id: asked.producer_id, epoch: asked.producer_epoch };
        let topic_results = add(context, &asked.transactional_id, who, asked.topics, asked.verify_only).await;
        results_by_transaction
            .push(AddPartitionsToTxnResult { transactional_id: asked.transactional_id, topic_results });
    }
    Ok(AddPartitionsToTxnResponse { results_by_transaction, ..Default::default() })
}

async fn add(
    context: &Context<'_>,
    id: &str,
    who: Identity,
    asked: Vec<AddPartitionsToTxnTopic>,
    is_only_verified: bool,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let topics = context.topics();
    let mut found: Vec<Option<Partition>> = Vec::new();
    for topic in &asked {
        let known = topics.get(&topic.name);
        found.extend(topic.partitions.iter().map(|index| partition_of(known?, *index)));
    }
    let code = |error: &Error| match error {
        Error::NotInTransaction if context.version >= 5 => ErrorCode::TRANSACTION_ABORTABLE,
        error => txn_error_code(error, context.version >= 2),
    };
    let txns = &context.broker.txns;
    let mut codes = Vec::with_capacity(found.len());
    if is_only_verified {
        for partition in &found {
            codes.push(match partition {
                None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                Some(partition) => match txns.verify(id, who, partition).await {
                    Ok(()) => ErrorCode::NONE,
                    Err(error) => code(&error),
                },
            });
        }
    } else if found.iter().any(Option::is_none) {
        codes.extend(found.iter().map(|partition| match partition {
            None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            Some(_) => ErrorCode::OPERATION_NOT_ATTEMPTED,
        }));
    } else {
        let count = found.len();
        let added = txns.add_partitions(id, who, found.into_iter().flatten().collect()).await;
        codes.resize(count, added.map_or_else(|error| code(&error), |()| ErrorCode::NONE));
    }
    let mut codes = codes.into_iter();
    let result = |topic: AddPartitionsToTxnTopic| AddPartitionsToTxnTopicResult {
        name: topic.name,
        results_by_partition: topic
            .partitions
            .into_iter()
            .zip(&mut codes)
            .map(|(partition_index, partition_error_code)| AddPartitionsToTxnPartitionResult {
                partition_index,
                partition_error_code,
            })
            .collect(),
    };
    asked.into_iter().map(result).collect()
}
