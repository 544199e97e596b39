//! What lies in the data file, byte by byte.
//!
//! One unnamed LMDB database; everything is big-endian, so the file's order is the numbers' order. The first byte of
//! a key names its range. Never touches a file itself.
//!
//! ```text
//! 0 "format"                                    Format    once, when the file is made
//! 1 seq u64                                     Entry     one or a few per group commit
//! 2 owner length u8, owner, key                 State     state that has left the journal
//! 3 seal u64, partition u32, base i64,          Chunk     sealed batches of one partition
//!   last delta u32, greatest timestamp i64, intake s u32, length u32
//!
//! Format { magic "BRKL", version u16, word bytes u8, 0 u8, incarnation [u8; 16], crc32c u32 of these }
//! State  { crc32c u32 of key and value, value }
//! Entry  { magic "JRN2", crc32c u32 of what follows, clock ms i64, seq u64, length u32 of the whole, frames … }
//! frame  { 1u8, partition u32, base i64, length u32, batches }
//! frame  { 2u8, key length u16, key, value length u32 (0xffffffff: removed), value }
//! frame  { 3u8, boot id [u8; 16], uptime ms u64, is synchronised u8 }
//! Chunk  { magic "CHK1", partition u32, base i64, last delta u32, length u32, crc32c u32 of the batches,
//!          crc32c u32 of the key (0: not known), batches, zeros up to the page class }
//! ```
//!
//! A chunk's key repeats what the index in RAM holds, so that opening reads keys only. Its header repeats what the key
//! says, and an entry says its number, so that both can be recognised in a raw file when the tree above them is lost.
//!
//! Version 1 differs: no checksums of format record, state and chunk keys, and entries { magic "JRN1", crc32c, clock,
//! frames }. Such a file is migrated when it is opened; see `migration`.

use crate::record::Offset;

/// Version of everything above. A file with a greater one is refused.
pub(super) const FORMAT_VERSION: u16 = 2;
/// LMDB's page in our files, on every kernel.
pub(super) const PAGE_BYTES: usize = 4096;
/// LMDB's own header in front of a value that has pages of its own.
const OVERFLOW_HEADER_BYTES: usize = 16;
/// Longest value that still fits beside another in a leaf page; just above it a value should fill a page.
const INLINE_BYTES: usize = 2_000;
/// Bytes of a chunk in front of its batches.
pub(super) const CHUNK_HEADER_BYTES: usize = 32;
/// Most batch bytes in a chunk of the usual size, 16 pages.
pub(super) const CHUNK_BYTES: usize = 16 * PAGE_BYTES - OVERFLOW_HEADER_BYTES - CHUNK_HEADER_BYTES;
/// Far more than a write may have: what says so of itself is damaged.
const MOST_BYTES: usize = 64 << 20;
/// Bytes of a journal entry in front of its frames.
pub(super) const ENTRY_HEADER_BYTES: usize = 28;
/// A journal entry is closed before it exceeds this, so that it finds its pages in one piece.
pub(super) const ENTRY_BYTES: usize = 16 * PAGE_BYTES - OVERFLOW_HEADER_BYTES;
/// Bytes of a batch frame in front of the batches.
pub(super) const FRAME_HEADER_BYTES: usize = 17;

/// Key of the format record.
pub(super) const FORMAT_KEY: &[u8] = b"\x00format";
/// Bytes of a state entry in front of its value.
const STATE_HEADER_BYTES: usize = 4;
/// First byte of the journal's keys.
pub(super) const JOURNAL: u8 = 1;
/// First byte of the state's keys.
pub(super) const STATE: u8 = 2;
/// First byte of the chunks' keys.
pub(super) const CHUNKS: u8 = 3;

const FORMAT_MAGIC: &[u8; 4] = b"BRKL";
const ENTRY_MAGIC: &[u8; 4] = b"JRN2";
const ENTRY_1_MAGIC: &[u8; 4] = b"JRN1";
const CHUNK_MAGIC: &[u8; 4] = b"CHK1";
const REMOVED: u32 = u32::MAX;

