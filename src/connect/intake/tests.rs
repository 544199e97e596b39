use std::collections::BTreeMap;

use super::*;
use crate::connect::testing::{open_log, open_log_with, read_all, read_batches};

fn values(read: &[crate::connect::testing::Read]) -> Vec<String> {
    read.iter().map(|r| String::from_utf8(r.value.clone().unwrap()).unwrap()).collect()
}

fn intake(log: &Log, partitions: i32) -> Intake {
    let policy = TopicPolicy { creates: true, partitions };
    Intake::counted("x", log.clone(), policy, Arc::new(|| 1_700_000_000_123), &Registry::default())
}

async fn make_topic(log: &Log, name: &str, partitions: i32) {
    let change = Change::Create { name: name.into(), partitions, settings: BTreeMap::new() };
    log.change(change, vec![]).await.unwrap();
}

#[tokio::test]
async fn records_arrive_whole_and_positions_with_them() {
    let (_dir, log) = open_log();
    let intake = intake(&log, 1);
    let full = SourceRecord {
        key: Some("k".into()),
        headers: vec![("h".into(), Some("1".into())), ("h".into(), None)],
        timestamp_ms: Some(5),
        ..SourceRecord::new("t", "a")
    };
    let tombstone = SourceRecord { key: Some("k".into()), value: None, ..SourceRecord::new("t", "") };
    let position = (Bytes::from("p1"), Some(Bytes::from("7")));
    intake.commit(vec![full, tombstone], vec![position], Urgency::Waited).await.unwrap();

    let read = read_all(&log, "t", 0).await;
    assert_eq!(read.len(), 2);
    assert_eq!((read[0].timestamp_ms, read[0].key.as_deref()), (5, Some(&b"k"[..])));
    assert_eq!(read[0].value.as_deref(), Some(&b"a"[..]));
    assert_eq!(read[0].headers, [("h".into(), Some(b"1".to_vec())), ("h".into(), None)]);
    assert_eq!((read[1].timestamp_ms, &read[1].value), (1_700_000_000_123, &None));
    assert_eq!(intake.positions(b"p").unwrap(), [(Bytes::from("p1"), Bytes::from("7"))]);
    let brought = Brought { records: 2, bytes: 3, commits: 1, refused: 0, last_commit_ms: Some(1_700_000_000_123) };
    assert_eq!(intake.brought(), brought);
}

#[tokio::test]
async fn positions_are_one_connectors_own() {
    let (_dir, log) = open_log();
    let (short, long) = (Intake::new("mqtt", log.clone()), Intake::new("mqtt2", log.clone()));
    let set = |key: &'static str| vec![(Bytes::from(key), Some(Bytes::from("1")))];
    short.commit(vec![], set("a"), Urgency::Waited).await.unwrap();
    long.commit(vec![], set("b"), Urgency::Waited).await.unwrap();
    assert_eq!(short.positions(b"").unwrap(), [(Bytes::from("a"), Bytes::from("1"))]);
    assert_eq!(long.positions(b"").unwrap(), [(Bytes::from("b"), Bytes::from("1"))]);
    short.commit(vec![], vec![("a".into(), None)], Urgency::Waited).await.unwrap();
    assert_eq!(short.positions(b"").unwrap(), []);
    let key = Bytes::from("k".repeat(KEY_BYTES));
    assert!(matches!(
        short.commit(vec![], vec![(key, None)], Urgency::Waited).await,
        Err(IntakeError::LongPosition(400))
    ));
}

#[tokio::test]
async fn a_key_goes_where_kafkas_partitioner_puts_it() {
    let (_dir, log) = open_log();
    let intake = intake(&log, 1);
    make_topic(&log, "u", 7).await;
    let keyed = |key: &'static str| SourceRecord { key: Some(key.into()), ..SourceRecord::new("u", key) };
    intake.commit(["21", "foobar", "abc"].map(keyed).to_vec(), vec![], Urgency::Waited).await.unwrap();
    // The keys' murmur2 as Kafka's clients compute it, without its sign.
    for (hash, key) in [(1_173_551_340, "21"), (1_357_151_166, "foobar"), (479_470_107, "abc")] {
        assert!(values(&read_all(&log, "u", hash % 7).await).contains(&key.to_owned()), "{key}");
    }
}

#[tokio::test]
async fn records_without_a_key_take_turns_by_commit_and_topic() {
    let (_dir, log) = open_log();
    make_topic(&log, "a", 2).await;
    make_topic(&log, "b", 2).await;
    let intake = intake(&log, 1);
    for i in 0..4 {
        for topic in ["a", "b"] {
            let records = vec![SourceRecord::new(topic, format!("{i}x")), SourceRecord::new(topic, format!("{i}y"))];
            intake.commit(records, vec![], Urgency::Waited).await.unwrap();
        }
    }
    for topic in ["a", "b"] {
        assert_eq!(values(&read_all(&log, topic, 0).await), ["0x", "0y", "2x", "2y"], "{topic}");
        assert_eq!(values(&read_all(&log, topic, 1).await), ["1x", "1y", "3x", "3y"], "{topic}");
        assert_eq!(read_batches(&log, topic, 0).await.len(), 2, "one batch per commit");
    }
}

