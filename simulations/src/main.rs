//! Simulations: many nodes on simulated time, on the engine that real nodes run, under faults that a seed draws.
//!
//! May touch: simulated clocks, networks, disks and builders. Never real time, sockets or tokio: a run is a function of
//! its arguments. Where to go next: [`world`] for how it works, [`faults`] for the scenario in which everything goes
//! wrong, [`checks`] for what must hold all the same.
#![forbid(unsafe_code)]

mod args;
mod checks;
mod dice;
mod faults;
mod ledger;
mod report;
#[cfg(test)]
mod tests;
mod world;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use args::{Args, Scenario};
use report::Report;

/// 0 when every check held, 1 when one did not, 2 for arguments that can't be used.
fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let nodes = usize::try_from(args.nodes).context("too many nodes for this machine")?;
    let mut failed = Vec::new();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let report = run(args.scenario, nodes, seed, args.trace)?;
        if args.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            report.print();
        }
        if !report.passed() {
            failed.push(seed);
        }
    }
    if args.seeds > 1 {
        eprintln!("{} of {} seeds failed: {failed:?}", failed.len(), args.seeds);
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(scenario: Scenario, nodes: usize, seed: u64, verbose: bool) -> anyhow::Result<Report> {
    match scenario {
        Scenario::Faults => faults::run(nodes, seed, false, verbose),
        Scenario::Calm => faults::run(nodes, seed, true, verbose),
    }
}
