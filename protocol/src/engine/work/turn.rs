//! Whose turn it is to claim: an order that all come to alike, as far as they know of each other, so that claims seldom
//! meet (DESIGN section 6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::blame::is_larger;
use crate::id::{ActionId, NodeId, OperatorId};
use crate::policy::Policy;
use crate::record::payload::{ClaimTag, LeaseRef, SlotNo};
use crate::table::Place;
use crate::time::Timestamp;
use crate::verdict::Branch;

use super::super::Engine;
use super::super::crowd::Fit;
use super::super::io::OwnResult;
use super::super::lease::{Draws, SlotState};
use super::super::settle::Demand;
use super::super::voices::Voice;

/// When this node may claim what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// The slot.
    pub slot: SlotNo,
    /// The epoch that the claim must name.
    pub epoch: u32,
    /// The claim that it must cite.
    pub follows: ClaimTag,
    /// From when on.
    pub at: Timestamp,
}

/// So many operators are told apart by their rank; who seems to stand behind them waits until these have had their turn,
/// and only then looks who stands where. Ten thousand nodes that see a job become ready compute one draw each.
const RANKS: u32 = 16;
/// Who keeps taking other work before it is its turn puts others off by no more than so many ranks.
const PUT_OFF_RANKS_MAX: u32 = 8;
/// So many machines are looked at one by one to see whether any that is busy would go before this one.
const BUSY_LOOKED_AT: usize = 32;

/// Operators that stand before this node for a slot.
#[derive(Debug, Default)]
struct Ahead {
    /// How many have room for it now.
    idle: u32,
    /// How many have room for it, with those behind this node.
    of: u32,
    /// The first of all.
    first: Option<OperatorId>,
    /// Whether any was busy when it was last heard of.
    busy: bool,
    /// Other idle machines of this node's operator that stand before this one.
    siblings: u32,
}

impl Engine {
    /// The slot that is this node's to claim, and when; `None` where there is none.
    pub(super) fn turn(&self, now: Timestamp, place: Place) -> Option<Turn> {
        if !self.may_take() {
            return None;
        }
        let state = self.state(place)?;
        if !state.slots.iter().any(|(_, slot)| matches!(slot, SlotState::Open { .. })) {
            return None;
        }
        let action = &self.board.action_id(place);
        if self.desk.avoided(action).is_some_and(|until| now < until) {
            return None;
        }
        let me = self.operator().filter(|me| self.members.suspended(me, now).is_none())?;
        let demand = self.demand(place)?;
        let fits = demand.facts()?.cores <= self.desk.free.cores && demand.limits.memory <= self.desk.free.memory;
        if !fits || self.unfit(&demand).is_some() {
            return None;
        }
        // A lapsed or finished lease of an earlier attempt does not stand in the way, a live one does.
        let mine = |(slot, of): &(SlotNo, SlotState)| self.stands_in_the_way(state, me, (*slot, of), &demand);
        if self.desk.leases.keys().any(|lease| lease.action == *action) {
            return None;
        }
        let memory = self.desk.free.memory.min(self.config.lend.memory);
        // A result that waits to be opened is this operator's word, under whichever slot: another build would add nothing.
        let first = self.attempt_first_slot(action);
        let waits = |result: &OwnResult| {
            let slot = result.lease.slot;
            result.outcome.is_vote() && slot.0 >= first && !slot.is_arbiter() && !is_larger(slot)
        };
        let has_result = self.desk.results_of(action).any(waits);
        let had_its_turn = has_result || state.slots.iter().any(mine);
        let spent = state.spent.contains(&self.branch(&me));
        let nonce = self.batches.get(&demand.batch)?.batch().nonce;
        let mut assigned = BTreeSet::new();
        let mut best: Option<Turn> = None;
        for (slot, slot_state) in &state.slots {
            let SlotState::Open { epoch, follows, lapsed, since: ended } = slot_state else { continue };
            // On a larger machine whoever found the job too large may try it again.
            if had_its_turn && !is_larger(*slot) || spent && !slot.is_arbiter() || memory < self.limits_of(place, *slot, &demand).memory {
                continue;
            }
            if self.claimed_already(LeaseRef { action: *action, slot: *slot, epoch: *epoch }, *follows, *ended) {
                continue;
            }
            let draws = Draws::new(&nonce, action, *slot);
            let open_since = state.open_since.iter().find(|(no, _)| no == slot).map(|(_, since)| *since);
            let since = open_since.unwrap_or(now).max(self.desk.free_since);
            let Some(at) = self.slot_turn(now, place, *slot, &demand, &draws, since, &mut assigned) else { continue };
            // By this node's clock, which may be behind the last holder's: a claim from before the end of a lease is void,
            // and so is one of who let it lapse and does not leave it to others first.
            let sits_out = if *lapsed == Some(me) { self.lease_rules().sits_out() } else { Duration::ZERO };
            let at = at.max(ended.unwrap_or_default() + sits_out);
            // The slot whose turn comes first; of several, that with the lowest number.
            if best.is_none_or(|best| at < best.at) {
                best = Some(Turn { slot: *slot, epoch: *epoch, follows: *follows, at });
            }
        }
        best
    }

