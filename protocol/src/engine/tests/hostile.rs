//! Members and strangers that say what they should not.

use super::*;

fn one_job() -> Graph {
    Graph { jobs: vec![job("zlib", &[])] }
}

/// Tells all engines of a record.
fn tell(net: &mut Net, record: &SharedRecord) {
    for engine in &mut net.engines {
        engine.receive(net.now, record);
    }
    net.deliver();
}

/// Whoever takes part without an invitation can say that it has committed to something. If that opened a result, anybody
/// could have it before the quorum has built it, and copy it.
#[test]
fn commitments_of_those_who_have_no_vote_open_nothing() {
    let mut net = Net::new(4, Policy::small(), one_job());
    net.submit();
    net.run(Duration::from_millis(1));
    let held = net.started.pop().unwrap();
    let lease = net.started[0].1.lease;
    for n in 70..73 {
        let (stranger, machine) = (operator_key(n), node_key(n));
        let certificate = NodeCertificate::new(&machine, &NETWORK, &stranger.operator());
        let certificate =
            Record::author(&stranger, NETWORK, 1, net.now, Timestamp::MAX, Payload::NodeCertificate(certificate.into())).unwrap();
        tell(&mut net, &certificate);
        let payload = Payload::Commitment(Commitment { lease, commitment: [n; 32], says: Says::Word, renewed_ago_ms: 0 });
        let commitment = Record::author(&machine, NETWORK, 1, net.now, net.now + DAY, payload).unwrap();
        tell(&mut net, &commitment);
    }
    net.finish_builds();
    assert_eq!(net.engines[0].board.of_kind(Kind::Reveal).count(), 0);
    net.started.push(held);
    net.finish_builds();
    assert_eq!(net.engines[0].board.of_kind(Kind::Reveal).count(), 2);
}

/// The lowest batch wins within an epoch, and anybody can write a Batch record with a low id: one that does not ask for
/// the action must not count, or whoever builds could be pushed out of its lease at any time.
#[test]
fn a_claim_for_a_batch_that_does_not_ask_for_the_action_is_void() {
    let mut net = Net::new(4, Policy::small(), one_job());
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    let (victim, lease) = (net.started[0].0, net.started[0].1.lease);
    let thief = (1..4).find(|n| net.started.iter().all(|(who, _)| who != n)).unwrap();
    let stranger = operator_key(77);
    let low = (0..=255u8)
        .map(|n| {
            let payload = Payload::Batch(Batch { nonce: [n; 32], ..net_batch(&net) }.into());
            Record::author(&stranger, NETWORK, 1, net.now, net.now + DAY, payload).unwrap()
        })
        .min_by_key(|record| record.id())
        .unwrap();
    assert!(BatchId::from(low.id()) < batch);
    tell(&mut net, &low);
    let payload = Payload::Claim(Claim { lease, batch: low.id().into(), follows: ClaimTag::default() });
    let claim = Record::author(&node_key(u8::try_from(thief).unwrap()), NETWORK, 1, net.now, net.now + DAY, payload).unwrap();
    tell(&mut net, &claim);
    assert!(net.started.iter().any(|(who, order)| *who == victim && order.lease == lease), "the builder stopped");
}

/// Anybody can write a Batch, and a Retry that names it and somebody else's actions: whoever builds goes on.
#[test]
fn a_strangers_retry_through_a_batch_of_its_own_begins_no_attempt() {
    let mut net = Net::new(4, Policy::small(), one_job());
    net.submit();
    net.run(Duration::from_millis(1));
    let builds = net.started.len();
    let action = net.started[0].1.lease.action;
    let stranger = operator_key(77);
    let record = |net: &Net, payload| Record::author(&stranger, NETWORK, 1, net.now, net.now + DAY, payload).unwrap();
    let own = record(&net, Payload::Batch(net_batch(&net).into()));
    tell(&mut net, &own);
    let retry = Retry { batch: own.id().into(), actions: vec![action].try_into().unwrap() };
    let retry = record(&net, Payload::Retry(retry));
    tell(&mut net, &retry);
    assert_eq!((net.engines[0].attempt_first_slot(&action), net.started.len()), (0, builds));
}

