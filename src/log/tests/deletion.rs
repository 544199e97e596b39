//! What goes in which order, what is told of it, and that it never holds up others.

use super::{events::events, *};

const LINK: &str = "central";

fn link() -> Arc<str> {
    LINK.into()
}

/// A log with a small quota whose link wants the topics that begin with `m`.
fn small(dir: &Path, on_full: OnFull) -> Log {
    let log = open_with(dir, |c| {
        c.quota_bytes = Some(4 << 20);
        c.on_full = on_full;
    });
    log.protect(&link(), |topic| topic.starts_with('m'));
    log
}

/// Appends so many chunks.
async fn fill(log: &Log, p: &Partition, chunks: usize) -> Result<(), Error> {
    for _ in 0..chunks {
        log.commit(write(p, batch(10, 60_000, 5, NONE))).await?;
    }
    Ok(())
}

fn kept(log: &Log, p: &Partition) -> i64 {
    let (start, end) = bounds(log, p);
    (end - start) / 10
}

#[tokio::test]
async fn what_is_safe_goes_before_what_is_not_whatever_its_age_and_priority() {
    let dir = memory_dir();
    let log = small(dir.path(), OnFull::DropOldest);
    topic_with(&log, "m.bulk", 1, &[("brooklet.priority", "9")]).await;
    topic_with(&log, "m.done", 1, &[("brooklet.priority", "0")]).await;
    topic(&log, "local", 1).await;
    let [bulk, done, local] = ["m.bulk", "m.done", "local"].map(|name| Partition::new(name, 0));
    fill(&log, &bulk, 30).await.unwrap();
    fill(&log, &done, 15).await.unwrap();
    fill(&log, &local, 10).await.unwrap();
    log.set_mirrored(&link(), &done, 150);
    // 64 chunks fit: what no link wants goes first (priority 5 before 0), then what is mirrored.
    fill(&log, &bulk, 15).await.unwrap();
    assert_eq!((kept(&log, &bulk), kept(&log, &done)), (45, 15));
    assert!(kept(&log, &local) < 10);
    fill(&log, &bulk, 15).await.unwrap();
    assert_eq!((kept(&log, &bulk), kept(&log, &local)), (60, 0));
    assert!((1..8).contains(&kept(&log, &done)), "{}", kept(&log, &done));
    assert_eq!(log.gaps().unwrap(), []);
    assert_eq!(log.usage().gap_records, 0);
    assert!(log.topics().borrow().get(EVENTS_TOPIC).is_none());
}

#[tokio::test]
async fn what_is_lost_is_in_the_ledger_and_in_the_events_by_the_same_commit() {
    let dir = memory_dir();
    let mut log = small(dir.path(), OnFull::DropOldest);
    topic_with(&log, "m.a", 1, &[("brooklet.priority", "9")]).await;
    topic_with(&log, "m.b", 1, &[("brooklet.priority", "1")]).await;
    let (a, b) = (Partition::new("m.a", 0), Partition::new("m.b", 0));
    fill(&log, &b, 20).await.unwrap();
    fill(&log, &a, 20).await.unwrap();
    log.set_mirrored(&link(), &a, 55);
    for round in 0..60 {
        fill(&log, &b, 1).await.unwrap();
        let gaps = log.gaps().unwrap();
        // At every moment: every offset is kept, was mirrored, or is in the ledger.
        for (p, safe) in [(&a, 55), (&b, 0)] {
            let start = bounds(&log, p).0;
            let of = gaps.iter().filter(|g| g.topic == p.topic);
            let lost: Vec<(i64, i64, u64)> = of.map(|g| (g.from, g.to, g.records)).collect();
            let due = if start > safe { vec![(safe, start, (start - safe) as u64)] } else { Vec::new() };
            assert_eq!(lost, due, "{round}");
        }
        if round % 20 == 0 {
            log.close().await;
            log = small(dir.path(), OnFull::DropOldest);
            log.set_mirrored(&link(), &a, 55);
        }
    }
    assert_eq!(kept(&log, &a), 0, "9 is deleted before 1");
    let gaps = log.gaps().unwrap();
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    assert_eq!((gaps[0].from, gaps[0].to, gaps[0].reason), (55, 200, GapReason::Quota));
    assert!((850_000..880_000).contains(&gaps[0].bytes), "{}", gaps[0].bytes);
    assert!(gaps[0].time_ms.is_some_and(|ms| ms > 1_700_000_000_000));
    let told = events(&log).await;
    assert!(told.iter().all(|(key, _)| key == "gap"));
    let sum = |topic: &str| -> u64 {
        told.iter()
            .filter(|(_, e)| e["data"]["topic"] == topic)
            .map(|(_, e)| e["data"]["records"].as_u64().unwrap())
            .sum()
    };
    assert_eq!((sum("m.a"), sum("m.b")), (gaps[0].records, gaps[1].records));
    assert_eq!(log.usage().gap_records, gaps[0].records + gaps[1].records);
    // A topic takes its entries along.
    log.change(Change::Delete { name: "m.a".into() }, vec![]).await.unwrap();
    assert_eq!(log.gaps().unwrap().len(), 1);
    log.close().await;
    let log = small(dir.path(), OnFull::DropOldest);
    assert_eq!(log.usage().gap_records, gaps[1].records);
}

