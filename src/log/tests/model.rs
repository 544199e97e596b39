//! The log against a model that is a list per partition and a map, through restarts and kills after any commit.

use std::{collections::BTreeMap, path::PathBuf};

use proptest::prelude::*;

use super::*;

const QUOTA_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug)]
enum Step {
    /// Batches of `(partition, records, body bytes)`, and a state entry with them or not.
    Commit {
        batches: Vec<(usize, i32, usize)>,
        state: Option<(u8, Option<u8>)>,
    },
    /// Sends one of the last five idempotent batches of a partition again.
    Repeat {
        partition: usize,
        back: usize,
    },
    Trim {
        partition: usize,
        percent: i64,
    },
    /// Deletes the topic and makes it again.
    Recreate {
        topic: usize,
    },
    Retain,
    Reopen,
    /// Goes on with a copy of the file as it is now, as after kill -9.
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let body = prop_oneof![6 => 1..600usize, 2 => 2_000..9_000usize, 1 => 30_000..140_000usize];
    let batches = prop::collection::vec((0..6usize, 1..4i32, body), 0..8);
    let state = prop::option::of((0..12u8, prop::option::of(any::<u8>())));
    prop_oneof![
        24 => (batches, state).prop_map(|(batches, state)| Step::Commit { batches, state }),
        3 => (0..6usize, 0..5usize).prop_map(|(partition, back)| Step::Repeat { partition, back }),
        2 => (0..6usize, -5..110i64).prop_map(|(partition, percent)| Step::Trim { partition, percent }),
        1 => (0..2usize).prop_map(|topic| Step::Recreate { topic }),
        1 => Just(Step::Retain),
        2 => Just(Step::Reopen),
        2 => Just(Step::Kill),
    ]
}

/// One partition as it should be.
#[derive(Default)]
struct Expected {
    /// Every batch ever appended, as read back, by base offset.
    batches: BTreeMap<Offset, Vec<u8>>,
    /// Producer batches as sent, with the offset of the first time, newest last.
    sent: Vec<(Vec<u8>, Offset)>,
    sequence: i32,
    start: Offset,
    end: Offset,
}

struct Rig {
    root: tempfile::TempDir,
    lives: usize,
    durability: Durability,
    log: Log,
    parts: Vec<Expected>,
    state: BTreeMap<u8, u8>,
}

/// Two topics of three partitions each.
fn name(partition: usize) -> Partition {
    Partition::new(["x", "y"][partition / 3], i32::try_from(partition % 3).unwrap())
}

fn open_small(dir: PathBuf, durability: Durability) -> Log {
    let log = open_with(&dir, |c| (c.quota_bytes, c.durability) = (Some(QUOTA_BYTES), durability));
    assert!(!dir.join("quarantine").exists(), "a sound file was taken for a damaged one");
    log
}

