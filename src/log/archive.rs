//! A log's data file beside the daemon: verify it, read it, bring it back from a backup.
//!
//! Verifying and reading never open the file with LMDB and never change it, so they work on a damaged one, a quarantined
//! one, a backup, and on a read-only disk. They refuse the file of a running daemon, which changes while it is read.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::Serialize;

use super::{
    Aborted, Durability, Error,
    admission::is_entry,
    catalogue::OWN,
    directory::{DATA_FILE, Directory, LOCK_FILE},
    header::headers,
    layout::{
        CHUNK_HEADER_BYTES, CHUNKS, ChunkRef, FORMAT_KEY, FORMAT_VERSION, Format, Frame, JOURNAL, STATE, read_entry,
        state_key, state_value,
    },
    mend::{Known, names},
    migration::migrate,
    pages::{Pages, Value},
    quarantine::{self, Quarantined},
    recovery::Hole,
    repair::{Doubt, repair},
    salvage::{Place, gather},
    store::{Store, map_bytes},
    walk::{Walk, is_value_whole, metas},
};
use crate::record::{Offset, Partition, batch};

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Version of its format; 0 where that is not known.
    pub format: u16,
    /// Topics.
    pub topics: usize,
    /// Sealed chunks.
    pub chunks: u64,
    /// Entries of the journal.
    pub journal_entries: u64,
    /// Entries of state.
    pub state_entries: u64,
    /// Record batches in chunks and journal; some may be in both.
    pub batches: u64,
    /// What is listed as missing already, from damage before.
    pub quarantined: Vec<Quarantined>,
    /// What is wrong, one line each; none if the file is sound.
    pub problems: Vec<String>,
}

/// Where a value lies, with its length.
struct Entry {
    key: Vec<u8>,
    place: Place,
    bytes: usize,
}

/// Reads every byte that the file's trees lead to and checks all there is to check: structure, checksums, offsets.
/// `progress` hears how many bytes of how many were read.
///
/// # Errors
/// [`Error::Open`] if the file cannot be read, or belongs to a daemon that runs.
pub fn verify(source: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, Error> {
    let (_lock, path) = locate(source)?;
    let unreadable = |e: std::io::Error| Error::Open(format!("cannot read {}: {e}", path.display()));
    let file = File::open(&path).map_err(unreadable)?;
    let metas = metas(&file).map_err(unreadable)?;
    let mut report = Report { file: path.clone(), ..Report::default() };
    report.problems.extend(metas.faults.iter().map(ToString::to_string));
    let Some(meta) = metas.usable.first() else { return Ok(report) };
    let pages = Pages::new(file, meta.page_bytes).map_err(unreadable)?;
    report.bytes = pages.file_bytes;
    let mut walk = Walk::new(&pages, meta);
    let mut entries = Vec::new();
    walk.main(meta, &mut |key, value| {
        let (place, bytes) = match value {
            Value::Inline(value) => (Place::Inline(value.to_vec()), value.len()),
            Value::Own { page, bytes } => (Place::Page(page), bytes),
        };
        entries.push(Entry { key: key.to_vec(), place, bytes });
    });
    walk.free(meta);
    report.problems.extend(walk.faults.iter().map(ToString::to_string));

    let mut check = Check {
        pages: &pages,
        report,
        known: Known::default(),
        chunks: BTreeMap::new(),
        damaged: Vec::new(),
        tails: Vec::new(),
    };
    let total: u64 = entries.iter().map(|entry| entry.bytes as u64).sum();
    let mut done = 0;
    for entry in &entries {
        check.entry(entry);
        done += entry.bytes as u64;
        progress(done, total);
    }
    check.offsets();
    Ok(check.report)
}

struct Check<'p> {
    pages: &'p Pages,
    report: Report,
    known: Known,
    chunks: BTreeMap<u32, Vec<ChunkRef>>,
    /// Chunks that are not as they were written; the daemon may know and have left one where it is.
    damaged: Vec<(u32, ChunkRef, String)>,
    /// First and last offset of the journal's batches, in order.
    tails: Vec<(u32, Offset, Offset)>,
}

