//! The batch's 61 byte header: view, check, stamp, restamp.
//!
//! Base offset, length, leader epoch and magic lie before the CRC and are not covered by it, so a broker stamps where a
//! batch landed without touching what the producer signed. Never unpacks a record.

use super::{BatchError, Codec, Offset, Producer};

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 61;
/// Bytes before those that the length field counts: base offset and the length itself.
pub const PREFIX_BYTES: usize = 12;

const EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
/// Where the bytes begin that the CRC covers.
const SIGNED_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_AT: usize = 43;

const CODEC_BITS: u16 = 0b111;
const LOG_APPEND_TIME: u16 = 1 << 3;
const TRANSACTIONAL: u16 = 1 << 4;
const CONTROL: u16 = 1 << 5;
const DELETE_HORIZON: u16 = 1 << 6;

/// The header's fields, as they lie in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes after the length field; the batch is 12 larger.
    pub length: i32,
    /// Epoch of the leader that appended it, -1 if none did.
    pub leader_epoch: i32,
    /// CRC-32C of everything after it.
    pub crc: u32,
    /// Codec in bits 0–2, then timestamp type, transactional, control, delete horizon.
    pub attributes: u16,
    /// Offset of the last record relative to the first, also if compaction took records out.
    pub last_offset_delta: i32,
    /// What the records' timestamp deltas add to, in milliseconds.
    pub base_timestamp_ms: i64,
    /// The greatest timestamp in milliseconds, or the time of the append (see [`Header::has_log_append_time`]).
    pub max_timestamp_ms: i64,
    /// Who sent it, for idempotence.
    pub producer: Producer,
    /// Number of records.
    pub records_count: i32,
}

impl Header {
    /// Reads the header at the start of `bytes`, which may go on. Looks at structure only, not at the CRC.
    ///
    /// # Errors
    /// [`BatchError::Short`], [`BatchError::Magic`], [`BatchError::Codec`], or [`BatchError::Field`] where a length or
    /// count cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(BatchError::Short(bytes.len())) };
        let magic = head[MAGIC_AT];
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let header = Self {
            base_offset: i64::from_be_bytes(field(head, 0)),
            length: i32::from_be_bytes(field(head, 8)),
            leader_epoch: i32::from_be_bytes(field(head, EPOCH_AT)),
            crc: u32::from_be_bytes(field(head, CRC_AT)),
            attributes: u16::from_be_bytes(field(head, SIGNED_AT)),
            last_offset_delta: i32::from_be_bytes(field(head, 23)),
            base_timestamp_ms: i64::from_be_bytes(field(head, 27)),
            max_timestamp_ms: i64::from_be_bytes(field(head, MAX_TIMESTAMP_AT)),
            producer: Producer {
                id: i64::from_be_bytes(field(head, PRODUCER_AT)),
                epoch: i16::from_be_bytes(field(head, 51)),
                sequence: i32::from_be_bytes(field(head, 53)),
            },
            records_count: i32::from_be_bytes(field(head, 57)),
        };
        if usize::try_from(header.length).is_ok_and(|l| l >= HEADER_BYTES - PREFIX_BYTES) {
            Codec::from_attributes(header.attributes)?;
            if header.last_offset_delta < 0 {
                return Err(BatchError::Field("lastOffsetDelta"));
            }
            if header.records_count < 0 {
                return Err(BatchError::Field("recordsCount"));
            }
            Ok(header)
        } else {
            Err(BatchError::Field("length"))
        }
    }

    /// Bytes of the whole batch.
    pub fn batch_bytes(&self) -> usize {
        PREFIX_BYTES + usize::try_from(self.length).unwrap_or(0)
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// How the records are compressed.
    pub fn codec(&self) -> Codec {
        Codec::from_attributes(self.attributes).unwrap_or(Codec::None)
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether it holds a marker of a transaction's end instead of records.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Whether every record has `max_timestamp_ms`, set by the broker.
    pub fn has_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Whether the base timestamp is the time after which compaction may drop tombstones.
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON != 0
    }

    /// Whether a producer id and sequence guard it.
    pub fn is_idempotent(&self) -> bool {
        self.producer.id >= 0
    }

    /// Whether there is a record for every offset, as a producer must send it and a compacted log need not have it.
    pub fn is_dense(&self) -> bool {
        self.records_count > 0 && self.last_offset_delta == self.records_count - 1
    }

    /// Why [`restamp`] must not be used on this batch, if so.
    ///
    /// What is named here a broker refuses from a producer: holes and control batches with INVALID_RECORD,
    /// LogAppendTime with INVALID_TIMESTAMP; a delete horizon makes the base timestamp no base.
    pub fn must_rewrite(&self) -> Option<&'static str> {
        if self.is_control() {
            Some("control batch")
        } else if !self.is_dense() {
            Some("holes between offsets")
        } else if self.has_log_append_time() {
            Some("LogAppendTime")
        } else if self.has_delete_horizon() {
            Some("delete horizon")
        } else {
            None
        }
    }
}

