use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    super::member::{Joined, Protocol},
    *,
};

const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 60_000;

/// A group and the answers it gave, by ticket.
struct Rig {
    group: Group,
    now: Uptime,
    tickets: Ticket,
    answers: BTreeMap<Ticket, Answer>,
}

fn request(member_id: &str) -> Join {
    Join {
        member_id: member_id.into(),
        instance_id: None,
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: "consumer".into(),
        protocols: protocols(&[("range", "r"), ("roundrobin", "rr")]),
        requires_known_member_id: false,
        can_skip_assignment: false,
    }
}

fn protocols(list: &[(&str, &str)]) -> Vec<Protocol> {
    let protocol = |&(name, metadata): &(&str, &str)| Protocol {
        name: name.into(),
        metadata: Bytes::copy_from_slice(metadata.as_bytes()),
    };
    list.iter().map(protocol).collect()
}

fn named(instance: &str) -> Join {
    Join { instance_id: Some(instance.into()), can_skip_assignment: true, ..request("") }
}

impl Rig {
    fn new() -> Self {
        Self::with(Limits { initial_delay_ms: 0, max_size: 10 })
    }

    fn with(limits: Limits) -> Self {
        Self { group: Group::new(limits), now: 1, tickets: 0, answers: BTreeMap::new() }
    }

    fn take(&mut self, out: Vec<Answer>) {
        for answer in out {
            let (Answer::Join(ticket, _) | Answer::Sync(ticket, _)) = &answer;
            assert!(self.answers.insert(*ticket, answer).is_none(), "a ticket was answered twice");
        }
    }

    fn join(&mut self, request: &Join) -> Ticket {
        self.tickets += 1;
        let (ticket, mut out) = (self.tickets, Vec::new());
        self.group.join(self.now, ticket, request, format!("m{ticket}").into(), &mut out);
        self.take(out);
        ticket
    }

    fn sync(&mut self, member: &Joined, assignments: &[(&str, &str)]) -> Ticket {
        self.tickets += 1;
        let (ticket, mut out) = (self.tickets, Vec::new());
        let share = |&(id, share): &(&str, &str)| (id.to_owned(), Bytes::copy_from_slice(share.as_bytes()));
        let request = Sync {
            member_id: member.member_id.to_string(),
            generation: member.generation,
            assignments: assignments.iter().map(share).collect(),
            ..Sync::default()
        };
        self.group.sync(self.now, ticket, request, &mut out);
        self.take(out);
        ticket
    }

    fn beat(&mut self, member: &Joined) -> Result<(), Error> {
        self.group.heartbeat(self.now, &member.member_id, None, member.generation)
    }

    fn leave(&mut self, member_id: &str) -> Result<(), Error> {
        let mut out = Vec::new();
        let leaver = Leaver { member_id: member_id.into(), instance_id: None };
        let answer = self.group.leave(self.now, &leaver, &mut out);
        self.take(out);
        answer
    }

    /// Lets time pass, ticking exactly at the deadlines.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(at) = self.group.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let mut out = Vec::new();
            self.group.tick(self.now, &mut out);
            self.take(out);
            assert!(self.group.deadline().is_none_or(|at| at > self.now), "a deadline stayed in the past");
        }
        self.now = end;
    }

    fn joined(&mut self, ticket: Ticket) -> Joined {
        match self.answers.remove(&ticket).expect("answered") {
            Answer::Join(_, result) => result.unwrap(),
            Answer::Sync(..) => panic!("a sync answered a join"),
        }
    }

    fn refused(&mut self, ticket: Ticket) -> Error {
        match self.answers.remove(&ticket).expect("answered") {
            Answer::Join(_, result) => result.unwrap_err(),
            Answer::Sync(_, result) => result.unwrap_err(),
        }
    }

    fn share(&mut self, ticket: Ticket) -> Bytes {
        match self.answers.remove(&ticket).expect("answered") {
            Answer::Sync(_, result) => result.unwrap().assignment,
            Answer::Join(..) => panic!("a join answered a sync"),
        }
    }

    /// Two stable members, leader first.
    fn stable(&mut self, first: &Join, second: &Join) -> (Joined, Joined) {
        let a = self.join(first);
        let a = self.joined(a);
        let b = self.join(second);
        let again = Join { member_id: a.member_id.to_string(), ..first.clone() };
        let a = self.join(&again);
        let (a, b) = (self.joined(a), self.joined(b));
        self.share_out(&a, &b);
        (a, b)
    }

    fn share_out(&mut self, a: &Joined, b: &Joined) {
        let tb = self.sync(b, &[]);
        let ta = self.sync(a, &[(&a.member_id, "A"), (&b.member_id, "B")]);
        assert_eq!((self.share(ta), self.share(tb)), (Bytes::from("A"), Bytes::from("B")));
        assert_eq!(self.group.state(), State::Stable);
    }
}

