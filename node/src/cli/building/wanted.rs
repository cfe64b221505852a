//! Which jobs `barn build` is to build: of a recipe with what it needs beside it, of a batch, or one job of a file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use barnraiser_protocol::graph::{Graph, JobIndex};
use barnraiser_protocol::recipe::{FILE_BYTES_MAX, is_batch, parse_recipe};

use super::super::here::{in_file, read_file};
use super::super::planning::{a_folder, request as plan_request};
use crate::api::{Problem, Submit};

/// Which jobs of the plan are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chosen {
    /// The one that people call so: `recipe` or `recipe[axis=value]`, or any unique beginning of it.
    Job(String),
    /// All jobs of one recipe.
    Recipe(String),
}

/// What to plan, and which of its jobs are meant; `None` for all.
pub(super) fn request(what: &str, set: Vec<(String, String)>) -> Result<(Submit, Option<Chosen>), Problem> {
    let (file, job) = split(what)?;
    let job = job.map(|job| Chosen::Job(job.to_owned()));
    let request = plan_request(&file, set)?;
    let text = match &request.text {
        Some(text) => text.clone(),
        None => String::from_utf8(read_file(&file, FILE_BYTES_MAX)?).map_err(|_| in_file(&file, "is not a text in UTF-8"))?,
    };
    if is_batch(&file.display().to_string(), &text) {
        return Ok((request, job));
    }
    let Ok(recipe) = parse_recipe(&file.display().to_string(), &text) else {
        // What is wrong is said, with its place, when it is planned.
        return Ok((request, job));
    };
    // What it needs is planned with it, and built only where it is missing.
    Ok((request, job.or(Some(Chosen::Recipe(recipe.name)))))
}

/// `FILE` or `FILE:JOB`. A file whose name has a colon in it wins.
fn split(what: &str) -> Result<(PathBuf, Option<&str>), Problem> {
    if what == "-" || Path::new(what).is_file() {
        return Ok((what.into(), None));
    }
    if Path::new(what).is_dir() {
        return Err(a_folder(Path::new(what)));
    }
    let colon = what.match_indices(':').find(|(at, _)| Path::new(&what[..*at]).is_file());
    match colon {
        Some((at, _)) => Ok((what[..at].into(), Some(&what[at + 1..]))),
        None => Err(Problem::not_found(format!("{what}: there is no such file; a recipe, a batch or FILE:JOB is wanted"))),
    }
}

/// The jobs that are meant.
pub(super) fn jobs(graph: &Graph, chosen: Option<&Chosen>) -> Result<BTreeSet<JobIndex>, Problem> {
    let numbered = || (0u32..).map(JobIndex).zip(&graph.jobs);
    let found: BTreeSet<JobIndex> = match chosen {
        None => numbered().map(|(index, _)| index).collect(),
        Some(Chosen::Recipe(name)) => numbered().filter(|(_, job)| job.recipe == *name).map(|(index, _)| index).collect(),
        Some(Chosen::Job(label)) => {
            let exact: BTreeSet<JobIndex> = numbered().filter(|(_, job)| job.label() == *label).map(|(index, _)| index).collect();
            let of_recipe = || numbered().filter(|(_, job)| job.recipe == *label).map(|(index, _)| index).collect();
            if exact.is_empty() { of_recipe() } else { exact }
        }
    };
    if found.is_empty() {
        let mut labels: Vec<String> = graph.jobs.iter().map(barnraiser_protocol::graph::Job::label).collect();
        labels.truncate(20);
        let wanted = match chosen {
            Some(Chosen::Job(name) | Chosen::Recipe(name)) => name.as_str(),
            None => "",
        };
        return Err(Problem::not_found(format!("there is no job {wanted:?}; there are {}", labels.join(", "))));
    }
    Ok(found)
}

/// The jobs, and all that they need, in an order in which they can be built.
pub(super) fn with_needs(graph: &Graph, wanted: &BTreeSet<JobIndex>) -> BTreeSet<JobIndex> {
    let mut all = wanted.clone();
    let mut waiting: Vec<JobIndex> = wanted.iter().copied().collect();
    while let Some(index) = waiting.pop() {
        for need in graph.job(index).iter().flat_map(|job| &job.needs) {
            if all.insert(need.job) {
                waiting.push(need.job);
            }
        }
    }
    // Needs stand earlier in a graph, so its order is one.
    all
}
