//! The scenario `trust`: an honest network in which some want a lie to be believed.
//!
//! Liars lie alone, each in its own way; a gang lies alike, from one branch or from several; one of the gang invites sybils
//! without end; honest people come later too ([`cast`]). Founders look at settled disputes now and then and suspend who was
//! wrong. What comes out: whether a lie was ever cross-verified, how long each liar went on, whether an honest operator was
//! suspended, and what work was wasted.

pub mod cast;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use barnraiser_protocol::bounded::BoundedString;
use barnraiser_protocol::engine::query::{AttestationView, JobView};
use barnraiser_protocol::engine::{Input, Params};
use barnraiser_protocol::graph::Graph;
use barnraiser_protocol::id::{BatchId, OperatorId};
use barnraiser_protocol::outcome::Outcome;
use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::record::payload::Priority;
use barnraiser_protocol::record::payload::Suspension;
use barnraiser_protocol::record::{Kind, Payload, Record};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::verdict::VerdictState;

use crate::checks::{convergence, ending, leases, memory};
use crate::dice::Dice;
use crate::ledger::End;
use crate::report::Report;
use crate::world::people::NETWORK;
use crate::world::weather::Weather;
use crate::world::work::{MEMORY, Nature, Task, Work};
use crate::world::{START, World};
use cast::{Cast, FOUNDERS, Role};

/// Mean time of a message, ...
const LATENCY: Duration = Duration::from_millis(100);
/// ... and the share of gossiped messages that is lost.
const LOSS: f64 = 0.01;
/// Time between two looks at all nodes.
const TICK: Duration = Duration::from_secs(30);
/// How often a founder looks at what disputes came to.
const LOOK: Duration = Duration::from_secs(300);
/// When the batch is submitted.
const SUBMITTED: Duration = Duration::from_secs(10);
/// Jobs for each node.
const JOBS_EACH: usize = 8;
/// All jobs have ended by then, or something is wrong.
const DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// A suspension lives as a record for as long as the network.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const FOUNDER: usize = 0;

/// How it is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Nodes, but for the sybils.
    pub nodes: usize,
    /// How many branches the gang owns.
    pub branches: usize,
    /// What draws everything.
    pub seed: u64,
    /// Whether every event is printed.
    pub verbose: bool,
}

struct Run {
    world: World,
    cast: Cast,
    /// Who was suspended, and when.
    suspended: BTreeMap<OperatorId, Timestamp>,
}

/// Runs the scenario.
///
/// # Errors
/// A record can't be made, or the batch is refused.
pub fn run(options: Options) -> anyhow::Result<Report> {
    let Options { nodes, branches, seed, verbose } = options;
    let mut dice = Dice::new(seed, "trust");
    let cast = Cast::draw(nodes, branches, &mut dice)?;
    let policy = Policy::small();
    let params = Params {
        network: NETWORK,
        lease_ttl: Duration::from_secs(180),
        clock_difference: Duration::from_secs(60),
        grants: cast.grants.clone(),
        policy: policy.clone(),
    };
    let machines: Vec<_> = (0..cast.people.len()).map(|number| cast.machine(number, &mut dice)).collect();
    let mut weather = Weather::calm(machines.len(), LATENCY, &mut dice);
    weather.loss = LOSS;
    let mut world = World::new(machines, weather, Work::default(), params, seed);
    world.trace.verbose = verbose;
    world.holders = FOUNDERS;
    // Who owns as many branches as the quorum asks for can outvote the truth: that is counted and no fault.
    world.checks.lies_may_win = branches >= usize::from(policy.quorum);
    let mut run = Run { world, cast, suspended: BTreeMap::new() };
    run.until(START + SUBMITTED);
    let batch = run.submit(nodes * JOBS_EACH, &policy, &mut dice)?;
    run.build(&batch)?;
    Ok(run.report(options, &batch, policy.quorum))
}

impl Run {
    /// Everything up to `end` happens; who comes meanwhile, comes.
    fn until(&mut self, end: Timestamp) {
        for number in 0..self.cast.people.len() {
            let from = self.cast.people[number].from;
            if self.world.now <= from && from < end {
                self.world.run_until(from);
                self.world.start(number);
            }
        }
        self.world.run_until(end);
    }

