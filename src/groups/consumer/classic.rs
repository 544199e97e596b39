//! Members that speak the classic protocol in a group of the consumer protocol, as long as an application is upgraded.
//!
//! A group turns when the first member of the consumer protocol joins it, and back when the last one has gone
//! (`group.consumer.migration.policy`). In between its classic members are led along the same way as the others: what
//! JoinGroup says counts as a heartbeat, SyncGroup fetches what that led to, and Heartbeat says when to join again.
//! A classic member's generation is its epoch; it never is the leader, and never hears of the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    super::{
        Error,
        group::{Group, Leaver, Limits, State},
        member::{self as classic, Answer, Join, Joined, Sync, Synced, Uptime},
    },
    ConsumerGroup, Heartbeat, Rules, Sender,
    assignor::TopicPartition,
    member::{Member, Progress},
    subscription::Subscription,
};
use crate::{
    log::Topics,
    wire::consumer_protocol::{
        ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicPartition as OfTopic, decode_versioned,
        encode_versioned,
    },
};

/// The type of groups of consumers.
const CONSUMER: &str = "consumer";

impl ConsumerGroup {
    /// A stable classic group of consumers as one of this protocol, its members with what they have; `None` if it is
    /// none, or its members say or have what cannot be read.
    pub(in crate::groups) fn of_classic(rules: Rules, group: &Group, topics: &Arc<Topics>) -> Option<Self> {
        let is_ours = group.state() == State::Stable && group.protocol_type().is_some_and(|kind| **kind == *CONSUMER);
        let protocol = group.protocol().filter(|_| is_ours)?;
        let mut upgraded = Self::new(rules, group.generation());
        upgraded.topics = Arc::clone(topics);
        let mut held = BTreeSet::new();
        for old in group.members() {
            let said: ConsumerProtocolSubscription = decode_versioned(old.metadata(protocol)).ok()?;
            let assigned = decode_assignment(&old.assignment, topics)?;
            // A leader that gave a partition to two is not to be followed.
            if !assigned.iter().all(|partition| held.insert(*partition)) {
                return None;
            }
            let names = said.topics.iter().map(|name| Arc::from(name.as_str())).collect();
            let mut member = Member::new(Arc::clone(&old.id));
            member.subscription = Subscription { names, pattern: None };
            member.topics = member.subscription.resolve(topics);
            (member.epoch, member.previous_epoch) = (group.generation(), group.generation());
            member.assigned = assigned.iter().map(|partition| (*partition, group.generation())).collect();
            member.target = assigned;
            member.instance_id = old.instance_id.clone();
            (member.client_id, member.client_host) = (Arc::clone(&old.client_id), Arc::clone(&old.client_host));
            member.rebalance_timeout_ms = old.rebalance_timeout_ms;
            member.session_ends = old.session_ends;
            member.classic = Some(as_joined(old));
            if let Some(instance) = &member.instance_id {
                upgraded.instances.insert(Arc::clone(instance), Arc::clone(&member.id));
            }
            upgraded.members.insert(Arc::clone(&member.id), member);
        }
        upgraded.count_wanted();
        Some(upgraded)
    }

    /// It has members, and none of them speaks the consumer protocol.
    pub(in crate::groups) fn is_only_classic(&self) -> bool {
        !self.members.is_empty() && self.members.values().all(|m| m.classic.is_some())
    }

    /// The classic group that its classic members make, which they are to join anew.
    pub(in crate::groups) fn to_classic(&self, limits: Limits, now: Uptime, out: &mut Vec<Answer>) -> Group {
        let members = self.members.values().filter_map(|m| {
            let mut member = classic::Member::new(Arc::clone(&m.id), m.classic.as_ref()?, now);
            (member.is_new, member.knows_id) = (false, true);
            member.session_ends = m.session_ends;
            member.assignment = self.encode_assignment(m);
            Some(member)
        });
        Group::resumed(limits, now, self.epoch, members.collect(), out)
    }

