//! Records that are passed on though this node can't tell what they are worth: those of types that only a later version
//! knows, and all of a network whose charter is not known yet. They are kept by nobody here and pass within a quota.

use std::collections::BTreeMap;
use std::time::Duration;

use barnraiser_protocol::time::Timestamp;

/// How long records are counted before the count begins anew.
const WINDOW: Duration = Duration::from_secs(60);
/// The most records of one sender that are passed on in a [`WINDOW`].
const SENDER_MAX: u32 = 64;
/// The most records of all senders together: keys cost nothing.
const ALL_MAX: u32 = 1024;

/// Counts what was passed on unread. Holds at most [`ALL_MAX`] senders.
#[derive(Debug, Default)]
pub(super) struct Relay {
    since: Timestamp,
    all: u32,
    senders: BTreeMap<[u8; 32], u32>,
}

impl Relay {
    /// Whether one more record may pass. `sender` is who signed it; where that can't be known, who handed it over.
    pub fn admit(&mut self, now: Timestamp, sender: [u8; 32]) -> bool {
        // Also where the clock was set back.
        if now >= self.since + WINDOW || now < self.since {
            *self = Self { since: now, ..Self::default() };
        }
        if self.all >= ALL_MAX {
            return false;
        }
        let count = self.senders.entry(sender).or_default();
        if *count >= SENDER_MAX {
            return false;
        }
        *count += 1;
        self.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(relay: &mut Relay, now: u64, sender: u8, tries: u32) -> u32 {
        let passed = (0..tries).filter(|_| relay.admit(Timestamp(now), [sender; 32])).count();
        u32::try_from(passed).unwrap_or(u32::MAX)
    }

    #[test]
    fn each_sender_and_all_together_are_bounded() {
        let mut relay = Relay::default();
        assert_eq!(pass(&mut relay, 100_000, 1, 1000), SENDER_MAX);
        assert_eq!(pass(&mut relay, 100_001, 2, 10), 10, "a flood of one sender leaves room for others");
        let many: u32 = (3..=u8::MAX).map(|sender| pass(&mut relay, 100_002, sender, 100)).sum();
        assert_eq!(many, ALL_MAX - SENDER_MAX - 10);
        assert!(relay.senders.len() <= ALL_MAX as usize);
        assert_eq!(pass(&mut relay, 100_000 + 60_000, 1, 1000), SENDER_MAX, "counted anew");
        assert_eq!(pass(&mut relay, 1, 1, 1), 1, "a clock that was set back stops nothing");
    }
}
