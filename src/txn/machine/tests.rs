//! The machine against what must hold whatever clients do: fencing, retries, epochs.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// A client starts anew, or goes on from what it knows; perhaps the answer is lost.
    Init {
        client: usize,
        claims: bool,
        is_lost: bool,
    },
    Add {
        client: usize,
        partition: i32,
    },
    Write {
        client: usize,
        partition: i32,
        flow: Flow,
    },
    Stage {
        client: usize,
        flow: Flow,
    },
    End {
        client: usize,
        outcome: Outcome,
        flow: Flow,
        is_lost: bool,
    },
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let flow = || prop_oneof![Just(Flow::First), Just(Flow::Second)];
    let outcome = prop_oneof![Just(Outcome::Commit), Just(Outcome::Abort)];
    prop_oneof![
        2 => (0..3usize, any::<bool>(), any::<bool>())
            .prop_map(|(client, claims, is_lost)| Step::Init { client, claims, is_lost }),
        3 => (0..3usize, 0..4i32).prop_map(|(client, partition)| Step::Add { client, partition }),
        6 => (0..3usize, 0..4i32, flow()).prop_map(|(client, partition, flow)| Step::Write { client, partition, flow }),
        2 => (0..3usize, flow()).prop_map(|(client, flow)| Step::Stage { client, flow }),
        4 => (0..3usize, outcome, flow(), any::<bool>())
            .prop_map(|(client, outcome, flow, is_lost)| Step::End { client, outcome, flow, is_lost }),
        1 => (0..1500u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// What a client calls itself that never was given an identity.
const NOBODY: Identity = Identity { id: -5, epoch: -1 };
const TIMEOUT_MS: i32 = 1000;

struct Rig {
    machine: Machine,
    now: Uptime,
    next_id: i64,
    /// What each client knows of itself.
    clients: [Identity; 3],
    /// Whose request made the present owner, by the answer.
    master: Option<usize>,
    /// Every owner there was.
    owners: Vec<Identity>,
    /// Partitions with batches of the open transaction, and the epoch of each.
    written: Vec<(i32, i16)>,
}

impl Rig {
    fn new(first_epoch: i16) -> Self {
        let mut machine = Machine::new();
        if first_epoch > 0 {
            machine.owner = Identity { id: 1, epoch: first_epoch };
            machine.timeout_ms = TIMEOUT_MS;
        }
        let owners = vec![machine.owner];
        let clients = [NOBODY; 3];
        Self { machine, now: 0, next_id: 2, clients, master: None, owners, written: Vec::new() }
    }

    fn began(&self) -> Began {
        Began { at: self.now, wall_ms: 0 }
    }

    fn fresh(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Init { client, claims, is_lost } => {
                let claimed = Some(self.clients[client]).filter(|c| claims && c.id >= 0);
                let fresh = self.fresh();
                let Ok(turn) = self.machine.init(self.now, claimed, TIMEOUT_MS, fresh) else {
                    assert!(claimed.is_some(), "who claims nothing always gets in");
                    assert_ne!(claimed, Some(self.machine.owner), "nor is the owner refused");
                    return;
                };
                assert_eq!(turn.ends.is_some(), self.machine.state == State::Ongoing);
                let is_repeated = turn.next.owner == self.machine.owner;
                assert!(!is_repeated || claimed == self.machine.former, "only a repeated request changes nothing");
                assert_eq!(turn.next.state, State::Empty);
                self.settle(turn);
                self.master = Some(client);
                if !is_lost {
                    self.clients[client] = self.machine.owner;
                }
            }
            Step::Add { client, partition } => {
                let (who, partition) = (self.clients[client], Partition::new("t", partition));
                match self.machine.add(self.began(), who, [partition.clone()], None) {
                    Ok(turn) => {
                        self.check_mastery(client);
                        if let Some(turn) = turn {
                            self.settle(turn);
                        }
                        assert!(self.machine.state == State::Ongoing && self.machine.partitions.contains(&partition));
                    }
                    Err(_) => assert_ne!(who, self.machine.owner),
                }
            }
            Step::Write { client, partition, flow } => {
                let who = self.clients[client];
                let name = Partition::new("t", partition);
                let was_in = self.machine.partitions.contains(&name);
                let now = self.began();
                match self.machine.admit(now, who, &name, flow) {
                    Ok(()) => {
                        self.check_mastery(client);
                        assert!(was_in || flow == Flow::Second);
                        assert!(self.machine.partitions.contains(&name), "whatever is written will be ended");
                        self.written.push((partition, who.epoch));
                    }
                    Err(Error::NotInTransaction) => assert!(!was_in && flow == Flow::First),
                    Err(_) => assert_ne!(who, self.machine.owner),
                }
            }
            Step::Stage { client, flow } => {
                let who = self.clients[client];
                let positions = vec![([0; 16], 0, Committed::at(1, 0))];
                if let Ok(turn) = self.machine.stage(self.began(), who, &"g".into(), positions, flow) {
                    self.check_mastery(client);
                    assert_eq!((turn.next.staged.len(), turn.next.state), (1, State::Ongoing));
                    self.settle(turn);
                }
            }
            Step::End { client, outcome, flow, is_lost } => {
                let (who, fresh) = (self.clients[client], self.fresh());
                let Ok(turn) = self.machine.end(self.now, who, outcome, flow, fresh) else { return };
                self.check_mastery(client);
                if let Some(turn) = turn {
                    assert_eq!(turn.ends.map(|(how, _)| how), Some(outcome));
                    assert!(outcome == Outcome::Abort || self.machine.state == State::Ongoing, "a commit has a begin");
                    assert_eq!(turn.next.owner != self.machine.owner, flow == Flow::Second);
                    self.settle(turn);
                }
                // Asked again, as after a lost answer, nothing happens.
                let again = self.machine.end(self.now, who, outcome, flow, -7);
                if flow == Flow::Second || self.machine.owner == who {
                    assert_eq!(again, Ok(None));
                }
                if flow == Flow::Second && !is_lost {
                    self.clients[client] = self.machine.owner;
                }
            }
            Step::Wait { ms } => {
                self.now += ms;
                let is_due = self.machine.deadline().is_some_and(|at| at <= self.now);
                let turn = self.machine.expire(self.now);
                assert_eq!(turn.is_some(), is_due);
                if let Some(turn) = turn {
                    assert!(turn.ends.is_some_and(|(how, _)| how == Outcome::Abort));
                    self.settle(turn);
                    self.master = None;
                }
            }
        }
    }

    /// Who changes something is the client that the owner was made for.
    fn check_mastery(&self, client: usize) {
        assert_eq!(self.master, Some(client));
    }

    fn settle(&mut self, turn: Turn) {
        let Turn { next, ends } = turn;
        if let Some((_, epoch)) = ends {
            for (partition, written_epoch) in std::mem::take(&mut self.written) {
                assert!(self.machine.partitions.contains(&Partition::new("t", partition)));
                assert!(epoch >= written_epoch, "a marker is not older than what it ends");
                assert!(epoch > written_epoch || next.owner == self.machine.owner, "who is replaced is fenced");
            }
            assert!(next.partitions.is_empty() && next.staged.is_empty() && next.deadline().is_none());
        }
        if next.owner != self.machine.owner {
            assert!(!self.owners.contains(&next.owner), "no identity is given twice");
            assert!(next.owner.epoch < i16::MAX || next.owner.id == self.machine.owner.id);
            self.owners.push(next.owner);
        }
        self.machine = next;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn only_the_owner_acts_and_all_that_is_written_ends(
        first_epoch in prop_oneof![Just(0i16), Just(i16::MAX - 4), Just(i16::MAX - 2)],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut rig = Rig::new(first_epoch);
        for step in steps {
            rig.take(step);
        }
    }
}

#[test]
fn an_end_of_another_kind_is_refused() {
    let who = Identity { id: 1, epoch: 5 };
    let mut machine = Machine { owner: who, timeout_ms: TIMEOUT_MS, ..Machine::new() };
    let end = |machine: &Machine, outcome, flow| machine.end(0, who, outcome, flow, 9);
    // Nothing was begun: Kafka lets an abort of the second version pass, to be sure.
    assert_eq!(end(&machine, Outcome::Commit, Flow::First), Err(Error::InvalidState));
    assert_eq!(end(&machine, Outcome::Abort, Flow::First), Err(Error::InvalidState));
    assert_eq!(end(&machine, Outcome::Commit, Flow::Second), Err(Error::InvalidState));
    assert_eq!(end(&machine, Outcome::Abort, Flow::Second).unwrap().unwrap().next.owner.epoch, 6);

    machine.admit(Began { at: 0, wall_ms: 0 }, who, &Partition::new("t", 0), Flow::Second).unwrap();
    let first = end(&machine, Outcome::Commit, Flow::First).unwrap().unwrap().next;
    assert_eq!((end(&first, Outcome::Commit, Flow::First), first.owner), (Ok(None), who));
    assert_eq!(end(&first, Outcome::Abort, Flow::First), Err(Error::InvalidState));
    let second = end(&machine, Outcome::Commit, Flow::Second).unwrap().unwrap().next;
    assert_eq!(end(&second, Outcome::Commit, Flow::Second), Ok(None));
    assert_eq!(end(&second, Outcome::Abort, Flow::Second), Err(Error::InvalidState));
    assert_eq!(end(&second, Outcome::Abort, Flow::First), Err(Error::Fenced));
}

#[test]
fn a_group_is_part_of_it_or_refused_and_a_position_keeps_its_slot() {
    let who = Identity { id: 1, epoch: 5 };
    let now = Began { at: 0, wall_ms: 0 };
    let machine = Machine { owner: who, timeout_ms: TIMEOUT_MS, ..Machine::new() };
    let group: Arc<str> = "g".into();
    let at = |index, offset| ([3; 16], index, Committed::at(offset, 0));
    let refused = machine.stage(now, who, &group, vec![at(0, 1)], Flow::First);
    assert_eq!(refused, Err(Error::NotInTransaction));
    let added = machine.add(now, who, [], Some(Arc::clone(&group))).unwrap().unwrap().next;
    assert_eq!(added.add(now, who, [], Some(Arc::clone(&group))), Ok(None));
    let staged = added.stage(now, who, &group, vec![at(0, 1), at(1, 1)], Flow::First).unwrap().next;
    let again = staged.stage(now, who, &group, vec![at(0, 2), at(2, 9)], Flow::First).unwrap().next;
    let slots: Vec<_> = again.staged.values().map(|s| (s.slot, s.committed.offset)).collect();
    assert_eq!(slots, [(0, 2), (1, 1), (2, 9)]);
    let many: Vec<Arc<str>> = (0..=MOST_GROUPS).map(|i| format!("g{i}").into()).collect();
    let mut machine = machine;
    for group in &many[..MOST_GROUPS] {
        machine = machine.add(now, who, [], Some(Arc::clone(group))).unwrap().unwrap().next;
    }
    assert_eq!(machine.add(now, who, [], Some(Arc::clone(&many[MOST_GROUPS]))), Err(Error::TooMuch));
}
