//! When a partition is to be compacted, and how far. Pure; `compaction` and the writer carry it out.
//!
//! As in Kafka: what came in since the last compaction is dirty, and a partition is due once dirty bytes exceed a share of
//! all, or a dirty record is older than it may be. Ages are those of `retention`, by the believed time.

use std::collections::BTreeMap;

use super::layout::{CHUNK_BYTES, ChunkRef};
use crate::record::Offset;

/// Fewer dirty bytes are not worth a commit.
const LEAST_DIRTY_BYTES: u64 = CHUNK_BYTES as u64 / 2;

/// Share of dirty bytes from which on it is worth it where room is short: a full log stays full, and each byte that comes in
/// should not have ten others written again.
const SHORT_RATIO: f64 = 0.2;

/// How a topic is compacted where it says nothing itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compaction {
    /// How long a deletion stays after it was first compacted.
    pub delete_retention_ms: i64,
    /// How long a record stays as it is at least.
    pub min_lag_ms: i64,
    /// How long a superseded record may stay.
    pub max_lag_ms: i64,
    /// Share of dirty bytes from which on it is worth it.
    pub dirty_ratio: f64,
}

impl Default for Compaction {
    /// Kafka's.
    fn default() -> Self {
        Self { delete_retention_ms: 86_400_000, min_lag_ms: 0, max_lag_ms: i64::MAX, dirty_ratio: 0.5 }
    }
}

/// What a topic says of it; `None` where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Said {
    delete_retention_ms: Option<i64>,
    min_lag_ms: Option<i64>,
    max_lag_ms: Option<i64>,
    dirty_ratio: Option<f64>,
}

impl Said {
    /// From Kafka's settings. What does not parse counts as not set; who sets it checks it.
    pub(super) fn new(settings: &BTreeMap<String, String>) -> Self {
        let number = |key: &str| settings.get(key)?.trim().parse().ok();
        Self {
            delete_retention_ms: number("delete.retention.ms"),
            min_lag_ms: number("min.compaction.lag.ms"),
            max_lag_ms: number("max.compaction.lag.ms"),
            dirty_ratio: settings.get("min.cleanable.dirty.ratio").and_then(|ratio| ratio.trim().parse().ok()),
        }
    }

    /// What is in force.
    pub(super) fn over(&self, defaults: Compaction) -> Compaction {
        Compaction {
            delete_retention_ms: self.delete_retention_ms.unwrap_or(defaults.delete_retention_ms),
            min_lag_ms: self.min_lag_ms.unwrap_or(defaults.min_lag_ms),
            max_lag_ms: self.max_lag_ms.unwrap_or(defaults.max_lag_ms),
            dirty_ratio: self.dirty_ratio.unwrap_or(defaults.dirty_ratio),
        }
    }
}

/// What of a partition may be compacted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Dirt {
    /// One after the last offset that may.
    pub(super) end: Offset,
    dirty_bytes: u64,
    /// Share of the bytes up to there that is dirty.
    pub(super) ratio: f64,
    /// A dirty record is older than it may be.
    pub(super) is_late: bool,
}

impl Dirt {
    /// Whether it is time. `is_short`: room is short, and compacting is better than deleting.
    pub(super) fn is_due(&self, policy: &Compaction, is_short: bool) -> bool {
        let ratio = if is_short { policy.dirty_ratio.min(SHORT_RATIO) } else { policy.dirty_ratio };
        let is_enough = self.dirty_bytes >= LEAST_DIRTY_BYTES && self.ratio > ratio;
        self.dirty_bytes > 0 && (is_enough || self.is_late)
    }
}

