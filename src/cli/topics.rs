//! `brooklet topics`: list, create, describe, alter and delete, against any Kafka.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{args::TopicsCommand, broker::Connected, print, table::Table};
use crate::wire::{
    create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic},
    create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest},
    delete_topics::{DeleteTopicState, DeleteTopicsRequest},
    describe_configs::{DescribeConfigsRequest, DescribeConfigsResource},
    incremental_alter_configs::{AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest},
};

/// How long the broker may take over a change.
const TIMEOUT_MS: i32 = 30_000;
/// Kafka's number for a topic in DescribeConfigs and AlterConfigs.
const TOPIC: i8 = 2;
/// Source of a setting that was set on the topic itself.
const DYNAMIC_TOPIC_CONFIG: i8 = 1;

/// Runs one of the subcommands.
pub(super) async fn topics(mut broker: Connected, command: TopicsCommand) -> anyhow::Result<()> {
    match command {
        TopicsCommand::List { json } => {
            let names: Vec<String> = broker.topics(None).await?.into_keys().collect();
            if json {
                return print(&(serde_json::to_string(&names)? + "\n"));
            }
            print(&names.iter().map(|n| format!("{n}\n")).collect::<String>())
        }
        TopicsCommand::Create { topics, partitions, config, if_not_exists } => {
            create(&mut broker, &topics, partitions, &config, if_not_exists).await
        }
        TopicsCommand::Describe { topics, json } => describe(&mut broker, topics, json).await,
        TopicsCommand::Alter { topic, partitions, config, delete_config } => {
            alter(&mut broker, &topic, partitions, &config, &delete_config).await
        }
        TopicsCommand::Delete { topics, if_exists } => delete(&mut broker, &topics, if_exists).await,
    }
}

