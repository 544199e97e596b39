//! What enters the log at once: batches and state, how long they may wait, and where they landed.

use bytes::Bytes;

use super::Error;
use crate::record::{Offset, Partition};

/// Longest owner of a state entry, in bytes.
const OWNER_BYTES: usize = 16;
/// Longest key of a state entry.
const KEY_BYTES: usize = 400;
/// Largest value of a state entry.
const VALUE_BYTES: usize = 64 << 10;
/// Largest write: a Produce request of the greatest allowed size and what goes with it.
const WRITE_BYTES: usize = 20 << 20;
/// Everything that must become durable together.
#[derive(Clone, Debug, Default)]
pub struct Write {
    /// Batches, in the order in which they are appended.
    pub batches: Vec<Append>,
    /// State changes.
    pub state: Vec<StateWrite>,
    /// How long the write may wait for company.
    pub urgency: Urgency,
}

/// One record batch v2 for one partition. Its base offset and leader epoch are overwritten.
///
/// A batch with a producer id is checked against the partition's producer state (see [`Error::Sequence`]); a batch
/// that repeats one of the last five is not appended again and answers with the offsets of the first time.
#[derive(Clone, Debug)]
pub struct Append {
    /// Where it goes.
    pub partition: Partition,
    /// Exactly one batch, structure and CRC already checked by the caller.
    pub batch: Bytes,
}

/// One key of one owner's state; `None` removes it.
#[derive(Clone, Debug)]
pub struct StateWrite {
    /// The module, such as `groups`; at most 16 bytes.
    pub owner: &'static str,
    /// The owner's own key; at most 400 bytes.
    pub key: Bytes,
    /// The new value, at most 64 KiB, or `None` to remove it.
    pub value: Option<Bytes>,
}

/// How long a write may wait for company.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for the answer: `ack_linger`.
    #[default]
    Waited,
    /// Nobody waits: `linger`.
    Unattended,
}

/// Where one batch landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// The partition's log start offset then.
    pub log_start: Offset,
    /// True if it had been appended before and was recognised.
    pub is_duplicate: bool,
}

/// Bytes of a write, if the log can take it at once.
pub(super) fn check_size(batches: &[Append], state: &[StateWrite]) -> Result<usize, Error> {
    let mut bytes: usize = batches.iter().map(|a| a.batch.len()).sum();
    for StateWrite { owner, key, value } in state {
        let value = value.as_ref().map_or(0, Bytes::len);
        if owner.is_empty() || owner.len() > OWNER_BYTES || key.len() > KEY_BYTES || value > VALUE_BYTES {
            return Err(Error::TooLarge(format!(
                "a state entry of '{owner}' with a key of {} and a value of {value} bytes",
                key.len()
            )));
        }
        bytes += key.len() + value;
    }
    if bytes > WRITE_BYTES {
        return Err(Error::TooLarge(format!("{bytes} bytes, the limit is {WRITE_BYTES}")));
    }
    Ok(bytes)
}
