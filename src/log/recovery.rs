//! From the file to RAM at start: format, state, journal, index, tails; then the check that nothing is missing.
//!
//! Reads keys only of what is sealed, and the whole journal, which is short. The file has been looked at before, so
//! LMDB finds its way; keys and values that do not fit each other show here, and then the file is built anew. Holes between
//! offsets are served around and listed once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;

use super::{
    Aborted, Error, Event, Gap,
    admission::Bad,
    catalogue::{Catalogue, Numbers, OWN, Own, Record, decode_bounds, own_key, random_id},
    clock::{self, Newest, intake_s, is_plausible},
    header::headers,
    journal::{Entry, Journal},
    layout::{
        CHUNKS, ChunkRef, FORMAT_KEY, FORMAT_VERSION, Format, Frame, JOURNAL, PAGE_BYTES, journal_seq, pages,
        read_entry, state_key, state_value,
    },
    migration::migrate,
    overlay::{Held, Overlay},
    partition::Part,
    producers::Producers,
    quarantine,
    repair::{Doubt, repair},
    retention::Policy,
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
    /// What is known of the time, from the file.
    pub(super) time: Option<clock::Kept>,
    pub(super) newest: Option<Newest>,
    /// Records are there that came in while no time was believed.
    pub(super) has_dark: bool,
    /// The gap ledger.
    pub(super) gaps: Vec<Gap>,
    pub(super) live_pages: u64,
    /// Offsets that are missing and not listed yet.
    pub(super) holes: Vec<Hole>,
    /// The counts of bytes written, as the last run noted them.
    pub(super) wear: Option<Vec<u8>>,
}

/// Offsets of a partition between which nothing is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) partition: Partition,
    pub(super) from: Offset,
    pub(super) to: Offset,
}

