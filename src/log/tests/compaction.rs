//! Compaction against a model of every record ever written: keys, deletions, transactions, idempotent producers, small
//! tables of keys, steps that are cut off, restarts and kills.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::atomic::AtomicU64,
};

use proptest::prelude::*;

use super::*;
use crate::record::{
    Builder, Codec, Outcome, Producer, Unpacker,
    batch::{self, batches, transactional},
    marker::marker,
};

const START_MS: i64 = 1_790_000_000_000;
const DELETE_RETENTION_MS: i64 = 60_000;
const SETTINGS: &[(&str, &str)] =
    &[("cleanup.policy", "compact"), ("delete.retention.ms", "60000"), ("max.compaction.lag.ms", "1")];

fn p() -> Partition {
    Partition::new("x", 0)
}

/// A board whose clock and uptime go on together.
#[derive(Clone)]
struct Board(Arc<AtomicU64>);

impl Board {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(5_000)))
    }

    fn pass(&self, ms: i64) {
        self.0.fetch_add(u64::try_from(ms).unwrap(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> i64 {
        START_MS + i64::try_from(self.0.load(Ordering::Relaxed)).unwrap()
    }

    fn open(&self, dir: &Path) -> Log {
        self.open_at(dir, Durability::Strict)
    }

    fn open_at(&self, dir: &Path, durability: Durability) -> Log {
        let (clock, kernel) = (self.clone(), self.clone());
        open_with(dir, |c| {
            c.durability = durability;
            c.clock = Arc::new(move || clock.now_ms());
            c.kernel =
                Arc::new(move || KernelTime { uptime_ms: kernel.0.load(Ordering::Relaxed), is_synchronised: true });
        })
    }
}

fn keyed(codec: Codec, producer: Producer, records: &[(u8, Option<Vec<u8>>)]) -> Bytes {
    let mut builder = Builder::new();
    builder.set_producer(producer);
    for (key, value) in records {
        builder.push(1_000 + i64::from(*key), Some(&[*key]), value.as_deref(), &[]).unwrap();
    }
    builder.finish(codec, codec.default_level())
}

async fn put(log: &Log, records: &[(u8, Option<Vec<u8>>)]) -> Offset {
    append(log, &p(), keyed(Codec::None, Producer::NONE, records).to_vec()).await.base_offset
}

/// A record as it is read.
type Read = (Offset, Vec<u8>, Option<Vec<u8>>);

/// All records below the high watermark, or with `is_committed` those that hold. Every read brings something.
async fn records(log: &Log, is_committed: bool, max_bytes: usize) -> Vec<Read> {
    let mut out: Vec<Read> = Vec::new();
    let (mut next, end) = bounds(log, &p());
    let mut unpacker = Unpacker::new(1 << 20);
    while next < end {
        let slice = match is_committed {
            true => log.read_committed(&p(), next, max_bytes).await.unwrap(),
            false => log.read(&p(), next, max_bytes).await.unwrap(),
        };
        if slice.batches.is_empty() {
            assert!(is_committed && next == slice.bounds.last_stable, "stuck at {next} of {end}");
            break;
        }
        let before = next;
        for batch in batches(&slice.batches) {
            let (header, bytes) = batch.unwrap();
            batch::check(bytes).unwrap();
            next = header.last_offset() + 1;
            if header.is_control() || is_committed && slice.hides(&header) {
                continue;
            }
            for record in unpacker.records(bytes).unwrap() {
                let record = record.unwrap();
                assert!(out.last().is_none_or(|(offset, ..)| *offset < record.offset));
                let key = record.key.unwrap().to_vec();
                assert_eq!(record.timestamp_ms, 1_000 + i64::from(key[0]), "times stay");
                out.push((record.offset, key, record.value.map(<[u8]>::to_vec)));
            }
        }
        assert!(next > before, "stuck at {next}");
    }
    out
}

fn offsets(read: &[Read]) -> Vec<Offset> {
    read.iter().map(|(offset, ..)| *offset).collect()
}

#[tokio::test]
async fn the_last_value_of_each_key_stays_where_it_was() {
    let dir = memory_dir();
    let log = open(dir.path());
    topic_with(&log, "x", 1, &[("cleanup.policy", "compact")]).await;
    for round in 0..40u8 {
        for key in 0..10u8 {
            put(&log, &[(key, Some(vec![round; 1_000])), (key + 100, Some(vec![round; 10]))]).await;
        }
    }
    let before = log.usage();
    let whole = records(&log, false, 1 << 20).await;
    log.compact().await.unwrap();
    let read = records(&log, false, 1).await;
    // What is sealed has each key once, what is not is as it was.
    let sealed_to = log.0.shared.part(&p()).unwrap().lock().compacted_to;
    assert!(sealed_to > 700, "{sealed_to}");
    let mut last = BTreeMap::new();
    for (offset, key, _) in whole.iter().filter(|(offset, ..)| *offset < sealed_to) {
        last.insert(key.clone(), *offset);
    }
    let kept: BTreeSet<Offset> = last.values().copied().collect();
    let expected: Vec<Read> = whole.into_iter().filter(|(o, ..)| *o >= sealed_to || kept.contains(o)).collect();
    assert_eq!(read, expected);
    assert!(log.usage().live_bytes < before.live_bytes / 3, "{}", log.usage().live_bytes);
    assert_eq!(bounds(&log, &p()), (0, 800));
    log.close().await;
    let report = verify(dir.path(), &mut |_, _| {}).unwrap();
    assert_eq!((report.problems, report.quarantined.len()), (vec![], 0));
    let log = open(dir.path());
    assert_eq!(records(&log, false, 1 << 20).await, read);
    let compacted_bytes = log.usage().compaction_bytes;
    log.compact().await.unwrap();
    assert_eq!(log.usage().compaction_bytes, compacted_bytes, "what is clean stays so over a restart");
    assert_eq!(put(&log, &[(1, None)]).await, 800);
}

#[tokio::test]
async fn a_deletion_stays_for_its_time_and_nothing_comes_back() {
    let dir = memory_dir();
    let board = Board::new();
    let mut log = board.open(dir.path());
    topic_with(&log, "x", 1, SETTINGS).await;
    put(&log, &[(1, Some(vec![1])), (2, Some(vec![1]))]).await;
    put(&log, &[(1, None)]).await;
    let compact = async |log: &Log, ms| {
        board.pass(ms);
        put(log, &[(9, Some(vec![9]))]).await;
        board.pass(2_000);
        log.compact().await.unwrap();
        let found = records(log, false, 1 << 20).await;
        found.into_iter().filter(|(_, key, _)| key[0] != 9).collect::<Vec<_>>()
    };
    let kept: Vec<Read> = vec![(1, vec![2], Some(vec![1])), (2, vec![1], None)];
    assert_eq!(compact(&log, 0).await, kept);
    // The time counts from the first compaction, over restarts.
    log.close().await;
    log = board.open(dir.path());
    assert_eq!(compact(&log, 55_000).await, kept);
    assert_eq!(compact(&log, 2_000).await, kept[..1]);
    log.close().await;
    log = board.open(dir.path());
    assert_eq!(compact(&log, 1_000_000).await, kept[..1]);
}

#[tokio::test]
async fn a_pass_writes_what_is_left_and_the_tree_above_it() {
    let dir = memory_dir();
    let log = open(dir.path());
    topic_with(&log, "x", 1, &[("cleanup.policy", "compact")]).await;
    // Sixteen chunks of 16 pages; one record in each is the last of its key.
    for i in 0..64u8 {
        put(&log, &[(if i % 4 == 0 { i } else { 255 }, Some(vec![i; 16_000]))]).await;
    }
    put(&log, &[(200, Some(vec![0; 40_000]))]).await;
    let (before, live) = (log.usage(), log.usage().live_bytes);
    log.compact().await.unwrap();
    let after = log.usage();
    let pages = (after.compaction_bytes - before.compaction_bytes) / 4096;
    assert_eq!(after.written_bytes - before.written_bytes, after.compaction_bytes);
    assert_eq!((after.commits - before.commits, pages), (1, PASS_PAGES));
    assert!(live - after.live_bytes > 11 * 16 * 4096, "{} of {live}", after.live_bytes);
    // Nothing is due any more, so nothing is written.
    log.compact().await.unwrap();
    assert_eq!(log.usage().compaction_bytes, after.compaction_bytes);
}

/// Pages of the pass above: four chunks of 16, one for the journal, and what LMDB writes around them in one commit.
const PASS_PAGES: u64 = 72;

#[tokio::test]
async fn what_is_not_mirrored_is_left_alone_while_there_is_room_and_time() {
    let dir = memory_dir();
    let log = open(dir.path());
    topic_with(&log, "x", 1, &[("cleanup.policy", "compact")]).await;
    let link: Arc<str> = "central".into();
    log.protect(&link, |_| true);
    for i in 0..10 {
        put(&log, &[(1, Some(vec![i; 40_000]))]).await;
    }
    log.compact().await.unwrap();
    assert_eq!(offsets(&records(&log, false, 1 << 20).await), (0..10).collect::<Vec<_>>());
    log.set_mirrored(&link, &p(), 6);
    log.compact().await.unwrap();
    assert_eq!(offsets(&records(&log, false, 1 << 20).await), [5, 6, 7, 8, 9]);
    log.release(&link);
    log.compact().await.unwrap();
    assert_eq!(offsets(&records(&log, false, 1 << 20).await), [9]);
    assert_eq!(log.gaps().unwrap(), [], "superseded is not lost");
}

#[tokio::test]
async fn a_batch_that_does_not_unpack_stays_and_so_do_deletions_behind_it() {
    let dir = memory_dir();
    let board = Board::new();
    let log = board.open(dir.path());
    topic_with(&log, "x", 1, SETTINGS).await;
    let mut odd = keyed(Codec::Zstd, Producer::NONE, &[(1, Some(vec![7; 300]))]).to_vec();
    let end = odd.len() - 1;
    odd[end] ^= 0xff;
    append(&log, &p(), odd.clone()).await;
    put(&log, &[(1, Some(vec![1])), (2, Some(vec![1]))]).await;
    put(&log, &[(1, None)]).await;
    for _ in 0..3 {
        put(&log, &[(3, Some(vec![1]))]).await;
        board.pass(100_000);
        log.compact().await.unwrap();
    }
    let read = read_all(&log, &p(), 0, 1 << 20).await;
    assert_eq!(read[0][16..], odd[16..], "as it was, but for its stamp");
    let kept: Vec<Offset> = read[1..].iter().map(|bytes| batch::check(bytes).unwrap().last_offset()).collect();
    assert_eq!(kept, [2, 3, 6], "the deletion of key 1 is still there");
}

#[tokio::test]
async fn a_chunk_covers_the_hole_at_its_end_and_at_its_beginning() {
    let dir = memory_dir();
    let log = open(dir.path());
    topic_with(&log, "x", 1, &[("cleanup.policy", "compact")]).await;
    let (small, large) = (31_000, 33_000);
    // Chunks of 0 and 1, of 2 and 3, of 4, and of 5: what is left of each does not fit beside the next.
    for (key, body) in [(0, small), (1, small), (1, small), (2, small), (3, large), (1, large)] {
        put(&log, &[(key, Some(vec![key; body]))]).await;
    }
    log.compact().await.unwrap();
    let kept = offsets(&records(&log, false, 1).await);
    assert_eq!(kept, [0, 3, 4, 5]);
    log.close().await;
    assert_eq!(verify(dir.path(), &mut |_, _| {}).unwrap().problems, Vec::<String>::new());
    let log = open(dir.path());
    assert_eq!(offsets(&records(&log, true, 1 << 20).await), kept);
    assert_eq!(log.offset_at(&p(), 1_002, 1 << 20).await.unwrap().map(|timed| timed.offset), Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_on_while_chunks_are_replaced() {
    let dir = memory_dir();
    let log = open(dir.path());
    topic_with(&log, "x", 1, &[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")]).await;
    log.0.shared.compaction.step_bytes.store(1, Ordering::Relaxed);
    put(&log, &[(0, Some(vec![0; 20_000]))]).await;
    let is_done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = [1, 1 << 20]
        .map(|max_bytes| {
            let (log, is_done) = (log.clone(), Arc::clone(&is_done));
            tokio::spawn(async move {
                let mut count = 0;
                while !is_done.load(Ordering::Relaxed) {
                    // No error, every read goes on, and what was the newest of a key may be superseded meanwhile.
                    records(&log, false, max_bytes).await;
                    log.offset_at(&p(), 1_000, 1 << 20).await.unwrap().expect("something is always there");
                    count += 1;
                }
                count
            })
        })
        .into();
    for round in 0..60u8 {
        for key in 0..3 {
            put(&log, &[(key, Some(vec![round; 20_000]))]).await;
        }
        log.compact().await.unwrap();
    }
    is_done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 1);
    }
    let found = records(&log, true, 1).await;
    for key in 0..3 {
        assert_eq!(found.iter().rfind(|one| one.1 == [key]).unwrap().2, Some(vec![59; 20_000]));
    }
}

#[tokio::test]
async fn a_chunk_that_is_too_large_is_passed_over() {
    let dir = memory_dir();
    let board = Board::new();
    let log = board.open(dir.path());
    topic_with(&log, "x", 1, SETTINGS).await;
    for records in [vec![(1, Some(vec![1; 40_000]))], vec![(1, Some(vec![2; 3 << 20]))], vec![(1, Some(vec![3]))]] {
        put(&log, &records).await;
    }
    put(&log, &[(1, None), (2, None)]).await;
    for _ in 0..3 {
        board.pass(100_000);
        put(&log, &[(3, Some(vec![1]))]).await;
        log.compact().await.unwrap();
    }
    // What came after it may still delete what it holds.
    assert_eq!(offsets(&records(&log, false, 1 << 20).await), [1, 3, 4, 7]);
}

#[derive(Clone, Debug)]
enum Step {
    /// A batch of keys with or without values, of nobody, an idempotent producer, or a transaction.
    Write {
        producer: usize,
        records: Vec<(u8, bool)>,
        body: usize,
        codec: usize,
    },
    End {
        producer: usize,
        outcome: Outcome,
    },
    /// Sends an idempotent batch again.
    Repeat {
        back: usize,
    },
    /// Compacts what is there with a table of so many slots, and perhaps only for so many steps.
    Compact {
        slots: usize,
        steps: Option<usize>,
    },
    Pass {
        ms: i64,
    },
    Reopen,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let body = prop_oneof![6 => 0..600usize, 2 => 2_000..9_000usize, 4 => 20_000..50_000usize];
    let written = prop::collection::vec((0..7u8, prop::bool::weighted(0.75)), 1..5);
    let outcome = prop_oneof![Just(Outcome::Commit), Just(Outcome::Abort)];
    prop_oneof![
        20 => (0..4usize, written, body, 0..5usize).prop_map(|(producer, records, body, codec)| {
            Step::Write { producer, records, body, codec }
        }),
        4 => (2..4usize, outcome).prop_map(|(producer, outcome)| Step::End { producer, outcome }),
        2 => (0..5usize).prop_map(|back| Step::Repeat { back }),
        5 => (0..12usize, prop::option::of(0..3usize)).prop_map(|(slots, steps)| Step::Compact { slots, steps }),
        2 => (0..50_000i64).prop_map(|ms| Step::Pass { ms }),
        2 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open(usize),
    Committed,
    Aborted,
}

struct Written {
    offset: Offset,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    fate: Fate,
    /// The end of its batch: a pass that ends within one leaves its deletions to the next.
    batch_end: Offset,
    /// When a pass that was not cut off had first gone over all of its batch.
    compacted_ms: Option<i64>,
}

struct Rig {
    root: tempfile::TempDir,
    lives: usize,
    board: Board,
    durability: Durability,
    log: Log,
    written: Vec<Written>,
    sent: Vec<(Vec<u8>, Offset)>,
    sequences: [i32; 4],
    end: Offset,
    count: u8,
}

impl Rig {
    async fn new(durability: Durability) -> Self {
        let root = memory_dir();
        let board = Board::new();
        let log = board.open_at(&root.path().join("0"), durability);
        topic_with(&log, "x", 1, SETTINGS).await;
        let (written, sent) = (Vec::new(), Vec::new());
        Self { root, lives: 0, board, durability, log, written, sent, sequences: [0; 4], end: 0, count: 0 }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join(self.lives.to_string())
    }

    fn compacted_to(&self) -> Offset {
        self.log.0.shared.part(&p()).unwrap().lock().compacted_to
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Write { producer, records, body, codec } => {
                self.count = self.count.wrapping_add(1);
                let value = |has: bool| has.then(|| vec![self.count; body + 1]);
                let records: Vec<_> = records.into_iter().map(|(key, has)| (key, value(has))).collect();
                // 0 is nobody, 1 idempotent, 2 and 3 transactional.
                let identity = match producer {
                    0 => Producer::NONE,
                    id => Producer { id: i64::try_from(id).unwrap(), epoch: 0, sequence: self.sequences[id] },
                };
                let mut bytes = keyed(Codec::ALL[codec], identity, &records);
                if producer >= 2 {
                    bytes = transactional(&bytes);
                }
                let base = append(&self.log, &p(), bytes.to_vec()).await.base_offset;
                assert_eq!(base, self.end);
                if producer == 1 {
                    self.sent.push((bytes.to_vec(), base));
                }
                self.sequences[producer] += i32::try_from(records.len()).unwrap();
                let fate = if producer >= 2 { Fate::Open(producer) } else { Fate::Committed };
                let batch_end = self.end + Offset::try_from(records.len()).unwrap();
                for (key, value) in records {
                    let key = vec![key];
                    let one = Written { offset: self.end, key, value, fate, batch_end, compacted_ms: None };
                    self.written.push(one);
                    self.end += 1;
                }
            }
            Step::End { producer, outcome } => {
                let batch = marker(i64::try_from(producer).unwrap(), 0, outcome, 9);
                append(&self.log, &p(), batch.to_vec()).await;
                self.end += 1;
                let fate = if outcome == Outcome::Commit { Fate::Committed } else { Fate::Aborted };
                for one in self.written.iter_mut().filter(|one| one.fate == Fate::Open(producer)) {
                    one.fate = fate;
                }
            }
            Step::Repeat { back } => {
                let Some(at) = self.sent.len().checked_sub(back + 1) else { return };
                let (bytes, base) = self.sent[at].clone();
                let again = append(&self.log, &p(), bytes).await;
                assert_eq!((again.base_offset, again.is_duplicate), (base, true));
            }
            Step::Compact { slots, steps } => self.compact(slots, steps).await,
            Step::Pass { ms } => self.board.pass(ms),
            Step::Reopen => {
                self.log.close().await;
                assert_eq!(verify(&self.dir(), &mut |_, _| {}).unwrap().problems, Vec::<String>::new());
                self.log = self.board.open_at(&self.dir(), self.durability);
            }
            Step::Kill => {
                let old = self.dir().join("data.mdb");
                self.lives += 1;
                std::fs::create_dir_all(self.dir()).unwrap();
                std::fs::copy(old, self.dir().join("data.mdb")).unwrap();
                self.log = self.board.open_at(&self.dir(), self.durability);
            }
        }
        assert!(!self.dir().join("quarantine").exists(), "a sound file was taken for a damaged one");
        self.check().await;
    }

    async fn compact(&mut self, slots: usize, steps: Option<usize>) {
        self.board.pass(2_000);
        let desk = &self.log.0.shared.compaction;
        desk.slots.store(slots, Ordering::Relaxed);
        desk.step_bytes.store(1, Ordering::Relaxed);
        desk.steps_left.store(steps.unwrap_or(usize::MAX), Ordering::Relaxed);
        let before = self.compacted_to();
        self.log.compact().await.unwrap();
        let (to, now_ms) = (self.compacted_to(), self.board.now_ms());
        assert!(to >= before);
        for one in self.written.iter_mut().filter(|one| one.batch_end <= to) {
            one.compacted_ms.get_or_insert(now_ms);
        }
        if to == before {
            return;
        }
        // What was gone over is as small as it can be.
        let kept: BTreeSet<Offset> = offsets(&records(&self.log, false, 1 << 20).await).into_iter().collect();
        let mut last: BTreeMap<&[u8], Offset> = BTreeMap::new();
        for one in self.written.iter().filter(|one| one.offset < to && one.fate == Fate::Committed) {
            last.insert(&one.key, one.offset);
        }
        for one in self.written.iter().filter(|one| one.offset < to) {
            let is_last = one.fate == Fate::Committed && last[&one.key[..]] == one.offset;
            assert!(is_last || !kept.contains(&one.offset), "{} is still there", one.offset);
            let Some(first_ms) = one.compacted_ms else { continue };
            // A pass that was cut off may have set the time before: then it is gone sooner than is known here.
            if one.value.is_none()
                && first_ms + DELETE_RETENTION_MS <= now_ms
                && first_ms < now_ms
                && one.batch_end <= before
            {
                assert!(!kept.contains(&one.offset), "the deletion at {} is still there", one.offset);
            }
        }
    }

    async fn check(&self) {
        assert_eq!(bounds(&self.log, &p()), (0, self.end));
        let all: BTreeMap<Offset, &Written> = self.written.iter().map(|one| (one.offset, one)).collect();
        let stable = self.log.watch(&p()).unwrap().borrow().last_stable;
        let open = self.written.iter().find(|one| matches!(one.fate, Fate::Open(_))).map(|one| one.offset);
        assert_eq!(stable, open.unwrap_or(self.end));
        let raw = records(&self.log, false, 20_000).await;
        let kept: BTreeSet<Offset> = offsets(&raw).into_iter().collect();
        for (offset, key, value) in &raw {
            let one = all[offset];
            assert_eq!((key, value), (&one.key, &one.value), "{offset}");
        }
        for one in &self.written {
            assert!(one.offset < stable || kept.contains(&one.offset), "{} was not stable", one.offset);
        }
        // A reader of what was committed ends with the last value of each key, whatever it saw on the way.
        let (mut read, mut expected) = (BTreeMap::new(), BTreeMap::new());
        for (offset, key, value) in records(&self.log, true, 20_000).await {
            assert_eq!(all[&offset].fate, Fate::Committed, "{offset}");
            read.insert(key, (offset, value));
        }
        for one in self.written.iter().filter(|one| one.offset < stable && one.fate == Fate::Committed) {
            expected.insert(one.key.clone(), one);
        }
        for (key, one) in expected {
            match read.remove(&key) {
                Some((offset, value)) => assert_eq!((offset, &value), (one.offset, &one.value), "{key:?}"),
                None => {
                    assert_eq!(one.value, None, "key {key:?} is lost");
                    // Cut-off passes are not known here, so this is the earliest that there can be.
                    let now_ms = self.board.now_ms();
                    assert!(now_ms >= START_MS + 5_000 + DELETE_RETENTION_MS, "the deletion of {key:?} went early");
                }
            }
        }
        assert!(read.is_empty(), "came back: {read:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_compacted_log_is_what_the_model_says(steps in prop::collection::vec(step(), 1..70), is_pipelined in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut rig = Rig::new(if is_pipelined { Durability::Pipelined } else { Durability::Strict }).await;
            for step in steps {
                rig.take(step).await;
            }
        });
    }
}
