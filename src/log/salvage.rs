//! Everything that is whole in a damaged data file.
//!
//! Takes what can be reached from the newest meta page; where keys cannot be reached, what the older one still leads to, and
//! then what the pages themselves say: chunks, journal entries and leaves are recognised without the trees above them, by
//! their checksums. Reads only; `rebuild` makes a new file of it.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    fs::File,
    io,
};

use super::{
    admission::is_entry,
    clock::{intake_s, is_plausible},
    header::headers,
    layout::{
        CHUNKS, ChunkHeader, ChunkRef, FORMAT_KEY, FORMAT_VERSION, Format, Frame, JOURNAL, PAGE_BYTES, STATE,
        begins_entry, close_entry, entry_bytes, journal_key, journal_seq, open_entry, put_batches, read_entry,
        state_value,
    },
    pages::{Content, META_PAGES, Meta, PAGE_HEADER_BYTES, Pages, Value, content, value_pages},
    walk::{Walk, metas},
};
use crate::record::Offset;

/// Where a value lies in the damaged file.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Inline(Vec<u8>),
    Page(u64),
}

/// A chunk whose bytes are whole.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) chunk: ChunkRef,
    pub(super) place: Place,
    /// A key told of it, so its place in the order of sealing is known.
    pub(super) is_known: bool,
}

/// Everything that is whole.
#[derive(Default)]
pub(super) struct Haul {
    version: u16,
    pub(super) incarnation: Option<[u8; 16]>,
    pub(super) state: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) journal: BTreeMap<u64, Vec<u8>>,
    pub(super) chunks: BTreeMap<(u32, Offset), Found>,
    /// Chunks that a key tells of and whose bytes are not right.
    pub(super) broken: Vec<(u32, ChunkRef)>,
    /// Keys that cannot be reached: from the first on, below the second.
    pub(super) lost: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Journal entries that were found without a key, by number.
    stray: BTreeMap<u64, BTreeSet<Vec<u8>>>,
}

/// Everything that is whole in a file.
pub(super) fn gather(file: File) -> io::Result<(Pages, Haul)> {
    let metas = metas(&file)?;
    let page_bytes = metas.usable.first().map_or(PAGE_BYTES, |meta| meta.page_bytes);
    let pages = Pages::new(file, page_bytes)?;
    let mut haul = Haul { version: FORMAT_VERSION, ..Haul::default() };
    let Some((newest, older)) = metas.usable.split_first() else {
        haul.lost.push((Vec::new(), None));
        haul.scan(&pages);
        return Ok((pages, haul));
    };
    haul.walk(&pages, newest, false);
    if !metas.faults.is_empty() {
        // The other one may have been the newer: what it added came after everything that is known.
        let seq = haul.journal.last_key_value().map_or(0, |(seq, _)| seq + 1);
        haul.lost.push((journal_key(seq).to_vec(), Some(vec![STATE])));
        let seal = haul.chunks.values().map(|found| found.chunk.seal + 1).max().unwrap_or(0);
        haul.lost.push(([&[CHUNKS], &seal.to_be_bytes()[..]].concat(), None));
    }
    if !haul.lost.is_empty() {
        for meta in older {
            haul.walk(&pages, meta, true);
        }
        haul.scan(&pages);
    }
    Ok((pages, haul))
}

impl Haul {
    fn is_lost(&self, key: &[u8]) -> bool {
        self.lost.iter().any(|(low, high)| key >= &low[..] && high.as_ref().is_none_or(|high| key < &high[..]))
    }

    /// Whether keys with that first byte may be missing.
    pub(super) fn has_lost(&self, range: u8) -> bool {
        let after = [range + 1];
        self.lost
            .iter()
            .any(|(low, high)| low[..] < after[..] && high.as_ref().is_none_or(|high| high[..] > [range][..]))
    }

    /// Takes what a meta page leads to; with `is_older` only what is missing.
    fn walk(&mut self, pages: &Pages, meta: &Meta, is_older: bool) {
        let mut walk = Walk::new(pages, meta);
        let mut entries: Vec<(Vec<u8>, Place, usize)> = Vec::new();
        // Values are looked at one by one; only keys and what lies beside them are kept meanwhile.
        walk.main(meta, &mut |key, value| match value {
            Value::Inline(value) => entries.push((key.to_vec(), Place::Inline(value.to_vec()), value.len())),
            Value::Own { page, bytes } => entries.push((key.to_vec(), Place::Page(page), bytes)),
        });
        if !is_older {
            self.lost.extend(walk.faults.iter().filter_map(|fault| fault.keys.clone()));
            let format = entries.iter().find(|(key, ..)| key == FORMAT_KEY).and_then(|(_, place, _)| match place {
                Place::Inline(value) => Format::decode(value),
                Place::Page(_) => None,
            });
            if let Some(format) = format {
                self.version = format.version;
                self.incarnation = Some(format.incarnation);
            }
        }
        for (key, place, bytes) in entries {
            if !is_older || self.is_lost(&key) {
                self.take(pages, &key, place, bytes);
            }
        }
    }

