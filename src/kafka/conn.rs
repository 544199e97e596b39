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
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::future::{MaybeDone, maybe_done};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Broker,
    api::{self, Connection},
    limits::{DOWN_PAYMENT_BYTES, Share, time_for},
};

/// Read at once from a socket on which something comes. On the stack, so idle connections share it.
const READ_BYTES: usize = 8 << 10;

/// Pieces handed to one vectored write.
const SLICES: usize = 32;

/// Produce requests of one connection that wait for the disk at a time, and their bytes: enough for a full commit and
/// the next one. More would only be memory.
const MOST_WAITING: usize = 64;
const MOST_WAITING_BYTES: usize = 512 << 10;

/// Key, version and correlation id: no request is shorter.
const SHORTEST_BYTES: usize = 8;

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
    let connection =
        Connection { broker: Arc::clone(&broker), peer, local, stop: stop.clone(), entered: AtomicUsize::new(0) };
    let mut incoming = Incoming { broker: &broker, stream: &stream, pending: BytesMut::new() };
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
        let (frame, share) = {
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
        let key = i16::from_be_bytes([frame[0], frame[1]]);
        if api::queues(key) {
            while waiting.requests.len() >= MOST_WAITING || waiting.bytes >= MOST_WAITING_BYTES {
                let answer = waiting.first().await?;
                respond(connection, stream, answer).await?;
            }
            // Boxed: the largest handler's state must not be part of every idle connection.
            waiting.begin(frame.len(), Box::pin(api::dispatch(connection, frame, share))).await;
            continue;
        }
        waiting.send_all(stream).await?;
        let answer = Box::pin(watched(stream, key, api::dispatch(connection, frame, share))).await?;
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
    /// Begins a request and waits until it has its place in the log, or its outcome.
    async fn begin(&mut self, bytes: usize, handling: Handling<'a>) {
        self.begun += 1;
        self.bytes += bytes;
        self.requests.push_back((bytes, maybe_done(handling)));
        let ((_, request), begun) = (self.requests.back_mut().expect("just put in"), self.begun);
        let entered = &self.connection.entered;
        poll_fn(|context| {
            // Polled in this task alone, so the count changes during this poll or not at all.
            let is_done = Pin::new(&mut *request).poll(context).is_ready();
            if is_done {
                entered.store(begun, Ordering::Relaxed);
            }
            if entered.load(Ordering::Relaxed) == begun { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
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

/// The reading half, with what came beyond the last frame.
struct Incoming<'a> {
    broker: &'a Broker,
    stream: &'a TcpStream,
    pending: BytesMut,
}

impl Incoming<'_> {
    /// The next frame without its length, and its share of the budget.
    async fn frame(&mut self) -> Result<(Bytes, Share), Close> {
        let stall = self.broker.limits.stall_timeout;
        if self.pending.is_empty() {
            self.more(self.broker.idle_timeout()).await?;
        }
        // Length and API key: enough to know which limit holds.
        while self.pending.len() < 6 {
            self.more(stall).await?;
        }
        let claimed =
            i64::from(i32::from_be_bytes([self.pending[0], self.pending[1], self.pending[2], self.pending[3]]));
        let key = i16::from_be_bytes([self.pending[4], self.pending[5]]);
        let most = self.broker.limits.frame_bytes(key);
        let size = usize::try_from(claimed).ok().filter(|size| (SHORTEST_BYTES..=most).contains(size));
        let Some(size) = size else { return Err(Close::FrameSize(claimed)) };

        self.pending.advance(4);
        let share = if size > DOWN_PAYMENT_BYTES {
            let front = self.broker.budget.take_front().await;
            let deadline = Instant::now() + time_for(size, stall);
            self.grow_to(DOWN_PAYMENT_BYTES, size, deadline).await?;
            let share = self.broker.budget.take(size).await;
            drop(front);
            share
        } else {
            self.broker.budget.take(size).await
        };
        // Waiting for the budget was not the peer's fault.
        let deadline = Instant::now() + time_for(size, stall);
        self.grow_to(size, size, deadline).await?;
        let frame = self.pending.split_to(size).freeze();
        if self.pending.is_empty() {
            self.pending = BytesMut::new();
        }
        self.broker.metrics.received_bytes.add(size as u64 + 4);
        Ok((frame, share))
    }

    /// Reads what there is, once something comes.
    async fn more(&mut self, patience: Duration) -> Result<(), Close> {
        let slow = if self.pending.is_empty() { Close::Idle } else { Close::Slow };
        loop {
            match timeout(patience, self.stream.readable()).await {
                Ok(ready) => ready.map_err(|_| Close::Gone)?,
                Err(_) => return Err(slow),
            }
            if let Some(count) = self.try_read()? {
                return if count == 0 { Err(Close::Gone) } else { Ok(()) };
            }
        }
    }

    fn try_read(&mut self) -> Result<Option<usize>, Close> {
        let mut bytes = [0; READ_BYTES];
        match self.stream.try_read(&mut bytes) {
            Ok(count) => {
                self.pending.extend_from_slice(&bytes[..count]);
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(Close::Gone),
        }
    }

    /// Reads until `want` bytes of a frame of `size` are there. The buffer at most doubles what has come.
    async fn grow_to(&mut self, want: usize, size: usize, deadline: Instant) -> Result<(), Close> {
        while self.pending.len() < want {
            let have = self.pending.len();
            if self.pending.capacity() == have {
                self.pending.reserve((size - have).min(have.max(READ_BYTES)));
            }
            match timeout_at(deadline, self.stream.readable()).await {
                Ok(ready) => ready.map_err(|_| Close::Gone)?,
                Err(_) => return Err(Close::Slow),
            }
            let room = (self.pending.capacity() - have).min(size - have);
            match self.stream.try_read_buf(&mut (&mut self.pending).limit(room)) {
                Ok(0) => return Err(Close::Gone),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Close::Gone),
            }
        }
        Ok(())
    }
}

/// Writes an answer; a client that does not take it in time is cut off.
async fn send(broker: &Broker, stream: &TcpStream, answer: Answer) -> Result<(), Close> {
    let mut segments = answer.segments;
    let bytes: usize = segments.iter().map(Bytes::len).sum();
    let deadline = Instant::now() + time_for(bytes, broker.limits.stall_timeout);
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
                match timeout_at(deadline, stream.writable()).await {
                    Ok(ready) => ready.map_err(|_| Close::Gone)?,
                    Err(_) => return Err(Close::Slow),
                }
            }
            Err(_) => return Err(Close::Gone),
        }
    }
    broker.metrics.sent_bytes.add(bytes as u64);
    drop(answer.share);
    Ok(())
}
