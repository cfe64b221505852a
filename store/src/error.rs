//! What can go wrong, split by who is to blame: this machine ([`Fault`]), the peer ([`PartialError::Proof`] and
//! [`PartialError::Length`]), or the caller (the rest).

use std::io;
use std::path::{Path, PathBuf};

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::tree;

/// This machine could not do it: disk, file system or database.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The disk, the quota or a file size limit is exhausted. Nothing half-written is left.
    #[error("no space left to {what} ({needed} bytes were needed): free some, or give the store another disk")]
    NoSpace {
        /// What was being done.
        what: String,
        /// Bytes that the step needed; a hint, since others use the disk too.
        needed: u64,
    },
    /// Another failure of the file system.
    #[error("could not {what} {path:?}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The database failed.
    #[error("the store's database failed to {what}: {message}")]
    Database {
        /// What was being done.
        what: &'static str,
        /// RocksDB's words.
        message: String,
    },
    /// The database's files are not what it wrote.
    #[error(
        "the store's database failed to {what}: {message}. It is damaged: move the store's folder `db` away and start again, then `barn store scrub` takes the blobs' files in again, and all else is fetched anew"
    )]
    Damaged {
        /// What was being done.
        what: &'static str,
        /// RocksDB's words.
        message: String,
    },
    /// An entry of the database is not what this program wrote.
    #[error(
        "the store's database holds a damaged entry in {family:?}: {message}. Move the store's folder `db` away and start again: blobs are fetched anew"
    )]
    Entry {
        /// The column family.
        family: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

impl Fault {
    pub(crate) fn io(what: &'static str, path: &Path, needed: u64, source: io::Error) -> Self {
        if is_no_space(&source) {
            return Self::NoSpace { what: format!("{what} {}", path.display()), needed };
        }
        Self::Io { what, path: path.to_owned(), source }
    }

    pub(crate) fn database(what: &'static str, error: &rocksdb::Error) -> Self {
        let message = error.to_string();
        // RocksDB passes the operating system's word on in its text only.
        if message.contains("No space left on device") || message.contains("Disk quota exceeded") || message.contains("File too large") {
            return Self::NoSpace { what: format!("{what} in the database"), needed: 0 };
        }
        if error.kind() == rocksdb::ErrorKind::Corruption || message.contains("No such file or directory") {
            return Self::Damaged { what, message };
        }
        Self::Database { what, message }
    }

    /// Whether room on the disk is all that is missing.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}

/// Whether `error` says that there is no room: full disk, exhausted quota, or a limit on the size of files.
fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store {root:?} is in use by another process{}: stop that node first, or choose another home", holder(.pid))]
    Locked {
        /// The store's root.
        root: PathBuf,
        /// The process that has it, where it could be read.
        pid: Option<u32>,
    },
    /// Written by a newer program.
    #[error("the store {root:?} has layout version {found}, this program knows up to {known}: use a newer `barn`, or another home")]
    Newer {
        /// The store's root.
        root: PathBuf,
        /// The version in it.
        found: u32,
        /// The newest that is understood.
        known: u32,
    },
    /// Something else is there.
    #[error("{root:?} is not a store: {reason}. Choose an empty folder")]
    NotAStore {
        /// The folder.
        root: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The database can't be read.
    #[error(
        "the database of the store {root:?} is damaged: {message}. Move its folder `db` away and start again: the blobs' files are taken in again by `barn store scrub`, all else is fetched anew"
    )]
    DamagedDatabase {
        /// The store's root.
        root: PathBuf,
        /// RocksDB's words.
        message: String,
    },
    /// This machine.
    #[error(transparent)]
    Fault(#[from] Fault),
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" ({pid})"))
}

