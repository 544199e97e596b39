//! `system.cpu`: what the CPUs did between two ticks; since boot in the first event.

use serde::Serialize;

use super::{
    event::Pct,
    stat::{Modes, Stat},
};

/// `system.cpu`.
#[derive(Debug, Serialize)]
pub(super) struct Cpu {
    pub(super) cpu: Modi,
}

#[derive(Debug, Serialize)]
pub(super) struct Modi {
    cores: u64,
    pub(super) total: Share,
    user: Share,
    system: Share,
    nice: Share,
    idle: Share,
    iowait: Share,
    irq: Share,
    softirq: Share,
    steal: Share,
}

/// A share of all cores (0 to their number) and of one (0 to 1).
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Share {
    pct: Pct,
    pub(super) norm: Norm,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Norm {
    pub(super) pct: Pct,
}

impl Share {
    fn new(pct: Pct, norm: Pct) -> Self {
        Self { pct, norm: Norm { pct: norm } }
    }
}

/// What was spent since `last`; `None` if no time has passed.
pub(super) fn cpu(last: &Modes, now: &Stat) -> Option<Cpu> {
    // iowait may run backwards, so a difference below zero is none.
    let since = |field: fn(&Modes) -> u64| field(&now.total).saturating_sub(field(last));
    let spent = [
        since(|m| m.user),
        since(|m| m.system),
        since(|m| m.nice),
        since(|m| m.idle),
        since(|m| m.iowait),
        since(|m| m.irq),
        since(|m| m.softirq),
        since(|m| m.steal),
    ];
    let all: u64 = spent.iter().sum();
    if all == 0 {
        return None;
    }
    let cores = now.cores as f64;
    let [user, system, nice, idle, iowait, irq, softirq, steal] = spent.map(|ticks| {
        let part = ticks as f64 / all as f64;
        Share::new(Pct::round(part * cores), Pct::round(part))
    });
    let busy = |all: f64, idle: Pct, iowait: Pct| Pct::round(all - idle.0 - iowait.0);
    let total = Share::new(busy(cores, idle.pct, iowait.pct), busy(1.0, idle.norm.pct, iowait.norm.pct));
    Some(Cpu { cpu: Modi { cores: now.cores, total, user, system, nice, idle, iowait, irq, softirq, steal } })
}
