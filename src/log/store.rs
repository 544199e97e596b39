//! The LMDB environment: the only code that opens it, and the only unsafe code of the log.
//!
//! Readers copy values out with `pread` inside a short transaction, so that reading the log never makes its pages
//! resident here. Never syncs less than LMDB's default asks for, but for the meta page of a pipelined log, which the next
//! flush takes along; never maps the file writable.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use heed::{
    CommitOrAbort, CompactionOption, Database, Env, EnvFlags, EnvOpenOptions, PutFlags, RoTxn, RwTxn, WithoutTls, types,
};

use rustix::io::Errno;

use super::{
    Durability, Error,
    buffers::Buffer,
    directory::Directory,
    layout::{CHUNK_HEADER_BYTES, ChunkRef, PAGE_BYTES, pages},
    pages::{PAGE_HEADER_BYTES, begins_value},
};

/// Bytes of the map beside the quota and its quarter: what commits and deletions need for themselves.
const RESERVE_BYTES: u64 = 32 << 20;
/// The file grows by this where it must at once, less near a small quota.
const GROWTH_BYTES: u64 = 1 << 20;
/// Most that one commit lets the file grow ahead of need.
const PIECE_BYTES: usize = 1 << 20;
/// Least and most room ahead of the last page in use.
const AHEAD_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=16 << 20;
/// Places touched before the map's resident pages are given back. The kernel maps the 64 KiB around each: this is 1.5 MiB.
const MOST_TOUCHED: usize = 24;
/// How often the map's pages are given back while a backup is copied.
const RELEASE_EVERY: std::time::Duration = std::time::Duration::from_millis(20);
/// Map sizes are multiples of the largest page size of a kernel we meet.
const MAP_STEP_BYTES: u64 = 64 << 10;

/// The one database.
pub(super) type Db = Database<'static, types::Bytes, types::Bytes>;

