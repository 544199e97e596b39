//! `[mirror.NAME]`: what is mirrored where, under which names, and how carefully.
//!
//! Never opens a file or a socket: certificates are read when the link starts.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use regex_lite::Regex;
use serde::Deserialize;

use super::{
    client::{Endpoint, Mechanism, Protocol, Sasl, Security, Tls, TlsFiles},
    delivery::{OnNoEvidence, OnTargetReset},
};
use crate::{log::EVENTS_TOPIC, record::Codec, secret::Secret};

/// Kafka's limit for a topic's name.
const NAME_BYTES: usize = 249;

/// One link, as its table in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// False switches the link off.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// `HOST:PORT` of some brokers of the target.
    pub bootstrap_servers: Vec<String>,
    /// Topics to mirror: regular expressions that match the whole name, as in MirrorMaker 2. `brooklet.events` is always
    /// among them.
    #[serde(default = "every_topic")]
    pub topics: Vec<String>,
    /// Topics not to mirror; wins over `topics`.
    #[serde(default = "internal_topics")]
    pub topics_exclude: Vec<String>,
    /// How topics are called at the target.
    #[serde(default)]
    pub naming: Naming,
    /// What stands before the topic's name with `naming = "prefix"`; default: the node's name.
    #[serde(default)]
    pub alias: Option<String>,
    /// What stands between the two.
    #[serde(default = "dot")]
    pub separator: String,
    /// Encryption and sign-in.
    #[serde(default)]
    pub security_protocol: Protocol,
    /// How to sign in.
    #[serde(default)]
    pub sasl_mechanism: Option<Mechanism>,
    /// As whom.
    #[serde(default)]
    pub username: Option<String>,
    /// With what.
    #[serde(default)]
    pub password: Option<Secret>,
    /// PEM file of the certificate authorities to trust; default: the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM file of our own certificate.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// PEM file of its key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Makes missing topics and partitions at the target.
    #[serde(default = "yes")]
    pub create_topics: bool,
    /// Replication factor of topics it makes; -1: the target's default.
    #[serde(default = "target_default")]
    pub replication_factor: i16,
    /// Codec of batches that are put together here; batches of 32 KiB and more go as they are.
    #[serde(default)]
    pub compression: Compression,
    /// Records of one batch before compression; larger batches of producers go as they are.
    #[serde(default = "batch_size")]
    pub batch_size: ByteSize,
    /// Largest Produce request, and the bytes in flight per partition.
    #[serde(default = "request_size")]
    pub max_request_size: ByteSize,
    /// How long a fresh record waits for company at most, its partition's and other partitions'.
    #[serde(default = "linger", with = "humantime_serde")]
    pub linger: Duration,
    /// Records older than this may make the target forget our producer id at any time (its
    /// `producer.id.expiration.ms`, by the records' own timestamps): they go one batch at a time.
    #[serde(default = "an_hour", with = "humantime_serde")]
    pub stale_after: Duration,
    /// How long late requests of an earlier connection are waited out where they could do harm.
    #[serde(default = "a_minute", with = "humantime_serde")]
    pub quarantine: Duration,
    /// The target topic was deleted, recreated or emptied.
    #[serde(default)]
    pub on_target_reset: OnTargetReset,
    /// The evidence of what arrived was deleted at the target.
    #[serde(default)]
    pub on_no_evidence: OnNoEvidence,
}

/// How topics are called at the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Naming {
    /// `<alias>.<topic>`, same partition: as MirrorMaker 2. Nobody else writes there.
    #[default]
    Prefix,
    /// The same name. Others may write there.
    Identity,
    /// One partition per device. Not yet.
    Owned,
    /// Devices share partitions. Not yet.
    Shared,
    /// A pattern. Not yet.
    Template,
}

/// Kafka's `compression.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "codecs by Kafka's names")]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    #[default]
    Zstd,
}

impl Compression {
    /// The codec.
    pub(super) fn codec(self) -> Codec {
        match self {
            Self::None => Codec::None,
            Self::Gzip => Codec::Gzip,
            Self::Snappy => Codec::Snappy,
            Self::Lz4 => Codec::Lz4,
            Self::Zstd => Codec::Zstd,
        }
    }
}

