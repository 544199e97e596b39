//! Consumer groups over a socket, in every version that is advertised.

use std::time::Duration;

use brooklet::groups::offsets;
use brooklet::wire::{
    ErrorCode,
    delete_groups::DeleteGroupsRequest,
    delete_topics::DeleteTopicsRequest,
    describe_groups::{DescribeGroupsRequest, DescribedGroup},
    describe_topic_partitions::DescribeTopicPartitionsRequest,
    find_coordinator::FindCoordinatorRequest,
    heartbeat::HeartbeatRequest,
    join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse},
    leave_group::{LeaveGroupRequest, MemberIdentity},
    list_groups::ListGroupsRequest,
    metadata::MetadataRequest,
    offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_delete::{OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
    offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics},
    sync_group::{SyncGroupRequest, SyncGroupRequestAssignment},
};
use bytes::Bytes;

use crate::{
    kafka::produce_request,
    support::{Broker, Client, PATIENCE, batch},
};

/// A subscription to the topic `t`, as a consumer writes it.
const SUBSCRIPTION: &[u8] = b"\0\0\0\0\0\x01\0\x01t\0\0\0\0";

fn join_request(group: &str, member_id: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 6000,
        rebalance_timeout_ms: 60_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(SUBSCRIPTION) }],
        ..Default::default()
    }
}

/// Joins, coming back with the id from version 4 on.
async fn join(client: &mut Client, group: &str, version: i16) -> JoinGroupResponse {
    let first = client.call(&join_request(group, ""), version).await;
    if version < 4 {
        return first;
    }
    assert_eq!(first.error_code, ErrorCode::MEMBER_ID_REQUIRED);
    assert!(first.member_id.starts_with("it-"), "named after the client: {}", first.member_id);
    client.call(&join_request(group, &first.member_id), version).await
}

async fn sync(client: &mut Client, group: &str, joined: &JoinGroupResponse, version: i16) -> Bytes {
    let share = |m: &brooklet::wire::join_group::JoinGroupResponseMember| SyncGroupRequestAssignment {
        member_id: m.member_id.clone(),
        assignment: Bytes::from(format!("for {}", m.member_id)),
    };
    let request = SyncGroupRequest {
        group_id: group.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        protocol_type: Some("consumer".into()),
        protocol_name: Some("range".into()),
        assignments: joined.members.iter().map(share).collect(),
        ..Default::default()
    };
    let synced = client.call(&request, version).await;
    assert_eq!(synced.error_code, ErrorCode::NONE);
    if version >= 5 {
        assert_eq!(
            (synced.protocol_type.as_deref(), synced.protocol_name.as_deref()),
            (Some("consumer"), Some("range"))
        );
    }
    synced.assignment
}

async fn beat(client: &mut Client, group: &str, joined: &JoinGroupResponse, version: i16) -> ErrorCode {
    let request = HeartbeatRequest {
        group_id: group.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        ..Default::default()
    };
    client.call(&request, version).await.error_code
}

/// Commits `offset` for `t-0`.
async fn commit(
    client: &mut Client,
    group: &str,
    member: Option<&JoinGroupResponse>,
    offset: i64,
    version: i16,
) -> ErrorCode {
    let request = OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: member.map_or(-1, |m| m.generation_id),
        member_id: member.map_or_else(String::new, |m| m.member_id.clone()),
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: 0,
                committed_offset: offset,
                committed_leader_epoch: if version >= 6 { 0 } else { -1 },
                committed_metadata: Some("señal".into()),
            }],
        }],
        ..Default::default()
    };
    let response = client.call(&request, version).await;
    response.topics[0].partitions[0].error_code
}

