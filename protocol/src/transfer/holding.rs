//! What a holder keeps, for whom, and what goes when it is full.
//!
//! Anybody may push to a holder, so room is shared out by who uses it: a **source** is a peer and the block of addresses
//! that it comes from, since PeerIds cost nothing and addresses do. When room is wanted, it is taken from the block that
//! uses most, the room that is wanted counted as its; within the block from the peer that uses most; of that peer's blobs
//! the one that was used longest ago goes. Where all of them are coming at that moment, the next peer or block is looked
//! at, as long as it uses more than the pusher would. So a flood by one source, whatever it pushes and under however many
//! keys, pushes out its own, and others' only as far as they use more than it does.
//!
//! A blob that several sources pushed is charged to one of them; when it would go for that one, it is charged to the next.
//! What has not come whole counts by the bytes that were proven. Every blob counts so much beside its bytes that no more
//! than [`HELD_BLOBS_MAX`] fit: who pushes many small ones uses much. No I/O and no clock: the caller keeps the [`Kept`]s on
//! disk, hands them in with [`Ledger::load`], and removes what is [`Gone`]; until it has, nobody may offer that again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::push::PushRefusal;
use crate::bounded::BoundedVec;
use crate::id::{BlobHash, NodeId};
use crate::time::Timestamp;

/// The most blobs that a holder keeps: some 300 bytes of memory each.
pub const HELD_BLOBS_MAX: usize = 262_144;
/// The least that each blob counts beside its bytes: its entries in the database, and the rest of a block of the disk. With
/// a quota of more than a GiB it counts more ([`Ledger::overhead`]).
pub const HELD_OVERHEAD: u64 = 4096;
/// The most blobs of one peer that have begun to come and are not whole.
pub const HELD_PARTS_MAX: usize = 64;
/// What is not whole and has not grown for so long goes.
pub const HELD_PART_TIME: Duration = Duration::from_secs(24 * 3600);
/// The most sources that are remembered of one blob.
pub const SOURCES_MAX: usize = 4;

/// A block of addresses: what one household, or one tenant of a data centre, has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Block {
    /// The first 24 bits of an address of version 4.
    V4([u8; 3]),
    /// The first 48 bits of an address of version 6.
    V6([u8; 6]),
    /// No address is known.
    Unknown,
}

impl Block {
    /// The block of an address of version 4.
    pub const fn v4(address: [u8; 4]) -> Self {
        let [a, b, c, _] = address;
        Self::V4([a, b, c])
    }
    /// The block of an address of version 6.
    pub const fn v6(address: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, ..] = address;
        Self::V6([a, b, c, d, e, f])
    }
}

/// Who pushed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Source {
    /// From where.
    pub block: Block,
    /// Who.
    pub peer: NodeId,
}

/// A blob that is held, or that has begun to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its length in bytes; while it is not whole, its pusher's claim.
    pub length: u64,
    /// Bytes of it that were proven.
    pub bytes: u64,
    /// Whether all of it is here and survives a power loss.
    pub whole: bool,
    /// Whether it is told to others by itself. A file is found by its tree's manifest.
    pub told: bool,
    /// When it was pushed or fetched last.
    pub used: Timestamp,
    /// Who pushed it; the first is charged for it.
    pub sources: BoundedVec<Source, SOURCES_MAX>,
}

/// Something that the ledger let go; the caller removes it, then says so ([`Ledger::gone`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// The blob.
    pub hash: BlobHash,
    /// Whether all of it was here; else it is a part that goes, and never a blob that came another way.
    pub whole: bool,
}

/// What becomes of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// All of it is here.
    Kept,
    /// It may come; some of it may be here.
    Take,
}

#[derive(Debug, Default)]
struct Peer {
    bytes: u64,
    parts: usize,
    /// Those charged to it, the longest unused first.
    blobs: BTreeSet<(Timestamp, BlobHash)>,
}

#[derive(Debug, Default)]
struct User {
    bytes: u64,
    peers: BTreeMap<NodeId, Peer>,
    by_use: BTreeSet<(u64, NodeId)>,
}

/// Who uses how much of a holder.
#[derive(Debug)]
pub struct Ledger {
    quota: u64,
    total: u64,
    held: BTreeMap<BlobHash, Kept>,
    users: BTreeMap<Block, User>,
    by_use: BTreeSet<(u64, Block)>,
    /// What is coming at this moment: it does not go.
    busy: BTreeSet<BlobHash>,
    /// What was let go and is still being removed.
    going: BTreeSet<BlobHash>,
}

/// For whom room is made.
struct Wanted<'a> {
    from: &'a Source,
    /// Bytes.
    more: u64,
    /// The blob that it is for.
    keep: &'a BlobHash,
}

