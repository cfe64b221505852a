//! Who is there, and when: every seat is held by one volunteer after the other.
//!
//! A volunteer stays for a time without memory, of which one in ten ends within any hour. Then the seat is empty for a
//! while, until a new volunteer takes it, with a new machine of as many cores that knows nothing yet. So capacity remains
//! but for the gaps, and no work survives its machine.

use std::time::Duration;

use barnraiser_protocol::time::Timestamp;

use crate::dice::Dice;

/// The share of those present who leave within any hour.
const LEAVING_AN_HOUR: f64 = 0.1;
/// Mean time until somebody takes an empty seat.
const GAP: Duration = Duration::from_secs(300);
/// The share of those leaving who stop the program; for the others the power goes out.
const FAREWELLS: f64 = 0.5;
/// Cores of the largest machine; the smallest has one.
const CORES_MAX: f64 = 16.0;

/// One volunteer's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    /// From when on.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Whether the leases are handed back at its end.
    pub farewell: bool,
}

/// A seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Cores of whoever holds it.
    pub cores: u16,
    /// One behind the other.
    pub stays: Vec<Stay>,
}

/// Draws `count` seats from `start` to beyond `end`. Cores are spread evenly from 1 to 16, whatever the count, so that a
/// few machines are as unlike as many are.
pub fn draw(seed: u64, count: usize, start: Timestamp, end: Timestamp) -> Vec<Seat> {
    let mut dice = Dice::new(seed, "cores");
    let mut cores: Vec<u16> = (0..count).map(|at| 1 + (CORES_MAX * (at as f64 + dice.unit()) / count as f64) as u16).collect();
    for at in (1..count).rev() {
        cores.swap(at, dice.below(at + 1));
    }
    let seat = |(at, cores)| Seat { cores, stays: stays(&mut Dice::new(seed, &format!("seat {at}")), start, end) };
    cores.into_iter().enumerate().map(seat).collect()
}

fn stays(dice: &mut Dice, start: Timestamp, end: Timestamp) -> Vec<Stay> {
    let mean = Duration::from_secs(3600).div_f64(-(1.0 - LEAVING_AN_HOUR).ln());
    let mut stays = Vec::new();
    let mut from = start;
    while from < end {
        let until = from + dice.exponential(mean).max(Duration::from_millis(1));
        stays.push(Stay { from, until, farewell: dice.chance(FAREWELLS) });
        from = until + dice.exponential(GAP).max(Duration::from_millis(1));
    }
    stays
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_000_000_000);

    #[test]
    fn one_in_ten_leaves_within_an_hour() {
        let hour = START + Duration::from_secs(3600);
        let seats = draw(1, 4000, START, hour);
        let left = seats.iter().filter(|seat| seat.stays[0].until < hour).count();
        assert!((360..440).contains(&left), "{left} of 4000");
        // Seats are seldom empty.
        let empty = seats.iter().filter(|seat| !seat.stays.iter().any(|stay| stay.from <= hour && hour < stay.until)).count();
        assert!(empty < 60, "{empty}");
    }

    #[test]
    fn cores_are_spread_evenly_however_few_there_are() {
        for count in [3, 10, 200] {
            let mut cores: Vec<u16> = draw(7, count, START, START).iter().map(|seat| seat.cores).collect();
            cores.sort_unstable();
            assert!((1..=16).contains(&cores[0]) && cores[count - 1] <= 16);
            assert!(cores[count / 3] >= 4, "{cores:?}");
            assert!(cores[count - 1] >= 11, "{cores:?}");
        }
    }
}
