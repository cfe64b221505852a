//! Reading: every byte is checked against the blob's name before it is handed out.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use bao_tree::ChunkRanges;
use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::transfer::end_of;
use blake3::Hash;

use crate::error::{Fault, ReadError};
use crate::geometry::{GROUP_BYTES, UNIT_BYTES, chunk_ranges, encoded_length, shape};
use crate::metadata::{BlobEntry, Family, Place};
use crate::store::Store;
use crate::verify::{Bytes, Encoding, Groups, Sink, WalkError, walk};

/// Bytes that a reader proves at once and keeps.
const WINDOW_BYTES: u64 = 256 << 10;

/// A whole blob, opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) hash: BlobHash,
    pub(crate) length: u64,
    pub(crate) data: Bytes,
    pub(crate) pairs: Bytes,
}

impl Opened {
    /// Hands the proof and the bytes of `ranges` to `sink`.
    pub(crate) fn walk(&self, ranges: &ChunkRanges, sink: &mut dyn Sink) -> Result<(), WalkError> {
        walk(Hash::from(self.hash.0), shape(self.length), &self.pairs, &self.data, ranges, sink)
    }
}

/// What of a blob is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Available {
    /// The blob's length in bytes.
    pub length: u64,
    /// Whether all of it is here.
    pub complete: bool,
    /// Whether the length is proven; else it is the word of a peer.
    pub length_is_proven: bool,
    /// The parts that are here, in order, whole units each.
    pub ranges: Vec<Range<u64>>,
}

impl Store {
    pub(crate) fn open_blob(&self, hash: &BlobHash) -> Result<Opened, ReadError> {
        // The entry may be replaced between looking and opening, once: an eviction, or the blob coming anew.
        for _ in 0..3 {
            let entry = self.good_entry(hash)?.ok_or(ReadError::NotFound(*hash))?;
            if let Some(opened) = self.open_entry(hash, &entry)? {
                self.touch(hash, &entry)?;
                return Ok(opened);
            }
            if self.good_entry(hash)?.as_ref() == Some(&entry) {
                // Nobody replaced it: the file is gone.
                self.quarantine(hash)?;
                return Err(ReadError::Damaged { hash: *hash, offset: 0 });
            }
        }
        Err(ReadError::NotFound(*hash))
    }

