//! The scenario `faults`: a network to which everything happens that can, and which must come through it; and `calm`, the
//! same without faults, for comparison.
//!
//! A phase of safety, in which faults strike and nothing may ever be wrong; then everything is healed, and all jobs must
//! end and all nodes agree before the deadline. What strikes, how often and whom is drawn from the seed.

use std::collections::BTreeSet;
use std::time::Duration;

use barnraiser_protocol::engine::{Config, Engine, Input, Lend, Params};
use barnraiser_protocol::graph::Graph;
use barnraiser_protocol::id::BatchId;
use barnraiser_protocol::platform::Facts;
use barnraiser_protocol::policy::{Policy, Standard};
use barnraiser_protocol::record::payload::{Cancel, Priority, Retry};
use barnraiser_protocol::record::{Kind, Payload};
use barnraiser_protocol::time::Timestamp;

use crate::checks::{convergence, ending, leases, memory};
use crate::dice::Dice;
use crate::plots::{Plot, Series, Shape};
use crate::report::Report;
use crate::world::node::{Character, Node};
use crate::world::people::{People, Society};
use crate::world::weather::Weather;
use crate::world::work::{MEMORY, Nature, Task, Work};
use crate::world::{START, World};

/// Time between two looks at all nodes.
const TICK: Duration = Duration::from_secs(15);
/// The longest that a healed network may take to end all jobs and agree.
const HEALED_MAX: Duration = Duration::from_secs(4 * 3600);
/// Founders, who are trusted. The last of them only settles disputes, so that somebody always can.
const FOUNDERS: usize = 4;
/// Clocks of a healed network differ by this at the most, in milliseconds.
const HEALED_SKEW_MS: f64 = 500.0;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What the seed drew for the run.
#[derive(Debug)]
struct Plan {
    /// How long faults strike.
    trouble: Duration,
    /// Mean time between two of them.
    between: Duration,
    /// Share of nodes that never come back.
    lost: f64,
    /// Greatest difference of a clock in minutes.
    skew_minutes: f64,
    batches: usize,
    jobs: usize,
    policy: Policy,
    lease_ttl: Duration,
    /// Whether nothing goes wrong at all.
    calm: bool,
}

impl Plan {
    fn draw(nodes: usize, dice: &mut Dice) -> Self {
        let strict = Policy { inputs: Standard::CrossVerified, ..Policy::small() };
        let wide = Policy { slots: 3, ..Policy::small() };
        let three = Policy { quorum: 3, slots: 3, ..Policy::small() };
        let policies = if nodes < 12 { vec![Policy::small(), strict] } else { vec![Policy::small(), strict, wide, three] };
        Self {
            trouble: Duration::from_secs(600 + dice.below(1200) as u64),
            between: Duration::from_secs(15 + dice.below(60) as u64),
            lost: dice.between(0.0, 0.2),
            skew_minutes: if dice.chance(0.5) { dice.between(0.0, 0.9) } else { dice.between(0.9, 6.0) },
            batches: 1 + dice.below(3),
            jobs: 3 + dice.below(10 + nodes / 10),
            policy: dice.pick(&policies).clone(),
            lease_ttl: Duration::from_secs(if dice.chance(0.5) { 180 } else { 60 }),
            calm: false,
        }
    }

    /// A network in which nothing goes wrong, with a job for every third node.
    fn calm(nodes: usize, dice: &mut Dice) -> Self {
        Self {
            trouble: Duration::from_secs(900),
            lost: 0.0,
            skew_minutes: 0.005,
            batches: 1,
            jobs: 3 + nodes / 3,
            policy: Policy::small(),
            lease_ttl: Duration::from_secs(180),
            calm: true,
            ..Self::draw(nodes, dice)
        }
    }
}

/// A run.
struct Run {
    world: World,
    plan: Plan,
    dice: Dice,
    /// Draws what came to this scenario later, so that seeds go on meaning what they meant.
    blame: Dice,
    batches: Vec<BatchId>,
    submitted: usize,
    /// Nodes that crashed and come back, and when.
    down: Vec<(Timestamp, usize)>,
    /// Nodes that never come back.
    lost: BTreeSet<usize>,
    /// Nodes whose owner wants the machine, and until when.
    paused: Vec<(Timestamp, usize)>,
    /// When messages arrive again as before.
    storm_until: Timestamp,
    partition_until: Timestamp,
    /// What was seen at every tick.
    samples: Vec<Sample>,
}

