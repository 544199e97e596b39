//! The state machine's questions as requests, and the answers as the machine wants them.

use super::super::{
    client::{Connection, Error},
    delivery::{Head, Known, ReadBack},
};
use crate::{
    record::batch,
    wire::{
        ErrorCode,
        describe_producers::{DescribeProducersRequest, TopicRequest},
        fetch::{FetchPartition, FetchRequest, FetchTopic},
        init_producer_id::InitProducerIdRequest,
        list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
        offset_for_leader_epoch::{OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic},
    },
};

/// Bytes of the target's log asked for at once while reading back.
const READ_BYTES: i32 = 512 << 10;

/// The target partition that is asked about.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) topic: String,
    pub(super) topic_id: [u8; 16],
    pub(super) partition: i32,
    pub(super) leader_epoch: i32,
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question {
    ProducerId,
    LeaderEnd,
    HighWatermark,
    LastSequence { producer_id: i64 },
    ReadBack { from: i64 },
}

/// One answer.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    ProducerId(i64),
    LeaderEnd(i64),
    HighWatermark(i64),
    /// And whether the target could be asked at all.
    LastSequence(Option<Known>, bool),
    ReadBack(ReadBack),
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Call(#[from] Error),
    #[error("{what}: {code}")]
    Kafka { what: &'static str, code: ErrorCode },
    #[error("{0}: the answer does not name the partition")]
    Missing(&'static str),
}

/// Asks.
pub(super) async fn ask(connection: &Connection, spot: &Spot, question: Question) -> Result<Reply, Failure> {
    match question {
        Question::ProducerId => producer_id(connection).await,
        Question::LeaderEnd => leader_end(connection, spot).await,
        Question::HighWatermark => high_watermark(connection, spot).await,
        Question::LastSequence { producer_id } => last_sequence(connection, spot, producer_id).await,
        Question::ReadBack { from } => read_back(connection, spot, from).await,
    }
}

fn check(what: &'static str, code: ErrorCode) -> Result<(), Failure> {
    if code.is_error() { Err(Failure::Kafka { what, code }) } else { Ok(()) }
}

async fn producer_id(connection: &Connection) -> Result<Reply, Failure> {
    let request = InitProducerIdRequest { transaction_timeout_ms: 60_000, ..InitProducerIdRequest::default() };
    let response = connection.call(&request).await?;
    check("InitProducerId", response.error_code)?;
    Ok(Reply::ProducerId(response.producer_id))
}

/// Answers only from the leader of that very epoch: a follower says NOT_LEADER, a later leader FENCED_LEADER_EPOCH.
async fn leader_end(connection: &Connection, spot: &Spot) -> Result<Reply, Failure> {
    let what = "OffsetForLeaderEpoch";
    let partition = OffsetForLeaderPartition {
        partition: spot.partition,
        current_leader_epoch: spot.leader_epoch,
        leader_epoch: spot.leader_epoch,
    };
    let topics = vec![OffsetForLeaderTopic { topic: spot.topic.clone(), partitions: vec![partition] }];
    let request = OffsetForLeaderEpochRequest { replica_id: -1, topics };
    let mut response = connection.call(&request).await?;
    let answer = response.topics.pop().and_then(|mut t| t.partitions.pop()).ok_or(Failure::Missing(what))?;
    check(what, answer.error_code)?;
    Ok(Reply::LeaderEnd(answer.end_offset))
}

async fn high_watermark(connection: &Connection, spot: &Spot) -> Result<Reply, Failure> {
    let what = "ListOffsets";
    let partition = ListOffsetsPartition {
        partition_index: spot.partition,
        current_leader_epoch: spot.leader_epoch,
        timestamp: -1,
    };
    let topics = vec![ListOffsetsTopic { name: spot.topic.clone(), partitions: vec![partition] }];
    let request = ListOffsetsRequest { replica_id: -1, isolation_level: 0, topics, timeout_ms: 30_000 };
    let mut response = connection.call(&request).await?;
    let answer = response.topics.pop().and_then(|mut t| t.partitions.pop()).ok_or(Failure::Missing(what))?;
    check(what, answer.error_code)?;
    Ok(Reply::HighWatermark(answer.offset))
}

/// A target that has no DescribeProducers, or does not let us read, leaves the log itself as witness.
async fn last_sequence(connection: &Connection, spot: &Spot, producer_id: i64) -> Result<Reply, Failure> {
    let what = "DescribeProducers";
    if matches!(connection.version::<DescribeProducersRequest>(), Err(Error::Unsupported(_))) {
        return Ok(Reply::LastSequence(None, false));
    }
    let topics = vec![TopicRequest { name: spot.topic.clone(), partition_indexes: vec![spot.partition] }];
    let mut response = connection.call(&DescribeProducersRequest { topics }).await?;
    let answer = response.topics.pop().and_then(|mut t| t.partitions.pop()).ok_or(Failure::Missing(what))?;
    if answer.error_code == ErrorCode::TOPIC_AUTHORIZATION_FAILED {
        return Ok(Reply::LastSequence(None, false));
    }
    check(what, answer.error_code)?;
    let ours = answer.active_producers.iter().find(|p| p.producer_id == producer_id);
    let known = ours.map(|p| Known { epoch: p.producer_epoch, last_sequence: p.last_sequence });
    Ok(Reply::LastSequence(known, true))
}

async fn read_back(connection: &Connection, spot: &Spot, from: i64) -> Result<Reply, Failure> {
    let what = "Fetch";
    let partition = FetchPartition {
        partition: spot.partition,
        current_leader_epoch: spot.leader_epoch,
        fetch_offset: from,
        partition_max_bytes: READ_BYTES,
        ..FetchPartition::default()
    };
    let topic = FetchTopic { topic: spot.topic.clone(), topic_id: spot.topic_id, partitions: vec![partition] };
    let request = FetchRequest {
        max_wait_ms: 100,
        min_bytes: 1,
        max_bytes: READ_BYTES,
        topics: vec![topic],
        ..Default::default()
    };
    let mut response = connection.call(&request).await?;
    check(what, response.error_code)?;
    let answer = response.responses.pop().and_then(|mut t| t.partitions.pop()).ok_or(Failure::Missing(what))?;
    match answer.error_code {
        ErrorCode::OFFSET_OUT_OF_RANGE => return Ok(Reply::ReadBack(ReadBack::Gone)),
        ErrorCode::TOPIC_AUTHORIZATION_FAILED => return Ok(Reply::ReadBack(ReadBack::Denied)),
        code => check(what, code)?,
    }
    let bytes = answer.records;
    let (heads, next) = heads(&bytes, from);
    Ok(Reply::ReadBack(ReadBack::Heads(heads, next, bytes.len() as u64)))
}

/// The headers of the whole batches in a Fetch answer, and the offset after the last. What is cut off comes next time.
fn heads(bytes: &[u8], from: i64) -> (Vec<Head>, i64) {
    let mut heads = Vec::new();
    let mut next = from;
    let mut at = 0;
    while let Ok(header) = batch::Header::parse(&bytes[at..]) {
        let size = header.batch_bytes();
        if at + size > bytes.len() {
            break;
        }
        at += size;
        next = next.max(header.last_offset() + 1);
        let last = (i64::from(header.producer.sequence) + i64::from(header.last_offset_delta)) & 0x7fff_ffff;
        if header.producer.id >= 0 && !header.is_control() {
            heads.push(Head {
                producer_id: header.producer.id,
                epoch: header.producer.epoch,
                last_sequence: i32::try_from(last).expect("31 bits"),
            });
        }
    }
    (heads, next)
}