impl Config {
    /// What is wrong with it: keys and what was expected.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut say = |key: &str, message: String| wrong.push((key.to_owned(), message));
        if self.bootstrap_servers.is_empty() {
            say("bootstrap_servers", "at least one HOST:PORT is needed".into());
        }
        for server in &self.bootstrap_servers {
            if let Err(message) = server.parse::<Endpoint>() {
                say("bootstrap_servers", message);
            }
        }
        for (key, patterns) in [("topics", &self.topics), ("topics_exclude", &self.topics_exclude)] {
            if let Some(error) = patterns.iter().find_map(|p| whole(p).err()) {
                say(key, error);
            }
        }
        if self.topics.is_empty() {
            say("topics", "at least one pattern is needed, such as \"metric\\\\..*\"".into());
        }
        if !matches!(self.naming, Naming::Prefix | Naming::Identity) {
            say("naming", "only \"prefix\" and \"identity\" exist so far".into());
        }
        if let Some(alias) = &self.alias
            && (alias.is_empty() || alias.contains(&self.separator) || alias.chars().any(|c| !is_topic_char(c)))
        {
            say("alias", format!("letters, digits, '_', '-' and '.', without the separator '{}'", self.separator));
        }
        if self.separator.is_empty() || self.separator.chars().any(|c| !is_topic_char(c)) {
            say("separator", "letters, digits, '_', '-' and '.'".into());
        }
        if self.security_protocol.has_sasl() {
            for (key, missing) in [
                ("sasl_mechanism", self.sasl_mechanism.is_none()),
                ("username", self.username.is_none()),
                ("password", self.password.is_none()),
            ] {
                if missing {
                    say(key, format!("needed with security_protocol = \"{}\"", self.security_protocol.name()));
                }
            }
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            say("certificate_file", "certificate_file and key_file belong together".into());
        }
        let sizes = [("batch_size", self.batch_size, 1 << 20), ("max_request_size", self.max_request_size, 16 << 20)];
        for (key, size, most) in sizes {
            if !(1 << 10..=most).contains(&size.as_u64()) {
                say(key, format!("between 1 KiB and {}", ByteSize(most)));
            }
        }
        if self.linger > LONGEST_LINGER {
            say("linger", format!("at most {}", humantime::format_duration(LONGEST_LINGER)));
        }
        wrong
    }

    /// The brokers to begin with.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.bootstrap_servers.iter().filter_map(|s| s.parse().ok()).collect()
    }

    /// Reads the certificates.
    pub fn security(&self) -> Result<Security, super::client::Error> {
        let files = TlsFiles {
            ca: self.ca_file.clone(),
            certificate: self.certificate_file.clone(),
            key: self.key_file.clone(),
        };
        let tls = self.security_protocol.has_tls().then(|| Tls::from_files(&files)).transpose()?;
        let sasl = match (self.sasl_mechanism, &self.username, &self.password) {
            (Some(mechanism), Some(username), Some(password)) if self.security_protocol.has_sasl() => {
                Some(Sasl { mechanism, username: username.clone(), password: password.clone() })
            }
            _ => None,
        };
        Ok(Security { tls, sasl })
    }
}

/// Which topics a link takes, and their names at the target.
#[derive(Debug)]
pub(super) struct Policy {
    include: Vec<Regex>,
    exclude: Vec<Regex>,
    naming: Naming,
    /// `<alias><separator>`
    prefix: String,
    /// `<link><separator>`: what came from the target.
    from_target: String,
}

