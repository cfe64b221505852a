//! The graph of a batch: its jobs and what each needs of the others. It travels as a blob that the `Batch` record names.
//!
//! A job stands for an action once all its needs have outputs: [`Graph::bind`]. [`Packed`] is a graph as the engine keeps it.

mod packed;

pub use packed::{JobFacts, Packed};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::{Action, Environment, Need, Source, Step};
use crate::codec;
use crate::id::BlobHash;

/// The most bytes a graph may have.
pub const GRAPH_BYTES_MAX: usize = 64 << 20;
/// The most jobs a graph may have.
pub const JOBS_MAX: usize = 100_000;

/// The place of a job in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobIndex(pub u32);

/// Whether a job's outputs are cross-verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Outputs are cross-verified.
    Build,
    /// Pass or fail per platform: shown, not voted on.
    Check,
}

/// Limits of a build; times are those of the reference machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Greatest memory in bytes.
    pub memory: u64,
    /// Greatest sum of what the build writes, in bytes.
    pub disk: u64,
    /// Greatest wall time of all steps.
    pub wall: Duration,
    /// Longest time without output and without CPU time.
    pub silent: Duration,
}

/// What a job needs of another job of its graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobNeed {
    /// The other job; always one that stands earlier in the graph.
    pub job: JobIndex,
    /// Absolute path in the sandbox.
    pub at: String,
    /// With all that the other job needs itself, laid at the same place.
    pub closure: bool,
    /// Glob patterns; empty means all.
    pub only: Vec<String>,
}

impl JobNeed {
    /// All outputs of `job`, at `at`, without what it needs itself.
    pub fn all(job: JobIndex, at: impl Into<String>) -> Self {
        Self { job, at: at.into(), closure: false, only: Vec::new() }
    }
}

/// One vertex: an action whose needs are not digests yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The recipe's name.
    pub recipe: String,
    /// The recipe's version, for people.
    pub version: String,
    /// Axis → value, of those axes that the recipe mentions or that the batch gives the cell.
    pub cell: BTreeMap<String, String>,
    /// Voted on or not.
    pub kind: JobKind,
    /// See [`Action::sources`].
    pub sources: Vec<Source>,
    /// What it needs of jobs that stand earlier.
    pub needs: Vec<JobNeed>,
    /// See [`Action::vars`].
    pub vars: BTreeMap<String, String>,
    /// See [`Action::environment`].
    pub environment: Environment,
    /// See [`Action::shell`].
    pub shell: Vec<String>,
    /// See [`Action::steps`].
    pub steps: Vec<Step>,
    /// See [`Action::outputs`].
    pub outputs: BTreeMap<String, String>,
    /// See [`Action::epoch`].
    pub epoch: u64,
    /// See [`Action::cores`].
    pub cores: u16,
    /// Limits of a build, which are not part of the action.
    pub limits: Limits,
    /// Name in the channel → name among the outputs.
    pub targets: BTreeMap<String, String>,
}

impl Job {
    /// `recipe` or `recipe[axis=value,…]`: how people name the job within its batch.
    pub fn label(&self) -> String {
        if self.cell.is_empty() {
            return self.recipe.clone();
        }
        let cell: Vec<String> = self.cell.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
        format!("{}[{}]", self.recipe, cell.join(","))
    }

    /// Checks what the type does not say of the job at `index`.
    fn check(&self, index: u32) -> Result<(), GraphError> {
        let path = |error| GraphError::Path { job: index, error };
        for need in &self.needs {
            if need.job.0 >= index {
                return Err(GraphError::Order { job: index, need: need.job.0 });
            }
            let place = need.at.strip_prefix('/').filter(|rest| crate::tree::check_path(rest).is_ok());
            if place.is_none() {
                return Err(GraphError::Place { job: index, at: need.at.clone() });
            }
        }
        for source in &self.sources {
            crate::tree::check_path(&source.at).map_err(path)?;
        }
        for (name, from) in &self.outputs {
            crate::tree::check_path(name).map_err(path)?;
            crate::tree::check_path(from).map_err(path)?;
        }
        Ok(())
    }

    /// The action that it stands for, where `laid(need)` tells the jobs that a need lays and `output(job)` their manifests.
    fn bind(self, laid: impl Fn(&JobNeed) -> Vec<JobIndex>, output: impl Fn(JobIndex) -> Option<BlobHash>) -> Option<Action> {
        let mut needs = Vec::new();
        let mut seen = BTreeSet::new();
        for need in &self.needs {
            for from in laid(need) {
                let laid = Need { at: need.at.clone(), tree: output(from)?, only: need.only.clone() };
                // Several ways lead to a shared need; once is enough.
                if seen.insert((laid.at.clone(), laid.tree, laid.only.clone())) {
                    needs.push(laid);
                }
            }
        }
        let Self { sources, vars, environment, shell, steps, outputs, epoch, cores, .. } = self;
        Some(Action { sources, needs, vars, environment, shell, steps, outputs, epoch, cores })
    }
}

