//! The log beside a plain file on the same disk, turn by turn in one process: ratios, because a disk's flush moves by ten
//! times with what else it does.
//!
//!     cargo bench --bench log [-- DIR]        # where the log and the file lie; the temporary directory if not said

use std::{
    fs::File,
    io::{Read, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use brooklet::{
    log::{Append, Change, Config, Durability, Log, Write},
    metrics::Registry,
    record::{Builder, Codec, Partition},
};
use bytes::Bytes;

/// Commits of each kind and size.
const COMMITS: usize = 400;
/// Turns of the floor among them.
const FLOOR_TURNS: u64 = 20;
/// Commits in a row before the other one's turn: the pipelined log needs company.
const TURN: usize = 20;

fn batch(bytes: usize) -> Bytes {
    let mut builder = Builder::new();
    builder.push(1_700_000_000_000, None, Some(&vec![b'x'; bytes.saturating_sub(75)]), &[]).expect("a small record");
    builder.finish(Codec::None, 0)
}

async fn open(dir: &Path, durability: Durability, partitions: i32) -> Log {
    let config =
        Config { quota_bytes: Some(512 << 20), durability, linger: Duration::from_millis(5), ..Config::new(dir) };
    let log = Log::open(config, &Registry::default()).expect("a log");
    let create = Change::Create { name: "t".into(), partitions, settings: [].into() };
    log.change(create, Vec::new()).await.expect("a topic");
    log
}

fn write(partition: i32, batch: &Bytes) -> Write {
    let append = Append { partition: Partition::new("t", partition), batch: batch.clone() };
    Write { batches: vec![append], ..Write::default() }
}

/// What the disk lets a commit of LMDB be at best: three pages of a file that does not grow and the value's, a flush, and a
/// part of a page that is flushed by itself, with nothing computed in between. Seconds for each.
fn floor(dir: &Path, bytes: usize) -> f64 {
    let path = dir.join("floor");
    std::fs::write(&path, vec![0; 1 << 20]).expect("a file");
    let file = File::options().write(true).open(&path).expect("the file");
    let meta = File::options().write(true).custom_flags(libc::O_DSYNC).open(&path).expect("the file");
    file.sync_all().expect("flushed");
    let value = vec![1; if bytes > 2_000 { (bytes + 4096).next_multiple_of(4096) } else { 4096 }];
    let begun = Instant::now();
    for turn in 0..FLOOR_TURNS {
        let place = (turn % 4) * 0x20000;
        for page in [8, 16] {
            file.write_all_at(&value[..4096], place + page * 4096).expect("written");
        }
        file.write_all_at(&value, place + 0x2000).and_then(|()| file.sync_data()).expect("written");
        meta.write_all_at(&value[..120], (turn % 2) * 4096 + 32).expect("written");
    }
    begun.elapsed().as_secs_f64() / FLOOR_TURNS as f64
}

/// Durable commits a second beside append and fdatasync on a file that grows. `depth` writes are outstanding at a time.
async fn commits(dir: &Path, durability: Durability, bytes: usize, depth: usize) {
    let scratch = tempfile::tempdir_in(dir).expect("a directory");
    let log = open(scratch.path(), durability, 1).await;
    let mut file = File::create(scratch.path().join("file")).expect("a file");
    let batch = batch(bytes);
    let (mut in_log, mut in_file, mut in_floor) = (Duration::ZERO, Duration::ZERO, 0.0);
    for _ in 0..COMMITS / TURN {
        in_floor += floor(scratch.path(), bytes);
        let begun = Instant::now();
        let mut outstanding = std::collections::VecDeque::new();
        for _ in 0..TURN {
            outstanding.push_back(log.enter(write(0, &batch)).await.expect("entered"));
            if outstanding.len() == depth {
                outstanding.pop_front().expect("not empty").durable().await.expect("durable");
            }
        }
        for entered in outstanding {
            entered.durable().await.expect("durable");
        }
        in_log += begun.elapsed();
        let begun = Instant::now();
        for _ in 0..TURN {
            file.write_all(&batch).and_then(|()| file.sync_data()).expect("appended");
        }
        in_file += begun.elapsed();
    }
    let commits = log.usage().commits - 1;
    let per_record = in_log.as_secs_f64() / COMMITS as f64;
    let ratio = in_file.as_secs_f64() / COMMITS as f64 / per_record;
    let best = in_file.as_secs_f64() / COMMITS as f64 / (in_floor / (COMMITS / TURN) as f64);
    println!(
        "{durability:?} {bytes:>6} B, {depth} outstanding: {ratio:.2} records of append+fdatasync ({commits} commits); \
         one at a time the disk allows {best:.2}"
    );
    log.close().await;
}

/// Records a second of so many producers that wait for each answer.
async fn producers(dir: &Path, durability: Durability, count: usize) -> f64 {
    let scratch = tempfile::tempdir_in(dir).expect("a directory");
    let log = open(scratch.path(), durability, 16).await;
    let batch = batch(269);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..count)
        .map(|index| {
            let (log, batch) = (log.clone(), batch.clone());
            tokio::spawn(async move {
                let mut records = 0u32;
                while begun.elapsed() < Duration::from_secs(3) {
                    log.commit(write(i32::try_from(index % 16).expect("small"), &batch)).await.expect("durable");
                    records += 1;
                }
                records
            })
        })
        .collect();
    let mut records = 0;
    for task in tasks {
        records += task.await.expect("no panic");
    }
    f64::from(records) / begun.elapsed().as_secs_f64()
}

/// Reading a log of 128 MiB beside a plain file, and the time to open it cold.
async fn reading(dir: &Path) {
    let scratch = tempfile::tempdir_in(dir).expect("a directory");
    let log = open(scratch.path(), Durability::Strict, 1).await;
    let batch = batch(64_000);
    let count = (128 << 20) / batch.len();
    for turn in 0..count / 8 {
        let writes = (0..8).map(|_| write(0, &batch)).collect();
        for entered in log.enter_all(writes).await {
            entered.expect("entered").durable().await.unwrap_or_else(|e| panic!("turn {turn}: {e}"));
        }
    }
    let path: PathBuf = scratch.path().join("file");
    std::fs::write(&path, vec![7u8; 128 << 20]).expect("a file");
    let partition = Partition::new("t", 0);
    let (mut in_log, mut in_file) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        let begun = Instant::now();
        let mut next = 0;
        loop {
            let slice = log.read(&partition, next, 1 << 20).await.expect("read");
            if slice.batches.is_empty() {
                break;
            }
            next += i64::try_from(slice.batches.len() / batch.len()).expect("a few");
        }
        in_log = in_log.min(begun.elapsed());
        let begun = Instant::now();
        let mut file = File::open(&path).expect("the file");
        let mut buffer = vec![0; 1 << 20];
        while file.read(&mut buffer).expect("read") > 0 {}
        in_file = in_file.min(begun.elapsed());
    }
    println!("fetch of 1 MiB: {:.2} of reading a plain file, warm", in_file.as_secs_f64() / in_log.as_secs_f64());
    log.close().await;
    let data = File::open(scratch.path().join("data.mdb")).expect("the data file");
    data.sync_all().expect("flushed");
    rustix::fs::fadvise(&data, 0, None, rustix::fs::Advice::DontNeed).expect("dropped from the page cache");
    let begun = Instant::now();
    let log = Log::open(Config::new(scratch.path()), &Registry::default()).expect("a log");
    let per_gib = begun.elapsed().as_secs_f64() * 8.0;
    println!("start: {per_gib:.2} s per GiB, its pages dropped from the cache");
    log.close().await;
}

fn main() {
    let dir = std::env::args().skip(1).find(|a| !a.starts_with("--")).map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for (durability, depth) in [
            (Durability::Strict, 1),
            (Durability::Pipelined, 1),
            (Durability::Strict, 2),
            (Durability::Pipelined, 2),
            (Durability::Strict, 8),
            (Durability::Pipelined, 8),
        ] {
            for bytes in [300, 3_000, 14_000] {
                commits(&dir, durability, bytes, depth).await;
            }
        }
        for durability in [Durability::Strict, Durability::Pipelined] {
            let (one, many) = (producers(&dir, durability, 1).await, producers(&dir, durability, 64).await);
            println!("{durability:?}: 64 waiting producers {:.1} times one ({one:.0}/s)", many / one);
        }
        reading(&dir).await;
    });
}
