//! What a holder needs of its store: to keep what came as a copy, and to let single blobs go by an order of its own.
//!
//! What is kept for others is of a class of its own: it is as safe as what is announced, and what this machine announces
//! as well, before or after, is announced and no longer the holder's to remove.

use rocksdb::WriteBatch;

use barnraiser_protocol::id::BlobHash;

use crate::error::{Fault, PartialError};
use crate::geometry::UNIT_BYTES;
use crate::metadata::{Class, Place, State, Sync};
use crate::partial::PartialBlob;
use crate::store::Store;

/// How often a blob that is read or pinned at the moment of its removal is looked at again.
const REMOVED_TRIES: usize = 3;

/// What [`Store::keep`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// It is not here.
    Absent,
    /// It is announced for this machine's own sake: [`Store::remove`] leaves it.
    Announced,
    /// It is kept for others from now on, or was already.
    Kept,
}

impl Store {
    /// Makes a blob that is here survive a power loss, and keeps it from being evicted until [`Store::remove`]. One that was
    /// cached is synced first, which takes as long as writing it.
    ///
    /// # Errors
    /// [`Fault`]; then nothing is promised.
    pub fn keep(&self, hash: &BlobHash) -> Result<Keeping, Fault> {
        let Some(entry) = self.good_entry(hash)? else { return Ok(Keeping::Absent) };
        match entry.class {
            Class::Announced => return Ok(Keeping::Announced),
            Class::Kept => return Ok(Keeping::Kept),
            Class::Cached => {}
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
            return Ok(Keeping::Absent);
        };
        // Announced meanwhile: it stays so.
        if now.class == Class::Announced {
            return Ok(Keeping::Announced);
        }
        now.class = Class::Kept;
        self.commit(hash, Some(&now), WriteBatch::default(), Sync::Now)?;
        Ok(Keeping::Kept)
    }

    /// Removes those of these blobs that nothing else keeps here; gives those that are still here. What is announced stays as
    /// it is; what is pinned, held against eviction or just read is cached from now on, and goes as such. An open blob can be
    /// read to its end.
    ///
    /// # Errors
    /// [`Fault`]; what was done until then stays done.
    pub fn remove(&self, hashes: &[BlobHash]) -> Result<Vec<BlobHash>, Fault> {
        let mut left = Vec::new();
        let (mut pinned, mut pins_seen) = self.pinned()?;
        'hashes: for hash in hashes {
            for _ in 0..REMOVED_TRIES {
                let Some(entry) = self.entry(hash)? else { continue 'hashes };
                if entry.class == Class::Announced || pinned.contains(hash) {
                    break;
                }
                if self.evict(hash, &entry, pins_seen)? {
                    continue 'hashes;
                }
                (pinned, pins_seen) = self.pinned()?;
            }
            self.lower(hash)?;
            left.push(*hash);
        }
        Ok(left)
    }

    /// A blob that was kept for others is cached from now on.
    fn lower(&self, hash: &BlobHash) -> Result<(), Fault> {
        let _stripe = self.stripe(hash);
        let Some(mut entry) = self.entry(hash)?.filter(|entry| entry.class == Class::Kept) else { return Ok(()) };
        entry.class = Class::Cached;
        self.commit(hash, Some(&entry), WriteBatch::default(), Sync::Later)
    }

    /// Makes room for so many bytes, as a fetch that begins does.
    ///
    /// # Errors
    /// [`Fault::NoSpace`] where the disk has not so much left, or this machine's.
    pub fn room_for(&self, bytes: u64) -> Result<(), Fault> {
        self.make_room(bytes, bytes)?;
        self.check_room("keep a blob", bytes)
    }

    /// Takes up a fetch that was begun, with the length that it was begun with, as [`Store::partial`] does, or what is left
    /// of a blob that is damaged; none where there is nothing.
    ///
    /// # Errors
    /// As [`Store::partial`].
    pub fn begun(&self, hash: &BlobHash) -> Result<Option<PartialBlob>, PartialError> {
        let live = self.live_partial(hash).map(|partial| partial.length());
        let length = match live {
            Some(length) => Some(length),
            // What is damaged here is mended.
            None => match crate::partial::begun_length(self, hash)? {
                None => self.entry(hash)?.filter(|entry| entry.state == State::Damaged).map(|entry| entry.length),
                length => length,
            },
        };
        length.map(|length| self.partial(hash, length)).transpose()
    }

    /// How much of a blob that is not whole was fetched, as far as was noted. Proven again only when the fetch goes on.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn fetched_bytes(&self, hash: &BlobHash) -> Result<u64, Fault> {
        Ok(crate::partial::noted_units(self, hash)?.saturating_mul(UNIT_BYTES))
    }

    /// Forgets what was fetched of a blob that is not whole, unless it is being fetched; whether it did.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn forget_partial(&self, hash: &BlobHash) -> Result<bool, Fault> {
        if !crate::partial::forget_unless_live(self, hash)? {
            return Ok(false);
        }
        let _stripe = self.stripe(hash);
        // Begun anew meanwhile, with the files that are there: then they are not these any more.
        if self.live_partial(hash).is_none() && !crate::partial::is_begun(self, hash)? {
            for name in [hash.to_string(), format!("{hash}.tree")] {
                self.remove_file(&self.partial_folder().join(name))?;
            }
        }
        Ok(true)
    }
}
