//! One simulated machine: the real engine, a clock that is wrong, a disk that forgets and a builder with a character.

use std::collections::{BTreeMap, BTreeSet};

use barnraiser_protocol::engine::{BuildOrder, Capacity, Config, Engine, Input, Lend, Output, Params};
use barnraiser_protocol::id::{OperatorId, RecordId};
use barnraiser_protocol::outcome::Outcome;
use barnraiser_protocol::record::payload::LeaseRef;
use barnraiser_protocol::time::Timestamp;

use super::disk::Disk;

/// How a machine and its owner behave.
#[derive(Debug, Clone, Copy)]
pub struct Character {
    /// Whether it says that it made what it didn't. Each liar has lies of its own.
    pub lies: bool,
    /// Whether its lies are those of its fellows, who agree on what to say.
    pub fellows: bool,
    /// How fast one of its cores is; 1 is the reference machine.
    pub speed: f64,
    /// Share of its builds that its own faults end (sandbox, disk, a process that was killed).
    pub spoils: f64,
    /// Share of its builds that hang until the limit on silence ends them.
    pub hangs: f64,
    /// Share of its builds that hang while the machine goes on saying that it builds.
    pub freezes: f64,
    /// Whether its builds fail, all of them.
    pub fails: bool,
    /// Mean time of a sync in milliseconds.
    pub sync_ms: f64,
}

impl Default for Character {
    fn default() -> Self {
        Self { lies: false, fellows: false, speed: 1.0, spoils: 0.0, hangs: 0.0, freezes: 0.0, fails: false, sync_ms: 5.0 }
    }
}

/// A build that runs.
#[derive(Debug)]
pub struct Build {
    /// What was ordered.
    pub order: BuildOrder,
    /// What will come of it; for an arbiter of the second build too.
    pub outcomes: (Outcome, Option<Outcome>),
    /// When it began.
    pub since: Timestamp,
    /// When it stops moving without coming to an end.
    pub frozen: Option<Timestamp>,
}

/// A machine.
pub struct Node {
    /// Who answers for it.
    pub operator: OperatorId,
    /// The engine while the machine is up.
    pub engine: Option<Engine>,
    /// What the engine is told of the machine.
    pub config: Config,
    /// How it behaves.
    pub character: Character,
    /// Its clock's difference to true time in milliseconds.
    pub skew_ms: i64,
    /// How often it was started: what was meant for an earlier life is void.
    pub life: u32,
    /// What survives.
    pub disk: Disk,
    /// What runs.
    pub builds: BTreeMap<LeaseRef, Build>,
    /// What the engine wants and is not begun yet.
    pub(super) outbox: Vec<Output>,
    /// What waits for the disk's sync.
    pub(super) flushing: Vec<Output>,
    /// Own records that a crash would undo: shown to nobody.
    pub(super) unwritten: BTreeSet<RecordId>,
    told: Option<Capacity>,
    pub(super) wake_at: Option<Timestamp>,
}

impl Node {
    /// A machine that is down, with an empty disk.
    pub fn new(operator: OperatorId, config: Config, character: Character, skew_ms: i64) -> Self {
        Self {
            operator,
            engine: None,
            config,
            character,
            skew_ms,
            life: 0,
            disk: Disk::default(),
            builds: BTreeMap::new(),
            outbox: Vec::new(),
            flushing: Vec::new(),
            unwritten: BTreeSet::new(),
            told: None,
            wake_at: None,
        }
    }

    /// What its clock shows at the true time `now`.
    pub fn clock(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_add_signed(self.skew_ms))
    }

    /// The true time at which its clock will show `at`.
    pub fn when(&self, at: Timestamp) -> Timestamp {
        Timestamp(at.0.saturating_add_signed(-self.skew_ms))
    }

    /// Starts the engine with what the disk has, as the node program does.
    pub(super) fn start(&mut self, params: &Params, seed: [u8; 32], now: Timestamp) {
        let clock = self.clock(now);
        let mut engine = Engine::new(params.clone(), self.config.clone(), seed, clock);
        let (records, results) = self.disk.contents();
        // Who is a member comes first: others would be strangers, of whom little is kept.
        let (standing, others): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.kind().by_operator());
        for record in standing.into_iter().chain(others) {
            engine.receive(clock, record);
        }
        for result in results {
            engine.handle(clock, Input::Restore(result));
        }
        engine.hand_back_lost(clock);
        self.life += 1;
        self.engine = Some(engine);
    }

    /// Whether nothing that the engine wants waits to be carried out.
    pub fn is_idle(&self) -> bool {
        self.backlog() == 0
    }

    /// How much of what the engine wants waits to be carried out.
    pub fn backlog(&self) -> usize {
        self.outbox.len() + self.flushing.len()
    }

    /// Power is lost.
    pub(super) fn stop(&mut self) {
        self.engine = None;
        self.builds.clear();
        self.outbox.clear();
        self.flushing.clear();
        self.unwritten.clear();
        (self.told, self.wake_at) = (None, None);
    }

    /// Takes what the engine wants into the outbox and tells it what is free of the machine, until neither changes
    /// anything; returns where in the outbox the news begin.
    pub(super) fn settle(&mut self, now: Timestamp) -> usize {
        let before = self.outbox.len();
        let clock = self.clock(now);
        let Some(engine) = self.engine.as_mut() else { return before };
        loop {
            while let Some(output) = engine.poll_output() {
                if let Output::Persist(record) = &output {
                    self.unwritten.insert(record.id());
                }
                self.outbox.push(output);
            }
            let (used, Lend { cores, memory, .. }) = (engine.in_use(), self.config.lend);
            let free = Capacity { cores: cores.saturating_sub(used.cores), memory: memory.saturating_sub(used.memory) };
            if self.told == Some(free) {
                return before;
            }
            self.told = Some(free);
            engine.handle(clock, Input::Capacity(free));
        }
    }
}
