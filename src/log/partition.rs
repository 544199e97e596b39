//! One partition in RAM: its unsealed tail, the index of its sealed chunks, its bounds.
//!
//! Shared between the writer thread, which alone changes it, and readers. Invariants: chunks and tail follow each
//! other in offset order; bytes of the tail beyond `written_bytes` belong to the commit under way; no reader sees those
//! beyond `durable_bytes`; `high_watermark` moves only when what lies below it is durable. Chunks may reach beyond it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

use super::{Bounds, aborted, header::headers, layout::ChunkRef, retention::Policy};
use crate::record::{Offset, Partition};

/// One partition. Its number in the file is never used again.
pub(super) struct Part {
    pub(super) id: u32,
    pub(super) name: Partition,
    inner: Mutex<Inner>,
    deleted: AtomicBool,
}

/// What the mutex guards.
pub(super) struct Inner {
    pub(super) chunks: VecDeque<ChunkRef>,
    /// Where the first chunk began that damage took from the front: readers there step over the hole.
    pub(super) lost_from: Option<Offset>,
    /// Sum of the chunks' batch bytes.
    pub(super) chunk_bytes: u64,
    /// Stamped batches that are in the journal but in no chunk, then those of the commit under way.
    pub(super) tail: Vec<u8>,
    /// How much of the tail is in the file, and how much of that is durable.
    pub(super) written_bytes: usize,
    pub(super) durable_bytes: usize,
    /// Journal entry that holds the tail's first batch; meaningless while nothing of it is written.
    pub(super) tail_seq: u64,
    /// When the tail's last batch came in, in seconds since 1970; 0 where the clock was not plausible.
    pub(super) tail_intake_s: u32,
    /// The same of its first batch.
    pub(super) tail_since_s: u32,
    /// The next offset to assign.
    pub(super) next: Offset,
    /// One after the last offset in the file.
    pub(super) written: Offset,
    /// Log start offset and durable end, as published.
    pub(super) bounds: Bounds,
    /// First offset of the oldest open transaction, as of the last durable commit.
    pub(super) open_from: Option<Offset>,
    /// The same as of the last commit that is in the file.
    pub(super) written_open_from: Option<Offset>,
    /// Aborted transactions in the file. Those that are not durable yet lie beyond the last stable offset.
    pub(super) aborted: aborted::Index,
    /// Below this offset it was compacted.
    pub(super) compacted_to: Offset,
    /// The writer has staged batches here in the commit under way.
    pub(super) is_touched: bool,
    pub(super) policy: Policy,
    /// The links that want this topic, each with the first offset that is not safe at its centre.
    mirrors: Vec<(Arc<str>, Offset)>,
    sender: Option<watch::Sender<Bounds>>,
}

