//! When this node rests because its machine seems to be at fault (DESIGN section 7): its builds failed where others built
//! the same, verified output, on several jobs. One such job may be the job's own fault; three say something of the machine.
//! After the rest it proves itself: [`super::proof`].

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::ActionId;
use crate::table::Place;
use crate::time::Timestamp;
use crate::verdict::VerdictState;

use super::Engine;
use super::io::{Event, Timer};
use super::proof::Proof;

/// Jobs that failed here and nowhere else before the node rests.
const WRONG_JOBS: usize = 3;
/// How long the first rest is; each that follows without a good build between them is twice as long, ...
const REST_FIRST: Duration = Duration::from_secs(3600);
/// ... up to this.
const REST_MAX: Duration = Duration::from_secs(24 * 3600);

/// Blame of this node's machine.
#[derive(Debug, Default)]
pub(super) struct Rest {
    wrong: BTreeSet<ActionId>,
    until: Option<Timestamp>,
    times: u32,
    /// Why, in words.
    reason: String,
    /// The build by which it proves itself.
    pub(super) proof: Option<Proof>,
    /// Known work that could not be tried.
    pub(super) untried: BTreeSet<ActionId>,
    /// It could not prove itself: the first job that fails here and nowhere else sends it to rest again.
    probation: bool,
}

impl Rest {
    /// Whether the node takes no work.
    pub const fn holds_back(&self) -> bool {
        self.until.is_some() || self.proof.is_some()
    }

    /// Why it takes no work, in one line.
    pub fn reason(&self) -> Option<String> {
        if let Some(proof) = &self.proof {
            return Some(format!("this machine proves itself on {}, whose output is known; {}", proof.label, self.reason));
        }
        self.until.map(|until| format!("this machine rests until {until}: {}", self.reason))
    }

    /// Whether it works again, and has to do so without a fault.
    pub const fn is_on_probation(&self) -> bool {
        self.probation && !self.holds_back()
    }
}

impl Engine {
    /// Until when this node takes no work because its builds fail where others' succeed.
    pub const fn resting_until(&self) -> Option<Timestamp> {
        self.rest.until
    }

    /// Learns from a verdict what it says of this node's own build.
    pub(super) fn judge_own(&mut self, now: Timestamp, action: Place) {
        let Some(own) = self.board.author(&self.node.0) else { return };
        let Some(state) = self.state(action) else { return };
        let verified = state.verdicts.iter().any(|(_, found)| found.state == VerdictState::CrossVerified);
        let of_own =
            |attested: &&super::settle::Attested| attested.author == own && (attested.counts && attested.success || attested.blames);
        // The last of several tries is what counts.
        let Some(attested) =
            state.attested.iter().filter(of_own).max_by_key(|attested| (attested.success, attested.slot)).filter(|_| verified)
        else {
            return;
        };
        if attested.success {
            // Those that failed before and those that come do so on a machine that can build.
            self.rest.wrong.clear();
            (self.rest.times, self.rest.probation) = (0, false);
            return;
        }
        if self.rest.holds_back() {
            return; // built before the rest, which is for this one too
        }
        self.rest.wrong.insert(self.board.action_id(action));
        let wrong = self.rest.wrong.len();
        if wrong >= if self.rest.probation { 1 } else { WRONG_JOBS } {
            let jobs = if wrong == 1 { "1 job".to_owned() } else { format!("{wrong} jobs") };
            self.begin_rest(now, format!("{jobs} failed here that others built alike: something is wrong with this machine"));
        }
    }

    /// Begins a rest, twice as long as the last one.
    pub(super) fn begin_rest(&mut self, now: Timestamp, reason: String) {
        let long = REST_FIRST.saturating_mul(1 << self.rest.times.min(16)).min(REST_MAX);
        let until = now + long;
        self.rest = Rest { until: Some(until), times: self.rest.times + 1, reason: reason.clone(), ..Rest::default() };
        self.event(Event::Resting { until, reason });
        self.arm_earlier(Timer::Seek, until);
        self.presence_changed(now);
    }

    /// The machine is thought well of again, or as well as it can be.
    pub(super) fn end_rest(&mut self, now: Timestamp, proved: bool) {
        self.rest = Rest { times: self.rest.times, probation: !proved, ..Rest::default() };
        self.presence_changed(now);
        self.arm_earlier(Timer::Seek, now);
    }

    /// Whether this node rests still; when its time is over it begins to prove itself, or ends the rest.
    pub(super) fn still_rests(&mut self, now: Timestamp) -> bool {
        if let Some((until, label)) = self.rest.proof.as_ref().map(|proof| (proof.until, proof.label.clone())) {
            if now < until {
                self.arm_earlier(Timer::Seek, until);
            } else {
                self.stop_proving(now);
                self.begin_rest(now, format!("its build of {label} came to no end"));
            }
            return true;
        }
        let Some(until) = self.rest.until else { return false };
        if now < until {
            self.arm_earlier(Timer::Seek, until);
            return true;
        }
        if !self.config.lend.builds {
            return true; // whoever lends the machine again makes it look for work
        }
        if self.begin_proof(now) {
            self.rest.until = None;
            return true;
        }
        self.end_rest(now, false);
        false
    }

    /// Puts the end of the rest at `now`: what it was to do then is done when the machine is lent again.
    pub(super) const fn rest_until(&mut self, now: Timestamp) {
        self.rest.until = Some(now);
    }
}
