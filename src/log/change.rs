//! Changes of the topics: staged beside the catalogue, carried out in RAM once they are durable.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::{
    Bounds, Change, Error, Gap, GapReason, StateWrite, Topic,
    catalogue::{Numbers, Record, bounds_key, random_id, topic_key},
    commit::Flush,
    gaps,
    header::headers,
    layout::state_key,
    partition::Part,
    producers::key as producer_key,
    queue::Reply,
    replacement,
    retention::Policy,
    writer::Writer,
};
use crate::record::{Offset, Partition};

/// What a topic change does once it is durable.
pub(super) enum Effect {
    Enter { name: Arc<str>, record: Record, fresh: Vec<Arc<Part>> },
    Delete { name: Arc<str> },
    Trim { part: Arc<Part>, start: Offset },
}

impl Writer {
    pub(super) fn change(
        &mut self,
        change: Change,
        state: Vec<StateWrite>,
        reply: Reply<Arc<Topic>>,
    ) -> Result<(), Error> {
        let effect = match self.stage_change(change) {
            Ok(effect) => effect,
            Err(error) => {
                self.rollback();
                let _gone = reply.send(Err(error));
                return Ok(());
            }
        };
        self.stage_state(&state);
        let (result, fatal) = match self.flush_and_settle() {
            Ok(()) => (Ok(self.carry_out(effect)), Ok(())),
            Err(Flush::Full { .. }) => {
                self.rollback();
                (Err(Error::Full), Ok(()))
            }
            Err(Flush::Fatal(error)) => {
                self.rollback();
                (Err(error.clone()), Err(error))
            }
        };
        let _gone = reply.send(result);
        fatal
    }

    pub(super) fn stage_change(&mut self, change: Change) -> Result<Effect, Error> {
        match change {
            Change::Create { name, partitions, settings } => {
                let record = self.catalogue.draft(&name, partitions, settings, random_id())?;
                let fresh = self.stage_topic(&name, &record, 0);
                Ok(Effect::Enter { name, record, fresh })
            }
            Change::Alter { name, settings } => {
                let record = self.catalogue.altered(&name, settings)?;
                self.staged.state.insert(topic_key(&name).into(), Some(record.encode().into()));
                Ok(Effect::Enter { name, record, fresh: Vec::new() })
            }
            Change::Grow { name, partitions } => {
                let known = self.catalogue.find(&name)?.partitions;
                let (record, _more) = self.catalogue.grown(&name, partitions)?;
                let fresh = self.stage_topic(&name, &record, known);
                Ok(Effect::Enter { name, record, fresh })
            }
            Change::Delete { name } => {
                self.catalogue.find(&name)?;
                self.staged.state.insert(topic_key(&name).into(), None);
                for (key, value) in self.ledger.forget_topic(&name) {
                    self.staged.state.insert(state_key(gaps::OWNER, &key).into(), value);
                }
                for id in self.catalogue.numbers_of(&name) {
                    self.staged.state.insert(bounds_key(id).into(), None);
                    self.staged.state.insert(replacement::key(id).into(), None);
                    for aborted in self.by_id.get(&id).into_iter().flat_map(|part| part.lock().aborted.keys(id)) {
                        self.staged.state.insert(aborted.into(), None);
                    }
                    for who in self.producers.of_partition(id) {
                        self.staged.state.insert(state_key("", &producer_key(who)).into(), None);
                    }
                }
                Ok(Effect::Delete { name })
            }
            Change::TrimBefore { partition, offset } => {
                let part = self.shared.part(&partition)?;
                let Bounds { start, high_watermark, .. } = part.lock().bounds;
                let to = if offset < 0 { high_watermark } else { offset.max(start) };
                if to > high_watermark {
                    return Err(Error::OutOfRange { offset, start, end: high_watermark });
                }
                self.stage_request_gap(&part, to);
                self.stage_bounds(part.id, to, high_watermark);
                let gone = self.producers_of(&part, 0..usize::MAX);
                self.stage_producers(gone);
                Ok(Effect::Trim { part, start: to })
            }
        }
    }

