//! Lifecycle of connectors: held by name, started, restarted, paused, stopped and listed.
//!
//! A connector runs as one supervised task. Two runs of one connector never overlap: a new one waits until the last
//! has let go. Never reads configuration files and never keeps a target state across a restart of the daemon.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    Config, Intake, SourceError, Surroundings, TopicPolicy,
    intake::{Brought, forget_metrics},
};
use crate::{
    log::{Clock, Log},
    metrics::Registry,
    supervise::{self, Supervisor},
};

/// What a connector is doing, in Kafka Connect's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// It runs.
    Running,
    /// It was paused by hand.
    Paused,
    /// It was stopped by hand, is not enabled, or has come to its end.
    Stopped,
    /// It failed and waits for its next try.
    Failed,
    /// It is to run and waits for its last run to end.
    Unassigned,
}

/// One row of the list of connectors.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub name: Arc<str>,
    /// Its class's short name.
    pub class: &'static str,
    /// What it is doing.
    pub state: State,
    /// How often it was started again after a failure, since it was last started by hand.
    pub restarts: u64,
    /// Why it failed last.
    pub last_error: Option<String>,
    /// Records made durable since the daemon's start.
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

/// No connector of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown connector '{0}'")]
pub struct UnknownConnector(pub String);

/// All connectors of one daemon. Cheap to clone.
#[derive(Clone)]
pub struct Worker(Arc<Shared>);

struct Shared {
    log: Log,
    supervisor: Supervisor,
    metrics: Registry,
    clock: Clock,
    policy: TopicPolicy,
    surroundings: Surroundings,
    connectors: Mutex<BTreeMap<Arc<str>, Connector>>,
}

struct Connector {
    config: Config,
    intake: Intake,
    target: Target,
    run: Option<Run>,
    /// Held by the run that is on.
    floor: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Running,
    Paused,
    Stopped,
}

struct Run {
    stop: CancellationToken,
    has_begun: Arc<AtomicBool>,
}

impl Worker {
    /// A worker without connectors.
    pub fn new(
        log: Log,
        supervisor: Supervisor,
        metrics: Registry,
        clock: Clock,
        policy: TopicPolicy,
        surroundings: Surroundings,
    ) -> Self {
        let connectors = Mutex::default();
        Self(Arc::new(Shared { log, supervisor, metrics, clock, policy, surroundings, connectors }))
    }

    /// Takes a connector in and starts it if it is enabled; one of the same name is replaced.
    pub fn put(&self, name: &str, config: Config) {
        let shared = &self.0;
        let mut connectors = self.lock();
        let name: Arc<str> = name.into();
        let (intake, floor) = match connectors.remove(&name) {
            Some(old) => {
                old.halt();
                (old.intake, old.floor)
            }
            None => {
                let (log, clock) = (shared.log.clone(), Arc::clone(&shared.clock));
                (Intake::counted(&name, log, shared.policy, clock, &shared.metrics), Arc::default())
            }
        };
        let target = if config.enabled { Target::Running } else { Target::Stopped };
        let mut connector = Connector { config, intake, target, run: None, floor };
        if target == Target::Running {
            self.start(&name, &mut connector);
        }
        connectors.insert(name, connector);
    }

    /// Keeps a connector from running until it is resumed.
    ///
    /// # Errors
    /// [`UnknownConnector`].
    pub fn pause(&self, name: &str) -> Result<(), UnknownConnector> {
        self.with(name, |_, connector| connector.rest(Target::Paused))
    }

    /// As [`Self::pause`], but it is listed as stopped.
    ///
    /// # Errors
    /// [`UnknownConnector`].
    pub fn stop(&self, name: &str) -> Result<(), UnknownConnector> {
        self.with(name, |_, connector| connector.rest(Target::Stopped))
    }

    /// Runs a paused or stopped connector; one that runs goes on undisturbed.
    ///
    /// # Errors
    /// [`UnknownConnector`].
    pub fn resume(&self, name: &str) -> Result<(), UnknownConnector> {
        self.with(name, |name, connector| {
            if connector.target != Target::Running {
                connector.target = Target::Running;
                self.start(name, connector);
            }
        })
    }

