//! A new data file from what is whole in a damaged one.
//!
//! The new one is built beside the damaged one, which is only read, and then takes its name, so that a power cut at any moment
//! leaves the one or the other; the damaged one goes to the quarantine. Where there is no room for everything the oldest
//! chunks stay behind, in the quarantined file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::Path,
};

use super::{
    Durability, Error,
    catalogue::random_id,
    directory::{DATA_FILE, Directory},
    layout::{
        CHUNK_HEADER_BYTES, CHUNKS, ChunkRef, FORMAT_KEY, FORMAT_VERSION, Format, Frame, JOURNAL, PAGE_BYTES, STATE,
        close_entry, journal_key, open_entry, pages as pages_of, put_batches, put_note, put_state, read_entry,
        state_bytes,
    },
    mend::{Frames, Known, Loss},
    pages::{Pages, WORD_BYTES},
    quarantine::{self, Cause},
    salvage::{Found, Haul, Place, gather},
    store::Store,
};
use crate::record::Offset;

/// Directory in which the new file is built, below the data directory.
pub(super) const DIRECTORY: &str = "rebuild";
/// Chunk bytes in one commit of the new file.
const COMMIT_BYTES: u64 = 4 << 20;
/// Left free on the disk by a new file.
const SPARE_BYTES: u64 = 16 << 20;

/// A chunk that goes into the new file, with its partition.
type Chosen = (u32, Found);

/// Builds the data file of the directory anew and puts the damaged one into quarantine.
///
/// # Errors
/// [`Error::Open`] where the disk does not do it; the damaged file is where it was then.
pub(super) fn rebuild(directory: &Directory, map_bytes: u64, why: &str, time_ms: i64) -> Result<Cause, Error> {
    let path = directory.data_file();
    let failed = |e: &dyn std::fmt::Display| {
        Error::Open(format!(
            "{} is damaged ({why}) and what is whole cannot be copied: {e}; make room on the disk, or move the file away to \
             begin a new log",
            path.display()
        ))
    };
    tracing::error!(file = %path.display(), "the data file is damaged: {why}; it is built anew from what is whole");
    let file = File::open(&path).map_err(|e| failed(&e))?;
    let (pages, haul) = gather(file).map_err(|e| failed(&e))?;
    let target = directory.path().join(DIRECTORY);
    match fs::remove_dir_all(&target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&e)),
        _ => {}
    }
    let copy = quarantine::file_name(directory.path()).map_err(|e| failed(&e))?;
    let room = directory.free_bytes().unwrap_or(u64::MAX).saturating_sub(SPARE_BYTES).min(map_bytes - map_bytes / 8);
    let store = Store::open(Directory::open(&target)?, map_bytes, Durability::Strict)?;
    let reason = format!("the data file was damaged ({why})");
    let written = Build { pages: &pages, haul, room, reason: &reason, copy: &copy, time_ms }.write(&store);
    written.map_err(|e| failed(&e))?;
    drop(store);
    let swap = || {
        quarantine::keep_file(&path, &copy)?;
        fs::rename(target.join(DATA_FILE), &path)?;
        File::open(directory.path())?.sync_all()?;
        fs::remove_dir_all(&target)
    };
    swap().map_err(|e| failed(&e))?;
    tracing::error!(copy = %copy.display(), "the damaged data file was put into quarantine");
    Ok(Cause { reason, copy: Some(copy.display().to_string()) })
}

/// What the new file is made from.
struct Build<'a> {
    pages: &'a Pages,
    haul: Haul,
    /// Bytes it may take.
    room: u64,
    reason: &'a str,
    copy: &'a Path,
    time_ms: i64,
}

