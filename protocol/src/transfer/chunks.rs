//! The chunk list of a blob: what somebody who has an older version needs to know of the new one.
//!
//! A blob is cut twice ([`Cutting`]). Its **blocks** begin at multiples of 4 KiB, as those of a file system do, so that a
//! changed block costs no more than itself. Its **chunks** are cut where the content says so, so that an insertion moves the cuts
//! behind it along. The list gives the keys of the blocks, lengths and keys of the chunks, and the hash of each unit. Only
//! the unit hashes can be proven, by the blob's name; all else is a provider's word. That suffices: a unit that was put together
//! by it is right or not by its hash, so a list that lies costs time and nothing else. For that reason keys are short.
//!
//! The list travels as a blob of its own. Its bytes: [`MAGIC`], the blob's length (`u64`, little endian), the 32 bytes of
//! each unit hash, the key of each block, then for each chunk its length (7 bits a byte, the lowest first, no more bytes than
//! needed) and its key.

use std::ops::Range;

use super::GET_BYTES_MAX;

/// How a list begins. Another way to cut, or other keys, is another number.
pub const MAGIC: [u8; 8] = *b"barnchk1";
/// Only longer blobs have a list: what fits one unit is fetched sooner than compared.
pub const CHUNKED_BYTES_MIN: u64 = GET_BYTES_MAX;
/// Only blobs up to this length have a list, which bounds the list.
pub const CHUNKED_BYTES_MAX: u64 = 64 << 30;
/// The most bytes of a list: of the longest blob, cut as finely as can be.
pub const CHUNK_LIST_BYTES_MAX: usize = 16 << 20;
/// The length of a key. Of 2^17 blocks and chunks here and as many in a seed about one in 16,000 pairs of images has two that
/// differ and share a key; then one unit is fetched as if there were no seed.
pub const KEY_BYTES: usize = 6;

/// The shortest block: that of nearly all file systems.
const BLOCK_MIN: u64 = 4 << 10;
/// Blobs with more blocks than this (4 GiB) have longer ones: files in large images are large.
const BLOCKS_WANTED: u64 = 1 << 20;
/// The shortest average of chunks: finer ones make the list dearer than what they save (docs/decisions/0015).
const AVERAGE_MIN: u64 = 8 << 10;
/// Blobs with more chunks than about this (1 GiB) have longer ones.
const CHUNKS_WANTED: u64 = 1 << 17;
const UNIT_HASH_BYTES: usize = 32;
const HEAD_BYTES: usize = MAGIC.len() + 8;

/// The start of the BLAKE3 hash of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey(pub [u8; KEY_BYTES]);

impl ChunkKey {
    /// The key of a chunk.
    pub fn of(bytes: &[u8]) -> Self {
        let mut key = [0; KEY_BYTES];
        key.copy_from_slice(&blake3::hash(bytes).as_bytes()[..KEY_BYTES]);
        Self(key)
    }
}

/// A chunk of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins.
    pub start: u64,
    /// How many bytes it has.
    pub length: u32,
    /// Its key.
    pub key: ChunkKey,
}

impl Chunk {
    /// One behind its last byte.
    pub const fn end(&self) -> u64 {
        self.start + self.length as u64
    }
}

/// Why bytes are no chunk list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkListError {
    /// Longer than any may be.
    #[error("a chunk list has at most {CHUNK_LIST_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// Another format.
    #[error("it does not begin as a chunk list does")]
    Magic,
    /// A blob of that length has none.
    #[error("a blob of {0} bytes has no chunk list")]
    Length(u64),
    /// It ends in the middle of something.
    #[error("it ends too early")]
    Truncated,
    /// A chunk is shorter or longer than cutting makes any, or its length is not spelled the shortest way.
    #[error("the chunk at byte {0} of the blob can't have been cut so")]
    Chunk(u64),
    /// More chunks than the blob has bytes for.
    #[error("{0} bytes are behind the end of the blob's last chunk")]
    Trailing(usize),
}

