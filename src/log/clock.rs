//! Which time is believed, and since when a chunk has been here.
//!
//! Boards have no clock, a wrong one, or one that jumps by years when the network comes. A time is believed that is
//! plausible and goes on with the uptime; only a synchronised clock may move it otherwise. So nothing grows old faster
//! than it lies here: a clock that is wrong by years deletes nothing. What came in under a time that turned out to be
//! wrong counts from the moment at which that was known, so it does not stay for ever either. Records' own timestamps are
//! never asked. Pure but for [`kernel_time`]; what must survive a restart is one state entry that rides with the commits.

use serde::{Deserialize, Serialize};

use super::layout::ChunkRef;

/// Owner and key of what survives a restart.
pub(super) const OWNER: &str = "clock";
pub(super) const KEY: &[u8] = b"kept";

/// 2024-01-01: no device that runs this can truthfully have an earlier date.
pub(super) const EARLIEST_MS: i64 = 1_704_067_200_000;
/// A difference of the clock against the uptime that is a jump and no drift.
const JUMP_MS: i64 = 60_000;
/// Marks kept; the two oldest become one beyond, which keeps what they say of a little longer.
const MOST_MARKS: usize = 32;
/// Uptime between two events of jumps: a clock that never rests should not fill the log.
const TELL_EVERY_MS: u64 = 60_000;

/// What the kernel says beside the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelTime {
    /// Milliseconds since boot, time asleep included.
    pub uptime_ms: u64,
    /// Somebody keeps the wall clock in step with the world's (NTP, GPS), as `adjtimex` tells.
    pub is_synchronised: bool,
}

/// The kernel's time as it is.
pub fn kernel_time() -> KernelTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let uptime_ms =
        u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000;
    KernelTime { uptime_ms, is_synchronised: is_synchronised() }
}

fn is_synchronised() -> bool {
    // SAFETY: the struct is plain numbers, for which zeros are valid; with `modes` 0 the kernel changes nothing and
    // only fills it in.
    #[expect(unsafe_code, reason = "no crate here has a safe call that reads the clock's state")]
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex.status)
    };
    state >= 0 && status & libc::STA_UNSYNC == 0
}

/// The boot that the kernel is in.
#[derive(Debug)]
pub(super) struct Boot {
    /// As the kernel writes it; empty where /proc does not say.
    pub(super) name: String,
    pub(super) id: [u8; 16],
}

impl Boot {
    /// This one.
    pub(super) fn this() -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let name = name.trim().to_owned();
        let id = u128::from_str_radix(&name.replace('-', ""), 16).unwrap_or_default().to_be_bytes();
        Self { name, id }
    }
}

/// A clock that has certainly been set.
pub(super) fn is_plausible(clock_ms: i64) -> bool {
    clock_ms >= EARLIEST_MS
}

/// A time in seconds for a chunk's index; 0 where none is believed.
pub(super) fn intake_s(now_ms: Option<i64>) -> u32 {
    now_ms.and_then(|ms| u32::try_from(ms / 1_000).ok()).unwrap_or(0)
}

/// Chunks of these seals came in under a time that was wrong, or none: they count from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    from_seal: u64,
    to_seal: u64,
    since_s: u32,
}

/// The newest time in a file.
#[derive(Debug)]
pub(super) enum Newest {
    /// Of a journal entry, with the boot and the uptime in milliseconds if it says so.
    Entry { clock_ms: i64, noted: Option<([u8; 16], u64)> },
    /// Of the chunk sealed last.
    Chunk(ChunkRef),
}

impl Newest {
    /// The time, and the uptime it belongs to if that was in this boot.
    pub(super) fn place(&self, kept: &Kept, boot_id: [u8; 16]) -> Option<(i64, Option<u64>)> {
        match self {
            Self::Entry { clock_ms, noted } => {
                let here = noted.filter(|(id, _)| *id == boot_id && boot_id != [0; 16]);
                Some((*clock_ms, here.map(|(_, uptime_ms)| uptime_ms)))
            }
            Self::Chunk(chunk) => Some((i64::from(kept.since_s(chunk)?) * 1_000, None)),
        }
    }
}

