//! Offsets by time.
//!
//! Special times: -1 end, -2 start, -3 the highest timestamp (from version 7), -4 local start (from 8), -5 tiered
//! (from 9).

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(ListOffsets, versions 1..=10, flexible 6, ListOffsetsRequest => ListOffsetsResponse);

schema! {
    /// Asks for the first offset at or after a time.
    struct ListOffsetsRequest {
        replica_id: i32,
        isolation_level: i8 [2..],
        topics: Vec<ListOffsetsTopic>,
        timeout_ms: i32 [10..],
    }

    /// One topic.
    struct ListOffsetsTopic {
        name: String,
        partitions: Vec<ListOffsetsPartition>,
    }

    /// One partition.
    struct ListOffsetsPartition {
        partition_index: i32,
        current_leader_epoch: i32 [4..] = -1,
        timestamp: i64,
    }

    /// The offsets; -1 where there is none.
    struct ListOffsetsResponse {
        throttle_time_ms: i32 [2..],
        topics: Vec<ListOffsetsTopicResponse>,
    }

    /// One topic.
    struct ListOffsetsTopicResponse {
        name: String,
        partitions: Vec<ListOffsetsPartitionResponse>,
    }

    /// One partition.
    struct ListOffsetsPartitionResponse {
        partition_index: i32,
        error_code: ErrorCode,
        timestamp: i64 = -1,
        offset: i64 = -1,
        leader_epoch: i32 [4..] = -1,
    }
}
