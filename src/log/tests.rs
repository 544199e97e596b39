//! Tests of the whole log: against a model, across restarts, at its limits.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use super::{header::tests::batch, *};
use crate::{metrics::Registry, record::Partition};

mod archive;
mod compaction;
mod damage;
mod deletion;
mod disk;
mod events;
mod levels;
mod migration;
mod model;
mod time;
mod transactions;
mod wear;

const NONE: (i64, i16, i32) = (-1, -1, -1);

/// Opens a log whose commits wait for nothing.
fn open(dir: &Path) -> Log {
    open_with(dir, |_| {})
}

fn open_with(dir: &Path, set: impl FnOnce(&mut Config)) -> Log {
    let mut config = Config::new(dir);
    config.quota_bytes = Some(64 << 20);
    config.linger = Duration::ZERO;
    config.ack_linger = Duration::ZERO;
    // Time stands still where a test does not move it, and is believed when it does.
    config.kernel = Arc::new(|| KernelTime { uptime_ms: 1_000, is_synchronised: true });
    set(&mut config);
    Log::open(config, &Registry::default()).unwrap()
}

/// A directory in memory where there is one: pages are counted there as on a disk, and flushes take no time.
fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

async fn topic(log: &Log, name: &str, partitions: i32) -> Arc<Topic> {
    topic_with(log, name, partitions, &[]).await
}

async fn topic_with(log: &Log, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Arc<Topic> {
    let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    log.change(Change::Create { name: name.into(), partitions, settings }, vec![]).await.unwrap()
}

fn write(partition: &Partition, batch: Vec<u8>) -> Write {
    Write { batches: vec![Append { partition: partition.clone(), batch: batch.into() }], ..Write::default() }
}

async fn append(log: &Log, partition: &Partition, batch: Vec<u8>) -> Appended {
    log.commit(write(partition, batch)).await.unwrap()[0]
}

fn bounds(log: &Log, partition: &Partition) -> (Offset, Offset) {
    let bounds = *log.watch(partition).unwrap().borrow();
    (bounds.start, bounds.high_watermark)
}

/// All batches from `from` on, read with a small limit so that many reads are needed.
async fn read_all(log: &Log, partition: &Partition, from: Offset, max_bytes: usize) -> Vec<Bytes> {
    let mut out = Vec::new();
    let mut next = from;
    loop {
        let slice = log.read(partition, next, max_bytes).await.unwrap();
        if slice.batches.is_empty() {
            return out;
        }
        let mut at = 0;
        for (_, header) in header::headers(&slice.batches) {
            out.push(slice.batches.slice(at..at + header.bytes));
            at += header.bytes;
            next = header.last() + 1;
        }
        assert_eq!(at, slice.batches.len(), "only whole batches");
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    topic(&log, "a", 2).await;
    let (p0, p1) = (Partition::new("a", 0), Partition::new("a", 1));
    assert_eq!(append(&log, &p0, batch(3, 100, 5, NONE)).await.base_offset, 0);
    assert_eq!(append(&log, &p0, batch(2, 70_000, 6, NONE)).await.base_offset, 3);
    assert_eq!(append(&log, &p1, batch(1, 10, 7, NONE)).await.last_offset, 0);
    let state = vec![StateWrite { owner: "test", key: "k".into(), value: Some("v".into()) }];
    log.commit(Write { state, ..Write::default() }).await.unwrap();
    let incarnation = log.incarnation();
    let before = read_all(&log, &p0, 0, 1).await;
    log.close().await;
    assert!(matches!(log.commit(write(&p0, batch(1, 1, 1, NONE))).await, Err(Error::Stopped(_))));
    assert!(matches!(log.read(&p0, 3, 1).await, Ok(_) | Err(Error::Stopped(_))));

    let log = open(dir.path());
    assert_eq!(log.incarnation(), incarnation);
    assert_eq!((bounds(&log, &p0), bounds(&log, &p1)), ((0, 5), (0, 1)));
    assert_eq!(read_all(&log, &p0, 0, 1 << 20).await, before);
    assert_eq!(before[1].len(), 70_061);
    assert_eq!(log.state("test", b"k").unwrap(), Some(Bytes::from("v")));
    assert_eq!(append(&log, &p0, batch(1, 10, 8, NONE)).await.base_offset, 5);
}

#[tokio::test]
async fn a_write_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    topic(&log, "a", 2).await;
    let (p0, p1) = (Partition::new("a", 0), Partition::new("a", 1));
    let mut whole = write(&p0, batch(3, 100, 5, (1, 0, 0)));
    whole.batches.push(Append { partition: p1.clone(), batch: Bytes::from_static(b"no batch at all") });
    whole.state.push(StateWrite { owner: "test", key: "k".into(), value: Some("v".into()) });
    assert_eq!(log.commit(whole).await, Err(Error::Corrupt(p1.clone())));
    assert_eq!(bounds(&log, &p0), (0, 0));
    assert_eq!(log.state("test", b"k").unwrap(), None);
    // Nor has the producer's sequence moved.
    assert!(!append(&log, &p0, batch(3, 100, 5, (1, 0, 0))).await.is_duplicate);
    let unknown = Partition::new("a", 2);
    assert_eq!(log.commit(write(&unknown, batch(1, 1, 1, NONE))).await, Err(Error::UnknownPartition(unknown)));
}

#[tokio::test]
async fn reads_begin_with_the_batch_that_holds_the_offset() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    topic(&log, "a", 1).await;
    let p = Partition::new("a", 0);
    for i in 0..600 {
        append(&log, &p, batch(10, 200, i, NONE)).await;
    }
    let whole = read_all(&log, &p, 0, 1 << 20).await;
    assert_eq!(whole.len(), 600);
    for from in [0, 9, 10, 15, 2_505, 3_000, 5_990, 5_999] {
        for max_bytes in [0, 1, 261, 522, 10_000, 1 << 20] {
            let slice = log.read(&p, from, max_bytes).await.unwrap();
            let first = usize::try_from(from / 10).unwrap();
            assert!(slice.batches.starts_with(&whole[first]), "{from} {max_bytes}");
            assert!(slice.batches.len() <= max_bytes.max(261), "{from} {max_bytes}");
            let fits = (max_bytes / 261).clamp(1, 600 - first);
            assert_eq!(slice.batches, whole[first..first + fits].concat(), "{from} {max_bytes}");
        }
    }
    assert!(log.read(&p, 6_000, 1).await.unwrap().batches.is_empty());
    for from in [-1, 6_001] {
        let error = log.read(&p, from, 1).await.unwrap_err();
        assert_eq!(error, Error::OutOfRange { offset: from, start: 0, end: 6_000 });
    }
}

