//! Actions: who builds their slots, what was attested, and what the verdict is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::action::Action;
use crate::graph::{JobIndex, Limits};
use crate::id::{ActionId, BatchId, BlobHash, NodeId, OperatorId};
use crate::policy::Policy;
use crate::record::payload::{LeaseRef, SlotNo};
use crate::time::Timestamp;
use crate::verdict::{Attestation, Branch, Verdict, VerdictState, may_vote, verdict};

use super::Engine;
use super::io::{Event, Timer};
use super::lease::{ClaimView, SlotState, Tenure, draw, resolve};

/// The most slots that one attempt may grow to as builds are wasted.
const ATTEMPT_SLOTS_MAX: u16 = 64;
/// Slots of the next attempt begin so much higher; a Retry begins an attempt.
const ATTEMPT_STRIDE: u16 = 256;
/// The most attempts: their slots must stay below [`SlotNo::ARBITER`].
const ATTEMPTS_MAX: u16 = 200;
/// The most builds to settle one dispute (a build lost to the machine is done again).
const ARBITER_SLOTS_MAX: u16 = 8;

/// What is known of an action.
#[derive(Debug)]
pub(super) struct ActionState {
    /// The action.
    pub action: Arc<Action>,
    /// How people call it, after the first job that was bound to it.
    pub label: String,
    /// The jobs that stand for it now.
    pub jobs: BTreeSet<(BatchId, JobIndex)>,
    /// Policy → the verdict under it.
    pub verdicts: BTreeMap<BlobHash, Verdict>,
    /// The slots that are offered, and those of earlier attempts that are still held.
    pub slots: BTreeMap<SlotNo, SlotState>,
    /// Slot → since when this node sees it open.
    pub open_since: BTreeMap<SlotNo, Timestamp>,
}

impl ActionState {
    pub fn new(action: Arc<Action>, label: String) -> Self {
        Self { action, label, jobs: BTreeSet::new(), verdicts: BTreeMap::new(), slots: BTreeMap::new(), open_since: BTreeMap::new() }
    }
}

/// What live batches ask of an action, taken together.
pub(super) struct Demand {
    /// Policy → the batch with the lowest id that pins it.
    pub policies: BTreeMap<BlobHash, Arc<Policy>>,
    /// The lowest batch: its claims win, its nonce draws.
    pub batch: BatchId,
    /// The greatest limits of the jobs.
    pub limits: Limits,
}

impl Demand {
    /// The most slots that any policy asks for.
    fn slots(&self) -> u16 {
        self.policies.values().map(|policy| policy.slots).max().unwrap_or(0)
    }
    /// How many commitments open the outputs: the most that any policy wants.
    pub fn quorum(&self) -> usize {
        usize::from(self.policies.values().map(|policy| policy.quorum).max().unwrap_or(1))
    }
    /// Whether an operator's result would count under any of the policies.
    pub fn admits(&self, members: &crate::trust::members::Members, operator: &OperatorId) -> bool {
        self.policies.values().any(|policy| may_vote(members, operator, policy))
    }
}