impl Rig {
    async fn new(durability: Durability) -> Self {
        let root = memory_dir();
        let log = open_small(root.path().join("0"), durability);
        topic(&log, "x", 3).await;
        topic(&log, "y", 3).await;
        let parts = (0..6).map(|_| Expected::default()).collect();
        Self { root, lives: 0, durability, log, parts, state: BTreeMap::new() }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join(self.lives.to_string())
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Commit { batches, state } => self.commit(batches, state).await,
            Step::Repeat { partition, back } => {
                let part = &self.parts[partition];
                let Some(at) = part.sent.len().checked_sub(back + 1) else { return };
                let (bytes, base) = part.sent[at].clone();
                let again = append(&self.log, &name(partition), bytes).await;
                assert_eq!((again.base_offset, again.is_duplicate), (base, true));
            }
            Step::Trim { partition, percent } => {
                let part = &mut self.parts[partition];
                let ask = if percent < 0 { -1 } else { part.start + (part.end - part.start) * percent / 100 };
                let change = Change::TrimBefore { partition: name(partition), offset: ask };
                let result = self.log.change(change, vec![]).await;
                assert_eq!(result.is_ok(), ask <= part.end, "{result:?}");
                if result.is_ok() {
                    part.start = if ask < 0 { part.end } else { ask.max(part.start) };
                }
            }
            Step::Recreate { topic: which } => {
                let topic_name = ["x", "y"][which];
                self.log.change(Change::Delete { name: topic_name.into() }, vec![]).await.unwrap();
                topic(&self.log, topic_name, 3).await;
                for part in &mut self.parts[which * 3..which * 3 + 3] {
                    *part = Expected::default();
                }
            }
            Step::Retain => self.log.retain().await.unwrap(),
            Step::Reopen => {
                self.log.close().await;
                self.log = open_small(self.dir(), self.durability);
                self.check_all().await;
            }
            Step::Kill => {
                let old = self.dir().join("data.mdb");
                self.lives += 1;
                std::fs::create_dir_all(self.dir()).unwrap();
                std::fs::copy(old, self.dir().join("data.mdb")).unwrap();
                self.log = open_small(self.dir(), self.durability);
                self.check_all().await;
            }
        }
    }

    async fn commit(&mut self, batches: Vec<(usize, i32, usize)>, state: Option<(u8, Option<u8>)>) {
        let mut whole = Write::default();
        let mut expected = Vec::new();
        for (index, (partition, records, body)) in batches.into_iter().enumerate() {
            let part = &mut self.parts[partition];
            // Every second batch comes from an idempotent producer.
            let producer = if index % 2 == 0 { (5, 0, part.sequence) } else { NONE };
            let sent = batch(records, body, 1_000, producer);
            let base = part.end;
            part.end += i64::from(records);
            let mut kept = sent.clone();
            header::stamp(&mut kept, base);
            part.batches.insert(base, kept);
            if index % 2 == 0 {
                part.sequence += records;
                part.sent.push((sent.clone(), base));
            }
            whole.batches.push(Append { partition: name(partition), batch: sent.into() });
            expected.push(base);
        }
        if let Some((key, value)) = state {
            let value_bytes = value.map(|v| Bytes::from(vec![v; 1 + usize::from(v) * 20]));
            whole.state.push(StateWrite { owner: "test", key: vec![key].into(), value: value_bytes });
            match value {
                Some(value) => self.state.insert(key, value),
                None => self.state.remove(&key),
            };
        }
        let answers = self.log.commit(whole).await.unwrap();
        assert_eq!(answers.iter().map(|a| a.base_offset).collect::<Vec<_>>(), expected);
        self.check_bounds();
    }

    /// The end is exact; the quota may have moved the start.
    fn check_bounds(&mut self) {
        for (partition, part) in self.parts.iter_mut().enumerate() {
            let (start, end) = bounds(&self.log, &name(partition));
            assert_eq!(end, part.end, "{partition}");
            assert!(start >= part.start && start <= end, "{partition}: {start} after {}", part.start);
            let whole = start == end || start == part.start || part.batches.contains_key(&start);
            assert!(whole, "{partition}: {start} is within a batch");
            part.start = start;
        }
        // Beside the quota: the journal's cap, the large commit just made, the tree itself.
        assert!(self.log.usage().live_bytes < 3 * QUOTA_BYTES, "{}", self.log.usage().live_bytes);
    }

    async fn check_all(&mut self) {
        self.check_bounds();
        for (partition, part) in self.parts.iter().enumerate() {
            let read = read_all(&self.log, &name(partition), part.start, 50_000).await;
            let first = part.batches.range(..=part.start).next_back().map_or(0, |(base, _)| *base);
            let kept = part.batches.range(first..).filter(|(base, bytes)| {
                **base + i64::from(header::Header::parse(bytes).unwrap().last_delta) >= part.start
            });
            let kept: Vec<&Vec<u8>> = kept.map(|(_, bytes)| bytes).collect();
            assert_eq!(read.len(), kept.len(), "{partition}");
            assert!(read.iter().zip(kept).all(|(r, k)| r == k), "{partition}");
        }
        let state = self.log.states("test", b"").unwrap();
        let state: Vec<(u8, u8)> = state.into_iter().map(|(k, v)| (k[0], v[0])).collect();
        assert_eq!(state, self.state.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
        for (key, value) in &self.state {
            assert_eq!(self.log.state("test", &[*key]).unwrap().unwrap()[0], *value);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_what_the_model_says(steps in prop::collection::vec(step(), 1..120), is_pipelined in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let durability = if is_pipelined { Durability::Pipelined } else { Durability::Strict };
            let mut rig = Rig::new(durability).await;
            for step in steps {
                rig.take(step).await;
            }
            rig.check_all().await;
        });
    }
}
