//! The protocol against a simulated broker that follows Kafka's rules for producer state, with every fault that was
//! seen on real ones; and each rule switched off alone, to see that the test would notice.
//!
//! `BROOKLET_MODEL_SEEDS` sets the runs per row (default 1,500).

use std::collections::{HashMap, VecDeque};

use super::*;

/// One rule of the protocol each.
#[derive(Clone, Copy, Debug)]
pub(in crate::mirror) struct Rules {
    pub(super) ask: bool,
    pub(super) first_batch_alone: bool,
    pub(super) stale_quarantine: bool,
    pub(super) stale_window_1: bool,
    pub(super) reconcile_every_connection: bool,
    pub(super) leader_check: bool,
    pub(super) evidence_check: bool,
    pub(super) settle: bool,
    pub(super) provisional: bool,
    quarantine_from_answer: bool,
    durable_only: bool,
}

impl Rules {
    pub(in crate::mirror) const ALL: Self = Self {
        ask: true,
        first_batch_alone: true,
        stale_quarantine: true,
        stale_window_1: true,
        reconcile_every_connection: true,
        leader_check: true,
        evidence_check: true,
        settle: true,
        provisional: true,
        quarantine_from_answer: true,
        durable_only: true,
    };
}

/// Scaled for the model: the protocol waits 60 s, the model's late requests come within 20 s.
const EXPIRY_MS: i64 = 86_400_000;
const TICK_MS: i64 = 600_000;
const LATEST_MS: f64 = 20_000.0;
const QUARANTINE_MS: u64 = 30_000;
const STALE_AFTER_MS: i64 = EXPIRY_MS - 3_600_000;

#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    /// The broker stands still and runs what it had buffered when it wakes.
    freeze: bool,
    /// A restart drops the producer state.
    forget: bool,
    /// A follower answers DescribeProducers from its own older view.
    follower: bool,
    /// Retention at the target deletes what would be read back.
    evict: bool,
    /// A power cut drops the source's tail that was not flushed; its offsets are used again.
    power: bool,
    /// A new leader lacks what was not replicated.
    failover: bool,
}

#[derive(Clone, Copy, Debug)]
struct Scene {
    faults: Faults,
    rules: Rules,
    /// The records are three days old.
    old: bool,
    /// Others write into the partition.
    shared: bool,
    records: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    duplicates: usize,
    losses: usize,
    reordered: bool,
    unfinished: bool,
    halted: bool,
}

impl Outcome {
    fn violates(&self) -> bool {
        self.duplicates > 0 || self.losses > 0 || self.reordered || self.unfinished
    }
}

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    fn hit(&mut self, p: f64) -> bool {
        self.unit() < p
    }
    fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }
    fn one_of(&mut self, choices: &[i64]) -> i64 {
        choices[self.between(0, choices.len() - 1)]
    }
}

/// A record's content: its offset and how often the offset was used anew.
type Content = (usize, u32);

#[derive(Clone, Debug)]
struct Batch {
    stamp: Stamp,
    records: Vec<Content>,
    ts_ms: i64,
}

#[derive(Clone, Debug)]
struct Entry {
    epoch: i16,
    /// First and last sequence and base offset of the last five.
    batches: VecDeque<(i32, i32, usize)>,
    ts_ms: i64,
}

enum Refusal {
    Fenced,
    OutOfOrder,
}

#[derive(Default)]
struct Broker {
    /// Producer, epoch, sequence, content; `None` for a record of others.
    log: Vec<Option<(i64, i16, i32, Content)>>,
    state: HashMap<i64, Entry>,
    next_tick_ms: i64,
    ids: i64,
    batches: Vec<(usize, Batch)>,
    high_watermark: usize,
    start: usize,
    follower: HashMap<i64, (i16, i32)>,
    leader_epoch: u32,
}

impl Broker {
    fn tick(&mut self, now_ms: i64) {
        while now_ms >= self.next_tick_ms {
            let at = self.next_tick_ms;
            self.state.retain(|_, e| at - e.ts_ms < EXPIRY_MS);
            self.next_tick_ms += TICK_MS;
        }
    }

