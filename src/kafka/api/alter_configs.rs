//! AlterConfigs: v0–2.
//!
//! Behaviour
//! * Replaces all settings of a resource: what is not named goes back to its default.
//!
//! Version notes
//! * v2: flexible. Superseded by IncrementalAlterConfigs, and still sent by old clients.

use super::{
    Close, Context,
    configs::{Fault, Operation, Resource, apply, plan, resource},
};
use crate::wire::{
    ErrorCode,
    alter_configs::{
        AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse, AlterConfigsResponse, AlterableConfig,
    },
};

pub(super) async fn handle(context: &Context<'_>, request: AlterConfigsRequest) -> Result<AlterConfigsResponse, Close> {
    let mut response = AlterConfigsResponse::default();
    for mut asked in request.resources {
        let configs = std::mem::take(&mut asked.configs);
        let result = replace(context, &asked, configs, request.validate_only).await;
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

async fn replace(
    context: &Context<'_>,
    asked: &AlterConfigsResource,
    configs: Vec<AlterableConfig>,
    validate_only: bool,
) -> Result<(), Fault> {
    let resource = resource(context, asked.resource_type, &asked.resource_name)?;
    let operations = configs.into_iter().map(|c| (c.name, Operation::Set(c.value))).collect();
    let mut changes = plan(context, &resource, operations)?;
    let set_now: Vec<String> = match &resource {
        Resource::Topic(topic) => topic.settings.keys().cloned().collect(),
        Resource::Broker(scope) => context.broker.settings.dynamic(*scope).into_keys().collect(),
        Resource::Group(group) => context.broker.settings.of_group(group).into_keys().collect(),
        Resource::Bare => Vec::new(),
    };
    for name in set_now {
        changes.entry(name).or_insert(None);
    }
    if validate_only { Ok(()) } else { apply(context, &resource, changes).await }
}
