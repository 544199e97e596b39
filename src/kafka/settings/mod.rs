//! The table of topic and broker settings, and which value is in force.
//!
//! A setting has Kafka's name, type and rules. A topic's own values live in the log's catalogue, a group's in its state; the broker's come, in
//! this order, from kafka-configs for this broker, kafka-configs for all brokers (both kept in the log's state under
//! the owner `kafka`), the configuration file, and the table. Never acts on a value: who honours it looks it up.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use crate::{
    groups,
    log::{Compaction, Error, Log, StateWrite, Topic, Write},
};

mod broker;
mod group;
#[cfg(test)]
mod tests;
mod topic;

/// Under which owner the log keeps what kafka-configs set.
const OWNER: &str = "kafka";
/// Most groups that have settings of their own: they stay in memory.
pub const MOST_GROUPS: usize = 1000;

/// A setting's type; the number is the one on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean = 1,
    /// Text.
    String = 2,
    /// 32 bits.
    Int = 3,
    /// 16 bits.
    Short = 4,
    /// 64 bits.
    Long = 5,
    /// A floating point number.
    Double = 6,
    /// Texts separated by commas.
    List = 7,
}

impl Kind {
    const fn kafka_name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::String => "STRING",
            Self::Int => "INT",
            Self::Short => "SHORT",
            Self::Long => "LONG",
            Self::Double => "DOUBLE",
            Self::List => "LIST",
        }
    }
}

/// Which values a setting takes, beyond its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Whatever the type takes.
    Anything,
    /// `true` or `false`.
    Flag,
    /// A whole number between the two, both included.
    Range(i64, i64),
    /// A number from 0 to 1.
    Ratio,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Any of these words, separated by commas, without repetition.
    ListOf(&'static [&'static str]),
}

/// What becomes of a value that somebody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes effect, and can be changed while running.
    Honoured,
    /// It is stored and reported, because clients set it, and has no effect here.
    Accepted,
    /// It takes effect, from the configuration file only.
    Static,
    /// It cannot be set: it reports how things are.
    Fixed,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Kafka's name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The value if nobody set one.
    pub default: Option<&'static str>,
    /// Which values it takes.
    pub check: Check,
    /// What becomes of a value.
    pub standing: Standing,
    /// For a topic setting: the broker settings that give its default, finest first, and how many of its own units
    /// one of theirs is.
    pub synonyms: &'static [(&'static str, i64)],
    /// What it does here.
    pub doc: &'static str,
}

impl Setting {
    const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        check: Check,
        standing: Standing,
        synonyms: &'static [(&'static str, i64)],
        doc: &'static str,
    ) -> Self {
        Self { name, kind, default: Some(default), check, standing, synonyms, doc }
    }

    const fn null(name: &'static str, kind: Kind, check: Check, standing: Standing, doc: &'static str) -> Self {
        Self { name, kind, default: None, check, standing, synonyms: &[], doc }
    }

    /// Whether kafka-configs may not change it while running.
    pub fn is_read_only(&self) -> bool {
        matches!(self.standing, Standing::Static | Standing::Fixed)
    }

    /// Checks a value, and says in one line what is wrong with it.
    ///
    /// # Errors
    /// The line, worded after the part of the setting that failed.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let value = value.trim();
        let wrong = |why: String| Err(format!("Invalid value {value} for configuration {}: {why}", self.name));
        match self.check {
            Check::Anything => Ok(()),
            Check::Flag if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") => Ok(()),
            Check::Flag => wrong("Expected value to be either true or false".into()),
            Check::Range(low, high) => match value.parse::<i64>() {
                Ok(number) if number < low => wrong(format!("Value must be at least {low}")),
                Ok(number) if number > high => wrong(format!("Value must be at most {high}")),
                Ok(_) => Ok(()),
                Err(_) => wrong(format!("Not a number of type {}", self.kind.kafka_name())),
            },
            Check::Ratio => match value.parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(()),
                Ok(_) => wrong("Value must be between 0 and 1".into()),
                Err(_) => wrong("Not a number of type DOUBLE".into()),
            },
            Check::OneOf(words) if words.contains(&value) => Ok(()),
            Check::OneOf(words) => wrong(format!("String must be one of: {}", words.join(", "))),
            Check::ListOf(words) => {
                let mut seen = Vec::new();
                for word in value.split(',').map(str::trim).filter(|w| !w.is_empty()) {
                    if !words.contains(&word) || seen.contains(&word) {
                        return wrong(format!("Each must be one of, once: {}", words.join(", ")));
                    }
                    seen.push(word);
                }
                if seen.is_empty() { wrong("Must not be empty".into()) } else { Ok(()) }
            }
        }
    }
}

