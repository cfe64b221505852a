//! Leases that are given back, and those who take them over.

use super::*;

/// One slot a job, three builders: the first has `zlib`, the second `tool`, the third nothing to do.
fn two_jobs() -> (Net, usize, usize, usize, LeaseRef) {
    let policy = Policy { quorum: 1, slots: 1, ..Policy::small() };
    let mut net = Net::new(4, policy, Graph { jobs: vec![job("zlib", &[]), job("tool", &[])] });
    net.submit();
    net.run(Duration::from_millis(1));
    assert_eq!(net.started.len(), 2);
    let (first, lease) = (net.started[0].0, net.started[0].1.lease);
    let second = net.started[1].0;
    (net, first, second, 6 - first - second, lease)
}

/// Its owner wants the machine, or gives it again.
fn lend_out(net: &mut Net, who: usize, builds: bool) {
    let now = net.now;
    net.engines[who].handle(now, Input::Lend(Lend { builds, ..lend() }));
    if !builds {
        net.engines[who].handle(now, Input::HandBackAll);
    }
    net.run(Duration::from_secs(5));
}

/// Whether `who` builds under that lease, without ever having been stopped: who is stopped claims it again.
fn builds(net: &Net, who: usize, lease: LeaseRef) -> bool {
    let claims = net.engines[0].board.claims(&lease.action, lease.slot).filter(|(_, claim)| claim.lease == lease);
    claims.count() == 1 && net.started.iter().any(|(builder, order)| *builder == who && order.lease == lease)
}

/// A node's newest HandBack lists what it gave back before: that must not move the moment at which it did.
#[test]
fn who_took_a_lease_over_keeps_it_when_the_one_before_hands_back_another() {
    let (mut net, first, second, third, lease) = two_jobs();
    lend_out(&mut net, first, false);
    let taken = LeaseRef { epoch: 2, ..lease };
    assert!(builds(&net, third, taken));
    lend_out(&mut net, second, false);
    lend_out(&mut net, first, true);
    assert_eq!(net.started.len(), 2, "the first builds what the second gave back");
    lend_out(&mut net, first, false);
    assert!(builds(&net, third, taken), "the third was stopped");
}

/// A build may take longer than the record lives that made room for it.
#[test]
fn who_took_a_lease_over_keeps_it_when_the_hand_back_is_long_past() {
    let (mut net, first, _, third, lease) = two_jobs();
    lend_out(&mut net, first, false);
    let taken = LeaseRef { epoch: 2, ..lease };
    assert!(builds(&net, third, taken));
    net.run(Duration::from_secs(2 * 3600));
    assert!(builds(&net, third, taken), "the third was stopped");
}

/// What was given back before a restart stays given back, whatever is given back after it.
#[test]
fn a_restart_keeps_what_was_handed_back() {
    let (mut net, first, _, third, lease) = two_jobs();
    lend_out(&mut net, first, false);
    let key = node_key(u8::try_from(first).unwrap());
    let config = Config { key, facts: facts(), programs: BTreeSet::new(), lend: Lend { builds: false, ..lend() } };
    let mut again = Engine::new(net.engines[first].params.clone(), config, [9; 32], net.now);
    let records: Vec<SharedRecord> = net.engines[first].board.records().cloned().collect();
    for record in &records {
        again.receive(net.now, record);
    }
    let lost = LeaseRef { action: crate::id::ActionId([5; 32]), slot: SlotNo(0), epoch: 1 };
    let batch = *again.batches.keys().next().unwrap();
    again.handle(net.now, Input::Author(Payload::Claim(Claim { lease: lost, batch, follows: ClaimTag::default() }), DAY));
    again.hand_back_lost(net.now);
    net.engines[first] = again;
    net.run(Duration::from_secs(5));
    assert!(builds(&net, third, LeaseRef { epoch: 2, ..lease }), "the third was stopped");
}

/// A node that was stopped in good order was taken for present, and for a rival whose turn comes first, until its Presence
/// expired.
#[test]
fn node_that_leaves_is_not_present_any_more() {
    let mut net = Net::new(3, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    let present = |net: &Net| -> BTreeSet<NodeId> { net.engines[0].board().presences().map(|(node, ..)| node).collect() };
    assert_eq!(present(&net).len(), 3);
    let (now, gone) = (net.now, node_key(1).node());
    net.engines[1].handle(now, Input::Leave);
    // What follows must not announce it again.
    net.run(Duration::from_secs(600));
    assert!(!present(&net).contains(&gone) && present(&net).len() == 2, "{:?}", present(&net));
    assert!(net.started.iter().all(|(who, _)| *who != 1), "it builds nothing any more");
    let view = net.job(0, &batch, 0);
    assert!(view.why.contains("1 building, 1 slot open"), "{}", view.why);
    // When it comes back, its own new word counts.
    let config = Config { key: node_key(1), facts: facts(), programs: BTreeSet::new(), lend: lend() };
    let mut again = Engine::new(net.engines[1].params().clone(), config, [9; 32], net.now);
    for record in net.engines[0].board().records() {
        again.receive(net.now, record);
    }
    again.handle(net.now, Input::Capacity(Capacity { cores: 1, memory: 4 << 30 }));
    net.engines[1] = again;
    net.run(Duration::from_secs(1));
    assert!(present(&net).contains(&gone));
}
