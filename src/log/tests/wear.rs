//! How much a card has to write, in counted pages: the same on every machine. The bands are ten percent about what was
//! measured last, for what LMDB may choose otherwise; above them something writes more than it did.

use super::*;

/// What is written in a commit of a load of 50 batches a second, by how long commits wait for company.
const EVERY_5_MS: &[usize] = &[1];
const EVERY_50_MS: &[usize] = &[2, 3];
const EVERY_250_MS: &[usize] = &[12, 13];
const EVERY_1_S: &[usize] = &[50];

/// Bytes of one batch: a record with a value of 200 bytes.
const BATCH_BYTES: u64 = 269;

struct Load {
    partitions: i32,
    per_commit: &'static [usize],
    commits: usize,
}

impl Load {
    /// Partitions in turn as a keyed load spreads them.
    fn batches(&self) -> impl FnMut(usize) -> Vec<i32> {
        let (partitions, per_commit) = (self.partitions, self.per_commit);
        let mut random = 12_345u32;
        move |commit| {
            let draw = |_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                i32::try_from(random >> 16).unwrap() % partitions
            };
            (0..per_commit[commit % per_commit.len()]).map(draw).collect()
        }
    }

    /// Bytes written per batch byte, in a log that is full and deletes as it goes. All the state of a busy daemon rides
    /// along: an idempotent producer, a consumer group's offset and a mirror's cursor in each commit.
    async fn ratio(&self) -> f64 {
        let dir = memory_dir();
        let log = open_with(dir.path(), |c| c.quota_bytes = Some(6 << 20));
        topic(&log, "a", self.partitions).await;
        let mut sequences = vec![0; usize::try_from(self.partitions).unwrap()];
        let mut batches = self.batches();
        let (mut written, mut count) = (0, 0);
        // What fills the log decides how many free pages LMDB is left with: from 300 on (60 transactions of 5) its list of
        // them is a tree of two levels, and each commit writes a page or two more. So the log is filled by commits of some
        // pages, the load gives the journal its shape, and then it is measured.
        for n in 0..150 {
            append(&log, &Partition::new("a", n % self.partitions), batch(1, 60_000, 5, NONE)).await;
        }
        for commit in 0..2 * self.commits {
            if commit == self.commits {
                written = log.usage().written_bytes;
                count = 0;
            }
            let mut whole = Write::default();
            for index in batches(commit) {
                let sequence = &mut sequences[usize::try_from(index).unwrap()];
                let batch = batch(1, 208, 5, (7, 0, *sequence)).into();
                whole.batches.push(Append { partition: Partition::new("a", index), batch });
                *sequence += 1;
                count += 1;
            }
            for owner in ["groups", "mirror"] {
                let key = format!("reader-{}", commit % 10).into();
                let value = Some(Bytes::copy_from_slice(&[u8::try_from(commit % 251).unwrap(); 24]));
                whole.state.push(StateWrite { owner, key, value });
            }
            log.commit(whole).await.unwrap();
        }
        let start = bounds(&log, &Partition::new("a", 0)).0;
        assert!(start > 0, "retention must be running");
        per_byte(log.usage().written_bytes - written, count)
    }

    /// The same records as values of their own in one tree, deleted by hand: what a plain use of LMDB writes.
    fn plain_ratio(&self) -> f64 {
        let dir = memory_dir();
        let directory = directory::Directory::open(dir.path()).unwrap();
        let store = store::Store::open(directory, 64 << 20, Durability::Strict).unwrap();
        let meter = crate::log::wear::WearMeter::of_this_thread();
        let value = batch(1, 208, 5, NONE);
        let mut batches = self.batches();
        let mut order = std::collections::VecDeque::new();
        let (mut written, mut count, mut offset) = (0, 0, 0u64);
        for commit in 0..2 * self.commits {
            if commit == self.commits {
                (written, count) = (0, 0);
            }
            let before = meter.bytes().unwrap();
            let mut txn = store.write_txn().unwrap();
            for index in batches(commit) {
                let mut key = index.to_be_bytes().to_vec();
                key.extend_from_slice(&offset.to_be_bytes());
                store.db.put(&mut txn, &key, &value).unwrap();
                order.push_back(key);
                (count, offset) = (count + 1, offset + 1);
                if order.len() > 10_000 {
                    store.db.delete(&mut txn, &order.pop_front().unwrap()).unwrap();
                }
            }
            txn.commit().unwrap();
            // The meta page is written in part and costs the card a whole one.
            written += (meter.bytes().unwrap() - before).next_multiple_of(layout::PAGE_BYTES as u64);
        }
        per_byte(written, count)
    }
}

