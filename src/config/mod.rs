//! The configuration file: composed of each module's own section, checked as a whole, all errors at once.
//!
//! The shipped `config/brooklet.toml` is the default: a user's file is laid over it key by key. A connector or stream
//! of the user's that names its `class` or `from` replaces a built-in one of the same name; one that does not, such
//! as `enabled = false` alone, changes it. Nobody below this module sees the whole.

mod document;
mod sections;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

use document::{Document, KeyPath};
pub use sections::{Log, Node, Topic};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::{admin, connect, kafka, mirror, streams};

/// The documented default file, as shipped.
pub const DEFAULTS: &str = include_str!("../../config/brooklet.toml");

/// Where the daemon looks when no file is named.
pub const SYSTEM_FILE: &str = "/etc/brooklet/brooklet.toml";

/// The configuration in force.
pub struct Config {
    /// The file it came from, or `None` for the built-in defaults.
    pub file: Option<PathBuf>,
    /// `[node]`.
    pub node: Node,
    /// `[log]`.
    pub log: Log,
    /// `[kafka]`.
    pub kafka: kafka::Config,
    /// `[admin]`.
    pub admin: admin::Config,
    /// `[topics.NAME]`: made at start.
    pub topics: BTreeMap<String, Topic>,
    /// `[connectors.NAME]`, those that are enabled.
    pub connectors: BTreeMap<String, connect::Config>,
    /// `[streams.NAME]`, those that are enabled.
    pub streams: BTreeMap<String, streams::Config>,
    /// `[mirror.NAME]`, those that are enabled.
    pub mirror: BTreeMap<String, mirror::Config>,
    values: Table,
    secrets: BTreeSet<KeyPath>,
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file's name.
    pub file: String,
    /// The line, from 1; 0 if there is none.
    pub line: usize,
    /// The key's full path.
    pub key: String,
    /// What stands there, secrets masked.
    pub value: Option<String>,
    /// What was expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        match (&self.key, &self.value) {
            (key, _) if key.is_empty() => {}
            (key, Some(value)) => write!(f, "{key} = {value}: ")?,
            (key, None) => write!(f, "{key}: ")?,
        }
        f.write_str(&self.message)
    }
}

/// What the command line says beyond the file; it beats the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--listen`, for Kafka.
    pub listen: Option<String>,
    /// `--admin`.
    pub admin: Option<String>,
}

/// The file named, or the system's if it exists, and its text; no text without a file.
fn read(file: Option<&Path>) -> Result<(Option<PathBuf>, String), Vec<Problem>> {
    let system = Path::new(SYSTEM_FILE);
    let Some(path) = file.or_else(|| system.exists().then_some(system)) else { return Ok((None, String::new())) };
    let text = fs::read_to_string(path).map_err(|e| {
        vec![Problem {
            file: path.display().to_string(),
            line: 0,
            key: String::new(),
            value: None,
            message: format!("cannot be read: {e}"),
        }]
    })?;
    Ok((Some(path.to_owned()), text))
}

/// Where the daemon of that file, the system's or the defaults answers over HTTP.
///
/// Looks at nothing else: who asks for the status need not be allowed to read the secrets, nor have the service's
/// environment.
///
/// # Errors
/// A file that cannot be read or is no TOML.
pub fn admin_address(file: Option<&Path>) -> Result<String, Vec<Problem>> {
    let (file, text) = read(file)?;
    let name = file.map_or_else(|| "built-in defaults".to_owned(), |f| f.display().to_string());
    let document = Document::parse(&name, &text).map_err(|p| vec![p])?;
    let listen = [String::from("admin"), String::from("listen")];
    let defaults: Table = toml::from_str(DEFAULTS).expect("the shipped file is parsed by a test");
    let of = |values: &Table| document::find(values, &listen).and_then(Value::as_str).map(str::to_owned);
    Ok(of(&document.values).or_else(|| of(&defaults)).unwrap_or_default())
}

