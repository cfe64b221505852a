//! What a failure counts, and where and how often a job is tried again.

use super::*;
use crate::blame::{POISON_SILENT, TRIES_MAX, is_larger};

fn one_job() -> Graph {
    Graph { jobs: vec![job("zlib", &[])] }
}

fn failure(class: FailureClass) -> Outcome {
    Outcome::Failure { class, stage: BoundedString::cut("build") }
}

/// Machines with as many GiB as `memory` says, from engine 1 on.
fn machines(memory: &[u64], graph: Graph) -> Net {
    let mut net = Net::new(u8::try_from(memory.len()).unwrap() + 1, Policy::small(), graph);
    for (at, gib) in memory.iter().enumerate() {
        grow(&mut net, at + 1, *gib);
    }
    net.run(Duration::from_secs(1));
    // The job takes one and a half GiB, and its recipe allows one.
    net.makes = |_, order| (order.limits.memory < 3 << 29).then(|| failure(FailureClass::OutOfMemory));
    net
}

fn grow(net: &mut Net, who: usize, gib: u64) {
    let now = net.now;
    net.engines[who].handle(now, Input::Lend(Lend { memory: gib << 30, ..lend() }));
    net.engines[who].handle(now, Input::Capacity(Capacity { cores: 1, memory: gib << 30 }));
}

fn larger_orders(net: &Net) -> Vec<(usize, u64)> {
    let larger = net.started.iter().filter(|(_, order)| is_larger(order.lease.slot));
    larger.map(|(who, order)| (*who, order.limits.memory >> 30)).collect()
}

/// Whoever the small machines were, and though the large ones may have been among those that found it too large.
#[test]
fn job_that_wants_more_memory_is_tried_on_a_larger_machine_and_verified_by_others() {
    let mut net = machines(&[1, 1, 1, 2, 2], one_job());
    let batch = net.submit();
    net.run(Duration::from_secs(1));
    net.finish_builds();
    net.run(Duration::from_secs(1));
    let asked = larger_orders(&net);
    assert!(asked.len() == 1 && asked[0].0 > 3 && asked[0].1 == 2, "{asked:?}");
    for engine in 0..6 {
        assert_eq!(net.engines[engine].batch_result(&batch), None, "it may yet succeed");
        assert_eq!(net.job(engine, &batch, 0).state, JobState::Building);
        assert!(net.job(engine, &batch, 0).why.contains("out of memory"), "{}", net.job(engine, &batch, 0).why);
    }
    net.work();
    for engine in 0..6 {
        let job = net.job(engine, &batch, 0);
        assert_eq!((job.state, job.verdict.unwrap().wrong.len()), (JobState::CrossVerified, 0), "{}", job.why);
        assert!(net.engines[engine].resting_until().is_none());
    }
}

/// The failure stands, and says so; a larger machine that comes later tries it all the same.
#[test]
fn failure_for_lack_of_memory_stands_while_no_larger_machine_is_present() {
    let mut net = machines(&[1, 1, 1], one_job());
    let batch = net.submit();
    net.work();
    let job = net.job(1, &batch, 0);
    assert_eq!((job.state, net.engines[1].batch_result(&batch)), (JobState::Failed, Some(false)));
    assert!(job.why.contains("no larger machine is present: 2048 MiB"), "{}", job.why);
    assert_eq!(job.attestations.len(), 2, "nobody tries it again on as small a machine");
    grow(&mut net, 1, 2);
    grow(&mut net, 2, 4);
    net.work();
    assert_eq!(net.job(0, &batch, 0).state, JobState::CrossVerified, "{}", net.job(0, &batch, 0).why);
    assert_eq!(net.engines[0].batch_result(&batch), Some(true));
}

/// Once: what two GiB are not enough for fails for good.
#[test]
fn job_that_is_too_large_for_the_larger_machine_fails() {
    let mut net = machines(&[1, 1, 2, 2], one_job());
    net.makes = |_, _| Some(failure(FailureClass::OutOfMemory));
    let batch = net.submit();
    net.work();
    let job = net.job(0, &batch, 0);
    assert_eq!((job.state, job.attestations.len()), (JobState::Failed, 3));
    assert_eq!(net.engines[0].batch_result(&batch), Some(false));
}

