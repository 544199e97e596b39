//! The memory that requests, answers and unpacking may take, counted by all parts of the daemon together.
//!
//! Never allocates: it only counts. Who wants more than a little waits for a share first, and gives it back when the
//! bytes are gone, so what does not fit waits at the peers' own sockets.
//!
//! The budget has parts, so that nobody waits for what those behind him hold: some for small requests and answers, some
//! for the first pieces of large frames, some for requests that are parked, and two large ones, for what is received or
//! sent and for the work on it: decoding, unpacking, the copy that a commit makes. Who holds of the first may wait for
//! the second, and never the other way round. Were it one, a hundred clients that send the first piece of a large frame
//! each would wait for one another for ever. Answers get three quarters of their part at most, so that readers that do
//! not take theirs leave producers some room.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Up to here a share comes out of the small part. Of a larger frame this much must have come before its length is
/// reserved: a peer that only claims to send 16 MiB holds back nobody.
pub const SMALL_BYTES: usize = 64 << 10;

/// Makes the allocator give large buffers back to the system at once; to be called before there are threads.
///
/// By itself glibc learns from the first large buffer that is freed to keep all such in its heaps, one for each thread:
/// compressed batches that were refused left 52 MB resident where this leaves 15.
pub fn tune_allocator() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE_BYTES: libc::c_int = 128 << 10;
        // SAFETY: sets two numbers of the allocator, which may be done at any time; no other thread is there to race.
        #[expect(unsafe_code, reason = "the allocator's settings are a C function")]
        let done = unsafe { (libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES), libc::mallopt(libc::M_ARENA_MAX, 2)) };
        if done != (1, 1) {
            tracing::warn!("the allocator takes no settings; peaks of memory will be higher");
        }
    }
}

/// Gives back to the system what the allocator keeps free; to be called now and then.
///
/// A small allocation that stays keeps everything below it in its heap: after a million mutated requests 9 MB of 11 were free
/// in whole pages, and stayed resident for good.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes the allocator's own locks and touches free memory only.
        #[expect(unsafe_code, reason = "the allocator's own work is a C function")]
        let _is_any = unsafe { libc::malloc_trim(0) };
    }
}

/// The bytes that all may take. Cheap to clone.
#[derive(Clone)]
pub struct Budget(Arc<Parts>);

struct Parts {
    small: Pool,
    front: Pool,
    parked: Pool,
    main: Pool,
    answers: Pool,
    work: Pool,
    /// How many wait for one of the large parts now.
    waiting: AtomicUsize,
}

/// A part of the budget.
struct Pool {
    bytes: Arc<Semaphore>,
    total_bytes: usize,
}

/// A share of the budget; given back when dropped.
#[derive(Default)]
pub struct Share {
    small: Option<OwnedSemaphorePermit>,
    main: Option<OwnedSemaphorePermit>,
    answers: Option<OwnedSemaphorePermit>,
    work: Option<OwnedSemaphorePermit>,
}

