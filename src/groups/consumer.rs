//! The consumer group protocol (KIP-848) as a pure state machine.
//!
//! A member only ever sends heartbeats: they join it, tell what it wants and owns, and bring it what it may read. The
//! broker assigns. Events come in with the uptime at which they happen and the topics as they stand; never does I/O,
//! never looks at a clock.
//!
//! ```text
//! members or what they want change ──► group epoch + 1 ──► the next heartbeat assigns: every member gets a target
//! each heartbeat ──► its member goes from what it has towards its target (`member.rs`): first it gives up, then it gets
//! ```
//!
//! Invariants (the property tests hold them):
//! - a partition is held by one member at most, also while it moves;
//! - a member's epoch is the group's at most, and never becomes smaller while it stays in the group;
//! - the group's epoch never becomes smaller; the epoch of the targets is the group's after each heartbeat;
//! - once members have beaten often enough, every partition of a topic that somebody wants is held by who wants it;
//! - [`ConsumerGroup::deadline`] is later than the last [`ConsumerGroup::tick`].

mod assignor;
mod classic;
mod description;
mod member;
mod subscription;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use self::{
    assignor::Assignor,
    description::{ConsumerDescription, ConsumerMemberDescription, Share},
};
use self::{
    assignor::{Candidate, TopicPartition},
    member::{AWAY, Member},
    subscription::{Pattern, Subscription},
};
use super::{
    Error,
    member::{Join, Uptime},
};
use crate::{
    log::{TopicId, Topics},
    record::Partition,
};

/// What a member sends: who it is, and what has changed since it sent the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The member's own id.
    pub member_id: String,
    /// The epoch it is in; 0 joins, -1 leaves, -2 leaves for a while as a static member.
    pub epoch: i32,
    /// Name of a static member.
    pub instance_id: Option<Arc<str>>,
    /// Where it stands, for the descriptions.
    pub rack_id: Option<Arc<str>>,
    /// How long it may take to give partitions up; -1: as before.
    pub rebalance_timeout_ms: i32,
    /// Topics by name; `None`: as before.
    pub topic_names: Option<Vec<String>>,
    /// Topics by pattern, empty for none; `None`: as before.
    pub topic_pattern: Option<String>,
    /// The assignor it would like.
    pub assignor: Option<String>,
    /// The partitions that it owns, by topic id; `None`: as before.
    pub owned: Option<BTreeSet<(TopicId, i32)>>,
    /// The client's own name.
    pub client_id: Arc<str>,
    /// Where it connects from, as `/address`.
    pub client_host: Arc<str>,
}

/// What a member is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The member's id.
    pub member_id: Arc<str>,
    /// The epoch it is in now.
    pub epoch: i32,
    /// When to beat again; 0 for one that leaves.
    pub interval_ms: i32,
    /// All that it may read, if that has changed or it asked in full.
    pub assigned: Option<BTreeSet<(TopicId, i32)>>,
}

/// Where a group stands; the names are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No members.
    Empty,
    /// Something changed since the targets were made.
    Assigning,
    /// Members are on their way to their targets.
    Reconciling,
    /// Every member has what it is meant to have.
    Stable,
    /// Removed.
    Dead,
}

impl State {
    /// The name that Kafka's tools know.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// What a group is bounded by, and what it tells its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) session_timeout_ms: u64,
    pub(super) heartbeat_interval_ms: i32,
    pub(super) max_size: usize,
    /// The first is the default.
    pub(super) assignors: Vec<Assignor>,
    /// A classic group of consumers becomes one of this protocol when the first member of it joins.
    pub(super) may_upgrade: bool,
    /// And back when the last one has gone.
    pub(super) may_downgrade: bool,
}

