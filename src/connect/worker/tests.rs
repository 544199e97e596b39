use std::{future::Future, pin::Pin, sync::atomic::AtomicU64, time::Duration};

use tokio::{sync::Notify, time::timeout};

use super::*;
use crate::{
    connect::{
        CLASSES, Settings, Source, SourceRecord,
        testing::{Maker, open_log, read_all},
    },
    log::Urgency,
};

/// What the test sees of its sources.
#[derive(Default)]
struct Seen {
    /// Runs that began, and those that have ended.
    began: AtomicU64,
    ended: AtomicU64,
    most_at_once: AtomicU64,
    /// How many of the first runs fail.
    failing: u64,
    changed: Notify,
    /// Where set, a run that was told to stop waits for it.
    lingers: Option<Arc<Notify>>,
}

struct Example(Arc<Seen>);

impl Source for Example {
    fn run<'a>(
        &'a mut self,
        intake: &'a Intake,
        stop: CancellationToken,
    ) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + 'a>> {
        Box::pin(async move {
            let seen = &self.0;
            let number = seen.began.fetch_add(1, Ordering::SeqCst);
            let at_once = number + 1 - seen.ended.load(Ordering::SeqCst);
            seen.most_at_once.fetch_max(at_once, Ordering::SeqCst);
            seen.changed.notify_waiters();
            let result = if number < seen.failing {
                Err(SourceError(format!("failure {number}")))
            } else {
                intake.commit(vec![SourceRecord::new("t", number.to_string())], vec![], Urgency::Waited).await?;
                stop.cancelled().await;
                if let Some(lingers) = &seen.lingers {
                    lingers.notified().await;
                }
                Ok(())
            };
            seen.ended.fetch_add(1, Ordering::SeqCst);
            seen.changed.notify_waiters();
            result
        })
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    log: Log,
    supervisor: Supervisor,
    metrics: Registry,
    worker: Worker,
    seen: Arc<Seen>,
}

impl Bench {
    fn new(seen: Seen) -> Self {
        let (dir, log) = open_log();
        let (supervisor, metrics) = (Supervisor::default(), Registry::default());
        let clock: Clock = Arc::new(|| 1_700_000_000_000);
        let surroundings = Surroundings { node: "edge".into() };
        let policy = TopicPolicy::default();
        let worker = Worker::new(log.clone(), supervisor.clone(), metrics.clone(), clock, policy, surroundings);
        Self { _dir: dir, log, supervisor, metrics, worker, seen: Arc::new(seen) }
    }

    fn config(&self, enabled: bool) -> Config {
        let seen = Arc::clone(&self.seen);
        let maker = Maker(Arc::new(move || Ok(Box::new(Example(Arc::clone(&seen))))));
        Config { class: &CLASSES[0], enabled, settings: Settings::Made(maker) }
    }

    fn state(&self) -> State {
        self.worker.status()[0].state
    }