#[tokio::test]
async fn idempotent_producers_survive_sealing_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    topic(&log, "a", 1).await;
    let p = Partition::new("a", 0);
    // Small batches stay in the journal, large ones are sealed at once.
    for (sequence, body) in [(0, 50), (1, 40_000), (2, 50), (3, 70_000), (4, 50)] {
        let first = append(&log, &p, batch(1, body, 5, (9, 2, sequence))).await;
        assert!(!first.is_duplicate);
        for is_reopened in [false, true] {
            if is_reopened {
                log.close().await;
                log = open(dir.path());
            }
            let again = append(&log, &p, batch(1, body, 5, (9, 2, sequence))).await;
            assert_eq!((again.base_offset, again.is_duplicate), (first.base_offset, true));
        }
    }
    let error = log.commit(write(&p, batch(1, 50, 5, (9, 2, 7)))).await.unwrap_err();
    assert!(matches!(error, Error::Sequence { reason: SequenceError::OutOfOrder { expected: 5, got: 7 }, .. }));
    let error = log.commit(write(&p, batch(1, 50, 5, (9, 1, 5)))).await.unwrap_err();
    assert!(matches!(error, Error::Sequence { reason: SequenceError::OldEpoch { known: 2, got: 1 }, .. }));
    assert_eq!(bounds(&log, &p), (0, 5));
}

#[tokio::test]
async fn producer_ids_are_never_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let log = open(dir.path());
        for _ in 0..5 {
            assert!(seen.insert(log.next_producer_id().await.unwrap()));
        }
        log.close().await;
    }
}

