//! `barn build`: recipes built here, alone, in the same sandbox that the network's builds have.
//!
//! Sources and outputs are kept in the home's `local` folder, apart from the node's store. What the wanted jobs need is
//! built once and taken from there the next time; the wanted jobs themselves are built each time.

mod compare;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use barnraiser_protocol::action::{Action, Rootfs, SourceForm};
use barnraiser_protocol::graph::{Graph, Job, JobIndex};
use barnraiser_protocol::id::{ActionId, BlobHash};
use barnraiser_protocol::outcome::FailureClass;
use barnraiser_store::{Durability, LayOut, Pattern, Store};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::args::BuildArgs;
use super::here::Here;
use super::online::words::count;
use super::output::Style;
use super::planning::local_sources;
use super::{CommandResult, Exit};
use crate::api::Problem;
use crate::builder::{self, BuildOutcome, BuildRequest, Inputs, OutputSink, Progress, Report, Shell, Variation, remove_scratch};
use crate::platform::Platform;
use crate::submit::{Surroundings, prepare};

/// The status of a [`Problem`] that means: the job failed.
const JOB_FAILED: u16 = 424;
/// Lines of a log that are shown where a build failed.
const TAIL_LINES: usize = 40;
/// The most bytes of a log's end that are read for them.
const TAIL_BYTES: u64 = 64 << 10;

/// Takes outputs into the local store.
struct IntoStore(Store);

impl OutputSink for IntoStore {
    fn file(&mut self, _name: &str, file: File, _executable: bool) -> io::Result<(BlobHash, u64)> {
        self.0.import_opened(&file, Durability::Cached).map_err(|error| io::Error::other(error.to_string()))
    }
}

/// What a build needs beside its job.
struct Workshop<'a> {
    here: &'a Here,
    store: Store,
    /// Of this call alone, so that two don't meet.
    folder: PathBuf,
    logs: PathBuf,
    cancel: CancellationToken,
}

/// A job that was built.
struct Built {
    label: String,
    action: ActionId,
    tree: BlobHash,
    log: PathBuf,
    wall_ms: u64,
    reused: bool,
}

/// `barn build`
pub(super) async fn build(here: &Here, args: BuildArgs) -> CommandResult {
    let home = here.home()?;
    if let Some(folder) = &args.output {
        check_output(folder)?;
    }
    let mode = args.mode();
    let (request, job) = wanted::request(&args.what, args.set)?;
    // What this machine lacks shows before anything is fetched.
    builder::sandbox_check().map_err(|problem| Problem::failed(problem.to_string()))?;
    let (store, sources) = local_sources(&home)?;
    let quiet = here.out.quiet || here.out.json;
    let noting = move |progress: crate::sources::Progress<'_>| {
        if !quiet && progress.bytes == 0 {
            // Whether anyone reads it does not matter.
            let _ = writeln!(io::stderr(), "fetching {}", progress.what);
        }
    };
    let prepared = prepare(&request, Arc::new(sources), Surroundings::here(BTreeMap::new()), Arc::new(noting)).await?;
    let graph = prepared.graph;
    let wanted = wanted::jobs(&graph, job.as_ref())?;
    let folder = home.local_dir().join(format!("build-{}", std::process::id()));
    let logs = home.local_dir().join("logs");
    for folder in [&folder, &logs] {
        fs::create_dir_all(folder).map_err(|error| Problem::failed(format!("{} can't be made: {error}", folder.display())))?;
    }
    let cancel = CancellationToken::new();
    let interrupted = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    let workshop = Workshop { here, store, folder, logs, cancel };
    let result = workshop.build_all(&graph, &wanted, &mode).await;
    // Whatever came of it, nothing of the builds stays behind but their logs.
    if let Err(error) = remove_scratch(&workshop.folder) {
        here.out.note(format!("{} can't be removed: {error}", workshop.folder.display()));
    }
    let done = result?;
    if let Some(folder) = &args.output {
        workshop.lay_out(&graph, &done, folder)?;
    }
    report(here, &done)
}

/// How the wanted jobs are built.
struct Mode {
    twice: bool,
    last: Variation,
    shell: Shell,
}

impl BuildArgs {
    fn mode(&self) -> Mode {
        Mode {
            twice: self.twice,
            last: if self.chaos { Variation::Chaos } else { Variation::None },
            shell: if self.shell { Shell::OnFailure } else { Shell::Never },
        }
    }
}

/// What came of the wanted jobs.
struct Done {
    built: Vec<(JobIndex, Built)>,
    /// Of those that were built twice: what differs.
    differing: Vec<(String, Vec<compare::Difference>)>,
    twice: bool,
}