/// How a blob is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutting {
    /// What all blocks have, but the last.
    pub block: u32,
    /// No chunk but the last is shorter.
    pub min: u32,
    /// About what chunks have.
    pub average: u32,
    /// No chunk is longer.
    pub max: u32,
}

impl Cutting {
    /// How a blob of `length` bytes is cut: finely, and coarser where that would make too many pieces.
    pub fn of(length: u64) -> Self {
        let length = length.min(CHUNKED_BYTES_MAX);
        let coarser = |least: u64, wanted: u64| length.div_ceil(wanted).next_power_of_two().max(least);
        // At most 64 KiB and 512 KiB, for 64 GiB.
        let (block, average) = (coarser(BLOCK_MIN, BLOCKS_WANTED) as u32, coarser(AVERAGE_MIN, CHUNKS_WANTED) as u32);
        Self { block, min: average / 4, average, max: average * 4 }
    }
}

/// A chunk list, its form checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkList {
    length: u64,
    units: Vec<[u8; UNIT_HASH_BYTES]>,
    blocks: Vec<ChunkKey>,
    chunks: Vec<Chunk>,
}

impl ChunkList {
    /// The list of a blob that was cut: the hash of each unit, the key of each block, length and key of each chunk.
    ///
    /// # Errors
    /// [`ChunkListError`] where they are not those of one blob.
    pub fn new(
        length: u64,
        units: Vec<[u8; UNIT_HASH_BYTES]>,
        blocks: Vec<ChunkKey>,
        chunks: impl IntoIterator<Item = (u32, ChunkKey)>,
    ) -> Result<Self, ChunkListError> {
        if !has_list(length) {
            return Err(ChunkListError::Length(length));
        }
        if units.len() != unit_count(length) || blocks.len() != block_count(length) {
            return Err(ChunkListError::Truncated);
        }
        let mut list = Self { length, units, blocks, chunks: Vec::new() };
        for (chunk_length, key) in chunks {
            list.push(chunk_length, key)?;
        }
        if list.end() != length {
            return Err(ChunkListError::Truncated);
        }
        Ok(list)
    }

    /// Reads a list.
    ///
    /// # Errors
    /// [`ChunkListError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ChunkListError> {
        if bytes.len() > CHUNK_LIST_BYTES_MAX {
            return Err(ChunkListError::TooLong(bytes.len()));
        }
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES).ok_or(ChunkListError::Truncated)?;
        let (magic, length) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(ChunkListError::Magic);
        }
        let length = u64::from_le_bytes(length.try_into().map_err(|_| ChunkListError::Truncated)?);
        if !has_list(length) {
            return Err(ChunkListError::Length(length));
        }
        let (units, rest) = rest.split_at_checked(unit_count(length) * UNIT_HASH_BYTES).ok_or(ChunkListError::Truncated)?;
        let units = units.as_chunks::<UNIT_HASH_BYTES>().0.to_vec();
        let (blocks, mut rest) = rest.split_at_checked(block_count(length) * KEY_BYTES).ok_or(ChunkListError::Truncated)?;
        let blocks = blocks.as_chunks::<KEY_BYTES>().0.iter().map(|key| ChunkKey(*key)).collect();
        let mut list = Self { length, units, blocks, chunks: Vec::new() };
        while list.end() < length {
            let chunk_length = read_length(&mut rest, list.end())?;
            let (key, behind) = rest.split_first_chunk::<KEY_BYTES>().ok_or(ChunkListError::Truncated)?;
            rest = behind;
            list.push(chunk_length, ChunkKey(*key))?;
        }
        if !rest.is_empty() {
            return Err(ChunkListError::Trailing(rest.len()));
        }
        Ok(list)
    }

    /// The bytes that [`ChunkList::from_bytes`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let keys = self.blocks.len() * KEY_BYTES + self.chunks.len() * (KEY_BYTES + 3);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.units.len() * UNIT_HASH_BYTES + keys);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend(self.units.iter().flatten());
        bytes.extend(self.blocks.iter().flat_map(|key| key.0));
        for chunk in &self.chunks {
            let mut rest = chunk.length;
            while rest >= 0x80 {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
            bytes.extend_from_slice(&chunk.key.0);
        }
        bytes
    }

    /// The blob's length in bytes. A claim.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The hash of each unit, as BLAKE3 has it inside the blob's hash tree. To be proven by the blob's name.
    pub fn units(&self) -> &[[u8; UNIT_HASH_BYTES]] {
        &self.units
    }

    /// The blocks that have bytes in `range`. Claims.
    pub fn blocks_in<'a>(&'a self, range: &Range<u64>) -> impl Iterator<Item = Chunk> + use<'a> {
        let block = u64::from(Cutting::of(self.length).block);
        let first = (range.start / block) as usize;
        let end = range.end.min(self.length).div_ceil(block) as usize;
        let keys = self.blocks.get(first..end).unwrap_or_default();
        keys.iter().zip(first as u64..).map(move |(key, number)| {
            let start = number * block;
            // At most 64 KiB.
            Chunk { start, length: (self.length - start).min(block) as u32, key: *key }
        })
    }

    /// All chunks, in order, without gaps. Claims.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The chunks that have bytes in `range`.
    pub fn chunks_in(&self, range: &Range<u64>) -> &[Chunk] {
        let first = self.chunks.partition_point(|chunk| chunk.end() <= range.start);
        let end = self.chunks.partition_point(|chunk| chunk.start < range.end);
        self.chunks.get(first..end).unwrap_or_default()
    }

    fn end(&self) -> u64 {
        self.chunks.last().map_or(0, Chunk::end)
    }

    fn push(&mut self, length: u32, key: ChunkKey) -> Result<(), ChunkListError> {
        let (start, cutting) = (self.end(), Cutting::of(self.length));
        let end = start + u64::from(length);
        let is_last = end == self.length;
        let good = length > 0 && length <= cutting.max && end <= self.length && (length >= cutting.min || is_last);
        if !good {
            return Err(ChunkListError::Chunk(start));
        }
        self.chunks.push(Chunk { start, length, key });
        Ok(())
    }
}

