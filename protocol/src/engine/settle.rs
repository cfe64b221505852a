//! Actions: who builds their slots, what was attested, and what the verdict is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thin_vec::ThinVec;

use crate::blame::{ATTEMPT_STRIDE, ATTEMPTS_MAX, attempt_of, is_larger, rule};
use crate::graph::{JobFacts, JobIndex, Limits, Packed};
use crate::id::{ActionId, BatchId, BlobHash, NodeId, OperatorId};
use crate::outcome::Outcome;
use crate::policy::Policy;
use crate::record::payload::SlotNo;
use crate::record::{Payload, SharedRecord};
use crate::table::Place;
use crate::time::Timestamp;
use crate::verdict::ballot::{are_many, is_soft, lacks_room, lost_in_silence, outweighs};
use crate::verdict::words::{Speaker, Words};
use crate::verdict::{Attestation, Branch, Verdict, VerdictState, verdict};

use super::Engine;
use super::io::Event;
use super::lease::SlotState;
use super::voices::Voice;

/// What is kept of a verdict; the rest is computed anew when somebody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// How far it goes.
    pub state: VerdictState,
    /// The manifest of the outputs that stand.
    pub tree: Option<BlobHash>,
    /// Whether it failed for lack of memory, disk or time only, and no larger machine has tried it yet.
    pub soft: bool,
    /// Of the whole verdict, to notice that it changed.
    digest: u64,
}

impl Found {
    /// The output that dependants may use under `policy`.
    pub fn usable(&self, policy: &Policy) -> Option<BlobHash> {
        self.tree.filter(|_| self.state.is_usable(policy))
    }

    fn of(verdict: &Verdict, larger_tried: bool) -> Self {
        let digest = *blake3::hash(&crate::codec::encode(verdict)).as_bytes();
        Self {
            state: verdict.state,
            tree: verdict.outcome.as_ref().and_then(Outcome::tree),
            soft: verdict.state == VerdictState::Failed && !larger_tried && verdict.outcome.as_ref().is_some_and(lacks_room),
            digest: u64::from_le_bytes(std::array::from_fn(|byte| digest[byte])),
        }
    }
}

/// What became of the verdicts of an action.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changed {
    Nothing,
    /// A verdict, but nothing that dependants can see.
    Verdict,
    /// What dependants may use, or whether they have anything to wait for.
    Output,
}

/// A result that was revealed rightly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attested {
    /// Who said it.
    pub author: Place,
    /// The slot of its lease.
    pub slot: SlotNo,
    /// The epoch of its lease.
    pub epoch: u32,
    /// Whether it says something of the job: [`Attestation::counts`], and it was not set aside as one of a machine that is
    /// too small.
    pub counts: bool,
    /// Whether there was an output.
    pub success: bool,
    /// Whether the machine spoilt it.
    pub spoilt: bool,
    /// Whether memory, disk or time were lacking.
    pub lacked_room: bool,
    /// Whether it speaks against the machine where others succeed.
    pub blames: bool,
}

/// What is known of an action that a job stands for. Thousands are live, so lists are short vectors here, and those that
/// are empty once it is settled take no more than a pointer.
#[derive(Debug)]
pub(super) struct ActionState {
    /// How people call it, after the first job that was bound to it.
    pub label: Box<str>,
    /// The jobs that stand for it now, in order.
    pub jobs: Vec<(BatchId, JobIndex)>,
    /// Policy → what was found under it.
    pub verdicts: Vec<(BlobHash, Found)>,
    /// The slots that are offered, and those of earlier attempts that are still held, in order. Empty once nothing can
    /// change any more: [`Engine::slots_of`].
    pub slots: ThinVec<(SlotNo, SlotState)>,
    /// Slot → since when this node sees it open.
    pub open_since: ThinVec<(SlotNo, Timestamp)>,
    /// What was revealed rightly, as long as anything can change.
    pub attested: ThinVec<Attested>,
    /// Branches whose next commitment in the newest attempt would be no vote: they have committed, and others' results are
    /// open.
    pub spent: ThinVec<Branch>,
    /// When it is looked at again.
    pub wake: Option<Timestamp>,
    /// Whether the verdict must be computed anew.
    pub stale: bool,
    /// Whether so many fell silent over it that nobody else gets it.
    pub silenced: bool,
}

