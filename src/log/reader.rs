//! Reading batches and finding offsets by time.
//!
//! Works from the index in RAM, copies out inside a transaction that lives for one chunk, and never shows a byte
//! beyond the high watermark or of a damaged chunk. Holes are read over; where nothing lies behind one yet, an empty batch
//! leads to its end, as in a log that Kafka compacted.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    Bounds, Error, Slice, Timed,
    buffers::Buffer,
    damage::Damaged,
    header::{Header, headers, nothing},
    layout::ChunkRef,
    partition::Part,
    shared::Shared,
    store::Chunk,
};
use crate::record::{BatchError, Offset, Partition, Unpacker};

/// How long a reader waits for the index to follow the file, and how often.
const FLUX_WAIT: std::time::Duration = std::time::Duration::from_millis(1);
const MOST_WAITS: u32 = 1_000;

/// Whether a read may wait for the disk: only on a thread where nothing else waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Answers `None` where the disk would have to be waited for.
    Warm,
    /// Waits.
    Cold,
}

/// Whole batches from the one that holds `from`; see [`super::Log::read`]. `None` only without patience.
pub(super) fn read(
    shared: &Shared,
    partition: &Partition,
    from: Offset,
    max_bytes: usize,
    patience: Patience,
) -> Result<Option<Slice>, Unread> {
    let part = shared.part(partition)?;
    let mut out = None;
    let mut next = from;
    let mut bounds = None;
    let mut waits = 0;
    let mut is_cut = false;
    loop {
        let inner = part.lock();
        let now = inner.bounds;
        let is_first = out.as_ref().is_none_or(Buffer::is_empty);
        // Only at first: a chunk may reach beyond the high watermark in the moment before that follows.
        let is_beyond = bounds.is_none() && next > now.high_watermark;
        if is_first && (next < now.start || is_beyond) {
            let (offset, start, end) = (next, now.start, now.high_watermark);
            return Err(Error::OutOfRange { offset, start, end }.into());
        }
        // The bounds of the beginning: what came while chunks were read belongs to the next read.
        let bounds = *bounds.get_or_insert(now);
        if next >= bounds.high_watermark {
            break;
        }
        let out = out.get_or_insert_with(|| shared.buffers.take(inner.read_bytes(next, max_bytes)));
        let range = next..bounds.high_watermark;
        let Some(chunk) = inner.chunk_at(next) else {
            let tail = inner.durable_tail();
            let kept = within(tail, &range, out.len(), max_bytes).unwrap_or_default();
            is_cut = kept.end < tail.len();
            out.extend(kept.len()).copy_from_slice(&tail[kept]);
            drop(inner);
            if out.is_empty() {
                // Damage took all that was here; readers have to learn where it goes on.
                let hole = nothing(next, bounds.high_watermark);
                out.extend(hole.len()).copy_from_slice(&hole);
            }
            break;
        };
        drop(inner);
        // Only the first is cut into: to read one for a part of it costs as much as all of it.
        let at = out.len();
        if at > 0 && at + chunk.length as usize > max_bytes {
            is_cut = true;
            break;
        }
        match read_chunk(shared, &part, &chunk, patience, out) {
            Ok(Content::Batches) => {}
            // What was read before a damaged or vanished chunk is good; the next read will hear of it.
            _ if at > 0 => break,
            Ok(Content::Cold) => return Ok(None),
            Ok(Content::Gone) if is_in_flux(&part, &chunk, patience, &mut waits) => match patience {
                Patience::Warm => return Ok(None),
                Patience::Cold => continue,
            },
            Ok(Content::Gone) => {
                let (start, end) = (chunk.last() + 1, now.high_watermark);
                return Err(Error::OutOfRange { offset: next, start, end }.into());
            }
            Err(error) => return Err(error),
        }
        let is_wanted = next <= chunk.base && chunk.last() < range.end && at + chunk.length as usize <= max_bytes;
        if !is_wanted {
            let kept = within(out.from(at), &range, at, max_bytes).unwrap_or_default();
            is_cut = !kept.is_empty() && kept.end < chunk.length as usize;
            out.keep(at, kept);
            if is_cut {
                break;
            }
        }
        next = next.max(chunk.last() + 1);
    }
    let bounds = bounds.expect("set in the first round");
    let batches = out.map_or_else(Bytes::new, Buffer::into_bytes);
    Ok(Some(Slice { batches, is_cut, bounds, aborted: Vec::new() }))
}

