//! From the file to RAM at start: format, state, journal, index, tails; then the check that nothing is missing.
//!
//! Reads keys only of what is sealed, and the whole journal, which is short. A journal entry that fails its checksum
//! stops the start: its records were acknowledged, and to go on without them would give their offsets to others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;

use super::{
    Aborted, Error, Event, Gap,
    catalogue::{Catalogue, Numbers, OWN, Own, Record, decode_bounds, own_key, random_id},
    header::headers,
    journal::{Entry, Journal},
    layout::{
        CHUNKS, ChunkRef, FORMAT_KEY, FORMAT_VERSION, Format, Frame, JOURNAL, PAGE_BYTES, journal_seq, pages,
        read_entry, state_key,
    },
    overlay::{Held, Overlay},
    partition::Part,
    producers::Producers,
    retention::{Policy, intake_s},
    store::Store,
};
use crate::record::{Offset, Partition};

/// What the writer and the readers start from.
pub(super) struct Recovered {
    pub(super) incarnation: [u8; 16],
    pub(super) catalogue: Catalogue,
    pub(super) parts: HashMap<Partition, Arc<Part>>,
    pub(super) by_id: HashMap<u32, Arc<Part>>,
    pub(super) overlay: Overlay,
    pub(super) producers: Producers,
    pub(super) journal: Journal,
    /// Tails by the journal entry that holds their beginning.
    pub(super) tails: BTreeSet<(u64, u32)>,
    /// Chunks that nothing refers to any more.
    pub(super) garbage: VecDeque<(u32, ChunkRef)>,
    pub(super) next_seal: u64,
    /// What the opening found and the centre must hear of.
    pub(super) events: VecDeque<Event>,
    /// The gap ledger.
    pub(super) gaps: Vec<Gap>,
    pub(super) live_pages: u64,
}

/// Reads everything.
pub(super) fn recover(store: &Store) -> Result<Recovered, Error> {
    let file = store.data_file().display().to_string();
    let damaged = |what: String| {
        Error::Open(format!("{file} is damaged: {what}; restore a backup, or move the file away to begin a new log"))
    };
    let unreadable = |error: heed::Error| damaged(error.to_string());
    let incarnation = format(store, &file)?;
    let now = Instant::now();

    let txn = store.read_txn()?;
    let mut overlay = Overlay::default();
    let mut journal = Journal::default();
    let mut entries = Vec::new();
    for item in store.db.prefix_iter(&txn, &[JOURNAL]).map_err(unreadable)? {
        let (key, value) = item.map_err(unreadable)?;
        let seq = journal_seq(key).ok_or_else(|| damaged("a journal key does not parse".into()))?;
        let entry = read_entry(value);
        let (clock_ms, frames) = entry.ok_or_else(|| damaged(format!("journal entry {seq} fails its checksum")))?;
        let mut keys = Vec::new();
        for frame in &frames {
            if let Frame::State { key, value } = frame {
                overlay.put(key, Held { value: value.map(Bytes::copy_from_slice), seq });
                keys.push(Box::from(*key));
            }
        }
        journal.push(Entry { seq, bytes: pages(value.len()) * PAGE_BYTES as u64, seal: 0, keys });
        entries.push((seq, clock_ms, frames));
    }

    let OwnState { catalogue, bounds, aborted, mut producers } = own_state(store, &txn, &overlay, now, &damaged)?;
    let (mut parts, mut by_id) = (HashMap::new(), HashMap::new());
    let topics = catalogue.topics();
    for topic in topics.by_name.values() {
        let policy = Policy::new(&topic.settings);
        for (index, id) in (0..).zip(catalogue.numbers_of(&topic.name)) {
            let name = Partition::new(Arc::clone(&topic.name), index);
            let part = Arc::new(Part::new(id, name.clone(), policy));
            if by_id.insert(id, Arc::clone(&part)).is_some() {
                return Err(damaged(format!("partition number {id} is used twice")));
            }
            parts.insert(name, part);
        }
    }

    let mut garbage = VecDeque::new();
    let mut next_seal = 1;
    for item in store.db.prefix_iter(&txn, &[CHUNKS]).map_err(unreadable)? {
        let (key, _) = item.map_err(unreadable)?;
        let (id, chunk) = ChunkRef::from_key(key).ok_or_else(|| damaged("a chunk's key does not parse".into()))?;
        next_seal = chunk.seal + 1;
        let kept_from = bounds.get(&id).map_or(0, |(start, _)| *start);
        match by_id.get(&id) {
            Some(part) if chunk.last() >= kept_from => {
                let mut inner = part.lock();
                let due = inner.next;
                follow(&part.name, inner.chunks.is_empty(), due, chunk.base).map_err(&damaged)?;
                inner.next = chunk.last() + 1;
                inner.push_chunk(chunk);
            }
            // Of a deleted topic, or trimmed away; deletion had not come so far.
            _ => garbage.push_back((id, chunk)),
        }
    }

    for (seq, clock_ms, frames) in &entries {
        for frame in frames {
            let Frame::Batches { partition, bytes, .. } = frame else { continue };
            let Some(part) = by_id.get(partition) else { continue };
            let kept_from = bounds.get(partition).map_or(0, |(start, _)| *start);
            let mut inner = part.lock();
            for (at, header) in headers(bytes) {
                if header.producer_id >= 0 {
                    producers.replay((*partition, header.producer_id), &header, now);
                }
                let is_first = inner.chunks.is_empty() && inner.tail.is_empty();
                if header.last() < inner.next || header.last() < kept_from {
                    continue;
                }
                let due = inner.next;
                follow(&part.name, is_first, due, header.base).map_err(&damaged)?;
                if inner.tail.is_empty() {
                    inner.tail_seq = *seq;
                }
                inner.next = header.last() + 1;
                inner.tail.extend_from_slice(&bytes[at..at + header.bytes]);
                inner.tail_intake_s = intake_s(*clock_ms);
            }
        }
    }

    for (id, aborted) in aborted {
        if let Some(part) = by_id.get(&id) {
            part.lock().aborted.push(aborted);
        }
    }
    let mut tails = BTreeSet::new();
    for part in by_id.values() {
        let mut inner = part.lock();
        let (start, end) = bounds.get(&part.id).copied().unwrap_or_default();
        inner.next = inner.next.max(end);
        (inner.written_bytes, inner.durable_bytes) = (inner.tail.len(), inner.tail.len());
        inner.written = inner.next;
        if !inner.tail.is_empty() {
            tails.insert((inner.tail_seq, part.id));
        }
        inner.written_open_from = producers.first_open(part.id);
        inner.open_from = inner.written_open_from;
        let (start, high_watermark) = (inner.first_kept().max(start), inner.next);
        inner.publish(start, high_watermark);
    }
    let stat = store.db.stat(&txn).map_err(unreadable)?;
    let live_pages = (stat.branch_pages + stat.leaf_pages + stat.overflow_pages) as u64;
    drop(entries);
    drop(txn);
    store.release_pages();
    Ok(Recovered {
        incarnation,
        catalogue,
        parts,
        by_id,
        overlay,
        producers,
        journal,
        tails,
        garbage,
        next_seal,
        events: VecDeque::new(),
        gaps: Vec::new(),
        live_pages,
    })
}

