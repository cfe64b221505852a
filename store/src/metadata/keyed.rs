//! Pins, and the small values that callers keep under keys of their own.

use barnraiser_protocol::id::BlobHash;
use rocksdb::WriteBatch;
use serde::{Deserialize, Serialize};

use super::records::when;
use super::{Family, Row, Sync, decode};
use crate::error::Fault;
use crate::store::Store;

/// What a pin keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pin {
    /// One blob.
    Blob(BlobHash),
    /// A tree: its manifest and all blobs in it.
    Tree(BlobHash),
}

/// A key and its value, as [`Store::meta_scan`] gives them.
pub type MetaRow = (Vec<u8>, Vec<u8>);

impl Pin {
    /// The blob, or the tree's manifest.
    pub fn hash(&self) -> &BlobHash {
        match self {
            Self::Blob(hash) | Self::Tree(hash) => hash,
        }
    }
}

impl Store {
    /// Keeps a blob from being evicted, under a name; a name that is taken changes what it keeps. The blob may come later.
    /// Survives a power loss when this returns.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn pin(&self, name: &str, hash: &BlobHash) -> Result<(), Fault> {
        self.put_pin(name, &Pin::Blob(*hash))
    }

    /// As [`Store::pin`], for a tree with all that is in it.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn pin_tree(&self, name: &str, hash: &BlobHash) -> Result<(), Fault> {
        self.put_pin(name, &Pin::Tree(*hash))
    }

    fn put_pin(&self, name: &str, pin: &Pin) -> Result<(), Fault> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.metadata().family(Family::Pins), name, barnraiser_protocol::codec::encode(pin));
        let mut changed = self.pins_changed().write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *changed += 1;
        self.metadata().write(batch, Sync::Now)
    }

    /// Removes a pin; whether there was one.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn unpin(&self, name: &str) -> Result<bool, Fault> {
        let found = self.metadata().value(Family::Pins, name.as_bytes())?.is_some();
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.metadata().family(Family::Pins), name);
        self.metadata().write(batch, Sync::Later)?;
        Ok(found)
    }

    /// All pins, by name.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn pins(&self) -> Result<Vec<(String, Pin)>, Fault> {
        let pin = |(name, value): Row| {
            let name = String::from_utf8(name.into_vec())
                .map_err(|error| Fault::Entry { family: Family::Pins.name(), message: error.to_string() })?;
            Ok((name, decode(Family::Pins, &value)?))
        };
        self.metadata().prefixed(Family::Pins, b"").map(|item| item.and_then(pin)).collect()
    }

    /// Puts `value` at `key`. With `sync` it survives a power loss when this returns.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn meta_put(&self, key: &[u8], value: &[u8], sync: bool) -> Result<(), Fault> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.metadata().family(Family::Meta), key, value);
        self.metadata().write(batch, when(sync))
    }

    /// What is at `key`.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn meta_get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        self.metadata().value(Family::Meta, key)
    }

    /// Removes what is at `key`, if anything is.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn meta_delete(&self, key: &[u8]) -> Result<(), Fault> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.metadata().family(Family::Meta), key);
        self.metadata().write(batch, Sync::Later)
    }

    /// What is at the keys that begin with `prefix`, in the order of keys, `limit` at most.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn meta_scan(&self, prefix: &[u8], limit: usize) -> Result<Vec<MetaRow>, Fault> {
        self.metadata()
            .prefixed(Family::Meta, prefix)
            .take(limit)
            .map(|item| item.map(|(key, value)| (key.into_vec(), value.into_vec())))
            .collect()
    }

    /// Makes everything that was put into the database until now survive a power loss: one sync for many writes.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn sync(&self) -> Result<(), Fault> {
        self.metadata().sync()
    }
}
