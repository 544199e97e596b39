//! A classic group that goes on where one of the consumer protocol ended.

use std::sync::Arc;

use super::{
    super::member::{Answer, Member, Uptime},
    Group, Limits, State,
};

impl Group {
    /// One of these members, of whom each has its share, in this generation. They are to join anew.
    pub(in crate::groups) fn resumed(
        limits: Limits,
        now: Uptime,
        generation: i32,
        members: Vec<Member>,
        out: &mut Vec<Answer>,
    ) -> Self {
        let mut group = Self::after(limits, generation);
        group.protocol_type = Some("consumer".into());
        group.leader = members.first().map(|m| Arc::clone(&m.id));
        let named = members.iter().filter_map(|m| Some((Arc::clone(m.instance_id.as_ref()?), Arc::clone(&m.id))));
        group.instances = named.collect();
        group.members = members;
        group.protocol = group.choose_protocol();
        group.state = State::Stable;
        group.rebalance(now, out);
        group
    }
}
