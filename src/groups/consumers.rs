//! Groups of the consumer protocol as the APIs ask for them: the checks around [`ConsumerGroup`](super::consumer).

use std::sync::{Arc, PoisonError, atomic::Ordering};

use super::{
    ConsumerDescription, Error, Groups, Heard, Heartbeat, Kind, Machine, OwnRules, Shared, State, check_id,
    consumer::{ConsumerGroup, Rules},
    group::Group,
    uuid,
};
use crate::log::Topics;

/// A member id as the broker makes them for clients that do not.
pub fn fresh_consumer_id() -> String {
    uuid()
}

impl Groups {
    /// Takes a heartbeat of the consumer protocol: joins, stays, or leaves.
    ///
    /// A member of a group that is not remembered is unknown, where Kafka says that the group is: members live in RAM, and
    /// "unknown member" makes any client join anew, while an unknown group would end it.
    ///
    /// # Errors
    /// What Kafka answers.
    pub fn consumer_heartbeat(&self, name: &str, request: &Heartbeat) -> Result<Heard, Error> {
        if name.is_empty() {
            return Err(Error::InvalidRequest("GroupId can't be empty."));
        }
        check_id(name)?;
        let shared = &self.0;
        let joins = request.epoch == 0;
        loop {
            let found = shared.find(name);
            let is_fresh = found.is_none();
            let slot = match found {
                Some(slot) => slot,
                None if joins => shared.find_or_create(name)?,
                None => return Err(Error::UnknownMember),
            };
            let mut live = slot.lock();
            if live.group.is_dead() {
                // Removed between the look-up and the lock.
                continue;
            }
            let others_bytes = shared.held_bytes.load(Ordering::Relaxed).saturating_sub(live.size_bytes);
            let now = shared.now();
            let topics = Arc::clone(&shared.log.topics().borrow());
            let kind = live.group.kind();
            let rules = shared.consumer_rules(name);
            let mut upgraded = match &live.group {
                Machine::Classic(group) if joins && rules.may_upgrade => upgrade(group, &rules, &topics)?,
                _ => None,
            };
            let group = match &mut upgraded {
                Some(upgraded) => upgraded,
                None => live.group.as_consumer(rules, joins).ok_or(Error::NotConsumer)?,
            };
            let has_room = others_bytes + group.size_with(request) <= shared.config.memory_limit_bytes;
            let heard = if has_room { group.heartbeat(now, &topics, request) } else { Err(Error::GroupFull) };
            match upgraded {
                Some(upgraded) if heard.is_ok() => live.group = Machine::Consumer(upgraded),
                // It stays what it was.
                None if heard.is_err() && kind == Kind::Classic => {
                    live.group.as_classic(shared.limits(), true);
                }
                _ => {}
            }
            shared.settle(&mut live, Vec::new());
            drop(live);
            if is_fresh && heard.is_err() {
                shared.remove_if_idle(name);
            }
            return heard;
        }
    }

    /// Gives a group of the consumer protocol rules of its own, from each member's next heartbeat on. The caller remembers
    /// them; none set is the same as never said.
    pub fn set_own_rules(&self, group: &str, own: OwnRules) {
        let mut rules = self.0.own_rules.lock().unwrap_or_else(PoisonError::into_inner);
        if own == OwnRules::default() {
            rules.remove(group);
        } else {
            rules.insert(group.to_owned(), own);
        }
    }

    /// Whether the group follows the consumer protocol.
    pub fn is_consumer(&self, group: &str) -> bool {
        self.0.find(group).is_some_and(|slot| {
            let live = slot.lock();
            live.group.kind() == Kind::Consumer && !live.group.is_dead()
        })
    }

    /// All about one group of the consumer protocol.
    ///
    /// # Errors
    /// [`Error::NotConsumer`] for a classic group, [`Error::NotFound`], [`Error::Log`].
    pub fn describe_consumer(&self, name: &str) -> Result<ConsumerDescription, Error> {
        check_id(name)?;
        if let Some(slot) = self.0.find(name) {
            let live = slot.lock();
            match &live.group {
                Machine::Consumer(group) if !live.group.is_dead() => {
                    return Ok(group.describe());
                }
                Machine::Classic(_) if !live.group.is_dead() => return Err(Error::NotConsumer),
                Machine::Classic(_) | Machine::Consumer(_) => {}
            }
        }
        Err(if super::offsets::has_any(&self.0.log, name)? { Error::NotConsumer } else { Error::NotFound })
    }

    /// May this member read offsets of its group now? Members of groups that are not remembered may: they are told to
    /// join anew by their next heartbeat.
    ///
    /// # Errors
    /// [`Error::UnknownMember`], [`Error::StaleEpoch`].
    pub fn check_fetch(&self, group: &str, member_id: Option<&str>, epoch: i32) -> Result<(), Error> {
        let Some(slot) = self.0.find(group) else { return Ok(()) };
        let live = slot.lock();
        match &live.group {
            Machine::Consumer(group) => group.check_fetch(member_id, epoch),
            Machine::Classic(_) => Ok(()),
        }
    }
}

/// The classic group as one of the consumer protocol; `None` for an empty one, which turns by itself.
fn upgrade(group: &Group, rules: &Rules, topics: &Arc<Topics>) -> Result<Option<ConsumerGroup>, Error> {
    match group.state() {
        State::Empty | State::Dead => Ok(None),
        State::Stable => {
            let upgraded = ConsumerGroup::of_classic(rules.clone(), group, topics);
            upgraded.map(Some).ok_or(Error::NotConsumer)
        }
        // Members are on their way: the consumer comes again in a moment.
        State::PreparingRebalance | State::CompletingRebalance => Err(Error::NotAvailable),
    }
}

impl Shared {
    fn consumer_rules(&self, group: &str) -> Rules {
        let config = &self.config;
        let own = self.own_rules.lock().unwrap_or_else(PoisonError::into_inner).get(group).copied().unwrap_or_default();
        Rules {
            session_timeout_ms: own.session_timeout_ms.unwrap_or(config.consumer_session_timeout_ms),
            heartbeat_interval_ms: own.heartbeat_interval_ms.unwrap_or(config.consumer_heartbeat_interval_ms),
            max_size: config.consumer_max_size,
            assignors: config.consumer_assignors.clone(),
            may_upgrade: config.may_upgrade,
            may_downgrade: config.may_downgrade,
        }
    }

    fn remove_if_idle(&self, name: &str) {
        let mut slots = self.lock();
        if slots.get(name).is_some_and(|slot| slot.bury_if_idle()) {
            slots.remove(name);
        }
    }
}
