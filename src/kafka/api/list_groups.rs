//! ListGroups: v0–5.
//!
//! Behaviour
//! * Groups with members, groups that lately had some, and groups that have committed offsets.
//!
//! Version notes
//! * v4: a filter by state. v5: a filter by type, and the type: `classic` or `consumer`. Both filters ignore case.

use super::{Close, Context, group_error_code};
use crate::wire::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};

pub(super) async fn handle(context: &Context<'_>, request: ListGroupsRequest) -> Result<ListGroupsResponse, Close> {
    let passes = |filter: &[String], value: &str| filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(value));
    let listed = match context.broker.groups.list() {
        Ok(listed) => listed,
        Err(error) => return Ok(ListGroupsResponse { error_code: group_error_code(&error), ..Default::default() }),
    };
    let wanted = listed.into_iter().filter(|l| {
        passes(&request.states_filter, l.state) && passes(&request.types_filter, l.kind.name())
    });
    let groups = wanted.map(|l| ListedGroup {
        group_id: l.group,
        protocol_type: l.protocol_type.to_string(),
        group_state: l.state.to_owned(),
        group_type: l.kind.name().to_owned(),
    });
    Ok(ListGroupsResponse { groups: groups.collect(), ..Default::default() })
}
