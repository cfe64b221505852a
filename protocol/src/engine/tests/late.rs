//! Clocks that are behind, nodes that come back, and what is heard late. The simulator found what is tested here.

use super::lease::SlotState;
use super::*;

/// One slot, one result.
fn single() -> Policy {
    Policy { quorum: 1, slots: 1, ..Policy::small() }
}

fn rest(net: &mut Net, engine: usize, rests: bool) {
    net.engines[engine].handle(net.now, Input::Lend(Lend { builds: !rests, ..lend() }));
}

/// An engine like number `n` of the network, with some of its records, as after a restart.
fn restarted(net: &Net, n: u8, records: impl Fn(&SharedRecord) -> bool) -> Engine {
    let config = Config { key: node_key(n), facts: facts(), programs: BTreeSet::new(), lend: lend() };
    let mut engine = Engine::new(net.engines[0].params.clone(), config, [9; 32], net.now);
    for record in net.engines[0].board.records().filter(|record| records(record)) {
        engine.receive(net.now, record);
    }
    engine.hand_back_lost(net.now);
    engine.handle(net.now, Input::Capacity(Capacity { cores: 1, memory: 4 << 30 }));
    engine
}

/// Hands the graph in where it is asked for; the leases that the engine begins to build under.
fn starts(net: &Net, engine: &mut Engine) -> Vec<LeaseRef> {
    let mut started = Vec::new();
    while let Some(output) = engine.poll_output() {
        match output {
            Output::Fetch { want, .. } => engine.handle(net.now, Input::Fetched { want, bytes: net.graph.to_bytes().into() }),
            Output::Start(order) => started.push(order.lease),
            _ => {}
        }
    }
    started
}

/// By a clock that is behind, a lease can end in the future. Claims from before its end are void: nodes wrote one after
/// the other, without end.
#[test]
fn lease_that_ended_in_this_nodes_future_is_claimed_when_that_has_come() {
    let mut net = Net::new(3, single(), Graph { jobs: vec![job("zlib", &[])] });
    rest(&mut net, 1, true);
    rest(&mut net, 2, true);
    let batch = net.submit();
    let action = net.job(2, &batch, 0).action.unwrap();
    let lease = LeaseRef { action, slot: SlotNo(0), epoch: 1 };
    let (claimed, ended) = (net.now + Duration::from_secs(30), net.now + Duration::from_secs(40));
    let back = HandBack { leases: vec![lease].try_into().unwrap() };
    for (at, payload) in [(claimed, Payload::Claim(Claim { lease, batch, follows: ClaimTag::default() })), (ended, Payload::HandBack(back))]
    {
        let record = Record::author(&node_key(1), NETWORK, at.0, at, at + DAY, payload).unwrap();
        assert_eq!(net.engines[2].receive(net.now, &record), Reception::New);
    }
    rest(&mut net, 2, false);
    net.run(Duration::from_secs(39));
    assert_eq!(net.engines[2].board.of_kind(Kind::Claim).count(), 1, "claimed before the lease had ended");
    net.run(Duration::from_secs(2));
    assert_eq!(net.engines[2].own_leases(), [LeaseRef { epoch: 2, ..lease }]);
}

/// Who heard of a liar's output bound what depends on it, who heard of the failure first never did; both said something
/// else of the dependants for ever.
#[test]
fn failure_takes_bindings_away_in_whatever_order_it_is_heard() {
    let mut net = Net::new(5, Policy { slots: 3, ..Policy::small() }, chain());
    (net.fails, net.lies) = (true, BTreeSet::from([1, 2]));
    let batch = net.submit();
    net.work();
    assert_eq!(net.engines[0].batch_result(&batch), Some(false));
    let records: Vec<SharedRecord> = net.engines[0].board.records().cloned().collect();
    let turned = |records: &mut dyn Iterator<Item = &SharedRecord>| {
        let lend = Lend { builds: false, ..lend() };
        let config = Config { key: node_key(50), facts: facts(), programs: BTreeSet::new(), lend };
        let mut engine = Engine::new(net.engines[0].params.clone(), config, [50; 32], net.now);
        for record in records {
            engine.receive(net.now, record);
            starts(&net, &mut engine);
        }
        conclusions(&engine)
    };
    let told = conclusions(&net.engines[0]);
    assert_eq!(turned(&mut records.iter()), told);
    assert_eq!(turned(&mut records.iter().rev()), told);
    let failures_first = |record: &&SharedRecord| !matches!(record.payload(), Payload::Reveal(reveal) if reveal.outcome.tree().is_some());
    let (first, then): (Vec<_>, Vec<_>) = records.iter().partition(failures_first);
    assert_eq!(turned(&mut first.iter().copied().chain(then.iter().copied())), told);
    assert_eq!(turned(&mut then.into_iter().chain(first)), told);
}

