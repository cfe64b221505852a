//! Which work goes first, and what is not done at all.

use super::*;

fn submit(net: &mut Net, by: usize, graph: Graph, change: impl Fn(&mut Batch)) -> BatchId {
    let bytes = graph.to_bytes();
    net.graph = graph;
    let mut batch = Batch {
        graph: BlobHash::of(&bytes),
        graph_length: bytes.len() as u64,
        jobs: u32::try_from(net.graph.jobs.len()).unwrap(),
        ..net_batch(net)
    };
    change(&mut batch);
    let known: BTreeSet<BatchId> = net.engines[by].batches.keys().copied().collect();
    net.engines[by].handle(net.now, Input::Author(Payload::Batch(batch.into()), DAY));
    let id = *net.engines[by].batches.keys().find(|id| !known.contains(id)).unwrap();
    net.deliver();
    id
}

fn labels(net: &Net) -> Vec<String> {
    net.started.iter().map(|(_, order)| order.label.clone()).collect()
}

/// A node without rivals: the order in which it begins is the order that it wants.
fn begun_by_one(policy: Policy, graphs: Vec<(Graph, Priority)>) -> Vec<String> {
    let mut net = Net::new(2, policy, Graph::default());
    for (at, (graph, priority)) in graphs.into_iter().enumerate() {
        submit(&mut net, 0, graph, |batch| {
            batch.priority = priority;
            batch.name = BoundedString::cut(&format!("batch {at}"));
        });
    }
    let mut begun = Vec::new();
    for _ in 0..60 {
        net.run(Duration::from_secs(1));
        begun.extend(labels(&net));
        net.finish_builds();
    }
    begun
}

fn solo() -> Policy {
    Policy { quorum: 1, slots: 1, ..Policy::small() }
}

#[test]
fn what_most_work_waits_for_is_built_first() {
    let graph = Graph { jobs: vec![job("leaf", &[]), job("other", &[]), job("base", &[]), job("middle", &[2]), job("image", &[3])] };
    let begun = begun_by_one(solo(), vec![(graph, Priority::Nightly)]);
    assert_eq!(begun[..2], ["base", "middle"]);
    assert_eq!(begun.len(), 5);
}

#[test]
fn security_fix_goes_before_what_was_submitted_earlier() {
    let nightly = Graph { jobs: vec![job("a", &[]), job("b", &[])] };
    let fix = Graph { jobs: vec![job("fix", &[])] };
    let begun = begun_by_one(solo(), vec![(nightly, Priority::Nightly), (fix, Priority::Security)]);
    assert_eq!(begun, ["fix", "a", "b"]);
}

/// The jobs of a cancelled batch stand for actions still, and lend them none of its urgency.
#[test]
fn cancelled_batch_makes_nothing_urgent() {
    let mut net = Net::new(2, solo(), Graph::default());
    net.engines[1].handle(net.now, Input::Lend(Lend { builds: false, ..lend() }));
    let batch = submit(&mut net, 0, Graph { jobs: vec![job("b", &[])] }, |batch| batch.priority = Priority::Security);
    net.engines[0].handle(net.now, Input::Author(Payload::Cancel(Cancel { batch }), DAY));
    submit(&mut net, 0, Graph { jobs: vec![job("a", &[]), job("b", &[]), job("image", &[0])] }, |_| {});
    net.engines[1].handle(net.now, Input::Lend(lend()));
    net.run(Duration::from_secs(1));
    assert_eq!(labels(&net), ["a"]);
}

/// A tenth is reserved, so that a background job is begun while more urgent work waits.
#[test]
fn background_work_is_not_starved_by_urgent_work() {
    let urgent = Graph { jobs: (0..30).map(|number| job(&format!("urgent {number}"), &[])).collect() };
    let background = Graph { jobs: vec![job("background", &[])] };
    let begun = begun_by_one(solo(), vec![(urgent, Priority::Security), (background, Priority::Background)]);
    let at = begun.iter().position(|label| label == "background").unwrap();
    assert!(at < 12, "begun as number {at}");
}

/// The newer batch of a name takes the place of what the older one has not begun; what is being built is ended.
#[test]
fn newer_batch_supersedes_what_is_queued_and_not_what_is_begun() {
    let mut net = Net::new(2, solo(), Graph::default());
    let first = submit(&mut net, 0, Graph { jobs: vec![job("old a", &[]), job("old b", &[]), job("old c", &[1])] }, |_| {});
    net.run(Duration::from_secs(1));
    assert_eq!(labels(&net), ["old b"]);
    let second = submit(&mut net, 0, Graph { jobs: vec![job("new", &[])] }, |batch| batch.nonce = [8; 32]);
    let states = |net: &Net| -> Vec<JobState> { net.engines[0].jobs(&first).iter().map(|job| job.state).collect() };
    assert_eq!(states(&net), [JobState::Superseded, JobState::Building, JobState::Superseded]);
    assert!(net.job(0, &first, 0).why.contains(&second.short()));
    net.work();
    assert_eq!(states(&net), [JobState::Superseded, JobState::CrossVerified, JobState::Superseded]);
    assert_eq!(net.engines[0].batch_result(&second), Some(true));

    // Once the newer one is cancelled, the older one goes on.
    net.engines[0].handle(net.now, Input::Author(Payload::Cancel(Cancel { batch: second }), DAY));
    net.work();
    assert_eq!(net.engines[1].batch_result(&first), Some(true));
}

