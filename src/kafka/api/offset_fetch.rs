//! OffsetFetch: v1–9.
//!
//! Behaviour
//! * Offsets as of the last durable commit. A group, topic or partition without one has offset -1 and no error.
//! * Without a list of topics: everything the group has committed.
//!
//! Version notes
//! * v7: with `require_stable`, a position that an open transaction is to change is UNSTABLE_OFFSET_COMMIT: whoever goes
//!   on from the old one would read again what the transaction has dealt with.
//! * v8: several groups. v9: member id and epoch, looked at in groups of the consumer protocol: STALE_MEMBER_EPOCH makes a
//!   member ask again with its current one, UNKNOWN_MEMBER_ID join anew. Who names neither, such as a tool, is answered.

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

/// The offset of one partition, or why it cannot be told now.
type Found = Result<Option<Committed>, ErrorCode>;

type Topics = Vec<(String, Vec<(i32, Found)>)>;

pub(super) async fn handle(context: &Context<'_>, request: OffsetFetchRequest) -> Result<OffsetFetchResponse, Close> {
    if context.version < 8 {
        let topics = request.topics.map(|all| all.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
        return Ok(match find(context, &request.group_id, topics, request.require_stable) {
            Ok(topics) => OffsetFetchResponse { topics: topics.into_iter().map(old_topic).collect(), ..Default::default() },
            Err(error) => OffsetFetchResponse { error_code: group_error_code(&error), ..Default::default() },
        });
    }
    // Everything of a group is answered once, however often it is asked for: a request of 1 MiB must not ask for gigabytes.
    let mut seen = BTreeSet::new();
    let is_first = |g: &OffsetFetchRequestGroup| g.topics.is_some() || seen.insert(g.group_id.clone());
    let groups = request.groups.into_iter().filter(is_first).map(|group| {
        let topics = group.topics.map(|all| all.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
        let may_read = context.broker.groups.check_fetch(&group.group_id, group.member_id.as_deref(), group.member_epoch);
        let found = may_read.and_then(|()| find(context, &group.group_id, topics, request.require_stable));
        let (topics, error_code) = match found {
            Ok(topics) => (topics.into_iter().map(topic).collect(), ErrorCode::NONE),
            Err(error) => (Vec::new(), group_error_code(&error)),
        };
        OffsetFetchResponseGroup { group_id: group.group_id, topics, error_code }
    });
    Ok(OffsetFetchResponse { groups: groups.collect(), ..Default::default() })
}

fn find(
    context: &Context<'_>,
    group: &str,
    wanted: Option<Vec<(String, Vec<i32>)>>,
    is_stable_required: bool,
) -> Result<Topics, Error> {
    let groups = &context.broker.groups;
    let known = context.topics();
    let is_unstable = |partition: &Partition| {
        let topic = known.get(&partition.topic).filter(|_| is_stable_required);
        topic.is_some_and(|topic| context.broker.txns.is_pending(group, topic.id, partition.index))
    };
    // Asked before the offset is read: a transaction that ends between the two has its offset by then.
    let look = |partition: &Partition| -> Result<Found, Error> {
        if is_unstable(partition) {
            return Ok(Err(ErrorCode::UNSTABLE_OFFSET_COMMIT));
        }
        Ok(Ok(groups.committed(group, partition)?))
    };
    let Some(wanted) = wanted else {
        let mut topics: BTreeMap<Arc<str>, Vec<_>> = BTreeMap::new();
        for partition in groups.offsets(group)?.into_keys() {
            let found = look(&partition)?;
            topics.entry(partition.topic).or_default().push((partition.index, found));
        }
        return Ok(topics.into_iter().map(|(name, partitions)| (name.to_string(), partitions)).collect());
    };
    let mut topics = Topics::new();
    for (name, indexes) in wanted {
        let topic: Arc<str> = name.as_str().into();
        let mut partitions = Vec::new();
        for index in indexes {
            partitions.push((index, look(&Partition { topic: Arc::clone(&topic), index })?));
        }
        topics.push((name, partitions));
    }
    Ok(topics)
}

/// What is said of a partition, also without a committed offset.
fn shown(found: Found) -> (Committed, ErrorCode) {
    let (committed, error_code) = found.map_or_else(|code| (None, code), |committed| (committed, ErrorCode::NONE));
    (committed.unwrap_or_else(|| Committed::at(-1, -1)), error_code)
}

fn topic((name, partitions): (String, Vec<(i32, Found)>)) -> OffsetFetchResponseTopics {
    let partitions = partitions.into_iter().map(|(partition_index, found)| {
        let (Committed { offset, leader_epoch, metadata, .. }, error_code) = shown(found);
        OffsetFetchResponsePartitions {
            partition_index,
            committed_offset: offset,
            committed_leader_epoch: leader_epoch,
            metadata: Some(metadata),
            error_code,
        }
    });
    OffsetFetchResponseTopics { name, partitions: partitions.collect() }
}

fn old_topic((name, partitions): (String, Vec<(i32, Found)>)) -> OffsetFetchResponseTopic {
    let partitions = partitions.into_iter().map(|(partition_index, found)| {
        let (Committed { offset, leader_epoch, metadata, .. }, error_code) = shown(found);
        OffsetFetchResponsePartition {
            partition_index,
            committed_offset: offset,
            committed_leader_epoch: leader_epoch,
            metadata: Some(metadata),
            error_code,
        }
    });
    OffsetFetchResponseTopic { name, partitions: partitions.collect() }
}
