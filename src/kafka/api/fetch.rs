//! Fetch: v4–17.
//!
//! Behaviour
//! * Whole batches from the one that holds the offset; the first is returned whole even if it is larger than every limit
//!   (KIP-74), and clients skip what lies before the offset. The broker's own limit, `fetch.max.bytes`, is small: limits
//!   are upper bounds.
//! * Parks until `min_bytes` are there, the time is up, a partition has an error, or the daemon stops. A parked request
//!   holds its decoded form and nothing else; one for which there is no room is answered at once and told to pause.
//! * Readers see up to the high watermark; who reads committed up to the last stable offset, and is told the aborted
//!   transactions among the batches, to skip their records.
//! * Sessions (KIP-227) last as long as their connection: `kafka/fetch_session.rs`. An incremental request is answered
//!   like the whole one that it stands for, less what the client knows.
//! * Records are never null: librdkafka and kafka-python fail on it.
//! * The partition served first rotates, so that a busy one does not starve the others under the limit.
//!
//! Version notes
//! * v7: sessions. v9: leader epochs. v10: zstd; an older reader of a topic whose `compression.type` is zstd gets
//!   UNSUPPORTED_COMPRESSION_TYPE. Zstd batches of other topics go to anyone, as from Kafka: rskafka reads them by v4.
//!   v12: flexible. v13: topics by id.

use std::{sync::atomic::{AtomicUsize, Ordering}, time::Duration};

use futures_util::future::select_all;
use tokio::{sync::watch, time::Instant};

use super::{Close, Context, READ_COMMITTED, check_leader_epoch, error_code, partition_of};
use crate::{
    log::{Aborted, Bounds},
    memory::Share,
    record::Partition,
    wire::{
        ErrorCode,
        fetch::{AbortedTransaction, FetchPartition, FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData},
    },
};

/// Longest a request parks, whatever it asks: an early empty answer is always allowed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Longest wait for room in the memory budget before an empty answer.
const BUDGET_WAIT: Duration = Duration::from_secs(5);
/// What an answer takes at most while memory is tight: readers that are slow to take theirs then hold a little each.
const TIGHT_BYTES: usize = 128 << 10;
/// Pause that a client is told to make instead of waiting here (KIP-219: the client makes it).
const PAUSE_MS: i32 = 1000;
/// What watching one partition takes, about.
const WATCH_BYTES: usize = 2 * size_of::<Wanted>() + 128;

/// What a look at all partitions brought.
#[derive(Default)]
struct Found {
    /// In the order of the request.
    answers: Vec<PartitionData>,
    /// Of records.
    bytes: usize,
    /// There is more, but it does not fit.
    is_cut: bool,
    /// What the records take of the memory budget.
    share: Share,
}

/// Where the next request starts among its partitions.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// One partition that is asked for.
struct Wanted {
    /// Place of its topic in the request.
    topic_at: usize,
    index: i32,
    offset: i64,
    max_bytes: usize,
    found: Result<(Partition, watch::Receiver<Bounds>), ErrorCode>,
}

