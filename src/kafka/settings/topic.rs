//! Kafka's topic settings, and Brooklet's own: the rows of `DescribeConfigs` for a topic.
//!
//! Data only. Defaults are Kafka's except where a board without a clock or one disk makes that wrong; then the
//! row's text says so.

use super::{Check::*, Kind::*, Setting, Standing::*};

const NONE: &[(&str, i64)] = &[];
const RETENTION: &[(&str, i64)] =
    &[("log.retention.ms", 1), ("log.retention.minutes", 60_000), ("log.retention.hours", 3_600_000)];
const ROLL: &[(&str, i64)] = &[("log.roll.ms", 1), ("log.roll.hours", 3_600_000)];
const JITTER: &[(&str, i64)] = &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", 3_600_000)];

/// Every topic setting, sorted by name.
#[rustfmt::skip]
pub(super) const TOPIC: &[Setting] = &[
    Setting::new("brooklet.durability", String, "default", OneOf(&["default", "relaxed"]), Honoured, NONE,
        "When producers are answered. 'default': when the records are on flash, at either level of the log. 'relaxed': when they are in memory; a power cut or a kill loses what came since the last commit, which is at most log.linger ago. Readers see only what is on flash in both."),
    Setting::new("brooklet.priority", Int, "5", Range(0, 9), Honoured, NONE,
        "Order among topics where room is needed: 9 is deleted first, 0 last. A topic of 0 also goes upstream before the others."),
    Setting::new("cleanup.policy", List, "delete", ListOf(&["delete", "compact"]), Honoured, &[("log.cleanup.policy", 1)],
        "What happens to old records. 'delete' removes them by age and size; 'compact' keeps the last value of each key, and requires a key in every record; both together do both. Only what is sealed is compacted: up to 64 KiB of each partition wait in the journal."),
    Setting::new("compression.gzip.level", Int, "-1", Range(-1, 9), Accepted, &[("compression.gzip.level", 1)],
        "Without effect: batches are kept as the producer compressed them."),
    Setting::new("compression.lz4.level", Int, "9", Range(1, 17), Accepted, &[("compression.lz4.level", 1)],
        "Without effect: batches are kept as the producer compressed them."),
    Setting::new("compression.type", String, "producer", OneOf(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]), Accepted, &[("compression.type", 1)],
        "Batches are always kept as the producer compressed them. With `zstd`, consumers too old for it are told so (Fetch before version 10)."),
    Setting::new("compression.zstd.level", Int, "3", Range(-131_072, 22), Accepted, &[("compression.zstd.level", 1)],
        "Without effect: batches are kept as the producer compressed them."),
    Setting::new("delete.retention.ms", Long, "86400000", Range(0, i64::MAX), Honoured, &[("log.cleaner.delete.retention.ms", 1)],
        "How long a record without value stays in a compacted topic after it was first compacted. Longer while the clock is implausible; it goes with the next compaction after that."),
    Setting::new("file.delete.delay.ms", Long, "60000", Range(0, i64::MAX), Accepted, &[("log.segment.delete.delay.ms", 1)],
        "Without effect: there are no segment files."),
    Setting::new("flush.messages", Long, "9223372036854775807", Range(1, i64::MAX), Accepted, &[("log.flush.interval.messages", 1)],
        "Without effect: every acknowledged record is on flash already."),
    Setting::new("flush.ms", Long, "9223372036854775807", Range(0, i64::MAX), Accepted, &[("log.flush.interval.ms", 1)],
        "Without effect: every acknowledged record is on flash already."),
    Setting::new("follower.replication.throttled.replicas", List, "", Anything, Accepted, NONE,
        "Without effect: there are no followers."),
    Setting::new("index.interval.bytes", Int, "4096", Range(0, I32), Accepted, &[("log.index.interval.bytes", 1)],
        "Without effect: there are no index files."),
    Setting::new("leader.replication.throttled.replicas", List, "", Anything, Accepted, NONE,
        "Without effect: there are no followers."),
    Setting::new("local.retention.bytes", Long, "-2", Range(-2, i64::MAX), Accepted, &[("log.local.retention.bytes", 1)],
        "Without effect: there is no tiered storage."),
    Setting::new("local.retention.ms", Long, "-2", Range(-2, i64::MAX), Accepted, &[("log.local.retention.ms", 1)],
        "Without effect: there is no tiered storage."),
    Setting::new("max.compaction.lag.ms", Long, "9223372036854775807", Range(1, i64::MAX), Honoured, &[("log.cleaner.max.compaction.lag.ms", 1)],
        "Longest time a superseded record of a compacted topic may stay, within ten seconds and what is done before it."),
    Setting::new("max.message.bytes", Int, "1048588", Range(0, I32), Honoured, &[("message.max.bytes", 1)],
        "Largest batch, as compressed by the producer, in bytes."),
    Setting::new("message.timestamp.after.max.ms", Long, "9223372036854775807", Range(0, i64::MAX), Honoured, &[("log.message.timestamp.after.max.ms", 1)],
        "How far a record's time may lie after the broker's. No limit by default, unlike Kafka: a board may start without a clock."),
    Setting::new("message.timestamp.before.max.ms", Long, "9223372036854775807", Range(0, i64::MAX), Honoured, &[("log.message.timestamp.before.max.ms", 1)],
        "How far a record's time may lie before the broker's."),
    Setting::new("message.timestamp.type", String, "CreateTime", OneOf(&["CreateTime", "LogAppendTime"]), Honoured, &[("log.message.timestamp.type", 1)],
        "Whose clock stamps a record: the producer's, or the broker's at the time of appending."),
    Setting::new("min.cleanable.dirty.ratio", Double, "0.5", Ratio, Honoured, &[("log.cleaner.min.cleanable.ratio", 1)],
        "Share of a partition's bytes that came in since it was last compacted from which on it is compacted again. Less than 32 KiB are not, whatever the share."),
    Setting::new("min.compaction.lag.ms", Long, "0", Range(0, i64::MAX), Honoured, &[("log.cleaner.min.compaction.lag.ms", 1)],
        "Shortest time a record of a compacted topic stays, superseded or not."),
    Setting::new("min.insync.replicas", Int, "1", Range(1, I32), Accepted, &[("min.insync.replicas", 1)],
        "Accepted, and without effect: the one replica is always in sync."),
    Setting::new("preallocate", Boolean, "false", Flag, Accepted, &[("log.preallocate", 1)],
        "Without effect: there are no segment files."),
    Setting::new("remote.log.copy.disable", Boolean, "false", Flag, Accepted, NONE,
        "Without effect: there is no tiered storage."),
    Setting::new("remote.log.delete.on.disable", Boolean, "false", Flag, Accepted, NONE,
        "Without effect: there is no tiered storage."),
    Setting::new("remote.storage.enable", Boolean, "false", OneOf(&["false"]), Accepted, NONE,
        "Tiered storage, which is not offered: only 'false' is taken."),
    Setting::new("retention.bytes", Long, "-1", Range(-1, i64::MAX), Honoured, &[("log.retention.bytes", 1)],
        "Most bytes kept per partition; -1 leaves it to time and to the quota."),
    Setting::new("retention.ms", Long, "604800000", Range(-1, i64::MAX), Honoured, RETENTION,
        "How long a record is kept, in milliseconds; -1 is for ever. Nothing is deleted while the clock is implausible."),
    Setting::new("segment.bytes", Int, "1073741824", Range(14, I32), Accepted, &[("log.segment.bytes", 1)],
        "Without effect: the log is kept in chunks of its own size."),
    Setting::new("segment.index.bytes", Int, "10485760", Range(4, I32), Accepted, &[("log.index.size.max.bytes", 1)],
        "Without effect: there are no index files."),
    Setting::new("segment.jitter.ms", Long, "0", Range(0, i64::MAX), Accepted, JITTER,
        "Without effect: the log is kept in chunks of its own size."),
    Setting::new("segment.ms", Long, "604800000", Range(1, i64::MAX), Accepted, ROLL,
        "Without effect: the log is kept in chunks of its own size."),
    Setting::new("unclean.leader.election.enable", Boolean, "false", Flag, Accepted, &[("unclean.leader.election.enable", 1)],
        "Without effect: the one replica leads."),
];

const I32: i64 = i32::MAX as i64;
