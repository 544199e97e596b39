//! The consumer group protocol (KIP-848) over a socket.

use std::{collections::BTreeSet, time::Duration};

use brooklet::wire::{
    ErrorCode, Uuid,
    consumer_group_describe::{ConsumerGroupDescribeRequest, DescribedGroup},
    consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicPartitions},
    delete_groups::DeleteGroupsRequest,
    describe_groups::DescribeGroupsRequest,
    heartbeat::HeartbeatRequest,
    join_group::{JoinGroupRequest, JoinGroupRequestProtocol},
    leave_group::{LeaveGroupRequest, MemberIdentity},
    list_groups::ListGroupsRequest,
    offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_delete::{OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
    offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics},
    sync_group::SyncGroupRequest,
};
use bytes::Bytes;

use crate::support::{Broker, Client, PATIENCE};

type Owned = BTreeSet<(Uuid, i32)>;

fn join(group: &str, member_id: &str) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest {
        group_id: group.into(),
        member_id: member_id.into(),
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(vec!["t".into()]),
        topic_partitions: Some(Vec::new()),
        ..Default::default()
    }
}

fn beat(group: &str, member_id: &str, member_epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest {
        group_id: group.into(),
        member_id: member_id.into(),
        member_epoch,
        ..Default::default()
    }
}

fn owning(group: &str, member_id: &str, member_epoch: i32, owned: &Owned) -> ConsumerGroupHeartbeatRequest {
    let topic_partitions =
        owned.iter().map(|(topic_id, index)| TopicPartitions { topic_id: *topic_id, partitions: vec![*index] });
    ConsumerGroupHeartbeatRequest {
        topic_partitions: Some(topic_partitions.collect()),
        ..beat(group, member_id, member_epoch)
    }
}

fn assigned(response: &ConsumerGroupHeartbeatResponse) -> Option<Owned> {
    assert_eq!(response.error_code, ErrorCode::NONE, "{:?}", response.error_message);
    let topics = &response.assignment.as_ref()?.topic_partitions;
    Some(topics.iter().flat_map(|t| t.partitions.iter().map(|index| (t.topic_id, *index))).collect())
}

async fn describe(client: &mut Client, group: &str, version: i16) -> DescribedGroup {
    let request =
        ConsumerGroupDescribeRequest { group_ids: vec![group.into(); 2], include_authorized_operations: true };
    let mut groups = client.call(&request, version).await.groups;
    assert_eq!(groups.len(), 1, "once, however often it is asked for");
    groups.remove(0)
}

async fn commit(client: &mut Client, group: &str, member: &str, epoch: i32, index: i32, version: i16) -> ErrorCode {
    let request = OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: epoch,
        member_id: member.into(),
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: index,
                committed_offset: 5,
                ..Default::default()
            }],
        }],
        ..Default::default()
    };
    client.call(&request, version).await.topics[0].partitions[0].error_code
}

/// The group's code and the offset of `t-0`.
async fn fetch(client: &mut Client, group: &str, member_id: Option<&str>, member_epoch: i32) -> (ErrorCode, i64) {
    let topics = Some(vec![OffsetFetchRequestTopics { name: "t".into(), partition_indexes: vec![0] }]);
    let group =
        OffsetFetchRequestGroup { group_id: group.into(), member_id: member_id.map(Into::into), member_epoch, topics };
    let response = client.call(&OffsetFetchRequest { groups: vec![group], ..Default::default() }, 9).await;
    let found = &response.groups[0];
    (found.error_code, found.topics.first().map_or(-1, |t| t.partitions[0].committed_offset))
}

fn classic_join(group: &str, member_id: &str) -> JoinGroupRequest {
    let metadata = Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\0\0\0\0");
    JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 6000,
        rebalance_timeout_ms: 60_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata }],
        ..Default::default()
    }
}