fn again(joined: &Joined) -> Join {
    request(&joined.member_id)
}

#[test]
fn two_members_share_and_only_the_leader_sees_both() {
    let mut rig = Rig::new();
    let (a, b) = rig.stable(&request(""), &request(""));
    assert_eq!((a.generation, b.generation), (2, 2));
    assert_eq!((&a.leader, &b.leader), (&a.member_id, &a.member_id));
    assert_eq!((a.members.len(), b.members.len()), (2, 0));
    assert_eq!(a.members[1].metadata, "r");
    assert_eq!((rig.beat(&a), rig.beat(&b)), (Ok(()), Ok(())));
}

#[test]
fn a_new_dynamic_member_must_come_back_with_its_id() {
    let mut rig = Rig::new();
    let ticket = rig.join(&Join { requires_known_member_id: true, ..request("") });
    let Error::MemberIdRequired(id) = rig.refused(ticket) else { panic!() };
    assert_eq!(rig.group.state(), State::Empty);
    let ticket = rig.join(&Join { requires_known_member_id: true, ..request(&id) });
    assert_eq!(rig.joined(ticket).member_id, id);
    // The id lapses with the session timeout.
    let ticket = rig.join(&Join { requires_known_member_id: true, ..request("") });
    let Error::MemberIdRequired(id) = rig.refused(ticket) else { panic!() };
    rig.pass(SESSION_MS as u64);
    let ticket = rig.join(&request(&id));
    assert_eq!(rig.refused(ticket), Error::UnknownMember);
}

/// KIP-394: a member that was told its id counts as on its way.
#[test]
fn a_rebalance_waits_for_a_pending_member() {
    let mut rig = Rig::new();
    let first = rig.join(&request(""));
    let first = rig.joined(first);
    let pending = rig.join(&Join { requires_known_member_id: true, ..request("") });
    let Error::MemberIdRequired(id) = rig.refused(pending) else { panic!() };
    let rejoin = rig.join(&again(&first));
    // In CompletingRebalance an unchanged member is answered at once.
    assert_eq!(rig.joined(rejoin).generation, 1);
    let third = rig.join(&request(""));
    let rejoin = rig.join(&again(&first));
    assert!(!rig.answers.contains_key(&rejoin));
    let second = rig.join(&request(&id));
    let generations = [rejoin, second, third].map(|t| rig.joined(t).generation);
    assert_eq!(generations, [2, 2, 2]);
}

#[test]
fn an_unchanged_follower_does_not_stir_the_group() {
    let mut rig = Rig::new();
    let (a, b) = rig.stable(&request(""), &request(""));
    let ticket = rig.join(&again(&b));
    let answer = rig.joined(ticket);
    assert_eq!((answer.generation, answer.members.len()), (b.generation, 0));
    assert_eq!(rig.group.state(), State::Stable);
    // Changed metadata does, and so does a leader that asks again.
    let changed = Join { protocols: protocols(&[("range", "other")]), ..again(&b) };
    let ticket = rig.join(&changed);
    assert!(!rig.answers.contains_key(&ticket));
    assert_eq!(rig.beat(&a), Err(Error::RebalanceInProgress));
    let leader = rig.join(&again(&a));
    let (a, b) = (rig.joined(leader), rig.joined(ticket));
    assert_eq!(a.members[1].metadata, "other");
    rig.share_out(&a, &b);
    let _parked = rig.join(&again(&a));
    assert_eq!(rig.group.state(), State::PreparingRebalance);
}

