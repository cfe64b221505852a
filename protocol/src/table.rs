//! A table from 32-byte keys to places, for keys that stand somewhere else already: 8 bytes an entry instead of the key
//! a second time.
//!
//! It can't be iterated, so the order of hashes never reaches an output. Peers choose many of the keys; the seed is
//! secret, so nobody can make keys that fall together.

/// Where a key's value is, in the caller's list.
pub(crate) type Place = u32;

/// A free entry.
const FREE: Entry = Entry { place: u32::MAX, tag: 0 };
/// Entries of the smallest table.
const LEAST: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Entry {
    place: Place,
    /// The upper half of the key's hash, whose upper bits are where the entry belongs.
    tag: u32,
}

/// Key → place, by open addressing. The caller tells the key at a place.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// A power of two of them, at most seven eighths taken.
    entries: Box<[Entry]>,
    taken: usize,
    seed: u64,
}

impl Table {
    /// An empty table.
    pub fn new(seed: u64) -> Self {
        Self { entries: vec![FREE; LEAST].into(), taken: 0, seed: seed | 1 }
    }

    fn tag(&self, key: &[u8; 32]) -> u32 {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| key[at + byte]));
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
            let folded = (product as u64) ^ ((product >> 64) as u64);
            folded
        };
        let hash =
            fold(fold(word(0) ^ self.seed, word(8) ^ 0x9e37_79b9_7f4a_7c15), fold(word(16) ^ self.seed.rotate_left(32), word(24) | 1));
        (fold(hash ^ self.seed, 0x9fb2_1c65_1e98_df25) >> 32) as u32
    }

    const fn home(&self, tag: u32) -> usize {
        // There are at least 16 entries and fewer than 2^32.
        (tag >> (32 - self.entries.len().trailing_zeros())) as usize
    }

    fn locate<'a>(&self, key: &[u8; 32], key_at: impl Fn(Place) -> &'a [u8; 32]) -> Option<usize> {
        let tag = self.tag(key);
        let mask = self.entries.len() - 1;
        let mut at = self.home(tag);
        loop {
            let entry = self.entries[at];
            if entry.place == FREE.place {
                return None;
            }
            if entry.tag == tag && key_at(entry.place) == key {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// The place of `key`.
    pub fn find<'a>(&self, key: &[u8; 32], key_at: impl Fn(Place) -> &'a [u8; 32]) -> Option<Place> {
        self.locate(key, key_at).map(|at| self.entries[at].place)
    }

    /// Adds a key that is not in it.
    pub fn insert(&mut self, key: &[u8; 32], place: Place) {
        if (self.taken + 1) * 8 > self.entries.len() * 7 {
            let twice = vec![FREE; self.entries.len() * 2].into();
            let old = std::mem::replace(&mut self.entries, twice);
            for entry in old.iter().filter(|entry| entry.place != FREE.place) {
                self.put(*entry);
            }
        }
        self.put(Entry { place, tag: self.tag(key) });
        self.taken += 1;
    }

    fn put(&mut self, entry: Entry) {
        let mask = self.entries.len() - 1;
        let mut at = self.home(entry.tag);
        while self.entries[at].place != FREE.place {
            at = (at + 1) & mask;
        }
        self.entries[at] = entry;
    }

    /// Takes a key out and tells its place.
    pub fn remove<'a>(&mut self, key: &[u8; 32], key_at: impl Fn(Place) -> &'a [u8; 32]) -> Option<Place> {
        let mut gap = self.locate(key, key_at)?;
        let place = self.entries[gap].place;
        let mask = self.entries.len() - 1;
        let mut at = (gap + 1) & mask;
        // What stands behind the gap and belongs before it moves up, so that no search ends too early.
        while self.entries[at].place != FREE.place {
            let home = self.home(self.entries[at].tag);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(gap) & mask) {
                self.entries[gap] = self.entries[at];
                gap = at;
            }
            at = (at + 1) & mask;
        }
        self.entries[gap] = FREE;
        self.taken -= 1;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is added and taken out, it holds what a map holds. Keys of few values meet often.
        #[test]
        fn table_agrees_with_a_map(steps in proptest::collection::vec((any::<bool>(), 0u8..80), 0..400), seed in any::<u64>()) {
            let keys: Vec<[u8; 32]> = (0..80u8).map(|n| std::array::from_fn(|at| if at % 8 == 0 { n } else { 0 })).collect();
            let key_at = |place: Place| &keys[place as usize];
            let mut table = Table::new(seed);
            let mut map = BTreeMap::new();
            for (add, n) in steps {
                let key = &keys[usize::from(n)];
                if !add {
                    prop_assert_eq!(table.remove(key, key_at), map.remove(key));
                } else if map.insert(*key, u32::from(n)).is_none() {
                    table.insert(key, u32::from(n));
                }
                prop_assert_eq!(table.taken, map.len());
            }
            for key in &keys {
                prop_assert_eq!(table.find(key, key_at), map.get(key).copied());
            }
        }
    }
}