/// Whether a blob of that length has a chunk list.
pub const fn has_list(length: u64) -> bool {
    length > CHUNKED_BYTES_MIN && length <= CHUNKED_BYTES_MAX
}

fn unit_count(length: u64) -> usize {
    // At most 64 Ki, see `has_list`.
    length.div_ceil(GET_BYTES_MAX) as usize
}

fn block_count(length: u64) -> usize {
    // At most about a million, see `Cutting`.
    length.div_ceil(u64::from(Cutting::of(length).block)) as usize
}

fn read_length(bytes: &mut &[u8], at: u64) -> Result<u32, ChunkListError> {
    let mut length = 0u32;
    for shift in [0, 7, 14, 21] {
        let (&byte, rest) = bytes.split_first().ok_or(ChunkListError::Truncated)?;
        *bytes = rest;
        length |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            // A last byte of zero says nothing: the same length has a shorter spelling.
            return if byte == 0 && shift > 0 { Err(ChunkListError::Chunk(at)) } else { Ok(length) };
        }
    }
    Err(ChunkListError::Chunk(at))
}

const _: () = assert!(CHUNKED_BYTES_MAX / CHUNKS_WANTED * 4 < 1 << 28, "four bytes must hold the longest chunk");
const _: () = assert!(
    HEAD_BYTES as u64
        + CHUNKED_BYTES_MAX / GET_BYTES_MAX * 32
        + BLOCKS_WANTED * KEY_BYTES as u64
        // All as short as can be.
        + 4 * CHUNKS_WANTED * (KEY_BYTES as u64 + 4)
        < CHUNK_LIST_BYTES_MAX as u64,
    "the longest list must fit"
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A list with chunks of the lengths that `steps` choose.
    fn list(length: u64, steps: &[u32]) -> ChunkList {
        let cutting = Cutting::of(length);
        let (mut at, mut chunks) = (0, Vec::new());
        for step in steps.iter().cycle() {
            let left = length - at;
            if left == 0 {
                break;
            }
            let chunk = (cutting.min + step % (cutting.max - cutting.min + 1)).min(left.min(u64::from(u32::MAX)) as u32);
            chunks.push((chunk, ChunkKey([*step as u8; KEY_BYTES])));
            at += u64::from(chunk);
        }
        let blocks = (0..block_count(length)).map(|number| ChunkKey([number as u8; KEY_BYTES])).collect();
        ChunkList::new(length, vec![[7; 32]; unit_count(length)], blocks, chunks).unwrap()
    }

    proptest! {
        /// What was written is read again, and nothing else has those bytes.
        #[test]
        fn a_list_has_one_spelling(length in CHUNKED_BYTES_MIN + 1..CHUNKED_BYTES_MIN + 100_000, steps in proptest::collection::vec(any::<u32>(), 1..20)) {
            let list = list(length, &steps);
            let bytes = list.to_bytes();
            prop_assert_eq!(ChunkList::from_bytes(&bytes), Ok(list));
            prop_assert!(ChunkList::from_bytes(&bytes[..bytes.len() - 1]).is_err());
            let longer = [&*bytes, &[0]].concat();
            prop_assert_eq!(ChunkList::from_bytes(&longer), Err(ChunkListError::Trailing(1)));
        }

        /// Whatever a peer sends is refused, or spelled as it came, and covers the blob without a gap.
        #[test]
        fn changed_lists_are_refused_or_sound(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut bytes = list(CHUNKED_BYTES_MIN + 5000, &[3, 900, 70_000]).to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            if let Ok(list) = ChunkList::from_bytes(&bytes) {
                prop_assert_eq!(list.to_bytes(), bytes);
                let mut end = 0;
                for chunk in list.chunks() {
                    prop_assert_eq!(chunk.start, end);
                    end = chunk.end();
                }
                prop_assert_eq!(end, list.length());
            }
        }

        /// The chunks of a range are those that touch it.
        #[test]
        fn chunks_of_a_range_are_found(start in 0..CHUNKED_BYTES_MIN, length in 1..100_000u64) {
            let list = list(CHUNKED_BYTES_MIN + 5000, &[3, 900, 70_000]);
            let range = start..(start + length).min(list.length());
            let expected: Vec<Chunk> = list.chunks().iter().filter(|chunk| chunk.start < range.end && chunk.end() > range.start).copied().collect();
            prop_assert_eq!(list.chunks_in(&range), expected);
            let blocks: Vec<Chunk> = list.blocks_in(&(0..u64::MAX)).collect();
            prop_assert_eq!(blocks.last().map(Chunk::end), Some(list.length()));
            let expected: Vec<Chunk> = blocks.into_iter().filter(|block| block.start < range.end && block.end() > range.start).collect();
            prop_assert_eq!(list.blocks_in(&range).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn lengths_have_one_spelling_and_blobs_without_a_list_have_none() {
        let bytes = list(CHUNKED_BYTES_MIN + 5000, &[0]).to_bytes();
        let first = HEAD_BYTES + 2 * 32 + block_count(CHUNKED_BYTES_MIN + 5000) * KEY_BYTES;
        assert_eq!(bytes[first..first + 2], [0x80, 0x10], "2048 in two bytes");
        let mut longer = bytes.clone();
        longer.splice(first..first + 2, [0x80, 0x90, 0]);
        assert_eq!(ChunkList::from_bytes(&longer), Err(ChunkListError::Chunk(0)));
        for length in [0, CHUNKED_BYTES_MIN, CHUNKED_BYTES_MAX + 1, u64::MAX] {
            let mut other = bytes.clone();
            other[MAGIC.len()..HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
            assert_eq!(ChunkList::from_bytes(&other), Err(ChunkListError::Length(length)));
        }
        let cutting = Cutting::of(CHUNKED_BYTES_MAX);
        assert_eq!((cutting.block, cutting.average), (64 << 10, 512 << 10));
        let cutting = Cutting::of(256 << 20);
        assert_eq!((cutting.block, cutting.average), (4 << 10, 8 << 10));
        assert_eq!(ChunkList::from_bytes(&vec![0; CHUNK_LIST_BYTES_MAX + 1]), Err(ChunkListError::TooLong(CHUNK_LIST_BYTES_MAX + 1)));
    }
}
