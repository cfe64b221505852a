//! Who works for whom, and who is independent of whom.
//!
//! [`Members`] is a pure function of a set of standing records and of the network's grants: the order in which they
//! arrive changes nothing. A node certificate here has its node's consent, since every verified one has. Branches are the unit of independence (DESIGN section 2): a founder is one, each operator
//! that a founder invites begins one, everyone else is in the branch of who invited them.

mod barred;
mod joining;

use std::collections::{BTreeMap, BTreeSet};

use super::charter::Grants;
use crate::id::{NodeId, OperatorId, RecordId};
use crate::keys;
use crate::policy::{Policy, Voters};
use crate::record::payload::{BearerProof, Invitee, bearer_message};
use crate::record::{Payload, Record, SharedRecord};
use crate::time::Timestamp;

pub use barred::Unauthorised;

/// The longest chain of invitations that counts. Someone whose chain is longer is uninvited.
pub const CHAIN_MAX: u32 = 64;

/// The operators that descend from one: named by the operator that it begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Branch(pub OperatorId);

/// How an operator belongs to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The branch that it is in.
    pub branch: Branch,
    /// Who invited it; absent for founders.
    pub inviter: Option<OperatorId>,
    /// The number of invitations between a founder and it; 0 for founders.
    pub depth: u32,
}

/// An OperatorCertificate, as far as it matters here.
#[derive(Debug, Clone)]
struct Certificate {
    id: RecordId,
    issued: Timestamp,
    bearer: Option<BearerProof>,
}

/// An Invitation.
#[derive(Debug, Clone)]
struct Invited {
    inviter: OperatorId,
    invitee: Invitee,
    until: Timestamp,
}

/// What a record changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learnt {
    /// It was known already, or says nothing of members.
    Known,
    /// It is new, and nobody's standing follows from it.
    Nothing,
    /// For whom that node works may be another now.
    Node(NodeId),
    /// That operator is a member now and was none; for everybody else nothing changed.
    Member(OperatorId),
    /// Somebody's membership is another now.
    Memberships,
}

/// Which node works for whom, and which operators are independent.
#[derive(Debug, Clone, Default)]
pub struct Members {
    founders: BTreeSet<OperatorId>,
    trusted: BTreeSet<OperatorId>,
    /// Operator → its certificates.
    certificates: BTreeMap<OperatorId, BTreeMap<RecordId, Certificate>>,
    invitations: BTreeMap<RecordId, Invited>,
    /// Node → its certificates as (issued, id) → operator.
    nodes: BTreeMap<NodeId, BTreeMap<(Timestamp, RecordId), OperatorId>>,
    /// Whether a certificate's bearer proof is signed by its invitation's key; checked once each.
    proofs: BTreeMap<RecordId, bool>,
    /// Whose results don't count.
    barred: barred::Barred,
    mentions: joining::Mentions,
    /// What follows from all of the above.
    memberships: BTreeMap<OperatorId, Membership>,
}

impl Members {
    /// The founders alone, without any record.
    pub fn new(grants: &Grants) -> Self {
        let mut members = Self::default();
        members.set_grants(grants);
        members
    }

    /// Takes over new grants, of a newer charter.
    pub fn set_grants(&mut self, grants: &Grants) {
        self.founders.clone_from(&grants.founders);
        self.trusted.clone_from(&grants.trusted);
        self.barred.set_rules(grants.rules_keys.clone());
        self.recompute();
    }

    /// Adds a record; those of other types are passed over. Returns whether it was new.
    pub fn insert(&mut self, record: &SharedRecord) -> bool {
        self.learn(record) != Learnt::Known
    }

    /// Adds a record, and tells what it changes.
    pub fn learn(&mut self, record: &SharedRecord) -> Learnt {
        if !self.add(record) {
            return Learnt::Known;
        }
        let changed = match record.payload() {
            Payload::Suspension(_) => true,
            Payload::FraudProof(_) => self.recompute_frauds(),
            // For whom a node works may make a proof out of what two nodes said.
            Payload::NodeCertificate(certificate) if !self.recompute_frauds() => return Learnt::Node(certificate.node),
            Payload::NodeCertificate(_) => true,
            Payload::Ban(_) | Payload::Pardon(_) => self.recompute_and_compare(),
            _ => return self.join(record),
        };
        if changed { Learnt::Memberships } else { Learnt::Nothing }
    }

    fn recompute_and_compare(&mut self) -> bool {
        let before = (self.memberships.clone(), self.barred.clone());
        self.recompute();
        self.memberships != before.0 || !self.barred.bars_as(&before.1)
    }

