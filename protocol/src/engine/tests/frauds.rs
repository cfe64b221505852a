//! Who contradicts itself, who only seems to, and what comes of it.

use super::*;

/// A network of five, of whom 0 submits; and what it said until all was built.
fn built() -> (Net, BatchId) {
    let mut net = Net::new(5, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let batch = net.submit();
    net.work();
    (net, batch)
}

fn say(net: &mut Net, by: &SecretKey, sequence: u64, payload: Payload) -> SharedRecord {
    let record = Record::author(by, NETWORK, sequence, net.now, Timestamp::MAX, payload).unwrap();
    for engine in &mut net.engines {
        engine.receive(net.now, &record);
    }
    net.deliver();
    record
}

fn proofs(engine: &Engine) -> usize {
    engine.board().of_kind(Kind::FraudProof).count()
}

/// The builder of the first slot, and what it revealed.
fn revealed(net: &Net) -> (u8, Reveal) {
    let slot = net.engines[0].board().of_kind(Kind::Reveal).map(|record| match record.payload() {
        Payload::Reveal(reveal) => (record.author_key(), (**reveal).clone()),
        _ => unreachable!(),
    });
    let (key, reveal) = slot.min_by_key(|(_, reveal)| reveal.lease.slot).unwrap();
    ((0..5).find(|n| node_key(*n).public() == key).unwrap(), reveal)
}

/// A lie beside the truth: who told both has no vote any more, everywhere, and somebody else builds in its place.
#[test]
fn who_reveals_two_outcomes_has_no_vote_from_then_on() {
    let (mut net, batch) = built();
    let (liar, truth) = revealed(&net);
    let lie = Reveal { outcome: Outcome::Success { tree: BlobHash([66; 32]) }, ..truth };
    say(&mut net, &node_key(liar), 900, Payload::Reveal(lie.into()));
    net.run(Duration::from_secs(61));
    let who = operator_key(liar).operator();
    for engine in &net.engines {
        assert_eq!(proofs(engine), 1, "one is enough for all");
        assert!(engine.members().is_proven(&who));
        let verdict = engine.job(&batch, JobIndex(0)).unwrap().verdict.unwrap();
        assert!(!verdict.agreeing.contains(&who) && verdict.state == VerdictState::Candidate, "{verdict:?}");
    }
    net.work();
    let verdict = net.job(0, &batch, 0).verdict.unwrap();
    assert_eq!((verdict.state, verdict.agreeing.contains(&who)), (VerdictState::CrossVerified, false));
}

#[test]
fn node_that_commits_twice_under_one_lease_is_proven_a_fraud() {
    let (mut net, _) = built();
    let (liar, truth) = revealed(&net);
    say(
        &mut net,
        &node_key(liar),
        900,
        Payload::Commitment(Commitment { lease: truth.lease, commitment: [66; 32], says: Says::Word, renewed_ago_ms: 0 }),
    );
    net.run(Duration::from_secs(61));
    assert!(net.engines.iter().all(|engine| engine.members().is_proven(&operator_key(liar).operator())));
}

/// Two machines of one operator that could not hear each other both built a slot of a job that is not deterministic. They
/// were taken for a fraud.
#[test]
fn unlike_reveals_of_two_machines_of_one_operator_are_no_fraud() {
    let (mut net, _) = built();
    let (who, truth) = revealed(&net);
    let certificate = NodeCertificate::new(&node_key(60), &NETWORK, &operator_key(who).operator());
    say(&mut net, &operator_key(who), 2, Payload::NodeCertificate(certificate.into()));
    let other = Reveal { outcome: Outcome::Success { tree: BlobHash([66; 32]) }, ..truth };
    say(&mut net, &node_key(60), 1, Payload::Reveal(other.into()));
    net.run(Duration::from_secs(61));
    assert!(net.engines.iter().all(|engine| proofs(engine) == 0));
}

/// What a node said before anybody answered for it counts once its operator does.
#[test]
fn contradiction_of_a_stranger_is_proven_once_it_belongs_to_a_member() {
    let (mut net, _) = built();
    let (liar, truth) = revealed(&net);
    for (at, tree) in [(1, 66), (2, 67)] {
        let other = Reveal { outcome: Outcome::Success { tree: BlobHash([tree; 32]) }, ..truth.clone() };
        say(&mut net, &node_key(60), at, Payload::Reveal(other.into()));
    }
    net.run(Duration::from_secs(61));
    assert_eq!(proofs(&net.engines[0]), 0);
    let who = operator_key(liar).operator();
    let certificate = NodeCertificate::new(&node_key(60), &NETWORK, &who);
    say(&mut net, &operator_key(liar), 2, Payload::NodeCertificate(certificate.into()));
    net.run(Duration::from_secs(61));
    assert!(net.engines.iter().all(|engine| engine.members().is_proven(&who) && proofs(engine) == 1));
}

/// While they can't hear each other two machines of one operator may both build a slot. Their salts differ, so their
/// commitments do; that is no lie. As long as one of them does not open its own, their operator has no vote.
#[test]
fn two_nodes_of_one_operator_that_built_the_same_slot_are_no_fraud() {
    let mut net = Net::new(4, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    let (who, lease) = (u8::try_from(net.started[0].0).unwrap(), net.started[0].1.lease);
    let certificate = NodeCertificate::new(&node_key(60), &NETWORK, &operator_key(who).operator());
    say(&mut net, &operator_key(who), 2, Payload::NodeCertificate(certificate.into()));
    say(&mut net, &node_key(60), 1, Payload::Commitment(Commitment { lease, commitment: [9; 32], says: Says::Word, renewed_ago_ms: 0 }));
    net.run(Duration::from_millis(1));
    net.finish_builds();
    net.run(Duration::from_secs(61));
    assert!(net.engines.iter().all(|engine| proofs(engine) == 0));
    let verdict = net.job(0, &batch, 0).verdict.unwrap();
    assert!(!verdict.agreeing.contains(&operator_key(who).operator()), "what the other one committed to could be anything");
    // That one never reveals; its slot is offered again when it has withheld long enough.
    net.work();
    net.work();
    net.work();
    assert_eq!(net.engines[0].batch_result(&batch), Some(true));
}

/// A home that was restored from a backup goes on from an old sequence. That is nobody's lie: all nodes pick the same
/// record, whichever came first, and nobody is accused.
#[test]
fn restored_backup_that_reuses_a_sequence_harms_nobody() {
    let (net, _) = built();
    let (node, truth) = revealed(&net);
    let key = node_key(node);
    let progress = |log_bytes| LeaseProgress { lease: truth.lease, log_bytes, cpu_ms: 1, moved: START, before: START };
    let renewal = |log_bytes| Payload::Renewal(Renewal { leases: vec![progress(log_bytes)].try_into().unwrap() });
    let presence = |cores| Payload::Presence(Presence { cores, os: "linux".try_into().unwrap(), ..Presence::farewell() }.into());
    let back = |epoch| Payload::HandBack(HandBack { leases: vec![LeaseRef { epoch, ..truth.lease }].try_into().unwrap() });
    let sequence = u64::MAX / 2;
    let mut said = Vec::new();
    for n in 0..3 {
        for payload in [renewal(n), presence(u16::try_from(n).unwrap()), back(u32::try_from(n).unwrap())] {
            // One moment and one sequence for all: only the ids decide.
            said.push(Record::author(&key, NETWORK, sequence, net.now, Timestamp::MAX, payload).unwrap());
        }
        let lease = LeaseRef { epoch: 70 + u32::try_from(n).unwrap(), ..truth.lease };
        let commitment = Payload::Commitment(Commitment { lease, commitment: [9; 32], says: Says::Word, renewed_ago_ms: 0 });
        said.push(Record::author(&key, NETWORK, sequence, net.now, Timestamp::MAX, commitment).unwrap());
    }
    // What was said before is said again, in another record and with the same words.
    let again = Payload::Reveal(Reveal { particulars: Particulars { wall_ms: 77, ..truth.particulars.clone() }, ..truth.clone() }.into());
    said.push(Record::author(&key, NETWORK, sequence, net.now, Timestamp::MAX, again).unwrap());
    let before: Vec<SharedRecord> = net.engines[0].board().records().cloned().collect();
    let hear = |order: Vec<&SharedRecord>| {
        let config = Config { key: node_key(0), facts: facts(), programs: BTreeSet::new(), lend: Lend { builds: false, ..lend() } };
        let mut engine = Engine::new(net.engines[0].params().clone(), config, [9; 32], net.now);
        for record in before.iter().chain(order) {
            engine.receive(net.now, record);
        }
        engine.handle_timeout(net.now + Duration::from_secs(61));
        assert_eq!(proofs(&engine), 0);
        let latest = [Kind::Renewal, Kind::Presence].map(|kind| engine.board().latest_of(&key.node(), kind).unwrap().id());
        (latest, conclusions(&engine))
    };
    let straight = hear(said.iter().collect());
    assert_eq!(straight, hear(said.iter().rev().collect()));
    for turn in 1..said.len() {
        let (one, other) = said.split_at(turn);
        assert_eq!(straight, hear(other.iter().chain(one).collect()), "turned by {turn}");
    }
}

/// What a restored home builds again it commits to in the same words.
#[test]
fn equal_outcome_under_one_lease_is_one_commitment_after_a_restore() {
    let (net, _) = built();
    let (_, truth) = revealed(&net);
    let config = Config { key: node_key(1), facts: facts(), programs: BTreeSet::new(), lend: lend() };
    let engine = |seed| Engine::new(net.engines[0].params().clone(), config.clone(), [seed; 32], net.now);
    let salt = |seed, outcome: &Outcome| engine(seed).salt(&truth.lease, outcome, None);
    assert_eq!(salt(1, &truth.outcome), salt(2, &truth.outcome));
    assert_ne!(salt(1, &truth.outcome), salt(1, &Outcome::Success { tree: BlobHash([66; 32]) }));
}

/// What those say who have no vote decides nothing, and is not worth a record of everybody.
#[test]
fn strangers_contradictions_are_not_proven() {
    let (mut net, _) = built();
    let (_, truth) = revealed(&net);
    let certificate = NodeCertificate::new(&node_key(60), &NETWORK, &operator_key(80).operator());
    say(&mut net, &operator_key(80), 1, Payload::NodeCertificate(certificate.into()));
    for n in 1..4 {
        say(
            &mut net,
            &node_key(60),
            n.into(),
            Payload::Commitment(Commitment { lease: truth.lease, commitment: [n; 32], says: Says::Word, renewed_ago_ms: 0 }),
        );
    }
    net.run(Duration::from_secs(61));
    assert!(net.engines.iter().all(|engine| proofs(engine) == 0));
    // Invited later, it is a member with a past.
    let invitee = Invitee::Operator(operator_key(80).operator());
    say(&mut net, &operator_key(0), 3, Payload::Invitation(Invitation { invitee, until: Timestamp::MAX }));
    say(&mut net, &operator_key(80), 3, Payload::OperatorCertificate(OperatorCertificate { bearer: None }.into()));
    net.run(Duration::from_secs(61));
    assert!(net.engines.iter().all(|engine| engine.members().is_proven(&operator_key(80).operator())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// With lies, proofs, suspensions and seals among the records too, the order of arrival changes nothing.
    #[test]
    fn any_order_of_frauds_and_suspensions_gives_the_same_conclusions(keys in proptest::collection::vec(any::<u32>(), 200)) {
        let (mut net, _) = built();
        let (liar, truth) = revealed(&net);
        let lie = Reveal { outcome: Outcome::Success { tree: BlobHash([66; 32]) }, ..truth };
        say(&mut net, &node_key(liar), 900, Payload::Reveal(lie.into()));
        let suspended = operator_key(if liar == 1 { 2 } else { 1 }).operator();
        let suspension = Suspension { operator: suspended, reason: "late".try_into().unwrap() };
        say(&mut net, &operator_key(0), 5, Payload::Suspension(suspension.into()));
        net.run(Duration::from_secs(61));
        net.work();
        let records: Vec<SharedRecord> = net.engines[0].board().records().cloned().collect();
        let mut order: Vec<usize> = (0..records.len()).collect();
        order.sort_by_key(|at| keys[at % keys.len()].wrapping_mul(u32::try_from(*at).unwrap() | 1));
        let graph: Arc<[u8]> = net.graph.to_bytes().into();
        let hear = |order: &[usize]| {
            let config = Config { key: node_key(50), facts: facts(), programs: BTreeSet::new(), lend: Lend { builds: false, ..lend() } };
            let mut engine = Engine::new(net.engines[0].params().clone(), config, [50; 32], net.now);
            for at in order {
                engine.receive(net.now, &records[*at]);
                while let Some(output) = engine.poll_output() {
                    if let Output::Fetch { want, .. } = output {
                        engine.handle(net.now, Input::Fetched { want, bytes: graph.clone() });
                    }
                }
            }
            assert!(engine.members().is_proven(&operator_key(liar).operator()));
            conclusions(&engine)
        };
        let straight: Vec<usize> = (0..records.len()).collect();
        prop_assert_eq!(hear(&straight), hear(&order));
        prop_assert_eq!(hear(&straight), conclusions(&net.engines[0]));
    }
}

/// A claim is forgotten after a week, a commitment after half a year. Whoever had committed alone could claim its own lease
/// again, build something else, and prove itself a fraud.
#[test]
fn lease_under_which_a_node_has_committed_is_not_claimed_again() {
    let mut net = Net::new(2, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let batch = net.submit();
    net.run(Duration::from_secs(1));
    let lease = net.started[0].1.lease;
    net.finish_builds();
    net.run(Duration::from_secs(1));
    let records: Vec<SharedRecord> = net.engines[1].board.records().filter(|record| record.kind() != Kind::Claim).cloned().collect();
    let lend = Lend { cores: 1, ..lend() };
    let config = Config { key: node_key(1), facts: facts(), programs: BTreeSet::new(), lend };
    let mut later = Engine::new(net.engines[1].params.clone(), config, [9; 32], net.now);
    later.handle(net.now, Input::Capacity(Capacity { cores: 1, memory: 4 << 30 }));
    for record in &records {
        later.receive(net.now, record);
    }
    let (now, graph) = (net.now + Duration::from_secs(60), net.graph.to_bytes());
    while let Some(output) = later.poll_output() {
        if let Output::Fetch { want, .. } = output {
            later.handle(net.now, Input::Fetched { want, bytes: graph.clone().into() });
        }
    }
    assert!(later.job(&batch, JobIndex(0)).is_some());
    later.handle(now, Input::Synced);
    later.handle_timeout(now);
    let again = std::iter::from_fn(|| later.poll_output()).any(|output| matches!(output, Output::Start(order) if order.lease == lease));
    assert!(!again);
}

/// What a fraud's node attested stays a fraud's: a friend who certifies the node later, with an earlier date, changes for
/// whom it works and not who is to blame.
#[test]
fn fraud_that_gives_its_node_to_a_friend_stays_one() {
    let (mut net, _) = built();
    let (liar, truth) = revealed(&net);
    let who = operator_key(liar).operator();
    let other = Reveal { outcome: Outcome::Success { tree: BlobHash([66; 32]) }, ..truth };
    say(&mut net, &node_key(liar), 900, Payload::Reveal(other.into()));
    net.run(Duration::from_secs(61));
    assert!(net.engines[0].members().is_proven(&who));
    let friend = (0..3).find(|n| *n != liar).unwrap();
    let certificate = NodeCertificate::new(&node_key(liar), &NETWORK, &operator_key(friend).operator());
    let early =
        Record::author(&operator_key(friend), NETWORK, 3, Timestamp(1), Timestamp::MAX, Payload::NodeCertificate(certificate.into()));
    net.engines[0].receive(net.now, &early.unwrap());
    assert!(net.engines[0].members().is_proven(&who));
}
