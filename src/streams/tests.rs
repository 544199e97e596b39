use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::{
    groups::offsets,
    log::{Append, Change, Urgency, Write},
    record::{Builder, Codec, Outcome, Producer, RecordView, Unpacker, batch, marker::marker},
};

const CPU: &str = include_str!("../../tests/samples/wire-cpu-8.17.1.ndjson");
const MEMORY: &str = include_str!("../../tests/samples/wire-memory-8.17.1.ndjson");
const MIXED: &str = include_str!("../../tests/samples/wire-9.2.3.ndjson");
const PROCESS: &str = include_str!("../../tests/samples/wire-process-7.2.0-linux.ndjson");

const BUILT_IN: &str = r#"
[metrics]
from = ["metric.all"]
branches = [
  { when = "value.metricset.name == 'cpu'",    to = "metric.cpu" },
  { when = "value.metricset.name == 'memory'", to = "metric.memory" },
]
[cpu_alert]
from = ["metric.cpu"]
filter = "value.system.cpu.total.norm.pct > 0.5"
map = "{'hostname': value.host.name, 'timestamp': value['@timestamp'], 'cpu': value.system.cpu.total.norm.pct}"
to = "metric.cpu.alert"
"#;

struct Rig {
    dir: tempfile::TempDir,
    log: Log,
}

/// A record as a test writes and reads it.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    timestamp_ms: i64,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, Option<String>)>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn plain(record: &RecordView<'_>) -> Plain {
    Plain {
        timestamp_ms: record.timestamp_ms,
        key: record.key.map(text),
        value: record.value.map(text),
        headers: record.headers().map(|h| (text(h.key), h.value.map(text))).collect(),
    }
}

fn of_value(value: &str) -> Plain {
    Plain { timestamp_ms: 1_700_000_000_000, key: None, value: Some(value.into()), headers: Vec::new() }
}

fn batch_of(records: &[Plain], codec: Codec) -> Bytes {
    let mut builder = Builder::new();
    for r in records {
        let headers: Vec<_> = r.headers.iter().map(|(k, v)| (k.as_str(), v.as_deref().map(str::as_bytes))).collect();
        let (key, value) = (r.key.as_deref().map(str::as_bytes), r.value.as_deref().map(str::as_bytes));
        builder.push(r.timestamp_ms, key, value, &headers).unwrap();
    }
    builder.finish(codec, codec.default_level())
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Self::open(dir.path());
        Self { dir, log }
    }

    /// As after a crash: only what was durable is there.
    async fn reopen(&mut self) {
        self.log.close().await;
        self.log = Self::open(self.dir.path());
    }

    fn open(dir: &std::path::Path) -> Log {
        let config = log::Config {
            quota_bytes: Some(256 << 20),
            linger: Duration::ZERO,
            ack_linger: Duration::ZERO,
            on_full: log::OnFull::Reject,
            memory_limit_bytes: 32 << 20,
            clock: Arc::new(|| 1_800_000_000_000),
            ..log::Config::new(dir)
        };
        Log::open(config, &Registry::default()).unwrap()
    }

    fn host(&self) -> Host {
        Host {
            log: self.log.clone(),
            memory: Budget::new(14 << 20),
            supervisor: Supervisor::default(),
            metrics: Registry::default(),
            clock: Arc::new(|| 1_800_000_000_000),
            partitions: 1,
        }
    }

    fn start(&self, toml: &str) -> (Streams, Supervisor) {
        let host = self.host();
        let supervisor = host.supervisor.clone();
        (Streams::start(&toml::from_str(toml).unwrap(), host).unwrap(), supervisor)
    }

    async fn create(&self, name: &str, partitions: i32) {
        let change = Change::Create { name: name.into(), partitions, settings: BTreeMap::new() };
        self.log.change(change, Vec::new()).await.unwrap();
    }

    async fn append(&self, topic: &str, index: i32, batch: Bytes) {
        let batches = vec![Append { partition: Partition::new(topic, index), batch }];
        self.log.commit(Write { batches, state: Vec::new(), urgency: Urgency::Waited }).await.unwrap();
    }

    async fn produce(&self, topic: &str, index: i32, records: &[Plain]) {
        self.append(topic, index, batch_of(records, Codec::None)).await;
    }

    async fn produce_values(&self, topic: &str, values: &[&str]) {
        self.produce(topic, 0, &values.iter().map(|v| of_value(v)).collect::<Vec<_>>()).await;
    }

    /// Waits until the topic's partition holds that many records.
    async fn filled(&self, topic: &str, index: i32, records: i64) {
        let wait = async {
            let mut topics = self.log.topics();
            topics.wait_for(|t| t.get(topic).is_some()).await.unwrap();
            let mut bounds = self.log.watch(&Partition::new(topic, index)).unwrap();
            bounds.wait_for(|b| b.high_watermark >= records).await.unwrap();
        };
        let limit = tokio::time::timeout(Duration::from_secs(20), wait);
        limit.await.unwrap_or_else(|_| panic!("{topic}-{index} never had {records} records"));
    }

    async fn all(&self, topic: &str, index: i32) -> Vec<Plain> {
        let partition = Partition::new(topic, index);
        let end = self.log.watch(&partition).unwrap().borrow().high_watermark;
        let (mut at, mut out) = (0, Vec::new());
        let mut unpacker = Unpacker::new(32 << 20);
        while at < end {
            let slice = self.log.read(&partition, at, 1 << 20).await.unwrap();
            for item in crate::record::batch::batches(&slice.batches) {
                let (header, bytes) = item.unwrap();
                out.extend(unpacker.records(bytes).unwrap().map(|r| plain(&r.unwrap())));
                at = header.last_offset() + 1;
            }
        }
        out
    }

    async fn values(&self, topic: &str) -> Vec<String> {
        self.all(topic, 0).await.into_iter().map(|r| r.value.unwrap_or_default()).collect()
    }

    fn committed(&self, group: &str, topic: &str, index: i32) -> Option<Offset> {
        offsets::committed(&self.log, group, &Partition::new(topic, index)).unwrap().map(|c| c.offset)
    }
}

