//! The sizes that the store, the wire and the peers agree on, and how ranges of bytes fall on them.

use std::ops::Range;

use bao_tree::iter::BaoChunk;
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};

/// Bytes in a group, the smallest part of a blob that can be proven by itself. Hash trees then take 1/256 of the blob.
pub const GROUP_BYTES: u64 = 16 << 10;
/// Bytes in a unit, the part of a blob that is asked from one peer and accounted for in a partial blob. A proof for it
/// adds less than one per cent, and a lost or lying peer costs no more than this.
pub const UNIT_BYTES: u64 = 1 << 20;
/// The longest blob that is kept in the metadata instead of in a file; it is one group and needs no hash tree.
pub const INLINE_BYTES_MAX: u64 = GROUP_BYTES;
/// The longest blob. It bounds what a peer's lie about a length can cost: a map of 128 KiB and a sparse file.
pub const BLOB_BYTES_MAX: u64 = 1 << 40;

pub(crate) const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(4);
/// Bytes of a hash pair in a hash tree.
pub(crate) const PAIR_BYTES: u64 = 64;

/// The shape of the hash tree of a blob of `length` bytes.
pub fn shape(length: u64) -> BaoTree {
    BaoTree::new(length, BLOCK_SIZE)
}

/// `range` widened to whole groups, in the form that `bao_tree` wants for encoding and decoding.
///
/// Both ends of a transfer must use this, since the proof depends on it. A range that reaches the end of the blob also
/// proves the blob's length.
pub fn chunk_ranges(range: &Range<u64>, length: u64) -> ChunkRanges {
    let group = GROUP_BYTES / 1024;
    let start = ChunkNum(range.start / GROUP_BYTES * group);
    if range.end >= length {
        return ChunkRanges::from(start..);
    }
    ChunkRanges::from(start..ChunkNum(range.end.div_ceil(GROUP_BYTES) * group))
}

/// Number of units in a blob of `length` bytes; an empty blob has one, which is empty.
pub fn unit_count(length: u64) -> u64 {
    length.div_ceil(UNIT_BYTES).max(1)
}

/// The bytes of a unit.
pub fn unit_range(unit: u64, length: u64) -> Range<u64> {
    let start = unit.saturating_mul(UNIT_BYTES).min(length);
    start..start.saturating_add(UNIT_BYTES).min(length)
}

/// How many bytes the encoding of `range` has, proof included: what a receiver may expect, and no more.
pub fn encoded_length(range: &Range<u64>, length: u64) -> u64 {
    let ranges = chunk_ranges(range, length);
    shape(length)
        .ranges_pre_order_chunks_iter_ref(bao_tree::io::sync::truncate_ranges(&ranges, length), 0)
        .map(|item| match item {
            BaoChunk::Parent { .. } => PAIR_BYTES,
            BaoChunk::Leaf { size, .. } => size as u64,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_cover_a_blob_without_gap_or_overlap() {
        for length in [0, 1, UNIT_BYTES - 1, UNIT_BYTES, UNIT_BYTES + 1, 7 * UNIT_BYTES + 3] {
            let mut at = 0;
            for unit in 0..unit_count(length) {
                let range = unit_range(unit, length);
                assert_eq!(range.start, at);
                at = range.end;
            }
            assert_eq!(at, length);
            assert!(unit_range(unit_count(length), length).is_empty());
        }
    }
}
