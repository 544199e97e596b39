//! The status as one document: what `/status` answers, `brooklet status` prints and the page will show.
//!
//! Its JSON is stable: fields are added, never renamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::log::Quarantined;

/// Everything at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The daemon.
    pub node: Node,
    /// The log.
    pub log: Log,
    /// Topics by name.
    pub topics: BTreeMap<String, Topic>,
    /// Consumer groups by name.
    pub groups: BTreeMap<String, Group>,
    /// Connectors by name.
    pub connectors: BTreeMap<String, Connector>,
    /// Streams by name.
    pub streams: BTreeMap<String, Stream>,
    /// Links to the centre by name.
    pub mirrors: BTreeMap<String, Mirror>,
    /// What was deleted before it was mirrored.
    #[serde(default)]
    pub gaps: Vec<Gap>,
    /// Tasks that were restarted or are waiting for it.
    pub tasks: BTreeMap<String, Task>,
    /// What is missing because the data file was damaged, the oldest first.
    #[serde(default)]
    pub quarantined: Vec<Quarantined>,
}

impl Status {
    /// One line for `systemctl status`.
    pub fn line(&self) -> String {
        let mib = self.log.live_bytes >> 20;
        let mut line = format!("{} topics, {mib} MiB of {} MiB", self.topics.len(), self.log.quota_bytes >> 20);
        if !self.quarantined.is_empty() {
            line.push_str(&format!("; {} places of the log were damaged", self.quarantined.len()));
        }
        for (name, mirror) in &self.mirrors {
            line.push_str(&format!("; mirror {name}: {}, {} behind", mirror.state, mirror.lag));
        }
        let lost: u64 = self.gaps.iter().map(|gap| gap.records).sum();
        if lost > 0 {
            line.push_str(&format!("; {lost} records lost before they were mirrored"));
        }
        let failed = self.connectors.iter().filter(|(_, c)| c.state == "FAILED").map(|(n, _)| n.as_str());
        for name in failed {
            line.push_str(&format!("; connector {name} failed"));
        }
        line
    }
}

/// The daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where Kafka clients reach it.
    pub kafka: Vec<String>,
    /// Where the log lies.
    pub data_dir: String,
    /// Milliseconds since it was ready.
    pub uptime_ms: u64,
}

/// The log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Log {
    /// `strict` or `pipelined`.
    pub durability: String,
    /// Bytes of live data.
    pub live_bytes: u64,
    /// Most bytes of live data.
    pub quota_bytes: u64,
    /// Size of the data file.
    pub file_bytes: u64,
    /// Bytes of tails and index in RAM.
    pub memory_bytes: u64,
    /// Bytes written to flash since start.
    pub written_bytes: u64,
    /// Bytes of batches taken in since start.
    pub ingested_bytes: u64,
    /// Commits since start.
    pub commits: u64,
    /// The wear of the card by the log.
    #[serde(default)]
    pub wear: Wear,
}

/// What the log has written to flash, over restarts. Days are days of uptime.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Wear {
    /// Bytes in the last 24 hours of uptime.
    pub last_day_bytes: u64,
    /// Bytes per day on average, after the first hour.
    pub per_day_bytes: Option<u64>,
    /// Bytes since the data file was made.
    pub total_bytes: u64,
    /// Bytes written for each batch byte taken in.
    pub ratio: Option<f64>,
    /// Bytes a day from which on the card is spared.
    pub budget_bytes: Option<u64>,
    /// Whether that is so now: producers wait up to `linger`.
    pub is_sparing: bool,
    /// Years until the configured endurance is used up, at the average so far.
    pub years_left: Option<f64>,
}

/// One topic.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Topic {
    /// Its partitions.
    pub partitions: i32,
    /// Offsets kept, over all partitions.
    pub records: i64,
    /// Bytes kept, over all partitions.
    pub bytes: u64,
}

/// One consumer group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Group {
    /// Kafka's name of its state.
    pub state: String,
    /// How many members it has.
    pub members: usize,
    /// Records between its committed offsets and the ends.
    pub lag: i64,
}

/// One connector.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Connector {
    /// Its class.
    pub class: String,
    /// Connect's name of its state.
    pub state: String,
    /// Records brought in or taken out since start.
    pub records: u64,
    /// Why it failed last.
    pub error: Option<String>,
}

/// One stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stream {
    /// Topics it reads.
    pub from: Vec<String>,
    /// Topics it writes.
    pub to: Vec<String>,
    /// Records read since start.
    pub records_in: u64,
    /// Records written since start.
    pub records_out: u64,
    /// Records sent to the dead letters since start.
    pub errors: u64,
    /// Records not read yet.
    pub lag: i64,
}

/// One link to the centre.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Mirror {
    /// `connecting`, `running`, `backing off`, `stopped`…
    pub state: String,
    /// Where it leads.
    pub target: String,
    /// What holds there: `exactly once` or `at least once`.
    pub guarantee: String,
    /// Partitions mirrored.
    pub partitions: usize,
    /// Records not acknowledged by the centre yet.
    pub lag: i64,
    /// Everything up to this time (milliseconds since 1970) is safe at the centre.
    pub safe_up_to_ms: Option<i64>,
    /// Records acknowledged since start.
    pub records: u64,
    /// Bytes sent since start.
    pub sent_bytes: u64,
    /// Records that may have arrived twice.
    pub possible_duplicates: u64,
    /// Why it stopped last.
    pub error: Option<String>,
    /// Each partition.
    pub detail: Vec<MirrorPartition>,
}

/// One partition of a link.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MirrorPartition {
    /// Topic and partition here.
    pub source: String,
    /// Topic at the centre.
    pub target: String,
    /// Next offset to be acknowledged.
    pub acked: i64,
    /// End here.
    pub end: i64,
    /// What it waits for.
    pub state: String,
}

/// Records that were deleted before they were mirrored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Gap {
    /// Topic here.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// First offset that is gone.
    pub from: i64,
    /// The first offset after it.
    pub to: i64,
    /// Records lost.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// `quota`, `retention` or `request`.
    pub reason: String,
    /// When the last of them were deleted, in milliseconds since 1970; null if the clock could not be believed.
    pub time_ms: Option<i64>,
}

/// One task that had trouble.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Task {
    /// `running`, `backing off` or `finished`.
    pub state: String,
    /// How often it was restarted.
    pub restarts: u64,
    /// Why.
    pub error: Option<String>,
}
