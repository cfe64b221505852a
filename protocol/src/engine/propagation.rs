//! How long records take to reach this node, measured on those that come.

use std::time::Duration;

use crate::time::Timestamp;

/// The first guess: a network on one continent.
const GUESS: Duration = Duration::from_millis(50);
/// Records of more than this age came by anti-entropy or from a clock that is wrong, and tell nothing.
const AGE_MAX: Duration = Duration::from_secs(2);
/// Bounds of [`Propagation::patience`].
const PATIENCE_BOUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));
/// A measurement weighs at least one part in so many.
const MEMORY: u32 = 32;

/// Mean and mean deviation of the time that a record takes to get here.
#[derive(Debug)]
pub(super) struct Propagation {
    mean: Duration,
    deviation: Duration,
    heard: u32,
}

impl Default for Propagation {
    fn default() -> Self {
        Self { mean: GUESS, deviation: GUESS / 2, heard: 1 }
    }
}

impl Propagation {
    /// Learns from a record that was made at `issued` and arrives at `now`. Clocks that differ make times longer here and
    /// never shorter: who waits too long loses a moment, who waits too little loses a build.
    pub fn hear(&mut self, now: Timestamp, issued: Timestamp) {
        let age = if issued > now { issued.since(now) } else { now.since(issued) };
        if age > AGE_MAX {
            return;
        }
        self.heard = (self.heard + 1).min(MEMORY);
        let off = age.abs_diff(self.mean);
        self.mean = (self.mean * (self.heard - 1) + age) / self.heard;
        self.deviation = (self.deviation * (self.heard - 1) + off) / self.heard;
    }

    /// The mean.
    pub const fn mean(&self) -> Duration {
        self.mean
    }

    /// How long one waits for what another may have said already: the mean and four mean deviations, as TCP waits for an
    /// acknowledgement (RFC 6298, section 2.3). Between 10 ms and 2 s.
    pub fn patience(&self) -> Duration {
        (self.mean + self.deviation * 4).clamp(PATIENCE_BOUNDS.0, PATIENCE_BOUNDS.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(ages_ms: impl IntoIterator<Item = i64>) -> Propagation {
        let mut propagation = Propagation::default();
        for age in ages_ms {
            propagation.hear(Timestamp(1_000_000), Timestamp(1_000_000_u64.saturating_add_signed(-age)));
        }
        propagation
    }

    #[test]
    fn steady_times_are_waited_for_and_little_more() {
        let propagation = heard(std::iter::repeat_n(200, 500));
        assert!(propagation.mean().abs_diff(Duration::from_millis(200)) < Duration::from_millis(5), "{propagation:?}");
        assert!(propagation.patience() < Duration::from_millis(220), "{propagation:?}");
    }

    #[test]
    fn times_that_vary_are_waited_for_longer() {
        let propagation = heard((0..500).map(|n| if n % 2 == 0 { 100 } else { 300 }));
        let patience = propagation.patience();
        assert!((Duration::from_millis(500)..Duration::from_millis(700)).contains(&patience), "{patience:?}");
    }

    /// A clock that runs ahead would make records look as if they came at once.
    #[test]
    fn clocks_that_differ_never_make_the_wait_shorter() {
        assert!(heard((0..500).map(|_| -200)).patience() >= heard((0..500).map(|_| 20)).patience());
    }

    #[test]
    fn what_is_far_off_tells_nothing() {
        let before = Propagation::default().patience();
        assert_eq!(heard([100_000, -100_000, 3_000]).patience(), before);
    }
}
