//! The way in: a source's records become batches and one commit with its positions.
//!
//! Commits of one connector reach the log in the order in which their futures are first polled, also while earlier
//! ones still wait for the flash; each is atomic. A record's partition is the one it names, or the one Kafka's default
//! partitioner would take. Never decides when a source reads, never retries.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Mutex, watch};

use super::SourceRecord;
use crate::{
    log::{self, Append, Change, Clock, Log, StateWrite, Topics, Urgency, Write},
    metrics::{Counter, Registry},
    record::{self, Builder, Codec, Partition},
};

/// Owner of the saved positions in the log's state.
const OWNER: &str = "connect";

/// Bytes of keys and values after which a batch is closed: a target of the mirror takes 1 MiB unless set otherwise.
const BATCH_BYTES: usize = 512 * 1024;

/// Most bytes of a state key in the log.
const KEY_BYTES: usize = 400;

/// What happens when a source names a topic that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicPolicy {
    /// Whether it is made, as `auto.create.topics.enable`.
    pub creates: bool,
    /// With how many partitions, as `num.partitions`; at least 1.
    pub partitions: i32,
}

impl Default for TopicPolicy {
    fn default() -> Self {
        Self { creates: true, partitions: 1 }
    }
}

/// What a source commits through. Cheap to clone, so that commits can overlap.
#[derive(Clone)]
pub struct Intake {
    shared: Arc<Shared>,
}

struct Shared {
    /// The connector's name and a NUL: what its keys begin with.
    prefix: Bytes,
    log: Log,
    topics: watch::Receiver<Arc<Topics>>,
    policy: TopicPolicy,
    clock: Clock,
    figures: Figures,
    /// Held until a commit is handed over; tokio's mutex is fair, so commits go through it in the order they came.
    gate: Mutex<Gate>,
}

/// What is used by one commit at a time.
#[derive(Default)]
struct Gate {
    builder: Builder,
    /// Per topic of several partitions, which one takes the next commit's records without a key.
    turns: HashMap<Arc<str>, i32>,
}

#[derive(Default)]
struct Figures {
    records: Counter,
    bytes: Counter,
    commits: Counter,
    refused: Counter,
    /// Wall time of the last durable commit in milliseconds since 1970, 0 if there was none.
    last_commit_ms: AtomicI64,
}

/// What one connector brought in since the daemon's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// Records made durable.
    pub records: u64,
    /// Their keys' and values' bytes.
    pub bytes: u64,
    /// Commits made durable.
    pub commits: u64,
    /// Commits the log refused.
    pub refused: u64,
    /// Wall time of the last durable commit in milliseconds since 1970.
    pub last_commit_ms: Option<i64>,
}

/// Why an intake refused.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The log refused; [`log::Error::Full`] means: wait and try again, do not acknowledge.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The topic is missing and topics are not made by themselves.
    #[error("topic '{0}' does not exist and auto.create.topics.enable is false")]
    NoTopic(Arc<str>),
    /// A position's key does not fit.
    #[error("a position's key of {0} bytes is too long")]
    LongPosition(usize),
    /// A record that no batch can hold.
    #[error("a record for topic '{0}': {1}")]
    Record(Arc<str>, record::BatchError),
}

const METRICS: [(&str, &str); 4] = [
    ("brooklet_connect_records_total", "Records a connector brought into the log."),
    ("brooklet_connect_bytes_total", "Bytes of keys and values a connector brought into the log."),
    ("brooklet_connect_commits_total", "Commits of a connector that became durable."),
    ("brooklet_connect_refused_total", "Commits of a connector that the log refused."),
];

impl Figures {
    fn registered(metrics: &Registry, connector: &str) -> Self {
        let counter = |i: usize| metrics.counter(METRICS[i].0, METRICS[i].1, &[("connector", connector)]);
        Self {
            records: counter(0),
            bytes: counter(1),
            commits: counter(2),
            refused: counter(3),
            last_commit_ms: AtomicI64::new(0),
        }
    }
}

/// Forgets a connector's series.
pub(super) fn forget_metrics(metrics: &Registry, connector: &str) {
    for (name, _) in METRICS {
        metrics.forget(name, &[("connector", connector)]);
    }
}

