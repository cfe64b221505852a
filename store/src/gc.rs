//! Keeping the store in order: evicting what is only cached, removing what nothing refers to, finding rot.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::PoisonError;

use bao_tree::ChunkRanges;
use barnraiser_protocol::id::BlobHash;
use rocksdb::WriteBatch;

use crate::chunking::list_key;
use crate::error::{Fault, ImportError, LayOutError, ReadError};
use crate::import::Seen;
use crate::metadata::{BlobEntry, Class, Family, Pin, Place, State, Sync};
use crate::store::{Durability, Store, now_s};
use crate::verify::Groups;

/// How long a damaged blob waits in quarantine to be mended, in seconds.
const QUARANTINE_S: u64 = 7 * 24 * 3600;
/// How long a fetch that nobody takes up again is kept, in seconds.
const PARTIAL_KEPT_S: u64 = 30 * 24 * 3600;

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Blobs evicted.
    pub blobs: u64,
    /// Sum of their lengths in bytes.
    pub bytes: u64,
    /// Files removed that nothing referred to, left by something that was cut short.
    pub orphans: u64,
    /// Fetches forgotten that nobody took up again.
    pub partials: u64,
}

/// How far a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collecting {
    /// It looks which blobs could go.
    Looking {
        /// Entries that were looked at.
        entries: u64,
    },
    /// It evicts.
    Evicting {
        /// Bytes of blobs that were evicted.
        done: u64,
        /// Bytes of blobs that are to be evicted, as far as can be said beforehand.
        goal: u64,
    },
    /// It looks for files that nothing refers to.
    Sweeping {
        /// Folders of 256 that were looked through.
        folders: u64,
    },
}

/// What a scrub found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Blobs that were read.
    pub blobs: u64,
    /// Sum of their lengths in bytes.
    pub bytes: u64,
    /// Blobs that are damaged, in quarantine now; fetch them again.
    pub damaged: Vec<BlobHash>,
    /// Files without an entry whose bytes are right, taken in again (as cached).
    pub recovered: u64,
}

