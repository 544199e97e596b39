//! When records may go: by age and size per topic. Pure; the writer carries it out.
//!
//! Age counts from when the log took the records in, by the time that `clock` believes, so that records stamped in the far
//! past or future neither vanish nor stay for ever. Where nothing is known of that, the next chunk's counts. Without a
//! believed time nothing is too old.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use super::{
    dirt::{Compaction, Said},
    layout::ChunkRef,
};

/// Where nothing is set.
const DEFAULT_PRIORITY: u8 = 5;

/// What a topic's settings say; `None` where they say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Policy {
    retention_ms: Option<i64>,
    retention_bytes: Option<i64>,
    is_compacted_only: bool,
    /// How it is compacted; `None` where it is not.
    pub(super) compaction: Option<Said>,
    /// Records are acknowledged before they are committed.
    pub(super) is_relaxed: bool,
    priority: Option<u8>,
}

impl Policy {
    /// From Kafka's settings. What does not parse counts as not set; who sets it checks it.
    pub(super) fn new(settings: &BTreeMap<String, String>) -> Self {
        let number = |key: &str| settings.get(key)?.trim().parse().ok();
        let cleanup = settings.get("cleanup.policy").map_or("delete", String::as_str);
        Self {
            retention_ms: number("retention.ms"),
            retention_bytes: number("retention.bytes"),
            priority: number("brooklet.priority").and_then(|n| u8::try_from(n).ok()),
            is_compacted_only: cleanup.split(',').all(|p| p.trim() == "compact"),
            compaction: cleanup.split(',').any(|p| p.trim() == "compact").then(|| Said::new(settings)),
            is_relaxed: settings.get("brooklet.durability").is_some_and(|level| level == "relaxed"),
        }
    }

    /// 0 goes upstream first and is deleted last, 9 the other way round.
    pub(super) fn priority(&self) -> u8 {
        self.priority.unwrap_or(DEFAULT_PRIORITY).min(9)
    }

    /// Age and size that records may reach; `None`: any.
    pub(super) fn limits(&self, defaults: &Defaults) -> (Option<i64>, Option<u64>) {
        if self.is_compacted_only {
            return (None, None);
        }
        let ms = self.retention_ms.unwrap_or_else(|| defaults.retention_ms.load(Ordering::Relaxed));
        let bytes = self.retention_bytes.unwrap_or_else(|| defaults.retention_bytes.load(Ordering::Relaxed));
        (Some(ms).filter(|ms| *ms >= 0), u64::try_from(bytes).ok())
    }
}

/// What holds for topics that set nothing; -1 is no limit.
#[derive(Debug)]
pub(super) struct Defaults {
    pub(super) retention_ms: AtomicI64,
    pub(super) retention_bytes: AtomicI64,
    pub(super) compaction: Mutex<Compaction>,
}

/// What of a partition has expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Expired {
    /// Chunks at the front.
    pub(super) chunks: usize,
    /// All chunks, and the tail too.
    pub(super) has_tail: bool,
}