    fn produce(&mut self, batch: &Batch) -> Result<usize, Refusal> {
        let Stamp { producer_id, epoch, sequence } = batch.stamp;
        let last = sequence + batch.records.len() as i32 - 1;
        if let Some(entry) = self.state.get(&producer_id) {
            if entry.epoch == epoch
                && let Some((_, _, base)) = entry.batches.iter().find(|(f, l, _)| (*f, *l) == (sequence, last))
            {
                return Ok(*base);
            }
            if epoch < entry.epoch {
                return Err(Refusal::Fenced);
            }
            let expected = if epoch == entry.epoch { entry.batches.back().unwrap().1 + 1 } else { 0 };
            if sequence != expected {
                return Err(Refusal::OutOfOrder);
            }
        }
        let base = self.log.len();
        for (i, content) in batch.records.iter().enumerate() {
            self.log.push(Some((producer_id, epoch, sequence + i as i32, *content)));
        }
        self.remember(base, batch);
        self.batches.push((base, batch.clone()));
        Ok(base)
    }

    fn remember(&mut self, base: usize, batch: &Batch) {
        let Stamp { producer_id, epoch, sequence } = batch.stamp;
        let fresh = Entry { epoch, batches: VecDeque::new(), ts_ms: 0 };
        let entry = self.state.entry(producer_id).or_insert_with(|| fresh.clone());
        if entry.epoch != epoch {
            *entry = fresh;
        }
        if entry.batches.len() == 5 {
            entry.batches.pop_front();
        }
        entry.batches.push_back((sequence, sequence + batch.records.len() as i32 - 1, base));
        entry.ts_ms = batch.ts_ms;
    }

    fn commit(&mut self) {
        self.high_watermark = self.log.len();
    }

    fn replicate(&mut self) {
        self.follower = self.state.iter().map(|(p, e)| (*p, (e.epoch, e.batches.back().unwrap().1))).collect();
    }

    /// The new leader has everything up to the high watermark and rebuilds its producer state from the log.
    fn fail_over(&mut self, now_ms: i64) {
        self.leader_epoch += 1;
        self.log.truncate(self.high_watermark);
        let end = self.log.len();
        self.batches.retain(|(o, _)| *o < end);
        let keep: Vec<i64> = self.state.keys().copied().collect();
        self.state.clear();
        for (base, batch) in self.batches.clone() {
            self.remember(base, &batch);
        }
        self.state.retain(|p, e| now_ms - e.ts_ms < EXPIRY_MS && keep.contains(p));
    }
}

struct World {
    scene: Scene,
    dice: Dice,
    broker: Broker,
    now_ms: i64,
    late: Vec<(i64, Batch)>,
    at_follower: bool,
    /// The leader epoch of the client's metadata.
    known_epoch: u32,
}

