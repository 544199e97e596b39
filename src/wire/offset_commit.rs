//! A group's positions, to be kept.
//!
//! Up to version 4 a retention time may be given, which version 5 dropped. From version 9 the generation is a member
//! epoch where the group is of the new kind.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(OffsetCommit, versions 2..=9, flexible 8, OffsetCommitRequest => OffsetCommitResponse);

schema! {
    /// The offsets by topic and partition.
    struct OffsetCommitRequest {
        group_id: String,
        generation_id_or_member_epoch: i32 = -1,
        member_id: String,
        group_instance_id: Option<String> [7..],
        retention_time_ms: i64 [..=4] = -1,
        topics: Vec<OffsetCommitRequestTopic>,
    }

    /// One topic.
    struct OffsetCommitRequestTopic {
        name: String,
        partitions: Vec<OffsetCommitRequestPartition>,
    }

    /// One partition.
    struct OffsetCommitRequestPartition {
        partition_index: i32,
        committed_offset: i64,
        committed_leader_epoch: i32 [6..] = -1,
        committed_metadata: Option<String>,
    }

    /// What became of each.
    struct OffsetCommitResponse {
        throttle_time_ms: i32 [3..],
        topics: Vec<OffsetCommitResponseTopic>,
    }

    /// One topic.
    struct OffsetCommitResponseTopic {
        name: String,
        partitions: Vec<OffsetCommitResponsePartition>,
    }

    /// One partition.
    struct OffsetCommitResponsePartition {
        partition_index: i32,
        error_code: ErrorCode,
    }
}
