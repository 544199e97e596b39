//! One link: all partitions that go to one cluster, driven by one task.
//!
//! The task looks at every partition's state machine, does what they ask over one connection per leader, puts batches of
//! several partitions into shared requests, and waits for the next answer, the next record or the next deadline. State
//! is written by at most one commit at a time, so an older hint never overtakes a newer identity.

mod ask;
mod cutter;
mod lane;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ask::{Failure, Question, Reply};
use bytes::BytesMut;
use cutter::{CutError, Cutter};
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use lane::{Lane, Outcome};
use target::{View, Wanted, survey};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    client::{self, Client, Connection, Options},
    config::{Config, Naming, Policy},
    delivery::{Hold, Notice, Now, Settings, Stamp, Step, Target},
    meters::Meters,
    status::Status,
};
use crate::{
    groups::offsets,
    log::{self, Bounds, Log, Topics, Urgency, Write},
    record::{self, Producer, batch},
    wire::{
        ErrorCode,
        produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData},
    },
};

/// Requests in flight on one connection; Kafka works on one at a time, the rest hides the round trip.
const REQUESTS: usize = 5;
/// Bytes in flight over all connections of a link.
const IN_FLIGHT_BYTES: usize = 2 << 20;
/// Hints are written after this time, or so many acknowledged bytes.
const FLUSH_MS: u64 = 1_000;
const FLUSH_BYTES: u64 = 1 << 20;
/// How long the target may keep an answer back while replicas are behind.
const PRODUCE_TIMEOUT_MS: i32 = 30_000;
/// Shortest and longest wait before the target is tried again; the longest when the sign-in failed.
const RETRY_MS: (u64, u64, u64) = (500, 30_000, 900_000);
/// A refused partition is tried again after this.
const BLOCKED_MS: u64 = 15_000;
/// The target is looked at this often without a reason.
const LOOK_MS: u64 = 3_600_000;
/// Buffers are given back after so long without work.
const RELEASE_MS: u64 = 10_000;
/// The figures are shown this often while something happens.
const PUBLISH_MS: u64 = 250;
/// Before this the wall clock is not plausible (2025-01-01).
const PLAUSIBLE_MS: i64 = 1_735_689_600_000;
/// What is read ahead for a partition is kept only while few partitions do so.
const READ_AHEAD_LANES: usize = 16;

type LaneId = u32;
type Task = Pin<Box<dyn Future<Output = Event> + Send>>;

