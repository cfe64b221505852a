//! Sets of units, as they travel.

use serde::{Deserialize, Serialize};

use super::{ByteRange, GET_BYTES_MAX};
use crate::bounded::BoundedVec;

/// Bytes of a set: units of 16 GiB. Of longer blobs a set tells a part.
pub const UNIT_SET_BYTES_MAX: usize = 2048;
const UNITS_MAX: u64 = UNIT_SET_BYTES_MAX as u64 * 8;

/// Some units of a blob, counted from 0. What is not in the set is not said to be missing: a set that has no room for more says
/// less.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UnitSet {
    /// The unit of the lowest bit: a multiple of 8.
    first: u64,
    /// Unit `first + n` is bit `n % 8` of byte `n / 8`.
    bits: BoundedVec<u8, UNIT_SET_BYTES_MAX>,
}

impl UnitSet {
    /// The units that come, in any order; of those that lie further apart than a set has room for, those near the first.
    pub fn new(units: impl IntoIterator<Item = u64>) -> Self {
        let mut units = units.into_iter();
        let Some(first) = units.next() else { return Self::default() };
        let (mut low, mut bits) = (first / 8 * 8, vec![1u8 << (first % 8)]);
        for unit in units {
            if unit < low {
                let before = (low - unit).div_ceil(8);
                if before + bits.len() as u64 > UNIT_SET_BYTES_MAX as u64 {
                    continue;
                }
                bits.splice(0..0, std::iter::repeat_n(0, before as usize));
                low = unit / 8 * 8;
            }
            let at = unit - low;
            if at >= UNITS_MAX {
                continue;
            }
            let byte = (at / 8) as usize;
            if bits.len() <= byte {
                bits.resize(byte + 1, 0);
            }
            bits[byte] |= 1 << (at % 8);
        }
        Self { first: low, bits: BoundedVec::try_from(bits).unwrap_or_default() }
    }

    /// The whole units of these ranges of a blob of `length` bytes.
    pub fn of_ranges(ranges: impl IntoIterator<Item = ByteRange>, length: u64) -> Self {
        Self::new(ranges.into_iter().flat_map(|range| {
            let end = if range.end >= length { length.div_ceil(GET_BYTES_MAX).max(1) } else { range.end / GET_BYTES_MAX };
            range.start.div_ceil(GET_BYTES_MAX)..end
        }))
    }

    /// Whether the unit is in the set.
    pub fn has(&self, unit: u64) -> bool {
        let Some(at) = unit.checked_sub(self.first) else { return false };
        usize::try_from(at / 8).ok().and_then(|byte| self.bits.get(byte)).is_some_and(|byte| byte & (1 << (at % 8)) != 0)
    }

    /// The units, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let units = self
            .bits
            .iter()
            .zip(0u64..)
            .flat_map(|(byte, at)| (0..8).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| at * 8 + bit));
        // Whoever sends a set that begins near the end of all numbers says nothing.
        units.filter_map(|at| self.first.checked_add(at))
    }

    /// How many units are in the set.
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As long as there is room, a set holds what was put in, whatever the order; beyond, nothing that was not.
        #[test]
        fn a_set_holds_what_was_put_in(base in 0u64..(1 << 50), offsets in proptest::collection::vec(0u64..40_000, 0..200)) {
            let units: Vec<u64> = offsets.iter().map(|offset| base + offset).collect();
            let set = UnitSet::new(units.iter().copied());
            let (held, given): (BTreeSet<u64>, BTreeSet<u64>) = (set.iter().collect(), units.iter().copied().collect());
            prop_assert!(held.is_subset(&given));
            prop_assert_eq!(held.len() as u64, set.count());
            prop_assert!(held.iter().all(|unit| set.has(*unit)));
            if offsets.iter().all(|offset| *offset < UNITS_MAX / 2 - 8) {
                prop_assert_eq!(held, given);
            }
        }
    }

    #[test]
    fn only_whole_units_of_ranges_count_and_the_last_may_be_short() {
        let unit = GET_BYTES_MAX;
        let range = |start, end| ByteRange { start, end };
        let set = UnitSet::of_ranges([range(0, unit), range(unit + 1, 3 * unit + 5), range(9 * unit, 9 * unit + 5)], 9 * unit + 5);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 2, 9]);
        assert_eq!(UnitSet::of_ranges([range(0, 0)], 0).iter().collect::<Vec<_>>(), [0], "an empty blob has one unit");
        let far = UnitSet::new([u64::MAX, u64::MAX - 3]);
        assert_eq!(far.iter().collect::<Vec<_>>(), [u64::MAX - 3, u64::MAX]);
        assert!(!far.has(0) && far.has(u64::MAX));
    }
}
