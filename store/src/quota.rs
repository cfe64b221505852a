//! How much of the disk blobs may take, and what must stay all the same while it is used.
//!
//! With a quota set, the store makes room by itself when an import or a fetch begins that would go beyond it, or beyond the
//! disk: what is only cached goes, least recently used first. What is pinned, announced, held, or has just come stays, so
//! a quota may be exceeded by it: it says how much is kept, not how much may be worked with.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use barnraiser_protocol::id::BlobHash;

use crate::error::Fault;
use crate::gc::Collected;
use crate::store::Store;

/// What came or was used so lately is not evicted to make room: whoever fetched it is about to read it.
pub(crate) const GRACE_S: u64 = 60;
/// After nothing more could be evicted, the whole list isn't read again for so long.
const IN_VAIN: Duration = Duration::from_secs(30);
/// A little more than is needed is evicted, so that not each blob that comes reads the whole list.
const SLACK_DIVISOR: u64 = 20;

/// How much blobs may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of what would be free on the disk without them.
    Percent(u8),
}

/// Blobs that must not be evicted as long as this is kept, whether they are here yet or not. Holds end with the process.
#[derive(Debug)]
pub struct Hold {
    store: Store,
    blobs: Vec<BlobHash>,
}

impl Hold {
    /// Holds one more. What the store says to have from now on stays.
    pub fn add(&mut self, hash: BlobHash) {
        // Under the lock of an eviction that may be under way: it is over, or it will see this.
        let _stripe = self.store.stripe(&hash);
        *self.store.held().entry(hash).or_default() += 1;
        self.blobs.push(hash);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.store.held();
        for hash in &self.blobs {
            if let Some(count) = held.get_mut(hash) {
                *count -= 1;
                if *count == 0 {
                    held.remove(hash);
                }
            }
        }
    }
}

impl Store {
    /// Sets the quota that the store keeps to from now on by itself; `None` (as at the start) evicts nothing by itself.
    pub fn set_quota(&self, quota: Option<Quota>) {
        self.room().quota = quota;
    }

    /// The quota in bytes, as things are on the disk now.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn quota_bytes(&self) -> Result<Option<u64>, Fault> {
        let quota = self.room().quota;
        Ok(match quota {
            None => None,
            Some(Quota::Bytes(bytes)) => Some(bytes),
            Some(Quota::Percent(percent)) => {
                let (free, taken) = (self.free_bytes()?, self.stats()?.bytes);
                Some(free.saturating_add(taken) / 100 * u64::from(percent.min(100)))
            }
        })
    }

    /// Something that holds nothing yet.
    pub fn hold(&self) -> Hold {
        Hold { store: self.clone(), blobs: Vec::new() }
    }

    /// Evicts down to the quota, where one is set.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn keep_to_quota(&self) -> Result<Collected, Fault> {
        self.make_room(0, 0)
    }

    /// Evicts so much that a blob of `needed` bytes fits the quota, and what of it is `unwritten` the disk. That it can't is no
    /// error: what matters is whether the disk has room, and that is asked next. The caller holds no lock of a blob.
    pub(crate) fn make_room(&self, needed: u64, unwritten: u64) -> Result<Collected, Fault> {
        let mut collected = Collected::default();
        let Some(quota) = self.quota_bytes()? else { return Ok(collected) };
        let taken = self.stats()?.bytes;
        let mut target = u64::MAX;
        if taken.saturating_add(needed) > quota {
            target = quota.saturating_sub(quota / SLACK_DIVISOR).saturating_sub(needed);
        }
        let wanted = unwritten.saturating_add(self.reserve_bytes());
        let free = self.free_bytes()?;
        if free < wanted {
            target = target.min(taken.saturating_sub(wanted - free));
        }
        if target == u64::MAX || self.room().in_vain_until.is_some_and(|until| Instant::now() < until) {
            return Ok(collected);
        }
        // Called by who waits for room: there is nobody to call it off.
        let _ = self.evict_to(target, GRACE_S, &mut collected, &mut |_| ControlFlow::Continue(()))?;
        if collected.blobs > 0 {
            tracing::info!(blobs = collected.blobs, bytes = collected.bytes, quota, "evicted what was used least lately");
        }
        self.room().in_vain_until = (self.stats()?.bytes > target).then(|| Instant::now() + IN_VAIN);
        Ok(collected)
    }
}

/// What the store knows of its quota.
#[derive(Debug, Default)]
pub(crate) struct Room {
    quota: Option<Quota>,
    in_vain_until: Option<Instant>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rocksdb::WriteBatch;
    use tempfile::TempDir;

    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::metadata::Sync;
    use crate::store::Durability;

    const MIB: usize = 1 << 20;

    fn store() -> (Store, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (Store::open(&folder.path().join("store")).unwrap(), folder)
    }

    /// A cached blob of a MiB that was used `age_s` ago.
    fn add(store: &Store, seed: u8, age_s: u64) -> BlobHash {
        let hash = store.import_bytes(&vec![seed; MIB], Durability::Cached).unwrap();
        age(store, &hash, age_s);
        hash
    }

