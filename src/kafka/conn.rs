//! One connection: frame in, answer out, in order.
//!
//! Never allocates by a length that a peer claims, and keeps no buffer while nothing is under way: an idle connection
//! is a socket and a small task. A request is answered before the next is looked at, as Kafka's clients rely on; a
//! parked Fetch therefore holds back what its client sends after it. Only Produce requests follow each other while the
//! ones before wait for the disk: they enter the log in their order and are answered in it, and a client that sends a
//! request per partition gets one flush for all of them (measured at 50 records/s, `ack_linger` 250 ms: 85 bytes
//! written per payload byte without this).

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use bytes::{Buf as _, Bytes};
use futures_util::future::{MaybeDone, maybe_done};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{
    Broker,
    api::{self, Connection},
    incoming::Incoming,
    limits::Patience,
};
use crate::memory::{SMALL_BYTES, Share};

/// Pieces handed to one vectored write.
const SLICES: usize = 32;

/// Produce requests of one connection that wait for the disk at a time, and their bytes: enough for a full commit and
/// the next one. More would only be memory.
const MOST_WAITING: usize = 64;
const MOST_WAITING_BYTES: usize = 512 << 10;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Close {
    /// The client closed it, or the network did.
    #[error("closed by the client")]
    Gone,
    /// It was silent for longer than `connections.max.idle.ms`.
    #[error("idle")]
    Idle,
    /// It stopped in the middle of a frame, or does not take its answers.
    #[error("too slow")]
    Slow,
    /// A frame's length is negative, too short for a header, or beyond the limit.
    #[error("frame of {0} bytes")]
    FrameSize(i64),
    /// No such API, or not in this version.
    #[error("API {key} version {version} is not supported")]
    Unsupported {
        /// The API's key.
        key: i16,
        /// The version asked.
        version: i16,
    },
    /// The body does not parse.
    #[error("{0}")]
    Malformed(#[from] crate::wire::Error),
    /// A Produce request without acknowledgement failed; closing is the one way to say so.
    #[error("an unacknowledged Produce failed")]
    Unacknowledged,
    /// The daemon stops.
    #[error("the broker stops")]
    Stopping,
}

impl Close {
    /// The metric's label; `None` for an end that is nobody's fault.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Gone | Self::Idle | Self::Stopping => None,
            Self::Slow => Some("slow"),
            Self::FrameSize(_) => Some("frame_size"),
            Self::Unsupported { .. } => Some("unsupported"),
            Self::Malformed(_) => Some("malformed"),
            Self::Unacknowledged => Some("unacknowledged"),
        }
    }
}

/// An answer on its way out.
pub(super) struct Answer {
    /// The frame in parts.
    pub(super) segments: Vec<Bytes>,
    /// What it holds of the budget until it is written.
    pub(super) share: Share,
}

/// Serves one client until it goes, misbehaves, or `stop` is cancelled.
pub(super) async fn serve(broker: Arc<Broker>, stream: TcpStream, peer: SocketAddr, stop: CancellationToken) {
    let Ok(local) = stream.local_addr() else { return };
    let connection = Connection {
        broker: Arc::clone(&broker),
        peer,
        local,
        stop: stop.clone(),
        entered: AtomicUsize::new(0),
        fetch_session: super::fetch_session::FetchSession::default(),
    };
    let mut incoming = Incoming::new(&broker, &stream, peer);
    let end = match answer_all(&connection, &mut incoming, &stop).await {
        Err(end) => end,
        Ok(never) => match never {},
    };
    match end.reason() {
        Some(reason) => {
            broker.metrics.refused(reason);
            tracing::info!(%peer, reason = %end, "connection closed");
        }
        None => tracing::debug!(%peer, reason = %end, "connection closed"),
    }
}

/// Reads and answers until something ends it.
async fn answer_all(
    connection: &Connection,
    incoming: &mut Incoming<'_>,
    stop: &CancellationToken,
) -> Result<Infallible, Close> {
    let stream = incoming.stream;
    let mut waiting = Waiting { connection, requests: VecDeque::new(), bytes: 0, begun: 0 };
    loop {
        let frame = {
            let mut frame = std::pin::pin!(incoming.frame());
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        waiting.send_all(stream).await?;
                        return Err(Close::Stopping);
                    }
                    answer = waiting.first(), if !waiting.requests.is_empty() => respond(connection, stream, answer?).await?,
                    frame = &mut frame => break match frame {
                        Ok(frame) => frame,
                        Err(end) => {
                            // What was sent before the end of the stream was sent in good faith.
                            waiting.send_all(stream).await?;
                            return Err(end);
                        }
                    },
                }
            }
        };
        let key = i16::from_be_bytes([frame.bytes[0], frame.bytes[1]]);
        if api::queues(key) {
            while waiting.requests.len() >= MOST_WAITING || waiting.bytes >= MOST_WAITING_BYTES {
                let answer = waiting.first().await?;
                respond(connection, stream, answer).await?;
            }
            // Boxed: the largest handler's state must not be part of every idle connection.
            waiting.begin(frame.bytes.len(), Box::pin(api::dispatch(connection, frame)));
            while let Some(outcome) = waiting.entered().await {
                respond(connection, stream, outcome?).await?;
            }
            continue;
        }
        waiting.send_all(stream).await?;
        let answer = Box::pin(watched(stream, key, api::dispatch(connection, frame))).await?;
        respond(connection, stream, answer).await?;
    }
}

