//! The ordered set that anti-entropy compares: when each record may be forgotten, and its id.

use negentropy::{Bound, Id, Item, NegentropyStorageBase};

use crate::id::RecordId;
use crate::time::Timestamp;

/// When a record may be forgotten (`Record::forget_at`), and its id. Sets are in this order, so that what goes next is
/// first, and what is too old to be exchanged is left out by leaving out a beginning.
pub type ItemKey = (Timestamp, RecordId);

/// The most items of a chunk; full ones are cut in half.
const CHUNK_MAX: usize = 128;
/// Neighbours that have together so few items become one.
const CHUNK_MIN: usize = CHUNK_MAX / 4;

/// A sorted set of items that knows the place of each. Changes cost a search and moving part of a chunk; places cost a
/// pass over the chunks, some 1,000 for 100,000 items. About 55 bytes an item.
#[derive(Debug, Clone, Default)]
pub struct ItemSet {
    chunks: Vec<Chunk>,
    len: usize,
}

/// Some neighbours, in order; at least one.
#[derive(Debug, Clone)]
struct Chunk {
    /// The greatest, here so that the search for a chunk reads one piece of memory.
    last: ItemKey,
    items: Vec<ItemKey>,
}

impl ItemSet {
    /// Number of items.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The item that is forgotten first.
    pub fn first(&self) -> Option<ItemKey> {
        self.chunks.first().and_then(|chunk| chunk.items.first()).copied()
    }

    /// All items, in order.
    pub fn iter(&self) -> impl Iterator<Item = ItemKey> + '_ {
        self.starting_at(0).map(|(_, item)| item)
    }

    /// All items, in order, as they lie in memory: for those who compare whole sets.
    pub fn slices(&self) -> impl Iterator<Item = &[ItemKey]> {
        self.chunks.iter().map(|chunk| chunk.items.as_slice())
    }

    /// The chunk that holds `key` or would.
    fn chunk_of(&self, key: &ItemKey) -> usize {
        let at = self.chunks.partition_point(|chunk| chunk.last < *key);
        at.min(self.chunks.len().saturating_sub(1))
    }

    fn contains(&self, key: &ItemKey) -> bool {
        self.chunks.get(self.chunk_of(key)).is_some_and(|chunk| chunk.items.binary_search(key).is_ok())
    }

    /// Puts an item into the set; `false` where it is there already.
    pub fn insert(&mut self, key: ItemKey) -> bool {
        let key = with_end(key);
        let at = self.chunk_of(&key);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Chunk { last: key, items: vec![key] });
            self.len = 1;
            return true;
        };
        let Err(place) = chunk.items.binary_search(&key) else { return false };
        chunk.items.insert(place, key);
        chunk.last = chunk.last.max(key);
        self.len += 1;
        if chunk.items.len() >= CHUNK_MAX {
            let upper = Chunk { last: chunk.last, items: chunk.items.split_off(CHUNK_MAX / 2) };
            chunk.items.shrink_to_fit();
            chunk.last = chunk.items[CHUNK_MAX / 2 - 1];
            self.chunks.insert(at + 1, upper);
        }
        true
    }

    /// Takes an item out of the set; `false` where it is not there.
    pub fn remove(&mut self, key: &ItemKey) -> bool {
        let key = with_end(*key);
        let at = self.chunk_of(&key);
        let Some(chunk) = self.chunks.get_mut(at) else { return false };
        let Ok(place) = chunk.items.binary_search(&key) else { return false };
        chunk.items.remove(place);
        self.len -= 1;
        let Some(last) = chunk.items.last() else {
            self.chunks.remove(at);
            return true;
        };
        chunk.last = *last;
        let (left, next) = (chunk.items.len(), self.chunks.get(at + 1).map_or(CHUNK_MAX, |next| next.items.len()));
        if left + next <= CHUNK_MIN {
            let next = self.chunks.remove(at + 1);
            self.chunks[at].last = next.last;
            self.chunks[at].items.extend(next.items);
        }
        true
    }

    /// How many items are less than `key`.
    fn below(&self, key: &ItemKey) -> usize {
        let at = self.chunk_of(key);
        let before: usize = self.chunks[..at].iter().map(|chunk| chunk.items.len()).sum();
        before + self.chunks.get(at).map_or(0, |chunk| chunk.items.partition_point(|item| item < key))
    }

    /// The items from place `begin` on, with their places.
    fn starting_at(&self, begin: usize) -> impl Iterator<Item = (usize, ItemKey)> + '_ {
        let (mut chunk, mut skipped) = (0, 0);
        while let Some(next) = self.chunks.get(chunk)
            && skipped + next.items.len() <= begin
        {
            skipped += next.items.len();
            chunk += 1;
        }
        let rest = self.chunks[chunk..].iter().flat_map(|chunk| &chunk.items).copied().enumerate().skip(begin.saturating_sub(skipped));
        rest.map(move |(place, item)| (skipped + place, item))
    }

    /// What is exchanged of the set: all that is not forgotten before `cut`, but for `hidden`, which the caller keeps to
    /// itself for now.
    pub fn window(&self, cut: Timestamp, hidden: impl IntoIterator<Item = ItemKey>) -> Window<'_> {
        let from = self.below(&(cut, RecordId([0; 32])));
        let found = hidden.into_iter().map(with_end).filter(|key| key.0 >= cut && self.contains(key));
        let mut hidden: Vec<usize> = found.map(|key| self.below(&key)).collect();
        hidden.sort_unstable();
        hidden.dedup();
        Window { set: self, from, hidden }
    }
}

