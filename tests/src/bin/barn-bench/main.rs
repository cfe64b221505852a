//! `barn-bench AREA…`: measures what the project promises, on real processes, and writes `target/bench/AREA.json` in the
//! form that INTERFACES fixes. No test runs this: figures depend on the machine.

mod difference;
mod dispatch;
mod engine;
mod figure;
mod idle;
mod relay;
mod simulation;
mod store;
mod swarm;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

/// Measures what the project promises.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; everything if nothing is named.
    areas: Vec<Area>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Area {
    /// From `barn submit` to the first program in the sandbox.
    Dispatch,
    /// What a new image costs who has an older one.
    Difference,
    /// What an idle node costs.
    Idle,
    /// The engine alone.
    Engine,
    /// How fast records spread, among real nodes and in the simulator.
    Simulation,
    /// The store alone, beside `cp` and `b3sum`.
    Store,
    /// How fast blobs come over the network.
    Swarm,
    /// Not an area: a node of [`Area::Swarm`].
    #[value(hide = true)]
    SwarmNode,
    /// Not an area: a process that carries what nodes of other areas say to each other, and takes its time.
    #[value(hide = true)]
    SimulationRelay,
    /// Not an area: the process whose memory [`Area::Engine`] measures.
    #[value(hide = true)]
    EngineMemory,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let areas = if arguments.areas.is_empty() {
        vec![Area::Dispatch, Area::Difference, Area::Idle, Area::Engine, Area::Simulation, Area::Store, Area::Swarm]
    } else {
        arguments.areas
    };
    let mut failed = false;
    for area in areas {
        let (name, measured) = match area {
            Area::Dispatch => ("dispatch", dispatch::measure()),
            Area::Difference => ("difference", difference::measure()),
            Area::Idle => ("idle", idle::measure()),
            Area::Engine => ("engine", engine::measure()),
            Area::Simulation => ("simulation", simulation::measure()),
            Area::Store => ("store", store::measure()),
            Area::Swarm => ("swarm", swarm::measure()),
            Area::SwarmNode => match swarm::node() {
                Ok(()) => return ExitCode::SUCCESS,
                Err(error) => ("swarm-node", Err(error)),
            },
            Area::SimulationRelay => match relay::run() {
                Ok(()) => return ExitCode::SUCCESS,
                Err(error) => ("simulation-relay", Err(error)),
            },
            Area::EngineMemory => match engine::child() {
                Ok(()) => return ExitCode::SUCCESS,
                Err(error) => ("engine-memory", Err(error)),
            },
        };
        match measured.and_then(|figures| figure::report(name, &figures)) {
            Ok(()) => {}
            Err(error) => {
                eprintln!("{name}: {error:#}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
