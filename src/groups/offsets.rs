//! Committed offsets, kept in the log's state under the owner `groups`.
//!
//! A position is a state write like any other: [`write`] gives the change, and whoever commits outputs puts it into the
//! same [`log::Write`](crate::log::Write), so that outputs and position become durable together or not at all.
//! Reading shows the last durable commit.
//!
//! Keys carry the topic's id and not its name: a topic that was deleted and created again inherits nothing, even if the
//! purge of the old offsets has not run yet, and a key's length depends on the group alone.
//!
//! ```text
//! key   = 'o' | group length u16 | group | topic id [16] | partition u32
//! value = version u8 = 1 | offset i64 | leader epoch i32 | commit timestamp i64, ms | metadata, UTF-8, to the end
//! ```
//! All big-endian. A value of a version this program does not know is left alone and read as absent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    log::{Error, Log, StateWrite, TopicId, Topics},
    record::{Offset, Partition},
};

/// The owner of all group state in the log.
pub const OWNER: &str = "groups";

/// Longest group id that can hold offsets: what the log's limit of 400 bytes for a key leaves.
pub const MAX_GROUP_ID_BYTES: usize = 400 - HEAD - TAIL;

const KIND: u8 = b'o';
const VERSION: u8 = 1;
/// Kind and length of the group id.
const HEAD: usize = 1 + 2;
/// Topic id and partition.
const TAIL: usize = 16 + 4;

/// How far a group came in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: Offset,
    /// Leader epoch of the last record read, -1 if the client did not say.
    pub leader_epoch: i32,
    /// The client's own words, returned as they came; at most 4096 bytes by Kafka's default.
    pub metadata: String,
    /// When it was committed, in milliseconds since 1970.
    pub timestamp_ms: i64,
}

impl Committed {
    /// A position without leader epoch and metadata.
    pub fn at(offset: Offset, timestamp_ms: i64) -> Self {
        Self { offset, leader_epoch: -1, metadata: String::new(), timestamp_ms }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut value = BytesMut::with_capacity(21 + self.metadata.len());
        value.put_u8(VERSION);
        value.put_i64(self.offset);
        value.put_i32(self.leader_epoch);
        value.put_i64(self.timestamp_ms);
        value.put_slice(self.metadata.as_bytes());
        value.freeze()
    }

    pub(crate) fn decode(mut value: &[u8]) -> Option<Self> {
        if value.len() < 21 || value.get_u8() != VERSION {
            return None;
        }
        let (offset, leader_epoch, timestamp_ms) = (value.get_i64(), value.get_i32(), value.get_i64());
        Some(Self { offset, leader_epoch, metadata: String::from_utf8(value.to_vec()).ok()?, timestamp_ms })
    }
}

/// The state change that commits a group's position in one partition of the topic with that id.
///
/// `group` has at most [`MAX_GROUP_ID_BYTES`]; the log refuses a longer one.
pub fn write(group: &str, partition: &Partition, topic_id: TopicId, committed: Committed) -> StateWrite {
    StateWrite { owner: OWNER, key: key(group, topic_id, partition.index), value: Some(committed.encode()) }
}

/// The state change that forgets a group's position in one partition of the topic with that id.
pub fn forget(group: &str, partition: &Partition, topic_id: TopicId) -> StateWrite {
    StateWrite { owner: OWNER, key: key(group, topic_id, partition.index), value: None }
}

/// A group's position in one partition of the topic as it now exists.
///
/// # Errors
/// [`Error::Stopped`] when the log has stopped. An unknown topic, partition or group is `None`.
pub fn committed(log: &Log, group: &str, partition: &Partition) -> Result<Option<Committed>, Error> {
    let Some(topic_id) = log.topics().borrow().get(&partition.topic).map(|t| t.id) else { return Ok(None) };
    let value = log.state(OWNER, &key(group, topic_id, partition.index))?;
    Ok(value.and_then(|v| Committed::decode(&v)))
}

