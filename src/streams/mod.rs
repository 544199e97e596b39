//! Streams: topics in, topics out, by expressions over each record.
//!
//! One supervised task per stream reads its source topics up to the high watermark, and commits outputs and position
//! together, so that after any crash each input record has had its effect once. The position is a committed offset of
//! the group named like the stream (its application id), which Kafka's tools show. A record on which an expression
//! fails goes to `<application id>.dlq` with the reason in its headers, in the same commit. Never imports `kafka`,
//! `connect` or `mirror`, never calls out, never reads a clock to decide what happens to a record.

mod dead_letter;
mod output;
mod topology;
mod worker;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;
use topology::Topology;
pub use topology::{Problem, check};

use crate::{
    log::{self, Clock, Log},
    memory::Budget,
    metrics::{Counter, Registry},
    record::{BatchError, Offset, Partition},
    supervise::Supervisor,
};

/// One stream, as the table `[streams.<application id>]` says it. Expressions see the record as it came in.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether it runs.
    pub enabled: bool,
    /// The source topics. One that does not exist is waited for.
    pub from: Vec<String>,
    /// Only records for which this expression holds go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The new value: text as it is, none as a tombstone, all else as JSON. Key, headers and timestamp stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<String>,
    /// Where a record goes: the first branch whose expression holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Branch>,
    /// Where a record goes that no branch takes; without it such a record is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { enabled: true, from: Vec::new(), filter: None, map: None, branches: Vec::new(), to: None }
    }
}

/// One branch of a stream.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// The expression.
    pub when: String,
    /// The topic for records for which it holds, created if it is missing.
    pub to: String,
}

/// Why a stream cannot go on; the supervisor starts it again from its last commit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log refused.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// A batch so damaged that the next one cannot be found.
    #[error("{partition} at offset {offset}: {reason}")]
    Unreadable {
        /// Where.
        partition: Partition,
        /// What was to be read.
        offset: Offset,
        /// What is wrong.
        reason: BatchError,
    },
}

/// One stream as it stands.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Its name, the application id.
    pub name: Arc<str>,
    /// Its source topics.
    pub from: Vec<Arc<str>>,
    /// Its target topics.
    pub to: Vec<Arc<str>>,
    /// How far it is, by source partition; a source topic that does not exist has none.
    pub positions: Vec<Position>,
    /// Records read since the daemon's start.
    pub records_in: u64,
    /// Records written to targets since then.
    pub records_out: u64,
    /// Records and unreadable batches sent to the dead letters since then.
    pub dead_letters: u64,
    /// Records that retention deleted before they were read, since then.
    pub missed: u64,
    /// The reason of the last dead letter.
    pub last_error: Option<String>,
}

/// How far a stream is in one partition.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Position {
    /// The source topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The next offset it reads.
    pub offset: Offset,
    /// Records before the high watermark that it has not read.
    pub lag: i64,
}

/// What streams run on. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    /// The log.
    pub log: Log,
    /// The memory that large batches are unpacked in.
    pub memory: Budget,
    /// Where the tasks are listed and stopped.
    pub supervisor: Supervisor,
    /// Where the counters go.
    pub metrics: Registry,
    /// For the commit time that Kafka's tools show.
    pub clock: Clock,
    /// Partitions of a target topic that is made here, as `num.partitions`; at least 1.
    pub partitions: i32,
}

/// The running streams. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    host: Host,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    running: BTreeMap<String, Running>,
    /// Held by the task that runs under that name. The task it replaces may still be committing, and two at once would
    /// both write what they read.
    turns: BTreeMap<String, Arc<tokio::sync::Mutex<()>>>,
}

struct Running {
    config: Config,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Streams {
    /// Starts all enabled streams.
    ///
    /// # Errors
    /// All problems of all streams, and nothing is started then.
    pub fn start(configs: &BTreeMap<String, Config>, host: Host) -> Result<Self, Vec<Problem>> {
        let streams = Self { host, table: Arc::default() };
        streams.apply(configs)?;
        Ok(streams)
    }

    /// Whether a stream of that application id runs.
    pub fn is_running(&self, name: &str) -> bool {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).running.contains_key(name)
    }

    /// Makes these the running streams: stops what is gone or changed, starts what is new or changed. A changed stream
    /// goes on at its position.
    ///
    /// # Errors
    /// All problems of all streams; what runs goes on unchanged then.
    pub fn apply(&self, configs: &BTreeMap<String, Config>) -> Result<(), Vec<Problem>> {
        let mut topologies = topology::compile_all(configs)?;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { running, turns } = &mut *table;
        running.retain(|name, r| {
            let stays = configs.get(name).is_some_and(|c| *c == r.config);
            if !stays {
                r.stop.cancel();
            }
            stays
        });
        for (name, config) in configs.iter().filter(|(_, c)| c.enabled) {
            if running.contains_key(name) {
                continue;
            }
            let Some(topology) = topologies.remove(name) else { continue };
            let shared = Arc::new(Shared::new(topology, &self.host.metrics));
            let turn = Arc::clone(turns.entry(name.clone()).or_default());
            let stop = self.spawn(name, Arc::clone(&shared), turn);
            running.insert(name.clone(), Running { config: config.clone(), shared, stop });
        }
        Ok(())
    }

    fn spawn(&self, name: &str, shared: Arc<Shared>, turn: Arc<tokio::sync::Mutex<()>>) -> CancellationToken {
        let host = self.host.clone();
        self.host.supervisor.spawn(format!("stream.{name}"), move |stop| {
            let (host, shared, turn) = (host.clone(), Arc::clone(&shared), Arc::clone(&turn));
            async move {
                let _turn = turn.lock().await;
                worker::run(&host, &shared, &stop).await
            }
        })
    }

    /// All running streams, by name.
    pub fn status(&self) -> Vec<Status> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.running.values().map(|r| r.shared.status(&self.host.log)).collect()
    }
}

/// What a stream's task shares with its observers.
struct Shared {
    topology: Topology,
    records_in: Counter,
    records_out: Counter,
    dead_letters: Counter,
    missed: Counter,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    positions: Vec<(Partition, Offset)>,
    last_error: Option<String>,
}

impl Shared {
    fn new(topology: Topology, metrics: &Registry) -> Self {
        let labels = [("stream", &*topology.name)];
        let counter = |name, help| metrics.counter(name, help, &labels);
        Self {
            records_in: counter("brooklet_streams_records_in_total", "Records a stream read."),
            records_out: counter("brooklet_streams_records_out_total", "Records a stream wrote to its targets."),
            dead_letters: counter("brooklet_streams_dead_letters_total", "Records a stream could not process."),
            missed: counter("brooklet_streams_missed_total", "Records deleted by retention before a stream read them."),
            seen: Mutex::default(),
            topology,
        }
    }

    fn see(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn status(&self, log: &Log) -> Status {
        let (positions, last_error) = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            (seen.positions.clone(), seen.last_error.clone())
        };
        let positions = positions.into_iter().filter_map(|(partition, offset)| {
            let end = log.watch(&partition).ok()?.borrow().high_watermark;
            Some(Position { topic: partition.topic, partition: partition.index, offset, lag: (end - offset).max(0) })
        });
        Status {
            name: Arc::clone(&self.topology.name),
            from: self.topology.from.clone(),
            to: self.topology.targets.clone(),
            positions: positions.collect(),
            records_in: self.records_in.get(),
            records_out: self.records_out.get(),
            dead_letters: self.dead_letters.get(),
            missed: self.missed.get(),
            last_error,
        }
    }
}

#[cfg(test)]
mod tests;
