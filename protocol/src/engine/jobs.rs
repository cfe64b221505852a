//! Batches and their jobs: which action each job stands for, as the outputs that it needs become usable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::graph::{GRAPH_BYTES_MAX, JobIndex, Packed};
use crate::id::{BatchId, BlobHash, NodeId, OperatorId};
use crate::policy::Policy;
use crate::record::payload::{Batch, Priority};
use crate::record::{Kind, Payload, SharedRecord};
use crate::table::Place;
use crate::time::Timestamp;
use crate::verdict::VerdictState;

use super::Engine;
use super::board::NONE;
use super::io::{Event, Output, Timer, Want};
use super::queue::Standing;
use super::settle::ActionState;

/// How long a job is thought to take where nothing at all has been built yet; later one whose recipe nobody has built is
/// thought to take as long as the mean of the others.
const DURATION_GUESS_MS: u64 = 60_000;
/// Work is put into order anew at most this often, as durations become known.
const RANK_INTERVAL: Duration = Duration::from_secs(120);
/// The most recipes whose durations are kept.
const DURATIONS_MAX: usize = 65_536;

/// A job's binding: the action that it stands for, and how often that changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binding {
    action: Place,
    /// 1 for the first.
    pub generation: u32,
}

impl Binding {
    const UNBOUND: Self = Self { action: NONE, generation: 0 };

    /// The place of the action, if there is one yet.
    pub const fn action(self) -> Option<Place> {
        if self.action == NONE { None } else { Some(self.action) }
    }
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
    pub graph: Option<Arc<Packed>>,
    /// Job → what it stands for.
    pub bindings: Vec<Binding>,
    /// Jobs that stand for nothing, since something below them failed for good.
    barred: BTreeSet<JobIndex>,
    /// Job → the time from its start to the end of the last that waits for it, in tenths of a second as durations were
    /// known when that was last looked at; and how many wait for it.
    ranks: Vec<(u32, u32)>,
    /// The newer batch that took its place: what is not begun yet is left to that one.
    pub superseded_by: Option<BatchId>,
    /// Why it is not being built.
    pub halt: Option<Halt>,
    /// Whether its graph and policy were asked for.
    wanted: bool,
    /// Whether the end of all its jobs was told.
    done: bool,
    /// The first job that was not cross-verified when that was last looked at.
    open: usize,
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

