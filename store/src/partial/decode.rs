//! A unit as a peer sent it, checked before anything of it is written.

use std::ops::Range;

use bao_tree::iter::BaoChunk;
use barnraiser_protocol::id::BlobHash;
use blake3::Hash;

use crate::error::PartialError;
use crate::geometry::{PAIR_BYTES, chunk_ranges, encoded_length, shape};
use crate::hashing::{group_hash, pair_hash};
use crate::verify::{pair_offset, split};

/// A unit that the blob's name vouches for.
pub(super) struct Proven<'a> {
    /// Its bytes: parts that follow each other.
    pub bytes: Vec<&'a [u8]>,
    /// The pairs of hashes above it: runs of them, by their place in the hash tree.
    pub pairs: Vec<(u64, Vec<u8>)>,
}

/// Checks `encoded` against the blob's name. Its bytes are hashed, and stay, where they came.
pub(super) fn unit<'a>(hash: &BlobHash, length: u64, range: &Range<u64>, encoded: &'a [u8]) -> Result<Proven<'a>, PartialError> {
    let refuse = |reason: String| PartialError::Proof { hash: *hash, start: range.start, end: range.end, reason };
    let expected = encoded_length(range, length);
    if encoded.len() as u64 != expected {
        return Err(refuse(format!("{} bytes came, {expected} were expected", encoded.len())));
    }
    let tree = shape(length);
    let ranges = chunk_ranges(range, length);
    let ranges = bao_tree::io::sync::truncate_ranges(&ranges, length);
    let too_short = || refuse("it ends too early".into());
    let (mut rest, mut awaited) = (encoded, vec![Hash::from(hash.0)]);
    let (mut bytes, mut pairs) = (Vec::new(), Vec::new());
    for chunk in tree.ranges_pre_order_chunks_iter_ref(ranges, 0) {
        match chunk {
            BaoChunk::Parent { node, is_root, left, right, .. } => {
                let (pair, after) = rest.split_first_chunk::<{ PAIR_BYTES as usize }>().ok_or_else(too_short)?;
                rest = after;
                let (left_hash, right_hash) = split(pair);
                if awaited.pop() != Some(pair_hash(&left_hash, &right_hash, is_root)) {
                    return Err(refuse("a hash of the proof is wrong, or the blob has another length".into()));
                }
                if right {
                    awaited.push(right_hash);
                }
                if left {
                    awaited.push(left_hash);
                }
                pairs.extend(pair_offset(tree, node).map(|offset| (offset, pair.to_vec())));
            }
            BaoChunk::Leaf { start_chunk, size, is_root, .. } => {
                let (group, after) = rest.split_at_checked(size).ok_or_else(too_short)?;
                rest = after;
                let offset = start_chunk.to_bytes();
                if awaited.pop() != Some(group_hash(offset, group, is_root)) {
                    return Err(refuse(format!("the bytes from {offset} on are wrong, or the blob has another length")));
                }
                bytes.push(group);
            }
        }
    }
    let proven: usize = bytes.iter().map(|part| part.len()).sum();
    if proven as u64 != range.end - range.start || !rest.is_empty() {
        return Err(refuse(format!("{proven} bytes were proven, {} were wanted", range.end - range.start)));
    }
    Ok(Proven { bytes, pairs: join_runs(pairs) })
}

/// Joins neighbours, so that a unit's own pairs (all side by side in post order) are one write.
pub(super) fn join_runs(mut pairs: Vec<(u64, Vec<u8>)>) -> Vec<(u64, Vec<u8>)> {
    pairs.sort_unstable_by_key(|(offset, _)| *offset);
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    for (offset, pair) in pairs {
        match runs.last_mut() {
            Some((start, run)) if *start + run.len() as u64 == offset => run.extend_from_slice(&pair),
            _ => runs.push((offset, pair)),
        }
    }
    runs
}
