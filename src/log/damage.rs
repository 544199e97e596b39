//! The writer's part in damage: lists what is missing, tells it once, and takes damaged chunks out of the index.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Error, Event, EventKind,
    commit::Flush,
    layout::{ChunkRef, state_key},
    opening::Found,
    partition::Part,
    quarantine::{Cause, Entry, MOST_ENTRIES, OWNER, Quarantined},
    queue::Reply,
    recovery::Hole,
    writer::Writer,
};

/// Entries in one event.
const MOST_TOLD: usize = 100;

/// A chunk that a reader found to be damaged.
pub(super) struct Damaged {
    pub(super) part: Arc<Part>,
    pub(super) chunk: ChunkRef,
    /// Where its bytes are kept.
    pub(super) copy: Option<String>,
}

impl Writer {
    /// What the opening found is listed and told; what was listed before a cut and not told as well.
    pub(super) fn tell_damage(&mut self, holes: Vec<Hole>, found: Found) -> Result<(), Error> {
        let time_ms = (self.shared.clock)();
        let unknown = || Cause { reason: "the records are not in the data file any more".into(), copy: None };
        let Cause { reason, copy } = found.cause.unwrap_or_else(unknown);
        let mut missing = found.notes;
        missing.extend(holes.into_iter().map(|Hole { partition, from, to }| {
            let (topic, partition) = (partition.topic.to_string(), partition.index);
            Quarantined { topic, partition, from, to, reason: reason.clone(), copy: copy.clone(), time_ms }
        }));
        let untold: Vec<(Bytes, Entry)> = self
            .shared
            .states(OWNER, &[])?
            .into_iter()
            .filter_map(|(key, value)| Some((key, Entry::decode(&value).filter(|entry| !entry.is_told)?)))
            .collect();
        if untold.is_empty() && missing.is_empty() {
            return Ok(());
        }
        self.make_events_topic()?;
        for (key, entry) in &untold {
            self.put_entry(key, &Entry { is_told: true, ..entry.clone() });
        }
        self.list_missing(&missing)?;
        missing.splice(..0, untold.into_iter().map(|(_, entry)| entry.what));
        self.tell(&missing);
        // Without room it is told at the next start.
        match self.flush_and_settle() {
            Ok(()) => Ok(()),
            Err(Flush::Full { .. }) => {
                self.rollback();
                Ok(())
            }
            Err(Flush::Fatal(error)) => Err(error),
        }
    }

    /// Takes a damaged chunk out of the index; readers go on behind it.
    pub(super) fn quarantine(&mut self, damaged: &Damaged, reply: Reply<()>) -> Result<(), Error> {
        let Damaged { part, chunk, copy } = damaged;
        let mut inner = part.lock();
        let is_there = inner.remove_chunk(chunk.seal);
        drop(inner);
        if !is_there {
            // Another reader was first, or retention.
            let _gone = reply.send(Ok(()));
            return Ok(());
        }
        self.order.note(part, 0);
        let missing = Quarantined {
            topic: part.name.topic.to_string(),
            partition: part.name.index,
            from: chunk.base,
            to: chunk.last(),
            reason: "a chunk was damaged".into(),
            copy: copy.clone(),
            time_ms: (self.shared.clock)(),
        };
        let missing = [missing];
        let staged = self.make_events_topic().and_then(|_| self.list_missing(&missing));
        if let Err(error) = staged {
            let _gone = reply.send(Err(error.clone()));
            return Err(error);
        }
        self.tell(&missing);
        self.garbage.push_back((part.id, *chunk));
        // Deleting it leaves no trace of how far the partition went where nothing lies behind it.
        let (start, end) = {
            let inner = part.lock();
            (inner.bounds.start, inner.next)
        };
        self.stage_bounds(part.id, start, end);
        let (result, fatal) = match self.flush_and_settle() {
            Ok(()) => (Ok(()), Ok(())),
            Err(Flush::Full { .. }) => {
                // It is found again at the next start; readers go on meanwhile.
                self.rollback();
                (Ok(()), Ok(()))
            }
            Err(Flush::Fatal(error)) => (Err(error.clone()), Err(error)),
        };
        let _gone = reply.send(result);
        fatal
    }

    fn list_missing(&mut self, missing: &[Quarantined]) -> Result<(), Error> {
        if missing.is_empty() {
            return Ok(());
        }
        let listed = self.shared.states(OWNER, &[])?;
        let next = listed.last().and_then(|(key, _)| key.last_chunk()).map_or(0, |last| u64::from_be_bytes(*last) + 1);
        let too_many = (listed.len() + missing.len()).saturating_sub(MOST_ENTRIES);
        for (key, _) in listed.iter().take(too_many) {
            self.staged.state.insert(state_key(OWNER, key).into(), None);
        }
        for (number, what) in (next..).zip(missing) {
            self.put_entry(&number.to_be_bytes(), &Entry { what: what.clone(), is_told: true });
        }
        Ok(())
    }

    fn put_entry(&mut self, key: &[u8], entry: &Entry) {
        self.staged.state.insert(state_key(OWNER, key).into(), Some(Bytes::from(entry.encode())));
    }

    /// One event for all that is missing, or a few: a card that dies should not fill the topic.
    fn tell(&mut self, missing: &[Quarantined]) {
        for some in missing.chunks(MOST_TOLD) {
            for what in some {
                tracing::error!("{}", what.text());
            }
            let Some(first) = some.first() else { continue };
            let more = match some.len() {
                1 => String::new(),
                count => format!("; and {} more", count - 1),
            };
            let data = serde_json::json!({ "missing": some });
            self.stage_event(Event::new(EventKind::Quarantine, format!("{}{more}", first.text()), data));
        }
    }
}

/// What is listed as missing.
pub(super) fn listed(shared: &super::shared::Shared) -> Result<Vec<Quarantined>, Error> {
    let entries = shared.states(OWNER, &[])?;
    Ok(entries.into_iter().filter_map(|(_, value)| Some(Entry::decode(&value)?.what)).collect())
}
