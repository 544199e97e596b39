//! The questions that end a doubt: does the other end lead, how far did it get, and if it forgot us, what its log says.

use super::{
    Delivery, Halt, Identity, Known, MOST_OFFSET, Notice, Now, OnNoEvidence, OnTargetReset, ReadBack, SEQUENCES, Step,
    sequence,
};
use crate::record::Offset;

/// Most bytes of the target's log that are read back to find our last batch.
const READ_BACK_BYTES: u64 = 16 << 20;

/// Where the questions stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Answers of the same connection are still outstanding.
    Drain,
    /// Is it the leader?
    Before,
    /// Late requests are waited out.
    Quarantine,
    /// The leader's log end, for the wait below.
    SettleEnd,
    /// Until the high watermark covers it.
    SettleMark,
    /// The leader's producer state.
    Ask,
    /// Is it still the leader?
    After,
    /// Headers of the target's log.
    Read,
    /// Is it still the leader?
    AfterRead,
    /// The tail known from the leader's state alone: its log end, then its high watermark.
    TailEnd,
    TailMark,
}

/// A doubt about what the target holds.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    pub(super) stage: Stage,
    /// Something may be in flight on an earlier connection.
    pub(super) had_flight: bool,
    /// The oldest of the newest timestamps in question.
    pub(super) oldest_ts_ms: Option<i64>,
    pub(super) settled: bool,
    pub(super) leader_end: i64,
    pub(super) known: Option<Known>,
    /// The topic is another one: its producer state says nothing about us.
    pub(super) reset: bool,
    pub(super) found: Option<Offset>,
    pub(super) read_to: i64,
    pub(super) read_bytes: u64,
    pub(super) no_evidence: bool,
    /// The log end says nothing about us: records of others, or of another life, lie before it.
    pub(super) end_is_foreign: bool,
}

impl Delivery {
    /// The leader's log end: proof that it leads in the epoch that was asked for.
    pub(in crate::mirror) fn leader_end(&mut self, end: i64, now: Now) {
        self.asked = false;
        let end = end.clamp(-1, MOST_OFFSET);
        let Some(mut doubt) = self.doubt.take() else { return };
        let is_stale = self.is_stale(doubt.oldest_ts_ms, now);
        match doubt.stage {
            Stage::Before => {
                doubt.leader_end = end;
                let wait = rule!(self.stale_quarantine) && is_stale && doubt.had_flight && !doubt.settled;
                doubt.stage = if wait || (doubt.reset && !doubt.settled) { Stage::Quarantine } else { Stage::Ask };
                if doubt.reset && doubt.settled {
                    doubt.stage = Stage::Read;
                }
            }
            Stage::SettleEnd => {
                doubt.leader_end = end;
                doubt.stage = Stage::SettleMark;
                if !rule!(self.settle) {
                    self.settled(doubt);
                    return;
                }
            }
            Stage::After => {
                let moved = self.settings.exclusive && doubt.leader_end != end;
                if moved && doubt.known.is_some_and(|k| self.position(k.last_sequence) < self.acked) {
                    // A loss is judged by a log end that stood still around the question.
                    doubt.stage = Stage::Before;
                } else {
                    self.conclude(doubt);
                    return;
                }
            }
            Stage::AfterRead => {
                self.conclude_by_log(doubt);
                return;
            }
            Stage::TailEnd => {
                doubt.leader_end = end;
                doubt.stage = Stage::TailMark;
            }
            _ => {}
        }
        self.doubt = Some(doubt);
    }

    /// The leader's high watermark.
    pub(in crate::mirror) fn high_watermark(&mut self, mark: i64, now: Now) {
        self.asked = false;
        let pause = self.pause();
        let Some(mut doubt) = self.doubt.take() else { return };
        match doubt.stage {
            Stage::SettleMark if mark >= doubt.leader_end => {
                self.settled(doubt);
                return;
            }
            Stage::SettleMark => {
                doubt.stage = Stage::SettleEnd;
                self.not_before_ms = now.mono_ms + pause;
            }
            Stage::TailMark if mark >= doubt.leader_end => {
                self.acked = self.next;
                self.rounds = 0;
                return;
            }
            Stage::TailMark => {
                // Ask again from the beginning: the tail may be gone with its leader.
                self.next = self.acked;
                doubt.stage = Stage::Before;
                self.not_before_ms = now.mono_ms + pause;
            }
            _ => {}
        }
        self.doubt = Some(doubt);
    }

    /// What the leader knows of our producer id.
    pub(in crate::mirror) fn last_sequence(&mut self, known: Option<Known>) {
        self.asked = false;
        let Some(mut doubt) = self.doubt.take() else { return };
        if doubt.stage == Stage::Ask {
            doubt.known = known;
            doubt.stage = Stage::After;
            if !rule!(self.leader_check) {
                self.conclude(doubt);
                return;
            }
        }
        self.doubt = Some(doubt);
    }

