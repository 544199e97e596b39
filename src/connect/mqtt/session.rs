//! The receiver's half of an MQTT session: what is recorded, when it is acknowledged, what is recognised.
//!
//! Pure: packets and finished commits go in, commits and acknowledgements come out; time is an argument. The rules:
//!
//! * An acknowledgement leaves only after the commit that holds what it promises, and all of them leave in the order
//!   in which the packets came.
//! * A QoS 2 message and its packet identifier are one commit. While the identifier is held, the same message under
//!   it is a repetition: acknowledged, not recorded. PUBREL releases the identifier, and PUBCOMP, which allows the
//!   broker to use it anew, leaves only after the release is durable.
//! * The last [`MOST_RELEASED`] released identifiers are remembered: Mosquitto (2.0.11 seen) sends a message anew after
//!   PUBREL if two connections in a row break at that point, which the standard forbids (4.3.3). It counts identifiers
//!   up, so one that it just released means the message that it was. A broker that uses an identifier again at once
//!   shows it by a message under a remembered one that is not marked as repeated; from then on, also after a restart,
//!   nothing is remembered of it.
//! * What is not yet durable is bounded in messages and bytes; beyond that the connection is not read.
//!
//! **When to hurry.** Nobody waits for a sensor's message, so a commit may linger for company, which spares the flash.
//! But a broker sends only so many messages ahead of the acknowledgements (Mosquitto: 20), and lingering 250 ms over
//! 20 messages would let 80 a second pass. So a commit is urgent as soon as a few packets wait for their
//! acknowledgement; a trickle below that lingers. A broker whose window is smaller still shows itself: its next message
//! comes right after the acknowledgement of the last, and then every commit is urgent until that changes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::packet::{Ack, Publish};
use crate::{connect::SourceRecord, log::Urgency};

/// So many packets waiting for an acknowledgement make a commit urgent: a quarter of Mosquitto's window.
const HURRY_FROM: usize = 5;
/// A message so soon after the last acknowledgement was held back for it.
const HELD_BACK: Duration = Duration::from_millis(20);
/// So many of them in a row, and the window is taken for smaller than [`HURRY_FROM`].
const HELD_BACK_TIMES: u8 = 3;
/// Commits under way at once.
const MOST_FLIGHTS: usize = 4;
/// Records that close a batch.
const BATCH_RECORDS: usize = 256;
/// Bytes that close a batch: no larger than a sealed chunk's worth a few times over.
const BATCH_BYTES: usize = 128 << 10;
/// Messages that may wait for their commit.
const MOST_RECORDS: usize = 1024;

/// Released identifiers that are remembered. Mosquitto 2.0.11 does not keep to its window when we come back again and
/// again: 1,213 messages were seen on their way at once, of a window of 10.
const MOST_RELEASED: usize = 4096;

/// Prefix of the keys of packet identifiers.
const PACKET_IDS: u8 = b'q';
/// Prefix of the key of the subscriptions.
const SUBSCRIPTIONS: u8 = b'f';

/// A key of the connector's positions and its new value.
pub(super) type Position = (Bytes, Option<Bytes>);

/// Which session of the connector: from the client id and the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity([u8; 8]);

impl Identity {
    /// The session that `client_id` has at `broker`.
    pub(super) fn new(client_id: &str, broker: &str) -> Self {
        let mut hash = Digest::default();
        hash.field(client_id.as_bytes());
        hash.field(broker.as_bytes());
        Self(hash.0.to_be_bytes())
    }

    /// What the keys of its packet identifiers begin with.
    pub(super) fn packet_ids(self) -> Bytes {
        [&[PACKET_IDS][..], &self.0].concat().into()
    }

    /// The key of its subscriptions.
    pub(super) fn subscriptions(self) -> Bytes {
        [&[SUBSCRIPTIONS][..], &self.0].concat().into()
    }

