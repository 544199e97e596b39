//! What the writer stages for the next commit, and takes back where that fails.
//!
//! Changes the tails, the producers and the staged state in RAM; never the file, and nothing that readers see: they see up
//! to the high watermark, which lies before all of it. A write is staged whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;

use super::{
    Aborted, Appended, Error, OnFull, StateWrite,
    catalogue::{bounds_key, decode_bounds, encode_bounds},
    header::{Header, headers, stamp},
    layout::{PAGE_BYTES, pages, state_key},
    partition::Part,
    producers::{Verdict, Who},
    queue::Job,
    writer::Writer,
};
use crate::record::{Offset, Outcome, marker};

/// Pages of the map kept free, so that deleting is always possible.
pub(super) const RESERVE_PAGES: u64 = 1_024;

/// What the commit under way will make durable.
#[derive(Default)]
pub(super) struct Staged {
    /// Partitions with new batches at the end of their tails.
    pub(super) touched: Vec<Arc<Part>>,
    /// Transactions whose abort is staged.
    pub(super) aborted: Vec<(Arc<Part>, Aborted)>,
    /// By key in the file.
    pub(super) state: BTreeMap<Box<[u8]>, Option<Bytes>>,
    /// Batch bytes.
    pub(super) bytes: usize,
}

/// A single batch of at least this size leaves its request once its tail has it: the request's frame, the tail and the
/// pages of the commit would be three copies of it at once.
const LENT_BYTES: usize = 32 << 10;

/// Gives up a large batch that was staged.
pub(super) fn lend(job: &mut Job, staged: &Result<Vec<Appended>, Error>) {
    if let ([(part, batch)], Ok([Appended { is_duplicate: false, .. }])) = (&mut job.batches[..], staged.as_deref())
        && batch.len() >= LENT_BYTES
    {
        let end = part.lock().tail.len();
        job.lent = Some(end - batch.len()..end);
        *batch = Bytes::new();
    }
}

/// What one batch of a write has staged, taken back where a later one turns out to be wrong.
pub(super) struct Undo {
    part: Arc<Part>,
    tail_bytes: usize,
    next: Offset,
    aborted: Option<Aborted>,
}

