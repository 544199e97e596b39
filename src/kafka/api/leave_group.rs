//! LeaveGroup: v0–5.
//!
//! Behaviour
//! * Takes members out at once, and the rest rebalances. An unknown member is an error, but nothing else changes.
//!
//! Version notes
//! * v0–2: one member, whose error is the response's. v3: a list, in which a static member may be named by its instance
//!   id alone, as administrators do. v5: a reason, for the log (KIP-800).

use super::{Close, Context, group_error_code};
use crate::{
    groups::{Error, Leaver},
    wire::{
        ErrorCode,
        leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse},
    },
};

pub(super) async fn handle(context: &Context<'_>, request: LeaveGroupRequest) -> Result<LeaveGroupResponse, Close> {
    let has_list = context.version >= 3;
    let members = if has_list {
        request.members
    } else {
        vec![MemberIdentity { member_id: request.member_id, ..Default::default() }]
    };
    for MemberIdentity { member_id, reason, .. } in &members {
        if let Some(reason) = reason.as_ref().filter(|reason| !reason.is_empty()) {
            tracing::debug!(group = request.group_id, member = member_id, reason, "a member leaves");
        }
    }
    let leaver = |m: &MemberIdentity| Leaver {
        member_id: m.member_id.clone(),
        instance_id: m.group_instance_id.as_deref().map(Into::into),
    };
    let leavers: Vec<Leaver> = members.iter().map(leaver).collect();
    let code = |result: Result<(), Error>| result.map_or_else(|error| group_error_code(&error), |()| ErrorCode::NONE);
    let answers = match context.broker.groups.leave(&request.group_id, &leavers) {
        Ok(answers) => answers,
        Err(error) => return Ok(LeaveGroupResponse { error_code: group_error_code(&error), ..Default::default() }),
    };
    if !has_list {
        let error_code = answers.into_iter().next().map_or(ErrorCode::NONE, code);
        return Ok(LeaveGroupResponse { error_code, ..Default::default() });
    }
    let members = members.into_iter().zip(answers).map(|(m, answer)| MemberResponse {
        member_id: m.member_id,
        group_instance_id: m.group_instance_id,
        error_code: code(answer),
    });
    Ok(LeaveGroupResponse { members: members.collect(), ..Default::default() })
}
