//! `brooklet status`: the daemon's status document on one screen.

use std::{fmt::Write as _, path::Path};

use super::{
    Failure, http, print,
    table::{Table, bytes, span_ms},
};
use crate::{
    admin::status::{Status, Wear},
    config,
};

/// Damaged places on the screen.
const MOST_QUARANTINED: usize = 5;

/// Prints the status of the local daemon.
pub(super) fn status(admin: Option<String>, config: Option<&Path>, json: bool) -> Result<(), Failure> {
    let (status, raw) = fetch(admin, config)?;
    let text = if json { raw } else { screen(&status, now_ms()) };
    Ok(print(&text)?)
}

/// The status document, parsed and as it came.
pub(super) fn fetch(admin: Option<String>, file: Option<&Path>) -> Result<(Status, String), Failure> {
    let address = match admin {
        Some(address) => address,
        None => config::admin_address(file).map_err(Failure::Configuration)?,
    };
    let body = http::get(&address, "/status")?;
    let status = serde_json::from_slice(&body).map_err(anyhow::Error::from)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned() + "\n"))
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn screen(s: &Status, now_ms: i64) -> String {
    let mut out = String::new();
    let node = &s.node;
    let up = span_ms(i64::try_from(node.uptime_ms).unwrap_or(i64::MAX));
    // Writing to a String cannot fail, here and below.
    let _ok = writeln!(out, "{}  brooklet {}, up {up}, Kafka at {}", node.name, node.version, node.kafka.join(", "));
    let log = &s.log;
    let percent = log.live_bytes * 100 / log.quota_bytes.max(1);
    let _ok = writeln!(
        out,
        "log       {} of {} ({percent} %), {} durability, {} written for {} taken in since start, in {}",
        bytes(log.live_bytes),
        bytes(log.quota_bytes),
        log.durability,
        bytes(log.written_bytes),
        bytes(log.ingested_bytes),
        node.data_dir,
    );
    let _ok = writeln!(out, "flash     {}", wear_line(&log.wear));
    for (name, m) in &s.mirrors {
        let _ok = writeln!(out, "mirror    {}", mirror_line(name, m, now_ms));
    }
    let lost: u64 = s.gaps.iter().map(|gap| gap.records).sum();
    if lost > 0 {
        let _ok = writeln!(
            out,
            "lost      {lost} records were deleted before they were mirrored; see `brooklet mirror gaps`"
        );
    }
    for what in s.quarantined.iter().rev().take(MOST_QUARANTINED) {
        let _ok = writeln!(out, "damaged   {} ({})", what.text(), rfc3339(what.time_ms));
    }
    if let Some(more) = s.quarantined.len().checked_sub(MOST_QUARANTINED + 1) {
        let _ok = writeln!(out, "damaged   and {} more; --json lists them", more + 1);
    }
    section(&mut out, &["TOPIC", "PARTITIONS", "RECORDS", "BYTES"], &s.topics, |name, t| {
        vec![name.clone(), t.partitions.to_string(), t.records.to_string(), bytes(t.bytes)]
    });
    section(&mut out, &["CONNECTOR", "CLASS", "STATE", "RECORDS", "ERROR"], &s.connectors, |name, c| {
        let error = c.error.clone().unwrap_or_default();
        vec![name.clone(), c.class.clone(), c.state.clone(), c.records.to_string(), error]
    });
    section(&mut out, &["STREAM", "FROM", "TO", "IN", "OUT", "ERRORS", "LAG"], &s.streams, |name, t| {
        let counts = [t.records_in, t.records_out, t.errors].map(|n| n.to_string());
        let mut row = vec![name.clone(), t.from.join(" "), t.to.join(" ")];
        row.extend(counts);
        row.push(t.lag.to_string());
        row
    });
    section(&mut out, &["GROUP", "STATE", "MEMBERS", "LAG"], &s.groups, |name, g| {
        vec![name.clone(), g.state.clone(), g.members.to_string(), g.lag.to_string()]
    });
    section(&mut out, &["TASK", "STATE", "RESTARTS", "ERROR"], &s.tasks, |name, t| {
        vec![name.clone(), t.state.clone(), t.restarts.to_string(), t.error.clone().unwrap_or_default()]
    });
    out
}

/// What the card has to bear.
fn wear_line(wear: &Wear) -> String {
    let mut line = format!("{} written in the last 24 hours up", bytes(wear.last_day_bytes));
    if let Some(per_day) = wear.per_day_bytes {
        line.push_str(&format!(", {} a day on average", bytes(per_day)));
    }
    if let Some(ratio) = wear.ratio {
        line.push_str(&format!(", {ratio:.1} for each byte taken in"));
    }
    if let Some(years) = wear.years_left {
        line.push_str(&format!(", {years:.1} years left of the card"));
    }
    if let Some(budget) = wear.budget_bytes {
        let state = if wear.is_sparing { "used up: producers wait longer" } else { "kept" };
        line.push_str(&format!("; budget of {} a day {state}", bytes(budget)));
    }
    line
}

/// One link in a line: how far the data is safe at the centre comes first.
pub(super) fn mirror_line(name: &str, m: &crate::admin::status::Mirror, now_ms: i64) -> String {
    let safe = match m.safe_up_to_ms {
        _ if m.lag == 0 && m.partitions > 0 => "everything is safe at the centre".to_owned(),
        Some(t) => format!("safe up to {} ({} ago)", rfc3339(t), span_ms(now_ms.saturating_sub(t))),
        None => "nothing is safe at the centre yet".to_owned(),
    };
    let error = m.error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
    format!("{name} → {}: {safe}; {} records behind; {}{error}; {}", m.target, m.lag, m.state, m.guarantee)
}

/// A time as `2026-11-21T08:00:26Z`.
pub(super) fn rfc3339(ms: i64) -> String {
    let since = std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}

fn section<T>(
    out: &mut String,
    heading: &[&str],
    rows: &std::collections::BTreeMap<String, T>,
    row: impl Fn(&String, &T) -> Vec<String>,
) {
    let mut table = Table::new(heading);
    for (name, value) in rows {
        table.row(row(name, value));
    }
    if !table.is_empty() {
        out.push('\n');
        out.push_str(&table.text());
    }
}
