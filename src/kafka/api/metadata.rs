//! Metadata: v0–13.
//!
//! Behaviour
//! * One broker, which leads everything and is its own controller. It names the address the client reached, or the
//!   advertised one.
//! * A topic that is asked by name and not there is made, if the broker and the client allow it, and answered at once:
//!   one node needs no election.
//! * Bytes after the last field are skipped: librdkafka up to 2.16 asks for all topics with a 4-byte count where a
//!   varint belongs.
//!
//! Version notes
//! * v0: an empty list asks for all topics; v1: null does, empty for none. v4: the client may forbid auto-creation.
//!   v8: authorised operations, all of them without an authoriser. v10: topics by id; v12: with no name. v13: a top-level
//!   error for clients that must bootstrap again, never sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Close, Context, LEADER_EPOCH, configs::Fault, error_code};
use crate::{
    log::{Change, Error as LogError, Topic, TopicId, Topics},
    wire::{
        ErrorCode,
        metadata::{
            MetadataRequest, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
            MetadataResponseTopic,
        },
    },
};

/// What may be done with a topic: read, write, create, delete, alter, describe, and both with its settings.
pub(super) const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// What may be done with the cluster.
pub(super) const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

/// The topic in which Kafka keeps the offsets of groups.
pub(super) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Whether Kafka keeps the topic for itself: patterns of consumers leave it out, and producers may not write it.
pub(super) fn is_internal(name: &str) -> bool {
    name == OFFSETS_TOPIC || name == "__transaction_state"
}

const NO_ID: TopicId = [0; 16];

pub(super) async fn handle(context: &Context<'_>, request: MetadataRequest) -> Result<MetadataResponse, Close> {
    let broker = context.broker;
    let with_operations = request.include_topic_authorized_operations;
    let topics = context.topics();
    let mut answers = Vec::new();
    match request.topics {
        Some(asked) if !(asked.is_empty() && context.version == 0) => {
            let may_create = (context.version < 4 || request.allow_auto_topic_creation)
                && broker.settings.broker_flag("auto.create.topics.enable");
            // One answer however often a topic is named: a request of 1 MiB must not ask for gigabytes.
            let mut seen = BTreeSet::new();
            for topic in asked {
                if !seen.insert((topic.name.clone(), topic.topic_id)) {
                    continue;
                }
                answers.push(match topic.name {
                    Some(name) => match find_or_create(context, &name, may_create).await {
                        Ok(topic) => described(context, &topic),
                        Err(error_code) => MetadataResponseTopic { error_code, name: Some(name), ..Default::default() },
                    },
                    None => match topics.by_id(topic.topic_id) {
                        Some(topic) => described(context, topic),
                        None => MetadataResponseTopic {
                            error_code: if topic.topic_id == NO_ID {
                                ErrorCode::INVALID_REQUEST
                            } else {
                                ErrorCode::UNKNOWN_TOPIC_ID
                            },
                            topic_id: topic.topic_id,
                            ..Default::default()
                        },
                    },
                });
            }
        }
        _ => answers.extend(topics.by_name.values().map(|topic| described(context, topic))),
    }
    for answer in answers.iter_mut().filter(|a| with_operations && !a.error_code.is_error()) {
        answer.topic_authorized_operations = TOPIC_OPERATIONS;
    }
    let (host, port) = context.advertised();
    Ok(MetadataResponse {
        brokers: vec![MetadataResponseBroker { node_id: broker.node_id, host, port, rack: None }],
        cluster_id: Some(broker.cluster_id.clone()),
        controller_id: broker.node_id,
        topics: answers,
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
            false => i32::MIN,
        },
        ..Default::default()
    })
}

async fn find_or_create(context: &Context<'_>, name: &str, may_create: bool) -> Result<Arc<Topic>, ErrorCode> {
    if let Some(topic) = context.topics().get(name) {
        return Ok(Arc::clone(topic));
    }
    check_name(name).map_err(|_| ErrorCode::INVALID_TOPIC_EXCEPTION)?;
    if !may_create {
        return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
    match check_new_name(&context.topics(), name) {
        // A client that was faster shows in the answer to the change.
        Ok(()) | Err((ErrorCode::TOPIC_ALREADY_EXISTS, _)) => {}
        Err((code, _)) => return Err(code),
    }
    let partitions = i32::try_from(context.broker.settings.broker_number("num.partitions")).unwrap_or(1);
    let name: Arc<str> = name.into();
    check_room(&context.topics(), partitions).map_err(|(code, _)| code)?;
    let change = Change::Create { name: Arc::clone(&name), partitions, settings: BTreeMap::new() };
    match context.broker.log.change(change, Vec::new()).await {
        // Another client was faster.
        Err(LogError::TopicExists(_)) => {
            context.topics().get(&name).cloned().ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        }
        created => created.map_err(|error| error_code(&error)),
    }
}

/// Most partitions of all topics together: each costs memory, and any client may make topics.
const MOST_PARTITIONS_IN_ALL: i64 = 20_000;

/// Whether there is room for `more` partitions.
pub(super) fn check_room(topics: &Topics, more: i32) -> Result<(), Fault> {
    let now: i64 = topics.by_name.values().map(|topic| i64::from(topic.partitions)).sum();
    if now + i64::from(more) <= MOST_PARTITIONS_IN_ALL {
        return Ok(());
    }
    let message = format!("{more} more partitions than the {now} there are would be over {MOST_PARTITIONS_IN_ALL}");
    Err((ErrorCode::POLICY_VIOLATION, message))
}

/// Kafka's rules for a topic's name, but for collisions with others.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("the name is empty");
    }
    if name == "." || name == ".." {
        return Err("the name cannot be '.' or '..'");
    }
    if name.len() > 249 {
        return Err("the name is longer than 249 characters");
    }
    let is_legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if name.bytes().all(is_legal) { Ok(()) } else { Err("only letters, digits, '.', '_' and '-' are allowed") }
}

/// Whether a topic of that name may be made: metrics cannot tell `.` from `_`, so Kafka refuses a second name that
/// differs in nothing else.
pub(super) fn check_new_name(topics: &Topics, name: &str) -> Result<(), Fault> {
    let invalid = |why: String| Err((ErrorCode::INVALID_TOPIC_EXCEPTION, format!("topic '{name}': {why}")));
    if let Err(why) = check_name(name) {
        return invalid(why.to_owned());
    }
    if topics.get(name).is_some() {
        return Err((ErrorCode::TOPIC_ALREADY_EXISTS, format!("Topic '{name}' already exists.")));
    }
    let plain = |c: char| if c == '.' { '_' } else { c };
    if name.contains(['.', '_']) {
        let other = topics.by_name.keys().find(|other| other.chars().map(plain).eq(name.chars().map(plain)));
        if let Some(other) = other {
            return invalid(format!("it collides with existing topic '{other}'"));
        }
    }
    Ok(())
}

fn described(context: &Context<'_>, topic: &Topic) -> MetadataResponseTopic {
    let node_id = context.broker.node_id;
    let partitions = (0..topic.partitions).map(|partition_index| MetadataResponsePartition {
        error_code: ErrorCode::NONE,
        partition_index,
        leader_id: node_id,
        leader_epoch: LEADER_EPOCH,
        replica_nodes: vec![node_id],
        isr_nodes: vec![node_id],
        offline_replicas: Vec::new(),
    });
    MetadataResponseTopic {
        name: Some(topic.name.to_string()),
        topic_id: topic.id,
        is_internal: is_internal(&topic.name),
        partitions: partitions.collect(),
        ..Default::default()
    }
}
