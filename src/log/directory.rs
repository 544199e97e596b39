//! The data directory before LMDB sees it: is it ours alone, can it be written, is the file system one that keeps
//! promises, are the pages 4 KiB.
//!
//! Every refusal is one line that says the mend. Never looks into a data file that already has content.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Seek, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock, fstatfs, fstatvfs},
    io::Errno,
};

use super::{Error, layout::PAGE_BYTES};

/// File of the lock; it holds the process id of the owner and is never removed.
pub(super) const LOCK_FILE: &str = "brooklet.lock";
/// LMDB's own name for its file.
pub(super) const DATA_FILE: &str = "data.mdb";
pub(super) const LMDB_MAGIC: [u8; 4] = 0xBEEF_C0DE_u32.to_le_bytes();

/// A directory that is locked, writable and on a local file system. Unlocks when dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
    /// It was ours before.
    is_known: bool,
}

impl Directory {
    /// Makes the directory if it is missing, locks it and makes the data file with 4 KiB pages.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let shown = path.display();
        let refuse = |error: &std::io::Error| {
            Error::Open(match error.kind() {
                ErrorKind::ReadOnlyFilesystem => format!(
                    "data directory {shown} is on a read-only file system; remount it writable or choose another with \
                     --data-dir"
                ),
                ErrorKind::PermissionDenied => format!(
                    "data directory {shown} cannot be written by this user; change its owner or choose another with \
                     --data-dir"
                ),
                ErrorKind::StorageFull => {
                    format!("no space left for data directory {shown}; free some or choose another with --data-dir")
                }
                _ => format!("data directory {shown}: {error}; choose another with --data-dir"),
            })
        };
        fs::create_dir_all(path).map_err(|e| refuse(&e))?;
        let is_known = path.join(LOCK_FILE).exists();
        let mut options = OpenOptions::new();
        let mut lock = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK_FILE))
            .map_err(|e| refuse(&e))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut owner = String::new();
                let owner = match lock.read_to_string(&mut owner) {
                    Ok(_) if !owner.trim().is_empty() => format!(" (pid {})", owner.trim()),
                    _ => String::new(),
                };
                return Err(Error::Open(format!(
                    "data directory {shown} is in use by another process{owner}; stop it or choose another with \
                     --data-dir"
                )));
            }
            Err(errno) => return Err(refuse(&errno.into())),
        }
        let kind = fstatfs(&lock).map_err(|e| refuse(&e.into()))?.f_type;
        #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "magic numbers are 32 bits")]
        if let Some(name) = unsupported(kind as u32) {
            return Err(Error::Open(format!(
                "data directory {shown} is on {name}, which cannot keep the log's promises; choose one on a local \
                 disk with --data-dir"
            )));
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| write!(lock, "{}", std::process::id()))
            .map_err(|e| refuse(&e))?;
        let directory = Self { path: path.to_owned(), lock, is_known };
        directory.prepare_data().map_err(|e| refuse(&e))?;
        Ok(directory)
    }

    /// A data file that is none of ours may be put aside where we have been at home before; elsewhere it is somebody's.
    pub(super) fn refuse_if_new(&self) -> Result<(), Error> {
        if self.is_known {
            return Ok(());
        }
        // Or the next start would believe that it is at home.
        let _removed = fs::remove_file(self.path.join(LOCK_FILE));
        Err(Error::Open(format!(
            "{} is no data file of Brooklet; move it away or choose another directory with --data-dir",
            self.data_file().display()
        )))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data_file(&self) -> PathBuf {
        self.path.join(DATA_FILE)
    }

    /// Bytes that an ordinary user may still write to the file system.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let stat = fstatvfs(&self.lock).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// A new data file is made whole under another name, so that a power cut leaves either none or a good one.
    pub(super) fn prepare_data(&self) -> std::io::Result<()> {
        let path = self.data_file();
        let rebuilt = self.path.join(super::rebuild::DIRECTORY).join(DATA_FILE);
        if !path.exists() && rebuilt.exists() {
            // The cut came between putting a damaged file aside and giving the new one its name.
            fs::rename(&rebuilt, &path)?;
        }
        if fs::metadata(&path).is_ok_and(|m| m.len() > 0 || self.is_known) || cfg!(not(target_pointer_width = "64")) {
            return Ok(());
        }
        let fresh = self.path.join("data.mdb.new");
        let file = File::create(&fresh)?;
        file.write_all_at(&empty_data(), 0)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(&self.path)?.sync_all()
    }
}

/// The name of a file system that is refused, by its magic number: it forgets flushes, locks or mappings.
pub fn unsupported(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => "SMB/CIFS",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x794C_7630 => "an overlay (a container's own file system; mount a volume)",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0x00C3_6400 => "Ceph",
        0x7461_636F => "OCFS2",
        0x0BD0_0BD0 => "Lustre",
        0x6165_676C => "pstore",
        0x6163_6673 => "ACFS",
        0x786F_4256 => "a VirtualBox shared folder",
        _ => return None,
    })
}

/// An LMDB file with nothing in it and pages of 4 KiB. A kernel with larger pages would make a file with larger ones,
/// which doubles or triples what a commit writes; an existing file keeps its own.
fn empty_data() -> Vec<u8> {
    const NO_PAGE: [u8; 8] = [0xFF; 8];
    let mut out = vec![0; 2 * PAGE_BYTES];
    for (number, page) in out.chunks_exact_mut(PAGE_BYTES).enumerate() {
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(number as u64).to_le_bytes());
        put(10, &8u16.to_le_bytes()); // the page is a meta page
        put(16, &LMDB_MAGIC);
        put(20, &1u32.to_le_bytes()); // the version of LMDB's format
        put(32, &(1u64 << 20).to_le_bytes()); // a map size, replaced at opening
        put(40, &4096u32.to_le_bytes()); // the page size
        put(44, &8u16.to_le_bytes()); // the list of free pages has integer keys
        put(80, &NO_PAGE); // its root
        put(128, &NO_PAGE); // the root of the database
        put(136, &1u64.to_le_bytes()); // the last page in use
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(result: Result<Directory, Error>) -> String {
        match result {
            Err(Error::Open(line)) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_second_owner_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = Directory::open(dir.path()).unwrap();
        let line = sentence(Directory::open(dir.path()));
        assert!(line.contains(&format!("in use by another process (pid {})", std::process::id())), "{line}");
        drop(first);
        Directory::open(dir.path()).unwrap();
    }

    #[test]
    fn network_and_layered_file_systems_are_refused() {
        for magic in [0x6969, 0xFF53_4D42, 0x0102_1997, 0x6573_5546, 0x794C_7630] {
            assert!(unsupported(magic).is_some(), "{magic:x}");
        }
        // ext4, xfs, btrfs, f2fs, tmpfs
        for magic in [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x0102_1994] {
            assert!(unsupported(magic).is_none(), "{magic:x}");
        }
    }

    #[test]
    fn the_data_file_is_made_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(DATA_FILE), b"").unwrap(); // as a cut during an older start might leave it
        drop(Directory::open(dir.path()).unwrap());
        let made = fs::read(dir.path().join(DATA_FILE)).unwrap();
        assert_eq!(made, empty_data());
    }
}