impl Workshop<'_> {
    /// Builds what is wanted, and before it what that needs.
    async fn build_all(&self, graph: &Graph, wanted: &BTreeSet<JobIndex>, mode: &Mode) -> Result<Done, Problem> {
        let mut trees: BTreeMap<JobIndex, BlobHash> = BTreeMap::new();
        let mut done = Done { built: Vec::new(), differing: Vec::new(), twice: mode.twice };
        for index in wanted::with_needs(graph, wanted) {
            let Some(job) = graph.job(index) else { continue };
            // Jobs come behind what they need, so all trees are there.
            let action = graph.bind(index, |need| trees.get(&need).copied());
            let action = action.ok_or_else(|| Problem::failed(format!("{}: what it needs was not built", job.label())))?;
            let is_wanted = wanted.contains(&index);
            let built = match self.known(&action)?.filter(|_| !is_wanted) {
                Some(tree) => {
                    Built { label: job.label(), action: action.id(), tree, log: self.log_of(&action, 1), wall_ms: 0, reused: true }
                }
                None => {
                    let variation = if is_wanted && !mode.twice { mode.last } else { Variation::None };
                    self.build_one(job, &action, 1, variation, mode.shell).await?
                }
            };
            if is_wanted && mode.twice {
                let again = self.build_one(job, &action, 2, mode.last, mode.shell).await?;
                let differences = compare::trees(&self.store, &built.tree, &again.tree)?;
                if !differences.is_empty() {
                    done.differing.push((job.label(), differences));
                }
            }
            trees.insert(index, built.tree);
            if is_wanted {
                done.built.push((index, built));
            }
        }
        Ok(done)
    }

    /// The outputs that this action had when it was built here before, where they are still there.
    fn known(&self, action: &Action) -> Result<Option<BlobHash>, Problem> {
        let failed = |error: &dyn std::fmt::Display| Problem::failed(format!("the local store: {error}"));
        let value = self.store.meta_get(&known_key(&action.id())).map_err(|error| failed(&error))?;
        let Some(tree) = value.and_then(|bytes| Some(BlobHash(bytes.try_into().ok()?))) else { return Ok(None) };
        let Ok(manifest) = self.store.tree(&tree) else { return Ok(None) };
        for (blob, _) in manifest.blobs() {
            if !self.store.contains(&blob).map_err(|error| failed(&error))? {
                return Ok(None);
            }
        }
        Ok(Some(tree))
    }

    fn log_of(&self, action: &Action, number: u8) -> PathBuf {
        self.logs.join(format!("{}-{number}.log", action.id().short()))
    }

    async fn build_one(&self, job: &Job, action: &Action, number: u8, variation: Variation, shell: Shell) -> Result<Built, Problem> {
        let label = job.label();
        Platform::this()
            .matches(&action.environment)
            .map_err(|lacks| Problem::failed(format!("{label} can't be built here: it {lacks}")))?;
        let again = if number > 1 { " again" } else { "" };
        self.here.out.note(format!("building {label}{again}"));
        let log = self.log_of(action, number);
        let folder = self.folder.join(format!("{}-{number}", action.id().short()));
        let inputs =
            self.inputs(action, &folder).map_err(|error| Problem::failed(format!("{label}: its inputs can't be laid out: {error}")))?;
        let request = BuildRequest {
            action: Arc::new(action.clone()),
            limits: job.limits.clone(),
            scratch: folder.join("scratch"),
            inputs,
            log: log.clone(),
            shell,
            variation,
        };
        let started = Instant::now();
        let progress = watch::Sender::new(Progress::default());
        let report = builder::run(request, Box::new(IntoStore(self.store.clone())), progress, self.cancel.clone()).await;
        if let Err(error) = remove_scratch(&folder) {
            self.here.out.note(format!("{} can't be removed: {error}", folder.display()));
        }
        let BuildOutcome::Success { tree } = &report.outcome else { return Err(failure(&label, &report, &log)) };
        let stored = self.store.import_tree_manifest(tree, Durability::Cached);
        let tree = stored.map_err(|error| Problem::failed(format!("{label}: its outputs can't be kept: {error}")))?;
        // Of two builds that differ, the first one is what others are built upon.
        if number == 1 {
            let kept = self.store.meta_put(&known_key(&action.id()), tree.as_bytes(), false);
            kept.map_err(|error| Problem::failed(format!("the local store: {error}")))?;
        }
        self.here.out.note(format!("built    {label}{again} in {:.1} s", started.elapsed().as_secs_f64()));
        Ok(Built { label, action: action.id(), tree, log, wall_ms: report.particulars.wall_ms, reused: false })
    }

    /// Lays out what the action names below `folder`.
    fn inputs(&self, action: &Action, folder: &Path) -> Result<Inputs, Box<dyn std::error::Error>> {
        fs::create_dir_all(folder)?;
        let mut inputs = Inputs::default();
        for (index, source) in action.sources.iter().enumerate() {
            let to = folder.join(format!("source-{index}"));
            if source.form == SourceForm::Tree {
                self.store.lay_out(&source.blob, &to, &LayOut { epoch_s: action.epoch, ..LayOut::default() })?;
            } else {
                self.store.export(&source.blob, &to)?;
            }
            inputs.sources.push((source.clone(), to));
        }
        for (index, need) in action.needs.iter().enumerate() {
            let to = folder.join(format!("need-{index}"));
            let only = need.only.iter().map(|pattern| Pattern::new(pattern)).collect();
            self.store.lay_out(&need.tree, &to, &LayOut { read_only: true, only, epoch_s: action.epoch })?;
            inputs.needs.push((need.clone(), to));
        }
        if let Rootfs::Tree(tree) = action.environment.rootfs {
            let to = folder.join("rootfs");
            self.store.lay_out(&tree, &to, &LayOut { read_only: true, epoch_s: 1, ..LayOut::default() })?;
            inputs.rootfs = Some(to);
        }
        Ok(inputs)
    }

    /// Puts the outputs into a folder: those of one job in itself, of several in a folder each.
    fn lay_out(&self, graph: &Graph, done: &Done, folder: &Path) -> Result<(), Problem> {
        let failed =
            |error: &dyn std::fmt::Display| Problem::failed(format!("the outputs can't be put into {}: {error}", folder.display()));
        fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        for (index, built) in &done.built {
            let to = if done.built.len() == 1 { folder.to_owned() } else { folder.join(&built.label) };
            let epoch_s = graph.job(*index).map_or(0, |job| job.epoch);
            self.store.lay_out(&built.tree, &to, &LayOut { epoch_s, ..LayOut::default() }).map_err(|error| failed(&error))?;
            self.here.out.note(format!("outputs of {} are in {}", built.label, to.display()));
        }
        Ok(())
    }
}

