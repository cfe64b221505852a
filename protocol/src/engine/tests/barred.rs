//! Suspensions, bans and pardons; seals; and what operators say for the record.

use super::*;
use crate::trust::keys::{SigningKey, SigningRole};
use crate::trust::order::{Order, OrderDraft};
use crate::trust::tuf::{PublicKey, RoleKeys};

fn maintainer(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

/// Two of maintainers 1, 2 and 3 sign together.
fn rules() -> RoleKeys {
    let keys = (1..=3).map(|n| PublicKey::of(maintainer(n).role(SigningRole::Targets)));
    RoleKeys { threshold: 2, keys: keys.map(|key| (key.id(), key)).collect() }
}

fn signed(order: &Order, by: [u8; 2]) -> crate::trust::order::SignedOrder {
    let draft = OrderDraft::new(order).unwrap();
    draft.gather(&by.map(|n| draft.sign(&maintainer(n))), &rules()).unwrap()
}

fn net() -> Net {
    let mut net = Net::new(5, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let grants = Grants { rules_keys: Some(rules()), ..net.engines[0].params().grants.clone() };
    for engine in &mut net.engines {
        engine.set_charter(net.now, grants.clone(), Policy::small());
    }
    net
}

fn say(net: &mut Net, by: &SecretKey, payload: Payload) -> Vec<Reception> {
    let record = Record::author(by, NETWORK, net.now.0, net.now, Timestamp::MAX, payload).unwrap();
    let heard = net.engines.iter_mut().map(|engine| engine.receive(net.now, &record)).collect();
    net.deliver();
    heard
}

fn agreeing(net: &Net, batch: &BatchId) -> (VerdictState, BTreeSet<OperatorId>) {
    let verdict = net.job(0, batch, 0).verdict.unwrap();
    (verdict.state, verdict.agreeing)
}

/// Votes of before stay, later ones don't count, and the work goes on with others.
#[test]
fn suspension_reopens_nothing_and_takes_later_votes_away() {
    let mut net = net();
    let first = net.submit();
    net.work();
    let before = agreeing(&net, &first);
    let suspended: OperatorId = *before.1.first().unwrap();
    let suspension = Suspension { operator: suspended, reason: "builds what nobody else does".try_into().unwrap() };
    assert_eq!(say(&mut net, &operator_key(0), Payload::Suspension(suspension.into())), vec![Reception::New; 5]);
    assert_eq!(agreeing(&net, &first), before);
    net.graph = Graph { jobs: vec![job("tool", &[])] };
    let second = net.submit();
    net.run(Duration::from_secs(1));
    let builders: BTreeSet<OperatorId> = net.started.iter().map(|(n, _)| operator_key(u8::try_from(*n).unwrap()).operator()).collect();
    assert!(!builders.contains(&suspended), "who is suspended takes no slot");
    net.work();
    let (state, agreed) = agreeing(&net, &second);
    assert_eq!((state, agreed.contains(&suspended)), (VerdictState::CrossVerified, false));
    // Three days later it is over.
    net.run(SUSPENSION);
    net.graph = Graph { jobs: vec![job("image", &[])] };
    net.dead = (1..5).filter(|n| operator_key(u8::try_from(*n).unwrap()).operator() != suspended).skip(1).collect();
    let third = net.submit();
    net.work();
    assert!(agreeing(&net, &third).1.contains(&suspended));
}

/// A build that was under way when its operator was suspended gives no vote, and the slot is offered again.
#[test]
fn slot_of_a_suspended_builder_is_built_by_another() {
    let mut net = net();
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    let suspended = operator_key(u8::try_from(net.started[0].0).unwrap()).operator();
    let suspension = Suspension { operator: suspended, reason: BoundedString::default() };
    say(&mut net, &operator_key(0), Payload::Suspension(suspension.into()));
    net.work();
    let (state, agreed) = agreeing(&net, &batch);
    assert_eq!((state, agreed.contains(&suspended)), (VerdictState::CrossVerified, false));
}

/// A ban counts support anew, and a pardon gives it back; both need the threshold, whoever carries them.
#[test]
fn ban_counts_support_anew_and_pardon_gives_it_back() {
    let mut net = net();
    let batch = net.submit();
    net.work();
    let (state, before) = agreeing(&net, &batch);
    assert_eq!(state, VerdictState::CrossVerified);
    let banned = *before.first().unwrap();
    let ban = Order::ban(NETWORK, banned, net.now, "a wrong known answer");
    net.dead = (1..5).collect();
    assert_eq!(say(&mut net, &operator_key(4), Payload::Ban(signed(&ban, [1, 3]))), vec![Reception::New; 5]);
    let (state, left) = agreeing(&net, &batch);
    assert_eq!((state, left.len(), left.contains(&banned)), (VerdictState::Candidate, 1, false));
    let bans = net.engines[0].members().bans_of(&banned);
    assert_eq!(bans.len(), 1);
    let pardon = Order::pardon(NETWORK, banned, bans[0], net.now, "it was a bad disk");
    say(&mut net, &operator_key(0), Payload::Pardon(signed(&pardon, [2, 3])));
    assert_eq!(agreeing(&net, &batch), (VerdictState::CrossVerified, before));
    assert!(net.engines[0].members().bans_of(&banned).is_empty());
    // Another ban is another order, which the pardon does not name.
    let again = Order::ban(NETWORK, banned, net.now + Duration::from_secs(1), "a wrong known answer");
    say(&mut net, &operator_key(0), Payload::Ban(signed(&again, [1, 2])));
    assert_eq!(agreeing(&net, &batch).0, VerdictState::Candidate);
}

/// Two bans in a branch end it: its operators are as if nobody had invited them.
#[test]
fn two_bans_end_a_branch() {
    let mut net = net();
    let until = Timestamp::MAX;
    let takes_part = || Payload::OperatorCertificate(OperatorCertificate { bearer: None }.into());
    for (by, guest) in [(0, 80), (80, 81), (81, 82)] {
        let invitee = Invitee::Operator(operator_key(guest).operator());
        say(&mut net, &operator_key(by), Payload::Invitation(Invitation { invitee, until }));
        say(&mut net, &operator_key(guest), takes_part());
    }
    let ban = |n| Payload::Ban(signed(&Order::ban(NETWORK, operator_key(n).operator(), START, "no"), [1, 2]));
    say(&mut net, &operator_key(0), ban(81));
    let members = |net: &Net| [80, 81, 82].map(|n| net.engines[0].members().branch_of(&operator_key(n).operator()).is_some());
    assert_eq!(members(&net), [true; 3]);
    say(&mut net, &operator_key(0), ban(82));
    assert_eq!(members(&net), [false; 3]);
}

/// A new charter with other maintainers: what the old ones ordered has to be ordered again.
#[test]
fn orders_count_under_the_charter_of_now() {
    let mut net = net();
    let banned = operator_key(1).operator();
    say(&mut net, &operator_key(0), Payload::Ban(signed(&Order::ban(NETWORK, banned, START, "no"), [1, 2])));
    assert!(net.engines[0].members().is_barred(&banned));
    let grants = Grants { rules_keys: Some(RoleKeys::nobody()), ..net.engines[0].params().grants.clone() };
    net.engines[0].set_charter(net.now, grants, Policy::small());
    assert!(!net.engines[0].members().is_barred(&banned));
}

/// Who may not say something is refused with the reason, and no effect; and whoever passed it on is not to blame, since
/// this node's charter may be the one that is behind.
#[test]
fn unauthorised_words_are_refused_by_name_and_change_nothing() {
    use crate::trust::members::Unauthorised::*;
    let mut net = net();
    let (stranger, victim) = (operator_key(77), operator_key(1).operator());
    let order = Order::ban(NETWORK, victim, START, "no");
    let draft = OrderDraft::new(&order).unwrap();
    let one = draft.gather(&[draft.sign(&maintainer(1))], &RoleKeys { threshold: 1, ..rules() }).unwrap();
    let seal = Seal { round: 1, previous: None, preimage: [7; 32], root: merkle_root(&[]), records: 0 };
    let name = EnvironmentName { name: "debian-c".try_into().unwrap(), version: 1, rootfs: BlobHash([1; 32]) };
    let suspension = Suspension { operator: victim, reason: BoundedString::default() };
    let foreign = net.engines[0].board().of_kind(Kind::NodeCertificate).next().unwrap().id();
    for (by, payload, fault) in [
        (&stranger, Payload::Suspension(suspension.into()), NotMaintainer),
        (&stranger, Payload::EnvironmentName(name.into()), NotMaintainer),
        (&operator_key(0), Payload::Ban(one), BelowThreshold),
        (&stranger, Payload::Seal(seal.into()), NotSealer),
        (&stranger, Payload::Withdraw(Withdraw { record: foreign }), NotOwn),
    ] {
        let record = Record::author(by, NETWORK, 1, net.now, Timestamp::MAX, payload).unwrap();
        assert_eq!(net.engines[0].receive(net.now, &record), Reception::NotHeeded(fault));
        assert!(net.engines[0].record(&record.id()).is_none());
        let told = std::iter::from_fn(|| net.engines[0].poll_output()).any(|output| match output {
            Output::Event(Event::Refused { record: of, reason, .. }) => of == record.id() && reason == fault.to_string(),
            _ => false,
        });
        assert!(told, "{fault}");
    }
    assert!(net.engines[0].members().may_attest(&victim, net.now));
    assert!(net.engines[0].environments().is_empty() && net.engines[0].last_seal().is_none());
}

/// Seals come in any order, and those that don't follow are named and left out of the chain.
#[test]
fn seals_are_one_chain_in_whatever_order_they_come() {
    let net = net();
    let (sealer, other) = (node_key(0), node_key(1));
    let chain: Vec<[u8; 32]> = std::iter::successors(Some([9; 32]), |last| Some(chain_link(last))).take(4).collect();
    let record = |by: &SecretKey, seal: Seal| Record::author(by, NETWORK, 1, START, Timestamp::MAX, Payload::Seal(seal.into())).unwrap();
    let seal = |round, previous, preimage| Seal { round, previous, preimage, root: merkle_root(&[]), records: 0 };
    let first = record(&sealer, seal(1, None, chain[3]));
    let second = record(&sealer, seal(2, Some(first.id()), chain[2]));
    let taken_over = record(&other, seal(3, Some(second.id()), [5; 32]));
    let back = record(&sealer, seal(4, Some(taken_over.id()), chain[1]));
    let skipped = record(&sealer, seal(6, Some(back.id()), chain[0]));
    let guessed = record(&sealer, seal(5, Some(back.id()), [1; 32]));
    let all = [&first, &second, &taken_over, &back, &skipped, &guessed];
    for turn in 0..6 {
        let mut order = all;
        order.rotate_left(turn);
        for order in [order, {
            order.reverse();
            order
        }] {
            let config = Config { key: node_key(50), facts: facts(), programs: BTreeSet::new(), lend: lend() };
            let mut engine = Engine::new(net.engines[0].params().clone(), config, [50; 32], START);
            let known: Vec<SharedRecord> = net.engines[0].board().of_kind(Kind::NodeCertificate).cloned().collect();
            for record in known.iter().chain(order) {
                engine.receive(START, record);
            }
            assert_eq!(engine.last_seal(), Some((4, back.id())));
            let refused = std::iter::from_fn(|| engine.poll_output()).filter_map(|output| match output {
                Output::Event(Event::Refused { record, reason, .. }) => Some((record, reason)),
                _ => None,
            });
            let refused: BTreeSet<_> = refused.collect();
            let faults = [(skipped.id(), SealFault::Round.to_string()), (guessed.id(), SealFault::Preimage.to_string())];
            assert_eq!(refused, BTreeSet::from(faults));
        }
    }
}

/// Two seals of one round by one sealer prove themselves.
#[test]
fn sealer_that_seals_a_round_twice_is_proven_a_fraud() {
    let mut net = net();
    let seal = |n| Seal { round: 1, previous: None, preimage: [n; 32], root: merkle_root(&[]), records: 0 };
    for n in 0..2 {
        say(&mut net, &node_key(1), Payload::Seal(seal(n).into()));
    }
    net.run(Duration::from_secs(61));
    assert!(net.engines.iter().all(|engine| engine.members().is_proven(&operator_key(1).operator())));
    // Two sealers may both begin.
    say(&mut net, &node_key(2), Payload::Seal(seal(5).into()));
    net.run(Duration::from_secs(61));
    assert!(net.engines.iter().all(|engine| !engine.members().is_proven(&operator_key(2).operator())));
}

#[test]
fn what_operators_say_for_the_record_can_be_asked_for() {
    let mut net = net();
    let name = |rootfs| {
        Payload::EnvironmentName(
            EnvironmentName { name: "debian-c".try_into().unwrap(), version: 3, rootfs: BlobHash([rootfs; 32]) }.into(),
        )
    };
    say(&mut net, &operator_key(0), name(1));
    net.run(Duration::from_secs(1));
    say(&mut net, &operator_key(1), name(2));
    let environments = |net: &Net| net.engines[3].environments().into_iter().collect::<Vec<_>>();
    assert_eq!(environments(&net), [(("debian-c".to_owned(), 3), BlobHash([1; 32]))], "the first one counts");
    let first = net.engines[0].board().of_kind(Kind::EnvironmentName).find(|r| r.author_key() == operator_key(0).public()).unwrap().id();
    say(&mut net, &operator_key(0), Payload::Withdraw(Withdraw { record: first }));
    assert_eq!(environments(&net), [(("debian-c".to_owned(), 3), BlobHash([2; 32]))], "and is taken back");

    let image = BlobHash([7; 32]);
    let report = |works| {
        let (channel, device) = ("nightly".try_into().unwrap(), "RPi5".try_into().unwrap());
        Payload::TestReport(TestReport { channel, image, device, works, note: BoundedString::cut("no sound") }.into())
    };
    say(&mut net, &operator_key(2), report(false));
    net.run(Duration::from_secs(1));
    say(&mut net, &operator_key(2), report(true));
    say(&mut net, &operator_key(80), report(false));
    let said: Vec<_> = net.engines[3].test_reports(&image).into_iter().map(|tested| (tested.operator, tested.report.works)).collect();
    let expected = BTreeSet::from([(operator_key(2).operator(), true), (operator_key(80).operator(), false)]);
    assert_eq!(said.into_iter().collect::<BTreeSet<_>>(), expected);

    for (from, to) in [(1, 90), (90, 91), (91, 1)] {
        let rotation = Rotation::new(&operator_key(to), &NETWORK, &operator_key(from).operator());
        say(&mut net, &operator_key(from), Payload::Rotation(rotation.into()));
    }
    let successor = |n| net.engines[3].successor_of(&operator_key(n).operator());
    assert_eq!(successor(2), operator_key(2).operator());
    assert_eq!(successor(1), operator_key(91).operator(), "a ring has an end");
}
