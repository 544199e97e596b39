//! Takes single damaged values out of a data file that is sound otherwise.
//!
//! A journal entry or a piece of state whose checksum is wrong is kept in the quarantine and deleted; what went with it is
//! made good in the same transaction (see `mend`). The log's incarnation changes, because what was acknowledged is missing.

use heed::Result;

use super::{
    admission::Bad,
    catalogue::random_id,
    layout::{CHUNKS, ChunkRef, FORMAT_KEY, Format, Frame, JOURNAL, STATE, journal_seq, read_entry, state_value},
    mend::{Known, Loss},
    quarantine::keep_value,
    rebuild::put_frames,
    store::Store,
};

/// Why the log is in doubt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Doubt<'a> {
    /// These values are damaged.
    Damaged(&'a [Bad]),
    /// The file is an older copy.
    Restored,
}

/// Deletes damaged values and notes what is missing.
pub(super) fn repair(store: &Store, format: Format, doubt: Doubt<'_>, time_ms: i64) -> Result<()> {
    let bad = match doubt {
        Doubt::Damaged(bad) => bad,
        Doubt::Restored => &[],
    };
    let mut known = Known::default();
    let (mut is_journal, mut next_seq) = (false, 0);
    let txn = store.read_txn().map_err(|e| heed::Error::Io(std::io::Error::other(e)))?;
    for item in store.db.prefix_iter(&txn, &[STATE])? {
        let (key, bytes) = item?;
        if let Some(value) = state_value(key, bytes) {
            known.state.insert(key.to_vec(), value.to_vec());
        }
    }
    for item in store.db.prefix_iter(&txn, &[CHUNKS])? {
        let Some((id, chunk)) = ChunkRef::from_key(item?.0) else { continue };
        known.serves(id, chunk.base, chunk.last() + 1);
        known.sure.insert(id);
        known.fronts.insert(id);
    }
    for item in store.db.prefix_iter(&txn, &[JOURNAL])? {
        let (key, value) = item?;
        next_seq = journal_seq(key).map_or(next_seq, |seq| seq + 1);
        if bad.iter().any(|bad| bad.key == key) {
            // What a lost entry held of a partition is the newest, until a later one tells more.
            known.sure.clear();
            is_journal = true;
            continue;
        }
        let Some(entry) = read_entry(value) else { continue };
        known.add_entry(&entry);
        for frame in &entry.frames {
            let Frame::Batches { partition, .. } = frame else { continue };
            known.sure.insert(*partition);
            if !is_journal {
                known.fronts.insert(*partition);
            }
        }
    }
    drop(txn);
    let is_restored = matches!(doubt, Doubt::Restored);
    if is_restored {
        known.sure.clear();
    }
    let what = if is_journal { "a journal entry" } else { "a state entry" };
    let reason = match doubt {
        Doubt::Damaged(_) => format!("{what} of the data file was damaged"),
        Doubt::Restored => "the log was restored from a backup".to_owned(),
    };
    let copies: Vec<_> = bad.iter().map(|bad| keep_value(store.data_dir(), &bad.bytes)).collect();
    for bad in bad {
        tracing::error!(key = %bad.key.escape_ascii(), bytes = bad.bytes.len(), "damaged; it is taken out of the data file");
    }
    let frames = known.mend(&Loss {
        reason: &reason,
        copy: copies.iter().flatten().next().map(|path| &**path),
        bytes: bad.iter().map(|bad| bad.bytes.len() as u64).sum(),
        has_lost_names: !is_restored,
        has_lost_numbers: true,
        time_ms,
    });
    let mut txn = store.write_txn()?;
    for bad in bad {
        store.db.delete(&mut txn, &bad.key)?;
    }
    store.db.put(&mut txn, FORMAT_KEY, &Format { incarnation: random_id(), ..format }.encode())?;
    put_frames(store, &mut txn, next_seq, &frames)?;
    txn.commit()
}
