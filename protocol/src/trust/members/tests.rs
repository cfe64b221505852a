#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::id::NetworkId;
use crate::keys::{SecretKey, Signature};
use crate::record::payload::{Invitation, NodeCertificate, OperatorCertificate};
use crate::ticket::Vouch;

const NETWORK: NetworkId = NetworkId([1; 32]);
const UNTIL: Timestamp = Timestamp(10_000);

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn op(seed: u8) -> OperatorId {
    key(seed).operator()
}

fn record(by: u8, issued: u64, payload: Payload) -> SharedRecord {
    Record::author(&key(by), NETWORK, 1, Timestamp(issued), Timestamp::MAX, payload).unwrap()
}

/// An operator's certificate, issued at 1,000.
fn takes_part(operator: u8) -> SharedRecord {
    record(operator, 1_000, Payload::OperatorCertificate(OperatorCertificate { bearer: None }.into()))
}

fn redeems(operator: u8, issued: u64, vouch: &Vouch) -> SharedRecord {
    let bearer = Some(vouch.proof(&op(operator)));
    record(operator, issued, Payload::OperatorCertificate(OperatorCertificate { bearer }.into()))
}

fn invites(by: u8, guest: u8) -> SharedRecord {
    let invitee = Invitee::Operator(op(guest));
    record(by, 500, Payload::Invitation(Invitation { invitee, until: UNTIL }))
}

fn ticket(by: u8, uses: u16) -> Vouch {
    Vouch::author(&key(by), NETWORK, 1, Timestamp(500), UNTIL, uses, &[77; 32]).unwrap()
}

fn works_for(operator: u8, issued: u64, node: u8) -> SharedRecord {
    let certificate = NodeCertificate::new(&key(node), &NETWORK, &op(operator));
    record(operator, issued, Payload::NodeCertificate(certificate.into()))
}

fn members<'a>(founders: &[u8], records: impl IntoIterator<Item = &'a SharedRecord>) -> Members {
    let mut members = Members::new(&Grants::of_founders(founders.iter().map(|seed| op(*seed))));
    members.extend(records);
    members
}

fn branch(seed: u8) -> Option<Branch> {
    Some(Branch(op(seed)))
}

#[test]
fn founders_are_members_without_any_record() {
    let members = members(&[1, 2], []);
    assert_eq!((members.branch_of(&op(1)), members.branch_of(&op(2))), (branch(1), branch(2)));
    assert_eq!(members.branch_of(&op(3)), None);
    assert!(members.is_founder(&op(1)) && members.is_trusted(&op(1)) && !members.is_founder(&op(3)));
}

/// Founder 1 invites 2; 2 invites 3; 3 invites 4: all three are in the branch of 2.
#[test]
fn whom_a_founder_invites_begins_a_branch_and_guests_share_it() {
    let records = [invites(1, 2), invites(2, 3), invites(3, 4), takes_part(2), takes_part(3), takes_part(4)];
    let members = members(&[1], &records);
    for guest in [2, 3, 4] {
        assert_eq!(members.branch_of(&op(guest)), branch(2));
    }
    let membership = members.membership(&op(4)).unwrap();
    assert_eq!((membership.depth, membership.inviter), (3, Some(op(3))));
    assert_eq!(members.operators().len(), 4);
}

#[test]
fn an_invitation_counts_once_its_guest_takes_part_in_time() {
    assert_eq!(members(&[1], &[invites(1, 2)]).branch_of(&op(2)), None);
    let late = record(2, UNTIL.0 + 1, Payload::OperatorCertificate(OperatorCertificate { bearer: None }.into()));
    assert_eq!(members(&[1], &[invites(1, 2), late.clone()]).branch_of(&op(2)), None);
    assert_eq!(members(&[1], &[invites(1, 2), late, takes_part(2)]).branch_of(&op(2)), branch(2));
    let just = record(2, UNTIL.0, Payload::OperatorCertificate(OperatorCertificate { bearer: None }.into()));
    assert_eq!(members(&[1], &[invites(1, 2), just]).branch_of(&op(2)), branch(2));
}

