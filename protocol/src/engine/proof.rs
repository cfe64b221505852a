//! How a machine comes back from its rest: it builds something whose output others have verified, and compares. Nothing of
//! it is said to anybody, so no verdict changes and no slot is taken; it costs the network nothing and the machine the
//! shortest build that it knows.
//!
//! Where there is no such work it returns on probation.

use std::time::Duration;

use crate::blame::PROOF_SLOT;
use crate::id::{ActionId, BlobHash};
use crate::outcome::{FailureClass, Outcome, Particulars};
use crate::record::Payload;
use crate::record::payload::LeaseRef;
use crate::table::Place;
use crate::time::Timestamp;
use crate::verdict::VerdictState;

use super::Engine;
use super::io::{Capacity, Output, OwnResult, Timer};

/// The longest build, as others measured it, by which a machine proves itself.
const PROOF_WALL_MAX: Duration = Duration::from_secs(1800);
/// How long it may take to get its inputs.
const INPUTS_MAX: Duration = Duration::from_secs(3600);
/// Known works whose inputs can't be had before it is given up.
const UNTRIED_MAX: usize = 3;

/// A build by which a machine proves itself.
#[derive(Debug)]
pub(super) struct Proof {
    lease: LeaseRef,
    /// The manifest that others agree on.
    expected: BlobHash,
    uses: Capacity,
    /// How people call the job.
    pub label: String,
    /// When it must have ended.
    pub until: Timestamp,
}

impl Engine {
    /// The lease of the build by which this node proves itself, if it does; nobody else knows of it.
    pub fn proving(&self) -> Option<LeaseRef> {
        self.rest.proof.as_ref().map(|proof| proof.lease)
    }

    /// What that build uses of the machine.
    pub(super) fn proving_uses(&self) -> Capacity {
        self.rest.proof.as_ref().map_or_else(Capacity::default, |proof| proof.uses)
    }

    /// Begins a build whose output is known; whether there is one that this machine can do.
    pub(super) fn begin_proof(&mut self, now: Timestamp) -> bool {
        if self.rest.untried.len() >= UNTRIED_MAX {
            return false;
        }
        let mut known: Vec<(u64, ActionId, Place, BlobHash)> =
            self.bound_actions().into_iter().filter_map(|place| self.known_work(place)).collect();
        known.sort_unstable();
        for (_, action, place, expected) in known {
            let Some(demand) = self.demand(place) else { continue };
            let lease = LeaseRef { action, slot: PROOF_SLOT, epoch: 0 };
            let Some(order) = self.order(place, lease, &demand) else { continue };
            let uses = Capacity { cores: order.action.cores, memory: order.limits.memory };
            let until = now + order.limits.wall + INPUTS_MAX;
            self.arm_earlier(Timer::Seek, until);
            self.rest.proof = Some(Proof { lease, expected, uses, label: order.label.clone(), until });
            self.take_free(uses);
            self.presence_changed(now);
            self.outputs.push_back(Output::Start(order));
            return true;
        }
        false
    }

    /// How long an action took others, if they agree on its output and this machine can build it now.
    fn known_work(&self, place: Place) -> Option<(u64, ActionId, Place, BlobHash)> {
        let (state, action) = (self.state(place)?, self.board.action_id(place));
        let (policy, found) = state.verdicts.iter().find(|(_, found)| found.state == VerdictState::CrossVerified)?;
        let (demand, me, tree) = (self.demand(place)?, self.operator()?, found.tree?);
        let facts = demand.facts()?;
        let fits = self.has_free(Capacity { cores: facts.cores, memory: demand.limits.memory });
        if self.rest.untried.contains(&action) || !fits || self.unfit(&demand).is_some() {
            return None;
        }
        let walls = self.board.about(place).filter_map(|(_, record)| match record.payload() {
            Payload::Reveal(reveal) if reveal.outcome.tree() == Some(tree) => Some(reveal.particulars.wall_ms),
            _ => None,
        });
        let wall = walls.min().filter(|wall| u128::from(*wall) <= PROOF_WALL_MAX.as_millis())?;
        let by_others = !self.verdict_under(policy, &action)?.agreeing.contains(&me);
        by_others.then_some((wall, action, place, tree))
    }

    /// The build by which this node proves itself has ended.
    pub(super) fn proved(&mut self, now: Timestamp, lease: LeaseRef, outcome: Outcome, particulars: Particulars) {
        let Some(proof) = self.rest.proof.take_if(|proof| proof.lease == lease) else { return };
        self.give_free(now, proof.uses);
        self.presence_changed(now);
        match outcome {
            Outcome::Success { tree } if tree == proof.expected => {
                // Everybody knows what it made, so others may fetch it from here too.
                self.outputs.push_back(Output::Open(OwnResult { lease, outcome, again: None, salt: [0; 32], particulars }));
                self.end_rest(now, true);
            }
            Outcome::Failure { class: FailureClass::Fetch, .. } => {
                self.rest.untried.insert(lease.action);
                self.rest_until(now);
            }
            _ => {
                let reason = format!("its build of {} is not what others agree on", proof.label);
                self.begin_rest(now, reason);
            }
        }
        self.seek_work(now);
    }

    /// The owner wants the machine: the proof is begun anew when it is lent again.
    pub(super) fn stop_proving(&mut self, now: Timestamp) {
        let Some(proof) = self.rest.proof.take() else { return };
        self.outputs.push_back(Output::Stop(proof.lease));
        self.give_free(now, proof.uses);
        self.presence_changed(now);
        self.rest_until(now);
    }
}
