//! One producer, plain or idempotent, the only one of its partition.
//!
//! After a break an idempotent one sends again what it had in flight, and before that what it was answered last, which
//! must come back with the same offsets; a plain one gives up what was in flight.

use std::{
    collections::VecDeque,
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use brooklet::record::{Builder, Codec, Partition, Producer as Identity};
use bytes::Bytes;

use crate::{
    client::Client,
    dice::{Dice, now_ns},
    load::{Load, TOPICS},
};

/// Most batches in flight.
const WINDOW: u64 = 3;
/// Answered batches that are sent again after a break; a broker remembers five, and those in flight are among them.
const REPEATED: usize = 2;

/// The client.
pub(crate) struct Producer<'a> {
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

impl<'a> Producer<'a> {
    pub(crate) fn new(load: &'a Load, partition: Partition) -> Self {
        let topic = TOPICS.iter().position(|t| **t == *partition.topic).unwrap() as u64;
        let dice = Dice::new(load.seed, 1 + topic * 16 + partition.index.unsigned_abs() as u64);
        let (in_flight, answered) = (VecDeque::new(), VecDeque::new());
        Self { load, partition, dice, builder: Builder::new(), identity: None, sequence: 0, in_flight, answered }
    }

    fn is_idempotent(&self) -> bool {
        &*self.partition.topic == "idem"
    }

    pub(crate) fn run(mut self) {
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
            if &*self.partition.topic == "loose" {
                // Such an answer promises nothing; what a reader sees does.
                continue;
            }
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
            Some((id, epoch)) if self.is_idempotent() => Identity { id, epoch, sequence: self.sequence },
            _ => Identity::NONE,
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
