//! The files of a partial blob: its bytes with holes, and its hash tree with holes.

use std::io;
use std::path::{Path, PathBuf};

use barnraiser_protocol::id::BlobHash;
use rocksdb::WriteBatch;

use super::decode::Proven;
use super::units;
use crate::disk::DiskFile;
use crate::error::Fault;
use crate::geometry::shape;
use crate::import::{Level, TREE_INLINE_MAX};
use crate::metadata::{Family, Place, State, Sync};
use crate::store::Store;

/// The two files, open.
#[derive(Debug)]
pub(super) struct Files {
    pub data: Box<dyn DiskFile>,
    pub pairs: Box<dyn DiskFile>,
    data_path: PathBuf,
    pairs_path: PathBuf,
}

impl Files {
    /// Opens the files of a fetch, or makes them. True where they come from a blob that was whole once (it is damaged now,
    /// or its completion was cut short): then every unit is worth a look. The caller holds the stripe.
    pub(super) fn open(store: &Store, hash: &BlobHash, length: u64) -> Result<(Self, bool), Fault> {
        let folder = store.partial_folder();
        let (data_path, pairs_path) = (folder.join(hash.to_string()), folder.join(format!("{hash}.tree")));
        let adopted = adopt(store, hash, &data_path, &pairs_path)?;
        let data = open_or_create(store, &data_path, length)?;
        let pairs = open_or_create(store, &pairs_path, shape(length).outboard_size())?;
        Ok((Self { data, pairs, data_path, pairs_path }, adopted))
    }

    pub(super) fn write(&self, offset: u64, proven: &Proven<'_>) -> Result<(), Fault> {
        let length: usize = proven.bytes.iter().map(|part| part.len()).sum();
        let fault = |path: &Path, length: usize, source| Fault::io("write", path, length as u64, source);
        self.data.write_parts_at(&proven.bytes, offset).map_err(|source| fault(&self.data_path, length, source))?;
        for (offset, run) in &proven.pairs {
            self.pairs.write_all_at(run, *offset).map_err(|source| fault(&self.pairs_path, run.len(), source))?;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), Fault> {
        self.data.sync().map_err(|source| Fault::io("sync", &self.data_path, 0, source))?;
        self.pairs.sync().map_err(|source| Fault::io("sync", &self.pairs_path, 0, source))
    }

    /// Makes the files those of a blob of the store. The caller holds the stripe, knows that all units are here, and has
    /// synced the files where that is promised.
    pub(super) fn promote(&self, store: &Store, hash: &BlobHash, length: u64, level: Level) -> Result<(), Fault> {
        let mut batch = WriteBatch::default();
        units::forget(store, hash, &mut batch);
        if store.suffices(hash, level)? {
            // It came another way meanwhile.
            store.metadata().write(batch, Sync::Later)?;
            return self.remove(store);
        }
        let tree_length = shape(length).outboard_size();
        let rename = |from: &Path, to: &Path| store.disk().rename(from, to).map_err(|source| Fault::io("rename to", to, 4096, source));
        let tree = if tree_length == 0 {
            Place::None
        } else if tree_length <= TREE_INLINE_MAX as u64 {
            let mut tree = vec![0; tree_length as usize];
            self.pairs.read_exact_at(&mut tree, 0).map_err(|source| Fault::io("read", &self.pairs_path, 0, source))?;
            batch.put_cf(store.metadata().family(Family::Trees), hash.as_bytes(), tree);
            Place::Inline
        } else {
            rename(&self.pairs_path, &store.tree_path(hash))?;
            Place::File
        };
        let entered = rename(&self.data_path, &store.blob_path(hash)).and_then(|()| store.enter_files(hash, length, tree, batch, level));
        if let Err(fault) = entered {
            // Back to where it was, so that nothing has to be fetched again; what can't go back is found by `adopt`.
            if tree == Place::File {
                let _ = rename(&store.tree_path(hash), &self.pairs_path);
            }
            let _ = rename(&store.blob_path(hash), &self.data_path);
            return Err(fault);
        }
        if tree != Place::File {
            remove(store, &self.pairs_path)?;
        }
        Ok(())
    }

    pub(super) fn remove(&self, store: &Store) -> Result<(), Fault> {
        remove(store, &self.data_path)?;
        remove(store, &self.pairs_path)
    }
}

/// Takes over the files of a blob that is not good: damaged, or never entered because its completion was cut short.
fn adopt(store: &Store, hash: &BlobHash, data_path: &Path, pairs_path: &Path) -> Result<bool, Fault> {
    let entry = store.entry(hash)?;
    if entry.as_ref().is_some_and(|entry| entry.state == State::Good) {
        // Whole and good: whoever fetches it all the same (to have it synced) fetches all of it.
        return Ok(false);
    }
    let moved = rename_if_there(store, &store.blob_path(hash), data_path)?;
    let tree_moved = rename_if_there(store, &store.tree_path(hash), pairs_path)?;
    if let Some(entry) = entry {
        if entry.tree == Place::Inline
            && moved
            && let Some(tree) = store.metadata().value(Family::Trees, hash.as_bytes())?
        {
            let file = store.disk().create(pairs_path).map_err(|source| Fault::io("create", pairs_path, 4096, source))?;
            file.write_all_at(&tree, 0).map_err(|source| Fault::io("write", pairs_path, tree.len() as u64, source))?;
        }
        let mut batch = WriteBatch::default();
        batch.delete_cf(store.metadata().family(Family::Trees), hash.as_bytes());
        batch.delete_cf(store.metadata().family(Family::Inline), hash.as_bytes());
        store.commit(hash, None, batch, Sync::Later)?;
    }
    Ok(moved || tree_moved)
}

fn rename_if_there(store: &Store, from: &Path, to: &Path) -> Result<bool, Fault> {
    match store.disk().rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Fault::io("rename to", to, 4096, source)),
    }
}

fn open_or_create(store: &Store, path: &Path, length: u64) -> Result<Box<dyn DiskFile>, Fault> {
    let file = match store.disk().open(path, true) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => store.disk().create(path),
        other => other,
    }
    .map_err(|source| Fault::io("open", path, 4096, source))?;
    let actual = file.length().map_err(|source| Fault::io("read the length of", path, 0, source))?;
    if actual != length {
        file.set_length(length).map_err(|source| Fault::io("make room in", path, length, source))?;
    }
    Ok(file)
}

fn remove(store: &Store, path: &Path) -> Result<(), Fault> {
    match store.disk().remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::io("remove", path, 0, error)),
        _ => Ok(()),
    }
}
