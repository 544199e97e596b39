//! One link: all partitions that go to one cluster, driven by one task.
//!
//! The task looks at every partition's state machine, does what they ask over one connection per leader, puts batches of
//! several partitions into shared requests, and waits for the next answer, the next record or the next deadline. State
//! is written by at most one commit at a time, so an older hint never overtakes a newer identity.

mod ask;
mod cutter;
mod keeping;
mod lane;
mod reaching;
mod sending;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use ask::{Failure, Question, Reply};
use cutter::Cutter;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use lane::Lane;
use target::View;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    client::{self, Client, Connection, Options},
    config::{Config, Naming, Policy},
    delivery::{Notice, Now, Settings, Step},
    meters::Meters,
    status::Status,
};
use crate::{
    log::{self, Bounds, Log, Topics},
    memory::Budget,
    record::{self, Offset},
    wire::{ErrorCode, produce::ProduceResponse},
};

/// Hints are written after this time, or so many acknowledged bytes.
const FLUSH_MS: u64 = 1_000;
/// A refused partition is tried again after this.
const BLOCKED_MS: u64 = 15_000;
/// The target is looked at this often without a reason.
const LOOK_MS: u64 = 3_600_000;
/// Buffers are given back after so long without work.
const RELEASE_MS: u64 = 10_000;
/// Before this the wall clock is not plausible (2025-01-01).
const PLAUSIBLE_MS: i64 = 1_735_689_600_000;

type LaneId = u32;
type Task = Pin<Box<dyn Future<Output = Event> + Send>>;

/// What the task waits for.
enum Event {
    Looked(Result<View, client::Error>),
    Connected(i32, Result<Connection, client::Error>),
    Closed(i32, u64),
    Answered(LaneId, u64, Result<Reply, Failure>),
    Produced(i32, u64, Vec<(LaneId, u64)>, usize, Result<ProduceResponse, client::Error>),
    /// Lanes whose identity is durable now, and how far others are durably.
    Written(Vec<LaneId>, Vec<(record::Partition, Offset)>, Result<(), log::Error>),
    Appended(LaneId, watch::Receiver<Bounds>),
}

/// A broker of the target.
struct Node {
    connection: Option<Connection>,
    session: u64,
    connecting: bool,
    requests: usize,
}

/// See the module's description.
pub(super) struct Link {
    name: Arc<str>,
    config: Config,
    policy: Arc<Policy>,
    log: Log,
    machine: [u8; 16],
    meters: Meters,
    status: Arc<Mutex<Status>>,
    origin: Instant,
    client: Option<Client>,
    cutter: Cutter,
    topics: watch::Receiver<Arc<Topics>>,
    lanes: BTreeMap<LaneId, Lane>,
    next_lane: LaneId,
    /// Where to begin among the lanes, and among those that go first.
    turns: [LaneId; 2],
    nodes: HashMap<i32, Node>,
    next_session: u64,
    cluster: Arc<str>,
    tasks: FuturesUnordered<Task>,
    in_flight_bytes: usize,
    look: bool,
    looking: bool,
    look_ms: u64,
    retry_ms: u64,
    retry_wait_ms: u64,
    writing: bool,
    write_ms: Option<u64>,
    acked_bytes: u64,
    worked_ms: u64,
    released: bool,
    tier: u8,
    error: Option<String>,
    forget: Vec<log::StateWrite>,
    published: bool,
    publish_ms: u64,
}

