//! Compaction's reading side: what a partition's chunks become when only the last value of each key stays.
//!
//! Works on a thread of its own, from the index in RAM and copies of chunks, and changes nothing: what it makes goes to
//! the writer in small steps (`replacement`). A pass notes the keys of dirty records until its table is full, then goes over
//! everything from the front and leaves out what is superseded, aborted, or deleted for long enough. Neighbours that fit
//! one chunk become one. Offsets never move: what has gone is covered by an empty batch, so that chunks follow each other.
//!
//! Invariant: a deletion goes only after every older record of its key has, so no key comes back. Hence steps go in the
//! order of offsets, a pass that was cut off begins again, and behind a batch that cannot be unpacked deletions stay.

use std::{
    collections::HashSet,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::oneshot;

use bytes::Bytes;

use super::{
    Aborted, Error,
    damage::Damaged,
    header::nothing,
    keys::{Keys, MOST_SLOTS},
    layout::{CHUNK_BYTES, ChunkRef, pages},
    partition::Part,
    queue::Work,
    shared::Shared,
    store::Chunk,
};
use crate::record::{
    Offset, Outcome, RecordView, Sieve, Sieved,
    batch::{Header, batches},
    marker,
};

/// What a batch may take unpacked; a larger one stays as it is. A few copies of it are there at once.
const UNPACKED_BYTES: usize = 2 << 20;
/// Bytes and chunks that one step replaces, about: writes wait for no more than that.
const STEP_BYTES: usize = 256 << 10;
const STEP_CHUNKS: usize = 64;

/// A partition that is to be compacted.
#[derive(Clone)]
pub(super) struct Dirty {
    pub(super) part: Arc<Part>,
    /// The first offset that was never compacted.
    pub(super) from: Offset,
    /// Up to here; between two chunks, below the last stable offset.
    pub(super) to: Offset,
    /// The believed time, in milliseconds since 1970.
    pub(super) now_ms: Option<i64>,
    pub(super) delete_retention_ms: i64,
}

/// Chunks that follow each other, and the one that takes their place.
#[derive(Debug)]
pub(super) struct Replacement {
    pub(super) old: Vec<ChunkRef>,
    pub(super) new: ChunkRef,
    pub(super) batches: Vec<u8>,
}

/// Where the writer leaves word that something is to be compacted.
pub(super) struct Desk {
    inner: Mutex<Word>,
    wake: Condvar,
    /// Held by who compacts.
    busy: Mutex<()>,
    /// Slots of the table of keys, and bytes of a step; fewer in tests.
    pub(super) slots: AtomicUsize,
    pub(super) step_bytes: AtomicUsize,
    /// Steps until compaction is cut off.
    #[cfg(test)]
    pub(super) steps_left: AtomicUsize,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            wake: Condvar::new(),
            busy: Mutex::default(),
            slots: MOST_SLOTS.into(),
            step_bytes: STEP_BYTES.into(),
            #[cfg(test)]
            steps_left: usize::MAX.into(),
        }
    }
}

#[derive(Default)]
struct Word {
    has_work: bool,
    is_closed: bool,
}

