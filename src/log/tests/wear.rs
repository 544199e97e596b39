//! How much a card has to write, in counted pages.

use super::*;

/// Bytes written per byte of 200-byte values: `per_commit` single-record batches of 269 bytes in each commit, over
/// partitions in turn as a keyed load spreads them, from one idempotent producer, in a log that is full.
async fn wear(partitions: i32, per_commit: &[usize], commits: usize) -> f64 {
    let dir = memory_dir();
    let log = open_with(dir.path(), |c| c.quota_bytes = Some(6 << 20));
    topic(&log, "a", partitions).await;
    let mut sequences = vec![0; usize::try_from(partitions).unwrap()];
    let mut random = 12_345u32;
    let mut written = 0;
    let mut records = 0;
    // The first lap fills the log; the second is measured.
    for commit in 0..2 * commits {
        if commit == commits {
            written = log.usage().written_bytes;
            records = 0;
        }
        let mut whole = Write::default();
        for _ in 0..per_commit[commit % per_commit.len()] {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let index = i32::try_from(random >> 16).unwrap() % partitions;
            let sequence = &mut sequences[usize::try_from(index).unwrap()];
            let batch = batch(1, 208, 5, (7, 0, *sequence)).into();
            whole.batches.push(Append { partition: Partition::new("a", index), batch });
            *sequence += 1;
            records += 1;
        }
        log.commit(whole).await.unwrap();
    }
    let start = bounds(&log, &Partition::new("a", 0)).0;
    assert!(start > 0, "retention must be running");
    let bytes = log.usage().written_bytes - written;
    f64::from(u32::try_from(bytes / 1000).unwrap()) * 1000.0 / f64::from(records * 200)
}

/// 50 messages a second in commits of 250 ms, producer state and retention included. Counted pages, so the same on every
/// machine; the band is for what LMDB may choose otherwise.
#[tokio::test]
async fn a_trickle_over_ten_partitions_wears_the_card_little() {
    let ratio = wear(10, &[12, 13], 2_500).await;
    assert!((11.5..14.1).contains(&ratio), "{ratio} bytes written for each byte of payload, 12.8 when last measured");
}

/// What a commit writes must not grow with the number of partitions.
#[tokio::test]
async fn a_hundred_partitions_wear_it_hardly_more_than_one() {
    let (one, hundred) = (wear(1, &[12, 13], 2_500).await, wear(100, &[12, 13], 2_500).await);
    assert!(hundred / one <= 1.5, "{hundred} / {one}");
}

/// Batches of a thousand records go past the journal.
#[tokio::test]
async fn large_batches_are_written_once() {
    let dir = memory_dir();
    let log = open_with(dir.path(), |c| c.quota_bytes = Some(32 << 20));
    topic(&log, "a", 8).await;
    for i in 0..400 {
        append(&log, &Partition::new("a", i % 8), batch(1_000, 208_000, 5, NONE)).await;
    }
    let usage = log.usage();
    let ratio = usage.written_bytes * 1000 / usage.ingested_bytes;
    assert!(ratio <= 1_150, "{ratio} per mille");
}