/// The open environment with its lock.
pub(super) struct Store {
    pub(super) db: Db,
    env: Env<WithoutTls>,
    file: File,
    /// Size of the file's pages.
    page_bytes: u64,
    /// Where the map begins in our address space and how long it is; `None` where /proc does not say.
    map: Option<(usize, usize)>,
    /// Places touched since pages were given back.
    touched: AtomicUsize,
    /// Page faults of the writer's thread when pages were given back for what it touched.
    faults_seen: AtomicU64,
    directory: Directory,
    /// What fails as on a broken disk.
    #[cfg(test)]
    pub(super) faults: tests::Faults,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Greatest quota on this word size: a 32-bit address space has no room for more.
pub(super) const fn quota_cap() -> u64 {
    if cfg!(target_pointer_width = "64") { 1 << 42 } else { 512 << 20 }
}

/// Size of the map for a quota.
pub(super) fn map_bytes(quota_bytes: u64) -> u64 {
    let quota = quota_bytes.min(quota_cap());
    (quota + quota / 4 + RESERVE_BYTES).next_multiple_of(MAP_STEP_BYTES)
}

impl Store {
    pub(super) fn open(directory: Directory, map_bytes: u64, durability: Durability) -> Result<Self, Error> {
        let data = directory.data_file();
        let failed = |error: heed::Error| {
            Error::Open(match error {
                heed::Error::Io(e) if e.kind() == std::io::ErrorKind::OutOfMemory => format!(
                    "cannot map {map_bytes} bytes of {}: the address space is too small; set a smaller log.quota",
                    data.display()
                ),
                e => format!("cannot open {}: {e}; restore a backup or move the file away", data.display()),
            })
        };
        let size = usize::try_from(map_bytes).map_err(|_| {
            Error::Open(format!("log.quota needs a map of {map_bytes} bytes, too much for this machine"))
        })?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(size).max_readers(512);
        if durability == Durability::Pipelined {
            // SAFETY: without its own flush of the meta page a commit becomes durable with the next flush of the file, and
            // the tree of the commit before stays whole until then: LMDB reuses no page of it earlier.
            #[expect(unsafe_code, reason = "heed counts every flag as unsafe")]
            unsafe {
                options.flags(EnvFlags::NO_META_SYNC);
            }
        }
        // SAFETY: the directory's lock keeps every other process of ours away from the file, network file systems are
        // refused, no flag that weakens LMDB's own rules is set, and nothing here writes to the file but LMDB.
        #[expect(unsafe_code, reason = "opening a memory map is unsafe by nature")]
        let env = unsafe { options.open(directory.path()) }.map_err(failed)?;
        let txn = env.read_txn().map_err(failed)?;
        let db = env
            .open_databases_and_commit(txn, |opener, txn| {
                let db = opener.open_database::<types::Bytes, types::Bytes>(txn, None)?;
                Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(db))
            })
            .map_err(failed)?
            .unwrap_commit()
            .expect("the unnamed database is always there");
        // SAFETY: only the lifetime changes, which ties the handle to `env`. The handle of the unnamed database is a
        // constant of LMDB, heed checks at every use that it belongs to the environment of the transaction, and this
        // struct keeps both together.
        #[expect(unsafe_code, reason = "a handle beside its environment cannot be expressed otherwise")]
        let db = unsafe { std::mem::transmute::<Database<'_, types::Bytes, types::Bytes>, Db>(db) };
        let file = env.try_clone_inner_file().map_err(failed)?;
        let map = map_of(&file, &data);
        if map.is_none() {
            tracing::warn!("the place of the log's map is unknown; reading it will make its pages resident");
        }
        env.clear_stale_readers().map_err(failed)?;
        let mut store = Self {
            db,
            env,
            file,
            page_bytes: PAGE_BYTES as u64,
            map,
            touched: AtomicUsize::new(0),
            faults_seen: AtomicU64::new(0),
            directory,
            #[cfg(test)]
            faults: tests::Faults::default(),
        };
        let txn = store.read_txn()?;
        let page = store.db.stat(&txn).map_err(failed)?.page_size as usize;
        drop(txn);
        store.page_bytes = page as u64;
        if page != PAGE_BYTES {
            tracing::warn!(page_bytes = page, "the data file has large pages: every commit writes more than it needs");
        }
        Ok(store)
    }

    /// A short look at the durable state. Never to be held across an await.
    pub(super) fn read_txn(&self) -> Result<RoTxn<'_, WithoutTls>, Error> {
        self.env.read_txn().map_err(|e| Error::Stopped(format!("cannot read the data file: {e}")))
    }

