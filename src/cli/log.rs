//! `brooklet log`: verify, back up, restore and export the log's file.
//!
//! `backup` asks the daemon that runs; the others read the file themselves and need no daemon. Progress goes to standard
//! error where that is a terminal.

use std::{
    fs::{self, File},
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{Failure, args::LogCommand, consume::json_line, http, print, status::now_ms, table::bytes};
use crate::{
    config::{self, Config, Overrides},
    log,
    record::Unpacker,
};

/// Most bytes that one batch may take unpacked.
const UNPACKED_BYTES: usize = 64 << 20;
/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// Runs one of the commands.
pub(super) fn log(command: LogCommand) -> Result<(), Failure> {
    match command {
        LogCommand::Verify { source, json, config } => verify(&source_or_own(source, config.as_deref())?, json),
        LogCommand::Backup { destination, admin, config } => {
            let address = match admin {
                Some(address) => address,
                None => config::admin_address(config.as_deref()).map_err(Failure::Configuration)?,
            };
            Ok(backup(&address, &destination)?)
        }
        LogCommand::Restore { source, data_dir, config } => {
            let dir = source_or_own(data_dir, config.as_deref())?;
            let mut shown = Progress::new("checked");
            let report = log::restore(&source, &dir, now_ms(), &mut |done, of| shown.show(done, of))
                .map_err(anyhow::Error::from)?;
            shown.end();
            Ok(print(&format!("restored {} topics, {} chunks to {}\n", report.topics, report.chunks, dir.display()))?)
        }
        LogCommand::Export { topics, from, config } => Ok(export(&source_or_own(from, config.as_deref())?, &topics)?),
    }
}

/// What was named, or the directory that the configuration names.
fn source_or_own(named: Option<PathBuf>, file: Option<&Path>) -> Result<PathBuf, Failure> {
    match named {
        Some(named) => Ok(named),
        None => Ok(Config::load(file, &Overrides::default()).map_err(Failure::Configuration)?.node.data_dir),
    }
}

fn verify(source: &Path, json: bool) -> Result<(), Failure> {
    let mut shown = Progress::new("verified");
    let report = log::verify(source, &mut |done, of| shown.show(done, of)).map_err(anyhow::Error::from)?;
    shown.end();
    if json {
        print(&(serde_json::to_string_pretty(&report).map_err(anyhow::Error::from)? + "\n"))?;
    } else {
        let mut text = format!(
            "{}  {}, format {}\n{} topics, {} chunks, {} journal entries, {} state entries, {} batches\n",
            report.file.display(),
            bytes(report.bytes),
            report.format,
            report.topics,
            report.chunks,
            report.journal_entries,
            report.state_entries,
            report.batches
        );
        for known in &report.quarantined {
            text.push_str(&format!("known     {}\n", known.text()));
        }
        for problem in &report.problems {
            text.push_str(&format!("DAMAGED   {problem}\n"));
        }
        if report.problems.is_empty() {
            text.push_str("sound\n");
        }
        print(&text)?;
    }
    match report.problems.len() {
        0 => Ok(()),
        count => Err(anyhow::anyhow!(
            "{} is damaged in {count} places; the daemon mends it at its next start and keeps a copy",
            report.file.display()
        )
        .into()),
    }
}

fn backup(address: &str, destination: &Path) -> anyhow::Result<()> {
    let file = destination.join("data.mdb");
    if file.exists() {
        bail!("{} is there already and is not overwritten; choose another directory", file.display());
    }
    fs::create_dir_all(destination).with_context(|| format!("making {}", destination.display()))?;
    let part = destination.join("data.mdb.part");
    let mut out = File::create(&part).with_context(|| format!("writing {}", part.display()))?;
    let mut shown = Progress::new("copied");
    let done = http::download(address, "/backup", &mut out, &mut |done, of| shown.show(done, of))
        .and_then(|size| Ok(out.sync_all().map(|()| size)?));
    let size = match done {
        Ok(size) => size,
        Err(error) => {
            // Half a backup is none.
            let _removed = fs::remove_file(&part);
            return Err(error);
        }
    };
    shown.end();
    fs::rename(&part, &file)?;
    File::open(destination)?.sync_all()?;
    let mut shown = Progress::new("verified");
    let report = log::verify(&file, &mut |done, of| shown.show(done, of))?;
    shown.end();
    print(&format!(
        "backed up {} topics, {} chunks, {} to {}\n",
        report.topics,
        report.chunks,
        bytes(size),
        file.display()
    ))?;
    match report.problems.first() {
        None => Ok(()),
        Some(problem) => bail!("the backup holds damage that the log has too: {problem}"),
    }
}

fn export(source: &Path, topics: &[String]) -> anyhow::Result<()> {
    let mut unpacker = Unpacker::new(UNPACKED_BYTES);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut unreadable = 0;
    let mut line = Vec::new();
    let mut failed = None;
    let is_wanted = |topic: &str| topics.is_empty() || topics.iter().any(|wanted| wanted == topic);
    let damaged = log::export(source, &is_wanted, &mut |partition, batch| {
        line.clear();
        match unpacker.records(batch) {
            Ok(records) => {
                for record in records {
                    match record {
                        Ok(record) => json_line(&partition.topic, partition.index, &record, &mut line)
                            .map_err(|e| log::Error::Open(e.to_string()))?,
                        Err(_) => unreadable += 1,
                    }
                }
            }
            Err(_) => unreadable += 1,
        }
        out.write_all(&line).map_err(|error| {
            failed = Some(error.kind());
            log::Error::Open(error.to_string())
        })
    });
    let damaged = match (damaged, failed) {
        // A reader that has seen enough.
        (Err(_), Some(std::io::ErrorKind::BrokenPipe)) => return Ok(()),
        (damaged, _) => damaged?,
    };
    out.flush()?;
    if damaged + unreadable > 0 {
        bail!(
            "{damaged} places of {} are damaged, {unreadable} records cannot be read; the rest was exported",
            source.display()
        );
    }
    Ok(())
}

/// One line that is renewed on a terminal.
struct Progress {
    verb: &'static str,
    shown_at: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    fn new(verb: &'static str) -> Self {
        Self { verb, shown_at: None, is_terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, done: u64, of: u64) {
        if self.is_terminal && self.shown_at.is_none_or(|at| at.elapsed() >= SHOW_EVERY) {
            self.shown_at = Some(Instant::now());
            // Nobody is hurt where it cannot be shown.
            let _shown = write!(std::io::stderr(), "\r{} {} of {}   ", self.verb, bytes(done), bytes(of));
        }
    }

    fn end(&mut self) {
        if self.shown_at.take().is_some() {
            let _shown = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
