//! Consumer groups: who reads which partition, and how far they came.
//!
//! [`Groups`] is the handle: it keeps each group's state machine behind a lock of its own (`group.rs` for the classic
//! protocol, `consumer.rs` for that of KIP-848), parks joins and syncs, and runs the timers of all groups in one task. Committed offsets lie in the log's state ([`offsets`]), so that
//! a stream or a sink can commit its position together with its outputs; a group that only has offsets exists and is
//! `Empty`. Never speaks the Kafka protocol, never reads a record.
//!
//! Members live in RAM only: after a restart they are told that they are unknown and join again, which costs one
//! rebalance and no writes to flash. What clients can make it hold is bounded by [`Config`].

mod commits;
mod consumer;
mod consumers;
mod directory;
mod group;
mod machine;
mod member;
pub mod offsets;
mod timers;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub use self::{
    commits::{Commit, Position},
    consumer::{Assignor, ConsumerDescription, ConsumerMemberDescription, Heard, Heartbeat, Share},
    consumers::fresh_consumer_id,
    directory::{Description, Listed, MemberDescription},
    group::{Leaver, State},
    machine::Kind,
    member::{Join, Joined, JoinedMember, Protocol, Sync, Synced},
    offsets::MAX_GROUP_ID_BYTES,
};
use self::{
    group::{Group, Limits},
    machine::Machine,
    member::{Answer, Ticket, Uptime},
};
use crate::{
    log::{self, Clock, Log},
    metrics::{Counter, Gauge, Registry},
    record::Partition,
};

/// How groups are kept; Kafka's broker settings under their own names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `group.min.session.timeout.ms`: a member that asks for less is refused.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`: a member that asks for more is refused.
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members after the first.
    pub initial_rebalance_delay_ms: u64,
    /// `group.max.size`: most members of one group.
    pub max_size: usize,
    /// `group.consumer.session.timeout.ms`: without a sign of life for so long a member of the consumer protocol is removed.
    pub consumer_session_timeout_ms: u64,
    /// `group.consumer.heartbeat.interval.ms`: how often such members are told to beat.
    pub consumer_heartbeat_interval_ms: i32,
    /// `group.consumer.max.size`: most members of one such group.
    pub consumer_max_size: usize,
    /// `group.consumer.assignors`: those that members may ask for; the first is the default.
    pub consumer_assignors: Vec<Assignor>,
    /// `group.consumer.migration.policy`: a classic group becomes one of the consumer protocol when a member of that joins.
    pub may_upgrade: bool,
    /// And back when the last one has gone.
    pub may_downgrade: bool,
    /// `offset.metadata.max.bytes`: most bytes a client may attach to an offset.
    pub max_metadata_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds: offsets older than this of groups without members are forgotten.
    /// `None` keeps them: boards sleep for weeks.
    pub offsets_retention_ms: Option<u64>,
    /// Most groups with members, or recently so, at a time.
    pub max_groups: usize,
    /// Most bytes that all members together may make the broker hold.
    pub memory_limit_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 30 * 60 * 1000,
            initial_rebalance_delay_ms: 0,
            max_size: 250,
            consumer_session_timeout_ms: 45_000,
            consumer_heartbeat_interval_ms: 5_000,
            consumer_max_size: 250,
            consumer_assignors: vec![Assignor::Uniform, Assignor::Range],
            may_upgrade: true,
            may_downgrade: true,
            max_metadata_bytes: 4096,
            offsets_retention_ms: None,
            max_groups: 1000,
            memory_limit_bytes: 4 << 20,
        }
    }
}