fn lost(who: usize, _: &BuildOrder) -> Option<Outcome> {
    (who < 9).then(|| failure(FailureClass::Lost))
}

#[test]
fn poison_job_is_handed_out_no_more_until_a_retry() {
    let mut net = Net::new(6, Policy::small(), one_job());
    net.makes = lost;
    let batch = net.submit();
    net.work();
    let job = net.job(3, &batch, 0);
    assert_eq!((job.state, job.attestations.len()), (JobState::Failed, 2));
    assert!(job.why.starts_with("poison: 2 operators lost their machine in build"), "{}", job.why);
    net.makes = |_, _| None;
    let actions = net.engines[0].failed_actions(&batch).try_into().unwrap();
    net.engines[0].handle(net.now, Input::Author(Payload::Retry(Retry { batch, actions }), DAY));
    net.work();
    assert_eq!(net.engines[0].batch_result(&batch), Some(true));
}

/// A machine that died with a build says so when it is up again, and somebody else gets the job at once.
#[test]
fn builder_that_died_says_that_it_was_lost() {
    let policy = Policy { quorum: 1, slots: 1, ..Policy::small() };
    let mut net = Net::new(4, policy, one_job());
    let batch = net.submit();
    net.run(Duration::from_secs(1));
    let who = net.started[0].0;
    net.started.clear();
    let key = node_key(u8::try_from(who).unwrap());
    let config = Config { key, facts: facts(), programs: BTreeSet::new(), lend: Lend { builds: false, ..lend() } };
    let mut again = Engine::new(net.engines[0].params.clone(), config, [9; 32], net.now);
    for record in net.engines[who].board.records() {
        again.receive(net.now, record);
    }
    for ((_, _), result) in net.kept.iter().filter(|((of, _), _)| *of == who) {
        again.handle(net.now, Input::Restore(result.clone()));
    }
    again.hand_back_lost(net.now);
    again.handle(net.now, Input::Synced);
    net.engines[who] = again;
    net.run(Duration::from_secs(1));
    let words = net.job(0, &batch, 0).attestations;
    assert_eq!(words.iter().map(|word| word.outcome.clone()).collect::<Vec<_>>(), [Some(failure(FailureClass::Lost))]);
    assert!(net.started.iter().any(|(other, _)| *other != who), "another one has it");
    net.finish_builds();
    assert_eq!(net.engines[0].batch_result(&batch), Some(true));
}

/// Nothing is kept of a lease that ended otherwise: a clean stop loses nothing.
#[test]
fn builder_that_stops_in_good_order_was_not_lost() {
    let mut net = Net::new(4, Policy::small(), one_job());
    net.submit();
    net.run(Duration::from_secs(1));
    let who = net.started[0].0;
    assert!(net.kept.keys().any(|(of, _)| *of == who));
    let now = net.now;
    net.engines[who].handle(now, Input::Leave);
    net.deliver();
    assert!(!net.kept.keys().any(|(of, _)| *of == who));
}

