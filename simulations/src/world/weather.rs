//! The network between nodes: how long a message takes, whether it arrives, how often, and who is cut off from whom.

use std::time::Duration;

use crate::dice::Dice;

/// The mean share of a message's latency that is drawn anew for each; the rest is the pair's distance.
const JITTER: f64 = 0.3;
/// No message is faster, not even within one machine.
const LATENCY_MIN: Duration = Duration::from_micros(100);

/// What the network does to messages.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Mean time of a message between two nodes.
    pub latency: Duration,
    /// Share of gossiped messages that one receiver never gets (anti-entropy brings them).
    pub loss: f64,
    /// Share that arrives twice.
    pub duplicates: f64,
    /// Share that takes twenty times as long: what overtakes it arrives before it.
    pub stragglers: f64,
    /// Node → the part of the network that it is in; nodes of different parts don't hear each other.
    groups: Vec<u8>,
    /// Nodes whose messages nobody gets, though they hear the others.
    muted: Vec<bool>,
    /// Node → its distance from the middle, as a share of the mean latency.
    distance: Vec<f64>,
}

impl Weather {
    /// A calm network of `nodes` nodes.
    pub fn calm(nodes: usize, latency: Duration, dice: &mut Dice) -> Self {
        Self {
            latency,
            loss: 0.0,
            duplicates: 0.0,
            stragglers: 0.0,
            groups: vec![0; nodes],
            muted: vec![false; nodes],
            // The mean of two distances is the mean latency less the jitter.
            distance: (0..nodes).map(|_| dice.between(0.2, 1.2) * (1.0 - JITTER) / 1.4).collect(),
        }
    }

    /// Whether what `from` says can reach `to` now.
    pub fn connected(&self, from: usize, to: usize) -> bool {
        self.groups[from] == self.groups[to] && !self.muted[from]
    }

    /// How long a message takes; `None` where it is lost.
    pub fn carry(&self, from: usize, to: usize, dice: &mut Dice) -> Option<Duration> {
        if !self.connected(from, to) || dice.chance(self.loss) {
            return None;
        }
        Some(self.delay(from, to, dice))
    }

    /// How long a message takes that is sent again until it arrives.
    pub fn delay(&self, from: usize, to: usize, dice: &mut Dice) -> Duration {
        let share = self.distance[from] + self.distance[to] - dice.unit().max(1e-9).ln() * JITTER;
        let slow = if dice.chance(self.stragglers) { 20.0 } else { 1.0 };
        self.latency.mul_f64(share * slow).max(LATENCY_MIN)
    }

    /// Cuts the network into `parts`, drawn node by node.
    pub fn partition(&mut self, parts: usize, dice: &mut Dice) {
        for group in &mut self.groups {
            *group = u8::try_from(dice.below(parts)).unwrap_or(0);
        }
    }

    /// Nobody hears `node` any more.
    pub fn mute(&mut self, node: usize) {
        self.muted[node] = true;
    }

    /// Ends partitions and mutings.
    pub fn join(&mut self) {
        self.groups.fill(0);
        self.muted.fill(false);
    }

    /// Ends everything that makes it less than calm.
    pub fn clear(&mut self) {
        self.join();
        (self.loss, self.duplicates, self.stragglers) = (0.0, 0.0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_latency_is_what_was_asked_for() {
        let mut dice = Dice::new(1, "latency");
        let weather = Weather::calm(200, Duration::from_millis(100), &mut dice);
        let total: Duration = (0..20_000).map(|n| weather.delay(n % 200, (n * 7 + 1) % 200, &mut dice)).sum();
        let mean = total.as_secs_f64() / 20_000.0;
        assert!((0.09..0.11).contains(&mean), "{mean}");
    }

    #[test]
    fn parts_hear_nothing_of_each_other_until_they_join() {
        let mut dice = Dice::new(1, "parts");
        let mut weather = Weather::calm(2, Duration::from_millis(100), &mut dice);
        weather.groups = vec![0, 1];
        assert_eq!(weather.carry(0, 1, &mut dice), None);
        weather.join();
        assert!(weather.carry(0, 1, &mut dice).is_some());
        weather.mute(0);
        assert!(!weather.connected(0, 1) && weather.connected(1, 0));
    }
}
