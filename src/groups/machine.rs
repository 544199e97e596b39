//! The protocol that a group follows: the classic one, in which clients assign, or the consumer protocol.
//!
//! A group without members follows whichever its next member speaks, with an epoch or generation that goes on from the
//! last: so neither becomes smaller as long as the group is remembered. A stable classic group of consumers turns when a
//! member of the consumer protocol joins, and back when the last of those has gone (`consumer/classic.rs`).

use super::{
    consumer::{ConsumerGroup, Rules, State as ConsumerState},
    group::{Group, Limits, State},
    member::{Answer, Uptime},
};

/// The kinds of groups, by Kafka's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JoinGroup, SyncGroup: the clients assign.
    Classic,
    /// ConsumerGroupHeartbeat (KIP-848): the broker assigns.
    Consumer,
}

impl Kind {
    /// The name that Kafka's tools know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        }
    }
}

pub(super) enum Machine {
    Classic(Group),
    Consumer(ConsumerGroup),
}

impl Machine {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Classic(_) => Kind::Classic,
            Self::Consumer(_) => Kind::Consumer,
        }
    }

    /// The classic group, made of an empty one of the other kind if need be.
    pub(super) fn as_classic(&mut self, limits: Limits, may_turn: bool) -> Option<&mut Group> {
        if let Self::Consumer(group) = self
            && may_turn
            && group.state() == ConsumerState::Empty
        {
            *self = Self::Classic(Group::after(limits, group.epoch()));
        }
        if let Self::Classic(group) = self { Some(group) } else { None }
    }

    /// Goes on as a classic group once the last member of the consumer protocol has gone and others are left.
    pub(super) fn turn_back(&mut self, limits: Limits, now: Uptime, out: &mut Vec<Answer>) {
        if let Self::Consumer(group) = self
            && group.rules.may_downgrade
            && group.is_only_classic()
        {
            *self = Self::Classic(group.to_classic(limits, now, out));
        }
    }

    /// The consumer group, made of an empty one of the other kind if need be.
    pub(super) fn as_consumer(&mut self, rules: Rules, may_turn: bool) -> Option<&mut ConsumerGroup> {
        if let Self::Classic(group) = self
            && may_turn
            && group.state() == State::Empty
        {
            *self = Self::Consumer(ConsumerGroup::new(rules.clone(), group.generation()));
        }
        let Self::Consumer(group) = self else { return None };
        group.rules = rules;
        Some(group)
    }

    /// Nobody is or is about to become a member.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_idle(),
            Self::Consumer(group) => group.state() == ConsumerState::Empty,
        }
    }

    /// Removed; whoever still holds it has to look again.
    pub(super) fn is_dead(&self) -> bool {
        match self {
            Self::Classic(group) => group.state() == State::Dead,
            Self::Consumer(group) => group.state() == ConsumerState::Dead,
        }
    }

    /// Marks an idle group as removed.
    pub(super) fn bury(&mut self) {
        match self {
            Self::Classic(group) => group.bury(),
            Self::Consumer(group) => group.bury(),
        }
    }

    pub(super) fn state_name(&self) -> &'static str {
        match self {
            Self::Classic(group) => group.state().name(),
            Self::Consumer(group) => group.state().name(),
        }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Self::Classic(group) => group.members().len(),
            Self::Consumer(group) => group.size(),
        }
    }

    /// Bytes that clients decided the size of.
    pub(super) fn size_bytes(&self) -> usize {
        match self {
            Self::Classic(group) => group.size_bytes(),
            Self::Consumer(group) => group.size_bytes(),
        }
    }

    /// Generation or epoch.
    pub(super) fn generation(&self) -> i32 {
        match self {
            Self::Classic(group) => group.generation(),
            Self::Consumer(group) => group.epoch(),
        }
    }

    /// The next moment at which something lapses.
    pub(super) fn deadline(&self) -> Option<Uptime> {
        match self {
            Self::Classic(group) => group.deadline(),
            Self::Consumer(group) => group.deadline(),
        }
    }

    /// Lets lapse what has.
    pub(super) fn tick(&mut self, now: Uptime, out: &mut Vec<Answer>) {
        match self {
            Self::Classic(group) => group.tick(now, out),
            Self::Consumer(group) => group.tick(now),
        }
    }
}
