//! How fast records spread: a village of real nodes on loopback, and the simulator with as many nodes whose messages take
//! as long as one hop does here. What the simulator says of networks that no machine holds is worth as much as the two agree.

mod real;
mod simulated;

use anyhow::ensure;

use super::figure::Figure;
use real::{Heard, Setting};

/// Real nodes, and simulated ones.
const NODES: usize = 24;
/// The village: few build, so that what spreads and not what is built keeps the cores busy.
const VILLAGE: Setting = Setting { nodes: NODES, builders: 4, jobs: 60, seconds: "1" };
/// Two nodes, of which one builds: all that the other hears came over one hop.
const HOP: Setting = Setting { nodes: 2, builders: 1, jobs: 60, seconds: "0.3" };
/// Simulated runs.
const SEEDS: usize = 10;
/// The greatest factor by which a good model is wrong, in either direction.
const WRONG_BY: f64 = 2.0;

/// Measures.
pub fn measure() -> anyhow::Result<Vec<Figure>> {
    eprintln!("simulation: two nodes, then {NODES}, build {} jobs; takes about three minutes", VILLAGE.jobs);
    let hop = real::measure(HOP)?;
    let village = real::measure(VILLAGE)?;
    let mean_ms = hop.each_ms.iter().sum::<f64>() / hop.each_ms.len() as f64;
    let simulated = simulated::measure(NODES, mean_ms, SEEDS)?;
    let told = "milliseconds from the first node's event of a Claim, Commitment or Reveal, which is its author's as a rule, to another \
                node's event of it, both as they come over HTTP";
    let of = |heard: &Heard| format!("{}; {}", told, heard.told());
    let of_simulator = format!("`calm` with {NODES} nodes and a mean latency of {mean_ms:.2} ms, {SEEDS} seeds; all records");
    let figures = vec![
        real_figure("simulation.hop_median", &hop.each_ms, 0.5, of(&hop)),
        real_figure("simulation.hop_p99", &hop.each_ms, 0.99, of(&hop)),
        Figure::shown("simulation.hop_mean", "ms", mean_ms, hop.each_ms.len(), ends(&hop.each_ms), of(&hop)),
    ];
    ensure!(!village.each_ms.is_empty(), "no record spread while all listened");
    let kinds = [
        (
            ["simulation.propagation_real_median", "simulation.propagation_simulated_median", "simulation.propagation_ratio_median"],
            (&village.each_ms, 0.5),
            &simulated.heard_median,
            "until a node knows a record, the median over records and nodes",
        ),
        (
            ["simulation.propagation_real_p99", "simulation.propagation_simulated_p99", "simulation.propagation_ratio_p99"],
            (&village.each_ms, 0.99),
            &simulated.heard_p99,
            "until a node knows a record, 99 of 100 records and nodes",
        ),
        (
            ["simulation.nearly_all_real_median", "simulation.nearly_all_simulated_median", "simulation.nearly_all_ratio_median"],
            (&village.nearly_all_ms, 0.5),
            &simulated.nearly_all_median,
            "until 99 % of the nodes know a record, the median over records",
        ),
        (
            ["simulation.nearly_all_real_p99", "simulation.nearly_all_simulated_p99", "simulation.nearly_all_ratio_p99"],
            (&village.nearly_all_ms, 0.99),
            &simulated.nearly_all_p99,
            "until 99 % of the nodes know a record, 99 of 100 records",
        ),
    ];
    Ok(figures
        .into_iter()
        .chain(kinds.into_iter().flat_map(|(names, (samples, share), simulated, what)| {
            let real = share_of(samples, share);
            let measured = real_figure(names[0], samples, share, format!("{what}; {}", of(&village)));
            let model = Figure::shown(names[1], "ms", simulated.value, SEEDS, simulated.spread, format!("{what}; {of_simulator}"));
            let ratio = real / simulated.value;
            let met = (1.0 / WRONG_BY..=WRONG_BY).contains(&ratio);
            let note = format!("real over simulated, {what}; a good model is at most {WRONG_BY} times wrong in either direction");
            let ratio = Figure { goal: WRONG_BY, met, ..Figure::shown(names[2], "times", ratio, 1, [ratio, ratio], note) };
            [measured, model, ratio]
        }))
        .collect())
}

fn real_figure(name: &'static str, samples: &[f64], share: f64, note: String) -> Figure {
    Figure::shown(name, "ms", share_of(samples, share), samples.len(), ends(samples), note)
}

/// The value below which that share of sorted values lies; 0 where there are none.
fn share_of(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// Least and greatest of sorted values.
fn ends(sorted: &[f64]) -> [f64; 2] {
    [share_of(sorted, 0.0), share_of(sorted, 1.0)]
}
