//! The aborted transactions of a partition: which records who reads committed must skip.
//!
//! One entry of the log's own state for each, written in the commit that holds the marker and forgotten when the log
//! start has passed it. RAM holds them in the order of their markers.

use super::{
    catalogue::OWN,
    layout::{Reader, state_key},
};
use crate::record::{Offset, batch::Header};

/// First byte of the keys within the log's own state.
pub(super) const KEY_TAG: u8 = b'a';

/// One aborted transaction in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Whose.
    pub producer_id: i64,
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of its marker.
    pub last: Offset,
}

impl Aborted {
    /// Whether a batch belongs to it.
    pub fn covers(&self, batch: &Header) -> bool {
        batch.is_transactional()
            && batch.producer.id == self.producer_id
            && (self.first..=self.last).contains(&batch.base_offset)
    }

    pub(super) fn key(&self, partition: u32) -> Vec<u8> {
        let mut key = [KEY_TAG; 13];
        key[1..5].copy_from_slice(&partition.to_be_bytes());
        key[5..].copy_from_slice(&self.last.to_be_bytes());
        state_key(OWN, &key)
    }

    pub(super) fn value(&self) -> [u8; 16] {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&self.producer_id.to_be_bytes());
        value[8..].copy_from_slice(&self.first.to_be_bytes());
        value
    }

    /// Partition and entry from a key without its owner and its value.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<(u32, Self)> {
        let mut reader = Reader(key.strip_prefix(&[KEY_TAG])?);
        let partition = u32::from_be_bytes(reader.array()?);
        let last = i64::from_be_bytes(reader.array()?);
        let mut reader = Reader(value);
        let producer_id = i64::from_be_bytes(reader.array()?);
        Some((partition, Self { producer_id, first: i64::from_be_bytes(reader.array()?), last }))
    }
}

/// Those of one partition, in the order of their markers.
#[derive(Debug, Default)]
pub(super) struct Index(Vec<Aborted>);

impl Index {
    pub(super) fn push(&mut self, aborted: Aborted) {
        debug_assert!(self.0.last().is_none_or(|last| last.last < aborted.last), "markers follow each other");
        self.0.push(aborted);
    }

    /// Those with records in `from..to`, by first offset.
    pub(super) fn overlapping(&self, from: Offset, to: Offset) -> Vec<Aborted> {
        let at = self.0.partition_point(|a| a.last < from);
        let mut found: Vec<_> = self.0[at..].iter().filter(|a| a.first < to).copied().collect();
        found.sort_unstable_by_key(|a| a.first);
        found
    }

    /// Forgets those that lie before `start` and says which they were.
    pub(super) fn forget_before(&mut self, start: Offset) -> Vec<Aborted> {
        let count = self.0.partition_point(|a| a.last < start);
        self.0.drain(..count).collect()
    }

    /// The keys under which they are kept.
    pub(super) fn keys(&self, partition: u32) -> Vec<Vec<u8>> {
        self.0.iter().map(|aborted| aborted.key(partition)).collect()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.0.capacity() * size_of::<Aborted>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_and_the_index_finds_what_overlaps() {
        let all = [(7, 0, 5), (8, 3, 9), (7, 6, 12)];
        let mut index = Index::default();
        for (producer_id, first, last) in all {
            let aborted = Aborted { producer_id, first, last };
            let key = aborted.key(3);
            assert_eq!(Aborted::decode(&key[2..], &aborted.value()), Some((3, aborted)));
            index.push(aborted);
        }
        let firsts = |from, to| index.overlapping(from, to).iter().map(|a| a.first).collect::<Vec<_>>();
        assert_eq!(firsts(0, 1), [0]);
        assert_eq!(firsts(0, 3), [0]);
        assert_eq!(firsts(5, 7), [0, 3, 6]);
        assert_eq!(firsts(6, 7), [3, 6]);
        assert_eq!(firsts(13, 99), [] as [i64; 0]);
        assert_eq!(Aborted::decode(b"a123", &[]), None);
        assert_eq!(index.forget_before(9).len(), 1);
        assert_eq!(index.forget_before(13).len(), 2);
    }
}