impl Check<'_> {
    fn problem(&mut self, what: String) {
        self.report.problems.push(what);
    }

    fn entry(&mut self, entry: &Entry) {
        let key = &entry.key[..];
        let name = || key.escape_ascii().to_string();
        let own;
        let value = match &entry.place {
            Place::Inline(value) => &value[..],
            Place::Page(page) => {
                if !is_value_whole(self.pages, *page, entry.bytes) {
                    let what = format!("page {page}: the pages of a value begin with something else");
                    match ChunkRef::from_key(key) {
                        Some((id, chunk)) => self.damaged.push((id, chunk, what)),
                        None => self.problem(what),
                    }
                }
                own = self.pages.value(*page, entry.bytes).unwrap_or_default();
                &own
            }
        };
        match key.first() {
            _ if key == FORMAT_KEY => match Format::decode(value) {
                Some(format) => self.report.format = format.version,
                None => self.problem("the format record is damaged".into()),
            },
            Some(&STATE) => {
                self.report.state_entries += 1;
                let value = if self.report.format == 1 { Some(value) } else { state_value(key, value) };
                match value {
                    Some(value) => {
                        self.known.state.insert(key.to_vec(), value.to_vec());
                    }
                    None => self.problem(format!("the state entry {} fails its checksum", name())),
                }
            }
            Some(&JOURNAL) => {
                self.report.journal_entries += 1;
                match read_entry(value).filter(|_| is_entry(key, value)) {
                    Some(entry) => {
                        self.known.add_entry(&entry);
                        for frame in &entry.frames {
                            let Frame::Batches { partition, bytes, .. } = frame else { continue };
                            if let Some((base, last)) = self.batches(bytes, || format!("journal entry {}", name())) {
                                self.tails.push((*partition, base, last));
                            }
                        }
                    }
                    None => self.problem(format!("the journal entry {} fails its checksum", name())),
                }
            }
            Some(&CHUNKS) => {
                self.report.chunks += 1;
                let Some((id, chunk)) = ChunkRef::from_key(key).filter(|(_, chunk)| chunk.is_possible()) else {
                    return self.problem(format!("the chunk's key {} cannot be", name()));
                };
                let place =
                    || format!("the chunk of partition number {id}, offsets {} to {}", chunk.base, chunk.last());
                self.chunks.entry(id).or_default().push(chunk);
                if !chunk.check_value(id, value) {
                    let what = format!("{} fails its checksum", place());
                    return self.damaged.push((id, chunk, what));
                }
                let batches = &value[CHUNK_HEADER_BYTES..CHUNK_HEADER_BYTES + chunk.length as usize];
                if self.batches(batches, place).is_some_and(|found| found != (chunk.base, chunk.last())) {
                    self.problem(format!("{} holds others", place()));
                }
            }
            _ => self.problem(format!("the key {} is none of ours", name())),
        }
    }

    /// Checks batches that follow each other; gives their first and last offset.
    fn batches(&mut self, bytes: &[u8], place: impl Fn() -> String) -> Option<(Offset, Offset)> {
        let (mut taken, mut span) = (0, None);
        for (at, header) in headers(bytes) {
            self.report.batches += 1;
            taken += header.bytes;
            let batch = &bytes[at..at + header.bytes];
            if let Err(error) = batch::check(batch) {
                self.problem(format!("{}: the batch at offset {}: {error}", place(), header.base));
            }
            if span.is_some_and(|(_, last)| header.base <= last) {
                self.problem(format!("{}: offset {} comes twice", place(), header.base));
            }
            span = Some((span.map_or(header.base, |(first, _)| first), header.last()));
        }
        if taken != bytes.len() {
            self.problem(format!("{}: there is something else than batches", place()));
        }
        span
    }

    /// Looks for offsets that are missing or come twice.
    fn offsets(&mut self) {
        let names = names(&self.known.state);
        let topics: std::collections::BTreeSet<&String> = names.values().map(|(topic, _)| topic).collect();
        self.report.topics = topics.len();
        self.report.quarantined = quarantine::listed(&self.known.state);
        let mut problems = Vec::new();
        for (id, chunk, what) in std::mem::take(&mut self.damaged) {
            let is_known = names.get(&id).is_some_and(|(topic, index)| {
                let partition = Partition::new(topic.as_str(), *index);
                let hole = Hole { partition, from: chunk.base, to: chunk.last() };
                self.report.quarantined.iter().any(|known| known.covers(&hole))
            });
            if !is_known {
                problems.push(what);
            }
        }
        for (id, (topic, index)) in &names {
            let partition = Partition::new(topic.as_str(), *index);
            let mut next: Option<Offset> = None;
            let chunks = self.chunks.get(id).into_iter().flatten().map(|chunk| (chunk.base, chunk.last(), true));
            let tails = self.tails.iter().filter(|(tail, ..)| tail == id).map(|(_, base, last)| (*base, *last, false));
            for (base, last, is_chunk) in chunks.chain(tails) {
                // The journal may still hold what is in chunks already.
                if !is_chunk && next.is_some_and(|next| last < next) {
                    continue;
                }
                match next {
                    Some(due) if base < due && is_chunk => {
                        problems.push(format!("{partition}: offset {base} comes twice"))
                    }
                    Some(due) if base > due => {
                        let hole = Hole { partition: partition.clone(), from: due, to: base - 1 };
                        if !self.report.quarantined.iter().any(|known| known.covers(&hole)) {
                            problems.push(format!("{partition}: offsets {due} to {} are missing", base - 1));
                        }
                    }
                    _ => {}
                }
                next = Some(last + 1);
            }
        }
        self.report.problems.append(&mut problems);
    }
}

