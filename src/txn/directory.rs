//! Transactions as the tools see them: listed and described.

use std::sync::Arc;

use super::{Error, Identity, State, Txns};
use crate::record::Partition;

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The transactional id.
    pub id: Arc<str>,
    /// Its producer.
    pub owner: Identity,
    /// Where it stands.
    pub state: State,
    /// Uptime since its open transaction, or the last one, began.
    pub began_ago_ms: Option<u64>,
}

/// All about one transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Where it stands.
    pub state: State,
    /// Its producer.
    pub owner: Identity,
    /// How long a transaction may be open.
    pub timeout_ms: i32,
    /// When the open one, or the last one, began by the wall clock; -1 if there was none since the daemon started.
    pub began_ms: i64,
    /// What it has been told to be part of it.
    pub partitions: Vec<Partition>,
}

impl Txns {
    /// All transactional ids, in order.
    pub async fn list(&self) -> Vec<Listed> {
        let mut ids: Vec<_> = self.0.slots().keys().map(Arc::clone).collect();
        ids.sort_unstable();
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(machine) = self.0.lock(&id).await.filter(|m| m.owner.id >= 0) else { continue };
            let began_ago_ms = machine.began.map(|began| self.0.now().saturating_sub(began.at));
            found.push(Listed { owner: machine.owner, state: machine.state, began_ago_ms, id });
        }
        found
    }

    /// All about one; `None` if it is not known.
    ///
    /// # Errors
    /// [`Error::InvalidId`].
    pub async fn describe(&self, id: &str) -> Result<Option<Description>, Error> {
        super::check_id(id)?;
        let machine = self.0.lock(id).await.filter(|m| m.owner.id >= 0);
        Ok(machine.map(|machine| Description {
            state: machine.state,
            owner: machine.owner,
            timeout_ms: machine.timeout_ms,
            began_ms: machine.began.map_or(-1, |began| began.wall_ms),
            partitions: machine.partitions.iter().cloned().collect(),
        }))
    }
}
