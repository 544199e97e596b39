//! minijinja expressions and templates over a record.
//!
//! Compiled once, checked for unknown variables, filters and functions then, and evaluated against a [`Scope`] that
//! holds only the variables asked for, so that a record is parsed once and only if somebody looks into it.
//!
//! A field that is not there is undefined: it is false by itself (`value.flag`), can be asked for (`value.a is
//! defined`) or replaced (`value.a | default(0)`), and is an error wherever it is compared, printed, looked into or
//! put into a result, because a misspelt name must not become a silent "no". Evaluation never does I/O, is bounded in
//! steps and in the size of its result, and knows no clock. The only user of minijinja.

mod uses;

use std::{
    collections::HashSet,
    io::{self, Write},
    sync::{Arc, LazyLock},
};

use minijinja::{
    Environment, ErrorKind, UndefinedBehavior, Value,
    value::{Object, ValueKind},
};

pub use self::uses::Uses;
use crate::record::RecordView;

/// What [`Scope::of_record`] offers.
pub const RECORD_VARIABLES: &[&str] = &["key", "value", "headers", "timestamp", "topic", "partition", "offset"];

/// Most steps of one evaluation; a filter over a metric event takes about ten.
const FUEL: u64 = 100_000;
/// Deepest result, as deep as JSON is read.
const DEPTH: usize = 128;

/// Why an expression or template was refused, or failed on a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be compiled.
    #[error("{reason} at line {line}, column {column} of '{source_text}'")]
    Compile {
        /// What is wrong.
        reason: String,
        /// From 1.
        line: usize,
        /// In characters from 1.
        column: usize,
        /// What was to be compiled.
        source_text: String,
    },
    /// It fails on this record.
    #[error("{reason} in '{source_text}'")]
    Eval {
        /// What is wrong.
        reason: String,
        /// The expression.
        source_text: Arc<str>,
    },
}

/// An expression, such as `value.system.cpu.total.norm.pct > 0.5`.
#[derive(Clone, Debug)]
pub struct Expression {
    compiled: Arc<minijinja::Expression<'static, 'static>>,
    source: Arc<str>,
    uses: Uses,
}

/// Text with expressions in it, such as `{{ levels[1] }}/{{ value.unit }}`.
#[derive(Clone, Debug)]
pub struct Template {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
    uses: Uses,
}

/// The variables' values for one evaluation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scope(Value);

/// A variable's value as the caller has it.
#[derive(Clone, Copy, Debug)]
pub enum Variable<'a> {
    /// Text.
    Text(&'a str),
    /// A list of texts.
    Texts(&'a [&'a str]),
    /// A number.
    Number(i64),
    /// A payload: JSON if it is, else text if it is UTF-8, else bytes; `None` is none.
    Payload(Option<&'a [u8]>),
    /// Text if it is UTF-8, else bytes; `None` is none.
    Bytes(Option<&'a [u8]>),
}

impl Scope {
    /// A record's variables, those in `uses` only.
    ///
    /// `key` is text, `value` is parsed as JSON (of its members those in `uses`) and is text if it is not JSON, `headers` are texts by name (the last of
    /// a name), `timestamp` is in milliseconds since 1970.
    pub fn of_record(record: &RecordView<'_>, topic: &Arc<str>, partition: i32, uses: &Uses) -> Self {
        let mut fields = Vec::with_capacity(RECORD_VARIABLES.len());
        for name in RECORD_VARIABLES.iter().filter(|n| uses.has(n)) {
            let value = match *name {
                "key" => bytes_value(record.key),
                "value" => match record.value.and_then(|v| uses.read_payload(v)) {
                    Some(value) => value,
                    None => bytes_value(record.value),
                },
                "headers" => record
                    .headers()
                    .map(|h| (String::from_utf8_lossy(h.key).into_owned(), bytes_value(h.value)))
                    .collect(),
                "timestamp" => Value::from(record.timestamp_ms),
                "topic" => Value::from(Arc::clone(topic)),
                "partition" => Value::from(partition),
                _ => Value::from(record.offset),
            };
            fields.push((*name, value));
        }
        Self(Value::from_object(Fields(fields)))
    }

    /// Any variables. The caller leaves out what [`Template::uses`] does not name, where making it costs.
    pub fn new(variables: &[(&'static str, Variable<'_>)]) -> Self {
        let fields = variables.iter().map(|(name, variable)| {
            let value = match *variable {
                Variable::Text(text) => Value::from(text),
                Variable::Texts(texts) => texts.iter().map(|t| Value::from(*t)).collect(),
                Variable::Number(number) => Value::from(number),
                Variable::Payload(payload) => payload_value(payload),
                Variable::Bytes(bytes) => bytes_value(bytes),
            };
            (*name, value)
        });
        Self(Value::from_object(Fields(fields.collect())))
    }
}

/// A handful of variables; a search beats a map.
#[derive(Debug)]
struct Fields(Vec<(&'static str, Value)>);

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
    }
}

fn bytes_value(bytes: Option<&[u8]>) -> Value {
    match bytes {
        None => Value::from(()),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::from(text),
            Err(_) => Value::from_bytes(bytes.to_vec()),
        },
    }
}

