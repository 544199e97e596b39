//! CreatePartitions: v0–3.
//!
//! Behaviour
//! * The number only grows. Every topic of the request is in the answer, because clients look each of them up.
//!
//! Version notes
//! * v2: flexible. v3: throttling quotas, which are not there.

use std::{collections::BTreeMap, sync::Arc};

use super::{Close, Context, configs::Fault, create_topics::MOST_PARTITIONS, error_code, metadata::check_room};
use crate::{
    log::Change,
    wire::{
        ErrorCode,
        create_partitions::{
            CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
        },
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: CreatePartitionsRequest,
) -> Result<CreatePartitionsResponse, Close> {
    let mut response = CreatePartitionsResponse::default();
    let mut times_named: BTreeMap<&str, usize> = BTreeMap::new();
    for asked in &request.topics {
        *times_named.entry(&asked.name).or_default() += 1;
    }
    for asked in &request.topics {
        let grown = if times_named[&*asked.name] > 1 {
            Err((ErrorCode::INVALID_REQUEST, "the topic is named twice".into()))
        } else {
            grow(context, asked, request.validate_only).await
        };
        let (error_code, error_message) = match grown {
            Ok(()) => (ErrorCode::NONE, None),
            Err((code, message)) => (code, Some(message)),
        };
        response.results.push(CreatePartitionsTopicResult { name: asked.name.clone(), error_code, error_message });
    }
    Ok(response)
}

async fn grow(context: &Context<'_>, asked: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Fault> {
    let topics = context.topics();
    let topic = topics
        .get(&asked.name)
        .ok_or_else(|| (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("no topic '{}'", asked.name)))?;
    let (now, wanted) = (topic.partitions, asked.count);
    let invalid = |message| Err((ErrorCode::INVALID_PARTITIONS, message));
    if wanted == now {
        return invalid(format!("Topic already has {now} partition(s)."));
    }
    if wanted < now {
        return invalid(format!("The topic {} currently has {now} partition(s); {wanted} would not be an increase.", asked.name));
    }
    if wanted > MOST_PARTITIONS {
        return invalid(format!("Number of partitions must be at most {MOST_PARTITIONS}."));
    }
    check_room(&topics, wanted - now)?;
    if let Some(assignments) = &asked.assignments {
        let here = [context.broker.node_id];
        let new = usize::try_from(wanted - now).unwrap_or(0);
        if assignments.len() != new || assignments.iter().any(|a| a.broker_ids != here) {
            let message = format!("Each of the {new} new partitions must be assigned to broker {}, the only one.", here[0]);
            return Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
        }
    }
    if validate_only {
        return Ok(());
    }
    let change = Change::Grow { name: Arc::clone(&topic.name), partitions: wanted };
    let grown = context.broker.log.change(change, Vec::new()).await;
    grown.map(|_| ()).map_err(|error| (error_code(&error), error.to_string()))
}
