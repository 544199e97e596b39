//! `system.memory`: RAM, swap, huge pages and what the kernel does to find free pages.
//!
//! `used` counts the page cache as used, `actual.used` does not: so metricbeat has it.

use std::io;

use serde::Serialize;

use super::{
    event::Pct,
    files::{Files, lines, number, odd, words},
};

/// `system.memory`, all in bytes or pages.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    memory: Ram,
}

#[derive(Debug, Serialize)]
struct Ram {
    total: u64,
    used: Used,
    free: u64,
    cached: u64,
    actual: Actual,
    swap: Swap,
    hugepages: HugePages,
    page_stats: PageStats,
    #[serde(skip_serializing_if = "Option::is_none")]
    zswap: Option<Zswap>,
}

#[derive(Debug, Serialize)]
struct Used {
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pct: Option<Pct>,
}

#[derive(Debug, Serialize)]
struct Actual {
    free: u64,
    used: Used,
}

#[derive(Debug, Serialize)]
struct Swap {
    total: u64,
    used: Used,
    free: u64,
    r#in: Pages,
    out: Pages,
    readahead: Readahead,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Pages {
    pages: u64,
}

#[derive(Debug, Serialize)]
struct Readahead {
    cached: u64,
    pages: u64,
}

#[derive(Debug, Serialize)]
struct HugePages {
    total: u64,
    used: Used,
    free: u64,
    reserved: u64,
    surplus: u64,
    default_size: u64,
    swap: HugeSwap,
}

#[derive(Debug, Serialize)]
struct HugeSwap {
    out: HugeOut,
}

#[derive(Debug, Serialize)]
struct HugeOut {
    pages: u64,
    fallback: u64,
}

#[derive(Debug, Serialize)]
struct PageStats {
    pgfree: Pages,
    pgscan_direct: Pages,
    pgscan_kswapd: Pages,
    pgsteal_direct: Pages,
    pgsteal_kswapd: Pages,
    #[serde(skip_serializing_if = "Option::is_none")]
    direct_efficiency: Option<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kswapd_efficiency: Option<Share>,
}

#[derive(Debug, Serialize)]
struct Share {
    pct: Pct,
}

#[derive(Debug, Serialize)]
struct Zswap {
    compressed: u64,
    uncompressed: u64,
}

/// The rows of `/proc/meminfo` that are used; bytes, but for the counts of huge pages.
#[derive(Debug, Default)]
struct Info {
    total: u64,
    free: u64,
    available: Option<u64>,
    buffers: u64,
    cached: u64,
    swap_total: u64,
    swap_free: u64,
    zswap: Option<u64>,
    zswapped: Option<u64>,
    huge_total: u64,
    huge_free: u64,
    huge_reserved: u64,
    huge_surplus: u64,
    huge_bytes: u64,
}

/// The rows of `/proc/vmstat` that are used, in pages.
#[derive(Debug, Default)]
struct Vm {
    swap_in: u64,
    swap_out: u64,
    readahead: u64,
    readahead_hit: u64,
    huge_out: u64,
    huge_fallback: u64,
    free: u64,
    scan_direct: u64,
    scan_kswapd: u64,
    steal_direct: u64,
    steal_kswapd: u64,
}

pub(super) fn read(proc: &mut Files) -> io::Result<Memory> {
    let info = info(proc)?;
    let vm = vm(proc)?;
    let used = |used: u64, total: u64| Used { bytes: used, pct: (total > 0).then(|| Pct::of(used, total)) };
    let actual_free = info.available.unwrap_or(info.free + info.buffers + info.cached);
    let huge_used = info.huge_total.saturating_sub(info.huge_free) + info.huge_reserved;
    let efficiency = |stolen: u64, scanned: u64| (scanned > 0).then(|| Share { pct: Pct::of(stolen, scanned) });
    let pages = |pages| Pages { pages };
    Ok(Memory {
        memory: Ram {
            total: info.total,
            used: used(info.total.saturating_sub(info.free), info.total),
            free: info.free,
            cached: info.cached,
            actual: Actual { free: actual_free, used: used(info.total.saturating_sub(actual_free), info.total) },
            swap: Swap {
                total: info.swap_total,
                used: used(info.swap_total.saturating_sub(info.swap_free), info.swap_total),
                free: info.swap_free,
                r#in: pages(vm.swap_in),
                out: pages(vm.swap_out),
                readahead: Readahead { cached: vm.readahead_hit, pages: vm.readahead },
            },
            hugepages: HugePages {
                total: info.huge_total,
                used: Used { bytes: huge_used * info.huge_bytes, pct: Some(Pct::of(huge_used, info.huge_total)) },
                free: info.huge_free,
                reserved: info.huge_reserved,
                surplus: info.huge_surplus,
                default_size: info.huge_bytes,
                swap: HugeSwap { out: HugeOut { pages: vm.huge_out, fallback: vm.huge_fallback } },
            },
            page_stats: PageStats {
                pgfree: pages(vm.free),
                pgscan_direct: pages(vm.scan_direct),
                pgscan_kswapd: pages(vm.scan_kswapd),
                pgsteal_direct: pages(vm.steal_direct),
                pgsteal_kswapd: pages(vm.steal_kswapd),
                direct_efficiency: efficiency(vm.steal_direct, vm.scan_direct),
                kswapd_efficiency: efficiency(vm.steal_kswapd, vm.scan_kswapd),
            },
            zswap: info.zswap.zip(info.zswapped).map(|(compressed, uncompressed)| Zswap { compressed, uncompressed }),
        },
    })
}

impl Memory {
    /// Bytes of RAM.
    pub(super) fn total_bytes(&self) -> u64 {
        self.memory.total
    }
}

/// Bytes of RAM, for the processes' shares.
pub(super) fn total_bytes(proc: &mut Files) -> io::Result<u64> {
    info(proc).map(|i| i.total)
}

fn info(proc: &mut Files) -> io::Result<Info> {
    let mut info = Info::default();
    for line in lines(proc.read("meminfo")?) {
        let mut words = words(line);
        let name = words.next().unwrap_or_default();
        let Some(count) = words.next().and_then(number) else { continue };
        let bytes = count.saturating_mul(1024);
        match name {
            b"MemTotal:" => info.total = bytes,
            b"MemFree:" => info.free = bytes,
            b"MemAvailable:" => info.available = Some(bytes),
            b"Buffers:" => info.buffers = bytes,
            b"Cached:" => info.cached = bytes,
            b"SwapTotal:" => info.swap_total = bytes,
            b"SwapFree:" => info.swap_free = bytes,
            b"Zswap:" => info.zswap = Some(bytes),
            b"Zswapped:" => info.zswapped = Some(bytes),
            b"HugePages_Total:" => info.huge_total = count,
            b"HugePages_Free:" => info.huge_free = count,
            b"HugePages_Rsvd:" => info.huge_reserved = count,
            b"HugePages_Surp:" => info.huge_surplus = count,
            b"Hugepagesize:" => info.huge_bytes = bytes,
            _ => {}
        }
    }
    if info.total == 0 { Err(odd("no MemTotal in /proc/meminfo")) } else { Ok(info) }
}

fn vm(proc: &mut Files) -> io::Result<Vm> {
    let mut vm = Vm::default();
    for line in lines(proc.read("vmstat")?) {
        // Some 190 rows, of which eleven count: look at the name's beginning before anything is split.
        if !(line.starts_with(b"pg")
            || line.starts_with(b"psw")
            || line.starts_with(b"sw")
            || line.starts_with(b"thp_sw"))
        {
            continue;
        }
        let mut words = words(line);
        let name = words.next().unwrap_or_default();
        let field = match name {
            b"pswpin" => &mut vm.swap_in,
            b"pswpout" => &mut vm.swap_out,
            b"swap_ra" => &mut vm.readahead,
            b"swap_ra_hit" => &mut vm.readahead_hit,
            b"thp_swpout" => &mut vm.huge_out,
            b"thp_swpout_fallback" => &mut vm.huge_fallback,
            b"pgfree" => &mut vm.free,
            b"pgscan_direct" => &mut vm.scan_direct,
            b"pgscan_kswapd" => &mut vm.scan_kswapd,
            b"pgsteal_direct" => &mut vm.steal_direct,
            b"pgsteal_kswapd" => &mut vm.steal_kswapd,
            _ => continue,
        };
        *field = words.next().and_then(number).unwrap_or(0);
    }
    Ok(vm)
}
