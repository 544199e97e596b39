//! What the log remembers of idempotent producers, so that a batch sent again is not appended again, and where their
//! open transactions begin.
//!
//! Per partition and producer: the epoch and the last five batches. Kafka's rules: the same sequences again answer
//! with the offsets of the first time; otherwise the next sequence must follow; a new epoch starts at 0; an older
//! epoch is refused; a producer that is not known may start anywhere. A transactional batch opens the producer's
//! transaction in the partition, a marker closes it and its epoch, if greater, fences the one before. Durable without writes of its own: entries ride
//! in the journal when a tail is sealed, and what the journal still holds is read from the batches' headers.
//! Forgets by count and by uptime since last use, never by record timestamps: boards have no clock. Who has an open
//! transaction is not forgotten.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{SequenceError, header::Header, layout::Reader};
use crate::record::{Offset, Partition};

/// Batches remembered per producer; a Java producer has at most this many in flight.
const REMEMBERED: usize = 5;
/// Producers remembered over all partitions, about 200 bytes each.
const MOST: usize = 10_000;
/// Uptime since last use after which a producer is forgotten.
const IDLE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Partition number and producer id.
pub(super) type Who = (u32, i64);

/// One batch of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remembered {
    first_sequence: i32,
    base: Offset,
    last_delta: i32,
}

impl Remembered {
    fn last_sequence(&self) -> i32 {
        add(self.first_sequence, self.last_delta)
    }
}

#[derive(Clone, Debug)]
struct Entry {
    epoch: i16,
    batches: VecDeque<Remembered>,
    /// First offset of the open transaction.
    open: Option<Offset>,
    used: Instant,
}

/// A producer in one partition, as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// Where.
    pub partition: Partition,
    /// Its id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Sequence of its last record; -1 if there is none of this epoch.
    pub last_sequence: i32,
    /// First offset of its open transaction.
    pub open_from: Option<Offset>,
    /// Uptime since it last wrote.
    pub idle: Duration,
}

/// All producers.
#[derive(Debug, Default)]
pub(super) struct Producers {
    entries: HashMap<Who, Entry>,
    /// Open transactions: partition number, first offset, producer id.
    open: BTreeSet<(u32, Offset, i64)>,
    /// What the entries were before the commit under way touched them, in order.
    undo: Vec<(Who, Option<Entry>)>,
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Append it, then tell with [`Producers::appended`].
    Append,
    /// It is there already.
    Duplicate { base: Offset, last: Offset },
}

impl Producers {
    /// Judges a batch of an idempotent producer.
    pub(super) fn check(&self, who: Who, batch: &Header) -> Result<Verdict, SequenceError> {
        let Some(entry) = self.entries.get(&who) else { return Ok(Verdict::Append) };
        if batch.producer_epoch < entry.epoch {
            return Err(SequenceError::OldEpoch { known: entry.epoch, got: batch.producer_epoch });
        }
        if batch.is_control {
            return Ok(Verdict::Append);
        }
        if entry.open.is_some() && !batch.is_transactional {
            return Err(SequenceError::InTransaction);
        }
        let got = batch.first_sequence;
        if batch.producer_epoch > entry.epoch {
            return if got == 0 { Ok(Verdict::Append) } else { Err(SequenceError::OutOfOrder { expected: 0, got }) };
        }
        let same = |r: &&Remembered| r.first_sequence == got && r.last_delta == batch.last_delta;
        if let Some(known) = entry.batches.iter().find(same) {
            return Ok(Verdict::Duplicate { base: known.base, last: known.base + i64::from(known.last_delta) });
        }
        // After a marker alone, the epoch's first batch.
        let expected = entry.batches.back().map_or(0, |last| add(last.last_sequence(), 1));
        if got == expected { Ok(Verdict::Append) } else { Err(SequenceError::OutOfOrder { expected, got }) }
    }

    /// Notes a batch that was staged at `batch.base`; [`Producers::rollback`] takes it back.
    pub(super) fn appended(&mut self, who: Who, batch: &Header, now: Instant) {
        self.undo.push((who, self.entries.get(&who).cloned()));
        self.note(who, batch, now);
    }

