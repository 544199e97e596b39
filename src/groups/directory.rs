//! Groups as the tools see them: listed, described, deleted.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{Error, Groups, Kind, Machine, State, check_id, offsets};
use crate::{log::Write, record::Partition};

/// A line of the list of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The group's id.
    pub group: String,
    /// `consumer`, `connect` …; empty if it only has offsets.
    pub protocol_type: Arc<str>,
    /// Where it stands, by Kafka's name.
    pub state: &'static str,
    /// Which protocol it follows.
    pub kind: Kind,
    /// How many members it has.
    pub members: usize,
}

/// All about one group of the classic protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Where it stands.
    pub state: State,
    /// `consumer`, `connect` …; empty if it only has offsets.
    pub protocol_type: Arc<str>,
    /// The protocol chosen; empty unless `Stable`.
    pub protocol: Arc<str>,
    /// Its members.
    pub members: Vec<MemberDescription>,
}

/// All about one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member_id: Arc<str>,
    /// Its name as a static member.
    pub instance_id: Option<Arc<str>>,
    /// The client's own name.
    pub client_id: Arc<str>,
    /// Where it connects from.
    pub client_host: Arc<str>,
    /// What it said for the protocol chosen; empty unless the group is `Stable`.
    pub metadata: Bytes,
    /// Its share; empty unless the group is `Stable`.
    pub assignment: Bytes,
}

/// The protocol type whose members' metadata is known to name topics.
const CONSUMER: &str = "consumer";

