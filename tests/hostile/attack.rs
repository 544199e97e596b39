//! Hostile clients: bursts of mutated frames, each burst on a connection of its own.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use brooklet::wire::{ApiKey, init_producer_id::InitProducerIdRequest};
use bytes::Bytes;

use crate::{
    client::Client,
    daemon::{Daemon, PATIENCE},
    dice::Dice,
    mutation::{below, signed_batch, splice, spoil},
    requests::{self, Scene, Seed},
    subjects::{self, Side},
    witness::{self, Testimony},
};

/// Hostile connections at a time.
const ATTACKERS: u64 = 6;
/// Most frames of one connection.
const BURST: u64 = 8;
/// Resident memory may grow so much between the second and the last quarter of a run. Measured over 500,000 frames: once by
/// 8 MiB of heap that stay, wherever that falls, and no more; a leak of thirty bytes a frame in a run of 500,000 is seen.
const FLAT_KIB: u64 = 12 << 10;

/// What the script asks for, as environment variables.
struct Options {
    /// BROOKLET: the daemon's binary.
    brooklet: PathBuf,
    /// WORK: a directory, which is kept where something fails.
    work: PathBuf,
    /// FRAMES: how many mutated frames the daemon has to get.
    frames: u64,
    /// SEED: of everything.
    seed: u64,
    /// CEILING_KIB: what the daemon may ever have resident.
    ceiling_kib: u64,
}

impl Options {
    fn from_environment() -> Self {
        let text = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
        let number = |name: &str| text(name).parse().unwrap_or_else(|_| panic!("{name} is no number"));
        Self {
            brooklet: text("BROOKLET").into(),
            work: text("WORK").into(),
            frames: number("FRAMES"),
            seed: number("SEED"),
            ceiling_kib: number("CEILING_KIB"),
        }
    }
}

pub(crate) fn run() {
    let options = Options::from_environment();
    phase(&options, "defaults", options.frames, "", false);
    // The least that is allowed. Produce requests of 400 KiB are more than can be held: they are read without their batches.
    let limits = "max_frame_bytes = \"64KiB\"\nmemory_limit = \"1MiB\"\n";
    phase(&options, "little memory", (options.frames / 20).max(1), limits, true);
}

/// What all threads of a phase know.
struct Shared {
    address: SocketAddr,
    scene: Scene,
    seeds: Vec<Seed>,
    large: Vec<Seed>,
    batches: Vec<Bytes>,
    seed: u64,
    wanted: u64,
    /// The number of the next burst, from which the burst follows.
    bursts: AtomicU64,
    /// Frames that the daemon answered, or closed the connection on.
    seen: AtomicU64,
    answered: AtomicU64,
    is_over: AtomicBool,
    /// What was sent last, to be kept where something fails.
    recent: Mutex<VecDeque<(u64, Vec<u8>)>>,
}

