//! The session against a broker that follows the standard to the letter, with cuts, kills and refused commits.
use proptest::prelude::*;

use super::*;
use crate::connect::mqtt::packet::Topic;

const SESSION: &str = "client";

fn identity() -> Identity {
    Identity::new(SESSION, "mqtt://h:1883")
}

fn session() -> Session {
    Session::new(identity(), &[], 1 << 20, false)
}

fn message(qos: u8, packet_id: u16, payload: &str, is_repeat: bool) -> Publish {
    Publish {
        qos,
        packet_id,
        is_repeat,
        topic: Topic::new(Bytes::from(format!("q{qos}"))).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        ..Publish::default()
    }
}

fn record(publish: &Publish) -> SourceRecord {
    SourceRecord {
        topic: publish.topic.as_str().into(),
        partition: None,
        key: None,
        value: Some(publish.payload.clone()),
        headers: Vec::new(),
        timestamp_ms: None,
    }
}

fn take(session: &mut Session, publish: &Publish) -> Taken {
    session.publish(publish, Instant::now(), || Some(record(publish)))
}

fn acks(session: &mut Session) -> Vec<Ack> {
    session.ready().collect()
}

#[test]
fn nothing_is_acknowledged_before_its_commit() {
    let mut s = session();
    take(&mut s, &message(1, 1, "a", false));
    take(&mut s, &message(2, 2, "b", false));
    let commit = s.next_commit().unwrap();
    assert_eq!((commit.records.len(), commit.positions.len()), (2, 1));
    assert_eq!(commit.urgency, Urgency::Unattended, "two packets do not hurry");
    assert!(acks(&mut s).is_empty());
    s.committed(Instant::now());
    assert_eq!(acks(&mut s), [Ack::Done(1), Ack::Received(2)]);
    s.release(2);
    let commit = s.next_commit().unwrap();
    assert_eq!(commit.positions.len(), 1);
    assert!(acks(&mut s).is_empty(), "PUBCOMP lets the broker use the identifier anew");
    s.committed(Instant::now());
    assert_eq!(acks(&mut s), [Ack::Complete(2)]);
}

#[test]
fn a_repetition_is_acknowledged_and_not_recorded() {
    let mut s = session();
    take(&mut s, &message(2, 9, "a", false));
    let commit = s.next_commit().unwrap();
    s.committed(Instant::now());
    let saved: Vec<_> = commit.positions.into_iter().map(|(k, v)| (k, v.unwrap())).collect();
    // Killed here: the broker heard nothing.
    let mut s = Session::new(identity(), &saved, 1 << 20, false);
    assert_eq!(take(&mut s, &message(2, 9, "a", true)), Taken::Repeated);
    assert!(s.next_commit().is_none());
    assert_eq!(acks(&mut s), [Ack::Received(9)]);
    // A broker that lost its side uses the identifier for something else: that must not be lost.
    assert_eq!(take(&mut s, &message(2, 9, "b", false)), Taken::Replaced);
    assert_eq!(s.next_commit().unwrap().records.len(), 1);
    // Another session's identifiers are not ours.
    let other = Session::new(Identity::new(SESSION, "mqtt://other:1883"), &saved, 1 << 20, false);
    assert_eq!(other.held(), 0);
}

#[test]
fn a_lost_session_forgets_what_it_held() {
    let saved = [(identity().packet_id(3), Held { digest: 7, is_released: true }.write())];
    let mut s = Session::new(identity(), &saved, 1 << 20, false);
    assert_eq!(s.forget(), [(identity().packet_id(3), None)]);
    assert_eq!(s.held(), 0);
}

