//! Takes the outputs out of a build folder, once everything in the sandbox is dead.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::outcome::FailureClass;
use barnraiser_protocol::tree::{Entry, Tree, TreeError};
use rustix::fs::FileType;

use super::beneath::Beneath;
use super::glob;

/// The most entries an artefact may have, what a manifest of the greatest size holds.
pub const OUTPUT_ENTRIES_MAX: usize = 400_000;

/// Where the files of an artefact go: the store, in a node.
pub trait OutputSink: Send {
    /// Takes the file that is to be `name` in the artefact, by copying it. Gives the BLAKE3 and the length of what was
    /// copied.
    ///
    /// # Errors
    /// What kept the file from being stored.
    fn file(&mut self, name: &str, file: File, executable: bool) -> io::Result<(BlobHash, u64)>;
}

/// Why the outputs of a build can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// Nothing is where an output was promised.
    #[error("output {name:?}: there is no {pattern:?} below /build")]
    Missing {
        /// Name in the artefact.
        name: String,
        /// What the recipe says where it is.
        pattern: String,
    },
    /// A thing that can't be in an artefact.
    #[error("output {path:?} {reason}")]
    Refused {
        /// Path below `/build`.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A name or link that a manifest does not allow.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// More bytes than the disk limit.
    #[error("the outputs are larger than the disk limit of {0} bytes")]
    TooLarge(u64),
    /// More than [`OUTPUT_ENTRIES_MAX`].
    #[error("the outputs have more than {OUTPUT_ENTRIES_MAX} entries")]
    TooMany,
    /// The build folder could not be read.
    #[error("output {path:?} could not be read: {error}")]
    Read {
        /// Path below `/build`.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The sink refused a file.
    #[error("output {path:?} could not be stored: {error}")]
    Store {
        /// Path below `/build`.
        path: String,
        /// Why.
        error: io::Error,
    },
}

impl CollectError {
    /// How the build failed by this.
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Missing { .. } | Self::Refused { .. } | Self::Tree(_) | Self::TooMany => FailureClass::Check,
            Self::TooLarge(_) => FailureClass::OutOfDisk,
            Self::Read { .. } | Self::Store { .. } => FailureClass::Upload,
        }
    }
}

/// The artefact: `outputs` maps names in it to files, folders and globs below `root`. Their lengths add up to at most
/// `bytes_max`. A file becomes its name; a folder becomes all that is in it below the name; what a glob matches keeps
/// its path behind the pattern's part without wildcards, below the name.
///
/// # Errors
/// [`CollectError`].
pub fn collect(
    root: &Beneath,
    outputs: &BTreeMap<String, String>,
    bytes_max: u64,
    sink: &mut dyn OutputSink,
) -> Result<Tree, CollectError> {
    let mut collection = Collection { root, sink, tree: Tree::new(), left: bytes_max, bytes_max };
    for (name, pattern) in outputs {
        let missing = || CollectError::Missing { name: name.clone(), pattern: pattern.clone() };
        if glob::is_glob(pattern) {
            if !collection.matching(name, pattern)? {
                return Err(missing());
            }
        } else {
            let path = Path::new(pattern);
            match root.stat(path) {
                Ok(stat) => collection.take(name, path, FileType::from_raw_mode(stat.st_mode), stat.st_mode)?,
                Err(error) if absent(&error) => return Err(missing()),
                Err(error) => return Err(read(path, error)),
            }
        }
    }
    Ok(collection.tree)
}

/// Not there, or behind a link or a file where a folder is wanted.
fn absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG))
}

fn read(path: &Path, error: io::Error) -> CollectError {
    CollectError::Read { path: path.display().to_string(), error }
}

fn refused(path: &Path, reason: impl Into<String>) -> CollectError {
    CollectError::Refused { path: path.display().to_string(), reason: reason.into() }
}

struct Collection<'a> {
    root: &'a Beneath,
    sink: &'a mut dyn OutputSink,
    tree: Tree,
    left: u64,
    bytes_max: u64,
}

