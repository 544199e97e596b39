//! The newest offset of each key, for a bounded number of keys.
//!
//! Keys are told apart by 128 bits of two hashes whose secrets are drawn for each table, so nobody can make two keys that
//! fall together. Never grows: a full table says so, and the pass ends there.

use std::hash::{BuildHasher as _, RandomState};

use crate::record::Offset;

/// Most slots of a table: just below 1 MiB.
pub(super) const MOST_SLOTS: usize = 43_000;
/// No offset.
const FREE: Offset = -1;

#[derive(Clone, Copy)]
struct Slot {
    hash: [u64; 2],
    offset: Offset,
}

/// See the module's description.
pub(super) struct Keys {
    slots: Vec<Slot>,
    count: usize,
    secrets: [RandomState; 2],
}

impl Keys {
    /// A table for so many keys, or as many as `most_slots` take.
    pub(super) fn new(keys: usize, most_slots: usize) -> Self {
        let slots = (keys.saturating_mul(4) / 3 + 2).min(most_slots.max(2));
        let free = Slot { hash: [0; 2], offset: FREE };
        Self { slots: vec![free; slots], count: 0, secrets: [RandomState::new(), RandomState::new()] }
    }

    /// Forgets all keys.
    pub(super) fn clear(&mut self) {
        self.slots.fill(Slot { hash: [0; 2], offset: FREE });
        self.count = 0;
    }

    /// Notes that a key has a record there; offsets come in order. False if there is no room for another key.
    pub(super) fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let (at, hash) = self.find(key);
        let slot = &mut self.slots[at];
        if slot.offset == FREE {
            // A quarter stays free, so that looking for a key ends soon.
            if self.count >= (self.slots.len() * 3 / 4).max(1) {
                return false;
            }
            self.count += 1;
        }
        self.slots[at] = Slot { hash, offset };
        true
    }

    /// Whether a later record of this key is known.
    pub(super) fn has_newer(&self, key: &[u8], offset: Offset) -> bool {
        self.slots[self.find(key).0].offset > offset
    }

    /// The key's slot, or the free one for it. There always is one.
    fn find(&self, key: &[u8]) -> (usize, [u64; 2]) {
        let hash = [self.secrets[0].hash_one(key), self.secrets[1].hash_one(key)];
        let count = self.slots.len();
        let mut at = usize::try_from(hash[0] % count as u64).expect("less than the table's length");
        while self.slots[at].offset != FREE && self.slots[at].hash != hash {
            at = (at + 1) % count;
        }
        (at, hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_known_until_the_table_is_full() {
        let mut keys = Keys::new(10_000, 1_000);
        let mut taken = 0;
        for i in 0i64..2_000 {
            if !keys.put(&i.to_be_bytes(), i) {
                break;
            }
            taken = i + 1;
        }
        assert_eq!(taken, 750);
        assert!(keys.put(&5i64.to_be_bytes(), 5_000), "a known key needs no room");
        for i in 0..taken {
            let key = i.to_be_bytes();
            assert_eq!((keys.has_newer(&key, i - 1), keys.has_newer(&key, i)), (true, i == 5));
        }
        assert!(!keys.has_newer(b"another", -1));
        keys.clear();
        assert!(!keys.has_newer(&5i64.to_be_bytes(), 0) && keys.put(b"another", 0));
    }

    #[test]
    fn the_largest_table_is_within_a_mebibyte() {
        assert!(MOST_SLOTS * size_of::<Slot>() <= 1 << 20);
        let mut least = Keys::new(0, 0);
        assert!(least.put(b"a", 0) && !least.put(b"b", 1) && least.put(b"a", 2));
    }
}
