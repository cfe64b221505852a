//! From a file that a maintainer wrote to what a `Batch` record says: reads the batch and its recipes, plans, and finds
//! the bytes of every source.
//!
//! [`plan_only`] stops before the sources (`barn plan`); [`prepare`] goes the whole way (`barn submit`, in the daemon).
//! Everything that is wrong comes back at once, as one [`Problem`] whose status says what kind it is.

mod files;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use barnraiser_protocol::bounded::{BoundedString, BoundedVec};
use barnraiser_protocol::graph::Graph;
use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::recipe::{
    BatchFile, DIAGNOSTICS_MAX, Diagnostic, ExpandOptions, Plan, Recipe, RequestId, ResolvedSource, SourceRequest, expand,
};
use barnraiser_protocol::record::payload::{ChannelName, Priority};
use barnraiser_protocol::trust::name::channel_name;
use futures::StreamExt as _;

use crate::api::{Problem, Submit};
use crate::sources::{Progress, SourceError, Sources};

/// Sources that are fetched at the same time. They come from different servers, so a few more than one helps; many would
/// only share the line.
const FETCHES_MAX: usize = 4;

/// What a plan depends on beside the files.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The architecture of `host` builds whose recipe names none.
    pub default_arch: String,
    /// The environments that the network's maintainers named, and their trees.
    pub environments: BTreeMap<String, BlobHash>,
}

impl Surroundings {
    /// Those of this machine in a network with these `environments`.
    pub fn here(environments: BTreeMap<String, BlobHash>) -> Self {
        Self { default_arch: std::env::consts::ARCH.to_owned(), environments }
    }
}

/// What a `Batch` record says beside its graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// For people.
    pub name: BoundedString<64>,
    /// Where its targets are meant to be released; `None` where neither the file nor the request says so.
    pub channel: Option<ChannelName>,
    /// Which work goes first.
    pub priority: Priority,
    /// The source revision, for people; may be empty.
    pub revision: BoundedString<64>,
    /// Where to read about it; may be empty.
    pub url: BoundedString<256>,
    /// The file's labels, with those of the request in their place or behind them.
    pub labels: BoundedVec<(BoundedString<32>, BoundedString<64>), 16>,
}

/// A batch laid out, its sources not looked for.
#[derive(Debug)]
pub struct Planned {
    /// Its jobs, and what they want.
    pub plan: Plan,
    /// What its record will say.
    pub heading: Heading,
}

/// A batch that can be submitted: all its sources are in the store.
#[derive(Debug)]
pub struct Prepared {
    /// Its jobs.
    pub graph: Graph,
    /// What its record will say.
    pub heading: Heading,
}

