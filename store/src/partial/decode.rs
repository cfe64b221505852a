//! A unit as a peer sent it, checked before anything of it is written.

use std::ops::Range;

use bao_tree::io::sync::DecodeResponseIter;
use bao_tree::io::{BaoContentItem, DecodeError};
use barnraiser_protocol::id::BlobHash;
use blake3::Hash;

use crate::error::PartialError;
use crate::geometry::{PAIR_BYTES, chunk_ranges, encoded_length, shape};
use crate::verify::pair_offset;

/// A unit that the blob's name vouches for.
pub(super) struct Proven {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The pairs of hashes above it: runs of them, by their place in the hash tree.
    pub pairs: Vec<(u64, Vec<u8>)>,
}

/// Checks `encoded` against the blob's name.
pub(super) fn unit(hash: &BlobHash, length: u64, range: &Range<u64>, encoded: &[u8]) -> Result<Proven, PartialError> {
    let refuse = |reason: String| PartialError::Proof { hash: *hash, start: range.start, end: range.end, reason };
    let expected = encoded_length(range, length);
    if encoded.len() as u64 != expected {
        return Err(refuse(format!("{} bytes came, {expected} were expected", encoded.len())));
    }
    let (tree, ranges) = (shape(length), chunk_ranges(range, length));
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
    let mut pairs = Vec::new();
    for item in DecodeResponseIter::new(Hash::from(hash.0), tree, encoded, &ranges) {
        match item.map_err(|error| refuse(reason(&error)))? {
            BaoContentItem::Parent(parent) => {
                if let Some(offset) = pair_offset(tree, parent.node) {
                    let mut pair = Vec::with_capacity(PAIR_BYTES as usize);
                    pair.extend_from_slice(parent.pair.0.as_bytes());
                    pair.extend_from_slice(parent.pair.1.as_bytes());
                    pairs.push((offset, pair));
                }
            }
            BaoContentItem::Leaf(leaf) => bytes.extend_from_slice(&leaf.data),
        }
    }
    if bytes.len() as u64 != range.end - range.start {
        return Err(refuse(format!("{} bytes were proven, {} were wanted", bytes.len(), range.end - range.start)));
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

fn reason(error: &DecodeError) -> String {
    match error {
        DecodeError::ParentNotFound(_) | DecodeError::LeafNotFound(_) => "it ends too early".into(),
        DecodeError::ParentHashMismatch(_) => "a hash of the proof is wrong, or the blob has another length".into(),
        DecodeError::LeafHashMismatch(chunk) => format!("the bytes from {} on are wrong, or the blob has another length", chunk.to_bytes()),
        DecodeError::Io(error) => error.to_string(),
    }
}