/// Why a file cannot be used.
#[derive(Debug)]
pub(super) enum Unfit {
    /// A line that says the mend.
    Refused(Error),
    /// It is damaged in a way that only building it anew mends.
    Damaged(String),
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Brings the file to the present format, takes what is damaged out of it, and reads everything.
pub(super) fn recover(store: &Store, bad: &[Bad], time_ms: i64) -> Result<Recovered, Unfit> {
    let file = store.data_file().display().to_string();
    let damaged = Unfit::Damaged;
    let unreadable = |error: heed::Error| damaged(error.to_string());
    let format = format(store, &file)?;
    migrate(store, format)?;
    if !bad.is_empty() {
        repair(store, Format { version: FORMAT_VERSION, ..format }, Doubt::Damaged(bad), time_ms)
            .map_err(|e| Error::Open(format!("cannot mend {file}: {e}; make room on the disk")))?;
    }
    let incarnation = self::format(store, &file)?.incarnation;
    let now = Instant::now();

    let txn = store.read_txn()?;
    let mut overlay = Overlay::default();
    let mut journal = Journal::default();
    let mut entries = Vec::new();
    for item in store.db.prefix_iter(&txn, &[JOURNAL]).map_err(unreadable)? {
        let (key, value) = item.map_err(unreadable)?;
        let seq = journal_seq(key).ok_or_else(|| damaged("a journal key does not parse".into()))?;
        let entry = read_entry(value).filter(|entry| entry.seq == Some(seq));
        let entry = entry.ok_or_else(|| damaged(format!("journal entry {seq} fails its checksum")))?;
        let super::layout::Entry { clock_ms, frames, .. } = entry;
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

    let OwnState { catalogue, bounds, aborted, mut producers, wear } = own_state(store, &txn, &overlay, now, &damaged)?;
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

    let listed = listed(store, &txn, &overlay).map_err(unreadable)?;
    let mut holes = Vec::new();
    let mut garbage = VecDeque::new();
    let mut next_seal = 1;
    let mut newest_chunk = None;
    for item in store.db.prefix_iter(&txn, &[CHUNKS]).map_err(unreadable)? {
        let (key, _) = item.map_err(unreadable)?;
        let (id, chunk) = ChunkRef::from_key(key).ok_or_else(|| damaged("a chunk's key does not parse".into()))?;
        next_seal = chunk.seal + 1;
        newest_chunk = Some(chunk);
        let kept_from = bounds.get(&id).map_or(0, |(start, _)| *start);
        match by_id.get(&id) {
            Some(part) if chunk.last() >= kept_from => {
                let whole = Hole { partition: part.name.clone(), from: chunk.base, to: chunk.last() };
                if listed.iter().any(|known| known.covers(&whole))
                    && !store.is_deletable(&txn, key).map_err(unreadable)?
                {
                    // Damaged where LMDB would look: it was taken out of the index and had to stay in the file.
                    continue;
                }
                let mut inner = part.lock();
                if !inner.chunks.is_empty() && inner.next != chunk.base {
                    let hole = Hole { partition: part.name.clone(), from: inner.next, to: chunk.base - 1 };
                    let before = inner.chunks.back().copied();
                    let is_told = hole.from <= hole.to && listed.iter().any(|known| known.covers(&hole));
                    // An overlap, or a hole nobody knows of, may be a damaged key.
                    let are_right =
                        [before, Some(chunk)].iter().flatten().all(|chunk| is_right(store, &txn, id, chunk));
                    if hole.from > hole.to || !is_told && !are_right {
                        return Err(damaged(format!("chunks of {} do not follow each other", part.name)));
                    }
                    if !is_told {
                        holes.push(hole);
                    }
                }
                inner.next = chunk.last() + 1;
                inner.push_chunk(chunk);
            }
            // Trimmed away; deletion had not come so far.
            Some(_) => garbage.push_back((id, chunk)),
            // Of a deleted topic, unless the key is damaged.
            None if is_right(store, &txn, id, &chunk) => garbage.push_back((id, chunk)),
            None => return Err(damaged(format!("a chunk of partition number {id} is another's"))),
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
                if !is_first && header.base < inner.next {
                    tracing::error!(partition = %part.name, offset = header.base, "an offset is in the journal twice");
                    continue;
                }
                if !is_first && header.base > inner.next {
                    let hole = Hole { partition: part.name.clone(), from: inner.next, to: header.base - 1 };
                    if !listed.iter().any(|known| known.covers(&hole)) {
                        holes.push(hole);
                    }
                }
                let came_s = intake_s(Some(*clock_ms).filter(|ms| is_plausible(*ms)));
                if inner.tail.is_empty() {
                    inner.tail_seq = *seq;
                    inner.tail_since_s = came_s;
                }
                inner.next = header.last() + 1;
                inner.tail.extend_from_slice(&bytes[at..at + header.bytes]);
                inner.tail_intake_s = came_s;
            }
        }
    }

    for (id, aborted) in aborted {
        if let Some(part) = by_id.get(&id) {
            part.lock().aborted.push(aborted);
        }
    }
    let newest = newest(&entries, newest_chunk);
    let mut has_dark = false;
    let mut tails = BTreeSet::new();
    for part in by_id.values() {
        let mut inner = part.lock();
        let (start, end) = bounds.get(&part.id).copied().unwrap_or_default();
        inner.next = inner.next.max(end);
        (inner.written_bytes, inner.durable_bytes) = (inner.tail.len(), inner.tail.len());
        inner.written = inner.next;
        has_dark |= inner.chunks.iter().any(|chunk| chunk.intake_s == 0);
        if !inner.tail.is_empty() {
            has_dark |= inner.tail_intake_s == 0;
            tails.insert((inner.tail_seq, part.id));
        } else if let Some(last) = inner.chunks.back()
            && !is_right(store, &txn, part.id, last)
        {
            // Only its key tells the partition's end, and offsets must not be given out twice.
            return Err(damaged(format!("the last chunk of {} does not fit its key", part.name)));
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
        time: None,
        newest,
        has_dark,
        gaps: Vec::new(),
        live_pages,
        holes,
        wear,
    })
}

/// The last entry's time, where it has one, else the last chunk's.
fn newest(entries: &[(u64, i64, Vec<Frame<'_>>)], chunk: Option<ChunkRef>) -> Option<Newest> {
    let noted = |frames: &[Frame<'_>]| {
        frames.iter().find_map(|frame| match frame {
            Frame::Noted { boot_id, uptime_ms, .. } => Some((*boot_id, *uptime_ms)),
            _ => None,
        })
    };
    match entries.last() {
        Some((_, clock_ms, frames)) if is_plausible(*clock_ms) => {
            Some(Newest::Entry { clock_ms: *clock_ms, noted: noted(frames) })
        }
        _ => chunk.map(Newest::Chunk),
    }
}

/// Whether a chunk's own header says the same as its key; an error counts as no.
fn is_right(store: &Store, txn: &heed::RoTxn<'_, heed::WithoutTls>, id: u32, chunk: &ChunkRef) -> bool {
    store.is_key_right(txn, id, chunk).unwrap_or(false)
}

/// The list of what is missing, the journal's word over the file's.
fn listed(
    store: &Store,
    txn: &heed::RoTxn<'_, heed::WithoutTls>,
    overlay: &Overlay,
) -> heed::Result<Vec<quarantine::Quarantined>> {
    let prefix = state_key(quarantine::OWNER, &[]);
    let mut all: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
    for item in store.db.prefix_iter(txn, &prefix)? {
        let (key, bytes) = item?;
        all.insert(key.to_vec(), state_value(key, bytes).map(<[u8]>::to_vec));
    }
    for (key, held) in overlay.prefixed(&prefix) {
        all.insert(key.to_vec(), held.value.as_ref().map(|value| value.to_vec()));
    }
    let entries = all.into_values().flatten().filter_map(|value| quarantine::Entry::decode(&value));
    Ok(entries.map(|entry| entry.what).collect())
}

/// Reads the format record, or writes it into a new file.
fn format(store: &Store, file: &str) -> Result<Format, Error> {
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
        Some(Some(format)) => Ok(format),
        None if is_empty => {
            let format = Format { version: FORMAT_VERSION, word_bytes, incarnation: random_id() };
            let mut txn = store.write_txn().map_err(failed)?;
            store.db.put(&mut txn, FORMAT_KEY, &format.encode()).map_err(failed)?;
            txn.commit().map_err(failed)?;
            Ok(format)
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
    wear: Option<Vec<u8>>,
}

/// The log's own state, the journal's word over the file's.
fn own_state(
    store: &Store,
    txn: &heed::RoTxn<'_, heed::WithoutTls>,
    overlay: &Overlay,
    now: Instant,
    damaged: &impl Fn(String) -> Unfit,
) -> Result<OwnState, Unfit> {
    let prefix = state_key(OWN, &[]);
    let mut all: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    for item in store.db.prefix_iter(txn, &prefix).map_err(|e| damaged(e.to_string()))? {
        let (key, bytes) = item.map_err(|e| damaged(e.to_string()))?;
        let value = state_value(key, bytes);
        all.insert(key, value.ok_or_else(|| damaged(format!("the entry {} fails its checksum", key.escape_ascii())))?);
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
            Own::Wear => own.wear = Some(value.to_vec()),
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