/// What survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    marks: Vec<Mark>,
    /// The first seal under a time that was not confirmed by a synchronised clock since; `None`: all are.
    unsure_from: Option<u64>,
}

/// A jump of the wall clock that people should know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Jump {
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
    pub(super) is_synchronised: bool,
}

/// What a look at the clock brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// The believed time, in milliseconds since 1970.
    pub(super) now_ms: Option<i64>,
    pub(super) jump: Option<Jump>,
    /// The time was wrong until now: what is not sealed yet counts from here.
    pub(super) was_wrong: bool,
    /// There was none until now: what is not sealed and has none counts from here.
    pub(super) was_dark: bool,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Time {
    kept: Kept,
    /// The believed time, and the uptime it belongs to.
    anchor: Option<(i64, u64)>,
    /// The wall clock and the uptime of the last reading.
    last: Option<(i64, u64)>,
    /// A chunk's time is unknown and no mark says anything of it.
    has_dark: bool,
    told_ms: Option<u64>,
    is_dirty: bool,
}

impl Time {
    /// Goes on from `kept` and from the newest time in the file, believed in an earlier run: with the uptime it had if
    /// that was in this boot. `has_dark`: there are chunks without a time.
    pub(super) fn new(kept: Kept, newest: Option<(i64, Option<u64>)>, uptime_ms: u64, has_dark: bool) -> Self {
        // Time between two boots cannot be told, so it does not count until a synchronised clock says how much it was.
        let anchor = newest.filter(|(ms, _)| is_plausible(*ms)).map(|(ms, at)| (ms, at.unwrap_or(uptime_ms)));
        Self { kept, anchor, has_dark, ..Self::default() }
    }

    /// Looks at the clock. `next_seal` is the number of the next chunk to be sealed.
    pub(super) fn read(&mut self, clock_ms: i64, kernel: KernelTime, next_seal: u64) -> Reading {
        let KernelTime { uptime_ms, is_synchronised } = kernel;
        let jump = self.jump(clock_ms, kernel);
        let is_sure = is_synchronised && is_plausible(clock_ms);
        let expected_ms = self.anchor.map(|anchor| on(anchor, uptime_ms));
        let now_ms = match expected_ms {
            Some(expected_ms) if !is_sure => expected_ms,
            _ if !is_plausible(clock_ms) => return Reading { jump, ..Reading::default() },
            _ => clock_ms,
        };
        self.anchor = Some((now_ms, uptime_ms));
        let is_wrong = expected_ms.is_some_and(|expected_ms| (now_ms - expected_ms).abs() > JUMP_MS);
        let mut was_wrong = false;
        if is_sure {
            let from_seal = self.kept.unsure_from.take();
            self.is_dirty |= from_seal.is_some();
            if let Some(from_seal) = from_seal.filter(|_| is_wrong) {
                self.mark(from_seal, next_seal, now_ms);
                was_wrong = true;
            }
        } else if self.kept.unsure_from.is_none() {
            self.kept.unsure_from = Some(next_seal);
            self.is_dirty = true;
        }
        let was_dark = std::mem::take(&mut self.has_dark);
        if was_dark {
            self.mark(next_seal, next_seal, now_ms);
        }
        Reading { now_ms: Some(now_ms), jump, was_wrong, was_dark }
    }

    fn jump(&mut self, clock_ms: i64, kernel: KernelTime) -> Option<Jump> {
        let last = self.last.replace((clock_ms, kernel.uptime_ms))?;
        let from_ms = on(last, kernel.uptime_ms);
        let is_rested = self.told_ms.is_none_or(|told_ms| kernel.uptime_ms.saturating_sub(told_ms) >= TELL_EVERY_MS);
        if clock_ms.saturating_sub(from_ms).saturating_abs() <= JUMP_MS || !is_rested {
            return None;
        }
        self.told_ms = Some(kernel.uptime_ms);
        Some(Jump { from_ms, to_ms: clock_ms, is_synchronised: kernel.is_synchronised })
    }