/// What the format record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) version: u16,
    pub(super) word_bytes: u8,
    pub(super) incarnation: [u8; 16],
}

impl Format {
    pub(super) fn encode(&self) -> [u8; 28] {
        let mut out = [0; 28];
        out[..4].copy_from_slice(FORMAT_MAGIC);
        out[4..6].copy_from_slice(&self.version.to_be_bytes());
        out[6] = self.word_bytes;
        out[8..24].copy_from_slice(&self.incarnation);
        let crc = crc32c::crc32c(&out[..24]);
        out[24..].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// `None` if it is no format record, or a damaged one. What a later version has added behind is left alone.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.array()? != *FORMAT_MAGIC {
            return None;
        }
        let version = u16::from_be_bytes(reader.array()?);
        let [word_bytes, _] = reader.array()?;
        let format = Self { version, word_bytes, incarnation: reader.array()? };
        match version {
            1 => reader.0.is_empty().then_some(format),
            _ => (u32::from_be_bytes(reader.array()?) == crc32c::crc32c(&bytes[..24])).then_some(format),
        }
    }
}

/// Key of a journal entry.
pub(super) fn journal_key(seq: u64) -> [u8; 9] {
    let mut key = [JOURNAL; 9];
    key[1..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// The sequence number in a journal key.
pub(super) fn journal_seq(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(&[JOURNAL])?.try_into().ok()?))
}

/// Key of one state entry, or with an empty `key` the prefix of one owner's.
pub(super) fn state_key(owner: &str, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + owner.len() + key.len());
    out.push(STATE);
    out.push(u8::try_from(owner.len()).expect("owners are names in the code, at most 16 bytes"));
    out.extend_from_slice(owner.as_bytes());
    out.extend_from_slice(key);
    out
}

/// A state entry's value as it lies in the file.
pub(super) fn state_bytes(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(STATE_HEADER_BYTES + value.len());
    out.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(key), value).to_be_bytes());
    out.extend_from_slice(value);
    out
}

/// The value in the bytes of a state entry; `None` if key or value are not as they were written.
pub(super) fn state_value<'a>(key: &[u8], bytes: &'a [u8]) -> Option<&'a [u8]> {
    let mut reader = Reader(bytes);
    let crc = u32::from_be_bytes(reader.array()?);
    (crc32c::crc32c_append(crc32c::crc32c(key), reader.0) == crc).then_some(reader.0)
}

/// One sealed chunk as the index in RAM knows it: 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkRef {
    /// Place in the order of sealing, over all partitions.
    pub(super) seal: u64,
    pub(super) base: Offset,
    pub(super) max_timestamp_ms: i64,
    pub(super) last_delta: u32,
    /// When its last batch came in, in seconds since 1970; 0 where the clock was not plausible.
    pub(super) intake_s: u32,
    /// Bytes of its batches.
    pub(super) length: u32,
}

/// Bytes of a chunk's key.
pub(super) const CHUNK_KEY_BYTES: usize = 41;

impl ChunkRef {
    pub(super) fn last(&self) -> Offset {
        self.base + i64::from(self.last_delta)
    }

    pub(super) fn key(&self, partition: u32) -> [u8; CHUNK_KEY_BYTES] {
        let mut key = [CHUNKS; CHUNK_KEY_BYTES];
        key[1..9].copy_from_slice(&self.seal.to_be_bytes());
        key[9..13].copy_from_slice(&partition.to_be_bytes());
        key[13..21].copy_from_slice(&self.base.to_be_bytes());
        key[21..25].copy_from_slice(&self.last_delta.to_be_bytes());
        key[25..33].copy_from_slice(&self.max_timestamp_ms.to_be_bytes());
        key[33..37].copy_from_slice(&self.intake_s.to_be_bytes());
        key[37..41].copy_from_slice(&self.length.to_be_bytes());
        key
    }

