//! The bounded way from callers to the writer thread, and the decision when waiting for company ends.
//!
//! Bounded by bytes: every write takes its weight out of a budget before it enters and returns it once answered.
//! The writer sleeps through a linger instead of being woken by each arrival; [`Linger`] says when it ends.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    Appended, Change, Error, Event, ProducerState, StateWrite, Topic, Urgency,
    compaction::{Dirty, Replacement},
    damage::Damaged,
    linger::Linger,
    partition::Part,
};
use crate::record::Offset;

/// A commit of this many bytes waits for nothing.
const COMMIT_AT_BYTES: usize = 256 << 10;
/// Most bytes of one commit, unless a single write has more.
const COMMIT_BYTES: usize = 1 << 20;
/// What a write weighs beside its bytes.
const WRITE_OVERHEAD_BYTES: usize = 512;
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
    /// An event of another module.
    Event(Event, Reply<()>),
    /// Retention at once instead of at its next time.
    Retain(Reply<()>),
    /// The producers of one partition, or everywhere those with open transactions.
    Producers { part: Option<Arc<Part>>, reply: Reply<Vec<ProducerState>> },
    /// What is to be compacted next.
    FindDirty(Reply<Option<Dirty>>),
    /// A step of compaction; `done_to` with the last one of a pass.
    Replace { part: Arc<Part>, replacements: Vec<Replacement>, done_to: Option<Offset>, reply: Reply<bool> },
    /// A damaged chunk to be taken out.
    Quarantine(Damaged, Reply<()>),
}

/// One write with its partitions looked up.
pub(super) struct Job {
    pub(super) batches: Vec<(Arc<Part>, Bytes)>,
    pub(super) state: Vec<StateWrite>,
    pub(super) bytes: usize,
    pub(super) urgency: Urgency,
    /// Answered once it is staged, without waiting for the commit: all it holds is records of topics that allow that.
    pub(super) is_relaxed: bool,
    /// The one write of a request with which the request counts as outstanding; none where nobody waits.
    pub(super) is_counted: bool,
    /// Where in its partition's tail the one batch lies that the write has given up.
    pub(super) lent: Option<std::ops::Range<usize>>,
    /// `None` once answered.
    pub(super) reply: Option<Reply<Vec<Appended>>>,
    /// Returned to the budget when the last write of the request is dropped.
    pub(super) _weight: Arc<OwnedSemaphorePermit>,
}

/// What the writer got.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) work: VecDeque<Work>,
    /// It is time to commit it, and what was taken before; else it is only to be staged.
    pub(super) is_due: bool,
    /// Nothing will come any more.
    pub(super) is_closed: bool,
}

/// The queue.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
    budget: Arc<Semaphore>,
    budget_bytes: usize,
    /// Longest wait of writes nobody waits for.
    linger: Duration,
}

struct Inner {
    work: VecDeque<Work>,
    /// Batch and state bytes that are not committed, and how many of them were taken to be staged.
    bytes: usize,
    staged_bytes: usize,
    /// A relaxed write waits to be staged.
    has_relaxed: bool,
    /// Writes that somebody waits for.
    waited: Linger,
    /// Arrival of the first write that nobody waits for.
    unattended: Option<Instant>,
    is_urgent: bool,
    /// Why nothing can enter any more.
    closed: Option<Error>,
}

