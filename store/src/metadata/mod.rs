//! The store's database: RocksDB, one column family for each kind of thing, small in memory.
//!
//! Writes are atomic batches. A batch that was written with [`Sync::Now`] survives a power loss when the call returns,
//! and so does everything written before it: RocksDB syncs its log up to there. One with [`Sync::Later`] survives the end
//! of the process at once, and a power loss after the next synced one.

mod entry;
mod keyed;
mod mark;
mod records;

use std::path::Path;

use barnraiser_protocol::codec;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, DEFAULT_COLUMN_FAMILY_NAME,
    Options, WriteBatch, WriteOptions,
};

pub(crate) use entry::{BlobEntry, Class, PartialHeader, Place, State};
pub use keyed::{MetaRow, Pin};
pub use records::StoredRecord;

use crate::error::{Fault, OpenError};
use mark::Mark;

/// A column family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Blob hash → [`BlobEntry`].
    Blobs,
    /// Blob hash → the bytes of a small blob.
    Inline,
    /// Blob hash → the hash tree, where it is short.
    Trees,
    /// Blob hash → [`PartialHeader`]; blob hash ‖ unit (u64, big endian) → nothing, for each verified unit.
    Partials,
    /// Network ‖ expiry (u64, big endian) ‖ record id → the record as received.
    Records,
    /// Name → [`Pin`].
    Pins,
    /// What callers keep: peers, counters, sequences.
    Meta,
}

impl Family {
    const ALL: [Self; 7] = [Self::Blobs, Self::Inline, Self::Trees, Self::Partials, Self::Records, Self::Pins, Self::Meta];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Inline => "inline",
            Self::Trees => "trees",
            Self::Partials => "partials",
            Self::Records => "records",
            Self::Pins => "pins",
            Self::Meta => "meta",
        }
    }
}

/// When a write must survive a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// When the call returns.
    Now,
    /// When something later is synced.
    Later,
}

/// A key and its value.
pub(crate) type Row = (Box<[u8]>, Box<[u8]>);

/// The database.
pub(crate) struct Metadata {
    db: DB,
    /// Up to where it has promised that nothing is lost.
    mark: Mark,
}

// An idle node must stay below 80 MiB in all, and the database is one of many parts of it.
const BLOCK_CACHE_BYTES: usize = 8 << 20;
const WRITE_BUFFER_BYTES: usize = 4 << 20;
/// Small blobs fill a buffer of the others' size every thousand, and each time writers wait for files to be made and synced.
const INLINE_WRITE_BUFFER_BYTES: usize = 8 << 20;
const WRITE_BUFFERS_TOTAL_BYTES: usize = 16 << 20;
const WAL_BYTES_MAX: u64 = 64 << 20;
const OPEN_FILES_MAX: i32 = 64;
/// Less garbage than this is not worth a copy of the rest.
const GARBAGE_BYTES_MIN: u64 = 16 << 20;

