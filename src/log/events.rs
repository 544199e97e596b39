//! The topic `brooklet.events`: what the centre must hear of, as records among the others.
//!
//! Made by the log when there is something to tell first; one partition, its own small retention. An event of the log
//! itself rides in the commit of its cause, so neither is there without the other. The key of a record is the kind, the
//! value JSON: `kind`, `time_ms` (null where the clock cannot be believed), `uptime_ms`, `boot_id`, `text`, `data`.
//! Never waits for room: what finds none is kept, a bounded number, and told later.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{
    Change, Error,
    clock::{self, Jump, Reading, intake_s},
    commit::Flush,
    layout::{PAGE_BYTES, state_key},
    partition::Part,
    writer::Writer,
};
use crate::record::{Builder, Codec};

/// Where events go.
pub const EVENTS_TOPIC: &str = "brooklet.events";
/// Events that wait for the topic or for room; the oldest are dropped beyond.
const MOST_WAITING: usize = 64;
/// Uptime without a refusal after which a full log is full no more.
const ROOM_AGAIN_MS: u64 = 10_000;
/// What the topic keeps.
const KEPT_BYTES: u32 = 1 << 20;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Records were deleted before they were mirrored.
    Gap,
    /// Damaged records were set aside.
    Quarantine,
    /// There is no room: records are refused.
    Full,
    /// There is room again.
    SpaceAgain,
    /// The wall clock moved against the uptime.
    ClockJump,
    /// The file system does not take writes any more.
    ReadOnly,
}

impl Kind {
    /// Its name in the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Quarantine => "quarantine",
            Self::Full => "full",
            Self::SpaceAgain => "space-again",
            Self::ClockJump => "clock-jump",
            Self::ReadOnly => "read-only",
        }
    }
}

/// Something the centre must hear of.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// One sentence for people.
    pub text: String,
    /// The same for programs; fields are added, never renamed.
    pub data: Map<String, Value>,
}

impl Event {
    /// An event; `data` is an object.
    pub fn new(kind: Kind, text: impl Into<String>, data: Value) -> Self {
        let data = match data {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        Self { kind, text: text.into(), data }
    }

    /// As a batch of one record.
    fn batch(&self, time_ms: Option<i64>, uptime_ms: u64, boot_id: &str) -> Bytes {
        let value = json!({
            "kind": self.kind.name(),
            "time_ms": time_ms,
            "uptime_ms": uptime_ms,
            "boot_id": boot_id,
            "text": self.text,
            "data": self.data,
        });
        let mut builder = Builder::new();
        // -1 is Kafka's "no timestamp": one of 1970 would be deleted at the centre at once.
        let pushed = builder.push(
            time_ms.unwrap_or(-1),
            Some(self.kind.name().as_bytes()),
            Some(value.to_string().as_bytes()),
            &[],
        );
        pushed.expect("an event is far below 1 GiB");
        builder.finish(Codec::None, 0)
    }
}

/// Since writes are refused for want of room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full {
    /// Uptime of the last refusal.
    refused_ms: u64,
    /// Records were taken after it.
    pub(super) has_taken: bool,
}

impl Writer {
    /// There was no room for a write. The first time is told.
    pub(super) fn refused_for_room(&mut self) {
        let refused = Full { refused_ms: self.kernel.uptime_ms, has_taken: false };
        if self.full.replace(refused).is_none() {
            let (live_bytes, quota_bytes) = (self.live_pages * PAGE_BYTES as u64, self.shared.quota_bytes);
            let text =
                format!("there is no room: records are refused ({live_bytes} bytes of a quota of {quota_bytes})");
            tracing::warn!("{text}");
            let data = json!({ "live_bytes": live_bytes, "quota_bytes": quota_bytes });
            self.keep_event(Event::new(Kind::Full, text, data));
        }
    }

    /// Records are taken and none was refused for a while: it is over. At the edge a log takes some and refuses some.
    fn look_for_room(&mut self) {
        let is_over =
            |full: &Full| full.has_taken && self.kernel.uptime_ms.saturating_sub(full.refused_ms) >= ROOM_AGAIN_MS;
        if self.full.as_ref().is_some_and(is_over) {
            self.full = None;
            tracing::info!("there is room again");
            self.keep_event(Event::new(Kind::SpaceAgain, "there is room again: records are taken", json!({})));
        }
    }