/// All topic settings, sorted by name.
pub fn topic_settings() -> &'static [Setting] {
    topic::TOPIC
}

/// All broker settings, sorted by name.
pub fn broker_settings() -> &'static [Setting] {
    broker::BROKER
}

fn find(table: &'static [Setting], name: &str) -> Option<&'static Setting> {
    table.binary_search_by(|s| s.name.cmp(name)).ok().map(|at| &table[at])
}

/// The topic setting of that name.
pub fn topic_setting(name: &str) -> Option<&'static Setting> {
    find(topic::TOPIC, name)
}

/// All settings of single groups, sorted by name.
pub fn group_settings() -> &'static [Setting] {
    group::GROUP
}

/// The group setting of that name.
pub fn group_setting(name: &str) -> Option<&'static Setting> {
    find(group::GROUP, name)
}

/// The broker setting of that name.
pub fn broker_setting(name: &str) -> Option<&'static Setting> {
    find(broker::BROKER, name)
}

/// Checks a topic's name, value pair as CreateTopics and kafka-configs bring it.
///
/// # Errors
/// One line that says what is wrong.
pub fn check_topic(name: &str, value: &str) -> Result<(), String> {
    topic_setting(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?.check(value)
}

/// Checks one key of the table `[kafka.broker]`.
///
/// # Errors
/// One line that says what is wrong.
pub fn check_file(name: &str, value: &str) -> Result<(), String> {
    let setting = broker_setting(name).ok_or_else(|| format!("unknown broker setting '{name}'"))?;
    if setting.standing == Standing::Fixed && setting.default != Some(value) {
        return Err(format!("'{name}' cannot be set: {}", setting.doc));
    }
    setting.check(value)
}

/// Where a value comes from; the number is the one on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Set on the topic.
    Topic = 1,
    /// Set by kafka-configs for this broker.
    Broker = 2,
    /// Set by kafka-configs for all brokers.
    Brokers = 3,
    /// Set in the configuration file.
    File = 4,
    /// The table's default.
    Default = 5,
    /// Set on the group.
    Group = 8,
}

/// Which of the two dynamic layers kafka-configs addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This broker, named by its node id.
    Broker,
    /// All brokers: the empty name.
    Brokers,
}

/// One setting as DescribeConfigs shows it.
#[derive(Clone, Debug)]
pub struct Described {
    /// The row.
    pub setting: &'static Setting,
    /// The value in force.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Source,
    /// Every layer that has a value, the one in force first.
    pub synonyms: Vec<(&'static str, Option<String>, Source)>,
}

#[derive(Clone, Default)]
struct Layers {
    broker: BTreeMap<String, String>,
    brokers: BTreeMap<String, String>,
    file: BTreeMap<String, String>,
    /// What is set on single groups.
    groups: BTreeMap<String, BTreeMap<String, String>>,
}

impl Layers {
    /// Every layer above the default that sets `name`, strongest first.
    fn set<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, Source)> {
        [(&self.broker, Source::Broker), (&self.brokers, Source::Brokers), (&self.file, Source::File)]
            .into_iter()
            .filter_map(move |(layer, source)| Some((layer.get(name)?.as_str(), source)))
    }
}

