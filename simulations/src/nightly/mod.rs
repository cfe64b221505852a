//! The scenario `nightly`: all images of an operating system, built in one night by volunteers who come and go.
//!
//! [`workload`] is what is built, [`night`] what it costs, [`last_night`] what is known of that, [`volunteers`] who is
//! there; [`bound`] and [`omniscient`] are what the network is held against, [`figures`] what it came to, [`chain`] why,
//! [`plots`] how that looks.

pub mod bound;
pub mod chain;
pub mod figures;
mod last_night;
pub mod night;
pub mod omniscient;
pub mod plots;
pub mod volunteers;
pub mod workload;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use barnraiser_protocol::engine::{Config, Input, Lend, Params};
use barnraiser_protocol::id::{ActionId, BatchId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::platform::Facts;
use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::record::payload::Priority;
use barnraiser_protocol::record::{Kind, Payload, SharedRecord};
use barnraiser_protocol::time::Timestamp;

use crate::checks::{convergence, ending, leases, memory};
use crate::dice::Dice;
use crate::world::disk::Write;
use crate::world::node::{Character, Node};
use crate::world::people::{NETWORK, People, Society};
use crate::world::weather::Weather;
use crate::world::work::Work;
use crate::world::{START, World};
use bound::Bound;
use figures::Outcome;
use night::Night;
use volunteers::Seat;
use workload::Workload;

/// Mean time of a message, ...
const LATENCY: Duration = Duration::from_millis(100);
/// ... the share of gossiped messages that is lost, ...
const LOSS: f64 = 0.01;
/// ... and the most by which a clock is wrong, in milliseconds.
const SKEW_MS: f64 = 500.0;
/// Mean time between two comparisons that a node begins.
const COMPARE_EVERY: Duration = Duration::from_secs(30);
const LEASE_TTL: Duration = Duration::from_secs(180);
/// When the batch is submitted: everybody has heard who is there.
pub(crate) const SUBMITTED: Duration = Duration::from_secs(10);
/// Time between two looks at all leases, ...
pub(crate) const TICK: Duration = Duration::from_secs(60);
/// ... and, in such looks, between two at all that nodes keep, which is slow.
pub(crate) const MEMORY_TICKS: u64 = 10;
/// The night may take so many times the lower bound, ...
const TIMES_MAX: f64 = 2.5;
/// ... and so much more, before it counts as stalled.
const LONGER_MAX: Duration = Duration::from_secs(2 * 3600);
/// How long nodes may take to agree once all is built.
const AGREED_MAX: Duration = Duration::from_secs(1800);
/// So many nodes are compared at the end; all would take as long as the night itself.
const COMPARED: usize = 6;
/// How long after a farewell the machine is off: what it has to say is said by then.
const FAREWELL: Duration = Duration::from_secs(2);
/// The maintainer's machine, which submits, keeps what is revealed, and builds nothing.
const MAINTAINER: usize = 0;
/// A batch lives as long as the longest night.
const BATCH_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// More memory than any machine's builds ask for: cores are what is short.
const MEMORY: u64 = 1 << 40;

/// Somebody comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The program is stopped.
    Farewell,
    /// The machine is off.
    Gone,
    /// A new volunteer takes the seat.
    Come,
}

/// A run.
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) seats: Vec<Seat>,
    /// Who comes and goes when: (when, seat, what), the next one last.
    agenda: Vec<(Timestamp, usize, Step)>,
    people: People,
    /// What machines that are there from the beginning have kept from earlier nights.
    kept: Vec<SharedRecord>,
    /// Of the people, how many have had their turn.
    met: usize,
    dice: Dice,
}

/// How a night is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many volunteers there are at a time.
    pub volunteers: usize,
    /// How many nodes there are beside them that only pass records on.
    pub relays: usize,
    /// What draws everything.
    pub seed: u64,
    /// Whether nobody knows yet how long builds take.
    pub first: bool,
    /// Whether every event is printed.
    pub verbose: bool,
}

