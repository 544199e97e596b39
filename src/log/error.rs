//! Why the log refuses: every refusal of the module in one place.

use std::sync::Arc;

use crate::record::{Offset, Partition};

/// Why the log refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such topic or partition.
    #[error("unknown topic or partition {0}")]
    UnknownPartition(Partition),
    /// The offset is not within the bounds.
    #[error("offset {offset} is outside {start}..{end}")]
    OutOfRange {
        /// What was asked.
        offset: Offset,
        /// First readable offset.
        start: Offset,
        /// One after the last readable offset.
        end: Offset,
    },
    /// The topic is there already.
    #[error("topic '{0}' already exists")]
    TopicExists(Arc<str>),
    /// The name breaks Kafka's rules, or collides with another but for `.` and `_`.
    #[error("invalid topic name '{name}': {reason}")]
    InvalidTopic {
        /// The name.
        name: Arc<str>,
        /// What is wrong with it.
        reason: String,
    },
    /// A number of partitions that cannot be.
    #[error("invalid number of partitions: {0}")]
    InvalidPartitions(String),
    /// An idempotent producer's batch does not follow its last one.
    #[error("sequence of producer {producer_id} in {partition}: {reason}")]
    Sequence {
        /// The partition.
        partition: Partition,
        /// The producer.
        producer_id: i64,
        /// What is wrong.
        reason: SequenceError,
    },
    /// A batch that does not parse although it should have been checked.
    #[error("corrupt batch for {0}")]
    Corrupt(Partition),
    /// Larger than the log can take at once.
    #[error("the write is too large: {0}")]
    TooLarge(String),
    /// The quota or the file system is full and the policy is to refuse.
    #[error("log quota reached")]
    Full,
    /// The writer has stopped after an error of the file system, or the daemon is stopping.
    #[error("the log has stopped: {0}")]
    Stopped(String),
    /// The directory, the file or its format: one line that says the mend.
    #[error("{0}")]
    Open(String),
}

/// What is wrong with an idempotent producer's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// Not the next sequence.
    #[error("expected sequence {expected}, got {got}")]
    OutOfOrder {
        /// What should have come.
        expected: i32,
        /// What came.
        got: i32,
    },
    /// A batch outside of the producer's transaction while it has an open one in the partition.
    #[error("the producer has an open transaction, and the batch is not part of it")]
    InTransaction,
    /// The epoch is older than the one known.
    #[error("epoch {got} is older than {known}")]
    OldEpoch {
        /// The epoch known.
        known: i16,
        /// What came.
        got: i16,
    },
}
