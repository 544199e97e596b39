//! What a link writes into the log about itself, and what it shows.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;

use super::{
    super::delivery::Now,
    Event, LaneId, Link,
    lane::{self, Lane},
};
use crate::{
    groups::offsets,
    log::{self, Urgency, Write},
    record::{Offset, Partition},
};

const FLUSH_BYTES: u64 = 1 << 20;
/// The figures are shown this often while something happens.
const PUBLISH_MS: u64 = 250;

impl Link {
    /// One commit with what must be durable before use and, riding along, all hints.
    pub(super) fn write(&mut self, now: Now, deadline_ms: &mut u64) {
        let Some(due_ms) = self.write_ms else { return };
        if self.writing {
            return;
        }
        if now.mono_ms < due_ms && self.acked_bytes < FLUSH_BYTES {
            *deadline_ms = (*deadline_ms).min(due_ms);
            return;
        }
        let positions = self.positions_to_write();
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
            Event::Written(persisted, positions, log.commit(write).await.map(drop))
        }));
    }

    /// How far the lanes are whose hints are about to be written.
    fn positions_to_write(&self) -> Vec<(Partition, Offset)> {
        let moved = self.lanes.values().filter(|lane| lane.dirty || lane.persist);
        moved.map(|lane| (lane.source.clone(), lane.delivery.acked())).collect()
    }

    /// Tells the log what this link wants and, as far as it is written, what it has.
    pub(in crate::mirror) fn protect(&self) -> Result<(), log::Error> {
        let policy = Arc::clone(&self.policy);
        self.log.protect(&self.name, move |topic| policy.target(topic).is_some());
        let topics = Arc::clone(&self.log.topics().borrow());
        for topic in topics.by_name.values().filter(|topic| self.policy.target(&topic.name).is_some()) {
            for index in 0..topic.partitions {
                let source = Partition::new(Arc::clone(&topic.name), index);
                if let Some((_, record)) = lane::saved(&self.log, &self.name, &source, topic.id)? {
                    self.log.set_mirrored(&self.name, &source, record.acked);
                }
            }
        }
        Ok(())
    }

    pub(super) fn state_to_write(&mut self, now: Now) -> (Vec<log::StateWrite>, Vec<LaneId>) {
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

    /// The last hints, so that the next start has little to ask.
    pub(super) async fn finish(&mut self) {
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
        // A half-made connection holds the client's lock and is polled by nobody any more.
        self.tasks.clear();
        if let Some(client) = &self.client {
            client.close().await;
        }
        self.status.lock().unwrap_or_else(PoisonError::into_inner).state = "stopped".into();
    }

    /// Shows how far it is, a few times a second while something happens; when it must be shown again.
    pub(super) fn publish(&mut self, deadline_ms: u64) -> u64 {
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
