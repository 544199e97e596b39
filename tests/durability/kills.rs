//! One daemon killed with -9 again and again, under load and with a real Kafka as the mirror's target.
//!
//! With `power` its power goes too: the file is replaced by one that the cut may have left, so that cuts follow cuts and
//! fall into recovery, and whatever the mirror had sent by then is at Kafka. The clients live through all of it. Every
//! start is asked for all acknowledged ends; now and then everything comes to rest and is checked as after a power cut.
//! At the end kcat reads from Kafka: the source's records, each once, in order.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use brooklet::record::Partition;

use crate::{
    check::{Moment, Truth},
    client::Client,
    daemon::{Daemon, Setup},
    dice::Dice,
    facts::{Sights, number},
    load::{Load, MIRRORED, Running, partitions},
    options::Options,
    trace::{Medium, Trace},
};

/// So many kills between two checks of everything.
const KILLS_PER_CHECK: usize = 100;
/// So many kills between two looks at how far Kafka is behind.
const KILLS_PER_LOOK: usize = 5;
/// With more records that wait for Kafka the next life is longer by this: what is not mirrored must not fall to the quota.
const MOST_LAG: i64 = 3_000;
const CATCHING_UP: Duration = Duration::from_secs(2);
/// Deletion begins after some 300 kills. With 16 MiB a busy machine lost records to it before the reader or Kafka had them.
const QUOTA: &str = "64MiB";
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(options: &Options) {
    let kafka = options.kafka.as_ref().expect("KAFKA is not set");
    println!("seed {}", options.seed);
    let mut dice = Dice::new(options.seed, 0);
    let dir = options.disk.join("killed");
    let setup =
        Setup { level: options.levels[0], quota: QUOTA, ack_linger_ms: 1, streams: true, mirror: Some(kafka.clone()) };
    let mut daemon = Daemon::new(options, &dir, 0, &setup);
    let load = Load::new(daemon.kafka, options.seed, 30_000, false);
    daemon.start(None).unwrap();
    load.create_topics().unwrap();
    let running = load.start(None);
    let (mut early, mut is_behind, began) = (0, false, Instant::now());
    for cycle in 1..=options.cycles {
        daemon.kill();
        let is_early = dice.is_one_in(10) && !is_behind;
        early += usize::from(is_early);
        let more = if is_behind { CATCHING_UP } else { Duration::ZERO };
        cycle_once(options, &mut daemon, &running.load, &mut dice, is_early, more);
        is_behind = cycle % KILLS_PER_LOOK == 0 && lag(kafka, &running.load) > MOST_LAG;
        if cycle % KILLS_PER_CHECK == 0 {
            daemon.start(None).unwrap();
            running.load.is_held.store(true, Ordering::Relaxed);
            settle(&daemon, kafka, &running.load);
            check_all(options, &mut daemon, &setup, &running.load);
            running.load.is_held.store(false, Ordering::Relaxed);
            let (answers, repeats) = (&running.load.answers, &running.load.repeats);
            println!(
                "{cycle} kills ({early} while it started), {:.0} s: {} batches answered, {} sent again",
                began.elapsed().as_secs_f64(),
                answers.load(Ordering::Relaxed),
                repeats.load(Ordering::Relaxed),
            );
        }
    }
    if daemon.is_stopped() {
        daemon.start(None).unwrap();
    }
    let load = finish(&mut daemon, kafka, running);
    check_all(options, &mut daemon, &setup, &load);
    let records = compare_with_kafka(kafka, &load);
    println!("{} kills: {records} records at Kafka, each once and in order", options.cycles);
}

/// Starts the daemon, lets it work for a while, and kills it.
fn cycle_once(options: &Options, daemon: &mut Daemon, load: &Load, dice: &mut Dice, is_early: bool, more: Duration) {
    let ends = ends(load);
    // With `pipelined` a power cut may bring back what was being deleted.
    load.facts.lock().parts.values_mut().for_each(|part| part.starts = Sights::default());
    let trace = options.work.join("trace");
    drop(fs::remove_file(&trace));
    let before = options.power.then(|| fs::read(daemon.data_file()).unwrap());
    let shim = options.power.then(|| (options.shim.as_deref().expect("SHIM is not set"), trace.as_path()));
    if is_early {
        daemon.spawn(shim);
        std::thread::sleep(Duration::from_millis(dice.within(1, 60)));
    } else {
        daemon.start(shim).unwrap();
        check_ends(daemon, load, &ends);
        std::thread::sleep(more + Duration::from_millis(dice.within(50, 300)));
    }
    assert!(daemon.kill(), "the daemon ended by itself; see {}", daemon.log_file().display());
    if let Some(before) = before {
        take_power(daemon, &trace, before, dice);
    }
    let wrong = std::mem::take(&mut load.facts.lock().wrong);
    assert!(wrong.is_empty(), "seed {}: {wrong:#?}", options.seed);
}

/// What each partition has at least.
fn ends(load: &Load) -> Vec<(Partition, i64)> {
    load.facts.lock().parts.iter().map(|(partition, part)| (partition.clone(), part.end_at(u64::MAX))).collect()
}

