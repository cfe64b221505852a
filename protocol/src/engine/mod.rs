//! The engine: what one node decides about one network. Sans-I/O: it opens nothing and reads no clock.
//!
//! Methods, in the order in which a driver calls them:
//! - *in*: [`Engine::receive`] for verified records, [`Engine::handle`] for everything else;
//! - *out*: [`Engine::poll_output`] until it is empty, in that order; then [`Engine::poll_timeout`], and
//!   [`Engine::handle_timeout`] when that moment has come;
//! - *questions*, which change nothing: [`query`], [`Engine::evidence`], [`Engine::items`].
//!
//! Where to go next: [`board`] holds the records, [`lease`] says who holds a slot, [`jobs`] binds jobs to actions,
//! [`settle`] computes verdicts, [`slots`] what is open, [`queue`] holds ready work in order, [`work`] claims, renews, commits and
//! reveals for this node, [`crowd`] knows who else has room. What a failure counts is in [`crate::blame`]; from it follow
//! [`tries`], [`losses`], [`progress`] (builds that stand still), [`rest`] and [`proof`] (machines at fault). [`reasons`] says it
//! in words. [`frauds`] notices who contradicts itself, [`notices`] answers about standing records. Actions and authors are
//! named by their places on the board inside, and by their ids outside.

pub mod board;
mod crowd;
mod frauds;
pub mod io;
mod jobs;
pub mod lease;
mod losses;
mod notices;
mod progress;
mod proof;
mod propagation;
pub mod query;
mod queue;
mod reasons;
mod rest;
mod seals;
mod settle;
mod slots;
mod tries;
mod voices;
mod work;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::id::{BatchId, BlobHash, NetworkId, NodeId, OperatorId, RecordId};
use crate::policy::Policy;
use crate::record::{Kind, Life, Payload, Record, SharedRecord};
use crate::sync::ItemSet;
use crate::table::Place;
use crate::time::Timestamp;
use crate::trust::charter::Grants;
use crate::trust::members::{Learnt, Members, Unauthorised};
use crate::verdict::{self, words::Speaker};

use board::{Board, Inserted, PARKED_MAX};
pub use notices::Tested;

pub use io::{BuildOrder, Capacity, Config, Event, Input, Lend, Output, OwnResult, Reception, Timer, Want};

/// Network-wide parameters: nodes that differ in them are of different networks.
#[derive(Debug, Clone)]
pub struct Params {
    /// The network.
    pub network: NetworkId,
    /// How long a lease lasts without a sign of life.
    pub lease_ttl: Duration,
    /// By how much clocks may differ.
    pub clock_difference: Duration,
    /// Who founded, who is trusted, who may submit.
    pub grants: Grants,
    /// The policy of new batches.
    pub policy: Policy,
}

/// What one node decides about one network.
#[derive(Debug)]
pub struct Engine {
    params: Params,
    config: Config,
    node: NodeId,
    sequence: u64,
    board: Board,
    members: Members,
    policies: BTreeMap<BlobHash, Arc<Policy>>,
    batches: BTreeMap<BatchId, jobs::BatchState>,
    /// What is known of actions, by their place on the board.
    actions: Vec<Option<Box<settle::ActionState>>>,
    /// Who answers for authors, by their place on the board.
    voices: Vec<voices::Voice>,
    queue: queue::Queue,
    rest: rest::Rest,
    /// Recipe → how long it takes, in milliseconds.
    durations: BTreeMap<u64, u32>,
    unsettled: BTreeSet<Place>,
    settling: bool,
    desk: work::Desk,
    crowd: crowd::Crowd,
    suspects: frauds::Suspects,
    seals: seals::Seals,
    parked: BTreeMap<(Timestamp, RecordId), SharedRecord>,
    timers: BTreeMap<Timer, Timestamp>,
    timeline: BTreeSet<(Timestamp, Timer)>,
    outputs: VecDeque<Output>,
}

