//! How long inputs are on their way: a home's connection is slow, and slower upwards than downwards.

use std::time::Duration;

use barnraiser_protocol::action::Action;

use super::World;

/// What every machine is connected by. Transfers don't share it: each has the whole connection for itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Links {
    /// Bytes a second that a machine can receive.
    pub down: f64,
    /// Bytes a second that a machine can send.
    pub up: f64,
}

impl Default for Links {
    /// A fast home: 100 Mbit/s down, 40 Mbit/s up.
    fn default() -> Self {
        Self { down: 100e6 / 8.0, up: 40e6 / 8.0 }
    }
}

impl Links {
    /// Seconds for a blob that is fetched from `holders` machines at once.
    pub fn seconds(&self, bytes: u64, holders: usize) -> f64 {
        bytes as f64 / self.down.min(self.up * holders.max(1) as f64)
    }
}

impl World {
    /// How long `node` fetches what it lacks of an action's inputs, one after the other, each from all who are there and
    /// have it. Nothing where outputs have no size.
    pub(super) fn fetching(&self, node: usize, action: &Action) -> Duration {
        let lacks = action.needs.iter().filter(|need| !self.work.has(&need.tree, node));
        let mut seconds = 0.0;
        for need in lacks {
            let bytes = self.work.length(&need.tree);
            if bytes > 0 {
                let there = |holder: &usize| self.nodes[*holder].engine.is_some() && self.weather.connected(*holder, node);
                seconds += self.links.seconds(bytes, self.work.holders(&need.tree).filter(there).count());
            }
        }
        if seconds == 0.0 { Duration::ZERO } else { Duration::from_secs_f64(seconds) + self.weather.latency * 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_sends_slower_than_a_home_receives_and_three_fill_its_line() {
        let links = Links::default();
        assert_eq!(links.seconds(5_000_000, 1), 1.0);
        assert_eq!(links.seconds(12_500_000, 3), 1.0);
        assert_eq!(links.seconds(12_500_000, 30), 1.0);
    }
}
