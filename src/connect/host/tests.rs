use std::{cell::Cell, collections::BTreeSet, path::Path, time::Duration};

use serde_json::Value;

use super::*;
use crate::connect::testing::{open_log, read_all, read_batches};

const NOW_MS: i64 = 1_766_897_777_004;

fn samples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples"))
}

fn sample(file: &str) -> Value {
    let text = std::fs::read_to_string(samples().join("metricbeat").join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn wire(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(samples().join("metricbeat").join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The paths of all values that are no objects.
fn paths(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(k, v)| walk(v, &format!("{path}.{k}"), found)),
            _ => {
                found.insert(path.trim_start_matches('.').to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(value, "", &mut found);
    found
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

/// The root file system of `filesystem.data.v6.json`; the boot partition is a tenth of it.
fn ask(path: &Path) -> io::Result<filesystem::Space> {
    let whole = filesystem::Space {
        block_bytes: 4096,
        blocks: 16_448_139,
        free: 13_070_957,
        available: 12_228_013,
        files: 4_194_304,
        free_files: 3_862_303,
    };
    match path.to_str().unwrap() {
        // The second is a bind mount of the first.
        "/" | "/var/lib/brooklet" => Ok(whole),
        "/boot/firmware" => Ok(filesystem::Space { block_bytes: 512, files: 0, free_files: 0, ..whole }),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

struct Bench {
    sampler: Sampler,
    agent: Agent,
    now: Cell<Duration>,
}

impl Bench {
    fn new(proc: &str, sys: &str) -> Self {
        let at = |name: &str| samples().join(name);
        let roots = Roots { proc: at(proc), sys: at(sys), etc: at("etc"), asks_kernel: false };
        let agent = Agent::new("gateway-a.local", [1; 16], [2; 16]);
        Self { sampler: Sampler::open(&roots, ask).unwrap(), agent, now: Cell::new(Duration::ZERO) }
    }

    /// Ten seconds later the host has other figures.
    fn later(&mut self, proc: &str, by: Duration) {
        self.sampler.proc = Files::open(&samples().join(proc)).unwrap();
        self.now.set(self.now.get() + by);
    }

    /// Events of one tick. Each look at the clock takes a millisecond.
    fn tick(&mut self, metricsets: &[Metricset]) -> Vec<Value> {
        let due: Vec<_> = metricsets.iter().map(|m| (*m, Duration::from_secs(10))).collect();
        let mut events = Events::at(NOW_MS, &self.agent, 0);
        let start = self.now.get();
        let clock = || {
            let now = self.now.get();
            self.now.set(now + Duration::from_millis(1));
            now
        };
        let mut shared = Shared::default();
        due.into_iter().for_each(|due| self.sampler.fetch(due, &mut shared, &clock, &mut events));
        self.now.set(start);
        events.finish().1.map(|bytes| serde_json::from_slice(&bytes).unwrap()).collect()
    }

    fn one(&mut self, metricset: Metricset) -> Value {
        let mut events = self.tick(&[metricset]);
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }
}

fn first() -> Bench {
    Bench::new("proc-first", "sys-none")
}

#[test]
fn the_envelope_is_metricbeats() {
    let event = first().one(Metricset::Memory);
    let theirs = &wire("wire-9.2.3.ndjson")[1];
    let outside = |event: &Value| {
        let mut event = event.clone();
        event.as_object_mut().unwrap().remove("system");
        event
    };
    assert_eq!(paths(&outside(&event)), paths(&outside(theirs)));
    for path in ["@metadata", "metricset", "service", "ecs", "host"] {
        assert_eq!(event[path], theirs[path], "{path}");
    }
    assert_eq!(event["@timestamp"], "2025-12-28T04:56:17.004Z");
    assert_eq!(
        event["event"],
        serde_json::json!({"dataset": "system.memory", "module": "system", "duration": 1_000_000})
    );
    assert_eq!(event["agent"]["id"], "01010101-0101-4101-8101-010101010101");
    assert_eq!(event["agent"]["ephemeral_id"], "02020202-0202-4202-8202-020202020202");
    let keys: Vec<_> = event.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys[..2], ["@timestamp", "@metadata"], "these two come first");
}

#[test]
fn cpu_begins_with_the_average_since_boot_and_goes_on_with_the_tick() {
    let mut bench = first();
    let event = bench.one(Metricset::Cpu);
    let cpu = &event["system"]["cpu"];
    // 1000 of 10000 ticks on 4 cores.
    assert_eq!(cpu["user"], serde_json::json!({"pct": 0.4, "norm": {"pct": 0.1}}));
    assert_eq!(cpu["idle"], serde_json::json!({"pct": 3.2, "norm": {"pct": 0.8}}));
    assert_eq!(cpu["iowait"], serde_json::json!({"pct": 0.16, "norm": {"pct": 0.04}}));
    assert_eq!(cpu["total"], serde_json::json!({"pct": 0.64, "norm": {"pct": 0.16}}), "without waiting for disks");
    assert_eq!(cpu["nice"], serde_json::json!({"pct": 0, "norm": {"pct": 0}}), "a real zero is sent");
    assert_eq!(event["host"]["cpu"]["usage"], 0.16);

    bench.later("proc-second", Duration::from_secs(10));
    let event = bench.one(Metricset::Cpu);
    let cpu = &event["system"]["cpu"];
    assert_eq!(cpu["user"], serde_json::json!({"pct": 0.28, "norm": {"pct": 0.07}}));
    assert_eq!(cpu["system"], serde_json::json!({"pct": 0.2, "norm": {"pct": 0.05}}));
    assert_eq!(cpu["total"], serde_json::json!({"pct": 0.5, "norm": {"pct": 0.125}}));
    assert_eq!(event["host"]["cpu"]["usage"], cpu["total"]["norm"]["pct"]);

    let ours = paths(&event["system"]);
    let theirs = paths(&sample("cpu.data.json")["system"]);
    let theirs: BTreeSet<_> = theirs.into_iter().filter(|p| !p.ends_with(".ticks")).collect();
    assert_eq!(ours, theirs, "ticks are sent only where they are asked for");
    assert_eq!(bench.tick(&[Metricset::Cpu]), Vec::<Value>::new(), "no time has passed");
}

#[test]
fn cpu_rounds_as_the_events_on_the_wire() {
    let theirs = &wire("wire-cpu-8.17.1.ndjson")[0]["system"]["cpu"];
    let total = stat::Modes { user: 11_476, system: 7_411, idle: 81_113, ..Default::default() };
    let now = stat::Stat { total, cores: 10, ..Default::default() };
    let ours = serde_json::to_value(cpu::cpu(&stat::Modes::default(), &now).unwrap()).unwrap();
    for field in ["total", "user", "system", "idle", "nice", "cores"] {
        assert_eq!(ours["cpu"][field], theirs[field], "{field}");
    }
}

#[test]
fn iowait_that_runs_backwards_is_none() {
    let last = stat::Modes { iowait: 10, idle: 100, ..Default::default() };
    let total = stat::Modes { iowait: 5, idle: 200, ..Default::default() };
    let now = stat::Stat { total, cores: 1, ..Default::default() };
    let ours = serde_json::to_value(cpu::cpu(&last, &now).unwrap()).unwrap();
    assert_eq!((&ours["cpu"]["iowait"]["pct"], &ours["cpu"]["idle"]["pct"]), (&0.into(), &1.into()));
}

#[test]
fn load_memory_and_uptime_are_the_samples() {
    let mut bench = first();
    for (metricset, file) in [
        (Metricset::Load, "load.data.json"),
        (Metricset::Memory, "memory.data.json"),
        (Metricset::Uptime, "uptime.data.v6.json"),
    ] {
        assert_eq!(bench.one(metricset)["system"], sample(file)["system"], "{file}");
    }
}

#[test]
fn memory_leaves_out_the_share_of_a_swap_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let meminfo = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 50 kB\nCached: 150 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n\
                   Zswap: 8 kB\nZswapped: 16 kB\n";
    std::fs::write(dir.path().join("meminfo"), meminfo).unwrap();
    std::fs::write(dir.path().join("vmstat"), "pgfree 1\n").unwrap();
    let memory = memory::read(&mut Files::open(dir.path()).unwrap()).unwrap();
    let memory = &serde_json::to_value(memory).unwrap()["memory"];
    assert_eq!(memory["swap"]["used"], serde_json::json!({"bytes": 0}));
    assert_eq!(memory["actual"]["free"], 300 * 1024, "free, buffers and cache where the kernel has no MemAvailable");
    assert_eq!(memory["zswap"], serde_json::json!({"compressed": 8192, "uncompressed": 16384}));
    assert!(memory["page_stats"].get("direct_efficiency").is_none());
}

#[test]
fn every_interface_has_an_event() {
    let events = first().tick(&[Metricset::Network]);
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["system"], sample("network.data.v6.json")["system"]);
    let network = &events[1]["system"]["network"];
    assert_eq!(network["name"], "eth0.5:1");
    assert_eq!(network["in"], serde_json::json!({"bytes": 415_286_538, "packets": 12889, "errors": 1, "dropped": 2}));
    assert_eq!(network["out"], serde_json::json!({"bytes": 1_318_452, "packets": 8919, "errors": 7, "dropped": 8}));
}

fn by_pid(events: &[Value], pid: u32) -> &Value {
    events.iter().find(|e| e["process"]["pid"] == pid).unwrap_or_else(|| panic!("no {pid}"))
}

#[test]
fn a_process_has_the_samples_fields() {
    let mut bench = first();
    let events = bench.tick(&[Metricset::Process]);
    let docker = by_pid(&events, 2080);
    assert!(docker["system"]["process"]["cpu"]["total"].get("pct").is_none(), "nothing to compare the first time with");
    assert_eq!(docker["process"].get("cpu").unwrap().get("pct"), None);

    bench.later("proc-second", Duration::from_secs(10));
    let events = bench.tick(&[Metricset::Process]);
    let docker = by_pid(&events, 2080);
    let page_bytes = rustix::param::page_size() as u64;
    let system = &docker["system"]["process"];
    // 20 ticks of 10 ms in 10 s on 4 cores.
    assert_eq!(system["cpu"]["total"], serde_json::json!({"value": 27_700_200, "pct": 0.02, "norm": {"pct": 0.005}}));
    assert_eq!(system["cpu"]["start_time"], "2023-11-14T23:53:20.000Z");
    assert_eq!(system["memory"]["rss"]["bytes"], 289_024 * page_bytes);
    assert_eq!((&system["memory"]["size"], &system["memory"]["swap"]), (&4_438_523_904_u64.into(), &12288.into()));
    assert_eq!(system["memory"]["share"], 2015 * page_bytes);
    assert_eq!(system["fd"], serde_json::json!({"open": 3, "limit": {"soft": 1024, "hard": 1_048_576}}));
    assert_eq!((&system["state"], &system["num_threads"]), (&"sleeping".into(), &18.into()));
    assert_eq!(system["io"]["cancelled_write_bytes"], 17);
    assert_eq!(docker["user"]["name"], "root");
    let root = &docker["process"];
    assert_eq!((&root["name"], &root["parent"]["pid"], &root["pgid"]), (&"dockerd".into(), &1.into(), &2080.into()));
    assert_eq!(root["args"], sample("process.data.json")["process"]["args"]);
    assert_eq!(root["command_line"], system["cmdline"]);
    assert_eq!((&root["executable"], &root["working_directory"]), (&"/usr/bin/dockerd".into(), &"/".into()));
    assert_eq!((&root["cpu"]["pct"], &root["memory"]["pct"]), (&0.005.into(), &system["memory"]["rss"]["pct"]));

    let theirs = paths(&sample("process.data.json")["system"]);
    let moved = set(&["process.pgid"]);
    let theirs: BTreeSet<_> = theirs.into_iter().filter(|p| !p.starts_with("process.cgroup.")).collect();
    let ours = paths(&docker["system"]);
    assert_eq!(theirs.difference(&ours).cloned().collect::<BTreeSet<_>>(), moved, "pgid is under process since 7.2");
    let newer = ["process.fd.", "process.io.", "process.num_threads", "process.memory.swap"];
    let more: Vec<_> = ours.difference(&theirs).filter(|p| !newer.iter().any(|n| p.starts_with(n))).collect();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn the_busiest_and_the_largest_are_reported() {
    let mut bench = first();
    bench.tick(&[Metricset::ProcessSummary]);
    bench.later("proc-second", Duration::from_secs(10));
    let events = bench.tick(&[Metricset::Process]);
    let pids: BTreeSet<_> = events.iter().map(|e| e["process"]["pid"].as_u64().unwrap()).collect();
    // By time 777 (50 ticks), 3000 (30, new), 901 (26, another process of that number), 2080 (20), then the first that
    // took none; by memory 2080, 1, 777
    // and the largest of the small.
    assert_eq!(pids, BTreeSet::from([1, 777, 901, 906, 907, 2080, 3000]));
    let odd = by_pid(&events, 777);
    assert_eq!((&odd["process"]["name"], &odd["process"]["state"]), (&"a) R (b".into(), &"running".into()));
    assert_eq!(odd["user"]["name"], "pi");
    assert_eq!(odd["system"]["process"]["cpu"]["total"]["pct"], 0.05);
    assert!(odd["system"]["process"].get("io").is_none(), "what may not be read is left out");
    for new in [901, 3000] {
        assert!(by_pid(&events, new)["system"]["process"]["cpu"]["total"].get("pct").is_none(), "{new}");
    }
    let no_arguments = by_pid(&events, 3000);
    assert!(no_arguments["process"].get("args").is_none());
    assert!(no_arguments["system"]["process"].get("cmdline").is_none());
    assert!(by_pid(&events, 907).get("user").is_none());
}

#[test]
fn processes_are_counted_by_state() {
    let mut bench = first();
    bench.later("proc-second", Duration::ZERO);
    let event = bench.one(Metricset::ProcessSummary);
    assert_eq!(event["event"]["dataset"], "system.process.summary");
    assert_eq!(event["metricset"]["name"], "process_summary");
    let ours = &event["system"]["process"]["summary"];
    for (state, count) in [("total", 13), ("sleeping", 10), ("running", 1), ("idle", 1), ("zombie", 1), ("stopped", 0)]
    {
        assert_eq!(ours[state], count, "{state}");
    }
    assert_eq!(ours["threads"], serde_json::json!({"running": 2, "blocked": 1}));
    let theirs = paths(&sample("process_summary.data.v6.json")["system"]);
    let newer = set(&["process.summary.dead", "process.summary.threads.blocked", "process.summary.threads.running"]);
    assert_eq!(paths(&event["system"]), theirs.union(&newer).cloned().collect());
}

#[test]
fn sockets_are_counted_by_state() {
    let event = first().one(Metricset::SocketSummary);
    assert_eq!(event["event"]["dataset"], "system.socket.summary");
    let page_bytes = rustix::param::page_size();
    assert_eq!(
        event["system"]["socket"]["summary"],
        serde_json::json!({
            "all": {"count": 9, "listening": 2},
            "tcp": {
                "memory": 337 * page_bytes,
                "all": {
                    "count": 6, "listening": 2, "established": 1, "close_wait": 1, "time_wait": 1, "orphan": 1,
                    "syn_sent": 1, "syn_recv": 0, "fin_wait1": 0, "fin_wait2": 0, "last_ack": 0, "closing": 0,
                },
            },
            "udp": {"memory": 5 * page_bytes, "all": {"count": 3}},
        })
    );
}

#[test]
fn a_disk_is_listed_once_and_summed_once() {
    let mut bench = first();
    let events = bench.tick(&[Metricset::Filesystem, Metricset::Fsstat]);
    let points: Vec<_> = events.iter().map(|e| &e["system"]["filesystem"]["mount_point"]).collect();
    assert_eq!(
        points,
        ["/", "/boot/firmware", ""].map(|p| if p.is_empty() { Value::Null } else { p.into() }).each_ref()
    );
    let root = &events[0]["system"]["filesystem"];
    let theirs = &sample("filesystem.data.v6.json")["system"]["filesystem"];
    for field in ["available", "files", "free", "free_files", "mount_point", "total"] {
        assert_eq!(root[field], theirs[field], "{field}");
    }
    // The sample of version 6 has used / total; df's rule came later.
    assert_eq!(root["used"], serde_json::json!({"bytes": 13_832_937_472_u64, "pct": 0.2164}));
    assert_eq!((&root["device_name"], &root["type"]), (&"/dev/root".into(), &"ext4".into()));
    assert_eq!(root["options"], "rw,noatime,commit=60");
    let newer = set(&["options", "type"]);
    assert_eq!(paths(root), paths(theirs).union(&newer).cloned().collect());

    let sums = &events[2]["system"];
    assert_eq!(paths(sums), paths(&sample("fsstat.data.v5.json")["system"]));
    assert_eq!((&sums["fsstat"]["count"], &sums["fsstat"]["total_files"]), (&2.into(), &4_194_304.into()));
    assert_eq!(sums["fsstat"]["total_size"]["total"], 67_371_577_344_u64 / 8 * 9);
}

#[test]
fn a_raspberry_pi_says_more() {
    assert_eq!(first().tick(&[Metricset::Pi]), Vec::<Value>::new(), "another host says nothing");
    let event = Bench::new("proc-pi", "sys-pi").one(Metricset::Pi);
    assert_eq!((&event["event"]["module"], &event["event"]["dataset"]), (&"pi".into(), &"pi".into()));
    let reasons = |under: bool, capped: bool, throttled: bool| {
        serde_json::json!({
            "under_voltage": under, "frequency_capped": capped, "throttled": throttled, "soft_temperature_limit": false,
        })
    };
    assert_eq!(
        event["pi"],
        serde_json::json!({
            "model": "Raspberry Pi 4 Model B Rev 1.4",
            "temp": {"soc": {"celsius": 48.686}},
            "throttled": {"raw": 0x50001, "now": reasons(true, false, false), "occurred": reasons(true, false, true)},
            "undervoltage": false,
            "cpu": {"freq": {"mhz": 1500}},
            "mmc": {"life_time_a": 1, "life_time_b": 2, "pre_eol": 1},
            "sd": {"written_bytes": 1_024_000},
            "wifi": {"interface": "wlan0", "signal_dbm": -52.0, "link_quality": 58.0},
            "fan": {"rpm": 2510},
            "pressure": {"cpu": 1.5, "io": 12.25, "memory": 0.0},
        })
    );
}

#[test]
fn a_metricset_that_cannot_be_read_leaves_the_others_alone() {
    let mut bench = Bench::new("proc-pi", "sys-none");
    assert_eq!(bench.tick(&Metricset::ALL).len(), 1, "only the board's name is there");
    bench.later("proc-first", Duration::from_secs(10));
    assert!(bench.tick(&Metricset::ALL).len() > 15);
}

#[test]
fn metricsets_have_their_own_periods_and_meet() {
    let s = Duration::from_secs;
    let periods = BTreeMap::from([(Metricset::Load, Period(s(30)))]);
    let mut schedule = Schedule::new(&Config { periods, ..Config::default() });
    let count = |schedule: &mut Schedule, at: u64| schedule.due(s(at)).len();
    assert_eq!(count(&mut schedule, 0), 11, "all at once at the start");
    assert_eq!(schedule.next(), s(10));
    assert_eq!(count(&mut schedule, 10), 6);
    assert_eq!(count(&mut schedule, 12), 0);
    assert_eq!(count(&mut schedule, 20), 6);
    assert_eq!(count(&mut schedule, 30), 7);
    // Asleep until then: once each, and on in step.
    assert_eq!(count(&mut schedule, 65), 10);
    assert_eq!(schedule.next(), s(70));
    assert_eq!(count(&mut schedule, 900), 11);
    let due = schedule.due(s(960));
    assert!(due.contains(&(Metricset::Filesystem, s(60))) && !due.iter().any(|d| d.0 == Metricset::Uptime));
}

#[test]
fn configuration_is_checked() {
    let parse = |text: &str| Config::parse(toml::from_str(text).unwrap());
    assert_eq!(parse("").unwrap(), Config::default());
    let config =
        parse("topic = 't'\nperiod = '5s'\nmetricsets = ['cpu', 'uptime']\nperiods = { uptime = '1m' }").unwrap();
    assert_eq!(
        (config.period_of(Metricset::Cpu), config.period_of(Metricset::Uptime)),
        (Duration::from_secs(5), Duration::from_secs(60))
    );
    let say = |text: &str| parse(text).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(say("period = '10ms'"), ["period: expected at least \"1s\""]);
    assert_eq!(say("periods = { cpu = '0s' }"), ["periods.cpu: expected at least \"1s\""]);
    assert!(say("metricsets = ['cpus']")[0].starts_with("metricsets: unknown value 'cpus', expected one of cpu, load"));
    assert!(say("topik = 'x'")[0].starts_with("topik: unknown key, expected one of topic"));
}

/// The source itself, on this host.
#[tokio::test(start_paused = true)]
async fn every_tick_is_one_commit() {
    let (_dir, log) = open_log();
    let intake = Intake::new("host", log.clone());
    let mut source = HostMetrics::new(Config::default(), &Surroundings { node: "edge".into() });
    let stop = CancellationToken::new();
    let (stopping, task_intake) = (stop.clone(), intake.clone());
    let task = tokio::spawn(async move { source.run(&task_intake, stopping).await });
    while intake.brought().commits < 4 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(read_batches(&log, "metric.all", 0).await.len(), 4);
    let read = read_all(&log, "metric.all", 0).await;
    let mut names = BTreeSet::new();
    for record in &read {
        let event: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        names.insert(event["metricset"]["name"].as_str().unwrap().to_owned());
        assert_eq!(event["host"]["name"], "edge");
        assert_eq!(event["@timestamp"], event::Stamp(record.timestamp_ms).to_string());
        assert_eq!(record.key, None);
    }
    for metricset in &Metricset::ALL[..7] {
        assert!(names.contains(metricset.name()), "{} in {names:?}", metricset.name());
    }
    assert!(names.contains("uptime"));
}

/// `cargo test --profile quick --lib connect::host -- --ignored --nocapture`: what an hour costs, without the log.
#[test]
#[ignore = "measures"]
fn an_hour_of_ticks() {
    let cpu = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
    };
    let resident_kib = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let begin_kib = resident_kib();
    let mut sampler = Sampler::open(&Roots::default(), filesystem::ask).unwrap();
    let agent = Agent::new("edge", [1; 16], [2; 16]);
    let mut schedule = Schedule::new(&Config::default());
    let (mut events_count, mut bytes_count) = (0, 0);
    let begin = cpu();
    for tick in 0..360 {
        let now = Duration::from_secs(tick * 10);
        let mut events = Events::at(NOW_MS, &agent, 32 * 1024);
        let mut shared = Shared::default();
        for due in schedule.due(now) {
            sampler.fetch(*due, &mut shared, &|| now, &mut events);
        }
        let (bytes, values) = events.finish();
        events_count += values.count();
        bytes_count += bytes;
    }
    let spent = cpu() - begin;
    println!("{} processes", sampler.sweep.len());
    println!("{:.3} ms per tick, {:.2} s per hour", spent.as_secs_f64() / 0.36, spent.as_secs_f64());
    println!("{} events and {} bytes per tick", events_count / 360, bytes_count / 360);
    println!("{} KiB resident, {} more than before", resident_kib(), resident_kib() - begin_kib);
    for metricset in Metricset::ALL {
        let begin = cpu();
        for tick in 360..720 {
            let now = Duration::from_secs(tick * 10);
            let mut events = Events::at(NOW_MS, &agent, 32 * 1024);
            sampler.fetch((metricset, now), &mut Shared::default(), &|| now, &mut events);
        }
        println!("  {:16} {:.3} ms each", metricset.name(), (cpu() - begin).as_secs_f64() / 0.36);
    }
}

#[test]
fn a_long_command_line_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("5");
    std::fs::create_dir(&own).unwrap();
    let stat = "5 (long) S 1 5 5 0 -1 0 1 2 3 4 7 8 5 6 20 0 1 0 9 4096 1 0\n";
    for (file, text) in [("stat", stat), ("comm", "long\n"), ("cmdline", &"x".repeat(1 << 20))] {
        std::fs::write(own.join(file), text).unwrap();
    }
    let mut proc = Files::open(dir.path()).unwrap();
    let mut sweep = process::Sweep::default();
    sweep.run(&proc, Duration::ZERO).unwrap();
    let host = process::Host { cores: 1, boot_s: 0, memory_bytes: 1 };
    let events = serde_json::to_value(sweep.top(&mut proc, &mut None, host)).unwrap();
    assert_eq!(events[0]["process"]["args"][0].as_str().unwrap().len(), 4096);
}

#[test]
fn open_files_of_a_real_process_are_counted() {
    let proc = Files::open("/proc".as_ref()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let held: Vec<_> = (0..50).map(|i| std::fs::File::create(dir.path().join(i.to_string())).unwrap()).collect();
    let counted = proc.count("self/fd").unwrap();
    assert!((50..5000).contains(&counted), "{counted}");
    drop(held);
}