#[test]
fn a_broker_that_uses_identifiers_again_is_found_out_for_good() {
    let mut s = session();
    for _ in 0..2 {
        assert_eq!(take(&mut s, &message(2, 1, "same", false)), Taken::Recorded);
        s.release(1);
        assert_eq!(s.release_state(), if s.reuses_at_once { (0, 0) } else { (1, 1) });
    }
    let saved: BTreeMap<_, _> = s.next_commit().unwrap().positions.into_iter().collect();
    let saved: Vec<_> = saved.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
    let s = Session::new(identity(), &saved, 1 << 20, false);
    assert!(s.reuses_at_once);
    assert_eq!(s.held(), 0);
}

#[test]
fn a_message_sent_anew_after_its_release_is_recognised() {
    let mut s = session();
    take(&mut s, &message(2, 1, "a", false));
    s.release(1);
    assert_eq!(take(&mut s, &message(2, 1, "a", true)), Taken::Repeated);
    s.release(1);
    assert_eq!(take(&mut s, &message(2, 1, "b", true)), Taken::Recorded);
    // No more are remembered than a broker can still be in doubt about.
    let mut s = session();
    for id in 1..=10_000 {
        take(&mut s, &message(2, id, "x", false));
        s.release(id);
    }
    assert_eq!(s.release_state(), (MOST_RELEASED, MOST_RELEASED));
}

impl Session {
    fn release_state(&self) -> (usize, usize) {
        (self.held.len(), self.released.len())
    }
}

#[test]
fn an_unknown_release_is_answered() {
    let mut s = session();
    s.release(4);
    assert!(s.next_commit().is_none());
    assert_eq!(acks(&mut s), [Ack::Complete(4)]);
}

#[test]
fn a_window_that_fills_makes_commits_urgent() {
    let mut s = session();
    let mut urgencies = Vec::new();
    for id in 1..=20 {
        take(&mut s, &message(1, id, "x", false));
        if let Some(commit) = s.next_commit() {
            urgencies.push((commit.records.len(), commit.urgency));
        }
    }
    // The first waits for company, the next hurries with all that came since; so no broker's window of 20 stalls.
    assert_eq!(urgencies[0], (1, Urgency::Unattended));
    assert_eq!(urgencies[1], (5, Urgency::Waited));
    assert!(urgencies.len() <= MOST_FLIGHTS);
}

#[test]
fn a_window_of_one_is_found_out_and_forgotten() {
    let mut s = session();
    let mut now = Instant::now();
    let mut seen = Vec::new();
    for id in 1..=8 {
        // The fifth comes late: the broker had nothing to send.
        now += if id == 7 { Duration::from_secs(1) } else { Duration::from_millis(1) };
        let m = message(1, id, "x", false);
        s.publish(&m, now, || Some(record(&m)));
        seen.push(s.next_commit().unwrap().urgency);
        now += Duration::from_millis(250);
        s.committed(now);
        acks(&mut s);
    }
    let (a, w) = (Urgency::Unattended, Urgency::Waited);
    assert_eq!(seen, [a, a, a, w, w, w, a, a]);
}

#[test]
fn what_is_not_durable_is_bounded() {
    let mut s = session();
    let mut taken = 0;
    while s.has_room() {
        take(&mut s, &message(0, 0, "x", false));
        while s.next_commit().is_some() {}
        taken += 1;
        assert!(taken <= MOST_RECORDS);
    }
    s.committed(Instant::now());
    assert!(s.has_room());
    let mut s = Session::new(identity(), &[], 10_000, false);
    take(&mut s, &message(1, 1, &"x".repeat(20_000), false));
    assert!(!s.has_room());
}

#[test]
fn a_careful_session_commits_one_at_a_time() {
    let mut s = Session::new(identity(), &[], 1 << 20, true);
    take(&mut s, &message(1, 1, "x", false));
    assert!(s.must_commit());
    assert_eq!(s.next_commit().unwrap().records.len(), 1);
    assert!(s.must_commit());
    s.committed(Instant::now());
    assert!(!s.must_commit());
}