/// A node that comes back knows of work that others did meanwhile only when somebody has told it.
#[test]
fn restarted_node_claims_nothing_before_it_has_heard_what_it_missed() {
    let mut net = Net::new(3, single(), Graph { jobs: vec![job("zlib", &[])] });
    net.submit();
    let before = |record: &SharedRecord| record.kind() != Kind::Claim && record.kind() != Kind::Presence;
    let mut alone = restarted(&net, 1, before);
    assert_eq!(starts(&net, &mut alone), []);
    net.now = net.now + Duration::from_secs(4);
    alone.handle_timeout(net.now);
    assert_eq!(starts(&net, &mut alone), []);
    // Nobody is there to tell it anything: it is not to wait for ever.
    net.now = net.now + Duration::from_secs(1);
    alone.handle_timeout(net.now);
    assert_eq!(starts(&net, &mut alone).len(), 1);

    let mut told = restarted(&net, 1, before);
    starts(&net, &mut told);
    told.handle(net.now, Input::Synced);
    told.handle_timeout(net.now);
    assert_eq!(starts(&net, &mut told).len(), 1);
}

/// Draws are the operator's: two idle machines of one both had the first rank, and one of their claims was always lost.
#[test]
fn two_machines_of_one_operator_do_not_claim_at_once() {
    let mut net = Net::new(3, single(), Graph { jobs: vec![job("zlib", &[])] });
    let certificate = NodeCertificate::new(&node_key(2), &NETWORK, &operator_key(1).operator());
    let earlier = Timestamp(START.0 - 1);
    let certificate =
        Record::author(&operator_key(1), NETWORK, 2, earlier, Timestamp::MAX, Payload::NodeCertificate(certificate.into())).unwrap();
    for engine in &mut net.engines {
        engine.receive(net.now, &certificate);
    }
    net.dead.extend([1, 2]);
    net.submit();
    let batch = net.engines[0].board.of_kind(Kind::Batch).next().unwrap().clone();
    let mut started = 0;
    for n in [1, 2] {
        let spare = restarted(&net, 3, |_| false);
        let mut engine = std::mem::replace(&mut net.engines[n], spare);
        engine.receive(net.now, &batch);
        started += starts(&net, &mut engine).len();
        engine.handle_timeout(net.now);
        started += starts(&net, &mut engine).len();
    }
    assert_eq!(started, 1);
}