#[test]
fn the_protocol_is_one_that_all_support_and_most_prefer() {
    let mut rig = Rig::new();
    let with = |list: &[(&str, &str)]| Join { protocols: protocols(list), ..request("") };
    let a = rig.join(&with(&[("range", ""), ("rr", ""), ("sticky", "")]));
    let a = rig.joined(a);
    assert_eq!(&*a.protocol, "range");
    let b = rig.join(&with(&[("rr", ""), ("sticky", ""), ("range", "")]));
    let c = rig.join(&with(&[("rr", ""), ("range", "")]));
    let odd = rig.join(&with(&[("sticky", "")]));
    assert_eq!(rig.refused(odd), Error::InconsistentProtocol, "c does not support it");
    let other = rig.join(&Join { protocol_type: "connect".into(), ..with(&[("range", "")]) });
    assert_eq!(rig.refused(other), Error::InconsistentProtocol);
    let a =
        rig.join(&Join { member_id: a.member_id.to_string(), ..with(&[("range", ""), ("rr", ""), ("sticky", "")]) });
    for ticket in [a, b, c] {
        assert_eq!(&*rig.joined(ticket).protocol, "rr");
    }
    let mut empty = Rig::new();
    let none = empty.join(&with(&[]));
    assert_eq!(empty.refused(none), Error::InconsistentProtocol);
}

#[test]
fn whoever_does_not_come_back_in_time_is_out() {
    let mut rig = Rig::new();
    let (a, b) = rig.stable(&request(""), &request(""));
    let c = rig.join(&request(""));
    let mut passed = 0;
    while passed < REBALANCE_MS as u64 {
        // Both are alive, but only b joins again.
        assert_eq!(rig.beat(&a), Err(Error::RebalanceInProgress));
        rig.pass(5000);
        passed += 5000;
        if passed == 5000 {
            let _parked = rig.join(&again(&b));
        }
    }
    let c = rig.joined(c);
    assert_eq!(c.leader, b.member_id, "the eldest that is there leads");
    assert_eq!(rig.beat(&a), Err(Error::UnknownMember));
}

#[test]
fn a_silent_member_expires_and_the_rest_goes_on() {
    let mut rig = Rig::new();
    let (a, b) = rig.stable(&request(""), &request(""));
    for _ in 0..3 {
        assert!(rig.beat(&b).is_ok() || rig.group.state() == State::PreparingRebalance);
        rig.pass(5000);
    }
    assert_eq!(rig.group.state(), State::PreparingRebalance);
    assert_eq!(rig.beat(&a), Err(Error::UnknownMember));
    let b = rig.join(&again(&b));
    let b = rig.joined(b);
    assert_eq!((&b.leader, b.members.len()), (&b.member_id, 1));
}

#[test]
fn a_leader_that_never_assigns_is_removed() {
    let mut rig = Rig::new();
    let a = rig.join(&request(""));
    let a = rig.joined(a);
    let b = rig.join(&request(""));
    let a2 = rig.join(&again(&a));
    let (a, b) = (rig.joined(a2), rig.joined(b));
    let waiting = rig.sync(&b, &[]);
    for _ in 0..REBALANCE_MS / 5000 {
        assert!(rig.beat(&a).is_ok());
        assert!(!rig.answers.contains_key(&waiting));
        rig.pass(5000);
    }
    assert_eq!(rig.refused(waiting), Error::RebalanceInProgress);
    assert_eq!(rig.beat(&a), Err(Error::UnknownMember));
}

#[test]
fn a_rebalance_answers_parked_syncs_and_stale_generations() {
    let mut rig = Rig::new();
    let a = rig.join(&request(""));
    let a = rig.joined(a);
    let b = rig.join(&request(""));
    let a2 = rig.join(&again(&a));
    let (a, b) = (rig.joined(a2), rig.joined(b));
    let parked = rig.sync(&b, &[]);
    let _c = rig.join(&request(""));
    assert_eq!(rig.refused(parked), Error::RebalanceInProgress);
    let early = rig.sync(&a, &[]);
    assert_eq!(rig.refused(early), Error::RebalanceInProgress);
    let stale = Joined { generation: 1, ..a.clone() };
    assert_eq!(rig.beat(&stale), Err(Error::IllegalGeneration));
}

#[test]
fn leaving_hands_the_lead_on_and_empties_the_group() {
    let mut rig = Rig::new();
    let (a, b) = rig.stable(&request(""), &request(""));
    assert_eq!(rig.leave("nobody"), Err(Error::UnknownMember));
    assert_eq!(rig.leave(&a.member_id), Ok(()));
    let b = rig.join(&again(&b));
    let b = rig.joined(b);
    assert_eq!(b.leader, b.member_id);
    assert_eq!(rig.leave(&b.member_id), Ok(()));
    assert_eq!((rig.group.state(), rig.group.is_idle()), (State::Empty, true));
    assert_eq!(rig.group.deadline(), None);
}

