//! Whose results do not count: the banned, those proven a fraud, and for a while the suspended (DESIGN sections 5 and 8.5).
//!
//! As everything about members, a pure function of the set of standing records and of the charter.

use std::collections::{BTreeMap, BTreeSet};

use super::{Branch, Members, Membership};
use crate::id::{BlobHash, NodeId, OperatorId, RecordId};
use crate::record::payload::SUSPENSION;
use crate::record::{Payload, Record, SharedRecord};
use crate::time::Timestamp;
use crate::trust::order::{Order, SignedOrder, Verb};
use crate::trust::tuf::RoleKeys;

/// Bans in a branch that end it: its operators are as if nobody had invited them.
const BRANCH_BANS: usize = 2;

/// Why a record is refused that its author did sign: as far as this node knows, it may not say this. Another charter, or
/// another record, may change that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorised {
    /// It takes a maintainer's operator key.
    #[error("only an operator of the maintainers, a founder of the network, may say this")]
    NotMaintainer,
    /// It takes the signatures of as many maintainers as a change of the rules.
    #[error("fewer maintainers have signed it than must, or a signature of one is bad")]
    BelowThreshold,
    /// It takes a node of a sealer.
    #[error("only nodes of the sealers may seal")]
    NotSealer,
    /// It takes back what somebody else said.
    #[error("what it withdraws was said by another operator")]
    NotOwn,
}

/// Suspensions, orders and proofs, and what follows from them.
#[derive(Debug, Clone, Default)]
pub(super) struct Barred {
    /// Who signs for the maintainers together.
    rules: Option<RoleKeys>,
    /// Suspended operator → when, and by whom.
    suspensions: BTreeMap<OperatorId, BTreeMap<RecordId, (Timestamp, OperatorId)>>,
    /// Bans and pardons; what they order and the order's id where enough maintainers signed.
    orders: BTreeMap<RecordId, (SharedRecord, Option<(BlobHash, Order)>)>,
    /// Signed order → how many records carry it: anyone may carry one again, and only the first changes anything.
    carried: BTreeMap<BlobHash, usize>,
    /// The nodes that signed what contradicts itself → how many proofs say so.
    frauds: BTreeMap<NodeId, usize>,
    banned: BTreeSet<OperatorId>,
    proven: BTreeSet<OperatorId>,
}

/// How many there are now.
fn count_up<T: Ord>(counts: &mut BTreeMap<T, usize>, of: T) -> usize {
    let count = counts.entry(of).or_default();
    *count += 1;
    *count
}

fn count_down<T: Ord>(counts: &mut BTreeMap<T, usize>, of: &T) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}

impl Barred {
    /// Takes over who signs for the maintainers; what others signed before counts no more.
    pub(super) fn set_rules(&mut self, rules: Option<RoleKeys>) {
        self.rules = rules;
        self.carried.clear();
        for record in std::mem::take(&mut self.orders).into_values().map(|(record, _)| record) {
            self.add(&record);
        }
    }

    fn is_signed(&self, order: &SignedOrder) -> bool {
        self.rules.as_ref().is_some_and(|rules| order.is_signed(rules))
    }

    /// Whether the same operators are barred, at all times.
    pub(super) fn bars_as(&self, other: &Self) -> bool {
        (&self.banned, &self.proven, &self.suspensions) == (&other.banned, &other.proven, &other.suspensions)
    }

    /// Adds a record; whether it was new and says anything of this.
    pub(super) fn add(&mut self, record: &SharedRecord) -> bool {
        let id = record.id();
        match record.payload() {
            Payload::Suspension(suspension) => {
                let of = self.suspensions.entry(suspension.operator).or_default();
                of.insert(id, (record.issued(), OperatorId(record.author_key()))).is_none()
            }
            Payload::Ban(order) | Payload::Pardon(order) => {
                if self.orders.contains_key(&id) {
                    return false;
                }
                let signed = if self.is_signed(order) { order.order() } else { None };
                let carriers = signed.as_ref().map(|(order, _)| count_up(&mut self.carried, *order));
                self.orders.insert(id, (record.clone(), signed));
                carriers == Some(1)
            }
            // A verified proof has its node.
            Payload::FraudProof(proof) => proof.node().is_some_and(|node| count_up(&mut self.frauds, node) == 1),
            _ => false,
        }
    }

    /// Takes a record out; whether it said anything of this.
    pub(super) fn remove(&mut self, record: &Record) -> bool {
        let id = record.id();
        match record.payload() {
            Payload::Suspension(suspension) => {
                if let Some(of) = self.suspensions.get_mut(&suspension.operator) {
                    of.remove(&id);
                }
                self.suspensions.retain(|_, of| !of.is_empty());
            }
            Payload::Ban(_) | Payload::Pardon(_) => {
                if let Some((_, Some((order, _)))) = self.orders.remove(&id) {
                    count_down(&mut self.carried, &order);
                }
            }
            Payload::FraudProof(proof) => {
                if let Some(node) = proof.node() {
                    count_down(&mut self.frauds, &node);
                }
            }
            _ => return false,
        }
        true
    }

