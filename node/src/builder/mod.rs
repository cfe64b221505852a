//! Builds one action in a sandbox: no network, no sight of the machine, limits on everything, and the outputs taken out
//! once all in it is dead (DESIGN section 7).
//!
//! [`run`] is the way in. The caller has fetched and laid out the inputs and gives a sink for the outputs; nothing here
//! knows the store, the swarm or the engine. What a build sees is `docs/src/sandbox.md`.
//!
//! Rooms: [`sandbox`] calls bubblewrap, [`driver`] is the script inside it, [`seccomp`] and [`cgroup`] limit it,
//! [`inputs`] lays things in, [`collect`] takes them out through [`beneath`], and the supervisor watches the clock.

pub mod beneath;
pub mod cgroup;
pub mod collect;
mod cores;
pub mod driver;
pub mod glob;
pub mod inputs;
mod launch;
pub mod log;
pub mod sandbox;
pub mod seccomp;
mod supervise;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use barnraiser_protocol::action::Action;
use barnraiser_protocol::bounded::BoundedString;
use barnraiser_protocol::graph::Limits;
use barnraiser_protocol::outcome::{FailureClass, Outcome, Particulars};
use barnraiser_protocol::tree::Tree;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use beneath::remove_scratch;
pub use collect::OutputSink;
pub use inputs::Inputs;
pub use sandbox::{SANDBOX_PATH, SandboxInfo, SandboxProblem, end_sandboxes_of, sandbox_check};

/// One build to do.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// What to build.
    pub action: Arc<Action>,
    /// Its limits, in time of this machine.
    pub limits: Limits,
    /// A folder for this build alone, which need not exist. Removed at the end, whatever the build left in it.
    pub scratch: PathBuf,
    /// What the action names, fetched and laid out.
    pub inputs: Inputs,
    /// Where the log is written while the build runs; outside of `scratch`. Its folder exists.
    pub log: PathBuf,
    /// Whether a person gets a shell.
    pub shell: Shell,
    /// Whether this build is to differ from others in what must not matter.
    pub variation: Variation,
}

/// Whether a person gets a shell in the sandbox, on this process's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shell {
    /// No.
    #[default]
    Never,
    /// Where the build failed, with `/build` as it was left.
    OnFailure,
}

/// What is made to differ in a build that looks for what is not deterministic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Variation {
    /// Nothing.
    #[default]
    None,
    /// Number of CPUs, process numbers, address space layout, limit on open files, what is in `/tmp`, an environment
    /// variable more, and the order in which source trees are copied.
    Chaos,
}

/// How far a build is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that the build has printed.
    pub log_bytes: u64,
    /// CPU time in milliseconds.
    pub cpu_ms: u64,
    /// The step that runs; `None` before the first.
    pub step: Option<String>,
    /// Memory in bytes.
    pub memory: u64,
}

/// What came of a build.
#[derive(Debug)]
pub struct Report {
    /// The outcome.
    pub outcome: BuildOutcome,
    /// What is said beside it. The log's hash is that of the file at [`BuildRequest::log`], which the caller imports.
    pub particulars: Particulars,
    /// Time from the call of [`run`] to the first program in the sandbox.
    pub first_exec: Option<Duration>,
    /// For people: why it failed.
    pub message: Option<String>,
}

/// What came of a build, with the manifest itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildOutcome {
    /// All steps passed and every output is there; their bytes are in the sink.
    Success {
        /// The manifest, which the caller stores.
        tree: Tree,
    },
    /// It failed.
    Failure {
        /// In which way.
        class: FailureClass,
        /// The step, or the part of the work: `sources`, `needs`, `outputs`, `sandbox`, …
        stage: String,
    },
    /// The caller cancelled it.
    Cancelled,
}

impl Report {
    /// The outcome as it is attested; `None` for what was cancelled.
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.outcome {
            BuildOutcome::Success { tree } => Some(Outcome::Success { tree: tree.hash() }),
            BuildOutcome::Failure { class, stage } => Some(Outcome::Failure { class: *class, stage: BoundedString::cut(stage) }),
            BuildOutcome::Cancelled => None,
        }
    }
}

/// Builds `request`, handing outputs to `sink` and telling how far it is to `progress`. Never fails: what goes wrong is in
/// the report. Cancelling, or dropping the future, kills everything in the sandbox; nothing of it is left on the machine
/// but the log. Where the future was dropped, the cleaning up goes on in the background.
pub async fn run(request: BuildRequest, sink: Box<dyn OutputSink>, progress: watch::Sender<Progress>, cancel: CancellationToken) -> Report {
    let started = Instant::now();
    let (events, inbox) = mpsc::channel();
    let (answer, report) = oneshot::channel();
    let on_drop = CancelOnDrop(events.clone());
    let own_events = events.clone();
    // A thread of its own for each build, because bubblewrap dies with the thread that started it: tokio's threads come
    // and go. The work blocks for most of its life anyway.
    let thread = std::thread::Builder::new().name("build".into()).spawn(move || {
        let report = supervise::supervise(request, sink, progress, supervise::Mailbox { events: own_events, inbox }, started);
        // The receiver is gone where the caller dropped the future.
        let _ = answer.send(report);
    });
    if let Err(error) = thread {
        return supervise::refused(FailureClass::Sandbox, "sandbox", format!("no thread for the build: {error}"));
    }
    let mut report = std::pin::pin!(report);
    let result = tokio::select! {
        report = &mut report => report,
        () = cancel.cancelled() => {
            // A build that has just ended no longer listens.
            let _ = events.send(supervise::Event::Cancel);
            report.await
        }
    };
    drop(on_drop);
    result.unwrap_or_else(|_| supervise::refused(FailureClass::Sandbox, "sandbox", "the builder itself failed; its log says more".into()))
}

/// Cancels the build when the caller stops waiting for it.
struct CancelOnDrop(mpsc::Sender<supervise::Event>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(supervise::Event::Cancel);
    }
}
