//! Deleting access rules.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(DeleteAcls, versions 1..=3, flexible 2, DeleteAclsRequest => DeleteAclsResponse);

schema! {
    /// Filters.
    struct DeleteAclsRequest {
        filters: Vec<DeleteAclsFilter>,
    }

    /// One filter.
    struct DeleteAclsFilter {
        resource_type_filter: i8,
        resource_name_filter: Option<String>,
        pattern_type_filter: i8 = 3,
        principal_filter: Option<String>,
        host_filter: Option<String>,
        operation: i8,
        permission_type: i8,
    }

    /// What each deleted, in order.
    struct DeleteAclsResponse {
        throttle_time_ms: i32,
        filter_results: Vec<DeleteAclsFilterResult>,
    }

    /// One filter's fate.
    struct DeleteAclsFilterResult {
        error_code: ErrorCode,
        error_message: Option<String>,
        matching_acls: Vec<DeleteAclsMatchingAcl>,
    }

    /// A rule it met.
    struct DeleteAclsMatchingAcl {
        error_code: ErrorCode,
        error_message: Option<String>,
        resource_type: i8,
        resource_name: String,
        pattern_type: i8 = 3,
        principal: String,
        host: String,
        operation: i8,
        permission_type: i8,
    }
}