    fn age(store: &Store, hash: &BlobHash, age_s: u64) {
        let mut entry = store.entry(hash).unwrap().unwrap();
        entry.last_used_s -= age_s;
        let _stripe = store.stripe(hash);
        store.commit(hash, Some(&entry), WriteBatch::default(), Sync::Later).unwrap();
    }

    fn here(store: &Store, blobs: &[BlobHash]) -> Vec<bool> {
        blobs.iter().map(|hash| store.contains(hash).unwrap()).collect()
    }

    #[test]
    fn imports_and_fetches_evict_what_was_used_least_lately() {
        let (store, _folder) = store();
        store.set_quota(Some(Quota::Bytes(10 * MIB as u64)));
        let blobs: Vec<BlobHash> = (0..10).map(|seed| add(&store, seed, 10_000 - u64::from(seed))).collect();
        assert!(here(&store, &blobs).iter().all(|here| *here), "they fit");
        // One more: those go that were used first, and few.
        let new = store.import_bytes(&vec![77; MIB], Durability::Cached).unwrap();
        let after_import = here(&store, &blobs);
        assert!(!after_import[0] && after_import[4..].iter().all(|here| *here) && after_import.is_sorted(), "{after_import:?}");
        assert!(store.contains(&new).unwrap() && store.stats().unwrap().bytes <= 10 * MIB as u64);
        // A fetch makes room when it begins.
        let partial = store.partial(&BlobHash([9; 32]), 5 * MIB as u64).unwrap();
        let after_fetch = here(&store, &blobs);
        assert!(after_fetch.is_sorted() && after_fetch[9] && store.stats().unwrap().bytes <= 5 * MIB as u64, "{after_fetch:?}");
        drop(partial);
    }

    #[test]
    fn what_is_pinned_announced_held_or_has_just_come_stays() {
        let (store, _folder) = store();
        let pinned = add(&store, 1, 10_000);
        store.pin("yours/x", &pinned).unwrap();
        let announced = store.import_bytes(&vec![2; MIB], Durability::Announced).unwrap();
        age(&store, &announced, 10_000);
        let held = add(&store, 3, 10_000);
        let mut hold = store.hold();
        hold.add(held);
        hold.add(held);
        let fresh = store.import_bytes(&vec![4; MIB], Durability::Cached).unwrap();
        let old = add(&store, 5, 10_000);
        let all = [pinned, announced, held, fresh, old];
        store.set_quota(Some(Quota::Bytes(1)));
        let collected = store.keep_to_quota().unwrap();
        assert_eq!((collected.blobs, collected.bytes), (1, MIB as u64));
        assert_eq!(here(&store, &all), [true, true, true, true, false]);
        // By hand too, what is held stays; and no longer than it is held.
        store.gc(0).unwrap();
        assert_eq!(here(&store, &all[..4]), [true, true, true, false]);
        drop(hold);
        store.gc(0).unwrap();
        assert_eq!(here(&store, &all[..3]), [true, true, false]);
        assert!(store.held().is_empty());
    }

    #[test]
    fn a_share_of_the_disk_counts_what_blobs_take_already() {
        let (store, _folder) = store();
        assert_eq!(store.quota_bytes().unwrap(), None);
        assert_eq!(store.keep_to_quota().unwrap(), Collected::default());
        add(&store, 1, 0);
        store.set_quota(Some(Quota::Percent(10)));
        let (free, quota) = (store.free_bytes().unwrap(), store.quota_bytes().unwrap().unwrap());
        let wanted = (free + MIB as u64) / 10;
        // Others use the disk too.
        assert!(quota.abs_diff(wanted) < wanted / 20, "{quota} of {wanted}");
        store.set_quota(Some(Quota::Percent(100)));
        assert!(store.quota_bytes().unwrap().unwrap() > quota);
    }

    /// Imports, reads under holds, and evictions at the same time: what is held is never missing once it was there.
    #[test]
    fn evictions_beside_imports_and_reads_take_nothing_that_is_held() {
        let (store, _folder) = store();
        let blobs: Vec<BlobHash> = (0..16).map(|seed| add(&store, seed, 10_000)).collect();
        let evicted = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (store, evicted) = (&store, &evicted);
            scope.spawn(|| {
                for _ in 0..40 {
                    store.gc(3 * MIB as u64).unwrap();
                }
                evicted.store(true, Ordering::Relaxed);
            });
            for part in blobs.chunks(4) {
                scope.spawn(move || {
                    while !evicted.load(Ordering::Relaxed) {
                        for hash in part {
                            let mut hold = store.hold();
                            hold.add(*hash);
                            if !store.contains(hash).unwrap() {
                                let seed = blobs_seed(hash);
                                assert_eq!(store.import_bytes(&vec![seed; MIB], Durability::Cached).unwrap(), *hash);
                            }
                            assert_eq!(store.read_all(hash, u64::MAX).unwrap().len(), MIB);
                        }
                    }
                });
            }
        });
    }

    fn blobs_seed(hash: &BlobHash) -> u8 {
        (0..16).find(|seed| BlobHash::of(&vec![*seed; MIB]) == *hash).unwrap()
    }
}
