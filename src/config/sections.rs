//! The sections that no module below reads from a file by itself: `[node]`, `[log]` and `[topics.NAME]`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use serde::Deserialize;

use crate::{
    kafka,
    log::{self, Durability, OnFull, WearBudget},
};

/// `[node]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// The alias upstream, the device id in headers and heartbeats. Empty: the host's name.
    pub name: String,
    /// Where the log lies. Empty: `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/brooklet`, else `~/.local/state/brooklet`.
    pub data_dir: PathBuf,
}

impl Node {
    /// Fills in what depends on the machine.
    pub(super) fn fill_in(&mut self, environment: &dyn Fn(&str) -> Option<String>) {
        if self.name.is_empty() {
            self.name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        }
        if self.data_dir.as_os_str().is_empty() {
            let path = |name: &str| environment(name).filter(|v| !v.is_empty()).map(PathBuf::from);
            // systemd separates several state directories by colons; ours is the first.
            let state = environment("STATE_DIRECTORY").and_then(|v| v.split(':').next().map(PathBuf::from));
            self.data_dir = state
                .filter(|p| !p.as_os_str().is_empty())
                .or_else(|| path("XDG_STATE_HOME").map(|p| p.join("brooklet")))
                .or_else(|| path("HOME").map(|p| p.join(".local/state/brooklet")))
                .unwrap_or_else(|| PathBuf::from("/var/lib/brooklet"));
        }
    }
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Most bytes of live data. Missing: a quarter of the free space, at most 8 GiB.
    #[serde(default)]
    pub quota: Option<ByteSize>,
    /// When a commit counts as durable.
    pub durability: Durability,
    /// Longest wait for company of records nobody waits for.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// The same where a producer waits.
    #[serde(with = "humantime_serde")]
    pub ack_linger: Duration,
    /// Bytes a day before the card is spared.
    pub wear_budget: WearBudget,
    /// Bytes that the card is rated for, for the years left in the status.
    #[serde(default)]
    pub endurance: Option<ByteSize>,
    /// What happens when the quota is reached.
    pub on_full: OnFull,
    /// Budget of tails, index and queue in RAM.
    pub memory_limit: ByteSize,
}

/// A longer wait is a mistake: it is what a power cut may take of records that nobody waits for.
const LONGEST_LINGER: Duration = Duration::from_secs(60);
/// A producer gives up after thirty seconds.
const LONGEST_ACK_LINGER: Duration = Duration::from_secs(10);

impl Log {
    /// What is wrong with it: key and what was expected.
    pub(super) fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        for (key, value, most) in
            [("linger", self.linger, LONGEST_LINGER), ("ack_linger", self.ack_linger, LONGEST_ACK_LINGER)]
        {
            if value > most {
                wrong.push((key, format!("expected at most {}", humantime::format_duration(most))));
            }
        }
        if !(ByteSize::mib(4)..=ByteSize::gib(1)).contains(&self.memory_limit) {
            wrong.push(("memory_limit", "expected 4 MiB to 1 GiB".into()));
        }
        wrong
    }

    /// The log module's configuration for this directory.
    pub fn to_config(&self, dir: PathBuf) -> log::Config {
        log::Config {
            quota_bytes: self.quota.map(|q| q.as_u64()),
            durability: self.durability,
            linger: self.linger,
            ack_linger: self.ack_linger,
            wear_budget: self.wear_budget,
            endurance_bytes: self.endurance.map(|e| e.as_u64()),
            on_full: self.on_full,
            memory_limit_bytes: self.memory_limit.as_u64(),
            ..log::Config::new(dir)
        }
    }
}

/// `[topics.NAME]`: Kafka's topic settings and Brooklet's own.
#[derive(Clone, Debug, Deserialize)]
pub struct Topic {
    /// Number of partitions; only used when the topic is made.
    #[serde(default = "one")]
    pub partitions: i32,
    /// Settings by Kafka's names; numbers and booleans are taken as their text.
    #[serde(flatten)]
    pub settings: BTreeMap<String, toml::Value>,
}

fn one() -> i32 {
    1
}

impl Topic {
    /// The settings as Kafka's texts.
    pub fn texts(&self) -> BTreeMap<String, String> {
        let text = |v: &toml::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        self.settings.iter().map(|(k, v)| (k.clone(), text(v))).collect()
    }

    /// What is wrong with it: key and what was expected.
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        if self.partitions < 1 {
            wrong.push(("partitions".into(), "expected a number from 1".into()));
        }
        for (key, value) in self.texts() {
            if let Err(message) = kafka::settings::check_topic(&key, &value) {
                wrong.push((key, message));
            }
        }
        wrong
    }
}