/// A broker as the standard describes it, with the smallest free identifier for each message, which is the hardest on
/// a receiver that mixes old and new up. Or Mosquitto, which counts up, and sends a message anew if PUBREL found a
/// dead connection.
#[derive(Default)]
struct Broker {
    is_mosquitto: bool,
    last_id: u16,
    queue: VecDeque<(u8, String)>,
    /// In the order of first sending: identifier, QoS, payload, PUBREL was sent again, has PUBREC.
    flows: Vec<(u16, u8, String, bool, bool)>,
    to_client: VecDeque<Result<Publish, u16>>,
    window: usize,
}

impl Broker {
    /// Starts what the window allows.
    fn send(&mut self) {
        while self.flows.len() < self.window {
            let Some((qos, payload)) = self.queue.pop_front() else { return };
            let free = |id: &u16| self.flows.iter().all(|f| f.0 != *id);
            let id = if self.is_mosquitto { self.last_id + 1 } else { (1..).find(free).unwrap() };
            self.last_id = id;
            self.to_client.push_back(Ok(message(qos, id, &payload, false)));
            self.flows.push((id, qos, payload, false, false));
        }
    }

    fn reconnect(&mut self) {
        self.to_client.clear();
        for (id, qos, payload, is_repeated, is_received) in &mut self.flows {
            if *is_received && *is_repeated && self.is_mosquitto {
                (*is_received, *is_repeated) = (false, false);
            }
            if *is_received {
                *is_repeated = true;
                self.to_client.push_back(Err(*id));
            } else {
                self.to_client.push_back(Ok(message(*qos, *id, payload, true)));
            }
        }
    }

    fn take(&mut self, ack: Ack) {
        match ack {
            Ack::Done(id) => self.flows.retain(|f| f.0 != id || f.1 != 1),
            Ack::Received(id) => {
                if let Some(flow) = self.flows.iter_mut().find(|f| f.0 == id && f.1 == 2) {
                    flow.4 = true;
                    self.to_client.push_back(Err(id));
                }
            }
            Ack::Complete(id) => self.flows.retain(|f| !(f.0 == id && f.1 == 2 && f.4)),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish(u8, u8),
    /// The client reads so many packets.
    Read(usize),
    /// The oldest commit becomes durable.
    Durable,
    /// The broker reads so many acknowledgements.
    Acks(usize),
    /// The connection breaks after so many acknowledgements got through.
    Cut(usize),
    /// Brooklet is killed; so many commits under way still became durable.
    Kill(usize, usize),
    /// The log refuses a commit; those behind it go through.
    Refuse(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u8..=2, 0u8..2).prop_map(|(q, p)| Step::Publish(q, p)),
        8 => (1usize..6).prop_map(Step::Read),
        6 => Just(Step::Durable),
        6 => (1usize..6).prop_map(Step::Acks),
        1 => (0usize..4).prop_map(Step::Cut),
        1 => (0usize..4, 0usize..4).prop_map(|(d, a)| Step::Kill(d, a)),
        1 => (0usize..3).prop_map(Step::Refuse),
    ]
}

struct World {
    broker: Broker,
    session: Session,
    under_way: VecDeque<Commit>,
    to_broker: VecDeque<Ack>,
    records: Vec<(String, Bytes)>,
    positions: BTreeMap<Bytes, Bytes>,
}

impl World {
    fn apply(&mut self, commit: Commit) {
        self.records.extend(commit.records.into_iter().map(|r| (r.topic.to_string(), r.value.unwrap())));
        for (key, value) in commit.positions {
            match value {
                Some(value) => self.positions.insert(key, value),
                None => self.positions.remove(&key),
            };
        }
    }

    fn turn(&mut self) {
        self.broker.send();
        while let Some(commit) = self.session.next_commit() {
            self.under_way.push_back(commit);
        }
        self.to_broker.extend(self.session.ready());
    }

