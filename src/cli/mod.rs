//! The command line: arguments, what each command prints, and exit codes.
//!
//! Commands that talk to a broker speak the Kafka protocol and work against any Kafka; `status` and `mirror status`
//! ask the local daemon's admin port. Output is aligned for people, `--json` is stable for programs. Exit codes: 0 ok,
//! 1 failed, 2 wrong usage, 78 wrong configuration (sysexits' EX_CONFIG; the unit does not restart on it).

mod args;
mod broker;
mod consume;
mod doctor;
mod groups;
mod http;
mod log;
mod manual;
mod member;
mod mirror;
mod produce;
mod run;
mod status;
mod table;
mod topics;

use std::{io::Write as _, process::ExitCode};

pub use args::Args;
use args::{Command, MirrorCommand};
use clap::{CommandFactory as _, Parser as _};

use crate::config::{self, Config, Overrides, Problem};

/// Why a command ended without success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The configuration is wrong; all of it, in the order of the file.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Configuration(Vec<Problem>),
    /// Anything else.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Configuration(_) => ExitCode::from(78),
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match dispatch(args) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough (`| head`) closes the pipe; that is no failure of ours.
        Err(Failure::Failed(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nothing can be done if standard error is gone as well.
            let _gone = writeln!(std::io::stderr(), "brooklet: {failure}");
            failure.exit_code()
        }
    }
}

fn dispatch(args: Args) -> Result<(), Failure> {
    let command = args.command.unwrap_or(Command::Run(args.run));
    match command {
        Command::Run(run) => run::run(&run),
        Command::Check { config } => check(config.as_deref()),
        Command::Config { config, defaults } => show_config(config.as_deref(), defaults),
        Command::Doctor { config, data_dir, json } => doctor::doctor(config.as_deref(), data_dir.as_deref(), json),
        Command::Status { admin, json, config } => status::status(admin, config.as_deref(), json),
        Command::Topics { broker, command } => on_broker(&broker, |client| topics::topics(client, command)),
        Command::Produce { broker, produce } => on_broker(&broker, |client| produce::produce(client, produce)),
        Command::Consume { broker, consume } => on_broker(&broker, |client| consume::consume(client, consume)),
        Command::Groups { broker, command } => on_broker(&broker, |client| groups::groups(client, command)),
        Command::Mirror { command: MirrorCommand::Status { admin, json, config } } => {
            mirror::status(admin, config.as_deref(), json)
        }
        Command::Mirror { command: MirrorCommand::Gaps { admin, json, config } } => {
            mirror::gaps(admin, config.as_deref(), json)
        }
        Command::Log { command } => log::log(command),
        Command::Version => {
            print(&version())?;
            Ok(())
        }
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "brooklet", &mut out);
            print(&String::from_utf8_lossy(&out))?;
            Ok(())
        }
        Command::Man => {
            let out = manual::page(Args::command()).map_err(anyhow::Error::from)?;
            print(&String::from_utf8_lossy(&out))?;
            Ok(())
        }
    }
}

/// Runs a command against the broker its options name, on a runtime of one thread.
fn on_broker<F: Future<Output = anyhow::Result<()>>>(
    broker: &args::Broker,
    command: impl FnOnce(broker::Connected) -> F,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    runtime.block_on(async { command(broker::connect(broker).await?).await.map_err(Failure::from) })
}

fn check(file: Option<&std::path::Path>) -> Result<(), Failure> {
    let config = Config::load(file, &Overrides::default()).map_err(Failure::Configuration)?;
    let name = config.file.as_ref().map_or_else(|| "built-in defaults".to_owned(), |f| f.display().to_string());
    print(&format!("{name}: ok\n"))?;
    Ok(())
}

fn show_config(file: Option<&std::path::Path>, defaults: bool) -> Result<(), Failure> {
    if defaults {
        print(config::DEFAULTS)?;
        return Ok(());
    }
    let config = Config::load(file, &Overrides::default()).map_err(Failure::Configuration)?;
    print(&config.show())?;
    Ok(())
}

fn version() -> String {
    let features = if cfg!(debug_assertions) { "debug build" } else { "release build" };
    format!(
        "brooklet {}\ncommit   {}\ntarget   {}-{}\nLMDB     {}\nbuild    {features}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("BROOKLET_COMMIT").unwrap_or("unknown"),
        std::env::consts::ARCH,
        std::env::consts::OS,
        crate::log::lmdb_version(),
    )
}

/// Prints, and tells a closed pipe from a failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>()).any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