impl Ledger {
    /// One for `quota` bytes.
    pub const fn new(quota: u64) -> Self {
        Self {
            quota,
            total: 0,
            held: BTreeMap::new(),
            users: BTreeMap::new(),
            by_use: BTreeSet::new(),
            busy: BTreeSet::new(),
            going: BTreeSet::new(),
        }
    }

    /// Puts in what was held before a restart.
    pub fn load(&mut self, hash: BlobHash, kept: Kept) {
        if !self.held.contains_key(&hash) {
            self.total = self.total.saturating_add(self.charged(&kept));
            self.charge(&hash, &kept, true);
            self.held.insert(hash, kept);
        }
    }

    /// How many bytes may be held, ...
    pub const fn quota(&self) -> u64 {
        self.quota
    }

    /// What each blob counts beside its bytes.
    pub const fn overhead(&self) -> u64 {
        let share = self.quota / HELD_BLOBS_MAX as u64;
        if share > HELD_OVERHEAD { share } else { HELD_OVERHEAD }
    }

    const fn charged(&self, kept: &Kept) -> u64 {
        kept.bytes.saturating_add(self.overhead())
    }

    /// ... and how many are, with what each blob counts beside its bytes.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// What is known of a blob.
    pub fn get(&self, hash: &BlobHash) -> Option<&Kept> {
        self.held.get(hash)
    }

    /// All blobs, whole or not.
    pub fn held(&self) -> impl Iterator<Item = (&BlobHash, &Kept)> {
        self.held.iter()
    }

    /// What a block of addresses uses.
    pub fn used_by(&self, block: &Block) -> u64 {
        self.users.get(block).map_or(0, |user| user.bytes)
    }

    /// Somebody offers a blob. Where it may come, it is busy until [`Ledger::rest`], and counts from now on what each counts
    /// beside its bytes; puts what must go for that into `gone`, as [`Ledger::grow`] does.
    ///
    /// # Errors
    /// [`PushRefusal`], and the blob is not entered.
    pub fn offer(
        &mut self,
        now: Timestamp,
        from: Source,
        hash: BlobHash,
        length: u64,
        told: bool,
        gone: &mut Vec<Gone>,
    ) -> Result<Offer, PushRefusal> {
        if let Some(kept) = self.held.get(&hash).filter(|kept| kept.whole) {
            let mut kept = kept.clone();
            kept.used = kept.used.max(now);
            kept.told |= told;
            if !kept.sources.contains(&from) && kept.sources.len() < SOURCES_MAX {
                let mut sources = kept.sources.to_vec();
                sources.push(from);
                kept.sources = bounded(sources);
            }
            self.replace(hash, kept);
            return Ok(Offer::Kept);
        }
        if self.busy.contains(&hash) || self.going.contains(&hash) {
            return Err(PushRefusal::Busy);
        }
        if length.saturating_add(self.overhead()) > self.quota {
            return Err(PushRefusal::TooLarge);
        }
        let begun = self.held.get(&hash).cloned();
        let parts = self.users.get(&from.block).and_then(|user| user.peers.get(&from.peer)).map_or(0, |peer| peer.parts);
        if begun.is_none() && parts >= HELD_PARTS_MAX || !self.could_hold(&from, length) {
            return Err(PushRefusal::Full);
        }
        if begun.is_none() {
            self.make_room(&Wanted { from: &from, more: self.overhead(), keep: &hash }, gone)?;
        }
        // Who goes on with what another began is charged for it from now on: the other may have no room left.
        let others = begun.iter().flat_map(|kept| kept.sources.iter()).filter(|source| **source != from).copied();
        let sources = bounded(std::iter::once(from).chain(others).collect());
        let bytes = begun.as_ref().map_or(0, |kept| kept.bytes);
        let told = told || begun.as_ref().is_some_and(|kept| kept.told);
        self.replace(hash, Kept { length, bytes, whole: false, told, used: now, sources });
        self.busy.insert(hash);
        Ok(Offer::Take)
    }

    /// Whether `length` bytes of that source could be held, were everything taken for it that may be: others use as little as
    /// they have, or as much as it would, less the blob that went last.
    fn could_hold(&self, from: &Source, length: u64) -> bool {
        let need = length.saturating_add(self.overhead());
        let home = self.users.get(&from.block);
        let beside = home.into_iter().flat_map(|user| user.peers.values().zip(user.peers.keys())).filter(|(_, id)| **id != from.peer);
        let own = beside.map(|(peer, _)| if peer.bytes >= need { need - self.oldest(peer).min(need) } else { peer.bytes });
        let own = own.fold(need, u64::saturating_add);
        let others = self.users.iter().filter(|(block, _)| **block != from.block);
        let others = others.map(|(_, user)| if user.bytes > own { own - self.oldest_of(user).min(own) } else { user.bytes });
        others.fold(own, u64::saturating_add) <= self.quota
    }

