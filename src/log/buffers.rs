//! Buffers that reads fill and that are used again once their bytes are sent.
//!
//! A fresh MiB costs 256 page faults, more than the copy into it: two thirds of the CPU of a bulk fetch went there. Only
//! large buffers are kept, a few of them, and no longer than until the writer's next look at retention, so that a daemon
//! that nobody reads from holds none.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

/// Buffers from here on are kept: below, the allocator has their pages at hand anyway.
const LARGE_BYTES: usize = 64 << 10;
/// Most bytes kept.
const KEPT_BYTES: usize = 2 << 20;

/// Those that wait for use, the latest last.
#[derive(Default)]
pub(super) struct Buffers(Mutex<VecDeque<Box<[u8]>>>);

/// One that is being filled.
pub(super) struct Buffer {
    /// All of it is initialised: clearing memory that is about to be overwritten was a tenth of a fetch.
    bytes: Box<[u8]>,
    filled: usize,
    buffers: Arc<Buffers>,
}

impl Buffers {
    /// An empty buffer with room for so many bytes.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Buffer {
        // A power of two, so that it fits other reads, and less than twice the size: the answer holds about what it takes
        // of the memory budget.
        let size = if bytes < LARGE_BYTES { bytes } else { bytes.next_power_of_two() };
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free.iter().rposition(|b| b.len() == size).and_then(|at| free.remove(at));
        drop(free);
        Buffer { bytes: found.unwrap_or_else(|| vec![0; size].into()), filled: 0, buffers: Arc::clone(self) }
    }

    /// Gives those that wait back to the system.
    pub(super) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn put_back(&self, bytes: Box<[u8]>) {
        if !(LARGE_BYTES..=KEPT_BYTES).contains(&bytes.len()) {
            return;
        }
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.push_back(bytes);
        // The oldest go: their size is not asked for any more.
        while free.iter().map(|b| b.len()).sum::<usize>() > KEPT_BYTES {
            free.pop_front();
        }
    }
}

impl Buffer {
    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub(super) fn len(&self) -> usize {
        self.filled
    }

    /// The bytes from `at` on.
    pub(super) fn from(&self, at: usize) -> &[u8] {
        &self.bytes[at..self.filled]
    }

    /// Appends room for so many bytes, to be written over; [`Buffer::truncate`] takes it back.
    pub(super) fn extend(&mut self, more: usize) -> &mut [u8] {
        let (start, end) = (self.filled, self.filled + more);
        if end > self.bytes.len() {
            let mut larger = self.buffers.take(end);
            larger.bytes[..start].copy_from_slice(&self.bytes[..start]);
            std::mem::swap(&mut self.bytes, &mut larger.bytes);
        }
        self.filled = end;
        &mut self.bytes[start..end]
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.filled = self.filled.min(len);
    }

    /// Leaves of what was appended from `at` on only `range` of it.
    pub(super) fn keep(&mut self, at: usize, range: std::ops::Range<usize>) {
        if range.start > 0 {
            self.bytes.copy_within(at + range.start..at + range.end, at);
        }
        self.filled = at + range.len();
    }

    /// What is in it, to be sent. One that is mostly empty is copied, so that no more is held than counted.
    pub(super) fn into_bytes(self) -> Bytes {
        if self.filled < self.bytes.len() / 2 { Bytes::copy_from_slice(self.from(0)) } else { Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.from(0)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.buffers.put_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(buffers: &Buffers) -> Vec<usize> {
        buffers.0.lock().unwrap().iter().map(|b| b.len()).collect()
    }

    #[test]
    fn a_buffer_returns_once_its_last_slice_is_gone() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take(100_000);
        buffer.extend(100_000).fill(7);
        buffer.keep(0, 10..100_000);
        assert_eq!(buffer.len(), 99_990);
        let bytes = buffer.into_bytes();
        let slice = bytes.slice(5..);
        drop(bytes);
        assert!(kept(&buffers).is_empty() && slice.iter().all(|byte| *byte == 7));
        drop(slice);
        assert_eq!(kept(&buffers), [128 << 10]);
        assert_eq!(buffers.take(50_000).bytes.len(), 50_000, "far too large a one is left alone");
        let again = buffers.take(70_000);
        assert!(again.bytes.len() == 128 << 10 && kept(&buffers).is_empty());
        drop(again);
        buffers.release();
        assert!(kept(&buffers).is_empty());
    }

    #[test]
    fn only_so_much_is_kept() {
        let buffers = Arc::new(Buffers::default());
        let four: Vec<_> = (0..4).map(|_| buffers.take(1 << 20)).collect();
        drop(four);
        drop(buffers.take(4 << 20));
        drop(buffers.take(4_000));
        assert_eq!(kept(&buffers), [1 << 20; 2]);
        drop(buffers.take(200_000));
        assert_eq!(kept(&buffers), [1 << 20, 256 << 10]);
    }

    #[test]
    fn a_buffer_that_is_too_small_grows() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take(3);
        buffer.extend(3).copy_from_slice(b"abc");
        buffer.extend(2).copy_from_slice(b"de");
        buffer.truncate(4);
        assert_eq!(buffer.into_bytes(), "abcd");
        assert!(buffers.take(0).is_empty());
    }

    #[test]
    fn a_buffer_that_is_mostly_empty_is_not_held() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take(1 << 20);
        buffer.extend(1_000);
        let _bytes = buffer.into_bytes();
        assert_eq!(kept(&buffers), [1 << 20]);
    }
}
