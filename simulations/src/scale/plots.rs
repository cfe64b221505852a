//! How far records and the graph were when, in pictures.

use super::Options;
use crate::ledger::Ledger;
use crate::plots::{Plot, Series, Shape};
use crate::world::graphs::Spreading;

/// Points of a line: as many as a plot has room for.
const POINTS: usize = 400;
/// The share that the goals speak of.
const NEARLY_ALL: f64 = 99.0;

/// All plots of a run.
pub fn plots(options: Options, ledger: &Ledger, graph: Option<&Spreading>, builders: usize) -> Vec<Plot> {
    let name = |what: &str| format!("scale-{}-{}-{what}", options.nodes, options.seed);
    let of = format!("{} nodes, seed {}", options.nodes, options.seed);
    let mut plots = vec![records(ledger, name("records"), &of)];
    plots.extend(graph.map(|graph| graphs(graph, builders, name("graph"), &of)));
    plots
}

fn records(ledger: &Ledger, name: String, of: &str) -> Plot {
    let total = ledger.hearings.values().sum::<u64>().max(1) as f64;
    let (mut known, mut points) = (0, vec![(0.0, 0.0)]);
    for (tenths, count) in &ledger.hearings {
        known += count;
        points.push((*tenths as f64 / 10.0, known as f64 / total * 100.0));
    }
    // The slowest of a thousand would leave no room for the others.
    let end = ledger.hearing_ms(0.9995);
    points.retain(|point| point.0 <= end);
    let step = points.len().div_ceil(POINTS).max(1);
    Plot {
        name,
        title: format!("How a record spreads, {of}"),
        axes: ("milliseconds since it was said".into(), "% of nodes, over all records".into()),
        series: vec![Series::new("know it", Shape::Line, points.into_iter().step_by(step).collect())],
        marks: vec![(ledger.hearing_ms(NEARLY_ALL / 100.0), format!("99 % after {:.0} ms", ledger.hearing_ms(NEARLY_ALL / 100.0)))],
        ..Plot::default()
    }
}

fn graphs(graph: &Spreading, builders: usize, name: String, of: &str) -> Plot {
    let is_builder = |node: usize| (1..=builders).contains(&node);
    let ((heard, all), (_, some)) = (graph.times(|_| true), graph.times(is_builder));
    let mark = |times: &[f64], who: &str| {
        let at = times.get(times.len() * 99 / 100).filter(|at| at.is_finite());
        at.map(|at| (*at, format!("99 % of {who} after {at:.1} s")))
    };
    Plot {
        name,
        title: format!("How the graph of a batch spreads, {of}"),
        axes: ("seconds since the batch was said".into(), "% of those who get it".into()),
        marks: mark(&some, "the builders").into_iter().chain(mark(&all, "all nodes")).collect(),
        series: vec![
            Series::new("know of the batch", Shape::Steps, shares(&heard)),
            Series::new("have its graph", Shape::Steps, shares(&all)),
            Series::new("builders that have it", Shape::Steps, shares(&some)),
        ],
        places: Vec::new(),
    }
}

/// The share of all, in percent, that `times` in their order make up; who has none is one of all, and no point.
fn shares(times: &[f64]) -> Vec<(f64, f64)> {
    let all = times.len();
    let times = &times[..times.partition_point(|at| at.is_finite())];
    let step = times.len().div_ceil(POINTS).max(1);
    let share = |place: usize| (times[place], (place + 1) as f64 / all as f64 * 100.0);
    let last = times.len().checked_sub(1).map(share);
    std::iter::once((0.0, 0.0)).chain((0..times.len()).step_by(step).map(share)).chain(last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_begin_at_nothing_and_end_at_all_however_many_there_are() {
        for count in [1, 3, 5 * POINTS + 7] {
            let points = shares(&(0..count).map(|at| at as f64).collect::<Vec<_>>());
            assert_eq!((points[0], points[points.len() - 1]), ((0.0, 0.0), ((count - 1) as f64, 100.0)));
            assert!(points.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1) && points.len() <= POINTS + 2);
        }
        assert_eq!(shares(&[]), [(0.0, 0.0)]);
        assert_eq!(shares(&[1.0, f64::INFINITY]), [(0.0, 0.0), (1.0, 50.0), (1.0, 50.0)]);
    }
}