async fn stop(supervisor: &Supervisor) {
    assert!(supervisor.drain(Duration::from_secs(20)).await);
}

fn problems(toml: &str) -> Vec<String> {
    check(&toml::from_str(toml).unwrap()).iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn the_built_in_streams() {
    let rig = Rig::new();
    let (streams, supervisor) = rig.start(BUILT_IN);
    rig.create("metric.all", 1).await;
    let hot = CPU.trim_end().replace("0.1889", "0.8586");
    let mut events: Vec<&str> = MIXED.lines().collect();
    events.extend([CPU.trim_end(), MEMORY.trim_end(), PROCESS.trim_end(), &hot]);
    rig.produce_values("metric.all", &events).await;
    rig.filled("metric.cpu.alert", 0, 1).await;
    stop(&supervisor).await;

    let of_kind = |kind: &str| -> Vec<String> {
        let name = format!("\"name\":\"{kind}\"");
        events.iter().filter(|e| e.contains(&name)).map(|e| (*e).to_owned()).collect()
    };
    assert_eq!(rig.values("metric.cpu").await, of_kind("cpu"));
    assert_eq!(rig.values("metric.memory").await, of_kind("memory"));
    assert_eq!(of_kind("cpu").len() + of_kind("memory").len(), events.len() - 1, "the process event goes nowhere");
    assert_eq!(
        rig.values("metric.cpu.alert").await,
        [r#"{"hostname":"gateway-b.local","timestamp":"2025-01-31T07:55:26.555Z","cpu":0.8586}"#]
    );
    assert_eq!(rig.committed("metrics", "metric.all", 0), Some(events.len() as i64));
    assert_eq!(rig.committed("cpu_alert", "metric.cpu", 0), Some(4));
    assert!(rig.log.topics().borrow().get("metrics.dlq").is_none(), "made when needed");
    let status = streams.status();
    let metrics = status.iter().find(|s| &*s.name == "metrics").unwrap();
    assert_eq!((metrics.records_in, metrics.records_out, metrics.dead_letters), (8, 7, 0));
    assert_eq!((metrics.positions[0].offset, metrics.positions[0].lag), (8, 0));
    assert_eq!(metrics.to, ["metric.cpu".into(), "metric.memory".into()]);
}

#[tokio::test]
async fn first_branch_wins_and_records_stay_as_they_are() {
    let rig = Rig::new();
    rig.create("in", 3).await;
    rig.create("low", 2).await;
    rig.create("rest", 2).await;
    let (_streams, supervisor) = rig.start(
        r#"
        [s]
        from = ["in"]
        filter = "value.n != 7"
        branches = [{ when = "value.n < 5", to = "low" }, { when = "value.n < 10", to = "middle" }]
        to = "rest"
        "#,
    );
    let record = |n: i64, key: Option<&str>| Plain {
        timestamp_ms: 1_700_000_000_000 + n,
        key: key.map(Into::into),
        value: Some(format!("{{ \"n\" : {n} }}")),
        headers: vec![("h".into(), Some(n.to_string())), ("h".into(), None)],
    };
    let records = [record(1, Some("a")), record(7, None), record(8, None), record(20, None), record(2, Some("b"))];
    rig.append("in", 2, batch_of(&records, Codec::Zstd)).await;
    rig.filled("rest", 0, 1).await;
    stop(&supervisor).await;
    // Without a key: the source's partition modulo the target's number of them. With one: as any Kafka producer.
    assert_eq!(rig.all("rest", 0).await, [records[3].clone()]);
    assert_eq!(rig.all("middle", 0).await, [records[2].clone()]);
    for (key, kept) in [("a", &records[0]), ("b", &records[4])] {
        let index = crate::record::partition_for_key(key.as_bytes(), 2);
        assert!(rig.all("low", index).await.contains(kept));
    }
    assert_eq!(rig.all("low", 0).await.len() + rig.all("low", 1).await.len(), 2);
}

#[tokio::test]
async fn a_failing_record_goes_to_the_dead_letters() {
    let rig = Rig::new();
    rig.create("in", 1).await;
    let (streams, supervisor) = rig.start(
        r#"
        [s]
        from = ["in"]
        filter = "value.n > 1"
        map = "{'n': value.n, 'm': value.m}"
        to = "out"
        "#,
    );
    let mut poison = of_value("no json");
    poison.key = Some("k".into());
    poison.headers = vec![("own".into(), Some("header".into()))];
    let records =
        [of_value(r#"{"n":2,"m":null}"#), poison.clone(), of_value(r#"{"n":3}"#), of_value(r#"{"n":4,"m":5}"#)];
    rig.produce("in", 0, &records).await;
    rig.filled("out", 0, 2).await;
    stop(&supervisor).await;
    assert_eq!(rig.values("out").await, [r#"{"n":2,"m":null}"#, r#"{"n":4,"m":5}"#]);
    let letters = rig.all("s.dlq", 0).await;
    assert_eq!(letters.len(), 2);
    let header = |letter: &Plain, name: &str| {
        letter.headers.iter().find(|(k, _)| k == name).and_then(|(_, v)| v.clone()).unwrap()
    };
    assert_eq!((&letters[0].key, &letters[0].value), (&poison.key, &poison.value));
    assert_eq!(letters[0].headers[0], poison.headers[0]);
    assert_eq!(
        header(&letters[0], "__streams.errors.message"),
        "a field is missing (undefined value) in 'value.n > 1'"
    );
    assert!(header(&letters[1], "__streams.errors.message").starts_with("'m' of the result is missing"));
    assert_eq!(header(&letters[1], "__streams.errors.topic"), "in");
    assert_eq!(header(&letters[1], "__streams.errors.partition"), "0");
    assert_eq!(header(&letters[1], "__streams.errors.offset"), "2");
    assert_eq!(rig.committed("s", "in", 0), Some(4));
    let status = &streams.status()[0];
    assert_eq!((status.records_in, status.records_out, status.dead_letters), (4, 2, 2));
    assert!(status.last_error.as_ref().unwrap().contains("missing"));
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_without_loss_or_repetition() {
    let rig = Rig::new();
    rig.create("in", 2).await;
    let toml = "[s]\nfrom = [\"in\"]\nfilter = \"value % 3 != 0\"\nto = \"out\"";
    let mut expected = Vec::new();
    for round in 0..15i64 {
        let (_streams, supervisor) = rig.start(toml);
        for n in round * 20..(round + 1) * 20 {
            let value = n.to_string();
            rig.produce("in", (n % 2) as i32, &[of_value(&value)]).await;
            if n % 3 != 0 {
                expected.push(value);
            }
        }
        // Stopped wherever it is.
        for _turn in 0..round % 7 {
            tokio::task::yield_now().await;
        }
        stop(&supervisor).await;
    }
    let (_streams, supervisor) = rig.start(toml);
    rig.filled("out", 0, expected.len() as i64).await;
    stop(&supervisor).await;
    let out = rig.values("out").await;
    for parity in 0..2 {
        let of = |values: &[String]| -> Vec<String> {
            values.iter().filter(|v| v.parse::<i64>().unwrap() % 2 == parity).cloned().collect()
        };
        assert_eq!(of(&out), of(&expected));
    }
    assert_eq!(out.len(), expected.len());
}

#[tokio::test]
async fn a_task_killed_anywhere_leaves_outputs_and_position_together() {
    let mut rig = Rig::new();
    rig.create("in", 1).await;
    let toml = "[s]\nfrom = [\"in\"]\nfilter = \"value != 4\"\nbranches = [{ when = \"value % 2 == 0\", to = \"even\" }]\nto = \"odd\"";
    let configs = toml::from_str(toml).unwrap();
    let mut produced = 0..400;
    for turns in 0..80 {
        let mut topologies = topology::compile_all(&configs).unwrap();
        let host = rig.host();
        let shared = Shared::new(topologies.remove("s").unwrap(), &host.metrics);
        let task = tokio::spawn(async move { worker::run(&host, &shared, &CancellationToken::new()).await });
        for n in produced.by_ref().take(5) {
            rig.produce_values("in", &[&n.to_string()]).await;
        }
        for _turn in 0..turns % 13 {
            tokio::task::yield_now().await;
        }
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        // What was handed over before is durable once this is.
        rig.log.commit(Write::default()).await.unwrap();
        if turns % 8 == 7 {
            rig.reopen().await;
        }
    }
    let (_streams, supervisor) = rig.start(toml);
    rig.filled("even", 0, 199).await;
    rig.filled("odd", 0, 200).await;
    stop(&supervisor).await;
    let numbers = |odd: i64| (0..400).filter(move |n| n % 2 == odd && *n != 4).map(|n: i64| n.to_string());
    assert!(rig.values("even").await.into_iter().eq(numbers(0)));
    assert!(rig.values("odd").await.into_iter().eq(numbers(1)));
    assert_eq!(rig.committed("s", "in", 0), Some(400));
}

#[tokio::test]
async fn a_recreated_source_starts_anew() {
    let rig = Rig::new();
    rig.create("in", 1).await;
    let (streams, supervisor) = rig.start("[s]\nfrom = [\"in\"]\nto = \"out\"");
    rig.produce_values("in", &["one", "two"]).await;
    rig.filled("out", 0, 2).await;
    rig.log.change(Change::Delete { name: "in".into() }, Vec::new()).await.unwrap();
    rig.create("in", 2).await;
    rig.produce_values("in", &["three"]).await;
    rig.produce("in", 1, &[of_value("four")]).await;
    rig.filled("out", 0, 4).await;
    // And one more partition while it runs.
    rig.log.change(Change::Grow { name: "in".into(), partitions: 3 }, Vec::new()).await.unwrap();
    rig.produce("in", 2, &[of_value("five")]).await;
    rig.filled("out", 0, 5).await;
    // And the target.
    rig.log.change(Change::Delete { name: "out".into() }, Vec::new()).await.unwrap();
    rig.produce_values("in", &["six"]).await;
    rig.filled("out", 0, 1).await;
    stop(&supervisor).await;
    assert_eq!(rig.values("out").await, ["six"]);
    assert_eq!(rig.committed("s", "in", 0), Some(2));
    assert_eq!(streams.status()[0].records_in, 6);
}

#[tokio::test]
async fn an_unreadable_batch_is_kept_and_passed() {
    let rig = Rig::new();
    rig.create("in", 1).await;
    let (streams, supervisor) = rig.start("[s]\nfrom = [\"in\"]\nto = \"out\"");
    rig.produce_values("in", &["before"]).await;
    // A record that claims to be longer than its batch, signed all the same.
    let mut bad = batch_of(&[of_value("x"), of_value("y")], Codec::None).to_vec();
    bad[61] = 0x7e;
    let crc = crc32c::crc32c(&bad[21..]);
    bad[17..21].copy_from_slice(&crc.to_be_bytes());
    rig.append("in", 0, bad.clone().into()).await;
    // One that unpacks to more than any record batch may.
    let bomb = batch_of(&[of_value(&" ".repeat(40 << 20))], Codec::Zstd);
    rig.append("in", 0, bomb.clone()).await;
    rig.produce_values("in", &["after"]).await;
    rig.filled("out", 0, 2).await;
    stop(&supervisor).await;
    assert_eq!(rig.values("out").await, ["before", "after"]);
    let letters = rig.all("s.dlq", 0).await;
    assert_eq!(letters.len(), 2);
    let reason = letters[0].headers[0].1.clone().unwrap();
    assert!(reason.starts_with("unreadable batch 1..2: bad record"), "{reason}");
    let reason = letters[1].headers[0].1.clone().unwrap();
    assert!(reason.contains("more than 5734400 bytes"), "{reason}");
    assert_eq!(rig.committed("s", "in", 0), Some(5));
    assert_eq!(streams.status()[0].dead_letters, 2);
}

#[tokio::test]
async fn a_batch_that_unpacks_to_much_is_committed_in_parts() {
    let rig = Rig::new();
    rig.create("in", 1).await;
    let (_streams, supervisor) = rig.start("[s]\nfrom = [\"in\"]\nto = \"out\"");
    let records: Vec<_> = (0..3000).map(|n| of_value(&format!("{n}{}", " ".repeat(1000)))).collect();
    rig.append("in", 0, batch_of(&records, Codec::Zstd)).await;
    rig.filled("out", 0, 3000).await;
    stop(&supervisor).await;
    assert_eq!(rig.all("out", 0).await, records);
    let slice = rig.log.read(&Partition::new("out", 0), 0, 64 << 20).await.unwrap();
    let sizes: Vec<_> = crate::record::batch::batches(&slice.batches).map(|b| b.unwrap().1.len()).collect();
    assert!(sizes.len() >= 5 && sizes.iter().all(|s| *s <= 600_000), "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_position_without_outputs_is_committed_now_and_then() {
    let rig = Rig::new();
    rig.create("in", 1).await;
    let (streams, supervisor) = rig.start("[s]\nfrom = [\"in\"]\nfilter = \"value == 'x'\"\nto = \"out\"");
    rig.produce_values("in", &["a", "b"]).await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(streams.status()[0].positions[0].offset, 2);
    assert_eq!(rig.committed("s", "in", 0), None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.committed("s", "in", 0), Some(2));
    rig.produce_values("in", &["c"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.committed("s", "in", 0), Some(2));
    stop(&supervisor).await;
    assert_eq!(rig.committed("s", "in", 0), Some(3), "and when it stops");
}

#[tokio::test]
async fn what_retention_took_is_counted() {
    let rig = Rig::new();
    rig.create("in", 1).await;
    rig.create("out", 1).await;
    let toml = "[s]\nfrom = [\"in\"]\nto = \"out\"";
    let (_streams, supervisor) = rig.start(toml);
    rig.produce_values("in", &["a"]).await;
    rig.filled("out", 0, 1).await;
    stop(&supervisor).await;
    rig.produce_values("in", &["b"]).await;
    rig.produce_values("in", &["c"]).await;
    let change = Change::TrimBefore { partition: Partition::new("in", 0), offset: 2 };
    rig.log.change(change, Vec::new()).await.unwrap();
    let (streams, supervisor) = rig.start(toml);
    rig.filled("out", 0, 2).await;
    stop(&supervisor).await;
    assert_eq!(rig.values("out").await, ["a", "c"]);
    assert_eq!(streams.status()[0].missed, 1);
}

#[tokio::test]
async fn a_position_that_nobody_can_have_is_the_beginning() {
    let rig = Rig::new();
    rig.create("in", 1).await;
    rig.create("out", 1).await;
    rig.produce_values("in", &["a"]).await;
    rig.produce_values("in", &["b"]).await;
    let partition = Partition::new("in", 0);
    rig.log.change(Change::TrimBefore { partition: partition.clone(), offset: 1 }, Vec::new()).await.unwrap();
    let id = rig.log.topics().borrow().get("in").unwrap().id;
    let state = vec![offsets::write("s", &partition, id, offsets::Committed::at(i64::MIN, 0))];
    rig.log.commit(Write { state, ..Write::default() }).await.unwrap();
    let (_streams, supervisor) = rig.start("[s]\nfrom = [\"in\"]\nto = \"out\"");
    rig.filled("out", 0, 1).await;
    stop(&supervisor).await;
    assert_eq!((rig.values("out").await, rig.committed("s", "in", 0)), (vec!["b".to_owned()], Some(2)));
}

#[tokio::test]
async fn a_changed_configuration_replaces_what_runs() {
    let rig = Rig::new();
    rig.create("in", 1).await;
    let (streams, supervisor) = rig.start("[s]\nfrom = [\"in\"]\nto = \"one\"\n[t]\nfrom = [\"in\"]\nto = \"kept\"");
    rig.produce_values("in", &["a"]).await;
    rig.filled("one", 0, 1).await;
    streams
        .apply(&toml::from_str("[s]\nfrom = [\"in\"]\nto = \"two\"\n[t]\nfrom = [\"in\"]\nto = \"kept\"").unwrap())
        .unwrap();
    rig.produce_values("in", &["b"]).await;
    rig.filled("two", 0, 1).await;
    assert!(streams.apply(&toml::from_str("[s]\nfrom = []").unwrap()).is_err());
    assert_eq!(streams.status().len(), 2);
    streams.apply(&toml::from_str("[t]\nenabled = false\nfrom = [\"in\"]\nto = \"kept\"").unwrap()).unwrap();
    assert!(streams.status().is_empty());
    stop(&supervisor).await;
    assert_eq!(rig.values("one").await, ["a"]);
    assert_eq!(rig.values("two").await, ["b"]);
    assert_eq!(rig.values("kept").await, ["a", "b"]);
}

#[test]
fn problems_are_named_all_at_once() {
    assert!(problems(BUILT_IN).is_empty());
    let found = problems(
        r#"
        [a]
        from = ["x", "x", "bad topic", "a.dlq"]
        filter = "value.n >"
        branches = [{ when = "valeu == 1", to = "" }]
        [b]
        "#,
    );
    assert_eq!(
        found,
        [
            "streams.a.from[1]: is named twice",
            "streams.a.from[2]: expected a topic name: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'",
            "streams.a.from[3]: a stream cannot read its own dead letters",
            "streams.a.filter: syntax error: unexpected end of input, expected expression at line 1, column 9 of 'value.n >'",
            "streams.a.branches[0].when: unknown variable 'valeu' (known: key, value, headers, timestamp, topic, \
             partition, offset) at line 1, column 1 of 'valeu == 1'",
            "streams.a.branches[0].to: expected a topic name: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'",
            "streams.b.from: expected at least one source topic",
            "streams.b.to: expected a target topic, or branches",
        ]
    );
    let loops =
        "[a]\nfrom = [\"x\"]\nto = \"y\"\n[b]\nfrom = [\"y\", \"z\"]\nto = \"x\"\n[c]\nfrom = [\"z\"]\nto = \"y\"";
    assert_eq!(
        problems(loops),
        [
            "streams.a.to: the records of 'x' would come back to it through 'y' for ever",
            "streams.b.to: the records of 'y' would come back to it through 'x' for ever",
        ]
    );
    assert_eq!(problems(&loops.replace("[b]", "[b]\nenabled = false")), Vec::<String>::new());
    assert!(toml::from_str::<Config>("from = [\"x\"]\nwhere = \"y\"").is_err(), "an unknown key");
    let long = format!("[{}]\nfrom = [\"x\"]\nto = \"y\"", "n".repeat(246));
    assert_eq!(problems(&long).len(), 1);
}

#[tokio::test]
async fn a_stream_reads_what_was_committed() {
    let rig = Rig::new();
    rig.create("in", 1).await;
    rig.create("out", 1).await;
    let (_streams, supervisor) = rig.start("[s]\nfrom = [\"in\"]\nto = \"out\"\n");
    let of = async |id: i64, value: &str| {
        let mut builder = Builder::new();
        builder.set_producer(Producer { id, epoch: 0, sequence: 0 });
        builder.push(1_700_000_000_000, None, Some(value.as_bytes()), &[]).unwrap();
        rig.append("in", 0, batch::transactional(&builder.finish(Codec::None, 0))).await;
    };
    let end = async |id: i64, outcome| rig.append("in", 0, marker(id, 0, outcome, 1_700_000_000_000)).await;
    of(1, "1").await;
    of(2, "2").await;
    end(1, Outcome::Abort).await;
    rig.produce_values("in", &["3"]).await;
    end(2, Outcome::Commit).await;
    of(3, "4").await;
    rig.produce_values("in", &["5"]).await;
    rig.filled("out", 0, 2).await;
    stop(&supervisor).await;
    assert_eq!(rig.values("out").await, ["2", "3"], "nothing aborted, and nothing behind an open transaction");
    assert_eq!(rig.committed("s", "in", 0), Some(5));
}
