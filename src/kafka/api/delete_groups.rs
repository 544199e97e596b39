//! DeleteGroups: v0–2.
//!
//! Behaviour
//! * Deletes groups without members, durably, with their offsets; NON_EMPTY_GROUP or GROUP_ID_NOT_FOUND otherwise.

use super::{Close, Context, group_error_code};
use crate::wire::{
    ErrorCode,
    delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse},
};

pub(super) async fn handle(context: &Context<'_>, request: DeleteGroupsRequest) -> Result<DeleteGroupsResponse, Close> {
    let mut results = Vec::new();
    for group_id in request.groups_names {
        let deleted = context.broker.groups.delete(&group_id).await;
        let error_code = deleted.map_or_else(|error| group_error_code(&error), |()| ErrorCode::NONE);
        results.push(DeletableGroupResult { group_id, error_code });
    }
    Ok(DeleteGroupsResponse { results, ..Default::default() })
}
