//! Fuzzing of everything that reads bytes from strangers: what an enemy would send, against the protocol itself. No store,
//! no sockets, so that it is built in a minute.
//!
//! A [`Target`] takes any bytes; it panics where a property does not hold (never for bad bytes), and returns in a few words
//! what became of them. [`targets`] are those, [`seeds`] what they begin with, [`mutate`] how inputs are changed, and
//! [`world`] a small network to be attacked. `make fuzz` runs the program beside this; `tests/fuzz/corpus` holds the seeds
//! and every input that once found a fault, and a test replays them all.
#![forbid(unsafe_code)]

pub mod engine;
pub mod mutate;
pub mod samples;
pub mod seeds;
pub mod targets;
pub mod world;

pub use targets::{TARGETS, Target};

/// The folder of a target's corpus.
pub fn corpus(target: &Target) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}
