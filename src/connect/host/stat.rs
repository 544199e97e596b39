//! `/proc/stat`, which several metricsets draw on: read once per tick.

use std::io;

use super::files::{Files, lines, number, odd, words};

/// Ticks of the counters in `/proc` per second: USER_HZ, 100 on every architecture Linux still runs on but Alpha.
pub(super) const TICKS_PER_S: u64 = 100;

/// The lines that are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    /// Ticks of all CPUs since boot.
    pub(super) total: Modes,
    /// Online logical CPUs, at least 1.
    pub(super) cores: u64,
    /// When the host booted, in seconds since 1970.
    pub(super) boot_s: u64,
    /// Threads that can run, and those that wait for a disk.
    pub(super) running: u64,
    pub(super) blocked: u64,
}

/// Ticks by what they were spent on. Time of guests is left out: it is already in `user` and `nice`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Modes {
    pub(super) user: u64,
    pub(super) nice: u64,
    pub(super) system: u64,
    pub(super) idle: u64,
    pub(super) iowait: u64,
    pub(super) irq: u64,
    pub(super) softirq: u64,
    pub(super) steal: u64,
}

impl Stat {
    pub(super) fn read(proc: &mut Files) -> io::Result<Self> {
        Self::parse(proc.read("stat")?)
    }

    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut stat = Self::default();
        for line in lines(bytes) {
            let mut words = words(line);
            let name = words.next().unwrap_or_default();
            let mut next = || words.next().and_then(number).unwrap_or(0);
            match name {
                b"cpu" => {
                    stat.total = Modes {
                        user: next(),
                        nice: next(),
                        system: next(),
                        idle: next(),
                        iowait: next(),
                        irq: next(),
                        softirq: next(),
                        steal: next(),
                    };
                }
                b"btime" => stat.boot_s = next(),
                b"procs_running" => stat.running = next(),
                b"procs_blocked" => stat.blocked = next(),
                _ if name.starts_with(b"cpu") => stat.cores += 1,
                _ => {}
            }
        }
        if stat.total == Modes::default() {
            return Err(odd("no cpu line in /proc/stat"));
        }
        stat.cores = stat.cores.max(1);
        Ok(stat)
    }
}