    /// The partition and the chunk that a key names.
    pub(super) fn from_key(key: &[u8]) -> Option<(u32, Self)> {
        let mut reader = Reader(key.strip_prefix(&[CHUNKS])?);
        let seal = u64::from_be_bytes(reader.array()?);
        let partition = u32::from_be_bytes(reader.array()?);
        let base = i64::from_be_bytes(reader.array()?);
        let last_delta = u32::from_be_bytes(reader.array()?);
        let max_timestamp_ms = i64::from_be_bytes(reader.array()?);
        let intake_s = u32::from_be_bytes(reader.array()?);
        let length = u32::from_be_bytes(reader.array()?);
        let chunk = Self { seal, base, max_timestamp_ms, last_delta, intake_s, length };
        reader.0.is_empty().then_some((partition, chunk))
    }

    /// Whether there can be such a chunk.
    pub(super) fn is_possible(&self) -> bool {
        is_possible(self.base, self.last_delta, self.length)
    }

    /// Bytes of the value in the file: the batches, their header and the zeros up to the page class.
    pub(super) fn value_bytes(&self) -> usize {
        padded(CHUNK_HEADER_BYTES + self.length as usize)
    }

    /// The value's first bytes.
    pub(super) fn header(&self, partition: u32, crc: u32) -> [u8; CHUNK_HEADER_BYTES] {
        let mut out = [0; CHUNK_HEADER_BYTES];
        out[..4].copy_from_slice(CHUNK_MAGIC);
        out[4..8].copy_from_slice(&partition.to_be_bytes());
        out[8..16].copy_from_slice(&self.base.to_be_bytes());
        out[16..20].copy_from_slice(&self.last_delta.to_be_bytes());
        out[20..24].copy_from_slice(&self.length.to_be_bytes());
        out[24..28].copy_from_slice(&crc.to_be_bytes());
        out[28..].copy_from_slice(&crc32c::crc32c(&self.key(partition)).to_be_bytes());
        out
    }

    /// Whether the chunk with this header says the same of itself as its key.
    pub(super) fn is_said_by(&self, partition: u32, head: &[u8; CHUNK_HEADER_BYTES]) -> bool {
        let own = self.header(partition, 0);
        head[..24] == own[..24] && (head[28..] == own[28..] || head[28..] == [0; 4])
    }

    /// Whether every byte of a chunk is as it was written, the header of its value and the batches behind it, and this is
    /// its key.
    pub(super) fn check(&self, partition: u32, head: &[u8; CHUNK_HEADER_BYTES], batches: &[u8]) -> bool {
        let header = self.header(partition, crc32c::crc32c(batches));
        // Chunks of version 1 say nothing of their keys.
        batches.len() == self.length as usize
            && head[..28] == header[..28]
            && (head[28..] == header[28..] || head[28..] == [0; 4])
    }

    /// The same for a value that is in one piece.
    pub(super) fn check_value(&self, partition: u32, value: &[u8]) -> bool {
        let Some((head, rest)) = value.split_first_chunk() else { return false };
        rest.get(..self.length as usize).is_some_and(|batches| self.check(partition, head, batches))
    }
}

/// Offsets count from 0 and do not overflow, and no chunk is larger than what enters at once.
fn is_possible(base: Offset, last_delta: u32, length: u32) -> bool {
    base >= 0
        && base.checked_add(i64::from(last_delta)).is_some_and(|last| last < i64::MAX)
        && length as usize <= MOST_BYTES
}

/// What a chunk says of itself, for where its key is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    pub(super) partition: u32,
    pub(super) base: Offset,
    pub(super) last_delta: u32,
    pub(super) length: u32,
    crc: u32,
}

