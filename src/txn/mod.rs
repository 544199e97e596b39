//! Transactions: who may write under a transactional id, what belongs to his open transaction, how it ends.
//!
//! [`Txns`] is the handle: it keeps each id's state machine (`machine.rs`) behind a lock of its own. Whatever changes is
//! durable before it is answered, in one commit of the log with what caused it: the end of a transaction is the markers
//! of all its partitions, the positions of its groups and the machine's new state together, so that there is nothing to
//! finish after a crash. Never speaks the Kafka protocol, never reads a record.
//!
//! Invariants:
//! - Batches of a transaction and its end enter the log in the order in which the machine allowed them: the lock is
//!   held until they have their place.
//! - A change that was begun is carried through though its caller goes away.
//! - Which partitions hold records of an open transaction the log knows ([`Log::open_transactions`]): after a restart
//!   nothing is open that nobody would end.
//! - Time-outs run on uptime; after a restart an open transaction has its whole time again.

mod directory;
mod machine;
mod record;
mod recovery;
mod timers;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Mutex as Lock, Notify, OwnedMutexGuard},
    time::Instant,
};

use self::machine::{Began, Machine, Place, Turn, Uptime};
pub use self::{
    directory::{Description, Listed},
    machine::{Flow, Identity, State},
};
use crate::{
    groups::offsets::{self, Committed},
    log::{self, Append, Clock, Log, StateWrite, TopicId, Urgency, Write},
    metrics::{Counter, Gauge},
    record::{Outcome, Partition, marker::marker},
};

