//! Exactly-once delivery of one source partition to one target partition: a pure state machine.
//!
//! [`Delivery::poll`] says what to do next, the driver does it and reports the answer; time and randomness enter as
//! arguments, so the whole protocol runs in a test against a simulated broker. Never does I/O, never reads a clock,
//! never holds a record.
//!
//! Invariants:
//! * An identity (producer id, epoch, base) is durable before the first batch carries it, and the sequence of a record
//!   is `offset - base` modulo 2^31: whatever is sent twice carries the same numbers twice and the broker drops it.
//! * After any doubt (start, new connection, error, time-out) nothing is sent until the leader itself has said how far
//!   it got; an answer is taken only between two proofs that the one who answered leads the partition.
//! * When the leader has forgotten the producer (Kafka expires producer state by the *records'* timestamps, so an old
//!   backlog is forgotten within minutes), late requests are waited out, the log itself is read back, and a new epoch
//!   starts at sequence 0.
//! * `acked` moves only by an `acks=all` answer or by a high watermark that covers the leader's log end.

/// Whether a rule of the protocol is followed: always, but for the tests that switch one off.
macro_rules! rule {
    ($self:ident . $name:ident) => {{
        #[cfg(test)]
        let on = $self.settings.rules.$name;
        #[cfg(not(test))]
        let on = true;
        on
    }};
}

mod doubt;
mod identity;
mod settings;
mod step;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use doubt::{Doubt, Stage};
pub(super) use identity::{Identity, Record, Target};
pub(super) use settings::{Now, Settings};
pub use settings::{OnNoEvidence, OnTargetReset};
pub(super) use step::{Halt, Head, Hold, Known, Notice, ReadBack, Stamp, Step};
#[cfg(test)]
pub(super) use tests::Rules;

use crate::record::Offset;

/// Sequences are counted modulo 2^31: after 2147483647 comes 0.
const SEQUENCES: i64 = 1 << 31;
/// Beyond it a target's offset is a lie, and sums of it could overflow.
const MOST_OFFSET: i64 = 1 << 62;
/// Above this a new producer id is taken instead of a new epoch.
const LAST_EPOCH: i16 = 32_700;
/// Shortest and longest pause between two rounds of questions that led nowhere.
const ROUND_MS: (u64, u64) = (50, 30_000);

/// A batch that was sent and not answered.
#[derive(Clone, Copy, Debug)]
struct Flight {
    first: Offset,
    /// One after the last.
    end: Offset,
    max_ts_ms: i64,
}

/// The machine. See the module's description.
#[derive(Debug)]
pub(super) struct Delivery {
    settings: Settings,
    random: u64,
    identity: Option<Identity>,
    target: Target,
    /// First source offset that is not known to be safe.
    acked: Offset,
    /// A source offset and the target offset of the record before it, both from one acknowledgement.
    anchor: (Offset, i64),
    acked_max_ts_ms: Option<i64>,
    /// Next source offset to send.
    next: Offset,
    /// Highest source offset this process has sent; `None` after a start: up to the source's end.
    sent_to: Option<Offset>,
    flights: VecDeque<Flight>,
    /// An acknowledgement of this identity was seen by this process.
    proven: bool,
    /// When the leader first answered on the current connection.
    first_answer_ms: Option<u64>,
    /// Until then a late request of an earlier connection may be stored.
    doubtful_until_ms: u64,
    /// Something of an earlier connection may still be stored late, and no new connection has begun the wait for it.
    late_possible: bool,
    source: (Offset, Offset),
    doubt: Option<Doubt>,
    persist: bool,
    asked: bool,
    rounds: u32,
    /// Nothing is asked before this monotonic time.
    not_before_ms: u64,
    /// A batch has gone out under this identity, by this process or an earlier one.
    used: bool,
    halted: Option<Halt>,
    notices: Vec<Notice>,
}

