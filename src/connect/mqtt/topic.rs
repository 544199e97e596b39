//! Topic filters, and the map from MQTT topics to Kafka topics and keys.
//!
//! Pure: text in, text out. A topic is mapped by the first filter that matches it, whatever subscription the broker
//! sent it for; a subscription that another one covers is not made at all, so that a message comes once.

use std::{borrow::Cow, sync::Arc};

use super::packet::Subscription;
use crate::expr::{self, Scope, Variable};

/// Kafka's longest topic name.
const LONGEST_KAFKA_TOPIC: usize = 249;

/// A checked MQTT topic filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// As it is sent to the broker.
    text: String,
    /// Where the filter begins behind `$share/<group>/`.
    start: usize,
}

impl Filter {
    /// Checks a filter by the rules of MQTT 5 section 4.7.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut start = 0;
        if let Some(rest) = text.strip_prefix("$share/") {
            let Some((group, filter)) = rest.split_once('/') else {
                return Err(format!("'{text}' lacks the filter; expected $share/<group>/<filter>"));
            };
            if group.is_empty() || group.contains(['+', '#']) {
                return Err(format!("'{group}' is no group of a shared subscription"));
            }
            start = text.len() - filter.len();
        }
        let filter = &text[start..];
        if filter.is_empty() {
            return Err("an empty filter matches nothing".to_owned());
        }
        if text.len() > 65_535 || text.contains('\0') {
            return Err("a filter has at most 65535 bytes and no NUL".to_owned());
        }
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            let is_last = levels.peek().is_none();
            if level.contains('#') && (level != "#" || !is_last) {
                return Err(format!("in '{text}' the # must be the last level, alone"));
            }
            if level.contains('+') && level != "+" {
                return Err(format!("in '{text}' the + must fill its level, as in a/+/b"));
            }
        }
        Ok(Self { text: text.to_owned(), start })
    }

    /// As it is sent to the broker.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    fn is_shared(&self) -> bool {
        self.start > 0
    }

    fn levels(&self) -> std::str::Split<'_, char> {
        self.text[self.start..].split('/')
    }

    /// True if the topic matches. A wildcard at the front does not match a topic that begins with `$`.
    pub(super) fn matches(&self, topic: &str) -> bool {
        let mut wanted = self.levels();
        let mut levels = topic.split('/');
        let mut is_first = true;
        loop {
            match (wanted.next(), levels.next()) {
                (Some("#" | "+"), Some(level)) if is_first && level.starts_with('$') => return false,
                // `a/#` matches `a` too.
                (Some("#"), _) => return true,
                (Some("+"), Some(_)) => {}
                (Some(want), Some(level)) if want == level => {}
                (None, None) => return true,
                _ => return false,
            }
            is_first = false;
        }
    }

    /// True if every topic that `other` matches is matched by this one too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        if self.is_shared() || other.is_shared() {
            return self == other;
        }
        let mut mine = self.levels();
        let mut theirs = other.levels();
        let mut is_first = true;
        loop {
            match (mine.next(), theirs.next()) {
                (Some("#" | "+"), Some(level)) if is_first && level.starts_with('$') => return false,
                (Some("#"), _) => return true,
                (_, Some("#")) => return false,
                (Some("+"), Some(_)) => {}
                (Some(want), Some(level)) if want == level => {}
                (None, None) => return true,
                _ => return false,
            }
            is_first = false;
        }
    }
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The Kafka topic.
    pub(super) topic: Arc<str>,
    /// The key; `None`: no key.
    pub(super) key: Option<String>,
}

/// One row of the map, ready to use.
#[derive(Debug)]
struct Route {
    filter: Filter,
    topic: Template,
    /// The topic, if it is the same for all.
    fixed_topic: Option<Arc<str>>,
    /// `None`: the MQTT topic.
    key: Option<Template>,
    qos: u8,
}

/// The whole map.
#[derive(Debug)]
pub(super) struct Routes(Vec<Route>);

