//! A stream's configuration, compiled and checked, all problems at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Config;
use crate::{
    expr::{self, Expression, RECORD_VARIABLES, Scope, Uses},
    groups::offsets::MAX_GROUP_ID_BYTES,
};

/// What follows the application id in the name of the dead letters' topic.
const DEAD_LETTERS: &str = ".dlq";

/// Something wrong with the streams' configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("streams.{stream}{}{key}: {reason}", if key.is_empty() { "" } else { "." })]
pub struct Problem {
    /// The stream.
    pub stream: String,
    /// The key within its table, such as `branches[1].when`.
    pub key: String,
    /// The value there, or empty if it is missing.
    pub value: String,
    /// What is wrong, and what was expected.
    pub reason: String,
}

/// A stream ready to run.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) name: Arc<str>,
    pub(super) from: Vec<Arc<str>>,
    /// Each once, in the order of the configuration.
    pub(super) targets: Vec<Arc<str>>,
    pub(super) dead_letters: Arc<str>,
    /// What its expressions use of a record.
    pub(super) uses: Uses,
    filter: Option<Expression>,
    map: Option<Expression>,
    branches: Vec<(Expression, usize)>,
    /// Where a record goes that no branch takes.
    otherwise: Option<usize>,
}

/// What becomes of one record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Dropped,
    /// It goes to that target as it is.
    Passed(usize),
    /// It goes to that target with another value.
    Mapped(usize, Option<Vec<u8>>),
}

impl Topology {
    /// Evaluates the stream's expressions; they are bounded, so the time is, too.
    pub(super) fn judge(&self, scope: &Scope, limit_bytes: usize) -> Result<Verdict, expr::Error> {
        if let Some(filter) = &self.filter
            && !filter.is_true(scope)?
        {
            return Ok(Verdict::Dropped);
        }
        let mut target = self.otherwise;
        for (when, to) in &self.branches {
            if when.is_true(scope)? {
                target = Some(*to);
                break;
            }
        }
        let Some(target) = target else { return Ok(Verdict::Dropped) };
        match &self.map {
            None => Ok(Verdict::Passed(target)),
            Some(map) => Ok(Verdict::Mapped(target, map.value(scope, limit_bytes)?)),
        }
    }
}

/// All problems of all streams; empty if they can run. Streams that are off are checked as well, but for loops.
pub fn check(configs: &BTreeMap<String, Config>) -> Vec<Problem> {
    compile_all(configs).err().unwrap_or_default()
}

/// Compiles all streams, by name.
pub(super) fn compile_all(configs: &BTreeMap<String, Config>) -> Result<BTreeMap<String, Topology>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut topologies = BTreeMap::new();
    for (name, config) in configs {
        let mut compiler = Compiler { stream: name, problems: &mut problems };
        let topology = compiler.compile(config);
        topologies.insert(name.clone(), topology);
    }
    problems.extend(loops(configs));
    if problems.is_empty() { Ok(topologies) } else { Err(problems) }
}

