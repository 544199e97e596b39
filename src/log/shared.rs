//! What readers and the writer thread share, and the reading of state.
//!
//! One owner each: only the writer thread changes any of it. Readers take the locks for the time of a copy.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    Clock, Error, Gap, Kernel, Topics, Usage,
    buffers::Buffers,
    compaction::Desk,
    gaps,
    layout::{PAGE_BYTES, state_key, state_value},
    overlay::Overlay,
    partition::Part,
    queue::Queue,
    retention::Defaults,
    store::Store,
    wear::Account,
};
use crate::record::{Offset, Partition};

/// The common ground of one open log.
pub(super) struct Shared {
    /// `None` once closed, so that the directory can be opened again at once.
    store: RwLock<Option<Store>>,
    pub(super) parts: RwLock<HashMap<Partition, Arc<Part>>>,
    pub(super) topics: watch::Sender<Arc<Topics>>,
    pub(super) overlay: RwLock<Overlay>,
    pub(super) queue: Queue,
    pub(super) figures: Figures,
    pub(super) wear: Mutex<Account>,
    pub(super) defaults: Defaults,
    pub(super) compaction: Desk,
    pub(super) buffers: Arc<Buffers>,
    pub(super) incarnation: [u8; 16],
    pub(super) clock: Clock,
    pub(super) kernel: Kernel,
    pub(super) quota_bytes: u64,
    /// The mirror's links and the topics they want.
    pub(super) links: RwLock<Vec<(Arc<str>, Wanted)>>,
    /// Partitions of which more has become safe than deletion has heard of.
    pub(super) moved: Mutex<HashSet<u32>>,
}

