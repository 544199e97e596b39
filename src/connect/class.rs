//! The classes of connectors by name, and a connector's table read into its class's settings.
//!
//! A class is found by its short name or by the Java class it stands in for, so that configurations written for
//! Kafka Connect name a connector that exists. Never starts anything; reading a table has no effect.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{Source, SourceError, Surroundings, host, mqtt};

/// One class of connectors.
#[derive(Debug)]
pub struct Class {
    /// The short name.
    pub name: &'static str,
    /// The Java classes it stands in for.
    pub java_names: &'static [&'static str],
    read: fn(Table) -> Result<Settings, Vec<Invalid>>,
}

/// Every class that can be configured.
pub const CLASSES: &[Class] = &[
    Class {
        name: "host-metrics",
        java_names: &[],
        read: |table| host::Config::parse(table).map(Settings::HostMetrics),
    },
    Class {
        name: "mqtt-source",
        java_names: &["io.lenses.streamreactor.connect.mqtt.source.MqttSourceConnector"],
        read: |table| mqtt::Config::parse(table).map(|config| Settings::Mqtt(Box::new(config))),
    },
];

impl Class {
    /// The class of that short or Java name; a Java name may leave out its package and the word `Connector`, as
    /// Connect's aliases do.
    pub fn find(name: &str) -> Option<&'static Self> {
        let bare = |java: &'static str| java.rsplit('.').next().unwrap_or(java);
        CLASSES.iter().find(|c| {
            c.name == name
                || c.java_names.iter().any(|j| {
                    *j == name || bare(j) == name || bare(j).strip_suffix("Connector").is_some_and(|b| b == name)
                })
        })
    }
}

/// What one class needs to run.
#[derive(Clone, Debug)]
pub enum Settings {
    /// `host-metrics`.
    HostMetrics(host::Config),
    /// `mqtt-source`.
    Mqtt(Box<mqtt::Config>),
    /// What a test makes of it.
    #[cfg(test)]
    #[expect(private_interfaces, reason = "only for tests")]
    Made(super::testing::Maker),
}

impl Settings {
    /// Makes the source.
    ///
    /// # Errors
    /// What the source lacks in its surroundings, such as a certificate's file; the worker tries again.
    pub fn build(&self, surroundings: &Surroundings) -> Result<Box<dyn Source>, SourceError> {
        match self {
            Self::HostMetrics(config) => Ok(Box::new(host::HostMetrics::new(config.clone(), surroundings))),
            Self::Mqtt(config) => Ok(Box::new(mqtt::MqttSource::new((**config).clone(), surroundings))),
            #[cfg(test)]
            Self::Made(maker) => (maker.0)(),
        }
    }
}

/// One connector as configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its class.
    pub class: &'static Class,
    /// False keeps it stopped.
    pub enabled: bool,
    /// The class's own settings.
    pub settings: Settings,
}

/// One thing that is wrong in a connector's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Path of the key inside the table; empty for the table itself.
    pub key: Vec<String>,
    /// What was expected there.
    pub reason: String,
    /// For an unknown key or class, the known ones; else empty.
    pub known: Vec<String>,
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key.join("."))?;
        }
        f.write_str(&self.reason)?;
        if !self.known.is_empty() {
            write!(f, ", expected one of {}", self.known.join(", "))?;
        }
        Ok(())
    }
}

impl Invalid {
    /// A wrong value of one key.
    pub fn at(key: &str, reason: impl Into<String>) -> Self {
        Self { key: vec![key.to_owned()], reason: reason.into(), known: Vec::new() }
    }
}

impl Config {
    /// Reads the table of the connector called `name`: `class`, `enabled` and the class's own keys.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(name: &str, mut table: Table) -> Result<Self, Vec<Invalid>> {
        let mut wrong = Vec::new();
        if let Err(reason) = check_name(name) {
            wrong.push(Invalid { key: Vec::new(), reason, known: Vec::new() });
        }
        let enabled = match table.remove("enabled") {
            None => true,
            Some(Value::Boolean(enabled)) => enabled,
            Some(_) => {
                wrong.push(Invalid::at("enabled", "expected true or false"));
                true
            }
        };
        let class = match table.remove("class") {
            None => Err(("the key 'class' is missing".to_owned(), Vec::new())),
            Some(Value::String(class)) => Class::find(&class).ok_or_else(|| {
                (format!("unknown connector class '{class}'"), CLASSES.iter().map(|c| c.name.to_owned()).collect())
            }),
            Some(_) => Err(("expected the name of a connector class".to_owned(), Vec::new())),
        };
        let class = match class {
            Ok(class) => class,
            Err((reason, known)) => {
                wrong.push(Invalid { key: vec!["class".to_owned()], reason, known });
                return Err(wrong);
            }
        };
        match (class.read)(table) {
            Ok(settings) if wrong.is_empty() => Ok(Self { class, enabled, settings }),
            Ok(_) => Err(wrong),
            Err(more) => {
                wrong.extend(more);
                Err(wrong)
            }
        }
    }
}