    /// Tells of something in the commit under way; without the topic, in one of its own soon after.
    pub(super) fn stage_event(&mut self, event: Event) {
        let Some(part) = self.events_part() else {
            self.keep_event(event);
            return;
        };
        let batch = event.batch(self.now_ms, self.kernel.uptime_ms, &self.boot.name);
        match self.stage_batch(&part, &batch, Instant::now(), &mut Vec::new()) {
            Ok(_) => self.staged.bytes += batch.len(),
            // Only if the topic is being deleted in this moment.
            Err(error) => tracing::warn!("an event was not recorded ({}): {error}", event.text),
        }
    }

    /// Looks at the clock, and tells of a jump.
    pub(super) fn look_at_clock(&mut self) {
        self.kernel = (self.shared.kernel)();
        let Reading { now_ms, jump, was_wrong, was_dark } =
            self.time.read((self.shared.clock)(), self.kernel, self.next_seal);
        self.now_ms = now_ms;
        self.look_for_room();
        if was_wrong || was_dark {
            for part in self.by_id.values() {
                let mut inner = part.lock();
                if was_wrong || inner.tail_intake_s == 0 {
                    inner.tail_intake_s = intake_s(now_ms);
                }
                if was_wrong || inner.tail_since_s == 0 {
                    inner.tail_since_s = intake_s(now_ms);
                }
            }
        }
        if let Some(Jump { from_ms, to_ms, is_synchronised }) = jump {
            let text = format!("the wall clock moved by {} s", to_ms.saturating_sub(from_ms) / 1_000);
            tracing::warn!(from_ms, to_ms, is_synchronised, "{text}");
            let data = json!({ "from_ms": from_ms, "to_ms": to_ms, "synchronised": is_synchronised });
            self.keep_event(Event::new(Kind::ClockJump, text, data));
        }
    }

    /// What must be known of the time after a restart rides along.
    pub(super) fn stage_time(&mut self) {
        if let Some(kept) = self.time.changed() {
            let value = serde_json::to_vec(kept).expect("numbers always serialise");
            self.staged.state.insert(state_key(clock::OWNER, clock::KEY).into(), Some(value.into()));
        }
    }

    /// Keeps an event for the next time that [`Writer::tell_events`] has room.
    pub(super) fn keep_event(&mut self, event: Event) {
        if self.events.len() >= MOST_WAITING {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Commits the events that wait. Nothing else may be staged.
    pub(super) fn tell_events(&mut self) -> Result<(), Error> {
        if self.events.is_empty() {
            return Ok(());
        }
        if !self.make_events_topic()? {
            return Ok(());
        }
        self.look_at_clock();
        for event in self.events.clone() {
            self.stage_event(event);
        }
        match self.flush() {
            Ok(()) => self.events.clear(),
            Err(Flush::Full { .. }) => self.rollback(),
            Err(Flush::Fatal(error)) => {
                self.rollback();
                return Err(error);
            }
        }
        Ok(())
    }

    /// True if the topic is there now.
    pub(super) fn make_events_topic(&mut self) -> Result<bool, Error> {
        if self.events_part().is_some() {
            return Ok(true);
        }
        let settings = BTreeMap::from([
            // First upstream and last deleted.
            ("brooklet.priority".to_owned(), "0".to_owned()),
            ("retention.bytes".to_owned(), KEPT_BYTES.to_string()),
        ]);
        let effect = match self.stage_change(Change::Create { name: EVENTS_TOPIC.into(), partitions: 1, settings }) {
            Ok(effect) => effect,
            Err(error) => {
                self.rollback();
                tracing::error!("events are lost, the topic {EVENTS_TOPIC} cannot be made: {error}");
                self.events.clear();
                return Ok(false);
            }
        };
        match self.flush_and_settle() {
            Ok(()) => {
                self.carry_out(effect);
                Ok(true)
            }
            Err(Flush::Full { .. }) => {
                self.rollback();
                Ok(false)
            }
            Err(Flush::Fatal(error)) => {
                self.rollback();
                Err(error)
            }
        }
    }

    pub(super) fn events_part(&self) -> Option<Arc<Part>> {
        let id = *self.catalogue.numbers_of(EVENTS_TOPIC).first()?;
        self.by_id.get(&id).map(Arc::clone)
    }
}
