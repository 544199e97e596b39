//! `system.process`: the processes that took the most CPU time and those that hold the most memory.
//!
//! One pass reads `/proc/PID/stat` of all, a second the other files of the few that are reported. What another user's
//! process does not let us read is left out of its event.

use std::{fmt::Write as _, io, time::Duration};

use rustix::fs::{AtFlags, Mode, OFlags};
use serde::Serialize;

use super::{
    event::{Pct, Stamp},
    files::{Files, lines, number, odd, words},
    process_summary,
    stat::TICKS_PER_S,
};

/// How many are reported for their CPU time, and how many for their memory.
const TOP: usize = 5;

/// What is read of a command line, which may have megabytes and stands three times in an event.
const ARGUMENTS_BYTES: usize = 4096;

/// What a process's event holds, under `system` and beside it.
#[derive(Debug, Serialize)]
pub(super) struct Process {
    system: System,
    process: Root,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User>,
}

#[derive(Debug, Serialize)]
struct System {
    process: Details,
}

#[derive(Debug, Serialize)]
struct Details {
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    cmdline: String,
    num_threads: u64,
    cpu: Cpu,
    memory: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    fd: Option<Descriptors>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<Io>,
}

#[derive(Debug, Serialize)]
struct Cpu {
    start_time: Stamp,
    total: Total,
}

#[derive(Debug, Serialize)]
struct Total {
    /// Milliseconds since the process began.
    value: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pct: Option<Pct>,
    #[serde(skip_serializing_if = "Option::is_none")]
    norm: Option<Share>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Share {
    pct: Pct,
}

#[derive(Debug, Serialize)]
struct Memory {
    size: u64,
    share: u64,
    rss: Resident,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Resident {
    bytes: u64,
    pct: Pct,
}

#[derive(Debug, Serialize)]
struct Descriptors {
    #[serde(skip_serializing_if = "Option::is_none")]
    open: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<Limit>,
}

#[derive(Debug, Serialize)]
struct Limit {
    soft: u64,
    hard: u64,
}

#[derive(Debug, Default, Serialize)]
struct Io {
    read_char: u64,
    write_char: u64,
    read_ops: u64,
    write_ops: u64,
    read_bytes: u64,
    write_bytes: u64,
    cancelled_write_bytes: u64,
}

/// The fields of Elastic's common schema.
#[derive(Debug, Serialize)]
struct Root {
    pid: u32,
    parent: Parent,
    pgid: u64,
    name: String,
    state: &'static str,
    cpu: RootCpu,
    memory: Share,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    command_line: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_directory: Option<String>,
}

#[derive(Debug, Serialize)]
struct Parent {
    pid: u64,
}

#[derive(Debug, Serialize)]
struct RootCpu {
    #[serde(skip_serializing_if = "Option::is_none")]
    pct: Option<Pct>,
    start_time: Stamp,
}

#[derive(Debug, Serialize)]
struct User {
    name: String,
}

/// What the shares are shares of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    pub(super) cores: u64,
    pub(super) boot_s: u64,
    pub(super) memory_bytes: u64,
}

/// One process in the first pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pid: u32,
    state: u8,
    parent: u64,
    pgid: u64,
    /// User and system time since it began.
    ticks: u64,
    threads: u64,
    /// Ticks from the host's boot to its begin; tells it from a later process of the same number.
    start: u64,
    size_bytes: u64,
    resident_pages: u64,
    /// Ticks since the last pass; `None` if it was not there then.
    spent: Option<u64>,
}

/// The passes over all processes.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    rows: Vec<Row>,
    /// Number, begin and ticks of those of the last pass, by number.
    last: Vec<(u32, u64, u64)>,
    /// When the last pass was, on the clock that never jumps, and how long before this one.
    last_at: Option<Duration>,
    between: Option<Duration>,
    pids: Vec<u32>,
    path: String,
    users: Vec<(u32, String)>,
}

impl Sweep {
    /// The first pass.
    pub(super) fn run(&mut self, proc: &Files, now: Duration) -> io::Result<()> {
        self.last.clear();
        self.last.extend(self.rows.iter().map(|r| (r.pid, r.start, r.ticks)));
        self.between = self.last_at.replace(now).map(|last| now.saturating_sub(last));
        self.rows.clear();
        self.pids.clear();
        let pids = &mut self.pids;
        proc.names(".", |name| pids.extend(name.parse::<u32>()))?;
        // The kernel lists them in order.
        if !self.pids.is_sorted() {
            self.pids.sort_unstable();
        }
        let mut buffer = [0; 1024];
        for &pid in &self.pids {
            path(&mut self.path, pid, "stat");
            // A process may be gone before it is read.
            let Ok(stat) = proc.read_once(&self.path, &mut buffer) else { continue };
            let Some(mut row) = row(pid, stat) else { continue };
            if let Ok(at) = self.last.binary_search_by_key(&pid, |(pid, ..)| *pid)
                && self.last[at].1 == row.start
            {
                row.spent = Some(row.ticks.saturating_sub(self.last[at].2));
            }
            self.rows.push(row);
        }
        if self.rows.is_empty() { Err(odd("no process in /proc")) } else { Ok(()) }
    }

