//! Bad input and greedy clients: what they may take, and that others are served on.

use std::time::{Duration, Instant};

use brooklet::{
    log::Change,
    record::{Codec, Producer},
    wire::{
        ErrorCode,
        api_versions::ApiVersionsRequest,
        create_topics::{CreatableTopic, CreateTopicsRequest},
        describe_configs::{DescribeConfigsRequest, DescribeConfigsResource},
        describe_groups::DescribeGroupsRequest,
        fetch::{FetchPartition, FetchRequest, FetchTopic},
        metadata::{MetadataRequest, MetadataRequestTopic},
        offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup},
        produce::{PartitionProduceData, ProduceRequest},
    },
};
use bytesize::ByteSize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    kafka::produce_request,
    support::{Broker, Client, PATIENCE, batch, batch_of},
};

async fn is_served(broker: &Broker) {
    let mut client = broker.connect().await;
    assert_eq!(client.call(&ApiVersionsRequest::default(), 2).await.error_code, ErrorCode::NONE);
}

#[tokio::test]
async fn frames_that_cannot_be_close_the_connection() {
    let broker = Broker::start().await;
    for (what, bytes) in [
        ("negative", &b"\xff\xff\xff\xff\x00\x12"[..]),
        ("nothing", b"\0\0\0\0\0\0"),
        ("too short for a header", b"\0\0\0\x07\0\x12\0\0\0\0\0"),
        ("2 GiB", b"\x7f\xff\xff\xff\0\x12"),
        ("over 1 MiB", b"\0\x10\0\x01\0\x03"),
        ("Produce over 16 MiB", b"\x01\0\0\x01\0\0"),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),
        ("unknown API", b"\0\0\0\x0a\x7f\xff\0\0\0\0\0\0\xff\xff"),
        ("not for clients", b"\0\0\0\x0a\0\x05\0\0\0\0\0\0\xff\xff"),
        ("unsupported version", b"\0\0\0\x0b\0\x03\0\x63\0\0\0\0\xff\xff\0"),
        ("Produce version 2", b"\0\0\0\x0a\0\0\0\x02\0\0\0\0\xff\xff"),
        ("an array of 2^31 topics", b"\0\0\0\x0e\0\x03\0\x01\0\0\0\0\xff\xff\x7f\xff\xff\xff"),
        ("a varint without end", b"\0\0\0\x10\0\x03\0\x0c\0\0\0\0\xff\xff\0\xff\xff\xff\xff\xff"),
    ] {
        let mut client = broker.connect().await;
        client.stream.write_all(bytes).await.unwrap();
        assert!(client.frame().await.is_none(), "{what}");
    }
    is_served(&broker).await;
    assert!(broker.metric("brooklet_kafka_refused_total{reason=\"frame_size\"}") >= 6);
    assert_eq!(broker.metric("brooklet_kafka_refused_total{reason=\"unsupported\"}"), 4);
}

#[tokio::test]
async fn random_bodies_to_every_api_and_version_do_no_harm() {
    let broker = Broker::start().await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    let apis = client.call(&ApiVersionsRequest::default(), 2).await.api_keys;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for api in apis {
        for version in api.min_version..=api.max_version {
            for case in 0..20 {
                let mut frame = Vec::new();
                frame.extend(api.api_key.to_be_bytes());
                frame.extend(version.to_be_bytes());
                frame.extend([0, 0, 0, 1, 0xff, 0xff]);
                let length = random() % 60;
                // Uniform bytes seldom pass the first length; mostly zeros and ones go deeper.
                frame.extend((0..length).map(|_| match (case % 3, random()) {
                    (0, r) => r as u8,
                    (1, r) => (r % 3) as u8,
                    (_, r) => {
                        if r % 8 == 0 {
                            (r >> 8) as u8
                        } else {
                            0
                        }
                    }
                }));
                let mut client = broker.connect().await;
                client.send_frame(&frame).await;
                client.stream.shutdown().await.unwrap();
                let mut answer = Vec::new();
                let read = client.stream.read_to_end(&mut answer);
                // A reset is an end too: the broker closed with bytes unread.
                let _ended = tokio::time::timeout(PATIENCE, read).await.expect("an answer or the end");
            }
        }
    }
    is_served(&broker).await;
}

