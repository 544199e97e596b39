//! Settings of topics and brokers.
//!
//! Resource types: 2 topic, 4 broker, 8 broker logger. Null keys mean all; version 3 adds types and documentation.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(DescribeConfigs, versions 1..=4, flexible 4, DescribeConfigsRequest => DescribeConfigsResponse);

schema! {
    /// Asks for resources' settings.
    struct DescribeConfigsRequest {
        resources: Vec<DescribeConfigsResource>,
        include_synonyms: bool,
        include_documentation: bool [3..],
    }

    /// A resource and the keys wanted.
    struct DescribeConfigsResource {
        resource_type: i8,
        resource_name: String,
        configuration_keys: Option<Vec<String>>,
    }

    /// The settings, with source and defaults.
    struct DescribeConfigsResponse {
        throttle_time_ms: i32,
        results: Vec<DescribeConfigsResult>,
    }

    /// One resource.
    struct DescribeConfigsResult {
        error_code: ErrorCode,
        error_message: Option<String>,
        resource_type: i8,
        resource_name: String,
        configs: Vec<DescribeConfigsResourceResult>,
    }

    /// One setting.
    struct DescribeConfigsResourceResult {
        name: String,
        value: Option<String>,
        read_only: bool,
        config_source: i8 = -1,
        is_sensitive: bool,
        synonyms: Vec<DescribeConfigsSynonym>,
        config_type: i8 [3..],
        documentation: Option<String> [3..],
    }

    /// Where else the value could come from, in order of precedence.
    struct DescribeConfigsSynonym {
        name: String,
        value: Option<String>,
        source: i8,
    }
}
