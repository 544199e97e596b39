//! DescribeAcls: v1–3.
//!
//! Behaviour
//! * SECURITY_DISABLED: there is no authoriser. MM2 knows exactly this code and goes on without access rules.

use super::{Close, Context};
use crate::wire::{
    ErrorCode,
    describe_acls::{DescribeAclsRequest, DescribeAclsResponse},
};

/// What the APIs about access rules say.
pub(super) const NO_AUTHORIZER: &str = "No Authorizer is configured on the broker";

pub(super) async fn handle(
    _context: &Context<'_>,
    _request: DescribeAclsRequest,
) -> Result<DescribeAclsResponse, Close> {
    let (error_code, error_message) = (ErrorCode::SECURITY_DISABLED, Some(NO_AUTHORIZER.to_owned()));
    Ok(DescribeAclsResponse { error_code, error_message, ..Default::default() })
}