/// Machines that never come back say nothing, so it takes more of them.
#[test]
fn job_that_builder_after_builder_falls_silent_over_is_poison() {
    let mut net = Net::new(12, Policy::small(), one_job());
    let batch = net.submit();
    for _ in 0..10 {
        net.run(Duration::from_secs(60));
        for (who, _) in std::mem::take(&mut net.started) {
            net.dead.insert(who);
        }
    }
    net.run(Duration::from_secs(600));
    assert!(net.dead.len() >= POISON_SILENT && net.dead.len() <= POISON_SILENT + 1, "{:?}", net.dead);
    let job = net.job(0, &batch, 0);
    assert_eq!((job.state, net.engines[0].batch_result(&batch)), (JobState::Failed, Some(false)));
    assert!(job.why.contains("fell silent"), "{}", job.why);
    // One of them was only cut off, and has built it.
    let back = *net.dead.first().unwrap();
    net.dead.remove(&back);
    let lease = net.engines[back].own_leases().first().copied();
    let lease = lease.unwrap_or_else(|| {
        net.engines[back]
            .board
            .of_kind(Kind::Claim)
            .find_map(|record| match record.payload() {
                Payload::Claim(claim) if record.author_key() == node_key(u8::try_from(back).unwrap()).node().0 => Some(claim.lease),
                _ => None,
            })
            .unwrap()
    });
    let said = Payload::Commitment(Commitment { lease, commitment: [1; 32], says: Says::Word, renewed_ago_ms: 0 });
    let record = Record::author(&node_key(u8::try_from(back).unwrap()), NETWORK, u64::MAX, net.now, net.now + DAY, said).unwrap();
    let now = net.now;
    for engine in &mut net.engines {
        engine.receive(now, &record);
    }
    net.run(Duration::from_secs(400));
    assert_ne!(net.job(0, &batch, 0).state, JobState::Failed, "{}", net.job(0, &batch, 0).why);
}

/// What machines spoil does not count against the job, and whoever spoilt it may try again, so often and not more.
#[test]
fn spoilt_builds_are_done_again_by_the_same_builders_within_bounds() {
    let mut net = Net::new(3, Policy::small(), one_job());
    net.makes = |who, order| (who == 1 && order.lease.slot.0 < 3).then(|| failure(FailureClass::Sandbox));
    let batch = net.submit();
    net.work();
    assert_eq!(net.engines[0].batch_result(&batch), Some(true));
    let mut net = Net::new(3, Policy::small(), one_job());
    net.makes = |_, _| Some(failure(FailureClass::Upload));
    let batch = net.submit();
    net.work();
    net.work();
    let job = net.job(0, &batch, 0);
    assert_eq!((job.state, job.attestations.len()), (JobState::Ready, 2 * TRIES_MAX));
    assert!(job.why.contains("6 of 64 tries spoilt by machines"), "{}", job.why);
}

/// An arbiter whose machine spoilt the build may try again: with one arbiter the dispute once stayed for ever.
#[test]
fn only_arbiter_tries_again_what_its_machine_spoilt() {
    let policy = Policy { inputs: crate::policy::Standard::CrossVerified, ..Policy::small() };
    let mut net = Net::new(4, policy, one_job());
    net.engines[3].handle(START, Input::Lend(Lend { arbiter_only: true, ..lend() }));
    net.lies.insert(2);
    net.makes = |_, order| (order.lease.slot == SlotNo::ARBITER).then(|| failure(FailureClass::Sandbox));
    let batch = net.submit();
    net.work();
    assert_eq!(net.job(0, &batch, 0).state, JobState::CrossVerified, "{}", net.job(0, &batch, 0).why);
}

/// A build that stands still is ended by its own node, which says what came of it.
#[test]
fn own_build_that_stands_still_is_ended() {
    let mut net = Net::new(4, Policy::small(), one_job());
    let batch = net.submit();
    net.run(Duration::from_secs(1));
    for (who, order) in net.started.clone() {
        let input = Input::Progress { lease: order.lease, log_bytes: 10, cpu_ms: 10 };
        net.engines[who].handle(net.now, input);
    }
    net.run(Duration::from_secs(4 * 600 - 10));
    assert_eq!(net.started.len(), 2);
    net.run(Duration::from_secs(100));
    let job = net.job(0, &batch, 0);
    assert_eq!((job.state, job.attestations.len()), (JobState::Failed, 2), "{}", job.why);
    assert!(job.why.contains("no progress"), "{}", job.why);
    assert!(net.started.is_empty());
}

