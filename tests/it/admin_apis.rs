//! Topics, settings and the rest of what Kafka's tools ask.

use std::collections::BTreeMap;

use brooklet::{
    kafka::settings::{broker_settings, topic_settings},
    wire::{
        ErrorCode, alter_configs, alter_partition_reassignments as reassign, alter_replica_log_dirs as move_dirs,
        consumer_group_heartbeat::ConsumerGroupHeartbeatRequest,
        create_acls, create_partitions as grow,
        create_topics::{
            CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreatableTopicResult, CreateTopicsRequest,
        },
        delete_acls, delete_records, delete_topics,
        describe_acls::DescribeAclsRequest,
        describe_cluster::DescribeClusterRequest,
        describe_configs::{DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResult},
        describe_log_dirs::DescribeLogDirsRequest,
        describe_quorum as quorum, describe_topic_partitions as pages, elect_leaders,
        incremental_alter_configs as incremental,
        list_config_resources::ListConfigResourcesRequest,
        list_partition_reassignments::ListPartitionReassignmentsRequest,
        metadata::MetadataRequest,
        offset_for_leader_epoch as epochs,
    },
};

use crate::{
    kafka::produce_request,
    support::{Broker, Client, batch},
};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const GROUP: i8 = 32;

fn creatable(name: &str, num_partitions: i32, configs: &[(&str, &str)]) -> CreatableTopic {
    let configs = configs.iter().map(|(n, v)| CreatableTopicConfig { name: (*n).into(), value: Some((*v).into()) });
    CreatableTopic {
        name: name.into(),
        num_partitions,
        replication_factor: 3,
        configs: configs.collect(),
        ..Default::default()
    }
}

async fn create(client: &mut Client, topic: CreatableTopic, version: i16) -> CreatableTopicResult {
    let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
    client.call(&request, version).await.topics.remove(0)
}

async fn describe(client: &mut Client, kind: i8, name: &str) -> DescribeConfigsResult {
    let resource =
        DescribeConfigsResource { resource_type: kind, resource_name: name.into(), configuration_keys: None };
    let request =
        DescribeConfigsRequest { resources: vec![resource], include_synonyms: true, include_documentation: true };
    client.call(&request, 4).await.results.remove(0)
}

async fn value_of(client: &mut Client, kind: i8, name: &str, setting: &str) -> (Option<String>, i8) {
    let described = describe(client, kind, name).await;
    let row = described.configs.into_iter().find(|c| c.name == setting).unwrap();
    (row.value, row.config_source)
}

async fn alter(client: &mut Client, kind: i8, name: &str, changes: &[(&str, i8, Option<&str>)]) -> ErrorCode {
    let configs = changes.iter().map(|(name, config_operation, value)| incremental::AlterableConfig {
        name: (*name).into(),
        config_operation: *config_operation,
        value: value.map(Into::into),
    });
    let resource = incremental::AlterConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configs: configs.collect(),
    };
    let request = incremental::IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    client.call(&request, 1).await.responses[0].error_code
}

