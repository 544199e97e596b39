//! One commit: what is sealed, what goes into the journal, the transaction, and what RAM learns.
//!
//! Planned from RAM, written in one LMDB transaction, applied to the writer's RAM once it is in the file and shown to
//! readers only once it is durable. New batches go into one
//! journal entry for all partitions, so the pages of a commit do not grow with the number of partitions; a tail that
//! reaches a chunk's size is sealed, a large batch at once without the journal. The oldest tails are sealed early
//! where they keep the journal longer than its cap. Deleting rides in the commits that add.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;
use heed::RwTxn;

use super::{
    Durability, Error, GapReason, KernelTime,
    clock::intake_s,
    deletion::Room,
    header::{Header, headers},
    journal::Entry,
    layout::{
        CHUNK_BYTES, CHUNK_HEADER_BYTES, ChunkRef, ENTRY_BYTES, ENTRY_HEADER_BYTES, FRAME_HEADER_BYTES, PAGE_BYTES,
        close_entry, journal_key, open_entry, pages, put_batches, put_note, put_state, state_bytes, state_key,
    },
    overlay::Held,
    partition::Part,
    replacement::Replacing,
    staging::Staged,
    store::Store,
    wear,
    writer::Writer,
};

/// New batches of one partition that reach this are sealed without a stay in the journal.
const DIRECT_BYTES: usize = CHUNK_BYTES / 2;
/// Journal cap, and the one where there are more tails than this. A longer journal of short entries gives the tree a third
/// level: with 1 MiB a trickle in commits of 50 ms wrote 46.6 bytes per batch byte instead of 38.5. With a shorter one
/// tails are sealed small: with 256 KiB a hundred partitions wrote 2.1 times as much as one instead of 1.4.
const JOURNAL_BYTES: u64 = 512 << 10;
const JOURNAL_MANY_BYTES: u64 = 4 << 20;
const MANY_TAILS: usize = 200;
/// Tails sealed before their time by one commit.
const MOST_FORCED: usize = 64;
/// Pages of the tree and the list of free pages that a commit may write beside its values.
const COMMIT_PAGES: u64 = 64;
/// Buffers kept between commits have at most this.
const KEPT_BUFFER_BYTES: usize = 128 << 10;

/// Why a commit did not happen. RAM is still as staged; the caller takes it back.
#[derive(Debug)]
pub(super) enum Flush {
    /// No room, neither in the map nor, if so said, on the disk. A full disk is no reason to delete what was
    /// acknowledged: somebody else may have filled it.
    Full { is_disk: bool },
    /// The state of the file is unknown, or the environment refuses to go on.
    Fatal(Error),
}

/// A tail's front that becomes a chunk: `from..to` of the tail.
pub(super) struct Seal {
    pub(super) part: Arc<Part>,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) chunk: ChunkRef,
}

/// Everything a commit will do.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) seals: Vec<Seal>,
    /// How much of each sealed tail goes into chunks.
    sealed_to: HashMap<u32, usize>,
    /// Lengths of the journal entries in the writer's buffer, and the state keys of each.
    entries: Vec<(usize, Vec<Box<[u8]>>)>,
    /// Journal entry that holds the first batch of each touched partition.
    first_seq: HashMap<u32, u64>,
    /// Entries to cut off the journal's head.
    trimmed: usize,
    /// State that leaves the journal with them.
    moved: BTreeMap<Box<[u8]>, Option<Bytes>>,
    pub(super) deleted: Vec<(u32, ChunkRef)>,
    /// Those of the deleted with records that a link still wants.
    pub(super) lost: Vec<(u32, ChunkRef, GapReason)>,
    /// How many of the deleted are from the garbage.
    pub(super) garbage: usize,
    intake_s: u32,
}

impl Writer {
    /// Makes everything staged durable and visible. Does nothing if nothing is staged.
    pub(super) fn flush(&mut self) -> Result<(), Flush> {
        if self.staged.touched.is_empty() && self.staged.state.is_empty() {
            return Ok(());
        }
        self.flush_deleting(Room::IfOver)
    }

    /// The same even if nothing is staged, for what it deletes.
    pub(super) fn flush_deleting(&mut self, room: Room) -> Result<(), Flush> {
        let result = self.transact(room);
        self.settle_deletion(result.is_ok());
        result
    }

