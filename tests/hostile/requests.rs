//! Valid requests of every API in every version: what mutations begin with.

use brooklet::{
    record::{Builder, Codec, Offset, Producer},
    wire::{
        APIS, ApiKey, Request, Uuid,
        add_offsets_to_txn::AddOffsetsToTxnRequest,
        add_partitions_to_txn::*,
        alter_configs,
        alter_configs::AlterConfigsRequest,
        alter_partition_reassignments::*,
        alter_replica_log_dirs::*,
        api_versions::ApiVersionsRequest,
        consumer_group_describe::ConsumerGroupDescribeRequest,
        consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, TopicPartitions as Owned},
        consumer_protocol::*,
        create_acls::*,
        create_partitions::*,
        create_topics::*,
        delete_acls::*,
        delete_groups::DeleteGroupsRequest,
        delete_records::*,
        delete_topics::*,
        describe_acls::DescribeAclsRequest,
        describe_cluster::DescribeClusterRequest,
        describe_configs::*,
        describe_groups::DescribeGroupsRequest,
        describe_log_dirs::*,
        describe_producers,
        describe_producers::DescribeProducersRequest,
        describe_quorum,
        describe_quorum::DescribeQuorumRequest,
        describe_topic_partitions,
        describe_topic_partitions::DescribeTopicPartitionsRequest,
        describe_transactions::DescribeTransactionsRequest,
        elect_leaders::*,
        encode_request,
        end_txn::EndTxnRequest,
        fetch::*,
        find_coordinator::FindCoordinatorRequest,
        heartbeat::HeartbeatRequest,
        incremental_alter_configs,
        incremental_alter_configs::IncrementalAlterConfigsRequest,
        init_producer_id::InitProducerIdRequest,
        join_group::*,
        leave_group::*,
        list_config_resources::ListConfigResourcesRequest,
        list_groups::ListGroupsRequest,
        list_offsets::*,
        list_partition_reassignments::*,
        list_transactions::ListTransactionsRequest,
        metadata::*,
        offset_commit::*,
        offset_delete::*,
        offset_fetch::*,
        offset_for_leader_epoch::*,
        produce::*,
        sasl_authenticate::SaslAuthenticateRequest,
        sasl_handshake::SaslHandshakeRequest,
        sync_group::*,
        txn_offset_commit::*,
        write_txn_markers::*,
    },
};
use bytes::Bytes;

/// The topic that the requests are about, and one that they make and delete.
pub(crate) const TOPIC: &str = "hostile";
const BRIEF: &str = "brief";
const GROUP: &str = "hostile-group";
const CONSUMER_GROUP: &str = "hostile-consumers";
const TRANSACTION: &str = "hostile-transaction";

/// Correlation id of every request before it is mutated.
const CORRELATION: i32 = 0x0102_0304;

/// A whole frame, with its length in front.
pub(crate) struct Seed {
    pub(crate) key: ApiKey,
    pub(crate) version: i16,
    pub(crate) frame: Vec<u8>,
}

/// What the broker knows that requests refer to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Scene {
    pub(crate) topic_id: Uuid,
    pub(crate) producer_id: i64,
}

/// At least one of each API and version, in a fixed order.
pub(crate) fn all(scene: Scene) -> Vec<Seed> {
    let mut seeds = Seeds(Vec::new());
    seeds.records(scene);
    seeds.groups(scene);
    seeds.topics(scene);
    seeds.transactions(scene);
    seeds.settings();
    seeds.cluster();
    for api in APIS {
        for version in api.min..=api.max {
            let found = seeds.0.iter().any(|seed| seed.key == api.key && seed.version == version);
            assert!(found, "no request of {:?} {version}", api.key);
        }
    }
    seeds.0
}

/// Batches as clients send them, in every codec.
pub(crate) fn batches() -> Vec<Bytes> {
    let mut all = vec![Bytes::new()];
    for codec in Codec::ALL {
        let mut builder = Builder::new();
        for number in 0..8i64 {
            let value = format!("{{\"number\": {number}, \"text\": \"a text that comes again, and again\"}}");
            let headers: [(&str, Option<&[u8]>); 2] = [("trace", Some(b"0123456789")), ("nothing", None)];
            let value = if number == 3 { None } else { Some(value.as_bytes()) };
            builder.push(1_700_000_000_000 + number, Some(b"key"), value, &headers).unwrap();
        }
        all.push(builder.finish(codec, codec.default_level()));
    }
    let mut builder = Builder::new();
    builder.set_producer(Producer { id: 1, epoch: 0, sequence: 0 });
    builder.push(0, None, Some(b""), &[]).unwrap();
    all.push(builder.finish(Codec::None, 0));
    all
}

