//! The set of live records, with the indexes that the engine asks for. What it holds depends on what arrived, never on
//! the order in which it did.
//!
//! A record is kept once and everything else names it by its place, a `u32`: actions and authors too, each with its 32
//! bytes in one list. Places are this node's own and say nothing to others.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{ActionId, NodeId, RecordId};
use crate::record::payload::{Claim, Commitment, LeaseProgress, LeaseRef, Presence, Renewal, Reveal, SlotNo};
use crate::record::{Kind, Payload, SharedRecord};
use crate::sync::ItemSet;
use crate::table::{Place, Table};
use crate::time::Timestamp;

/// The most live records of one author, a HandBack counted once for each lease. A builder writes about five a build; a
/// flood ends here.
pub const AUTHOR_RECORDS_MAX: usize = 100_000;
/// The most live records of an author whom no member vouches for: enough to take part and to ask for an invitation.
pub const STRANGER_RECORDS_MAX: usize = 256;
/// The most live records of all such authors together. No lease and no verdict rests on any of them, so whoever makes ten
/// thousand keys fills this and nothing else.
pub const STRANGERS_RECORDS_MAX: usize = 16_384;
/// The most records that wait for their time to come.
pub const PARKED_MAX: usize = 4096;

/// No place.
pub(super) const NONE: Place = u32::MAX;

/// What became of a record that was handed to the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is in the set.
    New,
    /// It was there already.
    Known,
    /// A later one of the author is there, and only the latest counts.
    Outdated,
    /// The author has as many as it may have, or strangers have.
    OverQuota,
}

#[derive(Debug)]
struct Entry {
    record: Option<SharedRecord>,
    author: Place,
    /// The action that it is about; [`NONE`] where it is about none or, as a Retry, about many.
    action: Place,
    /// The neighbours among those of the action; of a free entry the next free one.
    next: Place,
    before: Place,
}

#[derive(Debug)]
struct Author {
    key: [u8; 32],
    live: u32,
    /// Whether no member vouches for it.
    stranger: bool,
    /// Its Renewal and Presence that count.
    latest: [Place; 2],
}

#[derive(Debug)]
struct OfAction {
    id: ActionId,
    /// Its newest record, as it arrived.
    first: Place,
    records: u32,
    /// Whether a job stands for it, so that its place must stay though no record names it.
    held: bool,
}

/// The set of live records.
#[derive(Debug)]
pub struct Board {
    entries: Vec<Entry>,
    free_entries: Vec<Place>,
    places: Table,
    by_expiry: ItemSet,
    authors: Vec<Author>,
    free_authors: Vec<Place>,
    author_places: Table,
    /// Live records of strangers.
    strange: usize,
    actions: Vec<OfAction>,
    free_actions: Vec<Place>,
    action_places: Table,
    /// Who has said what it has to spare, by key.
    present: BTreeMap<[u8; 32], Place>,
    /// Records of those types of which there are few.
    kinds: BTreeMap<Kind, BTreeMap<RecordId, Place>>,
    retries: BTreeMap<ActionId, BTreeSet<Place>>,
    /// (author, lease) → when the author gave it back, and in which record.
    hand_backs: BTreeMap<(Place, LeaseRef), BTreeSet<(Timestamp, Place)>>,
    replaced: Vec<SharedRecord>,
    fresh_authors: Vec<Place>,
}

const fn latest_of(kind: Kind) -> Option<usize> {
    match kind {
        Kind::Renewal => Some(0),
        Kind::Presence => Some(1),
        _ => None,
    }
}

/// The action that a record is kept under.
fn action_of(payload: &Payload) -> Option<ActionId> {
    match payload {
        Payload::Claim(claim) => Some(claim.lease.action),
        Payload::Commitment(commitment) => Some(commitment.lease.action),
        Payload::Reveal(reveal) => Some(reveal.lease.action),
        _ => None,
    }
}

/// How much of its author's share a record takes: a HandBack as much as the leases that it lists, since each of them is
/// kept where it is looked for.
fn weight(payload: &Payload) -> u32 {
    match payload {
        Payload::HandBack(back) => u32::try_from(back.leases.len()).unwrap_or(u32::MAX).max(1),
        _ => 1,
    }
}

/// Puts `item` at a free place of `list`.
fn put<T>(list: &mut Vec<T>, free: &mut Vec<Place>, item: T) -> Place {
    if let Some(place) = free.pop() {
        list[place as usize] = item;
        return place;
    }
    list.push(item);
    // Quotas end long before 2^32 records.
    u32::try_from(list.len() - 1).unwrap_or(NONE)
}