    /// What a peer's longest unused blob counts: blobs go whole, and the last one may be more than had to go.
    fn oldest(&self, peer: &Peer) -> u64 {
        peer.blobs.first().and_then(|(_, hash)| self.held.get(hash)).map_or(0, |kept| self.charged(kept))
    }

    /// That of a block's greatest peer.
    fn oldest_of(&self, user: &User) -> u64 {
        let greatest = user.by_use.last().and_then(|(_, peer)| user.peers.get(peer));
        greatest.map_or(0, |peer| self.oldest(peer))
    }

    /// So many more bytes of a blob are about to be kept. Puts what must go for them into `gone`; it is forgotten here
    /// already, also where room was not found in the end.
    ///
    /// # Errors
    /// [`PushRefusal::Full`]: the bytes are not counted and must not be kept.
    pub fn grow(&mut self, now: Timestamp, hash: &BlobHash, more: u64, gone: &mut Vec<Gone>) -> Result<(), PushRefusal> {
        let Some(kept) = self.held.get(hash) else { return Err(PushRefusal::Full) };
        let Some(&from) = kept.sources.first() else { return Err(PushRefusal::Full) };
        self.make_room(&Wanted { from: &from, more, keep: hash }, gone)?;
        if let Some(kept) = self.held.get(hash) {
            let kept = Kept { bytes: kept.bytes.saturating_add(more).min(kept.length), used: now, ..kept.clone() };
            self.replace(*hash, kept);
        }
        Ok(())
    }

    /// So many bytes of it were found to be here, after all.
    pub fn recount(&mut self, hash: &BlobHash, bytes: u64) {
        if let Some(kept) = self.held.get(hash).filter(|kept| !kept.whole && kept.bytes != bytes) {
            let kept = Kept { bytes: bytes.min(kept.length), ..kept.clone() };
            self.replace(*hash, kept);
        }
    }

    /// All of it is here, and survives a power loss.
    pub fn whole(&mut self, hash: &BlobHash) {
        if let Some(kept) = self.held.get(hash) {
            let kept = Kept { whole: true, bytes: kept.length, ..kept.clone() };
            self.replace(*hash, kept);
        }
    }

    /// Nothing more of it comes at this moment. Where not a byte came, it is forgotten, and given.
    pub fn rest(&mut self, hash: &BlobHash) -> Option<Gone> {
        self.busy.remove(hash);
        self.held.get(hash).filter(|kept| !kept.whole && kept.bytes == 0)?;
        self.drop_one(hash)
    }

    /// What was let go is removed: it may be offered again.
    pub fn gone(&mut self, hash: &BlobHash) {
        self.going.remove(hash);
    }

    /// Somebody fetches it.
    pub fn touch(&mut self, now: Timestamp, hash: &BlobHash) {
        if let Some(kept) = self.held.get(hash).filter(|kept| kept.used < now) {
            let kept = Kept { used: now, ..kept.clone() };
            self.replace(*hash, kept);
        }
    }

    /// It is not here any more.
    pub fn remove(&mut self, hash: &BlobHash) -> Option<Kept> {
        let kept = self.held.remove(hash)?;
        self.total = self.total.saturating_sub(self.charged(&kept));
        self.charge(hash, &kept, false);
        Some(kept)
    }