/// All positions of one group, by partition.
///
/// # Errors
/// [`Error::Stopped`] when the log has stopped.
pub fn of_group(log: &Log, group: &str) -> Result<BTreeMap<Partition, Committed>, Error> {
    let entries = log.states(OWNER, &prefix(group))?;
    let topics = names(&log.topics().borrow());
    let mut found = BTreeMap::new();
    for (key, value) in &entries {
        let Some((_, topic_id, index)) = split(key) else { continue };
        if let (Some(name), Some(committed)) = (topics.get(&topic_id), Committed::decode(value)) {
            found.insert(Partition::new(Arc::clone(name), index), committed);
        }
    }
    Ok(found)
}

/// True if the group has a position in a topic that exists.
///
/// # Errors
/// [`Error::Stopped`] when the log has stopped.
pub fn has_any(log: &Log, group: &str) -> Result<bool, Error> {
    of_group(log, group).map(|found| !found.is_empty())
}

/// The groups that have a position in a topic that exists.
///
/// # Errors
/// [`Error::Stopped`] when the log has stopped.
pub fn groups(log: &Log) -> Result<BTreeSet<String>, Error> {
    let entries = log.states(OWNER, &[KIND])?;
    let topics = names(&log.topics().borrow());
    let alive = entries.iter().filter_map(|(key, _)| split(key)).filter(|(_, id, _)| topics.contains_key(id));
    Ok(alive.map(|(group, ..)| group.to_owned()).collect())
}

/// The state changes that forget everything one group committed.
///
/// # Errors
/// [`Error::Stopped`] when the log has stopped.
pub fn forget_group(log: &Log, group: &str) -> Result<Vec<StateWrite>, Error> {
    Ok(removals(log.states(OWNER, &prefix(group))?, |_| true))
}

/// The state changes that forget what all groups committed for one topic, for the deletion of that topic.
///
/// # Errors
/// [`Error::Stopped`] when the log has stopped.
pub fn forget_topic(log: &Log, topic_id: TopicId) -> Result<Vec<StateWrite>, Error> {
    Ok(removals(log.states(OWNER, &[KIND])?, |id| id == topic_id))
}

/// The state changes that forget offsets of topics that no longer exist.
///
/// # Errors
/// [`Error::Stopped`] when the log has stopped.
pub fn forget_orphans(log: &Log) -> Result<Vec<StateWrite>, Error> {
    // State first, topics second: an offset seen here was committed for a topic that existed by then, so a topic
    // missing from the later picture was deleted and not just created.
    let entries = log.states(OWNER, &[KIND])?;
    let topics = names(&log.topics().borrow());
    Ok(removals(entries, |id| !topics.contains_key(&id)))
}

fn removals(entries: Vec<(Bytes, Bytes)>, is_wanted: impl Fn(TopicId) -> bool) -> Vec<StateWrite> {
    let keys = entries.into_iter().map(|(key, _)| key);
    let wanted = keys.filter(|key| split(key).is_some_and(|(_, id, _)| is_wanted(id)));
    wanted.map(|key| StateWrite { owner: OWNER, key, value: None }).collect()
}

fn names(topics: &Topics) -> BTreeMap<TopicId, Arc<str>> {
    topics.by_name.values().map(|t| (t.id, Arc::clone(&t.name))).collect()
}

fn prefix(group: &str) -> Bytes {
    let mut prefix = BytesMut::with_capacity(HEAD + group.len() + TAIL);
    put_prefix(&mut prefix, group);
    prefix.freeze()
}

fn put_prefix(out: &mut BytesMut, group: &str) {
    out.put_u8(KIND);
    // A longer id makes a key that the log refuses, so that the saturated length is never stored.
    out.put_u16(u16::try_from(group.len()).unwrap_or(u16::MAX));
    out.put_slice(group.as_bytes());
}

fn key(group: &str, topic_id: TopicId, index: i32) -> Bytes {
    let mut key = BytesMut::with_capacity(HEAD + group.len() + TAIL);
    put_prefix(&mut key, group);
    key.put_slice(&topic_id);
    key.put_i32(index);
    key.freeze()
}

fn split(key: &[u8]) -> Option<(&str, TopicId, i32)> {
    let rest = key.strip_prefix(&[KIND])?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (group, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let (topic_id, index) = rest.split_first_chunk::<16>()?;
    Some((std::str::from_utf8(group).ok()?, *topic_id, i32::from_be_bytes(index.try_into().ok()?)))
}

#[cfg(test)]
mod tests;
