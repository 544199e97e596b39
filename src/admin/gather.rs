//! The other parts' figures, gathered into the status document and the gauges of `/metrics`.

use std::{collections::BTreeMap, time::Instant};

use super::status;
use crate::{
    connect,
    groups::{self, Groups},
    log::{self, Log, Wear},
    metrics::Registry,
    mirror::{Mirror, Mirrors},
    record::Partition,
    streams::{self, Streams},
    supervise,
};

/// What is reported on.
#[derive(Clone)]
pub struct Parts {
    /// Name, version and addresses.
    pub node: status::Node,
    /// When the daemon became ready.
    pub since: Instant,
    /// The log's durability, by its name in the configuration.
    pub durability: String,
    /// The log.
    pub log: Log,
    /// Consumer groups.
    pub groups: Groups,
    /// Connectors.
    pub worker: connect::Worker,
    /// Streams.
    pub streams: Streams,
    /// Links to the centre.
    pub mirrors: Mirrors,
    /// Tasks.
    pub supervisor: supervise::Supervisor,
    /// Metrics.
    pub metrics: Registry,
}

impl Parts {
    /// The status now.
    pub fn status(&self) -> status::Status {
        let usage = self.log.usage();
        let uptime_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        status::Status {
            node: status::Node { uptime_ms, ..self.node.clone() },
            log: status::Log {
                durability: self.durability.clone(),
                live_bytes: usage.live_bytes,
                quota_bytes: usage.quota_bytes,
                file_bytes: usage.file_bytes,
                memory_bytes: usage.memory_bytes,
                written_bytes: usage.written_bytes,
                ingested_bytes: usage.ingested_bytes,
                commits: usage.commits,
                wear: wear(&usage.wear),
            },
            topics: self.topics(),
            groups: self.groups(),
            connectors: self.worker.status().into_iter().map(connector).collect(),
            streams: self.streams.status().into_iter().map(stream).collect(),
            mirrors: self.mirrors.list().iter().map(mirror).collect(),
            gaps: self.log.gaps().unwrap_or_default().into_iter().map(gap).collect(),
            tasks: self.tasks(),
            quarantined: self.log.quarantined().unwrap_or_default(),
        }
    }

    fn topics(&self) -> BTreeMap<String, status::Topic> {
        let topics = self.log.topics().borrow().clone();
        let mut out = BTreeMap::new();
        for (name, topic) in &topics.by_name {
            let mut row = status::Topic { partitions: topic.partitions, ..Default::default() };
            for index in 0..topic.partitions {
                let partition = Partition::new(std::sync::Arc::clone(name), index);
                // A topic deleted meanwhile counts nothing.
                if let Ok(bounds) = self.log.watch(&partition) {
                    let bounds = *bounds.borrow();
                    row.records += bounds.high_watermark - bounds.start;
                }
                row.bytes += self.log.partition_bytes(&partition).unwrap_or(0);
            }
            out.insert(name.to_string(), row);
        }
        out
    }

    fn groups(&self) -> BTreeMap<String, status::Group> {
        let listed = self.groups.list().unwrap_or_default();
        let row = |listed: groups::Listed| {
            let committed = groups::offsets::of_group(&self.log, &listed.group).unwrap_or_default();
            let behind = |(partition, committed): (Partition, groups::offsets::Committed)| {
                let end = self.log.watch(&partition).map_or(committed.offset, |b| b.borrow().high_watermark);
                lag(end, committed.offset)
            };
            let lag = committed.into_iter().map(behind).sum();
            (listed.group, status::Group { state: listed.state.into(), members: listed.members, lag })
        };
        listed.into_iter().map(row).collect()
    }

    fn tasks(&self) -> BTreeMap<String, status::Task> {
        let troubled = self.supervisor.status().into_iter().filter(|(_, t)| t.restarts > 0);
        troubled
            .map(|(name, task)| {
                let state = match task.state {
                    supervise::State::Running => "running",
                    supervise::State::BackingOff => "backing off",
                    supervise::State::Finished => "finished",
                };
                (name, status::Task { state: state.into(), restarts: task.restarts, error: task.last_error })
            })
            .collect()
    }