    /// How many processes the last pass found.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many processes are in which state.
    pub(super) fn summary(&self, running: u64, blocked: u64) -> process_summary::Summarized {
        process_summary::count(self.rows.iter().map(|r| state_name(r.state)), running, blocked)
    }

    /// The second pass: those with the most CPU time since the last sweep, and those with the most memory.
    pub(super) fn top(&mut self, proc: &mut Files, etc: &mut Option<Files>, host: Host) -> Vec<Process> {
        let mut chosen = Vec::with_capacity(2 * TOP);
        // One that was not there has taken all its time since; in the first pass that is so for all.
        most(&self.rows, &mut chosen, |r| r.spent.unwrap_or(r.ticks));
        most(&self.rows, &mut chosen, |r| r.resident_pages);
        chosen.sort_unstable();
        chosen.dedup();
        let rows: Vec<Row> = chosen.into_iter().map(|at| self.rows[at]).collect();
        rows.iter().filter_map(|row| self.details(proc, etc, host, row)).collect()
    }

    fn details(&mut self, proc: &mut Files, etc: &mut Option<Files>, host: Host, row: &Row) -> Option<Process> {
        let pid = row.pid;
        let mut file = |name: &str| {
            path(&mut self.path, pid, name);
            self.path.as_str().to_owned()
        };
        let name = String::from_utf8_lossy(proc.read(&file("comm")).ok()?).trim_end().to_owned();
        let mut cmdline = [0; ARGUMENTS_BYTES];
        let args = proc.read_once(&file("cmdline"), &mut cmdline).map(arguments).unwrap_or_default();
        let (user_id, swap) = proc.read(&file("status")).map(status).unwrap_or_default();
        let share_pages = proc.read(&file("statm")).ok().and_then(|s| words(s).nth(2).and_then(number)).unwrap_or(0);
        let io = proc.read(&file("io")).ok().map(io_of);
        let limit = proc.read(&file("limits")).ok().and_then(open_files_limit);
        let open = proc.count(&file("fd"));
        let executable = proc.link(&file("exe"));
        let working_directory = proc.link(&file("cwd"));

        let page_bytes = rustix::param::page_size() as u64;
        let resident = row.resident_pages * page_bytes;
        let share = Share { pct: Pct::of(resident, host.memory_bytes) };
        let begun = Stamp(in_i64(host.boot_s * 1000 + in_ms(row.start)));
        let busy = self.between.zip(row.spent).filter(|(between, _)| !between.is_zero()).map(|(between, spent)| {
            let pct = in_ms(spent) as f64 / (between.as_secs_f64() * 1000.0);
            (Pct::round(pct), Pct::round(pct / host.cores as f64))
        });
        let cmdline = args.join(" ");
        let state = state_name(row.state);
        Some(Process {
            system: System {
                process: Details {
                    state,
                    cmdline: cmdline.clone(),
                    num_threads: row.threads,
                    cpu: Cpu {
                        start_time: begun,
                        total: Total {
                            value: in_ms(row.ticks),
                            pct: busy.map(|b| b.0),
                            norm: busy.map(|b| Share { pct: b.1 }),
                        },
                    },
                    memory: Memory {
                        size: row.size_bytes,
                        share: share_pages * page_bytes,
                        rss: Resident { bytes: resident, pct: share.pct },
                        swap,
                    },
                    fd: (open.is_some() || limit.is_some()).then_some(Descriptors { open, limit }),
                    io,
                },
            },
            process: Root {
                pid,
                parent: Parent { pid: row.parent },
                pgid: row.pgid,
                name,
                state,
                cpu: RootCpu { pct: busy.map(|b| b.1), start_time: begun },
                memory: share,
                args,
                command_line: cmdline,
                executable,
                working_directory,
            },
            user: user_id.map(|id| User { name: self.user(etc, id) }),
        })
    }

    /// A user's name; the number itself if `/etc/passwd` has none.
    fn user(&mut self, etc: &mut Option<Files>, id: u32) -> String {
        if let Some((_, name)) = self.users.iter().find(|(known, _)| *known == id) {
            return name.clone();
        }
        let found = etc.as_mut().and_then(|etc| etc.read("passwd").ok()).and_then(|passwd| {
            lines(passwd).find_map(|line| {
                let mut fields = line.split(|b| *b == b':');
                let name = fields.next()?;
                (fields.nth(1).and_then(number) == Some(u64::from(id)))
                    .then(|| String::from_utf8_lossy(name).into_owned())
            })
        });
        let name = found.unwrap_or_else(|| id.to_string());
        // Users come and go on few hosts; forgetting them now and then bounds what is kept.
        if self.users.len() >= 64 {
            self.users.clear();
        }
        self.users.push((id, name.clone()));
        name
    }
}