impl Engine {
    /// An engine without records. `seed` must be secret: it keeps others from choosing ids that slow this node down.
    pub fn new(params: Params, config: Config, seed: [u8; 32], now: Timestamp) -> Self {
        let members = Members::new(&params.grants);
        let policy = Arc::new(params.policy.clone());
        let mut rng = ChaCha20Rng::from_seed(seed);
        let board_seed = rng.next_u64();
        let mut engine = Self {
            node: config.key.node(),
            // Sequences grow with the clock, so that a node whose home was restored does not fall behind itself.
            sequence: now.0,
            board: Board::new(board_seed),
            members,
            policies: BTreeMap::from([(policy.hash(), policy)]),
            batches: BTreeMap::new(),
            actions: Vec::new(),
            voices: Vec::new(),
            queue: queue::Queue::default(),
            rest: rest::Rest::default(),
            durations: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            settling: false,
            desk: work::Desk::default(),
            crowd: crowd::Crowd::default(),
            suspects: frauds::Suspects::new(),
            seals: seals::Seals::default(),
            parked: BTreeMap::new(),
            timers: BTreeMap::new(),
            timeline: BTreeSet::new(),
            outputs: VecDeque::new(),
            params,
            config,
        };
        engine.arm(Timer::Presence, now);
        engine
    }

    /// Takes over a newer charter: who may do what, and the policy of new batches.
    pub fn set_charter(&mut self, now: Timestamp, grants: Grants, policy: Policy) {
        self.members.set_grants(&grants);
        self.meet_again();
        let policy = Arc::new(policy);
        self.policies.insert(policy.hash(), policy.clone());
        self.params.grants = grants;
        self.params.policy = (*policy).clone();
        self.standing_changed(now);
    }

    /// Takes a record whose signature was checked. What it becomes is a function of the set of records, not of their order.
    pub fn receive(&mut self, now: Timestamp, record: &SharedRecord) -> Reception {
        if record.network() != self.params.network {
            return Reception::Unauthorised("it is of another network");
        }
        if record.forget_at() <= now {
            return Reception::Outdated;
        }
        if let Err(fault) = self.check_authority(record) {
            self.event(Event::Refused { record: record.id(), author: NodeId(record.author_key()), reason: fault.to_string() });
            return Reception::NotHeeded(fault);
        }
        let stranger = self.is_strange(record);
        if record.issued() > now + self.params.clock_difference {
            // Half of the room is kept for those whom members vouch for.
            if self.parked.len() >= if stranger { PARKED_MAX / 2 } else { PARKED_MAX } {
                return Reception::OverQuota;
            }
            self.parked.insert((record.issued(), record.id()), record.clone());
            self.arm_earlier(Timer::Parked, record.issued());
            return Reception::Parked;
        }
        let reception = match self.board.insert_from(record, stranger) {
            Inserted::Known => return Reception::Known,
            Inserted::Outdated => return Reception::Outdated,
            Inserted::OverQuota => return Reception::OverQuota,
            Inserted::New => Reception::New,
        };
        self.meet_authors();
        self.watch(now, record);
        self.hears_of_before(now, record);
        if self.has_word(record) {
            self.desk.propagation.hear(now, record.issued());
        }
        let replaced = self.board.take_replaced();
        if !replaced.is_empty() {
            self.outputs.push_back(Output::Forget(replaced.iter().map(|record| record.id()).collect()));
        }
        self.arm_earlier(Timer::Expiry, record.forget_at());
        self.learn(now, record);
        // What the replaced record alone said is not said any more.
        for old in replaced.iter().filter(|old| self.has_word(old)).cloned().collect::<Vec<_>>() {
            if let (Payload::Renewal(old), Payload::Renewal(new)) = (old.payload(), record.payload()) {
                let dropped = old.leases.iter().filter(|told| !new.leases.iter().any(|other| other.lease == told.lease));
                dropped.for_each(|told| self.look_again(now, &told.lease.action));
            }
        }
        reception
    }

