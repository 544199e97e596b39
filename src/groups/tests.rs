use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{offsets::Committed, *};
use crate::log::{Change, Topic, Write};

struct Rig {
    groups: Groups,
    log: Log,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const NOW_MS: i64 = 1_800_000_000_000;

fn rig(config: Config) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let log_config = log::Config {
        quota_bytes: Some(16 << 20),
        linger: Duration::ZERO,
        ack_linger: Duration::ZERO,
        memory_limit_bytes: 4 << 20,
        clock: Arc::new(|| NOW_MS),
        ..log::Config::new(dir.path())
    };
    let log = Log::open(log_config, &Registry::default()).unwrap();
    let groups = Groups::new(log.clone(), config, Arc::new(|| NOW_MS), &Registry::default());
    let stop = CancellationToken::new();
    let (task, token) = (groups.clone(), stop.clone());
    tokio::spawn(async move { task.run(token).await });
    Rig { groups, log, stop, _dir: dir }
}

async fn create(log: &Log, name: &str) -> Arc<Topic> {
    let change = Change::Create { name: name.into(), partitions: 2, settings: BTreeMap::new() };
    log.change(change, Vec::new()).await.unwrap()
}

fn request(member_id: &str) -> Join {
    Join {
        member_id: member_id.into(),
        instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 6000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        // A subscription to topic "t".
        protocols: vec![Protocol {
            name: "range".into(),
            metadata: Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\0\0\0\0"),
        }],
        requires_known_member_id: false,
        can_skip_assignment: false,
    }
}

fn sync_of(joined: &Joined) -> Sync {
    Sync {
        member_id: joined.member_id.to_string(),
        generation: joined.generation,
        assignments: joined.members.iter().map(|m| (m.member_id.to_string(), Bytes::from_static(b"share"))).collect(),
        ..Sync::default()
    }
}

async fn lone_member(rig: &Rig, group: &str) -> Joined {
    let joined = rig.groups.join(group, request("")).await.unwrap();
    assert_eq!(rig.groups.sync(group, sync_of(&joined)).await.unwrap().assignment, "share");
    joined
}

fn position(topic: &str, index: i32, offset: i64) -> Position {
    Position { partition: Partition::new(topic, index), offset, leader_epoch: -1, metadata: String::new() }
}

fn unmanaged(positions: Vec<Position>) -> Commit {
    Commit { generation: -1, positions, ..Commit::default() }
}

