//! Chunk lists: a blob cut where its content says so, and what is remembered of that.

use std::io::{self, Read};

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::transfer::chunks::{ChunkKey, ChunkList, Cutting, has_list};
use fastcdc::v2020::{FastCDC, Normalization};

use crate::error::{Fault, ImportError, ReadError};
use crate::geometry::{UNIT_BYTES, unit_count};
use crate::metadata::Family;
use crate::outline::unit_hash;
use crate::read::BlobReader;
use crate::store::{Durability, Store};

/// Bytes that are read at once; several times the longest chunk of all but the longest blobs.
const WINDOW_BYTES: usize = 1 << 20;

/// How much alike the lengths of chunks are: with this, an eighth less is fetched than with the crate's default, for as much
/// more of a list (docs/decisions/0015).
const LEVEL: Normalization = Normalization::Level2;

/// Something that was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Block,
    Chunk,
}

/// Cuts all that `reader` gives, and hands each block and each chunk to `each`, with the byte at which it begins.
pub(crate) fn cut(reader: &mut impl Read, cutting: Cutting, each: &mut dyn FnMut(Cut, u64, &[u8])) -> io::Result<()> {
    let mut blocks = Blocks { length: cutting.block as usize, block: Vec::with_capacity(cutting.block as usize), start: 0 };
    cut_chunks(reader, cutting, &mut |start, bytes| {
        blocks.push(bytes, each);
        each(Cut::Chunk, start, bytes);
    })?;
    blocks.end(each);
    Ok(())
}

/// Blocks of bytes that come in pieces of any length.
struct Blocks {
    length: usize,
    block: Vec<u8>,
    start: u64,
}

impl Blocks {
    fn push(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(Cut, u64, &[u8])) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.length - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == self.length {
                self.end(each);
            }
        }
    }

    fn end(&mut self, each: &mut dyn FnMut(Cut, u64, &[u8])) {
        if !self.block.is_empty() {
            each(Cut::Block, self.start, &self.block);
            self.start += self.block.len() as u64;
            self.block.clear();
        }
    }
}

fn cut_chunks(reader: &mut impl Read, cutting: Cutting, each: &mut dyn FnMut(u64, &[u8])) -> io::Result<()> {
    let (min, average, max) = (cutting.min as usize, cutting.average as usize, cutting.max as usize);
    let window = WINDOW_BYTES.max(4 * max);
    let (mut buffer, mut start) = (Vec::with_capacity(window), 0u64);
    loop {
        let wanted = (window - buffer.len()) as u64;
        let is_end = reader.by_ref().take(wanted).read_to_end(&mut buffer)? < wanted as usize;
        let chunker = FastCDC::with_level(&buffer, min, average, max, LEVEL);
        let mut at = 0;
        // Where more is to come, a chunk is cut only when all that it may have is here.
        while at < buffer.len() && (is_end || buffer.len() - at >= max) {
            let end = chunker.cut(at, buffer.len() - at).1;
            each(start + at as u64, &buffer[at..end]);
            at = end;
        }
        if is_end {
            return Ok(());
        }
        buffer.drain(..at);
        start += at as u64;
    }
}

/// Cuts a blob and hashes its units, in one pass.
fn list(reader: &mut BlobReader) -> io::Result<ChunkList> {
    let length = reader.length();
    let mut units = Units { length, unit: Vec::with_capacity(UNIT_BYTES as usize), hashes: Vec::new() };
    let (mut blocks, mut chunks) = (Vec::new(), Vec::new());
    cut(reader, Cutting::of(length), &mut |what, _, bytes| match what {
        Cut::Block => blocks.push(ChunkKey::of(bytes)),
        Cut::Chunk => {
            // A chunk is at most 2 MiB.
            chunks.push((bytes.len() as u32, ChunkKey::of(bytes)));
            units.push(bytes);
        }
    })?;
    ChunkList::new(length, units.finish(), blocks, chunks).map_err(io::Error::other)
}

/// Hashes units of bytes that come in pieces of any length.
struct Units {
    length: u64,
    unit: Vec<u8>,
    hashes: Vec<[u8; 32]>,
}

