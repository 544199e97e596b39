//! What the server counts. Registered once, at start; never read by the server itself.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::api;
use crate::{
    metrics::{Counter, Gauge, Registry},
    wire::ErrorCode,
};

pub(super) struct Meters {
    pub(super) connections: Gauge,
    pub(super) connections_total: Counter,
    pub(super) received_bytes: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) produced_batches: Counter,
    pub(super) produced_records: Counter,
    pub(super) produced_bytes: Counter,
    pub(super) fetched_bytes: Counter,
    pub(super) corrupt_batches: Counter,
    pub(super) memory_bytes: Gauge,
    /// By API key, for the table's APIs.
    requests: Vec<(i16, Counter)>,
    registry: Registry,
    /// Few and rare: registered when they first happen.
    rare: Mutex<BTreeMap<(&'static str, i16), Counter>>,
}

impl Meters {
    pub(super) fn new(registry: &Registry) -> Self {
        let counter = |name, help| registry.counter(name, help, &[]);
        let requests = api::TABLE.iter().map(|api| {
            let labels = [("api", api.name)];
            (api.key as i16, registry.counter("brooklet_kafka_requests_total", "Requests handled.", &labels))
        });
        Self {
            connections: registry.gauge("brooklet_kafka_connections", "Open client connections.", &[]),
            connections_total: counter("brooklet_kafka_connections_total", "Client connections accepted."),
            received_bytes: counter("brooklet_kafka_received_bytes_total", "Bytes of requests."),
            sent_bytes: counter("brooklet_kafka_sent_bytes_total", "Bytes of answers."),
            produced_batches: counter("brooklet_kafka_produced_batches_total", "Batches taken from producers."),
            produced_records: counter("brooklet_kafka_produced_records_total", "Records taken from producers."),
            produced_bytes: counter("brooklet_kafka_produced_bytes_total", "Bytes of batches taken from producers."),
            fetched_bytes: counter("brooklet_kafka_fetched_bytes_total", "Bytes of batches given to consumers."),
            corrupt_batches: counter(
                "brooklet_kafka_corrupt_batches_total",
                "Batches refused because of their CRC or form.",
            ),
            memory_bytes: registry.gauge(
                "brooklet_kafka_memory_bytes",
                "Bytes of requests and answers in flight.",
                &[],
            ),
            requests: requests.collect(),
            registry: registry.clone(),
            rare: Mutex::default(),
        }
    }

    pub(super) fn request(&self, key: i16) {
        if let Some((_, counter)) = self.requests.iter().find(|(k, _)| *k == key) {
            counter.increment();
        }
    }

    /// A connection was closed, or not taken, for that reason.
    pub(super) fn refused(&self, reason: &'static str) {
        self.rare(reason, 0, || {
            let help = "Connections closed because of what the client did.";
            self.registry.counter("brooklet_kafka_refused_total", help, &[("reason", reason)])
        });
    }

    /// A partition of a Produce or Fetch was answered with an error.
    pub(super) fn error(&self, api: &'static str, code: ErrorCode) {
        self.rare(api, code.0, || {
            let help = "Partitions answered with an error.";
            let name = code.name().map_or_else(|| code.0.to_string(), str::to_owned);
            self.registry.counter("brooklet_kafka_errors_total", help, &[("api", api), ("code", &name)])
        });
    }

    fn rare(&self, label: &'static str, code: i16, register: impl FnOnce() -> Counter) {
        let mut rare = self.rare.lock().unwrap_or_else(PoisonError::into_inner);
        rare.entry((label, code)).or_insert_with(register).increment();
    }
}