impl ActionState {
    pub fn new(label: String) -> Self {
        Self {
            label: label.into(),
            jobs: Vec::new(),
            verdicts: Vec::new(),
            slots: ThinVec::new(),
            open_since: ThinVec::new(),
            attested: ThinVec::new(),
            spent: ThinVec::new(),
            wake: None,
            stale: true,
            silenced: false,
        }
    }

    /// What was found under a policy.
    pub fn found(&self, policy: &BlobHash) -> Option<Found> {
        self.verdicts.iter().find(|(hash, _)| hash == policy).map(|(_, found)| *found)
    }

    /// The state of a slot that is offered.
    pub fn slot(&self, slot: SlotNo) -> Option<&SlotState> {
        self.slots.iter().find(|(no, _)| *no == slot).map(|(_, state)| state)
    }

    /// The verdict of the evidence, unless too few say anything and too many fell silent.
    pub fn judge(&self, verdict: Verdict) -> Verdict {
        if self.silenced && matches!(verdict.state, VerdictState::Unattested | VerdictState::Candidate) {
            let (agreeing, differing) = (BTreeSet::new(), BTreeMap::new());
            return Verdict { state: VerdictState::Failed, outcome: Some(lost_in_silence()), agreeing, differing, ..verdict };
        }
        verdict
    }

    /// A job stands for it now.
    pub fn add_job(&mut self, job: (BatchId, JobIndex)) {
        if let Err(at) = self.jobs.binary_search(&job) {
            // Mostly there is one, and it stays one.
            self.jobs.reserve_exact(1);
            self.jobs.insert(at, job);
        }
    }

    /// A job stands for another action now.
    pub fn remove_job(&mut self, job: &(BatchId, JobIndex)) {
        self.jobs.retain(|other| other != job);
    }
}

/// The policies under which an action is judged.
fn policies_of<'a>(engine: &'a Engine, state: &'a ActionState) -> impl Iterator<Item = &'a Arc<Policy>> {
    state.jobs.iter().filter_map(|(batch, _)| engine.policy_of(batch))
}

/// What live batches ask of an action, taken together.
pub(super) struct Demand {
    /// The policies that they pin.
    pub policies: Vec<(BlobHash, Arc<Policy>)>,
    /// The lowest batch: its claims win, its nonce draws.
    pub batch: BatchId,
    /// The greatest limits of the jobs.
    pub limits: Limits,
    /// Whether all of the batches are superseded: what was begun is ended, nothing is begun.
    pub superseded: bool,
    /// One of the jobs; all are the same action.
    job: (Arc<Packed>, JobIndex),
}

impl Demand {
    /// The most slots that any policy asks for.
    pub fn slots(&self) -> u16 {
        self.policies.iter().map(|(_, policy)| policy.slots).max().unwrap_or(0)
    }
    /// How many commitments open the outputs: the most that any policy wants.
    pub fn quorum(&self) -> usize {
        usize::from(self.policies.iter().map(|(_, policy)| policy.quorum).max().unwrap_or(1))
    }
    /// Whether somebody's result would count under any of the policies.
    pub fn admits(&self, voice: &Voice) -> bool {
        self.policies.iter().any(|(_, policy)| voice.may_vote(policy))
    }
    /// What decides where it can be built.
    pub fn facts(&self) -> Option<&JobFacts> {
        self.job.0.facts(self.job.1)
    }
}

impl Engine {
    /// What is known of the action at a place, if a job stands for it.
    pub(super) fn state(&self, action: Place) -> Option<&ActionState> {
        self.actions.get(action as usize)?.as_deref()
    }

    pub(super) fn state_mut(&mut self, action: Place) -> Option<&mut ActionState> {
        self.actions.get_mut(action as usize)?.as_deref_mut()
    }