#[test]
fn a_static_member_returns_without_a_rebalance() {
    let mut rig = Rig::new();
    let (a, b) = rig.stable(&named("i-a"), &named("i-b"));
    // The leader: it is told to skip the assignment, and who the members are.
    let back = rig.join(&named("i-a"));
    let back = rig.joined(back);
    assert_ne!(back.member_id, a.member_id);
    assert_eq!((back.generation, back.skips_assignment, back.members.len()), (a.generation, true, 2));
    assert_eq!(rig.group.state(), State::Stable);
    assert_eq!(rig.group.heartbeat(rig.now, &a.member_id, Some("i-a"), a.generation), Err(Error::FencedInstance));
    let share = rig.sync(&back, &[]);
    assert_eq!(rig.share(share), "A");
    // An older client must not find itself leader, or it would assign anew.
    let old = rig.join(&Join { can_skip_assignment: false, ..named("i-a") });
    let old = rig.joined(old);
    assert_eq!((old.leader == old.member_id, old.members.len()), (false, 0));
    let follower = rig.join(&named("i-b"));
    let follower = rig.joined(follower);
    assert_eq!((follower.skips_assignment, follower.generation), (false, b.generation));
    // Its session ends all the same.
    rig.pass(SESSION_MS as u64);
    assert_eq!(rig.group.state(), State::Empty);
}

#[test]
fn a_static_member_taken_over_while_parked_is_fenced() {
    let mut rig = Rig::new();
    let (a, _b) = rig.stable(&named("i-a"), &request(""));
    let parked = rig.join(&Join { member_id: a.member_id.to_string(), ..named("i-a") });
    let usurper = rig.join(&named("i-a"));
    assert_eq!(rig.refused(parked), Error::FencedInstance);
    assert!(!rig.answers.contains_key(&usurper));
    let mut out = Vec::new();
    let leaver = Leaver { member_id: String::new(), instance_id: Some("i-a".into()) };
    assert_eq!(rig.group.leave(rig.now, &leaver, &mut out), Ok(()));
    rig.take(out);
    assert_eq!(rig.refused(usurper), Error::UnknownMember);
}

#[test]
fn static_members_that_are_away_are_waited_for_until_their_session_ends() {
    let mut rig = Rig::new();
    let long = Join { session_timeout_ms: 300_000, ..named("i-a") };
    let (_a, b) = rig.stable(&long, &request(""));
    let b = rig.join(&Join { protocols: protocols(&[("range", "new")]), ..again(&b) });
    rig.pass(REBALANCE_MS as u64);
    let b = rig.joined(b);
    assert_eq!((b.leader == b.member_id, b.members.len()), (true, 2), "the absent one keeps its place");
}

#[test]
fn the_first_member_waits_for_company_if_told_so() {
    let mut rig = Rig::with(Limits { initial_delay_ms: 3000, max_size: 10 });
    let a = rig.join(&request(""));
    rig.pass(2000);
    let b = rig.join(&request(""));
    rig.pass(1000);
    assert!(rig.answers.is_empty(), "a newcomer prolongs the wait");
    rig.pass(3000);
    let (a, b) = (rig.joined(a), rig.joined(b));
    assert_eq!((a.generation, b.generation, a.members.len()), (1, 1, 2));
}

#[test]
fn a_full_group_refuses() {
    let mut rig = Rig::with(Limits { initial_delay_ms: 0, max_size: 2 });
    let (a, _b) = rig.stable(&named("i-a"), &named("i-b"));
    let third = rig.join(&request(""));
    assert_eq!(rig.refused(third), Error::GroupFull);
    let back = rig.join(&named("i-b"));
    assert_eq!(rig.joined(back).generation, a.generation, "a static member takes its own place");
}

/// A client of versions 0 to 3 learns its id from the answer; without the answer nobody can claim it.
#[test]
fn a_closed_connection_does_not_keep_a_member_alive() {
    let mut rig = Rig::new();
    let (a, b) = rig.stable(&request(""), &request(""));
    let lost = rig.join(&request(""));
    let mut out = Vec::new();
    rig.group.gone(rig.now, lost, &mut out);
    rig.take(out);
    assert_eq!(rig.group.members().len(), 2);
    // One that knows its id may come back, until its session ends.
    let parked = rig.join(&again(&b));
    let mut out = Vec::new();
    rig.group.gone(rig.now, parked, &mut out);
    rig.take(out);
    assert_eq!(rig.group.members().len(), 2);
    let _leader = rig.join(&again(&a));
    rig.pass(SESSION_MS as u64);
    assert_eq!(rig.group.members().len(), 1);
    assert!(!rig.answers.contains_key(&parked));
}

