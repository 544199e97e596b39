//! The bounded way from callers to the writer thread, and the decision when waiting for company ends.
//!
//! Bounded by bytes: every write takes its weight out of a budget before it enters and returns it once answered.
//! The writer sleeps through a linger instead of being woken by each arrival. Lingering is only worth its delay where
//! company comes, so it ends early when arrivals dry up (all synchronous producers are waiting already) and is left
//! out where nobody ever came; a fixed linger throttles such producers 6 to 18 times.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Appended, Change, Error, StateWrite, Topic, Urgency, partition::Part};

/// A commit of this many bytes waits for nothing.
const COMMIT_AT_BYTES: usize = 256 << 10;
/// Most bytes of one commit, unless a single write has more.
const COMMIT_BYTES: usize = 1 << 20;
/// What a write weighs beside its bytes.
const WRITE_OVERHEAD_BYTES: usize = 512;
/// Arrivals closer than this count as one burst.
const SHORTEST_QUIET: Duration = Duration::from_micros(500);
/// Lingers in a row that brought nobody, after which they are left out.
const FRUITLESS: u8 = 4;
/// How often a left-out linger is tried again.
const PROBE: Duration = Duration::from_secs(10);

/// Answer to one caller.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// Something for the writer thread to do.
pub(super) enum Work {
    /// A write of [`super::Log::commit`].
    Write(Job),
    /// A change of the topics; committed alone.
    Change { change: Change, state: Vec<StateWrite>, reply: Reply<Arc<Topic>> },
    /// A producer id.
    ProducerId(Reply<i64>),
    /// Retention at once instead of at its next time.
    Retain(Reply<()>),
}

/// One write with its partitions looked up.
pub(super) struct Job {
    pub(super) batches: Vec<(Arc<Part>, Bytes)>,
    pub(super) state: Vec<StateWrite>,
    pub(super) bytes: usize,
    pub(super) urgency: Urgency,
    pub(super) reply: Reply<Vec<Appended>>,
    /// Returned to the budget when the job is dropped.
    pub(super) _weight: OwnedSemaphorePermit,
}

/// What the writer got.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) work: VecDeque<Work>,
    /// Nothing will come any more.
    pub(super) is_closed: bool,
}

/// The queue.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
    budget: Arc<Semaphore>,
    budget_bytes: usize,
    linger: Duration,
    ack_linger: Duration,
}

#[derive(Default)]
struct Inner {
    work: VecDeque<Work>,
    bytes: usize,
    /// Arrival of the first write somebody waits for, and of the first nobody does.
    waited: Option<Instant>,
    unattended: Option<Instant>,
    /// Writes that somebody waits for.
    waiting: usize,
    last_arrival: Option<Instant>,
    /// Mean time between arrivals within a linger.
    gap: Duration,
    is_urgent: bool,
    /// Why nothing can enter any more.
    closed: Option<Error>,
    fruitless: u8,
    probed: Option<Instant>,
}

