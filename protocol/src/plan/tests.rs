//! The planner on small graphs, on random ones against a slow reading of the same rules, and on the shape of a whole
//! operating system: images of different devices that share their toolchain.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::action::{Environment, Step};
use crate::graph::{JobKind, JobNeed, Limits};

fn job(name: &str, device: &str, needs: &[u32]) -> Job {
    Job {
        recipe: name.into(),
        version: "1".into(),
        cell: BTreeMap::from([("device".to_owned(), device.to_owned())]),
        kind: JobKind::Build,
        sources: Vec::new(),
        needs: needs.iter().enumerate().map(|(at, need)| JobNeed::all(JobIndex(*need), format!("/needs/{at}"))).collect(),
        vars: BTreeMap::from([("DEVICE".to_owned(), device.to_owned())]),
        environment: Environment::host("linux", ["x86_64"]),
        shell: vec!["sh".into(), "-e".into()],
        steps: vec![Step { name: "build".into(), script: format!("make -C {name} -j$BARN_CORES install DESTDIR=/build/out") }],
        outputs: BTreeMap::from([("out".to_owned(), "out".to_owned())]),
        epoch: 1_700_000_000,
        cores: 4,
        limits: Limits { memory: 1 << 30, disk: 1 << 30, wall: Duration::from_secs(60), silent: Duration::from_secs(60) },
        targets: BTreeMap::new(),
    }
}

fn minute(_: &Job) -> Duration {
    Duration::from_secs(60)
}

/// An image: 110 tools that all devices share, 200 packages of its own, each with three needs.
fn image(device: &str) -> Graph {
    let needs = |at: u32| -> Vec<u32> { [1, 7, 31].iter().filter_map(|back| at.checked_sub(*back)).collect() };
    let tools = (0..110).map(|at| job(&format!("tool-{at}"), "any", &needs(at)));
    let packages = (110..310).map(|at| job(&format!("package-{at}"), device, &needs(at)));
    Graph { jobs: tools.chain(packages).collect() }
}

#[test]
fn equal_jobs_of_several_graphs_are_planned_once() {
    let (left, right) = (image("RPi4"), image("RPi5"));
    let planner = Planner::new([&left, &right], minute);
    assert_eq!(planner.keys().len(), 620);
    assert_eq!(planner.in_order().count(), 110 + 2 * 200);
    assert_eq!(planner.keys()[..110], planner.keys()[310..420]);
    assert_ne!(planner.keys()[110], planner.keys()[420]);
}

/// What a key leaves out must not be in the action, and what the action has must be in the key.
#[test]
fn key_covers_what_the_action_covers() {
    let plain = job("a", "x", &[]);
    let key = |job: &Job| Planner::new([&Graph { jobs: vec![job.clone()] }], minute).keys()[0];
    let renamed = Job { recipe: "b".into(), limits: Limits { memory: 7, ..plain.limits.clone() }, ..plain.clone() };
    assert_eq!(key(&plain), key(&renamed));
    for other in [
        Job { cores: 5, ..plain.clone() },
        Job { epoch: 5, ..plain.clone() },
        Job { shell: vec!["bash".into()], ..plain.clone() },
        Job { vars: BTreeMap::new(), ..plain.clone() },
        Job { outputs: BTreeMap::new(), ..plain.clone() },
        Job { steps: Vec::new(), ..plain.clone() },
    ] {
        assert_ne!(key(&plain), key(&other));
    }
}

#[test]
fn longest_way_to_the_end_goes_first_then_what_most_wait_for() {
    // 0 ← 1 ← 2 is the longest way; 3 and 4 are as long as each other, and two jobs wait for 4.
    let graph = Graph {
        jobs: vec![
            job("a", "x", &[]),
            job("b", "x", &[0]),
            job("c", "x", &[1]),
            job("d", "x", &[]),
            job("e", "x", &[]),
            job("f", "x", &[3, 4]),
            job("g", "x", &[4]),
        ],
    };
    let planner = Planner::new([&graph], minute);
    let order: Vec<u32> = planner.in_order().map(|distinct| distinct.job).collect();
    assert_eq!(order[..4], [0, 4, 1, 3]);
    assert_eq!(planner.rank_ms(JobIndex(0)), 180_000);
    assert_eq!(planner.distinct_of(4).unwrap().fan_out, 2);
}

/// Only what a change reaches has a new key, and planning anew gives what planning from the start gives.
#[test]
fn change_of_one_package_reaches_what_needs_it() {
    let mut graph = image("RPi4");
    let mut planner = Planner::new([&graph], minute);
    graph.jobs[200].steps[0].script.push_str(" # changed");
    let changed = planner.replace(200, &graph.jobs[200], Duration::from_secs(60));
    let fresh = Planner::new([&graph], minute);
    assert_eq!(planner.keys(), fresh.keys());
    assert!(planner.in_order().eq(fresh.in_order()));
    assert_eq!(changed, 110, "all behind it, since each needs the one before it, and itself");
    assert_eq!(planner.replace(999_999, &graph.jobs[0], Duration::ZERO), 0);
}

proptest! {
    /// Ranks are those of a slow reading of their definition, and no job stands before what it needs.
    #[test]
    fn ranks_and_order_are_what_they_should_be(edges in proptest::collection::vec(proptest::collection::btree_set(0u32..40, 0..4), 1..40)) {
        let needs = |at: usize| -> Vec<u32> { edges[at].iter().copied().filter(|need| (*need as usize) < at).collect() };
        let jobs: Vec<Job> = (0..edges.len()).map(|at| job(&format!("j{at}"), "x", &needs(at))).collect();
        let cost = |job: &Job| Duration::from_millis(job.recipe.bytes().map(u64::from).sum());
        let graph = Graph { jobs };
        let planner = Planner::new([&graph], cost);
        fn rank(graph: &Graph, at: u32, cost: &impl Fn(&Job) -> Duration) -> u64 {
            let above = (0..graph.jobs.len()).filter(|other| graph.jobs[*other].needs.iter().any(|need| need.job.0 == at));
            let above = above.map(|other| rank(graph, u32::try_from(other).unwrap(), cost)).max().unwrap_or(0);
            above + millis(cost(&graph.jobs[at as usize])).max(1)
        }
        if edges.len() <= 16 {
            for at in 0..places(edges.len()) {
                prop_assert_eq!(planner.rank_ms(JobIndex(at)), rank(&graph, at, &cost));
            }
        }
        let order: Vec<u32> = planner.in_order().map(|distinct| distinct.job).collect();
        for (at, job) in order.iter().enumerate() {
            for need in &graph.jobs[*job as usize].needs {
                prop_assert!(order[..at].contains(&need.job.0));
            }
        }
    }
}

/// As many steps as 29 images have; how long it takes is the benchmark's to say. A change of one job comes to what planning
/// everything anew comes to.
#[test]
fn change_among_nine_thousand_jobs_is_as_if_all_were_planned_anew() {
    let mut images: Vec<Graph> = (0..29).map(|device| image(&format!("device-{device}"))).collect();
    let mut planner = Planner::new(&images, minute);
    assert_eq!(planner.in_order().count(), 110 + 29 * 200);
    // A package, which no other image shares.
    images[0].jobs[120].epoch += 1;
    planner.replace(120, &images[0].jobs[120], minute(&images[0].jobs[120]));
    let anew = Planner::new(&images, minute);
    assert_eq!(planner.keys(), anew.keys());
    assert!(planner.in_order().eq(anew.in_order()));
}
