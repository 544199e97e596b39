//! What clients were told, and when: batches at their offsets, ends, starts, committed offsets, what a mirror's target
//! has. The one truth that a log is checked against.
//!
//! Times are those of the client: an answer counts from when it was received, a look at the log by when it had begun
//! and ended. Whatever contradicts what is known already is collected as wrong at once.

use std::{
    collections::{BTreeMap, HashMap, hash_map::DefaultHasher},
    hash::Hasher as _,
    sync::{Mutex, MutexGuard},
};

use brooklet::record::{Partition, Unpacker, batch::Header};
use bytes::Bytes;

/// Bytes in front of what a broker may not change: base offset, length, leader epoch.
const STAMPED_BYTES: usize = 16;

/// One batch at its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fact {
    pub(crate) count: i64,
    pub(crate) bytes: usize,
    hash: u64,
    /// When a client knew of it first.
    pub(crate) known_ns: u64,
}

/// An idempotent batch that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) batch: Bytes,
    pub(crate) base: i64,
    pub(crate) count: i64,
    pub(crate) acked_ns: u64,
}

/// A figure that only grows, as somebody saw it.
#[derive(Clone, Copy, Debug)]
struct Sight {
    value: i64,
    /// The first look that found it had ended by then.
    first_ended_ns: u64,
    /// The last look that found it had begun then.
    last_begun_ns: u64,
}

/// Looks at a figure that only grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sights(Vec<Sight>);

impl Sights {
    /// False if it shrank.
    pub(crate) fn add(&mut self, value: i64, begun_ns: u64, ended_ns: u64) -> bool {
        match self.0.last_mut() {
            Some(last) if value < last.value => return false,
            Some(last) if value == last.value => last.last_begun_ns = begun_ns,
            _ => self.0.push(Sight { value, first_ended_ns: ended_ns, last_begun_ns: begun_ns }),
        }
        true
    }

    /// The greatest value that was seen before `at_ns`.
    pub(crate) fn least_at(&self, at_ns: u64) -> Option<i64> {
        self.0.iter().rev().find(|s| s.first_ended_ns < at_ns).map(|s| s.value)
    }

    /// What the first look after `at_ns` found; `None` if nobody looked again.
    pub(crate) fn most_at(&self, at_ns: u64) -> Option<i64> {
        self.0.iter().find(|s| s.last_begun_ns > at_ns).map(|s| s.value)
    }
}

/// One partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    pub(crate) batches: BTreeMap<i64, Fact>,
    /// Offset and the record's own number, in the order a reader saw them.
    pub(crate) numbers: Vec<(i64, u64)>,
    pub(crate) starts: Sights,
    /// Starts that a client asked for and was answered, and when.
    pub(crate) trims: Vec<(i64, u64)>,
    /// By an idempotent producer, in its order.
    pub(crate) sent: Vec<Sent>,
}

impl Part {
    /// The end that the log has at least, for whoever knew it before `at_ns`.
    pub(crate) fn end_at(&self, at_ns: u64) -> i64 {
        let known = self.batches.iter().rev().find(|(_, fact)| fact.known_ns < at_ns);
        known.map_or(0, |(base, fact)| base + fact.count)
    }

    fn enter(&mut self, base: i64, fact: Fact) -> Result<(), String> {
        if let Some(known) = self.batches.get_mut(&base) {
            if (known.count, known.hash) != (fact.count, fact.hash) {
                return Err(format!("offset {base} was used for two batches"));
            }
            known.known_ns = known.known_ns.min(fact.known_ns);
            return Ok(());
        }
        let before = self.batches.range(..base).next_back().map(|(b, f)| b + f.count);
        let after = self.batches.range(base..).next().map(|(b, _)| *b);
        if before.is_some_and(|end| end > base) || after.is_some_and(|next| base + fact.count > next) {
            return Err(format!("the batch at {base} overlaps another ({before:?}, {after:?})"));
        }
        self.batches.insert(base, fact);
        Ok(())
    }

