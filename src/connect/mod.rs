//! Runtime for connectors: sources bring records in, sinks take them out.
//!
//! A connector never touches the log itself: it is handed an [`Intake`] and told to stop by a token; the [`Worker`]
//! builds it from its [`Config`], restarts it and says how it does. Never imports `kafka`, `streams` or `mirror`.

mod class;
pub mod host;
mod intake;
pub mod mqtt;
mod worker;

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
pub use class::{CLASSES, Class, Config, Invalid, Settings};
pub use intake::{Intake, IntakeError, TopicPolicy};
use tokio_util::sync::CancellationToken;
pub use worker::{State, Status, UnknownConnector, Worker};

/// What a source brings for one topic.
#[derive(Clone, Debug)]
pub struct SourceRecord {
    /// The topic, created on first use if it is missing and the broker creates topics by itself.
    pub topic: Arc<str>,
    /// The partition, or `None`: murmur2 of the key as Kafka's default partitioner; without a key one partition for
    /// all such records of a commit, the next one for the next commit.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order; duplicates are kept.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since 1970; `None`: now.
    pub timestamp_ms: Option<i64>,
}

impl SourceRecord {
    /// A record with nothing but a topic and a value.
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        let (topic, value) = (topic.into(), Some(value.into()));
        Self { topic, partition: None, key: None, value, headers: Vec::new(), timestamp_ms: None }
    }
}

/// A source connector: runs until told to stop or until it fails; the worker builds it anew and runs it again, with
/// back-off.
pub trait Source: Send + 'static {
    /// Brings records in through `intake` until `stop`. What `intake.commit` has answered is durable.
    fn run<'a>(
        &'a mut self,
        intake: &'a Intake,
        stop: CancellationToken,
    ) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + 'a>>;
}

/// Why a source stopped; one line for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

impl From<IntakeError> for SourceError {
    fn from(error: IntakeError) -> Self {
        Self(error.to_string())
    }
}

/// What a source may know of the daemon when it is built.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The node's name, `[node] name`.
    pub node: Arc<str>,
}

#[cfg(test)]
mod testing;