    fn note(&mut self, who: Who, batch: &Header, now: Instant) {
        let entry = self.entries.entry(who).or_insert_with(|| Entry {
            epoch: batch.producer_epoch,
            batches: VecDeque::new(),
            open: None,
            used: now,
        });
        if entry.epoch != batch.producer_epoch {
            entry.epoch = batch.producer_epoch;
            entry.batches.clear();
        }
        entry.used = now;
        if batch.is_control {
            if let Some(first) = entry.open.take() {
                self.open.remove(&(who.0, first, who.1));
            }
            return;
        }
        if entry.batches.len() == REMEMBERED {
            entry.batches.pop_front();
        }
        let Header { first_sequence, base, last_delta, .. } = *batch;
        entry.batches.push_back(Remembered { first_sequence, base, last_delta });
        if batch.is_transactional && entry.open.is_none() {
            entry.open = Some(base);
            self.open.insert((who.0, base, who.1));
        }
    }

    /// Where a producer's open transaction begins.
    pub(super) fn open_from(&self, who: Who) -> Option<Offset> {
        self.entries.get(&who)?.open
    }

    /// Where the first open transaction of a partition begins.
    pub(super) fn first_open(&self, partition: u32) -> Option<Offset> {
        self.open.range((partition, Offset::MIN, i64::MIN)..).next().filter(|o| o.0 == partition).map(|o| o.1)
    }

    /// The producers of one partition, or everywhere those with open transactions.
    pub(super) fn states(&self, partition: Option<u32>, now: Instant) -> Vec<(u32, ProducerState)> {
        let wanted = |who: &Who, entry: &Entry| partition.map_or(entry.open.is_some(), |p| p == who.0);
        let found = self.entries.iter().filter(|(who, entry)| wanted(who, entry));
        let mut found: Vec<_> = found
            .map(|((partition, producer_id), entry)| {
                let state = ProducerState {
                    partition: Partition::new("", 0),
                    producer_id: *producer_id,
                    epoch: entry.epoch,
                    last_sequence: entry.batches.back().map_or(-1, Remembered::last_sequence),
                    open_from: entry.open,
                    idle: now.saturating_duration_since(entry.used),
                };
                (*partition, state)
            })
            .collect();
        found.sort_unstable_by_key(|(partition, state)| (*partition, state.producer_id));
        found
    }

    /// Puts an entry in the place of what is known.
    fn put(&mut self, who: Who, entry: Option<Entry>) {
        let first = entry.as_ref().and_then(|e| e.open);
        let before = match entry {
            Some(entry) => self.entries.insert(who, entry),
            None => self.entries.remove(&who),
        };
        if let Some(first) = before.and_then(|e| e.open) {
            self.open.remove(&(who.0, first, who.1));
        }
        if let Some(first) = first {
            self.open.insert((who.0, first, who.1));
        }
    }

    /// Notes a batch found in the journal at start, unless the entry already knows of it.
    pub(super) fn replay(&mut self, who: Who, batch: &Header, now: Instant) {
        // The entry may be of a later commit than the journal's batch: it has the greater epoch or the later batch then.
        let is_known = self.entries.get(&who).is_some_and(|entry| {
            entry.epoch > batch.producer_epoch || entry.batches.back().is_some_and(|last| last.base >= batch.base)
        });
        if !is_known {
            self.note(who, batch, now);
        }
    }

    /// A mark for [`Producers::rollback`].
    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Takes back everything after the mark.
    pub(super) fn rollback(&mut self, mark: usize) {
        for (who, before) in self.undo.split_off(mark).into_iter().rev() {
            self.put(who, before);
        }
    }