impl Metadata {
    /// Opens or makes the database in `path`. With `hold_unsynced`, what is not synced stays in this process's memory
    /// instead of the operating system's, so that a copy of the folder is what a power loss would leave.
    pub(crate) fn open(root: &Path, path: &Path, hold_unsynced: bool) -> Result<Self, OpenError> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_max_background_jobs(2);
        options.set_db_write_buffer_size(WRITE_BUFFERS_TOTAL_BYTES);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_manual_wal_flush(hold_unsynced);
        // What was being written when the process ended may be there in part. A record that is wrong is damage: by default all that
        // was written after it would be left out without a word, promises among it.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        let families = Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family, &cache)));
        // RocksDB's own family stays empty, but it counts: after a full disk, writes go on only when there is room for the
        // largest write buffer of all, and its default is twice what the store keeps free.
        let mut unused = Options::default();
        unused.set_write_buffer_size(WRITE_BUFFER_BYTES);
        let unused = ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, unused);
        let families = families.into_iter().chain([unused]);
        let damaged = |message: String| OpenError::DamagedDatabase { root: root.to_owned(), message };
        if mark::lacks_current(path) {
            // A new database would be made there, beside what is left of this one.
            return Err(damaged("its file CURRENT is missing".into()));
        }
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|error| match error.kind() {
            rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::InvalidArgument | rocksdb::ErrorKind::NotSupported => {
                damaged(error.to_string())
            }
            _ if error.to_string().contains("No such file or directory") => damaged(error.to_string()),
            _ => Fault::database("open", &error).into(),
        })?;
        let mark = Mark::open(path).map_err(|source| Fault::io("open", path, 4096, source))?;
        let (promised, found) = (mark.promised(), db.latest_sequence_number());
        if found < promised {
            return Err(damaged(format!("it ends at write {found}, and had promised to keep all up to {promised}")));
        }
        Ok(Self { db, mark })
    }

    pub(crate) fn family(&self, family: Family) -> &ColumnFamily {
        match self.db.cf_handle(family.name()) {
            Some(handle) => handle,
            // All are made when the database is opened, and none is ever dropped.
            None => unreachable!("the column family {:?} was opened", family.name()),
        }
    }

    /// The value at `key`.
    pub(crate) fn value(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        self.db.get_cf(self.family(family), key).map_err(|error| Fault::database("read", &error))
    }

    /// The value at `key`, decoded.
    pub(crate) fn decoded<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        family: Family,
        key: &[u8],
    ) -> Result<Option<T>, Fault> {
        let pinned = self.db.get_pinned_cf(self.family(family), key).map_err(|error| Fault::database("read", &error))?;
        pinned.map(|bytes| decode(family, &bytes)).transpose()
    }

    pub(crate) fn write(&self, batch: WriteBatch, sync: Sync) -> Result<(), Fault> {
        let mut options = WriteOptions::default();
        options.set_sync(sync == Sync::Now);
        // The least that is synced when the call returns: others may write meanwhile, behind this batch or before it.
        let synced = self.db.latest_sequence_number() + batch.len() as u64;
        self.db.write_opt(batch, &options).map_err(|error| Fault::database("write", &error))?;
        if sync == Sync::Now {
            self.mark.promise(synced);
        }
        Ok(())
    }

    /// Everything from `start` (which is in it) to `end` (which is not), in the order of keys.
    pub(crate) fn range(&self, family: Family, start: &[u8], end: Option<&[u8]>) -> impl Iterator<Item = Result<Row, Fault>> + use<'_> {
        let mut options = rocksdb::ReadOptions::default();
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        self.db
            .iterator_cf_opt(self.family(family), options, rocksdb::IteratorMode::From(start, rocksdb::Direction::Forward))
            .map(|item| item.map_err(|error| Fault::database("read", &error)))
    }

    /// Everything whose key begins with `prefix`.
    pub(crate) fn prefixed(&self, family: Family, prefix: &[u8]) -> impl Iterator<Item = Result<Row, Fault>> + use<'_> {
        self.range(family, prefix, after_prefix(prefix).as_deref())
    }

    /// Gives the room of removed small blobs back to the disk. Cheap, unless much of what is kept for them is garbage: then
    /// the rest is copied.
    pub(crate) fn compact_inline(&self) -> Result<(), Fault> {
        let fault = |error: rocksdb::Error| Fault::database("compact", &error);
        let family = self.family(Family::Inline);
        let everything = None::<&[u8]>;
        // Moves keys only, and counts what has become garbage.
        self.db.compact_range_cf(family, everything, everything);
        let property = |name| self.db.property_int_value_cf(family, name).map(Option::unwrap_or_default).map_err(fault);
        let garbage = property("rocksdb.live-blob-file-garbage-size")?;
        if garbage < GARBAGE_BYTES_MIN || garbage < property("rocksdb.live-blob-file-size")? / 2 {
            return Ok(());
        }
        let collect =
            |on| self.db.set_options_cf(family, &[("enable_blob_garbage_collection", on), ("blob_garbage_collection_age_cutoff", "1.0")]);
        collect("true").map_err(fault)?;
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        self.db.compact_range_cf_opt(family, everything, everything, &options);
        collect("false").map_err(fault)
    }

    /// Makes everything that was written until now survive a power loss.
    pub(crate) fn sync(&self) -> Result<(), Fault> {
        let synced = self.db.latest_sequence_number();
        self.db.flush_wal(true).map_err(|error| Fault::database("sync", &error))?;
        self.mark.promise(synced);
        Ok(())
    }
}

/// The value that `bytes` are, where they come from this database.
pub(crate) fn decode<T: serde::Serialize + serde::de::DeserializeOwned>(family: Family, bytes: &[u8]) -> Result<T, Fault> {
    codec::decode(bytes, bytes.len()).map_err(|error| Fault::Entry { family: family.name(), message: error.to_string() })
}

/// The first key behind all that begin with `prefix`; none where there is no such key.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

fn family_options(family: Family, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // Indexes and filters count against the cache too, or they would grow with the store.
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(if family == Family::Inline { INLINE_WRITE_BUFFER_BYTES } else { WRITE_BUFFER_BYTES });
    options.set_max_write_buffer_number(if family == Family::Inline { 3 } else { 2 });
    options.set_compression_type(DBCompressionType::Lz4);
    if family == Family::Inline {
        // Small blobs are up to 16 KiB: kept apart from the keys they are not copied at every compaction.
        options.set_enable_blob_files(true);
        options.set_min_blob_size(1 << 10);
        options.set_blob_file_size(64 << 20);
        options.set_blob_compression_type(DBCompressionType::Lz4);
        // Collecting while compacting would copy a quarter of all small blobs every few thousand imports;
        // `Metadata::compact_inline` does it when there is something to gain.
        options.set_enable_blob_gc(false);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::after_prefix;

    #[test]
    fn the_key_behind_a_prefix_is_behind_all_that_begin_with_it() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(&[1, 255]), Some(vec![2]));
        assert_eq!(after_prefix(&[255, 255]), None);
        assert_eq!(after_prefix(b""), None);
    }
}
