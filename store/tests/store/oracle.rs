//! The reference: a bao encoding in the plainest form, from the definition of BLAKE3's tree, with all bytes in memory.
//! A group is a leaf; of two children the left one is the largest power of two of groups that leaves something over.

use std::ops::Range;

use blake3::Hash;
use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

pub const GROUP: usize = 16 << 10;

/// The encoding of the groups that `range` touches (all of an empty blob).
pub fn encode(blob: &[u8], range: &Range<u64>) -> Vec<u8> {
    let mut out = Vec::new();
    encode_below(blob, 0, blob.len(), range, &mut out);
    out
}

fn encode_below(blob: &[u8], start: usize, end: usize, range: &Range<u64>, out: &mut Vec<u8>) {
    let touched = range.start < end as u64 && (start as u64) < range.end;
    if !touched && !blob.is_empty() {
        return;
    }
    if end - start <= GROUP {
        out.extend_from_slice(&blob[start..end]);
        return;
    }
    let middle = start + left_length(end - start);
    out.extend_from_slice(hash_below(blob, start, middle).as_bytes());
    out.extend_from_slice(hash_below(blob, middle, end).as_bytes());
    encode_below(blob, start, middle, range, out);
    encode_below(blob, middle, end, range, out);
}

/// The hash of a subtree that is not the root.
fn hash_below(blob: &[u8], start: usize, end: usize) -> Hash {
    if end - start <= GROUP {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(start as u64);
        return Hash::from(hasher.update(&blob[start..end]).finalize_non_root());
    }
    let middle = start + left_length(end - start);
    let (left, right) = (hash_below(blob, start, middle), hash_below(blob, middle, end));
    Hash::from(merge_subtrees_non_root(left.as_bytes(), right.as_bytes(), Mode::Hash))
}

/// The root by the same definition.
pub fn root(blob: &[u8]) -> Hash {
    if blob.len() <= GROUP {
        return blake3::hash(blob);
    }
    let middle = left_length(blob.len());
    let (left, right) = (hash_below(blob, 0, middle), hash_below(blob, middle, blob.len()));
    merge_subtrees_root(left.as_bytes(), right.as_bytes(), Mode::Hash)
}

fn left_length(length: usize) -> usize {
    let mut left = GROUP;
    while left * 2 < length {
        left *= 2;
    }
    left
}