    /// From when on this node may claim a slot that has been open, and this node free, since `since`; `None` where it may
    /// not. Who stands first for one slot of an action is `assigned` and not counted for the others.
    #[allow(clippy::too_many_arguments)]
    fn slot_turn(
        &self,
        now: Timestamp,
        place: Place,
        slot: SlotNo,
        demand: &Demand,
        draws: &Draws,
        since: Timestamp,
        assigned: &mut BTreeSet<OperatorId>,
    ) -> Option<Timestamp> {
        let me = self.operator()?;
        let facts = demand.facts()?;
        let fit = Fit { arbiter: slot.is_arbiter(), ..Fit::of(facts, self.memory_for(place, slot, demand)) };
        let entry = self.entry(place, slot, demand)?;
        if !entry.admits(&self.find_voice(&self.node)) || (self.config.lend.arbiter_only && !slot.is_arbiter()) {
            return None;
        }
        let own = draws.of(&me);
        let share = f64::from(u32::from_be_bytes([own[0], own[1], own[2], own[3]])) / f64::from(u32::MAX);
        let patience = self.desk.propagation.patience();
        let idle = self.crowd.idle_len(fit);
        let mut since = since;
        if idle > 2 * RANKS as usize && share * idle as f64 > f64::from(RANKS) {
            since = since + patience * RANKS;
            if now < since {
                return Some(since);
            }
        }
        let ahead = self.ahead(&entry, fit, draws, &own, assigned);
        assigned.extend(ahead.first);
        // Another machine of this operator has the same rank: one of them goes first, the others after everybody.
        let rank = ahead.of.saturating_mul(ahead.siblings).saturating_add(ahead.idle).min(RANKS * 2);
        // Who stood before this node and has taken something else leaves the slot to the next, but nobody has heard of that
        // at the same moment: ranks are waited for anew.
        if rank > 0 {
            let (window, latest) = (patience * RANKS, since + patience * PUT_OFF_RANKS_MAX);
            let from = since.max(Timestamp(now.0.saturating_sub(u64::try_from(window.as_millis()).unwrap_or(0))));
            let put_off = self.crowd.busy_since(from, fit).find(|(_, node)| entry.goes_before(node, self, draws, &own));
            if let Some((at, _)) = put_off {
                since = since.max(at.min(latest));
            }
        }
        let mut wait = patience.saturating_mul(rank);
        // Who seems busy may have become free at this moment, as this node has. Draws spread those over the ready jobs.
        if ahead.busy {
            wait += patience.mul_f64(share);
        }
        Some(since + wait)
    }

