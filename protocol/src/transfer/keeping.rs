//! Who sees to it that what was released stays on enough holders.
//!
//! Every **watcher** (a maintainer's node, or a holder that is a member) runs a [`Keeper`]. It is told what is to be kept,
//! which holders there are and which watchers live; it asks holders whether they have something, a few questions at a time and
//! in turns, and has a copy made where there are too few. Who sees to a blob is drawn by rendezvous hashing, so that all watchers
//! agree without a word: the first one by the draw looks after it, and the second one too, which makes copies only when
//! the first one had time to. A holder that does not answer for [`GONE_AFTER`] counts as gone, and what it had as lost,
//! until it answers again.
//!
//! Which holder a copy goes to is drawn as well ([`ranked`]), and so is where a builder pushes first: two that push the same
//! choose the same holders. No I/O and no clock; times are ages of any one clock that does not run backwards.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::id::{BlobHash, NodeId};

/// A holder that has not answered for so long, though it was asked, counts as gone: longer than a restart takes.
pub const GONE_AFTER: Duration = Duration::from_secs(45);
/// How often each holder is asked something, so that it is seen when it goes.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// How long an answer counts: after that it is asked again.
const KNOWN_FOR: Duration = Duration::from_secs(1800);
/// How soon a holder that said no is asked again, as one that may get a copy from somebody else.
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// Questions under way at the same time.
const ASKED_MAX: usize = 16;
/// Copies being made at the same time: uplinks are narrow.
const COPYING_MAX: usize = 2;
/// How long the second watcher leaves it to the first, once it knows that copies lack.
const SECOND_WAITS: Duration = Duration::from_secs(90);
/// How soon a copy that could not be made is tried again, at another holder where there is one; twice as long each time, ...
const RETRY_MIN: Duration = Duration::from_secs(10);
/// ... up to this.
const RETRY_MAX: Duration = Duration::from_secs(600);
/// As many holders are asked about a blob that nobody is known to have; more than that would have been pushed to by nobody.
const LOOKED_AT: usize = 16;
/// The most blobs that are looked after, and the most holders.
pub const KEPT_MAX: usize = 16_384;
const HOLDERS_MAX: usize = 256;

/// Something that is to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ToKeep {
    /// The blob.
    pub blob: BlobHash,
    /// What it was pushed as: the tree that it is a file of, or itself. Its holders are drawn by this.
    pub of: BlobHash,
}

/// What a keeper wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Ask a holder whether it has all of a blob; the answer goes to [`Keeper::answered`].
    Ask {
        /// Whom.
        holder: NodeId,
        /// About what.
        blob: BlobHash,
    },
    /// Give a blob to a holder; what came of it goes to [`Keeper::copied`].
    Copy {
        /// What.
        blob: BlobHash,
        /// To whom.
        to: NodeId,
    },
}

/// What is known of a blob at a holder.
#[derive(Debug, Clone, Copy)]
struct Known {
    has: bool,
    at: Duration,
}

#[derive(Debug)]
struct Kept {
    of: BlobHash,
    known: BTreeMap<NodeId, Known>,
    /// Since when it is known that copies lack.
    lacks_since: Option<Duration>,
    /// Being made, and at which holder.
    copying: Option<NodeId>,
    /// When the next copy may be made, and how often it failed in a row.
    retry_at: Duration,
    failures: u32,
    /// Holders that did not take it; tried again when all others were.
    refused: BTreeSet<NodeId>,
}

