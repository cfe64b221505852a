//! Reading with proof: a walk down the hash tree that hands out nothing which the root does not vouch for.

use std::io;

use bao_tree::iter::BaoChunk;
use bao_tree::{BaoTree, ChunkRanges, TreeNode};
use blake3::Hash;

use crate::disk::DiskFile;
use crate::geometry::{GROUP_BYTES, PAIR_BYTES};
use crate::hashing::{group_hash, pair_hash};

/// Where a blob's bytes are.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// In memory, read from the database.
    Memory(Vec<u8>),
    /// In a file.
    File(Box<dyn DiskFile>),
}

/// Something to read from at any place.
pub(crate) trait Source {
    /// Reads exactly `buffer.len()` bytes from `offset`; [`io::ErrorKind::UnexpectedEof`] where there are fewer.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Source for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let part = usize::try_from(offset).ok().and_then(|start| self.get(start..)?.get(..buffer.len()));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Source for Box<dyn DiskFile> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

impl Source for Bytes {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Memory(bytes) => bytes.as_slice().read_exact_at(buffer, offset),
        }
    }
}

/// Where a walk brings what it reads.
pub(crate) trait Sink {
    /// Takes the hashes of a node's two children, proven.
    fn pair(&mut self, pair: &[u8; PAIR_BYTES as usize]) -> io::Result<()>;
    /// Where the bytes of the next group go, of which there are `size`. They are not proven yet. None where there is no room.
    fn room(&mut self, size: usize) -> Option<&mut [u8]>;
    /// The group that was put into the room is proven.
    fn group(&mut self) -> io::Result<()>;
}

/// Hands the bytes of each group to a function, and lets the proof go.
pub(crate) struct Groups<F> {
    buffer: Vec<u8>,
    take: F,
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Groups<F> {
    pub(crate) fn new(take: F) -> Self {
        Self { buffer: Vec::with_capacity(GROUP_BYTES as usize), take }
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Sink for Groups<F> {
    fn pair(&mut self, _: &[u8; PAIR_BYTES as usize]) -> io::Result<()> {
        Ok(())
    }
    fn room(&mut self, size: usize) -> Option<&mut [u8]> {
        self.buffer.resize(size, 0);
        Some(&mut self.buffer)
    }
    fn group(&mut self) -> io::Result<()> {
        (self.take)(&self.buffer)
    }
}

/// Puts the encoding together: groups are read where they stay.
pub(crate) struct Encoding<'a> {
    bytes: &'a mut [u8],
    at: usize,
    size: usize,
}

impl<'a> Encoding<'a> {
    /// An encoding that will fill `bytes`.
    pub(crate) const fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0, size: 0 }
    }
}

impl Sink for Encoding<'_> {
    fn pair(&mut self, pair: &[u8; PAIR_BYTES as usize]) -> io::Result<()> {
        let end = self.at + pair.len();
        self.bytes.get_mut(self.at..end).ok_or(io::ErrorKind::WriteZero)?.copy_from_slice(pair);
        self.at = end;
        Ok(())
    }
    fn room(&mut self, size: usize) -> Option<&mut [u8]> {
        self.size = size;
        self.bytes.get_mut(self.at..self.at + size)
    }
    fn group(&mut self) -> io::Result<()> {
        self.at += self.size;
        Ok(())
    }
}

/// Why a walk stopped.
#[derive(Debug)]
pub(crate) enum WalkError {
    /// The bytes near this offset, or the hashes above them, are not the blob's, or are not there.
    Damaged(u64),
    /// The disk failed.
    Io(io::Error),
    /// The receiver failed.
    Sink(io::Error),
}

/// Walks the part of the tree above `ranges` in pre-order, which is the order of a bao encoding.
pub(crate) fn walk(
    root: Hash,
    tree: BaoTree,
    pairs: &(impl Source + ?Sized),
    data: &(impl Source + ?Sized),
    ranges: &ChunkRanges,
    sink: &mut dyn Sink,
) -> Result<(), WalkError> {
    let mut expected = vec![root];
    let ranges = bao_tree::io::sync::truncate_ranges(ranges, tree.size());
    for chunk in tree.ranges_pre_order_chunks_iter_ref(ranges, 0) {
        match chunk {
            BaoChunk::Parent { node, is_root, left, right, .. } => {
                let offset = node_offset(node);
                let pair = load_pair(tree, pairs, node).map_err(|error| read_failure(error, offset))?;
                let (left_hash, right_hash) = split(&pair);
                if expected.pop() != Some(pair_hash(&left_hash, &right_hash, is_root)) {
                    return Err(WalkError::Damaged(offset));
                }
                if right {
                    expected.push(right_hash);
                }
                if left {
                    expected.push(left_hash);
                }
                sink.pair(&pair).map_err(WalkError::Sink)?;
            }
            BaoChunk::Leaf { start_chunk, size, is_root, .. } => {
                let offset = start_chunk.to_bytes();
                let room = sink.room(size).ok_or(io::ErrorKind::WriteZero);
                let bytes = room.map_err(|error| WalkError::Sink(error.into()))?;
                data.read_exact_at(bytes, offset).map_err(|error| read_failure(error, offset))?;
                if expected.pop() != Some(group_hash(offset, bytes, is_root)) {
                    return Err(WalkError::Damaged(offset));
                }
                sink.group().map_err(WalkError::Sink)?;
            }
        }
    }
    Ok(())
}

/// Where a node's pair is in a hash tree's bytes; none for nodes that have no place there.
pub(crate) fn pair_offset(tree: BaoTree, node: TreeNode) -> Option<u64> {
    tree.post_order_offset(node).map(|offset| offset.value() * PAIR_BYTES)
}

fn load_pair(tree: BaoTree, pairs: &(impl Source + ?Sized), node: TreeNode) -> io::Result<[u8; PAIR_BYTES as usize]> {
    let mut pair = [0; PAIR_BYTES as usize];
    let offset = pair_offset(tree, node).ok_or(io::ErrorKind::UnexpectedEof)?;
    pairs.read_exact_at(&mut pair, offset)?;
    Ok(pair)
}

/// The hashes of the two children.
pub(crate) fn split(pair: &[u8; PAIR_BYTES as usize]) -> (Hash, Hash) {
    let (mut left, mut right) = ([0; 32], [0; 32]);
    left.copy_from_slice(&pair[..32]);
    right.copy_from_slice(&pair[32..]);
    (Hash::from(left), Hash::from(right))
}

/// The first byte below a node, to say where damage is.
fn node_offset(node: TreeNode) -> u64 {
    let first = node.mid().0.saturating_sub(1 << node.level());
    first.saturating_mul(1024)
}

fn read_failure(error: io::Error, offset: u64) -> WalkError {
    // A sector that can't be read any more is damage too: fetching those bytes again writes them to another.
    let bad_sector = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    if error.kind() == io::ErrorKind::UnexpectedEof || bad_sector { WalkError::Damaged(offset) } else { WalkError::Io(error) }
}
