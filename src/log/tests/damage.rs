//! Files that are not as they were written.
//!
//! What was in a log is known; its file is damaged at random places, and the log is opened again. It must open, serve no
//! byte that is wrong, list every offset that it does not serve, and never give one out twice. `DAMAGE_CASES` says how
//! many, `DAMAGE_SEED` which first.

use std::{collections::HashMap, fs};

use super::*;
use crate::log::{
    layout::PAGE_BYTES,
    pages::{Content, content},
};

/// A small generator, so that a case can be run again by its number.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % end as u64).unwrap()
    }
}

/// A log, what is in it, and its file.
struct Truth {
    file: Vec<u8>,
    /// Batches by the partition's number in the file and by their offset.
    batches: HashMap<u32, BTreeMap<Offset, Bytes>>,
    /// The same of what was deleted: it may come back where it is not known any more that it was.
    deleted: HashMap<u32, BTreeMap<Offset, Bytes>>,
    names: BTreeMap<u32, Partition>,
    ends: HashMap<u32, Offset>,
    /// Pages of the trees: damage there is the worst.
    trees: Vec<usize>,
}

fn number(log: &Log, partition: &Partition) -> u32 {
    log.0.shared.part(partition).unwrap().id
}

async fn batches(log: &Log, partition: &Partition) -> BTreeMap<Offset, Bytes> {
    let all = read_all(log, partition, bounds(log, partition).0, 1 << 20).await;
    all.into_iter().map(|b| (header::Header::parse(&b).unwrap().base, b)).collect()
}

async fn truth() -> Truth {
    let dir = memory_dir();
    let log = open_with(dir.path(), |c| c.quota_bytes = Some(8 << 20));
    for (name, partitions) in [("a", 3), ("b", 1), ("gone", 2), ("c", 20)] {
        topic(&log, name, partitions).await;
    }
    let mut random = Random(7);
    let mut deleted = HashMap::new();
    for round in 0..400usize {
        let (name, partitions) = [("a", 3), ("b", 1), ("gone", 2), ("c", 20)][round % 4];
        let partition = Partition::new(name, i32::try_from(random.below(partitions)).unwrap());
        let body = [20, 300, 3_000, 9_000, 40_000][random.below(5)];
        let mut write =
            write(&partition, batch(1 + i32::try_from(random.below(5)).unwrap(), body, 1_750_000_000_000, NONE));
        let key = format!("key {}", random.below(200));
        write.state.push(StateWrite {
            owner: "test",
            key: key.clone().into(),
            value: Some(key.repeat(1 + round % 9).into()),
        });
        log.commit(write).await.unwrap();
        if round == 300 {
            for partition in [Partition::new("gone", 0), Partition::new("gone", 1), Partition::new("a", 0)] {
                deleted.insert(number(&log, &partition), batches(&log, &partition).await);
            }
            log.change(Change::Delete { name: "gone".into() }, vec![]).await.unwrap();
            topic(&log, "gone", 2).await;
            log.change(Change::TrimBefore { partition: Partition::new("a", 0), offset: 10 }, vec![]).await.unwrap();
        }
    }
    let mut out = Truth {
        file: Vec::new(),
        batches: HashMap::new(),
        deleted,
        names: BTreeMap::new(),
        ends: HashMap::new(),
        trees: Vec::new(),
    };
    for (name, topic) in &log.topics().borrow().clone().by_name {
        for index in 0..topic.partitions {
            let partition = Partition::new(&**name, index);
            let id = number(&log, &partition);
            out.batches.insert(id, batches(&log, &partition).await);
            out.ends.insert(id, bounds(&log, &partition).1);
            out.names.insert(id, partition);
        }
    }
    log.close().await;
    out.file = fs::read(dir.path().join("data.mdb")).unwrap();
    let pages = out.file.chunks_exact(PAGE_BYTES).enumerate();
    let trees = pages.filter(|(n, page)| matches!(content(page, *n as u64), Ok(Content::Leaf(_) | Content::Branch(_))));
    out.trees = [0, 1].into_iter().chain(trees.map(|(n, _)| n)).collect();
    out
}

