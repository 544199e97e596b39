//! The journal's entries as the writer knows them: which are there, how much they take, which state they hold.
//!
//! Pure bookkeeping. An entry may be deleted once all its batches are in chunks and none of its state is the newest.

use std::collections::VecDeque;

/// One entry in the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    /// What it takes in the file, in whole pages; an entry inside a leaf counts as none.
    pub(super) bytes: u64,
    /// The next seal number when it was written; 0 where that is not known any more. Chunks with a lesser one cannot
    /// hold batches of this entry or a later one.
    pub(super) seal: u64,
    /// The state keys it holds.
    pub(super) keys: Vec<Box<[u8]>>,
}

/// All entries, oldest first.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: VecDeque<Entry>,
    bytes: u64,
    next: u64,
}

impl Journal {
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += weight(&entry);
        self.next = entry.seq + 1;
        self.entries.push_back(entry);
    }

    /// The number of the next entry.
    pub(super) fn next_seq(&self) -> u64 {
        self.next
    }

    /// The least seal number of a chunk that may hold batches which are still in the journal too.
    pub(super) fn oldest_seal(&self) -> u64 {
        self.entries.front().map_or(u64::MAX, |e| e.seal)
    }

    /// What all entries take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries before `seq`, oldest first.
    pub(super) fn before(&self, seq: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().take_while(move |e| e.seq < seq)
    }

    /// What the entries from `seq` on take.
    pub(super) fn bytes_from(&self, seq: u64) -> u64 {
        self.bytes - self.before(seq).map(weight).sum::<u64>()
    }

    /// Forgets the `count` oldest entries.
    pub(super) fn trim(&mut self, count: usize) {
        for entry in self.entries.drain(..count) {
            self.bytes -= weight(&entry);
        }
    }
}

/// Even an entry inside a leaf takes part of a page.
fn weight(entry: &Entry) -> u64 {
    entry.bytes.max(1024)
}