#[tokio::test]
async fn topics_change_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let made = topic_with(&log, "a", 1, &[("x", "1"), ("y", "2")]).await;
    let exists = log.change(Change::Create { name: "a".into(), partitions: 1, settings: BTreeMap::new() }, vec![]);
    assert_eq!(exists.await, Err(Error::TopicExists("a".into())));
    let settings = BTreeMap::from([("x".to_owned(), None), ("z".to_owned(), Some("3".to_owned()))]);
    let altered = log.change(Change::Alter { name: "a".into(), settings }, vec![]).await.unwrap();
    assert_eq!(altered.settings.keys().collect::<Vec<_>>(), ["y", "z"]);
    topic(&log, "b", 1).await;
    log.change(Change::Grow { name: "a".into(), partitions: 3 }, vec![]).await.unwrap();
    append(&log, &Partition::new("a", 2), batch(1, 1, 1, NONE)).await;
    let mut watch = log.watch(&Partition::new("b", 0)).unwrap();
    let deleted = log.change(Change::Delete { name: "b".into() }, vec![]).await.unwrap();
    assert_eq!(&*deleted.name, "b");
    while watch.changed().await.is_ok() {}
    assert!(matches!(log.watch(&Partition::new("b", 0)), Err(Error::UnknownPartition(_))));
    log.close().await;

    let log = open(dir.path());
    let topics = log.topics().borrow().clone();
    assert_eq!(topics.by_name.len(), 1);
    let a = topics.get("a").unwrap();
    assert_eq!((a.id, a.partitions, a.settings["z"].as_str()), (made.id, 3, "3"));
    assert_eq!(bounds(&log, &Partition::new("a", 2)), (0, 1));
    let again = topic(&log, "b", 2).await;
    assert_ne!(again.id, deleted.id);
}

#[tokio::test]
async fn deleting_a_topic_frees_its_pages() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    topic(&log, "a", 1).await;
    for i in 0..100 {
        append(&log, &Partition::new("a", 0), batch(1, 60_000, i, NONE)).await;
    }
    assert!(log.usage().live_bytes > 6_000_000);
    log.change(Change::Delete { name: "a".into() }, vec![]).await.unwrap();
    log.retain().await.unwrap();
    assert!(log.usage().live_bytes < 300_000, "{}", log.usage().live_bytes);
}

#[tokio::test]
async fn trimming_moves_the_start_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    topic(&log, "a", 1).await;
    let p = Partition::new("a", 0);
    for i in 0..10 {
        append(&log, &p, batch(10, if i % 3 == 0 { 40_000 } else { 50 }, i, NONE)).await;
    }
    for (ask, start) in [(25, 25), (20, 25), (61, 61), (-1, 100)] {
        let change = Change::TrimBefore { partition: p.clone(), offset: ask };
        log.change(change, vec![]).await.unwrap();
        for _ in 0..2 {
            assert_eq!(bounds(&log, &p), (start, 100));
            assert!(matches!(log.read(&p, start - 1, 1).await, Err(Error::OutOfRange { .. })));
            let slice = log.read(&p, start, 1 << 20).await.unwrap().batches;
            let first = header::Header::parse(&slice).map(|h| h.base);
            assert_eq!(first, (start < 100).then_some(start / 10 * 10));
            log.close().await;
            log = open(dir.path());
        }
    }
    let beyond = log.change(Change::TrimBefore { partition: p.clone(), offset: 101 }, vec![]).await;
    assert!(matches!(beyond, Err(Error::OutOfRange { .. })));
    // The end of an emptied log is not used again.
    assert_eq!(append(&log, &p, batch(1, 1, 1, NONE)).await.base_offset, 100);
}

#[tokio::test]
async fn what_a_trim_leaves_is_there_after_the_trimmed_chunks_have_gone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    topic(&log, "a", 1).await;
    let p = Partition::new("a", 0);
    // Every batch is a chunk of its own, and the tail is empty.
    for i in 0..10 {
        append(&log, &p, batch(10, 40_000, i, NONE)).await;
    }
    log.change(Change::TrimBefore { partition: p.clone(), offset: 70 }, vec![]).await.unwrap();
    log.retain().await.unwrap();
    log.close().await;
    let log = open(dir.path());
    assert_eq!(bounds(&log, &p), (70, 100));
    assert_eq!(read_all(&log, &p, 70, 1 << 20).await.len(), 3);
}