    /// True if that key belongs to this session.
    pub(super) fn owns(self, key: &[u8]) -> bool {
        key.get(1..9) == Some(&self.0)
    }

    /// The key that is there if the broker uses identifiers again at once. It sorts and is read with the identifiers.
    fn reuse(self) -> Bytes {
        self.packet_ids()
    }

    fn packet_id(self, id: u16) -> Bytes {
        let mut key = [0; 11];
        key[0] = PACKET_IDS;
        key[1..9].copy_from_slice(&self.0);
        key[9..].copy_from_slice(&id.to_be_bytes());
        Bytes::copy_from_slice(&key)
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every release.
#[derive(Clone, Copy)]
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    fn field(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_be_bytes();
        for byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What tells a repeated message from another one under the same identifier.
pub(super) fn digest(publish: &Publish) -> u64 {
    let mut hash = Digest::default();
    hash.field(publish.topic.bytes());
    hash.field(&publish.payload);
    hash.field(&[u8::from(publish.is_retained)]);
    hash.field(&publish.oversize_bytes.unwrap_or(0).to_be_bytes());
    if let Some(properties) = &publish.properties {
        for (key, value) in &properties.user_properties {
            hash.field(key.as_bytes());
            hash.field(value.as_bytes());
        }
        hash.field(properties.correlation_data.as_deref().unwrap_or_default());
    }
    hash.0
}

/// A recorded QoS 2 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    digest: u64,
    is_released: bool,
}

impl Held {
    fn write(self) -> Bytes {
        let mut value = [0; 9];
        value[..8].copy_from_slice(&self.digest.to_be_bytes());
        value[8] = u8::from(self.is_released);
        Bytes::copy_from_slice(&value)
    }

    fn read(value: &[u8]) -> Option<Self> {
        let (digest, rest) = value.split_first_chunk()?;
        Some(Self { digest: u64::from_be_bytes(*digest), is_released: rest == [1] })
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is in the next commit.
    Recorded,
    /// It makes no record.
    Skipped,
    /// A repetition of a QoS 2 message that is recorded.
    Repeated,
    /// Recorded, although its identifier was held for another message: the broker lost its side of the session.
    Replaced,
}

/// What must become durable together.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) records: Vec<SourceRecord>,
    pub(super) positions: Vec<Position>,
    pub(super) urgency: Urgency,
}

/// What waits for its commit to begin.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<SourceRecord>,
    positions: Vec<Position>,
    acks: Vec<Ack>,
    bytes: usize,
}

/// A commit under way.
#[derive(Debug)]
struct Flight {
    acks: Vec<Ack>,
    records: usize,
    bytes: usize,
    urgency: Urgency,
}

/// One session while it is connected.
#[derive(Debug)]
pub(super) struct Session {
    identity: Identity,
    /// Packet identifiers of QoS 2 messages that are recorded (or in a commit).
    held: BTreeMap<u16, Held>,
    /// Those of them that are released, oldest first.
    released: VecDeque<u16>,
    /// The broker uses identifiers again at once, so that released ones must not be remembered.
    reuses_at_once: bool,
    batch: Batch,
    flights: VecDeque<Flight>,
    /// Acknowledgements that may leave.
    ready: Vec<Ack>,
    /// Packets that wait for theirs.
    waiting: usize,
    /// Records and bytes in the batch and the flights.
    records: usize,
    bytes: usize,
    most_bytes: usize,
    /// One record per commit, to find the one that is refused.
    is_careful: bool,
    hurry_from: usize,
    held_back: u8,
    idle_since: Option<Instant>,
}

impl Session {
    /// A session that holds the packet identifiers found in `positions`.
    pub(super) fn new(identity: Identity, positions: &[(Bytes, Bytes)], most_bytes: usize, is_careful: bool) -> Self {
        let own = identity.packet_ids();
        let held: BTreeMap<u16, Held> = positions
            .iter()
            .filter_map(|(key, value)| {
                let id = key.strip_prefix(own.as_ref())?.try_into().ok()?;
                Some((u16::from_be_bytes(id), Held::read(value)?))
            })
            .collect();
        Self {
            identity,
            released: held.iter().filter(|(_, held)| held.is_released).map(|(id, _)| *id).collect(),
            held,
            reuses_at_once: positions.iter().any(|(key, _)| *key == identity.reuse()),
            batch: Batch::default(),
            flights: VecDeque::new(),
            ready: Vec::new(),
            waiting: 0,
            records: 0,
            bytes: 0,
            most_bytes,
            is_careful,
            hurry_from: HURRY_FROM,
            held_back: 0,
            idle_since: None,
        }
    }

