//! Several engines on one clock, told of each other's records at once or late.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::query::{JobState, Obstacle};
use super::*;
use crate::bounded::{BoundedString, BoundedVec};
use crate::graph::{Graph, Job, JobIndex, JobKind, JobNeed, Limits};
use crate::id::ActionId;
use crate::keys::SecretKey;
use crate::outcome::{FailureClass, Outcome, Particulars};
use crate::platform::Facts;
use crate::record::payload::*;
use crate::verdict::VerdictState;

mod barred;
mod blame;
mod copies;
mod disputes;
mod flood;
mod frauds;
mod hand_backs;
mod hostile;
mod late;
mod order;
mod rests;
mod tenures;

const NETWORK: NetworkId = NetworkId([1; 32]);
const START: Timestamp = Timestamp(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn operator_key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn node_key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[100 + n; 32])
}

/// What every build here was like.
fn particulars() -> Particulars {
    Particulars {
        log: None,
        log_length: 0,
        wall_ms: 1,
        cpu_ms: 1,
        memory_peak: 0,
        fingerprint: BoundedString::cut("linux"),
        sandbox: BoundedString::cut("none"),
    }
}

fn facts() -> Facts {
    Facts { os: "linux".into(), arch: "x86_64".into(), isa: "x86-64-v3".into(), features: BTreeSet::new() }
}

fn lend() -> Lend {
    Lend { builds: true, arbiter_only: false, cores: 1, memory: 4 << 30 }
}

/// A network of one founder per engine; number 0 submits and does not build.
struct Net {
    now: Timestamp,
    engines: Vec<Engine>,
    dead: BTreeSet<usize>,
    started: Vec<(usize, BuildOrder)>,
    graph: Graph,
    /// What each engine's builder makes: the tree's first byte, or a failure.
    lies: BTreeSet<usize>,
    fails: bool,
    /// Whether every liar lies in its own way.
    apart: bool,
    /// Whose machines spoil every build.
    spoils: BTreeSet<usize>,
    /// What the second of two builds is like.
    again: Again,
    /// What comes of a build, where it is not what the fields above say.
    makes: fn(usize, &BuildOrder) -> Option<Outcome>,
    /// What the engines keep of results.
    kept: std::collections::BTreeMap<(usize, LeaseRef), OwnResult>,
}

/// The second build of an arbiter.
#[derive(Clone, Copy, PartialEq)]
enum Again {
    Equal,
    Unlike,
    /// The machine of that engine spoils it.
    Lost(usize),
}

impl Net {
    fn new(count: u8, policy: Policy, graph: Graph) -> Self {
        let founders: Vec<OperatorId> = (0..count).map(|n| operator_key(n).operator()).collect();
        let params = Params {
            network: NETWORK,
            lease_ttl: Duration::from_secs(180),
            clock_difference: Duration::from_secs(60),
            grants: Grants::of_founders(founders),
            policy,
        };
        let engines = (0..count)
            .map(|n| {
                let lend = Lend { builds: n > 0, ..lend() };
                let config = Config { key: node_key(n), facts: facts(), programs: BTreeSet::new(), lend };
                Engine::new(params.clone(), config, [n; 32], START)
            })
            .collect();
        let mut net = Self {
            now: START,
            engines,
            dead: BTreeSet::new(),
            started: Vec::new(),
            graph,
            lies: BTreeSet::new(),
            fails: false,
            apart: false,
            spoils: BTreeSet::new(),
            again: Again::Equal,
            makes: |_, _| None,
            kept: std::collections::BTreeMap::new(),
        };
        for n in 0..count {
            let payload = Payload::NodeCertificate(NodeCertificate::new(&node_key(n), &NETWORK, &operator_key(n).operator()).into());
            let certificate = Record::author(&operator_key(n), NETWORK, 1, START, Timestamp::MAX, payload).unwrap();
            for engine in &mut net.engines {
                engine.receive(START, &certificate);
            }
        }
        for engine in &mut net.engines {
            engine.handle(START, Input::Capacity(Capacity { cores: 1, memory: 4 << 30 }));
        }
        net.run(Duration::from_secs(1));
        net
    }

