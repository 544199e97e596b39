//! The topics as the file keeps them, and the rules for their names and partitions.
//!
//! A topic is one entry of the log's own state: `t` and the name, with JSON that a person can read. Partition numbers
//! of the file are given out once, in ranges, because a topic grows now and then and is deleted and made again.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Error, Topic, TopicId, Topics,
    layout::{Reader, state_key},
    producers::Producers,
};
use crate::record::{Offset, Partition};

/// Owner of the log's own state: no module can have an empty name.
pub(super) const OWN: &str = "";
/// Partitions of one topic; more would not fit the memory budget of a small board.
const MOST_PARTITIONS: i32 = 10_000;
/// Longest topic name, as in Kafka.
const LONGEST_NAME: usize = 249;
/// Bytes of settings of one topic.
const MOST_SETTINGS_BYTES: usize = 32 << 10;

const TOPIC_TAG: u8 = b't';
const BOUNDS_TAG: u8 = b'p';
/// Key of the next numbers to give out.
const NUMBERS: &[u8] = b"n";

/// One topic in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    id: String,
    /// First number and how many, in the order of the topic's partitions.
    partitions: Vec<(u32, u32)>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    settings: BTreeMap<String, String>,
}

/// All topics, owned by the writer.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    records: BTreeMap<Arc<str>, (Record, Arc<Topic>)>,
    pub(super) numbers: Numbers,
}

/// The next numbers to give out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) partition: u32,
    pub(super) producer: i64,
}

impl Numbers {
    pub(super) fn encode(self) -> [u8; 12] {
        let mut out = [0; 12];
        out[..4].copy_from_slice(&self.partition.to_be_bytes());
        out[4..].copy_from_slice(&self.producer.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Self { partition: u32::from_be_bytes(reader.array()?), producer: i64::from_be_bytes(reader.array()?) })
    }

    pub(super) fn key() -> Vec<u8> {
        state_key(OWN, NUMBERS)
    }
}

impl Catalogue {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Topic>> {
        self.records.get(name).map(|(_, topic)| topic)
    }

    /// The topic, or the error that names it.
    pub(super) fn find(&self, name: &Arc<str>) -> Result<&Arc<Topic>, Error> {
        self.get(name).ok_or_else(|| Error::UnknownPartition(Partition::new(Arc::clone(name), -1)))
    }

    /// What readers see.
    pub(super) fn topics(&self) -> Arc<Topics> {
        Arc::new(self.records.values().map(|(_, topic)| Arc::clone(topic)).collect())
    }

    /// A new topic, not yet entered; its partitions' numbers begin at the next one.
    pub(super) fn draft(
        &self,
        name: &Arc<str>,
        partitions: i32,
        settings: BTreeMap<String, String>,
        id: TopicId,
    ) -> Result<Record, Error> {
        if self.records.contains_key(name) {
            return Err(Error::TopicExists(Arc::clone(name)));
        }
        self.check_name(name)?;
        if !(1..=MOST_PARTITIONS).contains(&partitions) {
            return Err(Error::InvalidPartitions(format!("{partitions} is not within 1..{MOST_PARTITIONS}")));
        }
        check_settings(name, &settings)?;
        Ok(Record { id: hex(id), partitions: vec![(self.numbers.partition, partitions.unsigned_abs())], settings })
    }

    /// The topic with other settings, not yet entered.
    pub(super) fn altered(&self, name: &Arc<str>, changes: BTreeMap<String, Option<String>>) -> Result<Record, Error> {
        self.find(name)?;
        let mut record = self.records[name].0.clone();
        for (key, value) in changes {
            match value {
                Some(value) => record.settings.insert(key, value),
                None => record.settings.remove(&key),
            };
        }
        check_settings(name, &record.settings)?;
        Ok(record)
    }

    /// The topic with more partitions, not yet entered, and how many more.
    pub(super) fn grown(&self, name: &Arc<str>, partitions: i32) -> Result<(Record, u32), Error> {
        let topic = self.find(name)?;
        if partitions <= topic.partitions || partitions > MOST_PARTITIONS {
            return Err(Error::InvalidPartitions(format!(
                "topic '{name}' has {} and can only grow, to at most {MOST_PARTITIONS}; asked for {partitions}",
                topic.partitions
            )));
        }
        let more = (partitions - topic.partitions).unsigned_abs();
        let mut record = self.records[name].0.clone();
        record.partitions.push((self.numbers.partition, more));
        Ok((record, more))
    }