/// Offset, metadata and code of `t-0`, asked by name, and the number of partitions if everything is asked for.
async fn fetch(client: &mut Client, group: &str, version: i16) -> (i64, String, ErrorCode, Option<usize>) {
    if version < 8 {
        let named = OffsetFetchRequest {
            group_id: group.into(),
            topics: Some(vec![OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] }]),
            ..Default::default()
        };
        let response = client.call(&named, version).await;
        let p = &response.topics[0].partitions[0];
        let found = (p.committed_offset, p.metadata.clone().unwrap(), p.error_code);
        assert_eq!(response.error_code, ErrorCode::NONE);
        let mut all = None;
        if version >= 2 {
            let everything = OffsetFetchRequest { group_id: group.into(), topics: None, ..Default::default() };
            let response = client.call(&everything, version).await;
            all = Some(response.topics.iter().map(|t| t.partitions.len()).sum());
        }
        return (found.0, found.1, found.2, all);
    }
    let topics = vec![OffsetFetchRequestTopics { name: "t".into(), partition_indexes: vec![0] }];
    let group = |topics| OffsetFetchRequestGroup { group_id: group.into(), topics, ..Default::default() };
    let request = OffsetFetchRequest { groups: vec![group(Some(topics)), group(None)], ..Default::default() };
    let response = client.call(&request, version).await;
    assert_eq!((response.groups[0].error_code, response.groups[1].error_code), (ErrorCode::NONE, ErrorCode::NONE));
    let p = &response.groups[0].topics[0].partitions[0];
    let all = response.groups[1].topics.iter().map(|t| t.partitions.len()).sum();
    (p.committed_offset, p.metadata.clone().unwrap(), p.error_code, Some(all))
}

async fn leave(client: &mut Client, group: &str, member_id: &str, version: i16) -> ErrorCode {
    let request = LeaveGroupRequest {
        group_id: group.into(),
        member_id: if version < 3 { member_id.into() } else { String::new() },
        members: vec![MemberIdentity { member_id: member_id.into(), ..Default::default() }],
    };
    let response = client.call(&request, version).await;
    if version < 3 {
        return response.error_code;
    }
    assert_eq!(response.error_code, ErrorCode::NONE);
    response.members[0].error_code
}

async fn describe(client: &mut Client, group: &str, version: i16) -> DescribedGroup {
    let request = DescribeGroupsRequest { groups: vec![group.into()], include_authorized_operations: version >= 3 };
    client.call(&request, version).await.groups.remove(0)
}

#[tokio::test]
async fn a_member_comes_works_and_goes_in_every_version() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    for version in 0..=9 {
        let group = format!("g{version}");
        let (commit_version, fetch_version) = (version.clamp(2, 9), version.clamp(1, 9));
        assert_eq!(fetch(&mut client, &group, fetch_version).await.0, -1);
        let joined = join(&mut client, &group, version).await;
        assert_eq!((joined.error_code, joined.generation_id), (ErrorCode::NONE, 1));
        assert_eq!((&joined.leader, joined.members.len()), (&joined.member_id, 1));
        assert_eq!(
            (joined.members[0].metadata.as_ref(), joined.protocol_name.as_deref()),
            (SUBSCRIPTION, Some("range"))
        );
        assert_eq!(
            commit(&mut client, &group, Some(&joined), 5, commit_version).await,
            ErrorCode::REBALANCE_IN_PROGRESS
        );
        assert_eq!(sync(&mut client, &group, &joined, version.min(5)).await, format!("for {}", joined.member_id));
        assert_eq!(beat(&mut client, &group, &joined, version.min(4)).await, ErrorCode::NONE);
        assert_eq!(commit(&mut client, &group, Some(&joined), 5, commit_version).await, ErrorCode::NONE);
        assert_eq!(commit(&mut client, &group, None, 5, commit_version).await, ErrorCode::UNKNOWN_MEMBER_ID);
        let stale = JoinGroupResponse { generation_id: 7, ..joined.clone() };
        assert_eq!(commit(&mut client, &group, Some(&stale), 5, commit_version).await, ErrorCode::ILLEGAL_GENERATION);
        assert_eq!(beat(&mut client, &group, &stale, version.min(4)).await, ErrorCode::ILLEGAL_GENERATION);
        let found = fetch(&mut client, &group, fetch_version).await;
        assert_eq!((found.0, &*found.1, found.2), (5, "señal", ErrorCode::NONE));
        assert!(found.3.is_none_or(|partitions| partitions == 1));

        let described = describe(&mut client, &group, version.min(6)).await;
        assert_eq!((&*described.group_state, &*described.protocol_data), ("Stable", "range"));
        assert_eq!(described.members[0].client_host, "/127.0.0.1");
        assert_eq!(described.members[0].client_id, "it");
        assert_eq!(described.members[0].member_metadata, SUBSCRIPTION);
        assert!(described.members[0].member_assignment.starts_with(b"for it-"));

        let leave_version = version.min(5);
        assert_eq!(leave(&mut client, &group, "stranger", leave_version).await, ErrorCode::UNKNOWN_MEMBER_ID);
        assert_eq!(leave(&mut client, &group, &joined.member_id, leave_version).await, ErrorCode::NONE);
        assert_eq!(beat(&mut client, &group, &joined, version.min(4)).await, ErrorCode::UNKNOWN_MEMBER_ID);
        assert_eq!(describe(&mut client, &group, version.min(6)).await.group_state, "Empty");
        assert_eq!(fetch(&mut client, &group, fetch_version).await.0, 5);
    }
    for version in 0..=5 {
        let filter = ListGroupsRequest {
            states_filter: if version >= 4 { vec!["empty".into()] } else { vec![] },
            types_filter: if version >= 5 { vec!["Classic".into()] } else { vec![] },
        };
        let listed = client.call(&filter, version).await;
        assert_eq!(listed.groups.len(), 10);
        assert_eq!((&*listed.groups[3].group_id, &*listed.groups[3].protocol_type), ("g3", "consumer"));
        if version >= 4 {
            assert_eq!(listed.groups[0].group_state, "Empty");
            let none = ListGroupsRequest { states_filter: vec!["Stable".into()], types_filter: vec![] };
            assert!(client.call(&none, version).await.groups.is_empty());
        }
        if version >= 5 {
            let none = ListGroupsRequest { states_filter: vec![], types_filter: vec!["share".into()] };
            assert!(client.call(&none, version).await.groups.is_empty());
        }
    }
}

