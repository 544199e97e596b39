//! What `brooklet doctor` looks at: the card and its wear, the machine, the ports, the mirror's target.
//!
//! Works beside a running daemon and without one: it never opens the data file, never locks it for longer than a look,
//! and leaves nothing behind. Writes 6.25 MiB at most to the data directory's file system, and asks a mirror's target only
//! what changes nothing there.

use std::{fs::File, path::Path};

use serde::Serialize;

use crate::config::Config;

mod disk;
mod machine;
mod mount;
mod target;
mod wear;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Must be changed: Brooklet does not start, or a promise does not hold.
    Change,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What: `disk`, `clock`, `mirror.central` …
    pub subject: String,
    /// How it is to be taken.
    pub level: Level,
    /// What was found, in plain words.
    pub found: String,
    /// What to do, where there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn ok(subject: &str, found: impl Into<String>) -> Self {
        Self { subject: subject.into(), level: Level::Ok, found: found.into(), advice: None }
    }

    fn note(subject: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Note, advice: Some(advice.into()), ..Self::ok(subject, found) }
    }

    fn change(subject: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Change, advice: Some(advice.into()), ..Self::ok(subject, found) }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The data directory.
    pub data_dir: String,
    /// The process id of the daemon that runs on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<u32>,
    /// What the card was measured to do; `None` where it could not be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card: Option<disk::Card>,
    /// In the order in which things were looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Adds what the running daemon wrote per day on average, as its status says.
    pub fn add_wear(&mut self, per_day_bytes: u64, config: &Config) {
        let at = self.findings.iter().rposition(|f| f.subject == "wear").map_or(self.findings.len(), |at| at + 1);
        self.findings.insert(at, wear::so_far(per_day_bytes, config.log.endurance.map(|e| e.as_u64())));
    }

    /// Whether something must be changed.
    pub fn must_change(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Change)
    }
}

/// Looks at everything.
pub async fn look(config: &Config) -> Report {
    let dir = &config.node.data_dir;
    let daemon = daemon_of(dir);
    let mut findings = mount::look(dir, config.log.quota.map(|quota| quota.as_u64()));
    let measured = disk::measure(dir);
    let card = match &measured {
        Ok(card) => {
            findings.extend(card.findings());
            Some(card.clone())
        }
        Err(error) => {
            findings.push(Finding::change(
                "card",
                format!("{} cannot be written: {error}", dir.display()),
                "mount it writable for this user, or choose another directory with --data-dir",
            ));
            None
        }
    };
    let endurance_bytes = config.log.endurance.map(|e| e.as_u64());
    findings.extend(wear::expect(config.log.wear_budget, crate::log::is_card(&disk::existing(dir)), endurance_bytes));
    findings.extend(machine::look(daemon));
    findings.extend(machine::ports(config, daemon));
    for (name, link) in config.mirror.iter().filter(|(_, link)| link.enabled) {
        findings.extend(target::look(name, &config.node.name, link).await);
    }
    Report { data_dir: dir.display().to_string(), daemon, card, findings }
}

/// The process that has the data directory's lock.
fn daemon_of(dir: &Path) -> Option<u32> {
    use rustix::fs::{FlockOperation, flock};
    let path = dir.join("brooklet.lock");
    let lock = File::open(&path).ok()?;
    // Shared and only for this look, so a daemon that starts in this moment finds it free again.
    if flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