#[tokio::test]
async fn what_a_link_wants_outlives_its_retention_until_there_is_no_room() {
    let dir = memory_dir();
    let start = 1_790_000_000_000;
    let now = Arc::new(AtomicI64::new(start));
    let log = open_with(dir.path(), |c| c.clock = clock_at(&now));
    log.protect(&link(), |topic| topic.starts_with('m'));
    topic_with(&log, "m.a", 1, &[("retention.ms", "60000")]).await;
    topic_with(&log, "m.size", 1, &[("retention.bytes", "100000")]).await;
    let (a, size) = (Partition::new("m.a", 0), Partition::new("m.size", 0));
    fill(&log, &a, 4).await.unwrap();
    append(&log, &a, batch(1, 50, 0, NONE)).await;
    fill(&log, &size, 4).await.unwrap();
    now.store(start + 100_000, Ordering::Relaxed);
    log.retain().await.unwrap();
    assert_eq!((bounds(&log, &a), bounds(&log, &size)), ((0, 41), (0, 40)));
    log.set_mirrored(&link(), &a, 25);
    log.retain().await.unwrap();
    assert_eq!(bounds(&log, &a), (20, 41), "what is mirrored has no reason to stay");
    log.set_mirrored(&link(), &a, 41);
    log.set_mirrored(&link(), &size, 40);
    log.retain().await.unwrap();
    assert_eq!((bounds(&log, &a), bounds(&log, &size)), ((41, 41), (20, 40)));
    assert_eq!(log.gaps().unwrap(), []);
}

#[tokio::test]
async fn refusing_gives_up_what_is_mirrored_and_nothing_else() {
    let dir = memory_dir();
    let log = small(dir.path(), OnFull::Reject);
    topic(&log, "m.a", 1).await;
    topic(&log, "local", 1).await;
    let (a, local) = (Partition::new("m.a", 0), Partition::new("local", 0));
    fill(&log, &local, 10).await.unwrap();
    assert_eq!(fill(&log, &a, 100).await, Err(Error::Full));
    let end = bounds(&log, &a).1;
    assert_eq!((kept(&log, &local), kept(&log, &a)), (10, end / 10));
    assert_eq!(fill(&log, &a, 1).await, Err(Error::Full));
    // Space returns as the mirror gets on, without a restart.
    log.set_mirrored(&link(), &a, end / 2);
    fill(&log, &a, 10).await.unwrap();
    let (start, now) = bounds(&log, &a);
    assert!(start > 0 && start <= end / 2 && now == end + 100, "{start} {now}");
    assert_eq!(fill(&log, &a, 100).await, Err(Error::Full));
    assert!(bounds(&log, &a).0 <= end / 2);
    assert_eq!((kept(&log, &local), log.gaps().unwrap().len()), (10, 0));
}

#[tokio::test]
async fn a_request_to_delete_what_is_not_mirrored_is_a_gap_too() {
    let dir = memory_dir();
    let log = small(dir.path(), OnFull::DropOldest);
    topic(&log, "m.a", 1).await;
    let a = Partition::new("m.a", 0);
    fill(&log, &a, 5).await.unwrap();
    log.set_mirrored(&link(), &a, 10);
    for offset in [5, 10, 35, 35] {
        log.change(Change::TrimBefore { partition: a.clone(), offset }, vec![]).await.unwrap();
    }
    let gaps = log.gaps().unwrap();
    assert_eq!(gaps.iter().map(|g| (g.from, g.to, g.reason)).collect::<Vec<_>>(), [(10, 35, GapReason::Request)]);
}