impl Config {
    /// Reads the file named, or the system's if it exists, or the defaults.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the file.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, Vec<Problem>> {
        let (file, text) = read(file)?;
        Self::parse(file.as_deref(), &text, overrides, &|name| std::env::var(name).ok())
    }

    /// As [`Self::load`], from a text; `environment` looks variables up.
    pub fn parse(
        file: Option<&Path>,
        text: &str,
        overrides: &Overrides,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<Problem>> {
        let name = file.map_or_else(|| "built-in defaults".to_owned(), |f| f.display().to_string());
        let mut document = Document::parse(&name, text).map_err(|p| vec![p])?;
        let mut problems = Vec::new();
        let secrets = document.resolve(environment, &mut problems);
        let mut values: Table = toml::from_str(DEFAULTS).expect("the shipped file is parsed by a test");
        merge(&mut values, document.values.clone());
        override_values(&mut values, overrides);

        let mut reader = Reader { document: &document, problems };
        reader.check_sections(&values);
        let node: Option<Node> = reader.section(&mut values, &["node"]);
        let log: Option<Log> = reader.section(&mut values, &["log"]);
        let kafka: Option<kafka::Config> = reader.section(&mut values, &["kafka"]);
        let admin: Option<admin::Config> = reader.section(&mut values, &["admin"]);
        let topics = reader.named(&mut values, "topics", |r, v, path| r.section(v, path));
        let connectors = reader.named(&mut values, "connectors", Reader::connector);
        let streams = reader.named(&mut values, "streams", |r, v, path| r.section::<streams::Config>(v, path));
        let mirror = reader.named(&mut values, "mirror", |r, v, path| r.section::<mirror::Config>(v, path));
        reader.cross_check(log.as_ref(), kafka.as_ref(), &topics, &streams, &mirror);

        let Reader { mut problems, .. } = reader;
        problems.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
        problems.dedup();
        let (Some(mut node), Some(log), Some(kafka), Some(admin), true) =
            (node, log, kafka, admin, problems.is_empty())
        else {
            return Err(problems);
        };
        node.fill_in(environment);
        Ok(Self {
            file: file.map(Path::to_owned),
            node,
            log,
            kafka,
            admin,
            topics,
            connectors: connectors.into_iter().filter(|(_, c)| c.enabled).collect(),
            streams: streams.into_iter().filter(|(_, s)| s.enabled).collect(),
            mirror: mirror.into_iter().filter(|(_, m)| m.enabled).collect(),
            values,
            secrets,
        })
    }

    /// The tables of a section, such as `connectors`, that are new, gone or not the same in `other`.
    pub fn differing(&self, other: &Self, section: &str) -> BTreeSet<String> {
        let of = |config: &Self| config.values.get(section).and_then(Value::as_table).cloned().unwrap_or_default();
        let (ours, theirs) = (of(self), of(other));
        ours.keys().chain(theirs.keys()).filter(|name| ours.get(*name) != theirs.get(*name)).cloned().collect()
    }

    /// The values in force as TOML, secrets masked.
    pub fn show(&self) -> String {
        let mut values = self.values.clone();
        mask(&mut values, &KeyPath::default(), &self.secrets);
        toml::to_string(&values).expect("a table of values can be written")
    }
}

fn override_values(values: &mut Table, overrides: &Overrides) {
    let mut set = |section: &str, key: &str, value: Value| {
        if let Some(Value::Table(table)) = values.get_mut(section) {
            table.insert(key.to_owned(), value);
        }
    };
    if let Some(dir) = &overrides.data_dir {
        set("node", "data_dir", Value::String(dir.display().to_string()));
    }
    if let Some(listen) = &overrides.listen {
        set("kafka", "listeners", Value::Array(vec![Value::String(format!("PLAINTEXT://{listen}"))]));
    }
    if let Some(listen) = &overrides.admin {
        set("admin", "listen", Value::String(listen.clone()));
    }
}

/// Lays `over` on `base`, table by table.
fn merge(base: &mut Table, over: Table) {
    for (section, value) in over {
        let defining = match section.as_str() {
            "connectors" => Some("class"),
            "streams" => Some("from"),
            _ => None,
        };
        match (base.get_mut(&section), value) {
            (Some(Value::Table(b)), Value::Table(o)) => merge_section(b, o, defining),
            (_, value) => {
                base.insert(section, value);
            }
        }
    }
}

fn merge_section(base: &mut Table, over: Table, defining: Option<&str>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(b)), Value::Table(o)) if !defining.is_some_and(|d| o.contains_key(d)) => {
                merge_section(b, o, None);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn mask(table: &mut Table, path: &KeyPath, secrets: &BTreeSet<KeyPath>) {
    for (key, value) in table.iter_mut() {
        let here = path.join([key.clone()]);
        match value {
            Value::Table(t) => mask(t, &here, secrets),
            _ if secrets.contains(&here) || document::is_secret_key(key) => *value = Value::String("****".into()),
            _ => {}
        }
    }
}

/// Reads sections and collects what is wrong with them.
struct Reader<'a> {
    document: &'a Document,
    problems: Vec<Problem>,
}

const SECTIONS: [&str; 8] = ["node", "log", "kafka", "admin", "topics", "connectors", "streams", "mirror"];