impl World {
    fn advance(&mut self, by_ms: i64) {
        let end = self.now_ms + by_ms;
        self.late.sort_by_key(|(t, _)| *t);
        let (due, later): (Vec<_>, Vec<_>) = self.late.drain(..).partition(|(t, _)| *t <= end);
        self.late = later;
        for (at, batch) in due {
            self.broker.tick(at);
            let _refused_or_not = self.broker.produce(&batch);
            if !self.scene.faults.failover || self.dice.hit(0.5) {
                self.broker.commit();
            }
        }
        self.now_ms = end;
        self.broker.tick(end);
        if self.scene.faults.failover && self.dice.hit(0.01) {
            self.broker.fail_over(end);
        }
        if self.scene.faults.follower && self.dice.hit(0.3) {
            self.broker.replicate();
        }
        if self.scene.shared && self.dice.hit(0.5) {
            self.broker.log.push(None);
            if self.dice.hit(0.7) {
                self.broker.commit();
            }
        }
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms as u64, wall_ms: Some(self.now_ms) }
    }

    /// Does what the machine asks until it wants to send or to wait.
    fn answer(&mut self, delivery: &mut Delivery, disk: &mut Record) -> Step {
        for _ in 0..10_000 {
            let step = delivery.poll(self.now());
            if matches!(step, Step::Idle | Step::Wait { .. } | Step::Send { .. } | Step::Halted) {
                return step;
            }
            if step == Step::Persist {
                *disk = delivery.record();
                delivery.persisted();
                continue;
            }
            // Questions take their time: late requests and expiry may fall between them.
            if self.dice.hit(0.2) {
                self.advance(self.now_ms % 700);
            }
            if self.dice.hit(0.02) {
                delivery.failed(self.now());
                continue;
            }
            match step {
                Step::ProducerId => {
                    self.broker.ids += 1;
                    delivery.producer_id(self.broker.ids);
                }
                Step::LeaderEnd if self.at_follower && self.scene.rules.leader_check => {
                    self.redraw();
                    delivery.failed(self.now());
                }
                Step::LeaderEnd | Step::HighWatermark if self.known_epoch != self.broker.leader_epoch => {
                    // FENCED_LEADER_EPOCH: the client asks for metadata.
                    self.known_epoch = self.broker.leader_epoch;
                    delivery.failed(self.now());
                }
                Step::LeaderEnd => delivery.leader_end(self.broker.log.len() as i64, self.now()),
                Step::HighWatermark => {
                    if self.dice.hit(0.3) {
                        self.broker.commit();
                    }
                    delivery.high_watermark(self.broker.high_watermark as i64, self.now());
                }
                Step::LastSequence => {
                    if !self.scene.rules.leader_check {
                        self.redraw();
                    } else if self.dice.hit(0.1) {
                        // Leadership moves between two questions.
                        self.redraw();
                    }
                    let producer = delivery.record().identity.unwrap().producer_id;
                    let known = if self.at_follower {
                        self.broker.follower.get(&producer).copied()
                    } else {
                        self.broker.state.get(&producer).map(|e| (e.epoch, e.batches.back().unwrap().1))
                    };
                    delivery.last_sequence(
                        known.map(|(epoch, last_sequence)| Known { epoch: i32::from(epoch), last_sequence }),
                    );
                }
                Step::ReadBack { from } if (from as usize) < self.broker.start => {
                    delivery.read_back(ReadBack::Gone);
                }
                Step::ReadBack { from } => {
                    let end = self.broker.high_watermark.min(from as usize + 40);
                    let heads = self.broker.log[from as usize..end].iter().flatten();
                    let heads = heads.map(|(producer_id, epoch, last_sequence, _)| Head {
                        producer_id: *producer_id,
                        epoch: *epoch,
                        last_sequence: *last_sequence,
                    });
                    delivery.read_back(ReadBack::Heads(heads.collect(), end as i64, 100));
                }
                _ => unreachable!("handled above"),
            }
        }
        Step::Idle
    }

    fn redraw(&mut self) {
        self.at_follower = self.scene.faults.follower && self.dice.hit(0.3);
    }
}

