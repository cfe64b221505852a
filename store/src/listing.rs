//! What is in the store, as people look at it.

use barnraiser_protocol::id::BlobHash;

use crate::error::Fault;
use crate::metadata::{BlobEntry, Class, State};
use crate::store::{Durability, Store};

/// A blob that is here, or that was found damaged and is in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub hash: BlobHash,
    /// Its length in bytes.
    pub length: u64,
    /// How it is kept, for others as for this machine; of a damaged blob, how it was kept and has to be again.
    pub durability: Durability,
    /// Whether it is damaged: it counts as absent until it comes again.
    pub damaged: bool,
    /// When it was last used, in seconds since 1970, to the hour.
    pub last_used_s: u64,
}

impl BlobInfo {
    fn new(hash: BlobHash, entry: &BlobEntry) -> Self {
        Self {
            hash,
            length: entry.length,
            durability: if entry.class == Class::Cached { Durability::Cached } else { Durability::Announced },
            damaged: entry.state == State::Damaged,
            last_used_s: entry.last_used_s,
        }
    }
}

impl Store {
    /// What is known of a blob; none where it neither is here nor in quarantine.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn info(&self, hash: &BlobHash) -> Result<Option<BlobInfo>, Fault> {
        Ok(self.entry(hash)?.map(|entry| BlobInfo::new(*hash, &entry)))
    }

    /// All blobs whose hash begins with these bytes, damaged ones too, in the order of hashes. Read as the iterator goes on.
    pub fn infos(&self, beginning: &[u8]) -> impl Iterator<Item = Result<BlobInfo, Fault>> + use<'_> {
        self.entries_from(beginning).map(|item| item.map(|(hash, entry)| BlobInfo::new(hash, &entry)))
    }

    /// Bytes that may still be written to the disk that the store is on.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn free_bytes(&self) -> Result<u64, Fault> {
        self.disk().free_bytes(self.root()).map_err(|source| Fault::io("ask for the free space of", self.root(), 0, source))
    }

    /// Bytes that the database takes on disk: small blobs, hash trees, records, entries.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn database_bytes(&self) -> Result<u64, Fault> {
        let folder = self.root().join("db");
        let files = self.disk().list(&folder).map_err(|source| Fault::io("list", &folder, 0, source))?;
        Ok(files.iter().map(|(_, length)| length).sum())
    }
}
