//! The Kafka server: listeners, connections, and one file per API.
//!
//! Translates between the protocol and the log, the groups and the settings; holds no records and no group state of its
//! own. Every answer goes out in the order of the requests of its connection. What a peer sends never decides how much
//! is allocated beyond what it sent, and never ends the process: the worst answer is a closed connection.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use base64::Engine as _;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod api;
mod config;
mod conn;
mod fetch_session;
mod incoming;
mod limits;
mod meters;
pub mod settings;

pub use config::{Advertised, Config, Listener, Value};

use self::{meters::Meters, settings::Settings};
use crate::{groups::Groups, log::Log, memory::Budget, metrics::Registry, supervise::Supervisor, txn::Txns};

/// Connections the kernel holds until they are accepted.
const BACKLOG: u32 = 128;
/// Pause after a failed accept: mostly the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Silence after which the kernel asks whether the peer is still there, and how often.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken.
    #[error(
        "port {port} of {host} is already in use: stop the program that holds it ('ss -ltnp sport = :{port}' names it), \
         or choose another with --listen HOST:PORT or 'listeners' in the configuration file"
    )]
    InUse {
        /// The host of the listener.
        host: String,
        /// Its port.
        port: u16,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listener}: {source}")]
    Bind {
        /// The listener as configured.
        listener: String,
        /// What the system says.
        source: io::Error,
    },
    /// A value of the configuration.
    #[error("{0}")]
    Config(String),
    /// The log failed while settings were read.
    #[error(transparent)]
    Log(#[from] crate::log::Error),
}

/// What every connection shares.
pub(crate) struct Broker {
    pub(crate) log: Log,
    pub(crate) groups: Groups,
    pub(crate) txns: Txns,
    pub(crate) settings: Settings,
    pub(crate) node_id: i32,
    /// Stable for the life of the data file, in Kafka's form: 16 bytes in base64.
    pub(crate) cluster_id: String,
    advertised: Advertised,
    limits: config::Limits,
    memory: Budget,
    /// The room for all fetch sessions.
    fetch_sessions: Arc<Semaphore>,
    metrics: Meters,
    data_dir: String,
    clock: crate::log::Clock,
}

impl Broker {
    /// Shows what of the memory budget is taken.
    fn show_memory(&self) {
        self.metrics.memory_bytes.set(i64::try_from(self.memory.taken_bytes()).unwrap_or(i64::MAX));
    }

    fn idle_timeout(&self) -> Duration {
        match u64::try_from(self.settings.broker_number("connections.max.idle.ms")) {
            Ok(idle_ms) => Duration::from_millis(idle_ms),
            Err(_) => Duration::from_secs(u64::from(u32::MAX)),
        }
    }
}

/// What the server needs of the rest of the daemon.
pub struct Parts {
    /// The log.
    pub log: Log,
    /// The consumer groups.
    pub groups: Groups,
    /// The memory for requests, answers and unpacking; [`Config`] says how much.
    pub memory: Budget,
    /// The transactions.
    pub txns: Txns,
    /// Where to count.
    pub metrics: Registry,
    /// Who runs the listeners, and stops them and their connections.
    pub supervisor: Supervisor,
    /// The data directory, for DescribeLogDirs.
    pub data_dir: String,
    /// Wall clock in milliseconds, for LogAppendTime.
    pub clock: crate::log::Clock,
}

/// The running server.
pub struct Kafka {
    addresses: Vec<SocketAddr>,
    broker: Arc<Broker>,
}

impl Kafka {
    /// Where it listens, in the order of the configuration; with the ports the system chose where it said 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The cluster id clients see.
    pub fn cluster_id(&self) -> &str {
        &self.broker.cluster_id
    }

    /// The value of a broker setting in force, by Kafka's name.
    pub fn setting(&self, name: &str) -> Option<String> {
        self.broker.settings.broker(name)
    }
}

