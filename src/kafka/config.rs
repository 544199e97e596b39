//! The table `[kafka]` of the configuration file.
//!
//! Data and its checks; never opens a socket.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::settings;
use crate::{groups, memory::SMALL_BYTES, txn, wire::ApiKey};

/// The table `[kafka]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen: `PLAINTEXT://HOST:PORT`; port 0 lets the system choose, an empty host means every address.
    pub listeners: Vec<Listener>,
    /// The address clients are told to connect to: `auto` for the one each of them reached, or `HOST:PORT`.
    pub advertised: Advertised,
    /// What clients may take.
    pub limits: Limits,
    /// Kafka's broker settings by their own names.
    pub broker: BTreeMap<String, Value>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: vec![Listener { host: "127.0.0.1".into(), port: 9092 }],
            advertised: Advertised::Auto,
            limits: Limits::default(),
            broker: BTreeMap::from([
                ("node.id".into(), Value::Number(1)),
                ("num.partitions".into(), Value::Number(1)),
                ("auto.create.topics.enable".into(), Value::Flag(true)),
                ("log.retention.ms".into(), Value::Number(604_800_000)),
                ("group.initial.rebalance.delay.ms".into(), Value::Number(0)),
                ("group.min.session.timeout.ms".into(), Value::Number(6000)),
            ]),
        }
    }
}

impl Config {
    /// What the broker settings of the file, or their defaults, say about groups.
    pub fn groups(&self) -> groups::Config {
        let number = |name: &str| self.number(name);
        let milliseconds = |name: &str| i32::try_from(number(name)).unwrap_or(i32::MAX);
        let retention_minutes = number("offsets.retention.minutes");
        groups::Config {
            min_session_timeout_ms: milliseconds("group.min.session.timeout.ms"),
            max_session_timeout_ms: milliseconds("group.max.session.timeout.ms"),
            initial_rebalance_delay_ms: u64::try_from(number("group.initial.rebalance.delay.ms")).unwrap_or(0),
            max_size: usize::try_from(number("group.max.size")).unwrap_or(1),
            consumer_session_timeout_ms: u64::try_from(number("group.consumer.session.timeout.ms")).unwrap_or(1),
            consumer_heartbeat_interval_ms: milliseconds("group.consumer.heartbeat.interval.ms"),
            consumer_max_size: usize::try_from(number("group.consumer.max.size")).unwrap_or(1),
            consumer_assignors: self.assignors(),
            may_upgrade: self.migrates("upgrade"),
            may_downgrade: self.migrates("downgrade"),
            max_metadata_bytes: usize::try_from(number("offset.metadata.max.bytes")).unwrap_or(0),
            offsets_retention_ms: (retention_minutes != i64::from(i32::MAX))
                .then(|| u64::try_from(retention_minutes).unwrap_or(0) * 60_000),
            ..groups::Config::default()
        }
    }

    /// What they say about transactions.
    pub fn transactions(&self) -> txn::Config {
        txn::Config {
            max_timeout_ms: i32::try_from(self.number("transaction.max.timeout.ms")).unwrap_or(i32::MAX),
            expiration_ms: u64::try_from(self.number("transactional.id.expiration.ms")).unwrap_or(u64::MAX),
            ..txn::Config::default()
        }
    }

    /// A broker setting of the file, or its default.
    fn number(&self, name: &str) -> i64 {
        let stated = self.broker.get(name).and_then(|value| value.to_string().parse::<i64>().ok());
        stated.or_else(|| settings::broker_setting(name)?.default?.parse().ok()).unwrap_or(0)
    }

    /// The same for a text.
    fn text(&self, name: &str) -> String {
        let stated = self.broker.get(name).map(ToString::to_string);
        stated.or_else(|| Some(settings::broker_setting(name)?.default?.to_owned())).unwrap_or_default()
    }

    /// Whether groups go that way between the protocols while they have members.
    fn migrates(&self, way: &str) -> bool {
        let policy = self.text("group.consumer.migration.policy");
        policy == way || policy == "bidirectional"
    }

    /// The server-side assignors, the default first.
    fn assignors(&self) -> Vec<groups::Assignor> {
        let words = self.text("group.consumer.assignors");
        words.split(',').filter_map(|word| groups::Assignor::named(word.trim())).collect()
    }

