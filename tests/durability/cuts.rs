//! Power cuts: runs under load that are recorded, and each cut at many places.
//!
//! The daemon that is recorded and the ones that are checked are the same binary. Each worker walks through the trace
//! once, cuts at its share of the places in ascending order, and starts the daemon on each image. Then the replay lies
//! (see [`Lie`]), and cuts have to fail: that shows that the check sees a missing flush and an early answer.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    check::{Moment, Truth},
    daemon::{Daemon, Setup},
    dice::Dice,
    load::Load,
    options::{Level, Options},
    trace::{Kind, Medium, Trace},
};

/// Cuts of one recorded run.
const CUTS_PER_RUN: usize = 750;
/// A run is recorded until it has this many bytes, or for this long.
const TRACE_BYTES: u64 = 160 << 20;
const TRACE_TIME: Duration = Duration::from_secs(12);
/// Most failures that are kept and shown.
const MOST_SHOWN: usize = 10;
/// Small, so that an image is quickly made and the oldest chunks are deleted. In the larger one the limit of `plain` is
/// reached first.
const QUOTAS: [&str; 2] = ["3MiB", "8MiB"];
/// Cuts with each lie.
const LIE_CUTS: usize = 50;

/// What the replay can tell instead of the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// No flush ever reaches the medium, as with MDB_NOSYNC.
    NoSync,
    /// What is answered counts from the moment its flush begins, as if it were answered before.
    EarlyAnswer,
}

/// What is known of one recorded run.
struct Recorded {
    trace: Trace,
    truth: Truth,
    level: Level,
    quota: &'static str,
}

pub(crate) fn run(options: &Options) {
    println!("seed {}", options.seed);
    let runs = options.cuts.div_ceil(CUTS_PER_RUN).max(options.levels.len());
    let mut failures = Vec::new();
    let mut done = 0;
    for run in 0..runs {
        let level = options.levels[run % options.levels.len()];
        let seed = options.seed.wrapping_mul(1000) + run as u64;
        let mut recorded = record(options, level, seed);
        let cuts = (options.cuts - done) / (runs - run);
        done += cuts;
        let began = Instant::now();
        let failed = cut(options, &recorded, cuts, seed, None);
        println!("{}: {cuts} cuts, {} failed, {:.0} s", level.name(), failed.len(), began.elapsed().as_secs_f64());
        failures.extend(failed);
        if run < options.levels.len() {
            for lie in [Lie::NoSync, Lie::EarlyAnswer] {
                if lie == Lie::EarlyAnswer {
                    recorded.answer_early();
                }
                let seen = cut(options, &recorded, LIE_CUTS, seed, Some(lie));
                println!("{}: {lie:?} told: seen in {} of {LIE_CUTS} cuts", level.name(), seen.len());
                assert!(!seen.is_empty(), "seed {}: the check does not see {lie:?}", options.seed);
            }
        }
    }
    for failure in failures.iter().take(MOST_SHOWN) {
        println!("FAILED {failure}");
    }
    println!("{done} cuts, {} failed", failures.len());
    assert!(failures.is_empty(), "seed {}: {} of {done} cuts failed", options.seed, failures.len());
}

impl Recorded {
    /// With `pipelined` an answer belongs to the commit before the flush that it waited for.
    fn answer_early(&mut self) {
        let flushes_ns = self.trace.flushes_ns();
        let back = if self.level == Level::Strict { 1 } else { 2 };
        self.truth.known.backdate(|at_ns| {
            let later = flushes_ns.partition_point(|flush_ns| *flush_ns < at_ns);
            later.checked_sub(back).map_or(at_ns, |index| flushes_ns[index])
        });
    }
}