/// A node that beats for ever and never ends its build loses the lease: all see that it stands still.
#[test]
fn hung_build_that_still_beats_loses_its_lease() {
    let policy = Policy { quorum: 1, slots: 1, ..Policy::small() };
    let mut net = Net::new(4, policy, one_job());
    net.submit();
    net.run(Duration::from_secs(1));
    let (who, order) = net.started.remove(0);
    net.dead.insert(who);
    let moved = net.now;
    let mut taken = None;
    for minute in 0..60 {
        let leases = vec![LeaseProgress { lease: order.lease, log_bytes: 10, cpu_ms: 10, moved, before: net.now }].try_into().unwrap();
        let (key, beat) = (node_key(u8::try_from(who).unwrap()), Payload::Renewal(Renewal { leases }));
        let record = Record::author(&key, NETWORK, u64::MAX - 100 + minute, net.now, net.now + Duration::from_secs(540), beat).unwrap();
        let now = net.now;
        for engine in &mut net.engines {
            engine.receive(now, &record);
        }
        net.run(Duration::from_secs(60));
        if !net.started.is_empty() {
            taken = taken.or(Some(minute));
        }
    }
    // Four times the ten minutes that the job may be silent, and the time of a lease.
    assert!(taken.is_some_and(|minute| (42..=44).contains(&minute)), "{taken:?}");
}

/// Everything that a network said in which jobs are too large, kill machines, are spoilt and fail.
fn bad_day() -> (Net, Vec<SharedRecord>) {
    let graph = Graph { jobs: ["large", "killer", "spoilt", "sound", "broken"].iter().map(|name| job(name, &[])).collect() };
    let mut net = machines(&[1, 1, 2, 2, 1], graph);
    net.makes = |who, order| match order.label.as_str() {
        "large" => (order.limits.memory < 3 << 29).then(|| failure(FailureClass::OutOfMemory)),
        "killer" => Some(failure(FailureClass::Lost)),
        "spoilt" => (order.lease.slot.0 < 2).then(|| failure(FailureClass::Upload)),
        "broken" => (who != 4).then(|| failure(FailureClass::Build)),
        _ => None,
    };
    net.submit();
    net.work();
    let records = net.engines[0].board.records().cloned().collect();
    (net, records)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Who is blamed, and what is tried again where, does not depend on the order in which a node hears of it.
    #[test]
    fn any_order_of_arrival_gives_the_same_blame(keys in proptest::collection::vec(any::<u32>(), 400)) {
        let (net, records) = bad_day();
        let straight: Vec<usize> = (0..records.len()).collect();
        let first = hear(&net, &records, &straight);
        prop_assert_eq!(&first, &hear(&net, &records, &shuffled(&records, &keys)));
        prop_assert_eq!(&first, &conclusions(&net.engines[0]));
    }
}

/// The same day, and what it comes to.
#[test]
fn bad_day_ends_with_the_jobs_that_can_be_built() {
    let (net, _) = bad_day();
    let batch = net.engines[0].batches()[0].id;
    let states: Vec<JobState> = (0..4).map(|index| net.job(0, &batch, index).state).collect();
    assert_eq!(states, [JobState::CrossVerified, JobState::Failed, JobState::CrossVerified, JobState::CrossVerified]);
}

/// Where nobody else is there to ask, a node that died says at once what became of its build, and goes on.
#[test]
fn only_builder_goes_on_after_it_died() {
    let policy = Policy { quorum: 1, slots: 1, ..Policy::small() };
    let mut net = Net::new(2, policy, one_job());
    let batch = net.submit();
    net.run(Duration::from_secs(1));
    let lend = Lend { cores: 1, ..lend() };
    let config = Config { key: node_key(1), facts: facts(), programs: BTreeSet::new(), lend };
    let mut again = Engine::new(net.engines[0].params.clone(), config, [9; 32], net.now);
    for record in net.engines[1].board.records() {
        again.receive(net.now, record);
    }
    for ((_, _), result) in net.kept.iter().filter(|((of, _), _)| *of == 1) {
        again.handle(net.now, Input::Restore(result.clone()));
    }
    again.hand_back_lost(net.now);
    again.handle(net.now, Input::Capacity(Capacity { cores: 1, memory: 4 << 30 }));
    net.engines[1] = again;
    net.started.clear();
    net.run(Duration::from_secs(20));
    assert_eq!(net.started.len(), 1, "it builds again");
    net.finish_builds();
    assert_eq!(net.engines[0].batch_result(&batch), Some(true));
}