fn check_ends(daemon: &Daemon, load: &Load, ends: &[(Partition, i64)]) {
    let mut client = Client::connect(daemon.kafka).unwrap();
    for (partition, least) in ends {
        let end = client.latest(partition).unwrap();
        if end < *least {
            load.facts.wrong(format!("{partition} ends at {end}: lost up to {least}"));
        }
    }
}

/// Replaces the file by what a power cut at the kill may have left.
fn take_power(daemon: &Daemon, trace: &Path, before: Vec<u8>, dice: &mut Dice) {
    if !trace.exists() {
        // It was killed before it was itself.
        return;
    }
    let trace = Trace::read(trace);
    let mut medium = Medium::new(&trace, Some(before), false);
    medium.advance(trace.events.len());
    let image = medium.cut(dice).expect("the file had its name");
    fs::write(daemon.data_file(), image).unwrap();
}

/// Records that wait for Kafka, as Kafka says: what the daemon's status says may be a quarter of a second old, which is
/// longer than it lives.
fn lag(kafka: &str, load: &Load) -> i64 {
    let mut client = Client::connect(kafka.parse().unwrap()).unwrap();
    let ends = ends(load);
    let waiting = ends.iter().filter(|(partition, _)| MIRRORED.contains(&&*partition.topic)).map(|(source, end)| {
        let target = Partition::new(format!("edge.{}", source.topic), source.index);
        // -1 where the mirror has not made it yet.
        end - client.latest(&target).unwrap().max(0)
    });
    waiting.sum()
}

/// Kills the daemon, which is at rest, and checks all that it has.
fn check_all(options: &Options, daemon: &mut Daemon, setup: &Setup, load: &Load) {
    daemon.kill();
    let known = load.facts.lock().clone();
    let truth = Truth::new(known);
    assert!(truth.known.wrong.is_empty(), "seed {}: {:#?}", options.seed, truth.known.wrong);
    let quiet = Setup { streams: false, mirror: None, ..setup.clone() };
    // The clients know the other address, and do not disturb.
    let mut checked = Daemon::new(options, daemon.dir(), 1, &quiet);
    checked.start(None).unwrap();
    let moment = Moment { at_ns: u64::MAX, shown_ns: u64::MAX, deleted_ns: u64::MAX };
    let wrong = truth.compare(checked.kafka, moment);
    checked.kill();
    daemon.configure(setup);
    assert!(wrong.is_empty(), "seed {}: {wrong:#?}", options.seed);
}

/// Waits until stream, reader and mirror have everything.
fn settle(daemon: &Daemon, kafka: &str, load: &Load) {
    let end = Instant::now() + PATIENCE;
    let (mut last, mut since) = (None, Instant::now());
    while since.elapsed() < Duration::from_millis(1500) {
        assert!(Instant::now() < end, "nothing comes to rest: {last:?}; see {}", daemon.log_file().display());
        std::thread::sleep(Duration::from_millis(50));
        let known: Vec<_> = load.facts.lock().parts.values().map(|p| (p.end_at(u64::MAX), p.numbers.len())).collect();
        let now = Some((known, lag(kafka, load)));
        if now != last || now.as_ref().is_some_and(|(_, lag)| *lag > 0) {
            (last, since) = (now, Instant::now());
        }
    }
}

fn finish(daemon: &mut Daemon, kafka: &str, mut running: Running) -> std::sync::Arc<Load> {
    running.finish_writing();
    settle(daemon, kafka, &running.load);
    let load = running.finish();
    daemon.stop();
    load
}

/// What kcat reads of each mirrored partition must be what the reader saw in the source, record by record.
fn compare_with_kafka(kafka: &str, load: &Load) -> usize {
    let known = load.facts.lock();
    let mut records = 0;
    for partition in partitions(&MIRRORED) {
        let Some(part) = known.parts.get(&partition) else { continue };
        let source: Vec<u64> = part.numbers.iter().map(|(_, number)| *number).collect();
        assert_eq!(source.len() as i64, part.end_at(u64::MAX), "{partition}: the reader missed some of the source");
        let target = read_kafka(kafka, &partition);
        let differs = source.iter().zip(&target).position(|(a, b)| a != b);
        assert!(
            source == target,
            "{partition}: {} records in the source, {} at Kafka; the first that differs: {differs:?}",
            source.len(),
            target.len()
        );
        records += target.len();
    }
    assert!(records > 0, "Kafka has nothing");
    records
}

fn read_kafka(kafka: &str, source: &Partition) -> Vec<u64> {
    let (topic, index) = (format!("edge.{}", source.topic), source.index.to_string());
    let mut kcat = Command::new("kcat");
    kcat.args(["-C", "-q", "-e", "-o", "beginning", "-b", kafka, "-t", &topic, "-p", &index, "-f", "%s\n"]);
    let mut child = kcat.stdout(Stdio::piped()).spawn().expect("kcat is installed");
    let lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
    let numbers = lines.map(|line| number(&line.unwrap())).collect();
    assert!(child.wait().unwrap().success(), "kcat cannot read {topic}");
    numbers
}
