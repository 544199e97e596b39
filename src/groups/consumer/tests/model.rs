//! Clients that behave, networks that do not: members join, leave, crash and fall silent, answers are lost, topics come
//! and go, in any order.

use proptest::prelude::*;

use super::*;

const CLIENTS: usize = 5;
/// From here on clients are static members.
const STATIC_FROM: usize = 3;
const NAMES: [&str; 3] = ["r", "s", "t"];

#[derive(Clone, Debug)]
enum Event {
    /// Client n beats; its answer may be lost.
    Beat(usize, bool),
    /// Client n does what the last answer told it.
    Act(usize),
    /// The process of client n is started if it is not there.
    Start(usize),
    /// It leaves as it should; for a while, if it is static and says so.
    Leave(usize, bool),
    Crash(usize),
    /// It wants other topics.
    Subscribe(usize, u8),
    Topic(usize, i32),
    Pass(u64),
}

#[derive(Clone, Debug)]
struct Client {
    id: String,
    instance: Option<Arc<str>>,
    epoch: i32,
    wants: u8,
    /// What it reads.
    owned: BTreeSet<TopicPartition>,
    /// What it was told to read.
    told: BTreeSet<TopicPartition>,
    /// It must say everything again.
    is_full: bool,
}

struct World {
    group: ConsumerGroup,
    now: Uptime,
    topics: Arc<Topics>,
    partitions: [i32; NAMES.len()],
    clients: [Option<Client>; CLIENTS],
    starts: u32,
    epoch: i32,
}

fn event() -> impl Strategy<Value = Event> {
    let client = 0..CLIENTS;
    prop_oneof![
        8 => (client.clone(), prop::bool::weighted(0.15)).prop_map(|(n, is_lost)| Event::Beat(n, is_lost)),
        5 => client.clone().prop_map(Event::Act),
        2 => client.clone().prop_map(Event::Start),
        1 => (client.clone(), any::<bool>()).prop_map(|(n, is_away)| Event::Leave(n, is_away)),
        1 => client.clone().prop_map(Event::Crash),
        1 => (client, 0..8u8).prop_map(|(n, wants)| Event::Subscribe(n, wants)),
        1 => (0..NAMES.len(), 0..4i32).prop_map(|(n, partitions)| Event::Topic(n, partitions)),
        2 => (1..20_000u64).prop_map(Event::Pass),
    ]
}

impl World {
    fn new() -> Self {
        let partitions = [0, 2, 3];
        let mut world = Self {
            group: ConsumerGroup::new(Rules { max_size: 100, ..rules() }, 0),
            now: 0,
            topics: Arc::default(),
            partitions,
            clients: [const { None }; CLIENTS],
            starts: 0,
            epoch: 0,
        };
        world.show_topics();
        world
    }

    fn show_topics(&mut self) {
        let there: Vec<_> = NAMES.into_iter().zip(self.partitions).filter(|(_, n)| *n > 0).collect();
        self.topics = topics(&there);
    }

