//! What a night came to.

use std::collections::BTreeMap;
use std::time::Duration;

use barnraiser_protocol::id::ActionId;
use barnraiser_protocol::time::Timestamp;

use super::bound::{Bound, changes};
use super::chain::Chain;
use super::night::Night;
use super::omniscient::Schedule;
use super::volunteers::Seat;
use crate::ledger::{End, Span};
use crate::report::Report;
use crate::world::World;

/// A night that is over, with all that it is held against.
pub struct Outcome {
    /// Checks and figures.
    pub report: Report,
    /// When the batch was submitted, ...
    pub begin: Timestamp,
    /// ... and when all was built.
    pub end: Timestamp,
    /// What no scheduler could beat.
    pub bound: Bound,
    /// What a scheduler would have done who knows the future.
    pub schedule: Schedule,
    /// What was built.
    pub night: Night,
    /// Who was there.
    pub seats: Vec<Seat>,
    /// All builds.
    pub spans: Vec<Span>,
    /// Milliseconds from the moment when the first node could have claimed a slot to its first claim.
    pub waits_ms: Vec<u64>,
}

/// Core-seconds of builds, by what they were good for.
#[derive(Debug, Default, PartialEq)]
pub struct Spent {
    /// As many of each action as the quorum asks for.
    pub needed: f64,
    /// Beyond that: builds of leases that were lost to others, and results that nobody asked for any more.
    pub duplicate: f64,
    /// Builds whose machine left before their end, or before what they made was revealed.
    pub left: f64,
}

impl Spent {
    /// Sorts builds. `gone(span, by)` tells whether the machine of a build had left by then.
    pub fn of(spans: &[Span], quorum: u16, gone: impl Fn(&Span, Timestamp) -> bool) -> Self {
        let mut spent = Self::default();
        let mut built: BTreeMap<ActionId, Vec<&Span>> = BTreeMap::new();
        for span in spans {
            match span.end {
                End::Built => built.entry(span.action).or_default().push(span),
                _ if gone(span, span.until) => spent.left += span.core_seconds(),
                _ => spent.duplicate += span.core_seconds(),
            }
        }
        for mut builds in built.into_values() {
            // They are in the order of their ends. A result is revealed once the quorum has one: whose builder was gone by
            // then was built anew.
            let mut surplus = builds.len().saturating_sub(usize::from(quorum));
            let last = builds.last().map_or_else(Timestamp::default, |span| span.until);
            builds.retain(|span| {
                let lost = surplus > 0 && gone(span, last);
                surplus -= usize::from(lost);
                spent.left += if lost { span.core_seconds() } else { 0.0 };
                !lost
            });
            for (number, span) in builds.into_iter().enumerate() {
                *if number < usize::from(quorum) { &mut spent.needed } else { &mut spent.duplicate } += span.core_seconds();
            }
        }
        spent
    }
}

impl Outcome {
    /// Takes the figures of a run that has ended.
    pub fn new(
        world: World,
        (volunteers, seed): (usize, u64),
        (night, actions, quorum): (Night, Vec<Option<ActionId>>, u16),
        (seats, bound, schedule): (Vec<Seat>, Bound, Schedule),
        (begin, end): (Timestamp, Timestamp),
    ) -> Self {
        let mut report = Report::new("nightly", volunteers, seed, &world);
        let makespan = end.since(begin);
        let minutes = |time: Duration| time.as_secs_f64() / 60.0;
        let over = |other: Duration| makespan.as_secs_f64() / other.as_secs_f64().max(1e-9);
        report.add("makespan", minutes(makespan), "min");
        report.add("critical_path", minutes(bound.critical_path), "min");
        report.add("work_over_capacity", minutes(bound.capacity), "min");
        report.add("list_scheduler", minutes(schedule.makespan), "min");
        report.add("over_bound", over(bound.longest()), "times");
        report.add("over_list_scheduler", over(schedule.makespan), "times");
        let was_gone = |span: &Span, by: Timestamp| span.node > 0 && gone(&seats[span.node - 1], span, by);
        let spent = Spent::of(&world.ledger.spans, quorum, was_gone);
        let share = |part: f64| part / spent.needed.max(1e-9) * 100.0;
        report.add("duplicate_work", share(spent.duplicate), "% of core-seconds needed");
        report.add("work_of_leavers", share(spent.left), "% of core-seconds needed");
        let inputs = spent.needed / (night.core_seconds() * f64::from(quorum)).max(1e-9) - 1.0;
        report.add("fetching_inputs", inputs * 100.0, "% of core-seconds needed");
        let chain = Chain::of(&night.chores, &actions, &world.ledger.spans, (quorum, begin), |span| was_gone(span, span.until));
        report.add("chain_building", minutes(chain.building), "min");
        report.add("chain_rebuilding", minutes(chain.rebuilding), "min");
        report.add("chain_waiting", minutes(chain.waiting), "min");
        let there = cores_there(&seats, begin, end);
        let total = spent.needed + spent.duplicate + spent.left;
        report.add("busy", total / there.max(1e-9) * 100.0, "% of core-seconds there");
        let left = seats.iter().flat_map(|seat| &seat.stays).filter(|stay| (begin..end).contains(&stay.until)).count();
        report.add("left", left as f64, "volunteers");
        report.add("jobs", night.graph.jobs.len() as f64, "jobs");
        report.add("actions", night.chores.len() as f64, "actions");
        let World { ledger, .. } = world;
        Self { report, begin, end, bound, schedule, night, seats, spans: ledger.spans, waits_ms: ledger.waits_ms }
    }
}