/// Produce requests with more bytes of batches than a small budget holds.
pub(crate) fn large() -> Vec<Seed> {
    let mut builder = Builder::new();
    builder.push(0, None, Some(&vec![7; 60_000]), &[]).unwrap();
    let batch = builder.finish(Codec::None, 0);
    let mut seeds = Seeds(Vec::new());
    for batches in [vec![batch.clone(); 2], vec![batch.clone(); 7], vec![batch; 12]] {
        let count = batches.len();
        seeds.add(&produce(Scene::default(), batches, -1, None), &format!("large-{count}"));
    }
    seeds.0
}

/// A Produce request of one batch.
pub(crate) fn produce_frame(scene: Scene, batch: Bytes, version: i16) -> Vec<u8> {
    encode_request(&produce(scene, vec![batch], -1, None), version, CORRELATION, Some("hostile")).concat()
}

fn produce(scene: Scene, batches: Vec<Bytes>, acks: i16, transactional_id: Option<&str>) -> ProduceRequest {
    let data = |(index, records)| PartitionProduceData { index, records: Some(records) };
    let topic = TopicProduceData {
        name: TOPIC.into(),
        topic_id: scene.topic_id,
        partition_data: (0..).zip(batches).map(data).collect(),
    };
    ProduceRequest {
        transactional_id: transactional_id.map(Into::into),
        acks,
        timeout_ms: 1000,
        topic_data: vec![topic],
    }
}

struct Seeds(Vec<Seed>);

impl Seeds {
    /// The request in each of its versions.
    fn add<R: Request>(&mut self, request: &R, client_id: &str) {
        for version in R::API.min..=R::API.max {
            let frame = encode_request(request, version, CORRELATION, Some(client_id)).concat();
            self.0.push(Seed { key: R::API.key, version, frame });
        }
    }

    fn put<R: Request>(&mut self, request: &R) {
        self.add(request, "hostile");
    }

    fn records(&mut self, scene: Scene) {
        for batch in batches() {
            self.put(&produce(scene, vec![batch], -1, None));
        }
        let batches = batches();
        self.put(&produce(scene, vec![batches[1].clone(), batches[5].clone()], 1, Some(TRANSACTION)));
        self.put(&produce(scene, vec![batches[1].clone()], 0, None));
        for (max_wait_ms, fetch_offset, isolation_level) in [(0, 0, 0), (20, 3, 1), (50, Offset::MAX, 0)] {
            let partition = |partition| FetchPartition {
                partition,
                fetch_offset,
                partition_max_bytes: 4096,
                ..FetchPartition::default()
            };
            let topic = FetchTopic {
                topic: TOPIC.into(),
                topic_id: scene.topic_id,
                partitions: vec![partition(0), partition(1)],
            };
            let forgotten = ForgottenTopic { topic: TOPIC.into(), topic_id: scene.topic_id, partitions: vec![1] };
            self.put(&FetchRequest {
                cluster_id: Some("cluster".into()),
                max_wait_ms,
                min_bytes: 1,
                max_bytes: 8192,
                isolation_level,
                topics: vec![topic],
                forgotten_topics_data: vec![forgotten],
                rack_id: "rack".into(),
                ..FetchRequest::default()
            });
        }
        for timestamp in [-1, -2, -3, 1_700_000_000_003] {
            let partition = ListOffsetsPartition { partition_index: 0, current_leader_epoch: 0, timestamp };
            let topic = ListOffsetsTopic { name: TOPIC.into(), partitions: vec![partition] };
            self.put(&ListOffsetsRequest { replica_id: -1, isolation_level: 1, topics: vec![topic], timeout_ms: 100 });
        }
        let partition = DeleteRecordsPartition { partition_index: 0, offset: 1 };
        let topic = DeleteRecordsTopic { name: TOPIC.into(), partitions: vec![partition] };
        self.put(&DeleteRecordsRequest { topics: vec![topic], timeout_ms: 1000 });
        let partition = OffsetForLeaderPartition { partition: 0, current_leader_epoch: 0, leader_epoch: 0 };
        let topic = OffsetForLeaderTopic { topic: TOPIC.into(), partitions: vec![partition] };
        self.put(&OffsetForLeaderEpochRequest { replica_id: -1, topics: vec![topic] });
        self.put(&InitProducerIdRequest { transaction_timeout_ms: 1000, ..InitProducerIdRequest::default() });
        let topic = describe_producers::TopicRequest { name: TOPIC.into(), partition_indexes: vec![0, 1] };
        self.put(&DescribeProducersRequest { topics: vec![topic] });
    }