#[tokio::test]
async fn a_length_that_lies_takes_no_memory_and_holds_back_nobody() {
    let broker = Broker::with(|c| {
        c.limits.memory_limit = ByteSize::mib(16);
        c.limits.stall_timeout = Duration::from_secs(10);
    })
    .await;
    broker.topic("t", 1, &[]).await;
    let before = resident_bytes();
    let mut liars = Vec::new();
    for _ in 0..100 {
        let mut liar = broker.connect().await;
        // 16 MiB of Produce, they say; a kilobyte comes.
        liar.stream.write_all(&[1, 0, 0, 0, 0, 0, 0, 9]).await.unwrap();
        liar.stream.write_all(&[0; 1000]).await.unwrap();
        liars.push(liar);
    }
    let mut client = broker.connect().await;
    let started = Instant::now();
    let response = client.call(&produce_request("t", 0, batch(&["x"]), -1), 9).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, ErrorCode::NONE);
    assert!(started.elapsed() < Duration::from_secs(5), "liars hold the down payment only");
    assert!(resident_bytes() < before + (24 << 20), "100 times 16 MiB were claimed");
}

#[tokio::test]
async fn a_frame_that_stops_halfway_is_given_up() {
    let broker = Broker::with(|c| c.limits.stall_timeout = Duration::from_millis(100)).await;
    for part in [&[0u8, 0][..], &[0, 0, 0, 50, 0, 3], &[0, 0, 0, 50, 0, 3, 0, 1, 0, 0]] {
        let mut client = broker.connect().await;
        client.stream.write_all(part).await.unwrap();
        assert!(client.frame().await.is_none());
    }
    assert_eq!(broker.metric("brooklet_kafka_refused_total{reason=\"slow\"}"), 3);
    is_served(&broker).await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut_off() {
    let broker = Broker::with(|c| c.limits.stall_timeout = Duration::from_millis(200)).await;
    broker.topic("t", 1, &[]).await;
    let mut writer = broker.connect().await;
    // Below 64 KiB no time is added for the size.
    let value = "x".repeat(60_000);
    writer.call(&produce_request("t", 0, batch(&[&value]), -1), 9).await;
    let partitions = vec![FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() }];
    let request = FetchRequest {
        min_bytes: 1,
        topics: vec![FetchTopic { topic: "t".into(), partitions, ..Default::default() }],
        ..Default::default()
    };
    let mut lazy = broker.connect().await;
    // More answers than the sockets between them hold.
    for _ in 0..400 {
        lazy.send(&request, 12).await;
    }
    let cut_off = async {
        while broker.metric("brooklet_kafka_refused_total{reason=\"slow\"}") == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, cut_off).await.expect("cut off");
    is_served(&broker).await;
    let given_back = async {
        while broker.metric("brooklet_kafka_memory_bytes") != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, given_back).await.expect("its share came back");
}

#[tokio::test]
async fn connections_are_capped_and_the_place_is_given_back() {
    let broker = Broker::with(|c| c.limits.max_connections = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = broker.connect().await;
        client.call(&ApiVersionsRequest::default(), 0).await;
        held.push(client);
    }
    let mut fourth = broker.connect().await;
    assert!(fourth.frame().await.is_none(), "closed at once");
    held.pop();
    let again = async {
        loop {
            let mut client = broker.connect().await;
            client.send(&ApiVersionsRequest::default(), 0).await;
            if client.frame().await.is_some() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("a place for another");
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let broker = Broker::with(|c| {
        c.broker.insert("connections.max.idle.ms".into(), brooklet::kafka::Value::Number(100));
    })
    .await;
    let mut client = broker.connect().await;
    client.call(&ApiVersionsRequest::default(), 0).await;
    assert!(client.frame().await.is_none());
}

#[tokio::test]
async fn idle_connections_hold_almost_nothing() {
    let broker = Broker::start().await;
    let mut clients: Vec<Client> = Vec::new();
    let mut before = 0;
    for count in 0..400 {
        // The first ones also warm up what is shared.
        if count == 100 {
            before = resident_bytes();
        }
        let mut client = broker.connect().await;
        client.call(&MetadataRequest::default(), 12).await;
        clients.push(client);
    }
    let each = resident_bytes().saturating_sub(before) / 300;
    assert!(each < 8 << 10, "{each} bytes per idle connection, the test's own side included");
}

#[tokio::test]
async fn a_request_larger_than_a_segment_arrives_whole() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[("max.message.bytes", "10000000")]).await;
    let mut client = broker.connect().await;
    let value = "y".repeat(5_000_000);
    let response = client.call(&produce_request("t", 0, batch(&[&value]), -1), 9).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, ErrorCode::NONE);
    broker.log.change(Change::Delete { name: "t".into() }, vec![]).await.unwrap();
}

#[tokio::test]
async fn what_is_named_often_is_answered_once() {
    let broker = Broker::start().await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    let topic = MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic; 3]), ..Default::default() };
    assert_eq!(client.call(&request, 12).await.topics.len(), 1);
    let resource = DescribeConfigsResource { resource_type: 2, resource_name: "t".into(), configuration_keys: None };
    let request = DescribeConfigsRequest { resources: vec![resource; 3], ..Default::default() };
    assert_eq!(client.call(&request, 4).await.results.len(), 1);
    let request = DescribeGroupsRequest { groups: vec!["g".into(); 3], ..Default::default() };
    assert_eq!(client.call(&request, 5).await.groups.len(), 1);
    let group = OffsetFetchRequestGroup { group_id: "g".into(), topics: None, ..Default::default() };
    let request = OffsetFetchRequest { groups: vec![group; 3], ..Default::default() };
    assert_eq!(client.call(&request, 8).await.groups.len(), 1);
}

