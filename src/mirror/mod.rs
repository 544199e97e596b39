//! The mirror: the log's topics at a central Kafka, each record exactly once and in order.
//!
//! A link is one target cluster. It reads what is durable here, never more, and keeps its own position there, so that
//! neither a kill nor a power cut of either side duplicates, loses or reorders a record; [`delivery`] is that promise
//! as a pure state machine, [`client`] speaks Kafka, [`link`] drives the one over the other. Never imports `kafka`,
//! `streams` or `connect`; never decodes a batch that is large enough to pass.

pub mod client;
mod config;
mod delivery;
mod link;
mod machine;
mod meters;
mod status;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use config::{Compression, Config, Naming};
pub use delivery::{OnNoEvidence, OnTargetReset};
pub use status::{PartitionStatus, Status};
use tokio_util::sync::CancellationToken;

use crate::{
    log::Log,
    memory::Budget,
    metrics::Registry,
    record::{Offset, Partition},
    supervise::Supervisor,
};

/// The links of a node. Cheap to clone.
#[derive(Clone)]
pub struct Mirrors(Arc<Links>);

struct Links {
    node: String,
    log: Log,
    memory: Budget,
    supervisor: Supervisor,
    metrics: Registry,
    running: Mutex<BTreeMap<String, Mirror>>,
}

impl Mirrors {
    /// No links yet, for the node of that name.
    pub fn new(node: &str, log: Log, memory: Budget, supervisor: Supervisor, metrics: Registry) -> Self {
        Self(Arc::new(Links { node: node.to_owned(), log, memory, supervisor, metrics, running: Mutex::default() }))
    }

    /// Starts the link `name`. If there is one of that name, [`Self::stop`] it first.
    ///
    /// # Errors
    /// As [`Mirror::start`].
    pub fn start(&self, name: &str, config: Config) -> Result<(), StartError> {
        let Links { node, log, memory, supervisor, metrics, .. } = &*self.0;
        let mirror = Mirror::start(name, node, config, log, memory, supervisor, metrics)?;
        self.running().insert(name.to_owned(), mirror);
        Ok(())
    }

    /// Stops the link `name`, if there is one, and waits until it has ended: two links of one name would be one
    /// producer twice. What it has safe at its target stays noted, so that a link of the same name goes on there, and the
    /// log keeps what it still wants until [`Self::release`].
    pub async fn stop(&self, name: &str) {
        let Some(mirror) = self.running().remove(name) else { return };
        mirror.stop.cancel();
        drop(mirror.link.lock().await);
        self.0.supervisor.forget(&task_name(name));
    }

    /// The link `name` does not come back: the log need not keep for it what it still wanted.
    pub fn release(&self, name: &str) {
        self.0.log.release(&name.into());
    }

    /// The running links, by name.
    pub fn list(&self) -> Vec<Mirror> {
        self.running().values().cloned().collect()
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Mirror>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn task_name(link: &str) -> String {
    format!("mirror-{link}")
}

/// A running link, as others see it. Cheap to clone.
#[derive(Clone)]
pub struct Mirror {
    name: Arc<str>,
    log: Log,
    status: Arc<Mutex<Status>>,
    /// Held by the task for as long as it runs.
    link: Arc<tokio::sync::Mutex<link::Link>>,
    stop: CancellationToken,
}

/// Why a link cannot start; one line for people.
#[derive(Debug, thiserror::Error)]
#[error("mirror.{name}: {reason}")]
pub struct StartError {
    name: String,
    reason: String,
}

impl Mirror {
    /// Starts the link `name` of the node `node` as a supervised task.
    ///
    /// # Errors
    /// If the configuration cannot be worked with; [`Config::check`] says so earlier and better.
    pub fn start(
        name: &str,
        node: &str,
        config: Config,
        log: &Log,
        memory: &Budget,
        supervisor: &Supervisor,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let refuse = |reason: String| StartError { name: name.to_owned(), reason };
        if let Some((key, message)) = config.check().into_iter().next() {
            return Err(refuse(format!("{key}: {message}")));
        }
        let status = Arc::new(Mutex::new(Status {
            state: "connecting".into(),
            target: config.bootstrap_servers.join(","),
            ..Status::default()
        }));
        let meters = meters::Meters::new(registry, name);
        let link = link::Link::new(name, node, config, log.clone(), memory.clone(), meters, Arc::clone(&status))
            .map_err(refuse)?;
        link.protect().map_err(|e| refuse(e.to_string()))?;
        let link = Arc::new(tokio::sync::Mutex::new(link));
        let (failed, runs) = (Arc::clone(&status), Arc::clone(&link));
        let stop = supervisor.spawn(task_name(name), move |stop| {
            let (link, failed) = (Arc::clone(&runs), Arc::clone(&failed));
            async move {
                let result = Box::pin(link.lock().await.run(stop)).await;
                if let Err(error) = &result {
                    let mut status = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    status.state = "backing off".into();
                    status.error = Some(error.clone());
                }
                result
            }
        });
        Ok(Self { name: name.into(), log: log.clone(), status, link, stop })
    }

    /// The link's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How far it is, with the log's ends as of now.
    pub fn status(&self) -> Status {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut safe: Option<Option<i64>> = None;
        for partition in &mut status.partitions {
            let Ok(bounds) = self.log.watch(&partition.source).map(|w| *w.borrow()) else { continue };
            partition.end = partition.end.max(bounds.last_stable);
            let lag = u64::try_from(partition.end - partition.acked).unwrap_or(0);
            status.lag_records += lag;
            if lag > 0 {
                let kept = u64::try_from(bounds.high_watermark - bounds.start).unwrap_or(0).max(1);
                let bytes = self.log.partition_bytes(&partition.source).unwrap_or(0);
                status.lag_bytes += (u128::from(bytes) * u128::from(lag.min(kept)) / u128::from(kept)) as u64;
                // The least of all that lag; one that has nothing there yet says nothing can be promised.
                safe = Some(match safe {
                    None => partition.acked_timestamp_ms,
                    Some(other) => other.zip(partition.acked_timestamp_ms).map(|(a, b)| a.min(b)),
                });
            }
        }
        status.safe_up_to_ms = safe.flatten();
        status
    }

    /// What is safe at the target: the first offset that is not, by partition. Retention may delete below it.
    pub fn positions(&self) -> Vec<(Partition, Offset)> {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.partitions.iter().map(|p| (p.source.clone(), p.acked)).collect()
    }
}
