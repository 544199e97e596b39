//! What goes when: expired chunks, the rest of deleted topics, and the oldest where the quota or the map is full.
//!
//! Deleting rides in the commits that add, a few chunks each, so that pages are freed as fast as they are taken; only
//! retention and a full map make commits of their own. Bounds that nothing in the file would tell any more are staged
//! with the deletion. Never reads a record.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use heed::RwTxn;

use super::{
    Error, OnFull,
    commit::{Flush, Plan},
    layout::{CHUNKS, ChunkRef, PAGE_BYTES, pages},
    retention::{Expired, expired},
    store::Store,
    writer::{Staged, Writer},
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
}

impl Writer {
    pub(super) fn plan_garbage(&mut self, plan: &mut Plan) {
        plan.garbage = self.garbage.len().min(MOST_DELETED.saturating_sub(plan.deleted.len()));
        plan.deleted.extend(self.garbage.iter().take(plan.garbage));
    }

    /// Takes the oldest chunks while the quota is exceeded: two for each that is added, so that catching up is smooth.
    pub(super) fn plan_quota(&self, plan: &mut Plan, store: &Store, txn: &RwTxn<'_>, room: Room) -> heed::Result<()> {
        let incoming = self.incoming_journal_bytes(plan) / PAGE_BYTES as u64
            + 4
            + plan.seals.iter().map(|seal| pages(seal.chunk.value_bytes())).sum::<u64>();
        let freed: u64 = plan.deleted.iter().map(|(_, chunk)| pages(chunk.value_bytes())).sum();
        let limit = self.shared.quota_bytes / PAGE_BYTES as u64;
        let mut live = (self.live_pages + incoming).saturating_sub(freed);
        let is_urgent = room == Room::AtOnce;
        if (live <= limit || self.on_full == OnFull::Reject) && !is_urgent {
            return Ok(());
        }
        let most = if is_urgent { ROOM_CHUNKS } else { MOST_DELETED.max(2 * plan.seals.len()) };
        let planned: HashSet<u64> = plan.deleted.iter().map(|(_, chunk)| chunk.seal).collect();
        let mut count = 0;
        for item in store.db.prefix_iter(txn, &[CHUNKS])? {
            let (key, _) = item?;
            if count >= most || live <= limit && !is_urgent {
                break;
            }
            let Some((id, chunk)) = ChunkRef::from_key(key) else { continue };
            if planned.contains(&chunk.seal) {
                continue;
            }
            live = live.saturating_sub(pages(chunk.value_bytes()));
            plan.deleted.push((id, chunk));
            count += 1;
        }
        Ok(())
    }

    /// Bounds of partitions that deletion empties or that a replay of the journal would fill again, and the producers
    /// of sealed tails.
    pub(super) fn stage_what_deletion_and_sealing_need(&mut self, plan: &Plan) {
        // By partition: how many chunks go, and the offset after those that the journal may still hold too.
        let mut gone: HashMap<u32, (usize, Option<Offset>)> = HashMap::new();
        let oldest_seal = self.journal.oldest_seal();
        for (id, chunk) in &plan.deleted {
            let (count, after) = gone.entry(*id).or_default();
            // What was trimmed has left the index before; only what is still in it can leave a partition empty.
            let front = self.by_id.get(id).and_then(|part| part.lock().chunks.front().map(|front| front.seal));
            *count += usize::from(front.is_some_and(|front| front <= chunk.seal));
            if chunk.seal >= oldest_seal {
                *after = Some(chunk.last() + 1).max(*after);
            }
        }
        for (id, (count, after)) in gone {
            let Some(part) = self.by_id.get(&id).map(Arc::clone) else { continue };
            let inner = part.lock();
            let end = inner.next;
            let is_emptied = count > 0 && inner.chunks.len() == count && inner.tail.is_empty();
            let start = if is_emptied { Some(end) } else { after.map(|after| after.max(inner.bounds.start)) };
            drop(inner);
            if let Some(start) = start {
                self.stage_bounds(id, start, end);
            }
        }
        for seal in &plan.seals {
            let sealed = self.producers_of(&seal.part, seal.from..seal.to);
            self.stage_producers(sealed);
        }
    }

    /// Deletes what is too old or too much, a few chunks per commit. Writes nothing if nothing is.
    pub(super) fn retain(&mut self) -> Result<(), Error> {
        self.settle()?;
        let now_ms = (self.shared.clock)();
        let mut expired_chunks = Vec::new();
        let mut tails = Vec::new();
        for part in self.by_id.values() {
            let inner = part.lock();
            let limits = inner.policy.limits(&self.shared.defaults);
            let tail = (inner.written_bytes > 0).then_some((inner.tail_intake_s, inner.written_bytes as u64));
            let Expired { chunks, has_tail } = expired(inner.chunks.iter(), tail, inner.kept_bytes(), limits, now_ms);
            expired_chunks.extend(inner.chunks.iter().take(chunks).map(|chunk| (part.id, *chunk)));
            if has_tail {
                tails.push(Arc::clone(part));
            }
        }
        expired_chunks.sort_unstable_by_key(|(_, chunk)| chunk.seal);
        let mut left = expired_chunks.as_slice();
        while !left.is_empty() {
            let (now, later) = left.split_at(left.len().min(MOST_DELETED));
            left = later;
            if !self.flush_alone(now.to_vec())? {
                return Ok(());
            }
        }
        // A tail that is too old has no chunk before it any more. Its batches are skipped in the journal from now on.
        for part in &tails {
            let end = part.lock().bounds.high_watermark;
            self.stage_bounds(part.id, end, end);
            let gone = self.producers_of(part, 0..usize::MAX);
            self.stage_producers(gone);
        }
        if !tails.is_empty() {
            if !self.flush_alone(Vec::new())? {
                return Ok(());
            }
            self.settle()?;
            for part in tails {
                let end = part.lock().bounds.high_watermark;
                self.trim(&part, end);
            }
        }
        // The rest of deleted topics, and what a smaller quota no longer allows.
        while !self.garbage.is_empty() || self.is_quota_exceeded() {
            let (before, garbage) = (self.live_pages, self.garbage.len());
            let is_done = !self.flush_alone(Vec::new())?;
            if is_done || self.live_pages >= before && self.garbage.len() >= garbage {
                break;
            }
        }
        Ok(())
    }

    fn is_quota_exceeded(&self) -> bool {
        self.on_full == OnFull::DropOldest && self.live_pages * PAGE_BYTES as u64 > self.shared.quota_bytes
    }

    /// A commit nobody waits for. False if there was no room for it, which is tried again later.
    fn flush_alone(&mut self, expired: Vec<(u32, ChunkRef)>) -> Result<bool, Error> {
        // Deleting a large backlog takes minutes on a slow card, in which the thread is as alive as ever.
        self.shared.figures.heartbeat.fetch_add(1, Ordering::Relaxed);
        match self.flush_deleting(expired, Room::IfOver) {
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
        if self.on_full == OnFull::Reject {
            return Ok(false);
        }
        tracing::warn!("the log's map is full; the oldest records are deleted");
        // Twice, because LMDB gives pages back two transactions later.
        for _ in 0..2 {
            let before = self.live_pages;
            match self.flush_deleting(Vec::new(), Room::AtOnce) {
                Ok(()) if self.live_pages < before => {}
                Ok(()) => return Ok(false),
                Err(Flush::Full { .. }) => {
                    // The bounds staged for it would otherwise go out with the next commit, though nothing was deleted.
                    self.staged = Staged::default();
                    return Ok(false);
                }
                Err(Flush::Fatal(error)) => return Err(error),
            }
        }
        Ok(true)
    }
}
