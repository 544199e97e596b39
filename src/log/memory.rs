//! Stand-in for the LMDB log while it is built: same answers, nothing durable.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use super::{
    Append, Appended, Bounds, Change, Config, Error, Offset, Partition, Slice, StateWrite, Timed, Topic, Topics, Usage,
    Write,
};

pub(super) struct Memory {
    inner: Mutex<Inner>,
    topics: watch::Sender<Arc<Topics>>,
    pub(super) incarnation: [u8; 16],
}

#[derive(Default)]
struct Inner {
    partitions: BTreeMap<Partition, Part>,
    state: BTreeMap<(&'static str, Bytes), Bytes>,
    producers: i64,
    closed: bool,
}

struct Part {
    batches: Vec<(Offset, Offset, Bytes)>,
    bounds: watch::Sender<Bounds>,
}

impl Memory {
    pub(super) fn new(_config: Config) -> Self {
        Self { inner: Mutex::default(), topics: watch::Sender::new(Arc::default()), incarnation: random() }
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Inner>, Error> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed { Err(Error::Stopped("closed".into())) } else { Ok(inner) }
    }

    pub(super) fn commit(&self, write: Write) -> Result<Vec<Appended>, Error> {
        let mut inner = self.lock()?;
        for Append { partition, .. } in &write.batches {
            if !inner.partitions.contains_key(partition) {
                return Err(Error::UnknownPartition(partition.clone()));
            }
        }
        let mut answers = Vec::new();
        for Append { partition, batch } in write.batches {
            let part = inner.partitions.get_mut(&partition).expect("looked up above");
            let bounds = *part.bounds.borrow();
            let delta = i32::from_be_bytes(batch[23..27].try_into().map_err(|_| Error::Corrupt(partition.clone()))?);
            let (base, last) = (bounds.high_watermark, bounds.high_watermark + i64::from(delta));
            let mut bytes = BytesMut::from(&batch[..]);
            bytes[..8].copy_from_slice(&base.to_be_bytes());
            bytes[12..16].copy_from_slice(&0i32.to_be_bytes());
            part.batches.push((base, last, bytes.freeze()));
            part.bounds.send_replace(Bounds { high_watermark: last + 1, ..bounds });
            answers.push(Appended {
                base_offset: base,
                last_offset: last,
                log_start: bounds.start,
                is_duplicate: false,
            });
        }
        inner.apply(write.state);
        Ok(answers)
    }

    pub(super) fn change(&self, change: Change, state: Vec<StateWrite>) -> Result<Arc<Topic>, Error> {
        let mut inner = self.lock()?;
        let mut topics = Topics::clone(&self.topics.borrow());
        let find = |topics: &Topics, name: &Arc<str>| {
            topics.get(name).cloned().ok_or_else(|| Error::UnknownPartition(Partition::new(Arc::clone(name), -1)))
        };
        let topic = match change {
            Change::Create { name, partitions, settings } => {
                if topics.get(&name).is_some() {
                    return Err(Error::TopicExists(name));
                }
                Arc::new(Topic { name, id: random(), partitions, settings })
            }
            Change::Alter { name, settings } => {
                let mut topic = Topic::clone(&*find(&topics, &name)?);
                for (key, value) in settings {
                    match value {
                        Some(value) => topic.settings.insert(key, value),
                        None => topic.settings.remove(&key),
                    };
                }
                Arc::new(topic)
            }
            Change::Grow { name, partitions } => {
                Arc::new(Topic { partitions, ..Topic::clone(&*find(&topics, &name)?) })
            }
            Change::Delete { name } => {
                let topic = find(&topics, &name)?;
                topics.by_name.remove(&name);
                inner.partitions.retain(|p, _| p.topic != name);
                inner.apply(state);
                self.topics.send_replace(Arc::new(topics));
                return Ok(topic);
            }
            Change::TrimBefore { partition, offset } => {
                let topic = find(&topics, &partition.topic)?;
                let part = inner.partitions.get_mut(&partition).ok_or(Error::UnknownPartition(partition))?;
                let bounds = *part.bounds.borrow();
                let start = if offset < 0 { bounds.high_watermark } else { offset.max(bounds.start) };
                if start > bounds.high_watermark {
                    return Err(Error::OutOfRange { offset, start: bounds.start, end: bounds.high_watermark });
                }
                part.batches.retain(|(_, last, _)| *last >= start);
                part.bounds.send_replace(Bounds { start, ..bounds });
                inner.apply(state);
                return Ok(topic);
            }
        };
        for index in 0..topic.partitions {
            inner
                .partitions
                .entry(Partition::new(Arc::clone(&topic.name), index))
                .or_insert_with(|| Part { batches: Vec::new(), bounds: watch::Sender::new(Bounds::default()) });
        }
        topics.by_name.insert(Arc::clone(&topic.name), Arc::clone(&topic));
        inner.apply(state);
        self.topics.send_replace(Arc::new(topics));
        Ok(topic)
    }

