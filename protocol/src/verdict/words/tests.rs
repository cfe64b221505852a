#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::blame::larger_slot;
use crate::bounded::BoundedString;
use crate::id::{ActionId, BlobHash, NetworkId};
use crate::keys::SecretKey;
use crate::outcome::{FailureClass, Particulars};
use crate::record::Record;
use crate::record::payload::{Commitment, SlotNo};

/// Node `n` works for operator `n`; operators are of branch `n` modulo 10, and those from 50 on of nobody's.
fn speaker(node: &NodeId) -> Option<Speaker> {
    let n = (0..60).find(|n| key(*n).node() == *node)?;
    Some(Speaker { operator: OperatorId([n; 32]), branch: OperatorId([n % 10; 32]), counts: n < 50 })
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n + 1; 32])
}

fn tree(tree: u8) -> Outcome {
    Outcome::Success { tree: BlobHash([tree; 32]) }
}

fn fails(class: FailureClass) -> Outcome {
    Outcome::Failure { class, stage: BoundedString::cut("build") }
}

fn lease(slot: u16, epoch: u32) -> LeaseRef {
    LeaseRef { action: ActionId([1; 32]), slot: SlotNo(slot), epoch }
}

/// What `n` commits to at second `committed`, and what opens it at second `opened`, if anything does.
fn says(n: u8, lease: LeaseRef, outcome: &Outcome, committed: u64, opened: Option<u64>) -> Vec<SharedRecord> {
    let record = |at: u64, payload| Record::author(&key(n), NetworkId([1; 32]), at, Timestamp(at * 1000), Timestamp::MAX, payload).unwrap();
    let commitment = outcome.commitment(None, &OperatorId([n; 32]), &[n; 32]);
    let mut said = vec![record(
        committed,
        Payload::Commitment(Commitment { lease, commitment, says: Says::of(outcome, lease.slot), renewed_ago_ms: 0 }),
    )];
    let particulars = Particulars {
        log: None,
        log_length: 0,
        wall_ms: 0,
        cpu_ms: 0,
        memory_peak: 0,
        fingerprint: BoundedString::default(),
        sandbox: BoundedString::default(),
    };
    let reveal = Reveal { lease, outcome: outcome.clone(), again: None, salt: [n; 32], particulars };
    said.extend(opened.map(|at| record(at, Payload::Reveal(reveal.into()))));
    said
}

/// Operators whose words are votes.
fn voters(said: &[Vec<SharedRecord>]) -> Vec<u8> {
    let words = Words::of(said.iter().flatten(), speaker);
    let mut voters: Vec<u8> =
        words.opened.iter().filter(|(_, word)| !word.void && word.counts()).map(|(_, word)| word.operator.0[0]).collect();
    voters.sort_unstable();
    voters
}

fn spent(said: &[Vec<SharedRecord>]) -> Vec<u8> {
    Words::of(said.iter().flatten(), speaker).spent.iter().map(|(_, branch)| branch.0[0]).collect()
}

/// A commitment to nothing opened the other's result, and a copy of that was a vote. Whatever the copy's dates are.
#[test]
fn copy_beside_a_commitment_that_is_not_opened_is_no_vote() {
    let honest = says(1, lease(1, 1), &tree(7), 10, Some(11));
    let garbage = says(2, lease(0, 1), &tree(66), 5, None);
    for (slot, epoch, committed) in [(2, 1, 20), (0, 2, 20), (0, 0, 1)] {
        let copy = says(2, lease(slot, epoch), &tree(7), committed, Some(21));
        assert_eq!(voters(&[garbage.clone(), honest.clone(), copy]), [1], "{slot} {epoch} {committed}");
    }
    // In another attempt it has said nothing else.
    assert_eq!(voters(&[garbage, honest, says(2, lease(256, 1), &tree(7), 20, Some(21))]), [1, 2]);
}

#[test]
fn copy_beside_another_word_of_the_operator_is_no_vote_and_nor_is_that() {
    let honest = says(1, lease(1, 1), &tree(7), 10, Some(11));
    let other = says(2, lease(0, 1), &tree(66), 5, Some(11));
    assert_eq!(voters(&[honest.clone(), other.clone()]), [1, 2], "one word is a vote, and disputes the other");
    assert_eq!(voters(&[honest, other, says(2, lease(2, 1), &tree(7), 20, Some(21))]), [1]);
}

/// Two operators of one branch share the work: one commits to nothing, the other copies.
#[test]
fn copy_by_a_branch_that_committed_to_something_else_is_no_vote() {
    let honest = says(1, lease(1, 1), &tree(7), 10, Some(11));
    let garbage = says(12, lease(0, 1), &tree(66), 5, None);
    assert_eq!(voters(&[honest.clone(), garbage.clone(), says(2, lease(2, 1), &tree(7), 20, Some(21))]), [1]);
    // What it committed to before anything was open it has built itself, and so it has what nobody else had opened.
    assert_eq!(voters(&[honest.clone(), garbage.clone(), says(2, lease(2, 1), &tree(7), 9, Some(21))]), [1, 2]);
    assert_eq!(voters(&[honest, garbage, says(2, lease(2, 1), &tree(8), 20, Some(21))]), [1, 2]);
}