    /// The broker has no session of ours: what it called by the held identifiers is gone. Commit this before
    /// subscribing, so that no message can meet an old identifier.
    pub(super) fn forget(&mut self) -> Vec<Position> {
        self.released.clear();
        std::mem::take(&mut self.held).into_keys().map(|id| (self.identity.packet_id(id), None)).collect()
    }

    /// Adds a position to the next commit.
    pub(super) fn remember(&mut self, position: Position) {
        self.batch.positions.push(position);
    }

    /// From now on batches are made of as many records as come.
    pub(super) fn be_careless(&mut self) {
        self.is_careful = false;
    }

    /// Number of packet identifiers held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// True while more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.records < MOST_RECORDS && self.bytes < self.most_bytes && self.waiting < 4 * MOST_RECORDS
    }

    /// Takes a message; `record` is asked only if it is new, and answers `None` if it makes no record.
    pub(super) fn publish(
        &mut self,
        publish: &Publish,
        now: Instant,
        record: impl FnOnce() -> Option<SourceRecord>,
    ) -> Taken {
        if publish.qos > 0 {
            self.note_arrival(now);
        }
        let mut taken = Taken::Recorded;
        let new = if publish.qos == 2 { digest(publish) } else { 0 };
        if publish.qos == 2
            && let Some(held) = self.held.get(&publish.packet_id).copied()
        {
            let is_same = held.digest == new;
            if is_same && (!held.is_released || publish.is_repeat) {
                self.acknowledge(Ack::Received(publish.packet_id));
                return Taken::Repeated;
            }
            if !held.is_released {
                taken = Taken::Replaced;
            } else if !publish.is_repeat {
                self.forget_released();
            }
        }
        match record() {
            Some(record) => {
                if publish.qos == 2 {
                    self.hold(publish.packet_id, Held { digest: new, is_released: false });
                }
                let bytes = size(&record);
                self.batch.records.push(record);
                self.batch.bytes += bytes;
                self.records += 1;
                self.bytes += bytes;
            }
            None => taken = Taken::Skipped,
        }
        match publish.qos {
            0 => {}
            1 => self.acknowledge(Ack::Done(publish.packet_id)),
            _ => self.acknowledge(Ack::Received(publish.packet_id)),
        }
        taken
    }

    /// Takes PUBREL: the identifier is released, then PUBCOMP may leave.
    pub(super) fn release(&mut self, packet_id: u16) {
        match self.held.get(&packet_id).copied() {
            Some(Held { is_released: false, .. }) if self.reuses_at_once => {
                self.held.remove(&packet_id);
                self.batch.positions.push((self.identity.packet_id(packet_id), None));
            }
            Some(held) if !held.is_released => {
                self.hold(packet_id, Held { is_released: true, ..held });
                self.released.push_back(packet_id);
                if self.released.len() > MOST_RELEASED
                    && let Some(oldest) = self.released.pop_front()
                {
                    self.held.remove(&oldest);
                    self.batch.positions.push((self.identity.packet_id(oldest), None));
                }
            }
            _ => {}
        }
        self.acknowledge(Ack::Complete(packet_id));
    }

