//! What an expression looks at, so that no more of a record is made than that.
//!
//! Found by reading the source for names and the paths that follow them, not by its syntax tree: too much may be found
//! (a name within a string), never too little. A payload is then read with everything else skipped, which is most of
//! the cost of a metric event; what is skipped must be JSON in form but is not judged further.

use std::fmt;

use minijinja::Value;
use serde::Deserialize as _;
use serde::de::{
    DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor, value::SeqAccessDeserializer,
};

/// The variables that expressions use, and the members of `value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    names: Vec<String>,
    payload: Wanted,
}

/// Which members of a JSON value are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// All of it; `members` says nothing then.
    is_whole: bool,
    members: Vec<(String, Wanted)>,
}

impl Uses {
    /// Whether this variable is used.
    pub fn has(&self, variable: &str) -> bool {
        self.names.iter().any(|n| n == variable)
    }

    /// Adds the variables of `other`.
    pub fn extend(&mut self, other: &Self) {
        for name in &other.names {
            self.add(name);
        }
        self.payload.merge(&other.payload);
    }

    /// What an expression with these variables uses.
    pub(super) fn of_expression(source: &str, variables: &[&str]) -> Self {
        let mut uses = Self::default();
        for (name, rest) in names(source) {
            if variables.contains(&name) {
                uses.add(name);
                if name == "value" {
                    uses.payload.add(&path(rest));
                }
            }
        }
        uses
    }

    /// What a template uses. It may give another name to a part of `value`, so all of that is wanted.
    pub(super) fn of_template(source: &str, variables: &[&str]) -> Self {
        let mut uses = Self::of_expression(source, variables);
        uses.payload.is_whole = true;
        uses
    }

    fn add(&mut self, name: &str) {
        if !self.has(name) {
            self.names.push(name.to_owned());
        }
    }

    /// Reads the used part of a JSON text; `None` if it is not JSON.
    pub(super) fn read_payload(&self, json: &[u8]) -> Option<Value> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let value = self.payload.deserialize(&mut deserializer).ok()?;
        deserializer.end().ok().map(|()| value)
    }
}

impl Wanted {
    fn add(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            self.is_whole = true;
            return;
        };
        let at = self.members.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
            self.members.push(((*first).to_owned(), Self::default()));
            self.members.len() - 1
        });
        self.members[at].1.add(rest);
    }

    fn merge(&mut self, other: &Self) {
        self.is_whole |= other.is_whole;
        for (name, theirs) in &other.members {
            match self.members.iter_mut().find(|(n, _)| n == name) {
                Some((_, ours)) => ours.merge(theirs),
                None => self.members.push((name.clone(), theirs.clone())),
            }
        }
    }
}

/// The names in a source that are no attribute of another, each with the source after it.
fn names(source: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at + source[at..].find(is_part)?;
            let end = source[start..].find(|c| !is_part(c)).map_or(source.len(), |length| start + length);
            at = end;
            if !source[..start].trim_end().ends_with('.') {
                return Some((&source[start..end], &source[end..]));
            }
        }
    })
}

/// The members that a chain of `.name` and `['name']` at the start of `source` leads through.
fn path(source: &str) -> Vec<&str> {
    let mut members = Vec::new();
    let mut rest = source;
    while let Some((member, after)) = member(rest.trim_start()) {
        members.push(member);
        rest = after;
    }
    // A method looks at what it belongs to.
    if rest.trim_start().starts_with('(') {
        members.pop();
    }
    members
}

fn member(source: &str) -> Option<(&str, &str)> {
    if let Some(rest) = source.strip_prefix('.') {
        let rest = rest.trim_start();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        // An index (`value.list.0`) is no member.
        let is_name = rest.starts_with(|c: char| c.is_alphabetic() || c == '_');
        return is_name.then(|| rest.split_at(end));
    }
    let rest = source.strip_prefix('[')?.trim_start();
    let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let (name, rest) = rest[1..].split_once(quote)?;
    let rest = rest.trim_start().strip_prefix(']')?;
    (!name.contains('\\')).then_some((name, rest))
}

