//! The envelope of an event as metricbeat 9 writes it, and its numbers and times.
//!
//! One JSON object per event, no line break. Percentages are fractions rounded to four decimals, half up, and print
//! without a point where they are whole. Never reads anything.

use std::{fmt::Write as _, io::Write as _, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, Serializer};

use super::Metricset;

/// The version of metricbeat whose events these are like; consumers choose index templates by it.
pub(super) const FORMAT_VERSION: &str = "9.2.3";

/// A fraction of something, or a load.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) struct Pct(pub(super) f64);

impl Pct {
    /// `part / whole`, 0 if there is no whole.
    pub(super) fn of(part: u64, whole: u64) -> Self {
        if whole == 0 { Self(0.0) } else { Self::round(part as f64 / whole as f64) }
    }

    /// Rounded to four decimals, half away from zero.
    pub(super) fn round(value: f64) -> Self {
        Self((value * 10_000.0).round() / 10_000.0)
    }
}

impl Serialize for Pct {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let rounded = Self::round(self.0).0;
        if rounded.fract() == 0.0 && rounded.abs() < 1e15 {
            s.serialize_i64(rounded as i64)
        } else {
            s.serialize_f64(rounded)
        }
    }
}

/// A time in milliseconds since 1970, written `YYYY-MM-DDTHH:MM:SS.mmmZ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(pub(super) i64);

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (days, of_day) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", of_day % 1000)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Year, month and day of a day counted from 1970-01-01, by the Gregorian calendar.
///
/// Years are counted from March, so that the day that leap years add is a year's last.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    let since_year_0 = days + 719_468;
    let (era, of_era) = (since_year_0.div_euclid(DAYS_IN_400_YEARS), since_year_0.rem_euclid(DAYS_IN_400_YEARS));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Who sends the events: the same in all of them until the daemon starts again.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Agent {
    ephemeral_id: String,
    id: String,
    pub(super) name: String,
    r#type: &'static str,
    version: &'static str,
}

impl Agent {
    /// The agent of the node `name`; `id` stays across restarts, `ephemeral` does not.
    pub(super) fn new(name: &str, id: [u8; 16], ephemeral: [u8; 16]) -> Self {
        Self {
            ephemeral_id: uuid(ephemeral),
            id: uuid(id),
            name: name.to_owned(),
            r#type: "metricbeat",
            version: FORMAT_VERSION,
        }
    }
}

/// Random bytes as a version 4 UUID.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            text.push('-');
        }
        let _ok = write!(text, "{byte:02x}");
    }
    text
}

#[derive(Serialize)]
struct Event<'a, B> {
    #[serde(rename = "@timestamp")]
    timestamp: &'a str,
    #[serde(rename = "@metadata")]
    metadata: Metadata,
    event: About,
    metricset: Set,
    service: Service,
    #[serde(flatten)]
    body: &'a B,
    ecs: Ecs,
    host: Host<'a>,
    agent: &'a Agent,
}

#[derive(Serialize)]
struct Metadata {
    beat: &'static str,
    r#type: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct About {
    dataset: &'static str,
    module: &'static str,
    duration: u64,
}

#[derive(Serialize)]
struct Set {
    name: &'static str,
    period: u64,
}

#[derive(Serialize)]
struct Service {
    r#type: &'static str,
}

#[derive(Serialize)]
struct Ecs {
    version: &'static str,
}

#[derive(Serialize)]
struct Host<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<HostCpu>,
    name: &'a str,
}

#[derive(Serialize)]
struct HostCpu {
    usage: Pct,
}

/// A body whose fields all lie under `system`.
#[derive(Serialize)]
pub(super) struct System<T> {
    pub(super) system: T,
}

/// What is true of one fetch of one metricset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    pub(super) metricset: Metricset,
    pub(super) period: Duration,
    pub(super) took: Duration,
}

/// The events of one tick, written one after another into one buffer.
pub(super) struct Events<'a> {
    agent: &'a Agent,
    timestamp: String,
    out: BytesMut,
    ends: Vec<usize>,
}

impl<'a> Events<'a> {
    /// Room for events of this moment; `expected_bytes` is what the last tick took.
    pub(super) fn at(now_ms: i64, agent: &'a Agent, expected_bytes: usize) -> Self {
        let out = BytesMut::with_capacity(expected_bytes);
        Self { agent, timestamp: Stamp(now_ms).to_string(), out, ends: Vec::with_capacity(32) }
    }

    /// Adds an event.
    pub(super) fn add(&mut self, fetch: Fetch, body: &impl Serialize) {
        self.add_with_usage(fetch, body, None);
    }

    /// Adds an event that also says how busy the host is.
    pub(super) fn add_with_usage(&mut self, fetch: Fetch, body: &impl Serialize, usage: Option<Pct>) {
        let Fetch { metricset, period, took } = fetch;
        let module = metricset.module();
        let event = Event {
            timestamp: &self.timestamp,
            metadata: Metadata { beat: "metricbeat", r#type: "_doc", version: FORMAT_VERSION },
            event: About { dataset: metricset.dataset(), module, duration: in_u64(took.as_nanos()) },
            metricset: Set { name: metricset.name(), period: in_u64(period.as_millis()) },
            service: Service { r#type: module },
            body,
            ecs: Ecs { version: "8.0.0" },
            host: Host { cpu: usage.map(|usage| HostCpu { usage }), name: &self.agent.name },
            agent: self.agent,
        };
        let mut writer = (&mut self.out).writer();
        serde_json::to_writer(&mut writer, &event).expect("names are strings and a buffer takes every byte");
        writer.flush().expect("a buffer takes every byte");
        self.ends.push(self.out.len());
    }

    /// The events' bytes in order, and how many they are in all.
    pub(super) fn finish(self) -> (usize, impl Iterator<Item = Bytes>) {
        let (all, mut start) = (self.out.freeze(), 0);
        (all.len(), self.ends.into_iter().map(move |end| all.slice(std::mem::replace(&mut start, end)..end)))
    }
}

fn in_u64(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(value: f64) -> String {
        serde_json::to_string(&Pct(value)).unwrap()
    }

    #[test]
    fn fractions_have_four_decimals_and_whole_ones_no_point() {
        for (value, text) in [
            (0.0, "0"),
            (8.8, "8.8"),
            (1.0, "1"),
            (0.12344999, "0.1234"),
            (0.12345, "0.1235"),
            (0.00004, "0"),
            (0.00005, "0.0001"),
            (-0.00001, "0"),
            (12.34567, "12.3457"),
        ] {
            assert_eq!(json(value), text, "{value}");
        }
        assert_eq!(Pct::of(1, 0), Pct(0.0));
        assert_eq!(Pct::of(2, 3), Pct(0.6667));
    }

    #[test]
    fn times_are_utc_with_three_decimals() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_738_310_126_557, "2025-01-31T07:55:26.557Z"),
            (1_767_225_599_999, "2025-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Stamp(ms).to_string(), text);
        }
    }

    proptest! {
        /// Days run on without a gap, and a month's first follows its last day.
        #[test]
        fn days_follow_each_other(days in -100_000i64..100_000) {
            let (y, m, d) = civil(days);
            let next = civil(days + 1);
            prop_assert!(next == (y, m, d + 1) || next == (y, m + 1, 1) || (m == 12 && d == 31 && next == (y + 1, 1, 1)));
        }
    }

    #[test]
    fn ids_are_uuids() {
        let text = uuid([0xff; 16]);
        assert_eq!(text, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