/// Runs the daemon under load with the shim.
fn record(options: &Options, level: Level, seed: u64) -> Recorded {
    let mut dice = Dice::new(seed, 0);
    let dir = options.disk.join("recorded");
    drop(fs::remove_dir_all(&dir));
    fs::create_dir_all(&dir).unwrap();
    let shim = options.shim.as_ref().expect("SHIM is not set");
    let file = options.work.join("trace");
    drop(fs::remove_file(&file));
    // The target of the mirror is a second daemon.
    let plain = Setup { level, quota: "64MiB", ack_linger_ms: 0, streams: false, mirror: None };
    let mut target = Daemon::new(options, &dir.join("target"), 1, &plain);
    target.start(None).unwrap();
    let ack_linger_ms = [0, 1, 5][usize::try_from(dice.within(0, 3)).unwrap()];
    let mirror = Some(target.kafka.to_string());
    let quota = QUOTAS[usize::try_from(dice.within(0, 2)).unwrap()];
    let setup = Setup { level, quota, ack_linger_ms, streams: true, mirror };
    let mut source = Daemon::new(options, &dir.join("source"), 0, &setup);
    source.start(Some((shim, &file))).unwrap();

    let pause_us = dice.within(2000, 12_000);
    let load = Load::new(source.kafka, seed, pause_us, true);
    load.create_topics().unwrap();
    let mut running = load.start(Some(target.kafka));
    let began = Instant::now();
    while began.elapsed() < TRACE_TIME && fs::metadata(&file).unwrap().len() < TRACE_BYTES {
        std::thread::sleep(Duration::from_millis(20));
    }
    running.finish_writing();
    settle(&source, &running.load);
    let load = running.finish();
    // All is idle: the file is what the trace says it is.
    assert!(source.kill(), "the recorded daemon ended by itself");
    target.kill();

    let trace = Trace::read(&file);
    compare(&trace, &source.data_file());
    let known = std::mem::take(&mut *load.facts.lock());
    let truth = Truth::new(known);
    assert!(truth.known.wrong.is_empty(), "while it ran: {:#?}", truth.known.wrong);
    tell(&trace, &truth, &setup, &load);
    Recorded { trace, truth, level, quota }
}

