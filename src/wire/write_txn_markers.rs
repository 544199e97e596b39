//! Markers that end a transaction in partitions, written by its coordinator or an administrator.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(WriteTxnMarkers, versions 1..=1, flexible 1, WriteTxnMarkersRequest => WriteTxnMarkersResponse);

schema! {
    /// The markers.
    struct WriteTxnMarkersRequest {
        markers: Vec<WritableTxnMarker>,
    }

    /// The marker of one producer.
    struct WritableTxnMarker {
        producer_id: i64,
        producer_epoch: i16,
        transaction_result: bool,
        topics: Vec<WritableTxnMarkerTopic>,
        coordinator_epoch: i32,
    }

    /// One topic.
    struct WritableTxnMarkerTopic {
        name: String,
        partition_indexes: Vec<i32>,
    }

    /// What became of each.
    struct WriteTxnMarkersResponse {
        markers: Vec<WritableTxnMarkerResult>,
    }

    /// One producer.
    struct WritableTxnMarkerResult {
        producer_id: i64,
        topics: Vec<WritableTxnMarkerTopicResult>,
    }

    /// One topic.
    struct WritableTxnMarkerTopicResult {
        name: String,
        partitions: Vec<WritableTxnMarkerPartitionResult>,
    }

    /// One partition.
    struct WritableTxnMarkerPartitionResult {
        partition_index: i32,
        error_code: ErrorCode,
    }
}
