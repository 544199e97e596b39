//! Whether LMDB may have the data file: the look at it before it is opened.
//!
//! Reads the meta pages, all pages of the trees, all state and the journal, which is one page in about a thousand of a
//! full log; sealed chunks are checked when they are read. Changes nothing. What it finds decides: open, open and take
//! some values out, build the file anew from what is whole, put it aside, or refuse.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use super::{
    Error,
    catalogue::is_sane,
    layout::{
        CHUNKS, ChunkHeader, ChunkRef, FORMAT_KEY, FORMAT_VERSION, Format, JOURNAL, PAGE_BYTES, STATE, begins_entry,
        journal_seq, read_entry, state_value,
    },
    pages::{PAGE_HEADER_BYTES, Pages, Value, WORD_BYTES},
    walk::{Walk, metas},
};

/// What is to be done with the file.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Open it, and take these values out.
    Open(Vec<Bad>),
    /// It is one of ours, and LMDB must not have it as it is.
    Rebuild(String),
    /// Nothing of ours was found in it.
    Foreign,
}

/// A value that is not as it was written, in a file that is sound otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) key: Vec<u8>,
    pub(super) bytes: Vec<u8>,
}

/// Looks at a file.
///
/// # Errors
/// [`Error::Open`] for a file that another build can read: a newer format or another word size; and where it cannot be
/// read at all.
pub(super) fn examine(path: &Path) -> Result<Verdict, Error> {
    let unreadable =
        |e: io::Error| Error::Open(format!("cannot read {}: {e}; check its owner and the disk", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Verdict::Open(Vec::new())),
        Err(e) => return Err(unreadable(e)),
    };
    let metas = metas(&file).map_err(unreadable)?;
    let Some(meta) = metas.usable.first().copied() else {
        refuse_other_word(&file, path)?;
        let pages = Pages::new(file, PAGE_BYTES).map_err(unreadable)?;
        return Ok(match holds_ours(&pages) {
            true => Verdict::Rebuild("both meta pages are damaged".into()),
            false => Verdict::Foreign,
        });
    };
    let pages = Pages::new(file, meta.page_bytes).map_err(unreadable)?;
    let mut walk = Walk::new(&pages, &meta);
    let mut found = Found { pages: &pages, format: None, has_entries: false, bad: Vec::new(), wrong: None };
    walk.main(&meta, &mut |key, value| found.take(key, value));
    walk.free(&meta);
    let Found { format, has_entries, bad, wrong, .. } = found;
    if let Some(Some(format)) = format {
        refuse(format, path)?;
    }
    let fault = metas.faults.first().or(walk.faults.first()).map(ToString::to_string).or(wrong);
    tracing::debug!(pages = walk.read_pages, "the data file's trees were looked at");
    Ok(match (format, fault) {
        (Some(Some(_)), None) => Verdict::Open(bad),
        (None, None) if !has_entries => Verdict::Open(Vec::new()),
        (Some(Some(_)), Some(fault)) => Verdict::Rebuild(fault),
        (Some(None), _) => Verdict::Rebuild("the format record is damaged".into()),
        (None, fault) => match holds_ours(&pages) {
            true => Verdict::Rebuild(fault.unwrap_or_else(|| "the format record is missing".into())),
            false => Verdict::Foreign,
        },
    })
}

/// What the entries of the database say.
struct Found<'p> {
    pages: &'p Pages,
    format: Option<Option<Format>>,
    has_entries: bool,
    bad: Vec<Bad>,
    wrong: Option<String>,
}

