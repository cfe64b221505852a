//! Records of networks, kept as received, in the order in which they expire.

use barnraiser_protocol::id::{NetworkId, RecordId};
use rocksdb::WriteBatch;

use super::{Family, Metadata, Sync};
use crate::error::Fault;
use crate::store::Store;

/// A record as it was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its id.
    pub id: RecordId,
    /// When it may be forgotten, in milliseconds since 1970.
    pub expiry_ms: u64,
    /// The signed bytes as received.
    pub bytes: Vec<u8>,
}

fn key(network: &NetworkId, expiry_ms: u64, id: &RecordId) -> [u8; 72] {
    let mut key = [0; 72];
    key[..32].copy_from_slice(network.as_bytes());
    key[32..40].copy_from_slice(&expiry_ms.to_be_bytes());
    key[40..].copy_from_slice(id.as_bytes());
    key
}

fn parse(key: &[u8], value: &[u8]) -> Result<StoredRecord, Fault> {
    let parts = key.get(32..40).zip(key.get(40..72)).filter(|_| key.len() == 72);
    let wrong = || Fault::Entry { family: Family::Records.name(), message: format!("a key of {} bytes", key.len()) };
    let (expiry, id) = parts.ok_or_else(wrong)?;
    let expiry_ms = u64::from_be_bytes(expiry.try_into().map_err(|_| wrong())?);
    Ok(StoredRecord { id: RecordId(id.try_into().map_err(|_| wrong())?), expiry_ms, bytes: value.to_vec() })
}

impl Metadata {
    fn network_records(&self, network: &NetworkId) -> impl Iterator<Item = Result<StoredRecord, Fault>> + use<'_> {
        self.prefixed(Family::Records, network.as_bytes()).map(|item| item.and_then(|(key, value)| parse(&key, &value)))
    }
}

impl Store {
    /// Keeps a record until [`Store::delete_expired`] is told that `expiry_ms` (milliseconds since 1970) has passed.
    /// With `sync` it survives a power loss when this returns, and so does every record put before it.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn put_record(&self, network: &NetworkId, id: &RecordId, expiry_ms: u64, bytes: &[u8], sync: bool) -> Result<(), Fault> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.metadata().family(Family::Records), key(network, expiry_ms, id), bytes);
        self.metadata().write(batch, when(sync))
    }

    /// Keeps several records at once: all, or none.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn put_records(&self, network: &NetworkId, records: &[StoredRecord], sync: bool) -> Result<(), Fault> {
        let mut batch = WriteBatch::default();
        for record in records {
            batch.put_cf(self.metadata().family(Family::Records), key(network, record.expiry_ms, &record.id), &record.bytes);
        }
        self.metadata().write(batch, when(sync))
    }

    /// All records of a network, those that expire first before the others. Read as the iterator goes on.
    pub fn records(&self, network: &NetworkId) -> impl Iterator<Item = Result<StoredRecord, Fault>> + use<'_> {
        self.metadata().network_records(network)
    }

    /// Forgets one record, put with that expiry.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn delete_record(&self, network: &NetworkId, id: &RecordId, expiry_ms: u64) -> Result<(), Fault> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.metadata().family(Family::Records), key(network, expiry_ms, id));
        self.metadata().write(batch, Sync::Later)
    }

    /// Forgets the records of a network whose expiry is before `now_ms` (milliseconds since 1970).
    ///
    /// # Errors
    /// [`Fault`].
    pub fn delete_expired(&self, network: &NetworkId, now_ms: u64) -> Result<(), Fault> {
        let (first, end) = (key(network, 0, &RecordId([0; 32])), key(network, now_ms, &RecordId([0; 32])));
        // A range tombstone costs every later read a little, so none is written for nothing.
        if self.metadata().range(Family::Records, &first, Some(&end)).next().transpose()?.is_none() {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.metadata().family(Family::Records), first, end);
        self.metadata().write(batch, Sync::Later)
    }

    /// Forgets everything of a network.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn delete_records(&self, network: &NetworkId) -> Result<(), Fault> {
        let mut batch = WriteBatch::default();
        let first = key(network, 0, &RecordId([0; 32]));
        let last = key(network, u64::MAX, &RecordId([u8::MAX; 32]));
        batch.delete_range_cf(self.metadata().family(Family::Records), first, last);
        batch.delete_cf(self.metadata().family(Family::Records), last);
        self.metadata().write(batch, Sync::Now)
    }
}

pub(super) fn when(sync: bool) -> Sync {
    if sync { Sync::Now } else { Sync::Later }
}
