//! The gap ledger: which records were deleted before they were mirrored.
//!
//! One state entry per gap, written in the commit that deletes. A gap that begins where the last one of its partition
//! ended is the same gap. Bounded: beyond [`MOST_GAPS`] the two oldest of the partition that has most become one, which
//! then names records between them that were mirrored; `records` and `bytes` stay what was lost. A deleted topic takes
//! its entries along.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::record::{Offset, Partition};

/// Owner of the ledger's entries.
pub(super) const OWNER: &str = "gap";
/// Entries kept in all, about 200 bytes each.
const MOST_GAPS: usize = 512;

/// Records that were deleted before they were mirrored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// First offset that is gone.
    pub from: Offset,
    /// The first offset after it.
    pub to: Offset,
    /// Records lost.
    pub records: u64,
    /// Their bytes as they lay in the log, estimated where a chunk was mirrored in part.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
    /// When the last of them were deleted, in milliseconds since 1970; `None` if the clock could not be believed.
    pub time_ms: Option<i64>,
}

/// Why they were deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The log's quota or its map was full.
    Quota,
    /// The topic's retention; only of the events' own topic, everything else waits for the mirror.
    Retention,
    /// Somebody asked for it with DeleteRecords.
    Request,
}

impl Reason {
    /// Its name in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Retention => "retention",
            Self::Request => "request",
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Quota => "the log's quota was reached",
            Self::Retention => "retention",
            Self::Request => "deleted on request",
        }
    }
}

impl Gap {
    /// An empty one.
    pub(super) fn new(place: &Partition, from: Offset, reason: Reason) -> Self {
        let (topic, partition) = (Arc::clone(&place.topic), place.index);
        Self { topic, partition, from, to: from, records: 0, bytes: 0, reason, time_ms: None }
    }

    /// Topic, a zero byte that no name has, partition, first offset: the order of the ledger.
    fn key(&self) -> Vec<u8> {
        let mut key = self.topic.as_bytes().to_vec();
        key.push(0);
        key.extend_from_slice(&self.partition.to_be_bytes());
        key.extend_from_slice(&self.from.to_be_bytes());
        key
    }

    fn value(&self) -> Bytes {
        serde_json::to_vec(self).expect("numbers and names always serialise").into()
    }

    /// Reads an entry's value; `None` if it is none.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// A change of the ledger's state.
pub(super) type Entry = (Vec<u8>, Option<Bytes>);

/// All gaps, the writer's own copy.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    gaps: BTreeMap<Partition, VecDeque<Gap>>,
    count: usize,
    /// What the partitions touched by the commit under way had before.
    undo: Vec<(Partition, VecDeque<Gap>)>,
}

impl Ledger {
    /// From the entries of the file.
    pub(super) fn new(gaps: impl IntoIterator<Item = Gap>) -> Self {
        let mut ledger = Self::default();
        for gap in gaps {
            let place = Partition::new(Arc::clone(&gap.topic), gap.partition);
            ledger.gaps.entry(place).or_default().push_back(gap);
            ledger.count += 1;
        }
        ledger
    }

    /// Enters a gap; what is to be written with the deletion.
    pub(super) fn enter(&mut self, mut gap: Gap, time_ms: Option<i64>) -> Vec<Entry> {
        gap.time_ms = time_ms;
        let place = Partition::new(Arc::clone(&gap.topic), gap.partition);
        let mut out = Vec::new();
        let known = self.remember(&place);
        match known.back_mut() {
            Some(last) if last.to == gap.from && last.reason == gap.reason => {
                last.to = gap.to;
                last.records += gap.records;
                last.bytes += gap.bytes;
                last.time_ms = time_ms;
                out.push((last.key(), Some(last.value())));
            }
            _ => {
                out.push((gap.key(), Some(gap.value())));
                known.push_back(gap);
                self.count += 1;
            }
        }
        if self.count > MOST_GAPS {
            self.shorten(&mut out);
        }
        out
    }

    /// Makes one of the two oldest gaps of the partition that has most.
    fn shorten(&mut self, out: &mut Vec<Entry>) {
        let Some((place, many)) = self.gaps.iter().max_by_key(|(_, gaps)| gaps.len()) else { return };
        if many.len() < 2 {
            return;
        }
        let place = place.clone();
        let gaps = self.remember(&place);
        let first = gaps.pop_front().expect("there are two");
        let second = gaps.front_mut().expect("there are two");
        out.push((second.key(), None));
        second.from = first.from;
        second.records += first.records;
        second.bytes += first.bytes;
        out.push((second.key(), Some(second.value())));
        self.count -= 1;
    }

    fn remember(&mut self, place: &Partition) -> &mut VecDeque<Gap> {
        let known = self.gaps.entry(place.clone()).or_default();
        self.undo.push((place.clone(), known.clone()));
        known
    }

