//! OffsetFetch: v1–9.
//!
//! Behaviour
//! * Offsets as of the last durable commit. A group, topic or partition without one has offset -1 and no error.
//! * Without a list of topics: everything the group has committed.
//!
//! Version notes
//! * v7: `require_stable` changes nothing while there are no transactions.
//! * v8: several groups. v9: member id and epoch belong to the new kind of group and are not looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Close, Context, group_error_code};
use crate::{
    groups::{Error, offsets::Committed},
    record::Partition,
    wire::{
        ErrorCode,
        offset_fetch::{
            OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchResponse, OffsetFetchResponseGroup, OffsetFetchResponsePartition,
            OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
        },
    },
};

type Topics = Vec<(String, Vec<(i32, Option<Committed>)>)>;

pub(super) async fn handle(context: &Context<'_>, request: OffsetFetchRequest) -> Result<OffsetFetchResponse, Close> {
    if context.version < 8 {
        let topics = request.topics.map(|all| all.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
        return Ok(match find(context, &request.group_id, topics) {
            Ok(topics) => OffsetFetchResponse { topics: topics.into_iter().map(old_topic).collect(), ..Default::default() },
            Err(error) => OffsetFetchResponse { error_code: group_error_code(&error), ..Default::default() },
        });
    }
    // Everything of a group is answered once, however often it is asked for: a request of 1 MiB must not ask for gigabytes.
    let mut seen = BTreeSet::new();
    let is_first = |g: &OffsetFetchRequestGroup| g.topics.is_some() || seen.insert(g.group_id.clone());
    let groups = request.groups.into_iter().filter(is_first).map(|group| {
        let topics = group.topics.map(|all| all.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
        let (topics, error_code) = match find(context, &group.group_id, topics) {
            Ok(topics) => (topics.into_iter().map(topic).collect(), ErrorCode::NONE),
            Err(error) => (Vec::new(), group_error_code(&error)),
        };
        OffsetFetchResponseGroup { group_id: group.group_id, topics, error_code }
    });
    Ok(OffsetFetchResponse { groups: groups.collect(), ..Default::default() })
}

fn find(context: &Context<'_>, group: &str, wanted: Option<Vec<(String, Vec<i32>)>>) -> Result<Topics, Error> {
    let groups = &context.broker.groups;
    let Some(wanted) = wanted else {
        let mut topics: BTreeMap<Arc<str>, Vec<_>> = BTreeMap::new();
        for (partition, committed) in groups.offsets(group)? {
            topics.entry(partition.topic).or_default().push((partition.index, Some(committed)));
        }
        return Ok(topics.into_iter().map(|(name, partitions)| (name.to_string(), partitions)).collect());
    };
    let mut topics = Topics::new();
    for (name, indexes) in wanted {
        let topic: Arc<str> = name.as_str().into();
        let mut partitions = Vec::new();
        for index in indexes {
            let committed = groups.committed(group, &Partition { topic: Arc::clone(&topic), index })?;
            partitions.push((index, committed));
        }
        topics.push((name, partitions));
    }
    Ok(topics)
}

/// The words for a partition without a committed offset.
fn shown(committed: Option<Committed>) -> Committed {
    committed.unwrap_or_else(|| Committed::at(-1, -1))
}

fn topic((name, partitions): (String, Vec<(i32, Option<Committed>)>)) -> OffsetFetchResponseTopics {
    let partitions = partitions.into_iter().map(|(partition_index, committed)| {
        let Committed { offset, leader_epoch, metadata, .. } = shown(committed);
        OffsetFetchResponsePartitions {
            partition_index,
            committed_offset: offset,
            committed_leader_epoch: leader_epoch,
            metadata: Some(metadata),
            error_code: ErrorCode::NONE,
        }
    });
    OffsetFetchResponseTopics { name, partitions: partitions.collect() }
}

fn old_topic((name, partitions): (String, Vec<(i32, Option<Committed>)>)) -> OffsetFetchResponseTopic {
    let partitions = partitions.into_iter().map(|(partition_index, committed)| {
        let Committed { offset, leader_epoch, metadata, .. } = shown(committed);
        OffsetFetchResponsePartition {
            partition_index,
            committed_offset: offset,
            committed_leader_epoch: leader_epoch,
            metadata: Some(metadata),
            error_code: ErrorCode::NONE,
        }
    });
    OffsetFetchResponseTopic { name, partitions: partitions.collect() }
}
