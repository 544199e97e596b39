//! Where the epoch of a leader ends in a log, so that a client notices a log that was cut.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(OffsetForLeaderEpoch, versions 2..=4, flexible 4, OffsetForLeaderEpochRequest => OffsetForLeaderEpochResponse);

schema! {
    /// Asks by epoch.
    struct OffsetForLeaderEpochRequest {
        replica_id: i32 [3..] = -2,
        topics: Vec<OffsetForLeaderTopic>,
    }

    /// One topic.
    struct OffsetForLeaderTopic {
        topic: String,
        partitions: Vec<OffsetForLeaderPartition>,
    }

    /// One partition.
    struct OffsetForLeaderPartition {
        partition: i32,
        current_leader_epoch: i32 = -1,
        leader_epoch: i32,
    }

    /// The end offsets; -1 where unknown.
    struct OffsetForLeaderEpochResponse {
        throttle_time_ms: i32,
        topics: Vec<OffsetForLeaderTopicResult>,
    }

    /// One topic.
    struct OffsetForLeaderTopicResult {
        topic: String,
        partitions: Vec<EpochEndOffset>,
    }

    /// One partition.
    struct EpochEndOffset {
        error_code: ErrorCode,
        partition: i32,
        leader_epoch: i32 = -1,
        end_offset: i64 = -1,
    }
}