    /// Takes a classic member's join as its heartbeat.
    pub(in crate::groups) fn join(
        &mut self,
        now: Uptime,
        topics: &Arc<Topics>,
        request: &Join,
        fresh_id: &Arc<str>,
    ) -> Result<Joined, Error> {
        let first = request.protocols.first().filter(|_| *request.protocol_type == *CONSUMER);
        let first = first.ok_or(Error::InconsistentProtocol)?;
        let said: ConsumerProtocolSubscription =
            decode_versioned(first.metadata.clone()).map_err(|_| Error::InconsistentProtocol)?;
        let others =
            || self.members.values().filter(|m| *m.id != *request.member_id).filter_map(|m| m.classic.as_ref());
        let is_shared = |name: &str| others().all(|other| other.protocols.iter().any(|p| *p.name == *name));
        if !request.protocols.iter().any(|p| is_shared(&p.name)) {
            return Err(Error::InconsistentProtocol);
        }
        let (sender, member_id) = self.joining(request, fresh_id)?;
        if matches!(sender, Sender::New) && self.members.len() >= self.rules.max_size {
            return Err(Error::GroupFull);
        }
        let owned =
            said.owned_partitions.iter().filter_map(|owned| Some((topics.get(&owned.topic)?.id, &owned.partitions)));
        let beat = Heartbeat {
            member_id: member_id.as_ref().to_owned(),
            instance_id: request.instance_id.clone(),
            rebalance_timeout_ms: request.rebalance_timeout_ms.max(1),
            // One of a version that does not say what it owns owns nothing: it gave all up before it joined.
            owned: Some(owned.flat_map(|(id, indexes)| indexes.iter().map(move |index| (id, *index))).collect()),
            client_id: Arc::clone(&request.client_id),
            client_host: Arc::clone(&request.client_host),
            ..Heartbeat::default()
        };
        let names = said.topics.iter().map(|name| Arc::from(name.as_str())).collect();
        let subscription = Subscription { names, pattern: None };
        let heard = self.hear(now, topics, sender, &beat, subscription, Some(request.clone()));
        Ok(Joined {
            generation: heard.epoch,
            protocol_type: CONSUMER.into(),
            protocol: Arc::clone(&first.name),
            leader: "".into(),
            member_id: heard.member_id,
            skips_assignment: false,
            members: Vec::new(),
        })
    }

    /// Whom a join is from, and under which id it goes on.
    fn joining(&self, request: &Join, fresh_id: &Arc<str>) -> Result<(Sender, Arc<str>), Error> {
        let has_id = !request.member_id.is_empty();
        let known = self.members.get_key_value(&*request.member_id).map(|(id, _)| Arc::clone(id));
        let holder = request.instance_id.as_ref().map(|instance| self.instances.get(instance));
        match (holder, known) {
            (Some(Some(holder)), _) if !has_id => Ok((Sender::Returned(Arc::clone(holder)), Arc::clone(fresh_id))),
            (Some(Some(holder)), Some(id)) if *holder == id => Ok((Sender::Known(Arc::clone(&id)), id)),
            (Some(Some(_)), _) => Err(Error::FencedInstance),
            (Some(None), _) if has_id => Err(Error::UnknownMember),
            (Some(None), _) => Ok((Sender::New, Arc::clone(fresh_id))),
            (None, Some(id)) => Ok((Sender::Known(Arc::clone(&id)), id)),
            (None, None) if has_id => Ok((Sender::New, request.member_id.as_str().into())),
            (None, None) if request.requires_known_member_id => Err(Error::MemberIdRequired(Arc::clone(fresh_id))),
            (None, None) => Ok((Sender::New, Arc::clone(fresh_id))),
        }
    }

    /// What a classic member may read now.
    pub(in crate::groups) fn sync(&mut self, now: Uptime, request: &Sync) -> Result<Synced, Error> {
        let member = self.classic_member(&request.member_id, request.instance_id.as_deref())?;
        if request.generation != member.epoch {
            return Err(Error::IllegalGeneration);
        }
        let protocol = member.classic.as_ref().and_then(|join| join.protocols.first());
        let protocol = protocol.map(|p| Arc::clone(&p.name)).unwrap_or_default();
        let differs = |theirs: &Option<String>, ours: &str| theirs.as_deref().is_some_and(|theirs| theirs != ours);
        if differs(&request.protocol_type, CONSUMER) || differs(&request.protocol, &protocol) {
            return Err(Error::InconsistentProtocol);
        }
        member.refresh(now);
        let member = &self.members[&*request.member_id];
        Ok(Synced { protocol_type: CONSUMER.into(), protocol, assignment: self.encode_assignment(member) })
    }