/// Why a group refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The group id is empty or too long.
    #[error("invalid group id: it must have 1 to {} bytes", offsets::MAX_GROUP_ID_BYTES)]
    InvalidGroupId,
    /// The session timeout lies outside the limits.
    #[error("the session timeout lies outside the broker's limits")]
    InvalidSessionTimeout,
    /// No such member: join anew.
    #[error("unknown member id")]
    UnknownMember,
    /// Another generation: join anew.
    #[error("not the current generation")]
    IllegalGeneration,
    /// Another epoch than the member's: give everything up and join anew.
    #[error(
        "member epoch {claimed} is not the current one, {current}: the member must abandon all its partitions and rejoin"
    )]
    FencedEpoch {
        /// The epoch that the request names.
        claimed: i32,
        /// The member's epoch.
        current: i32,
    },
    /// Another epoch than the member's: come back with the current one.
    #[error("member epoch {claimed} is not the current one, {current}")]
    StaleEpoch {
        /// The epoch that the request names.
        claimed: i32,
        /// The member's epoch.
        current: i32,
    },
    /// A static member of that name is there and has not left.
    #[error("the group.instance.id is still in use by another member")]
    UnreleasedInstance,
    /// No such server-side assignor, in words.
    #[error("{0}")]
    UnsupportedAssignor(String),
    /// A pattern that cannot be used, and why.
    #[error("{0}")]
    InvalidPattern(String),
    /// The request does not have the form it must have, in Kafka's words.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// A member of the consumer protocol used a version that does not know epochs.
    #[error("OffsetCommit version 9 or above must be used by members using the consumer group protocol")]
    UnsupportedVersion,
    /// The group has members of the classic protocol, or is one of those that only have offsets.
    #[error("not a consumer group")]
    NotConsumer,
    /// Join again.
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// Another type, or no protocol in common with the members.
    #[error("protocol type or protocols do not match the group's")]
    InconsistentProtocol,
    /// Another client took over this static member's name.
    #[error("another member uses this group.instance.id")]
    FencedInstance,
    /// Come back with this id.
    #[error("join again with member id {0}")]
    MemberIdRequired(Arc<str>),
    /// No room for another member.
    #[error("the group or the broker's room for members is full")]
    GroupFull,
    /// Try again: the group is being removed, there are too many, or the daemon stops.
    #[error("the group is not available now")]
    NotAvailable,
    /// The group has members.
    #[error("the group is not empty")]
    NonEmpty,
    /// No such group.
    #[error("the group does not exist")]
    NotFound,
    /// A member subscribes to the topic.
    #[error("the group is subscribed to the topic")]
    Subscribed,
    /// No such topic or partition.
    #[error("unknown topic or partition {0}")]
    UnknownPartition(Partition),
    /// Too much attached to an offset.
    #[error("the offset's metadata is too large")]
    MetadataTooLarge,
    /// The log refused.
    #[error(transparent)]
    Log(#[from] log::Error),
}

/// What one group of the consumer protocol does otherwise than [`Config`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnRules {
    /// `consumer.session.timeout.ms`.
    pub session_timeout_ms: Option<u64>,
    /// `consumer.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: Option<i32>,
}

/// All consumer groups. Cheap to clone; [`Groups::run`] must run once.
#[derive(Clone)]
pub struct Groups(Arc<Shared>);

type IsOurs = dyn Fn(&str) -> bool + Send + std::marker::Sync;

struct Shared {
    log: Log,
    clock: Clock,
    config: Config,
    slots: Mutex<HashMap<Arc<str>, Arc<Slot>>>,
    /// Of groups that have rules of their own, be they there or not.
    own_rules: Mutex<HashMap<String, OwnRules>>,
    origin: Instant,
    tickets: AtomicU64,
    /// When the timer task wakes next.
    wakes_at: AtomicU64,
    /// Tells the timer task that something lapses sooner.
    sooner: Notify,
    /// Sum of the groups' sizes.
    held_bytes: AtomicUsize,
    /// Offsets that are on their way into the log, by their key there, and how many commits of each.
    committing: Mutex<HashMap<Bytes, usize>>,
    /// Whether a part of the daemon keeps its own position under that name.
    is_ours: OnceLock<Box<IsOurs>>,
    rebalances: Counter,
    commits: Counter,
    commits_unchanged: Counter,
    members: Gauge,
}

