//! Replacing all settings of resources: what is not named returns to its default.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(AlterConfigs, versions 0..=2, flexible 2, AlterConfigsRequest => AlterConfigsResponse);

schema! {
    /// The settings.
    struct AlterConfigsRequest {
        resources: Vec<AlterConfigsResource>,
        validate_only: bool,
    }

    /// A resource and its settings.
    struct AlterConfigsResource {
        resource_type: i8,
        resource_name: String,
        configs: Vec<AlterableConfig>,
    }

    /// One setting.
    struct AlterableConfig {
        name: String,
        value: Option<String>,
    }

    /// What became of each resource.
    struct AlterConfigsResponse {
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
