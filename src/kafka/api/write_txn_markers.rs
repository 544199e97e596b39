//! WriteTxnMarkers: v1.
//!
//! Behaviour
//! * Ends a producer's transaction in single partitions, whatever its coordinator thinks: what brokers tell each other,
//!   and what `kafka-transactions abort` sends to rid a partition of a transaction that nobody ends. There should be none
//!   here, since the coordinator ends with the log's word on what is open; the tool works as on any Kafka.

use super::{Close, Context, error_code, partition_of};
use crate::{
    log::{Append, Write},
    record::{Outcome, marker::marker},
    wire::{
        ErrorCode,
        write_txn_markers::{
            WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
            WriteTxnMarkersRequest, WriteTxnMarkersResponse,
        },
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: WriteTxnMarkersRequest,
) -> Result<WriteTxnMarkersResponse, Close> {
    let known = context.topics();
    // Each with its answer's place; they share a flush.
    let (mut writes, mut places) = (Vec::new(), Vec::new());
    let mut markers: Vec<WritableTxnMarkerResult> = Vec::with_capacity(request.markers.len().min(16));
    for asked in request.markers {
        let outcome = if asked.transaction_result { Outcome::Commit } else { Outcome::Abort };
        let batch = marker(asked.producer_id, asked.producer_epoch, outcome, (context.broker.clock)());
        let mut topics: Vec<WritableTxnMarkerTopicResult> = Vec::new();
        for topic in asked.topics {
            let found = known.get(&topic.name);
            let mut partitions: Vec<WritableTxnMarkerPartitionResult> = Vec::new();
            for partition_index in topic.partition_indexes {
                let partition = found.and_then(|topic| partition_of(topic, partition_index));
                let error_code = match partition {
                    None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                    Some(_) if asked.producer_id < 0 || asked.producer_epoch < 0 => ErrorCode::INVALID_REQUEST,
                    Some(partition) => {
                        let batches = vec![Append { partition, batch: batch.clone() }];
                        writes.push(Write { batches, ..Write::default() });
                        places.push((markers.len(), topics.len(), partitions.len()));
                        ErrorCode::NONE
                    }
                };
                partitions.push(WritableTxnMarkerPartitionResult { partition_index, error_code });
            }
            topics.push(WritableTxnMarkerTopicResult { name: topic.name, partitions });
        }
        markers.push(WritableTxnMarkerResult { producer_id: asked.producer_id, topics });
    }
    let entered = context.broker.log.enter_all(writes).await;
    for ((marker, topic, partition), entered) in places.into_iter().zip(entered) {
        let ended = match entered {
            Ok(entered) => entered.durable().await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            markers[marker].topics[topic].partitions[partition].error_code = error_code(&error);
        }
    }
    Ok(WriteTxnMarkersResponse { markers })
}
