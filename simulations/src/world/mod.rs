//! A network of simulated machines on simulated time. Everything that happens is an event on one heap, in the order of
//! (time, number), so a run depends on its seed alone.
//!
//! The world does for an engine what the node program does for the real one: it delivers records, syncs the disk before
//! it sends what must be durable, fetches blobs, runs builds. [`weather`] is the network, [`links`] how fast blobs come
//! over it, [`graphs`] how all get the same one, [`node`] the machine, [`disk`] what survives a crash, [`work`] what builds make, [`people`] who owns the machines.

pub mod disk;
pub mod graphs;
pub mod links;
mod meeting;
pub mod mesh;
pub mod node;
pub mod people;
pub mod trace;
pub mod weather;
pub mod work;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

use barnraiser_protocol::engine::{BuildOrder, Engine, Event, Input, Output, Params, Reception, Want};
use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::outcome::{FailureClass, Outcome};
use barnraiser_protocol::record::SharedRecord;
use barnraiser_protocol::record::payload::LeaseRef;
use barnraiser_protocol::time::Timestamp;

use crate::checks::Checks;
use crate::dice::Dice;
use crate::ledger::{End, Ledger};
use disk::Write;
use graphs::Spreading;
use links::Links;
use mesh::{Arrival, Mesh};
use node::{Build, Node};
use trace::Trace;
use weather::Weather;
use work::{Nature, Work, failure, particulars};

/// When every run begins.
pub const START: Timestamp = Timestamp(1_800_000_000_000);
/// How long a node tries to get the inputs of a build before it gives up.
const INPUTS_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a blob that nobody has is asked for again.
const FETCH_AGAIN: Duration = Duration::from_secs(5);

/// How often a builder says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(45);
/// Mean time until a machine is up again that a job brought down.
const REBOOT_MEAN: Duration = Duration::from_secs(120);

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    /// A record arrives.
    Arrival { from: usize, to: usize, record: SharedRecord },
    /// A node's engine wants to be called.
    Wake { node: usize },
    /// A node's disk has synced.
    Synced { node: usize, life: u32 },
    /// A build ends.
    Built { node: usize, life: u32, lease: LeaseRef, since: Timestamp },
    /// A build is further than it was.
    Moved { node: usize, life: u32, lease: LeaseRef, since: Timestamp },
    /// A machine that a job brought down comes up again.
    Reboot { node: usize, life: u32 },
    /// A blob may be there.
    Fetch { node: usize, life: u32, want: Want, blob: BlobHash },
    /// A node looks for a peer to compare records with.
    Compare { node: usize, life: u32, first: bool },
    /// Two nodes compare records.
    Meeting { from: usize, to: usize },
    /// A node has all that a meeting brought.
    Learnt { node: usize, life: u32 },
    /// A node that only passes records on hears of a batch.
    Heard { node: usize },
    /// A node's search for the graph goes on.
    Graph(graphs::Move),
}

struct Entry {
    at: Timestamp,
    number: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The simulated network.
pub struct World {
    /// True time.
    pub now: Timestamp,
    /// The machines.
    pub nodes: Vec<Node>,
    /// What is between them.
    pub weather: Weather,
    /// How fast blobs come over it.
    pub links: Links,
    /// What is built.
    pub work: Work,
    /// What all nodes have in common.
    pub params: Params,
    /// What happened.
    pub trace: Trace,
    /// What was counted.
    pub ledger: Ledger,
    /// What must hold.
    pub checks: Checks,
    /// Mean time between two comparisons that a node begins.
    pub compare_every: Duration,
    /// How many of the first nodes keep what is revealed for the others.
    pub holders: usize,
    /// How many records of one author go the same way, after each other: one, but where there are thousands of nodes.
    pub records_a_way: u32,
    /// Whether the graph of the next batch comes to all nodes from each other, and not from nowhere.
    pub spread_graphs: bool,
    /// That graph on its way.
    pub graph: Option<Spreading>,
    mesh: Mesh,
    /// How many machines left for good.
    pub replaced: usize,
    /// Machines that never come up again.
    pub lost: BTreeSet<usize>,
    agenda: BinaryHeap<Reverse<Entry>>,
    number: u64,
    dice: Dice,
}

impl World {
    /// Machines that are all down; nothing has happened.
    pub fn new(nodes: Vec<Node>, weather: Weather, work: Work, params: Params, seed: u64) -> Self {
        Self {
            now: START,
            mesh: Mesh::new(nodes.len(), seed),
            nodes,
            weather,
            links: Links::default(),
            work,
            params,
            trace: Trace::default(),
            ledger: Ledger::since(START),
            checks: Checks::default(),
            compare_every: Duration::from_secs(30),
            holders: 1,
            records_a_way: 1,
            spread_graphs: false,
            graph: None,
            replaced: 0,
            lost: BTreeSet::new(),
            agenda: BinaryHeap::new(),
            number: 0,
            dice: Dice::new(seed, "world"),
        }
    }

