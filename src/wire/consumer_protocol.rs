//! What members of a `consumer` group tell each other inside JoinGroup and SyncGroup: subscription and assignment.
//!
//! Each begins with its own version, and none is ever flexible. A version from the future is read as the newest known
//! one: later versions only append.

use bytes::Bytes;

use super::{
    Decoder, Encoder, Error, Message,
    schema::{Wire, message, schema},
};

message!(ConsumerProtocolSubscription, 0..=3, flexible never);
message!(ConsumerProtocolAssignment, 0..=3, flexible never);

schema! {
    /// What a member wants to read.
    struct ConsumerProtocolSubscription {
        topics: Vec<String>,
        user_data: Option<Bytes>,
        owned_partitions: Vec<TopicPartition> [1..],
        generation_id: i32 [2..] = -1,
        rack_id: Option<String> [3..],
    }

    /// What a member shall read.
    struct ConsumerProtocolAssignment {
        assigned_partitions: Vec<TopicPartition>,
        user_data: Option<Bytes>,
    }

    /// Partitions of one topic.
    struct TopicPartition {
        topic: String,
        partitions: Vec<i32>,
    }
}

/// Reads a version and the message in it.
///
/// # Errors
/// On bytes that are no such message: members may send anything, and some groups of this type do.
pub fn decode_versioned<M: Message>(bytes: Bytes) -> Result<M, Error> {
    let mut d = Decoder::new(bytes);
    let version = i16::read(&mut d)?;
    M::decode(&mut d, version.min(*M::VERSIONS.end()))
}

/// Writes `version` and the message in it.
pub fn encode_versioned<M: Message>(message: &M, version: i16) -> Bytes {
    let mut e = Encoder::new();
    version.write(&mut e);
    message.encode(&mut e, version);
    e.to_bytes()
}