/// What is seen at a tick.
#[derive(Debug, Clone, Copy)]
struct Sample {
    minutes: f64,
    up: usize,
    building: usize,
    cut_off: usize,
}

/// As [`run_with`], with the latency that the seed draws.
#[cfg(test)]
pub fn run(nodes: usize, seed: u64, calm: bool, verbose: bool) -> anyhow::Result<Report> {
    run_with(nodes, seed, calm, None, verbose)
}

/// Runs the scenario, or the same network without faults, with messages that take `latency` in the mean or as the seed
/// draws it. `verbose` prints every event.
pub fn run_with(nodes: usize, seed: u64, calm: bool, latency: Option<Duration>, verbose: bool) -> anyhow::Result<Report> {
    let mut run = Run::new(nodes, seed, calm, latency)?;
    run.world.trace.verbose = verbose;
    run.trouble();
    run.heal();
    let healed = run.world.now;
    let ended = run.recover();
    if ended.is_some() {
        run.return_of_the_rested();
    }
    let scenario = if calm { "calm" } else { "faults" };
    let mut report = Report::new(scenario, nodes, seed, &run.world);
    let minutes = |from: Timestamp, to: Timestamp| to.since(from).as_secs_f64() / 60.0;
    report.add("trouble", minutes(START, healed), "min");
    if let Some(ended) = ended {
        report.add("recovery", minutes(healed, ended), "min");
    }
    report.plots.push(run.plot(scenario, seed, minutes(START, healed)));
    Ok(report)
}

impl Run {
    fn new(nodes: usize, seed: u64, calm: bool, latency: Option<Duration>) -> anyhow::Result<Self> {
        let mut dice = Dice::new(seed, "faults");
        let plan = if calm { Plan::calm(nodes, &mut dice) } else { Plan::draw(nodes, &mut dice) };
        let society = Society {
            founders: FOUNDERS,
            second_machines: dice.between(0.0, 0.3),
            friends: dice.between(0.0, 0.3),
            strangers: dice.between(0.0, 0.1),
        };
        let mut blame = Dice::new(seed, "blame");
        let people = People::draw(nodes, society, START, &mut dice)?;
        let params = Params {
            network: crate::world::people::NETWORK,
            lease_ttl: plan.lease_ttl,
            clock_difference: Duration::from_secs(60),
            grants: people.grants.clone(),
            policy: plan.policy.clone(),
        };
        let machines = (0..nodes)
            .map(|number| {
                let skew_ms = dice.between(-1.0, 1.0) * plan.skew_minutes * 60_000.0;
                let mut config = machine(number, nodes, &people, &mut dice);
                if !calm {
                    config.lend.memory = *blame.pick(&[2 << 30, 4 << 30, 16 << 30]);
                }
                let mut node = Node::new(
                    people.operators[number],
                    config,
                    if calm { Character::default() } else { worse(number, character(number, nodes, &mut dice), &mut blame) },
                    skew_ms as i64,
                );
                for record in &people.standing {
                    node.disk.write(crate::world::disk::Write::Record(record.clone()));
                }
                node.disk.sync();
                node
            })
            .collect();
        // Drawn in any case, so that the rest of the run is the same.
        let drawn = Duration::from_millis(10 + dice.below(200) as u64);
        let mut weather = Weather::calm(nodes, latency.unwrap_or(drawn), &mut dice);
        if !calm {
            weather.loss = dice.between(0.0, 0.1);
            weather.duplicates = dice.between(0.0, 0.1);
            weather.stragglers = dice.between(0.0, 0.05);
        }
        let mut world = World::new(machines, weather, Work::default(), params, seed);
        world.compare_every = Duration::from_secs(20 + dice.below(60) as u64);
        world.holders = FOUNDERS.min(nodes);
        let lost = (FOUNDERS..nodes).filter(|_| dice.chance(plan.lost)).collect();
        Ok(Self {
            world,
            plan,
            dice,
            blame,
            batches: Vec::new(),
            submitted: 0,
            down: Vec::new(),
            lost,
            paused: Vec::new(),
            storm_until: START,
            partition_until: START,
            samples: Vec::new(),
        })
    }

