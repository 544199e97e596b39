//! ApiVersions: v0–4.
//!
//! Behaviour
//! * Answers from the dispatch table, so what is advertised is what is served.
//! * A version from the future is answered in version 0 with UNSUPPORTED_VERSION and the whole list (KIP-511).
//! * No features are advertised: the newer group protocol and transactions of version 2 depend on them, and there are
//!   none here. librdkafka up to 2.10 wants to see Produce from version 0, or it sends gzip and lz4 uncompressed.
//!
//! Version notes
//! * v3: flexible, with the client's name and version, which may not contain what would break a log line; the response
//!   header stays without tagged fields.

use super::{Close, Context, TABLE};
use crate::wire::{
    ErrorCode,
    api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse},
};

pub(super) async fn handle(context: &Context<'_>, request: ApiVersionsRequest) -> Result<ApiVersionsResponse, Close> {
    if context.version >= 3 && !(is_name(&request.client_software_name) && is_name(&request.client_software_version)) {
        return Ok(ApiVersionsResponse { error_code: ErrorCode::INVALID_REQUEST, ..Default::default() });
    }
    Ok(ApiVersionsResponse { api_keys: list(), ..Default::default() })
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