pub(super) struct ConsumerGroup {
    /// As of the last heartbeat: they may be changed.
    pub(super) rules: Rules,
    epoch: i32,
    /// The group epoch of which the members' targets are.
    target_epoch: i32,
    members: BTreeMap<Arc<str>, Member>,
    /// Static members: name to current member id.
    instances: BTreeMap<Arc<str>, Arc<str>>,
    /// The topics as they stood at the last heartbeat.
    topics: Arc<Topics>,
    /// The topics that somebody wants, and how many partitions each has.
    wanted: BTreeMap<TopicId, i32>,
    is_buried: bool,
}

/// Whom a heartbeat is from.
enum Sender {
    New,
    Known(Arc<str>),
    /// A static member that left for a while, under another id.
    Returned(Arc<str>),
}

impl ConsumerGroup {
    /// A group without members whose next epoch is the one after `epoch`.
    pub(super) fn new(rules: Rules, epoch: i32) -> Self {
        Self {
            rules,
            epoch,
            target_epoch: epoch,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            topics: Arc::default(),
            wanted: BTreeMap::new(),
            is_buried: false,
        }
    }

    pub(super) fn state(&self) -> State {
        if self.is_buried {
            State::Dead
        } else if self.members.is_empty() {
            State::Empty
        } else if self.epoch != self.target_epoch {
            State::Assigning
        } else if self.members.values().all(|m| m.is_reconciled_to(self.target_epoch)) {
            State::Stable
        } else {
            State::Reconciling
        }
    }

    pub(super) fn epoch(&self) -> i32 {
        self.epoch
    }

    /// How many members it has.
    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    pub(super) fn has_member(&self, id: &str) -> bool {
        self.members.contains_key(id)
    }

