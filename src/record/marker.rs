//! The end of a transaction as it lies in a partition: a control batch with one record.
//!
//! The record's key is `version i16, type i16`, its value `version i16, coordinator epoch i32`; there is one
//! coordinator, whose epoch is 0. A marker takes an offset of its own, which clients rely on being legal to skip.

use bytes::Bytes;

use super::{BatchError, Builder, Codec, Producer, batch, varint};

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its records are to be skipped by who reads committed.
    Abort,
    /// Its records hold.
    Commit,
}

impl Outcome {
    fn code(self) -> u8 {
        match self {
            Self::Abort => 0,
            Self::Commit => 1,
        }
    }
}

/// The control batch that ends the transaction of a producer.
pub fn marker(producer_id: i64, epoch: i16, outcome: Outcome, now_ms: i64) -> Bytes {
    let mut builder = Builder::new();
    builder.set_producer(Producer { id: producer_id, epoch, sequence: -1 });
    let pushed = builder.push(now_ms, Some(&[0, 0, 0, outcome.code()]), Some(&[0; 6]), &[]);
    pushed.expect("a few bytes fit a batch");
    let mut bytes = builder.finish(Codec::None, 0).to_vec();
    batch::make_control(&mut bytes);
    bytes.into()
}

/// What a control batch says.
///
/// # Errors
/// [`BatchError::Short`] and the like for what is no batch, [`BatchError::Record`] for a control batch of another kind.
pub fn outcome(bytes: &[u8]) -> Result<Outcome, BatchError> {
    let header = batch::Header::parse(bytes)?;
    let mut rest = bytes.get(batch::HEADER_BYTES..).filter(|_| header.is_control()).unwrap_or_default();
    let _length = varint::read_i32(&mut rest)?;
    let _attributes = rest.split_off_first();
    let _timestamp_delta = varint::read_i64(&mut rest)?;
    let _offset_delta = varint::read_i32(&mut rest)?;
    match (varint::read_i32(&mut rest)?, rest) {
        (4, [_, _, 0, 0, ..]) => Ok(Outcome::Abort),
        (4, [_, _, 0, 1, ..]) => Ok(Outcome::Commit),
        _ => Err(BatchError::Record("not the end of a transaction")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_a_control_batch_that_takes_one_offset() {
        for wanted in [Outcome::Abort, Outcome::Commit] {
            let bytes = marker(5, 1, wanted, 1_700_000_000_000);
            let header = batch::check(&bytes).unwrap();
            assert!(header.is_control() && header.is_transactional() && header.is_dense());
            assert_eq!(header.producer, Producer { id: 5, epoch: 1, sequence: -1 });
            assert_eq!((bytes.len(), header.records_count), (78, 1));
            // As Kafka 4.3.1 wrote it.
            let record = [0x20, 0, 0, 0, 8, 0, 0, 0, wanted.code(), 12, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(bytes[61..], record);
            assert_eq!(outcome(&bytes), Ok(wanted));
            for cut in 0..bytes.len() - 8 {
                assert!(outcome(&bytes[..cut]).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn records_are_no_marker() {
        let mut builder = Builder::new();
        builder.push(0, Some(&[0, 0, 0, 1]), None, &[]).unwrap();
        assert!(outcome(&builder.finish(Codec::None, 0)).is_err());
    }
}