impl Desk {
    /// There is something to do.
    pub(super) fn call(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).has_work = true;
        self.wake.notify_one();
    }

    /// Lets the thread end.
    pub(super) fn close(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.wake.notify_one();
    }

    /// Waits for work; false once closed.
    fn wait(&self) -> bool {
        let mut word = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if word.is_closed {
                return false;
            }
            if std::mem::take(&mut word.has_work) {
                return true;
            }
            word = self.wake.wait(word).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The thread: compacts whenever the writer says so.
pub(super) fn run(shared: &Shared) {
    while shared.compaction.wait() {
        if let Err(error) = clean_all(shared) {
            tracing::debug!("compaction stops: {error}");
        }
    }
}

/// Compacts everything that is due.
pub(super) fn clean_all(shared: &Shared) -> Result<(), Error> {
    let _alone = shared.compaction.busy.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(dirty) = ask(shared, Work::FindDirty)? {
        if !clean(shared, dirty)? {
            // Somebody else changed the partition; it is due again soon.
            break;
        }
    }
    Ok(())
}

/// Asks the writer and waits for its answer.
fn ask<T>(shared: &Shared, work: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Work) -> Result<T, Error> {
    let (reply, answer) = oneshot::channel();
    shared.queue.push(work(reply))?;
    answer.blocking_recv().unwrap_or_else(|_| Err(shared.queue.why_closed()))
}

/// Compacts one partition, in as many passes as its keys take. False if it was cut off.
fn clean(shared: &Shared, dirty: Dirty) -> Result<bool, Error> {
    let records = usize::try_from(dirty.to - dirty.from).unwrap_or(usize::MAX);
    let keys = Keys::new(records, shared.compaction.slots.load(Ordering::Relaxed));
    let Dirty { mut from, to, .. } = dirty;
    let mut cleaner = Cleaner { shared, dirty, keys, sieve: Sieve::new(UNPACKED_BYTES) };
    while from < to {
        let pass = cleaner.note_keys(from).and_then(|to| cleaner.sweep(to).map(|()| to));
        match pass {
            Ok(to) => from = to,
            Err(Cut::Off) => return Ok(false),
            Err(Cut::Failed(error)) => return Err(error),
        }
    }
    Ok(true)
}

/// Why a pass ended early.
enum Cut {
    /// What it works on has changed.
    Off,
    Failed(Error),
}

impl From<Error> for Cut {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Chunks on their way to one.
#[derive(Default)]
struct Group {
    old: Vec<ChunkRef>,
    kept: Vec<u8>,
    is_changed: bool,
}

/// What one step brings to the writer.
#[derive(Default)]
struct Step {
    replacements: Vec<Replacement>,
    bytes: usize,
    chunks: usize,
}

struct Cleaner<'a> {
    shared: &'a Shared,
    dirty: Dirty,
    keys: Keys,
    sieve: Sieve,
}

impl Cleaner<'_> {
    /// Notes the keys of committed records from `from` on. Gives the first offset that is not noted.
    fn note_keys(&mut self, from: Offset) -> Result<Offset, Cut> {
        self.keys.clear();
        let mut next = from;
        while next < self.dirty.to {
            let Some((chunk, bytes)) = self.chunk(next)? else { break };
            let aborted = self.aborted(&chunk);
            for (header, batch) in batches(&bytes).map_while(Result::ok) {
                if header.last_offset() < from || is_hidden(&aborted, &header) {
                    continue;
                }
                // What cannot be read supersedes nothing.
                let Ok(records) = self.sieve.records(batch) else { continue };
                if records.clone().any(|record| record.is_err()) {
                    continue;
                }
                for record in records.flatten().filter(|record| record.offset >= from) {
                    let Some(key) = record.key else { continue };
                    if !self.keys.put(key, record.offset) {
                        return Ok(record.offset);
                    }
                }
            }
            next = chunk.last() + 1;
        }
        Ok(self.dirty.to)
    }

    /// Goes over everything before `to` and hands what has changed to the writer.
    fn sweep(&mut self, to: Offset) -> Result<(), Cut> {
        let front = self.dirty.part.lock().chunks.front().map(|chunk| chunk.base);
        let mut next = front.ok_or(Cut::Off)?;
        let mut seen = Seen::default();
        let (mut group, mut step) = (Group::default(), Step::default());
        while next < to {
            let Some((chunk, bytes)) = self.chunk(next)? else { break };
            next = chunk.last() + 1;
            if is_too_large(&chunk) {
                seen.is_unreadable = true;
                self.close(std::mem::take(&mut group), &mut step, None)?;
                continue;
            }
            let (kept, is_changed) = self.sift(&chunk, &bytes, to, &mut seen);
            drop(bytes);
            let follows = group.old.last().is_none_or(|last| last.last() + 1 == chunk.base);
            let span = chunk.last() - group.old.first().map_or(chunk.base, |first| first.base);
            // Room for an empty batch at either end.
            let fits = group.kept.len() + kept.len() + 256 <= CHUNK_BYTES && u32::try_from(span).is_ok();
            let ends = !(follows && fits);
            if ends && !group.old.is_empty() {
                self.close(std::mem::take(&mut group), &mut step, None)?;
            }
            group.old.push(chunk);
            if group.kept.is_empty() {
                group.kept = kept;
            } else {
                group.kept.extend_from_slice(&kept);
            }
            group.is_changed |= is_changed;
        }
        self.close(group, &mut step, Some(to))
    }

    /// Makes one chunk of a group, if that is worth it, and hands over what has gathered; the last one of a pass in any case.
    fn close(&mut self, group: Group, step: &mut Step, done_to: Option<Offset>) -> Result<(), Cut> {
        if let Some(replacement) = replacement(group) {
            step.bytes += replacement.batches.len();
            step.chunks += replacement.old.len();
            step.replacements.push(replacement);
        }
        let step_bytes = self.shared.compaction.step_bytes.load(Ordering::Relaxed);
        if done_to.is_none() && step.bytes < step_bytes && step.chunks < STEP_CHUNKS {
            return Ok(());
        }
        #[cfg(test)]
        {
            let left = &self.shared.compaction.steps_left;
            if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
                return Err(Cut::Off);
            }
        }
        let Step { replacements, .. } = std::mem::take(step);
        let part = Arc::clone(&self.dirty.part);
        match ask(self.shared, |reply| Work::Replace { part, replacements, done_to, reply })? {
            true => Ok(()),
            false => Err(Cut::Off),
        }
    }

    /// The batches of a chunk that stay, and whether that is less than there was.
    fn sift(&mut self, chunk: &ChunkRef, bytes: &[u8], to: Offset, seen: &mut Seen) -> (Vec<u8>, bool) {
        let aborted = self.aborted(chunk);
        let Self { dirty, keys, sieve, .. } = self;
        let mut kept = Vec::with_capacity(bytes.len());
        let mut is_changed = false;
        for (header, batch) in batches(bytes).map_while(Result::ok) {
            let is_whole = header.last_offset() < to;
            let horizon_ms = dirty.now_ms.map(|now_ms| now_ms.saturating_add(dirty.delete_retention_ms));
            let horizon_ms = horizon_ms.filter(|_| is_whole);
            let is_over = is_whole
                && header.has_delete_horizon()
                && dirty.now_ms.is_some_and(|now_ms| now_ms >= header.base_timestamp_ms);
            let sieved = if header.is_control() {
                match marker::outcome(batch) {
                    Ok(outcome) if is_whole && seen.is_last_of(&header, outcome) => {
                        if is_over {
                            Ok(Sieved::Nothing)
                        } else {
                            sieve.sieve(batch, horizon_ms, &|_| true)
                        }
                    }
                    _ => Ok(Sieved::Whole),
                }
            } else if header.records_count == 0 {
                // It covers a hole; where one is needed, another does.
                continue;
            } else if is_hidden(&aborted, &header) {
                Ok(Sieved::Nothing)
            } else {
                let may_forget = is_over && !seen.is_unreadable;
                let is_kept = |record: &RecordView<'_>| {
                    let is_superseded = record.key.is_some_and(|key| keys.has_newer(key, record.offset));
                    // A record without a key came in before the topic was compacted.
                    !is_superseded && (record.value.is_some() || record.key.is_none() || !may_forget)
                };
                let sieved = sieve.sieve(batch, horizon_ms, &is_kept);
                seen.is_unreadable |= sieved.is_err();
                if header.is_transactional() && sieved != Ok(Sieved::Nothing) {
                    seen.producers.insert(header.producer.id);
                }
                sieved
            };
            match sieved {
                Ok(Sieved::Whole) | Err(_) => kept.extend_from_slice(batch),
                Ok(Sieved::Part(part)) => {
                    is_changed = true;
                    kept.extend_from_slice(&part);
                }
                Ok(Sieved::Nothing) => is_changed = true,
            }
        }
        (kept, is_changed)
    }

    /// The chunk that holds an offset, and its batches unless it is too large; `None` if none of those to be compacted does.
    fn chunk(&self, offset: Offset) -> Result<Option<(ChunkRef, Bytes)>, Cut> {
        if let Some(why) = self.shared.queue.closed() {
            return Err(why.into());
        }
        let part = &self.dirty.part;
        let chunk = part.lock().chunk_at(offset).filter(|_| part.is_live()).ok_or(Cut::Off)?;
        // Behind a hole where the last chunk was.
        if chunk.last() >= self.dirty.to {
            return Ok(None);
        }
        if is_too_large(&chunk) {
            return Ok(Some((chunk, Bytes::new())));
        }
        let mut bytes = self.shared.buffers.take(chunk.length as usize);
        match self.shared.with_store(|store| store.read_chunk(part.id, &chunk, true, &mut bytes))? {
            Chunk::Read => Ok(Some((chunk, bytes.into_bytes()))),
            Chunk::Gone | Chunk::Cold => Err(Cut::Off),
            Chunk::Damaged => {
                let copy = self.shared.with_store(|store| Ok(store.keep_chunk(part.id, &chunk)))?;
                let copy = copy.map(|path| path.display().to_string());
                let damaged = Damaged { part: Arc::clone(part), chunk, copy };
                ask(self.shared, |reply| Work::Quarantine(damaged, reply))?;
                Err(Cut::Off)
            }
        }
    }

    fn aborted(&self, chunk: &ChunkRef) -> Vec<Aborted> {
        self.dirty.part.lock().aborted.overlapping(chunk.base, chunk.last() + 1)
    }
}

