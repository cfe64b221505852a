//! When a result counts: `verdict(evidence of the action, standing at seal n, policy)`, a pure function that any node
//! and any outsider can recompute (DESIGN sections 2 and 8).
//!
//! Votes are counted per branch, never per node: a thousand nodes of one operator are one voice, and so are all
//! operators that one sponsor brought in. A disagreement is never settled by counting: a trusted operator who attested
//! nothing for the action builds it twice, the second time with everything made to differ that must not matter. Where the
//! two differ, the job is not deterministic and nobody is wrong; where they agree, what differs from them on a like
//! machine is.

pub(crate) mod ballot;
pub(crate) mod words;

use std::collections::{BTreeMap, BTreeSet};

use ballot::{Ballot, is_soft, lacks_room};
use serde::{Deserialize, Serialize};

use crate::id::{OperatorId, OutcomeHash};
use crate::outcome::Outcome;
use crate::policy::{Policy, Voters};
use crate::record::payload::{LeaseRef, Reveal};
use crate::time::Timestamp;

/// The branch of an operator, named by the operator that begins it.
pub type Branch = OperatorId;

/// A revealed result, its commitment checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attestation {
    /// Where it was built. Its slot says whether it is a voter's or an arbiter's.
    pub lease: LeaseRef,
    /// Who answers for it.
    pub operator: OperatorId,
    /// What came of it.
    pub outcome: Outcome,
    /// What came of an arbiter's second build; of no meaning for others.
    pub again: Option<Outcome>,
    /// The machine's fingerprint: results may only be compared as right and wrong between equal ones.
    pub fingerprint: String,
    /// When it was revealed.
    pub revealed: Timestamp,
    /// Whether it is no vote for what else its operator or branch committed to: it could be a copy of what others opened.
    pub void: bool,
}

impl Attestation {
    /// What `reveal`, issued at `revealed`, attests, as a word of `operator`. The caller has seen the commitment that it
    /// opens.
    pub fn of(operator: OperatorId, revealed: Timestamp, reveal: &Reveal) -> Self {
        Self {
            lease: reveal.lease,
            operator,
            outcome: reveal.outcome.clone(),
            again: reveal.again.as_deref().cloned(),
            fingerprint: reveal.particulars.fingerprint.to_string(),
            revealed,
            void: false,
        }
    }

    /// Whether it says something of the job: that of an arbiter only where both builds do.
    pub fn counts(&self) -> bool {
        let twice = !self.lease.slot.is_arbiter() || self.again.as_ref().is_some_and(Outcome::is_vote);
        self.outcome.is_vote() && twice
    }
}

/// Who the operators are, at a seal.
pub trait Standing {
    /// The operator's branch; `None` for those that nobody invited.
    fn branch(&self, operator: &OperatorId) -> Option<Branch>;
    /// Whether the maintainers trust the operator's builds.
    fn is_trusted(&self, operator: &OperatorId) -> bool;
    /// Whether what an operator reveals at that moment counts: not what the banned and those proven a fraud ever said, nor
    /// what the suspended say meanwhile.
    fn may_attest(&self, operator: &OperatorId, at: Timestamp) -> bool;
    /// The round of the seal at which this standing holds; `None` in networks without sealers.
    fn seal(&self) -> Option<u64> {
        None
    }
}

/// Whether `operator` has a vote under `policy`.
pub fn may_vote(standing: &(impl Standing + ?Sized), operator: &OperatorId, policy: &Policy) -> bool {
    match policy.voters {
        Voters::Trusted => standing.is_trusted(operator),
        Voters::Invited => standing.branch(operator).is_some(),
    }
}

/// How far the evidence of an action goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictState {
    /// No vote yet.
    Unattested,
    /// Votes, all alike, fewer than the quorum.
    Candidate,
    /// The quorum agrees on an output.
    CrossVerified,
    /// The quorum agrees that the job fails, or independent branches were lost with it: poison.
    Failed,
    /// Votes differ between like machines, and no arbiter has built it yet.
    Disputed,
    /// Votes differ, but only between unlike machines, and no arbiter has built it yet.
    PlatformDependent,
    /// Votes differ, and so did the arbiter's own two builds: the job is to blame, and nobody is wrong.
    NotDeterministic,
}

impl VerdictState {
    /// Whether dependants may use an output of this standing under `policy`.
    pub fn is_usable(self, policy: &Policy) -> bool {
        use crate::policy::Standard;
        match policy.inputs {
            Standard::Candidate => matches!(self, Self::Candidate | Self::CrossVerified),
            Standard::CrossVerified => self == Self::CrossVerified,
        }
    }

    /// Whether nothing more is to be built for it.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::CrossVerified) || self.is_failure()
    }

    /// Whether the job itself failed: it must be mended before anything can be built upon it.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::NotDeterministic)
    }
}