    /// Forgets what began to come and was left, and gives it.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Gone> {
        let left = |(hash, kept): (&BlobHash, &Kept)| {
            (!kept.whole && kept.used + HELD_PART_TIME < now && !self.busy.contains(hash)).then_some(*hash)
        };
        let left: Vec<BlobHash> = self.held.iter().filter_map(left).collect();
        left.iter().filter_map(|hash| self.drop_one(hash)).collect()
    }

    /// Takes what is over the quota, as after the owner made it smaller.
    pub fn trim(&mut self) -> Vec<Gone> {
        let mut gone = Vec::new();
        while self.total > self.quota {
            let Some(hash) = self.by_use.iter().rev().find_map(|(_, block)| self.victim_in(block, None)) else { break };
            self.take(&hash, &mut gone);
        }
        gone
    }

    fn make_room(&mut self, wanted: &Wanted<'_>, gone: &mut Vec<Gone>) -> Result<(), PushRefusal> {
        while self.total.saturating_add(wanted.more) > self.quota {
            let Some(hash) = self.victim(wanted) else { return Err(PushRefusal::Full) };
            self.take(&hash, gone);
        }
        Ok(())
    }

    /// The blob that goes next: of the greatest block that uses more than the pusher's would, else of the pusher's.
    fn victim(&self, wanted: &Wanted<'_>) -> Option<BlobHash> {
        let own = wanted.from.block;
        let would = self.used_by(&own).saturating_add(wanted.more);
        let greater = self.by_use.iter().rev().take_while(|(bytes, _)| *bytes > would).map(|(_, block)| block);
        greater.filter(|block| **block != own).find_map(|block| self.victim_in(block, Some(wanted))).or_else(|| self.victim_at_home(wanted))
    }

    /// The longest unused blob that may go of a block's greatest peer, or of the next.
    fn victim_in(&self, block: &Block, wanted: Option<&Wanted<'_>>) -> Option<BlobHash> {
        let user = self.users.get(block)?;
        user.by_use.iter().rev().find_map(|(_, peer)| self.victim_of(user, peer, wanted))
    }

    /// As well, of the pusher's block: there only from itself, and from peers that use at least as much as it would.
    fn victim_at_home(&self, wanted: &Wanted<'_>) -> Option<BlobHash> {
        let user = self.users.get(&wanted.from.block)?;
        let own = wanted.from.peer;
        let would = user.peers.get(&own).map_or(0, |peer| peer.bytes).saturating_add(wanted.more);
        let as_great = || user.by_use.iter().rev().take_while(|(bytes, _)| *bytes >= would).filter(|(_, peer)| *peer != own);
        let greater = as_great().take_while(|(bytes, _)| *bytes > would);
        let equal = as_great().skip_while(|(bytes, _)| *bytes > would);
        let order = greater.map(|(_, peer)| *peer).chain(std::iter::once(own)).chain(equal.map(|(_, peer)| *peer));
        order.into_iter().find_map(|peer| self.victim_of(user, &peer, Some(wanted)))
    }

    fn victim_of(&self, user: &User, peer: &NodeId, wanted: Option<&Wanted<'_>>) -> Option<BlobHash> {
        let may_go = |hash: &BlobHash| !self.busy.contains(hash) && wanted.is_none_or(|wanted| wanted.keep != hash);
        user.peers.get(peer)?.blobs.iter().map(|(_, hash)| *hash).find(may_go)
    }

    /// Takes a blob from who is charged for it: it goes, or the next of its sources is charged.
    fn take(&mut self, hash: &BlobHash, gone: &mut Vec<Gone>) {
        let others = |kept: &Kept| kept.sources.iter().skip(1).copied().collect::<Vec<Source>>();
        match self.held.get(hash).filter(|kept| kept.whole).map(|kept| (kept.clone(), others(kept))) {
            Some((kept, others)) if !others.is_empty() => self.replace(*hash, Kept { sources: bounded(others), ..kept }),
            _ => gone.extend(self.drop_one(hash)),
        }
    }

    /// Forgets a blob, which goes.
    fn drop_one(&mut self, hash: &BlobHash) -> Option<Gone> {
        let kept = self.remove(hash)?;
        self.going.insert(*hash);
        Some(Gone { hash: *hash, whole: kept.whole })
    }

    fn replace(&mut self, hash: BlobHash, kept: Kept) {
        self.remove(&hash);
        self.load(hash, kept);
    }

    /// Adds a blob to what its first source uses, or takes it away.
    fn charge(&mut self, hash: &BlobHash, kept: &Kept, add: bool) {
        let Some(source) = kept.sources.first() else { return };
        let charged = self.charged(kept);
        let user = self.users.entry(source.block).or_default();
        let peer = user.peers.entry(source.peer).or_default();
        self.by_use.remove(&(user.bytes, source.block));
        user.by_use.remove(&(peer.bytes, source.peer));
        let (part, item) = (usize::from(!kept.whole), (kept.used, *hash));
        if add {
            peer.blobs.insert(item);
            peer.parts += part;
            peer.bytes = peer.bytes.saturating_add(charged);
            user.bytes = user.bytes.saturating_add(charged);
        } else {
            peer.blobs.remove(&item);
            peer.parts = peer.parts.saturating_sub(part);
            peer.bytes = peer.bytes.saturating_sub(charged);
            user.bytes = user.bytes.saturating_sub(charged);
        }
        if peer.blobs.is_empty() {
            user.peers.remove(&source.peer);
        } else {
            user.by_use.insert((peer.bytes, source.peer));
        }
        if user.peers.is_empty() {
            self.users.remove(&source.block);
        } else {
            self.by_use.insert((user.bytes, source.block));
        }
    }
}

/// As many as are remembered.
fn bounded(mut sources: Vec<Source>) -> BoundedVec<Source, SOURCES_MAX> {
    sources.truncate(SOURCES_MAX);
    // Cut to the bound just above.
    BoundedVec::try_from(sources).unwrap_or_default()
}

#[cfg(test)]
mod tests;