/// Batches of other names, channels or priorities have nothing to do with each other.
#[test]
fn batch_of_another_name_supersedes_nothing() {
    let mut net = Net::new(2, solo(), Graph::default());
    let first = submit(&mut net, 0, Graph { jobs: vec![job("a", &[]), job("b", &[])] }, |_| {});
    submit(&mut net, 0, Graph { jobs: vec![job("c", &[])] }, |batch| batch.name = BoundedString::cut("other"));
    net.work();
    assert_eq!(net.engines[0].batch_result(&first), Some(true));
}

/// Nothing is built for a batch that is known already, and its end is told all the same.
#[test]
fn end_of_a_batch_is_told_though_everything_was_built_before() {
    let mut net = Net::new(2, solo(), Graph::default());
    submit(&mut net, 0, chain(), |batch| batch.name = BoundedString::cut("one"));
    net.work();
    let bytes = chain().to_bytes();
    let batch = Batch {
        graph: BlobHash::of(&bytes),
        graph_length: bytes.len() as u64,
        jobs: 3,
        name: BoundedString::cut("two"),
        ..net_batch(&net)
    };
    net.engines[0].handle(net.now, Input::Author(Payload::Batch(batch.into()), DAY));
    let mut done = 0;
    while let Some(output) = net.engines[0].poll_output() {
        match output {
            Output::Fetch { want, .. } => {
                let bytes: Arc<[u8]> = bytes.clone().into();
                net.engines[0].handle(net.now, Input::Fetched { want, bytes });
            }
            Output::Event(Event::BatchDone { ok: true, .. }) => done += 1,
            _ => {}
        }
    }
    assert_eq!(done, 1);
}

/// A job whose input was rebuilt to the same bytes stands for the same action, and nothing behind it is built again.
#[test]
fn equal_bytes_of_a_rebuilt_input_cut_the_work_off() {
    let mut net = Net::new(2, solo(), Graph::default());
    submit(&mut net, 0, chain(), |batch| batch.name = BoundedString::cut("one"));
    net.work();
    let reveals = net.engines[0].board.of_kind(Kind::Reveal).count();
    assert_eq!(reveals, 3);
    // Another spelling of the first job, whose outputs are the same.
    let mut graph = chain();
    graph.jobs[0].steps[0].script.push_str(" # another comment");
    let second = submit(&mut net, 0, graph, |batch| batch.name = BoundedString::cut("two"));
    net.run(Duration::from_secs(5));
    let (who, order) = net.started.pop().unwrap();
    assert_eq!(order.label, "zlib");
    let first = net.engines[0].jobs_of(&order.lease.action)[0].0;
    assert_eq!(first, second);
    let tree = net.engines[0].batches.keys().filter(|id| **id != second).find_map(|id| net.engines[0].job(id, JobIndex(0)));
    let outcome = tree.unwrap().verdict.unwrap().outcome.unwrap();
    let now = net.now;
    net.engines[who].handle(now, Input::Finished { lease: order.lease, outcome, again: None, particulars: particulars() });
    net.deliver();
    assert_eq!(net.engines[0].batch_result(&second), Some(true), "the rest was not known to be built");
    assert_eq!(net.engines[0].board.of_kind(Kind::Reveal).count(), reveals + 1);
}

/// Fifty layers of two jobs, each needing both of the layer below: what is said of a job must not follow every way down.
#[test]
fn state_of_a_deep_graph_is_told_without_going_every_way_down() {
    let mut jobs = vec![job("a 0", &[]), job("b 0", &[])];
    for layer in 1..50 {
        let below = [2 * (layer - 1), 2 * layer - 1];
        jobs.extend([job(&format!("a {layer}"), &below), job(&format!("b {layer}"), &below)]);
    }
    let mut net = Net::new(3, Policy::small(), Graph::default());
    net.fails = true;
    let batch = submit(&mut net, 0, Graph { jobs }, |_| {});
    let last = net.job(0, &batch, 99);
    assert_eq!((last.state, &*last.why), (JobState::Waiting, "waits for a 48 (waiting), b 48 (waiting)"));
    net.work();
    let last = net.job(0, &batch, 99);
    assert_eq!((last.state, &*last.why), (JobState::Failed, "a 48, which it needs, failed"));
}