#[test]
fn commits_are_checked_against_the_generation() {
    let mut rig = Rig::new();
    assert_eq!(rig.group.check_commit(1, "", None, -1), Ok(()));
    assert_eq!(rig.group.check_commit(1, "x", None, 3), Err(Error::UnknownMember));
    let a = rig.join(&request(""));
    let a = rig.joined(a);
    let id = a.member_id.to_string();
    assert_eq!(rig.group.check_commit(2, &id, None, 1), Err(Error::RebalanceInProgress), "not synced yet");
    let t = rig.sync(&a, &[]);
    assert_eq!(rig.share(t), "", "a share left out is empty");
    assert_eq!(rig.group.check_commit(2, &id, None, 1), Ok(()));
    assert_eq!(rig.group.check_commit(2, &id, None, 0), Err(Error::IllegalGeneration));
    assert_eq!(rig.group.check_commit(2, "", None, -1), Err(Error::UnknownMember));
    // A rebalance being prepared lets the last positions through.
    let _b = rig.join(&request(""));
    assert_eq!(rig.group.check_commit(2, &id, None, 1), Ok(()));
    rig.pass(SESSION_MS as u64 - 1);
    assert_eq!(rig.group.check_commit(rig.now, &id, None, 1), Ok(()), "a commit is a sign of life");
    rig.pass(SESSION_MS as u64 - 1);
    assert_eq!(rig.group.check_commit(rig.now, &id, None, 1), Ok(()));
}

/// What the clients of the property test do.
#[derive(Clone, Debug)]
enum Op {
    Join { who: usize, metadata: u8, second_only: bool },
    Forget { who: usize },
    Sync { who: usize },
    Beat { who: usize },
    Leave { who: usize },
    Close { pick: usize },
    Pass { ms: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let who = 0..6usize;
    let op = prop_oneof![
        6 => (who.clone(), 0..2u8, prop::bool::weighted(0.1))
            .prop_map(|(who, metadata, second_only)| Op::Join { who, metadata, second_only }),
        1 => who.clone().prop_map(|who| Op::Forget { who }),
        6 => who.clone().prop_map(|who| Op::Sync { who }),
        4 => who.clone().prop_map(|who| Op::Beat { who }),
        2 => who.prop_map(|who| Op::Leave { who }),
        1 => (0..8usize).prop_map(|pick| Op::Close { pick }),
        3 => prop_oneof![Just(1), Just(900), Just(9_999), Just(10_000), Just(70_000)].prop_map(|ms| Op::Pass { ms }),
    ];
    proptest::collection::vec(op, 1..120)
}

/// Clients 0 and 1 join at once, 2 and 3 must learn their ids first, 4 and 5 are static.
#[derive(Default)]
struct World {
    rig: Option<Rig>,
    ids: [String; 6],
    last: BTreeMap<usize, Joined>,
    /// Who waits, and under which member id.
    parked: BTreeMap<Ticket, (usize, String)>,
    closed: BTreeSet<Ticket>,
    leaders: BTreeMap<i32, (Arc<str>, usize)>,
}

impl World {
    fn rig(&mut self) -> &mut Rig {
        self.rig.as_mut().expect("made at the start")
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Join { who, metadata, second_only } => {
                let text = if metadata == 0 { "x" } else { "y" };
                let mut request = request(&self.ids[who]);
                request.protocols = protocols(&[("range", text), ("roundrobin", text)]);
                if second_only {
                    request.protocols.remove(0);
                }
                request.requires_known_member_id = (2..4).contains(&who);
                request.instance_id = (who >= 4).then(|| format!("i{who}").into());
                request.can_skip_assignment = who == 4;
                let ticket = self.rig().join(&request);
                self.parked.insert(ticket, (who, request.member_id));
            }
            Op::Forget { who } => self.ids[who].clear(),
            Op::Sync { who } => {
                let Some(joined) = self.last.get(&who).cloned() else { return };
                let shares: Vec<(String, String)> =
                    joined.members.iter().map(|m| (m.member_id.to_string(), m.member_id.to_string())).collect();
                let shares: Vec<(&str, &str)> = shares.iter().map(|(a, b)| (&**a, &**b)).collect();
                let ticket = self.rig().sync(&joined, &shares);
                self.parked.insert(ticket, (who, joined.member_id.to_string()));
            }
            Op::Beat { who } => {
                if let Some(joined) = self.last.get(&who).cloned() {
                    let _answer = self.rig().beat(&joined);
                }
            }
            Op::Leave { who } => {
                let id = self.ids[who].clone();
                let _answer = self.rig().leave(&id);
            }
            Op::Close { pick } => {
                let Some(ticket) = self.parked.keys().nth(pick).copied() else { return };
                self.parked.remove(&ticket);
                self.closed.insert(ticket);
                let rig = self.rig();
                let mut out = Vec::new();
                rig.group.gone(rig.now, ticket, &mut out);
                rig.take(out);
            }
            Op::Pass { ms } => self.rig().pass(ms),
        }
        self.read_answers();
        self.check();
    }