#[tokio::test]
async fn a_topic_made_later_is_wanted_from_its_first_record_on() {
    let dir = memory_dir();
    let log = small(dir.path(), OnFull::DropOldest);
    topic(&log, "local", 1).await;
    topic(&log, "m.new", 1).await;
    log.change(Change::Grow { name: "m.new".into(), partitions: 2 }, vec![]).await.unwrap();
    let (local, new) = (Partition::new("local", 0), Partition::new("m.new", 1));
    fill(&log, &new, 10).await.unwrap();
    fill(&log, &local, 70).await.unwrap();
    assert_eq!(bounds(&log, &new), (0, 100));
    assert!(bounds(&log, &local).0 > 0);
}

/// The events are told while the centre is away, for as long as that lasts.
#[tokio::test]
async fn events_do_not_fill_the_log_with_themselves() {
    let dir = memory_dir();
    let log = small(dir.path(), OnFull::DropOldest);
    log.protect(&"other".into(), |topic| topic == EVENTS_TOPIC);
    let text = "x".repeat(30_000);
    for _ in 0..100 {
        log.tell(Event::new(EventKind::Quarantine, text.clone(), serde_json::json!({}))).await.unwrap();
    }
    log.retain().await.unwrap();
    let p = Partition::new(EVENTS_TOPIC, 0);
    assert!((1 << 20..(1 << 20) + 200_000).contains(&log.partition_bytes(&p).unwrap()));
    let gaps = log.gaps().unwrap();
    assert_eq!((gaps.len(), gaps[0].from, gaps[0].reason), (1, 0, GapReason::Retention));
    assert_eq!(gaps[0].to, bounds(&log, &p).0);
}

/// Deleting a backlog takes commits of at most sixteen chunks, each with what waits.
#[tokio::test]
async fn a_huge_backlog_is_deleted_a_few_chunks_at_a_time() {
    let dir = memory_dir();
    let start = 1_790_000_000_000;
    let now = Arc::new(AtomicI64::new(start));
    let log = open_with(dir.path(), |c| c.clock = clock_at(&now));
    topic_with(&log, "a", 1, &[("retention.ms", "60000")]).await;
    let p = Partition::new("a", 0);
    fill(&log, &p, 200).await.unwrap();
    now.store(start + 100_000, Ordering::Relaxed);
    let before = log.usage().commits;
    log.retain().await.unwrap();
    assert_eq!(bounds(&log, &p), (2_000, 2_000));
    assert_eq!(log.usage().commits - before, 200_u64.div_ceil(16));
}

/// Four times the map through a full log, small and large batches, deleted in an order that is not the one of sealing.
/// What the file has beside live data is about 3 MiB and a twentieth: 1.09 times the live bytes when last measured.
#[tokio::test]
async fn the_file_stays_within_a_tenth_of_what_is_live() {
    let dir = memory_dir();
    let log = open_with(dir.path(), |c| c.quota_bytes = Some(64 << 20));
    log.protect(&link(), |topic| topic == "a");
    topic(&log, "a", 10).await;
    topic_with(&log, "b", 10, &[("brooklet.priority", "9")]).await;
    let map_bytes = store::map_bytes(64 << 20);
    let mut random = 7u32;
    let mut first_lap = 0;
    while log.usage().ingested_bytes < 4 * map_bytes {
        let mut whole = Write::default();
        for _ in 0..8 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let p =
                Partition::new(if random >> 31 == 0 { "a" } else { "b" }, i32::try_from(random >> 16).unwrap() % 10);
            let body = if random.is_multiple_of(16) { 40_000 } else { 200 + usize::try_from(random % 3_000).unwrap() };
            whole.batches.push(Append { partition: p, batch: batch(1, body, 5, NONE).into() });
        }
        log.commit(whole).await.unwrap();
        if first_lap == 0 && log.usage().ingested_bytes >= map_bytes {
            first_lap = log.usage().file_bytes;
        }
    }
    let Usage { file_bytes, live_bytes, .. } = log.usage();
    assert!(file_bytes * 100 <= live_bytes * 110, "{file_bytes} for {live_bytes}");
    // It grows by a MiB at a time.
    assert!(file_bytes <= first_lap + (3 << 20), "{file_bytes} after {first_lap}");
    let lost: u64 = log.gaps().unwrap().iter().map(|g| g.records).sum();
    assert!(lost > 0 && log.gaps().unwrap().len() <= 12);
}