/// Whether the index has another word for a chunk that is not in the file, or will have it in a moment: the writer tells it
/// right after its commit. Waits for that moment where it may.
fn is_in_flux(part: &Part, chunk: &ChunkRef, patience: Patience, waits: &mut u32) -> bool {
    if patience == Patience::Warm {
        return true;
    }
    if part.is_live() && part.lock().chunk_at(chunk.base).is_some_and(|now| now == *chunk) {
        *waits += 1;
        std::thread::sleep(FLUX_WAIT);
    }
    *waits < MOST_WAITS && part.is_live()
}

/// Cuts off what is not stable and names the aborted transactions in the rest.
pub(super) fn keep_committed(shared: &Shared, partition: &Partition, slice: &mut Slice) -> Result<(), Error> {
    let stable = slice.bounds.last_stable;
    let (mut offsets, mut end) = (None, 0);
    for (at, header) in headers(&slice.batches).take_while(|(_, header)| header.last() < stable) {
        let (from, _) = offsets.unwrap_or((header.base, 0));
        offsets = Some((from, header.last() + 1));
        end = at + header.bytes;
    }
    slice.is_cut &= end == slice.batches.len();
    slice.batches.truncate(end);
    if let Some((from, to)) = offsets {
        // What is aborted after the read begins beyond `stable`.
        slice.aborted = shared.part(partition)?.lock().aborted.overlapping(from, to);
    }
    Ok(())
}

/// Where the batches lie that hold offsets of `range`, as many as fit behind `before` bytes; the first of all fits always.
fn within(batches: &[u8], range: &Range<Offset>, before: usize, max_bytes: usize) -> Option<Range<usize>> {
    let mut kept: Option<Range<usize>> = None;
    for (at, header) in headers(batches) {
        if header.last() < range.start {
            continue;
        }
        // What is written and not durable yet may be in a chunk already.
        if header.base >= range.end {
            break;
        }
        let (start, end) = (kept.as_ref().map_or(at, |kept| kept.start), at + header.bytes);
        let is_first = before == 0 && kept.is_none();
        if !is_first && before + (end - start) > max_bytes {
            break;
        }
        kept = Some(start..end);
    }
    kept
}

/// What a chunk gave.
enum Content {
    /// They are in the buffer.
    Batches,
    Cold,
    /// Retention has deleted it, or compaction put another in its place.
    Gone,
}

/// Why there is no answer.
pub(super) enum Unread {
    Refused(Error),
    /// A chunk is in the way that is not as it was written.
    Damaged(Box<(Arc<Part>, ChunkRef)>),
}

