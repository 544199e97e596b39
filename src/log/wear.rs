//! What the log writes to flash: counted over restarts, and kept within a budget.
//!
//! Counts whole pages as they are handed to the kernel; the file system's own journal comes on top. Time is uptime of
//! the log, never the wall clock. The counts ride in commits that are made anyway, at most once a minute, so that an idle
//! log writes nothing; a kill loses the last minute of them. The budget never refuses: it only says until when writes
//! that somebody waits for should share commits as if nobody did.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use super::layout::{PAGE_BYTES, Reader};

/// Hours of uptime that count as the last day.
const HOURS: usize = 24;
const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 24 * HOUR_S;
/// How often the counts go along with a commit.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// Below this uptime an average per day says nothing.
const LEAST_UPTIME_S: u64 = HOUR_S;
/// 20 GB a day: a card of 32 GB that bears 300 rewrites lasts 480 days of nothing else.
const CARD_BYTES_PER_DAY: u64 = 20_000_000_000;
const FORMAT: u8 = 1;

/// Key of the counts within the log's own state.
pub(super) const KEY: &[u8] = b"w";

/// How many bytes a day the log may write before writes that somebody waits for are held up to `linger` to share
/// commits. Nothing is ever refused for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum WearBudget {
    /// 20 GB on SD cards and eMMC, none elsewhere.
    #[default]
    Auto,
    /// None.
    Off,
    /// So many bytes per day of uptime.
    BytesPerDay(u64),
}

impl TryFrom<String> for WearBudget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            size => match size.parse::<bytesize::ByteSize>() {
                Ok(size) if size.as_u64() > 0 => Ok(Self::BytesPerDay(size.as_u64())),
                _ => Err(format!("expected \"auto\", \"off\" or the bytes per day, such as \"20GB\", not \"{size}\"")),
            },
        }
    }
}

impl From<WearBudget> for String {
    fn from(budget: WearBudget) -> Self {
        match budget {
            WearBudget::Auto => "auto".into(),
            WearBudget::Off => "off".into(),
            WearBudget::BytesPerDay(bytes) => format!("{bytes}B"),
        }
    }
}

impl WearBudget {
    /// Bytes per day; `None` where there is no limit.
    pub fn bytes_per_day(self, is_card: bool) -> Option<u64> {
        match self {
            Self::Auto => is_card.then_some(CARD_BYTES_PER_DAY),
            Self::Off => None,
            Self::BytesPerDay(bytes) => Some(bytes),
        }
    }
}

/// The wear of the card by this log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wear {
    /// Bytes written since the data file was made, over restarts.
    pub total_bytes: u64,
    /// Batch bytes taken in since then.
    pub payload_bytes: u64,
    /// Seconds that the log was open since then.
    pub uptime_s: u64,
    /// Bytes written in the last 24 hours of uptime, the current one begun.
    pub last_day_bytes: u64,
    /// The budget in force.
    pub budget_bytes_per_day: Option<u64>,
    /// Whether the budget is used up, so that producers are held up to `linger`.
    pub is_sparing: bool,
    /// What the card is rated for, as configured.
    pub endurance_bytes: Option<u64>,
}

