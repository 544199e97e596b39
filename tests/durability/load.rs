//! Clients that use the daemon in every way whose promises are checked, and note what they were told.
//!
//! A client whose connection breaks connects again.

use std::{
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
    record::{Partition, batch},
    wire::{
        ErrorCode,
        create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest},
    },
};

use crate::{
    client::Client,
    dice::{Dice, now_ns},
    facts::{Facts, numbers},
    producer::Producer,
};

/// Partitions of each topic.
pub(crate) const PARTITIONS: i32 = 3;
/// All topics: written plainly and trimmed, written by idempotent producers, answered before they are safe, read by the
/// stream, its outputs.
pub(crate) const TOPICS: [&str; 7] = ["plain", "idem", "loose", "in", "out.a", "out.b", "out.rest"];
/// Those that the clients write.
pub(crate) const WRITTEN: [&str; 4] = ["plain", "idem", "loose", "in"];
/// Those that the stream writes.
pub(crate) const OUTPUTS: [&str; 3] = ["out.a", "out.b", "out.rest"];
/// Those that the mirror takes.
pub(crate) const MIRRORED: [&str; 4] = ["idem", "out.a", "out.b", "out.rest"];
/// Most bytes of a partition of `plain`.
const RETENTION_BYTES: u64 = 192 << 10;
/// The consumer groups.
pub(crate) const GROUPS: [&str; 2] = ["readers", "billing"];

/// Every partition of these topics.
pub(crate) fn partitions(topics: &[&str]) -> Vec<Partition> {
    topics.iter().flat_map(|t| (0..PARTITIONS).map(|i| Partition::new(*t, i))).collect()
}

/// What the clients share.
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) facts: Facts,
    pub(crate) seed: u64,
    /// The next record's number.
    pub(crate) numbers: AtomicU64,
    /// Producers end, after everything was answered.
    pub(crate) is_over: AtomicBool,
    /// Readers end.
    is_read: AtomicBool,
    /// Producers wait.
    pub(crate) is_held: AtomicBool,
    /// A pause of each producer after a batch, at most.
    pub(crate) pause_us: u64,
    /// Whether the facts hold what idempotent producers sent.
    pub(crate) keeps_batches: bool,
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
            let settings: &[(&str, String)] = match *name {
                "plain" => &[("retention.bytes", RETENTION_BYTES.to_string())],
                "loose" => &[("brooklet.durability", "relaxed".to_owned())],
                _ => &[],
            };
            let configs = settings
                .iter()
                .map(|(name, value)| CreatableTopicConfig { name: (*name).into(), value: Some(value.clone()) });
            CreatableTopic {
                name: (*name).into(),
                num_partitions: PARTITIONS,
                replication_factor: 1,
                configs: configs.collect(),
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
            let writer = Box::new(move || Producer::new(&load, partition).run());
            writers.push(start("producer".into(), writer));
        }
        let load = Arc::clone(&self);
        writers.push(start("groups".into(), Box::new(move || load.commit_offsets())));
        let load = Arc::clone(&self);
        writers.push(start("trims".into(), Box::new(move || load.trim())));
        let load = Arc::clone(&self);
        readers.push(start("reader".into(), Box::new(move || load.read())));
        if let Some(target) = target {
            let load = Arc::clone(&self);
            readers.push(start("target reader".into(), Box::new(move || load.read_target(target))));
        }
        Running { load: self, writers, readers }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Until it works or the load is over.
    pub(crate) fn connect(&self, address: SocketAddr, is_over: &AtomicBool) -> Option<Client> {
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

    /// Deletes the older half of what is known of a partition, now and then.
    fn trim(&self) {
        let mut dice = Dice::new(self.seed, 1001);
        let places = partitions(&["plain"]);
        while let Some(mut client) = self.connect(self.address, &self.is_over) {
            while !self.is_over() {
                std::thread::sleep(Duration::from_millis(dice.within(10, 300)));
                let partition = &places[usize::try_from(dice.within(0, places.len() as u64)).unwrap()];
                let Some((start, end)) = self.facts.lock().parts.get(partition).map(|part| {
                    let start = part.starts.least_at(u64::MAX).unwrap_or(0);
                    (start, part.end_at(u64::MAX))
                }) else {
                    continue;
                };
                match client.trim(partition, start + (end - start).max(0) / 2) {
                    Ok(Ok(start)) => self.facts.trimmed(partition, start, now_ns()),
                    // Retention was faster.
                    Ok(Err(_)) => {}
                    Err(_) => break,
                }
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
        let source = |p: &Partition| Partition::new(p.topic.strip_prefix("edge.").unwrap(), p.index);
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
                            self.facts.mirrored(&source(&partition), number, 0);
                        }
                    }
                    // Only the end that a look found says what the target had at most when it began. The records before it
                    // say nothing: a reader that was held up finds many at once, which were there long ago.
                    let is_end = places[index].1 == data.high_watermark;
                    if let Some(number) = last[index].filter(|_| is_end) {
                        self.facts.mirrored(&source(&partition), number, begun_ns);
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