fn phase(options: &Options, name: &str, wanted: u64, limits: &str, is_large: bool) {
    let dir = options.work.join(name.replace(' ', "-"));
    let mut daemon = Daemon::start(&options.brooklet, &dir, limits);
    let mut client = Client::connect(daemon.kafka).unwrap();
    let topic_id = witness::topic(&mut client, requests::TOPIC, 2, &[]).topic_id;
    let transaction = InitProducerIdRequest {
        transactional_id: Some("hostile-transaction".into()),
        transaction_timeout_ms: 1000,
        ..Default::default()
    };
    let producer_id = client.call(&transaction, 4).unwrap().producer_id;
    let scene = Scene { topic_id, producer_id };
    let shared = Shared {
        address: daemon.kafka,
        scene,
        seeds: requests::all(scene),
        large: if is_large { requests::large() } else { Vec::new() },
        batches: requests::batches(),
        seed: options.seed,
        wanted,
        bursts: AtomicU64::new(0),
        seen: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        recent: Mutex::new(VecDeque::new()),
    };
    let start = Instant::now();
    let mut resident = Vec::new();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        thread::scope(|scope| {
            let _over = Over(&shared.is_over);
            let witness = scope.spawn(|| witness::watch(shared.address, &shared.is_over));
            let attackers: Vec<_> = (0..ATTACKERS).map(|_| scope.spawn(|| shared.attack())).collect();
            let mut tidied = Instant::now();
            while attackers.iter().any(|attacker| !attacker.is_finished()) {
                assert!(!witness.is_finished(), "the witness was disturbed");
                daemon.assert_lives();
                resident.push((shared.seen.load(Ordering::Relaxed), daemon.resident_kib().0));
                if tidied.elapsed() > Duration::from_secs(1) {
                    witness::tidy(&mut client);
                    tidied = Instant::now();
                }
                thread::sleep(Duration::from_millis(50));
            }
            for attacker in attackers {
                attacker.join().unwrap();
            }
            shared.is_over.store(true, Ordering::Relaxed);
            witness.join().unwrap()
        })
    }));
    let Testimony { records, slowest } = result.unwrap_or_else(|cause| {
        let file = dir.join("recent-frames.txt");
        let recent = shared.recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut text = String::new();
        for (number, bytes) in recent.iter() {
            writeln!(text, "burst {number}: {}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()).unwrap();
        }
        fs::write(&file, text).unwrap();
        eprintln!("seed {}: what was sent last is in {}", options.seed, file.display());
        std::panic::resume_unwind(cause)
    });
    daemon.assert_lives();
    let peak = daemon.resident_kib().1;
    let quarter = |number: u64| {
        let within = wanted * number / 4..=wanted * (number + 1) / 4;
        let of: Vec<_> = resident.iter().filter(|(seen, _)| within.contains(seen)).map(|(_, kib)| *kib).collect();
        of.iter().sum::<u64>() / (of.len() as u64).max(1)
    };
    let (second, last) = (quarter(1), quarter(3));
    println!(
        "{name}: {} frames in {} s, {} answered; resident {second} KiB in the second quarter, {last} in the last, {peak} at \
         the peak; the witness wrote and read {records} records, {} ms at the slowest",
        shared.seen.load(Ordering::Relaxed),
        start.elapsed().as_secs(),
        shared.answered.load(Ordering::Relaxed),
        slowest.as_millis(),
    );
    assert!(last <= second + FLAT_KIB, "resident memory grows: {second} KiB, then {last}");
    assert!(peak <= options.ceiling_kib, "{peak} KiB were resident, the ceiling is {}", options.ceiling_kib);
    drop(client);
    daemon.stop();
}