impl Delivery {
    /// A partition that was never mirrored: from `start`, with a random `seed`.
    pub(super) fn fresh(settings: Settings, target: Target, start: Offset, seed: u64) -> Self {
        Self {
            settings,
            random: seed,
            identity: None,
            target,
            acked: start,
            anchor: (start, -1),
            acked_max_ts_ms: None,
            next: start,
            sent_to: Some(start),
            flights: VecDeque::new(),
            proven: false,
            first_answer_ms: None,
            doubtful_until_ms: 0,
            late_possible: false,
            source: (start, start),
            doubt: None,
            persist: false,
            asked: false,
            rounds: 0,
            not_before_ms: 0,
            used: false,
            halted: None,
            notices: Vec::new(),
        }
    }

    /// A partition as its durable record says. `head_ts_ms` is the oldest of the newest timestamps of the source
    /// batches after the record's `acked`: those may have been in flight when the process ended.
    pub(super) fn resume(settings: Settings, record: Record, head_ts_ms: Option<i64>, seed: u64) -> Self {
        let mut this = Self::fresh(settings, record.target, record.acked, seed);
        this.identity = record.identity;
        this.anchor = record.anchor;
        this.acked_max_ts_ms = record.acked_max_ts_ms;
        this.sent_to = None;
        if this.identity.is_some() {
            this.used = true;
            this.late_possible = true;
            this.begin_doubt(true, head_ts_ms);
        }
        this
    }

    /// What must be durable: before first use after [`Step::Persist`], lazily otherwise.
    pub(super) fn record(&self) -> Record {
        Record {
            identity: self.identity,
            target: self.target.clone(),
            acked: self.acked,
            anchor: self.anchor,
            acked_max_ts_ms: self.acked_max_ts_ms,
        }
    }

    /// First source offset that is not known to be safe at the target.
    pub(super) fn acked(&self) -> Offset {
        self.acked
    }

    /// Next source offset to send.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// The newest timestamp of the last acknowledged batch.
    pub(super) fn acked_max_ts_ms(&self) -> Option<i64> {
        self.acked_max_ts_ms
    }

    /// Why it stopped for good.
    pub(super) fn halted(&self) -> Option<Halt> {
        self.halted
    }

    /// True while the leader's answers are awaited before anything is sent.
    pub(super) fn is_reconciling(&self) -> bool {
        self.doubt.is_some()
    }

    /// Until when late requests are waited out, if they are.
    pub(super) fn quarantined_until_ms(&self) -> Option<u64> {
        let quarantined = self.doubt.as_ref().is_some_and(|d| d.stage == Stage::Quarantine);
        quarantined.then(|| self.quarantine_end())
    }

    /// What happened since the last call.
    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// The source's bounds: first kept offset and one after the last durable one.
    pub(super) fn source(&mut self, start: Offset, end: Offset) {
        self.source = (start, end);
    }

    /// A new connection to the leader whose first answer came at `first_answer_ms`, or another leader epoch.
    pub(super) fn connected(&mut self, target: Target, first_answer_ms: u64) {
        if self.late_possible {
            self.late_possible = false;
            self.doubtful_until_ms = first_answer_ms + self.settings.quarantine_ms;
        }
        self.first_answer_ms = Some(first_answer_ms);
        if self.target.is_other_cluster(&target) && self.identity.is_some() {
            // Another cluster gives our producer id to somebody else; nothing there is ours.
            self.identity = None;
            self.used = false;
            self.late_possible = false;
            self.doubt = None;
        }
        let is_reset = self.target.is_other(&target);
        self.target = target;
        if is_reset && (self.identity.is_some() || self.anchor.1 >= 0) {
            self.begin_doubt(first_answer_ms < self.doubtful_until_ms && self.identity.is_some(), None);
            self.doubt.as_mut().expect("begun in the line above").reset = true;
        }
    }

    /// The connection to the leader is gone, or the partition has moved.
    pub(super) fn disconnected(&mut self, now: Now) {
        self.first_answer_ms = None;
        let idle = self.flights.is_empty() && self.next == self.acked;
        let oldest = self.flights.iter().map(|f| f.max_ts_ms).min();
        let had_flight = !self.flights.is_empty();
        self.late_possible |= had_flight || now.mono_ms < self.doubtful_until_ms;
        self.flights.clear();
        if !self.persist {
            self.asked = false;
        }
        if self.identity.is_none() || !self.used || (idle && !rule!(self.reconcile_every_connection)) {
            return;
        }
        self.next = self.acked;
        self.begin_doubt(had_flight, oldest);
    }