impl ChunkHeader {
    /// Reads it from a value's first bytes; `None` if no chunk begins there.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let mut reader = Reader(value);
        if reader.array()? != *CHUNK_MAGIC {
            return None;
        }
        let header = Self {
            partition: u32::from_be_bytes(reader.array()?),
            base: i64::from_be_bytes(reader.array()?),
            last_delta: u32::from_be_bytes(reader.array()?),
            length: u32::from_be_bytes(reader.array()?),
            crc: u32::from_be_bytes(reader.array()?),
        };
        is_possible(header.base, header.last_delta, header.length).then_some(header)
    }

    /// Bytes of the whole value.
    pub(super) fn value_bytes(&self) -> usize {
        padded(CHUNK_HEADER_BYTES + self.length as usize)
    }

    /// The batches in the value, if they are as they were written.
    pub(super) fn batches<'a>(&self, value: &'a [u8]) -> Option<&'a [u8]> {
        let batches = value.get(CHUNK_HEADER_BYTES..CHUNK_HEADER_BYTES.checked_add(self.length as usize)?)?;
        (crc32c::crc32c(batches) == self.crc).then_some(batches)
    }
}

/// Length to which a value is padded, so that freed pages fit the values that come later: 1, 2, 4 or 8 pages, then
/// steps of at most an eighth. Short values stay inside a leaf.
pub(super) fn padded(bytes: usize) -> usize {
    if bytes <= INLINE_BYTES {
        return bytes;
    }
    let pages = (bytes + OVERFLOW_HEADER_BYTES).div_ceil(PAGE_BYTES);
    let step = match pages {
        ..=8 => return pages.next_power_of_two() * PAGE_BYTES - OVERFLOW_HEADER_BYTES,
        9..=32 => pages.next_power_of_two() / 8,
        _ => pages.next_power_of_two() / 16,
    };
    pages.next_multiple_of(step) * PAGE_BYTES - OVERFLOW_HEADER_BYTES
}

/// Pages that a value of this length takes for itself; 0 inside a leaf.
pub(super) fn pages(bytes: usize) -> u64 {
    // LMDB moves a node out of its leaf above half a page less the overhead.
    if bytes <= INLINE_BYTES { 0 } else { (bytes + OVERFLOW_HEADER_BYTES).div_ceil(PAGE_BYTES) as u64 }
}

/// One part of a journal entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Batches {
        partition: u32,
        base: Offset,
        bytes: &'a [u8],
    },
    State {
        key: &'a [u8],
        value: Option<&'a [u8]>,
    },
    /// When all of the entry came in: the boot, the uptime, and whether somebody kept the wall clock in step.
    Noted {
        boot_id: [u8; 16],
        uptime_ms: u64,
        is_synchronised: bool,
    },
}

/// Starts an entry in `out`; [`close_entry`] completes it.
pub(super) fn open_entry(out: &mut Vec<u8>, clock_ms: i64, seq: u64) {
    out.extend_from_slice(ENTRY_MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&clock_ms.to_be_bytes());
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
}

/// Puts length and checksum into an entry.
pub(super) fn close_entry(entry: &mut [u8]) {
    let length = u32::try_from(entry.len()).expect("a write is limited to far less");
    entry[24..28].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&entry[8..]);
    entry[4..8].copy_from_slice(&crc.to_be_bytes());
}

