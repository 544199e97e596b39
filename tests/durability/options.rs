//! What the scripts ask for, as environment variables.

use std::path::PathBuf;

/// How records become safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Strict,
    Pipelined,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Pipelined => "pipelined",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// BROOKLET: the daemon's binary.
    pub(crate) brooklet: PathBuf,
    /// SHIM: the shared object that records.
    pub(crate) shim: Option<PathBuf>,
    /// WORK: for images and traces; a RAM disk serves well.
    pub(crate) work: PathBuf,
    /// DISK: for the data of a daemon under load; on a real disk, whose flushes take time.
    pub(crate) disk: PathBuf,
    /// SEED: of everything.
    pub(crate) seed: u64,
    /// CUTS: how many power cuts.
    pub(crate) cuts: usize,
    /// CYCLES: how many kills.
    pub(crate) cycles: usize,
    /// WORKERS: daemons started at once.
    pub(crate) workers: usize,
    /// LEVEL: strict, pipelined or both.
    pub(crate) levels: Vec<Level>,
    /// POWER: kills take the power too.
    pub(crate) power: bool,
    /// KAFKA: HOST:PORT of a real Kafka to mirror to.
    pub(crate) kafka: Option<String>,
}

impl Options {
    pub(crate) fn from_environment() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let needed = |name: &str| text(name).unwrap_or_else(|| panic!("{name} is not set"));
        let number = |name: &str, default: u64| text(name).map_or(default, |v| v.parse().expect(name));
        let levels = match text("LEVEL").as_deref() {
            None | Some("both") => vec![Level::Strict, Level::Pipelined],
            Some("strict") => vec![Level::Strict],
            Some("pipelined") => vec![Level::Pipelined],
            Some(other) => panic!("LEVEL is {other}: expected strict, pipelined or both"),
        };
        Self {
            brooklet: needed("BROOKLET").into(),
            shim: text("SHIM").map(Into::into),
            work: needed("WORK").into(),
            disk: needed("DISK").into(),
            seed: number("SEED", 1),
            cuts: usize::try_from(number("CUTS", 1500)).unwrap(),
            cycles: usize::try_from(number("CYCLES", 500)).unwrap(),
            workers: usize::try_from(number("WORKERS", 2)).unwrap(),
            levels,
            power: number("POWER", 0) != 0,
            kafka: text("KAFKA"),
        }
    }
}