/// What is fetched is bounded before it is fetched.
#[test]
fn a_graph_that_is_too_large_is_never_asked_for() {
    let mut net = Net::new(2, Policy::small(), one_job());
    let batch = Batch { graph_length: 64 << 30, ..net_batch(&net) };
    net.engines[1].poll_output();
    let record = Record::author(&node_key(0), NETWORK, 9, net.now, net.now + DAY, Payload::Batch(batch.into())).unwrap();
    net.engines[1].receive(net.now, &record);
    let asked = std::iter::from_fn(|| net.engines[1].poll_output()).any(|output| matches!(output, Output::Fetch { .. }));
    assert!(!asked);
    assert!(net.engines[1].batch(&record.id().into()).unwrap().halted.unwrap().contains("64"));
}

/// Where candidates may feed dependants, the quorum may agree on what was built upon one builder's word.
#[test]
fn what_is_built_on_a_candidate_is_not_verified_to_the_ground() {
    let mut net = Net::new(5, Policy::small(), Graph { jobs: vec![job("zlib", &[]), job("tool", &[0]), job("image", &[1])] });
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    let (cheat, honest) = (net.started[0].0, net.started[1].0);
    net.lies.insert(cheat);
    // The honest one commits and is cut off: the other's word stands alone.
    let order = net.started[1].1.clone();
    let payload = Payload::Commitment(Commitment { lease: order.lease, commitment: [9; 32], says: Says::Word, renewed_ago_ms: 0 });
    let commitment = Record::author(&node_key(u8::try_from(honest).unwrap()), NETWORK, 9, net.now, net.now + DAY, payload).unwrap();
    net.dead.insert(honest);
    tell(&mut net, &commitment);
    for _ in 0..6 {
        net.finish_builds();
        net.run(Duration::from_secs(5));
    }
    assert_eq!(net.job(0, &batch, 0).state, JobState::Candidate);
    assert_eq!(net.job(0, &batch, 2).state, JobState::CrossVerified);
    let obstacle = |net: &Net, index, released: &[ActionId]| {
        net.engines[0].release_obstacle(&batch, JobIndex(index), &released.iter().copied().collect())
    };
    assert_eq!(obstacle(&net, 2, &[]), Some(("zlib".to_owned(), Obstacle::State(JobState::Candidate))));
    assert_eq!(obstacle(&net, 0, &[]), Some(("zlib".to_owned(), Obstacle::State(JobState::Candidate))));
    // What an earlier release vouches for is not asked for again.
    let zlib = net.job(0, &batch, 0).action.unwrap();
    assert_eq!(obstacle(&net, 2, &[zlib]), None);
}

/// A release wants the word of a trusted operator for everything that it was built from, not only for what is released.
#[test]
fn release_names_the_input_that_no_trusted_operator_has_built() {
    let policy = Policy { release_needs_trusted: true, ..Policy::small() };
    let mut net = Net::new(4, policy, Graph { jobs: vec![job("zlib", &[]), job("image", &[0])] });
    let batch = net.submit();
    for _ in 0..8 {
        net.run(Duration::from_secs(5));
        net.finish_builds();
    }
    assert_eq!(net.job(0, &batch, 1).state, JobState::CrossVerified);
    let builders = |net: &Net, index| -> BTreeSet<OperatorId> {
        net.job(0, &batch, index).attestations.iter().map(|attestation| attestation.operator).collect()
    };
    let obstacle = |net: &mut Net, trusted: BTreeSet<OperatorId>| {
        let (now, policy) = (net.now, net.engines[0].params().policy.clone());
        let grants = Grants { trusted, ..net.engines[0].params().grants.clone() };
        net.engines[0].set_charter(now, grants, policy);
        net.engines[0].release_obstacle(&batch, JobIndex(1), &BTreeSet::new())
    };
    let (zlib, image) = (builders(&net, 0), builders(&net, 1));
    assert_eq!(obstacle(&mut net, &zlib | &image), None);
    assert_eq!(obstacle(&mut net, BTreeSet::new()), Some(("image".to_owned(), Obstacle::NoTrustedReveal)));
    let image_only: BTreeSet<OperatorId> = &image - &zlib;
    assert!(!image_only.is_empty(), "one of three built the image and not its input");
    assert_eq!(obstacle(&mut net, image_only), Some(("zlib".to_owned(), Obstacle::NoTrustedReveal)));
}