    /// Enters a topic as it is now in the file.
    pub(super) fn enter(&mut self, name: Arc<str>, record: Record) -> Arc<Topic> {
        let topic = Arc::new(record.topic(&name));
        self.records.insert(name, (record, Arc::clone(&topic)));
        topic
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.records.remove(name);
    }

    /// The numbers in the file of a topic's partitions, in order.
    pub(super) fn numbers_of(&self, name: &str) -> Vec<u32> {
        self.records.get(name).map_or_else(Vec::new, |(record, _)| record.numbers().collect())
    }

    /// Kafka's rules, and its care for names that metrics cannot tell apart.
    fn check_name(&self, name: &Arc<str>) -> Result<(), Error> {
        let invalid = |reason: String| Err(Error::InvalidTopic { name: Arc::clone(name), reason });
        if name.is_empty() || name.len() > LONGEST_NAME {
            return invalid(format!("it must have 1 to {LONGEST_NAME} characters"));
        }
        if matches!(&**name, "." | "..") {
            return invalid("it cannot be '.' or '..'".into());
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return invalid("only letters, digits, '.', '_' and '-' are allowed".into());
        }
        let plain = |n: &str| n.replace('.', "_");
        match self.records.keys().find(|other| plain(other) == plain(name)) {
            Some(other) => invalid(format!("it collides with '{other}'")),
            None => Ok(()),
        }
    }
}

impl Record {
    /// A topic for a partition whose own topic is not known any more.
    pub(super) fn lost(partition: u32, id: TopicId) -> Self {
        Self { id: hex(id), partitions: vec![(partition, 1)], settings: BTreeMap::new() }
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.partitions.iter().flat_map(|(first, count)| *first..first.saturating_add(*count))
    }

    pub(super) fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialise")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(bytes).ok()?;
        // A damaged number must not become a loop of thousands of millions.
        let partitions: u64 = record.partitions.iter().map(|(_, count)| u64::from(*count)).sum();
        (partitions <= u64::from(MOST_PARTITIONS.unsigned_abs())).then_some(record)
    }

    fn topic(&self, name: &Arc<str>) -> Topic {
        let partitions: u32 = self.partitions.iter().map(|(_, count)| count).sum();
        Topic {
            name: Arc::clone(name),
            id: unhex(&self.id),
            partitions: i32::try_from(partitions).unwrap_or(MOST_PARTITIONS),
            settings: self.settings.clone(),
        }
    }
}

fn check_settings(name: &Arc<str>, settings: &BTreeMap<String, String>) -> Result<(), Error> {
    let bytes: usize = settings.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > MOST_SETTINGS_BYTES {
        return Err(Error::TooLarge(format!("settings of topic '{name}' have {bytes} bytes")));
    }
    Ok(())
}

/// Key of a topic.
pub(super) fn topic_key(name: &str) -> Vec<u8> {
    let mut key = vec![TOPIC_TAG];
    key.extend_from_slice(name.as_bytes());
    state_key(OWN, &key)
}

