use super::*;
use crate::log::Topic;

mod model;
mod upgrade;

fn rules() -> Rules {
    Rules {
        session_timeout_ms: 45_000,
        heartbeat_interval_ms: 5_000,
        max_size: 5,
        assignors: vec![Assignor::Uniform, Assignor::Range],
        may_upgrade: true,
        may_downgrade: true,
    }
}

fn group() -> ConsumerGroup {
    ConsumerGroup::new(rules(), 0)
}

/// A topic named by one letter, with that letter as its id.
fn topics(all: &[(&str, i32)]) -> Arc<Topics> {
    let topic = |(name, partitions): &(&str, i32)| {
        let id = [name.as_bytes()[0]; 16];
        Arc::new(Topic { name: (*name).into(), id, partitions: *partitions, settings: BTreeMap::new() })
    };
    Arc::new(all.iter().map(topic).collect())
}

fn on(topic: u8, indexes: impl IntoIterator<Item = i32>) -> BTreeSet<TopicPartition> {
    indexes.into_iter().map(|index| ([topic; 16], index)).collect()
}

/// The first heartbeat of a member that wants topic `t`.
fn join(id: &str) -> Heartbeat {
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

fn owning(id: &str, epoch: i32, owned: BTreeSet<TopicPartition>) -> Heartbeat {
    Heartbeat { owned: Some(owned), ..beat(id, epoch) }
}

fn static_join(id: &str, name: &str) -> Heartbeat {
    Heartbeat { instance_id: Some(name.into()), ..join(id) }
}

fn static_beat(id: &str, name: &str, epoch: i32) -> Heartbeat {
    Heartbeat { instance_id: Some(name.into()), ..beat(id, epoch) }
}

#[test]
fn a_partition_is_given_up_before_another_member_gets_it() {
    let (mut group, t) = (group(), topics(&[("t", 4)]));
    assert_eq!(group.state(), State::Empty);
    let a = group.heartbeat(0, &t, &join("a")).unwrap();
    assert_eq!((a.epoch, a.interval_ms, a.assigned), (1, 5000, Some(on(b't', 0..4))));
    assert_eq!(group.state(), State::Stable);
    assert_eq!(group.heartbeat(1, &t, &beat("a", 1)).unwrap().assigned, None, "nothing new");

    let b = group.heartbeat(2, &t, &join("b")).unwrap();
    assert_eq!((b.epoch, b.assigned), (2, Some(BTreeSet::new())), "nothing is free yet");
    assert_eq!(group.state(), State::Reconciling);
    let a = group.heartbeat(3, &t, &beat("a", 1)).unwrap();
    let kept = a.assigned.unwrap();
    assert_eq!((a.epoch, kept.len()), (1, 2), "asked to give up two, in its old epoch");
    let b = group.heartbeat(4, &t, &beat("b", 2)).unwrap();
    assert_eq!((b.epoch, b.assigned), (2, None));
    let a = group.heartbeat(5, &t, &owning("a", 1, on(b't', 0..4))).unwrap();
    assert_eq!((a.epoch, a.assigned), (1, None), "it has not let go yet");
    let a = group.heartbeat(6, &t, &owning("a", 1, kept.clone())).unwrap();
    assert_eq!((a.epoch, a.assigned), (2, None));
    let b = group.heartbeat(7, &t, &beat("b", 2)).unwrap();
    assert_eq!((b.epoch, b.assigned), (2, Some(on(b't', 0..4).difference(&kept).copied().collect())));
    assert_eq!(group.state(), State::Stable);

    // Who leaves makes room; the others get it by their next heartbeat.
    let left = group.heartbeat(8, &t, &beat("a", -1)).unwrap();
    assert_eq!((&*left.member_id, left.epoch, left.interval_ms), ("a", -1, 0));
    assert_eq!((group.state(), group.epoch(), group.target_epoch), (State::Assigning, 3, 2));
    let b = group.heartbeat(9, &t, &beat("b", 2)).unwrap();
    assert_eq!((b.epoch, b.assigned), (3, Some(on(b't', 0..4))));
}

#[test]
fn who_does_not_give_up_in_time_or_is_silent_is_removed() {
    let (mut group, t) = (group(), topics(&[("t", 2)]));
    group.heartbeat(0, &t, &Heartbeat { rebalance_timeout_ms: 10_000, ..join("a") }).unwrap();
    group.heartbeat(0, &t, &join("b")).unwrap();
    assert_eq!(group.deadline(), Some(45_000));
    group.heartbeat(1_000, &t, &beat("a", 1)).unwrap();
    assert_eq!(group.deadline(), Some(11_000), "its rebalance time-out runs");
    group.heartbeat(9_000, &t, &beat("a", 1)).unwrap();
    group.tick(10_999);
    assert_eq!(group.size(), 2);
    group.tick(11_000);
    assert_eq!(group.size(), 1);
    assert_eq!(group.heartbeat(11_001, &t, &beat("a", 1)), Err(Error::UnknownMember));
    assert_eq!(group.heartbeat(11_002, &t, &beat("b", 2)).unwrap().assigned, Some(on(b't', 0..2)));
    group.tick(56_001);
    assert_eq!(group.size(), 1);
    group.tick(56_002);
    assert_eq!((group.state(), group.deadline()), (State::Empty, None));
}

#[test]
fn an_epoch_that_is_not_the_members_is_fenced_unless_an_answer_was_lost() {
    let (mut group, t) = (group(), topics(&[("t", 2)]));
    group.heartbeat(0, &t, &join("a")).unwrap();
    group.heartbeat(0, &t, &join("b")).unwrap();
    group.heartbeat(0, &t, &owning("a", 1, on(b't', 0..1))).unwrap();
    let fenced = |claimed, current| Err(Error::FencedEpoch { claimed, current });
    // "a" is at 2 now and did not hear it.
    assert_eq!(group.heartbeat(0, &t, &beat("a", 1)), fenced(1, 2), "it must say what it owns");
    assert_eq!(group.heartbeat(0, &t, &owning("a", 1, on(b't', 0..2))), fenced(1, 2), "more than it may");
    assert_eq!(group.heartbeat(0, &t, &owning("a", 1, on(b't', 0..1))).unwrap().epoch, 2);
    assert_eq!(group.heartbeat(0, &t, &beat("a", 3)), fenced(3, 2));
    assert_eq!(group.heartbeat(0, &t, &beat("c", 2)), Err(Error::UnknownMember));
    // A fenced member begins anew under its id, and gets what is its own.
    let a = group.heartbeat(0, &t, &join("a")).unwrap();
    assert_eq!((a.epoch, a.assigned), (2, Some(on(b't', 0..1))));
    assert_eq!(group.epoch(), 2, "nothing has changed by that");
}

#[test]
fn a_static_member_that_comes_back_has_what_it_had() {
    let (mut group, t) = (group(), topics(&[("t", 2)]));
    group.heartbeat(0, &t, &static_join("a1", "a")).unwrap();
    group.heartbeat(0, &t, &join("b")).unwrap();
    group.heartbeat(0, &t, &Heartbeat { instance_id: None, ..owning("a1", 1, on(b't', 0..1)) }).unwrap();
    assert_eq!(group.heartbeat(0, &t, &beat("b", 2)).unwrap().assigned, Some(on(b't', 1..2)));

    assert_eq!(group.heartbeat(0, &t, &static_join("a2", "a")), Err(Error::UnreleasedInstance));
    assert_eq!(group.heartbeat(0, &t, &static_beat("a2", "a", 2)), Err(Error::FencedInstance));
    assert_eq!(group.heartbeat(0, &t, &static_beat("a2", "a", -2)), Err(Error::FencedInstance));
    assert_eq!(group.heartbeat(0, &t, &static_beat("x", "x", 2)), Err(Error::UnknownMember));
    assert_eq!(group.heartbeat(0, &t, &static_beat("x", "x", -1)), Err(Error::UnknownMember));
    assert_eq!(
        group.heartbeat(0, &t, &static_join("b", "new")),
        Err(Error::InvalidRequest("InstanceId can't be changed."))
    );

    let left = group.heartbeat(1_000, &t, &static_beat("a1", "a", -2)).unwrap();
    assert_eq!((left.epoch, group.size(), group.epoch()), (-2, 2, 2));
    assert!(group.heartbeat(1_000, &t, &static_beat("a1", "a", 2)).is_err(), "it has left");
    assert_eq!(group.heartbeat(2_000, &t, &beat("b", 2)).unwrap().assigned, None, "its share waits for it");
    let back = group.heartbeat(3_000, &t, &static_join("a2", "a")).unwrap();
    assert_eq!((&*back.member_id, back.epoch, back.assigned), ("a2", 2, Some(on(b't', 0..1))));
    assert_eq!((group.size(), group.epoch()), (2, 2), "and nobody else noticed");
    // The same process again, whose join was answered in vain.
    assert_eq!(group.heartbeat(3_000, &t, &static_join("a2", "a")).unwrap().epoch, 2);

    // Who does not come back in time is out.
    group.heartbeat(4_000, &t, &static_beat("a2", "a", -2)).unwrap();
    group.heartbeat(40_000, &t, &beat("b", 2)).unwrap();
    group.tick(48_000);
    assert_eq!((group.size(), group.epoch()), (1, 3));
    group.heartbeat(48_000, &t, &static_join("a3", "a")).unwrap();
    group.heartbeat(48_000, &t, &static_beat("a3", "a", -1)).unwrap();
    assert_eq!(group.size(), 1, "-1 is for good");
}

#[test]
fn a_full_group_takes_nobody_but_those_who_return() {
    let (mut group, t) = (group(), topics(&[("t", 2)]));
    for n in 0..4 {
        group.heartbeat(0, &t, &join(&n.to_string())).unwrap();
    }
    group.heartbeat(0, &t, &static_join("s1", "s")).unwrap();
    assert_eq!(group.heartbeat(0, &t, &join("5")), Err(Error::GroupFull));
    assert!(group.heartbeat(0, &t, &join("3")).is_ok());
    group.heartbeat(0, &t, &static_beat("s1", "s", -2)).unwrap();
    assert!(group.heartbeat(0, &t, &static_join("s2", "s")).is_ok());
}

#[test]
fn topics_that_change_are_shared_out_anew() {
    let mut group = group();
    let both = Heartbeat { topic_names: Some(vec!["t".into(), "u".into()]), ..join("a") };
    let none = topics(&[]);
    let a = group.heartbeat(0, &none, &both).unwrap();
    assert_eq!((a.epoch, a.assigned), (1, Some(BTreeSet::new())), "topics may come later");
    assert!(group.wants("t") && group.wants("u") && !group.wants("v"));
    let t = topics(&[("t", 1), ("v", 1)]);
    let a = group.heartbeat(0, &t, &beat("a", 1)).unwrap();
    assert_eq!((a.epoch, a.assigned), (2, Some(on(b't', 0..1))));
    assert_eq!(group.heartbeat(0, &topics(&[("t", 1), ("w", 3)]), &beat("a", 2)).unwrap().epoch, 2, "not its topics");
    let more = topics(&[("t", 3)]);
    let a = group.heartbeat(0, &more, &beat("a", 2)).unwrap();
    assert_eq!((a.epoch, a.assigned), (3, Some(on(b't', 0..3))));
    // Deleted: to be given up like anything else.
    let a = group.heartbeat(0, &none, &beat("a", 3)).unwrap();
    assert_eq!((a.epoch, a.assigned), (3, Some(BTreeSet::new())));
    assert_eq!(group.heartbeat(0, &none, &owning("a", 3, BTreeSet::new())).unwrap().epoch, 4);
}

#[test]
fn patterns_and_names_add_up_and_may_change() {
    let (mut group, t) = (group(), topics(&[("abc", 1), ("bcd", 1), ("cde", 1)]));
    let by_pattern = |pattern: &str| Some(pattern.to_owned());
    let a = Heartbeat { topic_names: None, topic_pattern: by_pattern("a.*|.*d"), ..join("a") };
    let assigned = |heard: Heard| heard.assigned.unwrap().into_iter().map(|(id, _)| id[0]).collect::<Vec<_>>();
    assert_eq!(assigned(group.heartbeat(0, &t, &a).unwrap()), b"ab");
    assert!(group.wants("abc") && !group.wants("cde"));
    let and_names = Heartbeat { topic_names: Some(vec!["cde".into()]), owned: None, ..beat("a", 1) };
    assert_eq!(assigned(group.heartbeat(0, &t, &and_names).unwrap()), b"abc");
    let more = topics(&[("abc", 1), ("bcd", 1), ("cde", 1), ("ddd", 1)]);
    assert_eq!(assigned(group.heartbeat(0, &more, &beat("a", 2)).unwrap()), b"abcd", "a new topic that matches");
    let names_only = Heartbeat { topic_pattern: by_pattern(""), ..beat("a", 3) };
    assert_eq!(assigned(group.heartbeat(0, &more, &names_only).unwrap()), b"c");

    let wrong = Heartbeat { topic_pattern: by_pattern("("), ..beat("a", 3) };
    assert!(matches!(group.heartbeat(0, &more, &wrong), Err(Error::InvalidPattern(_))));
    let wrong = Heartbeat { topic_pattern: by_pattern("("), ..join("b") };
    assert!(matches!(group.heartbeat(0, &more, &wrong), Err(Error::InvalidPattern(_))));
    assert_eq!((group.size(), group.epoch()), (1, 4), "what is refused changes nothing");
}

#[test]
fn most_members_choose_the_assignor() {
    let (mut group, t) = (group(), topics(&[("t", 4)]));
    let with = |id: &str, assignor: &str| Heartbeat { assignor: Some(assignor.into()), ..join(id) };
    group.heartbeat(0, &t, &join("a")).unwrap();
    assert_eq!(group.assignor(), Assignor::Uniform);
    group.heartbeat(0, &t, &with("b", "range")).unwrap();
    assert_eq!(group.assignor(), Assignor::Range, "who says nothing has no vote");
    let refused = group.heartbeat(0, &t, &with("c", "sticky")).unwrap_err();
    assert_eq!(refused.to_string(), "ServerAssignor sticky is not supported. Supported assignors: uniform, range.");
}

#[test]
fn requests_have_the_form_that_kafka_asks_for() {
    let (mut group, t) = (group(), topics(&[("t", 1)]));
    let mut refused = |request: Heartbeat| match group.heartbeat(0, &t, &request) {
        Err(Error::InvalidRequest(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(join("")), "MemberId can't be empty.");
    assert_eq!(refused(beat("", 4)), "MemberId can't be empty.");
    assert_eq!(refused(static_join("a", "")), "InstanceId can't be empty.");
    assert_eq!(refused(Heartbeat { rack_id: Some("".into()), ..join("a") }), "RackId can't be empty.");
    assert_eq!(refused(beat("a", -3)), "MemberEpoch is invalid.");
    assert_eq!(refused(beat("a", -2)), "InstanceId can't be null.");
    assert_eq!(
        refused(Heartbeat { rebalance_timeout_ms: -1, ..join("a") }),
        "RebalanceTimeoutMs must be provided in first request."
    );
    for owned in [None, Some(on(b't', 0..1))] {
        assert_eq!(refused(Heartbeat { owned, ..join("a") }), "TopicPartitions must be empty when (re-)joining.");
    }
    assert_eq!(
        refused(Heartbeat { topic_names: None, ..join("a") }),
        "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."
    );
    assert_eq!(group.size(), 0);
}

#[test]
fn offsets_are_committed_under_the_epoch_in_which_the_partition_was_got() {
    let (mut group, t) = (group(), topics(&[("t", 4)]));
    let of = |index| [Partition::new("t", index)];
    let any = |group: &ConsumerGroup, id: &str, epoch, index| group.check_commit(id, epoch, &of(index), &t);
    assert_eq!(any(&group, "", -1, 0), Ok(()), "nobody is there");
    group.heartbeat(0, &t, &join("a")).unwrap();
    assert_eq!(any(&group, "", -1, 0), Err(Error::UnknownMember), "a tool must not move the offsets of members");
    assert_eq!(any(&group, "a", 1, 0), Ok(()));
    group.heartbeat(0, &t, &join("b")).unwrap();
    let kept = group.heartbeat(0, &t, &beat("a", 1)).unwrap().assigned.unwrap();
    let (mine, lost) = (0..4).partition::<Vec<i32>, _>(|index| kept.contains(&([b't'; 16], *index)));
    assert_eq!(any(&group, "a", 1, lost[0]), Ok(()), "to be given up: now is the time to commit");
    group.heartbeat(0, &t, &owning("a", 1, kept)).unwrap();
    group.heartbeat(0, &t, &beat("b", 2)).unwrap();
    let stale = |claimed| Err(Error::StaleEpoch { claimed, current: 2 });
    assert_eq!(any(&group, "a", 1, mine[0]), Ok(()), "an older epoch, and the partition is the same one's");
    assert_eq!(any(&group, "a", 1, lost[0]), stale(1));
    assert_eq!(any(&group, "a", 0, mine[0]), stale(0));
    assert_eq!(any(&group, "a", 3, mine[0]), stale(3));
    assert_eq!(any(&group, "b", 1, lost[0]), stale(1), "before it had it");

    assert_eq!(group.check_fetch(None, -1), Ok(()));
    assert_eq!(group.check_fetch(Some("a"), 2), Ok(()));
    assert_eq!(group.check_fetch(Some("a"), 1), stale(1));
    assert_eq!(group.check_fetch(Some("z"), 1), Err(Error::UnknownMember));
}
