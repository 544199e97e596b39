//! Access rules.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(DescribeAcls, versions 1..=3, flexible 2, DescribeAclsRequest => DescribeAclsResponse);

schema! {
    /// A filter.
    struct DescribeAclsRequest {
        resource_type_filter: i8,
        resource_name_filter: Option<String>,
        pattern_type_filter: i8 = 3,
        principal_filter: Option<String>,
        host_filter: Option<String>,
        operation: i8,
        permission_type: i8,
    }

    /// The rules that pass it.
    struct DescribeAclsResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        error_message: Option<String>,
        resources: Vec<DescribeAclsResource>,
    }

    /// The rules on one resource.
    struct DescribeAclsResource {
        resource_type: i8,
        resource_name: String,
        pattern_type: i8 = 3,
        acls: Vec<AclDescription>,
    }

    /// One rule.
    struct AclDescription {
        principal: String,
        host: String,
        operation: i8,
        permission_type: i8,
    }
}
