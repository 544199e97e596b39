//! Runtime for connectors: sources bring records in, sinks take them out.
//!
//! A connector never touches the log itself: it is handed an [`Intake`] and told to stop by a token. Never imports
//! `kafka`, `streams` or `mirror`.

mod intake;

use std::{future::Future, pin::Pin};

use bytes::Bytes;
pub use intake::{Intake, IntakeError};
use tokio_util::sync::CancellationToken;

/// What a source brings for one topic.
#[derive(Clone, Debug)]
pub struct SourceRecord {
    /// The topic, created on first use if it is missing and the broker creates topics by itself.
    pub topic: std::sync::Arc<str>,
    /// The partition, or `None`: murmur2 of the key as Kafka's default partitioner, round robin without a key.
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

/// A source connector: runs until told to stop or until it fails; the worker restarts it with back-off.
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
