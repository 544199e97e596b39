//! Clients that use the daemon in every way whose promises are checked, and note what they were told.
//!
//! A client whose connection breaks connects again. What an idempotent producer had in flight it sends again, with what
//! it was told last, which must come back with the same offsets; a plain one gives it up.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{Builder as Thread, JoinHandle},
    time::Duration,
};

use brooklet::{
    record::{Builder, Codec, Partition, Producer, batch},
    wire::{
        ErrorCode,
        create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest},
    },
};
use bytes::Bytes;

use crate::{
    client::Client,
    dice::{Dice, now_ns},
    facts::{Facts, numbers},
};

/// Partitions of each topic.
pub(crate) const PARTITIONS: i32 = 3;
/// All topics: written plainly and trimmed by size, written by idempotent producers, read by the stream, its outputs.
pub(crate) const TOPICS: [&str; 6] = ["plain", "idem", "in", "out.a", "out.b", "out.rest"];
/// Those that the clients write.
pub(crate) const WRITTEN: [&str; 3] = ["plain", "idem", "in"];
/// Those that the stream writes.
pub(crate) const OUTPUTS: [&str; 3] = ["out.a", "out.b", "out.rest"];
/// Those that the mirror takes.
pub(crate) const MIRRORED: [&str; 4] = ["idem", "out.a", "out.b", "out.rest"];
/// Most bytes of a partition of `plain`.
const RETENTION_BYTES: u64 = 192 << 10;
/// The consumer groups.
pub(crate) const GROUPS: [&str; 2] = ["readers", "billing"];
/// Most batches that a producer has in flight.
const WINDOW: u64 = 3;
/// Answered batches that it sends again after a break; a broker remembers five, and those in flight are among them.
const REPEATED: usize = 2;

/// Every partition of these topics.
pub(crate) fn partitions(topics: &[&str]) -> Vec<Partition> {
    topics.iter().flat_map(|t| (0..PARTITIONS).map(|i| Partition::new(*t, i))).collect()
}

/// What the clients share.
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) facts: Facts,
    seed: u64,
    /// The next record's number.
    numbers: AtomicU64,
    /// Producers end, after everything was answered.
    is_over: AtomicBool,
    /// Readers end.
    is_read: AtomicBool,
    /// Producers wait.
    pub(crate) is_held: AtomicBool,
    /// A pause of each producer after a batch, at most.
    pause_us: u64,
    /// Whether the facts hold what idempotent producers sent.
    keeps_batches: bool,
    pub(crate) answers: AtomicU64,
    pub(crate) repeats: AtomicU64,
}

/// The threads of a load.
pub(crate) struct Running {
    pub(crate) load: Arc<Load>,
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn new(address: SocketAddr, seed: u64, pause_us: u64, keeps_batches: bool) -> Arc<Self> {
        Arc::new(Self {
            address,
            facts: Facts::default(),
            seed,
            numbers: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            is_read: AtomicBool::new(false),
            is_held: AtomicBool::new(false),
            pause_us,
            keeps_batches,
            answers: AtomicU64::new(0),
            repeats: AtomicU64::new(0),
        })
    }

    /// Makes the topics that the clients write; the stream makes its own.
    pub(crate) fn create_topics(&self) -> io::Result<()> {
        let topics = WRITTEN.iter().map(|name| {
            let value = Some(RETENTION_BYTES.to_string());
            let limit = (*name == "plain").then(|| CreatableTopicConfig { name: "retention.bytes".into(), value });
            CreatableTopic {
                name: (*name).into(),
                num_partitions: PARTITIONS,
                replication_factor: 1,
                configs: limit.into_iter().collect(),
                ..CreatableTopic::default()
            }
        });
        let request = CreateTopicsRequest { topics: topics.collect(), ..CreateTopicsRequest::default() };
        let answer = Client::connect(self.address)?.call(&request, 4)?;
        for topic in answer.topics {
            assert!(!topic.error_code.is_error(), "{}: {}", topic.name, topic.error_code);
        }
        self.facts.lock().created_ns = now_ns();
        Ok(())
    }

