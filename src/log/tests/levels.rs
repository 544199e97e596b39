//! What each durability level gives up, and that none of them acknowledges over an error.

use super::*;

fn state(value: &'static str) -> Vec<StateWrite> {
    vec![StateWrite { owner: "test", key: "k".into(), value: Some(value.into()) }]
}

/// A small batch that stays in the journal, a large one that is sealed at once, and state.
fn mixed(p: &Partition, value: &'static str) -> Write {
    let batches = [100, 40_000].map(|body| Append { partition: p.clone(), batch: batch(1, body, 5, NONE).into() });
    Write { batches: batches.into(), state: state(value), ..Write::default() }
}

/// What a kill leaves: the file as it is now, opened elsewhere.
fn after_a_kill(dir: &Path) -> (tempfile::TempDir, Log) {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.join("data.mdb"), copy.path().join("data.mdb")).unwrap();
    let log = open(copy.path());
    (copy, log)
}

#[tokio::test]
async fn an_error_of_the_disk_is_never_acknowledged_over_and_stops_the_log() {
    for durability in [Durability::Strict, Durability::Pipelined] {
        for breaks_commits in [true, false] {
            if durability == Durability::Strict && !breaks_commits {
                continue; // Flushes on its own are for what is pipelined.
            }
            let dir = tempfile::tempdir().unwrap();
            let log = open_with(dir.path(), |c| c.durability = durability);
            topic(&log, "a", 1).await;
            let p = Partition::new("a", 0);
            assert_eq!(log.commit(mixed(&p, "old")).await.unwrap().len(), 2);
            {
                let store = log.0.shared.store();
                let faults = &store.as_ref().unwrap().faults;
                let broken = if breaks_commits { &faults.commits } else { &faults.flushes };
                broken.store(true, Ordering::Relaxed);
            }
            for _ in 0..3 {
                let refused = log.commit(mixed(&p, "new")).await;
                assert!(matches!(refused, Err(Error::Stopped(_))), "{durability:?}: {refused:?}");
            }
            // Nobody has seen what is not durable, although a pipelined commit is in the file by then.
            assert_eq!(bounds(&log, &p), (0, 2));
            assert_eq!(read_all(&log, &p, 0, 1 << 20).await.len(), 2);
            assert_eq!(log.state("test", b"k").unwrap(), Some(Bytes::from("old")));
            assert_eq!(log.states("test", b"").unwrap().len(), 1);
            assert_eq!(log.offset_at(&p, 0, 1 << 20).await.unwrap().map(|t| t.offset), Some(0));
            assert!(log.stopped().is_some_and(|why| why.to_string().contains("data file") || !breaks_commits));
            log.close().await;
            // Recovery goes on from what the file has.
            let log = open_with(dir.path(), |c| c.durability = durability);
            let (start, end) = bounds(&log, &p);
            assert_eq!(start, 0);
            assert!(end == 2 || end == 4 && !breaks_commits, "{end}");
            assert_eq!(append(&log, &p, batch(1, 1, 1, NONE)).await.base_offset, end);
        }
    }
}

#[tokio::test]
async fn a_topic_change_is_durable_before_anybody_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_with(dir.path(), |c| c.durability = Durability::Pipelined);
    log.0.shared.store().as_ref().unwrap().faults.flushes.store(true, Ordering::Relaxed);
    let create = Change::Create { name: "a".into(), partitions: 1, settings: BTreeMap::new() };
    assert!(matches!(log.change(create, state("v")).await, Err(Error::Stopped(_))));
    assert!(log.topics().borrow().by_name.is_empty());
    assert_eq!(log.state("test", b"k").unwrap(), None);
}

/// The loss window of a relaxed topic: what was acknowledged since the last commit, and that is never longer ago than
/// `linger`. Here the linger is too long to end by itself, so that the window is exact.
#[tokio::test]
async fn a_relaxed_topic_loses_what_was_acknowledged_since_the_last_commit() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_with(dir.path(), |c| c.linger = Duration::from_secs(3_600));
    topic_with(&log, "r", 1, &[("brooklet.durability", "relaxed")]).await;
    topic(&log, "s", 1).await;
    let (r, s) = (Partition::new("r", 0), Partition::new("s", 0));
    for offset in 0..5 {
        let sequence = i32::try_from(offset).unwrap();
        let taken = append(&log, &r, batch(1, 100, 5, (7, 0, sequence))).await;
        assert_eq!((taken.base_offset, taken.is_duplicate), (offset, false));
    }
    assert!(append(&log, &r, batch(1, 100, 5, (7, 0, 4))).await.is_duplicate, "a repeated one is recognised in RAM");
    assert_eq!(bounds(&log, &r), (0, 0), "no reader sees what a power cut could give to another record");
    assert_eq!(log.usage().commits, 2, "the topics only");
    let (_copy, cut) = after_a_kill(dir.path());
    assert_eq!(bounds(&cut, &r), (0, 0), "five acknowledged records are lost");
    cut.close().await;

    // Whatever commits takes them along.
    append(&log, &s, batch(1, 100, 5, NONE)).await;
    assert_eq!((bounds(&log, &r), log.usage().commits), ((0, 5), 3));
    let (_copy, cut) = after_a_kill(dir.path());
    assert_eq!(bounds(&cut, &r), (0, 5));
    cut.close().await;
    // An orderly stop loses nothing.
    append(&log, &r, batch(1, 100, 5, NONE)).await;
    log.close().await;
    let log = open(dir.path());
    assert_eq!(bounds(&log, &r), (0, 6));
}

/// Anything that must not be lost with the records keeps its write from being relaxed.
#[tokio::test]
async fn a_mixed_write_is_answered_when_the_strictest_part_is_satisfied() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_with(dir.path(), |c| c.linger = Duration::from_secs(3_600));
    topic_with(&log, "r", 1, &[("brooklet.durability", "relaxed")]).await;
    topic(&log, "s", 1).await;
    let (r, s) = (Partition::new("r", 0), Partition::new("s", 0));
    append(&log, &r, batch(1, 100, 5, NONE)).await;
    assert_eq!(log.usage().commits, 2);
    let mut both = write(&r, batch(1, 100, 5, NONE));
    both.batches.push(Append { partition: s.clone(), batch: batch(1, 100, 5, NONE).into() });
    assert_eq!(log.commit(both).await.unwrap()[0].base_offset, 1);
    assert_eq!((bounds(&log, &r), bounds(&log, &s), log.usage().commits), ((0, 2), (0, 1), 3));
    append(&log, &r, batch(1, 100, 5, NONE)).await;
    log.commit(Write { state: state("v"), ..write(&r, batch(1, 100, 5, NONE)) }).await.unwrap();
    assert_eq!((bounds(&log, &r), log.usage().commits), ((0, 4), 4));
    // Without the setting it waits for the flush as any other.
    let settings = BTreeMap::from([("brooklet.durability".to_owned(), None)]);
    log.change(Change::Alter { name: "r".into(), settings }, vec![]).await.unwrap();
    append(&log, &r, batch(1, 100, 5, NONE)).await;
    assert_eq!(bounds(&log, &r), (0, 5));
}