impl Routes {
    /// Reads the map of a configuration that was checked.
    pub(super) fn new(config: &super::Config) -> Result<Self, String> {
        config
            .map
            .iter()
            .map(|row| {
                let topic = Template::parse(&row.topic)?;
                let fixed_topic = topic.literal().map(Arc::from);
                let key = row.key.as_deref().map(Template::parse).transpose()?;
                let qos = row.qos.unwrap_or(config.qos);
                Ok(Route { filter: Filter::parse(&row.filter)?, topic, fixed_topic, key, qos })
            })
            .collect::<Result<_, String>>()
            .map(Self)
    }

    /// What to subscribe to, with the number of its row; without the filters that another one covers, whose QoS then
    /// counts for both if it is greater.
    pub(super) fn subscriptions(&self) -> Vec<(usize, Subscription)> {
        let covered_by = |i: usize| {
            self.0.iter().enumerate().find(|(j, route)| {
                *j != i && route.filter.covers(&self.0[i].filter) && (*j < i || !self.0[i].filter.covers(&route.filter))
            })
        };
        (0..self.0.len())
            .filter(|&i| covered_by(i).is_none())
            .map(|i| {
                let filter = &self.0[i].filter;
                let qos = self.0.iter().filter(|r| filter.covers(&r.filter)).map(|r| r.qos).max();
                (i, Subscription { filter: filter.as_str().to_owned(), qos: qos.unwrap_or(self.0[i].qos) })
            })
            .collect()
    }

    /// The row for a topic: the first that matches.
    pub(super) fn find(&self, topic: &str) -> Option<usize> {
        self.0.iter().position(|route| route.filter.matches(topic))
    }

    /// True if a copy that came for the subscriptions `ids` (1 + row) is the one to record. Brokers may send one copy
    /// per subscription that matches; of the subscribed rows the first counts.
    pub(super) fn is_wanted(&self, topic: &str, ids: &[usize], subscribed: &[usize]) -> bool {
        if ids.is_empty() {
            return true;
        }
        match subscribed.iter().find(|&&row| self.0.get(row).is_some_and(|r| r.filter.matches(topic))) {
            Some(first) => ids.contains(&(first + 1)),
            None => true,
        }
    }

    /// Topic and key for a message that row `row` maps.
    pub(super) fn target(&self, row: usize, mqtt_topic: &str, payload: &[u8]) -> Result<Target, String> {
        let route = &self.0[row];
        let topic = match &route.fixed_topic {
            Some(topic) => Arc::clone(topic),
            None => {
                let rendered = route.topic.render(mqtt_topic, payload).map_err(|e| format!("topic template: {e}"))?;
                let topic = kafka_topic(&rendered);
                check_kafka_topic(&topic).map_err(|e| format!("topic template: {e}"))?;
                Arc::from(topic.as_ref())
            }
        };
        let key = match &route.key {
            None => Some(mqtt_topic.to_owned()),
            Some(template) => {
                let key = template.render(mqtt_topic, payload).map_err(|e| format!("key template: {e}"))?;
                (!key.is_empty()).then_some(key)
            }
        };
        Ok(Target { topic, key })
    }
}

/// What templates may use: the MQTT topic, its levels, and the payload (JSON if it is).
const VARIABLES: &[&str] = &["topic", "levels", "value"];
/// Longest key or topic a template makes.
const LONGEST_TEXT_BYTES: usize = 64 << 10;

/// A text with holes. Those for the topic and its levels, which nearly all maps use, are filled without an engine.
#[derive(Debug)]
enum Template {
    Plain(Vec<Part>),
    Full(expr::Template),
}