/// Ends the witness also where a check fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn attack(&self) {
        while self.seen.load(Ordering::Relaxed) < self.wanted && !self.is_over.load(Ordering::Relaxed) {
            self.burst(self.bursts.fetch_add(1, Ordering::Relaxed));
        }
    }

    /// Some frames on one connection; then no more, which the daemon has to notice whatever it is at.
    fn burst(&self, number: u64) {
        let mut dice = Dice::new(self.seed, number);
        let mut frames = Vec::new();
        for _ in 0..dice.within(1, BURST + 1) {
            frames.push(self.frame(&mut dice));
        }
        let bytes = frames.iter().flat_map(|frame| frame.bytes.iter().copied()).collect::<Vec<_>>();
        {
            let mut recent = self.recent.lock().unwrap();
            recent.push_back((number, bytes.clone()));
            if recent.len() > 4 * ATTACKERS as usize {
                recent.pop_front();
            }
        }
        let mut stream = connect(self.address);
        // It may have closed by then: that is one way to answer.
        let _sent = stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut said = Vec::new();
        match stream.read_to_end(&mut said) {
            Err(error) if [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&error.kind()) => {
                panic!("burst {number}: the daemon neither answers nor closes within {PATIENCE:?}")
            }
            _ => {}
        }
        let answered = judge(&frames, &said);
        // What came behind a frame that closed the connection was not looked at.
        let seen = answered + u64::from(answered < frames.len() as u64);
        self.answered.fetch_add(answered, Ordering::Relaxed);
        self.seen.fetch_add(seen, Ordering::Relaxed);
    }

    fn frame(&self, dice: &mut Dice) -> Frame {
        let seed = match self.large.len() {
            0 => &self.seeds[below(self.seeds.len(), dice)],
            n if dice.is_one_in(20) => &self.large[below(n, dice)],
            _ => &self.seeds[below(self.seeds.len(), dice)],
        };
        let mut body = seed.frame[4..].to_vec();
        let mut length = None;
        match dice.within(0, 12) {
            // The header too.
            0 => spoil(&mut body, dice),
            // The body alone: it is dispatched.
            1..=4 => {
                let mut rest = body.split_off(8.min(body.len()));
                spoil(&mut rest, dice);
                body.extend(rest);
            }
            5 => body.truncate(below(body.len() + 1, dice)),
            6 => body = splice(&body, &self.seeds[below(self.seeds.len(), dice)].frame[4..], dice),
            // Another API's body under this header.
            7 => {
                let other = &self.seeds[below(self.seeds.len(), dice)].frame[4..];
                body.truncate(8);
                body.extend(&other[8..]);
            }
            8 => {
                let lie = [-1, 0, 7, 8, 0x7fff_ffff, 1 << 20, 16 << 20, body.len() as i32 - 1, body.len() as i32 + 3];
                length = Some(lie[below(lie.len(), dice)]);
            }
            9 | 10 => {
                let batch = signed_batch(&self.batches[1 + below(self.batches.len() - 1, dice)], dice);
                let versions = ApiKey::Produce.api();
                let version = versions.min + below(usize::from((versions.max - versions.min + 1) as u16), dice) as i16;
                body = requests::produce_frame(self.scene, batch.into(), version)[4..].to_vec();
            }
            // As it is: what was sent before must not have spoiled the connection.
            _ => {}
        }
        let is_framed = length.is_none();
        let length = length.unwrap_or(body.len() as i32);
        let bytes = [&length.to_be_bytes()[..], &body].concat();
        Frame { is_framed, bytes }
    }
}

struct Frame {
    /// Its length is its own.
    is_framed: bool,
    bytes: Vec<u8>,
}

fn connect(address: SocketAddr) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            // Ports that were used are free again after a moment.
            Err(error) => assert!(Instant::now() < end, "the daemon takes no connection: {error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether each answer is one to a frame that was sent, in their order. How many there are.
fn judge(frames: &[Frame], said: &[u8]) -> u64 {
    let (mut rest, mut count) = (said, 0);
    // Up to the first length that lied.
    let known = frames.iter().take_while(|frame| frame.is_framed).count();
    let mut asked = frames[..known].iter();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        // The end of the last one may be lost where the connection was reset.
        let Some((answer, after)) = after.split_at_checked(length) else { break };
        rest = after;
        count += 1;
        if known < frames.len() && count as usize > known {
            continue;
        }
        let id = i32::from_be_bytes(answer[..4].try_into().unwrap());
        // A Produce without acknowledgement is not answered.
        let Some(frame) = asked.find(|frame| correlation(frame) == Some(id) && is_answer(frame, answer)) else {
            assert!(known < frames.len(), "an answer to nothing: {answer:02x?} to {:02x?}", bytes_of(frames));
            continue;
        };
        let _answered = frame;
    }
    count
}

fn bytes_of(frames: &[Frame]) -> Vec<&[u8]> {
    frames.iter().map(|frame| &frame.bytes[..]).collect()
}

fn correlation(frame: &Frame) -> Option<i32> {
    Some(i32::from_be_bytes(frame.bytes.get(8..12)?.try_into().unwrap()))
}

/// Whether the bytes are a response of the frame's API and version.
fn is_answer(frame: &Frame, answer: &[u8]) -> bool {
    let number = |at| i16::from_be_bytes([frame.bytes[at], frame.bytes[at + 1]]);
    let (Ok(key), mut version) = (ApiKey::try_from(number(4)), number(6)) else { return false };
    if key == ApiKey::ApiVersions && !key.api().supports(version) {
        version = 0;
    }
    if !key.api().supports(version) {
        return false;
    }
    let has_tags = key != ApiKey::ApiVersions && key.api().is_flexible(version);
    let body = Bytes::copy_from_slice(answer.get(4 + usize::from(has_tags)..).unwrap_or_default());
    subjects::is_body(key, Side::Response, version, &body)
}
