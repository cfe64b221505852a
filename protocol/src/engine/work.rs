//! This node's own part: it claims leases, keeps them, commits to results and reveals them.

mod giving_back;
mod presence;
mod sources;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::blame::{PROOF_SLOT, is_larger};
use crate::bounded::BoundedVec;
use crate::id::{ActionId, BatchId, BlobHash};
use crate::outcome::{FailureClass, Outcome, Particulars};
use crate::record::payload::{Claim, Commitment, LEASES_PER_NODE_MAX, LeaseProgress, LeaseRef, Presence, Renewal, Reveal, Says, SlotNo};
use crate::record::{Kind, Payload, SharedRecord};
use crate::table::Place;
use crate::time::Timestamp;
use crate::verdict::ballot::{lacks_room, lost_in_silence};
use crate::verdict::{Verdict, verdict};

use super::Engine;
use super::crowd::Fit;
use super::io::{BuildOrder, Capacity, Event, Output, OwnResult, Timer};
use super::lease::SlotState;
use super::propagation::Propagation;
use super::settle::Demand;
use turn::Turn;

/// How long a node leaves an action alone whose inputs it could not get; twice as long each further time, ...
const INPUT_BACKOFF: Duration = Duration::from_secs(10);
/// ... but no longer than this. Every try costs three records that all nodes keep for a week.
const INPUT_BACKOFF_MAX: Duration = Duration::from_secs(1800);
/// Who could not get the inputs of so many actions of late takes nothing at all ...
const STARVED_MAX: usize = 32;
/// ... for so long after the last failure: it is not the jobs.
const STARVED_PAUSE: Duration = Duration::from_secs(300);
/// How long it leaves one alone that its machine spoilt.
const SPOILT_BACKOFF: Duration = Duration::from_secs(60);
/// How long a node that was restarted, or joins late, waits to hear what it missed, before it takes work by what it knows.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);
/// While older records still come in one after the other, it goes on waiting, though not for longer than this.
const HEAR_MAX: Duration = Duration::from_secs(600);
/// How long a lease is renewed that has ended in a result. Records overtake each other: who heard of the next Renewal before
/// the Commitment would think that the lease had lapsed long ago, and claim the slot at once.
const STILL_RENEWED: Duration = Duration::from_secs(30);
/// How many ready jobs are looked at first when capacity becomes free, ...
const SEEK_FIRST: usize = 64;
/// ... how many if this node can take too few of these: all but those of enormous batches, ...
const SEEK_MAX: usize = 16_384;
/// ... and how many of those that this node could take are weighed against each other: so far may it leave the order of
/// work in order to keep out of others' way. Of two that choose among *n* at once one in *n* is in the other's, so there are
/// so many choices for each other claim that is made while nobody can have heard of this one, ...
const CHOICES_EACH: f64 = 16.0;
/// ... within these bounds.
const CHOICES_BOUNDS: (usize, usize) = (3, 32);

/// A lease of this node.
#[derive(Debug, Clone)]
struct OwnLease {
    cores: u16,
    memory: u64,
    log_bytes: u64,
    cpu_ms: u64,
    /// When one of them last grew.
    moved: Timestamp,
    /// When it was last renewed, or claimed.
    renewed: Timestamp,
}

impl OwnLease {
    const fn progress(&self, lease: LeaseRef) -> LeaseProgress {
        LeaseProgress { lease, log_bytes: self.log_bytes, cpu_ms: self.cpu_ms, moved: self.moved, before: self.renewed }
    }
}

/// What this node has in hand.
#[derive(Debug, Default)]
pub(super) struct Desk {
    leases: BTreeMap<LeaseRef, OwnLease>,
    /// Leases that ended in a result lately, and when.
    ended: Vec<(Timestamp, LeaseProgress)>,
    results: BTreeMap<LeaseRef, OwnResult>,
    /// Actions that this node can't build now, and until when.
    avoid: BTreeMap<ActionId, Timestamp>,
    /// Actions whose inputs it could not get, how often in turn, and when last.
    starved: BTreeMap<ActionId, (u32, Timestamp)>,
    free: Capacity,
    /// Since when so much is free.
    free_since: Timestamp,
    pub(super) propagation: Propagation,
    /// Since when, and until when, this node expects to hear what it missed.
    behind: Option<(Timestamp, Timestamp)>,
    /// Whether it has heard that once, or waited in vain.
    abreast: bool,
    announced: Option<(Timestamp, Presence)>,
    /// The node stops: it has taken back its Presence.
    left: bool,
    /// Whether leases that this node holds and does not know are given back: once all is back that it kept.
    minds_unknown: bool,
}