/// Builds one batch, whose job "slow" takes a hundred times as long as "quick".
fn measured() -> Net {
    let mut net = Net::new(2, solo(), Graph::default());
    submit(&mut net, 0, Graph { jobs: vec![job("quick", &[]), job("slow", &[])] }, |batch| batch.name = BoundedString::cut("measured"));
    for _ in 0..2 {
        net.run(Duration::from_secs(10));
        let (who, order) = net.started.pop().unwrap();
        let outcome = Outcome::Success { tree: BlobHash(order.lease.action.0) };
        let particulars = Particulars { wall_ms: if order.label == "slow" { 100_000 } else { 1_000 }, ..particulars() };
        let now = net.now;
        net.engines[who].handle(now, Input::Finished { lease: order.lease, outcome, again: None, particulars });
        net.engines[who].handle(now, Input::Capacity(Capacity { cores: 1, memory: 4 << 30 }));
        net.deliver();
    }
    net
}

/// The same recipes at another version, "quick" first and with more that waits for it.
fn next_version() -> Graph {
    let version = |mut job: Job| {
        job.steps[0].script.push_str(" # again");
        job
    };
    Graph { jobs: vec![version(job("quick", &[])), version(job("slow", &[])), job("image of quick", &[0])] }
}

#[test]
fn what_took_long_before_is_begun_first() {
    let mut net = measured();
    submit(&mut net, 0, next_version(), |batch| batch.name = BoundedString::cut("next"));
    net.run(Duration::from_secs(1));
    assert_eq!(labels(&net), ["slow"]);
}

/// A node that was restarted reads results before it has the graph that says what they are results of.
#[test]
fn node_that_comes_late_learns_how_long_builds_took() {
    let mut net = measured();
    let records: Vec<SharedRecord> = Kind::ALL.iter().rev().flat_map(|kind| net.engines[0].board.of_kind(*kind).cloned()).collect();
    let config = net.engines[1].config().clone();
    let mut late = Engine::new(net.engines[1].params().clone(), config, [9; 32], net.now);
    for record in &records {
        late.receive(net.now, record);
    }
    net.engines[1] = late;
    net.graph = Graph { jobs: vec![job("quick", &[]), job("slow", &[])] };
    net.deliver();
    assert_eq!(net.engines[1].durations, net.engines[0].durations);
    assert_eq!(net.engines[1].durations.values().copied().collect::<BTreeSet<u32>>(), BTreeSet::from([1_000, 100_000]));
}

/// What becomes known in the course of a batch changes the order of what it has not begun.
#[test]
fn order_of_work_follows_what_is_measured_on_the_way() {
    let mut net = Net::new(2, solo(), Graph::default());
    net.engines[1].handle(net.now, Input::Lend(Lend { builds: false, ..lend() }));
    let batch = submit(&mut net, 0, next_version(), |_| {});
    let first = |net: &Net| net.engines[1].queue.in_order(1).first().map(|place| net.engines[1].board.action_id(*place));
    let action = |net: &Net, index| net.job(1, &batch, index).action;
    assert_eq!(first(&net), action(&net, 0));
    let slow = net.engines[1].board.action(&action(&net, 1).unwrap()).unwrap();
    let now = net.now;
    net.engines[1].learn_duration(now, slow, 100_000_000);
    // The one that nobody has built is thought to take as long, and the image behind it longer still.
    let quick = net.engines[1].board.action(&action(&net, 0).unwrap()).unwrap();
    net.engines[1].learn_duration(now, quick, 1_000);
    net.run(Duration::from_secs(121));
    assert_eq!(first(&net), action(&net, 1));
}

/// Whatever is due at one moment happens before anything is claimed, in whatever order it became due: a machine that slept
/// finds its turn to claim and the end of the batch at once.
#[test]
fn nothing_is_begun_that_ends_at_the_same_moment() {
    let mut net = Net::new(4, solo(), Graph::default());
    submit(&mut net, 0, Graph { jobs: vec![job("a", &[])] }, |_| {});
    let own_claims = |net: &Net, n: usize| {
        net.engines[n].board.of_kind(Kind::Claim).filter(|claim| claim.author_key() == node_key(n as u8).node().0).count()
    };
    let waits = |net: &Net, n: usize| net.engines[n].timeline.iter().any(|(_, timer)| *timer == Timer::Seek);
    let sleeper = (1..4).find(|n| own_claims(&net, *n) == 0 && waits(&net, *n)).unwrap();
    net.now = net.engines[sleeper].board.of_kind(Kind::Batch).map(|batch| batch.forget_at()).max().unwrap();
    let now = net.now;
    net.engines[sleeper].handle_timeout(now);
    net.deliver();
    assert_eq!((own_claims(&net, sleeper), net.started.iter().filter(|(who, _)| *who == sleeper).count()), (0, 0));
}