/// Runs the scenario.
///
/// # Errors
/// A record can't be made.
pub fn run(options: Options, workload: &Workload) -> anyhow::Result<Outcome> {
    let Options { volunteers, relays, seed, first, verbose } = options;
    let policy = Policy::small();
    let mut work = Work::default();
    let night = Night::plan(workload, seed, &mut work);
    let begin = START + SUBMITTED;
    let (seats, bound) = seats(volunteers, seed, &night, policy.quorum, begin)?;
    let deadline = begin + bound.longest().mul_f64(TIMES_MAX) + LONGER_MAX;
    let schedule = omniscient::schedule(&night.chores, policy.quorum, &seats, begin).context("nobody could build all of it")?;
    let mut run = Run::new(seats, relays, seed, work, policy.clone())?;
    run.world.trace.verbose = verbose;
    if !first {
        run.remember(&night, &policy)?;
    }
    let batch = run.begin(&night, &policy, begin)?;
    let ended = run.build(&batch, deadline);
    if ended.is_some() {
        run.agree();
    } else {
        let unended = ending::unended(&run.world);
        let example = unended.first().cloned().unwrap_or_default();
        let now = run.world.now;
        run.world.checks.fault("ending", now, format!("{} jobs have not ended in time, such as {example}", unended.len()));
    }
    let span = (begin, ended.unwrap_or(run.world.now));
    let actions = run.actions(&batch, &night);
    Ok(Outcome::new(run.world, (volunteers, seed), (night, actions, policy.quorum), (run.seats, bound, schedule), span))
}

/// Who is there, long enough for a night that counts as stalled, and what no scheduler could beat.
fn seats(volunteers: usize, seed: u64, night: &Night, quorum: u16, begin: Timestamp) -> anyhow::Result<(Vec<Seat>, Bound)> {
    // How long the night is depends on who is there, and how long that must be known on the night: twice is enough.
    let mut horizon = LONGER_MAX;
    loop {
        let seats = volunteers::draw(seed, volunteers, START, begin + horizon);
        if let Some(bound) = Bound::of(&night.chores, quorum, &seats, begin) {
            let needed = bound.longest().mul_f64(TIMES_MAX) + LONGER_MAX + AGREED_MAX;
            if needed <= horizon {
                return Ok((seats, bound));
            }
            horizon = needed.max(horizon * 2);
        } else {
            anyhow::ensure!(volunteers > 0, "nobody is there");
            horizon *= 2;
        }
    }
}

impl Run {
    pub(crate) fn new(seats: Vec<Seat>, relays: usize, seed: u64, work: Work, policy: Policy) -> anyhow::Result<Self> {
        let mut dice = Dice::new(seed, "nightly");
        let stays: usize = seats.iter().map(|seat| seat.stays.len()).sum();
        // Everyone is invited by a founder and so begins a branch: the maintainer is one founder, a volunteer the other.
        let society = Society { founders: 2, second_machines: 0.0, friends: 0.0, strangers: 0.0 };
        let people = People::draw(1 + stays, society, START, &mut dice)?;
        let params = Params {
            network: NETWORK,
            lease_ttl: LEASE_TTL,
            clock_difference: Duration::from_secs(60),
            grants: people.grants.clone(),
            policy,
        };
        let mut agenda: Vec<(Timestamp, usize, Step)> = Vec::new();
        for (seat, of) in seats.iter().enumerate() {
            for stay in &of.stays {
                agenda.push((stay.from, seat, Step::Come));
                if stay.farewell {
                    agenda.push((stay.until, seat, Step::Farewell));
                    agenda.push((stay.until + FAREWELL, seat, Step::Gone));
                } else {
                    agenda.push((stay.until, seat, Step::Gone));
                }
            }
        }
        agenda.sort_unstable();
        agenda.reverse();
        let mut weather = Weather::calm(1 + seats.len() + relays, LATENCY, &mut dice);
        weather.loss = LOSS;
        let vacant = |_| node(&people, MAINTAINER, 0, &[], &mut dice);
        let mut world = World::new((0..=seats.len()).map(vacant).collect(), weather, work, params, seed);
        world.add_relays(relays);
        world.compare_every = COMPARE_EVERY;
        Ok(Self { world, seats, agenda, people, kept: Vec::new(), met: 1, dice })
    }

    /// All who are there from the beginning know of the night before.
    ///
    /// # Errors
    /// A record can't be made.
    pub(crate) fn remember(&mut self, night: &Night, policy: &Policy) -> anyhow::Result<()> {
        self.kept = last_night::records(night, &self.people, policy, &mut self.world.work, &mut self.dice)?;
        Ok(())
    }

