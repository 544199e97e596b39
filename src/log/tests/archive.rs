//! Backups, restored and read, without a daemon.

use std::fs;

use super::*;

/// A batch of one record whose checksum is right, as those of clients are.
fn whole_batch(value_bytes: usize) -> Vec<u8> {
    let mut builder = crate::record::Builder::new();
    builder.push(5, None, Some(&vec![b'x'; value_bytes]), &[]).unwrap();
    builder.finish(crate::record::Codec::None, 0).to_vec()
}

/// A log with two topics; every record's value is in the answer, by partition.
async fn filled(dir: &Path) -> (Log, BTreeMap<String, Vec<Bytes>>) {
    let log = open(dir);
    topic(&log, "a", 2).await;
    topic(&log, "b", 1).await;
    let mut truth = BTreeMap::new();
    for n in 0..60 {
        let partition = [Partition::new("a", 0), Partition::new("a", 1), Partition::new("b", 0)][n % 3].clone();
        let base = append(&log, &partition, whole_batch(100 + n * 400)).await.base_offset;
        let mut batches = read_all(&log, &partition, base, 1 << 20).await;
        truth.entry(partition.to_string()).or_insert_with(Vec::new).push(batches.remove(0));
    }
    (log, truth)
}

fn exported(source: &Path) -> (usize, BTreeMap<String, Vec<Bytes>>) {
    let mut out: BTreeMap<String, Vec<Bytes>> = BTreeMap::new();
    let damaged = export(source, &|_| true, &mut |partition, batch| {
        out.entry(partition.to_string()).or_default().push(Bytes::copy_from_slice(batch));
        Ok(())
    });
    (damaged.unwrap(), out)
}

/// Takes a backup as the admin port does.
async fn backup(log: &Log, to: &Path) {
    let mut copy = log.backup().await.unwrap();
    fs::create_dir_all(to).unwrap();
    std::io::copy(&mut copy, &mut fs::File::create(to.join("data.mdb")).unwrap()).unwrap();
}

#[tokio::test]
async fn a_backup_is_one_moment_and_comes_back_behind_what_others_saw() {
    let dir = memory_dir();
    let (log, truth) = filled(&dir.path().join("log")).await;
    let copy = dir.path().join("copy");
    backup(&log, &copy).await;
    let p = Partition::new("a", 0);
    append(&log, &p, batch(1, 10, 5, NONE)).await;
    let Err(Error::Open(line)) = verify(&dir.path().join("log"), &mut |_, _| {}) else { panic!("it is in use") };
    assert!(line.contains("in use by a daemon"), "{line}");

    let mut last = (0, 1);
    let report = verify(&copy, &mut |done, of| last = (done, of)).unwrap();
    assert_eq!((report.problems, report.topics, report.format), (vec![], 2, 2));
    // The journal still holds some of what is sealed.
    assert!(report.batches >= 60, "{}", report.batches);
    assert_eq!(last.0, last.1);
    assert_eq!(exported(&copy), (0, truth.clone()));

    let again = dir.path().join("again");
    restore(&copy, &again, 0, &mut |_, _| {}).unwrap();
    assert!(restore(&copy, &again, 0, &mut |_, _| {}).is_err(), "it was overwritten");
    let restored = open(&again);
    assert_ne!(restored.incarnation(), log.incarnation());
    for (name, batches) in &truth {
        let (topic, index) = name.rsplit_once('-').unwrap();
        let partition = Partition::new(topic, index.parse().unwrap());
        let mut served = read_all(&restored, &partition, 0, 1 << 20).await;
        // An empty batch leads over the gap.
        assert_eq!(served.pop().unwrap().len(), 61);
        assert_eq!(&served, batches);
        let base = append(&restored, &partition, whole_batch(10)).await.base_offset;
        assert!(base >= 1_000_000, "{base}");
    }
    assert!(restored.quarantined().unwrap().iter().all(|e| e.reason.contains("restored from a backup")));
    // A producer id of after the backup is not given out again.
    assert!(restored.next_producer_id().await.unwrap() > log.next_producer_id().await.unwrap());
    restored.close().await;
    assert_eq!(verify(&again, &mut |_, _| {}).unwrap().problems, Vec::<String>::new());
}

#[tokio::test]
async fn every_damaged_byte_that_holds_something_is_found() {
    let dir = memory_dir();
    let (log, truth) = filled(&dir.path().join("log")).await;
    let copy = dir.path().join("copy");
    backup(&log, &copy).await;
    let path = copy.join("data.mdb");
    let file = fs::read(&path).unwrap();
    let mut found = 0;
    for at in (0..file.len()).step_by(4_999) {
        let mut damaged = file.clone();
        damaged[at] ^= 0x40;
        fs::write(&path, &damaged).unwrap();
        let report = verify(&copy, &mut |_, _| {}).unwrap();
        if !report.problems.is_empty() {
            found += 1;
            assert!(restore(&copy, &dir.path().join("no"), 0, &mut |_, _| {}).is_err());
            assert!(!dir.path().join("no").join("data.mdb").exists());
        }
        // Whatever was hit, what is exported is right.
        for (name, batches) in exported(&copy).1 {
            let known = truth.get(&name).or_else(|| name.starts_with("lost.").then(|| &truth["a-0"]));
            let right = |batch: &Bytes| truth.values().flatten().any(|one| one == batch);
            assert!(known.is_some() && batches.iter().all(right), "byte {at}: {name}");
        }
    }
    // The rest are zeros up to a page class and space in leaves, which hold nothing.
    assert!(found * 10 > file.len() / 4_999 * 6, "{found} of {}", file.len() / 4_999);
}