/// Counts the expired chunks at the front. `since_s` says since when a chunk has been here, `tail` the same of the tail and
/// its bytes, if there is one; `now_ms` is the believed time.
pub(super) fn expired<'a>(
    chunks: impl Iterator<Item = &'a ChunkRef> + Clone,
    since_s: impl Fn(&ChunkRef) -> Option<u32>,
    tail: Option<(u32, u64)>,
    kept_bytes: u64,
    limits: (Option<i64>, Option<u64>),
    now_ms: Option<i64>,
) -> Expired {
    let (age_ms, size_bytes) = limits;
    let mut out = Expired::default();
    let mut left = kept_bytes;
    let is_old = |since_s: u32| {
        let since_ms = i64::from(since_s) * 1000;
        age_ms.zip(now_ms).is_some_and(|(age_ms, now_ms)| now_ms.saturating_sub(since_ms) > age_ms)
    };
    let tail_s = tail.map(|(s, _)| s).filter(|s| *s > 0);
    let mut rest = chunks;
    loop {
        let here = rest.clone();
        let Some(chunk) = rest.next() else { break };
        // As Kafka does: a size limit never makes the log smaller than itself.
        let is_over = size_bytes.is_some_and(|most| left - u64::from(chunk.length) >= most);
        let mut known = here.map(&since_s).chain([tail_s]).flatten();
        let is_late = age_ms.is_some() && known.next().is_some_and(is_old);
        if !is_over && !is_late {
            return out;
        }
        left -= u64::from(chunk.length);
        out.chunks += 1;
    }
    out.has_tail = tail_s.is_some_and(is_old);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::clock::{EARLIEST_MS, intake_s};

    const DAY_MS: i64 = 86_400_000;
    const NOW_MS: i64 = EARLIEST_MS + 100 * DAY_MS;

    fn chunk(intake_ms: i64, max_timestamp_ms: i64) -> ChunkRef {
        let intake_s = intake_s(Some(intake_ms));
        ChunkRef { seal: 0, base: 0, max_timestamp_ms, last_delta: 0, intake_s, length: 100 }
    }

    fn count(
        chunks: &[ChunkRef],
        tail_ms: Option<i64>,
        limits: (Option<i64>, Option<u64>),
        now_ms: impl Into<Option<i64>>,
    ) -> Expired {
        let kept = chunks.len() as u64 * 100 + tail_ms.map_or(0, |_| 10);
        let tail = tail_ms.map(|ms| (intake_s(Some(ms)), 10));
        let since_s = |chunk: &ChunkRef| (chunk.intake_s > 0).then_some(chunk.intake_s);
        expired(chunks.iter(), since_s, tail, kept, limits, now_ms.into())
    }

    #[test]
    fn age_counts_from_intake_whatever_the_records_say() {
        let chunks = [
            chunk(NOW_MS - 3 * DAY_MS, NOW_MS + 9999 * DAY_MS),
            chunk(NOW_MS - 2 * DAY_MS - 1000, 0),
            chunk(NOW_MS - DAY_MS, 0),
        ];
        assert_eq!(count(&chunks, None, (Some(2 * DAY_MS), None), NOW_MS).chunks, 2);
        assert_eq!(count(&chunks, None, (None, None), NOW_MS).chunks, 0);
    }

    #[test]
    fn without_a_believed_time_nothing_is_too_old() {
        let chunks = [chunk(NOW_MS, NOW_MS), chunk(0, 0)];
        assert_eq!(count(&chunks, Some(NOW_MS), (Some(1), None), None), Expired::default());
    }

    #[test]
    fn what_came_after_tells_of_what_is_not_known() {
        let limits = (Some(2 * DAY_MS), None);
        // A sensor's own clock does not.
        assert_eq!(count(&[chunk(0, NOW_MS - 3 * DAY_MS)], None, limits, NOW_MS).chunks, 0);
        let (dark, later) = (chunk(0, 0), chunk(NOW_MS - 3 * DAY_MS, 0));
        assert_eq!(count(&[dark, dark], None, limits, NOW_MS).chunks, 0);
        assert_eq!(count(&[dark, dark, later], None, limits, NOW_MS).chunks, 3);
        assert_eq!(count(&[dark], Some(NOW_MS - 3 * DAY_MS), limits, NOW_MS), Expired { chunks: 1, has_tail: true });
    }

    #[test]
    fn size_keeps_at_least_the_limit() {
        let chunks = [chunk(NOW_MS, 0); 5];
        assert_eq!(count(&chunks, None, (None, Some(300)), 0).chunks, 2);
        assert_eq!(count(&chunks, None, (None, Some(301)), 0).chunks, 1);
        assert_eq!(count(&chunks, None, (None, Some(0)), 0).chunks, 5);
    }

    #[test]
    fn settings_and_defaults() {
        let defaults = Defaults { retention_ms: 5.into(), retention_bytes: (-1).into(), compaction: Mutex::default() };
        let policy = |pairs: &[(&str, &str)]| {
            Policy::new(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        assert_eq!(policy(&[]).limits(&defaults), (Some(5), None));
        assert_eq!(policy(&[("retention.ms", "-1"), ("retention.bytes", "9")]).limits(&defaults), (None, Some(9)));
        assert_eq!(policy(&[("cleanup.policy", "compact"), ("retention.ms", "1")]).limits(&defaults), (None, None));
        assert_eq!(policy(&[("cleanup.policy", "compact,delete")]).limits(&defaults), (Some(5), None));
    }
}
