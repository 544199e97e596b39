//! OffsetForLeaderEpoch: v2–4.
//!
//! Behaviour
//! * There is one epoch, and it ends at the high watermark. A later one has no end here, which tells a client nothing
//!   was cut.
//!
//! Version notes
//! * v3: who asks, not needed. v4: flexible.

use super::{Close, Context, LEADER_EPOCH, check_leader_epoch, error_code, partition_of};
use crate::{
    log::Topics,
    wire::{
        ErrorCode,
        offset_for_leader_epoch::{
            EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
            OffsetForLeaderTopicResult,
        },
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: OffsetForLeaderEpochRequest,
) -> Result<OffsetForLeaderEpochResponse, Close> {
    let topics = context.topics();
    let answered = request.topics.into_iter().map(|asked| {
        let partitions = asked.partitions.iter().map(|part| {
            let mut answer = EpochEndOffset { partition: part.partition, ..Default::default() };
            match end(context, &topics, &asked.topic, part) {
                Ok(Some(end_offset)) => (answer.leader_epoch, answer.end_offset) = (LEADER_EPOCH, end_offset),
                Ok(None) => {}
                Err(code) => answer.error_code = code,
            }
            answer
        });
        OffsetForLeaderTopicResult { partitions: partitions.collect(), topic: asked.topic }
    });
    Ok(OffsetForLeaderEpochResponse { topics: answered.collect(), ..Default::default() })
}

fn end(
    context: &Context<'_>,
    topics: &Topics,
    topic: &str,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<i64>, ErrorCode> {
    let partition = topics.get(topic).and_then(|topic| partition_of(topic, asked.partition));
    let partition = partition.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    if let Some(code) = check_leader_epoch(asked.current_leader_epoch) {
        return Err(code);
    }
    let bounds = context.broker.log.watch(&partition).map_err(|error| error_code(&error))?;
    let high_watermark = bounds.borrow().high_watermark;
    Ok((asked.leader_epoch == LEADER_EPOCH).then_some(high_watermark))
}