impl Desk {
    /// Results for an action that this node has not revealed.
    pub fn results_of(&self, action: &ActionId) -> impl Iterator<Item = &OwnResult> {
        let least = LeaseRef { action: *action, slot: SlotNo(0), epoch: 0 };
        let greatest = LeaseRef { slot: SlotNo(u16::MAX), epoch: u32::MAX, ..least };
        self.results.range(least..=greatest).map(|(_, result)| result)
    }

    /// Until when this node leaves an action alone.
    pub fn avoided(&self, action: &ActionId) -> Option<Timestamp> {
        self.avoid.get(action).copied()
    }

    pub fn progress(&mut self, now: Timestamp, lease: LeaseRef, log_bytes: u64, cpu_ms: u64) {
        if let Some(own) = self.leases.get_mut(&lease) {
            if log_bytes > own.log_bytes || cpu_ms > own.cpu_ms {
                own.moved = now;
            }
            own.log_bytes = log_bytes;
            own.cpu_ms = cpu_ms;
        }
    }
}

impl Engine {
    /// What this network's leases use of the machine.
    pub fn in_use(&self) -> Capacity {
        self.desk.leases.values().fold(self.proving_uses(), |sum, lease| Capacity {
            cores: sum.cores.saturating_add(lease.cores),
            memory: sum.memory.saturating_add(lease.memory),
        })
    }

    /// How far the builds under this node's leases are.
    pub(super) fn own_progress(&self) -> Vec<LeaseProgress> {
        self.desk.leases.iter().map(|(lease, own)| own.progress(*lease)).collect()
    }

    /// The leases that this node holds.
    pub fn own_leases(&self) -> Vec<LeaseRef> {
        self.desk.leases.keys().copied().collect()
    }

    /// Results of this node that are not revealed yet.
    pub fn own_results(&self) -> impl Iterator<Item = &OwnResult> {
        self.desk.results.values()
    }

    /// The measured mean time that a record takes to reach this node.
    pub const fn propagation(&self) -> Duration {
        self.desk.propagation.mean()
    }

    pub(super) fn set_capacity(&mut self, now: Timestamp, free: Capacity) {
        let more = free.cores > self.desk.free.cores || free.memory > self.desk.free.memory;
        if free == self.desk.free {
            return;
        }
        self.desk.free = free;
        self.presence_changed(now);
        if more {
            self.desk.free_since = now;
            self.seek_work(now);
        }
    }

    /// Looks at ready jobs in the order of work and claims those whose turn it is, until the machine is full; sees to it
    /// that it looks again when the turn of another comes.
    pub(super) fn seek_work(&mut self, now: Timestamp) {
        self.disarm(Timer::Seek);
        if let Some((_, until)) = self.desk.behind {
            if now < until {
                return self.arm(Timer::Seek, until);
            }
            self.caught_up(now, false);
        }
        if self.still_rests(now) || !self.may_take() {
            return;
        }
        self.desk.avoid.retain(|_, until| *until > now);
        self.desk.starved.retain(|_, (_, last)| now.since(*last) < INPUT_BACKOFF_MAX * 2);
        if self.desk.starved.len() >= STARVED_MAX
            && let Some(last) = self.desk.starved.values().map(|(_, last)| *last).max()
            && now.since(last) < STARVED_PAUSE
        {
            return self.arm(Timer::Seek, last + STARVED_PAUSE);
        }
        loop {
            match self.next_claim(now) {
                Ok((action, turn)) => self.claim(now, action, turn),
                Err(again) => {
                    if let Some(again) = again {
                        self.arm_earlier(Timer::Seek, again);
                    }
                    return;
                }
            }
            if !self.may_take() {
                return;
            }
        }
    }

    /// Among how many ready jobs this node chooses, the first of which is that action.
    fn choices(&self, now: Timestamp, first: Place) -> usize {
        let others = self.crowd.claims_a_second(now) * self.desk.propagation.patience().as_secs_f64();
        let demand = self.demand(first);
        let fit = demand.as_ref().and_then(|demand| Some(Fit::of(demand.facts()?, demand.limits.memory)));
        let idle = fit.map_or(0, |fit| self.crowd.idle(fit).count());
        // Rounded towards zero. Where many are idle each has its own among the first jobs, and must get to see it.
        ((others * CHOICES_EACH) as usize).max(idle).clamp(CHOICES_BOUNDS.0, CHOICES_BOUNDS.1)
    }