/// Looks at the chunks whose last offset is below `below`. `since_s` says since when one has been here; `now_ms` is the
/// believed time.
#[expect(clippy::cast_precision_loss, reason = "a share of bytes")]
pub(super) fn dirt<'a>(
    chunks: impl Iterator<Item = &'a ChunkRef>,
    since_s: impl Fn(&ChunkRef) -> Option<u32>,
    cleaned_to: Offset,
    below: Offset,
    policy: &Compaction,
    now_ms: Option<i64>,
) -> Dirt {
    let age_ms = |chunk: &ChunkRef| Some(now_ms?.saturating_sub(i64::from(since_s(chunk)?) * 1_000));
    let mut dirt = Dirt::default();
    let mut clean_bytes = 0;
    let mut before_ms = None;
    for chunk in chunks.take_while(|chunk| chunk.last() < below) {
        if chunk.last() < cleaned_to {
            clean_bytes += u64::from(chunk.length);
        } else {
            // Without a believed time nothing is old enough, as nothing is too old.
            if policy.min_lag_ms > 0 && age_ms(chunk).is_none_or(|age_ms| age_ms < policy.min_lag_ms) {
                break;
            }
            if dirt.dirty_bytes == 0 {
                // A chunk's age is that of its newest record; its oldest is no older than what came before the chunk.
                dirt.is_late = before_ms.or(age_ms(chunk)).is_some_and(|age_ms| age_ms > policy.max_lag_ms);
            }
            dirt.dirty_bytes += u64::from(chunk.length);
        }
        before_ms = age_ms(chunk);
        dirt.end = chunk.last() + 1;
    }
    dirt.ratio = dirt.dirty_bytes as f64 / (clean_bytes + dirt.dirty_bytes).max(1) as f64;
    dirt
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_790_000_000_000;

    /// Chunks of ten offsets and so many bytes, each so many seconds old.
    fn chunks(all: &[(u32, u32)]) -> Vec<ChunkRef> {
        let now_s = u32::try_from(NOW_MS / 1_000).unwrap();
        let chunk = |(i, (length, age_s)): (usize, &(u32, u32))| ChunkRef {
            seal: i as u64,
            base: i64::try_from(i).unwrap() * 10,
            max_timestamp_ms: 0,
            last_delta: 9,
            intake_s: now_s - age_s,
            length: *length,
        };
        all.iter().enumerate().map(chunk).collect()
    }

    fn look(all: &[(u32, u32)], cleaned_to: Offset, below: Offset, policy: &Compaction) -> Dirt {
        dirt(chunks(all).iter(), |c| Some(c.intake_s), cleaned_to, below, policy, Some(NOW_MS))
    }

    #[test]
    fn more_than_the_ratio_is_due_up_to_what_is_stable() {
        let policy = Compaction::default();
        let all = [(60_000, 9), (60_000, 8), (60_000, 7)];
        let found = look(&all, 20, 30, &policy);
        assert_eq!((found.end, found.is_due(&policy, false), found.is_due(&policy, true)), (30, false, true));
        assert!(look(&all, 10, 30, &policy).is_due(&policy, false));
        let unstable = look(&all, 10, 29, &policy);
        assert_eq!((unstable.end, unstable.is_due(&policy, false)), (20, false), "a half is not more than a half");
        assert!(!look(&all, 30, 30, &policy).is_due(&policy, true), "all is clean");
        assert!(!look(&[(500, 9)], 0, 10, &policy).is_due(&policy, false), "too little");
    }

    #[test]
    fn lags_hold_back_and_hurry() {
        let wait = Compaction { min_lag_ms: 8_000, ..Compaction::default() };
        assert_eq!(look(&[(60_000, 9), (60_000, 8), (60_000, 7)], 0, 99, &wait).end, 20);
        assert_eq!(dirt(chunks(&[(60_000, 9)]).iter(), |_| None, 0, 99, &wait, Some(NOW_MS)).end, 0);
        assert_eq!(dirt(chunks(&[(60_000, 9)]).iter(), |c| Some(c.intake_s), 0, 99, &wait, None).end, 0);
        let hurry = Compaction { max_lag_ms: 8_000, ..Compaction::default() };
        assert!(look(&[(100, 9)], 0, 99, &hurry).is_due(&hurry, false));
        assert!(!look(&[(100, 8)], 0, 99, &hurry).is_due(&hurry, false));
        assert!(look(&[(900_000, 9), (100, 1)], 10, 99, &hurry).is_due(&hurry, false), "it may hold what is as old");
        assert!(!look(&[(900_000, 8), (100, 1)], 10, 99, &hurry).is_due(&hurry, false));
    }

    #[test]
    fn settings_and_defaults() {
        let settings =
            [("min.compaction.lag.ms", "5"), ("min.cleanable.dirty.ratio", "0.1"), ("max.compaction.lag.ms", "x")];
        let said = Said::new(&settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        let expected = Compaction { min_lag_ms: 5, dirty_ratio: 0.1, ..Compaction::default() };
        assert_eq!(said.over(Compaction::default()), expected);
    }
}