    /// Takes one entry if it is whole and not there yet.
    fn take(&mut self, pages: &Pages, key: &[u8], place: Place, bytes: usize) {
        let own;
        let value = match &place {
            Place::Inline(value) => Some(&value[..]),
            Place::Page(page) => {
                own = pages.value(*page, bytes);
                own.as_deref()
            }
        };
        match key.first() {
            Some(&STATE) => {
                let value =
                    value.and_then(|bytes| if self.version == 1 { Some(bytes) } else { state_value(key, bytes) });
                match value {
                    Some(value) => {
                        let value = value.to_vec();
                        self.state.entry(key.to_vec()).or_insert(value);
                    }
                    None => self.lost.push((key.to_vec(), Some([key, &[0]].concat()))),
                }
            }
            Some(&JOURNAL) => match (journal_seq(key), value.filter(|value| is_entry(key, value))) {
                (Some(seq), Some(value)) => {
                    let value = value.to_vec();
                    self.journal.entry(seq).or_insert(value);
                }
                _ => self.lost.push((key.to_vec(), Some([key, &[0]].concat()))),
            },
            Some(&CHUNKS) => {
                let Some((id, chunk)) = ChunkRef::from_key(key).filter(|(_, chunk)| chunk.is_possible()) else {
                    return self.lost.push((key.to_vec(), Some([key, &[0]].concat())));
                };
                if value.is_some_and(|value| chunk.check_value(id, value)) {
                    let found = Found { chunk, place, is_known: true };
                    if let btree_map::Entry::Vacant(slot) = self.chunks.entry((id, chunk.base)) {
                        slot.insert(found);
                    }
                } else {
                    self.broken.push((id, chunk));
                    // The bytes may be another chunk's, where a key was damaged and not they.
                    if let Some(value) = value {
                        self.take_chunk(value, place.clone(), Some(chunk.seal));
                    }
                }
            }
            _ => {}
        }
    }

    /// Takes a chunk by what it says of itself. Its length if it is one.
    fn take_chunk(&mut self, value: &[u8], place: Place, seal: Option<u64>) -> Option<usize> {
        let header = ChunkHeader::parse(value)?;
        let batches = header.batches(value)?;
        let mut chunk = ChunkRef {
            seal: seal.unwrap_or(0),
            base: header.base,
            max_timestamp_ms: i64::MIN,
            last_delta: header.last_delta,
            intake_s: 0,
            length: header.length,
        };
        let (mut taken, mut last) = (0, None);
        for (_, batch) in headers(batches) {
            chunk.max_timestamp_ms = chunk.max_timestamp_ms.max(batch.max_timestamp_ms);
            taken += batch.bytes;
            last = Some(batch.last());
        }
        // Base offsets lie outside the batches' own checksums, but not outside the chunk's.
        if taken != batches.len() || headers(batches).next()?.1.base != header.base || last != Some(chunk.last()) {
            return None;
        }
        let found = Found { chunk, place, is_known: seal.is_some() };
        match self.chunks.entry((header.partition, header.base)) {
            btree_map::Entry::Vacant(slot) => {
                slot.insert(found);
            }
            // Pages that are free now may hold what compaction has replaced: it covers as much or more with less.
            btree_map::Entry::Occupied(mut slot) if !slot.get().is_known => {
                let is_newer = |known: &ChunkRef| {
                    (chunk.last_delta, std::cmp::Reverse(chunk.length))
                        > (known.last_delta, std::cmp::Reverse(known.length))
                };
                if is_newer(&slot.get().chunk) {
                    slot.insert(found);
                }
            }
            btree_map::Entry::Occupied(_) => {}
        }
        Some(header.value_bytes())
    }