/// What the evidence of an action says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// How far it goes.
    pub state: VerdictState,
    /// The outcome that stands; `None` while nothing is attested or a disagreement is not settled.
    pub outcome: Option<Outcome>,
    /// Operators whose votes agree with it, the arbiter among them.
    pub agreeing: BTreeSet<OperatorId>,
    /// Operators whose votes differ from it, with what they attested (all voters while nothing is settled).
    pub differing: BTreeMap<OperatorId, OutcomeHash>,
    /// Those of `differing` that an arbiter on a like machine showed to be wrong.
    pub wrong: BTreeSet<OperatorId>,
    /// The trusted operator whose builds settled a disagreement.
    pub arbiter: Option<OperatorId>,
}

impl Verdict {
    fn unattested() -> Self {
        Self {
            state: VerdictState::Unattested,
            outcome: None,
            agreeing: BTreeSet::new(),
            differing: BTreeMap::new(),
            wrong: BTreeSet::new(),
            arbiter: None,
        }
    }

    /// Whether nothing more is to be built for it.
    pub const fn is_final(&self) -> bool {
        self.state.is_final()
    }
}

/// The verdict. `attempt_first_slot` is the first slot of the newest attempt: failures of earlier ones are set aside by a
/// Retry, successes never are.
pub fn verdict<'a>(
    attestations: impl IntoIterator<Item = &'a Attestation>,
    attempt_first_slot: u16,
    standing: &(impl Standing + ?Sized),
    policy: &Policy,
) -> Verdict {
    // Sorted by lease, so that the first word of an operator is the one that counts, whatever the order of arrival.
    let admitted = |attestation: &&Attestation| standing.may_attest(&attestation.operator, attestation.revealed);
    let mut sorted: Vec<&Attestation> = attestations.into_iter().filter(admitted).collect();
    sorted.sort();
    let ballot = Ballot::new(&sorted, attempt_first_slot, standing, policy);
    let votes = &ballot.votes;
    // An arbiter must have attested nothing else for the action: it would judge its own word.
    let arbiter = sorted.iter().find(|attestation| {
        attestation.lease.slot.is_arbiter()
            && attestation.counts()
            && standing.is_trusted(&attestation.operator)
            && !sorted.iter().any(|other| {
                // What a machine spoilt is no word on the job.
                other.operator == attestation.operator && !other.lease.slot.is_arbiter() && other.outcome.is_vote()
            })
    });

    if votes.is_empty() {
        return poison(&ballot, standing).unwrap_or_else(Verdict::unattested);
    }
    let agreed = ballot.agreed();
    let unsettled = |state, arbiter| Verdict {
        state,
        differing: votes.iter().map(|(operator, vote)| (*operator, vote.outcome.hash())).collect(),
        arbiter,
        ..Verdict::unattested()
    };
    let standing_outcome = match (agreed, arbiter) {
        (Some(outcome), _) => outcome.clone(),
        (None, Some(arbiter)) if arbiter.again.as_ref() == Some(&arbiter.outcome) => arbiter.outcome.clone(),
        (None, Some(arbiter)) => return unsettled(VerdictState::NotDeterministic, Some(arbiter.operator)),
        (None, None) => {
            if let Some(poison) = poison(&ballot, standing) {
                return poison;
            }
            let like = votes.values().any(|a| votes.values().any(|b| a.outcome != b.outcome && a.fingerprint == b.fingerprint));
            return unsettled(if like { VerdictState::Disputed } else { VerdictState::PlatformDependent }, None);
        }
    };

    let settled_by = arbiter.filter(|_| agreed.is_none());
    let mut agreeing: BTreeSet<OperatorId> = BTreeSet::new();
    let mut differing = BTreeMap::new();
    let mut wrong = BTreeSet::new();
    for (operator, vote) in votes {
        if vote.outcome == standing_outcome || agreed.is_some_and(lacks_room) {
            agreeing.insert(*operator);
        } else {
            differing.insert(*operator, vote.outcome.hash());
            if settled_by.is_some_and(|arbiter| arbiter.fingerprint == vote.fingerprint) && !is_soft(vote) {
                wrong.insert(*operator);
            }
        }
    }
    if let Some(arbiter) = settled_by {
        agreeing.insert(arbiter.operator);
    }
    let mut branches: Vec<Branch> = agreeing.iter().map(|operator| standing.branch(operator).unwrap_or(*operator)).collect();
    branches.sort_unstable();
    branches.dedup();
    let reached = branches.len() >= usize::from(policy.quorum);
    if let (false, Some(poison)) = (reached, poison(&ballot, standing)) {
        return poison;
    }
    let state = match (&standing_outcome, reached) {
        (Outcome::Success { .. }, true) => VerdictState::CrossVerified,
        (Outcome::Failure { .. }, true) => VerdictState::Failed,
        (_, false) => VerdictState::Candidate,
    };
    Verdict { state, outcome: Some(standing_outcome), agreeing, differing, wrong, arbiter: settled_by.map(|a| a.operator) }
}

