//! JoinGroup: v0–9.
//!
//! Behaviour
//! * Parked until the next generation is complete; the state machine is `groups`. A client that hangs up, or a daemon
//!   that stops, ends the wait.
//! * Only the leader is told the members.
//!
//! Version notes
//! * v1: a rebalance timeout of its own; before, the session timeout counts for both.
//! * v4: a new dynamic member is told its id with MEMBER_ID_REQUIRED and joins again (KIP-394). Versions 0 and 1 are
//!   served for librdkafka, which looks for version 0, and kafka-go, which sends version 1.
//! * v5: static members (KIP-345). v8: a reason, for the log. v9: `skip_assignment` (KIP-814).

use super::{Close, Context, group_error_code};
use crate::{
    groups::{Error, Join, Joined, Protocol},
    wire::{
        ErrorCode,
        join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember},
    },
};

pub(super) async fn handle(context: &Context<'_>, request: JoinGroupRequest) -> Result<JoinGroupResponse, Close> {
    let JoinGroupRequest { group_id, member_id, session_timeout_ms, .. } = request;
    if let Some(reason) = request.reason.filter(|reason| !reason.is_empty()) {
        tracing::debug!(group = group_id, member = member_id, reason, "a member joins");
    }
    let protocol = |p: crate::wire::join_group::JoinGroupRequestProtocol| Protocol {
        name: p.name.into(),
        metadata: p.metadata,
    };
    let join = Join {
        member_id: member_id.clone(),
        requires_known_member_id: context.version >= 4 && request.group_instance_id.is_none(),
        instance_id: request.group_instance_id.map(Into::into),
        client_id: context.client_id.as_str().into(),
        client_host: context.client_host().into(),
        session_timeout_ms,
        rebalance_timeout_ms: if context.version == 0 { session_timeout_ms } else { request.rebalance_timeout_ms },
        protocol_type: request.protocol_type.into(),
        protocols: request.protocols.into_iter().map(protocol).collect(),
        can_skip_assignment: context.version >= 9,
    };
    let joined = tokio::select! {
        joined = context.broker.groups.join(&group_id, join) => joined,
        () = context.connection.stop.cancelled() => Err(Error::NotAvailable),
    };
    Ok(match joined {
        Ok(joined) => answer(joined),
        Err(error) => {
            let member_id = match &error {
                Error::MemberIdRequired(id) => id.to_string(),
                Error::GroupFull => String::new(),
                _ => member_id,
            };
            JoinGroupResponse { error_code: group_error_code(&error), member_id, ..Default::default() }
        }
    })
}

fn answer(joined: Joined) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|m| JoinGroupResponseMember {
        member_id: m.member_id.to_string(),
        group_instance_id: m.instance_id.map(|id| id.to_string()),
        metadata: m.metadata,
    });
    JoinGroupResponse {
        throttle_time_ms: 0,
        error_code: ErrorCode::NONE,
        generation_id: joined.generation,
        protocol_type: Some(joined.protocol_type.to_string()),
        protocol_name: Some(joined.protocol.to_string()),
        leader: joined.leader.to_string(),
        skip_assignment: joined.skips_assignment,
        member_id: joined.member_id.to_string(),
        members: members.collect(),
    }
}
