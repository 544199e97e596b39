//! Advancing the start of logs.
//!
//! Offset -1 means the high watermark.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(DeleteRecords, versions 0..=2, flexible 2, DeleteRecordsRequest => DeleteRecordsResponse);

schema! {
    /// The new starts.
    struct DeleteRecordsRequest {
        topics: Vec<DeleteRecordsTopic>,
        timeout_ms: i32,
    }

    /// One topic.
    struct DeleteRecordsTopic {
        name: String,
        partitions: Vec<DeleteRecordsPartition>,
    }

    /// One partition.
    struct DeleteRecordsPartition {
        partition_index: i32,
        offset: i64,
    }

    /// The starts in force.
    struct DeleteRecordsResponse {
        throttle_time_ms: i32,
        topics: Vec<DeleteRecordsTopicResult>,
    }

    /// One topic.
    struct DeleteRecordsTopicResult {
        name: String,
        partitions: Vec<DeleteRecordsPartitionResult>,
    }

    /// One partition.
    struct DeleteRecordsPartitionResult {
        partition_index: i32,
        low_watermark: i64,
        error_code: ErrorCode,
    }
}
