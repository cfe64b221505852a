//! Whole runs, small enough for every day.
#![allow(clippy::unwrap_used)]

use clap::Parser as _;

use crate::args::Args;
use crate::faults;
use crate::nightly::workload::Workload;
use crate::nightly::{self, Options};
use crate::{scale, trust};

/// Nodes of a run: enough for every policy, few enough for every day.
const NODES: usize = 12;

fn passes(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let report = faults::run(NODES, seed, false, false).unwrap();
        assert!(report.passed(), "seed {seed}: {:?}", report.faults);
    }
}

// In parts, so that they run side by side.
#[test]
fn seeds_1_to_8_come_through_all_faults() {
    passes(1..9);
}

#[test]
fn seeds_9_to_16_come_through_all_faults() {
    passes(9..17);
}

#[test]
fn seeds_17_to_24_come_through_all_faults() {
    passes(17..25);
}

/// Each of these found a fault of the engine; the engine's tests of what comes late and of blame say which.
#[test]
fn seeds_that_found_faults_come_through() {
    for seed in [27, 29, 32, 34, 36, 39, 107, 169, 179, 214, 220, 274] {
        passes(seed..seed + 1);
    }
}

#[test]
fn same_seed_gives_the_same_trace() {
    let hash = |seed| faults::run(8, seed, false, false).unwrap().trace_hash;
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}

/// Without faults nothing is built but what the slots ask for and what two claims at once cost.
#[test]
fn calm_network_comes_to_its_end() {
    let report = faults::run(NODES, 1, true, false).unwrap();
    assert!(report.passed(), "{:?}", report.faults);
}

#[test]
fn bad_arguments_are_refused_with_exit_code_2() {
    let lines = [
        "",
        "weather",
        "faults --nodes 2",
        "faults --nodes many",
        "faults --nodes 1000000",
        "faults --seed -1",
        "faults --seeds 0",
        "nightly --images 0",
        "nightly --workload",
        "scale --builders 1",
        "scale --nodes 20001",
        "trust --branches 0",
        "calm --latency-ms 0",
        "calm --latency-ms fast",
    ];
    for line in lines {
        let error = Args::try_parse_from(std::iter::once("barnraiser-simulations").chain(line.split_whitespace())).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}: {error}");
    }
    assert!(Args::try_parse_from(["barnraiser-simulations", "faults", "--nodes", "3", "--seed", "7", "--json"]).is_ok());
}

#[test]
fn records_take_as_long_as_the_latency_that_was_asked_for_says() {
    let heard = |ms| {
        let report = faults::run_with(NODES, 1, true, Some(std::time::Duration::from_millis(ms)), false).unwrap();
        report.figures.iter().find(|figure| figure.name == "calm.heard").unwrap().value
    };
    let (near, far) = (heard(10), heard(200));
    assert!((5.0..15.0).contains(&near) && (100.0..300.0).contains(&far), "{near} {far}");
}

/// A small night: three images, ten volunteers.
#[test]
fn small_night_comes_to_its_end_and_the_same_seed_gives_the_same_trace() {
    let options = |seed| Options { volunteers: 10, relays: 0, seed, first: false, verbose: false };
    let night = |seed| nightly::run(options(seed), &Workload::made_up(seed, 3, 40)).unwrap();
    let (one, again, other) = (night(1), night(1), night(2));
    for outcome in [&one, &other] {
        assert!(outcome.report.passed(), "{:?}", outcome.report.faults);
        assert!(outcome.end.since(outcome.begin) >= outcome.bound.longest());
    }
    assert_eq!(one.report.trace_hash, again.report.trace_hash);
    assert_ne!(one.report.trace_hash, other.report.trace_hash);
}

/// Ten minutes of a hundred nodes, of which twelve build: the goals for ten thousand hold for them with room to spare.
#[test]
fn small_network_in_steady_work_keeps_what_is_promised_of_large_ones() {
    let options = |seed| scale::Options { nodes: 100, builders: 12, seed, measured: std::time::Duration::from_secs(600), verbose: false };
    let run = |seed| scale::run(options(seed), &Workload::made_up(seed, 8, 200)).unwrap();
    let (one, again, other) = (run(1), run(1), run(2));
    assert_eq!(one.trace_hash, again.trace_hash);
    for report in [&one, &other] {
        assert!(report.passed(), "{:?}", report.faults);
        let figure = |name: &str| report.figures.iter().find(|figure| figure.name == format!("scale.{name}")).unwrap().value;
        assert!(figure("known_to_99_percent") < 1000.0, "{}", figure("known_to_99_percent"));
        assert!(figure("graph_to_99_percent_of_nodes") < 10.0, "{}", figure("graph_to_99_percent_of_nodes"));
        assert!((1.0..=16.0).contains(&figure("graph_copies_of_submitter")), "{}", figure("graph_copies_of_submitter"));
        assert!(figure("conflicts") < 5.0 && figure("room_to_claimed") < 2000.0);
        assert!(figure("claims") > 10.0 && figure("measured") > 2.0, "{} {}", figure("claims"), figure("measured"));
    }
}

fn trust_figures(branches: usize, seed: u64) -> impl Fn(&str) -> f64 {
    let report = trust::run(trust::Options { nodes: 24, branches, seed, verbose: false }).unwrap();
    assert!(report.passed(), "seed {seed}: {:?}", report.faults);
    move |name: &str| report.figures.iter().find(|figure| figure.name == format!("trust.{name}")).unwrap().value
}

/// Whatever is lied in one branch, with as many invented members as one likes: it is found out, and nobody else suffers.
#[test]
fn lies_of_one_branch_are_never_verified_and_cost_no_honest_operator_its_vote() {
    for seed in 1..3 {
        let figure = trust_figures(1, seed);
        assert_eq!((figure("lies_verified"), figure("honest_suspended")), (0.0, 0.0), "seed {seed}");
        assert_eq!(figure("verified"), figure("jobs"));
        assert!(figure("lies_told") > 0.0 && figure("liars_suspended") > 0.0 && figure("gang_suspended") > 0.0);
    }
}

/// The quorum is what the policy says, and no more than that: eight branches in one hand hold both slots of a job now and then.
#[test]
fn lies_of_as_many_branches_as_the_quorum_asks_for_can_be_verified() {
    assert!((1..4).any(|seed| trust_figures(8, seed)("lies_verified") > 0.0));
}
