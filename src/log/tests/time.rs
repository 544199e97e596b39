//! Boards without a clock, and clocks that jump.

use std::sync::atomic::{AtomicBool, AtomicU64};

use super::{events::events, *};

const START_MS: i64 = 1_790_000_000_000;
const YEAR_MS: i64 = 365 * 86_400_000;

/// A board whose clock, uptime and synchronisation are set by hand.
#[derive(Clone)]
struct Board {
    clock_ms: Arc<AtomicI64>,
    uptime_ms: Arc<AtomicU64>,
    is_synchronised: Arc<AtomicBool>,
}

impl Board {
    fn new(clock_ms: i64) -> Self {
        let uptime_ms = Arc::new(AtomicU64::new(5_000));
        Self { clock_ms: Arc::new(AtomicI64::new(clock_ms)), uptime_ms, is_synchronised: Arc::default() }
    }

    fn open(&self, dir: &Path) -> Log {
        self.open_with(dir, |_| {})
    }

    fn open_with(&self, dir: &Path, set: impl FnOnce(&mut Config)) -> Log {
        let Self { clock_ms, uptime_ms, is_synchronised } = self.clone();
        open_with(dir, |c| {
            set(c);
            c.clock = clock_at(&clock_ms);
            c.kernel = Arc::new(move || KernelTime {
                uptime_ms: uptime_ms.load(Ordering::Relaxed),
                is_synchronised: is_synchronised.load(Ordering::Relaxed),
            });
        })
    }

    /// Time goes by, and the clock with it.
    fn pass(&self, ms: i64) {
        self.clock_ms.fetch_add(ms, Ordering::Relaxed);
        self.uptime_ms.fetch_add(u64::try_from(ms).unwrap(), Ordering::Relaxed);
    }

    fn set(&self, clock_ms: i64, is_synchronised: bool) {
        self.clock_ms.store(clock_ms, Ordering::Relaxed);
        self.is_synchronised.store(is_synchronised, Ordering::Relaxed);
    }
}

/// A topic that keeps its records for a minute, with a chunk and a tail, stamped in 1970, now and in 2100.
async fn a_minute(log: &Log) -> Partition {
    topic_with(log, "a", 1, &[("retention.ms", "60000")]).await;
    let p = Partition::new("a", 0);
    for stamp_ms in [0, START_MS, 4_102_444_800_000] {
        append(log, &p, batch(1, 40_000, stamp_ms, NONE)).await;
    }
    append(log, &p, batch(1, 50, 4_102_444_800_000, NONE)).await;
    p
}

async fn start(log: &Log, p: &Partition) -> i64 {
    log.retain().await.unwrap();
    bounds(log, p).0
}

#[tokio::test]
async fn a_clock_that_jumps_while_running_deletes_nothing_early_and_keeps_nothing_for_ever() {
    for jump_ms in [50 * YEAR_MS, -YEAR_MS, -START_MS] {
        let dir = memory_dir();
        let board = Board::new(START_MS);
        let log = board.open(dir.path());
        let p = a_minute(&log).await;
        board.pass(30_000);
        board.set(START_MS + 30_000 + jump_ms, false);
        assert_eq!(start(&log, &p).await, 0, "{jump_ms}");
        board.pass(29_000);
        assert_eq!(start(&log, &p).await, 0, "{jump_ms}");
        board.pass(3_000);
        assert_eq!(start(&log, &p).await, 4, "{jump_ms}");
        // People hear of it.
        log.tell(Event::new(EventKind::SpaceAgain, "", serde_json::json!({}))).await.unwrap();
        let told = events(&log).await;
        let jumps: Vec<_> = told.iter().filter(|(key, _)| key == "clock-jump").map(|(_, e)| &e["data"]).collect();
        assert_eq!(jumps.len(), 1, "{jump_ms}");
        let moved = jumps[0]["to_ms"].as_i64().unwrap() - jumps[0]["from_ms"].as_i64().unwrap();
        assert_eq!((moved, jumps[0]["synchronised"].as_bool()), (jump_ms, Some(false)));
    }
}

#[tokio::test]
async fn a_board_without_a_clock_begins_to_count_when_it_gets_one() {
    let dir = memory_dir();
    let board = Board::new(7_000);
    let log = board.open(dir.path());
    let p = a_minute(&log).await;
    board.pass(10 * YEAR_MS);
    assert_eq!(start(&log, &p).await, 0, "nobody knows how long that was");
    log.close().await;
    let log = board.open(dir.path());
    board.set(START_MS, true);
    assert_eq!(start(&log, &p).await, 0);
    board.pass(59_000);
    assert_eq!(start(&log, &p).await, 0);
    board.pass(3_000);
    assert_eq!(start(&log, &p).await, 4);
}