impl Default for Board {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Board {
    /// An empty set. The seed is secret: it keeps others from choosing ids that slow this node down.
    pub fn new(seed: u64) -> Self {
        Self {
            entries: Vec::new(),
            free_entries: Vec::new(),
            places: Table::new(seed),
            by_expiry: ItemSet::default(),
            authors: Vec::new(),
            free_authors: Vec::new(),
            author_places: Table::new(seed),
            strange: 0,
            actions: Vec::new(),
            free_actions: Vec::new(),
            action_places: Table::new(seed),
            present: BTreeMap::new(),
            kinds: BTreeMap::new(),
            retries: BTreeMap::new(),
            hand_backs: BTreeMap::new(),
            replaced: Vec::new(),
            fresh_authors: Vec::new(),
        }
    }

    fn place(&self, id: &RecordId) -> Option<Place> {
        let entries = &self.entries;
        self.places.find(&id.0, |place| entries[place as usize].record.as_ref().map_or(&[0; 32], |record| record.id_bytes()))
    }

    fn at(&self, place: Place) -> Option<&SharedRecord> {
        self.entries.get(place as usize)?.record.as_ref()
    }

    /// The place of an author, if it has live records.
    pub(super) fn author(&self, key: &[u8; 32]) -> Option<Place> {
        self.author_places.find(key, |place| &self.authors[place as usize].key)
    }

    /// The key of the author at a place.
    pub(super) fn author_key(&self, author: Place) -> [u8; 32] {
        self.authors[author as usize].key
    }

    /// Number of places of authors, free ones among them.
    pub(super) const fn authors_len(&self) -> usize {
        self.authors.len()
    }

    /// Places at which an author stands since the last call that was not there before.
    pub(super) fn take_fresh_authors(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.fresh_authors)
    }

    /// The place of an action, if a record names it or a job stands for it.
    pub(super) fn action(&self, id: &ActionId) -> Option<Place> {
        self.action_places.find(&id.0, |place| &self.actions[place as usize].id.0)
    }

    /// The action at a place.
    pub(super) fn action_id(&self, action: Place) -> ActionId {
        self.actions[action as usize].id
    }

    fn action_or_new(&mut self, id: ActionId) -> Place {
        if let Some(place) = self.action(&id) {
            return place;
        }
        let place = put(&mut self.actions, &mut self.free_actions, OfAction { id, first: NONE, records: 0, held: false });
        self.action_places.insert(&id.0, place);
        place
    }

    /// The action that a record is about.
    pub(super) fn action_of_record(&self, id: &RecordId) -> Option<Place> {
        let entry = self.entries.get(self.place(id)? as usize)?;
        Some(entry.action).filter(|action| *action != NONE)
    }

    /// The places of all actions, and some at which none is.
    pub(super) fn all_actions(&self) -> impl Iterator<Item = Place> + use<> {
        0..u32::try_from(self.actions.len()).unwrap_or(NONE)
    }

    /// Gives an action a place that stays until [`Board::release`].
    pub(super) fn hold(&mut self, id: ActionId) -> Place {
        let place = self.action_or_new(id);
        self.actions[place as usize].held = true;
        place
    }

    /// No job stands for the action any more.
    pub(super) fn release(&mut self, action: Place) {
        self.actions[action as usize].held = false;
        self.drop_action(action);
    }

    fn drop_action(&mut self, action: Place) {
        let of = &self.actions[action as usize];
        if of.records == 0 && !of.held {
            let actions = &self.actions;
            self.action_places.remove(&of.id.0, |place| &actions[place as usize].id.0);
            self.free_actions.push(action);
        }
    }

    /// Whether the author at a place has live records other than those that tell of itself.
    pub(super) fn speaks_of_actions(&self, author: Place) -> bool {
        let of = &self.authors[author as usize];
        let presence = u32::from(of.latest[1] != NONE);
        of.live > presence
    }

    /// Whether nobody vouched for the author at a place when it last said something.
    pub(super) fn is_stranger(&self, author: Place) -> bool {
        self.authors[author as usize].stranger
    }

    /// A member vouches for the author at a place now.
    pub(super) fn vouch(&mut self, author: Place) {
        let of = &mut self.authors[author as usize];
        if std::mem::take(&mut of.stranger) {
            self.strange -= of.live as usize;
        }
    }

    fn is_over_quota(&self, author: Option<Place>, stranger: bool, weight: u32) -> bool {
        let weight = weight as usize;
        let live = author.map_or(0, |author| self.authors[author as usize].live as usize) + weight;
        live > AUTHOR_RECORDS_MAX || stranger && (live > STRANGER_RECORDS_MAX || self.strange + weight > STRANGERS_RECORDS_MAX)
    }

    /// Puts `record` into the set, as one that a member vouches for.
    pub fn insert(&mut self, record: &SharedRecord) -> Inserted {
        self.insert_from(record, false)
    }

