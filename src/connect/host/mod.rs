//! The host's own metrics as metricbeat's `system` module would send them: a source.
//!
//! All events of one tick are one commit that may wait for company. Files of `/proc` are read directly: the crates
//! that wrap them allocate per field and read more than is reported. A metricset that cannot be read is named once
//! and left out; the others go on. Never keeps a history, never reads a clock of its own but for how long a read took.

mod cpu;
mod event;
mod files;
mod filesystem;
mod fsstat;
mod load;
mod memory;
mod network;
mod pi;
mod process;
mod process_summary;
mod socket_summary;
mod stat;
mod uptime;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use event::{Agent, Events, Fetch, System};
use files::Files;
pub use files::Roots;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Intake, IntakeError, Invalid, Source, SourceError, SourceRecord, Surroundings, class};
use crate::log::{self, Urgency};

/// One set of figures that are read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metricset {
    /// What the CPUs were busy with.
    Cpu,
    /// The run queue's averages.
    Load,
    /// RAM and swap.
    Memory,
    /// Each interface's counters.
    Network,
    /// The busiest and the largest processes.
    Process,
    /// Processes by state.
    ProcessSummary,
    /// Sockets by protocol and state.
    SocketSummary,
    /// Each disk's space.
    Filesystem,
    /// All disks' space together.
    Fsstat,
    /// How long the host is up.
    Uptime,
    /// What only a Raspberry Pi has; nothing elsewhere.
    Pi,
}

impl Metricset {
    /// All of them, in the order in which they are read.
    pub const ALL: [Self; 11] = [
        Self::Cpu,
        Self::Load,
        Self::Memory,
        Self::Network,
        Self::Process,
        Self::ProcessSummary,
        Self::SocketSummary,
        Self::Filesystem,
        Self::Fsstat,
        Self::Uptime,
        Self::Pi,
    ];

    /// Its name, as in `metricset.name`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Load => "load",
            Self::Memory => "memory",
            Self::Network => "network",
            Self::Process => "process",
            Self::ProcessSummary => "process_summary",
            Self::SocketSummary => "socket_summary",
            Self::Filesystem => "filesystem",
            Self::Fsstat => "fsstat",
            Self::Uptime => "uptime",
            Self::Pi => "pi",
        }
    }

    fn module(self) -> &'static str {
        if self == Self::Pi { "pi" } else { "system" }
    }

    fn dataset(self) -> &'static str {
        match self {
            Self::Cpu => "system.cpu",
            Self::Load => "system.load",
            Self::Memory => "system.memory",
            Self::Network => "system.network",
            Self::Process => "system.process",
            Self::ProcessSummary => "system.process.summary",
            Self::SocketSummary => "system.socket.summary",
            Self::Filesystem => "system.filesystem",
            Self::Fsstat => "system.fsstat",
            Self::Uptime => "system.uptime",
            Self::Pi => "pi",
        }
    }

    /// How often it is read unless it is said; `None`: every `period`.
    fn own_period(self) -> Option<Duration> {
        match self {
            Self::Filesystem | Self::Fsstat | Self::Pi => Some(Duration::from_secs(60)),
            Self::Uptime => Some(Duration::from_secs(15 * 60)),
            _ => None,
        }
    }
}

/// `[connectors.NAME]` of class `host-metrics`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the events go.
    pub topic: String,
    /// How often the frequent metricsets are read; at least a second.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// Which are read.
    pub metricsets: BTreeSet<Metricset>,
    /// Other periods of single metricsets; without one `filesystem`, `fsstat` and `pi` are read every minute and
    /// `uptime` every 15 minutes.
    pub periods: BTreeMap<Metricset, Period>,
}

/// How often something is done, written `"10s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Period(#[serde(with = "humantime_serde")] pub Duration);

impl Default for Config {
    fn default() -> Self {
        Self {
            topic: "metric.all".to_owned(),
            period: Duration::from_secs(10),
            metricsets: Metricset::ALL.into(),
            periods: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads the class's own keys.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn parse(table: toml::Table) -> Result<Self, Vec<Invalid>> {
        let config: Self = class::read(table)?;
        let mut wrong = Vec::new();
        if config.topic.is_empty() {
            wrong.push(Invalid::at("topic", "expected a topic's name"));
        }
        let short = |period: Duration| period < Duration::from_secs(1);
        if short(config.period) {
            wrong.push(Invalid::at("period", "expected at least \"1s\""));
        }
        for (metricset, Period(period)) in &config.periods {
            if short(*period) {
                let key = vec!["periods".to_owned(), metricset.name().to_owned()];
                wrong.push(Invalid { key, reason: "expected at least \"1s\"".to_owned(), known: Vec::new() });
            }
        }
        if wrong.is_empty() { Ok(config) } else { Err(wrong) }
    }

    fn period_of(&self, metricset: Metricset) -> Duration {
        let set = self.periods.get(&metricset).map(|p| p.0);
        set.or(metricset.own_period()).unwrap_or(self.period)
    }
}

/// The source.
pub struct HostMetrics {
    config: Config,
    node: Arc<str>,
    roots: Roots,
}

impl HostMetrics {
    /// A source that has read nothing yet.
    pub fn new(config: Config, surroundings: &Surroundings) -> Self {
        Self { config, node: Arc::clone(&surroundings.node), roots: Roots::default() }
    }

