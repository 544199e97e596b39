//! One connection to one broker: signed in, versions negotiated, calls pipelined and answered in order.
//!
//! A writer task owns the sending half, a reader task the receiving one; both end when the last handle is dropped, when
//! the broker closes, or when an answer is late. The socket closes with a reset (SO_LINGER 0): what a killed process had
//! queued must not be delivered minutes later by its kernel.

use std::{
    collections::VecDeque,
    future::Future,
    io::IoSlice,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Endpoint, Error, Options,
    sasl::{Scram, plain},
    security::{Mechanism, Sasl, Security},
};
use crate::wire::{
    self, ApiKey, Decoder, ErrorCode, Message, Request,
    api_versions::{ApiVersionsRequest, ApiVersionsResponse},
    sasl_authenticate::SaslAuthenticateRequest,
    sasl_handshake::SaslHandshakeRequest,
};

/// Unacknowledged bytes, or a peer that vanished behind a NAT, end the connection after this.
const USER_TIMEOUT: Duration = Duration::from_secs(45);
/// An idle connection is probed this often; most NATs forget after five minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Requests waiting for the writer; callers beyond wait.
const QUEUE: usize = 64;
/// What is read at once; larger answers grow as their bytes arrive.
const READ_BYTES: usize = 16 << 10;

/// A handle to an open connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    endpoint: Endpoint,
    client_id: String,
    request_timeout: Duration,
    outgoing: mpsc::Sender<Outgoing>,
    correlation: AtomicI32,
    versions: Vec<(i16, i16, i16)>,
    first_answer: Instant,
    shared: Arc<Shared>,
}

/// What both tasks and the handle see.
#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    closed: CancellationToken,
    reason: Mutex<Option<String>>,
    waiting: Mutex<VecDeque<(i32, oneshot::Sender<Bytes>)>>,
    sent_bytes: AtomicU64,
}

#[derive(Debug)]
struct Outgoing {
    correlation: i32,
    segments: Vec<Bytes>,
    reply: oneshot::Sender<Bytes>,
}

/// The answer to a request that is on its way; await it with [`Answer::get`].
#[derive(Debug)]
pub struct Answer<M> {
    reply: oneshot::Receiver<Bytes>,
    shared: Arc<Shared>,
    key: ApiKey,
    version: i16,
    limit: Duration,
    decoded: std::marker::PhantomData<fn() -> M>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close("no longer used");
    }
}

impl Shared {
    fn close(&self, reason: &str) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| reason.to_owned());
        self.closed.cancel();
        // Their senders drop: everyone who waits learns it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn error(&self) -> Error {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Error::Closed { endpoint: self.endpoint.clone(), reason: reason.unwrap_or_else(|| "by the broker".into()) }
    }
}