/// Takes one batch of a partition.
pub type Take<'a> = dyn FnMut(&Partition, &[u8]) -> Result<(), Error> + 'a;

/// Hands out every batch of every partition that is whole, in order, whatever the file looks like; what was aborted and
/// markers of transactions are left out. Says how many places of the file were damaged.
///
/// # Errors
/// [`Error::Open`] if the file cannot be read or holds nothing of ours, and what `take` answers.
pub fn export(source: &Path, is_wanted: &dyn Fn(&str) -> bool, take: &mut Take<'_>) -> Result<usize, Error> {
    let (_lock, path) = locate(source)?;
    let unreadable = |e: std::io::Error| Error::Open(format!("cannot read {}: {e}", path.display()));
    let (pages, mut haul) = gather(File::open(&path).map_err(unreadable)?).map_err(unreadable)?;
    haul.take_strays();
    haul.seal_what_chunks_follow();
    let mut known = Known { state: std::mem::take(&mut haul.state), ..Known::default() };
    let entries: Vec<_> = haul.journal.values().filter_map(|entry| read_entry(entry)).collect();
    for entry in &entries {
        known.add_entry(entry);
    }
    let mut names = names(&known.state);
    for id in haul.chunks.keys().map(|(id, _)| *id).chain(known.ends.keys().copied()) {
        // Of a deleted topic, or its name is lost.
        if haul.has_lost(STATE) || haul.has_lost(JOURNAL) {
            names.entry(id).or_insert_with(|| (format!("lost.{id}"), 0));
        }
    }
    if names.is_empty() && haul.incarnation.is_none() {
        return Err(Error::Open(format!("{} holds nothing of Brooklet's", path.display())));
    }
    let mut wanted: Vec<(Partition, u32)> =
        names.iter().map(|(id, (topic, index))| (Partition::new(topic.as_str(), *index), *id)).collect();
    wanted.retain(|(partition, _)| is_wanted(&partition.topic));
    wanted.sort();
    for (partition, id) in wanted {
        let aborted = aborted(&known.state, id);
        let mut next = Offset::MIN;
        let mut hand = |bytes: &[u8]| -> Result<(), Error> {
            for (at, header) in headers(bytes) {
                let batch = &bytes[at..at + header.bytes];
                let Ok(full) = batch::Header::parse(batch) else { continue };
                let is_hidden = full.is_control() || aborted.iter().any(|aborted| aborted.covers(&full));
                if header.base >= next && !is_hidden {
                    take(&partition, batch)?;
                }
                next = next.max(header.last().saturating_add(1));
            }
            Ok(())
        };
        for found in haul.chunks.range((id, Offset::MIN)..=(id, Offset::MAX)).map(|(_, found)| found) {
            let value = match &found.place {
                Place::Inline(value) => Some(value.clone()),
                Place::Page(page) => pages.value(*page, found.chunk.value_bytes()),
            };
            let batches = value.as_deref().and_then(|value| value.get(CHUNK_HEADER_BYTES..));
            if let Some(batches) = batches.and_then(|batches| batches.get(..found.chunk.length as usize)) {
                hand(batches)?;
            }
        }
        for entry in &entries {
            for frame in &entry.frames {
                match frame {
                    Frame::Batches { partition, bytes, .. } if *partition == id => hand(bytes)?,
                    _ => {}
                }
            }
        }
    }
    Ok(haul.lost.len() + haul.broken.len())
}