    /// A new connection, from what is durable; `acks` of the old one got through.
    fn reconnect(&mut self, acks: usize) {
        for ack in self.to_broker.drain(..).take(acks).collect::<Vec<_>>() {
            self.broker.take(ack);
        }
        self.to_broker.clear();
        let saved: Vec<_> = self.positions.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        self.session = Session::new(identity(), &saved, 1 << 20, false);
        self.broker.reconnect();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish(qos, payload) => self.broker.queue.push_back((*qos, payload.to_string())),
            Step::Read(n) => {
                for _ in 0..*n {
                    match self.broker.to_client.pop_front() {
                        Some(Ok(publish)) => {
                            take(&mut self.session, &publish);
                        }
                        Some(Err(id)) => self.session.release(id),
                        None => break,
                    }
                }
            }
            Step::Durable => {
                if let Some(commit) = self.under_way.pop_front() {
                    self.apply(commit);
                    self.session.committed(Instant::now());
                }
            }
            Step::Acks(n) => {
                for _ in 0..*n {
                    let Some(ack) = self.to_broker.pop_front() else { break };
                    self.broker.take(ack);
                }
            }
            Step::Cut(acks) => {
                while let Some(commit) = self.under_way.pop_front() {
                    self.apply(commit);
                }
                self.reconnect(*acks);
            }
            Step::Kill(durable, acks) => {
                for _ in 0..*durable {
                    let Some(commit) = self.under_way.pop_front() else { break };
                    self.apply(commit);
                }
                self.under_way.clear();
                self.reconnect(*acks);
            }
            Step::Refuse(at) => {
                for (i, commit) in std::mem::take(&mut self.under_way).into_iter().enumerate() {
                    if i != *at {
                        self.apply(commit);
                    }
                }
                self.reconnect(usize::MAX);
            }
        }
        self.turn();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]
    /// Payloads repeat, identifiers are used anew at once: QoS 2 arrives once, QoS 1 at least once.
    #[test]
    fn each_qos_2_message_once_each_qos_1_message_at_least_once(
        steps in prop::collection::vec(step(), 1..120), window in 1usize..6, is_mosquitto: bool,
    ) {
        let broker = Broker { window, is_mosquitto, ..Broker::default() };
        let mut world = World {
            broker,
            session: session(),
            under_way: VecDeque::new(),
            to_broker: VecDeque::new(),
            records: Vec::new(),
            positions: BTreeMap::new(),
        };
        let mut sent: BTreeMap<(String, Bytes), usize> = BTreeMap::new();
        // Two messages without a fault, by which a broker shows how it counts.
        let quiet = [Step::Publish(2, 0), Step::Read(9), Step::Durable, Step::Acks(9), Step::Read(9), Step::Durable, Step::Acks(9)];
        for step in quiet.iter().chain(&quiet).chain(&steps) {
            if let Step::Publish(qos, payload) = step {
                *sent.entry((format!("q{qos}"), Bytes::from(payload.to_string()))).or_default() += 1;
            }
            world.step(step);
        }
        for _ in 0..1000 {
            world.step(&Step::Read(10));
            world.step(&Step::Durable);
            world.step(&Step::Acks(10));
        }
        prop_assert!(world.broker.queue.is_empty() && world.broker.flows.is_empty(), "everything was acknowledged");
        let saved: Vec<_> = world.positions.into_iter().collect();
        let after = Session::new(identity(), &saved, 1 << 20, false);
        prop_assert_eq!(after.reuses_at_once, !is_mosquitto);
        prop_assert!(after.held.values().all(|h| h.is_released), "no identifier is held for ever");
        prop_assert!(after.held.is_empty() || is_mosquitto);
        for (message, count) in sent {
            let got = world.records.iter().filter(|r| **r == message).count();
            if message.0 == "q2" {
                prop_assert_eq!(got, count, "{:?}", message);
            } else {
                prop_assert!(got >= count, "{:?}: {} of {}", message, got, count);
            }
        }
    }
}
