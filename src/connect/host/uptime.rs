//! `system.uptime`: how long the host has been up.

use std::io;

use serde::Serialize;

use super::files::{Files, odd, words};

/// `system.uptime`.
#[derive(Debug, Serialize)]
pub(super) struct Uptime {
    uptime: Up,
}

#[derive(Debug, Serialize)]
struct Up {
    duration: Milliseconds,
}

#[derive(Debug, Serialize)]
struct Milliseconds {
    ms: u64,
}

pub(super) fn read(proc: &mut Files) -> io::Result<Uptime> {
    let first = words(proc.read("uptime")?).next().and_then(|w| std::str::from_utf8(w).ok()?.parse::<f64>().ok());
    let up_s = first.filter(|s| s.is_finite() && *s >= 0.0).ok_or_else(|| odd("no number in /proc/uptime"))?;
    Ok(Uptime { uptime: Up { duration: Milliseconds { ms: (up_s * 1000.0).round() as u64 } } })
}