/// One group. Lock order: `Shared::slots` before `Slot`.
struct Slot(Mutex<Live>);

struct Live {
    group: Machine,
    waiting: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    idle_since: Option<Uptime>,
    size_bytes: usize,
    /// As counted so far.
    generation: i32,
}

/// Most protocols of one member. Choosing one compares every member's with every other's while the group is locked, and
/// real clients have a handful.
const MOST_PROTOCOLS: usize = 64;

impl Groups {
    /// Groups on this log. `clock` stamps commits.
    pub fn new(log: Log, config: Config, clock: Clock, metrics: &Registry) -> Self {
        Self(Arc::new(Shared {
            log,
            clock,
            config,
            slots: Mutex::default(),
            own_rules: Mutex::default(),
            origin: Instant::now(),
            tickets: AtomicU64::new(0),
            wakes_at: AtomicU64::new(u64::MAX),
            sooner: Notify::new(),
            held_bytes: AtomicUsize::new(0),
            committing: Mutex::default(),
            is_ours: OnceLock::new(),
            rebalances: metrics.counter("brooklet_groups_rebalances_total", "Generations of all groups.", &[]),
            commits: metrics.counter("brooklet_groups_offset_commits_total", "Offsets committed by clients.", &[]),
            commits_unchanged: metrics.counter(
                "brooklet_groups_offset_commits_unchanged_total",
                "Offsets committed by clients that were committed already, not written again.",
                &[],
            ),
            members: metrics.gauge("brooklet_groups_members", "Members of all groups.", &[]),
        }))
    }

    /// Says which groups hold the position of a part of the daemon that runs: nobody may delete those. The first call
    /// counts.
    pub fn set_ours(&self, is_ours: impl Fn(&str) -> bool + Send + std::marker::Sync + 'static) {
        let _first = self.0.is_ours.get_or_init(|| Box::new(is_ours));
    }

    /// Joins a group, waiting until its next generation is complete. Dropping the future takes the wait back.
    ///
    /// # Errors
    /// What Kafka answers; [`Error::MemberIdRequired`] carries the id to come back with.
    pub async fn join(&self, group: &str, mut request: Join) -> Result<Joined, Error> {
        check_id(group)?;
        let config = &self.0.config;
        if !(config.min_session_timeout_ms..=config.max_session_timeout_ms).contains(&request.session_timeout_ms) {
            return Err(Error::InvalidSessionTimeout);
        }
        if request.protocols.len() > MOST_PROTOCOLS {
            return Err(Error::InconsistentProtocol);
        }
        // The request's bytes are a slice of the whole frame: keep copies, not the frame.
        for protocol in &mut request.protocols {
            protocol.metadata = Bytes::copy_from_slice(&protocol.metadata);
        }
        let wanted: usize = request.protocols.iter().map(|p| p.name.len() + p.metadata.len()).sum();
        if self.0.held_bytes.load(Ordering::Relaxed) + wanted > config.memory_limit_bytes {
            return Err(Error::GroupFull);
        }
        let fresh_id = fresh_member_id(&request);
        let can_create = request.member_id.is_empty();
        let topics = Arc::clone(&self.0.log.topics().borrow());
        let event = |group: &mut Machine, now, ticket, out: &mut Vec<Answer>| match group {
            Machine::Classic(group) => group.join(now, ticket, &request, fresh_id, out),
            Machine::Consumer(group) => {
                out.push(Answer::Join(ticket, group.join(now, &topics, &request, &fresh_id)));
            }
        };
        let answer = self.park(group, can_create, event).await?;
        match answer {
            Answer::Join(_, result) => result,
            Answer::Sync(..) => Err(Error::NotAvailable),
        }
    }

