//! Moving partitions between directories of a broker.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(AlterReplicaLogDirs, versions 1..=2, flexible 2, AlterReplicaLogDirsRequest => AlterReplicaLogDirsResponse);

schema! {
    /// The moves.
    struct AlterReplicaLogDirsRequest {
        dirs: Vec<AlterReplicaLogDir>,
    }

    /// A directory and what shall be there.
    struct AlterReplicaLogDir {
        path: String,
        topics: Vec<AlterReplicaLogDirTopic>,
    }

    /// One topic.
    struct AlterReplicaLogDirTopic {
        name: String,
        partitions: Vec<i32>,
    }

    /// What became of each.
    struct AlterReplicaLogDirsResponse {
        throttle_time_ms: i32,
        results: Vec<AlterReplicaLogDirTopicResult>,
    }

    /// One topic.
    struct AlterReplicaLogDirTopicResult {
        topic_name: String,
        partitions: Vec<AlterReplicaLogDirPartitionResult>,
    }

    /// One partition.
    struct AlterReplicaLogDirPartitionResult {
        partition_index: i32,
        error_code: ErrorCode,
    }
}
