//! What can be set on an MQTT source, and what is wrong with it, all at once.
//!
//! Never opens a file or a socket: files are read when the source starts, so that a rotated password or certificate
//! is picked up by the next connection.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use serde::Deserialize;

use super::topic::{self, Filter};
use crate::{
    connect::{Invalid, class},
    secret::Secret,
};

/// Which MQTT is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1: a session lasts until the broker throws it away, and retained messages come again after each
    /// reconnection.
    V3,
    /// MQTT 5.
    #[default]
    V5,
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        /// `5` is as good as `"5"`.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Text(String),
            Number(f64),
        }
        let text = match Spelling::deserialize(d) {
            Ok(Spelling::Text(text)) => text,
            Ok(Spelling::Number(number)) => number.to_string(),
            Err(_) => String::new(),
        };
        match text.as_str() {
            "3.1.1" => Ok(Self::V3),
            "5" | "5.0" => Ok(Self::V5),
            _ => Err(serde::de::Error::custom("expected \"5\" or \"3.1.1\"")),
        }
    }
}

/// What an empty payload becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptyPayload {
    /// A record with an empty value: the payload untouched.
    #[default]
    Empty,
    /// A record without a value, which deletes the key in a compacted topic, as an empty retained message deletes the
    /// retained one in MQTT.
    Tombstone,
    /// No record.
    Skip,
}

/// The settings of one MQTT source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The broker: `mqtt://host[:1883]` or `mqtts://host[:8883]`.
    pub url: Option<String>,
    /// Several brokers, each with a session of its own; or with `failover` the nodes of one cluster.
    #[serde(default)]
    pub urls: Vec<String>,
    /// True: `urls` name nodes of one cluster, of which one at a time is connected.
    #[serde(default)]
    pub failover: bool,
    /// `"5"` or `"3.1.1"`.
    #[serde(default)]
    pub protocol: Protocol,
    /// Names the session at the broker; must not change and not be shared. Default: `brooklet-<node>-<connector>`.
    pub client_id: Option<String>,
    /// User name.
    pub username: Option<String>,
    /// Password; better `password_file`.
    pub password: Option<Secret>,
    /// File that holds the password; a line end after it does not count.
    pub password_file: Option<PathBuf>,
    /// PEM file with the certificates of the authorities to trust. Default: the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client's certificate chain.
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the client's private key.
    pub key_file: Option<PathBuf>,
    /// QoS of the subscriptions: 0, 1 or 2.
    #[serde(default = "one")]
    pub qos: u8,
    /// Longest silence before a ping; 1 s to 18 h.
    #[serde(default = "keep_alive", with = "humantime_serde")]
    pub keep_alive: Duration,
    /// How long the broker keeps the session, and what it queues for it, while we are away (MQTT 5 only).
    #[serde(default = "session_expiry", with = "humantime_serde")]
    pub session_expiry: Duration,
    /// Most messages a broker may send ahead of our acknowledgement; 1 to 65535. MQTT 5 brokers are told; with 3.1.1 it
    /// is the broker's own setting (Mosquitto: `max_inflight_messages`, 20) and needs to be set here only if that is
    /// under 20.
    #[serde(default = "receive_maximum")]
    pub receive_maximum: u16,
    /// Largest packet that is taken; 1 KiB to 16 MiB. A larger one is acknowledged and noted in `dead_letters`.
    #[serde(default = "max_packet")]
    pub max_packet_bytes: ByteSize,
    /// What an empty payload becomes: `empty`, `tombstone` or `skip`.
    #[serde(default)]
    pub empty_payload: EmptyPayload,
    /// False: retained messages, which the broker kept from before the subscription, make no records.
    #[serde(default = "yes")]
    pub retained: bool,
    /// False: records carry no `mqtt.…` headers and no user properties.
    #[serde(default = "yes")]
    pub headers: bool,
    /// Topic for what cannot be mapped or is too large. Default: `<connector>.dlq`.
    pub dead_letters: Option<String>,
    /// Which messages go where; the first filter that matches counts.
    #[serde(default)]
    pub map: Vec<Map>,
}

/// One row of the map.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// MQTT topic filter with `+` and `#`, or `$share/<group>/<filter>`.
    pub filter: String,
    /// Kafka topic; a template over `topic`, `levels` and `value` (the payload, JSON if it is). Characters Kafka does not allow become `_`.
    pub topic: String,
    /// Record key; a template. Default: the MQTT topic. Empty: no key.
    pub key: Option<String>,
    /// QoS of this subscription instead of the connector's.
    pub qos: Option<u8>,
}

