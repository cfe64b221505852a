//! A night in pictures.

use std::time::Duration;

use barnraiser_protocol::time::Timestamp;

use super::bound::changes;
use super::figures::Outcome;
use crate::ledger::End;
use crate::plots::{Plot, Series, Shape};

/// Points of a line: as many as a plot has room for.
const POINTS: u32 = 400;
/// Upper ends of the bars of waiting times, in seconds, and how they are called; what is longer has a bar of its own.
const WAITS: [(f64, &str); 9] = [
    (0.5, "< 0.5 s"),
    (1.0, "1 s"),
    (2.0, "2 s"),
    (5.0, "5 s"),
    (15.0, "15 s"),
    (60.0, "1 min"),
    (300.0, "5 min"),
    (900.0, "15 min"),
    (3600.0, "1 h"),
];

/// A build: from when to when, and with how many cores.
type Busy = (Timestamp, Timestamp, f64);

/// All plots of a night.
pub fn plots(outcome: &Outcome) -> Vec<Plot> {
    vec![work(outcome), machines(outcome), waits(outcome)]
}

fn minutes(outcome: &Outcome, at: Timestamp) -> f64 {
    at.since(outcome.begin).as_secs_f64() / 60.0
}

/// Moments from the beginning to `end`, evenly spread.
fn moments(outcome: &Outcome, end: Duration) -> impl Iterator<Item = Timestamp> + '_ {
    (0..=POINTS).map(move |point| outcome.begin + end.mul_f64(f64::from(point) / f64::from(POINTS)))
}

fn name(outcome: &Outcome, what: &str) -> String {
    format!("nightly-{}-{}-{what}", outcome.report.nodes, outcome.report.seed)
}

/// The builds that came to an end, with the fetching of their inputs.
fn ended(outcome: &Outcome) -> Vec<Busy> {
    let built = outcome.spans.iter().filter(|span| span.end == End::Built);
    built.map(|span| (span.since, span.until, f64::from(span.cores))).collect()
}

fn scheduled(outcome: &Outcome) -> Vec<Busy> {
    outcome.schedule.runs.iter().map(|run| (run.since, run.until, f64::from(outcome.night.chores[run.chore].cores))).collect()
}

/// Core-hours that `builds` have done at each of the moments.
fn done(outcome: &Outcome, builds: &[Busy], end: Duration) -> Vec<(f64, f64)> {
    let upto = |moment: Timestamp| {
        let each = builds.iter().map(|(since, until, cores)| moment.min(*until).since(*since).as_secs_f64() * cores);
        each.sum::<f64>() / 3600.0
    };
    moments(outcome, end).map(|moment| (minutes(outcome, moment), upto(moment))).collect()
}

fn work(outcome: &Outcome) -> Plot {
    let (network, list) = (outcome.end.since(outcome.begin), outcome.schedule.makespan);
    let span = |time: Duration| time.as_secs_f64() / 60.0;
    // What all cores could do, up to all that there is to do.
    let there: Vec<Busy> = (outcome.seats.iter())
        .flat_map(|seat| seat.stays.iter().map(|stay| (stay.from.max(outcome.begin), stay.until, f64::from(seat.cores))))
        .collect();
    let mut marks = vec![
        (span(outcome.bound.longest()), format!("lower bound {:.0} min", span(outcome.bound.longest()))),
        (span(list), format!("list scheduler {:.0} min", span(list))),
        (span(network), format!("network {:.0} min", span(network))),
    ];
    marks.sort_by(|a, b| a.0.total_cmp(&b.0));
    Plot {
        name: name(outcome, "work"),
        title: format!("Work done, {} volunteers, seed {}", outcome.report.nodes, outcome.report.seed),
        axes: ("minutes since the batch was submitted".into(), "core-hours".into()),
        series: vec![
            Series::new("the network", Shape::Line, done(outcome, &ended(outcome), network)),
            Series::new("list scheduler that knows the future", Shape::Line, done(outcome, &scheduled(outcome), list)),
            Series::new("all cores, never idle", Shape::Line, done(outcome, &there, outcome.bound.capacity)),
        ],
        marks,
        places: Vec::new(),
    }
}

fn machines(outcome: &Outcome) -> Plot {
    let end = outcome.end.since(outcome.begin);
    let there = changes(&outcome.seats);
    let mut builds: Vec<(Timestamp, i64)> = Vec::new();
    for span in &outcome.spans {
        builds.extend([(span.since, i64::from(span.cores)), (span.until, -i64::from(span.cores))]);
    }
    let mut scheduled: Vec<(Timestamp, i64)> = Vec::new();
    for run in &outcome.schedule.runs {
        let cores = i64::from(outcome.night.chores[run.chore].cores);
        scheduled.extend([(run.since, cores), (run.until, -cores)]);
    }
    let level = |mut changes: Vec<(Timestamp, i64)>| {
        changes.sort_unstable();
        let (mut cores, mut next, mut points) = (0, changes.into_iter().peekable(), Vec::new());
        for moment in moments(outcome, end) {
            while let Some((_, change)) = next.next_if(|(at, _)| *at <= moment) {
                cores += change;
            }
            points.push((minutes(outcome, moment), cores as f64));
        }
        points
    };
    Plot {
        name: name(outcome, "machines"),
        title: format!("Cores that are there and cores that build, {} volunteers, seed {}", outcome.report.nodes, outcome.report.seed),
        axes: ("minutes since the batch was submitted".into(), "cores".into()),
        series: vec![
            Series::new("there", Shape::Steps, level(there)),
            Series::new("building", Shape::Steps, level(builds)),
            Series::new("building, as the list scheduler would", Shape::Steps, level(scheduled)),
        ],
        ..Plot::default()
    }
}

fn waits(outcome: &Outcome) -> Plot {
    let mut counts = vec![0.0; WAITS.len() + 1];
    for wait in &outcome.waits_ms {
        let seconds = *wait as f64 / 1000.0;
        counts[WAITS.iter().position(|(end, _)| seconds < *end).unwrap_or(WAITS.len())] += 1.0;
    }
    let total = (outcome.waits_ms.len() as f64).max(1.0);
    let points = counts.iter().enumerate().map(|(at, count)| (at as f64, count / total * 100.0)).collect();
    Plot {
        name: name(outcome, "waits"),
        title: format!("From ready to claimed, {} volunteers, seed {}", outcome.report.nodes, outcome.report.seed),
        axes: ("up to so long".into(), "% of slots".into()),
        series: vec![Series::new("slots", Shape::Bars, points)],
        places: WAITS.iter().map(|(_, name)| (*name).to_owned()).chain(["longer".to_owned()]).collect(),
        ..Plot::default()
    }
}
