//! The provider records themselves: which are kept, which give way, which are named. No clock: times are ages of the ledger.
//!
//! Whoever announces is counted with its [`Party`]. Where a bound is reached, a record goes whose provider did not give what
//! it announced; else the party that holds most pays, with its stalest record; of several that hold as much, the one that
//! came last. So a flood from one place, from however many peers, costs that place's own records, and who was there before
//! stays. Nothing here can be proven, so all of it is only about whom to ask first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use barnraiser_protocol::id::NodeId;
use libp2p::Multiaddr;

use super::Party;

/// When somebody told that it has something, the latest first, and who.
type Told = (Reverse<Duration>, NodeId);

/// What is announced: a blob's hash, or the place where members of a network meet.
pub type Key = [u8; 32];

/// How much is kept.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Records of others, and so also the most keys.
    pub records: usize,
    /// Of these, records of strangers: the rest is kept for members.
    pub strangers: usize,
    /// Records of one party.
    pub party: usize,
    /// Records of one peer.
    pub peer: usize,
    /// Providers of one key.
    pub key: usize,
    /// Of these, strangers.
    pub key_strangers: usize,
    /// How long a record lives that is not renewed.
    pub lifetime: Duration,
    /// How long it is held against a provider that it did not give what it announced.
    pub failed_for: Duration,
    /// How long the same providers of a key are named where there are more than can be.
    pub turn: Duration,
}

/// A record's name: who says to have what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// What.
    pub key: Key,
    /// Who.
    pub provider: NodeId,
}

#[derive(Debug, Clone)]
struct Entry {
    party: Party,
    /// When it was announced first.
    since: Duration,
    renewed: Duration,
    failed: Option<Duration>,
    addresses: Vec<Multiaddr>,
}

#[derive(Debug, Default)]
struct Holding {
    since: Duration,
    stalest: BTreeSet<(Duration, Id)>,
}

/// What becomes of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It was not known before.
    New,
    /// It was, and lives on.
    Renewed,
    /// There is no room for it.
    Refused,
}

/// The provider records of others.
#[derive(Debug)]
pub struct Ledger {
    bounds: Bounds,
    /// Makes the turns of this ledger others than those of all others.
    seed: u64,
    entries: BTreeMap<Id, Entry>,
    parties: BTreeMap<Party, Holding>,
    /// How many records each party holds, and since when: of strangers, and of branches.
    ranks: [BTreeSet<(usize, Duration, Party)>; 2],
    peers: BTreeMap<NodeId, BTreeSet<(Duration, Id)>>,
    stalest: BTreeSet<(Duration, Id)>,
    /// Those whose provider failed, by when: of strangers, and of branches.
    failed: [BTreeSet<(Duration, Id)>; 2],
    strangers: usize,
}

const fn class(party: &Party) -> usize {
    if party.is_stranger() { 0 } else { 1 }
}