impl Link {
    pub(super) fn new(
        name: &str,
        node: &str,
        config: Config,
        log: Log,
        memory: Budget,
        meters: Meters,
        status: Arc<Mutex<Status>>,
    ) -> Result<Self, String> {
        let policy = Policy::new(&config, name, node)?;
        let batch_bytes = usize::try_from(config.batch_size.as_u64()).unwrap_or(usize::MAX);
        let cutter = Cutter::new(memory, config.compression.codec(), batch_bytes);
        let machine = super::machine::fingerprint(log.incarnation());
        let mut topics = log.topics();
        topics.mark_changed();
        Ok(Self {
            name: name.into(),
            config,
            policy: Arc::new(policy),
            log,
            machine,
            meters,
            status,
            origin: Instant::now(),
            client: None,
            cutter,
            topics,
            lanes: BTreeMap::new(),
            next_lane: 0,
            turns: [0, 0],
            nodes: HashMap::new(),
            next_session: 0,
            cluster: "".into(),
            tasks: FuturesUnordered::new(),
            in_flight_bytes: 0,
            look: true,
            looking: false,
            look_ms: 0,
            retry_ms: 0,
            retry_wait_ms: reaching::RETRY_MS.0,
            writing: false,
            write_ms: None,
            acked_bytes: 0,
            worked_ms: 0,
            released: true,
            tier: 0,
            error: None,
            forget: Vec::new(),
            published: false,
            publish_ms: 0,
        })
    }

