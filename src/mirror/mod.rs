//! The mirror: records to a central Kafka, exactly once.
#![allow(dead_code, reason = "the driver of the state machine follows")]

pub mod client;
mod delivery;

pub use delivery::{OnNoEvidence, OnTargetReset};