    /// Waits until the runs have changed so far that `is` holds.
    async fn until(&self, is: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                if is(self) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(600), wait).await.expect("it comes to pass");
    }

    fn ended(&self) -> u64 {
        self.seen.ended.load(Ordering::SeqCst)
    }

    fn began(&self) -> u64 {
        self.seen.began.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_connector_runs_and_is_listed_with_what_it_brought() {
    let bench = Bench::new(Seen::default());
    bench.worker.put("a", bench.config(true));
    assert_eq!(bench.state(), State::Unassigned);
    bench.until(|b| b.worker.status()[0].commits == 1).await;
    let status = &bench.worker.status()[0];
    assert_eq!((&*status.name, status.class, status.state), ("a", "host-metrics", State::Running));
    assert_eq!((status.records, status.bytes, status.restarts), (1, 1, 0));
    assert_eq!((status.last_commit_ms, status.last_error.as_deref()), (Some(1_700_000_000_000), None));
    assert_eq!(read_all(&bench.log, "t", 0).await.len(), 1);
    assert!(bench.metrics.render().contains("brooklet_connect_records_total{connector=\"a\"} 1\n"));
    let row = serde_json::to_value(status).unwrap();
    assert_eq!(row["state"], "RUNNING");
    assert!(bench.supervisor.drain(Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn a_failing_connector_is_listed_and_started_again() {
    let bench = Bench::new(Seen { failing: 2, ..Seen::default() });
    bench.worker.put("a", bench.config(true));
    bench.until(|b| b.state() == State::Failed).await;
    assert_eq!(bench.worker.status()[0].last_error.as_deref(), Some("failure 0"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    bench.until(|b| b.worker.status()[0].commits == 1).await;
    let status = &bench.worker.status()[0];
    assert_eq!((status.state, status.restarts), (State::Running, 2));
    assert_eq!(status.last_error.as_deref(), Some("failure 1"), "the last failure stays to be seen");
}

#[tokio::test(start_paused = true)]
async fn restart_cuts_a_back_off_short() {
    let bench = Bench::new(Seen { failing: 1, ..Seen::default() });
    bench.worker.put("a", bench.config(true));
    bench.until(|b| b.state() == State::Failed).await;
    let before = tokio::time::Instant::now();
    bench.worker.restart("a").unwrap();
    bench.until(|b| b.worker.status()[0].commits == 1).await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    let status = &bench.worker.status()[0];
    assert_eq!((status.state, status.restarts, &status.last_error), (State::Running, 0, &None));
}

#[tokio::test]
async fn pause_ends_the_run_and_resume_begins_another() {
    let bench = Bench::new(Seen::default());
    bench.worker.put("a", bench.config(true));
    bench.until(|b| b.worker.status()[0].commits == 1).await;
    bench.worker.pause("a").unwrap();
    assert_eq!(bench.state(), State::Paused);
    bench.until(|b| b.ended() == 1).await;
    bench.worker.restart("a").unwrap();
    assert_eq!((bench.state(), bench.began()), (State::Paused, 1));
    bench.worker.resume("a").unwrap();
    bench.until(|b| b.state() == State::Running && b.worker.status()[0].commits == 2).await;
    bench.worker.resume("a").unwrap();
    bench.worker.stop("a").unwrap();
    assert_eq!(bench.state(), State::Stopped);
    bench.until(|b| b.ended() == 2).await;
    assert_eq!(bench.began(), 2, "resuming what runs changes nothing");
}

#[tokio::test]
async fn two_runs_of_one_connector_never_overlap() {
    let lingers = Arc::new(Notify::new());
    let bench = Bench::new(Seen { lingers: Some(Arc::clone(&lingers)), ..Seen::default() });
    bench.worker.put("a", bench.config(true));
    bench.until(|b| b.worker.status()[0].commits == 1).await;
    bench.worker.restart("a").unwrap();
    bench.worker.restart("a").unwrap();
    bench.worker.put("a", bench.config(true));
    assert_eq!(bench.state(), State::Unassigned);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((bench.began(), bench.state()), (1, State::Unassigned), "the last run has not let go");
    lingers.notify_one();
    bench.until(|b| b.worker.status()[0].commits == 2).await;
    assert_eq!(bench.state(), State::Running);
    assert_eq!(bench.seen.most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connector_that_is_not_enabled_stays_stopped_and_a_removed_one_goes() {
    let bench = Bench::new(Seen::default());
    bench.worker.put("a", bench.config(false));
    assert_eq!(bench.state(), State::Stopped);
    bench.worker.resume("a").unwrap();
    bench.until(|b| b.worker.status()[0].commits == 1).await;
    bench.worker.remove("a").unwrap();
    assert!(bench.worker.status().is_empty());
    assert!(!bench.metrics.render().contains("connector=\"a\""));
    bench.until(|b| b.ended() == 1).await;
    assert_eq!(bench.worker.pause("a"), Err(UnknownConnector("a".into())));
}
