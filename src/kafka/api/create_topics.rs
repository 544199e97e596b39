//! CreateTopics: v2–7.
//!
//! Behaviour
//! * Any replication factor is taken and 1 reported: Connect, MM2 and many applications ask for 3 without a thought.
//!   An assignment must name this node and no other.
//! * Names, counts and settings are checked before anything is made; `validate_only` stops there.
//! * A topic is there, durable, when the answer leaves.
//!
//! Version notes
//! * v4: -1 partitions or replicas mean the broker's default. v5: the settings of the new topic. v7: its id.

use std::{collections::BTreeMap, sync::Arc};

use super::{Close, Context, configs::Fault, describe_configs, error_code, metadata};
use crate::{
    kafka::settings,
    log::{Change, Topic},
    wire::{
        ErrorCode,
        create_topics::{CreatableTopic, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse},
    },
};

/// Most topics of one request: each is answered with all its settings, some kilobytes for a name of a few bytes.
const MOST_TOPICS: usize = 1000;

/// Most partitions of one topic: each costs memory.
pub(super) const MOST_PARTITIONS: i32 = 10_000;

pub(super) async fn handle(context: &Context<'_>, request: CreateTopicsRequest) -> Result<CreateTopicsResponse, Close> {
    let mut response = CreateTopicsResponse::default();
    let is_too_much = request.topics.len() > MOST_TOPICS;
    for at in 0..request.topics.len() {
        let asked = &request.topics[at];
        let is_twice = !is_too_much && request.topics.iter().filter(|other| other.name == asked.name).count() > 1;
        let made = if is_too_much {
            Err((ErrorCode::POLICY_VIOLATION, format!("more than {MOST_TOPICS} topics in one request")))
        } else if is_twice {
            Err((ErrorCode::INVALID_REQUEST, format!("topic '{}' is named twice", asked.name)))
        } else {
            create(context, asked, request.validate_only).await
        };
        let mut result = CreatableTopicResult { name: asked.name.clone(), ..Default::default() };
        match made {
            Ok(topic) => {
                result.topic_id = topic.id;
                result.num_partitions = topic.partitions;
                result.replication_factor = 1;
                result.configs = Some(describe_configs::of_topic(context, &topic));
            }
            Err((code, message)) => {
                (result.error_code, result.error_message) = (code, Some(message));
                result.configs = Some(Vec::new());
            }
        }
        response.topics.push(result);
    }
    Ok(response)
}

async fn create(context: &Context<'_>, asked: &CreatableTopic, validate_only: bool) -> Result<Arc<Topic>, Fault> {
    let partitions = check(context, asked)?;
    metadata::check_room(&context.topics(), partitions)?;
    let mut topic_settings = BTreeMap::new();
    for config in &asked.configs {
        let invalid = |why| (ErrorCode::INVALID_CONFIG, why);
        let Some(value) = &config.value else {
            return Err(invalid(format!("Null value not supported for topic configs: {}", config.name)));
        };
        settings::check_topic(&config.name, value).map_err(invalid)?;
        topic_settings.insert(config.name.clone(), value.clone());
    }
    let name: Arc<str> = asked.name.as_str().into();
    if validate_only {
        return Ok(Arc::new(Topic { name, id: [0; 16], partitions, settings: topic_settings }));
    }
    let change = Change::Create { name, partitions, settings: topic_settings };
    context.broker.log.change(change, Vec::new()).await.map_err(|error| (error_code(&error), error.to_string()))
}

/// The number of partitions, if the rest is right.
fn check(context: &Context<'_>, asked: &CreatableTopic) -> Result<i32, Fault> {
    let name = &asked.name;
    metadata::check_new_name(&context.topics(), name)?;
    if asked.assignments.is_empty() {
        if asked.replication_factor == 0 || asked.replication_factor < -1 {
            let message = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err((ErrorCode::INVALID_REPLICATION_FACTOR, message.into()));
        }
        return match asked.num_partitions {
            -1 => Ok(i32::try_from(context.broker.settings.broker_number("num.partitions")).unwrap_or(1)),
            count @ 1..=MOST_PARTITIONS => Ok(count),
            _ => {
                let message = format!("Number of partitions must be 1 to {MOST_PARTITIONS}, or -1 to use the default.");
                Err((ErrorCode::INVALID_PARTITIONS, message))
            }
        };
    }
    if asked.num_partitions != -1 || asked.replication_factor != -1 {
        let message = "A manual partition assignment goes without numbers of partitions and replicas.";
        return Err((ErrorCode::INVALID_REQUEST, message.into()));
    }
    let mut indexes: Vec<_> = asked.assignments.iter().map(|a| a.partition_index).collect();
    indexes.sort_unstable();
    let count = i32::try_from(indexes.len()).unwrap_or(i32::MAX);
    let here = [context.broker.node_id];
    let is_right = count <= MOST_PARTITIONS
        && indexes.iter().copied().eq(0..count)
        && asked.assignments.iter().all(|a| a.broker_ids == here);
    if is_right {
        return Ok(count);
    }
    let message = format!("Every partition from 0 must be assigned to broker {}, the only one.", here[0]);
    Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, message))
}
