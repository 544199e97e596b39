//! What partitions take on disk.
//!
//! Null topics mean all; version 4 adds the size of the volume.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(DescribeLogDirs, versions 1..=4, flexible 2, DescribeLogDirsRequest => DescribeLogDirsResponse);

schema! {
    /// Asks for partitions.
    struct DescribeLogDirsRequest {
        topics: Option<Vec<DescribableLogDirTopic>>,
    }

    /// One topic.
    struct DescribableLogDirTopic {
        topic: String,
        partitions: Vec<i32>,
    }

    /// The directories.
    struct DescribeLogDirsResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode [3..],
        results: Vec<DescribeLogDirsResult>,
    }

    /// One directory.
    struct DescribeLogDirsResult {
        error_code: ErrorCode,
        log_dir: String,
        topics: Vec<DescribeLogDirsTopic>,
        total_bytes: i64 [4..] = -1,
        usable_bytes: i64 [4..] = -1,
    }

    /// One topic.
    struct DescribeLogDirsTopic {
        name: String,
        partitions: Vec<DescribeLogDirsPartition>,
    }

    /// One partition.
    struct DescribeLogDirsPartition {
        partition_index: i32,
        partition_size: i64,
        offset_lag: i64,
        is_future_key: bool,
    }
}
