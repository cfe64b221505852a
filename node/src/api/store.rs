//! What `barn store` asks and is told, whether a node does it or the command itself does.

use std::path::PathBuf;

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::Problem;

/// `POST /api/v1/store`; streams [`StoreEvent`], one JSON document a line. Paths are absolute; files are read and written
/// by the daemon, as its own user. A hash may be any unique beginning of one.
///
/// Beside it, `POST /api/v1/store/add` takes the bytes of one blob as its body and answers [`StoreDone::Added`], and
/// `GET /api/v1/store/blobs/{hash}` answers the bytes of one; it breaks off where they are found to be damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum StoreAsk {
    /// Take in a file or a folder, to be kept.
    Add {
        /// What to take in.
        path: PathBuf,
    },
    /// Write a blob to a file, or lay a tree out in a folder.
    Get {
        /// The blob, or the tree's manifest.
        hash: String,
        /// The file or folder.
        to: PathBuf,
        /// Whether it is a tree that is to be laid out.
        tree: bool,
    },
    /// Tell of every blob.
    Ls {
        /// Only of those whose hash begins so.
        beginning: String,
    },
    /// Keep a blob, or a tree with all that is in it, from being evicted.
    Pin {
        /// The blob, or the tree's manifest.
        hash: String,
        /// Whether it is a tree.
        tree: bool,
    },
    /// Remove a pin that [`StoreAsk::Pin`] made.
    Unpin {
        /// What was pinned.
        hash: String,
        /// Whether it is a tree, all blobs of which are to be released.
        tree: bool,
        /// Whether the promise to keep it is given up, too, so that it may be evicted.
        release: bool,
    },
    /// Collect garbage.
    Gc {
        /// How many bytes the blobs may take; without it nothing is evicted that could still be of use.
        quota: Option<u64>,
    },
    /// Read and prove everything, and fetch again what is damaged.
    Scrub,
    /// Count.
    Stats,
}

/// One line of the answer to [`StoreAsk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum StoreEvent {
    /// How far it is.
    Progress {
        /// Bytes that were read.
        done: u64,
        /// How many there are, where that is known.
        length: Option<u64>,
    },
    /// A blob of the list.
    Blob(StoredBlob),
    /// A blob that is damaged.
    Damaged(StoredBlob),
    /// A damaged blob that was fetched again.
    Mended {
        /// The blob.
        hash: BlobHash,
    },
    /// A damaged blob that could not be fetched again.
    NotMended {
        /// The blob.
        hash: BlobHash,
        /// Why not.
        reason: String,
    },
    /// It is done.
    Done(StoreDone),
    /// It is not.
    Failed(Problem),
}

/// A blob in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBlob {
    /// Its name.
    pub hash: BlobHash,
    /// Its length in bytes.
    pub length: u64,
    /// `announced` (synced when it came, never evicted) or `cached`.
    pub class: String,
    /// Whether it is damaged and waits in quarantine.
    pub damaged: bool,
    /// The names of the pins that keep it, by itself or in a tree.
    pub pins: Vec<String>,
    /// When it was last used, to the hour.
    pub last_used: Timestamp,
}

/// What came of [`StoreAsk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "did", rename_all = "kebab-case")]
pub enum StoreDone {
    /// It is in the store, survives a power loss and is never evicted.
    Added {
        /// The blob, or the tree's manifest.
        hash: BlobHash,
        /// Its length in bytes; of a tree, that of all its files.
        length: u64,
        /// Of a tree, how many entries it has.
        entries: Option<usize>,
    },
    /// It is there.
    Written {
        /// The blob, or the tree's manifest.
        hash: BlobHash,
        /// The file or folder.
        to: PathBuf,
        /// Its length in bytes; of a tree, that of all its files.
        length: u64,
        /// Of a tree, how many files and links were made.
        entries: Option<u64>,
    },
    /// That was all.
    Listed {
        /// How many blobs.
        blobs: u64,
        /// Sum of their lengths in bytes.
        bytes: u64,
    },
    /// It stays.
    Pinned {
        /// The blob, or the tree's manifest.
        hash: BlobHash,
        /// Whether all that is in it stays, too.
        tree: bool,
    },
    /// It may go.
    Unpinned {
        /// The blob, or the tree's manifest.
        hash: BlobHash,
        /// How many blobs may be evicted now that could not be before.
        released: u64,
        /// Pins of others that go on keeping it.
        pins: Vec<String>,
    },
    /// Garbage was collected.
    Collected {
        /// Blobs that were evicted.
        blobs: u64,
        /// Sum of their lengths in bytes.
        bytes: u64,
        /// Files that nothing referred to.
        orphans: u64,
        /// Fetches that were forgotten.
        partials: u64,
        /// Sum of the lengths of all blobs that are left, in bytes.
        left: u64,
        /// Bytes of the disk that are free now.
        free: u64,
    },
    /// Everything was read.
    Scrubbed {
        /// Blobs that were read.
        blobs: u64,
        /// Sum of their lengths in bytes.
        bytes: u64,
        /// Blobs that are damaged and could not be fetched again.
        damaged: Vec<BlobHash>,
        /// How many were damaged and were fetched again.
        mended: u64,
        /// Files without an entry that were taken in again.
        recovered: u64,
    },
    /// The figures.
    Stats(StoreStats),
}

/// How many blobs of a kind, and how long they are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlobCount {
    /// How many.
    pub blobs: u64,
    /// Sum of their lengths in bytes.
    pub bytes: u64,
}

/// What is in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStats {
    /// Its folder.
    pub folder: PathBuf,
    /// Blobs that are never evicted.
    pub announced: BlobCount,
    /// Blobs that may be evicted, unless a pin keeps them.
    pub cached: BlobCount,
    /// Cached blobs that pins keep.
    pub pinned: BlobCount,
    /// Damaged blobs in quarantine.
    pub damaged: BlobCount,
    /// Fetches that were begun and not ended, and the lengths of their blobs.
    pub fetches: BlobCount,
    /// How many pins there are.
    pub pins: u64,
    /// Bytes that the database takes, in which small blobs are.
    pub database: u64,
    /// Bytes of the disk that are free.
    pub free: u64,
    /// How many bytes blobs may take before what is only cached goes, where a node keeps to that.
    #[serde(default)]
    pub quota: Option<u64>,
}
