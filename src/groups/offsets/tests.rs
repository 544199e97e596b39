use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::log::{Change, Config, Write};

fn open(dir: &std::path::Path) -> Log {
    let config = Config {
        quota_bytes: Some(16 << 20),
        linger: Duration::ZERO,
        ack_linger: Duration::ZERO,
        memory_limit_bytes: 4 << 20,
        clock: Arc::new(|| 1_700_000_000_000),
        ..Config::new(dir)
    };
    Log::open(config, &crate::metrics::Registry::default()).unwrap()
}

async fn create(log: &Log, name: &str) -> TopicId {
    let change = Change::Create { name: name.into(), partitions: 3, settings: BTreeMap::new() };
    log.change(change, Vec::new()).await.unwrap().id
}

async fn commit(log: &Log, state: Vec<StateWrite>) {
    log.commit(Write { state, ..Write::default() }).await.unwrap();
}

#[tokio::test]
async fn a_position_returns_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let id = create(&log, "t").await;
    let p = Partition::new("t", 2);
    let position = Committed { offset: 42, leader_epoch: 7, metadata: "señal".into(), timestamp_ms: 99 };
    commit(&log, vec![write("g", &p, id, position.clone())]).await;

    assert_eq!(committed(&log, "g", &p).unwrap(), Some(position.clone()));
    assert_eq!(committed(&log, "g", &Partition::new("t", 1)).unwrap(), None);
    assert_eq!(committed(&log, "other", &p).unwrap(), None);
    assert_eq!(committed(&log, "g", &Partition::new("absent", 2)).unwrap(), None);
    assert_eq!(of_group(&log, "g").unwrap(), BTreeMap::from([(p.clone(), position)]));

    commit(&log, vec![forget("g", &p, id)]).await;
    assert_eq!(committed(&log, "g", &p).unwrap(), None);
    assert!(!has_any(&log, "g").unwrap());
}

#[tokio::test]
async fn a_recreated_topic_inherits_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let old = create(&log, "t").await;
    let p = Partition::new("t", 0);
    commit(&log, vec![write("g", &p, old, Committed::at(5, 1))]).await;
    log.change(Change::Delete { name: "t".into() }, Vec::new()).await.unwrap();
    assert!(groups(&log).unwrap().is_empty());
    let new = create(&log, "t").await;
    assert_ne!(old, new);
    assert_eq!(committed(&log, "g", &p).unwrap(), None);
    assert!(of_group(&log, "g").unwrap().is_empty());

    commit(&log, vec![write("g", &p, new, Committed::at(6, 1))]).await;
    let orphans = forget_orphans(&log).unwrap();
    assert_eq!(orphans.len(), 1);
    commit(&log, orphans).await;
    assert_eq!(log.states(OWNER, b"").unwrap().len(), 1);
    assert_eq!(committed(&log, "g", &p).unwrap().unwrap().offset, 6);
}

#[tokio::test]
async fn groups_and_topics_are_forgotten_apart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let (a, b) = (create(&log, "a").await, create(&log, "b").await);
    let mut state = Vec::new();
    // `g` is a prefix of `g2` and of nothing else: a prefix scan must not take one for the other.
    for group in ["g", "g2", ""] {
        state.push(write(group, &Partition::new("a", 0), a, Committed::at(1, 1)));
        state.push(write(group, &Partition::new("b", 1), b, Committed::at(2, 1)));
    }
    commit(&log, state).await;
    assert_eq!(groups(&log).unwrap(), ["", "g", "g2"].map(str::to_owned).into());

    commit(&log, forget_group(&log, "g").unwrap()).await;
    assert_eq!(groups(&log).unwrap(), ["", "g2"].map(str::to_owned).into());
    assert_eq!(of_group(&log, "g2").unwrap().len(), 2);

    log.change(Change::Delete { name: "a".into() }, forget_topic(&log, a).unwrap()).await.unwrap();
    assert_eq!(log.states(OWNER, b"").unwrap().len(), 2);
    assert_eq!(of_group(&log, "g2").unwrap().into_keys().collect::<Vec<_>>(), [Partition::new("b", 1)]);
}

#[test]
fn the_longest_group_id_fits_the_logs_key() {
    let group = "g".repeat(MAX_GROUP_ID_BYTES);
    assert_eq!(key(&group, [1; 16], 0).len(), 400);
}

/// The bytes on flash are a promise: an upgrade reads what the version before wrote.
#[test]
fn layout_is_fixed() {
    let position = Committed { offset: 1, leader_epoch: -1, metadata: "m".into(), timestamp_ms: 2 };
    let entry = write("ab", &Partition::new("t", 3), [9; 16], position);
    assert_eq!(&entry.key[..], [&b"o\x00\x02ab"[..], &[9; 16], &[0, 0, 0, 3]].concat());
    let value = [&[1][..], &1i64.to_be_bytes(), &[0xff; 4], &2i64.to_be_bytes(), b"m"].concat();
    assert_eq!(entry.value.unwrap(), value);
}

proptest! {
    #[test]
    fn keys_and_values_round_trip(
        group in "\\PC{0,40}", id: [u8; 16], index in 0i32.., offset: i64, leader_epoch: i32, metadata in "\\PC{0,60}",
        timestamp_ms: i64,
    ) {
        let position = Committed { offset, leader_epoch, metadata, timestamp_ms };
        let key = key(&group, id, index);
        prop_assert_eq!(split(&key), Some((&group[..], id, index)));
        prop_assert_eq!(Committed::decode(&position.encode()), Some(position));
    }

    #[test]
    fn foreign_bytes_are_refused_quietly(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _unused = (split(&bytes), Committed::decode(&bytes));
    }
}