    /// Whether this batch is the one known at its offset; `None` if none is.
    pub(crate) fn matches(&self, header: &Header, batch: &[u8]) -> Option<bool> {
        let fact = self.batches.get(&header.base_offset)?;
        Some(fact.count == i64::from(header.last_offset_delta) + 1 && fact.hash == hash(batch))
    }
}

/// An offset committed for a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    pub(crate) offset: i64,
    pub(crate) sent_ns: u64,
    /// `u64::MAX` while there is no answer.
    pub(crate) acked_ns: u64,
}

/// Everything known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) parts: BTreeMap<Partition, Part>,
    pub(crate) commits: BTreeMap<(String, Partition), Vec<Commit>>,
    /// By partition of the source: the number of the last record seen at the mirror's target.
    pub(crate) mirrored: BTreeMap<Partition, Vec<(u64, u64)>>,
    /// When the topics were known to be there.
    pub(crate) created_ns: u64,
    pub(crate) wrong: Vec<String>,
}

/// The same, shared between clients.
#[derive(Debug, Default)]
pub(crate) struct Facts(Mutex<Known>);

impl Facts {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap()
    }

    pub(crate) fn wrong(&self, what: String) {
        self.lock().wrong.push(what);
    }

    /// A producer was told where its batch lies; with `keeps` the batch is kept, to be sent again.
    pub(crate) fn acked(&self, partition: &Partition, batch: &Bytes, base: i64, keeps: bool, acked_ns: u64) {
        let count = i64::from(Header::parse(batch).unwrap().last_offset_delta) + 1;
        let fact = Fact { count, bytes: batch.len(), hash: hash(batch), known_ns: acked_ns };
        let mut known = self.lock();
        let part = known.parts.entry(partition.clone()).or_default();
        let entered = part.enter(base, fact);
        if keeps {
            part.sent.push(Sent { batch: batch.clone(), base, count, acked_ns });
        }
        if let Err(what) = entered {
            known.wrong.push(format!("{partition}, answered to a producer: {what}"));
        }
    }

    /// A reader was given this batch.
    pub(crate) fn seen(&self, partition: &Partition, header: &Header, batch: &[u8], seen_ns: u64) {
        let numbers = numbers(batch);
        let count = i64::from(header.last_offset_delta) + 1;
        let fact = Fact { count, bytes: batch.len(), hash: hash(batch), known_ns: seen_ns };
        let mut known = self.lock();
        let part = known.parts.entry(partition.clone()).or_default();
        let last = part.numbers.last().map_or(-1, |(offset, _)| *offset);
        part.numbers.extend(numbers.into_iter().filter(|(offset, _)| *offset > last));
        if let Err(what) = part.enter(header.base_offset, fact) {
            known.wrong.push(format!("{partition}, given to a reader: {what}"));
        }
    }

    /// A reader was told the log's start.
    pub(crate) fn start(&self, partition: &Partition, start: i64, begun_ns: u64, ended_ns: u64) {
        let mut known = self.lock();
        let part = known.parts.entry(partition.clone()).or_default();
        if !part.starts.add(start, begun_ns, ended_ns) {
            known.wrong.push(format!("the start of {partition} went back to {start}"));
        }
    }

    /// A client had everything before `start` deleted.
    pub(crate) fn trimmed(&self, partition: &Partition, start: i64, acked_ns: u64) {
        self.lock().parts.entry(partition.clone()).or_default().trims.push((start, acked_ns));
    }

    /// A client commits for a group; what it returns goes to [`Facts::committed`].
    pub(crate) fn committing(&self, group: &str, partition: &Partition, offset: i64, sent_ns: u64) {
        let commit = Commit { offset, sent_ns, acked_ns: u64::MAX };
        self.lock().commits.entry((group.to_owned(), partition.clone())).or_default().push(commit);
    }

    pub(crate) fn committed(&self, group: &str, partition: &Partition, acked_ns: u64) {
        let mut known = self.lock();
        let commits = known.commits.get_mut(&(group.to_owned(), partition.clone()));
        commits.and_then(|c| c.last_mut()).expect("it was sent").acked_ns = acked_ns;
    }

    /// A reader at the mirror's target saw this record; as the last of the partition in a look begun then, or with 0 among
    /// others.
    pub(crate) fn mirrored(&self, source: &Partition, number: u64, begun_ns: u64) {
        let mut known = self.lock();
        let sights = known.mirrored.entry(source.clone()).or_default();
        match sights.last_mut() {
            Some((last, last_begun_ns)) if *last == number => *last_begun_ns = begun_ns,
            _ => sights.push((number, begun_ns)),
        }
    }
}