    fn trouble(&mut self) {
        for node in 0..self.world.nodes.len() {
            self.world.start(node);
        }
        let end = START + self.plan.trouble;
        self.world.run_until(START + Duration::from_secs(5));
        self.submit();
        let mut strikes = self.world.now + self.dice.exponential(self.plan.between);
        let mut tick = self.world.now + TICK;
        while self.world.now < end {
            self.world.run_until(strikes.min(tick).min(end));
            self.come_back();
            if self.world.now >= strikes {
                if !self.plan.calm {
                    self.strike();
                }
                strikes = self.world.now + self.dice.exponential(self.plan.between);
            }
            if self.world.now >= tick {
                leases::check(&mut self.world, false);
                memory::check(&mut self.world);
                self.sample();
                tick = self.world.now + TICK;
            }
        }
    }

    fn sample(&mut self) {
        let nodes = &self.world.nodes;
        let cut_off = |node: &usize| !(0..nodes.len()).any(|to| to != *node && self.world.weather.connected(*node, to));
        self.samples.push(Sample {
            minutes: self.world.now.since(START).as_secs_f64() / 60.0,
            up: nodes.iter().filter(|node| node.engine.is_some()).count(),
            building: nodes.iter().map(|node| node.builds.len()).sum(),
            cut_off: (0..nodes.len()).filter(cut_off).count(),
        });
    }

    /// How the network fared, tick by tick.
    fn plot(&self, scenario: &str, seed: u64, healed: f64) -> Plot {
        let line = |label, value: fn(&Sample) -> usize| {
            Series::new(label, Shape::Steps, self.samples.iter().map(|sample| (sample.minutes, value(sample) as f64)).collect())
        };
        let nodes = self.world.nodes.len();
        Plot {
            name: format!("{scenario}-{nodes}-{seed}"),
            title: format!("Trouble and recovery, {nodes} nodes, seed {seed}"),
            axes: ("minutes".into(), "how many".into()),
            series: vec![
                line("machines that are up", |sample| sample.up),
                line("builds that run", |sample| sample.building),
                line("machines that nobody hears", |sample| sample.cut_off),
            ],
            marks: vec![(healed, "everything is healed".into())],
            places: Vec::new(),
        }
    }

    /// One fault, or one thing that people do.
    fn strike(&mut self) {
        let now = self.world.now;
        let node = self.dice.below(self.world.nodes.len());
        let until = now + self.dice.exponential(Duration::from_secs(120));
        match self.dice.below(12) {
            0..=3 => {
                self.world.crash(node);
                self.down.push((until, node));
            }
            4 => {
                let parts = 2 + self.dice.below(2);
                self.world.weather.partition(parts, &mut self.dice);
                self.partition_until = until;
            }
            5 => {
                self.world.weather.mute(node);
                self.partition_until = self.partition_until.max(until);
            }
            6 => {
                (self.world.weather.loss, self.world.weather.stragglers) = (self.dice.between(0.2, 0.9), 0.3);
                self.storm_until = until;
            }
            7 => {
                let skew_ms = self.dice.between(-1.0, 1.0) * self.plan.skew_minutes * 60_000.0;
                self.world.set_clock(node, skew_ms as i64);
            }
            8 | 9 => {
                self.pause(node, true);
                self.paused.push((until, node));
            }
            10 if self.submitted < self.plan.batches => self.submit(),
            _ => self.change_of_mind(),
        }
    }

    /// What was struck for a while only comes back.
    fn come_back(&mut self) {
        let now = self.world.now;
        for node in due(&mut self.down, now) {
            self.world.start(node);
        }
        for node in due(&mut self.paused, now) {
            self.pause(node, false);
        }
        if self.partition_until <= now {
            self.world.weather.join();
        }
        if self.storm_until <= now && self.world.weather.loss > 0.1 {
            (self.world.weather.loss, self.world.weather.stragglers) = (0.05, 0.02);
        }
    }

    fn pause(&mut self, node: usize, pause: bool) {
        let lend = Lend { builds: !pause, ..self.world.nodes[node].config.lend };
        self.world.tell(node, Input::Lend(lend));
        if pause {
            self.world.tell(node, Input::HandBackAll);
        }
    }