    /// Asks for the member's share, waiting until the leader has assigned. Dropping the future takes the wait back.
    ///
    /// # Errors
    /// What Kafka answers.
    pub async fn sync(&self, group: &str, mut request: Sync) -> Result<Synced, Error> {
        check_id(group)?;
        for (_, share) in &mut request.assignments {
            *share = Bytes::copy_from_slice(share);
        }
        let wanted: usize = request.assignments.iter().map(|(_, share)| share.len()).sum();
        if self.0.held_bytes.load(Ordering::Relaxed) + wanted > self.0.config.memory_limit_bytes {
            return Err(Error::GroupFull);
        }
        let event = |group: &mut Machine, now, ticket, out: &mut Vec<Answer>| match group {
            Machine::Classic(group) => group.sync(now, ticket, request, out),
            Machine::Consumer(group) => out.push(Answer::Sync(ticket, group.sync(now, &request))),
        };
        let answer = self.park(group, false, event).await?;
        match answer {
            Answer::Sync(_, result) => result,
            Answer::Join(..) => Err(Error::NotAvailable),
        }
    }

    /// Says that a member is alive.
    ///
    /// # Errors
    /// What Kafka answers.
    pub fn heartbeat(
        &self,
        group: &str,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), Error> {
        check_id(group)?;
        let slot = self.0.find(group).ok_or(Error::UnknownMember)?;
        let mut live = slot.lock();
        let now = self.0.now();
        match &mut live.group {
            // It only moves a deadline back: the timer task need not know.
            Machine::Classic(group) => group.heartbeat(now, member_id, instance_id, generation),
            Machine::Consumer(group) => {
                let heard = group.classic_heartbeat(now, member_id, instance_id, generation);
                self.0.settle(&mut live, Vec::new());
                heard
            }
        }
    }

    /// Takes members out of a group; one answer for each.
    ///
    /// # Errors
    /// [`Error::InvalidGroupId`]; what concerns one member stands in its place.
    pub fn leave(&self, group: &str, leavers: &[Leaver]) -> Result<Vec<Result<(), Error>>, Error> {
        check_id(group)?;
        let Some(slot) = self.0.find(group) else {
            return Ok(leavers.iter().map(|_| Err(Error::UnknownMember)).collect());
        };
        let mut out = Vec::new();
        let mut live = slot.lock();
        let now = self.0.now();
        let answers = match &mut live.group {
            Machine::Classic(group) => leavers.iter().map(|leaver| group.leave(now, leaver, &mut out)).collect(),
            // Members of the consumer protocol leave by a heartbeat.
            Machine::Consumer(group) => leavers.iter().map(|leaver| group.classic_leave(leaver)).collect(),
        };
        self.0.settle(&mut live, out);
        Ok(answers)
    }

    /// Hands a request to a group with a ticket and waits for the ticket's answer.
    async fn park(
        &self,
        name: &str,
        can_create: bool,
        event: impl FnOnce(&mut Machine, Uptime, Ticket, &mut Vec<Answer>),
    ) -> Result<Answer, Error> {
        let ticket = self.0.tickets.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let slot = loop {
            let found = if can_create {
                self.0.find_or_create(name)?
            } else {
                self.0.find(name).ok_or(Error::UnknownMember)?
            };
            let mut live = found.lock();
            if live.group.is_dead() {
                // Removed between the look-up and the lock.
                continue;
            }
            let mut out = Vec::new();
            // An empty group follows whom it gets.
            live.group.as_classic(self.0.limits(), can_create);
            event(&mut live.group, self.0.now(), ticket, &mut out);
            live.waiting.insert(ticket, answer);
            self.0.settle(&mut live, out);
            drop(live);
            break found;
        };
        let parked = Parked { shared: Arc::clone(&self.0), slot, ticket };
        let answer = answered.await.map_err(|_| Error::NotAvailable);
        drop(parked);
        answer
    }
}

/// A request that waits. Dropped before its answer, as when the client's connection closes, it takes the wait back.
struct Parked {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    ticket: Ticket,
}

