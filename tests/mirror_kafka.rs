//! The mirror in this process against a real Kafka: `tests/mirror/run` starts one and sets `BROOKLET_KAFKA` (HOST:PORT of
//! its PLAINTEXT listener) and, for the listeners with TLS and sign-in, `BROOKLET_KAFKA_LINKS`: a directory of `[mirror]` tables.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use brooklet::{
    log::{Append, Change, Config as LogConfig, Log, OnFull, Write},
    memory::Budget,
    metrics::Registry,
    mirror::{
        Config, Mirror,
        client::{Client, Options, Security},
    },
    record::{Builder, Codec, Outcome, Partition, Producer, Unpacker, batch, marker::marker},
    supervise::Supervisor,
    wire::{
        delete_topics::{DeleteTopicState, DeleteTopicsRequest},
        fetch::{FetchPartition, FetchRequest, FetchTopic},
    },
};

use bytes::Bytes;

fn kafka() -> String {
    std::env::var("BROOKLET_KAFKA").expect("HOST:PORT of a real Kafka in BROOKLET_KAFKA")
}

fn open(dir: &Path) -> Log {
    let config = LogConfig {
        quota_bytes: Some(512 << 20),
        linger: Duration::from_millis(20),
        ack_linger: Duration::from_millis(1),
        on_full: OnFull::Reject,
        memory_limit_bytes: 32 << 20,
        clock: Arc::new(now_ms),
        ..LogConfig::new(dir)
    };
    Log::open(config, &Registry::default()).unwrap()
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

/// Kafka speaks last: what it stores is compared with what was written here.
type Row = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>, i64);

fn row(n: u64) -> Row {
    let key = (!n.is_multiple_of(3)).then(|| format!("key-{n}").into_bytes());
    let value = (!n.is_multiple_of(7)).then(|| format!("value {n} {}", "x".repeat((n % 50) as usize)).into_bytes());
    // Twice the same name, and a header without value.
    let headers = vec![("h".to_owned(), Some(vec![n as u8])), ("h".to_owned(), None)];
    (key, value, headers, now_ms() - 1_000 + n as i64 % 5)
}

async fn append(log: &Log, partition: &Partition, rows: &[Row], codec: Codec) {
    let mut builder = Builder::new();
    for (key, value, headers, ts) in rows {
        let headers: Vec<(&str, Option<&[u8]>)> = headers.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        builder.push(*ts, key.as_deref(), value.as_deref(), &headers).unwrap();
    }
    let batch = builder.finish(codec, codec.default_level());
    let batches = vec![Append { partition: partition.clone(), batch }];
    log.commit(Write { batches, ..Write::default() }).await.unwrap();
}

async fn read_all(client: &Client, topic: &str, partition: i32) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut from = 0;
    let metadata = client.metadata(Some(&[topic.to_owned()])).await.unwrap();
    let topic_id = metadata.topics[0].topic_id;
    loop {
        let wanted =
            FetchPartition { partition, fetch_offset: from, partition_max_bytes: 1 << 20, ..FetchPartition::default() };
        let topics = vec![FetchTopic { topic: topic.to_owned(), topic_id, partitions: vec![wanted] }];
        let request = FetchRequest { max_wait_ms: 200, min_bytes: 1, topics, ..FetchRequest::default() };
        let mut answer = client.call_leader(topic, partition, &request).await.unwrap();
        let data = answer.responses.pop().unwrap().partitions.pop().unwrap();
        assert!(!data.error_code.is_error(), "{}", data.error_code);
        if from >= data.high_watermark {
            return rows;
        }
        let mut unpacker = Unpacker::new(64 << 20);
        for found in batch::batches(&data.records) {
            let Ok((header, bytes)) = found else { break };
            for record in unpacker.records(bytes).unwrap() {
                let record = record.unwrap();
                if record.offset < from {
                    continue;
                }
                let headers =
                    record.headers().map(|h| (String::from_utf8(h.key.to_vec()).unwrap(), h.value.map(<[u8]>::to_vec)));
                rows.push((
                    record.key.map(<[u8]>::to_vec),
                    record.value.map(<[u8]>::to_vec),
                    headers.collect(),
                    record.timestamp_ms,
                ));
            }
            from = header.last_offset() + 1;
        }
    }
}

