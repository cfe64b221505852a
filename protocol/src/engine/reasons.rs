//! Why a failure is not the end of a job, or why it is, in one line each: `barn why`.

use crate::blame::{ATTEMPT_SLOTS_MAX, LARGER, TRIES_MAX};
use crate::outcome::{FailureClass, Outcome};
use crate::record::Payload;
use crate::table::Place;
use crate::verdict::Verdict;

use super::Engine;
use super::lease::SlotState;
use super::query::{JobState, count, operators};
use super::settle::Demand;

impl Engine {
    /// The state of a job that the evidence says has failed, and why it is in it.
    pub(super) fn why_failed(&self, place: Place, verdict: Option<&Verdict>) -> (JobState, String) {
        let Some(Outcome::Failure { class, stage }) = verdict.and_then(|verdict| verdict.outcome.as_ref()) else {
            return (JobState::Failed, "it failed".into());
        };
        let by = verdict.map_or(0, |verdict| verdict.agreeing.len());
        if *class == FailureClass::Lost {
            let who = if by == 0 { "its builders fell silent over it, one after the other".into() } else { Self::lost(by, stage) };
            return (JobState::Failed, format!("poison: {who}; nobody else gets it before a retry"));
        }
        let what = format!("{class} in {stage}; {} found the same", operators(by));
        let soft = self.state(place).is_some_and(|state| state.wants_larger());
        let Some(demand) = self.demand(place).filter(|_| soft) else { return (JobState::Failed, what) };
        let slots = self.state(place).map_or(&[][..], |state| &state.slots);
        let held = slots.iter().find_map(|(slot, of)| match of {
            SlotState::Held(tenure) if crate::blame::is_larger(*slot) => Some(tenure),
            _ => None,
        });
        let memory = (demand.limits.memory >> 20) * u64::from(LARGER);
        if let Some(tenure) = held {
            return (JobState::Building, format!("{what}; {} tries it with {LARGER} times as much", tenure.operator.short()));
        }
        match self.larger_machines(&demand) {
            0 => (JobState::Failed, format!("{what}; no larger machine is present: {memory} MiB of free memory are wanted")),
            able => (JobState::Candidate, format!("{what}; waits for a larger machine, {} could try it", count(able, "one", "ones"))),
        }
    }

    fn lost(by: usize, stage: &str) -> String {
        format!("{} lost their machine in {stage}", operators(by))
    }

    /// What machines spoilt of an action, or that it was more than they gave it; empty where nothing.
    pub(super) fn why_tried(&self, place: Place) -> String {
        let first = self.attempt_first_slot(&self.board.action_id(place));
        let mut spoilt: Vec<FailureClass> = Vec::new();
        let mut small = 0;
        for (author, record) in self.board.about(place) {
            let Payload::Reveal(reveal) = record.payload() else { continue };
            let of_attempt = crate::blame::attempt_of(reveal.lease.slot) == first && self.voice(author).operator.is_some();
            match &reveal.outcome {
                Outcome::Failure { class, .. } if of_attempt && class.is_infrastructure() => spoilt.push(*class),
                outcome if of_attempt && crate::verdict::ballot::lacks_room(outcome) => small += 1,
                _ => {}
            }
        }
        let mut text = String::new();
        if let Some(last) = spoilt.iter().max() {
            let tries = spoilt.len();
            text += &format!("; {tries} of {ATTEMPT_SLOTS_MAX} tries spoilt by machines ({last} among them), {TRIES_MAX} each at the most");
        }
        if small > 0 {
            text += &format!("; {} too small", count(small, "machine was", "machines were"));
        }
        text
    }

    /// Why this node does not take the action, if it is not for lack of room at the moment.
    pub(super) fn why_not_here(&self, demand: &Demand) -> String {
        let resting =
            self.rest.reason().or_else(|| self.rest.is_on_probation().then(|| "this machine is on probation after a rest".into()));
        let why = self.unfit(demand).or(resting);
        why.map_or_else(String::new, |why| format!("; here: {why}"))
    }
}
