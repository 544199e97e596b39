//! The commit log and state on LMDB: the waist that every module meets in.
//!
//! Everything enters by one verb, [`Log::commit`], atomically: batches of any partitions and state changes become
//! durable together or not at all. A partition has an end (appended) and a high watermark (durable); readers see only
//! up to the high watermark. Never decodes a record except to look up a timestamp, never knows of Kafka's APIs,
//! groups or connectors. The only user of LMDB.

mod aborted;
mod admission;
mod archive;
mod buffers;
mod catalogue;
mod change;
mod clock;
mod commit;
mod compaction;
mod config;
mod damage;
mod deletion;
mod directory;
mod dirt;
mod error;
mod events;
mod gaps;
mod header;
mod journal;
mod keys;
mod layout;
mod linger;
mod medium;
mod mend;
mod migration;
mod opening;
mod order;
mod overlay;
mod pages;
mod partition;
mod producers;
mod quarantine;
mod queue;
mod reader;
mod rebuild;
mod recovery;
mod repair;
mod replacement;
mod retention;
mod salvage;
mod shared;
mod staging;
mod store;
mod topic;
mod view;
mod walk;
mod wear;
mod write;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::Instant,
};

use bytes::Bytes;
#[cfg(test)]
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{oneshot, watch};

pub use self::{
    aborted::Aborted,
    archive::{Report, Take, export, restore, verify},
    clock::{KernelTime, kernel_time},
    config::{Clock, Config, Durability, Kernel, OnFull, quota_in_force},
    directory::unsupported as unsupported_file_system,
    dirt::Compaction,
    error::{Error, SequenceError},
    events::{EVENTS_TOPIC, Event, Kind as EventKind},
    gaps::{Gap, Reason as GapReason},
    medium::is_card,
    producers::ProducerState,
    quarantine::Quarantined,
    topic::{Change, Topic, TopicId, Topics},
    view::{Bounds, Slice, Timed, Usage},
    wear::{Wear, WearBudget},
    write::{Append, Appended, StateWrite, Urgency, Write},
};
use self::{
    reader::{Kept, Patience, Unread},
    write::check_size,
};
use crate::record::{Offset, Partition};

/// Kafka's own default, until [`Log::set_retention_defaults`].
const DEFAULT_RETENTION_MS: i64 = 7 * 24 * 3_600_000;

/// The log. Cheap to clone; every clone speaks to the same writer thread. Dropping the last one closes it.
#[derive(Clone)]
pub struct Log(Arc<Handle>);

struct Handle {
    shared: Arc<shared::Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    compactor: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Handle {
    /// Lets the writer commit what waits, waits for it and closes the file.
    fn stop(&self) {
        self.shared.queue.close(Error::Stopped("the log is closed".into()));
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            if writer.join().is_err() {
                tracing::error!("the log's writer thread panicked");
            }
            self.shared.compaction.close();
            let compactor = self.compactor.lock().unwrap_or_else(PoisonError::into_inner).take();
            if compactor.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("the log's compaction thread panicked");
            }
            self.shared.close_store();
        }
    }
}

