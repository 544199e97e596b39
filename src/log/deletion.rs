//! What goes when, so that there is room: the one place where records are deleted without being asked.
//!
//! In this order: what has expired and no link of the mirror still wants; what is mirrored already, the least important
//! topic first (`brooklet.priority`, 9 before 0) and the oldest within; at last, unless the log is told to refuse
//! instead, what is not mirrored yet, in the same order. What is lost that way is entered into the gap ledger and told
//! in `brooklet.events` by the same commit. Time and size limits alone never delete what a link still wants.
//!
//! Deleting rides in the commits that add, a few chunks each, so that pages are freed as fast as they are taken; without
//! any, in commits of their own that let waiting writes go first. Never reads a record.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use serde_json::json;

use super::{
    Error, Event, EventKind, Gap, GapReason,
    commit::{Flush, Plan},
    events::EVENTS_TOPIC,
    gaps,
    layout::{ChunkRef, PAGE_BYTES, pages, state_key},
    order::Loss,
    partition::Part,
    retention::{Expired, expired},
    writer::Writer,
};
use crate::record::Offset;

/// Chunks deleted by one commit, beside two for each that it adds.
const MOST_DELETED: usize = 16;
/// Chunks deleted to make room where the map was full.
const ROOM_CHUNKS: usize = 8;

/// When the oldest chunks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// While the quota is exceeded.
    IfOver,
    /// In any case: the map was full.
    AtOnce,
    /// Not at all: the commit puts chunks in the place of others.
    Unasked,
}

/// The topic that is told of gaps must be there before the first commit that makes one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum EventsTopic {
    #[default]
    NotNeeded,
    Needed,
    /// Made, or it cannot be: deleting does not wait for it any more.
    Tried,
}

impl Writer {
    /// Chooses what this commit deletes, and stages what must be known of it afterwards.
    pub(super) fn plan_deletion(&mut self, plan: &mut Plan, room: Room) {
        if room == Room::Unasked {
            return;
        }
        self.plan_expired(plan);
        plan.garbage = self.garbage.len().min(MOST_DELETED.saturating_sub(plan.deleted.len()));
        plan.deleted.extend(self.garbage.iter().take(plan.garbage));
        self.plan_quota(plan, room);
        self.stage_gaps(plan);
        self.stage_emptied(plan);
    }

    fn plan_expired(&mut self, plan: &mut Plan) {
        while plan.deleted.len() < MOST_DELETED {
            let Some((id, chunk)) = self.expired.pop_front() else { break };
            let taken = self.fronts.get(&id).copied().unwrap_or(0);
            let front = self.by_id.get(&id).and_then(|part| part.lock().chunks.get(taken).map(|front| front.seal));
            // Trimmed, or deleted with its topic, since it was found.
            if front == Some(chunk.seal) {
                self.take_front(plan, id, GapReason::Retention);
            }
        }
    }

    /// While the quota is exceeded: two chunks for each that is added, so that catching up is smooth.
    fn plan_quota(&mut self, plan: &mut Plan, room: Room) {
        let incoming = self.incoming_pages(plan) + 4;
        let freed: u64 = plan.deleted.iter().map(|(_, chunk)| pages(chunk.value_bytes())).sum();
        let limit = self.shared.quota_bytes / PAGE_BYTES as u64;
        let mut live = (self.live_pages + incoming).saturating_sub(freed);
        let is_urgent = room == Room::AtOnce;
        let most = if is_urgent { ROOM_CHUNKS } else { MOST_DELETED.max(2 * plan.seals.len()) };
        if live > limit || is_urgent {
            self.hear_of_mirrored();
        }
        for _ in 0..most {
            if live <= limit && !is_urgent {
                break;
            }
            let Some((id, loss)) = self.order.next() else { break };
            if loss == Loss::Unmirrored && !is_urgent && self.events_topic != EventsTopic::Tried {
                self.events_topic = EventsTopic::Needed;
                break;
            }
            let Some(chunk) = self.take_front(plan, id, GapReason::Quota) else { break };
            live = live.saturating_sub(pages(chunk.value_bytes()));
        }
    }

    /// Plans to delete a partition's first chunk that is not planned yet.
    fn take_front(&mut self, plan: &mut Plan, id: u32, reason: GapReason) -> Option<ChunkRef> {
        let part = Arc::clone(self.by_id.get(&id)?);
        let taken = self.fronts.entry(id).or_default();
        let inner = part.lock();
        let chunk = *inner.chunks.get(*taken)?;
        let is_lost = chunk.last() >= inner.mirrored();
        drop(inner);
        *taken += 1;
        self.order.note(&part, *taken);
        plan.deleted.push((id, chunk));
        if is_lost {
            plan.lost.push((id, chunk, reason));
        }
        Some(chunk)
    }

