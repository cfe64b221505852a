//! What is built: what every job really makes, how long it takes, and who has what was made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use barnraiser_protocol::action::{Action, Environment, Step};
use barnraiser_protocol::bounded::{BoundedString, BoundedVec};
use barnraiser_protocol::engine::BuildOrder;
use barnraiser_protocol::graph::{Graph, Job, JobIndex, JobKind, JobNeed, Limits};
use barnraiser_protocol::id::{ActionId, BlobHash};
use barnraiser_protocol::outcome::{FailureClass, Outcome, Particulars};
use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::record::payload::{Batch, Priority};

use crate::dice::Dice;

/// What a job is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// Everyone who builds it gets the same.
    Sound,
    /// Its recipe is wrong: it fails for everyone.
    Broken,
    /// Every build gives something else.
    Unsteady,
    /// Whoever builds it loses the machine.
    Killer,
}

/// A job as the simulation knows it.
#[derive(Debug, Clone)]
pub struct Task {
    /// What it is like.
    pub nature: Nature,
    /// What it costs on a machine of speed 1.
    pub core_seconds: f64,
    /// How large its output is; 0 where the time that transfers take is left out.
    pub output_bytes: u64,
    /// What it takes of memory, in bytes; its recipe allows [`MEMORY`].
    pub memory: u64,
}

/// The memory that every recipe allows.
pub const MEMORY: u64 = 1 << 30;

/// Everything that is built, and who has it.
#[derive(Debug, Default)]
pub struct Work {
    tasks: BTreeMap<String, Task>,
    /// Graphs and policies.
    blobs: BTreeMap<BlobHash, Arc<[u8]>>,
    holders: BTreeMap<BlobHash, BTreeSet<usize>>,
    lengths: BTreeMap<BlobHash, u64>,
    /// What was asked of before, by [`Work::truth_of`].
    truths: BTreeMap<ActionId, Option<Outcome>>,
}

impl Work {
    /// Takes note of what the job called `name` is like, and returns it as a job of a graph.
    pub fn add(&mut self, name: &str, needs: &[usize], cores: u16, arch: &str, task: Task) -> Job {
        let limits = Limits { memory: MEMORY, disk: 1 << 30, wall: Duration::from_secs(86_400), silent: Duration::from_secs(600) };
        self.tasks.insert(name.to_owned(), task);
        let need = |need: &usize| JobNeed::all(JobIndex(u32::try_from(*need).unwrap_or(u32::MAX)), format!("/needs/{need}"));
        Job {
            recipe: name.to_owned(),
            version: "1".into(),
            cell: BTreeMap::new(),
            kind: JobKind::Build,
            sources: Vec::new(),
            needs: needs.iter().map(need).collect(),
            vars: BTreeMap::new(),
            environment: Environment::host("linux", [arch]),
            shell: vec!["sh".into(), "-e".into()],
            steps: vec![Step { name: "build".into(), script: name.to_owned() }],
            outputs: BTreeMap::from([("out".to_owned(), "out".to_owned())]),
            epoch: 0,
            cores,
            limits,
            targets: BTreeMap::new(),
        }
    }

    /// The task called `name`, if there is one.
    pub fn knows(&self, name: &str) -> Option<Task> {
        self.tasks.get(name).cloned()
    }

    /// The task of an action.
    pub fn task(&self, action: &Action) -> Option<&Task> {
        self.tasks.get(&action.steps.first()?.script)
    }

    /// What honest machines make of the action `id`, which `action` gives; `None` where each makes something else, or where
    /// the action can't be had. It is asked for at every verdict of every node and worked out once.
    pub fn truth_of(&mut self, id: &ActionId, action: impl FnOnce() -> Option<Action>) -> Option<Outcome> {
        if let Some(known) = self.truths.get(id) {
            return known.clone();
        }
        let truth = self.truth(&action()?);
        self.truths.insert(*id, truth.clone());
        truth
    }