impl Log {
    /// Opens or makes the log in `config.dir` and starts its writer thread. A damaged file is mended or built anew from
    /// what is whole; [`Log::quarantined`] lists what is missing then.
    ///
    /// # Errors
    /// [`Error::Open`] with a line that says the mend: directory in use, read-only, unsupported file system, format.
    pub fn open(config: Config, _metrics: &crate::metrics::Registry) -> Result<Self, Error> {
        let opening::Opened { store, mut recovered, found, quota_bytes } = opening::open(&config)?;
        let bytes_per_day = config.wear_budget.bytes_per_day(medium::is_card(&config.dir));
        // A killed run may have left its last commit in the page cache only, and readers are about to see it.
        store.flush()?;
        let budget = usize::try_from(config.memory_limit_bytes / 4).unwrap_or(usize::MAX).clamp(1 << 20, 32 << 20);
        let shared = Arc::new(shared::Shared::new(
            store,
            std::mem::take(&mut recovered.parts),
            recovered.catalogue.topics(),
            std::mem::take(&mut recovered.overlay),
            queue::Queue::new(budget, config.linger, config.ack_linger),
            wear::Account::new(recovered.wear.as_deref(), bytes_per_day, config.endurance_bytes, Instant::now()),
            retention::Defaults {
                retention_ms: DEFAULT_RETENTION_MS.into(),
                retention_bytes: (-1).into(),
                compaction: Mutex::default(),
            },
            recovered.incarnation,
            config.clock,
            config.kernel,
            quota_bytes,
        ));
        recovered.gaps = shared.gaps()?;
        recovered.time = shared.state(clock::OWNER, clock::KEY)?.and_then(|kept| serde_json::from_slice(&kept).ok());
        let figures = &shared.figures;
        figures.gap_records.store(recovered.gaps.iter().map(|g| g.records).sum(), Ordering::Relaxed);
        figures.gap_bytes.store(recovered.gaps.iter().map(|g| g.bytes).sum(), Ordering::Relaxed);
        replacement::restore(&shared, &recovered.by_id)?;
        let for_compactor = Arc::clone(&shared);
        let compactor = std::thread::Builder::new()
            .name("log-compaction".into())
            .spawn(move || compaction::run(&for_compactor))
            .map_err(|e| Error::Open(format!("cannot start the log's compaction thread: {e}")))?;
        let for_writer = Arc::clone(&shared);
        let (told, is_told) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || {
                writer::Writer::new(for_writer, config.on_full, config.durability, recovered).run(found, told)
            })
            .map_err(|e| {
                shared.compaction.close();
                Error::Open(format!("cannot start the log's writer thread: {e}"))
            })?;
        // What is missing is listed before anybody asks. A writer that ended answers too, by dropping its end.
        let _told_or_ended = is_told.recv();
        let (writer, compactor) = (Mutex::new(Some(thread)), Mutex::new(Some(compactor)));
        Ok(Self(Arc::new(Handle { shared, writer, compactor })))
    }

    /// Makes everything in `write` durable together, or nothing.
    ///
    /// Answers in the order of `write.batches`, once all of it is on flash. Dropping the future does not take the
    /// write back once it has entered the queue.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`], [`Error::Corrupt`], [`Error::Sequence`], [`Error::TooLarge`], [`Error::Full`] and
    /// [`Error::Stopped`]; nothing of the write was kept.
    pub async fn commit(&self, write: Write) -> Result<Vec<Appended>, Error> {
        self.enter(write).await?.durable().await
    }

    /// The first half of [`Log::commit`]: waits for room and takes the write's place in the order, without waiting for
    /// the disk. Who enters one write after the other may then wait for them together.
    ///
    /// # Errors
    /// What is wrong with the write as it stands, and [`Error::Stopped`].
    pub async fn enter(&self, write: Write) -> Result<Entered, Error> {
        self.enter_all(vec![write]).await.pop().expect("an answer for each write")
    }

    /// The same for all writes of one request, each with an answer of its own. They take their places side by side, and
    /// a commit never waits for company between them.
    pub async fn enter_all(&self, writes: Vec<Write>) -> Vec<Result<Entered, Error>> {
        let shared = &self.0.shared;
        let check = |write: Write| {
            let bytes = check_size(&write.batches, &write.state)?;
            Ok((writer::resolve(shared, write.batches)?, write.state, write.urgency, bytes))
        };
        let checked: Vec<_> = writes.into_iter().map(check).collect();
        let (count, bytes) = checked.iter().flatten().fold((0, 0), |(n, sum), (.., bytes)| (n + 1, sum + bytes));
        let weight = match shared.queue.reserve(bytes, count).await {
            Ok(weight) => weight,
            Err(error) => return checked.into_iter().map(|c| Err(c.err().unwrap_or(error.clone()))).collect(),
        };
        let mut jobs = Vec::with_capacity(count);
        let mut entered = Vec::with_capacity(checked.len());
        for checked in checked {
            entered.push(checked.map(|(batches, state, urgency, bytes)| {
                let (reply, answer) = oneshot::channel();
                let is_relaxed = state.is_empty() && !batches.is_empty() && batches.iter().all(writer::is_relaxed);
                jobs.push(queue::Job {
                    lent: None,
                    batches,
                    state,
                    bytes,
                    urgency,
                    is_relaxed,
                    is_counted: false,
                    reply: Some(reply),
                    _weight: Arc::clone(&weight),
                });
                Entered { log: self.clone(), answer }
            }));
        }
        match shared.queue.push_writes(jobs) {
            Ok(()) => entered,
            Err(error) => entered.into_iter().map(|e| Err(e.err().unwrap_or(error.clone()))).collect(),
        }
    }

    /// Creates, alters, grows, trims or deletes a topic, durably, together with `state`. Answers with the topic after
    /// the change (before it, for `Delete`).
    ///
    /// # Errors
    /// What the change asks for cannot be, [`Error::Full`] or [`Error::Stopped`]; nothing was changed.
    pub async fn change(&self, change: Change, state: Vec<StateWrite>) -> Result<Arc<Topic>, Error> {
        check_size(&[], &state)?;
        let (reply, answer) = oneshot::channel();
        self.ask(queue::Work::Change { change, state, reply }, answer).await
    }

    /// Whole batches from the one holding `from`, at most `max_bytes` unless the first is larger, below the high
    /// watermark; empty at the high watermark.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`], [`Error::OutOfRange`], [`Error::Corrupt`] where the file is damaged, and
    /// [`Error::Stopped`].
    pub async fn read(&self, partition: &Partition, from: Offset, max_bytes: usize) -> Result<Slice, Error> {
        match reader::read(&self.0.shared, partition, from, max_bytes, Patience::Warm) {
            Ok(Some(slice)) => return Ok(slice),
            Ok(None) | Err(Unread::Damaged(_)) => {}
            Err(Unread::Refused(error)) => return Err(error),
        }
        // The disk has to be asked; other tasks of this thread should not wait for it.
        let partition = partition.clone();
        let read = move |shared: &shared::Shared| reader::read(shared, &partition, from, max_bytes, Patience::Cold);
        Ok(self.past_damage(read).await?.expect("a patient read has an answer"))
    }

    /// The same for who reads committed: up to the last stable offset, with the aborted transactions in it. Batches of
    /// those and markers are among the batches ([`Slice::hides`]).
    ///
    /// # Errors
    /// As [`Log::read`].
    pub async fn read_committed(&self, partition: &Partition, from: Offset, max_bytes: usize) -> Result<Slice, Error> {
        let mut slice = self.read(partition, from, max_bytes).await?;
        reader::keep_committed(&self.0.shared, partition, &mut slice)?;
        Ok(slice)
    }

    /// The producers that the log remembers of a partition.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`] and [`Error::Stopped`].
    pub async fn producers(&self, partition: &Partition) -> Result<Vec<ProducerState>, Error> {
        let part = self.0.shared.part(partition)?;
        let (reply, answer) = oneshot::channel();
        self.ask(queue::Work::Producers { part: Some(part), reply }, answer).await
    }

    /// Every open transaction of every partition, durable or about to be.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn open_transactions(&self) -> Result<Vec<ProducerState>, Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(queue::Work::Producers { part: None, reply }, answer).await
    }

    /// Bytes that [`Log::read`] takes at `from` even where it is asked for fewer: those of the chunk, or of the batch in
    /// the tail, that it reads first.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`].
    pub fn least_read_bytes(&self, partition: &Partition, from: Offset) -> Result<usize, Error> {
        Ok(self.0.shared.part(partition)?.lock().least_read_bytes(from))
    }

    /// First record at or after a timestamp. Batches that take more than `unpacked_bytes` unpacked are not looked into.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub async fn offset_at(
        &self,
        partition: &Partition,
        timestamp_ms: i64,
        unpacked_bytes: usize,
    ) -> Result<Option<Timed>, Error> {
        let partition = partition.clone();
        self.past_damage(move |shared| reader::offset_at(shared, &partition, timestamp_ms, unpacked_bytes)).await
    }

    /// The record with the greatest timestamp (the first of them), with the same limit.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub async fn max_timestamp(&self, partition: &Partition, unpacked_bytes: usize) -> Result<Option<Timed>, Error> {
        let partition = partition.clone();
        self.past_damage(move |shared| reader::max_timestamp(shared, &partition, unpacked_bytes)).await
    }

    /// One key of one owner's state, as of the last durable commit.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn state(&self, owner: &'static str, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.0.shared.state(owner, key)
    }

    /// One owner's keys that begin with `prefix`, in order, as of the last durable commit.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn states(&self, owner: &'static str, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.0.shared.states(owner, prefix)
    }

    /// Bounds of a partition, now and on every change. The sender is dropped when the topic is deleted.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`].
    pub fn watch(&self, partition: &Partition) -> Result<watch::Receiver<Bounds>, Error> {
        let part = self.0.shared.part(partition)?;
        let receiver = part.lock().subscribe();
        receiver.ok_or_else(|| Error::UnknownPartition(partition.clone()))
    }

    /// The topics, now and on every change.
    pub fn topics(&self) -> watch::Receiver<Arc<Topics>> {
        self.0.shared.topics.subscribe()
    }

    /// Bytes kept of one partition.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`].
    pub fn partition_bytes(&self, partition: &Partition) -> Result<u64, Error> {
        Ok(self.0.shared.part(partition)?.lock().kept_bytes())
    }

    /// What is missing because the data file was damaged, the oldest first.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn quarantined(&self) -> Result<Vec<Quarantined>, Error> {
        damage::listed(&self.0.shared)
    }

    /// A copy of the log as it is now, without its free pages, in a file that has no name; it is gone once closed. Takes
    /// as much of the disk as the log has live data; commits go on meanwhile.
    ///
    /// # Errors
    /// [`Error::Full`] where the disk has no room for it, and [`Error::Stopped`].
    pub async fn backup(&self) -> Result<std::fs::File, Error> {
        let shared = Arc::clone(&self.0.shared);
        let done = tokio::task::spawn_blocking(move || shared.with_store(store::Store::copy)).await;
        done.unwrap_or_else(|_| Err(Error::Stopped("a backup of the log was cut off".into())))
    }

    /// Figures for status, metrics and the watchdog.
    pub fn usage(&self) -> Usage {
        self.0.shared.usage()
    }

    /// Random, made with the data file: changes when the file does (mirror.md calls it the incarnation).
    pub fn incarnation(&self) -> [u8; 16] {
        self.0.shared.incarnation
    }

    /// A producer id that was never given out before, durable before it is returned.
    ///
    /// # Errors
    /// [`Error::Full`] and [`Error::Stopped`].
    pub async fn next_producer_id(&self) -> Result<i64, Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(queue::Work::ProducerId(reply), answer).await
    }

    /// Replaces age (milliseconds) and size (bytes) for topics that set none; -1 is no limit. Seven days and no limit
    /// until then; nothing is deleted in the first seconds after opening, so that there is time to say so.
    pub fn set_retention_defaults(&self, retention_ms: i64, retention_bytes: i64) {
        let defaults = &self.0.shared.defaults;
        defaults.retention_ms.store(retention_ms, Ordering::Relaxed);
        defaults.retention_bytes.store(retention_bytes, Ordering::Relaxed);
    }

    /// Records an event in [`EVENTS_TOPIC`], which is made if it is not there. Where there is no room now it is kept and
    /// recorded later, unless the daemon ends before.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn tell(&self, event: Event) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(queue::Work::Event(event, reply), answer).await
    }

    /// Deletes what retention allows to delete at once, instead of within ten seconds.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn retain(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(queue::Work::Retain(reply), answer).await
    }

    /// Replaces how topics are compacted that do not say it themselves.
    pub fn set_compaction_defaults(&self, compaction: Compaction) {
        *self.0.shared.defaults.compaction.lock().unwrap_or_else(PoisonError::into_inner) = compaction;
    }

    /// Compacts what is due at once, instead of soon after it is.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn compact(&self) -> Result<(), Error> {
        let shared = Arc::clone(&self.0.shared);
        let done = tokio::task::spawn_blocking(move || compaction::clean_all(&shared)).await;
        done.unwrap_or_else(|_| Err(Error::Stopped("compaction was cut off".into())))
    }

    /// Says that a link of the mirror wants the topics for which `wants` is true, those made later too: their records
    /// count as not mirrored until [`Log::set_mirrored`] says how far they are. Replaces what was said for that link. To
    /// be called before anything is written, because what no link wants is deleted without an entry in the gap ledger.
    pub fn protect(&self, link: &Arc<str>, wants: impl Fn(&str) -> bool + Send + Sync + 'static) {
        self.0.shared.protect(link, Arc::new(wants));
    }

    /// A link is there no more: what it alone wanted may go like everything else.
    pub fn release(&self, link: &Arc<str>) {
        self.0.shared.release(link);
    }

    /// Says that everything before `offset` is durable at the centre of `link`, and that this is known durably here.
    /// Deletion takes it first from now on. A partition that is gone is passed over.
    pub fn set_mirrored(&self, link: &Arc<str>, partition: &Partition, offset: Offset) {
        if let Ok(part) = self.0.shared.part(partition) {
            self.0.shared.set_mirrored(link, &part, offset);
        }
    }

    /// The gap ledger: what was deleted before it was mirrored, by topic, partition and offset.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn gaps(&self) -> Result<Vec<Gap>, Error> {
        self.0.shared.gaps()
    }

    /// Why the writer thread has stopped; `None` while it works. The daemon then ends and starts anew by recovery.
    pub fn stopped(&self) -> Option<Error> {
        self.0.shared.queue.closed()
    }

    /// Commits what waits and stops the writer thread. Later calls answer [`Error::Stopped`].
    pub async fn close(&self) {
        let handle = Arc::clone(&self.0);
        // The last commit may take a while on a slow card; that must not hold up other tasks of this thread.
        if tokio::task::spawn_blocking(move || handle.stop()).await.is_err() {
            tracing::error!("closing the log failed");
        }
    }

    /// Runs a read that may wait for the disk on a thread of its own. What it finds to be damaged is put into quarantine,
    /// and it goes on behind that.
    async fn past_damage<T: Send + 'static>(
        &self,
        read: impl Fn(&shared::Shared) -> Result<T, Unread> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let read = Arc::new(read);
        loop {
            let (shared, read) = (Arc::clone(&self.0.shared), Arc::clone(&read));
            let done = tokio::task::spawn_blocking(move || read(&shared).map_err(|unread| unread.kept(&shared))).await;
            match done.unwrap_or_else(|_| Err(Kept::Refused(Error::Stopped("a read of the log was cut off".into())))) {
                Ok(found) => return Ok(found),
                Err(Kept::Refused(error)) => return Err(error),
                Err(Kept::Damaged(damaged)) => {
                    let (reply, answer) = oneshot::channel();
                    self.ask(queue::Work::Quarantine(damaged, reply), answer).await?;
                }
            }
        }
    }

    async fn ask<T>(&self, work: queue::Work, answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        self.0.shared.queue.push(work)?;
        self.answer(answer).await
    }

    async fn answer<T>(&self, answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        #[cfg(test)]
        let answer = without_a_clock(answer);
        // Without an answer the writer thread has gone.
        answer.await.unwrap_or_else(|_| Err(self.0.shared.queue.why_closed()))
    }
}

/// A write that has its place in the order and is not durable yet. Dropping it does not take it back.
pub struct Entered {
    log: Log,
    answer: oneshot::Receiver<Result<Vec<Appended>, Error>>,
}

impl Entered {
    /// Waits until it is durable.
    ///
    /// # Errors
    /// As [`Log::commit`].
    pub async fn durable(self) -> Result<Vec<Appended>, Error> {
        self.log.answer(self.answer).await
    }
}

/// Waits without ever being idle: a paused clock jumps ahead while every task waits, and would not wait for a thread.
#[cfg(test)]
async fn without_a_clock<T>(mut answer: oneshot::Receiver<T>) -> Result<T, TryRecvError> {
    loop {
        match answer.try_recv() {
            Ok(value) => return Ok(value),
            Err(TryRecvError::Empty) => tokio::task::yield_now().await,
            Err(closed) => return Err(closed),
        }
    }
}

/// LMDB's version, such as `0.9.70`.
pub fn lmdb_version() -> String {
    let version = heed::lmdb_version();
    format!("{}.{}.{}", version.major, version.minor, version.patch)
}
