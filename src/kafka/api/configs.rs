//! What the APIs about settings share: which resource is meant, and how a change is checked and made.
//!
//! Behaviour
//! * A resource is a topic, this broker by its node id, all brokers by the empty name, or the broker's loggers, which
//!   have no levels to show, or a group, be it there or not. Client metrics have no settings here.
//! * A change is checked whole before any of it is made.

use std::{collections::BTreeMap, sync::Arc};

use super::{Context, error_code};
use crate::{
    groups::MAX_GROUP_ID_BYTES,
    kafka::settings::{self, Kind, Scope, Setting},
    log::{Change, Topic},
    wire::ErrorCode,
};

pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;
pub(super) const BROKER_LOGGER: i8 = 8;
pub(super) const CLIENT_METRICS: i8 = 16;
pub(super) const GROUP: i8 = 32;

/// A code, and the line beside it.
pub(super) type Fault = (ErrorCode, String);

/// Something that has settings.
pub(super) enum Resource {
    Topic(Arc<Topic>),
    Broker(Scope),
    Group(String),
    /// There, and without settings.
    Bare,
}

/// What is asked of one setting.
pub(super) enum Operation {
    Set(Option<String>),
    Delete,
    Append(Option<String>),
    Subtract(Option<String>),
}

pub(super) fn resource(context: &Context<'_>, kind: i8, name: &str) -> Result<Resource, Fault> {
    let node_id = context.broker.node_id.to_string();
    match kind {
        TOPIC => match context.topics().get(name) {
            Some(topic) => Ok(Resource::Topic(Arc::clone(topic))),
            None => match super::metadata::check_name(name) {
                Ok(()) => Err((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("The topic '{name}' does not exist."))),
                Err(why) => Err((ErrorCode::INVALID_TOPIC_EXCEPTION, format!("topic '{name}': {why}"))),
            },
        },
        BROKER if name.is_empty() => Ok(Resource::Broker(Scope::Brokers)),
        BROKER if name == node_id => Ok(Resource::Broker(Scope::Broker)),
        BROKER_LOGGER if name == node_id => Ok(Resource::Bare),
        BROKER | BROKER_LOGGER => Err((
            ErrorCode::INVALID_REQUEST,
            format!("unexpected broker id, expected {node_id} or nothing, got '{name}'"),
        )),
        GROUP if name.is_empty() || name.len() > MAX_GROUP_ID_BYTES => {
            Err((ErrorCode::INVALID_REQUEST, format!("a group's name has 1 to {MAX_GROUP_ID_BYTES} bytes")))
        }
        GROUP => Ok(Resource::Group(name.to_owned())),
        CLIENT_METRICS => Ok(Resource::Bare),
        _ => Err((ErrorCode::INVALID_REQUEST, format!("resource type {kind} has no settings"))),
    }
}

/// The values that the operations lead to, or the first fault.
pub(super) fn plan(
    context: &Context<'_>,
    resource: &Resource,
    operations: Vec<(String, Operation)>,
) -> Result<BTreeMap<String, Option<String>>, Fault> {
    let mut planned = BTreeMap::new();
    for (name, operation) in operations {
        if planned.contains_key(&name) {
            return Err((ErrorCode::INVALID_REQUEST, format!("'{name}' is named twice")));
        }
        let setting = find(resource, &name)?;
        let invalid = |why: String| (ErrorCode::INVALID_CONFIG, why);
        let value = match operation {
            Operation::Delete => None,
            Operation::Set(value) => {
                Some(value.ok_or_else(|| invalid(format!("Null value not supported for {name}")))?)
            }
            Operation::Append(value) => Some(edit(context, resource, setting, value, true).map_err(invalid)?),
            Operation::Subtract(value) => Some(edit(context, resource, setting, value, false).map_err(invalid)?),
        };
        if let Some(value) = &value {
            setting.check(value).map_err(invalid)?;
        }
        planned.insert(name, value);
    }
    if let Resource::Group(group) = resource
        && !planned.is_empty()
    {
        let checked = context.broker.settings.check_group(group, &planned);
        checked.map_err(|why| (ErrorCode::INVALID_CONFIG, why))?;
    }
    Ok(planned)
}

fn find(resource: &Resource, name: &str) -> Result<&'static Setting, Fault> {
    match resource {
        Resource::Topic(_) => settings::topic_setting(name)
            .ok_or_else(|| (ErrorCode::INVALID_CONFIG, format!("Unknown topic config name: {name}"))),
        Resource::Broker(_) => match settings::broker_setting(name) {
            None => Err((ErrorCode::INVALID_CONFIG, format!("Unknown broker config name: {name}"))),
            Some(setting) if setting.is_read_only() => {
                Err((ErrorCode::INVALID_REQUEST, format!("Cannot update these configs dynamically: [{name}]")))
            }
            Some(setting) => Ok(setting),
        },
        Resource::Group(_) => settings::group_setting(name)
            .ok_or_else(|| (ErrorCode::INVALID_CONFIG, format!("Unknown group config name: {name}"))),
        Resource::Bare => Err((ErrorCode::INVALID_REQUEST, "this resource has no settings that can be changed".into())),
    }
}

/// Adds words to a list, or takes them out.
fn edit(
    context: &Context<'_>,
    resource: &Resource,
    setting: &'static Setting,
    value: Option<String>,
    adds: bool,
) -> Result<String, String> {
    if setting.kind != Kind::List {
        return Err(format!("Can't append to or subtract from {}: it is not a list", setting.name));
    }
    let value = value.ok_or_else(|| format!("Null value not supported for {}", setting.name))?;
    let current = match resource {
        Resource::Topic(topic) => context.broker.settings.topic(topic, setting.name),
        Resource::Broker(_) | Resource::Group(_) | Resource::Bare => context.broker.settings.broker(setting.name),
    };
    let words = |list: &str| list.split(',').map(|w| w.trim().to_owned()).filter(|w| !w.is_empty()).collect::<Vec<_>>();
    let mut list = words(&current.unwrap_or_default());
    for word in words(&value) {
        let has = list.contains(&word);
        if adds && !has {
            list.push(word);
        } else if !adds {
            list.retain(|w| *w != word);
        }
    }
    Ok(list.join(","))
}

/// Makes a planned change durable.
pub(super) async fn apply(
    context: &Context<'_>,
    resource: &Resource,
    changes: BTreeMap<String, Option<String>>,
) -> Result<(), Fault> {
    let log = &context.broker.log;
    let done = match resource {
        _ if changes.is_empty() => Ok(()),
        Resource::Topic(topic) => {
            let change = Change::Alter { name: Arc::clone(&topic.name), settings: changes };
            log.change(change, Vec::new()).await.map(|_| ())
        }
        Resource::Broker(scope) => context.broker.settings.change(log, *scope, changes).await,
        Resource::Group(group) => {
            let settings = &context.broker.settings;
            let done = settings.change_group(log, group, changes).await;
            context.broker.groups.set_own_rules(group, settings.group_rules(group));
            done
        }
        Resource::Bare => Ok(()),
    };
    done.map_err(|error| (error_code(&error), error.to_string()))
}