    /// What reading back brought.
    pub(in crate::mirror) fn read_back(&mut self, read: ReadBack) {
        self.asked = false;
        let Some(mut doubt) = self.doubt.take() else { return };
        if doubt.stage == Stage::Read {
            match read {
                ReadBack::Heads(heads, next, bytes) => {
                    for head in heads {
                        if self.identity.is_some_and(|i| (i.producer_id, i.epoch) == (head.producer_id, head.epoch)) {
                            let position = self.position(head.last_sequence);
                            doubt.found = Some(doubt.found.map_or(position, |f| f.max(position)));
                        }
                    }
                    doubt.read_bytes += bytes;
                    let stuck = next <= doubt.read_to && next < doubt.leader_end;
                    doubt.read_to = next;
                    if next >= doubt.leader_end {
                        doubt.stage = Stage::AfterRead;
                    } else if stuck || doubt.read_bytes > READ_BACK_BYTES {
                        doubt.no_evidence = true;
                        doubt.stage = Stage::AfterRead;
                    }
                }
                ReadBack::Gone | ReadBack::Denied => {
                    doubt.no_evidence = rule!(self.evidence_check);
                    doubt.stage = Stage::AfterRead;
                }
            }
        }
        self.doubt = Some(doubt);
    }

    pub(super) fn poll_doubt(&mut self, now: Now) -> Step {
        let Some(doubt) = &mut self.doubt else { return Step::Idle };
        if doubt.stage == Stage::Drain {
            return Step::Idle;
        }
        if !rule!(self.ask) {
            // What clients without a durable identity do.
            self.doubt = None;
            self.identity = None;
            return self.poll(now);
        }
        let step = match doubt.stage {
            Stage::Quarantine => {
                // What was answered, if only by a refusal, cannot come late.
                let waits = doubt.had_flight;
                let end = self.quarantine_end();
                if waits && now.mono_ms < end {
                    return Step::Wait { until_ms: end };
                }
                self.doubt.as_mut().expect("looked at above").stage = Stage::SettleEnd;
                Step::LeaderEnd
            }
            Stage::Before if !rule!(self.leader_check) && !doubt.reset => {
                doubt.stage = Stage::Ask;
                let wait = doubt.had_flight && !doubt.settled;
                let oldest = doubt.oldest_ts_ms;
                if wait && self.is_stale(oldest, now) {
                    self.doubt.as_mut().expect("looked at above").stage = Stage::Quarantine;
                    return self.poll_doubt(now);
                }
                Step::LastSequence
            }
            Stage::Before | Stage::SettleEnd | Stage::After | Stage::AfterRead | Stage::TailEnd => Step::LeaderEnd,
            Stage::SettleMark | Stage::TailMark => Step::HighWatermark,
            Stage::Ask => Step::LastSequence,
            Stage::Read => Step::ReadBack { from: doubt.read_to },
            Stage::Drain => return Step::Idle,
        };
        self.ask(step)
    }

    /// Step 0 is over: late requests are dead and what the leader holds is replicated.
    pub(super) fn settled(&mut self, mut doubt: Doubt) {
        doubt.settled = true;
        if doubt.known.is_none() && !doubt.reset {
            // Whether the leader still knows us was not asked yet, or was denied: ask (again); cheap.
            doubt.stage = Stage::Ask;
        } else {
            doubt.stage = Stage::Read;
        }
        self.doubt = Some(doubt);
        if self.doubt.as_ref().is_some_and(|d| d.stage == Stage::Read) {
            self.start_reading();
        }
    }

    pub(super) fn start_reading(&mut self) {
        let Some(mut doubt) = self.doubt.take() else { return };
        if doubt.reset || doubt.leader_end <= self.anchor.1 {
            self.notices.push(Notice::TargetReset);
            match self.settings.on_target_reset {
                OnTargetReset::Halt => {
                    self.halted = Some(Halt::TargetReset);
                    self.doubt = Some(doubt);
                    return;
                }
                OnTargetReset::Continue => {}
                OnTargetReset::Remirror => {
                    self.acked = self.source.0;
                    self.next = self.acked;
                    // Nothing of the old topic is evidence for the new one.
                    self.identity = self.identity.map(|i| Identity { base: self.acked, ..i });
                }
            }
            // What came late lies in the new log from its beginning on; a topic that lost its end has lost it. In
            // another cluster's topic nothing is ours.
            let is_new_life = self.settings.on_target_reset == OnTargetReset::Remirror;
            let may_hold_ours = doubt.reset && self.identity.is_some() && doubt.had_flight && !is_new_life;
            self.anchor = (self.acked, if may_hold_ours { -1 } else { doubt.leader_end - 1 });
            doubt.end_is_foreign = doubt.reset;
            doubt.reset = false;
        }
        doubt.read_to = self.anchor.1 + 1;
        doubt.found = None;
        doubt.read_bytes = 0;
        doubt.no_evidence = self.settings.compacted;
        doubt.stage =
            if doubt.read_to >= doubt.leader_end || doubt.no_evidence { Stage::AfterRead } else { Stage::Read };
        self.doubt = Some(doubt);
    }

