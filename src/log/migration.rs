//! From an older format to the present one, when the file is opened.
//!
//! In one transaction, so that a power cut leaves either. Only what lies between the chunks is written again: state, the
//! journal and the format record; chunks of version 1 are read as they are. A newer format is refused elsewhere.

use super::{
    Error,
    layout::{
        FORMAT_KEY, FORMAT_VERSION, Format, Frame, JOURNAL, STATE, close_entry, journal_seq, open_entry, put_batches,
        put_note, put_state, read_entry, state_bytes,
    },
    store::Store,
};

/// Brings the file to the present format if it has an older one. A journal entry that fails its checksum stays as it is.
pub(super) fn migrate(store: &Store, format: Format) -> Result<(), Error> {
    if format.version >= FORMAT_VERSION {
        return Ok(());
    }
    let file = store.data_file().display().to_string();
    tracing::info!(from = format.version, to = FORMAT_VERSION, "the data file is brought to the present format");
    from_1(store, format).map_err(|e| {
        Error::Open(format!(
            "cannot bring {file} to format {FORMAT_VERSION}: {e}; it is as it was; make room on the disk"
        ))
    })
}

fn from_1(store: &Store, format: Format) -> heed::Result<()> {
    let mut txn = store.write_txn()?;
    let db = store.db;
    let mut fresh: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for item in db.prefix_iter(&txn, &[STATE])? {
        let (key, value) = item?;
        fresh.push((key.to_vec(), state_bytes(key, value)));
    }
    for item in db.prefix_iter(&txn, &[JOURNAL])? {
        let (key, value) = item?;
        let (Some(seq), Some(entry)) = (journal_seq(key), read_entry(value)) else { continue };
        let mut out = Vec::with_capacity(value.len() + 8);
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
        fresh.push((key.to_vec(), out));
    }
    for (key, value) in &fresh {
        db.put(&mut txn, key, value)?;
    }
    db.put(&mut txn, FORMAT_KEY, &Format { version: FORMAT_VERSION, ..format }.encode())?;
    txn.commit()
}