#[tokio::test]
async fn a_second_member_waits_for_the_first_to_join_again() {
    let broker = Broker::start().await;
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    let a = join(&mut one, "g", 9).await;
    sync(&mut one, "g", &a, 5).await;
    let id = two.call(&join_request("g", ""), 9).await.member_id;
    two.send(&join_request("g", &id), 9).await;
    while beat(&mut one, "g", &a, 4).await == ErrorCode::NONE {
        tokio::task::yield_now().await;
    }
    assert_eq!(beat(&mut one, "g", &a, 4).await, ErrorCode::REBALANCE_IN_PROGRESS);
    let a = one.call(&join_request("g", &a.member_id), 9).await;
    let b = two.receive::<JoinGroupRequest>(9).await;
    assert_eq!((a.generation_id, b.generation_id), (2, 2));
    assert_eq!((a.members.len(), b.members.len(), &b.leader), (2, 0, &a.member_id));
    let (for_a, for_b) = tokio::join!(sync(&mut one, "g", &a, 5), sync(&mut two, "g", &b, 5));
    assert_eq!(for_a, format!("for {}", a.member_id));
    assert_eq!(for_b, format!("for {}", b.member_id));
}

/// Versions 0 to 3 tell the id with the answer: who hangs up before it can never come back.
#[tokio::test]
async fn a_client_that_hangs_up_while_parked_is_forgotten() {
    let broker = Broker::start().await;
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    let a = join(&mut one, "g", 3).await;
    sync(&mut one, "g", &a, 2).await;
    two.send(&join_request("g", ""), 3).await;
    let members = async |client: &mut Client| describe(client, "g", 5).await.members.len();
    while members(&mut one).await != 2 {
        tokio::task::yield_now().await;
    }
    drop(two);
    let gone = async {
        while members(&mut one).await != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("long before its session ends");
}

#[tokio::test]
async fn a_daemon_that_stops_answers_or_closes_parked_joins() {
    let broker = Broker::start().await;
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    let a = join(&mut one, "g", 3).await;
    sync(&mut one, "g", &a, 2).await;
    two.send(&join_request("g", ""), 3).await;
    while describe(&mut one, "g", 5).await.members.len() != 2 {
        tokio::task::yield_now().await;
    }
    assert!(broker.supervisor.drain(PATIENCE).await, "nothing hangs");
    let _answered_or_closed = two.frame().await;
}

#[tokio::test]
async fn a_static_member_that_restarts_does_not_disturb() {
    let broker = Broker::start().await;
    let mut client = broker.connect().await;
    let named = JoinGroupRequest { group_instance_id: Some("pump-1".into()), ..join_request("g", "") };
    let first = client.call(&named, 9).await;
    assert_eq!((first.error_code, first.generation_id), (ErrorCode::NONE, 1), "no detour for a static member");
    sync(&mut client, "g", &first, 5).await;
    let second = client.call(&named, 9).await;
    assert_eq!((second.generation_id, second.skip_assignment), (1, true));
    assert_ne!(second.member_id, first.member_id);
    assert_eq!(second.members[0].group_instance_id.as_deref(), Some("pump-1"));
    let old = HeartbeatRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: first.member_id,
        group_instance_id: Some("pump-1".into()),
    };
    assert_eq!(client.call(&old, 4).await.error_code, ErrorCode::FENCED_INSTANCE_ID);
    // An administrator removes it by its name.
    let member = MemberIdentity { group_instance_id: Some("pump-1".into()), ..Default::default() };
    let request = LeaveGroupRequest { group_id: "g".into(), members: vec![member], ..Default::default() };
    assert_eq!(client.call(&request, 5).await.members[0].error_code, ErrorCode::NONE);
    assert_eq!(describe(&mut client, "g", 6).await.group_state, "Empty");
}

