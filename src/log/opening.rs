//! From a directory to an open, sound store, whatever the data file looks like.
//!
//! A file is looked at before LMDB gets it; what is damaged is mended, built anew or put aside. Refused are only files that
//! another build can read, files in a directory that was never ours, and disks that do not do what is needed.

use std::path::Path;

use super::{
    Error,
    admission::{Verdict, examine},
    config::Config,
    directory::Directory,
    quarantine::{self, Cause, Quarantined},
    rebuild::rebuild,
    recovery::{Recovered, Unfit, recover},
    store::{Store, map_bytes},
};

/// Looks at a file before it is put aside as it is: once as found, once as built anew.
const TRIES: usize = 2;

/// A store that is ready, what was read from it, and what is to be listed as missing.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) recovered: Recovered,
    pub(super) found: Found,
    pub(super) quota_bytes: u64,
}

/// What damage the opening found, beside what is listed already.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) notes: Vec<Quarantined>,
    /// What to blame for holes.
    pub(super) cause: Option<Cause>,
}

/// Opens the log's directory.
pub(super) fn open(config: &Config) -> Result<Opened, Error> {
    let mut directory = Directory::open(&config.dir)?;
    let quota_bytes = super::config::quota(config, &directory);
    let time_ms = (config.clock)();
    let mut found = Found::default();
    let mut tries = 0;
    loop {
        let path = directory.data_file();
        let why = match examine(&path)? {
            Verdict::Open(bad) => {
                let store = Store::open(directory, map_bytes(quota_bytes), config.durability)?;
                match recover(&store, &bad, time_ms) {
                    Ok(recovered) => return Ok(Opened { store, recovered, found, quota_bytes }),
                    Err(Unfit::Refused(error)) => return Err(error),
                    Err(Unfit::Damaged(why)) => {
                        directory = store.into_directory();
                        why
                    }
                }
            }
            Verdict::Rebuild(why) => why,
            Verdict::Foreign => {
                directory.refuse_if_new()?;
                found.notes.push(put_aside(&directory, "the data file was none of Brooklet's", time_ms)?);
                continue;
            }
        };
        tries += 1;
        if tries > TRIES {
            // Nothing that is known leads here; the daemon starts nevertheless.
            found.notes.push(put_aside(
                &directory,
                &format!("the data file was damaged beyond repair ({why})"),
                time_ms,
            )?);
            continue;
        }
        found.cause = Some(rebuild(&directory, map_bytes(quota_bytes), &why, time_ms)?);
    }
}

/// Puts the data file into quarantine and begins a new one.
fn put_aside(directory: &Directory, reason: &str, time_ms: i64) -> Result<Quarantined, Error> {
    let file = directory.data_file();
    let aside = |dir: &Path| {
        let copy = quarantine::file_name(dir)?;
        std::fs::rename(&file, &copy)?;
        directory.prepare_data()?;
        Ok::<_, std::io::Error>(copy)
    };
    let copy = aside(directory.path())
        .map_err(|e| Error::Open(format!("{reason} and cannot be put aside: {e}; move {} away", file.display())))?;
    tracing::error!(copy = %copy.display(), "{reason}; it was put aside and the log begins anew");
    Ok(Quarantined {
        topic: String::new(),
        partition: 0,
        from: 0,
        to: -1,
        reason: format!("{reason}; the log began anew"),
        copy: Some(copy.display().to_string()),
        time_ms,
    })
}
