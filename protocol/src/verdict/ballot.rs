//! Which words are votes: what an operator said first, less what is set aside.
//!
//! A failure for lack of memory, disk or time says nothing of a job that succeeds elsewhere, so it is set aside beside a
//! success, and beside whatever else a larger machine found (DESIGN section 7: tried once on a larger machine before anyone
//! is blamed), unless very many say so. What a larger machine says counts like any other word.

use std::collections::{BTreeMap, BTreeSet};

use super::{Attestation, Branch, Standing, may_vote};
use crate::blame::{self, Job, POISON_SAID, SMALL_MANY, attempt_of, is_larger, rule};
use crate::id::OperatorId;
use crate::outcome::{FailureClass, Outcome};
use crate::policy::Policy;

/// Whether an outcome is a failure for lack of memory, disk or time.
pub(crate) fn lacks_room(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failure { class, .. } if rule(*class).job == Job::TooSmall)
}

/// Whether a word takes the weight from those of machines that were too small.
pub(crate) fn outweighs(attestation: &Attestation) -> bool {
    attestation.outcome.tree().is_some() || is_larger(attestation.lease.slot) && !lacks_room(&attestation.outcome)
}

/// Whether so many branches found their machines too small that a word which says more does not set theirs aside: whoever
/// says that it had room may lie, and an arbiter is asked.
pub(crate) fn are_many(small: usize, policy: &Policy) -> bool {
    small >= SMALL_MANY * usize::from(policy.quorum)
}

/// Whether a word is that of a machine that was perhaps too small.
pub(crate) fn is_soft(attestation: &Attestation) -> bool {
    lacks_room(&attestation.outcome) && !is_larger(attestation.lease.slot) && !attestation.lease.slot.is_arbiter()
}

/// The words of one attempt, in the order of their leases.
pub(super) struct Ballot<'a> {
    /// Operator → the word that counts.
    pub votes: BTreeMap<OperatorId, &'a Attestation>,
    /// Words of voters that would count if they said something of the job.
    lost: Vec<&'a Attestation>,
    /// Such words of arbiters, of all attempts.
    lost_arbiters: Vec<&'a Attestation>,
    /// Number of the attempt, from 0.
    attempt: usize,
}

impl<'a> Ballot<'a> {
    /// Of `sorted` words, those of voters in the attempt that begins at `first_slot`; successes of earlier ones, too.
    pub fn new(sorted: &[&'a Attestation], first_slot: u16, standing: &(impl Standing + ?Sized), policy: &Policy) -> Self {
        let (mut firm, mut soft) = (BTreeMap::new(), BTreeMap::new());
        let (mut lost, mut lost_arbiters) = (Vec::new(), Vec::new());
        for attestation in sorted {
            let slot = attestation.lease.slot;
            if slot.is_arbiter() && !attestation.counts() && standing.is_trusted(&attestation.operator) {
                lost_arbiters.push(*attestation);
            }
            let set_aside = attempt_of(slot) < first_slot && attestation.outcome.tree().is_none();
            if slot.is_arbiter() || set_aside || attestation.void || !may_vote(standing, &attestation.operator, policy) {
                continue;
            }
            if !attestation.counts() {
                lost.push(*attestation);
            } else if is_soft(attestation) {
                soft.entry(attestation.operator).or_insert(*attestation);
            } else {
                firm.entry(attestation.operator).or_insert(*attestation);
            }
        }
        let small = soft.keys().map(|operator| standing.branch(operator).unwrap_or(*operator)).collect::<BTreeSet<Branch>>().len();
        if !firm.values().any(|vote: &&Attestation| outweighs(vote)) || are_many(small, policy) {
            for (operator, vote) in soft {
                firm.entry(operator).or_insert(vote);
            }
        }
        Self { votes: firm, lost, lost_arbiters, attempt: usize::from(first_slot / blame::ATTEMPT_STRIDE) }
    }

    /// The outcome in which all votes agree, if they do. Those that say only that there was too little room agree in that;
    /// the word from a larger machine stands for them.
    pub fn agreed(&self) -> Option<&'a Outcome> {
        let first = self.votes.values().next()?;
        if self.votes.values().all(|vote| lacks_room(&vote.outcome)) {
            let larger = self.votes.values().find(|vote| is_larger(vote.lease.slot));
            let lowest = self.votes.values().min_by_key(|vote| (vote.lease, &vote.outcome));
            return larger.or(lowest).map(|vote| &vote.outcome);
        }
        self.votes.values().all(|vote| vote.outcome == first.outcome).then_some(&first.outcome)
    }

    /// The stage at which independent branches were lost, and who was, if they are many: whoever came through the job, or
    /// says so, speaks for it. The caller has seen that the quorum is not reached.
    pub fn poison(&self, standing: &(impl Standing + ?Sized)) -> Option<(Outcome, BTreeSet<OperatorId>)> {
        let at_one_stage = |words: &[&'a Attestation]| {
            let mut stages: BTreeMap<&'a Outcome, (usize, BTreeSet<OperatorId>)> = BTreeMap::new();
            for word in words.iter().filter(|word| matches!(word.outcome, Outcome::Failure { class: FailureClass::Lost, .. })) {
                let stage = stages.entry(&word.outcome).or_default();
                stage.0 += 1;
                stage.1.insert(word.operator);
            }
            stages
        };
        let branch = |operator: &OperatorId| standing.branch(operator).unwrap_or(*operator);
        let through: BTreeSet<Branch> = self.votes.keys().map(branch).collect();
        let branches = |operators: &BTreeSet<OperatorId>| operators.iter().map(branch).collect::<BTreeSet<Branch>>().len();
        let voters = at_one_stage(&self.lost).into_iter().find(|(_, (_, lost))| branches(lost) >= POISON_SAID * (through.len() + 1));
        // Arbiters are trusted, so no voter speaks against them. Their slots belong to no attempt: each Retry allows for as
        // many losses again.
        let enough = POISON_SAID * (self.attempt + 1);
        let mut arbiters = at_one_stage(&self.lost_arbiters).into_iter();
        let found = voters.or_else(|| arbiters.find(|(_, (words, lost))| *words >= enough && branches(lost) >= POISON_SAID));
        found.map(|(outcome, (_, operators))| (outcome.clone(), operators))
    }
}

/// What is to be said of a job whose builders fell silent: lost, at a stage that nobody knows.
pub(crate) fn lost_in_silence() -> Outcome {
    Outcome::Failure { class: FailureClass::Lost, stage: crate::bounded::BoundedString::cut(blame::STAGE_UNKNOWN) }
}

#[cfg(test)]
mod tests;
