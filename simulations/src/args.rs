//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// The most nodes of a run: more than DESIGN speaks of, and what 16 GB hold.
const NODES_MAX: u64 = 20_000;

/// Simulates a network on the engine of real nodes. One seed draws everything; the same seed gives the same trace hash.
#[derive(Debug, Parser)]
#[command(name = "barnraiser-simulations", version)]
pub struct Args {
    /// What is simulated.
    pub scenario: Scenario,
    /// Number of nodes; of `nightly` of volunteers, beside the maintainer's machine; of `scale` of all.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(3..=NODES_MAX))]
    pub nodes: u64,
    /// What draws everything.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many seeds are run, from `--seed` on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub seeds: u64,
    /// How many seeds are run at once, each on a thread of its own. Memory is needed for all of them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: u16,
    /// What `nightly` and `scale` build: a file of images and their steps; `BARN_WORKLOAD` names it too. Without one a workload of that
    /// shape is made up.
    #[arg(long, value_name = "FILE")]
    pub workload: Option<PathBuf>,
    /// Only so many images of the workload.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub images: Option<u64>,
    /// So many nodes more take part in `nightly` that build nothing: they pass records on, and no engine runs for them here.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=NODES_MAX))]
    pub relays: u64,
    /// So many of the nodes of `scale` build, each with an engine of its own; at most as many as there are beside the
    /// maintainer's machine.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(2..=NODES_MAX))]
    pub builders: u64,
    /// So many branches the gang of `trust` owns.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub branches: u64,
    /// In `nightly` nobody knows yet how long builds take; otherwise all know it from last night.
    #[arg(long)]
    pub first_night: bool,
    /// Mean time of a message between two nodes in milliseconds, in `calm` and `faults`; otherwise the seed draws it.
    #[arg(long, value_name = "MS", value_parser = latency_ms)]
    pub latency_ms: Option<f64>,
    /// Writes plots of each seed into this folder, as SVG.
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// Prints one line of JSON a seed, and one more for all of several, instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Prints every event to the standard error, for whoever looks for a fault.
    #[arg(long)]
    pub trace: bool,
}

/// A latency of at most an hour.
fn latency_ms(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if (0.1..=3_600_000.0).contains(&value) { Ok(value) } else { Err("it is not from 0.1 to 3600000".to_owned()) }
}

/// What can be simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Everything goes wrong that can; then it is healed, and all must end well.
    Faults,
    /// The same network with nothing going wrong: what conflicts and waits cost by themselves.
    Calm,
    /// All images of an operating system are built by volunteers who come and go: how long, and at what cost.
    Nightly,
    /// A steady hour of such a night in a large network: how records and the batch's graph reach everybody, and what that
    /// costs each node.
    Scale,
    /// Some want a lie to be believed: alone, as a gang, with invented members.
    Trust,
}
