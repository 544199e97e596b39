//! One stream's task: read, judge, commit, wait.
//!
//! Invariants: one commit is in flight at a time, and what is read next is committed after it. A position is committed
//! with the outputs of everything before it. After an error nothing in memory is used again: the next run begins at
//! the last durable commit.

use std::{future::pending, sync::Arc, time::Duration};

use futures_util::future::select_all;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Host, Shared,
    dead_letter::Cause,
    output::{self, Outputs},
    topology::Verdict,
};
use crate::{
    expr::Scope,
    groups::offsets::{self, Committed},
    log::{self, Bounds, TopicId, Topics, Urgency, Write},
    memory::Share,
    record::{
        BatchError, Offset, Partition, RecordView, Unpacker,
        batch::{self, Header},
    },
};

/// Bytes asked of the log at once.
const READ_BYTES: usize = 128 * 1024;
/// What a batch may take unpacked beside everything else. One that takes more waits for all the memory there is for such
/// work, and has it alone.
const UNPACK_BYTES: usize = 512 * 1024;
/// A read that brings more than this waits for that memory too.
const LARGE_READ_BYTES: usize = 256 * 1024;
/// Output after which a commit is due although more could be read.
const COMMIT_BYTES: usize = 512 * 1024;
/// Records after which the task lets others run.
const YIELD_RECORDS: u32 = 200;
/// Largest value of a mapped record, so that its batch stays below Kafka's default of 1 MiB.
const VALUE_BYTES: usize = 1_000_000;
/// Wait before a position without outputs is committed. Such records had no effect, so reading them again after a crash
/// does no harm, and a filter that drops nearly all must not wear out the card. As Kafka Streams' `commit.interval.ms`.
const POSITION_INTERVAL: Duration = Duration::from_secs(30);
/// Wait before a log that was full is asked again.
const FULL_INTERVAL: Duration = Duration::from_secs(1);

/// One source partition.
struct Source {
    partition: Partition,
    topic_id: TopicId,
    /// The next offset to read.
    position: Offset,
    /// What is committed, or on its way into the next commit.
    committed: Option<Offset>,
    bounds: watch::Receiver<Bounds>,
}

/// Runs until told to stop. An error is for the supervisor, who runs it again.
pub(super) async fn run(host: &Host, shared: &Shared, stop: &CancellationToken) -> Result<(), Error> {
    let mut topics = host.log.topics();
    let mut worker = Worker {
        host,
        shared,
        sources: Vec::new(),
        outputs: Outputs::default(),
        unpacker: Unpacker::new(UNPACK_BYTES),
        dirty_since: None,
    };
    for target in &shared.topology.targets {
        output::ensure(host, target).await?;
    }
    loop {
        let now = Arc::clone(&topics.borrow_and_update());
        worker.resolve(&now)?;
        while worker.gather(stop).await? {
            worker.commit(Urgency::Waited, stop).await?;
        }
        if !worker.outputs.is_empty() || stop.is_cancelled() {
            worker.commit(Urgency::Unattended, stop).await?;
        }
        if stop.is_cancelled() {
            return Ok(());
        }
        if worker.dirty_since.is_none() {
            worker.unpacker.release();
        }
        tokio::select! {
            () = stop.cancelled() => {}
            changed = topics.changed() => {
                if changed.is_err() {
                    return Err(log::Error::Stopped("no more topics".into()).into());
                }
            }
            () = any_changed(&mut worker.sources) => {}
            () = due(worker.dirty_since) => worker.commit(Urgency::Unattended, stop).await?,
        }
    }
}

/// Waits for new records, or for the end of a partition.
async fn any_changed(sources: &mut [Source]) {
    if sources.is_empty() {
        pending::<()>().await;
    }
    let changes = sources.iter_mut().map(|s| Box::pin(async { s.bounds.changed().await.is_err() }));
    let (is_gone, ..) = select_all(changes).await;
    if is_gone {
        // Its topic was deleted; the topics may say so a moment later.
        tokio::task::yield_now().await;
    }
}

async fn due(since: Option<Instant>) {
    match since {
        Some(since) => tokio::time::sleep_until(since + POSITION_INTERVAL).await,
        None => pending().await,
    }
}

struct Worker<'a> {
    host: &'a Host,
    shared: &'a Shared,
    sources: Vec<Source>,
    outputs: Outputs,
    unpacker: Unpacker,
    /// When a position first moved that is not committed yet.
    dirty_since: Option<Instant>,
}

