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
