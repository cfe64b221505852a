//! What a run found: checks, figures and the trace's hash, for people and as one line of JSON.

use std::collections::BTreeMap;

use barnraiser_protocol::record::Kind;
use serde::Serialize;

use crate::checks::{Fault, NAMES};
use crate::plots::Plot;
use crate::world::World;

/// A figure of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// `SCENARIO.what`, for ever.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

impl Figure {
    /// A figure.
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit }
    }
}

/// What a run found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which scenario.
    pub scenario: &'static str,
    /// Number of nodes.
    pub nodes: usize,
    /// The seed that drew everything.
    pub seed: u64,
    /// The hash of all events: the same seed gives the same.
    pub trace_hash: String,
    /// Checker → whether it found nothing.
    pub checks: BTreeMap<&'static str, bool>,
    /// What the checkers found.
    pub faults: Vec<Fault>,
    /// What was counted.
    pub figures: Vec<Figure>,
    /// What can be shown of it, where plots were asked for.
    #[serde(skip)]
    pub plots: Vec<Plot>,
}

impl Report {
    /// The report of a run that has ended.
    pub fn new(scenario: &'static str, nodes: usize, seed: u64, world: &World) -> Self {
        let faults = world.checks.faults.clone();
        let ledger = &world.ledger;
        let hours = world.now.since(ledger.since).as_secs_f64() / 3600.0;
        let figure = |name: &str, value: f64, unit| Figure::new(format!("{scenario}.{name}"), value, unit);
        let figures = vec![
            figure("events", world.trace.events as f64, "events"),
            figure("records", ledger.records.values().sum::<u64>() as f64, "records"),
            figure("claims", ledger.count(Kind::Claim) as f64, "records"),
            figure("conflicts", ledger.conflict_share() * 100.0, "% of claims"),
            figure("ready_to_claimed", ledger.wait_median_ms() as f64, "ms, median"),
            figure("heard", ledger.hearing_ms(0.5), "ms, median of nodes"),
            figure("heard_by_99_percent", ledger.hearing_ms(0.99), "ms, 99 of 100 nodes"),
            figure("known_to_99_percent_median", ledger.spread_ms(0.5), "ms, median of records"),
            figure("known_to_99_percent", ledger.spread_ms(0.99), "ms, 99 of 100 records"),
            figure("builds", ledger.builds as f64, "builds"),
            figure("builds_ended", ledger.builds_ended as f64, "builds"),
            figure("builds_lost", ledger.builds_lost as f64, "builds"),
            figure("killed", ledger.killed as f64, "machines"),
            figure("larger", ledger.larger as f64, "builds"),
            figure("still", ledger.still as f64, "builds"),
            figure("rests", ledger.rests as f64, "rests"),
            figure("proofs", ledger.proofs as f64, "builds"),
            figure("received", ledger.received as f64, "records"),
            figure("refused", ledger.refused as f64, "records"),
            figure("compared", ledger.compared as f64, "records"),
            figure("bytes", ledger.bytes as f64 / world.population().max(1) as f64 / hours.max(1e-9) / 1e6, "MB/node/h"),
        ];
        Self {
            scenario,
            nodes,
            seed,
            trace_hash: world.trace.hash(),
            checks: NAMES.iter().map(|name| (*name, !faults.iter().any(|fault| fault.check == *name))).collect(),
            faults,
            figures,
            plots: Vec::new(),
        }
    }

    /// Adds a figure, whose name becomes `SCENARIO.name`.
    pub fn add(&mut self, name: &str, value: f64, unit: &'static str) {
        self.figures.push(Figure::new(format!("{}.{name}", self.scenario), value, unit));
    }

    /// Whether nothing was found.
    pub fn passed(&self) -> bool {
        self.faults.is_empty()
    }

    /// For people.
    pub fn print(&self) {
        println!("{} with {} nodes, seed {}: {}", self.scenario, self.nodes, self.seed, if self.passed() { "passed" } else { "FAILED" });
        println!("  trace {}", self.trace_hash);
        for (name, passed) in &self.checks {
            println!("  {} {name}", if *passed { "ok    " } else { "FAILED" });
        }
        for fault in &self.faults {
            println!("  {} at {:.1} s: {}", fault.check, fault.at_ms as f64 / 1000.0, fault.what);
        }
        for figure in &self.figures {
            println!("  {:<28} {:>14.2} {}", figure.name, figure.value, figure.unit);
        }
    }
}
