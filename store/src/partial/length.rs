//! The length of a blob, proven before anything is made for it.

use std::ops::Range;

use barnraiser_protocol::id::BlobHash;

use super::decode;
use crate::error::PartialError;
use crate::geometry::BLOB_BYTES_MAX;

/// Proves that a blob has `length` bytes by `encoded`, the bao encoding of `range` at its end:
/// [`crate::geometry::last_group`] is the least that does. Nothing else of the blob, no disk and no room is needed for that, so
/// that a lie about a length costs nothing but these few KiB.
///
/// # Errors
/// [`PartialError::Length`] where no blob may be so long, [`PartialError::Proof`] where these are not its last bytes: both are
/// the peer's fault. [`PartialError::NotAUnit`] where `range` does not end with the blob: the caller's.
pub fn prove_length(hash: &BlobHash, length: u64, range: Range<u64>, encoded: &[u8]) -> Result<(), PartialError> {
    if length > BLOB_BYTES_MAX {
        return Err(PartialError::Length { hash: *hash, claimed: length, proven: None });
    }
    if range.end != length || range.start > range.end || (range.is_empty() && length > 0) {
        return Err(PartialError::NotAUnit { start: range.start, end: range.end, length });
    }
    decode::unit(hash, length, &range, encoded).map(|_| ())
}