/// The values in force.
#[derive(Default)]
pub struct Settings(Mutex<Arc<Layers>>);

impl Settings {
    /// Reads what kafka-configs set from the log's state, above the values of the configuration file.
    ///
    /// # Errors
    /// Those of the log.
    pub fn open(file: BTreeMap<String, String>, log: &Log) -> Result<Self, Error> {
        let mut layers = Layers { file, ..Layers::default() };
        for (prefix, layer) in [(b"b/", &mut layers.broker), (b"d/", &mut layers.brokers)] {
            for (key, value) in log.states(OWNER, prefix)? {
                let name = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
                let value = String::from_utf8_lossy(&value).into_owned();
                // A name of a later version is left alone, and unused.
                if broker_setting(&name).is_some_and(|s| !s.is_read_only() && s.check(&value).is_ok()) {
                    layer.insert(name, value);
                }
            }
        }
        for (key, value) in log.states(OWNER, b"g/")? {
            let (key, value) = (String::from_utf8_lossy(&key[2..]), String::from_utf8_lossy(&value).into_owned());
            // A group's name may have slashes, a setting's has none.
            let Some((group, name)) = key.rsplit_once('/') else { continue };
            if group_setting(name).is_some_and(|s| s.check(&value).is_ok()) {
                layers.groups.entry(group.to_owned()).or_default().insert(name.to_owned(), value);
            }
        }
        let settings = Self(Mutex::new(Arc::new(layers)));
        settings.tell(log);
        Ok(settings)
    }

    /// Tells the log what holds for topics that say nothing themselves.
    fn tell(&self, log: &Log) {
        let silent = Topic { name: "".into(), id: [0; 16], partitions: 1, settings: BTreeMap::new() };
        let number = |name| self.topic_number(&silent, name);
        log.set_retention_defaults(number("retention.ms"), number("retention.bytes"));
        let ratio = self.topic(&silent, "min.cleanable.dirty.ratio").and_then(|ratio| ratio.trim().parse().ok());
        log.set_compaction_defaults(Compaction {
            delete_retention_ms: number("delete.retention.ms"),
            min_lag_ms: number("min.compaction.lag.ms"),
            max_lag_ms: number("max.compaction.lag.ms"),
            dirty_ratio: ratio.unwrap_or(Compaction::default().dirty_ratio),
        });
    }

    fn layers(&self) -> Arc<Layers> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A broker setting's value in force.
    pub fn broker(&self, name: &str) -> Option<String> {
        let layers = self.layers();
        let set = layers.set(name).next().map(|(value, _)| value.to_owned());
        set.or_else(|| broker_setting(name)?.default.map(str::to_owned))
    }

    /// A broker setting that is a number.
    pub fn broker_number(&self, name: &str) -> i64 {
        let layers = self.layers();
        let set = layers.set(name).find_map(|(value, _)| value.trim().parse().ok());
        set.or_else(|| broker_setting(name)?.default?.parse().ok()).unwrap_or(0)
    }