impl Wear {
    /// Bytes written per day of uptime on average; `None` in the first hour.
    pub fn bytes_per_day(&self) -> Option<u64> {
        let bytes = u128::from(self.total_bytes) * u128::from(DAY_S) / u128::from(self.uptime_s.max(1));
        (self.uptime_s >= LEAST_UPTIME_S).then(|| u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    /// Bytes written for each batch byte taken in; `None` before the first.
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn ratio(&self) -> Option<f64> {
        (self.payload_bytes > 0).then(|| self.total_bytes as f64 / self.payload_bytes as f64)
    }

    /// Years until this log alone has written what the card is rated for, at the average so far; 0 once it has.
    #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
    pub fn years_left(&self) -> Option<f64> {
        let left = self.endurance_bytes?.saturating_sub(self.total_bytes);
        let per_day = self.bytes_per_day().filter(|bytes| *bytes > 0)?;
        Some(left as f64 / per_day as f64 / 365.25)
    }
}

/// The counts, and the budget they are spent from.
#[derive(Debug)]
pub(super) struct Account {
    opened: Instant,
    /// Uptime of the runs before.
    uptime_before: Duration,
    total_bytes: u64,
    payload_bytes: u64,
    /// Bytes by hour of uptime, and the hour of the newest.
    hours: [u64; HOURS],
    hour: u64,
    bucket: Option<Bucket>,
    endurance_bytes: Option<u64>,
    note_at: Instant,
}

impl Account {
    /// Goes on from the counts of the run before; what does not parse counts as none.
    pub(super) fn new(
        noted: Option<&[u8]>,
        bytes_per_day: Option<u64>,
        endurance_bytes: Option<u64>,
        now: Instant,
    ) -> Self {
        let mut account = Self {
            opened: now,
            uptime_before: Duration::ZERO,
            total_bytes: 0,
            payload_bytes: 0,
            hours: [0; HOURS],
            hour: 0,
            bucket: bytes_per_day.map(|bytes| Bucket::new(bytes, now)),
            endurance_bytes,
            note_at: now + NOTE_EVERY,
        };
        if noted.is_some_and(|noted| account.restore(noted).is_none()) {
            tracing::warn!("the counts of bytes written do not parse; they begin anew");
        }
        account
    }

    fn restore(&mut self, noted: &[u8]) -> Option<()> {
        let mut reader = Reader(noted);
        let [format] = reader.array()?;
        let total_bytes = u64::from_be_bytes(reader.array()?);
        let payload_bytes = u64::from_be_bytes(reader.array()?);
        let uptime_s = u64::from_be_bytes(reader.array()?);
        let mut hours = [0; HOURS];
        for hour in &mut hours {
            *hour = u64::from(u32::from_be_bytes(reader.array()?)) * PAGE_BYTES as u64;
        }
        if format != FORMAT || !reader.0.is_empty() {
            return None;
        }
        self.uptime_before = Duration::from_secs(uptime_s);
        self.hour = uptime_s / HOUR_S;
        (self.total_bytes, self.payload_bytes, self.hours) = (total_bytes, payload_bytes, hours);
        Some(())
    }

    /// The counts for a commit that is made anyway, if they were not noted lately.
    pub(super) fn note(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.note_at {
            return None;
        }
        self.note_at = now + NOTE_EVERY;
        self.turn(now);
        let mut out = vec![FORMAT];
        for figure in [self.total_bytes, self.payload_bytes, self.uptime_s(now)] {
            out.extend_from_slice(&figure.to_be_bytes());
        }
        for bytes in self.hours {
            let pages = u32::try_from(bytes / PAGE_BYTES as u64).unwrap_or(u32::MAX);
            out.extend_from_slice(&pages.to_be_bytes());
        }
        Some(out)
    }

    /// Counts what was written for so much payload. Answers until when the budget is used up, if it is.
    pub(super) fn spend(&mut self, bytes: u64, payload_bytes: u64, now: Instant) -> Option<Instant> {
        self.turn(now);
        self.total_bytes += bytes;
        self.payload_bytes += payload_bytes;
        self.hours[at(self.hour)] += bytes;
        self.bucket.as_mut()?.spend(bytes, now)
    }

    /// The figures now.
    pub(super) fn wear(&mut self, now: Instant) -> Wear {
        self.turn(now);
        Wear {
            total_bytes: self.total_bytes,
            payload_bytes: self.payload_bytes,
            uptime_s: self.uptime_s(now),
            last_day_bytes: self.hours.iter().sum(),
            budget_bytes_per_day: self.bucket.as_ref().map(|bucket| bucket.bytes_per_day),
            is_sparing: self.bucket.as_mut().is_some_and(|bucket| bucket.spend(0, now).is_some()),
            endurance_bytes: self.endurance_bytes,
        }
    }

    fn uptime_s(&self, now: Instant) -> u64 {
        (self.uptime_before + now.saturating_duration_since(self.opened)).as_secs()
    }

    /// Begins the hours that have come.
    fn turn(&mut self, now: Instant) {
        let hour = self.uptime_s(now) / HOUR_S;
        let passed = hour.saturating_sub(self.hour).min(HOURS as u64);
        for back in 0..passed {
            self.hours[at(hour - back)] = 0;
        }
        self.hour = hour;
    }
}

/// Place of an hour.
fn at(hour: u64) -> usize {
    usize::try_from(hour % HOURS as u64).expect("less than a day")
}

/// A token bucket of bytes that holds an hour's worth and owes no more than that.
#[derive(Debug)]
struct Bucket {
    bytes_per_day: u64,
    /// Byte-days over the day's seconds: bytes times [`DAY_S`], so that a slow trickle is not lost in rounding.
    level: i128,
    filled: Instant,
}

impl Bucket {
    fn new(bytes_per_day: u64, now: Instant) -> Self {
        let mut bucket = Self { bytes_per_day, level: 0, filled: now };
        bucket.level = bucket.hour();
        bucket
    }

    fn hour(&self) -> i128 {
        i128::from(self.bytes_per_day) * i128::from(HOUR_S)
    }

    /// Takes so many bytes out. Answers when it will hold some again, if it does not.
    fn spend(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        let passed = now.saturating_duration_since(self.filled);
        self.filled = now;
        let income = i128::from(self.bytes_per_day) * i128::try_from(passed.as_micros()).unwrap_or(i128::MAX / 2);
        let filled = (self.level + income / 1_000_000).min(self.hour());
        self.level = (filled - i128::from(bytes) * i128::from(DAY_S)).max(-self.hour());
        if self.level > 0 {
            return None;
        }
        let owed_s = -self.level / i128::from(self.bytes_per_day.max(1));
        Some(now + Duration::from_secs(u64::try_from(owed_s).unwrap_or(HOUR_S) + 1))
    }
}

/// Counts the bytes that the calling thread hands to the kernel: the honest figure of what a flash card has to write.
///
/// `write_bytes` of the same file is none, because new kernels count whole folios.
pub(super) struct WearMeter(Option<File>);

impl WearMeter {
    /// Measures the thread that calls this.
    pub(super) fn of_this_thread() -> Self {
        let file = File::open("/proc/thread-self/io").ok();
        if file.is_none() {
            tracing::debug!("/proc does not count the writer's bytes; figures of bytes written are estimates");
        }
        Self(file)
    }

    /// Bytes written so far; `None` where the kernel does not count.
    pub(super) fn bytes(&self) -> Option<u64> {
        let mut buffer = [0; 256];
        let length = self.0.as_ref()?.read_at(&mut buffer, 0).ok()?;
        let text = std::str::from_utf8(&buffer[..length]).ok()?;
        text.lines().find_map(|line| line.strip_prefix("wchar: "))?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_meter_counts_this_threads_writes() {
        let meter = WearMeter::of_this_thread();
        let mut file = tempfile::tempfile().unwrap();
        let before = meter.bytes().unwrap();
        file.write_all(&[0; 5000]).unwrap();
        assert_eq!(meter.bytes().unwrap() - before, 5000);
    }

    #[test]
    fn the_bucket_holds_an_hour_and_fills_with_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(24 * MIB, start);
        assert_eq!(bucket.spend(MIB - 1, start), None, "an hour's burst is free");
        assert!(bucket.spend(1, start).is_some());
        // Half a MiB owed takes half an hour.
        let until = bucket.spend(MIB / 2, start).unwrap();
        assert_eq!(until - start, Duration::from_secs(HOUR_S / 2 + 1));
        assert!(bucket.spend(0, until - Duration::from_secs(2)).is_some());
        assert_eq!(bucket.spend(0, until), None);
        // However much is owed, an hour mends it; however long nothing comes, an hour's burst is all.
        let until = bucket.spend(100 * MIB, until).unwrap();
        assert_eq!(bucket.spend(0, until), None);
        let later = until + Duration::from_secs(10 * DAY_S);
        assert_eq!(bucket.spend(MIB - 1, later), None);
        assert!(bucket.spend(2, later).is_some());
    }

    #[test]
    fn a_trickle_fills_the_bucket_however_often_it_is_looked_at() {
        let start = Instant::now();
        let mut bucket = Bucket::new(DAY_S, start); // A byte a second.
        bucket.spend(HOUR_S, start);
        let mut now = start;
        for _ in 0..100_000 {
            now += Duration::from_micros(100);
            bucket.spend(0, now);
        }
        assert_eq!(bucket.spend(9, now), None, "ten seconds have brought ten bytes");
        assert!(bucket.spend(2, now).is_some());
    }

    #[test]
    fn the_last_day_rolls_by_hours_of_uptime() {
        let start = Instant::now();
        let hours = |n: u64| start + Duration::from_secs(n * HOUR_S);
        let mut account = Account::new(None, None, None, start);
        assert_eq!(account.spend(MIB, 1000, start), None);
        account.spend(2 * MIB, 1000, hours(5));
        assert_eq!(account.wear(hours(23)).last_day_bytes, 3 * MIB);
        assert_eq!(account.wear(hours(24)).last_day_bytes, 2 * MIB);
        assert_eq!(account.wear(hours(29)).last_day_bytes, 0);
        account.spend(7, 0, hours(1_000));
        let wear = account.wear(hours(1_000));
        assert_eq!((wear.last_day_bytes, wear.total_bytes, wear.payload_bytes), (7, 3 * MIB + 7, 2_000));
    }

    #[test]
    fn counts_go_on_after_a_restart_and_ride_at_most_once_a_minute() {
        let start = Instant::now();
        let minute = NOTE_EVERY;
        let mut account = Account::new(None, None, None, start);
        account.spend(3 * MIB, MIB, start);
        assert_eq!(account.note(start + minute - Duration::from_secs(1)), None);
        let noted = account.note(start + 90 * minute).unwrap();
        assert_eq!(account.note(start + 90 * minute), None);
        let mut again = Account::new(Some(&noted), None, Some(1 << 40), start);
        let wear = again.wear(start + 30 * minute);
        assert_eq!((wear.total_bytes, wear.payload_bytes, wear.uptime_s), (3 * MIB, MIB, 2 * HOUR_S));
        assert_eq!(wear.last_day_bytes, 3 * MIB);
        assert_eq!(wear.bytes_per_day(), Some(36 * MIB));
        assert_eq!(wear.ratio(), Some(3.0));
        let years = wear.years_left().unwrap();
        assert!((years - (1u64 << 20) as f64 / 36.0 / 365.25).abs() < 0.1, "{years}");
        for cut in [0, 1, noted.len() - 1] {
            assert_eq!(Account::new(Some(&noted[..cut]), None, None, start).wear(start).total_bytes, 0);
        }
    }

    #[test]
    fn budgets_in_words() {
        let parse = |text: &str| WearBudget::try_from(text.to_owned());
        assert_eq!(parse("auto").unwrap().bytes_per_day(true), Some(20_000_000_000));
        assert_eq!(parse("auto").unwrap().bytes_per_day(false), None);
        assert_eq!(parse("off").unwrap().bytes_per_day(true), None);
        assert_eq!(parse("5GB").unwrap(), WearBudget::BytesPerDay(5_000_000_000));
        for wrong in ["", "0", "none", "-1GB"] {
            assert!(parse(wrong).unwrap_err().contains("\"20GB\""), "{wrong}");
        }
        let shown = String::from(WearBudget::BytesPerDay(5_000_000_000));
        assert_eq!(parse(&shown), Ok(WearBudget::BytesPerDay(5_000_000_000)));
    }
}