    /// The first ready job in the order of work whose turn it is, or when that of another comes. Asked anew for each
    /// claim, since every claim may change the order.
    fn next_claim(&self, now: Timestamp) -> Result<(Place, Turn), Option<Timestamp>> {
        let mut again: Option<Timestamp> = None;
        let (mut choices, mut choices_max) = (0, None);
        let mut seen = BTreeSet::new();
        for most in [SEEK_FIRST, SEEK_MAX] {
            let next = self.queue.in_order(most);
            let all = next.len() < most;
            for action in next {
                let Some(turn) = seen.insert(action).then(|| self.turn(now, action)).flatten() else { continue };
                if turn.at <= now {
                    return Ok((action, turn));
                }
                again = Some(again.map_or(turn.at, |again| again.min(turn.at)));
                choices += 1;
                if choices >= *choices_max.get_or_insert_with(|| self.choices(now, action)) {
                    return Err(again);
                }
            }
            if all {
                break;
            }
        }
        Err(again)
    }

    /// A batch that is older than this node's part in the network: of what is being built for it, claims arrive before
    /// signs of life, and leases look as if they had lapsed.
    pub(super) fn is_behind(&mut self, now: Timestamp, batch: &SharedRecord) {
        if !self.desk.abreast && self.desk.behind.is_none() && now.since(batch.issued()) > CATCH_UP_MAX {
            self.fall_behind(now);
            self.presence_changed(now);
        }
    }

    fn fall_behind(&mut self, now: Timestamp) {
        self.desk.behind = Some((now, now + CATCH_UP_MAX));
        self.arm(Timer::Seek, now + CATCH_UP_MAX);
    }

    /// A record that is not of today shows that this node is still being told what it missed. Whoever goes on telling it
    /// old things does not keep it waiting for ever.
    pub(super) fn hears_of_before(&mut self, now: Timestamp, record: &SharedRecord) {
        if let Some((since, until)) = &mut self.desk.behind
            && now.since(record.issued()) > CATCH_UP_MAX
        {
            *until = (*until).max((now + CATCH_UP_MAX).min(*since + HEAR_MAX));
        }
    }

    /// This node has `heard` what it missed, or nobody was there to tell.
    pub(super) fn caught_up(&mut self, now: Timestamp, heard: bool) {
        self.desk.abreast = true;
        self.commit_restored(now, heard);
        if self.desk.behind.take().is_some() {
            // Who seemed silent meanwhile has been heard, or is.
            for action in self.bound_actions() {
                self.look(now, action);
            }
            self.presence_changed(now);
            self.arm_earlier(Timer::Seek, now);
        }
    }

    /// Whether this node waits to hear what it missed: that it has heard nothing of somebody says nothing yet.
    pub(super) fn waits_to_hear(&self) -> bool {
        self.desk.behind.is_some()
    }

    /// Whether this node would take work that fits, as it tells the others.
    fn is_willing(&self) -> bool {
        let held_back = self.desk.behind.is_some() || self.rest.holds_back();
        self.config.lend.builds && !held_back && self.desk.leases.len() < LEASES_PER_NODE_MAX
    }

    fn may_take(&self) -> bool {
        self.is_willing() && self.desk.free.cores > 0
    }

    /// Why this node can't take the action at all, in words; `None` where it can.
    pub(super) fn unfit(&self, demand: &Demand) -> Option<String> {
        let facts = demand.facts()?;
        if let Some(unmet) = self.config.facts.unmet(&facts.environment) {
            return Some(unmet);
        }
        if let Some(missing) = facts.environment.programs.iter().find(|program| !self.config.programs.contains(*program)) {
            return Some(format!("wants the program {missing}, which this machine does not have"));
        }
        if facts.cores > self.config.lend.cores {
            return Some(format!("wants {} cores, {} are lent", facts.cores, self.config.lend.cores));
        }
        if demand.limits.memory > self.config.lend.memory {
            let (want, lent) = (demand.limits.memory >> 20, self.config.lend.memory >> 20);
            return Some(format!("wants {want} MiB of memory, {lent} MiB are lent"));
        }
        None
    }