impl FromIterator<ItemKey> for ItemSet {
    fn from_iter<T: IntoIterator<Item = ItemKey>>(items: T) -> Self {
        let mut set = Self::default();
        for item in items {
            set.insert(item);
        }
        set
    }
}

/// The part of an [`ItemSet`] that is exchanged.
#[derive(Debug)]
pub struct Window<'a> {
    set: &'a ItemSet,
    /// Places below are too old.
    from: usize,
    /// Places that are left out, in order; few.
    hidden: Vec<usize>,
}

/// The library's last time means "without end", which no item may have.
fn with_end((at, id): ItemKey) -> ItemKey {
    (at.min(Timestamp(u64::MAX - 1)), id)
}

fn item((at, id): ItemKey) -> Item {
    Item::with_timestamp_and_id(at.0, Id::from_byte_array(id.0))
}

impl Window<'_> {
    /// The items, in order.
    pub fn iter(&self) -> impl Iterator<Item = ItemKey> + '_ {
        self.set.starting_at(self.from).filter(|(place, _)| self.hidden.binary_search(place).is_err()).map(|(_, item)| item)
    }

    /// The place in the set of what stands at `index` here.
    fn place(&self, index: usize) -> usize {
        // Each place that is left out moves those behind it by one.
        self.hidden.iter().fold(self.from + index, |place, hidden| if *hidden <= place { place + 1 } else { place })
    }

    /// Its contrary, for what is not left out.
    fn index(&self, place: usize) -> usize {
        (place - self.from.min(place)) - self.hidden.partition_point(|hidden| *hidden < place)
    }
}

