//! Offsets committed and read by clients: the checks around [`offsets`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{Error, Groups, Machine, Shared, offsets};
use crate::{
    log::{self, Write},
    record::{Offset, Partition},
};

/// A request to commit offsets.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The member's id; empty for a client that assigns its partitions itself.
    pub member_id: String,
    /// Its name as a static member.
    pub instance_id: Option<Arc<str>>,
    /// The generation it belongs to; below 0 for a client that assigns its partitions itself.
    pub generation: i32,
    /// The request's version knows member epochs, which members of the consumer protocol must use.
    pub knows_epochs: bool,
    /// What to commit.
    pub positions: Vec<Position>,
}

/// One partition's offset to commit.
#[derive(Clone, Debug)]
pub struct Position {
    /// The partition.
    pub partition: Partition,
    /// The next offset to read.
    pub offset: Offset,
    /// Leader epoch of the last record read, -1 if unknown.
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: String,
}

/// An answer for each position of a request, and what may be kept, by topic id and partition.
type Checked = (Vec<Result<(), Error>>, Vec<(log::TopicId, i32, offsets::Committed)>);
/// Commits that are on their way. While another value of an offset is, one that equals the durable value is written all
/// the same: it was asked for later, so it must be the last.
struct Committing<'a> {
    shared: &'a Shared,
    keys: Vec<Bytes>,
}

impl Committing<'_> {
    fn is_under_way(&self, key: &Bytes) -> bool {
        self.all().contains_key(key)
    }

    fn begin(&mut self, key: &Bytes) {
        *self.all().entry(key.clone()).or_default() += 1;
        self.keys.push(key.clone());
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Bytes, usize>> {
        self.shared.committing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        let mut all = self.all();
        for key in &self.keys {
            if let Some(count) = all.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    all.remove(key);
                }
            }
        }
    }
}

impl Groups {
    /// Commits offsets durably; one answer for each position.
    ///
    /// A position equal to the committed one is answered and not written: Java consumers commit every five seconds
    /// whether or not anything arrived, and an idle board should not wear its card for that.
    ///
    /// # Errors
    /// What concerns the whole request; what concerns one partition stands in its place.
    pub async fn commit(&self, group: &str, request: Commit) -> Result<Vec<Result<(), Error>>, Error> {
        self.check_commit(group, &request)?;
        let shared = &self.0;
        let now_ms = (shared.clock)();
        let mut state: Vec<log::StateWrite> = Vec::new();
        let mut committing = Committing { shared, keys: Vec::new() };
        let mut answers = Vec::with_capacity(request.positions.len());
        let topics = Arc::clone(&shared.log.topics().borrow());
        for Position { partition, offset, leader_epoch, metadata } in request.positions {
            let topic = topics.get(&partition.topic).filter(|t| (0..t.partitions).contains(&partition.index));
            answers.push(match topic {
                None => Err(Error::UnknownPartition(partition)),
                Some(_) if metadata.len() > shared.config.max_metadata_bytes => Err(Error::MetadataTooLarge),
                Some(topic) => {
                    shared.commits.increment();
                    let new = offsets::Committed { offset, leader_epoch, metadata, timestamp_ms: now_ms };
                    let is_committed = self.is_committed(group, &partition, &new)?;
                    let write = offsets::write(group, &partition, topic.id, new);
                    if is_committed && !committing.is_under_way(&write.key) {
                        shared.commits_unchanged.increment();
                    } else {
                        committing.begin(&write.key);
                        state.push(write);
                    }
                    Ok(())
                }
            });
        }
        if !state.is_empty() {
            shared.log.commit(Write { state, ..Write::default() }).await?;
        }
        Ok(answers)
    }