    /// Sees to it that this node looks for work when its turn to claim a slot of the action comes. Not at once: more may
    /// become ready at this moment, and the best of it goes first.
    pub(super) fn consider(&mut self, now: Timestamp, action: Place) {
        if let Some(turn) = self.turn(now, action) {
            self.arm_earlier(Timer::Seek, turn.at.max(now));
        }
    }

    fn claim(&mut self, now: Timestamp, place: Place, turn: Turn) {
        let Turn { slot, epoch, follows, .. } = turn;
        let Some(demand) = self.demand(place) else { return };
        let lease = LeaseRef { action: self.board.action_id(place), slot, epoch };
        let Some(order) = self.order(place, lease, &demand) else {
            // An input is in doubt since it was bound; when that is settled, it is bound anew.
            // Where it is bound to the same, nothing else would make this node look again.
            self.desk.avoid.insert(lease.action, now + INPUT_BACKOFF);
            return self.wake_at(place, Some(now + INPUT_BACKOFF));
        };
        self.queue.serve(place);
        let own = OwnLease { cores: order.action.cores, memory: order.limits.memory, log_bytes: 0, cpu_ms: 0, moved: now, renewed: now };
        self.take_free(Capacity { cores: own.cores, memory: own.memory });
        self.desk.leases.insert(lease, own);
        self.presence_changed(now);
        self.arm_earlier(Timer::Renew, now + self.params.lease_ttl / 3);
        let batch = demand.batch;
        let lifetime = Kind::Claim.lifetime_max();
        let claim = self.author(now, Payload::Claim(Claim { lease, batch, follows }), lifetime);
        if claim.is_none_or(|claim| self.board.record(&claim.id()).is_none()) {
            // This node's records fill its share: nobody would keep the claim, or the result.
            self.desk.avoid.insert(lease.action, now + INPUT_BACKOFF_MAX);
            self.wake_at(place, Some(now + INPUT_BACKOFF_MAX));
            return self.drop_lease(now, lease, "this node has said as much as a node may; it goes on when some of that has expired");
        }
        if self.desk.leases.contains_key(&lease) {
            // What is to be said of it if the machine dies with it; what really comes of it takes its place.
            let outcome = lost_in_silence();
            let salt = self.salt(&lease, &outcome, None);
            let lost = OwnResult { lease, outcome, again: None, salt, particulars: Particulars::default() };
            self.outputs.push_back(Output::PersistResult(lost));
            self.outputs.push_back(Output::Start(order));
        }
    }

    /// The order to build an action; `None` while one of its inputs is in doubt.
    pub(super) fn order(&self, place: Place, lease: LeaseRef, demand: &Demand) -> Option<BuildOrder> {
        let whole = self.action_at(place)?;
        Some(BuildOrder {
            lease,
            needs_from: whole.needs.iter().map(|need| (need.tree, self.revealers_of_need(place, &need.tree))).collect(),
            action: Arc::new(whole),
            label: self.state(place)?.label.to_string(),
            batch: demand.batch,
            limits: self.limits_of(place, lease.slot, demand),
            twice: lease.slot.is_arbiter(),
            sources_from: self.submitters(&lease.action),
        })
    }

    /// Looks after this node's leases and results of an action, after anything about it changed.
    pub(super) fn mind_own(&mut self, now: Timestamp, place: Place, demand: Option<&Demand>) {
        self.hand_back_unknown(now, place);
        if self.desk.leases.is_empty() && self.desk.results.is_empty() {
            return;
        }
        let action = self.board.action_id(place);
        let span = LeaseRef { action, slot: SlotNo(0), epoch: 0 }..=LeaseRef { action, slot: SlotNo(u16::MAX), epoch: u32::MAX };
        let leases: Vec<LeaseRef> = self.desk.leases.range(span.clone()).map(|(lease, _)| *lease).collect();
        let wanted = demand.is_some();
        for lease in leases {
            let held = self.state(place).and_then(|state| state.slot(lease.slot));
            let mine = matches!(held, Some(SlotState::Held(tenure)) if tenure.node == self.node && tenure.epoch == lease.epoch);
            if !wanted {
                self.drop_lease(now, lease, "nothing needs it any more");
                self.hand_back(now, &[lease]);
            } else if !mine {
                self.drop_lease(now, lease, "another builder holds the lease, or its time is over");
            }
        }
        let results: Vec<LeaseRef> = self.desk.results.range(span).map(|(lease, _)| *lease).collect();
        if results.is_empty() {
            return;
        }
        // A cancelled action's results stay closed unless they were enough already: nobody waits for them.
        let [enough, enough_said] =
            [false, true].map(|more| demand.is_some_and(|demand| self.committers(place, demand, more).len() >= demand.quorum()));
        for lease in results {
            // A larger machine's word decides whether others are asked at all, and of what says nothing of the job there is
            // nothing to copy.
            let Some(outcome) = self.desk.results.get(&lease).map(|result| &result.outcome) else { continue };
            let spoilt = !outcome.is_vote();
            // After a restart a result may not be committed to yet: what is revealed before counts for nothing.
            let open = lease.slot.is_arbiter() || is_larger(lease.slot) || spoilt || if lacks_room(outcome) { enough } else { enough_said };
            if open && self.is_committed_to(&lease) {
                self.reveal(now, lease);
            }
        }
    }

