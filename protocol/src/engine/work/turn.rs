//! Whose turn it is to claim: an order that all come to alike, as far as they know of each other, so that claims seldom
//! meet (DESIGN section 6).

use std::collections::BTreeSet;

use crate::blame::is_larger;
use crate::id::{NodeId, OperatorId};
use crate::platform::Facts;
use crate::record::payload::{LeaseRef, SlotNo};
use crate::table::Place;
use crate::time::Timestamp;
use crate::verdict::Branch;

use super::super::Engine;
use super::super::lease::{Draws, SlotState};
use super::super::settle::Demand;

/// When this node may claim what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// The slot.
    pub slot: SlotNo,
    /// The epoch that the claim must name.
    pub epoch: u32,
    /// From when on.
    pub at: Timestamp,
}

/// Operators that could take a slot.
#[derive(Debug, Default)]
struct Rivals {
    /// With a node that has room for it now; this node's own among them.
    idle: BTreeSet<OperatorId>,
    /// Whose nodes were all busy when they were last heard of.
    busy: BTreeSet<OperatorId>,
    /// Other idle machines of this node's operator that stand before this one.
    siblings_ahead: usize,
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
        let me = self.operator()?;
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
        let had_its_turn = state.slots.iter().any(mine);
        let nonce = self.batches.get(&demand.batch)?.batch().nonce;
        let quantum = self.desk.propagation * 2;
        let mut assigned = BTreeSet::new();
        let mut best: Option<Turn> = None;
        for (slot, slot_state) in &state.slots {
            let SlotState::Open { epoch, lapsed, since: ended } = slot_state else { continue };
            // On a larger machine whoever found the job too large may try it again.
            if had_its_turn && !is_larger(*slot) || memory < self.limits_of(place, *slot, &demand).memory {
                continue;
            }
            if self.claimed_already(LeaseRef { action: *action, slot: *slot, epoch: *epoch }, *ended) {
                continue;
            }
            let rivals = self.rivals(place, *slot, &demand);
            let draws = Draws::new(&nonce, action, *slot);
            let mut order: Vec<([u8; 32], OperatorId)> = rivals
                .idle
                .into_iter()
                .filter(|operator| !assigned.contains(operator))
                .map(|operator| (draws.of(&operator), operator))
                .collect();
            order.sort();
            if let Some((_, first)) = order.first() {
                assigned.insert(*first);
            }
            let Some(rank) = order.iter().position(|(_, operator)| *operator == me) else { continue };
            let own = order[rank].0;
            // Another machine of this operator has the same rank: one of them goes first, the others after everybody.
            let rank = rank + order.len() * rivals.siblings_ahead;
            let mut wait = quantum.saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX));
            // Who seems busy may have become free at this moment, as this node has. Draws spread those over the ready jobs.
            if rivals.busy.iter().any(|operator| draws.of(operator) < own) {
                wait += quantum * u32::from(own[0]) / 256;
            }
            // Who let the lease lapse leaves it to others first.
            if *lapsed == Some(me) {
                wait += self.params.lease_ttl * 2;
            }
            let open_since = state.open_since.iter().find(|(no, _)| no == slot).map(|(_, since)| *since);
            let since = open_since.unwrap_or(now).max(self.desk.free_since);
            // By this node's clock, which may be behind the last holder's: a claim from before the end of a lease is void.
            let at = (since + wait).max(ended.unwrap_or_default());
            // The slot whose turn comes first; of several, that with the lowest number.
            if best.is_none_or(|best| at < best.at) {
                best = Some(Turn { slot: *slot, epoch: *epoch, at });
            }
        }
        best
    }

    /// Whether this node has claimed the lease since it could be: once is enough, and if that claim did not win, no
    /// other of this node will.
    fn claimed_already(&self, lease: LeaseRef, since: Option<Timestamp>) -> bool {
        let mut claims = self.board.claims(&lease.action, lease.slot);
        claims.any(|(record, claim)| {
            record.author_key() == self.node.0 && claim.lease == lease && since.is_none_or(|since| record.issued() >= since)
        })
    }

    /// Operators that could take the slot, as far as this node knows.
    fn rivals(&self, place: Place, slot: SlotNo, demand: &Demand) -> Rivals {
        let mut rivals = Rivals::default();
        let (Some(state), Some(facts)) = (self.state(place), demand.facts()) else { return rivals };
        let action = self.board.action_id(place);
        let attested = if slot.is_arbiter() { self.no_arbiters(place, state) } else { BTreeSet::new() };
        // On a larger machine anybody may try; what says nothing of the job keeps nobody from trying again.
        let holding = state.slots.iter().filter(|(no, of)| !is_larger(slot) && self.void(state, *no, of).is_none());
        let tenures = holding.filter_map(|(_, state)| state.tenure());
        let held: BTreeSet<Branch> = tenures.map(|tenure| self.branch(&tenure.operator)).collect();
        let admitted =
            |operator: &OperatorId| demand.policies.iter().any(|(_, policy)| crate::verdict::may_vote(&self.members, operator, policy));
        let may = |operator: &OperatorId| {
            if slot.is_arbiter() {
                self.members.is_trusted(operator) && !attested.contains(&self.branch(operator))
            } else {
                admitted(operator) && !held.contains(&self.branch(operator))
            }
        };
        let me = self.operator();
        let wanted = Self::memory_for(slot, demand);
        let turn_of = |node: &NodeId| *blake3::hash(&[node.0.as_slice(), action.as_bytes()].concat()).as_bytes();
        for (node, _, presence) in self.board.presences() {
            let able = node != self.node
                && presence.accepting
                && (slot.is_arbiter() || !presence.arbiter_only)
                && presence.cores >= facts.cores
                && Facts::met_by(presence, &facts.environment);
            let Some(operator) = self.members.operator_of(&node).filter(|operator| able && may(operator)) else { continue };
            let memory = u64::from(presence.free_memory_mib) << 20;
            let idle = presence.free_cores >= facts.cores && memory >= wanted;
            if idle {
                rivals.siblings_ahead += usize::from(Some(operator) == me && turn_of(&node) < turn_of(&self.node));
                rivals.idle.insert(operator)
            } else {
                rivals.busy.insert(operator)
            };
        }
        let lend = &self.config.lend;
        if let Some(me) = me
            && may(&me)
            && (slot.is_arbiter() || !lend.arbiter_only)
        {
            rivals.idle.insert(me);
        }
        rivals.busy.retain(|operator| !rivals.idle.contains(operator));
        rivals
    }
}