    /// Checks offsets that a transaction of the group's member is to commit; one answer for each position, and those
    /// that may be kept until it ends.
    ///
    /// A client that names neither member nor generation is not checked, as in Kafka: it may be from before KIP-447.
    ///
    /// # Errors
    /// What concerns the whole request; what concerns one partition stands in its place.
    pub fn check_transactional(&self, group: &str, request: Commit) -> Result<Checked, Error> {
        let Commit { member_id, instance_id, generation, .. } = &request;
        if *generation >= 0 || !member_id.is_empty() || instance_id.is_some() {
            match self.check_commit(group, &request) {
                // What is committed is what was read before the rebalance, which fences by the generation.
                Ok(()) | Err(Error::RebalanceInProgress) => {}
                Err(error) => return Err(error),
            }
        } else if group.is_empty() || group.len() > offsets::MAX_GROUP_ID_BYTES {
            return Err(Error::InvalidGroupId);
        }
        let now_ms = (self.0.clock)();
        let topics = Arc::clone(&self.0.log.topics().borrow());
        let (mut answers, mut positions) = (Vec::with_capacity(request.positions.len()), Vec::new());
        for Position { partition, offset, leader_epoch, metadata } in request.positions {
            let topic = topics.get(&partition.topic).filter(|t| (0..t.partitions).contains(&partition.index));
            answers.push(match topic {
                None => Err(Error::UnknownPartition(partition)),
                Some(_) if metadata.len() > self.0.config.max_metadata_bytes => Err(Error::MetadataTooLarge),
                Some(topic) => {
                    let committed = offsets::Committed { offset, leader_epoch, metadata, timestamp_ms: now_ms };
                    positions.push((topic.id, partition.index, committed));
                    Ok(())
                }
            });
        }
        Ok((answers, positions))
    }

    /// The committed offset of one partition.
    ///
    /// # Errors
    /// [`Error::Log`] when the log has stopped.
    pub fn committed(&self, group: &str, partition: &Partition) -> Result<Option<offsets::Committed>, Error> {
        Ok(offsets::committed(&self.0.log, group, partition)?)
    }

    /// All committed offsets of a group.
    ///
    /// # Errors
    /// [`Error::Log`] when the log has stopped.
    pub fn offsets(&self, group: &str) -> Result<BTreeMap<Partition, offsets::Committed>, Error> {
        Ok(offsets::of_group(&self.0.log, group)?)
    }

    /// The state changes that forget what all groups committed for a topic, to go with its deletion.
    ///
    /// # Errors
    /// [`Error::Log`] when the log has stopped.
    pub fn forget_topic(&self, topic_id: log::TopicId) -> Result<Vec<log::StateWrite>, Error> {
        Ok(offsets::forget_topic(&self.0.log, topic_id)?)
    }

    fn check_commit(&self, group: &str, request: &Commit) -> Result<(), Error> {
        // An empty group id is allowed here, as in Kafka, for the sake of old clients that only keep offsets.
        if group.len() > offsets::MAX_GROUP_ID_BYTES {
            return Err(Error::InvalidGroupId);
        }
        let Commit { member_id, instance_id, generation, .. } = request;
        if let Some(slot) = self.0.find(group) {
            let mut live = slot.lock();
            let now = self.0.now();
            match &mut live.group {
                group if group.is_dead() => {}
                Machine::Classic(group) => {
                    return group.check_commit(now, member_id, instance_id.as_deref(), *generation);
                }
                Machine::Consumer(group) => {
                    let topics = Arc::clone(&self.0.log.topics().borrow());
                    let partitions = request.positions.iter().map(|position| &position.partition);
                    group.check_commit(member_id, *generation, partitions, &topics)?;
                    let must_know = group.has_member(member_id) && !group.is_classic(member_id);
                    return if must_know && !request.knows_epochs { Err(Error::UnsupportedVersion) } else { Ok(()) };
                }
            }
        }
        match (*generation < 0, member_id.is_empty() && instance_id.is_none()) {
            (true, _) => Ok(()),
            // Members are forgotten at a restart, where Kafka remembers them. "Unknown member" makes any client join
            // anew; "unknown group", Kafka's answer from version 9 on, would stop a Java consumer for good.
            (false, false) => Err(Error::UnknownMember),
            (false, true) if offsets::has_any(&self.0.log, group)? => Err(Error::IllegalGeneration),
            (false, true) => Err(Error::NotFound),
        }
    }

    fn is_committed(&self, group: &str, partition: &Partition, new: &offsets::Committed) -> Result<bool, Error> {
        let Some(old) = offsets::committed(&self.0.log, group, partition)? else { return Ok(false) };
        // With retention the stamp counts, so it is renewed now and then.
        let age_ms = new.timestamp_ms.saturating_sub(old.timestamp_ms).unsigned_abs();
        let is_fresh = self.0.config.offsets_retention_ms.is_none_or(|retention_ms| age_ms < retention_ms / 4);
        Ok(is_fresh && old == offsets::Committed { timestamp_ms: old.timestamp_ms, ..new.clone() })
    }
}
