//! Questions that people ask of the engine. Nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::graph::JobIndex;
use crate::id::{ActionId, BatchId, NodeId, OperatorId, OutcomeHash};
use crate::outcome::{Outcome, Particulars};
use crate::policy::Standard;
use crate::record::payload::{LeaseRef, Priority, SlotNo};
use crate::time::Timestamp;
use crate::verdict::{Verdict, VerdictState};

use super::Engine;
use super::jobs::Halt;
use super::lease::SlotState;

/// The state of a job, in the words of DESIGN section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// On inputs.
    Waiting,
    /// Can be built; nobody does yet.
    Ready,
    /// Somebody builds it.
    Building,
    /// Results, fewer than the quorum.
    Candidate,
    /// The quorum agrees.
    CrossVerified,
    /// Results differ on like machines.
    Disputed,
    /// Results differ between unlike machines.
    PlatformDependent,
    /// The quorum agrees that it fails, it is not deterministic, or something that it needs failed.
    Failed,
    /// A newer batch of the same name took its place before it was begun.
    Superseded,
    /// The batch was cancelled or can't be built.
    Withdrawn,
}

impl JobState {
    /// Whether nothing more is built for the job unless somebody asks anew.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::CrossVerified | Self::Failed | Self::Superseded | Self::Withdrawn)
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Building => "building",
            Self::Candidate => "candidate",
            Self::CrossVerified => "cross-verified",
            Self::Disputed => "disputed",
            Self::PlatformDependent => "platform-dependent",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
            Self::Withdrawn => "withdrawn",
        })
    }
}

/// What a job lacks that its output, or what was built from it, could be released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// It is in this state only.
    State(JobState),
    /// No operator that the maintainers trust has revealed the same result.
    NoTrustedReveal,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::State(state) => write!(f, "it is {state}"),
            Self::NoTrustedReveal => f.write_str("no operator that the maintainers trust has built the same"),
        }
    }
}

/// A batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BatchView {
    /// Its id.
    pub id: BatchId,
    /// Its name.
    pub name: String,
    /// The channel that it is meant for.
    pub channel: String,
    /// Its priority.
    pub priority: Priority,
    /// When it was submitted.
    pub issued: Timestamp,
    /// Who submitted it.
    pub operator: Option<OperatorId>,
    /// The policy that it pins.
    pub policy: crate::id::BlobHash,
    /// Number of jobs that its record says.
    pub job_count: u32,
    /// Why it is not being built, if it is not.
    pub halted: Option<String>,
    /// Whether all jobs are settled, and if so, whether all succeeded.
    pub result: Option<bool>,
    /// Number of jobs in each state.
    pub states: BTreeMap<JobState, u32>,
}

/// A slot of an action.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlotView {
    /// The slot.
    pub slot: SlotNo,
    /// Whether it settles a dispute.
    pub arbiter: bool,
    /// `open`, `held` or `closed`.
    pub state: String,
    /// The epoch of the lease, or that the next claim must name.
    pub epoch: u32,
    /// Who holds or closed it.
    pub operator: Option<OperatorId>,
    /// The node.
    pub node: Option<NodeId>,
    /// When the lease lapses without another sign of life.
    pub until: Option<Timestamp>,
}

/// What somebody attested.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttestationView {
    /// The lease under which it was built.
    pub lease: LeaseRef,
    /// Who.
    pub operator: OperatorId,
    /// On which node.
    pub node: NodeId,
    /// What; `None` while it is committed and not revealed.
    pub outcome: Option<Outcome>,
    /// What came of the second build, of who settles a dispute.
    pub again: Option<Outcome>,
    /// Hash of the outcome.
    pub outcome_hash: Option<OutcomeHash>,
    /// What stands beside it.
    pub particulars: Option<Particulars>,
    /// When it was committed to.
    pub committed: Timestamp,
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobView {
    /// Its batch.
    pub batch: BatchId,
    /// Its place in the graph.
    pub index: JobIndex,
    /// `RECIPE[axis=value]`.
    pub label: String,
    /// The recipe's version.
    pub version: String,
    /// The action that it stands for, once its inputs are known.
    pub action: Option<ActionId>,
    /// How often its binding changed.
    pub generation: u32,
    /// Its state.
    pub state: JobState,
    /// Why it is in that state, in one line.
    pub why: String,
    /// The verdict under the batch's policy.
    pub verdict: Option<Verdict>,
    /// The jobs that it needs.
    pub needs: Vec<String>,
    /// The slots of its action.
    pub slots: Vec<SlotView>,
    /// What was committed to and revealed.
    pub attestations: Vec<AttestationView>,
    /// Name in the channel → name among the outputs.
    pub targets: BTreeMap<String, String>,
}