    /// The assignor that most members would like, or the default.
    pub(super) fn assignor(&self) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        for assignor in self.members.values().filter_map(|m| m.assignor) {
            *votes.entry(assignor).or_default() += 1;
        }
        let most = votes.into_iter().max_by_key(|(_, count)| *count).map(|(assignor, _)| assignor);
        most.or_else(|| self.rules.assignors.first().copied()).unwrap_or(Assignor::Uniform)
    }

    /// Whether a member wants the topic, as of the last heartbeat.
    pub(super) fn wants(&self, topic: &str) -> bool {
        self.members.values().any(|m| m.subscription.names.contains(topic))
            || self.topics.get(topic).is_some_and(|topic| self.wanted.contains_key(&topic.id))
    }

    pub(super) fn bury(&mut self) {
        debug_assert!(self.members.is_empty(), "only a group without members is removed");
        self.is_buried = true;
    }

    /// Bytes that clients decided the size of.
    pub(super) fn size_bytes(&self) -> usize {
        self.members.values().map(Member::size_bytes).sum()
    }

    /// What it would take at most with what the request brings.
    pub(super) fn size_with(&self, request: &Heartbeat) -> usize {
        let known = self.members.get(&*request.member_id).map_or(0, |m| m.subscription.size_bytes());
        let names = request.topic_names.iter().flatten().map(|name| name.len() + 48).sum::<usize>();
        let pattern = request.topic_pattern.as_ref().map_or(0, |pattern| 1024 + 32 * pattern.len());
        let texts =
            [&request.instance_id, &request.rack_id].into_iter().flatten().map(|text| text.len()).sum::<usize>();
        let brought = names + pattern;
        // What replaces something else counts as far as it is more.
        self.size_bytes()
            + brought.saturating_sub(known)
            + if request.epoch == 0 { request.member_id.len() + texts } else { 0 }
    }

    /// Takes a heartbeat: joins the member, notes what it says, and tells it what it may read. What is refused changes
    /// nothing.
    pub(super) fn heartbeat(&mut self, now: Uptime, topics: &Arc<Topics>, request: &Heartbeat) -> Result<Heard, Error> {
        check_form(request)?;
        self.check_assignor(request)?;
        if request.epoch < 0 {
            return self.leave(request);
        }
        let sender = self.sender(request)?;
        let known = match &sender {
            Sender::New if self.members.len() >= self.rules.max_size => return Err(Error::GroupFull),
            Sender::New => None,
            Sender::Known(id) | Sender::Returned(id) => self.members.get(id),
        };
        let subscription = subscription(request, known.map(|m| &m.subscription))?;

        // From here on nothing is refused.
        Ok(self.hear(now, topics, sender, request, subscription, None))
    }

    /// Notes what a member says, lets it go on, and words the answer. `classic` is how it joined, if by that protocol.
    fn hear(
        &mut self,
        now: Uptime,
        topics: &Arc<Topics>,
        sender: Sender,
        request: &Heartbeat,
        subscription: Subscription,
        classic: Option<Join>,
    ) -> Heard {
        let is_new = matches!(sender, Sender::New);
        let mut member = self.take(sender, &request.member_id);
        let before = member.assigned.clone();
        let mut has_changed = member.update(request, subscription) || is_new;
        if has_changed {
            member.topics = member.subscription.resolve(topics);
        }
        if let Some(instance) = &member.instance_id {
            self.instances.insert(Arc::clone(instance), Arc::clone(&member.id));
        }
        let own_ms = classic.as_ref().map(|join| u64::try_from(join.session_timeout_ms).unwrap_or(0).max(1));
        member.session_ends = now + own_ms.unwrap_or(self.rules.session_timeout_ms);
        member.classic = classic;
        let id = Arc::clone(&member.id);
        self.members.insert(Arc::clone(&id), member);
        has_changed |= self.look_at(topics);
        if has_changed {
            self.count_wanted();
            self.advance();
        }
        if self.epoch != self.target_epoch {
            self.assign();
        }
        self.go_on(now, id, request, &before)
    }

    /// Takes the member out of the map, to be put back changed.
    fn take(&mut self, sender: Sender, member_id: &str) -> Member {
        let (old, is_returned) = match sender {
            Sender::New => (None, false),
            Sender::Known(id) => (self.members.remove(&id), false),
            Sender::Returned(id) => (self.members.remove(&id), true),
        };
        let Some(mut member) = old else { return Member::new(member_id.into()) };
        if is_returned {
            // What it had is kept for it under its new id.
            member.id = member_id.into();
        }
        if is_returned || member.epoch == AWAY {
            (member.epoch, member.previous_epoch) = (0, 0);
        }
        member
    }

    /// Lets a member go on towards its target, and words the answer.
    fn go_on(
        &mut self,
        now: Uptime,
        id: Arc<str>,
        request: &Heartbeat,
        before: &BTreeMap<TopicPartition, i32>,
    ) -> Heard {
        let interval_ms = self.rules.heartbeat_interval_ms;
        let Some(mut member) = self.members.remove(&id) else {
            return Heard { member_id: id, epoch: 0, interval_ms, assigned: None };
        };
        let is_free = |partition: &TopicPartition| !self.members.values().any(|other| other.holds(partition));
        member.reconcile(now, self.target_epoch, request.owned.as_ref(), is_free);
        let is_full = request.epoch == 0
            || (request.rebalance_timeout_ms != -1
                && (request.topic_names.is_some() || request.topic_pattern.is_some())
                && request.owned.is_some());
        let is_other = !member.assigned.keys().eq(before.keys());
        let assigned = (is_full || is_other).then(|| member.assigned.keys().copied().collect());
        let heard = Heard { member_id: Arc::clone(&id), epoch: member.epoch, interval_ms, assigned };
        self.members.insert(id, member);
        heard
    }

    fn check_assignor(&self, request: &Heartbeat) -> Result<(), Error> {
        let Some(wish) = &request.assignor else { return Ok(()) };
        if Assignor::named(wish).is_some_and(|wish| self.rules.assignors.contains(&wish)) {
            return Ok(());
        }
        let names: Vec<&str> = self.rules.assignors.iter().map(|assignor| assignor.name()).collect();
        let supported = names.join(", ");
        Err(Error::UnsupportedAssignor(format!(
            "ServerAssignor {wish} is not supported. Supported assignors: {supported}."
        )))
    }

    fn sender(&self, request: &Heartbeat) -> Result<Sender, Error> {
        let (id, joins) = (&*request.member_id, request.epoch == 0);
        let known = self.members.get_key_value(id);
        let Some(instance) = &request.instance_id else {
            let Some((id, member)) = known else {
                return if joins { Ok(Sender::New) } else { Err(Error::UnknownMember) };
            };
            member.check_epoch(request.epoch, request.owned.as_ref())?;
            return Ok(Sender::Known(Arc::clone(id)));
        };
        let holder = self.instances.get(instance).and_then(|id| self.members.get(id));
        match holder {
            Some(holder) if *holder.id == *id => {
                holder.check_epoch(request.epoch, request.owned.as_ref())?;
                Ok(Sender::Known(Arc::clone(&holder.id)))
            }
            // A member keeps its name: its id would otherwise be two members.
            _ if joins && known.is_some() => Err(Error::InvalidRequest("InstanceId can't be changed.")),
            None if joins => Ok(Sender::New),
            None => Err(Error::UnknownMember),
            // A classic static member closes without a word: the consumer that takes its place need not wait.
            Some(holder) if joins && (holder.epoch == AWAY || holder.classic.is_some()) => {
                Ok(Sender::Returned(Arc::clone(&holder.id)))
            }
            Some(_) if joins => Err(Error::UnreleasedInstance),
            Some(_) => Err(Error::FencedInstance),
        }
    }

    /// Takes a member out, or lets a static one go for a while: what it has stays its own until its session ends.
    fn leave(&mut self, request: &Heartbeat) -> Result<Heard, Error> {
        let id = match &request.instance_id {
            None => self.members.get_key_value(&*request.member_id).map(|(id, _)| id),
            Some(instance) => self.instances.get(instance),
        };
        let id = Arc::clone(id.ok_or(Error::UnknownMember)?);
        if *id != *request.member_id {
            return Err(Error::FencedInstance);
        }
        match self.members.get_mut(&id) {
            Some(member) if request.epoch == AWAY => {
                (member.epoch, member.revocation_ends) = (AWAY, None);
                member.revoking.clear();
                // It has closed: it comes back with nothing under way.
                member.progress = member::Progress::Stable;
            }
            _ => self.remove(&id),
        }
        Ok(Heard { member_id: id, epoch: request.epoch, interval_ms: 0, assigned: None })
    }

    fn remove(&mut self, id: &Arc<str>) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(instance) = &member.instance_id {
            self.instances.remove(instance);
        }
        // The generation of the classic group that follows is the one that its members know.
        if self.rules.may_downgrade && self.is_only_classic() {
            return;
        }
        self.count_wanted();
        self.advance();
    }

    /// Looks at the topics anew if they have changed. True if that changes what a member wants or how many partitions
    /// there are.
    fn look_at(&mut self, topics: &Arc<Topics>) -> bool {
        if Arc::ptr_eq(topics, &self.topics) {
            return false;
        }
        self.topics = Arc::clone(topics);
        let mut has_changed = false;
        for member in self.members.values_mut() {
            let resolved = member.subscription.resolve(topics);
            has_changed |= std::mem::replace(&mut member.topics, resolved) != member.topics;
        }
        let before = std::mem::take(&mut self.wanted);
        self.count_wanted();
        has_changed || self.wanted != before
    }

    fn count_wanted(&mut self) {
        let ids: BTreeSet<TopicId> = self.members.values().flat_map(|m| m.topics.iter().copied()).collect();
        let partitions = |id: TopicId| self.topics.by_id(id).map(|topic| (id, topic.partitions));
        self.wanted = ids.into_iter().filter_map(partitions).collect();
    }

    /// Gives every member its target.
    fn assign(&mut self) {
        let assignor = self.assignor();
        let candidates: Vec<Candidate<'_>> = self
            .members
            .values()
            .map(|m| Candidate { id: &m.id, instance_id: m.instance_id.as_deref(), topics: &m.topics, had: &m.target })
            .collect();
        let targets = assignor.assign(&candidates, &self.wanted);
        for (member, target) in self.members.values_mut().zip(targets) {
            member.target = target;
        }
        self.target_epoch = self.epoch;
    }

    fn advance(&mut self) {
        self.epoch = self.epoch.checked_add(1).unwrap_or(1);
    }

    /// May this member commit an offset of these partitions now? An epoch below 0 is a client that manages its
    /// partitions itself.
    pub(super) fn check_commit<'a>(
        &self,
        member_id: &str,
        epoch: i32,
        partitions: impl IntoIterator<Item = &'a Partition>,
        topics: &Topics,
    ) -> Result<(), Error> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.members.get(member_id).ok_or(Error::UnknownMember)?;
        partitions.into_iter().try_for_each(|partition| {
            let id = topics.get(&partition.topic).map(|topic| (topic.id, partition.index));
            member.check_commit(epoch, id)
        })
    }

    /// May this member read offsets now? Who names neither itself nor an epoch is not asked.
    pub(super) fn check_fetch(&self, member_id: Option<&str>, epoch: i32) -> Result<(), Error> {
        if member_id.is_none() && epoch < 0 {
            return Ok(());
        }
        let member = member_id.and_then(|id| self.members.get(id)).ok_or(Error::UnknownMember)?;
        if member.epoch == epoch { Ok(()) } else { Err(Error::StaleEpoch { claimed: epoch, current: member.epoch }) }
    }

    /// The next moment at which something lapses.
    pub(super) fn deadline(&self) -> Option<Uptime> {
        self.members.values().map(Member::deadline).min()
    }

    /// Removes who has been silent for too long, or has not given up in time what it had to.
    pub(super) fn tick(&mut self, now: Uptime) {
        let lapsed: Vec<Arc<str>> =
            self.members.values().filter(|m| m.deadline() <= now).map(|m| Arc::clone(&m.id)).collect();
        for id in lapsed {
            self.remove(&id);
        }
    }
}

