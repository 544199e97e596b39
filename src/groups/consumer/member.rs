//! What a group knows of one member, and how that member gets from what it has to what it is meant to have.
//!
//! ```text
//!            target changed, nothing to give up         target changed, something to give up
//! Stable ◄──────────────────────────────── Stable ─────────────────────────────► Unrevoked
//!    ▲          all of it is free             │ somebody else still has some of it     │ the member no longer
//!    └───────────────────── Unreleased ◄──────┘ ◄───────────────────────────────────────┘ says that it owns it
//! ```
//!
//! Invariant: a partition is in `assigned` or `revoking` of at most one member of a group. What is given up stays with
//! its owner (`revoking`) until the owner's own words show that it has let go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    super::{
        Error,
        member::{Join, Uptime},
    },
    Heartbeat,
    assignor::{Assignor, TopicPartition},
    subscription::Subscription,
};
use crate::log::TopicId;

/// The epoch of a static member that has left for a while.
pub(super) const AWAY: i32 = -2;

/// How far a member is on its way to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has all that it can have.
    Stable,
    /// It has to give up partitions before it goes on.
    Unrevoked,
    /// Others have to give up partitions that it is meant to have.
    Unreleased,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: Arc<str>,
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) rack_id: Option<Arc<str>>,
    pub(super) client_id: Arc<str>,
    pub(super) client_host: Arc<str>,
    pub(super) rebalance_timeout_ms: u64,
    pub(super) assignor: Option<Assignor>,
    pub(super) subscription: Subscription,
    /// The topics that the subscription means, as far as they exist.
    pub(super) topics: BTreeSet<TopicId>,
    pub(super) epoch: i32,
    pub(super) previous_epoch: i32,
    pub(super) progress: Progress,
    /// What it may read, each with the epoch at which it was given.
    pub(super) assigned: BTreeMap<TopicPartition, i32>,
    /// What it has to give up and still has.
    pub(super) revoking: BTreeMap<TopicPartition, i32>,
    /// What it is meant to have.
    pub(super) target: BTreeSet<TopicPartition>,
    pub(super) session_ends: Uptime,
    /// By when it must have given up what it has to, or as a classic member have joined again.
    pub(super) revocation_ends: Option<Uptime>,
    /// How it last joined, if it speaks the classic protocol.
    pub(super) classic: Option<Join>,
}

impl Member {
    pub(super) fn new(id: Arc<str>) -> Self {
        Self {
            id,
            instance_id: None,
            rack_id: None,
            client_id: "".into(),
            client_host: "".into(),
            rebalance_timeout_ms: 0,
            assignor: None,
            subscription: Subscription::default(),
            topics: BTreeSet::new(),
            epoch: 0,
            previous_epoch: 0,
            progress: Progress::Stable,
            assigned: BTreeMap::new(),
            revoking: BTreeMap::new(),
            target: BTreeSet::new(),
            session_ends: 0,
            revocation_ends: None,
            classic: None,
        }
    }

    /// Does this epoch let the member go on? The one before does while it owns no more than it has: the answer that
    /// told it the new one may have been lost. Epoch 0 always does, the member begins anew.
    pub(super) fn check_epoch(&self, epoch: i32, owned: Option<&BTreeSet<TopicPartition>>) -> Result<(), Error> {
        let has_missed_the_last = || {
            epoch == self.previous_epoch && owned.is_some_and(|all| all.iter().all(|p| self.assigned.contains_key(p)))
        };
        if epoch == 0 || epoch == self.epoch || (epoch < self.epoch && has_missed_the_last()) {
            return Ok(());
        }
        Err(Error::FencedEpoch { claimed: epoch, current: self.epoch })
    }

    /// May an offset of this partition be committed under that epoch?
    pub(super) fn check_commit(&self, epoch: i32, partition: Option<TopicPartition>) -> Result<(), Error> {
        if epoch == self.epoch {
            return Ok(());
        }
        if self.classic.is_some() {
            return Err(Error::IllegalGeneration);
        }
        // An older epoch does for what it had already by then, and has still (KIP-1251).
        let since = partition.and_then(|p| self.assigned.get(&p).or_else(|| self.revoking.get(&p)));
        match since {
            Some(since) if (*since..self.epoch).contains(&epoch) => Ok(()),
            _ => Err(Error::StaleEpoch { claimed: epoch, current: self.epoch }),
        }
    }

