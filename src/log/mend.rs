//! What the state must say after damage, so that the log can go on.
//!
//! Where the end of a partition is not known any more, it continues far behind: no offset that a reader may have seen is
//! ever given to another record. The gap is a million, and one offset for each byte that was lost. Names that are lost
//! become `lost.N`; numbers that were given out are passed over; what is missing is listed. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    catalogue::{Numbers, OWN, Own, Record, bounds_key, decode_bounds, encode_bounds, own_key, random_id, topic_key},
    layout::{ChunkRef, Entry, Frame, state_key},
    quarantine::{self, MOST_ENTRIES, Quarantined},
};
use crate::record::Offset;

/// Offsets passed over where an end is not known, beside one for each lost byte.
const GAP: i64 = 1_000_000;
/// Producer ids and partition numbers passed over where the next ones are not known.
const PRODUCER_GAP: i64 = 1_000_000;
const PARTITION_GAP: u32 = 100_000;

/// What is known of a log: its state, and how far its partitions go.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By key in the file, without checksums.
    pub(super) state: BTreeMap<Vec<u8>, Vec<u8>>,
    /// One after the last offset that is known of, by partition.
    pub(super) ends: BTreeMap<u32, Offset>,
    /// First offset of what will be served and one after its last.
    pub(super) served: BTreeMap<u32, (Offset, Offset)>,
    /// First offset that is known of and will not be served.
    pub(super) broken: BTreeMap<u32, Offset>,
    /// Partitions of which nothing before the first served can be missing but what is known of.
    pub(super) fronts: BTreeSet<u32>,
    /// There are none.
    pub(super) is_no_front_sure: bool,
    /// Partitions whose end is certainly the one known.
    pub(super) sure: BTreeSet<u32>,
    /// So is everyone's.
    pub(super) is_all_sure: bool,
    /// Producer ids that were seen are below this.
    pub(super) producer: i64,
}

/// What was lost.
pub(super) struct Loss<'a> {
    /// What was found, in a few words.
    pub(super) reason: &'a str,
    pub(super) copy: Option<&'a Path>,
    /// No more bytes than these were lost of the newest records.
    pub(super) bytes: u64,
    /// Topics may be missing from the state.
    pub(super) has_lost_names: bool,
    /// Numbers may have been given out that are not known of.
    pub(super) has_lost_numbers: bool,
    pub(super) time_ms: i64,
}

/// State to be written, in the form of the journal.
pub(super) type Frames = Vec<(Vec<u8>, Option<Vec<u8>>)>;

impl Known {
    /// Records from `base` to before `end` will be served.
    pub(super) fn serves(&mut self, partition: u32, base: Offset, end: Offset) {
        self.reaches(partition, end);
        let known = self.served.entry(partition).or_insert((base, end));
        *known = (known.0.min(base), known.1.max(end));
    }

    /// A chunk is known of and will not be served.
    pub(super) fn lacks(&mut self, partition: u32, chunk: &ChunkRef) {
        self.reaches(partition, chunk.last() + 1);
        let known = self.broken.entry(partition).or_insert(chunk.base);
        *known = (*known).min(chunk.base);
    }

    /// Takes in what a journal entry holds.
    pub(super) fn add_entry(&mut self, entry: &Entry<'_>) {
        for frame in &entry.frames {
            match frame {
                Frame::Batches { partition, bytes, .. } => {
                    for (_, header) in super::header::headers(bytes) {
                        self.serves(*partition, header.base, header.last().saturating_add(1));
                        self.producer = self.producer.max(header.producer_id.saturating_add(1));
                    }
                }
                Frame::State { key, value: Some(value) } => {
                    self.state.insert(key.to_vec(), value.to_vec());
                }
                Frame::State { key, value: None } => {
                    self.state.remove(*key);
                }
                Frame::Noted { .. } => {}
            }
        }
    }

    /// A record before `end` is known of.
    fn reaches(&mut self, partition: u32, end: Offset) {
        let known = self.ends.entry(partition).or_default();
        *known = (*known).max(end);
    }