/// The aborted transactions of a partition.
fn aborted(state: &BTreeMap<Vec<u8>, Vec<u8>>, id: u32) -> Vec<Aborted> {
    let prefix = state_key(OWN, &[super::aborted::KEY_TAG]);
    let own = state_key(OWN, &[]).len();
    let entries = state.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    let all = entries.filter_map(|(key, value)| Aborted::decode(&key[own..], value));
    all.filter(|(partition, _)| *partition == id).map(|(_, aborted)| aborted).collect()
}

/// Brings a backup back as the log of a directory that has none. Its offsets go on far behind the backup's, and it has
/// a new incarnation, because what came after the backup was seen by others.
///
/// # Errors
/// [`Error::Open`] if the directory has a log, the backup is damaged, or the disk does not do it.
pub fn restore(source: &Path, dir: &Path, time_ms: i64, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, Error> {
    let target = dir.join(DATA_FILE);
    if target.exists() {
        return Err(Error::Open(format!(
            "{} is there already and is not overwritten; move it away or choose another directory with --data-dir",
            target.display()
        )));
    }
    let report = verify(source, progress)?;
    if let Some(problem) = report.problems.first() {
        return Err(Error::Open(format!(
            "{} is damaged ({problem}); `brooklet log export` reads what is whole of it",
            report.file.display()
        )));
    }
    if report.format > FORMAT_VERSION || report.format == 0 {
        return Err(Error::Open(format!(
            "{} has format {}, and this version of brooklet reads 1 to {FORMAT_VERSION}",
            report.file.display(),
            report.format
        )));
    }
    let copy = || {
        fs::create_dir_all(dir)?;
        let part = dir.join("data.mdb.new");
        fs::copy(&report.file, &part)?;
        File::open(&part)?.sync_all()?;
        fs::rename(&part, &target)?;
        File::open(dir)?.sync_all()
    };
    let failed = |e: &dyn std::fmt::Display| Error::Open(format!("cannot restore to {}: {e}", dir.display()));
    copy().map_err(|e| failed(&e))?;
    let store = Store::open(Directory::open(dir)?, map_bytes(report.bytes), Durability::Strict)?;
    let format = {
        let txn = store.read_txn()?;
        let bytes = store.db.get(&txn, FORMAT_KEY).map_err(|e| failed(&e))?;
        bytes.and_then(Format::decode).ok_or_else(|| failed(&"the format record is missing"))?
    };
    migrate(&store, format)?;
    repair(&store, Format { version: FORMAT_VERSION, ..format }, Doubt::Restored, time_ms).map_err(|e| failed(&e))?;
    Ok(report)
}

/// The data file that a path names, and the lock of its directory if it has one.
fn locate(source: &Path) -> Result<(Option<File>, PathBuf), Error> {
    if !source.is_dir() {
        return Ok((None, source.to_owned()));
    }
    let lock = File::open(source.join(LOCK_FILE)).ok();
    if let Some(lock) = &lock
        && flock(lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    {
        return Err(Error::Open(format!(
            "{} is in use by a daemon that runs; stop it, or look at a backup (brooklet log backup)",
            source.display()
        )));
    }
    Ok((lock, source.join(DATA_FILE)))
}
