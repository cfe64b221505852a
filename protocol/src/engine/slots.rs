//! The slots of an action: who builds, who has built, and what is open, as this node sees it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use thin_vec::ThinVec;

use crate::blame::{ATTEMPT_SLOTS_MAX, POISON_SILENT, attempt_of, is_larger};
use crate::graph::JobIndex;
use crate::id::{ActionId, BatchId, NodeId, OperatorId};
use crate::record::payload::{Claim, Commitment, LeaseRef, Says, SlotNo};
use crate::record::{Payload, SharedRecord};
use crate::table::Place;
use crate::time::Timestamp;
use crate::verdict::{Branch, VerdictState};

use super::Engine;
use super::io::{Capacity, Timer};
use super::lease::{ClaimView, Rules, SlotState, Tenure, draw, resolve};
use super::losses::{Silence, silent};
use super::progress::tenure_limit;
use super::settle::{ActionState, Attested, Demand};
use super::tries::Tries;

/// The most builds to settle one dispute (a build lost to the machine is done again).
const ARBITER_SLOTS_MAX: u16 = 8;

/// A result that its builder could open and does not for so many TTLs is withheld.
const WITHHELD_TTLS: u32 = 3;

/// The `n`th smallest, from 1.
fn nth_smallest(of: impl Iterator<Item = Timestamp>, n: usize) -> Option<Timestamp> {
    let mut sorted: Vec<Timestamp> = of.collect();
    sorted.sort_unstable();
    sorted.get(n.checked_sub(1)?).copied()
}

/// What was said of an action by those who are known, each with the place of who said it.
#[derive(Default)]
struct Heard<'a> {
    claims: Vec<(Place, &'a SharedRecord, &'a Claim)>,
    commitments: Vec<(Place, &'a SharedRecord, &'a Commitment)>,
    /// When enough had committed to open what was built, if they have; asked for again and again.
    complete: OnceCell<Option<Timestamp>>,
}

/// The slots of an action, and when they will be others if nothing is said.
struct Slots {
    slots: ThinVec<(SlotNo, SlotState)>,
    until: Option<Timestamp>,
    /// Whether nothing that can still be said changes them, but a retry or another standing of members.
    settled: bool,
    /// Whether too many fell silent over it.
    silenced: bool,
}

/// The slots for a larger machine.
struct Larger {
    slots: Vec<(SlotNo, SlotState)>,
    /// Whose build there is one of those that are wanted.
    counted: Option<Branch>,
    until: Option<Timestamp>,
}

/// The leases that are held.
fn held(slots: &[(SlotNo, SlotState)], action: ActionId) -> impl Iterator<Item = (LeaseRef, NodeId)> + '_ {
    slots.iter().filter_map(move |(slot, state)| match state {
        SlotState::Held(tenure) => Some((LeaseRef { action, slot: *slot, epoch: tenure.epoch }, tenure.node)),
        SlotState::Open { .. } | SlotState::Closed(_) => None,
    })
}