fn plain(kafka: &str) -> Client {
    Client::new(vec![kafka.parse().unwrap()], Security::default(), Options::default())
}

async fn caught_up(mirror: &Mirror, partitions: usize) {
    for _ in 0..600 {
        let status = mirror.status();
        if status.partitions.len() == partitions && status.lag_records == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not caught up: {:#?}", mirror.status());
}

/// A name no earlier run has used.
fn fresh(what: &str) -> String {
    format!("{what}{}", now_ms())
}

fn link(kafka: &str, more: &str) -> Config {
    toml::from_str(&format!("bootstrap_servers = [\"{kafka}\"]\ntopics = [\"m.*\"]\nlinger = \"10ms\"\n{more}"))
        .unwrap()
}

async fn create(log: &Log, topic: &str, partitions: i32) {
    let change = Change::Create { name: topic.into(), partitions, settings: BTreeMap::new() };
    log.change(change, Vec::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real Kafka in BROOKLET_KAFKA"]
async fn every_record_arrives_once_through_restarts() {
    let kafka = kafka();
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let (alias, topic) = (fresh("edge"), "m.cpu");
    create(&log, topic, 2).await;
    let config = link(&kafka, &format!("alias = \"{alias}\"\n"));
    let mut expected: [Vec<Row>; 2] = Default::default();
    let mut n = 0;
    for round in 0..8 {
        let supervisor = Supervisor::default();
        let mirror = Mirror::start(
            "central",
            "ignored",
            config.clone(),
            &log,
            &Budget::new(32 << 20),
            &supervisor,
            &Registry::default(),
        )
        .unwrap();
        for index in [0i32, 1] {
            let partition = Partition::new(topic, index);
            for (count, codec) in [(1, Codec::None), (3, Codec::Zstd), (700, Codec::None), (2_000, Codec::Lz4)] {
                let rows: Vec<Row> = (n..n + count).map(row).collect();
                n += count;
                append(&log, &partition, &rows, codec).await;
                expected[index as usize].extend(rows);
            }
        }
        if round % 2 == 0 {
            caught_up(&mirror, 2).await;
            let status = mirror.status();
            assert_eq!((status.state.as_str(), status.tier <= 1), ("running", true), "{status:?}");
        } else {
            // Stopped in the middle: what is in flight stays in doubt.
            tokio::time::sleep(Duration::from_millis(u64::from(7 * round as u32))).await;
        }
        assert!(supervisor.drain(Duration::from_secs(5)).await);
    }
    let supervisor = Supervisor::default();
    let mirror =
        Mirror::start("central", "ignored", config, &log, &Budget::new(32 << 20), &supervisor, &Registry::default())
            .unwrap();
    caught_up(&mirror, 2).await;
    assert!(supervisor.drain(Duration::from_secs(5)).await);
    let client = plain(&kafka);
    for index in [0i32, 1] {
        let found = read_all(&client, &format!("{alias}.{topic}"), index).await;
        assert_eq!(found.len(), expected[index as usize].len());
        assert!(found == expected[index as usize], "partition {index} differs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real Kafka in BROOKLET_KAFKA"]
async fn partitions_grow_and_large_batches_are_split() {
    let kafka = kafka();
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let (alias, topic) = (fresh("grow"), "m.grow");
    create(&log, topic, 1).await;
    let supervisor = Supervisor::default();
    let config = link(&kafka, &format!("alias = \"{alias}\"\n"));
    let mirror =
        Mirror::start("central", "ignored", config, &log, &Budget::new(32 << 20), &supervisor, &Registry::default())
            .unwrap();
    let rows: Vec<Row> = (0..30).map(|n| (None, Some(vec![n as u8; 100_000]), Vec::new(), now_ms())).collect();
    // 3 MB in one batch: a target takes 1 MiB.
    append(&log, &Partition::new(topic, 0), &rows, Codec::None).await;
    caught_up(&mirror, 1).await;
    log.change(Change::Grow { name: topic.into(), partitions: 3 }, Vec::new()).await.unwrap();
    let more: Vec<Row> = (0..10).map(row).collect();
    append(&log, &Partition::new(topic, 2), &more, Codec::None).await;
    caught_up(&mirror, 3).await;
    let client = plain(&kafka);
    let target = format!("{alias}.{topic}");
    assert!(read_all(&client, &target, 0).await == rows);
    assert!(read_all(&client, &target, 2).await == more);
    assert!(supervisor.drain(Duration::from_secs(5)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real Kafka in BROOKLET_KAFKA and links in BROOKLET_KAFKA_LINKS"]
async fn every_kind_of_sign_in_works() {
    let kafka = kafka();
    let links = std::env::var("BROOKLET_KAFKA_LINKS").expect("a directory of [mirror] tables in BROOKLET_KAFKA_LINKS");
    let mut seen = 0;
    for entry in std::fs::read_dir(links).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let must_fail = path.file_name().unwrap().to_str().unwrap().starts_with("bad-");
        let alias = fresh("leg");
        let config: Config = toml::from_str(&format!("{text}\nalias = \"{alias}\"\ntopics = [\"m.*\"]\n")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        create(&log, "m.leg", 1).await;
        let rows: Vec<Row> = (0..500).map(row).collect();
        append(&log, &Partition::new("m.leg", 0), &rows, Codec::None).await;
        let supervisor = Supervisor::default();
        let mirror = Mirror::start(
            "central",
            "ignored",
            config,
            &log,
            &Budget::new(32 << 20),
            &supervisor,
            &Registry::default(),
        )
        .unwrap();
        if must_fail {
            let mut error = None;
            for _ in 0..100 {
                error = mirror.status().error;
                if error.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            eprintln!("{}: {}", path.display(), error.expect("a refusal"));
            assert_eq!(mirror.status().lag_records, 500);
        } else {
            caught_up(&mirror, 1).await;
            assert!(read_all(&plain(&kafka), &format!("{alias}.m.leg"), 0).await == rows, "{}", path.display());
            eprintln!("{}: ok", path.display());
        }
        assert!(supervisor.drain(Duration::from_secs(5)).await);
        seen += 1;
    }
    assert!(seen > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real Kafka in BROOKLET_KAFKA"]
async fn what_was_deleted_on_either_side_is_told_and_the_rest_goes_on() {
    let kafka = kafka();
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let (alias, topic) = (fresh("gap"), "m.gap");
    let (partition, target) = (Partition::new(topic, 0), format!("{alias}.{topic}"));
    create(&log, topic, 1).await;
    let config = link(&kafka, &format!("alias = \"{alias}\"\nquarantine = \"1s\"\n"));
    let rows: Vec<Row> = (0..90).map(row).collect();
    append(&log, &partition, &rows[..20], Codec::None).await;
    let registry = Registry::default();
    let start = |supervisor: &Supervisor| {
        Mirror::start("central", "ignored", config.clone(), &log, &Budget::new(32 << 20), supervisor, &registry)
            .unwrap()
    };
    let supervisor = Supervisor::default();
    caught_up(&start(&supervisor), 1).await;
    assert!(supervisor.drain(Duration::from_secs(5)).await);

    // Deleted here while the link was down: a gap of 30 records.
    append(&log, &partition, &rows[20..50], Codec::None).await;
    let trim = Change::TrimBefore { partition: partition.clone(), offset: 50 };
    log.change(trim, Vec::new()).await.unwrap();
    append(&log, &partition, &rows[50..60], Codec::None).await;
    let supervisor = Supervisor::default();
    let mirror = start(&supervisor);
    // The gap is told in brooklet.events, which is mirrored too.
    caught_up(&mirror, 2).await;
    assert_eq!(mirror.status().gap_records, 30);
    let client = plain(&kafka);
    assert!(read_all(&client, &target, 0).await == [&rows[..20], &rows[50..60]].concat());

    // Deleted there while the link runs: made anew, and only what was not acknowledged goes there.
    let names = vec![DeleteTopicState { name: Some(target.clone()), ..DeleteTopicState::default() }];
    let request = DeleteTopicsRequest { topics: names, timeout_ms: 10_000, ..DeleteTopicsRequest::default() };
    client.call_controller(&request).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    append(&log, &partition, &rows[60..], Codec::None).await;
    caught_up(&mirror, 2).await;
    assert!(read_all(&client, &target, 0).await == rows[60..]);
    let shown = log_status(&mirror);
    assert_eq!((shown.0, shown.1), (0, None), "{:?}", mirror.status());
    assert!(supervisor.drain(Duration::from_secs(5)).await);
}

fn log_status(mirror: &Mirror) -> (u64, Option<String>) {
    let status = mirror.status();
    (status.possible_duplicates, status.error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real Kafka in BROOKLET_KAFKA"]
async fn only_committed_transactions_arrive_and_each_record_once() {
    let kafka = kafka();
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let (alias, topic) = (fresh("txn"), "m.txn");
    create(&log, topic, 1).await;
    let partition = Partition::new(topic, 0);
    let config = link(&kafka, &format!("alias = \"{alias}\"\n"));
    let commit = async |batch| {
        let batches = vec![Append { partition: partition.clone(), batch }];
        log.commit(Write { batches, ..Write::default() }).await.unwrap();
    };
    let (mut expected, mut sequence, mut n) = (Vec::new(), 0, 0);
    let memory = Budget::new(32 << 20);
    for round in 0..6 {
        let supervisor = Supervisor::default();
        let mirror =
            Mirror::start("central", "ignored", config.clone(), &log, &memory, &supervisor, &Registry::default())
                .unwrap();
        for at in 0..5 {
            let count = [1, 40, 900][at % 3];
            let rows: Vec<Row> = (n..n + count).map(row).collect();
            n += count;
            commit(transactional(&rows, sequence)).await;
            sequence += i32::try_from(count).unwrap();
            let outcome = if at % 2 == 0 { Outcome::Commit } else { Outcome::Abort };
            commit(marker(7, 0, outcome, now_ms())).await;
            if outcome == Outcome::Commit {
                expected.extend(rows);
            }
        }
        if round % 2 == 0 {
            caught_up(&mirror, 1).await;
            assert_eq!(mirror.status().gap_records, 0, "what was aborted is not missing");
        } else {
            tokio::time::sleep(Duration::from_millis(7 * round)).await;
        }
        assert!(supervisor.drain(Duration::from_secs(5)).await);
    }
    let supervisor = Supervisor::default();
    let mirror = Mirror::start("central", "ignored", config, &log, &memory, &supervisor, &Registry::default()).unwrap();
    caught_up(&mirror, 1).await;
    assert!(supervisor.drain(Duration::from_secs(5)).await);
    let found = read_all(&plain(&kafka), &format!("{alias}.{topic}"), 0).await;
    assert_eq!(found.len(), expected.len());
    assert!(found == expected);
}

/// A batch of producer 7's transaction.
fn transactional(rows: &[Row], sequence: i32) -> Bytes {
    let mut builder = Builder::new();
    builder.set_producer(Producer { id: 7, epoch: 0, sequence });
    for (key, value, headers, ts) in rows {
        let headers: Vec<(&str, Option<&[u8]>)> = headers.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        builder.push(*ts, key.as_deref(), value.as_deref(), &headers).unwrap();
    }
    let mut bytes = builder.finish(Codec::None, 0).to_vec();
    bytes[22] |= 0x10;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}