impl Found<'_> {
    /// The format record sorts first, so it is known by then.
    fn is_version(&self, version: u16) -> bool {
        self.format.flatten().is_some_and(|format| format.version == version)
    }

    fn take(&mut self, key: &[u8], value: Value<'_>) {
        self.has_entries = true;
        match key.first() {
            _ if key == FORMAT_KEY => {
                self.format = Some(match value {
                    Value::Inline(value) => Format::decode(value),
                    Value::Own { .. } => None,
                });
            }
            Some(&CHUNKS) => {
                let length = match value {
                    Value::Inline(value) => value.len(),
                    Value::Own { bytes, .. } => bytes,
                };
                if ChunkRef::from_key(key)
                    .is_none_or(|(_, chunk)| !chunk.is_possible() || chunk.value_bytes() != length)
                {
                    self.wrong = Some("a chunk's key does not fit its value".into());
                }
            }
            Some(&(JOURNAL | STATE)) => {
                let own;
                let bytes = match value {
                    Value::Inline(value) => value,
                    Value::Own { page, bytes } => {
                        own = self.pages.value(page, bytes).unwrap_or_default();
                        if !super::walk::is_value_whole(self.pages, page, bytes) {
                            self.wrong = Some(format!("page {page}: the pages of a value begin with something else"));
                        }
                        &own
                    }
                };
                let is_good = match key[0] {
                    STATE if self.is_version(1) => is_sane(key, bytes),
                    STATE => state_value(key, bytes).is_some_and(|value| is_sane(key, value)),
                    _ => is_entry(key, bytes),
                };
                if !is_good {
                    self.bad.push(Bad { key: key.to_vec(), bytes: bytes.to_vec() });
                }
            }
            _ => self.wrong = Some("there is a key that is none of ours".into()),
        }
    }
}

/// Whether the bytes are the journal entry of that key.
pub(super) fn is_entry(key: &[u8], bytes: &[u8]) -> bool {
    match (journal_seq(key), read_entry(bytes)) {
        (Some(seq), Some(entry)) => entry.seq.is_none_or(|said| said == seq),
        _ => false,
    }
}

/// A file that is sound but for another build.
fn refuse(format: Format, path: &Path) -> Result<(), Error> {
    let file = path.display();
    if format.version > FORMAT_VERSION {
        return Err(Error::Open(format!(
            "{file} has format {}, and this version of brooklet reads up to {FORMAT_VERSION}; install a newer brooklet",
            format.version
        )));
    }
    if usize::from(format.word_bytes) != WORD_BYTES {
        return Err(Error::Open(format!(
            "{file} was made by a {}-bit build; run that build and mirror or export its topics, or choose another \
             directory with --data-dir",
            u32::from(format.word_bytes) * 8
        )));
    }
    Ok(())
}

/// LMDB's file differs between 32 and 64 bits; its own message for that helps nobody.
fn refuse_other_word(file: &File, path: &Path) -> Result<(), Error> {
    let mut head = [0; 24];
    let Ok(()) = file.read_exact_at(&mut head, 0) else { return Ok(()) };
    let (ours, theirs) = if WORD_BYTES == 8 { (16, 12) } else { (12, 16) };
    let found = |at: usize| head[at..at + 4] == super::directory::LMDB_MAGIC;
    if !found(ours) && found(theirs) {
        return Err(Error::Open(format!(
            "{} was made by a build for another word size (32 or 64 bits); run that build and mirror or export its \
             topics, or choose another directory with --data-dir",
            path.display()
        )));
    }
    Ok(())
}

/// Whether a chunk, a journal entry or state of ours lies anywhere in the file.
fn holds_ours(pages: &Pages) -> bool {
    let mut page = vec![0; pages.page_bytes];
    (0..pages.count).any(|number| {
        if !pages.read(number, &mut page) {
            return false;
        }
        let value = &page[PAGE_HEADER_BYTES..];
        if let Some(header) = ChunkHeader::parse(value) {
            let whole = pages.value(number, header.value_bytes());
            return whole.is_some_and(|value| header.batches(&value).is_some());
        }
        if begins_entry(value) {
            return true;
        }
        super::salvage::leaf(&page, number).is_some_and(|nodes| {
            nodes.iter().any(|(key, value)| match value {
                Value::Inline(value) if *key == FORMAT_KEY => Format::decode(value).is_some(),
                Value::Inline(value) => match key.first() {
                    Some(&STATE) => state_value(key, value).is_some(),
                    Some(&JOURNAL) => is_entry(key, value),
                    _ => false,
                },
                Value::Own { .. } => false,
            })
        })
    })
}