    /// Puts `record` into the set; within narrow bounds where no member vouches for its author.
    pub(super) fn insert_from(&mut self, record: &SharedRecord, stranger: bool) -> Inserted {
        let (id, key, kind) = (record.id(), record.author_key(), record.kind());
        if self.place(&id).is_some() {
            return Inserted::Known;
        }
        let author = self.author(&key);
        let (latest, weight) = (latest_of(kind), weight(record.payload()));
        if let (Some(author), Some(latest)) = (author, latest)
            && let Some(other) = self.at(self.authors[author as usize].latest[latest])
        {
            // Equal sequences (a restored backup) are decided by the time, then by the id: the same everywhere.
            let rank = |record: &SharedRecord| (record.sequence(), record.issued(), record.id());
            if rank(other) > rank(record) {
                return Inserted::Outdated;
            }
        } else if self.is_over_quota(author, stranger, weight) {
            return Inserted::OverQuota;
        }
        let author = author.unwrap_or_else(|| {
            let place = put(&mut self.authors, &mut self.free_authors, Author { key, live: 0, stranger, latest: [NONE; 2] });
            self.author_places.insert(&key, place);
            self.fresh_authors.push(place);
            place
        });
        if !stranger {
            self.vouch(author);
        }
        let of = &mut self.authors[author as usize];
        of.live += weight;
        self.strange += if of.stranger { weight as usize } else { 0 };
        let action = action_of(record.payload()).map_or(NONE, |action| self.action_or_new(action));
        let entry = Entry { record: Some(record.clone()), author, action, next: NONE, before: NONE };
        let place = put(&mut self.entries, &mut self.free_entries, entry);
        self.places.insert(&id.0, place);
        self.by_expiry.insert((record.forget_at(), id));
        if action != NONE {
            let of = &mut self.actions[action as usize];
            let next = std::mem::replace(&mut of.first, place);
            of.records += 1;
            self.entries[place as usize].next = next;
            if next != NONE {
                self.entries[next as usize].before = place;
            }
        } else if let Some(latest) = latest {
            let old = std::mem::replace(&mut self.authors[author as usize].latest[latest], place);
            if old != NONE {
                let replaced = self.remove_at(old);
                self.replaced.extend(replaced);
            }
            if kind == Kind::Presence {
                self.present.insert(key, author);
            }
        } else {
            self.kinds.entry(kind).or_default().insert(id, place);
            if let Payload::Retry(retry) = record.payload() {
                for action in retry.actions.iter() {
                    self.retries.entry(*action).or_default().insert(place);
                }
            }
            if let Payload::HandBack(back) = record.payload() {
                for lease in back.leases.iter() {
                    self.hand_backs.entry((author, *lease)).or_default().insert((record.issued(), place));
                }
            }
        }
        Inserted::New
    }

    /// Takes a record out of the set.
    pub fn remove(&mut self, id: &RecordId) -> Option<SharedRecord> {
        self.remove_at(self.place(id)?)
    }

    fn remove_at(&mut self, place: Place) -> Option<SharedRecord> {
        let entries = &self.entries;
        let id = entries.get(place as usize)?.record.as_ref()?.id();
        self.places.remove(&id.0, |place| entries[place as usize].record.as_ref().map_or(&[0; 32], |record| record.id_bytes()));
        let entry = &mut self.entries[place as usize];
        let record = entry.record.take()?;
        let (author, action, next, before) = (entry.author, entry.action, entry.next, entry.before);
        self.free_entries.push(place);
        self.by_expiry.remove(&(record.forget_at(), id));
        if action != NONE {
            if before == NONE {
                self.actions[action as usize].first = next;
            } else {
                self.entries[before as usize].next = next;
            }
            if next != NONE {
                self.entries[next as usize].before = before;
            }
            self.actions[action as usize].records -= 1;
            self.drop_action(action);
        } else if let Some(latest) = latest_of(record.kind()) {
            let slot = &mut self.authors[author as usize].latest[latest];
            if *slot == place {
                *slot = NONE;
                if record.kind() == Kind::Presence {
                    self.present.remove(&record.author_key());
                }
            }
        } else {
            if let Some(ids) = self.kinds.get_mut(&record.kind()) {
                ids.remove(&id);
            }
            if let Payload::Retry(retry) = record.payload() {
                for action in retry.actions.iter() {
                    if let Some(places) = self.retries.get_mut(action) {
                        places.remove(&place);
                        if places.is_empty() {
                            self.retries.remove(action);
                        }
                    }
                }
            }
            if let Payload::HandBack(back) = record.payload() {
                for lease in back.leases.iter() {
                    if let Some(told) = self.hand_backs.get_mut(&(author, *lease)) {
                        told.remove(&(record.issued(), place));
                        if told.is_empty() {
                            self.hand_backs.remove(&(author, *lease));
                        }
                    }
                }
            }
        }
        let of = &mut self.authors[author as usize];
        let weight = weight(record.payload());
        of.live -= weight;
        self.strange -= if of.stranger { weight as usize } else { 0 };
        if of.live == 0 {
            let authors = &self.authors;
            self.author_places.remove(&record.author_key(), |place| &authors[place as usize].key);
            self.free_authors.push(author);
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
        self.at(self.place(id)?)
    }

    /// All records, in the order of their ids.
    pub fn records(&self) -> impl Iterator<Item = &SharedRecord> {
        let mut all: Vec<&SharedRecord> = self.entries.iter().filter_map(|entry| entry.record.as_ref()).collect();
        all.sort_unstable_by_key(|record| record.id());
        all.into_iter()
    }

    /// (when it may be forgotten, id) of all records, in that order: what anti-entropy compares.
    pub const fn items(&self) -> &ItemSet {
        &self.by_expiry
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.by_expiry.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_expiry.is_empty()
    }

    /// All records of a type, in the order of their ids.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &SharedRecord> {
        let few = self.kinds.get(&kind).into_iter().flat_map(BTreeMap::values).filter_map(|place| self.at(*place));
        let mut many: Vec<&SharedRecord> = Vec::new();
        if matches!(kind, Kind::Claim | Kind::Commitment | Kind::Reveal) || latest_of(kind).is_some() {
            many.extend(self.entries.iter().filter_map(|entry| entry.record.as_ref()).filter(|record| record.kind() == kind));
            many.sort_unstable_by_key(|record| record.id());
        }
        few.chain(many)
    }

