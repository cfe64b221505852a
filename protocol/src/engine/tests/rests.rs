//! Builders whose machine is at fault.

use super::*;

/// Three jobs that failed on one machine and nowhere else are the machine's fault: it rests, the others go on, and after
/// the rest it tries again.
#[test]
fn builder_that_fails_where_others_succeed_rests_and_comes_back() {
    let jobs = (0..12).map(|number| job(&format!("job {number}"), &[])).collect();
    let mut net = Net::new(5, Policy::small(), Graph { jobs });
    net.spoils.insert(2);
    let batch = net.submit();
    net.work();
    let until = net.engines[2].resting_until().expect("it should rest");
    assert!((0..5).filter(|who| *who != 2).all(|who| net.engines[who].resting_until().is_none()));
    assert_eq!(net.engines[0].batch_result(&batch), Some(true));
    let heard = net.engines[0].board.presences().find(|(node, ..)| *node == node_key(2).node()).map(|(_, _, said)| said.accepting);
    assert_eq!(heard, Some(false), "others must know that it takes nothing");

    net.spoils.clear();
    net.run(until.since(net.now) + Duration::from_secs(1));
    assert_eq!(net.engines[2].resting_until(), None);
    let proofs: Vec<_> = net.started.iter().map(|(who, order)| (*who, order.lease.slot)).collect();
    assert_eq!(proofs, [(2, crate::blame::PROOF_SLOT)], "it proves itself on what others have built");
    let said = |net: &Net| net.engines[0].board.records().filter(|record| !record.kind().latest_only()).count();
    let before = said(&net);
    net.finish_builds();
    assert_eq!((net.engines[2].proving(), net.engines[2].resting_until()), (None, None));
    assert_eq!(said(&net), before, "nobody hears of the proof");
    for who in [1, 3, 4] {
        net.dead.insert(who);
    }
    net.graph = Graph { jobs: vec![job("another", &[])] };
    let bytes = net.graph.to_bytes();
    let batch = Batch { graph: BlobHash::of(&bytes), name: BoundedString::cut("another"), ..net_batch(&net) };
    net.engines[0].handle(net.now, Input::Author(Payload::Batch(batch.into()), DAY));
    net.run(Duration::from_secs(600));
    assert_eq!(net.started.iter().map(|(who, _)| *who).collect::<Vec<_>>(), [2]);
}

/// A network in which engine 2 rests after three jobs that it failed at, and its rest is over.
fn rested(jobs: Graph) -> (Net, BatchId) {
    let mut net = Net::new(5, Policy::small(), jobs);
    net.spoils.insert(2);
    let batch = net.submit();
    net.work();
    let until = net.engines[2].resting_until().expect("it should rest");
    net.run(until.since(net.now) + Duration::from_secs(1));
    (net, batch)
}

fn twelve_jobs() -> Graph {
    Graph { jobs: (0..12).map(|number| job(&format!("job {number}"), &[])).collect() }
}

/// Who can't build what is known rests again, twice as long. Verdicts on what it had built before the rest once made the
/// rest longer.
#[test]
fn builder_that_fails_at_known_work_rests_twice_as_long() {
    let (mut net, _) = rested(twelve_jobs());
    assert!(net.engines[2].proving().is_some());
    let now = net.now;
    net.finish_builds();
    let until = net.engines[2].resting_until().expect("it should rest again");
    assert_eq!(until.since(now), Duration::from_secs(2 * 3600));
    assert!(net.engines.iter().all(|engine| engine.proving().is_none()));
}

/// Without known work it goes on, and the first job that fails here and nowhere else sends it to rest.
#[test]
fn builder_without_known_work_returns_on_probation() {
    let (mut net, batch) = rested(twelve_jobs());
    net.engines[0].handle(net.now, Input::Author(Payload::Cancel(Cancel { batch }), DAY));
    net.deliver();
    // What runs is ended, and no more of it is known: inputs that can't be had count as work that could not be tried.
    net.makes = |who, _| (who == 2).then(|| Outcome::Failure { class: FailureClass::Fetch, stage: BoundedString::cut("inputs") });
    for _ in 0..3 {
        net.finish_builds();
        net.run(Duration::from_secs(1));
    }
    assert_eq!((net.engines[2].proving(), net.engines[2].resting_until()), (None, None));
    net.makes = |_, _| None;
    let graph = Graph { jobs: (0..4).map(|number| job(&format!("more {number}"), &[])).collect() };
    let bytes = graph.to_bytes();
    net.graph = graph;
    let more = Batch { graph: BlobHash::of(&bytes), jobs: 4, name: BoundedString::cut("more"), ..net_batch(&net) };
    net.engines[0].handle(net.now, Input::Author(Payload::Batch(more.into()), DAY));
    net.work();
    assert!(net.engines[2].resting_until().is_some(), "one job is enough");
}

/// The owner takes the machine in the middle of the proof, and gives it again: the proof is begun anew.
#[test]
fn proof_that_the_owner_interrupted_is_begun_anew() {
    let (mut net, _) = rested(twelve_jobs());
    let now = net.now;
    net.engines[2].handle(now, Input::Lend(Lend { builds: false, ..lend() }));
    net.engines[2].handle(now, Input::HandBackAll);
    net.run(Duration::from_secs(60));
    assert!(net.started.is_empty() && net.engines[2].proving().is_none());
    let now = net.now;
    net.engines[2].handle(now, Input::Lend(lend()));
    net.run(Duration::from_secs(1));
    assert!(net.engines[2].proving().is_some());
    assert_eq!(net.engines[2].in_use(), Capacity { cores: 1, memory: 1 << 30 });
}

/// A job that fails everywhere says nothing of any machine.
#[test]
fn builder_does_not_rest_for_jobs_that_fail_everywhere() {
    let jobs = (0..12).map(|number| job(&format!("job {number}"), &[])).collect();
    let mut net = Net::new(4, Policy::small(), Graph { jobs });
    net.fails = true;
    let batch = net.submit();
    net.work();
    assert_eq!(net.engines[0].batch_result(&batch), Some(false));
    assert!(net.engines.iter().all(|engine| engine.resting_until().is_none()));
}