#[tokio::test]
async fn a_topic_lives_and_dies() {
    let broker = Broker::start().await;
    let mut client = broker.connect().await;
    for version in 2..=7 {
        let name = format!("t{version}");
        let made = create(&mut client, creatable(&name, 2, &[("retention.ms", "-1")]), version).await;
        assert_eq!(made.error_code, ErrorCode::NONE, "version {version}: any replication factor is taken");
        if version >= 5 {
            assert_eq!((made.num_partitions, made.replication_factor), (2, 1));
            assert_eq!(made.configs.unwrap().len(), topic_settings().len());
        }
        let again = create(&mut client, creatable(&name, 2, &[]), version).await;
        assert_eq!(again.error_code, ErrorCode::TOPIC_ALREADY_EXISTS);
    }
    let first_id = broker.log.topics().borrow().get("t7").unwrap().id;

    let by_name = |name: &str, topic_id| delete_topics::DeleteTopicsRequest {
        topics: vec![delete_topics::DeleteTopicState { name: (!name.is_empty()).then(|| name.into()), topic_id }],
        topic_names: vec![name.into()],
        ..Default::default()
    };
    let code =
        |r: delete_topics::DeleteTopicsResponse| r.responses.into_iter().map(|r| r.error_code).collect::<Vec<_>>();
    for version in 1..=5 {
        let name = format!("t{}", version + 1);
        let mut request = by_name(&name, [0; 16]);
        request.topics.clear();
        assert_eq!(code(client.call(&request, version).await), [ErrorCode::NONE]);
        assert_eq!(code(client.call(&request, version).await), [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION]);
    }
    let mut request = by_name("", first_id);
    request.topic_names.clear();
    assert_eq!(code(client.call(&request, 6).await), [ErrorCode::NONE]);
    assert_eq!(code(client.call(&request, 6).await), [ErrorCode::UNKNOWN_TOPIC_ID]);
    let mut request = by_name("t7", first_id);
    request.topic_names.clear();
    assert_eq!(code(client.call(&request, 6).await), [ErrorCode::INVALID_REQUEST]);

    let made = create(&mut client, creatable("t7", -1, &[]), 7).await;
    assert_eq!((made.error_code, made.num_partitions), (ErrorCode::NONE, 1));
    assert_ne!(made.topic_id, first_id, "made again, another id");
    assert_eq!(client.call(&MetadataRequest::default(), 12).await.topics.len(), 1);
}