    /// What a record alone said of leases is not said any more: its time is over.
    fn unlearn(&mut self, now: Timestamp, record: &SharedRecord) {
        match record.payload() {
            Payload::Claim(claim) => self.look_again(now, &claim.lease.action),
            Payload::Renewal(renewal) => renewal.leases.iter().for_each(|told| self.look_again(now, &told.lease.action)),
            Payload::HandBack(back) => back.leases.iter().for_each(|lease| self.look_again(now, &lease.action)),
            Payload::Commitment(commitment) => self.settle_named(now, &commitment.lease.action),
            Payload::Reveal(reveal) => self.settle_named(now, &reveal.lease.action),
            Payload::Presence(_) => self.crowd.vanish(&NodeId(record.author_key())),
            _ => {}
        }
    }

    /// What follows from a record that is new to the board.
    fn learn(&mut self, now: Timestamp, record: &SharedRecord) {
        match record.payload() {
            Payload::Batch(_) => {
                self.is_behind(now, record);
                self.learn_batch(record);
            }
            Payload::Cancel(cancel) => {
                // A stranger may end what it submitted itself and nothing else, so looking would be in vain.
                let by = record.author_key();
                let own = self.batches.get(&cancel.batch).is_some_and(|state| state.record.author_key() == by);
                if own || self.speaker(record).is_some_and(|operator| self.members.membership(&operator).is_some()) {
                    self.refresh_batch(now, cancel.batch);
                }
            }
            Payload::Retry(retry) => {
                for action in retry.actions.iter() {
                    self.settle_named(now, action);
                }
            }
            Payload::Claim(claim) => {
                if let Some(operator) = self.speaker(record) {
                    self.event(Event::Claimed { lease: claim.lease, operator });
                }
                self.look_again(now, &claim.lease.action);
            }
            // No lease is a stranger's, and it may say so of any as often as it likes.
            Payload::Renewal(_) | Payload::HandBack(_) if !self.has_word(record) => {}
            Payload::Renewal(renewal) => {
                let Some(author) = self.board.author(&record.author_key()) else { return };
                for progress in renewal.leases.iter() {
                    if !self.goes_on(now, author, &progress.lease) {
                        self.look_again(now, &progress.lease.action);
                    }
                }
            }
            Payload::HandBack(back) => {
                for lease in back.leases.iter() {
                    self.look_again(now, &lease.action);
                }
            }
            Payload::Commitment(commitment) => {
                if let Some(operator) = self.speaker(record) {
                    self.event(Event::Committed { lease: commitment.lease, operator });
                }
                self.settle_named(now, &commitment.lease.action);
            }
            Payload::Reveal(reveal) => {
                if let Some(operator) = self.speaker(record) {
                    self.event(Event::Revealed { lease: reveal.lease, operator, outcome: reveal.outcome.clone() });
                    if let Some(action) = self.board.action(&reveal.lease.action) {
                        self.learn_duration(now, action, reveal.particulars.wall_ms);
                    }
                }
                self.settle_named(now, &reveal.lease.action);
            }
            Payload::OperatorCertificate(_)
            | Payload::NodeCertificate(_)
            | Payload::Invitation(_)
            | Payload::FraudProof(_)
            | Payload::Suspension(_)
            | Payload::Ban(_)
            | Payload::Pardon(_) => {
                let own = self.operator();
                let changed = match self.members.learn(record) {
                    Learnt::Known | Learnt::Nothing => false,
                    Learnt::Node(node) => self.meet_node(&node),
                    Learnt::Member(operator) => self.meet_member(&operator),
                    // A suspension makes nobody somebody else, and still takes votes away.
                    Learnt::Memberships => self.meet_again() | matches!(record.payload(), Payload::Suspension(_)),
                };
                if changed {
                    self.standing_changed(now);
                } else if own != self.operator() {
                    self.presence_changed(now);
                    self.arm_earlier(Timer::Seek, now);
                }
                if changed {
                    self.watch_again(now);
                }
                self.tell_barred(now, record, changed);
            }
            Payload::Presence(_) => {
                if let Some(author) = self.board.author(&record.author_key()) {
                    self.sort_into_crowd(author);
                }
            }
            Payload::Seal(_) => {
                for (id, fault) in self.seals.add(record) {
                    let author = self.board.record(&id).unwrap_or(record).author_key();
                    self.event(Event::Refused { record: id, author: NodeId(author), reason: fault.to_string() });
                }
            }
            Payload::Have(_)
            | Payload::JoinRequest(_)
            | Payload::Rotation(_)
            | Payload::EnvironmentName(_)
            | Payload::Withdraw(_)
            | Payload::TestReport(_)
            | Payload::Metadata(_) => {}
        }
    }