fn superseded(by: BatchId) -> String {
    format!("batch {}, which is newer, took the place of what was not begun", by.short())
}

impl Engine {
    /// All batches that are known, the newest first.
    pub fn batches(&self) -> Vec<BatchView> {
        let mut batches: Vec<BatchView> = self.batches.keys().filter_map(|id| self.batch(id)).collect();
        batches.sort_by_key(|batch| std::cmp::Reverse((batch.issued, batch.id)));
        batches
    }

    /// A batch.
    pub fn batch(&self, id: &BatchId) -> Option<BatchView> {
        let state = self.batches.get(id)?;
        let batch = state.batch();
        let mut states = BTreeMap::new();
        for index in 0..state.bindings.len() {
            let index = JobIndex(u32::try_from(index).ok()?);
            *states.entry(self.job_state(id, index).0).or_default() += 1;
        }
        Some(BatchView {
            id: *id,
            name: batch.name.to_string(),
            channel: batch.channel.to_string(),
            priority: batch.priority,
            issued: state.record.issued(),
            operator: self.members.operator_of(&NodeId(state.record.author_key())),
            policy: batch.policy,
            job_count: batch.jobs,
            halted: self.halted(id).or_else(|| state.superseded_by.map(superseded)),
            result: self.batch_result(id),
            states,
        })
    }

    fn halted(&self, id: &BatchId) -> Option<String> {
        let state = self.batches.get(id)?;
        Some(match state.halt.as_ref() {
            Some(Halt::Unauthorised) => {
                format!("its author may not submit to the channel {}", &*state.batch().channel)
            }
            Some(Halt::Cancelled) => "it was cancelled".into(),
            Some(Halt::Unusable(reason)) => reason.clone(),
            None if state.graph.is_none() => "its graph is being fetched".into(),
            None if self.policy_of(id).is_none() => "its policy is being fetched".into(),
            None => return None,
        })
    }

    /// The jobs of a batch, in the order of its graph.
    pub fn jobs(&self, id: &BatchId) -> Vec<JobView> {
        let Some(state) = self.batches.get(id) else { return Vec::new() };
        (0..state.bindings.len()).filter_map(|at| self.job(id, JobIndex(u32::try_from(at).ok()?))).collect()
    }

    /// One job.
    pub fn job(&self, id: &BatchId, index: JobIndex) -> Option<JobView> {
        let state = self.batches.get(id)?;
        let graph = state.graph.as_ref()?;
        let job = graph.job(index)?;
        let binding = *state.bindings.get(index.0 as usize)?;
        let (job_state, why) = self.job_state(id, index);
        let action = binding.action().map(|action| self.board.action_id(action));
        Some(JobView {
            batch: *id,
            index,
            label: job.label(),
            version: job.version,
            action,
            generation: binding.generation,
            state: job_state,
            why,
            verdict: action.and_then(|action| self.verdict_of(id, &action)),
            needs: graph.needs(index).map(|need| graph.label(need)).collect(),
            slots: action.map_or_else(Vec::new, |action| self.slot_views(&action)),
            attestations: action.map_or_else(Vec::new, |action| self.attestation_views(&action)),
            targets: job.targets,
        })
    }

