//! Kafka's settings of single groups: the rows of `DescribeConfigs` for a group.
//!
//! Data only. Those of share and streams groups are not here, because such groups are not.

use super::{Check::*, Kind::*, Setting, Standing::*};

/// The time-out of a session.
pub(super) const SESSION_TIMEOUT: &str = "consumer.session.timeout.ms";
/// The interval of heartbeats.
pub(super) const HEARTBEAT_INTERVAL: &str = "consumer.heartbeat.interval.ms";

/// Every group setting, sorted by name.
#[rustfmt::skip]
pub(super) const GROUP: &[Setting] = &[
    Setting::new(HEARTBEAT_INTERVAL, Int, "5000", Range(1, i32::MAX as i64), Honoured, &[("group.consumer.heartbeat.interval.ms", 1)],
        "How often members of this group are told to beat, if it follows the consumer protocol; within the broker's limits and below the session time-out."),
    Setting::new(SESSION_TIMEOUT, Int, "45000", Range(1, i32::MAX as i64), Honoured, &[("group.consumer.session.timeout.ms", 1)],
        "A member of this group that is silent for so long is removed, if it follows the consumer protocol; within the broker's limits."),
];
