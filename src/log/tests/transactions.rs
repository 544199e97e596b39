//! Transactions in the log against a model: what is stable, what is hidden, through sealing, trims, restarts and kills.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::record::{Outcome, batch::batches, marker::marker};

const PARTITIONS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// A batch of a transaction, or of nobody.
    Write {
        producer: usize,
        partition: usize,
        in_transaction: bool,
        body: usize,
    },
    /// Ends a producer's transaction in all partitions in one commit; perhaps with the next epoch.
    End {
        producer: usize,
        outcome: Outcome,
        bumps: bool,
    },
    Trim {
        partition: usize,
        percent: i64,
    },
    Recreate,
    Reopen,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let body = prop_oneof![6 => 1..600usize, 1 => 20_000..90_000usize];
    let outcome = prop_oneof![Just(Outcome::Commit), Just(Outcome::Abort)];
    prop_oneof![
        12 => (0..4usize, 0..PARTITIONS, 0..5u8, body).prop_map(|(producer, partition, kind, body)| {
            Step::Write { producer, partition, in_transaction: kind > 0, body }
        }),
        5 => (0..4usize, outcome, any::<bool>()).prop_map(|(producer, outcome, bumps)| {
            Step::End { producer, outcome, bumps }
        }),
        1 => (0..PARTITIONS, 0..100i64).prop_map(|(partition, percent)| Step::Trim { partition, percent }),
        1 => Just(Step::Recreate),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open(usize),
    Committed,
    Hidden,
}

#[derive(Default)]
struct Expected {
    /// First and last offset of each batch, and what became of it.
    batches: Vec<(Offset, Offset, Fate)>,
    start: Offset,
    end: Offset,
    sequences: [i32; 4],
}

struct Rig {
    root: tempfile::TempDir,
    lives: usize,
    log: Log,
    parts: Vec<Expected>,
    epochs: [i16; 4],
}

fn name(partition: usize) -> Partition {
    Partition::new("x", i32::try_from(partition).unwrap())
}

impl Rig {
    async fn new() -> Self {
        let root = memory_dir();
        let log = open(&root.path().join("0"));
        topic(&log, "x", 3).await;
        let parts = (0..PARTITIONS).map(|_| Expected::default()).collect();
        Self { root, lives: 0, log, parts, epochs: [0; 4] }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join(self.lives.to_string())
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Write { producer, partition, in_transaction, body } => {
                let part = &mut self.parts[partition];
                let id = i64::try_from(producer).unwrap();
                let mut sent = batch(2, body, 5, NONE);
                if in_transaction {
                    sent = batch(2, body, 5, (id, self.epochs[producer], part.sequences[producer]));
                    sent[22] |= 0x10;
                    part.sequences[producer] += 2;
                }
                let fate = if in_transaction { Fate::Open(producer) } else { Fate::Committed };
                part.batches.push((part.end, part.end + 1, fate));
                assert_eq!(append(&self.log, &name(partition), sent).await.base_offset, part.end);
                part.end += 2;
            }
            Step::End { producer, outcome, bumps } => {
                self.epochs[producer] += i16::from(bumps);
                let mut write = Write::default();
                for (partition, part) in self.parts.iter_mut().enumerate() {
                    if bumps {
                        part.sequences[producer] = 0;
                    }
                    for (_, _, fate) in part.batches.iter_mut().filter(|(.., fate)| *fate == Fate::Open(producer)) {
                        *fate = if outcome == Outcome::Commit { Fate::Committed } else { Fate::Hidden };
                    }
                    part.batches.push((part.end, part.end, Fate::Hidden));
                    part.end += 1;
                    let batch = marker(i64::try_from(producer).unwrap(), self.epochs[producer], outcome, 9);
                    write.batches.push(Append { partition: name(partition), batch });
                }
                self.log.commit(write).await.unwrap();
            }
            Step::Trim { partition, percent } => {
                let part = &mut self.parts[partition];
                part.start += (part.end - part.start) * percent / 100;
                let change = Change::TrimBefore { partition: name(partition), offset: part.start };
                self.log.change(change, vec![]).await.unwrap();
            }
            Step::Recreate => {
                self.log.change(Change::Delete { name: "x".into() }, vec![]).await.unwrap();
                topic(&self.log, "x", 3).await;
                self.parts = (0..PARTITIONS).map(|_| Expected::default()).collect();
            }
            Step::Reopen => {
                self.log.close().await;
                self.log = open(&self.dir());
            }
            Step::Kill => {
                let old = self.dir().join("data.mdb");
                self.lives += 1;
                std::fs::create_dir_all(self.dir()).unwrap();
                std::fs::copy(old, self.dir().join("data.mdb")).unwrap();
                self.log = open(&self.dir());
            }
        }
        self.check().await;
    }

    async fn check(&self) {
        let mut open_seen = Vec::new();
        for (partition, part) in self.parts.iter().enumerate() {
            let partition = name(partition);
            let seen = *self.log.watch(&partition).unwrap().borrow();
            let open = part.batches.iter().find(|(.., fate)| matches!(fate, Fate::Open(_)));
            let stable = open.map_or(part.end, |(first, ..)| *first).max(part.start);
            assert_eq!(seen, Bounds { start: part.start, high_watermark: part.end, last_stable: stable });

            for max_bytes in [1, 1 << 20] {
                let (mut next, mut shown) = (part.start, Vec::new());
                while next < stable {
                    let slice = self.log.read_committed(&partition, next, max_bytes).await.unwrap();
                    for item in batches(&slice.batches) {
                        let (header, _) = item.unwrap();
                        assert!(header.last_offset() < stable);
                        if !slice.hides(&header) {
                            shown.push(header.base_offset);
                        }
                        next = header.last_offset() + 1;
                    }
                }
                assert!(self.log.read_committed(&partition, next, max_bytes).await.unwrap().batches.is_empty());
                let wanted = part
                    .batches
                    .iter()
                    .filter(|(_, last, fate)| *fate == Fate::Committed && (part.start..stable).contains(last));
                assert_eq!(shown, wanted.map(|(first, ..)| *first).collect::<Vec<_>>(), "{partition}");
            }
            for producer in 0..4 {
                let first = part.batches.iter().find(|(.., fate)| *fate == Fate::Open(producer));
                open_seen
                    .extend(first.map(|(first, ..)| (partition.clone(), i64::try_from(producer).unwrap(), *first)));
            }
        }
        let open = self.log.open_transactions().await.unwrap();
        let open: Vec<_> = open.into_iter().map(|p| (p.partition, p.producer_id, p.open_from.unwrap())).collect();
        assert_eq!(open, open_seen);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_stable_and_hidden_is_what_the_model_says(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut rig = Rig::new().await;
            for step in steps {
                rig.take(step).await;
            }
        });
    }
}