impl Wanted {
    /// How many offsets can be read, or why none ever.
    fn available(&mut self, gone: ErrorCode, isolation_level: i8) -> Result<u64, ErrorCode> {
        let (_, bounds) = self.found.as_mut().map_err(|code| *code)?;
        if bounds.has_changed().is_err() {
            return Err(gone);
        }
        let Bounds { start, high_watermark, last_stable } = *bounds.borrow_and_update();
        if !(start..=high_watermark).contains(&self.offset) {
            return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        let end = if isolation_level == READ_COMMITTED { last_stable } else { high_watermark };
        Ok(u64::try_from(end - self.offset).unwrap_or(0))
    }
}

pub(super) async fn handle(context: &Context<'_>, mut request: FetchRequest) -> Result<FetchResponse, Close> {
    let session = &context.connection.fetch_session;
    match session.begin(&mut request, context.version, &context.broker.fetch_sessions) {
        Err(error_code) => Ok(FetchResponse { error_code, ..Default::default() }),
        Ok(kind) => {
            let mut response = answer(context, request).await;
            session.end(kind, &mut response);
            Ok(response)
        }
    }
}

async fn answer(context: &Context<'_>, request: FetchRequest) -> FetchResponse {
    let broker = context.broker;
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(LONGEST_WAIT);
    let deadline = Instant::now() + wait;
    let own_limit = usize::try_from(broker.settings.broker_number("fetch.max.bytes")).unwrap_or(0);
    let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0).min(own_limit);
    let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes);
    let gone = match context.version {
        13.. => ErrorCode::UNKNOWN_TOPIC_ID,
        _ => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    };

    let mut wanted = find(context, &request, gone);
    // What a session adds to the request was not decoded.
    let asked_bytes = context.decoded_bytes.load(Ordering::Relaxed).max(wanted.len() * size_of::<FetchPartition>());
    let parked_bytes = asked_bytes + wanted.len() * WATCH_BYTES;
    let mut place = None;
    // Offsets that must be there before it is worth reading.
    let mut needed = 1;
    loop {
        let mut available = 0u64;
        let mut failed = wanted.is_empty();
        for want in &mut wanted {
            match want.available(gone, request.isolation_level) {
                Ok(count) => available = available.saturating_add(count),
                Err(_) => failed = true,
            }
        }
        let expired = failed || min_bytes == 0 || Instant::now() >= deadline || context.connection.stop.is_cancelled();
        if expired || available >= needed {
            let found = read(context, &mut wanted, max_bytes, gone, request.isolation_level).await;
            // An answer that is as full as the limits let it be is enough, whatever the client hoped for.
            let is_enough = found.bytes >= min_bytes || found.is_cut;
            if expired || is_enough || found.answers.iter().any(|a| a.error_code.is_error()) {
                return respond(context, request, &wanted, found);
            }
            // Not enough: by the size of these, so many offsets will be. What was read goes, and its share with it.
            needed = match found.bytes as u64 {
                0 => available + 1,
                bytes => (available.saturating_mul(min_bytes as u64) / bytes).max(available + 1),
            };
            continue;
        }
        if place.is_none() {
            place = broker.memory.park(parked_bytes);
            if place.is_none() {
                let found = read(context, &mut wanted, 0, gone, request.isolation_level).await;
                let answer = respond(context, request, &wanted, found);
                return FetchResponse { throttle_time_ms: PAUSE_MS, ..answer };
            }
            context.shrink_share(0);
        }
        let changes = wanted.iter_mut().filter_map(|want| want.found.as_mut().ok());
        let changes = changes.map(|(_, bounds)| Box::pin(bounds.changed()));
        tokio::select! {
            _ = select_all(changes) => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = context.connection.stop.cancelled() => {}
        }
    }
}

fn find(context: &Context<'_>, request: &FetchRequest, gone: ErrorCode) -> Vec<Wanted> {
    let topics = context.topics();
    let mut wanted = Vec::with_capacity(request.topics.iter().map(|t| t.partitions.len()).sum());
    for (topic_at, asked) in request.topics.iter().enumerate() {
        let topic = if context.version >= 13 { topics.by_id(asked.topic_id) } else { topics.get(&asked.topic) };
        let is_zstd = || topic.is_some_and(|t| context.broker.settings.topic_has(t, "compression.type", "zstd"));
        let is_too_old = context.version < 10 && is_zstd();
        for part in &asked.partitions {
            let found = topic
                .ok_or(gone)
                .and_then(|topic| {
                    partition_of(topic, part.partition).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
                })
                .and_then(|partition| match is_too_old {
                    true => Err(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE),
                    false => Ok(partition),
                })
                .and_then(|partition| match check_leader_epoch(part.current_leader_epoch) {
                    Some(code) => Err(code),
                    None => Ok(partition),
                })
                .and_then(|partition| match context.broker.log.watch(&partition) {
                    Ok(bounds) => Ok((partition, bounds)),
                    Err(error) => Err(error_code(&error)),
                });
            wanted.push(Wanted {
                topic_at,
                index: part.partition,
                offset: part.fetch_offset,
                max_bytes: usize::try_from(part.partition_max_bytes).unwrap_or(0),
                found,
            });
        }
    }
    wanted
}

