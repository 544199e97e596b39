//! What one client, and all of them together, may take: connections, frame sizes, bytes in memory, time.
//!
//! One budget of bytes covers request and answer bodies of all connections. A request waits for its share before it is
//! read, so the peers' own sockets hold back what does not fit. Never allocates: it only counts.

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
    bytes: Arc<Semaphore>,
    total_bytes: usize,
}

/// A share of the budget; given back when dropped.
#[derive(Default)]
pub(super) struct Share(Option<OwnedSemaphorePermit>);

impl Budget {
    pub(super) fn new(total_bytes: usize) -> Self {
        let total_bytes = total_bytes.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        Self { bytes: Arc::new(Semaphore::new(total_bytes)), total_bytes }
    }

    /// Waits for a share. More than everything is cut to everything: then the one request runs alone.
    pub(super) async fn take(&self, bytes: usize) -> Share {
        let bytes = u32::try_from(bytes.min(self.total_bytes)).expect("the total fits 32 bits");
        let permit = Arc::clone(&self.bytes).acquire_many_owned(bytes).await;
        Share(Some(permit.expect("the budget is never closed")))
    }

    /// Bytes taken now.
    pub(super) fn taken_bytes(&self) -> usize {
        self.total_bytes - self.bytes.available_permits()
    }
}

impl Share {
    /// Adds another share of the same budget.
    pub(super) fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        }
    }

    /// Gives back all but `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.0 {
            let excess = permit.num_permits().saturating_sub(bytes);
            drop(permit.split(excess));
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

    #[tokio::test]
    async fn shares_are_waited_for_and_given_back() {
        let budget = Budget::new(100);
        let mut first = budget.take(60).await;
        assert!(tokio::time::timeout(Duration::ZERO, budget.take(41)).await.is_err(), "does not fit");
        first.merge(budget.take(40).await);
        assert_eq!(budget.taken_bytes(), 100);
        first.shrink_to(10);
        assert_eq!(budget.taken_bytes(), 10);
        drop(first);
        assert_eq!(budget.taken_bytes(), 0);
        let all = budget.take(1 << 40).await;
        assert_eq!(budget.taken_bytes(), 100, "more than everything is everything");
        drop(all);
    }
}