/// What a request must have and must not have, whoever sends it.
fn check_form(request: &Heartbeat) -> Result<(), Error> {
    let is_empty = |text: &Option<Arc<str>>| text.as_ref().is_some_and(|text| text.is_empty());
    let wrong = if request.member_id.is_empty() {
        "MemberId can't be empty."
    } else if is_empty(&request.instance_id) {
        "InstanceId can't be empty."
    } else if is_empty(&request.rack_id) {
        "RackId can't be empty."
    } else if request.epoch < AWAY {
        "MemberEpoch is invalid."
    } else if request.epoch == AWAY && request.instance_id.is_none() {
        "InstanceId can't be null."
    } else if request.epoch != 0 {
        return Ok(());
    } else if request.rebalance_timeout_ms == -1 {
        "RebalanceTimeoutMs must be provided in first request."
    } else if request.owned.as_ref().is_none_or(|owned| !owned.is_empty()) {
        "TopicPartitions must be empty when (re-)joining."
    } else if request.topic_names.is_none() && request.topic_pattern.is_none() {
        "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."
    } else {
        return Ok(());
    };
    Err(Error::InvalidRequest(wrong))
}

/// What the member wants from now on.
fn subscription(request: &Heartbeat, before: Option<&Subscription>) -> Result<Subscription, Error> {
    let mut wanted = before.cloned().unwrap_or_default();
    if let Some(names) = &request.topic_names {
        wanted.names = names.iter().map(|name| Arc::from(name.as_str())).collect();
    }
    match request.topic_pattern.as_deref() {
        None => {}
        Some("") => wanted.pattern = None,
        // Compiling is dear, and full requests name it again.
        Some(text) if wanted.pattern.as_ref().is_some_and(|pattern| *pattern.text == *text) => {}
        Some(text) => wanted.pattern = Some(Pattern::new(text)?),
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests;