    pub(super) fn holds(&self, partition: &TopicPartition) -> bool {
        self.assigned.contains_key(partition) || self.revoking.contains_key(partition)
    }

    pub(super) fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.progress == Progress::Stable && self.epoch == epoch
    }

    /// Goes on towards the target as far as the member's own words and the others' holdings allow. `is_free` says
    /// whether nobody else holds a partition.
    pub(super) fn reconcile(
        &mut self,
        now: Uptime,
        target_epoch: i32,
        owned: Option<&BTreeSet<TopicPartition>>,
        is_free: impl Fn(&TopicPartition) -> bool,
    ) {
        let epoch = match self.progress {
            Progress::Stable if self.epoch == target_epoch => return,
            Progress::Unrevoked if still_owns(&self.revoking, owned) => return,
            Progress::Unrevoked => self.epoch + 1,
            Progress::Stable | Progress::Unreleased => self.epoch,
        };
        let (mut assigned, revoking): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.assigned).into_iter().partition(|(p, _)| self.target.contains(p));
        if !revoking.is_empty() && still_owns(&revoking, owned) {
            (self.assigned, self.revoking, self.progress) = (assigned, revoking, Progress::Unrevoked);
            self.set_epoch(epoch);
            self.revocation_ends = Some(now + self.rebalance_timeout_ms);
            return;
        }
        let mut is_complete = true;
        for partition in &self.target {
            if assigned.contains_key(partition) {
                continue;
            }
            if is_free(partition) {
                assigned.insert(*partition, target_epoch);
            } else {
                is_complete = false;
            }
        }
        self.progress = if is_complete { Progress::Stable } else { Progress::Unreleased };
        (self.assigned, self.revoking) = (assigned, BTreeMap::new());
        self.set_epoch(target_epoch);
        self.revocation_ends = None;
    }

    fn set_epoch(&mut self, epoch: i32) {
        self.previous_epoch = std::mem::replace(&mut self.epoch, epoch);
    }

    /// Takes what the request says anew. True if it wants other topics than before.
    pub(super) fn update(&mut self, request: &Heartbeat, subscription: Subscription) -> bool {
        if let Some(instance) = &request.instance_id {
            self.instance_id = Some(Arc::clone(instance));
        }
        if let Some(rack) = &request.rack_id {
            self.rack_id = Some(Arc::clone(rack));
        }
        if let Ok(timeout_ms) = u64::try_from(request.rebalance_timeout_ms) {
            self.rebalance_timeout_ms = timeout_ms;
        }
        if let Some(assignor) = request.assignor.as_deref().and_then(Assignor::named) {
            self.assignor = Some(assignor);
        }
        self.client_id = Arc::clone(&request.client_id);
        self.client_host = Arc::clone(&request.client_host);
        let is_other = self.subscription != subscription;
        self.subscription = subscription;
        is_other
    }

    /// When the member is removed if nothing comes.
    pub(super) fn deadline(&self) -> Uptime {
        self.revocation_ends.map_or(self.session_ends, |ends| ends.min(self.session_ends))
    }

    /// Bytes that a client decided the size of, about.
    pub(super) fn size_bytes(&self) -> usize {
        let partitions = self.assigned.len() + self.revoking.len() + self.target.len() + self.topics.len();
        let instance = self.instance_id.as_ref().map_or(0, |id| id.len() * 2 + 64);
        let rack = self.rack_id.as_ref().map_or(0, |id| id.len());
        let texts = self.id.len() + self.client_id.len() + instance + rack + self.subscription.size_bytes();
        let classic = self.classic.as_ref().map_or(0, |join| {
            let protocols: usize = join.protocols.iter().map(|p| p.name.len() + p.metadata.len() + 64).sum();
            protocols + 256
        });
        texts + classic + 40 * partitions + 512
    }
}

/// A member that does not say what it owns still owns it.
fn still_owns(revoking: &BTreeMap<TopicPartition, i32>, owned: Option<&BTreeSet<TopicPartition>>) -> bool {
    owned.is_none_or(|owned| owned.iter().any(|p| revoking.contains_key(p)))
}
