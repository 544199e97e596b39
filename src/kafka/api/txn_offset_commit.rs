//! TxnOffsetCommit: v0–5.
//!
//! Behaviour
//! * Positions are durable before the answer and seen when the transaction commits; until then OffsetFetch answers
//!   UNSTABLE_OFFSET_COMMIT to who asks for stable ones.
//!
//! Version notes
//! * v3: member and generation (KIP-447): a member of a past generation is refused.
//! * v4: TRANSACTION_ABORTABLE for a group that is not part of the transaction, INVALID_TXN_STATE before.
//! * v5: the group becomes part of the transaction by this (KIP-890).

use std::sync::Arc;

use super::{Close, Context, group_error_code, txn_error_code};
use crate::{
    groups::{Commit, Error as GroupError, Position},
    record::Partition,
    txn::{Error, Flow, Identity},
    wire::{
        ErrorCode,
        txn_offset_commit::{
            TxnOffsetCommitRequest, TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition,
            TxnOffsetCommitResponseTopic,
        },
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: TxnOffsetCommitRequest,
) -> Result<TxnOffsetCommitResponse, Close> {
    let who = Identity { id: request.producer_id, epoch: request.producer_epoch };
    let mut positions = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len().min(16));
    for topic in request.topics {
        let name: Arc<str> = topic.name.as_str().into();
        let mut partitions = Vec::new();
        for p in topic.partitions {
            partitions
                .push(TxnOffsetCommitResponsePartition { partition_index: p.partition_index, ..Default::default() });
            positions.push(Position {
                partition: Partition { topic: Arc::clone(&name), index: p.partition_index },
                offset: p.committed_offset,
                leader_epoch: p.committed_leader_epoch,
                metadata: p.committed_metadata.unwrap_or_default(),
            });
        }
        topics.push(TxnOffsetCommitResponseTopic { name: topic.name, partitions });
    }
    let commit = Commit {
        member_id: request.member_id,
        instance_id: request.group_instance_id.map(Into::into),
        generation: request.generation_id,
        // Kafka asks no version of those who commit in a transaction.
        knows_epochs: true,
        positions,
    };
    let (mut answers, mut refusal) = (Vec::new(), ErrorCode::NONE);
    match context.broker.groups.check_transactional(&request.group_id, commit) {
        // As Kafka: a generation of a group that is not there.
        Err(GroupError::NotFound) => refusal = ErrorCode::ILLEGAL_GENERATION,
        // The request knows no member epochs.
        Err(GroupError::StaleEpoch { .. }) => refusal = ErrorCode::ILLEGAL_GENERATION,
        Err(error) => refusal = group_error_code(&error),
        Ok((checked, positions)) => {
            let flow = if context.version >= 5 { Flow::Second } else { Flow::First };
            let id = &request.transactional_id;
            match context.broker.txns.stage(id, who, &request.group_id, positions, flow).await {
                Ok(()) => answers = checked,
                Err(Error::NotInTransaction) if context.version >= 4 => refusal = ErrorCode::TRANSACTION_ABORTABLE,
                Err(error) => refusal = txn_error_code(&error, false),
            }
        }
    }
    let mut answers = answers.into_iter();
    for partition in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        partition.error_code = match answers.next() {
            Some(answer) => answer.map_or_else(|error| group_error_code(&error), |()| ErrorCode::NONE),
            None => refusal,
        };
    }
    Ok(TxnOffsetCommitResponse { topics, ..Default::default() })
}
