//! Sources that lie beside the recipe: a file or a folder, never anything outside.

use std::io;
use std::path::{Path, PathBuf};

use super::Limits;
use super::error::SourceError;

/// What was found at a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A regular file.
    File(PathBuf),
    /// A folder.
    Folder(PathBuf),
}

/// Finds `path`, relative to the recipe's folder `base`. With all links followed it must stay below `root`, the
/// folder of the batch (or `base` itself where a recipe is alone).
///
/// # Errors
/// [`SourceError`] where it leaves, is missing, is neither file nor folder, or is larger than a source may be.
pub(super) fn find(name: &str, path: &str, base: &Path, root: &Path, limits: &Limits) -> Result<Found, SourceError> {
    let leaves = || SourceError::Leaves { name: name.to_owned(), path: path.to_owned(), root: root.to_owned() };
    let unreadable = |path: &Path, error| SourceError::Path { name: name.to_owned(), path: path.to_owned(), error };
    // `a/../b` would be safe after canonicalisation, and yet an absolute path means nothing on another machine.
    if Path::new(path).is_absolute() {
        return Err(leaves());
    }
    let real_base = base.canonicalize().map_err(|error| unreadable(base, error))?;
    let real_root = root.canonicalize().map_err(|error| unreadable(root, error))?;
    let written = base.join(path);
    let real = written.canonicalize().map_err(|error| unreadable(&written, error))?;
    if !real.starts_with(&real_base) && !real.starts_with(&real_root) {
        return Err(leaves());
    }
    let metadata = real.metadata().map_err(|error| unreadable(&real, error))?;
    let mut sum = Sum { name, limits, entries: 0, bytes: 0 };
    if metadata.is_file() {
        sum.add(metadata.len())?;
        Ok(Found::File(real))
    } else if metadata.is_dir() {
        sum.folder(&real).map_err(|(at, error)| unreadable(&at, error))??;
        Ok(Found::Folder(real))
    } else {
        Err(SourceError::NotAFile { name: name.to_owned(), path: written })
    }
}

/// Counts what is in a folder before any of it is read, so that a whole disk is not taken in by mistake.
struct Sum<'a> {
    name: &'a str,
    limits: &'a Limits,
    entries: u64,
    bytes: u64,
}

impl Sum<'_> {
    fn add(&mut self, bytes: u64) -> Result<(), SourceError> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        let too_large = |limit, unit| Err(SourceError::TooLarge { name: self.name.to_owned(), limit, unit });
        if self.entries > self.limits.entries_max {
            return too_large(self.limits.entries_max, "files");
        }
        if self.bytes > self.limits.bytes_max {
            return too_large(self.limits.bytes_max, "bytes");
        }
        Ok(())
    }

    /// The outer error is one of reading a folder, the inner one says that a limit is reached.
    fn folder(&mut self, top: &Path) -> Result<Result<(), SourceError>, (PathBuf, io::Error)> {
        let mut folders = vec![top.to_owned()];
        while let Some(folder) = folders.pop() {
            let failed = |error| (folder.clone(), error);
            for entry in std::fs::read_dir(&folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                // Does not follow links.
                let metadata = entry.metadata().map_err(failed)?;
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
                if let Err(error) = self.add(if metadata.is_file() { metadata.len() } else { 0 }) {
                    return Ok(Err(error));
                }
            }
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    /// A batch's folder with two recipes' folders in it, and a secret beside it.
    fn folders() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for below in ["batch/zlib/patches", "batch/shared"] {
            std::fs::create_dir_all(folder.path().join(below)).unwrap();
        }
        for (file, text) in [("secret", "s"), ("batch/zlib/patches/1.patch", "patch"), ("batch/shared/config", "c")] {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        folder
    }

    fn find_in(folder: &Path, path: &str) -> Result<Found, SourceError> {
        find("x", path, &folder.join("batch/zlib"), &folder.join("batch"), &Limits::default())
    }

    #[test]
    fn what_lies_beside_the_recipe_or_in_the_batch_is_found() {
        let folder = folders();
        let real = folder.path().canonicalize().unwrap();
        assert_eq!(find_in(&real, "patches").unwrap(), Found::Folder(real.join("batch/zlib/patches")));
        assert_eq!(find_in(&real, "patches/1.patch").unwrap(), Found::File(real.join("batch/zlib/patches/1.patch")));
        assert_eq!(find_in(&real, "../shared/config").unwrap(), Found::File(real.join("batch/shared/config")));
    }

    #[test]
    fn path_that_leaves_the_folder_is_refused() {
        let folder = folders();
        let real = folder.path().canonicalize().unwrap();
        symlink(real.join("secret"), real.join("batch/zlib/link")).unwrap();
        symlink("../..", real.join("batch/zlib/up")).unwrap();
        for path in ["../../secret", "/etc/passwd", "link", "up", "up/secret"] {
            let error = find_in(&real, path).unwrap_err();
            assert!(matches!(error, SourceError::Leaves { .. }), "{path}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
        assert!(matches!(find_in(&real, "missing"), Err(SourceError::Path { .. })));
    }

    #[test]
    fn folder_that_is_too_large_is_refused_before_it_is_read() {
        let folder = folders();
        let (base, root) = (folder.path().join("batch/zlib"), folder.path().join("batch"));
        let few = Limits { entries_max: 1, ..Limits::default() };
        assert!(matches!(find("x", "../..", &base, folder.path(), &few), Err(SourceError::TooLarge { unit: "files", .. })));
        let small = Limits { bytes_max: 4, ..Limits::default() };
        assert!(matches!(find("x", "patches", &base, &root, &small), Err(SourceError::TooLarge { unit: "bytes", .. })));
    }
}
