//! What a record carries with it into the dead letters' topic.
//!
//! The headers' names are those of Kafka Streams' own dead letters (KIP-1034), so that what reads those reads these.

use crate::record::{BatchError, Builder, RecordView};

const MESSAGE: &str = "__streams.errors.message";
const TOPIC: &str = "__streams.errors.topic";
const PARTITION: &str = "__streams.errors.partition";
const OFFSET: &str = "__streams.errors.offset";

/// Longest reason kept.
const REASON_BYTES: usize = 1024;

/// Where the letter comes from and why it is dead.
pub(super) struct Cause<'a> {
    pub(super) reason: &'a str,
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

impl Cause<'_> {
    /// Adds the record as it was, with the cause after its own headers.
    pub(super) fn push_record(&self, out: &mut Builder, record: &RecordView<'_>) -> Result<(), BatchError> {
        self.with_headers(|headers| out.push_with_headers(record, headers))
    }

    /// Adds a whole batch whose records cannot be read, as a record's value.
    pub(super) fn push_batch(&self, out: &mut Builder, batch: &[u8], timestamp_ms: i64) -> Result<(), BatchError> {
        self.with_headers(|headers| out.push(timestamp_ms, None, Some(batch), headers))
    }

    fn with_headers<R>(&self, push: impl FnOnce(&[(&str, Option<&[u8]>)]) -> R) -> R {
        let most = self.reason.char_indices().map(|(at, _)| at).take_while(|at| *at <= REASON_BYTES).last();
        let reason = if self.reason.len() > REASON_BYTES { &self.reason[..most.unwrap_or(0)] } else { self.reason };
        let (partition, offset) = (self.partition.to_string(), self.offset.to_string());
        push(&[
            (MESSAGE, Some(reason.as_bytes())),
            (TOPIC, Some(self.topic.as_bytes())),
            (PARTITION, Some(partition.as_bytes())),
            (OFFSET, Some(offset.as_bytes())),
        ])
    }
}
