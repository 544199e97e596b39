//! One transactional id as a pure state machine.
//!
//! Events come in with the uptime at which they happen; what they lead to comes out as the next machine, which its
//! owner makes durable before it takes its place. Never does I/O, never looks at a clock.
//!
//! ```text
//!           add, admit, stage                 end: one commit of the log
//! Empty ──────────────────────► Ongoing ──────────────────────────────► CompleteCommit, CompleteAbort
//!   ▲                              │  ▲                                     │        │
//!   └── init ──────────────────────┘  └──────────── add, admit, stage ──────┘        │
//!   ▲                                                                                │
//!   └── init ────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Kafka's states between (PrepareCommit, PrepareAbort, PrepareEpochFence) do not exist: the markers of all partitions,
//! the group offsets and the new state are one commit, so nobody ever sees a transaction half ended.
//!
//! Invariants (the property test holds them):
//! - only the owner, by id and epoch, changes anything; every new owner has a greater epoch or another id;
//! - markers carry at least the epoch of what they end, and with the second version of the protocol a greater one;
//! - a retried request that was answered before changes nothing and gets the same answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Error;
use crate::{
    groups::offsets::Committed,
    log::TopicId,
    record::{Outcome, Partition},
};

/// Milliseconds since the daemon started.
pub(super) type Uptime = u64;

/// Groups whose positions one transaction may commit. Clients have one or two.
const MOST_GROUPS: usize = 100;

/// A producer id and its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The producer id; -1 for none.
    pub id: i64,
    /// Its epoch; -1 for none.
    pub epoch: i16,
}

impl Identity {
    pub(super) const NONE: Self = Self { id: -1, epoch: -1 };

    /// The last epoch is kept for fencing.
    pub(super) fn is_exhausted(self) -> bool {
        self.epoch >= i16::MAX - 1
    }

    fn next(self) -> Self {
        Self { epoch: self.epoch.saturating_add(1), ..self }
    }
}

/// Where a transactional id stands; the names are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing since the last initialisation.
    Empty,
    /// A transaction is open.
    Ongoing,
    /// The last one was committed.
    CompleteCommit,
    /// The last one was aborted.
    CompleteAbort,
    /// Forgotten.
    Dead,
}

impl State {
    /// The name that Kafka's tools know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
        }
    }

    fn after(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Commit => Self::CompleteCommit,
            Outcome::Abort => Self::CompleteAbort,
        }
    }
}

/// Which version of the transaction protocol a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Partitions and groups are added by requests of their own, and the epoch stays.
    First,
    /// What is written is thereby added, and every end gives the producer another epoch (KIP-890).
    Second,
}

/// Whose position in what, by group, topic and partition.
pub(super) type Place = (Arc<str>, TopicId, i32);

/// A position that is committed with the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Staged {
    /// Its number within the transaction, for its key in the log's state.
    pub(super) slot: u32,
    pub(super) committed: Committed,
}

/// When a transaction began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Began {
    pub(super) at: Uptime,
    /// For people, in milliseconds since 1970.
    pub(super) wall_ms: i64,
}

/// One transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) state: State,
    /// Who may act.
    pub(super) owner: Identity,
    /// Who the owner was before he was given another identity, in case he did not hear of it.
    pub(super) former: Option<Identity>,
    pub(super) timeout_ms: i32,
    pub(super) partitions: BTreeSet<Partition>,
    pub(super) groups: BTreeSet<Arc<str>>,
    pub(super) staged: BTreeMap<Place, Staged>,
    /// When the open transaction began, or the last one.
    pub(super) began: Option<Began>,
    pub(super) used: Uptime,
}

