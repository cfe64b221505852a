//! A list scheduler that knows everything: how long each build takes, and who is there until when. It is what the network
//! is held against: a network whose nodes knew the future, never waited for a message and moved inputs in no time.
//!
//! Whenever cores become free it goes through all builds that are ready, those with the longest way to the end first, and
//! puts each on a machine that has room and stays until it is done: the one that has least room, so that large builds find
//! room elsewhere. No build is begun on a machine that leaves before its end, so none is lost. The builds of one action go
//! to different machines. It never waits for a better moment, so it is not the best schedule that there is.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

use barnraiser_protocol::time::Timestamp;

use super::night::Chore;
use super::volunteers::Seat;

/// A build on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The build, by its place in the list.
    pub chore: usize,
    /// The seat.
    pub seat: usize,
    /// From when.
    pub since: Timestamp,
    /// To when.
    pub until: Timestamp,
}

/// What it came to.
#[derive(Debug, Default)]
pub struct Schedule {
    /// From the beginning to the end of the last build.
    pub makespan: Duration,
    /// All builds that cost anything, in the order of their beginnings.
    pub runs: Vec<Run>,
}

/// A volunteer's machine.
#[derive(Debug)]
struct Machine {
    seat: usize,
    free: u16,
    until: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A build ends.
    End { chore: usize, machine: usize },
    /// A machine comes, by its place among all.
    Come(usize),
    /// A machine goes.
    Go(usize),
}

/// (longest way first, place, copy)
type Ready = (Reverse<u64>, usize, u16);

struct State<'a> {
    chores: &'a [Chore],
    quorum: u16,
    /// Chore → the time from its beginning to the end of all that waits for it.
    ranks: Vec<u64>,
    dependants: Vec<Vec<usize>>,
    /// Chore → needs that are not built.
    missing: Vec<usize>,
    /// Chore → copies that are not built.
    copies: Vec<u16>,
    /// Chore → machines that have or had a copy.
    placed: Vec<Vec<usize>>,
    /// Ready copies by the cores that they ask for.
    ready: std::collections::BTreeMap<u16, BTreeSet<Ready>>,
    machines: Vec<Machine>,
    present: BTreeSet<usize>,
    agenda: BinaryHeap<Reverse<(Timestamp, Happening)>>,
    left: usize,
    schedule: Schedule,
}

/// Schedules `chores`, each `quorum` times, on `seats`; `None` where not all could be built.
pub fn schedule(chores: &[Chore], quorum: u16, seats: &[Seat], start: Timestamp) -> Option<Schedule> {
    let mut state = State::new(chores, quorum, seats);
    let first: Vec<usize> = (0..chores.len()).filter(|chore| state.missing[*chore] == 0).collect();
    let mut end = state.make_ready(first).then_some(start);
    while let Some(Reverse((now, _))) = state.agenda.peek().copied()
        && state.left > 0
    {
        let mut done = Vec::new();
        while let Some(Reverse((at, what))) = state.agenda.peek().copied()
            && at == now
        {
            state.agenda.pop();
            done.extend(state.happen(what));
        }
        if state.make_ready(done) {
            end = Some(now.max(start));
        }
        state.place(now.max(start));
    }
    let mut schedule = state.schedule;
    schedule.makespan = end?.since(start);
    Some(schedule)
}

impl<'a> State<'a> {
    fn new(chores: &'a [Chore], quorum: u16, seats: &[Seat]) -> Self {
        let mut ranks = vec![0; chores.len()];
        let mut dependants = vec![Vec::new(); chores.len()];
        for (at, chore) in chores.iter().enumerate().rev() {
            ranks[at] += chore.millis();
            for need in &chore.needs {
                ranks[*need] = ranks[*need].max(ranks[at]);
                dependants[*need].push(at);
            }
        }
        let (mut machines, mut agenda) = (Vec::new(), BinaryHeap::new());
        for (seat, of) in seats.iter().enumerate() {
            for stay in &of.stays {
                agenda.push(Reverse((stay.from, Happening::Come(machines.len()))));
                agenda.push(Reverse((stay.until, Happening::Go(machines.len()))));
                machines.push(Machine { seat, free: of.cores, until: stay.until });
            }
        }
        Self {
            chores,
            quorum,
            ranks,
            missing: chores.iter().map(|chore| chore.needs.len()).collect(),
            dependants,
            copies: vec![quorum; chores.len()],
            placed: vec![Vec::new(); chores.len()],
            ready: std::collections::BTreeMap::new(),
            machines,
            present: BTreeSet::new(),
            agenda,
            left: chores.len(),
            schedule: Schedule::default(),
        }
    }

    /// Returns the chore that is built now as often as it must be.
    fn happen(&mut self, what: Happening) -> Option<usize> {
        match what {
            Happening::Come(machine) => {
                self.present.insert(machine);
            }
            Happening::Go(machine) => {
                self.present.remove(&machine);
            }
            Happening::End { chore, machine } => {
                self.machines[machine].free += self.chores[chore].cores;
                self.copies[chore] -= 1;
                return (self.copies[chore] == 0).then(|| {
                    self.left -= 1;
                    chore
                });
            }
        }
        None
    }