impl Part {
    pub(super) fn new(id: u32, name: Partition, policy: Policy) -> Self {
        let inner = Inner {
            chunks: VecDeque::new(),
            lost_from: None,
            chunk_bytes: 0,
            tail: Vec::new(),
            written_bytes: 0,
            durable_bytes: 0,
            tail_seq: 0,
            tail_intake_s: 0,
            tail_since_s: 0,
            next: 0,
            written: 0,
            bounds: Bounds::default(),
            open_from: None,
            written_open_from: None,
            aborted: aborted::Index::default(),
            compacted_to: 0,
            is_touched: false,
            policy,
            mirrors: Vec::new(),
            sender: Some(watch::Sender::new(Bounds::default())),
        };
        Self { id, name, inner: Mutex::new(inner), deleted: AtomicBool::new(false) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False once the topic is deleted.
    pub(super) fn is_live(&self) -> bool {
        !self.deleted.load(Ordering::Acquire)
    }

    /// Its topic's records are acknowledged before they are committed.
    pub(super) fn is_relaxed(&self) -> bool {
        self.lock().policy.is_relaxed
    }

    /// Marks it deleted, wakes its watchers for good and hands out its chunks for deletion.
    pub(super) fn delete(&self) -> VecDeque<ChunkRef> {
        self.deleted.store(true, Ordering::Release);
        let mut inner = self.lock();
        inner.sender = None;
        inner.tail = Vec::new();
        (inner.written_bytes, inner.durable_bytes) = (0, 0);
        inner.chunk_bytes = 0;
        std::mem::take(&mut inner.chunks)
    }
}

impl Inner {
    /// A link wants it.
    pub(super) fn is_wanted(&self) -> bool {
        !self.mirrors.is_empty()
    }

    /// The first offset that is not at every centre that wants it; the greatest there is where none does.
    pub(super) fn mirrored(&self) -> Offset {
        self.mirrors.iter().map(|(_, offset)| *offset).min().unwrap_or(Offset::MAX)
    }

    /// The first offset that is not at that link's centre; `None` if it does not want it.
    pub(super) fn mirrored_by(&self, link: &Arc<str>) -> Option<Offset> {
        self.mirrors.iter().find(|(known, _)| known == link).map(|(_, offset)| *offset)
    }

    /// A link does not want it any more.
    pub(super) fn let_go(&mut self, link: &Arc<str>) {
        self.mirrors.retain(|(known, _)| known != link);
    }

    /// A link wants it and has it up to `offset`.
    pub(super) fn set_mirrored(&mut self, link: &Arc<str>, offset: Offset) {
        match self.mirrors.iter_mut().find(|(known, _)| known == link) {
            Some((_, known)) => *known = offset,
            None => self.mirrors.push((Arc::clone(link), offset)),
        }
    }

    /// Receives the bounds; `None` once deleted.
    pub(super) fn subscribe(&self) -> Option<watch::Receiver<Bounds>> {
        self.sender.as_ref().map(watch::Sender::subscribe)
    }

    /// Makes new bounds visible to readers and watchers.
    pub(super) fn publish(&mut self, start: Offset, high_watermark: Offset) {
        // Records of an open transaction may have been deleted.
        let last_stable = self.open_from.map_or(high_watermark, |first| first.max(start));
        let bounds = Bounds { start, high_watermark, last_stable };
        if self.bounds != bounds {
            self.bounds = bounds;
            if let Some(sender) = &self.sender {
                sender.send_replace(bounds);
            }
        }
    }

    /// Everything written is durable: readers and watchers learn how far it goes.
    pub(super) fn publish_written(&mut self) {
        self.durable_bytes = self.written_bytes;
        let start = self.first_kept().max(self.bounds.start);
        self.open_from = self.written_open_from;
        self.publish(start, self.written);
    }

    /// First offset that chunks and tail still hold; the next one if they hold none.
    pub(super) fn first_kept(&self) -> Offset {
        let kept = match (self.chunks.front(), headers(&self.tail).next()) {
            (Some(chunk), _) => chunk.base,
            (None, Some((_, header))) => header.base,
            (None, None) => self.next,
        };
        self.lost_from.map_or(kept, |lost| lost.min(kept))
    }

    /// Adds a chunk to the index.
    pub(super) fn push_chunk(&mut self, chunk: ChunkRef) {
        self.chunk_bytes += u64::from(chunk.length);
        self.chunks.push_back(chunk);
    }

    /// Takes the oldest chunk out of the index.
    pub(super) fn pop_chunk(&mut self) -> Option<ChunkRef> {
        let chunk = self.chunks.pop_front()?;
        self.lost_from = None;
        self.chunk_bytes -= u64::from(chunk.length);
        // The deque grew with the backlog; a drained one should not keep its room.
        if self.chunks.capacity() > 64 && self.chunks.len() < self.chunks.capacity() / 4 {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
        Some(chunk)
    }

    /// Whether the chunk with that seal number was taken out from behind others.
    pub(super) fn is_hole(&self, seal: u64) -> bool {
        self.chunks.front().is_some_and(|front| front.seal < seal)
            && self.chunks.binary_search_by_key(&seal, |chunk| chunk.seal).is_err()
    }

    /// Takes the chunk with that seal number out of the index, wherever it is; false if it is not there.
    pub(super) fn remove_chunk(&mut self, seal: u64) -> bool {
        let Ok(at) = self.chunks.binary_search_by_key(&seal, |chunk| chunk.seal) else { return false };
        if let Some(chunk) = self.chunks.remove(at) {
            if at == 0 {
                self.lost_from.get_or_insert(chunk.base);
            }
            self.chunk_bytes -= u64::from(chunk.length);
        }
        true
    }

    /// Where these chunks lie in the index, one after the other.
    pub(super) fn place_of(&self, chunks: &[ChunkRef]) -> Option<usize> {
        let at = self.chunks.binary_search_by_key(&chunks.first()?.seal, |chunk| chunk.seal).ok()?;
        self.chunks.range(at..).take(chunks.len()).eq(chunks).then_some(at)
    }

    /// Puts one chunk in the place of others that follow each other.
    pub(super) fn replace_chunks(&mut self, old: &[ChunkRef], new: ChunkRef) {
        let Some(at) = self.place_of(old) else { return };
        self.chunks.drain(at + 1..at + old.len());
        self.chunks[at] = new;
        let before: u64 = old.iter().map(|chunk| u64::from(chunk.length)).sum();
        self.chunk_bytes = self.chunk_bytes + u64::from(new.length) - before;
    }

    /// Drops the front of the tail after it went into a chunk or was trimmed.
    pub(super) fn drop_tail(&mut self, bytes: usize) {
        self.tail.drain(..bytes);
        self.written_bytes = self.written_bytes.saturating_sub(bytes);
        self.durable_bytes = self.durable_bytes.saturating_sub(bytes);
        if self.tail.is_empty() {
            self.tail = Vec::new();
        }
    }

    /// The chunk that holds `offset` or, in a hole, the first after it.
    pub(super) fn chunk_at(&self, offset: Offset) -> Option<ChunkRef> {
        let at = self.chunks.partition_point(|c| c.last() < offset);
        self.chunks.get(at).copied()
    }

    /// Bytes that a read from `offset` takes at least: the whole chunk there, or the first batch of the tail.
    pub(super) fn least_read_bytes(&self, offset: Offset) -> usize {
        if let Some(chunk) = self.chunk_at(offset) {
            return chunk.length as usize;
        }
        headers(self.durable_tail()).find(|(_, h)| h.last() >= offset).map_or(0, |(_, h)| h.bytes)
    }

    /// About what a read of at most `max_bytes` from `offset` brings: the first chunk whole, others as far as they fit.
    pub(super) fn read_bytes(&self, offset: Offset, max_bytes: usize) -> usize {
        let at = self.chunks.partition_point(|c| c.last() < offset);
        let mut bytes = self.chunks.get(at).map_or(0, |first| first.length as usize);
        for chunk in self.chunks.iter().skip(at + 1) {
            if bytes + chunk.length as usize > max_bytes {
                return bytes;
            }
            bytes += chunk.length as usize;
        }
        let tail = self.durable_bytes.min(max_bytes.saturating_sub(bytes));
        if bytes == 0 { tail.max(self.least_read_bytes(offset)) } else { bytes + tail }
    }

    /// The durable part of the tail.
    pub(super) fn durable_tail(&self) -> &[u8] {
        &self.tail[..self.durable_bytes]
    }

    /// Bytes of batches kept.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.chunk_bytes + self.written_bytes as u64
    }

    /// Bytes in RAM.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.tail.capacity() + self.chunks.capacity() * size_of::<ChunkRef>() + self.aborted.memory_bytes()) as u64
    }
}