    /// The topic is being deleted: its entries go.
    pub(super) fn forget_topic(&mut self, topic: &Arc<str>) -> Vec<Entry> {
        let from = Partition::new(Arc::clone(topic), i32::MIN);
        let places: Vec<Partition> =
            self.gaps.range(from..).map(|(p, _)| p.clone()).take_while(|p| p.topic == *topic).collect();
        let mut out = Vec::new();
        for place in places {
            let gaps = std::mem::take(self.remember(&place));
            self.count -= gaps.len();
            out.extend(gaps.iter().map(|gap| (gap.key(), None)));
        }
        out
    }

    /// The commit is durable. True if it changed anything here.
    pub(super) fn keep(&mut self) -> bool {
        let is_changed = !self.undo.is_empty();
        for (place, _) in self.undo.drain(..) {
            if self.gaps.get(&place).is_some_and(VecDeque::is_empty) {
                self.gaps.remove(&place);
            }
        }
        is_changed
    }

    /// The commit did not happen.
    pub(super) fn rollback(&mut self) {
        while let Some((place, gaps)) = self.undo.pop() {
            let now = self.gaps.insert(place, gaps.clone()).map_or(0, |now| now.len());
            self.count = self.count + gaps.len() - now;
        }
    }

    /// Records and bytes lost, as the ledger says.
    pub(super) fn totals(&self) -> (u64, u64) {
        let all = self.gaps.values().flatten();
        all.fold((0, 0), |(records, bytes), gap| (records + gap.records, bytes + gap.bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    fn gap(topic: &str, offsets: Range<Offset>) -> Gap {
        let records = u64::try_from(offsets.end - offsets.start).unwrap();
        let empty = Gap::new(&Partition::new(topic, 0), offsets.start, Reason::Quota);
        Gap { to: offsets.end, records, bytes: records * 10, ..empty }
    }

    fn play(file: &mut BTreeMap<Vec<u8>, Bytes>, entries: Vec<Entry>) {
        for (key, value) in entries {
            match value {
                Some(value) => drop(file.insert(key, value)),
                None => drop(file.remove(&key)),
            }
        }
    }

    fn read(file: &BTreeMap<Vec<u8>, Bytes>) -> Vec<Gap> {
        file.values().map(|value| Gap::decode(value).unwrap()).collect()
    }

    #[test]
    fn a_gap_grows_and_another_begins_after_a_mirrored_stretch() {
        let (mut ledger, mut file) = (Ledger::default(), BTreeMap::new());
        for offsets in [0..10, 10..15, 20..25] {
            play(&mut file, ledger.enter(gap("a", offsets), Some(7)));
            ledger.keep();
        }
        let found = read(&file);
        assert_eq!(found.iter().map(|g| (g.from, g.to, g.records)).collect::<Vec<_>>(), [(0, 15, 15), (20, 25, 5)]);
        assert_eq!((found[0].bytes, found[0].reason, found[0].time_ms), (150, Reason::Quota, Some(7)));
        let json = serde_json::to_value(&found[1]).unwrap();
        let expected = serde_json::json!({"topic": "a", "partition": 0, "from": 20, "to": 25, "records": 5, "bytes": 50,
            "reason": "quota", "time_ms": 7});
        assert_eq!(json, expected);
        // What was read goes on where it was.
        let mut again = Ledger::new(found);
        play(&mut file, again.enter(gap("a", 25..30), None));
        assert_eq!(read(&file).len(), 2);
        assert_eq!(again.totals(), (25, 250));
    }

    #[test]
    fn what_did_not_become_durable_is_not_there() {
        let mut ledger = Ledger::default();
        ledger.enter(gap("a", 0..10), None);
        ledger.keep();
        ledger.enter(gap("a", 10..20), None);
        ledger.enter(gap("a", 50..60), None);
        ledger.enter(gap("b", 0..1), None);
        ledger.rollback();
        assert_eq!((ledger.totals(), ledger.count), ((10, 100), 1));
    }

    #[test]
    fn the_ledger_is_bounded_and_no_record_is_forgotten() {
        let (mut ledger, mut file) = (Ledger::default(), BTreeMap::new());
        for i in 0..2_000 {
            play(&mut file, ledger.enter(gap(if i % 10 == 0 { "b" } else { "a" }, i * 10..i * 10 + 4), None));
            ledger.keep();
            assert_eq!(file.len(), ledger.count);
        }
        assert_eq!(file.len(), MOST_GAPS);
        let found = read(&file);
        assert_eq!(found.iter().map(|g| g.records).sum::<u64>(), 8_000);
        assert_eq!((found[0].from, found.last().unwrap().to), (10, 19_904));
        let entries = ledger.forget_topic(&"a".into());
        play(&mut file, entries);
        ledger.keep();
        assert!(read(&file).iter().all(|g| &*g.topic == "b"));
        assert_eq!(ledger.gaps.len(), 1);
    }
}
