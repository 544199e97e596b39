//! The batches of one commit, by target partition.

use std::{collections::BTreeMap, sync::Arc};

use super::{Error, Host};
use crate::{
    log::{self, Append, Change},
    record::{Builder, Codec, Partition, partition_for_key},
};

/// Size at which a batch is closed, below the 1 MiB that Kafka's consumers and targets take by default.
const BATCH_BYTES: usize = 512 * 1024;

/// What is written and not yet committed.
#[derive(Default)]
pub(super) struct Outputs {
    /// The topics of this commit with their numbers of partitions; asked for anew after each.
    topics: Vec<(Arc<str>, i32)>,
    builders: BTreeMap<(usize, i32), Builder>,
    closed: Vec<Append>,
    bytes: usize,
    records: u64,
}

impl Outputs {
    /// The builder for a record with this key that came from `source_partition`: the partition its key gives it, as any
    /// Kafka producer would, else the number it had.
    pub(super) async fn builder(
        &mut self,
        host: &Host,
        topic: &Arc<str>,
        key: Option<&[u8]>,
        source_partition: i32,
    ) -> Result<&mut Builder, Error> {
        let slot = match self.topics.iter().position(|(name, _)| name == topic) {
            Some(slot) => slot,
            None => {
                let partitions = ensure(host, topic).await?;
                self.topics.push((Arc::clone(topic), partitions));
                self.topics.len() - 1
            }
        };
        let partitions = self.topics[slot].1;
        let index = match key {
            Some(key) => partition_for_key(key, partitions),
            None => source_partition % partitions.max(1),
        };
        let builder = self.builders.entry((slot, index)).or_default();
        if builder.size_bytes() >= BATCH_BYTES {
            self.closed.push(close(builder, topic, index));
        }
        self.records += 1;
        Ok(builder)
    }

    /// Says how much a record added.
    pub(super) fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Bytes of keys, values and headers since the last commit.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to commit.
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Takes the batches; each partition's are in order.
    pub(super) fn take(&mut self) -> Vec<Append> {
        let mut batches = std::mem::take(&mut self.closed);
        for ((slot, index), builder) in &mut self.builders {
            if !builder.is_empty() {
                batches.push(close(builder, &self.topics[*slot].0, *index));
            }
        }
        // A topic may have been deleted and made anew by the next commit. Builders of busy partitions would save an
        // allocation each, and hold memory for every partition ever written.
        self.builders.clear();
        self.topics.clear();
        (self.bytes, self.records) = (0, 0);
        batches
    }
}

fn close(builder: &mut Builder, topic: &Arc<str>, index: i32) -> Append {
    Append {
        partition: Partition::new(Arc::clone(topic), index),
        batch: builder.finish(Codec::None, Codec::None.default_level()),
    }
}

/// The topic's number of partitions; made if it is missing.
pub(super) async fn ensure(host: &Host, topic: &Arc<str>) -> Result<i32, Error> {
    let known = || host.log.topics().borrow().get(topic).map(|t| t.partitions);
    if let Some(partitions) = known() {
        return Ok(partitions);
    }
    let change =
        Change::Create { name: Arc::clone(topic), partitions: host.partitions.max(1), settings: BTreeMap::new() };
    match host.log.change(change, Vec::new()).await {
        Ok(created) => Ok(created.partitions),
        // Somebody else was faster.
        Err(log::Error::TopicExists(_)) => Ok(known().unwrap_or(1)),
        Err(error) => Err(error.into()),
    }
}