impl Units {
    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(UNIT_BYTES as usize - self.unit.len()));
            self.unit.extend_from_slice(now);
            bytes = later;
            if self.unit.len() == UNIT_BYTES as usize {
                self.end_unit();
            }
        }
    }

    fn end_unit(&mut self) {
        self.hashes.push(*unit_hash(self.hashes.len() as u64, &self.unit).as_bytes());
        self.unit.clear();
    }

    fn finish(mut self) -> Vec<[u8; 32]> {
        if (self.hashes.len() as u64) < unit_count(self.length) {
            self.end_unit();
        }
        self.hashes
    }
}

/// Where it is remembered which blob is the list of `hash`.
pub(crate) fn list_key(hash: &BlobHash) -> Vec<u8> {
    [b"chunks/", hash.as_bytes().as_slice()].concat()
}

impl Store {
    /// The chunk list of a blob that is here whole, and the list's length in bytes; none where the blob is too short or too long
    /// for one. It is made when it is asked for the first time, which reads the whole blob, and kept as a cached blob.
    ///
    /// # Errors
    /// [`ReadError`] of the blob; [`ReadError::Fault`] where the list can't be kept.
    pub fn chunk_list(&self, hash: &BlobHash) -> Result<Option<(BlobHash, u64)>, ReadError> {
        if let Some(known) = self.known_chunk_list(hash)? {
            return Ok(Some(known));
        }
        let length = self.length(hash)?.ok_or(ReadError::NotFound(*hash))?;
        if !has_list(length) {
            return Ok(None);
        }
        let mut reader = self.reader(hash)?;
        let bytes = list(&mut reader).map_err(|error| unread(hash, error))?.to_bytes();
        let list = self.import_bytes(&bytes, Durability::Cached).map_err(|error| match error {
            ImportError::Fault(fault) => ReadError::Fault(fault),
            other => ReadError::Output(io::Error::other(other)),
        })?;
        self.meta_put(&list_key(hash), list.as_bytes(), false)?;
        Ok(Some((list, bytes.len() as u64)))
    }

    /// As [`Store::chunk_list`], where that has been made already.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn known_chunk_list(&self, hash: &BlobHash) -> Result<Option<(BlobHash, u64)>, Fault> {
        if !self.contains(hash)? {
            return Ok(None);
        }
        let Some(list) = self.metadata().value(Family::Meta, &list_key(hash))? else { return Ok(None) };
        let wrong = |_| Fault::Entry { family: Family::Meta.name(), message: "the name of a chunk list is no hash".into() };
        let list = BlobHash(list.try_into().map_err(wrong)?);
        // It may have been evicted.
        Ok(self.length(&list)?.map(|length| (list, length)))
    }
}

/// What a reader of a blob failed with.
pub(crate) fn unread(hash: &BlobHash, error: io::Error) -> ReadError {
    match error.downcast::<ReadError>() {
        Ok(error) => error,
        Err(error) => {
            tracing::warn!(%hash, %error, "a blob could not be cut into chunks");
            ReadError::Output(error)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// However the bytes come, they are cut alike: at windows, at ends, and as the crate cuts them in one go.
    #[test]
    fn cuts_do_not_depend_on_how_bytes_are_read() {
        let mut state = 1u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(3 * WINDOW_BYTES + 77)
        .chain(std::iter::repeat_n(0, 100_000))
        .collect();
        let cutting = Cutting::of(bytes.len() as u64);
        let (min, average, max) = (cutting.min as usize, cutting.average as usize, cutting.max as usize);
        let whole: Vec<(usize, usize)> =
            FastCDC::with_level(&bytes, min, average, max, LEVEL).map(|chunk| (chunk.offset, chunk.length)).collect();
        let (mut cuts, mut blocks) = (Vec::new(), Vec::new());
        cut(&mut bytes.as_slice(), cutting, &mut |what, start, cut| {
            assert!(cut == &bytes[start as usize..start as usize + cut.len()]);
            if what == Cut::Chunk { &mut cuts } else { &mut blocks }.push((start as usize, cut.len()));
        })
        .unwrap();
        let block = cutting.block as usize;
        let expected: Vec<(usize, usize)> = bytes.chunks(block).enumerate().map(|(number, bytes)| (number * block, bytes.len())).collect();
        assert_eq!(blocks, expected);
        assert_eq!(cuts, whole);
        assert!(whole.len() > 250 && whole.iter().rev().skip(1).all(|(_, length)| *length >= cutting.min as usize));
    }
}
