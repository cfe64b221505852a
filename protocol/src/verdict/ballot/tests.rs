#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::{Verdict, VerdictState, verdict};
use super::*;
use crate::bounded::BoundedString;
use crate::id::{ActionId, BlobHash};
use crate::record::payload::{LeaseRef, SlotNo};
use crate::time::Timestamp;

/// Everybody is a branch of their own; 8 and 9 are trusted.
struct Village;
impl Standing for Village {
    fn branch(&self, operator: &OperatorId) -> Option<Branch> {
        Some(*operator)
    }
    fn is_trusted(&self, operator: &OperatorId) -> bool {
        (8..=9).contains(&operator.0[0])
    }
    fn may_attest(&self, _: &OperatorId, _: Timestamp) -> bool {
        true
    }
}

fn fails(class: FailureClass) -> Outcome {
    Outcome::Failure { class, stage: BoundedString::cut("build") }
}

fn tree(tree: u8) -> Outcome {
    Outcome::Success { tree: BlobHash([tree; 32]) }
}

fn says(operator: u8, slot: SlotNo, outcome: Outcome) -> Attestation {
    Attestation {
        lease: LeaseRef { action: ActionId([0; 32]), slot, epoch: 1 },
        operator: OperatorId([operator; 32]),
        revealed: Timestamp(0),
        outcome,
        again: None,
        fingerprint: "linux".into(),
        void: false,
    }
}

fn small(words: &[Attestation]) -> Verdict {
    verdict(words, 0, &Village, &Policy::small())
}

const MEMORY: FailureClass = FailureClass::OutOfMemory;

#[test]
fn lack_of_memory_beside_a_success_is_no_dispute() {
    let words = [says(1, SlotNo(0), fails(MEMORY)), says(2, SlotNo(1), tree(7))];
    let found = small(&words);
    assert_eq!((found.state, found.outcome, found.differing.len()), (VerdictState::Candidate, Some(tree(7)), 0));
    let both = [words.as_slice(), &[says(3, SlotNo(2), tree(7))]].concat();
    assert_eq!(small(&both).state, VerdictState::CrossVerified);
}

/// One liar who said that it had built what is too large for everybody had a job of a hundred machines tried on all of them.
#[test]
fn lack_of_memory_that_very_many_share_is_not_set_aside_by_a_success() {
    let lacking = |count: u8| (0..count).map(|n| says(20 + n, SlotNo(u16::from(n)), fails(MEMORY)));
    let many = u8::try_from(SMALL_MANY).unwrap() * 2;
    let with = |count: u8| small(&lacking(count).chain([says(2, SlotNo(90), tree(7))]).collect::<Vec<_>>()).state;
    assert_eq!((with(many - 1), with(many)), (VerdictState::Candidate, VerdictState::Disputed));
}

#[test]
fn lack_of_room_that_the_quorum_shares_fails_the_job_though_it_was_lacking_in_different_ways() {
    let words = [says(1, SlotNo(0), fails(MEMORY)), says(2, SlotNo(1), fails(FailureClass::Timeout))];
    let found = small(&words);
    assert_eq!((found.state, found.agreeing.len()), (VerdictState::Failed, 2));
}

/// What a larger machine finds counts like any word: its success beats the others' lack, its lack beside a success is a
/// dispute.
#[test]
fn word_of_a_larger_machine_counts() {
    let larger = blame::larger_slot(0, 0);
    let lacks = [says(1, SlotNo(0), fails(MEMORY)), says(2, SlotNo(1), fails(MEMORY))];
    let found = small(&[lacks.as_slice(), &[says(3, larger, tree(7))]].concat());
    assert_eq!((found.state, found.outcome), (VerdictState::Candidate, Some(tree(7))));
    let found = small(&[lacks.as_slice(), &[says(3, larger, fails(MEMORY))]].concat());
    assert_eq!((found.state, found.agreeing.len()), (VerdictState::Failed, 3));
    assert_eq!(small(&[says(3, larger, fails(MEMORY)), says(4, SlotNo(2), tree(7))]).state, VerdictState::Disputed);
}

