//! A client that does nothing wrong, beside those who do: what it produces it reads again, all of it and in order.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use brooklet::{
    record::{Builder, Codec, Partition, Unpacker, batch},
    wire::{
        ErrorCode,
        create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest},
        delete_groups::DeleteGroupsRequest,
        delete_topics::DeleteTopicsRequest,
        list_groups::ListGroupsRequest,
        metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponseTopic},
    },
};

use crate::{client::Client, requests};

/// No hostile frame names it: they begin with other names, and a change or two do not lead here.
const TOPIC: &str = "undisturbed-witness";
const RECORDS: i64 = 10;
/// How often it produces: a client that shares the machine with those who attack.
const PERIOD: Duration = Duration::from_millis(10);

/// What it saw.
pub(crate) struct Testimony {
    pub(crate) records: i64,
    pub(crate) slowest: Duration,
}

/// Makes a topic, or finds it there.
pub(crate) fn topic(
    client: &mut Client,
    name: &str,
    partitions: i32,
    configs: &[(&str, &str)],
) -> MetadataResponseTopic {
    let configs =
        configs.iter().map(|(name, value)| CreatableTopicConfig { name: (*name).into(), value: Some((*value).into()) });
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: 1,
        configs: configs.collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
    let code = client.call(&request, 7).unwrap().topics[0].error_code;
    assert!([ErrorCode::NONE, ErrorCode::TOPIC_ALREADY_EXISTS].contains(&code), "{name}: {code:?}");
    let topics = Some(vec![MetadataRequestTopic { name: Some(name.into()), ..Default::default() }]);
    client.call(&MetadataRequest { topics, ..Default::default() }, 12).unwrap().topics.remove(0)
}

/// Produces and fetches until it is over; then reads all that is still there.
pub(crate) fn watch(address: SocketAddr, is_over: &AtomicBool) -> Testimony {
    let mut client = Client::connect(address).unwrap();
    // What a changed setting of the broker would do to it, it has settings of its own against.
    let kept = [
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("max.message.bytes", "1000000"),
        ("message.timestamp.type", "CreateTime"),
        ("brooklet.priority", "0"),
    ];
    topic(&mut client, TOPIC, 1, &kept);
    let partition = Partition::new(TOPIC, 0);
    let (mut next, mut slowest) = (0, Duration::ZERO);
    while !is_over.load(Ordering::Relaxed) {
        let mut builder = Builder::new();
        for number in next..next + RECORDS {
            builder.push(number, None, Some(number.to_string().as_bytes()), &[]).unwrap();
        }
        let start = Instant::now();
        let base = client.produce(&partition, &builder.finish(Codec::Lz4, 0)).unwrap();
        assert_eq!(base, Ok(next), "the witness's batch");
        let read = read(&mut client, &partition, next);
        assert_eq!(read, next + RECORDS, "the witness reads what it has just written");
        slowest = slowest.max(start.elapsed());
        next = read;
        thread::sleep(PERIOD.saturating_sub(start.elapsed()));
    }
    let mut at = client.earliest(&partition).unwrap();
    assert_eq!(at, 0, "of the witness's records nothing was deleted");
    while at < next {
        at = read(&mut client, &partition, at);
    }
    assert_eq!(at, next);
    Testimony { records: next, slowest }
}

/// One fetch: each record holds its own offset. The offset behind the last one.
fn read(client: &mut Client, partition: &Partition, from: i64) -> i64 {
    let (_, data) = client.fetch(&[(partition.clone(), from)], 5000).unwrap().remove(0);
    assert_eq!(data.error_code, ErrorCode::NONE);
    let mut next = from;
    let mut unpacker = Unpacker::new(1 << 20);
    for item in batch::batches(&data.records) {
        // The last one may have been cut.
        let Ok((_, bytes)) = item else { break };
        batch::check(bytes).unwrap();
        for record in unpacker.records(bytes).unwrap() {
            let record = record.unwrap();
            if record.offset >= from {
                assert_eq!(record.offset, next);
                assert_eq!(record.value, Some(next.to_string().as_bytes()));
                next += 1;
            }
        }
    }
    assert!(next > from, "nothing at {from}");
    next
}

/// Takes away the topics and groups that mutated frames made: memory grows with them, as it should.
pub(crate) fn tidy(client: &mut Client) {
    let topics = client.call(&MetadataRequest::default(), 12).unwrap().topics;
    let stray: Vec<_> = topics
        .into_iter()
        .filter(|topic| !topic.is_internal)
        .filter_map(|topic| topic.name)
        .filter(|name| ![TOPIC, requests::TOPIC, "brooklet.events", "metric.all"].contains(&name.as_str()))
        .collect();
    for names in stray.chunks(100) {
        let request = DeleteTopicsRequest { topic_names: names.to_vec(), timeout_ms: 1000, ..Default::default() };
        client.call(&request, 4).unwrap();
    }
    let groups = client.call(&ListGroupsRequest::default(), 4).unwrap().groups;
    let names: Vec<_> = groups.into_iter().map(|group| group.group_id).collect();
    for names in names.chunks(100) {
        // Those with members stay until their session ends.
        client.call(&DeleteGroupsRequest { groups_names: names.to_vec() }, 1).unwrap();
    }
}
