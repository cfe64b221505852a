//! For how long a slot is held, and by what it is lost.

use super::lease::SlotState;
use super::*;

const TTL: u64 = 180;

/// One slot, one result.
fn single() -> Policy {
    Policy { quorum: 1, slots: 1, ..Policy::small() }
}

fn one_job() -> Graph {
    Graph { jobs: vec![job("zlib", &[])] }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Tells all engines that run what `who` signs now.
fn say(net: &mut Net, who: usize, payload: Payload) {
    let key = node_key(u8::try_from(who).unwrap());
    let record = Record::author(&key, NETWORK, u64::MAX / 2 + net.now.0, net.now, Timestamp::MAX, payload).unwrap();
    let now = net.now;
    for engine in &mut net.engines {
        engine.receive(now, &record);
    }
    net.deliver();
}

/// A sign of life of a build that always moves, renewed a minute ago.
fn renewal(net: &Net, lease: LeaseRef) -> Payload {
    let at = net.now;
    let progress = LeaseProgress { lease, log_bytes: at.0, cpu_ms: at.0, moved: at, before: Timestamp(at.0 - 60_000) };
    Payload::Renewal(Renewal { leases: vec![progress].try_into().unwrap() })
}

/// A member that renews and moves, and never ends, kept the slot for ever.
#[test]
fn lease_that_is_renewed_for_ever_goes_to_another_once_a_build_would_have_ended() {
    let mut net = Net::new(4, single(), one_job());
    net.submit();
    net.run(seconds(1));
    let (who, order) = net.started.remove(0);
    net.dead.insert(who);
    // Eight times the ten minutes that the job may take, and six hours.
    let limit = 8 * 600 + 6 * 3600;
    let claimed = net.now;
    while net.now < claimed + seconds(limit - 120) {
        let beat = renewal(&net, order.lease);
        say(&mut net, who, beat);
        net.run(seconds(60));
    }
    assert!(net.started.is_empty());
    for _ in 0..4 {
        let beat = renewal(&net, order.lease);
        say(&mut net, who, beat);
        net.run(seconds(60));
    }
    let taken: Vec<LeaseRef> = net.started.iter().map(|(_, order)| order.lease).collect();
    assert_eq!(taken, [LeaseRef { epoch: 2, ..order.lease }]);
}

/// A Renewal that came after the lease had lapsed took it back from who had claimed the slot since.
#[test]
fn renewal_of_a_lease_that_had_lapsed_has_no_effect() {
    let mut net = Net::new(4, single(), one_job());
    for engine in 1..4 {
        let now = net.now;
        net.engines[engine].handle(now, Input::Lend(Lend { builds: false, ..lend() }));
    }
    let batch = net.submit();
    let action = net.job(0, &batch, 0).action.unwrap();
    let lease = LeaseRef { action, slot: SlotNo(0), epoch: 1 };
    let start = net.now;
    let record = |node: u8, second: u64, payload| {
        let at = start + seconds(second);
        Record::author(&node_key(node), NETWORK, at.0, at, Timestamp::MAX, payload).unwrap()
    };
    let claim = record(1, 0, Payload::Claim(Claim { lease, batch, follows: ClaimTag::default() }));
    let follows = ClaimTag::of(&claim.id());
    let taken = record(2, 190, Payload::Claim(Claim { lease: LeaseRef { epoch: 2, ..lease }, batch, follows }));
    for (before, holder) in [(120, 1), (0, 2)] {
        let progress = LeaseProgress { lease, log_bytes: 1, cpu_ms: 1, moved: start + seconds(195), before: start + seconds(before) };
        let renewed = record(1, 195, Payload::Renewal(Renewal { leases: vec![progress].try_into().unwrap() }));
        let heard = [&claim, &taken, &renewed];
        for turn in 0..3 {
            let config = Config { key: node_key(9), facts: facts(), programs: BTreeSet::new(), lend: Lend { builds: false, ..lend() } };
            let mut engine = Engine::new(net.engines[0].params.clone(), config, [9; 32], net.now);
            let known: Vec<SharedRecord> = net.engines[0].board.records().cloned().collect();
            for record in &known {
                engine.receive(net.now, record);
            }
            while let Some(output) = engine.poll_output() {
                if let Output::Fetch { want, .. } = output {
                    engine.handle(net.now, Input::Fetched { want, bytes: net.graph.to_bytes().into() });
                }
            }
            for at in 0..3 {
                engine.receive(start + seconds(200), heard[(at + turn) % 3]);
            }
            let place = engine.board.action(&action).unwrap();
            let node = engine.slots_of(place)[0].1.tenure().map(|tenure| tenure.node);
            assert_eq!(node, Some(node_key(holder).node()), "renewed before at {before}");
        }
    }
}

/// A machine that slept through its lease does not renew it when it wakes: others saw it lapse.
#[test]
fn node_that_slept_through_its_lease_gives_the_build_up() {
    let mut net = Net::new(2, single(), one_job());
    net.submit();
    net.run(seconds(100));
    let lease = net.started[0].1.lease;
    net.dead.insert(1);
    net.run(seconds(2 * TTL));
    net.dead.remove(&1);
    net.run(seconds(1));
    assert!(net.engines[1].own_leases().is_empty() && net.started.is_empty());
    // Nobody else is there, so that it begins anew when it has sat out.
    net.run(seconds(2 * TTL));
    assert_eq!(net.engines[1].own_leases(), [LeaseRef { epoch: 2, ..lease }]);
}

/// Who has committed and does not open it put off the end of its time by renewing the lease.
#[test]
fn withheld_result_is_built_by_another_however_often_its_lease_is_renewed() {
    let mut net = Net::new(5, Policy::small(), one_job());
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    let (who, order) = net.started.remove(0);
    net.dead.insert(who);
    let commitment = Commitment { lease: order.lease, commitment: [9; 32], says: Says::Word, renewed_ago_ms: 0 };
    say(&mut net, who, Payload::Commitment(commitment));
    // The quorum is complete only much later: until then there is nothing to withhold.
    net.run(seconds(4 * TTL));
    assert_eq!(net.started.len(), 1, "only the other one builds");
    net.finish_builds();
    for _ in 0..8 {
        let beat = renewal(&net, order.lease);
        say(&mut net, who, beat);
        net.run(seconds(60));
    }
    assert!(net.started.is_empty(), "it has three times as long as a lease lasts");
    for _ in 0..2 {
        let beat = renewal(&net, order.lease);
        say(&mut net, who, beat);
        net.run(seconds(60));
    }
    assert_eq!(net.started.len(), 1, "another one builds it");
    net.finish_builds();
    assert_eq!(net.job(0, &batch, 0).state, JobState::CrossVerified);
}

/// A slot is held under the jobs that were asked for when it was claimed: a batch that comes later, and gives the same job
/// more time, takes it from nobody who followed.
#[test]
fn batch_that_comes_later_gives_no_lapsed_lease_back() {
    let mut net = Net::new(4, single(), one_job());
    let batch = net.submit();
    net.run(seconds(1));
    let (who, order) = net.started.remove(0);
    net.dead.insert(who);
    let claimed = net.now;
    while net.now < claimed + seconds(8 * 600 + 6 * 3600 + 60) {
        let beat = renewal(&net, order.lease);
        say(&mut net, who, beat);
        net.run(seconds(60));
    }
    let taken = LeaseRef { epoch: 2, ..order.lease };
    assert!(net.started.iter().any(|(_, order)| order.lease == taken));
    net.graph.jobs[0].limits.wall = seconds(24 * 3600);
    let bytes = net.graph.to_bytes();
    let longer = Batch {
        graph: BlobHash::of(&bytes),
        graph_length: bytes.len() as u64,
        name: BoundedString::cut("longer"),
        ..net.engines[0].batches[&batch].batch().clone()
    };
    net.engines[0].handle(net.now, Input::Author(Payload::Batch(longer.into()), DAY));
    net.run(seconds(60));
    let place = net.engines[0].board.action(&order.lease.action).unwrap();
    let slots = net.engines[0].slots_of(place);
    assert!(matches!(&slots[0].1, SlotState::Held(tenure) if tenure.epoch == 2), "{slots:?}");
    assert!(net.started.iter().any(|(_, order)| order.lease == taken), "it was stopped");
}