fn per_byte(written: u64, batches: u64) -> f64 {
    let thousandths = written * 1000 / (batches * BATCH_BYTES);
    f64::from(u32::try_from(thousandths).unwrap()) / 1000.0
}

/// Within ten percent of what was measured last, and within what is promised.
fn assert_wear(ratio: f64, measured: f64, most: f64, what: &str) {
    assert!(ratio <= most, "{what}: {ratio} bytes written per batch byte, at most {most} are promised");
    let (low, high) = (measured * 0.9, measured * 1.1);
    assert!(
        (low..high).contains(&ratio),
        "{what}: {ratio} bytes written per batch byte, {measured} when last measured"
    );
}

#[tokio::test]
async fn a_trickle_over_ten_partitions_wears_the_card_little() {
    let trickle = |per_commit, commits| Load { partitions: 10, per_commit, commits };
    assert_wear(trickle(EVERY_5_MS, 6_000).ratio().await, 65.4, 110.0, "5 ms");
    assert_wear(trickle(EVERY_50_MS, 4_000).ratio().await, 41.0, 45.0, "50 ms");
    assert_wear(trickle(EVERY_250_MS, 2_500).ratio().await, 9.5, 10.0, "250 ms");
    assert_wear(trickle(EVERY_1_S, 700).ratio().await, 4.05, 4.5, "1 s");
}

/// What a commit writes must not grow with the number of partitions.
#[tokio::test]
async fn a_hundred_partitions_wear_it_hardly_more_than_one() {
    let load = |partitions| Load { partitions, per_commit: EVERY_250_MS, commits: 2_500 };
    let (one, hundred) = (load(1).ratio().await, load(100).ratio().await);
    assert!(hundred / one <= 1.5, "{hundred} / {one}");
}

#[tokio::test]
async fn the_journal_writes_less_than_half_of_what_a_plain_tree_does() {
    let ten = Load { partitions: 10, per_commit: EVERY_250_MS, commits: 2_500 };
    let (ours, plain) = (ten.ratio().await, ten.plain_ratio());
    assert!(ours / plain <= 0.45, "{ours} / {plain}");
    let hundred = Load { partitions: 100, per_commit: EVERY_1_S, commits: 700 };
    let (ours, plain) = (hundred.ratio().await, hundred.plain_ratio());
    assert!(ours / plain <= 0.25, "{ours} / {plain}");
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
    // The first lap writes the file itself, ahead of need; the ones after it are measured.
    let first = log.usage();
    for i in 0..400 {
        append(&log, &Partition::new("a", i % 8), batch(1_000, 208_000, 5, NONE)).await;
    }
    let usage = log.usage();
    let ratio = (usage.written_bytes - first.written_bytes) * 1000 / (usage.ingested_bytes - first.ingested_bytes);
    assert!(ratio <= 1_150, "{ratio} per mille");
}

/// Over the budget writes gather up to `linger`, whoever waits, and the counts outlive a restart.
#[tokio::test]
async fn over_the_budget_writes_share_commits_and_nothing_is_refused() {
    let dir = memory_dir();
    let set = |c: &mut Config| {
        c.wear_budget = WearBudget::BytesPerDay(24 * 4096);
        c.linger = Duration::from_secs(3_600);
        c.endurance_bytes = Some(1 << 40);
    };
    let log = open_with(dir.path(), set);
    topic(&log, "a", 1).await;
    let p = Partition::new("a", 0);
    let usage = log.usage();
    assert!(usage.wear.is_sparing, "an hour's worth is one page, and the topic took more");
    assert_eq!(usage.wear.total_bytes, usage.written_bytes);
    let mut entered = Vec::new();
    for _ in 0..20 {
        entered.push(log.enter(write(&p, batch(1, 208, 5, NONE))).await.unwrap());
    }
    // As much as a commit takes ends every wait.
    entered.push(log.enter(write(&p, batch(1, 300_000, 5, NONE))).await.unwrap());
    for (offset, entered) in (0..).zip(entered) {
        assert_eq!(entered.durable().await.unwrap()[0].base_offset, offset);
    }
    assert_eq!(log.usage().commits, usage.commits + 1, "all in one");
    assert_eq!(log.usage().wear.last_day_bytes, log.usage().written_bytes);
}