impl Collection<'_> {
    /// Takes everything that matches `pattern`; whether anything did.
    fn matching(&mut self, name: &str, pattern: &str) -> Result<bool, CollectError> {
        let (base, rest) = glob::split_base(pattern);
        let mut found = false;
        // Folders yet to look into: their path below the base.
        let mut waiting = vec![String::new()];
        let mut seen = 0usize;
        while let Some(below) = waiting.pop() {
            let folder = join(base, &below);
            let items = match self.root.list(Path::new(&folder)) {
                Ok(items) => items,
                Err(error) if absent(&error) && below.is_empty() => return Ok(false),
                Err(error) => return Err(read(Path::new(&folder), error)),
            };
            for item in items {
                seen += 1;
                if seen > 10 * OUTPUT_ENTRIES_MAX {
                    return Err(CollectError::TooMany);
                }
                // What is not UTF-8 can't be in a pattern or an artefact; a folder that holds it whole refuses it.
                let Some(part) = item.name.to_str() else { continue };
                let relative = join(&below, part);
                let path = PathBuf::from(join(base, &relative));
                if glob::matches(rest, &relative) {
                    found = true;
                    self.take(&join(name, &relative), &path, item.kind, item.stat.st_mode)?;
                } else if item.kind == FileType::Directory && path.as_os_str().len() < barnraiser_protocol::tree::PATH_BYTES_MAX {
                    waiting.push(relative);
                }
            }
        }
        Ok(found)
    }

    /// Takes what is at `path`, with all that is in it.
    fn take(&mut self, name: &str, path: &Path, kind: FileType, mode: u32) -> Result<(), CollectError> {
        let mut waiting = vec![(name.to_owned(), path.to_owned(), kind, mode)];
        while let Some((name, path, kind, mode)) = waiting.pop() {
            if self.tree.len() >= OUTPUT_ENTRIES_MAX {
                return Err(CollectError::TooMany);
            }
            match kind {
                FileType::RegularFile => self.file(&name, &path, mode & 0o100 != 0)?,
                FileType::Symlink => {
                    let target = self.root.link(&path).map_err(|error| refused(&path, error.to_string()))?;
                    self.tree.insert(&name, Entry::Symlink { target })?;
                }
                FileType::Directory => {
                    // Checked before going in, so that depth is bounded by the length of a path.
                    barnraiser_protocol::tree::check_path(&name)?;
                    let items = self.root.list(&path).map_err(|error| read(&path, error))?;
                    if items.is_empty() {
                        self.tree.insert(&name, Entry::EmptyFolder)?;
                    }
                    for item in items.into_iter().rev() {
                        let Some(part) = item.name.to_str() else {
                            return Err(refused(&path.join(&item.name), "has a name that is not UTF-8"));
                        };
                        waiting.push((join(&name, part), path.join(part), item.kind, item.stat.st_mode));
                    }
                }
                FileType::Fifo => return Err(refused(&path, "is a fifo")),
                FileType::Socket => return Err(refused(&path, "is a socket")),
                _ => return Err(refused(&path, "is a device")),
            }
        }
        Ok(())
    }

    fn file(&mut self, name: &str, path: &Path, executable: bool) -> Result<(), CollectError> {
        barnraiser_protocol::tree::check_path(name)?;
        let file = self.root.file(path).map_err(|error| read(path, error))?;
        let announced = file.metadata().map_err(|error| read(path, error))?.len();
        if announced > self.left {
            return Err(CollectError::TooLarge(self.bytes_max));
        }
        let stored = self.sink.file(name, file, executable);
        let (hash, length) = stored.map_err(|error| CollectError::Store { path: path.display().to_string(), error })?;
        self.left = self.left.checked_sub(length).ok_or(CollectError::TooLarge(self.bytes_max))?;
        self.tree.insert(name, Entry::File { hash, length, executable })?;
        Ok(())
    }
}

/// `a/b`, where either may be empty.
pub(super) fn join(a: &str, b: &str) -> String {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.to_owned(),
        (_, true) => a.to_owned(),
        _ => format!("{a}/{b}"),
    }
}
