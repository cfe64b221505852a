//! The set of live records, with the indexes that the engine asks for. What it holds depends on what arrived, never on
//! the order in which it did.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{ActionId, NodeId, RecordId};
use crate::record::payload::{Claim, Commitment, HandBack, LeaseRef, Presence, Renewal, Reveal, SlotNo};
use crate::record::{Kind, Payload, SharedRecord};
use crate::sync::ItemSet;
use crate::time::Timestamp;

/// The most live records of one author. A builder writes about five a build; a flood ends here.
pub const AUTHOR_RECORDS_MAX: usize = 100_000;
/// The most records that wait for their time to come.
pub const PARKED_MAX: usize = 4096;

/// What became of a record that was handed to the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is in the set.
    New,
    /// It was there already.
    Known,
    /// A later one of the author is there, and only the latest counts.
    Outdated,
    /// The author has [`AUTHOR_RECORDS_MAX`] already.
    OverQuota,
}

/// The set of live records.
#[derive(Debug, Default)]
pub struct Board {
    records: BTreeMap<RecordId, SharedRecord>,
    by_expiry: ItemSet,
    latest: BTreeMap<([u8; 32], Kind), RecordId>,
    authored: BTreeMap<[u8; 32], usize>,
    by_action: BTreeMap<ActionId, BTreeSet<RecordId>>,
    kinds: BTreeMap<Kind, BTreeSet<RecordId>>,
    replaced: Vec<SharedRecord>,
}

impl Board {
    /// Puts `record` into the set.
    pub fn insert(&mut self, record: &SharedRecord) -> Inserted {
        let (id, author, kind) = (record.id(), record.author_key(), record.kind());
        if self.records.contains_key(&id) {
            return Inserted::Known;
        }
        if kind.latest_only()
            && let Some(other) = self.latest.get(&(author, kind)).and_then(|other| self.records.get(other))
        {
            // Equal sequences (a restored backup) are decided by the time, then by the id: the same everywhere.
            let rank = |record: &SharedRecord| (record.sequence(), record.issued(), record.id());
            if rank(other) > rank(record) {
                return Inserted::Outdated;
            }
            let other = other.id();
            let replaced = self.remove(&other);
            self.replaced.extend(replaced);
        }
        let count = self.authored.entry(author).or_default();
        if *count >= AUTHOR_RECORDS_MAX {
            return Inserted::OverQuota;
        }
        *count += 1;
        if kind.latest_only() {
            self.latest.insert((author, kind), id);
        }
        for action in actions_of(record.payload()) {
            self.by_action.entry(action).or_default().insert(id);
        }
        self.kinds.entry(kind).or_default().insert(id);
        self.by_expiry.insert((record.forget_at(), id));
        self.records.insert(id, record.clone());
        Inserted::New
    }