    /// Moves the partitions of which more is mirrored now to their new places.
    pub(super) fn hear_of_mirrored(&mut self) {
        let moved = std::mem::take(&mut *self.shared.moved.lock().unwrap_or_else(PoisonError::into_inner));
        for part in moved.iter().filter_map(|id| self.by_id.get(id)) {
            self.order.note(part, 0);
        }
    }

    /// Enters what is lost into the ledger, and tells the centre.
    fn stage_gaps(&mut self, plan: &Plan) {
        let mut lost: BTreeMap<u32, Gap> = BTreeMap::new();
        for (id, chunk, reason) in &plan.lost {
            let Some(part) = self.by_id.get(id) else { continue };
            let offsets = chunk.base.max(part.lock().mirrored())..chunk.last() + 1;
            let span = u128::from(chunk.last_delta) + 1;
            let here = u64::try_from(offsets.end - offsets.start).unwrap_or(0);
            let bytes = u64::try_from(u128::from(chunk.length) * u128::from(here) / span).unwrap_or(0);
            let gap = lost.entry(*id).or_insert_with(|| Gap::new(&part.name, offsets.start, *reason));
            gap.to = offsets.end;
            gap.records += here;
            gap.bytes += bytes;
        }
        for gap in lost.into_values().filter(|gap| gap.records > 0) {
            self.stage_gap(gap);
        }
    }

    pub(super) fn stage_gap(&mut self, gap: Gap) {
        // Its own records go when they are too many, and must not make more of them.
        if &*gap.topic != EVENTS_TOPIC {
            let Gap { topic, partition, from, to, records, bytes, reason, .. } = &gap;
            let text = format!(
                "{records} records of {topic}-{partition} (offsets {from} to {}) were deleted before they were mirrored: {}",
                to - 1,
                reason.text()
            );
            let data = json!({ "topic": topic, "partition": partition, "from": from, "to": to, "records": records,
                "bytes": bytes, "reason": reason });
            self.stage_event(Event::new(EventKind::Gap, text, data));
        }
        for (key, value) in self.ledger.enter(gap, self.now_ms) {
            self.staged.state.insert(state_key(gaps::OWNER, &key).into(), value);
        }
    }

    /// Stages the bounds of partitions that deletion empties or that a replay of the journal would fill again.
    fn stage_emptied(&mut self, plan: &Plan) {
        let oldest_seal = self.journal.oldest_seal();
        // By partition: the offset after those that the journal may still hold too.
        let mut gone: BTreeMap<u32, Option<Offset>> = self.fronts.keys().map(|id| (*id, None)).collect();
        for (id, chunk) in plan.deleted.iter().filter(|(_, chunk)| chunk.seal >= oldest_seal) {
            // Behind a damaged chunk that was taken out the partition does not begin, if there is something before it.
            if self.by_id.get(id).is_some_and(|part| part.lock().is_hole(chunk.seal)) {
                continue;
            }
            let after = gone.entry(*id).or_default();
            *after = Some(chunk.last() + 1).max(*after);
        }
        for (id, after) in gone {
            let Some(part) = self.by_id.get(&id).map(Arc::clone) else { continue };
            let inner = part.lock();
            let end = inner.next;
            // What was trimmed has left the index before; only what is still in it can leave a partition empty.
            let taken = self.fronts.get(&id).copied().unwrap_or(0);
            let is_emptied = taken > 0 && inner.chunks.len() == taken && inner.tail.is_empty();
            let start = if is_emptied { Some(end) } else { after.map(|after| after.max(inner.bounds.start)) };
            drop(inner);
            if let Some(start) = start {
                self.stage_bounds(id, start, end);
            }
        }
    }

    /// After a commit: what was planned has happened, or is as it was.
    pub(super) fn settle_deletion(&mut self, is_durable: bool) {
        if is_durable {
            if self.ledger.keep() {
                let (records, bytes) = self.ledger.totals();
                self.shared.figures.gap_records.store(records, Ordering::Relaxed);
                self.shared.figures.gap_bytes.store(bytes, Ordering::Relaxed);
            }
        } else {
            self.ledger.rollback();
            self.time.was_not_written();
            // Found again by the next retention.
            self.expired.clear();
        }
        for (id, _) in std::mem::take(&mut self.fronts) {
            match self.by_id.get(&id) {
                Some(part) => self.order.note(part, 0),
                None => self.order.forget(id),
            }
        }
    }

    /// Makes the topic for events where the next deletion will have some to tell.
    pub(super) fn prepare_events(&mut self) -> Result<(), Error> {
        if self.events_topic == EventsTopic::Needed {
            self.make_events_topic()?;
            self.events_topic = EventsTopic::Tried;
        }
        Ok(())
    }

