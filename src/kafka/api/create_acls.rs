//! CreateAcls: v1–3.
//!
//! Behaviour
//! * SECURITY_DISABLED for each: there is no authoriser, and a rule that protects nothing must not look made.

use super::{Close, Context, describe_acls::NO_AUTHORIZER};
use crate::wire::{
    ErrorCode,
    create_acls::{AclCreationResult, CreateAclsRequest, CreateAclsResponse},
};

pub(super) async fn handle(_context: &Context<'_>, request: CreateAclsRequest) -> Result<CreateAclsResponse, Close> {
    let refused = |_| AclCreationResult {
        error_code: ErrorCode::SECURITY_DISABLED,
        error_message: Some(NO_AUTHORIZER.to_owned()),
    };
    Ok(CreateAclsResponse { results: request.creations.into_iter().map(refused).collect(), ..Default::default() })
}
