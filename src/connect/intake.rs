//! The way in: a source's records become batches and one commit with its position.

use bytes::Bytes;

use super::SourceRecord;
use crate::log::{self, Log, Urgency};

/// What a source commits through. Cheap to clone, so that commits can overlap; they become durable in call order.
#[derive(Clone)]
pub struct Intake {
    /// The connector's name.
    connector: std::sync::Arc<str>,
    log: Log,
}

/// Why an intake refused.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The log refused; [`log::Error::Full`] means: wait and try again, do not acknowledge.
    #[error(transparent)]
    Log(#[from] log::Error),
}

impl Intake {
    /// The way in for the connector of this name.
    pub fn new(connector: &str, log: Log) -> Self {
        Self { connector: connector.into(), log }
    }

    /// Makes the records and the source's own positions durable together, or nothing.
    ///
    /// `positions` are keys and values of this connector alone; `None` removes a key.
    pub async fn commit(
        &self,
        records: Vec<SourceRecord>,
        positions: Vec<(Bytes, Option<Bytes>)>,
        urgency: Urgency,
    ) -> Result<(), IntakeError> {
        let _later = (records, positions, urgency);
        Err(log::Error::Stopped("not built yet".into()).into())
    }

    /// This connector's saved positions whose key begins with `prefix`.
    pub fn positions(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, IntakeError> {
        let _later = &self.connector;
        Ok(self.log.states("connect", prefix)?)
    }
}
