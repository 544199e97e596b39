//! The MQTT source against a real Mosquitto: both versions, every QoS, TLS, and either side killed.
//!
//! Needs mosquitto, mosquitto_pub and openssl; `tests/mqtt/run` installs them and runs these.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::Write,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use brooklet::{
    connect::{Intake, Source, Surroundings, mqtt},
    log::{self, Log},
    record::{Partition, Unpacker, batch},
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// A Mosquitto in a directory of its own.
struct Mosquitto {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Mosquitto {
    /// Starts with these lines in its configuration, of which `PORT` and `DIR` are filled in.
    fn start(lines: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = dir.path().to_str().unwrap();
        let text = lines.replace("PORT", &port.to_string()).replace("DIR", path);
        std::fs::write(dir.path().join("conf"), text).unwrap();
        let mut broker = Self { dir, port, child: None };
        broker.spawn();
        broker
    }

    fn plain(more: &str) -> Self {
        Self::start(&format!("listener PORT 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n{more}\n"))
    }

    /// One that keeps its sessions through a kill, as well as it can.
    fn persistent() -> Self {
        Self::plain(
            "user root\npersistence true\npersistence_location DIR/\nautosave_on_changes true\nautosave_interval 1",
        )
    }

    fn spawn(&mut self) {
        let child = Command::new("mosquitto")
            .args(["-c", self.dir.path().join("conf").to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.dir.path().join("log")).unwrap())
            .spawn();
        self.child = Some(child.expect("mosquitto is missing: apt-get install mosquitto mosquitto-clients"));
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(since.elapsed() < PATIENCE, "mosquitto does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL.
    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn publisher(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).args(arguments).stdin(Stdio::null());
        command
    }

    /// Publishes one message and waits until the broker has it.
    fn publish(&self, arguments: &[&str]) {
        let status = self.publisher(arguments).status();
        assert!(status.expect("mosquitto_pub is missing: apt-get install mosquitto-clients").success());
    }

    /// Publishes each line and waits until the broker has them.
    fn publish_lines(&self, arguments: &[&str], lines: impl Iterator<Item = String>) {
        let mut child = self.publisher(arguments).arg("-l").stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for line in lines {
            writeln!(stdin, "{line}").unwrap();
        }
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// A log with a source on it that can be killed and started again.
struct Edge {
    _dir: tempfile::TempDir,
    log: Log,
    config: String,
    running: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

impl Edge {
    fn new(config: String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = log::Config {
            quota_bytes: Some(256 << 20),
            linger: Duration::from_millis(250),
            ack_linger: Duration::from_millis(5),
            memory_limit_bytes: 32 << 20,
            clock: Arc::new(|| 1_700_000_000_000),
            ..log::Config::new(dir.path())
        };
        let log = Log::open(settings, &brooklet::metrics::Registry::default()).unwrap();
        Self { _dir: dir, log, config, running: None }
    }

    fn started(config: String) -> Self {
        let mut edge = Self::new(config);
        edge.start();
        edge
    }

    fn start(&mut self) {
        let config = mqtt::Config::parse(toml::from_str(&self.config).unwrap()).unwrap();
        let mut source = mqtt::MqttSource::new(config, &Surroundings { node: "edge".into() });
        let intake = Intake::new("sensors", self.log.clone());
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(async move { source.run(&intake, token).await.unwrap() });
        self.running = Some((stop, task));
    }

    /// Stops at any await, as a kill would; what the log was given may still become durable.
    async fn kill(&mut self) {
        let (_, task) = self.running.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        // A killed process has no commit under way when it starts again.
        Intake::new("other", self.log.clone())
            .commit(Vec::new(), vec![("x".into(), Some("x".into()))], log::Urgency::Waited)
            .await
            .unwrap();
    }

    async fn stop(&mut self) {
        let (stop, task) = self.running.take().unwrap();
        stop.cancel();
        task.await.unwrap();
    }

    async fn read(&self, topic: &str) -> Vec<Read> {
        let mut read = Vec::new();
        let mut from = 0;
        loop {
            let Ok(slice) = self.log.read(&Partition::new(topic, 0), from, 1 << 20).await else { return read };
            if slice.batches.is_empty() {
                return read;
            }
            for item in batch::batches(&slice.batches) {
                let (header, bytes) = item.unwrap();
                let mut unpacker = Unpacker::new(64 << 20);
                for record in unpacker.records(bytes).unwrap() {
                    let record = record.unwrap();
                    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                    read.push(Read {
                        key: record.key.map(text),
                        value: record.value.map(text),
                        headers: record
                            .headers()
                            .map(|h| (text(h.key), h.value.map(text).unwrap_or_default()))
                            .collect(),
                    });
                }
                from = header.last_offset() + 1;
            }
        }
    }

    /// Waits until the topic has so many records.
    async fn wait(&self, topic: &str, count: i64) -> Vec<Read> {
        let since = Instant::now();
        loop {
            assert!(since.elapsed() < PATIENCE, "{} of {count} in {topic}", self.read(topic).await.len());
            // The topic is made by the first record.
            let Ok(mut bounds) = self.log.watch(&Partition::new(topic, 0)) else {
                let mut topics = self.log.topics();
                let _changed = tokio::time::timeout(Duration::from_millis(100), topics.changed()).await;
                continue;
            };
            if bounds.borrow().high_watermark >= count {
                return self.read(topic).await;
            }
            let _changed = tokio::time::timeout(Duration::from_secs(1), bounds.changed()).await;
        }
    }
}

#[derive(Clone, Debug)]
struct Read {
    key: Option<String>,
    value: Option<String>,
    headers: BTreeMap<String, String>,
}

fn counts(read: &[Read]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in read {
        *counts.entry(record.value.clone().unwrap_or_default()).or_default() += 1;
    }
    counts
}

/// Subscribes to everything below `s` and waits until a message comes through.
async fn sync(broker: &Mosquitto, edge: &Edge, topic: &str) {
    let since = Instant::now();
    let mut n = 0;
    while edge.read(topic).await.is_empty() {
        assert!(since.elapsed() < PATIENCE, "nothing comes through");
        broker.publish(&["-t", "s/sync", "-q", "1", "-m", "sync"]);
        n += 1;
        tokio::time::sleep(Duration::from_millis(20 * n)).await;
    }
}

fn config(broker: &Mosquitto, more: &str) -> String {
    format!(
        "url = 'mqtt://127.0.0.1:{}'\n{more}\nmap = [ {{ filter = 's/sync', topic = 'sync' }}, \
         {{ filter = 's/#', topic = 't', key = '{{{{ levels[1] }}}}' }} ]",
        broker.port
    )
}

macro_rules! needs_mosquitto {
    ($($(#[$meta:meta])* async fn $name:ident() $body:block)*) => {
        $($(#[$meta])*
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "needs mosquitto: tests/mqtt/run"]
        async fn $name() $body)*
    };
}

needs_mosquitto! {
    async fn every_qos_in_both_versions() {
        let broker = Mosquitto::plain("");
        for protocol in ["3.1.1", "5"] {
            for qos in 0..=2 {
                let mut edge = Edge::started(config(&broker, &format!("protocol = '{protocol}'\nqos = {qos}\nclient_id = '{protocol}-{qos}'")));
                sync(&broker, &edge, "sync").await;
                let qos = qos.to_string();
                broker.publish_lines(&["-t", "s/7/x", "-q", &qos], (0..500).map(|i| i.to_string()));
                let read = edge.wait("t", 500).await;
                // One publisher, one topic: in order, each once (nothing was cut).
                let values: Vec<_> = read.iter().map(|r| r.value.clone().unwrap()).collect();
                assert_eq!(values, (0..500).map(|i| i.to_string()).collect::<Vec<_>>(), "{protocol} {qos}");
                assert!(read.iter().all(|r| r.key.as_deref() == Some("7") && r.headers["mqtt.qos"] == qos));
                assert_eq!(read[0].headers["mqtt.topic"], "s/7/x");
                edge.stop().await;
            }
        }
    }

    async fn tls_with_a_client_certificate_and_a_password() {
        let certificates = tempfile::tempdir().unwrap();
        let at = |name: &str| certificates.path().join(name).to_str().unwrap().to_owned();
        make_certificates(certificates.path());
        let users = at("users");
        assert!(Command::new("mosquitto_passwd").args(["-b", "-c", &users, "edge", "sesame"]).status().unwrap().success());
        std::fs::write(at("password"), "sesame\n").unwrap();
        let broker = Mosquitto::start(&format!(
            "user root\nlistener PORT 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
             allow_anonymous false\npassword_file {users}\n",
            at("ca.crt"), at("server.crt"), at("server.key"),
        ));
        let good = format!(
            "url = 'mqtts://localhost:{}'\nusername = 'edge'\npassword_file = '{}'\nca_file = '{}'\n\
             certificate_file = '{}'\nkey_file = '{}'\nmap = [ {{ filter = 's/#', topic = 't' }} ]",
            broker.port, at("password"), at("ca.crt"), at("client.crt"), at("client.key"),
        );
        let publish = |payload: &str| broker.publish(&[
            "--cafile", &at("ca.crt"), "--cert", &at("client.crt"), "--key", &at("client.key"), "-u", "edge", "-P", "sesame",
            "-h", "localhost", "-t", "s/1", "-q", "1", "-r", "-m", payload,
        ]);
        publish("through TLS");
        for version in ["", "protocol = '3.1.1'\n"] {
            let mut edge = Edge::started(format!("{version}{good}"));
            let read = edge.wait("t", 1).await;
            assert_eq!(read[0].value.as_deref(), Some("through TLS"));
            edge.stop().await;
        }
        // Each of these keeps us out.
        std::fs::write(at("wrong"), "guess").unwrap();
        let client = format!("certificate_file = '{}'\nkey_file = '{}'\n", at("client.crt"), at("client.key"));
        for bad in [
            good.replace(&at("password"), &at("wrong")),
            good.replace(&client, ""),
            good.replace(&at("ca.crt"), &at("other.crt")),
            good.replace("localhost", "127.0.0.2"),
        ] {
            assert_ne!(bad, good);
            let mut edge = Edge::started(bad);
            tokio::time::sleep(Duration::from_millis(400)).await;
            assert!(edge.read("t").await.is_empty());
            edge.stop().await;
        }
    }

    async fn retained_and_empty_payloads() {
        let broker = Mosquitto::plain("");
        broker.publish(&["-t", "s/kept", "-q", "1", "-r", "-m", "old"]);
        let mut edge = Edge::started(config(&broker, ""));
        assert_eq!(edge.wait("t", 1).await[0].headers["mqtt.retained"], "true");
        broker.publish(&["-t", "s/kept", "-q", "1", "-r", "-m", "new"]);
        broker.publish(&["-t", "s/kept", "-q", "1", "-r", "-n"]);
        let read = edge.wait("t", 3).await;
        assert_eq!(read[1].value.as_deref(), Some("new"));
        assert!(!read[1].headers.contains_key("mqtt.retained"), "it came as it was published");
        assert_eq!(read[2].value.as_deref(), Some(""), "the payload untouched");
        // A session that goes on does not get the retained ones again.
        broker.publish(&["-t", "s/kept", "-q", "1", "-r", "-m", "last"]);
        edge.wait("t", 4).await;
        edge.stop().await;
        edge.start();
        broker.publish(&["-t", "s/other", "-q", "1", "-m", "end"]);
        let read = edge.wait("t", 5).await;
        assert_eq!(read.last().unwrap().value.as_deref(), Some("end"));
        edge.stop().await;
        edge.config = config(&broker, "empty_payload = 'tombstone'");
        edge.start();
        broker.publish(&["-t", "s/kept", "-q", "1", "-n"]);
        assert_eq!(edge.wait("t", 6).await[5].value, None);
    }

    async fn user_properties_become_headers() {
        let broker = Mosquitto::plain("");
        let edge = Edge::started(config(&broker, ""));
        sync(&broker, &edge, "sync").await;
        broker.publish(&[
            "-V", "5", "-t", "s/1", "-q", "2", "-m", "x", "-D", "publish", "user-property", "unit", "°C",
            "-D", "publish", "content-type", "text/plain",
        ]);
        let read = edge.wait("t", 1).await;
        assert_eq!((read[0].headers["unit"].as_str(), read[0].headers["mqtt.content_type"].as_str()), ("°C", "text/plain"));
        // The subscription asked for 1.
        assert_eq!(read[0].headers["mqtt.qos"], "1");
    }

    async fn two_brokers_at_once_and_one_after_the_other() {
        let (mut a, b) = (Mosquitto::plain(""), Mosquitto::plain(""));
        let map = "map = [ { filter = 's/sync', topic = 'sync' }, { filter = 's/#', topic = 't' } ]";
        let urls = format!("urls = ['mqtt://127.0.0.1:{}', 'mqtt://127.0.0.1:{}']\n{map}", a.port, b.port);
        let mut edge = Edge::started(format!("qos = 2\n{urls}"));
        sync(&a, &edge, "sync").await;
        a.publish_lines(&["-t", "s/a", "-q", "2"], (0..50).map(|i| format!("a{i}")));
        // The same identifiers at both, for different messages.
        let since = Instant::now();
        while !edge.read("t").await.iter().any(|r| r.value.as_deref() == Some("b-sync")) {
            assert!(since.elapsed() < PATIENCE);
            b.publish(&["-t", "s/b", "-q", "2", "-m", "b-sync"]);
        }
        b.publish_lines(&["-t", "s/b", "-q", "2"], (0..50).map(|i| format!("b{i}")));
        edge.wait("t", 101).await;
        let counts = counts(&edge.read("t").await);
        assert!((0..50).all(|i| counts[&format!("a{i}")] == 1 && counts[&format!("b{i}")] == 1), "{counts:?}");
        edge.stop().await;

        let mut edge = Edge::started(format!("failover = true\n{urls}"));
        sync(&a, &edge, "sync").await;
        a.kill();
        let since = Instant::now();
        while edge.read("t").await.is_empty() {
            assert!(since.elapsed() < PATIENCE, "it does not turn to the second");
            b.publish(&["-t", "s/b", "-q", "1", "-m", "from b"]);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        edge.stop().await;
    }

    /// Subscriptions that overlap bring one copy each at some brokers; each message is recorded once.
    async fn overlapping_filters_record_a_message_once() {
        let broker = Mosquitto::plain("");
        for protocol in ["3.1.1", "5"] {
            let edge = Edge::started(format!(
                "url = 'mqtt://127.0.0.1:{}'\nprotocol = '{protocol}'\nclient_id = 'c{protocol}'\nqos = 2\n\
                 map = [ {{ filter = 's/sync', topic = 'sync' }}, {{ filter = 's/+/t', topic = 'a' }}, \
                         {{ filter = 's/1/+', topic = 'b' }}, {{ filter = 's/1/#', topic = 'c' }}, {{ filter = 's/1/t', topic = 'd' }} ]",
                broker.port
            ));
            sync(&broker, &edge, "sync").await;
            broker.publish_lines(&["-t", "s/1/t", "-q", "2"], (0..20).map(|i| i.to_string()));
            broker.publish_lines(&["-t", "s/1/u", "-q", "2"], (0..20).map(|i| i.to_string()));
            broker.publish_lines(&["-t", "s/1/u/v", "-q", "2"], (0..20).map(|i| i.to_string()));
            edge.wait("c", 20).await;
            for (topic, count) in [("a", 20), ("b", 20), ("c", 20), ("d", 0)] {
                assert_eq!(edge.read(topic).await.len(), count, "{topic} {protocol}");
            }
        }
    }

    /// A packet over the limit does not stop those behind it.
    async fn a_packet_over_the_limit_is_a_dead_letter() {
        let broker = Mosquitto::plain("");
        let large = broker.dir.path().join("large");
        std::fs::write(&large, vec![b'x'; 300_000]).unwrap();
        let edge = Edge::started(config(&broker, "protocol = '3.1.1'\nmax_packet_bytes = '64KiB'"));
        sync(&broker, &edge, "sync").await;
        for qos in ["0", "1", "2"] {
            broker.publish(&["-t", "s/1", "-q", qos, "-f", large.to_str().unwrap()]);
        }
        broker.publish(&["-t", "s/1", "-q", "1", "-m", "behind"]);
        assert_eq!(edge.wait("t", 1).await[0].value.as_deref(), Some("behind"));
        let dead = edge.wait("sensors.dlq", 3).await;
        assert!(dead.iter().all(|r| r.headers["mqtt.error"].contains("max_packet_bytes") && r.value.is_none()));
        // MQTT 5 brokers are told the limit and do not send it.
        let edge = Edge::started(config(&broker, "client_id = 'new'\nmax_packet_bytes = '64KiB'"));
        sync(&broker, &edge, "sync").await;
        broker.publish(&["-t", "s/1", "-q", "2", "-f", large.to_str().unwrap()]);
        broker.publish(&["-t", "s/1", "-q", "1", "-m", "behind"]);
        assert_eq!(edge.wait("t", 1).await[0].value.as_deref(), Some("behind"));
    }

    /// Lingering must not throttle a broker that sends little ahead of the acknowledgements.
    async fn a_small_window_does_not_throttle() {
        for window in [1usize, 20] {
            let broker = Mosquitto::plain(&format!("max_inflight_messages {window}"));
            // Mosquitto applies its window to publishers too and loses QoS 2 messages with a window of 1.
            for (protocol, qos) in [("3.1.1", "1"), ("5", "1"), ("3.1.1", "2")].into_iter().take(window + 1) {
                let mut edge = Edge::started(config(&broker, &format!(
                    "protocol = '{protocol}'\nqos = {qos}\nclient_id = '{protocol}-{qos}'\nreceive_maximum = {window}"
                )));
                sync(&broker, &edge, "sync").await;
                let since = Instant::now();
                broker.publish_lines(&["-t", "s/7/x", "-q", qos], (0..200).map(|i| i.to_string()));
                edge.wait("t", 200).await;
                // At 250 ms for each commit the first would take 50 s.
                assert!(since.elapsed() < Duration::from_secs(12), "{window} {protocol} {qos}: {:?}", since.elapsed());
                edge.stop().await;
            }
        }
    }

    /// Limit: 2 s of CPU for 100,000 messages of QoS 1, log included.
    async fn a_hundred_thousand_messages_cost_little() {
        let broker = Mosquitto::plain("set_tcp_nodelay true");
        let mut edge = Edge::started(config(&broker, ""));
        sync(&broker, &edge, "sync").await;
        let (payload, since, before) = ("x".repeat(190), Instant::now(), cpu_seconds());
        // mosquitto_pub loses count beyond 65,535.
        let publishers: Vec<_> = (0..2)
            .map(|_| {
                let (mut command, payload) = (broker.publisher(&["-t", "s/7/x", "-q", "1", "-l"]), payload.clone());
                std::thread::spawn(move || {
                    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
                    let mut stdin = std::io::BufWriter::new(child.stdin.take().unwrap());
                    (0..50_000).for_each(|i| writeln!(stdin, "{i:09} {payload}").unwrap());
                    drop(stdin);
                    assert!(child.wait().unwrap().success());
                })
            })
            .collect();
        let mut bounds = loop {
            match edge.log.watch(&Partition::new("t", 0)) {
                Ok(bounds) => break bounds,
                Err(_) => edge.log.topics().changed().await.unwrap(),
            }
        };
        bounds.wait_for(|b| b.high_watermark >= 100_000).await.unwrap();
        let cost = cpu_seconds() - before;
        println!("100,000 QoS 1 messages of 200 B: {cost:.2} s of CPU (publishing included), {:.1} s", since.elapsed().as_secs_f64());
        publishers.into_iter().for_each(|p| p.join().unwrap());
        edge.stop().await;
        assert!(cfg!(debug_assertions) || cost <= 2.0, "{cost}");
    }

    async fn published_while_we_are_away_and_killed_again_and_again() {
        let broker = Mosquitto::persistent();
        for (protocol, qos) in [("5", 2), ("3.1.1", 2), ("5", 1), ("3.1.1", 1)] {
            let mut edge = Edge::started(config(&broker, &format!(
                "protocol = '{protocol}'\nqos = {qos}\nclient_id = '{protocol}-{qos}'\nreceive_maximum = 10"
            )));
            sync(&broker, &edge, "sync").await;
            let text = qos.to_string();
            // Each kill makes the broker send all it has again, so QoS 1 takes its time.
            let total = if qos == 2 { 1000 } else { 300 };
            let publisher = std::thread::spawn({
                let mut command = broker.publisher(&["-t", "s/7", "-q", &text, "-l"]);
                move || {
                    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
                    let mut stdin = child.stdin.take().unwrap();
                    for i in 0..total {
                        writeln!(stdin, "{i}").unwrap();
                        if i % 20 == 19 {
                            std::thread::sleep(Duration::from_millis(10));
                        }
                    }
                    drop(stdin);
                    assert!(child.wait().unwrap().success());
                }
            });
            let mut random = 12345u64;
            let mut kills = 0;
            while !publisher.is_finished() {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                tokio::time::sleep(Duration::from_millis(random >> 33 & 0x3f)).await;
                edge.kill().await;
                kills += 1;
                tokio::time::sleep(Duration::from_millis(random >> 40 & 0x1f)).await;
                edge.start();
            }
            publisher.join().unwrap();
            // A kill leaves the old connection to the broker, which takes it over.
            edge.wait("t", total).await;
            broker.publish(&["-t", "s/sync", "-q", &text, "-m", "end"]);
            let since = Instant::now();
            while !edge.read("sync").await.iter().any(|r| r.value.as_deref() == Some("end")) {
                assert!(since.elapsed() < PATIENCE);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let counts = counts(&edge.read("t").await);
            assert_eq!(counts.len(), usize::try_from(total).unwrap(), "{protocol} {qos}: every message arrived");
            if qos == 2 {
                let twice: Vec<_> = counts.iter().filter(|(_, n)| **n != 1).collect();
                assert!(twice.is_empty(), "{protocol}: {twice:?}");
            }
            assert!(kills > 5, "{kills}");
            println!("{protocol} QoS {qos}: {kills} kills, {} records of {total} messages", counts.values().sum::<usize>());
            edge.stop().await;
        }
    }
}

/// CPU time of this process in seconds.
fn cpu_seconds() -> f64 {
    let times = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    times.tv_sec as f64 + times.tv_nsec as f64 / 1e9
}

/// A CA, a server, a client and a CA nobody trusts.
fn make_certificates(dir: &Path) {
    let script = r#"
set -e
cd "$1"
ec() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key" 2>/dev/null; }
for ca in ca other; do
  ec $ca
  openssl req -x509 -new -key $ca.key -days 30 -subj "/CN=test $ca" -out $ca.crt
done
for who in server client; do
  ec $who
  openssl req -new -key $who.key -subj "/CN=$who" -out $who.csr
  printf 'subjectAltName=DNS:localhost,DNS:%s' $who >ext
  openssl x509 -req -in $who.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out $who.crt 2>/dev/null
done
"#;
    let status = Command::new("sh").args(["-c", script, "sh", dir.to_str().unwrap()]).status().unwrap();
    assert!(status.success(), "openssl is missing: apt-get install openssl");
}
