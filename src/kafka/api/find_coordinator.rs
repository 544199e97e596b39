//! FindCoordinator: v0–6.
//!
//! Behaviour
//! * This node coordinates every group and every transaction; whether the group exists does not matter.
//! * Kafka keeps the offsets of groups in a topic, made when the first group asks. Here they lie in the log's state, and
//!   the topic is made all the same, empty: clients look for it to know that their patterns leave internal topics out.
//! * Share groups (key type 2) and key types of the future get INVALID_REQUEST, as from a broker that has none.
//!
//! Version notes
//! * v1: key types. v4: a list of keys (KIP-699).

use std::collections::BTreeMap;

use super::{
    Close, Context,
    metadata::{OFFSETS_TOPIC, check_room},
};
use crate::{
    log::{Change, Error as LogError},
    wire::{
        ErrorCode,
        find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse},
    },
};

const GROUP: i8 = 0;
/// Groups and transactions.
const KNOWN_KEY_TYPES: std::ops::RangeInclusive<i8> = GROUP..=1;

pub(super) async fn handle(
    context: &Context<'_>,
    request: FindCoordinatorRequest,
) -> Result<FindCoordinatorResponse, Close> {
    if request.key_type == GROUP {
        make_offsets_topic(context).await;
    }
    let find = |key: String| {
        if KNOWN_KEY_TYPES.contains(&request.key_type) {
            let (host, port) = context.advertised();
            return Coordinator { key, node_id: context.broker.node_id, host, port, ..Default::default() };
        }
        let error_message = Some(format!("no coordinator for keys of type {}", request.key_type));
        Coordinator { key, node_id: -1, port: -1, error_code: ErrorCode::INVALID_REQUEST, error_message, ..Default::default() }
    };
    if context.version >= 4 {
        let coordinators = request.coordinator_keys.into_iter().map(find).collect();
        return Ok(FindCoordinatorResponse { coordinators, ..Default::default() });
    }
    let Coordinator { node_id, host, port, error_code, error_message, .. } = find(request.key);
    Ok(FindCoordinatorResponse { node_id, host, port, error_code, error_message, ..Default::default() })
}

/// A log that has no room for it is no reason to refuse a group.
async fn make_offsets_topic(context: &Context<'_>) {
    let partitions = i32::try_from(context.broker.settings.broker_number("offsets.topic.num.partitions")).unwrap_or(1);
    let topics = context.topics();
    if topics.get(OFFSETS_TOPIC).is_some() || check_room(&topics, partitions).is_err() {
        return;
    }
    let settings = BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]);
    let change = Change::Create { name: OFFSETS_TOPIC.into(), partitions, settings };
    match context.broker.log.change(change, Vec::new()).await {
        // Another client was faster.
        Ok(_) | Err(LogError::TopicExists(_)) => {}
        Err(error) => tracing::debug!(%error, "the topic {OFFSETS_TOPIC} is not made"),
    }
}
