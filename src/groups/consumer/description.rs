//! A group of the consumer protocol in words, for the tools.

use std::{collections::BTreeMap, sync::Arc};

use super::{ConsumerGroup, member::Member};
use crate::log::TopicId;

/// All about one group of the consumer protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerDescription {
    /// Where it stands, by Kafka's name.
    pub state: &'static str,
    /// Its epoch: grows with each change of members, of what they want, and of the topics.
    pub epoch: i32,
    /// The epoch of the members' targets.
    pub target_epoch: i32,
    /// Name of the assignor in force.
    pub assignor: &'static str,
    /// Its members.
    pub members: Vec<ConsumerMemberDescription>,
}

/// Partitions by the id of their topic.
pub type Share = BTreeMap<TopicId, Vec<i32>>;

/// All about one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerMemberDescription {
    /// Its id.
    pub member_id: Arc<str>,
    /// Its name as a static member.
    pub instance_id: Option<Arc<str>>,
    /// Where it stands.
    pub rack_id: Option<Arc<str>>,
    /// The epoch it is in.
    pub epoch: i32,
    /// The client's own name.
    pub client_id: Arc<str>,
    /// Where it connects from.
    pub client_host: Arc<str>,
    /// The topics it wants by name.
    pub topic_names: Vec<Arc<str>>,
    /// The topics it wants by pattern.
    pub topic_pattern: Option<Arc<str>>,
    /// What it may read.
    pub assigned: Share,
    /// What it is meant to have.
    pub target: Share,
    /// It speaks the classic protocol.
    pub is_classic: bool,
}

impl ConsumerGroup {
    pub(in crate::groups) fn describe(&self) -> ConsumerDescription {
        ConsumerDescription {
            state: self.state().name(),
            epoch: self.epoch,
            target_epoch: self.target_epoch,
            assignor: self.assignor().name(),
            members: self.members.values().map(describe).collect(),
        }
    }
}

fn describe(m: &Member) -> ConsumerMemberDescription {
    ConsumerMemberDescription {
        member_id: Arc::clone(&m.id),
        instance_id: m.instance_id.clone(),
        rack_id: m.rack_id.clone(),
        epoch: m.epoch,
        client_id: Arc::clone(&m.client_id),
        client_host: Arc::clone(&m.client_host),
        topic_names: m.subscription.names.iter().cloned().collect(),
        topic_pattern: m.subscription.pattern.as_ref().map(|pattern| Arc::clone(&pattern.text)),
        assigned: by_topic(m.assigned.keys()),
        target: by_topic(&m.target),
        is_classic: m.classic.is_some(),
    }
}

fn by_topic<'a>(partitions: impl IntoIterator<Item = &'a (TopicId, i32)>) -> Share {
    let mut share = Share::new();
    for (topic, index) in partitions {
        share.entry(*topic).or_default().push(*index);
    }
    share
}
