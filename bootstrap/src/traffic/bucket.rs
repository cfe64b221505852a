//! A token bucket: how many bytes may move now, at a given rate.

use std::time::Duration;

const NS: u128 = 1_000_000_000;

/// Fills with the time and is emptied by what moves. It may be overdrawn: what could not wait is paid for afterwards. Times
/// are ages of any one clock; an earlier one than before counts as no time.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    /// Bytes a second; at least 1.
    rate: u64,
    /// The most that is saved up, in bytes.
    depth: i64,
    level: i64,
    /// The time up to which the level was reckoned.
    at: Duration,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: u64, depth: u64, now: Duration) -> Self {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        Self { rate: rate.max(1), depth, level: depth, at: now }
    }

    /// The bytes that may move now; negative where more has moved than was there.
    pub fn level(&mut self, now: Duration) -> i64 {
        let Some(passed) = now.checked_sub(self.at) else { return self.level };
        let gained = passed.as_nanos().saturating_mul(self.rate.into()) / NS;
        let missing = u128::try_from(self.depth.saturating_sub(self.level)).unwrap_or(0);
        if gained >= missing {
            self.level = self.depth;
            self.at = now;
        } else if gained > 0 {
            // Smaller than what is missing, so it fits.
            self.level = self.level.saturating_add(gained as i64);
            // Only the time of whole bytes is over, so that a slow rate loses nothing to frequent questions.
            self.at += nanoseconds(gained * NS / u128::from(self.rate));
        }
        self.level
    }

    /// `bytes` move.
    pub fn take(&mut self, now: Duration, bytes: u64) {
        self.level(now);
        self.level = self.level.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// `bytes` that were taken did not move after all.
    pub fn give_back(&mut self, bytes: u64) {
        self.level = self.level.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX)).min(self.depth);
    }

    /// How long from `now` until the level is above `floor`.
    pub fn until_above(&mut self, now: Duration, floor: i64) -> Duration {
        let missing = floor.saturating_sub(self.level(now)).saturating_add(1);
        match u128::try_from(missing) {
            Ok(missing) if missing > 0 => nanoseconds((missing * NS).div_ceil(self.rate.into())),
            _ => Duration::ZERO,
        }
    }
}

/// Cut off at centuries.
fn nanoseconds(ns: u128) -> Duration {
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Whatever the rate, and however unevenly it is asked: what moves is what the rate says.
    #[test]
    fn what_moves_in_a_minute_is_the_rate_within_a_thousandth() {
        for rate in [1_000, 65_536, 262_144, 2 << 20, 12_500_000, 125_000_000] {
            let depth = rate / 10;
            let mut bucket = Bucket::new(rate, depth, Duration::ZERO);
            bucket.take(Duration::ZERO, depth);
            let (mut now, mut moved, mut step) = (Duration::ZERO, 0u64, 0u64);
            while now < Duration::from_secs(60) {
                // From a microsecond to some 40 ms, as timers come on a busy machine.
                step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                now += Duration::from_micros(1 + (step >> 33) % 40_000);
                while bucket.level(now) > 0 {
                    bucket.take(now, 1_000);
                    moved += 1_000;
                }
            }
            let wanted = rate * 60;
            assert!(moved.abs_diff(wanted) <= wanted / 1_000 + 41 * rate / 1_000 + 1_000, "{moved} of {wanted} at {rate}");
        }
    }

    #[test]
    fn no_more_is_saved_up_than_the_depth_and_debts_are_paid_first() {
        let mut bucket = Bucket::new(1_000, 100, Duration::ZERO);
        assert_eq!(bucket.level(3600 * 1_000 * MS), 100);
        let now = 3600 * 1_000 * MS;
        bucket.take(now, 600);
        assert_eq!(bucket.level(now), -500);
        assert_eq!(bucket.until_above(now, 0), 501 * MS);
        assert_eq!(bucket.until_above(now, -600), Duration::ZERO);
        assert_eq!(bucket.level(now + 501 * MS), 1);
        bucket.give_back(1_000_000);
        assert_eq!(bucket.level(now + 501 * MS), 100);
    }

    #[test]
    fn asking_often_loses_nothing_and_a_clock_that_stands_gains_nothing() {
        let mut bucket = Bucket::new(3, 1_000, Duration::ZERO);
        bucket.take(Duration::ZERO, 1_000);
        // A third of a second is a byte; each question comes after a millisecond.
        let level = (0..=10_000).map(|ms| bucket.level(ms * MS)).last();
        assert_eq!(level, Some(30));
        assert_eq!(bucket.level(Duration::ZERO), 30);
    }
}
