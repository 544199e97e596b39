//! Produce: v3–13, advertised from 0.
//!
//! Behaviour
//! * Exactly one batch of format 2 per partition. Its form and CRC are checked, its records left as they are; only a
//!   topic that compacts has them unpacked, because a record without key could never be compacted.
//! * Partitions are committed as writes of their own at the same time: the fault of one does not fail the others, and
//!   the log's group commit makes one flush of them.
//! * `acks` 1 and -1 are answered when the batch is durable, in a topic with `brooklet.durability` relaxed when it has its
//!   offset in memory; a request to several topics is answered when the last of them is satisfied. 0 is never answered, and an error closes the connection,
//!   which is all the client can see of it.
//! * No topic is made here: clients ask for metadata first.
//! * A batch of a transaction is taken only from the id's owner. It and the end of its transaction enter the log in the
//!   order in which the transaction allowed them, so that a late one can never be part of the next transaction.
//! * A failed batch leaves the sequence of its idempotent producer where it was; one that repeats is answered with the
//!   offset of the first time.
//!
//! Version notes
//! * v0–2 are advertised but end the connection, as with Kafka 4: librdkafka up to 2.10 would otherwise compress nothing.
//! * v7: zstd. v8: messages beside the codes. v10: leaders to retry at, none. v11: a
//!   batch of no open transaction is TRANSACTION_ABORTABLE, INVALID_TXN_STATE before.
//! * v12: the second version of transactions: a batch makes its partition part of its transaction. v13: topics by id.

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::{Close, Context, CutBatches, Maybe, error_code, metadata::is_internal, partition_of, txn_error_code};
use crate::{
    log::{Append, Error as LogError, Topic, Urgency, Write},
    record::{BatchError, Codec, Unpacker, batch},
    txn::{Admission, Error as TxnError, Flow, Identity},
    wire::{
        ErrorCode,
        produce::{
            BatchIndexAndErrorMessage, PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse,
            TopicProduceResponse,
        },
    },
};

/// Most records named in a refusal. A few packed kilobytes can hold millions without key, and each costs memory here.
const NAMED_FAULTS: usize = 100;

/// What a batch for a compacted topic may take unpacked while others are worked on beside it.
const UNPACKED_BYTES: usize = 512 << 10;
/// What a partition takes on its way through the log: the write, its answer, the tail's part.
const PARTITION_BYTES: usize = 600;
/// Partitions that are not worth counting.
const FREE_PARTITIONS: usize = 8;
/// Batches up to this share the log's own room for a commit.
const COMMIT_BYTES: usize = 1 << 20;

/// Why a batch is refused.
struct Refusal {
    code: ErrorCode,
    message: String,
    /// The records at fault, if it is some and not the batch.
    records: Vec<BatchIndexAndErrorMessage>,
}

impl Refusal {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), records: Vec::new() }
    }
}

/// A batch that may be appended, and where its answer goes.
struct Accepted {
    at: (usize, usize),
    append: Append,
    records: u64,
    /// The time stamped on it, if the broker stamps.
    append_time_ms: i64,
    /// Its producer, if it belongs to a transaction.
    transactional: Option<Identity>,
}

pub(super) async fn handle(context: &Context<'_>, request: ProduceRequest) -> Result<Maybe<ProduceResponse>, Close> {
    let acks = request.acks;
    let topics = context.topics();
    let partitions: usize = request.topic_data.iter().map(|topic| topic.partition_data.len()).sum();
    if partitions > FREE_PARTITIONS {
        context.take_work(partitions * PARTITION_BYTES + UNPACKED_BYTES + COMMIT_BYTES).await;
    }
    let mut responses = Vec::with_capacity(request.topic_data.len());
    let mut accepted = Vec::new();
    let mut partitions_seen = 0;
    for (topic_at, asked) in request.topic_data.into_iter().enumerate() {
        let topic = if context.version >= 13 { topics.by_id(asked.topic_id) } else { topics.get(&asked.name) };
        let mut partition_responses = Vec::with_capacity(asked.partition_data.len());
        for (partition_at, data) in asked.partition_data.into_iter().enumerate() {
            let mut answer =
                PartitionProduceResponse { index: data.index, base_offset: -1, ..Default::default() };
            let at = partitions_seen;
            partitions_seen += 1;
            let checked = match &context.cut {
                Some(cut) => Err(refuse_cut(context, cut, at)),
                None => check(context, acks, topic.map(AsRef::as_ref), data).await,
            };
            match checked {
                Ok(mut batch) => {
                    batch.at = (topic_at, partition_at);
                    answer.log_append_time_ms = batch.append_time_ms;
                    accepted.push(batch);
                }
                Err(refusal) => refuse(context, &mut answer, refusal),
            }
            partition_responses.push(answer);
        }
        responses.push(TopicProduceResponse { name: asked.name, topic_id: asked.topic_id, partition_responses });
    }

    // The log copies a large batch once, into the pages of its commit.
    let largest = accepted.iter().map(|batch| batch.append.batch.len()).max().unwrap_or(0);
    if largest > COMMIT_BYTES && !context.has_work_share() {
        context.take_work(largest).await;
    }
    let urgency = if acks == 0 { Urgency::Unattended } else { Urgency::Waited };
    let admission = admit(context, request.transactional_id, &mut accepted, &mut responses).await;
    commit(context, accepted, urgency, &mut responses, admission).await;

    if acks == 0 {
        let failed = responses.iter().flat_map(|t| &t.partition_responses).any(|p| p.error_code.is_error());
        return if failed { Err(Close::Unacknowledged) } else { Ok(Maybe(None)) };
    }
    Ok(Maybe(Some(ProduceResponse { responses, ..Default::default() })))
}