#[test]
fn the_uninvited_cannot_invite() {
    let records = [takes_part(2), takes_part(3), invites(2, 3), invites(3, 2)];
    let members = members(&[1], &records);
    assert_eq!((members.branch_of(&op(2)), members.branch_of(&op(3))), (None, None));
    assert!(members.operators().contains(&op(2)));
}

#[test]
fn tickets_let_as_many_in_as_they_say() {
    let vouch = ticket(1, 2);
    let mut records: Vec<_> = (2..6).map(|guest| redeems(guest, 1_000, &vouch)).collect();
    records.sort_by_key(|record| record.id());
    let lowest: Vec<_> = records.iter().map(|record| OperatorId(record.author_key())).collect();
    records.push(vouch.invitation().clone());
    let members = members(&[1], &records);
    assert_eq!(members.branch_of(&lowest[0]), Some(Branch(lowest[0])));
    assert_eq!(members.branch_of(&lowest[1]), Some(Branch(lowest[1])));
    assert_eq!((members.branch_of(&lowest[2]), members.branch_of(&lowest[3])), (None, None));
}

/// Many certificates of one operator use a ticket once.
#[test]
fn one_operator_uses_a_ticket_once() {
    let vouch = ticket(1, 2);
    let records = [redeems(2, 1_000, &vouch), redeems(2, 1_001, &vouch), redeems(2, 1_002, &vouch), redeems(3, 1_000, &vouch)];
    let members = members(&[1], records.iter().chain([vouch.invitation()]));
    assert_eq!((members.branch_of(&op(2)), members.branch_of(&op(3))), (branch(2), branch(3)));
}

#[test]
fn a_ticket_that_is_late_forged_or_for_another_lets_nobody_in() {
    let vouch = ticket(1, 5);
    let with = |certificate: SharedRecord| members(&[1], &[vouch.invitation().clone(), certificate]);
    assert_eq!(with(redeems(2, 1_000, &vouch)).branch_of(&op(2)), branch(2));
    assert_eq!(with(redeems(2, UNTIL.0 + 1, &vouch)).branch_of(&op(2)), None);
    // The proof of operator 2 in the hands of operator 3.
    let stolen = Payload::OperatorCertificate(OperatorCertificate { bearer: Some(vouch.proof(&op(2))) }.into());
    assert_eq!(with(record(3, 1_000, stolen)).branch_of(&op(3)), None);
    // Another secret.
    let other = Vouch::author(&key(1), NETWORK, 1, Timestamp(500), UNTIL, 5, &[78; 32]).unwrap();
    let forged = BearerProof { invitation: vouch.invitation().id(), ..other.proof(&op(2)) };
    let forged = Payload::OperatorCertificate(OperatorCertificate { bearer: Some(forged) }.into());
    assert_eq!(with(record(2, 1_000, forged)).branch_of(&op(2)), None);
    // A ticket of somebody who may not invite.
    let uninvited = ticket(9, 5);
    let members = members(&[1], &[uninvited.invitation().clone(), redeems(2, 1_000, &uninvited)]);
    assert_eq!(members.branch_of(&op(2)), None);
}

/// The founder's own invitation makes an operator independent of whoever invited it before.
#[test]
fn the_shortest_chain_of_invitations_counts() {
    let mut records = vec![invites(1, 2), invites(2, 3), invites(3, 4), takes_part(2), takes_part(3), takes_part(4)];
    records.push(invites(1, 4));
    let members = members(&[1], &records);
    assert_eq!((members.branch_of(&op(3)), members.branch_of(&op(4))), (branch(2), branch(4)));
}

#[test]
fn cycles_end_and_a_founder_stays_its_own_branch() {
    let records = [invites(1, 2), invites(2, 3), invites(3, 2), invites(3, 1), takes_part(1), takes_part(2), takes_part(3)];
    let members = members(&[1], &records);
    assert_eq!((members.branch_of(&op(1)), members.branch_of(&op(3))), (branch(1), branch(2)));
    assert_eq!(members.membership(&op(1)).unwrap().depth, 0);
}