    /// A broker setting that is `true` or `false`.
    pub fn broker_flag(&self, name: &str) -> bool {
        self.broker(name).is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    /// A topic setting's value in force.
    pub fn topic(&self, topic: &Topic, name: &str) -> Option<String> {
        self.with_topic(topic, name, str::to_owned)
    }

    /// A topic setting that is a number.
    pub fn topic_number(&self, topic: &Topic, name: &str) -> i64 {
        self.with_topic(topic, name, |value| value.trim().parse().unwrap_or(0)).unwrap_or(0)
    }

    /// Whether the topic's value in force, a list or a word, holds `word`.
    pub fn topic_has(&self, topic: &Topic, name: &str, word: &str) -> bool {
        self.with_topic(topic, name, |value| value.split(',').any(|w| w.trim() == word)).unwrap_or(false)
    }

    fn with_topic<T>(&self, topic: &Topic, name: &str, read: impl FnOnce(&str) -> T) -> Option<T> {
        if let Some(value) = topic.settings.get(name) {
            return Some(read(value));
        }
        let setting = topic_setting(name)?;
        let layers = self.layers();
        for (synonym, factor) in setting.synonyms {
            if let Some((value, _)) = layers.set(synonym).next() {
                return Some(read(&scaled(value, *factor)));
            }
        }
        setting.default.map(read)
    }

    /// One topic setting with all its sources.
    pub fn describe_topic(&self, topic: &Topic, setting: &'static Setting) -> Described {
        self.describe(topic.settings.get(setting.name), Source::Topic, setting)
    }

    /// One setting of a group with all its sources.
    pub fn describe_group(&self, group: &str, setting: &'static Setting) -> Described {
        let layers = self.layers();
        let own = layers.groups.get(group).and_then(|own| own.get(setting.name));
        self.describe(own, Source::Group, setting)
    }

    fn describe(&self, own: Option<&String>, source: Source, setting: &'static Setting) -> Described {
        let layers = self.layers();
        let own = own.map(|v| (setting.name, Some(v.clone()), source));
        let mut synonyms: Vec<_> = own.into_iter().collect();
        for (name, factor) in setting.synonyms {
            synonyms.extend(layers.set(name).map(|(v, source)| (*name, Some(scaled(v, *factor).into_owned()), source)));
        }
        if let Some((name, _)) = setting.synonyms.first() {
            synonyms.push((name, setting.default.map(str::to_owned), Source::Default));
        }
        described(setting, synonyms)
    }

    /// One broker setting with all its sources; for all brokers, only what is set for them.
    pub fn describe_broker(&self, scope: Scope, setting: &'static Setting) -> Option<Described> {
        let layers = self.layers();
        let mut synonyms: Vec<_> =
            layers.set(setting.name).map(|(v, source)| (setting.name, Some(v.to_owned()), source)).collect();
        if scope == Scope::Brokers {
            synonyms.retain(|(_, _, source)| *source == Source::Brokers);
            return (!synonyms.is_empty()).then(|| described(setting, synonyms));
        }
        if setting.default.is_some() {
            synonyms.push((setting.name, setting.default.map(str::to_owned), Source::Default));
        }
        Some(described(setting, synonyms))
    }

    /// What is set in one dynamic layer.
    pub fn dynamic(&self, scope: Scope) -> BTreeMap<String, String> {
        let layers = self.layers();
        match scope {
            Scope::Broker => layers.broker.clone(),
            Scope::Brokers => layers.brokers.clone(),
        }
    }

    /// Sets, or with `None` removes, dynamic broker settings, durably. The caller has checked names and values.
    ///
    /// # Errors
    /// Those of the log; then nothing has changed.
    pub async fn change(
        &self,
        log: &Log,
        scope: Scope,
        changes: BTreeMap<String, Option<String>>,
    ) -> Result<(), Error> {
        let prefix = if scope == Scope::Broker { "b/" } else { "d/" };
        let state = changes
            .iter()
            .map(|(name, value)| StateWrite {
                owner: OWNER,
                key: Bytes::from(format!("{prefix}{name}")),
                value: value.clone().map(Bytes::from),
            })
            .collect();
        log.commit(Write { state, ..Write::default() }).await?;
        self.set(scope, changes);
        self.tell(log);
        Ok(())
    }

    /// What is set on one group.
    pub fn of_group(&self, group: &str) -> BTreeMap<String, String> {
        self.layers().groups.get(group).cloned().unwrap_or_default()
    }

    /// The groups that have settings of their own.
    pub fn groups(&self) -> Vec<String> {
        self.layers().groups.keys().cloned().collect()
    }

    /// What its own settings say of a group's time-out and interval.
    pub fn group_rules(&self, group: &str) -> groups::OwnRules {
        let own = self.of_group(group);
        let number = |name| own.get(name).and_then(|value| value.trim().parse::<i32>().ok());
        groups::OwnRules {
            session_timeout_ms: number(group::SESSION_TIMEOUT).and_then(|ms| u64::try_from(ms).ok()),
            heartbeat_interval_ms: number(group::HEARTBEAT_INTERVAL),
        }
    }

    /// Checks what would be set on a group against the broker's limits, as Kafka does.
    ///
    /// # Errors
    /// One line that says which does not fit what.
    pub fn check_group(&self, group: &str, changes: &BTreeMap<String, Option<String>>) -> Result<(), String> {
        let layers = self.layers();
        if layers.groups.len() >= MOST_GROUPS && !layers.groups.contains_key(group) {
            return Err(format!("{MOST_GROUPS} groups have settings already; remove some first"));
        }
        let number = |name: &str| match changes.get(name) {
            Some(Some(value)) => value.trim().parse().unwrap_or(0),
            Some(None) => self.broker_number(&format!("group.{name}")),
            None => {
                let own = layers.groups.get(group).and_then(|own| own.get(name)?.trim().parse().ok());
                own.unwrap_or_else(|| self.broker_number(&format!("group.{name}")))
            }
        };
        for (name, what) in
            [(group::SESSION_TIMEOUT, "session.timeout.ms"), (group::HEARTBEAT_INTERVAL, "heartbeat.interval.ms")]
        {
            let (low, high) = (format!("group.consumer.min.{what}"), format!("group.consumer.max.{what}"));
            if number(name) < self.broker_number(&low) {
                return Err(format!("{name} must be greater than or equal to {low}"));
            }
            if number(name) > self.broker_number(&high) {
                return Err(format!("{name} must be less than or equal to {high}"));
            }
        }
        if number(group::SESSION_TIMEOUT) <= number(group::HEARTBEAT_INTERVAL) {
            return Err(format!("{} must be greater than {}", group::SESSION_TIMEOUT, group::HEARTBEAT_INTERVAL));
        }
        Ok(())
    }

    /// Sets, or with `None` removes, settings of a group, durably. The caller has checked them.
    ///
    /// # Errors
    /// Those of the log; then nothing has changed.
    pub async fn change_group(
        &self,
        log: &Log,
        group: &str,
        changes: BTreeMap<String, Option<String>>,
    ) -> Result<(), Error> {
        let state = changes.iter().map(|(name, value)| StateWrite {
            owner: OWNER,
            key: Bytes::from(format!("g/{group}/{name}")),
            value: value.clone().map(Bytes::from),
        });
        log.commit(Write { state: state.collect(), ..Write::default() }).await?;
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = &mut Arc::make_mut(&mut guard).groups;
        let own = groups.entry(group.to_owned()).or_default();
        for (name, value) in changes {
            match value {
                Some(value) => own.insert(name, value),
                None => own.remove(&name),
            };
        }
        if own.is_empty() {
            groups.remove(group);
        }
        Ok(())
    }

    fn set(&self, scope: Scope, changes: BTreeMap<String, Option<String>>) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = Arc::make_mut(&mut guard);
        let layer = if scope == Scope::Broker { &mut layers.broker } else { &mut layers.brokers };
        for (name, value) in changes {
            match value {
                Some(value) => layer.insert(name, value),
                None => layer.remove(&name),
            };
        }
    }
}

fn described(setting: &'static Setting, synonyms: Vec<(&'static str, Option<String>, Source)>) -> Described {
    let (value, source) =
        synonyms.first().map_or_else(|| (setting.default.map(str::to_owned), Source::Default), |s| (s.1.clone(), s.2));
    Described { setting, value, source, synonyms }
}

/// Hours as milliseconds, and the like; -1 stays "for ever".
fn scaled(value: &str, factor: i64) -> Cow<'_, str> {
    match value.trim().parse::<i64>() {
        Ok(number) if factor != 1 && number >= 0 => Cow::Owned(number.saturating_mul(factor).to_string()),
        _ => Cow::Borrowed(value),
    }
}