    /// Settings of the consumer group protocol that do not fit each other, as Kafka checks them.
    fn check_consumer_groups(&self, mut wrong: impl FnMut(&str, String, String)) {
        for what in ["session.timeout.ms", "heartbeat.interval.ms"] {
            let name = format!("group.consumer.{what}");
            let (low, high) = (format!("group.consumer.min.{what}"), format!("group.consumer.max.{what}"));
            let (value, least, most) = (self.number(&name), self.number(&low), self.number(&high));
            if !(least..=most).contains(&value) {
                let key = format!("kafka.broker.\"{name}\"");
                wrong(&key, value.to_string(), format!("from {least} ({low}) to {most} ({high})"));
            }
        }
        let session_timeout_ms = self.number("group.consumer.session.timeout.ms");
        let interval_ms = self.number("group.consumer.heartbeat.interval.ms");
        if interval_ms >= session_timeout_ms {
            let key = "kafka.broker.\"group.consumer.heartbeat.interval.ms\"";
            wrong(key, interval_ms.to_string(), format!("less than the session time-out, {session_timeout_ms}"));
        }
    }

    /// Everything that is wrong with it, by key.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, value: String, expected: String| {
            problems.push(Problem { key: key.to_owned(), value, expected });
        };
        if self.listeners.is_empty() {
            wrong("kafka.listeners", "[]".into(), "at least one listener".into());
        }
        for (name, value) in &self.broker {
            if let Err(why) = settings::check_file(name, &value.to_string()) {
                wrong(&format!("kafka.broker.\"{name}\""), value.to_string(), why);
            }
        }
        self.check_consumer_groups(&mut wrong);
        let limits = &self.limits;
        if limits.max_connections == 0 {
            wrong("kafka.limits.max_connections", "0".into(), "at least 1".into());
        }
        let least_memory = ByteSize(limits.max_frame_bytes.as_u64().saturating_mul(2)).max(LEAST_MEMORY);
        for (key, size, least) in [
            ("max_frame_bytes", limits.max_frame_bytes, ByteSize::kib(4)),
            ("max_produce_bytes", limits.max_produce_bytes, ByteSize::kib(4)),
            // Three eighths of it are for large requests, and any but Produce must fit there.
            ("memory_limit", limits.memory_limit, least_memory),
        ] {
            if size < least || size > ByteSize::gib(1) {
                wrong(&format!("kafka.limits.{key}"), size.to_string(), format!("from {least} to 1 GiB"));
            }
        }
        if limits.stall_timeout.is_zero() || limits.stall_timeout > LONGEST_STALL {
            let stall_timeout = humantime::format_duration(limits.stall_timeout).to_string();
            let most = humantime::format_duration(LONGEST_STALL);
            wrong("kafka.limits.stall_timeout", stall_timeout, format!("more than nothing and at most {most}"));
        }
        problems
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, from the top of the file.
    pub key: String,
    /// The value found.
    pub value: String,
    /// What was expected.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.key, self.value, self.expected)
    }
}

/// What clients may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most connections at a time, over all listeners; one more is closed at once.
    pub max_connections: usize,
    /// Largest request but Produce.
    pub max_frame_bytes: ByteSize,
    /// Largest Produce request.
    pub max_produce_bytes: ByteSize,
    /// Bytes of all requests and answers in flight, and of batches that are unpacked; who finds no room waits. A batch
    /// or a request may have three eighths of it; what is larger is refused.
    pub memory_limit: ByteSize,
    /// How long a client may pause inside a frame, or before it takes an answer, beside a second per 64 KiB.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
}

/// An eighth of the budget is for small requests and answers, and has to hold two of the largest.
const LEAST_MEMORY: ByteSize = ByteSize::b(16 * SMALL_BYTES as u64);
/// A client that is silent for longer within a frame is gone.
const LONGEST_STALL: Duration = Duration::from_secs(600);

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1000,
            max_frame_bytes: ByteSize::mib(1),
            max_produce_bytes: ByteSize::mib(16),
            memory_limit: ByteSize::mib(14),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// Largest frame of that API.
    pub(super) fn frame_bytes(&self, api_key: i16) -> usize {
        let most = if api_key == ApiKey::Produce as i16 { self.max_produce_bytes } else { self.max_frame_bytes };
        usize::try_from(most.as_u64()).unwrap_or(usize::MAX)
    }

    /// Bytes of the memory budget.
    pub fn memory_bytes(&self) -> usize {
        usize::try_from(self.memory_limit.as_u64()).unwrap_or(usize::MAX)
    }
}

/// A broker setting's value as TOML has it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A number with a fraction.
    Fraction(f64),
    /// Text.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Fraction(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
        }
    }
}

