//! Deleting groups without members.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(DeleteGroups, versions 0..=2, flexible 2, DeleteGroupsRequest => DeleteGroupsResponse);

schema! {
    /// The groups.
    struct DeleteGroupsRequest {
        groups_names: Vec<String>,
    }

    /// What became of each.
    struct DeleteGroupsResponse {
        throttle_time_ms: i32,
        results: Vec<DeletableGroupResult>,
    }

    /// One group.
    struct DeletableGroupResult {
        group_id: String,
        error_code: ErrorCode,
    }
}