    /// A classic member's sign of life; says whether it is to join again.
    pub(in crate::groups) fn classic_heartbeat(
        &mut self,
        now: Uptime,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), Error> {
        let epoch = self.epoch;
        let member = self.classic_member(member_id, instance_id)?;
        if generation != member.epoch {
            return Err(Error::IllegalGeneration);
        }
        member.refresh(now);
        let (id, progress) = (Arc::clone(&member.id), member.progress);
        let is_behind = member.epoch < epoch || progress == Progress::Unrevoked;
        let target = member.target.clone();
        let is_free = |p: &TopicPartition| self.members.values().all(|other| other.id == id || !other.holds(p));
        if is_behind || (progress == Progress::Unreleased && target.iter().all(is_free)) {
            let member = self.classic_member(member_id, instance_id)?;
            // Who does not come in time is taken out.
            member.revocation_ends.get_or_insert(now + member.rebalance_timeout_ms);
            return Err(Error::RebalanceInProgress);
        }
        Ok(())
    }

    /// Takes a classic member out.
    pub(in crate::groups) fn classic_leave(&mut self, leaver: &Leaver) -> Result<(), Error> {
        let by_name = leaver.instance_id.as_ref().filter(|_| leaver.member_id.is_empty());
        let id = match by_name.and_then(|name| self.instances.get(name)) {
            Some(id) => Arc::clone(id),
            None => leaver.member_id.as_str().into(),
        };
        self.classic_member(&id, leaver.instance_id.as_deref())?;
        self.remove(&id);
        Ok(())
    }

    /// Is it a member that speaks the classic protocol?
    pub(in crate::groups) fn is_classic(&self, member_id: &str) -> bool {
        self.members.get(member_id).is_some_and(|m| m.classic.is_some())
    }

    fn classic_member(&mut self, member_id: &str, instance_id: Option<&str>) -> Result<&mut Member, Error> {
        if let Some(instance) = instance_id {
            let current = self.instances.get(instance).ok_or(Error::UnknownMember)?;
            if **current != *member_id {
                return Err(Error::FencedInstance);
            }
        }
        self.members.get_mut(member_id).filter(|m| m.classic.is_some()).ok_or(Error::UnknownMember)
    }

    fn encode_assignment(&self, member: &Member) -> Bytes {
        let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (id, index) in member.assigned.keys() {
            if let Some(topic) = self.topics.by_id(*id) {
                by_topic.entry(&topic.name).or_default().push(*index);
            }
        }
        let assigned = by_topic.into_iter().map(|(topic, partitions)| OfTopic { topic: topic.to_owned(), partitions });
        let message = ConsumerProtocolAssignment { assigned_partitions: assigned.collect(), user_data: None };
        // Every version of the assignment has the same bytes behind its number.
        encode_versioned(&message, 0)
    }
}

impl Member {
    /// Notes a classic member's sign of life.
    fn refresh(&mut self, now: Uptime) {
        let timeout_ms = self.classic.as_ref().map_or(0, |join| join.session_timeout_ms);
        self.session_ends = now + u64::try_from(timeout_ms).unwrap_or(0).max(1);
    }
}

/// The partitions in an assignment that there are; empty bytes are none at all.
fn decode_assignment(bytes: &Bytes, topics: &Topics) -> Option<BTreeSet<TopicPartition>> {
    if bytes.is_empty() {
        return Some(BTreeSet::new());
    }
    let assignment: ConsumerProtocolAssignment = decode_versioned(bytes.clone()).ok()?;
    let mut all = BTreeSet::new();
    for OfTopic { topic, partitions } in &assignment.assigned_partitions {
        let Some(topic) = topics.get(topic) else { continue };
        all.extend(partitions.iter().filter(|index| (0..topic.partitions).contains(*index)).map(|i| (topic.id, *i)));
    }
    Some(all)
}

/// The words in which a classic member would join now.
fn as_joined(member: &classic::Member) -> Join {
    let in_i32 = |ms: u64| i32::try_from(ms).unwrap_or(i32::MAX);
    Join {
        member_id: member.id.as_ref().to_owned(),
        instance_id: member.instance_id.clone(),
        client_id: Arc::clone(&member.client_id),
        client_host: Arc::clone(&member.client_host),
        session_timeout_ms: in_i32(member.session_timeout_ms),
        rebalance_timeout_ms: in_i32(member.rebalance_timeout_ms),
        protocol_type: CONSUMER.into(),
        protocols: member.protocols.clone(),
        requires_known_member_id: false,
        can_skip_assignment: false,
    }
}