impl Queue {
    pub(super) fn new(budget_bytes: usize, linger: Duration, ack_linger: Duration) -> Self {
        Self {
            inner: Mutex::new(Inner { gap: ack_linger, ..Inner::default() }),
            wake: Condvar::new(),
            budget: Arc::new(Semaphore::new(budget_bytes)),
            budget_bytes,
            linger: linger.max(ack_linger),
            ack_linger,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for a write of this size.
    pub(super) async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let weight = (bytes + WRITE_OVERHEAD_BYTES).min(self.budget_bytes);
        let weight = u32::try_from(weight).expect("the budget is at most 32 MiB");
        let room = Arc::clone(&self.budget).acquire_many_owned(weight).await;
        room.map_err(|_| self.why_closed())
    }

    /// Puts work in. Topic changes and the like are urgent; writes wait for company.
    pub(super) fn push(&self, work: Work) -> Result<(), Error> {
        let mut inner = self.lock();
        if let Some(why) = &inner.closed {
            return Err(why.clone());
        }
        let now = Instant::now();
        let mut wakes = inner.work.is_empty();
        match &work {
            Work::Write(job) => {
                let before = inner.bytes;
                inner.bytes += job.bytes;
                wakes |= before < COMMIT_AT_BYTES && inner.bytes >= COMMIT_AT_BYTES;
                match job.urgency {
                    Urgency::Waited => {
                        if inner.waited.is_none() {
                            inner.waited = Some(now);
                            wakes = true;
                        } else if let Some(last) = inner.last_arrival {
                            let gap = now.saturating_duration_since(last).min(self.ack_linger);
                            inner.gap = (inner.gap * 7 + gap) / 8;
                        }
                        inner.waiting += 1;
                        inner.last_arrival = Some(now);
                    }
                    Urgency::Unattended => {
                        inner.unattended.get_or_insert(now);
                    }
                }
            }
            Work::Change { .. } | Work::ProducerId(_) | Work::Retain(_) => {
                inner.is_urgent = true;
                wakes = true;
            }
        }
        inner.work.push_back(work);
        drop(inner);
        if wakes {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Sleeps until there is something to commit, until `tick`, or until the queue is closed.
    pub(super) fn take(&self, tick: Instant) -> Taken {
        let mut inner = self.lock();
        loop {
            let now = Instant::now();
            if inner.closed.is_some() {
                return Taken { work: std::mem::take(&mut inner.work), is_closed: true };
            }
            let due = inner.due(now, self.linger, self.ack_linger);
            if due.is_some_and(|due| due <= now) {
                return Taken { work: inner.drain(now, self.ack_linger), is_closed: false };
            }
            let until = due.map_or(tick, |due| due.min(tick));
            if until <= now {
                return Taken::default();
            }
            inner = self.wake.wait_timeout(inner, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets nothing in any more; what waits for room is told why.
    pub(super) fn close(&self, why: Error) {
        self.lock().closed.get_or_insert(why);
        self.budget.close();
        self.wake.notify_one();
    }

    /// Why nothing can enter.
    /// Why nothing is taken any more; `None` while it is.
    pub(super) fn closed(&self) -> Option<Error> {
        self.lock().closed.clone()
    }

    pub(super) fn why_closed(&self) -> Error {
        self.lock().closed.clone().unwrap_or_else(|| Error::Stopped("the log is closed".into()))
    }
}

impl Inner {
    /// When the writes that wait should be committed; `None` if there are none.
    fn due(&self, now: Instant, linger: Duration, ack_linger: Duration) -> Option<Instant> {
        if self.work.is_empty() {
            return None;
        }
        if self.is_urgent || self.bytes >= COMMIT_AT_BYTES {
            return Some(now);
        }
        let unattended = self.unattended.map(|since| since + linger);
        let waited = self.waited.map(|since| {
            if self.skips_linger(now) {
                return now;
            }
            // Eight mean gaps without an arrival: nobody else is coming. A tenth of the linger at least, so that the
            // writer wakes no more than ten times to look.
            let quiet = (self.gap * 8).max(ack_linger / 10).max(SHORTEST_QUIET);
            let quiet_at = self.last_arrival.map_or(now, |last| last + quiet);
            (since + ack_linger).min(quiet_at)
        });
        match (waited, unattended) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => Some(a.or(b).unwrap_or(now)),
        }
    }

    fn skips_linger(&self, now: Instant) -> bool {
        self.fruitless >= FRUITLESS && self.probed.is_some_and(|at| now < at + PROBE)
    }

    /// Takes work up to the size of one commit and learns whether lingering paid.
    fn drain(&mut self, now: Instant, ack_linger: Duration) -> VecDeque<Work> {
        if self.waiting > 1 {
            self.fruitless = 0;
        } else if self.waiting == 1 && self.bytes < COMMIT_AT_BYTES && !ack_linger.is_zero() && !self.skips_linger(now)
        {
            self.fruitless = self.fruitless.saturating_add(1);
            self.probed = Some(now);
        }
        let mut bytes = 0;
        let mut fits = 0;
        for work in &self.work {
            if let Work::Write(job) = work {
                if fits > 0 && bytes + job.bytes > COMMIT_BYTES {
                    break;
                }
                bytes += job.bytes;
            }
            fits += 1;
        }
        let rest = self.work.split_off(fits);
        let taken = std::mem::replace(&mut self.work, rest);
        self.bytes -= bytes;
        if self.work.is_empty() {
            (self.waited, self.unattended, self.waiting, self.is_urgent) = (None, None, 0, false);
        } else {
            // More than a commit's worth had gathered: the rest goes next, without another linger.
            self.is_urgent = true;
        }
        taken
    }
}
