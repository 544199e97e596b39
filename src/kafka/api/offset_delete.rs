//! OffsetDelete: v0.
//!
//! Behaviour
//! * Forgets committed offsets of partitions, durably. GROUP_SUBSCRIBED_TO_TOPIC for topics that a member of a consumer
//!   group wants, NON_EMPTY_GROUP for groups of another type that have members.

use super::{Close, Context, group_error_code};
use crate::{
    record::Partition,
    wire::{
        ErrorCode,
        offset_delete::{
            OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
        },
    },
};

pub(super) async fn handle(context: &Context<'_>, request: OffsetDeleteRequest) -> Result<OffsetDeleteResponse, Close> {
    let partitions: Vec<Partition> = request
        .topics
        .iter()
        .flat_map(|t| t.partitions.iter().map(|p| Partition::new(t.name.as_str(), p.partition_index)))
        .collect();
    let answers = match context.broker.groups.delete_offsets(&request.group_id, &partitions).await {
        Ok(answers) => answers,
        Err(error) => return Ok(OffsetDeleteResponse { error_code: group_error_code(&error), ..Default::default() }),
    };
    let mut answers = answers.into_iter();
    let topics = request.topics.into_iter().map(|t| OffsetDeleteResponseTopic {
        name: t.name,
        partitions: (t.partitions.into_iter().zip(&mut answers))
            .map(|(p, answer)| OffsetDeleteResponsePartition {
                partition_index: p.partition_index,
                error_code: answer.map_or_else(|error| group_error_code(&error), |()| ErrorCode::NONE),
            })
            .collect(),
    });
    Ok(OffsetDeleteResponse { topics: topics.collect(), ..Default::default() })
}