    /// Somebody deletes what a link still wants.
    fn stage_request_gap(&mut self, part: &Part, to: Offset) {
        let inner = part.lock();
        let Bounds { start, high_watermark, .. } = inner.bounds;
        let from = inner.mirrored().max(start);
        let Ok(records @ 1..) = u64::try_from(to.saturating_sub(from)) else { return };
        let kept = u128::try_from(high_watermark - start).unwrap_or(0).max(1);
        let bytes = u64::try_from(u128::from(inner.kept_bytes()) * u128::from(records) / kept).unwrap_or(0);
        drop(inner);
        self.stage_gap(Gap { to, records, bytes, ..Gap::new(&part.name, from, GapReason::Request) });
    }

    /// Stages a topic with partitions beyond the `known` ones and gives those out, still unseen.
    fn stage_topic(&mut self, name: &Arc<str>, record: &Record, known: i32) -> Vec<Arc<Part>> {
        let policy = Policy::new(record.settings());
        let mut numbers = self.catalogue.numbers;
        let fresh: Vec<Arc<Part>> = (0..)
            .zip(record.numbers())
            .skip(usize::try_from(known).unwrap_or(0))
            .map(|(index, id)| {
                numbers.partition = numbers.partition.max(id + 1);
                Arc::new(Part::new(id, Partition::new(Arc::clone(name), index), policy))
            })
            .collect();
        self.staged.state.insert(topic_key(name).into(), Some(record.encode().into()));
        self.staged.state.insert(Numbers::key().into(), Some(Bytes::copy_from_slice(&numbers.encode())));
        fresh
    }

    pub(super) fn carry_out(&mut self, effect: Effect) -> Arc<Topic> {
        match effect {
            Effect::Enter { name, record, fresh } => {
                for id in self.catalogue.numbers_of(&name) {
                    if let Some(part) = self.by_id.get(&id) {
                        part.lock().policy = Policy::new(record.settings());
                        self.order.note(part, 0);
                    }
                }
                let mut parts = self.shared.parts.write().unwrap_or_else(PoisonError::into_inner);
                let links = self.shared.links_of(&name);
                for part in fresh {
                    links.iter().for_each(|link| part.lock().set_mirrored(link, 0));
                    self.catalogue.numbers.partition = self.catalogue.numbers.partition.max(part.id + 1);
                    self.by_id.insert(part.id, Arc::clone(&part));
                    parts.insert(part.name.clone(), part);
                }
                drop(parts);
                let topic = self.catalogue.enter(name, record);
                self.shared.topics.send_replace(self.catalogue.topics());
                topic
            }
            Effect::Delete { name } => {
                let topic = Arc::clone(self.catalogue.get(&name).expect("found when it was staged"));
                let ids = self.catalogue.numbers_of(&name);
                self.catalogue.remove(&name);
                self.shared.topics.send_replace(self.catalogue.topics());
                let mut parts = self.shared.parts.write().unwrap_or_else(PoisonError::into_inner);
                for id in ids {
                    let Some(part) = self.by_id.remove(&id) else { continue };
                    parts.remove(&part.name);
                    self.tails.retain(|(_, tail)| *tail != id);
                    self.producers.forget_partition(id);
                    self.order.forget(id);
                    self.garbage.extend(part.delete().into_iter().map(|chunk| (id, chunk)));
                }
                topic
            }
            Effect::Trim { part, start } => {
                self.trim(&part, start);
                let topic = self.catalogue.get(&part.name.topic);
                Arc::clone(topic.expect("a partition's topic is in the catalogue"))
            }
        }
    }

    /// Forgets what lies before `start`; the chunks go with the following commits.
    pub(super) fn trim(&mut self, part: &Arc<Part>, start: Offset) {
        let mut inner = part.lock();
        while inner.chunks.front().is_some_and(|c| c.last() < start) {
            let chunk = inner.pop_chunk().expect("there is a front");
            self.garbage.push_back((part.id, chunk));
        }
        let bytes: usize =
            headers(inner.durable_tail()).take_while(|(_, h)| h.last() < start).map(|(_, h)| h.bytes).sum();
        inner.drop_tail(bytes);
        if inner.tail.is_empty() {
            self.tails.remove(&(inner.tail_seq, part.id));
        }
        let Bounds { start: known, high_watermark, .. } = inner.bounds;
        inner.publish(start.max(known), high_watermark);
        drop(inner);
        self.order.note(part, 0);
    }
}