    fn hold(&mut self, packet_id: u16, held: Held) {
        self.held.insert(packet_id, held);
        self.released.retain(|id| *id != packet_id);
        self.batch.positions.push((self.identity.packet_id(packet_id), Some(held.write())));
    }

    /// The broker uses identifiers again at once; a message under one it released is another one.
    fn forget_released(&mut self) {
        self.reuses_at_once = true;
        self.batch.positions.push((self.identity.reuse(), Some(Bytes::from_static(b"1"))));
        for id in std::mem::take(&mut self.released) {
            self.held.remove(&id);
            self.batch.positions.push((self.identity.packet_id(id), None));
        }
    }

    /// The next commit to begin, if it is time; ask again after each packet that was read and each commit that ended.
    pub(super) fn next_commit(&mut self) -> Option<Commit> {
        let batch = &self.batch;
        if batch.records.is_empty() && batch.positions.is_empty() {
            // Nothing to make durable: these acknowledgements go with those before them.
            let acks = std::mem::take(&mut self.batch.acks);
            match self.flights.back_mut() {
                Some(last) => last.acks.extend(acks),
                None => {
                    self.waiting -= acks.len();
                    self.ready.extend(acks);
                }
            }
            return None;
        }
        let is_full =
            self.is_careful || batch.records.len() >= BATCH_RECORDS || batch.bytes >= BATCH_BYTES || !self.has_room();
        let is_worth = self.flights.is_empty() || is_full || batch.acks.len() >= self.hurry_from;
        let most_flights = if self.is_careful { 1 } else { MOST_FLIGHTS };
        if !is_worth || self.flights.len() >= most_flights {
            return None;
        }
        let urgency = if is_full || self.waiting >= self.hurry_from { Urgency::Waited } else { Urgency::Unattended };
        let batch = std::mem::take(&mut self.batch);
        self.flights.push_back(Flight { acks: batch.acks, records: batch.records.len(), bytes: batch.bytes, urgency });
        Some(Commit { records: batch.records, positions: batch.positions, urgency })
    }

    /// True if a careful session has a record that must be committed before the next is taken.
    pub(super) fn must_commit(&self) -> bool {
        self.is_careful && (!self.batch.records.is_empty() || !self.flights.is_empty())
    }

    /// The oldest commit under way is durable.
    pub(super) fn committed(&mut self, now: Instant) {
        let Some(flight) = self.flights.pop_front() else { return };
        self.records -= flight.records;
        self.bytes -= flight.bytes;
        self.waiting -= flight.acks.len();
        let ends_flow = flight.acks.last().is_some_and(|ack| !matches!(ack, Ack::Received(_)));
        if self.waiting == 0 && ends_flow && (flight.urgency == Urgency::Unattended || self.hurry_from == 1) {
            self.idle_since = Some(now);
        }
        self.ready.extend(flight.acks);
    }

    /// The acknowledgements that may leave, in order.
    pub(super) fn ready(&mut self) -> std::vec::Drain<'_, Ack> {
        self.ready.drain(..)
    }

    fn acknowledge(&mut self, ack: Ack) {
        self.batch.acks.push(ack);
        self.waiting += 1;
    }

    fn note_arrival(&mut self, now: Instant) {
        let Some(since) = self.idle_since.take() else { return };
        if now.saturating_duration_since(since) >= HELD_BACK {
            (self.held_back, self.hurry_from) = (0, HURRY_FROM);
            return;
        }
        self.held_back = self.held_back.saturating_add(1);
        if self.held_back >= HELD_BACK_TIMES {
            self.hurry_from = 1;
        }
    }
}

fn size(record: &SourceRecord) -> usize {
    let headers: usize = record.headers.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Bytes::len)).sum();
    record.value.as_ref().map_or(0, Bytes::len) + record.key.as_ref().map_or(0, Bytes::len) + headers + 64
}

#[cfg(test)]
mod tests;