    /// Whether something below a job failed for good.
    pub fn is_barred(&self, job: JobIndex) -> bool {
        self.barred.contains(&job)
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
            bindings: Vec::new(),
            barred: BTreeSet::new(),
            ranks: Vec::new(),
            superseded_by: None,
            halt: None,
            wanted: false,
            done: false,
            open: 0,
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

    pub(super) fn fetched(&mut self, now: Timestamp, want: Want, bytes: &Arc<[u8]>) {
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
                match Packed::from_bytes(bytes.clone()) {
                    Ok(graph) if graph.len() == jobs as usize => self.set_graph(now, id, Arc::new(graph)),
                    Ok(graph) => {
                        let reason = format!("its record says {jobs} jobs and its graph has {}", graph.len());
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

    /// Takes a graph that another engine of this process has read already.
    pub(super) fn share_graph(&mut self, now: Timestamp, id: BatchId, graph: Arc<Packed>) {
        let wanted = self.batches.get(&id).is_some_and(|state| state.graph.is_none() && state.batch().jobs as usize == graph.len());
        if wanted {
            self.set_graph(now, id, graph);
        }
    }

    fn set_graph(&mut self, now: Timestamp, id: BatchId, graph: Arc<Packed>) {
        let ranks = self.ranks_of(&graph);
        let Some(state) = self.batches.get_mut(&id) else { return };
        state.bindings = vec![Binding::UNBOUND; graph.len()];
        state.ranks = ranks;
        let jobs = u32::try_from(graph.len()).unwrap_or(u32::MAX);
        state.graph = Some(graph);
        self.event(Event::BatchKnown { batch: id, jobs });
        self.refresh_superseded(now, &id);
        self.start_batch(now, id);
    }

    /// What the order of work goes by: see [`BatchState::ranks`].
    fn ranks_of(&self, graph: &Packed) -> Vec<(u32, u32)> {
        let total: u64 = self.durations.values().map(|known| u64::from(*known)).sum();
        let guess = total.checked_div(self.durations.len() as u64).unwrap_or(DURATION_GUESS_MS);
        let cost = |job| self.durations.get(&graph.name_number(job)).map_or(guess, |known| u64::from(*known));
        let rank = |(ms, fan_out): (u64, u32)| (u32::try_from(ms / 100).unwrap_or(u32::MAX), fan_out);
        graph.ranks(cost).into_iter().map(rank).collect()
    }

    /// Puts the work of all batches into order anew, since durations became known.
    pub(super) fn rank_anew(&mut self) {
        let live: Vec<BatchId> = self.batches.iter().filter(|(_, state)| state.is_live() && !state.done).map(|(id, _)| *id).collect();
        for id in &live {
            let Some(graph) = self.batches.get(id).and_then(|state| state.graph.clone()) else { continue };
            let ranks = self.ranks_of(&graph);
            if let Some(state) = self.batches.get_mut(id) {
                state.ranks = ranks;
            }
        }
        let actions: BTreeSet<Place> = live.iter().flat_map(|id| self.bound_in(id)).map(|(_, action)| action).collect();
        for action in actions {
            self.list_again(action);
        }
    }

    /// Looks again which of the batches of one line of work took another's place: of those with the submitter, the channel
    /// and the name of `id` the one that was issued last, once its graph is known. What is built already stays.
    fn refresh_superseded(&mut self, now: Timestamp, id: &BatchId) {
        let Some(of) = self.batches.get(id) else { return };
        let line = |state: &BatchState| {
            let author = NodeId(state.record.author_key());
            let (name, channel) = (state.batch().name.clone(), state.batch().channel.clone());
            (self.members.operator_of(&author), name, channel, state.batch().priority)
        };
        let this = line(of);
        if this.1.is_empty() {
            return;
        }
        let same: Vec<(bool, Timestamp, BatchId)> = (self.batches.iter())
            .filter(|(_, state)| line(state) == this)
            .map(|(id, state)| (state.is_live(), state.record.issued(), *id))
            .collect();
        let newest = same.iter().filter(|(live, ..)| *live).map(|(_, issued, id)| (*issued, *id)).max();
        let mut changed = Vec::new();
        for (_, issued, id) in same {
            let by = newest.filter(|newest| *newest > (issued, id)).map(|(_, id)| id);
            if let Some(state) = self.batches.get_mut(&id)
                && state.superseded_by != by
            {
                state.superseded_by = by;
                changed.push(id);
            }
        }
        for id in changed {
            let actions: BTreeSet<Place> = self.bound_in(&id).into_iter().map(|(_, action)| action).collect();
            for action in actions {
                self.look(now, action);
            }
        }
    }

    /// The jobs of a batch that stand for actions.
    fn bound_in(&self, id: &BatchId) -> Vec<(JobIndex, Place)> {
        let bindings = self.batches.get(id).map_or(&[][..], |state| &state.bindings);
        (0u32..).map(JobIndex).zip(bindings).filter_map(|(index, binding)| Some((index, binding.action()?))).collect()
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
        let actions: BTreeSet<Place> = state.bindings.iter().filter_map(|binding| binding.action()).collect();
        self.refresh_superseded(now, &id);
        self.start_batch(now, id);
        for action in actions {
            self.settle_anew(now, action);
        }
    }

    /// Members or grants changed: who may submit, vote and build may be others now.
    pub(super) fn standing_changed(&mut self, now: Timestamp) {
        self.presence_changed(now);
        let batches: Vec<BatchId> = self.batches.keys().copied().collect();
        for batch in batches {
            self.refresh_batch(now, batch);
        }
        for action in self.bound_actions() {
            self.settle_anew(now, action);
        }
    }

    pub(super) fn forget_batch(&mut self, now: Timestamp, id: BatchId) {
        for (index, action) in self.bound_in(&id) {
            self.unbind(now, id, index, action);
        }
        if let Some(state) = self.batches.remove(&id) {
            let superseded = self.batches.iter().find(|(_, other)| other.superseded_by == Some(id)).map(|(id, _)| *id);
            if let Some(other) = superseded.filter(|_| state.superseded_by.is_none()) {
                self.refresh_superseded(now, &other);
            }
        }
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
        let found = self.state(state.bindings.get(job.0 as usize)?.action()?)?.found(&policy_hash)?;
        found.usable(policy)
    }

    /// The action at a place, made anew from its graph; `None` while an input that it was bound to is in doubt.
    pub(super) fn action_at(&self, action: Place) -> Option<crate::action::Action> {
        let id = self.board.action_id(action);
        self.state(action)?.jobs.iter().find_map(|(batch, job)| {
            let graph = self.batches.get(batch)?.graph.as_ref()?;
            let (action, _) = graph.bind(*job, |need| self.usable(batch, need))?;
            (action.id() == id).then_some(action)
        })
    }

    /// Binds `jobs` and, where that changes anything, what depends on them.
    pub(super) fn rebind(&mut self, now: Timestamp, id: BatchId, jobs: VecDeque<JobIndex>) {
        let mut queue = jobs;
        let mut touched = BTreeSet::new();
        while let Some(index) = queue.pop_front() {
            let Some(state) = self.batches.get(&id).filter(|state| state.is_bindable()) else { return };
            let Some(graph) = state.graph.clone() else { return };
            let old = state.bindings[index.0 as usize];
            if self.bar(now, &id, index, &mut queue) {
                continue;
            }
            // While an input is in dispute, the binding that was made before stays: nothing better is known.
            let Some((action, label)) = graph.bind(index, |need| self.usable(&id, need)) else { continue };
            let action = action.id();
            if old.action().is_some_and(|old| self.board.action_id(old) == action) {
                continue;
            }
            let generation = old.generation + 1;
            if let Some(old) = old.action() {
                self.unbind(now, id, index, old);
            }
            self.event(Event::Bound { batch: id, job: label.clone(), action, generation });
            let place = self.bind(now, (id, index), action, label);
            if let Some(state) = self.batches.get_mut(&id) {
                state.bindings[index.0 as usize] = Binding { action: place, generation };
            }
            // Built before, for another batch or under an older binding: its dependants can bind at once. That is where
            // equal bytes of a rebuilt input cut the work off.
            if self.usable(&id, index).is_some() {
                queue.extend(graph.dependants(index));
            }
            touched.insert(place);
        }
        for action in touched {
            self.settle_anew(now, action);
        }
        // What was bound may have been built before, so that no verdict changes.
        self.tell_when_done(id);
    }

    /// Takes the binding of a job away below which something failed for good: who hears of the failure first never bound
    /// it, and all must come to the same. Returns whether that is so; `queue` gets what must be looked at again.
    fn bar(&mut self, now: Timestamp, id: &BatchId, index: JobIndex, queue: &mut VecDeque<JobIndex>) -> bool {
        let Some(state) = self.batches.get(id) else { return false };
        let Some(graph) = &state.graph else { return false };
        let policy = state.batch().policy;
        let failed = |need: JobIndex| {
            let action = state.bindings.get(need.0 as usize).and_then(|binding| binding.action());
            let found = action.and_then(|action| self.state(action)?.found(&policy));
            state.barred.contains(&need) || found.is_some_and(|found| found.state.is_failure())
        };
        // What a closure lays beside these stands below one of them, which is barred as well then.
        let barred = graph.needs(index).any(failed);
        if barred != state.barred.contains(&index) {
            queue.extend(graph.dependants(index));
        }
        let old = state.bindings.get(index.0 as usize).and_then(|binding| binding.action()).filter(|_| barred);
        if let Some(state) = self.batches.get_mut(id) {
            if barred {
                state.barred.insert(index)
            } else {
                state.barred.remove(&index)
            };
        }
        if let Some(old) = old {
            self.unbind(now, *id, index, old);
        }
        barred
    }

    fn bind(&mut self, now: Timestamp, job: (BatchId, JobIndex), action: crate::id::ActionId, label: String) -> Place {
        let place = self.board.hold(action);
        let is_new = self.state(place).is_none();
        if self.actions.len() <= place as usize {
            self.actions.resize_with(place as usize + 1, || None);
        }
        self.actions[place as usize].get_or_insert_with(|| Box::new(ActionState::new(label))).add_job(job);
        if is_new {
            // Who comes late hears of results before it knows what they are results of.
            let revealed = self.board.about(place).filter_map(|(_, record)| match record.payload() {
                Payload::Reveal(reveal) => Some(reveal.particulars.wall_ms),
                _ => None,
            });
            for wall_ms in revealed.collect::<Vec<u64>>() {
                self.learn_duration(now, place, wall_ms);
            }
        }
        place
    }

    fn unbind(&mut self, now: Timestamp, batch: BatchId, index: JobIndex, action: Place) {
        if let Some(state) = self.state_mut(action) {
            state.remove_job(&(batch, index));
        }
        if let Some(binding) = self.batches.get_mut(&batch).and_then(|state| state.bindings.get_mut(index.0 as usize)) {
            binding.action = NONE;
        }
        self.settle_anew(now, action);
    }

    /// Where a ready job stands in the order of work.
    pub(super) fn standing_of(&self, batch: &BatchId, job: JobIndex) -> Option<((Priority, OperatorId), Standing)> {
        let state = self.batches.get(batch).filter(|state| state.is_live())?;
        let author = state.record.author_key();
        let submitter = self.board.author(&author).and_then(|author| self.voice(author).operator);
        let rank = state.ranks.get(job.0 as usize).copied().unwrap_or_default();
        let standing = Standing { rank: std::cmp::Reverse(rank), issued: state.record.issued(), job };
        Some(((state.batch().priority, submitter.unwrap_or(OperatorId(author))), standing))
    }

    /// Keeps how long a build took, for the order of work: a moving average by recipe.
    pub(super) fn learn_duration(&mut self, now: Timestamp, action: Place, wall_ms: u64) {
        let Some((batch, job)) = self.state(action).and_then(|state| state.jobs.first().copied()) else { return };
        let Some(name) = self.batches.get(&batch).and_then(|of| Some(of.graph.as_ref()?.name_number(job))) else { return };
        let wall = u32::try_from(wall_ms).unwrap_or(u32::MAX);
        if let Some(known) = self.durations.get_mut(&name) {
            *known = *known / 4 * 3 + wall / 4;
        } else if self.durations.len() < DURATIONS_MAX {
            self.durations.insert(name, wall);
            // What changes by and by is left for when the next recipe becomes known.
            if !self.timers.contains_key(&Timer::Rank) {
                self.arm(Timer::Rank, now + RANK_INTERVAL);
            }
        }
    }

    /// The verdict of an action changed under some policy: its batches may be done.
    pub(super) fn verdict_changed(&mut self, action: Place) {
        let Some(state) = self.state(action) else { return };
        // Jobs are in the order of their batches, and mostly there is one.
        let mut batches: Vec<BatchId> = state.jobs.iter().map(|(batch, _)| *batch).collect();
        batches.dedup();
        for batch in batches {
            self.tell_when_done(batch);
        }
    }

    /// What others may use of an action changed under some policy: its dependants may bind.
    pub(super) fn output_changed(&mut self, now: Timestamp, action: Place) {
        let Some(jobs) = self.state(action).map(|state| state.jobs.clone()) else { return };
        let mut by_batch: BTreeMap<BatchId, VecDeque<JobIndex>> = BTreeMap::new();
        for (batch, job) in jobs {
            let queue = by_batch.entry(batch).or_default();
            if let Some(graph) = self.batches.get(&batch).and_then(|state| state.graph.as_ref()) {
                queue.extend(graph.dependants(job));
            }
        }
        for (batch, queue) in by_batch {
            self.rebind(now, batch, queue);
        }
    }

    pub(super) fn tell_when_done(&mut self, id: BatchId) {
        let Some(state) = self.batches.get(&id).filter(|state| !state.done) else { return };
        // Jobs settle about in their order, so that one look at the first open one mostly says enough.
        let policy = state.batch().policy;
        let found = |binding: &Binding| self.state(binding.action()?)?.found(&policy);
        let verified = |binding: &&Binding| found(binding).is_some_and(|found| found.state == VerdictState::CrossVerified);
        let open = state.open + state.bindings.iter().skip(state.open).take_while(verified).count();
        let waits = state.bindings.get(open).and_then(found).is_some_and(|found| !found.state.is_final());
        let result = if waits { None } else { self.batch_result(&id) };
        let Some(state) = self.batches.get_mut(&id) else { return };
        state.open = open;
        if let Some(ok) = result {
            state.done = true;
            self.event(Event::BatchDone { batch: id, ok });
        }
    }

    /// Whether all jobs of a batch are settled, and if so, whether all succeeded. A job whose input failed is settled.
    pub fn batch_result(&self, id: &BatchId) -> Option<bool> {
        let state = self.batches.get(id)?;
        let graph = state.graph.as_ref()?;
        let policy = state.batch().policy;
        let mut failed = vec![false; graph.len()];
        for (index, binding) in graph.indexes().zip(&state.bindings) {
            failed[index.0 as usize] = graph.needs(index).any(|need| failed[need.0 as usize]) || {
                let action = binding.action()?;
                let found = self.state(action)?.found(&policy).filter(|found| found.state.is_final())?;
                if found.soft && self.awaits_larger(action) {
                    return None;
                }
                found.state.is_failure()
            };
        }
        Some(!failed.contains(&true))
    }
}