#[test]
fn chains_longer_than_the_bound_do_not_count() {
    let records: Vec<_> = (1..100u8).flat_map(|n| [invites(n, n + 1), takes_part(n + 1)]).collect();
    let members = members(&[1], &records);
    let last = 1 + u8::try_from(CHAIN_MAX).unwrap();
    assert!(members.branch_of(&op(last)).is_some());
    assert_eq!(members.branch_of(&op(last + 1)), None);
}

#[test]
fn a_node_works_for_whoever_certified_it_first_members_before_others() {
    let claims = [works_for(1, 2_000, 50), works_for(1, 3_000, 50), works_for(9, 1_000, 50), works_for(9, 1_000, 51)];
    let members = members(&[1], &claims);
    assert_eq!(members.operator_of(&key(50).node()), Some(op(1)));
    assert_eq!(members.operator_of(&key(51).node()), Some(op(9)));
    assert_eq!(members.operator_of(&key(52).node()), None);
    assert_eq!(members.nodes_of(&op(1)), BTreeSet::from([key(50).node()]));
}

/// A member that says that somebody's node is its own gets nothing by it, even where it says so first.
#[test]
fn a_node_that_did_not_consent_works_for_nobody() {
    let (rival, node) = (2, 50);
    let consent_of = |node: u8, network: NetworkId, operator: u8| NodeCertificate::new(&key(node), &network, &op(operator)).consent;
    let bad =
        [Signature([0; 64]), consent_of(51, NETWORK, rival), consent_of(node, NetworkId([9; 32]), rival), consent_of(node, NETWORK, 1)];
    let claim = |consent| Payload::NodeCertificate(NodeCertificate { node: key(node).node(), consent }.into());
    let taken: Vec<SharedRecord> = bad
        .into_iter()
        .filter_map(|consent| Record::open(&Record::forge(&key(rival), NETWORK, Timestamp(1), claim(consent)), NETWORK).ok())
        .collect();
    assert_eq!(members(&[1, 2], &taken).operator_of(&key(node).node()), None);
    let good = works_for(1, 2_000, node);
    assert_eq!(members(&[1, 2], taken.iter().chain([&good])).operator_of(&key(node).node()), Some(op(1)));
    // With the node's own word, the same claim counts.
    assert_eq!(members(&[1, 2], &[works_for(rival, 1, node), good]).operator_of(&key(node).node()), Some(op(rival)));
}

/// A node key that two members share, or a node that moved: what it attested stays its first operator's.
#[test]
fn of_two_members_that_certify_a_node_the_earlier_counts() {
    let moved = [works_for(2, 1_999, 50), works_for(1, 2_000, 50)];
    assert_eq!(members(&[1, 2], moved.iter().rev()).operator_of(&key(50).node()), Some(op(2)));
    let at_once = [works_for(2, 2_000, 50), works_for(1, 2_000, 50)];
    let lowest = at_once.iter().min_by_key(|record| record.id()).map(|record| OperatorId(record.author_key()));
    assert_eq!(members(&[1, 2], &at_once).operator_of(&key(50).node()), lowest);
    let members = members(&[1, 2], &[works_for(2, 1_999, 50), works_for(1, 2_000, 50)]);
    assert_eq!(members.operator_of(&key(50).node()), Some(op(2)));
}

#[test]
fn voters_follow_the_policy() {
    let members = members(&[1], &[invites(1, 2), takes_part(2), takes_part(3)]);
    assert_eq!(members.voters(&Policy::solo()), BTreeSet::from([op(1)]));
    assert_eq!(members.voters(&Policy::small()), BTreeSet::from([op(1), op(2)]));
    for policy in [Policy::solo(), Policy::small()] {
        for seed in 1..4 {
            assert_eq!(members.may_vote(&op(seed), &policy), members.voters(&policy).contains(&op(seed)));
        }
    }
}

#[test]
fn new_grants_take_effect_at_once() {
    let mut members = members(&[1], &[invites(2, 3), takes_part(3)]);
    assert_eq!(members.branch_of(&op(3)), None);
    members.set_grants(&Grants::of_founders([op(1), op(2)]));
    assert_eq!(members.branch_of(&op(3)), branch(3));
}