/// Whether a link wants a topic.
pub(super) type Wanted = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Figures that the writer keeps.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) live_pages: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) ingested_bytes: AtomicU64,
    pub(super) producer_bytes: AtomicU64,
    pub(super) heartbeat: AtomicU64,
    pub(super) gap_records: AtomicU64,
    pub(super) gap_bytes: AtomicU64,
    pub(super) compaction_bytes: AtomicU64,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "called once, by the opening")]
    pub(super) fn new(
        store: Store,
        parts: HashMap<Partition, Arc<Part>>,
        topics: Arc<Topics>,
        overlay: Overlay,
        queue: Queue,
        wear: Account,
        defaults: Defaults,
        incarnation: [u8; 16],
        clock: Clock,
        kernel: Kernel,
        quota_bytes: u64,
    ) -> Self {
        Self {
            store: RwLock::new(Some(store)),
            parts: RwLock::new(parts),
            topics: watch::Sender::new(topics),
            overlay: RwLock::new(overlay),
            queue,
            figures: Figures::default(),
            wear: Mutex::new(wear),
            defaults,
            compaction: Desk::default(),
            buffers: Arc::default(),
            incarnation,
            clock,
            kernel,
            quota_bytes,
            links: RwLock::default(),
            moved: Mutex::default(),
        }
    }

    /// The partition of that name.
    pub(super) fn part(&self, partition: &Partition) -> Result<Arc<Part>, Error> {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        parts.get(partition).map(Arc::clone).ok_or_else(|| Error::UnknownPartition(partition.clone()))
    }

    /// The links that want a topic.
    pub(super) fn links_of(&self, topic: &str) -> Vec<Arc<str>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.iter().filter(|(_, wants)| wants(topic)).map(|(link, _)| Arc::clone(link)).collect()
    }

    /// See [`super::Log::protect`].
    pub(super) fn protect(&self, link: &Arc<str>, wants: Wanted) {
        // The same lock as the writer takes to make a topic, so that none slips through.
        let parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
        for part in parts.values() {
            let is_wanted = wants(&part.name.topic);
            let known = part.lock().mirrored_by(link);
            match known {
                None if is_wanted => self.set_mirrored(link, part, 0),
                Some(_) if !is_wanted => self.let_go(link, part),
                _ => {}
            }
        }
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        links.retain(|(known, _)| known != link);
        links.push((Arc::clone(link), wants));
    }

    /// See [`super::Log::release`].
    pub(super) fn release(&self, link: &Arc<str>) {
        let parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
        self.links.write().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| known != link);
        parts.values().for_each(|part| self.let_go(link, part));
    }

    fn let_go(&self, link: &Arc<str>, part: &Part) {
        part.lock().let_go(link);
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).insert(part.id);
    }

    /// A link has a partition up to `offset`, or wants it from there on.
    pub(super) fn set_mirrored(&self, link: &Arc<str>, part: &Part, offset: Offset) {
        part.lock().set_mirrored(link, offset);
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).insert(part.id);
    }

    /// The store, for as long as the guard lives: not across an await.
    pub(super) fn store(&self) -> RwLockReadGuard<'_, Option<Store>> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f` with the store unless the log is closed.
    pub(super) fn with_store<T>(&self, f: impl FnOnce(&Store) -> Result<T, Error>) -> Result<T, Error> {
        match &*self.store() {
            Some(store) => f(store),
            None => Err(self.queue.why_closed()),
        }
    }

    /// Closes the environment and gives the lock back.
    pub(super) fn close_store(&self) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn state(&self, owner: &str, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let key = state_key(owner, key);
        let overlay = self.overlay.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = overlay.get(&key) {
            return Ok(held.value.clone());
        }
        // What is not in the overlay has moved before the overlay forgot it, so it is there by now.
        drop(overlay);
        self.with_store(|store| {
            let txn = store.read_txn()?;
            let value = store.db.get(&txn, &key).map_err(unreadable)?;
            store.touched(1);
            value.map(|bytes| state_value(&key, bytes).map(Bytes::copy_from_slice).ok_or_else(damaged)).transpose()
        })
    }

    pub(super) fn states(&self, owner: &str, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let full = state_key(owner, prefix);
        let own = full.len() - prefix.len();
        let overlay = self.overlay.read().unwrap_or_else(PoisonError::into_inner);
        let mut held = overlay.prefixed(&full).peekable();
        let mut out = Vec::new();
        let mut push = |key: &[u8], value: Option<Bytes>| {
            if let Some(value) = value {
                out.push((Bytes::copy_from_slice(&key[own..]), value));
            }
        };
        self.with_store(|store| {
            // The transaction begins while the overlay is held, so nothing can be missing from both.
            let txn = store.read_txn()?;
            let mut passed_bytes = 0;
            for entry in store.db.prefix_iter(&txn, &full).map_err(unreadable)? {
                let (key, bytes) = entry.map_err(unreadable)?;
                // A page is half full at least: without this, what owners with much state hold becomes resident.
                passed_bytes += key.len() + bytes.len();
                if passed_bytes >= PAGE_BYTES / 2 {
                    store.touched(passed_bytes / (PAGE_BYTES / 2));
                    passed_bytes = 0;
                }
                let value = state_value(key, bytes).ok_or_else(damaged)?;
                while let Some((newer, held)) = held.next_if(|(k, _)| *k < key) {
                    push(newer, held.value.clone());
                }
                match held.next_if(|(k, _)| *k == key) {
                    Some((_, held)) => push(key, held.value.clone()),
                    None => push(key, Some(Bytes::copy_from_slice(value))),
                }
            }
            for (newer, held) in held {
                push(newer, held.value.clone());
            }
            Ok(())
        })?;
        Ok(out)
    }

    pub(super) fn gaps(&self) -> Result<Vec<Gap>, Error> {
        let entries = self.states(gaps::OWNER, b"")?;
        Ok(entries.iter().filter_map(|(_, value)| Gap::decode(value)).collect())
    }

    pub(super) fn usage(&self) -> Usage {
        let load = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        let in_parts: u64 = parts.values().map(|p| size_of::<Part>() as u64 + p.lock().memory_bytes()).sum();
        drop(parts);
        let overlay = self.overlay.read().unwrap_or_else(PoisonError::into_inner).memory_bytes();
        let figures = &self.figures;
        Usage {
            live_bytes: load(&figures.live_pages) * PAGE_BYTES as u64,
            quota_bytes: self.quota_bytes,
            file_bytes: self.store().as_ref().map_or(0, Store::file_bytes),
            written_bytes: load(&figures.written_bytes),
            commits: load(&figures.commits),
            ingested_bytes: load(&figures.ingested_bytes),
            memory_bytes: in_parts + overlay + load(&figures.producer_bytes),
            heartbeat: load(&figures.heartbeat),
            gap_records: load(&figures.gap_records),
            gap_bytes: load(&figures.gap_bytes),
            compaction_bytes: load(&figures.compaction_bytes),
            wear: self.wear.lock().unwrap_or_else(PoisonError::into_inner).wear(Instant::now()),
        }
    }
}

/// State was checked at the start, so it was damaged since: the next start takes it out.
fn damaged() -> Error {
    Error::Stopped("the data file was damaged while it was open; start again to have it mended".into())
}

/// An error of a read from the open environment.
pub(super) fn unreadable(error: heed::Error) -> Error {
    Error::Stopped(format!("cannot read the data file: {error}"))
}
