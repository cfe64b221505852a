//! Many seeds in one: the median of every figure, and how far apart the seeds are.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::report::Report;

/// A figure over all seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// As in each report.
    pub name: String,
    /// The median; of an even number of seeds the mean of the two in the middle.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// The least and the greatest.
    pub spread: [f64; 2],
}

/// What many seeds came to. It has the fields of a report, so that who reads the last line finds them there.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Which scenario.
    pub scenario: &'static str,
    /// Number of nodes.
    pub nodes: usize,
    /// The first seed.
    pub seed: u64,
    /// How many seeds.
    pub seeds: usize,
    /// The seeds for which a checker found something.
    pub failed: Vec<u64>,
    /// The hash of all seeds' trace hashes, in their order.
    pub trace_hash: String,
    /// Checker → whether it found nothing for any seed.
    pub checks: BTreeMap<&'static str, bool>,
    /// Medians. A figure that only some seeds have is that of these.
    pub figures: Vec<Spread>,
}

impl Summary {
    /// The summary of at least one report.
    pub fn of(reports: &[Report]) -> Option<Self> {
        let first = reports.first()?;
        let mut hasher = blake3::Hasher::new();
        let mut checks = BTreeMap::new();
        let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut names: Vec<(&str, &'static str)> = Vec::new();
        for report in reports {
            hasher.update(report.trace_hash.as_bytes());
            for (name, passed) in &report.checks {
                *checks.entry(*name).or_insert(true) &= passed;
            }
            for figure in &report.figures {
                if !values.contains_key(&*figure.name) {
                    names.push((&figure.name, figure.unit));
                }
                values.entry(&figure.name).or_default().push(figure.value);
            }
        }
        let spread = |(name, unit): (&str, &'static str)| {
            let mut values = values[name].clone();
            values.sort_by(f64::total_cmp);
            let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
            Spread { name: name.to_owned(), value: (low + high) / 2.0, unit, spread: [values[0], values[values.len() - 1]] }
        };
        Some(Self {
            scenario: first.scenario,
            nodes: first.nodes,
            seed: first.seed,
            seeds: reports.len(),
            failed: reports.iter().filter(|report| !report.passed()).map(|report| report.seed).collect(),
            trace_hash: hasher.finalize().to_hex().to_string(),
            checks,
            figures: names.into_iter().map(spread).collect(),
        })
    }

    /// For people.
    pub fn print(&self) {
        println!("{} with {} nodes, {} seeds from {} on: medians, least and greatest", self.scenario, self.nodes, self.seeds, self.seed);
        for Spread { name, value, unit, spread: [low, high] } in &self.figures {
            println!("  {name:<28} {value:>14.2} {low:>14.2} {high:>14.2} {unit}");
        }
        println!("  {} of {} seeds failed: {:?}", self.failed.len(), self.seeds, self.failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Figure;

    fn report(seed: u64, values: &[(&str, f64)], passed: bool) -> Report {
        Report {
            scenario: "test",
            nodes: 3,
            seed,
            trace_hash: seed.to_string(),
            checks: BTreeMap::from([("votes", passed)]),
            faults: if passed { Vec::new() } else { vec![crate::checks::Fault { check: "votes", at_ms: 0, what: String::new() }] },
            figures: values.iter().map(|(name, value)| Figure::new(*name, *value, "s")).collect(),
            plots: Vec::new(),
        }
    }

    #[test]
    fn median_and_ends_are_those_of_all_seeds_that_have_the_figure() {
        let reports =
            [report(4, &[("a", 5.0), ("b", 1.0)], true), report(5, &[("a", 1.0)], false), report(6, &[("a", 2.0), ("b", 2.0)], true)];
        let summary = Summary::of(&reports).unwrap();
        assert_eq!((summary.seed, summary.seeds, summary.failed), (4, 3, vec![5]));
        assert_eq!(summary.checks, BTreeMap::from([("votes", false)]));
        let figures: Vec<_> = summary.figures.iter().map(|f| (&*f.name, f.value, f.spread)).collect();
        assert_eq!(figures, [("a", 2.0, [1.0, 5.0]), ("b", 1.5, [1.0, 2.0])]);
        assert!(Summary::of(&[]).is_none());
    }
}
