//! The writer thread: takes work from the queue, stages it, commits it in groups, answers.
//!
//! An OS thread, because an LMDB write transaction must not cross threads. It alone changes anything: partitions, state,
//! topics, the file. Nothing is answered before it is durable, but for writes to relaxed topics; a commit that fails leaves RAM as if it had not been
//! tried. After an error that leaves the file's state unknown it stops, and only a restart through recovery goes on.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Append, Appended, Durability, Error, Event, KernelTime, OnFull, ProducerState,
    catalogue::{Catalogue, Numbers},
    clock::{Boot, Time},
    commit::Flush,
    deletion::EventsTopic,
    events::Full,
    gaps::Ledger,
    header::Header,
    journal::Journal,
    layout::{ChunkRef, state_key},
    opening::Found,
    order::Order,
    partition::Part,
    producers::{Producers, key as producer_key},
    queue::{Job, Reply, Taken, Work},
    recovery::{Hole, Recovered},
    replacement::Replacing,
    shared::Shared,
    staging::{Staged, lend},
    store::Store,
    wear::WearMeter,
};

/// The watchdog's pulse, also when idle; the only wake-up then.
const TICK: Duration = Duration::from_secs(1);
/// How often age and size limits are looked at.
const RETENTION_PERIOD: Duration = Duration::from_secs(10);
/// How often forgotten producers and stale pages are looked at.
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(60);
/// Commits up to here are quicker in a file that was grown ahead of them.
const SMALL_COMMIT_BYTES: u64 = 128 << 10;
/// Producer ids made durable at once.
const PRODUCER_BLOCK: i64 = 1_000;

/// What is in the file and becomes durable with its next flush: nobody may know of it before.
#[derive(Default)]
pub(super) struct Unpublished {
    pub(super) is_pending: bool,
    /// Partitions whose bounds move.
    pub(super) parts: Vec<Arc<Part>>,
    answers: Vec<(Job, Result<Vec<Appended>, Error>)>,
}

/// Owner of everything that changes.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) on_full: OnFull,
    pub(super) catalogue: Catalogue,
    pub(super) by_id: HashMap<u32, Arc<Part>>,
    pub(super) producers: Producers,
    pub(super) journal: Journal,
    pub(super) tails: BTreeSet<(u64, u32)>,
    pub(super) garbage: VecDeque<(u32, ChunkRef)>,
    pub(super) next_seal: u64,
    pub(super) live_pages: u64,
    pub(super) staged: Staged,
    pub(super) durability: Durability,
    pub(super) unpublished: Unpublished,
    /// Staged or refused writes of the commit to come.
    pub(super) group: Vec<(Job, Result<Vec<Appended>, Error>)>,
    /// The disk is full and answered writes wait for room.
    is_stuck: bool,
    /// A commit was made since the file was last looked at.
    has_written: bool,
    /// Bytes that the last commit wrote.
    pub(super) last_commit_bytes: u64,
    /// Reused between commits.
    pub(super) buffer: Vec<u8>,
    pub(super) meter: WearMeter,
    /// Chunks deleted since the map's pages were given back.
    pub(super) deleted_chunks: u64,
    /// Producer ids that are durable and not yet given out.
    producer_ids: std::ops::Range<i64>,
    /// Events that are not recorded yet.
    pub(super) events: VecDeque<Event>,
    pub(super) boot: Boot,
    pub(super) time: Time,
    /// The believed time and what the kernel says, as of the last look.
    pub(super) now_ms: Option<i64>,
    pub(super) kernel: KernelTime,
    /// What retention found and did not delete yet.
    pub(super) expired: VecDeque<(u32, ChunkRef)>,
    /// Whose first chunk goes next where room is needed.
    pub(super) order: Order,
    /// What the commit under way puts in the place of other chunks.
    pub(super) replacing: Option<Replacing>,
    /// Partitions whose tails hold a record that must be compacted by now.
    pub(super) overdue: BTreeSet<u32>,
    /// How many of a partition's first chunks the commit under way deletes.
    pub(super) fronts: HashMap<u32, usize>,
    pub(super) ledger: Ledger,
    pub(super) events_topic: EventsTopic,
    /// Holes that the opening found, until they are listed.
    holes: Vec<Hole>,
    /// Writes were refused for want of room, and that is not over yet.
    pub(super) full: Option<Full>,
    retention_at: Instant,
    housekeeping_at: Instant,
}

