//! The classic group protocol as a pure state machine.
//!
//! Events come in with the uptime at which they happen, answers go out by ticket; never does I/O, never looks at a clock.
//!
//! ```text
//!          join                    all joined, or time is up         leader syncs
//! Empty ─────────► PreparingRebalance ─────────► CompletingRebalance ─────────► Stable
//!   ▲                │  ▲   nobody left              │ join, leave, expiry         │
//!   └────────────────┘  └────────────────────────────┴─────────────────────────────┘
//! ```
//!
//! Invariants (the property tests hold them):
//! - a ticket is answered exactly once, unless its connection is reported gone;
//! - a join is parked only in `PreparingRebalance`, a sync only in `CompletingRebalance`;
//! - a generation has one protocol, which all its members support, and one leader, who is a member;
//! - [`Group::deadline`] is later than the last [`Group::tick`], and ticking at each deadline ends every parking.

mod resumed;
mod rules;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    Error,
    member::{Answer, Join, Member, Sync, Ticket, Uptime},
};

/// Where a group stands; the names are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No members; perhaps committed offsets.
    Empty,
    /// Waits for the members to join.
    PreparingRebalance,
    /// Waits for the leader's assignment.
    CompletingRebalance,
    /// Everybody has a share.
    Stable,
    /// Removed.
    Dead,
}

impl State {
    /// The name that Kafka's tools know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// Someone who leaves.
#[derive(Clone, Debug, Default)]
pub struct Leaver {
    /// The member's id; may be empty for a static member.
    pub member_id: String,
    /// Its name as a static member.
    pub instance_id: Option<Arc<str>>,
}

/// What a group is bounded by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) initial_delay_ms: u64,
    pub(super) max_size: usize,
}

/// Shortest wait for static members when none of them has come back.
const RETRY_MS: u64 = 1000;

pub(super) struct Group {
    limits: Limits,
    state: State,
    generation: i32,
    protocol_type: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    leader: Option<Arc<str>>,
    /// In the order in which they joined, so that the leader's successor is the oldest.
    members: Vec<Member>,
    /// Static members: name to current member id.
    instances: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids told to clients that have not come back with them yet, and when they lapse.
    pending: BTreeMap<Arc<str>, Uptime>,
    join: JoinWait,
    /// Until when every member of the generation must have asked for its share.
    sync_ends: Option<Uptime>,
}

/// How long a rebalance waits for its members.
#[derive(Clone, Copy, Debug, Default)]
struct JoinWait {
    ends: Uptime,
    /// Waits for the first members of an empty group, however many have joined.
    is_initial: bool,
    /// How much longer the initial wait may become.
    extension_ms: u64,
    has_new_member: bool,
}