    /// A founder who is there submits a batch.
    fn submit(&mut self) {
        let founders = FOUNDERS.min(self.world.nodes.len());
        let Some(author) = (0..founders).find(|node| self.world.nodes[*node].engine.is_some()) else { return };
        let number = self.submitted;
        self.submitted += 1;
        let mut jobs = Vec::new();
        for index in 0..self.plan.jobs {
            // Some jobs of later batches are the same as in the first: equal actions are built once.
            let shared = number > 0 && self.dice.chance(0.3);
            let name = format!("job-{}-{index}", if shared { 0 } else { number });
            let needs: BTreeSet<usize> = (0..self.dice.below(3)).map(|_| self.dice.below(index)).filter(|need| *need < index).collect();
            let nature = match self.dice.below(20) {
                0 => Nature::Broken,
                1 => Nature::Unsteady,
                _ => Nature::Sound,
            };
            let (nature, memory) = if self.plan.calm { (nature, MEMORY / 2) } else { self.blame_draws(nature) };
            let task = Task { nature, core_seconds: self.dice.log_normal(60.0, 1.0).min(400.0), output_bytes: 0, memory };
            let known = self.world.work.knows(&name);
            let task = if shared && known.is_some() { known.unwrap_or(task) } else { task };
            let cores = 1 + u16::try_from(self.dice.below(2)).unwrap_or(0);
            let arch = if self.dice.chance(0.1) { "aarch64" } else { "x86_64" };
            jobs.push(self.world.work.add(&name, &needs.into_iter().collect::<Vec<_>>(), cores, arch, task));
        }
        let graph = Graph { jobs };
        let priority = *self.dice.pick(&[Priority::Security, Priority::Nightly, Priority::Background]);
        let (policy, nonce) = (self.plan.policy.clone(), self.dice.bytes());
        let batch = self.world.work.batch(&format!("batch-{number}"), &graph, &policy, priority, nonce, author);
        // Its blobs go to the founders' other machines, as the node pushes them to holders.
        for holder in 0..founders {
            self.world.work.hold(batch.graph, holder);
            self.world.work.hold(batch.policy, holder);
        }
        self.world.tell(author, Input::Author(Payload::Batch(batch.into()), DAY));
        let Some(engine) = &self.world.nodes[author].engine else { return };
        let newest = engine.board().of_kind(Kind::Batch).max_by_key(|record| (record.issued(), record.sequence()));
        self.batches.extend(newest.map(|record| BatchId::from(record.id())));
    }

    /// Jobs that bring machines down, and jobs that want more memory than their recipe says: of some a larger machine has
    /// enough, of others none has.
    fn blame_draws(&mut self, nature: Nature) -> (Nature, u64) {
        let nature = if self.blame.chance(0.04) { Nature::Killer } else { nature };
        let memory = match self.blame.below(20) {
            0 | 1 => MEMORY / 2 * 3,
            2 => MEMORY * 3,
            _ => MEMORY / 2,
        };
        (nature, memory)
    }

    /// A founder has everything built again that failed, since much of it failed for the faults around it.
    fn retry_failed(&mut self) {
        let Some(founder) = (0..FOUNDERS.min(self.world.nodes.len())).find(|node| self.world.nodes[*node].engine.is_some()) else { return };
        for batch in self.batches.clone() {
            self.retry(founder, batch);
        }
    }

    /// A founder cancels a batch, or has what failed built again.
    fn change_of_mind(&mut self) {
        if self.batches.is_empty() {
            return;
        }
        let batch = *self.dice.pick(&self.batches);
        let founder = self.dice.below(FOUNDERS.min(self.world.nodes.len()));
        if self.world.nodes[founder].engine.is_none() {
            return;
        }
        if self.dice.chance(0.15) {
            self.world.tell(founder, Input::Author(Payload::Cancel(Cancel { batch }), DAY));
            return;
        }
        self.retry(founder, batch);
    }

    fn retry(&mut self, founder: usize, batch: BatchId) {
        let Some(engine) = &self.world.nodes[founder].engine else { return };
        let failed: Vec<_> = engine.failed_actions(&batch).into_iter().take(64).collect();
        if let Ok(actions) = failed.try_into().map(|actions: barnraiser_protocol::bounded::BoundedVec<_, 64>| actions)
            && !actions.is_empty()
        {
            self.world.tell(founder, Input::Author(Payload::Retry(Retry { batch, actions }), DAY));
        }
    }

    /// Everything works again; machines that are lost stay lost.
    fn heal(&mut self) {
        self.world.weather.clear();
        self.world.lost = self.lost.clone();
        for node in self.lost.clone() {
            self.world.crash(node);
        }
        for node in 0..self.world.nodes.len() {
            let skew_ms = self.dice.between(-HEALED_SKEW_MS, HEALED_SKEW_MS);
            self.world.set_clock(node, skew_ms as i64);
            if !self.lost.contains(&node) {
                self.world.start(node);
                self.pause(node, false);
            }
        }
        if !self.plan.calm {
            self.retry_failed();
        }
    }