/// Leaves nobody waiting for an answer, however the thread ends.
struct Last(Arc<Shared>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.queue.close(Error::Stopped("the log's writer thread has ended".into()));
        let why = self.0.queue.why_closed();
        for work in self.0.queue.take(Instant::now()).work {
            refuse(work, &why);
        }
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, on_full: OnFull, durability: Durability, recovered: Recovered) -> Self {
        let next = recovered.catalogue.numbers.producer;
        let now = Instant::now();
        let mut order = Order::new(on_full);
        recovered.by_id.values().for_each(|part| order.note(part, 0));
        let ledger = Ledger::new(recovered.gaps);
        let (boot, kernel) = (Boot::this(), (shared.kernel)());
        let kept = recovered.time.unwrap_or_default();
        let newest = recovered.newest.and_then(|newest| newest.place(&kept, boot.id));
        let time = Time::new(kept, newest, kernel.uptime_ms, recovered.has_dark);
        let writer = Self {
            shared,
            on_full,
            catalogue: recovered.catalogue,
            by_id: recovered.by_id,
            producers: recovered.producers,
            journal: recovered.journal,
            tails: recovered.tails,
            garbage: recovered.garbage,
            next_seal: recovered.next_seal,
            live_pages: recovered.live_pages,
            staged: Staged::default(),
            durability,
            unpublished: Unpublished::default(),
            group: Vec::new(),
            is_stuck: false,
            has_written: false,
            last_commit_bytes: 0,
            buffer: Vec::new(),
            meter: WearMeter::of_this_thread(),
            deleted_chunks: 0,
            producer_ids: next..next,
            events: recovered.events,
            boot,
            time,
            now_ms: None,
            kernel,
            expired: VecDeque::new(),
            order,
            replacing: None,
            overdue: BTreeSet::new(),
            fronts: HashMap::new(),
            ledger,
            events_topic: EventsTopic::default(),
            holes: recovered.holes,
            full: None,
            retention_at: now + RETENTION_PERIOD,
            housekeeping_at: now + HOUSEKEEPING_PERIOD,
        };
        writer.shared.figures.live_pages.store(writer.live_pages, Ordering::Relaxed);
        writer
    }

    /// Works until the queue is closed or the file fails.
    pub(super) fn run(mut self, found: Found, told: std::sync::mpsc::Sender<()>) {
        let _refuses = Last(Arc::clone(&self.shared));
        let holes = std::mem::take(&mut self.holes);
        let outcome = self.tell_damage(holes, found);
        // Nobody waits any more where the opening was cut off.
        let _gone = told.send(());
        if let Err(error) = outcome.and_then(|()| self.work()) {
            tracing::error!("the log stops: {error}");
            self.shared.queue.close(error);
        }
    }

    fn work(&mut self) -> Result<(), Error> {
        let mut tick = Instant::now() + TICK;
        loop {
            // With nothing else to do, what is written is made durable; else the next commit's flush does that too.
            if self.unpublished.is_pending && !self.shared.queue.is_due() {
                self.settle()?;
            }
            let Taken { work, is_due, is_closed } = self.shared.queue.take(tick);
            self.shared.figures.heartbeat.fetch_add(1, Ordering::Relaxed);
            let mut failed = None;
            for work in work {
                // After a failure everything else in hand is refused.
                if let Some(error) = &failed {
                    refuse(work, error);
                    continue;
                }
                let done = match work {
                    Work::Write(job) => {
                        self.enter(job);
                        continue;
                    }
                    Work::Change { change, state, reply } => {
                        self.commit().and_then(|()| self.change(change, state, reply))
                    }
                    Work::ProducerId(reply) => self.commit().and_then(|()| self.producer_id(reply)),
                    Work::Event(event, reply) => self.commit().and_then(|()| self.tell_now(event, reply)),
                    Work::Producers { part, reply } => self.commit().map(|()| {
                        let _gone = reply.send(Ok(self.producer_states(part.as_deref())));
                    }),
                    Work::Quarantine(damaged, reply) => self.commit().and_then(|()| self.quarantine(&damaged, reply)),
                    Work::FindDirty(reply) => self.commit().and_then(|()| self.seal_overdue()).map(|()| {
                        let _gone = reply.send(Ok(self.find_dirty()));
                    }),
                    Work::Replace { part, replacements, done_to, reply } => {
                        self.commit().and_then(|()| self.replace(part, replacements, done_to, reply))
                    }
                    Work::Retain(reply) => self.commit().and_then(|()| self.retain_now(reply)),
                };
                failed = done.err();
            }
            if failed.is_none() && is_due {
                failed = self.commit().err();
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if is_closed {
                self.tell_events()?;
                return self.settle();
            }
            if self.has_written {
                self.has_written = false;
                self.grow_ahead()?;
            }
            let now = Instant::now();
            if now >= tick {
                tick = now + TICK;
                self.tick(now)?;
            }
        }
    }

    /// After those who waited for a commit were answered; who waits for the next may wait a little for this. Only for small
    /// commits: to a large one the file system's journal is little, and zeros before it are as much again.
    fn grow_ahead(&mut self) -> Result<(), Error> {
        if self.last_commit_bytes > SMALL_COMMIT_BYTES {
            return Ok(());
        }
        let bytes = self.shared.with_store(|store| store.grow_ahead(self.shared.quota_bytes))?;
        if bytes > 0 {
            self.count_written(bytes, 0);
        }
        Ok(())
    }

    /// Stages a write for the next commit. A relaxed one is answered now.
    fn enter(&mut self, mut job: Job) {
        let result = if job.is_relaxed && self.is_stuck { Err(Error::Full) } else { self.stage(&job) };
        if result == Err(Error::Full) {
            self.refused_for_room();
        }
        if job.is_relaxed {
            let is_staged = result.is_ok();
            answer(&mut job, result.clone());
            if !is_staged {
                return;
            }
            // Kept for another try where the disk is full, but not the whole request that they came in.
            for (_, batch) in &mut job.batches {
                *batch = Bytes::copy_from_slice(batch);
            }
        }
        lend(&mut job, &result);
        self.group.push((job, result));
    }

    /// Commits the group of writes that were entered; see [`Writer::group_is_written`] for their answers.
    fn commit(&mut self) -> Result<(), Error> {
        if self.group.is_empty() {
            return Ok(());
        }
        let mut full_tries = 0;
        loop {
            match self.flush() {
                Ok(()) => {
                    self.prepare_events()?;
                    break;
                }
                Err(Flush::Full { is_disk }) => {
                    self.unstage();
                    let group = std::mem::take(&mut self.group);
                    full_tries += 1;
                    let has_room = !is_disk && full_tries <= 2 && self.make_room()?;
                    self.group = group;
                    if !has_room {
                        self.refuse_group();
                        return Ok(());
                    }
                    self.stage_group();
                }
                // Nobody is answered over it: who waits is told when the thread ends.
                Err(Flush::Fatal(error)) => {
                    self.unstage();
                    return Err(error);
                }
            }
        }
        // All of it was refused or repeated, so nothing was written.
        self.group_is_written();
        if !self.unpublished.is_pending {
            self.publish();
        }
        Ok(())
    }

    /// The group is in the file. Its answers wait until that is durable, those of repeated batches too: what they repeat
    /// may not be durable yet.
    pub(super) fn group_is_written(&mut self) {
        let has_taken = self.group.iter().any(|(job, result)| !job.batches.is_empty() && result.is_ok());
        for (job, _) in &mut self.group {
            job.batches.clear();
        }
        self.unpublished.answers.append(&mut self.group);
        self.is_stuck = false;
        self.has_written = true;
        if let Some(full) = self.full.as_mut().filter(|_| has_taken) {
            full.has_taken = true;
        }
    }

    /// Stages the group again after it was taken back.
    pub(super) fn stage_group(&mut self) {
        let mut group = std::mem::take(&mut self.group);
        for (job, result) in &mut group {
            *result = self.stage(job);
            lend(job, result);
            if let (None, Err(error)) = (&job.reply, &result) {
                let partition = job.batches.first().map(|(part, _)| part.name.to_string());
                tracing::error!(partition, "relaxed records are lost: {error}");
            }
        }
        group.retain(|(job, result)| job.reply.is_some() || result.is_ok());
        self.group = group;
    }

    /// There is no room: writes that wait are refused. Relaxed ones, which are answered, stay in RAM and are tried again;
    /// meanwhile no others are let in.
    fn refuse_group(&mut self) {
        self.refused_for_room();
        let group = std::mem::take(&mut self.group);
        let (refused, kept): (Vec<_>, Vec<_>) = group.into_iter().partition(|(job, _)| job.reply.is_some());
        self.answer_all(refused.into_iter().map(|(job, _)| (job, Err(Error::Full))).collect());
        self.group = kept;
        self.stage_group();
        self.is_stuck = !self.group.is_empty();
    }

    fn answer_all(&mut self, group: Vec<(Job, Result<Vec<Appended>, Error>)>) {
        self.shared.queue.answering(group.iter().filter(|(job, _)| job.is_counted).count());
        for (mut job, result) in group {
            answer(&mut job, result);
        }
    }

    /// Everything that is in the file is durable: readers and watchers see it, who waits is answered.
    pub(super) fn publish(&mut self) {
        let Unpublished { is_pending: _, parts, answers } = std::mem::take(&mut self.unpublished);
        for part in parts {
            part.lock().publish_written();
        }
        self.shared.overlay.write().unwrap_or_else(PoisonError::into_inner).publish();
        self.answer_all(answers);
    }

    /// Makes durable what is only written.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if self.unpublished.is_pending {
            self.shared.with_store(Store::flush)?;
            self.publish();
        }
        Ok(())
    }

    /// Makes everything staged durable, at any level.
    pub(super) fn flush_and_settle(&mut self) -> Result<(), Flush> {
        self.flush()?;
        self.settle().map_err(Flush::Fatal)
    }

    fn producer_id(&mut self, reply: Reply<i64>) -> Result<(), Error> {
        if self.producer_ids.is_empty() {
            let from = self.catalogue.numbers.producer;
            let numbers = Numbers { producer: from + PRODUCER_BLOCK, ..self.catalogue.numbers };
            self.staged.state.insert(Numbers::key().into(), Some(Bytes::copy_from_slice(&numbers.encode())));
            match self.flush_and_settle() {
                Ok(()) => {
                    self.catalogue.numbers = numbers;
                    self.producer_ids = from..numbers.producer;
                }
                Err(Flush::Full { .. }) => {
                    self.rollback();
                    let _gone = reply.send(Err(Error::Full));
                    return Ok(());
                }
                Err(Flush::Fatal(error)) => {
                    self.rollback();
                    let _gone = reply.send(Err(error.clone()));
                    return Err(error);
                }
            }
        }
        let id = self.producer_ids.next().expect("a block was just taken");
        let _gone = reply.send(Ok(id));
        Ok(())
    }

    fn tell_now(&mut self, event: Event, reply: Reply<()>) -> Result<(), Error> {
        self.keep_event(event);
        let result = self.tell_events();
        let _gone = reply.send(result.clone());
        result
    }

    fn producer_states(&self, part: Option<&Part>) -> Vec<ProducerState> {
        let found = self.producers.states(part.map(|p| p.id), Instant::now()).into_iter();
        let named = found
            .filter_map(|(id, state)| Some(ProducerState { partition: self.by_id.get(&id)?.name.clone(), ..state }));
        named.collect()
    }

    fn retain_now(&mut self, reply: Reply<()>) -> Result<(), Error> {
        let result = self.retain(true);
        let _gone = reply.send(result.clone());
        result
    }

    /// What happens without anybody asking. Writes only if there is something to delete.
    fn tick(&mut self, now: Instant) -> Result<(), Error> {
        let has_backlog = !self.garbage.is_empty() || !self.expired.is_empty();
        if !self.events.is_empty() || self.is_stuck || now >= self.retention_at || has_backlog {
            // What follows commits by itself.
            self.commit()?;
        }
        self.look_at_clock();
        self.tell_events()?;
        if now >= self.retention_at {
            self.retention_at = now + RETENTION_PERIOD;
            self.shared.buffers.release();
            self.retain(false)?;
            self.call_compaction()?;
        } else if has_backlog {
            self.delete_backlog(false)?;
        }
        if now >= self.housekeeping_at {
            self.housekeeping_at = now + HOUSEKEEPING_PERIOD;
            self.forget_producers(now);
            self.forget_aborted();
            if self.deleted_chunks > 0 {
                self.deleted_chunks = 0;
                self.shared.with_store(|store| {
                    store.release_pages();
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Forgets aborted transactions before the log start in RAM now and in the file with the next commit.
    fn forget_aborted(&mut self) {
        for part in self.by_id.values() {
            let mut inner = part.lock();
            let start = inner.bounds.start;
            for aborted in inner.aborted.forget_before(start) {
                self.staged.state.insert(aborted.key(part.id).into(), None);
            }
        }
    }

    /// Forgets producers in RAM now and in the file with the next commit.
    pub(super) fn forget_producers(&mut self, now: Instant) {
        for who in self.producers.expire(now) {
            self.staged.state.insert(state_key("", &producer_key(who)).into(), None);
        }
        self.shared.figures.producer_bytes.store(self.producers.memory_bytes(), Ordering::Relaxed);
    }
}

/// Answers a write, unless it is. A caller that has gone does not want the answer.
fn answer(job: &mut Job, result: Result<Vec<Appended>, Error>) {
    if let Some(reply) = job.reply.take() {
        let _gone = reply.send(result);
    }
}

/// Answers work that will not be done.
fn refuse(work: Work, why: &Error) {
    match work {
        Work::Write(mut job) => answer(&mut job, Err(why.clone())),
        Work::Change { reply, .. } => drop(reply.send(Err(why.clone()))),
        Work::ProducerId(reply) => drop(reply.send(Err(why.clone()))),
        Work::Event(_, reply) | Work::Retain(reply) | Work::Quarantine(_, reply) => drop(reply.send(Err(why.clone()))),
        Work::FindDirty(reply) => drop(reply.send(Err(why.clone()))),
        Work::Replace { reply, .. } => drop(reply.send(Err(why.clone()))),
        Work::Producers { reply, .. } => drop(reply.send(Err(why.clone()))),
    }
}

/// A batch whose producer is answered before it is committed. The end of a transaction never is.
pub(super) fn is_relaxed((part, batch): &(Arc<Part>, Bytes)) -> bool {
    part.is_relaxed() && Header::parse(batch).is_some_and(|header| !header.is_control)
}

/// The batches of a write with their partitions.
pub(super) fn resolve(shared: &Shared, batches: Vec<Append>) -> Result<Vec<(Arc<Part>, Bytes)>, Error> {
    let parts = shared.parts.read().unwrap_or_else(PoisonError::into_inner);
    let find = |append: Append| match parts.get(&append.partition) {
        Some(part) => Ok((Arc::clone(part), append.batch)),
        None => Err(Error::UnknownPartition(append.partition)),
    };
    batches.into_iter().map(find).collect()
}
