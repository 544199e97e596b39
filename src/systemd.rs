//! What the service manager is told: ready, stopping, a line of status, still alive.
//!
//! Outside systemd every call does nothing. Never decides when the daemon is ready or alive; a service manager that
//! does not listen is no reason to stop, so sending never fails.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
    time::Duration,
};

use sd_notify::NotifyState;

/// Speaks to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok();
        let watchdog = watchdog_of(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref());
        Self::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), watchdog)
    }

    /// Speaks to the socket at that path, or with a leading `@` at that abstract name; says that it is alive within
    /// `watchdog`.
    pub fn new(socket: Option<&OsStr>, watchdog: Option<Duration>) -> Self {
        let socket = socket.and_then(|name| {
            connect(name)
                .inspect_err(|error| tracing::warn!(socket = %name.display(), %error, "service manager not reached"))
                .ok()
        });
        Self { socket, watchdog }
    }

    /// Whether there is a service manager that listens.
    pub fn is_watched(&self) -> bool {
        self.socket.is_some()
    }

    /// The daemon serves.
    pub fn ready(&self) {
        self.send(&NotifyState::Ready);
    }

    /// The daemon reads its configuration again; [`Self::ready`] follows.
    pub fn reloading(&self) {
        self.send(&NotifyState::Reloading);
    }

    /// The daemon has begun to stop.
    pub fn stopping(&self) {
        self.send(&NotifyState::Stopping);
    }

    /// One line for `systemctl status`; line breaks become spaces.
    pub fn status(&self, text: &str) {
        self.send(&NotifyState::Status(&text.replace(['\n', '\r'], " ")));
    }

    /// The daemon is alive.
    pub fn alive(&self) {
        self.send(&NotifyState::Watchdog);
    }

    /// How often [`Self::alive`] has to be called, half of what the unit allows; `None` if nobody watches.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.socket.as_ref().and(self.watchdog).map(|limit| limit / 2)
    }

    fn send(&self, state: &NotifyState<'_>) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(format!("{state}\n").as_bytes())
        {
            tracing::debug!(%error, "service manager not told");
        }
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read must not hold the daemon up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The unit's watchdog time, if it is meant for this process.
fn watchdog_of(usec: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let usec: u64 = usec?.parse().ok().filter(|usec| *usec > 0)?;
    let is_other = pid.is_some_and(|pid| pid.parse() != Ok(std::process::id()));
    (!is_other).then(|| Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn says_everything(manager: &UnixDatagram, notifier: &Notifier) {
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        notifier.ready();
        assert_eq!(receive(manager), "READY=1\n");
        notifier.status("12 topics\nall safe");
        assert_eq!(receive(manager), "STATUS=12 topics all safe\n");
        notifier.alive();
        assert_eq!(receive(manager), "WATCHDOG=1\n");
        notifier.stopping();
        assert_eq!(receive(manager), "STOPPING=1\n");
        assert_eq!(notifier.watchdog_interval(), Some(Duration::from_secs(15)));
        assert!(notifier.is_watched());
    }

    #[test]
    fn a_manager_at_a_path_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        says_everything(&manager, &Notifier::new(Some(path.as_os_str()), Some(Duration::from_secs(30))));
    }

    #[test]
    fn a_manager_at_an_abstract_name_is_told() {
        let name = format!("brooklet-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        says_everything(&manager, &Notifier::new(Some(OsStr::new(&format!("@{name}"))), Some(Duration::from_secs(30))));
    }

    #[test]
    fn nobody_there_is_no_error() {
        for socket in [None, Some(OsStr::new("/nonexistent/notify"))] {
            let notifier = Notifier::new(socket, Some(Duration::from_secs(30)));
            notifier.ready();
            assert!(!notifier.is_watched());
            assert_eq!(notifier.watchdog_interval(), None, "nobody to tell");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.as_os_str()), None);
        assert_eq!(notifier.watchdog_interval(), None);
        drop(manager);
        notifier.stopping();
    }

    #[test]
    fn the_watchdog_is_for_the_process_it_names() {
        let own = std::process::id().to_string();
        assert_eq!(watchdog_of(Some("30000000"), None), Some(Duration::from_secs(30)));
        assert_eq!(watchdog_of(Some("30000000"), Some(&own)), Some(Duration::from_secs(30)));
        assert_eq!(watchdog_of(Some("30000000"), Some("1")), None);
        assert_eq!(watchdog_of(Some("0"), None), None);
        assert_eq!(watchdog_of(Some("soon"), None), None);
        assert_eq!(watchdog_of(None, Some(&own)), None);
    }
}
