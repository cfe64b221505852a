//! Leases that are given back, by who wants its machine or has lost its builds, and what is left of those after a restart.

use crate::bounded::BoundedVec;
use crate::outcome::{FailureClass, Outcome};
use crate::record::payload::{HAND_BACKS_MAX, HandBack, LeaseRef, Says};
use crate::record::{Kind, Payload};
use crate::table::Place;
use crate::time::Timestamp;

use super::super::Engine;
use super::super::io::{Output, OwnResult};
use super::super::lease::SlotState;

impl Engine {
    /// Hands all leases back without penalty.
    pub(in crate::engine) fn hand_back_all(&mut self, now: Timestamp, reason: &str) {
        self.stop_proving(now);
        let leases: Vec<LeaseRef> = self.desk.leases.keys().copied().collect();
        for lease in &leases {
            self.drop_lease(now, *lease, reason);
        }
        self.hand_back(now, &leases);
    }

    /// Ends this node's part. Others would take it for present until its Presence expires, and leave work to it.
    pub(in crate::engine) fn leave(&mut self, now: Timestamp) {
        self.config.lend.builds = false;
        self.hand_back_all(now, "the node stops");
        self.desk.left = true;
        if self.operator().is_some() {
            self.say_farewell(now);
        }
    }

    pub(super) fn hand_back(&mut self, now: Timestamp, leases: &[LeaseRef]) {
        for leases in leases.chunks(HAND_BACKS_MAX) {
            let Ok(leases) = BoundedVec::try_from(leases.to_vec()) else { continue };
            self.author(now, Payload::HandBack(HandBack { leases }), Kind::HandBack.lifetime_max());
        }
    }

    /// Gives back leases of an action that this node holds by the records and does not know: of builds that died with the
    /// process, or that it stopped since another seemed to have won. Of those that somebody else has by now there is
    /// nothing to give back.
    pub(super) fn hand_back_unknown(&mut self, now: Timestamp, place: Place) {
        if !self.desk.minds_unknown {
            return;
        }
        let Some(state) = self.state(place) else { return };
        let action = self.board.action_id(place);
        let held = state.slots.iter().filter_map(|(slot, of)| match of {
            // By a clock that was set back since, the claim is in the future: to give it back before would be in vain.
            SlotState::Held(tenure) if tenure.node == self.node && tenure.since <= now => {
                Some(LeaseRef { action, slot: *slot, epoch: tenure.epoch })
            }
            _ => None,
        });
        let known = |lease: &LeaseRef| self.desk.leases.contains_key(lease) || self.desk.results.contains_key(lease);
        let unknown: Vec<LeaseRef> = held.filter(|lease| !known(lease)).collect();
        self.hand_back(now, &unknown);
    }

    /// After a restart: a result that was not revealed. What was not committed to either is, once this node has caught up.
    pub(in crate::engine) fn restore(&mut self, now: Timestamp, result: OwnResult) {
        let action = result.lease.action;
        self.desk.results.insert(result.lease, result);
        self.look_again(now, &action);
    }

    /// Commits to restored results that no commitment is known of. A home that comes from a backup may have committed to
    /// something since, which its peers know: that what it built is lost it says only if they have had their say.
    pub(super) fn commit_restored(&mut self, now: Timestamp, heard: bool) {
        let Some(operator) = self.operator() else { return };
        // Nobody else is there who could know of anything.
        let heard = heard || self.crowd.is_empty_but_for(&self.node);
        let building = |lease: &LeaseRef| self.desk.leases.contains_key(lease);
        let sure = |result: &OwnResult| heard || !matches!(result.outcome, Outcome::Failure { class: FailureClass::Lost, .. });
        let results =
            self.desk.results.values().filter(|result| sure(result) && !building(&result.lease) && !self.has_committed(&result.lease));
        let missing: Vec<_> = results
            .map(|result| {
                let commitment = result.outcome.commitment(result.again.as_ref(), &operator, &result.salt);
                (result.lease, (commitment, Says::of(&result.outcome, result.lease.slot)))
            })
            .collect();
        for (lease, commitment) in missing {
            self.commit(now, lease, commitment);
            self.look_again(now, &lease.action);
        }
        // What can't be said for sure is given back, so that nobody waits for it.
        let unsaid = |result: &&OwnResult| !self.desk.leases.contains_key(&result.lease) && !self.has_committed(&result.lease);
        let unsure: Vec<LeaseRef> = self.desk.results.values().filter(unsaid).map(|result| result.lease).collect();
        for lease in unsure {
            self.desk.results.remove(&lease);
            self.outputs.push_back(Output::ForgetResult(lease));
            self.look_again(now, &lease.action);
        }
    }

    /// After a restart, once the records are back: from now on leases that this node holds and does not know are handed
    /// back, as soon as it is known of their actions who holds what. What is to be built was perhaps built in the
    /// meantime, so nothing is claimed before it has heard of that.
    pub fn hand_back_lost(&mut self, now: Timestamp) {
        if self.board.of_kind(Kind::Batch).next().is_some() || !self.desk.results.is_empty() {
            self.fall_behind(now);
        }
        self.desk.minds_unknown = true;
        for place in self.bound_actions() {
            self.hand_back_unknown(now, place);
        }
    }
}