    fn read_answers(&mut self) {
        for (ticket, answer) in std::mem::take(&mut self.rig().answers) {
            assert!(!self.closed.contains(&ticket), "a closed connection was answered");
            let (who, id) = self.parked.remove(&ticket).expect("answers have a ticket that was parked");
            match answer {
                Answer::Join(_, Ok(joined)) => {
                    self.ids[who] = joined.member_id.to_string();
                    if !joined.members.is_empty() && who < 4 {
                        let leader = (Arc::clone(&joined.protocol), who);
                        let known = self.leaders.entry(joined.generation).or_insert_with(|| leader.clone());
                        assert_eq!(*known, leader, "one leader and one protocol in a generation");
                        assert_eq!(joined.leader, joined.member_id);
                    }
                    self.last.insert(who, joined);
                }
                Answer::Join(_, Err(Error::MemberIdRequired(id))) => self.ids[who] = id.to_string(),
                Answer::Join(_, Err(Error::UnknownMember | Error::FencedInstance)) => self.ids[who].clear(),
                Answer::Sync(_, Ok(synced)) => {
                    let share = String::from_utf8(synced.assignment.to_vec()).unwrap();
                    assert!(who >= 4 || share.is_empty() || share == id, "{share} is not the share of {id}");
                }
                Answer::Join(_, Err(_)) | Answer::Sync(_, Err(_)) => {}
            }
        }
    }

    fn check(&mut self) {
        let group = &self.rig.as_ref().expect("made at the start").group;
        let mut held = BTreeSet::new();
        for member in group.members() {
            assert!(
                member.join.is_none() || group.state == State::PreparingRebalance,
                "join parked in {:?}",
                group.state
            );
            assert!(
                member.sync.is_none() || group.state == State::CompletingRebalance,
                "sync parked in {:?}",
                group.state
            );
            held.extend(member.join.into_iter().chain(member.sync));
            if let Some(name) = &member.instance_id {
                assert_eq!(group.instances.get(name), Some(&member.id));
            }
            assert!(!group.pending.contains_key(&member.id), "both pending and member");
        }
        assert_eq!(held, self.parked.keys().copied().collect(), "every parked request has one place, or was answered");
        let ids: BTreeSet<_> = group.members().iter().map(|m| &m.id).collect();
        assert_eq!(ids.len(), group.members().len(), "a member twice");
        assert_eq!(group.instances.len(), group.members().iter().filter(|m| m.instance_id.is_some()).count());
        match group.state {
            State::Empty => assert!(group.members().is_empty() && group.protocol.is_none()),
            State::Stable | State::CompletingRebalance => {
                assert!(ids.contains(group.leader.as_ref().unwrap()), "the leader is a member");
                let protocol = group.protocol.as_ref().expect("chosen");
                assert!(group.members().iter().all(|m| m.supports(protocol)));
            }
            State::PreparingRebalance => assert!(group.deadline().is_some(), "a rebalance always ends"),
            State::Dead => panic!("nobody removed it"),
        }
        assert!(
            group.members().is_empty()
                || group.deadline().is_some()
                || group.members().iter().all(|m| m.sync.is_some())
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn every_request_is_answered_once_and_time_ends_everything(
        ops in ops(), initial_delay_ms in prop_oneof![Just(0), Just(3000u64)], max_size in 2..7usize,
    ) {
        let limits = Limits { initial_delay_ms, max_size };
        let mut world = World { rig: Some(Rig::with(limits)), ..World::default() };
        for op in &ops {
            world.apply(op);
        }
        // Nobody says anything any more: in bounded steps all is answered and everybody expires.
        let mut steps = 0;
        while world.rig().group.deadline().is_some() {
            world.apply(&Op::Pass { ms: 10_000 });
            steps += 1;
            prop_assert!(steps < 200, "timers do not lead to an end");
        }
        prop_assert!(world.parked.is_empty());
        prop_assert!(world.rig().group.is_idle());
    }
}