impl Engine {
    /// Computes an action anew from what is known, and does what follows. Settling one action can change others; they
    /// are worked off in turn and not by recursion, since graphs are deep.
    pub(super) fn settle(&mut self, now: Timestamp, action: ActionId) {
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

    fn settle_one(&mut self, now: Timestamp, action: ActionId) {
        if !self.actions.contains_key(&action) {
            return;
        }
        let changed = self.update_verdicts(action);
        self.update_slots(now, action);
        self.list_ready(action);
        self.mind_own(now, action);
        if changed {
            self.output_changed(now, action);
        }
        self.consider(now, action);
        // No job stands for it any more; its records stay on the board, in case one does again.
        if self.actions.get(&action).is_some_and(|state| state.jobs.is_empty()) {
            self.actions.remove(&action);
            self.disarm(Timer::Action(action));
        }
    }

    /// Keeps the list of ready jobs to those that have an open slot.
    fn list_ready(&mut self, action: ActionId) {
        let Some(state) = self.actions.get(&action) else { return };
        let open = state.slots.values().any(|slot| matches!(slot, SlotState::Open { .. }));
        let keys: Vec<_> = state.jobs.iter().filter_map(|(batch, job)| self.ready_key(batch, *job, action)).collect();
        for key in keys {
            if open {
                self.ready.insert(key);
            } else {
                self.ready.remove(&key);
            }
        }
    }

    /// A sign of life arrived: slots may have another end, nothing else changed.
    pub(super) fn look_again(&mut self, now: Timestamp, action: ActionId) {
        if self.actions.contains_key(&action) {
            self.update_slots(now, action);
            self.mind_own(now, action);
        }
    }

    /// What live batches ask of the action; `None` where none does.
    pub(super) fn demand(&self, action: &ActionId) -> Option<Demand> {
        let state = self.actions.get(action)?;
        let mut demand: Option<Demand> = None;
        for (batch, index) in &state.jobs {
            let Some(of) = self.batches.get(batch).filter(|of| of.is_live()) else { continue };
            let (Some(policy), Some(job)) = (self.policy_of(batch), of.graph.as_ref().and_then(|graph| graph.job(*index))) else {
                continue;
            };
            let demand = demand.get_or_insert_with(|| Demand { policies: BTreeMap::new(), batch: *batch, limits: job.limits.clone() });
            demand.policies.insert(of.batch().policy, policy.clone());
            demand.limits.memory = demand.limits.memory.max(job.limits.memory);
            demand.limits.disk = demand.limits.disk.max(job.limits.disk);
            demand.limits.wall = demand.limits.wall.max(job.limits.wall);
            demand.limits.silent = demand.limits.silent.max(job.limits.silent);
        }
        demand
    }

    /// The first slot of the newest attempt: every Retry begins one.
    pub fn attempt_first_slot(&self, action: &ActionId) -> u16 {
        // A Retry counts if its author could have submitted the batch that it names.
        let attempts = self.board.retries(action).filter(|record| {
            let crate::record::Payload::Retry(retry) = record.payload() else { return false };
            let Some(batch) = self.batches.get(&retry.batch) else { return false };
            let by = NodeId(record.author_key());
            let operator = self.members.operator_of(&by);
            by.0 == batch.record.author_key()
                || operator.is_some_and(|operator| self.params.grants.may_submit(&operator, &batch.batch().channel))
        });
        u16::try_from(attempts.count()).unwrap_or(ATTEMPTS_MAX).min(ATTEMPTS_MAX) * ATTEMPT_STRIDE
    }

    /// All reveals of an action whose commitment is known and fits, by operators that are known.
    pub fn attestations(&self, action: &ActionId) -> Vec<Attestation> {
        let committed: BTreeSet<(NodeId, LeaseRef, [u8; 32])> = self
            .board
            .commitments(action)
            .map(|(record, commitment)| (NodeId(record.author_key()), commitment.lease, commitment.commitment))
            .collect();
        let reveals = self.board.reveals(action).filter_map(|(record, reveal)| {
            let node = NodeId(record.author_key());
            let operator = self.members.operator_of(&node)?;
            committed.contains(&(node, reveal.lease, reveal.opens(&operator))).then(|| Attestation::of(operator, reveal))
        });
        reveals.collect()
    }

    /// Returns whether any verdict changed.
    fn update_verdicts(&mut self, action: ActionId) -> bool {
        let attestations = self.attestations(&action);
        let first_slot = self.attempt_first_slot(&action);
        let Some(state) = self.actions.get(&action) else { return false };
        // Cancelled batches keep their verdicts: they were true, and people look at them.
        let policies: BTreeSet<BlobHash> = state
            .jobs
            .iter()
            .filter_map(|(batch, _)| Some(self.batches.get(batch)?.batch().policy))
            .chain(state.verdicts.keys().copied())
            .collect();
        let mut changes = Vec::new();
        for hash in policies {
            let Some(policy) = self.policies.get(&hash) else { continue };
            let verdict = verdict(&attestations, first_slot, &self.members, policy);
            if state.verdicts.get(&hash) != Some(&verdict) {
                changes.push((hash, verdict));
            }
        }
        let mut changed = false;
        for (hash, verdict) in changes {
            let Some(state) = self.actions.get_mut(&action) else { continue };
            let label = state.label.clone();
            let news = verdict.state != VerdictState::Unattested;
            state.verdicts.insert(hash, verdict.clone());
            changed = true;
            if news {
                self.event(Event::Verdict { action, label, verdict });
            }
        }
        changed
    }

    /// Claims on a slot as [`resolve`] wants them: by operators that may hold it, for batches that ask for the action.
    /// The lowest batch wins, and anybody can write a Batch with a low id.
    fn claim_views(&self, action: &ActionId, slot: SlotNo, demand: &Demand, taken: &BTreeSet<Branch>) -> Vec<ClaimView> {
        let committed: BTreeMap<(NodeId, LeaseRef), Timestamp> = self
            .board
            .commitments(action)
            .map(|(record, commitment)| ((NodeId(record.author_key()), commitment.lease), record.issued()))
            .collect();
        let views = self.board.claims(action, slot).filter_map(|(record, claim)| {
            let node = NodeId(record.author_key());
            let operator = self.members.operator_of(&node)?;
            let nonce = self.batches.get(&claim.batch)?.batch().nonce;
            let of_batch = (claim.batch, JobIndex(0))..=(claim.batch, JobIndex(u32::MAX));
            self.actions.get(action)?.jobs.range(of_batch).next()?;
            let admitted = if slot.is_arbiter() { self.members.is_trusted(&operator) } else { demand.admits(&self.members, &operator) };
            (admitted && !taken.contains(&self.branch(&operator))).then(|| ClaimView {
                epoch: claim.lease.epoch,
                batch: claim.batch,
                draw: draw(&nonce, action, slot, &operator),
                record: record.id(),
                node,
                operator,
                issued: record.issued(),
                renewed: self.board.renewed(&node, &claim.lease),
                handed_back: self.board.handed_back(&node, &claim.lease),
                committed: committed.get(&(node, claim.lease)).copied(),
            })
        });
        views.collect()
    }

    /// The operator's branch; the uninvited are told apart here, since policies that admit them come with seals.
    pub(super) fn branch(&self, operator: &OperatorId) -> Branch {
        crate::verdict::Standing::branch(&self.members, operator).unwrap_or(*operator)
    }

    fn update_slots(&mut self, now: Timestamp, action: ActionId) {
        let Some(demand) = self.demand(&action) else {
            if let Some(state) = self.actions.get_mut(&action) {
                state.slots.clear();
                state.open_since.clear();
            }
            return;
        };
        let ttl = self.params.lease_ttl;
        let first = self.attempt_first_slot(&action);
        let attestations = self.attestations(&action);
        let final_everywhere = self
            .actions
            .get(&action)
            .is_some_and(|state| demand.policies.keys().all(|hash| state.verdicts.get(hash).is_some_and(Verdict::is_final)));
        let disputed = self.actions.get(&action).is_some_and(|state| {
            state.verdicts.values().any(|verdict| matches!(verdict.state, VerdictState::Disputed | VerdictState::PlatformDependent))
        });
        // Once an arbiter has spoken against a vote, its slot no longer helps towards the quorum.
        let settled = self.actions.get(&action).into_iter().flat_map(|state| state.verdicts.values());
        let outvoted: BTreeSet<OperatorId> = settled
            .filter(|verdict| verdict.state == VerdictState::Candidate && verdict.arbiter.is_some())
            .flat_map(|verdict| verdict.differing.keys().copied())
            .collect();
        let mut slots = BTreeMap::new();
        let mut next_end: Option<Timestamp> = None;
        let mut taken: BTreeSet<Branch> = BTreeSet::new();
        let mut wanted = demand.slots();
        let mut index = 0;
        while index < wanted {
            let slot = SlotNo(first + index);
            let state = resolve(self.claim_views(&action, slot, &demand, &taken), now, ttl);
            if let SlotState::Closed(tenure) = &state
                && (outvoted.contains(&tenure.operator) || self.is_wasted(now, &action, slot, tenure, &attestations, &demand))
            {
                wanted = wanted.saturating_add(1).min(ATTEMPT_SLOTS_MAX);
            } else if let Some(tenure) = state.tenure() {
                taken.insert(self.branch(&tenure.operator));
            }
            // Once the verdict is final, only who builds already may go on.
            if !(final_everywhere && matches!(state, SlotState::Open { .. })) {
                slots.insert(slot, state);
            }
            index += 1;
        }
        if disputed {
            // Not those of other arbiters: what they wasted is their slot, and another one is offered for it.
            let voters = attestations.iter().filter(|attestation| !attestation.lease.slot.is_arbiter());
            let attested: BTreeSet<Branch> = voters.map(|attestation| self.branch(&attestation.operator)).collect();
            for index in 0..ARBITER_SLOTS_MAX {
                let slot = SlotNo(SlotNo::ARBITER.0 + index);
                let state = resolve(self.claim_views(&action, slot, &demand, &attested), now, ttl);
                let wasted = matches!(&state, SlotState::Closed(tenure)
                    if self.is_wasted(now, &action, slot, tenure, &attestations, &demand));
                slots.insert(slot, state);
                if !wasted {
                    break;
                }
            }
        }
        for (slot, state) in &slots {
            let end = match state {
                SlotState::Held(tenure) => tenure.until,
                // Whoever holds a result back, or died with it, makes room for another: see `is_wasted`.
                SlotState::Closed(tenure) if !attestations.iter().any(|attestation| is_of(attestation, &action, *slot, tenure)) => {
                    tenure.until + ttl * 2
                }
                _ => continue,
            };
            // A result that is withheld longer waits for others to commit, and they will say so.
            if end > now || matches!(state, SlotState::Held(_)) {
                next_end = Some(next_end.map_or(end, |next| next.min(end)));
            }
        }
        let Some(state) = self.actions.get_mut(&action) else { return };
        state.open_since.retain(|slot, _| matches!(slots.get(slot), Some(SlotState::Open { .. })));
        for (slot, slot_state) in &slots {
            if let SlotState::Open { since, .. } = slot_state {
                state.open_since.entry(*slot).or_insert_with(|| since.unwrap_or(now).min(now));
            }
        }
        state.slots = slots;
        if let Some(end) = next_end {
            self.arm_earlier(Timer::Action(action), end.max(now + Duration::from_millis(1)));
        }
    }

    /// Whether a closed slot gives no vote, so that another must be offered: the builder's machine failed, or the
    /// result is withheld though enough have committed to open it.
    fn is_wasted(
        &self,
        now: Timestamp,
        action: &ActionId,
        slot: SlotNo,
        tenure: &Tenure,
        attestations: &[Attestation],
        demand: &Demand,
    ) -> bool {
        match attestations.iter().find(|attestation| is_of(attestation, action, slot, tenure)) {
            Some(attestation) => !attestation.counts(),
            None => {
                let open = slot.is_arbiter() || self.committers(action, demand).len() >= demand.quorum();
                open && tenure.until + self.params.lease_ttl * 2 <= now
            }
        }
    }

    /// The branches that committed to a result in the newest attempt. Those without a vote don't count: anybody could
    /// otherwise open what others have built, by saying that it has built something too.
    pub(super) fn committers(&self, action: &ActionId, demand: &Demand) -> BTreeSet<Branch> {
        let first = self.attempt_first_slot(action);
        self.board
            .commitments(action)
            .filter(|(_, commitment)| commitment.lease.slot.0 >= first && !commitment.lease.slot.is_arbiter())
            .filter_map(|(record, _)| self.members.operator_of(&NodeId(record.author_key())))
            .filter(|operator| demand.admits(&self.members, operator))
            .map(|operator| self.branch(&operator))
            .collect()
    }
}

/// Whether an attestation is the slot's own: what others say under its number is an extra word and not the slot's.
fn is_of(attestation: &Attestation, action: &ActionId, slot: SlotNo, tenure: &Tenure) -> bool {
    let lease = LeaseRef { action: *action, slot, epoch: tenure.epoch };
    attestation.lease == lease && attestation.operator == tenure.operator
}