#[derive(Debug)]
enum Part {
    Text(String),
    Topic,
    Level(usize),
}

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        match plain(text) {
            Some(parts) => Ok(Self::Plain(parts)),
            None => expr::Template::compile(text, VARIABLES).map(Self::Full).map_err(|e| e.to_string()),
        }
    }

    fn literal(&self) -> Option<&str> {
        match self {
            Self::Plain(parts) => match parts.as_slice() {
                [] => Some(""),
                [Part::Text(text)] => Some(text),
                _ => None,
            },
            Self::Full(_) => None,
        }
    }

    fn render(&self, topic: &str, payload: &[u8]) -> Result<String, String> {
        match self {
            Self::Plain(parts) => {
                let mut out = String::new();
                for part in parts {
                    match part {
                        Part::Text(text) => out.push_str(text),
                        Part::Topic => out.push_str(topic),
                        Part::Level(n) => {
                            out.push_str(topic.split('/').nth(*n).ok_or_else(|| format!("there is no levels[{n}]"))?);
                        }
                    }
                }
                Ok(out)
            }
            Self::Full(template) => {
                let levels: Vec<&str> = topic.split('/').collect();
                let mut variables = vec![("topic", Variable::Text(topic)), ("levels", Variable::Texts(&levels))];
                if template.uses().has("value") {
                    variables.push(("value", Variable::Payload(Some(payload))));
                }
                template.render(&Scope::new(&variables), LONGEST_TEXT_BYTES).map_err(|e| e.to_string())
            }
        }
    }
}

/// The parts of a template that has nothing in it but `{{ topic }}` and `{{ levels[n] }}`.
fn plain(text: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        let (inside, behind) = after.split_once("}}")?;
        let inside = inside.trim();
        parts.push(match inside.strip_prefix("levels[").and_then(|r| r.strip_suffix(']')) {
            Some(n) => Part::Level(n.trim().parse().ok()?),
            None if inside == "topic" => Part::Topic,
            None => return None,
        });
        rest = behind;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    let is_plain = |part: &Part| !matches!(part, Part::Text(text) if text.contains(['{', '}']));
    parts.iter().all(is_plain).then_some(parts)
}

/// What is wrong with a template, if anything.
pub(super) fn check_template(text: &str) -> Result<(), String> {
    Template::parse(text).map(|_| ())
}

/// What is wrong with a template for a Kafka topic; one without holes must be a topic's name.
pub(super) fn check_topic_template(text: &str) -> Result<(), String> {
    match Template::parse(text)?.literal() {
        Some(name) => check_kafka_topic(name),
        None => Ok(()),
    }
}

/// What is wrong with a Kafka topic's name, if anything.
pub(super) fn check_kafka_topic(name: &str) -> Result<(), String> {
    if name.is_empty() || name == "." || name == ".." || name.len() > LONGEST_KAFKA_TOPIC {
        return Err(format!("'{name}' is no topic name; expected 1 to {LONGEST_KAFKA_TOPIC} characters"));
    }
    if let Some(c) = name.chars().find(|&c| !is_kafka_topic_char(c)) {
        return Err(format!("'{name}' has '{c}' in it; a topic's name has letters, digits, '.', '_' and '-'"));
    }
    Ok(())
}