impl Intake {
    /// The way in for the connector of this name, with the system's clock; topics are made with one partition and
    /// nothing is counted where others see it.
    pub fn new(connector: &str, log: Log) -> Self {
        Self::with(connector, log, TopicPolicy::default(), system_clock(), Figures::default())
    }

    /// The way in for the connector of this name as a worker makes it.
    pub(super) fn counted(connector: &str, log: Log, policy: TopicPolicy, clock: Clock, metrics: &Registry) -> Self {
        Self::with(connector, log, policy, clock, Figures::registered(metrics, connector))
    }

    fn with(connector: &str, log: Log, policy: TopicPolicy, clock: Clock, figures: Figures) -> Self {
        let prefix = Bytes::from([connector.as_bytes(), &[0]].concat());
        let topics = log.topics();
        let gate = Mutex::default();
        Self { shared: Arc::new(Shared { prefix, log, topics, policy, clock, figures, gate }) }
    }

    /// Makes the records and the source's own positions durable together, or nothing.
    ///
    /// `positions` are keys and values of this connector alone; `None` removes a key. Commits become durable in the
    /// order in which they are first polled, whoever polls them; so one that was polled has to be polled on, or others
    /// wait for it. Dropping the future does not take the write back once it has entered the log's queue.
    ///
    /// # Errors
    /// [`IntakeError`]; nothing of this commit is durable then, topics made for it stay.
    pub async fn commit(
        &self,
        records: Vec<SourceRecord>,
        positions: Vec<(Bytes, Option<Bytes>)>,
        urgency: Urgency,
    ) -> Result<(), IntakeError> {
        if records.is_empty() && positions.is_empty() {
            return Ok(());
        }
        let count = records.len() as u64;
        let bytes: usize = records.iter().map(SourceRecord::payload_bytes).sum();
        let figures = &self.shared.figures;
        let answer = self.write(records, positions, urgency).await;
        match &answer {
            Ok(()) => {
                figures.records.add(count);
                figures.bytes.add(bytes as u64);
                figures.commits.increment();
                figures.last_commit_ms.store((self.shared.clock)(), Ordering::Relaxed);
            }
            Err(_) => figures.refused.increment(),
        }
        answer
    }

    async fn write(
        &self,
        records: Vec<SourceRecord>,
        positions: Vec<(Bytes, Option<Bytes>)>,
        urgency: Urgency,
    ) -> Result<(), IntakeError> {
        let state =
            positions.into_iter().map(|(key, value)| self.state_write(&key, value)).collect::<Result<_, _>>()?;
        let mut gate = self.shared.gate.lock().await;
        let topics = self.topics_of(&records).await?;
        let batches = gate.batches(&records, &topics, (self.shared.clock)())?;
        drop(records);
        // Once it is in the log's queue the next commit may follow, and not while it waits for room there.
        let entered = self.shared.log.enter(Write { batches, state, urgency }).await?;
        drop(gate);
        entered.durable().await?;
        Ok(())
    }

    /// The connector's name.
    pub fn connector(&self) -> &str {
        let prefix = &self.shared.prefix;
        std::str::from_utf8(&prefix[..prefix.len() - 1]).expect("made from a name and a NUL")
    }