    /// Ends the run that is on and begins another at once, also out of a back-off. A paused or stopped connector
    /// stays so.
    ///
    /// # Errors
    /// [`UnknownConnector`].
    pub fn restart(&self, name: &str) -> Result<(), UnknownConnector> {
        self.with(name, |name, connector| {
            if connector.target == Target::Running {
                connector.halt();
                self.start(name, connector);
            }
        })
    }

    /// Stops a connector and forgets it. Its saved positions stay: made again under the same name, it goes on there.
    ///
    /// # Errors
    /// [`UnknownConnector`].
    pub fn remove(&self, name: &str) -> Result<(), UnknownConnector> {
        let connector = self.lock().remove(name).ok_or_else(|| UnknownConnector(name.to_owned()))?;
        connector.halt();
        self.0.supervisor.forget(&task_name(name));
        forget_metrics(&self.0.metrics, name);
        Ok(())
    }

    /// All connectors by name.
    pub fn status(&self) -> Vec<Status> {
        let tasks = self.0.supervisor.status();
        self.lock().iter().map(|(name, connector)| connector.status(name, tasks.get(&task_name(name)))).collect()
    }

    fn with(&self, name: &str, act: impl FnOnce(&Arc<str>, &mut Connector)) -> Result<(), UnknownConnector> {
        let mut connectors = self.lock();
        let key = connectors.get_key_value(name).map(|(key, _)| Arc::clone(key));
        let (Some(key), Some(connector)) = (key, connectors.get_mut(name)) else {
            return Err(UnknownConnector(name.to_owned()));
        };
        act(&key, connector);
        Ok(())
    }

    fn start(&self, name: &Arc<str>, connector: &mut Connector) {
        let has_begun = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&has_begun);
        let (settings, intake) = (connector.config.settings.clone(), connector.intake.clone());
        let (floor, surroundings) = (Arc::clone(&connector.floor), self.0.surroundings.clone());
        let stop = self.0.supervisor.spawn(task_name(name), move |stop| {
            let (settings, intake, surroundings) = (settings.clone(), intake.clone(), surroundings.clone());
            let (floor, begun) = (Arc::clone(&floor), Arc::clone(&begun));
            async move {
                let _held = tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    held = floor.lock() => held,
                };
                begun.store(true, Ordering::Relaxed);
                let mut source = settings.build(&surroundings)?;
                source.run(&intake, stop).await?;
                Ok::<(), SourceError>(())
            }
        });
        connector.run = Some(Run { stop, has_begun });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Connector>> {
        self.0.connectors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connector {
    fn halt(&self) {
        if let Some(run) = &self.run {
            run.stop.cancel();
        }
    }

    fn rest(&mut self, target: Target) {
        self.target = target;
        self.halt();
    }

    fn status(&self, name: &Arc<str>, task: Option<&supervise::Status>) -> Status {
        let has_begun = self.run.as_ref().is_some_and(|r| r.has_begun.load(Ordering::Relaxed));
        let state = match (self.target, task.map(|t| t.state)) {
            (Target::Paused, _) => State::Paused,
            (Target::Stopped, _) | (_, Some(supervise::State::Finished)) => State::Stopped,
            (_, Some(supervise::State::BackingOff)) => State::Failed,
            (_, Some(supervise::State::Running)) if has_begun => State::Running,
            (_, Some(supervise::State::Running) | None) => State::Unassigned,
        };
        let Brought { records, bytes, commits, refused, last_commit_ms } = self.intake.brought();
        Status {
            name: Arc::clone(name),
            class: self.config.class.name,
            state,
            restarts: task.map_or(0, |t| t.restarts),
            last_error: task.and_then(|t| t.last_error.clone()),
            records,
            bytes,
            commits,
            refused,
            last_commit_ms,
        }
    }
}

fn task_name(connector: &str) -> String {
    format!("connector {connector}")
}

#[cfg(test)]
mod tests;
