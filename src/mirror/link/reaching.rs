//! Finding the target, keeping a connection to each leader that is needed, and coming back after a failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    super::{
        client::{self, Connection},
        config::Policy,
        delivery::{Now, Target},
    },
    BLOCKED_MS, Event, LOOK_MS, Link, Node,
    target::{View, Wanted, survey},
};
use crate::log;

/// Shortest and longest wait before the target is tried again; the longest when the sign-in failed.
pub(super) const RETRY_MS: (u64, u64, u64) = (500, 30_000, 900_000);
/// A partition without a leader is looked at again after this.
const LEADERLESS_MS: u64 = 1_500;

impl Link {
    /// Opens connections to the leaders that are needed, and lets lanes know of those that are open.
    pub(super) fn connect(&mut self, wanted: &BTreeSet<i32>, now: Now, deadline_ms: &mut u64) {
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

    pub(super) fn look_at_target(&mut self, now: Now, deadline_ms: &mut u64) {
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

    pub(super) fn looked(&mut self, result: Result<View, client::Error>, now: Now) {
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
        // A topic without a leader gets one within seconds; one that is refused needs a hand.
        let mut again_ms = LOOK_MS;
        for lane in self.lanes.values_mut() {
            let topic = match view.topics.get(&*lane.target) {
                Some(Ok(topic)) => topic,
                Some(Err(code)) => {
                    lane.error = Some(format!("topic '{}' at the target: {code}", lane.target));
                    again_ms = again_ms.min(BLOCKED_MS);
                    continue;
                }
                None => {
                    again_ms = again_ms.min(BLOCKED_MS);
                    continue;
                }
            };
            let leader = topic.leaders.get(&lane.source.index).copied();
            if leader.is_none() {
                again_ms = LEADERLESS_MS;
            }
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
        self.look_ms = now.mono_ms + again_ms;
        let nodes: Vec<i32> = self.nodes.iter().filter(|(_, n)| n.connection.is_some()).map(|(id, _)| *id).collect();
        for node in nodes {
            self.attach(node);
        }
    }

    pub(super) fn connected(&mut self, node_id: i32, result: Result<Connection, client::Error>, now: Now) {
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
    pub(super) fn attach(&mut self, node_id: i32) {
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

    pub(super) fn closed(&mut self, node_id: i32, session: u64, now: Now) {
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

    pub(super) fn back_off(&mut self, error: &client::Error, now: Now) {
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
}

/// Settings of a source topic that its copy needs. Retention is the centre's own business.
fn target_settings(topic: &log::Topic) -> BTreeMap<String, String> {
    let needed = ["cleanup.policy", "max.message.bytes"];
    let of_topic = topic.settings.iter().filter(|(k, _)| needed.contains(&k.as_str()));
    of_topic.map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// `wait` ± 25 %, so that devices that lost the target together do not return together.
fn jitter(wait_ms: u64) -> u64 {
    let mut byte = [0u8];
    let _filled = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    wait_ms * (192 + u64::from(byte[0]) / 2) / 256
}
