//! ListConfigResources: v0–1.
//!
//! Behaviour
//! * Topics and this broker have settings, and the groups on which some were set; client metrics have none here.
//!
//! Version notes
//! * v0 lists client metrics only: nothing. v1 names the types that are wanted; none named means all.

use super::{
    Close, Context,
    configs::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC},
};
use crate::wire::{
    ErrorCode,
    list_config_resources::{ConfigResource, ListConfigResourcesRequest, ListConfigResourcesResponse},
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: ListConfigResourcesRequest,
) -> Result<ListConfigResourcesResponse, Close> {
    let mut response = ListConfigResourcesResponse::default();
    if context.version == 0 {
        return Ok(response);
    }
    let known = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    if request.resource_types.iter().any(|kind| !known.contains(kind)) {
        response.error_code = ErrorCode::UNSUPPORTED_VERSION;
        return Ok(response);
    }
    let is_wanted = |kind| request.resource_types.is_empty() || request.resource_types.contains(&kind);
    if is_wanted(TOPIC) {
        let names = context.topics();
        let topics = names.by_name.keys().map(|name| ConfigResource { resource_name: name.to_string(), resource_type: TOPIC });
        response.config_resources.extend(topics);
    }
    if is_wanted(GROUP) {
        let groups = context.broker.settings.groups().into_iter();
        response.config_resources.extend(groups.map(|resource_name| ConfigResource { resource_name, resource_type: GROUP }));
    }
    for kind in [BROKER, BROKER_LOGGER].into_iter().filter(|kind| is_wanted(*kind)) {
        let resource_name = context.broker.node_id.to_string();
        response.config_resources.push(ConfigResource { resource_name, resource_type: kind });
    }
    Ok(response)
}