/// Two that fail in different ways are a dispute like any other, in which lack of room is not held against anybody. It was
/// once set aside beside any word, and a job that was too large for all waited for ever for one that had hung.
#[test]
fn lack_of_memory_beside_another_failure_is_a_dispute_that_nobody_is_wrong_in() {
    let words = [says(1, SlotNo(0), fails(MEMORY)), says(2, SlotNo(1), fails(FailureClass::NoProgress))];
    assert_eq!(small(&words).state, VerdictState::Disputed);
    let arbiter = |outcome: Outcome| Attestation { again: Some(outcome.clone()), ..says(9, SlotNo::ARBITER, outcome) };
    let found = small(&[words.as_slice(), &[arbiter(fails(MEMORY))]].concat());
    assert_eq!((found.state, found.wrong), (VerdictState::Failed, BTreeSet::from([OperatorId([2; 32])])));
    let found = small(&[words.as_slice(), &[arbiter(tree(7))]].concat());
    assert_eq!(found.wrong, BTreeSet::from([OperatorId([2; 32])]));
}

/// The same operator may try again with more: what it said first was of a machine that was too small.
#[test]
fn operator_that_tries_again_on_a_larger_machine_has_one_vote() {
    let found = small(&[says(1, SlotNo(0), fails(MEMORY)), says(1, blame::larger_slot(0, 0), tree(7))]);
    assert_eq!((found.state, found.agreeing.len()), (VerdictState::Candidate, 1));
}

#[test]
fn failures_on_larger_machines_of_earlier_attempts_are_set_aside() {
    let words = [says(1, blame::larger_slot(0, 0), fails(MEMORY)), says(2, blame::larger_slot(256, 0), tree(7))];
    assert_eq!(verdict(&words, 256, &Village, &Policy::small()).outcome, Some(tree(7)));
    assert_eq!(verdict(&words[..1], 256, &Village, &Policy::small()).state, VerdictState::Unattested);
}

/// A failure of the recipe beside a success stays a dispute, also between unlike machines.
#[test]
fn failure_beside_a_success_is_a_dispute() {
    let mut words = [says(1, SlotNo(0), fails(FailureClass::Build)), says(2, SlotNo(1), tree(7))];
    assert_eq!(small(&words).state, VerdictState::Disputed);
    words[0].fingerprint = "netbsd".into();
    assert_eq!(small(&words).state, VerdictState::PlatformDependent);
}

#[test]
fn two_branches_lost_at_one_stage_make_a_job_poison() {
    let lost = |operator, slot| says(operator, SlotNo(slot), fails(FailureClass::Lost));
    assert_eq!(small(&[lost(1, 0)]).state, VerdictState::Unattested);
    assert_eq!(small(&[lost(1, 0), lost(1, 1)]).state, VerdictState::Unattested, "one operator is one");
    let found = small(&[lost(1, 0), lost(2, 1)]);
    assert_eq!((found.state, found.outcome, found.agreeing.len()), (VerdictState::Failed, Some(fails(FailureClass::Lost)), 2));
    let elsewhere = Outcome::Failure { class: FailureClass::Lost, stage: BoundedString::cut("check") };
    assert_eq!(small(&[lost(1, 0), says(2, SlotNo(1), elsewhere)]).state, VerdictState::Unattested);
    assert_eq!(small(&[lost(1, 0), lost(2, 1), says(3, SlotNo(2), tree(7))]).state, VerdictState::Candidate);
    let many: Vec<_> = (1..5).map(|n| lost(n, n.into())).collect();
    let liar = [says(9, SlotNo(9), tree(7))];
    assert_eq!(small(&[&many[..3], &liar].concat()).state, VerdictState::Candidate, "who comes through speaks for the job");
    assert_eq!(small(&[&many[..], &liar].concat()).state, VerdictState::Failed, "but one liar keeps no machine killer alive");
    assert_eq!(verdict(&[lost(1, 0), lost(2, 1)], 256, &Village, &Policy::small()).state, VerdictState::Unattested, "a retry");
}

