//! Holders before homes: a line that somebody lends is spared where a machine in a data centre can give the same.
//!
//! As long as a holder that has all of a blob gives it at a fair speed, others are not asked for units. They help where no
//! holder has it all, where the holders are slow, and where none has answered in a moment. Which units come from whom is not
//! decided here ([`super::Schedule`]). Times are ages of the fetch.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::NodeId;

/// For so long a holder may connect and begin, before others are asked.
const BEGIN_TIME: Duration = Duration::from_secs(2);
/// Holders that give less than this in a second are slow: it is what many homes can give, and more than most like to.
const SLOW_BYTES_A_SECOND: u64 = 2 << 20;
/// How often it is reckoned anew how fast they are.
const AGAIN: Duration = Duration::from_millis(500);

/// What is known of the holders among the providers of one blob.
#[derive(Debug, Clone, Default)]
pub struct Preference {
    /// Holders at work, and whether each has all of it, once it has said so.
    holders: BTreeMap<NodeId, Option<bool>>,
    delivered: u64,
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
    pub fn delivered(&mut self, node: &NodeId, bytes: u64) {
        if self.holders.contains_key(node) {
            self.delivered = self.delivered.saturating_add(bytes);
        }
    }

    /// A node is of no more use, or through.
    pub fn left(&mut self, node: &NodeId) {
        self.holders.remove(node);
    }

    /// Until when `node` is not asked for units; none where it is now.
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
        let fair = u128::from(SLOW_BYTES_A_SECOND) * now.as_millis() / 1000;
        (u128::from(self.delivered) >= fair).then(|| now + AGAIN)
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
        preference.delivered(&home, 100 * MIB);
        preference.delivered(&holder, 40 * MIB);
        assert!(preference.waits(&home, after(10)).is_some());
        assert_eq!(preference.waits(&home, after(21)), None, "it has become slow");
        preference.delivered(&holder, 10 * MIB);
        assert!(preference.waits(&home, after(21)).is_some());
        preference.left(&holder);
        assert_eq!(preference.waits(&home, after(21)), None);
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