/// Appends a frame of batches.
pub(super) fn put_batches(out: &mut Vec<u8>, partition: u32, base: Offset, bytes: &[u8]) {
    out.push(1);
    out.extend_from_slice(&partition.to_be_bytes());
    out.extend_from_slice(&base.to_be_bytes());
    out.extend_from_slice(&u32::try_from(bytes.len()).expect("a write is limited to far less").to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a frame of state; `key` is the key in the file.
pub(super) fn put_state(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    out.push(2);
    out.extend_from_slice(&u16::try_from(key.len()).expect("state keys are limited to 418 bytes").to_be_bytes());
    out.extend_from_slice(key);
    match value {
        None => out.extend_from_slice(&REMOVED.to_be_bytes()),
        Some(value) => {
            let length = u32::try_from(value.len()).expect("state values are limited to 64 KiB");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(value);
        }
    }
}

/// Appends the note of when it came in.
pub(super) fn put_note(out: &mut Vec<u8>, boot_id: [u8; 16], uptime_ms: u64, is_synchronised: bool) {
    out.push(3);
    out.extend_from_slice(&boot_id);
    out.extend_from_slice(&uptime_ms.to_be_bytes());
    out.push(u8::from(is_synchronised));
}

/// A journal entry as it is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) clock_ms: i64,
    /// Its number; version 1 has it in the key only.
    pub(super) seq: Option<u64>,
    pub(super) frames: Vec<Frame<'a>>,
}

/// Whether an entry may begin with these bytes.
pub(super) fn begins_entry(bytes: &[u8]) -> bool {
    bytes.starts_with(ENTRY_MAGIC) || bytes.starts_with(ENTRY_1_MAGIC)
}

/// Bytes of the whole entry that begins here, as it says; version 1 does not.
pub(super) fn entry_bytes(head: &[u8]) -> Option<usize> {
    let mut reader = Reader(head.strip_prefix(ENTRY_MAGIC)?);
    reader.slice(20)?;
    usize::try_from(u32::from_be_bytes(reader.array()?)).ok()
}

/// An entry and its parts; `None` if it is damaged.
pub(super) fn read_entry(entry: &[u8]) -> Option<Entry<'_>> {
    let mut reader = Reader(entry);
    let magic: [u8; 4] = reader.array()?;
    if !begins_entry(&magic) {
        return None;
    }
    let crc = u32::from_be_bytes(reader.array()?);
    if crc32c::crc32c(reader.0) != crc {
        return None;
    }
    let clock_ms = i64::from_be_bytes(reader.array()?);
    let mut seq = None;
    if magic == *ENTRY_MAGIC {
        seq = Some(u64::from_be_bytes(reader.array()?));
        if u32::from_be_bytes(reader.array()?) as usize != entry.len() {
            return None;
        }
    }
    let mut frames = Vec::new();
    while !reader.0.is_empty() {
        let [tag] = reader.array()?;
        frames.push(match tag {
            1 => {
                let partition = u32::from_be_bytes(reader.array()?);
                let base = i64::from_be_bytes(reader.array()?);
                let length = u32::from_be_bytes(reader.array()?);
                Frame::Batches { partition, base, bytes: reader.slice(length as usize)? }
            }
            2 => {
                let length = u16::from_be_bytes(reader.array()?);
                let key = reader.slice(length.into())?;
                let value = match u32::from_be_bytes(reader.array()?) {
                    REMOVED => None,
                    length => Some(reader.slice(length as usize)?),
                };
                Frame::State { key, value }
            }
            3 => {
                let boot_id = reader.array()?;
                let uptime_ms = u64::from_be_bytes(reader.array()?);
                let [is_synchronised] = reader.array()?;
                Frame::Noted { boot_id, uptime_ms, is_synchronised: is_synchronised != 0 }
            }
            _ => return None,
        });
    }
    Some(Entry { clock_ms, seq, frames })
}

