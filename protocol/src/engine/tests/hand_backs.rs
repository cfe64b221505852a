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

/// A node's next HandBack says nothing of what it gave back before: that must not move the moment at which it did.
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

/// A HandBack once replaced the one before and listed the latest 64 leases: the sixty-fifth took the first out of the
/// list, and whoever had taken that one over was stopped.
#[test]
fn who_took_a_lease_over_keeps_it_however_many_others_are_handed_back() {
    let (mut net, first, _, third, lease) = two_jobs();
    lend_out(&mut net, first, false);
    let taken = LeaseRef { epoch: 2, ..lease };
    assert!(builds(&net, third, taken));
    let key = node_key(u8::try_from(first).unwrap());
    for number in 0..100u8 {
        let other = LeaseRef { action: crate::id::ActionId([number; 32]), slot: SlotNo(0), epoch: 1 };
        let back = Payload::HandBack(HandBack { leases: vec![other].try_into().unwrap() });
        let record = Record::author(&key, NETWORK, net.now.0 + 1_000 + u64::from(number), net.now, Timestamp::MAX, back).unwrap();
        for engine in &mut net.engines {
            engine.receive(net.now, &record);
        }
    }
    net.run(Duration::from_secs(400));
    assert!(builds(&net, third, taken), "the third was stopped");
}

/// What is kept of hand-backs is bounded by the leases that they list, not by the records.
#[test]
fn hand_backs_fill_their_authors_share_by_the_leases_that_they_list() {
    let mut net = Net::new(2, Policy::small(), chain());
    let stranger = SecretKey::from_seed(&[77; 32]);
    let mut kept = 0;
    for number in 0..60u32 {
        let leases: Vec<LeaseRef> =
            (0..32).map(|slot| LeaseRef { action: crate::id::ActionId([9; 32]), slot: SlotNo(slot), epoch: number }).collect();
        let back = Payload::HandBack(HandBack { leases: leases.try_into().unwrap() });
        let record = Record::author(&stranger, NETWORK, number.into(), net.now, Timestamp::MAX, back).unwrap();
        kept += usize::from(net.engines[0].receive(net.now, &record) == Reception::New);
    }
    assert_eq!(kept, super::board::STRANGER_RECORDS_MAX / 32);
    // And all of it is forgotten with the records.
    net.run(Kind::HandBack.lifetime_max() + Duration::from_secs(3600));
    assert_eq!(net.engines[0].board.of_kind(Kind::HandBack).count(), 0);
    assert!(net.engines[0].board.keeps_no_hand_backs());
}

/// One lease may be claimed twice by one node, after unlike claims: it gave back the first, not the second.
#[test]
fn lease_that_was_given_back_before_it_was_claimed_is_not_given_back() {
    let mut board = Board::new(1);
    let lease = LeaseRef { action: crate::id::ActionId([5; 32]), slot: SlotNo(0), epoch: 2 };
    let back = Payload::HandBack(HandBack { leases: vec![lease].try_into().unwrap() });
    for at in [Timestamp(2000), Timestamp(5000)] {
        board.insert(&Record::author(&node_key(1), NETWORK, at.0, at, Timestamp::MAX, back.clone()).unwrap());
    }
    let author = board.author(&node_key(1).public()).unwrap();
    let given = |claimed| board.handed_back_by(author, &lease, Timestamp(claimed));
    assert_eq!((given(1000), given(3000), given(6000)), (Some(Timestamp(2000)), Some(Timestamp(5000)), None));
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

/// An engine of the same node, with all records that it had and nothing else.
fn restarted(net: &Net, who: usize) -> Engine {
    let key = node_key(u8::try_from(who).unwrap());
    let config = Config { key, facts: facts(), programs: BTreeSet::new(), lend: Lend { builds: false, ..lend() } };
    let mut again = Engine::new(net.engines[who].params.clone(), config, [9; 32], net.now);
    for record in net.engines[who].board.records() {
        again.receive(net.now, record);
    }
    again.hand_back_lost(net.now);
    again
}

/// What was given back before a restart stays given back, whatever is given back after it.
#[test]
fn a_restart_keeps_what_was_handed_back() {
    let (mut net, first, second, third, lease) = two_jobs();
    lend_out(&mut net, first, false);
    net.engines[first] = restarted(&net, first);
    net.run(Duration::from_secs(5));
    lend_out(&mut net, first, true);
    lend_out(&mut net, second, false);
    lend_out(&mut net, first, false);
    assert!(builds(&net, third, LeaseRef { epoch: 2, ..lease }), "the third was stopped");
}

/// A node that was restarted once handed back whatever it could not remember: leases that it had lost to others, and those
/// of a week ago, each time anew.
#[test]
fn a_restart_hands_back_what_the_node_holds_and_nothing_else() {
    let (mut net, first, second, third, lease) = two_jobs();
    net.dead.insert(first);
    net.run(Duration::from_secs(200));
    assert!(builds(&net, third, LeaseRef { epoch: 2, ..lease }), "the third took over from who fell silent");
    net.dead.remove(&first);
    net.engines[first] = restarted(&net, first);
    net.run(Duration::from_secs(5));
    assert_eq!(net.engines[0].board.of_kind(Kind::HandBack).count(), 0, "there was nothing to hand back");
    // The second dies with a lease that is still its own.
    let held = net.engines[second].own_leases();
    net.engines[second] = restarted(&net, second);
    net.started.retain(|(who, _)| *who != second);
    net.run(Duration::from_secs(5));
    let backs: Vec<_> = net.engines[0].board.of_kind(Kind::HandBack).cloned().collect();
    let told: Vec<LeaseRef> = backs
        .iter()
        .flat_map(|record| match record.payload() {
            Payload::HandBack(back) => back.leases.to_vec(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(told, held);
}

/// A HandBack from before the claim gives nothing back, and was written again and again, until the stack was full.
#[test]
fn a_restart_with_a_clock_that_was_set_back_hands_back_nothing_in_vain() {
    let (mut net, first, _, _, lease) = two_jobs();
    let (key, now) = (node_key(u8::try_from(first).unwrap()), Timestamp(net.now.0 - 30_000));
    let config = Config { key, facts: facts(), programs: BTreeSet::new(), lend: Lend { builds: false, ..lend() } };
    let mut again = Engine::new(net.engines[first].params.clone(), config, [9; 32], now);
    for record in net.engines[first].board.records() {
        again.receive(now, record);
    }
    again.hand_back_lost(now);
    while let Some(output) = again.poll_output() {
        if let Output::Fetch { want, .. } = output {
            again.handle(now, Input::Fetched { want, bytes: net.graph.to_bytes().into() });
        }
    }
    assert_eq!(again.board.of_kind(Kind::HandBack).count(), 0);
    net.engines[first] = again;
    net.run(Duration::from_secs(400));
    assert!(net.engines[0].board.claims(&lease.action, lease.slot).any(|(_, claim)| claim.lease.epoch == 2), "others go on");
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