/// Lets parked tasks run without letting time pass.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Waits for what another thread, the log's writer, brings about: time that is paused does not wait for it.
async fn eventually(is_so: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "it did not come about");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn members_share_and_a_silent_one_expires_by_itself() {
    let rig = rig(Config::default());
    let a = lone_member(&rig, "g").await;
    let groups = rig.groups.clone();
    let b = tokio::spawn(async move { groups.join("g", request("")).await });
    settle().await;
    assert_eq!(rig.groups.heartbeat("g", &a.member_id, None, 1), Err(Error::RebalanceInProgress));
    let a = rig.groups.join("g", request(&a.member_id)).await.unwrap();
    let b = b.await.unwrap().unwrap();
    assert_eq!((a.members.len(), b.members.len(), a.generation), (2, 0, 2));
    let (sa, sb) = tokio::join!(rig.groups.sync("g", sync_of(&a)), rig.groups.sync("g", sync_of(&b)));
    assert_eq!((sa.unwrap().assignment, sb.unwrap().assignment), (Bytes::from("share"), Bytes::from("share")));
    assert_eq!(rig.groups.describe("g").unwrap().unwrap().state, State::Stable);
    // Only a beats. Nobody calls anything for b: the timer task must notice.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let _rebalancing = rig.groups.heartbeat("g", &a.member_id, None, 2);
    }
    assert_eq!(rig.groups.describe("g").unwrap().unwrap().members.len(), 1);
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(rig.groups.describe("g").unwrap().unwrap().state, State::Empty);
    // And an empty group without offsets is forgotten.
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(rig.groups.describe("g").unwrap(), None);
    assert_eq!(rig.groups.0.held_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_parked_join_takes_it_back() {
    let rig = rig(Config::default());
    let a = lone_member(&rig, "g").await;
    let groups = rig.groups.clone();
    let parked = tokio::spawn(async move { groups.join("g", request("")).await });
    settle().await;
    assert_eq!(rig.groups.describe("g").unwrap().unwrap().members.len(), 2);
    parked.abort();
    assert!(parked.await.unwrap_err().is_cancelled());
    assert_eq!(rig.groups.describe("g").unwrap().unwrap().members.len(), 1);
    assert!(rig.groups.join("g", request(&a.member_id)).await.is_ok());
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused() {
    let rig = rig(Config { max_groups: 2, memory_limit_bytes: 2000, ..Config::default() });
    let join = |group: &str, session_timeout_ms| {
        let (groups, group) = (rig.groups.clone(), group.to_owned());
        async move { groups.join(&group, Join { session_timeout_ms, ..request("") }).await.map(|_| ()) }
    };
    assert_eq!(join("", 6000).await, Err(Error::InvalidGroupId));
    assert_eq!(join(&"g".repeat(400), 6000).await, Err(Error::InvalidGroupId));
    assert_eq!(join("g", 5999).await, Err(Error::InvalidSessionTimeout));
    assert_eq!(join("g", 1_800_001).await, Err(Error::InvalidSessionTimeout));
    assert_eq!(rig.groups.join("g", request("stranger")).await, Err(Error::UnknownMember));
    let many = (0..65).map(|i| Protocol { name: i.to_string().into(), metadata: Bytes::new() }).collect();
    let many = rig.groups.join("g", Join { protocols: many, ..request("") }).await;
    assert_eq!(many, Err(Error::InconsistentProtocol), "choosing among them takes the square of their number");
    assert!(rig.groups.list().unwrap().is_empty(), "a refusal leaves nothing behind");

    assert_eq!(join("a", 6000).await, Ok(()));
    assert_eq!(join("b", 6000).await, Ok(()));
    assert_eq!(join("c", 6000).await, Err(Error::NotAvailable), "no third group while both have members");
    let big = vec![Protocol { name: "x".into(), metadata: Bytes::from(vec![0; 1500]) }];
    let big = rig.groups.join("b", Join { protocols: big, ..request("") }).await;
    assert_eq!(big, Err(Error::GroupFull));
    // An idle group makes room.
    let id = rig.groups.describe("a").unwrap().unwrap().members[0].member_id.to_string();
    let left = rig.groups.leave("a", &[Leaver { member_id: id, instance_id: None }]).unwrap();
    assert_eq!(left, [Ok(())]);
    assert_eq!(join("c", 6000).await, Ok(()));
}

#[tokio::test]
async fn commits_are_durable_checked_and_not_repeated() {
    let rig = rig(Config::default());
    let topic = create(&rig.log, "t").await;
    let answers = rig
        .groups
        .commit(
            "g",
            unmanaged(vec![
                Position { metadata: "m".into(), leader_epoch: 3, ..position("t", 0, 7) },
                position("t", 2, 1),
                position("absent", 0, 1),
                Position { metadata: "x".repeat(4097), ..position("t", 1, 1) },
            ]),
        )
        .await
        .unwrap();
    assert_eq!(answers[0], Ok(()));
    assert!(matches!(answers[1], Err(Error::UnknownPartition(_))));
    assert!(matches!(answers[2], Err(Error::UnknownPartition(_))));
    assert_eq!(answers[3], Err(Error::MetadataTooLarge));
    let expected = Committed { offset: 7, leader_epoch: 3, metadata: "m".into(), timestamp_ms: NOW_MS };
    assert_eq!(rig.groups.committed("g", &Partition::new("t", 0)).unwrap(), Some(expected));

    let again = Position { metadata: "m".into(), leader_epoch: 3, ..position("t", 0, 7) };
    assert_eq!(rig.groups.commit("g", unmanaged(vec![again])).await, Ok(vec![Ok(())]));
    assert_eq!(rig.groups.0.commits_unchanged.get(), 1);

    // With members, only they may commit.
    let a = lone_member(&rig, "g").await;
    assert_eq!(rig.groups.commit("g", unmanaged(vec![position("t", 0, 8)])).await, Err(Error::UnknownMember));
    let managed = Commit {
        member_id: a.member_id.to_string(),
        generation: a.generation,
        positions: vec![position("t", 0, 8)],
        ..Commit::default()
    };
    assert_eq!(rig.groups.commit("g", managed.clone()).await, Ok(vec![Ok(())]));
    // After a restart of the daemon the member is told to join anew, whatever the group.
    assert_eq!(rig.groups.commit("lost", managed).await, Err(Error::UnknownMember));
    let nameless = Commit { generation: 1, positions: vec![position("t", 0, 8)], ..Commit::default() };
    assert_eq!(rig.groups.commit("lost", nameless).await, Err(Error::NotFound));

    // What a stream commits is a group too.
    let state = vec![offsets::write("app", &Partition::new("t", 1), topic.id, Committed::at(5, 1))];
    rig.log.commit(Write { state, ..Write::default() }).await.unwrap();
    let listed: Vec<_> =
        rig.groups.list().unwrap().into_iter().map(|l| (l.group, l.protocol_type.to_string(), l.state)).collect();
    assert_eq!(listed, [("app".into(), String::new(), "Empty"), ("g".into(), "consumer".to_owned(), "Stable")]);
    assert_eq!(rig.groups.describe("app").unwrap().unwrap().state, State::Empty);
    assert_eq!(rig.groups.offsets("app").unwrap()[&Partition::new("t", 1)].offset, 5);
}

#[tokio::test]
async fn the_last_of_two_commits_stands_also_if_it_repeats_the_durable_one() {
    let rig = rig(Config::default());
    create(&rig.log, "t").await;
    let commit = |offset| rig.groups.commit("g", unmanaged(vec![position("t", 0, offset)]));
    commit(5).await.unwrap();
    for _ in 0..20 {
        // The second begins while the first is on its way.
        let (forth, back) = tokio::join!(commit(9), commit(5));
        assert_eq!((forth.unwrap(), back.unwrap()), (vec![Ok(())], vec![Ok(())]));
        assert_eq!(rig.groups.committed("g", &Partition::new("t", 0)).unwrap().unwrap().offset, 5);
    }
    assert!(rig.groups.0.committing.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_group_that_holds_the_position_of_a_running_part_is_not_deleted() {
    let rig = rig(Config::default());
    create(&rig.log, "t").await;
    rig.groups.set_ours(|group| group == "stream");
    for group in ["stream", "other"] {
        rig.groups.commit(group, unmanaged(vec![position("t", 0, 5)])).await.unwrap();
    }
    assert_eq!(rig.groups.delete("stream").await, Err(Error::NonEmpty));
    assert_eq!(rig.groups.delete("other").await, Ok(()));
    assert!(rig.groups.committed("stream", &Partition::new("t", 0)).unwrap().is_some());
}

#[tokio::test]
async fn groups_and_offsets_are_deleted_only_when_unused() {
    let rig = rig(Config::default());
    create(&rig.log, "t").await;
    create(&rig.log, "u").await;
    let both = unmanaged(vec![position("t", 0, 1), position("u", 0, 2)]);
    rig.groups.commit("g", both).await.unwrap();
    let a = lone_member(&rig, "g").await;
    assert_eq!(rig.groups.delete("g").await, Err(Error::NonEmpty));
    let partitions = [Partition::new("t", 0), Partition::new("u", 0), Partition::new("u", 9)];
    let answers = rig.groups.delete_offsets("g", &partitions).await.unwrap();
    assert_eq!(answers[..2], [Err(Error::Subscribed), Ok(())]);
    assert!(matches!(answers[2], Err(Error::UnknownPartition(_))));
    assert_eq!(rig.groups.offsets("g").unwrap().len(), 1);

    rig.groups.leave("g", &[Leaver { member_id: a.member_id.to_string(), instance_id: None }]).unwrap()[0]
        .as_ref()
        .unwrap();
    assert_eq!(rig.groups.delete("g").await, Ok(()));
    assert_eq!(rig.groups.describe("g").unwrap(), None);
    assert_eq!(rig.groups.delete("g").await, Err(Error::NotFound));
    assert_eq!(rig.groups.delete_offsets("g", &partitions).await, Err(Error::NotFound));
    assert!(rig.log.states(offsets::OWNER, b"").unwrap().is_empty());
}

#[tokio::test]
async fn offsets_of_a_deleted_topic_are_purged() {
    let rig = rig(Config::default());
    create(&rig.log, "t").await;
    rig.groups.commit("g", unmanaged(vec![position("t", 0, 1)])).await.unwrap();
    settle().await;
    rig.log.change(Change::Delete { name: "t".into() }, Vec::new()).await.unwrap();
    eventually(|| rig.log.states(offsets::OWNER, b"").unwrap().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn offsets_lapse_only_if_told_so_and_unused() {
    const WEEK_MS: u64 = 7 * 86_400_000;
    let rig = rig(Config { offsets_retention_ms: Some(WEEK_MS), ..Config::default() });
    let topic = create(&rig.log, "t").await;
    let stamped = |group: &str, timestamp_ms| {
        offsets::write(group, &Partition::new("t", 0), topic.id, Committed::at(1, timestamp_ms))
    };
    let old = NOW_MS - WEEK_MS as i64 - 1;
    // `unset` was committed by a board whose clock stood at 1970.
    let state = vec![stamped("old", old), stamped("new", NOW_MS), stamped("unset", 5), stamped("used", old)];
    rig.log.commit(Write { state, ..Write::default() }).await.unwrap();
    let groups = rig.groups.clone();
    tokio::spawn(async move {
        let joined = groups.join("used", request("")).await.unwrap();
        groups.sync("used", sync_of(&joined)).await.unwrap();
        loop {
            tokio::time::sleep(Duration::from_secs(3)).await;
            groups.heartbeat("used", &joined.member_id, None, joined.generation).unwrap();
        }
    });
    tokio::time::sleep(Duration::from_secs(23 * 3600)).await;
    assert_eq!(offsets::groups(&rig.log).unwrap().len(), 4, "the daemon has just started: clients get their chance");
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    eventually(|| offsets::groups(&rig.log).unwrap().len() == 3).await;
    let left: Vec<_> = offsets::groups(&rig.log).unwrap().into_iter().collect();
    assert_eq!(left, ["new", "unset", "used"]);
}

fn consumer(id: &str) -> Heartbeat {
    Heartbeat {
        member_id: id.into(),
        rebalance_timeout_ms: 60_000,
        topic_names: Some(vec!["t".into()]),
        owned: Some(BTreeSet::new()),
        ..Heartbeat::default()
    }
}

fn beat(id: &str, epoch: i32) -> Heartbeat {
    Heartbeat { member_id: id.into(), epoch, rebalance_timeout_ms: -1, ..Heartbeat::default() }
}

#[tokio::test(start_paused = true)]
async fn consumers_are_kept_within_bounds_and_expire_by_themselves() {
    let rig = rig(Config { max_groups: 2, memory_limit_bytes: 4096, ..Config::default() });
    create(&rig.log, "t").await;
    assert_eq!(rig.groups.consumer_heartbeat("a", &consumer("1")).unwrap().assigned.unwrap().len(), 2);
    let many = Heartbeat { topic_names: Some((0..100).map(|n| format!("topic-{n}")).collect()), ..consumer("1") };
    assert_eq!(rig.groups.consumer_heartbeat("b", &many), Err(Error::GroupFull));
    assert_eq!(rig.groups.consumer_heartbeat("a", &Heartbeat { epoch: 1, ..many }), Err(Error::GroupFull));
    assert_eq!(rig.groups.list().unwrap().len(), 1, "a refusal leaves nothing behind");
    let long = "i".repeat(4096);
    assert_eq!(rig.groups.consumer_heartbeat("b", &consumer(&long)), Err(Error::GroupFull));
    assert!(rig.groups.consumer_heartbeat("b", &consumer("1")).is_ok());
    assert_eq!(rig.groups.consumer_heartbeat("c", &consumer("1")), Err(Error::NotAvailable), "both have members");

    // Nobody calls anything for them: the timer task must notice, and forget the groups in the end.
    tokio::time::sleep(Duration::from_secs(46)).await;
    eventually(|| rig.groups.list().unwrap().iter().all(|l| l.members == 0)).await;
    assert_eq!(rig.groups.consumer_heartbeat("a", &beat("1", 1)), Err(Error::UnknownMember));
    assert_eq!(rig.groups.describe_consumer("a").unwrap().epoch, 2);
    assert_eq!(rig.groups.consumer_heartbeat("a", &consumer("2")).unwrap().epoch, 3, "remembered");
    assert!(rig.groups.consumer_heartbeat("c", &consumer("1")).is_ok(), "an idle group makes room");
    tokio::time::sleep(Duration::from_secs(46 + 601)).await;
    eventually(|| rig.groups.list().unwrap().is_empty()).await;
    assert_eq!(rig.groups.describe_consumer("a"), Err(Error::NotFound));
}

#[tokio::test]
async fn a_refused_heartbeat_does_not_turn_a_classic_group() {
    let rig = rig(Config::default());
    create(&rig.log, "t").await;
    let a = lone_member(&rig, "g").await;
    let left = rig.groups.leave("g", &[Leaver { member_id: a.member_id.to_string(), instance_id: None }]).unwrap();
    assert_eq!(left, [Ok(())]);
    let kind = || rig.groups.list().unwrap()[0].kind;
    let wrong = Heartbeat { assignor: Some("sticky".into()), ..consumer("1") };
    assert!(matches!(rig.groups.consumer_heartbeat("g", &wrong), Err(Error::UnsupportedAssignor(_))));
    assert_eq!(kind(), Kind::Classic);
    assert_eq!(rig.groups.consumer_heartbeat("g", &consumer("1")).unwrap().epoch, 3, "generations count on");
    assert_eq!(kind(), Kind::Consumer);
    assert_eq!(rig.groups.delete("g").await, Err(Error::NonEmpty));
    rig.groups.consumer_heartbeat("g", &beat("1", -1)).unwrap();
    assert_eq!(rig.groups.join("g", request("")).await.unwrap().generation, 5);
    assert_eq!(kind(), Kind::Classic);
}

#[tokio::test]
async fn a_group_turns_with_its_members_and_back() {
    let rig = rig(Config::default());
    create(&rig.log, "t").await;
    let a = rig.groups.join("g", request("")).await.unwrap();
    // Both partitions of "t".
    let share = Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\0\0\0\x02\0\0\0\0\0\0\0\x01\xff\xff\xff\xff");
    let leads = Sync { assignments: vec![(a.member_id.to_string(), share)], ..sync_of(&a) };
    rig.groups.sync("g", leads).await.unwrap();
    let kind = || rig.groups.list().unwrap()[0].kind;
    // Refused, the group stays as it was: its member hears nothing of it.
    let wrong = Heartbeat { assignor: Some("sticky".into()), ..consumer("1") };
    assert!(matches!(rig.groups.consumer_heartbeat("g", &wrong), Err(Error::UnsupportedAssignor(_))));
    assert_eq!((kind(), rig.groups.heartbeat("g", &a.member_id, None, a.generation)), (Kind::Classic, Ok(())));
    rig.groups.consumer_heartbeat("g", &consumer("1")).unwrap();
    assert_eq!(kind(), Kind::Consumer);
    let describe = || rig.groups.describe_consumer("g").unwrap().members;
    let is_classic = |id: &str| describe().iter().find(|m| *m.member_id == *id).unwrap().is_classic;
    assert!(is_classic(&a.member_id) && !is_classic("1"));

    let told = rig.groups.heartbeat("g", &a.member_id, None, a.generation);
    assert_eq!(told, Err(Error::RebalanceInProgress));
    let again = rig.groups.join("g", request(&a.member_id)).await.unwrap();
    assert_eq!((again.generation, &*again.leader, again.members.len()), (a.generation + 1, "", 0));
    let share = rig.groups.sync("g", sync_of(&again)).await.unwrap();
    assert!(!share.assignment.is_empty());
    assert_eq!(rig.groups.heartbeat("g", &a.member_id, None, again.generation), Ok(()));
    // A commit of either protocol's version will do for a classic member.
    let commit = Commit { member_id: a.member_id.to_string(), generation: again.generation, ..Commit::default() };
    assert_eq!(rig.groups.commit("g", commit.clone()).await, Ok(vec![]));
    assert_eq!(rig.groups.commit("g", Commit { generation: a.generation, ..commit }).await, Ok(vec![]), "of nothing");

    rig.groups.consumer_heartbeat("g", &beat("1", -1)).unwrap();
    assert_eq!(kind(), Kind::Classic);
    let told = rig.groups.heartbeat("g", &a.member_id, None, again.generation);
    assert_eq!(told, Err(Error::RebalanceInProgress));
    let back = rig.groups.join("g", request(&a.member_id)).await.unwrap();
    assert_eq!((back.generation, &back.leader), (again.generation + 1, &a.member_id));
}

#[tokio::test]
async fn a_group_does_not_turn_where_that_is_not_allowed() {
    let rig = rig(Config { may_upgrade: false, may_downgrade: false, ..Config::default() });
    create(&rig.log, "t").await;
    let a = lone_member(&rig, "g").await;
    assert_eq!(rig.groups.consumer_heartbeat("g", &consumer("1")), Err(Error::NotConsumer));
    assert_eq!(rig.groups.heartbeat("g", &a.member_id, None, a.generation), Ok(()));
    // Classic members come into a group of the other kind all the same, as in Kafka, and it stays that.
    rig.groups.consumer_heartbeat("h", &consumer("1")).unwrap();
    rig.groups.join("h", request("")).await.unwrap();
    rig.groups.consumer_heartbeat("h", &beat("1", -1)).unwrap();
    assert_eq!(rig.groups.describe_consumer("h").unwrap().members.len(), 1);
}
