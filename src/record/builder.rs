//! Builds batches into a buffer that is used again.
//!
//! Invariant: offsets are dense from 0 and the first record's timestamp is the base, as a broker demands of a producer.

use bytes::Bytes;

use super::{
    BatchError, Codec, Packer, Producer, RecordView,
    batch::{self, Fresh, HEADER_BYTES},
    varint,
};

/// Largest batch built, well below what the length field can say.
const MOST_BYTES: usize = 1 << 30;

/// Builds one batch after another.
///
/// Keeps its buffer between batches, at most [`Builder::KEPT_BYTES`] of it.
#[derive(Debug)]
pub struct Builder {
    /// Room for the header, then the records.
    buffer: Vec<u8>,
    records_count: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    producer: Producer,
    packer: Packer,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// What is kept of the buffer between batches.
    pub const KEPT_BYTES: usize = 64 * 1024;

    /// An empty builder; it has allocated nothing.
    pub fn new() -> Self {
        Self {
            buffer: Vec::new(),
            records_count: 0,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
            producer: Producer::NONE,
            packer: Packer::default(),
        }
    }

    /// Identity of the next batches, until set again.
    pub fn set_producer(&mut self, producer: Producer) {
        self.producer = producer;
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] if the batch would pass 1 GiB; it is as before then.
    pub fn push(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<(), BatchError> {
        let headers_bytes = headers.iter().fold(varint::size(headers.len() as i64), |sum, (key, value)| {
            sum.saturating_add(slice_bytes(Some(key.as_bytes()))).saturating_add(slice_bytes(*value))
        });
        self.start_record(timestamp_ms, [slice_bytes(key), slice_bytes(value), headers_bytes])?;
        put_slice(&mut self.buffer, key);
        put_slice(&mut self.buffer, value);
        varint::put(&mut self.buffer, headers.len() as i64);
        put_headers(&mut self.buffer, headers);
        Ok(())
    }

    /// Adds a record read from another batch, its key, value and headers copied as they lie there.
    ///
    /// # Errors
    /// As [`Builder::push`].
    pub fn push_view(&mut self, record: &RecordView<'_>) -> Result<(), BatchError> {
        self.start_record(record.timestamp_ms, [record.body.len(), 0, 0])?;
        self.buffer.extend_from_slice(record.body);
        Ok(())
    }

    /// Adds a record read from another batch with another value.
    ///
    /// # Errors
    /// As [`Builder::push`].
    pub fn push_with_value(&mut self, record: &RecordView<'_>, value: Option<&[u8]>) -> Result<(), BatchError> {
        self.push_parts(record, value, &[])
    }

    /// Adds a record read from another batch with more headers after its own.
    ///
    /// # Errors
    /// As [`Builder::push`].
    pub fn push_with_headers(
        &mut self,
        record: &RecordView<'_>,
        more: &[(&str, Option<&[u8]>)],
    ) -> Result<(), BatchError> {
        self.push_parts(record, record.value, more)
    }

    /// Records pushed since the last batch.
    pub fn len(&self) -> usize {
        usize::try_from(self.records_count).unwrap_or(0)
    }

    /// Whether nothing was pushed since the last batch.
    pub fn is_empty(&self) -> bool {
        self.records_count == 0
    }

    /// Bytes of the batch so far, before compression.
    pub fn size_bytes(&self) -> usize {
        self.buffer.len().max(HEADER_BYTES)
    }

    /// Drops what was pushed.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(Self::KEPT_BYTES);
        self.records_count = 0;
    }

    /// Gives back the memory of buffer and codecs, for an owner that has nothing to do for a while. Drops what was
    /// pushed.
    pub fn release(&mut self) {
        self.clear();
        self.buffer = Vec::new();
        self.packer.release();
    }

    /// The batch: base offset 0, no leader epoch, CreateTime, signed; empty bytes if nothing was pushed. The builder is
    /// ready for the next one.
    ///
    /// Left uncompressed where `codec` makes it no smaller. `level` is the codec's own (see [`Codec::default_level`]).
    pub fn finish(&mut self, codec: Codec, level: i32) -> Bytes {
        if self.is_empty() {
            return Bytes::new();
        }
        let mut fresh = Fresh {
            codec: Codec::None,
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            producer: self.producer,
            records_count: self.records_count,
        };
        let mut packed = Vec::new();
        if codec != Codec::None {
            packed.resize(HEADER_BYTES, 0);
            if self.packer.pack(codec, level, &self.buffer[HEADER_BYTES..], &mut packed) {
                fresh.codec = codec;
                packed.shrink_to_fit();
            }
        }
        let bytes = if fresh.codec == Codec::None {
            batch::write_header(&mut self.buffer, fresh);
            Bytes::copy_from_slice(&self.buffer)
        } else {
            batch::write_header(&mut packed, fresh);
            Bytes::from(packed)
        };
        self.clear();
        bytes
    }

    /// A record's key and headers, with that value and more headers.
    fn push_parts(
        &mut self,
        record: &RecordView<'_>,
        value: Option<&[u8]>,
        more: &[(&str, Option<&[u8]>)],
    ) -> Result<(), BatchError> {
        let count = i64::from(record.headers_count) + more.len() as i64;
        let headers_bytes = varint::size(count) + record.headers_body.len();
        let headers_bytes = more.iter().fold(headers_bytes, |sum, (key, value)| {
            sum.saturating_add(slice_bytes(Some(key.as_bytes()))).saturating_add(slice_bytes(*value))
        });
        self.start_record(record.timestamp_ms, [slice_bytes(record.key), slice_bytes(value), headers_bytes])?;
        put_slice(&mut self.buffer, record.key);
        put_slice(&mut self.buffer, value);
        varint::put(&mut self.buffer, count);
        self.buffer.extend_from_slice(record.headers_body);
        put_headers(&mut self.buffer, more);
        Ok(())
    }

    /// Writes a record's length, timestamp and offset; `parts` are the bytes of what the caller writes next.
    fn start_record(&mut self, timestamp_ms: i64, parts: [usize; 3]) -> Result<(), BatchError> {
        let body_bytes = parts.into_iter().fold(0, usize::saturating_add);
        if self.buffer.len().saturating_add(body_bytes).saturating_add(64) > MOST_BYTES {
            return Err(BatchError::TooLarge { limit_bytes: MOST_BYTES });
        }
        if self.records_count == 0 {
            self.buffer.clear();
            self.buffer.resize(HEADER_BYTES, 0);
            self.base_timestamp_ms = timestamp_ms;
            self.max_timestamp_ms = timestamp_ms;
        }
        let timestamp_delta = timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        let offset_delta = i64::from(self.records_count);
        let length = 1 + varint::size(timestamp_delta) + varint::size(offset_delta) + body_bytes;
        varint::put(&mut self.buffer, length as i64);
        self.buffer.push(0);
        varint::put(&mut self.buffer, timestamp_delta);
        varint::put(&mut self.buffer, offset_delta);
        self.records_count += 1;
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        Ok(())
    }
}

fn put_headers(out: &mut Vec<u8>, headers: &[(&str, Option<&[u8]>)]) {
    for (key, value) in headers {
        put_slice(out, Some(key.as_bytes()));
        put_slice(out, *value);
    }
}

fn slice_bytes(value: Option<&[u8]>) -> usize {
    value.map_or(1, |v| varint::size(v.len() as i64).saturating_add(v.len()))
}

fn put_slice(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => varint::put(out, -1),
        Some(value) => {
            varint::put(out, value.len() as i64);
            out.extend_from_slice(value);
        }
    }
}
