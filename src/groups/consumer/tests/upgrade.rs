//! Groups with members of both protocols, driven by clients as they are: eager and cooperative classic ones, and those of
//! the consumer protocol.

use proptest::prelude::*;

use super::*;
use crate::{
    groups::{
        group::{Group, Leaver, Limits, State as ClassicState},
        member::{Answer, Join, Protocol, Sync},
    },
    wire::consumer_protocol::{
        ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicPartition as OfTopic, decode_versioned,
        encode_versioned,
    },
};

const LIMITS: Limits = Limits { initial_delay_ms: 0, max_size: 10 };

fn classic_join(id: &str, owned: &BTreeSet<TopicPartition>) -> Join {
    let owned = OfTopic { topic: "t".into(), partitions: owned.iter().map(|(_, index)| *index).collect() };
    let said =
        ConsumerProtocolSubscription { topics: vec!["t".into()], owned_partitions: vec![owned], ..Default::default() };
    Join {
        member_id: id.into(),
        instance_id: None,
        client_id: "app".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![Protocol { name: "range".into(), metadata: encode_versioned(&said, 1) }],
        requires_known_member_id: false,
        can_skip_assignment: false,
    }
}

fn share(indexes: impl IntoIterator<Item = i32>) -> bytes::Bytes {
    let all = vec![OfTopic { topic: "t".into(), partitions: indexes.into_iter().collect() }];
    encode_versioned(&ConsumerProtocolAssignment { assigned_partitions: all, user_data: None }, 1)
}

fn shared(bytes: bytes::Bytes) -> BTreeSet<TopicPartition> {
    let all: ConsumerProtocolAssignment = decode_versioned(bytes).unwrap();
    all.assigned_partitions.iter().flat_map(|of| on(b't', of.partitions.iter().copied())).collect()
}

/// A stable classic group whose members have these shares of `t`.
fn classic(shares: &[(&str, Vec<i32>)]) -> Group {
    let mut group = Group::new(LIMITS);
    let mut out = Vec::new();
    for (at, (id, _)) in shares.iter().enumerate() {
        group.join(0, at as u64, &classic_join("", &BTreeSet::new()), (*id).into(), &mut out);
        for (again, (id, _)) in shares[..at].iter().enumerate() {
            group.join(0, (100 * at + again) as u64, &classic_join(id, &BTreeSet::new()), "".into(), &mut out);
        }
    }
    let assignments = shares.iter().map(|(id, indexes)| ((*id).into(), share(indexes.iter().copied()))).collect();
    let generation = group.generation();
    let leads = Sync { member_id: shares[0].0.into(), generation, assignments, ..Sync::default() };
    group.sync(0, 9_999, leads, &mut out);
    assert_eq!(group.state(), ClassicState::Stable);
    group
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Eager,
    Cooperative,
    Consumer,
}

/// A client that does what Java's do.
struct Client {
    id: String,
    speaks: Speaks,
    epoch: i32,
    owned: BTreeSet<TopicPartition>,
    joins: bool,
}

impl Client {
    fn new(id: &str, speaks: Speaks) -> Self {
        Self { id: id.into(), speaks, epoch: 0, owned: BTreeSet::new(), joins: true }
    }

    fn turn(&mut self, group: &mut ConsumerGroup, now: Uptime, topics: &Arc<Topics>) {
        if self.speaks == Speaks::Consumer {
            let request = match self.epoch {
                0 => super::join(&self.id),
                epoch => owning(&self.id, epoch, self.owned.clone()),
            };
            match group.heartbeat(now, topics, &request) {
                Ok(heard) => {
                    self.epoch = heard.epoch;
                    if let Some(assigned) = heard.assigned {
                        self.owned = assigned;
                    }
                }
                Err(_) => (self.epoch, self.owned) = (0, BTreeSet::new()),
            }
            return;
        }
        if !self.joins {
            match group.classic_heartbeat(now, &self.id, None, self.epoch) {
                Ok(()) => return,
                Err(Error::RebalanceInProgress) => {}
                Err(_) => self.owned.clear(),
            }
        }
        if self.speaks == Speaks::Eager {
            self.owned.clear();
        }
        let joined = group.join(now, topics, &classic_join(&self.id, &self.owned), &"fresh".into()).unwrap();
        self.epoch = joined.generation;
        let asks = Sync { member_id: self.id.clone(), generation: self.epoch, ..Sync::default() };
        let assigned = shared(group.sync(now, &asks).unwrap().assignment);
        // A cooperative one that had to give something up joins again.
        self.joins = !self.owned.is_subset(&assigned);
        self.owned = assigned;
    }
}