impl Group {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: Vec::new(),
            instances: BTreeMap::new(),
            pending: BTreeMap::new(),
            join: JoinWait::default(),
            sync_ends: None,
        }
    }

    /// One whose next generation is that after `generation`.
    pub(super) fn after(limits: Limits, generation: i32) -> Self {
        Self { generation, ..Self::new(limits) }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn generation(&self) -> i32 {
        self.generation
    }

    pub(super) fn protocol_type(&self) -> Option<&Arc<str>> {
        self.protocol_type.as_ref()
    }

    pub(super) fn protocol(&self) -> Option<&Arc<str>> {
        self.protocol.as_ref()
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Nobody is or is about to become a member.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Empty && self.pending.is_empty()
    }

    /// Marks an idle group as removed; whoever still holds it is told to look again.
    pub(super) fn bury(&mut self) {
        debug_assert!(self.is_idle(), "only an idle group is removed");
        self.state = State::Dead;
    }

    /// Bytes that clients decided the size of.
    pub(super) fn size_bytes(&self) -> usize {
        let pending: usize = self.pending.keys().map(|id| id.len() + 64).sum();
        self.members.iter().map(Member::size_bytes).sum::<usize>() + pending
    }

    /// Takes part in the next generation, or in the current one if nothing changed. `fresh_id` is used if the member
    /// has no id yet.
    pub(super) fn join(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        request: &Join,
        fresh_id: Arc<str>,
        out: &mut Vec<Answer>,
    ) {
        if let Err(error) = self.try_join(now, ticket, request, fresh_id, out) {
            out.push(Answer::Join(ticket, Err(error)));
        }
    }

    fn try_join(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        request: &Join,
        fresh_id: Arc<str>,
        out: &mut Vec<Answer>,
    ) -> Result<(), Error> {
        if self.state == State::Dead {
            return Err(Error::NotAvailable);
        }
        if !self.has_room_for(request) {
            self.pending.remove(&*request.member_id);
            return Err(Error::GroupFull);
        }
        if !self.supports(request) {
            return Err(Error::InconsistentProtocol);
        }
        if !request.member_id.is_empty() {
            return self.join_again(now, ticket, request, out);
        }
        if let Some(instance) = &request.instance_id {
            match self.instances.get(instance).cloned() {
                Some(old) => self.replace_static(now, ticket, request, &old, fresh_id, out),
                None => self.add(now, ticket, request, fresh_id, out),
            }
            return Ok(());
        }
        if request.requires_known_member_id {
            if self.pending.len() >= self.limits.max_size {
                return Err(Error::GroupFull);
            }
            let lapses = now + u64::try_from(request.session_timeout_ms).unwrap_or(0).max(1);
            self.pending.insert(Arc::clone(&fresh_id), lapses);
            return Err(Error::MemberIdRequired(fresh_id));
        }
        self.add(now, ticket, request, fresh_id, out);
        Ok(())
    }

    /// A join that names a member id.
    fn join_again(&mut self, now: Uptime, ticket: Ticket, request: &Join, out: &mut Vec<Answer>) -> Result<(), Error> {
        if let Some((id, _)) = self.pending.remove_entry(&*request.member_id) {
            self.add(now, ticket, request, id, out);
            return Ok(());
        }
        let i = self.validate(&request.member_id, request.instance_id.as_deref())?;
        let member = &mut self.members[i];
        member.refresh(now);
        member.knows_id = true;
        let is_unchanged = member.protocols == request.protocols;
        let is_leader = self.leader.as_ref() == Some(&member.id);
        match self.state {
            // A retry whose first answer was lost, or a follower that asks again: a rebalance would only stir up the
            // others. A leader that joins again wants one.
            State::CompletingRebalance if is_unchanged => {
                let answer = self.joined(&self.members[i], is_leader);
                out.push(Answer::Join(ticket, Ok(answer)));
            }
            State::Stable if is_unchanged && !is_leader => {
                let answer = self.joined(&self.members[i], false);
                out.push(Answer::Join(ticket, Ok(answer)));
            }
            State::Stable | State::CompletingRebalance | State::PreparingRebalance => {
                let member = &mut self.members[i];
                member.update(request);
                // The same member on a second connection: the first one's answer would never be read.
                if let Some(old) = member.join.replace(ticket) {
                    out.push(Answer::Join(old, Err(Error::RebalanceInProgress)));
                }
                self.rebalance(now, out);
            }
            State::Empty | State::Dead => return Err(Error::UnknownMember),
        }
        Ok(())
    }

    fn add(&mut self, now: Uptime, ticket: Ticket, request: &Join, id: Arc<str>, out: &mut Vec<Answer>) {
        if self.members.is_empty() {
            self.protocol_type = Some(Arc::clone(&request.protocol_type));
        }
        if self.leader.is_none() {
            self.leader = Some(Arc::clone(&id));
        }
        if let Some(instance) = &request.instance_id {
            self.instances.insert(Arc::clone(instance), Arc::clone(&id));
        }
        let mut member = Member::new(id, request, now);
        member.join = Some(ticket);
        self.members.push(member);
        self.join.has_new_member = true;
        self.rebalance(now, out);
    }

    /// A static member came back without its id, as after a restart: it gets a new one and the old one is fenced.
    fn replace_static(
        &mut self,
        now: Uptime,
        ticket: Ticket,
        request: &Join,
        old: &Arc<str>,
        id: Arc<str>,
        out: &mut Vec<Answer>,
    ) {
        let former_leader = self.leader.clone();
        if self.leader.as_ref() == Some(old) {
            self.leader = Some(Arc::clone(&id));
        }
        if let Some(instance) = &request.instance_id {
            self.instances.insert(Arc::clone(instance), Arc::clone(&id));
        }
        let i = self.position(old).expect("instances names members only");
        let member = &mut self.members[i];
        if let Some(parked) = member.join.take() {
            out.push(Answer::Join(parked, Err(Error::FencedInstance)));
        }
        if let Some(parked) = member.sync.take() {
            out.push(Answer::Sync(parked, Err(Error::FencedInstance)));
        }
        member.id = id;
        member.knows_id = false;
        member.update(request);
        member.refresh(now);
        if self.state == State::Stable && self.choose_protocol() == self.protocol {
            let member = &self.members[i];
            let is_leader = self.leader.as_ref() == Some(&member.id);
            let mut answer = self.joined(member, is_leader && request.can_skip_assignment);
            answer.skips_assignment = is_leader && request.can_skip_assignment;
            // A client that does not know skip_assignment must not find itself leader, or it would assign anew:
            // it is told the leader's former id (KIP-345).
            if let (false, Some(former)) = (request.can_skip_assignment, former_leader) {
                answer.leader = former;
            }
            out.push(Answer::Join(ticket, Ok(answer)));
            return;
        }
        self.members[i].join = Some(ticket);
        self.rebalance(now, out);
    }

    /// Asks for the member's share; the leader brings everybody's.
    pub(super) fn sync(&mut self, now: Uptime, ticket: Ticket, request: Sync, out: &mut Vec<Answer>) {
        if let Err(error) = self.try_sync(now, ticket, request, out) {
            out.push(Answer::Sync(ticket, Err(error)));
        }
    }

    fn try_sync(&mut self, now: Uptime, ticket: Ticket, request: Sync, out: &mut Vec<Answer>) -> Result<(), Error> {
        let i = self.validate_generation(&request.member_id, request.instance_id.as_deref(), request.generation)?;
        let differs = |theirs: &Option<String>, ours: &Option<Arc<str>>| {
            theirs.as_deref().is_some_and(|theirs| Some(theirs) != ours.as_deref())
        };
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol, &self.protocol) {
            return Err(Error::InconsistentProtocol);
        }
        let member = &mut self.members[i];
        match self.state {
            State::CompletingRebalance => {
                member.refresh(now);
                member.owes_sync = false;
                if let Some(old) = member.sync.replace(ticket) {
                    out.push(Answer::Sync(old, Err(Error::RebalanceInProgress)));
                }
                if self.leader.as_ref() == Some(&self.members[i].id) {
                    self.assign(now, request.assignments, out);
                }
            }
            State::Stable => {
                member.refresh(now);
                member.owes_sync = false;
                let answer = self.synced(&self.members[i]);
                out.push(Answer::Sync(ticket, Ok(answer)));
            }
            State::PreparingRebalance => return Err(Error::RebalanceInProgress),
            State::Empty | State::Dead => return Err(Error::UnknownMember),
        }
        if self.members.iter().all(|m| !m.owes_sync) {
            self.sync_ends = None;
        }
        Ok(())
    }

    fn assign(&mut self, now: Uptime, assignments: Vec<(String, Bytes)>, out: &mut Vec<Answer>) {
        let mut shares: BTreeMap<String, Bytes> = assignments.into_iter().collect();
        self.state = State::Stable;
        for member in &mut self.members {
            member.assignment = shares.remove(&*member.id).unwrap_or_default();
            member.refresh(now);
        }
        for i in 0..self.members.len() {
            if let Some(ticket) = self.members[i].sync.take() {
                let answer = self.synced(&self.members[i]);
                out.push(Answer::Sync(ticket, Ok(answer)));
            }
        }
    }

    /// A sign of life.
    pub(super) fn heartbeat(
        &mut self,
        now: Uptime,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), Error> {
        let i = self.validate_generation(member_id, instance_id, generation)?;
        self.members[i].refresh(now);
        if self.state == State::PreparingRebalance { Err(Error::RebalanceInProgress) } else { Ok(()) }
    }

    /// May this member commit offsets now? A generation below 0 is a client that manages its partitions itself.
    pub(super) fn check_commit(
        &mut self,
        now: Uptime,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), Error> {
        if self.state == State::Dead {
            return Err(Error::NotAvailable);
        }
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if generation < 0 && member_id.is_empty() && instance_id.is_none() {
            return Err(Error::UnknownMember);
        }
        let i = self.validate_generation(member_id, instance_id, generation)?;
        self.members[i].refresh(now);
        if self.state == State::CompletingRebalance { Err(Error::RebalanceInProgress) } else { Ok(()) }
    }

    /// Takes one member out.
    pub(super) fn leave(&mut self, now: Uptime, leaver: &Leaver, out: &mut Vec<Answer>) -> Result<(), Error> {
        if self.state == State::Dead {
            return Err(Error::NotAvailable);
        }
        if self.pending.remove(&*leaver.member_id).is_some() {
            self.complete_if_all_joined(now, out);
            return Ok(());
        }
        let by_name = leaver.instance_id.as_ref().filter(|_| leaver.member_id.is_empty());
        let i = match by_name.and_then(|name| self.instances.get(name)) {
            Some(id) => self.position(id).ok_or(Error::UnknownMember)?,
            None => self.validate(&leaver.member_id, leaver.instance_id.as_deref())?,
        };
        self.remove(now, i, out);
        Ok(())
    }

    /// The connection on which `ticket` was parked has closed; nobody will read its answer.
    pub(super) fn gone(&mut self, now: Uptime, ticket: Ticket, out: &mut Vec<Answer>) {
        let Some(i) = self.members.iter().position(|m| m.join == Some(ticket) || m.sync == Some(ticket)) else {
            return;
        };
        let member = &mut self.members[i];
        if member.sync.take().is_some() {
            member.owes_sync = true;
        }
        member.join = None;
        member.refresh(now);
        // Nobody knows this id, so nobody can ever return with it.
        if member.is_new && !member.knows_id && member.instance_id.is_none() {
            self.remove(now, i, out);
        }
    }

    /// The next moment at which something lapses.
    pub(super) fn deadline(&self) -> Option<Uptime> {
        let sessions = self.members.iter().filter_map(Member::expiry);
        let joins = (self.state == State::PreparingRebalance).then_some(self.join.ends);
        sessions.chain(self.pending.values().copied()).chain(joins).chain(self.sync_ends).min()
    }

    /// Lets lapse what has.
    pub(super) fn tick(&mut self, now: Uptime, out: &mut Vec<Answer>) {
        let pending = self.pending.len();
        self.pending.retain(|_, lapses| *lapses > now);
        if self.pending.len() < pending {
            self.complete_if_all_joined(now, out);
        }
        while let Some(i) = self.members.iter().position(|m| m.expiry().is_some_and(|at| at <= now)) {
            self.remove(now, i, out);
        }
        if self.state == State::PreparingRebalance && self.join.ends <= now {
            if self.join.is_initial && self.join.has_new_member && self.join.extension_ms > 0 {
                let more = self.limits.initial_delay_ms.min(self.join.extension_ms).max(1);
                self.join.extension_ms = self.join.extension_ms.saturating_sub(more);
                self.join.ends = now + more;
                self.join.has_new_member = false;
            } else {
                self.complete_join(now, out);
            }
        }
        if self.sync_ends.is_some_and(|ends| ends <= now) {
            self.sync_ends = None;
            while let Some(i) = self.members.iter().position(|m| m.owes_sync) {
                self.take_out(i, out);
            }
            self.rebalance(now, out);
        }
    }

    /// Starts a rebalance unless one is being prepared, and completes it if everybody is there.
    fn rebalance(&mut self, now: Uptime, out: &mut Vec<Answer>) {
        if self.state == State::PreparingRebalance {
            return self.complete_if_all_joined(now, out);
        }
        for member in &mut self.members {
            member.owes_sync = false;
            if let Some(ticket) = member.sync.take() {
                member.refresh(now);
                out.push(Answer::Sync(ticket, Err(Error::RebalanceInProgress)));
            }
        }
        let (timeout, delay) = (self.rebalance_timeout_ms(), self.limits.initial_delay_ms);
        let is_initial = self.state == State::Empty && delay > 0;
        self.join = JoinWait {
            ends: now + if is_initial { delay.min(timeout) } else { timeout },
            is_initial,
            extension_ms: timeout.saturating_sub(delay),
            has_new_member: false,
        };
        self.sync_ends = None;
        self.state = State::PreparingRebalance;
        self.complete_if_all_joined(now, out);
    }

    fn complete_if_all_joined(&mut self, now: Uptime, out: &mut Vec<Answer>) {
        let all_joined = self.pending.is_empty() && self.members.iter().all(|m| m.join.is_some());
        let waits = self.join.is_initial && !self.members.is_empty();
        if self.state == State::PreparingRebalance && all_joined && !waits {
            self.complete_join(now, out);
        }
    }

    /// Ends the wait for joins: whoever is there makes the next generation.
    fn complete_join(&mut self, now: Uptime, out: &mut Vec<Answer>) {
        // Static members stay until their session ends (KIP-345).
        self.members.retain(|m| m.join.is_some() || m.instance_id.is_some());
        self.join.is_initial = false;
        if self.members.is_empty() {
            self.advance();
            self.state = State::Empty;
            self.protocol = None;
            self.leader = None;
            return;
        }
        let is_there = |id: &Arc<str>| self.members.iter().any(|m| m.id == *id && m.join.is_some());
        if !self.leader.as_ref().is_some_and(is_there) {
            let Some(heir) = self.members.iter().find(|m| m.join.is_some()) else {
                // Static members only, and none has come back: wait again, their sessions end sometime.
                self.join.ends = now + self.rebalance_timeout_ms().max(RETRY_MS);
                return;
            };
            self.leader = Some(Arc::clone(&heir.id));
        }
        self.advance();
        self.protocol = self.choose_protocol();
        self.state = State::CompletingRebalance;
        self.sync_ends = Some(now + self.rebalance_timeout_ms());
        for i in 0..self.members.len() {
            let Some(ticket) = self.members[i].join.take() else { continue };
            let member = &mut self.members[i];
            (member.is_new, member.knows_id, member.owes_sync) = (false, true, true);
            member.refresh(now);
            let is_leader = self.leader.as_ref() == Some(&self.members[i].id);
            out.push(Answer::Join(ticket, Ok(self.joined(&self.members[i], is_leader))));
        }
    }

    /// Takes member `i` out and rebalances the rest.
    fn remove(&mut self, now: Uptime, i: usize, out: &mut Vec<Answer>) {
        self.take_out(i, out);
        if self.state != State::Empty {
            self.rebalance(now, out);
        }
    }

    /// Takes member `i` out and answers what it had parked.
    fn take_out(&mut self, i: usize, out: &mut Vec<Answer>) {
        let member = self.members.remove(i);
        if let Some(ticket) = member.join {
            out.push(Answer::Join(ticket, Err(Error::UnknownMember)));
        }
        if let Some(ticket) = member.sync {
            out.push(Answer::Sync(ticket, Err(Error::UnknownMember)));
        }
        if let Some(instance) = &member.instance_id {
            self.instances.remove(instance);
        }
        if self.leader.as_ref() == Some(&member.id) {
            self.leader = self.members.first().map(|m| Arc::clone(&m.id));
        }
    }

    fn advance(&mut self) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
    }
}

#[cfg(test)]
mod tests;