fn payload_value(payload: Option<&[u8]>) -> Value {
    match payload {
        Some(bytes) => serde_json::from_slice(bytes).unwrap_or_else(|_| bytes_value(Some(bytes))),
        None => Value::from(()),
    }
}

/// Compiles every expression; built once, because it holds a table of all filters and tests.
static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| environment(UndefinedBehavior::SemiStrict));

fn environment(undefined: UndefinedBehavior) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(undefined);
    environment.set_fuel(Some(FUEL));
    // Its snapshots of source and variables would be taken for every record that fails.
    environment.set_debug(false);
    environment
}

impl Expression {
    /// Compiles; `variables` are those that may be used, such as [`RECORD_VARIABLES`].
    ///
    /// # Errors
    /// [`Error::Compile`] with the place, also for an unknown variable, filter, test or function.
    pub fn compile(source: &str, variables: &[&str]) -> Result<Self, Error> {
        let refused = |error: &minijinja::Error| compile_error(source, error);
        let compiled = ENVIRONMENT.compile_expression_owned(source.to_owned()).map_err(|e| refused(&e))?;
        check_variables(source, &compiled.undeclared_variables(false), variables)?;
        let uses = Uses::of_expression(source, variables);
        // Unknown filters show only when they run. With nothing defined and nothing strict, most of them do.
        let trial = environment(UndefinedBehavior::Chainable);
        let tried = trial.compile_expression(source).and_then(|e| e.eval(Value::from_object(Fields(Vec::new()))));
        if let Err(error) = tried
            && is_unknown_name(&error)
        {
            return Err(refused(&error));
        }
        Ok(Self { compiled: Arc::new(compiled), source: source.into(), uses })
    }

    /// What was compiled.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The variables it uses.
    pub fn uses(&self) -> &Uses {
        &self.uses
    }

    /// Whether it holds, by Python's rules of what is true.
    ///
    /// # Errors
    /// [`Error::Eval`]: a missing field, operands that do not fit, too many steps.
    pub fn is_true(&self, scope: &Scope) -> Result<bool, Error> {
        Ok(self.eval(scope)?.is_true())
    }

    /// The result as a record's value: text as it is, none as a tombstone (`None`), all else as JSON with the keys in
    /// their order.
    ///
    /// # Errors
    /// [`Error::Eval`] as [`Expression::is_true`], and for a result that holds an undefined member, bytes, infinity or
    /// more than `limit_bytes`.
    pub fn value(&self, scope: &Scope, limit_bytes: usize) -> Result<Option<Vec<u8>>, Error> {
        let result = self.eval(scope)?;
        if result.is_none() {
            return Ok(None);
        }
        let mut out = Bounded { bytes: Vec::new(), limit_bytes };
        let written = match result.as_str() {
            Some(text) => out.write_all(text.as_bytes()).map_err(|e| e.to_string()),
            None => write_json(&mut out, &result, DEPTH),
        };
        written.map_err(|reason| self.failed(reason))?;
        Ok(Some(out.bytes))
    }

    fn eval(&self, scope: &Scope) -> Result<Value, Error> {
        self.compiled.eval(&scope.0).map_err(|e| self.failed(reason(&e)))
    }

    fn failed(&self, reason: String) -> Error {
        Error::Eval { reason, source_text: Arc::clone(&self.source) }
    }
}

impl Template {
    const NAME: &'static str = "t";

    /// Compiles; `variables` are those that may be used.
    ///
    /// # Errors
    /// [`Error::Compile`] with the place, also for an unknown variable, filter, test or function.
    pub fn compile(source: &str, variables: &[&str]) -> Result<Self, Error> {
        let mut environment = environment(UndefinedBehavior::SemiStrict);
        environment.add_template_owned(Self::NAME, source.to_owned()).map_err(|e| compile_error(source, &e))?;
        let template = environment.get_template(Self::NAME).map_err(|e| compile_error(source, &e))?;
        check_variables(source, &template.undeclared_variables(false), variables)?;
        let uses = Uses::of_template(source, variables);
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        let tried = environment.render_str(source, Value::from_object(Fields(Vec::new())));
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        if let Err(error) = tried
            && is_unknown_name(&error)
        {
            return Err(compile_error(source, &error));
        }
        Ok(Self { environment: Arc::new(environment), source: source.into(), uses })
    }

