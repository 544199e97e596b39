//! ListOffsets: v1–10.
//!
//! Behaviour
//! * A time gives the first record at or after it, to the record, not the batch. Not found is offset -1 and time -1
//!   without an error.
//! * -1 is the end: the high watermark, or the last stable offset for who reads committed; -2 the start; -3 the record
//!   with the greatest timestamp; -4 the local start, the same as -2; -5 the end of what is tiered: -1, nothing is.
//! * Who reads committed finds no record beyond the last stable offset.
//!
//! Version notes
//! * v2: isolation level. v4: leader epochs. v7: -3. v8: -4. v9: -5. v10: a time-out, not needed.

use super::{Close, Context, LEADER_EPOCH, READ_COMMITTED, check_leader_epoch, error_code, partition_of};
use crate::{
    log::{Error as LogError, Timed, Topics},
    record::Partition,
    wire::{
        ErrorCode,
        list_offsets::{
            ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
            ListOffsetsTopicResponse,
        },
    },
};

/// What a batch may take unpacked while others are worked on beside it.
pub(super) const UNPACKED_BYTES: usize = 512 << 10;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

pub(super) async fn handle(context: &Context<'_>, request: ListOffsetsRequest) -> Result<ListOffsetsResponse, Close> {
    let topics = context.topics();
    let mut response = ListOffsetsResponse::default();
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let found = look_up(context, &topics, &topic.name, &asked, request.isolation_level).await;
            let mut answer =
                ListOffsetsPartitionResponse { partition_index: asked.partition_index, ..Default::default() };
            match found {
                Ok(Some(found)) => {
                    (answer.offset, answer.timestamp) = (found.offset, found.timestamp_ms);
                    answer.leader_epoch = LEADER_EPOCH;
                }
                Ok(None) => {}
                Err(code) => answer.error_code = code,
            }
            partitions.push(answer);
        }
        response.topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    Ok(response)
}

async fn look_up(
    context: &Context<'_>,
    topics: &Topics,
    topic: &str,
    asked: &ListOffsetsPartition,
    isolation_level: i8,
) -> Result<Option<Timed>, ErrorCode> {
    let partition = topics.get(topic).and_then(|topic| partition_of(topic, asked.partition_index));
    let partition = partition.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    if let Some(code) = check_leader_epoch(asked.current_leader_epoch) {
        return Err(code);
    }
    let needed_version = match asked.timestamp {
        MAX_TIMESTAMP => 7,
        EARLIEST_LOCAL => 8,
        LATEST_TIERED => 9,
        _ => 1,
    };
    if context.version < needed_version {
        return Err(ErrorCode::UNSUPPORTED_VERSION);
    }
    find(context, &partition, asked.timestamp, isolation_level).await.map_err(|error| error_code(&error))
}

async fn find(
    context: &Context<'_>,
    partition: &Partition,
    timestamp: i64,
    isolation_level: i8,
) -> Result<Option<Timed>, LogError> {
    let log = &context.broker.log;
    let untimed = |offset| Some(Timed { offset, timestamp_ms: -1, is_too_large_to_unpack: false });
    let bounds = *log.watch(partition)?.borrow();
    let end = if isolation_level == READ_COMMITTED { bounds.last_stable } else { bounds.high_watermark };
    let found = match timestamp {
        LATEST => return Ok(untimed(end)),
        EARLIEST | EARLIEST_LOCAL => return Ok(untimed(bounds.start)),
        LATEST_TIERED => None,
        _ => find_time(context, partition, timestamp).await?,
    };
    Ok(found.filter(|found| isolation_level != READ_COMMITTED || found.offset < end))
}

/// Looks into batches, within the request's share for its work. One that takes more unpacked has all there is for
/// itself, unless the request is large: it would keep its size while it waits.
async fn find_time(context: &Context<'_>, partition: &Partition, timestamp: i64) -> Result<Option<Timed>, LogError> {
    let (log, memory) = (&context.broker.log, &context.broker.memory);
    let find = async |unpacked_bytes| match timestamp {
        MAX_TIMESTAMP => log.max_timestamp(partition, unpacked_bytes).await,
        _ => log.offset_at(partition, timestamp, unpacked_bytes).await,
    };
    let (least, most) = (UNPACKED_BYTES.min(memory.most_work_bytes()), memory.most_work_bytes());
    if context.has_work_share() {
        return find(least).await;
    }
    let share = memory.take_work(least).await;
    let found = find(least).await?;
    if found.is_none_or(|found| !found.is_too_large_to_unpack) {
        return Ok(found);
    }
    drop(share);
    let _all = memory.take_work(most).await;
    find(most).await
}
