//! A blob that is being fetched: which units of it are here, each proven when it came.
//!
//! A unit is decoded and checked in memory before anything of it is written, so that a lying peer leaves no trace. What
//! was written is noted in the database; after a restart every noted unit is proven again from the files, since a power
//! loss may have kept the note and lost the bytes. Verified units can be served while the fetch goes on.

mod assembled;
mod decode;
mod files;
mod units;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::transfer::end_of;
use blake3::Hash;
use rocksdb::WriteBatch;

use crate::error::{Fault, PartialError, ReadError};
use crate::geometry::{BLOB_BYTES_MAX, GROUP_BYTES, INLINE_BYTES_MAX, UNIT_BYTES, chunk_ranges, shape, unit_count, unit_range};
use crate::import::Level;
use crate::metadata::{State, Sync};
use crate::store::{Durability, Store};
use crate::verify::{Groups, Sink, WalkError, walk};

use files::Files;
use units::Units;

/// A handle to a blob that is being fetched. Clones share its state; calls from several threads are fine.
#[derive(Clone, Debug)]
pub struct PartialBlob {
    state: Arc<PartialState>,
}

/// What all handles to one partial blob share.
#[derive(Debug)]
pub(crate) struct PartialState {
    store: Store,
    hash: BlobHash,
    length: u64,
    backing: Backing,
    units: Mutex<Units>,
    /// The encoding of the blob's end, where a peer sent it: the proof of the length, for others too.
    end: Mutex<Option<Vec<u8>>>,
    /// Whether what an earlier process noted has been proven again.
    settled: Mutex<bool>,
}

/// Where the bytes are until the blob is complete.
#[derive(Debug)]
enum Backing {
    /// A blob of one group: fetched in one go, so there is nothing to resume.
    Memory(Mutex<Vec<u8>>),
    /// Files in `partials`.
    Files(Files),
}