    /// Keeps everything: the commit is durable.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// The key and value under which an entry is kept; the value is `None` once it is forgotten.
    pub(super) fn snapshot(&self, who: Who) -> ([u8; 13], Option<Vec<u8>>) {
        let value = self.entries.get(&who).map(|entry| {
            let mut out = Vec::with_capacity(2 + entry.batches.len() * 16 + 8);
            out.extend_from_slice(&entry.epoch.to_be_bytes());
            for batch in &entry.batches {
                out.extend_from_slice(&batch.first_sequence.to_be_bytes());
                out.extend_from_slice(&batch.last_delta.to_be_bytes());
                out.extend_from_slice(&batch.base.to_be_bytes());
            }
            if let Some(first) = entry.open {
                out.extend_from_slice(&first.to_be_bytes());
            }
            out
        });
        (key(who), value)
    }

    /// Takes in an entry of an earlier run. False if it does not parse.
    pub(super) fn restore(&mut self, key: &[u8], value: &[u8], now: Instant) -> bool {
        let mut reader = Reader(key.get(1..).unwrap_or_default());
        let mut parse = || Some((u32::from_be_bytes(reader.array()?), i64::from_be_bytes(reader.array()?)));
        let Some(who) = parse() else { return false };
        let mut reader = Reader(value);
        let Some(epoch) = reader.array().map(i16::from_be_bytes) else { return false };
        let mut batches = VecDeque::with_capacity(REMEMBERED);
        while reader.0.len() > 8 && batches.len() < REMEMBERED {
            let mut parse = || {
                Some(Remembered {
                    first_sequence: i32::from_be_bytes(reader.array()?),
                    last_delta: i32::from_be_bytes(reader.array()?),
                    base: i64::from_be_bytes(reader.array()?),
                })
            };
            let Some(batch) = parse() else { return false };
            batches.push_back(batch);
        }
        let open = match reader.0.len() {
            0 => None,
            _ => match reader.array().map(i64::from_be_bytes) {
                Some(first) if reader.0.is_empty() => Some(first),
                _ => return false,
            },
        };
        self.put(who, Some(Entry { epoch, batches, open, used: now }));
        true
    }

    /// The producers of a partition.
    pub(super) fn of_partition(&self, partition: u32) -> Vec<Who> {
        self.entries.keys().filter(|(p, _)| *p == partition).copied().collect()
    }

    /// Forgets the producers of a deleted partition.
    pub(super) fn forget_partition(&mut self, partition: u32) {
        self.entries.retain(|(p, _), _| *p != partition);
        self.open.retain(|(p, ..)| *p != partition);
    }

    /// Forgets those unused for a week and, above the limit, the longest unused tenth. Says which they were.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Who> {
        let idle = |e: &Entry| e.open.is_none() && now.duration_since(e.used) >= IDLE;
        let mut gone: Vec<Who> = self.entries.iter().filter(|(_, e)| idle(e)).map(|(w, _)| *w).collect();
        if self.entries.len() - gone.len() > MOST {
            let done = self.entries.iter().filter(|(_, e)| e.open.is_none());
            let mut by_use: Vec<(Instant, Who)> = done.map(|(w, e)| (e.used, *w)).collect();
            by_use.sort_unstable_by_key(|(used, _)| *used);
            gone = by_use.into_iter().take(self.entries.len() - MOST + MOST / 10).map(|(_, who)| who).collect();
        }
        for who in &gone {
            self.entries.remove(who);
        }
        gone
    }

    /// More than should be remembered.
    pub(super) fn is_crowded(&self) -> bool {
        self.entries.len() > MOST + MOST / 10
    }

    /// Bytes in RAM, roughly.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.entries.len() * (size_of::<Who>() + size_of::<Entry>() + REMEMBERED * size_of::<Remembered>())) as u64
    }
}

/// First byte of the keys of producer entries within the log's own state.
pub(super) const KEY_TAG: u8 = b's';

/// Key of an entry within the log's own state.
pub(super) fn key((partition, producer_id): Who) -> [u8; 13] {
    let mut key = [KEY_TAG; 13];
    key[1..5].copy_from_slice(&partition.to_be_bytes());
    key[5..].copy_from_slice(&producer_id.to_be_bytes());
    key
}

