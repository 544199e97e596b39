//! How the log is kept: what its opening is told, and the quota that follows from it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    WearBudget,
    clock::{KernelTime, kernel_time},
    directory::Directory,
    store,
};

/// Quota where nothing is set and the file system has much room.
const DEFAULT_QUOTA_BYTES: u64 = 8 << 30;
/// Least quota: below it the journal alone would have no room.
const LEAST_QUOTA_BYTES: u64 = 1 << 20;

/// How the log is kept.
#[derive(Clone)]
pub struct Config {
    /// The directory that holds the environment and its lock.
    pub dir: PathBuf,
    /// Most bytes of live chunks and journal; `None`: a quarter of the free space, at most 8 GiB.
    pub quota_bytes: Option<u64>,
    /// When a commit counts as durable.
    pub durability: Durability,
    /// Longest wait for company of records nobody waits for.
    pub linger: Duration,
    /// The same where a producer waits for the answer.
    pub ack_linger: Duration,
    /// How much may be written in a day before the card is spared.
    pub wear_budget: WearBudget,
    /// Bytes that the card is rated for; for the status only.
    pub endurance_bytes: Option<u64>,
    /// What happens when the quota is reached by data that must not be deleted.
    pub on_full: OnFull,
    /// Budget of the tails, the index and the queue in RAM.
    pub memory_limit_bytes: u64,
    /// Wall clock in milliseconds since 1970, replaced in tests.
    pub clock: Clock,
    /// Uptime and whether the clock is synchronised, replaced in tests.
    pub kernel: Kernel,
}

impl Config {
    /// What holds where nothing is set: a quota by free space, strict durability, 250 ms and 5 ms of lingering, the
    /// oldest dropped when full, 32 MiB of memory, the system's clock.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            quota_bytes: None,
            durability: Durability::Strict,
            linger: Duration::from_millis(250),
            ack_linger: Duration::from_millis(5),
            wear_budget: WearBudget::Auto,
            endurance_bytes: None,
            on_full: OnFull::DropOldest,
            memory_limit_bytes: 32 << 20,
            kernel: Arc::new(kernel_time),
            clock: Arc::new(|| {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
            }),
        }
    }
}

/// Wall time in milliseconds since 1970; used for record timestamps and time retention only.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Uptime and whether the clock is synchronised.
pub type Kernel = Arc<dyn Fn() -> KernelTime + Send + Sync>;

/// When a commit counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After the commit's own flushes.
    #[default]
    Strict,
    /// After the next commit's flush, or one of its own when nothing else is to do: the same promise, with half the
    /// flushes where commits follow each other. Never shown or acknowledged before.
    Pipelined,
}

/// What happens when the quota is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// The oldest goes, with an entry in the gap ledger if it was not mirrored.
    #[default]
    DropOldest,
    /// New records are refused with [`Error::Full`].
    Reject,
}

/// The quota in force on this file system.
pub(super) fn quota(config: &Config, directory: &Directory) -> u64 {
    let own = std::fs::metadata(directory.data_file()).map_or(0, |m| m.len());
    let room_bytes = directory.free_bytes().unwrap_or(0) + own;
    let quota = wanted_quota(config.quota_bytes, room_bytes);
    if quota > store::quota_cap() {
        tracing::warn!(
            "log.quota is {} MiB, and this build's address space holds {} MiB: that is the quota; a 64-bit system takes more",
            quota >> 20,
            store::quota_cap() >> 20
        );
    }
    quota_in_force(config.quota_bytes, room_bytes)
}

/// The quota in force where `set_bytes` is configured, or nothing, and the file system has `room_bytes` for the log: what
/// is free and what the log has taken itself, so that it stays the same from start to start.
pub fn quota_in_force(set_bytes: Option<u64>, room_bytes: u64) -> u64 {
    wanted_quota(set_bytes, room_bytes).clamp(LEAST_QUOTA_BYTES, store::quota_cap())
}

fn wanted_quota(set_bytes: Option<u64>, room_bytes: u64) -> u64 {
    set_bytes.unwrap_or_else(|| (room_bytes / 4).min(DEFAULT_QUOTA_BYTES))
}
