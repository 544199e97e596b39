//! SyncGroup: v0–5.
//!
//! Behaviour
//! * Parked until the leader has brought the assignment; a new rebalance, a client that hangs up, or a daemon that stops
//!   ends the wait. A member that the leader left out gets no bytes.
//!
//! Version notes
//! * v3: static members. v5: protocol type and name must be given and must be the group's (KIP-559).

use super::{Close, Context, group_error_code};
use crate::{
    groups::{Error, Sync},
    wire::{
        ErrorCode,
        sync_group::{SyncGroupRequest, SyncGroupResponse},
    },
};

pub(super) async fn handle(context: &Context<'_>, request: SyncGroupRequest) -> Result<SyncGroupResponse, Close> {
    if context.version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return Ok(SyncGroupResponse { error_code: ErrorCode::INCONSISTENT_GROUP_PROTOCOL, ..Default::default() });
    }
    let sync = Sync {
        member_id: request.member_id,
        instance_id: request.group_instance_id.map(Into::into),
        generation: request.generation_id,
        protocol_type: request.protocol_type,
        protocol: request.protocol_name,
        assignments: request.assignments.into_iter().map(|a| (a.member_id, a.assignment)).collect(),
    };
    let synced = tokio::select! {
        synced = context.broker.groups.sync(&request.group_id, sync) => synced,
        () = context.connection.stop.cancelled() => Err(Error::NotAvailable),
    };
    Ok(match synced {
        Ok(synced) => SyncGroupResponse {
            throttle_time_ms: 0,
            error_code: ErrorCode::NONE,
            protocol_type: Some(synced.protocol_type.to_string()),
            protocol_name: Some(synced.protocol.to_string()),
            assignment: synced.assignment,
        },
        Err(error) => SyncGroupResponse { error_code: group_error_code(&error), ..Default::default() },
    })
}