#[tokio::test]
async fn topics_are_capped_in_a_request_and_in_all() {
    let broker = Broker::start().await;
    let mut client = broker.connect().await;
    let wanted = |name: String, num_partitions| CreatableTopic {
        name,
        num_partitions,
        replication_factor: 1,
        ..Default::default()
    };
    let topics = (0..1001).map(|i| wanted(format!("t{i}"), 1)).collect();
    let request = CreateTopicsRequest { topics, validate_only: true, ..Default::default() };
    let answer = client.call(&request, 7).await;
    assert_eq!(answer.topics.len(), 1001);
    assert!(answer.topics.iter().all(|t| t.error_code == ErrorCode::POLICY_VIOLATION));

    let topics = (0..3).map(|i| wanted(format!("t{i}"), 10_000)).collect();
    let answer = client.call(&CreateTopicsRequest { topics, ..Default::default() }, 7).await;
    let codes: Vec<_> = answer.topics.iter().map(|t| t.error_code).collect();
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::NONE, ErrorCode::POLICY_VIOLATION]);
    let topic = MetadataRequestTopic { name: Some("another".into()), ..Default::default() };
    let answer = client.call(&MetadataRequest { topics: Some(vec![topic]), ..Default::default() }, 12).await;
    assert_eq!(answer.topics[0].error_code, ErrorCode::POLICY_VIOLATION, "nor by naming it");
}

#[tokio::test]
async fn a_refusal_names_a_bounded_number_of_records() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[("cleanup.policy", "compact")]).await;
    let mut client = broker.connect().await;
    let keyless = batch_of((0..5000).map(|_| (None, "")), Producer::NONE, Codec::Gzip);
    let answer = client.call(&produce_request("t", 0, keyless, -1), 9).await;
    let answer = &answer.responses[0].partition_responses[0];
    assert_eq!(answer.error_code, ErrorCode::INVALID_RECORD);
    assert_eq!(answer.record_errors.len(), 100);
}

#[tokio::test]
async fn a_parked_fetch_holds_nothing_of_what_it_read() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut writer = broker.connect().await;
    writer.call(&produce_request("t", 0, batch(&[&"x".repeat(60_000)]), -1), 9).await;
    let partitions = vec![FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() }];
    let request = FetchRequest {
        // More than there is, so that it reads once and parks.
        min_bytes: 100_000,
        max_bytes: 1 << 20,
        max_wait_ms: 60_000,
        topics: vec![FetchTopic { topic: "t".into(), partitions, ..Default::default() }],
        ..Default::default()
    };
    let mut parked = broker.connect().await;
    parked.send(&request, 12).await;
    let mut settled = 0;
    let settle = async {
        // What is shown is as of the last request: ask, and let the read pass.
        while settled < 5 {
            is_served(&broker).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let requests = broker.metric("brooklet_kafka_requests_total{api=\"Fetch\"}");
            let is_small = broker.metric("brooklet_kafka_memory_bytes") < 10_000;
            settled = if requests > 0 && is_small { settled + 1 } else { 0 };
        }
    };
    tokio::time::timeout(PATIENCE, settle).await.expect("the share came back while the request is parked");
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Requests of more than eight partitions take a share for their work that they keep until they are answered. A client
/// that sends several of them at once must not wait for the share of its own earlier ones.
#[tokio::test]
async fn wide_requests_behind_each_other_are_all_answered() {
    let broker = Broker::lingering(Duration::from_millis(20), |_| {}).await;
    broker.topic("wide", 12, &[]).await;
    let mut client = broker.connect().await;
    let mut request = produce_request("wide", 0, batch(&["x"]), -1);
    let one = request.topic_data[0].partition_data[0].clone();
    request.topic_data[0].partition_data = (0..12).map(|index| PartitionProduceData { index, ..one.clone() }).collect();
    for _ in 0..20 {
        client.send(&request, 9).await;
    }
    for number in 1..=20 {
        let answer = tokio::time::timeout(PATIENCE, client.receive_nth::<ProduceRequest>(9, number)).await;
        let answer = answer.unwrap_or_else(|_| panic!("request {number} is never answered"));
        let codes = answer.responses[0].partition_responses.iter().map(|p| p.error_code);
        assert!(codes.eq([ErrorCode::NONE; 12]));
    }
}