    pub(super) fn read(&self, partition: &Partition, from: Offset, max_bytes: usize) -> Result<Slice, Error> {
        let inner = self.lock()?;
        let part = inner.partitions.get(partition).ok_or_else(|| Error::UnknownPartition(partition.clone()))?;
        let bounds = *part.bounds.borrow();
        if from < bounds.start || from > bounds.high_watermark {
            return Err(Error::OutOfRange { offset: from, start: bounds.start, end: bounds.high_watermark });
        }
        let mut out = BytesMut::new();
        for (_, last, bytes) in &part.batches {
            if *last < from {
                continue;
            }
            if !out.is_empty() && out.len() + bytes.len() > max_bytes {
                break;
            }
            out.extend_from_slice(bytes);
        }
        Ok(Slice { batches: out.freeze(), bounds })
    }

    pub(super) fn offset_at(&self, partition: &Partition, timestamp_ms: i64) -> Result<Option<Timed>, Error> {
        let inner = self.lock()?;
        let part = inner.partitions.get(partition).ok_or_else(|| Error::UnknownPartition(partition.clone()))?;
        // Batch precision only: enough for a stand-in.
        Ok(part.batches.iter().map(timed).find(|t| t.timestamp_ms >= timestamp_ms))
    }

    pub(super) fn max_timestamp(&self, partition: &Partition) -> Result<Option<Timed>, Error> {
        let inner = self.lock()?;
        let part = inner.partitions.get(partition).ok_or_else(|| Error::UnknownPartition(partition.clone()))?;
        Ok(part.batches.iter().map(timed).max_by_key(|t| t.timestamp_ms))
    }

    pub(super) fn state(&self, owner: &'static str, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.lock()?.state.get(&(owner, Bytes::copy_from_slice(key))).cloned())
    }

    pub(super) fn states(&self, owner: &'static str, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let inner = self.lock()?;
        let all = inner.state.iter().filter(|((o, k), _)| *o == owner && k.starts_with(prefix));
        Ok(all.map(|((_, k), v)| (k.clone(), v.clone())).collect())
    }

    pub(super) fn watch(&self, partition: &Partition) -> Result<watch::Receiver<Bounds>, Error> {
        let inner = self.lock()?;
        let part = inner.partitions.get(partition).ok_or_else(|| Error::UnknownPartition(partition.clone()))?;
        Ok(part.bounds.subscribe())
    }

    pub(super) fn topics(&self) -> watch::Receiver<Arc<Topics>> {
        self.topics.subscribe()
    }

    pub(super) fn partition_bytes(&self, partition: &Partition) -> Result<u64, Error> {
        let inner = self.lock()?;
        let part = inner.partitions.get(partition).ok_or_else(|| Error::UnknownPartition(partition.clone()))?;
        Ok(part.batches.iter().map(|(_, _, b)| b.len() as u64).sum())
    }

    pub(super) fn usage(&self) -> Usage {
        Usage::default()
    }

    pub(super) fn next_producer_id(&self) -> Result<i64, Error> {
        let mut inner = self.lock()?;
        inner.producers += 1;
        Ok(inner.producers)
    }

    pub(super) fn close(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
    }
}

impl Inner {
    fn apply(&mut self, state: Vec<StateWrite>) {
        for StateWrite { owner, key, value } in state {
            match value {
                Some(value) => self.state.insert((owner, key), value),
                None => self.state.remove(&(owner, key)),
            };
        }
    }
}

fn timed((base, last, bytes): &(Offset, Offset, Bytes)) -> Timed {
    let max = bytes.get(35..43).and_then(|b| b.try_into().ok()).map_or(-1, i64::from_be_bytes);
    let _unused = last;
    Timed { offset: *base, timestamp_ms: max }
}

fn random() -> [u8; 16] {
    let mut id = [0; 16];
    let _len = rustix::rand::getrandom(&mut id[..], rustix::rand::GetRandomFlags::empty());
    id
}
