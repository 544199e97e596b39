//! Kafka's record batch v2 as bytes: view, check, build, restamp, coalesce, and the codecs.
//!
//! Never does I/O, never knows of topics' settings, clocks or the protocol around a batch.

use std::{fmt, sync::Arc};

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
