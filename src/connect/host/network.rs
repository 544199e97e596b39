//! `system.network`: each interface's counters since it came up, one event each.

use std::io;

use serde::Serialize;

use super::files::{Files, lines, number, odd, words};

/// `system.network`.
#[derive(Debug, Serialize)]
pub(super) struct Network {
    network: Interface,
}

#[derive(Debug, Serialize)]
struct Interface {
    name: String,
    r#in: Counters,
    out: Counters,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Counters {
    bytes: u64,
    packets: u64,
    errors: u64,
    dropped: u64,
}

/// All interfaces, the loopback among them.
pub(super) fn read(proc: &mut Files) -> io::Result<Vec<Network>> {
    let rows = lines(proc.read("net/dev")?).skip(2);
    rows.map(|row| interface(row).ok_or_else(|| odd("a row of /proc/net/dev"))).collect()
}

fn interface(row: &[u8]) -> Option<Network> {
    let row = std::str::from_utf8(row).ok()?;
    // The name may hold a colon, the counters never do.
    let (name, counters) = row.rsplit_once(':')?;
    let mut all = words(counters.as_bytes()).map(number);
    let mut next = || all.next().flatten();
    let received = Counters { bytes: next()?, packets: next()?, errors: next()?, dropped: next()? };
    let [_fifo, _frame, _compressed, _multicast] = [next()?, next()?, next()?, next()?];
    let sent = Counters { bytes: next()?, packets: next()?, errors: next()?, dropped: next()? };
    Some(Network { network: Interface { name: name.trim().to_owned(), r#in: received, out: sent } })
}