#[tokio::test]
async fn topics_that_cannot_be_are_refused_by_code() {
    let broker = Broker::start().await;
    broker.topic("a.b", 1, &[]).await;
    let mut client = broker.connect().await;
    let rf = |replication_factor| CreatableTopic { replication_factor, ..creatable("x", 1, &[]) };
    let assigned = |brokers: &[(i32, i32)]| CreatableTopic {
        num_partitions: -1,
        replication_factor: -1,
        assignments: brokers
            .iter()
            .map(|(partition_index, id)| CreatableReplicaAssignment {
                partition_index: *partition_index,
                broker_ids: vec![*id],
            })
            .collect(),
        ..creatable("x", -1, &[])
    };
    for (topic, code) in [
        (creatable("a_b", 1, &[]), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (creatable("a b", 1, &[]), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (creatable("..", 1, &[]), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (creatable("x", 0, &[]), ErrorCode::INVALID_PARTITIONS),
        (creatable("x", 1_000_000, &[]), ErrorCode::INVALID_PARTITIONS),
        (rf(0), ErrorCode::INVALID_REPLICATION_FACTOR),
        (creatable("x", 1, &[("retention.ms", "soon")]), ErrorCode::INVALID_CONFIG),
        (creatable("x", 1, &[("no.such", "1")]), ErrorCode::INVALID_CONFIG),
        (assigned(&[(0, 7)]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (assigned(&[(0, 1), (2, 1)]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
    ] {
        let refused = create(&mut client, topic, 7).await;
        assert_eq!(refused.error_code, code);
        assert!(refused.error_message.is_some_and(|m| !m.is_empty()));
    }
    let twice =
        CreateTopicsRequest { topics: vec![creatable("x", 1, &[]), creatable("x", 1, &[])], ..Default::default() };
    assert!(client.call(&twice, 7).await.topics.iter().all(|t| t.error_code == ErrorCode::INVALID_REQUEST));
    let dry = CreateTopicsRequest { topics: vec![creatable("x", 1, &[])], validate_only: true, ..Default::default() };
    assert_eq!(client.call(&dry, 7).await.topics[0].error_code, ErrorCode::NONE);
    assert_eq!(broker.log.topics().borrow().by_name.len(), 1, "nothing was made");
    assert_eq!(create(&mut client, assigned(&[(1, 1), (0, 1)]), 7).await.num_partitions, 2);
}

#[tokio::test]
async fn partitions_only_grow() {
    let broker = Broker::start().await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    let mut to = async |name: &str, count, assignments, validate_only| {
        let topics = vec![grow::CreatePartitionsTopic { name: name.into(), count, assignments }];
        let request = grow::CreatePartitionsRequest { topics, timeout_ms: 0, validate_only };
        client.call(&request, 3).await.results[0].error_code
    };
    let on =
        |ids: &[i32]| Some(ids.iter().map(|id| grow::CreatePartitionsAssignment { broker_ids: vec![*id] }).collect());
    assert_eq!(to("none", 3, None, false).await, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(to("t", 2, None, false).await, ErrorCode::INVALID_PARTITIONS);
    assert_eq!(to("t", 1, None, false).await, ErrorCode::INVALID_PARTITIONS);
    assert_eq!(to("t", 3, on(&[2]), false).await, ErrorCode::INVALID_REPLICA_ASSIGNMENT);
    assert_eq!(to("t", 3, None, true).await, ErrorCode::NONE);
    assert_eq!(broker.log.topics().borrow().get("t").unwrap().partitions, 2);
    assert_eq!(to("t", 4, on(&[1, 1]), false).await, ErrorCode::NONE);
    assert_eq!(broker.log.topics().borrow().get("t").unwrap().partitions, 4);
}

#[tokio::test]
async fn every_setting_is_described_with_its_sources() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[("cleanup.policy", "compact")]).await;
    let mut client = broker.connect().await;

    let topic = describe(&mut client, TOPIC, "t").await;
    assert_eq!(topic.error_code, ErrorCode::NONE);
    assert_eq!(topic.configs.len(), topic_settings().len());
    // What Kafka 4.3 shows for a topic, by name.
    for name in [
        "cleanup.policy",
        "compression.gzip.level",
        "compression.lz4.level",
        "compression.type",
        "compression.zstd.level",
        "delete.retention.ms",
        "file.delete.delay.ms",
        "flush.messages",
        "flush.ms",
        "follower.replication.throttled.replicas",
        "index.interval.bytes",
        "leader.replication.throttled.replicas",
        "local.retention.bytes",
        "local.retention.ms",
        "max.compaction.lag.ms",
        "max.message.bytes",
        "message.timestamp.after.max.ms",
        "message.timestamp.before.max.ms",
        "message.timestamp.type",
        "min.cleanable.dirty.ratio",
        "min.compaction.lag.ms",
        "min.insync.replicas",
        "preallocate",
        "remote.log.copy.disable",
        "remote.log.delete.on.disable",
        "remote.storage.enable",
        "retention.bytes",
        "retention.ms",
        "segment.bytes",
        "segment.index.bytes",
        "segment.jitter.ms",
        "segment.ms",
        "unclean.leader.election.enable",
    ] {
        let row = topic.configs.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("{name}"));
        assert!(!row.documentation.as_ref().unwrap().is_empty() && row.config_type > 0 && !row.read_only, "{name}");
        assert!(row.value.is_some(), "{name}");
    }
    let policy = topic.configs.iter().find(|c| c.name == "cleanup.policy").unwrap();
    assert_eq!((policy.value.as_deref(), policy.config_source), (Some("compact"), 1), "Connect looks for this");
    let sources: Vec<_> = policy.synonyms.iter().map(|s| (s.name.as_str(), s.source)).collect();
    assert_eq!(sources, [("cleanup.policy", 1), ("log.cleanup.policy", 5)]);

    let node = describe(&mut client, BROKER, "1").await;
    assert_eq!(node.configs.len(), broker_settings().len());
    assert!(node.configs.iter().any(|c| c.name == "listeners" && c.read_only && c.config_source == 4));
    assert_eq!(describe(&mut client, BROKER, "").await.configs.len(), 0, "nothing is set for all brokers");
    assert_eq!(describe(&mut client, BROKER, "2").await.error_code, ErrorCode::INVALID_REQUEST);
    assert_eq!(describe(&mut client, TOPIC, "none").await.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(describe(&mut client, 8, "1").await.error_code, ErrorCode::NONE);
    assert_eq!(describe(&mut client, 99, "1").await.error_code, ErrorCode::INVALID_REQUEST);

    let some = DescribeConfigsResource {
        resource_type: TOPIC,
        resource_name: "t".into(),
        configuration_keys: Some(vec!["retention.ms".into(), "no.such".into()]),
    };
    let request = DescribeConfigsRequest { resources: vec![some], ..Default::default() };
    for version in 1..=4 {
        let response = client.call(&request, version).await;
        let names: Vec<_> = response.results[0].configs.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["retention.ms"]);
    }
}

#[tokio::test]
async fn settings_change_one_by_one_or_all_at_once() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    let c = &mut client;
    let (set, delete, append, subtract) = (0, 1, 2, 3);
    assert_eq!(alter(c, TOPIC, "t", &[("retention.ms", set, Some("60000"))]).await, ErrorCode::NONE);
    assert_eq!(value_of(c, TOPIC, "t", "retention.ms").await, (Some("60000".into()), 1));
    assert_eq!(alter(c, TOPIC, "t", &[("cleanup.policy", append, Some("compact"))]).await, ErrorCode::NONE);
    assert_eq!(value_of(c, TOPIC, "t", "cleanup.policy").await, (Some("delete,compact".into()), 1));
    assert_eq!(alter(c, TOPIC, "t", &[("cleanup.policy", subtract, Some("delete"))]).await, ErrorCode::NONE);
    assert_eq!(value_of(c, TOPIC, "t", "cleanup.policy").await.0.as_deref(), Some("compact"));
    for (changes, code) in [
        (&[("retention.ms", append, Some("1"))][..], ErrorCode::INVALID_CONFIG),
        (&[("retention.ms", set, Some("x"))], ErrorCode::INVALID_CONFIG),
        (&[("retention.ms", set, None)], ErrorCode::INVALID_CONFIG),
        (&[("no.such", set, Some("x"))], ErrorCode::INVALID_CONFIG),
        (&[("cleanup.policy", subtract, Some("compact"))], ErrorCode::INVALID_CONFIG),
        (&[("retention.ms", 9, None)], ErrorCode::INVALID_REQUEST),
        (&[("retention.ms", delete, None), ("retention.ms", set, Some("1"))], ErrorCode::INVALID_REQUEST),
        // The first is right, the second is not: neither is made.
        (&[("retention.ms", set, Some("5")), ("segment.ms", set, Some("x"))], ErrorCode::INVALID_CONFIG),
    ] {
        assert_eq!(alter(c, TOPIC, "t", changes).await, code, "{changes:?}");
    }
    assert_eq!(value_of(c, TOPIC, "t", "retention.ms").await.0.as_deref(), Some("60000"));
    assert_eq!(alter(c, TOPIC, "t", &[("retention.ms", delete, None)]).await, ErrorCode::NONE);
    assert_eq!(value_of(c, TOPIC, "t", "retention.ms").await, (Some("604800000".into()), 5));
    assert_eq!(alter(c, TOPIC, "none", &[]).await, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);

    // The broker's, for all and for this one; a topic without its own follows.
    assert_eq!(alter(c, BROKER, "", &[("log.retention.ms", set, Some("11"))]).await, ErrorCode::NONE);
    assert_eq!(value_of(c, TOPIC, "t", "retention.ms").await, (Some("11".into()), 3));
    assert_eq!(alter(c, BROKER, "1", &[("log.retention.ms", set, Some("12"))]).await, ErrorCode::NONE);
    assert_eq!(value_of(c, TOPIC, "t", "retention.ms").await, (Some("12".into()), 2));
    // librdkafka's tests set this one.
    let kerberos = [("sasl.kerberos.min.time.before.relogin", set, Some("58000"))];
    assert_eq!(alter(c, BROKER, "1", &kerberos).await, ErrorCode::NONE);
    assert_eq!(alter(c, BROKER, "1", &[("node.id", set, Some("5"))]).await, ErrorCode::INVALID_REQUEST);
    assert_eq!(describe(c, BROKER, "").await.configs.len(), 1);

    // All at once: what is not named goes back to its default.
    let configs = vec![alter_configs::AlterableConfig { name: "segment.ms".into(), value: Some("7".into()) }];
    let resource =
        |configs| alter_configs::AlterConfigsResource { resource_type: TOPIC, resource_name: "t".into(), configs };
    for version in 0..=2 {
        let request =
            alter_configs::AlterConfigsRequest { resources: vec![resource(configs.clone())], validate_only: false };
        assert_eq!(c.call(&request, version).await.responses[0].error_code, ErrorCode::NONE);
    }
    let own = broker.log.topics().borrow().get("t").unwrap().settings.clone();
    assert_eq!(own, BTreeMap::from([("segment.ms".to_owned(), "7".to_owned())]));
}

#[tokio::test]
async fn a_group_beats_as_its_own_settings_say() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    let c = &mut client;
    let (set, delete) = (0, 1);
    let (timeout, interval) = ("consumer.session.timeout.ms", "consumer.heartbeat.interval.ms");
    assert_eq!(value_of(c, GROUP, "a/b", timeout).await, (Some("45000".into()), 5));
    assert_eq!(alter(c, GROUP, "a/b", &[(interval, set, Some("7000"))]).await, ErrorCode::NONE);
    assert_eq!(value_of(c, GROUP, "a/b", interval).await, (Some("7000".into()), 8));
    for (changes, code) in [
        (&[(timeout, set, Some("1000"))][..], ErrorCode::INVALID_CONFIG),
        (&[(interval, set, Some("20000"))], ErrorCode::INVALID_CONFIG),
        (&[(interval, set, Some("soon"))], ErrorCode::INVALID_CONFIG),
        (&[("retention.ms", set, Some("1"))], ErrorCode::INVALID_CONFIG),
    ] {
        assert_eq!(alter(c, GROUP, "a/b", changes).await, code, "{changes:?}");
    }
    assert_eq!(alter(c, GROUP, "", &[(interval, set, Some("7000"))]).await, ErrorCode::INVALID_REQUEST);
    let listed = c.call(&ListConfigResourcesRequest { resource_types: vec![GROUP] }, 1).await.config_resources;
    assert_eq!(listed.iter().map(|r| r.resource_name.as_str()).collect::<Vec<_>>(), ["a/b"]);

    let join = |group: &str| ConsumerGroupHeartbeatRequest {
        group_id: group.into(),
        member_id: "m".into(),
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(vec!["t".into()]),
        topic_partitions: Some(Vec::new()),
        ..Default::default()
    };
    assert_eq!(c.call(&join("a/b"), 1).await.heartbeat_interval_ms, 7000);
    assert_eq!(c.call(&join("other"), 1).await.heartbeat_interval_ms, 5000);
    // A group that is there follows from the next heartbeat on.
    assert_eq!(alter(c, GROUP, "a/b", &[(interval, delete, None)]).await, ErrorCode::NONE);
    assert_eq!(c.call(&join("a/b"), 1).await.heartbeat_interval_ms, 5000);
    assert_eq!(value_of(c, GROUP, "a/b", interval).await, (Some("5000".into()), 5));
}

/// What `kafka-reassign-partitions --verify` takes back on every broker when it is done, whether it was set or not.
#[tokio::test]
async fn throttles_of_a_reassignment_are_taken_back() {
    let broker = Broker::start().await;
    let mut client = broker.connect().await;
    for name in [
        "leader.replication.throttled.rate",
        "follower.replication.throttled.rate",
        "replica.alter.log.dirs.io.max.bytes.per.second",
    ] {
        assert_eq!(alter(&mut client, BROKER, "1", &[(name, 1, None)]).await, ErrorCode::NONE, "{name}");
        assert_eq!(alter(&mut client, BROKER, "1", &[(name, 0, Some("1000"))]).await, ErrorCode::NONE, "{name}");
    }
}

#[tokio::test]
async fn records_are_deleted_up_to_an_offset() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    broker.topic("compacted", 1, &[("cleanup.policy", "compact")]).await;
    let mut client = broker.connect().await;
    for _ in 0..4 {
        client.call(&produce_request("t", 0, batch(&["a"]), -1), 9).await;
    }
    let mut trim = async |name: &str, partition_index, offset| {
        let partitions = vec![delete_records::DeleteRecordsPartition { partition_index, offset }];
        let topics = vec![delete_records::DeleteRecordsTopic { name: name.into(), partitions }];
        let request = delete_records::DeleteRecordsRequest { topics, timeout_ms: 0 };
        let response = client.call(&request, 2).await;
        let part = response.topics[0].partitions[0].clone();
        (part.error_code, part.low_watermark)
    };
    assert_eq!(trim("t", 0, 2).await, (ErrorCode::NONE, 2));
    assert_eq!(trim("t", 0, 1).await, (ErrorCode::NONE, 2), "before the start changes nothing");
    assert_eq!(trim("t", 0, 5).await, (ErrorCode::OFFSET_OUT_OF_RANGE, -1));
    assert_eq!(trim("t", 0, -1).await, (ErrorCode::NONE, 4));
    assert_eq!(trim("t", 3, 0).await.0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(trim("compacted", 0, 0).await.0, ErrorCode::POLICY_VIOLATION);
}

#[tokio::test]
async fn topics_are_described_page_by_page() {
    let broker = Broker::start().await;
    for (name, partitions) in [("a", 3), ("b", 2), ("c", 1)] {
        broker.topic(name, partitions, &[]).await;
    }
    let mut client = broker.connect().await;
    let mut request = pages::DescribeTopicPartitionsRequest { response_partition_limit: 2, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = client.call(&request, 0).await;
        for topic in &page.topics {
            let name = topic.name.clone().unwrap();
            seen.extend(topic.partitions.iter().map(|p| format!("{name}{}", p.partition_index)));
        }
        let Some(cursor) = page.next_cursor else { break };
        request.cursor = Some(cursor);
    }
    assert_eq!(seen, ["a0", "a1", "a2", "b0", "b1", "c0"]);
    let named = ["none", "c", "a b"].map(|name| pages::TopicRequest { name: name.into() });
    let request = pages::DescribeTopicPartitionsRequest { topics: named.into(), ..Default::default() };
    let codes: Vec<_> = client.call(&request, 0).await.topics.iter().map(|t| t.error_code).collect();
    let expected = [ErrorCode::INVALID_TOPIC_EXCEPTION, ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION];
    assert_eq!(codes, expected);
}

#[tokio::test]
async fn one_node_says_so() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    client.call(&produce_request("t", 0, batch(&["a", "b"]), -1), 9).await;

    for version in 0..=2 {
        let request = DescribeClusterRequest { include_cluster_authorized_operations: true, ..Default::default() };
        let cluster = client.call(&request, version).await;
        assert_eq!((cluster.controller_id, cluster.brokers.len()), (1, 1));
        assert_eq!(cluster.brokers[0].port, i32::from(broker.address().port()));
        assert_eq!(cluster.cluster_id, broker.kafka.cluster_id());
        assert!(cluster.cluster_authorized_operations > 0);
    }
    let controllers = DescribeClusterRequest { endpoint_type: 2, ..Default::default() };
    assert_eq!(client.call(&controllers, 2).await.error_code, ErrorCode::MISMATCHED_ENDPOINT_TYPE);

    for version in 0..=2 {
        let of = |name: &str, index| quorum::TopicRequest {
            topic_name: name.into(),
            partitions: vec![quorum::PartitionRequest { partition_index: index }],
        };
        let topics = vec![of("__cluster_metadata", 0), of("__cluster_metadata", 1), of("t", 0)];
        let mut seen = client.call(&quorum::DescribeQuorumRequest { topics }, version).await.topics;
        let codes: Vec<_> = seen.iter().map(|topic| topic.partitions[0].error_code).collect();
        let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        assert_eq!(codes, [ErrorCode::NONE, unknown, unknown], "version {version}");
        let quorum = seen.remove(0).partitions.remove(0);
        assert_eq!((quorum.leader_id, quorum.leader_epoch, quorum.high_watermark), (1, 0, 0));
        assert_eq!(quorum.current_voters.iter().map(|voter| voter.replica_id).collect::<Vec<_>>(), [1]);
    }

    let mut epoch_end = async |leader_epoch, current_leader_epoch| {
        let partitions = vec![epochs::OffsetForLeaderPartition { partition: 0, current_leader_epoch, leader_epoch }];
        let topics = vec![epochs::OffsetForLeaderTopic { topic: "t".into(), partitions }];
        let request = epochs::OffsetForLeaderEpochRequest { topics, ..Default::default() };
        let part = client.call(&request, 4).await.topics[0].partitions[0].clone();
        (part.error_code, part.leader_epoch, part.end_offset)
    };
    assert_eq!(epoch_end(0, 0).await, (ErrorCode::NONE, 0, 2));
    assert_eq!(epoch_end(3, -1).await, (ErrorCode::NONE, -1, -1));
    assert_eq!(epoch_end(0, 1).await.0, ErrorCode::UNKNOWN_LEADER_EPOCH);

    for version in 1..=4 {
        let dirs = client.call(&DescribeLogDirsRequest { topics: None }, version).await;
        assert!(dirs.results[0].topics[0].partitions[0].partition_size > 0);
    }
    assert!(client.call(&ListPartitionReassignmentsRequest::default(), 0).await.topics.is_empty());
    let mut moved = async |index, replicas: Option<&[i32]>| {
        let replicas = replicas.map(<[i32]>::to_vec);
        let partitions = vec![reassign::ReassignablePartition { partition_index: index, replicas }];
        let topics = vec![reassign::ReassignableTopic { name: "t".into(), partitions }];
        let request = reassign::AlterPartitionReassignmentsRequest { topics, ..Default::default() };
        client.call(&request, 0).await.responses[0].partitions[0].error_code
    };
    assert_eq!(moved(0, Some(&[1])).await, ErrorCode::NONE);
    assert_eq!(moved(0, Some(&[1, 2])).await, ErrorCode::INVALID_REPLICA_ASSIGNMENT);
    assert_eq!(moved(0, None).await, ErrorCode::NO_REASSIGNMENT_IN_PROGRESS);
    assert_eq!(moved(1, None).await, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);

    let topic_partitions = Some(vec![elect_leaders::TopicPartitions { topic: "t".into(), partitions: vec![0, 1] }]);
    let request = elect_leaders::ElectLeadersRequest { topic_partitions, ..Default::default() };
    let elected = client.call(&request, 2).await.replica_election_results.remove(0);
    let codes: Vec<_> = elected.partition_result.iter().map(|p| p.error_code).collect();
    assert_eq!(codes, [ErrorCode::ELECTION_NOT_NEEDED, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION]);

    let topics = vec![move_dirs::AlterReplicaLogDirTopic { name: "t".into(), partitions: vec![0] }];
    let dirs = vec![move_dirs::AlterReplicaLogDir { path: "/elsewhere".into(), topics }];
    let moved = client.call(&move_dirs::AlterReplicaLogDirsRequest { dirs }, 2).await;
    assert_eq!(moved.results[0].partitions[0].error_code, ErrorCode::LOG_DIR_NOT_FOUND);

    let all = client.call(&ListConfigResourcesRequest::default(), 1).await;
    assert_eq!(all.config_resources.iter().map(|r| r.resource_type).collect::<Vec<_>>(), [2, 4, 8]);
    assert!(client.call(&ListConfigResourcesRequest::default(), 0).await.config_resources.is_empty());

    // MM2 goes on without access rules at exactly this code.
    assert_eq!(client.call(&DescribeAclsRequest::default(), 3).await.error_code, ErrorCode::SECURITY_DISABLED);
    let creations = vec![create_acls::AclCreation::default()];
    let made = client.call(&create_acls::CreateAclsRequest { creations }, 3).await;
    assert_eq!(made.results[0].error_code, ErrorCode::SECURITY_DISABLED);
    let filters = vec![delete_acls::DeleteAclsFilter::default()];
    let gone = client.call(&delete_acls::DeleteAclsRequest { filters }, 3).await;
    assert_eq!(gone.filter_results[0].error_code, ErrorCode::SECURITY_DISABLED);
}
