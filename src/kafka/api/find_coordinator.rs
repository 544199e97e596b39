//! FindCoordinator: v0–6.
//!
//! Behaviour
//! * This node coordinates every group and every transaction; whether the group exists does not matter.
//! * Share groups (key type 2) and key types of the future get INVALID_REQUEST, as from a broker that has none.
//!
//! Version notes
//! * v1: key types. v4: a list of keys (KIP-699).

use super::{Close, Context};
use crate::wire::{
    ErrorCode,
    find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse},
};

/// Groups and transactions.
const KNOWN_KEY_TYPES: std::ops::RangeInclusive<i8> = 0..=1;

pub(super) async fn handle(
    context: &Context<'_>,
    request: FindCoordinatorRequest,
) -> Result<FindCoordinatorResponse, Close> {
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
