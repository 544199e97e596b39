//! Making access rules.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(CreateAcls, versions 1..=3, flexible 2, CreateAclsRequest => CreateAclsResponse);

schema! {
    /// The rules.
    struct CreateAclsRequest {
        creations: Vec<AclCreation>,
    }

    /// One rule.
    struct AclCreation {
        resource_type: i8,
        resource_name: String,
        resource_pattern_type: i8 = 3,
        principal: String,
        host: String,
        operation: i8,
        permission_type: i8,
    }

    /// What became of each, in order.
    struct CreateAclsResponse {
        throttle_time_ms: i32,
        results: Vec<AclCreationResult>,
    }

    /// One rule's fate.
    struct AclCreationResult {
        error_code: ErrorCode,
        error_message: Option<String>,
    }
}
