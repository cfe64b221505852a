//! Results that differ: who is asked to settle it, and what the two builds of an arbiter say.

use super::*;

/// One of four lies: no majority decides, a trusted operator who attested nothing does, and the liar is named.
#[test]
fn liar_is_named_by_the_arbiter_and_the_batch_goes_on() {
    let policy = Policy { slots: 4, inputs: crate::policy::Standard::CrossVerified, ..Policy::small() };
    let mut net = Net::new(6, policy, chain());
    let lend = Lend { arbiter_only: true, ..lend() };
    net.engines[5].handle(START, Input::Lend(lend));
    net.lies.insert(2);
    let batch = net.submit();
    net.work();
    assert_eq!(net.engines[0].batch_result(&batch), Some(true));
    let verdict = net.job(0, &batch, 0).verdict.unwrap();
    assert_eq!(verdict.wrong, BTreeSet::from([operator_key(2).operator()]));
    assert_eq!(verdict.arbiter, Some(operator_key(5).operator()));
}

/// A network in which engines 1 and 2 vote, 2 lies, and `arbiters` wait for disputes.
fn with_dispute(count: u8, graph: Graph, arbiters: &[usize]) -> Net {
    let policy = Policy { inputs: crate::policy::Standard::CrossVerified, ..Policy::small() };
    let mut net = Net::new(count, policy, graph);
    for engine in 3..usize::from(count) {
        let lend = Lend { arbiter_only: true, builds: arbiters.contains(&engine), ..lend() };
        net.engines[engine].handle(net.now, Input::Lend(lend));
    }
    net.run(Duration::from_secs(1));
    net.lies.insert(2);
    net
}

#[test]
fn only_who_settles_a_dispute_builds_twice() {
    let mut net = with_dispute(4, Graph { jobs: vec![job("zlib", &[])] }, &[3]);
    net.submit();
    net.run(Duration::from_secs(1));
    let asked: Vec<_> = net.started.iter().map(|(who, order)| (*who, order.twice)).collect();
    assert!(asked.len() == 2 && asked.iter().all(|(who, twice)| *who != 3 && !twice), "{asked:?}");
    net.finish_builds();
    net.run(Duration::from_secs(1));
    let asked: Vec<_> = net.started.iter().map(|(who, order)| (*who, order.twice)).collect();
    assert_eq!(asked, [(3, true)]);
    net.finish_builds();
    let second = net.job(0, &net.engines[0].batches()[0].id, 0).attestations.into_iter().find_map(|attestation| attestation.again);
    assert!(matches!(second, Some(Outcome::Success { .. })));
}

/// The arbiter's own builds differ: the job fails and says why, what needs it fails, nobody is wrong, and nothing more is
/// built, also not after a retry.
#[test]
fn job_that_is_not_deterministic_fails_and_nobody_is_wrong() {
    let mut net = with_dispute(5, chain(), &[3, 4]);
    net.again = Again::Unlike;
    let batch = net.submit();
    net.work();
    for engine in 0..5 {
        assert_eq!(net.engines[engine].batch_result(&batch), Some(false), "engine {engine}");
        let job = net.job(engine, &batch, 0);
        assert_eq!(job.state, JobState::Failed);
        assert!(job.why.contains("not deterministic"), "{}", job.why);
        let verdict = job.verdict.unwrap();
        assert_eq!((verdict.state, verdict.wrong.len()), (VerdictState::NotDeterministic, 0));
        assert_eq!(net.job(engine, &batch, 2).state, JobState::Failed);
    }
    let reveals = net.engines[0].board.of_kind(Kind::Reveal).count();
    assert_eq!(reveals, 3, "two voters and one arbiter");
    let actions = net.engines[0].failed_actions(&batch).try_into().unwrap();
    net.engines[0].handle(net.now, Input::Author(Payload::Retry(Retry { batch, actions }), DAY));
    net.work();
    assert_eq!(net.engines[0].board.of_kind(Kind::Reveal).count(), reveals);
}

/// An arbiter's second build that its machine spoiled settles nothing; another arbiter is asked.
#[test]
fn spoiled_second_build_leaves_the_dispute_to_another_arbiter() {
    let mut net = with_dispute(5, Graph { jobs: vec![job("zlib", &[])] }, &[3, 4]);
    let batch = net.submit();
    net.run(Duration::from_secs(1));
    net.finish_builds();
    net.run(Duration::from_secs(1));
    let first = net.started[0].0;
    net.again = Again::Lost(first);
    net.work();
    let verdict = net.job(0, &batch, 0).verdict.unwrap();
    let other = if first == 3 { 4 } else { 3 };
    assert_eq!((verdict.state, verdict.arbiter), (VerdictState::CrossVerified, Some(operator_key(other).operator())));
    assert_eq!(verdict.wrong, BTreeSet::from([operator_key(2).operator()]));
}

/// A trusted operator whose branch attested is no arbiter; it once claimed the slot that it may not hold, again and again.
#[test]
fn trusted_operator_of_a_branch_that_attested_does_not_settle_the_dispute() {
    let mut net = with_dispute(4, Graph { jobs: vec![job("zlib", &[])] }, &[3]);
    let id = |n| operator_key(n).operator();
    let mut grants = Grants::of_founders([id(0), id(1)]);
    grants.trusted.insert(id(3));
    let policy = net.engines[0].params.policy.clone();
    for engine in &mut net.engines {
        engine.set_charter(net.now, grants.clone(), policy.clone());
    }
    let until = Timestamp::MAX;
    let invite = |guest| Payload::Invitation(Invitation { invitee: Invitee::Operator(id(guest)), until });
    let takes_part = || Payload::OperatorCertificate(OperatorCertificate { bearer: None }.into());
    for (by, says) in [(0, invite(2)), (2, invite(3)), (2, takes_part()), (3, takes_part())] {
        let record = Record::author(&operator_key(by), NETWORK, 2, net.now, until, says).unwrap();
        for engine in &mut net.engines {
            engine.receive(net.now, &record);
        }
    }
    let branch = net.engines[0].members().branch_of(&id(3));
    assert!(branch.is_some() && branch == net.engines[0].members().branch_of(&id(2)));
    let batch = net.submit();
    net.work();
    let job = net.job(0, &batch, 0);
    assert_eq!(job.state, JobState::Disputed, "{}", job.why);
    assert_eq!(net.engines[0].board.of_kind(Kind::Claim).count(), 2);
}