    /// The writer's transaction. Only the writer thread, and the opening before there is one, may call this.
    #[expect(clippy::disallowed_methods, reason = "this is the one door to it")]
    pub(super) fn write_txn(&self) -> heed::Result<RwTxn<'_>> {
        self.env.write_txn()
    }

    /// Ends the writer's transaction; durable by then, but in a pipelined log.
    pub(super) fn commit(&self, txn: RwTxn<'_>) -> heed::Result<()> {
        #[cfg(test)]
        self.faults.commit()?;
        let committed = txn.commit();
        self.changed();
        committed
    }

    /// Makes everything that is committed durable, whatever the environment's flags.
    pub(super) fn flush(&self) -> Result<(), Error> {
        #[cfg(test)]
        self.faults.flush().map_err(|e| Error::Stopped(e.to_string()))?;
        self.env.force_sync().map_err(|e| Error::Stopped(format!("cannot flush the data file: {e}")))
    }

    /// Copies one chunk's batches to the end of `out` and says whether they were found and are unharmed.
    ///
    /// With `is_patient` it waits for the disk; without, it answers [`Chunk::Cold`] where the page cache lacks some of it.
    pub(super) fn read_chunk(
        &self,
        partition: u32,
        chunk: &ChunkRef,
        is_patient: bool,
        out: &mut Buffer,
    ) -> Result<Chunk, Error> {
        let txn = self.read_txn()?;
        let found = self.db.get(&txn, &chunk.key(partition));
        let Some(value) = found.map_err(|e| Error::Stopped(format!("cannot read the data file: {e}")))? else {
            return Ok(Chunk::Gone);
        };
        let length = chunk.length as usize;
        if value.len() < CHUNK_HEADER_BYTES + length {
            return Ok(Chunk::Damaged);
        }
        let at = out.len();
        let mut header = [0; CHUNK_HEADER_BYTES];
        let batches = out.extend(length);
        let read = match self.place(value) {
            Some(place) => self.read_parts(&mut header, batches, place, is_patient),
            None => {
                header.copy_from_slice(&value[..CHUNK_HEADER_BYTES]);
                batches.copy_from_slice(&value[CHUNK_HEADER_BYTES..CHUNK_HEADER_BYTES + length]);
                Chunk::Read
            }
        };
        drop(txn);
        self.touched(1);
        let outcome = match read {
            Chunk::Read if !chunk.check(partition, &header, out.from(at)) => Chunk::Damaged,
            read => read,
        };
        if outcome != Chunk::Read {
            out.truncate(at);
        }
        Ok(outcome)
    }

    /// Reads a chunk's header and batches from their place in the file, in one call where the page cache has them.
    fn read_parts(&self, header: &mut [u8], batches: &mut [u8], place: u64, is_patient: bool) -> Chunk {
        let length = header.len() + batches.len();
        let mut parts = [std::io::IoSliceMut::new(header), std::io::IoSliceMut::new(batches)];
        let warm = rustix::io::preadv2(&self.file, &mut parts, place, rustix::io::ReadWriteFlags::NOWAIT);
        if warm == Ok(length) {
            return Chunk::Read;
        }
        // The page cache lacks some of it, or the file system cannot say.
        if !is_patient {
            return Chunk::Cold;
        }
        let behind = place + header.len() as u64;
        let read = self.file.read_exact_at(header, place).and_then(|()| self.file.read_exact_at(batches, behind));
        match read {
            Ok(()) => Chunk::Read,
            // A card that cannot read a sector, or a file that was cut off: the same as wrong bytes.
            Err(error) => {
                tracing::error!("cannot read a chunk of the log: {error}");
                Chunk::Damaged
            }
        }
    }

    /// Writes a new value that sorts last, padded with zeros to `length`.
    pub(super) fn append(&self, txn: &mut RwTxn<'_>, key: &[u8], parts: &[&[u8]], length: usize) -> heed::Result<()> {
        let there = self.db.get_or_put_reserved_with_flags(txn, PutFlags::APPEND, key, length, |space| {
            for part in parts {
                space.write_all(part)?;
            }
            space.fill_zeroes();
            Ok(())
        })?;
        debug_assert!(there.is_none(), "seal numbers are never used twice");
        self.changed();
        Ok(())
    }

    /// Writes a new value where others were deleted, padded with zeros to `length`.
    pub(super) fn put_between(
        &self,
        txn: &mut RwTxn<'_>,
        key: &[u8],
        parts: &[&[u8]],
        length: usize,
    ) -> heed::Result<()> {
        self.changed();
        self.db.put_reserved(txn, key, length, |space| {
            for part in parts {
                space.write_all(part)?;
            }
            space.fill_zeroes();
            Ok(())
        })
    }

    /// Writes or removes a small value wherever it belongs.
    pub(super) fn set(&self, txn: &mut RwTxn<'_>, key: &[u8], value: Option<&[u8]>) -> heed::Result<()> {
        self.changed();
        match value {
            Some(value) => self.db.put(txn, key, value),
            None => self.db.delete(txn, key).map(|_was_there| ()),
        }
    }

    /// So many places of the map were touched: where that adds up, its resident pages are given back. Without it the
    /// resident memory of a busy daemon grows to the size of its log.
    pub(super) fn touched(&self, places: usize) {
        if self.touched.fetch_add(places, Ordering::Relaxed) + places >= MOST_TOUCHED {
            self.touched.store(0, Ordering::Relaxed);
            self.release_pages();
        }
    }

    /// The same after a change, by the page faults of this thread, which is the writer's: what LMDB looks at for one, of the
    /// tree and of the list of free pages, depends on where everything lies.
    fn changed(&self) {
        let faults = page_faults();
        if faults.wrapping_sub(self.faults_seen.load(Ordering::Relaxed)) >= MOST_TOUCHED as u64 {
            self.release_pages();
            self.faults_seen.store(faults, Ordering::Relaxed);
        }
    }

    /// Gives the map's resident pages back. They are clean, so they stay in the page cache.
    pub(super) fn release_pages(&self) {
        let Some((start, bytes)) = self.map else { return };
        // SAFETY: the range is our own read-only shared file mapping: its pages hold nothing but the file's content
        // and come back from it at the next touch.
        #[expect(unsafe_code, reason = "madvise takes an address")]
        let done = unsafe {
            rustix::mm::madvise(std::ptr::with_exposed_provenance_mut(start), bytes, rustix::mm::Advice::LinuxDontNeed)
        };
        if let Err(e) = done {
            tracing::debug!("madvise: {e}");
        }
    }

    /// Makes sure that the file has room for so many pages beyond those in use, a MiB at a time, so that a full disk shows
    /// before a commit and not within. False if the disk refuses; a file system that cannot tell counts as true.
    pub(super) fn has_room(&self, more_pages: u64, quota_bytes: u64) -> bool {
        let page = PAGE_BYTES as u64;
        let used = (self.env.info().last_page_number as u64 + 1) * page;
        let wanted = used + more_pages * page;
        let has = self.file_bytes();
        if has >= wanted {
            return true;
        }
        let step = (quota_bytes / 64).clamp(64 << 10, GROWTH_BYTES);
        let grow = |to: u64| rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), has, to - has);
        match grow(wanted.max(has + step)).or_else(|_| grow(wanted)) {
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => false,
            Ok(()) | Err(_) => true,
        }
    }

    /// Lets the file grow ahead of need, in written zeros: a commit into pages that were written before needs no entry in
    /// the file system's journal and is 1.3 to 2.8 times as fast. Not beyond the quota, nor where the file system is
    /// short of room. Answers how many bytes were written.
    pub(super) fn grow_ahead(&self, quota_bytes: u64) -> Result<u64, Error> {
        let used = (self.env.info().last_page_number as u64 + 1) * PAGE_BYTES as u64;
        let has = self.file_bytes();
        let ahead = (has / 8).clamp(*AHEAD_BYTES.start(), *AHEAD_BYTES.end());
        let piece = quota_bytes.saturating_sub(has).min(PIECE_BYTES as u64);
        let is_short = || self.directory.free_bytes().is_none_or(|free| free < 8 * ahead);
        if has.saturating_sub(used) >= ahead / 2 || piece == 0 || is_short() {
            return Ok(0);
        }
        let zeros = vec![0; usize::try_from(piece).expect("at most a piece")];
        let written = self.file.write_all_at(&zeros, has).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => Ok(piece),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)) => Ok(0),
            Err(e) => Err(Error::Stopped(format!("cannot write the data file: {e}"))),
        }
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.len())
    }

    /// Keeps a copy of a chunk's bytes, as far as they can be read.
    pub(super) fn keep_chunk(&self, partition: u32, chunk: &ChunkRef) -> Option<std::path::PathBuf> {
        let txn = self.read_txn().ok()?;
        let value = self.db.get(&txn, &chunk.key(partition)).ok()??;
        let mut bytes = vec![0; value.len()];
        match self.place(value) {
            // By halves of a KiB, because a card loses those.
            Some(place) => {
                for (at, part) in (place..).step_by(512).zip(bytes.chunks_mut(512)) {
                    if let Err(error) = self.file.read_exact_at(part, at) {
                        tracing::debug!(at, "a sector of a damaged chunk cannot be read: {error}");
                    }
                }
            }
            None => bytes.copy_from_slice(value),
        }
        drop(txn);
        super::quarantine::keep_value(self.data_dir(), &bytes)
    }

    /// The file's place of a value that does not lie in a leaf, if the map's place is known.
    fn place(&self, value: &[u8]) -> Option<u64> {
        let (start, bytes) = self.map?;
        let at = value.as_ptr().addr();
        (start..start + bytes).contains(&at).then(|| (at - start) as u64)
    }

    /// Deletes a value that may have pages of its own. One that is damaged where LMDB would look stays, out of everybody's
    /// way: it costs its pages until the file is built anew.
    pub(super) fn delete(&self, txn: &mut RwTxn<'_>, key: &[u8]) -> heed::Result<()> {
        self.changed();
        if self.is_deletable(txn, key)? {
            self.db.delete(txn, key)?;
        } else {
            tracing::error!(key = %key.escape_ascii(), "a value is damaged and stays in the data file");
        }
        Ok(())
    }

    /// Whether LMDB may delete the value: it frees as many pages as the first of them says, from the page on that it says
    /// it is. Damaged, they would be pages of somebody else. True where it cannot be told.
    pub(super) fn is_deletable(&self, txn: &RoTxn<'_>, key: &[u8]) -> heed::Result<bool> {
        let Some(value) = self.db.get(txn, key)? else { return Ok(true) };
        let Some(place) = self.place(value) else { return Ok(true) };
        // Such values begin behind a page's header, and are longer than what a leaf takes.
        if place % self.page_bytes != PAGE_HEADER_BYTES as u64 || pages(value.len()) == 0 {
            return Ok(true);
        }
        let mut head = [0; PAGE_HEADER_BYTES];
        let start = place - PAGE_HEADER_BYTES as u64;
        let is_read = self.file.read_exact_at(&mut head, start).is_ok();
        let page_bytes = usize::try_from(self.page_bytes).expect("a page is 32 KiB at most");
        Ok(is_read && begins_value(&head, start / self.page_bytes, value.len(), page_bytes))
    }

    /// Whether a chunk says of itself what its key says. Reads its first bytes only.
    pub(super) fn is_key_right(
        &self,
        txn: &RoTxn<'_, WithoutTls>,
        partition: u32,
        chunk: &ChunkRef,
    ) -> heed::Result<bool> {
        let Some(value) = self.db.get(txn, &chunk.key(partition))? else { return Ok(false) };
        let mut head = [0; CHUNK_HEADER_BYTES];
        match self.place(value) {
            Some(place) => {
                if self.file.read_exact_at(&mut head, place).is_err() {
                    return Ok(false);
                }
            }
            None => match value.first_chunk() {
                Some(first) => head = *first,
                None => return Ok(false),
            },
        }
        Ok(chunk.is_said_by(partition, &head))
    }

    /// Copies everything that is live to a file without a name in the data directory.
    pub(super) fn copy(&self) -> Result<File, Error> {
        let failed = |e: &dyn std::fmt::Display| Error::Stopped(format!("cannot copy the data file: {e}"));
        let live = {
            let txn = self.read_txn()?;
            let stat = self.db.stat(&txn).map_err(|e| failed(&e))?;
            (stat.branch_pages + stat.leaf_pages + stat.overflow_pages) as u64 * self.page_bytes
        };
        if self.directory.free_bytes().is_some_and(|free| free < live + RESERVE_BYTES) {
            return Err(Error::Full);
        }
        let path = self.data_dir().join("backup.tmp");
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).map_err(|e| failed(&e))?;
        std::fs::remove_file(&path).map_err(|e| failed(&e))?;
        let is_done = AtomicBool::new(false);
        // LMDB copies through the map; its pages would stay resident here.
        let copied = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    std::thread::park_timeout(RELEASE_EVERY);
                    self.release_pages();
                }
            });
            let copied = self.env.copy_to_file(&mut file, CompactionOption::Enabled);
            is_done.store(true, Ordering::Relaxed);
            copied
        });
        copied.map_err(|e| failed(&e))?;
        file.rewind().map_err(|e| failed(&e))?;
        Ok(file)
    }

    pub(super) fn data_dir(&self) -> &Path {
        self.directory.path()
    }

    /// Closes the file and gives its locked directory back.
    pub(super) fn into_directory(self) -> Directory {
        self.directory
    }

    pub(super) fn data_file(&self) -> std::path::PathBuf {
        self.directory.data_file()
    }
}