    /// Nodes that pass records on and are nothing else; the weather must know of them.
    pub fn add_relays(&mut self, relays: usize) {
        self.mesh.grow(relays);
    }

    /// Number of nodes, those among them that only pass records on.
    pub fn population(&self) -> usize {
        self.mesh.len()
    }

    /// Everything up to `end` happens.
    pub fn run_until(&mut self, end: Timestamp) {
        while let Some(Reverse(entry)) = self.agenda.peek()
            && entry.at <= end
        {
            let Some(Reverse(entry)) = self.agenda.pop() else { return };
            self.now = entry.at;
            self.happen(entry.what);
        }
        self.now = end;
    }

    fn after(&mut self, wait: Duration, what: Happening) {
        self.at(self.now + wait, what);
    }

    fn at(&mut self, at: Timestamp, what: Happening) {
        self.number += 1;
        self.agenda.push(Reverse(Entry { at: at.max(self.now), number: self.number, what }));
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrival { from, to, record } => self.arrive(from, to, &record),
            Happening::Wake { node } => self.wake(node),
            Happening::Synced { node, life } => self.synced(node, life),
            Happening::Built { node, life, lease, since } => self.built(node, life, lease, since),
            Happening::Moved { node, life, lease, since } => self.moved(node, life, lease, since),
            Happening::Reboot { node, life } => self.reboot(node, life),
            Happening::Fetch { node, life, want, blob } => self.fetch(node, life, want, blob),
            Happening::Compare { node, life, first } => self.look_for_peer(node, life, first),
            Happening::Meeting { from, to } => self.meet(from, to),
            Happening::Learnt { node, life } => self.learnt(node, life),
            Happening::Heard { node } => self.seek_graph(node),
            Happening::Graph(step) => self.graph_moves(step),
        }
    }

    /// Starts a machine that is down.
    pub fn start(&mut self, node: usize) {
        if self.nodes[node].engine.is_some() {
            return;
        }
        let seed = self.dice.bytes();
        self.nodes[node].start(&self.params, seed, self.now);
        self.trace.add(self.now, format_args!("start {node}"));
        self.ledger.started(node, self.now);
        self.mesh.join(node);
        if let Some(graph) = &mut self.graph {
            graph.replace(node, &self.mesh.connected(node));
        }
        let life = self.nodes[node].life;
        self.at(self.now, Happening::Compare { node, life, first: true });
        self.pump(node);
    }

    /// Cuts the power of a machine.
    pub fn crash(&mut self, node: usize) {
        if self.nodes[node].engine.is_none() {
            return;
        }
        self.trace.add(self.now, format_args!("crash {node}"));
        self.ledger.builds_lost += self.nodes[node].builds.len() as u64;
        self.mesh.leave(node);
        for build in self.nodes[node].builds.values() {
            self.ledger.ended(node, build, self.now, End::Lost);
        }
        self.nodes[node].stop();
        self.nodes[node].disk.crash(&mut self.dice);
    }

    /// Puts another machine, which is down, into the place of one that is down and never comes back.
    pub fn replace(&mut self, place: usize, mut newcomer: Node) {
        // What was meant for the one before is not meant for this one.
        newcomer.life = self.nodes[place].life;
        self.work.forget_holder(place);
        self.nodes[place] = newcomer;
        self.replaced += 1;
    }

    /// Sets a machine's clock.
    pub fn set_clock(&mut self, node: usize, skew_ms: i64) {
        self.trace.add(self.now, format_args!("clock {node} {skew_ms}"));
        self.nodes[node].skew_ms = skew_ms;
        self.nodes[node].wake_at = None;
        self.pump(node);
    }

