//! The commit log and state on LMDB: the waist that every module meets in.
//!
//! Everything enters by one verb, [`Log::commit`], atomically: batches of any partitions and state changes become
//! durable together or not at all. A partition has an end (appended) and a high watermark (durable); readers see only
//! up to the high watermark. Never decodes a record except to look up a timestamp, never knows of Kafka's APIs,
//! groups or connectors. The only user of LMDB.

mod memory;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::watch;

use crate::record::{Offset, Partition};

/// How the log is kept.
#[derive(Clone)]
pub struct Config {
    /// The directory that holds the environment and its lock.
    pub dir: PathBuf,
    /// Most bytes of live chunks and journal; `None`: a quarter of the free space, at most 8 GiB.
    pub quota_bytes: Option<u64>,
    /// When a commit counts as durable.
    pub durability: Durability,
    /// Longest wait for company of records nobody waits for.
    pub linger: Duration,
    /// The same where a producer waits for the answer.
    pub ack_linger: Duration,
    /// What happens when the quota is reached by data that must not be deleted.
    pub on_full: OnFull,
    /// Budget of the tails, the index and the queue in RAM.
    pub memory_limit_bytes: u64,
    /// Wall clock in milliseconds since 1970, replaced in tests.
    pub clock: Clock,
}

/// Wall time in milliseconds since 1970; used for record timestamps and time retention only.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// When a commit counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After the commit's own flushes.
    #[default]
    Strict,
    /// After the next commit's flush, or a forced one when idle.
    Pipelined,
}

/// What happens when the quota is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// The oldest goes, with an entry in the gap ledger if it was not mirrored.
    #[default]
    DropOldest,
    /// New records are refused with [`Error::Full`].
    Reject,
}

/// Everything that must become durable together.
#[derive(Clone, Debug, Default)]
pub struct Write {
    /// Batches, in the order in which they are appended.
    pub batches: Vec<Append>,
    /// State changes.
    pub state: Vec<StateWrite>,
    /// How long the write may wait for company.
    pub urgency: Urgency,
}

/// One record batch v2 for one partition. Its base offset and leader epoch are overwritten.
///
/// A batch with a producer id is checked against the partition's producer state (see [`Error::Sequence`]); a batch
/// that repeats one of the last five is not appended again and answers with the offsets of the first time.
#[derive(Clone, Debug)]
pub struct Append {
    /// Where it goes.
    pub partition: Partition,
    /// Exactly one batch, structure and CRC already checked by the caller.
    pub batch: Bytes,
}

/// One key of one owner's state; `None` removes it.
#[derive(Clone, Debug)]
pub struct StateWrite {
    /// The module, such as `groups`; at most 16 bytes.
    pub owner: &'static str,
    /// The owner's own key; at most 400 bytes.
    pub key: Bytes,
    /// The new value, at most 64 KiB, or `None` to remove it.
    pub value: Option<Bytes>,
}

/// How long a write may wait for company.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for the answer: `ack_linger`.
    #[default]
    Waited,
    /// Nobody waits: `linger`.
    Unattended,
}

/// Where one batch landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// The partition's log start offset then.
    pub log_start: Offset,
    /// True if it had been appended before and was recognised.
    pub is_duplicate: bool,
}

/// What a reader may see of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// First offset that is kept.
    pub start: Offset,
    /// One after the last durable offset.
    pub high_watermark: Offset,
}

/// What a read brings.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Whole batches, the first of which holds the offset asked for.
    pub batches: Bytes,
    /// The bounds at that moment.
    pub bounds: Bounds,
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: i64,
}

/// One topic as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; another one after the topic was deleted and created again.
    pub id: TopicId,
    /// Its number of partitions.
    pub partitions: i32,
    /// Settings that were set, by Kafka's names; what is missing has the broker's default.
    pub settings: BTreeMap<String, String>,
}

/// A topic's id, a random UUID.
pub type TopicId = [u8; 16];

/// All topics by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    /// By name.
    pub by_name: BTreeMap<Arc<str>, Arc<Topic>>,
}

impl Topics {
    /// The topic of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// The topic with that id.
    pub fn by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_name.values().find(|t| t.id == id)
    }
}

