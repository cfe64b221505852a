//! What a batch comes to: the graph without its sources, what is wanted for them, and the graph with them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::diagnostic::Place;
use super::file::GitPoint;
use crate::action::{ACTION_BYTES_MAX, Source, SourceForm};
use crate::codec;
use crate::graph::{GRAPH_BYTES_MAX, Graph, GraphError, JobIndex};
use crate::id::BlobHash;

/// `SOURCE_DATE_EPOCH` where neither the recipe, its sources nor its needs say one: 1980-01-01, the oldest date that
/// zip archives and FAT file systems can hold.
pub const EPOCH_DEFAULT: u64 = 315_532_800;

/// Which job this is, before its inputs are known: a Merkle hash over what the recipe says in this cell and the keys of
/// what it needs. Equal keys give equal actions; the name, the addresses of hashed sources and the limits are not in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SymbolicKey(pub [u8; 32]);

impl fmt::Display for SymbolicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SymbolicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SymbolicKey({})", data_encoding::HEXLOWER.encode(&self.0[..5]))
    }
}

/// The place of a cell in [`Plan::cells`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CellIndex(pub u32);

/// The place of a request in [`Plan::requests`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u32);

/// A batch laid out.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The jobs in an order in which they can be built, their sources and epochs not in them yet: [`Plan::resolve`].
    pub graph: Graph,
    /// What is known of each job of the graph beside it, in the same order.
    pub jobs: Vec<Planned>,
    /// The cells of the matrix; one empty cell where there is no matrix.
    pub cells: Vec<BTreeMap<String, String>>,
    /// What must be found before the graph is whole; equal ones of several jobs once.
    pub requests: Vec<SourceRequest>,
    /// What is never built, with the reason that its recipe gives.
    pub skipped: Vec<Skipped>,
}

/// A job of the plan.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Its key.
    pub key: SymbolicKey,
    /// The cells of the matrix that it is built for.
    pub cells: Vec<CellIndex>,
    /// The place below `/build` of each source, and which request it is.
    pub sources: Vec<(String, RequestId)>,
    /// The epoch that the recipe gives.
    pub epoch: Option<u64>,
    /// Where its recipe's name is written.
    pub place: Place,
}

/// A job that is not built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// `recipe[axis=value,…]`.
    pub label: String,
    /// The reason that `never` gives.
    pub reason: String,
}

/// A source that the caller must find.
#[derive(Debug, Clone)]
pub struct SourceRequest {
    /// The first recipe that wants it.
    pub recipe: String,
    /// Its name there.
    pub name: String,
    /// What it is.
    pub kind: SourceKind,
    /// Where it is written.
    pub place: Place,
}

/// What a source is, before it was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// To be fetched.
    Urls {
        /// Tried in order.
        urls: Vec<String>,
        /// 64 lower-case hexadecimal digits.
        sha256: Option<String>,
        /// Of the file as fetched.
        blake3: Option<BlobHash>,
        /// [`SourceForm::Archive`] if true, else [`SourceForm::File`].
        unpack: bool,
    },
    /// A file or folder on this machine.
    Path {
        /// The recipe's file, as the caller named it; the path is relative to its folder.
        recipe_file: String,
        /// Relative and normal.
        path: String,
        /// A file that is an archive to be unpacked.
        unpack: bool,
    },
    /// The tree of a commit: [`SourceForm::Tree`].
    Git {
        /// The repository.
        url: String,
        /// Which commit.
        point: GitPoint<String>,
        /// With the trees of its submodules.
        submodules: bool,
    },
}

/// A source that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedSource {
    /// The file, or the tree's manifest.
    pub blob: BlobHash,
    /// The file name it came under; for an archive its ending says the format. Empty for trees.
    pub file_name: String,
    /// What it is.
    pub form: SourceForm,
    /// The newest date in it, in seconds since 1970, where it has dates.
    pub newest_date: Option<u64>,
}

/// Why a plan can't be made a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// A request without an answer.
    #[error("{place:?}: source `{name}` of `{recipe}` was not found")]
    Missing {
        /// The recipe.
        recipe: String,
        /// The source.
        name: String,
        /// Where it is written.
        place: Place,
    },
    /// A job whose action has no room for all that it holds.
    #[error("`{label}` has {given} bytes of text, at most {ACTION_BYTES_MAX} are allowed")]
    JobTooLarge {
        /// The job.
        label: String,
        /// Its bytes.
        given: usize,
    },
    /// A graph that is too large to travel.
    #[error("the graph has {given} bytes, at most {GRAPH_BYTES_MAX} are allowed; submit it in parts")]
    GraphTooLarge {
        /// Its bytes.
        given: usize,
    },
    /// A graph that breaks a rule of graphs.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl Plan {
    /// The graph with every job's sources and epoch.
    ///
    /// The epoch is the recipe's, else the newest date of its sources, else the newest epoch of what it needs, else
    /// [`EPOCH_DEFAULT`].
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve(&self, found: &BTreeMap<RequestId, ResolvedSource>) -> Result<Graph, ResolveError> {
        let mut graph = self.graph.clone();
        let mut epochs: Vec<u64> = Vec::with_capacity(graph.jobs.len());
        let mut total = 0;
        for (job, planned) in graph.jobs.iter_mut().zip(&self.jobs) {
            let mut newest = None;
            for (at, request) in &planned.sources {
                let source = found.get(request).ok_or_else(|| self.missing(*request, &planned.place))?;
                newest = newest.max(source.newest_date);
                let file_name = if source.file_name.is_empty() { at.clone() } else { source.file_name.clone() };
                job.sources.push(Source { at: at.clone(), blob: source.blob, file_name, form: source.form });
            }
            // Needs stand before the job, so their epochs are known.
            let of_needs = job.needs.iter().filter_map(|need| epochs.get(need.job.0 as usize).copied()).max();
            job.epoch = planned.epoch.or(newest).or(of_needs).unwrap_or(EPOCH_DEFAULT);
            epochs.push(job.epoch);
            let given = codec::encode(job).len();
            if given > ACTION_BYTES_MAX {
                return Err(ResolveError::JobTooLarge { label: job.label(), given });
            }
            total += given;
        }
        if total > GRAPH_BYTES_MAX {
            return Err(ResolveError::GraphTooLarge { given: total });
        }
        graph.check()?;
        Ok(graph)
    }

    fn missing(&self, request: RequestId, place: &Place) -> ResolveError {
        match self.requests.get(request.0 as usize) {
            Some(wanted) => ResolveError::Missing { recipe: wanted.recipe.clone(), name: wanted.name.clone(), place: wanted.place.clone() },
            None => ResolveError::Missing { recipe: String::new(), name: format!("number {}", request.0), place: place.clone() },
        }
    }

    /// The job that people call `label`: `recipe` or `recipe[axis=value,…]`.
    pub fn find(&self, label: &str) -> Option<JobIndex> {
        let found = self.graph.jobs.iter().position(|job| job.label() == label)?;
        u32::try_from(found).ok().map(JobIndex)
    }
}