#[tokio::test]
async fn a_board_that_lay_in_a_drawer_does_not_delete_what_came_in_since() {
    let dir = memory_dir();
    let board = Board::new(START_MS);
    board.set(START_MS, true);
    let log = board.open(dir.path());
    let p = a_minute(&log).await;
    log.close().await;
    // Without a battery the clock goes on where it stood; the network comes later.
    board.uptime_ms.store(1_000, Ordering::Relaxed);
    board.set(START_MS + 2_000, false);
    let log = board.open(dir.path());
    append(&log, &p, batch(1, 40_000, START_MS, NONE)).await;
    append(&log, &p, batch(1, 50, START_MS, NONE)).await;
    board.pass(5_000);
    board.set(START_MS + YEAR_MS, true);
    assert_eq!(start(&log, &p).await, 3, "what is a year old goes, the rest begins now");
    log.close().await;
    let log = board.open(dir.path());
    board.pass(59_000);
    assert_eq!(start(&log, &p).await, 3, "and that is known after a restart");
    board.pass(4_000);
    assert_eq!(start(&log, &p).await, 6);
}

#[tokio::test]
async fn a_board_that_began_in_the_far_future_comes_back() {
    let dir = memory_dir();
    let board = Board::new(START_MS + 70 * YEAR_MS);
    let log = board.open(dir.path());
    let p = a_minute(&log).await;
    board.set(START_MS, true);
    assert_eq!(start(&log, &p).await, 0);
    board.pass(59_000);
    assert_eq!(start(&log, &p).await, 0);
    board.pass(3_000);
    assert_eq!(start(&log, &p).await, 4);
}

#[tokio::test]
async fn every_entry_of_the_journal_notes_boot_uptime_and_synchronisation() {
    let dir = memory_dir();
    let board = Board::new(START_MS);
    let log = board.open(dir.path());
    let p = Partition::new("a", 0);
    topic(&log, "a", 1).await;
    append(&log, &p, batch(1, 50, 5, NONE)).await;
    board.set(START_MS, true);
    board.pass(700);
    append(&log, &p, batch(1, 50, 5, NONE)).await;
    log.close().await;
    let directory = directory::Directory::open(dir.path()).unwrap();
    let store = store::Store::open(directory, store::map_bytes(64 << 20), Durability::Strict).unwrap();
    let txn = store.read_txn().unwrap();
    let boot = u128::from_be_bytes(clock::Boot::this().id);
    let mut found = Vec::new();
    for item in store.db.prefix_iter(&txn, &[layout::JOURNAL]).unwrap() {
        let entry = layout::read_entry(item.unwrap().1).unwrap();
        for frame in entry.frames {
            if let layout::Frame::Noted { boot_id, uptime_ms, is_synchronised } = frame {
                assert_eq!(u128::from_be_bytes(boot_id), boot);
                found.push((entry.clock_ms - START_MS, uptime_ms, is_synchronised));
            }
        }
    }
    assert_eq!(found, [(0, 5_000, false), (0, 5_000, false), (700, 5_700, true)]);
}

#[tokio::test]
async fn a_full_log_is_told_once_and_when_it_is_over() {
    let dir = memory_dir();
    let board = Board::new(START_MS);
    let log = board.open_with(dir.path(), |c| {
        c.quota_bytes = Some(2 << 20);
        c.on_full = OnFull::Reject;
    });
    topic(&log, "a", 1).await;
    let p = Partition::new("a", 0);
    let mut end = 0;
    for _ in 0..3 {
        while log.commit(write(&p, batch(1, 30_000, 5, NONE))).await.is_ok() {
            end += 1;
        }
        board.pass(5_000);
        // Room for two, and refusals again within ten seconds: it is still full.
        let change = Change::TrimBefore { partition: p.clone(), offset: bounds(&log, &p).0 + 2 };
        log.change(change, vec![]).await.unwrap();
        log.retain().await.unwrap();
    }
    log.change(Change::TrimBefore { partition: p.clone(), offset: end - 1 }, vec![]).await.unwrap();
    log.retain().await.unwrap();
    append(&log, &p, batch(1, 50, 5, NONE)).await;
    board.pass(10_000);
    append(&log, &p, batch(1, 50, 5, NONE)).await;
    log.tell(Event::new(EventKind::Quarantine, "", serde_json::json!({}))).await.unwrap();
    let told: Vec<String> = events(&log).await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(told, ["full", "space-again", "quarantine"]);
}