    /// What keeps the output of a job from being released under the policy that its batch pins: the first job of its input
    /// closure, itself included, that is not as good as that policy wants, and what it lacks. `None` where all are, down to
    /// the sources. Dependants may be built on candidates, and then agree on what a single builder made: whoever signs must
    /// ask for this and not for the job's own state alone. What is in `released`, and what it was built from, counts as
    /// accepted (DESIGN section 3). Of a batch or job that is not known nothing can be said: `None`, too.
    pub fn release_obstacle(&self, id: &BatchId, index: JobIndex, released: &BTreeSet<ActionId>) -> Option<(String, Obstacle)> {
        let graph = self.graph(id)?;
        let Some(policy) = self.policy_of(id) else {
            return Some((graph.label(index), Obstacle::State(JobState::Waiting)));
        };
        let mut seen = BTreeSet::from([index]);
        let mut waiting = vec![index];
        while let Some(index) = waiting.pop() {
            let bound = self.batches.get(id)?.bindings.get(index.0 as usize)?.action();
            let action = bound.map(|place| self.board.action_id(place));
            if action.is_some_and(|action| released.contains(&action)) {
                continue;
            }
            let (state, _) = self.job_state(id, index);
            let good = match policy.release {
                Standard::Candidate => matches!(state, JobState::Candidate | JobState::CrossVerified),
                Standard::CrossVerified => state == JobState::CrossVerified,
            };
            if !good {
                return Some((graph.label(index), Obstacle::State(state)));
            }
            if policy.release_needs_trusted && !action.is_some_and(|action| self.is_trusted_result(id, &action)) {
                return Some((graph.label(index), Obstacle::NoTrustedReveal));
            }
            waiting.extend(graph.needs(index).filter(|below| seen.insert(*below)));
        }
        None
    }

    /// Whether an operator that the maintainers trust revealed what the verdict says.
    fn is_trusted_result(&self, batch: &BatchId, action: &ActionId) -> bool {
        let outcome = self.verdict_of(batch, action).and_then(|verdict| verdict.outcome);
        let mut attested = self.attestations(action).into_iter();
        attested.any(|attestation| {
            // Of two builds that differ, neither stands for anything.
            let certain = attestation.again.as_ref().is_none_or(|again| *again == attestation.outcome);
            let counts = self.members.may_attest(&attestation.operator, attestation.revealed);
            certain && counts && Some(&attestation.outcome) == outcome.as_ref() && self.members.is_trusted(&attestation.operator)
        })
    }

    /// The jobs that stand for an action.
    pub fn jobs_of(&self, action: &ActionId) -> Vec<(BatchId, JobIndex)> {
        self.state_of(action).map_or_else(Vec::new, |state| state.jobs.clone())
    }

    /// The action of that id, if a job stands for it and none of its inputs is in doubt; made anew from its graph.
    pub fn action(&self, id: &ActionId) -> Option<crate::action::Action> {
        self.action_at(self.board.action(id)?)
    }

    /// The graph of a batch, once it is fetched.
    pub fn graph(&self, id: &BatchId) -> Option<&std::sync::Arc<crate::graph::Packed>> {
        self.batches.get(id)?.graph.as_ref()
    }

    /// The policy of that hash, if any batch or charter brought it.
    pub fn policy(&self, hash: &crate::id::BlobHash) -> Option<&std::sync::Arc<crate::policy::Policy>> {
        self.policies.get(hash)
    }

    /// The actions of a batch whose jobs failed, for a Retry.
    pub fn failed_actions(&self, id: &BatchId) -> Vec<ActionId> {
        let failed = self.jobs(id).into_iter().filter(|job| job.state == JobState::Failed);
        let mut actions: Vec<ActionId> = failed.filter_map(|job| job.action).collect();
        actions.sort_unstable();
        actions.dedup();
        actions
    }

    fn slot_views(&self, action: &ActionId) -> Vec<SlotView> {
        let Some(place) = self.board.action(action) else { return Vec::new() };
        let view = |(slot, state): (SlotNo, SlotState)| {
            let tenure = state.tenure();
            let (name, epoch) = match &state {
                SlotState::Open { epoch, .. } => ("open", *epoch),
                SlotState::Held(tenure) => ("held", tenure.epoch),
                SlotState::Closed(tenure) => ("closed", tenure.epoch),
            };
            SlotView {
                slot,
                arbiter: slot.is_arbiter(),
                state: name.into(),
                epoch,
                operator: tenure.map(|tenure| tenure.operator),
                node: tenure.map(|tenure| tenure.node),
                until: tenure.map(|tenure| tenure.until),
            }
        };
        self.slots_of(place).into_iter().map(view).collect()
    }

