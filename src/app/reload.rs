//! What a changed configuration does to a running daemon (SIGHUP, `systemctl reload`).
//!
//! Connectors, streams, mirrors and new topics follow the file at once; each goes on at its position. What was not
//! changed is not disturbed. What cannot follow is named and waits for a restart. A configuration with an error changes
//! nothing.

use super::create_topics;
use crate::{
    config::{Config, Problem},
    connect::Worker,
    log::Log,
    mirror::Mirrors,
    streams::Streams,
};

/// Sections that are read at start only.
const AT_START: [&str; 4] = ["node", "log", "kafka", "admin"];

/// The parts that follow the configuration, and the one they follow.
pub(super) struct Followers {
    pub(super) config: Config,
    pub(super) log: Log,
    pub(super) worker: Worker,
    pub(super) streams: Streams,
    pub(super) mirrors: Mirrors,
}

impl Followers {
    /// Makes the running parts follow what was read.
    pub(super) async fn follow(&mut self, read: Result<Config, Vec<Problem>>) {
        let new = match read {
            Ok(new) => new,
            Err(problems) => {
                for problem in problems {
                    tracing::error!("{problem}");
                }
                tracing::error!("the configuration has errors; the one in force stays");
                return;
            }
        };
        if let Err(problems) = self.streams.apply(&new.streams) {
            for problem in problems {
                tracing::error!("{}", problem.reason);
            }
            tracing::error!("the streams do not fit each other; the configuration in force stays");
            return;
        }
        if let Err(error) = create_topics(&self.log, &new).await {
            tracing::error!("{error:#}");
        }
        for name in self.config.differing(&new, "connectors") {
            match new.connectors.get(&name) {
                Some(config) => self.worker.put(&name, config.clone()),
                // It was not enabled before either, where it is not known.
                None => drop(self.worker.remove(&name)),
            }
        }
        for name in self.config.differing(&new, "mirror") {
            self.mirrors.stop(&name).await;
            let Some(link) = new.mirror.get(&name) else {
                self.mirrors.release(&name);
                continue;
            };
            if let Err(error) = self.mirrors.start(&name, link.clone()) {
                tracing::error!("{error}");
            }
        }
        let changed = |section: &&str| !self.config.differing(&new, section).is_empty();
        let waiting: Vec<&str> = AT_START.into_iter().filter(changed).collect();
        let mut topics = self.config.differing(&new, "topics").into_iter();
        let is_topic_changed = topics.any(|name| self.config.topics.contains_key(&name));
        if waiting.is_empty() {
            tracing::info!("the configuration was read again");
        } else {
            let sections = waiting.join(", ");
            tracing::warn!(sections, "the configuration was read again; these sections wait for a restart");
        }
        if is_topic_changed {
            tracing::warn!("topics that exist keep their settings; change them with `brooklet topics alter`");
        }
        self.config = new;
    }
}
