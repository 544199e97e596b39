//! DeleteRecords: v0–2.
//!
//! Behaviour
//! * Moves a partition's log start offset up, durably; -1 means to the high watermark. An offset before the start changes
//!   nothing.
//! * A topic that only compacts refuses (POLICY_VIOLATION): its records are its state.
//!
//! Version notes
//! * v2: flexible.

use super::{Close, Context, error_code, partition_of};
use crate::{
    log::{Change, Topics},
    wire::{
        ErrorCode,
        delete_records::{
            DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopicResult,
        },
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: DeleteRecordsRequest,
) -> Result<DeleteRecordsResponse, Close> {
    let topics = context.topics();
    let mut response = DeleteRecordsResponse::default();
    for asked in request.topics {
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for part in asked.partitions {
            let trimmed = trim(context, &topics, &asked.name, part.partition_index, part.offset).await;
            let (low_watermark, error_code) = match trimmed {
                Ok(start) => (start, ErrorCode::NONE),
                Err(code) => (-1, code),
            };
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: part.partition_index,
                low_watermark,
                error_code,
            });
        }
        response.topics.push(DeleteRecordsTopicResult { name: asked.name, partitions });
    }
    Ok(response)
}

async fn trim(
    context: &Context<'_>,
    topics: &Topics,
    name: &str,
    index: i32,
    offset: i64,
) -> Result<i64, ErrorCode> {
    let broker = context.broker;
    let topic = topics.get(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let partition = partition_of(topic, index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    if !broker.settings.topic_has(topic, "cleanup.policy", "delete") {
        return Err(ErrorCode::POLICY_VIOLATION);
    }
    if offset < -1 {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    let bounds = broker.log.watch(&partition).map_err(|error| error_code(&error))?;
    let start = bounds.borrow().start;
    if (0..=start).contains(&offset) {
        return Ok(start);
    }
    let change = Change::TrimBefore { partition, offset };
    broker.log.change(change, Vec::new()).await.map_err(|error| error_code(&error))?;
    let start = bounds.borrow().start;
    Ok(start)
}
