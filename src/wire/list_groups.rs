//! The groups there are.
//!
//! Filters by state from version 4, by type from version 5; an empty filter lets all pass.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(ListGroups, versions 0..=5, flexible 3, ListGroupsRequest => ListGroupsResponse);

schema! {
    /// Asks.
    struct ListGroupsRequest {
        states_filter: Vec<String> [4..],
        types_filter: Vec<String> [5..],
    }

    /// The groups.
    struct ListGroupsResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode,
        groups: Vec<ListedGroup>,
    }

    /// One group.
    struct ListedGroup {
        group_id: String,
        protocol_type: String,
        group_state: String [4..],
        group_type: String [5..],
    }
}
