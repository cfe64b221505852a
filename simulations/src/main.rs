//! Simulations: many nodes on simulated time, on the engine that real nodes run, under faults that a seed draws.
//!
//! May touch: simulated clocks, networks, disks and builders. Never real time, sockets or tokio: a run is a function of
//! its arguments. Where to go next: [`world`] for how it works, [`faults`] for the scenario in which everything goes
//! wrong, [`nightly`] for what a night's work takes, [`scale`] for what ten thousand nodes cost,
//! [`trust`] for what lies come to, [`checks`] for what must hold all the same.
#![forbid(unsafe_code)]

mod args;
mod checks;
mod dice;
mod faults;
mod ledger;
mod nightly;
mod plots;
mod report;
mod scale;
mod seeds;
mod summary;
#[cfg(test)]
mod tests;
mod trust;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;

use args::{Args, Scenario};
use nightly::Options;
use nightly::workload::{IMAGE_STEPS, IMAGES, Workload};
use plots::Plot;
use report::Report;
use summary::Summary;

/// Engines of a thousand nodes allocate and free small things all the time, and so does what is between them: a third of the
/// time of a run with the C library's allocator. Nodes keep that one, whose blocks are packed more densely.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// 0 when every check held, 1 when one did not, 2 for arguments that can't be used.
fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let nodes = usize::try_from(args.nodes).context("too many nodes for this machine")?;
    let workload = workload(&args)?;
    let mut reports = Vec::new();
    let seeds = args.seed..args.seed.saturating_add(args.seeds);
    let one = |seed| run(&args, nodes, seed, workload.as_ref());
    seeds::run(seeds, usize::from(args.jobs), one, |report| {
        let mut report = report?;
        if args.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            report.print();
        }
        for plot in std::mem::take(&mut report.plots) {
            write_plot(&args, &plot)?;
        }
        reports.push(report);
        Ok(())
    })?;
    let summary = Summary::of(&reports).context("no seed was run")?;
    match (args.seeds > 1, args.json) {
        (true, true) => println!("{}", serde_json::to_string(&summary)?),
        (true, false) => summary.print(),
        (false, _) => {}
    }
    Ok(if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_plot(args: &Args, plot: &Plot) -> anyhow::Result<()> {
    let Some(folder) = &args.plots else { return Ok(()) };
    std::fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
    let path = folder.join(format!("{}.svg", plot.name));
    std::fs::write(&path, plot.to_svg()).with_context(|| format!("{} can't be written", path.display()))
}

fn run(args: &Args, nodes: usize, seed: u64, workload: Option<&Workload>) -> anyhow::Result<Report> {
    match args.scenario {
        Scenario::Faults | Scenario::Calm => {
            let latency = args.latency_ms.map(|ms| Duration::from_secs_f64(ms / 1000.0));
            faults::run_with(nodes, seed, args.scenario == Scenario::Calm, latency, args.trace)
        }
        Scenario::Nightly => {
            let relays = usize::try_from(args.relays).context("too many nodes for this machine")?;
            let options = Options { volunteers: nodes, relays, seed, first: args.first_night, verbose: args.trace };
            let mut outcome = nightly::run(options, workload.unwrap_or(&made_up(args, seed)?))?;
            if args.plots.is_some() {
                outcome.report.plots = nightly::plots::plots(&outcome);
            }
            Ok(outcome.report)
        }
        Scenario::Trust => {
            let branches = usize::try_from(args.branches).context("too many branches for this machine")?;
            trust::run(trust::Options { nodes, branches, seed, verbose: args.trace })
        }
        Scenario::Scale => {
            let builders = usize::try_from(args.builders).context("too many nodes for this machine")?;
            let options = scale::Options { nodes, builders, seed, measured: scale::HOUR, verbose: args.trace };
            let mut report = scale::run(options, workload.unwrap_or(&made_up(args, seed)?))?;
            if let Some(bytes) = memory_peak() {
                report.add("memory", bytes / 1e9, "GB, peak of the simulator");
            }
            Ok(report)
        }
    }
}

/// A workload of the shape of a real one.
fn made_up(args: &Args, seed: u64) -> anyhow::Result<Workload> {
    Ok(Workload::made_up(seed, args.images.map_or(Ok(IMAGES), usize::try_from)?, IMAGE_STEPS))
}

/// The most memory that this process had so far, in bytes, where the system tells it.
fn memory_peak() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}

/// The workload that was named, as many images of it as were asked for.
fn workload(args: &Args) -> anyhow::Result<Option<Workload>> {
    let named = args.workload.clone().or_else(|| std::env::var_os("BARN_WORKLOAD").map(PathBuf::from));
    let Some(path) = named.filter(|_| matches!(args.scenario, Scenario::Nightly | Scenario::Scale)) else { return Ok(None) };
    let mut workload = Workload::read(&path)?;
    if let Some(images) = args.images {
        workload.images.truncate(usize::try_from(images)?);
    }
    Ok(Some(workload))
}
