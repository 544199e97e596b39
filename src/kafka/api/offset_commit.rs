//! OffsetCommit: v2–9.
//!
//! Behaviour
//! * Answered when the offsets are on flash; all of a request become durable together.
//! * A member commits for its generation; whoever assigns its partitions itself may commit while the group has no
//!   members, which makes the group if need be. Metadata returns as it came.
//!
//! Version notes
//! * v2–4: `retention_time_ms` is not heeded: offsets are kept as long as the broker is told to.
//! * v9: member epochs, which members of the consumer protocol must use: UNSUPPORTED_VERSION before. STALE_MEMBER_EPOCH for
//!   another epoch than the member's, unless the older one was in force when the member got the partition (KIP-1251).
//! * v9: an unknown group is GROUP_ID_NOT_FOUND, before it is ILLEGAL_GENERATION. A named member of an unknown group is
//!   UNKNOWN_MEMBER_ID in every version, see `groups/commits.rs`.

use super::{Close, Context, group_error_code};
use crate::{
    groups::{Commit, Error, Position},
    record::Partition,
    wire::{
        ErrorCode,
        offset_commit::{
            OffsetCommitRequest, OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
        },
    },
};

pub(super) async fn handle(context: &Context<'_>, request: OffsetCommitRequest) -> Result<OffsetCommitResponse, Close> {
    let mut positions = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len().min(16));
    for topic in request.topics {
        let name: std::sync::Arc<str> = topic.name.as_str().into();
        let mut partitions = Vec::new();
        for p in topic.partitions {
            partitions.push(OffsetCommitResponsePartition { partition_index: p.partition_index, ..Default::default() });
            positions.push(Position {
                partition: Partition { topic: std::sync::Arc::clone(&name), index: p.partition_index },
                offset: p.committed_offset,
                leader_epoch: p.committed_leader_epoch,
                metadata: p.committed_metadata.unwrap_or_default(),
            });
        }
        topics.push(OffsetCommitResponseTopic { name: topic.name, partitions });
    }
    let commit = Commit {
        member_id: request.member_id,
        instance_id: request.group_instance_id.map(Into::into),
        generation: request.generation_id_or_member_epoch,
        knows_epochs: context.version >= 9,
        positions,
    };
    let code = |error: &Error| match error {
        Error::NotFound if context.version < 9 => ErrorCode::ILLEGAL_GENERATION,
        error => group_error_code(error),
    };
    // One answer for each position, or the same one for all.
    let (answers, refusal) = match context.broker.groups.commit(&request.group_id, commit).await {
        Ok(answers) => (answers, ErrorCode::NONE),
        Err(error) => (Vec::new(), code(&error)),
    };
    let mut answers = answers.into_iter();
    for partition in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        partition.error_code = match answers.next() {
            Some(answer) => answer.map_or_else(|error| code(&error), |()| ErrorCode::NONE),
            None => refusal,
        };
    }
    Ok(OffsetCommitResponse { topics, ..Default::default() })
}
