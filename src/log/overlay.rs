//! State that lives in the journal: the newest value of each key, until it moves into its own range of the file.
//!
//! A key that changes with every commit (an offset, a cursor) is thus written once per commit, inside the journal entry
//! that is written anyway, and reaches a page of its own only when it stops changing. What is written and not durable
//! yet lies apart: the writer plans with it, no reader sees it.

use std::collections::BTreeMap;

use bytes::Bytes;

/// A key's newest value and the journal entry that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// `None`: removed.
    pub(super) value: Option<Bytes>,
    pub(super) seq: u64,
}

/// By the key in the file.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    keys: BTreeMap<Box<[u8]>, Held>,
    /// Written, not durable.
    pending: BTreeMap<Box<[u8]>, Held>,
    bytes: u64,
}

impl Overlay {
    /// What the journal will say of a key once everything written is durable.
    pub(super) fn newest(&self, key: &[u8]) -> Option<&Held> {
        self.pending.get(key).or_else(|| self.keys.get(key))
    }

    /// Takes in what a commit has written.
    pub(super) fn write(&mut self, key: &[u8], held: Held) {
        self.pending.insert(key.into(), held);
    }

    /// Everything written is durable.
    pub(super) fn publish(&mut self) {
        for (key, held) in std::mem::take(&mut self.pending) {
            self.put(&key, held);
        }
    }

    /// What the journal says of a key; `None` where it says nothing.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Held> {
        self.keys.get(key)
    }

    pub(super) fn put(&mut self, key: &[u8], held: Held) {
        let size = |h: &Held| h.value.as_ref().map_or(0, Bytes::len) as u64;
        self.bytes += size(&held);
        if let Some(known) = self.keys.get_mut(key) {
            self.bytes -= size(known);
            *known = held;
        } else {
            self.bytes += key.len() as u64 + 64;
            self.keys.insert(key.into(), held);
        }
    }

    /// Forgets a key that has moved.
    pub(super) fn remove(&mut self, key: &[u8]) {
        if let Some(held) = self.keys.remove(key) {
            self.bytes -= key.len() as u64 + 64 + held.value.as_ref().map_or(0, Bytes::len) as u64;
        }
    }

    /// Keys that begin with `prefix`, in order.
    pub(super) fn prefixed(&self, prefix: &[u8]) -> impl Iterator<Item = (&[u8], &Held)> {
        let from = self.keys.range::<[u8], _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(move |(key, _)| key.starts_with(prefix)).map(|(key, held)| (&**key, held))
    }

    /// Bytes in RAM, roughly.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.bytes
    }
}