impl Build<'_> {
    fn write(mut self, store: &Store) -> heed::Result<()> {
        self.haul.take_strays();
        self.haul.seal_what_chunks_follow();
        let mut known = Known { state: self.haul.state.clone(), ..Known::default() };
        let (mut in_journal, mut journal_bytes) = (BTreeSet::new(), 0);
        for entry in self.haul.journal.values() {
            journal_bytes += pages_of(entry.len()).max(1) * PAGE_BYTES as u64;
            let Some(entry) = read_entry(entry) else { continue };
            known.add_entry(&entry);
            for frame in &entry.frames {
                let Frame::Batches { partition, .. } = frame else { continue };
                in_journal.insert(*partition);
            }
        }
        let state_room: u64 = self.haul.state.iter().map(|(k, v)| (k.len() + v.len() + 32) as u64 * 2).sum();
        let (chunks, missing) = self.choose(self.room.saturating_sub(journal_bytes + state_room));
        for (id, found) in &chunks {
            known.serves(*id, found.chunk.base, found.chunk.last() + 1);
            known.fronts.insert(*id);
        }
        for (id, chunk) in &missing {
            known.lacks(*id, chunk);
        }
        known.is_no_front_sure = self.haul.has_lost(CHUNKS);
        if !self.haul.has_lost(JOURNAL) {
            known.fronts.extend(&in_journal);
        }
        self.say_what_is_sure(&mut known, &in_journal, &chunks);
        let is_state_incomplete = self.haul.has_lost(STATE) || self.haul.has_lost(JOURNAL);
        let is_in_doubt =
            is_state_incomplete || !known.is_all_sure && known.ends.keys().any(|id| !known.sure.contains(id));
        let frames = known.mend(&Loss {
            reason: self.reason,
            copy: Some(self.copy),
            bytes: self.pages.file_bytes,
            has_lost_names: is_state_incomplete,
            has_lost_numbers: is_state_incomplete,
            time_ms: self.time_ms,
        });
        let incarnation = self.haul.incarnation.filter(|_| !is_in_doubt).unwrap_or_else(random_id);
        let word_bytes = u8::try_from(WORD_BYTES).expect("a word has a few bytes");
        let format = Format { version: FORMAT_VERSION, word_bytes, incarnation };
        self.write_chunks(store, &chunks)?;
        self.write_rest(store, format, &frames)
    }

    /// The chunks that go into the new file, in the order of sealing, and those that are known and do not: broken ones, and
    /// the oldest where there is no room.
    fn choose(&mut self, room: u64) -> (Vec<Chosen>, Vec<(u32, ChunkRef)>) {
        let mut chosen: Vec<Chosen> = Vec::new();
        let all = std::mem::take(&mut self.haul.chunks);
        let mut by_partition: BTreeMap<u32, Vec<Found>> = BTreeMap::new();
        for ((id, _), found) in all {
            by_partition.entry(id).or_default().push(found);
        }
        for (id, mut found) in by_partition {
            // Those that a key tells of first; what overlaps them is older than they are.
            found.sort_by_key(|found| (!found.is_known, found.chunk.base));
            let mut taken: BTreeMap<Offset, Found> = BTreeMap::new();
            for found in found {
                let before = taken.range(..=found.chunk.base).next_back().map(|(_, other)| other.chunk.last());
                let after = taken.range(found.chunk.base..).next().map(|(base, _)| *base);
                if before.is_none_or(|last| last < found.chunk.base)
                    && after.is_none_or(|base| base > found.chunk.last())
                {
                    taken.insert(found.chunk.base, found);
                }
            }
            // One without a place in the order comes right before the next that has one.
            let mut seal = u64::MAX;
            for found in taken.values_mut().rev() {
                if !found.is_known || found.chunk.seal > seal {
                    found.chunk.seal = seal;
                }
                seal = found.chunk.seal;
            }
            chosen.extend(taken.into_values().map(|found| (id, found)));
        }
        chosen.sort_by_key(|(id, found)| (found.chunk.seal, *id, found.chunk.base));
        let mut missing = std::mem::take(&mut self.haul.broken);
        let mut bytes: u64 = chosen.iter().map(|(_, found)| value_room(&found.chunk)).sum();
        let mut dropped = 0;
        while bytes > room && dropped < chosen.len() {
            bytes -= value_room(&chosen[dropped].1.chunk);
            dropped += 1;
        }
        missing.extend(chosen.drain(..dropped).map(|(id, found)| (id, found.chunk)));
        (chosen, missing)
    }

    /// A partition's end is the one that is known where nothing that came later can be missing.
    fn say_what_is_sure(&self, known: &mut Known, in_journal: &BTreeSet<u32>, chunks: &[Chosen]) {
        let haul = &self.haul;
        if haul.has_lost(JOURNAL) || haul.has_lost(STATE) {
            return;
        }
        let lost_to = haul.lost.iter().filter(|(_, high)| high.as_ref().is_none_or(|high| high[..] > [CHUNKS][..]));
        let lost_to = lost_to.map(|(_, high)| match high {
            Some(high) => high.get(1..9).and_then(|seal| seal.try_into().ok()).map_or(u64::MAX, u64::from_be_bytes),
            None => u64::MAX,
        });
        let lost_to = lost_to.max().unwrap_or(0);
        let later = chunks.iter().filter(|(_, found)| found.is_known && found.chunk.seal >= lost_to).map(|(id, _)| *id);
        known.sure.extend(in_journal);
        known.sure.extend(later);
        if lost_to == 0 {
            known.sure.extend(known.ends.keys());
            known.is_all_sure = true;
        }
    }

    fn write_chunks(&self, store: &Store, chunks: &[Chosen]) -> heed::Result<()> {
        let mut left = chunks;
        let mut seal = 0;
        while !left.is_empty() {
            let mut txn = store.write_txn()?;
            let mut bytes = 0;
            while let Some(((id, found), rest)) = left.split_first() {
                if bytes >= COMMIT_BYTES {
                    break;
                }
                left = rest;
                seal += 1;
                let own;
                let value = match &found.place {
                    Place::Inline(value) => Some(&value[..]),
                    Place::Page(page) => {
                        own = self.pages.value(*page, found.chunk.value_bytes());
                        own.as_deref()
                    }
                };
                // It was whole a moment ago.
                let Some(batches) = value.and_then(|value| value.get(CHUNK_HEADER_BYTES..)) else { continue };
                let Some(batches) = batches.get(..found.chunk.length as usize) else { continue };
                let chunk = ChunkRef { seal, ..found.chunk };
                let header = chunk.header(*id, crc32c::crc32c(batches));
                store.append(&mut txn, &chunk.key(*id), &[&header, batches], chunk.value_bytes())?;
                bytes += value_room(&chunk);
            }
            txn.commit()?;
        }
        Ok(())
    }

    fn write_rest(&self, store: &Store, format: Format, frames: &Frames) -> heed::Result<()> {
        let mut txn = store.write_txn()?;
        let db = store.db;
        db.put(&mut txn, FORMAT_KEY, &format.encode())?;
        for (key, value) in &self.haul.state {
            db.put(&mut txn, key, &state_bytes(key, value))?;
        }
        for (seq, entry) in &self.haul.journal {
            // Entries of an older format get the present one.
            db.put(&mut txn, &journal_key(*seq), &anew(entry, *seq).unwrap_or_default())?;
        }
        let seq = self.haul.journal.last_key_value().map_or(0, |(seq, _)| seq + 1);
        put_frames(store, &mut txn, seq, frames)?;
        txn.commit()
    }
}