impl Writer {
    /// Puts one write's batches at the ends of their tails, or leaves everything as it was.
    pub(super) fn stage(&mut self, job: &Job) -> Result<Vec<Appended>, Error> {
        // The end of a transaction is a few bytes that let readers go on: it is taken even then.
        let brings_records = job.batches.iter().any(|(_, batch)| Header::parse(batch).is_none_or(|h| !h.is_control));
        if brings_records && self.on_full == OnFull::Reject && self.is_over_quota(job.bytes) {
            self.hear_of_mirrored();
            // Otherwise what may go makes room in the same commit.
            if self.order.next().is_none() && self.expired.is_empty() {
                return Err(Error::Full);
            }
        }
        if self.is_map_full(job.bytes) {
            return Err(Error::Full);
        }
        let mark = self.producers.mark();
        let mut undo = Vec::new();
        let mut answers = Vec::with_capacity(job.batches.len());
        let now = Instant::now();
        for (part, batch) in &job.batches {
            match self.stage_batch(part, batch, now, &mut undo) {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    for Undo { part, tail_bytes, next, .. } in undo.into_iter().rev() {
                        let mut inner = part.lock();
                        inner.tail.truncate(tail_bytes);
                        inner.next = next;
                    }
                    self.producers.rollback(mark);
                    return Err(error);
                }
            }
        }
        let fresh = job.batches.iter().zip(&answers).filter(|(_, answer)| !answer.is_duplicate);
        self.staged.bytes += fresh.map(|((_, batch), _)| batch.len()).sum::<usize>();
        for Undo { part, aborted, .. } in undo {
            let Some(aborted) = aborted else { continue };
            let value = Bytes::copy_from_slice(&aborted.value());
            self.staged.state.insert(aborted.key(part.id).into(), Some(value));
            self.staged.aborted.push((part, aborted));
        }
        self.stage_state(&job.state);
        Ok(answers)
    }

    pub(super) fn stage_state(&mut self, state: &[StateWrite]) {
        for StateWrite { owner, key, value } in state {
            // Copied, because what comes in may be a slice of a large request.
            let value = value.as_ref().map(|v| Bytes::copy_from_slice(v));
            self.staged.state.insert(state_key(owner, key).into(), value);
        }
    }

    pub(super) fn stage_batch(
        &mut self,
        part: &Arc<Part>,
        batch: &Bytes,
        now: Instant,
        undo: &mut Vec<Undo>,
    ) -> Result<Appended, Error> {
        let mut header =
            Header::parse(batch).filter(|h| h.bytes == batch.len()).ok_or_else(|| Error::Corrupt(part.name.clone()))?;
        let who = (part.id, header.producer_id);
        if header.producer_id >= 0 {
            let verdict = self.producers.check(who, &header).map_err(|reason| Error::Sequence {
                partition: part.name.clone(),
                producer_id: header.producer_id,
                reason,
            })?;
            if let Verdict::Duplicate { base, last } = verdict {
                let log_start = part.lock().bounds.start;
                return Ok(Appended { base_offset: base, last_offset: last, log_start, is_duplicate: true });
            }
        }
        let ended = match header.is_control {
            true => Some(marker::outcome(batch).map_err(|_| Error::Corrupt(part.name.clone()))?),
            false => None,
        };
        let mut inner = part.lock();
        if !part.is_live() {
            return Err(Error::UnknownPartition(part.name.clone()));
        }
        if !inner.is_touched {
            inner.is_touched = true;
            self.staged.touched.push(Arc::clone(part));
        }
        let (at, base) = (inner.tail.len(), inner.next);
        inner.tail.extend_from_slice(batch);
        stamp(&mut inner.tail[at..], base);
        header.base = base;
        inner.next = header.last() + 1;
        let log_start = inner.bounds.start;
        drop(inner);
        let open_from = self.producers.open_from(who).filter(|_| ended == Some(Outcome::Abort));
        let aborted = open_from.map(|first| Aborted { producer_id: header.producer_id, first, last: base });
        undo.push(Undo { part: Arc::clone(part), tail_bytes: at, next: base, aborted });
        if header.producer_id >= 0 {
            self.producers.appended(who, &header, now);
        }
        Ok(Appended { base_offset: base, last_offset: header.last(), log_start, is_duplicate: false })
    }

    /// Takes back everything staged but the group that waits for its commit.
    pub(super) fn rollback(&mut self) {
        self.unstage();
        self.stage_group();
    }

    /// Takes back everything staged.
    pub(super) fn unstage(&mut self) {
        for (job, _) in &mut self.group {
            if let (Some(range), [(part, batch)]) = (job.lent.take(), &mut job.batches[..]) {
                *batch = Bytes::copy_from_slice(&part.lock().tail[range]);
            }
        }
        let staged = std::mem::take(&mut self.staged);
        for part in staged.touched {
            let mut inner = part.lock();
            let written = inner.written_bytes;
            inner.tail.truncate(written);
            inner.next = inner.written;
            inner.is_touched = false;
        }
        self.producers.rollback(0);
    }

    /// Live pages and what this write adds are more than the quota.
    fn is_over_quota(&self, bytes: usize) -> bool {
        let staged = pages(self.staged.bytes + bytes) + 8;
        (self.live_pages + staged) * PAGE_BYTES as u64 > self.shared.quota_bytes
    }

    /// The reserve of the map would be touched.
    fn is_map_full(&self, bytes: usize) -> bool {
        // Twice: a force-sealed tail is written again in the commit that brings its last batch.
        let staged = 2 * pages(self.staged.bytes + bytes);
        let map_pages = super::store::map_bytes(self.shared.quota_bytes) / PAGE_BYTES as u64;
        self.live_pages + staged + RESERVE_PAGES > map_pages
    }

    /// Notes bounds that the batches alone will not tell after a restart. What this commit already says of them holds:
    /// a later start, or that the partition is deleted.
    pub(super) fn stage_bounds(&mut self, id: u32, start: Offset, end: Offset) {
        let said = self.staged.state.entry(bounds_key(id).into());
        let said = said.or_insert_with(|| Some(Bytes::copy_from_slice(&encode_bounds(start, end))));
        if let Some((known_start, known_end)) = said.as_deref().and_then(decode_bounds) {
            *said = Some(Bytes::copy_from_slice(&encode_bounds(start.max(known_start), end.max(known_end))));
        }
    }

    /// The idempotent producers of the batches in a part of a tail.
    pub(super) fn producers_of(&self, part: &Part, range: Range<usize>) -> BTreeSet<Who> {
        let inner = part.lock();
        let tail = &inner.tail[range.start..range.end.min(inner.tail.len())];
        headers(tail).filter(|(_, h)| h.producer_id >= 0).map(|(_, h)| (part.id, h.producer_id)).collect()
    }

    /// Stages what is known of producers whose batches leave the tail: nobody reads it from the journal any more.
    pub(super) fn stage_producers(&mut self, producers: BTreeSet<Who>) {
        for who in producers {
            let (key, value) = self.producers.snapshot(who);
            self.staged.state.insert(state_key("", &key).into(), value.map(Bytes::from));
        }
    }
}
