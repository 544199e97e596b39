//! The broker a command talks to: metadata kept, requests sent where they are answered, offsets looked up.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};

use super::args;
use crate::{
    mirror::client::{self, Client, Endpoint, Options, Security},
    wire::{
        ErrorCode, Request, Uuid,
        list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
        metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse},
        offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup},
    },
};

/// How often a fresh topic is asked for until it has a leader, and a group until its coordinator is ready.
const ATTEMPTS: u32 = 150;
const RETRY: std::time::Duration = std::time::Duration::from_millis(100);

/// A partition of a topic by name.
pub(super) type Key = (String, i32);

/// A client with the metadata of what was asked for so far.
pub(super) struct Connected {
    client: Client,
    known: BTreeMap<String, Topic>,
    /// Groups whose coordinator has answered.
    settled: BTreeSet<String>,
}

struct Topic {
    id: Uuid,
    leaders: BTreeMap<i32, i32>,
}

/// Connects to the broker of the options.
pub(super) async fn connect(broker: &args::Broker) -> anyhow::Result<Connected> {
    let servers = broker.bootstrap_server.split(',').map(str::parse::<Endpoint>);
    let servers = servers.collect::<Result<Vec<_>, _>>().map_err(|e| anyhow::anyhow!("--bootstrap-server: {e}"))?;
    let client = Client::new(servers, Security::default(), Options::default());
    // Asks at once, so that a wrong address is said as such and not as a failure of the command.
    let mut connected = Connected { client, known: BTreeMap::new(), settled: BTreeSet::new() };
    connected
        .client
        .any()
        .await
        .with_context(|| format!("no broker answers at {}; is it running? (brooklet run)", broker.bootstrap_server))?;
    connected.known.clear();
    Ok(connected)
}

impl Connected {
    /// Sends to any broker.
    pub(super) async fn any<R: Request>(&self, request: &R) -> anyhow::Result<R::Response> {
        Ok(self.client.call(request).await?)
    }

    /// Sends to the broker that changes topics.
    pub(super) async fn controller<R: Request>(&self, request: &R) -> anyhow::Result<R::Response> {
        Ok(self.client.call_controller(request).await?)
    }

    /// Sends to the group's coordinator.
    pub(super) async fn coordinator<R: Request>(&mut self, group: &str, request: &R) -> anyhow::Result<R::Response> {
        if !self.settled.contains(group) {
            self.settle(group).await?;
        }
        Ok(self.client.call_coordinator(group, request).await?)
    }

    /// Waits until the group's coordinator answers for it: a Kafka that has never had a group makes its offsets topic
    /// first, one that has just taken the group over reads it, and both say so by retriable errors.
    async fn settle(&mut self, group: &str) -> anyhow::Result<()> {
        for attempt in 1..=ATTEMPTS {
            let code = match self.client.call_coordinator(group, &offset_fetch(group)).await {
                Ok(answer) => answer.groups.first().map_or(answer.error_code, |g| g.error_code),
                Err(client::Error::Kafka { code, .. }) => code,
                Err(error) => return Err(error.into()),
            };
            if !code.is_retriable() {
                break;
            }
            if attempt == ATTEMPTS {
                bail!("the coordinator of group {group} does not get ready: {code}");
            }
            tokio::time::sleep(RETRY).await;
        }
        self.settled.insert(group.to_owned());
        Ok(())
    }

    /// Sends to a partition's leader.
    pub(super) async fn leader<R: Request>(
        &self,
        topic: &str,
        partition: i32,
        request: &R,
    ) -> anyhow::Result<R::Response> {
        // A leader that has moved answers so; the caller refreshes.
        match self.leader_of(topic, partition) {
            Some(node) if node >= 0 => Ok(self.client.broker(node).await?.call(request).await?),
            _ => Ok(self.client.call_leader(topic, partition, request).await?),
        }
    }

