//! Transactions in the log's state, under the owner `txn`.
//!
//! ```text
//! key   = 't' | transactional id
//! value = version u8 = 1 | state u8 | owner | former | time-out i32, ms | topics u16 | topic … | groups u16 | group …
//! owner, former = producer id i64 | epoch i16
//! topic = topic id [16] | partitions u16 | partition u16 …
//! group = length u16 | UTF-8
//!
//! key   = 'o' | producer id i64 | slot u32                      a position that waits for the transaction's end
//! value = topic id [16] | partition u32 | group | committed as in the state of the groups
//! ```
//! All big-endian. Partitions are kept for clients that add them before they write. What does not fit is left out:
//! which partitions hold records of an open transaction the log itself knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::machine::{Identity, Machine, Place, Staged, State};
use crate::{
    groups::offsets::Committed,
    log::{StateWrite, TopicId, Topics},
    record::Partition,
};

/// The owner of all transaction state in the log.
pub(super) const OWNER: &str = "txn";
/// Longest transactional id: what the log's limit for a key leaves.
pub(super) const MAX_ID_BYTES: usize = 399;

pub(super) const ID_KIND: u8 = b't';
pub(super) const STAGED_KIND: u8 = b'o';
const VERSION: u8 = 1;
/// A value of the log's state has at most 64 KiB.
const MOST_BYTES: usize = 60 << 10;

/// The state change that keeps a machine, or with `None` forgets it.
pub(super) fn write(id: &str, machine: Option<&Machine>, topics: &Topics) -> StateWrite {
    let mut key = BytesMut::with_capacity(1 + id.len());
    key.put_u8(ID_KIND);
    key.put_slice(id.as_bytes());
    StateWrite { owner: OWNER, key: key.freeze(), value: machine.map(|machine| encode(machine, topics)) }
}

/// The transactional id of a key.
pub(super) fn id(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.strip_prefix(&[ID_KIND])?).ok()
}

fn encode(machine: &Machine, topics: &Topics) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(VERSION);
    out.put_u8(match machine.state {
        State::Empty | State::Dead => 0,
        State::Ongoing => 1,
        State::CompleteCommit => 2,
        State::CompleteAbort => 3,
    });
    for identity in [machine.owner, machine.former.unwrap_or(Identity::NONE)] {
        out.put_i64(identity.id);
        out.put_i16(identity.epoch);
    }
    out.put_i32(machine.timeout_ms);
    let groups_bytes: usize = machine.groups.iter().map(|g| 2 + g.len()).sum();
    let room = MOST_BYTES.saturating_sub(groups_bytes);
    let mut by_topic: BTreeMap<&Arc<str>, Vec<u16>> = BTreeMap::new();
    for partition in &machine.partitions {
        if let Ok(index) = u16::try_from(partition.index) {
            by_topic.entry(&partition.topic).or_default().push(index);
        }
    }
    let (mut kept, mut count) = (BytesMut::new(), 0u16);
    for (name, indexes) in by_topic {
        let Some(topic) = topics.get(name) else { continue };
        if out.len() + kept.len() + 18 + 2 * indexes.len() > room {
            break;
        }
        kept.put_slice(&topic.id);
        kept.put_u16(u16::try_from(indexes.len()).expect("a topic has at most 10,000 partitions"));
        indexes.iter().for_each(|index| kept.put_u16(*index));
        count += 1;
    }
    out.put_u16(count);
    out.put_slice(&kept);
    out.put_u16(u16::try_from(machine.groups.len()).unwrap_or(u16::MAX));
    machine.groups.iter().take(usize::from(u16::MAX)).for_each(|group| put_group(&mut out, group));
    out.freeze()
}

/// The machine as it was kept, without staged positions and times. `None` if it does not parse.
pub(super) fn decode(mut value: &[u8], topics: &Topics) -> Option<Machine> {
    if value.try_get_u8().ok()? != VERSION {
        return None;
    }
    let mut machine = Machine::new();
    machine.state = match value.try_get_u8().ok()? {
        0 => State::Empty,
        1 => State::Ongoing,
        2 => State::CompleteCommit,
        3 => State::CompleteAbort,
        _ => return None,
    };
    let mut identity = || Some(Identity { id: value.try_get_i64().ok()?, epoch: value.try_get_i16().ok()? });
    (machine.owner, machine.former) = (identity()?, Some(identity()?).filter(|former| former.id >= 0));
    machine.timeout_ms = value.try_get_i32().ok()?;
    for _ in 0..value.try_get_u16().ok()? {
        let (topic_id, rest) = value.split_first_chunk::<16>()?;
        value = rest;
        let topic = topics.by_id(*topic_id);
        for _ in 0..value.try_get_u16().ok()? {
            let index = i32::from(value.try_get_u16().ok()?);
            // Partitions of a topic that was deleted meanwhile need no end.
            machine.partitions.extend(topic.map(|t| Partition::new(Arc::clone(&t.name), index)));
        }
    }
    let mut groups = BTreeSet::new();
    for _ in 0..value.try_get_u16().ok()? {
        groups.insert(take_group(&mut value)?);
    }
    machine.groups = groups;
    Some(machine)
}