impl Store {
    /// The fetch of a blob that is said to have `length` bytes: begun, or taken up where it was left.
    ///
    /// The length is the word of a peer until [`PartialBlob::length_is_proven`]; have it proven first ([`check_length`]). While
    /// it is not proven, another length begins the fetch anew. A blob that is here is fetched once more: ask [`Store::contains`] first.
    /// Of a blob that is damaged, only what is wrong is missing.
    ///
    /// After a restart this reads and proves what was fetched before, which takes as long as hashing it.
    ///
    /// # Errors
    /// [`PartialError::Length`] where another length is proven or none can have it, or this machine's (no room).
    pub fn partial(&self, hash: &BlobHash, length: u64) -> Result<PartialBlob, PartialError> {
        if length > BLOB_BYTES_MAX {
            return Err(PartialError::Length { hash: *hash, claimed: length, proven: None });
        }
        loop {
            let (partial, fresh) = self.find_or_begin(hash, length)?;
            partial.settle()?;
            if partial.length() == length {
                if fresh {
                    self.make_room(partial.missing_bytes(), partial.missing_bytes())?;
                    self.check_room("fetch a blob", partial.missing_bytes())?;
                }
                return Ok(partial);
            }
            if partial.length_is_proven() {
                return Err(PartialError::Length { hash: *hash, claimed: length, proven: Some(partial.length()) });
            }
            match partial.discard() {
                Ok(()) | Err(PartialError::Ended(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The fetches that were begun and not ended, with the lengths that peers said.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn partials_begun(&self) -> Result<Vec<(BlobHash, u64)>, Fault> {
        Ok(units::begun(self)?.into_iter().map(|(hash, header)| (hash, header.length)).collect())
    }

    /// A fetch that is going on in this process.
    pub(crate) fn live_partial(&self, hash: &BlobHash) -> Option<PartialBlob> {
        self.partials().get(hash).and_then(std::sync::Weak::upgrade).map(|state| PartialBlob { state })
    }

    fn find_or_begin(&self, hash: &BlobHash, length: u64) -> Result<(PartialBlob, bool), Fault> {
        let _stripe = self.stripe(hash);
        if let Some(partial) = self.live_partial(hash) {
            return Ok((partial, false));
        }
        let header = units::header(self, hash)?;
        // What this store wrote itself goes before the word of a peer.
        let damaged = self.entry(hash)?.filter(|entry| entry.state == State::Damaged).map(|entry| entry.length);
        let length = header.as_ref().map(|header| header.length).or(damaged).unwrap_or(length);
        let small = length <= INLINE_BYTES_MAX;
        let (backing, units) = if small && header.is_none() {
            (Backing::Memory(Mutex::new(Vec::new())), Units::new(length))
        } else {
            let (files, adopted) = Files::open(self, hash, length)?;
            if header.is_none() {
                units::begin(self, hash, length)?;
            }
            let mut units = Units::new(length);
            units.claim(if adopted { (0..unit_count(length)).collect() } else { units::noted(self, hash)? });
            (Backing::Files(files), units)
        };
        let state = PartialState {
            store: self.clone(),
            hash: *hash,
            length,
            backing,
            units: Mutex::new(units),
            end: Mutex::default(),
            settled: Mutex::new(false),
        };
        let state = Arc::new(state);
        let mut live = self.partials();
        // Fetches that nobody holds any more go with the next one that begins.
        live.retain(|_, state| state.strong_count() > 0);
        live.insert(*hash, Arc::downgrade(&state));
        Ok((PartialBlob { state }, true))
    }
}

/// Proves that a blob has `length` bytes, by the encoding of a range that reaches its end: the last group does
/// ([`barnraiser_protocol::transfer::end_of`]).
///
/// # Errors
/// [`PartialError::Proof`]: it has another length, or the encoding is wrong. [`PartialError::Length`]: none can have it.
/// [`PartialError::NotAUnit`]: the range does not reach the end.
pub fn check_length(hash: &BlobHash, length: u64, range: &Range<u64>, encoded: &[u8]) -> Result<(), PartialError> {
    if length > BLOB_BYTES_MAX {
        return Err(PartialError::Length { hash: *hash, claimed: length, proven: None });
    }
    if range.end != length || range.start > range.end || (range.is_empty() && length > 0) || !range.start.is_multiple_of(GROUP_BYTES) {
        return Err(PartialError::NotAUnit { start: range.start, end: range.end, length });
    }
    decode::unit(hash, length, range, encoded).map(|_| ())
}

/// All fetches that were begun, and when, in seconds since 1970.
pub(crate) fn begun_at(store: &Store) -> Result<Vec<(BlobHash, u64)>, Fault> {
    Ok(units::begun(store)?.into_iter().map(|(hash, header)| (hash, header.began_s)).collect())
}

/// Whether a fetch of the blob was begun and not ended.
pub(crate) fn is_begun(store: &Store, hash: &BlobHash) -> Result<bool, Fault> {
    Ok(units::header(store, hash)?.is_some())
}

/// The length with which a fetch was begun that has not ended.
pub(crate) fn begun_length(store: &Store, hash: &BlobHash) -> Result<Option<u64>, Fault> {
    Ok(units::header(store, hash)?.map(|header| header.length))
}

/// How many units of a fetch were noted.
pub(crate) fn noted_units(store: &Store, hash: &BlobHash) -> Result<u64, Fault> {
    Ok(units::noted(store, hash)?.len() as u64)
}

/// Forgets a fetch, unless it is going on in this process. Its files are left for the collection. Whether it did.
pub(crate) fn forget_unless_live(store: &Store, hash: &BlobHash) -> Result<bool, Fault> {
    let _stripe = store.stripe(hash);
    if store.live_partial(hash).is_some() {
        return Ok(false);
    }
    let mut batch = WriteBatch::default();
    units::forget(store, hash, &mut batch);
    store.metadata().write(batch, Sync::Later)?;
    Ok(true)
}

impl PartialBlob {
    /// The blob's name.
    pub fn hash(&self) -> &BlobHash {
        &self.state.hash
    }

    /// The length in bytes that a peer said.
    pub fn length(&self) -> u64 {
        self.state.length
    }

    /// Whether the length is proven: the blob's last unit is here, or its end was shown.
    pub fn length_is_proven(&self) -> bool {
        self.units().has(unit_count(self.state.length) - 1) || self.end().is_some()
    }

    /// Takes the encoding of the blob's end, which proves its length.
    ///
    /// # Errors
    /// [`PartialError::Proof`]: it does not, and who sent it is to blame.
    pub fn prove_length(&self, end: Vec<u8>) -> Result<(), PartialError> {
        let range = end_of(self.state.length);
        check_length(&self.state.hash, self.state.length, &(range.start..range.end), &end)?;
        *self.end() = Some(end);
        Ok(())
    }

    /// Makes `out` the encoding of the blob's end, where it was shown.
    pub(crate) fn shown_end(&self, out: &mut Vec<u8>) -> bool {
        let end = self.end();
        if let Some(end) = &*end {
            out.clone_from(end);
        }
        end.is_some()
    }

    fn end(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.state.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the unit (counted from 0) is here.
    pub fn has(&self, unit: u64) -> bool {
        self.units().has(unit)
    }

    /// What is here, in order, in ranges of bytes.
    pub fn verified(&self) -> Vec<Range<u64>> {
        self.units().ranges(true)
    }

    /// What is missing, in order, in ranges of bytes that begin and end where units do.
    pub fn missing(&self) -> Vec<Range<u64>> {
        self.units().ranges(false)
    }

    /// How many bytes are missing.
    pub fn missing_bytes(&self) -> u64 {
        self.state.length - self.units().verified_bytes()
    }

    /// Whether everything is here.
    pub fn is_complete(&self) -> bool {
        self.units().is_complete()
    }

    /// Whether somebody has completed or discarded it: nothing can be added any more.
    pub fn has_ended(&self) -> bool {
        self.units().ended
    }

    /// Adds the unit with the bytes `range` from its bao encoding, as [`Store::encode_ranges`] writes it. Everything is
    /// checked first; of bytes that are not proven, nothing is kept. A unit that is here already is checked no more.
    ///
    /// # Errors
    /// [`PartialError::Proof`]: the peer is to blame. [`PartialError::NotAUnit`], [`PartialError::Ended`]: the caller.
    /// [`PartialError::Fault`]: this machine; the unit counts as missing.
    pub fn write_unit(&self, range: Range<u64>, encoded: &[u8]) -> Result<(), PartialError> {
        let state = &*self.state;
        let unit = range.start / UNIT_BYTES;
        if range != unit_range(unit, state.length) || unit >= unit_count(state.length) {
            return Err(PartialError::NotAUnit { start: range.start, end: range.end, length: state.length });
        }
        if self.is_here(unit)? {
            return Ok(());
        }
        let proven = decode::unit(&state.hash, state.length, &range, encoded)?;
        self.keep(unit, &range, &proven)
    }

    /// Whether a fetch that goes on has the unit.
    fn is_here(&self, unit: u64) -> Result<bool, PartialError> {
        let units = self.units();
        if units.ended { Err(PartialError::Ended(self.state.hash)) } else { Ok(units.has(unit)) }
    }

    /// Writes a unit down.
    fn keep(&self, unit: u64, range: &Range<u64>, proven: &decode::Proven<'_>) -> Result<(), PartialError> {
        let state = &*self.state;
        match &state.backing {
            Backing::Memory(bytes) => *bytes.lock().unwrap_or_else(PoisonError::into_inner) = proven.bytes.concat(),
            Backing::Files(files) => files.write(range.start, proven)?,
        }
        let mut units = self.units();
        if units.ended {
            return Err(PartialError::Ended(state.hash));
        }
        if let Backing::Files(_) = &state.backing {
            units::note(&state.store, &state.hash, unit)?;
        }
        units.set(unit);
        Ok(())
    }

    /// Makes a complete fetch a blob of the store, and ends it.
    ///
    /// # Errors
    /// [`PartialError::Incomplete`], [`PartialError::Ended`], or this machine's; then the fetch goes on where it was.
    pub fn complete(&self, durability: Durability) -> Result<(), PartialError> {
        self.complete_as(durability.into())
    }

    /// As [`PartialBlob::complete`], for others: it survives a power loss and is not evicted until [`Store::remove`].
    ///
    /// # Errors
    /// As there.
    pub fn complete_kept(&self) -> Result<(), PartialError> {
        self.complete_as(Level::Kept)
    }

    fn complete_as(&self, level: Level) -> Result<(), PartialError> {
        let state = &*self.state;
        // Synced before the locks are taken, since it may take long; nothing is written to a complete blob any more.
        if let (Backing::Files(files), false, true) = (&state.backing, level == Level::Cached, self.is_complete()) {
            files.sync()?;
        }
        if let Backing::Memory(bytes) = &state.backing {
            drop(self.checked_complete()?);
            // No lock is held while the blob is entered: its stripe comes before them.
            let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner).clone();
            state.store.commit_inline(&state.hash, &bytes, level)?;
            self.units().ended = true;
        } else if let Backing::Files(files) = &state.backing {
            let _stripe = state.store.stripe(&state.hash);
            let mut units = self.checked_complete()?;
            files.promote(&state.store, &state.hash, state.length, level)?;
            state.store.remember_fetched(&state.hash);
            units.ended = true;
        }
        state.store.partials().remove(&state.hash);
        Ok(())
    }

    /// Ends the fetch and forgets what is here.
    ///
    /// # Errors
    /// [`PartialError::Ended`], or this machine's.
    pub fn discard(&self) -> Result<(), PartialError> {
        let state = &*self.state;
        let _stripe = state.store.stripe(&state.hash);
        let mut units = self.units();
        if units.ended {
            return Err(PartialError::Ended(state.hash));
        }
        let mut batch = WriteBatch::default();
        units::forget(&state.store, &state.hash, &mut batch);
        state.store.metadata().write(batch, Sync::Later)?;
        units.ended = true;
        state.store.partials().remove(&state.hash);
        if let Backing::Files(files) = &state.backing {
            files.remove(&state.store)?;
        }
        Ok(())
    }

    fn units(&self) -> MutexGuard<'_, Units> {
        self.state.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checked_complete(&self) -> Result<MutexGuard<'_, Units>, PartialError> {
        let units = self.units();
        if units.ended {
            return Err(PartialError::Ended(self.state.hash));
        }
        if !units.is_complete() {
            let missing = self.state.length - units.verified_bytes();
            return Err(PartialError::Incomplete { hash: self.state.hash, missing, length: self.state.length });
        }
        Ok(units)
    }

    /// Proves again what an earlier process noted; only once, and for all who open this fetch at the same time.
    fn settle(&self) -> Result<(), Fault> {
        let mut settled = self.state.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if *settled {
            return Ok(());
        }
        let claimed = self.units().take_claimed();
        let mut batch = WriteBatch::default();
        for unit in claimed {
            let range = unit_range(unit, self.state.length);
            match self.walk(&range, &mut Groups::new(|_| Ok(()))) {
                Ok(()) => {
                    units::note_in(&self.state.store, &self.state.hash, unit, &mut batch);
                    self.units().set(unit);
                }
                Err(WalkError::Damaged(_)) => units::unnote_in(&self.state.store, &self.state.hash, unit, &mut batch),
                Err(WalkError::Io(source) | WalkError::Sink(source)) => {
                    return Err(Fault::io("read the fetched part of", &self.state.store.partial_folder(), 0, source));
                }
            }
        }
        self.state.store.metadata().write(batch, Sync::Later)?;
        *settled = true;
        Ok(())
    }

    fn walk(&self, range: &Range<u64>, sink: &mut dyn Sink) -> Result<(), WalkError> {
        let state = &*self.state;
        let ranges = chunk_ranges(range, state.length);
        let (root, tree) = (Hash::from(state.hash.0), shape(state.length));
        match &state.backing {
            Backing::Memory(bytes) => {
                let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner).clone();
                walk(root, tree, [].as_slice(), bytes.as_slice(), &ranges, sink)
            }
            Backing::Files(files) => walk(root, tree, &files.pairs, &files.data, &ranges, sink),
        }
    }

    /// Serves a part that is here.
    pub(crate) fn encode(&self, range: &Range<u64>, sink: &mut dyn Sink) -> Result<(), ReadError> {
        let state = &*self.state;
        let (first, last) = (range.start / UNIT_BYTES, range.end.saturating_sub(1).max(range.start) / UNIT_BYTES);
        {
            let units = self.units();
            if !(first..=last).all(|unit| units.has(unit)) {
                return Err(ReadError::NotFound(state.hash));
            }
        }
        self.walk(range, sink).map_err(|error| match error {
            WalkError::Damaged(offset) => {
                // Only this unit is lost; the fetch brings it again.
                self.units().unset(offset / UNIT_BYTES);
                ReadError::Damaged { hash: state.hash, offset }
            }
            WalkError::Io(source) => Fault::io("read the fetched part of", &state.store.partial_folder(), 0, source).into(),
            WalkError::Sink(error) => ReadError::Output(error),
        })
    }
}