/// A change of the topics.
#[derive(Clone, Debug)]
pub enum Change {
    /// Makes a topic.
    Create {
        /// Its name, checked for Kafka's rules.
        name: Arc<str>,
        /// Its number of partitions, at least 1.
        partitions: i32,
        /// Its own settings.
        settings: BTreeMap<String, String>,
    },
    /// Sets settings, or with `None` returns them to the default.
    Alter {
        /// The topic.
        name: Arc<str>,
        /// What changes.
        settings: BTreeMap<String, Option<String>>,
    },
    /// Adds partitions up to this number.
    Grow {
        /// The topic.
        name: Arc<str>,
        /// The new number of partitions.
        partitions: i32,
    },
    /// Deletes a topic and its records.
    Delete {
        /// The topic.
        name: Arc<str>,
    },
    /// Deletes the records before an offset; -1 means all durable ones.
    TrimBefore {
        /// The partition.
        partition: Partition,
        /// The new log start offset.
        offset: Offset,
    },
}

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
    /// The epoch is older than the one known.
    #[error("epoch {got} is older than {known}")]
    OldEpoch {
        /// The epoch known.
        known: i16,
        /// What came.
        got: i16,
    },
}

/// Figures of the log for status and metrics.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Bytes of live chunks, tails and journal.
    pub live_bytes: u64,
    /// The quota in force.
    pub quota_bytes: u64,
    /// Size of the data file.
    pub file_bytes: u64,
    /// Bytes handed to the file since start, whole pages.
    pub written_bytes: u64,
    /// Commits since start.
    pub commits: u64,
    /// Batch bytes taken in since start.
    pub ingested_bytes: u64,
    /// Bytes of tails, overlay and index in RAM.
    pub memory_bytes: u64,
    /// Grows while the writer thread moves; for the watchdog.
    pub heartbeat: u64,
}

/// The log. Cheap to clone; every clone speaks to the same writer thread.
#[derive(Clone)]
pub struct Log(Arc<memory::Memory>);

impl Log {
    /// Opens or makes the log in `config.dir` and starts its writer thread.
    ///
    /// # Errors
    /// [`Error::Open`] with a line that says the mend: directory in use, read-only, unsupported file system, format.
    pub fn open(config: Config, _metrics: &crate::metrics::Registry) -> Result<Self, Error> {
        Ok(Self(Arc::new(memory::Memory::new(config))))
    }

    /// Makes everything in `write` durable together, or nothing.
    ///
    /// Answers in the order of `write.batches`, once all of it is on flash. Dropping the future does not take the
    /// write back.
    pub async fn commit(&self, write: Write) -> Result<Vec<Appended>, Error> {
        self.0.commit(write)
    }

    /// Creates, alters, grows, trims or deletes a topic, durably, together with `state`. Answers with the topic after
    /// the change (before it, for `Delete`).
    pub async fn change(&self, change: Change, state: Vec<StateWrite>) -> Result<Arc<Topic>, Error> {
        self.0.change(change, state)
    }

    /// Whole batches from the one holding `from`, at most `max_bytes` unless the first is larger, below the high
    /// watermark; empty at the high watermark.
    pub async fn read(&self, partition: &Partition, from: Offset, max_bytes: usize) -> Result<Slice, Error> {
        self.0.read(partition, from, max_bytes)
    }

    /// First record at or after a timestamp.
    pub async fn offset_at(&self, partition: &Partition, timestamp_ms: i64) -> Result<Option<Timed>, Error> {
        self.0.offset_at(partition, timestamp_ms)
    }

    /// The record with the greatest timestamp (the first of them).
    pub async fn max_timestamp(&self, partition: &Partition) -> Result<Option<Timed>, Error> {
        self.0.max_timestamp(partition)
    }

    /// One key of one owner's state, as of the last durable commit.
    pub fn state(&self, owner: &'static str, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.0.state(owner, key)
    }

    /// One owner's keys that begin with `prefix`, in order, as of the last durable commit.
    pub fn states(&self, owner: &'static str, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.0.states(owner, prefix)
    }

    /// Bounds of a partition, now and on every change. The sender is dropped when the topic is deleted.
    pub fn watch(&self, partition: &Partition) -> Result<watch::Receiver<Bounds>, Error> {
        self.0.watch(partition)
    }

    /// The topics, now and on every change.
    pub fn topics(&self) -> watch::Receiver<Arc<Topics>> {
        self.0.topics()
    }

    /// Bytes kept of one partition.
    pub fn partition_bytes(&self, partition: &Partition) -> Result<u64, Error> {
        self.0.partition_bytes(partition)
    }

    /// Figures for status, metrics and the watchdog.
    pub fn usage(&self) -> Usage {
        self.0.usage()
    }

    /// Random, made with the data file: changes when the file does (mirror.md calls it the incarnation).
    pub fn incarnation(&self) -> [u8; 16] {
        self.0.incarnation
    }

    /// A producer id that was never given out before, durable before it is returned.
    pub async fn next_producer_id(&self) -> Result<i64, Error> {
        self.0.next_producer_id()
    }

    /// Commits what waits and stops the writer thread. Later calls answer [`Error::Stopped`].
    pub async fn close(&self) {
        self.0.close();
    }
}
