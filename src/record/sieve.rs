//! A stored batch with some of its records, as compaction leaves it.
//!
//! As Kafka writes it: base offset, last offset, producer and kind stay, records keep their offsets, the greatest timestamp
//! is that of the records left, and the codec is the same where it makes them smaller. Holds one unpacked batch at a time.

use super::{
    BatchError, Codec, Packer, RecordView, Records, Unpacker,
    batch::{self, HEADER_BYTES, Header},
    varint,
};

/// Sieves one batch after another.
#[derive(Debug)]
pub struct Sieve {
    unpacker: Unpacker,
    packer: Packer,
    plain: Vec<u8>,
}

/// What is left of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sieved {
    /// All of it, as it was.
    Whole,
    /// This.
    Part(Vec<u8>),
    /// No record.
    Nothing,
}

impl Sieve {
    /// Refuses batches whose records take more than `limit_bytes` unpacked.
    pub fn new(limit_bytes: usize) -> Self {
        Self { unpacker: Unpacker::new(limit_bytes), packer: Packer::default(), plain: Vec::new() }
    }

    /// The records of a batch, unpacked; also those of a control batch. See [`Unpacker::records`].
    ///
    /// # Errors
    /// As there, but for control batches.
    pub fn records<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Records<'a>, BatchError> {
        records(&mut self.unpacker, bytes)
    }

    /// Gives the memory of buffers and codecs back.
    pub fn release(&mut self) {
        self.unpacker.release();
        self.packer.release();
        self.plain = Vec::new();
    }

    /// The batch with the records for which `is_kept` is true: it is asked twice, and answers the same. With `horizon_ms` a
    /// batch that keeps a record without value, or a marker, and says of no time from which on these may go, says it.
    ///
    /// # Errors
    /// As [`Sieve::records`], also when a record within is damaged.
    pub fn sieve(
        &mut self,
        bytes: &[u8],
        horizon_ms: Option<i64>,
        is_kept: &dyn Fn(&RecordView<'_>) -> bool,
    ) -> Result<Sieved, BatchError> {
        let mut records = records(&mut self.unpacker, bytes)?;
        let header = *records.header();
        let (mut count, mut all, mut has_deletion) = (0, 0, header.is_control());
        for record in records.by_ref() {
            let record = record?;
            all += 1;
            if is_kept(&record) {
                count += 1;
                has_deletion |= record.value.is_none();
            }
        }
        let horizon_ms = horizon_ms.filter(|_| has_deletion && !header.has_delete_horizon());
        if count == 0 {
            return Ok(Sieved::Nothing);
        }
        if count == all && horizon_ms.is_none() {
            return Ok(Sieved::Whole);
        }
        let horizon_ms = horizon_ms.or(header.has_delete_horizon().then_some(header.base_timestamp_ms));
        let records = prepared(&self.unpacker, bytes, header);
        let plain = &mut self.plain;
        plain.clear();
        plain.resize(HEADER_BYTES, 0);
        let (mut base_timestamp_ms, mut max_timestamp_ms) = (horizon_ms, None);
        for record in records.flatten().filter(is_kept) {
            let base_ms = *base_timestamp_ms.get_or_insert(record.timestamp_ms);
            max_timestamp_ms = max_timestamp_ms.max(Some(record.timestamp_ms));
            let timestamp_delta = record.timestamp_ms.wrapping_sub(base_ms);
            let offset_delta = record.offset - header.base_offset;
            let length = 1 + varint::size(timestamp_delta) + varint::size(offset_delta) + record.body.len();
            varint::put(plain, length as i64);
            plain.push(0);
            varint::put(plain, timestamp_delta);
            varint::put(plain, offset_delta);
            plain.extend_from_slice(record.body);
        }
        let mut fresh = Header {
            base_timestamp_ms: base_timestamp_ms.unwrap_or(header.base_timestamp_ms),
            max_timestamp_ms: max_timestamp_ms.unwrap_or(header.max_timestamp_ms),
            records_count: count,
            ..header
        };
        let codec = header.codec();
        let mut packed = Vec::new();
        if codec != Codec::None {
            packed.resize(HEADER_BYTES, 0);
            if self.packer.pack(codec, codec.default_level(), &plain[HEADER_BYTES..], &mut packed) {
                batch::write_again(&mut packed, &fresh, horizon_ms.is_some());
                return Ok(Sieved::Part(packed));
            }
            fresh.attributes = batch::without_codec(fresh.attributes);
        }
        batch::write_again(plain, &fresh, horizon_ms.is_some());
        Ok(Sieved::Part(std::mem::take(plain)))
    }
}

fn records<'a>(unpacker: &'a mut Unpacker, bytes: &'a [u8]) -> Result<Records<'a>, BatchError> {
    let header = Header::parse(bytes)?;
    if !header.is_control() {
        return unpacker.records(bytes);
    }
    if header.batch_bytes() != bytes.len() || header.codec() != Codec::None {
        return Err(BatchError::Control);
    }
    Ok(Records::of(&bytes[HEADER_BYTES..], header))
}