    /// What is known of an action, if a job stands for it.
    pub(super) fn state_of(&self, action: &ActionId) -> Option<&ActionState> {
        self.state(self.board.action(action)?)
    }

    /// The places of all actions that jobs stand for.
    pub(super) fn bound_actions(&self) -> Vec<Place> {
        (0..).zip(&self.actions).filter(|(_, state)| state.is_some()).map(|(place, _)| place).collect()
    }

    /// [`Engine::settle`], with new evidence.
    pub(super) fn settle_anew(&mut self, now: Timestamp, action: Place) {
        if let Some(state) = self.state_mut(action) {
            state.stale = true;
            self.settle(now, action);
        }
    }

    /// [`Engine::settle_anew`], by the action's name.
    pub(super) fn settle_named(&mut self, now: Timestamp, action: &ActionId) {
        if let Some(place) = self.board.action(action) {
            self.settle_anew(now, place);
        }
    }

    /// Computes an action anew from what is known, and does what follows. Settling one action can change others; they
    /// are worked off in turn and not by recursion, since graphs are deep.
    pub(super) fn settle(&mut self, now: Timestamp, action: Place) {
        if self.state(action).is_none() {
            return;
        }
        self.unsettled.insert(action);
        if self.settling {
            return;
        }
        self.settling = true;
        while let Some(next) = self.unsettled.pop_first() {
            self.settle_one(now, next);
        }
        self.settling = false;
    }

    fn settle_one(&mut self, now: Timestamp, action: Place) {
        let Some(state) = self.state_mut(action) else { return };
        let changed = if std::mem::take(&mut state.stale) { self.update_verdicts(action) } else { Changed::Nothing };
        if changed != Changed::Nothing {
            self.judge_own(now, action);
        }
        self.look(now, action);
        if changed == Changed::Output {
            self.output_changed(now, action);
        }
        if changed != Changed::Nothing {
            self.verdict_changed(action);
        }
        // No job stands for it any more; its records stay on the board, in case one does again.
        if self.state(action).is_some_and(|state| state.jobs.is_empty()) {
            self.wake_at(action, None);
            self.queue.remove(action);
            self.actions[action as usize] = None;
            self.board.release(action);
        }
    }

    /// Looks at the slots of an action, without new evidence, and does what follows.
    pub(super) fn look(&mut self, now: Timestamp, action: Place) {
        if self.state(action).is_none() {
            return;
        }
        let demand = self.demand(action);
        self.update_slots(now, action, demand.as_ref());
        if self.state(action).is_some_and(|state| state.stale) {
            // Who fell silent or spoke again changes the verdict.
            return self.settle(now, action);
        }
        self.list_ready(action, demand.as_ref());
        self.mind_own(now, action, demand.as_ref());
        self.consider(now, action);
    }

    /// [`Engine::look`], by the action's name.
    pub(super) fn look_again(&mut self, now: Timestamp, action: &ActionId) {
        if let Some(place) = self.board.action(action) {
            self.look(now, place);
        }
    }

    /// Puts an action that has an open slot where it belongs in the order of work.
    pub(super) fn list_again(&mut self, action: Place) {
        if self.state(action).is_some_and(|state| state.slots.iter().any(|(_, slot)| matches!(slot, SlotState::Open { .. }))) {
            let demand = self.demand(action);
            self.list_ready(action, demand.as_ref());
        }
    }

    /// Keeps the queue to actions that have an open slot.
    fn list_ready(&mut self, action: Place, demand: Option<&Demand>) {
        let Some(state) = self.state(action) else { return };
        let open = state.slots.iter().any(|(_, slot)| matches!(slot, SlotState::Open { .. }));
        if !open || demand.is_none() {
            return self.queue.remove(action);
        }
        // Of several batches the most urgent counts, then the one in which it is most in the way.
        let standings = state.jobs.iter().filter_map(|(batch, job)| self.standing_of(batch, *job));
        if let Some((line, standing)) = standings.min_by_key(|((priority, _), standing)| (*priority, *standing)) {
            self.queue.insert(action, line, standing);
        }
    }