/// Damages a copy of the file; says how.
fn damage(truth: &Truth, random: &mut Random) -> (Vec<u8>, String) {
    let mut file = truth.file.clone();
    let mut how = String::new();
    for _ in 0..1 + random.below(3) {
        let page = match random.below(2) {
            0 => truth.trees[random.below(truth.trees.len())],
            _ => random.below(file.len() / PAGE_BYTES),
        };
        let at = page * PAGE_BYTES + [random.below(PAGE_BYTES), random.below(200)][random.below(2)];
        match random.below(6) {
            0..3 => {
                let bit = random.below(8);
                file[at] ^= 1 << bit;
                how += &format!(" bit {bit} of byte {at} (page {page}+{})", at % PAGE_BYTES);
            }
            3 => {
                let length = [1, 16, 512, PAGE_BYTES, 20 * PAGE_BYTES][random.below(5)].min(file.len() - at);
                let fill = [0, 0xFF, 0xA5][random.below(3)];
                file[at..at + length].fill(fill);
                how += &format!(" {length} bytes of {fill} at {at} (page {page})");
            }
            4 => {
                // A block that was written to the wrong place.
                let from = random.below(file.len() / PAGE_BYTES) * PAGE_BYTES;
                let block = file[from..from + PAGE_BYTES].to_vec();
                file[page * PAGE_BYTES..(page + 1) * PAGE_BYTES].copy_from_slice(&block);
                how += &format!(" page {} at {page}", from / PAGE_BYTES);
            }
            _ => {
                if random.below(3) == 0 {
                    file.truncate(at.max(1));
                    how += &format!(" cut to {at}");
                    break;
                }
            }
        }
    }
    (file, how)
}

/// Opens the file and holds everything that it tells against the truth. How many records are missing.
async fn judge(truth: &Truth, file: &[u8], how: &str) -> i64 {
    let dir = memory_dir();
    fs::write(dir.path().join("brooklet.lock"), b"1").unwrap();
    fs::write(dir.path().join("data.mdb"), file).unwrap();
    let mut lost = 0;
    for round in 0..2 {
        let log = open_with(dir.path(), |c| c.quota_bytes = Some(8 << 20));
        lost = serves_the_truth(truth, &log, how).await;
        let listed = log.quarantined().unwrap();
        for entry in &listed {
            if let Some(copy) = &entry.copy {
                assert!(fs::metadata(copy).is_ok(), "{how}: {copy} is not there");
            }
        }
        // What lies beyond, it may do: every partition takes records, at offsets that nobody ever saw.
        for (id, end) in &truth.ends {
            let partition = &truth.names[id];
            let Ok(watch) = log.watch(partition) else { continue };
            drop(watch);
            if number(&log, partition) != *id {
                continue;
            }
            let base = append(&log, partition, batch(1, 10, 5, NONE)).await.base_offset;
            assert!(base >= *end, "{how}: {partition} gives offset {base} out again, in round {round}");
        }
        log.close().await;
        // After a mend it is sound.
        if round == 1 {
            let path = dir.path().join("data.mdb");
            assert!(
                matches!(admission::examine(&path), Ok(admission::Verdict::Open(bad)) if bad.is_empty()),
                "{how}: not sound after a mend"
            );
        }
    }
    lost
}

