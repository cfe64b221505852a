//! The scenario `scale`: one steady hour of a nightly in a network of thousands.
//!
//! Every node takes part: it passes records on and fetches the batch's graph by the rules of real nodes
//! ([`crate::world::graphs`]). Some of them build, each with a whole engine, as in [`crate::nightly`]; an engine that knows
//! the batch takes megabytes, so all of ten thousand would not fit into one machine. What is counted begins when work has
//! been under way for a while, and ends an hour later. [`plots`] shows how far record and graph were when.

pub mod plots;

use std::time::Duration;

use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::record::Kind;
use barnraiser_protocol::time::Timestamp;

use crate::checks::{leases, memory};
use crate::nightly::night::Night;
use crate::nightly::workload::Workload;
use crate::nightly::{MEMORY_TICKS, Run, SUBMITTED, TICK, volunteers};
use crate::report::Report;
use crate::world::graphs::Spreading;
use crate::world::work::Work;
use crate::world::{START, World};

/// What is measured.
pub const HOUR: Duration = Duration::from_secs(3600);
/// How long work is under way before that: the first burst of claims is over, and everybody has the graph.
const SETTLED: Duration = Duration::from_secs(600);
/// So many records of one author reach everybody by one way before another is drawn: each of its own would take most of
/// the run, and no figure here is about two records of one author.
const RECORDS_A_WAY: u32 = 8;
/// Checkers that look at the end of a run, which this one does not reach.
const NOT_CHECKED: [&str; 2] = ["convergence", "ending"];
/// A node tells the ids of a record to so many others in a heartbeat, ...
const TOLD_TO: u64 = 6;
/// ... in so many heartbeats (gossipsub's `gossip_lazy` and `bootstrap`'s `history_gossip`), ...
const TOLD_TIMES: u64 = 3;
/// ... with so many bytes.
const TOLD_BYTES: u64 = 34;

/// How it is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Nodes in all, the maintainer's machine among them.
    pub nodes: usize,
    /// How many of them build.
    pub builders: usize,
    /// What draws everything.
    pub seed: u64,
    /// For how long is counted.
    pub measured: Duration,
    /// Whether every event is printed.
    pub verbose: bool,
}

/// Runs the scenario.
///
/// # Errors
/// A record can't be made, or the batch is refused.
pub fn run(options: Options, workload: &Workload) -> anyhow::Result<Report> {
    let Options { nodes, seed, measured, .. } = options;
    let builders = options.builders.min(nodes - 1);
    let policy = Policy::small();
    let mut work = Work::default();
    let night = Night::plan(workload, seed, &mut work);
    let begin = START + SUBMITTED;
    let seats = volunteers::draw(seed, builders, START, begin + SETTLED + measured + TICK);
    let mut run = Run::new(seats, nodes - 1 - builders, seed, work, policy.clone())?;
    run.world.trace.verbose = options.verbose;
    run.world.spread_graphs = true;
    run.world.records_a_way = RECORDS_A_WAY;
    run.remember(&night, &policy)?;
    let batch = run.begin(&night, &policy, begin)?;
    pass(&mut run, begin + SETTLED);
    let since = run.world.now;
    run.world.ledger.restart(since);
    // Work that is at its end is no steady hour: what is counted ends with it.
    let end = since + measured;
    while run.world.now < end && !run.world.ledger.done.contains_key(&batch) {
        let next = end.min(run.world.now + TICK);
        pass(&mut run, next);
    }
    Ok(report(&run, options, builders))
}

/// Everything up to `end` happens, and is looked at.
fn pass(run: &mut Run, end: Timestamp) {
    let mut ticks = 0;
    while run.world.now < end {
        run.pass(end.min(run.world.now + TICK));
        leases::check(&mut run.world, true);
        ticks += 1;
        if ticks % MEMORY_TICKS == 0 {
            memory::check(&mut run.world);
        }
    }
}

fn report(run: &Run, options: Options, builders: usize) -> Report {
    let world = &run.world;
    let mut report = Report::new("scale", options.nodes, options.seed, world);
    report.checks.retain(|name, _| !NOT_CHECKED.contains(name));
    let ledger = &world.ledger;
    let hours = world.now.since(ledger.since).as_secs_f64() / 3600.0;
    report.add("builders", builders as f64, "nodes");
    report.add("measured", hours * 60.0, "min");
    report.add("room_to_claimed", ledger.free_wait_median_ms() as f64, "ms, median");
    let told = ledger.records.values().sum::<u64>() * TOLD_TO * TOLD_TIMES * TOLD_BYTES;
    report.add("ids_told", told as f64 / hours.max(1e-9) / 1e6, "MB/node/h, at most");
    for (name, kind) in [("claims", Kind::Claim), ("commitments", Kind::Commitment), ("reveals", Kind::Reveal), ("renewals", Kind::Renewal)]
    {
        let bytes = ledger.bytes_of.get(&kind).copied().unwrap_or(0);
        report.add(&format!("bytes_of_{name}"), bytes as f64 / world.population() as f64 / hours.max(1e-9) / 1e6, "MB/node/h");
    }
    report.add("presences", ledger.count(Kind::Presence) as f64, "records");
    report.add("building", building(world, &run.seats), "% of cores, at the end");
    if let Some(graph) = &world.graph {
        add_graph(&mut report, graph, world.population(), builders);
    }
    report.plots = plots::plots(options, ledger, world.graph.as_ref(), builders);
    report
}

/// The share of the cores that are there which build now.
fn building(world: &World, seats: &[volunteers::Seat]) -> f64 {
    let up = world.nodes.iter().skip(1).zip(seats).filter(|(node, _)| node.engine.is_some());
    let (mut there, mut busy) = (0.0, 0.0);
    for (node, seat) in up {
        there += f64::from(seat.cores);
        busy += node.builds.values().map(|build| f64::from(build.order.action.cores)).sum::<f64>();
    }
    busy / f64::max(there, 1.0) * 100.0
}

fn add_graph(report: &mut Report, graph: &Spreading, nodes: usize, builders: usize) {
    let nearly_all = |counts: &dyn Fn(usize) -> bool| {
        let (_, got) = graph.times(counts);
        got.get(got.len() * 99 / 100).copied().unwrap_or(f64::INFINITY)
    };
    let a_node = |count: u64| count as f64 / nodes.max(1) as f64;
    report.add("graph", graph.length as f64 / 1e6, "MB");
    report.add("graph_to_99_percent", nearly_all(&|node| (1..=builders).contains(&node)), "s, of the builders");
    report.add("graph_to_99_percent_of_nodes", nearly_all(&|_| true), "s, of all nodes");
    report.add("graph_copies_of_submitter", graph.copies(graph.author()), "copies sent");
    report.add("graph_copies_most", graph.copies_max(), "copies sent");
    report.add("graph_questions", a_node(graph.questions.0), "questions a node");
    report.add("graph_busy", a_node(graph.questions.1), "times sent away a node");
    report.add("graph_bytes", a_node(graph.bytes()) / 1e6, "MB/node, once a batch");
}