/// Hears how far fetches are, from several threads.
pub type ProgressSink = Arc<dyn Fn(Progress<'_>) + Send + Sync>;

/// Reads the files of `request` and lays them out. Reads files, so it blocks.
///
/// # Errors
/// Everything that is wrong with the files and the request, in one [`Problem::usage`].
pub fn plan_only(request: &Submit, surroundings: &Surroundings) -> Result<Planned, Problem> {
    let (batch, recipes) = files::read(request).map_err(|diagnostics| wrong_files(&diagnostics))?;
    let heading = heading(&batch, request)?;
    let plan = plan(&batch, &recipes, request, surroundings)?;
    Ok(Planned { plan, heading })
}

/// Reads the files of `request`, lays them out, and brings every source into the store of `sources`.
///
/// # Errors
/// [`Problem::usage`] as from [`plan_only`]. Where sources can't be had, all of them in one problem: verification failed
/// where one has the wrong bytes, else usage where one can't be right, else failed where this machine could not keep one,
/// else unreachable.
pub async fn prepare(
    request: &Submit,
    sources: Arc<Sources>,
    surroundings: Surroundings,
    on_progress: ProgressSink,
) -> Result<Prepared, Problem> {
    if !request.path.is_absolute() {
        let path = request.path.display();
        return Err(Problem::usage(format!("{path} is not an absolute path, and the node does not work in your folder")));
    }
    let own = request.clone();
    let planned = blocking(move || plan_only(&own, &surroundings)).await??;
    let Planned { plan, heading } = planned;
    let found = find_sources(&plan.requests, &sources, &on_progress).await?;
    let graph = blocking(move || plan.resolve(&found)).await?;
    let graph = graph.map_err(|error| Problem::usage(error.to_string()))?;
    Ok(Prepared { graph, heading })
}

fn plan(batch: &BatchFile, recipes: &[Recipe], request: &Submit, surroundings: &Surroundings) -> Result<Plan, Problem> {
    let options = ExpandOptions {
        default_arch: surroundings.default_arch.clone(),
        environments: surroundings.environments.clone(),
        set: request.set.clone(),
    };
    expand(batch, recipes, &options).map_err(|diagnostics| wrong_files(&diagnostics))
}

/// What the record says, from the file and what the request puts in its place.
fn heading(batch: &BatchFile, request: &Submit) -> Result<Heading, Problem> {
    let channel = request.channel.as_ref().or(batch.channel.as_ref());
    let channel = channel.map(|name| channel_name(name)).transpose().map_err(|error| Problem::usage(error.to_string()))?;
    let mut labels: BTreeMap<&str, &str> = batch.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    labels.extend(request.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let labels: Result<Vec<_>, Problem> = labels.into_iter().map(|(key, value)| label(key, value)).collect();
    let too_long = |what: &'static str| move |error| Problem::usage(format!("{what}: {error}"));
    Ok(Heading {
        name: batch.name.as_str().try_into().map_err(too_long("the batch's name"))?,
        channel,
        priority: request.priority.unwrap_or(batch.priority),
        revision: batch.revision.as_str().try_into().map_err(too_long("`revision`"))?,
        url: batch.url.as_str().try_into().map_err(too_long("`url`"))?,
        labels: labels?.try_into().map_err(too_long("labels"))?,
    })
}

fn label(key: &str, value: &str) -> Result<(BoundedString<32>, BoundedString<64>), Problem> {
    let wrong = |reason: String| Problem::usage(format!("label {key:?}: {reason}"));
    if key.is_empty() || [key, value].iter().any(|text| text.contains(char::is_control)) {
        return Err(wrong("a key of at least one character is wanted, and no control characters".into()));
    }
    let key = key.try_into().map_err(|error| wrong(format!("its key has {error}")))?;
    let value = value.try_into().map_err(|error| wrong(format!("its value has {error}")))?;
    Ok((key, value))
}

/// The answers to `requests`, a few at a time.
async fn find_sources(
    requests: &[SourceRequest],
    sources: &Arc<Sources>,
    on_progress: &ProgressSink,
) -> Result<BTreeMap<RequestId, ResolvedSource>, Problem> {
    let mut fetches = Vec::with_capacity(requests.len());
    for (id, request) in (0u32..).zip(requests.iter().cloned()) {
        let (sources, on_progress) = (sources.clone(), on_progress.clone());
        fetches.push(async move {
            let work = move || (RequestId(id), sources.resolve(&request, &*on_progress).map_err(|error| (request, error)));
            blocking(work).await
        });
    }
    let answers: Vec<_> = futures::stream::iter(fetches).buffer_unordered(FETCHES_MAX).collect().await;
    let (mut found, mut failed) = (BTreeMap::new(), BTreeMap::new());
    for answer in answers {
        match answer? {
            (id, Ok(source)) => drop(found.insert(id, source)),
            (id, Err(error)) => drop(failed.insert(id, error)),
        }
    }
    if failed.is_empty() { Ok(found) } else { Err(missing_sources(failed.values())) }
}

/// One problem of all sources that could not be had, in the order of the plan.
fn missing_sources<'a>(failed: impl Iterator<Item = &'a (SourceRequest, SourceError)> + Clone) -> Problem {
    let lines: Vec<String> = failed.clone().map(|(request, error)| format!("{:?}: {error}", request.place)).collect();
    let codes: Vec<u8> = failed.map(|(_, error)| error.exit_code()).collect();
    let message = lines.join("\n");
    // What needs a person's eye first: bytes that some other hand changed, then mistakes, then this machine.
    if codes.contains(&4) {
        Problem::unverified(message)
    } else if codes.contains(&2) {
        Problem::usage(message)
    } else if codes.contains(&6) && !codes.contains(&1) {
        Problem::unreachable(message)
    } else {
        Problem::failed(message)
    }
}

fn wrong_files(diagnostics: &[Diagnostic]) -> Problem {
    let mut lines: Vec<String> = diagnostics.iter().take(DIAGNOSTICS_MAX).map(ToString::to_string).collect();
    if diagnostics.len() > DIAGNOSTICS_MAX {
        lines.push(format!("{} more errors are not shown: mend the first ones and try again", diagnostics.len() - DIAGNOSTICS_MAX));
    }
    Problem::usage(lines.join("\n"))
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::failed(format!("the node is stopping: {error}")))
}