/// Nobody loses a vote by what it can't help: that a machine spoilt a build or was too small, opened or not.
#[test]
fn word_after_one_that_said_nothing_of_the_job_is_a_vote() {
    let honest = says(1, lease(1, 1), &tree(7), 10, Some(11));
    for (class, slot) in [(FailureClass::Lost, 2), (FailureClass::Sandbox, 2), (FailureClass::OutOfMemory, larger_slot(0, 0).0)] {
        let again = says(2, lease(slot, 1), &tree(7), 20, Some(21));
        for opened in [None, Some(6), Some(12)] {
            let before = says(2, lease(0, 1), &fails(class), 5, opened);
            assert_eq!(voters(&[honest.clone(), before.clone(), again.clone()]).last(), Some(&2), "{class} {opened:?}");
            assert!(!spent(&[honest.clone(), before]).contains(&2));
        }
    }
}

/// Who commits to a word, has others' results opened by it, and then says that the build was spoilt, has said nothing.
#[test]
fn reveal_of_another_kind_opens_no_commitment() {
    let honest = says(1, lease(1, 1), &tree(7), 10, Some(11));
    let lost = fails(FailureClass::Lost);
    let mut before = says(2, lease(0, 1), &lost, 5, Some(12));
    let commitment = lost.commitment(None, &OperatorId([2; 32]), &[2; 32]);
    let pretends = Payload::Commitment(Commitment { lease: lease(0, 1), commitment, says: Says::Word, renewed_ago_ms: 0 });
    before[0] = Record::author(&key(2), NetworkId([1; 32]), 5, Timestamp(5000), Timestamp::MAX, pretends).unwrap();
    let copy = says(2, lease(2, 1), &tree(7), 20, Some(21));
    assert_eq!(voters(&[honest, before, copy]), [1]);
}

#[test]
fn equal_words_of_two_machines_of_an_operator_are_one_vote() {
    let twice = [says(2, lease(0, 1), &tree(7), 5, Some(11)), says(2, lease(0, 2), &tree(7), 6, Some(11))];
    assert_eq!(voters(&twice), [2, 2]);
    // The same commitment in two records, as by a home that comes from a backup.
    let again = [says(2, lease(0, 1), &tree(7), 5, Some(11)), says(2, lease(0, 1), &tree(7), 6, None)];
    assert_eq!(voters(&again), [2]);
}

/// What nobody vouches for can't take a vote from anyone: anybody could write it.
#[test]
fn reveals_of_strangers_make_nothing_a_copy() {
    let stranger = says(51, lease(1, 1), &tree(7), 1, Some(2));
    let other = says(12, lease(0, 1), &tree(66), 5, None);
    assert_eq!(voters(&[stranger, other, says(2, lease(2, 1), &tree(7), 20, Some(21))]), [2, 51]);
}

#[test]
fn branch_that_has_committed_is_spent_once_others_are_open() {
    let garbage = says(2, lease(0, 1), &tree(66), 5, None);
    assert!(spent(std::slice::from_ref(&garbage)).is_empty());
    assert_eq!(spent(&[garbage, says(1, lease(1, 1), &tree(7), 10, Some(11))]), [2]);
}

proptest! {
    /// The tally says of every word what comparing it with all others says.
    #[test]
    fn tally_says_what_comparing_all_words_says(
        words in proptest::collection::vec(
            (0u8..6, 0u8..3, 0u16..3, any::<bool>(), 0u64..12, 0u8..4, proptest::option::of((0u64..12, 0usize..4))), 0..24),
    ) {
        let outcomes = [tree(7), tree(8), fails(FailureClass::Build), fails(FailureClass::Lost)];
        let particulars = Particulars::default();
        let reveal = |outcome: &Outcome| Reveal { lease: lease(0, 1), outcome: outcome.clone(), again: None, salt: [0; 32], particulars: particulars.clone() };
        let reveals: Vec<Reveal> = outcomes.iter().map(reveal).collect();
        let words: Vec<Word<'_>> = words.iter().map(|(operator, branch, slot, later, committed, says, opened)| Word {
            node: NodeId([*operator; 32]),
            speaker: Speaker { operator: OperatorId([*operator; 32]), branch: OperatorId([*branch; 32]), counts: *operator < 5 },
            lease: lease(slot + if *later { 256 } else { 0 }, 1),
            committed: Timestamp(*committed),
            says: [Says::Word, Says::Word, Says::TooSmall, Says::Nothing][usize::from(*says)],
            opened: opened.map(|(at, what)| (Timestamp(at), &reveals[what])),
        }).collect();
        let tally = Tally::of(&words);
        for word in &words {
            prop_assert_eq!(tally.is_void(word), word.is_void(&words));
            prop_assert_eq!(tally.is_spent(word), word.is_spent(&words));
        }
    }

    /// Which words are votes is a function of the set of records.
    #[test]
    fn order_and_repetition_do_not_matter(
        words in proptest::collection::vec((0u8..4, 0u16..3, 1u32..3, 6u8..8, 0u64..30, proptest::option::of(0u64..30)), 1..8), turn in 0usize..16,
    ) {
        let said: Vec<SharedRecord> = words.iter().flat_map(|(n, slot, epoch, what, at, opened)| {
            let outcome = if *what == 6 { fails(FailureClass::Lost) } else { tree(*what) };
            says(*n * 6, lease(*slot, *epoch), &outcome, *at, *opened)
        }).collect();
        let found = |said: &[SharedRecord]| {
            let words = Words::of(said.iter(), speaker);
            let mut opened: Vec<Attestation> = words.opened.into_iter().map(|(_, word)| word).collect();
            opened.sort();
            opened.dedup();
            (opened, words.spent)
        };
        let mut turned = said.clone();
        turned.rotate_left(turn.min(said.len()));
        turned.reverse();
        turned.extend(said.iter().take(2).cloned());
        prop_assert_eq!(found(&said), found(&turned));
    }
}
