//! Consumer groups: who reads which partition, and how far they came.
//!
//! Committed offsets lie in the log's state ([`offsets`]), so that a stream or a sink can commit its position together
//! with its outputs. Never speaks the Kafka protocol, never reads a record.

pub mod offsets;