    fn submit(&mut self, jobs: usize, policy: &Policy, dice: &mut Dice) -> anyhow::Result<BatchId> {
        let job = |index: usize| {
            let needs: BTreeSet<usize> = (0..dice.below(3)).map(|_| dice.below(index)).filter(|need| *need < index).collect();
            let core_seconds = dice.log_normal(120.0, 1.0).min(1200.0);
            let task = Task { nature: Nature::Sound, core_seconds, output_bytes: 0, memory: MEMORY / 2 };
            self.world.work.add(&format!("job-{index}"), &needs.into_iter().collect::<Vec<_>>(), 1, "x86_64", task)
        };
        let graph = Graph { jobs: (0..jobs).map(job).collect() };
        let nonce = self.world.params.network.0;
        let batch = self.world.work.batch("all", &graph, policy, Priority::Nightly, nonce, FOUNDER);
        self.world.tell(FOUNDER, Input::Author(Payload::Batch(batch.into()), DAY * 2));
        let engine = self.world.nodes[FOUNDER].engine.as_ref();
        let record = engine.and_then(|engine| engine.board().of_kind(Kind::Batch).next());
        Ok(BatchId::from(record.ok_or_else(|| anyhow::anyhow!("the batch was not submitted"))?.id()))
    }

    /// Waits until all is built, everybody has come, and all agree.
    fn build(&mut self, batch: &BatchId) -> anyhow::Result<()> {
        let mut look = self.world.now + LOOK;
        let last = self.cast.people.last().map_or(START, |person| person.from);
        loop {
            self.until(self.world.now + TICK);
            leases::check(&mut self.world, true);
            if self.world.now >= look {
                look = self.world.now + LOOK;
                memory::check(&mut self.world);
                self.suspend(batch)?;
            }
            let now = self.world.now;
            let late = now > START + DEADLINE;
            let done = self.world.ledger.done.contains_key(batch) && now > last;
            let rests = (done || late) && self.rests(late);
            if rests || late || !self.world.checks.faults.is_empty() {
                return Ok(());
            }
        }
    }

    /// Whether all jobs have ended and all agree; where it is `late`, what has not is a fault.
    fn rests(&mut self, late: bool) -> bool {
        let (unended, difference) = (ending::unended(&self.world), convergence::difference(&self.world));
        let now = self.world.now;
        for (check, what) in
            unended.first().map(|what| ("ending", what)).into_iter().chain(difference.as_ref().map(|what| ("convergence", what)))
        {
            if late {
                self.world.checks.fault(check, now, what.clone());
            }
        }
        unended.is_empty() && difference.is_none()
    }

    /// A founder suspends who lied in a dispute that is settled.
    fn suspend(&mut self, batch: &BatchId) -> anyhow::Result<()> {
        let Some(engine) = &self.world.nodes[FOUNDER].engine else { return Ok(()) };
        let wrong: BTreeSet<OperatorId> = engine.jobs(batch).iter().flat_map(liars).collect();
        for operator in wrong {
            if self.suspended.contains_key(&operator) {
                continue;
            }
            let now = self.world.now;
            let suspension = Suspension { operator, reason: BoundedString::cut("was wrong in a dispute") };
            let key = &self.cast.people[FOUNDER].key;
            let record = Record::author(key, NETWORK, 1, now, now + LIFETIME, Payload::Suspension(suspension.into()))?;
            self.world.say(FOUNDER, &record);
            self.suspended.insert(operator, now);
        }
        Ok(())
    }