    /// What live batches ask of the action; `None` where none does.
    pub(super) fn demand(&self, action: Place) -> Option<Demand> {
        let state = self.state(action)?;
        let mut demand: Option<Demand> = None;
        for (batch, index) in &state.jobs {
            let Some(of) = self.batches.get(batch).filter(|of| of.is_live()) else { continue };
            let (Some(policy), Some(graph)) = (self.policies.get(&of.batch().policy), &of.graph) else { continue };
            let Some(facts) = graph.facts(*index) else { continue };
            let hash = of.batch().policy;
            let superseded = of.superseded_by.is_some();
            let demand = demand.get_or_insert_with(|| Demand {
                policies: Vec::new(),
                batch: *batch,
                limits: facts.limits.clone(),
                superseded,
                job: (graph.clone(), *index),
            });
            if !demand.policies.iter().any(|(other, _)| *other == hash) {
                demand.policies.push((hash, policy.clone()));
            }
            demand.superseded &= superseded;
            demand.limits.memory = demand.limits.memory.max(facts.limits.memory);
            demand.limits.disk = demand.limits.disk.max(facts.limits.disk);
            demand.limits.wall = demand.limits.wall.max(facts.limits.wall);
            demand.limits.silent = demand.limits.silent.max(facts.limits.silent);
        }
        demand
    }

    /// The first slot of the newest attempt: every Retry begins one.
    pub fn attempt_first_slot(&self, action: &ActionId) -> u16 {
        if !self.board.has_retries() {
            return 0;
        }
        // A Retry counts if its author could have submitted the batch that it names.
        let attempts = self.board.retries(action).filter(|record| {
            let Payload::Retry(retry) = record.payload() else { return false };
            let Some(batch) = self.batches.get(&retry.batch) else { return false };
            // Not whoever wrote the batch: anybody can write one, and name in a Retry whatever actions there are.
            let operator = self.members.operator_of(&NodeId(record.author_key()));
            operator.is_some_and(|operator| self.params.grants.may_submit(&operator, &batch.batch().channel))
        });
        u16::try_from(attempts.count()).unwrap_or(ATTEMPTS_MAX).min(ATTEMPTS_MAX) * ATTEMPT_STRIDE
    }

    /// All reveals of an action whose commitment is known and fits, by operators that are known.
    pub fn attestations(&self, action: &ActionId) -> Vec<Attestation> {
        let Some(place) = self.board.action(action) else { return Vec::new() };
        let mut attestations: Vec<Attestation> = self.words(place).opened.into_iter().map(|(_, attestation)| attestation).collect();
        attestations.sort();
        attestations
    }

    /// What was said and opened of an action.
    fn words(&self, action: Place) -> Words {
        let speaker = |node: &NodeId| {
            let Voice { operator, branch, trusted } = self.voice(self.board.author(&node.0)?);
            let operator = operator?;
            Some(Speaker { operator, branch: branch.unwrap_or(operator), counts: branch.is_some() || trusted })
        };
        // All that is said of an action stands in one list, which is short but for a flood.
        let about: Vec<&SharedRecord> = self.board.about(action).map(|(_, record)| record).collect();
        Words::of(about.iter().copied(), speaker)
    }