async fn respond(connection: &Connection, stream: &TcpStream, answer: Option<Answer>) -> Result<(), Close> {
    let Some(answer) = answer else { return Ok(()) };
    let sent = send(&connection.broker, stream, answer).await;
    connection.broker.show_memory();
    sent
}

/// What a request comes to.
type Outcome = Result<Option<Answer>, Close>;
type Handling<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// Requests that wait for the disk, in their order.
struct Waiting<'a> {
    connection: &'a Connection,
    /// With the bytes of each.
    requests: VecDeque<(usize, MaybeDone<Handling<'a>>)>,
    bytes: usize,
    /// Begun since the connection was made; as many have entered the log, or ended without, before another begins.
    begun: usize,
}

impl<'a> Waiting<'a> {
    /// Begins a request; to be followed by [`Waiting::entered`] until that has no more to tell.
    fn begin(&mut self, bytes: usize, handling: Handling<'a>) {
        self.begun += 1;
        self.bytes += bytes;
        self.requests.push_back((bytes, maybe_done(handling)));
    }

    /// Waits until the last request has its place in the log, or its outcome. Gives the first one's outcome where that
    /// is sooner: it is to be answered then, since the last one may wait for memory that it holds.
    async fn entered(&mut self) -> Option<Outcome> {
        let Self { connection, requests, begun, .. } = self;
        let first = poll_fn(|context| {
            let Some((_, last)) = requests.back_mut() else { return Poll::Ready(None) };
            // Polled in this task alone, so the count changes during this poll or not at all.
            let is_done = Pin::new(last).poll(context).is_ready();
            if is_done {
                connection.entered.store(*begun, Ordering::Relaxed);
            }
            if connection.entered.load(Ordering::Relaxed) == *begun {
                return Poll::Ready(None);
            }
            match requests.front_mut().map(|(_, first)| Pin::new(first).poll(context)) {
                Some(Poll::Ready(())) => Poll::Ready(Some(())),
                _ => Poll::Pending,
            }
        });
        first.await?;
        Some(self.first().await)
    }

    /// The first one's outcome. May be called again if it was given up.
    async fn first(&mut self) -> Outcome {
        let (bytes, first) = self.requests.front_mut().expect("asked for where there is one");
        poll_fn(|context| Pin::new(&mut *first).poll(context)).await;
        let outcome = Pin::new(first).take_output().expect("polled to its end");
        self.bytes -= *bytes;
        self.requests.pop_front();
        outcome
    }

    async fn send_all(&mut self, stream: &TcpStream) -> Result<(), Close> {
        while !self.requests.is_empty() {
            let answer = self.first().await?;
            respond(self.connection, stream, answer).await?;
        }
        Ok(())
    }
}

/// Runs a request, and gives up waiting ones whose client hangs up: a parked Fetch or JoinGroup of a dead client.
async fn watched(
    stream: &TcpStream,
    key: i16,
    handling: impl Future<Output = Result<Option<Answer>, Close>>,
) -> Result<Option<Answer>, Close> {
    if !api::waits(key) {
        return handling.await;
    }
    let (mut handling, mut byte) = (std::pin::pin!(handling), [0]);
    tokio::select! {
        biased;
        answer = &mut handling => answer,
        // Readiness alone may be stale from reading this request; a peek looks at the socket itself.
        ahead = stream.peek(&mut byte) => match ahead {
            Ok(1..) => handling.await, // the next request is there already
            _ => Err(Close::Gone),
        },
    }
}

/// Writes an answer; a client that does not take it in time is cut off.
async fn send(broker: &Broker, stream: &TcpStream, answer: Answer) -> Result<(), Close> {
    let mut segments = answer.segments;
    let bytes: usize = segments.iter().map(Bytes::len).sum();
    let stall = broker.limits.stall_timeout;
    let patience = if bytes > SMALL_BYTES { Patience::holding(bytes, stall) } else { Patience::new(bytes, stall) };
    let mut first = 0;
    while first < segments.len() {
        let written = {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = slices.len().min(segments.len() - first);
            for (slice, segment) in slices.iter_mut().zip(&segments[first..]) {
                *slice = IoSlice::new(segment);
            }
            stream.try_write_vectored(&slices[..count])
        };
        match written {
            Ok(0) => return Err(Close::Gone),
            Ok(mut written) => {
                while first < segments.len() && written >= segments[first].len() {
                    written -= segments[first].len();
                    segments[first] = Bytes::new();
                    first += 1;
                }
                if written > 0 {
                    segments[first].advance(written);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let ready = patience.wait(&broker.memory, stream.writable()).await;
                ready.ok_or(Close::Slow)?.map_err(|_| Close::Gone)?;
            }
            Err(_) => return Err(Close::Gone),
        }
    }
    broker.metrics.sent_bytes.add(bytes as u64);
    drop(answer.share);
    Ok(())
}