    /// Opens what an entry names; none where it isn't there.
    pub(crate) fn open_entry(&self, hash: &BlobHash, entry: &BlobEntry) -> Result<Option<Opened>, Fault> {
        let open = |path: std::path::PathBuf| match self.disk().open(&path, false) {
            Ok(file) => Ok(Some(Bytes::File(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Fault::io("open", &path, 0, source)),
        };
        let inline = |family| Ok::<_, Fault>(self.metadata().value(family, hash.as_bytes())?.map(Bytes::Memory));
        let data = match entry.place {
            Place::Inline => inline(Family::Inline)?,
            Place::File => open(self.blob_path(hash))?,
            Place::None => None,
        };
        let pairs = match entry.tree {
            Place::None => Some(Bytes::Memory(Vec::new())),
            Place::Inline => inline(Family::Trees)?,
            Place::File => open(self.tree_path(hash))?,
        };
        Ok(data.zip(pairs).map(|(data, pairs)| Opened { hash: *hash, length: entry.length, data, pairs }))
    }

    /// Walks a blob, and puts it into quarantine if it is damaged.
    pub(crate) fn walk_blob(&self, opened: &Opened, ranges: &ChunkRanges, sink: &mut dyn Sink) -> Result<(), ReadError> {
        opened.walk(ranges, sink).map_err(|error| match error {
            WalkError::Damaged(offset) => match self.quarantine(&opened.hash) {
                Ok(()) => ReadError::Damaged { hash: opened.hash, offset },
                Err(fault) => fault.into(),
            },
            WalkError::Io(source) => Fault::io("read", &self.blob_path(&opened.hash), 0, source).into(),
            WalkError::Sink(error) => ReadError::Output(error),
        })
    }

    /// A reader of the whole blob, which may seek. It proves what it reads; damage is an error of kind
    /// [`io::ErrorKind::InvalidData`] that holds a [`ReadError`].
    ///
    /// # Errors
    /// [`ReadError::NotFound`], [`ReadError::Damaged`], or this machine's.
    pub fn reader(&self, hash: &BlobHash) -> Result<BlobReader, ReadError> {
        Ok(BlobReader { store: self.clone(), opened: self.open_blob(hash)?, position: 0, window: Vec::new(), window_start: 0 })
    }

    /// Writes the whole blob to `writer`, proven piece by piece: what was written before an error is right, but not all.
    /// Returns its length in bytes.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_verified(&self, hash: &BlobHash, writer: &mut impl Write) -> Result<u64, ReadError> {
        let opened = self.open_blob(hash)?;
        self.walk_blob(&opened, &ChunkRanges::all(), &mut Groups::new(|bytes| writer.write_all(bytes)))?;
        Ok(opened.length)
    }

    /// The whole blob, of `limit` bytes at most.
    ///
    /// # Errors
    /// [`ReadError::TooLong`] where it is longer, and the others.
    pub fn read_all(&self, hash: &BlobHash, limit: u64) -> Result<Vec<u8>, ReadError> {
        let length = self.length(hash)?.ok_or(ReadError::NotFound(*hash))?;
        if length > limit {
            return Err(ReadError::TooLong { hash: *hash, length, limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        self.read_verified(hash, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes what is here of a blob from the byte `from` on, up to the end of that unit at most, proven. Gives the number of
    /// bytes written: none where they are not here yet, or where the blob ends. For who reads along while it is fetched.
    ///
    /// # Errors
    /// [`ReadError::Damaged`], [`ReadError::Output`], or this machine's; what was written before is right.
    pub fn read_on(&self, hash: &BlobHash, from: u64, writer: &mut impl Write) -> Result<u64, ReadError> {
        let end = (from / UNIT_BYTES + 1) * UNIT_BYTES;
        // A walk begins at a whole group.
        let mut skip = from % GROUP_BYTES;
        let mut written = 0;
        let mut sink = Groups::new(|bytes| {
            let rest = bytes.get(skip as usize..).unwrap_or_default();
            skip = 0;
            written += rest.len() as u64;
            writer.write_all(rest)
        });
        let walked = match self.open_blob(hash) {
            Ok(opened) if from >= opened.length => return Ok(0),
            Ok(opened) => self.walk_blob(&opened, &chunk_ranges(&(from..end.min(opened.length)), opened.length), &mut sink),
            Err(ReadError::NotFound(_)) => match self.live_partial(hash) {
                Some(partial) if from < partial.length() => partial.encode(&(from..end.min(partial.length())), &mut sink),
                _ => return Ok(0),
            },
            Err(error) => Err(error),
        };
        match walked {
            Ok(()) => Ok(written),
            // Of a fetch: the unit has not come yet.
            Err(ReadError::NotFound(_)) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// What of a blob can be served: all of it, or the verified units of a fetch that is going on in this process.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn available(&self, hash: &BlobHash) -> Result<Option<Available>, Fault> {
        if let Some(length) = self.length(hash)? {
            let ranges = std::iter::once(0..length).collect();
            return Ok(Some(Available { length, complete: true, length_is_proven: true, ranges }));
        }
        Ok(self.live_partial(hash).map(|partial| Available {
            length: partial.length(),
            complete: false,
            length_is_proven: partial.length_is_proven(),
            ranges: partial.verified(),
        }))
    }

    /// As [`Store::encode_ranges`] for the end of a blob, which proves its length; also of one that is being fetched and of
    /// which the end was shown.
    ///
    /// # Errors
    /// As [`Store::encode_ranges`].
    pub fn encode_end(&self, hash: &BlobHash, length: u64, out: &mut Vec<u8>) -> Result<(), ReadError> {
        if self.live_partial(hash).is_some_and(|partial| partial.length() == length && partial.shown_end(out)) {
            return Ok(());
        }
        let end = end_of(length);
        self.encode_ranges(hash, end.start..end.end, out)
    }

    /// Makes `out` the bao encoding of a part of a blob: `range` widened to whole groups, with the proof for them and without
    /// a length in front. Everything is proven when this returns; after an error `out` is worth nothing. It is read where it
    /// stays, so who has an `out` that was used before saves a copy and the zeroing.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] where not all of the range is here, [`ReadError::Range`], [`ReadError::Damaged`],
    /// [`ReadError::Output`], or this machine's.
    pub fn encode_ranges(&self, hash: &BlobHash, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), ReadError> {
        match self.open_blob(hash) {
            Ok(opened) => {
                check_range(hash, &range, opened.length)?;
                let sink = &mut encoding(&range, opened.length, out);
                self.walk_blob(&opened, &chunk_ranges(&range, opened.length), sink)
            }
            Err(ReadError::NotFound(_)) => {
                let partial = self.live_partial(hash).ok_or(ReadError::NotFound(*hash))?;
                check_range(hash, &range, partial.length())?;
                partial.encode(&range, &mut encoding(&range, partial.length(), out))
            }
            Err(error) => Err(error),
        }
    }
}

/// Makes `out` as long as the encoding will be.
fn encoding<'a>(range: &Range<u64>, length: u64, out: &'a mut Vec<u8>) -> Encoding<'a> {
    // The range was checked to lie in the blob, of which this machine holds that much.
    out.resize(encoded_length(range, length) as usize, 0);
    Encoding::new(out)
}

fn check_range(hash: &BlobHash, range: &Range<u64>, length: u64) -> Result<(), ReadError> {
    // An empty blob has one range, which is empty.
    if range.end > length || (range.is_empty() && *range != (0..length)) {
        return Err(ReadError::Range { hash: *hash, length, start: range.start, end: range.end });
    }
    Ok(())
}

/// A verifying reader of one blob.
#[derive(Debug)]
pub struct BlobReader {
    store: Store,
    opened: Opened,
    position: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl BlobReader {
    /// The blob's length in bytes.
    pub fn length(&self) -> u64 {
        self.opened.length
    }

    /// Proves the window around the position and keeps it.
    fn load(&mut self) -> Result<(), ReadError> {
        let start = self.position / WINDOW_BYTES * WINDOW_BYTES;
        let range = start..(start + WINDOW_BYTES).min(self.opened.length);
        let mut window = std::mem::take(&mut self.window);
        window.clear();
        let keep = |bytes: &[u8]| {
            window.extend_from_slice(bytes);
            Ok(())
        };
        self.store.walk_blob(&self.opened, &chunk_ranges(&range, self.opened.length), &mut Groups::new(keep))?;
        self.window = window;
        self.window_start = start;
        Ok(())
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.opened.length || buffer.is_empty() {
            return Ok(0);
        }
        let inside = |reader: &Self| reader.position.checked_sub(reader.window_start).is_some_and(|at| at < reader.window.len() as u64);
        if !inside(self) {
            self.load().map_err(|error| {
                let kind = if matches!(error, ReadError::Damaged { .. }) { io::ErrorKind::InvalidData } else { io::ErrorKind::Other };
                io::Error::new(kind, error)
            })?;
        }
        let rest = &self.window[(self.position - self.window_start) as usize..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for BlobReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.opened.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

const _: () =
    assert!(barnraiser_protocol::transfer::END_BYTES_MAX == crate::geometry::GROUP_BYTES, "the end is what can be proven by itself");
const _: () = assert!(UNIT_BYTES.is_multiple_of(WINDOW_BYTES), "a window must not reach into a second unit");
