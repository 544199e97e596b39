//! Topics as callers see and change them; `catalogue` keeps them.

use std::{collections::BTreeMap, sync::Arc};

use super::retention::Policy;
use crate::record::{Offset, Partition};

/// One topic as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; another one after the topic was deleted and created again.
    pub id: TopicId,
    /// Its number of partitions.
    pub partitions: i32,
    /// Settings that were set, by Kafka's names; what is missing has the broker's default.
    pub settings: BTreeMap<String, String>,
}

impl Topic {
    /// `brooklet.priority`: 0 goes upstream first and is deleted last, 9 the other way round.
    pub fn priority(&self) -> u8 {
        Policy::new(&self.settings).priority()
    }
}

/// A topic's id, a random UUID.
pub type TopicId = [u8; 16];

/// All topics by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    /// By name.
    pub by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    /// The same by id: from version 13 on each partition of a Fetch is looked up so.
    by_id: BTreeMap<TopicId, Arc<Topic>>,
}

impl FromIterator<Arc<Topic>> for Topics {
    fn from_iter<I: IntoIterator<Item = Arc<Topic>>>(topics: I) -> Self {
        let mut all = Self::default();
        for topic in topics {
            all.by_id.insert(topic.id, Arc::clone(&topic));
            all.by_name.insert(Arc::clone(&topic.name), topic);
        }
        all
    }
}

impl Topics {
    /// The topic of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// The topic with that id.
    pub fn by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }
}

/// A change of the topics.
#[derive(Clone, Debug)]
pub enum Change {
    /// Makes a topic.
    Create {
        /// Its name, checked for Kafka's rules.
        name: Arc<str>,
        /// Its number of partitions, at least 1.
        partitions: i32,
        /// Its own settings.
        settings: BTreeMap<String, String>,
    },
    /// Sets settings, or with `None` returns them to the default.
    Alter {
        /// The topic.
        name: Arc<str>,
        /// What changes.
        settings: BTreeMap<String, Option<String>>,
    },
    /// Adds partitions up to this number.
    Grow {
        /// The topic.
        name: Arc<str>,
        /// The new number of partitions.
        partitions: i32,
    },
    /// Deletes a topic and its records.
    Delete {
        /// The topic.
        name: Arc<str>,
    },
    /// Deletes the records before an offset; -1 means all durable ones.
    TrimBefore {
        /// The partition.
        partition: Partition,
        /// The new log start offset.
        offset: Offset,
    },
}
