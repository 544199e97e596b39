//! What one partition's delivery keeps durably, and its bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::record::Offset;

/// Layout of [`Record`]'s bytes.
const VERSION: u8 = 1;

/// Who we are to the target partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mirror) struct Identity {
    /// Given by the target.
    pub(in crate::mirror) producer_id: i64,
    /// Ours to raise; a new epoch starts at sequence 0.
    pub(in crate::mirror) epoch: i16,
    /// The source offset that carries sequence 0 of this epoch.
    pub(in crate::mirror) base: Offset,
}

/// Which topic of which cluster the state speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::mirror) struct Target {
    /// The cluster's id; empty if it names none.
    pub(in crate::mirror) cluster: std::sync::Arc<str>,
    /// The topic's id; zero if it names none (before Kafka 2.8).
    pub(in crate::mirror) topic: [u8; 16],
}

impl Target {
    /// True if both name a cluster and not the same one.
    pub(super) fn is_other_cluster(&self, other: &Self) -> bool {
        !self.cluster.is_empty() && !other.cluster.is_empty() && self.cluster != other.cluster
    }

    /// True if both name a topic, or a cluster, and not the same one.
    pub(super) fn is_other(&self, other: &Self) -> bool {
        let none = [0; 16];
        let other_topic = self.topic != none && other.topic != none && self.topic != other.topic;
        other_topic || self.is_other_cluster(other)
    }
}

/// The durable state of one partition: the identity is the truth, the rest a hint that may lag behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mirror) struct Record {
    /// `None` before the first record.
    pub(in crate::mirror) identity: Option<Identity>,
    /// Of which target this speaks.
    pub(in crate::mirror) target: Target,
    /// First source offset not known to be safe.
    pub(in crate::mirror) acked: Offset,
    /// A source offset and the target offset of the record before it.
    pub(in crate::mirror) anchor: (Offset, i64),
    /// Newest timestamp of the last acknowledged batch.
    pub(in crate::mirror) acked_max_ts_ms: Option<i64>,
}

impl Record {
    /// The bytes, together with the machine they belong to.
    pub(in crate::mirror) fn encode(&self, machine: [u8; 16]) -> Bytes {
        let mut out = BytesMut::with_capacity(128);
        out.put_u8(VERSION);
        out.put_slice(&machine);
        out.put_slice(&self.target.topic);
        let identity = self.identity.unwrap_or(Identity { producer_id: -1, epoch: -1, base: -1 });
        out.put_i64(identity.producer_id);
        out.put_i16(identity.epoch);
        out.put_i64(identity.base);
        out.put_i64(self.acked);
        out.put_i64(self.anchor.0);
        out.put_i64(self.anchor.1);
        out.put_i64(self.acked_max_ts_ms.unwrap_or(i64::MIN));
        out.put_slice(self.target.cluster.as_bytes());
        out.freeze()
    }

    /// Reads the bytes; the machine they were written on comes first. `None` if they are not ours.
    pub(in crate::mirror) fn decode(mut bytes: &[u8]) -> Option<([u8; 16], Self)> {
        if bytes.len() < 1 + 16 + 16 + 8 + 2 + 5 * 8 || bytes.get_u8() != VERSION {
            return None;
        }
        let mut machine = [0; 16];
        bytes.copy_to_slice(&mut machine);
        let mut topic = [0; 16];
        bytes.copy_to_slice(&mut topic);
        let identity = Identity { producer_id: bytes.get_i64(), epoch: bytes.get_i16(), base: bytes.get_i64() };
        let acked = bytes.get_i64();
        let anchor = (bytes.get_i64(), bytes.get_i64());
        let max_ts = bytes.get_i64();
        let cluster = std::str::from_utf8(bytes).ok()?.into();
        let record = Self {
            identity: (identity.producer_id >= 0).then_some(identity),
            target: Target { cluster, topic },
            acked,
            anchor,
            acked_max_ts_ms: (max_ts != i64::MIN).then_some(max_ts),
        };
        Some((machine, record))
    }
}