impl<'de> DeserializeSeed<'de> for &Wanted {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.is_whole { Value::deserialize(deserializer) } else { deserializer.deserialize_any(self) }
    }
}

/// A map of the wanted members; anything else as it is, because no member of it can be had.
impl<'de> Visitor<'de> for &Wanted {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut found = Vec::with_capacity(self.members.len());
        while let Some(member) = map.next_key_seed(MemberOf(self))? {
            match member {
                Some(at) => {
                    let (name, wanted) = &self.members[at];
                    found.push((name.as_str(), map.next_value_seed(wanted)?));
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found.into_iter().collect())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Value, A::Error> {
        Value::deserialize(SeqAccessDeserializer::new(seq))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(().into())
    }
}

/// Finds a key among the wanted members.
struct MemberOf<'a>(&'a Wanted);

impl<'de> DeserializeSeed<'de> for MemberOf<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for MemberOf<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.members.iter().position(|(name, _)| name == key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<Vec<&str>> {
        names(source).filter(|(n, _)| *n == "value").map(|(_, rest)| path(rest)).collect()
    }

    #[test]
    fn paths_are_found_and_never_too_long() {
        for (source, expected) in [
            ("value.a.b > 1", vec![vec!["a", "b"]]),
            ("value . a [ 'b.c' ] [\"d\"].e", vec![vec!["a", "b.c", "d", "e"]]),
            ("value['@timestamp'] ~ value.x", vec![vec!["@timestamp"], vec!["x"]]),
            ("value", vec![vec![]]),
            ("value.a.upper()", vec![vec!["a"]]),
            ("value.a[1:]", vec![vec!["a"]]),
            ("value.a.0.b", vec![vec!["a"]]),
            ("value.a[0].b", vec![vec!["a"]]),
            ("value[key].b", vec![vec![]]),
            ("value['a'~'b'].c", vec![vec![]]),
            ("value['a\\'b'].c", vec![vec![]]),
            ("(value).b", vec![vec![]]),
            ("key.value.a", vec![]),
            ("values.a ~ my_value.b", vec![]),
            ("'value.a'", vec![vec!["a"]]),
            ("1 if value.é else 2", vec![vec!["é"]]),
        ] {
            assert_eq!(paths(source), expected, "{source}");
        }
    }

    #[test]
    fn only_what_is_wanted_is_read() {
        let mut uses = Uses::of_expression("value.a.b == value.c", &["value"]);
        let json = br#"{"x":[1,{"y":2}],"a":{"z":"no","b":[1,{"k":2}]},"c":3,"a":{"q":0,"b":1.5}}"#;
        let read = |uses: &Uses, json: &[u8]| uses.read_payload(json).map(|v| serde_json::to_string(&v).unwrap());
        assert_eq!(read(&uses, json).unwrap(), r#"{"a":{"b":1.5},"c":3}"#);
        assert_eq!(read(&uses, b"[1,{\"a\":2}]").unwrap(), r#"[1,{"a":2}]"#);
        assert_eq!(read(&uses, b" true ").unwrap(), "true");
        for broken in [&b"{\"a\":1"[..], b"{\"x\":tru}", b"{} x", b"", b"nul"] {
            assert_eq!(read(&uses, broken), None);
        }
        uses.extend(&Uses::of_expression("value.a.z ~ topic", &["value", "topic"]));
        assert!(uses.has("topic"));
        assert_eq!(read(&uses, br#"{"a":{"z":1,"b":2,"y":3}}"#).unwrap(), r#"{"a":{"z":1,"b":2}}"#);
        uses.extend(&Uses::of_template("value.a", &["value"]));
        assert_eq!(read(&uses, br#"{"a":{},"y":3}"#).unwrap(), r#"{"a":{},"y":3}"#);
    }
}