    /// Tells a machine's engine something.
    pub fn tell(&mut self, node: usize, input: Input) {
        if let Input::Lend(lend) = &input {
            self.nodes[node].config.lend = *lend;
        }
        self.with(node, |engine, clock| engine.handle(clock, input));
    }

    /// Calls `f` with the engine of a machine, if it is up, and does what follows.
    fn with(&mut self, node: usize, f: impl FnOnce(&mut Engine, Timestamp)) {
        let clock = self.nodes[node].clock(self.now);
        if let Some(engine) = self.nodes[node].engine.as_mut() {
            f(engine, clock);
            self.pump(node);
        }
    }

    fn pump(&mut self, node: usize) {
        let new = self.nodes[node].settle(self.now);
        let (machine, clock) = (&self.nodes[node], self.nodes[node].clock(self.now));
        if let Some(engine) = &machine.engine {
            for output in &machine.outbox[new..] {
                self.ledger.said(node, self.now, output);
                self.checks.said(engine, (node, clock), output, &mut self.work);
            }
        }
        self.flush(node);
        self.plan_wake(node);
    }

    fn plan_wake(&mut self, node: usize) {
        let machine = &mut self.nodes[node];
        let Some(at) = machine.engine.as_ref().and_then(Engine::poll_timeout) else { return };
        let at = machine.when(at).max(self.now);
        if machine.wake_at != Some(at) {
            machine.wake_at = Some(at);
            self.at(at, Happening::Wake { node });
        }
    }

    fn wake(&mut self, node: usize) {
        if self.nodes[node].wake_at != Some(self.now) {
            return; // it was put off, or the machine was restarted
        }
        self.nodes[node].wake_at = None;
        self.with(node, |engine, clock| engine.handle_timeout(clock));
    }

    /// Begins what the engine wants: what must be durable is synced first, and all that comes with it waits for that.
    fn flush(&mut self, node: usize) {
        let machine = &mut self.nodes[node];
        if !machine.flushing.is_empty() || machine.outbox.is_empty() {
            return;
        }
        let outputs = std::mem::take(&mut machine.outbox);
        let mut durable = false;
        for output in &outputs {
            match output {
                Output::Persist(record) => machine.disk.write(Write::Record(record.clone())),
                Output::PersistResult(result) => machine.disk.write(Write::Result(Box::new(result.clone()))),
                _ => continue,
            }
            durable = true;
        }
        if durable {
            machine.flushing = outputs;
            let (mean, life) = (Duration::from_secs_f64(machine.character.sync_ms / 1000.0), machine.life);
            let wait = self.dice.exponential(mean).max(Duration::from_millis(1));
            self.after(wait, Happening::Synced { node, life });
        } else {
            for output in outputs {
                self.carry_out(node, output);
            }
        }
    }

    fn synced(&mut self, node: usize, life: u32) {
        let machine = &mut self.nodes[node];
        if machine.life != life || machine.engine.is_none() {
            return;
        }
        machine.disk.sync();
        let outputs = std::mem::take(&mut machine.flushing);
        for output in &outputs {
            if let Output::Persist(record) = output {
                machine.unwritten.remove(&record.id());
            }
        }
        for output in outputs {
            self.carry_out(node, output);
        }
        self.flush(node);
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        match output {
            Output::Send(record) => self.gossip(node, &record),
            Output::Fetch { want: Want::Graph(_), blob, .. } if self.graph.as_ref().is_some_and(|graph| graph.blob == blob) => {
                self.seek_graph(node);
            }
            Output::Fetch { want, blob, .. } => {
                let life = self.nodes[node].life;
                let wait = self.weather.delay(node, node, &mut self.dice) * 2;
                self.after(wait, Happening::Fetch { node, life, want, blob });
            }
            Output::Start(order) => self.begin_build(node, order),
            Output::Stop(lease) => {
                if let Some(build) = self.nodes[node].builds.remove(&lease) {
                    self.ledger.ended(node, &build, self.now, End::Stopped);
                    self.trace.add(self.now, format_args!("stop {node} {}", lease_text(&lease)));
                }
            }
            Output::Open(result) => {
                for tree in result.outcomes().filter_map(Outcome::tree) {
                    self.work.hold(tree, node);
                    for holder in 0..self.holders.min(self.nodes.len()) {
                        if self.nodes[holder].engine.is_some() && self.weather.connected(node, holder) {
                            self.work.hold(tree, holder);
                        }
                    }
                }
            }
            Output::Forget(ids) => ids.into_iter().for_each(|id| self.nodes[node].disk.write(Write::Forget(id))),
            Output::ForgetResult(lease) => self.nodes[node].disk.write(Write::ForgetResult(lease)),
            Output::Event(Event::Verdict { action, verdict, .. }) => {
                self.trace.add(self.now, format_args!("verdict {node} {} {:?}", action.short(), verdict.state));
            }
            Output::Event(Event::LeaseLost { lease, reason }) => {
                self.trace.add(self.now, format_args!("lost {node} {}: {reason}", lease_text(&lease)));
            }
            Output::Persist(_) | Output::PersistResult(_) | Output::Event(_) => {}
        }
    }