    fn transact(&mut self, room: Room) -> Result<(), Flush> {
        self.look_at_clock();
        let mut plan = Plan { intake_s: intake_s(self.now_ms), ..Plan::default() };
        self.plan_seals(&mut plan);
        self.plan_forced_seals(&mut plan);
        self.plan_deletion(&mut plan, room);
        for seal in &plan.seals {
            let sealed = self.producers_of(&seal.part, seal.from..seal.to);
            self.stage_producers(sealed);
        }

        let shared = Arc::clone(&self.shared);
        let store = shared.store();
        let store = store.as_ref().ok_or_else(|| Flush::Fatal(shared.queue.why_closed()))?;
        let incoming = self.incoming_pages(&plan);
        let has_room = store.has_room(2 * incoming + COMMIT_PAGES, self.shared.quota_bytes);
        let before = self.meter.bytes();
        let mut txn = store.write_txn().map_err(|e| fatal(&e))?;
        self.note_wear();
        self.stage_time();
        self.fill_entries(&mut plan);
        self.plan_trim(&mut plan);

        let written = self.write_txn(&plan, store, &mut txn).and_then(|()| store.db.stat(&txn));
        let committed = written.and_then(|stat| store.commit(txn).map(|()| stat));
        let stat = match committed {
            Ok(stat) => stat,
            Err(error) => {
                let failure = failure(has_room, &error);
                // A failed write of the meta page leaves the environment unusable; its next transaction says so.
                return Err(match store.write_txn() {
                    Ok(_aborted) => failure,
                    Err(e) => fatal(&e),
                });
            }
        };
        self.live_pages = (stat.branch_pages + stat.leaf_pages + stat.overflow_pages) as u64;
        let figures = &self.shared.figures;
        figures.live_pages.store(self.live_pages, Ordering::Relaxed);
        figures.commits.fetch_add(1, Ordering::Relaxed);
        let payload_bytes = self.staged.bytes as u64;
        figures.ingested_bytes.fetch_add(payload_bytes, Ordering::Relaxed);
        let bytes = match (before, self.meter.bytes()) {
            (Some(before), Some(after)) => (after - before).next_multiple_of(PAGE_BYTES as u64),
            _ => self.estimate(&plan),
        };
        self.count_written(bytes, payload_bytes);
        self.last_commit_bytes = bytes;
        // The flush of this commit has made the one before durable, whatever the level.
        self.publish();
        self.apply_replacing(bytes);
        self.apply(plan);
        self.group_is_written();
        match self.durability {
            Durability::Strict => self.publish(),
            Durability::Pipelined => self.unpublished.is_pending = true,
        }
        Ok(())
    }

    /// Cuts full chunks off the tails that new batches made long.
    fn plan_seals(&mut self, plan: &mut Plan) {
        for part in &self.staged.touched {
            let inner = part.lock();
            let mut from = 0;
            // What was sealed in part is sealed as far as it was durable: the journal forgets that.
            while (1..inner.written_bytes).contains(&from)
                || inner.tail.len() - from > CHUNK_BYTES
                || inner.tail.len() - from.max(inner.written_bytes) >= DIRECT_BYTES
            {
                let (to, chunk) = cut(&inner.tail, from, self.next_seal, plan.intake_s);
                self.next_seal += 1;
                plan.seals.push(Seal { part: Arc::clone(part), from, to, chunk });
                plan.sealed_to.insert(part.id, to);
                from = to;
            }
        }
    }

    /// Seals the oldest tails while they keep the journal beyond its cap, and those that compaction may wait for no longer.
    fn plan_forced_seals(&mut self, plan: &mut Plan) {
        let cap = self.journal_cap();
        let incoming = self.incoming_journal_bytes(plan);
        let is_long = self.journal.bytes() + incoming > cap;
        if !is_long && self.overdue.is_empty() {
            return;
        }
        let mut forced = Vec::new();
        for (seq, id) in self.tails.iter().filter(|(_, id)| !plan.sealed_to.contains_key(id)) {
            if forced.len() >= MOST_FORCED {
                break;
            }
            // What compaction waits for goes whatever the journal's length.
            if self.overdue.contains(id) || is_long && self.journal.bytes_from(*seq) + incoming > cap {
                forced.push(*id);
            }
        }
        for id in forced {
            let part = Arc::clone(&self.by_id[&id]);
            let inner = part.lock();
            let intake_s = if inner.is_touched { plan.intake_s } else { inner.tail_intake_s };
            let mut from = 0;
            while from < inner.written_bytes {
                let (to, chunk) = cut(&inner.tail, from, self.next_seal, intake_s);
                self.next_seal += 1;
                plan.seals.push(Seal { part: Arc::clone(&part), from, to, chunk });
                from = to;
            }
            plan.sealed_to.insert(id, from);
        }
    }

