//! What is kept of sources: the bytes as blobs, and beside them what was learnt, so that nothing is fetched twice.

use std::path::Path;

use barnraiser_protocol::id::{BlobHash, Sha256};
use barnraiser_protocol::tree::Tree;
use barnraiser_store::{Durability, Fault, ImportError, ReadError, Store};

use super::error::SourceError;

/// Prefix of all that this module keeps in the store's meta.
const PREFIX: &str = "source/";

/// Why the store did not take or give what it should.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// Taking it in failed.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Giving it out failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// This machine.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// The store, as far as sources need it.
///
/// Sources are imported as announced: until somebody has fetched them, the submitter has the only copy of what its batch
/// was pinned to.
pub(super) struct Keep {
    store: Store,
}

impl Keep {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Takes a file in.
    pub(super) fn file(&self, name: &str, path: &Path) -> Result<BlobHash, SourceError> {
        self.store.import_file(path, Durability::Announced).map(|(hash, _)| hash).map_err(|error| kept(name, error))
    }

    /// Takes in a folder; gives the hash of its manifest.
    pub(super) fn folder(&self, name: &str, path: &Path) -> Result<BlobHash, SourceError> {
        self.store.import_tree(path, Durability::Announced).map(|(hash, _)| hash).map_err(|error| kept(name, error))
    }

    /// Whether the blob is here.
    pub(super) fn has(&self, name: &str, hash: &BlobHash) -> Result<bool, SourceError> {
        self.store.contains(hash).map_err(|error| kept(name, error))
    }

    /// Whether the tree is here with all its files.
    pub(super) fn has_tree(&self, name: &str, hash: &BlobHash) -> Result<bool, SourceError> {
        if !self.has(name, hash)? {
            return Ok(false);
        }
        let bytes = self.store.read_all(hash, barnraiser_protocol::tree::MANIFEST_BYTES_MAX as u64).map_err(|error| kept(name, error))?;
        let Ok(tree) = Tree::from_bytes(&bytes) else { return Ok(false) };
        for (blob, _) in tree.blobs() {
            if !self.has(name, &blob)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes a blob to a file.
    pub(super) fn export(&self, name: &str, hash: &BlobHash, to: &Path) -> Result<(), SourceError> {
        self.store.export(hash, to).map(|_| ()).map_err(|error| kept(name, error))
    }

    /// The blob that had this SHA-256 when it was taken in.
    pub(super) fn by_sha256(&self, name: &str, sha256: &Sha256) -> Result<Option<BlobHash>, SourceError> {
        let key = format!("{PREFIX}sha256/{sha256}");
        Ok(self.get(name, &key)?.and_then(|value| <[u8; 32]>::try_from(value).ok()).map(BlobHash))
    }

    /// Notes the SHA-256 of a blob.
    pub(super) fn note_sha256(&self, name: &str, sha256: &Sha256, blob: &BlobHash) -> Result<(), SourceError> {
        self.put(name, &format!("{PREFIX}sha256/{sha256}"), blob.as_bytes())
    }

    /// The blob that an address gave when it was last fetched.
    pub(super) fn by_address(&self, name: &str, url: &str) -> Result<Option<BlobHash>, SourceError> {
        Ok(self.get(name, &format!("{PREFIX}address/{url}"))?.and_then(|value| <[u8; 32]>::try_from(value).ok()).map(BlobHash))
    }

    /// Notes what an address gave.
    pub(super) fn note_address(&self, name: &str, url: &str, blob: &BlobHash) -> Result<(), SourceError> {
        self.put(name, &format!("{PREFIX}address/{url}"), blob.as_bytes())
    }

    /// The newest date in an archive, where it was looked for: `Some(None)` if it has none.
    pub(super) fn date(&self, name: &str, blob: &BlobHash) -> Result<Option<Option<u64>>, SourceError> {
        let value = self.get(name, &format!("{PREFIX}date/{blob}"))?;
        Ok(value.and_then(|value| match value.as_slice() {
            [] => Some(None),
            seconds => <[u8; 8]>::try_from(seconds).ok().map(|seconds| Some(u64::from_le_bytes(seconds))),
        }))
    }

    /// Notes the newest date in an archive.
    pub(super) fn note_date(&self, name: &str, blob: &BlobHash, date: Option<u64>) -> Result<(), SourceError> {
        let value = date.map_or_else(Vec::new, |seconds| seconds.to_le_bytes().to_vec());
        self.put(name, &format!("{PREFIX}date/{blob}"), &value)
    }

    /// The tree of a commit and its date, if it was taken in. A commit's id is a hash over its tree, so this holds for
    /// ever, from whichever repository it came.
    pub(super) fn commit(&self, name: &str, id: &str, submodules: bool) -> Result<Option<(BlobHash, u64)>, SourceError> {
        let Some(value) = self.get(name, &commit_key(id, submodules))? else { return Ok(None) };
        let Some((hash, date)) = value.split_first_chunk::<32>() else { return Ok(None) };
        Ok(<[u8; 8]>::try_from(date).ok().map(|date| (BlobHash(*hash), u64::from_le_bytes(date))))
    }

    /// Notes the tree of a commit and its date.
    pub(super) fn note_commit(&self, name: &str, id: &str, submodules: bool, tree: &BlobHash, date: u64) -> Result<(), SourceError> {
        self.put(name, &commit_key(id, submodules), &[tree.as_bytes().as_slice(), &date.to_le_bytes()].concat())
    }

    fn get(&self, name: &str, key: &str) -> Result<Option<Vec<u8>>, SourceError> {
        self.store.meta_get(key.as_bytes()).map_err(|error| kept(name, error))
    }

    fn put(&self, name: &str, key: &str, value: &[u8]) -> Result<(), SourceError> {
        // Not synced: what is lost is found out anew.
        self.store.meta_put(key.as_bytes(), value, false).map_err(|error| kept(name, error))
    }
}

fn commit_key(id: &str, submodules: bool) -> String {
    format!("{PREFIX}commit/{id}/{}", if submodules { "with-submodules" } else { "alone" })
}

fn kept(name: &str, error: impl Into<KeepError>) -> SourceError {
    SourceError::Store { name: name.to_owned(), error: error.into() }
}