/// The same, once the damaged bytes are kept.
pub(super) enum Kept {
    Refused(Error),
    Damaged(Damaged),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl Unread {
    /// Keeps the bytes of a damaged chunk as they lie in the file.
    pub(super) fn kept(self, shared: &Shared) -> Kept {
        let (part, chunk) = match self {
            Self::Refused(error) => return Kept::Refused(error),
            Self::Damaged(damaged) => *damaged,
        };
        let copy = shared.with_store(|store| Ok(store.keep_chunk(part.id, &chunk)));
        match copy {
            Ok(copy) => Kept::Damaged(Damaged { part, chunk, copy: copy.map(|path| path.display().to_string()) }),
            Err(error) => Kept::Refused(error),
        }
    }
}

/// Appends one chunk's batches.
fn read_chunk(
    shared: &Shared,
    part: &Arc<Part>,
    chunk: &ChunkRef,
    patience: Patience,
    out: &mut Buffer,
) -> Result<Content, Unread> {
    let is_patient = patience == Patience::Cold;
    match shared.with_store(|store| store.read_chunk(part.id, chunk, is_patient, out))? {
        Chunk::Read => Ok(Content::Batches),
        Chunk::Cold => Ok(Content::Cold),
        Chunk::Gone => Ok(Content::Gone),
        Chunk::Damaged => Err(Unread::Damaged(Box::new((Arc::clone(part), *chunk)))),
    }
}

/// The first record at or after a timestamp.
pub(super) fn offset_at(
    shared: &Shared,
    partition: &Partition,
    timestamp_ms: i64,
    unpacked_bytes: usize,
) -> Result<Option<Timed>, Unread> {
    let part = shared.part(partition)?;
    find(shared, &part, |max_ms| max_ms >= timestamp_ms, Wanted { timestamp_ms, unpacked_bytes })
}

/// The first record with the greatest timestamp.
pub(super) fn max_timestamp(
    shared: &Shared,
    partition: &Partition,
    unpacked_bytes: usize,
) -> Result<Option<Timed>, Unread> {
    let part = shared.part(partition)?;
    let greatest = {
        let inner = part.lock();
        let Bounds { start, high_watermark, .. } = inner.bounds;
        // A chunk that reaches beyond the high watermark counts a moment later: its greatest may be a record not seen yet.
        let sealed = inner.chunks.iter().filter(|c| c.last() < high_watermark).map(|c| c.max_timestamp_ms);
        let tail = headers(inner.durable_tail()).filter(|(_, h)| h.last() >= start).map(|(_, h)| h.max_timestamp_ms);
        sealed.chain(tail).max()
    };
    match greatest {
        Some(greatest) => {
            find(shared, &part, |max_ms| max_ms == greatest, Wanted { timestamp_ms: greatest, unpacked_bytes })
        }
        None => Ok(None),
    }
}

/// A record that is looked for.
#[derive(Clone, Copy)]
struct Wanted {
    /// It has at least this time.
    timestamp_ms: i64,
    /// What one batch may take unpacked.
    unpacked_bytes: usize,
}

/// The first record of at least the time wanted in the first batch whose greatest timestamp is wanted.
fn find(
    shared: &Shared,
    part: &Arc<Part>,
    is_wanted: impl Fn(i64) -> bool,
    wanted: Wanted,
) -> Result<Option<Timed>, Unread> {
    let mut next = part.lock().bounds.start;
    let mut waits = 0;
    loop {
        let inner = part.lock();
        let Bounds { start, high_watermark, .. } = inner.bounds;
        let visible = start..high_watermark;
        let at = inner.chunks.partition_point(|c| c.last() < next);
        let chunk = inner.chunks.iter().skip(at).find(|c| is_wanted(c.max_timestamp_ms)).copied();
        let Some(chunk) = chunk else {
            let tail = inner.durable_tail().to_vec();
            drop(inner);
            return Ok(in_batches(&tail, visible, &is_wanted, wanted));
        };
        drop(inner);
        let mut batches = shared.buffers.take(chunk.length as usize);
        match read_chunk(shared, part, &chunk, Patience::Cold, &mut batches)? {
            Content::Batches => {
                if let Some(found) = in_batches(batches.as_ref(), visible, &is_wanted, wanted) {
                    return Ok(Some(found));
                }
            }
            _ if is_in_flux(part, &chunk, Patience::Cold, &mut waits) => continue,
            _ => {}
        }
        next = chunk.last() + 1;
    }
}

fn in_batches(bytes: &[u8], visible: Range<Offset>, is_wanted: &impl Fn(i64) -> bool, wanted: Wanted) -> Option<Timed> {
    headers(bytes)
        .filter(|(_, header)| header.last() >= visible.start && header.base < visible.end)
        .filter(|(_, header)| is_wanted(header.max_timestamp_ms))
        .find_map(|(at, header)| in_batch(&bytes[at..at + header.bytes], &header, visible.start, wanted))
}

/// The first record at or after the timestamp. A batch that does not unpack answers with its first offset: too early
/// an offset costs a reader some records, too late a one would lose some.
fn in_batch(batch: &[u8], header: &Header, start: Offset, wanted: Wanted) -> Option<Timed> {
    let whole =
        Timed { offset: header.base.max(start), timestamp_ms: header.max_timestamp_ms, is_too_large_to_unpack: false };
    let mut unpacker = Unpacker::new(wanted.unpacked_bytes);
    let records = match unpacker.records(batch) {
        Ok(records) => records,
        Err(BatchError::TooLarge { .. }) => return Some(Timed { is_too_large_to_unpack: true, ..whole }),
        // A transaction's marker holds no record of anybody's.
        Err(BatchError::Control) => return None,
        Err(_) => return Some(whole),
    };
    for record in records {
        let Ok(record) = record else { return Some(whole) };
        if record.timestamp_ms >= wanted.timestamp_ms && record.offset >= start {
            return Some(Timed { offset: record.offset, timestamp_ms: record.timestamp_ms, ..whole });
        }
    }
    None
}