impl Drop for Parked {
    fn drop(&mut self) {
        let mut live = self.slot.lock();
        if live.waiting.remove(&self.ticket).is_some() {
            let mut out = Vec::new();
            if let Machine::Classic(group) = &mut live.group {
                group.gone(self.shared.now(), self.ticket, &mut out);
            }
            self.shared.settle(&mut live, out);
        }
    }
}

impl Shared {
    fn now(&self) -> Uptime {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> Limits {
        Limits { initial_delay_ms: self.config.initial_rebalance_delay_ms, max_size: self.config.max_size }
    }

    fn find(&self, name: &str) -> Option<Arc<Slot>> {
        self.lock().get(name).map(Arc::clone)
    }

    fn find_or_create(&self, name: &str) -> Result<Arc<Slot>, Error> {
        let mut slots = self.lock();
        if let Some(slot) = slots.get(name) {
            return Ok(Arc::clone(slot));
        }
        if slots.len() >= self.config.max_groups {
            let idle = slots.iter().find_map(|(name, slot)| slot.bury_if_idle().then(|| Arc::clone(name)));
            slots.remove(&idle.ok_or(Error::NotAvailable)?);
        }
        let live = Live {
            group: Machine::Classic(Group::new(self.limits())),
            waiting: BTreeMap::new(),
            idle_since: None,
            size_bytes: 0,
            generation: 0,
        };
        let slot = Arc::new(Slot(Mutex::new(live)));
        slots.insert(name.into(), Arc::clone(&slot));
        Ok(slot)
    }

    /// After an event: hands out the answers, counts, and wakes the timer task if something lapses sooner.
    fn settle(&self, live: &mut Live, mut out: Vec<Answer>) {
        live.group.turn_back(self.limits(), self.now(), &mut out);
        for answer in out {
            let (Answer::Join(ticket, _) | Answer::Sync(ticket, _)) = &answer;
            if let Some(waiting) = live.waiting.remove(ticket) {
                // A receiver that is gone has closed its connection; its session will end by itself.
                let _gone = waiting.send(answer);
            }
        }
        if std::mem::replace(&mut live.generation, live.group.generation()) != live.generation {
            self.rebalances.increment();
        }
        let size_bytes = live.group.size_bytes();
        self.held_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        self.held_bytes.fetch_sub(std::mem::replace(&mut live.size_bytes, size_bytes), Ordering::Relaxed);
        live.idle_since = if live.group.is_idle() { live.idle_since.or_else(|| Some(self.now())) } else { None };
        if let Some(deadline) = live.deadline()
            && self.wakes_at.fetch_min(deadline, Ordering::SeqCst) > deadline
        {
            self.sooner.notify_one();
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bury_if_idle(&self) -> bool {
        let mut live = self.lock();
        let is_idle = live.group.is_idle();
        if is_idle {
            live.group.bury();
        }
        is_idle
    }
}

fn check_id(group: &str) -> Result<(), Error> {
    if group.is_empty() || group.len() > offsets::MAX_GROUP_ID_BYTES { Err(Error::InvalidGroupId) } else { Ok(()) }
}

/// `client id-uuid`, for a static member `instance id-uuid`, as Kafka makes them.
fn fresh_member_id(request: &Join) -> Arc<str> {
    let name = request.instance_id.as_ref().unwrap_or(&request.client_id);
    format!("{name}-{}", uuid()).into()
}

/// A random UUID.
fn uuid() -> String {
    let mut id = [0u8; 16];
    let _len = rustix::rand::getrandom(&mut id[..], rustix::rand::GetRandomFlags::empty());
    id[6] = (id[6] & 0x0f) | 0x40;
    id[8] = (id[8] & 0x3f) | 0x80;
    let n = u128::from_be_bytes(id);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        n >> 96,
        (n >> 80) & 0xffff,
        (n >> 64) & 0xffff,
        (n >> 48) & 0xffff,
        n & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests;