/// Binds the listeners and serves on them under `supervisor`, until it is drained.
///
/// # Errors
/// [`Error::InUse`] or [`Error::Bind`] for the first listener that cannot be had, [`Error::Config`] for a setting that
/// does not parse, [`Error::Log`] if the log cannot be read.
pub async fn serve(config: &Config, parts: Parts) -> Result<Kafka, Error> {
    if let Some(problem) = config.problems().into_iter().next() {
        return Err(Error::Config(problem.to_string()));
    }
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        listeners.push(bind(listener).await?);
    }
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>();
    let addresses = addresses.map_err(|source| Error::Bind { listener: "a listener".into(), source })?;

    let settings = Settings::open(stated(config, &addresses, &parts.data_dir), &parts.log)?;
    for group in settings.groups() {
        parts.groups.set_own_rules(&group, settings.group_rules(&group));
    }
    let broker = Arc::new(Broker {
        node_id: i32::try_from(settings.broker_number("node.id")).unwrap_or(1),
        cluster_id: base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(parts.log.incarnation()),
        advertised: config.advertised.clone(),
        limits: config.limits.clone(),
        memory: parts.memory,
        fetch_sessions: Arc::new(Semaphore::new(fetch_session::ALL_BYTES)),
        metrics: Meters::new(&parts.metrics),
        data_dir: parts.data_dir,
        clock: parts.clock,
        log: parts.log,
        groups: parts.groups,
        txns: parts.txns,
        settings,
    });
    let places = Arc::new(Semaphore::new(config.limits.max_connections));
    for (listener, address) in listeners.into_iter().zip(&addresses) {
        let listener = Arc::new(listener);
        let (broker, places) = (Arc::clone(&broker), Arc::clone(&places));
        parts.supervisor.spawn(format!("kafka {address}"), move |stop| {
            accept(Arc::clone(&listener), Arc::clone(&broker), Arc::clone(&places), stop)
        });
    }
    Ok(Kafka { addresses, broker })
}

/// The configuration file's broker settings, and those that follow from the rest of the configuration.
fn stated(config: &Config, addresses: &[SocketAddr], data_dir: &str) -> BTreeMap<String, String> {
    let mut stated: BTreeMap<_, _> = config.broker.iter().map(|(k, v)| (k.clone(), v.to_string())).collect();
    // The documented file states the defaults; a tool that copies what was set on purpose must not copy those.
    stated.retain(|name, value| settings::broker_setting(name).is_none_or(|s| s.default != Some(value)));
    let listeners: Vec<_> = addresses.iter().map(|a| format!("PLAINTEXT://{a}")).collect();
    let advertised = match &config.advertised {
        Advertised::Auto => listeners.join(","),
        Advertised::Address { host, port } => format!("PLAINTEXT://{host}:{port}"),
    };
    let node_id = stated.get("node.id").cloned().unwrap_or_else(|| "1".into());
    for (name, value) in [
        ("broker.id", node_id),
        ("listeners", listeners.join(",")),
        ("advertised.listeners", advertised),
        ("log.dir", data_dir.to_owned()),
        ("log.dirs", data_dir.to_owned()),
        ("max.connections", config.limits.max_connections.to_string()),
        ("queued.max.request.bytes", config.limits.memory_bytes().to_string()),
        ("socket.request.max.bytes", config.limits.max_produce_bytes.as_u64().to_string()),
    ] {
        stated.insert(name.to_owned(), value);
    }
    stated
}

async fn bind(listener: &Listener) -> Result<TcpListener, Error> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { host: listener.host.clone(), port: listener.port },
        _ => Error::Bind { listener: listener.to_string(), source },
    };
    let host = if listener.host.is_empty() { "0.0.0.0" } else { &listener.host };
    let mut addresses = tokio::net::lookup_host((host, listener.port)).await.map_err(failed)?;
    let address =
        addresses.next().ok_or_else(|| failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")))?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
    // A restart must not wait for the connections of the process before it to time out.
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(address).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)
}

/// Accepts until stopped, then waits for the connections to end.
async fn accept(
    listener: Arc<TcpListener>,
    broker: Arc<Broker>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
) -> Result<(), io::Error> {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            broker.metrics.refused("connections");
            tracing::debug!(%peer, "too many connections: closed");
            continue;
        };
        prepare(&stream);
        let (broker, stop) = (Arc::clone(&broker), stop.clone());
        connections.spawn(async move {
            let _place = place;
            broker.metrics.connections_total.increment();
            broker.metrics.connections.add(1);
            conn::serve(Arc::clone(&broker), stream, peer, stop).await;
            broker.metrics.connections.add(-1);
        });
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Small answers leave at once, and a peer that vanished is noticed.
fn prepare(stream: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1);
    let socket = socket2::SockRef::from(stream);
    if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive)) {
        tracing::debug!(%error, "socket options");
    }
}

#[cfg(test)]
fn tests_log() -> (Log, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory for a test");
    let config = crate::log::Config {
        quota_bytes: Some(16 << 20),
        linger: Duration::ZERO,
        ack_linger: Duration::ZERO,
        memory_limit_bytes: 8 << 20,
        clock: Arc::new(|| 1_700_000_000_000),
        ..crate::log::Config::new(dir.path())
    };
    (Log::open(config, &Registry::default()).expect("a log for a test"), dir)
}