    /// A machine says a record that its owner wrote elsewhere.
    pub fn say(&mut self, node: usize, record: &SharedRecord) {
        self.arrive(node, node, record);
        self.gossip(node, record);
    }

    fn gossip(&mut self, author: usize, record: &SharedRecord) {
        self.trace.add(self.now, format_args!("say {author} {:?} {}", record.kind(), record.id().short()));
        let spread = self.mesh.way(author, &self.weather, self.records_a_way);
        self.ledger.sent(record, &spread);
        let with_engine = self.nodes.len();
        self.spread_graph(author, record, &spread);
        for Arrival { after, to, from } in spread.arrivals.iter().copied().filter(|arrival| arrival.to < with_engine) {
            if self.dice.chance(self.weather.duplicates) {
                let again = after + self.weather.delay(from, to, &mut self.dice);
                self.after(again, Happening::Arrival { from, to, record: record.clone() });
            }
            self.after(after, Happening::Arrival { from, to, record: record.clone() });
        }
    }

    fn arrive(&mut self, from: usize, to: usize, record: &SharedRecord) {
        if !self.weather.connected(from, to) {
            return;
        }
        let clock = self.nodes[to].clock(self.now);
        let Some(engine) = self.nodes[to].engine.as_mut() else { return };
        let reception = engine.receive(clock, record);
        self.ledger.received += 1;
        match reception {
            Reception::Known | Reception::Outdated => return,
            Reception::New => self.nodes[to].disk.write(Write::Record(record.clone())),
            Reception::Parked => {}
            Reception::OverQuota | Reception::NotHeeded(_) | Reception::Unauthorised(_) => self.ledger.refused += 1,
        }
        self.trace.add(self.now, format_args!("hear {to} {}", record.id().short()));
        self.pump(to);
    }

    fn fetch(&mut self, node: usize, life: u32, want: Want, blob: BlobHash) {
        if self.nodes[node].life != life || self.nodes[node].engine.is_none() {
            return;
        }
        match self.work.bytes(&blob).filter(|_| self.can_get(node, &blob)) {
            Some(bytes) => {
                self.work.hold(blob, node);
                self.with(node, |engine, clock| engine.handle(clock, Input::Fetched { want, bytes }));
            }
            None => self.after(FETCH_AGAIN, Happening::Fetch { node, life, want, blob }),
        }
    }

    fn can_get(&self, node: usize, blob: &BlobHash) -> bool {
        self.work.holders(blob).any(|holder| {
            let up = self.nodes[holder].engine.is_some();
            holder == node || (up && self.weather.connected(holder, node) && self.weather.connected(node, holder))
        })
    }