#[tokio::test]
async fn what_a_group_refuses_has_kafkas_codes() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    for (version, code) in [(2, ErrorCode::INVALID_GROUP_ID), (9, ErrorCode::INVALID_GROUP_ID)] {
        assert_eq!(client.call(&join_request("", ""), version).await.error_code, code);
    }
    let short = JoinGroupRequest { session_timeout_ms: 5999, ..join_request("g", "") };
    assert_eq!(client.call(&short, 9).await.error_code, ErrorCode::INVALID_SESSION_TIMEOUT);
    let nothing = JoinGroupRequest { protocols: vec![], ..join_request("g", "") };
    assert_eq!(client.call(&nothing, 9).await.error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let stranger = client.call(&join_request("g", "stranger"), 9).await;
    assert_eq!((stranger.error_code, &*stranger.member_id), (ErrorCode::UNKNOWN_MEMBER_ID, "stranger"));

    // Unknown groups.
    let nameless = JoinGroupResponse { generation_id: 3, ..Default::default() };
    assert_eq!(commit(&mut client, "none", Some(&nameless), 1, 8).await, ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(commit(&mut client, "none", Some(&nameless), 1, 9).await, ErrorCode::GROUP_ID_NOT_FOUND);
    let before_restart = JoinGroupResponse { generation_id: 3, member_id: "m".into(), ..Default::default() };
    assert_eq!(commit(&mut client, "none", Some(&before_restart), 1, 9).await, ErrorCode::UNKNOWN_MEMBER_ID);
    let old = describe(&mut client, "none", 5).await;
    assert_eq!((old.error_code, &*old.group_state), (ErrorCode::NONE, "Dead"));
    let new = describe(&mut client, "none", 6).await;
    assert_eq!((new.error_code, new.error_message.is_some()), (ErrorCode::GROUP_ID_NOT_FOUND, true));

    // A sync of version 5 must say what it believes in.
    let joined = join(&mut client, "g", 9).await;
    let mute = SyncGroupRequest {
        group_id: "g".into(),
        member_id: joined.member_id.clone(),
        generation_id: 1,
        ..Default::default()
    };
    assert_eq!(client.call(&mute, 5).await.error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
}

#[tokio::test]
async fn offsets_without_members_make_a_group_that_can_be_deleted() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    broker.topic("u", 1, &[]).await;
    let mut client = broker.connect().await;
    for version in 0..=2 {
        let group = format!("g{version}");
        assert_eq!(commit(&mut client, &group, None, 7, 8).await, ErrorCode::NONE);
        assert_eq!(describe(&mut client, &group, 6).await.group_state, "Empty");
        let delete = DeleteGroupsRequest { groups_names: vec![group.clone(), "none".into(), String::new()] };
        let codes: Vec<_> = client.call(&delete, version).await.results.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [ErrorCode::NONE, ErrorCode::GROUP_ID_NOT_FOUND, ErrorCode::INVALID_GROUP_ID]);
        assert_eq!(fetch(&mut client, &group, 8).await.0, -1);
    }
    // With members: not the group, and not the topics they want.
    assert_eq!(commit(&mut client, "g", None, 7, 8).await, ErrorCode::NONE);
    let joined = join(&mut client, "g", 9).await;
    let delete = DeleteGroupsRequest { groups_names: vec!["g".into()] };
    assert_eq!(client.call(&delete, 2).await.results[0].error_code, ErrorCode::NON_EMPTY_GROUP);
    let topic = |name: &str| OffsetDeleteRequestTopic {
        name: name.into(),
        partitions: vec![OffsetDeleteRequestPartition { partition_index: 0 }],
    };
    let offsets = OffsetDeleteRequest { group_id: "g".into(), topics: vec![topic("t"), topic("u"), topic("v")] };
    let response = client.call(&offsets, 0).await;
    let codes: Vec<_> = response.topics.iter().map(|t| t.partitions[0].error_code).collect();
    assert_eq!(codes, [ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC, ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION]);
    leave(&mut client, "g", &joined.member_id, 5).await;
    let response = client.call(&offsets, 0).await;
    assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::NONE);
    assert_eq!(fetch(&mut client, "g", 8).await.0, -1);
    let none = OffsetDeleteRequest { group_id: "none".into(), topics: vec![topic("t")] };
    assert_eq!(client.call(&none, 0).await.error_code, ErrorCode::GROUP_ID_NOT_FOUND);
}

