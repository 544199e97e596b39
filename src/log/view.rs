//! What callers see of the log: the bounds of a partition, what a read brings, a record found by its time, figures.
//!
//! Plain values, copied out; holding one holds nothing of the log.

use bytes::Bytes;

use super::{Aborted, wear::Wear};
use crate::record::{Offset, batch::Header};

/// What a reader may see of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// First offset that is kept.
    pub start: Offset,
    /// One after the last durable offset.
    pub high_watermark: Offset,
    /// Up to where no transaction is open: the end for who reads committed, at most the high watermark.
    pub last_stable: Offset,
}

/// What a read brings.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Whole batches, the first of which holds the offset asked for.
    pub batches: Bytes,
    /// There is more, but it does not fit.
    pub is_cut: bool,
    /// The bounds at that moment.
    pub bounds: Bounds,
    /// For who reads committed: the aborted transactions with records in `batches`, by first offset.
    pub aborted: Vec<Aborted>,
}

impl Slice {
    /// Whether a batch of it holds nothing for who reads committed: the end of a transaction, or part of an aborted one.
    pub fn hides(&self, batch: &Header) -> bool {
        batch.is_control() || self.aborted.iter().any(|aborted| aborted.covers(batch))
    }
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: i64,
    /// Its batch takes more than was allowed unpacked, so this is the batch's first offset and greatest time.
    pub is_too_large_to_unpack: bool,
}

/// Figures of the log for status and metrics.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Bytes of live chunks, tails and journal.
    pub live_bytes: u64,
    /// The quota in force.
    pub quota_bytes: u64,
    /// Size of the data file.
    pub file_bytes: u64,
    /// Bytes handed to the file since start, whole pages.
    pub written_bytes: u64,
    /// Commits since start.
    pub commits: u64,
    /// Batch bytes taken in since start.
    pub ingested_bytes: u64,
    /// Bytes of tails, overlay and index in RAM.
    pub memory_bytes: u64,
    /// Grows while the writer thread moves; for the watchdog.
    pub heartbeat: u64,
    /// Records that the gap ledger names as deleted before they were mirrored.
    pub gap_records: u64,
    /// Their bytes.
    pub gap_bytes: u64,
    /// Bytes written since start by commits of compaction, whole pages.
    pub compaction_bytes: u64,
    /// The wear of the card, over restarts.
    pub wear: Wear,
}
