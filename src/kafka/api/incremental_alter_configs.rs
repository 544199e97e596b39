//! IncrementalAlterConfigs: v0–1.
//!
//! Behaviour
//! * Sets, deletes, appends to and subtracts from single settings; the last two on lists only. What is not named stays.
//! * Each resource succeeds or fails as a whole.
//!
//! Version notes
//! * v1: flexible.

use super::{
    Close, Context,
    configs::{Fault, Operation, apply, plan, resource},
};
use crate::wire::{
    ErrorCode,
    incremental_alter_configs::{
        AlterConfigsResource, AlterConfigsResourceResponse, AlterableConfig, IncrementalAlterConfigsRequest,
        IncrementalAlterConfigsResponse,
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: IncrementalAlterConfigsRequest,
) -> Result<IncrementalAlterConfigsResponse, Close> {
    let mut response = IncrementalAlterConfigsResponse::default();
    for mut asked in request.resources {
        let configs = std::mem::take(&mut asked.configs);
        let result = alter(context, &asked, configs, request.validate_only).await;
        let (error_code, error_message) = match result {
            Ok(()) => (ErrorCode::NONE, None),
            Err((code, message)) => (code, Some(message)),
        };
        response.responses.push(AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: asked.resource_type,
            resource_name: asked.resource_name,
        });
    }
    Ok(response)
}

async fn alter(
    context: &Context<'_>,
    asked: &AlterConfigsResource,
    configs: Vec<AlterableConfig>,
    validate_only: bool,
) -> Result<(), Fault> {
    let resource = resource(context, asked.resource_type, &asked.resource_name)?;
    let mut operations = Vec::with_capacity(configs.len());
    for AlterableConfig { name, config_operation, value } in configs {
        let operation = match config_operation {
            0 => Operation::Set(value),
            1 => Operation::Delete,
            2 => Operation::Append(value),
            3 => Operation::Subtract(value),
            other => return Err((ErrorCode::INVALID_REQUEST, format!("unknown operation {other} on '{name}'"))),
        };
        operations.push((name, operation));
    }
    let changes = plan(context, &resource, operations)?;
    if validate_only { Ok(()) } else { apply(context, &resource, changes).await }
}
