//! A disk that is full.

use super::*;

/// Runs in a process of its own whose files may not grow beyond 3 MiB at first, which is a full disk to LMDB.
#[tokio::test]
#[ignore = "run by a_full_disk_loses_nothing_and_passes"]
async fn on_a_full_disk() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    topic(&log, "a", 1).await;
    topic_with(&log, "relaxed", 1, &[("brooklet.durability", "relaxed")]).await;
    let p = Partition::new("a", 0);
    let mut taken = 0;
    let refused = async |taken: i64| {
        for _ in 0..5 {
            assert_eq!(
                log.commit(write(&p, batch(1, 45_000, 5, (7, 0, i32::try_from(taken).unwrap())))).await,
                Err(Error::Full)
            );
        }
        assert_eq!(bounds(&log, &p), (0, taken));
    };
    let fill = async |mut taken: i64, most: i64| {
        while taken < most {
            let sequence = i32::try_from(taken).unwrap();
            if log.commit(write(&p, batch(1, 45_000, 5, (7, 0, sequence)))).await.is_err() {
                break;
            }
            taken += 1;
        }
        taken
    };
    taken = fill(taken, 200).await;
    assert!((30..80).contains(&taken), "{taken}");
    refused(taken).await;
    assert_eq!(read_all(&log, &p, 0, 1 << 20).await.len(), usize::try_from(taken).unwrap());
    // What is answered before it is written waits in RAM; once it is known that the disk is full, no more is let in.
    let r = Partition::new("relaxed", 0);
    let mut answered = 0;
    while log.commit(write(&r, batch(1, 45_000, 5, NONE))).await.is_ok() {
        answered += 1;
        assert!(answered < 200, "relaxed records gather without bounds");
    }
    assert_eq!(bounds(&log, &r), (0, 0));

    // Space returns: without a restart, and the refused batch is no duplicate.
    let hard = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: Some(6 << 20), maximum: hard }).unwrap();
    let more = fill(taken, 300).await;
    assert!(more > taken + 20, "{more}");
    assert_eq!(bounds(&log, &r), (0, answered));
    refused(more).await;

    // Or retention frees some, within the file.
    log.change(Change::TrimBefore { partition: p.clone(), offset: more / 2 }, vec![]).await.unwrap();
    log.retain().await.unwrap();
    let last = fill(more, more + 10).await;
    assert_eq!(last, more + 10);
    log.close().await;
    let log = open(dir.path());
    assert_eq!(bounds(&log, &p), (more / 2, last));
    assert_eq!(read_all(&log, &p, more / 2, 1 << 20).await.len(), usize::try_from(last - more / 2).unwrap());
    println!("all of it ran");
}

#[test]
fn a_full_disk_loses_nothing_and_passes() {
    let child = std::process::Command::new("bash")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -S -f 3072; exec \"$0\" --exact log::tests::disk::on_a_full_disk --ignored --nocapture",
        ])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && out.contains("all of it ran"), "{out}{err}");
}
