//! How often a provider has given each unit of a blob: where it is left to it which unit it sends, it sends the one that it
//! has sent least often, so that those who fetch can give the others what they got.

use std::collections::{BTreeMap, VecDeque};

use crate::id::{BlobHash, NodeId};

/// Blobs of which the counts are kept; the one that was not asked for the longest goes first.
const BLOBS_MAX: usize = 64;
/// Units of a blob that are counted: 64 GiB, in 128 KiB. Others count as never sent.
const UNITS_MAX: u64 = 1 << 16;
/// Choices that are remembered of a blob, ...
const CHOICES_MAX: usize = 64;
/// ... and those of one peer that may still be on their way: it asks for the next units before it has these.
const ON_THEIR_WAY_MAX: usize = 4;

#[derive(Debug, Clone, Default)]
struct Counts {
    sent: Vec<u16>,
    /// What was chosen for whom lately, the newest last.
    chosen: VecDeque<(NodeId, u64)>,
    /// Behind the unit that was chosen last. Of units that were sent as often the next one goes first, as the disk likes it.
    cursor: u64,
    /// When it was last asked for, in requests.
    used: u64,
}

impl Counts {
    fn of(&self, unit: u64) -> u16 {
        usize::try_from(unit).ok().and_then(|unit| self.sent.get(unit)).copied().unwrap_or(0)
    }
}

/// The counts of the blobs that are asked for.
#[derive(Debug, Clone, Default)]
pub struct Given {
    blobs: BTreeMap<BlobHash, Counts>,
    requests: u64,
}

impl Given {
    /// The one of `wanted` that was sent least often; one that is perhaps on its way to `to` only where there is no other. It
    /// counts as sent.
    pub fn choose(&mut self, blob: &BlobHash, to: &NodeId, wanted: impl Iterator<Item = u64>) -> Option<u64> {
        let counts = self.counts(blob);
        let to_them = counts.chosen.iter().rev().filter(|(node, _)| node == to);
        let on_their_way: Vec<u64> = to_them.take(ON_THEIR_WAY_MAX).map(|(_, unit)| *unit).collect();
        let unit = wanted.min_by_key(|unit| (on_their_way.contains(unit), counts.of(*unit), *unit < counts.cursor, *unit))?;
        counts.cursor = unit.saturating_add(1);
        if counts.chosen.len() >= CHOICES_MAX {
            counts.chosen.pop_front();
        }
        counts.chosen.push_back((*to, unit));
        self.sent(blob, unit);
        Some(unit)
    }

    /// The unit is sent.
    pub fn sent(&mut self, blob: &BlobHash, unit: u64) {
        let counts = self.counts(blob);
        if unit < UNITS_MAX {
            // Below 2^16.
            let unit = unit as usize;
            if counts.sent.len() <= unit {
                counts.sent.resize(unit + 1, 0);
            }
            counts.sent[unit] = counts.sent[unit].saturating_add(1);
        }
    }

    fn counts(&mut self, blob: &BlobHash) -> &mut Counts {
        self.requests += 1;
        if self.blobs.len() >= BLOBS_MAX && !self.blobs.contains_key(blob) {
            let oldest = self.blobs.iter().min_by_key(|(_, counts)| counts.used).map(|(blob, _)| *blob);
            oldest.map(|blob| self.blobs.remove(&blob));
        }
        let counts = self.blobs.entry(*blob).or_default();
        counts.used = self.requests;
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: BlobHash = BlobHash([7; 32]);

    #[test]
    fn every_unit_is_sent_once_before_any_is_sent_twice() {
        let mut given = Given::default();
        given.sent(&BLOB, 3);
        let mut others = (0..).map(|node| NodeId([node; 32]));
        let mut choose = |wanted: &[u64]| given.choose(&BLOB, &others.next().unwrap(), wanted.iter().copied());
        let chosen: Vec<u64> = (0..9).filter_map(|_| choose(&[0, 1, 2, 3, 4])).collect();
        assert_eq!(chosen, [0, 1, 2, 4, 0, 1, 2, 3, 4]);
        assert_eq!(choose(&[2, 4]), Some(2));
        assert_eq!(choose(&[2, 4]), Some(4));
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&[u64::MAX]), Some(u64::MAX), "of a blob too long to be counted");
    }

    /// Who asks for two units at once does not know yet which the first is, so that its second question names it too.
    #[test]
    fn a_unit_on_its_way_is_not_sent_to_the_same_peer_again() {
        let (mut given, one, other) = (Given::default(), NodeId([1; 32]), NodeId([2; 32]));
        given.sent(&BLOB, 1);
        given.sent(&BLOB, 1);
        assert_eq!(given.choose(&BLOB, &one, 0..2), Some(0));
        assert_eq!(given.choose(&BLOB, &one, 0..2), Some(1), "though it was sent more often");
        assert_eq!(given.choose(&BLOB, &other, 0..2), Some(0), "to somebody else nothing of it is on its way");
        assert_eq!(given.choose(&BLOB, &one, 0..1), Some(0), "it has not come, and nothing else is wanted");
    }

    #[test]
    fn counts_are_kept_of_so_many_blobs() {
        let mut given = Given::default();
        for blob in 0..=255 {
            given.sent(&BlobHash([blob; 32]), UNITS_MAX - 1);
            given.sent(&BLOB, 0);
        }
        assert_eq!(given.blobs.len(), BLOBS_MAX);
        assert_eq!(given.choose(&BLOB, &NodeId([1; 32]), 0..2), Some(1), "what is asked for stays");
    }
}