fn known_key(action: &ActionId) -> Vec<u8> {
    [b"local-build/".as_slice(), action.as_bytes()].concat()
}

/// A folder for outputs must be empty or not there: what lies in it is never overwritten.
fn check_output(folder: &Path) -> Result<(), Problem> {
    match fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => {
                Err(Problem::usage(format!("{} is not empty; outputs go into a folder that is empty or not there yet", folder.display())))
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Problem::usage(format!("{}: {error}", folder.display()))),
    }
}

/// Why a build gave nothing, with the end of its log.
fn failure(label: &str, report: &Report, log: &Path) -> Problem {
    let (status, what) = match &report.outcome {
        BuildOutcome::Cancelled => return Problem::failed(format!("{label}: interrupted")),
        BuildOutcome::Failure { class, stage } => {
            // What this machine lacks is not the job's failure.
            let machine = class.is_infrastructure() || *class == FailureClass::OutOfDisk;
            let status = if machine { Problem::failed("").status } else { JOB_FAILED };
            (status, format!("{label} failed in {stage:?}: {class}"))
        }
        // Callers come here only where there are no outputs.
        BuildOutcome::Success { .. } => (JOB_FAILED, label.to_owned()),
    };
    let mut message = what;
    if let Some(words) = &report.message {
        message.push_str(&format!(" ({words})"));
    }
    match tail(log) {
        Some(lines) if !lines.is_empty() => message.push_str(&format!("\nthe end of its log {}:\n{lines}", log.display())),
        _ => message.push_str(&format!("\nits log is {}", log.display())),
    }
    Problem { status, message }
}

/// The last lines of a log.
fn tail(log: &Path) -> Option<String> {
    use std::io::{Read as _, Seek as _};
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    Some(shown.iter().map(|line| format!("  {}", line.escape_debug())).collect::<Vec<_>>().join("\n"))
}

fn report(here: &Here, done: &Done) -> CommandResult {
    for (_, built) in &done.built {
        here.out.say(format!("{}  {}", built.tree, built.label))?;
    }
    for (label, differences) in &done.differing {
        here.out
            .say(here.out.paint(Style::Bad, &format!("{label}: two builds differ in {}", count(differences.len(), "entry", "entries"))))?;
        for difference in differences {
            here.out.say(format!("  {difference}"))?;
        }
    }
    let reproducible = done.differing.is_empty();
    if done.twice && reproducible {
        here.out.say(here.out.paint(Style::Good, "both builds are equal"))?;
    }
    let jobs: Vec<Value> = (done.built.iter())
        .map(|(_, built)| {
            let differing = done.differing.iter().find(|(label, _)| *label == built.label).map(|(_, differences)| differences);
            json!({
                "label": built.label, "action": built.action, "tree": built.tree, "log": built.log, "wall-ms": built.wall_ms,
                "reused": built.reused, "equal": done.twice.then_some(differing.is_none()), "differing": differing,
            })
        })
        .collect();
    here.out.document("build", &json!({ "jobs": jobs }))?;
    Ok(if reproducible { Exit::DONE } else { Exit::UNVERIFIED })
}