    fn submit(&mut self) -> BatchId {
        let bytes = self.graph.to_bytes();
        let batch = Batch {
            name: "test".try_into().unwrap(),
            channel: "nightly".try_into().unwrap(),
            priority: Priority::Nightly,
            graph: BlobHash::of(&bytes),
            graph_length: bytes.len() as u64,
            jobs: u32::try_from(self.graph.jobs.len()).unwrap(),
            policy: self.engines[0].params.policy.hash(),
            nonce: [7; 32],
            revision: BoundedString::default(),
            url: BoundedString::default(),
            labels: BoundedVec::new(),
        };
        self.engines[0].handle(self.now, Input::Author(Payload::Batch(batch.into()), DAY));
        let id = self.engines[0].board.of_kind(Kind::Batch).max_by_key(|record| record.sequence()).unwrap().id();
        self.deliver();
        BatchId::from(id)
    }

    /// Carries out what the engines want, until they want nothing more.
    fn deliver(&mut self) {
        loop {
            let mut quiet = true;
            for from in 0..self.engines.len() {
                while let Some(output) = self.engines[from].poll_output() {
                    quiet = false;
                    if self.dead.contains(&from) {
                        continue;
                    }
                    self.carry_out(from, output);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn carry_out(&mut self, from: usize, output: Output) {
        match output {
            Output::Send(record) => {
                for to in 0..self.engines.len() {
                    if to != from && !self.dead.contains(&to) {
                        self.engines[to].receive(self.now, &record);
                    }
                }
            }
            Output::Fetch { want: want @ Want::Graph(_), .. } => {
                let bytes: Arc<[u8]> = self.graph.to_bytes().into();
                self.engines[from].handle(self.now, Input::Fetched { want, bytes });
            }
            Output::PersistResult(result) => drop(self.kept.insert((from, result.lease), result)),
            Output::ForgetResult(lease) => drop(self.kept.remove(&(from, lease))),
            Output::Start(order) => self.started.push((from, order)),
            Output::Stop(lease) => self.started.retain(|(who, order)| !(*who == from && order.lease == lease)),
            _ => {}
        }
    }

    /// Lets time pass, timers first.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.deliver();
            let live = (0..self.engines.len()).filter(|n| !self.dead.contains(n));
            let next = live.filter_map(|n| Some((self.engines[n].poll_timeout()?, n))).min();
            let Some((at, n)) = next.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            let now = self.now;
            self.engines[n].handle_timeout(now);
        }
        self.now = end;
    }

    /// Ends all builds that run.
    fn finish_builds(&mut self) {
        for (who, order) in std::mem::take(&mut self.started) {
            if self.dead.contains(&who) {
                continue;
            }
            let own = if self.apart { u8::try_from(who).unwrap() } else { 0 };
            let mark = if self.lies.contains(&who) { 66 + own } else { 7 };
            let tree = BlobHash::of(&[order.lease.action.0.as_slice(), &[mark]].concat());
            let outcome = if self.fails && !self.lies.contains(&who) || self.spoils.contains(&who) {
                Outcome::Failure { class: FailureClass::Build, stage: BoundedString::cut("build") }
            } else {
                Outcome::Success { tree }
            };
            let outcome = (self.makes)(who, &order).unwrap_or(outcome);
            let particulars = particulars();
            let again = order.twice.then(|| match self.again {
                Again::Unlike => Outcome::Success { tree: BlobHash([8; 32]) },
                Again::Lost(whose) if whose == who => Outcome::Failure { class: FailureClass::Lost, stage: BoundedString::cut("build") },
                _ => outcome.clone(),
            });
            let now = self.now;
            self.engines[who].handle(now, Input::Finished { lease: order.lease, outcome, again, particulars });
            let free = Capacity { cores: 1, memory: self.engines[who].config.lend.memory };
            self.engines[who].handle(now, Input::Capacity(free));
        }
        self.deliver();
    }

    /// Builds until nothing happens for five minutes.
    fn work(&mut self) {
        for _ in 0..30 {
            self.run(Duration::from_secs(10));
            self.finish_builds();
        }
    }

    fn job(&self, engine: usize, batch: &BatchId, index: u32) -> super::query::JobView {
        self.engines[engine].job(batch, JobIndex(index)).unwrap()
    }
}

fn job(name: &str, needs: &[u32]) -> Job {
    Job {
        recipe: name.into(),
        version: "1".into(),
        cell: Default::default(),
        kind: JobKind::Build,
        sources: Vec::new(),
        needs: needs.iter().map(|n| JobNeed::all(JobIndex(*n), format!("/needs/{n}"))).collect(),
        vars: Default::default(),
        environment: crate::action::Environment::host("linux", ["x86_64"]),
        shell: vec!["sh".into(), "-e".into()],
        steps: vec![crate::action::Step { name: "build".into(), script: format!("make {name}") }],
        outputs: [("out".to_owned(), "out".to_owned())].into(),
        epoch: 0,
        cores: 1,
        limits: Limits { memory: 1 << 30, disk: 1 << 30, wall: Duration::from_secs(600), silent: Duration::from_secs(600) },
        targets: Default::default(),
    }
}

fn chain() -> Graph {
    Graph { jobs: vec![job("zlib", &[]), job("tool", &[0]), job("image", &[0, 1])] }
}

#[test]
fn chain_is_built_to_the_end_and_all_nodes_agree() {
    let mut net = Net::new(4, Policy::small(), chain());
    let batch = net.submit();
    net.work();
    for engine in 0..4 {
        assert_eq!(net.engines[engine].batch_result(&batch), Some(true), "engine {engine}");
        assert_eq!(net.job(engine, &batch, 2).state, JobState::CrossVerified);
    }
    let verdict = net.job(3, &batch, 1).verdict.unwrap();
    assert_eq!(verdict.agreeing.len(), 2);
}

/// Before anything is built, a dependant says what it waits for.
#[test]
fn dependant_waits_and_says_for_what() {
    let mut net = Net::new(3, Policy::small(), chain());
    let batch = net.submit();
    let view = net.job(0, &batch, 1);
    assert_eq!((view.state, view.action), (JobState::Waiting, None));
    assert!(view.why.contains("zlib"), "{}", view.why);
}

/// With idle builders known to each other, every slot is claimed once: nobody's claim is lost.
#[test]
fn idle_builders_share_the_slots_without_a_conflict() {
    let policy = Policy { slots: 4, ..Policy::small() };
    let mut net = Net::new(5, policy, Graph { jobs: vec![job("zlib", &[])] });
    net.submit();
    net.run(Duration::from_millis(1));
    assert_eq!(net.started.len(), 4);
    let slots: BTreeSet<_> = net.started.iter().map(|(_, order)| order.lease.slot).collect();
    assert_eq!(slots.len(), 4);
    let claims = net.engines[0].board.of_kind(Kind::Claim).count();
    assert_eq!(claims, 4);
}

#[test]
fn dead_builders_slot_is_taken_over_after_the_lease_ends() {
    let mut net = Net::new(4, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    let (victim, lease) = (net.started[0].0, net.started[0].1.lease);
    net.dead.insert(victim);
    net.finish_builds();
    net.run(Duration::from_secs(179));
    assert!(net.started.is_empty(), "taken over before the lease ended");
    net.run(Duration::from_secs(5));
    let (_, order) = net.started.first().expect("the slot is taken over");
    assert_eq!(order.lease, LeaseRef { epoch: lease.epoch + 1, ..lease });
    net.finish_builds();
    assert_eq!(net.engines[0].batch_result(&batch), Some(true));
}

#[test]
fn running_build_keeps_its_lease_by_renewals() {
    let mut net = Net::new(4, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    net.submit();
    net.run(Duration::from_secs(3600));
    assert_eq!(net.started.len(), 2);
    assert!(net.started.iter().all(|(_, order)| order.lease.epoch == 1));
}

/// Outputs stay private until the quorum has committed.
#[test]
fn nobody_reveals_before_the_quorum_has_committed() {
    let mut net = Net::new(4, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    net.submit();
    net.run(Duration::from_millis(1));
    let held = net.started.pop().unwrap();
    net.finish_builds();
    assert_eq!(net.engines[0].board.of_kind(Kind::Commitment).count(), 1);
    assert_eq!(net.engines[0].board.of_kind(Kind::Reveal).count(), 0);
    net.started.push(held);
    net.finish_builds();
    assert_eq!(net.engines[0].board.of_kind(Kind::Reveal).count(), 2);
}

#[test]
fn cancelled_batch_stops_its_builds() {
    let mut net = Net::new(4, Policy::small(), chain());
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    assert!(!net.started.is_empty());
    net.engines[0].handle(net.now, Input::Author(Payload::Cancel(Cancel { batch }), DAY));
    net.run(Duration::from_secs(1));
    assert!(net.started.is_empty());
    assert_eq!(net.job(1, &batch, 0).state, JobState::Withdrawn);
    assert_eq!(net.engines[1].in_use(), Capacity::default());
}

#[test]
fn failure_that_the_quorum_shares_fails_the_job_and_a_retry_builds_it_again() {
    let mut net = Net::new(4, Policy::small(), chain());
    net.fails = true;
    let batch = net.submit();
    net.work();
    assert_eq!(net.engines[0].batch_result(&batch), Some(false));
    assert_eq!(net.job(0, &batch, 2).state, JobState::Failed);
    let actions = net.engines[0].failed_actions(&batch);
    net.fails = false;
    let retry = Retry { batch, actions: actions.try_into().unwrap() };
    net.engines[0].handle(net.now, Input::Author(Payload::Retry(retry), DAY));
    net.work();
    assert_eq!(net.engines[0].batch_result(&batch), Some(true));
}

/// Two batches with the same job: the action is built once for both.
#[test]
fn equal_actions_of_two_batches_are_built_once() {
    let mut net = Net::new(4, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    let first = net.submit();
    net.work();
    let reveals = net.engines[0].board.of_kind(Kind::Reveal).count();
    let mut second = net.engines[0].batches[&first].batch().clone();
    second.nonce = [8; 32];
    net.engines[0].handle(net.now, Input::Author(Payload::Batch(second.into()), DAY));
    net.work();
    assert_eq!(net.engines[0].batches.len(), 2);
    assert!(net.engines[0].batches.keys().all(|id| net.engines[0].batch_result(id) == Some(true)));
    assert_eq!(net.engines[0].board.of_kind(Kind::Reveal).count(), reveals);
}

#[test]
fn batch_of_somebody_who_may_not_submit_is_not_built() {
    let mut net = Net::new(3, Policy::small(), chain());
    let stranger = SecretKey::from_seed(&[77; 32]);
    let bytes = net.graph.to_bytes();
    let batch = Batch { graph: BlobHash::of(&bytes), ..net_batch(&net) };
    let record = Record::author(&stranger, NETWORK, 1, net.now, net.now + DAY, Payload::Batch(batch.into())).unwrap();
    let id = BatchId::from(record.id());
    for engine in &mut net.engines {
        engine.receive(net.now, &record);
    }
    net.work();
    assert!(net.started.is_empty());
    assert!(net.engines[1].batch(&id).unwrap().halted.unwrap().contains("may not submit"));
}

fn net_batch(net: &Net) -> Batch {
    Batch {
        name: "test".try_into().unwrap(),
        channel: "nightly".try_into().unwrap(),
        priority: Priority::Nightly,
        graph: BlobHash([0; 32]),
        graph_length: net.graph.to_bytes().len() as u64,
        jobs: u32::try_from(net.graph.jobs.len()).unwrap(),
        policy: net.engines[0].params.policy.hash(),
        nonce: [7; 32],
        revision: BoundedString::default(),
        url: BoundedString::default(),
        labels: BoundedVec::new(),
    }
}

/// A record from the future waits for its time; one of a foreign network and one whose time is over are refused.
#[test]
fn future_records_are_parked_and_old_ones_refused() {
    let mut net = Net::new(2, Policy::small(), chain());
    let now = net.now;
    let have = |issued: Timestamp| {
        let payload = Payload::Have(Have { blobs: BoundedVec::new() });
        Record::author(&node_key(1), NETWORK, 9, issued, issued + Duration::from_secs(1), payload).unwrap()
    };
    let future = have(now + Duration::from_secs(100));
    assert_eq!(net.engines[0].receive(now, &future), Reception::Parked);
    assert_eq!(net.engines[0].board.of_kind(Kind::Have).count(), 0);
    net.run(Duration::from_secs(100));
    assert_eq!(net.engines[0].board.of_kind(Kind::Have).count(), 1);
    assert_eq!(net.engines[0].receive(net.now, &future), Reception::Known);
    let old = have(Timestamp(now.0 - 2 * 24 * 3_600_000));
    assert_eq!(net.engines[0].receive(net.now, &old), Reception::Outdated);
}

/// Everything that a busy network said, for the property below.
fn busy_network() -> (Net, Vec<SharedRecord>) {
    let policy = Policy { slots: 3, ..Policy::small() };
    let mut net = Net::new(5, policy, chain());
    net.lies.insert(2);
    net.submit();
    net.work();
    let records = net.engines[0].board.records().cloned().collect();
    (net, records)
}

/// What a node concludes, without what depends on when it heard.
fn conclusions(engine: &Engine) -> String {
    let jobs: Vec<_> = engine
        .batches
        .keys()
        .flat_map(|batch| engine.jobs(batch))
        .map(|job| (job.label, job.action, job.state, job.verdict, job.attestations.len()))
        .collect();
    let slots: std::collections::BTreeMap<_, _> =
        engine.bound_actions().into_iter().map(|place| (engine.board.action_id(place), format!("{:?}", engine.slots_of(place)))).collect();
    format!("{:?} {jobs:?} {slots:?}", engine.items().iter().collect::<Vec<_>>())
}

/// An order that `keys` draw.
fn shuffled(records: &[SharedRecord], keys: &[u32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_key(|at| keys[at % keys.len()].wrapping_mul(u32::try_from(*at).unwrap() | 1));
    order
}

/// What a node concludes that hears the records in that order.
fn hear(net: &Net, records: &[SharedRecord], order: &[usize]) -> String {
    let graph: Arc<[u8]> = net.graph.to_bytes().into();
    let lend = Lend { builds: false, ..lend() };
    let config = Config { key: node_key(50), facts: facts(), programs: BTreeSet::new(), lend };
    let mut engine = Engine::new(net.engines[0].params.clone(), config, [50; 32], net.now);
    for at in order {
        engine.receive(net.now, &records[*at]);
        while let Some(output) = engine.poll_output() {
            if let Output::Fetch { want, .. } = output {
                engine.handle(net.now, Input::Fetched { want, bytes: graph.clone() });
            }
        }
    }
    conclusions(&engine)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Any order of arrival gives the same board, the same bindings, the same holders and the same verdicts.
    #[test]
    fn any_order_of_arrival_gives_the_same_board(keys in proptest::collection::vec(any::<u32>(), 400)) {
        let (net, records) = busy_network();
        let straight: Vec<usize> = (0..records.len()).collect();
        prop_assert_eq!(hear(&net, &records, &straight), hear(&net, &records, &shuffled(&records, &keys)));
    }
}

/// A node that hears everything late comes to what the others know.
#[test]
fn verdicts_reach_a_node_that_joins_late() {
    let (net, records) = busy_network();
    let lend = Lend { builds: false, ..lend() };
    let config = Config { key: node_key(50), facts: facts(), programs: BTreeSet::new(), lend };
    let mut late = Engine::new(net.engines[0].params.clone(), config, [50; 32], net.now);
    for record in records.iter().rev() {
        late.receive(net.now, record);
        while let Some(output) = late.poll_output() {
            if let Output::Fetch { want, .. } = output {
                late.handle(net.now, Input::Fetched { want, bytes: net.graph.to_bytes().into() });
            }
        }
    }
    assert_eq!(conclusions(&late), conclusions(&net.engines[0]));
    let states: BTreeSet<VerdictState> =
        late.batches.keys().flat_map(|batch| late.jobs(batch)).filter_map(|job| Some(job.verdict?.state)).collect();
    assert_eq!(states, BTreeSet::from([VerdictState::CrossVerified]));
}

/// After a restart, a result that was committed and not revealed is revealed when its time comes.
#[test]
fn committed_result_survives_a_restart() {
    let mut net = Net::new(4, Policy::small(), Graph { jobs: vec![job("zlib", &[])] });
    net.submit();
    net.run(Duration::from_millis(1));
    let other = net.started.pop().unwrap();
    let who = net.started[0].0;
    net.finish_builds();
    let kept: Vec<OwnResult> = net.engines[who].own_results().cloned().collect();
    assert_eq!(kept.len(), 1);
    let key = node_key(u8::try_from(who).unwrap());
    let config = Config { key, facts: facts(), programs: BTreeSet::new(), lend: lend() };
    let mut again = Engine::new(net.engines[0].params.clone(), config, [9; 32], net.now);
    let records: Vec<SharedRecord> = net.engines[who].board.records().cloned().collect();
    for record in &records {
        again.receive(net.now, record);
    }
    again.handle(net.now, Input::Restore(kept[0].clone()));
    again.hand_back_lost(net.now);
    net.engines[who] = again;
    net.started.push(other);
    net.deliver();
    net.finish_builds();
    assert_eq!(net.engines[0].board.of_kind(Kind::Reveal).count(), 2);
}