/// Page faults of the calling thread that needed no disk, ever; 0 where the kernel does not say.
fn page_faults() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills in the struct it is given, all of whose bit patterns are values.
    #[expect(unsafe_code, reason = "getrusage is a C function")]
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_minflt).unwrap_or(0)
}

/// What became of a chunk that was to be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Its batches are in the buffer.
    Read,
    /// Some of it must come from the disk.
    Cold,
    /// Retention has deleted it since the index was asked, or compaction put another in its place.
    Gone,
    /// Its bytes are not the ones that were written.
    Damaged,
}

/// Finds the mapping of the data file, by inode and path; the device numbers of btrfs differ between stat and maps.
fn map_of(file: &File, path: &Path) -> Option<(usize, usize)> {
    let inode = file.metadata().ok()?.ino();
    let path = path.canonicalize().ok()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    find_map(&maps, &inode.to_string(), path.to_str()?)
}

/// Each line: `start-end perms offset major:minor inode path`.
fn find_map(maps: &str, inode: &str, path: &str) -> Option<(usize, usize)> {
    let mut found = maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let same = fields.nth(1)? == "00000000" && fields.nth(1)? == inode && line.ends_with(path);
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        same.then_some((start, end - start))
    });
    let map = found.next()?;
    // Two of them: something else maps the file too, and either may go away.
    found.next().is_none().then_some(map)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// A disk that breaks.
    #[derive(Default)]
    pub(in crate::log) struct Faults {
        pub(in crate::log) commits: AtomicBool,
        pub(in crate::log) flushes: AtomicBool,
    }

    impl Faults {
        pub(super) fn commit(&self) -> heed::Result<()> {
            fail_if(&self.commits)
        }

        pub(super) fn flush(&self) -> heed::Result<()> {
            fail_if(&self.flushes)
        }
    }

    fn fail_if(is_broken: &AtomicBool) -> heed::Result<()> {
        let error = std::io::Error::from_raw_os_error(libc::EIO);
        if is_broken.load(Ordering::Relaxed) { Err(heed::Error::Io(error)) } else { Ok(()) }
    }

    #[test]
    fn map_sizes_are_aligned_and_bounded() {
        assert_eq!(map_bytes(0), 32 << 20);
        assert_eq!(map_bytes(1 << 20) % MAP_STEP_BYTES, 0);
        assert_eq!(map_bytes(64 << 20), (80 + 32) << 20);
    }

    #[test]
    fn finds_the_mapping_of_a_file() {
        let maps = "7f00-8000 r--s 00000000 fe:00 42 /d/data.mdb\n9000-9800 r-xp 00000000 fe:00 43 /bin\n";
        assert_eq!(find_map(maps, "42", "/d/data.mdb"), Some((0x7f00, 0x100)));
        assert_eq!(find_map(maps, "44", "/d/data.mdb"), None);
        assert_eq!(find_map(&format!("{maps}{maps}"), "42", "/d/data.mdb"), None);
    }

    #[test]
    fn new_files_have_small_pages() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Directory::open(dir.path()).unwrap(), map_bytes(1 << 20), Durability::Strict).unwrap();
        let txn = store.read_txn().unwrap();
        assert_eq!(store.db.stat(&txn).unwrap().page_size as usize, PAGE_BYTES);
        assert!(store.map.is_some());
    }
}
