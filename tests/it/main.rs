//! The daemon's parts together, in this process: on port 0, in a temporary directory, spoken to as clients do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin_apis;
mod compatibility;
mod consumer_groups;
mod groups;
mod kafka;
mod limits;
mod support;
mod transactions;