/// What a sweep remembers of what lies before.
#[derive(Default)]
struct Seen {
    /// A batch that does not unpack: nobody knows which keys have older records there.
    is_unreadable: bool,
    /// Producers with records of a transaction that no marker has ended yet.
    producers: HashSet<i64>,
}

impl Seen {
    /// Whether nothing is left of the transaction that a marker ends.
    fn is_last_of(&mut self, marker: &Header, outcome: Outcome) -> bool {
        let is_left = self.producers.remove(&marker.producer.id) || self.is_unreadable;
        !is_left || outcome == Outcome::Abort
    }
}

/// One batch that would take too much, packed or not.
fn is_too_large(chunk: &ChunkRef) -> bool {
    chunk.length as usize > UNPACKED_BYTES
}

fn is_hidden(aborted: &[Aborted], header: &Header) -> bool {
    header.is_control() || aborted.iter().any(|aborted| aborted.covers(header))
}

/// The one chunk that takes the place of a group; `None` if nothing would be better for it.
fn replacement(group: Group) -> Option<Replacement> {
    let Group { old, kept, is_changed } = group;
    let (first, last) = (old.first()?, old.last()?);
    if old.len() == 1 && !is_changed {
        return None;
    }
    let (mut begin, mut end, mut max_timestamp_ms) = (last.last() + 1, last.last(), i64::MIN);
    for (header, _) in batches(&kept).map_while(Result::ok) {
        begin = begin.min(header.base_offset);
        end = header.last_offset();
        max_timestamp_ms = max_timestamp_ms.max(header.max_timestamp_ms);
    }
    let mut batches = kept;
    if begin > first.base {
        let mut front = Vec::new();
        cover(&mut front, first.base, begin);
        batches.splice(..0, front);
    }
    cover(&mut batches, end + 1, last.last() + 1);
    batches.shrink_to_fit();
    let new = ChunkRef {
        // The place and the age of the newest; the ones before leave holes between seals, which mean nothing.
        seal: last.seal,
        base: first.base,
        max_timestamp_ms: max_timestamp_ms.max(-1),
        last_delta: u32::try_from(last.last() - first.base).ok()?,
        intake_s: last.intake_s,
        length: u32::try_from(batches.len()).ok()?,
    };
    let before: u64 = old.iter().map(|chunk| pages(chunk.value_bytes())).sum();
    // Joining alone has to free something.
    (is_changed || pages(new.value_bytes()) < before).then_some(Replacement { old, new, batches })
}

/// Covers the offsets from one to before another with empty batches.
fn cover(out: &mut Vec<u8>, mut from: Offset, to: Offset) {
    while from < to {
        let end = to.min(from + i64::from(i32::MAX));
        out.extend_from_slice(&nothing(from, end));
        from = end;
    }
}
