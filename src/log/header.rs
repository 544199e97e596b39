//! The fields of a record batch's header that the log needs, and the stamp it puts on a batch.
//!
//! Only the 61 fixed bytes in front of the records, most of them never touched: base offset and leader epoch lie
//! outside the batch's checksum, so a stamped batch stays valid. The producer's format, all big-endian:
//!
//! ```text
//! 0  base offset i64        21 attributes i16           43 producer id i64
//! 8  length after it i32    23 last offset delta i32    51 producer epoch i16
//! 12 leader epoch i32       27 first timestamp i64      53 first sequence i32
//! 16 magic i8, 17 crc u32   35 greatest timestamp i64   57 number of records i32
//! ```

use crate::record::Offset;

/// Bytes of a batch in front of its records.
pub(super) const HEADER_BYTES: usize = 61;
/// Bits of the attributes' lower byte.
const TRANSACTIONAL: u8 = 1 << 4;
const CONTROL: u8 = 1 << 5;

/// What the log reads of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) base: Offset,
    /// The whole batch, this header included.
    pub(super) bytes: usize,
    pub(super) last_delta: i32,
    pub(super) max_timestamp_ms: i64,
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    pub(super) first_sequence: i32,
    /// Belongs to a transaction, as records or as the marker of its end.
    pub(super) is_transactional: bool,
    /// Holds a marker and no records.
    pub(super) is_control: bool,
}

impl Header {
    /// Reads the batch at the front of `bytes`; `None` if it is not a whole batch of format 2.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || bytes[16] != 2 {
            return None;
        }
        let length = i32::from_be_bytes(take(bytes, 8));
        let whole = usize::try_from(length).ok()?.checked_add(12)?;
        let last_delta = i32::from_be_bytes(take(bytes, 23));
        if whole < HEADER_BYTES || whole > bytes.len() || last_delta < 0 {
            return None;
        }
        Some(Self {
            base: i64::from_be_bytes(take(bytes, 0)),
            bytes: whole,
            last_delta,
            max_timestamp_ms: i64::from_be_bytes(take(bytes, 35)),
            producer_id: i64::from_be_bytes(take(bytes, 43)),
            producer_epoch: i16::from_be_bytes(take(bytes, 51)),
            first_sequence: i32::from_be_bytes(take(bytes, 53)),
            is_transactional: bytes[22] & TRANSACTIONAL != 0,
            is_control: bytes[22] & CONTROL != 0,
        })
    }

    /// Offset of the batch's last record.
    pub(super) fn last(&self) -> Offset {
        self.base + i64::from(self.last_delta)
    }
}

/// The batches of a tail or chunk one after the other, with the place of each; ends at the first that does not parse.
pub(super) fn headers(bytes: &[u8]) -> impl Iterator<Item = (usize, Header)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = Header::parse(&bytes[at..])?;
        let here = at;
        at += header.bytes;
        Some((here, header))
    })
}

/// An empty batch from one offset to before another, as a compacted log of Kafka has them: readers go on behind it.
pub(super) fn nothing(from: Offset, to: Offset) -> Vec<u8> {
    let delta = i32::try_from(to - from - 1).unwrap_or(i32::MAX).max(0);
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&from.to_be_bytes());
    bytes[8..12].copy_from_slice(&49i32.to_be_bytes());
    bytes[16] = 2;
    bytes[23..27].copy_from_slice(&delta.to_be_bytes());
    // No timestamps, no producer.
    bytes[27..57].fill(0xFF);
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Gives the batch at the front of `bytes` its place in the partition. Replication does not exist: the epoch is 0.
pub(super) fn stamp(bytes: &mut [u8], base: Offset) {
    bytes[..8].copy_from_slice(&base.to_be_bytes());
    bytes[12..16].fill(0);
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the caller checked the length")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A batch of `records` records whose body is `body` bytes, with the header's fields as the log reads them.
    pub(in crate::log) fn batch(
        records: i32,
        body: usize,
        max_timestamp_ms: i64,
        producer: (i64, i16, i32),
    ) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES + body];
        let length = i32::try_from(bytes.len() - 12).unwrap();
        bytes[..8].copy_from_slice(&77i64.to_be_bytes());
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[12..16].copy_from_slice(&(-1i32).to_be_bytes());
        bytes[16] = 2;
        bytes[23..27].copy_from_slice(&(records - 1).to_be_bytes());
        bytes[27..35].copy_from_slice(&max_timestamp_ms.to_be_bytes());
        bytes[35..43].copy_from_slice(&max_timestamp_ms.to_be_bytes());
        bytes[43..51].copy_from_slice(&producer.0.to_be_bytes());
        bytes[51..53].copy_from_slice(&producer.1.to_be_bytes());
        bytes[53..57].copy_from_slice(&producer.2.to_be_bytes());
        bytes[57..61].copy_from_slice(&records.to_be_bytes());
        for (i, byte) in bytes[HEADER_BYTES..].iter_mut().enumerate() {
            *byte = u8::try_from(i % 251).unwrap();
        }
        bytes
    }

    #[test]
    fn reads_what_was_written_and_stamps_only_the_two_fields() {
        let plain = batch(3, 10, 99, (7, 1, 5));
        let mut stamped = plain.clone();
        stamp(&mut stamped, 1000);
        let header = Header::parse(&stamped).unwrap();
        assert_eq!((header.base, header.last(), header.bytes), (1000, 1002, 71));
        assert_eq!((header.max_timestamp_ms, header.producer_id), (99, 7));
        assert_eq!((header.producer_epoch, header.first_sequence), (1, 5));
        assert_eq!(stamped[16..], plain[16..]);
    }

    #[test]
    fn a_lying_length_is_no_batch() {
        let mut bytes = batch(1, 10, 0, (-1, -1, -1));
        for length in [-1, 0, 48, 60, i32::MAX] {
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            assert_eq!(Header::parse(&bytes), None, "{length}");
        }
        assert_eq!(Header::parse(&bytes[..60]), None);
    }
}
