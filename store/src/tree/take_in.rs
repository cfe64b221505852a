//! A folder becomes a tree. Read through directory descriptors, so that a link can lead nowhere else, not even one that
//! is put there meanwhile.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::tree::{Entry, MANIFEST_BYTES_MAX, Tree};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::error::ImportError;
use crate::import::{Level, Seen};
use crate::store::{Durability, Store};

/// How deep folders may be nested: each level holds a descriptor open.
const DEPTH_MAX: usize = 128;
/// A manifest's entry takes at least this many bytes, so no tree has more than its quotient entries.
const ENTRY_BYTES_MIN: usize = 12;

impl Store {
    /// Takes a folder in: its files as blobs, its manifest as another. Returns the manifest's hash, which names the tree,
    /// and the tree. Owners and times are left out; a file is executable if its owner may execute it.
    ///
    /// # Errors
    /// [`ImportError::NotForTrees`], [`ImportError::Tree`] for what can't be in a tree (devices, set-user-id bits, links
    /// that leave, names that are no UTF-8), [`ImportError::Source`] for what can't be read, or this machine's.
    pub fn import_tree(&self, folder: &Path, durability: Durability) -> Result<(BlobHash, Tree), ImportError> {
        self.import_tree_watched(folder, durability, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Store::import_tree`]; `seen` is told how many bytes of files were read since it was told last, and may call it
    /// off.
    ///
    /// # Errors
    /// As [`Store::import_tree`]; [`ImportError::Source`] where it was called off. Files that were taken in until then stay
    /// as cached blobs.
    pub fn import_tree_watched(&self, folder: &Path, durability: Durability, seen: Seen<'_>) -> Result<(BlobHash, Tree), ImportError> {
        let root = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| ImportError::Source { path: Some(folder.to_owned()), source: error.into() })?;
        self.import_tree_in(root.as_fd(), durability, seen)
    }

    /// As [`Store::import_tree`], for a folder that is open already.
    ///
    /// # Errors
    /// As [`Store::import_tree`].
    pub fn import_tree_at(&self, folder: BorrowedFd<'_>, durability: Durability) -> Result<(BlobHash, Tree), ImportError> {
        self.import_tree_in(folder, durability, &mut |_| ControlFlow::Continue(()))
    }

    fn import_tree_in(&self, folder: BorrowedFd<'_>, durability: Durability, seen: Seen<'_>) -> Result<(BlobHash, Tree), ImportError> {
        let level = if durability == Durability::Announced { Level::Prepared } else { Level::Cached };
        let mut walk = Walk { store: self, level, tree: Tree::new(), blobs: BTreeSet::new(), seen };
        walk.folder(folder, "", 0)?;
        let Walk { tree, mut blobs, .. } = walk;
        let hash = self.import_manifest(&tree, level)?;
        if durability == Durability::Announced {
            blobs.insert(hash);
            self.announce(&blobs)?;
        }
        Ok((hash, tree))
    }

    /// Takes in the manifest of a tree that the caller put together from blobs of this store. Returns its hash.
    ///
    /// # Errors
    /// [`ImportError::TooLong`] where the manifest would be longer than a manifest may be, or this machine's.
    pub fn import_tree_manifest(&self, tree: &Tree, durability: Durability) -> Result<BlobHash, ImportError> {
        self.import_manifest(tree, durability.into())
    }

    fn import_manifest(&self, tree: &Tree, level: Level) -> Result<BlobHash, ImportError> {
        let bytes = tree.to_bytes();
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ImportError::TooLong);
        }
        Ok(self.import_level(bytes.as_slice(), level)?.0)
    }
}

struct Walk<'a> {
    store: &'a Store,
    level: Level,
    tree: Tree,
    blobs: BTreeSet<BlobHash>,
    seen: Seen<'a>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: BorrowedFd<'_>, path: &str, depth: usize) -> Result<(), ImportError> {
        let unreadable = |error: rustix::io::Errno| source(path, error);
        if depth > DEPTH_MAX {
            return refuse(path, "it is nested too deep");
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let Ok(name) = entry.file_name().to_str() else {
                return refuse(&join(path, &entry.file_name().to_string_lossy()), "its name is not UTF-8");
            };
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
            if self.tree.len() + names.len() > MANIFEST_BYTES_MAX / ENTRY_BYTES_MIN {
                return refuse(path, "there are too many files");
            }
        }
        if names.is_empty() && !path.is_empty() {
            return Ok(self.tree.insert(path, Entry::EmptyFolder)?);
        }
        // So that what is refused, and the order of imports, doesn't depend on the file system.
        names.sort_unstable();
        for name in names {
            self.thing(folder, &name, &join(path, &name), depth)?;
        }
        Ok(())
    }

    fn thing(&mut self, folder: BorrowedFd<'_>, name: &str, path: &str, depth: usize) -> Result<(), ImportError> {
        let unreadable = |error: rustix::io::Errno| source(path, error);
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(unreadable)?;
        let open =
            |flags: OFlags| rustix::fs::openat(folder, name, flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner: OwnedFd = open(OFlags::DIRECTORY).map_err(unreadable)?;
                self.folder(inner.as_fd(), path, depth + 1)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(unreadable)?;
                let Ok(target) = target.into_string() else { return refuse(path, "its link's target is not UTF-8") };
                Ok(self.tree.insert(path, Entry::Symlink { target })?)
            }
            FileType::RegularFile => {
                // Never waits, should a pipe have taken the file's place; looked at again through the descriptor.
                let file = File::from(open(OFlags::NONBLOCK).map_err(unreadable)?);
                let stat = rustix::fs::fstat(&file).map_err(unreadable)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return refuse(path, "it is no file any more");
                }
                let mode = Mode::from_raw_mode(stat.st_mode);
                if mode.intersects(Mode::SUID | Mode::SGID) {
                    return refuse(path, "it has a set-user-id or set-group-id bit");
                }
                let (hash, length) = self.store.import_opened_at(&file, self.level, &mut *self.seen).map_err(|error| match error {
                    ImportError::Source { source, .. } => ImportError::Source { path: Some(path.into()), source },
                    other => other,
                })?;
                self.blobs.insert(hash);
                Ok(self.tree.insert(path, Entry::File { hash, length, executable: mode.contains(Mode::XUSR) })?)
            }
            _ => refuse(path, "it is a device, a pipe or a socket"),
        }
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn source(path: &str, error: rustix::io::Errno) -> ImportError {
    ImportError::Source { path: Some(path.into()), source: error.into() }
}

fn refuse<T>(path: &str, reason: &str) -> Result<T, ImportError> {
    Err(ImportError::NotForTrees { path: path.into(), reason: reason.into() })
}