fn one() -> u8 {
    1
}

fn yes() -> bool {
    true
}

fn keep_alive() -> Duration {
    Duration::from_secs(60)
}

fn session_expiry() -> Duration {
    Duration::from_secs(7 * 24 * 3600)
}

fn receive_maximum() -> u16 {
    100
}

fn max_packet() -> ByteSize {
    ByteSize::mib(1)
}

/// A broker's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

impl Address {
    /// Reads `mqtt://host:port`, also with `tcp`, `mqtts`, `ssl`, `tls` and an IPv6 address in brackets.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| format!("'{url}' needs mqtt:// or mqtts:// in front"))?;
        let is_tls = match scheme {
            "mqtt" | "tcp" => false,
            "mqtts" | "ssl" | "tls" => true,
            other => return Err(format!("'{other}://' is not known; expected mqtt:// or mqtts://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err("a user name does not go into the URL; set username and password_file".to_owned());
        }
        let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => match rest.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() || host.contains(['/', '?', '#', ' ']) {
            return Err(format!("'{url}' names no host; expected mqtt://host:port"));
        }
        let port = match port {
            None => {
                if is_tls {
                    8883
                } else {
                    1883
                }
            }
            Some(text) => text
                .parse()
                .ok()
                .filter(|p| *p > 0)
                .ok_or_else(|| format!("'{text}' is no port; expected 1 to 65535"))?,
        };
        Ok(Self { host: host.to_owned(), port, is_tls })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl Config {
    /// Reads the class's own keys.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn parse(table: toml::Table) -> Result<Self, Vec<Invalid>> {
        let config: Self = class::read(table)?;
        let wrong = config.check();
        if wrong.is_empty() { Ok(config) } else { Err(wrong) }
    }

    /// What is wrong with the values together; empty if it can run.
    fn check(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        let mut say = |key: &str, what: String| wrong.push(Invalid::at(key, what));
        if self.url.is_some() && !self.urls.is_empty() {
            say("url", "set either url or urls".to_owned());
        }
        if self.url.is_none() && self.urls.is_empty() {
            say("url", "missing; expected mqtt://host:port or mqtts://host:port".to_owned());
        }
        let mut has_tls = false;
        for url in self.url.iter().chain(&self.urls) {
            match Address::parse(url) {
                Ok(address) => has_tls |= address.is_tls,
                Err(what) => say(if self.url.is_some() { "url" } else { "urls" }, what),
            }
        }
        if self.urls.iter().collect::<std::collections::BTreeSet<_>>().len() < self.urls.len() {
            say("urls", "the same broker twice would record every message twice".to_owned());
        }
        for (key, file) in
            [("ca_file", &self.ca_file), ("certificate_file", &self.certificate_file), ("key_file", &self.key_file)]
        {
            if file.is_some() && !has_tls {
                say(key, "has no meaning without mqtts://".to_owned());
            }
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            say("certificate_file", "certificate_file and key_file belong together".to_owned());
        }
        if self.password.is_some() && self.password_file.is_some() {
            say("password", "set either password or password_file".to_owned());
        }
        if self.username.is_none()
            && (self.password.is_some() || self.password_file.is_some())
            && self.protocol == Protocol::V3
        {
            say("username", "MQTT 3.1.1 knows no password without a user name".to_owned());
        }
        if let Some(id) = &self.client_id
            && (id.is_empty() || id.len() > 65_000)
        {
            say("client_id", "must not be empty: it names the session that survives a restart".to_owned());
        }
        if !(1..=65_535).contains(&self.keep_alive.as_secs()) {
            say("keep_alive", "expected 1s to 18h".to_owned());
        }
        if self.session_expiry.is_zero() {
            say("session_expiry", "must be more than 0, or what is published while we are away is lost".to_owned());
        }
        if self.receive_maximum == 0 {
            say("receive_maximum", "expected 1 to 65535".to_owned());
        }
        if !(1024..=16 << 20).contains(&self.max_packet_bytes.as_u64()) {
            say("max_packet_bytes", "expected 1KiB to 16MiB".to_owned());
        }
        if self.qos > 2 {
            say("qos", format!("{}; expected 0, 1 or 2", self.qos));
        }
        if let Some(topic) = &self.dead_letters
            && let Err(what) = topic::check_kafka_topic(topic)
        {
            say("dead_letters", what);
        }
        if self.map.is_empty() {
            say("map", "missing; expected [ { filter = \"sensors/#\", topic = \"sensors\" } ]".to_owned());
        }
        for (i, row) in self.map.iter().enumerate() {
            if let Err(what) = Filter::parse(&row.filter) {
                say(&format!("map[{i}].filter"), what);
            }
            if let Err(what) = topic::check_topic_template(&row.topic) {
                say(&format!("map[{i}].topic"), what);
            }
            if let Some(key) = &row.key
                && let Err(what) = topic::check_template(key)
            {
                say(&format!("map[{i}].key"), what);
            }
            if row.qos.is_some_and(|q| q > 2) {
                say(&format!("map[{i}].qos"), "expected 0, 1 or 2".to_owned());
            }
            if self.map[..i].iter().any(|earlier| earlier.filter == row.filter) {
                say(&format!("map[{i}].filter"), "is there already; the first one counts".to_owned());
            }
        }
        wrong
    }

    /// The brokers, each with its alternatives.
    pub(super) fn brokers(&self) -> Result<Vec<Vec<Address>>, String> {
        let all = self.url.iter().chain(&self.urls).map(|u| Address::parse(u)).collect::<Result<Vec<_>, _>>()?;
        Ok(if self.failover { vec![all] } else { all.into_iter().map(|a| vec![a]).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_example_of_the_interface_is_right() {
        let c = config(
            r#"url = "mqtts://broker.local:8883"
               username = "edge"
               password_file = "/etc/brooklet/credentials/mqtt"
               qos = 1
               map = [ { filter = "sensors/+/temperature", topic = "sensors.temperature", key = "{{ levels[1] }}" } ]"#,
        );
        assert_eq!(c.check(), Vec::<Invalid>::new());
        let broker = Address { host: "broker.local".into(), port: 8883, is_tls: true };
        assert_eq!(c.brokers().unwrap(), [[broker]]);
        assert_eq!((c.protocol, c.keep_alive.as_secs()), (Protocol::V5, 60));
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let c = config(
            r#"urls = ["http://h", "mqtt://h:0", "mqtt://u:p@h", "mqtt://h", "mqtt://h"]
               qos = 3
               ca_file = "ca.pem"
               key_file = "k.pem"
               keep_alive = "0s"
               session_expiry = "0s"
               receive_maximum = 0
               max_packet_bytes = "1B"
               client_id = ""
               dead_letters = "a b"
               map = [ { filter = "a/#/b", topic = "a b", key = "{{ x }}", qos = 9 }, { filter = "a/#/b", topic = "t" } ]"#,
        );
        let keys: Vec<_> = c.check().into_iter().map(|w| w.key.join(".")).collect();
        for key in [
            "urls",
            "qos",
            "ca_file",
            "key_file",
            "certificate_file",
            "keep_alive",
            "session_expiry",
            "receive_maximum",
            "max_packet_bytes",
            "client_id",
            "dead_letters",
            "map[0].filter",
            "map[0].topic",
            "map[0].key",
            "map[0].qos",
            "map[1].filter",
        ] {
            assert!(keys.iter().any(|k| k == key), "{key} in {keys:?}");
        }
        let empty: Vec<_> = config("").check().into_iter().map(|w| w.key.join(".")).collect();
        assert_eq!(empty, ["url", "map"]);
        assert!(
            toml::from_str::<Config>("protocol = '4'").unwrap_err().to_string().contains("expected \"5\" or \"3.1.1\"")
        );
        assert_eq!(config("protocol = 5").protocol, Protocol::V5);
        assert_eq!(config("protocol = '3.1.1'").protocol, Protocol::V3);
    }

    #[test]
    fn addresses_have_the_usual_ports() {
        let text = |url: &str| Address::parse(url).unwrap().to_string();
        assert_eq!(text("mqtt://h"), "mqtt://h:1883");
        assert_eq!(text("tcp://h/"), "mqtt://h:1883");
        assert_eq!(text("ssl://10.0.0.1"), "mqtts://10.0.0.1:8883");
        assert_eq!(text("mqtts://[::1]:1"), "mqtts://[::1]:1");
        for url in ["h:1883", "mqtt://", "mqtt://:1", "mqtt://h:x", "mqtt://h:70000", "ws://h", "mqtt://h/path"] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn several_brokers_are_all_read_or_stand_in_for_each_other() {
        let c = config("urls = ['mqtt://a', 'mqtt://b']");
        assert_eq!(c.brokers().unwrap().len(), 2);
        let c = config("urls = ['mqtt://a', 'mqtt://b']\nfailover = true");
        assert_eq!(c.brokers().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [2]);
    }
}
