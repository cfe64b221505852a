//! Batches and their jobs: which action each job stands for, as the outputs that it needs become usable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::action::Action;
use crate::graph::{GRAPH_BYTES_MAX, Graph, JobIndex};
use crate::id::{ActionId, BatchId, BlobHash, NodeId};
use crate::policy::Policy;
use crate::record::payload::Batch;
use crate::record::{Kind, Payload, SharedRecord};
use crate::time::Timestamp;

use super::Engine;
use super::io::{Event, Output, Want};
use super::settle::ActionState;
use super::work::ReadyKey;

/// A job's binding: the action that it stands for, and how often that changed.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    /// The action.
    pub action: ActionId,
    /// 1 for the first.
    pub generation: u32,
}

/// Why a batch is not being built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Halt {
    /// Its author may not submit to its channel (as far as is known).
    Unauthorised,
    /// It was cancelled by its author or by a founder.
    Cancelled,
    /// Its graph or policy can't be used.
    Unusable(String),
}

/// What is known of a batch.
#[derive(Debug)]
pub(super) struct BatchState {
    /// The record.
    pub record: SharedRecord,
    /// The graph, once it is fetched.
    pub graph: Option<Arc<Graph>>,
    /// Job → the jobs whose action holds this one's output.
    dependants: Vec<Vec<JobIndex>>,
    /// Job → what it stands for.
    pub bindings: Vec<Option<Binding>>,
    /// Jobs that stand for nothing, since something below them failed for good.
    barred: BTreeSet<JobIndex>,
    /// Why it is not being built.
    pub halt: Option<Halt>,
    /// Whether its graph and policy were asked for.
    wanted: bool,
    /// Whether the end of all its jobs was told.
    done: bool,
}

impl BatchState {
    /// What the record says.
    pub fn batch(&self) -> &Batch {
        match self.record.payload() {
            Payload::Batch(batch) => batch,
            // `learn_batch` is the only maker and takes nothing else.
            _ => unreachable!("a batch state is made of Batch records only"),
        }
    }

    /// Whether its jobs stand for actions: those of a batch that was cancelled do as well, since leases were taken in its
    /// name, and who comes later must judge them as those do who were there.
    fn is_bindable(&self) -> bool {
        matches!(self.halt, None | Some(Halt::Cancelled)) && self.graph.is_some()
    }

    /// Whether its jobs are to be built.
    pub fn is_live(&self) -> bool {
        self.halt.is_none() && self.graph.is_some()
    }
}

impl Engine {
    pub(super) fn learn_batch(&mut self, record: &SharedRecord) {
        let Payload::Batch(_) = record.payload() else { return };
        let id = BatchId::from(record.id());
        let state = BatchState {
            record: record.clone(),
            graph: None,
            dependants: Vec::new(),
            bindings: Vec::new(),
            barred: BTreeSet::new(),
            halt: None,
            wanted: false,
            done: false,
        };
        self.batches.insert(id, state);
        let halt = self.halt_of(&id);
        if let Some(state) = self.batches.get_mut(&id) {
            state.halt = halt;
        }
        self.want_parts(id);
    }

    /// Asks for what is missing of a batch, once, and only where its author may submit: a stranger's graph costs nothing.
    fn want_parts(&mut self, id: BatchId) {
        let Some(state) =
            self.batches.get_mut(&id).filter(|state| state.halt.as_ref().is_none_or(|halt| *halt == Halt::Cancelled) && !state.wanted)
        else {
            return;
        };
        state.wanted = true;
        let batch = state.batch();
        let (graph, length, policy) = (batch.graph, batch.graph_length, batch.policy);
        if length > GRAPH_BYTES_MAX as u64 {
            let reason = format!("its record says that its graph has {length} bytes, at most {GRAPH_BYTES_MAX} are allowed");
            return self.refuse_batch(id, reason);
        }
        let from = NodeId(state.record.author_key());
        if !self.policies.contains_key(&policy) {
            self.outputs.push_back(Output::Fetch { want: Want::Policy(policy), blob: policy, length: None, from });
        }
        self.outputs.push_back(Output::Fetch { want: Want::Graph(id), blob: graph, length: Some(length), from });
    }