/// The state change that keeps a staged position.
pub(super) fn write_staged(producer_id: i64, place: &Place, staged: &Staged) -> StateWrite {
    let (group, topic_id, index) = place;
    let mut value = BytesMut::new();
    value.put_slice(topic_id);
    value.put_i32(*index);
    put_group(&mut value, group);
    value.put_slice(&staged.committed.encode());
    StateWrite { owner: OWNER, key: staged_key(producer_id, staged.slot), value: Some(value.freeze()) }
}

/// The state change that forgets one.
pub(super) fn forget_staged(producer_id: i64, slot: u32) -> StateWrite {
    StateWrite { owner: OWNER, key: staged_key(producer_id, slot), value: None }
}

/// Producer id, place and position of a staged one.
pub(super) fn decode_staged(key: &[u8], mut value: &[u8]) -> Option<(i64, Place, Staged)> {
    let mut key = key.strip_prefix(&[STAGED_KIND])?;
    let (producer_id, slot) = (key.try_get_i64().ok()?, key.try_get_u32().ok()?);
    let (topic_id, rest) = value.split_first_chunk::<16>()?;
    let topic_id: TopicId = *topic_id;
    value = rest;
    let index = value.try_get_i32().ok()?;
    let group = take_group(&mut value)?;
    Some((producer_id, (group, topic_id, index), Staged { slot, committed: Committed::decode(value)? }))
}

fn staged_key(producer_id: i64, slot: u32) -> Bytes {
    let mut key = BytesMut::with_capacity(13);
    key.put_u8(STAGED_KIND);
    key.put_i64(producer_id);
    key.put_u32(slot);
    key.freeze()
}

fn put_group(out: &mut BytesMut, group: &str) {
    out.put_u16(u16::try_from(group.len()).expect("group ids are short"));
    out.put_slice(group.as_bytes());
}

fn take_group(value: &mut &[u8]) -> Option<Arc<str>> {
    let length = usize::from(value.try_get_u16().ok()?);
    let group = std::str::from_utf8(value.split_off(..length)?).ok()?;
    Some(group.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Topic;

    fn topics() -> Topics {
        let topic = |name: &str, id| {
            Arc::new(Topic { name: name.into(), id: [id; 16], partitions: 10_000, settings: BTreeMap::new() })
        };
        (0..9).map(|i| topic(&format!("t{i}"), i)).collect()
    }

    #[test]
    fn a_machine_comes_back_and_rubbish_does_not() {
        let mut machine = Machine::new();
        machine.state = State::Ongoing;
        machine.owner = Identity { id: 7, epoch: 3 };
        machine.former = Some(Identity { id: 6, epoch: i16::MAX - 1 });
        machine.timeout_ms = 60_000;
        machine.partitions = ["t0", "t1"].into_iter().flat_map(|t| (0..3).map(move |p| Partition::new(t, p))).collect();
        machine.groups = ["g", "h"].into_iter().map(Into::into).collect();
        let write = write("id", Some(&machine), &topics());
        assert_eq!(id(&write.key), Some("id"));
        let value = write.value.unwrap();
        assert_eq!(decode(&value, &topics()), Some(machine.clone()));
        for cut in 0..value.len() {
            assert_eq!(decode(&value[..cut], &topics()), None, "{cut}");
        }
        // A topic that was deleted since has gone from it.
        let fewer: Topics = topics().by_name.values().filter(|topic| &*topic.name != "t0").cloned().collect();
        assert_eq!(decode(&value, &fewer).unwrap().partitions.len(), 3);

        // However much is in a transaction, the value fits.
        machine.partitions =
            (0..9).flat_map(|t| (0..10_000).map(move |p| Partition::new(format!("t{t}"), p))).collect();
        let value = encode(&machine, &topics());
        assert!(value.len() <= MOST_BYTES);
        assert_eq!(decode(&value, &topics()).unwrap().partitions.len(), 30_000);
    }

    #[test]
    fn a_staged_position_comes_back() {
        let place: Place = ("group".into(), [4; 16], 5);
        let committed = Committed { offset: 9, leader_epoch: 2, metadata: "words".into(), timestamp_ms: 7 };
        let staged = Staged { slot: 3, committed };
        let write = write_staged(8, &place, &staged);
        let value = write.value.unwrap();
        assert_eq!(decode_staged(&write.key, &value), Some((8, place, staged)));
        assert_eq!(decode_staged(&write.key, &value[..20]), None);
        assert_eq!(forget_staged(8, 3).key, write.key);
    }
}
