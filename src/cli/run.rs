//! `brooklet run`: the daemon in the foreground, with its runtime, its log lines and its signals.

use std::{io::IsTerminal as _, path::Path, str::FromStr as _};

use anyhow::Context as _;
use tracing_subscriber::{Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::{Failure, args::Run};
use crate::{
    app,
    config::{Config, Overrides},
    memory,
};

/// Runs until SIGINT or SIGTERM, then drains.
pub(super) fn run(args: &Run) -> Result<(), Failure> {
    let overrides =
        Overrides { data_dir: args.data_dir.clone(), listen: args.listen.clone(), admin: args.admin.clone() };
    let read = || Config::load(args.config.as_deref(), &overrides);
    let config = read().map_err(Failure::Configuration)?;
    start_logging();
    memory::tune_allocator();
    // Two threads serve a Pi's load; each one more costs stack and a malloc arena. Blocking work is cold disk reads.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_name("brooklet")
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let announce = |ready: &app::Ready| super::print(&greeting(ready)).unwrap_or_default();
    let result = runtime.block_on(app::run(config, announce, read));
    // What still blocks (a read from a dying card) must not hold the exit.
    runtime.shutdown_background();
    Ok(result?)
}

/// Journal lines under systemd, else lines on standard error; `BROOKLET_LOG=debug` or `module=level,…` says how much.
fn start_logging() {
    let wanted = std::env::var("BROOKLET_LOG").unwrap_or_default();
    let level = Targets::from_str(&wanted).ok().filter(|_| !wanted.is_empty());
    let filter = level.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        tracing_subscriber::registry().with(journal.with_filter(filter)).init();
        return;
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// What the daemon says once it serves.
fn greeting(ready: &app::Ready) -> String {
    let program = program();
    let kafka = ready.kafka.first().cloned().unwrap_or_default();
    let broker = if kafka == "127.0.0.1:9092" { String::new() } else { format!(" -b {kafka}") };
    let admin = if ready.admin == "127.0.0.1:8083" { String::new() } else { format!(" --admin {}", ready.admin) };
    format!(
        "brooklet {} on {}\n  data   {} (quota {}, {})\n  Kafka  {}\n  admin  http://{}/status\ntry\n  \
         {program} consume metric.cpu{broker}\n  {program} status{admin}\n  kcat -b {kafka} -t metric.all -o -5 -e\n",
        env!("CARGO_PKG_VERSION"),
        ready.name,
        ready.data_dir.display(),
        super::table::bytes(ready.quota_bytes),
        ready.durability,
        ready.kafka.join(", "),
        ready.admin,
    )
}

/// How this program was called, so that the lines to try can be copied: its name if the shell finds it by that.
fn program() -> String {
    let called = std::env::args().next().unwrap_or_else(|| "brooklet".into());
    let is_installed = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("brooklet").exists()));
    if is_installed || !Path::new(&called).exists() { "brooklet".into() } else { called }
}