/// Checks that `bytes` are exactly one batch, with a right CRC.
///
/// What only a broker demands of a producer (dense offsets, base offset 0, no control batch) is not checked here.
///
/// # Errors
/// As [`Header::parse`], [`BatchError::Length`] if the bytes are more or fewer than the length field says, and
/// [`BatchError::Crc`].
pub fn check(bytes: &[u8]) -> Result<Header, BatchError> {
    let header = Header::parse(bytes)?;
    if header.batch_bytes() != bytes.len() {
        return Err(BatchError::Length { said: header.length, got_bytes: bytes.len() });
    }
    let computed = crc32c::crc32c(&bytes[SIGNED_AT..]);
    if computed != header.crc {
        return Err(BatchError::Crc { said: header.crc, computed });
    }
    Ok(header)
}

/// Writes where the batch landed. Outside the CRC; bytes shorter than a header are left alone.
pub fn stamp(bytes: &mut [u8], base_offset: Offset, leader_epoch: i32) {
    if bytes.len() >= HEADER_BYTES {
        put(bytes, 0, base_offset.to_be_bytes());
        put(bytes, EPOCH_AT, leader_epoch.to_be_bytes());
    }
}

/// Gives every record the time of the append (`message.timestamp.type=LogAppendTime`) and signs again.
///
/// Only for a batch that [`check`] has passed: a wrong CRC would become a right one.
pub fn stamp_append_time(bytes: &mut [u8], now_ms: i64) {
    if bytes.len() >= HEADER_BYTES {
        put(bytes, MAX_TIMESTAMP_AT, now_ms.to_be_bytes());
        set_attributes(bytes, LOG_APPEND_TIME);
    }
}

/// Makes a new batch a control batch of a transaction and signs again.
pub(super) fn make_control(bytes: &mut [u8]) {
    set_attributes(bytes, TRANSACTIONAL | CONTROL);
}

/// Makes a new batch part of a transaction and signs again.
#[cfg(test)]
pub(crate) fn transactional(bytes: &[u8]) -> bytes::Bytes {
    let mut bytes = bytes.to_vec();
    set_attributes(&mut bytes, TRANSACTIONAL);
    bytes.into()
}

fn set_attributes(bytes: &mut [u8], more: u16) {
    let attributes = u16::from_be_bytes([bytes[SIGNED_AT], bytes[SIGNED_AT + 1]]) | more;
    put(bytes, SIGNED_AT, attributes.to_be_bytes());
    sign(bytes);
}

/// Makes a stored batch one that `producer` sends to another cluster: base offset 0, no leader epoch, not
/// transactional, his identity, signed again. Timestamps and records stay.
///
/// The stored CRC is verified first, because signing anew would launder damage into a valid checksum.
///
/// # Errors
/// As [`check`]; [`BatchError::Rewrite`] with the reason if only a rewritten batch would be taken
/// ([`Header::must_rewrite`]). The bytes are unchanged then.
pub fn restamp(bytes: &mut [u8], producer: Producer) -> Result<Header, BatchError> {
    let header = check(bytes)?;
    if let Some(reason) = header.must_rewrite() {
        return Err(BatchError::Rewrite(reason));
    }
    stamp(bytes, 0, -1);
    put(bytes, SIGNED_AT, (header.attributes & !TRANSACTIONAL).to_be_bytes());
    put_producer(bytes, producer);
    sign(bytes);
    Header::parse(bytes)
}