impl Groups {
    /// All groups by id: those with members, and those that only have offsets.
    ///
    /// # Errors
    /// [`Error::Log`] when the log has stopped.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let only_offsets = |group: String| Listed {
            group,
            protocol_type: "".into(),
            state: State::Empty.name(),
            kind: Kind::Classic,
            members: 0,
        };
        let mut found: BTreeMap<String, Listed> =
            offsets::groups(&self.0.log)?.into_iter().map(|group| (group.clone(), only_offsets(group))).collect();
        for (name, slot) in self.0.lock().iter() {
            let live = slot.lock();
            let protocol_type = match &live.group {
                Machine::Classic(group) => group.protocol_type().cloned().unwrap_or_default(),
                Machine::Consumer(_) => CONSUMER.into(),
            };
            let line = Listed {
                group: name.to_string(),
                protocol_type,
                state: live.group.state_name(),
                kind: live.group.kind(),
                members: live.group.size(),
            };
            found.insert(name.to_string(), line);
        }
        Ok(found.into_values().collect())
    }

    /// All about one group of the classic protocol; `None` if it has neither members nor offsets, or is of the other
    /// kind.
    ///
    /// # Errors
    /// [`Error::Log`] when the log has stopped.
    pub fn describe(&self, group: &str) -> Result<Option<Description>, Error> {
        if let Some(slot) = self.0.find(group) {
            let live = slot.lock();
            let Machine::Classic(group) = &live.group else { return Ok(None) };
            if group.state() != State::Dead {
                // Between generations metadata and shares are nobody's business: Kafka shows none.
                let protocol = group.protocol().filter(|_| group.state() == State::Stable).cloned().unwrap_or_default();
                let shown = |bytes: Bytes| if protocol.is_empty() { Bytes::new() } else { bytes };
                let members = group.members().iter().map(|m| MemberDescription {
                    member_id: Arc::clone(&m.id),
                    instance_id: m.instance_id.clone(),
                    client_id: Arc::clone(&m.client_id),
                    client_host: Arc::clone(&m.client_host),
                    metadata: shown(m.metadata(&protocol)),
                    assignment: shown(m.assignment.clone()),
                });
                return Ok(Some(Description {
                    state: group.state(),
                    protocol_type: group.protocol_type().cloned().unwrap_or_default(),
                    members: members.collect(),
                    protocol,
                }));
            }
        }
        let only_offsets =
            Description { state: State::Empty, protocol_type: "".into(), protocol: "".into(), members: Vec::new() };
        Ok(offsets::has_any(&self.0.log, group)?.then_some(only_offsets))
    }

    /// Deletes a group without members, and its offsets.
    ///
    /// # Errors
    /// [`Error::NonEmpty`], [`Error::NotFound`], [`Error::InvalidGroupId`], [`Error::Log`].
    pub async fn delete(&self, group: &str) -> Result<(), Error> {
        check_id(group)?;
        // Its stream would go on from what it remembers until the next start, and read everything again then.
        if self.0.is_ours.get().is_some_and(|is_ours| is_ours(group)) {
            return Err(Error::NonEmpty);
        }
        let had_slot = {
            let mut slots = self.0.lock();
            match slots.get(group) {
                Some(slot) if !slot.bury_if_idle() => return Err(Error::NonEmpty),
                _ => slots.remove(group).is_some(),
            }
        };
        let state = offsets::forget_group(&self.0.log, group)?;
        if state.is_empty() {
            return if had_slot { Ok(()) } else { Err(Error::NotFound) };
        }
        self.0.log.commit(Write { state, ..Write::default() }).await?;
        Ok(())
    }

    /// Deletes the offsets of some partitions; one answer for each.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NonEmpty`] for a group with members that are no consumers. What concerns one
    /// partition stands in its place.
    pub async fn delete_offsets(&self, group: &str, partitions: &[Partition]) -> Result<Vec<Result<(), Error>>, Error> {
        check_id(group)?;
        if !self.is_consumer(group) {
            let Some(description) = self.describe(group)? else { return Err(Error::NotFound) };
            if description.state != State::Empty && &*description.protocol_type != CONSUMER {
                return Err(Error::NonEmpty);
            }
        }
        let topics = Arc::clone(&self.0.log.topics().borrow());
        let (mut state, mut answers) = (Vec::new(), Vec::with_capacity(partitions.len()));
        for partition in partitions {
            let topic = topics.get(&partition.topic).filter(|t| (0..t.partitions).contains(&partition.index));
            answers.push(match topic {
                None => Err(Error::UnknownPartition(partition.clone())),
                Some(_) if self.is_subscribed(group, &partition.topic) => Err(Error::Subscribed),
                Some(topic) => {
                    state.push(offsets::forget(group, partition, topic.id));
                    Ok(())
                }
            });
        }
        if !state.is_empty() {
            self.0.log.commit(Write { state, ..Write::default() }).await?;
        }
        Ok(answers)
    }

    /// Whether a member wants the topic. A classic member whose words cannot be read counts as one that does.
    fn is_subscribed(&self, group: &str, topic: &str) -> bool {
        let Some(slot) = self.0.find(group) else { return false };
        let live = slot.lock();
        match &live.group {
            Machine::Consumer(group) => group.wants(topic),
            Machine::Classic(group) => {
                let mut said = group.members().iter().flat_map(|m| &m.protocols);
                said.any(|p| consumer_topics(&p.metadata).is_none_or(|topics| topics.iter().any(|t| t == topic)))
            }
        }
    }
}

/// The topics in a consumer's subscription: `version i16 | topics [string] | …`.
fn consumer_topics(mut metadata: &[u8]) -> Option<Vec<String>> {
    let mut take = |n: usize| metadata.split_off(..n);
    let _version = take(2)?;
    let count = u32::from_be_bytes(take(4)?.try_into().ok()?);
    let mut topics = Vec::new();
    for _ in 0..count {
        let length = u16::from_be_bytes(take(2)?.try_into().ok()?);
        topics.push(String::from_utf8(take(usize::from(length))?.to_vec()).ok()?);
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_read_and_a_lying_one_is_not() {
        let metadata = [&[0, 1, 0, 0, 0, 2, 0, 1][..], b"a", &[0, 2], b"bc", &[0xff; 4]].concat();
        assert_eq!(consumer_topics(&metadata).unwrap(), ["a", "bc"]);
        assert_eq!(consumer_topics(&[0, 1, 0x7f, 0xff, 0xff, 0xff]), None);
        assert_eq!(consumer_topics(b""), None);
    }
}
