//! DeleteAcls: v1–3.
//!
//! Behaviour
//! * SECURITY_DISABLED for each filter: there is no authoriser.

use super::{Close, Context};
use crate::wire::{
    ErrorCode,
    delete_acls::{DeleteAclsFilterResult, DeleteAclsRequest, DeleteAclsResponse},
};

pub(super) async fn handle(_context: &Context<'_>, request: DeleteAclsRequest) -> Result<DeleteAclsResponse, Close> {
    let refused = |_| DeleteAclsFilterResult {
        error_code: ErrorCode::SECURITY_DISABLED,
        // Kafka says it in other words here than for the other APIs, and tools print them.
        error_message: Some("No Authorizer is configured.".to_owned()),
        ..Default::default()
    };
    Ok(DeleteAclsResponse { filter_results: request.filters.into_iter().map(refused).collect(), ..Default::default() })
}
