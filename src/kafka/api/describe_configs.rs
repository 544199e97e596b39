//! DescribeConfigs: v1–4.
//!
//! Behaviour
//! * Every setting of the table is shown, set or not, with the layer it comes from and the layers below: Connect, MM2
//!   and the tools tell by the source what was set on purpose.
//! * For all brokers (the empty name) only what is set for all brokers is shown.
//!
//! Version notes
//! * v3: types and documentation.

use std::collections::BTreeSet;

use super::{
    Close, Context,
    configs::{Resource, resource},
};
use crate::{
    kafka::settings::{Described, broker_settings, group_settings, topic_settings},
    wire::describe_configs::{
        DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
        DescribeConfigsResult, DescribeConfigsSynonym,
    },
};

pub(super) async fn handle(
    context: &Context<'_>,
    request: DescribeConfigsRequest,
) -> Result<DescribeConfigsResponse, Close> {
    let (synonyms, documentation) = (request.include_synonyms, request.include_documentation);
    // One answer however often a resource is named: a request of 1 MiB must not ask for gigabytes.
    let mut seen = BTreeSet::new();
    let resources = request.resources.into_iter().filter(|r| seen.insert((r.resource_type, r.resource_name.clone())));
    let results = resources.map(|asked| describe(context, asked, synonyms, documentation));
    Ok(DescribeConfigsResponse { results: results.collect(), ..Default::default() })
}

fn describe(
    context: &Context<'_>,
    asked: DescribeConfigsResource,
    synonyms: bool,
    documentation: bool,
) -> DescribeConfigsResult {
    let mut result = DescribeConfigsResult { resource_type: asked.resource_type, ..Default::default() };
    let settings = &context.broker.settings;
    let described: Vec<Described> = match resource(context, asked.resource_type, &asked.resource_name) {
        Ok(Resource::Topic(topic)) => topic_settings().iter().map(|s| settings.describe_topic(&topic, s)).collect(),
        Ok(Resource::Broker(scope)) => {
            broker_settings().iter().filter_map(|s| settings.describe_broker(scope, s)).collect()
        }
        Ok(Resource::Group(group)) => group_settings().iter().map(|s| settings.describe_group(&group, s)).collect(),
        Ok(Resource::Bare) => Vec::new(),
        Err((code, message)) => {
            (result.error_code, result.error_message) = (code, Some(message));
            Vec::new()
        }
    };
    let is_asked = |name: &str| asked.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|k| k == name));
    let shown = described.into_iter().filter(|d| is_asked(d.setting.name));
    result.configs = shown.map(|d| row(d, synonyms, documentation)).collect();
    result.resource_name = asked.resource_name;
    result
}

fn row(described: Described, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult {
    let Described { setting, value, source, synonyms: layers } = described;
    let layer = |(name, value, source): (&str, Option<String>, crate::kafka::settings::Source)| {
        DescribeConfigsSynonym { name: name.to_owned(), value, source: source as i8 }
    };
    DescribeConfigsResourceResult {
        name: setting.name.to_owned(),
        value,
        // A topic's settings can all be changed; the broker's as their rows say.
        read_only: setting.is_read_only(),
        config_source: source as i8,
        is_sensitive: false,
        synonyms: if synonyms { layers.into_iter().map(layer).collect() } else { Vec::new() },
        config_type: setting.kind as i8,
        documentation: documentation.then(|| setting.doc.to_owned()),
    }
}

/// The rows of a topic as CreateTopics returns them.
pub(super) fn of_topic(
    context: &Context<'_>,
    topic: &crate::log::Topic,
) -> Vec<crate::wire::create_topics::CreatableTopicConfigs> {
    let rows = topic_settings().iter().map(|setting| context.broker.settings.describe_topic(topic, setting));
    rows.map(|d| crate::wire::create_topics::CreatableTopicConfigs {
        name: d.setting.name.to_owned(),
        value: d.value,
        read_only: false,
        config_source: d.source as i8,
        is_sensitive: false,
    })
    .collect()
}
