//! Changing single settings.
//!
//! Operations: 0 set, 1 delete, 2 append, 3 subtract (the last two on lists).

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(
    IncrementalAlterConfigs, versions 0..=1, flexible 1,
    IncrementalAlterConfigsRequest => IncrementalAlterConfigsResponse
);

schema! {
    /// The changes.
    struct IncrementalAlterConfigsRequest {
        resources: Vec<AlterConfigsResource>,
        validate_only: bool,
    }

    /// A resource and its changes.
    struct AlterConfigsResource {
        resource_type: i8,
        resource_name: String,
        configs: Vec<AlterableConfig>,
    }

    /// One change.
    struct AlterableConfig {
        name: String,
        config_operation: i8,
        value: Option<String>,
    }

    /// What became of each resource.
    struct IncrementalAlterConfigsResponse {
        throttle_time_ms: i32,
        responses: Vec<AlterConfigsResourceResponse>,
    }

    /// One resource.
    struct AlterConfigsResourceResponse {
        error_code: ErrorCode,
        error_message: Option<String>,
        resource_type: i8,
        resource_name: String,
    }
}
