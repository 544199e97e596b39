//! The topic `brooklet.events`: what the centre must hear of, as records among the others.
//!
//! Made by the log when there is something to tell first; one partition, its own small retention. An event of the log
//! itself rides in the commit of its cause, so neither is there without the other. The key of a record is the kind, the
//! value JSON: `kind`, `time_ms` (null where the clock cannot be believed), `uptime_ms`, `boot_id`, `text`, `data`.
//! Never waits for room: what finds none is kept, a bounded number, and told later.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Change, Error, commit::Flush, partition::Part, retention::is_plausible, writer::Writer};
use crate::record::{Builder, Codec};

/// Where events go.
pub const EVENTS_TOPIC: &str = "brooklet.events";
/// Events that wait for the topic or for room; the oldest are dropped beyond.
const MOST_WAITING: usize = 64;
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
    fn batch(&self, clock_ms: i64, boot_id: &str) -> Bytes {
        let time_ms = is_plausible(clock_ms).then_some(clock_ms);
        let value = json!({
            "kind": self.kind.name(),
            "time_ms": time_ms,
            "uptime_ms": uptime_ms(),
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

/// Milliseconds since boot, time asleep included.
fn uptime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// The kernel's name of this boot; empty where /proc does not say.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

impl Writer {
    /// Tells of something in the commit under way; without the topic, in one of its own soon after.
    pub(super) fn stage_event(&mut self, event: Event) {
        let Some(part) = self.events_part() else {
            self.keep_event(event);
            return;
        };
        let batch = event.batch((self.shared.clock)(), &self.boot_id);
        match self.stage_batch(&part, &batch, Instant::now(), &mut Vec::new()) {
            Ok(_) => self.staged.bytes += batch.len(),
            // Only if the topic is being deleted in this moment.
            Err(error) => tracing::warn!("an event was not recorded ({}): {error}", event.text),
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