impl Reader<'_> {
    fn check_sections(&mut self, values: &Table) {
        for (key, value) in values {
            let path = KeyPath::of(&[key]);
            if !SECTIONS.contains(&key.as_str()) {
                self.problems.push(self.document.problem(&path, unknown(key, SECTIONS.iter().copied())));
            } else if !value.is_table() {
                self.problems.push(self.document.problem(&path, "expected a table"));
            }
        }
    }

    /// Reads one table into its type. Each wrong key is noted, taken out, and the rest read again.
    fn section<T: DeserializeOwned>(&mut self, values: &mut Table, path: &[&str]) -> Option<T> {
        let base = KeyPath::of(path);
        let mut seen = BTreeSet::new();
        loop {
            let value = document::find(values, &base.0)?.clone();
            let error = match serde_path_to_error::deserialize(value) {
                Ok(section) => return Some(section),
                Err(error) => error,
            };
            let mut inside: Vec<String> = error
                .path()
                .iter()
                .filter_map(|s| match s {
                    serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
                    serde_path_to_error::Segment::Map { key } => Some(key.clone()),
                    serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => None,
                })
                .collect();
            let text = error.into_inner().message().trim().to_owned();
            let quoted: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
            let mut message = text.clone();
            if text.starts_with("unknown field")
                && let Some((field, known)) = quoted.split_first()
            {
                if inside.last().map(String::as_str) != Some(*field) {
                    inside.push((*field).to_owned());
                }
                message = unknown(field, known.iter().copied());
            } else if text.starts_with("missing field")
                && let Some(field) = quoted.first()
            {
                // Taken out because it was wrong: said already.
                if !seen.contains(&base.join(inside.iter().cloned().chain([(*field).to_owned()]))) {
                    let path = base.join(inside);
                    self.problems.push(self.document.problem(&path, format!("the key '{field}' is missing")));
                }
                return None;
            }
            let path = base.join(inside);
            self.problems.push(self.document.problem(&path, message));
            if path == base || !document::remove(values, &path.0) || !seen.insert(path) {
                return None;
            }
        }
    }

    /// Reads a connector by its class.
    fn connector(&mut self, values: &mut Table, path: &[&str]) -> Option<connect::Config> {
        let base = KeyPath::of(path);
        let table = document::find(values, &base.0)?.as_table()?.clone();
        match connect::Config::parse(path.last().copied().unwrap_or_default(), table) {
            Ok(config) => Some(config),
            Err(wrong) => {
                for invalid in wrong {
                    let last = invalid.key.last().map_or("", String::as_str);
                    let message = match invalid.known.as_slice() {
                        [] => invalid.reason,
                        known if invalid.reason.starts_with("unknown key") => {
                            unknown(last, known.iter().map(String::as_str))
                        }
                        known => format!("{}, expected one of {}", invalid.reason, known.join(", ")),
                    };
                    self.problems.push(self.document.problem(&base.join(invalid.key), message));
                }
                None
            }
        }
    }

    /// Reads every table of a section that holds named ones.
    fn named<T>(
        &mut self,
        values: &mut Table,
        section: &str,
        read: impl Fn(&mut Self, &mut Table, &[&str]) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let names: Vec<String> = match values.get(section) {
            Some(Value::Table(table)) => table.keys().cloned().collect(),
            _ => Vec::new(),
        };
        let mut out = BTreeMap::new();
        for name in names {
            let path = [section, name.as_str()];
            if document::find(values, &KeyPath::of(&path).0).is_some_and(|v| !v.is_table()) {
                self.problems.push(self.document.problem(&KeyPath::of(&path), "expected a table"));
            } else if let Some(value) = read(self, values, &path) {
                out.insert(name, value);
            }
        }
        out
    }

    /// Checks that name one section's topics and another's.
    fn cross_check(
        &mut self,
        log: Option<&Log>,
        kafka: Option<&kafka::Config>,
        topics: &BTreeMap<String, Topic>,
        streams: &BTreeMap<String, streams::Config>,
        mirror: &BTreeMap<String, mirror::Config>,
    ) {
        for (key, message) in log.map(Log::check).unwrap_or_default() {
            self.problems.push(self.document.problem(&KeyPath::of(&["log", key]), message));
        }
        for problem in kafka.map(kafka::Config::problems).unwrap_or_default() {
            self.problems.push(self.document.problem(&KeyPath::parse(&problem.key), problem.expected));
        }
        for (name, topic) in topics {
            for (key, message) in topic.check() {
                let path = KeyPath::of(&["topics", name, &key]);
                self.problems.push(self.document.problem(&path, message));
            }
        }
        for problem in streams::check(streams) {
            let key = KeyPath::parse(&problem.key).0.into_iter().filter(|k| !k.is_empty());
            let path = KeyPath::of(&["streams", &problem.stream]).join(key);
            self.problems.push(self.document.problem(&path, problem.reason));
        }
        for (name, link) in mirror {
            for (key, message) in link.check() {
                let path = KeyPath::of(&["mirror", name, &key]);
                let file = format!("{path}_file");
                if self.problems.iter().any(|p| p.key == file) {
                    // Missing because its file could not be read, which is said already.
                    continue;
                }
                self.problems.push(self.document.problem(&path, message));
            }
        }
    }
}

/// Says that a key is unknown and names the nearest known one.
fn unknown<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let nearest = known.iter().map(|k| (distance(key, k), *k)).min();
    match nearest {
        Some((d, name)) if d <= 3.max(key.len() / 3) => format!("unknown key; did you mean '{name}'?"),
        _ if known.is_empty() => "unknown key".to_owned(),
        _ => format!("unknown key; known here: {}", known.join(", ")),
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row.last().copied().unwrap_or(0)
}