fn is_kafka_topic_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// `_` for every character Kafka does not allow.
fn kafka_topic(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_kafka_topic_char) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_kafka_topic_char(c) { c } else { '_' }).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::parse(text).unwrap()
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        for (pattern, topic, is_match) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/b", "a", false),
            ("a/+", "a/b", true),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "a/b", true),
            ("#", "/", true),
            ("#", "$SYS/uptime", false),
            ("+/uptime", "$SYS/uptime", false),
            ("$SYS/#", "$SYS/uptime", true),
            ("$SYS/+", "$SYS/uptime", true),
            ("sport/+/player1", "sport/tennis/player1", true),
            ("$share/g/a/+", "a/b", true),
            ("$share/g/a/+", "$share/g/a/b", false),
            ("$share/g/#", "$SYS/x", false),
            ("a/b", "A/b", false),
        ] {
            assert_eq!(filter(pattern).matches(topic), is_match, "{pattern} against {topic}");
        }
    }

    #[test]
    fn wrong_filters_are_refused_with_a_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("a/#/b", "last level"),
            ("a#", "last level"),
            ("a+/b", "fill its level"),
            ("$share/g", "lacks the filter"),
            ("$share//a", "no group"),
            ("$share/+/a", "no group"),
            ("$share/g/", "empty"),
            ("a\0", "no NUL"),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn covering_filters_are_subscribed_alone_with_the_greatest_qos() {
        let config: super::super::Config = toml::from_str(
            r#"url = "mqtt://h"
               map = [ { filter = "a/b", topic = "x", qos = 2 }, { filter = "a/+", topic = "y" },
                       { filter = "c/#", topic = "z", qos = 0 }, { filter = "+/b", topic = "w" } ]"#,
        )
        .unwrap();
        let routes = Routes::new(&config).unwrap();
        let made: Vec<_> = routes.subscriptions().into_iter().map(|(i, s)| (i, s.filter, s.qos)).collect();
        assert_eq!(made, [(1, "a/+".into(), 2), (2, "c/#".into(), 0), (3, "+/b".into(), 2)]);
        // Mapped by the first that matches, subscribed or not.
        assert_eq!(routes.find("a/b"), Some(0));
        // Two copies come for a/b, for rows 1 and 3: the first counts.
        let subscribed = [1, 2, 3];
        assert!(routes.is_wanted("a/b", &[2], &subscribed));
        assert!(!routes.is_wanted("a/b", &[4], &subscribed));
        assert!(routes.is_wanted("a/b", &[4, 2], &subscribed), "one copy for both");
        assert!(routes.is_wanted("a/b", &[], &subscribed), "a broker without identifiers");
    }

    #[test]
    fn templates_fill_topic_and_key() {
        let config: super::super::Config = toml::from_str(
            r##"url = "mqtt://h"
               map = [ { filter = "s/+/t", topic = "s.t", key = "{{ levels[1] }}" },
                       { filter = "m/#", topic = "m.{{ levels[1] }}", key = "" },
                       { filter = "j/#", topic = "j", key = "{{ value.id }}-{{ levels | last | upper }}" },
                       { filter = "#", topic = "all" } ]"##,
        )
        .unwrap();
        let routes = Routes::new(&config).unwrap();
        let target = |topic: &str| routes.target(routes.find(topic).unwrap(), topic, br#"{"id": 7}"#);
        assert_eq!(target("s/4711/t").unwrap(), Target { topic: "s.t".into(), key: Some("4711".into()) });
        assert_eq!(target("m/küche 1/x").unwrap(), Target { topic: "m.k_che_1".into(), key: None });
        assert_eq!(target("q/r").unwrap(), Target { topic: "all".into(), key: Some("q/r".into()) });
        assert_eq!(target("j/a/b").unwrap().key.as_deref(), Some("7-B"));
        assert!(target("m").unwrap_err().contains("topic template"));
    }

    proptest! {
        /// `covers` says yes only if there is no topic that the other matches and this one does not.
        #[test]
        fn covering_means_matching_whatever_the_other_matches(
            a in "(\\+|x|y|\\$s)(/(\\+|x|y)){0,2}(/#)?", b in "(\\+|x|y|\\$s)(/(\\+|x|y)){0,2}(/#)?",
            topics in prop::collection::vec("(x|y|z|\\$s)(/(x|y|z)){0,3}", 20),
        ) {
            let (a, b) = (filter(&a), filter(&b));
            if a.covers(&b) {
                for topic in &topics {
                    prop_assert!(!b.matches(topic) || a.matches(topic), "{a:?} {b:?} {topic}");
                }
            }
        }

        #[test]
        fn no_text_panics(text in ".*", topic in ".*") {
            if let Ok(filter) = Filter::parse(&text) {
                filter.matches(&topic);
            }
            let _any = check_topic_template(&text);
        }
    }
}
