//! A broker in this process, and a client that speaks the protocol frame by frame.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use brooklet::{
    groups::Groups,
    kafka::{Config, Kafka, Listener, Parts, serve},
    log::{self, Log},
    memory::Budget,
    metrics::Registry,
    record::{Builder, Codec, Producer},
    supervise::Supervisor,
    txn::Txns,
    wire::{ApiKey, Decoder, Message, Request, decode_response_header, encode_request},
};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// No answer of a test takes longer unless something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A broker on a port of its own, gone with its directory when dropped.
pub(crate) struct Broker {
    pub(crate) kafka: Kafka,
    pub(crate) log: Log,
    pub(crate) metrics: Registry,
    pub(crate) supervisor: Supervisor,
    _dir: tempfile::TempDir,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With the configuration changed first.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::lingering(Duration::ZERO, change).await
    }

    /// With a log whose producers wait for company.
    pub(crate) async fn lingering(ack_linger: Duration, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: log::Clock = Arc::new(|| 1_700_000_000_000);
        let metrics = Registry::default();
        let config = log::Config {
            quota_bytes: Some(64 << 20),
            linger: Duration::from_millis(1),
            ack_linger,
            memory_limit_bytes: 32 << 20,
            clock: Arc::clone(&clock),
            ..log::Config::new(dir.path())
        };
        let log = Log::open(config, &metrics).unwrap();
        let supervisor = Supervisor::default();
        let mut config =
            Config { listeners: vec![Listener { host: "127.0.0.1".into(), port: 0 }], ..Config::default() };
        change(&mut config);
        let groups = Groups::new(log.clone(), config.groups(), Arc::clone(&clock), &metrics);
        let timers = groups.clone();
        supervisor.spawn("groups", move |stop| {
            let timers = timers.clone();
            async move { timers.run(stop).await }
        });
        let txns = Txns::open(log.clone(), config.transactions(), Arc::clone(&clock), &metrics).await.unwrap();
        let timers = txns.clone();
        supervisor.spawn("transactions", move |stop| {
            let timers = timers.clone();
            async move { timers.run(stop).await }
        });
        let parts = Parts {
            memory: Budget::new(config.limits.memory_bytes()),
            log: log.clone(),
            groups,
            txns,
            metrics: metrics.clone(),
            supervisor: supervisor.clone(),
            data_dir: dir.path().display().to_string(),
            clock,
        };
        let kafka = serve(&config, parts).await.unwrap();
        Self { kafka, log, metrics, supervisor, _dir: dir }
    }

    /// A second server on the same log.
    pub(crate) async fn serve_again(&self, config: &Config) -> Result<Kafka, brooklet::kafka::Error> {
        let clock: log::Clock = Arc::new(|| 0);
        let groups = Groups::new(self.log.clone(), config.groups(), Arc::clone(&clock), &self.metrics);
        let (log, metrics, supervisor) = (self.log.clone(), self.metrics.clone(), self.supervisor.clone());
        let txns = Txns::open(log.clone(), config.transactions(), Arc::clone(&clock), &metrics).await.unwrap();
        let memory = Budget::new(config.limits.memory_bytes());
        serve(config, Parts { log, groups, txns, memory, metrics, supervisor, data_dir: String::new(), clock }).await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.kafka.addresses()[0]
    }

    pub(crate) async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address()).await.unwrap(), correlation_id: 0 }
    }

    /// The value of a metric, 0 if it was never counted.
    pub(crate) fn metric(&self, name: &str) -> i64 {
        let text = self.metrics.render();
        text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0)
    }

    pub(crate) async fn topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Arc<log::Topic> {
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.log.change(log::Change::Create { name: name.into(), partitions, settings }, vec![]).await.unwrap()
    }
}

/// One connection, one request at a time unless a test does otherwise.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    correlation_id: i32,
}

impl Client {
    pub(crate) async fn send<R: Request>(&mut self, request: &R, version: i16) {
        self.correlation_id += 1;
        for segment in encode_request(request, version, self.correlation_id, Some("it")) {
            self.stream.write_all(&segment).await.unwrap();
        }
    }

    /// The next frame, or `None` when the broker has closed.
    pub(crate) async fn frame(&mut self) -> Option<Bytes> {
        let read = async {
            let size = self.stream.read_u32().await.ok()?;
            let mut frame = vec![0; size as usize];
            self.stream.read_exact(&mut frame).await.ok()?;
            Some(Bytes::from(frame))
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an answer or the end")
    }

    pub(crate) async fn receive<R: Request>(&mut self, version: i16) -> R::Response {
        self.receive_nth::<R>(version, self.correlation_id).await
    }

    /// The answer to the request with this number, counted from 1; it must be the next to come.
    pub(crate) async fn receive_nth<R: Request>(&mut self, version: i16, number: i32) -> R::Response {
        answer::<R>(self.frame().await.expect("an answer"), version, number)
    }

    pub(crate) async fn call<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        self.send(request, version).await;
        self.receive::<R>(version).await
    }

    /// Sends bytes as they are, with the length in front.
    pub(crate) async fn send_frame(&mut self, body: &[u8]) {
        self.stream.write_u32(u32::try_from(body.len()).unwrap()).await.unwrap();
        self.stream.write_all(body).await.unwrap();
    }
}

fn answer<R: Request>(frame: Bytes, version: i16, expected_id: i32) -> R::Response {
    let mut decoder = Decoder::new(frame);
    let key: ApiKey = R::API.key;
    assert_eq!(decode_response_header(&mut decoder, key, version).unwrap(), expected_id);
    let response = R::Response::decode(&mut decoder, version).unwrap();
    assert_eq!(decoder.remaining(), 0, "the response ends with its frame");
    response
}

/// A batch of values without keys.
pub(crate) fn batch(values: &[&str]) -> Bytes {
    batch_of(values.iter().map(|v| (None, *v)), Producer::NONE, Codec::None)
}

pub(crate) fn batch_of<'a>(
    records: impl IntoIterator<Item = (Option<&'a str>, &'a str)>,
    producer: Producer,
    codec: Codec,
) -> Bytes {
    let mut builder = Builder::new();
    builder.set_producer(producer);
    for (at, (key, value)) in records.into_iter().enumerate() {
        let timestamp_ms = 1000 + at as i64;
        builder.push(timestamp_ms, key.map(str::as_bytes), Some(value.as_bytes()), &[]).unwrap();
    }
    builder.finish(codec, codec.default_level())
}
