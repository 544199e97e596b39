//! The machine around the daemon: pages, clock, the service's memory, the ports.

use std::{
    fs,
    net::{TcpListener, TcpStream, ToSocketAddrs as _},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Finding;
use crate::{config::Config, log::kernel_time};

/// The peak that the suite `tests/memory` holds, and what the kernel's own share of the service takes.
const NEEDED_BYTES: u64 = 48 << 20;
/// Before this version was made: a clock that says so was never set.
const PLAUSIBLE_S: u64 = 1_735_689_600;
const CONNECT_TIME: Duration = Duration::from_secs(2);

pub(super) fn look(daemon: Option<u32>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let page_kib = rustix::param::page_size() / 1024;
    findings.push(match page_kib {
        4 => Finding::ok("pages", "4 KiB"),
        _ => Finding::ok("pages", format!("{page_kib} KiB; the data file is made with 4 KiB pages all the same")),
    });
    findings.push(clock());
    findings.extend(memory(daemon));
    findings
}

fn clock() -> Finding {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let source = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let source = source.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
    let battery =
        if Path::new("/sys/class/rtc/rtc0").exists() { "a clock with battery" } else { "no clock with battery" };
    let about = format!("source {source}, {battery}");
    if now_s < PLAUSIBLE_S {
        return Finding::note(
            "clock",
            format!("the clock was never set; {about}"),
            "let the board reach a time server; until then nothing is deleted by age, and records carry wrong times",
        );
    }
    // The kernel's word, by which the log goes too.
    if kernel_time().is_synchronised {
        return Finding::ok("clock", format!("synchronised; {about}"));
    }
    Finding::note(
        "clock",
        format!("not synchronised; {about}"),
        "enable systemd-timesyncd or chrony; nothing is lost without, but records may carry wrong times",
    )
}

/// The limit of the running daemon's control group, or of the service's.
fn memory(daemon: Option<u32>) -> Option<Finding> {
    let group = match daemon {
        Some(pid) => fs::read_to_string(format!("/proc/{pid}/cgroup")).ok().and_then(|text| {
            Some(format!("/sys/fs/cgroup{}", text.lines().find_map(|line| line.strip_prefix("0::"))?))
        })?,
        None => "/sys/fs/cgroup/system.slice/brooklet.service".to_owned(),
    };
    let limit = |name: &str| fs::read_to_string(format!("{group}/{name}")).ok()?.trim().parse::<u64>().ok();
    let least = [limit("memory.high"), limit("memory.max")].into_iter().flatten().min();
    let size = |bytes: u64| bytesize::ByteSize(bytes).display().iec().to_string();
    Some(match least {
        None if daemon.is_none() && !Path::new(&group).exists() => return None,
        None => Finding::ok("memory", "the service has no limit"),
        Some(least) if least < NEEDED_BYTES => Finding::change(
            "memory",
            format!("the service may take {}", size(least)),
            format!("give it {} with 'systemctl edit brooklet': MemoryHigh=, MemoryMax=", size(NEEDED_BYTES)),
        ),
        Some(least) => Finding::ok("memory", format!("the service may take {}", size(least))),
    })
}

/// Whether the daemon's ports answer, or are free for it.
pub(super) fn ports(config: &Config, daemon: Option<u32>) -> Vec<Finding> {
    let kafka = config.kafka.listeners.iter().map(|l| ("kafka.listeners", l.host.clone(), l.port));
    let admin =
        config.admin.listen.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    let admin = admin.map(|(host, port)| ("admin.listen", host, port));
    kafka
        .chain(admin)
        .filter(|(_, _, port)| *port != 0)
        .map(|(key, host, port)| look_at(key, &host, port, daemon))
        .collect()
}

fn look_at(key: &str, host: &str, port: u16, daemon: Option<u32>) -> Finding {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host = if bare.is_empty() { "0.0.0.0" } else { bare };
    let found = format!("{host}:{port}");
    if daemon.is_some() {
        // A daemon that listens on every address is reached at this machine's own.
        let reach = if host == "0.0.0.0" || host == "::" { "127.0.0.1" } else { host };
        let mut addresses = (reach, port).to_socket_addrs().into_iter().flatten();
        return match addresses.any(|address| TcpStream::connect_timeout(&address, CONNECT_TIME).is_ok()) {
            true => Finding::ok(key, format!("{found} answers")),
            false => Finding::change(
                key,
                format!("the daemon runs and {found} does not answer"),
                "compare with what it was started with: 'brooklet status' and its journal",
            ),
        };
    }
    match TcpListener::bind((host, port)) {
        Ok(_) => Finding::ok(key, format!("{found} is free")),
        Err(error) => Finding::change(
            key,
            format!("{found} cannot be listened on: {error}"),
            format!("stop the program that holds it ('ss -ltnp sport = :{port}' names it), or choose another"),
        ),
    }
}
