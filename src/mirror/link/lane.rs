//! One partition on its way: its state machine, what was cut and not sent yet, and its place in the link.

use std::{collections::VecDeque, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::sync::watch;

use super::{
    super::{
        delivery::{Delivery, Notice, Now, Record, Settings, Target},
        status::PartitionStatus,
    },
    ask::Spot,
    cutter::Cut,
};
use crate::{
    log::{self, Bounds, Log, StateWrite, TopicId},
    record::{Offset, Partition, batch},
};

/// Whose state it is in the log.
const OWNER: &str = "mirror";
/// What may have been in flight when the process ended is looked for in so many bytes after the last acknowledgement.
const HEAD_BYTES: usize = 512 << 10;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) source: Partition,
    pub(super) topic_id: TopicId,
    pub(super) target: Arc<str>,
    pub(super) delivery: Delivery,
    pub(super) bounds: watch::Receiver<Bounds>,
    /// A change of the bounds is waited for.
    pub(super) armed: bool,
    /// Fresh records wait for company until then.
    pub(super) ready_ms: u64,
    pub(super) caught_up: bool,
    pub(super) buffer: Bytes,
    pub(super) cut: Option<Cut>,
    pub(super) hold_ms: u64,
    /// Answers of batches in flight, in the order in which they were sent.
    pub(super) answers: VecDeque<Option<Outcome>>,
    /// Number of the first of them.
    pub(super) first_answer: u64,
    /// Leader and its epoch.
    pub(super) leader: Option<(i32, i32)>,
    pub(super) target_topic: [u8; 16],
    /// The connection it is served by.
    pub(super) session: Option<u64>,
    /// Counts how often it was disconnected: an answer of before is not one of now.
    pub(super) era: u64,
    pub(super) error: Option<String>,
    /// Most bytes of records in a batch, after the target refused a larger one.
    pub(super) limit: Option<usize>,
    /// The first offset that can be mirrored, where the log has a hole.
    pub(super) hole_end: Offset,
    /// Its batches go before those of others: `brooklet.priority` is 0.
    pub(super) is_first: bool,
    pub(super) dirty: bool,
    pub(super) persist: bool,
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// Stored at this target offset.
    Stored(i64),
    /// Refused; ask again after this pause.
    Refused(u64),
}

/// The key of a partition's state.
pub(super) fn key(link: &str, topic_id: TopicId, partition: i32) -> Bytes {
    let mut key = BytesMut::from(link.as_bytes());
    key.put_u8(0);
    key.put_slice(&topic_id);
    key.put_i32(partition);
    key.freeze()
}

/// What is durably known of a partition: the machine it was written on, and the record.
pub(super) fn saved(
    log: &Log,
    link: &str,
    source: &Partition,
    topic_id: TopicId,
) -> Result<Option<([u8; 16], Record)>, log::Error> {
    let saved = log.state(OWNER, &key(link, topic_id, source.index))?;
    Ok(saved.and_then(|bytes| Record::decode(&bytes)))
}

impl Lane {
    /// The lane of `source`, going on where its durable record says.
    pub(super) async fn open(
        log: &Log,
        link: &str,
        (source, topic_id): (Partition, TopicId),
        target: Arc<str>,
        settings: Settings,
        machine: [u8; 16],
    ) -> Result<Self, log::Error> {
        let bounds = log.watch(&source)?;
        let start = bounds.borrow().start;
        let saved = saved(log, link, &source, topic_id)?;
        let seed = seed();
        let delivery = match saved {
            None => Delivery::fresh(settings, Target::default(), start, seed),
            Some((written_on, mut record)) => {
                if written_on != machine && record.identity.take().is_some() {
                    tracing::warn!(link, partition = %source, "the log was moved to another machine: a new identity at the target");
                }
                let head_ts_ms = head_ts_ms(log, &source, record.acked).await;
                Delivery::resume(settings, record, head_ts_ms, seed)
            }
        };
        Ok(Self {
            source,
            topic_id,
            target,
            delivery,
            bounds,
            armed: false,
            ready_ms: 0,
            caught_up: false,
            buffer: Bytes::new(),
            cut: None,
            hold_ms: 0,
            answers: VecDeque::new(),
            first_answer: 0,
            leader: None,
            target_topic: [0; 16],
            session: None,
            era: 0,
            error: None,
            limit: None,
            hole_end: 0,
            is_first: false,
            dirty: false,
            persist: false,
        })
    }

    /// Tells the machine what the log holds now; the end.
    pub(super) fn look(&mut self) -> Offset {
        let bounds = *self.bounds.borrow_and_update();
        self.delivery.source(bounds.start.max(self.hole_end), bounds.last_stable);
        bounds.last_stable
    }