    /// Mirrors until `stop`. Fails only if the log does.
    pub(super) async fn run(&mut self, stop: CancellationToken) -> Result<(), String> {
        if self.client.is_none() {
            let security = self.config.security().map_err(|e| e.to_string())?;
            let options = Options { max_response_bytes: 4 << 20, ..Options::default() };
            self.client = Some(Client::new(self.config.endpoints(), security, options));
        }
        loop {
            if self.topics.has_changed().unwrap_or(false) {
                self.follow_topics().await.map_err(|e| e.to_string())?;
            }
            let deadline_ms = self.step().await.map_err(|e| e.to_string())?;
            let deadline_ms = self.publish(deadline_ms);
            let deadline = self.origin + Duration::from_millis(deadline_ms);
            let mut topics = self.topics.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(event) = self.tasks.next() => self.handle(event)?,
                _ = topics.changed() => self.topics.mark_changed(),
                () = tokio::time::sleep_until(deadline) => {}
            }
            // What is ready already is taken along before the partitions are looked at again.
            while let Some(Some(event)) = self.tasks.next().now_or_never() {
                self.handle(event)?;
            }
        }
        self.finish().await;
        Ok(())
    }

    fn now(&self) -> Now {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let wall_ms = wall.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        let mono_ms = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { mono_ms, wall_ms: (wall_ms >= PLAUSIBLE_MS).then_some(wall_ms) }
    }

    /// Makes lanes for the log's topics that are mirrored, ends those of topics that are gone.
    async fn follow_topics(&mut self) -> Result<(), log::Error> {
        let topics = Arc::clone(&self.topics.borrow_and_update());
        let now = self.now();
        let gone = |lane: &Lane| {
            let topic = topics.get(&lane.source.topic);
            topic.is_none_or(|t| t.id != lane.topic_id || lane.source.index >= t.partitions)
        };
        let gone: Vec<LaneId> = self.lanes.iter().filter(|(_, l)| gone(l)).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(mut lane) = self.lanes.remove(&id) {
                lane.disconnect(now);
                tracing::info!(link = %self.name, partition = %lane.source, "no longer mirrored: the topic is gone");
                self.forget.push(lane.forget(&self.name));
                self.write_ms.get_or_insert(now.mono_ms);
            }
        }
        for topic in topics.by_name.values() {
            let Some(target) = self.policy.target(&topic.name) else { continue };
            let target: Arc<str> = target.into();
            for index in 0..topic.partitions {
                let source = record::Partition::new(Arc::clone(&topic.name), index);
                if let Some(lane) = self.lanes.values_mut().find(|l| l.source == source) {
                    lane.is_first = topic.priority() == 0;
                    continue;
                }
                let settings = self.settings(topic);
                let place = (source, topic.id);
                let mut lane =
                    match Lane::open(&self.log, &self.name, place, Arc::clone(&target), settings, self.machine).await {
                        Ok(lane) => lane,
                        // Deleted in between: the next change of the topics says so.
                        Err(log::Error::UnknownPartition(_)) => continue,
                        Err(error) => return Err(error),
                    };
                lane.error = Policy::check(&target).err();
                lane.is_first = topic.priority() == 0;
                self.lanes.insert(self.next_lane, lane);
                self.next_lane += 1;
                self.look = true;
            }
        }
        Ok(())
    }

    fn settings(&self, topic: &log::Topic) -> Settings {
        let compacted = topic.settings.get("cleanup.policy").is_some_and(|p| p.contains("compact"));
        Settings {
            window: 5,
            quarantine_ms: u64::try_from(self.config.quarantine.as_millis()).unwrap_or(60_000),
            stale_after_ms: i64::try_from(self.config.stale_after.as_millis()).unwrap_or(3_600_000),
            exclusive: self.config.naming == Naming::Prefix,
            compacted,
            on_no_evidence: self.config.on_no_evidence,
            on_target_reset: self.config.on_target_reset,
            #[cfg(test)]
            rules: super::delivery::Rules::ALL,
        }
    }

    /// Looks at every lane and does what it asks; until when there is nothing more to do.
    async fn step(&mut self) -> Result<u64, log::Error> {
        let now = self.now();
        let mut deadline_ms = now.mono_ms + LOOK_MS;
        let mut senders: BTreeSet<LaneId> = BTreeSet::new();
        let mut wanted_nodes: BTreeSet<i32> = BTreeSet::new();
        let ids: Vec<LaneId> = self.lanes.keys().copied().collect();
        for id in ids {
            self.step_lane(id, now, &mut senders, &mut wanted_nodes, &mut deadline_ms);
        }
        self.connect(&wanted_nodes, now, &mut deadline_ms);
        if !senders.is_empty() {
            self.worked_ms = now.mono_ms;
            self.released = false;
            self.send(&senders, now, &mut deadline_ms).await?;
        }
        if !self.released {
            let release_ms = self.worked_ms + RELEASE_MS;
            if now.mono_ms >= release_ms {
                self.cutter.release();
                self.released = true;
            } else {
                deadline_ms = deadline_ms.min(release_ms);
            }
        }
        self.look_at_target(now, &mut deadline_ms);
        self.write(now, &mut deadline_ms);
        Ok(deadline_ms.max(now.mono_ms + 1))
    }

    fn step_lane(
        &mut self,
        id: LaneId,
        now: Now,
        senders: &mut BTreeSet<LaneId>,
        wanted_nodes: &mut BTreeSet<i32>,
        deadline_ms: &mut u64,
    ) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let end = lane.look();
        if lane.delivery.next() >= end {
            lane.caught_up = true;
            if !lane.armed {
                lane.armed = true;
                let mut bounds = lane.bounds.clone();
                self.tasks.push(Box::pin(async move {
                    if bounds.changed().await.is_err() {
                        // The topic is gone; the change of the topics ends the lane.
                        std::future::pending::<()>().await;
                    }
                    Event::Appended(id, bounds)
                }));
            }
        } else if lane.caught_up {
            lane.caught_up = false;
            // On a common beat, so that the partitions share their requests.
            let beat_ms = u64::try_from(self.config.linger.as_millis()).unwrap_or(0).max(1);
            lane.ready_ms = (now.mono_ms / beat_ms + 1) * beat_ms;
        }
        if lane.wants_connection()
            && let Some((node, _)) = lane.leader
        {
            wanted_nodes.insert(node);
        }
        let question = match lane.delivery.poll(now) {
            Step::Idle | Step::Halted => None,
            Step::Wait { until_ms } => {
                *deadline_ms = (*deadline_ms).min(until_ms);
                None
            }
            Step::Persist => {
                lane.persist = true;
                self.write_ms = Some(now.mono_ms);
                None
            }
            Step::Send { .. } => {
                let wait_ms = lane.ready_ms.max(lane.hold_ms);
                if now.mono_ms < wait_ms {
                    *deadline_ms = (*deadline_ms).min(wait_ms);
                } else {
                    senders.insert(id);
                }
                None
            }
            Step::ProducerId => Some(Question::ProducerId),
            Step::LeaderEnd => Some(Question::LeaderEnd),
            Step::HighWatermark => Some(Question::HighWatermark),
            Step::LastSequence => {
                let identity = lane.delivery.record().identity;
                Some(Question::LastSequence { producer_id: identity.map_or(-1, |i| i.producer_id) })
            }
            Step::ReadBack { from } => Some(Question::ReadBack { from }),
        };
        if let Some(question) = question {
            let node = lane.leader.and_then(|(node, _)| self.nodes.get(&node));
            if let Some(connection) = node.and_then(|n| n.connection.clone()) {
                let (spot, era) = (lane.spot(), lane.era);
                self.tasks.push(Box::pin(async move {
                    Event::Answered(id, era, ask::ask(&connection, &spot, question).await)
                }));
            } else {
                lane.delivery.failed(now);
            }
        }
        for notice in lane.notices() {
            self.meters.notice(&lane.source, &notice);
            if notice == Notice::TargetReset {
                self.look = true;
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        let now = self.now();
        self.published = false;
        match event {
            Event::Looked(result) => self.looked(result, now),
            Event::Connected(node, result) => self.connected(node, result, now),
            Event::Closed(node, session) => self.closed(node, session, now),
            Event::Answered(id, era, result) => self.answered(id, era, result, now),
            Event::Produced(node, session, sent, bytes, result) => {
                self.produced(node, session, &sent, bytes, result, now)
            }
            Event::Written(persisted, positions, result) => {
                self.writing = false;
                result.map_err(|e| e.to_string())?;
                for (partition, acked) in positions {
                    self.log.set_mirrored(&self.name, &partition, acked);
                }
                for id in persisted {
                    if let Some(lane) = self.lanes.get_mut(&id) {
                        lane.delivery.persisted();
                    }
                }
            }
            Event::Appended(id, bounds) => {
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.armed = false;
                    drop(bounds);
                }
            }
        }
        Ok(())
    }

    fn answered(&mut self, id: LaneId, era: u64, result: Result<Reply, Failure>, now: Now) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if lane.era != era {
            return;
        }
        let before = lane.delivery.acked();
        match result {
            Ok(Reply::ProducerId(producer_id)) => lane.delivery.producer_id(producer_id),
            Ok(Reply::LeaderEnd(end)) => lane.delivery.leader_end(end, now),
            Ok(Reply::HighWatermark(mark)) => lane.delivery.high_watermark(mark, now),
            Ok(Reply::LastSequence(known, could_ask)) => {
                self.tier = if could_ask { 1 } else { 3 };
                lane.delivery.last_sequence(known);
            }
            Ok(Reply::ReadBack(read)) => lane.delivery.read_back(read),
            Err(Failure::Call(client::Error::Unsupported(api))) => {
                lane.error = Some(format!("the target does not support {api}: exactly once is not possible there"));
                lane.delivery.failed(now);
            }
            Err(failure) => {
                if let Failure::Kafka { code, .. } = &failure {
                    self.look |= is_about_leader(*code);
                    if !code.is_retriable() {
                        lane.error = Some(failure.to_string());
                    }
                }
                lane.delivery.failed(now);
            }
        }
        let safe = u64::try_from(lane.delivery.acked() - before).unwrap_or(0);
        if lane.delivery.acked() != before {
            lane.dirty = true;
            self.meters.acked_records.add(safe);
            self.write_ms.get_or_insert(now.mono_ms + FLUSH_MS);
        }
    }
}

fn is_about_leader(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::LEADER_NOT_AVAILABLE
            | ErrorCode::FENCED_LEADER_EPOCH
            | ErrorCode::UNKNOWN_LEADER_EPOCH
            | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            | ErrorCode::UNKNOWN_TOPIC_ID
            | ErrorCode::INCONSISTENT_TOPIC_ID
            | ErrorCode::REPLICA_NOT_AVAILABLE
            | ErrorCode::KAFKA_STORAGE_ERROR
    )
}
