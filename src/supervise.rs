//! Named tasks: started, restarted with back-off when they fail, listed with their last error, drained at the end.
//!
//! Never decides what a task does with its data; a task that returns `Ok` is finished, one that returns `Err` is
//! restarted after 0.5 s, doubled at each failure in a row up to 60 s (a run of a minute forgives), with jitter.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Shortest and longest wait before a restart.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It failed and waits for its restart.
    BackingOff,
    /// It returned, or was stopped.
    Finished,
}

/// One row of the task table.
#[derive(Clone, Debug)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// How often it was restarted.
    pub restarts: u64,
    /// Why it was restarted last.
    pub last_error: Option<String>,
}

/// The tasks of one daemon. Cheap to clone.
#[derive(Clone, Default)]
pub struct Supervisor {
    stop: CancellationToken,
    tracker: TaskTracker,
    table: Arc<Mutex<BTreeMap<String, (u64, Status)>>>,
    spawned: Arc<AtomicU64>,
}

impl Supervisor {
    /// Runs `task` under `name` until it returns `Ok` or the returned token, or the supervisor's, is cancelled.
    ///
    /// `task` is called anew for each start with the token that tells it to stop; it should then return soon.
    pub fn spawn<F, R, E>(&self, name: impl Into<String>, mut task: F) -> CancellationToken
    where
        F: FnMut(CancellationToken) -> R + Send + 'static,
        R: Future<Output = Result<(), E>> + Send,
        E: std::fmt::Display + Send,
    {
        let name = name.into();
        let stop = self.stop.child_token();
        let token = stop.clone();
        let supervisor = self.clone();
        // A name may be spawned again while its last task still ends; that one must not touch the new one's row.
        let number = self.spawned.fetch_add(1, Ordering::Relaxed);
        let fresh = Status { state: State::Running, restarts: 0, last_error: None };
        self.rows().insert(name.clone(), (number, fresh));
        self.tracker.spawn(async move {
            let mut wait = BACK_OFF.0;
            loop {
                let started = Instant::now();
                let Err(error) = task(token.clone()).await else { break };
                if token.is_cancelled() {
                    break;
                }
                if started.elapsed() > BACK_OFF.1 {
                    wait = BACK_OFF.0;
                }
                tracing::warn!(task = name, error = %error, wait_ms = wait.as_millis() as u64, "task failed, will restart");
                supervisor.set(&name, number, |s| {
                    s.state = State::BackingOff;
                    s.restarts += 1;
                    s.last_error = Some(error.to_string());
                });
                tokio::select! {
                    () = token.cancelled() => break,
                    () = tokio::time::sleep(jitter(wait)) => {}
                }
                wait = (wait * 2).min(BACK_OFF.1);
                supervisor.set(&name, number, |s| s.state = State::Running);
            }
            supervisor.set(&name, number, |s| s.state = State::Finished);
        });
        stop
    }

    /// All tasks by name.
    pub fn status(&self) -> BTreeMap<String, Status> {
        self.rows().iter().map(|(name, (_, status))| (name.clone(), status.clone())).collect()
    }

    /// Forgets a finished task.
    pub fn forget(&self, name: &str) {
        self.rows().remove(name);
    }

    /// Tells all tasks to stop and waits for them, at most `limit`. False if some were still running then.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }

    fn set(&self, name: &str, number: u64, change: impl FnOnce(&mut Status)) {
        if let Some((current, status)) = self.rows().get_mut(name)
            && *current == number
        {
            change(status);
        }
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, (u64, Status)>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `wait` ± 20 %, so that tasks that failed together do not return together.
fn jitter(wait: Duration) -> Duration {
    let mut byte = [0u8];
    let _len = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    wait.mul_f64(0.8 + 0.4 * f64::from(byte[0]) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_task_is_restarted_and_listed() {
        let supervisor = Supervisor::default();
        let runs = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&runs);
        supervisor.spawn("flaky", move |_stop| {
            let seen = Arc::clone(&seen);
            async move { if seen.fetch_add(1, Ordering::SeqCst) < 3 { Err("not yet") } else { Ok(()) } }
        });
        supervisor.tracker.close();
        supervisor.tracker.wait().await;
        let status = &supervisor.status()["flaky"];
        assert_eq!(runs.load(Ordering::SeqCst), 4);
        assert_eq!((status.state, status.restarts), (State::Finished, 3));
        assert_eq!(status.last_error.as_deref(), Some("not yet"));
    }

    #[tokio::test]
    async fn a_name_spawned_again_has_a_row_of_its_own() {
        let supervisor = Supervisor::default();
        let linger = Arc::new(tokio::sync::Notify::new());
        let held = Arc::clone(&linger);
        let first = supervisor.spawn("same", move |_stop| {
            let held = Arc::clone(&held);
            async move {
                held.notified().await;
                Ok::<(), String>(())
            }
        });
        first.cancel();
        supervisor.spawn("same", |stop| async move {
            stop.cancelled().await;
            Ok::<(), String>(())
        });
        linger.notify_one();
        while supervisor.tracker.len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(supervisor.status()["same"].state, State::Running);
    }

    #[tokio::test(start_paused = true)]
    async fn drain_stops_a_task_that_listens() {
        let supervisor = Supervisor::default();
        supervisor.spawn("waiting", |stop| async move {
            stop.cancelled().await;
            Ok::<(), String>(())
        });
        assert!(supervisor.drain(Duration::from_secs(1)).await);
    }
}
