//! Holders before homes: a line that somebody lends is spared where a machine in a data centre can give the same.
//!
//! As long as a holder that has all of a blob gives it at a fair speed, others are not asked for units. They help where no
//! holder has it all, where the holders have been slow in the last seconds, and where none has answered in a moment. Which units
//! come from whom is not decided here ([`super::Schedule`]). Times are ages of the fetch.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::id::NodeId;

/// For so long a holder may connect and begin, before others are asked.
const BEGIN_TIME: Duration = Duration::from_secs(2);
/// Holders that give less than this in a second are slow: it is what many homes can give, and more than most like to.
const SLOW_BYTES_A_SECOND: u64 = 2 << 20;
/// Over so long it is reckoned how fast they are: some units even at that speed, and what is lost when one that was fast stops.
const MEASURED_TIME: Duration = Duration::from_secs(4);
/// How often it is reckoned anew. What comes within as long is counted together.
const AGAIN: Duration = Duration::from_millis(500);
/// A unit that a holder has had for so long is late for one that waits. More than it needs where a few holders together give it
/// at a fair speed: else the homes that are to be spared would send each unit a second time.
pub const LATE_AFTER: Duration = Duration::from_secs(4);

/// What is known of the holders among the providers of one blob.
#[derive(Debug, Clone, Default)]
pub struct Preference {
    /// Holders at work, and whether each has all of it, once it has said so.
    holders: BTreeMap<NodeId, Option<bool>>,
    /// What holders gave lately: since when, and how many bytes.
    recent: VecDeque<(Duration, u64)>,
}

impl Preference {
    /// A holder is being asked.
    pub fn joined(&mut self, holder: NodeId) {
        self.holders.entry(holder).or_insert(None);
    }

    /// A holder has said whether it has all of it. Others are passed over.
    pub fn said(&mut self, node: &NodeId, all: bool) {
        if let Some(said) = self.holders.get_mut(node) {
            *said = Some(all);
        }
    }

    /// A node gave so many bytes that were proven.
    pub fn delivered(&mut self, node: &NodeId, bytes: u64, now: Duration) {
        if !self.holders.contains_key(node) {
            return;
        }
        match self.recent.back_mut().filter(|(since, _)| now.saturating_sub(*since) < AGAIN) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => self.recent.push_back((now, bytes)),
        }
        while self.recent.front().is_some_and(|(since, _)| now.saturating_sub(*since) >= MEASURED_TIME) {
            self.recent.pop_front();
        }
    }

    /// A node is of no more use, or through.
    pub fn left(&mut self, node: &NodeId) {
        self.holders.remove(node);
    }

    /// Until when `node` is not asked for units that nobody has in hand; none where it is now.
    pub fn waits(&self, node: &NodeId, now: Duration) -> Option<Duration> {
        if self.holders.contains_key(node) {
            return None;
        }
        let may_give = |said: &Option<bool>| said.unwrap_or(now < BEGIN_TIME);
        if !self.holders.values().any(may_give) {
            return None;
        }
        if now < BEGIN_TIME {
            return Some((now + AGAIN).min(BEGIN_TIME));
        }
        let fair = u128::from(SLOW_BYTES_A_SECOND) * now.min(MEASURED_TIME).as_millis() / 1000;
        let lately = self.recent.iter().filter(|(since, _)| now.saturating_sub(*since) < MEASURED_TIME);
        let given: u128 = lately.map(|(_, bytes)| u128::from(*bytes)).sum();
        (given >= fair).then(|| now + AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn after(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn homes_wait_while_a_holder_gives_it_at_a_fair_speed() {
        let mut preference = Preference::default();
        let (holder, home) = (node(1), node(2));
        assert_eq!(preference.waits(&home, Duration::ZERO), None, "without a holder nobody waits");
        preference.joined(holder);
        assert_eq!(preference.waits(&holder, Duration::ZERO), None);
        assert!(preference.waits(&home, Duration::ZERO).is_some(), "it may have it");
        preference.said(&holder, true);
        preference.delivered(&home, 100 * MIB, after(2));
        assert_eq!(preference.waits(&home, after(2)), None, "what homes gave says nothing of it");
        for second in 2..=10 {
            preference.delivered(&holder, 2 * MIB, after(second));
        }
        assert!(preference.waits(&home, after(10)).is_some());
        assert_eq!(preference.waits(&home, after(12)), None, "it has become slow");
        preference.delivered(&holder, 4 * MIB, after(12));
        assert!(preference.waits(&home, after(12)).is_some());
        preference.left(&holder);
        assert_eq!(preference.waits(&home, after(12)), None);
    }

    #[test]
    fn homes_help_where_a_holder_gave_much_at_first_and_trickles_then() {
        let mut preference = Preference::default();
        let (holder, home) = (node(1), node(2));
        preference.joined(holder);
        preference.said(&holder, true);
        for tenth in 0..400 {
            preference.delivered(&holder, 10 * MIB, Duration::from_millis(tenth * 100));
        }
        assert!(preference.recent.len() <= 9, "{} entries", preference.recent.len());
        assert!(preference.waits(&home, after(40)).is_some());
        for second in 40..60 {
            preference.delivered(&holder, MIB / 64, after(second));
            let helps = preference.waits(&home, after(second)).is_none();
            assert_eq!(helps, second >= 44, "after {second} s");
        }
    }

    #[test]
    fn homes_help_where_no_holder_has_it_all_or_none_answers() {
        let mut preference = Preference::default();
        let (silent, part, home) = (node(1), node(2), node(3));
        preference.joined(silent);
        preference.joined(part);
        preference.said(&part, false);
        assert!(preference.waits(&home, after(1)).is_some());
        assert_eq!(preference.waits(&home, BEGIN_TIME), None, "the silent one had its time");
        preference.left(&silent);
        assert_eq!(preference.waits(&home, after(1)), None);
        preference.said(&part, true);
        assert_eq!(preference.waits(&home, BEGIN_TIME + AGAIN), None, "it gives nothing");
    }
}