    /// Takes a record out of the set.
    pub fn remove(&mut self, id: &RecordId) -> Option<SharedRecord> {
        let record = self.records.remove(id)?;
        self.by_expiry.remove(&(record.forget_at(), *id));
        let (author, kind) = (record.author_key(), record.kind());
        if self.latest.get(&(author, kind)) == Some(id) {
            self.latest.remove(&(author, kind));
        }
        if let Some(count) = self.authored.get_mut(&author) {
            *count -= 1;
            if *count == 0 {
                self.authored.remove(&author);
            }
        }
        for action in actions_of(record.payload()) {
            if let Some(ids) = self.by_action.get_mut(&action) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_action.remove(&action);
                }
            }
        }
        if let Some(ids) = self.kinds.get_mut(&kind) {
            ids.remove(id);
        }
        Some(record)
    }

    /// Takes out all whose time is over at `now`.
    pub fn expire(&mut self, now: Timestamp) -> Vec<SharedRecord> {
        let mut gone = Vec::new();
        while let Some((at, id)) = self.by_expiry.first()
            && at <= now
        {
            gone.extend(self.remove(&id));
        }
        gone
    }

    /// Records that later ones of their author replaced since the last call.
    pub fn take_replaced(&mut self) -> Vec<SharedRecord> {
        std::mem::take(&mut self.replaced)
    }

    /// When the next record's time is over.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.by_expiry.first().map(|(at, _)| at)
    }

    /// The record of that id.
    pub fn record(&self, id: &RecordId) -> Option<&SharedRecord> {
        self.records.get(id)
    }

    /// All records, in the order of their ids.
    pub fn records(&self) -> impl Iterator<Item = &SharedRecord> {
        self.records.values()
    }

    /// (when it may be forgotten, id) of all records, in that order: what anti-entropy compares.
    pub const fn items(&self) -> &ItemSet {
        &self.by_expiry
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All records of a type.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &SharedRecord> {
        self.kinds.get(&kind).into_iter().flatten().filter_map(|id| self.records.get(id))
    }

    fn of_action(&self, action: &ActionId) -> impl Iterator<Item = &SharedRecord> {
        self.by_action.get(action).into_iter().flatten().filter_map(|id| self.records.get(id))
    }

    /// Claims on a slot, with their records.
    pub fn claims(&self, action: &ActionId, slot: SlotNo) -> impl Iterator<Item = (&SharedRecord, &Claim)> {
        self.of_action(action).filter_map(move |record| match record.payload() {
            Payload::Claim(claim) if claim.lease.slot == slot => Some((record, claim)),
            _ => None,
        })
    }

    /// All commitments for an action.
    pub fn commitments(&self, action: &ActionId) -> impl Iterator<Item = (&SharedRecord, &Commitment)> {
        self.of_action(action).filter_map(|record| match record.payload() {
            Payload::Commitment(commitment) => Some((record, commitment)),
            _ => None,
        })
    }

    /// All reveals for an action.
    pub fn reveals(&self, action: &ActionId) -> impl Iterator<Item = (&SharedRecord, &Reveal)> {
        self.of_action(action).filter_map(|record| match record.payload() {
            Payload::Reveal(reveal) => Some((record, reveal)),
            _ => None,
        })
    }

    /// All retries that name an action.
    pub fn retries(&self, action: &ActionId) -> impl Iterator<Item = &SharedRecord> {
        self.of_action(action).filter(|record| record.kind() == Kind::Retry)
    }

    /// When `node` last renewed `lease`, if its latest Renewal lists it.
    pub fn renewed(&self, node: &NodeId, lease: &LeaseRef) -> Option<Timestamp> {
        let record = self.latest_of(node, Kind::Renewal)?;
        let Payload::Renewal(Renewal { leases }) = record.payload() else { return None };
        leases.iter().any(|progress| progress.lease == *lease).then(|| record.issued())
    }

    /// When `node` gave `lease` back.
    pub fn handed_back(&self, node: &NodeId, lease: &LeaseRef) -> Option<Timestamp> {
        let record = self.latest_of(node, Kind::HandBack)?;
        let Payload::HandBack(HandBack { leases }) = record.payload() else { return None };
        let told = leases.iter().find(|told| told.lease == *lease)?;
        // Nobody can say beforehand that it will give a lease back.
        Some(told.at.min(record.issued()))
    }

    /// What every node last said of itself, but for those that said that they leave.
    pub fn presences(&self) -> impl Iterator<Item = (NodeId, &SharedRecord, &Presence)> {
        self.of_kind(Kind::Presence).filter_map(|record| match record.payload() {
            Payload::Presence(presence) if !presence.is_farewell() => Some((NodeId(record.author_key()), record, presence)),
            _ => None,
        })
    }

    /// The record that counts of those types of which only the latest does.
    pub fn latest_of(&self, node: &NodeId, kind: Kind) -> Option<&SharedRecord> {
        self.latest.get(&(node.0, kind)).and_then(|id| self.records.get(id))
    }
}

/// The actions that a record must be found under.
fn actions_of(payload: &Payload) -> Vec<ActionId> {
    match payload {
        Payload::Claim(claim) => vec![claim.lease.action],
        Payload::Commitment(commitment) => vec![commitment.lease.action],
        Payload::Reveal(reveal) => vec![reveal.lease.action],
        Payload::Retry(retry) => retry.actions.iter().copied().collect::<BTreeSet<_>>().into_iter().collect(),
        _ => Vec::new(),
    }
}