impl Ledger {
    /// An empty ledger.
    pub fn new(bounds: Bounds, seed: u64) -> Self {
        Self {
            bounds,
            seed,
            entries: BTreeMap::new(),
            parties: BTreeMap::new(),
            ranks: Default::default(),
            peers: BTreeMap::new(),
            stalest: BTreeSet::new(),
            failed: Default::default(),
            strangers: 0,
        }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// `provider` of `party` announces that it has `key`, and can be reached at `addresses`.
    pub fn announce(&mut self, id: Id, party: Party, addresses: Vec<Multiaddr>, now: Duration) -> Kept {
        self.expire(now);
        let known = self.remove(&id);
        let mut entry = Entry { party, since: now, renewed: now, failed: None, addresses };
        if let Some(known) = &known {
            entry.since = known.since;
            // Saying it again proves nothing.
            entry.failed = known.failed.filter(|failed| now < *failed + self.bounds.failed_for);
        }
        self.insert(id, entry);
        self.make_room(&id, party);
        match (known, self.entries.contains_key(&id)) {
            (_, false) => Kept::Refused,
            (Some(_), true) => Kept::Renewed,
            (None, true) => Kept::New,
        }
    }

    /// `id.provider` did not give `id.key`, or could not be reached.
    pub fn failed(&mut self, id: &Id, now: Duration) {
        self.mark(id, Some(now));
    }

    /// `id.provider` gave `id.key`.
    pub fn answered(&mut self, id: &Id) {
        self.mark(id, None);
    }

    /// `id.provider` does not announce `id.key` any more. Whether it did.
    pub fn withdraw(&mut self, id: &Id) -> bool {
        self.remove(id).is_some()
    }

    /// Up to `most` providers of `key`, with their addresses and the age at which their records end: one of each party
    /// first, then the second ones, and so on; those who failed lately come last. Members come before strangers, and where
    /// there are more parties than can be named, others every now and then.
    pub fn providers(&self, key: &Key, most: usize, now: Duration) -> Vec<(NodeId, &[Multiaddr], Duration)> {
        let turn = now.as_nanos().checked_div(self.bounds.turn.as_nanos()).unwrap_or_default() as u64;
        let mut parties: BTreeMap<(bool, Party), Vec<Told>> = BTreeMap::new();
        for (id, entry) in self.of_key(key).filter(|(_, entry)| now < entry.renewed + self.bounds.lifetime) {
            let failed = entry.failed.is_some_and(|failed| now < failed + self.bounds.failed_for);
            parties.entry((failed, entry.party)).or_default().push((Reverse(entry.renewed), id.provider));
        }
        let mut named: Vec<_> = Vec::new();
        for ((failed, party), mut providers) in parties {
            providers.sort_unstable();
            let order = (party.is_stranger(), draw(self.seed, turn, key, &party));
            named.extend(providers.into_iter().enumerate().map(|(place, (_, node))| ((failed, place, order), node)));
        }
        named.sort_unstable();
        let entry = |node| self.entries.get(&Id { key: *key, provider: node }).map(|entry| (node, entry));
        let found = named.into_iter().take(most).filter_map(|(_, node)| entry(node));
        found.map(|(node, entry)| (node, entry.addresses.as_slice(), entry.renewed + self.bounds.lifetime)).collect()
    }

    fn of_key(&self, key: &Key) -> impl Iterator<Item = (&Id, &Entry)> {
        let id = |provider| Id { key: *key, provider };
        self.entries.range(id(NodeId([0; 32]))..=id(NodeId([u8::MAX; 32])))
    }

    /// Removes what was not renewed in time.
    fn expire(&mut self, now: Duration) {
        while let Some((renewed, id)) = self.stalest.first().copied()
            && renewed + self.bounds.lifetime <= now
        {
            self.remove(&id);
        }
    }

    /// Removes records until all bounds hold, of which adding `new` may have broken some by one.
    fn make_room(&mut self, new: &Id, party: Party) {
        let stalest = |set: Option<&BTreeSet<(Duration, Id)>>, most: usize| {
            set.filter(|set| set.len() > most).and_then(BTreeSet::first).map(|(_, id)| *id)
        };
        if let Some(id) = stalest(self.peers.get(&new.provider), self.bounds.peer) {
            self.remove(&id);
        }
        if let Some(id) = stalest(self.parties.get(&party).map(|holding| &holding.stalest), self.bounds.party) {
            self.remove(&id);
        }
        let at_key =
            |ledger: &Self, strangers: bool| ledger.of_key(&new.key).filter(|(_, entry)| !strangers || entry.party.is_stranger()).count();
        if at_key(self, true) > self.bounds.key_strangers
            && let Some(id) = self.victim_at(&new.key, true)
        {
            self.remove(&id);
        }
        if at_key(self, false) > self.bounds.key
            && let Some(id) = self.victim_at(&new.key, false)
        {
            self.remove(&id);
        }
        if self.strangers > self.bounds.strangers
            && let Some(id) = self.victim(true)
        {
            self.remove(&id);
        }
        if self.entries.len() > self.bounds.records
            && let Some(id) = self.victim(false)
        {
            self.remove(&id);
        }
    }

    /// The record that goes first, of all or of strangers'.
    fn victim(&self, strangers: bool) -> Option<Id> {
        let classes = if strangers { 0..1 } else { 0..2 };
        let failed = classes.clone().filter_map(|class| self.failed[class].first()).min();
        if let Some((_, id)) = failed {
            return Some(*id);
        }
        let (.., party) = classes.filter_map(|class| self.ranks[class].last()).max()?;
        Some(self.parties.get(party)?.stalest.first()?.1)
    }

    /// The same among the providers of one key, which are few enough to be looked through.
    fn victim_at(&self, key: &Key, strangers: bool) -> Option<Id> {
        let candidates = || self.of_key(key).filter(|(_, entry)| !strangers || entry.party.is_stranger());
        let failed = candidates().filter_map(|(id, entry)| Some((entry.failed?, *id))).min();
        if let Some((_, id)) = failed {
            return Some(id);
        }
        let mut parties: BTreeMap<Party, (usize, Duration)> = BTreeMap::new();
        for (_, entry) in candidates() {
            let holds = parties.entry(entry.party).or_insert((0, entry.since));
            *holds = (holds.0 + 1, holds.1.min(entry.since));
        }
        let (most, _) = parties.into_iter().max_by_key(|(party, holds)| (*holds, *party))?;
        let of_most = candidates().filter(|(_, entry)| entry.party == most);
        of_most.map(|(id, entry)| (entry.renewed, *id)).min().map(|(_, id)| id)
    }

    fn mark(&mut self, id: &Id, failed: Option<Duration>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let index = &mut self.failed[class(&entry.party)];
        if let Some(before) = entry.failed {
            index.remove(&(before, *id));
        }
        // Since when it fails counts, not how often it was asked.
        entry.failed = failed.map(|now| entry.failed.unwrap_or(now));
        index.extend(entry.failed.map(|since| (since, *id)));
    }

    fn insert(&mut self, id: Id, entry: Entry) {
        let class = class(&entry.party);
        self.rank(&entry.party, |holding| {
            if holding.stalest.is_empty() {
                holding.since = entry.since;
            }
            holding.stalest.insert((entry.renewed, id));
        });
        self.peers.entry(id.provider).or_default().insert((entry.renewed, id));
        self.stalest.insert((entry.renewed, id));
        if let Some(failed) = entry.failed {
            self.failed[class].insert((failed, id));
        }
        self.strangers += 1 - class;
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: &Id) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        let (class, at) = (class(&entry.party), (entry.renewed, *id));
        self.rank(&entry.party, |holding| _ = holding.stalest.remove(&at));
        if let Some(of_peer) = self.peers.get_mut(&id.provider) {
            of_peer.remove(&at);
            if of_peer.is_empty() {
                self.peers.remove(&id.provider);
            }
        }
        self.stalest.remove(&at);
        if let Some(failed) = entry.failed {
            self.failed[class].remove(&(failed, *id));
        }
        self.strangers -= 1 - class;
        Some(entry)
    }

    /// Changes what a party holds, and its place among the others.
    fn rank(&mut self, party: &Party, change: impl FnOnce(&mut Holding)) {
        let holding = self.parties.entry(*party).or_default();
        let ranks = &mut self.ranks[class(party)];
        ranks.remove(&(holding.stalest.len(), holding.since, *party));
        change(holding);
        if holding.stalest.is_empty() {
            self.parties.remove(party);
        } else {
            ranks.insert((holding.stalest.len(), holding.since, *party));
        }
    }
}

/// The place of a party in a turn.
fn draw(seed: u64, turn: u64, key: &Key, party: &Party) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&turn.to_le_bytes()).update(key);
    match party {
        Party::Branch(branch) => hasher.update(&branch.0.0),
        Party::V4(prefix) | Party::Private4(prefix) => hasher.update(prefix),
        Party::V6(prefix) | Party::Private6(prefix) => hasher.update(prefix),
        Party::Loopback | Party::Elsewhere => &mut hasher,
    };
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    first
}

#[cfg(test)]
mod tests;
