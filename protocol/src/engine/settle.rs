//! Actions: who builds their slots, what was attested, and what the verdict is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::graph::{JobFacts, JobIndex, Limits, Packed};
use crate::id::{ActionId, BatchId, BlobHash, NodeId, OperatorId};
use crate::policy::Policy;
use crate::record::payload::{Claim, Commitment, LeaseRef, SlotNo};
use crate::record::{Payload, SharedRecord};
use crate::table::Place;
use crate::time::Timestamp;
use crate::verdict::{Attestation, Branch, Verdict, VerdictState, verdict};

use super::Engine;
use super::io::{Event, Timer};
use super::lease::{ClaimView, SlotState, Tenure, draw, resolve};
use super::voices::Voice;

/// The most slots that one attempt may grow to as builds are wasted.
const ATTEMPT_SLOTS_MAX: u16 = 64;
/// Slots of the next attempt begin so much higher; a Retry begins an attempt.
const ATTEMPT_STRIDE: u16 = 256;
/// The most attempts: their slots must stay below [`SlotNo::ARBITER`].
const ATTEMPTS_MAX: u16 = 200;
/// The most builds to settle one dispute (a build lost to the machine is done again).
const ARBITER_SLOTS_MAX: u16 = 8;

/// What is kept of a verdict; the rest is computed anew when somebody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// How far it goes.
    pub state: VerdictState,
    /// The manifest of the outputs that stand.
    pub tree: Option<BlobHash>,
    /// Of the whole verdict, to notice that it changed.
    digest: u64,
}

impl Found {
    /// The output that dependants may use under `policy`.
    pub fn usable(&self, policy: &Policy) -> Option<BlobHash> {
        self.tree.filter(|_| self.state.is_usable(policy))
    }

    fn of(verdict: &Verdict) -> Self {
        let digest = *blake3::hash(&crate::codec::encode(verdict)).as_bytes();
        Self {
            state: verdict.state,
            tree: verdict.outcome.as_ref().and_then(crate::outcome::Outcome::tree),
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
    /// What dependants may use.
    Output,
}

/// A result that was revealed rightly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attested {
    author: Place,
    slot: SlotNo,
    epoch: u32,
    /// [`Attestation::counts`].
    counts: bool,
}

/// What is known of an action that a job stands for. Thousands are live, so lists are short vectors here.
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
    pub slots: Vec<(SlotNo, SlotState)>,
    /// Slot → since when this node sees it open.
    pub open_since: Vec<(SlotNo, Timestamp)>,
    attested: Vec<Attested>,
    /// When it is looked at again.
    wake: Option<Timestamp>,
    /// Whether the verdict must be computed anew.
    pub stale: bool,
}

impl ActionState {
    pub fn new(label: String) -> Self {
        Self {
            label: label.into(),
            jobs: Vec::new(),
            verdicts: Vec::new(),
            slots: Vec::new(),
            open_since: Vec::new(),
            attested: Vec::new(),
            wake: None,
            stale: true,
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
    fn slots(&self) -> u16 {
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

/// What was said of an action by those who are known, each with the place of who said it.
#[derive(Default)]
struct Heard<'a> {
    claims: Vec<(Place, &'a SharedRecord, &'a Claim)>,
    commitments: Vec<(Place, &'a SharedRecord, &'a Commitment)>,
}

/// The slots of an action, and when they will be others if nothing is said.
struct Slots {
    slots: Vec<(SlotNo, SlotState)>,
    until: Option<Timestamp>,
    /// Whether nothing that can still be said changes them, but a retry or another standing of members.
    settled: bool,
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
            let by = NodeId(record.author_key());
            let operator = self.members.operator_of(&by);
            by.0 == batch.record.author_key()
                || operator.is_some_and(|operator| self.params.grants.may_submit(&operator, &batch.batch().channel))
        });
        u16::try_from(attempts.count()).unwrap_or(ATTEMPTS_MAX).min(ATTEMPTS_MAX) * ATTEMPT_STRIDE
    }

