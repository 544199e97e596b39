//! The connector at work: one connection per broker, and the next one when it ends.
//!
//! A connection that ends, for whatever reason, first waits for its commits, then forgets everything it held in memory
//! and begins anew from what is durable.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    config::Address,
    connection::{self, End, Suspects},
    record::Mapper,
    session::Identity,
};
use crate::{
    connect::{Intake, IntakeError, Source, SourceError, Surroundings},
    log::Urgency,
};

/// Shortest and longest wait before the next connection.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// A connection that lasted so long makes the next wait short again.
const LASTED: Duration = Duration::from_secs(30);

/// The MQTT source connector.
#[derive(Debug)]
pub struct MqttSource {
    config: Config,
    node: Arc<str>,
}

impl MqttSource {
    /// A source that has read nothing yet.
    pub fn new(config: Config, surroundings: &Surroundings) -> Self {
        Self { config, node: Arc::clone(&surroundings.node) }
    }
}

/// What a run of the connector goes by.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: Config,
    pub(super) client_id: String,
    pub(super) mapper: Mapper,
    brokers: Vec<Vec<Address>>,
}

impl Plan {
    fn new(config: &Config, connector: &str, node: &str) -> Result<Self, String> {
        let client_id = config.client_id.clone().unwrap_or_else(|| format!("brooklet-{node}-{connector}"));
        let brokers = config.brokers()?;
        let mapper = Mapper::new(config, connector)?;
        Ok(Self { config: config.clone(), client_id, mapper, brokers })
    }

    fn identity(&self, broker: &[Address]) -> Identity {
        // Nodes of one cluster share the session.
        let name = if self.config.failover { String::new() } else { broker[0].to_string() };
        Identity::new(&self.client_id, &name)
    }

    /// Removes what sessions of earlier configurations left, so that it is not met again should they return.
    async fn tidy(&self, intake: &Intake) -> Result<(), IntakeError> {
        let known: Vec<_> = self.brokers.iter().map(|b| self.identity(b)).collect();
        let stale: Vec<_> = intake
            .positions(b"")?
            .into_iter()
            .filter(|(key, _)| !known.iter().any(|identity| identity.owns(key)))
            .map(|(key, _)| (key, None))
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        intake.commit(Vec::new(), stale, Urgency::Unattended).await
    }

    /// Connects to one broker, or one node of a cluster after the other, until told to stop.
    async fn stay_connected(&self, addresses: &[Address], intake: &Intake, stop: &CancellationToken) {
        let identity = self.identity(addresses);
        let mut suspects = Suspects::default();
        let mut wait = BACK_OFF.0;
        for address in addresses.iter().cycle() {
            let started = Instant::now();
            let reason = match connection::run(self, address, identity, intake, &mut suspects, stop).await {
                End::Stopped => return,
                End::Lost(reason) => reason,
                End::NotCommitted(error) => format!("not acknowledged, will come again: {error}"),
            };
            if started.elapsed() > LASTED {
                wait = BACK_OFF.0;
            }
            let pause = jitter(wait);
            tracing::warn!(broker = %address, reason, retry_ms = pause.as_millis() as u64, "MQTT connection ended");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }
}

impl Source for MqttSource {
    fn run<'a>(
        &'a mut self,
        intake: &'a Intake,
        stop: CancellationToken,
    ) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + 'a>> {
        Box::pin(async move {
            let plan = Plan::new(&self.config, intake.connector(), &self.node).map_err(SourceError)?;
            plan.tidy(intake).await?;
            let mut brokers: FuturesUnordered<_> =
                plan.brokers.iter().map(|broker| plan.stay_connected(broker, intake, &stop)).collect();
            while brokers.next().await.is_some() {}
            Ok(())
        })
    }
}

/// Half to all of `wait`, so that a site's devices do not return at the same moment.
fn jitter(wait: Duration) -> Duration {
    let mut byte = [0u8];
    let _len = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    wait.mul_f64(0.5 + 0.5 * f64::from(byte[0]) / 255.0)
}