/// A journal entry in the present format.
fn anew(entry: &[u8], seq: u64) -> Option<Vec<u8>> {
    let entry = read_entry(entry)?;
    let mut out = Vec::new();
    open_entry(&mut out, entry.clock_ms, seq);
    for frame in entry.frames {
        match frame {
            Frame::Batches { partition, base, bytes } => put_batches(&mut out, partition, base, bytes),
            Frame::State { key, value } => put_state(&mut out, key, value),
            Frame::Noted { boot_id, uptime_ms, is_synchronised } => {
                put_note(&mut out, boot_id, uptime_ms, is_synchronised)
            }
        }
    }
    close_entry(&mut out);
    Some(out)
}

/// Writes state as journal entries from `seq` on.
pub(super) fn put_frames(store: &Store, txn: &mut heed::RwTxn<'_>, seq: u64, frames: &Frames) -> heed::Result<()> {
    // A few hundred frames to an entry, so that each finds its pages in one piece.
    for (seq, frames) in (seq..).zip(frames.chunks(256)) {
        let mut entry = Vec::new();
        open_entry(&mut entry, 0, seq);
        for (key, value) in frames {
            put_state(&mut entry, key, value.as_deref());
        }
        close_entry(&mut entry);
        store.db.put(txn, &journal_key(seq), &entry)?;
    }
    Ok(())
}

/// Bytes that a chunk takes in a file, with its place in a leaf.
fn value_room(chunk: &ChunkRef) -> u64 {
    pages_of(chunk.value_bytes()) * PAGE_BYTES as u64 + 2_100
}