#[tokio::test]
async fn missing_topics_are_made_or_refused() {
    let (_dir, log) = open_log();
    let made = intake(&log, 3);
    made.commit(vec![SourceRecord::new("new", "1")], vec![], Urgency::Waited).await.unwrap();
    assert_eq!(log.topics().borrow().get("new").unwrap().partitions, 3);

    let policy = TopicPolicy { creates: false, partitions: 1 };
    let strict = Intake::counted("y", log.clone(), policy, system_clock(), &Registry::default());
    let records = vec![SourceRecord::new("new", "2"), SourceRecord::new("absent", "1")];
    let position = vec![(Bytes::from("p"), Some(Bytes::from("1")))];
    let refused = strict.commit(records, position, Urgency::Waited).await;
    assert!(matches!(refused, Err(IntakeError::NoTopic(t)) if &*t == "absent"));
    assert_eq!(strict.positions(b"").unwrap(), [], "nothing of it is durable");
    assert_eq!(strict.brought().refused, 1);
    for index in 0..3 {
        assert!(!values(&read_all(&log, "new", index).await).contains(&"2".to_owned()));
    }
}

#[tokio::test]
async fn overlapping_commits_keep_the_order_of_their_calls() {
    let (_dir, log) = open_log();
    let intake = intake(&log, 1);
    // The first must make its topic, the second must not overtake it meanwhile.
    make_topic(&log, "known", 1).await;
    let commits = (0..50).map(|i| {
        let intake = intake.clone();
        let mut records = vec![SourceRecord::new("known", i.to_string())];
        if i % 10 == 0 {
            records.push(SourceRecord::new(format!("made{i}"), "x"));
        }
        async move { intake.commit(records, vec![("last".into(), Some(i.to_string().into()))], Urgency::Waited).await }
    });
    for answer in futures_util::future::join_all(commits).await {
        answer.unwrap();
    }
    let expected: Vec<String> = (0..50).map(|i| i.to_string()).collect();
    assert_eq!(values(&read_all(&log, "known", 0).await), expected);
    assert_eq!(intake.positions(b"last").unwrap(), [(Bytes::from("last"), Bytes::from("49"))]);
}

#[tokio::test]
async fn commits_that_wait_for_room_keep_the_order_of_their_calls() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = log::Config::new(dir.path());
    config.quota_bytes = Some(64 << 20);
    // Room for three of them at once.
    config.memory_limit_bytes = 4 << 20;
    let log = Log::open(config, &Registry::default()).unwrap();
    let intake = intake(&log, 1);
    make_topic(&log, "t", 1).await;
    let mut commits = Vec::new();
    for i in 0..20u8 {
        let intake = intake.clone();
        let records = vec![SourceRecord::new("t", vec![i; 300_000])];
        let mut commit = Box::pin(async move { intake.commit(records, vec![], Urgency::Waited).await });
        // On a busy machine the writer may be through before this poll is.
        match futures_util::poll!(commit.as_mut()) {
            std::task::Poll::Ready(answer) => answer.unwrap(),
            std::task::Poll::Pending => commits.push(commit),
        }
    }
    // Whoever is looked after first must not get ahead of those that came before.
    commits.reverse();
    for answer in futures_util::future::join_all(commits).await {
        answer.unwrap();
    }
    let mut found = Vec::new();
    let partition = Partition::new("t", 0);
    for offset in 0..20_i64 {
        let slice = log.read(&partition, offset, 1).await.unwrap();
        found.push(slice.batches[200]);
    }
    assert_eq!(found, (0..20).collect::<Vec<u8>>());
}

#[tokio::test]
async fn a_large_commit_becomes_several_batches() {
    let (_dir, log) = open_log();
    let intake = intake(&log, 1);
    let records = (0..3).map(|_| SourceRecord::new("t", vec![b'x'; 300 * 1024])).collect();
    intake.commit(records, vec![], Urgency::Waited).await.unwrap();
    let batches = read_batches(&log, "t", 0).await;
    assert_eq!(batches.len(), 3);
    assert!(batches.iter().all(|b| b.len() < 400 * 1024));
}

#[tokio::test]
async fn nothing_to_commit_is_no_commit() {
    let (_dir, log) = open_log();
    let intake = intake(&log, 1);
    intake.commit(vec![], vec![], Urgency::Waited).await.unwrap();
    assert_eq!(intake.brought(), Brought::default());
}

#[tokio::test]
async fn overlapping_commits_keep_each_other_company() {
    let (_dir, log) = open_log_with(std::time::Duration::from_millis(200));
    make_topic(&log, "t", 1).await;
    let intake = intake(&log, 1);
    let before = log.usage().commits;
    let commits = (0..20).map(|i| {
        let records = vec![SourceRecord::new("t", i.to_string())];
        intake.commit(records, vec![], Urgency::Unattended)
    });
    for answer in futures_util::future::join_all(commits).await {
        answer.unwrap();
    }
    let flushes = log.usage().commits - before;
    assert!((1..10).contains(&flushes), "{flushes}");
}
