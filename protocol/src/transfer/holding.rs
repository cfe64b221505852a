//! What a holder keeps, for whom, and what goes when it is full.
//!
//! Anybody may push to a holder, so room is shared out by who uses it: a **source** is a peer and the block of addresses
//! that it comes from, since PeerIds cost nothing and addresses do. When room is wanted, it is taken from the block that
//! uses most, the room that is wanted counted as its; within the block from the peer that uses most; of that peer's blobs
//! the one that was used longest ago goes. So a flood by one source, whatever it pushes and under however many keys, pushes
//! out its own, and others' only as far as they use more than it does.
//!
//! A blob that several sources pushed is charged to one of them; when it would go for that one, it is charged to the next.
//! What has not come whole counts by the bytes that were proven. No I/O and no clock: the caller keeps the [`Kept`]s on
//! disk and hands them in with [`Ledger::load`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::push::PushRefusal;
use crate::bounded::BoundedVec;
use crate::id::{BlobHash, NodeId};
use crate::time::Timestamp;

/// The most blobs that a holder keeps: some 300 bytes of memory each.
pub const HELD_BLOBS_MAX: usize = 262_144;
/// What each blob counts beside its bytes: its entries in the database, and the rest of a block of the disk.
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

impl Kept {
    const fn charge(&self) -> u64 {
        self.bytes.saturating_add(HELD_OVERHEAD)
    }
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
}

impl Ledger {
    /// One for `quota` bytes.
    pub const fn new(quota: u64) -> Self {
        Self { quota, total: 0, held: BTreeMap::new(), users: BTreeMap::new(), by_use: BTreeSet::new(), busy: BTreeSet::new() }
    }

    /// Puts in what was held before a restart.
    pub fn load(&mut self, hash: BlobHash, kept: Kept) {
        if !self.held.contains_key(&hash) {
            self.total = self.total.saturating_add(kept.charge());
            self.charge(&hash, &kept, true);
            self.held.insert(hash, kept);
        }
    }

