//! The one task behind all groups: lets sessions, rebalances and idle groups lapse, and forgets offsets that are of no
//! use any more. Sleeps until the earliest deadline; without members it does not wake at all.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Groups, Live, Shared, Slot, member::Uptime, offsets};
use crate::log::{self, StateWrite, TopicId, Urgency, Write};

/// How long a group without members is remembered (its type and generation; not its offsets).
const IDLE_MS: u64 = 10 * 60 * 1000;
/// How often old offsets are looked for, if they lapse at all.
const RETENTION_ROUND: Duration = Duration::from_secs(3600);
/// Nothing lapses before the daemon has run for so long: clients of a board that slept must get their chance.
const GRACE_MS: u64 = 24 * 60 * 60 * 1000;
/// 2024-01-01: a clock before this was never set.
const PLAUSIBLE_MS: i64 = 1_704_067_200_000;

impl Live {
    /// The next moment at which the timer task has something to do here.
    pub(super) fn deadline(&self) -> Option<Uptime> {
        let idle = self.idle_since.map(|since| since + IDLE_MS);
        self.group.deadline().into_iter().chain(idle).min()
    }
}

impl Groups {
    /// Runs the timers of all groups until `stop`, and forgets the offsets of deleted topics.
    ///
    /// # Errors
    /// [`log::Error`] when offsets cannot be forgotten; to be started again.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), log::Error> {
        let shared = &self.0;
        let mut topics = shared.log.topics();
        let mut known: BTreeSet<TopicId> = BTreeSet::new();
        let mut is_first = true;
        let mut round = tokio::time::interval(RETENTION_ROUND);
        loop {
            let ids: BTreeSet<TopicId> = topics.borrow_and_update().by_name.values().map(|t| t.id).collect();
            if is_first || !known.is_subset(&ids) {
                shared.apply(offsets::forget_orphans(&shared.log)?).await?;
            }
            (known, is_first) = (ids, false);
            let next = shared.tick();
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(shared.origin + Duration::from_millis(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep => {}
                () = shared.sooner.notified() => {}
                Ok(()) = topics.changed() => {}
                _ = round.tick(), if shared.config.offsets_retention_ms.is_some() => {
                    shared.apply(shared.lapsed_offsets()?).await?;
                }
            }
        }
    }
}

impl Shared {
    /// Lets lapse what has, in all groups, and says when to come again.
    pub(super) fn tick(&self) -> Option<Uptime> {
        // First open, then look: whoever moves a deadline while we look will wake us.
        self.wakes_at.store(u64::MAX, Ordering::SeqCst);
        let now = self.now();
        let slots: Vec<(Arc<str>, Arc<Slot>)> =
            self.lock().iter().map(|(name, slot)| (Arc::clone(name), Arc::clone(slot))).collect();
        let (mut next, mut members, mut idle) = (None::<Uptime>, 0, Vec::new());
        for (name, slot) in slots {
            let mut live = slot.lock();
            if live.group.deadline().is_some_and(|at| at <= now) {
                let mut out = Vec::new();
                live.group.tick(now, &mut out);
                self.settle(&mut live, out);
            }
            members += live.group.size();
            if live.idle_since.is_some_and(|since| since + IDLE_MS <= now) {
                idle.push(name);
            } else {
                next = next.into_iter().chain(live.deadline()).min();
            }
        }
        self.members.set(i64::try_from(members).unwrap_or(i64::MAX));
        let mut slots = self.lock();
        for name in idle {
            if slots.get(&name).is_some_and(|slot| slot.bury_if_idle()) {
                slots.remove(&name);
            }
        }
        drop(slots);
        if let Some(next) = next {
            self.wakes_at.fetch_min(next, Ordering::SeqCst);
        }
        next
    }

    /// Offsets older than the retention, of groups that nobody has used for a while.
    pub(super) fn lapsed_offsets(&self) -> Result<Vec<StateWrite>, log::Error> {
        let (Some(retention_ms), wall_ms) = (self.config.offsets_retention_ms, (self.clock)()) else {
            return Ok(Vec::new());
        };
        let (now, grace_ms) = (self.now(), GRACE_MS.min(retention_ms));
        let mut lapsed = Vec::new();
        if wall_ms < PLAUSIBLE_MS || now < grace_ms {
            return Ok(lapsed);
        }
        let oldest = wall_ms.saturating_sub(i64::try_from(retention_ms).unwrap_or(i64::MAX));
        for group in offsets::groups(&self.log)? {
            if self.find(&group).is_some_and(|slot| slot.lock().idle_since.is_none_or(|at| at + grace_ms > now)) {
                continue;
            }
            for (partition, committed) in offsets::of_group(&self.log, &group)? {
                let is_old = (PLAUSIBLE_MS..oldest).contains(&committed.timestamp_ms);
                let id = self.log.topics().borrow().get(&partition.topic).map(|t| t.id);
                if let (true, Some(id)) = (is_old, id) {
                    lapsed.push(offsets::forget(&group, &partition, id));
                }
            }
        }
        Ok(lapsed)
    }

    /// Commits state that nobody waits for; nothing is written if there is none.
    async fn apply(&self, state: Vec<StateWrite>) -> Result<(), log::Error> {
        if !state.is_empty() {
            self.log.commit(Write { batches: Vec::new(), state, urgency: Urgency::Unattended }).await?;
        }
        Ok(())
    }
}