impl Kept {
    const fn new(of: BlobHash) -> Self {
        Self {
            of,
            known: BTreeMap::new(),
            lacks_since: None,
            copying: None,
            retry_at: Duration::ZERO,
            failures: 0,
            refused: BTreeSet::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Holder {
    /// When it answered last, ...
    answered: Duration,
    /// ... when it was asked last, ...
    asked: Duration,
    /// ... and since when it has not answered.
    silent_since: Option<Duration>,
    /// Questions to it that are under way.
    open: usize,
}

/// Looks after what was released.
#[derive(Debug)]
pub struct Keeper {
    local: NodeId,
    copies: usize,
    kept: BTreeMap<BlobHash, Kept>,
    /// In this order they are looked at, round and round.
    turn: VecDeque<BlobHash>,
    holders: BTreeMap<NodeId, Holder>,
    watchers: BTreeSet<NodeId>,
    asking: BTreeSet<(NodeId, BlobHash)>,
    copying: usize,
}

/// How a node ranks for something: the highest is the first.
fn draw(domain: &str, what: &BlobHash, node: &NodeId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(domain);
    hasher.update(what.as_bytes()).update(node.as_bytes());
    *hasher.finalize().as_bytes()
}

/// `holders` in the order in which something is given to them.
pub fn ranked(what: &BlobHash, holders: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    let mut ranked: Vec<NodeId> = holders.into_iter().collect();
    ranked.sort_by_cached_key(|node| std::cmp::Reverse(draw("barnraiser 2026 holder of a blob v1", what, node)));
    ranked.dedup();
    ranked
}

impl Keeper {
    /// One that sees to `copies` copies of everything.
    pub fn new(local: NodeId, copies: u16) -> Self {
        Self {
            local,
            copies: usize::from(copies),
            kept: BTreeMap::new(),
            turn: VecDeque::new(),
            holders: BTreeMap::new(),
            watchers: BTreeSet::from([local]),
            asking: BTreeSet::new(),
            copying: 0,
        }
    }

    /// How many copies are wanted.
    pub fn set_copies(&mut self, copies: u16) {
        self.copies = usize::from(copies);
    }

    /// All that is to be kept; the first [`KEPT_MAX`] of it are.
    pub fn set_kept(&mut self, all: impl IntoIterator<Item = ToKeep>) {
        let all: BTreeMap<BlobHash, BlobHash> = all.into_iter().take(KEPT_MAX).map(|kept| (kept.blob, kept.of)).collect();
        self.kept.retain(|blob, _| all.contains_key(blob));
        self.turn.retain(|blob| all.contains_key(blob));
        for (blob, of) in all {
            if !self.kept.contains_key(&blob) {
                self.turn.push_back(blob);
                self.kept.insert(blob, Kept::new(of));
            }
        }
    }

    /// All holders that are known now; one that is new counts as there until it fails to answer.
    pub fn set_holders(&mut self, holders: impl IntoIterator<Item = NodeId>, now: Duration) {
        let all: BTreeSet<NodeId> = holders.into_iter().take(HOLDERS_MAX).collect();
        self.holders.retain(|holder, _| all.contains(holder));
        for holder in all {
            self.holders.entry(holder).or_insert(Holder { answered: now, ..Holder::default() });
        }
        for kept in self.kept.values_mut() {
            kept.known.retain(|holder, _| self.holders.contains_key(holder));
            kept.refused.retain(|holder| self.holders.contains_key(holder));
        }
    }

    /// All watchers that live now, this one among them.
    pub fn set_watchers(&mut self, watchers: impl IntoIterator<Item = NodeId>) {
        self.watchers = watchers.into_iter().chain([self.local]).collect();
    }

    /// What a holder said; none where it can't be asked.
    pub fn answered(&mut self, holder: NodeId, blob: BlobHash, has: Option<bool>, now: Duration) {
        self.asking.remove(&(holder, blob));
        let Some(of) = self.holders.get_mut(&holder) else { return };
        of.open = of.open.saturating_sub(1);
        let Some(has) = has else { return };
        of.answered = now;
        of.silent_since = None;
        if let Some(kept) = self.kept.get_mut(&blob) {
            kept.known.insert(holder, Known { has, at: now });
        }
    }

    /// What came of a copy.
    pub fn copied(&mut self, blob: BlobHash, to: NodeId, done: bool, now: Duration) {
        self.copying = self.copying.saturating_sub(1);
        let Some(kept) = self.kept.get_mut(&blob) else { return };
        kept.copying = None;
        if done {
            kept.known.insert(to, Known { has: true, at: now });
            kept.failures = 0;
            kept.refused.clear();
            kept.retry_at = now;
        } else {
            kept.refused.insert(to);
            kept.retry_at = now + (RETRY_MIN * (1 << kept.failures.min(6))).min(RETRY_MAX);
            kept.failures += 1;
        }
    }

    /// Whether a holder counts as there.
    pub fn is_there(&self, holder: &NodeId, now: Duration) -> bool {
        self.holders.get(holder).is_some_and(|of| of.silent_since.is_none_or(|since| now.saturating_sub(since) < GONE_AFTER))
    }

    /// How many copies of a blob are known.
    pub fn copies_of(&self, blob: &BlobHash, now: Duration) -> usize {
        let known = self.kept.get(blob).into_iter().flat_map(|kept| &kept.known);
        known.filter(|(holder, known)| known.has && self.is_there(holder, now)).count()
    }

    /// The place of this watcher among those that see to a blob: 0 is the first.
    pub fn place(&self, blob: &BlobHash) -> usize {
        let rank = |node: &NodeId| draw("barnraiser 2026 watcher of a blob v1", blob, node);
        let own = rank(&self.local);
        self.watchers.iter().filter(|watcher| rank(watcher) > own).count()
    }

    /// For how many of what it looks after copies lack, and how many that are.
    pub fn lacking(&self, now: Duration) -> (usize, usize) {
        let wanted = self.wanted(now);
        let own: Vec<&BlobHash> = self.kept.keys().filter(|blob| self.place(blob) < 2).collect();
        (own.iter().filter(|blob| self.copies_of(blob, now) < wanted).count(), own.len())
    }

    /// As many copies as there can be.
    fn wanted(&self, now: Duration) -> usize {
        self.copies.min(self.holders.keys().filter(|holder| self.is_there(holder, now)).count())
    }

    /// What to do now. To be called every few seconds; what is under way is not asked for again.
    pub fn poll(&mut self, now: Duration) -> Vec<Task> {
        let mut tasks = Vec::new();
        self.probe(now, &mut tasks);
        let wanted = self.wanted(now);
        for _ in 0..self.turn.len() {
            let Some(blob) = self.turn.pop_front() else { break };
            self.turn.push_back(blob);
            let place = self.place(&blob);
            if place < 2 {
                self.look(blob, place, wanted, now, &mut tasks);
            }
            if self.asking.len() >= ASKED_MAX {
                break;
            }
        }
        tasks
    }

    /// Asks those that have not been heard of lately about something that they are said to have, so that it is seen when they go.
    fn probe(&mut self, now: Duration, tasks: &mut Vec<Task>) {
        let due: Vec<NodeId> = self
            .holders
            .iter()
            .filter(|(_, of)| of.open == 0 && now.saturating_sub(of.answered.max(of.asked)) >= PROBE_EVERY)
            .map(|(holder, _)| *holder)
            .collect();
        for holder in due {
            let had = self.kept.iter().find(|(_, kept)| kept.known.get(&holder).is_some_and(|known| known.has)).map(|(blob, _)| *blob);
            // One that has nothing yet must be known to live, too, before it is given anything.
            let blob = had.or_else(|| self.kept.keys().next().copied());
            if let Some(blob) = blob {
                self.ask(holder, blob, now, tasks);
            }
        }
    }

    fn ask(&mut self, holder: NodeId, blob: BlobHash, now: Duration, tasks: &mut Vec<Task>) {
        if !self.asking.insert((holder, blob)) {
            return;
        }
        if let Some(of) = self.holders.get_mut(&holder) {
            of.open += 1;
            of.asked = now;
            // The first question that it does not answer counts.
            of.silent_since = of.silent_since.or(Some(now));
        }
        tasks.push(Task::Ask { holder, blob });
    }

    /// Looks after one blob.
    fn look(&mut self, blob: BlobHash, place: usize, wanted: usize, now: Duration, tasks: &mut Vec<Task>) {
        let copies = self.copies_of(&blob, now);
        let Some(kept) = self.kept.get(&blob) else { return };
        let there: Vec<NodeId> = self.holders.keys().filter(|holder| self.is_there(holder, now)).copied().collect();
        let order = ranked(&kept.of, there);
        // First those that have it, whose word gets old; then, as long as copies lack, others in the order in which they
        // would be pushed to.
        let is_old = |known: &Known| now.saturating_sub(known.at) >= if known.has { KNOWN_FOR } else { ASK_AGAIN };
        let mut unsure = Vec::new();
        for holder in order.iter().take(LOOKED_AT) {
            match kept.known.get(holder) {
                Some(known) if known.has && is_old(known) => unsure.push(*holder),
                Some(known) if !known.has && copies < wanted && is_old(known) => unsure.push(*holder),
                None if copies < wanted => unsure.push(*holder),
                _ => {}
            }
        }
        let never_asked = order.iter().take(LOOKED_AT).any(|holder| !kept.known.contains_key(holder));
        for holder in unsure {
            if self.asking.len() >= ASKED_MAX {
                break;
            }
            self.ask(holder, blob, now, tasks);
        }
        let Some(kept) = self.kept.get_mut(&blob) else { return };
        if copies >= wanted {
            kept.lacks_since = None;
            return;
        }
        let since = *kept.lacks_since.get_or_insert(now);
        let its_turn = place == 0 || now.saturating_sub(since) >= SECOND_WAITS;
        // Before all were asked, copies may only seem to lack.
        if never_asked || !its_turn || kept.copying.is_some() || now < kept.retry_at || self.copying >= COPYING_MAX {
            return;
        }
        let lacks = |holder: &&NodeId| kept.known.get(*holder).is_some_and(|known| !known.has);
        let fresh = order.iter().filter(lacks).find(|holder| !kept.refused.contains(*holder)).copied();
        let to = fresh.or_else(|| {
            // All refused: from the beginning.
            kept.refused.clear();
            order.iter().find(lacks).copied()
        });
        if let Some(to) = to {
            kept.copying = Some(to);
            self.copying += 1;
            tasks.push(Task::Copy { blob, to });
        }
    }
}

#[cfg(test)]
mod tests;