impl Worker<'_> {
    /// Brings the sources in line with the topics there are.
    fn resolve(&mut self, topics: &Topics) -> Result<(), Error> {
        let topology = &self.shared.topology;
        let ids = |partition: &Partition| topics.get(&partition.topic).map(|t| t.id);
        self.sources.retain(|s| ids(&s.partition) == Some(s.topic_id) && s.bounds.has_changed().is_ok());
        for topic in topology.from.iter().filter_map(|name| topics.get(name)) {
            for index in 0..topic.partitions {
                if self.sources.iter().any(|s| s.partition.index == index && s.partition.topic == topic.name) {
                    continue;
                }
                let partition = Partition::new(Arc::clone(&topic.name), index);
                // Deleted since: the next change of the topics says so.
                let Ok(mut bounds) = self.host.log.watch(&partition) else { continue };
                let committed = offsets::committed(&self.host.log, &topology.name, &partition)?.map(|c| c.offset);
                // Any client may commit for any group, and a negative offset is no place to read from.
                let position = committed.map_or_else(|| bounds.borrow_and_update().start, |offset| offset.max(0));
                self.sources.push(Source { partition, topic_id: topic.id, position, committed, bounds });
            }
        }
        self.publish();
        Ok(())
    }

    /// Reads and judges until everything is read (false), or until a commit is due (true).
    async fn gather(&mut self, stop: &CancellationToken) -> Result<bool, Error> {
        let mut index = 0;
        while index < self.sources.len() {
            if stop.is_cancelled() {
                return Ok(false);
            }
            let source = &mut self.sources[index];
            let bounds = *source.bounds.borrow_and_update();
            if source.position < bounds.start {
                let missed = bounds.start - source.position;
                tracing::warn!(
                    stream = %self.shared.topology.name, partition = %source.partition, missed,
                    "records were deleted before the stream read them"
                );
                self.shared.missed.add(missed.unsigned_abs());
                source.position = bounds.start;
            } else if source.position > bounds.high_watermark {
                // A position from before the data was lost, or set by hand: only the end is left to go on from.
                tracing::warn!(
                    stream = %self.shared.topology.name, partition = %source.partition, position = source.position,
                    end = bounds.high_watermark, "the position lies past the end, going on at the end"
                );
                source.position = bounds.high_watermark;
            }
            // What an open transaction holds up may never have been.
            if source.position >= bounds.last_stable {
                self.mark_dirty(index);
                index += 1;
                continue;
            }
            let (partition, position) = (source.partition.clone(), source.position);
            let mut share = None;
            if self.host.log.least_read_bytes(&partition, position).is_ok_and(|bytes| bytes > LARGE_READ_BYTES) {
                share = Some(take_all(self.host).await);
            }
            let slice = match self.host.log.read_committed(&partition, position, READ_BYTES).await {
                Ok(slice) => slice,
                // Trimmed or deleted between the look and the read.
                Err(log::Error::OutOfRange { .. }) => continue,
                Err(log::Error::UnknownPartition(_)) => {
                    self.sources.remove(index);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for item in batch::batches(&slice.batches) {
                let (header, bytes) = item.map_err(|reason| Error::Unreadable {
                    partition: partition.clone(),
                    offset: self.sources[index].position,
                    reason,
                })?;
                if header.last_offset() < self.sources[index].position {
                    continue;
                }
                if slice.hides(&header) {
                    self.sources[index].position = header.last_offset() + 1;
                    continue;
                }
                let full = self.take_batch(index, header, bytes, &mut share).await?;
                if full {
                    if share.is_some() {
                        self.unpacker.release();
                    }
                    return Ok(true);
                }
            }
            self.mark_dirty(index);
            if share.is_some() {
                self.unpacker.release();
            }
            drop(share);
            // A filter that drops all of a stream that never pauses must not put the position off for ever.
            if self.dirty_since.is_some_and(|since| since.elapsed() >= POSITION_INTERVAL) {
                return Ok(true);
            }
            tokio::task::yield_now().await;
        }
        Ok(false)
    }

    /// Judges one batch's records from the position on. True if a commit is due; the position may be within the batch
    /// then.
    async fn take_batch(
        &mut self,
        index: usize,
        header: Header,
        bytes: &[u8],
        share: &mut Option<Share>,
    ) -> Result<bool, Error> {
        let Self { host, shared, sources, outputs, unpacker, .. } = self;
        let source = &mut sources[index];
        let mut unreadable = None;
        let mut since_yield = 0;
        let mut prepared = batch::check(bytes).and_then(|_| unpacker.prepare(bytes));
        if let Err(BatchError::TooLarge { .. }) = prepared {
            unpacker.release();
            if share.is_none() {
                *share = Some(take_all(host).await);
            }
            unpacker.set_limit(host.memory.most_work_bytes().max(UNPACK_BYTES));
            prepared = unpacker.prepare(bytes);
            unpacker.set_limit(UNPACK_BYTES);
        }
        match prepared.and_then(|()| unpacker.prepared(bytes)) {
            Err(reason) => unreadable = Some(reason),
            Ok(records) => {
                for record in records {
                    let record = match record {
                        Ok(record) => record,
                        Err(reason) => {
                            unreadable = Some(reason);
                            break;
                        }
                    };
                    if record.offset < source.position {
                        continue;
                    }
                    take_record(host, shared, outputs, &source.partition, &record).await?;
                    source.position = record.offset + 1;
                    if outputs.bytes() >= COMMIT_BYTES && record.offset < header.last_offset() {
                        return Ok(true);
                    }
                    since_yield += 1;
                    if since_yield >= YIELD_RECORDS {
                        since_yield = 0;
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        if let Some(reason) = unreadable {
            let reason = format!("unreadable batch {}..{}: {reason}", header.base_offset, header.last_offset());
            tracing::warn!(stream = %shared.topology.name, partition = %source.partition, reason, "batch skipped");
            let Partition { topic, index } = &source.partition;
            let cause = Cause { reason: &reason, topic, partition: *index, offset: source.position };
            let kept = if bytes.len() <= VALUE_BYTES { bytes } else { &[] };
            let builder = outputs.builder(host, &shared.topology.dead_letters, None, *index).await?;
            cause.push_batch(builder, kept, header.max_timestamp_ms).map_err(|reason| Error::Unreadable {
                partition: source.partition.clone(),
                offset: source.position,
                reason,
            })?;
            outputs.add_bytes(kept.len());
            shared.dead_letters.increment();
            shared.see(|s| s.last_error = Some(reason));
        }
        source.position = header.last_offset() + 1;
        Ok(outputs.bytes() >= COMMIT_BYTES)
    }

    fn mark_dirty(&mut self, index: usize) {
        let source = &self.sources[index];
        if source.committed != Some(source.position) && (source.committed.is_some() || source.position > 0) {
            self.dirty_since.get_or_insert_with(Instant::now);
        }
        self.publish();
    }

    /// Makes outputs and positions durable together. On return they are.
    ///
    /// A full log is waited for: what was read stays read.
    async fn commit(&mut self, urgency: Urgency, stop: &CancellationToken) -> Result<(), Error> {
        let now_ms = (self.host.clock)();
        let mut state = Vec::new();
        for source in self.sources.iter_mut().filter(|s| s.committed != Some(s.position)) {
            let committed = Committed::at(source.position, now_ms);
            state.push(offsets::write(&self.shared.topology.name, &source.partition, source.topic_id, committed));
            source.committed = Some(source.position);
        }
        self.dirty_since = None;
        let batches = self.outputs.take();
        if batches.is_empty() && state.is_empty() {
            return Ok(());
        }
        let write = Write { batches, state, urgency };
        while let Err(error) = self.host.log.commit(write.clone()).await {
            if error != log::Error::Full || stop.is_cancelled() {
                return Err(error.into());
            }
            self.shared.see(|s| s.last_error = Some(error.to_string()));
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(FULL_INTERVAL) => {}
            }
        }
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        self.shared.see(|seen| {
            seen.positions.clear();
            seen.positions.extend(self.sources.iter().map(|s| (s.partition.clone(), s.position)));
        });
    }
}

/// All the memory for work on large batches.
async fn take_all(host: &Host) -> Share {
    host.memory.take_work(host.memory.most_work_bytes()).await
}

/// Judges one record and writes what becomes of it.
async fn take_record(
    host: &Host,
    shared: &Shared,
    outputs: &mut Outputs,
    source: &Partition,
    record: &RecordView<'_>,
) -> Result<(), Error> {
    let topology = &shared.topology;
    shared.records_in.increment();
    let scope = Scope::of_record(record, &source.topic, source.index, &topology.uses);
    let failed = match topology.judge(&scope, VALUE_BYTES) {
        Ok(Verdict::Dropped) => return Ok(()),
        Ok(Verdict::Passed(target)) => {
            let builder = outputs.builder(host, &topology.targets[target], record.key, source.index).await?;
            builder.push_view(record)
        }
        Ok(Verdict::Mapped(target, value)) => {
            let builder = outputs.builder(host, &topology.targets[target], record.key, source.index).await?;
            builder.push_with_value(record, value.as_deref())
        }
        Err(error) => {
            let reason = error.to_string();
            let cause = Cause { reason: &reason, topic: &source.topic, partition: source.index, offset: record.offset };
            let builder = outputs.builder(host, &topology.dead_letters, record.key, source.index).await?;
            let pushed = cause.push_record(builder, record);
            shared.dead_letters.increment();
            shared.see(|s| s.last_error = Some(reason));
            outputs.add_bytes(record.body_bytes());
            return pushed.map_err(|reason| unreadable(source, record, reason));
        }
    };
    failed.map_err(|reason| unreadable(source, record, reason))?;
    shared.records_out.increment();
    outputs.add_bytes(record.body_bytes());
    Ok(())
}

fn unreadable(source: &Partition, record: &RecordView<'_>, reason: BatchError) -> Error {
    Error::Unreadable { partition: source.clone(), offset: record.offset, reason }
}
