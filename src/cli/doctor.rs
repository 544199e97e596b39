//! `brooklet doctor`: what the machine can do for the daemon, and what to change.

use std::{fmt::Write as _, path::Path};

use anyhow::anyhow;

use super::{Failure, http::get, print};
use crate::{
    config::{Config, Overrides},
    doctor::{self, Level, Report},
};

/// Looks, and fails if something must be changed.
pub(super) fn doctor(config: Option<&Path>, data_dir: Option<&Path>, json: bool) -> Result<(), Failure> {
    let overrides = Overrides { data_dir: data_dir.map(Path::to_owned), ..Overrides::default() };
    let config = Config::load(config, &overrides).map_err(Failure::Configuration)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let mut report = runtime.block_on(doctor::look(&config));
    if report.daemon.is_some()
        && let Some(per_day_bytes) = per_day_bytes(&config)
    {
        report.add_wear(per_day_bytes, &config);
    }
    let text = match json {
        true => serde_json::to_string_pretty(&report).map_err(anyhow::Error::from)? + "\n",
        false => screen(&report),
    };
    print(&text)?;
    match report.findings.iter().filter(|f| f.level == Level::Change).count() {
        0 => Ok(()),
        1 => Err(anyhow!("one thing must be changed").into()),
        count => Err(anyhow!("{count} things must be changed").into()),
    }
}

/// What the daemon wrote per day; nothing in its first hour, or where its port does not answer, which is found elsewhere.
fn per_day_bytes(config: &Config) -> Option<u64> {
    let status: crate::admin::status::Status =
        serde_json::from_slice(&get(&config.admin.listen, "/status").ok()?).ok()?;
    status.log.wear.per_day_bytes
}

fn screen(report: &Report) -> String {
    let width = report.findings.iter().map(|f| f.subject.len()).max().unwrap_or(0);
    let mut out = match report.daemon {
        Some(pid) => format!("beside the running daemon (pid {pid})\n"),
        None => "no daemon runs here\n".to_owned(),
    };
    for finding in &report.findings {
        let mark = match finding.level {
            Level::Ok => "ok    ",
            Level::Note => "note  ",
            Level::Change => "CHANGE",
        };
        // Writing to a String cannot fail, here and below.
        let _ok = writeln!(out, "{mark}  {:width$}  {}", finding.subject, finding.found);
        if let Some(advice) = &finding.advice {
            let _ok = writeln!(out, "        {:width$}  -> {advice}", "");
        }
    }
    out
}
