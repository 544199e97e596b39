//! How long a client may take for what it sends and takes.
//!
//! Two rates: one that any line has, and one that is asked for while others wait for the memory that the bytes in
//! transit hold. The second keeps a few clients that send 16 MiB at 64 KiB/s from holding everybody's memory for minutes.

use std::time::Duration;

use tokio::time::Instant;

use crate::memory::Budget;

/// Slowest a peer may be in the long run, beside the stall time: 64 KiB/s, a bad mobile uplink.
const SLOWEST_BYTES_PER_SECOND: usize = 64 << 10;

/// Slowest it may be while others wait for memory, beside [`SHORT_GRACE`].
const SHORT_BYTES_PER_SECOND: usize = 1 << 20;
/// A quick peer may have been held up by the network for this long. A MiB gets 11 s with it, which the slowest line
/// that is let go on when memory is short, of 100 KiB/s, keeps to.
const SHORT_GRACE: Duration = Duration::from_secs(10);
/// How often a transfer looks whether memory has become short.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When a transfer that holds memory has taken too long.
pub(super) struct Patience {
    deadline: Instant,
    /// The same while memory is short; `None` for what takes no memory that others wait for.
    short_deadline: Option<Instant>,
}

impl Patience {
    /// For a transfer of so many bytes that begins now, when `stall` is what a moment's silence may last.
    pub(super) fn new(bytes: usize, stall: Duration) -> Self {
        Self { deadline: Instant::now() + time_for(bytes, stall), short_deadline: None }
    }

    /// The same for one that holds a share of the large part.
    pub(super) fn holding(bytes: usize, stall: Duration) -> Self {
        let short = SHORT_GRACE + Duration::from_secs((bytes / SHORT_BYTES_PER_SECOND) as u64);
        Self { short_deadline: Some(Instant::now() + short), ..Self::new(bytes, stall) }
    }

    /// Waits for the socket; `None` when patience has ended.
    pub(super) async fn wait<T>(&self, budget: &Budget, ready: impl Future<Output = T>) -> Option<T> {
        let mut ready = std::pin::pin!(ready);
        loop {
            let now = Instant::now();
            let is_over = self.short_deadline.is_some_and(|at| at <= now && budget.is_short());
            if is_over || self.deadline <= now {
                return None;
            }
            let look_at = self.short_deadline.map_or(self.deadline, |at| self.deadline.min(at.max(now + LOOK_EVERY)));
            if let Ok(ready) = tokio::time::timeout_at(look_at, &mut ready).await {
                return Some(ready);
            }
        }
    }
}

/// How long `bytes` may take to come or go, when `stall` is what a moment's silence may last.
fn time_for(bytes: usize, stall: Duration) -> Duration {
    stall + Duration::from_secs((bytes / SLOWEST_BYTES_PER_SECOND) as u64)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const STALL: Duration = Duration::from_secs(30);

    /// Seconds until patience ends.
    async fn ends(patience: Patience, budget: &Budget) -> u64 {
        let start = Instant::now();
        assert_eq!(patience.wait(budget, pending::<()>()).await, None);
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_memory_that_others_wait_for_has_less_time() {
        let budget = Budget::new(8 << 20);
        assert_eq!(ends(Patience::new(4 << 20, STALL), &budget).await, 30 + 64);
        assert_eq!(ends(Patience::holding(4 << 20, STALL), &budget).await, 30 + 64, "nobody waits");
        let all = budget.take(1 << 30).await;
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(1 << 20).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(ends(Patience::new(4 << 20, STALL), &budget).await, 30 + 64, "holds nothing");
        assert_eq!(ends(Patience::holding(4 << 20, STALL), &budget).await, 10 + 4);
        drop(all);
        drop(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_that_becomes_short_later_is_noticed() {
        let budget = Budget::new(8 << 20);
        let all = budget.take(1 << 30).await;
        let later = tokio::spawn({
            let budget = budget.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(40)).await;
                budget.take(1 << 20).await
            }
        });
        let seconds = ends(Patience::holding(4 << 20, STALL), &budget).await;
        assert!((40..=42).contains(&seconds), "{seconds} s");
        drop(all);
        drop(later.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_ready_is_taken() {
        let budget = Budget::new(8 << 20);
        assert_eq!(Patience::new(0, STALL).wait(&budget, std::future::ready(7)).await, Some(7));
    }
}