/// The batches in a run of bytes, as a log or a Fetch response holds them. Not checked beyond their headers; a part of
/// a batch at the end, or a header that cannot be, is an error and the last item.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { rest: bytes }
}

/// See [`batches`].
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(Header, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let header = match Header::parse(rest) {
            Ok(header) => header,
            Err(error) => return Some(Err(error)),
        };
        let Some((batch, rest)) = rest.split_at_checked(header.batch_bytes()) else {
            return Some(Err(BatchError::Length { said: header.length, got_bytes: rest.len() }));
        };
        self.rest = rest;
        Some(Ok((header, batch)))
    }
}

/// What a header is written from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fresh {
    pub(super) codec: Codec,
    pub(super) base_timestamp_ms: i64,
    pub(super) max_timestamp_ms: i64,
    pub(super) producer: Producer,
    pub(super) records_count: i32,
}

/// Writes and signs the header of a new, dense batch whose records already lie after it. The caller has made sure that
/// the bytes hold a header and that their length fits an `i32`.
pub(super) fn write_header(bytes: &mut [u8], fresh: Fresh) {
    let length = i32::try_from(bytes.len() - PREFIX_BYTES).expect("the builder keeps batches below 2 GiB");
    put(bytes, 8, length.to_be_bytes());
    stamp(bytes, 0, -1);
    bytes[MAGIC_AT] = 2;
    put(bytes, SIGNED_AT, fresh.codec.bits().to_be_bytes());
    put(bytes, 23, (fresh.records_count - 1).to_be_bytes());
    put(bytes, 27, fresh.base_timestamp_ms.to_be_bytes());
    put(bytes, MAX_TIMESTAMP_AT, fresh.max_timestamp_ms.to_be_bytes());
    put_producer(bytes, fresh.producer);
    put(bytes, 57, fresh.records_count.to_be_bytes());
    sign(bytes);
}

/// Writes and signs the header of a batch that was stored before and has other records now; with `has_horizon` the base
/// timestamp is the time from which on its deletions may go.
pub(super) fn write_again(bytes: &mut [u8], header: &Header, has_horizon: bool) {
    let length = i32::try_from(bytes.len() - PREFIX_BYTES).expect("what is left is no longer than a batch can be");
    put(bytes, 8, length.to_be_bytes());
    stamp(bytes, header.base_offset, header.leader_epoch);
    bytes[MAGIC_AT] = 2;
    let attributes = if has_horizon { header.attributes | DELETE_HORIZON } else { header.attributes };
    put(bytes, SIGNED_AT, attributes.to_be_bytes());
    put(bytes, 23, header.last_offset_delta.to_be_bytes());
    put(bytes, 27, header.base_timestamp_ms.to_be_bytes());
    put(bytes, MAX_TIMESTAMP_AT, header.max_timestamp_ms.to_be_bytes());
    put_producer(bytes, header.producer);
    put(bytes, 57, header.records_count.to_be_bytes());
    sign(bytes);
}

/// The attributes of a batch whose records are not compressed.
pub(super) fn without_codec(attributes: u16) -> u16 {
    attributes & !CODEC_BITS
}

fn put_producer(bytes: &mut [u8], producer: Producer) {
    put(bytes, PRODUCER_AT, producer.id.to_be_bytes());
    put(bytes, 51, producer.epoch.to_be_bytes());
    put(bytes, 53, producer.sequence.to_be_bytes());
}

fn sign(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[SIGNED_AT..]);
    put(bytes, CRC_AT, crc.to_be_bytes());
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

fn field<const N: usize>(head: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&head[at..at + N]);
    value
}

impl Codec {
    fn from_attributes(attributes: u16) -> Result<Self, BatchError> {
        match attributes & CODEC_BITS {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            unknown => Err(BatchError::Codec(unknown)),
        }
    }

    fn bits(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }
}
