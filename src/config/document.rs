//! The configuration file as text and as values: merged over the defaults, secrets filled in, keys found by line.
//!
//! Never knows what a key means; that is the modules' business.

use std::{collections::BTreeSet, fmt, fs, path::Path};

use toml::{Table, Value};

use super::Problem;

/// A path of keys, such as `log.linger`; array elements are numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct KeyPath(pub(super) Vec<String>);

impl KeyPath {
    pub(super) fn of(parts: &[&str]) -> Self {
        Self(parts.iter().map(|p| (*p).to_owned()).collect())
    }

    /// Reads what `Display` writes, array elements excepted.
    pub(super) fn parse(text: &str) -> Self {
        let (mut parts, mut part, mut is_quoted) = (Vec::new(), String::new(), false);
        for c in text.chars() {
            match c {
                '"' => is_quoted = !is_quoted,
                '.' if !is_quoted => parts.push(std::mem::take(&mut part)),
                c => part.push(c),
            }
        }
        parts.push(part);
        Self(parts)
    }

    pub(super) fn join(&self, tail: impl IntoIterator<Item = String>) -> Self {
        Self(self.0.iter().cloned().chain(tail).collect())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.0.iter().enumerate() {
            if part.parse::<usize>().is_ok() {
                write!(f, "[{part}]")?;
                continue;
            }
            if i > 0 {
                f.write_str(".")?;
            }
            let is_bare = part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            if is_bare { f.write_str(part)? } else { write!(f, "\"{part}\"")? }
        }
        Ok(())
    }
}

/// One parsed file: its values, and its text for finding lines.
pub(super) struct Document {
    pub(super) name: String,
    text: String,
    spans: toml_edit::Document<String>,
    pub(super) values: Table,
}

impl Document {
    /// Parses the text of the file called `name`.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, Problem> {
        let syntax = |message: String, span: Option<std::ops::Range<usize>>| Problem {
            file: name.to_owned(),
            line: span.map_or(0, |s| line_of(text, s.start)),
            key: String::new(),
            value: None,
            message: format!("not TOML: {}", message.trim().replace('\n', "; ")),
        };
        let spans =
            toml_edit::Document::parse(text.to_owned()).map_err(|e| syntax(e.message().to_owned(), e.span()))?;
        let values = toml::from_str(text).map_err(|e| syntax(e.message().to_owned(), e.span()))?;
        Ok(Self { name: name.to_owned(), text: text.to_owned(), spans, values })
    }

    /// The line (from 1) on which a key, or the nearest table around it, stands; 0 if it is not in this file.
    pub(super) fn line(&self, path: &KeyPath) -> usize {
        let mut item = self.spans.as_item();
        let mut at = 0;
        for part in &path.0 {
            let found = item.as_table_like().and_then(|t| t.get_key_value(part));
            let found = found.map(|(key, next)| (key.span().or_else(|| next.span()), next));
            if let Some((span, next)) = found {
                at = span.map_or(at, |s| line_of(&self.text, s.start));
                item = next;
                continue;
            }
            let element = part.parse::<usize>().ok().and_then(|i| item.as_array().and_then(|a| a.get(i)));
            if let Some(span) = element.and_then(toml_edit::Value::span) {
                at = line_of(&self.text, span.start);
            }
            break;
        }
        at
    }

    /// A problem at a key of this file; the value is shown unless it may be a secret.
    pub(super) fn problem(&self, path: &KeyPath, message: impl Into<String>) -> Problem {
        let is_secret = path.0.last().is_some_and(|k| is_secret_key(k));
        let value = find(&self.values, &path.0)
            .filter(|v| !v.is_table())
            .map(|v| if is_secret { "****".to_owned() } else { v.to_string() });
        Problem {
            file: self.name.clone(),
            line: self.line(path),
            key: path.to_string(),
            value,
            message: message.into(),
        }
    }

    /// Fills in `${env:NAME}`, `${credential:NAME}` and `…_file` secrets. `environment` looks a variable up.
    ///
    /// What was filled in is listed in the answer, so that it is masked when the configuration is shown.
    pub(super) fn resolve(
        &mut self,
        environment: &dyn Fn(&str) -> Option<String>,
        problems: &mut Vec<Problem>,
    ) -> BTreeSet<KeyPath> {
        let (mut found, mut secrets) = (Vec::new(), BTreeSet::new());
        strings(&Value::Table(self.values.clone()), &KeyPath::default(), &mut found);
        for (path, text) in found {
            let last = path.0.last().cloned().unwrap_or_default();
            if last == "password_file" {
                match read_secret(Path::new(&text)) {
                    Ok(secret) => {
                        let mut target = path.clone();
                        target.0.pop();
                        target.0.push("password".into());
                        if find(&self.values, &target.0).is_some() {
                            problems.push(self.problem(&path, "give either password or password_file, not both"));
                            continue;
                        }
                        set(&mut self.values, &target.0, Value::String(secret));
                        secrets.insert(target);
                    }
                    Err(reason) => problems.push(self.problem(&path, reason)),
                }
                remove(&mut self.values, &path.0);
            } else if text.contains("${") {
                match substitute(&text, environment) {
                    Ok(Some(new)) => {
                        set(&mut self.values, &path.0, Value::String(new));
                        secrets.insert(path);
                    }
                    Ok(None) => {}
                    Err(reason) => problems.push(self.problem(&path, reason)),
                }
            }
        }
        secrets
    }
}