    fn journal_cap(&self) -> u64 {
        let cap = if self.tails.len() > MANY_TAILS { JOURNAL_MANY_BYTES } else { JOURNAL_BYTES };
        cap.min(self.shared.quota_bytes / 4)
    }

    /// What the journal entries of this commit will take, about.
    fn incoming_journal_bytes(&self, plan: &Plan) -> u64 {
        let batches: usize = self.staged.touched.iter().map(|part| journaled(part, plan).map_or(0, |r| r.len())).sum();
        let state: usize = self.staged.state.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Bytes::len)).sum();
        pages(batches + state) * PAGE_BYTES as u64
    }

    /// What the values of this commit will take, about.
    pub(super) fn incoming_pages(&self, plan: &Plan) -> u64 {
        let sealed: u64 = plan.seals.iter().map(|seal| pages(seal.chunk.value_bytes())).sum();
        let replaced = self.replacing.as_ref().map_or(0, Replacing::pages);
        self.incoming_journal_bytes(plan) / PAGE_BYTES as u64 + sealed + replaced
    }

    /// Writes the journal entries into the buffer.
    fn fill_entries(&mut self, plan: &mut Plan) {
        self.buffer.clear();
        let mut open: Option<(usize, Vec<Box<[u8]>>)> = None;
        let mut entries = Vec::new();
        let next_seq = self.journal.next_seq();
        let (boot_id, now_ms) = (self.boot.id, self.now_ms.unwrap_or(0));
        let KernelTime { uptime_ms, is_synchronised } = self.kernel;
        let buffer = &mut self.buffer;
        // Starts another entry where this frame would make the open one too long to find its pages in one piece.
        let mut room = |buffer: &mut Vec<u8>, open: &mut Option<(usize, Vec<Box<[u8]>>)>, frame: usize| {
            if let Some((start, _)) = open
                && buffer.len() - *start + frame > ENTRY_BYTES
            {
                let (start, keys) = open.take().expect("just seen");
                close_entry(&mut buffer[start..]);
                entries.push((buffer.len() - start, keys));
            }
            if open.is_none() {
                *open = Some((buffer.len(), Vec::new()));
                open_entry(buffer, now_ms, next_seq + entries.len() as u64);
                put_note(buffer, boot_id, uptime_ms, is_synchronised);
            }
            next_seq + entries.len() as u64
        };
        for part in &self.staged.touched {
            let Some(range) = journaled(part, plan) else { continue };
            let inner = part.lock();
            let bytes = &inner.tail[range];
            let Some(Header { base, .. }) = Header::parse(bytes) else { continue };
            let seq = room(buffer, &mut open, FRAME_HEADER_BYTES + bytes.len());
            plan.first_seq.insert(part.id, seq);
            put_batches(buffer, part.id, base, bytes);
        }
        for (key, value) in &self.staged.state {
            let length = key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_HEADER_BYTES;
            room(buffer, &mut open, length);
            put_state(buffer, key, value.as_deref());
            if let Some((_, keys)) = &mut open {
                keys.push(key.clone());
            }
        }
        if let Some((start, keys)) = open {
            close_entry(&mut buffer[start..]);
            entries.push((buffer.len() - start, keys));
        }
        plan.entries = entries;
    }

    /// Counts the entries at the journal's head that nothing needs any more, and the state to move out of them.
    fn plan_trim(&mut self, plan: &mut Plan) {
        let oldest_tail = self.tails.iter().find(|(_, id)| !plan.sealed_to.contains_key(id)).map(|(seq, _)| *seq);
        let cut_to = oldest_tail.unwrap_or_else(|| self.journal.next_seq());
        let incoming: u64 = plan.entries.iter().map(|(length, _)| pages(*length) * PAGE_BYTES as u64).sum();
        let mut bytes = self.journal.bytes() + incoming;
        let cap = self.journal_cap();
        let overlay = self.shared.overlay.read().unwrap_or_else(PoisonError::into_inner);
        for entry in self.journal.before(cut_to) {
            let newest = entry.keys.iter().filter_map(|key| {
                let held = overlay.newest(key)?;
                (held.seq == entry.seq && !self.staged.state.contains_key(key)).then_some((key, held))
            });
            let newest: Vec<_> = newest.collect();
            // State that may change again soon stays where it costs nothing, while there is room.
            if !newest.is_empty() && bytes <= cap / 2 {
                break;
            }
            for (key, held) in newest {
                plan.moved.insert(key.clone(), held.value.clone());
            }
            bytes = bytes.saturating_sub(entry.bytes);
            plan.trimmed += 1;
        }
    }

    fn write_txn(&self, plan: &Plan, store: &Store, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        let db = &store.db;
        for (id, chunk) in &plan.deleted {
            store.delete(txn, &chunk.key(*id))?;
        }
        for entry in self.journal.before(u64::MAX).take(plan.trimmed) {
            store.delete(txn, &journal_key(entry.seq))?;
        }
        if let Some(replacing) = &self.replacing {
            replacing.write(store, txn)?;
        }
        let (mut at, mut seq) = (0, self.journal.next_seq());
        for (length, _) in &plan.entries {
            db.put(txn, &journal_key(seq), &self.buffer[at..at + length])?;
            at += length;
            seq += 1;
        }
        for (key, value) in &plan.moved {
            store.set(txn, key, value.as_ref().map(|value| state_bytes(key, value)).as_deref())?;
        }
        for Seal { part, from, to, chunk } in &plan.seals {
            let inner = part.lock();
            let batches = &inner.tail[*from..*to];
            let header = chunk.header(part.id, crc32c::crc32c(batches));
            store.append(txn, &chunk.key(part.id), &[&header, batches], chunk.value_bytes())?;
        }
        Ok(())
    }

    /// RAM learns what is in the file now. Readers do not, but for what has gone from it.
    fn apply(&mut self, plan: Plan) {
        let first_seq = self.journal.next_seq();
        {
            let mut overlay = self.shared.overlay.write().unwrap_or_else(PoisonError::into_inner);
            for key in plan.moved.keys() {
                overlay.remove(key);
            }
            self.journal.trim(plan.trimmed);
            let Staged { state, .. } = &mut self.staged;
            for (index, (length, keys)) in plan.entries.into_iter().enumerate() {
                let seq = first_seq + index as u64;
                for key in &keys {
                    let value = state.remove(key).flatten();
                    overlay.write(key, Held { value, seq });
                }
                let bytes = pages(length) * PAGE_BYTES as u64;
                self.journal.push(Entry { seq, bytes, seal: self.next_seal, keys });
            }
        }
        for (id, chunk) in &plan.deleted {
            let Some(part) = self.by_id.get(id) else { continue };
            let mut inner = part.lock();
            if inner.chunks.front().is_some_and(|front| front.seal == chunk.seal) {
                inner.pop_chunk();
                // At once, so that no reader steps over what has gone without hearing of it.
                let start = inner.first_kept().max(inner.bounds.start);
                let high_watermark = inner.bounds.high_watermark;
                inner.publish(start, high_watermark);
            }
        }
        self.garbage.drain(..plan.garbage);
        self.deleted_chunks += plan.deleted.len() as u64;

        for Seal { part, chunk, .. } in &plan.seals {
            part.lock().push_chunk(*chunk);
        }
        // Sealed tails first lose their front, then all touched tails count as written.
        for (id, to) in &plan.sealed_to {
            let part = &self.by_id[id];
            let mut inner = part.lock();
            self.tails.remove(&(inner.tail_seq, *id));
            inner.drop_tail(*to);
        }
        if plan.intake_s == 0 {
            self.time.dark();
        }
        let Staged { touched, aborted, .. } = std::mem::take(&mut self.staged);
        for (part, aborted) in aborted {
            part.lock().aborted.push(aborted);
        }
        for part in &touched {
            let mut inner = part.lock();
            inner.written_open_from = self.producers.first_open(part.id);
            inner.is_touched = false;
            if plan.intake_s > 0 {
                inner.tail_intake_s = plan.intake_s;
            }
            if inner.written_bytes == 0
                && !inner.tail.is_empty()
                && let Some(seq) = plan.first_seq.get(&part.id)
            {
                inner.tail_seq = *seq;
                inner.tail_since_s = plan.intake_s;
                self.tails.insert((*seq, part.id));
            }
            inner.written_bytes = inner.tail.len();
            inner.written = inner.next;
        }
        for seal in &plan.seals {
            self.order.note(&seal.part, 0);
        }
        let unpublished = &mut self.unpublished.parts;
        unpublished.extend(touched);
        unpublished.extend(plan.deleted.iter().filter_map(|(id, _)| self.by_id.get(id).map(Arc::clone)));
        unpublished.extend(plan.seals.into_iter().map(|seal| seal.part));
        self.producers.keep();
        if self.producers.is_crowded() {
            self.forget_producers(std::time::Instant::now());
        }
        if self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
    }

    /// Lets the counts of bytes written ride along, now and then.
    fn note_wear(&mut self) {
        let noted = self.shared.wear.lock().unwrap_or_else(PoisonError::into_inner).note(Instant::now());
        if let Some(noted) = noted {
            self.staged.state.insert(state_key("", wear::KEY).into(), Some(noted.into()));
        }
    }

    /// Counts what was written, and spares the card where that is too much.
    pub(super) fn count_written(&self, bytes: u64, payload_bytes: u64) {
        self.shared.figures.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut wear = self.shared.wear.lock().unwrap_or_else(PoisonError::into_inner);
        let spared_until = wear.spend(bytes, payload_bytes, Instant::now());
        drop(wear);
        self.shared.queue.spare_until(spared_until);
    }

    /// What a commit writes where the kernel does not count: values, and the pages of the tree around them.
    fn estimate(&self, plan: &Plan) -> u64 {
        let entries: u64 = plan.entries.iter().map(|(length, _)| pages(*length)).sum();
        let chunks: u64 = plan.seals.iter().map(|seal| pages(seal.chunk.value_bytes())).sum();
        let replaced = self.replacing.as_ref().map_or(0, Replacing::pages);
        (entries + chunks + replaced + 6) * PAGE_BYTES as u64
    }
}