    /// Starts everybody and submits the batch.
    ///
    /// # Errors
    /// The batch is refused.
    pub(crate) fn begin(&mut self, night: &Night, policy: &Policy, begin: Timestamp) -> anyhow::Result<BatchId> {
        self.world.nodes[MAINTAINER] = node(&self.people, MAINTAINER, 0, &self.kept, &mut self.dice);
        self.world.start(MAINTAINER);
        self.pass(begin);
        let nonce = self.dice.bytes();
        let batch = self.world.work.batch("images", &night.graph, policy, Priority::Nightly, nonce, MAINTAINER);
        self.world.tell(MAINTAINER, Input::Author(Payload::Batch(batch.into()), BATCH_LIFETIME));
        let engine = self.world.nodes[MAINTAINER].engine.as_ref();
        let newest = engine.and_then(|engine| engine.board().of_kind(Kind::Batch).max_by_key(|record| record.issued()));
        let record = newest.context("the batch was not submitted")?;
        Ok(BatchId::from(record.id()))
    }

    /// Everything up to `end` happens, people's coming and going with it.
    pub(crate) fn pass(&mut self, end: Timestamp) {
        while let Some((at, seat, step)) = self.agenda.last().copied()
            && at <= end
        {
            self.agenda.pop();
            self.world.run_until(at);
            self.step(seat, step);
        }
        self.world.run_until(end);
    }

    fn step(&mut self, seat: usize, step: Step) {
        let place = seat + 1; // the maintainer's comes first
        match step {
            Step::Farewell => self.world.tell(place, Input::Leave),
            Step::Gone => self.world.crash(place),
            Step::Come => {
                // A short gap may end before the machine that said farewell is off.
                self.world.crash(place);
                let kept = if self.world.now == START { &*self.kept } else { &[] };
                let newcomer = node(&self.people, self.met, self.seats[seat].cores, kept, &mut self.dice);
                self.met += 1;
                self.world.replace(place, newcomer);
                self.world.start(place);
            }
        }
    }

    /// Waits until all is built; when that was, as the first node knew it, or `None` where it is not by the deadline.
    fn build(&mut self, batch: &BatchId, deadline: Timestamp) -> Option<Timestamp> {
        for tick in 1.. {
            if let Some(done) = self.world.ledger.done.get(batch) {
                return Some(*done);
            }
            if let Some(at) = self.world.ledger.given_up.get(batch).copied() {
                let what = ending::failed(&self.world, batch);
                self.world.checks.fault("ending", at, format!("a node thinks that the batch has failed, and nothing fails here: {what}"));
            }
            if self.world.now >= deadline || !self.world.checks.faults.is_empty() {
                return None;
            }
            self.pass(self.world.now + TICK);
            leases::check(&mut self.world, true);
            if tick % MEMORY_TICKS == 0 {
                memory::check(&mut self.world);
            }
        }
        None
    }

    /// The action of each distinct build, as the maintainer's machine knows it.
    fn actions(&self, batch: &BatchId, night: &Night) -> Vec<Option<ActionId>> {
        let mut actions = vec![None; night.chores.len()];
        let jobs = self.world.nodes[MAINTAINER].engine.as_ref().map_or_else(Vec::new, |engine| engine.jobs(batch));
        for (job, chore) in jobs.iter().zip(&night.chore_of) {
            actions[*chore] = job.action;
        }
        actions
    }

    /// Waits until nodes agree on what was built, nobody coming or going any more.
    fn agree(&mut self) {
        let deadline = self.world.now + AGREED_MAX;
        let step = self.world.nodes.len().div_ceil(COMPARED);
        loop {
            self.world.run_until(self.world.now + TICK * 3);
            let compared = (0..self.world.nodes.len()).step_by(step);
            let Some(difference) = convergence::difference_between(&self.world, compared) else { break };
            if self.world.now >= deadline {
                let now = self.world.now;
                return self.world.checks.fault("convergence", now, difference);
            }
        }
        for what in ending::unended(&self.world) {
            let now = self.world.now;
            self.world.checks.fault("ending", now, what);
        }
    }
}

/// The machine of one of the people, down, with what everybody knows from the start and what it `kept`.
fn node(people: &People, who: usize, cores: u16, kept: &[SharedRecord], dice: &mut Dice) -> Node {
    let facts = Facts { os: "linux".into(), arch: "x86_64".into(), isa: String::new(), features: BTreeSet::new() };
    let lend = Lend { builds: cores > 0, arbiter_only: false, cores, memory: MEMORY };
    let key: SecretKey = people.nodes[who].clone();
    let config = Config { key, facts, programs: BTreeSet::new(), lend };
    let skew_ms = dice.between(-SKEW_MS, SKEW_MS) as i64;
    let mut node = Node::new(people.operators[who], config, Character::default(), skew_ms);
    for record in people.standing.iter().chain(kept) {
        node.disk.write(Write::Record(record.clone()));
    }
    node.disk.sync();
    node
}
