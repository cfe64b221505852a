//! What a holder needs of its store: to keep what came as a copy, and to let single blobs go by an order of its own.

use rocksdb::WriteBatch;

use barnraiser_protocol::id::BlobHash;

use crate::error::{Fault, PartialError};
use crate::geometry::UNIT_BYTES;
use crate::metadata::{Class, Place, Sync};
use crate::store::Store;

impl Store {
    /// Makes a blob that is here survive a power loss, and keeps it from being evicted; whether it is here. One that was
    /// cached is synced first, which takes as long as writing it.
    ///
    /// # Errors
    /// [`Fault`]; then nothing is promised.
    pub fn keep(&self, hash: &BlobHash) -> Result<bool, Fault> {
        let Some(entry) = self.good_entry(hash)? else { return Ok(false) };
        if entry.class == Class::Announced {
            return Ok(true);
        }
        let paths = [(entry.place, self.blob_path(hash)), (entry.tree, self.tree_path(hash))];
        let mut in_files = false;
        // Before the lock is taken, since it may take long.
        for (_, path) in paths.iter().filter(|(place, _)| *place == Place::File) {
            let synced = self.disk().open(path, false).and_then(|file| file.sync());
            synced.map_err(|source| Fault::io("sync", path, 0, source))?;
            in_files = true;
        }
        if in_files {
            let folder = self.blob_folder(hash);
            self.disk().sync_folder(&folder).map_err(|source| Fault::io("sync the folder", &folder, 0, source))?;
        }
        let _stripe = self.stripe(hash);
        // Evicted or taken in anew meanwhile: the caller asks again.
        let Some(mut now) = self.good_entry(hash)?.filter(|now| now.place == entry.place && now.tree == entry.tree) else {
            return Ok(false);
        };
        now.class = Class::Announced;
        self.commit(hash, Some(&now), WriteBatch::default(), Sync::Now)?;
        Ok(true)
    }

    /// Removes those of these blobs that nothing pins, however they are kept, and what was fetched of those that are not
    /// whole; gives those that are still here. An open blob can be read to its end.
    ///
    /// # Errors
    /// [`Fault`]; what was done until then stays done.
    pub fn remove(&self, hashes: &[BlobHash]) -> Result<Vec<BlobHash>, Fault> {
        let (pinned, pins_seen) = self.pinned()?;
        let mut left = Vec::new();
        for hash in hashes {
            self.forget_partial(hash)?;
            match self.entry(hash)? {
                Some(entry) if pinned.contains(hash) || !self.evict(hash, &entry, pins_seen)? => left.push(*hash),
                _ => {}
            }
        }
        Ok(left)
    }

    /// How much of a blob that is not whole was fetched, as far as was noted. Proven again only when the fetch goes on.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn fetched_bytes(&self, hash: &BlobHash) -> Result<u64, Fault> {
        Ok(crate::partial::noted_units(self, hash)?.saturating_mul(UNIT_BYTES))
    }

    /// Forgets what was fetched of a blob that is not whole.
    fn forget_partial(&self, hash: &BlobHash) -> Result<(), Fault> {
        if let Some(partial) = self.live_partial(hash) {
            return match partial.discard() {
                Ok(()) | Err(PartialError::Ended(_)) => Ok(()),
                Err(PartialError::Fault(fault)) => Err(fault),
                Err(error) => Err(Fault::io("forget what was fetched in", self.root(), 0, std::io::Error::other(error))),
            };
        }
        if crate::partial::is_begun(self, hash)? && crate::partial::forget_unless_live(self, hash)? {
            for name in [hash.to_string(), format!("{hash}.tree")] {
                self.remove_file(&self.partial_folder().join(name))?;
            }
        }
        Ok(())
    }
}