    /// Who stands before the node whose draw is `own`.
    fn ahead(&self, entry: &Entry, fit: Fit<'_>, draws: &Draws, own: &[u8; 32], assigned: &BTreeSet<OperatorId>) -> Ahead {
        let me = self.operator();
        let mut ahead = Ahead::default();
        let mut seen: BTreeMap<OperatorId, [u8; 32]> = me.map(|me| (me, *own)).into_iter().collect();
        let turn_of = |node: &NodeId| *blake3::hash(&[node.0.as_slice(), entry.action.as_bytes()].concat()).as_bytes();
        for node in self.crowd.idle(fit).filter(|node| *node != self.node) {
            let Some(operator) = self.eligible(entry, &node) else { continue };
            if Some(operator) == me {
                ahead.siblings += u32::from(turn_of(&node) < turn_of(&self.node));
            } else if !assigned.contains(&operator) {
                seen.entry(operator).or_insert_with(|| draws.of(&operator));
            }
        }
        ahead.of = u32::try_from(seen.len()).unwrap_or(u32::MAX);
        ahead.idle = u32::try_from(seen.values().filter(|draw| *draw < own).count()).unwrap_or(u32::MAX);
        ahead.first = seen.iter().min_by_key(|(_, draw)| **draw).map(|(operator, _)| *operator);
        ahead.busy = if self.crowd.len(fit) > BUSY_LOOKED_AT {
            self.crowd.len(fit) > seen.len()
        } else {
            self.crowd.busy(fit).any(|node| node != self.node && entry.goes_before(&node, self, draws, own))
        };
        ahead
    }

    /// Who may take a slot; `None` where the action is not known.
    fn entry(&self, place: Place, slot: SlotNo, demand: &Demand) -> Option<Entry> {
        let state = self.state(place)?;
        let action = self.board.action_id(place);
        let closed_to = if slot.is_arbiter() {
            self.no_arbiters(place, state)
        } else {
            // On a larger machine anybody may try; what says nothing of the job keeps nobody from trying again.
            let holding = state.slots.iter().filter(|(no, of)| !is_larger(slot) && self.void(state, *no, of).is_none());
            let holders = holding.filter_map(|(_, of)| Some(self.branch_of(of.tenure()?)));
            holders.chain(state.spent.iter().copied()).collect()
        };
        Some(Entry {
            action,
            arbiter: slot.is_arbiter(),
            policies: demand.policies.iter().map(|(_, policy)| policy.clone()).collect(),
            closed_to,
        })
    }

    /// The operator of a node that may take the slot.
    fn eligible(&self, entry: &Entry, node: &NodeId) -> Option<OperatorId> {
        let voice = self.board.author(&node.0).map(|author| self.voice(author))?;
        voice.operator.filter(|_| entry.admits(&voice))
    }

    /// Whether this node has claimed the lease since it could be: once is enough, and if that claim did not win, no
    /// other of this node will. Nor does it build twice under one lease: a commitment outlives the claim that it ends, and
    /// two that differ would make it a fraud.
    fn claimed_already(&self, lease: LeaseRef, follows: ClaimTag, since: Option<Timestamp>) -> bool {
        if self.has_committed(&lease) {
            return true;
        }
        let mut claims = self.board.claims(&lease.action, lease.slot);
        claims.any(|(record, claim)| {
            record.author_key() == self.node.0
                && claim.lease == lease
                && claim.follows == follows
                && since.is_none_or(|since| record.issued() >= since)
        })
    }
}

/// Who may take a slot.
struct Entry {
    action: ActionId,
    arbiter: bool,
    policies: Vec<Arc<Policy>>,
    /// Branches that hold other slots, or attested what is in dispute.
    closed_to: BTreeSet<Branch>,
}

impl Entry {
    fn admits(&self, voice: &Voice) -> bool {
        let Some(branch) = voice.branch.or(voice.operator) else { return false };
        let may = if self.arbiter { voice.trusted } else { self.policies.iter().any(|policy| voice.may_vote(policy)) };
        may && !self.closed_to.contains(&branch)
    }

    /// Whether the operator of a node may take the slot and drew less than `own`.
    fn goes_before(&self, node: &NodeId, engine: &Engine, draws: &Draws, own: &[u8; 32]) -> bool {
        engine.eligible(self, node).is_some_and(|operator| draws.of(&operator) < *own)
    }
}