    fn report(&self, options: Options, batch: &BatchId, quorum: u16) -> Report {
        let world = &self.world;
        let mut report = Report::new("trust", options.nodes, options.seed, world);
        let people = &self.cast.people;
        let count = |role: Role| people.iter().filter(|person| person.role == role).count() as f64;
        report.add("minutes", world.now.since(START).as_secs_f64() / 60.0, "min");
        report.add("gang_branches", options.branches as f64, "branches");
        for (name, role) in [("liars", Role::Liar), ("failers", Role::Failer), ("gang", Role::Gang), ("sybils", Role::Sybil)] {
            report.add(name, count(role), "operators");
            let (found, mut builds) = self.found_out(role);
            if role != Role::Failer {
                report.add(&format!("{name}_suspended"), found as f64, "operators");
            }
            builds.sort_unstable();
            let median = builds.get(builds.len() / 2).copied().unwrap_or(0);
            report.add(&format!("{name}_builds"), median as f64, "builds until then, median");
        }
        let honest = people.iter().filter(|person| person.role.is_honest() && self.suspended.contains_key(&person.operator()));
        report.add("honest_suspended", honest.count() as f64, "operators");
        let jobs = world.nodes[FOUNDER].engine.as_ref().map_or_else(Vec::new, |engine| engine.jobs(batch));
        let verified = jobs.iter().filter_map(|job| job.verdict.as_ref()).filter(|verdict| verdict.state == VerdictState::CrossVerified);
        report.add("jobs", jobs.len() as f64, "jobs");
        report.add("verified", verified.count() as f64, "jobs");
        report.add("lies_told", self.lies() as f64, "builds");
        report.add("lies_verified", self.verified_lies(batch) as f64, "jobs");
        let spent: f64 = world.ledger.spans.iter().map(crate::ledger::Span::core_seconds).sum();
        report.add("work_wasted", (spent / self.needed(batch, quorum).max(1e-9) - 1.0) * 100.0, "% of core-seconds needed");
        report
    }

    /// How many of a role were suspended, and how many builds each ended before that, or in all.
    fn found_out(&self, role: Role) -> (usize, Vec<usize>) {
        let (mut found, mut builds) = (0, Vec::new());
        for (number, person) in self.cast.people.iter().enumerate().filter(|(_, person)| person.role == role) {
            let at = self.suspended.get(&person.operator());
            found += usize::from(at.is_some());
            let before = |until: Timestamp| at.is_none_or(|at| until <= *at);
            let ended = self.world.ledger.spans.iter().filter(|span| span.node == number && before(span.until));
            builds.push(ended.filter(|span| matches!(span.end, End::Built | End::Failed)).count());
        }
        (found, builds)
    }

    fn lies(&self) -> usize {
        let lies = |node: usize| self.world.nodes[node].character.lies;
        self.world.ledger.spans.iter().filter(|span| span.end == End::Built && lies(span.node)).count()
    }

    /// Jobs whose verified output no honest machine makes.
    fn verified_lies(&self, batch: &BatchId) -> usize {
        let Some(engine) = &self.world.nodes[FOUNDER].engine else { return 0 };
        let is_lie = |job: &JobView| {
            let verdict = job.verdict.as_ref().filter(|verdict| verdict.state == VerdictState::CrossVerified);
            let action = job.action.and_then(|id| engine.action(&id));
            verdict.zip(action).is_some_and(|(verdict, action)| verdict.outcome != self.world.work.truth(&action))
        };
        engine.jobs(batch).iter().filter(|job| is_lie(job)).count()
    }

    /// What the jobs cost if each is built as often as the quorum asks, on machines of mean speed.
    fn needed(&self, batch: &BatchId, quorum: u16) -> f64 {
        let Some(engine) = &self.world.nodes[FOUNDER].engine else { return 0.0 };
        let mut total = 0.0;
        for id in engine.jobs(batch).into_iter().filter_map(|job| job.action) {
            let builds = self.world.ledger.spans.iter().filter(|span| span.action == id && span.end == End::Built);
            let honest = builds.filter(|span| self.cast.people[span.node].role.is_honest());
            let costs: Vec<f64> = honest.map(crate::ledger::Span::core_seconds).collect();
            total += costs.iter().sum::<f64>() / costs.len().max(1) as f64 * f64::from(quorum);
        }
        total
    }
}

/// Whom the arbiter showed to be wrong, of those who had shown another output: whose build only failed may have a bad
/// machine, and rests for that by itself.
fn liars(job: &JobView) -> Vec<OperatorId> {
    let Some(verdict) = &job.verdict else { return Vec::new() };
    let right = verdict.outcome.as_ref().and_then(Outcome::tree);
    let another = |word: &AttestationView| word.outcome.as_ref().and_then(Outcome::tree).is_some_and(|tree| Some(tree) != right);
    let lied = |operator: &&OperatorId| job.attestations.iter().any(|word| word.operator == **operator && another(word));
    verdict.wrong.iter().filter(lied).copied().collect()
}