impl Policy {
    /// For the link `name` of the node `node`.
    pub(super) fn new(config: &Config, name: &str, node: &str) -> Result<Self, String> {
        let alias = config.alias.clone().unwrap_or_else(|| {
            // A host's name may hold what a topic's may not, and must not hold the separator.
            let fits = |c: char| if is_topic_char(c) && !config.separator.contains(c) { c } else { '-' };
            node.chars().map(fits).collect()
        });
        let compile = |patterns: &[String]| patterns.iter().map(|p| whole(p)).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            include: compile(&config.topics)?,
            exclude: compile(&config.topics_exclude)?,
            naming: config.naming,
            prefix: format!("{alias}{}", config.separator),
            from_target: format!("{name}{}", config.separator),
        })
    }

    /// The topic's name at the target; `None` if it is not mirrored.
    ///
    /// What came from the target, or carries our own prefix, would go round in circles.
    pub(super) fn target(&self, topic: &str) -> Option<String> {
        let is_loop = topic.starts_with(&self.from_target) || topic.starts_with(&self.prefix);
        // What was lost here must be known there, whatever else is mirrored.
        let is_included = topic == EVENTS_TOPIC || self.include.iter().any(|r| r.is_match(topic));
        if is_loop || !is_included || self.exclude.iter().any(|r| r.is_match(topic)) {
            return None;
        }
        match self.naming {
            Naming::Identity => Some(topic.to_owned()),
            _ => Some(format!("{}{topic}", self.prefix)),
        }
    }

    /// What is wrong with a name at the target.
    pub(super) fn check(target: &str) -> Result<(), String> {
        if target.len() > NAME_BYTES {
            return Err(format!("'{target}' is longer than the {NAME_BYTES} characters Kafka allows"));
        }
        Ok(())
    }
}

/// A pattern that must match the whole name, as Java's `matches`.
fn whole(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|e| format!("'{pattern}': {e}"))
}

fn is_topic_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn yes() -> bool {
    true
}

fn dot() -> String {
    ".".into()
}

fn every_topic() -> Vec<String> {
    vec![".*".into()]
}

/// MirrorMaker 2's own.
fn internal_topics() -> Vec<String> {
    [r".*[\-\.]internal", r".*\.replica", "__.*"].map(String::from).to_vec()
}

fn target_default() -> i16 {
    -1
}

fn batch_size() -> ByteSize {
    ByteSize::kib(128)
}

fn request_size() -> ByteSize {
    ByteSize::kib(512)
}

/// A longer wait is a mistake.
const LONGEST_LINGER: Duration = Duration::from_secs(60);

fn linger() -> Duration {
    Duration::from_millis(100)
}

fn an_hour() -> Duration {
    Duration::from_secs(3_600)
}

fn a_minute() -> Duration {
    Duration::from_secs(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_shortest_table_is_enough() {
        let c = config("bootstrap_servers = [\"kafka:9092\"]");
        assert_eq!(c.check(), []);
        assert!(c.enabled && c.create_topics);
        assert_eq!((c.naming, c.security_protocol), (Naming::Prefix, Protocol::Plaintext));
    }

    #[test]
    fn names_follow_mirror_maker() {
        let c = config("bootstrap_servers = [\"k:1\"]\ntopics = [\"metric\\\\..*\", \"a|b\"]");
        let p = Policy::new(&c, "central", "pi.local").unwrap();
        assert_eq!(p.target("metric.cpu").as_deref(), Some("pi-local.metric.cpu"));
        assert_eq!(p.target("b").as_deref(), Some("pi-local.b"));
        for not in ["xmetric.cpu", "ab", "__consumer_offsets", "metric.internal", "central.metric.cpu", "pi-local.a"] {
            assert_eq!(p.target(not), None, "{not}");
        }
        let c = config("bootstrap_servers = [\"k:1\"]\nnaming = \"identity\"");
        let p = Policy::new(&c, "central", "pi").unwrap();
        assert_eq!(p.target("metric.cpu").as_deref(), Some("metric.cpu"));
        assert!(Policy::check(&"x".repeat(250)).is_err());
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let c = config(
            "bootstrap_servers = [\"kafka\"]\ntopics = [\"(\"]\nnaming = \"shared\"\nalias = \"a.b\"\n\
             security_protocol = \"SASL_SSL\"\ncertificate_file = \"/x\"\nbatch_size = \"1GiB\"",
        );
        let keys: Vec<String> = c.check().into_iter().map(|(k, _)| k).collect();
        assert_eq!(
            keys,
            [
                "bootstrap_servers",
                "topics",
                "naming",
                "alias",
                "sasl_mechanism",
                "username",
                "password",
                "certificate_file",
                "batch_size"
            ]
        );
        assert!(toml::from_str::<Config>("bootstrap_servers = []\nbootstrap = 1").is_err());
    }
}
