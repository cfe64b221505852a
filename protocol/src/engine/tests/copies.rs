//! Who has others' results opened by a commitment to nothing, and copies them, gains nothing by it.

use super::*;

fn say(net: &mut Net, by: u8, payload: Payload) {
    let sequence = net.now.0 + 1_000_000;
    let record = Record::author(&node_key(by), NETWORK, sequence, net.now, Timestamp::MAX, payload).unwrap();
    for engine in &mut net.engines {
        engine.receive(net.now, &record);
    }
    net.deliver();
}

/// Five builders, one of which is no engine but says what it likes, and a job of which one honest builder has a result.
fn one_result() -> (Net, BatchId, LeaseRef, u8) {
    let mut net = Net::new(6, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    assert_eq!(net.started.len(), 2);
    let (liar, order) = net.started.pop().unwrap();
    net.dead.insert(liar);
    net.finish_builds();
    assert_eq!(net.engines[0].board.of_kind(Kind::Reveal).count(), 0);
    (net, batch, order.lease, u8::try_from(liar).unwrap())
}

fn commit_to(lease: LeaseRef, outcome: &Outcome, by: u8) -> Payload {
    let commitment = outcome.commitment(None, &operator_key(by).operator(), &[5; 32]);
    Payload::Commitment(Commitment { lease, commitment, says: Says::of(outcome, lease.slot), renewed_ago_ms: 0 })
}

#[test]
fn who_commits_to_nothing_and_then_copies_has_no_vote_and_the_job_goes_on() {
    let (mut net, batch, lease, liar) = one_result();
    let who = operator_key(liar).operator();
    say(&mut net, liar, commit_to(lease, &Outcome::Success { tree: BlobHash([66; 32]) }, liar));
    let opened = net.engines[0].board.of_kind(Kind::Reveal).next().cloned().expect("the honest one opens");
    let Payload::Reveal(opened) = opened.payload() else { unreachable!() };
    net.run(Duration::from_secs(1));
    let copy = Reveal { lease: LeaseRef { epoch: 7, ..lease }, salt: [5; 32], ..(**opened).clone() };
    say(&mut net, liar, commit_to(copy.lease, &copy.outcome, liar));
    say(&mut net, liar, Payload::Reveal(copy.into()));
    for engine in (0..6).filter(|n| !net.dead.contains(n)).map(|n| &net.engines[n]) {
        let verdict = engine.job(&batch, JobIndex(0)).unwrap().verdict.unwrap();
        assert_eq!((verdict.state, verdict.agreeing.contains(&who)), (VerdictState::Candidate, false));
    }
    net.work();
    net.work();
    let verdict = net.job(0, &batch, 0).verdict.unwrap();
    assert_eq!((verdict.state, verdict.agreeing.contains(&who)), (VerdictState::CrossVerified, false));
}

/// Its word that the machine was too small, opened at once, once opened the other's result too.
#[test]
fn word_that_the_machine_was_too_small_opens_nobodys_result_once_it_is_open() {
    let mut net = Net::new(6, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    let (liar, order) = net.started.pop().unwrap();
    net.dead.insert(liar);
    let liar = u8::try_from(liar).unwrap();
    let outcome = Outcome::Failure { class: FailureClass::OutOfMemory, stage: BoundedString::cut("build") };
    say(&mut net, liar, commit_to(order.lease, &outcome, liar));
    let reveal = Reveal { lease: order.lease, outcome, again: None, salt: [5; 32], particulars: particulars() };
    say(&mut net, liar, Payload::Reveal(reveal.into()));
    net.finish_builds();
    assert_eq!(net.engines[0].board.of_kind(Kind::Reveal).count(), 1, "the honest one keeps its own");
    // And somebody else is asked.
    net.work();
    net.work();
    assert_eq!(net.job(0, &batch, 0).state, JobState::CrossVerified);
}
