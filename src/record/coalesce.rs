//! Joins consecutive batches of one partition into one, for a slow link.
//!
//! Only the three varints before each record change (length, timestamp, offset); key, value and header bytes are copied
//! as they lie, so order, duplicate header keys and null values survive. The same path re-writes a single batch that
//! cannot be sent on as it is.

use bytes::Bytes;

use super::{BatchError, Builder, Codec, Offset, Producer, RecordView, Unpacker, batch};

/// Collects batches of one partition until they are sent as one.
#[derive(Debug)]
pub struct Coalescer {
    builder: Builder,
    unpacker: Unpacker,
    span: Option<(Offset, Offset)>,
}

impl Coalescer {
    /// Refuses source batches whose records take more than `limit_bytes` unpacked.
    pub fn new(limit_bytes: usize) -> Self {
        Self { builder: Builder::new(), unpacker: Unpacker::new(limit_bytes), span: None }
    }

    /// Adds the records of one batch from offset `from` on; fewer than all when a reader resumes within it.
    ///
    /// # Errors
    /// As [`batch::check`] and [`Unpacker::records`], also when a record within is damaged. Nothing of the batch was
    /// added then only if the error came before its first record: call [`Coalescer::clear`].
    pub fn push(&mut self, bytes: &[u8], from: Offset) -> Result<(), BatchError> {
        let header = batch::check(bytes)?;
        for record in self.unpacker.records(bytes)? {
            let record = record?;
            if record.offset >= from {
                self.builder.push_view(&record)?;
                let first = self.span.map_or(record.offset, |(first, _)| first);
                self.span = Some((first, record.offset));
            }
        }
        // A hole at the end belongs to what has been dealt with.
        self.span = self.span.map(|(first, last)| (first, last.max(header.last_offset())));
        Ok(())
    }

    /// Adds one record.
    ///
    /// # Errors
    /// As [`Builder::push`].
    pub fn push_record(&mut self, record: &RecordView<'_>) -> Result<(), BatchError> {
        self.builder.push_view(record)?;
        self.span = Some((self.span.map_or(record.offset, |(first, _)| first), record.offset));
        Ok(())
    }

    /// Offset of the first record added and the last offset dealt with; `None` if empty.
    pub fn span(&self) -> Option<(Offset, Offset)> {
        self.span
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.builder.len()
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// Bytes of the batch so far, before compression.
    pub fn size_bytes(&self) -> usize {
        self.builder.size_bytes()
    }

    /// Drops what was added.
    pub fn clear(&mut self) {
        self.builder.clear();
        self.span = None;
    }

    /// Gives back the memory of buffers and codecs, and drops what was added.
    pub fn release(&mut self) {
        self.builder.release();
        self.unpacker.release();
        self.span = None;
    }

    /// The batch, signed for `producer` with base offset 0; empty bytes if it holds no record. Ready for the next one.
    pub fn finish(&mut self, producer: Producer, codec: Codec, level: i32) -> Bytes {
        self.builder.set_producer(producer);
        self.span = None;
        self.builder.finish(codec, level)
    }
}
