//! Brooklet: a small Kafka-wire broker for the edge, on LMDB.
//!
//! The modules, in dependency order. Each may use only what stands above it; `tests/layering.rs` holds the table.
//! `kafka`, `streams`, `connect` and `mirror` never import each other: they meet in the log.

pub mod record;
pub mod wire;

pub mod memory;
pub mod metrics;
pub mod secret;
pub mod supervise;
pub mod systemd;

pub mod expr;
pub mod log;

pub mod groups;
pub mod txn;

pub mod connect;
pub mod kafka;
pub mod mirror;
pub mod streams;

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod doctor;