fn run(seed: u64, scene: Scene) -> Outcome {
    let settings = Settings {
        window: 5,
        quarantine_ms: QUARANTINE_MS,
        stale_after_ms: STALE_AFTER_MS,
        exclusive: !scene.shared,
        compacted: false,
        on_no_evidence: OnNoEvidence::Halt,
        on_target_reset: OnTargetReset::Halt,
        rules: scene.rules,
    };
    let mut dice = Dice(seed);
    let start_ms = 10 * 86_400_000;
    let broker = Broker { next_tick_ms: start_ms + dice.between(1, TICK_MS as usize) as i64, ..Broker::default() };
    let mut w = World { scene, dice, broker, now_ms: start_ms, late: Vec::new(), at_follower: false, known_epoch: 0 };
    let age_ms = if scene.old { 3 * 86_400_000 } else { 0 };
    let total = scene.records;
    let mut generation = vec![0u32; total];
    let mut stamped: Vec<Option<i64>> = vec![None; total];
    let trickles = scene.faults.power || !scene.rules.durable_only;
    let (mut durable, mut available) = if trickles { (12, 12) } else { (total, total) };
    let target = Target::default();
    let mut delivery = Delivery::fresh(settings.clone(), target.clone(), 0, w.dice.next());
    let mut disk = delivery.record();
    let mut flights: VecDeque<(Batch, Option<Result<usize, Refusal>>)> = VecDeque::new();
    delivery.connected(target.clone(), w.now().mono_ms);
    let mut steps = 0;
    let mut halted = false;
    while (delivery.acked() as usize) < total && steps < 16_000 {
        steps += 1;
        let pause = w.dice.one_of(&[100, 500, 1000, 3000]);
        w.advance(pause);
        if trickles {
            available = total.min(available + w.dice.between(0, 4));
            if w.dice.hit(0.3) {
                durable = available;
            }
        }
        let limit = if scene.rules.durable_only { durable } else { available };
        delivery.source(0, limit as i64);
        match w.answer(&mut delivery, &mut disk) {
            Step::Halted => {
                halted = true;
                break;
            }
            Step::Send { from } => {
                let from = from as usize;
                let end = limit.min(from + w.dice.between(1, 6));
                let now_ms = w.now_ms;
                let max_ts =
                    stamped[from..end].iter_mut().map(|t| *t.get_or_insert(now_ms - age_ms)).max().unwrap_or(0);
                if let Ok(stamp) = delivery.offer(from as i64, end as i64, max_ts, w.now()) {
                    let records = (from..end).map(|o| (o, generation[o])).collect();
                    let batch = Batch { stamp, records, ts_ms: max_ts };
                    let answer = transmit(&mut w, &batch);
                    flights.push_back((batch, answer));
                }
            }
            _ => {}
        }
        while let Some((_, Some(_))) = flights.front() {
            match flights.pop_front().unwrap().1.unwrap() {
                Ok(base) => {
                    delivery.stored(base as i64);
                    if w.dice.hit(0.3) && !delivery.persist {
                        disk = delivery.record();
                    }
                }
                Err(Refusal::Fenced | Refusal::OutOfOrder) => delivery.refused(0, w.now()),
            }
        }
        let stuck = !flights.is_empty();
        if !(stuck && w.dice.hit(0.3) || w.dice.hit(0.02)) {
            continue;
        }
        // The connection drops.
        let dropped_ms = w.now_ms;
        flights.clear();
        delivery.disconnected(w.now());
        if scene.faults.freeze && w.dice.hit(0.1) {
            let frozen = w.dice.one_of(&[60_000, 300_000, 2_000_000]);
            let wakes = w.now_ms + frozen;
            for i in 0..w.late.len() {
                let late = (w.dice.unit() * 5_000.0) as i64;
                w.late[i].0 = w.late[i].0.max(wakes + late);
            }
            w.advance(frozen);
        }
        if scene.faults.forget && w.dice.hit(0.2) {
            w.broker.state.clear();
            w.late.clear();
        }
        if scene.faults.evict && w.dice.hit(0.1) {
            w.broker.start = w.broker.high_watermark;
        }
        if w.dice.hit(0.25) {
            let long = w.dice.hit(0.3);
            let choices = [5_000, 60_000, 700_000, 2_000_000, 90_000_000];
            let outage = w.dice.one_of(if long { &choices } else { &choices[..4] });
            w.advance(outage);
        }
        if w.dice.hit(0.3) {
            // kill -9, and with `power` the tail that was not flushed is gone.
            for used_again in &mut generation[durable..available] {
                *used_again += 1;
            }
            available = durable;
            let head = stamped[disk.acked as usize..].iter().flatten().min().copied();
            delivery = if disk.identity.is_some() {
                Delivery::resume(settings.clone(), disk.clone(), head, w.dice.next())
            } else {
                Delivery::fresh(settings.clone(), target.clone(), disk.acked, w.dice.next())
            };
        }
        w.redraw();
        w.known_epoch = w.broker.leader_epoch;
        let answered = if scene.rules.quarantine_from_answer { w.now_ms } else { dropped_ms };
        delivery.connected(target.clone(), answered as u64);
    }
    w.advance(1_000_000);
    judge(&w.broker, &generation, &delivery, halted)
}

