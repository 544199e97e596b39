//! The writer's part in compaction: finds what is due, and puts rewritten chunks in the place of others.
//!
//! One commit deletes the old chunks and adds the new one under the seal of the last of them, so a power cut leaves the
//! one or the other and the order of seals stays that of offsets. Nothing else is deleted by such a commit. What no longer
//! is as compaction saw it is refused, and compaction looks again.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use bytes::Bytes;
use heed::RwTxn;

use super::{
    Compaction, Error,
    commit::Flush,
    compaction::{Dirty, Replacement},
    deletion::Room,
    dirt::dirt,
    layout::{PAGE_BYTES, pages, state_key},
    partition::Part,
    queue::Reply,
    shared::Shared,
    store::Store,
    writer::Writer,
};
use crate::record::Offset;

/// Owner of the offsets up to which partitions are compacted, by partition number.
const OWNER: &str = "compaction";

/// Replacements of one partition that the commit under way makes.
pub(super) struct Replacing {
    part: Arc<Part>,
    replacements: Vec<Replacement>,
}

impl Replacing {
    /// Pages of the new chunks.
    pub(super) fn pages(&self) -> u64 {
        self.replacements.iter().map(|one| pages(one.new.value_bytes())).sum()
    }

    /// Deletes the old chunks and writes the new ones.
    pub(super) fn write(&self, store: &Store, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        let id = self.part.id;
        for Replacement { old, new, batches } in &self.replacements {
            for chunk in old {
                store.delete(txn, &chunk.key(id))?;
            }
            let header = new.header(id, crc32c::crc32c(batches));
            store.put_between(txn, &new.key(id), &[&header, batches], new.value_bytes())?;
        }
        Ok(())
    }
}

/// Key of the offset up to which a partition is compacted.
pub(super) fn key(partition: u32) -> Vec<u8> {
    state_key(OWNER, &partition.to_be_bytes())
}

/// Takes in up to where partitions were compacted in earlier runs. What does not parse counts as never.
pub(super) fn restore(shared: &Shared, by_id: &HashMap<u32, Arc<Part>>) -> Result<(), Error> {
    for (id, offset) in shared.states(OWNER, b"")? {
        let part = id[..].try_into().ok().and_then(|id| by_id.get(&u32::from_be_bytes(id)));
        if let (Some(part), Ok(offset)) = (part, offset[..].try_into()) {
            part.lock().compacted_to = i64::from_be_bytes(offset);
        }
    }
    Ok(())
}

impl Writer {
    /// Calls for compaction if something is due.
    pub(super) fn call_compaction(&mut self) -> Result<(), Error> {
        self.seal_overdue()?;
        if self.find_dirty().is_some() {
            self.shared.compaction.call();
        }
        Ok(())
    }

    /// Seals the tails whose first record may stay as it is no longer: only what is sealed can be compacted.
    pub(super) fn seal_overdue(&mut self) -> Result<(), Error> {
        self.look_at_clock();
        let Some(now_ms) = self.now_ms else { return Ok(()) };
        let defaults = self.compaction_defaults();
        for (_, id) in &self.tails {
            let Some(part) = self.by_id.get(id) else { continue };
            let inner = part.lock();
            let Some(said) = inner.policy.compaction else { continue };
            let age_ms = now_ms.saturating_sub(i64::from(inner.tail_since_s) * 1_000);
            let is_stable = inner.open_from.is_none();
            if is_stable && inner.tail_since_s > 0 && age_ms > said.over(defaults).max_lag_ms {
                self.overdue.insert(*id);
            }
        }
        if self.overdue.is_empty() {
            return Ok(());
        }
        let result = self.flush_alone();
        self.overdue.clear();
        result?;
        self.settle()
    }