    /// Sends to every broker of the cluster.
    pub(super) async fn every<R: Request>(&self, request: &R) -> anyhow::Result<Vec<R::Response>> {
        let mut answers = Vec::new();
        for broker in self.client.metadata(Some(&[])).await?.brokers {
            answers.push(self.client.broker(broker.node_id).await?.call(request).await?);
        }
        Ok(answers)
    }

    /// Topics with their partitions; `None` asks for all. Kafka's internal ones are there only by name.
    pub(super) async fn topics(&mut self, names: Option<Vec<String>>) -> anyhow::Result<BTreeMap<String, Vec<i32>>> {
        let answer = self.client.metadata(names.as_deref()).await?;
        self.learn(&answer, names.is_some())?;
        let is_wanted = |name: &String| match &names {
            Some(names) => names.contains(name),
            None => true,
        };
        let internal: BTreeSet<_> =
            answer.topics.iter().filter(|t| t.is_internal).filter_map(|t| t.name.clone()).collect();
        let listed = self.known.iter().filter(|(n, _)| is_wanted(n) && (names.is_some() || !internal.contains(*n)));
        Ok(listed.map(|(n, t)| (n.clone(), t.leaders.keys().copied().collect())).collect())
    }

    fn learn(&mut self, answer: &MetadataResponse, must_exist: bool) -> anyhow::Result<()> {
        for topic in &answer.topics {
            let name = topic.name.clone().unwrap_or_default();
            match topic.error_code {
                ErrorCode::NONE => {}
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION if must_exist => bail!("there is no topic '{name}'"),
                code if must_exist => bail!("topic '{name}': {code}"),
                _ => continue,
            }
            let leaders = topic.partitions.iter().map(|p| (p.partition_index, p.leader_id)).collect();
            self.known.insert(name, Topic { id: topic.topic_id, leaders });
        }
        Ok(())
    }

    /// A topic's partitions.
    pub(super) async fn partitions(&mut self, topic: &str) -> anyhow::Result<Vec<i32>> {
        if !self.known.contains_key(topic) {
            self.topics(Some(vec![topic.to_owned()])).await?;
        }
        Ok(self.known.get(topic).map(|t| t.leaders.keys().copied().collect()).unwrap_or_default())
    }

    /// A topic's partitions; where the broker makes topics by itself, a missing one is made, as every producer does.
    pub(super) async fn partitions_or_create(&mut self, topic: &str) -> anyhow::Result<Vec<i32>> {
        for attempt in 0..ATTEMPTS {
            let request = MetadataRequest {
                topics: Some(vec![MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() }]),
                ..Default::default()
            };
            let answer = self.any(&request).await?;
            let code = answer.topics.first().map_or(ErrorCode::NONE, |t| t.error_code);
            // Kafka answers a few times that a fresh topic has no leader yet.
            if !code.is_retriable() || attempt + 1 == ATTEMPTS {
                self.learn(&answer, true)?;
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        // Once more by the client's own call, which also learns where the brokers are.
        self.known.remove(topic);
        self.partitions(topic).await
    }

    /// Asks for the topics known anew, after a leader has moved.
    pub(super) async fn refresh(&mut self) -> anyhow::Result<()> {
        let names: Vec<String> = self.known.keys().cloned().collect();
        let answer = self.client.metadata(Some(&names)).await?;
        self.learn(&answer, false)
    }

    /// The id of a topic asked for before; zeros where the broker has none.
    pub(super) fn topic_id(&self, topic: &str) -> Uuid {
        self.known.get(topic).map(|t| t.id).unwrap_or_default()
    }

    /// The leader of a partition of a topic asked for before.
    pub(super) fn leader_of(&self, topic: &str, partition: i32) -> Option<i32> {
        self.known.get(topic)?.leaders.get(&partition).copied()
    }

    /// Offsets by time: milliseconds since 1970, -1 for the end, -2 for the start.
    pub(super) async fn offsets(
        &mut self,
        topic: &str,
        partitions: &[i32],
        timestamp: i64,
    ) -> anyhow::Result<BTreeMap<i32, i64>> {
        self.partitions(topic).await?;
        let mut by_leader: BTreeMap<Option<i32>, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            by_leader.entry(self.leader_of(topic, *partition)).or_default().push(*partition);
        }
        let mut found = BTreeMap::new();
        for partitions in by_leader.into_values() {
            let wanted = partitions.iter().map(|partition_index| ListOffsetsPartition {
                partition_index: *partition_index,
                current_leader_epoch: -1,
                timestamp,
            });
            let request = ListOffsetsRequest {
                replica_id: -1,
                // As `consume` reads: what an open transaction holds up is not there yet.
                isolation_level: 1,
                topics: vec![ListOffsetsTopic { name: topic.to_owned(), partitions: wanted.collect() }],
                timeout_ms: 30_000,
            };
            let answer = self.leader(topic, partitions[0], &request).await?;
            for part in answer.topics.into_iter().flat_map(|t| t.partitions) {
                if part.error_code.is_error() {
                    bail!("offsets of {topic}-{}: {}", part.partition_index, part.error_code);
                }
                found.insert(part.partition_index, part.offset);
            }
        }
        Ok(found)
    }