    fn drop_lease(&mut self, now: Timestamp, lease: LeaseRef, reason: &str) {
        if let Some(own) = self.desk.leases.remove(&lease) {
            self.give_back(now, &own);
            // Not at once: more may follow from what took the lease away.
            self.arm_earlier(Timer::Seek, now);
            self.outputs.push_back(Output::Stop(lease));
            self.outputs.push_back(Output::ForgetResult(lease));
            self.event(Event::LeaseLost { lease, reason: reason.to_owned() });
            self.presence_changed(now);
        }
    }

    fn give_back(&mut self, now: Timestamp, own: &OwnLease) {
        self.give_free(now, Capacity { cores: own.cores, memory: own.memory });
    }

    pub(super) fn give_free(&mut self, now: Timestamp, uses: Capacity) {
        self.desk.free_since = now;
        self.desk.free.cores = self.desk.free.cores.saturating_add(uses.cores);
        self.desk.free.memory = self.desk.free.memory.saturating_add(uses.memory);
    }

    pub(super) const fn take_free(&mut self, uses: Capacity) {
        self.desk.free.cores = self.desk.free.cores.saturating_sub(uses.cores);
        self.desk.free.memory = self.desk.free.memory.saturating_sub(uses.memory);
    }

    /// Whether so much of the machine is free.
    pub(super) const fn has_free(&self, uses: Capacity) -> bool {
        self.desk.free.cores >= uses.cores && self.desk.free.memory >= uses.memory
    }

    pub(super) fn renew(&mut self, now: Timestamp) {
        self.end_still(now);
        self.mind_lapsed(now);
        self.desk.ended.retain(|(at, _)| now.since(*at) < STILL_RENEWED);
        let ended = self.desk.ended.iter().rev().map(|(_, progress)| *progress);
        let leases: Vec<LeaseProgress> = self.own_progress().into_iter().chain(ended).take(LEASES_PER_NODE_MAX).collect();
        if self.desk.leases.is_empty() {
            return;
        }
        self.desk.leases.values_mut().for_each(|own| own.renewed = now);
        self.arm(Timer::Renew, now + self.params.lease_ttl / 3);
        if let Ok(leases) = BoundedVec::try_from(leases) {
            self.author(now, Payload::Renewal(Renewal { leases }), Kind::Renewal.lifetime_max());
        }
    }

