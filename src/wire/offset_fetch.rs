//! A group's kept positions.
//!
//! One group up to version 7, a list from version 8. All topics: null from version 2. A position that is not there is
//! offset -1 without an error.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(OffsetFetch, versions 1..=9, flexible 6, OffsetFetchRequest => OffsetFetchResponse);

schema! {
    /// Asks for groups and, of each, topics or all.
    struct OffsetFetchRequest {
        group_id: String [..=7],
        topics: Option<Vec<OffsetFetchRequestTopic>> [..=7; null 2..=7],
        groups: Vec<OffsetFetchRequestGroup> [8..],
        require_stable: bool [7..],
    }

    /// One topic, up to version 7.
    struct OffsetFetchRequestTopic {
        name: String,
        partition_indexes: Vec<i32>,
    }

    /// One group.
    struct OffsetFetchRequestGroup {
        group_id: String,
        member_id: Option<String> [9..],
        member_epoch: i32 [9..] = -1,
        topics: Option<Vec<OffsetFetchRequestTopics>>,
    }

    /// One topic of a group.
    struct OffsetFetchRequestTopics {
        name: String,
        partition_indexes: Vec<i32>,
    }

    /// The positions.
    struct OffsetFetchResponse {
        throttle_time_ms: i32 [3..],
        topics: Vec<OffsetFetchResponseTopic> [..=7],
        error_code: ErrorCode [2..=7],
        groups: Vec<OffsetFetchResponseGroup> [8..],
    }

    /// One topic, up to version 7.
    struct OffsetFetchResponseTopic {
        name: String,
        partitions: Vec<OffsetFetchResponsePartition>,
    }

    /// One partition, up to version 7.
    struct OffsetFetchResponsePartition {
        partition_index: i32,
        committed_offset: i64,
        committed_leader_epoch: i32 [5..] = -1,
        metadata: Option<String>,
        error_code: ErrorCode,
    }

    /// One group.
    struct OffsetFetchResponseGroup {
        group_id: String,
        topics: Vec<OffsetFetchResponseTopics>,
        error_code: ErrorCode,
    }

    /// One topic of a group.
    struct OffsetFetchResponseTopics {
        name: String,
        partitions: Vec<OffsetFetchResponsePartitions>,
    }

    /// One partition of a group.
    struct OffsetFetchResponsePartitions {
        partition_index: i32,
        committed_offset: i64,
        committed_leader_epoch: i32 = -1,
        metadata: Option<String>,
        error_code: ErrorCode,
    }
}