    /// Something to send, or to learn before anything can be sent.
    pub(super) fn wants_connection(&self) -> bool {
        self.delivery.halted().is_none() && self.delivery.acked() < self.bounds.borrow().last_stable
    }

    /// The target partition as the questions name it.
    pub(super) fn spot(&self) -> Spot {
        Spot {
            topic: self.target.to_string(),
            topic_id: self.target_topic,
            partition: self.source.index,
            leader_epoch: self.leader.map_or(-1, |(_, epoch)| epoch),
        }
    }

    /// The connection is gone, or leads somewhere else.
    pub(super) fn disconnect(&mut self, now: Now) {
        if self.session.take().is_some() {
            self.era += 1;
            self.delivery.disconnected(now);
            self.forget_answers();
        }
    }

    fn forget_answers(&mut self) {
        self.first_answer += self.answers.len() as u64;
        self.answers.clear();
        self.cut = None;
        self.buffer = Bytes::new();
    }

    /// A batch goes out; its number.
    pub(super) fn sent(&mut self) -> u64 {
        self.answers.push_back(None);
        self.first_answer + self.answers.len() as u64 - 1
    }

    /// Takes the answer to the batch with this number; the records that became safe by it.
    pub(super) fn answered(&mut self, number: u64, outcome: Outcome, now: Now) -> u64 {
        let at = number.checked_sub(self.first_answer).and_then(|at| usize::try_from(at).ok());
        if let Some(slot) = at.and_then(|at| self.answers.get_mut(at)) {
            *slot = Some(outcome);
        }
        let before = self.delivery.acked();
        while let Some(Some(outcome)) = self.answers.front().cloned() {
            self.answers.pop_front();
            self.first_answer += 1;
            match outcome {
                Outcome::Stored(base_offset) => {
                    self.delivery.stored(base_offset);
                    self.error = None;
                }
                Outcome::Refused(pause_ms) => {
                    self.delivery.refused(pause_ms, now);
                    self.cut = None;
                    self.buffer = Bytes::new();
                }
            }
        }
        let safe = u64::try_from(self.delivery.acked() - before).unwrap_or(0);
        self.dirty |= safe > 0;
        safe
    }

    /// The state to be made durable.
    pub(super) fn state(&self, link: &str, machine: [u8; 16]) -> StateWrite {
        let value = self.delivery.record().encode(machine);
        StateWrite { owner: OWNER, key: key(link, self.topic_id, self.source.index), value: Some(value) }
    }

    /// Removes the state of a topic that is gone.
    pub(super) fn forget(&self, link: &str) -> StateWrite {
        StateWrite { owner: OWNER, key: key(link, self.topic_id, self.source.index), value: None }
    }

    /// What happened to records since the last call.
    pub(super) fn notices(&mut self) -> Vec<Notice> {
        let start = self.bounds.borrow().start;
        let mut notices = self.delivery.take_notices();
        // Only what lies before the log start has been deleted; the rest of it held nothing to mirror.
        notices.retain_mut(|notice| match notice {
            Notice::Gap { from, to } => {
                *to = start.min(*to);
                to > from
            }
            _ => true,
        });
        notices
    }

    /// As people want to see it.
    pub(super) fn status(&self) -> PartitionStatus {
        let end = self.bounds.borrow().last_stable;
        let acked = self.delivery.acked();
        let halted = self.delivery.halted().map(|h| h.to_string());
        let state = if halted.is_some() {
            "stopped"
        } else if self.error.is_some() {
            "blocked"
        } else if self.delivery.quarantined_until_ms().is_some() {
            "quarantined"
        } else if acked >= end {
            "idle"
        } else if self.session.is_none() {
            "connecting"
        } else if self.delivery.is_reconciling() {
            "reconciling"
        } else if end - self.delivery.next() > 10_000 {
            "catching up"
        } else {
            "live"
        };
        PartitionStatus {
            source: self.source.clone(),
            target: self.target.to_string(),
            acked,
            end,
            acked_timestamp_ms: self.delivery.acked_max_ts_ms(),
            state,
            error: halted.or_else(|| self.error.clone()),
        }
    }
}

/// The oldest of the newest timestamps of the batches from `from` on.
async fn head_ts_ms(log: &Log, source: &Partition, from: Offset) -> Option<i64> {
    let slice = log.read_committed(source, from, HEAD_BYTES).await.ok()?;
    batch::batches(&slice.batches).filter_map(|b| Some(b.ok()?.0.max_timestamp_ms)).min()
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    let _filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}