#[tokio::test]
async fn batches_that_claim_ever_so_many_records_are_sealed_apart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_with(dir.path(), |config| config.quota_bytes = Some(2 << 20));
    topic(&log, "a", 3).await;
    let [full, forced, other] = [0, 1, 2].map(|index| Partition::new("a", index));
    for p in [&full, &forced] {
        for _ in 0..5 {
            append(&log, p, batch(i32::MAX, 10, 1, NONE)).await;
        }
    }
    append(&log, &full, batch(1, 40_000, 1, NONE)).await;
    // The journal reaches its cap, so the oldest tail is sealed.
    for _ in 0..40 {
        append(&log, &other, batch(1, 20_000, 1, NONE)).await;
    }
    assert!(!log.0.shared.part(&forced).unwrap().lock().chunks.is_empty());
    log.close().await;
    let log = open(dir.path());
    for (p, count) in [(&full, 6), (&forced, 5)] {
        assert_eq!(bounds(&log, p), (0, 5 * i64::from(i32::MAX) + count - 5));
        assert_eq!(read_all(&log, p, 0, 1 << 20).await.len(), usize::try_from(count).unwrap());
    }
}

#[tokio::test]
async fn a_chunk_that_reaches_beyond_the_high_watermark_ends_the_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    topic(&log, "a", 1).await;
    let p = Partition::new("a", 0);
    append(&log, &p, batch(10, 40_000, 1, NONE)).await;
    // As between a commit and the moment its bounds are published.
    log.0.shared.part(&p).unwrap().lock().bounds.high_watermark = 5;
    assert_eq!(log.read(&p, 3, 1 << 20).await.unwrap().bounds.high_watermark, 5);
    assert!(matches!(log.read(&p, 6, 1).await, Err(Error::OutOfRange { .. })));
}

fn clock_at(ms: &Arc<AtomicI64>) -> Clock {
    let ms = Arc::clone(ms);
    Arc::new(move || ms.load(Ordering::Relaxed))
}

#[tokio::test]
async fn age_empties_a_topic_tail_and_all_and_the_end_stays() {
    let dir = tempfile::tempdir().unwrap();
    let start = 1_790_000_000_000;
    let now = Arc::new(AtomicI64::new(start));
    let log = open_with(dir.path(), |c| c.clock = clock_at(&now));
    topic_with(&log, "a", 1, &[("retention.ms", "60000")]).await;
    topic_with(&log, "compacted", 1, &[("cleanup.policy", "compact"), ("retention.ms", "60000")]).await;
    let (p, c) = (Partition::new("a", 0), Partition::new("compacted", 0));
    for _ in 0..5 {
        append(&log, &p, batch(1, 40_000, i64::MAX, NONE)).await;
        append(&log, &c, batch(1, 40_000, 0, NONE)).await;
    }
    append(&log, &p, batch(1, 50, 0, NONE)).await;
    now.store(start + 50_000, Ordering::Relaxed);
    log.retain().await.unwrap();
    assert_eq!(bounds(&log, &p), (0, 6));
    now.store(5, Ordering::Relaxed);
    log.retain().await.unwrap();
    assert_eq!(bounds(&log, &p), (0, 6), "a clock at 1970 deletes nothing");
    now.store(start + 62_000, Ordering::Relaxed);
    log.retain().await.unwrap();
    assert_eq!(bounds(&log, &p), (6, 6));
    assert_eq!(bounds(&log, &c), (0, 5));
    log.close().await;
    let log = open(dir.path());
    assert_eq!(bounds(&log, &p), (6, 6));
    assert_eq!(append(&log, &p, batch(1, 1, 1, NONE)).await.base_offset, 6);
}

#[tokio::test]
async fn size_per_partition_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    topic_with(&log, "a", 1, &[("retention.bytes", "200000")]).await;
    topic(&log, "b", 1).await;
    let (a, b) = (Partition::new("a", 0), Partition::new("b", 0));
    for i in 0..10 {
        append(&log, &a, batch(1, 50_000, i, NONE)).await;
        append(&log, &b, batch(1, 50_000, i, NONE)).await;
    }
    log.retain().await.unwrap();
    assert!((200_000..260_000).contains(&log.partition_bytes(&a).unwrap()));
    assert_eq!(bounds(&log, &b), (0, 10));
    log.set_retention_defaults(-1, 100_000);
    log.retain().await.unwrap();
    assert!((100_000..160_000).contains(&log.partition_bytes(&b).unwrap()));
}

