//! What a group can tell of itself without changing: who may come in, which protocol wins, whom a request means, and
//! the words of an answer. Never changes the group.

use std::sync::Arc;

use super::{
    super::{
        Error,
        member::{Join, Joined, JoinedMember, Member, Protocol, Synced},
    },
    Group, State,
};

impl Group {
    pub(super) fn has_room_for(&self, request: &Join) -> bool {
        // A static member that returns without its id takes its own place.
        let known = request.instance_id.as_ref().and_then(|name| self.instances.get(name));
        let member_id = known.filter(|_| request.member_id.is_empty()).map_or(&*request.member_id, |id| id);
        let is_member = self.position(member_id).is_some();
        match self.state {
            State::Empty | State::Dead => true,
            State::PreparingRebalance => {
                let joined = |m: &&Member| m.join.is_some();
                self.members.iter().filter(joined).any(|m| &*m.id == member_id)
                    || self.members.iter().filter(joined).count() < self.limits.max_size
            }
            State::CompletingRebalance | State::Stable => is_member || self.members.len() < self.limits.max_size,
        }
    }

    /// Is there a protocol that everybody, old and new, supports?
    pub(super) fn supports(&self, request: &Join) -> bool {
        if self.members.is_empty() {
            return !request.protocol_type.is_empty() && !request.protocols.is_empty();
        }
        self.protocol_type.as_ref() == Some(&request.protocol_type)
            && request.protocols.iter().any(|p| self.members.iter().all(|m| m.supports(&p.name)))
    }

    /// Of the protocols that all support, the one that most members like best.
    pub(super) fn choose_protocol(&self) -> Option<Arc<str>> {
        let shared = |p: &&Protocol| self.members.iter().all(|m| m.supports(&p.name));
        let mut votes: Vec<(&Arc<str>, usize)> =
            self.members.first()?.protocols.iter().filter(shared).map(|p| (&p.name, 0)).collect();
        for member in &self.members {
            let choice = member.protocols.iter().find(shared)?;
            votes.iter_mut().find(|(name, _)| **name == choice.name)?.1 += 1;
        }
        // The first of equals: the eldest member's order decides.
        votes.iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| Arc::clone(name))
    }

    pub(super) fn rebalance_timeout_ms(&self) -> u64 {
        self.members.iter().map(|m| m.rebalance_timeout_ms).max().unwrap_or(0)
    }

    pub(super) fn position(&self, member_id: &str) -> Option<usize> {
        self.members.iter().position(|m| &*m.id == member_id)
    }

    pub(super) fn validate(&self, member_id: &str, instance_id: Option<&str>) -> Result<usize, Error> {
        if let Some(instance) = instance_id {
            let current = self.instances.get(instance).ok_or(Error::UnknownMember)?;
            if &**current != member_id {
                return Err(Error::FencedInstance);
            }
        }
        self.position(member_id).ok_or(Error::UnknownMember)
    }

    pub(super) fn validate_generation(
        &self,
        id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<usize, Error> {
        if self.state == State::Dead {
            return Err(Error::NotAvailable);
        }
        let i = self.validate(id, instance_id)?;
        if generation == self.generation { Ok(i) } else { Err(Error::IllegalGeneration) }
    }

    pub(super) fn joined(&self, member: &Member, with_members: bool) -> Joined {
        let protocol = self.protocol.clone().unwrap_or_default();
        let describe = |m: &Member| JoinedMember {
            member_id: Arc::clone(&m.id),
            instance_id: m.instance_id.clone(),
            metadata: m.metadata(&protocol),
        };
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: Arc::clone(&member.id),
            skips_assignment: false,
            members: if with_members { self.members.iter().map(describe).collect() } else { Vec::new() },
            protocol,
        }
    }

    pub(super) fn synced(&self, member: &Member) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: self.protocol.clone().unwrap_or_default(),
            assignment: member.assignment.clone(),
        }
    }
}