    /// Lists the builds that can begin now: those that `done` names if nothing was begun, those that waited for them
    /// otherwise. Returns whether all chores are built.
    fn make_ready(&mut self, done: Vec<usize>) -> bool {
        let mut next = Vec::new();
        for chore in done {
            if self.copies[chore] > 0 {
                next.push(chore);
            } else {
                self.release(chore, &mut next);
            }
        }
        while let Some(chore) = next.pop() {
            if self.chores[chore].core_seconds == 0.0 {
                // Nothing to build: it is done as soon as it is ready.
                self.copies[chore] = 0;
                self.left -= 1;
                self.release(chore, &mut next);
                continue;
            }
            let list = self.ready.entry(self.chores[chore].cores).or_default();
            list.extend((0..self.quorum).map(|copy| (Reverse(self.ranks[chore]), chore, copy)));
        }
        self.left == 0
    }

    fn release(&mut self, chore: usize, next: &mut Vec<usize>) {
        for above in &self.dependants[chore] {
            self.missing[*above] -= 1;
            if self.missing[*above] == 0 {
                next.push(*above);
            }
        }
    }

    /// Begins what can be begun.
    fn place(&mut self, now: Timestamp) {
        let mut after: std::collections::BTreeMap<u16, Option<Ready>> = self.ready.keys().map(|cores| (*cores, None)).collect();
        loop {
            let room = self.present.iter().map(|machine| self.machines[*machine].free).max().unwrap_or(0);
            after.retain(|cores, _| *cores <= room);
            let next = after.iter().filter_map(|(cores, after)| {
                let list = &self.ready[cores];
                let ready = match after {
                    Some(after) => list.range((std::ops::Bound::Excluded(*after), std::ops::Bound::Unbounded)).next(),
                    None => list.first(),
                };
                ready.map(|ready| (*ready, *cores))
            });
            let Some((ready, cores)) = next.min() else { return };
            after.insert(cores, Some(ready));
            let chore = ready.1;
            let until = now + Duration::from_millis(self.chores[chore].millis());
            let fits = |machine: &&usize| {
                let Machine { free, until: leaves, .. } = self.machines[**machine];
                free >= cores && leaves >= until && !self.placed[chore].contains(machine)
            };
            let Some(machine) = self.present.iter().filter(fits).min_by_key(|machine| self.machines[**machine].free).copied() else {
                continue;
            };
            self.machines[machine].free -= cores;
            self.placed[chore].push(machine);
            if let Some(list) = self.ready.get_mut(&cores) {
                list.remove(&ready);
            }
            self.agenda.push(Reverse((until, Happening::End { chore, machine })));
            self.schedule.runs.push(Run { chore, seat: self.machines[machine].seat, since: now, until });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::volunteers::Stay;
    use super::*;

    const START: Timestamp = Timestamp(1_000_000);

    fn at(seconds: u64) -> Timestamp {
        START + Duration::from_secs(seconds)
    }

    fn seat(cores: u16, from: u64, until: u64) -> Seat {
        Seat { cores, stays: vec![Stay { from: at(from), until: at(until), farewell: true }] }
    }

    fn chore(cores: u16, seconds: u64, needs: &[usize]) -> Chore {
        Chore { cores, core_seconds: (seconds * u64::from(cores)) as f64, needs: needs.to_vec() }
    }

    fn makespan(chores: &[Chore], quorum: u16, seats: &[Seat]) -> Option<u64> {
        schedule(chores, quorum, seats, START).map(|schedule| schedule.makespan.as_secs())
    }

    /// The long chain goes first though the short build stands before it in the list.
    #[test]
    fn longest_way_goes_first() {
        let chores = [chore(1, 10, &[]), chore(1, 10, &[]), chore(1, 20, &[1])];
        assert_eq!(makespan(&chores, 1, &[seat(1, 0, 1000)]), Some(40));
        assert_eq!(makespan(&chores, 1, &[seat(1, 0, 1000), seat(1, 0, 1000)]), Some(30));
        let first = schedule(&chores, 1, &[seat(1, 0, 1000)], START).unwrap().runs[0].chore;
        assert_eq!(first, 1);
    }

    /// Two builds of one action never share a machine, however much room there is.
    #[test]
    fn copies_go_to_different_machines() {
        let chores = [chore(1, 10, &[])];
        assert_eq!(makespan(&chores, 2, &[seat(8, 0, 1000)]), None);
        assert_eq!(makespan(&chores, 2, &[seat(8, 0, 1000), seat(1, 5, 1000)]), Some(15));
    }

    /// The machine that leaves after 15 s gets no build of 20 s; it waits for the one that stays.
    #[test]
    fn nothing_is_begun_that_its_machine_does_not_stay_for() {
        let chores = [chore(1, 20, &[])];
        assert_eq!(makespan(&chores, 1, &[seat(1, 0, 15), seat(1, 10, 1000)]), Some(30));
    }

    /// The small build goes where there is least room, so that the large one fits beside it.
    #[test]
    fn small_builds_leave_room_for_large_ones() {
        let chores = [chore(1, 30, &[]), chore(4, 20, &[])];
        assert_eq!(makespan(&chores, 1, &[seat(4, 0, 1000), seat(1, 0, 1000)]), Some(30));
    }

    #[test]
    fn what_has_nothing_to_build_takes_no_time_and_no_machine() {
        let chores = [chore(1, 0, &[]), chore(1, 5, &[0]), chore(1, 0, &[1]), chore(1, 0, &[2])];
        assert_eq!(makespan(&chores, 2, &[seat(1, 0, 1000), seat(1, 0, 1000)]), Some(5));
    }
}