    /// Waits until all jobs have ended and all nodes agree; when that was, or `None` and faults.
    fn recover(&mut self) -> Option<Timestamp> {
        let deadline = self.world.now + HEALED_MAX;
        while self.world.now < deadline {
            self.world.run_until(self.world.now + TICK);
            leases::check(&mut self.world, true);
            memory::check(&mut self.world);
            self.sample();
            if !self.world.checks.faults.is_empty() {
                return None;
            }
            if ending::unended(&self.world).is_empty() && convergence::difference(&self.world).is_none() {
                return Some(self.world.now);
            }
        }
        let now = self.world.now;
        for what in ending::unended(&self.world) {
            self.world.checks.fault("ending", now, what);
        }
        if let Some(what) = convergence::difference(&self.world) {
            self.world.checks.fault("convergence", now, what);
        }
        None
    }
}

impl Run {
    /// Builders that rest come back: they prove themselves, rest anew, or go on without a proof.
    fn return_of_the_rested(&mut self) {
        let rested = |world: &World, node: usize| world.nodes[node].engine.as_ref().and_then(Engine::resting_until);
        let resting: Vec<usize> = (0..self.world.nodes.len()).filter(|node| rested(&self.world, *node).is_some()).collect();
        let Some(last) = resting.iter().filter_map(|node| rested(&self.world, *node)).max() else { return };
        if last > self.world.now + HEALED_MAX {
            return; // who fails again and again rests for a day
        }
        self.world.run_until(last + TICK);
        leases::check(&mut self.world, true);
        let now = self.world.now;
        for node in resting {
            // Clocks of a healed network are right to half a second.
            if rested(&self.world, node).is_some_and(|until| until + TICK < now) {
                self.world.checks.fault("ending", now, format!("node {node} rests though its time is over"));
            }
        }
    }
}

/// Takes out the nodes whose time has come.
fn due(waiting: &mut Vec<(Timestamp, usize)>, now: Timestamp) -> Vec<usize> {
    let (due, later): (Vec<_>, Vec<_>) = waiting.iter().partition(|(until, _)| *until <= now);
    *waiting = later;
    due.into_iter().map(|(_, node)| node).collect()
}

fn machine(number: usize, nodes: usize, people: &People, dice: &mut Dice) -> Config {
    // Few machines of the rarer kind, but enough of them for a quorum.
    let rare = number >= FOUNDERS && number % 5 == 4;
    let facts =
        Facts { os: "linux".into(), arch: if rare { "aarch64" } else { "x86_64" }.into(), isa: String::new(), features: BTreeSet::new() };
    let arbiter_only = is_arbiter(number, nodes);
    let lend = Lend { builds: true, arbiter_only, cores: 2 + u16::try_from(dice.below(6)).unwrap_or(0), memory: 16 << 30 };
    Config { key: people.nodes[number].clone(), facts, programs: BTreeSet::new(), lend }
}

/// The last of the founders only settles disputes.
const fn is_arbiter(number: usize, nodes: usize) -> bool {
    number + 1 == if FOUNDERS < nodes { FOUNDERS } else { nodes }
}

/// What may be wrong with a machine beside that.
fn worse(number: usize, character: Character, blame: &mut Dice) -> Character {
    let (freezes, fails) = (blame.chance(0.08), blame.chance(0.05));
    if number < FOUNDERS {
        return character;
    }
    Character { freezes: if freezes { blame.between(0.0, 0.5) } else { 0.0 }, fails, ..character }
}

fn character(number: usize, nodes: usize, dice: &mut Dice) -> Character {
    let honest = number < FOUNDERS;
    let steady = is_arbiter(number, nodes);
    Character {
        lies: !honest && dice.chance(0.08),
        fellows: false,
        speed: if dice.chance(0.1) { dice.between(0.1, 0.3) } else { dice.between(0.5, 2.0) },
        spoils: if !steady && dice.chance(0.2) { dice.between(0.0, 0.5) } else { 0.0 },
        hangs: if !honest && dice.chance(0.1) { dice.between(0.0, 0.5) } else { 0.0 },
        freezes: 0.0,
        fails: false,
        sync_ms: dice.between(1.0, 40.0),
    }
}