    async fn sample(&mut self, intake: &Intake, stop: CancellationToken) -> Result<(), SourceError> {
        let mut sampler = Sampler::open(&self.roots, filesystem::ask)
            .map_err(|error| SourceError(format!("cannot open {}: {error}", self.roots.proc.display())))?;
        let mut ephemeral = [0; 16];
        // An id of zeros tells two starts apart no worse than none; the kernel's pool is never without bytes.
        let _length = rustix::rand::getrandom(&mut ephemeral[..], rustix::rand::GetRandomFlags::empty());
        let agent = Agent::new(&self.node, intake.incarnation(), ephemeral);
        let topic: Arc<str> = self.config.topic.as_str().into();
        let begin = Instant::now();
        let mut schedule = Schedule::new(&self.config);
        let mut bytes = 4096;
        loop {
            let due = schedule.due(begin.elapsed());
            let now_ms = intake.now_ms();
            let mut events = Events::at(now_ms, &agent, bytes);
            let mut shared = Shared::default();
            for due in due {
                sampler.fetch(*due, &mut shared, &|| begin.elapsed(), &mut events);
                // The processes take milliseconds on a small board, in which others may want this thread.
                tokio::task::yield_now().await;
            }
            let (length, values) = events.finish();
            // Most ticks are alike; one that was larger grows the buffer anyway.
            bytes = length.next_multiple_of(4096);
            let record =
                |value| SourceRecord { timestamp_ms: Some(now_ms), ..SourceRecord::new(Arc::clone(&topic), value) };
            match intake.commit(values.map(record).collect(), Vec::new(), Urgency::Unattended).await {
                // These figures are worth nothing later: what does not fit now is counted as refused and let go.
                Ok(()) | Err(IntakeError::Log(log::Error::Full)) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(begin + schedule.next()) => {}
            }
        }
    }
}

impl Source for HostMetrics {
    fn run<'a>(
        &'a mut self,
        intake: &'a Intake,
        stop: CancellationToken,
    ) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + 'a>> {
        Box::pin(self.sample(intake, stop))
    }
}

/// When each metricset is read next. Times count from the start; what was missed is not made up for.
struct Schedule {
    rows: Vec<(Metricset, Duration, Duration)>,
    due: Vec<(Metricset, Duration)>,
}

impl Schedule {
    fn new(config: &Config) -> Self {
        let row = |m: &Metricset| (*m, config.period_of(*m), Duration::ZERO);
        Self { rows: config.metricsets.iter().map(row).collect(), due: Vec::new() }
    }

    /// What is due with its period, in order; it is due again after its period.
    fn due(&mut self, now: Duration) -> &[(Metricset, Duration)] {
        self.due.clear();
        for (metricset, period, next) in &mut self.rows {
            if *next <= now {
                self.due.push((*metricset, *period));
                let periods = now.as_nanos() / period.as_nanos().max(1) + 1;
                *next = period.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX));
            }
        }
        &self.due
    }

    /// When anything is due; in a day if nothing ever is.
    fn next(&self) -> Duration {
        self.rows.iter().map(|r| r.2).min().unwrap_or(Duration::from_secs(86_400))
    }
}

/// Reads what is due and knows what was read last.
struct Sampler {
    proc: Files,
    sys: Files,
    etc: Option<Files>,
    asks_kernel: bool,
    ask: filesystem::Ask,
    last_cpu: stat::Modes,
    sweep: process::Sweep,
    board: Option<pi::Board>,
    unreadable: BTreeSet<Metricset>,
}

impl Sampler {
    fn open(roots: &Roots, ask: filesystem::Ask) -> io::Result<Self> {
        let mut proc = Files::open(&roots.proc)?;
        let mut sys = Files::open(&roots.sys)?;
        let board = pi::Board::find(&mut proc, &mut sys);
        Ok(Self {
            proc,
            sys,
            etc: Files::open(&roots.etc).ok(),
            asks_kernel: roots.asks_kernel,
            ask,
            last_cpu: stat::Modes::default(),
            sweep: process::Sweep::default(),
            board,
            unreadable: BTreeSet::new(),
        })
    }

    /// Adds the events of one metricset; `clock` never jumps, `shared` is of one tick.
    fn fetch(
        &mut self,
        (metricset, period): (Metricset, Duration),
        shared: &mut Shared,
        clock: &dyn Fn() -> Duration,
        events: &mut Events<'_>,
    ) {
        let fetch = Fetching { metricset, period, begin: clock(), clock };
        match self.read(fetch, shared, events) {
            Ok(()) => {
                self.unreadable.remove(&metricset);
            }
            Err(error) => {
                if self.unreadable.insert(metricset) {
                    tracing::warn!(metricset = metricset.name(), %error, "host metrics cannot be read");
                }
            }
        }
    }