    /// The driver could not get an answer to what it was asked (not the leader, a time-out, a retriable error).
    pub(super) fn failed(&mut self, now: Now) {
        self.asked = false;
        self.not_before_ms = now.mono_ms + self.pause();
        if let Some(doubt) = &mut self.doubt
            && doubt.stage != Stage::Drain
        {
            // Another leader, perhaps: nothing that was learned holds for it.
            doubt.stage = Stage::Before;
            doubt.settled = false;
            doubt.known = None;
        }
    }

    /// What to do next.
    pub(super) fn poll(&mut self, now: Now) -> Step {
        if self.halted.is_some() {
            return Step::Halted;
        }
        if self.asked {
            return Step::Idle;
        }
        if self.persist {
            return self.ask(Step::Persist);
        }
        if self.first_answer_ms.is_none() {
            return Step::Idle;
        }
        if now.mono_ms < self.not_before_ms {
            return Step::Wait { until_ms: self.not_before_ms };
        }
        if self.doubt.is_some() {
            return self.poll_doubt(now);
        }
        if self.identity.is_none() {
            let wanted = self.source.1 > self.next;
            return if wanted { self.ask(Step::ProducerId) } else { Step::Idle };
        }
        let is_gap = self.source.0 > self.next;
        if is_gap && self.flights.is_empty() && self.acked == self.next {
            self.skip_gap();
            return self.poll(now);
        }
        if self.flights.is_empty() && self.acked < self.next {
            // The end of what we sent is known from the leader's state alone: it counts once it is replicated. Nothing is
            // sent behind it before: a new leader that lacks it may know nothing of us, and takes what comes late.
            self.begin_doubt(false, None);
            self.doubt.as_mut().expect("begun in the line above").stage = Stage::TailEnd;
            return self.poll_doubt(now);
        }
        self.sendable(now).map_or(Step::Idle, |from| Step::Send { from })
    }

    /// Where the next batch begins, if one may go out now: as [`Step::Send`], without asking anything.
    pub(super) fn sendable(&self, now: Now) -> Option<Offset> {
        let is_ready = self.halted.is_none()
            && !self.asked
            && !self.persist
            && self.first_answer_ms.is_some()
            && now.mono_ms >= self.not_before_ms
            && self.doubt.is_none()
            && self.identity.is_some();
        let has_tail = self.flights.is_empty() && self.acked < self.next;
        let has_records = self.source.0 <= self.next && self.next < self.source.1;
        (is_ready && !has_tail && has_records && self.flights.len() < self.window(now)).then_some(self.next)
    }

    /// May the batch `[first, end)` with this newest timestamp go out? Then it is in flight.
    pub(super) fn offer(&mut self, first: Offset, end: Offset, max_ts_ms: i64, now: Now) -> Result<Stamp, Hold> {
        let Some(identity) = self.identity else { return Err(Hold::Moved) };
        if self.doubt.is_some() || self.persist || self.halted.is_some() || first != self.next || end <= first {
            return Err(Hold::Moved);
        }
        if self.flights.len() >= self.window(now) {
            return Err(Hold::Acks);
        }
        if self.is_stale(Some(max_ts_ms), now) {
            if rule!(self.stale_window_1) && !self.flights.is_empty() {
                return Err(Hold::Acks);
            }
            if rule!(self.stale_quarantine) && now.mono_ms < self.doubtful_until_ms {
                return Err(Hold::Until(self.doubtful_until_ms));
            }
        }
        self.flights.push_back(Flight { first, end, max_ts_ms });
        self.used = true;
        self.next = end;
        self.sent_to = self.sent_to.map(|s| s.max(end));
        Ok(Stamp { producer_id: identity.producer_id, epoch: identity.epoch, sequence: sequence(identity.base, first) })
    }