/// Leases are taken in the name of a batch. Who came after it was cancelled knew nothing of its jobs, and saw slots open
/// that others saw closed.
#[test]
fn leases_of_a_cancelled_batch_are_judged_alike_by_who_comes_later() {
    let mut net = Net::new(4, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let first = net.submit();
    let mut second = net.engines[0].batches[&first].batch().clone();
    second.nonce = [8; 32];
    net.engines[0].handle(net.now, Input::Author(Payload::Batch(second.into()), DAY));
    net.work();
    for batch in net.engines[0].batches.keys().copied().collect::<Vec<_>>() {
        let claimed = net.engines[0]
            .board
            .of_kind(Kind::Claim)
            .any(|record| matches!(record.payload(), Payload::Claim(claim) if claim.batch == batch));
        if claimed {
            net.engines[0].handle(net.now, Input::Author(Payload::Cancel(Cancel { batch }), DAY));
            break;
        }
    }
    net.run(Duration::from_secs(1));
    let mut late = restarted(&net, 3, |_| true);
    starts(&net, &mut late);
    assert_eq!(conclusions(&late), conclusions(&net.engines[0]));
}

/// Both voters were wrong, and the arbiter who said so is alone with the truth: others must be asked, or it ends never.
#[test]
fn arbiter_against_all_votes_makes_room_for_other_builders() {
    let mut net = Net::new(6, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    net.lies = net.started.iter().map(|(who, _)| *who).collect();
    assert_eq!(net.lies.len(), 2);
    net.apart = true;
    net.work();
    assert_eq!(net.job(0, &batch, 0).state, JobState::CrossVerified);
    let verdict = net.job(0, &batch, 0).verdict.unwrap();
    // The arbiter, and a voter in the place of each.
    assert_eq!((verdict.agreeing.len(), verdict.wrong.len()), (3, 2));
}

/// What an expired record alone said is not said any more: who heard it while it lived comes to what a newcomer does.
#[test]
fn slot_is_judged_without_what_has_expired() {
    let mut net = Net::new(3, single(), Graph { jobs: vec![job("zlib", &[])] });
    rest(&mut net, 1, true);
    rest(&mut net, 2, true);
    let batch = net.submit();
    let lease = LeaseRef { action: net.job(0, &batch, 0).action.unwrap(), slot: SlotNo(0), epoch: 1 };
    let (now, claim) = (net.now, Payload::Claim(Claim { lease, batch, follows: ClaimTag::default() }));
    let claim = Record::author(&node_key(1), NETWORK, now.0, now, now + Duration::from_secs(600), claim).unwrap();
    assert_eq!(net.engines[0].receive(now, &claim), Reception::New);
    net.run(Duration::from_secs(500));
    assert_eq!(net.job(0, &batch, 0).slots[0].epoch, 2);
    net.run(claim.forget_at().since(net.now));
    assert_eq!(net.engines[0].board.of_kind(Kind::Claim).count(), 0);
    assert_eq!(net.job(0, &batch, 0).slots[0].epoch, 1);
    let mut late = restarted(&net, 3, |_| true);
    starts(&net, &mut late);
    assert_eq!(conclusions(&late), conclusions(&net.engines[0]));
}

/// A builder that committed and then died is waited for, but not for ever.
#[test]
fn slot_of_a_builder_that_died_before_it_revealed_is_offered_again() {
    let mut net = Net::new(5, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    let victim = net.started[0].0;
    let other = net.started.pop().unwrap();
    net.finish_builds();
    net.dead.insert(victim);
    net.started.push(other);
    net.finish_builds();
    assert_eq!(net.job(0, &batch, 0).state, JobState::Candidate);
    for _ in 0..12 {
        net.run(Duration::from_secs(60));
        net.finish_builds();
    }
    assert_eq!(net.job(0, &batch, 0).state, JobState::CrossVerified);
}

/// A Renewal is forgotten soon after the next one, which does not list a lease that ended in between. Who had claimed the
/// slot too early then held it, for everyone, and nobody built.
#[test]
fn lease_that_was_renewed_stays_so_when_its_renewal_is_forgotten() {
    let mut net = Net::new(4, single(), Graph { jobs: vec![job("zlib", &[])] });
    for engine in 1..4 {
        rest(&mut net, engine, true);
    }
    let batch = net.submit();
    let action = net.job(3, &batch, 0).action.unwrap();
    let lease = LeaseRef { action, slot: SlotNo(0), epoch: 1 };
    let start = net.now;
    let say = |node: u8, second: u64, payload| {
        let at = start + Duration::from_secs(second);
        Record::author(&node_key(node), NETWORK, at.0, at, at + DAY, payload).unwrap()
    };
    let claim = say(1, 0, Payload::Claim(Claim { lease, batch, follows: ClaimTag::default() }));
    let follows = ClaimTag::of(&claim.id());
    let early = say(2, 190, Payload::Claim(Claim { lease: LeaseRef { epoch: 2, ..lease }, batch, follows }));
    let commitment =
        |renewed_ago_ms| say(1, 200, Payload::Commitment(Commitment { lease, commitment: [9; 32], says: Says::Word, renewed_ago_ms }));
    for (renewed_ago_ms, holder) in [(100_000, 1), (200_000, 2)] {
        let mut engine = restarted(&net, 3, |record| !matches!(record.kind(), Kind::Claim | Kind::Commitment));
        starts(&net, &mut engine);
        for record in [&claim, &early, &commitment(renewed_ago_ms)] {
            engine.receive(start + Duration::from_secs(201), record);
        }
        let place = engine.board.action(&action).unwrap();
        let slots = engine.slots_of(place);
        assert_eq!(slots[0].1.tenure().unwrap().node, node_key(holder).node(), "{renewed_ago_ms}");
    }
}

/// The next Renewal of a machine with several leases may overtake the Commitment under one of them. Others took that
/// lease for lapsed since its claim, and claimed the slot at once.
#[test]
fn renewal_that_overtakes_a_commitment_ends_no_lease() {
    let mut net = Net::new(3, single(), Graph { jobs: vec![job("zlib", &[]), job("lua", &[])] });
    rest(&mut net, 2, true);
    let two = Lend { cores: 2, ..lend() };
    net.engines[1].handle(net.now, Input::Lend(two));
    net.engines[1].handle(net.now, Input::Capacity(Capacity { cores: 2, memory: 8 << 30 }));
    net.submit();
    net.run(Duration::from_secs(600));
    assert_eq!(net.engines[1].own_leases().len(), 2);
    let first = net.engines[1].own_leases()[0];
    let outcome = Outcome::Success { tree: BlobHash([1; 32]) };
    let finished = Input::Finished { lease: first, outcome, again: None, particulars: particulars() };
    net.engines[1].handle(net.now, finished);
    while net.engines[1].board.latest_of(&node_key(1).node(), Kind::Renewal).unwrap().issued() < net.now {
        net.now = net.engines[1].poll_timeout().unwrap();
        net.engines[1].handle_timeout(net.now);
    }
    let renewal = net.engines[1].board.latest_of(&node_key(1).node(), Kind::Renewal).unwrap().clone();
    net.engines[2].receive(net.now, &renewal);
    let place = net.engines[2].board.action(&first.action).unwrap();
    assert!(matches!(net.engines[2].slots_of(place)[0].1, SlotState::Held(_)));
}

/// Who joins in the middle of a night hears of old claims before it hears that they were renewed. It claimed everything
/// that was being built, once.
#[test]
fn who_joins_late_claims_nothing_before_it_has_heard_everything() {
    let mut net = Net::new(3, single(), Graph { jobs: vec![job("zlib", &[])] });
    rest(&mut net, 2, true);
    net.submit();
    net.run(Duration::from_secs(600));
    assert_eq!(net.engines[1].own_leases().len(), 1);
    let mut late = restarted(&net, 2, |record| record.kind().by_operator());
    for record in net.engines[0].board.records().filter(|record| record.kind() != Kind::Renewal) {
        late.receive(net.now, record);
    }
    late.handle_timeout(net.now);
    assert_eq!(starts(&net, &mut late), []);
    let renewal = net.engines[1].board.latest_of(&node_key(1).node(), Kind::Renewal).unwrap();
    late.receive(net.now + Duration::from_secs(1), renewal);
    late.handle(net.now + Duration::from_secs(1), Input::Synced);
    late.handle_timeout(net.now + Duration::from_secs(30));
    assert_eq!(starts(&net, &mut late), []);
}

/// A long history takes longer to tell than a node waits for the first word of it.
#[test]
fn who_joins_late_claims_nothing_while_it_is_still_being_told() {
    let mut net = Net::new(3, single(), Graph { jobs: vec![job("zlib", &[])] });
    rest(&mut net, 1, true);
    rest(&mut net, 2, true);
    net.submit();
    net.run(Duration::from_secs(600));
    let mut late = restarted(&net, 2, |record| record.kind().by_operator() || record.kind() == Kind::Batch);
    starts(&net, &mut late);
    let say = |number: u64| {
        let at = Timestamp(net.now.0 - 60_000 + number);
        Record::author(&node_key(1), NETWORK, at.0, at, at + DAY, Payload::Presence(Presence::farewell().into())).unwrap()
    };
    for second in 1..20 {
        late.receive(net.now + Duration::from_secs(second), &say(second));
        late.handle_timeout(net.now + Duration::from_secs(second));
        assert_eq!(starts(&net, &mut late), [], "after {second} s");
    }
    late.handle_timeout(net.now + Duration::from_secs(60));
    assert_eq!(starts(&net, &mut late).len(), 1);
}

/// Claims arrive before what came of them: it looked as if builder after builder had fallen silent over the job, and
/// somebody who waited for the batch was told that it had failed.
#[test]
fn who_joins_late_takes_no_job_for_poison_before_it_has_heard_everything() {
    let mut net = Net::new(12, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let batch = net.submit();
    for _ in 0..3 {
        // Longer than a lease lives without a sign of life.
        net.run(Duration::from_secs(200));
        for (who, _) in std::mem::take(&mut net.started) {
            rest(&mut net, who, true);
            let now = net.now;
            net.engines[who].handle(now, Input::HandBackAll);
        }
    }
    net.run(Duration::from_secs(600));
    let mut late = restarted(&net, 11, |record| record.kind() != Kind::HandBack && record.kind() != Kind::Renewal);
    starts(&net, &mut late);
    net.now = net.now + Duration::from_secs(1);
    late.handle_timeout(net.now);
    assert_ne!(late.job(&batch, JobIndex(0)).unwrap().state, JobState::Failed);
}
