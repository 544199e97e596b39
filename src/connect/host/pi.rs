//! `pi`: what a Raspberry Pi says beyond any other host, each figure where its file exists.
//!
//! Where the files lie is found out once. A host that has none of those that only such boards have sends no event;
//! CPU frequency, pressure and wireless alone do not make a board.

use std::io;

use serde::Serialize;

use super::files::{Files, lines, number, words};

/// Firmware state in hexadecimal, only in the kernels of Raspberry Pi OS.
const THROTTLED: &str = "devices/platform/soc/soc:firmware/get_throttled";

/// Bytes of a sector in `/proc/diskstats`, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;

/// `pi`.
#[derive(Debug, Serialize)]
pub(super) struct Pi {
    pi: Figures,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Figures {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temp: Option<Temp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttled: Option<Throttled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    undervoltage: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mmc: Option<Mmc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sd: Option<Sd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wifi: Option<Wifi>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fan: Option<Fan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pressure: Option<Pressure>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Temp {
    soc: Celsius,
}

#[derive(Debug, PartialEq, Serialize)]
struct Celsius {
    celsius: f64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Throttled {
    raw: u64,
    now: Reasons,
    /// Since boot.
    occurred: Reasons,
}

#[derive(Debug, PartialEq, Serialize)]
struct Reasons {
    under_voltage: bool,
    frequency_capped: bool,
    throttled: bool,
    soft_temperature_limit: bool,
}

#[derive(Debug, PartialEq, Serialize)]
struct Cpu {
    freq: Mhz,
}

#[derive(Debug, PartialEq, Serialize)]
struct Mhz {
    mhz: u64,
}

/// An eMMC's own estimate of its wear; SD cards have none.
#[derive(Debug, PartialEq, Serialize)]
struct Mmc {
    /// In tenths of the life that is used up, 1 to 10; 11 is beyond it.
    life_time_a: u64,
    life_time_b: u64,
    /// 1 normal, 2 warning at 80 %, 3 urgent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pre_eol: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Sd {
    /// Since boot.
    written_bytes: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Wifi {
    interface: String,
    signal_dbm: f64,
    link_quality: f64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Fan {
    rpm: u64,
}

/// Share of the last ten seconds in which some task waited, 0 to 100.
#[derive(Debug, PartialEq, Serialize)]
struct Pressure {
    cpu: f64,
    io: f64,
    memory: f64,
}

/// Where this board's files are.
#[derive(Debug, Default)]
pub(super) struct Board {
    model: Option<String>,
    temp: Option<String>,
    has_throttled: bool,
    undervoltage: Option<String>,
    fan: Option<String>,
    has_card: bool,
    has_eol: bool,
}

impl Board {
    /// Looks for the files; `None` if this is no such board.
    pub(super) fn find(proc: &mut Files, sys: &mut Files) -> Option<Self> {
        let model = proc.text("device-tree/model").filter(|m| m.contains("Raspberry Pi")).map(str::to_owned);
        let named = |sys: &mut Files, directory: &str, file: &str, name: &str| {
            let mut found = Vec::new();
            sys.names(directory, |n| found.push(format!("{directory}/{n}"))).ok()?;
            found.sort_unstable();
            found.into_iter().find(|path| sys.text(&format!("{path}/{file}")) == Some(name))
        };
        let zone = named(sys, "class/thermal", "type", "cpu-thermal");
        let voltage = named(sys, "class/hwmon", "name", "rpi_volt");
        let fan = named(sys, "class/hwmon", "name", "pwmfan");
        let board = Self {
            model,
            temp: zone.map(|z| z + "/temp"),
            has_throttled: sys.read(THROTTLED).is_ok(),
            undervoltage: voltage.map(|v| v + "/in0_lcrit_alarm"),
            fan: fan.map(|f| f + "/fan1_input"),
            has_card: sys.read("block/mmcblk0/stat").is_ok(),
            has_eol: sys.read("block/mmcblk0/device/life_time").is_ok(),
        };
        let is_one = board.model.is_some()
            || board.temp.is_some()
            || board.has_throttled
            || board.undervoltage.is_some()
            || board.has_card;
        is_one.then_some(board)
    }

    /// Reads what there is.
    pub(super) fn read(&self, proc: &mut Files, sys: &mut Files) -> io::Result<Pi> {
        let temp = self.temp.as_deref().and_then(|path| sys.number::<f64>(path));
        let raw = self.has_throttled.then(|| hex(sys.text(THROTTLED)?)).flatten();
        let undervoltage = self.undervoltage.as_deref().and_then(|path| sys.number::<u8>(path));
        let khz = sys.number::<u64>("devices/system/cpu/cpu0/cpufreq/scaling_cur_freq");
        let fan = self.fan.as_deref().and_then(|path| sys.number::<u64>(path));
        let figures = Figures {
            model: self.model.clone(),
            temp: temp.map(|milli| Temp { soc: Celsius { celsius: milli / 1000.0 } }),
            throttled: raw.map(throttled),
            undervoltage: undervoltage.map(|alarm| alarm != 0),
            cpu: khz.map(|khz| Cpu { freq: Mhz { mhz: khz / 1000 } }),
            mmc: if self.has_eol { mmc(sys) } else { None },
            sd: if self.has_card { card(sys) } else { None },
            wifi: proc.read("net/wireless").ok().and_then(wireless),
            fan: fan.map(|rpm| Fan { rpm }),
            pressure: pressure(proc),
        };
        Ok(Pi { pi: figures })
    }
}

fn throttled(raw: u64) -> Throttled {
    let reasons = |shift: u32| {
        let is = |bit: u32| raw >> (bit + shift) & 1 == 1;
        Reasons { under_voltage: is(0), frequency_capped: is(1), throttled: is(2), soft_temperature_limit: is(3) }
    };
    Throttled { raw, now: reasons(0), occurred: reasons(16) }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

fn mmc(sys: &mut Files) -> Option<Mmc> {
    let (a, b) = sys.text("block/mmcblk0/device/life_time")?.split_once(' ')?;
    let (life_time_a, life_time_b) = (hex(a)?, hex(b)?);
    let pre_eol = sys.text("block/mmcblk0/device/pre_eol_info").and_then(hex);
    Some(Mmc { life_time_a, life_time_b, pre_eol })
}

fn card(sys: &mut Files) -> Option<Sd> {
    let sectors = words(sys.read("block/mmcblk0/stat").ok()?).nth(6).and_then(number)?;
    Some(Sd { written_bytes: sectors.saturating_mul(SECTOR_BYTES) })
}

/// The first interface of `/proc/net/wireless`: name, status, link, level, noise, ….
fn wireless(bytes: &[u8]) -> Option<Wifi> {
    let mut fields = words(lines(bytes).nth(2)?).map(|w| std::str::from_utf8(w).unwrap_or_default());
    let interface = fields.next()?.trim_end_matches(':').to_owned();
    let mut figure = |skip: usize| fields.nth(skip)?.trim_end_matches('.').parse::<f64>().ok();
    let (link_quality, signal_dbm) = (figure(1)?, figure(0)?);
    Some(Wifi { interface, signal_dbm, link_quality })
}

fn pressure(proc: &mut Files) -> Option<Pressure> {
    let mut some = |path: &str| {
        let line = lines(proc.read(path).ok()?).find(|l| l.starts_with(b"some "))?;
        let average = words(line).find_map(|w| w.strip_prefix(b"avg10="))?;
        std::str::from_utf8(average).ok()?.parse::<f64>().ok()
    };
    Some(Pressure { cpu: some("pressure/cpu")?, io: some("pressure/io")?, memory: some("pressure/memory")? })
}
