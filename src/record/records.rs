//! The records of one batch, one at a time and borrowed from its bytes or from the unpacked ones.
//!
//! Each record is checked in full when it is reached, so that its parts can be taken without another error.

use super::{BatchError, Codec, Offset, Unpacker, batch, varint};

/// The records of one batch, in order.
///
/// Ends after the first error: what follows a record that does not add up has no meaning.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    left: i32,
    last_delta: i32,
    header: batch::Header,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its offset in the partition.
    pub offset: Offset,
    /// Milliseconds since 1970; the time of the append where the batch says so.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Key, value and headers as they lie in the batch.
    pub(super) body: &'a [u8],
    /// The headers' bytes after their count.
    pub(super) headers_body: &'a [u8],
    /// How many there are.
    pub(super) headers_count: u32,
}

impl<'a> RecordView<'a> {
    /// The headers, in order, with duplicates.
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.headers_body, left: self.headers_count }
    }

    /// Bytes of key, value and headers as they are stored.
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }
}

/// One header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader<'a> {
    /// Its name: UTF-8 as far as clients keep to the rule.
    pub key: &'a [u8],
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// A record's headers.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = RecordHeader<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // Checked when the record was read, so an error here cannot be; it would end the headers.
        header(&mut self.rest).ok()
    }
}

impl Unpacker {
    /// The records of one batch, unpacked if need be. The header and structure are checked, the CRC is not
    /// ([`batch::check`] does).
    ///
    /// # Errors
    /// As [`batch::Header::parse`]; [`BatchError::Length`]; [`BatchError::Control`] for markers;
    /// [`BatchError::TooLarge`] if the records take more than the limit unpacked, [`BatchError::Compressed`] if they do
    /// not unpack.
    pub fn records<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Records<'a>, BatchError> {
        self.prepare(bytes)?;
        self.prepared(bytes)
    }

    /// The first half of [`Unpacker::records`], for a caller that tries another limit where one was too low.
    ///
    /// # Errors
    /// As [`Unpacker::records`].
    pub fn prepare(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        let header = whole_header(bytes)?;
        match header.codec() {
            Codec::None => Ok(()),
            _ if bytes.len() == batch::HEADER_BYTES => Ok(()),
            codec => self.unpack(codec, &bytes[batch::HEADER_BYTES..]).map(drop),
        }
    }

    /// The second half, for the batch that was prepared last.
    ///
    /// # Errors
    /// As [`Unpacker::records`], but for unpacking.
    pub fn prepared<'a>(&'a self, bytes: &'a [u8]) -> Result<Records<'a>, BatchError> {
        let header = whole_header(bytes)?;
        let packed = &bytes[batch::HEADER_BYTES..];
        // Some clients set the codec's bits on a batch of nothing.
        let rest = if header.codec() == Codec::None || packed.is_empty() { packed } else { self.unpacked() };
        Ok(Records::of(rest, header))
    }
}

/// The header of a batch that is what it says and holds records.
fn whole_header(bytes: &[u8]) -> Result<batch::Header, BatchError> {
    let header = batch::Header::parse(bytes)?;
    if header.batch_bytes() != bytes.len() {
        return Err(BatchError::Length { said: header.length, got_bytes: bytes.len() });
    }
    if header.is_control() {
        return Err(BatchError::Control);
    }
    Ok(header)
}

impl<'a> Records<'a> {
    /// Those that lie in `rest`, unpacked.
    pub(super) fn of(rest: &'a [u8], header: batch::Header) -> Self {
        Self { rest, left: header.records_count, last_delta: -1, header }
    }

    /// The batch's header.
    pub fn header(&self) -> &batch::Header {
        &self.header
    }

    fn read(&mut self) -> Result<RecordView<'a>, BatchError> {
        let length = varint::read_i32(&mut self.rest)?;
        let length = usize::try_from(length).map_err(|_| BatchError::Record("negative length"))?;
        let (mut bytes, rest) =
            self.rest.split_at_checked(length).ok_or(BatchError::Record("longer than its batch"))?;
        self.rest = rest;
        let (_attributes, after) = bytes.split_first().ok_or(BatchError::Record("empty"))?;
        bytes = after;
        let timestamp_delta = varint::read_i64(&mut bytes)?;
        let offset_delta = varint::read_i32(&mut bytes)?;
        // Readers that resume after the last offset they saw rely on both.
        if offset_delta <= self.last_delta || offset_delta > self.header.last_offset_delta {
            return Err(BatchError::Record("offsets do not rise within the batch's"));
        }
        self.last_delta = offset_delta;
        let body = bytes;
        let key = slice(&mut bytes)?;
        let value = slice(&mut bytes)?;
        let headers_count =
            u32::try_from(varint::read_i32(&mut bytes)?).map_err(|_| BatchError::Record("negative header count"))?;
        let headers_body = bytes;
        for _ in 0..headers_count {
            header(&mut bytes)?;
        }
        if !bytes.is_empty() {
            return Err(BatchError::Record("bytes after the last header"));
        }
        let timestamp_ms = if self.header.has_log_append_time() {
            self.header.max_timestamp_ms
        } else {
            self.header.base_timestamp_ms.wrapping_add(timestamp_delta)
        };
        let offset = self.header.base_offset.saturating_add(i64::from(offset_delta));
        Ok(RecordView { offset, timestamp_ms, key, value, body, headers_body, headers_count })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            let rest = std::mem::take(&mut self.rest);
            return (!rest.is_empty()).then_some(Err(BatchError::Record("bytes after the last record")));
        }
        self.left -= 1;
        let record = self.read();
        if record.is_err() {
            self.left = 0;
            self.rest = &[];
        }
        Some(record)
    }
}

fn header<'a>(bytes: &mut &'a [u8]) -> Result<RecordHeader<'a>, BatchError> {
    let key = slice(bytes)?.ok_or(BatchError::Record("header without a key"))?;
    Ok(RecordHeader { key, value: slice(bytes)? })
}

/// Bytes after their length; -1 is none.
fn slice<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BatchError> {
    let length = varint::read_i32(bytes)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| BatchError::Record("negative length"))?;
    let (value, rest) = bytes.split_at_checked(length).ok_or(BatchError::Record("longer than its record"))?;
    *bytes = rest;
    Ok(Some(value))
}