/// One request on its way, with its faults; the answer if one arrives.
fn transmit(w: &mut World, batch: &Batch) -> Option<Result<usize, Refusal>> {
    let x = w.dice.unit();
    if x < 0.04 {
        return None;
    }
    if x < 0.08 {
        let at = w.now_ms + (w.dice.unit() * LATEST_MS) as i64;
        w.late.push((at, batch.clone()));
        return None;
    }
    if w.scene.faults.failover && w.dice.hit(0.05) {
        // Appended by the leader, not replicated, not answered.
        let _unanswered = w.broker.produce(batch);
        if w.dice.hit(0.5) {
            w.broker.fail_over(w.now_ms);
        }
        return None;
    }
    let answer = w.broker.produce(batch);
    if answer.is_ok() {
        w.broker.commit();
    }
    (!w.dice.hit(0.06)).then_some(answer)
}

fn judge(broker: &Broker, generation: &[u32], delivery: &Delivery, halted: bool) -> Outcome {
    let rows: Vec<Content> = broker.log.iter().flatten().map(|(_, _, _, content)| *content).collect();
    let mut seen = vec![0usize; generation.len()];
    let mut firsts = Vec::new();
    let mut duplicates = 0;
    for (offset, generation_of) in rows {
        if generation_of != generation[offset] {
            duplicates += 1;
            continue;
        }
        if seen[offset] == 0 {
            firsts.push(offset);
        } else {
            duplicates += 1;
        }
        seen[offset] += 1;
    }
    // A halted partition owes only what it said was safe.
    let owed = if halted { delivery.acked() as usize } else { generation.len() };
    Outcome {
        duplicates,
        losses: seen[..owed.min(seen.len())].iter().filter(|n| **n == 0).count(),
        reordered: firsts.windows(2).any(|w| w[0] > w[1]),
        unfinished: !halted && (delivery.acked() as usize) < generation.len(),
        halted,
    }
}