/// Sequences count from 0 to 2147483647 and start again.
fn add(sequence: i32, n: i32) -> i32 {
    sequence.wrapping_add(n) & i32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Who = (3, 9);

    fn header(epoch: i16, first_sequence: i32, records: i32, base: Offset) -> Header {
        Header {
            base,
            bytes: 100,
            last_delta: records - 1,
            max_timestamp_ms: 0,
            producer_id: 9,
            producer_epoch: epoch,
            first_sequence,
            is_transactional: false,
            is_control: false,
        }
    }

    fn transactional(epoch: i16, first_sequence: i32, base: Offset) -> Header {
        Header { is_transactional: true, ..header(epoch, first_sequence, 1, base) }
    }

    fn marker(epoch: i16, base: Offset) -> Header {
        Header { is_control: true, ..transactional(epoch, -1, base) }
    }

    fn with(batches: &[Header]) -> Producers {
        let mut producers = Producers::default();
        for batch in batches {
            assert_eq!(producers.check(WHO, batch), Ok(Verdict::Append));
            producers.appended(WHO, batch, Instant::now());
        }
        producers.keep();
        producers
    }

    #[test]
    fn the_last_five_are_recognised_and_older_ones_are_out_of_order() {
        let sent: Vec<Header> = (0..7).map(|i| header(0, i * 2, 2, i64::from(i) * 10)).collect();
        let producers = with(&sent);
        for (i, batch) in sent.iter().enumerate() {
            let verdict = producers.check(WHO, batch);
            if i < 2 {
                assert_eq!(verdict, Err(SequenceError::OutOfOrder { expected: 14, got: batch.first_sequence }));
            } else {
                assert_eq!(verdict, Ok(Verdict::Duplicate { base: batch.base, last: batch.base + 1 }));
            }
        }
        // The same first sequence with another length is no repetition.
        assert!(producers.check(WHO, &header(0, 12, 1, 0)).is_err());
        assert_eq!(producers.check(WHO, &header(0, 14, 1, 0)), Ok(Verdict::Append));
        assert!(producers.check(WHO, &header(0, 15, 1, 0)).is_err());
    }

    #[test]
    fn epochs() {
        let mut producers = with(&[header(1, 40, 1, 0)]);
        assert_eq!(producers.check(WHO, &header(0, 41, 1, 0)), Err(SequenceError::OldEpoch { known: 1, got: 0 }));
        assert_eq!(producers.check(WHO, &header(2, 41, 1, 0)), Err(SequenceError::OutOfOrder { expected: 0, got: 41 }));
        let fresh = header(2, 0, 1, 5);
        assert_eq!(producers.check(WHO, &fresh), Ok(Verdict::Append));
        producers.appended(WHO, &fresh, Instant::now());
        assert!(matches!(producers.check(WHO, &header(1, 40, 1, 0)), Err(SequenceError::OldEpoch { .. })));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let producers = with(&[header(0, i32::MAX - 1, 3, 0)]);
        assert_eq!(producers.check(WHO, &header(0, 1, 1, 3)), Ok(Verdict::Append));
    }

    #[test]
    fn a_failed_commit_does_not_advance() {
        let mut producers = with(&[header(0, 0, 1, 0)]);
        producers.appended(WHO, &header(0, 1, 1, 1), Instant::now());
        let mark = producers.mark();
        producers.appended(WHO, &header(0, 2, 1, 2), Instant::now());
        producers.rollback(mark);
        assert_eq!(producers.check(WHO, &header(0, 2, 1, 2)), Ok(Verdict::Append));
        producers.rollback(0);
        assert_eq!(producers.check(WHO, &header(0, 1, 1, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn entries_survive_a_restart_and_replay_is_idempotent() {
        let now = Instant::now();
        let sent: Vec<Header> = (0..6).map(|i| header(4, i, 1, i64::from(i))).collect();
        let producers = with(&sent);
        let (key, value) = producers.snapshot(WHO);
        let mut again = Producers::default();
        assert!(again.restore(&key, &value.unwrap(), now));
        for batch in &sent {
            again.replay(WHO, batch, now);
        }
        assert_eq!(again.check(WHO, &sent[5]), Ok(Verdict::Duplicate { base: 5, last: 5 }));
        assert_eq!(again.check(WHO, &header(4, 6, 1, 6)), Ok(Verdict::Append));
        assert!(!again.restore(&key[..6], &[], now));
    }

    #[test]
    fn forgets_by_uptime_and_by_count() {
        let mut producers = with(&[header(0, 0, 1, 0)]);
        let now = Instant::now();
        assert!(producers.expire(now + IDLE - Duration::from_secs(1)).is_empty());
        assert_eq!(producers.expire(now + IDLE + Duration::from_secs(1)), [WHO]);

        for id in 0..=i64::try_from(MOST).unwrap() {
            producers.note((0, id), &header(0, 0, 1, 0), now + Duration::from_millis(id.unsigned_abs()));
        }
        let gone = producers.expire(now);
        assert_eq!(gone.len(), 1 + MOST / 10);
        assert!(gone.contains(&(0, 0)) && !gone.contains(&(0, 5_000)));
    }

    #[test]
    fn a_transaction_is_open_from_its_first_batch_to_its_marker() {
        let mut producers = with(&[header(0, 0, 1, 0), transactional(0, 1, 7), transactional(0, 2, 9)]);
        assert_eq!((producers.open_from(WHO), producers.first_open(3)), (Some(7), Some(7)));
        assert_eq!(producers.check(WHO, &header(0, 3, 1, 0)), Err(SequenceError::InTransaction));
        assert_eq!(producers.expire(Instant::now() + 2 * IDLE), []);
        producers.appended(WHO, &marker(0, 11), Instant::now());
        assert_eq!((producers.open_from(WHO), producers.first_open(3)), (None, None));
        // Not durable after all.
        producers.rollback(0);
        assert_eq!((producers.open_from(WHO), producers.first_open(3)), (Some(7), Some(7)));

        // The marker's epoch fences what the producer still had under way, and sequences start again.
        producers.appended(WHO, &marker(1, 11), Instant::now());
        assert!(matches!(producers.check(WHO, &transactional(0, 3, 0)), Err(SequenceError::OldEpoch { .. })));
        assert_eq!(producers.check(WHO, &transactional(1, 0, 0)), Ok(Verdict::Append));
        assert!(matches!(producers.check(WHO, &transactional(1, 3, 0)), Err(SequenceError::OutOfOrder { .. })));
        assert_eq!(producers.first_open(2), None);
    }

    #[test]
    fn an_open_transaction_survives_a_restart_whatever_the_journal_repeats() {
        let now = Instant::now();
        // Each history, and the open transaction's first offset after it.
        let histories: [(&[Header], Option<Offset>); 5] = [
            (&[transactional(0, 0, 0)], Some(0)),
            (&[transactional(0, 0, 0), marker(0, 1)], None),
            (&[transactional(0, 0, 0), marker(1, 1)], None),
            (&[transactional(0, 0, 0), marker(0, 1), transactional(0, 1, 2)], Some(2)),
            (&[transactional(0, 0, 0), marker(1, 1), transactional(1, 0, 2), marker(2, 3)], None),
        ];
        for (history, open) in histories {
            for kept in 0..=history.len() {
                // The state knows all of it, the journal still holds the last `kept`.
                let mut producers = Producers::default();
                for batch in history {
                    producers.appended(WHO, batch, now);
                }
                let (key, value) = producers.snapshot(WHO);
                let mut again = Producers::default();
                assert!(again.restore(&key, &value.unwrap(), now));
                for batch in &history[history.len() - kept..] {
                    again.replay(WHO, batch, now);
                }
                assert_eq!(again.first_open(WHO.0), open, "{history:?} {kept}");
                assert_eq!(again.snapshot(WHO), producers.snapshot(WHO), "{history:?} {kept}");
            }
        }
    }
}