    fn read(&mut self, fetch: Fetching<'_>, shared: &mut Shared, events: &mut Events<'_>) -> io::Result<()> {
        match fetch.metricset {
            Metricset::Cpu => {
                let stat = shared.stat(&mut self.proc)?;
                if let Some(cpu) = cpu::cpu(&self.last_cpu, stat) {
                    self.last_cpu = stat.total;
                    let usage = cpu.cpu.total.norm.pct;
                    events.add_with_usage(fetch.done(), &System { system: cpu }, Some(usage));
                }
            }
            Metricset::Load => {
                let cores = shared.stat(&mut self.proc)?.cores;
                let load = load::read(&mut self.proc, cores)?;
                events.add(fetch.done(), &System { system: load });
            }
            Metricset::Memory => {
                let memory = memory::read(&mut self.proc)?;
                shared.memory_bytes = Some(memory.total_bytes());
                events.add(fetch.done(), &System { system: memory });
            }
            Metricset::Network => {
                let interfaces = network::read(&mut self.proc)?;
                let fetch = fetch.done();
                interfaces.into_iter().for_each(|interface| events.add(fetch, &System { system: interface }));
            }
            Metricset::Process => {
                let (cores, boot_s) = shared.stat(&mut self.proc).map(|s| (s.cores, s.boot_s))?;
                let memory_bytes = match shared.memory_bytes {
                    Some(bytes) => bytes,
                    None => memory::total_bytes(&mut self.proc)?,
                };
                self.sweep(shared, &fetch)?;
                let host = process::Host { cores, boot_s, memory_bytes };
                let top = self.sweep.top(&mut self.proc, &mut self.etc, host);
                let fetch = fetch.done();
                top.iter().for_each(|process| events.add(fetch, process));
            }
            Metricset::ProcessSummary => {
                let (running, blocked) = shared.stat(&mut self.proc).map(|s| (s.running, s.blocked))?;
                self.sweep(shared, &fetch)?;
                events.add(fetch.done(), &System { system: self.sweep.summary(running, blocked) });
            }
            Metricset::SocketSummary => {
                let sockets = socket_summary::read(&mut self.proc, self.asks_kernel)?;
                events.add(fetch.done(), &System { system: sockets });
            }
            Metricset::Filesystem => {
                let disks = shared.disks(&mut self.proc, self.ask)?;
                let fetch = fetch.done();
                disks.iter().for_each(|disk| events.add(fetch, &System { system: disk }));
            }
            Metricset::Fsstat => {
                let sums = fsstat::sum(shared.disks(&mut self.proc, self.ask)?);
                events.add(fetch.done(), &System { system: sums });
            }
            Metricset::Uptime => {
                let uptime = uptime::read(&mut self.proc)?;
                events.add(fetch.done(), &System { system: uptime });
            }
            Metricset::Pi => {
                if let Some(board) = &self.board {
                    let figures = board.read(&mut self.proc, &mut self.sys)?;
                    events.add(fetch.done(), &figures);
                }
            }
        }
        Ok(())
    }

    /// The pass over all processes, once per tick.
    fn sweep(&mut self, shared: &mut Shared, fetch: &Fetching<'_>) -> io::Result<()> {
        if !shared.has_swept {
            self.sweep.run(&self.proc, fetch.begin)?;
            shared.has_swept = true;
        }
        Ok(())
    }
}

/// What several metricsets of one tick draw on.
#[derive(Default)]
struct Shared {
    stat: Option<stat::Stat>,
    memory_bytes: Option<u64>,
    disks: Option<Vec<filesystem::Filesystem>>,
    has_swept: bool,
}

impl Shared {
    fn stat(&mut self, proc: &mut Files) -> io::Result<&stat::Stat> {
        Ok(match self.stat.take() {
            Some(stat) => self.stat.insert(stat),
            None => self.stat.insert(stat::Stat::read(proc)?),
        })
    }

    fn disks(&mut self, proc: &mut Files, ask: filesystem::Ask) -> io::Result<&[filesystem::Filesystem]> {
        Ok(match self.disks.take() {
            Some(disks) => self.disks.insert(disks),
            None => self.disks.insert(filesystem::read(proc, ask)?),
        })
    }
}

/// A fetch that is not done yet.
struct Fetching<'a> {
    metricset: Metricset,
    period: Duration,
    begin: Duration,
    clock: &'a dyn Fn() -> Duration,
}

impl Fetching<'_> {
    fn done(&self) -> Fetch {
        let took = (self.clock)().saturating_sub(self.begin);
        Fetch { metricset: self.metricset, period: self.period, took }
    }
}

#[cfg(test)]
mod tests;