    fn mark(&mut self, from_seal: u64, to_seal: u64, now_ms: i64) {
        self.kept.marks.push(Mark { from_seal, to_seal, since_s: intake_s(Some(now_ms)) });
        if self.kept.marks.len() > MOST_MARKS {
            let Mark { from_seal, .. } = self.kept.marks.remove(0);
            self.kept.marks[0].from_seal = from_seal;
        }
        self.is_dirty = true;
    }

    /// A chunk came in while no time was believed.
    pub(super) fn dark(&mut self) {
        self.has_dark = true;
    }

    /// See [`Kept::since_s`].
    pub(super) fn since_s(&self, chunk: &ChunkRef) -> Option<u32> {
        self.kept.since_s(chunk)
    }

    /// What must be written, if it has changed since the last call.
    pub(super) fn changed(&mut self) -> Option<&Kept> {
        std::mem::take(&mut self.is_dirty).then_some(&self.kept)
    }

    /// What was to be written was not.
    pub(super) fn was_not_written(&mut self) {
        self.is_dirty = true;
    }
}

impl Kept {
    /// Since when a chunk has been here, in seconds since 1970; `None` where that is not known.
    fn since_s(&self, chunk: &ChunkRef) -> Option<u32> {
        let marks = &self.marks;
        match marks.iter().rev().find(|mark| (mark.from_seal..mark.to_seal).contains(&chunk.seal)) {
            Some(mark) => Some(mark.since_s),
            None if chunk.intake_s > 0 => Some(chunk.intake_s),
            None => marks.iter().find(|mark| mark.to_seal > chunk.seal).map(|mark| mark.since_s),
        }
    }
}