    /// Adds many records, at the cost of one: for what is read from disk or comes in bulk.
    pub fn extend<'a>(&mut self, records: impl IntoIterator<Item = &'a SharedRecord>) {
        for record in records {
            self.add(record);
        }
        self.recompute();
    }

    /// Whether what an operator writes is a member's, or a guest's whom a member invited: by name, or with a ticket whose
    /// key signed the guest's certificate.
    pub fn expects(&self, record: &Record) -> bool {
        let operator = OperatorId(record.author_key());
        let invited = || {
            let named = self.mentions.named.get(&operator).into_iter().flatten();
            named.filter_map(|id| self.invitations.get(id)).any(|invited| self.memberships.contains_key(&invited.inviter))
        };
        let bears = || {
            let Payload::OperatorCertificate(certificate) = record.payload() else { return false };
            let Some(proof) = &certificate.bearer else { return false };
            let invited = self.invitations.get(&proof.invitation).filter(|invited| self.memberships.contains_key(&invited.inviter));
            let Some(Invitee::Bearer { key, .. }) = invited.map(|invited| &invited.invitee) else { return false };
            keys::verify(key, &bearer_message(&proof.invitation, &operator), &proof.signature).is_ok()
        };
        self.memberships.contains_key(&operator) || self.trusted.contains(&operator) || invited() || bears()
    }

    /// Takes a record out again, as when it expired.
    pub fn remove(&mut self, record: &Record) {
        self.mentions.remove(record);
        let operator = OperatorId(record.author_key());
        match record.payload() {
            Payload::OperatorCertificate(_) => {
                if let Some(certificates) = self.certificates.get_mut(&operator) {
                    certificates.remove(&record.id());
                }
                self.certificates.retain(|_, certificates| !certificates.is_empty());
                self.proofs.remove(&record.id());
            }
            Payload::Invitation(_) => {
                self.invitations.remove(&record.id());
            }
            Payload::NodeCertificate(certificate) => {
                if let Some(claims) = self.nodes.get_mut(&certificate.node) {
                    claims.remove(&(record.issued(), record.id()));
                    if claims.is_empty() {
                        self.nodes.remove(&certificate.node);
                    }
                }
                self.recompute_frauds();
                return;
            }
            _ if self.barred.remove(record) => {}
            _ => return,
        }
        self.recompute();
    }

    fn add(&mut self, record: &SharedRecord) -> bool {
        self.mentions.add(record);
        let operator = OperatorId(record.author_key());
        let id = record.id();
        match record.payload() {
            Payload::OperatorCertificate(certificate) => {
                let certificate = Certificate { id, issued: record.issued(), bearer: certificate.bearer.clone() };
                self.certificates.entry(operator).or_default().insert(id, certificate).is_none()
            }
            Payload::NodeCertificate(certificate) => {
                let claims = self.nodes.entry(certificate.node).or_default();
                claims.insert((record.issued(), id), operator).is_none()
            }
            Payload::Invitation(invitation) => {
                let invited = Invited { inviter: operator, invitee: invitation.invitee.clone(), until: invitation.until };
                self.invitations.insert(id, invited).is_none()
            }
            _ => self.barred.add(record),
        }
    }

    /// Which operator a node works for. Where a node agreed to work for several, members come before others, then the
    /// earliest certificate counts, then the lowest id. The earliest and not the latest, since what a node attested is
    /// committed to for the operator that it had: a later agreement must not make that void.
    pub fn operator_of(&self, node: &NodeId) -> Option<OperatorId> {
        let claims = self.nodes.get(node)?;
        let of_member = claims.values().find(|operator| self.memberships.contains_key(operator));
        of_member.or_else(|| claims.values().next()).copied()
    }

    /// The nodes that an operator ever certified, whomever they work for.
    pub fn certified_by(&self, operator: &OperatorId) -> impl Iterator<Item = &NodeId> {
        self.mentions.nodes.get(operator).into_iter().flatten()
    }

    /// The nodes that work for an operator.
    pub fn nodes_of(&self, operator: &OperatorId) -> BTreeSet<NodeId> {
        self.certified_by(operator).filter(|node| self.operator_of(node) == Some(*operator)).copied().collect()
    }

    /// The branch of an operator; `None` for all that nobody invited, who together count as one.
    pub fn branch_of(&self, operator: &OperatorId) -> Option<Branch> {
        self.memberships.get(operator).map(|membership| membership.branch)
    }

    /// How an operator belongs to the network; `None` for the uninvited.
    pub fn membership(&self, operator: &OperatorId) -> Option<&Membership> {
        self.memberships.get(operator)
    }

    /// All members, by operator.
    pub const fn memberships(&self) -> &BTreeMap<OperatorId, Membership> {
        &self.memberships
    }

    /// All operators that are known: members, and those that take part without an invitation.
    pub fn operators(&self) -> BTreeSet<OperatorId> {
        self.memberships.keys().chain(self.certificates.keys()).copied().collect()
    }

    /// Whether an operator founded the network.
    pub fn is_founder(&self, operator: &OperatorId) -> bool {
        self.founders.contains(operator)
    }

    /// Whether the policy trusts an operator; never one that is barred.
    pub fn is_trusted(&self, operator: &OperatorId) -> bool {
        self.trusted.contains(operator) && !self.is_barred(operator)
    }

    /// Whether an operator's attestations count as votes.
    pub fn may_vote(&self, operator: &OperatorId, policy: &Policy) -> bool {
        match policy.voters {
            Voters::Trusted => self.is_trusted(operator),
            Voters::Invited => self.memberships.contains_key(operator) && !self.is_barred(operator),
        }
    }

    /// The operators whose attestations count as votes.
    pub fn voters(&self, policy: &Policy) -> BTreeSet<OperatorId> {
        let candidates = self.trusted.iter().chain(self.memberships.keys());
        candidates.filter(|operator| self.may_vote(operator, policy)).copied().collect()
    }

    /// Computes all memberships anew, generation by generation from the founders on. An operator's generation is the
    /// first in which someone's invitation reaches it; of several invitations in that generation the lowest id counts.
    fn recompute(&mut self) {
        self.barred.recompute_bans();
        let redeemed = self.redeemed();
        let mut memberships: BTreeMap<OperatorId, Membership> =
            (self.founders.iter()).map(|founder| (*founder, Membership { branch: Branch(*founder), inviter: None, depth: 0 })).collect();
        let mut by_inviter: BTreeMap<OperatorId, Vec<(RecordId, OperatorId)>> = BTreeMap::new();
        for (invitation, operators) in redeemed {
            if let Some(invited) = self.invitations.get(&invitation) {
                let guests = operators.into_iter().map(|operator| (invitation, operator));
                by_inviter.entry(invited.inviter).or_default().extend(guests);
            }
        }
        let mut generation: Vec<OperatorId> = memberships.keys().copied().collect();
        for depth in 1..=CHAIN_MAX {
            let mut reached: BTreeMap<OperatorId, (RecordId, OperatorId)> = BTreeMap::new();
            for inviter in &generation {
                for (invitation, guest) in by_inviter.get(inviter).into_iter().flatten() {
                    if memberships.contains_key(guest) {
                        continue;
                    }
                    let found = (*invitation, *inviter);
                    reached.entry(*guest).and_modify(|best| *best = found.min(*best)).or_insert(found);
                }
            }
            if reached.is_empty() {
                break;
            }
            generation = reached.keys().copied().collect();
            for (guest, (_, inviter)) in reached {
                let branch = match memberships.get(&inviter) {
                    Some(above) if above.depth > 0 => above.branch,
                    // Whom a founder invites begins a branch.
                    _ => Branch(guest),
                };
                memberships.insert(guest, Membership { branch, inviter: Some(inviter), depth });
            }
        }
        self.end_branches(&mut memberships);
        self.memberships = memberships;
        self.recompute_frauds();
    }

    /// Invitation → the operators that follow it rightly, whether or not its author may invite.
    fn redeemed(&mut self) -> BTreeMap<RecordId, BTreeSet<OperatorId>> {
        let mut redeemed: BTreeMap<RecordId, BTreeSet<OperatorId>> = BTreeMap::new();
        for (id, invited) in &self.invitations {
            if let Invitee::Operator(guest) = &invited.invitee
                && self.certificates.get(guest).is_some_and(|all| all.values().any(|c| c.issued <= invited.until))
            {
                redeemed.entry(*id).or_default().insert(*guest);
            }
        }
        // Of an operator's certificates that follow one invitation the lowest id counts, and of all operators' the
        // lowest `uses` of them.
        let mut claims: BTreeMap<RecordId, BTreeSet<(RecordId, OperatorId)>> = BTreeMap::new();
        for (operator, certificates) in &self.certificates {
            let mut followed = BTreeSet::new();
            for certificate in certificates.values() {
                let Some(proof) = &certificate.bearer else { continue };
                if followed.contains(&proof.invitation) {
                    continue;
                }
                if follows_rightly(&self.invitations, &mut self.proofs, operator, certificate) {
                    followed.insert(proof.invitation);
                    claims.entry(proof.invitation).or_default().insert((certificate.id, *operator));
                }
            }
        }
        for (invitation, claims) in claims {
            if let Some(Invitee::Bearer { uses, .. }) = self.invitations.get(&invitation).map(|invited| &invited.invitee) {
                let guests = claims.into_iter().take(usize::from(*uses)).map(|(_, operator)| operator);
                redeemed.entry(invitation).or_default().extend(guests);
            }
        }
        redeemed
    }
}

/// Whether an operator's certificate follows a ticket in time, and with the ticket's signature.
fn follows_rightly(
    invitations: &BTreeMap<RecordId, Invited>,
    proofs: &mut BTreeMap<RecordId, bool>,
    operator: &OperatorId,
    certificate: &Certificate,
) -> bool {
    let Some(proof) = &certificate.bearer else { return false };
    let Some(invited) = invitations.get(&proof.invitation) else { return false };
    let Invitee::Bearer { key, .. } = &invited.invitee else { return false };
    certificate.issued <= invited.until
        && *proofs
            .entry(certificate.id)
            .or_insert_with(|| keys::verify(key, &bearer_message(&proof.invitation, operator), &proof.signature).is_ok())
}

#[cfg(test)]
mod tests;