/// Kafka Connect takes any name; one with a slash could never be addressed again over REST, and a NUL separates the
/// name from the rest in the keys of saved positions.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 100 {
        return Err("a connector's name has 1 to 100 bytes".to_owned());
    }
    if name.chars().any(|c| c.is_control() || c == '/') {
        return Err("a connector's name has no '/' and no control characters".to_owned());
    }
    Ok(())
}

/// Reads a class's own keys, all errors at once: what is wrong is noted, taken out and the rest read again.
pub(super) fn read<T: DeserializeOwned>(mut table: Table) -> Result<T, Vec<Invalid>> {
    let mut wrong: Vec<Invalid> = Vec::new();
    loop {
        let error = match Value::Table(table.clone()).try_into::<T>() {
            Ok(settings) if wrong.is_empty() => return Ok(settings),
            Ok(_) => return Err(wrong),
            Err(error) => error,
        };
        let invalid = locate(&error);
        // A key that is required and was taken out because it was wrong is now missing: said already.
        let is_repeated = wrong.iter().any(|w| w.key.first() == invalid.key.first());
        let top = invalid.key.first().cloned();
        if !is_repeated {
            wrong.push(invalid);
        }
        if is_repeated || top.is_none_or(|t| table.remove(&t).is_none()) {
            return Err(wrong);
        }
    }
}

/// Where the error lies and what it says. The path and the field are only in the error's text.
fn locate(error: &toml::de::Error) -> Invalid {
    let text = error.to_string();
    let message = error.message().trim();
    let mut key: Vec<String> = text
        .lines()
        .last()
        .and_then(|l| l.strip_prefix("in `")?.strip_suffix('`'))
        .map(|path| path.split('.').map(str::to_owned).collect())
        .unwrap_or_default();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match quoted.split_first() {
        Some((field, known)) if message.starts_with("unknown field") => {
            if key.last().map(String::as_str) != Some(*field) {
                key.push((*field).to_owned());
            }
            Invalid { key, reason: "unknown key".to_owned(), known: known.iter().map(|&k| k.to_owned()).collect() }
        }
        Some((value, known)) if message.starts_with("unknown variant") => {
            let known = known.iter().map(|&k| k.to_owned()).collect();
            Invalid { key, reason: format!("unknown value '{value}'"), known }
        }
        Some((field, _)) if message.starts_with("missing field") => {
            key.push((*field).to_owned());
            Invalid { key, reason: "this key is required".to_owned(), known: Vec::new() }
        }
        _ => Invalid { key, reason: message.to_owned(), known: Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Vec<Invalid>> {
        Config::parse("x", toml::from_str(text).unwrap())
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[expect(dead_code, reason = "only read")]
        url: String,
        #[serde(default, with = "humantime_serde")]
        #[expect(dead_code, reason = "only read")]
        wait: std::time::Duration,
    }

    fn example(text: &str) -> Vec<String> {
        read::<Example>(toml::from_str(text).unwrap()).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_class_is_found_by_either_name() {
        for class in CLASSES {
            assert_eq!(Class::find(class.name).unwrap().name, class.name);
            for java in class.java_names {
                assert_eq!(Class::find(java).unwrap().name, class.name);
            }
        }
        for alias in ["MqttSourceConnector", "MqttSource"] {
            assert_eq!(Class::find(alias).unwrap().name, "mqtt-source");
        }
        assert!(Class::find("host").is_none());
    }

    #[test]
    fn an_unknown_class_names_the_known_ones() {
        let wrong = parse("class = 'hosts'").unwrap_err();
        assert_eq!(wrong[0].key, ["class"]);
        assert!(
            wrong[0].to_string().starts_with("class: unknown connector class 'hosts', expected one of host-metrics")
        );
        assert_eq!(parse("enabled = true").unwrap_err()[0].reason, "the key 'class' is missing");
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let wrong = parse("class = 'host-metrics'\nenabled = 1\ntopik = 'a'\nperiod = 'soon'").unwrap_err();
        let keys: Vec<_> = wrong.iter().map(|w| w.key.join(".")).collect();
        assert_eq!(keys.len(), 3, "{wrong:?}");
        for key in ["enabled", "topik", "period"] {
            assert!(keys.contains(&key.to_owned()), "{key} in {keys:?}");
        }
        let topik = wrong.iter().find(|w| w.key == ["topik"]).unwrap();
        assert!(topik.known.contains(&"topic".to_owned()), "{topik:?}");
    }

    #[test]
    fn a_required_key_that_was_wrong_is_not_also_missing() {
        assert_eq!(example("wait = '1s'"), ["url: this key is required"]);
        assert_eq!(example("url = 1"), ["url: invalid type: integer `1`, expected a string"]);
        assert_eq!(example("url = 'x'\nurk = 1"), ["urk: unknown key, expected one of url, wait"]);
    }

    #[test]
    fn names_that_could_not_be_addressed_are_refused() {
        let table: Table = toml::from_str("class = 'host-metrics'").unwrap();
        for name in ["", "a/b", "a\0b", &"x".repeat(101)] {
            assert!(Config::parse(name, table.clone()).is_err(), "{name:?}");
        }
        assert!(Config::parse("a b.c", table).is_ok());
    }
}
