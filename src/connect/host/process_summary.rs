//! `system.process.summary`: how many processes are in which state.

use serde::Serialize;

/// `system.process`.
#[derive(Debug, Serialize)]
pub(super) struct Summarized {
    process: Summaries,
}

#[derive(Debug, Serialize)]
struct Summaries {
    summary: Summary,
}

/// The common states are always there, the rare ones when a process is in them.
#[derive(Debug, Default, Serialize)]
struct Summary {
    total: u64,
    running: u64,
    sleeping: u64,
    idle: u64,
    stopped: u64,
    zombie: u64,
    dead: u64,
    unknown: u64,
    #[serde(skip_serializing_if = "is_zero")]
    disk_sleep: u64,
    #[serde(skip_serializing_if = "is_zero")]
    wakekill: u64,
    #[serde(skip_serializing_if = "is_zero")]
    waking: u64,
    #[serde(skip_serializing_if = "is_zero")]
    parked: u64,
    threads: Threads,
}

#[derive(Debug, Default, Serialize)]
struct Threads {
    running: u64,
    blocked: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Counts states by metricbeat's names for them.
pub(super) fn count(states: impl Iterator<Item = &'static str>, running: u64, blocked: u64) -> Summarized {
    let mut summary = Summary { threads: Threads { running, blocked }, ..Summary::default() };
    for state in states {
        summary.total += 1;
        *match state {
            "running" => &mut summary.running,
            "sleeping" => &mut summary.sleeping,
            "idle" => &mut summary.idle,
            "stopped" => &mut summary.stopped,
            "zombie" => &mut summary.zombie,
            "dead" => &mut summary.dead,
            "disk_sleep" => &mut summary.disk_sleep,
            "wakekill" => &mut summary.wakekill,
            "waking" => &mut summary.waking,
            "parked" => &mut summary.parked,
            _ => &mut summary.unknown,
        } += 1;
    }
    Summarized { process: Summaries { summary } }
}