    fn begin_build(&mut self, node: usize, order: BuildOrder) {
        let lease = order.lease;
        self.trace.add(self.now, format_args!("build {node} {}", lease_text(&lease)));
        self.ledger.builds += 1;
        let missing = order.action.needs.iter().any(|need| !self.can_get(node, &need.tree));
        let character = self.nodes[node].character;
        let core_seconds = self.work.task(&order.action).map_or(1.0, |task| task.core_seconds);
        let once = Duration::from_secs_f64(core_seconds / f64::from(order.action.cores.max(1)) / character.speed);
        let spoilt = [FailureClass::Lost, FailureClass::Sandbox, FailureClass::Upload];
        let (outcome, took) = if missing {
            (failure(FailureClass::Fetch), INPUTS_TIMEOUT)
        } else if self.dice.chance(character.spoils) {
            (failure(*self.dice.pick(&spoilt)), once.mul_f64(self.dice.unit()))
        } else if self.dice.chance(character.hangs) {
            (failure(FailureClass::NoProgress), once.mul_f64(self.dice.unit()) + order.limits.silent)
        } else if character.lies {
            (Work::lie(&order.action, if character.fellows { usize::MAX } else { node }), once)
        } else if character.fails {
            (failure(FailureClass::Build), once.mul_f64(self.dice.unit()))
        } else {
            (self.work.make(&order.action, order.limits.memory, &mut self.dice), once)
        };
        let fetching = if missing { Duration::ZERO } else { self.fetching(node, &order.action) };
        let frozen = (character.freezes > 0.0 && self.dice.chance(character.freezes)).then(|| self.now + took.mul_f64(self.dice.unit()));
        for need in order.action.needs.iter().filter(|_| !missing) {
            self.work.hold(need.tree, node);
        }
        if let (Some(tree), Some(task)) = (outcome.tree(), self.work.task(&order.action)) {
            self.work.weigh(tree, task.output_bytes);
        }
        // The second build is not begun where the first says nothing of the job.
        let again = (order.twice && outcome.is_vote()).then(|| match outcome.tree() {
            Some(_) if !character.lies => self.work.make(&order.action, order.limits.memory, &mut self.dice),
            _ => outcome.clone(),
        });
        let took = fetching + if again.is_some() { took * 2 } else { took };
        let (life, since) = (self.nodes[node].life, self.now);
        self.nodes[node].builds.insert(lease, Build { order, outcomes: (outcome, again), since, frozen });
        self.after(PROGRESS_EVERY, Happening::Moved { node, life, lease, since });
        if frozen.is_none() {
            self.after(took, Happening::Built { node, life, lease, since });
        }
    }

    /// The builder says how far a build is; one that is frozen is where it was.
    fn moved(&mut self, node: usize, life: u32, lease: LeaseRef, since: Timestamp) {
        let Some(build) = self.nodes[node].builds.get(&lease).filter(|build| build.since == since) else { return };
        if self.nodes[node].life != life {
            return;
        }
        let until = build.frozen.map_or(self.now, |frozen| frozen.min(self.now));
        let cpu_ms = u64::try_from(until.since(since).as_millis()).unwrap_or(u64::MAX) + 1;
        self.with(node, |engine, clock| engine.handle(clock, Input::Progress { lease, log_bytes: 1, cpu_ms }));
        self.after(PROGRESS_EVERY, Happening::Moved { node, life, lease, since });
    }

    /// A machine that a job brought down comes up again, unless it is lost for good.
    fn reboot(&mut self, node: usize, life: u32) {
        if self.nodes[node].life == life && !self.lost.contains(&node) {
            self.start(node);
        }
    }

    fn built(&mut self, node: usize, life: u32, lease: LeaseRef, since: Timestamp) {
        // A build that was stopped, and perhaps begun again later, does not end now.
        if self.nodes[node].life != life || self.nodes[node].builds.get(&lease).is_none_or(|build| build.since != since) {
            return;
        }
        let kills = |build: &Build| self.work.task(&build.order.action).is_some_and(|task| task.nature == Nature::Killer);
        let honest = !self.nodes[node].character.lies && !self.nodes[node].character.fails;
        if honest && self.nodes[node].builds.get(&lease).is_some_and(kills) {
            self.ledger.killed += 1;
            self.crash(node);
            let wait = self.dice.exponential(REBOOT_MEAN);
            return self.after(wait, Happening::Reboot { node, life });
        }
        let Some(build) = self.nodes[node].builds.remove(&lease) else { return };
        let made = build.outcomes.0.tree().is_some();
        self.ledger.ended(node, &build, self.now, if made { End::Built } else { End::Failed });
        let Build { order, outcomes: (outcome, again), since, .. } = build;
        self.trace.add(self.now, format_args!("built {node} {}", lease_text(&lease)));
        self.ledger.builds_ended += 1;
        let particulars = particulars(&order, self.now.since(since));
        self.with(node, |engine, clock| engine.handle(clock, Input::Finished { lease, outcome, again, particulars }));
    }
}

/// A lease, for the trace.
pub fn lease_text(lease: &LeaseRef) -> String {
    format!("{}/{}@{}", lease.action.short(), lease.slot.0, lease.epoch)
}
