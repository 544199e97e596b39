//! The host's own metrics as metricbeat's `system` module would send them: a source.

use std::{future::Future, pin::Pin, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Intake, Invalid, Source, SourceError, Surroundings, class};

/// `[connectors.NAME]` of class `host-metrics`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the events go.
    pub topic: String,
    /// How often the frequent metricsets are read.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { topic: "metric.all".to_owned(), period: Duration::from_secs(10) }
    }
}

impl Config {
    /// Reads the class's own keys.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn parse(table: toml::Table) -> Result<Self, Vec<Invalid>> {
        class::read(table)
    }
}

/// The source.
pub struct HostMetrics {
    _config: Config,
}

impl HostMetrics {
    /// A source that has read nothing yet.
    pub fn new(config: Config, _surroundings: &Surroundings) -> Self {
        Self { _config: config }
    }
}

impl Source for HostMetrics {
    fn run<'a>(
        &'a mut self,
        _intake: &'a Intake,
        stop: CancellationToken,
    ) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + 'a>> {
        Box::pin(async move {
            stop.cancelled().await;
            Ok(())
        })
    }
}
