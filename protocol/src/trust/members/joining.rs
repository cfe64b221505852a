//! What one more record changes, without computing everybody's membership anew: who joins a network of ten thousand reads
//! tens of thousands of standing records, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Branch, CHAIN_MAX, Learnt, Members, Membership};
use crate::id::{NodeId, OperatorId, RecordId};
use crate::record::payload::Invitee;
use crate::record::{Payload, SharedRecord};

/// Who is mentioned where.
#[derive(Debug, Clone, Default)]
pub(super) struct Mentions {
    /// Operator → invitations that name it.
    pub named: BTreeMap<OperatorId, BTreeSet<RecordId>>,
    /// Operators that invited somebody.
    pub inviters: BTreeMap<OperatorId, BTreeSet<RecordId>>,
    /// Invitation → certificates that say that they follow it.
    pub followers: BTreeMap<RecordId, BTreeSet<RecordId>>,
    /// Operator → nodes that it certified.
    pub nodes: BTreeMap<OperatorId, BTreeSet<NodeId>>,
}

fn add<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: V) {
    map.entry(key).or_default().insert(value);
}

fn take<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(of) = map.get_mut(key) {
        of.remove(value);
        if of.is_empty() {
            map.remove(key);
        }
    }
}

impl Mentions {
    /// A record is known now.
    pub fn add(&mut self, record: &SharedRecord) {
        let author = OperatorId(record.author_key());
        match record.payload() {
            Payload::OperatorCertificate(certificate) => {
                if let Some(proof) = &certificate.bearer {
                    add(&mut self.followers, proof.invitation, record.id());
                }
            }
            Payload::Invitation(invitation) => {
                add(&mut self.inviters, author, record.id());
                if let Invitee::Operator(guest) = invitation.invitee {
                    add(&mut self.named, guest, record.id());
                }
            }
            Payload::NodeCertificate(certificate) => add(&mut self.nodes, author, certificate.node),
            _ => {}
        }
    }

    /// A record is not known any more. (Nodes stay with whoever certified them once: they are looked up again.)
    pub fn remove(&mut self, record: &crate::record::Record) {
        let author = OperatorId(record.author_key());
        match record.payload() {
            Payload::OperatorCertificate(certificate) => {
                if let Some(proof) = &certificate.bearer {
                    take(&mut self.followers, &proof.invitation, &record.id());
                }
            }
            Payload::Invitation(invitation) => {
                take(&mut self.inviters, &author, &record.id());
                if let Invitee::Operator(guest) = &invitation.invitee {
                    take(&mut self.named, guest, &record.id());
                }
            }
            _ => {}
        }
    }
}

impl Members {
    /// What follows from a certificate or an invitation that was just added.
    pub(super) fn join(&mut self, record: &SharedRecord) -> Learnt {
        let author = OperatorId(record.author_key());
        let guest = match record.payload() {
            Payload::OperatorCertificate(_) => author,
            Payload::Invitation(_) if !self.memberships.contains_key(&author) => return Learnt::Nothing,
            Payload::Invitation(invitation) => match invitation.invitee {
                Invitee::Operator(guest) => guest,
                Invitee::Bearer { .. } if self.mentions.followers.contains_key(&record.id()) => return self.compare(),
                Invitee::Bearer { .. } => return Learnt::Nothing,
            },
            _ => return Learnt::Nothing,
        };
        // Whether there is room for one more on a ticket depends on all who hold it.
        let proofs = self.certificates.get(&guest).into_iter().flat_map(BTreeMap::values).flat_map(|certificate| &certificate.bearer);
        if proofs.into_iter().any(|proof| self.is_contended(&proof.invitation)) {
            return self.compare();
        }
        let found = self.place(&guest);
        let before = self.memberships.get(&guest);
        if before == found.as_ref() || before.is_some_and(|before| before.depth == 0) {
            return Learnt::Nothing;
        }
        match found {
            // Nobody else's membership rests on who was no member and has invited nobody.
            Some(membership) if before.is_none() && !self.mentions.inviters.contains_key(&guest) => {
                self.memberships.insert(guest, membership);
                Learnt::Member(guest)
            }
            _ => self.compare(),
        }
    }

    fn compare(&mut self) -> Learnt {
        if self.recompute_and_compare() { Learnt::Memberships } else { Learnt::Nothing }
    }

    /// Whether more follow an invitation than it lets in.
    fn is_contended(&self, invitation: &RecordId) -> bool {
        let followers = self.mentions.followers.get(invitation).map_or(0, BTreeSet::len);
        match self.invitations.get(invitation).map(|invited| &invited.invitee) {
            Some(Invitee::Bearer { uses, .. }) => followers > usize::from(*uses),
            _ => false,
        }
    }

    /// The membership that an operator has by the invitations of those who are members: of the shortest chain, and of
    /// several by the invitation with the lowest id. Where a ticket is contended, that is not decided here.
    fn place(&mut self, guest: &OperatorId) -> Option<Membership> {
        let certificates = self.certificates.get(guest)?.clone();
        let named = self.mentions.named.get(guest).into_iter().flatten().copied();
        let named = named.filter(|id| {
            self.invitations.get(id).is_some_and(|invited| certificates.values().any(|certificate| certificate.issued <= invited.until))
        });
        let mut redeemed: BTreeSet<RecordId> = named.collect();
        for certificate in certificates.values() {
            let Some(proof) = &certificate.bearer else { continue };
            if super::follows_rightly(&self.invitations, &mut self.proofs, guest, certificate) {
                redeemed.insert(proof.invitation);
            }
        }
        let places = redeemed.into_iter().filter_map(|id| {
            let inviter = self.invitations.get(&id)?.inviter;
            let above = self.memberships.get(&inviter).filter(|above| above.depth < CHAIN_MAX)?;
            Some((above.depth + 1, id, inviter, if above.depth > 0 { above.branch } else { Branch(*guest) }))
        });
        let (depth, _, inviter, branch) = places.min_by_key(|(depth, id, ..)| (*depth, *id))?;
        Some(Membership { branch, inviter: Some(inviter), depth })
    }
}