    fn update_verdicts(&mut self, action: Place) -> Changed {
        let Words { opened: revealed, spent } = self.words(action);
        let revealed: Vec<(Place, Attestation)> =
            revealed.into_iter().filter_map(|(node, attestation)| Some((self.board.author(&node.0)?, attestation))).collect();
        let Some(state) = self.state(action) else { return Changed::Nothing };
        // Cancelled batches keep their verdicts: they were true, and people look at them.
        let mut policies: Vec<BlobHash> = state.verdicts.iter().map(|(policy, _)| *policy).collect();
        for (batch, _) in &state.jobs {
            if let Some(of) = self.batches.get(batch)
                && !policies.contains(&of.batch().policy)
            {
                policies.push(of.batch().policy);
            }
        }
        let first_slot = self.attempt_first_slot(&self.board.action_id(action));
        let attestations = revealed.iter().map(|(_, attestation)| attestation);
        let of_attempt = |attestation: &Attestation| attempt_of(attestation.lease.slot) >= first_slot;
        let larger_tried = (revealed.iter()).any(|(_, said)| is_larger(said.lease.slot) && of_attempt(said) && said.counts() && !said.void);
        let (mut changes, mut output) = (Vec::new(), false);
        for hash in policies {
            let Some(policy) = self.policies.get(&hash) else { continue };
            let before = state.found(&hash);
            // The usual case of an action that nobody has built is not worth a computation.
            if revealed.is_empty() && !state.silenced && before.is_some_and(|found| found.state == VerdictState::Unattested) {
                continue;
            }
            let verdict = state.judge(verdict(attestations.clone(), first_slot, &self.members, policy));
            let found = Found::of(&verdict, larger_tried);
            if before != Some(found) {
                output |= before.and_then(|before| before.usable(policy)) != found.usable(policy)
                    || before.is_some_and(|before| before.state.is_failure()) != found.state.is_failure();
                changes.push((hash, found, verdict));
            }
        }
        // Beside a word that says more, those of machines that are too small are none.
        let firm = revealed.iter().any(|(author, attestation)| {
            let of_voter = policies_of(self, state).any(|policy| self.voice(*author).may_vote(policy));
            let stands = of_attempt(attestation) || attestation.outcome.tree().is_some();
            let counts = attestation.counts() && !attestation.void;
            counts && !attestation.lease.slot.is_arbiter() && outweighs(attestation) && stands && of_voter
        });
        let small = |policy: &Arc<Policy>| {
            let said = revealed.iter().filter(|(_, said)| is_soft(said) && of_attempt(said) && !said.void);
            let voices = said.map(|(author, _)| self.voice(*author)).filter(|voice| voice.may_vote(policy));
            voices.filter_map(|voice| voice.branch.or(voice.operator)).collect::<BTreeSet<Branch>>().len()
        };
        let firm = firm && !policies_of(self, state).any(|policy| are_many(small(policy), policy));
        let attested = revealed.iter().map(|(author, attestation)| Attested {
            author: *author,
            slot: attestation.lease.slot,
            epoch: attestation.lease.epoch,
            counts: attestation.counts()
                && !attestation.void
                && !(firm && is_soft(attestation))
                && self.members.may_attest(&attestation.operator, attestation.revealed),
            success: attestation.outcome.tree().is_some(),
            spoilt: !attestation.outcome.is_vote(),
            lacked_room: lacks_room(&attestation.outcome),
            blames: matches!(attestation.outcome, Outcome::Failure { class, .. } if rule(class).builder),
        });
        let attested: ThinVec<Attested> = attested.collect();
        let changed = match (changes.is_empty(), output) {
            (true, _) => Changed::Nothing,
            (false, false) => Changed::Verdict,
            (false, true) => Changed::Output,
        };
        let id = self.board.action_id(action);
        if let Some(state) = self.state_mut(action) {
            state.attested = attested;
            // It stays as long as the action does, so it has no room to spare.
            state.spent = ThinVec::with_capacity(spent.len());
            state.spent.extend(spent.into_iter().filter(|(attempt, _)| *attempt == first_slot).map(|(_, branch)| branch));
        }
        for (hash, found, verdict) in changes {
            let Some(state) = self.state_mut(action) else { continue };
            match state.verdicts.iter_mut().find(|(policy, _)| *policy == hash) {
                Some((_, before)) => *before = found,
                None => {
                    state.verdicts.reserve_exact(1);
                    state.verdicts.push((hash, found));
                }
            }
            if verdict.state != VerdictState::Unattested {
                let label = state.label.to_string();
                self.event(Event::Verdict { action: id, label, verdict });
            }
        }
        changed
    }

    /// The operator's branch; the uninvited are told apart here, since policies that admit them come with seals.
    pub(super) fn branch(&self, operator: &OperatorId) -> Branch {
        crate::verdict::Standing::branch(&self.members, operator).unwrap_or(*operator)
    }
}