/// A time that went on with the uptime.
fn on((ms, at_ms): (i64, u64), uptime_ms: u64) -> i64 {
    ms.saturating_add(i64::try_from(uptime_ms.saturating_sub(at_ms)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;
    const NOW_MS: i64 = EARLIEST_MS + 1_000 * DAY_MS;
    const DAY: u64 = DAY_MS as u64;

    fn kernel(uptime_ms: u64, is_synchronised: bool) -> KernelTime {
        KernelTime { uptime_ms, is_synchronised }
    }

    fn chunk(seal: u64, now_ms: Option<i64>) -> ChunkRef {
        ChunkRef { seal, base: 0, max_timestamp_ms: 0, last_delta: 0, intake_s: intake_s(now_ms), length: 100 }
    }

    fn seconds(ms: i64) -> Option<u32> {
        Some(intake_s(Some(ms)))
    }

    #[test]
    fn a_clock_nobody_keeps_moves_no_faster_than_the_uptime() {
        let mut time = Time::default();
        for (clock_ms, uptime_ms, believed) in [
            (5_000, 1_000, None),
            (EARLIEST_MS - 1, 2_000, None),
            (NOW_MS, 3_000, Some(NOW_MS)),
            (NOW_MS + 75 * 365 * DAY_MS, 4_000, Some(NOW_MS + 1_000)),
            (NOW_MS - 10 * 365 * DAY_MS, 5_000, Some(NOW_MS + 2_000)),
            (0, 6_000, Some(NOW_MS + 3_000)),
            (i64::MAX, 3_000 + DAY, Some(NOW_MS + DAY_MS)),
            (i64::MIN, 3_000 + DAY, Some(NOW_MS + DAY_MS)),
        ] {
            assert_eq!(time.read(clock_ms, kernel(uptime_ms, false), 1).now_ms, believed, "{clock_ms}");
        }
        // Only one that is kept in step may move it, either way, and one of 1970 is not believed even then.
        for (clock_ms, believed) in
            [(NOW_MS + 9 * DAY_MS, NOW_MS + 9 * DAY_MS), (0, NOW_MS + 9 * DAY_MS), (NOW_MS, NOW_MS)]
        {
            assert_eq!(time.read(clock_ms, kernel(3_000 + DAY, true), 1).now_ms, Some(believed));
        }
    }

    #[test]
    fn the_time_between_boots_counts_once_a_synchronised_clock_tells_it() {
        let newest = NOW_MS - 10 * DAY_MS;
        let mut time = Time::new(Kept::default(), Some((newest, None)), 500, false);
        assert_eq!(time.read(NOW_MS, kernel(1_500, false), 7).now_ms, Some(newest + 1_000));
        let (old, early) = (chunk(6, Some(newest)), chunk(7, Some(newest + 1_000)));
        // Ten days went by unseen; what came in since the start is not ten days old.
        assert_eq!(time.read(NOW_MS, kernel(2_500, true), 8).now_ms, Some(NOW_MS));
        assert_eq!((time.since_s(&old), time.since_s(&early)), (seconds(newest), seconds(NOW_MS)));
        assert_eq!(time.since_s(&chunk(8, Some(NOW_MS + 5_000))), seconds(NOW_MS + 5_000));
        // Within one boot the uptime tells how long nothing ran.
        let mut time = Time::new(Kept::default(), Some((newest, Some(400))), 90_000, false);
        assert_eq!(time.read(0, kernel(90_400, false), 7).now_ms, Some(newest + 90_000));
    }

    #[test]
    fn what_came_under_a_wrong_clock_is_kept_neither_short_nor_for_ever() {
        let far = NOW_MS + 73 * 365 * DAY_MS;
        let mut time = Time::default();
        assert_eq!(time.read(far, kernel(0, false), 1).now_ms, Some(far));
        let wrong = chunk(1, Some(far));
        let kept = serde_json::to_vec(time.changed().unwrap()).unwrap();
        assert_eq!(time.changed(), None);
        // Through a restart without a synchronised clock.
        let mut time = Time::new(serde_json::from_slice(&kept).unwrap(), Some((far, None)), 0, false);
        assert_eq!(time.read(NOW_MS, kernel(DAY, false), 2).now_ms, Some(far + DAY_MS));
        assert_eq!(time.read(NOW_MS, kernel(DAY, true), 3).now_ms, Some(NOW_MS));
        for seal in [1, 2] {
            assert_eq!(time.since_s(&ChunkRef { seal, ..wrong }), seconds(NOW_MS));
        }
    }

    #[test]
    fn what_came_without_a_clock_counts_from_when_there_was_one() {
        let mut time = Time::default();
        assert_eq!(time.read(1_000, kernel(0, false), 1).now_ms, None);
        time.dark();
        assert_eq!(time.since_s(&chunk(1, None)), None);
        assert_eq!(time.read(NOW_MS, kernel(9_000, false), 5).now_ms, Some(NOW_MS));
        assert_eq!(time.since_s(&chunk(1, None)), seconds(NOW_MS));
        assert_eq!(time.since_s(&chunk(4, None)), seconds(NOW_MS));
        assert_eq!(time.since_s(&chunk(5, None)), None, "later ones have a time of their own");
    }

    #[test]
    fn jumps_are_told_but_not_too_often() {
        let mut time = Time::default();
        let mut told = |clock_ms, uptime_ms| time.read(clock_ms, kernel(uptime_ms, false), 1).jump;
        assert_eq!(told(1_000, 0), None);
        assert_eq!(told(31_000, 10_000), None, "drift");
        let jump = Jump { from_ms: 32_000, to_ms: NOW_MS, is_synchronised: false };
        assert_eq!(told(NOW_MS, 11_000), Some(jump));
        assert_eq!(told(0, 12_000), None);
        assert_eq!(told(NOW_MS, 80_000).map(|j| j.to_ms), Some(NOW_MS));
    }

    #[test]
    fn marks_are_bounded_and_merged_to_the_later_time() {
        let mut time = Time::default();
        for i in 0..100 {
            time.mark(i * 10, i * 10 + 10, NOW_MS + i64::try_from(i).unwrap() * 1_000);
        }
        assert_eq!(time.kept.marks.len(), MOST_MARKS);
        assert_eq!(time.since_s(&chunk(5, Some(NOW_MS))), seconds(NOW_MS + 68_000));
        assert_eq!(time.since_s(&chunk(995, Some(NOW_MS))), seconds(NOW_MS + 99_000));
    }
}