fn path(buffer: &mut String, pid: u32, file: &str) {
    buffer.clear();
    // Writing to a String cannot fail.
    let _ok = write!(buffer, "{pid}/{file}");
}

/// Adds the places of the rows with the greatest `key`; of equal ones the first.
fn most(rows: &[Row], chosen: &mut Vec<usize>, key: impl Fn(&Row) -> u64) {
    let mut best: Vec<(u64, usize)> = Vec::with_capacity(TOP + 1);
    for (at, row) in rows.iter().enumerate() {
        let value = key(row);
        if best.len() == TOP && best.last().is_some_and(|(least, _)| value <= *least) {
            continue;
        }
        best.insert(best.partition_point(|(other, _)| *other >= value), (value, at));
        best.truncate(TOP);
    }
    chosen.extend(best.into_iter().map(|(_, at)| at));
}

/// One row of `/proc/PID/stat`. The name in brackets may hold anything, brackets too.
fn row(pid: u32, stat: &[u8]) -> Option<Row> {
    let after_name = stat.iter().rposition(|b| *b == b')')? + 1;
    let mut fields = words(&stat[after_name..]);
    let state = *fields.next()?.first()?;
    let parent = fields.next().and_then(number)?;
    let pgid = fields.next().and_then(number)?;
    // Counted from the state, which is field 3 of proc(5): 14 and 15, 20, 22, 23, 24.
    let mut later = fields.skip(8).map(|w| number(w).unwrap_or(0));
    let ticks = later.next()? + later.next()?;
    let mut later = later.skip(4);
    let threads = later.next()?;
    let mut later = later.skip(1);
    let (start, size_bytes, resident_pages) = (later.next()?, later.next()?, later.next()?);
    Some(Row { pid, state, parent, pgid, ticks, threads, start, size_bytes, resident_pages, spent: None })
}

fn state_name(letter: u8) -> &'static str {
    match letter {
        b'R' => "running",
        b'S' => "sleeping",
        b'D' => "disk_sleep",
        b'I' => "idle",
        b'T' | b't' => "stopped",
        b'Z' => "zombie",
        b'X' | b'x' => "dead",
        b'K' => "wakekill",
        b'W' => "waking",
        b'P' => "parked",
        _ => "unknown",
    }
}

fn arguments(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|b| *b == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

/// The user's number, and the bytes swapped out.
fn status(bytes: &[u8]) -> (Option<u32>, Option<u64>) {
    let mut found = (None, None);
    for line in lines(bytes) {
        let mut words = words(line);
        match words.next() {
            Some(b"Uid:") => found.0 = words.next().and_then(number).and_then(|id| u32::try_from(id).ok()),
            Some(b"VmSwap:") => found.1 = words.next().and_then(number).map(|kib| kib * 1024),
            _ => {}
        }
    }
    found
}

fn io_of(bytes: &[u8]) -> Io {
    let mut io = Io::default();
    for line in lines(bytes) {
        let mut words = words(line);
        let field = match words.next() {
            Some(b"rchar:") => &mut io.read_char,
            Some(b"wchar:") => &mut io.write_char,
            Some(b"syscr:") => &mut io.read_ops,
            Some(b"syscw:") => &mut io.write_ops,
            Some(b"read_bytes:") => &mut io.read_bytes,
            Some(b"write_bytes:") => &mut io.write_bytes,
            Some(b"cancelled_write_bytes:") => &mut io.cancelled_write_bytes,
            _ => continue,
        };
        *field = words.next().and_then(number).unwrap_or(0);
    }
    io
}

fn open_files_limit(bytes: &[u8]) -> Option<Limit> {
    let line = lines(bytes).find_map(|l| l.strip_prefix(b"Max open files"))?;
    let mut numbers = words(line).map(number);
    Some(Limit { soft: numbers.next()??, hard: numbers.next()?? })
}

fn in_ms(ticks: u64) -> u64 {
    ticks.saturating_mul(1000 / TICKS_PER_S)
}

fn in_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Files {
    /// The beginning of a file that the kernel makes in one piece, as far as it fits `buffer`.
    fn read_once<'b>(&self, path: &str, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let file = rustix::fs::openat(self, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let length = rustix::io::read(&file, &mut *buffer)?;
        Ok(&buffer[..length])
    }

    /// How many entries a directory has. Since Linux 6.2 the kernel says it as the size of `/proc/PID/fd`; counting
    /// the hundred thousand descriptors of a large server would take as long as everything else.
    pub(super) fn count(&self, path: &str) -> Option<u64> {
        let size = rustix::fs::statat(self, path, AtFlags::empty()).ok()?.st_size;
        if self.is_proc && size > 0 {
            return u64::try_from(size).ok();
        }
        let mut count = 0;
        self.names(path, |_| count += 1).ok().map(|()| count)
    }
}
