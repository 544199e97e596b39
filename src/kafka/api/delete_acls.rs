//! DeleteAcls: v1–3.
//!
//! Behaviour
//! * SECURITY_DISABLED for each filter: there is no authoriser.

use super::{Close, Context, describe_acls::NO_AUTHORIZER};
use crate::wire::{
    ErrorCode,
    delete_acls::{DeleteAclsFilterResult, DeleteAclsRequest, DeleteAclsResponse},
};

pub(super) async fn handle(_context: &Context<'_>, request: DeleteAclsRequest) -> Result<DeleteAclsResponse, Close> {
    let refused = |_| DeleteAclsFilterResult {
        error_code: ErrorCode::SECURITY_DISABLED,
        error_message: Some(NO_AUTHORIZER.to_owned()),
        ..Default::default()
    };
    Ok(DeleteAclsResponse { filter_results: request.filters.into_iter().map(refused).collect(), ..Default::default() })
}
