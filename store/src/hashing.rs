//! BLAKE3 by groups: a blob's hash and hash tree in one pass, in constant memory, without knowing its length before.
//!
//! The tree is written in post order (both children, then the pair of their hashes), the one order in which nothing
//! that was written changes when the blob goes on. Merging is lazy, as in BLAKE3 itself: two subtrees are merged only
//! when something follows, since the last merge is the root and is hashed with another flag.

use std::io::{self, Write};

use blake3::Hash;
use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::geometry::{GROUP_BYTES, UNIT_BYTES};

/// The hash of a group of a blob that begins at byte `offset`; `is_root` where the blob is no longer than that.
pub(crate) fn group_hash(offset: u64, bytes: &[u8], is_root: bool) -> Hash {
    if is_root {
        return blake3::hash(bytes);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(bytes);
    Hash::from(hasher.finalize_non_root())
}

/// The hash of the subtree above two others.
pub(crate) fn pair_hash(left: &Hash, right: &Hash, is_root: bool) -> Hash {
    if is_root {
        merge_subtrees_root(left.as_bytes(), right.as_bytes(), Mode::Hash)
    } else {
        Hash::from(merge_subtrees_non_root(left.as_bytes(), right.as_bytes(), Mode::Hash))
    }
}

/// Builds the hash tree of a blob of more than one group, or of one unit of such a blob.
pub(crate) struct TreeBuilder<W> {
    /// Where it begins in the blob.
    offset: u64,
    groups: u64,
    stack: Vec<Hash>,
    out: W,
}

impl<W: Write> TreeBuilder<W> {
    /// Writes the tree's pairs to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self { offset: 0, groups: 0, stack: Vec::with_capacity(32), out }
    }

    /// As [`TreeBuilder::new`], of one unit of a blob of several; ended by [`TreeBuilder::finish_subtree`].
    pub(crate) fn of_unit(unit: u64, out: W) -> Self {
        Self { offset: unit * UNIT_BYTES, ..Self::new(out) }
    }

    /// The hash of the subtree, and the writer.
    pub(crate) fn finish_subtree(mut self) -> io::Result<(Hash, W)> {
        let top = self.close(false)?;
        Ok((top, self.out))
    }

    /// Takes the blob's next bytes: whole groups, but for the last call.
    pub(crate) fn update(&mut self, bytes: &[u8]) -> io::Result<()> {
        let group = GROUP_BYTES as usize;
        let mut hashes = vec![Hash::from([0; 32]); bytes.len().div_ceil(group)];
        hash_groups(self.offset + self.groups * GROUP_BYTES, bytes, &mut hashes);
        for hash in hashes {
            // As many subtrees stay open as the count of groups has bits.
            while self.stack.len() > self.groups.count_ones() as usize {
                self.merge(false)?;
            }
            self.stack.push(hash);
            self.groups += 1;
        }
        Ok(())
    }

    /// The writer.
    pub(crate) fn writer(&mut self) -> &mut W {
        &mut self.out
    }

    /// The root hash, and the writer; the writer in any case.
    pub(crate) fn finish(mut self) -> Result<(Hash, W), (io::Error, W)> {
        match self.close(true) {
            Ok(root) => Ok((root, self.out)),
            Err(error) => Err((error, self.out)),
        }
    }

    fn close(&mut self, is_whole: bool) -> io::Result<Hash> {
        while self.stack.len() > 1 {
            self.merge(is_whole && self.stack.len() == 2)?;
        }
        let root = self.stack.pop().ok_or_else(|| io::Error::other("a hash tree needs at least one group"))?;
        self.out.flush()?;
        Ok(root)
    }

    fn merge(&mut self, is_root: bool) -> io::Result<()> {
        let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) else {
            return Err(io::Error::other("a hash tree was merged beyond its root"));
        };
        self.out.write_all(left.as_bytes())?;
        self.out.write_all(right.as_bytes())?;
        self.stack.push(pair_hash(&left, &right, is_root));
        Ok(())
    }
}

/// Hashes groups on all cores: halves are handed over until one is too short for that to pay.
fn hash_groups(offset: u64, bytes: &[u8], hashes: &mut [Hash]) {
    const ALONE: usize = 8;
    let group = GROUP_BYTES as usize;
    if hashes.len() <= ALONE {
        for (index, (bytes, hash)) in bytes.chunks(group).zip(hashes).enumerate() {
            *hash = group_hash(offset + index as u64 * GROUP_BYTES, bytes, false);
        }
        return;
    }
    let middle = hashes.len() / 2;
    let (left, right) = hashes.split_at_mut(middle);
    let (left_bytes, right_bytes) = bytes.split_at(middle * group);
    rayon_core::join(|| hash_groups(offset, left_bytes, left), || hash_groups(offset + middle as u64 * GROUP_BYTES, right_bytes, right));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bao_tree::io::outboard::PostOrderMemOutboard;

    use super::*;
    use crate::geometry::BLOCK_SIZE;

    /// The streamed tree is the one that bao-tree makes with the length known, and its root is plain BLAKE3.
    #[test]
    fn streamed_tree_equals_the_reference() {
        let group = GROUP_BYTES as usize;
        let bytes: Vec<u8> = (0..40 * group).map(|i| (i * 7 + i / 251) as u8).collect();
        for length in [group + 1, 2 * group, 2 * group + 1, 3 * group, 5 * group - 1, 16 * group, 17 * group + 5, 40 * group] {
            let reference = PostOrderMemOutboard::create(&bytes[..length], BLOCK_SIZE);
            for step in [1, 3, 64] {
                let mut builder = TreeBuilder::new(Vec::new());
                for part in bytes[..length].chunks(step * group) {
                    builder.update(part).unwrap();
                }
                let (root, tree) = builder.finish().map_err(|(error, _)| error).unwrap();
                assert_eq!(root, blake3::hash(&bytes[..length]));
                assert_eq!(tree, reference.data, "{length} bytes in steps of {step} groups");
            }
        }
    }
}
