//! What the database says about a blob.

use serde::{Deserialize, Serialize};

/// A blob that is here, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobEntry {
    /// Length in bytes.
    pub length: u64,
    /// Where its bytes are.
    pub place: Place,
    /// Where its hash tree is.
    pub tree: Place,
    /// How it is kept.
    pub class: Class,
    /// Whether it may be read.
    pub state: State,
    /// When it was last used, in seconds since 1970, to the hour.
    pub last_used_s: u64,
}

/// Where something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// Nowhere: a blob of one group needs no tree.
    None,
    /// In the database.
    Inline,
    /// In a file.
    File,
}

/// How a blob is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Class {
    /// Synced when it came, so that it could be announced; never evicted.
    Announced,
    /// Synced some time; may be evicted.
    Cached,
    /// As announced, for others: not evicted, but removed or lowered by whoever keeps it for them.
    Kept,
}

/// Whether a blob may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// It may.
    Good,
    /// Its bytes were seen not to be its own. It counts as absent until it comes again.
    Damaged,
}

/// A blob that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartialHeader {
    /// The length that a peer said, perhaps not proven yet.
    pub length: u64,
    /// When the fetch began, in seconds since 1970.
    pub began_s: u64,
}