/// The same once more, for the batch that was unpacked last.
fn prepared<'a>(unpacker: &'a Unpacker, bytes: &'a [u8], header: Header) -> Records<'a> {
    let packed = &bytes[HEADER_BYTES..];
    let is_plain = header.codec() == Codec::None || packed.is_empty();
    Records::of(if is_plain { packed } else { unpacker.unpacked() }, header)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{Builder, Outcome, Producer, marker::marker};

    fn built(codec: Codec, records: &[(i64, &str, Option<&str>)]) -> Vec<u8> {
        let mut builder = Builder::new();
        builder.set_producer(Producer { id: 7, epoch: 2, sequence: 40 });
        for (ms, key, value) in records {
            let value = value.map(str::as_bytes);
            builder.push(*ms, Some(key.as_bytes()), value, &[("h", Some(b"x"))]).unwrap();
        }
        let mut bytes = builder.finish(codec, codec.default_level()).to_vec();
        batch::stamp(&mut bytes, 100, 0);
        bytes
    }

    /// Offset, time, key and value.
    type Listed = (i64, i64, Vec<u8>, Option<Vec<u8>>);

    fn listed(bytes: &[u8]) -> Vec<Listed> {
        batch::check(bytes).unwrap();
        let mut unpacker = Unpacker::new(1 << 20);
        let records = unpacker.records(bytes).unwrap().map(Result::unwrap);
        records.map(|r| (r.offset, r.timestamp_ms, r.key.unwrap().to_vec(), r.value.map(<[u8]>::to_vec))).collect()
    }

    #[test]
    fn what_is_left_keeps_its_place_and_its_producer() {
        let long = "long ".repeat(50);
        for codec in Codec::ALL {
            let bytes = built(codec, &[(10, "a", Some(&long)), (30, "b", Some(&long)), (20, "c", Some(&long))]);
            let mut sieve = Sieve::new(1 << 20);
            assert_eq!(sieve.sieve(&bytes, Some(5), &|_| true), Ok(Sieved::Whole));
            assert_eq!(sieve.sieve(&bytes, None, &|_| false), Ok(Sieved::Nothing));
            let Ok(Sieved::Part(part)) = sieve.sieve(&bytes, Some(5), &|r| r.key == Some(b"c")) else { panic!() };
            let header = batch::check(&part).unwrap();
            assert_eq!((header.base_offset, header.last_offset(), header.records_count), (100, 102, 1));
            assert_eq!(header.producer, Producer { id: 7, epoch: 2, sequence: 40 });
            assert_eq!((header.base_timestamp_ms, header.max_timestamp_ms, header.codec()), (20, 20, codec));
            assert_eq!(listed(&part), [(102, 20, b"c".to_vec(), Some(long.clone().into_bytes()))]);
        }
    }

    #[test]
    fn a_deletion_gets_a_horizon_once_and_times_stay() {
        let bytes = built(Codec::None, &[(10, "a", Some("1")), (30, "b", None)]);
        let mut sieve = Sieve::new(1 << 20);
        let Ok(Sieved::Part(part)) = sieve.sieve(&bytes, Some(9_000), &|_| true) else { panic!() };
        let header = batch::check(&part).unwrap();
        assert!(header.has_delete_horizon());
        assert_eq!((header.base_timestamp_ms, header.max_timestamp_ms), (9_000, 30));
        assert_eq!(listed(&part), listed(&bytes));
        assert_eq!(sieve.sieve(&part, Some(99_000), &|_| true), Ok(Sieved::Whole));
        let Ok(Sieved::Part(less)) = sieve.sieve(&part, Some(99_000), &|r| r.value.is_none()) else { panic!() };
        assert_eq!(batch::check(&less).unwrap().base_timestamp_ms, 9_000);
        assert_eq!(listed(&less), [(101, 30, b"b".to_vec(), None)]);
        let end = marker(7, 2, Outcome::Abort, 50);
        let Ok(Sieved::Part(marked)) = sieve.sieve(&end, Some(9_000), &|_| true) else { panic!() };
        let header = batch::check(&marked).unwrap();
        assert!(header.has_delete_horizon() && header.is_control() && header.is_transactional());
        assert_eq!(crate::record::marker::outcome(&marked), Ok(Outcome::Abort));
    }

    proptest! {
        #[test]
        fn what_is_damaged_is_refused_and_never_panics(at: prop::sample::Index, bit in 0u8..8, codec in 0..5usize) {
            let mut bytes = built(Codec::ALL[codec], &[(1, "a", Some("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")), (2, "b", None)]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let mut sieve = Sieve::new(1 << 16);
            drop(sieve.sieve(&bytes, Some(3), &|r| r.offset % 2 == 0));
        }
    }
}
