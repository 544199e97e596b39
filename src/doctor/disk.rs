//! How fast the card makes things durable, measured with a small file beside the log.
//!
//! The file has no name once it is open, so nothing stays behind whatever happens.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::Finding;

/// Longest that each of the two measurements takes.
const MOST_TIME: Duration = Duration::from_secs(5);
/// Flushes of each measurement: 6.25 MiB with both.
const BLOCKS: u64 = 200;
const BLOCK_BYTES: usize = 16 << 10;

/// No flash flushes faster: what does keeps the data in a cache that a power cut empties.
const TOO_FAST_US: u64 = 30;
/// A commit flushes twice: its pages, then the page that makes them valid.
const FLUSHES_PER_COMMIT: u64 = 2;
/// A wait in which an impatient client gives up.
const SLOW_US: u64 = 1_000_000;

/// What a card does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Card {
    /// Flushes of 16 KiB at the end of a file that grows.
    pub append: Flushes,
    /// The same into places that were written before.
    pub reuse: Flushes,
    /// Commits per second that one producer gets who waits for each.
    pub commits_per_second: u64,
}

/// How long flushes took, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flushes {
    /// How many.
    pub count: usize,
    /// Half were faster.
    pub median_us: u64,
    /// One of a hundred was slower.
    pub p99_us: u64,
    /// The slowest.
    pub worst_us: u64,
}

impl Flushes {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| {
            let time = times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
            time.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
        };
        Self { count: times.len(), median_us: at(50), p99_us: at(99), worst_us: at(100) }
    }

    /// In words: `median 2.1 ms, 99 of 100 within 14 ms, worst 90 ms`.
    fn words(&self) -> String {
        let [median, p99, worst] = [self.median_us, self.p99_us, self.worst_us].map(milliseconds);
        format!("median {median}, 99 of 100 within {p99}, worst {worst}")
    }
}

fn milliseconds(us: u64) -> String {
    match us {
        0..=9_999 => format!("{:.2} ms", us as f64 / 1000.0),
        _ => format!("{} ms", us / 1000),
    }
}

/// Measures the file system of the directory, or of the nearest one above that exists.
pub(super) fn measure(dir: &Path) -> io::Result<Card> {
    let file = nameless(&existing(dir))?;
    let block = vec![0x5A; BLOCK_BYTES];
    let flushes = |place: &dyn Fn(u64) -> u64| -> io::Result<Flushes> {
        let begun = Instant::now();
        let mut times = Vec::new();
        for n in 0..BLOCKS {
            let start = Instant::now();
            file.write_all_at(&block, place(n))?;
            file.sync_data()?;
            times.push(start.elapsed());
            if begun.elapsed() > MOST_TIME {
                break;
            }
        }
        Ok(Flushes::of(times))
    };
    let append = flushes(&|n| n * BLOCK_BYTES as u64)?;
    let written = append.count as u64;
    let reuse = flushes(&|n| n * 7 % written * BLOCK_BYTES as u64)?;
    let commits_per_second = 1_000_000 / (reuse.median_us * FLUSHES_PER_COMMIT).max(1);
    Ok(Card { append, reuse, commits_per_second })
}

/// The nearest directory that exists: before the first start ours does not.
pub(super) fn existing(dir: &Path) -> PathBuf {
    dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn nameless(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!(".brooklet.doctor.{}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

impl Card {
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![
            Finding::ok("card", format!("a flush into reused space takes: {}", self.reuse.words())),
            Finding::ok("card", format!("a flush of a growing file takes: {}", self.append.words())),
        ];
        if self.reuse.median_us < TOO_FAST_US {
            findings.push(Finding::change(
                "card",
                format!(
                    "a flush returns after {} microseconds: no flash is that fast, so what is flushed is probably not \
                     safe from a power cut",
                    self.reuse.median_us
                ),
                "put the data directory on a card, eMMC or SSD of the board; in a virtual machine, let the host flush",
            ));
            return findings;
        }
        let commits = self.commits_per_second;
        findings.push(Finding::ok(
            "expect",
            format!(
                "about {commits} durable messages per second from one producer that waits for each; producers that do \
                 not wait, or several, share commits and get as many times more as come together"
            ),
        ));
        if self.reuse.worst_us.max(self.append.worst_us) > SLOW_US {
            findings.push(Finding::note(
                "card",
                "single flushes take more than a second",
                "cards of class A1 or A2 pause less; give producers a request time-out of 30 s or more",
            ));
        }
        findings
    }
}