async fn serves_the_truth(truth: &Truth, log: &Log, how: &str) -> i64 {
    let topics = log.topics().borrow().clone();
    let mut served: HashMap<u32, BTreeMap<Offset, Offset>> = HashMap::new();
    let mut names = BTreeMap::new();
    for (name, topic) in &topics.by_name {
        for index in 0..topic.partitions {
            let partition = Partition::new(&**name, index);
            if **name == *EVENTS_TOPIC {
                continue;
            }
            let id = number(log, &partition);
            let (start, end) = bounds(log, &partition);
            let mut next = start;
            names.insert(id, partition.clone());
            while next < end {
                let slice = log.read(&partition, next, 1 << 20).await.unwrap();
                assert!(!slice.batches.is_empty(), "{how}: {partition} stops at {next} of {end}");
                for (at, header) in header::headers(&slice.batches) {
                    let batch = &slice.batches[at..at + header.bytes];
                    assert!(header.last() >= next, "{how}: {partition} goes back");
                    next = header.last() + 1;
                    if header.bytes == 61 || header.bytes == 71 {
                        continue; // an empty batch over a hole, or one of ours from the round before
                    }
                    let all = [&truth.batches, &truth.deleted].into_iter().filter_map(|batches| batches.get(&id));
                    let right = all.filter_map(|batches| batches.get(&header.base)).next();
                    assert!(
                        right.is_some_and(|right| **right == *batch),
                        "{how}: {partition} serves a wrong batch at {}",
                        header.base
                    );
                    served.entry(id).or_default().insert(header.base, header.last());
                }
            }
        }
    }
    let listed = log.quarantined().unwrap();
    let mut lost = 0;
    for (id, batches) in &truth.batches {
        for (base, batch) in batches {
            if served.get(id).is_some_and(|served| served.contains_key(base)) {
                continue;
            }
            let last = header::Header::parse(batch).unwrap().last();
            lost += last - base + 1;
            let name = &truth.names[id];
            let is_listed = listed.iter().any(|e| {
                let is_name = (&*e.topic, e.partition) == (&*name.topic, name.index) || e.topic == format!("lost.{id}");
                is_name && e.from <= *base && e.to >= last || e.topic.is_empty() && e.reason.contains("anew")
            });
            let is_gone = !names.contains_key(id) && listed.iter().any(|e| e.copy.is_some());
            assert!(is_listed || is_gone, "{how}: {name} lacks {base} to {last} and does not say so: {listed:#?}");
        }
    }
    lost
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test]
async fn damage_anywhere_costs_what_it_hits_and_is_named() {
    let truth = truth().await;
    let (seed, cases) = (setting("DAMAGE_SEED", 1), setting("DAMAGE_CASES", 150));
    let whole = judge(&truth, &truth.file, "whole").await;
    assert_eq!(whole, 0);
    let mut with_loss = 0;
    for case in seed..seed + cases {
        let mut random = Random(case.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (file, how) = damage(&truth, &mut random);
        let how = format!("case {case}:{how}");
        if std::env::var_os("DAMAGE_SAYS").is_some() {
            eprintln!("{how}");
        }
        with_loss += u64::from(judge(&truth, &file, &how).await > 0);
    }
    println!("{cases} cases, {with_loss} with records lost");
    assert!(with_loss > cases / 20, "the damage hits nothing");
}

/// Opens a directory that holds `file` as its data file and a lock of ours if `is_ours`.
fn with_file(file: &[u8], is_ours: bool) -> (tempfile::TempDir, Result<Log, Error>) {
    let dir = memory_dir();
    if is_ours {
        fs::write(dir.path().join("brooklet.lock"), b"1").unwrap();
    }
    fs::write(dir.path().join("data.mdb"), file).unwrap();
    let log = Log::open(Config::new(dir.path()), &Registry::default());
    (dir, log)
}

#[tokio::test]
async fn foreign_files_are_put_aside_at_home_and_refused_elsewhere() {
    let mut sqlite = b"SQLite format 3\0".to_vec();
    sqlite.resize(12_288, 3);
    for foreign in [vec![7; 5_000], vec![0; 100_000], sqlite, vec![1]] {
        let (dir, log) = with_file(&foreign, true);
        let log = log.unwrap();
        let listed = log.quarantined().unwrap();
        assert!(listed[0].reason.contains("none of Brooklet's"), "{listed:?}");
        assert_eq!(fs::read(listed[0].copy.as_ref().unwrap()).unwrap(), foreign);
        topic(&log, "a", 1).await;
        append(&log, &Partition::new("a", 0), batch(1, 10, 5, NONE)).await;
        drop((log, dir));

        let (dir, log) = with_file(&foreign, false);
        let Err(Error::Open(line)) = log else { panic!("it was opened") };
        assert!(line.contains("is no data file of Brooklet"), "{line}");
        assert_eq!(fs::read(dir.path().join("data.mdb")).unwrap(), foreign);
        // Once more: the first try must not make it a home of ours.
        assert!(Log::open(Config::new(dir.path()), &Registry::default()).is_err());
    }
    let mut other_word = vec![0; 8192];
    let at = if cfg!(target_pointer_width = "64") { 12 } else { 16 };
    other_word[at..at + 4].copy_from_slice(&directory::LMDB_MAGIC);
    let (_dir, log) = with_file(&other_word, true);
    let Err(Error::Open(line)) = log else { panic!("it was opened") };
    assert!(line.contains("another word size"), "{line}");
}

/// The values of all events, as JSON.
async fn events(log: &Log) -> Vec<serde_json::Value> {
    let partition = Partition::new(EVENTS_TOPIC, 0);
    let mut unpacker = crate::record::Unpacker::new(1 << 20);
    let mut out = Vec::new();
    for batch in read_all(log, &partition, 0, 1 << 20).await {
        for record in unpacker.records(&batch).unwrap() {
            out.push(serde_json::from_slice(record.unwrap().value.unwrap()).unwrap());
        }
    }
    out
}

#[tokio::test]
async fn a_damaged_chunk_is_stepped_over_kept_and_told_once() {
    let dir = memory_dir();
    let log = open(dir.path());
    topic(&log, "a", 1).await;
    let p = Partition::new("a", 0);
    for _ in 0..5 {
        append(&log, &p, batch(2, 60_000, 5, NONE)).await;
    }
    log.close().await;
    let path = dir.path().join("data.mdb");
    let mut file = fs::read(&path).unwrap();
    let chunks: Vec<usize> =
        (0..file.len()).step_by(PAGE_BYTES).filter(|at| file[at + 16..].starts_with(b"CHK1")).collect();
    for at in [chunks[0], chunks[2], chunks[4]] {
        file[at + 5_000] ^= 1;
    }
    fs::write(&path, file).unwrap();

    let log = open(dir.path());
    let read = read_all(&log, &p, 0, 1).await;
    let bases: Vec<Offset> = read.iter().map(|b| header::Header::parse(b).unwrap().base).collect();
    // The last leaves a hole at the end, which an empty batch leads over.
    assert_eq!(bases, [2, 6, 8]);
    assert_eq!(read[2].len(), 61);
    assert!(crate::record::batch::check(&read[2]).is_ok());
    assert_eq!(append(&log, &p, batch(1, 10, 5, NONE)).await.base_offset, 10);
    assert_eq!(log.offset_at(&p, 0, 1 << 20).await.unwrap().map(|t| t.offset), Some(2));
    let expected = [(0, 1), (4, 5), (8, 9)];
    for _ in 0..2 {
        let listed = log.quarantined().unwrap();
        assert_eq!(listed.iter().map(|e| (e.from, e.to)).collect::<Vec<_>>(), expected);
        assert!(listed.iter().all(|e| fs::read(e.copy.as_ref().unwrap()).unwrap().starts_with(b"CHK1")));
        let told = events(&log).await;
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!((&told[0]["kind"], &told[0]["data"]["missing"][0]["from"]), (&"quarantine".into(), &0.into()));
    }
    log.close().await;
    let log = open(dir.path());
    assert_eq!(log.quarantined().unwrap().len(), 3);
    assert_eq!(events(&log).await.len(), 3);
    assert_eq!(read_all(&log, &p, 2, 1 << 20).await.len(), 3);
}

#[tokio::test]
async fn a_start_reads_the_trees_and_not_the_chunks() {
    let dir = memory_dir();
    let log = open_with(dir.path(), |c| c.quota_bytes = Some(64 << 20));
    topic(&log, "a", 1).await;
    for _ in 0..500 {
        append(&log, &Partition::new("a", 0), batch(1, 60_000, 5, NONE)).await;
    }
    log.close().await;
    let file = fs::File::open(dir.path().join("data.mdb")).unwrap();
    let meta = walk::metas(&file).unwrap().usable[0];
    let pages = pages::Pages::new(file, meta.page_bytes).unwrap();
    let mut walk = walk::Walk::new(&pages, &meta);
    walk.main(&meta, &mut |_, _| {});
    walk.free(&meta);
    assert_eq!(walk.faults, []);
    assert!(pages.count > 8_000 && walk.read_pages < 40, "{} of {} pages", walk.read_pages, pages.count);
}