impl NegentropyStorageBase for Window<'_> {
    fn size(&self) -> Result<usize, negentropy::Error> {
        Ok(self.set.len() - self.from - self.hidden.len())
    }

    fn get_item(&self, index: usize) -> Result<Option<Item>, negentropy::Error> {
        Ok(self.set.starting_at(self.place(index)).next().map(|(_, key)| item(key)))
    }

    fn iterate(
        &self,
        begin: usize,
        end: usize,
        visit: &mut dyn FnMut(Item, usize) -> Result<bool, negentropy::Error>,
    ) -> Result<(), negentropy::Error> {
        let shown = self.set.starting_at(self.place(begin)).filter(|(place, _)| self.hidden.binary_search(place).is_err());
        for (index, (_, key)) in (begin..end).zip(shown) {
            if !visit(item(key), index)? {
                break;
            }
        }
        Ok(())
    }

    fn find_lower_bound(&self, first: usize, last: usize, value: &Bound) -> usize {
        // Beyond the last time that an item can have, nothing is.
        let place = match value.item.timestamp {
            u64::MAX => self.set.len(),
            at => self.set.below(&(Timestamp(at), RecordId(value.item.id.to_bytes()))),
        };
        self.index(place).clamp(first, last.max(first))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use negentropy::NegentropyStorageVector;
    use proptest::prelude::*;

    use super::*;

    fn key(at: u8, id: u16) -> ItemKey {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        (Timestamp(at.into()), RecordId(bytes))
    }

    /// What is never forgotten is compared like everything else.
    #[test]
    fn items_without_end_have_the_last_time_but_one() {
        let (one, two) = ((Timestamp::MAX, RecordId([1; 32])), (Timestamp::MAX, RecordId([2; 32])));
        let mut set: ItemSet = [two, one].into_iter().collect();
        let window = set.window(Timestamp(5), [one]);
        assert_eq!(window.size().unwrap(), 1);
        let bound = Bound::from_item(&window.get_item(0).unwrap().unwrap());
        assert_eq!((bound.item.timestamp, window.find_lower_bound(0, 1, &bound)), (u64::MAX - 1, 0));
        assert!(set.remove(&one) && set.remove(&two) && set.is_empty());
    }

    fn collect(storage: &impl NegentropyStorageBase, begin: usize, end: usize) -> Vec<(Item, usize)> {
        let mut seen = Vec::new();
        let visit = &mut |item, index| {
            seen.push((item, index));
            Ok(true)
        };
        storage.iterate(begin, end, visit).unwrap();
        seen
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever comes and goes, it is a sorted set; and the library sees of a window what it would see of a plain list.
        #[test]
        fn set_and_window_are_what_a_plain_list_would_be(
            changes in prop::collection::vec((any::<bool>(), 0u8..6, 0u16..1500), 0..3000),
            cut in 0u8..7,
            hidden in prop::collection::vec((0u8..6, 0u16..1500), 0..6),
            probes in prop::collection::vec((0u8..7, 0u16..1500, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..12),
        ) {
            let (mut set, mut model) = (ItemSet::default(), BTreeSet::new());
            for (add, at, id) in changes {
                let key = key(at, id);
                // Three in four are added, so that chunks are cut and joined.
                if add || id % 2 == 0 {
                    prop_assert_eq!(set.insert(key), model.insert(key));
                } else {
                    prop_assert_eq!(set.remove(&key), model.remove(&key));
                }
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert_eq!((set.len(), set.first()), (model.len(), model.first().copied()));
            let sound = |chunk: &Chunk| chunk.items.last() == Some(&chunk.last) && chunk.items.len() < CHUNK_MAX;
            prop_assert!(set.chunks.iter().all(sound));

            let cut = Timestamp(cut.into());
            let hidden: BTreeSet<ItemKey> = hidden.into_iter().map(|(at, id)| key(at, id)).collect();
            let window = set.window(cut, hidden.iter().copied());
            let shown: Vec<ItemKey> = model.iter().copied().filter(|item| item.0 >= cut && !hidden.contains(item)).collect();
            prop_assert!(window.iter().eq(shown.iter().copied()));
            let mut plain = NegentropyStorageVector::new();
            for (at, id) in &shown {
                plain.insert(at.0, Id::from_byte_array(id.0)).unwrap();
            }
            plain.seal().unwrap();
            let size = plain.size().unwrap();
            prop_assert_eq!(window.size().unwrap(), size);
            for (at, id, one, other) in probes {
                let (one, other) = (one.index(size + 1), other.index(size + 1));
                let (begin, end) = (one.min(other), one.max(other));
                prop_assert_eq!(collect(&window, begin, end), collect(&plain, begin, end));
                let bound = Bound::with_timestamp_and_id(at.into(), id.to_be_bytes()).unwrap();
                prop_assert_eq!(window.find_lower_bound(begin, size, &bound), plain.find_lower_bound(begin, size, &bound));
                if begin < size {
                    prop_assert_eq!(window.get_item(begin).unwrap(), plain.get_item(begin).unwrap());
                }
            }
            let end = Bound::with_timestamp(u64::MAX);
            prop_assert_eq!(window.find_lower_bound(0, size, &end), size);
        }

        #[test]
        fn emptied_set_is_empty(ids in prop::collection::btree_set(0u16..2000, 0..1200)) {
            let mut set: ItemSet = ids.iter().map(|id| key(1, *id)).collect();
            for id in &ids {
                prop_assert!(set.remove(&key(1, *id)) && !set.remove(&key(1, *id)));
            }
            prop_assert!(set.is_empty() && set.first().is_none() && set.chunks.is_empty());
            prop_assert_eq!(set.window(Timestamp(0), []).size().unwrap(), 0);
        }
    }
}