impl Store {
    /// Gives up the promise to keep a blob that was announced: it may be evicted from now on. Whether it was here.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn release(&self, hash: &BlobHash) -> Result<bool, Fault> {
        let _stripe = self.stripe(hash);
        let Some(mut entry) = self.good_entry(hash)? else { return Ok(false) };
        entry.class = Class::Cached;
        self.commit(hash, Some(&entry), WriteBatch::default(), Sync::Later)?;
        Ok(true)
    }

    /// Evicts what is only cached and not pinned, least recently used first, until the blobs take `quota_bytes` at most (what is held stays all the
    /// same); removes files that nothing refers to, what has been in quarantine for a week, and fetches that were left for a
    /// month. Safe beside everything else: an open blob can be read to its end.
    ///
    /// # Errors
    /// [`Fault`]; what was done until then stays done.
    pub fn gc(&self, quota_bytes: u64) -> Result<Collected, Fault> {
        self.gc_watched(quota_bytes, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Store::gc`]; `seen` is told how far it is, and may call off the rest of it. A file is removed in one step, however
    /// long it is.
    ///
    /// # Errors
    /// As [`Store::gc`].
    pub fn gc_watched(&self, quota_bytes: u64, seen: &mut dyn FnMut(Collecting) -> ControlFlow<()>) -> Result<Collected, Fault> {
        let mut collected = Collected::default();
        if self.evict_to(quota_bytes, 0, &mut collected, seen)?.is_continue() {
            self.remove_orphans(&mut collected, seen)?;
        }
        Ok(collected)
    }

    /// Evicts until the blobs take `quota_bytes`; nothing good that was used within `grace_s`.
    pub(crate) fn evict_to(
        &self,
        quota_bytes: u64,
        grace_s: u64,
        collected: &mut Collected,
        seen: &mut dyn FnMut(Collecting) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Fault> {
        let (pinned, pins_seen) = self.pinned()?;
        let (mut total, mut candidates, mut looked_at) = (0u64, Vec::new(), 0);
        for item in self.entries() {
            let (hash, entry) = item?;
            looked_at += 1;
            if seen(Collecting::Looking { entries: looked_at }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            total = total.saturating_add(entry.length);
            if (entry.class == Class::Cached || entry.state == State::Damaged) && !pinned.contains(&hash) {
                candidates.push((entry.state == State::Good, entry.last_used_s, hash, entry));
            }
        }
        // Damaged ones first, since they serve nobody.
        candidates.sort_unstable_by_key(|(good, used, hash, _)| (*good, *used, *hash));
        let (now, mut small, mut called_off) = (now_s(), false, ControlFlow::Continue(()));
        let goal = total.saturating_sub(quota_bytes).min(candidates.iter().map(|(.., entry)| entry.length).sum());
        for (good, used, hash, entry) in candidates {
            let expired = !good && used.saturating_add(QUARANTINE_S) < now;
            if good && grace_s > 0 && used.saturating_add(grace_s) > now {
                continue;
            }
            if (total > quota_bytes || expired) && self.evict(&hash, &entry, pins_seen)? {
                total = total.saturating_sub(entry.length);
                collected.blobs += 1;
                collected.bytes += entry.length;
                small |= entry.place == Place::Inline;
                called_off = seen(Collecting::Evicting { done: collected.bytes, goal: goal.max(collected.bytes) });
                if called_off.is_break() {
                    break;
                }
            }
        }
        if small {
            self.metadata().compact_inline()?;
        }
        Ok(called_off)
    }

    /// Everything that pins keep, and how often pins had changed when that was read.
    pub(crate) fn pinned(&self) -> Result<(HashSet<BlobHash>, u64), Fault> {
        let seen = *self.pins_changed().read().unwrap_or_else(PoisonError::into_inner);
        let mut pinned = HashSet::new();
        for (name, pin) in self.pins()? {
            pinned.insert(*pin.hash());
            if let Pin::Tree(hash) = pin {
                match self.tree(&hash) {
                    Ok(tree) => pinned.extend(tree.blobs().map(|(hash, _)| hash)),
                    // A pin may come before what it keeps.
                    Err(LayOutError::Read(ReadError::NotFound(_))) => {}
                    Err(LayOutError::Fault(fault) | LayOutError::Read(ReadError::Fault(fault))) => return Err(fault),
                    Err(error) => tracing::warn!(pin = name, %error, "a pinned tree can't be read, so its blobs are not kept by this pin"),
                }
            }
        }
        Ok((pinned, seen))
    }

    /// Evicts one blob, unless it was used or pins changed since it was looked at. Whether it did.
    pub(crate) fn evict(&self, hash: &BlobHash, seen: &BlobEntry, pins_seen: u64) -> Result<bool, Fault> {
        let pins = self.pins_changed().read().unwrap_or_else(PoisonError::into_inner);
        if *pins != pins_seen {
            return Ok(false);
        }
        let _stripe = self.stripe(hash);
        if self.entry(hash)?.as_ref() != Some(seen) || self.held().contains_key(hash) {
            return Ok(false);
        }
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.metadata().family(Family::Inline), hash.as_bytes());
        batch.delete_cf(self.metadata().family(Family::Trees), hash.as_bytes());
        batch.delete_cf(self.metadata().family(Family::Meta), list_key(hash));
        self.commit(hash, None, batch, Sync::Later)?;
        if seen.place == Place::File {
            self.remove_file(&self.blob_path(hash))?;
        }
        if seen.tree == Place::File {
            self.remove_file(&self.tree_path(hash))?;
        }
        Ok(true)
    }

    /// Gives the file of a blob away to `to`, where nothing keeps it here and both are on one file system. Whether it did.
    pub(crate) fn give_away(&self, hash: &BlobHash, to: &Path) -> Result<bool, Fault> {
        let (pinned, pins_seen) = self.pinned()?;
        let pins = self.pins_changed().read().unwrap_or_else(PoisonError::into_inner);
        let _stripe = self.stripe(hash);
        let entry = self.good_entry(hash)?.filter(|entry| entry.class == Class::Cached && entry.place == Place::File);
        let Some(entry) = entry.filter(|_| *pins == pins_seen && !pinned.contains(hash) && !self.held().contains_key(hash)) else {
            return Ok(false);
        };
        // An entry without a file, as it is for a moment, is a blob that is damaged: whoever wants it fetches it again.
        match self.disk().rename(&self.blob_path(hash), to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return Ok(false),
            Err(source) => return Err(Fault::io("rename to", to, 4096, source)),
        }
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.metadata().family(Family::Trees), hash.as_bytes());
        self.commit(hash, None, batch, Sync::Later)?;
        if entry.tree == Place::File {
            self.remove_file(&self.tree_path(hash))?;
        }
        Ok(true)
    }

    fn remove_orphans(&self, collected: &mut Collected, seen: &mut dyn FnMut(Collecting) -> ControlFlow<()>) -> Result<(), Fault> {
        let mut begun = HashSet::new();
        for (hash, began_s) in crate::partial::begun_at(self)? {
            if began_s.saturating_add(PARTIAL_KEPT_S) < now_s() && crate::partial::forget_unless_live(self, &hash)? {
                collected.partials += 1;
            } else {
                begun.insert(hash);
            }
        }
        for first in 0..=u8::MAX {
            if seen(Collecting::Sweeping { folders: u64::from(first) }).is_break() {
                return Ok(());
            }
            let mut any = [0; 32];
            any[0] = first;
            let folder = self.blob_folder(&BlobHash(any));
            for (name, is_tree, hash) in self.named_files(&folder)? {
                let _stripe = self.stripe(&hash);
                let entry = self.entry(&hash)?;
                let place = entry.as_ref().map(|entry| if is_tree { entry.tree } else { entry.place });
                // A fetch whose completion was cut short finds its files here.
                if place != Some(Place::File) && !crate::partial::is_begun(self, &hash)? {
                    self.remove_file(&folder.join(name))?;
                    collected.orphans += 1;
                }
            }
        }
        let folder = self.partial_folder();
        for (name, _, hash) in self.named_files(&folder)? {
            let _stripe = self.stripe(&hash);
            if !begun.contains(&hash) && !crate::partial::is_begun(self, &hash)? {
                self.remove_file(&folder.join(name))?;
                collected.orphans += 1;
            }
        }
        Ok(())
    }

    /// The files of a folder that are named by a hash: name, whether it is a hash tree, hash.
    fn named_files(&self, folder: &Path) -> Result<Vec<(String, bool, BlobHash)>, Fault> {
        let files = self.disk().list(folder).map_err(|source| Fault::io("list", folder, 0, source))?;
        Ok(files
            .into_iter()
            .filter_map(|(name, _)| {
                let bare = name.strip_suffix(".tree");
                let hash = bare.unwrap_or(&name).parse().ok()?;
                Some((name.clone(), bare.is_some(), hash))
            })
            .collect())
    }

    pub(crate) fn remove_file(&self, path: &Path) -> Result<(), Fault> {
        match self.disk().remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::io("remove", path, 0, error)),
            _ => Ok(()),
        }
    }

    /// Reads every blob and proves it. What is damaged goes into quarantine; files that lost their entry (since the
    /// database was moved away) are taken in again. `seen` is told how many bytes were proven since it was told last, within a
    /// blob as well, and may wait, to spare the machine, or stop.
    ///
    /// # Errors
    /// [`ReadError`] or [`ImportError`] by way of [`Fault`]: this machine only; damage is not an error here.
    pub fn scrub(&self, seen: Seen<'_>) -> Result<Scrubbed, Fault> {
        let mut scrubbed = Scrubbed::default();
        let mut called_off = ControlFlow::Continue(());
        for item in self.blobs() {
            let (hash, length) = item?;
            let mut proven = Groups::new(|bytes| {
                called_off = seen(bytes.len() as u64);
                if called_off.is_break() { Err(io::Error::other("it was called off")) } else { Ok(()) }
            });
            let read = self.open_blob(&hash).and_then(|opened| self.walk_blob(&opened, &ChunkRanges::all(), &mut proven));
            match read {
                Ok(()) => {}
                // What was found until then is found.
                Err(ReadError::Output(_)) if called_off.is_break() => return Ok(scrubbed),
                Err(ReadError::Damaged { hash, .. }) => scrubbed.damaged.push(hash),
                // Evicted since the list was read.
                Err(ReadError::NotFound(_)) => continue,
                Err(ReadError::Fault(fault)) => return Err(fault),
                Err(error) => return Err(Fault::io("scrub", self.root(), 0, io::Error::other(error))),
            }
            scrubbed.blobs += 1;
            scrubbed.bytes += length;
        }
        self.recover_orphans(&mut scrubbed)?;
        Ok(scrubbed)
    }

    fn recover_orphans(&self, scrubbed: &mut Scrubbed) -> Result<(), Fault> {
        for first in 0..=u8::MAX {
            let mut any = [0; 32];
            any[0] = first;
            let folder = self.blob_folder(&BlobHash(any));
            for (name, is_tree, hash) in self.named_files(&folder)? {
                if is_tree || self.entry(&hash)?.is_some() || crate::partial::is_begun(self, &hash)? {
                    continue;
                }
                match self.import_file(&folder.join(name), Durability::Cached) {
                    Ok((found, _)) if found == hash => scrubbed.recovered += 1,
                    // Not what its name says: taken in under its own name, and this file is left for the collection.
                    Ok(_) => {}
                    Err(ImportError::Source { .. }) => {}
                    Err(ImportError::Fault(fault)) => return Err(fault),
                    Err(error) => return Err(Fault::io("take in a file of", &folder, 0, io::Error::other(error))),
                }
            }
        }
        Ok(())
    }
}