/// Room for what waits for a long time, or for a moment before its share; given back when dropped.
pub struct Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Budget {
    /// A budget of so many bytes.
    pub fn new(total_bytes: usize) -> Self {
        let total_bytes = total_bytes.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        let pool = |total_bytes| Pool { bytes: Arc::new(Semaphore::new(total_bytes)), total_bytes };
        let (small, front, parked) = (total_bytes / 8, total_bytes / 32, total_bytes / 16);
        let work = (total_bytes - small - front - parked) / 2;
        let main = total_bytes - small - front - parked - work;
        Self(Arc::new(Parts {
            small: pool(small),
            front: pool(front),
            parked: pool(parked),
            main: pool(main),
            answers: pool(main / 4 * 3),
            work: pool(work),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// The largest frame that can be held; one of the small part where the budget is tiny.
    pub fn most_frame_bytes(&self) -> usize {
        self.0.main.total_bytes.max(SMALL_BYTES)
    }

    /// The most that one may need for its work: what needs more cannot be done.
    pub fn most_work_bytes(&self) -> usize {
        self.0.work.total_bytes
    }

    /// Waits for a share for bytes that are received or sent. More than everything is cut to everything: then the one
    /// who asks runs alone. Not while holding another share.
    pub async fn take(&self, bytes: usize) -> Share {
        if bytes <= SMALL_BYTES {
            return Share { small: Some(self.0.small.take(bytes).await), ..Share::default() };
        }
        let _waits = Waits::new(&self.0.waiting);
        Share { main: Some(self.0.main.take(bytes).await), ..Share::default() }
    }

    /// The same for bytes that a peer may be slow to take.
    pub async fn take_for_answer(&self, bytes: usize) -> Share {
        if bytes <= SMALL_BYTES {
            return self.take(bytes).await;
        }
        // In this order everywhere, so that nobody waits in a circle.
        let answers = self.0.answers.take(bytes).await;
        Share { answers: Some(answers), ..self.take(bytes).await }
    }

    /// Waits for a share for the work on what is held; not while holding another one of that.
    pub async fn take_work(&self, bytes: usize) -> Share {
        let _waits = Waits::new(&self.0.waiting);
        Share { work: Some(self.0.work.take(bytes).await), ..Share::default() }
    }

    /// Waits for room for the first piece of a large frame. To be held while its [`Budget::take`] waits.
    pub async fn take_front(&self) -> Place {
        Place(self.0.front.take(SMALL_BYTES).await)
    }

    /// Room for a request that may wait for minutes; `None` if too many wait already.
    pub fn park(&self, bytes: usize) -> Option<Place> {
        let bytes = u32::try_from(bytes).ok()?;
        Arc::clone(&self.0.parked.bytes).try_acquire_many_owned(bytes).ok().map(Place)
    }

    /// Whether somebody waits for room that those who have it should not keep longer than they need.
    pub fn is_short(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether less than half of the part for what is received or sent is free.
    pub fn is_tight(&self) -> bool {
        self.0.main.bytes.available_permits() < self.0.main.total_bytes / 2
    }

    /// Bytes taken now.
    pub fn taken_bytes(&self) -> usize {
        let Parts { small, front, parked, main, work, .. } = &*self.0;
        [small, front, parked, main, work].iter().map(|p| p.total_bytes - p.bytes.available_permits()).sum()
    }
}

impl Pool {
    async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = u32::try_from(bytes.min(self.total_bytes)).expect("the total fits 32 bits");
        let permit = Arc::clone(&self.bytes).acquire_many_owned(bytes).await;
        permit.expect("the budget is never closed")
    }
}

/// Counts one that waits, also one that gives up.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Share {
    /// Whether some of it is for work.
    pub fn has_work(&self) -> bool {
        self.work.is_some()
    }

    /// Adds another share of the same budget.
    pub fn merge(&mut self, other: Self) {
        let Self { small, main, answers, work } = other;
        let mine = [&mut self.small, &mut self.main, &mut self.answers, &mut self.work];
        for (mine, theirs) in mine.into_iter().zip([small, main, answers, work]) {
            match (mine, theirs) {
                (Some(mine), Some(theirs)) => mine.merge(theirs),
                (mine @ None, theirs) => *mine = theirs,
                (Some(_), None) => {}
            }
        }
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let keep = |permit: &mut Option<OwnedSemaphorePermit>, most: usize| {
            let Some(permit) = permit else { return 0 };
            drop(permit.split(permit.num_permits().saturating_sub(most)));
            permit.num_permits()
        };
        let small = keep(&mut self.small, bytes);
        let main = keep(&mut self.main, bytes - small);
        keep(&mut self.answers, main);
        keep(&mut self.work, bytes - small - main);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const KIB: usize = 1 << 10;

    /// Small 256 KiB, front 64, parked 128, work 800, main 800.
    fn budget() -> Budget {
        Budget::new(2048 * KIB)
    }

    #[tokio::test]
    async fn shares_are_waited_for_and_given_back() {
        let budget = budget();
        let mut first = budget.take(500 * KIB).await;
        assert!(timeout(Duration::ZERO, budget.take(301 * KIB)).await.is_err(), "does not fit");
        first.merge(budget.take(300 * KIB).await);
        assert_eq!(budget.taken_bytes(), 800 * KIB);
        first.merge(budget.take(60 * KIB).await);
        assert_eq!(budget.taken_bytes(), 860 * KIB, "small ones have room of their own");
        first.shrink_to(10);
        assert_eq!(budget.taken_bytes(), 10);
        drop(first);
        assert_eq!(budget.taken_bytes(), 0);
        let all = budget.take(1 << 40).await;
        assert_eq!(budget.taken_bytes(), 800 * KIB, "more than everything is everything");
        drop(all);
    }

    #[tokio::test]
    async fn first_pieces_never_stand_in_the_way_of_the_rest() {
        let budget = budget();
        let first = budget.take_front().await;
        assert!(timeout(Duration::ZERO, budget.take_front()).await.is_err(), "no second piece is read");
        let whole = timeout(Duration::ZERO, budget.take(800 * KIB)).await;
        assert!(whole.is_ok(), "the first goes on");
        drop(first);
    }

    #[tokio::test]
    async fn what_is_held_never_stands_in_the_way_of_the_work_on_it() {
        let budget = budget();
        let mut held = budget.take(800 * KIB).await;
        held.merge(timeout(Duration::ZERO, budget.take_work(1 << 40)).await.expect("a part of its own"));
        assert!(timeout(Duration::ZERO, budget.take_work(1)).await.is_err(), "which is bounded too");
        held.shrink_to(900 * KIB);
        assert!(timeout(Duration::ZERO, budget.take_work(700 * KIB)).await.is_ok());
    }

    #[tokio::test]
    async fn answers_leave_room_for_requests() {
        let budget = budget();
        let answers = budget.take_for_answer(600 * KIB).await;
        assert!(timeout(Duration::ZERO, budget.take_for_answer(100 * KIB)).await.is_err(), "answers have their part");
        assert!(timeout(Duration::ZERO, budget.take(200 * KIB)).await.is_ok(), "a request fits beside them");
        drop(answers);
        let mut answer = budget.take_for_answer(600 * KIB).await;
        answer.shrink_to(100 * KIB);
        let more = timeout(Duration::ZERO, budget.take_for_answer(500 * KIB)).await;
        assert!(more.is_ok(), "what an answer does not need comes back to answers too");
    }

    #[tokio::test]
    async fn it_is_short_while_somebody_waits() {
        let budget = budget();
        let all = budget.take(800 * KIB).await;
        assert!(!budget.is_short() && budget.is_tight());
        let mut next = Box::pin(budget.take(100 * KIB));
        assert!(timeout(Duration::ZERO, &mut next).await.is_err());
        assert!(budget.is_short());
        drop(next);
        assert!(!budget.is_short(), "who gave up does not wait");
        drop(all);
        assert!(!budget.is_tight());
    }

    #[tokio::test]
    async fn parked_requests_have_a_part_of_their_own() {
        let budget = budget();
        let place = budget.park(120 * KIB).expect("there is room");
        assert!(budget.park(20 * KIB).is_none(), "no more than its part");
        drop(place);
        assert!(budget.park(128 * KIB).is_some());
    }
}