fn is_disjoint(clients: &[Client]) -> bool {
    let all: Vec<_> = clients.iter().flat_map(|client| client.owned.iter()).collect();
    all.iter().collect::<BTreeSet<_>>().len() == all.len()
}

fn upgraded(speaks: Speaks, topics: &Arc<Topics>) -> (ConsumerGroup, Vec<Client>) {
    let shares = [("a", vec![0, 1]), ("b", vec![2, 3])];
    let old = classic(&shares);
    let group = ConsumerGroup::of_classic(rules(), &old, topics).unwrap();
    assert_eq!((group.epoch(), group.size()), (old.generation(), 2));
    let clients = shares.iter().map(|(id, indexes)| Client {
        epoch: old.generation(),
        owned: on(b't', indexes.iter().copied()),
        joins: false,
        ..Client::new(id, speaks)
    });
    let clients = clients.collect();
    (group, clients)
}

fn settle(group: &mut ConsumerGroup, clients: &mut [Client], topics: &Arc<Topics>) {
    for round in 0..12 {
        for at in 0..clients.len() {
            clients[at].turn(group, round, topics);
            assert!(is_disjoint(clients), "round {round}");
        }
    }
    let all: BTreeSet<_> = clients.iter().flat_map(|client| client.owned.iter().copied()).collect();
    assert_eq!(all, on(b't', 0..4), "all of it is read");
    assert_eq!(group.state(), State::Stable);
}

#[test]
fn classic_members_share_with_the_first_of_the_new_protocol_and_are_led_back() {
    let topics = topics(&[("t", 4)]);
    for speaks in [Speaks::Eager, Speaks::Cooperative] {
        let (mut group, mut clients) = upgraded(speaks, &topics);
        clients.push(Client::new("n", Speaks::Consumer));
        settle(&mut group, &mut clients, &topics);
        assert!(clients.iter().all(|client| !client.owned.is_empty()), "each has some");
        assert!(group.is_classic("a") && !group.is_classic("n"));
        let stale = Sync { member_id: "a".into(), generation: 1, ..Sync::default() };
        assert_eq!(group.sync(0, &stale), Err(Error::IllegalGeneration));
        assert_eq!(group.check_commit("a", 1, [], &topics), Ok(()), "nothing is committed");
        let partition = Partition::new("t", clients[0].owned.first().unwrap().1);
        assert_eq!(group.check_commit("a", 1, [&partition], &topics), Err(Error::IllegalGeneration));
        assert_eq!(group.check_commit("a", clients[0].epoch, [&partition], &topics), Ok(()));

        // The new one goes: the rest are a classic group again, in the generation that they know.
        group.heartbeat(20, &topics, &beat("n", -1)).unwrap();
        assert!(group.is_only_classic());
        let mut out = Vec::new();
        let mut back = group.to_classic(LIMITS, 20, &mut out);
        assert_eq!(back.state(), ClassicState::PreparingRebalance);
        for client in &clients[..2] {
            let heard = back.heartbeat(21, &client.id, None, client.epoch);
            assert_eq!(heard, Err(Error::RebalanceInProgress), "{} is to join again", client.id);
        }
        for (ticket, client) in clients[..2].iter().enumerate() {
            back.join(22, ticket as u64, &classic_join(&client.id, &client.owned), "".into(), &mut out);
        }
        let joined = out.iter().filter(|answer| matches!(answer, Answer::Join(_, Ok(_)))).count();
        assert_eq!((joined, back.state()), (2, ClassicState::CompletingRebalance));
    }
}

#[test]
fn what_is_no_group_of_consumers_is_not_turned() {
    let topics = topics(&[("t", 4)]);
    let twice = classic(&[("a", vec![0, 1]), ("b", vec![1])]);
    assert!(ConsumerGroup::of_classic(rules(), &twice, &topics).is_none(), "a partition that two have");
    let mut connect = Group::new(LIMITS);
    let mut out = Vec::new();
    let request = Join { protocol_type: "connect".into(), ..classic_join("", &BTreeSet::new()) };
    connect.join(0, 1, &request, "w".into(), &mut out);
    let leads = Sync { member_id: "w".into(), generation: 1, ..Sync::default() };
    connect.sync(0, 2, leads, &mut out);
    assert!(ConsumerGroup::of_classic(rules(), &connect, &topics).is_none());
    let (mut group, _) = upgraded(Speaks::Eager, &topics);
    assert_eq!(group.join(0, &topics, &request, &"w".into()), Err(Error::InconsistentProtocol));
    let garbage = Join {
        protocols: vec![Protocol { name: "range".into(), metadata: b"\0".as_slice().into() }],
        ..classic_join("", &BTreeSet::new())
    };
    assert_eq!(group.join(0, &topics, &garbage, &"w".into()), Err(Error::InconsistentProtocol));
    let careful = Join { requires_known_member_id: true, ..classic_join("", &BTreeSet::new()) };
    assert_eq!(group.join(0, &topics, &careful, &"w".into()), Err(Error::MemberIdRequired("w".into())));
}