impl Queue {
    pub(super) fn new(budget_bytes: usize, linger: Duration, ack_linger: Duration) -> Self {
        let inner = Inner {
            work: VecDeque::new(),
            bytes: 0,
            staged_bytes: 0,
            has_relaxed: false,
            waited: Linger::new(ack_linger, linger.max(ack_linger)),
            unattended: None,
            is_urgent: false,
            closed: None,
        };
        Self {
            inner: Mutex::new(inner),
            wake: Condvar::new(),
            budget: Arc::new(Semaphore::new(budget_bytes)),
            budget_bytes,
            linger: linger.max(ack_linger),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for so many writes of this size together.
    pub(super) async fn reserve(&self, bytes: usize, writes: usize) -> Result<Arc<OwnedSemaphorePermit>, Error> {
        let weight = (bytes + writes * WRITE_OVERHEAD_BYTES).min(self.budget_bytes);
        let weight = u32::try_from(weight).expect("the budget is at most 32 MiB");
        let room = Arc::clone(&self.budget).acquire_many_owned(weight).await;
        room.map(Arc::new).map_err(|_| self.why_closed())
    }

    /// Puts the writes of one request in. They wait for company.
    pub(super) fn push_writes(&self, jobs: Vec<Job>) -> Result<(), Error> {
        let mut inner = self.lock();
        if let Some(why) = &inner.closed {
            return Err(why.clone());
        }
        let now = Instant::now();
        // The writer sleeps until what waits is due: it must hear of what it has not reckoned with.
        let due_before = inner.due(now, self.linger);
        let mut is_waited = false;
        for mut job in jobs {
            inner.bytes += job.bytes;
            if job.is_relaxed || job.urgency == Urgency::Unattended {
                inner.unattended.get_or_insert(now);
                inner.has_relaxed |= job.is_relaxed;
            } else {
                job.is_counted = !is_waited;
                is_waited = true;
            }
            inner.work.push_back(Work::Write(job));
        }
        if is_waited {
            inner.waited.arrived(now);
        }
        let wakes = inner.has_relaxed
            || match (due_before, inner.due(now, self.linger)) {
                (Some(before), Some(due)) => due < before,
                (None, due) => due.is_some(),
                (Some(_), None) => false,
            };
        drop(inner);
        if wakes {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Puts in what is not a write. It waits for nothing.
    pub(super) fn push(&self, work: Work) -> Result<(), Error> {
        let mut inner = self.lock();
        if let Some(why) = &inner.closed {
            return Err(why.clone());
        }
        inner.is_urgent = true;
        inner.work.push_back(work);
        drop(inner);
        self.wake.notify_one();
        Ok(())
    }

    /// So many requests are about to be answered; see [`Linger::answering`].
    pub(super) fn answering(&self, count: usize) {
        self.lock().waited.answering(count);
    }

    /// Until then the card is spared; see [`Linger::spare_until`].
    pub(super) fn spare_until(&self, until: Option<Instant>) {
        self.lock().waited.spare_until(until);
    }

    /// Something waits that should be committed at once.
    pub(super) fn is_due(&self) -> bool {
        let now = Instant::now();
        self.lock().due(now, self.linger).is_some_and(|due| due <= now)
    }

    /// Sleeps until there is something to commit, until `tick`, or until the queue is closed.
    pub(super) fn take(&self, tick: Instant) -> Taken {
        let mut inner = self.lock();
        loop {
            let now = Instant::now();
            if inner.closed.is_some() {
                return Taken { work: std::mem::take(&mut inner.work), is_due: true, is_closed: true };
            }
            let due = inner.due(now, self.linger);
            if due.is_some_and(|due| due <= now) {
                return Taken { work: inner.drain(), is_due: true, is_closed: false };
            }
            if inner.has_relaxed {
                // With what came before it, so that the order stays.
                inner.has_relaxed = false;
                inner.staged_bytes = inner.bytes;
                return Taken { work: std::mem::take(&mut inner.work), is_due: false, is_closed: false };
            }
            let until = due.map_or(tick, |due| due.min(tick));
            if until <= now {
                return Taken::default();
            }
            inner = self.wake.wait_timeout(inner, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Something waits for the writer.
    pub(super) fn has_work(&self) -> bool {
        !self.lock().work.is_empty()
    }

    /// Lets nothing in any more; what waits for room is told why.
    pub(super) fn close(&self, why: Error) {
        self.lock().closed.get_or_insert(why);
        self.budget.close();
        self.wake.notify_one();
    }

    /// Why nothing is taken any more; `None` while it is.
    pub(super) fn closed(&self) -> Option<Error> {
        self.lock().closed.clone()
    }

    /// The same for a refusal.
    pub(super) fn why_closed(&self) -> Error {
        self.lock().closed.clone().unwrap_or_else(|| Error::Stopped("the log is closed".into()))
    }
}

impl Inner {
    /// When the writes that wait should be committed; `None` if there are none.
    fn due(&self, now: Instant, linger: Duration) -> Option<Instant> {
        if self.work.is_empty() && self.staged_bytes == 0 {
            return None;
        }
        if self.is_urgent || self.bytes >= COMMIT_AT_BYTES {
            return Some(now);
        }
        let unattended = self.unattended.map(|since| since + linger);
        match (self.waited.due(), unattended) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => Some(a.or(b).unwrap_or(now)),
        }
    }

    /// Takes work up to the size of one commit.
    fn drain(&mut self) -> VecDeque<Work> {
        self.waited.taken();
        self.has_relaxed = false;
        let mut bytes = std::mem::take(&mut self.staged_bytes);
        let mut fits = 0;
        for work in &self.work {
            if let Work::Write(job) = work {
                if bytes > 0 && bytes + job.bytes > COMMIT_BYTES {
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
            (self.unattended, self.is_urgent) = (None, false);
        } else {
            // More than a commit's worth had gathered: the rest goes next, without another linger.
            self.is_urgent = true;
        }
        taken
    }
}