    fn attestation_views(&self, action: &ActionId) -> Vec<AttestationView> {
        let views = self.board.commitments(action).filter_map(|(record, commitment)| {
            let node = NodeId(record.author_key());
            let operator = self.members.operator_of(&node)?;
            let reveal = self.board.reveals(action).find(|(other, reveal)| {
                other.author_key() == node.0 && reveal.lease == commitment.lease && reveal.opens(&operator) == commitment.commitment
            });
            let reveal = reveal.map(|(_, reveal)| reveal);
            Some(AttestationView {
                lease: commitment.lease,
                operator,
                node,
                outcome: reveal.map(|reveal| reveal.outcome.clone()),
                again: reveal.and_then(|reveal| reveal.again.as_deref().cloned()),
                outcome_hash: reveal.map(|reveal| reveal.outcome.hash()),
                particulars: reveal.map(|reveal| reveal.particulars.clone()),
                committed: record.issued(),
            })
        });
        views.collect()
    }

    /// The state of a job and why it is in it, in one line.
    pub fn job_state(&self, id: &BatchId, index: JobIndex) -> (JobState, String) {
        let Some(state) = self.batches.get(id) else {
            return (JobState::Waiting, "the batch is not known here".into());
        };
        let bound = state.bindings.get(index.0 as usize).and_then(|binding| binding.action());
        let action_id = bound.map(|action| self.board.action_id(action));
        let verdict = action_id.and_then(|action| self.verdict_of(id, &action));
        let verdict = verdict.as_ref();
        let settled = verdict.is_some_and(Verdict::is_final);
        if let (false, Some(halted)) = (settled, self.halted(id)) {
            let halt = if state.halt.is_some() { JobState::Withdrawn } else { JobState::Waiting };
            return (halt, halted);
        }
        let superseded = state.superseded_by.map(superseded);
        let (Some(place), Some(action_id)) = (bound, action_id) else {
            let unbound = self.why_unbound(id, index);
            return match superseded.filter(|_| unbound.0 == JobState::Waiting) {
                Some(why) => (JobState::Superseded, why),
                None => unbound,
            };
        };
        let Some(action) = self.state(place) else {
            return (JobState::Waiting, "its action is being forgotten".into());
        };
        let held = action.slots.iter().filter(|(_, slot)| matches!(slot, SlotState::Held(_))).count();
        let open = action.slots.iter().filter(|(_, slot)| matches!(slot, SlotState::Open { .. })).count();
        if let Some(why) = superseded.filter(|_| !settled && action.slots.is_empty()) {
            return (JobState::Superseded, why);
        }
        let quorum = self.policy_of(id).map_or(1, |policy| policy.quorum);
        match verdict.map_or(VerdictState::Unattested, |verdict| verdict.state) {
            VerdictState::CrossVerified => {
                let by = verdict.map_or(0, |verdict| verdict.agreeing.len());
                (
                    JobState::CrossVerified,
                    format!(
                        "{} agree{}, {quorum} {} wanted",
                        operators(by),
                        if by == 1 { "s" } else { "" },
                        if quorum == 1 { "is" } else { "are" }
                    ),
                )
            }
            VerdictState::Failed => self.why_failed(place, verdict),
            VerdictState::NotDeterministic => {
                let arbiter = verdict.and_then(|verdict| verdict.arbiter).map_or_else(|| "its arbiter".into(), |arbiter| arbiter.short());
                let why = format!(
                    "not deterministic: results differ, and so do the two builds of {arbiter}, who was to settle it; nobody is wrong"
                );
                (JobState::Failed, why)
            }
            VerdictState::Disputed => (JobState::Disputed, self.why_disputed(action, "results differ")),
            VerdictState::PlatformDependent => {
                (JobState::PlatformDependent, self.why_disputed(action, "results differ between unlike machines"))
            }
            VerdictState::Candidate => {
                let have = verdict.map_or(0, |verdict| verdict.agreeing.len());
                let next = self.why_next(&action_id, held, open);
                (JobState::Candidate, format!("{have} of {} agree; {next}", operators(quorum.into())))
            }
            VerdictState::Unattested if held > 0 => (JobState::Building, self.why_next(&action_id, held, open)),
            VerdictState::Unattested => {
                let committed = self.demand(place).map_or(0, |demand| self.committers(place, &demand, false).len());
                if committed > 0 {
                    let why = format!("{committed} of {} have committed to a result", operators(quorum.into()));
                    return (JobState::Building, why);
                }
                (JobState::Ready, self.why_next(&action_id, 0, open))
            }
        }
    }