/// True for keys whose values are never shown.
pub(super) fn is_secret_key(key: &str) -> bool {
    key == "password" || key.ends_with("_password") || key.ends_with("secret") || key.ends_with("token")
}

/// The value at a path.
pub(super) fn find<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let mut value = table.get(first)?;
    for part in rest {
        value = match value {
            Value::Table(t) => t.get(part)?,
            Value::Array(a) => a.get(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}

fn parent<'a>(table: &'a mut Table, path: &[String]) -> Option<&'a mut Table> {
    let mut here = table;
    let mut parts = path.iter();
    while let Some(part) = parts.next() {
        here = match here.get_mut(part)? {
            Value::Table(t) => t,
            Value::Array(a) => {
                let index = parts.next()?.parse::<usize>().ok()?;
                a.get_mut(index)?.as_table_mut()?
            }
            _ => return None,
        };
    }
    Some(here)
}

fn set(table: &mut Table, path: &[String], value: Value) {
    if let Some((last, front)) = path.split_last()
        && let Some(table) = parent(table, front)
    {
        table.insert(last.clone(), value);
    }
}

/// Removes the value at a path; an array element takes its whole array along. False if nothing was there.
pub(super) fn remove(table: &mut Table, path: &[String]) -> bool {
    let Some((last, front)) = path.split_last() else { return false };
    if let Some(table) = parent(table, front)
        && table.remove(last).is_some()
    {
        return true;
    }
    remove(table, front)
}

fn strings(value: &Value, path: &KeyPath, out: &mut Vec<(KeyPath, String)>) {
    match value {
        Value::String(s) => out.push((path.clone(), s.clone())),
        Value::Table(t) => t.iter().for_each(|(k, v)| strings(v, &path.join([k.clone()]), out)),
        Value::Array(a) => a.iter().enumerate().for_each(|(i, v)| strings(v, &path.join([i.to_string()]), out)),
        _ => {}
    }
}

fn substitute(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    let (mut out, mut rest, mut changed) = (String::new(), text, false);
    while let Some(at) = rest.find("${") {
        let Some(end) = rest[at..].find('}') else { break };
        let inside = &rest[at + 2..at + end];
        out.push_str(&rest[..at]);
        rest = &rest[at + end + 1..];
        let Some((kind, name)) = inside.split_once(':') else {
            return Err(format!("'${{{inside}}}': expected ${{env:NAME}} or ${{credential:NAME}}"));
        };
        let secret = match kind {
            "env" => environment(name).ok_or_else(|| format!("the environment variable {name} is not set"))?,
            "credential" => {
                // Outside the service, as for `brooklet check`, where the packaged unit takes them from.
                let dir = environment("CREDENTIALS_DIRECTORY").unwrap_or_else(|| CREDENTIALS.to_owned());
                read_credential(Path::new(&dir), name)?
            }
            _ => return Err(format!("'${{{inside}}}': expected ${{env:NAME}} or ${{credential:NAME}}")),
        };
        out.push_str(&secret);
        changed = true;
    }
    out.push_str(rest);
    Ok(changed.then_some(out))
}

/// The directory that the packaged unit loads credentials from.
const CREDENTIALS: &str = "/etc/brooklet/credentials";

/// The credential of that name. Loaded from a directory, as by the packaged unit, its file carries the unit's prefix.
fn read_credential(dir: &Path, name: &str) -> Result<String, String> {
    let loaded = dir.join(format!("brooklet_{name}"));
    if loaded.exists() { read_secret(&loaded) } else { read_secret(&dir.join(name)) }
}

fn read_secret(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("cannot read the secret: {}: {e}", path.display()))?;
    // Editors end a file with a newline; it is not part of the password.
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1
}