    /// What was compiled.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The variables it uses.
    pub fn uses(&self) -> &Uses {
        &self.uses
    }

    /// The text.
    ///
    /// # Errors
    /// [`Error::Eval`] as [`Expression::is_true`], and for more than `limit_bytes` of text.
    pub fn render(&self, scope: &Scope, limit_bytes: usize) -> Result<String, Error> {
        let failed = |reason| Error::Eval { reason, source_text: Arc::clone(&self.source) };
        let template = self.environment.get_template(Self::NAME).map_err(|e| failed(reason(&e)))?;
        let mut out = Bounded { bytes: Vec::new(), limit_bytes };
        match template.render_captured_to(&scope.0, &mut out) {
            Ok(_) => String::from_utf8(out.bytes).map_err(|_| failed("text that is not UTF-8".to_owned())),
            Err(error) if error.kind() == ErrorKind::WriteFailure => Err(failed(too_large(limit_bytes).to_string())),
            Err(error) => Err(failed(reason(&error))),
        }
    }
}

fn check_variables(source: &str, used: &HashSet<String>, variables: &[&str]) -> Result<(), Error> {
    // minijinja counts its global functions as variables until they are called.
    let is_known = |name: &str| variables.contains(&name) || ENVIRONMENT.globals().any(|(global, _)| global == name);
    let Some(unknown) = used.iter().filter(|u| !is_known(u)).min() else { return Ok(()) };
    let at = source.find(unknown.as_str()).unwrap_or(0);
    Err(compile_error_at(source, format!("unknown variable '{unknown}' (known: {})", variables.join(", ")), at))
}

fn is_unknown_name(error: &minijinja::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction)
}

fn compile_error(source: &str, error: &minijinja::Error) -> Error {
    compile_error_at(source, reason(error), error.range().map_or(0, |r| r.start))
}

fn compile_error_at(source: &str, reason: String, at: usize) -> Error {
    let before = source.get(..at).unwrap_or(source);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    Error::Compile {
        reason,
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        source_text: source.to_owned(),
    }
}

/// minijinja's own words without the name of the template, which nobody gave.
fn reason(error: &minijinja::Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, None) => "a field is missing (undefined value)".to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    }
}

/// Takes bytes up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit_bytes: usize,
}

fn too_large(limit_bytes: usize) -> io::Error {
    io::Error::other(format!("the result is larger than {limit_bytes} bytes"))
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit_bytes {
            return Err(too_large(self.limit_bytes));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes JSON. Not by serde, which turns an undefined member into null without a word.
fn write_json(out: &mut Bounded, value: &Value, depth: usize) -> Result<(), String> {
    let Some(depth) = depth.checked_sub(1) else { return Err(format!("the result is nested deeper than {DEPTH}")) };
    let io = |e: io::Error| e.to_string();
    match value.kind() {
        ValueKind::Undefined => Err("a member of the result is missing (undefined value)".to_owned()),
        ValueKind::Map => {
            out.write_all(b"{").map_err(io)?;
            for (i, key) in value.try_iter().map_err(|e| reason(&e))?.enumerate() {
                let member = value.get_item(&key).map_err(|e| reason(&e))?;
                if i > 0 {
                    out.write_all(b",").map_err(io)?;
                }
                match key.as_str() {
                    Some(name) => write_scalar(out, &name)?,
                    None => write_scalar(out, &key.to_string())?,
                }
                out.write_all(b":").map_err(io)?;
                write_json(out, &member, depth).map_err(|reason| {
                    if member.is_undefined() {
                        format!("'{key}' of the result is missing (undefined value)")
                    } else {
                        reason
                    }
                })?;
            }
            out.write_all(b"}").map_err(io)
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.write_all(b"[").map_err(io)?;
            for (i, member) in value.try_iter().map_err(|e| reason(&e))?.enumerate() {
                if i > 0 {
                    out.write_all(b",").map_err(io)?;
                }
                write_json(out, &member, depth)?;
            }
            out.write_all(b"]").map_err(io)
        }
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) if !number.is_finite() => Err("the result holds a number that is not finite".to_owned()),
            _ => write_scalar(out, value),
        },
        ValueKind::None | ValueKind::Bool | ValueKind::String => write_scalar(out, value),
        other => Err(format!("the result holds {other}, which JSON has not")),
    }
}

fn write_scalar(out: &mut Bounded, scalar: &impl serde::Serialize) -> Result<(), String> {
    serde_json::to_writer(out, scalar).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