    /// The leader's producer state, proven to be the leader's.
    pub(super) fn conclude(&mut self, mut doubt: Doubt) {
        let Some(identity) = self.identity else { return };
        match doubt.known {
            Some(known) if known.epoch > i32::from(identity.epoch) => self.halted = Some(Halt::IdentityConflict),
            Some(known) if known.epoch == i32::from(identity.epoch) => {
                let position = self.position(known.last_sequence);
                if position > self.sent_to.unwrap_or(self.source.1) {
                    self.halted = Some(Halt::IdentityConflict);
                    return;
                }
                if position < self.acked {
                    self.notices.push(Notice::TargetDataLoss { from: position, to: self.acked });
                    self.acked = position;
                    self.anchor = (position, doubt.leader_end - 1);
                } else if !rule!(self.provisional) {
                    self.acked = position;
                }
                self.next = position.max(self.acked);
                self.sent_to = Some(self.sent_to.map_or(self.next, |s| s.max(self.next)));
                self.notices.push(Notice::Reconciled { by_log: false });
            }
            // Forgotten, or only an older epoch known: the log itself is asked, after late requests are dead.
            _ if doubt.settled => {
                doubt.known = None;
                self.doubt = Some(doubt);
                self.start_reading();
            }
            _ => {
                doubt.known = None;
                doubt.stage = Stage::Quarantine;
                self.doubt = Some(doubt);
            }
        }
    }

    /// The target's log, read to its replicated end by the leader.
    pub(super) fn conclude_by_log(&mut self, doubt: Doubt) {
        let mut position = self.acked.max(doubt.found.unwrap_or(self.acked));
        let limit = self.sent_to.unwrap_or(self.source.1).max(self.acked);
        if doubt.no_evidence {
            let by_end = self.anchor.0 + doubt.leader_end - (self.anchor.1 + 1);
            if self.settings.exclusive && !doubt.end_is_foreign && by_end <= limit {
                position = position.max(by_end);
            } else if self.settings.on_no_evidence == OnNoEvidence::Halt {
                self.halted = Some(Halt::NoEvidence);
                return;
            } else if self.acked < limit {
                self.notices.push(Notice::PossibleDuplicates { from: self.acked });
            }
        }
        if position > limit {
            self.halted = Some(Halt::IdentityConflict);
            return;
        }
        self.acked = position;
        self.next = position;
        self.notices.push(Notice::Reconciled { by_log: true });
        self.rebase();
    }

    pub(super) fn begin_doubt(&mut self, had_flight: bool, oldest_flight_ts_ms: Option<i64>) {
        let earlier = self.doubt.take();
        let had_flight = had_flight || earlier.as_ref().is_some_and(|d| d.had_flight) || self.late_possible;
        let earlier_ts = earlier.as_ref().and_then(|d| d.oldest_ts_ms);
        let oldest_ts_ms =
            [self.acked_max_ts_ms, oldest_flight_ts_ms, earlier_ts].into_iter().flatten().reduce(i64::min);
        self.doubt = Some(Doubt {
            stage: Stage::Before,
            had_flight,
            oldest_ts_ms,
            settled: false,
            leader_end: -1,
            known: None,
            reset: earlier.as_ref().is_some_and(|d| d.reset),
            found: None,
            read_to: 0,
            read_bytes: 0,
            no_evidence: false,
            end_is_foreign: false,
        });
    }

    pub(super) fn drained(&mut self) {
        if self.flights.is_empty()
            && let Some(doubt) = &mut self.doubt
            && doubt.stage == Stage::Drain
        {
            doubt.stage = Stage::Before;
        }
    }

    pub(super) fn quarantine_end(&self) -> u64 {
        self.first_answer_ms.map_or(u64::MAX, |at| at + self.settings.quarantine_ms)
    }

    /// One after the source offset that carried this sequence: of all candidates the one nearest to `acked`.
    pub(super) fn position(&self, last_sequence: i32) -> Offset {
        let Some(identity) = self.identity else { return self.acked };
        let expected = i64::from(sequence(identity.base, self.acked));
        let mut delta = (i64::from(last_sequence) + 1 - expected).rem_euclid(SEQUENCES);
        if delta > SEQUENCES / 2 {
            delta -= SEQUENCES;
        }
        self.acked + delta
    }
}