    /// What a group has committed.
    pub(super) async fn committed(&mut self, group: &str) -> anyhow::Result<BTreeMap<Key, i64>> {
        let answer = self.coordinator(group, &offset_fetch(group)).await?;
        let mut found = BTreeMap::new();
        let mut note = |topic: &str, partition, offset, code: ErrorCode| {
            if !code.is_error() && offset >= 0 {
                found.insert((topic.to_owned(), partition), offset);
            }
        };
        let mut errors = vec![answer.error_code];
        for topic in &answer.topics {
            for p in &topic.partitions {
                note(&topic.name, p.partition_index, p.committed_offset, p.error_code);
            }
        }
        for answered in &answer.groups {
            errors.push(answered.error_code);
            for topic in &answered.topics {
                for p in &topic.partitions {
                    note(&topic.name, p.partition_index, p.committed_offset, p.error_code);
                }
            }
        }
        match errors.into_iter().find(|e| e.is_error()) {
            Some(code) => bail!("offsets of group {group}: {code}"),
            None => Ok(found),
        }
    }

    /// Commits offsets of a group, as a member of a generation or from outside while it has none.
    pub(super) async fn commit(
        &mut self,
        group: &str,
        offsets: &BTreeMap<Key, i64>,
        member: Option<(i32, &str)>,
    ) -> anyhow::Result<()> {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for ((topic, partition_index), committed_offset) in offsets {
            topics.entry(topic).or_default().push(OffsetCommitRequestPartition {
                partition_index: *partition_index,
                committed_offset: *committed_offset,
                committed_leader_epoch: -1,
                committed_metadata: Some(String::new()),
            });
        }
        if topics.is_empty() {
            return Ok(());
        }
        let (generation, member_id) = member.unwrap_or((-1, ""));
        let request = OffsetCommitRequest {
            group_id: group.to_owned(),
            generation_id_or_member_epoch: generation,
            member_id: member_id.to_owned(),
            group_instance_id: None,
            retention_time_ms: -1,
            topics: topics
                .into_iter()
                .map(|(name, partitions)| OffsetCommitRequestTopic { name: name.to_owned(), partitions })
                .collect(),
        };
        let answer = self.coordinator(group, &request).await?;
        let mut results = answer.topics.iter().flat_map(|t| t.partitions.iter().map(move |p| (&t.name, p)));
        match results.find(|(_, p)| p.error_code.is_error()) {
            Some((topic, p)) => {
                bail!("committing {topic}-{} of group {group}: {}", p.partition_index, p.error_code)
            }
            None => Ok(()),
        }
    }
}

/// Asks for all that a group has committed.
fn offset_fetch(group: &str) -> OffsetFetchRequest {
    OffsetFetchRequest {
        group_id: group.to_owned(),
        topics: None,
        groups: vec![OffsetFetchRequestGroup {
            group_id: group.to_owned(),
            member_id: None,
            member_epoch: -1,
            topics: None,
        }],
        require_stable: false,
    }
}