    pub(super) fn fetched(&mut self, now: Timestamp, want: Want, bytes: &[u8]) {
        match want {
            Want::Policy(hash) => match Policy::from_bytes(bytes) {
                Ok(policy) if BlobHash::of(bytes) == hash => {
                    self.policies.insert(hash, Arc::new(policy));
                    let waiting: Vec<BatchId> = self.batches.keys().copied().collect();
                    for batch in waiting {
                        self.start_batch(now, batch);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    let of: Vec<BatchId> =
                        self.batches.iter().filter(|(_, state)| state.batch().policy == hash).map(|(id, _)| *id).collect();
                    for batch in of {
                        self.refuse_batch(batch, format!("its policy can't be used: {error}"));
                    }
                }
            },
            Want::Graph(id) => {
                let Some(state) = self.batches.get(&id) else { return };
                if state.graph.is_some() || BlobHash::of(bytes) != state.batch().graph {
                    return;
                }
                let jobs = state.batch().jobs;
                match Graph::from_bytes(bytes) {
                    Ok(graph) if graph.jobs.len() == jobs as usize => self.set_graph(now, id, graph),
                    Ok(graph) => {
                        let reason = format!("its record says {jobs} jobs and its graph has {}", graph.jobs.len());
                        self.refuse_batch(id, reason);
                    }
                    Err(error) => self.refuse_batch(id, error.to_string()),
                }
            }
        }
    }

    fn refuse_batch(&mut self, id: BatchId, reason: String) {
        if let Some(state) = self.batches.get_mut(&id) {
            state.halt = Some(Halt::Unusable(reason.clone()));
            self.event(Event::BatchRefused { batch: id, reason });
        }
    }

    fn set_graph(&mut self, now: Timestamp, id: BatchId, graph: Graph) {
        let Some(state) = self.batches.get_mut(&id) else { return };
        let mut dependants = vec![Vec::new(); graph.jobs.len()];
        for (index, job) in (0u32..).map(JobIndex).zip(&graph.jobs) {
            let mut laid = BTreeSet::new();
            for need in &job.needs {
                laid.extend(graph.laid_by(need));
            }
            for below in laid {
                dependants[below.0 as usize].push(index);
            }
        }
        state.bindings = vec![None; graph.jobs.len()];
        state.dependants = dependants;
        let jobs = u32::try_from(graph.jobs.len()).unwrap_or(u32::MAX);
        state.graph = Some(Arc::new(graph));
        self.event(Event::BatchKnown { batch: id, jobs });
        self.start_batch(now, id);
    }

    /// The policy that a batch pins, once it is known.
    pub(super) fn policy_of(&self, batch: &BatchId) -> Option<&Arc<Policy>> {
        self.policies.get(&self.batches.get(batch)?.batch().policy)
    }

    fn halt_of(&self, id: &BatchId) -> Option<Halt> {
        let state = self.batches.get(id)?;
        if let Some(Halt::Unusable(reason)) = &state.halt {
            return Some(Halt::Unusable(reason.clone()));
        }
        let author = NodeId(state.record.author_key());
        let operator = self.members.operator_of(&author);
        let may = operator.is_some_and(|operator| self.params.grants.may_submit(&operator, &state.batch().channel));
        if !may {
            return Some(Halt::Unauthorised);
        }
        let cancelled = self.board.of_kind(Kind::Cancel).any(|record| {
            let by = NodeId(record.author_key());
            let names = matches!(record.payload(), Payload::Cancel(cancel) if cancel.batch == *id);
            names && (by == author || self.members.operator_of(&by).is_some_and(|by| Some(by) == operator || self.members.is_founder(&by)))
        });
        cancelled.then_some(Halt::Cancelled)
    }

    /// Looks again whether a batch is to be built.
    pub(super) fn refresh_batch(&mut self, now: Timestamp, id: BatchId) {
        let halt = self.halt_of(&id);
        let Some(state) = self.batches.get_mut(&id) else { return };
        if state.halt == halt {
            return;
        }
        state.halt = halt;
        self.want_parts(id);
        let Some(state) = self.batches.get(&id) else { return };
        let actions: BTreeSet<ActionId> = state.bindings.iter().flatten().map(|binding| binding.action).collect();
        self.start_batch(now, id);
        for action in actions {
            self.settle(now, action);
        }
    }

    /// Members or grants changed: who may submit, vote and build may be others now.
    pub(super) fn standing_changed(&mut self, now: Timestamp) {
        self.presence_changed(now);
        let batches: Vec<BatchId> = self.batches.keys().copied().collect();
        for batch in batches {
            self.refresh_batch(now, batch);
        }
        let actions: Vec<ActionId> = self.actions.keys().copied().collect();
        for action in actions {
            self.settle(now, action);
        }
    }

    pub(super) fn forget_batch(&mut self, now: Timestamp, id: BatchId) {
        let Some(state) = self.batches.get(&id) else { return };
        let bound: Vec<(JobIndex, ActionId)> =
            (0u32..).map(JobIndex).zip(&state.bindings).filter_map(|(index, binding)| Some((index, binding.as_ref()?.action))).collect();
        for (index, action) in bound {
            self.unbind(now, id, index, action);
        }
        self.batches.remove(&id);
    }

    /// Binds all jobs that can be bound.
    fn start_batch(&mut self, now: Timestamp, id: BatchId) {
        if self.policy_of(&id).is_none() {
            return;
        }
        let Some(state) = self.batches.get(&id).filter(|state| state.is_bindable()) else { return };
        let all = (0..u32::try_from(state.bindings.len()).unwrap_or(u32::MAX)).map(JobIndex).collect();
        self.rebind(now, id, all);
    }

    /// The output of a job that others may use now.
    fn usable(&self, batch: &BatchId, job: JobIndex) -> Option<BlobHash> {
        let state = self.batches.get(batch)?;
        let policy_hash = state.batch().policy;
        let policy = self.policies.get(&policy_hash)?;
        let action = self.actions.get(&state.bindings.get(job.0 as usize)?.as_ref()?.action)?;
        let verdict = action.verdicts.get(&policy_hash)?;
        verdict.is_usable(policy).then(|| verdict.outcome.as_ref().and_then(crate::outcome::Outcome::tree)).flatten()
    }

    /// Binds `jobs` and, where that changes anything, what depends on them.
    pub(super) fn rebind(&mut self, now: Timestamp, id: BatchId, jobs: VecDeque<JobIndex>) {
        let mut queue = jobs;
        let mut touched = BTreeSet::new();
        while let Some(index) = queue.pop_front() {
            let Some(state) = self.batches.get(&id).filter(|state| state.is_bindable()) else { return };
            let Some(graph) = state.graph.clone() else { return };
            let old = state.bindings[index.0 as usize].clone();
            if self.bar(now, &id, index, &mut queue) {
                continue;
            }
            // While an input is in dispute, the binding that was made before stays: nothing better is known.
            let Some(action) = graph.bind(index, |need| self.usable(&id, need)) else { continue };
            let action_id = action.id();
            if old.as_ref().is_some_and(|old| old.action == action_id) {
                continue;
            }
            let generation = old.as_ref().map_or(1, |old| old.generation + 1);
            let label = graph.job(index).map_or_else(String::new, crate::graph::Job::label);
            if let Some(old) = old {
                self.unbind(now, id, index, old.action);
            }
            self.event(Event::Bound { batch: id, job: label.clone(), action: action_id, generation });
            self.bind(id, index, action, label);
            if let Some(state) = self.batches.get_mut(&id) {
                state.bindings[index.0 as usize] = Some(Binding { action: action_id, generation });
                queue.extend(state.dependants[index.0 as usize].iter().copied());
            }
            touched.insert(action_id);
        }
        for action in touched {
            self.settle(now, action);
        }
    }

    /// Takes the binding of a job away below which something failed for good: who hears of the failure first never bound
    /// it, and all must come to the same. Returns whether that is so; `queue` gets what must be looked at again.
    fn bar(&mut self, now: Timestamp, id: &BatchId, index: JobIndex, queue: &mut VecDeque<JobIndex>) -> bool {
        let Some(state) = self.batches.get(id) else { return false };
        let Some((graph, job)) = state.graph.as_ref().and_then(|graph| Some((graph, graph.job(index)?))) else { return false };
        let failed = |need: &JobIndex| {
            let binding = state.bindings.get(need.0 as usize).and_then(Option::as_ref);
            let verdict = binding.and_then(|binding| self.verdict_of(id, &binding.action));
            state.barred.contains(need) || verdict.is_some_and(|verdict| verdict.state.is_failure())
        };
        let barred = job.needs.iter().flat_map(|need| graph.laid_by(need)).any(|need| failed(&need));
        let Some(state) = self.batches.get_mut(id) else { return barred };
        let changed = if barred { state.barred.insert(index) } else { state.barred.remove(&index) };
        if changed {
            queue.extend(state.dependants[index.0 as usize].iter().copied());
        }
        let old = if barred { state.bindings[index.0 as usize].take() } else { None };
        if let Some(old) = old {
            self.unbind(now, *id, index, old.action);
        }
        barred
    }

    fn bind(&mut self, batch: BatchId, index: JobIndex, action: Action, label: String) {
        let id = action.id();
        self.actions.entry(id).or_insert_with(|| ActionState::new(Arc::new(action), label)).jobs.insert((batch, index));
    }

    fn unbind(&mut self, now: Timestamp, batch: BatchId, index: JobIndex, action: ActionId) {
        if let Some(key) = self.ready_key(&batch, index, action) {
            self.ready.remove(&key);
        }
        if let Some(state) = self.actions.get_mut(&action) {
            state.jobs.remove(&(batch, index));
        }
        self.settle(now, action);
    }

    pub(super) fn ready_key(&self, batch: &BatchId, job: JobIndex, action: ActionId) -> Option<ReadyKey> {
        let state = self.batches.get(batch)?;
        Some(ReadyKey { priority: state.batch().priority, issued: state.record.issued(), batch: *batch, job, action })
    }

    /// The verdict of an action changed under some policy: its dependants may bind, and its batches may be done.
    pub(super) fn output_changed(&mut self, now: Timestamp, action: ActionId) {
        let Some(jobs) = self.actions.get(&action).map(|state| state.jobs.clone()) else { return };
        let mut by_batch: BTreeMap<BatchId, VecDeque<JobIndex>> = BTreeMap::new();
        for (batch, job) in jobs {
            let queue = by_batch.entry(batch).or_default();
            if let Some(state) = self.batches.get(&batch) {
                queue.extend(state.dependants[job.0 as usize].iter().copied());
            }
        }
        for (batch, queue) in by_batch {
            self.rebind(now, batch, queue);
            self.tell_when_done(batch);
        }
    }

    fn tell_when_done(&mut self, id: BatchId) {
        let Some(ok) = self.batch_result(&id) else { return };
        let Some(state) = self.batches.get_mut(&id).filter(|state| !state.done) else { return };
        state.done = true;
        self.event(Event::BatchDone { batch: id, ok });
    }

    /// Whether all jobs of a batch are settled, and if so, whether all succeeded. A job whose input failed is settled.
    pub fn batch_result(&self, id: &BatchId) -> Option<bool> {
        use crate::verdict::VerdictState;
        let state = self.batches.get(id)?;
        let graph = state.graph.as_ref()?;
        let policy = state.batch().policy;
        let mut failed = vec![false; graph.jobs.len()];
        for (index, (job, binding)) in graph.jobs.iter().zip(&state.bindings).enumerate() {
            if job.needs.iter().any(|need| failed[need.job.0 as usize]) {
                failed[index] = true;
                continue;
            }
            let verdict = self.actions.get(&binding.as_ref()?.action)?.verdicts.get(&policy)?;
            match verdict.state {
                VerdictState::CrossVerified => {}
                state if state.is_failure() => failed[index] = true,
                _ => return None,
            }
        }
        Some(!failed.contains(&true))
    }
}