    fn groups(&mut self, scene: Scene) {
        self.put(&FindCoordinatorRequest {
            key: GROUP.into(),
            key_type: 0,
            coordinator_keys: vec![GROUP.into(), "another".into()],
        });
        let subscription = ConsumerProtocolSubscription { topics: vec![TOPIC.into()], ..Default::default() };
        let metadata = encode_versioned(&subscription, 1);
        for (member_id, group_instance_id) in [("", None), ("a-member", None), ("", Some("instance"))] {
            self.put(&JoinGroupRequest {
                group_id: GROUP.into(),
                session_timeout_ms: 6000,
                rebalance_timeout_ms: 20,
                member_id: member_id.into(),
                group_instance_id: group_instance_id.map(Into::into),
                protocol_type: "consumer".into(),
                protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: metadata.clone() }],
                reason: Some("why not".into()),
            });
        }
        self.put(&SyncGroupRequest {
            group_id: GROUP.into(),
            generation_id: 1,
            member_id: "a-member".into(),
            group_instance_id: Some("instance".into()),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: vec![SyncGroupRequestAssignment { member_id: "a-member".into(), assignment: metadata }],
        });
        self.put(&HeartbeatRequest {
            group_id: GROUP.into(),
            generation_id: 1,
            member_id: "a-member".into(),
            group_instance_id: Some("instance".into()),
        });
        self.put(&LeaveGroupRequest {
            group_id: GROUP.into(),
            member_id: "a-member".into(),
            members: vec![MemberIdentity {
                member_id: "a-member".into(),
                group_instance_id: Some("instance".into()),
                reason: Some("enough".into()),
            }],
        });
        let partition = OffsetCommitRequestPartition {
            partition_index: 0,
            committed_offset: 7,
            committed_leader_epoch: 0,
            committed_metadata: Some("a note".into()),
        };
        let topic = OffsetCommitRequestTopic { name: TOPIC.into(), partitions: vec![partition] };
        self.put(&OffsetCommitRequest { group_id: GROUP.into(), topics: vec![topic], ..Default::default() });
        let topics = vec![OffsetFetchRequestTopic { name: TOPIC.into(), partition_indexes: vec![0, 1] }];
        let group = OffsetFetchRequestGroup {
            group_id: GROUP.into(),
            topics: Some(vec![OffsetFetchRequestTopics { name: TOPIC.into(), partition_indexes: vec![0, 1] }]),
            ..Default::default()
        };
        self.put(&OffsetFetchRequest {
            group_id: GROUP.into(),
            topics: Some(topics),
            groups: vec![group],
            require_stable: true,
        });
        self.put(&OffsetFetchRequest { group_id: GROUP.into(), ..Default::default() });
        self.put(&DescribeGroupsRequest { groups: vec![GROUP.into()], include_authorized_operations: true });
        self.put(&ListGroupsRequest {
            states_filter: vec!["Stable".into(), "Empty".into()],
            types_filter: vec!["classic".into()],
        });
        self.put(&DeleteGroupsRequest { groups_names: vec![GROUP.into()] });
        for member_epoch in [0, 1, -1, -2] {
            self.put(&ConsumerGroupHeartbeatRequest {
                group_id: CONSUMER_GROUP.into(),
                member_id: "a-member".into(),
                member_epoch,
                instance_id: Some("instance".into()),
                rebalance_timeout_ms: 10_000,
                subscribed_topic_names: Some(vec![TOPIC.into(), BRIEF.into()]),
                subscribed_topic_regex: Some("hos.*".into()),
                server_assignor: Some("uniform".into()),
                topic_partitions: Some(vec![Owned { topic_id: scene.topic_id, partitions: vec![0] }]),
                ..Default::default()
            });
        }
        let group_ids = vec![CONSUMER_GROUP.into(), GROUP.into()];
        self.put(&ConsumerGroupDescribeRequest { group_ids, include_authorized_operations: true });
        let topic = OffsetDeleteRequestTopic {
            name: TOPIC.into(),
            partitions: vec![OffsetDeleteRequestPartition { partition_index: 0 }],
        };
        self.put(&OffsetDeleteRequest { group_id: GROUP.into(), topics: vec![topic] });
    }

    fn topics(&mut self, scene: Scene) {
        self.put(&MetadataRequest::default());
        for (topic_id, name) in [([0; 16], Some(TOPIC)), (scene.topic_id, None)] {
            self.put(&MetadataRequest {
                topics: Some(vec![MetadataRequestTopic { topic_id, name: name.map(Into::into) }]),
                allow_auto_topic_creation: true,
                ..Default::default()
            });
        }
        self.put(&CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: BRIEF.into(),
                num_partitions: 2,
                replication_factor: 1,
                assignments: vec![],
                configs: vec![CreatableTopicConfig { name: "retention.ms".into(), value: Some("60000".into()) }],
            }],
            timeout_ms: 1000,
            validate_only: false,
        });
        self.put(&CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: "never-made".into(),
                num_partitions: -1,
                replication_factor: -1,
                assignments: vec![CreatableReplicaAssignment { partition_index: 0, broker_ids: vec![1] }],
                configs: vec![],
            }],
            timeout_ms: 1000,
            validate_only: true,
        });
        self.put(&DeleteTopicsRequest {
            topics: vec![DeleteTopicState { name: Some(BRIEF.into()), topic_id: [0; 16] }],
            topic_names: vec![BRIEF.into()],
            timeout_ms: 1000,
        });
        self.put(&CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: BRIEF.into(),
                count: 3,
                assignments: Some(vec![CreatePartitionsAssignment { broker_ids: vec![1] }]),
            }],
            timeout_ms: 1000,
            validate_only: false,
        });
        self.put(&DescribeTopicPartitionsRequest {
            topics: vec![describe_topic_partitions::TopicRequest { name: TOPIC.into() }],
            response_partition_limit: 1,
            cursor: Some(describe_topic_partitions::Cursor { topic_name: TOPIC.into(), partition_index: 1 }),
        });
        let partitions = vec![ReassignablePartition { partition_index: 0, replicas: Some(vec![1]) }];
        let topics = vec![ReassignableTopic { name: TOPIC.into(), partitions }];
        self.put(&AlterPartitionReassignmentsRequest { timeout_ms: 1000, topics });
        let topics = vec![ListPartitionReassignmentsTopics { name: TOPIC.into(), partition_indexes: vec![0] }];
        self.put(&ListPartitionReassignmentsRequest { timeout_ms: 1000, topics: Some(topics) });
        let topics = vec![TopicPartitions { topic: TOPIC.into(), partitions: vec![0, 1] }];
        self.put(&ElectLeadersRequest { election_type: 0, topic_partitions: Some(topics), timeout_ms: 1000 });
        let topics = vec![DescribableLogDirTopic { topic: TOPIC.into(), partitions: vec![0] }];
        self.put(&DescribeLogDirsRequest { topics: Some(topics) });
        let topics = vec![AlterReplicaLogDirTopic { name: TOPIC.into(), partitions: vec![0] }];
        self.put(&AlterReplicaLogDirsRequest { dirs: vec![AlterReplicaLogDir { path: "/data".into(), topics }] });
    }

    fn transactions(&mut self, Scene { producer_id, .. }: Scene) {
        let transactional_id = || String::from(TRANSACTION);
        self.put(&InitProducerIdRequest {
            transactional_id: Some(transactional_id()),
            transaction_timeout_ms: 1000,
            ..Default::default()
        });
        let topics = || vec![AddPartitionsToTxnTopic { name: TOPIC.into(), partitions: vec![0, 1] }];
        self.put(&AddPartitionsToTxnRequest {
            transactions: vec![AddPartitionsToTxnTransaction {
                transactional_id: transactional_id(),
                producer_id,
                producer_epoch: 0,
                verify_only: false,
                topics: topics(),
            }],
            v3_and_below_transactional_id: transactional_id(),
            v3_and_below_producer_id: producer_id,
            v3_and_below_producer_epoch: 0,
            v3_and_below_topics: topics(),
        });
        self.put(&AddOffsetsToTxnRequest {
            transactional_id: transactional_id(),
            producer_id,
            producer_epoch: 0,
            group_id: GROUP.into(),
        });
        let partition = TxnOffsetCommitRequestPartition {
            partition_index: 0,
            committed_offset: 3,
            committed_leader_epoch: 0,
            committed_metadata: None,
        };
        self.put(&TxnOffsetCommitRequest {
            transactional_id: transactional_id(),
            group_id: GROUP.into(),
            producer_id,
            producer_epoch: 0,
            topics: vec![TxnOffsetCommitRequestTopic { name: TOPIC.into(), partitions: vec![partition] }],
            ..Default::default()
        });
        for committed in [true, false] {
            self.put(&EndTxnRequest {
                transactional_id: transactional_id(),
                producer_id,
                producer_epoch: 0,
                committed,
            });
        }
        self.put(&WriteTxnMarkersRequest {
            markers: vec![WritableTxnMarker {
                producer_id,
                producer_epoch: 0,
                transaction_result: false,
                topics: vec![WritableTxnMarkerTopic { name: TOPIC.into(), partition_indexes: vec![0] }],
                coordinator_epoch: 0,
            }],
        });
        self.put(&DescribeTransactionsRequest { transactional_ids: vec![transactional_id()] });
        self.put(&ListTransactionsRequest {
            state_filters: vec!["Ongoing".into()],
            producer_id_filters: vec![producer_id],
            transactional_id_pattern: Some("hostile-.*".into()),
            ..Default::default()
        });
    }

    fn settings(&mut self) {
        for (resource_type, name) in [(2, TOPIC), (4, "1"), (4, "")] {
            self.put(&DescribeConfigsRequest {
                resources: vec![DescribeConfigsResource {
                    resource_type,
                    resource_name: name.into(),
                    configuration_keys: Some(vec!["retention.ms".into(), "log.retention.ms".into()]),
                }],
                include_synonyms: true,
                include_documentation: true,
            });
        }
        self.put(&DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type: 4,
                resource_name: "1".into(),
                configuration_keys: None,
            }],
            ..Default::default()
        });
        // Of the broker's settings only one that the witness's topic has of its own.
        for (resource_type, resource_name, name) in [(2, TOPIC, "retention.ms"), (4, "", "log.retention.ms")] {
            let value = Some(String::from("86400000"));
            self.put(&IncrementalAlterConfigsRequest {
                resources: vec![incremental_alter_configs::AlterConfigsResource {
                    resource_type,
                    resource_name: resource_name.into(),
                    configs: vec![incremental_alter_configs::AlterableConfig {
                        name: name.into(),
                        config_operation: 0,
                        value: value.clone(),
                    }],
                }],
                validate_only: false,
            });
            self.put(&AlterConfigsRequest {
                resources: vec![alter_configs::AlterConfigsResource {
                    resource_type,
                    resource_name: resource_name.into(),
                    configs: vec![alter_configs::AlterableConfig { name: name.into(), value }],
                }],
                validate_only: false,
            });
        }
        self.put(&ListConfigResourcesRequest { resource_types: vec![2, 4] });
    }

    fn cluster(&mut self) {
        self.put(&ApiVersionsRequest { client_software_name: "hostile".into(), client_software_version: "1.0".into() });
        self.put(&DescribeClusterRequest {
            include_cluster_authorized_operations: true,
            endpoint_type: 1,
            include_fenced_brokers: true,
        });
        let partitions = vec![describe_quorum::PartitionRequest { partition_index: 0 }];
        let topics = vec![describe_quorum::TopicRequest { topic_name: "__cluster_metadata".into(), partitions }];
        self.put(&DescribeQuorumRequest { topics });
        self.put(&SaslHandshakeRequest { mechanism: "PLAIN".into() });
        self.put(&SaslAuthenticateRequest { auth_bytes: Bytes::from_static(b"\0user\0password") });
        self.put(&DescribeAclsRequest {
            resource_type_filter: 2,
            resource_name_filter: Some(TOPIC.into()),
            principal_filter: Some("User:me".into()),
            host_filter: None,
            operation: 1,
            permission_type: 1,
            ..Default::default()
        });
        self.put(&CreateAclsRequest {
            creations: vec![AclCreation {
                resource_type: 2,
                resource_name: TOPIC.into(),
                principal: "User:me".into(),
                host: "*".into(),
                operation: 3,
                permission_type: 3,
                ..Default::default()
            }],
        });
        self.put(&DeleteAclsRequest {
            filters: vec![DeleteAclsFilter { resource_type_filter: 2, operation: 1, ..Default::default() }],
        });
    }
}