    /// The oldest batch in flight was stored at this target offset.
    pub(super) fn stored(&mut self, base_offset: i64) {
        let Some(flight) = self.flights.pop_front() else { return };
        if self.doubt.is_some() {
            // Behind a refused one: the leader will say what it holds.
            self.drained();
            return;
        }
        if base_offset >= 0 && base_offset <= self.anchor.1 && self.acked == flight.first {
            // Without topic ids in Produce this is how a recreated topic shows.
            self.notices.push(Notice::TargetReset);
            if self.settings.on_target_reset == OnTargetReset::Halt {
                self.halted = Some(Halt::TargetReset);
                return;
            }
        }
        self.proven = true;
        self.rounds = 0;
        self.acked = self.acked.max(flight.end);
        if base_offset >= 0 {
            self.anchor = (flight.end, base_offset.min(MOST_OFFSET) + (flight.end - flight.first) - 1);
        }
        self.acked_max_ts_ms = Some(flight.max_ts_ms);
    }

    /// The oldest batch in flight was refused; asks the leader anew, not before `pause_ms` have passed.
    pub(super) fn refused(&mut self, pause_ms: u64, now: Now) {
        let Some(flight) = self.flights.pop_front() else { return };
        if self.doubt.is_some() {
            self.drained();
            return;
        }
        let oldest = self.flights.iter().map(|f| f.max_ts_ms).fold(flight.max_ts_ms, i64::min);
        let pause = self.pause().max(pause_ms);
        self.next = self.acked;
        // Everything on this connection is answered before the questions begin: nothing of it can come late.
        self.begin_doubt(now.mono_ms < self.doubtful_until_ms, Some(oldest));
        self.not_before_ms = now.mono_ms + pause;
        if !self.flights.is_empty() {
            self.doubt.as_mut().expect("begun above").stage = Stage::Drain;
        }
    }

    /// The target gave this producer id.
    pub(super) fn producer_id(&mut self, producer_id: i64) {
        self.asked = false;
        // A random first epoch: two machines that share an id by accident collide with an error, not in silence.
        let epoch = i16::try_from(self.random() & 0x3fff).expect("fourteen bits");
        self.identity = Some(Identity { producer_id, epoch, base: self.next });
        self.used = false;
        self.proven = false;
        self.persist = true;
    }

    /// The record is durable.
    pub(super) fn persisted(&mut self) {
        self.asked = false;
        self.persist = false;
    }

    /// A new epoch that begins at `next`, durable before its first batch.
    fn rebase(&mut self) {
        let step = 1 + i16::try_from(self.random() & 0x3f).expect("six bits");
        self.proven = false;
        self.used = false;
        match &mut self.identity {
            Some(identity) if identity.epoch <= LAST_EPOCH - step => {
                identity.epoch += step;
                identity.base = self.next;
                self.persist = true;
            }
            identity => *identity = None,
        }
    }

    fn skip_gap(&mut self) {
        let (from, to) = (self.next, self.source.0);
        self.notices.push(Notice::Gap { from, to });
        self.anchor.0 += to - from;
        self.acked = to;
        self.next = to;
        self.sent_to = self.sent_to.map(|s| s.max(to));
        self.rebase();
    }

    fn window(&self, now: Now) -> usize {
        let alone = rule!(self.first_batch_alone) && !self.proven;
        let oldest = self.flights.iter().map(|f| f.max_ts_ms).chain(self.acked_max_ts_ms).min();
        let stale = rule!(self.stale_window_1) && oldest.is_some() && self.is_stale(oldest, now);
        if alone || stale { 1 } else { self.settings.window }
    }

    fn is_stale(&self, ts_ms: Option<i64>, now: Now) -> bool {
        match (ts_ms, now.wall_ms) {
            (Some(ts), Some(wall)) => ts < wall.saturating_sub(self.settings.stale_after_ms),
            _ => true,
        }
    }

    fn pause(&mut self) -> u64 {
        let pause = ROUND_MS.0.saturating_mul(1 << self.rounds.min(10)).min(ROUND_MS.1);
        self.rounds = self.rounds.saturating_add(1);
        pause
    }

    fn ask(&mut self, step: Step) -> Step {
        self.asked = true;
        step
    }

    /// Splitmix64: enough to keep two owners of one identity apart.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// The sequence of the record at `offset` in an epoch that began at `base`.
fn sequence(base: Offset, offset: Offset) -> i32 {
    i32::try_from((offset - base).rem_euclid(SEQUENCES)).expect("below 2^31")
}
