//! What damage took out of the log: the copies that are kept, and the list of what is missing.
//!
//! Nothing damaged is ever deleted: a whole file goes to `DATA_DIR/quarantine/data-N.mdb`, single values to
//! `quarantine/value-N.bin`. The list lies in the log's state, so that status tells it until the list is full, and each
//! entry goes into the topic of events once.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{layout::state_key, recovery::Hole};
use crate::record::Offset;

/// Owner of the list in the state.
pub(super) const OWNER: &str = "quarantine";
/// Entries kept; the oldest go first.
pub(super) const MOST_ENTRIES: usize = 1_000;
/// Directory of the copies, below the data directory.
const DIRECTORY: &str = "quarantine";
/// Most bytes of single values kept beside each other: a card that dies must not be filled with what it damages.
const MOST_VALUE_BYTES: u64 = 64 << 20;

/// Why something is missing, where the whole file was to blame.
#[derive(Clone, Debug, Default)]
pub(super) struct Cause {
    pub(super) reason: String,
    pub(super) copy: Option<String>,
}

/// Records that are not in the log any more because the data file was damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The topic; `lost.N` where its name is lost too. Empty where no records are missing.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// First offset that is missing.
    pub from: Offset,
    /// Last offset that is missing, or may be.
    pub to: Offset,
    /// What was found.
    pub reason: String,
    /// Where the damaged bytes are kept; `None` where they could not be read.
    pub copy: Option<String>,
    /// When it was found, in milliseconds since 1970, by a clock that may not have been set.
    pub time_ms: i64,
}

impl Quarantined {
    /// Whether all that is missing there is listed here.
    pub(super) fn covers(&self, hole: &Hole) -> bool {
        (&*self.topic, self.partition) == (&*hole.partition.topic, hole.partition.index)
            && (self.from..=self.to).contains(&hole.from)
            && self.to >= hole.to
    }

    /// One line for the log and the topic of events.
    pub fn text(&self) -> String {
        let copy = self.copy.as_ref().map(|copy| format!("; the damaged bytes are in {copy}")).unwrap_or_default();
        if self.topic.is_empty() {
            return format!("{}{copy}", self.reason);
        }
        format!(
            "{}-{}: offsets {} to {} are missing: {}{copy}",
            self.topic, self.partition, self.from, self.to, self.reason
        )
    }
}

/// An entry of the list as it lies in the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    pub(super) what: Quarantined,
    /// The topic of events has it.
    pub(super) is_told: bool,
}

impl Entry {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialise")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// The name that a damaged data file will have.
pub(super) fn file_name(data_dir: &Path) -> io::Result<PathBuf> {
    Ok(free_name(&directory(data_dir)?, "data", "mdb"))
}

/// The list in a state that was read without LMDB.
pub(super) fn listed(state: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<Quarantined> {
    let prefix = state_key(OWNER, &[]);
    let entries = state.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    entries.filter_map(|(_, value)| Some(Entry::decode(value)?.what)).collect()
}

/// Puts the damaged data file aside under that name; as a second name where the file system has such, so that there is a
/// data file at every moment.
pub(super) fn keep_file(data_file: &Path, copy: &Path) -> io::Result<()> {
    if fs::hard_link(data_file, copy).is_err() {
        fs::rename(data_file, copy)?;
    }
    match copy.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Keeps the bytes of one damaged value; `None` where there is no room for it or too much has been kept already.
pub(super) fn keep_value(data_dir: &Path, bytes: &[u8]) -> Option<PathBuf> {
    let keep = || {
        let directory = directory(data_dir)?;
        let mut kept = bytes.len() as u64;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("value-") {
                kept += entry.metadata()?.len();
            }
        }
        if kept > MOST_VALUE_BYTES {
            return Ok(None);
        }
        let copy = free_name(&directory, "value", "bin");
        let mut file = File::create_new(&copy)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok::<_, io::Error>(Some(copy))
    };
    keep().unwrap_or_else(|error| {
        tracing::error!("cannot keep a copy of the damaged bytes: {error}");
        None
    })
}

fn directory(data_dir: &Path) -> io::Result<PathBuf> {
    let directory = data_dir.join(DIRECTORY);
    fs::create_dir_all(&directory)?;
    File::open(data_dir)?.sync_all()?;
    Ok(directory)
}

fn free_name(directory: &Path, stem: &str, extension: &str) -> PathBuf {
    (1u64..)
        .map(|n| directory.join(format!("{stem}-{n}.{extension}")))
        .find(|p| !p.exists())
        .expect("numbers do not end")
}