/// The address clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertised {
    /// The one each client reached.
    Auto,
    /// This one.
    Address {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

/// One `PLAINTEXT://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Host name or address; empty for every address.
    pub host: String,
    /// Port; 0 lets the system choose.
    pub port: u16,
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = match text.split_once("://") {
            None => text,
            Some((protocol, address)) if protocol.eq_ignore_ascii_case("PLAINTEXT") => address,
            Some((protocol, _)) => {
                return Err(format!("listener protocol '{protocol}' is not supported, expected PLAINTEXT://HOST:PORT"));
            }
        };
        let (host, port) = host_and_port(address)?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "PLAINTEXT://[{}]:{}", self.host, self.port);
        }
        write!(f, "PLAINTEXT://{}:{}", self.host, self.port)
    }
}

impl FromStr for Advertised {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let (host, port) = host_and_port(text.strip_prefix("PLAINTEXT://").unwrap_or(text))?;
        if host.is_empty() || port == 0 {
            return Err(format!("'{text}' is no address a client can reach, expected 'auto' or HOST:PORT"));
        }
        Ok(Self::Address { host, port })
    }
}

impl fmt::Display for Advertised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Address { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Address { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let expected = || format!("'{text}' is not HOST:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Ok((host.to_owned(), port.parse().map_err(|_| expected())?))
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

as_text!(Listener, Advertised);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table_is_the_default() {
        let text = r#"
            listeners = ["PLAINTEXT://127.0.0.1:9092"]
            advertised = "auto"
            [limits]
            max_connections = 1000
            max_frame_bytes = "1MiB"
            max_produce_bytes = "16MiB"
            memory_limit = "14MiB"
            stall_timeout = "30s"
            [broker]
            "node.id" = 1
            "num.partitions" = 1
            "auto.create.topics.enable" = true
            "log.retention.ms" = 604800000
            "group.initial.rebalance.delay.ms" = 0
            "group.min.session.timeout.ms" = 6000
        "#;
        assert_eq!(toml::from_str::<Config>(text).unwrap(), Config::default());
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        let printed = toml::to_string(&Config::default()).unwrap();
        assert_eq!(toml::from_str::<Config>(&printed).unwrap(), Config::default());
        assert_eq!(Config::default().problems(), []);
    }

    #[test]
    fn group_settings_reach_the_groups() {
        assert_eq!(Config::default().groups(), groups::Config::default());
        let text = "[broker]\n\"group.min.session.timeout.ms\" = 10\n\"offsets.retention.minutes\" = 2";
        let stated = toml::from_str::<Config>(text).unwrap().groups();
        assert_eq!((stated.min_session_timeout_ms, stated.offsets_retention_ms), (10, Some(120_000)));
    }

    #[test]
    fn addresses_are_read_and_wrong_ones_named() {
        let listener: Listener = "PLAINTEXT://[::1]:0".parse().unwrap();
        assert_eq!((listener.host.as_str(), listener.port), ("::1", 0));
        assert_eq!(listener.to_string(), "PLAINTEXT://[::1]:0");
        assert_eq!("localhost:9092".parse::<Listener>().unwrap().port, 9092);
        assert!("SASL_SSL://h:1".parse::<Listener>().unwrap_err().contains("SASL_SSL"));
        assert!("localhost".parse::<Listener>().is_err());
        assert_eq!("h:9".parse(), Ok(Advertised::Address { host: "h".into(), port: 9 }));
        assert!("h:0".parse::<Advertised>().is_err());
    }

    #[test]
    fn every_problem_is_reported() {
        let text = r#"
            listeners = []
            [limits]
            memory_limit = "1MiB"
            [broker]
            "num.partition" = 3
            "num.partitions" = "many"
            "max.connections" = 3
        "#;
        let problems = toml::from_str::<Config>(text).unwrap().problems();
        let keys: Vec<_> = problems.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "kafka.listeners",
                "kafka.broker.\"max.connections\"",
                "kafka.broker.\"num.partition\"",
                "kafka.broker.\"num.partitions\"",
                "kafka.limits.memory_limit"
            ]
        );
    }

    #[test]
    fn the_memory_holds_what_may_come() {
        for (frame, memory, is_enough) in
            [("4KiB", "1MiB", true), ("4KiB", "512KiB", false), ("1MiB", "1536KiB", false)]
        {
            let text = format!("[limits]\nmax_frame_bytes = \"{frame}\"\nmemory_limit = \"{memory}\"\n");
            let problems = toml::from_str::<Config>(&text).unwrap().problems();
            assert_eq!(problems.is_empty(), is_enough, "{problems:?}");
        }
    }
}
