//! The real daemon under load, its power cut and its process killed: what was acknowledged, and what any reader saw,
//! must still be so afterwards.
//!
//! `tests/powercut/run` and `tests/kill/run` build what is needed, set the variables of [`options`] and start one of the
//! two ignored tests below. Both share the load, the facts and the check.
//!
//! * `load` and `producer` produce, commit offsets, trim and read as clients do, and note in `facts` what they were told
//!   and when.
//! * `trace` knows what the daemon wrote and flushed (recorded by `tests/powercut/shim.c`) and makes of it the file that
//!   a power cut at any event may have left.
//! * `check` asks a daemon that was started on such a file whether all facts up to the cut hold.
//! * `cuts` cuts one recorded run at many places; `kills` kills one daemon many times, optionally with its power.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod check;
mod client;
mod cuts;
mod daemon;
mod dice;
mod facts;
mod kills;
mod load;
mod options;
mod producer;
mod trace;

/// One recorded run after the other, each cut at many places.
#[test]
#[ignore = "tests/powercut/run sets it up"]
fn power_cuts() {
    cuts::run(&options::Options::from_environment());
}

/// One daemon killed again and again, beside a real Kafka.
#[test]
#[ignore = "tests/kill/run sets it up"]
fn kills() {
    kills::run(&options::Options::from_environment());
}