    fn compaction_defaults(&self) -> Compaction {
        *self.shared.defaults.compaction.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partition that needs it most: late ones first, then by the share that is dirty.
    pub(super) fn find_dirty(&mut self) -> Option<Dirty> {
        self.look_at_clock();
        let is_short = self.live_pages * PAGE_BYTES as u64 > self.shared.quota_bytes / 8 * 7;
        let defaults = self.compaction_defaults();
        let mut most: Option<((bool, f64), Dirty)> = None;
        for part in self.by_id.values() {
            let inner = part.lock();
            let Some(said) = inner.policy.compaction else { continue };
            let policy = said.over(defaults);
            let from = inner.compacted_to.max(inner.bounds.start);
            let look =
                |below| dirt(inner.chunks.iter(), |chunk| self.time.since_s(chunk), from, below, &policy, self.now_ms);
            let stable = inner.bounds.last_stable.min(inner.bounds.high_watermark);
            // What a link still wants is left to it as it is, while there is room and time.
            let mut found = look(stable.min(inner.mirrored()));
            if is_short || inner.mirrored() < stable && look(stable).is_late {
                found = look(stable);
            }
            let weight = (found.is_late, found.ratio);
            if found.is_due(&policy, is_short) && most.as_ref().is_none_or(|(known, _)| weight > *known) {
                let Self { now_ms, .. } = *self;
                let delete_retention_ms = policy.delete_retention_ms;
                most =
                    Some((weight, Dirty { part: Arc::clone(part), from, to: found.end, now_ms, delete_retention_ms }));
            }
        }
        most.map(|(_, dirty)| dirty)
    }

    /// Makes one step; answers false if the partition is not as compaction saw it, or there is no room.
    pub(super) fn replace(
        &mut self,
        part: Arc<Part>,
        replacements: Vec<Replacement>,
        done_to: Option<Offset>,
        reply: Reply<bool>,
    ) -> Result<(), Error> {
        if !self.is_replaceable(&part, &replacements)? {
            let _gone = reply.send(Ok(false));
            return Ok(());
        }
        if let Some(to) = done_to {
            self.stage_compacted(&part, to);
        }
        let result = if replacements.is_empty() {
            // Where nothing was to be replaced, how far it came rides along with the next commit.
            Ok(())
        } else {
            self.replacing = Some(Replacing { part: Arc::clone(&part), replacements });
            let result = self.flush_deleting(Room::Unasked);
            self.replacing = None;
            result
        };
        let (result, fatal) = match result {
            Ok(()) => {
                if let Some(to) = done_to {
                    part.lock().compacted_to = to;
                }
                (Ok(true), Ok(()))
            }
            Err(Flush::Full { .. }) => {
                self.rollback();
                (Ok(false), Ok(()))
            }
            Err(Flush::Fatal(error)) => {
                self.rollback();
                (Err(error.clone()), Err(error))
            }
        };
        let _gone = reply.send(result);
        fatal
    }

    /// Whether all is still there as it was, and LMDB may delete it.
    fn is_replaceable(&self, part: &Part, replacements: &[Replacement]) -> Result<bool, Error> {
        let inner = part.lock();
        let is_there = |one: &Replacement| inner.place_of(&one.old).is_some();
        if !part.is_live() || inner.policy.compaction.is_none() || !replacements.iter().all(is_there) {
            return Ok(false);
        }
        drop(inner);
        self.shared.with_store(|store| {
            let txn = store.read_txn()?;
            for chunk in replacements.iter().flat_map(|one| &one.old) {
                if !store.is_deletable(&txn, &chunk.key(part.id)).map_err(super::shared::unreadable)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Stages how far a pass came. What was aborted before the pass ahead of it is nowhere any more.
    fn stage_compacted(&mut self, part: &Part, to: Offset) {
        let mut inner = part.lock();
        let before = inner.compacted_to;
        let forgotten = inner.aborted.forget_before(before);
        drop(inner);
        for aborted in forgotten {
            self.staged.state.insert(aborted.key(part.id).into(), None);
        }
        let value = Some(Bytes::copy_from_slice(&to.to_be_bytes()));
        self.staged.state.insert(key(part.id).into(), value);
    }

    /// The index learns what the commit has replaced.
    pub(super) fn apply_replacing(&mut self, bytes: u64) {
        let Some(Replacing { part, replacements }) = self.replacing.take() else { return };
        let mut inner = part.lock();
        for Replacement { old, new, .. } in replacements {
            self.deleted_chunks += old.len() as u64;
            inner.replace_chunks(&old, new);
        }
        drop(inner);
        self.order.note(&part, 0);
        self.shared.figures.compaction_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
