//! What the broker speaks. Asked first on every connection, before sign-in.
//!
//! Its response header never has tagged fields. A version not spoken is answered in version 0 with code 35 and the
//! list. Below version 4 a supported feature whose minimum is 0 must be left out: old Java clients fail on it.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(ApiVersions, versions 0..=4, flexible 3, ApiVersionsRequest => ApiVersionsResponse);

schema! {
    /// Asks for the APIs and their versions.
    struct ApiVersionsRequest {
        client_software_name: String [3..],
        client_software_version: String [3..],
    }

    /// The APIs, their versions, and the features.
    struct ApiVersionsResponse {
        error_code: ErrorCode,
        api_keys: Vec<ApiVersion>,
        throttle_time_ms: i32 [1..],
        supported_features: Vec<SupportedFeatureKey> [3..; tag 0],
        finalized_features_epoch: i64 [3..; tag 1] = -1,
        finalized_features: Vec<FinalizedFeatureKey> [3..; tag 2],
        zk_migration_ready: bool [3..; tag 3],
    }

    /// One API.
    struct ApiVersion {
        api_key: i16,
        min_version: i16,
        max_version: i16,
    }

    /// A feature the broker could run at.
    struct SupportedFeatureKey {
        name: String,
        min_version: i16,
        max_version: i16,
    }

    /// A feature level in force.
    struct FinalizedFeatureKey {
        name: String,
        max_version_level: i16,
        min_version_level: i16,
    }
}
