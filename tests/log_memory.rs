//! Reading the log must not make its file resident: `top` shows clean pages of a map as memory in use.
//!
//! In a binary of its own, so that no other test's memory is counted. Needs no peer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use brooklet::{
    log::{Append, Change, Config, Log, StateWrite, Write},
    metrics::Registry,
    record::{Builder, Codec, Partition},
};

/// Resident pages of files, in KiB.
fn rss_file_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssFile:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Both look at the memory of the whole process: one after the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn reading_12_mib_of_state_leaves_resident_memory_as_it_was() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(Config::new(dir.path()), &Registry::default()).unwrap();
    for block in 0..80 {
        let entry = |at: usize| StateWrite {
            owner: "test",
            key: format!("{:04}", block * 100 + at).into(),
            value: Some(vec![7; 1500].into()),
        };
        log.commit(Write { state: (0..100).map(entry).collect(), ..Write::default() }).await.unwrap();
    }
    let before = rss_file_kib();
    assert_eq!(log.states("test", b"").unwrap().len(), 8000);
    let after = rss_file_kib();
    assert!(after < before + 4096, "{before} KiB of files resident before, {after} KiB after");
    log.close().await;
}

#[tokio::test]
async fn changing_state_everywhere_leaves_resident_memory_as_it_was() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(Config::new(dir.path()), &Registry::default()).unwrap();
    let entry =
        |at: usize| StateWrite { owner: "test", key: format!("{at:05}").into(), value: Some(vec![7; 1500].into()) };
    for block in 0..160 {
        let state = (0..100).map(|at| entry(block * 100 + at)).collect();
        log.commit(Write { state, ..Write::default() }).await.unwrap();
    }
    let (before, mut most) = (rss_file_kib(), 0);
    // Each change moves to its leaf when the journal is cut, far from the one before.
    for turn in 0..4000 {
        log.commit(Write { state: vec![entry(turn * 7919 % 16_000)], ..Write::default() }).await.unwrap();
        most = most.max(rss_file_kib());
    }
    assert!(most < before + 5120, "{before} KiB of files resident before, {most} KiB at the most");
    log.close().await;
}

#[tokio::test]
async fn reading_256_mib_leaves_resident_memory_as_it_was() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    config.quota_bytes = Some(400 << 20);
    let log = Log::open(config.clone(), &Registry::default()).unwrap();
    let create = Change::Create { name: "a".into(), partitions: 1, settings: BTreeMap::new() };
    log.change(create, vec![]).await.unwrap();
    let partition = Partition::new("a", 0);
    let mut builder = Builder::new();
    for _ in 0..64 {
        builder.push(1, None, Some(&[7; 1000]), &[]).unwrap();
    }
    let batch = builder.finish(Codec::None, 0);
    for _ in 0..256 {
        let batches = (0..16).map(|_| Append { partition: partition.clone(), batch: batch.clone() }).collect();
        log.commit(Write { batches, ..Write::default() }).await.unwrap();
    }
    log.close().await;
    let log = Log::open(config, &Registry::default()).unwrap();

    let before = rss_file_kib();
    let (mut from, mut bytes) = (0, 0);
    loop {
        let slice = log.read(&partition, from, 1 << 20).await.unwrap();
        if slice.batches.is_empty() {
            break;
        }
        bytes += slice.batches.len();
        from += 64 * i64::try_from(slice.batches.len() / batch.len()).unwrap();
    }
    let after = rss_file_kib();
    assert_eq!((from, bytes), (256 * 16 * 64, 256 * 16 * batch.len()));
    assert!(after < before + 4096, "{before} KiB of files resident before, {after} KiB after");
}
