//! The hash tree of a blob down to its units, no further: what proves a unit whose bytes came without proof.

use std::collections::BTreeMap;

use barnraiser_protocol::id::BlobHash;
use blake3::Hash;
use blake3::hazmat::HasherExt as _;

use crate::error::PartialError;
use crate::geometry::{GROUP_BYTES, PAIR_BYTES, UNIT_BYTES, unit_count};
use crate::hashing::pair_hash;

const UNIT_GROUPS: u64 = UNIT_BYTES / GROUP_BYTES;

/// The hash of a unit inside the hash tree of a blob of more than one.
pub(crate) fn unit_hash(unit: u64, bytes: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(unit * UNIT_BYTES);
    hasher.update(bytes);
    Hash::from(hasher.finalize_non_root())
}

/// The hashes of a blob's units, proven by its name. The length is not: only the last unit's bytes prove it.
#[derive(Debug, Clone)]
pub struct Outline {
    hash: BlobHash,
    length: u64,
    units: Vec<Hash>,
    /// The pairs above units, by the units below them: where each is in the hash tree, and its bytes.
    above: BTreeMap<(u64, u64), (u64, Vec<u8>)>,
}

impl Outline {
    /// Proves the hashes of the units of a blob of more than one unit.
    ///
    /// # Errors
    /// [`PartialError::Proof`] where they don't lead to the blob's name, or are too few.
    pub fn prove(hash: &BlobHash, length: u64, units: &[[u8; 32]]) -> Result<Self, PartialError> {
        let refuse = |reason: String| PartialError::Proof { hash: *hash, start: 0, end: length, reason };
        let count = units.len() as u64;
        if count < 2 || count != unit_count(length) {
            return Err(refuse(format!("{count} unit hashes for {length} bytes")));
        }
        let units = units.iter().copied().map(Hash::from).collect();
        let mut outline = Self { hash: *hash, length, units, above: BTreeMap::new() };
        if outline.build(0, count) != hash.0 {
            return Err(refuse("the unit hashes are those of another blob".into()));
        }
        Ok(outline)
    }

    /// The blob's name.
    pub const fn hash(&self) -> &BlobHash {
        &self.hash
    }

    /// The length in bytes that was claimed.
    pub const fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn unit(&self, unit: u64) -> Option<&Hash> {
        self.units.get(usize::try_from(unit).ok()?)
    }

    /// The pairs on the way from the root to a unit: where each is in the hash tree, and its bytes.
    pub(crate) fn path(&self, unit: u64) -> Vec<(u64, Vec<u8>)> {
        let (mut first, mut end) = (0, self.units.len() as u64);
        let mut path = Vec::new();
        while let Some(pair) = self.above.get(&(first, end)) {
            path.push(pair.clone());
            let middle = first + left_units(end - first);
            if unit < middle {
                end = middle;
            } else {
                first = middle;
            }
        }
        path
    }

    fn build(&mut self, first: u64, end: u64) -> Hash {
        if end - first == 1 {
            // There is one for each unit.
            return self.units[first as usize];
        }
        let middle = first + left_units(end - first);
        let (left, right) = (self.build(first, middle), self.build(middle, end));
        let pair = [*left.as_bytes(), *right.as_bytes()].concat();
        let groups = self.length.div_ceil(GROUP_BYTES).min(end * UNIT_GROUPS) - first * UNIT_GROUPS;
        // In post order the pair above some groups is the last of theirs, of which there is one less than groups.
        let place = pairs_before(first) + (groups - 2) * PAIR_BYTES;
        self.above.insert((first, end), (place, pair));
        pair_hash(&left, &right, end - first == self.units.len() as u64)
    }
}

/// Where the pairs of a unit begin in the hash tree: behind those of all complete subtrees before it.
pub(crate) fn pairs_before(unit: u64) -> u64 {
    let groups = unit * UNIT_GROUPS;
    (groups - u64::from(groups.count_ones())) * PAIR_BYTES
}

/// How many of `count` units are in the left subtree: the greatest power of two that is less.
const fn left_units(count: u64) -> u64 {
    count.next_power_of_two() / 2
}