impl Connection {
    /// Connects, shakes hands, asks for the versions and signs in.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Tls`], [`Error::SignIn`].
    pub async fn open(endpoint: &Endpoint, security: &Security, options: &Options) -> Result<Self, Error> {
        let failed = |reason: String| Error::Connect { endpoint: endpoint.clone(), reason };
        let open = async {
            let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port));
            let stream = stream.await.map_err(|e| failed(e.to_string()))?;
            prepare(&stream).map_err(|e| failed(e.to_string()))?;
            match &security.tls {
                None => Self::start(stream, endpoint, security, options).await,
                Some(tls) => {
                    let stream = tls.connect(&endpoint.host, stream).await?;
                    Self::start(stream, endpoint, security, options).await
                }
            }
        };
        tokio::time::timeout(options.connect_timeout, Box::pin(open))
            .await
            .unwrap_or_else(|_| Err(failed(format!("no answer within {:?}", options.connect_timeout))))
    }

    async fn start<S>(stream: S, endpoint: &Endpoint, security: &Security, options: &Options) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let shared = Arc::new(Shared {
            endpoint: endpoint.clone(),
            closed: CancellationToken::new(),
            reason: Mutex::default(),
            waiting: Mutex::default(),
            sent_bytes: AtomicU64::new(0),
        });
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let (reader, writer) = tokio::io::split(stream);
        tokio::spawn(until_closed(Arc::clone(&shared), write(writer, queue, Arc::clone(&shared))));
        tokio::spawn(until_closed(Arc::clone(&shared), read(reader, options.max_response_bytes, Arc::clone(&shared))));
        let mut handle = Handle {
            endpoint: endpoint.clone(),
            client_id: options.client_id.clone(),
            request_timeout: options.request_timeout,
            outgoing,
            correlation: AtomicI32::new(0),
            versions: Vec::new(),
            first_answer: Instant::now(),
            shared,
        };
        handle.versions = handle.ask_versions().await?;
        handle.first_answer = Instant::now();
        let connection = Self(Arc::new(handle));
        if let Some(sasl) = &security.sasl {
            connection.sign_in(sasl).await?;
        }
        Ok(connection)
    }

    /// The broker at the other end.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// True once no further call can succeed.
    pub fn is_closed(&self) -> bool {
        self.0.shared.closed.is_cancelled()
    }

    /// Waits until the connection is closed.
    pub async fn closed(&self) {
        self.0.shared.closed.cancelled().await;
    }

    /// Closes it; whoever waits for an answer gets an error.
    pub fn close(&self, reason: &str) {
        self.0.shared.close(reason);
    }

    /// When the broker answered for the first time on this connection.
    pub fn first_answer(&self) -> Instant {
        self.0.first_answer
    }

    /// Bytes of requests written so far.
    pub fn sent_bytes(&self) -> u64 {
        self.0.shared.sent_bytes.load(Ordering::Relaxed)
    }

    /// The version in which a request would be sent: the highest that both speak.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn version<R: Request>(&self) -> Result<i16, Error> {
        self.0.version::<R>()
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Timeout`] (which closes the connection), [`Error::Wire`], [`Error::Unsupported`].
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Response, Error> {
        self.send(request).await?.get().await
    }

    /// Queues a request; requests are sent in the order in which this returns.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn send<R: Request>(&self, request: &R) -> Result<Answer<R::Response>, Error> {
        let version = self.0.version::<R>()?;
        self.0.send(request, version).await
    }

    async fn sign_in(&self, sasl: &Sasl) -> Result<(), Error> {
        let handshake = SaslHandshakeRequest { mechanism: sasl.mechanism.name().to_owned() };
        if self.version::<SaslHandshakeRequest>()? < 1 {
            return Err(Error::Unsupported("SaslAuthenticate"));
        }
        let offered = self.call(&handshake).await?;
        if offered.error_code.is_error() {
            let all = offered.mechanisms.join(", ");
            let name = sasl.mechanism.name();
            return Err(Error::SignIn(format!("the broker does not offer {name}, only: {all}")));
        }
        if sasl.mechanism == Mechanism::Plain {
            return self.authenticate(plain(sasl)).await.map(drop);
        }
        let (mut scram, first) = Scram::start(sasl).map_err(Error::SignIn)?;
        let challenge = self.authenticate(first.into_bytes()).await?;
        // Thousands of hashes: not on a thread that serves sockets.
        let answering = sasl.clone();
        let answered = tokio::task::spawn_blocking(move || scram.answer(&answering, &challenge).map(|a| (scram, a)));
        let (scram, answer) = answered.await.map_err(|e| Error::SignIn(e.to_string()))?.map_err(Error::SignIn)?;
        let end = self.authenticate(answer.into_bytes()).await?;
        scram.finish(&end).map_err(Error::SignIn)
    }

    async fn authenticate(&self, token: Vec<u8>) -> Result<Bytes, Error> {
        let response = self.call(&SaslAuthenticateRequest { auth_bytes: token.into() }).await?;
        if response.error_code.is_error() {
            let why = response.error_message.unwrap_or_else(|| response.error_code.to_string());
            return Err(Error::SignIn(why));
        }
        Ok(response.auth_bytes)
    }
}

impl Handle {
    fn version<R: Request>(&self) -> Result<i16, Error> {
        let api = R::API;
        let theirs = self.versions.iter().find(|(key, _, _)| *key == api.key as i16);
        let (_, min, max) = theirs.ok_or(Error::Unsupported(api.key.name()))?;
        let version = api.max.min(*max);
        if version < api.min.max(*min) { Err(Error::Unsupported(api.key.name())) } else { Ok(version) }
    }

    async fn send<R: Request>(&self, request: &R, version: i16) -> Result<Answer<R::Response>, Error> {
        let correlation = self.correlation.fetch_add(1, Ordering::Relaxed);
        let segments = wire::encode_request(request, version, correlation, Some(&self.client_id));
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing { correlation, segments, reply };
        self.outgoing.send(outgoing).await.map_err(|_| self.shared.error())?;
        Ok(Answer {
            reply: answer,
            shared: Arc::clone(&self.shared),
            key: R::API.key,
            version,
            limit: self.request_timeout,
            decoded: std::marker::PhantomData,
        })
    }

    /// The versions the broker speaks. One that does not know our version of the question answers in version 0.
    async fn ask_versions(&self) -> Result<Vec<(i16, i16, i16)>, Error> {
        let request = ApiVersionsRequest {
            client_software_name: "brooklet".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        };
        for version in [3, 0] {
            let answer = self.send(&request, version).await?;
            let bytes = answer.bytes().await?;
            let mut response = decode::<ApiVersionsResponse>(bytes.clone(), ApiKey::ApiVersions, version);
            if response.is_err() {
                response = decode(bytes, ApiKey::ApiVersions, 0);
            }
            let response = response?;
            if response.error_code == ErrorCode::UNSUPPORTED_VERSION && response.api_keys.is_empty() {
                continue;
            }
            return Ok(response.api_keys.iter().map(|k| (k.api_key, k.min_version, k.max_version)).collect());
        }
        Err(Error::Unsupported("ApiVersions"))
    }
}

impl<M: Message> Answer<M> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn get(self) -> Result<M, Error> {
        let (key, version) = (self.key, self.version);
        let shared = Arc::clone(&self.shared);
        let bytes = self.bytes().await?;
        let decoded = decode(bytes, key, version);
        if decoded.is_err() {
            shared.close("an answer was malformed");
        }
        decoded
    }

    async fn bytes(self) -> Result<Bytes, Error> {
        match tokio::time::timeout(self.limit, self.reply).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(_dropped)) => Err(self.shared.error()),
            Err(_elapsed) => {
                self.shared.close("an answer was late");
                let endpoint = self.shared.endpoint.clone();
                Err(Error::Timeout { endpoint, api: self.key.name(), limit: self.limit })
            }
        }
    }
}

fn decode<M: Message>(bytes: Bytes, key: ApiKey, version: i16) -> Result<M, Error> {
    let mut d = Decoder::new(bytes);
    wire::decode_response_header(&mut d, key, version)
        .and_then(|_correlation| M::decode(&mut d, version))
        .map_err(|error| Error::Wire { api: key.name(), error })
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEP_ALIVE))?;
    let timeout_ms = u32::try_from(USER_TIMEOUT.as_millis()).expect("45 s");
    rustix::net::sockopt::set_tcp_user_timeout(stream, timeout_ms)?;
    Ok(())
}

/// Runs one half until it fails or the connection is closed elsewhere.
async fn until_closed(shared: Arc<Shared>, half: impl Future<Output = std::io::Result<()>>) {
    tokio::select! {
        () = shared.closed.cancelled() => {}
        ended = half => match ended {
            Ok(()) => shared.close("by the broker"),
            Err(error) => shared.close(&error.to_string()),
        },
    }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
) -> std::io::Result<()> {
    while let Some(Outgoing { correlation, segments, reply }) = queue.recv().await {
        shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back((correlation, reply));
        let bytes: usize = segments.iter().map(Bytes::len).sum();
        write_all(&mut writer, segments).await?;
        writer.flush().await?;
        shared.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    Ok(())
}

async fn write_all(writer: &mut (impl AsyncWrite + Unpin), segments: Vec<Bytes>) -> std::io::Result<()> {
    let mut segments = VecDeque::from(segments);
    while !segments.is_empty() {
        let slices: Vec<IoSlice<'_>> = segments.iter().take(64).map(|s| IoSlice::new(s)).collect();
        let mut written = writer.write_vectored(&slices).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = segments.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            segments.pop_front();
        }
    }
    Ok(())
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    max_response_bytes: usize,
    shared: Arc<Shared>,
) -> std::io::Result<()> {
    let malformed = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let mut buffer = BytesMut::new();
    loop {
        while buffer.len() < 4 {
            if !more(&mut reader, &mut buffer).await? {
                return Ok(());
            }
        }
        let length = usize::try_from(i32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]));
        let length = length.ok().filter(|n| (4..=max_response_bytes).contains(n));
        let length = length
            .ok_or_else(|| malformed(format!("an answer of impossible size, or above {max_response_bytes} bytes")))?;
        buffer.advance(4);
        while buffer.len() < length {
            if !more(&mut reader, &mut buffer).await? {
                return Ok(());
            }
        }
        let frame = buffer.split_to(length).freeze();
        let got = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        let next = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match next {
            // Nobody waits any longer: not an error.
            Some((expected, reply)) if expected == got => drop(reply.send(frame)),
            Some((expected, _)) => return Err(malformed(format!("answer {got} came instead of {expected}"))),
            None => return Err(malformed(format!("answer {got} to nothing"))),
        }
        if buffer.is_empty() {
            // Not kept: an answer of megabytes would hold its memory for as long as the connection lives.
            buffer = BytesMut::new();
        }
    }
}

/// Reads what is there; false at the end.
async fn more(reader: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> std::io::Result<bool> {
    buffer.reserve(READ_BYTES);
    Ok(reader.read_buf(buffer).await? > 0)
}
