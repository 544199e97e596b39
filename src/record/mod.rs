//! Kafka's record batch v2 as bytes: view, check, build, restamp, coalesce, sieve, and the codecs.
//!
//! Never does I/O, never knows of topics' settings, clocks or the protocol around a batch. Bytes may come from anyone:
//! nothing in them panics, and no length in them sizes an allocation.

pub mod batch;
mod builder;
mod coalesce;
mod compress;
pub mod marker;
mod partitioner;
mod records;
mod sieve;
mod varint;

use std::{fmt, sync::Arc};

pub use builder::Builder;
pub use coalesce::Coalescer;
pub use compress::{Codec, Packer, Unpacker};
pub use marker::Outcome;
pub use partitioner::{murmur2, partition_for_key};
pub use records::{Headers, RecordHeader, RecordView, Records};
pub use sieve::{Sieve, Sieved};

/// A record's position in its partition; contiguous, never reused.
pub type Offset = i64;

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub index: i32,
}

impl Partition {
    /// Names partition `index` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, index: i32) -> Self {
        Self { topic: topic.into(), index }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

/// Who sent a batch and as which of his: what a broker tells a repetition by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The producer id, -1 for none.
    pub id: i64,
    /// Its epoch, -1 for none.
    pub epoch: i16,
    /// Sequence of the batch's first record, -1 for none.
    pub sequence: i32,
}

impl Producer {
    /// A producer without identity.
    pub const NONE: Self = Self { id: -1, epoch: -1, sequence: -1 };
}

/// What is wrong with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than a header.
    #[error("{0} bytes are no batch")]
    Short(usize),
    /// Not format v2.
    #[error("record batch format v{0} is not supported")]
    Magic(u8),
    /// A codec that Kafka does not know.
    #[error("unknown codec {0}")]
    Codec(u16),
    /// A field that cannot be.
    #[error("impossible {0} in a batch header")]
    Field(&'static str),
    /// More or fewer bytes than the batch says.
    #[error("batch says {said} bytes follow its length, {got_bytes} bytes are there in all")]
    Length {
        /// The length field.
        said: i32,
        /// The whole slice.
        got_bytes: usize,
    },
    /// The bytes changed since they were signed.
    #[error("CRC is {computed:08x}, batch says {said:08x}")]
    Crc {
        /// In the header.
        said: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The records do not unpack with this codec.
    #[error("corrupt {0} data")]
    Compressed(&'static str),
    /// Larger than the caller allows, or than a batch can be.
    #[error("more than {limit_bytes} bytes of records")]
    TooLarge {
        /// What was allowed.
        limit_bytes: usize,
    },
    /// A record's bytes do not add up.
    #[error("bad record: {0}")]
    Record(&'static str),
    /// It can only be sent on re-written (see [`batch::Header::must_rewrite`]).
    #[error("cannot be sent on as it is: {0}")]
    Rewrite(&'static str),
    /// It holds markers, not records.
    #[error("control batch")]
    Control,
}

#[cfg(test)]
mod tests;
