//! A member of a consumer group for one topic: joins, shares out as Kafka's range assignor does, heartbeats, leaves.
//!
//! Runs in the consumer's own loop: no task of its own, so a consumer that is stuck loses its partitions as it should.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::broker::Connected;
use crate::wire::{
    ErrorCode,
    consumer_protocol::{
        ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicPartition, decode_versioned, encode_versioned,
    },
    heartbeat::HeartbeatRequest,
    join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse},
    leave_group::{LeaveGroupRequest, MemberIdentity},
    sync_group::{SyncGroupRequest, SyncGroupRequestAssignment},
};

const SESSION_TIMEOUT_MS: i32 = 45_000;
const REBALANCE_TIMEOUT_MS: i32 = 60_000;
const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);
const PROTOCOL: &str = "range";
/// Tries to join before giving up; each waits for the others of the group.
const ATTEMPTS: u32 = 20;

/// This consumer's place in its group.
pub(super) struct Member {
    pub(super) group: String,
    pub(super) id: String,
    pub(super) generation: i32,
    /// The partitions it was given.
    pub(super) partitions: Vec<i32>,
    topic: String,
    heard: Instant,
}

impl Member {
    /// Joins and waits until partitions are given.
    pub(super) async fn join(broker: &mut Connected, group: &str, topic: &str) -> anyhow::Result<Self> {
        let mut member = Self {
            group: group.to_owned(),
            id: String::new(),
            generation: -1,
            partitions: Vec::new(),
            topic: topic.to_owned(),
            heard: Instant::now(),
        };
        member.rejoin(broker).await?;
        Ok(member)
    }

    /// Joins again, after the broker said that the group changes.
    pub(super) async fn rejoin(&mut self, broker: &mut Connected) -> anyhow::Result<()> {
        for attempt in 0..ATTEMPTS {
            match self.try_join(broker).await? {
                ErrorCode::NONE => return Ok(()),
                // KIP-394: the id comes with the refusal.
                ErrorCode::MEMBER_ID_REQUIRED | ErrorCode::REBALANCE_IN_PROGRESS => {}
                ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION => self.id.clear(),
                code if code.is_retriable() => {
                    tokio::time::sleep(Duration::from_millis(100 << attempt.min(5))).await;
                    broker.refresh().await?;
                }
                code => bail!("joining group {}: {code}", self.group),
            }
        }
        bail!("group {} did not settle", self.group)
    }

    async fn try_join(&mut self, broker: &mut Connected) -> anyhow::Result<ErrorCode> {
        let subscription = ConsumerProtocolSubscription { topics: vec![self.topic.clone()], ..Default::default() };
        let request = JoinGroupRequest {
            group_id: self.group.clone(),
            session_timeout_ms: SESSION_TIMEOUT_MS,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            member_id: self.id.clone(),
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: PROTOCOL.into(),
                metadata: encode_versioned(&subscription, 0),
            }],
            ..Default::default()
        };
        let joined = broker.coordinator(&self.group, &request).await?;
        if !joined.member_id.is_empty() {
            self.id.clone_from(&joined.member_id);
        }
        if joined.error_code.is_error() {
            return Ok(joined.error_code);
        }
        self.generation = joined.generation_id;
        let assignments = if joined.leader == self.id { self.share_out(broker, &joined).await? } else { Vec::new() };
        let request = SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some(PROTOCOL.into()),
            assignments,
            ..Default::default()
        };
        let synced = broker.coordinator(&self.group, &request).await?;
        if synced.error_code.is_error() {
            return Ok(synced.error_code);
        }
        self.partitions = Vec::new();
        if !synced.assignment.is_empty() {
            let given: ConsumerProtocolAssignment =
                decode_versioned(synced.assignment).context("an assignment that cannot be read")?;
            let mine = given.assigned_partitions.into_iter().filter(|t| t.topic == self.topic);
            self.partitions = mine.flat_map(|t| t.partitions).collect();
        }
        self.heard = Instant::now();
        Ok(ErrorCode::NONE)
    }

    /// Range: members in order of their ids, each a run of partitions, the first ones one more.
    async fn share_out(
        &self,
        broker: &mut Connected,
        joined: &JoinGroupResponse,
    ) -> anyhow::Result<Vec<SyncGroupRequestAssignment>> {
        let mut topics: std::collections::BTreeMap<String, Vec<String>> = Default::default();
        for member in &joined.members {
            let wants: ConsumerProtocolSubscription =
                decode_versioned(member.metadata.clone()).context("a subscription that cannot be read")?;
            for topic in wants.topics {
                topics.entry(topic).or_default().push(member.member_id.clone());
            }
        }
        let mut given: std::collections::BTreeMap<String, Vec<TopicPartition>> =
            joined.members.iter().map(|m| (m.member_id.clone(), Vec::new())).collect();
        for (topic, mut members) in topics {
            members.sort();
            let partitions = broker.partitions(&topic).await.unwrap_or_default();
            let (each, more) = (partitions.len() / members.len(), partitions.len() % members.len());
            let mut at = 0;
            for (i, member) in members.iter().enumerate() {
                let end = at + each + usize::from(i < more);
                if end > at
                    && let Some(list) = given.get_mut(member)
                {
                    list.push(TopicPartition { topic: topic.clone(), partitions: partitions[at..end].to_vec() });
                }
                at = end;
            }
        }
        let encode = |(member_id, assigned_partitions)| SyncGroupRequestAssignment {
            member_id,
            assignment: encode_versioned(&ConsumerProtocolAssignment { assigned_partitions, user_data: None }, 0),
        };
        Ok(given.into_iter().map(encode).collect())
    }

    /// Says that it is still there, when it is time to. True: the group changes, join again.
    pub(super) async fn heartbeat(&mut self, broker: &mut Connected) -> anyhow::Result<bool> {
        if self.heard.elapsed() < HEARTBEAT_EVERY {
            return Ok(false);
        }
        self.heard = Instant::now();
        let request = HeartbeatRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            group_instance_id: None,
        };
        match broker.coordinator(&self.group, &request).await?.error_code {
            ErrorCode::NONE => Ok(false),
            ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION | ErrorCode::UNKNOWN_MEMBER_ID => Ok(true),
            code if code.is_retriable() => Ok(false),
            code => bail!("group {}: {code}", self.group),
        }
    }

    /// Leaves, so that the others need not wait for the session to end.
    pub(super) async fn leave(self, broker: &mut Connected) -> anyhow::Result<()> {
        let identity = MemberIdentity { member_id: self.id.clone(), ..Default::default() };
        let request = LeaveGroupRequest { group_id: self.group.clone(), member_id: self.id, members: vec![identity] };
        broker.coordinator(&self.group, &request).await?;
        Ok(())
    }
}
