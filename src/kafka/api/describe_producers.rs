//! DescribeProducers: v0.
//!
//! Behaviour
//! * The producers the log remembers of a partition. Their last write is told by uptime, so that it is right on a board
//!   without a clock. The coordinator's epoch is not kept: there is only one.
//! * A partition is described once, however often it is asked for: a request of 1 MiB must not ask for gigabytes.

use std::collections::BTreeSet;

use super::{Close, Context, error_code, partition_of};
use crate::{
    log,
    wire::{
        ErrorCode,
        describe_producers::{
            DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
        },
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: DescribeProducersRequest,
) -> Result<DescribeProducersResponse, Close> {
    let known = context.topics();
    let now_ms = (context.broker.clock)();
    let mut seen = BTreeSet::new();
    let mut topics = Vec::with_capacity(request.topics.len().min(16));
    for asked in request.topics {
        let found = known.get(&asked.name);
        let mut partitions = Vec::new();
        for partition_index in asked.partition_indexes {
            let mut answer = PartitionResponse { partition_index, ..Default::default() };
            match found.and_then(|topic| partition_of(topic, partition_index)) {
                None => answer.error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                Some(partition) if !seen.insert(partition.clone()) => answer.error_code = ErrorCode::INVALID_REQUEST,
                Some(partition) => match context.broker.log.producers(&partition).await {
                    Ok(producers) => {
                        answer.active_producers = producers.into_iter().map(|p| shown(p, now_ms)).collect();
                    }
                    Err(error) => answer.error_code = error_code(&error),
                },
            }
            partitions.push(answer);
        }
        topics.push(TopicResponse { name: asked.name, partitions });
    }
    Ok(DescribeProducersResponse { topics, ..Default::default() })
}

fn shown(producer: log::ProducerState, now_ms: i64) -> ProducerState {
    let idle_ms = i64::try_from(producer.idle.as_millis()).unwrap_or(i64::MAX);
    ProducerState {
        producer_id: producer.producer_id,
        producer_epoch: producer.epoch.into(),
        last_sequence: producer.last_sequence,
        last_timestamp: now_ms.saturating_sub(idle_ms),
        coordinator_epoch: -1,
        current_txn_start_offset: producer.open_from.unwrap_or(-1),
    }
}
