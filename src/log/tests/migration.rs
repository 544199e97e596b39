//! Files of older formats.

use super::*;

/// What the stored files of older formats were filled with, by the version of this program that wrote them: two
/// partitions with sealed chunks and a tail, a sequence of an idempotent producer, settings, state inside and outside of
/// the journal.
async fn fill(log: &Log) {
    topic_with(log, "kept", 2, &[("retention.ms", "-1"), ("brooklet.priority", "3")]).await;
    topic(log, "small", 1).await;
    topic(log, "deleted", 1).await;
    let state =
        |key: &str, value: String| StateWrite { owner: "test", key: key.to_owned().into(), value: Some(value.into()) };
    for round in 0..120 {
        for index in 0..2 {
            let batch = batch(3, 4_000 + 100 * round, 1_750_000_000_000 + round as i64, (9, 0, 3 * round as i32));
            let mut write = write(&Partition::new("kept", index), batch);
            write.state.push(state("often", format!("round {round}")));
            if round < 5 {
                write.state.push(state(&format!("seldom {round}"), format!("value {round}")));
            }
            log.commit(write).await.unwrap();
        }
    }
    append(log, &Partition::new("small", 0), batch(2, 50, 1_750_000_000_000, NONE)).await;
    append(log, &Partition::new("deleted", 0), batch(2, 50, 1_750_000_000_000, NONE)).await;
    log.change(Change::Delete { name: "deleted".into() }, vec![]).await.unwrap();
}

#[tokio::test]
#[ignore = "makes the file of the present format"]
async fn make() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_with(dir.path(), |c| c.quota_bytes = Some(4 << 20));
    fill(&log).await;
    log.close().await;
    let raw = std::fs::read(dir.path().join("data.mdb")).unwrap();
    println!("{} bytes", raw.len());
    std::fs::write(std::env::var_os("TO").unwrap(), zstd::bulk::compress(&raw, 19).unwrap()).unwrap();
}

/// Everything that a log tells of itself.
async fn told(
    log: &Log,
) -> (Vec<(String, (Offset, Offset), Vec<Bytes>)>, Vec<(Bytes, Bytes)>, Vec<BTreeMap<String, String>>) {
    let topics = log.topics().borrow().clone();
    let mut records = Vec::new();
    for (name, topic) in &topics.by_name {
        for index in 0..topic.partitions {
            let partition = Partition::new(name.as_ref(), index);
            let all = read_all(log, &partition, 0, 1 << 20).await;
            records.push((partition.to_string(), bounds(log, &partition), all));
        }
    }
    let settings = topics.by_name.values().map(|topic| topic.settings.clone()).collect();
    (records, log.states("test", b"").unwrap(), settings)
}

/// A directory with the stored file of an older format.
fn stored(packed: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("data.mdb"), zstd::bulk::decompress(packed, 16 << 20).unwrap()).unwrap();
    dir
}

#[tokio::test]
async fn a_file_of_format_1_is_brought_to_the_present_one() {
    let fresh = tempfile::tempdir().unwrap();
    let expected = open_with(fresh.path(), |c| c.quota_bytes = Some(4 << 20));
    fill(&expected).await;
    let expected = told(&expected).await;
    assert!(expected.0.iter().any(|(_, _, batches)| batches.len() > 100));

    let dir = stored(include_bytes!("format-1.mdb.zst"));
    for _ in 0..2 {
        let log = open_with(dir.path(), |c| c.quota_bytes = Some(4 << 20));
        assert!(told(&log).await == expected);
        assert_eq!(log.quarantined().unwrap(), []);
        // The idempotent producer's last batch is still known.
        let again = batch(3, 4_000 + 100 * 119, 1_750_000_000_119, (9, 0, 3 * 119));
        assert!(append(&log, &Partition::new("kept", 1), again).await.is_duplicate);
        log.close().await;
    }
    assert!(!dir.path().join("quarantine").exists());
    let file = std::fs::read(dir.path().join("data.mdb")).unwrap();
    let count = |what: &[u8]| file.windows(what.len()).filter(|w| *w == what).count();
    assert!(count(b"BRKL\x00\x02") > 0);
}

#[test]
fn a_newer_format_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let path = dir.path().join("data.mdb");
    let mut file = std::fs::read(&path).unwrap();
    let places: Vec<usize> = (0..file.len() - 24).filter(|at| file[*at..].starts_with(b"BRKL\x00\x02")).collect();
    for at in places {
        file[at + 5] = 9;
        let crc = crc32c::crc32c(&file[at..at + 24]);
        file[at + 24..at + 28].copy_from_slice(&crc.to_be_bytes());
    }
    std::fs::write(&path, &file).unwrap();
    let Err(Error::Open(line)) = Log::open(Config::new(dir.path()), &Registry::default()) else {
        panic!("it was opened")
    };
    assert!(line.contains("has format 9") && line.contains("install a newer brooklet"), "{line}");
    assert_eq!(std::fs::read(&path).unwrap(), file);
}
