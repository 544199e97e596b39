//! ApiVersions: v0–4.
//!
//! Behaviour
//! * Answers from the dispatch table, so what is advertised is what is served.
//! * A version from the future is answered in version 0 with UNSUPPORTED_VERSION and the whole list (KIP-511).
//! * `transaction.version` 2: Java clients of 4.0 and later speak the second version of transactions only where it is
//!   finalised (KIP-890). `group.version` 1: the consumer group protocol (KIP-848). Nothing can be set lower here, what was
//!   before is spoken beside it.
//! * librdkafka up to 2.10 wants to see Produce from version 0, or it sends gzip and lz4 uncompressed.
//!
//! Version notes
//! * v3: flexible, with the client's name and version, which may not contain what would break a log line; the response
//!   header stays without tagged fields. v4: before it, clients fail on a supported feature whose least version is 0, as
//!   that of both is; they are finalised all the same.

use super::{Close, Context, TABLE};
use crate::wire::{
    ErrorCode,
    api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey},
};

/// What is finalised, each at its greatest version: the consumer group protocol, the second version of transactions.
const FEATURES: [(&str, i16); 2] = [("group.version", 1), ("transaction.version", 2)];

pub(super) async fn handle(context: &Context<'_>, request: ApiVersionsRequest) -> Result<ApiVersionsResponse, Close> {
    if context.version >= 3 && !(is_name(&request.client_software_name) && is_name(&request.client_software_version)) {
        return Ok(ApiVersionsResponse { error_code: ErrorCode::INVALID_REQUEST, ..Default::default() });
    }
    let mut response = ApiVersionsResponse { api_keys: list(), finalized_features_epoch: 1, ..Default::default() };
    for (name, version) in FEATURES {
        if context.version >= 4 {
            let feature = SupportedFeatureKey { name: name.into(), min_version: 0, max_version: version };
            response.supported_features.push(feature);
        }
        response.finalized_features.push(FinalizedFeatureKey {
            name: name.into(),
            max_version_level: version,
            min_version_level: version,
        });
    }
    Ok(response)
}

pub(super) fn unsupported_version() -> ApiVersionsResponse {
    ApiVersionsResponse { error_code: ErrorCode::UNSUPPORTED_VERSION, api_keys: list(), ..Default::default() }
}

fn list() -> Vec<ApiVersion> {
    let row = |row: &super::Row| ApiVersion { api_key: row.key as i16, min_version: row.min, max_version: row.max };
    TABLE.iter().map(row).collect()
}

/// Letters, digits, `-` and `.`, begun and ended by a letter or digit.
fn is_name(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}