/// Leaves of the batches of transactions those that their transaction allows. What is given back is to be held until
/// they have entered the log.
async fn admit(
    context: &Context<'_>,
    id: Option<String>,
    accepted: &mut Vec<Accepted>,
    responses: &mut [TopicProduceResponse],
) -> Option<Admission> {
    if accepted.iter().all(|batch| batch.transactional.is_none()) {
        return None;
    }
    let mut admission = match id {
        Some(id) => context.broker.txns.admission(&id).await,
        None => Err(TxnError::NotInTransaction),
    };
    let flow = if context.version >= 12 { Flow::Second } else { Flow::First };
    accepted.retain(|Accepted { at, append, transactional, .. }| {
        let Some(who) = transactional else { return true };
        let admitted = match &mut admission {
            Ok(admission) => admission.admit(*who, &append.partition, flow),
            Err(error) => Err(error.clone()),
        };
        let Err(error) = admitted else { return true };
        let code = match error {
            TxnError::NotInTransaction if context.version >= 11 => ErrorCode::TRANSACTION_ABORTABLE,
            _ => txn_error_code(&error, false),
        };
        let answer = &mut responses[at.0].partition_responses[at.1];
        refuse(context, answer, Refusal::new(code, error.to_string()));
        false
    });
    admission.ok()
}

async fn commit(
    context: &Context<'_>,
    accepted: Vec<Accepted>,
    urgency: Urgency,
    responses: &mut [TopicProduceResponse],
    admission: Option<Admission>,
) {
    let meters = &context.broker.metrics;
    let mut asked = Vec::with_capacity(accepted.len());
    let mut writes = Vec::with_capacity(accepted.len());
    for Accepted { at, append, records, .. } in accepted {
        asked.push((at, append.batch.len() as u64, records));
        writes.push(Write { batches: vec![append], urgency, ..Write::default() });
    }
    let entered = context.broker.log.enter_all(writes).await;
    drop(admission);
    // All have their place in the order: they share a flush, and the client's next Produce may join them.
    context.connection.entered.fetch_add(1, Ordering::Relaxed);
    for (((topic_at, partition_at), bytes, records), entered) in asked.into_iter().zip(entered) {
        let result = match entered {
            Ok(entered) => entered.durable().await,
            Err(error) => Err(error),
        };
        let answer = &mut responses[topic_at].partition_responses[partition_at];
        match result.as_ref().map(|appended| appended.first()) {
            Ok(Some(appended)) => {
                answer.base_offset = appended.base_offset;
                answer.log_start_offset = appended.log_start;
                meters.produced_batches.increment();
                meters.produced_records.add(records);
                meters.produced_bytes.add(bytes);
            }
            Ok(None) => {
                refuse(context, answer, Refusal::new(ErrorCode::UNKNOWN_SERVER_ERROR, "the log did not answer"));
            }
            Err(error) => {
                if matches!(error, LogError::Corrupt(_)) {
                    meters.corrupt_batches.increment();
                }
                refuse(context, answer, Refusal::new(error_code(error), error.to_string()));
            }
        }
    }
}

fn refuse(context: &Context<'_>, answer: &mut PartitionProduceResponse, refusal: Refusal) {
    context.broker.metrics.error("Produce", refusal.code);
    answer.error_code = refusal.code;
    answer.error_message = Some(refusal.message);
    answer.record_errors = refusal.records;
    answer.base_offset = -1;
    answer.log_append_time_ms = -1;
}

