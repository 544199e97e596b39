//! AlterReplicaLogDirs: v1–2.
//!
//! Behaviour
//! * Moving a partition to the one directory is done at once; another is LOG_DIR_NOT_FOUND.
//!
//! Version notes
//! * v2: flexible.

use super::{Close, Context, partition_of};
use crate::wire::{
    ErrorCode,
    alter_replica_log_dirs::{
        AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsRequest,
        AlterReplicaLogDirsResponse,
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: AlterReplicaLogDirsRequest,
) -> Result<AlterReplicaLogDirsResponse, Close> {
    let topics = context.topics();
    let mut response = AlterReplicaLogDirsResponse::default();
    for dir in request.dirs {
        let is_here = dir.path == context.broker.data_dir;
        for asked in dir.topics {
            let topic = topics.get(&asked.name);
            let partitions = asked.partitions.into_iter().map(|partition_index| AlterReplicaLogDirPartitionResult {
                partition_index,
                error_code: match topic.and_then(|topic| partition_of(topic, partition_index)) {
                    None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                    Some(_) if is_here => ErrorCode::NONE,
                    Some(_) => ErrorCode::LOG_DIR_NOT_FOUND,
                },
            });
            let partitions = partitions.collect();
            response.results.push(AlterReplicaLogDirTopicResult { topic_name: asked.name, partitions });
        }
    }
    Ok(response)
}