    /// A build ended; `outcomes` are those of the first and, for an arbiter, of the second build.
    pub(super) fn finish(&mut self, now: Timestamp, lease: LeaseRef, outcomes: (Outcome, Option<Outcome>), particulars: Particulars) {
        let (outcome, again) = outcomes;
        if lease.slot == PROOF_SLOT {
            return self.proved(now, lease, outcome, particulars);
        }
        let Some(own) = self.desk.leases.remove(&lease) else {
            return; // stopped in the meantime
        };
        self.give_back(now, &own);
        self.presence_changed(now);
        if matches!(outcome, Outcome::Failure { class: FailureClass::Fetch, .. }) {
            // Missing inputs defer the job and burn no attempt: somebody else may get them.
            let (times, last) = self.desk.starved.entry(lease.action).or_insert((0, now));
            let wait = INPUT_BACKOFF.saturating_mul(1 << (*times).min(16)).min(INPUT_BACKOFF_MAX);
            (*times, *last) = (*times + 1, now);
            self.desk.avoid.insert(lease.action, now + wait);
            self.outputs.push_back(Output::ForgetResult(lease));
            self.event(Event::LeaseLost { lease, reason: "its inputs could not be fetched".into() });
            self.hand_back(now, &[lease]);
            self.look_again(now, &lease.action);
            self.seek_work(now);
            return;
        }
        self.desk.starved.remove(&lease.action);
        if !outcome.is_vote() {
            // A fault that passes may be over by then; others go first.
            self.desk.avoid.insert(lease.action, now + SPOILT_BACKOFF);
        }
        let Some(operator) = self.operator() else { return };
        self.desk.ended.push((now, own.progress(lease)));
        let salt = self.salt(&lease, &outcome, again.as_ref());
        let commitment = outcome.commitment(again.as_ref(), &operator, &salt);
        let says = Says::of(&outcome, lease.slot);
        let result = OwnResult { lease, outcome, again, salt, particulars };
        self.outputs.push_back(Output::PersistResult(result.clone()));
        self.desk.results.insert(lease, result);
        self.commit(now, lease, (commitment, says));
        self.seek_work(now);
    }

    /// Whether this node has committed to a result under a lease.
    pub(super) fn has_committed(&self, lease: &LeaseRef) -> bool {
        let mut said = self.board.commitments(&lease.action);
        said.any(|(record, commitment)| record.author_key() == self.node.0 && commitment.lease == *lease)
    }

    /// Whether the commitment that is known of a lease is to the result that this node has. A home that comes from a backup
    /// may have another.
    fn is_committed_to(&self, lease: &LeaseRef) -> bool {
        let (Some(result), Some(operator)) = (self.desk.results.get(lease), self.operator()) else { return false };
        let commitment = result.outcome.commitment(result.again.as_ref(), &operator, &result.salt);
        let mut said = self.board.commitments(&lease.action);
        said.any(|(record, said)| record.author_key() == self.node.0 && said.lease == *lease && said.commitment == commitment)
    }

    /// Commits to a result, once under each lease.
    fn commit(&mut self, now: Timestamp, lease: LeaseRef, (commitment, says): ([u8; 32], Says)) {
        if self.has_committed(&lease) {
            return;
        }
        let own = |(record, claim): &(&SharedRecord, &Claim)| record.author_key() == self.node.0 && claim.lease == lease;
        let claimed = self.board.claims(&lease.action, lease.slot).find(own).map(|(record, _)| record.issued());
        let told = self.board.author(&self.node.0).and_then(|own| self.board.renewed_by(own, &lease));
        let sign = told.map(|(issued, told)| told.renewed_at(issued, self.params.lease_ttl)).max(claimed);
        let ago = now.since(sign.unwrap_or(now));
        let renewed_ago_ms = u32::try_from(ago.as_millis()).unwrap_or(u32::MAX);
        self.author(now, Payload::Commitment(Commitment { lease, commitment, says, renewed_ago_ms }), Kind::Commitment.lifetime_max());
    }

    fn reveal(&mut self, now: Timestamp, lease: LeaseRef) {
        let Some(result) = self.desk.results.remove(&lease) else { return };
        // Open before the record is sent: who hears of the output may ask for it at once.
        self.outputs.push_back(Output::Open(result.clone()));
        let OwnResult { lease, outcome, again, salt, particulars } = result;
        self.author(
            now,
            Payload::Reveal(Reveal { lease, outcome, again: again.map(Box::new), salt, particulars }.into()),
            Kind::Reveal.lifetime_max(),
        );
        self.outputs.push_back(Output::ForgetResult(lease));
    }

    /// The verdict of an action under the policy of a batch, computed anew.
    pub fn verdict_of(&self, batch: &BatchId, action: &ActionId) -> Option<Verdict> {
        let policy = self.batches.get(batch)?.batch().policy;
        self.verdict_under(&policy, action)
    }

    /// The verdict of an action under a policy, computed anew.
    pub(super) fn verdict_under(&self, policy: &BlobHash, action: &ActionId) -> Option<Verdict> {
        let state = self.state_of(action)?;
        state.found(policy)?;
        let policy = self.policies.get(policy)?;
        Some(state.judge(verdict(&self.attestations(action), self.attempt_first_slot(action), &self.members, policy)))
    }
}
