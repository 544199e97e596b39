//! The target's side: which topics are there, who leads their partitions, and making what is missing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::super::client::{Client, Error};
use crate::wire::{
    ErrorCode,
    create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic},
    create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest},
    metadata::{MetadataResponse, MetadataResponseTopic},
};

/// Topics made or asked for in one request.
const AT_ONCE: usize = 200;
/// How long a new topic may take until it has leaders, in looks of 100 ms.
const LOOKS: u32 = 50;

/// A topic that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) partitions: i32,
    /// Settings given to a topic that is made.
    pub(super) settings: BTreeMap<String, String>,
}

/// What the target looks like.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) cluster: Arc<str>,
    pub(super) topics: HashMap<String, Result<TopicView, ErrorCode>>,
}

/// One topic.
#[derive(Clone, Debug, Default)]
pub(super) struct TopicView {
    pub(super) id: [u8; 16],
    /// Leader and its epoch by partition.
    pub(super) leaders: HashMap<i32, (i32, i32)>,
}

/// Looks at the wanted topics; makes the missing ones and missing partitions if `create` gives a replication factor.
pub(super) async fn survey(
    client: &Client,
    wanted: &BTreeMap<String, Wanted>,
    create: Option<i16>,
) -> Result<View, Error> {
    let mut view = View::default();
    let names: Vec<&String> = wanted.keys().collect();
    if names.is_empty() {
        view.cluster = cluster(&client.metadata(Some(&[])).await?);
    }
    for some in names.chunks(AT_ONCE) {
        let some: Vec<String> = some.iter().map(|n| (*n).clone()).collect();
        let mut metadata = client.metadata(Some(&some)).await?;
        let mut refused = HashMap::new();
        if let Some(replication) = create {
            let missing = missing(&metadata, &some);
            if !missing.is_empty() {
                refused.extend(create_topics(client, &missing, wanted, replication).await?);
            }
            let small = too_small(&metadata, wanted);
            if !small.is_empty() {
                refused.extend(grow(client, &small, wanted).await?);
            }
            let mut looks = 0;
            // A topic that was just made takes a moment to get its leaders.
            while (!missing.is_empty() || !small.is_empty()) && looks < LOOKS {
                metadata = client.metadata(Some(&some)).await?;
                let waits = |t: &&MetadataResponseTopic| {
                    t.name.as_ref().is_some_and(|n| !refused.contains_key(n) && !is_complete(t, wanted))
                };
                if !metadata.topics.iter().any(|t| waits(&t)) {
                    break;
                }
                looks += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        view.cluster = cluster(&metadata);
        for topic in metadata.topics {
            let Some(name) = topic.name.clone() else { continue };
            let seen = if topic.error_code.is_error() && topic.error_code != ErrorCode::LEADER_NOT_AVAILABLE {
                Err(refused.get(&name).copied().unwrap_or(topic.error_code))
            } else {
                Ok(leaders(&topic))
            };
            view.topics.insert(name, seen);
        }
    }
    Ok(view)
}

fn cluster(metadata: &MetadataResponse) -> Arc<str> {
    metadata.cluster_id.clone().unwrap_or_default().into()
}

fn leaders(topic: &MetadataResponseTopic) -> TopicView {
    let led = topic.partitions.iter().filter(|p| p.leader_id >= 0);
    let leaders = led.map(|p| (p.partition_index, (p.leader_id, p.leader_epoch))).collect();
    TopicView { id: topic.topic_id, leaders }
}

fn is_complete(topic: &MetadataResponseTopic, wanted: &BTreeMap<String, Wanted>) -> bool {
    let partitions = topic.name.as_ref().and_then(|n| wanted.get(n)).map_or(0, |w| w.partitions);
    let led = topic.partitions.iter().filter(|p| p.leader_id >= 0).count();
    !topic.error_code.is_error() && led >= usize::try_from(partitions).unwrap_or(0)
}

fn missing(metadata: &MetadataResponse, names: &[String]) -> Vec<String> {
    let is_missing = |name: &&String| {
        let found = metadata.topics.iter().find(|t| t.name.as_ref() == Some(name));
        found.is_none_or(|t| t.error_code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    };
    names.iter().filter(is_missing).cloned().collect()
}

fn too_small(metadata: &MetadataResponse, wanted: &BTreeMap<String, Wanted>) -> Vec<String> {
    let is_small = |t: &&MetadataResponseTopic| {
        let want = t.name.as_ref().and_then(|n| wanted.get(n)).map_or(0, |w| w.partitions);
        !t.error_code.is_error() && t.partitions.len() < usize::try_from(want).unwrap_or(0)
    };
    metadata.topics.iter().filter(is_small).filter_map(|t| t.name.clone()).collect()
}

async fn create_topics(
    client: &Client,
    names: &[String],
    wanted: &BTreeMap<String, Wanted>,
    replication_factor: i16,
) -> Result<HashMap<String, ErrorCode>, Error> {
    let topic = |name: &String| {
        let wanted = wanted.get(name)?;
        let setting =
            |(name, value): (&String, &String)| CreatableTopicConfig { name: name.clone(), value: Some(value.clone()) };
        Some(CreatableTopic {
            name: name.clone(),
            num_partitions: wanted.partitions,
            replication_factor,
            assignments: Vec::new(),
            configs: wanted.settings.iter().map(setting).collect(),
        })
    };
    let topics = names.iter().filter_map(topic).collect();
    let request = CreateTopicsRequest { topics, timeout_ms: 30_000, validate_only: false };
    let response = client.call_controller(&request).await?;
    let mut refused = HashMap::new();
    for topic in response.topics {
        match topic.error_code {
            ErrorCode::NONE => tracing::info!(topic = topic.name, "made the topic at the target"),
            ErrorCode::TOPIC_ALREADY_EXISTS => {}
            code => {
                let why = topic.error_message.unwrap_or_default();
                tracing::warn!(topic = topic.name, error = %code, "cannot make the topic at the target: {why}");
                refused.insert(topic.name, code);
            }
        }
    }
    Ok(refused)
}

async fn grow(
    client: &Client,
    names: &[String],
    wanted: &BTreeMap<String, Wanted>,
) -> Result<HashMap<String, ErrorCode>, Error> {
    let topic = |name: &String| {
        let count = wanted.get(name)?.partitions;
        Some(CreatePartitionsTopic { name: name.clone(), count, assignments: None })
    };
    let topics = names.iter().filter_map(topic).collect();
    let request = CreatePartitionsRequest { topics, timeout_ms: 30_000, validate_only: false };
    let response = client.call_controller(&request).await?;
    let refused = response.results.into_iter().filter(|t| t.error_code.is_error());
    Ok(refused
        .map(|t| {
            let why = t.error_message.unwrap_or_default();
            tracing::warn!(topic = t.name, error = %t.error_code, "cannot add partitions at the target: {why}");
            (t.name, t.error_code)
        })
        .collect())
}