    /// How many bytes may be held, ...
    pub const fn quota(&self) -> u64 {
        self.quota
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

    /// Somebody offers a blob. Where it may come, it is busy until [`Ledger::rest`].
    ///
    /// # Errors
    /// [`PushRefusal`], without anything changed.
    pub fn offer(&mut self, now: Timestamp, from: Source, hash: BlobHash, length: u64, told: bool) -> Result<Offer, PushRefusal> {
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
        if self.busy.contains(&hash) {
            return Err(PushRefusal::Busy);
        }
        if length.saturating_add(HELD_OVERHEAD) > self.quota {
            return Err(PushRefusal::TooLarge);
        }
        let begun = self.held.get(&hash).cloned();
        let parts = self.users.get(&from.block).and_then(|user| user.peers.get(&from.peer)).map_or(0, |peer| peer.parts);
        if begun.is_none() && parts >= HELD_PARTS_MAX || !self.could_hold(&from, length) {
            return Err(PushRefusal::Full);
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
    /// they have, or as much as it would.
    fn could_hold(&self, from: &Source, length: u64) -> bool {
        let need = length.saturating_add(HELD_OVERHEAD);
        let beside = self.users.get(&from.block).into_iter().flat_map(|user| &user.peers).filter(|(peer, _)| **peer != from.peer);
        let own = beside.map(|(_, peer)| peer.bytes.min(need)).fold(need, u64::saturating_add);
        let others = self.users.iter().filter(|(block, _)| **block != from.block).map(|(_, user)| user.bytes.min(own));
        others.fold(own, u64::saturating_add) <= self.quota
    }

    /// So many more bytes of a blob are about to be kept. Puts what must go for them into `gone`; it is forgotten here
    /// already, also where room was not found in the end.
    ///
    /// # Errors
    /// [`PushRefusal::Full`]: the bytes are not counted and must not be kept.
    pub fn grow(&mut self, now: Timestamp, hash: &BlobHash, more: u64, gone: &mut Vec<BlobHash>) -> Result<(), PushRefusal> {
        let Some(kept) = self.held.get(hash) else { return Err(PushRefusal::Full) };
        let Some(&from) = kept.sources.first() else { return Err(PushRefusal::Full) };
        self.make_room(&from, more, hash, gone)?;
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

    /// Nothing more of it comes at this moment.
    pub fn rest(&mut self, hash: &BlobHash) {
        self.busy.remove(hash);
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
        self.total = self.total.saturating_sub(kept.charge());
        self.charge(hash, &kept, false);
        Some(kept)
    }

    /// Forgets what began to come and was left, and gives it.
    pub fn expire(&mut self, now: Timestamp) -> Vec<BlobHash> {
        let left = |(hash, kept): (&BlobHash, &Kept)| {
            (!kept.whole && kept.used + HELD_PART_TIME < now && !self.busy.contains(hash)).then_some(*hash)
        };
        let gone: Vec<BlobHash> = self.held.iter().filter_map(left).collect();
        for hash in &gone {
            self.remove(hash);
        }
        gone
    }

    /// Takes what is over the quota, as after the owner made it smaller.
    pub fn trim(&mut self) -> Vec<BlobHash> {
        let mut gone = Vec::new();
        while self.total > self.quota {
            let Some(block) = self.by_use.last().map(|(_, block)| *block) else { break };
            if !self.take_from(&block, None, 0, &mut gone) {
                break;
            }
        }
        gone
    }

    fn make_room(&mut self, from: &Source, more: u64, keep: &BlobHash, gone: &mut Vec<BlobHash>) -> Result<(), PushRefusal> {
        while self.total.saturating_add(more) > self.quota || self.held.len() > HELD_BLOBS_MAX {
            let own = self.used_by(&from.block).saturating_add(more);
            let block = match self.by_use.last() {
                Some((bytes, block)) if *bytes > own => *block,
                _ => from.block,
            };
            if !self.take_from(&block, Some((from, keep)), more, gone) {
                return Err(PushRefusal::Full);
            }
        }
        Ok(())
    }

    /// Takes one blob of the block's greatest peer, the longest unused one; `pusher` wants `more`, for a blob that stays.
    fn take_from(&mut self, block: &Block, pusher: Option<(&Source, &BlobHash)>, more: u64, gone: &mut Vec<BlobHash>) -> bool {
        let Some(user) = self.users.get(block) else { return false };
        let wanted = |peer: &NodeId| if pusher.is_some_and(|(from, _)| from.peer == *peer && from.block == *block) { more } else { 0 };
        let may_go = |hash: &BlobHash| !self.busy.contains(hash) && pusher.is_none_or(|(_, keep)| keep != hash);
        let greatest = user.peers.iter().max_by_key(|(id, peer)| (peer.bytes.saturating_add(wanted(id)), **id));
        let victim = greatest.and_then(|(_, peer)| peer.blobs.iter().map(|(_, hash)| *hash).find(|hash| may_go(hash)));
        let Some(hash) = victim else { return false };
        let Some(kept) = self.remove(&hash) else { return false };
        let others: Vec<Source> = kept.sources.iter().skip(1).copied().collect();
        if kept.whole && !others.is_empty() {
            self.load(hash, Kept { sources: bounded(others), ..kept });
        } else {
            gone.push(hash);
        }
        true
    }

    fn replace(&mut self, hash: BlobHash, kept: Kept) {
        self.remove(&hash);
        self.load(hash, kept);
    }

    /// Adds a blob to what its first source uses, or takes it away.
    fn charge(&mut self, hash: &BlobHash, kept: &Kept, add: bool) {
        let Some(source) = kept.sources.first() else { return };
        let user = self.users.entry(source.block).or_default();
        let peer = user.peers.entry(source.peer).or_default();
        self.by_use.remove(&(user.bytes, source.block));
        let (part, item) = (usize::from(!kept.whole), (kept.used, *hash));
        if add {
            peer.blobs.insert(item);
            peer.parts += part;
            peer.bytes = peer.bytes.saturating_add(kept.charge());
            user.bytes = user.bytes.saturating_add(kept.charge());
        } else {
            peer.blobs.remove(&item);
            peer.parts = peer.parts.saturating_sub(part);
            peer.bytes = peer.bytes.saturating_sub(kept.charge());
            user.bytes = user.bytes.saturating_sub(kept.charge());
            if peer.blobs.is_empty() {
                user.peers.remove(&source.peer);
            }
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
