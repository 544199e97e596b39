//! Hostile input: the fuzzers' corpus, and mutated frames of every API against the real daemon.
//!
//! * `requests` are valid, of every API and version; `mutation` spoils them.
//! * `corpus` replays `fuzz/corpus` through what the fuzzers do (`fuzz/subjects.rs`); part of `cargo test`.
//! * `attack` sends what was spoiled to a daemon that `daemon` runs and watches, while `witness` goes on producing and
//!   fetching and must notice nothing; `tests/hostile/run` sets it up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attack;
#[allow(dead_code, reason = "the durability tests ask for more")]
#[path = "../durability/client.rs"]
mod client;
mod corpus;
mod daemon;
#[allow(dead_code, reason = "the clock is for those who trace")]
#[path = "../durability/dice.rs"]
mod dice;
mod mutation;
mod requests;
#[allow(unreachable_pub, reason = "a library for the fuzzers")]
#[path = "../../fuzz/subjects.rs"]
mod subjects;
mod witness;

/// FRAMES mutated frames, as SEED says.
#[test]
#[ignore = "tests/hostile/run sets it up"]
fn frames() {
    attack::run();
}
