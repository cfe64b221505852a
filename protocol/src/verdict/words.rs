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
use crate::id::{NodeId, OperatorId};
use crate::outcome::Outcome;
use crate::record::payload::{LeaseRef, Reveal, Says};
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
}

/// What was said of an action, so far as it is opened, and by whom no more can be said that counts.
pub(crate) struct Words {
    /// What was opened rightly, with the node that said it.
    pub opened: Vec<(NodeId, Attestation)>,
    /// Attempts (by their first slot) and branches: whatever those commit to now for them is no vote.
    pub spent: BTreeSet<(u16, Branch)>,
}

impl Words {
    /// Of the `records` of an action, those whose authors `speaker` knows.
    pub fn of<'a>(records: impl Iterator<Item = &'a SharedRecord> + Clone, speaker: impl Fn(&NodeId) -> Option<Speaker>) -> Self {
        // Of most actions that are looked at nothing was opened.
        let mut reveals: BTreeMap<(NodeId, LeaseRef), Vec<(Timestamp, &Reveal)>> = BTreeMap::new();
        for record in records.clone() {
            if let Payload::Reveal(reveal) = record.payload() {
                reveals.entry((NodeId(record.author_key()), reveal.lease)).or_default().push((record.issued(), reveal));
            }
        }
        if reveals.is_empty() {
            return Self { opened: Vec::new(), spent: BTreeSet::new() };
        }
        let mut words: Vec<Word<'_>> = Vec::new();
        let mut opened: Vec<(NodeId, Attestation)> = Vec::new();
        let mut seen = BTreeMap::new();
        for record in records {
            let (node, Payload::Commitment(said)) = (NodeId(record.author_key()), record.payload()) else { continue };
            let Some(speaker) = speaker(&node) else { continue };
            // The same said twice is said once, at the earlier moment.
            if let Some(at) = seen.get(&(node, said.lease, said.commitment, said.says)) {
                let word: &mut Word<'_> = &mut words[*at];
                word.committed = word.committed.min(record.issued());
                continue;
            }
            seen.insert((node, said.lease, said.commitment, said.says), words.len());
            let of_lease = reveals.get(&(node, said.lease)).into_iter().flatten();
            // The hash of what was revealed is computed only where something was committed to.
            let fitting = of_lease.filter(|(_, reveal)| reveal.fits(said, &speaker.operator));
            let fitting: Vec<(Timestamp, &Reveal)> = fitting.copied().collect();
            opened.extend(fitting.iter().map(|(at, reveal)| (node, Attestation::of(speaker.operator, *at, reveal))));
            let first = fitting.into_iter().min_by_key(|(at, _)| *at);
            words.push(Word { node, speaker, lease: said.lease, committed: record.issued(), says: said.says, opened: first });
        }
        words.retain(|word| !word.lease.slot.is_arbiter());
        let copies: BTreeSet<(NodeId, LeaseRef)> =
            words.iter().filter(|word| is_void(word, &words)).map(|word| (word.node, word.lease)).collect();
        for (node, attestation) in &mut opened {
            attestation.void = copies.contains(&(*node, attestation.lease));
        }
        let spent = words.iter().filter(|word| is_spent(word, &words));
        Self { spent: spent.map(|word| (attempt_of(word.lease.slot), word.speaker.branch)).collect(), opened }
    }
}

fn of_one_attempt(one: &Word<'_>, other: &Word<'_>) -> bool {
    attempt_of(one.lease.slot) == attempt_of(other.lease.slot)
}

/// Whether a word gives no vote for what else was said by its operator or branch.
fn is_void(word: &Word<'_>, words: &[Word<'_>]) -> bool {
    let Some(vote) = word.vote() else { return false };
    let others = || words.iter().filter(|other| !std::ptr::eq(*other, word) && of_one_attempt(word, other));
    let mut own = others().filter(|other| other.says == Says::Word && other.speaker.operator == word.speaker.operator);
    if own.any(|other| other.vote().is_none() || word.firm().is_some_and(|firm| other.firm() != Some(firm))) {
        return true;
    }
    // What it could have been copied from.
    let mut visible = others().filter(|other| {
        let shown = other.opened.is_some_and(|(at, _)| at <= word.committed);
        shown && other.speaker.counts && other.speaker.branch != word.speaker.branch && other.vote() == Some(vote)
    });
    let unlike = |other: &Word<'_>| other.says == Says::Word && other.committed < word.committed && other.vote() != Some(vote);
    visible.next().is_some() && others().any(|other| other.speaker.branch == word.speaker.branch && unlike(other))
}

/// Whether nothing that the branch of a word says from now on would be a vote, since what others opened is visible.
fn is_spent(word: &Word<'_>, words: &[Word<'_>]) -> bool {
    let mut others = words.iter().filter(|other| of_one_attempt(word, other) && other.speaker.branch != word.speaker.branch);
    word.says == Says::Word && others.any(|other| other.speaker.counts && other.firm().is_some())
}

#[cfg(test)]
mod tests;
