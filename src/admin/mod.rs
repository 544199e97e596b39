//! Admin over HTTP: health, metrics and status, on loopback unless the configuration says otherwise.
//!
//! The only place with URL paths. Reads the other parts' figures and never changes their state.

mod gather;
pub mod status;

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use futures_util::stream;
pub use gather::Parts;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::log;

/// A backup is sent in parts of this size.
const BACKUP_PART_BYTES: usize = 256 << 10;

/// `[admin]`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `HOST:PORT`.
    pub listen: String,
}

/// Why the admin port does not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken.
    #[error(
        "the admin port {listen} is already in use: stop the program that holds it ('ss -ltnp sport = :{}' names it), \
         or choose another with --admin HOST:PORT or '[admin] listen' in the configuration file",
        listen.rsplit(':').next().unwrap_or_default()
    )]
    InUse {
        /// The address as configured.
        listen: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on the admin address {listen}: {source}")]
    Bind {
        /// The address as configured.
        listen: String,
        /// What the system says.
        source: io::Error,
    },
}

/// Opens the port.
///
/// # Errors
/// One line that says the mend.
pub async fn bind(config: &Config) -> Result<TcpListener, Error> {
    let listen = config.listen.clone();
    TcpListener::bind(&listen).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { listen },
        _ => Error::Bind { listen, source },
    })
}

/// What the handlers share.
struct Shared {
    parts: Parts,
    is_ready: Arc<AtomicBool>,
}

/// Answers until `stop`; requests under way are finished. `is_ready` is what `/readyz` tells.
pub async fn serve(
    listener: TcpListener,
    parts: Parts,
    is_ready: Arc<AtomicBool>,
    stop: CancellationToken,
) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/backup", get(backup))
        .with_state(Arc::new(Shared { parts, is_ready }));
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// Alive: the log's writer moves. What systemd's watchdog is fed by, for those who watch over HTTP.
async fn healthz(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    let before = shared.parts.log.usage().heartbeat;
    for _ in 0..30 {
        if shared.parts.log.usage().heartbeat != before {
            return (StatusCode::OK, "ok\n");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (StatusCode::SERVICE_UNAVAILABLE, "the log's writer does not move\n")
}

/// Ready: started, not draining.
async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    match shared.is_ready.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n"),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    shared.parts.count();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.parts.metrics.render())
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<status::Status> {
    Json(shared.parts.status())
}

/// A copy of the log's file. For this machine only: it is everything that the log holds.
async fn backup(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    State(shared): State<Arc<Shared>>,
) -> Result<impl IntoResponse, (StatusCode, String)> {
    if !peer.ip().is_loopback() {
        return Err((StatusCode::FORBIDDEN, "a backup is given to this machine only\n".into()));
    }
    let failed = |e: &dyn std::fmt::Display| (StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n"));
    let file = shared.parts.log.backup().await.map_err(|e| match e {
        log::Error::Full => failed(&"no room for a copy on the disk of the data directory"),
        e => failed(&e),
    })?;
    let length = file.metadata().map_err(|e| failed(&e))?.len();
    let parts = stream::try_unfold(file, |mut file| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut part = vec![0; BACKUP_PART_BYTES];
            let count = file.read(&mut part)?;
            part.truncate(count);
            Ok::<_, io::Error>((Bytes::from(part), file))
        });
        let (part, file) = read.await.map_err(io::Error::other)??;
        Ok::<_, io::Error>((!part.is_empty()).then_some((part, file)))
    });
    let head =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    Ok((head, Body::from_stream(parts)))
}