#[tokio::test]
async fn members_share_a_topic_in_both_versions() {
    let broker = Broker::start().await;
    let topic = broker.topic("t", 4, &[]).await;
    let mut client = broker.connect().await;
    for version in 0..=1 {
        let group = format!("g{version}");
        // Version 0 has the broker make the id.
        let id = if version == 0 { "" } else { "mine" };
        let a = client.call(&join(&group, id), version).await;
        let all: Owned = (0..4).map(|index| (topic.id, index)).collect();
        assert_eq!((assigned(&a), a.member_epoch, a.heartbeat_interval_ms), (Some(all.clone()), 1, 5000));
        let a = a.member_id.unwrap();
        assert!(if version == 0 { a.len() == 36 } else { a == "mine" }, "{a}");
        let b = client.call(&join(&group, "b"), version).await;
        assert_eq!((assigned(&b), b.member_epoch), (Some(Owned::new()), 2));

        let described = describe(&mut client, &group, version).await;
        assert_eq!((&*described.group_state, described.group_epoch, described.assignment_epoch), ("Reconciling", 2, 2));
        assert_eq!((&*described.assignor_name, described.members.len()), ("uniform", 2));

        let kept = assigned(&client.call(&beat(&group, &a, 1), version).await).unwrap();
        assert_eq!(kept.len(), 2);
        let done = client.call(&owning(&group, &a, 1, &kept), version).await;
        assert_eq!((assigned(&done), done.member_epoch), (None, 2));
        let b = assigned(&client.call(&beat(&group, "b", 2), version).await).unwrap();
        assert_eq!(kept.union(&b).copied().collect::<Owned>(), all);

        let described = describe(&mut client, &group, version).await;
        assert_eq!((described.error_code, &*described.group_state), (ErrorCode::NONE, "Stable"));
        assert_eq!(described.authorized_operations, 1 << 3 | 1 << 6 | 1 << 8);
        let member = described.members.iter().find(|m| m.member_id == "b").unwrap();
        assert_eq!((&*member.client_id, &*member.client_host, member.member_epoch), ("it", "/127.0.0.1", 2));
        assert_eq!(member.subscribed_topic_names, ["t"]);
        assert_eq!(member.member_type, if version == 0 { -1 } else { 1 });
        let shares = &member.assignment.topic_partitions;
        assert_eq!((&*shares[0].topic_name, shares[0].topic_id, shares[0].partitions.len()), ("t", topic.id, 2));
        assert_eq!(member.assignment, member.target_assignment);

        let left = client.call(&beat(&group, &a, -1), version).await;
        assert_eq!((left.error_code, left.member_epoch, left.member_id), (ErrorCode::NONE, -1, Some(a.clone())));
        let b = client.call(&beat(&group, "b", 2), version).await;
        assert_eq!((assigned(&b), b.member_epoch), (Some(all), 3));
        assert_eq!(client.call(&beat(&group, &a, 2), version).await.error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    }
}

#[tokio::test]
async fn refusals_have_kafkas_codes() {
    let broker = Broker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    let code = async |client: &mut Client, request: ConsumerGroupHeartbeatRequest, version| {
        let refused = client.call(&request, version).await;
        assert_eq!(refused.error_message.is_some(), refused.error_code != ErrorCode::NONE);
        refused.error_code
    };
    assert_eq!(code(&mut client, join("", "a"), 1).await, ErrorCode::INVALID_REQUEST);
    assert_eq!(code(&mut client, join("g", ""), 1).await, ErrorCode::INVALID_REQUEST, "the client makes its id");
    assert_eq!(code(&mut client, join(&"g".repeat(400), "a"), 1).await, ErrorCode::INVALID_GROUP_ID);
    // After a restart of the daemon nobody is known; Kafka would say that the group is not.
    assert_eq!(code(&mut client, beat("g", "a", 3), 1).await, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(code(&mut client, beat("g", "a", -1), 1).await, ErrorCode::UNKNOWN_MEMBER_ID);
    let sticky = ConsumerGroupHeartbeatRequest { server_assignor: Some("sticky".into()), ..join("g", "a") };
    assert_eq!(code(&mut client, sticky, 1).await, ErrorCode::UNSUPPORTED_ASSIGNOR);
    let pattern = |text: &str| ConsumerGroupHeartbeatRequest {
        subscribed_topic_names: None,
        subscribed_topic_regex: Some(text.into()),
        ..join("g", "a")
    };
    assert_eq!(code(&mut client, pattern("("), 1).await, ErrorCode::INVALID_REGULAR_EXPRESSION);
    let listed = client.call(&ListGroupsRequest { states_filter: vec![], types_filter: vec![] }, 5).await;
    assert!(listed.groups.is_empty(), "a refusal leaves nothing behind");

    let a = client.call(&pattern("[a-z]"), 1).await;
    assert_eq!(assigned(&a).unwrap().len(), 1);
    assert_eq!(code(&mut client, beat("g", "a", 2), 1).await, ErrorCode::FENCED_MEMBER_EPOCH);
    let named = |id: &str, epoch| ConsumerGroupHeartbeatRequest {
        instance_id: Some("i".into()),
        ..if epoch == 0 { join("g", id) } else { beat("g", id, epoch) }
    };
    assert_eq!(code(&mut client, named("s1", 0), 1).await, ErrorCode::NONE);
    assert_eq!(code(&mut client, named("s2", 0), 1).await, ErrorCode::UNRELEASED_INSTANCE_ID);
    assert_eq!(code(&mut client, named("s2", 2), 1).await, ErrorCode::FENCED_INSTANCE_ID);
    assert_eq!(code(&mut client, named("s1", -2), 1).await, ErrorCode::NONE);
    assert_eq!(code(&mut client, named("s2", 0), 1).await, ErrorCode::NONE);
}

#[tokio::test]
async fn offsets_go_by_member_epochs() {
    let broker = Broker::start().await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    assert_eq!(commit(&mut client, "g", "", -1, 0, 9).await, ErrorCode::NONE);
    client.call(&join("g", "a"), 1).await;
    assert_eq!(commit(&mut client, "g", "a", 1, 0, 9).await, ErrorCode::NONE);
    assert_eq!(commit(&mut client, "g", "a", 1, 0, 8).await, ErrorCode::UNSUPPORTED_VERSION);
    assert_eq!(commit(&mut client, "g", "a", 2, 0, 9).await, ErrorCode::STALE_MEMBER_EPOCH);
    assert_eq!(commit(&mut client, "g", "b", 1, 0, 9).await, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(commit(&mut client, "g", "", -1, 0, 9).await, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(fetch(&mut client, "g", Some("a"), 1).await, (ErrorCode::NONE, 5));
    assert_eq!(fetch(&mut client, "g", None, -1).await, (ErrorCode::NONE, 5), "a tool");
    assert_eq!(fetch(&mut client, "g", Some("a"), 2).await.0, ErrorCode::STALE_MEMBER_EPOCH);
    assert_eq!(fetch(&mut client, "g", Some("b"), 1).await.0, ErrorCode::UNKNOWN_MEMBER_ID);

    // What a member has still, it may commit under the epoch in which it got it (KIP-1251).
    client.call(&join("g", "b"), 1).await;
    let kept = assigned(&client.call(&beat("g", "a", 1), 1).await).unwrap();
    client.call(&owning("g", "a", 1, &kept), 1).await;
    let mine = kept.iter().next().unwrap().1;
    assert_eq!(commit(&mut client, "g", "a", 1, mine, 9).await, ErrorCode::NONE);
    assert_eq!(commit(&mut client, "g", "a", 1, 1 - mine, 9).await, ErrorCode::STALE_MEMBER_EPOCH);

    let delete = |index| OffsetDeleteRequest {
        group_id: "g".into(),
        topics: vec![OffsetDeleteRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetDeleteRequestPartition { partition_index: index }],
        }],
    };
    let deleted = client.call(&delete(0), 0).await;
    assert_eq!(deleted.topics[0].partitions[0].error_code, ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC);
    let groups = DeleteGroupsRequest { groups_names: vec!["g".into()] };
    assert_eq!(client.call(&groups, 2).await.results[0].error_code, ErrorCode::NON_EMPTY_GROUP);
    for id in ["a", "b"] {
        client.call(&beat("g", id, -1), 1).await;
    }
    assert_eq!(describe(&mut client, "g", 1).await.group_state, "Empty");
    let deleted = client.call(&delete(0), 0).await;
    assert_eq!(deleted.topics[0].partitions[0].error_code, ErrorCode::NONE);
    assert_eq!(commit(&mut client, "g", "", -1, 1, 9).await, ErrorCode::NONE);
    assert_eq!(client.call(&groups, 2).await.results[0].error_code, ErrorCode::NONE);
    assert_eq!(describe(&mut client, "g", 1).await.error_code, ErrorCode::GROUP_ID_NOT_FOUND);
}

#[tokio::test]
async fn a_group_that_may_not_turn_follows_one_protocol_at_a_time() {
    let disabled = brooklet::kafka::Value::Text("disabled".into());
    let set =
        |config: &mut brooklet::kafka::Config| config.broker.insert("group.consumer.migration.policy".into(), disabled);
    let broker = Broker::with(|config| drop(set(config))).await;
    broker.topic("t", 2, &[]).await;
    let (mut client, mut other) = (broker.connect().await, broker.connect().await);
    client.call(&join("new", "a"), 1).await;
    let old = other.call(&classic_join("old", ""), 3).await;
    let sync = SyncGroupRequest {
        group_id: "old".into(),
        generation_id: old.generation_id,
        member_id: old.member_id.clone(),
        ..Default::default()
    };
    assert_eq!(other.call(&sync, 3).await.error_code, ErrorCode::NONE);

    let listed = client.call(&ListGroupsRequest { states_filter: vec![], types_filter: vec![] }, 5).await;
    let rows: Vec<_> =
        (listed.groups.iter()).map(|g| (&*g.group_id, &*g.protocol_type, &*g.group_state, &*g.group_type)).collect();
    assert_eq!(rows, [("new", "consumer", "Stable", "consumer"), ("old", "consumer", "Stable", "classic")]);
    for (kind, group) in [("Consumer", "new"), ("classic", "old")] {
        let filter = ListGroupsRequest { states_filter: vec!["STABLE".into()], types_filter: vec![kind.into()] };
        let listed = client.call(&filter, 5).await.groups;
        assert_eq!(listed.iter().map(|g| &*g.group_id).collect::<Vec<_>>(), [group]);
    }

    // Each kind's description knows its own groups only; clients try the one and then the other.
    let classic =
        |group: &str| DescribeGroupsRequest { groups: vec![group.into()], include_authorized_operations: false };
    let described = client.call(&classic("new"), 6).await.groups.remove(0);
    assert_eq!((described.error_code, &*described.group_state), (ErrorCode::GROUP_ID_NOT_FOUND, "Dead"));
    assert_eq!(described.error_message.as_deref(), Some("Group new is not a classic group."));
    let described = client.call(&classic("new"), 5).await.groups.remove(0);
    assert_eq!((described.error_code, &*described.group_state), (ErrorCode::NONE, "Dead"));
    for (group, message) in [("old", "Group old is not a consumer group."), ("none", "Group none not found.")] {
        let described = describe(&mut client, group, 1).await;
        assert_eq!(described.error_code, ErrorCode::GROUP_ID_NOT_FOUND);
        assert_eq!(described.error_message.as_deref(), Some(message));
    }

    // The new one does not come in while the others are there; those it takes in beside it, as Kafka does.
    assert_eq!(client.call(&join("old", "b"), 1).await.error_code, ErrorCode::GROUP_ID_NOT_FOUND);
    assert_eq!(client.call(&beat("old", "b", 1), 1).await.error_code, ErrorCode::GROUP_ID_NOT_FOUND);
    let guest = other.call(&classic_join("new", ""), 3).await;
    assert_eq!((guest.error_code, &*guest.leader, guest.members.len()), (ErrorCode::NONE, "", 0));
    let classic_beat = |group: &str, member_id: &str, generation_id| HeartbeatRequest {
        group_id: group.into(),
        generation_id,
        member_id: member_id.into(),
        ..Default::default()
    };
    assert_eq!(other.call(&classic_beat("new", "a", 1), 4).await.error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    let classic_leave = |group: &str, member_id: &str| LeaveGroupRequest {
        group_id: group.into(),
        member_id: String::new(),
        members: vec![MemberIdentity { member_id: member_id.into(), ..Default::default() }],
    };
    for (member, code) in [("a", ErrorCode::UNKNOWN_MEMBER_ID), (&*guest.member_id, ErrorCode::NONE)] {
        let left = other.call(&classic_leave("new", member), 5).await;
        assert_eq!(left.members[0].error_code, code);
    }

    // Empty, they turn into each other, offsets and all, and epochs go on from generations.
    assert_eq!(commit(&mut client, "old", &old.member_id, 1, 0, 8).await, ErrorCode::NONE);
    let left = other.call(&classic_leave("old", &old.member_id), 5).await;
    assert_eq!(left.members[0].error_code, ErrorCode::NONE);
    let turned = client.call(&join("old", "b"), 1).await;
    assert_eq!((assigned(&turned).unwrap().len(), turned.member_epoch), (2, 3));
    assert_eq!(fetch(&mut client, "old", Some("b"), 3).await, (ErrorCode::NONE, 5));
    client.call(&beat("new", "a", -1), 1).await;
    let turned = other.call(&classic_join("new", ""), 3).await;
    assert_eq!((turned.error_code, turned.generation_id), (ErrorCode::NONE, 5));
    assert_eq!(client.call(&join("new", "a"), 1).await.error_code, ErrorCode::GROUP_ID_NOT_FOUND);
}

#[tokio::test]
async fn a_silent_member_expires_by_itself_and_settings_are_heeded() {
    let broker = Broker::with(|config| {
        let mut set = |name: &str, value| config.broker.insert(name.into(), brooklet::kafka::Value::Number(value));
        set("group.consumer.min.session.timeout.ms", 1);
        set("group.consumer.session.timeout.ms", 400);
        set("group.consumer.min.heartbeat.interval.ms", 1);
        set("group.consumer.heartbeat.interval.ms", 100);
        set("group.consumer.max.size", 1);
        let range = brooklet::kafka::Value::Text("range".into());
        config.broker.insert("group.consumer.assignors".into(), range);
    })
    .await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    assert_eq!(client.call(&join("g", "a"), 1).await.heartbeat_interval_ms, 100);
    assert_eq!(client.call(&join("g", "b"), 1).await.error_code, ErrorCode::GROUP_MAX_SIZE_REACHED);
    assert_eq!(describe(&mut client, "g", 1).await.assignor_name, "range");
    let gone = async {
        while !describe(&mut client, "g", 1).await.members.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    assert_eq!(client.call(&beat("g", "a", 1), 1).await.error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(assigned(&client.call(&join("g", "b"), 1).await).unwrap().len(), 1);
}

#[tokio::test]
async fn new_topics_and_partitions_come_with_the_next_heartbeat() {
    let broker = Broker::start().await;
    let mut client = broker.connect().await;
    let pattern = ConsumerGroupHeartbeatRequest {
        subscribed_topic_names: None,
        subscribed_topic_regex: Some("t.*".into()),
        ..join("g", "a")
    };
    assert_eq!(assigned(&client.call(&pattern, 1).await).unwrap().len(), 0);
    broker.topic("t1", 2, &[]).await;
    broker.topic("other", 2, &[]).await;
    let heard = client.call(&beat("g", "a", 1), 1).await;
    assert_eq!((assigned(&heard).unwrap().len(), heard.member_epoch), (2, 2));
    let more = brooklet::log::Change::Grow { name: "t1".into(), partitions: 3 };
    broker.log.change(more, vec![]).await.unwrap();
    let heard = client.call(&beat("g", "a", 2), 1).await;
    assert_eq!((assigned(&heard).unwrap().len(), heard.member_epoch), (3, 3));
    let described = describe(&mut client, "g", 1).await;
    assert_eq!(described.members[0].subscribed_topic_regex.as_deref(), Some("t.*"));
}