struct Compiler<'a> {
    stream: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Compiler<'_> {
    fn compile(&mut self, config: &Config) -> Topology {
        let dead_letters: Arc<str> = format!("{}{DEAD_LETTERS}", self.stream).into();
        // The application id is a group's name and part of a topic's.
        if let Err(reason) = topic_name(&dead_letters) {
            self.problem("", self.stream, format!("'{dead_letters}' would hold its dead letters, but {reason}"));
        } else if self.stream.len() > MAX_GROUP_ID_BYTES {
            self.problem("", self.stream, format!("longer than {MAX_GROUP_ID_BYTES} bytes"));
        }
        if config.from.is_empty() {
            self.problem("from", "", "expected at least one source topic".to_owned());
        }
        let mut from = Vec::new();
        for (i, topic) in config.from.iter().enumerate() {
            self.topic(&format!("from[{i}]"), topic);
            if *topic == *dead_letters {
                self.problem(&format!("from[{i}]"), topic, "a stream cannot read its own dead letters".to_owned());
            }
            if config.from[..i].contains(topic) {
                self.problem(&format!("from[{i}]"), topic, "is named twice".to_owned());
            } else {
                from.push(Arc::from(topic.as_str()));
            }
        }
        if config.branches.is_empty() && config.to.is_none() {
            self.problem("to", "", "expected a target topic, or branches".to_owned());
        }
        let mut uses = Uses::default();
        let filter = config.filter.as_deref().and_then(|f| self.expression("filter", f, &mut uses));
        let map = config.map.as_deref().and_then(|m| self.expression("map", m, &mut uses));
        let mut targets: Vec<Arc<str>> = Vec::new();
        let mut branches = Vec::new();
        for (i, branch) in config.branches.iter().enumerate() {
            let when = self.expression(&format!("branches[{i}].when"), &branch.when, &mut uses);
            self.topic(&format!("branches[{i}].to"), &branch.to);
            let to = position(&mut targets, &branch.to);
            branches.extend(when.map(|w| (w, to)));
        }
        let otherwise = config.to.as_deref().map(|to| {
            self.topic("to", to);
            position(&mut targets, to)
        });
        let name = self.stream.into();
        Topology { name, from, targets, dead_letters, uses, filter, map, branches, otherwise }
    }

    fn expression(&mut self, key: &str, source: &str, uses: &mut Uses) -> Option<Expression> {
        match Expression::compile(source, RECORD_VARIABLES) {
            Ok(expression) => {
                uses.extend(expression.uses());
                Some(expression)
            }
            Err(error) => {
                self.problem(key, source, error.to_string());
                None
            }
        }
    }

    fn topic(&mut self, key: &str, name: &str) {
        if let Err(reason) = topic_name(name) {
            self.problem(key, name, reason);
        }
    }

    fn problem(&mut self, key: &str, value: &str, reason: String) {
        self.problems.push(Problem { stream: self.stream.into(), key: key.into(), value: value.into(), reason });
    }
}

fn position(targets: &mut Vec<Arc<str>>, name: &str) -> usize {
    targets.iter().position(|t| **t == *name).unwrap_or_else(|| {
        targets.push(name.into());
        targets.len() - 1
    })
}

/// Kafka's rule for topic names.
fn topic_name(name: &str) -> Result<(), String> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 249 || name == "." || name == ".." || !name.chars().all(is_legal) {
        return Err("expected a topic name: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'".to_owned());
    }
    Ok(())
}

/// The enabled streams whose records would come round again for ever. Dead letters are left out: a record that fails
/// again goes to them once more, and nobody but a stream made for it reads them.
fn loops(configs: &BTreeMap<String, Config>) -> Vec<Problem> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for config in configs.values().filter(|c| c.enabled) {
        for from in &config.from {
            next.entry(from).or_default().extend(targets(config).map(|(_, to)| to));
        }
    }
    let mut problems = Vec::new();
    for (name, config) in configs.iter().filter(|(_, c)| c.enabled) {
        for (key, to) in targets(config) {
            if let Some(source) = config.from.iter().find(|from| reaches(&next, to, from)) {
                let reason = format!("the records of '{source}' would come back to it through '{to}' for ever");
                problems.push(Problem { stream: name.clone(), key, value: to.to_owned(), reason });
            }
        }
    }
    problems
}

fn targets(config: &Config) -> impl Iterator<Item = (String, &str)> {
    let branches = config.branches.iter().enumerate().map(|(i, b)| (format!("branches[{i}].to"), b.to.as_str()));
    branches.chain(config.to.as_deref().map(|to| ("to".to_owned(), to)))
}

fn reaches(next: &BTreeMap<&str, BTreeSet<&str>>, start: &str, goal: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
    while let Some(topic) = open.pop() {
        if topic == goal {
            return true;
        }
        if seen.insert(topic) {
            open.extend(next.get(topic).into_iter().flatten().copied());
        }
    }
    false
}