/// Why a batch of a request is not taken that was too large to be held: it is itself, or it came with too many others.
fn refuse_cut(context: &Context<'_>, cut: &CutBatches, at: usize) -> Refusal {
    let memory = &context.broker.memory;
    let (bytes, most) = (cut.lengths.get(at).copied().unwrap_or(0), memory.most_work_bytes());
    if bytes > most {
        return too_large(bytes, most);
    }
    let (frame_bytes, most) = (cut.frame_bytes, memory.most_frame_bytes());
    // Retriable: a client that puts fewer batches into its next request gets through.
    Refusal::new(
        ErrorCode::NOT_ENOUGH_REPLICAS,
        format!("the request has {frame_bytes} bytes, and kafka.limits.memory_limit leaves room for {most}: send less at once"),
    )
}

fn too_large(bytes: usize, most: usize) -> Refusal {
    let message = format!("the batch has {bytes} bytes, and kafka.limits.memory_limit leaves room for {most}");
    Refusal::new(ErrorCode::MESSAGE_TOO_LARGE, message)
}

/// Everything that can be said of a batch before it is appended.
async fn check(
    context: &Context<'_>,
    acks: i16,
    topic: Option<&Topic>,
    data: PartitionProduceData,
) -> Result<Accepted, Refusal> {
    if !(-1..=1).contains(&acks) {
        return Err(Refusal::new(ErrorCode::INVALID_REQUIRED_ACKS, format!("acks must be -1, 0 or 1, not {acks}")));
    }
    let unknown = match context.version {
        13.. => ErrorCode::UNKNOWN_TOPIC_ID,
        _ => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    };
    let topic = topic.ok_or_else(|| Refusal::new(unknown, "no such topic"))?;
    if is_internal(&topic.name) {
        let message = format!("cannot append to internal topic {}", topic.name);
        return Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message));
    }
    let partition = partition_of(topic, data.index)
        .ok_or_else(|| Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "no such partition"))?;
    let bytes = data.records.unwrap_or_default();
    let header = check_form(context, &bytes)?;

    let settings = &context.broker.settings;
    let most = settings.topic_number(topic, "max.message.bytes");
    if bytes.len() as i64 > most {
        let message = format!("the batch has {} bytes, more than the topic's max.message.bytes {most}", bytes.len());
        return Err(Refusal::new(ErrorCode::MESSAGE_TOO_LARGE, message));
    }
    // A commit would hold it twice.
    let most = context.broker.memory.most_work_bytes().max(COMMIT_BYTES);
    if bytes.len() > most {
        return Err(too_large(bytes.len(), most));
    }
    if settings.topic_has(topic, "cleanup.policy", "compact") {
        check_keys(context, &bytes, header.codec()).await?;
    }
    let mut batch = bytes;
    let mut append_time_ms = -1;
    if settings.topic_has(topic, "message.timestamp.type", "LogAppendTime") {
        append_time_ms = (context.broker.clock)();
        let mut stamped = BytesMut::from(&batch[..]);
        batch::stamp_append_time(&mut stamped, append_time_ms);
        batch = stamped.freeze();
    } else {
        check_times(context, topic, &header)?;
    }
    Ok(Accepted {
        at: (0, 0),
        append: Append { partition, batch },
        records: u64::try_from(header.records_count).unwrap_or(0),
        append_time_ms,
        transactional: header
            .is_transactional()
            .then_some(Identity { id: header.producer.id, epoch: header.producer.epoch }),
    })
}

