//! Heartbeat: v0–4.
//!
//! Behaviour
//! * Keeps a member's session alive; REBALANCE_IN_PROGRESS tells it to join again.
//!
//! Version notes
//! * v3: static members.

use super::{Close, Context, group_error_code};
use crate::wire::{
    ErrorCode,
    heartbeat::{HeartbeatRequest, HeartbeatResponse},
};

pub(super) async fn handle(context: &Context<'_>, request: HeartbeatRequest) -> Result<HeartbeatResponse, Close> {
    let HeartbeatRequest { group_id, generation_id, member_id, group_instance_id } = request;
    let beat = context.broker.groups.heartbeat(&group_id, &member_id, group_instance_id.as_deref(), generation_id);
    let error_code = beat.map_or_else(|error| group_error_code(&error), |()| ErrorCode::NONE);
    Ok(HeartbeatResponse { error_code, ..Default::default() })
}
