//! Which units of a blob are here, in memory and in the database.

use std::ops::Range;

use barnraiser_protocol::codec;
use barnraiser_protocol::id::BlobHash;
use rocksdb::WriteBatch;

use crate::error::Fault;
use crate::geometry::{UNIT_BYTES, unit_count, unit_range};
use crate::metadata::{Family, PartialHeader, Sync, decode};
use crate::store::{Store, now_s};

/// One bit for each unit.
#[derive(Debug)]
pub(super) struct Units {
    length: u64,
    count: u64,
    bits: Vec<u64>,
    verified: u64,
    claimed: Vec<u64>,
    /// Whether the fetch was completed or discarded.
    pub ended: bool,
}

impl Units {
    pub(super) fn new(length: u64) -> Self {
        let count = unit_count(length);
        Self { length, count, bits: vec![0; count.div_ceil(64) as usize], verified: 0, claimed: Vec::new(), ended: false }
    }

    /// Remembers what was noted and is still to be proven.
    pub(super) fn claim(&mut self, units: Vec<u64>) {
        self.claimed = units;
        self.claimed.retain(|&unit| unit < self.count);
    }

    pub(super) fn take_claimed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.claimed)
    }

    pub(super) fn has(&self, unit: u64) -> bool {
        unit < self.count && self.bits[(unit / 64) as usize] & (1 << (unit % 64)) != 0
    }

    pub(super) fn set(&mut self, unit: u64) {
        if unit < self.count && !self.has(unit) {
            self.bits[(unit / 64) as usize] |= 1 << (unit % 64);
            self.verified += 1;
        }
    }

    pub(super) fn unset(&mut self, unit: u64) {
        if self.has(unit) {
            self.bits[(unit / 64) as usize] &= !(1 << (unit % 64));
            self.verified -= 1;
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.verified == self.count
    }

    pub(super) fn verified_bytes(&self) -> u64 {
        let last = self.count - 1;
        let whole = self.verified - u64::from(self.has(last));
        let last = if self.has(last) { unit_range(last, self.length) } else { 0..0 };
        whole * UNIT_BYTES + (last.end - last.start)
    }

    /// The ranges of bytes that are here, or those that are not.
    pub(super) fn ranges(&self, here: bool) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for unit in (0..self.count).filter(|&unit| self.has(unit) == here) {
            let range = unit_range(unit, self.length);
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        ranges
    }
}

fn key(hash: &BlobHash, unit: u64) -> [u8; 40] {
    let mut key = [0; 40];
    key[..32].copy_from_slice(hash.as_bytes());
    key[32..].copy_from_slice(&unit.to_be_bytes());
    key
}

/// What the database says about a fetch.
pub(super) fn header(store: &Store, hash: &BlobHash) -> Result<Option<PartialHeader>, Fault> {
    store.metadata().decoded(Family::Partials, hash.as_bytes())
}

/// Enters a fetch.
pub(super) fn begin(store: &Store, hash: &BlobHash, length: u64) -> Result<(), Fault> {
    let mut batch = WriteBatch::default();
    let header = PartialHeader { length, began_s: now_s() };
    batch.put_cf(store.metadata().family(Family::Partials), hash.as_bytes(), codec::encode(&header));
    store.metadata().write(batch, Sync::Later)
}

/// All fetches that are entered.
pub(super) fn begun(store: &Store) -> Result<Vec<(BlobHash, PartialHeader)>, Fault> {
    let mut found = Vec::new();
    for item in store.metadata().prefixed(Family::Partials, b"") {
        let (key, value) = item?;
        // The longer keys are units.
        if let Ok(hash) = <[u8; 32]>::try_from(&*key) {
            found.push((BlobHash(hash), decode(Family::Partials, &value)?));
        }
    }
    Ok(found)
}

/// The units that were noted.
pub(super) fn noted(store: &Store, hash: &BlobHash) -> Result<Vec<u64>, Fault> {
    let mut units = Vec::new();
    for item in store.metadata().range(Family::Partials, &key(hash, 0), Some(&key(hash, u64::MAX))) {
        let (key, _) = item?;
        if let Some(unit) = key.get(32..).and_then(|unit| <[u8; 8]>::try_from(unit).ok()) {
            units.push(u64::from_be_bytes(unit));
        }
    }
    Ok(units)
}

/// Notes that a unit is here.
pub(super) fn note(store: &Store, hash: &BlobHash, unit: u64) -> Result<(), Fault> {
    let mut batch = WriteBatch::default();
    note_in(store, hash, unit, &mut batch);
    store.metadata().write(batch, Sync::Later)
}

pub(super) fn note_in(store: &Store, hash: &BlobHash, unit: u64, batch: &mut WriteBatch) {
    batch.put_cf(store.metadata().family(Family::Partials), key(hash, unit), []);
}

pub(super) fn unnote_in(store: &Store, hash: &BlobHash, unit: u64, batch: &mut WriteBatch) {
    batch.delete_cf(store.metadata().family(Family::Partials), key(hash, unit));
}

/// Forgets a fetch with all its units.
pub(super) fn forget(store: &Store, hash: &BlobHash, batch: &mut WriteBatch) {
    let family = store.metadata().family(Family::Partials);
    batch.delete_cf(family, hash.as_bytes());
    batch.delete_range_cf(family, key(hash, 0), key(hash, u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_and_what_is_missing_make_up_the_blob() {
        let length = 130 * UNIT_BYTES + 7;
        let mut units = Units::new(length);
        assert_eq!(units.ranges(false), vec![0..length]);
        for unit in [0, 1, 64, 130] {
            units.set(unit);
            units.set(unit);
        }
        assert_eq!(units.verified_bytes(), 3 * UNIT_BYTES + 7);
        assert_eq!(units.ranges(true), vec![0..2 * UNIT_BYTES, 64 * UNIT_BYTES..65 * UNIT_BYTES, 130 * UNIT_BYTES..length]);
        units.unset(130);
        assert_eq!(units.ranges(false).last(), Some(&(65 * UNIT_BYTES..length)));
        (0..131).for_each(|unit| units.set(unit));
        assert!(units.is_complete() && units.verified_bytes() == length && units.ranges(false).is_empty());
    }

    #[test]
    fn an_empty_blob_has_one_unit_to_fetch() {
        let mut units = Units::new(0);
        assert!(!units.is_complete());
        units.set(0);
        assert!(units.is_complete() && units.verified_bytes() == 0);
    }
}