#[tokio::test]
async fn a_deleted_topic_takes_its_committed_offsets_along() {
    let broker = Broker::start().await;
    let topic = broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    assert_eq!(commit(&mut client, "g", None, 7, 8).await, ErrorCode::NONE);
    let delete = DeleteTopicsRequest { topic_names: vec!["t".into()], ..Default::default() };
    assert_eq!(client.call(&delete, 5).await.responses[0].error_code, ErrorCode::NONE);
    assert!(offsets::forget_topic(&broker.log, topic.id).unwrap().is_empty(), "gone in the same commit");
    broker.topic("t", 1, &[]).await;
    assert_eq!(fetch(&mut client, "g", 8).await.0, -1);
    assert_eq!(describe(&mut client, "g", 6).await.error_code, ErrorCode::GROUP_ID_NOT_FOUND);
}

#[tokio::test]
async fn this_node_coordinates_everything_it_knows() {
    let broker = Broker::start().await;
    let mut client = broker.connect().await;
    let port = i32::from(broker.address().port());
    for version in 0..=6 {
        for (key_type, code) in [(0, ErrorCode::NONE), (1, ErrorCode::NONE), (2, ErrorCode::INVALID_REQUEST)] {
            let is_list = version >= 4;
            let request = FindCoordinatorRequest {
                key: if is_list { String::new() } else { "g".into() },
                key_type: if version == 0 { 0 } else { key_type },
                coordinator_keys: if is_list { vec!["g".into(), "h".into()] } else { vec![] },
            };
            let code = if version == 0 { ErrorCode::NONE } else { code };
            let response = client.call(&request, version).await;
            let (found, host, port_told) = if is_list {
                assert_eq!(response.coordinators.len(), 2);
                let c = &response.coordinators[1];
                assert_eq!(c.key, "h");
                (c.error_code, c.host.clone(), c.port)
            } else {
                (response.error_code, response.host, response.port)
            };
            assert_eq!(found, code);
            if code == ErrorCode::NONE {
                assert_eq!((&*host, port_told), ("127.0.0.1", port));
            }
        }
    }
}

#[tokio::test]
async fn the_first_group_makes_the_internal_topic_that_clients_look_for() {
    let broker = Broker::start().await;
    let mut client = broker.connect().await;
    let named = |name: &str| FindCoordinatorRequest { key: name.into(), ..Default::default() };
    let of_transaction = FindCoordinatorRequest { key_type: 1, ..named("t") };
    client.call(&of_transaction, 3).await;
    assert!(broker.log.topics().borrow().by_name.is_empty(), "transactions need none");
    client.call(&named("g"), 3).await;
    client.call(&named("h"), 3).await;
    broker.topic("plain", 1, &[]).await;

    let seen = client.call(&MetadataRequest { topics: None, ..Default::default() }, 12).await.topics;
    let seen: Vec<_> = seen.iter().map(|t| (t.name.as_deref().unwrap(), t.is_internal)).collect();
    assert_eq!(seen, [("__consumer_offsets", true), ("plain", false)]);
    let pages = client.call(&DescribeTopicPartitionsRequest::default(), 0).await.topics;
    assert_eq!(pages.iter().map(|t| t.is_internal).collect::<Vec<_>>(), [true, false]);

    let request = produce_request("__consumer_offsets", 0, batch(&["a"]), -1);
    let refused = client.call(&request, 9).await.responses[0].partition_responses[0].error_code;
    assert_eq!(refused, ErrorCode::INVALID_TOPIC_EXCEPTION, "as Kafka does");
}