    /// Deletes what is too old or too much. Writes nothing if nothing is. Unless `is_patient` it stops as soon as other
    /// work waits; the rest goes with that and with the next tick.
    pub(super) fn retain(&mut self, is_patient: bool) -> Result<(), Error> {
        self.settle()?;
        let tails = self.find_expired();
        if !self.delete_backlog(is_patient)? {
            return Ok(());
        }
        // A tail that is too old has no chunk before it any more. Its batches are skipped in the journal from now on.
        for part in &tails {
            let end = part.lock().bounds.high_watermark;
            self.stage_bounds(part.id, end, end);
            let gone = self.producers_of(part, 0..usize::MAX);
            self.stage_producers(gone);
        }
        if !tails.is_empty() && self.flush_alone()? {
            self.settle()?;
            for part in tails {
                let end = part.lock().bounds.high_watermark;
                self.trim(&part, end);
            }
        }
        Ok(())
    }

    /// Finds the chunks that may go by age and size, oldest first, and gives out the partitions that go altogether.
    fn find_expired(&mut self) -> Vec<Arc<Part>> {
        self.look_at_clock();
        let (mut chunks, mut tails) = (Vec::new(), Vec::new());
        for part in self.by_id.values() {
            let inner = part.lock();
            let limits = inner.policy.limits(&self.shared.defaults);
            let tail = (inner.written_bytes > 0).then_some((inner.tail_intake_s, inner.written_bytes as u64));
            let Expired { chunks: count, has_tail } =
                expired(inner.chunks.iter(), |c| self.time.since_s(c), tail, inner.kept_bytes(), limits, self.now_ms);
            // What tells of gaps must not fill the log with itself through a long outage.
            let safe_to = if &*part.name.topic == EVENTS_TOPIC { Offset::MAX } else { inner.mirrored() };
            let gone = inner.chunks.iter().take(count).take_while(|chunk| chunk.last() < safe_to);
            chunks.extend(gone.map(|chunk| (part.id, *chunk)));
            if has_tail && inner.bounds.high_watermark <= safe_to {
                tails.push(Arc::clone(part));
            }
        }
        chunks.sort_unstable_by_key(|(_, chunk)| chunk.seal);
        self.expired = chunks.into();
        tails
    }

    /// Deletes in commits of its own what has expired, is left of deleted topics, or exceeds the quota. False if it
    /// stopped before the end.
    pub(super) fn delete_backlog(&mut self, is_patient: bool) -> Result<bool, Error> {
        self.prepare_events()?;
        while self.has_backlog() {
            let before = (self.live_pages, self.garbage.len(), self.expired.len(), self.events_topic);
            if !self.flush_alone()? {
                return Ok(false);
            }
            self.prepare_events()?;
            if before == (self.live_pages, self.garbage.len(), self.expired.len(), self.events_topic) {
                break;
            }
            if !is_patient && self.shared.queue.has_work() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Something could be deleted.
    pub(super) fn has_backlog(&mut self) -> bool {
        !self.garbage.is_empty()
            || !self.expired.is_empty()
            || self.live_pages * PAGE_BYTES as u64 > self.shared.quota_bytes && self.order.next().is_some()
    }

    /// A commit nobody waits for. False if there was no room for it, which is tried again later.
    pub(super) fn flush_alone(&mut self) -> Result<bool, Error> {
        // Deleting a large backlog takes minutes on a slow card, in which the thread is as alive as ever.
        self.shared.figures.heartbeat.fetch_add(1, Ordering::Relaxed);
        match self.flush_deleting(Room::IfOver) {
            Ok(()) => Ok(true),
            Err(Flush::Full { .. }) => {
                self.rollback();
                tracing::warn!("no room to delete from the log; it is tried again");
                Ok(false)
            }
            Err(Flush::Fatal(error)) => Err(error),
        }
    }

    /// After a full map: deletes the oldest chunks in small commits. False if there is nothing to delete.
    pub(super) fn make_room(&mut self) -> Result<bool, Error> {
        tracing::warn!("the log's map is full; the oldest records are deleted");
        // Twice, because LMDB gives pages back two transactions later.
        for _ in 0..2 {
            let before = self.live_pages;
            match self.flush_deleting(Room::AtOnce) {
                Ok(()) if self.live_pages < before => {}
                Ok(()) => return Ok(false),
                Err(Flush::Full { .. }) => {
                    // What was staged for it would otherwise go out with the next commit, though nothing was deleted.
                    self.rollback();
                    return Ok(false);
                }
                Err(Flush::Fatal(error)) => return Err(error),
            }
        }
        Ok(true)
    }
}
