//! Simulations: many nodes on simulated time, on the engine that real nodes run, under faults that a seed draws.
//!
//! May touch: simulated clocks, networks, disks and builders. Never real time, sockets or tokio: a run is a function of
//! its arguments. Where to go next: [`world`] for how it works, [`faults`] for the scenario in which everything goes
//! wrong, [`nightly`] for what a night's work takes, [`checks`] for what must hold all the same.
#![forbid(unsafe_code)]

mod args;
mod checks;
mod dice;
mod faults;
mod ledger;
mod nightly;
mod report;
#[cfg(test)]
mod tests;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use args::{Args, Scenario};
use nightly::workload::{IMAGE_STEPS, IMAGES, Workload};
use report::Report;

/// 0 when every check held, 1 when one did not, 2 for arguments that can't be used.
fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let nodes = usize::try_from(args.nodes).context("too many nodes for this machine")?;
    let workload = workload(&args)?;
    let mut failed = Vec::new();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let report = run(&args, nodes, seed, workload.as_ref())?;
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

fn run(args: &Args, nodes: usize, seed: u64, workload: Option<&Workload>) -> anyhow::Result<Report> {
    match args.scenario {
        Scenario::Faults => faults::run(nodes, seed, false, args.trace),
        Scenario::Calm => faults::run(nodes, seed, true, args.trace),
        Scenario::Nightly => {
            let made_up;
            let workload = match workload {
                Some(workload) => workload,
                None => {
                    let images = args.images.map_or(Ok(IMAGES), usize::try_from)?;
                    made_up = Workload::made_up(seed, images, IMAGE_STEPS);
                    &made_up
                }
            };
            Ok(nightly::run(nodes, seed, workload, args.trace)?.report)
        }
    }
}

/// The workload that was named, as many images of it as were asked for.
fn workload(args: &Args) -> anyhow::Result<Option<Workload>> {
    let named = args.workload.clone().or_else(|| std::env::var_os("BARN_WORKLOAD").map(PathBuf::from));
    let Some(path) = named.filter(|_| args.scenario == Scenario::Nightly) else { return Ok(None) };
    let mut workload = Workload::read(&path)?;
    if let Some(images) = args.images {
        workload.images.truncate(usize::try_from(images)?);
    }
    Ok(Some(workload))
}
