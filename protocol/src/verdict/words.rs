//! Which results are words of their own, and not copies of what others have opened. A commitment is to keep everybody from
//! saying what others built; who commits to anything at all, waits until that has opened the others' results, and then
//! commits to one of these in another slot, would have a vote without a build.
//!
//! Both rules are functions of the set of commitments and reveals of an action, whatever their order of arrival:
//!
//! - An operator has no vote in an attempt in which another of its commitments is not opened, or is opened to another
//!   word on the job.
//! - A branch has no vote for what another had opened before it committed, if it had committed to something else before
//!   that.
//!
//! Commitments that say beforehand that they are no word, or only that the machine was too small, are left out of both:
//! they open nobody's result, and whoever says so may try again. The first rule knows no time, so it can't be got around
//! by dates that are not true. The second does: who lies about moments, too, must have two operators of one branch for it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Attestation, Branch};
use crate::blame::attempt_of;
use crate::id::{NodeId, OperatorId, RecordId};
use crate::outcome::Outcome;
use crate::record::payload::{Commitment, LeaseRef, Reveal, Says};
use crate::record::{Payload, SharedRecord};
use crate::time::Timestamp;

/// Who is behind a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speaker {
    /// Its operator.
    pub operator: OperatorId,
    /// The operator's branch; itself, where it has none.
    pub branch: Branch,
    /// Whether anybody vouches for it: what others opened shows nothing to a branch.
    pub counts: bool,
}

/// A commitment, with what opened it.
struct Word<'a> {
    node: NodeId,
    speaker: Speaker,
    lease: LeaseRef,
    committed: Timestamp,
    says: Says,
    /// When it was opened, and how.
    opened: Option<(Timestamp, &'a Reveal)>,
}

impl Word<'_> {
    /// What it says of the job.
    fn vote(&self) -> Option<&Outcome> {
        self.opened.map(|(_, reveal)| &reveal.outcome).filter(|outcome| outcome.is_vote())
    }

    /// A word on the job that is more than that the machine was too small.
    fn firm(&self) -> Option<&Outcome> {
        self.vote().filter(|_| self.says == Says::Word)
    }

    /// Whether it gives no vote for what else was said by its operator or branch, beside `all` words of its action.
    fn is_void(&self, all: &[Self]) -> bool {
        let Some(vote) = self.vote() else { return false };
        let (operator, branch) = (self.speaker.operator, self.speaker.branch);
        let mut others = all.iter().filter(|other| attempt_of(other.lease.slot) == attempt_of(self.lease.slot));
        let mut own = others.clone().filter(|other| other.says == Says::Word && other.speaker.operator == operator);
        if own.any(|own| own.vote().is_none_or(|other| self.firm().is_some() && other != vote)) {
            return true;
        }
        // What it could have been copied from.
        let visible = |other: &Self| {
            let shown = other.opened.is_some_and(|(at, _)| at <= self.committed) && other.vote() == Some(vote);
            shown && other.speaker.counts && other.speaker.branch != branch
        };
        let before = |other: &Self| {
            other.says == Says::Word && other.speaker.branch == branch && other.vote() != Some(vote) && other.committed < self.committed
        };
        others.clone().any(visible) && others.any(before)
    }

    /// Whether nothing that its branch says from now on would be a vote, since what others opened is visible.
    fn is_spent(&self, all: &[Self]) -> bool {
        let others = |other: &Self| {
            let of_attempt = attempt_of(other.lease.slot) == attempt_of(self.lease.slot);
            of_attempt && other.speaker.counts && other.speaker.branch != self.speaker.branch && other.firm().is_some()
        };
        self.says == Says::Word && all.iter().any(others)
    }
}

/// So few words are compared with one another, which costs less than a tally of them; mostly there are as many as slots.
const FEW: usize = 8;

/// What was said of an action, so far as it is opened, and by whom no more can be said that counts.
pub(crate) struct Words {
    /// What was opened rightly, with the node that said it.
    pub opened: Vec<(NodeId, Attestation)>,
    /// Attempts (by their first slot) and branches: whatever those commit to now for them is no vote.
    pub spent: Vec<(u16, Branch)>,
}