    fn why_unbound(&self, id: &BatchId, index: JobIndex) -> (JobState, String) {
        let Some(graph) = self.graph(id).filter(|graph| graph.facts(index).is_some()) else {
            return (JobState::Waiting, "the batch has no such job".into());
        };
        let mut waits = Vec::new();
        for need in graph.needs(index) {
            let label = graph.label(need);
            match self.need_state(id, need) {
                JobState::Failed => return (JobState::Failed, format!("{label}, which it needs, failed")),
                JobState::CrossVerified => {}
                state => waits.push(format!("{label} ({state})")),
            }
        }
        (JobState::Waiting, format!("waits for {}", waits.join(", ")))
    }

    /// The state of what a job needs, without the reason. Of what is not bound itself the needs are not asked in turn: in a
    /// graph of some depth there are more ways down than anybody can go.
    fn need_state(&self, id: &BatchId, need: JobIndex) -> JobState {
        let Some(state) = self.batches.get(id) else { return JobState::Waiting };
        let bound = state.bindings.get(need.0 as usize).is_some_and(|binding| binding.action().is_some());
        match (bound, state.superseded_by) {
            (true, _) => self.job_state(id, need).0,
            (false, _) if state.is_barred(need) => JobState::Failed,
            (false, Some(_)) => JobState::Superseded,
            (false, None) => JobState::Waiting,
        }
    }

    fn why_disputed(&self, action: &super::settle::ActionState, what: &str) -> String {
        let arbiter = action.slots.iter().filter(|(slot, _)| slot.is_arbiter()).find_map(|(_, slot)| slot.tenure());
        match arbiter {
            Some(tenure) => format!("{what}; {} builds it twice to settle it", tenure.operator.short()),
            None => format!("{what}; no trusted operator who attested nothing for it is free to build it"),
        }
    }

    fn why_next(&self, action: &ActionId, held: usize, open: usize) -> String {
        if held > 0 {
            return format!("{held} building, {} open", count(open, "slot", "slots"));
        }
        let place = self.board.action(action);
        let Some(demand) = place.and_then(|place| self.demand(place)) else { return "nothing wants it any more".into() };
        let tried = place.map_or_else(String::new, |place| self.why_tried(place));
        let memory = place.map_or(0, |place| self.memory_for(place, SlotNo(0), &demand));
        let large = memory > demand.limits.memory;
        let fit = |presence: &crate::record::payload::Presence| {
            demand
                .facts()
                .is_some_and(|facts| presence.cores >= facts.cores && crate::platform::Facts::met_by(presence, &facts.environment))
                // A machine that builds has less free than it lends, so only those that never have enough are left out.
                && (!large || u64::from(presence.free_memory_mib) << 20 >= memory)
        };
        let able: Vec<NodeId> = self
            .board
            .presences()
            .filter(|(node, _, presence)| {
                fit(presence)
                    && presence.accepting
                    && !presence.arbiter_only
                    && self.board.author(&node.0).is_some_and(|author| demand.admits(&self.voice(author)))
            })
            .map(|(node, ..)| node)
            .collect();
        if able.is_empty() {
            let wants = if large { format!(" with {} MiB of memory", memory >> 20) } else { String::new() };
            return format!("no builder{wants} that is present can take it{}{tried}", self.why_not_here(&demand));
        }
        let free = if able.len() == 1 { "it is" } else { "they are" };
        let able = count(able.len(), "builder", "builders");
        format!("{} open; {able} could take it when {free} free{tried}", count(open, "slot", "slots"))
    }
}

/// So many of what the word names.
pub(super) fn count(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

pub(super) fn operators(number: usize) -> String {
    count(number, "operator", "operators")
}