    /// Sets the gauges that are read rather than counted.
    pub fn count(&self) {
        let usage = self.log.usage();
        let gauge = |name: &str, help, value: u64| {
            self.metrics.gauge(name, help, &[]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        gauge("brooklet_log_live_bytes", "Bytes of live chunks, tails and journal.", usage.live_bytes);
        gauge("brooklet_log_quota_bytes", "Most bytes of live data.", usage.quota_bytes);
        gauge("brooklet_log_file_bytes", "Size of the data file.", usage.file_bytes);
        gauge("brooklet_log_memory_bytes", "Bytes of tails, overlay and index in RAM.", usage.memory_bytes);
        let counted = |name: &str, help, value: u64| {
            let counter = self.metrics.counter(name, help, &[]);
            counter.add(value.saturating_sub(counter.get()));
        };
        counted("brooklet_log_written_bytes_total", "Bytes written to flash, whole pages.", usage.written_bytes);
        let compacted = usage.compaction_bytes;
        counted("brooklet_log_compaction_bytes_total", "Bytes of these written by compaction.", compacted);
        counted("brooklet_log_ingested_bytes_total", "Bytes of batches taken in.", usage.ingested_bytes);
        counted("brooklet_log_commits_total", "Commits.", usage.commits);
        counted("brooklet_log_gap_records_total", "Records deleted before they were mirrored.", usage.gap_records);
        counted("brooklet_log_gap_bytes_total", "Their bytes.", usage.gap_bytes);
        let quarantined = self.log.quarantined().map_or(0, |listed| listed.len() as u64);
        gauge("brooklet_log_quarantined", "Places of the log that are missing because of damage.", quarantined);
        let wear = &usage.wear;
        counted("brooklet_flash_written_bytes_total", "Bytes written since the file was made.", wear.total_bytes);
        counted("brooklet_flash_payload_bytes_total", "Batch bytes of these.", wear.payload_bytes);
        gauge("brooklet_flash_written_day_bytes", "Bytes in the last 24 hours of uptime.", wear.last_day_bytes);
        let sparing = u64::from(wear.is_sparing);
        gauge("brooklet_flash_budget_exceeded", "1 while producers wait longer to spare the card.", sparing);
        if let Some(bytes) = wear.bytes_per_day() {
            gauge("brooklet_flash_written_per_day_bytes", "Bytes per day of uptime on average.", bytes);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "both are positive and round")]
        {
            if let Some(ratio) = wear.ratio() {
                gauge("brooklet_flash_write_ratio_permille", "Bytes for 1000 of payload.", (ratio * 1000.0) as u64);
            }
            if let Some(years) = wear.years_left() {
                gauge("brooklet_flash_days_left", "Days until the endurance is used up.", (years * 365.25) as u64);
            }
        }
        let uptime_s = self.since.elapsed().as_secs();
        gauge("brooklet_uptime_seconds", "Seconds since the daemon was ready.", uptime_s);
        if let Some((resident, anonymous)) = memory_bytes() {
            gauge("brooklet_process_resident_memory_bytes", "Resident memory, mapped pages included.", resident);
            gauge("brooklet_process_anonymous_memory_bytes", "Resident memory that is no page cache.", anonymous);
        }
        for (name, topic) in self.topics() {
            let labels = [("topic", name.as_str())];
            let set = |metric, help, value: i64| self.metrics.gauge(metric, help, &labels).set(value);
            set("brooklet_topic_records", "Offsets kept, over all partitions.", topic.records);
            set("brooklet_topic_bytes", "Bytes kept.", i64::try_from(topic.bytes).unwrap_or(i64::MAX));
        }
    }
}

fn wear(wear: &Wear) -> status::Wear {
    status::Wear {
        last_day_bytes: wear.last_day_bytes,
        per_day_bytes: wear.bytes_per_day(),
        total_bytes: wear.total_bytes,
        ratio: wear.ratio(),
        budget_bytes: wear.budget_bytes_per_day,
        is_sparing: wear.is_sparing,
        years_left: wear.years_left(),
    }
}

fn connector(c: connect::Status) -> (String, status::Connector) {
    let state = serde_json::to_value(c.state).ok().and_then(|s| s.as_str().map(str::to_owned)).unwrap_or_default();
    let row = status::Connector { class: c.class.to_owned(), state, records: c.records, error: c.last_error };
    (c.name.to_string(), row)
}

fn gap(g: log::Gap) -> status::Gap {
    let log::Gap { topic, partition, from, to, records, bytes, reason, time_ms } = g;
    let (topic, reason) = (topic.to_string(), reason.name().to_owned());
    status::Gap { topic, partition, from, to, records, bytes, reason, time_ms }
}

/// `VmRSS` and `RssAnon` of this process.
fn memory_bytes() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    };
    Some((value("VmRSS")?, value("RssAnon")?))
}

fn mirror(m: &Mirror) -> (String, status::Mirror) {
    let s = m.status();
    let detail = |p: crate::mirror::PartitionStatus| status::MirrorPartition {
        source: p.source.to_string(),
        target: p.target,
        acked: p.acked,
        end: p.end,
        state: p.error.map_or_else(|| p.state.to_owned(), |e| format!("{}: {e}", p.state)),
    };
    let row = status::Mirror {
        state: s.state,
        target: s.target,
        guarantee: s.guarantee,
        partitions: s.partitions.len(),
        lag: i64::try_from(s.lag_records).unwrap_or(i64::MAX),
        safe_up_to_ms: s.safe_up_to_ms,
        records: s.acked_records,
        sent_bytes: s.sent_bytes,
        possible_duplicates: s.possible_duplicates,
        error: s.error,
        detail: s.partitions.into_iter().map(detail).collect(),
    };
    (m.name().to_owned(), row)
}

fn stream(s: streams::Status) -> (String, status::Stream) {
    let names = |topics: Vec<std::sync::Arc<str>>| topics.iter().map(ToString::to_string).collect();
    let row = status::Stream {
        from: names(s.from),
        to: names(s.to),
        records_in: s.records_in,
        records_out: s.records_out,
        errors: s.dead_letters,
        lag: s.positions.iter().map(|p| p.lag).sum(),
    };
    (s.name.to_string(), row)
}

/// How far a committed offset lies behind the end. Clients may commit any number: one below 0 says nothing is read.
fn lag(end: i64, committed: i64) -> i64 {
    end.saturating_sub(committed.max(0)).max(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_committed_offset_makes_the_lag_overflow() {
        for (committed, expected) in [(i64::MIN, 7), (-1, 7), (0, 7), (3, 4), (9, 0), (i64::MAX, 0)] {
            assert_eq!(super::lag(7, committed), expected, "{committed}");
        }
    }
}
