//! How fast records spread: a village of real nodes, and the simulator with as many nodes whose messages take as long. What
//! the simulator says of networks that no machine holds is worth as much as the two agree.
//!
//! Twice: over plain loopback, where the machine's cores are what takes time and the simulator has no notion of them; and
//! with relays between the nodes that keep each message for as long as it would take between homes.

mod real;
mod simulated;

use super::figure::Figure;
use real::Setting;

/// Real nodes, and simulated ones.
const NODES: usize = 24;
/// Two nodes, of which one builds: all that the other hears came over one hop.
const HOP: Setting = Setting { nodes: 2, builders: 1, jobs: 60, seconds: "0.3", latency_ms: None };
/// The village: few build, so that what spreads and not what is built keeps the cores busy.
const VILLAGE: Setting = Setting { nodes: NODES, builders: 4, jobs: 60, seconds: "1", latency_ms: None };
/// The same as if everybody were at home, with the latency for which the simulator's promises are made.
const APART: Setting = Setting { latency_ms: Some(100.0), ..VILLAGE };
/// Simulated runs.
const SEEDS: usize = 10;
/// The greatest factor by which a good model is wrong, in either direction.
const WRONG_BY: f64 = 2.0;

/// The names of a figure: real, simulated, and the one over the other.
type Names = [&'static str; 3];

/// What is compared, on loopback and apart.
const NAMES: [[Names; 4]; 2] = [
    [
        ["simulation.loopback_real_median", "simulation.loopback_simulated_median", "simulation.loopback_ratio_median"],
        ["simulation.loopback_real_p99", "simulation.loopback_simulated_p99", "simulation.loopback_ratio_p99"],
        ["simulation.loopback_all_real_median", "simulation.loopback_all_simulated_median", "simulation.loopback_all_ratio_median"],
        ["simulation.loopback_all_real_p99", "simulation.loopback_all_simulated_p99", "simulation.loopback_all_ratio_p99"],
    ],
    [
        ["simulation.propagation_real_median", "simulation.propagation_simulated_median", "simulation.propagation_ratio_median"],
        ["simulation.propagation_real_p99", "simulation.propagation_simulated_p99", "simulation.propagation_ratio_p99"],
        [
            "simulation.propagation_all_real_median",
            "simulation.propagation_all_simulated_median",
            "simulation.propagation_all_ratio_median",
        ],
        ["simulation.propagation_all_real_p99", "simulation.propagation_all_simulated_p99", "simulation.propagation_all_ratio_p99"],
    ],
];

/// Measures.
pub fn measure() -> anyhow::Result<Vec<Figure>> {
    eprintln!("simulation: {} jobs by two nodes, by {NODES}, and by {NODES} that are far apart; takes about four minutes", VILLAGE.jobs);
    let hop = real::measure(HOP)?;
    let hop_ms = hop.each_ms.iter().sum::<f64>() / hop.each_ms.len().max(1) as f64;
    let of_hop = format!("from one node to the only other: {}", hop.told());
    let mut figures = vec![
        real_figure("simulation.hop_median", &hop.each_ms, 0.5, of_hop.clone()),
        real_figure("simulation.hop_p99", &hop.each_ms, 0.99, of_hop.clone()),
        Figure::shown("simulation.hop_mean", "ms", hop_ms, hop.each_ms.len(), ends(&hop.each_ms), of_hop),
    ];
    figures.extend(compare(NAMES[0], VILLAGE, hop_ms)?);
    match compare(NAMES[1], APART, hop_ms) {
        Ok(apart) => figures.extend(apart),
        Err(error) => {
            let missing = |name| Figure::missing(name, "ms", f64::INFINITY, format!("could not be measured: {error:#}"));
            figures.extend(NAMES[1].into_iter().flatten().map(missing));
        }
    }
    Ok(figures)
}

/// Real nodes, and as many simulated ones whose messages take as long.
fn compare(names: [Names; 4], setting: Setting, hop_ms: f64) -> anyhow::Result<Vec<Figure>> {
    let heard = real::measure(setting)?;
    let latency_ms = hop_ms + setting.latency_ms.unwrap_or(0.0);
    let simulated = simulated::measure(setting.nodes, latency_ms, SEEDS)?;
    let of_simulator = format!("`calm` with {NODES} nodes and a mean latency of {latency_ms:.2} ms, {SEEDS} seeds");
    let (told, processor_ms) = (heard.told(), heard.processor_ms);
    let measured = [
        (&heard.each_ms, 0.5, &simulated.heard_median, "until a node knows a record, the median over records and nodes"),
        (&heard.each_ms, 0.99, &simulated.heard_p99, "until a node knows a record, 99 of 100 over records and nodes"),
        (&heard.nearly_all_ms, 0.5, &simulated.nearly_all_median, "until 99 % of the nodes know a record, the median over records"),
        (&heard.nearly_all_ms, 0.99, &simulated.nearly_all_p99, "until 99 % of the nodes know a record, 99 of 100 records"),
    ];
    let mut figures = Vec::new();
    for ([name, name_simulated, name_ratio], (samples, share, simulated, what)) in names.into_iter().zip(measured) {
        figures.push(real_figure(name, samples, share, format!("{what}: {told}")));
        let note = format!("{what}: {of_simulator}");
        figures.push(Figure::shown(name_simulated, "ms", simulated.value, SEEDS, simulated.spread, note));
        let ratio = share_of(samples, share) / simulated.value;
        // Where nothing but processors takes time, the simulator, which has none, is not held to it.
        let (goal, met, why) = match setting.latency_ms {
            Some(_) => (
                WRONG_BY,
                (1.0 / WRONG_BY..=WRONG_BY).contains(&ratio),
                format!("a good model is at most {WRONG_BY} times wrong in either direction"),
            ),
            None => {
                (f64::INFINITY, true, format!("no measure of the model: {processor_ms:.0} ms of processor time a record are not simulated"))
            }
        };
        let note = format!("real over simulated, {what}; {why}");
        figures.push(Figure { goal, met, ..Figure::shown(name_ratio, "times", ratio, 1, [ratio, ratio], note) });
    }
    Ok(figures)
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