#[test]
fn a_classic_member_that_does_not_join_again_in_time_is_taken_out() {
    let topics = topics(&[("t", 4)]);
    let (mut group, mut clients) = upgraded(Speaks::Eager, &topics);
    let mut new = Client::new("n", Speaks::Consumer);
    new.turn(&mut group, 0, &topics);
    // It beats, so its session holds, but it never joins.
    let mut now = 0;
    while group.is_classic("a") {
        now += 10_000;
        assert!(now <= 90_000, "its 60 seconds are over");
        let _told = group.classic_heartbeat(now, "a", None, clients[0].epoch);
        clients[1].turn(&mut group, now, &topics);
        new.turn(&mut group, now, &topics);
        group.tick(now);
    }
    clients.remove(0);
    clients.push(new);
    settle(&mut group, &mut clients, &topics);
}

#[test]
fn a_static_member_moves_to_the_new_protocol_under_its_name() {
    let topics = topics(&[("t", 4)]);
    let mut group = group();
    group.heartbeat(0, &topics, &join("n")).unwrap();
    let named = Join { instance_id: Some("name".into()), ..classic_join("", &BTreeSet::new()) };
    let joined = group.join(0, &topics, &named, &"old".into()).unwrap();
    assert_eq!(&*joined.member_id, "old");
    let stolen = Join { member_id: "other".into(), ..named };
    assert_eq!(group.join(0, &topics, &stolen, &"x".into()), Err(Error::FencedInstance));
    let heard = group.heartbeat(1, &topics, &static_join("new", "name")).unwrap();
    assert_eq!((&*heard.member_id, group.size(), group.is_classic("new")), ("new", 2, false));
    assert_eq!(group.classic_heartbeat(1, "old", Some("name"), joined.generation), Err(Error::FencedInstance));
}

#[test]
fn a_static_member_that_was_away_begins_anew_under_its_own_id() {
    let topics = topics(&[("t", 4)]);
    let mut group = group();
    group.heartbeat(0, &topics, &static_join("s", "name")).unwrap();
    group.heartbeat(1, &topics, &static_beat("s", "name", -2)).unwrap();
    // Another takes half meanwhile, so what it had is to be given up.
    group.heartbeat(2, &topics, &join("other")).unwrap();
    let heard = group.heartbeat(3, &topics, &static_join("s", "name")).unwrap();
    assert!(heard.epoch >= 0, "{}", heard.epoch);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whoever comes and goes in whatever order: nothing is read by two, and in the end all of it by somebody.
    #[test]
    fn nothing_is_read_by_two_while_an_application_is_upgraded(
        is_eager in any::<bool>(),
        turns in prop::collection::vec((0usize..6, 0u8..12), 1..60),
    ) {
        let topics = topics(&[("t", 4)]);
        let speaks = if is_eager { Speaks::Eager } else { Speaks::Cooperative };
        let (mut group, mut clients) = upgraded(speaks, &topics);
        clients.push(Client::new("first", Speaks::Consumer));
        clients[2].turn(&mut group, 0, &topics);
        for (count, (at, what)) in turns.into_iter().enumerate() {
            let consumers = clients.iter().filter(|c| c.speaks == Speaks::Consumer && c.epoch != 0).count();
            match what {
                0 if clients.len() < 5 => clients.push(Client::new(&format!("n{count}"), Speaks::Consumer)),
                1 if clients.len() < 5 => clients.push(Client::new(&format!("c{count}"), speaks)),
                2 if clients.len() > 2 => {
                    let at = at % clients.len();
                    let client = &clients[at];
                    // The last of the new protocol stays: what comes after it is the classic machine's.
                    if client.speaks == Speaks::Consumer && client.epoch != 0 {
                        if consumers == 1 {
                            continue;
                        }
                        group.heartbeat(0, &topics, &beat(&client.id, -1)).unwrap();
                    } else if client.speaks != Speaks::Consumer && !client.joins {
                        group.classic_leave(&Leaver { member_id: client.id.clone(), ..Leaver::default() }).unwrap();
                    } else {
                        continue;
                    }
                    clients.remove(at);
                }
                _ => {
                    let at = at % clients.len();
                    clients[at].turn(&mut group, 0, &topics);
                }
            }
            prop_assert!(is_disjoint(&clients));
        }
        settle(&mut group, &mut clients, &topics);
    }
}