fn seeds() -> u64 {
    std::env::var("BROOKLET_MODEL_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1_500)
}

const REAL: Faults = Faults { freeze: true, forget: true, follower: true, evict: true, power: false, failover: false };

/// Runs all seeds; the number of runs that violate, and one of them.
fn violations(scene: Scene, runs: u64) -> (u64, Option<(u64, Outcome)>) {
    let (mut bad, mut example, mut halts) = (0, None, 0);
    for seed in 0..runs {
        let outcome = run(seed, scene);
        halts += u64::from(outcome.halted);
        if outcome.violates() {
            bad += 1;
            example.get_or_insert((seed, outcome));
        }
    }
    assert!(halts * 2 < runs, "{halts} of {runs} runs halted: that proves little");
    (bad, example)
}

fn assert_exactly_once(faults: Faults, shared: bool) {
    for old in [false, true] {
        let scene = Scene { faults, rules: Rules::ALL, old, shared, records: 120 };
        let (bad, example) = violations(scene, seeds());
        assert_eq!(bad, 0, "first: {example:?} in {scene:?}");
    }
}

#[test]
fn exactly_once_on_a_shared_partition() {
    assert_exactly_once(Faults::default(), true);
}

#[test]
fn exactly_once_on_an_exclusive_partition() {
    assert_exactly_once(Faults::default(), false);
}

#[test]
fn exactly_once_with_the_faults_of_real_brokers() {
    assert_exactly_once(REAL, true);
    assert_exactly_once(REAL, false);
}

#[test]
fn exactly_once_through_power_cuts_and_fail_overs() {
    assert_exactly_once(Faults { power: true, ..Faults::default() }, true);
    assert_exactly_once(Faults { power: true, failover: true, ..Faults::default() }, true);
    assert_exactly_once(Faults { power: true, failover: true, ..Faults::default() }, false);
}

type Switch = fn(&mut Rules);

/// Each rule is needed: without it the same seeds show duplicates, losses or wrong order.
#[test]
fn every_rule_is_needed() {
    let none = Faults::default();
    let cases: [(&str, Faults, bool, bool, Switch); 11] = [
        ("ask the leader", none, false, true, |r| r.ask = false),
        ("first batch of an epoch alone", none, false, true, |r| r.first_batch_alone = false),
        ("quarantine when stale", none, true, true, |r| r.stale_quarantine = false),
        ("window 1 while stale", none, true, true, |r| r.stale_window_1 = false),
        ("quarantine from the first answer", Faults { freeze: true, ..none }, true, true, |r| {
            r.quarantine_from_answer = false;
        }),
        ("ask on every connection", Faults { forget: true, ..none }, false, true, |r| {
            r.reconcile_every_connection = false;
        }),
        ("leader check", Faults { follower: true, ..none }, true, true, |r| r.leader_check = false),
        ("evidence check", Faults { evict: true, ..none }, true, false, |r| r.evidence_check = false),
        ("wait for the high watermark", Faults { failover: true, ..none }, true, false, |r| r.settle = false),
        ("the leader's answer is provisional", Faults { failover: true, ..none }, false, true, |r| {
            r.provisional = false;
        }),
        ("durable records only", Faults { power: true, ..none }, false, true, |r| r.durable_only = false),
    ];
    let mut unnoticed = Vec::new();
    for (name, faults, old, shared, switch_off) in cases {
        let mut rules = Rules::ALL;
        switch_off(&mut rules);
        let scene = Scene { faults, rules, old, shared, records: 120 };
        let mut found = None;
        let mut runs = 0;
        while found.is_none() && runs < 60_000 {
            let outcome = run(runs, scene);
            if outcome.violates() {
                found = Some(outcome);
            }
            runs += 1;
        }
        eprintln!("without '{name}': {found:?} in run {runs}");
        if found.is_none() {
            unnoticed.push(name);
        }
    }
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}

#[test]
fn sequences_wrap_and_positions_are_found_again() {
    let settings = settings();
    let base = 5;
    let acked = base + SEQUENCES - 2;
    let identity = Identity { producer_id: 7, epoch: 3, base };
    let record = Record {
        identity: Some(identity),
        target: Target::default(),
        acked,
        anchor: (acked, 99),
        acked_max_ts_ms: Some(1_000),
    };
    let mut delivery = Delivery::resume(settings, record, Some(1_000), 1);
    let now = Now { mono_ms: 10, wall_ms: Some(1_000) };
    delivery.source(0, acked + 10);
    delivery.connected(Target::default(), 5);
    assert_eq!(delivery.poll(now), Step::LeaderEnd);
    delivery.leader_end(103, now);
    assert_eq!(delivery.poll(now), Step::LastSequence);
    // Three more than acknowledged were stored: 2147483646, 2147483647, 0.
    delivery.last_sequence(Some(Known { epoch: 3, last_sequence: 0 }));
    assert_eq!(delivery.poll(now), Step::LeaderEnd);
    delivery.leader_end(103, now);
    assert_eq!((delivery.acked(), delivery.next()), (acked, acked + 3));
    // They count once they are replicated.
    assert_eq!(delivery.poll(now), Step::LeaderEnd);
    delivery.leader_end(103, now);
    assert_eq!(delivery.poll(now), Step::HighWatermark);
    delivery.high_watermark(103, now);
    assert_eq!(delivery.acked(), acked + 3);
    assert_eq!(delivery.poll(now), Step::Send { from: acked + 3 });
    let stamp = delivery.offer(acked + 3, acked + 5, 1_000, now).unwrap();
    assert_eq!(stamp, Stamp { producer_id: 7, epoch: 3, sequence: 1 });
    delivery.stored(103);
    assert_eq!(delivery.acked(), acked + 5);
    // A target that lies about the place ends nothing here.
    assert_eq!(delivery.poll(now), Step::Send { from: acked + 5 });
    delivery.offer(acked + 5, acked + 7, 1_000, now).unwrap();
    delivery.stored(i64::MAX);
    assert_eq!(delivery.acked(), acked + 7);
}

#[test]
fn a_stranger_with_our_identity_stops_the_partition() {
    let record = Record {
        identity: Some(Identity { producer_id: 7, epoch: 3, base: 0 }),
        target: Target::default(),
        acked: 10,
        anchor: (10, 9),
        acked_max_ts_ms: Some(1_000),
    };
    for known in [Known { epoch: 4, last_sequence: 0 }, Known { epoch: 3, last_sequence: 500 }] {
        let mut delivery = Delivery::resume(settings(), record.clone(), Some(1_000), 1);
        let now = Now { mono_ms: 10, wall_ms: Some(1_000) };
        delivery.source(0, 12);
        delivery.connected(Target::default(), 5);
        assert_eq!(delivery.poll(now), Step::LeaderEnd);
        delivery.leader_end(12, now);
        assert_eq!(delivery.poll(now), Step::LastSequence);
        delivery.last_sequence(Some(known));
        assert_eq!(delivery.poll(now), Step::LeaderEnd);
        delivery.leader_end(12, now);
        assert_eq!(delivery.poll(now), Step::Halted);
        assert_eq!(delivery.halted(), Some(Halt::IdentityConflict));
    }
}

#[test]
fn a_gap_at_the_source_is_told_and_starts_a_new_epoch() {
    let mut delivery = Delivery::fresh(settings(), Target::default(), 0, 1);
    let now = Now { mono_ms: 10, wall_ms: Some(1_000) };
    delivery.source(0, 4);
    delivery.connected(Target::default(), 5);
    assert_eq!(delivery.poll(now), Step::ProducerId);
    delivery.producer_id(7);
    assert_eq!(delivery.poll(now), Step::Persist);
    delivery.persisted();
    let epoch = delivery.record().identity.unwrap().epoch;
    assert!((0..16_384).contains(&epoch));
    assert_eq!(delivery.poll(now), Step::Send { from: 0 });
    delivery.offer(0, 4, 1_000, now).unwrap();
    delivery.source(9, 12);
    assert_eq!(delivery.poll(now), Step::Idle);
    delivery.stored(0);
    assert_eq!(delivery.poll(now), Step::Persist);
    assert_eq!(delivery.take_notices(), [Notice::Gap { from: 4, to: 9 }]);
    let identity = delivery.record().identity.unwrap();
    assert!(identity.epoch > epoch && identity.base == 9);
    delivery.persisted();
    assert_eq!(delivery.poll(now), Step::Send { from: 9 });
}

#[test]
fn a_recreated_target_topic_goes_on_or_begins_again() {
    for (policy, expected) in [(OnTargetReset::Continue, 10), (OnTargetReset::Remirror, 3)] {
        let record = Record {
            identity: Some(Identity { producer_id: 7, epoch: 3, base: 0 }),
            target: Target { cluster: "c".into(), topic: [1; 16] },
            acked: 10,
            anchor: (10, 9),
            acked_max_ts_ms: Some(1_000),
        };
        let mut delivery = Delivery::resume(Settings { on_target_reset: policy, ..settings() }, record, None, 1);
        delivery.source(3, 12);
        delivery.connected(Target { cluster: "c".into(), topic: [2; 16] }, 5);
        let mut now = Now { mono_ms: 10, wall_ms: Some(1_000) };
        for _ in 0..50 {
            match delivery.poll(now) {
                Step::LeaderEnd => delivery.leader_end(0, now),
                Step::HighWatermark => delivery.high_watermark(0, now),
                Step::LastSequence => delivery.last_sequence(None),
                Step::Persist => delivery.persisted(),
                Step::Wait { until_ms } => now.mono_ms = until_ms,
                Step::Send { from } => {
                    assert_eq!(from, expected);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(delivery.next(), expected);
        assert!(delivery.take_notices().contains(&Notice::TargetReset));
        assert!(delivery.record().identity.unwrap().epoch > 3);
    }
}

#[test]
fn the_record_survives_its_bytes() {
    let record = Record {
        identity: Some(Identity { producer_id: 1 << 40, epoch: 32_000, base: 5 }),
        target: Target { cluster: "Zq".into(), topic: [9; 16] },
        acked: 77,
        anchor: (70, 1234),
        acked_max_ts_ms: Some(-1),
    };
    assert_eq!(Record::decode(&record.encode([4; 16])), Some(([4; 16], record.clone())));
    let none = Record { identity: None, acked_max_ts_ms: None, ..record };
    assert_eq!(Record::decode(&none.encode([4; 16])), Some(([4; 16], none)));
    assert_eq!(Record::decode(b"\x01short"), None);
}

fn settings() -> Settings {
    Settings {
        window: 5,
        quarantine_ms: 60_000,
        stale_after_ms: 3_600_000,
        exclusive: true,
        compacted: false,
        on_no_evidence: OnNoEvidence::Resend,
        on_target_reset: OnTargetReset::Continue,
        rules: Rules::ALL,
    }
}