    /// Looks at every page for what no key leads to any more.
    fn scan(&mut self, pages: &Pages) {
        let (journal, state, chunks) = (self.has_lost(JOURNAL), self.has_lost(STATE), self.has_lost(CHUNKS));
        let mut page = vec![0; pages.page_bytes];
        let mut number = META_PAGES;
        while number < pages.count {
            let here = number;
            number += 1;
            if !pages.read(here, &mut page) {
                continue;
            }
            let head = &page[PAGE_HEADER_BYTES..];
            if chunks && let Some(header) = ChunkHeader::parse(head) {
                let whole = pages.value(here, header.value_bytes());
                if let Some(bytes) = whole.and_then(|value| self.take_chunk(&value, Place::Page(here), None)) {
                    number = here + value_pages(bytes, pages.page_bytes);
                }
            } else if journal && begins_entry(head) {
                let whole = entry_bytes(head).and_then(|bytes| pages.value(here, bytes));
                if let Some(value) = whole {
                    self.take_stray(value);
                }
            } else if let Some(nodes) = leaf(&page, here) {
                for (key, value) in nodes {
                    let Value::Inline(value) = value else { continue };
                    match key.first() {
                        Some(&STATE) if state && self.is_lost(key) && self.version > 1 => {
                            if let Some(value) = state_value(key, value) {
                                self.state.entry(key.to_vec()).or_insert(value.to_vec());
                            }
                        }
                        Some(&JOURNAL) if journal && is_entry(key, value) => self.take_stray(value.to_vec()),
                        Some(&CHUNKS) if chunks && self.is_lost(key) => {
                            if let Some((id, chunk)) =
                                ChunkRef::from_key(key).filter(|(id, chunk)| chunk.check_value(*id, value))
                            {
                                let found = Found { chunk, place: Place::Inline(value.to_vec()), is_known: true };
                                self.chunks.entry((id, chunk.base)).or_insert(found);
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn take_stray(&mut self, value: Vec<u8>) {
        let seq = read_entry(&value).and_then(|entry| entry.seq);
        if let Some(seq) = seq.filter(|seq| !self.journal.contains_key(seq) && self.is_lost(&journal_key(*seq))) {
            self.stray.entry(seq).or_default().insert(value);
        }
    }

    /// Takes the stray journal entries: as they are where they follow each other up to the newest, else their batches only,
    /// because their state may be older than what is known. Of two with one number, neither is believed.
    pub(super) fn take_strays(&mut self) {
        let strays: BTreeMap<u64, Vec<u8>> = std::mem::take(&mut self.stray)
            .into_iter()
            .filter_map(|(seq, mut found)| {
                (found.len() == 1).then(|| found.pop_first().map(|entry| (seq, entry))).flatten()
            })
            .collect();
        let newest = self.journal.keys().chain(strays.keys()).max().copied();
        let mut follows = newest;
        let known: BTreeSet<u64> = self.journal.keys().copied().collect();
        for (seq, entry) in strays.into_iter().rev() {
            while follows.is_some_and(|next| next > seq && known.contains(&next)) {
                follows = follows.and_then(|next| next.checked_sub(1));
            }
            let entry = if follows == Some(seq) {
                follows = seq.checked_sub(1);
                entry
            } else {
                without_state(&entry, seq)
            };
            self.journal.insert(seq, entry);
        }
    }
}

impl Haul {
    /// Batches of the journal that lie before a chunk become chunks: a replay of the journal would pass them over.
    pub(super) fn seal_what_chunks_follow(&mut self) {
        let mut sealed = Vec::new();
        for entry in self.journal.values() {
            let Some(entry) = read_entry(entry) else { continue };
            for frame in entry.frames {
                let Frame::Batches { partition, bytes, .. } = frame else { continue };
                for (at, batch) in headers(bytes) {
                    let later = self.chunks.range((partition, batch.last())..).next();
                    let before = self.chunks.range(..=(partition, batch.base)).next_back();
                    let is_there =
                        before.is_some_and(|((id, _), found)| *id == partition && found.chunk.last() >= batch.base);
                    if is_there || later.is_none_or(|((id, _), _)| *id != partition) {
                        continue;
                    }
                    let batches = &bytes[at..at + batch.bytes];
                    let chunk = ChunkRef {
                        seal: 0,
                        base: batch.base,
                        max_timestamp_ms: batch.max_timestamp_ms,
                        last_delta: batch.last_delta.unsigned_abs(),
                        intake_s: intake_s(Some(entry.clock_ms).filter(|ms| is_plausible(*ms))),
                        length: u32::try_from(batches.len()).expect("an entry is far shorter"),
                    };
                    let value = [&chunk.header(partition, crc32c::crc32c(batches)), batches].concat();
                    sealed
                        .push(((partition, batch.base), Found { chunk, place: Place::Inline(value), is_known: false }));
                }
            }
        }
        for (key, found) in sealed {
            self.chunks.entry(key).or_insert(found);
        }
    }
}

/// A journal entry's batches alone.
fn without_state(entry: &[u8], seq: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(entry.len());
    let Some(entry) = read_entry(entry) else { return out };
    open_entry(&mut out, entry.clock_ms, seq);
    for frame in entry.frames {
        if let Frame::Batches { partition, base, bytes } = frame {
            put_batches(&mut out, partition, base, bytes);
        }
    }
    close_entry(&mut out);
    out
}

/// The entries of a page that is a leaf, told by itself.
pub(super) fn leaf(page: &[u8], number: u64) -> Option<Vec<(&[u8], Value<'_>)>> {
    match content(page, number) {
        Ok(Content::Leaf(nodes)) => Some(nodes),
        _ => None,
    }
}