    /// The state that mends the loss.
    pub(super) fn mend(&self, loss: &Loss<'_>) -> Frames {
        let mut frames = Frames::new();
        let mut names = names(&self.state);
        let (mut bounds, mut numbers) = (BTreeMap::new(), None);
        let mut producer = self.producer;
        let prefix = state_key(OWN, &[]);
        for (key, value) in self.state.range(prefix.clone()..) {
            let Some(rest) = key.strip_prefix(&prefix[..]) else { break };
            match own_key(rest) {
                Some(Own::Bounds(id)) => {
                    bounds.insert(id, decode_bounds(value).unwrap_or_default());
                }
                Some(Own::Numbers) => numbers = Numbers::decode(value),
                Some(Own::Producer(key)) => {
                    let id = key.last_chunk().map_or(0, |id| i64::from_be_bytes(*id));
                    producer = producer.max(id.saturating_add(1));
                }
                Some(Own::Topic(_) | Own::Aborted(_) | Own::Wear) | None => {}
            }
        }
        let partition = self.ends.keys().chain(names.keys()).max().map_or(0, |id| id.saturating_add(1));
        if loss.has_lost_names {
            for id in self.ends.keys().filter(|id| !names.contains_key(id)).copied().collect::<Vec<_>>() {
                let name = format!("lost.{id}");
                let record = Record::lost(id, random_id());
                frames.push((topic_key(&name), Some(record.encode())));
                names.insert(id, (name, 0));
            }
        }
        if loss.has_lost_numbers {
            let known = numbers.unwrap_or_default();
            let numbers = Numbers {
                partition: known.partition.max(partition).saturating_add(PARTITION_GAP),
                producer: known.producer.max(producer).saturating_add(PRODUCER_GAP),
            };
            frames.push((Numbers::key(), Some(numbers.encode().to_vec())));
        }

        let entry = |(topic, partition): (String, i32), from, to, reason: String| Quarantined {
            topic,
            partition,
            from,
            to,
            reason,
            copy: loss.copy.map(|copy| copy.display().to_string()),
            time_ms: loss.time_ms,
        };
        let mut missing: Vec<Quarantined> = Vec::new();
        for (id, name) in &names {
            let (start, bounds_end) = bounds.get(id).copied().unwrap_or_default();
            let is_sure = self.is_all_sure || self.sure.contains(id);
            let known_end = self.ends.get(id).copied().unwrap_or_default().max(bounds_end);
            let gap = GAP.saturating_add(i64::try_from(loss.bytes).unwrap_or(i64::MAX / 4));
            let end = if is_sure { known_end } else { known_end.saturating_add(gap) };
            let is_front_sure =
                !self.is_no_front_sure && (self.fronts.contains(id) || is_sure && !self.served.contains_key(id));
            let began = match self.broken.get(id) {
                _ if !is_front_sure => start,
                Some(broken) => (*broken).max(start),
                None => i64::MAX,
            };
            let may = if is_sure { "" } else { "; records may have been here" };
            let mut lacks = |from: Offset, to: Offset, may: &str| {
                if from <= to {
                    missing.push(entry(name.clone(), from, to, format!("{}{may}", loss.reason)));
                }
            };
            match self.served.get(id) {
                Some((first, served_end)) => {
                    lacks(began, first - 1, if is_front_sure { "" } else { "; records may have been here" });
                    lacks((*served_end).max(bounds_end), end - 1, may);
                }
                None => lacks(began.min(known_end), end - 1, may),
            }
            if self.served.get(id).is_none_or(|(_, served_end)| *served_end < end) && end > bounds_end {
                frames.push((bounds_key(*id), Some(encode_bounds(start, end).to_vec())));
            }
        }
        if missing.is_empty() {
            missing.push(entry((String::new(), 0), 0, -1, format!("{}; no records are missing", loss.reason)));
        }
        list(&self.state, missing, &mut frames);
        frames
    }
}

/// Topic and index of every partition, by its number in the file.
pub(super) fn names(state: &BTreeMap<Vec<u8>, Vec<u8>>) -> BTreeMap<u32, (String, i32)> {
    let prefix = state_key(OWN, &[]);
    let mut names = BTreeMap::new();
    for (key, value) in state.range(prefix.clone()..) {
        let Some(rest) = key.strip_prefix(&prefix[..]) else { break };
        let Some(Own::Topic(name)) = own_key(rest) else { continue };
        for (index, id) in (0..).zip(Record::decode(value).iter().flat_map(Record::numbers)) {
            names.insert(id, (name.to_owned(), index));
        }
    }
    names
}

/// Puts entries behind those that are listed already.
pub(super) fn list(state: &BTreeMap<Vec<u8>, Vec<u8>>, missing: Vec<Quarantined>, frames: &mut Frames) {
    let prefix = state_key(quarantine::OWNER, &[]);
    let listed: Vec<&Vec<u8>> =
        state.range(prefix.clone()..).map(|(key, _)| key).take_while(|k| k.starts_with(&prefix)).collect();
    let next = listed.last().and_then(|key| key.last_chunk()).map_or(0, |last| u64::from_be_bytes(*last) + 1);
    let too_many = (listed.len() + missing.len()).saturating_sub(MOST_ENTRIES);
    frames.extend(listed.iter().take(too_many).map(|key| ((*key).clone(), None)));
    let more = missing.len().saturating_sub(MOST_ENTRIES);
    for (number, what) in (next..).zip(missing.into_iter().skip(more)) {
        let key = state_key(quarantine::OWNER, &number.to_be_bytes());
        frames.push((key, Some(quarantine::Entry { what, is_told: false }.encode())));
    }
}