impl Engine {
    fn heard(&self, action: Place) -> Heard<'_> {
        let said = self.board.records_about(action);
        let (claims, commitments) = (Vec::with_capacity(said), Vec::with_capacity(said));
        let mut heard = Heard { claims, commitments, complete: OnceCell::new() };
        for (author, record) in self.board.about(action) {
            match record.payload() {
                Payload::Claim(claim) => heard.claims.push((author, record, claim)),
                Payload::Commitment(commitment) => heard.commitments.push((author, record, commitment)),
                _ => {}
            }
        }
        heard
    }

    /// Claims on a slot as [`resolve`] wants them: by operators that may hold it, for batches that ask for the action.
    /// The lowest batch wins, and anybody can write a Batch with a low id.
    fn claim_views(&self, action: Place, slot: SlotNo, demand: &Demand, taken: &[Branch], heard: &Heard<'_>) -> Vec<ClaimView> {
        let Some(state) = self.state(action) else { return Vec::new() };
        let of_slot = heard.claims.iter().filter(|(_, _, claim)| claim.lease.slot == slot).count();
        // They are large, and mostly there is one: room for it and no more.
        let mut views: Vec<ClaimView> = Vec::with_capacity(of_slot);
        views.extend(heard.claims.iter().filter(|(_, _, claim)| claim.lease.slot == slot).filter_map(|(author, record, claim)| {
            let voice = self.voice(*author);
            let operator = voice.operator?;
            let of_batch = state.jobs.partition_point(|job| *job < (claim.batch, JobIndex(0)));
            state.jobs.get(of_batch).filter(|(batch, _)| *batch == claim.batch)?;
            let admitted = if slot.is_arbiter() { voice.trusted } else { demand.admits(&voice) };
            let branch = voice.branch.unwrap_or(operator);
            // Who is suspended takes no slot: its result would not count.
            if !admitted || taken.contains(&branch) || self.members.suspended(&operator, record.issued()).is_some() {
                return None;
            }
            let committed = heard.commitments.iter().find(|(by, _, commitment)| by == author && commitment.lease == claim.lease);
            Some(ClaimView {
                epoch: claim.lease.epoch,
                batch: claim.batch,
                draw: [0; 32],
                record: record.id(),
                follows: claim.follows,
                node: NodeId(record.author_key()),
                operator,
                issued: record.issued(),
                limit: self.limit_of_claim(state, claim, record.issued()),
                renewed: self
                    .sign_of_life(*author, &claim.lease, demand)
                    .max(committed.map(|(_, record, said)| said.renewed_at(record.issued()))),
                handed_back: self.board.handed_back_by(*author, &claim.lease, record.issued()),
                committed: committed.map(|(_, record, _)| record.issued()),
            })
        }));
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

    /// For how long the lease of a claim may be held: by the jobs that had been asked for when it was issued, since what is
    /// asked for later must not give a lease back to who had lost it.
    fn limit_of_claim(&self, state: &ActionState, claim: &Claim, issued: Timestamp) -> Duration {
        let asked = |batch: &BatchId| *batch == claim.batch || self.batches.get(batch).is_some_and(|of| of.record.issued() <= issued);
        let of_jobs = state.jobs.iter().filter(|(batch, _)| asked(batch)).filter_map(|(batch, index)| {
            let facts = self.batches.get(batch)?.graph.as_ref()?.facts(*index)?;
            Some(tenure_limit(facts.limits.wall, facts.cores, claim.lease.slot))
        });
        of_jobs.max().unwrap_or(Duration::MAX)
    }

    /// What holds of all leases of this network. Clocks of two nodes may each be wrong by the accepted difference, so of
    /// claims that are no further apart than that nobody can say which was first.
    pub(super) const fn lease_rules(&self) -> Rules {
        Rules { ttl: self.params.lease_ttl, window: self.params.clock_difference.saturating_mul(2) }
    }

    pub(super) fn update_slots(&mut self, now: Timestamp, action: Place, demand: Option<&Demand>) {
        let Some(demand) = demand else {
            self.put_slots(now, action, ThinVec::new(), None);
            return self.wake_at(action, None);
        };
        let computed = self.slots_at(now, action, demand);
        let avoid = self.desk.avoided(&self.board.action_id(action)).filter(|until| *until > now);
        let until = computed.until.into_iter().chain(avoid).min();
        if let Some(state) = self.state_mut(action) {
            state.stale |= std::mem::replace(&mut state.silenced, computed.silenced) != computed.silenced;
        }
        self.put_slots(now, action, if computed.settled { ThinVec::new() } else { computed.slots }, Some(demand));
        if computed.settled
            && let Some(state) = self.state_mut(action)
        {
            state.attested = ThinVec::new();
        }
        self.wake_at(action, until.map(|until| until.max(now + Duration::from_millis(1))));
    }

    /// Notes what the slots of an action are, who is busy with them, and since when they are open.
    fn put_slots(&mut self, now: Timestamp, action: Place, slots: ThinVec<(SlotNo, SlotState)>, demand: Option<&Demand>) {
        let id = self.board.action_id(action);
        let Some(state) = self.state_mut(action) else { return };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        if !held(&state.slots, id).eq(held(&slots, id)) {
            before.extend(held(&state.slots, id));
            after.extend(held(&slots, id));
        }
        if slots.is_empty() {
            state.open_since = ThinVec::new();
        }
        state.open_since.retain(|(slot, _)| slots.iter().any(|(no, state)| no == slot && matches!(state, SlotState::Open { .. })));
        for (slot, slot_state) in &slots {
            if let SlotState::Open { since, .. } = slot_state
                && !state.open_since.iter().any(|(no, _)| no == slot)
            {
                state.open_since.push((*slot, since.unwrap_or(now).min(now)));
            }
        }
        state.slots = slots;
        for (lease, _) in before.iter().filter(|lease| !after.contains(lease)) {
            self.crowd.release(lease);
        }
        for (lease, node) in after.into_iter().filter(|lease| !before.contains(lease)) {
            let need = demand
                .and_then(|demand| Some(Capacity { cores: demand.facts()?.cores, memory: self.memory_for(action, lease.slot, demand) }));
            self.crowd.hold(now, lease, node, need.unwrap_or_default());
        }
    }

    /// The slots of an action, as this node sees them.
    pub(super) fn slots_of(&self, action: Place) -> Vec<(SlotNo, SlotState)> {
        let Some(state) = self.state(action) else { return Vec::new() };
        if !state.slots.is_empty() {
            return state.slots.to_vec();
        }
        // What is settled does not depend on the time any more, so that any will do.
        let demand = self.demand(action).filter(|demand| self.is_final(state, demand));
        demand.map_or_else(Vec::new, |demand| self.slots_at(Timestamp::MAX, action, &demand).slots.to_vec())
    }

    fn is_final(&self, state: &ActionState, demand: &Demand) -> bool {
        demand.policies.iter().all(|(hash, _)| state.found(hash).is_some_and(|found| found.state.is_final() && !found.soft))
    }

    fn slots_at(&self, now: Timestamp, action: Place, demand: &Demand) -> Slots {
        let mut slots: ThinVec<(SlotNo, SlotState)> = ThinVec::new();
        let Some(state) = self.state(action) else { return Slots { slots, until: None, settled: true, silenced: false } };
        let rules = self.lease_rules();
        let first = self.attempt_first_slot(&self.board.action_id(action));
        let heard = self.heard(action);
        let settled = self.is_final(state, demand);
        let larger = self.resolve_larger(now, (action, first), state, demand, &heard);
        let disputed =
            state.verdicts.iter().any(|(_, found)| matches!(found.state, VerdictState::Disputed | VerdictState::PlatformDependent));
        let outvoted = self.outvoted(action, state);
        let mut until: Option<Timestamp> = None;
        let mut earlier = |at: Timestamp| until = Some(until.map_or(at, |until: Timestamp| until.min(at)));
        let mut taken: Vec<Branch> = Vec::new();
        let mut wanted = demand.slots();
        let mut tries = Tries::default();
        let mut silence = Silence::default();
        // Fewer claims than that need no look; and claims arrive before signs of life where a node has come late.
        let suspect = heard.claims.len() >= POISON_SILENT && !self.waits_to_hear();
        let mut index = 0;
        while index < wanted {
            // What a larger machine found is one of the builds that are wanted, once it counts.
            if index == demand.slots()
                && let Some(branch) = larger.counted
            {
                taken.push(branch);
                wanted -= 1;
                if index == wanted {
                    break;
                }
            }
            let slot = SlotNo(first + index);
            let views = self.claim_views(action, slot, demand, &taken, &heard);
            if suspect {
                silence.add(silent(views.clone(), now, rules).iter().map(|operator| self.branch(operator)));
            }
            let slot_state = resolve(views, now, rules);
            let wasted = match &slot_state {
                SlotState::Closed(tenure) => {
                    outvoted.contains(&tenure.operator) || self.is_wasted(now, state, slot, tenure, demand, &heard, &mut earlier)
                }
                _ => false,
            };
            if wasted {
                wanted = wanted.saturating_add(1).min(ATTEMPT_SLOTS_MAX);
            }
            if let Some(tenure) = slot_state.tenure() {
                let branch = self.branch_of(tenure);
                // What was committed to and can still be opened, and what others have opened since, leave its branch no vote.
                let had_its_word = || state.spent.contains(&branch) || self.said_by(state, slot, tenure).is_none();
                if !wasted || had_its_word() || tries.waste(branch) {
                    taken.push(branch);
                }
            }
            // Once the verdict is final, only who builds already may go on; so it is where a newer batch took its place.
            let over = settled || demand.superseded || state.wants_larger();
            if !(over && matches!(slot_state, SlotState::Open { .. })) {
                slots.push((slot, slot_state));
            }
            index += 1;
        }
        let silenced = suspect && silence.is_poison(self.committed(demand, &heard, false).len());
        if silenced {
            slots.retain(|(_, state)| !matches!(state, SlotState::Open { .. }));
        }
        slots.extend(larger.slots);
        slots.sort_by_key(|(slot, _)| *slot);
        larger.until.into_iter().for_each(&mut earlier);
        if disputed {
            // Not those of other arbiters: what they wasted is their slot, and another one is offered for it.
            let voters = state.attested.iter().filter(|attested| !attested.slot.is_arbiter() && !attested.spoilt);
            let mut tries = Tries::default();
            let mut attested: Vec<Branch> =
                voters.filter_map(|attested| self.voice(attested.author).operator).map(|operator| self.branch(&operator)).collect();
            for index in 0..ARBITER_SLOTS_MAX {
                let slot = SlotNo(SlotNo::ARBITER.0 + index);
                let slot_state = resolve(self.claim_views(action, slot, demand, &attested, &heard), now, rules);
                let wasted = match &slot_state {
                    SlotState::Closed(tenure) => self.is_wasted(now, state, slot, tenure, demand, &heard, &mut earlier),
                    _ => false,
                };
                if let Some(tenure) = slot_state.tenure().filter(|_| wasted) {
                    let branch = self.branch_of(tenure);
                    attested.extend(tries.waste(branch).then_some(branch));
                }
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
        // Machines come and go without a record of this action, and whoever waits for its end must be told.
        if state.wants_larger() {
            until = until.into_iter().chain([now + rules.ttl]).min();
        }
        Slots { slots, until, settled, silenced }
    }

    /// Resolves the slots for a larger machine.
    fn resolve_larger(
        &self,
        now: Timestamp,
        (action, first): (Place, u16),
        state: &ActionState,
        demand: &Demand,
        heard: &Heard<'_>,
    ) -> Larger {
        let mut larger = Larger { slots: Vec::new(), counted: None, until: None };
        let claimed = |slot| heard.claims.iter().any(|(_, _, claim)| claim.lease.slot == slot);
        for slot in self.larger_slots(first, state, claimed) {
            let slot_state = resolve(self.claim_views(action, slot, demand, &[], heard), now, self.lease_rules());
            let mut earlier = |at: Timestamp| larger.until = larger.until.into_iter().chain([at]).min();
            let wasted = match &slot_state {
                SlotState::Closed(tenure) => self.is_wasted(now, state, slot, tenure, demand, heard, &mut earlier),
                _ => false,
            };
            if let SlotState::Closed(tenure) = &slot_state
                && !wasted
                && !state.wants_larger()
            {
                larger.counted = Some(self.branch_of(tenure));
            }
            if !matches!(slot_state, SlotState::Open { .. }) || state.wants_larger() && !demand.superseded {
                larger.slots.push((slot, slot_state));
            }
            if !wasted {
                break;
            }
        }
        larger
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
        match self.said_by(state, slot, tenure) {
            Some(attested) => !attested.counts,
            None => {
                // Since when it could be opened: since it was committed to, or the last of the quorum was.
                let quorum = || nth_smallest(self.committed(demand, heard, false).into_values(), demand.quorum());
                let at_once = slot.is_arbiter() || is_larger(slot);
                let complete = if at_once { Some(Timestamp::default()) } else { *heard.complete.get_or_init(quorum) };
                let (Some(complete), Some(committed)) = (complete, tenure.committed) else { return false };
                let withheld = committed.max(complete) + self.params.lease_ttl * WITHHELD_TTLS;
                if withheld > now {
                    look_again(withheld);
                }
                withheld <= now
            }
        }
    }

    /// The branch of who holds a slot.
    pub(super) fn branch_of(&self, tenure: &Tenure) -> Branch {
        let voice = self.board.author(&tenure.node.0).map(|author| self.voice(author));
        match voice.filter(|voice| voice.operator == Some(tenure.operator)) {
            Some(voice) => voice.branch.unwrap_or(tenure.operator),
            None => self.branch(&tenure.operator),
        }
    }

    /// What the holder of a closed slot said. What others say under this slot's number is an extra word and not the slot's.
    fn said_by<'a>(&self, state: &'a ActionState, slot: SlotNo, tenure: &Tenure) -> Option<&'a Attested> {
        state.attested.iter().find(|attested| {
            attested.slot == slot && attested.epoch == tenure.epoch && self.voice(attested.author).operator == Some(tenure.operator)
        })
    }

    /// Whose votes an arbiter has spoken against while the quorum is not reached: their slots no longer help towards it.
    fn outvoted(&self, action: Place, state: &ActionState) -> BTreeSet<OperatorId> {
        if !state.attested.iter().any(|attested| attested.slot.is_arbiter()) {
            return BTreeSet::new();
        }
        let id = self.board.action_id(action);
        let candidates = state.verdicts.iter().filter(|(_, found)| found.state == VerdictState::Candidate);
        let verdicts = candidates.filter_map(|(hash, _)| self.verdict_under(hash, &id)).filter(|verdict| verdict.arbiter.is_some());
        verdicts.flat_map(|verdict| verdict.differing.into_keys()).collect()
    }

    /// The branches whose commitments in the newest attempt open results, and when each first committed. Those without a vote
    /// don't count: anybody could otherwise open what others have built, by saying that it has built something too. Nor do
    /// those that say nothing of the job. Whoever has `more` to say than that its machine was too small waits for others that
    /// do, or for as many that say so as a quorum wants: fewer could say it to see what others built.
    pub(super) fn committers(&self, action: Place, demand: &Demand, more: bool) -> BTreeMap<Branch, Timestamp> {
        self.committed(demand, &self.heard(action), more)
    }

    fn committed(&self, demand: &Demand, heard: &Heard<'_>, more: bool) -> BTreeMap<Branch, Timestamp> {
        let (mut say_more, mut too_small): (BTreeMap<Branch, Timestamp>, BTreeMap<Branch, Timestamp>) = Default::default();
        for (author, record, commitment) in &heard.commitments {
            let voice = self.voice(*author);
            let LeaseRef { action, slot, .. } = commitment.lease;
            if slot.is_arbiter() || !demand.admits(&voice) || attempt_of(slot) < self.attempt_first_slot(&action) {
                continue;
            }
            let branches = match commitment.says {
                Says::Word => &mut say_more,
                Says::TooSmall => &mut too_small,
                Says::Nothing => continue,
            };
            if let Some(operator) = voice.operator {
                let first = branches.entry(voice.branch.unwrap_or(operator)).or_insert(record.issued());
                *first = record.issued().min(*first);
            }
        }
        if more && too_small.len() < demand.quorum() {
            return say_more;
        }
        for (branch, at) in too_small {
            let first = say_more.entry(branch).or_insert(at);
            *first = at.min(*first);
        }
        say_more
    }

    /// Arms the action's timer, or disarms it. One that is armed for an earlier moment stays: looking once too often is
    /// cheaper than moving it with every sign of life.
    pub(super) fn wake_at(&mut self, action: Place, at: Option<Timestamp>) {
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
            let soft = state.wants_larger();
            self.look(now, action);
            if soft {
                self.verdict_changed(action);
            }
        }
    }
}