    /// What honest machines make of an action; `None` where each makes something else.
    pub fn truth(&self, action: &Action) -> Option<Outcome> {
        match self.task(action)?.nature {
            Nature::Sound => Some(Outcome::Success { tree: tree_of(action, b"true") }),
            Nature::Broken => Some(failure(FailureClass::Build)),
            Nature::Unsteady => None,
            Nature::Killer => Some(failure(FailureClass::Lost)),
        }
    }

    /// What one build on an honest machine makes that gives it so much memory, in bytes.
    pub fn make(&self, action: &Action, memory: u64, dice: &mut Dice) -> Outcome {
        if self.task(action).is_some_and(|task| task.memory > memory) {
            return failure(FailureClass::OutOfMemory);
        }
        self.truth(action).unwrap_or_else(|| Outcome::Success { tree: tree_of(action, &dice.bytes()) })
    }

    /// What a liar says it made. Liars with the same `mark` agree, and no others.
    pub fn lie(action: &Action, mark: usize) -> Outcome {
        Outcome::Success { tree: tree_of(action, &mark.to_le_bytes()) }
    }

    /// Notes that `node` has a blob and serves it.
    pub fn hold(&mut self, blob: BlobHash, node: usize) {
        self.holders.entry(blob).or_default().insert(node);
    }

    /// Who has a blob.
    pub fn holders(&self, blob: &BlobHash) -> impl Iterator<Item = usize> + '_ {
        self.holders.get(blob).into_iter().flatten().copied()
    }

    /// Whether `node` has a blob.
    pub fn has(&self, blob: &BlobHash, node: usize) -> bool {
        self.holders.get(blob).is_some_and(|holders| holders.contains(&node))
    }

    /// The machine called `node` is gone with all that it had.
    pub fn forget_holder(&mut self, node: usize) {
        for holders in self.holders.values_mut() {
            holders.remove(&node);
        }
    }

    /// Notes how large an output is.
    pub fn weigh(&mut self, tree: BlobHash, bytes: u64) {
        self.lengths.insert(tree, bytes);
    }

    /// How large an output is.
    pub fn length(&self, tree: &BlobHash) -> u64 {
        self.lengths.get(tree).copied().unwrap_or(0)
    }

    /// The bytes of a graph or policy.
    pub fn bytes(&self, blob: &BlobHash) -> Option<Arc<[u8]>> {
        self.blobs.get(blob).cloned()
    }

    /// The Batch of a graph, whose blobs `submitter` has from now on.
    pub fn batch(&mut self, name: &str, graph: &Graph, policy: &Policy, priority: Priority, nonce: [u8; 32], submitter: usize) -> Batch {
        let (graph_bytes, policy_bytes) = (graph.to_bytes(), policy.to_bytes());
        let batch = Batch {
            name: BoundedString::cut(name),
            channel: BoundedString::cut("nightly"),
            priority,
            graph: BlobHash::of(&graph_bytes),
            graph_length: graph_bytes.len() as u64,
            jobs: u32::try_from(graph.jobs.len()).unwrap_or(u32::MAX),
            policy: policy.hash(),
            nonce,
            revision: BoundedString::default(),
            url: BoundedString::default(),
            labels: BoundedVec::new(),
        };
        self.hold(batch.graph, submitter);
        self.hold(batch.policy, submitter);
        self.blobs.insert(batch.graph, graph_bytes.into());
        self.blobs.insert(batch.policy, policy_bytes.into());
        batch
    }
}

fn tree_of(action: &Action, mark: &[u8]) -> BlobHash {
    BlobHash::of(&[action.id().as_bytes(), mark].concat())
}

/// A failure in the only step.
pub fn failure(class: FailureClass) -> Outcome {
    Outcome::Failure { class, stage: BoundedString::cut("build") }
}

/// What stands beside an outcome.
pub fn particulars(order: &BuildOrder, took: Duration) -> Particulars {
    let wall_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    Particulars { wall_ms, cpu_ms: wall_ms.saturating_mul(order.action.cores.into()), ..unmeasured() }
}

/// The same, of a build that took no time.
pub fn unmeasured() -> Particulars {
    let (fingerprint, sandbox) = (BoundedString::cut("linux"), BoundedString::cut("simulated"));
    Particulars { memory_peak: 1 << 20, fingerprint, sandbox, ..Particulars::default() }
}