/// How transactions are kept; Kafka's broker settings under their own names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `transaction.max.timeout.ms`: a producer that asks for more is refused.
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`: an id that was not used for this long, by uptime, is forgotten.
    pub expiration_ms: u64,
    /// Most transactional ids at a time; beyond it the longest unused is forgotten.
    pub max_ids: usize,
    /// Most bytes of positions that wait for the end of their transactions.
    pub staged_limit_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_timeout_ms: 15 * 60 * 1000,
            expiration_ms: 7 * 24 * 60 * 60 * 1000,
            max_ids: 10_000,
            staged_limit_bytes: 4 << 20,
        }
    }
}

/// Why a transaction refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The transactional id is empty or too long.
    #[error("invalid transactional id: it must have 1 to {} bytes", record::MAX_ID_BYTES)]
    InvalidId,
    /// The time-out lies outside the limits.
    #[error("the transaction time-out lies outside the broker's limits")]
    InvalidTimeout,
    /// The transactional id is not known, or another producer id belongs to it.
    #[error("the producer id does not belong to the transactional id")]
    UnknownProducer,
    /// Another producer has taken over the transactional id, or the transaction took too long.
    #[error("the producer's epoch is not the current one")]
    Fenced,
    /// The partition or group is not part of the open transaction.
    #[error("not part of an open transaction")]
    NotInTransaction,
    /// The request does not fit where the transaction stands.
    #[error("the transaction cannot go there from its present state")]
    InvalidState,
    /// More groups than one transaction may hold.
    #[error("too much for one transaction")]
    TooMuch,
    /// Try again: too much waits for the end of transactions.
    #[error("transactions are not available now")]
    NotAvailable,
    /// The log refused.
    #[error(transparent)]
    Log(#[from] log::Error),
}

/// All transactional ids. Cheap to clone; [`Txns::run`] must run once.
#[derive(Clone)]
pub struct Txns(Arc<Shared>);

type Slot = Arc<Lock<Machine>>;

struct Shared {
    log: Log,
    clock: Clock,
    config: Config,
    origin: Instant,
    slots: Mutex<HashMap<Arc<str>, Slot>>,
    watched: Mutex<Watched>,
    /// Tells the timer task that a transaction lapses sooner.
    sooner: Notify,
    committed: Counter,
    aborted: Counter,
    timed_out: Counter,
    open: Gauge,
}

/// What is looked up across ids. Lock order: a slot before it.
#[derive(Default)]
struct Watched {
    /// Open transactions by deadline.
    deadlines: BTreeSet<(Uptime, Arc<str>)>,
    /// How many open transactions are to commit a position.
    staged: BTreeMap<Place, u32>,
    staged_bytes: usize,
}

impl Txns {
    /// A producer id and epoch for a transactional id. Whoever had it before is fenced and his transaction aborted.
    /// `claimed` is who the producer says it was, to go on after an error (KIP-360).
    ///
    /// # Errors
    /// [`Error::InvalidId`], [`Error::InvalidTimeout`], [`Error::Fenced`], [`Error::NotAvailable`], [`Error::Log`].
    pub async fn init(&self, id: &str, claimed: Option<Identity>, timeout_ms: i32) -> Result<Identity, Error> {
        check_id(id)?;
        if !(1..=self.0.config.max_timeout_ms).contains(&timeout_ms) {
            return Err(Error::InvalidTimeout);
        }
        self.apart(id, move |shared, id| async move {
            let mut machine = shared.lock_or_create(&id).await?;
            let fresh = if machine.needs_id() { shared.log.next_producer_id().await? } else { -1 };
            let turn = machine.init(shared.now(), claimed, timeout_ms, fresh)?;
            shared.settle(&id, &mut machine, turn).await?;
            Ok(machine.owner)
        })
        .await
    }

    /// Takes partitions into the producer's transaction, which opens it.
    ///
    /// # Errors
    /// [`Error::UnknownProducer`], [`Error::Fenced`], [`Error::Log`].
    pub async fn add_partitions(&self, id: &str, who: Identity, partitions: Vec<Partition>) -> Result<(), Error> {
        self.add(id, who, partitions, None).await
    }

    /// Takes a group into it.
    ///
    /// # Errors
    /// The same, and [`Error::TooMuch`].
    pub async fn add_group(&self, id: &str, who: Identity, group: &str) -> Result<(), Error> {
        self.add(id, who, Vec::new(), Some(group.into())).await
    }

    async fn add(
        &self,
        id: &str,
        who: Identity,
        partitions: Vec<Partition>,
        group: Option<Arc<str>>,
    ) -> Result<(), Error> {
        check_id(id)?;
        self.apart(id, move |shared, id| async move {
            let mut machine = shared.lock(&id).await.ok_or(Error::UnknownProducer)?;
            if let Some(turn) = machine.add(shared.began(), who, partitions, group)? {
                shared.settle(&id, &mut machine, turn).await?;
            }
            Ok(())
        })
        .await
    }

    /// Takes a group's positions into the transaction: they are committed with it, or forgotten.
    ///
    /// # Errors
    /// As [`Txns::add_group`]; [`Error::NotInTransaction`], [`Error::NotAvailable`].
    pub async fn stage(
        &self,
        id: &str,
        who: Identity,
        group: &str,
        positions: Vec<(TopicId, i32, Committed)>,
        flow: Flow,
    ) -> Result<(), Error> {
        check_id(id)?;
        let bytes: usize = positions.iter().map(|(.., c)| STAGED_BYTES + group.len() + c.metadata.len()).sum();
        let group: Arc<str> = group.into();
        self.apart(id, move |shared, id| async move {
            let mut machine = shared.lock(&id).await.ok_or(Error::UnknownProducer)?;
            if shared.watched().staged_bytes + bytes > shared.config.staged_limit_bytes {
                return Err(Error::NotAvailable);
            }
            let turn = machine.stage(shared.began(), who, &group, positions, flow)?;
            shared.settle(&id, &mut machine, turn).await
        })
        .await
    }

    /// Commits or aborts the producer's transaction; who the producer is from now on.
    ///
    /// # Errors
    /// [`Error::UnknownProducer`], [`Error::Fenced`], [`Error::InvalidState`], [`Error::Log`].
    pub async fn end(&self, id: &str, who: Identity, outcome: Outcome, flow: Flow) -> Result<Identity, Error> {
        check_id(id)?;
        self.apart(id, move |shared, id| async move {
            let mut machine = shared.lock(&id).await.ok_or(Error::UnknownProducer)?;
            let needs_id = flow == Flow::Second && machine.needs_id();
            let fresh = if needs_id { shared.log.next_producer_id().await? } else { -1 };
            if let Some(turn) = machine.end(shared.now(), who, outcome, flow, fresh)? {
                shared.settle(&id, &mut machine, turn).await?;
            }
            Ok(machine.owner)
        })
        .await
    }

    /// The right to write batches under a transactional id, until it is dropped: they must have entered the log by then.
    ///
    /// # Errors
    /// [`Error::UnknownProducer`].
    pub async fn admission(&self, id: &str) -> Result<Admission, Error> {
        let id: Arc<str> = id.into();
        let machine = self.0.lock(&id).await.ok_or(Error::UnknownProducer)?;
        Ok(Admission { shared: Arc::clone(&self.0), id, machine })
    }

    /// Whether the partition is part of the producer's open transaction.
    ///
    /// # Errors
    /// [`Error::UnknownProducer`], [`Error::Fenced`], [`Error::NotInTransaction`].
    pub async fn verify(&self, id: &str, who: Identity, partition: &Partition) -> Result<(), Error> {
        let machine = self.0.lock(id).await.ok_or(Error::UnknownProducer)?;
        machine.check(who)?;
        let is_in = machine.state == State::Ongoing && machine.partitions.contains(partition);
        if is_in { Ok(()) } else { Err(Error::NotInTransaction) }
    }

    /// Whether an open transaction is to commit a position of the group in that partition.
    pub fn is_pending(&self, group: &str, topic_id: TopicId, index: i32) -> bool {
        let watched = self.0.watched();
        !watched.staged.is_empty() && watched.staged.contains_key(&(Arc::from(group), topic_id, index))
    }

    /// Does something with an id in a task of its own, so that it is not left half-way when the caller is dropped.
    async fn apart<T, F>(&self, id: &str, f: impl FnOnce(Arc<Shared>, Arc<str>) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let done = tokio::spawn(f(Arc::clone(&self.0), id.into())).await;
        done.unwrap_or_else(|_| Err(Error::Log(log::Error::Stopped("a transaction's change was cut off".into()))))
    }
}

/// What a staged position weighs beside its group and metadata.
const STAGED_BYTES: usize = 160;

/// See [`Txns::admission`].
pub struct Admission {
    shared: Arc<Shared>,
    id: Arc<str>,
    machine: OwnedMutexGuard<Machine>,
}

impl Admission {
    /// Whether a batch of this producer may be written to the partition now.
    ///
    /// # Errors
    /// [`Error::UnknownProducer`], [`Error::Fenced`]; [`Error::NotInTransaction`] in the first version of the protocol,
    /// where the second makes the partition part of the transaction.
    pub fn admit(&mut self, who: Identity, partition: &Partition, flow: Flow) -> Result<(), Error> {
        let before = self.machine.deadline();
        self.machine.admit(self.shared.began(), who, partition, flow)?;
        self.shared.watch_deadline(&self.id, before, self.machine.deadline());
        Ok(())
    }
}

impl Shared {
    fn now(&self) -> Uptime {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn began(&self) -> Began {
        Began { at: self.now(), wall_ms: (self.clock)() }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Arc<str>, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine of a known id, once nobody else changes it.
    async fn lock(&self, id: &str) -> Option<OwnedMutexGuard<Machine>> {
        loop {
            let slot = self.slots().get(id).map(Arc::clone)?;
            let machine = slot.lock_owned().await;
            // Forgotten between the look-up and the lock.
            if machine.state != State::Dead {
                return Some(machine);
            }
        }
    }

    async fn lock_or_create(&self, id: &Arc<str>) -> Result<OwnedMutexGuard<Machine>, Error> {
        loop {
            let has_room = {
                let mut slots = self.slots();
                let has_room = slots.contains_key(id) || slots.len() < self.config.max_ids;
                if has_room {
                    slots.entry(Arc::clone(id)).or_insert_with(|| Arc::new(Lock::new(Machine::new())));
                }
                has_room
            };
            if !has_room {
                let oldest = self.idle().into_iter().min_by_key(|(_, used)| *used).ok_or(Error::NotAvailable)?;
                self.forget(&oldest.0).await?;
            } else if let Some(machine) = self.lock(id).await {
                return Ok(machine);
            }
        }
    }

    /// Makes a turn durable, with what it ends, and lets the next machine take the place of this one.
    async fn settle(&self, id: &Arc<str>, machine: &mut Machine, turn: Turn) -> Result<(), Error> {
        let Turn { next, ends } = turn;
        loop {
            let topics = Arc::clone(&self.log.topics().borrow());
            let mut write = Write { state: vec![record::write(id, Some(&next), &topics)], ..Write::default() };
            match ends {
                Some((outcome, epoch)) => {
                    let batch = marker(machine.owner.id, epoch, outcome, (self.clock)());
                    // What has been deleted meanwhile needs no end.
                    let exists = |p: &&Partition| topics.get(&p.topic).is_some_and(|t| p.index < t.partitions);
                    let append = |p: &Partition| Append { partition: p.clone(), batch: batch.clone() };
                    write.batches = machine.partitions.iter().filter(exists).map(append).collect();
                    let names: HashMap<TopicId, &Arc<str>> =
                        topics.by_name.values().map(|topic| (topic.id, &topic.name)).collect();
                    for ((group, topic_id, index), staged) in &machine.staged {
                        write.state.push(record::forget_staged(machine.owner.id, staged.slot));
                        if let (Outcome::Commit, Some(topic)) = (outcome, names.get(topic_id)) {
                            let partition = Partition::new(Arc::clone(topic), *index);
                            write.state.push(offsets::write(group, &partition, *topic_id, staged.committed.clone()));
                        }
                    }
                }
                None => {
                    let fresh = next.staged.iter().filter(|(place, staged)| machine.staged.get(place) != Some(staged));
                    let fresh = fresh.map(|(place, staged)| record::write_staged(next.owner.id, place, staged));
                    write.state.extend(fresh);
                }
            }
            match self.log.commit(write).await {
                Ok(_) => break,
                // Deleted in this moment: without it, then.
                Err(log::Error::UnknownPartition(partition)) => {
                    tracing::debug!(%partition, transactional_id = %id, "deleted while its transaction ended");
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        match ends.filter(|_| machine.state == State::Ongoing) {
            Some((Outcome::Commit, _)) => self.committed.increment(),
            Some((Outcome::Abort, _)) => self.aborted.increment(),
            None => {}
        }
        self.take_place(id, machine, next);
        Ok(())
    }

    /// Puts a machine in the place of another, and in the look-ups.
    fn take_place(&self, id: &Arc<str>, machine: &mut Machine, next: Machine) {
        self.watch_deadline(id, machine.deadline(), next.deadline());
        let mut watched = self.watched();
        let bytes =
            |machine: &Machine| machine.staged.iter().map(|(place, s)| weight(place, &s.committed)).sum::<usize>();
        watched.staged_bytes = (watched.staged_bytes + bytes(&next)).saturating_sub(bytes(machine));
        for place in next.staged.keys().filter(|place| !machine.staged.contains_key(*place)) {
            *watched.staged.entry(place.clone()).or_default() += 1;
        }
        for place in machine.staged.keys().filter(|place| !next.staged.contains_key(*place)) {
            if let Some(count) = watched.staged.get_mut(place) {
                *count -= 1;
                if *count == 0 {
                    watched.staged.remove(place);
                }
            }
        }
        drop(watched);
        *machine = next;
    }

    fn watch_deadline(&self, id: &Arc<str>, before: Option<Uptime>, now: Option<Uptime>) {
        if before == now {
            return;
        }
        let mut watched = self.watched();
        if let Some(before) = before {
            watched.deadlines.remove(&(before, Arc::clone(id)));
        }
        if let Some(now) = now {
            watched.deadlines.insert((now, Arc::clone(id)));
            if watched.deadlines.first().is_some_and(|(first, _)| *first == now) {
                self.sooner.notify_one();
            }
        }
        self.open.set(i64::try_from(watched.deadlines.len()).unwrap_or(i64::MAX));
    }

    /// The ids without an open transaction that nobody uses in this moment, and when they were used last.
    fn idle(&self) -> Vec<(Arc<str>, Uptime)> {
        let slots = self.slots();
        let idle = slots.iter().filter_map(|(id, slot)| {
            let machine = slot.try_lock().ok()?;
            (machine.state != State::Ongoing).then(|| (Arc::clone(id), machine.used))
        });
        idle.collect()
    }

    /// Forgets an id unless it has an open transaction.
    async fn forget(&self, id: &Arc<str>) -> Result<(), Error> {
        let Some(mut machine) = self.lock(id).await else { return Ok(()) };
        if machine.state == State::Ongoing {
            return Ok(());
        }
        let topics = Arc::clone(&self.log.topics().borrow());
        let state: Vec<StateWrite> = vec![record::write(id, None, &topics)];
        self.log.commit(Write { state, batches: Vec::new(), urgency: Urgency::Waited }).await?;
        machine.state = State::Dead;
        self.slots().remove(id);
        Ok(())
    }
}

fn weight((group, ..): &Place, committed: &Committed) -> usize {
    STAGED_BYTES + group.len() + committed.metadata.len()
}

fn check_id(id: &str) -> Result<(), Error> {
    if id.is_empty() || id.len() > record::MAX_ID_BYTES { Err(Error::InvalidId) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