#[tokio::test]
async fn a_transaction_of_many_partitions_and_state_ends_in_one_commit_or_not_at_all() {
    let dir = memory_dir();
    let log = open(dir.path());
    topic(&log, "x", 3).await;
    let mut data = batch(1, 10, 5, (7, 0, 0));
    data[22] |= 0x10;
    for partition in 0..3 {
        append(&log, &name(partition), data.clone()).await;
    }
    let stable = |partition| log.watch(&name(partition)).unwrap().borrow().last_stable;
    let markers =
        |epoch| (0..3).map(move |p| Append { partition: name(p), batch: marker(7, epoch, Outcome::Abort, 9) });
    let state = vec![StateWrite { owner: "test", key: "k".into(), value: Some("v".into()) }];

    let mut bad: Vec<_> = markers(0).collect();
    bad[2].batch = Bytes::from(batch(1, 10, 5, (7, 0, 5)));
    let refused = log.commit(Write { batches: bad, state: state.clone(), urgency: Urgency::Waited }).await;
    assert!(matches!(refused, Err(Error::Sequence { reason: SequenceError::InTransaction, .. })), "{refused:?}");
    assert_eq!((stable(0), stable(1), log.state("test", b"k").unwrap()), (0, 0, None));
    assert_eq!(log.read_committed(&name(0), 0, 1 << 20).await.unwrap().aborted, []);

    let before = log.usage().commits;
    log.commit(Write { batches: markers(1).collect(), state, urgency: Urgency::Waited }).await.unwrap();
    assert_eq!(log.usage().commits, before + 1);
    assert_eq!((stable(0), stable(1), stable(2)), (2, 2, 2));
    assert_eq!(log.state("test", b"k").unwrap(), Some("v".into()));
    let slice = log.read_committed(&name(2), 0, 1 << 20).await.unwrap();
    assert_eq!(slice.aborted, [Aborted { producer_id: 7, first: 0, last: 1 }]);
    // What the producer still had under way belongs to nothing any more.
    let late = log.commit(write(&name(0), data)).await;
    assert!(matches!(late, Err(Error::Sequence { reason: SequenceError::OldEpoch { known: 1, got: 0 }, .. })));
}