impl Known {
    /// Shows a broken daemon: what was known at some time counts as known earlier.
    pub(crate) fn backdate(&mut self, earlier: impl Fn(u64) -> u64) {
        for part in self.parts.values_mut() {
            part.batches.values_mut().for_each(|fact| fact.known_ns = earlier(fact.known_ns));
            part.trims.iter_mut().for_each(|(_, acked_ns)| *acked_ns = earlier(*acked_ns));
        }
        for commits in self.commits.values_mut() {
            commits.iter_mut().for_each(|commit| commit.acked_ns = earlier(commit.acked_ns));
        }
    }

    /// Where each numbered record of a topic lies.
    pub(crate) fn places(&self, topic: &str) -> HashMap<u64, (i32, i64)> {
        let parts = self.parts.iter().filter(|(partition, _)| *partition.topic == *topic);
        parts.flat_map(|(p, part)| part.numbers.iter().map(|(offset, n)| (*n, (p.index, *offset)))).collect()
    }
}

fn hash(batch: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&batch[STAMPED_BYTES..]);
    hasher.finish()
}

/// Offsets and numbers of a batch's records: every value of ours begins with its record's number.
pub(crate) fn numbers(batch: &[u8]) -> Vec<(i64, u64)> {
    let mut unpacker = Unpacker::new(64 << 20);
    let records = unpacker.records(batch).expect("a batch of ours can be read");
    records
        .map(|record| {
            let record = record.expect("a record of ours can be read");
            (record.offset, number(record.value.expect("ours have a value")))
        })
        .collect()
}

/// The number at the front of a value: `{"n":123,…`.
pub(crate) fn number(value: &[u8]) -> u64 {
    let digits = value.strip_prefix(b"{\"n\":").expect("a value of ours begins with its number");
    digits.iter().take_while(|c| c.is_ascii_digit()).fold(0, |n, digit| n * 10 + u64::from(digit - b'0'))
}

#[test]
fn sights_bound_what_held_at_a_time() {
    let mut sights = Sights::default();
    for (value, begun_ns, ended_ns) in [(0, 10, 11), (0, 20, 21), (5, 30, 31), (9, 40, 41)] {
        assert!(sights.add(value, begun_ns, ended_ns));
    }
    assert!(!sights.add(8, 50, 51));
    assert_eq!((sights.least_at(11), sights.most_at(11)), (None, Some(0)));
    assert_eq!((sights.least_at(25), sights.most_at(25)), (Some(0), Some(5)));
    assert_eq!((sights.least_at(31), sights.most_at(31)), (Some(0), Some(9)));
    assert_eq!((sights.least_at(99), sights.most_at(99)), (Some(9), None));
}

#[test]
fn an_offset_used_twice_is_told() {
    let mut part = Part::default();
    let fact = |hash, known_ns| Fact { count: 3, bytes: 100, hash, known_ns };
    part.enter(10, fact(1, 50)).unwrap();
    part.enter(10, fact(1, 40)).unwrap();
    assert!(part.enter(10, fact(2, 60)).is_err());
    assert!(part.enter(12, fact(3, 60)).is_err());
    assert!(part.enter(8, fact(3, 60)).is_err());
    part.enter(13, fact(3, 60)).unwrap();
    assert_eq!((part.end_at(40), part.end_at(41), part.end_at(61)), (0, 13, 16));
}