/// Whether the machine that began a build had left by a moment.
fn gone(seat: &Seat, span: &Span, by: Timestamp) -> bool {
    seat.stays.iter().any(|stay| (stay.from..stay.until).contains(&span.since) && stay.until <= by)
}

/// Core-seconds that were there between two moments.
fn cores_there(seats: &[Seat], begin: Timestamp, end: Timestamp) -> f64 {
    let (mut total, mut cores, mut since) = (0.0, 0, begin);
    for (at, change) in changes(seats) {
        let at = at.clamp(begin, end);
        total += at.since(since).as_secs_f64() * cores as f64;
        cores += change;
        since = since.max(at);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::super::volunteers::Stay;
    use super::*;

    fn span(action: u8, seconds: u64, end: End) -> Span {
        let since = Timestamp(1_000);
        Span { node: 1, action: ActionId([action; 32]), cores: 2, since, until: since + Duration::from_secs(seconds), end }
    }

    /// Two builds of an action are needed, the third is one too many; what was stopped is lost, and whose fault it was
    /// decides how it counts.
    #[test]
    fn builds_are_sorted_by_what_they_were_good_for() {
        let spans = [
            span(1, 10, End::Built),
            span(1, 20, End::Built),
            span(1, 40, End::Built),
            span(2, 80, End::Stopped),
            span(2, 160, End::Lost),
            span(3, 320, End::Failed),
        ];
        let spent = Spent::of(&spans, 2, |span, _| span.end == End::Lost);
        assert_eq!(spent, Spent { needed: 60.0, duplicate: 880.0, left: 320.0 });
    }

    /// Who left before anybody else had built the action took the result along, so that a third build was needed.
    #[test]
    fn result_that_left_with_its_builder_is_no_duplicate() {
        let spans = [span(1, 10, End::Built), span(1, 20, End::Built), span(1, 40, End::Built)];
        let first_left = |span: &Span, by: Timestamp| span.until == spans[0].until && by >= spans[1].until;
        assert_eq!(Spent::of(&spans, 2, first_left), Spent { needed: 120.0, duplicate: 0.0, left: 20.0 });
        // Where two were enough it does not matter who left later.
        assert_eq!(Spent::of(&spans[..2], 2, first_left), Spent { needed: 60.0, duplicate: 0.0, left: 0.0 });
    }

    #[test]
    fn machine_is_gone_from_the_end_of_the_stay_in_which_it_built() {
        let built = span(1, 10, End::Built);
        let stay = |from, until| Stay { from: Timestamp(from), until: Timestamp(until), farewell: true };
        let seat = Seat { cores: 4, stays: vec![stay(0, 500), stay(600, 20_000), stay(21_000, 90_000)] };
        assert!(!gone(&seat, &built, Timestamp(19_999)));
        assert!(gone(&seat, &built, Timestamp(20_000)));
    }

    #[test]
    fn cores_are_there_only_between_coming_and_going() {
        let at = |seconds: u64| Timestamp(seconds * 1000);
        let stay = Stay { from: at(0), until: at(30), farewell: false };
        let seats = [Seat { cores: 4, stays: vec![stay, Stay { from: at(40), until: at(100), ..stay }] }];
        assert_eq!(cores_there(&seats, at(10), at(50)), 4.0 * 30.0);
    }
}