    /// Whether a record's author may say what it says, as far as this node knows.
    fn check_authority(&self, record: &Record) -> Result<(), Unauthorised> {
        if let Payload::Withdraw(withdraw) = record.payload()
            && self.board.record(&withdraw.record).is_some_and(|named| named.author_key() != record.author_key())
        {
            return Err(Unauthorised::NotOwn);
        }
        self.members.check_authority(record)
    }

    /// Whether a member, or who is trusted, answers for a record's author, so that what it says of leases counts.
    fn has_word(&self, record: &SharedRecord) -> bool {
        let voice = self.board.author(&record.author_key()).map(|author| self.voice(author));
        voice.is_some_and(|voice| voice.branch.is_some() || voice.trusted)
    }

    /// The operator who answers for a record's author.
    fn speaker(&self, record: &SharedRecord) -> Option<OperatorId> {
        self.voice(self.board.author(&record.author_key())?).operator
    }

    /// Everything that is not a record of somebody else.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Capacity(free) => self.set_capacity(now, free),
            Input::Lend(lend) => {
                self.config.lend = lend;
                self.presence_changed(now);
                self.seek_work(now);
            }
            Input::HandBackAll => self.hand_back_all(now, "the owner wants the machine back"),
            Input::Leave => self.leave(now),
            Input::Fetched { want, bytes } => self.fetched(now, want, &bytes),
            Input::Graph(batch, graph) => self.share_graph(now, batch, graph),
            Input::Progress { lease, log_bytes, cpu_ms } => self.desk.progress(now, lease, log_bytes, cpu_ms),
            Input::Finished { lease, outcome, again, particulars } => self.finish(now, lease, (outcome, again), particulars),
            Input::Author(payload, lifetime) => {
                self.author(now, payload, lifetime);
            }
            Input::Restore(result) => self.restore(now, result),
            Input::Synced => self.caught_up(now, true),
        }
    }

    /// Signs a record of this node, takes it in and sends it, as [`Input::Author`] does, and says which it is. It may be
    /// shown to nobody before it is durable, which [`Output::Persist`] asks for. `None` where the payload is too large
    /// for a record.
    pub fn publish(&mut self, now: Timestamp, payload: Payload, lifetime: Duration) -> Option<RecordId> {
        self.author(now, payload, lifetime).map(|record| record.id())
    }

    /// The next thing to do, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Engine::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.timeline.first().map(|(at, _)| *at)
    }

    /// Does what was put off until `now` or earlier.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        // Work is looked for last: what ends at the same moment may be what a job needs, and its build would end with it.
        let mut seek = false;
        loop {
            let Some((at, timer)) = self.timeline.first().copied().filter(|(at, _)| *at <= now) else {
                if !std::mem::take(&mut seek) {
                    return;
                }
                self.seek_work(now);
                continue;
            };
            if !matches!(timer, Timer::Action(_)) {
                self.disarm(timer);
            }
            match timer {
                Timer::Action(action) => {
                    self.timeline.remove(&(at, timer));
                    self.wake(now, action);
                }
                Timer::Seek => seek = true,
                Timer::Renew => self.renew(now),
                Timer::Presence => self.announce_presence(now),
                Timer::Accuse => self.accuse(now),
                Timer::Expiry => self.expire(now),
                Timer::Parked => self.unpark(now),
                Timer::Rank => self.rank_anew(),
            }
        }
    }

    fn expire(&mut self, now: Timestamp) {
        let gone = self.board.expire(now);
        for record in &gone {
            self.seals.remove(record);
            if record.kind().life() == Life::Standing {
                self.members.remove(record);
                if self.meet_again() {
                    self.standing_changed(now);
                }
            }
            if record.kind() == Kind::Batch {
                self.forget_batch(now, BatchId::from(record.id()));
            }
            self.unlearn(now, record);
        }
        if !gone.is_empty() {
            self.outputs.push_back(Output::Forget(gone.iter().map(|record| record.id()).collect()));
        }
        if let Some(at) = self.board.next_expiry() {
            self.arm(Timer::Expiry, at);
        }
    }

    fn unpark(&mut self, now: Timestamp) {
        let later = self.parked.split_off(&(now + Duration::from_millis(1), RecordId([0; 32])));
        for record in std::mem::replace(&mut self.parked, later).into_values() {
            if self.receive(now, &record) == Reception::New {
                self.outputs.push_back(Output::Persist(record));
            }
        }
        if let Some((at, _)) = self.parked.keys().next() {
            self.arm(Timer::Parked, *at);
        }
    }

    /// Signs a record of this node, takes it in and sends it; durable before it is sent. `None` where it is too large.
    fn author(&mut self, now: Timestamp, payload: Payload, lifetime: Duration) -> Option<SharedRecord> {
        self.sequence = self.sequence.saturating_add(1).max(now.0);
        let record = Record::author(&self.config.key, self.params.network, self.sequence, now, now + lifetime, payload).ok()?;
        self.outputs.push_back(Output::Persist(record.clone()));
        self.outputs.push_back(Output::Send(record.clone()));
        self.receive(now, &record);
        Some(record)
    }

    /// All live records as (when it may be forgotten, id), in that order: what anti-entropy compares.
    pub const fn items(&self) -> &ItemSet {
        self.board.items()
    }

    /// The record of that id.
    pub fn record(&self, id: &RecordId) -> Option<&SharedRecord> {
        self.board.record(id)
    }

    /// The set of records.
    pub const fn board(&self) -> &Board {
        &self.board
    }

    /// Who works for whom.
    pub const fn members(&self) -> &Members {
        &self.members
    }

    /// The network's parameters.
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// This node's choices.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The operator that this node works for.
    pub fn operator(&self) -> Option<OperatorId> {
        self.members.operator_of(&self.node)
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn arm(&mut self, timer: Timer, at: Timestamp) {
        self.disarm(timer);
        self.timers.insert(timer, at);
        self.timeline.insert((at, timer));
    }

    fn arm_earlier(&mut self, timer: Timer, at: Timestamp) {
        if self.timers.get(&timer).is_none_or(|armed| at < *armed) {
            self.arm(timer, at);
        }
    }

    fn disarm(&mut self, timer: Timer) {
        if let Some(at) = self.timers.remove(&timer) {
            self.timeline.remove(&(at, timer));
        }
    }
}

impl Members {
    /// Who is behind a node, for [`verdict::words::Words`]; `None` where nobody is known to be.
    pub(crate) fn speaker(&self, node: &NodeId) -> Option<Speaker> {
        let operator = self.operator_of(node)?;
        let branch = verdict::Standing::branch(self, &operator);
        Some(Speaker { operator, branch: branch.unwrap_or(operator), counts: branch.is_some() || self.is_trusted(&operator) })
    }
}

impl verdict::Standing for Members {
    fn branch(&self, operator: &OperatorId) -> Option<verdict::Branch> {
        self.branch_of(operator).filter(|_| !self.is_barred(operator)).map(|branch| branch.0)
    }
    fn is_trusted(&self, operator: &OperatorId) -> bool {
        Self::is_trusted(self, operator)
    }
    fn may_attest(&self, operator: &OperatorId, at: Timestamp) -> bool {
        Self::may_attest(self, operator, at)
    }
}