/// What the task waits for.
enum Event {
    Looked(Result<View, client::Error>),
    Connected(i32, Result<Connection, client::Error>),
    Closed(i32, u64),
    Answered(LaneId, u64, Result<Reply, Failure>),
    Produced(i32, u64, Vec<(LaneId, u64)>, usize, Result<ProduceResponse, client::Error>),
    Written(Vec<LaneId>, Result<(), log::Error>),
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
    policy: Policy,
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
    turn: LaneId,
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
        meters: Meters,
        status: Arc<Mutex<Status>>,
    ) -> Result<Self, String> {
        let policy = Policy::new(&config, name, node)?;
        let batch_bytes = usize::try_from(config.batch_size.as_u64()).unwrap_or(usize::MAX);
        let cutter = Cutter::new(config.compression.codec(), batch_bytes);
        let machine = super::machine::fingerprint(log.incarnation());
        let mut topics = log.topics();
        topics.mark_changed();
        Ok(Self {
            name: name.into(),
            config,
            policy,
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
            turn: 0,
            nodes: HashMap::new(),
            next_session: 0,
            cluster: "".into(),
            tasks: FuturesUnordered::new(),
            in_flight_bytes: 0,
            look: true,
            looking: false,
            look_ms: 0,
            retry_ms: 0,
            retry_wait_ms: RETRY_MS.0,
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
                if self.lanes.values().any(|l| l.source == source) {
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
            lane.ready_ms = now.mono_ms + u64::try_from(self.config.linger.as_millis()).unwrap_or(0);
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

    /// Opens connections to the leaders that are needed, and lets lanes know of those that are open.
    fn connect(&mut self, wanted: &BTreeSet<i32>, now: Now, deadline_ms: &mut u64) {
        let Some(client) = &self.client else { return };
        for node_id in wanted {
            let node = self.nodes.entry(*node_id).or_insert(Node {
                connection: None,
                session: 0,
                connecting: false,
                requests: 0,
            });
            if node.connection.is_some() || node.connecting {
                continue;
            }
            if now.mono_ms < self.retry_ms {
                *deadline_ms = (*deadline_ms).min(self.retry_ms);
                continue;
            }
            node.connecting = true;
            let (client, node_id) = (client.clone(), *node_id);
            self.tasks.push(Box::pin(async move { Event::Connected(node_id, client.broker(node_id).await) }));
        }
    }

    /// Cuts and sends for the lanes that may, several partitions in a request, as long as there is room.
    async fn send(&mut self, senders: &BTreeSet<LaneId>, now: Now, deadline_ms: &mut u64) -> Result<(), log::Error> {
        // Whoever came last begins next time, so that none waits for ever when there is not room for all.
        let (later, sooner): (Vec<LaneId>, Vec<LaneId>) = senders.iter().partition(|id| **id < self.turn);
        let order: Vec<LaneId> = sooner.into_iter().chain(later).collect();
        let nodes: BTreeSet<i32> = order.iter().filter_map(|id| Some(self.lanes[id].leader?.0)).collect();
        let most_bytes = usize::try_from(self.config.max_request_size.as_u64()).unwrap_or(usize::MAX);
        for node_id in nodes {
            let lanes: Vec<LaneId> =
                order.iter().copied().filter(|id| self.lanes[id].leader.is_some_and(|(n, _)| n == node_id)).collect();
            loop {
                let has_room =
                    self.nodes.get(&node_id).is_some_and(|n| n.connection.is_some() && n.requests < REQUESTS);
                if !has_room || self.in_flight_bytes >= IN_FLIGHT_BYTES {
                    break;
                }
                let mut batches: Vec<(LaneId, BytesMut)> = Vec::new();
                let mut bytes = 0;
                for id in &lanes {
                    if bytes >= most_bytes {
                        break;
                    }
                    if let Some(batch) = self.next_batch(*id, most_bytes - bytes, bytes == 0, now, deadline_ms).await? {
                        bytes += batch.len();
                        batches.push((*id, batch));
                        self.turn = *id + 1;
                    }
                }
                if batches.is_empty() {
                    break;
                }
                self.request(node_id, batches, bytes).await;
            }
        }
        Ok(())
    }

    /// The lane's next batch, stamped and in flight; `None` if it has none, must wait, or does not fit.
    async fn next_batch(
        &mut self,
        id: LaneId,
        room: usize,
        is_first: bool,
        now: Now,
        deadline_ms: &mut u64,
    ) -> Result<Option<BytesMut>, log::Error> {
        let keep_buffer = self.lanes.len() <= READ_AHEAD_LANES;
        let Some(lane) = self.lanes.get_mut(&id) else { return Ok(None) };
        let Some(from) = lane.delivery.sendable(now) else { return Ok(None) };
        if lane.cut.as_ref().is_none_or(|c| c.first != from) {
            lane.cut = None;
            if !batch::Header::parse(&lane.buffer).is_ok_and(|h| (h.base_offset..=h.last_offset()).contains(&from)) {
                lane.buffer = bytes::Bytes::new();
            }
            let cut = self.cutter.cut(&self.log, &lane.source, &mut lane.buffer, from, lane.limit).await;
            if !keep_buffer {
                lane.buffer = bytes::Bytes::new();
            }
            match cut {
                Ok(cut) => lane.cut = cut,
                Err(CutError::Hole { next }) => {
                    lane.hole_end = next;
                    *deadline_ms = now.mono_ms;
                    return Ok(None);
                }
                Err(CutError::Log(log::Error::OutOfRange { .. } | log::Error::UnknownPartition(_))) => return Ok(None),
                Err(CutError::Log(error)) => return Err(error),
                Err(error @ CutError::Batch { .. }) => {
                    // Damaged or impossible: it stays here, and people are told; the other partitions go on.
                    tracing::error!(link = %self.name, partition = %lane.source, "cannot mirror: {error}");
                    lane.error = Some(error.to_string());
                    lane.hold_ms = now.mono_ms + BLOCKED_MS;
                    return Ok(None);
                }
            }
        }
        let Some(cut) = lane.cut.take() else { return Ok(None) };
        if cut.bytes.len() > room && !is_first {
            lane.cut = Some(cut);
            return Ok(None);
        }
        let Stamp { producer_id, epoch, sequence } = match lane.delivery.offer(cut.first, cut.end, cut.max_ts_ms, now) {
            Ok(stamp) => stamp,
            Err(hold) => {
                if let Hold::Until(until_ms) = hold {
                    lane.hold_ms = until_ms;
                    *deadline_ms = (*deadline_ms).min(until_ms);
                }
                lane.cut = (hold != Hold::Moved).then_some(cut);
                return Ok(None);
            }
        };
        let mut bytes = cut.bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let producer = Producer { id: producer_id, epoch, sequence };
        if let Err(error) = batch::restamp(&mut bytes, producer) {
            // Not sent: the machine must not wait for its answer.
            tracing::error!(link = %self.name, partition = %lane.source, offset = cut.first, "cannot mirror: {error}");
            lane.error = Some(format!("batch at offset {}: {error}", cut.first));
            let number = lane.sent();
            lane.answered(number, Outcome::Refused(BLOCKED_MS), now);
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    async fn request(&mut self, node_id: i32, batches: Vec<(LaneId, BytesMut)>, bytes: usize) {
        let Some(node) = self.nodes.get_mut(&node_id) else { return };
        let Some(connection) = node.connection.clone() else { return };
        let mut topics: Vec<TopicProduceData> = Vec::new();
        let mut sent = Vec::with_capacity(batches.len());
        for (id, batch) in batches {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            sent.push((id, lane.sent()));
            let partition = PartitionProduceData { index: lane.source.index, records: Some(batch.freeze()) };
            match topics.iter_mut().find(|t| *t.name == *lane.target) {
                Some(topic) => topic.partition_data.push(partition),
                None => topics.push(TopicProduceData {
                    name: lane.target.to_string(),
                    topic_id: lane.target_topic,
                    partition_data: vec![partition],
                }),
            }
        }
        let request =
            ProduceRequest { transactional_id: None, acks: -1, timeout_ms: PRODUCE_TIMEOUT_MS, topic_data: topics };
        node.requests += 1;
        self.in_flight_bytes += bytes;
        let session = node.session;
        match connection.send(&request).await {
            Ok(answer) => {
                self.meters.sent_bytes.add(bytes as u64);
                self.tasks
                    .push(Box::pin(async move { Event::Produced(node_id, session, sent, bytes, answer.get().await) }));
            }
            Err(error) => {
                connection.close(&error.to_string());
                self.tasks.push(Box::pin(async move { Event::Produced(node_id, session, sent, bytes, Err(error)) }));
            }
        }
    }

    fn look_at_target(&mut self, now: Now, deadline_ms: &mut u64) {
        let is_due = self.look || now.mono_ms >= self.look_ms;
        if self.looking || !is_due {
            *deadline_ms = (*deadline_ms).min(self.look_ms.max(now.mono_ms + 1));
            return;
        }
        if now.mono_ms < self.retry_ms {
            *deadline_ms = (*deadline_ms).min(self.retry_ms);
            return;
        }
        let Some(client) = self.client.clone() else { return };
        self.look = false;
        self.looking = true;
        let topics = Arc::clone(&self.topics.borrow());
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for lane in self.lanes.values().filter(|l| Policy::check(&l.target).is_ok()) {
            let partitions = lane.source.index + 1;
            let entry = wanted.entry(lane.target.to_string()).or_insert_with(|| {
                let settings = topics.get(&lane.source.topic).map(|t| target_settings(t)).unwrap_or_default();
                Wanted { partitions, settings }
            });
            entry.partitions = entry.partitions.max(partitions);
        }
        let create = self.config.create_topics.then_some(self.config.replication_factor);
        self.tasks.push(Box::pin(async move { Event::Looked(survey(&client, &wanted, create).await) }));
    }

    /// One commit with what must be durable before use and, riding along, all hints.
    fn write(&mut self, now: Now, deadline_ms: &mut u64) {
        let Some(due_ms) = self.write_ms else { return };
        if self.writing {
            return;
        }
        if now.mono_ms < due_ms && self.acked_bytes < FLUSH_BYTES {
            *deadline_ms = (*deadline_ms).min(due_ms);
            return;
        }
        let (state, persisted) = self.state_to_write(now);
        if state.is_empty() {
            self.write_ms = None;
            return;
        }
        let urgency = if persisted.is_empty() { Urgency::Unattended } else { Urgency::Waited };
        self.writing = true;
        self.write_ms = None;
        self.acked_bytes = 0;
        let log = self.log.clone();
        self.tasks.push(Box::pin(async move {
            let write = Write { batches: Vec::new(), state, urgency };
            Event::Written(persisted, log.commit(write).await.map(drop))
        }));
    }

    fn state_to_write(&mut self, now: Now) -> (Vec<log::StateWrite>, Vec<LaneId>) {
        let mut state = std::mem::take(&mut self.forget);
        let mut persisted = Vec::new();
        let group = format!("mirror-{}", self.name);
        for (id, lane) in &mut self.lanes {
            if !lane.persist && !lane.dirty {
                continue;
            }
            state.push(lane.state(&self.name, self.machine));
            if lane.dirty {
                // Kafka's own tools show the lag, as that of a consumer group.
                let committed = offsets::Committed::at(lane.delivery.acked(), now.wall_ms.unwrap_or(0));
                state.push(offsets::write(&group, &lane.source, lane.topic_id, committed));
            }
            if std::mem::take(&mut lane.persist) {
                persisted.push(*id);
            }
            lane.dirty = false;
        }
        (state, persisted)
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
            Event::Written(persisted, result) => {
                self.writing = false;
                result.map_err(|e| e.to_string())?;
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

    fn looked(&mut self, result: Result<View, client::Error>, now: Now) {
        self.looking = false;
        self.look_ms = now.mono_ms + LOOK_MS;
        let view = match result {
            Ok(view) => view,
            Err(error) => {
                self.look = true;
                self.back_off(&error, now);
                return;
            }
        };
        self.error = None;
        self.cluster = view.cluster;
        let mut again = false;
        for lane in self.lanes.values_mut() {
            let topic = match view.topics.get(&*lane.target) {
                Some(Ok(topic)) => topic,
                Some(Err(code)) => {
                    lane.error = Some(format!("topic '{}' at the target: {code}", lane.target));
                    again = true;
                    continue;
                }
                None => {
                    again = true;
                    continue;
                }
            };
            let leader = topic.leaders.get(&lane.source.index).copied();
            again |= leader.is_none();
            if leader != lane.leader || topic.id != lane.target_topic {
                // Another leader, another term of office or another topic: whatever was assumed must be asked anew.
                lane.disconnect(now);
                lane.leader = leader;
                lane.target_topic = topic.id;
            }
            if leader.is_some() && lane.error.as_ref().is_some_and(|e| e.starts_with("topic '")) {
                lane.error = None;
            }
        }
        if again {
            self.look_ms = now.mono_ms + BLOCKED_MS / 10;
        }
        let nodes: Vec<i32> = self.nodes.iter().filter(|(_, n)| n.connection.is_some()).map(|(id, _)| *id).collect();
        for node in nodes {
            self.attach(node);
        }
    }

    fn connected(&mut self, node_id: i32, result: Result<Connection, client::Error>, now: Now) {
        let Some(node) = self.nodes.get_mut(&node_id) else { return };
        node.connecting = false;
        let connection = match result {
            Ok(connection) => connection,
            Err(error) => {
                self.look = true;
                self.back_off(&error, now);
                return;
            }
        };
        self.error = None;
        self.retry_wait_ms = RETRY_MS.0;
        self.next_session += 1;
        node.session = self.next_session;
        node.requests = 0;
        node.connection = Some(connection.clone());
        self.meters.connects.increment();
        let session = node.session;
        self.tasks.push(Box::pin(async move {
            connection.closed().await;
            Event::Closed(node_id, session)
        }));
        self.attach(node_id);
    }

    /// Lets the lanes led by this node know of its connection.
    fn attach(&mut self, node_id: i32) {
        let Some(node) = self.nodes.get(&node_id) else { return };
        let Some(connection) = &node.connection else { return };
        let since = connection.first_answer().saturating_duration_since(self.origin);
        let first_answer_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        for lane in self.lanes.values_mut() {
            if lane.session.is_none() && lane.leader.is_some_and(|(leader, _)| leader == node_id) {
                lane.session = Some(node.session);
                let target = Target { cluster: Arc::clone(&self.cluster), topic: lane.target_topic };
                lane.look();
                lane.delivery.connected(target, first_answer_ms);
            }
        }
    }

    fn closed(&mut self, node_id: i32, session: u64, now: Now) {
        let Some(node) = self.nodes.get_mut(&node_id) else { return };
        if node.session != session || node.connection.is_none() {
            return;
        }
        node.connection = None;
        let mut had_work = false;
        for lane in self.lanes.values_mut().filter(|l| l.session == Some(session)) {
            had_work |= lane.wants_connection();
            lane.disconnect(now);
        }
        // An idle connection that the target closes is no trouble: the next record opens another.
        if had_work {
            self.look = true;
            self.retry_ms = self.retry_ms.max(now.mono_ms + 100);
        }
    }

    fn back_off(&mut self, error: &client::Error, now: Now) {
        let most_ms = if error.is_security() { RETRY_MS.2 } else { RETRY_MS.1 };
        let text = error.to_string();
        if self.error.as_ref() != Some(&text) {
            tracing::warn!(link = %self.name, "target not reachable: {text}");
        }
        self.error = Some(text);
        let wait_ms = jitter(self.retry_wait_ms);
        self.retry_ms = now.mono_ms + wait_ms;
        self.retry_wait_ms = (self.retry_wait_ms * 2).min(most_ms);
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

    fn produced(
        &mut self,
        node_id: i32,
        session: u64,
        sent: &[(LaneId, u64)],
        bytes: usize,
        result: Result<ProduceResponse, client::Error>,
        now: Now,
    ) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
        if let Some(node) = self.nodes.get_mut(&node_id)
            && node.session == session
        {
            node.requests = node.requests.saturating_sub(1);
        }
        // Without an answer the connection is closed, which is an event of its own.
        let Ok(response) = result else { return };
        let mut outcomes = HashMap::new();
        for topic in response.responses {
            for partition in topic.partition_responses {
                let place = (topic.name.clone(), topic.topic_id, partition.index);
                outcomes.insert(place, (partition.error_code, partition.base_offset, partition.error_message));
            }
        }
        for (id, number) in sent {
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            if lane.session != Some(session) {
                continue;
            }
            let by_name = (lane.target.to_string(), [0; 16], lane.source.index);
            let by_id = (String::new(), lane.target_topic, lane.source.index);
            let found = outcomes.get(&by_name).or_else(|| outcomes.get(&by_id));
            let outcome = match found {
                Some((ErrorCode::NONE, base_offset, _)) => Outcome::Stored(*base_offset),
                Some((code, _, message)) => {
                    self.look |= is_about_leader(*code);
                    refusal(&self.name, lane, *code, message.as_deref(), self.config.batch_size.as_u64())
                }
                None => Outcome::Refused(0),
            };
            let safe = lane.answered(*number, outcome, now);
            self.meters.acked_records.add(safe);
            if lane.dirty {
                self.write_ms.get_or_insert(now.mono_ms + FLUSH_MS);
            }
        }
        self.acked_bytes += bytes as u64;
    }

    /// The last hints, so that the next start has little to ask.
    async fn finish(&mut self) {
        while self.writing {
            match tokio::time::timeout(Duration::from_secs(1), self.tasks.next()).await {
                Ok(Some(event)) => drop(self.handle(event)),
                Ok(None) | Err(_) => break,
            }
        }
        let now = self.now();
        let (state, _persisted) = self.state_to_write(now);
        if !state.is_empty() {
            let write = Write { batches: Vec::new(), state, urgency: Urgency::Waited };
            if let Err(error) = self.log.commit(write).await {
                tracing::warn!(link = %self.name, "positions not written: {error}");
            }
        }
        if let Some(client) = &self.client {
            client.close().await;
        }
        self.status.lock().unwrap_or_else(PoisonError::into_inner).state = "stopped".into();
    }

    /// Shows how far it is, a few times a second while something happens; when it must be shown again.
    fn publish(&mut self, deadline_ms: u64) -> u64 {
        let now_ms = self.now().mono_ms;
        if self.published {
            return deadline_ms;
        }
        if now_ms < self.publish_ms {
            return deadline_ms.min(self.publish_ms);
        }
        self.published = true;
        self.publish_ms = now_ms + PUBLISH_MS;
        let partitions: Vec<_> = self.lanes.values().map(Lane::status).collect();
        let servers = self.config.bootstrap_servers.join(",");
        let has_cluster = !self.cluster.is_empty();
        let lag: i64 = partitions.iter().map(|p| (p.end - p.acked).max(0)).sum();
        self.meters.lag_records.set(lag);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.state = match (&self.error, has_cluster) {
            (Some(_), _) => "backing off".into(),
            (None, false) => "connecting".into(),
            (None, true) => "running".into(),
        };
        status.target = if has_cluster { format!("{servers} (cluster {})", self.cluster) } else { servers };
        status.guarantee = "exactly once".into();
        status.tier = self.tier;
        status.acked_records = self.meters.acked_records.get();
        status.sent_bytes = self.meters.sent_bytes.get();
        status.possible_duplicates = self.meters.possible_duplicates.get();
        status.gap_records = self.meters.gap_records.get();
        status.target_lost_records = self.meters.target_lost_records.get();
        let of_lane = || partitions.iter().find_map(|p| Some(format!("{}: {}", p.source, p.error.as_ref()?)));
        status.error = self.error.clone().or_else(of_lane);
        status.partitions = partitions;
        deadline_ms
    }
}

/// Settings of a source topic that its copy needs. Retention is the centre's own business.
fn target_settings(topic: &log::Topic) -> BTreeMap<String, String> {
    let needed = ["cleanup.policy", "max.message.bytes"];
    let of_topic = topic.settings.iter().filter(|(k, _)| needed.contains(&k.as_str()));
    of_topic.map(|(k, v)| (k.clone(), v.clone())).collect()
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

/// What a refused batch means for its lane.
fn refusal(link: &str, lane: &mut Lane, code: ErrorCode, message: Option<&str>, batch_bytes: u64) -> Outcome {
    match code {
        // The leader is asked at once; that is all there is to do.
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
        | ErrorCode::INVALID_PRODUCER_EPOCH
        | ErrorCode::UNKNOWN_PRODUCER_ID
        | ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Outcome::Refused(0),
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE if lane.limit != Some(1) => {
            let was = lane.limit.unwrap_or_else(|| usize::try_from(batch_bytes).unwrap_or(usize::MAX));
            lane.limit = Some(if was <= 1 << 10 { 1 } else { was / 2 });
            tracing::info!(link, partition = %lane.source, limit = ?lane.limit, "batch too large for the target: splitting");
            Outcome::Refused(0)
        }
        code if code.is_retriable() => Outcome::Refused(0),
        code => {
            let offset = lane.delivery.acked();
            let why = message.map(|m| format!(": {m}")).unwrap_or_default();
            let text = format!("refused from offset {offset} on: {code}{why}");
            if lane.error.as_ref() != Some(&text) {
                tracing::error!(link, partition = %lane.source, "{text}");
            }
            lane.error = Some(text);
            Outcome::Refused(BLOCKED_MS)
        }
    }
}

/// `wait` ± 25 %, so that devices that lost the target together do not return together.
fn jitter(wait_ms: u64) -> u64 {
    let mut byte = [0u8];
    let _filled = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    wait_ms * (192 + u64::from(byte[0]) / 2) / 256
}
