//! Trees: folders taken in as a manifest and blobs, and laid out again.

mod lay_out;
mod pattern;
mod take_in;

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::tree::{MANIFEST_BYTES_MAX, Tree};

pub use lay_out::LayOut;
pub use pattern::Pattern;

use crate::error::LayOutError;
use crate::store::Store;

impl Store {
    /// The tree whose manifest has this hash.
    ///
    /// # Errors
    /// [`LayOutError::NotATree`] where the blob is no manifest, [`LayOutError::Read`] where it can't be read.
    pub fn tree(&self, hash: &BlobHash) -> Result<Tree, LayOutError> {
        let bytes = self.read_all(hash, MANIFEST_BYTES_MAX as u64)?;
        Tree::from_bytes(&bytes).map_err(|source| LayOutError::NotATree { hash: *hash, source })
    }
}