/// The jobs of a batch, each behind all that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Graph {
    /// In an order in which they can be built.
    pub jobs: Vec<Job>,
}

/// Why bytes are not a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Not a graph's bytes.
    #[error("not a graph: {0}")]
    Decode(#[from] codec::DecodeError),
    /// No job, or more than [`JOBS_MAX`].
    #[error("{0} jobs; a graph has 1 to {JOBS_MAX}")]
    JobCount(usize),
    /// A need that does not stand earlier: a cycle, or a job that does not exist.
    #[error("job {job} needs job {need}, which does not stand before it")]
    Order {
        /// The job.
        job: u32,
        /// What it needs.
        need: u32,
    },
    /// A place for a need that is not absolute and normal, or not a path at all.
    #[error("job {job}: place {at:?} is not an absolute, normal path")]
    Place {
        /// The job.
        job: u32,
        /// The place.
        at: String,
    },
    /// A source's place or an output's name that is not a normal relative path.
    #[error("job {job}: {error}")]
    Path {
        /// The job.
        job: u32,
        /// What is wrong.
        error: crate::tree::TreeError,
    },
}

impl Graph {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The graph that `bytes` are the canonical form of, checked: needs stand earlier, all places are safe.
    ///
    /// # Errors
    /// [`GraphError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GraphError> {
        let graph: Self = codec::decode(bytes, GRAPH_BYTES_MAX)?;
        graph.check()?;
        Ok(graph)
    }

    /// Checks what the type does not say.
    ///
    /// # Errors
    /// [`GraphError`].
    pub fn check(&self) -> Result<(), GraphError> {
        if self.jobs.is_empty() || self.jobs.len() > JOBS_MAX {
            return Err(GraphError::JobCount(self.jobs.len()));
        }
        for (index, job) in (0u32..).zip(&self.jobs) {
            job.check(index)?;
        }
        Ok(())
    }

    /// The job at `index`.
    pub fn job(&self, index: JobIndex) -> Option<&Job> {
        self.jobs.get(index.0 as usize)
    }

    /// The action that the job at `index` stands for, where `output(need)` tells the manifest of what it needs; `None`
    /// while one of them has no output yet.
    pub fn bind(&self, index: JobIndex, output: impl Fn(JobIndex) -> Option<BlobHash>) -> Option<Action> {
        self.job(index)?.clone().bind(|need| self.laid_by(need), output)
    }

    /// The jobs whose outputs `need` lays: the one that it names and, for a closure, all below it, each once.
    pub fn laid_by(&self, need: &JobNeed) -> Vec<JobIndex> {
        laid_by(need, |job| self.job(job).into_iter().flat_map(|job| job.needs.iter().map(|below| below.job)).collect())
    }
}

/// The jobs whose outputs `need` lays, where `below` tells what a job needs directly.
fn laid_by(need: &JobNeed, below: impl Fn(JobIndex) -> Vec<JobIndex>) -> Vec<JobIndex> {
    let mut laid = vec![need.job];
    if need.closure {
        let mut seen = BTreeSet::from([need.job]);
        let mut next = 0;
        // A list and not recursion: graphs come from others and may be as deep as they have jobs.
        while let Some(job) = laid.get(next) {
            laid.extend(below(*job).into_iter().filter(|below| seen.insert(*below)));
            next += 1;
        }
    }
    laid
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// zlib ← tool ← image, which lays all below it.
    pub(crate) fn graph() -> Graph {
        let job = |name: &str, needs: &[(u32, bool)], cores: u16| Job {
            recipe: name.into(),
            version: "1".into(),
            cell: BTreeMap::from([("device".to_owned(), "RPi5".to_owned())]),
            kind: JobKind::Build,
            sources: Vec::new(),
            needs: (needs.iter())
                .map(|(need, closure)| JobNeed { closure: *closure, ..JobNeed::all(JobIndex(*need), format!("/needs/{need}")) })
                .collect(),
            vars: BTreeMap::new(),
            environment: Environment::host("linux", []),
            shell: vec!["sh".into()],
            steps: vec![Step { name: "build".into(), script: format!("make {name}") }],
            outputs: BTreeMap::new(),
            epoch: 1,
            cores,
            limits: Limits { memory: 1, disk: 1, wall: Duration::from_secs(1), silent: Duration::from_secs(1) },
            targets: BTreeMap::new(),
        };
        Graph { jobs: vec![job("zlib", &[], 1), job("tool", &[(0, false)], 1), job("image", &[(1, true)], 4)] }
    }
}
