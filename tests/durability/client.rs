//! One connection to a broker, blocking, one request at a time unless the caller pipelines.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use brooklet::{
    record::Partition,
    wire::{
        Decoder, ErrorCode, Message, Request, decode_response_header,
        delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic},
        encode_request,
        fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionData},
        init_producer_id::InitProducerIdRequest,
        list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
        offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic},
        produce::{PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData},
    },
};
use bytes::Bytes;

/// No answer takes longer unless something hangs.
const PATIENCE: Duration = Duration::from_secs(30);
const PRODUCE: i16 = 9;
const FETCH: i16 = 12;

pub(crate) struct Client {
    stream: TcpStream,
    sent: i32,
    received: i32,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, sent: 0, received: 0 })
    }

    pub(crate) fn send<R: Request>(&mut self, request: &R, version: i16) -> io::Result<()> {
        self.sent += 1;
        let mut frame = Vec::new();
        for segment in encode_request(request, version, self.sent, Some("durability")) {
            frame.extend_from_slice(&segment);
        }
        self.stream.write_all(&frame)
    }

    pub(crate) fn receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        self.received += 1;
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let mut frame = vec![0; u32::from_be_bytes(size) as usize];
        self.stream.read_exact(&mut frame)?;
        let mut decoder = Decoder::new(frame.into());
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let id = decode_response_header(&mut decoder, R::API.key, version).map_err(|e| wrong(e.to_string()))?;
        if id != self.received {
            return Err(wrong(format!("answer {id} instead of {}", self.received)));
        }
        R::Response::decode(&mut decoder, version).map_err(|e| wrong(e.to_string()))
    }

    pub(crate) fn call<R: Request>(&mut self, request: &R, version: i16) -> io::Result<R::Response> {
        self.send(request, version)?;
        self.receive::<R>(version)
    }

    pub(crate) fn send_batch(&mut self, partition: &Partition, batch: &Bytes) -> io::Result<()> {
        let data = PartitionProduceData { index: partition.index, records: Some(batch.clone()) };
        let topic = TopicProduceData {
            name: partition.topic.to_string(),
            partition_data: vec![data],
            ..TopicProduceData::default()
        };
        let request =
            ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data: vec![topic], ..ProduceRequest::default() };
        self.send(&request, PRODUCE)
    }

    pub(crate) fn receive_batch(&mut self) -> io::Result<PartitionProduceResponse> {
        let mut answer = self.receive::<ProduceRequest>(PRODUCE)?;
        Ok(answer.responses.pop().unwrap().partition_responses.pop().unwrap())
    }

    /// Sends one batch and waits for its base offset.
    pub(crate) fn produce(&mut self, partition: &Partition, batch: &Bytes) -> io::Result<Result<i64, ErrorCode>> {
        self.send_batch(partition, batch)?;
        let answer = self.receive_batch()?;
        Ok(if answer.error_code.is_error() { Err(answer.error_code) } else { Ok(answer.base_offset) })
    }

    /// What lies from each of these offsets on, as much as one answer holds.
    pub(crate) fn fetch(
        &mut self,
        wanted: &[(Partition, i64)],
        max_wait_ms: i32,
    ) -> io::Result<Vec<(Partition, PartitionData)>> {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for (partition, fetch_offset) in wanted {
            let one = FetchPartition {
                partition: partition.index,
                fetch_offset: *fetch_offset,
                partition_max_bytes: 4 << 20,
                ..FetchPartition::default()
            };
            match topics.iter_mut().find(|t| *t.topic == *partition.topic) {
                Some(topic) => topic.partitions.push(one),
                None => topics.push(FetchTopic {
                    topic: partition.topic.to_string(),
                    partitions: vec![one],
                    ..FetchTopic::default()
                }),
            }
        }
        let request =
            FetchRequest { max_wait_ms, min_bytes: 1, max_bytes: 16 << 20, topics, ..FetchRequest::default() };
        let answer = self.call(&request, FETCH)?;
        let mut out = Vec::new();
        for topic in answer.responses {
            for data in topic.partitions {
                out.push((Partition::new(topic.topic.as_str(), data.partition_index), data));
            }
        }
        Ok(out)
    }

    /// Where the log starts.
    pub(crate) fn earliest(&mut self, partition: &Partition) -> io::Result<i64> {
        self.offset(partition, -2)
    }

    /// Where it ends.
    pub(crate) fn latest(&mut self, partition: &Partition) -> io::Result<i64> {
        self.offset(partition, -1)
    }

    fn offset(&mut self, partition: &Partition, timestamp: i64) -> io::Result<i64> {
        let one =
            ListOffsetsPartition { partition_index: partition.index, timestamp, ..ListOffsetsPartition::default() };
        let topic = ListOffsetsTopic { name: partition.topic.to_string(), partitions: vec![one] };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..ListOffsetsRequest::default() };
        Ok(self.call(&request, 5)?.topics[0].partitions[0].offset)
    }

    pub(crate) fn producer_id(&mut self) -> io::Result<Result<(i64, i16), ErrorCode>> {
        let request = InitProducerIdRequest { transaction_timeout_ms: 1000, ..InitProducerIdRequest::default() };
        let answer = self.call(&request, 1)?;
        let code = answer.error_code;
        Ok(if code.is_error() { Err(code) } else { Ok((answer.producer_id, answer.producer_epoch)) })
    }

    pub(crate) fn commit(&mut self, group: &str, partition: &Partition, offset: i64) -> io::Result<ErrorCode> {
        let one = OffsetCommitRequestPartition {
            partition_index: partition.index,
            committed_offset: offset,
            ..OffsetCommitRequestPartition::default()
        };
        let topic = OffsetCommitRequestTopic { name: partition.topic.to_string(), partitions: vec![one] };
        let request =
            OffsetCommitRequest { group_id: group.into(), topics: vec![topic], ..OffsetCommitRequest::default() };
        Ok(self.call(&request, 7)?.topics[0].partitions[0].error_code)
    }

    /// Deletes what lies before `offset`; the start then.
    pub(crate) fn trim(&mut self, partition: &Partition, offset: i64) -> io::Result<Result<i64, ErrorCode>> {
        let one = DeleteRecordsPartition { partition_index: partition.index, offset };
        let topic = DeleteRecordsTopic { name: partition.topic.to_string(), partitions: vec![one] };
        let answer = self.call(&DeleteRecordsRequest { topics: vec![topic], timeout_ms: 30_000 }, 2)?;
        let one = &answer.topics[0].partitions[0];
        Ok(if one.error_code.is_error() { Err(one.error_code) } else { Ok(one.low_watermark) })
    }

    /// -1 where nothing was committed.
    pub(crate) fn committed(&mut self, group: &str, partition: &Partition) -> io::Result<i64> {
        let topic =
            OffsetFetchRequestTopic { name: partition.topic.to_string(), partition_indexes: vec![partition.index] };
        let request =
            OffsetFetchRequest { group_id: group.into(), topics: Some(vec![topic]), ..OffsetFetchRequest::default() };
        Ok(self.call(&request, 5)?.topics[0].partitions[0].committed_offset)
    }
}