    fn names(wants: u8) -> Vec<String> {
        let named = NAMES.iter().enumerate().filter(|(n, _)| wants & (1 << n) != 0);
        named.map(|(_, name)| (*name).to_owned()).collect()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Beat(n, is_lost) => self.beat(n, is_lost),
            Event::Act(n) => {
                if let Some(client) = &mut self.clients[n] {
                    client.owned.clone_from(&client.told);
                }
            }
            Event::Start(n) => {
                if self.clients[n].is_none() {
                    self.starts += 1;
                    self.clients[n] = Some(Client {
                        id: format!("{n}-{}", self.starts),
                        instance: (n >= STATIC_FROM).then(|| format!("i{n}").into()),
                        epoch: 0,
                        wants: 7,
                        owned: BTreeSet::new(),
                        told: BTreeSet::new(),
                        is_full: true,
                    });
                }
            }
            Event::Leave(n, is_away) => {
                let Some(client) = self.clients[n].take().filter(|client| client.epoch > 0) else { return };
                let epoch = if is_away && client.instance.is_some() { -2 } else { -1 };
                let request = Heartbeat { instance_id: client.instance, ..beat(&client.id, epoch) };
                let _gone_already = self.group.heartbeat(self.now, &self.topics, &request);
            }
            Event::Crash(n) => self.clients[n] = None,
            Event::Subscribe(n, wants) => {
                if let Some(client) = &mut self.clients[n] {
                    (client.wants, client.is_full) = (wants, true);
                }
            }
            Event::Topic(n, partitions) => {
                // Partitions are added or all of them go; nothing else happens to a topic.
                self.partitions[n] = if partitions == 0 { 0 } else { self.partitions[n].max(partitions) };
                self.show_topics();
            }
            Event::Pass(ms) => {
                let until = self.now + ms;
                while let Some(at) = self.group.deadline().filter(|at| *at <= until) {
                    self.now = self.now.max(at);
                    self.group.tick(self.now);
                    assert!(self.group.deadline().is_none_or(|at| at > self.now));
                }
                self.now = until;
            }
        }
        self.check();
    }

    fn beat(&mut self, n: usize, is_lost: bool) {
        let Some(client) = &mut self.clients[n] else { return };
        let is_full = client.is_full || client.epoch == 0;
        let request = Heartbeat {
            member_id: client.id.clone(),
            epoch: client.epoch,
            instance_id: client.instance.clone(),
            rebalance_timeout_ms: if is_full { 30_000 } else { -1 },
            topic_names: is_full.then(|| Self::names(client.wants)),
            // Some clients tell what they own with every request, others when they are done.
            owned: (is_full || n.is_multiple_of(2) || client.owned == client.told).then(|| client.owned.clone()),
            ..Heartbeat::default()
        };
        let before = self.group.members.get(&*client.id).map(|m| m.epoch);
        let heard = self.group.heartbeat(self.now, &self.topics, &request);
        if let (Some(before), Ok(heard)) = (before, &heard) {
            assert!(heard.epoch >= before, "an epoch never becomes smaller");
        }
        assert_eq!(self.group.epoch, self.group.target_epoch.max(self.group.epoch));
        if is_lost {
            // It will say everything again, as clients do after a time-out, and takes up nothing until it has heard. One
            // that did would read what the broker took for given up because it had not been taken up: the protocol
            // leaves that open, with Kafka too.
            client.is_full = true;
            client.told.retain(|p| client.owned.contains(p));
            return;
        }
        match heard {
            Ok(heard) => {
                assert!(heard.assigned.is_some() || !is_full, "a full request has a full answer");
                (client.epoch, client.is_full) = (heard.epoch, false);
                client.told = heard.assigned.unwrap_or_else(|| client.told.clone());
            }
            Err(Error::FencedEpoch { .. } | Error::UnknownMember) => {
                assert_ne!(client.epoch, 0, "who joins is taken");
                client.epoch = 0;
                client.owned.clear();
                client.told.clear();
            }
            // Its former self has crashed, and its session has not ended yet.
            Err(Error::UnreleasedInstance) => assert_eq!(client.epoch, 0),
            // Another process has its name by now.
            Err(Error::FencedInstance) => self.clients[n] = None,
            Err(other) => panic!("{other}"),
        }
    }

    fn check(&mut self) {
        let mut held = BTreeSet::new();
        for member in self.group.members.values() {
            for partition in member.assigned.keys().chain(member.revoking.keys()) {
                assert!(held.insert(*partition), "the broker gave a partition to two");
            }
            assert!(member.epoch <= self.group.epoch);
        }
        let mut read = BTreeSet::new();
        for client in self.clients.iter().flatten() {
            let Some(member) = self.group.members.get(&*client.id).filter(|_| client.epoch != 0) else { continue };
            for partition in &client.owned {
                assert!(read.insert(*partition), "two members read a partition");
                assert!(member.holds(partition), "a member reads what the broker has given away");
            }
        }
        assert!(self.group.epoch >= self.epoch, "the group's epoch became smaller");
        self.epoch = self.group.epoch;
    }

    /// Everybody who is there goes on quietly for a while.
    fn settle(&mut self) {
        for _ in 0..30 {
            for n in 0..CLIENTS {
                self.handle(Event::Beat(n, false));
                self.handle(Event::Act(n));
            }
            self.handle(Event::Pass(5_000));
        }
    }

    fn check_settled(&self) {
        let mut read: BTreeMap<TopicPartition, usize> = BTreeMap::new();
        let mut wanted = BTreeSet::new();
        for client in self.clients.iter().flatten() {
            let names = Self::names(client.wants);
            assert_eq!(client.epoch, self.group.epoch, "everybody has arrived");
            assert!(client.owned.iter().all(|(id, _)| names.iter().any(|name| name.as_bytes()[0] == id[0])));
            for partition in &client.owned {
                *read.entry(*partition).or_default() += 1;
            }
            for (name, partitions) in NAMES.into_iter().zip(self.partitions) {
                if names.iter().any(|wants| *wants == name) {
                    wanted.extend(on(name.as_bytes()[0], 0..partitions));
                }
            }
        }
        assert!(read.values().all(|readers| *readers == 1), "{read:?}");
        assert_eq!(read.into_keys().collect::<BTreeSet<_>>(), wanted, "every partition has its reader");
        let live = self.clients.iter().flatten().count();
        assert_eq!(self.group.size(), live, "the dead are gone");
        assert_eq!(self.group.state(), if live == 0 { State::Empty } else { State::Stable });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_partition_comes_to_one_live_member_and_never_to_two(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::new();
        for event in events {
            world.handle(event);
        }
        world.settle();
        world.check_settled();
    }
}
