//! Forgetting a group's positions in topics it is not subscribed to.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(OffsetDelete, versions 0..=0, flexible never, OffsetDeleteRequest => OffsetDeleteResponse);

schema! {
    /// The partitions.
    struct OffsetDeleteRequest {
        group_id: String,
        topics: Vec<OffsetDeleteRequestTopic>,
    }

    /// One topic.
    struct OffsetDeleteRequestTopic {
        name: String,
        partitions: Vec<OffsetDeleteRequestPartition>,
    }

    /// One partition.
    struct OffsetDeleteRequestPartition {
        partition_index: i32,
    }

    /// What became of each.
    struct OffsetDeleteResponse {
        error_code: ErrorCode,
        throttle_time_ms: i32,
        topics: Vec<OffsetDeleteResponseTopic>,
    }

    /// One topic.
    struct OffsetDeleteResponseTopic {
        name: String,
        partitions: Vec<OffsetDeleteResponsePartition>,
    }

    /// One partition.
    struct OffsetDeleteResponsePartition {
        partition_index: i32,
        error_code: ErrorCode,
    }
}