/// What an event leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Takes the machine's place once everything is durable.
    pub(super) next: Machine,
    /// How the open transaction ends, and the epoch of its markers.
    pub(super) ends: Option<(Outcome, i16)>,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self {
            state: State::Empty,
            owner: Identity::NONE,
            former: None,
            timeout_ms: 0,
            partitions: BTreeSet::new(),
            groups: BTreeSet::new(),
            staged: BTreeMap::new(),
            began: None,
            used: 0,
        }
    }

    /// The next identity needs another producer id.
    pub(super) fn needs_id(&self) -> bool {
        self.owner.id < 0 || self.owner.is_exhausted()
    }

    /// When an open transaction has taken too long.
    pub(super) fn deadline(&self) -> Option<Uptime> {
        let began = self.began.filter(|_| self.state == State::Ongoing)?;
        Some(began.at + u64::try_from(self.timeout_ms).unwrap_or(0))
    }

    /// A producer starts, or starts again: whoever used the id before is fenced. `claimed` is who it says it was
    /// (KIP-360); `fresh` a new producer id if [`Machine::needs_id`].
    pub(super) fn init(
        &self,
        now: Uptime,
        claimed: Option<Identity>,
        timeout_ms: i32,
        fresh: i64,
    ) -> Result<Turn, Error> {
        let is_ongoing = self.state == State::Ongoing;
        let other = Identity { id: fresh, epoch: 0 };
        let (owner, former) = match claimed {
            _ if self.owner.epoch < 0 => (other, None),
            // The answer to the same request was lost.
            Some(_) if claimed == self.former && !is_ongoing => (self.owner, self.former),
            Some(claimed) if claimed != self.owner => return Err(Error::Fenced),
            _ => {
                let owner = if self.owner.is_exhausted() { other } else { self.owner.next() };
                (owner, claimed)
            }
        };
        let next = Self { owner, former, timeout_ms, began: None, ..self.emptied(State::Empty, now) };
        Ok(Turn { next, ends: is_ongoing.then(|| (Outcome::Abort, self.owner.next().epoch)) })
    }

    /// Adds partitions and groups to the transaction, and opens it. `None` if all are part of it.
    pub(super) fn add(
        &self,
        now: Began,
        who: Identity,
        partitions: impl IntoIterator<Item = Partition>,
        group: Option<Arc<str>>,
    ) -> Result<Option<Turn>, Error> {
        self.check(who)?;
        let mut next = self.begun(now);
        next.partitions.extend(partitions);
        next.groups.extend(group);
        next.check_groups()?;
        let is_new = self.state != State::Ongoing
            || next.partitions.len() > self.partitions.len()
            || next.groups.len() > self.groups.len();
        Ok(is_new.then_some(Turn { next, ends: None }))
    }

    /// Whether a batch may be written, and with the second version: makes its partition part of the transaction. That
    /// need not be made durable, because the batch says it.
    pub(super) fn admit(&mut self, now: Began, who: Identity, partition: &Partition, flow: Flow) -> Result<(), Error> {
        self.check(who)?;
        if self.state == State::Ongoing && self.partitions.contains(partition) {
            self.used = now.at;
            return Ok(());
        }
        if flow == Flow::First {
            return Err(Error::NotInTransaction);
        }
        if self.state != State::Ongoing {
            *self = self.begun(now);
        }
        self.partitions.insert(partition.clone());
        Ok(())
    }

    /// Takes a group's positions into the transaction.
    pub(super) fn stage(
        &self,
        now: Began,
        who: Identity,
        group: &Arc<str>,
        positions: Vec<(TopicId, i32, Committed)>,
        flow: Flow,
    ) -> Result<Turn, Error> {
        self.check(who)?;
        if flow == Flow::First && !(self.state == State::Ongoing && self.groups.contains(group)) {
            return Err(Error::NotInTransaction);
        }
        let mut next = self.begun(now);
        next.groups.insert(Arc::clone(group));
        next.check_groups()?;
        for (topic_id, index, committed) in positions {
            let free = u32::try_from(next.staged.len()).unwrap_or(u32::MAX);
            let place = (Arc::clone(group), topic_id, index);
            let slot = next.staged.get(&place).map_or(free, |known| known.slot);
            next.staged.insert(place, Staged { slot, committed });
        }
        Ok(Turn { next, ends: None })
    }

    /// The producer ends its transaction. `None` if that has been done: the answer is the owner then. `fresh` is a new
    /// producer id if [`Machine::needs_id`] and the flow is the second.
    pub(super) fn end(
        &self,
        now: Uptime,
        who: Identity,
        outcome: Outcome,
        flow: Flow,
        fresh: i64,
    ) -> Result<Option<Turn>, Error> {
        let is_done = self.state == State::after(outcome);
        let has_ended = matches!(self.state, State::CompleteCommit | State::CompleteAbort);
        if flow == Flow::Second && has_ended && Some(who) == self.former {
            return if is_done { Ok(None) } else { Err(Error::InvalidState) };
        }
        self.check(who)?;
        match flow {
            Flow::First if is_done => return Ok(None),
            Flow::First if self.state != State::Ongoing => return Err(Error::InvalidState),
            // What was to be part of it may never have arrived; an abort makes sure that it never will.
            Flow::Second if self.state != State::Ongoing && outcome == Outcome::Commit => {
                return Err(Error::InvalidState);
            }
            _ => {}
        }
        let mut next = self.emptied(State::after(outcome), now);
        next.former = None;
        let mut epoch = self.owner.epoch;
        if flow == Flow::Second {
            epoch = self.owner.next().epoch;
            next.former = Some(self.owner);
            next.owner = if self.owner.is_exhausted() { Identity { id: fresh, epoch: 0 } } else { self.owner.next() };
        }
        Ok(Some(Turn { next, ends: Some((outcome, epoch)) }))
    }

    /// Aborts a transaction that has taken too long and fences its producer.
    pub(super) fn expire(&self, now: Uptime) -> Option<Turn> {
        self.deadline().filter(|deadline| *deadline <= now)?;
        let mut next = self.emptied(State::CompleteAbort, now);
        next.owner = self.owner.next();
        next.former = None;
        let ends = Some((Outcome::Abort, next.owner.epoch));
        Some(Turn { next, ends })
    }

    /// Only the owner may act.
    pub(super) fn check(&self, who: Identity) -> Result<(), Error> {
        if self.owner.id < 0 || who.id != self.owner.id {
            return Err(Error::UnknownProducer);
        }
        if who.epoch == self.owner.epoch { Ok(()) } else { Err(Error::Fenced) }
    }

    fn check_groups(&self) -> Result<(), Error> {
        if self.groups.len() > MOST_GROUPS { Err(Error::TooMuch) } else { Ok(()) }
    }

    fn begun(&self, now: Began) -> Self {
        if self.state == State::Ongoing {
            return Self { used: now.at, ..self.clone() };
        }
        Self { began: Some(now), ..self.emptied(State::Ongoing, now.at) }
    }

    fn emptied(&self, state: State, now: Uptime) -> Self {
        let Self { owner, former, timeout_ms, began, .. } = *self;
        Self { state, owner, former, timeout_ms, began, used: now, ..Self::new() }
    }
}

#[cfg(test)]
mod tests;
