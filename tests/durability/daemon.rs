//! The daemon as a process: its configuration, its start, its end.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    client::Client,
    load::PARTITIONS,
    options::{Level, Options},
};

/// Slower than this it does not start, even on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a configuration says beyond what all have in common.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) level: Level,
    pub(crate) quota: &'static str,
    pub(crate) ack_linger_ms: u64,
    /// Whether the stream runs.
    pub(crate) streams: bool,
    /// Where the mirror leads.
    pub(crate) mirror: Option<String>,
}

/// A data directory with its daemon, which runs or not.
pub(crate) struct Daemon {
    brooklet: PathBuf,
    dir: PathBuf,
    pub(crate) kafka: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Option<Child>,
}

impl Daemon {
    /// Nothing else listens on the loopback address of daemon `number` of this process.
    pub(crate) fn new(options: &Options, dir: &Path, number: u8, setup: &Setup) -> Self {
        let pid = std::process::id();
        let byte = |n: u32| u8::try_from(n % 250 + 1).unwrap();
        let at = |port: u16| SocketAddr::from(([127, byte(pid), byte(pid / 250), number + 1], port));
        let (kafka, admin) = (at(19092), at(18083));
        fs::create_dir_all(dir.join("data")).unwrap();
        let daemon = Self { brooklet: options.brooklet.clone(), dir: dir.to_owned(), kafka, admin, child: None };
        daemon.configure(setup);
        daemon
    }

    /// Writes its configuration.
    pub(crate) fn configure(&self, setup: &Setup) {
        let Setup { level, quota, ack_linger_ms, streams, mirror } = setup;
        let mut text = format!(
            r#"
[node]
name = "edge"
data_dir = "{}"
[log]
quota = "{quota}"
durability = "{}"
linger = "10ms"
ack_linger = "{ack_linger_ms}ms"
[kafka]
listeners = ["PLAINTEXT://{}"]
[kafka.broker]
"num.partitions" = {PARTITIONS}
[admin]
listen = "{}"
[connectors.host]
class = "host-metrics"
enabled = false
[streams.metrics]
enabled = false
[streams.cpu_alert]
enabled = false
[streams.split]
enabled = {streams}
from = ["in"]
branches = [
  {{ when = "value.kind == 0", to = "out.a" }},
  {{ when = "value.kind == 1", to = "out.b" }},
]
to = "out.rest"
"#,
            self.data_dir().display(),
            level.name(),
            self.kafka,
            self.admin,
        );
        // A mirror that was killed before it noted how far it was waits for its quarantine; longer than a life here, if
        // it is not set short.
        if let Some(target) = mirror {
            text += &format!(
                "[mirror.central]\nbootstrap_servers = [\"{target}\"]\ntopics = [\"idem\", \"out\\\\..*\"]\n\
                 linger = \"20ms\"\nquarantine = \"100ms\"\n"
            );
        }
        fs::write(self.dir.join("brooklet.toml"), text).unwrap();
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(crate) fn data_file(&self) -> PathBuf {
        self.dir.join("data/data.mdb")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// Starts it, with the shim if a trace is asked for.
    pub(crate) fn spawn(&mut self, trace: Option<(&Path, &Path)>) {
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = Command::new(&self.brooklet);
        command.args(["run", "--config"]).arg(self.dir.join("brooklet.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        if let Some((shim, file)) = trace {
            command.env("LD_PRELOAD", shim).env("POWERCUT_TRACE", file);
        }
        self.child = Some(command.spawn().unwrap());
    }

    /// The same, and waits until it serves; else says how it ended.
    pub(crate) fn start(&mut self, trace: Option<(&Path, &Path)>) -> Result<(), String> {
        self.spawn(trace);
        let end = Instant::now() + PATIENCE;
        loop {
            if Client::connect(self.kafka).is_ok() {
                return Ok(());
            }
            let child = self.child.as_mut().expect("it was just spawned");
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                return Err(format!("the daemon does not start: {status}: {}", self.last_line()));
            }
            if Instant::now() > end {
                self.kill();
                return Err(format!("the daemon does not serve within {PATIENCE:?}: {}", self.last_line()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.child.is_none()
    }

    /// With SIGKILL. False if it had ended by itself.
    pub(crate) fn kill(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return false };
        let ran = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        ran
    }

    /// With SIGTERM, and waits for its end.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "the daemon stopped with {status}: {}", self.last_line());
    }

    fn last_line(&self) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        log.lines().rev().take(3).collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