    /// Claims, commitments and reveals of the action at a place, each with its author's place.
    pub(super) fn about(&self, action: Place) -> impl Iterator<Item = (Place, &SharedRecord)> {
        let mut next = self.actions.get(action as usize).map_or(NONE, |of| of.first);
        std::iter::from_fn(move || {
            let entry = self.entries.get(next as usize)?;
            next = entry.next;
            Some((entry.author, entry.record.as_ref()?))
        })
    }

    /// Number of claims, commitments and reveals of the action at a place.
    pub(super) fn records_about(&self, action: Place) -> usize {
        self.actions.get(action as usize).map_or(0, |of| of.records as usize)
    }

    fn of_action(&self, action: &ActionId) -> impl Iterator<Item = &SharedRecord> {
        self.action(action).into_iter().flat_map(|place| self.about(place)).map(|(_, record)| record)
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
            Payload::Reveal(reveal) => Some((record, &**reveal)),
            _ => None,
        })
    }

    /// All retries that name an action.
    pub fn retries(&self, action: &ActionId) -> impl Iterator<Item = &SharedRecord> {
        self.retries.get(action).into_iter().flatten().filter_map(|place| self.at(*place))
    }

    /// Whether any retry is live: few networks have one.
    pub(super) fn has_retries(&self) -> bool {
        !self.retries.is_empty()
    }

    /// When the author at a place last renewed `lease`, if its latest Renewal lists it, with what it said of the build.
    pub(super) fn renewed_by(&self, author: Place, lease: &LeaseRef) -> Option<(Timestamp, LeaseProgress)> {
        let record = self.at(self.authors[author as usize].latest[0])?;
        let Payload::Renewal(Renewal { leases }) = record.payload() else { return None };
        leases.iter().find(|progress| progress.lease == *lease).map(|progress| (record.issued(), *progress))
    }

    /// When the author at a place gave a lease back that it claimed at `claimed`. The same lease may have been claimed
    /// before, after another claim, and given back then.
    pub(super) fn handed_back_by(&self, author: Place, lease: &LeaseRef, claimed: Timestamp) -> Option<Timestamp> {
        let told = self.hand_backs.get(&(author, *lease))?;
        told.range((claimed, 0)..).next().map(|(at, _)| *at)
    }

    /// Whether nothing is kept of leases that were given back.
    #[cfg(test)]
    pub(super) fn keeps_no_hand_backs(&self) -> bool {
        self.hand_backs.is_empty()
    }

    /// What every node last said of itself, in the order of their keys, but for those that said that they leave.
    pub fn presences(&self) -> impl Iterator<Item = (NodeId, &SharedRecord, &Presence)> {
        self.present.iter().filter_map(|(key, author)| {
            let record = self.at(self.authors[*author as usize].latest[1])?;
            match record.payload() {
                Payload::Presence(presence) if !presence.is_farewell() => Some((NodeId(*key), record, &**presence)),
                _ => None,
            }
        })
    }

    /// The record that counts of those types of which only the latest does.
    pub fn latest_of(&self, node: &NodeId, kind: Kind) -> Option<&SharedRecord> {
        self.at(self.authors[self.author(&node.0)? as usize].latest[latest_of(kind)?])
    }
}
