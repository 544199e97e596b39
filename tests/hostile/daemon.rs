//! The daemon as a process, and what is seen of it from outside.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Slower than this it does not start, nor answer, even on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    pub(crate) kafka: SocketAddr,
}

impl Daemon {
    /// Starts it on its defaults, but for `limits`, a quota that the run reaches, and sessions that end soon: an id that was
    /// asked for and never used holds a group's rebalance back for a session, as with Kafka, and with it every connection
    /// whose JoinGroup has more behind it than the socket takes, so that its end cannot be seen.
    pub(crate) fn start(binary: &Path, dir: &Path, limits: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        let (config, log) = (dir.join("brooklet.toml"), dir.join("daemon.log"));
        let sections = [
            "[node]\nname = \"hostile\"\n[log]\nquota = \"256MiB\"",
            "[kafka.broker]\n\"group.max.session.timeout.ms\" = 10000",
            "[kafka.limits]",
            limits,
        ];
        fs::write(&config, sections.join("\n")).unwrap();
        let kafka = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let out = File::create(&log).unwrap();
        let child = Command::new(binary)
            .args(["run", "--admin", "127.0.0.1:0", "--listen", &kafka.to_string(), "--config"])
            .arg(config)
            .arg("--data-dir")
            .arg(dir.join("data"))
            // A line for each connection that was closed would be a gigabyte.
            .env("BROOKLET_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        let mut daemon = Self { child, log, kafka };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(kafka).is_err() {
            assert!(Instant::now() < end, "the daemon does not serve: {}", daemon.said());
            daemon.assert_lives();
            thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    pub(crate) fn assert_lives(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the daemon ended: {status}: {}", self.said());
        }
        let said = self.said();
        assert!(!said.contains("panicked"), "the daemon panicked: {said}");
    }

    /// Resident memory now, and its peak, in KiB.
    pub(crate) fn resident_kib(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let of = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0)
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// Stops it as systemd does; it has to end well.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "the daemon does not stop: {}", self.said());
            thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "the daemon stopped with {status}: {}", self.said());
        assert!(!self.said().contains("panicked"), "the daemon panicked: {}", self.said());
    }

    /// The end of what it said.
    fn said(&self) -> String {
        let said = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&said[said.len().saturating_sub(8000)..]).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}
