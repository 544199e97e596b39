//! Produce, fetch and what stands between them, over a socket.

use std::time::{Duration, Instant};

use brooklet::{
    record::{self, Codec, Producer},
    wire::{
        ErrorCode,
        api_versions::ApiVersionsRequest,
        fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData},
        init_producer_id::InitProducerIdRequest,
        list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
        metadata::{MetadataRequest, MetadataRequestTopic},
        produce::{PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData},
    },
};
use bytes::{Bytes, BytesMut};

use crate::support::{Broker, Client, PATIENCE, batch, batch_of};

pub(crate) fn produce_request(topic: &str, partition: i32, batch: Bytes, acks: i16) -> ProduceRequest {
    ProduceRequest {
        acks,
        timeout_ms: 1000,
        topic_data: vec![TopicProduceData {
            name: topic.into(),
            partition_data: vec![PartitionProduceData { index: partition, records: Some(batch) }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

async fn produce(client: &mut Client, topic: &str, partition: i32, batch: Bytes) -> PartitionProduceResponse {
    let response = client.call(&produce_request(topic, partition, batch, -1), 9).await;
    response.responses[0].partition_responses[0].clone()
}

pub(crate) fn fetch_request(topic: &str, partition: i32, offset: i64) -> FetchRequest {
    FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        topics: vec![FetchTopic {
            topic: topic.into(),
            partitions: vec![FetchPartition {
                partition,
                fetch_offset: offset,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(crate) fn only(response: FetchResponse) -> PartitionData {
    assert_eq!(response.error_code, ErrorCode::NONE);
    response.responses.into_iter().next().unwrap().partitions.into_iter().next().unwrap()
}

async fn fetch(client: &mut Client, topic: &str, partition: i32, offset: i64) -> PartitionData {
    only(client.call(&fetch_request(topic, partition, offset), 12).await)
}

/// The base offset of every batch in an answer.
fn bases(data: &PartitionData) -> Vec<i64> {
    record::batch::batches(&data.records).map(|b| b.unwrap().0.base_offset).collect()
}

#[tokio::test]
async fn api_versions_come_in_every_form() {
    let broker = Broker::start().await;
    let mut client = broker.connect().await;
    let request = ApiVersionsRequest { client_software_name: "it".into(), client_software_version: "1.0".into() };
    for version in 0..=4 {
        let response = client.call(&request, version).await;
        assert_eq!(response.error_code, ErrorCode::NONE);
        let produce = response.api_keys.iter().find(|a| a.api_key == 0).unwrap();
        assert_eq!((produce.min_version, produce.max_version), (0, 13), "old librdkafka compresses only from 0");
        let finalized: Vec<_> = response.finalized_features.iter().map(|f| (&*f.name, f.max_version_level)).collect();
        assert_eq!(finalized, [("group.version", 1), ("transaction.version", 2)][if version < 3 { 2 } else { 0 }..]);
        // Clients of before version 4 fail on a feature whose least version is 0.
        assert_eq!(response.supported_features.len(), if version >= 4 { 2 } else { 0 });
    }
    // From the future: version 0 of the answer, code 35, and the list. The connection stays.
    client.send_frame(&[0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff, 1, 1, 0]).await;
    let frame = client.frame().await.unwrap();
    assert_eq!(frame[..6], [0, 0, 0, 7, 0, 35]);
    assert!(u32::from_be_bytes(frame[6..10].try_into().unwrap()) > 5);
    let bad = ApiVersionsRequest { client_software_name: "a b".into(), client_software_version: "1".into() };
    assert_eq!(client.call(&bad, 3).await.error_code, ErrorCode::INVALID_REQUEST);
}

#[tokio::test]
async fn metadata_makes_topics_only_when_allowed() {
    let broker = Broker::with(|c| {
        c.broker.insert("num.partitions".into(), brooklet::kafka::Value::Number(3));
    })
    .await;
    let mut client = broker.connect().await;
    let named = |name: &str, allow_auto_topic_creation| MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { name: Some(name.into()), ..Default::default() }]),
        allow_auto_topic_creation,
        ..Default::default()
    };
    let code = |r: &brooklet::wire::metadata::MetadataResponse| r.topics[0].error_code;
    let response = client.call(&named("a", false), 9).await;
    assert_eq!(code(&response), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let response = client.call(&named("a", true), 12).await;
    assert_eq!((code(&response), response.topics[0].partitions.len()), (ErrorCode::NONE, 3));
    assert_eq!((response.brokers.len(), response.brokers[0].node_id, response.controller_id), (1, 1, 1));
    assert_eq!(response.brokers[0].port, i32::from(broker.address().port()));
    assert_eq!(response.cluster_id.as_deref(), Some(broker.kafka.cluster_id()));
    let id = response.topics[0].topic_id;
    assert_ne!(id, [0; 16]);

    for bad in ["", ".", "..", "a b", &"x".repeat(250)] {
        let response = client.call(&named(bad, true), 9).await;
        assert_eq!(code(&response), ErrorCode::INVALID_TOPIC_EXCEPTION, "{bad}");
    }
    let by_id = |topic_id| MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { topic_id, name: None }]),
        ..Default::default()
    };
    let response = client.call(&by_id(id), 12).await;
    assert_eq!(response.topics[0].name.as_deref(), Some("a"));
    assert_eq!(code(&client.call(&by_id([9; 16]), 12).await), ErrorCode::UNKNOWN_TOPIC_ID);

    // Version 0 means all by an empty list, later ones none.
    let none = MetadataRequest { topics: Some(vec![]), ..Default::default() };
    assert_eq!(client.call(&none, 0).await.topics.len(), 1);
    assert_eq!(client.call(&none, 1).await.topics.len(), 0);
    assert_eq!(client.call(&MetadataRequest::default(), 1).await.topics.len(), 1);

    // What librdkafka's list_topics() sends: a 4-byte count in a flexible version, so three bytes too many.
    client.send_frame(&[0, 3, 0, 9, 0, 0, 0, 77, 0, 1, b'x', 0, 0, 0, 0, 0, 1, 0, 0]).await;
    assert_eq!(client.frame().await.unwrap()[..4], [0, 0, 0, 77]);
}

#[tokio::test]
async fn what_was_produced_is_fetched_in_every_version() {
    let broker = Broker::start().await;
    let topic = broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    let first = produce(&mut client, "t", 1, batch(&["a", "b"])).await;
    assert_eq!((first.error_code, first.base_offset, first.log_append_time_ms), (ErrorCode::NONE, 0, -1));
    for version in 3..=11 {
        let response = client.call(&produce_request("t", 1, batch(&["x"]), -1), version).await;
        let answer = &response.responses[0].partition_responses[0];
        assert_eq!((answer.error_code, answer.base_offset), (ErrorCode::NONE, i64::from(version) - 1));
    }
    for version in 4..=17 {
        let mut request = fetch_request("t", 1, 1);
        request.topics[0].topic_id = topic.id;
        request.isolation_level = i8::from(version % 2 == 0);
        let data = only(client.call(&request, version).await);
        assert_eq!(data.error_code, ErrorCode::NONE, "version {version}");
        assert_eq!(bases(&data), [0, 2, 3, 4, 5, 6, 7, 8, 9, 10], "the batch that holds offset 1 is whole");
        assert_eq!((data.high_watermark, data.last_stable_offset), (11, 11));
        assert_eq!(data.aborted_transactions.is_some(), version % 2 == 0);
    }
    let other = fetch(&mut client, "t", 0, 0).await;
    assert_eq!((other.error_code, other.high_watermark, other.records.len()), (ErrorCode::NONE, 0, 0));
}

#[tokio::test]
async fn a_fetch_waits_for_records_and_no_longer_than_asked() {
    let broker = Broker::start().await;
    broker.topic("t", 2, &[]).await;
    let (mut reader, mut writer) = (broker.connect().await, broker.connect().await);

    let mut request = fetch_request("t", 0, 0);
    request.max_wait_ms = 100;
    let started = Instant::now();
    assert_eq!(only(reader.call(&request, 12).await).records.len(), 0);
    assert!(started.elapsed() >= Duration::from_millis(100), "it waited");

    request.max_wait_ms = 60_000;
    reader.send(&request, 12).await;
    // Another partition's records are none of its business.
    produce(&mut writer, "t", 1, batch(&["other"])).await;
    produce(&mut writer, "t", 0, batch(&["wake"])).await;
    let started = Instant::now();
    assert_eq!(bases(&only(reader.receive::<FetchRequest>(12).await)), [0]);
    assert!(started.elapsed() < PATIENCE / 2);

    // With min_bytes, one batch is not enough, the second is.
    let one = batch(&["wake"]).len();
    let mut request = fetch_request("t", 0, 1);
    (request.max_wait_ms, request.min_bytes) = (60_000, i32::try_from(one + 1).unwrap());
    reader.send(&request, 12).await;
    produce(&mut writer, "t", 0, batch(&["more"])).await;
    produce(&mut writer, "t", 0, batch(&["enough"])).await;
    assert_eq!(bases(&only(reader.receive::<FetchRequest>(12).await)), [1, 2]);
}

#[tokio::test]
async fn a_full_answer_is_not_held_back_for_more() {
    let broker = Broker::start().await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    for value in ["a", "b", "c"] {
        produce(&mut client, "t", 0, batch(&[&value.repeat(40_000)])).await;
        produce(&mut client, "t", 1, batch(&[value])).await;
    }
    // Two of the three batches of 40 kB fit; that is less than hoped for and all that there will ever be.
    let mut request = fetch_request("t", 0, 0);
    (request.max_wait_ms, request.min_bytes) = (60_000, 100_000);
    request.topics[0].partitions[0].partition_max_bytes = 100_000;
    let started = Instant::now();
    assert_eq!(bases(&only(client.call(&request, 12).await)), [0, 1]);
    // The same where it is the limit of the whole answer that a second partition would exceed.
    (request.max_bytes, request.topics[0].partitions[0].partition_max_bytes) = (50_000, 1 << 20);
    let other = FetchPartition { partition: 1, fetch_offset: 3, ..request.topics[0].partitions[0].clone() };
    request.topics[0].partitions.push(other);
    assert_eq!(bases(&only(client.call(&request, 12).await)), [0]);
    assert!(started.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn a_parked_fetch_ends_when_its_topic_does_and_when_the_broker_does() {
    let broker = Broker::start().await;
    broker.topic("gone", 1, &[]).await;
    broker.topic("stays", 1, &[]).await;
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    for (client, topic) in [(&mut one, "gone"), (&mut two, "stays")] {
        let mut request = fetch_request(topic, 0, 0);
        request.max_wait_ms = 60_000;
        client.send(&request, 12).await;
    }
    broker.log.change(brooklet::log::Change::Delete { name: "gone".into() }, vec![]).await.unwrap();
    let data = only(one.receive::<FetchRequest>(12).await);
    assert_eq!(data.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert!(broker.supervisor.drain(PATIENCE).await, "connections end with the broker");
}

#[tokio::test]
async fn a_session_asks_once_and_is_told_what_changes() {
    let broker = Broker::start().await;
    broker.topic("t", 3, &[]).await;
    let mut client = broker.connect().await;
    let mut request = fetch_request("t", 0, 0);
    let first = request.topics[0].partitions[0].clone();
    request.topics[0].partitions.push(FetchPartition { partition: 1, ..first.clone() });
    request.session_epoch = 0;
    let answer = client.call(&request, 12).await;
    let id = answer.session_id;
    assert_eq!((id > 0, answer.responses[0].partitions.len()), (true, 2));

    // What nobody names any more is read all the same, and nothing is said where nothing happened.
    let next = |session_epoch, max_wait_ms| FetchRequest {
        session_id: id,
        session_epoch,
        max_wait_ms,
        topics: vec![],
        ..fetch_request("t", 0, 0)
    };
    assert_eq!(client.call(&next(1, 0), 12).await, FetchResponse { session_id: id, ..Default::default() });
    client.send(&next(2, 60_000), 12).await;
    produce(&mut broker.connect().await, "t", 1, batch(&["x"])).await;
    let answer = client.receive::<FetchRequest>(12).await;
    let told = &answer.responses[0].partitions;
    assert_eq!((answer.session_id, told.len(), told[0].partition_index, bases(&told[0])), (id, 1, 1, vec![0]));

    let lost = client.call(&next(2, 0), 12).await;
    assert_eq!((lost.error_code, lost.session_id), (ErrorCode::INVALID_FETCH_SESSION_EPOCH, 0));
    let elsewhere = broker.connect().await.call(&next(3, 0), 12).await;
    assert_eq!(elsewhere.error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND, "it is the connection's own");
}

#[tokio::test]
async fn fetch_limits_are_kept_but_for_the_first_batch() {
    let broker = Broker::start().await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    let big = "x".repeat(3000);
    for partition in [0, 1] {
        for _ in 0..3 {
            produce(&mut client, "t", partition, batch(&[&big])).await;
        }
    }
    let mut request = fetch_request("t", 0, 0);
    request.topics[0].partitions[0].partition_max_bytes = 10;
    assert_eq!(bases(&only(client.call(&request, 12).await)), [0], "one batch, although it is larger");
    request.max_bytes = 7000;
    request.topics[0].partitions[0].partition_max_bytes = 1 << 20;
    assert_eq!(bases(&only(client.call(&request, 12).await)), [0, 1]);

    // Two partitions and room for one batch: they take turns.
    request.max_bytes = 10;
    let mut second = request.topics[0].partitions[0].clone();
    second.partition = 1;
    request.topics[0].partitions.push(second);
    let mut served = [0, 0];
    for _ in 0..20 {
        let response = client.call(&request, 12).await;
        let counts: Vec<_> = response.responses[0].partitions.iter().map(|p| bases(p).len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 1);
        served[usize::from(counts[1] == 1)] += 1;
    }
    assert!(served.iter().all(|n| *n > 3), "{served:?}");
}

#[tokio::test]
async fn offsets_and_partitions_that_are_not_there_get_their_codes() {
    let broker = Broker::start().await;
    let topic = broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    produce(&mut client, "t", 0, batch(&["a", "b"])).await;
    for (partition, offset, code) in [
        (0, 2, ErrorCode::NONE),
        (0, 3, ErrorCode::OFFSET_OUT_OF_RANGE),
        (0, -1, ErrorCode::OFFSET_OUT_OF_RANGE),
        (7, 0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let mut request = fetch_request("t", partition, offset);
        request.max_wait_ms = if code.is_error() { 60_000 } else { 0 };
        assert_eq!(only(client.call(&request, 12).await).error_code, code, "errors do not wait");
    }
    let mut request = fetch_request("t", 0, 0);
    request.topics[0].topic_id = [7; 16];
    assert_eq!(only(client.call(&request, 13).await).error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    request.topics[0].topic_id = topic.id;
    request.topics[0].partitions[0].current_leader_epoch = 5;
    assert_eq!(only(client.call(&request, 13).await).error_code, ErrorCode::UNKNOWN_LEADER_EPOCH);
    (request.session_id, request.session_epoch) = (5, 1);
    assert_eq!(client.call(&request, 13).await.error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);

    broker
        .log
        .change(brooklet::log::Change::TrimBefore { partition: record::Partition::new("t", 0), offset: -1 }, vec![])
        .await
        .unwrap();
    assert_eq!(fetch(&mut client, "t", 0, 0).await.error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    let empty = fetch(&mut client, "t", 0, 2).await;
    assert_eq!((empty.error_code, empty.log_start_offset, empty.high_watermark), (ErrorCode::NONE, 2, 2));
}

#[tokio::test]
async fn bad_batches_are_refused_by_name_and_leave_nothing() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[("max.message.bytes", "500")]).await;
    let mut client = broker.connect().await;
    let good = batch(&["good"]);
    let changed = |at: usize, byte: u8, sign: bool| {
        let mut bytes = BytesMut::from(&good[..]);
        bytes[at] ^= byte;
        if sign {
            let crc = crc32c::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        bytes.freeze()
    };
    let two = [&good[..], &good[..]].concat().into();
    for (what, bytes, code) in [
        ("flipped bit", changed(70, 1, false), ErrorCode::CORRUPT_MESSAGE),
        ("cut", good.slice(..good.len() - 1), ErrorCode::CORRUPT_MESSAGE),
        ("no header", good.slice(..20), ErrorCode::CORRUPT_MESSAGE),
        ("nothing", Bytes::new(), ErrorCode::INVALID_RECORD),
        ("two batches", two, ErrorCode::INVALID_RECORD),
        ("format 1", changed(16, 3, false), ErrorCode::INVALID_RECORD),
        ("base offset", changed(7, 1, false), ErrorCode::INVALID_RECORD),
        ("count", changed(60, 3, true), ErrorCode::INVALID_RECORD),
        ("control", changed(22, 0x20, true), ErrorCode::INVALID_RECORD),
        ("transactional without a producer", changed(22, 0x10, true), ErrorCode::INVALID_RECORD),
        ("append time", changed(22, 0x08, true), ErrorCode::INVALID_TIMESTAMP),
        ("codec 7", changed(22, 0x07, true), ErrorCode::UNSUPPORTED_COMPRESSION_TYPE),
        ("too large", batch(&[&"x".repeat(600)]), ErrorCode::MESSAGE_TOO_LARGE),
    ] {
        let answer = produce(&mut client, "t", 0, bytes).await;
        assert_eq!((answer.error_code, answer.base_offset), (code, -1), "{what}");
        assert!(answer.error_message.is_some(), "{what}");
    }
    assert_eq!(broker.metric("brooklet_kafka_corrupt_batches_total"), 3);
    assert_eq!(produce(&mut client, "t", 0, good).await.base_offset, 0);
    let unknown = produce(&mut client, "other", 0, batch(&["x"])).await;
    assert_eq!(unknown.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "Produce makes no topics");
    let response = client.call(&produce_request("t", 0, batch(&["x"]), 2), 9).await;
    let answer = &response.responses[0].partition_responses[0];
    assert_eq!(answer.error_code, ErrorCode::INVALID_REQUIRED_ACKS);
}

#[tokio::test]
async fn a_compacted_topic_wants_keys() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[("cleanup.policy", "compact")]).await;
    let mut client = broker.connect().await;
    let long = "v".repeat(200);
    for codec in Codec::ALL {
        let records = [(Some("k"), long.as_str()), (None, long.as_str()), (Some("l"), long.as_str())];
        let answer = produce(&mut client, "t", 0, batch_of(records, Producer::NONE, codec)).await;
        assert_eq!(answer.error_code, ErrorCode::INVALID_RECORD, "{codec}");
        let faults: Vec<_> = answer.record_errors.iter().map(|e| e.batch_index).collect();
        assert_eq!(faults, [1]);
        let keyed = [(Some("k"), long.as_str()), (Some("l"), long.as_str())];
        let answer = produce(&mut client, "t", 0, batch_of(keyed, Producer::NONE, codec)).await;
        assert_eq!(answer.error_code, ErrorCode::NONE, "{codec}");
    }
}

#[tokio::test]
async fn a_compacted_topic_keeps_the_last_of_each_key_at_its_offset() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.1")]).await;
    let mut client = broker.connect().await;
    let long = "v".repeat(3000);
    for round in 0..40 {
        for codec in Codec::ALL {
            let key = format!("{codec}-{}", round % 4);
            let values = [(Some("hot"), long.as_str()), (Some(key.as_str()), &long[..1000])];
            let answer = produce(&mut client, "t", 0, batch_of(values, Producer::NONE, codec)).await;
            assert_eq!((answer.error_code, answer.base_offset), (ErrorCode::NONE, round * 10 + codec as i64 * 2));
        }
    }
    broker.log.compact().await.unwrap();
    let (mut next, mut seen, mut sealed) = (0, std::collections::BTreeMap::<Vec<u8>, Vec<i64>>::new(), 0);
    let mut unpacker = record::Unpacker::new(1 << 20);
    while next < 400 {
        let data = fetch(&mut client, "t", 0, next).await;
        assert_eq!((data.error_code, data.log_start_offset, data.high_watermark), (ErrorCode::NONE, 0, 400));
        let before = next;
        for batch in record::batch::batches(&data.records) {
            let (header, bytes) = batch.unwrap();
            record::batch::check(bytes).unwrap();
            next = header.last_offset() + 1;
            for one in unpacker.records(bytes).unwrap() {
                let one = one.unwrap();
                assert_eq!(one.timestamp_ms, 1000 + one.offset % 2, "times stay");
                seen.entry(one.key.unwrap().to_vec()).or_default().push(one.offset);
            }
            if header.records_count == 1 {
                sealed = next;
            }
        }
        assert!(next > before, "stuck at {next}");
    }
    assert!(sealed > 200, "{sealed}");
    assert_eq!(seen.len(), 21);
    let total: usize = seen.values().map(Vec::len).sum();
    assert!(total < 220, "{total} of 400 are left");
    for (key, offsets) in seen {
        let name = String::from_utf8(key).unwrap();
        let last = offsets.last().copied().unwrap();
        assert!(if name == "hot" { last == 398 } else { last >= 360 }, "{name}: {last}");
    }
    assert!(broker.log.usage().compaction_bytes > 0);
    // A reader that begins within a hole goes on behind it.
    let data = fetch(&mut client, "t", 0, 1).await;
    assert!(!data.records.is_empty());
}

#[tokio::test]
async fn the_broker_stamps_where_the_topic_says_so() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    broker.topic("strict", 1, &[("message.timestamp.before.max.ms", "1000")]).await;
    let mut client = broker.connect().await;
    let answer = produce(&mut client, "t", 0, batch(&["a"])).await;
    assert_eq!((answer.error_code, answer.log_append_time_ms), (ErrorCode::NONE, 1_700_000_000_000));
    let stored = fetch(&mut client, "t", 0, 0).await.records;
    let header = record::batch::check(&stored).expect("signed anew");
    assert!(header.has_log_append_time());
    assert_eq!(header.max_timestamp_ms, 1_700_000_000_000);
    let answer = produce(&mut client, "strict", 0, batch(&["a"])).await;
    assert_eq!(answer.error_code, ErrorCode::INVALID_TIMESTAMP);
}

#[tokio::test]
async fn without_acks_there_is_no_answer_and_an_error_closes() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    client.send(&produce_request("t", 0, batch(&["quiet"]), 0), 9).await;
    // The next answer is the next request's.
    let data = fetch(&mut client, "t", 0, 0).await;
    assert_eq!(data.high_watermark, 1);
    client.send(&produce_request("none", 0, batch(&["quiet"]), 0), 9).await;
    assert!(client.frame().await.is_none());
    assert_eq!(broker.metric("brooklet_kafka_refused_total{reason=\"unacknowledged\"}"), 1);
}

#[tokio::test]
async fn offsets_are_found_by_time_and_by_name() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    let mut asked = async |timestamp, version| {
        let request = ListOffsetsRequest {
            replica_id: -1,
            topics: vec![ListOffsetsTopic {
                name: "t".into(),
                partitions: vec![ListOffsetsPartition { timestamp, ..Default::default() }],
            }],
            ..Default::default()
        };
        let response = client.call(&request, version).await;
        let found = response.topics[0].partitions[0].clone();
        (found.error_code, found.offset, found.timestamp)
    };
    let none = (ErrorCode::NONE, -1, -1);
    for (timestamp, expected) in [(-1, (ErrorCode::NONE, 0, -1)), (-2, (ErrorCode::NONE, 0, -1)), (-3, none), (5, none)]
    {
        assert_eq!(asked(timestamp, 7).await, expected, "empty, {timestamp}");
    }
    let mut writer = broker.connect().await;
    produce(&mut writer, "t", 0, batch(&["at 1000"])).await;
    produce(&mut writer, "t", 0, batch(&["at 1000", "at 1001", "at 1002"])).await;
    for version in 1..=10 {
        assert_eq!(asked(-1, version).await, (ErrorCode::NONE, 4, -1));
        assert_eq!(asked(-2, version).await, (ErrorCode::NONE, 0, -1));
        assert_eq!(asked(0, version).await, (ErrorCode::NONE, 0, 1000));
        assert_eq!(asked(2000, version).await, none);
    }
    assert_eq!(asked(-3, 6).await.0, ErrorCode::UNSUPPORTED_VERSION);
    assert_eq!(asked(-4, 8).await, (ErrorCode::NONE, 0, -1));
    assert_eq!(asked(-5, 9).await, none);
}

#[tokio::test]
async fn producer_ids_are_never_given_twice() {
    let broker = Broker::start().await;
    let mut client = broker.connect().await;
    let request = InitProducerIdRequest { transaction_timeout_ms: 1000, ..Default::default() };
    let mut seen = Vec::new();
    for version in 0..=5 {
        let response = client.call(&request, version).await;
        assert_eq!((response.error_code, response.producer_epoch), (ErrorCode::NONE, 0));
        assert!(!seen.contains(&response.producer_id));
        seen.push(response.producer_id);
    }
}

#[tokio::test]
async fn a_repeated_batch_of_an_idempotent_producer_lands_once() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    let id = client.call(&InitProducerIdRequest::default(), 4).await.producer_id;
    let numbered = |epoch, sequence, count: usize| {
        let values = std::iter::repeat_n((None, "v"), count);
        batch_of(values, Producer { id, epoch, sequence }, Codec::None)
    };
    let mut sent = async |epoch, sequence, count| {
        let answer = produce(&mut client, "t", 0, numbered(epoch, sequence, count)).await;
        (answer.error_code, answer.base_offset)
    };
    assert_eq!(sent(0, 0, 2).await, (ErrorCode::NONE, 0));
    assert_eq!(sent(0, 2, 3).await, (ErrorCode::NONE, 2));
    assert_eq!(sent(0, 0, 2).await, (ErrorCode::NONE, 0), "the offset of the first time");
    assert_eq!(sent(0, 9, 1).await, (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1));
    assert_eq!(sent(1, 0, 1).await, (ErrorCode::NONE, 5), "a new epoch begins at 0");
    assert_eq!(sent(0, 5, 1).await.0, ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(fetch(&mut client, "t", 0, 0).await.high_watermark, 6);
}

#[tokio::test]
async fn the_fault_of_one_partition_does_not_fail_the_others() {
    let broker = Broker::start().await;
    broker.topic("t", 3, &[]).await;
    let mut client = broker.connect().await;
    let mut request = produce_request("t", 0, batch(&["a"]), -1);
    for (index, records) in [(1, Bytes::from_static(b"nonsense")), (2, batch(&["c"])), (9, batch(&["d"]))] {
        request.topic_data[0].partition_data.push(PartitionProduceData { index, records: Some(records) });
    }
    let response = client.call(&request, 9).await;
    let codes: Vec<_> = response.responses[0].partition_responses.iter().map(|p| (p.index, p.error_code)).collect();
    assert_eq!(
        codes,
        [
            (0, ErrorCode::NONE),
            (1, ErrorCode::CORRUPT_MESSAGE),
            (2, ErrorCode::NONE),
            (9, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        ]
    );
}

#[tokio::test]
async fn an_old_reader_of_a_zstd_topic_is_told_and_the_records_stay_packed() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    broker.topic("zstd", 1, &[("compression.type", "zstd")]).await;
    let mut client = broker.connect().await;
    let long = "z".repeat(500);
    let packed = batch_of([(None, long.as_str())], Producer::NONE, Codec::Zstd);
    let early = client.call(&produce_request("t", 0, packed.clone(), -1), 6).await;
    assert_eq!(early.responses[0].partition_responses[0].error_code, ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
    assert_eq!(produce(&mut client, "t", 0, packed.clone()).await.error_code, ErrorCode::NONE);
    assert_eq!(produce(&mut client, "zstd", 0, packed.clone()).await.error_code, ErrorCode::NONE);
    let old = only(client.call(&fetch_request("zstd", 0, 0), 9).await);
    assert_eq!((old.error_code, old.records.len()), (ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, 0));
    for version in [4, 9, 12] {
        // Whose topic does not promise zstd: the bytes are theirs to understand.
        let stored = only(client.call(&fetch_request("t", 0, 0), version).await).records;
        assert_eq!(stored[16..], packed[16..], "all but offset and epoch as it was sent");
    }
    assert_eq!(fetch(&mut client, "zstd", 0, 0).await.records[16..], packed[16..]);
}

#[tokio::test]
async fn the_advertised_address_is_the_one_configured_or_reached() {
    let broker = Broker::with(|c| c.advertised = "edge.example:19092".parse().unwrap()).await;
    let response = broker.connect().await.call(&MetadataRequest::default(), 9).await;
    assert_eq!((response.brokers[0].host.as_str(), response.brokers[0].port), ("edge.example", 19092));
    let broker = Broker::with(|c| c.listeners = vec!["PLAINTEXT://[::1]:0".parse().unwrap()]).await;
    let response = broker.connect().await.call(&MetadataRequest::default(), 9).await;
    assert_eq!(response.brokers[0].host, "::1");
}

#[tokio::test]
async fn a_port_in_use_is_one_line_with_the_mend() {
    let broker = Broker::start().await;
    let address = broker.address();
    let config =
        brooklet::kafka::Config { listeners: vec![format!("{address}").parse().unwrap()], ..Default::default() };
    let error = broker.serve_again(&config).await.err().expect("the port is taken").to_string();
    assert!(error.contains(&format!("port {}", address.port())) && error.contains("--listen"), "{error}");
    assert!(!error.contains('\n'));
}

#[tokio::test]
async fn produce_requests_that_follow_each_other_share_a_flush_and_keep_their_order() {
    let broker = Broker::lingering(Duration::from_millis(100), |_| {}).await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    let before = broker.log.usage().commits;
    // One is refused in the middle, and a request of another kind comes last.
    let topic_of = |number: i32| if number == 20 { "missing" } else { "t" };
    for number in 1..=40 {
        let request = produce_request(topic_of(number), number % 2, batch(&[&format!("{number}")]), -1);
        client.send(&request, 9).await;
    }
    client.send(&ApiVersionsRequest::default(), 2).await;
    let mut next = [0, 0];
    for number in 1..=40 {
        let response = client.receive_nth::<ProduceRequest>(9, number).await;
        let answer = &response.responses[0].partition_responses[0];
        if topic_of(number) == "missing" {
            assert_eq!(answer.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            continue;
        }
        let end = &mut next[(number % 2) as usize];
        assert_eq!((answer.error_code, answer.base_offset), (ErrorCode::NONE, *end));
        *end += 1;
    }
    assert_eq!(client.receive_nth::<ApiVersionsRequest>(2, 41).await.error_code, ErrorCode::NONE);
    let commits = broker.log.usage().commits - before;
    assert!(commits <= 10, "{commits} commits for 39 batches of one client");
}
