//! Which topics a member wants: by name, by pattern, or both.
//!
//! A pattern must match the whole name, as in Kafka. Kafka takes RE2's language, here it is that of `regex-lite`, which
//! has no Unicode classes. Compiling is bounded, because a client chooses the pattern.

use std::{collections::BTreeSet, sync::Arc};

use regex_lite::{Regex, RegexBuilder};

use super::super::Error;
use crate::log::{TopicId, Topics};

/// Longest pattern.
const MOST_PATTERN_BYTES: usize = 1024;
/// Most memory of a compiled one.
const MOST_COMPILED_BYTES: usize = 32 << 10;

/// Topics by pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) text: Arc<str>,
    whole: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, Error> {
        let wrong = |why: String| Error::InvalidPattern(format!("SubscribedTopicRegex `{text}` is not valid: {why}."));
        if text.len() > MOST_PATTERN_BYTES {
            return Err(Error::InvalidPattern(format!(
                "SubscribedTopicRegex is not valid: longer than {MOST_PATTERN_BYTES} bytes."
            )));
        }
        let compile = |text: &str| RegexBuilder::new(text).size_limit(MOST_COMPILED_BYTES).build();
        // By itself first: `a)(b` is right only between brackets of ours.
        compile(text).map_err(|e| wrong(e.to_string()))?;
        let whole = compile(&format!("^(?:{text})$")).map_err(|e| wrong(e.to_string()))?;
        Ok(Self { text: text.into(), whole })
    }
}

/// What a member asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Subscription {
    pub(super) names: BTreeSet<Arc<str>>,
    pub(super) pattern: Option<Pattern>,
}

impl Subscription {
    /// The topics of those that there are.
    pub(super) fn resolve(&self, topics: &Topics) -> BTreeSet<TopicId> {
        let named = self.names.iter().filter_map(|name| topics.get(name));
        let matching = self
            .pattern
            .iter()
            .flat_map(|pattern| topics.by_name.values().filter(|topic| pattern.whole.is_match(&topic.name)));
        named.chain(matching).map(|topic| topic.id).collect()
    }

    /// Bytes that the client decided the size of, about.
    pub(super) fn size_bytes(&self) -> usize {
        let names: usize = self.names.iter().map(|name| name.len() + 48).sum();
        let pattern = self.pattern.as_ref().map_or(0, |pattern| 1024 + 32 * pattern.text.len());
        names + pattern
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names_and_is_bounded() {
        let matches = |pattern: &str, name: &str| Pattern::new(pattern).unwrap().whole.is_match(name);
        assert!(matches("metric\\..*", "metric.cpu"));
        assert!(!matches("metric", "metric.cpu"));
        assert!(matches("a|bc", "bc") && !matches("a|bc", "abc"));
        for wrong in ["(", "a)(b", "[z-a]", "a{5000}{5000}", &"a".repeat(1025)] {
            assert!(matches!(Pattern::new(wrong), Err(Error::InvalidPattern(_))), "{wrong:.20}");
        }
    }
}
