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
    /// Builds whose machine left before their end.
    pub left: f64,
}

impl Spent {
    /// Sorts builds. `left(span)` tells whether a build ended because its machine left.
    pub fn of(spans: &[Span], quorum: u16, left: impl Fn(&Span) -> bool) -> Self {
        let mut spent = Self::default();
        let mut built = BTreeMap::new();
        for span in spans {
            let cost = span.core_seconds();
            match span.end {
                End::Built => {
                    let count = built.entry(span.action).or_insert(0u16);
                    *count += 1;
                    *if *count <= quorum { &mut spent.needed } else { &mut spent.duplicate } += cost;
                }
                _ if left(span) => spent.left += cost,
                _ => spent.duplicate += cost,
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
        let ended_by = |span: &Span| span.node > 0 && left(&seats[span.node - 1], span);
        let spent = Spent::of(&world.ledger.spans, quorum, ended_by);
        let share = |part: f64| part / spent.needed.max(1e-9) * 100.0;
        report.add("duplicate_work", share(spent.duplicate), "% of core-seconds needed");
        report.add("work_of_leavers", share(spent.left), "% of core-seconds needed");
        let inputs = spent.needed / (night.core_seconds() * f64::from(quorum)).max(1e-9) - 1.0;
        report.add("fetching_inputs", inputs * 100.0, "% of core-seconds needed");
        let chain = Chain::of(&night.chores, &actions, &world.ledger.spans, (quorum, begin), ended_by);
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

/// Whether a build ended when its machine's owner left.
fn left(seat: &Seat, span: &Span) -> bool {
    span.end == End::Lost || seat.stays.iter().any(|stay| stay.farewell && stay.until == span.until)
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
        let spent = Spent::of(&spans, 2, |span| span.end == End::Lost);
        assert_eq!(spent, Spent { needed: 60.0, duplicate: 880.0, left: 320.0 });
    }

    #[test]
    fn build_that_ends_with_a_farewell_is_not_a_duplicate() {
        let stopped = span(1, 10, End::Stopped);
        let seat = |farewell| Seat { cores: 4, stays: vec![Stay { from: Timestamp(0), until: stopped.until, farewell }] };
        assert!(left(&seat(true), &stopped));
        assert!(!left(&seat(false), &stopped));
        assert!(left(&seat(false), &span(1, 10, End::Lost)));
    }

    #[test]
    fn cores_are_there_only_between_coming_and_going() {
        let at = |seconds: u64| Timestamp(seconds * 1000);
        let stay = Stay { from: at(0), until: at(30), farewell: false };
        let seats = [Seat { cores: 4, stays: vec![stay, Stay { from: at(40), until: at(100), ..stay }] }];
        assert_eq!(cores_there(&seats, at(10), at(50)), 4.0 * 30.0);
    }
}