/// The verdict on a job that machines do not come back from.
fn poison(ballot: &Ballot<'_>, standing: &(impl Standing + ?Sized)) -> Option<Verdict> {
    let (outcome, agreeing) = ballot.poison(standing)?;
    Some(Verdict { state: VerdictState::Failed, outcome: Some(outcome), agreeing, ..Verdict::unattested() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{ActionId, BlobHash};
    use crate::record::payload::SlotNo;

    /// Operators 1 to 9 are in branch = number modulo 5 (0: uninvited); 8 and 9 are trusted; 4 is suspended from 100 on.
    struct Village;
    impl Standing for Village {
        fn branch(&self, operator: &OperatorId) -> Option<Branch> {
            let branch = operator.0[0] % 5;
            (branch != 0).then_some(OperatorId([branch; 32]))
        }
        fn is_trusted(&self, operator: &OperatorId) -> bool {
            operator.0[0] >= 8
        }
        fn may_attest(&self, operator: &OperatorId, at: Timestamp) -> bool {
            !(operator.0[0] == 4 && at >= Timestamp(100))
        }
    }

    fn says(operator: u8, slot: u16, tree: u8) -> Attestation {
        Attestation {
            lease: LeaseRef { action: ActionId([0; 32]), slot: SlotNo(slot), epoch: 1 },
            operator: OperatorId([operator; 32]),
            outcome: Outcome::Success { tree: BlobHash([tree; 32]) },
            again: None,
            fingerprint: "linux".into(),
            revealed: Timestamp(0),
            void: false,
        }
    }

    /// An arbiter's word on two builds.
    fn settles(operator: u8, tree: u8, again: u8) -> Attestation {
        let again = Some(Outcome::Success { tree: BlobHash([again; 32]) });
        Attestation { again, ..says(operator, SlotNo::ARBITER.0, tree) }
    }

    fn small(attestations: &[Attestation]) -> Verdict {
        verdict(attestations, 0, &Village, &Policy::small())
    }

    #[test]
    fn two_branches_that_agree_are_a_quorum() {
        assert_eq!(small(&[says(1, 0, 7)]).state, VerdictState::Candidate);
        assert_eq!(small(&[says(1, 0, 7), says(2, 1, 7)]).state, VerdictState::CrossVerified);
    }

    #[test]
    fn two_operators_of_one_branch_are_one_voice() {
        assert_eq!(small(&[says(1, 0, 7), says(6, 1, 7)]).state, VerdictState::Candidate);
    }

    /// What was revealed before stays, and what comes later is not even a disagreement.
    #[test]
    fn suspended_operator_has_no_vote_meanwhile() {
        let later = |attestation| Attestation { revealed: Timestamp(100), ..attestation };
        assert_eq!(small(&[says(1, 0, 7), says(4, 1, 7)]).state, VerdictState::CrossVerified);
        assert_eq!(small(&[says(1, 0, 7), later(says(4, 1, 7))]).state, VerdictState::Candidate);
        assert_eq!(small(&[says(1, 0, 7), says(2, 1, 7), later(says(4, 1, 66))]).state, VerdictState::CrossVerified);
    }

    #[test]
    fn uninvited_operators_have_no_vote() {
        assert_eq!(small(&[says(5, 0, 7), says(10, 1, 7)]).state, VerdictState::Unattested);
    }

    /// Three against one is a dispute all the same.
    #[test]
    fn majority_settles_nothing() {
        let verdict = small(&[says(1, 0, 7), says(2, 1, 7), says(3, 2, 7), says(4, 3, 66)]);
        assert_eq!((verdict.state, verdict.outcome), (VerdictState::Disputed, None));
    }

    #[test]
    fn arbiter_settles_a_dispute_and_names_who_was_wrong() {
        let verdict = small(&[says(1, 0, 7), says(2, 1, 66), settles(8, 7, 7)]);
        assert_eq!(verdict.state, VerdictState::CrossVerified);
        assert_eq!(verdict.wrong, BTreeSet::from([OperatorId([2; 32])]));
        assert_eq!(verdict.arbiter, Some(OperatorId([8; 32])));
    }

    /// Nobody may judge their own word, and nobody untrusted may judge.
    #[test]
    fn voter_and_untrusted_cannot_be_arbiter() {
        let own = [says(8, 0, 66), says(1, 1, 7), settles(8, 66, 66)];
        assert_eq!(small(&own).state, VerdictState::Disputed);
        let untrusted = [says(1, 0, 7), says(2, 1, 66), settles(3, 66, 66)];
        assert_eq!(small(&untrusted).state, VerdictState::Disputed);
    }

    /// The arbiter's own two builds differ: the job is to blame, whichever of the voters they agree with.
    #[test]
    fn job_that_is_not_deterministic_makes_nobody_wrong() {
        for (first, second) in [(7, 66), (66, 7), (7, 8), (8, 9)] {
            let verdict = small(&[says(1, 0, 7), says(2, 1, 66), settles(8, first, second)]);
            assert_eq!((verdict.state, verdict.outcome.as_ref()), (VerdictState::NotDeterministic, None));
            assert_eq!((verdict.wrong.len(), verdict.agreeing.len(), verdict.differing.len()), (0, 0, 2));
            assert_eq!(verdict.arbiter, Some(OperatorId([8; 32])));
            assert!(verdict.is_final() && !verdict.state.is_usable(&Policy::small()));
        }
        // A failure in one of the two is a difference as well.
        let mut halved = settles(8, 7, 7);
        halved.again =
            Some(Outcome::Failure { class: crate::outcome::FailureClass::Check, stage: crate::bounded::BoundedString::cut("check") });
        assert_eq!(small(&[says(1, 0, 7), says(2, 1, 66), halved]).state, VerdictState::NotDeterministic);
    }

    /// What nobody disputes is not looked into.
    #[test]
    fn arbiters_unlike_builds_are_of_no_meaning_without_a_dispute() {
        assert_eq!(small(&[says(1, 0, 7), says(2, 1, 7), settles(8, 7, 66)]).state, VerdictState::CrossVerified);
    }

    /// An arbiter builds twice: one build, or one that the machine spoiled, settles nothing.
    #[test]
    fn one_build_settles_nothing() {
        let dispute = |arbiter| small(&[says(1, 0, 7), says(2, 1, 66), arbiter]).state;
        assert_eq!(dispute(says(8, SlotNo::ARBITER.0, 7)), VerdictState::Disputed);
        let mut spoiled = settles(8, 7, 7);
        let lost = Outcome::Failure { class: crate::outcome::FailureClass::Lost, stage: crate::bounded::BoundedString::cut("build") };
        spoiled.again = Some(lost);
        assert_eq!(dispute(spoiled), VerdictState::Disputed);
    }

    /// The second outcome of who is not an arbiter says nothing.
    #[test]
    fn voters_second_outcome_has_no_meaning() {
        let mut voter = says(2, 1, 7);
        voter.again = Some(Outcome::Success { tree: BlobHash([66; 32]) });
        assert_eq!(small(&[says(1, 0, 7), voter]).state, VerdictState::CrossVerified);
    }

    #[test]
    fn unlike_machines_make_no_dispute_and_nobody_wrong() {
        let mut other = says(2, 1, 66);
        other.fingerprint = "netbsd".into();
        assert_eq!(small(&[says(1, 0, 7), other.clone()]).state, VerdictState::PlatformDependent);
        assert!(small(&[says(1, 0, 7), other, settles(8, 7, 7)]).wrong.is_empty());
    }

    #[test]
    fn retry_sets_failures_aside_but_never_successes() {
        let mut failure = says(1, 0, 0);
        failure.outcome =
            Outcome::Failure { class: crate::outcome::FailureClass::Build, stage: crate::bounded::BoundedString::cut("build") };
        let all = [failure, says(2, 1, 7), says(3, 0x100, 7)];
        assert_eq!(verdict(&all, 0, &Village, &Policy::small()).state, VerdictState::Disputed);
        assert_eq!(verdict(&all, 0x100, &Village, &Policy::small()).state, VerdictState::CrossVerified);
    }

    proptest! {
        /// The verdict is a function of the set: order does not matter, nor does hearing a thing twice.
        #[test]
        fn order_and_repetition_do_not_matter(
            votes in proptest::collection::vec((1u8..12, 0u16..6, 1u8..3, proptest::option::of(0u8..3)), 0..10), seed in any::<u64>(),
        ) {
            let all: Vec<Attestation> = votes.iter().map(|(operator, slot, tree, again)| match again {
                Some(again) => {
                    let settled = settles(*operator, *tree, *again);
                    Attestation { lease: LeaseRef { slot: SlotNo(SlotNo::ARBITER.0 + slot), ..settled.lease }, ..settled }
                }
                None => says(*operator, *slot, *tree),
            }).collect();
            let mut shuffled = all.clone();
            let rotate = usize::try_from(seed % 7).unwrap_or(0).min(all.len());
            shuffled.rotate_left(rotate);
            shuffled.extend(all.iter().take(2).cloned());
            shuffled.reverse();
            prop_assert_eq!(small(&all), small(&shuffled));
        }
    }
}
