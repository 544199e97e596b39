//! Resources that have settings.
//!
//! Version 0 knows client metrics only; version 1 names the types wanted (none: all).

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(ListConfigResources, versions 0..=1, flexible 0, ListConfigResourcesRequest => ListConfigResourcesResponse);

schema! {
    /// Asks.
    struct ListConfigResourcesRequest {
        resource_types: Vec<i8> [1..],
    }

    /// The resources.
    struct ListConfigResourcesResponse {
        throttle_time_ms: i32,
        error_code: ErrorCode,
        config_resources: Vec<ConfigResource>,
    }

    /// One resource.
    struct ConfigResource {
        resource_name: String,
        resource_type: i8 [1..] = 16,
    }
}
