//! Transactions at start: what was kept, what the log holds of it, and the end of what belongs to nobody.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::{
    sync::{Mutex as Lock, Notify},
    time::Instant,
};

use super::{
    Config, Error, Shared, Txns, Watched,
    machine::{Machine, Place, Staged, State},
    record,
};
use crate::{
    log::{Append, Clock, Log, ProducerState, Urgency, Write},
    metrics::Registry,
    record::{Outcome, marker::marker},
};

impl Txns {
    /// Takes up the transactions of this log where they stood. `clock` stamps markers.
    ///
    /// # Errors
    /// [`Error::Log`] when the log cannot be read or written.
    pub async fn open(log: Log, config: Config, clock: Clock, metrics: &Registry) -> Result<Self, Error> {
        let help = "Transactions that ended, by how.";
        let ended = |how| metrics.counter("brooklet_transactions_total", help, &[("outcome", how)]);
        let shared = Shared {
            config,
            origin: Instant::now(),
            slots: Mutex::default(),
            watched: Mutex::new(Watched::default()),
            sooner: Notify::new(),
            committed: ended("commit"),
            aborted: ended("abort"),
            timed_out: metrics.counter(
                "brooklet_transactions_timed_out_total",
                "Transactions aborted because they took longer than their time-out.",
                &[],
            ),
            open: metrics.gauge("brooklet_transactions_open", "Open transactions.", &[]),
            log,
            clock,
        };
        shared.recover().await?;
        Ok(Self(Arc::new(shared)))
    }
}

impl Shared {
    async fn recover(&self) -> Result<(), Error> {
        let topics = Arc::clone(&self.log.topics().borrow());
        let mut staged: HashMap<i64, Vec<(Place, Staged)>> = HashMap::new();
        let mut orphans = Write { urgency: Urgency::Unattended, ..Write::default() };
        for (key, value) in self.log.states(record::OWNER, &[record::STAGED_KIND])? {
            if let Some((producer_id, place, position)) = record::decode_staged(&key, &value) {
                staged.entry(producer_id).or_default().push((place, position));
            }
        }
        let mut open: HashMap<i64, Vec<ProducerState>> = HashMap::new();
        for state in self.log.open_transactions().await? {
            open.entry(state.producer_id).or_default().push(state);
        }
        for (key, value) in self.log.states(record::OWNER, &[record::ID_KIND])? {
            let Some(id) = record::id(&key) else { continue };
            let Some(mut machine) = record::decode(&value, &topics) else {
                tracing::error!(transactional_id = id, "what is kept of it does not parse; its producer starts anew");
                continue;
            };
            let written = open.remove(&machine.owner.id).unwrap_or_default();
            machine.partitions.extend(written.into_iter().map(|state| state.partition));
            machine.staged = staged.remove(&machine.owner.id).unwrap_or_default().into_iter().collect();
            // With the second version of the protocol the first batch opens a transaction without another write.
            if machine.state == State::Ongoing || !machine.partitions.is_empty() || !machine.staged.is_empty() {
                machine.state = State::Ongoing;
                machine.began = Some(self.began());
            }
            let id: Arc<str> = id.into();
            let mut known = Machine::new();
            self.take_place(&id, &mut known, machine);
            self.slots().insert(id, Arc::new(Lock::new(known)));
        }
        // Readers would wait for ever for what nobody can end.
        for state in open.into_values().flatten() {
            tracing::warn!(partition = %state.partition, producer_id = state.producer_id, "an open transaction of nobody is aborted");
            let batch = marker(state.producer_id, state.epoch, Outcome::Abort, (self.clock)());
            orphans.batches.push(Append { partition: state.partition, batch });
        }
        for (producer_id, positions) in staged {
            orphans.state.extend(positions.iter().map(|(_, staged)| record::forget_staged(producer_id, staged.slot)));
        }
        if !orphans.batches.is_empty() || !orphans.state.is_empty() {
            self.log.commit(orphans).await?;
        }
        Ok(())
    }
}