    /// Starts the clients; `target` is a broker that the mirror leads to and that is read as well.
    pub(crate) fn start(self: Arc<Self>, target: Option<SocketAddr>) -> Running {
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        let start = |name: String, work: Box<dyn FnOnce() + Send>| Thread::new().name(name).spawn(work).unwrap();
        for partition in partitions(&WRITTEN) {
            let load = Arc::clone(&self);
            let writer = Box::new(move || ProducerThread::new(&load, partition).run());
            writers.push(start("producer".into(), writer));
        }
        let load = Arc::clone(&self);
        writers.push(start("groups".into(), Box::new(move || load.commit_offsets())));
        let load = Arc::clone(&self);
        readers.push(start("reader".into(), Box::new(move || load.read())));
        if let Some(target) = target {
            let load = Arc::clone(&self);
            readers.push(start("target reader".into(), Box::new(move || load.read_target(target))));
        }
        Running { load: self, writers, readers }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Until it works or the load is over.
    fn connect(&self, address: SocketAddr, is_over: &AtomicBool) -> Option<Client> {
        while !is_over.load(Ordering::Relaxed) {
            if let Ok(client) = Client::connect(address) {
                return Some(client);
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        None
    }

    fn commit_offsets(&self) {
        let mut dice = Dice::new(self.seed, 1000);
        let places: Vec<_> =
            GROUPS.iter().flat_map(|g| partitions(&["plain"]).into_iter().map(move |p| (g, p))).collect();
        let mut offset = 0;
        while let Some(mut client) = self.connect(self.address, &self.is_over) {
            while !self.is_over() {
                let (group, partition) = &places[usize::try_from(dice.within(0, places.len() as u64)).unwrap()];
                offset += 1;
                self.facts.committing(group, partition, offset, now_ns());
                match client.commit(group, partition, offset) {
                    Ok(ErrorCode::NONE) => self.facts.committed(group, partition, now_ns()),
                    Ok(_) => {}
                    Err(_) => break,
                }
                std::thread::sleep(Duration::from_micros(dice.within(0, 4 * self.pause_us + 1)));
            }
        }
    }

    /// Reads every partition from its beginning, and goes on where it was.
    fn read(&self) {
        let mut places: Vec<(Partition, i64)> = partitions(&TOPICS).into_iter().map(|p| (p, 0)).collect();
        while let Some(mut client) = self.connect(self.address, &self.is_read) {
            while !self.is_read.load(Ordering::Relaxed) {
                let begun_ns = now_ns();
                let Ok(answer) = client.fetch(&places, 5) else { break };
                let ended_ns = now_ns();
                let mut lost = None;
                for (partition, data) in answer {
                    let (_, at) = places.iter_mut().find(|(p, _)| *p == partition).unwrap();
                    if data.error_code == ErrorCode::OFFSET_OUT_OF_RANGE {
                        if data.high_watermark >= 0 && data.high_watermark < *at {
                            self.facts.wrong(format!("{partition} ends at {}, before {at}", data.high_watermark));
                        }
                        lost = Some(partition);
                        continue;
                    }
                    if data.error_code.is_error() {
                        continue;
                    }
                    self.facts.start(&partition, data.log_start_offset, begun_ns, ended_ns);
                    for found in batch::batches(&data.records) {
                        let Ok((header, bytes)) = found else { break };
                        if batch::check(bytes).is_err() {
                            self.facts.wrong(format!("{partition}: the batch at {} is damaged", header.base_offset));
                        }
                        self.facts.seen(&partition, &header, bytes, ended_ns);
                        *at = header.last_offset() + 1;
                    }
                }
                // Retention was faster.
                if let Some(partition) = lost {
                    let Ok(start) = client.earliest(&partition) else { break };
                    let (_, at) = places.iter_mut().find(|(p, _)| *p == partition).unwrap();
                    *at = start.max(*at);
                }
            }
        }
    }

    /// Notes the last record of each mirrored partition.
    fn read_target(&self, target: SocketAddr) {
        let of = |p: &Partition| Partition::new(format!("edge.{}", p.topic), p.index);
        let mut places: Vec<(Partition, i64)> = partitions(&MIRRORED).iter().map(|p| (of(p), 0)).collect();
        let mut last: Vec<Option<u64>> = vec![None; places.len()];
        while let Some(mut client) = self.connect(target, &self.is_read) {
            while !self.is_read.load(Ordering::Relaxed) {
                let begun_ns = now_ns();
                let Ok(answer) = client.fetch(&places, 5) else { break };
                for (partition, data) in answer {
                    let index = places.iter().position(|(p, _)| *p == partition).unwrap();
                    for found in batch::batches(&data.records) {
                        let Ok((header, bytes)) = found else { break };
                        places[index].1 = header.last_offset() + 1;
                        for (_, number) in numbers(bytes) {
                            last[index] = Some(number);
                            let source = partition.topic.strip_prefix("edge.").unwrap();
                            self.facts.mirrored(&Partition::new(source, partition.index), number, begun_ns);
                        }
                    }
                    if let Some(number) = last[index] {
                        let source = partition.topic.strip_prefix("edge.").unwrap();
                        self.facts.mirrored(&Partition::new(source, partition.index), number, begun_ns);
                    }
                }
            }
        }
    }
}

impl Running {
    /// Lets everything be answered, and ends the producers.
    pub(crate) fn finish_writing(&mut self) {
        self.load.is_over.store(true, Ordering::Relaxed);
        self.writers.drain(..).for_each(|thread| thread.join().unwrap());
    }

    /// Ends the readers.
    pub(crate) fn finish(mut self) -> Arc<Load> {
        self.finish_writing();
        self.load.is_read.store(true, Ordering::Relaxed);
        self.readers.drain(..).for_each(|thread| thread.join().unwrap());
        self.load
    }
}

/// One producer, the only one of its partition.
struct ProducerThread<'a> {
    load: &'a Load,
    partition: Partition,
    dice: Dice,
    builder: Builder,
    identity: Option<(i64, i16)>,
    sequence: i32,
    in_flight: VecDeque<Bytes>,
    /// What was answered last, with its offset, oldest first.
    answered: VecDeque<(Bytes, i64)>,
}

impl<'a> ProducerThread<'a> {
    fn new(load: &'a Load, partition: Partition) -> Self {
        let topic = TOPICS.iter().position(|t| **t == *partition.topic).unwrap() as u64;
        let dice = Dice::new(load.seed, 1 + topic * 16 + partition.index.unsigned_abs() as u64);
        let (in_flight, answered) = (VecDeque::new(), VecDeque::new());
        Self { load, partition, dice, builder: Builder::new(), identity: None, sequence: 0, in_flight, answered }
    }

    fn is_idempotent(&self) -> bool {
        &*self.partition.topic == "idem"
    }

    fn run(mut self) {
        loop {
            // What is in flight is answered before the load is over.
            let never = AtomicBool::new(false);
            let is_over = if self.in_flight.is_empty() { &self.load.is_over } else { &never };
            let Some(mut client) = self.load.connect(self.load.address, is_over) else { return };
            match self.serve(&mut client) {
                Ok(()) => return,
                Err(_) if self.is_idempotent() => {}
                Err(_) => self.in_flight.clear(),
            }
        }
    }

    /// Until the load is over or the connection breaks.
    fn serve(&mut self, client: &mut Client) -> io::Result<()> {
        if self.is_idempotent() {
            self.sign_in(client)?;
            self.repeat(client)?;
        }
        loop {
            while self.load.is_held.load(Ordering::Relaxed) && !self.load.is_over() {
                std::thread::sleep(Duration::from_millis(5));
            }
            if self.load.is_over() {
                return Ok(());
            }
            for _ in 0..self.dice.within(1, WINDOW + 1) {
                let batch = self.batch();
                self.in_flight.push_back(batch);
            }
            self.deliver(client)?;
            std::thread::sleep(Duration::from_micros(self.dice.within(0, self.load.pause_us + 1)));
        }
    }

    fn sign_in(&mut self, client: &mut Client) -> io::Result<()> {
        while self.identity.is_none() {
            self.identity = client.producer_id()?.ok();
        }
        Ok(())
    }

    /// Sends again what was answered last, then what was not.
    fn repeat(&mut self, client: &mut Client) -> io::Result<()> {
        for (batch, base) in &self.answered {
            let answer = client.produce(&self.partition, batch)?;
            self.load.repeats.fetch_add(1, Ordering::Relaxed);
            if answer != Ok(*base) {
                let what = format!("{}: the batch at {base} was sent again: {answer:?}", self.partition);
                self.load.facts.wrong(what);
            }
        }
        self.deliver(client)
    }

    fn deliver(&mut self, client: &mut Client) -> io::Result<()> {
        for batch in &self.in_flight {
            client.send_batch(&self.partition, batch)?;
        }
        for _ in 0..self.in_flight.len() {
            let answer = client.receive_batch()?;
            let acked_ns = now_ns();
            let batch = self.in_flight.pop_front().unwrap();
            if answer.error_code.is_error() {
                let what = format!("{}: a batch was refused: {}", self.partition, answer.error_code);
                self.load.facts.wrong(what);
                continue;
            }
            self.load.answers.fetch_add(1, Ordering::Relaxed);
            let keeps = self.is_idempotent() && self.load.keeps_batches;
            self.load.facts.acked(&self.partition, &batch, answer.base_offset, keeps, acked_ns);
            if self.is_idempotent() {
                if self.answered.len() == REPEATED {
                    self.answered.pop_front();
                }
                self.answered.push_back((batch, answer.base_offset));
            }
        }
        Ok(())
    }

    /// Tiny ones mostly, some of a few pages, some so large that they are sealed without the journal.
    fn batch(&mut self) -> Bytes {
        let is_small = &*self.partition.topic == "in";
        let (records, pad_bytes) = match self.dice.within(0, 20) {
            0 if !is_small => (self.dice.within(1, 3), self.dice.within(33 << 10, 60 << 10)),
            1..4 if !is_small => (self.dice.within(1, 20), self.dice.within(100, 700)),
            _ => (self.dice.within(1, 6), self.dice.within(5, 200)),
        };
        let producer = match self.identity {
            Some((id, epoch)) if self.is_idempotent() => Producer { id, epoch, sequence: self.sequence },
            _ => Producer::NONE,
        };
        self.builder.set_producer(producer);
        for _ in 0..records {
            let number = self.load.numbers.fetch_add(1, Ordering::Relaxed);
            let kind = self.dice.within(0, 4);
            let mut value = format!("{{\"n\":{number},\"kind\":{kind},\"pad\":\"");
            let length = value.len() + usize::try_from(pad_bytes).unwrap();
            while value.len() < length {
                value.push_str(&format!("{:016x}", self.dice.next()));
            }
            value.push_str("\"}");
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            let timestamp_ms = i64::try_from(now.as_millis()).unwrap();
            self.builder.push(timestamp_ms, None, Some(value.as_bytes()), &[]).unwrap();
        }
        self.sequence += i32::try_from(records).unwrap();
        self.builder.finish(Codec::None, Codec::None.default_level())
    }
}