/// What holds for every topic: form, CRC, and what only a producer's batch must be.
fn check_form(context: &Context<'_>, bytes: &Bytes) -> Result<batch::Header, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::new(ErrorCode::INVALID_RECORD, "no records"));
    }
    let header = batch::check(bytes).map_err(|error| {
        let code = match error {
            BatchError::Magic(_) => ErrorCode::INVALID_RECORD,
            BatchError::Codec(_) => ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
            // A second batch behind the first.
            BatchError::Length { said, got_bytes } if i64::from(said) + 12 < got_bytes as i64 => {
                ErrorCode::INVALID_RECORD
            }
            _ => {
                context.broker.metrics.corrupt_batches.increment();
                ErrorCode::CORRUPT_MESSAGE
            }
        };
        Refusal::new(code, error.to_string())
    })?;
    let invalid = |message| Err(Refusal::new(ErrorCode::INVALID_RECORD, message));
    if header.codec() == Codec::Zstd && context.version < 7 {
        return Err(Refusal::new(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7"));
    }
    if !header.is_dense() {
        return invalid("the number of records does not match their offsets");
    }
    if header.base_offset != 0 {
        return invalid("the base offset of a producer's batch is 0");
    }
    if header.is_control() {
        return invalid("a producer cannot write control batches");
    }
    if header.is_idempotent() && header.producer.sequence < 0 {
        return invalid("a batch with a producer id needs a sequence");
    }
    if header.is_transactional() && !header.is_idempotent() {
        return invalid("a batch of a transaction needs a producer id");
    }
    if header.has_log_append_time() {
        return Err(Refusal::new(ErrorCode::INVALID_TIMESTAMP, "a producer cannot set LogAppendTime"));
    }
    Ok(header)
}

/// A record without key could never be compacted.
///
/// Packed batches are looked into on a thread where nobody waits, within the memory for such work. One that takes more
/// than a little has all of it for itself, unless the request has many partitions: that one has its share already.
async fn check_keys(context: &Context<'_>, bytes: &Bytes, codec: Codec) -> Result<(), Refusal> {
    let memory = &context.broker.memory;
    let (least, most) = (UNPACKED_BYTES.min(memory.most_work_bytes()), memory.most_work_bytes());
    let faults = if codec == Codec::None {
        find_keyless(bytes, least)
    } else if context.has_work_share() {
        find_keyless_apart(bytes, least).await
    } else {
        let share = memory.take_work(least).await;
        match find_keyless_apart(bytes, least).await {
            Err(BatchError::TooLarge { .. }) if most > least => {
                drop(share);
                let _all = memory.take_work(most).await;
                find_keyless_apart(bytes, most).await
            }
            found => found,
        }
    };
    let faults = faults.map_err(|error| match error {
        BatchError::TooLarge { .. } => Refusal::new(ErrorCode::MESSAGE_TOO_LARGE, error.to_string()),
        _ => {
            context.broker.metrics.corrupt_batches.increment();
            Refusal::new(ErrorCode::CORRUPT_MESSAGE, error.to_string())
        }
    })?;
    if faults.is_empty() {
        return Ok(());
    }
    let records = faults.into_iter().map(|at| BatchIndexAndErrorMessage {
        batch_index: i32::try_from(at).unwrap_or(i32::MAX),
        batch_index_error_message: Some("a compacted topic needs a key in every record".into()),
    });
    let message = "one or more records have no key, which a compacted topic needs".into();
    Err(Refusal { code: ErrorCode::INVALID_RECORD, message, records: records.collect() })
}

async fn find_keyless_apart(bytes: &Bytes, unpacked_bytes: usize) -> Result<Vec<usize>, BatchError> {
    let bytes = bytes.clone();
    let found = tokio::task::spawn_blocking(move || find_keyless(&bytes, unpacked_bytes)).await;
    // Cut off by the end of the daemon: nobody hears the answer.
    found.unwrap_or(Err(BatchError::Record("not looked at")))
}

/// The first records without key.
fn find_keyless(bytes: &[u8], unpacked_bytes: usize) -> Result<Vec<usize>, BatchError> {
    let mut unpacker = Unpacker::new(unpacked_bytes);
    let mut faults = Vec::new();
    for (at, record) in unpacker.records(bytes)?.enumerate() {
        if record?.key.is_none() {
            faults.push(at);
            if faults.len() == NAMED_FAULTS {
                break;
            }
        }
    }
    Ok(faults)
}

/// The limits on how far a producer's clock may be off; none by default.
fn check_times(context: &Context<'_>, topic: &Topic, header: &batch::Header) -> Result<(), Refusal> {
    let settings = &context.broker.settings;
    let before_ms = settings.topic_number(topic, "message.timestamp.before.max.ms");
    let after_ms = settings.topic_number(topic, "message.timestamp.after.max.ms");
    if before_ms == i64::MAX && after_ms == i64::MAX {
        return Ok(());
    }
    let now_ms = (context.broker.clock)();
    if header.base_timestamp_ms >= now_ms.saturating_sub(before_ms)
        && header.max_timestamp_ms <= now_ms.saturating_add(after_ms)
    {
        return Ok(());
    }
    let message = format!(
        "timestamps {} to {} are further from the broker's {now_ms} than the topic allows",
        header.base_timestamp_ms, header.max_timestamp_ms
    );
    Err(Refusal::new(ErrorCode::INVALID_TIMESTAMP, message))
}