    fn heard(&self, action: Place) -> Heard<'_> {
        let mut heard = Heard::default();
        for (author, record) in self.board.about(action) {
            match record.payload() {
                Payload::Claim(claim) => heard.claims.push((author, record, claim)),
                Payload::Commitment(commitment) => heard.commitments.push((author, record, commitment)),
                _ => {}
            }
        }
        heard
    }

    /// All reveals of an action whose commitment is known and fits, by operators that are known.
    pub fn attestations(&self, action: &ActionId) -> Vec<Attestation> {
        let Some(place) = self.board.action(action) else { return Vec::new() };
        let mut attestations: Vec<Attestation> = self.revealed(place).into_iter().map(|(_, attestation)| attestation).collect();
        attestations.sort();
        attestations
    }

    fn revealed(&self, action: Place) -> Vec<(Place, Attestation)> {
        let mut revealed = Vec::new();
        for (author, record) in self.board.about(action) {
            let Payload::Reveal(reveal) = record.payload() else { continue };
            let Some(operator) = self.voice(author).operator else { continue };
            let mut said = self.board.about(action).filter(|(other, _)| *other == author);
            let opened = std::cell::OnceCell::new();
            let fits = said.any(|(_, other)| {
                matches!(other.payload(), Payload::Commitment(commitment)
                    if commitment.lease == reveal.lease && commitment.commitment == *opened.get_or_init(|| reveal.opens(&operator)))
            });
            if fits {
                revealed.push((author, Attestation::of(operator, reveal)));
            }
        }
        revealed
    }

    fn update_verdicts(&mut self, action: Place) -> Changed {
        let revealed = self.revealed(action);
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
        let (mut changes, mut output) = (Vec::new(), false);
        for hash in policies {
            let Some(policy) = self.policies.get(&hash) else { continue };
            let before = state.found(&hash);
            // The usual case of an action that nobody has built is not worth a computation.
            if revealed.is_empty() && before.is_some_and(|found| found.state == VerdictState::Unattested) {
                continue;
            }
            let verdict = verdict(attestations.clone(), first_slot, &self.members, policy);
            let found = Found::of(&verdict);
            if before != Some(found) {
                output |= before.and_then(|before| before.usable(policy)) != found.usable(policy);
                changes.push((hash, found, verdict));
            }
        }
        let attested = revealed.iter().map(|(author, attestation)| Attested {
            author: *author,
            slot: attestation.lease.slot,
            epoch: attestation.lease.epoch,
            counts: attestation.counts(),
        });
        let attested: Vec<Attested> = attested.collect();
        let changed = match (changes.is_empty(), output) {
            (true, _) => Changed::Nothing,
            (false, false) => Changed::Verdict,
            (false, true) => Changed::Output,
        };
        let id = self.board.action_id(action);
        if let Some(state) = self.state_mut(action) {
            state.attested = attested;
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

    /// Claims on a slot as [`resolve`] wants them: by operators that may hold it, for batches that ask for the action.
    /// The lowest batch wins, and anybody can write a Batch with a low id.
    fn claim_views(&self, action: Place, slot: SlotNo, demand: &Demand, taken: &[Branch], heard: &Heard<'_>) -> Vec<ClaimView> {
        let Some(state) = self.state(action) else { return Vec::new() };
        let views = heard.claims.iter().filter(|(_, _, claim)| claim.lease.slot == slot).filter_map(|(author, record, claim)| {
            let voice = self.voice(*author);
            let operator = voice.operator?;
            let of_batch = state.jobs.partition_point(|job| *job < (claim.batch, JobIndex(0)));
            state.jobs.get(of_batch).filter(|(batch, _)| *batch == claim.batch)?;
            let admitted = if slot.is_arbiter() { voice.trusted } else { demand.admits(&voice) };
            let branch = voice.branch.unwrap_or(operator);
            let committed = heard.commitments.iter().find(|(by, _, commitment)| by == author && commitment.lease == claim.lease);
            (admitted && !taken.contains(&branch)).then(|| ClaimView {
                epoch: claim.lease.epoch,
                batch: claim.batch,
                draw: [0; 32],
                record: record.id(),
                node: NodeId(record.author_key()),
                operator,
                issued: record.issued(),
                renewed: self.board.renewed_by(*author, &claim.lease),
                handed_back: self.board.handed_back_by(*author, &claim.lease),
                committed: committed.map(|(_, record, _)| record.issued()),
            })
        });
        let mut views: Vec<ClaimView> = views.collect();
        // Only where there is somebody to win against.
        if views.len() > 1 {
            let id = self.board.action_id(action);
            for view in &mut views {
                if let Some(of) = self.batches.get(&view.batch) {
                    view.draw = draw(&of.batch().nonce, &id, slot, &view.operator);
                }
            }
        }
        views
    }

    /// The operator's branch; the uninvited are told apart here, since policies that admit them come with seals.
    pub(super) fn branch(&self, operator: &OperatorId) -> Branch {
        crate::verdict::Standing::branch(&self.members, operator).unwrap_or(*operator)
    }

    fn update_slots(&mut self, now: Timestamp, action: Place, demand: Option<&Demand>) {
        let Some(demand) = demand else {
            if let Some(state) = self.state_mut(action) {
                state.slots = Vec::new();
                state.open_since = Vec::new();
            }
            return self.wake_at(action, None);
        };
        let computed = self.slots_at(now, action, demand);
        let avoid = self.desk.avoided(&self.board.action_id(action)).filter(|until| *until > now);
        let until = computed.until.into_iter().chain(avoid).min();
        let Some(state) = self.state_mut(action) else { return };
        if computed.settled {
            state.attested = Vec::new();
            state.slots = Vec::new();
            state.open_since = Vec::new();
        } else {
            state
                .open_since
                .retain(|(slot, _)| computed.slots.iter().any(|(no, state)| no == slot && matches!(state, SlotState::Open { .. })));
            for (slot, slot_state) in &computed.slots {
                if let SlotState::Open { since, .. } = slot_state
                    && !state.open_since.iter().any(|(no, _)| no == slot)
                {
                    state.open_since.push((*slot, since.unwrap_or(now).min(now)));
                }
            }
            state.slots = computed.slots;
        }
        self.wake_at(action, until.map(|until| until.max(now + Duration::from_millis(1))));
    }

    /// The slots of an action, as this node sees them.
    pub(super) fn slots_of(&self, action: Place) -> Vec<(SlotNo, SlotState)> {
        let Some(state) = self.state(action) else { return Vec::new() };
        if !state.slots.is_empty() {
            return state.slots.clone();
        }
        // What is settled does not depend on the time any more, so that any will do.
        let demand = self.demand(action).filter(|demand| self.is_final(state, demand));
        demand.map_or_else(Vec::new, |demand| self.slots_at(Timestamp::MAX, action, &demand).slots)
    }

    fn is_final(&self, state: &ActionState, demand: &Demand) -> bool {
        demand.policies.iter().all(|(hash, _)| state.found(hash).is_some_and(|found| found.state.is_final()))
    }

    fn slots_at(&self, now: Timestamp, action: Place, demand: &Demand) -> Slots {
        let mut slots: Vec<(SlotNo, SlotState)> = Vec::new();
        let Some(state) = self.state(action) else { return Slots { slots, until: None, settled: true } };
        let ttl = self.params.lease_ttl;
        let first = self.attempt_first_slot(&self.board.action_id(action));
        let heard = self.heard(action);
        let settled = self.is_final(state, demand);
        let disputed =
            state.verdicts.iter().any(|(_, found)| matches!(found.state, VerdictState::Disputed | VerdictState::PlatformDependent));
        let mut until: Option<Timestamp> = None;
        let mut earlier = |at: Timestamp| until = Some(until.map_or(at, |until: Timestamp| until.min(at)));
        let mut taken: Vec<Branch> = Vec::new();
        let mut wanted = demand.slots();
        let mut index = 0;
        while index < wanted {
            let slot = SlotNo(first + index);
            let slot_state = resolve(self.claim_views(action, slot, demand, &taken, &heard), now, ttl);
            let wasted = match &slot_state {
                SlotState::Closed(tenure) => self.is_wasted(now, state, slot, tenure, demand, &heard, &mut earlier),
                _ => false,
            };
            if wasted {
                wanted = wanted.saturating_add(1).min(ATTEMPT_SLOTS_MAX);
            } else if let Some(tenure) = slot_state.tenure() {
                taken.push(self.branch(&tenure.operator));
            }
            // Once the verdict is final, only who builds already may go on; so it is where a newer batch took its place.
            if !((settled || demand.superseded) && matches!(slot_state, SlotState::Open { .. })) {
                slots.push((slot, slot_state));
            }
            index += 1;
        }
        if disputed {
            // Not those of other arbiters: what they wasted is their slot, and another one is offered for it.
            let voters = state.attested.iter().filter(|attested| !attested.slot.is_arbiter());
            let attested: Vec<Branch> =
                voters.filter_map(|attested| self.voice(attested.author).operator).map(|operator| self.branch(&operator)).collect();
            for index in 0..ARBITER_SLOTS_MAX {
                let slot = SlotNo(SlotNo::ARBITER.0 + index);
                let slot_state = resolve(self.claim_views(action, slot, demand, &attested, &heard), now, ttl);
                let wasted = match &slot_state {
                    SlotState::Closed(tenure) => self.is_wasted(now, state, slot, tenure, demand, &heard, &mut earlier),
                    _ => false,
                };
                slots.push((slot, slot_state));
                if !wasted {
                    break;
                }
            }
        }
        for (_, state) in &slots {
            if let SlotState::Held(tenure) = state {
                earlier(tenure.until);
            }
        }
        let settled = settled && slots.iter().all(|(_, state)| matches!(state, SlotState::Closed(_)));
        Slots { slots, until, settled }
    }

    /// Whether a closed slot gives no vote, so that another must be offered: the builder's machine failed, or the
    /// result is withheld though enough have committed to open it.
    fn is_wasted(
        &self,
        now: Timestamp,
        state: &ActionState,
        slot: SlotNo,
        tenure: &Tenure,
        demand: &Demand,
        heard: &Heard<'_>,
        look_again: &mut impl FnMut(Timestamp),
    ) -> bool {
        // What others say under this slot's number is an extra word and not the slot's.
        let said = state.attested.iter().find(|attested| {
            attested.slot == slot && attested.epoch == tenure.epoch && self.voice(attested.author).operator == Some(tenure.operator)
        });
        match said {
            Some(attested) => !attested.counts,
            None => {
                let open = slot.is_arbiter() || self.committed(demand, heard).len() >= demand.quorum();
                let withheld = tenure.until + self.params.lease_ttl * 2;
                if open && withheld > now {
                    look_again(withheld);
                }
                open && withheld <= now
            }
        }
    }

    /// The branches that committed to a result in the newest attempt. Those without a vote don't count: anybody could
    /// otherwise open what others have built, by saying that it has built something too.
    pub(super) fn committers(&self, action: Place, demand: &Demand) -> BTreeSet<Branch> {
        self.committed(demand, &self.heard(action))
    }

    fn committed(&self, demand: &Demand, heard: &Heard<'_>) -> BTreeSet<Branch> {
        let mut branches = BTreeSet::new();
        for (author, _, commitment) in &heard.commitments {
            let voice = self.voice(*author);
            let LeaseRef { action, slot, .. } = commitment.lease;
            if slot.is_arbiter() || !demand.admits(&voice) || slot.0 < self.attempt_first_slot(&action) {
                continue;
            }
            branches.extend(voice.operator.map(|operator| voice.branch.unwrap_or(operator)));
        }
        branches
    }

    /// Arms the action's timer, or disarms it. One that is armed for an earlier moment stays: looking once too often is
    /// cheaper than moving it with every sign of life.
    fn wake_at(&mut self, action: Place, at: Option<Timestamp>) {
        let Some(state) = self.state_mut(action) else { return };
        let before = state.wake;
        if before.is_some() && at.is_some_and(|at| before.is_some_and(|before| before <= at)) {
            return;
        }
        state.wake = at;
        if let Some(before) = before {
            self.timeline.remove(&(before, Timer::Action(action)));
        }
        if let Some(at) = at {
            self.timeline.insert((at, Timer::Action(action)));
        }
    }

    /// The action's timer went off.
    pub(super) fn wake(&mut self, now: Timestamp, action: Place) {
        if let Some(state) = self.state_mut(action) {
            state.wake = None;
            self.look(now, action);
        }
    }
}