    /// Bans that enough maintainers signed and that no such pardon names, with whom they ban.
    fn bans(&self) -> BTreeMap<BlobHash, OperatorId> {
        let signed = || self.orders.values().filter_map(|(_, signed)| signed.as_ref());
        let pardoned: BTreeSet<(BlobHash, OperatorId)> = signed().filter_map(|(_, order)| Some((order.ban?, order.operator))).collect();
        let bans = signed().filter(|(_, order)| order.verb == Verb::Ban).map(|(id, order)| (*id, order.operator));
        bans.filter(|ban| !pardoned.contains(ban)).collect()
    }

    /// Computes who is banned.
    pub(super) fn recompute_bans(&mut self) {
        self.banned = self.bans().into_values().collect();
    }
}

impl Members {
    /// Checks that a record's author may say what it says, as far as charter and members tell: each rule of DESIGN section 5
    /// that a record does not prove by itself, but for those of batches.
    ///
    /// # Errors
    /// [`Unauthorised`].
    pub fn check_authority(&self, record: &Record) -> Result<(), Unauthorised> {
        let by_founder = || self.is_founder(&OperatorId(record.author_key()));
        match record.payload() {
            Payload::Suspension(_) | Payload::EnvironmentName(_) if !by_founder() => Err(Unauthorised::NotMaintainer),
            Payload::Ban(order) | Payload::Pardon(order) if !self.barred.is_signed(order) => Err(Unauthorised::BelowThreshold),
            Payload::Seal(_) => {
                let operator = self.operator_of(&NodeId(record.author_key()));
                operator.filter(|operator| self.is_founder(operator)).map(drop).ok_or(Unauthorised::NotSealer)
            }
            _ => Ok(()),
        }
    }

    /// Whether none of an operator's results count any more: it is banned, or proven a fraud.
    pub fn is_barred(&self, operator: &OperatorId) -> bool {
        self.barred.banned.contains(operator) || self.barred.proven.contains(operator)
    }

    /// Whether an operator is proven a fraud.
    pub fn is_proven(&self, operator: &OperatorId) -> bool {
        self.barred.proven.contains(operator)
    }

    /// Who is banned.
    pub fn banned(&self) -> impl Iterator<Item = &OperatorId> {
        self.barred.banned.iter()
    }

    /// The bans of an operator that stand, for a pardon to name.
    pub fn bans_of(&self, operator: &OperatorId) -> Vec<BlobHash> {
        self.barred.bans().into_iter().filter(|(_, banned)| banned == operator).map(|(id, _)| id).collect()
    }

    /// Until when an operator is suspended, if it is at that moment.
    pub fn suspended(&self, operator: &OperatorId, at: Timestamp) -> Option<Timestamp> {
        let of = self.barred.suspensions.get(operator)?;
        let standing = of.values().filter(|(from, by)| self.founders.contains(by) && *from <= at && at < *from + SUSPENSION);
        standing.map(|(from, _)| *from + SUSPENSION).max()
    }

    /// Whether what an operator reveals at that moment counts.
    pub fn may_attest(&self, operator: &OperatorId, at: Timestamp) -> bool {
        !self.is_barred(operator) && self.suspended(operator, at).is_none()
    }

    /// Computes who is proven a fraud; whether that changed.
    pub(super) fn recompute_frauds(&mut self) -> bool {
        if self.barred.frauds.is_empty() && self.barred.proven.is_empty() {
            return false;
        }
        // Whoever certified the node, with its consent: another's certificate that came later, with an earlier date, must
        // not take the blame from who had the node.
        let certifiers = self.barred.frauds.keys().filter_map(|node| self.nodes.get(node)).flat_map(|claims| claims.values().copied());
        let proven: BTreeSet<OperatorId> = certifiers.collect();
        let changed = proven != self.barred.proven;
        self.barred.proven = proven;
        changed
    }

    /// Takes those branches away in which too many are banned.
    pub(super) fn end_branches(&self, memberships: &mut BTreeMap<OperatorId, Membership>) {
        let mut bans: BTreeMap<Branch, usize> = BTreeMap::new();
        for membership in self.barred.banned.iter().filter_map(|operator| memberships.get(operator)) {
            *bans.entry(membership.branch).or_default() += 1;
        }
        memberships.retain(|_, membership| bans.get(&membership.branch).is_none_or(|count| *count < BRANCH_BANS));
    }
}