/// Reads every partition that has something, within the limits.
async fn read(
    context: &Context<'_>,
    wanted: &mut [Wanted],
    max_bytes: usize,
    gone: ErrorCode,
    isolation_level: i8,
) -> Found {
    let broker = context.broker;
    let is_committed = isolation_level == READ_COMMITTED;
    let mut answers = Vec::with_capacity(wanted.len());
    let mut readable = Vec::new();
    for (at, want) in wanted.iter_mut().enumerate() {
        let mut answer = PartitionData {
            partition_index: want.index,
            high_watermark: -1,
            aborted_transactions: is_committed.then(Vec::new),
            ..Default::default()
        };
        match want.available(gone, isolation_level) {
            Ok(available) => {
                if let Ok((_, bounds)) = &want.found {
                    set_bounds(&mut answer, *bounds.borrow());
                }
                if available > 0 {
                    readable.push(at);
                }
            }
            Err(code) => answer.error_code = code,
        }
        answers.push(answer);
    }
    if readable.is_empty() || max_bytes == 0 {
        return Found { answers, ..Found::default() };
    }
    let memory = &broker.memory;
    let max_bytes = if memory.is_tight() { max_bytes.min(TIGHT_BYTES) } else { max_bytes };
    // The first batch is read whole even if it is larger than every limit.
    let first_bytes = readable.iter().filter_map(|at| {
        let (partition, _) = wanted[*at].found.as_ref().ok()?;
        broker.log.least_read_bytes(partition, wanted[*at].offset).ok()
    });
    let needed = first_bytes.max().unwrap_or(0).max(max_bytes);
    let Ok(mut share) = tokio::time::timeout(BUDGET_WAIT, memory.take_for_answer(needed)).await else {
        return Found { answers, ..Found::default() };
    };
    let first = TURN.fetch_add(1, Ordering::Relaxed) % readable.len();
    readable.rotate_left(first);
    let (mut total, mut is_cut) = (0, false);
    for at in readable {
        let (want, answer) = (&wanted[at], &mut answers[at]);
        let Ok((partition, _)) = &want.found else { continue };
        let room = want.max_bytes.min(max_bytes.saturating_sub(total));
        // Nor is read what there is no room for: its turn comes, and to read it for a part costs as much.
        let is_large = || broker.log.least_read_bytes(partition, want.offset).is_ok_and(|bytes| bytes > room);
        if total > 0 && (room == 0 || is_large()) {
            is_cut = true;
            continue;
        }
        let read = match is_committed {
            true => broker.log.read_committed(partition, want.offset, room).await,
            false => broker.log.read(partition, want.offset, room).await,
        };
        match read {
            Ok(slice) if slice.batches.len() > room && total > 0 => is_cut = true,
            Ok(slice) => {
                total += slice.batches.len();
                is_cut |= slice.is_cut;
                set_bounds(answer, slice.bounds);
                if let Some(aborted) = &mut answer.aborted_transactions {
                    let told = |a: &Aborted| AbortedTransaction { producer_id: a.producer_id, first_offset: a.first };
                    aborted.extend(slice.aborted.iter().map(told));
                }
                answer.records = slice.batches;
            }
            Err(error) => answer.error_code = error_code(&error),
        }
    }
    share.shrink_to(total);
    Found { answers, bytes: total, is_cut, share }
}

fn set_bounds(answer: &mut PartitionData, bounds: Bounds) {
    answer.high_watermark = bounds.high_watermark;
    answer.last_stable_offset = bounds.last_stable;
    answer.log_start_offset = bounds.start;
}

fn respond(context: &Context<'_>, request: FetchRequest, wanted: &[Wanted], found: Found) -> FetchResponse {
    let meters = &context.broker.metrics;
    meters.fetched_bytes.add(found.bytes as u64);
    context.hold(found.share);
    let mut responses: Vec<_> = request
        .topics
        .into_iter()
        .map(|asked| FetchableTopicResponse {
            topic: asked.topic,
            topic_id: asked.topic_id,
            partitions: Vec::with_capacity(asked.partitions.len()),
        })
        .collect();
    for (want, answer) in wanted.iter().zip(found.answers) {
        if answer.error_code.is_error() {
            meters.error("Fetch", answer.error_code);
        }
        responses[want.topic_at].partitions.push(answer);
    }
    FetchResponse { responses, ..Default::default() }
}
