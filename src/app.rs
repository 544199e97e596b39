//! The daemon: builds every part, starts them in order, and stops them.
//!
//! The only file that knows every part. It reads top to bottom as the start; the stop tells all tasks at once (each
//! position is committed with its outputs, so no order among them matters) and closes the log last.

mod reload;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use reload::Followers;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    admin,
    config::{Config, Problem},
    connect,
    groups::Groups,
    kafka,
    log::{self, Log},
    memory::{self, Budget},
    metrics::Registry,
    mirror::Mirrors,
    streams,
    supervise::Supervisor,
    systemd::Notifier,
    txn::Txns,
};

/// How long the tasks may take to stop; together with closing the log it stays below two seconds.
const DRAIN_LIMIT: Duration = Duration::from_millis(1500);
/// How often the status line is renewed and the log looked after, where no watchdog asks for more.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What the daemon says once it serves.
pub struct Ready {
    /// The node's name.
    pub name: String,
    /// Where the log lies.
    pub data_dir: PathBuf,
    /// Most bytes of live data.
    pub quota_bytes: u64,
    /// The durability in force.
    pub durability: String,
    /// Where Kafka clients connect.
    pub kafka: Vec<String>,
    /// The admin port.
    pub admin: String,
}

/// Runs the daemon until SIGINT, SIGTERM or the log's end. `announce` is called once it serves, `read_again` when a
/// SIGHUP asks for the configuration as it is by now.
///
/// # Errors
/// One line that says what is wrong and the mend: a port or directory in use, a file system that will not do. Also
/// when the log had to stop because the file system failed; a restart goes through recovery.
pub async fn run(
    config: Config,
    announce: impl FnOnce(&Ready),
    read_again: impl Fn() -> Result<Config, Vec<Problem>>,
) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let notifier = Notifier::from_env();
    let metrics = Registry::default();
    let supervisor = Supervisor::default();

    let log_config = config.log.to_config(config.node.data_dir.clone());
    let clock = Arc::clone(&log_config.clock);
    let log = Log::open(log_config, &metrics)?;
    // Before anything is written: from then on the log keeps what they want.
    let memory = Budget::new(config.kafka.limits.memory_bytes());
    let mirrors = Mirrors::new(&config.node.name, log.clone(), memory.clone(), supervisor.clone(), metrics.clone());
    for (name, link) in &config.mirror {
        mirrors.start(name, link.clone())?;
    }
    create_topics(&log, &config).await?;
    let groups = Groups::new(log.clone(), config.kafka.groups(), Arc::clone(&clock), &metrics);
    let run_groups = groups.clone();
    let _stop = supervisor.spawn("groups", move |stop| {
        let groups = run_groups.clone();
        async move { groups.run(stop).await }
    });
    let txns = Txns::open(log.clone(), config.kafka.transactions(), Arc::clone(&clock), &metrics).await?;
    let run_txns = txns.clone();
    let _stop = supervisor.spawn("transactions", move |stop| {
        let txns = run_txns.clone();
        async move { txns.run(stop).await }
    });
    let kafka = kafka::serve(
        &config.kafka,
        kafka::Parts {
            log: log.clone(),
            groups: groups.clone(),
            memory: memory.clone(),
            txns,
            metrics: metrics.clone(),
            supervisor: supervisor.clone(),
            data_dir: config.node.data_dir.display().to_string(),
            clock: Arc::clone(&clock),
        },
    )
    .await?;
    let admin_listener = admin::bind(&config.admin).await?;

    let worker = connect::Worker::new(
        log.clone(),
        supervisor.clone(),
        metrics.clone(),
        Arc::clone(&clock),
        topic_policy(&kafka),
        connect::Surroundings { node: config.node.name.as_str().into() },
    );
    for (name, connector) in &config.connectors {
        worker.put(name, connector.clone());
    }

    let host = streams::Host {
        log: log.clone(),
        memory,
        supervisor: supervisor.clone(),
        metrics: metrics.clone(),
        clock: Arc::clone(&clock),
        partitions: topic_policy(&kafka).partitions,
    };
    let streams = streams::Streams::start(&config.streams, host).map_err(|problems| {
        anyhow::anyhow!("{}", problems.iter().map(|p| &p.reason[..]).collect::<Vec<_>>().join("; "))
    })?;

    let running = streams.clone();
    groups.set_ours(move |group| running.is_running(group));

    let ready = Ready {
        name: config.node.name.clone(),
        data_dir: config.node.data_dir.clone(),
        quota_bytes: log.usage().quota_bytes,
        durability: format!("{:?}", config.log.durability).to_lowercase(),
        kafka: kafka.addresses().iter().map(ToString::to_string).collect(),
        admin: admin_listener.local_addr().context("the admin port's address")?.to_string(),
    };
    let parts = admin::Parts {
        node: admin::status::Node {
            name: ready.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            kafka: ready.kafka.clone(),
            data_dir: ready.data_dir.display().to_string(),
            uptime_ms: 0,
        },
        since: Instant::now(),
        durability: ready.durability.clone(),
        log: log.clone(),
        groups,
        worker,
        streams,
        mirrors,
        supervisor: supervisor.clone(),
        metrics,
    };
    let is_ready = Arc::new(AtomicBool::new(true));
    spawn_admin(&supervisor, &config.admin, admin_listener, parts.clone(), Arc::clone(&is_ready));
    let (worker, streams, mirrors) = (parts.worker.clone(), parts.streams.clone(), parts.mirrors.clone());
    let mut followers = Followers { config, log: log.clone(), worker, streams, mirrors };
    announce(&ready);
    notifier.ready();
    tracing::info!(kafka = ready.kafka.join(","), admin = ready.admin, "ready");

    let look_every = notifier.watchdog_interval().map_or(LOOK_EVERY, |w| w.min(LOOK_EVERY));
    let mut look = tokio::time::interval(look_every);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heartbeat = 0;
    let outcome = loop {
        tokio::select! {
            _signal = interrupt.recv() => break Ok(()),
            _signal = terminate.recv() => break Ok(()),
            _signal = hangup.recv() => {
                notifier.reloading();
                followers.follow(read_again()).await;
                notifier.ready();
            }
            _tick = look.tick() => {
                memory::give_back();
                let usage = log.usage();
                // The watchdog is fed only while the writer thread moves: a daemon that cannot write is not alive.
                if usage.heartbeat != heartbeat {
                    notifier.alive();
                }
                heartbeat = usage.heartbeat;
                if let Some(reason) = log.stopped() {
                    break Err(anyhow::anyhow!("{reason}; starting again goes through recovery"));
                }
                if notifier.is_watched() {
                    notifier.status(&parts.status().line());
                }
            }
        }
    };
    is_ready.store(false, Ordering::Relaxed);
    notifier.stopping();
    tracing::info!("stopping");
    if !supervisor.drain(DRAIN_LIMIT).await {
        tracing::warn!(limit_ms = DRAIN_LIMIT.as_millis() as u64, "some tasks did not stop in time");
    }
    log.close().await;
    outcome
}