    /// This connector's saved positions whose key begins with `prefix`.
    ///
    /// # Errors
    /// [`IntakeError::Log`] if the log has stopped.
    pub fn positions(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, IntakeError> {
        let own = &self.shared.prefix;
        let found = self.shared.log.states(OWNER, &[own, prefix].concat())?;
        Ok(found.into_iter().map(|(key, value)| (key.slice(own.len()..), value)).collect())
    }

    /// Random, made with the data file: names this installation to the outside, across restarts.
    pub fn incarnation(&self) -> [u8; 16] {
        self.shared.log.incarnation()
    }

    /// Wall time in milliseconds since 1970, by the clock that stamps records.
    pub fn now_ms(&self) -> i64 {
        (self.shared.clock)()
    }

    /// What came in through this and its clones.
    pub fn brought(&self) -> Brought {
        let figures = &self.shared.figures;
        let last = figures.last_commit_ms.load(Ordering::Relaxed);
        Brought {
            records: figures.records.get(),
            bytes: figures.bytes.get(),
            commits: figures.commits.get(),
            refused: figures.refused.get(),
            last_commit_ms: (last != 0).then_some(last),
        }
    }

    fn state_write(&self, key: &[u8], value: Option<Bytes>) -> Result<StateWrite, IntakeError> {
        let mut whole = BytesMut::with_capacity(self.shared.prefix.len() + key.len());
        whole.extend_from_slice(&self.shared.prefix);
        whole.extend_from_slice(key);
        if whole.len() > KEY_BYTES {
            return Err(IntakeError::LongPosition(key.len()));
        }
        Ok(StateWrite { owner: OWNER, key: whole.freeze(), value })
    }

    /// The topics as they stand once all those of the records exist.
    async fn topics_of(&self, records: &[SourceRecord]) -> Result<Arc<Topics>, IntakeError> {
        let mut topics = Arc::clone(&self.shared.topics.borrow());
        for record in records {
            if topics.get(&record.topic).is_some() {
                continue;
            }
            if !self.shared.policy.creates {
                return Err(IntakeError::NoTopic(Arc::clone(&record.topic)));
            }
            let (name, partitions) = (Arc::clone(&record.topic), self.shared.policy.partitions.max(1));
            match self
                .shared
                .log
                .change(Change::Create { name, partitions, settings: Default::default() }, vec![])
                .await
            {
                Ok(_) | Err(log::Error::TopicExists(_)) => {}
                Err(error) => return Err(error.into()),
            }
            topics = Arc::clone(&self.shared.topics.borrow());
        }
        Ok(topics)
    }
}

impl Gate {
    /// One batch per partition, several where one would be too large.
    fn batches(&mut self, records: &[SourceRecord], topics: &Topics, now_ms: i64) -> Result<Vec<Append>, IntakeError> {
        let mut order: Vec<(i32, &SourceRecord)> = records.iter().map(|r| (self.place(r, topics), r)).collect();
        // Stable: within a partition the records keep their order.
        order.sort_by(|(a, x), (b, y)| x.topic.cmp(&y.topic).then(a.cmp(b)));
        for run in order.chunk_by(|(_, x), (_, y)| x.topic == y.topic) {
            if run.iter().any(|(_, r)| r.is_free())
                && let Some(turn) = self.turns.get_mut(&run[0].1.topic)
            {
                *turn = turn.wrapping_add(1);
            }
        }
        let mut batches = Vec::new();
        for run in order.chunk_by(|(a, x), (b, y)| a == b && x.topic == y.topic) {
            let (index, first) = run[0];
            let partition = Partition { topic: Arc::clone(&first.topic), index };
            for (_, record) in run {
                let is_full = self.builder.size_bytes() + record.payload_bytes() > BATCH_BYTES;
                if is_full && !self.builder.is_empty() {
                    let batch = self.builder.finish(Codec::None, 0);
                    batches.push(Append { partition: partition.clone(), batch });
                }
                if let Err(error) = self.push(record, now_ms) {
                    self.builder.clear();
                    return Err(IntakeError::Record(Arc::clone(&record.topic), error));
                }
            }
            batches.push(Append { partition, batch: self.builder.finish(Codec::None, 0) });
        }
        Ok(batches)
    }

    /// The partition a record goes to.
    fn place(&mut self, record: &SourceRecord, topics: &Topics) -> i32 {
        let count = topics.get(&record.topic).map_or(1, |t| t.partitions);
        match (record.partition, &record.key) {
            (Some(index), _) => index,
            (None, Some(key)) => record::partition_for_key(key, count),
            (None, None) if count < 2 => 0,
            (None, None) => match self.turns.get(&record.topic) {
                Some(turn) => turn.rem_euclid(count),
                None => {
                    self.turns.insert(Arc::clone(&record.topic), 0);
                    0
                }
            },
        }
    }

    fn push(&mut self, record: &SourceRecord, now_ms: i64) -> Result<(), record::BatchError> {
        let headers: Vec<_> = record.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        let timestamp_ms = record.timestamp_ms.unwrap_or(now_ms);
        self.builder.push(timestamp_ms, record.key.as_deref(), record.value.as_deref(), &headers)
    }
}

impl SourceRecord {
    /// Whether it may go to any partition.
    fn is_free(&self) -> bool {
        self.partition.is_none() && self.key.is_none()
    }

    fn payload_bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len)
    }
}

fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests;
