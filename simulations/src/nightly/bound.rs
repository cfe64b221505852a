//! What no scheduler can beat: the larger of the critical path and of all work over all capacity.

use std::time::Duration;

use barnraiser_protocol::time::Timestamp;

use super::night::Chore;
use super::volunteers::Seat;

/// Lower bounds of the time that a night takes, from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The longest chain of builds of which each waits for the one before.
    pub critical_path: Duration,
    /// All builds, each `quorum` times, by all cores that are there, none of them ever idle.
    pub capacity: Duration,
}

impl Bound {
    /// The bounds of `chores`, of which each is built `quorum` times, on `seats` from `start` on. `None` where the seats
    /// are empty for good before all is built.
    pub fn of(chores: &[Chore], quorum: u16, seats: &[Seat], start: Timestamp) -> Option<Self> {
        let work: f64 = chores.iter().map(|chore| chore.core_seconds).sum::<f64>() * f64::from(quorum);
        Some(Self { critical_path: critical_path(chores), capacity: time_for(work, seats, start)? })
    }

    /// The larger of both.
    pub fn longest(&self) -> Duration {
        self.critical_path.max(self.capacity)
    }
}

fn critical_path(chores: &[Chore]) -> Duration {
    let mut ends: Vec<u64> = Vec::with_capacity(chores.len());
    for chore in chores {
        let ready = chore.needs.iter().map(|need| ends[*need]).max().unwrap_or(0);
        ends.push(ready + chore.millis());
    }
    Duration::from_millis(ends.into_iter().max().unwrap_or(0))
}

/// How many cores come and go, and when, in order.
pub fn changes(seats: &[Seat]) -> Vec<(Timestamp, i64)> {
    let stays = seats.iter().flat_map(|seat| seat.stays.iter().map(move |stay| (stay, i64::from(seat.cores))));
    let mut changes: Vec<(Timestamp, i64)> = stays.flat_map(|(stay, cores)| [(stay.from, cores), (stay.until, -cores)]).collect();
    changes.sort_unstable();
    changes
}

/// How long all cores together need for `work` core-seconds.
fn time_for(work: f64, seats: &[Seat], start: Timestamp) -> Option<Duration> {
    let (mut left, mut cores, mut since) = (work, 0, start);
    for (at, change) in changes(seats) {
        let done = at.since(since).as_secs_f64() * cores as f64;
        if done >= left && cores > 0 {
            return Some(since.since(start) + Duration::from_secs_f64(left / cores as f64));
        }
        left -= done;
        cores += change;
        since = since.max(at);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::volunteers::Stay;
    use super::*;

    const START: Timestamp = Timestamp(1_000_000);

    fn seat(cores: u16, from_s: u64, until_s: u64) -> Seat {
        let at = |seconds| START + Duration::from_secs(seconds);
        Seat { cores, stays: vec![Stay { from: at(from_s), until: at(until_s), farewell: true }] }
    }

    fn chore(cores: u16, core_seconds: f64, needs: &[usize]) -> Chore {
        Chore { cores, core_seconds, needs: needs.to_vec() }
    }

    /// 10 s, then the longer of 5 s and 20 s, then 1 s.
    #[test]
    fn critical_path_is_the_longest_chain() {
        let chores = [chore(1, 10.0, &[]), chore(2, 10.0, &[0]), chore(4, 80.0, &[0]), chore(1, 1.0, &[1, 2])];
        let bound = Bound::of(&chores, 1, &[seat(1000, 0, 1000)], START).unwrap();
        assert_eq!(bound.critical_path, Duration::from_secs(31));
        assert_eq!(bound.longest(), Duration::from_secs(31));
    }

    /// 100 core-seconds twice: 4 cores for 30 s, nobody for 10 s, 2 cores for the other 80.
    #[test]
    fn capacity_is_what_is_there_when_it_is_there() {
        let bound = Bound::of(&[chore(4, 100.0, &[])], 2, &[seat(4, 0, 30), seat(2, 40, 1000)], START).unwrap();
        assert_eq!(bound.capacity, Duration::from_secs(80));
        assert_eq!(bound.longest(), Duration::from_secs(80));
        assert_eq!(Bound::of(&[chore(4, 100.0, &[])], 2, &[seat(4, 0, 30)], START), None);
    }
}