/// The part of a touched tail that goes into the journal.
fn journaled(part: &Arc<Part>, plan: &Plan) -> Option<std::ops::Range<usize>> {
    let inner = part.lock();
    let from = plan.sealed_to.get(&part.id).map_or(inner.written_bytes, |to| inner.written_bytes.max(*to));
    (from < inner.tail.len()).then_some(from..inner.tail.len())
}

/// As many batches from `from` on as a chunk holds, at least one. Its offsets span fewer than 2^32, which a few batches
/// that claim two thousand million records each would exceed.
fn cut(tail: &[u8], from: usize, seal: u64, intake_s: u32) -> (usize, ChunkRef) {
    let mut batches = headers(&tail[from..]);
    let (_, first) = batches.next().expect("a tail to be sealed has a batch");
    let (mut to, mut last, mut max_timestamp_ms) = (from + first.bytes, first.last(), first.max_timestamp_ms);
    for (at, header) in batches {
        if at + header.bytes > CHUNK_BYTES || u32::try_from(header.last() - first.base).is_err() {
            break;
        }
        to = from + at + header.bytes;
        last = header.last();
        max_timestamp_ms = max_timestamp_ms.max(header.max_timestamp_ms);
    }
    let chunk = ChunkRef {
        seal,
        base: first.base,
        max_timestamp_ms,
        last_delta: u32::try_from(last - first.base).expect("a chunk holds fewer than 2^32 offsets"),
        intake_s,
        length: u32::try_from(to - from).expect("a batch is far below 4 GiB"),
    };
    debug_assert!(to - from + CHUNK_HEADER_BYTES <= chunk.value_bytes());
    (to, chunk)
}

/// Tells errors that pass from those that must stop the writer.
fn failure(has_room: bool, error: &heed::Error) -> Flush {
    match error {
        heed::Error::Mdb(heed::MdbError::MapFull) => Flush::Full { is_disk: false },
        heed::Error::Io(io) => match io.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Flush::Full { is_disk: true },
            // LMDB reports a short write, which is what a nearly full disk gives, as EIO.
            Some(libc::EIO) if !has_room => Flush::Full { is_disk: true },
            _ => fatal(error),
        },
        _ => fatal(error),
    }
}

fn fatal(error: &heed::Error) -> Flush {
    Flush::Fatal(Error::Stopped(format!("cannot write the data file: {error}")))
}