/// Batches of a partition must follow each other. A hole is reported and served around; an overlap is no log.
fn follow(name: &Partition, is_first: bool, due: Offset, base: Offset) -> Result<(), String> {
    if is_first || base == due {
        return Ok(());
    }
    if base < due {
        return Err(format!("{name} has offset {base} twice"));
    }
    tracing::error!(partition = %name, from = due, to = base - 1, "records are missing from the log");
    Ok(())
}

/// Reads the format record, or writes it into a new file.
fn format(store: &Store, file: &str) -> Result<[u8; 16], Error> {
    let word_bytes = u8::try_from(size_of::<usize>()).expect("a word has a few bytes");
    let failed = |e: heed::Error| Error::Open(format!("cannot prepare {file}: {e}"));
    let txn = store.read_txn()?;
    let known = store.db.get(&txn, FORMAT_KEY).map_err(failed)?.map(Format::decode);
    let is_empty = store.db.is_empty(&txn).map_err(failed)?;
    drop(txn);
    match known {
        Some(Some(format)) if format.version > FORMAT_VERSION => Err(Error::Open(format!(
            "{file} has format {}, and this version of brooklet reads up to {FORMAT_VERSION}; install a newer brooklet",
            format.version
        ))),
        Some(Some(format)) if format.word_bytes != word_bytes => Err(Error::Open(format!(
            "{file} was made by a {}-bit build; run that build and mirror or export its topics, or choose another \
             directory with --data-dir",
            u32::from(format.word_bytes) * 8
        ))),
        Some(Some(format)) => Ok(format.incarnation),
        None if is_empty => {
            let format = Format { version: FORMAT_VERSION, word_bytes, incarnation: random_id() };
            let mut txn = store.write_txn().map_err(failed)?;
            store.db.put(&mut txn, FORMAT_KEY, &format.encode()).map_err(failed)?;
            txn.commit().map_err(failed)?;
            Ok(format.incarnation)
        }
        _ => Err(Error::Open(format!("{file} holds something else than a log of Brooklet; move it away"))),
    }
}

/// What the log keeps about itself.
#[derive(Default)]
struct OwnState {
    catalogue: Catalogue,
    bounds: BTreeMap<u32, (Offset, Offset)>,
    aborted: Vec<(u32, Aborted)>,
    producers: Producers,
}

/// The log's own state, the journal's word over the file's.
fn own_state(
    store: &Store,
    txn: &heed::RoTxn<'_, heed::WithoutTls>,
    overlay: &Overlay,
    now: Instant,
    damaged: &impl Fn(String) -> Error,
) -> Result<OwnState, Error> {
    let prefix = state_key(OWN, &[]);
    let mut all: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    for item in store.db.prefix_iter(txn, &prefix).map_err(|e| damaged(e.to_string()))? {
        let (key, value) = item.map_err(|e| damaged(e.to_string()))?;
        all.insert(key, value);
    }
    for (key, held) in overlay.prefixed(&prefix) {
        match &held.value {
            Some(value) => all.insert(key, value),
            None => all.remove(key),
        };
    }
    let mut own = OwnState::default();
    for (key, value) in all {
        let wrong = || damaged(format!("the entry {} does not parse", key.escape_ascii()));
        match own_key(&key[prefix.len()..]).ok_or_else(wrong)? {
            Own::Topic(name) => {
                own.catalogue.enter(Arc::from(name), Record::decode(value).ok_or_else(wrong)?);
            }
            Own::Bounds(partition) => {
                own.bounds.insert(partition, decode_bounds(value).ok_or_else(wrong)?);
            }
            Own::Numbers => own.catalogue.numbers = Numbers::decode(value).ok_or_else(wrong)?,
            Own::Aborted(key) => own.aborted.push(Aborted::decode(key, value).ok_or_else(wrong)?),
            Own::Producer(key) => {
                if !own.producers.restore(key, value, now) {
                    return Err(wrong());
                }
            }
        }
    }
    Ok(own)
}
