//! What one client, and all of them together, may take: connections, frame sizes, bytes in memory, time.
//!
//! One budget of bytes covers request and answer bodies of all connections. A request waits for its share before it is
//! read, so the peers' own sockets hold back what does not fit. Never allocates: it only counts.
//!
//! The budget has three parts, so that nobody waits for what those behind him hold: an eighth for small requests and
//! answers, an eighth for the first pieces of large frames, the rest for everything large. Were it one, a hundred
//! clients that send the first piece of a large frame each would wait for one another for ever.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of a larger frame this much must have come before the rest of its length is reserved: a peer that only claims to
/// send 16 MiB holds back nobody.
pub(super) const DOWN_PAYMENT_BYTES: usize = 64 << 10;

/// Slowest a peer may be in the long run, beside the stall time: 64 KiB/s, a bad mobile uplink.
const SLOWEST_BYTES_PER_SECOND: usize = 64 << 10;

/// The bytes of all requests and answers in flight. Cheap to clone.
#[derive(Clone)]
pub(super) struct Budget {
    small: Pool,
    front: Pool,
    main: Pool,
}

/// A part of the budget.
#[derive(Clone)]
struct Pool {
    bytes: Arc<Semaphore>,
    total_bytes: usize,
}

/// A share of the budget; given back when dropped.
#[derive(Default)]
pub(super) struct Share {
    small: Option<OwnedSemaphorePermit>,
    main: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(super) fn new(total_bytes: usize) -> Self {
        let total_bytes = total_bytes.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        let pool = |total_bytes| Pool { bytes: Arc::new(Semaphore::new(total_bytes)), total_bytes };
        let (small, front) = (total_bytes / 8, total_bytes / 8);
        Self { small: pool(small), front: pool(front), main: pool(total_bytes - small - front) }
    }

    /// Waits for a share. More than everything is cut to everything: then the one request runs alone.
    pub(super) async fn take(&self, bytes: usize) -> Share {
        if bytes <= DOWN_PAYMENT_BYTES {
            Share { small: Some(self.small.take(bytes).await), main: None }
        } else {
            Share { small: None, main: Some(self.main.take(bytes).await) }
        }
    }

    /// Waits for room for the first piece of a large frame. To be held while its [`Budget::take`] waits.
    pub(super) async fn take_front(&self) -> OwnedSemaphorePermit {
        self.front.take(DOWN_PAYMENT_BYTES).await
    }

    /// Bytes taken now.
    pub(super) fn taken_bytes(&self) -> usize {
        [&self.small, &self.front, &self.main].iter().map(|p| p.total_bytes - p.bytes.available_permits()).sum()
    }
}

impl Pool {
    async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = u32::try_from(bytes.min(self.total_bytes)).expect("the total fits 32 bits");
        let permit = Arc::clone(&self.bytes).acquire_many_owned(bytes).await;
        permit.expect("the budget is never closed")
    }
}

impl Share {
    /// Adds another share of the same budget.
    pub(super) fn merge(&mut self, other: Self) {
        for (mine, theirs) in [(&mut self.small, other.small), (&mut self.main, other.main)] {
            match (mine, theirs) {
                (Some(mine), Some(theirs)) => mine.merge(theirs),
                (mine @ None, theirs) => *mine = theirs,
                (Some(_), None) => {}
            }
        }
    }

    /// Gives back all but `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let mut left = bytes;
        for permit in [&mut self.small, &mut self.main].into_iter().flatten() {
            drop(permit.split(permit.num_permits().saturating_sub(left)));
            left -= permit.num_permits();
        }
    }
}

/// How long `bytes` may take to come or go, when `stall` is what a moment's silence may last.
pub(super) fn time_for(bytes: usize, stall: Duration) -> Duration {
    stall + Duration::from_secs((bytes / SLOWEST_BYTES_PER_SECOND) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    #[tokio::test]
    async fn shares_are_waited_for_and_given_back() {
        let budget = Budget::new(800 * KIB);
        let mut first = budget.take(400 * KIB).await;
        assert!(tokio::time::timeout(Duration::ZERO, budget.take(201 * KIB)).await.is_err(), "does not fit");
        first.merge(budget.take(200 * KIB).await);
        assert_eq!(budget.taken_bytes(), 600 * KIB);
        first.merge(budget.take(60 * KIB).await);
        assert_eq!(budget.taken_bytes(), 660 * KIB, "small ones have room of their own");
        first.shrink_to(10);
        assert_eq!(budget.taken_bytes(), 10);
        drop(first);
        assert_eq!(budget.taken_bytes(), 0);
        let all = budget.take(1 << 40).await;
        assert_eq!(budget.taken_bytes(), 600 * KIB, "more than everything is everything");
        drop(all);
    }

    #[tokio::test]
    async fn first_pieces_never_stand_in_the_way_of_the_rest() {
        let budget = Budget::new(1024 * KIB);
        let first = budget.take_front().await;
        let second = budget.take_front().await;
        assert!(tokio::time::timeout(Duration::ZERO, budget.take_front()).await.is_err(), "no third piece is read");
        let whole = tokio::time::timeout(Duration::ZERO, budget.take(768 * KIB)).await;
        assert!(whole.is_ok(), "one of them goes on");
        drop((first, second));
    }
}