#[tokio::test]
async fn the_quota_drops_the_oldest_and_the_file_stops_growing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_with(dir.path(), |c| c.quota_bytes = Some(4 << 20));
    topic(&log, "a", 3).await;
    let mut file_bytes = 0;
    for i in 0..1_500u16 {
        let p = Partition::new("a", i32::from(i % 3));
        append(&log, &p, batch(1, 100 + usize::from(i % 7) * 9_000, 5, NONE)).await;
        if i == 750 {
            file_bytes = log.usage().file_bytes;
        }
    }
    let usage = log.usage();
    assert!(usage.live_bytes <= (4 << 20) + (1 << 19), "{}", usage.live_bytes);
    assert!(usage.file_bytes <= file_bytes + file_bytes / 20, "{} after {file_bytes}", usage.file_bytes);
    for index in 0..3 {
        let p = Partition::new("a", index);
        let (start, end) = bounds(&log, &p);
        assert!(start > 0 && end == 500);
        assert_eq!(read_all(&log, &p, start, 100_000).await.len(), usize::try_from(end - start).unwrap());
    }
}

#[tokio::test]
async fn reject_refuses_records_and_takes_state_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_with(dir.path(), |c| {
        c.quota_bytes = Some(2 << 20);
        c.on_full = OnFull::Reject;
    });
    topic(&log, "a", 1).await;
    let p = Partition::new("a", 0);
    let mut taken = 0;
    let error = loop {
        match log.commit(write(&p, batch(1, 30_000, 5, NONE))).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100);
    };
    assert_eq!(error, Error::Full);
    assert_eq!(bounds(&log, &p), (0, taken));
    let state = vec![StateWrite { owner: "test", key: "k".into(), value: Some("v".into()) }];
    log.commit(Write { state, ..Write::default() }).await.unwrap();
    log.change(Change::TrimBefore { partition: p.clone(), offset: taken / 2 }, vec![]).await.unwrap();
    log.retain().await.unwrap();
    assert_eq!(append(&log, &p, batch(1, 30_000, 5, NONE)).await.base_offset, taken);
}

#[tokio::test]
async fn an_idle_log_writes_nothing_and_its_heart_beats() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    topic(&log, "a", 1).await;
    let before = log.usage();
    let (written, file) = (before.written_bytes, std::fs::read(dir.path().join("data.mdb")).unwrap());
    tokio::time::sleep(Duration::from_millis(2_300)).await;
    let after = log.usage();
    assert!((2..=4).contains(&(after.heartbeat - before.heartbeat)), "{}", after.heartbeat - before.heartbeat);
    assert_eq!(after.written_bytes, written);
    assert_eq!(std::fs::read(dir.path().join("data.mdb")).unwrap(), file);
}

/// Records of these timestamps in one batch each.
fn timed(groups: &[&[i64]], codec: crate::record::Codec) -> Vec<Vec<u8>> {
    let one = |times: &&[i64]| {
        let mut builder = crate::record::Builder::new();
        for ms in *times {
            builder.push(*ms, None, Some(b"value"), &[]).unwrap();
        }
        builder.finish(codec, 3).to_vec()
    };
    groups.iter().map(one).collect()
}

#[tokio::test]
async fn times_are_found_record_by_record() {
    let dir = memory_dir();
    let log = open(dir.path());
    topic(&log, "a", 1).await;
    let p = Partition::new("a", 0);
    let at = async |ms| log.offset_at(&p, ms, 1 << 20).await.unwrap().map(|t| (t.offset, t.timestamp_ms));
    assert_eq!(at(0).await, None);
    assert_eq!(log.max_timestamp(&p, 1 << 20).await.unwrap(), None);
    // Out of order on purpose: the second batch is older than the first.
    let groups: [&[i64]; 4] = [&[10, 30, 20], &[5, 6], &[40, 50, 41], &[50, 7]];
    for (index, bytes) in timed(&groups, crate::record::Codec::Zstd).into_iter().enumerate() {
        append(&log, &p, bytes).await;
        if index == 1 {
            // Large enough to seal what is there.
            append(&log, &p, batch(1, 40_000, 1, NONE)).await;
        }
    }
    for (ms, found) in [(0, (0, 10)), (10, (0, 10)), (11, (1, 30)), (31, (6, 40)), (41, (7, 50)), (50, (7, 50))] {
        assert_eq!(at(ms).await, Some(found), "{ms}");
    }
    assert_eq!(at(51).await, None);
    assert_eq!(
        log.max_timestamp(&p, 1 << 20).await.unwrap(),
        Some(Timed { offset: 7, timestamp_ms: 50, is_too_large_to_unpack: false })
    );
    log.change(Change::TrimBefore { partition: p.clone(), offset: 8 }, vec![]).await.unwrap();
    assert_eq!(at(0).await, Some((8, 41)));
    assert_eq!(at(42).await, Some((9, 50)));
}
