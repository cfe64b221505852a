//! The planner on a whole operating system's nightly: the build graphs of all images of LibreELEC.
//!
//! The workload is a file that is not kept here; `BARN_WORKLOAD` names it. It is JSON: `{"images": [{"project", "device",
//! "arch", "steps": [[task, name, section, [needed step, …]], …]}]}`. Steps named `…:host` are the same in all images of
//! an architecture where all that they need is; every other step is its image's own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use barnraiser_protocol::action::{Environment, Step};
use barnraiser_protocol::graph::{Graph, Job, JobIndex, JobKind, JobNeed, Limits};
use barnraiser_protocol::plan::Planner;
use serde::Deserialize;

use super::super::figure::Figure;

/// Seconds for all graphs.
const PLAN_GOAL: f64 = 0.5;
/// Milliseconds after a change of one package.
const REPLAN_GOAL: f64 = 10.0;
const RUNS: usize = 9;

#[derive(Debug, Deserialize)]
struct Workload {
    images: Vec<Image>,
}

#[derive(Debug, Deserialize)]
struct Image {
    project: String,
    device: String,
    arch: String,
    /// Task, name, section, needed steps.
    steps: Vec<(String, String, String, Vec<u32>)>,
}

/// Measures, or says why not.
pub fn measure() -> anyhow::Result<Vec<Figure>> {
    let Some(path) = std::env::var_os("BARN_WORKLOAD").map(PathBuf::from) else {
        let note = "BARN_WORKLOAD does not name the file with the workload's graphs";
        return Ok(vec![
            Figure::missing("engine.plan_all", "s", PLAN_GOAL, note.into()),
            Figure::missing("engine.replan_one", "ms", REPLAN_GOAL, note.into()),
        ]);
    };
    let text = std::fs::read(&path).with_context(|| format!("{} can't be read", path.display()))?;
    let workload: Workload = serde_json::from_slice(&text).with_context(|| format!("{} is no workload", path.display()))?;
    let (mut all, mut one) = (Vec::new(), Vec::new());
    let (mut jobs, mut distinct, mut reached) = (0, 0, 0);
    for _ in 0..RUNS {
        let start = Instant::now();
        let mut graphs: Vec<Graph> = workload.images.iter().map(expand).collect();
        let mut planner = Planner::new(&graphs, cost);
        all.push(start.elapsed().as_secs_f64());
        (jobs, distinct) = (planner.keys().len(), planner.in_order().count());
        // The first step of the first image: most others wait for it.
        let first = &mut graphs[0].jobs[0];
        first.epoch += 1;
        let start = Instant::now();
        reached = planner.replace(0, first, cost(first));
        one.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    let of = format!("{} graphs, {jobs} steps, {distinct} distinct", workload.images.len());
    let plan_note = format!("expanded, hashed, deduplicated, ranked by critical path and ordered: {of}");
    let replan_note = format!("after a change of the step that most others wait for, which {reached} distinct steps follow; {of}");
    Ok(vec![
        Figure::lower("engine.plan_all", "s", PLAN_GOAL, all, plan_note),
        Figure::lower("engine.replan_one", "ms", REPLAN_GOAL, one, replan_note),
    ])
}

/// A stand-in for measured durations: what a step's name says.
fn cost(job: &Job) -> Duration {
    Duration::from_millis(u64::from(blake3::hash(job.recipe.as_bytes()).as_bytes()[0]) * 1000)
}

fn expand(image: &Image) -> Graph {
    let jobs = image.steps.iter().map(|(task, name, _, needs)| {
        let cell = if name.ends_with(":host") {
            BTreeMap::from([("arch".to_owned(), image.arch.clone())])
        } else {
            BTreeMap::from([
                ("arch".to_owned(), image.arch.clone()),
                ("device".to_owned(), image.device.clone()),
                ("project".to_owned(), image.project.clone()),
            ])
        };
        let needs = needs.iter().map(|need| {
            let at = format!("/needs/{}", image.steps.get(*need as usize).map_or("", |step| &step.1));
            JobNeed::all(JobIndex(*need), at)
        });
        Job {
            recipe: name.clone(),
            version: String::new(),
            kind: JobKind::Build,
            sources: Vec::new(),
            needs: needs.collect(),
            vars: cell.iter().map(|(axis, value)| (axis.to_uppercase(), value.clone())).collect(),
            cell,
            environment: Environment { programs: BTreeSet::from(["make".into()]), ..Environment::host("linux", ["x86_64"]) },
            shell: vec!["sh".into(), "-e".into()],
            steps: vec![Step { name: "build".into(), script: format!("scripts/{task} {name}") }],
            outputs: BTreeMap::from([("out".to_owned(), "out".to_owned())]),
            epoch: 1_700_000_000,
            cores: 4,
            limits: Limits { memory: 4 << 30, disk: 8 << 30, wall: Duration::from_secs(7200), silent: Duration::from_secs(1200) },
            targets: BTreeMap::new(),
        }
    });
    Graph { jobs: jobs.collect() }
}