/// Two liars once kept a job in dispute for ever that killed the machine of every arbiter.
#[test]
fn disputed_job_that_arbiters_are_lost_with_is_poison_until_a_retry() {
    let lost = |operator, number| says(operator, SlotNo(SlotNo::ARBITER.0 + number), fails(FailureClass::Lost));
    let mut words = vec![says(1, SlotNo(0), tree(1)), says(2, SlotNo(1), tree(2)), lost(8, 0), lost(8, 1)];
    assert_eq!(small(&words).state, VerdictState::Disputed, "one arbiter is one");
    words.push(lost(9, 2));
    assert_eq!((small(&words).state, small(&words).outcome), (VerdictState::Failed, Some(fails(FailureClass::Lost))));
    let again = |words: &[Attestation]| verdict(words, 256, &Village, &Policy::small()).state;
    assert_eq!(again(&words), VerdictState::Disputed, "a retry allows for as many losses again");
    words.push(lost(9, 3));
    assert_eq!(again(&words), VerdictState::Failed);
}

/// What a machine spoilt is no word on the job, so its operator may settle a dispute about it. Where every founder's machine
/// had been down once, disputes once stayed for ever.
#[test]
fn trusted_operator_whose_machine_spoilt_the_build_may_be_arbiter() {
    let arbiter = Attestation { again: Some(tree(1)), ..says(9, SlotNo::ARBITER, tree(1)) };
    let words = [says(1, SlotNo(0), tree(1)), says(2, SlotNo(1), tree(2)), says(9, SlotNo(2), fails(FailureClass::Lost)), arbiter];
    assert_eq!((small(&words).state, small(&words).arbiter), (VerdictState::CrossVerified, Some(OperatorId([9; 32]))));
}

/// A word: who, in which slot, what.
fn word() -> impl Strategy<Value = Attestation> {
    let slot = prop_oneof![(0u16..4).prop_map(SlotNo), (0u16..2).prop_map(|n| blame::larger_slot(0, n)), Just(SlotNo::ARBITER)];
    let outcome = prop_oneof![
        Just(tree(7)),
        Just(tree(8)),
        Just(fails(MEMORY)),
        Just(fails(FailureClass::Timeout)),
        Just(fails(FailureClass::Build)),
        Just(fails(FailureClass::Sandbox)),
        Just(fails(FailureClass::Lost)),
    ];
    (1u8..10, slot, outcome).prop_map(|(operator, slot, outcome)| {
        let again = slot.is_arbiter().then(|| outcome.clone());
        Attestation { again, ..says(operator, slot, outcome) }
    })
}

proptest! {
    /// The verdict is a function of the set: order does not matter, nor does hearing a thing twice.
    #[test]
    fn order_and_repetition_do_not_matter(words in proptest::collection::vec(word(), 0..9), turn in 0usize..9) {
        let mut turned = words.clone();
        turned.rotate_left(turn.min(words.len()));
        turned.reverse();
        turned.extend(words.iter().take(2).cloned());
        prop_assert_eq!(small(&words), small(&turned));
    }

    /// Lack of room takes nothing from what others made, and nobody is blamed for it.
    #[test]
    fn lack_of_room_changes_nothing_beside_a_success(words in proptest::collection::vec(word(), 1..8), lacking in 20u8..30) {
        let said = small(&words);
        let with = [words.as_slice(), &[says(lacking, SlotNo(9), fails(MEMORY))]].concat();
        let other = said.arbiter.is_none() && said.outcome.as_ref().is_some_and(|outcome| outcome.tree().is_some());
        if other {
            prop_assert_eq!(said, small(&with));
        }
        prop_assert!(!small(&with).wrong.contains(&OperatorId([lacking; 32])));
    }
}