/// Waits until readers, stream and mirror have everything.
fn settle(source: &Daemon, load: &Load) {
    let state = || {
        let known = load.facts.lock();
        let ends: Vec<_> = known.parts.values().map(|p| (p.end_at(u64::MAX), p.numbers.len())).collect();
        let mirrored: Vec<_> = known.mirrored.values().map(|m| m.len()).collect();
        (ends, mirrored)
    };
    // The mirror writes its position a second after the last acknowledgement.
    let (mut last, mut since) = (state(), Instant::now());
    let end = Instant::now() + Duration::from_secs(60);
    while since.elapsed() < Duration::from_millis(2500) {
        assert!(Instant::now() < end, "the recorded run does not settle; see {}", source.log_file().display());
        std::thread::sleep(Duration::from_millis(50));
        let now = state();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// What the shim did not see would make every cut a lie.
fn compare(trace: &Trace, file: &Path) {
    let mut medium = Medium::new(trace, None, false);
    medium.advance(trace.events.len());
    let (ours, real) = (medium.whole(), fs::read(file).unwrap());
    let differs = (0..ours.len().max(real.len())).step_by(4096).find(|at| {
        let page = |file: &[u8]| {
            let mut page = file.get(*at..).unwrap_or_default().to_vec();
            page.resize(4096, 0);
            page
        };
        page(&ours) != page(&real)
    });
    assert_eq!(differs, None, "the trace does not make the file that is there: something was written past the shim");
}

fn tell(trace: &Trace, truth: &Truth, setup: &Setup, load: &Load) {
    let of = |is: fn(&Kind) -> bool| trace.events.iter().filter(|e| is(&e.kind)).count();
    let deleted = truth.known.parts.values().filter(|p| p.starts.least_at(u64::MAX).is_some_and(|s| s > 0)).count();
    let batches: usize = truth.known.parts.values().map(|p| p.batches.len()).sum();
    let large = truth.known.parts.values().flat_map(|p| p.batches.values()).filter(|f| f.bytes > 32 << 10).count();
    println!(
        "{}, quota {}, ack_linger {} ms: {} events, {} flushes, {} durable writes, {batches} batches ({large} large), \
         {} answers, {deleted} partitions trimmed",
        setup.level.name(),
        setup.quota,
        setup.ack_linger_ms,
        trace.events.len(),
        of(|k| matches!(k, Kind::Flushed { .. })),
        of(|k| matches!(k, Kind::Write { is_durable: true, .. })),
        load.answers.load(Ordering::Relaxed),
    );
}

/// Cuts at so many events, and says what was wrong with which.
fn cut(options: &Options, recorded: &Recorded, cuts: usize, seed: u64, lie: Option<Lie>) -> Vec<String> {
    let mut dice = Dice::new(seed, 99);
    let events = recorded.trace.events.len() as u64;
    // One in twenty while the file is made.
    let mut places: Vec<usize> = (0..cuts)
        .map(|_| {
            let most = if dice.is_one_in(20) { events.min(30) } else { events };
            usize::try_from(dice.within(0, most)).unwrap()
        })
        .collect();
    if lie == Some(Lie::EarlyAnswer) {
        // The lie matters only while a flush is under way.
        places.iter_mut().for_each(|place| *place = recorded.trace.next_flushed(*place));
    }
    places.sort_unstable();
    let failures = Mutex::new(Vec::new());
    let kept = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for worker in 0..options.workers {
            let mine: Vec<usize> = places.iter().copied().skip(worker).step_by(options.workers).collect();
            let (failures, kept) = (&failures, &kept);
            scope.spawn(move || {
                let dir = options.work.join(format!("cut-{worker}"));
                let setup = Setup {
                    level: recorded.level,
                    quota: recorded.quota,
                    ack_linger_ms: 0,
                    streams: false,
                    mirror: None,
                };
                let mut daemon = Daemon::new(options, &dir, 10 + u8::try_from(worker).unwrap(), &setup);
                let mut medium = Medium::new(&recorded.trace, None, lie == Some(Lie::NoSync));
                let mut dice = Dice::new(seed, 100 + worker as u64);
                for event in mine {
                    medium.advance(event);
                    let at_ns = recorded.trace.events[event].at_ns;
                    let moment = Moment {
                        at_ns,
                        shown_ns: recorded.trace.flushed_after_ns(event),
                        deleted_ns: match recorded.level {
                            Level::Strict => at_ns,
                            Level::Pipelined => recorded.trace.flushed_before_ns(event),
                        },
                    };
                    let image = medium.cut(&mut dice);
                    let wrong = try_image(&mut daemon, image.as_deref(), &recorded.truth, moment);
                    if wrong.is_empty() {
                        continue;
                    }
                    let mut failure =
                        format!("cut at event {event} ({:?}): {}", recorded.trace.events[event].kind, wrong.join("; "));
                    if lie.is_none() && kept.fetch_add(1, Ordering::Relaxed) < MOST_SHOWN {
                        let place = keep(options, &daemon, image.as_deref(), event);
                        failure += &format!("; kept: {}", place.display());
                    }
                    failures.lock().unwrap().push(failure);
                }
            });
        }
    });
    failures.into_inner().unwrap()
}

/// Starts the daemon on an image and checks it.
fn try_image(daemon: &mut Daemon, image: Option<&[u8]>, truth: &Truth, moment: Moment) -> Vec<String> {
    drop(fs::remove_dir_all(daemon.data_dir()));
    fs::create_dir_all(daemon.data_dir()).unwrap();
    if let Some(image) = image {
        fs::write(daemon.data_file(), image).unwrap();
    }
    fs::write(daemon.log_file(), "").unwrap();
    if let Err(why) = daemon.start(None) {
        return vec![why];
    }
    let mut wrong = truth.check(daemon.kafka, moment);
    if !daemon.kill() {
        wrong.push("the daemon ended by itself".to_owned());
    }
    wrong
}

fn keep(options: &Options, daemon: &Daemon, image: Option<&[u8]>, event: usize) -> PathBuf {
    let place = options.work.join("failed").join(event.to_string());
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("data.mdb"), image.unwrap_or_default()).unwrap();
    fs::copy(daemon.log_file(), place.join("daemon.log")).unwrap();
    place
}
