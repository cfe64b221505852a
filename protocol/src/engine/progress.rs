//! Builds that stand still, or take longer than any may: a hung build whose machine still beats dies too (DESIGN section 6).
//!
//! A Renewal says when the build last moved. A sign of life counts as one of that moment and a patience, whenever it was
//! issued, so that all who know the Renewal see the lease lapse at the same time. The builder's own engine is first to end
//! the build and says what came of it; that others need not believe it to do so is the point of the rule.

use std::time::Duration;

use crate::blame::LARGER;
use crate::bounded::BoundedString;
use crate::graph::Limits;
use crate::id::NodeId;
use crate::outcome::{FailureClass, Outcome, Particulars};
use crate::record::payload::{LeaseProgress, LeaseRef, SlotNo};
use crate::table::Place;
use crate::time::Timestamp;

use super::Engine;
use super::io::{Event, Output};
use super::lease::SlotState;
use super::settle::Demand;

/// So many times the job's own limit on silence, which the builder itself enforces: its clock begins with the steps, and
/// the second build of an arbiter has more time.
const PATIENCE: u32 = 4;
/// While nothing was printed and no CPU time used at all, inputs are being fetched: a large one over a poor line.
const FETCH_PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// Recipes tell the time of the reference machine; the slowest that lend themselves take so many times as long.
const SLOWEST: u32 = 4;

/// For how long a lease may be held, counted from its claim: as long as the slowest machine may build, and
/// [`FETCH_PATIENCE`] for fetching inputs and committing. A build may have been given more time after another lacked it, and
/// an arbiter builds twice, the second time on perhaps one core.
pub(super) fn tenure_limit(wall: Duration, cores: u16, slot: SlotNo) -> Duration {
    let builds = if slot.is_arbiter() { 1 + u32::from(cores).max(2) } else { 1 };
    wall.saturating_mul(LARGER * SLOWEST).saturating_mul(builds).saturating_add(FETCH_PATIENCE)
}

/// How long a build may stand still.
fn patience(limits: &Limits, progress: &LeaseProgress) -> Duration {
    let silent = limits.silent.saturating_mul(PATIENCE);
    if progress.log_bytes == 0 && progress.cpu_ms == 0 { silent.max(FETCH_PATIENCE) } else { silent }
}

impl Engine {
    /// The last sign of life of a lease that its holder's Renewal gives, if it lists the lease.
    pub(super) fn sign_of_life(&self, author: Place, lease: &LeaseRef, demand: &Demand) -> Option<Timestamp> {
        let (issued, progress) = self.board.renewed_by(author, lease)?;
        let renewed = progress.renewed_at(issued, self.params.lease_ttl);
        Some(renewed.min(progress.moved + patience(&demand.limits, &progress)))
    }

    /// Whether a Renewal does nothing but keep a lease that this node sees held already, as most do. Then no slot of the action
    /// is another than it was, and it need not be looked at before the lease would have lapsed.
    pub(super) fn goes_on(&mut self, now: Timestamp, author: Place, lease: &LeaseRef) -> bool {
        let Some(action) = self.board.action(&lease.action) else { return false };
        let node = NodeId(self.board.author_key(author));
        let held = |(slot, of): &(SlotNo, SlotState)| match of {
            SlotState::Held(tenure) => (*slot, tenure.epoch, tenure.node) == (lease.slot, lease.epoch, node) && now < tenure.until,
            SlotState::Open { .. } | SlotState::Closed(_) => false,
        };
        let slot = self.state(action).filter(|state| !state.stale).and_then(|state| state.slots.iter().position(held));
        let sign = self.demand(action).and_then(|demand| self.sign_of_life(author, lease, &demand));
        let (Some(slot), Some(sign)) = (slot, sign) else { return false };
        let lapses = sign + self.params.lease_ttl;
        let Some((_, SlotState::Held(tenure))) = self.state_mut(action).and_then(|state| state.slots.get_mut(slot)) else { return false };
        // A Renewal that says less than the one before may end the lease.
        let longer = lapses >= tenure.until;
        if longer {
            tenure.until = lapses.min(tenure.ends);
        }
        longer
    }

    /// Looks again at own leases that were not renewed for too long, as by a machine that slept: others saw them lapse.
    pub(super) fn mind_lapsed(&mut self, now: Timestamp) {
        let lapsed: Vec<LeaseRef> =
            self.own_progress().iter().filter(|own| own.before + self.params.lease_ttl <= now).map(|own| own.lease).collect();
        for lease in lapsed {
            self.look_again(now, &lease.action);
        }
    }

    /// Ends own builds that stand still, before others take their leases away.
    pub(super) fn end_still(&mut self, now: Timestamp) {
        for progress in self.own_progress() {
            let action = self.board.action(&progress.lease.action);
            let Some(demand) = action.and_then(|action| self.demand(action)) else { continue };
            if now < progress.moved + patience(&demand.limits, &progress) {
                continue;
            }
            let lease = progress.lease;
            self.outputs.push_back(Output::Stop(lease));
            let reason = format!("nothing was printed and no CPU time used for {} s", now.since(progress.moved).as_secs());
            self.event(Event::LeaseLost { lease, reason });
            let outcome = Outcome::Failure { class: FailureClass::NoProgress, stage: BoundedString::cut(crate::blame::STAGE_UNKNOWN) };
            let particulars = Particulars { log_length: progress.log_bytes, cpu_ms: progress.cpu_ms, ..Particulars::default() };
            self.finish(now, lease, (outcome, None), particulars);
        }
    }
}