/// `key=value`, both as they stand.
pub(super) fn key_value(text: &str) -> anyhow::Result<(String, String)> {
    let (key, value) = text.split_once('=').with_context(|| format!("'{text}': expected KEY=VALUE"))?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

async fn create(
    broker: &mut Connected,
    topics: &[String],
    partitions: Option<i32>,
    config: &[String],
    if_not_exists: bool,
) -> anyhow::Result<()> {
    let configs: Vec<(String, String)> = config.iter().map(|c| key_value(c)).collect::<Result<_, _>>()?;
    let existing = if if_not_exists { broker.topics(None).await?.into_keys().collect() } else { BTreeSet::new() };
    let wanted = topics.iter().filter(|t| !existing.contains(*t));
    let topics: Vec<CreatableTopic> = wanted
        .map(|name| CreatableTopic {
            name: name.clone(),
            num_partitions: partitions.unwrap_or(-1),
            replication_factor: -1,
            assignments: Vec::new(),
            configs: configs
                .iter()
                .map(|(name, value)| CreatableTopicConfig { name: name.clone(), value: Some(value.clone()) })
                .collect(),
        })
        .collect();
    if topics.is_empty() {
        return Ok(());
    }
    let request = CreateTopicsRequest { topics, timeout_ms: TIMEOUT_MS, validate_only: false };
    let answer = broker.controller(&request).await?;
    let results = answer.topics.iter().map(|t| (t.name.as_str(), t.error_code, t.error_message.as_deref()));
    report(results, "created topic")
}

async fn delete(broker: &mut Connected, topics: &[String], if_exists: bool) -> anyhow::Result<()> {
    let mut topics = topics.to_vec();
    if if_exists {
        let existing = broker.topics(None).await?;
        topics.retain(|t| existing.contains_key(t));
        if topics.is_empty() {
            return Ok(());
        }
    }
    let request = DeleteTopicsRequest {
        topics: topics
            .iter()
            .map(|name| DeleteTopicState { name: Some(name.clone()), topic_id: Default::default() })
            .collect(),
        topic_names: topics.clone(),
        timeout_ms: TIMEOUT_MS,
    };
    let answer = broker.controller(&request).await?;
    let results = answer
        .responses
        .iter()
        .map(|t| (t.name.as_deref().unwrap_or_default(), t.error_code, t.error_message.as_deref()));
    report(results, "deleted topic")
}

async fn alter(
    broker: &mut Connected,
    topic: &str,
    partitions: Option<i32>,
    config: &[String],
    delete_config: &[String],
) -> anyhow::Result<()> {
    if partitions.is_none() && config.is_empty() && delete_config.is_empty() {
        bail!("nothing to change: give --partitions, --config or --delete-config");
    }
    if let Some(count) = partitions {
        let topics = vec![CreatePartitionsTopic { name: topic.to_owned(), count, assignments: None }];
        let request = CreatePartitionsRequest { topics, timeout_ms: TIMEOUT_MS, validate_only: false };
        let answer = broker.controller(&request).await?;
        let results = answer.results.iter().map(|t| (t.name.as_str(), t.error_code, t.error_message.as_deref()));
        report(results, "added partitions to")?;
    }
    let mut configs = Vec::new();
    for text in config {
        let (name, value) = key_value(text)?;
        configs.push(AlterableConfig { name, config_operation: 0, value: Some(value) });
    }
    for name in delete_config {
        configs.push(AlterableConfig { name: name.clone(), config_operation: 1, value: None });
    }
    if configs.is_empty() {
        return Ok(());
    }
    let resource = AlterConfigsResource { resource_type: TOPIC, resource_name: topic.to_owned(), configs };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let answer = broker.controller(&request).await?;
    let results = answer.responses.iter().map(|r| (r.resource_name.as_str(), r.error_code, r.error_message.as_deref()));
    report(results, "altered topic")
}

/// Prints what worked; fails with what did not.
fn report<'a>(
    results: impl Iterator<Item = (&'a str, crate::wire::ErrorCode, Option<&'a str>)>,
    done: &str,
) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for (name, code, message) in results {
        if code.is_error() {
            failed.push(message.map_or_else(|| format!("{name}: {code}"), |m| format!("{name}: {m} ({code})")));
        } else {
            print(&format!("{done} {name}\n"))?;
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

async fn describe(broker: &mut Connected, topics: Vec<String>, json: bool) -> anyhow::Result<()> {
    let found = broker.topics((!topics.is_empty()).then_some(topics)).await?;
    let settings = settings(broker, found.keys()).await?;
    let mut partitions = Table::new(&["TOPIC", "PARTITION", "LEADER", "START", "END", "RECORDS"]);
    let mut documents = Vec::new();
    for (name, indexes) in &found {
        let starts = broker.offsets(name, indexes, -2).await?;
        let ends = broker.offsets(name, indexes, -1).await?;
        let mut rows = Vec::new();
        for index in indexes {
            let (start, end) = (starts.get(index).copied().unwrap_or(-1), ends.get(index).copied().unwrap_or(-1));
            let leader = broker.leader_of(name, *index).map_or_else(|| "-".into(), |l| l.to_string());
            rows.push(json!({ "partition": index, "start": start, "end": end }));
            let numbers = [start, end, end.saturating_sub(start)].map(|n| n.to_string());
            partitions.row([name.clone(), index.to_string(), leader].into_iter().chain(numbers));
        }
        let own = settings.get(name).cloned().unwrap_or_default();
        documents.push(json!({ "topic": name, "partitions": rows, "settings": own }));
    }
    if json {
        return print(&(serde_json::to_string(&documents)? + "\n"));
    }
    let mut out = partitions.text();
    for (name, own) in settings.iter().filter(|(_, own)| !own.is_empty()) {
        let list: Vec<String> = own.iter().map(|(k, v)| format!("{k}={v}")).collect();
        out.push_str(&format!("\n{name} has its own settings: {}\n", list.join(", ")));
    }
    print(&out)
}

/// Settings that topics have of their own.
async fn settings<'a>(
    broker: &mut Connected,
    topics: impl Iterator<Item = &'a String>,
) -> anyhow::Result<BTreeMap<String, BTreeMap<String, String>>> {
    let resources: Vec<DescribeConfigsResource> = topics
        .map(|name| DescribeConfigsResource {
            resource_type: TOPIC,
            resource_name: name.clone(),
            configuration_keys: None,
        })
        .collect();
    if resources.is_empty() {
        return Ok(BTreeMap::new());
    }
    let request = DescribeConfigsRequest { resources, include_synonyms: false, include_documentation: false };
    let answer = broker.any(&request).await?;
    let own = |result: &crate::wire::describe_configs::DescribeConfigsResult| {
        let set = result.configs.iter().filter(|c| c.config_source == DYNAMIC_TOPIC_CONFIG);
        set.map(|c| (c.name.clone(), c.value.clone().unwrap_or_default())).collect()
    };
    Ok(answer.results.iter().map(|r| (r.resource_name.clone(), own(r))).collect())
}