/// What an entry of the log's own state is.
pub(super) enum Own<'a> {
    Topic(&'a str),
    /// Start and end of a partition that its batches alone do not tell.
    Bounds(u32),
    Numbers,
    /// The counts of bytes written.
    Wear,
    /// An aborted transaction, by its own key.
    Aborted(&'a [u8]),
    /// A producer's entry, by its own key.
    Producer(&'a [u8]),
}

/// Reads a key without its owner.
pub(super) fn own_key(key: &[u8]) -> Option<Own<'_>> {
    match key {
        [TOPIC_TAG, name @ ..] => Some(Own::Topic(std::str::from_utf8(name).ok()?)),
        [BOUNDS_TAG, number @ ..] => Some(Own::Bounds(u32::from_be_bytes(number.try_into().ok()?))),
        [super::aborted::KEY_TAG, ..] => Some(Own::Aborted(key)),
        [super::producers::KEY_TAG, ..] => Some(Own::Producer(key)),
        NUMBERS => Some(Own::Numbers),
        super::wear::KEY => Some(Own::Wear),
        _ => None,
    }
}

/// Whether an entry, if it is of the log's own state, can be read.
pub(super) fn is_sane(key: &[u8], value: &[u8]) -> bool {
    let Some(key) = key.strip_prefix(&state_key(OWN, &[])[..]) else { return true };
    match own_key(key) {
        Some(Own::Topic(_)) => Record::decode(value).is_some(),
        Some(Own::Bounds(_)) => decode_bounds(value).is_some(),
        Some(Own::Numbers) => Numbers::decode(value).is_some(),
        // Counts that do not parse begin anew; they are no reason to mend a file.
        Some(Own::Wear) => true,
        Some(Own::Aborted(key)) => super::Aborted::decode(key, value).is_some(),
        Some(Own::Producer(key)) => Producers::default().restore(key, value, std::time::Instant::now()),
        None => false,
    }
}

/// Key of a partition's bounds.
pub(super) fn bounds_key(partition: u32) -> Vec<u8> {
    let mut key = [BOUNDS_TAG; 5];
    key[1..].copy_from_slice(&partition.to_be_bytes());
    state_key(OWN, &key)
}

pub(super) fn encode_bounds(start: Offset, end: Offset) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&start.to_be_bytes());
    out[8..].copy_from_slice(&end.to_be_bytes());
    out
}

pub(super) fn decode_bounds(bytes: &[u8]) -> Option<(Offset, Offset)> {
    let mut reader = Reader(bytes);
    Some((i64::from_be_bytes(reader.array()?), i64::from_be_bytes(reader.array()?)))
}

fn hex(id: TopicId) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}

fn unhex(id: &str) -> TopicId {
    u128::from_str_radix(id, 16).unwrap_or_default().to_be_bytes()
}

/// A random UUID of version 4, as Kafka makes them.
pub(super) fn random_id() -> TopicId {
    let mut id = [0; 16];
    let mut filled = 0;
    while filled < id.len() {
        match rustix::rand::getrandom(&mut id[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("the kernel has no randomness: {e}"),
        }
    }
    id[6] = id[6] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        let mut catalogue = Catalogue::default();
        let draft = |c: &Catalogue, name: &str| c.draft(&name.into(), 1, BTreeMap::new(), [1; 16]);
        for bad in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(matches!(draft(&catalogue, bad), Err(Error::InvalidTopic { .. })), "{bad}");
        }
        let record = draft(&catalogue, "metric.cpu").unwrap();
        catalogue.enter("metric.cpu".into(), record);
        assert!(matches!(draft(&catalogue, "metric.cpu"), Err(Error::TopicExists(_))));
        assert!(matches!(draft(&catalogue, "metric_cpu"), Err(Error::InvalidTopic { .. })));
        assert!(draft(&catalogue, "metric-cpu").is_ok());
    }

    #[test]
    fn records_come_back_and_grow_in_ranges() {
        let mut catalogue = Catalogue { numbers: Numbers { partition: 5, producer: 0 }, ..Catalogue::default() };
        let name: Arc<str> = "a".into();
        let settings = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]);
        let record = catalogue.draft(&name, 2, settings, random_id()).unwrap();
        assert_eq!(Record::decode(&record.encode()), Some(record.clone()));
        let topic = catalogue.enter(Arc::clone(&name), record);
        assert_eq!((topic.partitions, topic.settings["retention.ms"].as_str()), (2, "5"));
        catalogue.numbers.partition = 9;
        let (record, more) = catalogue.grown(&name, 3).unwrap();
        assert_eq!((more, record.numbers().collect::<Vec<_>>()), (1, vec![5, 6, 9]));
        let again = catalogue.enter(Arc::clone(&name), record);
        assert_eq!((again.id, again.partitions), (topic.id, 3));
        for bad in [3, 2, 0, -1, MOST_PARTITIONS + 1] {
            assert!(matches!(catalogue.grown(&name, bad), Err(Error::InvalidPartitions(_))), "{bad}");
        }
    }
}