/// Makes the topics of the configuration that are not there. One that is keeps the settings it was given since.
async fn create_topics(log: &Log, config: &Config) -> anyhow::Result<()> {
    for (name, topic) in &config.topics {
        let change =
            log::Change::Create { name: name.as_str().into(), partitions: topic.partitions, settings: topic.texts() };
        match log.change(change, Vec::new()).await {
            Ok(_) | Err(log::Error::TopicExists(_)) => {}
            Err(error) => return Err(error).with_context(|| format!("creating the topic {name}")),
        }
    }
    Ok(())
}

fn spawn_admin(
    supervisor: &Supervisor,
    admin: &admin::Config,
    listener: tokio::net::TcpListener,
    parts: admin::Parts,
    is_ready: Arc<AtomicBool>,
) {
    // The listener is used by the first start; after a failure the port is opened again.
    let (mut first, config) = (Some(listener), admin.clone());
    let _stop = supervisor.spawn("admin", move |stop| {
        let (first, config) = (first.take(), config.clone());
        let (parts, is_ready) = (parts.clone(), Arc::clone(&is_ready));
        async move {
            let listener = match first {
                Some(listener) => listener,
                None => admin::bind(&config).await.map_err(|e| e.to_string())?,
            };
            admin::serve(listener, parts, is_ready, stop).await.map_err(|e| e.to_string())
        }
    });
}

/// What a source's missing topic becomes, as the broker's settings say.
fn topic_policy(kafka: &kafka::Kafka) -> connect::TopicPolicy {
    let partitions = kafka.setting("num.partitions").and_then(|v| v.parse().ok()).unwrap_or(1);
    connect::TopicPolicy { creates: true, partitions }
}
