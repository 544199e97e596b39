//! `system.load`: the run queue's averages of 1, 5 and 15 minutes.

use std::io;

use serde::Serialize;

use super::{
    event::Pct,
    files::{Files, odd, words},
};

/// `system.load`.
#[derive(Debug, Serialize)]
pub(super) struct Load {
    load: Averages,
}

#[derive(Debug, Serialize)]
struct Averages {
    cores: u64,
    #[serde(rename = "1")]
    one: Pct,
    #[serde(rename = "5")]
    five: Pct,
    #[serde(rename = "15")]
    fifteen: Pct,
    norm: Norm,
}

/// Per core.
#[derive(Debug, Serialize)]
struct Norm {
    #[serde(rename = "1")]
    one: Pct,
    #[serde(rename = "5")]
    five: Pct,
    #[serde(rename = "15")]
    fifteen: Pct,
}

pub(super) fn read(proc: &mut Files, cores: u64) -> io::Result<Load> {
    let mut averages = words(proc.read("loadavg")?).map(|w| std::str::from_utf8(w).ok()?.parse::<f64>().ok());
    let mut next = || averages.next().flatten().ok_or_else(|| odd("no average in /proc/loadavg"));
    let [one, five, fifteen] = [next()?, next()?, next()?];
    let per_core = |load: f64| Pct::round(load / cores as f64);
    let norm = Norm { one: per_core(one), five: per_core(five), fifteen: per_core(fifteen) };
    Ok(Load { load: Averages { cores, one: Pct(one), five: Pct(five), fifteen: Pct(fifteen), norm } })
}