impl Words {
    /// Of the `records` of an action, those whose authors `speaker` knows.
    pub fn of<'a>(records: impl Iterator<Item = &'a SharedRecord> + Clone, speaker: impl Fn(&NodeId) -> Option<Speaker>) -> Self {
        // Of most actions that are looked at nothing was opened.
        let opening = records.clone().filter_map(|record| match record.payload() {
            Payload::Reveal(reveal) => Some((NodeId(record.author_key()), &**reveal, record.issued(), record.id())),
            _ => None,
        });
        let mut reveals: Vec<(NodeId, &Reveal, Timestamp, RecordId)> = opening.collect();
        if reveals.is_empty() {
            return Self { opened: Vec::new(), spent: Vec::new() };
        }
        // Of what opens one commitment the earliest comes first.
        reveals.sort_unstable_by_key(|(node, reveal, at, id)| (*node, reveal.lease, *at, *id));
        let commitments = records.filter_map(|record| match record.payload() {
            Payload::Commitment(said) => Some((NodeId(record.author_key()), said, record.issued())),
            _ => None,
        });
        let mut said: Vec<(NodeId, &Commitment, Timestamp)> = commitments.collect();
        said.sort_unstable_by_key(|(node, said, at)| (*node, said.lease, said.commitment, said.says, *at));
        // The same said twice is said once, at the earlier moment.
        said.dedup_by(|(node, said, _), (by, first, _)| {
            (*node, said.lease, said.commitment, said.says) == (*by, first.lease, first.commitment, first.says)
        });
        let mut words: Vec<Word<'_>> = Vec::with_capacity(said.len());
        let mut opened: Vec<(NodeId, Attestation)> = Vec::with_capacity(reveals.len());
        for (node, said, committed) in said {
            let Some(speaker) = speaker(&node) else { continue };
            let from = reveals.partition_point(|(by, reveal, ..)| (*by, reveal.lease) < (node, said.lease));
            let of_lease = reveals[from..].iter().take_while(|(by, reveal, ..)| (*by, reveal.lease) == (node, said.lease));
            // The hash of what was revealed is computed only where something was committed to.
            let fitting = of_lease.filter(|(_, reveal, ..)| reveal.fits(said, &speaker.operator));
            let mut first = None;
            for (_, reveal, at, _) in fitting {
                first = first.or(Some((*at, *reveal)));
                opened.push((node, Attestation::of(speaker.operator, *at, reveal)));
            }
            words.push(Word { node, speaker, lease: said.lease, committed, says: said.says, opened: first });
        }
        words.retain(|word| !word.lease.slot.is_arbiter());
        let tally = (words.len() > FEW).then(|| Tally::of(&words));
        let is_void = |word: &&Word<'_>| tally.as_ref().map_or_else(|| word.is_void(&words), |tally| tally.is_void(word));
        let is_spent = |word: &&Word<'_>| tally.as_ref().map_or_else(|| word.is_spent(&words), |tally| tally.is_spent(word));
        let copies: BTreeSet<(NodeId, LeaseRef)> = words.iter().filter(is_void).map(|word| (word.node, word.lease)).collect();
        for (node, attestation) in &mut opened {
            attestation.void = copies.contains(&(*node, attestation.lease));
        }
        let spent = words.iter().filter(is_spent).map(|word| (attempt_of(word.lease.slot), word.speaker.branch));
        let mut spent: Vec<(u16, Branch)> = spent.collect();
        spent.sort_unstable();
        spent.dedup();
        Self { opened, spent }
    }
}

/// What an operator committed to in an attempt.
#[derive(Default)]
struct Own<'a> {
    /// Whether a commitment to a word is not opened, or opened to none.
    shut: bool,
    said: BTreeSet<&'a Outcome>,
}

/// The earliest of some moments, and the earliest that goes with another key than that.
struct Earliest<K>(Option<(Timestamp, K)>, Option<(Timestamp, K)>);

impl<K> Default for Earliest<K> {
    fn default() -> Self {
        Self(None, None)
    }
}

impl<K: Ord + Copy> Earliest<K> {
    fn add(&mut self, at: Timestamp, key: K) {
        match self.0 {
            Some((first, of)) if of == key => self.0 = Some((first.min(at), key)),
            Some(first) if first <= (at, key) => self.1 = Some(self.1.map_or((at, key), |second| second.min((at, key)))),
            first => (self.0, self.1) = (Some((at, key)), first),
        }
    }

    /// The earliest moment that goes with another key.
    fn but_for(&self, key: K) -> Option<Timestamp> {
        let other = |entry: &Option<(Timestamp, K)>| entry.filter(|(_, of)| *of != key).map(|(at, _)| at);
        other(&self.0).or_else(|| other(&self.1))
    }
}

/// What the rules ask of all words of an action, gathered in one pass: anybody who may vote can write thousands of them.
#[derive(Default)]
struct Tally<'a> {
    own: BTreeMap<(u16, OperatorId), Own<'a>>,
    /// By attempt and vote: when who counts had opened it, by branch.
    shown: BTreeMap<(u16, &'a Outcome), Earliest<Branch>>,
    /// By attempt and branch: when it committed to words, by what they came to.
    committed: BTreeMap<(u16, Branch), Earliest<Option<&'a Outcome>>>,
    /// By attempt: when who counts had opened anything firm, by branch.
    firm: BTreeMap<u16, Earliest<Branch>>,
}

impl<'a> Tally<'a> {
    fn of(words: &'a [Word<'_>]) -> Self {
        let mut tally = Self::default();
        for word in words {
            let (attempt, branch) = (attempt_of(word.lease.slot), word.speaker.branch);
            if let (Some((at, _)), Some(vote)) = (word.opened, word.vote())
                && word.speaker.counts
            {
                tally.shown.entry((attempt, vote)).or_default().add(at, branch);
                if word.firm().is_some() {
                    tally.firm.entry(attempt).or_default().add(at, branch);
                }
            }
            if word.says == Says::Word {
                tally.committed.entry((attempt, branch)).or_default().add(word.committed, word.vote());
                let own = tally.own.entry((attempt, word.speaker.operator)).or_default();
                own.shut |= word.vote().is_none();
                own.said.extend(word.vote());
            }
        }
        tally
    }

    /// As [`Word::is_void`].
    fn is_void(&self, word: &Word<'_>) -> bool {
        let Some(vote) = word.vote() else { return false };
        let (attempt, branch) = (attempt_of(word.lease.slot), word.speaker.branch);
        let own = self.own.get(&(attempt, word.speaker.operator));
        if own.is_some_and(|own| own.shut || word.firm().is_some() && own.said.len() > 1) {
            return true;
        }
        // What it could have been copied from.
        let visible = self.shown.get(&(attempt, vote)).and_then(|shown| shown.but_for(branch)).is_some_and(|at| at <= word.committed);
        let before = self.committed.get(&(attempt, branch)).and_then(|committed| committed.but_for(Some(vote)));
        visible && before.is_some_and(|at| at < word.committed)
    }

    /// As [`Word::is_spent`].
    fn is_spent(&self, word: &Word<'_>) -> bool {
        let firm = self.firm.get(&attempt_of(word.lease.slot));
        word.says == Says::Word && firm.and_then(|firm| firm.but_for(word.speaker.branch)).is_some()
    }
}

#[cfg(test)]
mod tests;
