//! When this node rests because its machine seems to be at fault (DESIGN section 7): its builds failed where others built
//! the same, verified output, on several jobs. One such job may be the job's own fault; three say something of the machine.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::ActionId;
use crate::table::Place;
use crate::time::Timestamp;
use crate::verdict::VerdictState;

use super::Engine;
use super::io::{Event, Timer};

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
}

impl Rest {
    /// Until when the node takes no work.
    pub const fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

impl Engine {
    /// Until when this node takes no work because its builds fail where others' succeed.
    pub const fn resting_until(&self) -> Option<Timestamp> {
        self.rest.until()
    }

    /// Learns from a verdict what it says of this node's own build.
    pub(super) fn judge_own(&mut self, now: Timestamp, action: Place) {
        let Some(own) = self.board.author(&self.node.0) else { return };
        let Some(state) = self.state(action) else { return };
        let verified = state.verdicts.iter().any(|(_, found)| found.state == VerdictState::CrossVerified);
        let Some(attested) = state.attested.iter().find(|attested| attested.author == own && attested.counts).filter(|_| verified) else {
            return;
        };
        if attested.success {
            self.rest.wrong.clear();
            self.rest.times = 0;
            return;
        }
        self.rest.wrong.insert(self.board.action_id(action));
        if self.rest.wrong.len() < WRONG_JOBS {
            return;
        }
        let long = REST_FIRST.saturating_mul(1 << self.rest.times.min(16)).min(REST_MAX);
        let until = now + long;
        self.rest = Rest { wrong: BTreeSet::new(), until: Some(until), times: self.rest.times + 1 };
        let reason = format!("{WRONG_JOBS} jobs failed here that others built alike: something is wrong with this machine");
        self.event(Event::Resting { until, reason });
        self.arm_earlier(Timer::Seek, until);
        self.presence_changed(now);
    }

    /// Whether this node rests still; ends the rest when its time is over.
    pub(super) fn still_rests(&mut self, now: Timestamp) -> bool {
        let Some(until) = self.rest.until else { return false };
        if now < until {
            self.arm_earlier(Timer::Seek, until);
            return true;
        }
        self.rest.until = None;
        self.presence_changed(now);
        false
    }
}