/// Why something was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// What should be imported could not be read.
    #[error("could not read what should be imported{}: {source}", at(.path))]
    Source {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// What the reader said.
        source: io::Error,
    },
    /// Longer than [`crate::BLOB_BYTES_MAX`].
    #[error("a blob has at most {} bytes, this one has more", crate::BLOB_BYTES_MAX)]
    TooLong,
    /// A part of a tree was evicted before the whole was taken in.
    #[error("blob {0} was evicted while the tree it is in was taken in: the store's quota is too small for that tree")]
    Evicted(BlobHash),
    /// Something in a folder can't be in a tree.
    #[error("{path:?} can't be in a tree: {reason}")]
    NotForTrees {
        /// Where it is, below the folder that was to be imported.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A path or link breaks a rule of trees.
    #[error(transparent)]
    Tree(#[from] tree::TreeError),
    /// This machine.
    #[error(transparent)]
    Fault(#[from] Fault),
}

fn at(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(String::new, |path| format!(" ({})", path.display()))
}

/// Why a blob, or a part of it, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It isn't here, or not all of what was asked for.
    #[error("blob {0} is not in the store")]
    NotFound(BlobHash),
    /// Its bytes on disk are no longer those that its name says; it is in quarantine now.
    #[error("blob {hash} is damaged on disk near byte {offset}: it is not served any more; fetch it again")]
    Damaged {
        /// The blob.
        hash: BlobHash,
        /// Where the first damage was seen.
        offset: u64,
    },
    /// Longer than the caller allows.
    #[error("blob {hash} has {length} bytes, more than the {limit} that are allowed here")]
    TooLong {
        /// The blob.
        hash: BlobHash,
        /// Its length.
        length: u64,
        /// What was allowed.
        limit: u64,
    },
    /// A range that is empty or begins behind the end.
    #[error("blob {hash} has {length} bytes: {start}..{end} is no range of it")]
    Range {
        /// The blob.
        hash: BlobHash,
        /// Its length.
        length: u64,
        /// Begin of the range.
        start: u64,
        /// End of the range.
        end: u64,
    },
    /// The receiver of the bytes failed.
    #[error("could not write what was read: {0}")]
    Output(#[source] io::Error),
    /// This machine.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a part was not added to a partial blob.
#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    /// The peer's bytes are not those of the blob; it lied or the line did. Nothing of them was kept.
    #[error("bytes {start}..{end} of blob {hash}, as the peer sent them, are not proven: {reason}")]
    Proof {
        /// The blob.
        hash: BlobHash,
        /// Begin of the unit.
        start: u64,
        /// End of the unit.
        end: u64,
        /// What is wrong.
        reason: String,
    },
    /// A peer said a length that is proven to be wrong, or that no blob may have.
    #[error("blob {hash} can't have {claimed} bytes: {}", proven_length(.proven))]
    Length {
        /// The blob.
        hash: BlobHash,
        /// What was claimed.
        claimed: u64,
        /// The length that is proven, if one is.
        proven: Option<u64>,
    },
    /// The caller named a range that is not a unit.
    #[error("{start}..{end} is not a unit of a blob of {length} bytes")]
    NotAUnit {
        /// Begin of the range.
        start: u64,
        /// End of the range.
        end: u64,
        /// The blob's length.
        length: u64,
    },
    /// Not all units are there.
    #[error("blob {hash} is not complete: {missing} of {length} bytes are missing")]
    Incomplete {
        /// The blob.
        hash: BlobHash,
        /// Bytes missing.
        missing: u64,
        /// Bytes in all.
        length: u64,
    },
    /// It was completed or discarded by another holder of this handle.
    #[error("the fetch of blob {0} has ended already")]
    Ended(BlobHash),
    /// This machine.
    #[error(transparent)]
    Fault(#[from] Fault),
}

fn proven_length(proven: &Option<u64>) -> String {
    proven.map_or_else(|| format!("the most is {}", crate::BLOB_BYTES_MAX), |proven| format!("{proven} is proven"))
}

impl PartialError {
    /// Whether the peer that sent the bytes, or that said the length, is to blame.
    pub fn is_peers_fault(&self) -> bool {
        matches!(self, Self::Proof { .. } | Self::Length { .. })
    }
}

/// Why a tree could not be read or laid out.
#[derive(Debug, thiserror::Error)]
pub enum LayOutError {
    /// The manifest is none.
    #[error("blob {hash} is not a tree: {source}")]
    NotATree {
        /// The blob.
        hash: BlobHash,
        /// Why not.
        source: tree::TreeError,
    },
    /// The manifest says another length than the blob has.
    #[error("{path:?} has {length} bytes in the tree's manifest, but its blob {hash} has {actual}")]
    Length {
        /// The path in the tree.
        path: String,
        /// The blob.
        hash: BlobHash,
        /// What the manifest says.
        length: u64,
        /// What it has.
        actual: u64,
    },
    /// The place is taken by something else.
    #[error("{path:?} can't be laid out: {reason}")]
    Collision {
        /// The path below the destination.
        path: String,
        /// What is there.
        reason: String,
    },
    /// A blob could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// This machine.
    #[error(transparent)]
    Fault(#[from] Fault),
}