/// Takes bytes from the front; `None` where there are too few.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn page_classes() {
        let pages_of = |bytes| (padded(bytes) + 16) / PAGE_BYTES;
        assert_eq!(padded(10), 10);
        assert_eq!(pages_of(2_001), 1);
        assert_eq!(pages_of(4_080), 1);
        assert_eq!(pages_of(4_081), 2);
        assert_eq!(pages_of(9_000), 4);
        assert_eq!(pages_of(33_000), 10);
        assert_eq!(pages_of(CHUNK_BYTES + CHUNK_HEADER_BYTES), 16);
        // 1,000 records of 208 bytes: at most an eighth is lost.
        assert_eq!(pages_of(208_061 + CHUNK_HEADER_BYTES), 52);
        for bytes in 1..100_000 {
            assert!(padded(bytes) >= bytes);
        }
    }

    #[test]
    fn a_damaged_chunk_is_told() {
        let chunk = ChunkRef { seal: 1, base: 5, max_timestamp_ms: 3, last_delta: 9, intake_s: 7, length: 100 };
        let batches = [9; 100];
        let mut value = chunk.header(4, crc32c::crc32c(&batches)).to_vec();
        value.extend_from_slice(&batches);
        assert!(chunk.check_value(4, &value));
        assert!(!chunk.check_value(5, &value));
        for other in [
            ChunkRef { seal: 2, ..chunk },
            ChunkRef { intake_s: 6, ..chunk },
            ChunkRef { max_timestamp_ms: 4, ..chunk },
        ] {
            assert!(!other.check_value(4, &value));
        }
        for at in [0, 9, 17, 21, 25, 29, 40, 131] {
            value[at] ^= 1;
            assert!(!chunk.check_value(4, &value), "{at}");
            value[at] ^= 1;
        }
        assert!(!chunk.check_value(4, &value[..131]));
    }

    #[test]
    fn damaged_state_is_told() {
        let mut bytes = state_bytes(b"key", b"value");
        assert_eq!(state_value(b"key", &bytes), Some(&b"value"[..]));
        assert_eq!(state_value(b"kez", &bytes), None);
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_eq!(state_value(b"key", &bytes), None, "{at}");
            bytes[at] ^= 1;
        }
        assert_eq!(state_value(b"key", &bytes[..3]), None);
    }

    proptest! {
        #[test]
        fn chunk_keys_come_back(seal: u64, base in 0i64.., max_timestamp_ms: i64, last_delta: u32, intake_s: u32,
                                length: u32, partition: u32) {
            let chunk = ChunkRef { seal, base, max_timestamp_ms, last_delta, intake_s, length };
            prop_assert_eq!(ChunkRef::from_key(&chunk.key(partition)), Some((partition, chunk)));
            prop_assert_eq!(ChunkRef::from_key(&chunk.key(partition)[..40]), None);
        }

        #[test]
        fn entries_come_back_and_damage_is_told(
            clock_ms: i64,
            parts in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 0..50),
                                            prop::option::of(prop::collection::vec(any::<u8>(), 0..50))), 0..6),
            flip: prop::sample::Index,
        ) {
            let mut entry = Vec::new();
            open_entry(&mut entry, clock_ms, 7);
            let mut frames = Vec::new();
            for (number, bytes, value) in &parts {
                put_batches(&mut entry, *number, 3, bytes);
                put_state(&mut entry, bytes, value.as_deref());
                put_note(&mut entry, [7; 16], u64::from(*number), number % 2 == 1);
                frames.push(Frame::Batches { partition: *number, base: 3, bytes });
                frames.push(Frame::State { key: bytes, value: value.as_deref() });
                let uptime_ms = u64::from(*number);
                frames.push(Frame::Noted { boot_id: [7; 16], uptime_ms, is_synchronised: number % 2 == 1 });
            }
            close_entry(&mut entry);
            prop_assert_eq!(read_entry(&entry), Some(Entry { clock_ms, seq: Some(7), frames }));
            let at = flip.index(entry.len());
            entry[at] ^= 0x10;
            prop_assert_eq!(read_entry(&entry), None);
        }

        #[test]
        fn garbage_is_no_entry(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read_entry(&bytes).is_none());
        }
    }

    #[test]
    fn format_record_comes_back() {
        let format = Format { version: 2, word_bytes: 8, incarnation: [3; 16] };
        let mut bytes = format.encode();
        assert_eq!(Format::decode(&bytes), Some(format));
        assert_eq!(Format::decode(&bytes[..24]), None);
        for at in 0..bytes.len() {
            bytes[at] ^= 4;
            assert_eq!(Format::decode(&bytes), None, "{at}");
            bytes[at] ^= 4;
        }
        assert_eq!(Format::decode(b"something else, long enough"), None);
    }
}