/// Records of which some go one way and some another: names, tickets, chains, cycles, rivals for nodes.
fn tangle() -> Vec<SharedRecord> {
    let (of_founder, of_guest) = (ticket(1, 2), ticket(4, 1));
    let mut records = vec![of_founder.invitation().clone(), of_guest.invitation().clone()];
    records.extend((3..8).map(|guest| redeems(guest, 1_000, &of_founder)));
    records.extend((5..9).map(|guest| redeems(guest, 1_001, &of_guest)));
    records.extend([invites(1, 4), invites(4, 9), invites(3, 9), invites(9, 10), invites(10, 9), invites(2, 10)]);
    records.extend((3..11).map(takes_part));
    records.extend((3..8).map(|operator| works_for(operator, 1_000 + u64::from(operator % 3), 50)));
    records
}

fn seen(members: &Members) -> (BTreeMap<OperatorId, Option<Branch>>, Option<OperatorId>) {
    let branches = members.operators().into_iter().map(|operator| (operator, members.branch_of(&operator))).collect();
    (branches, members.operator_of(&key(50).node()))
}

proptest! {
    /// Whatever the order of arrival, with repetitions, one by one or at once: the same members.
    #[test]
    fn members_are_a_function_of_the_set(order in Just(tangle()).prop_shuffle(), again in any::<prop::sample::Index>()) {
        let expected = members(&[1, 2], &tangle());
        let mut one_by_one = members(&[1, 2], []);
        for record in &order {
            prop_assert!(one_by_one.insert(record));
        }
        prop_assert!(!one_by_one.insert(&order[again.index(order.len())]));
        prop_assert_eq!(one_by_one.memberships(), expected.memberships());
        prop_assert_eq!(seen(&one_by_one), seen(&expected));
        prop_assert_eq!(seen(&members(&[1, 2], &order)), seen(&expected));
    }

    /// Taking records out leaves what their absence would have made.
    #[test]
    fn removal_undoes_insertion(order in Just(tangle()).prop_shuffle(), kept in 0..20usize) {
        let (kept, removed) = order.split_at(kept.min(order.len()));
        let expected = members(&[1, 2], kept);
        let mut all = members(&[1, 2], &order);
        for record in removed {
            all.remove(record);
        }
        prop_assert_eq!(seen(&all), seen(&expected));
        prop_assert_eq!(all.memberships(), expected.memberships());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is learnt record by record is what all of them together say, and every step tells what it changed.
    #[test]
    fn learning_one_by_one_comes_to_what_all_say(
        said in proptest::collection::vec((0u8..5, 1u8..9, 1u8..9), 1..40), tickets in 1u16..4,
    ) {
        let vouches = [ticket(1, tickets), ticket(3, 9)];
        let records: Vec<SharedRecord> = said.iter().map(|(what, by, other)| match what {
            0 => takes_part(*by),
            1 => invites(*by, *other),
            2 => redeems(*by, 1_000 + u64::from(*other), &vouches[usize::from(*other) % 2]),
            3 => works_for(*by, 1_000, *other + 50),
            _ => vouches[usize::from(*other) % 2].invitation().clone(),
        }).collect();
        let mut learning = members(&[1, 2], []);
        for (at, record) in records.iter().enumerate() {
            let before = learning.memberships().clone();
            let learnt = learning.learn(record);
            let all = members(&[1, 2], &records[..=at]);
            prop_assert_eq!(learning.memberships(), all.memberships());
            match learnt {
                Learnt::Member(who) => {
                    prop_assert!(!before.contains_key(&who));
                    let mut with = before;
                    with.extend(all.membership(&who).map(|membership| (who, *membership)));
                    prop_assert_eq!(&with, all.memberships());
                }
                Learnt::Memberships => {}
                _ => prop_assert_eq!(&before, all.memberships()),
            }
            for operator in all.operators() {
                prop_assert_eq!(learning.nodes_of(&operator), all.nodes_of(&operator));
            }
        }
    }
}
