//! Reading with a bound, and writing so that a crash leaves either the old file or the new one.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::HomeError;

/// The bytes of a file; `None` where there is none.
pub(super) fn read_bounded(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, HomeError> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(HomeError::io("reading", path)(error)),
    };
    let mut bytes = Vec::new();
    // One byte more than is allowed tells that there is more. A `usize` fits into a `u64` here.
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(HomeError::io("reading", path))?;
    if bytes.len() > limit {
        return Err(HomeError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(Some(bytes))
}

/// A folder that only its owner can look into, with those above it.
pub(super) fn make_private_folder(path: &Path) -> Result<(), HomeError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(HomeError::io("making the folder", path))
}

/// Writes a file that must not be there yet, readable by its owner only. Whether it did.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<bool, HomeError> {
    let written = stage(path, bytes, 0o600)?;
    match written.persist_noclobber(path) {
        Ok(_) => {
            sync_folder(path)?;
            Ok(true)
        }
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(HomeError::io("writing", path)(error.error)),
    }
}

/// Writes or replaces a file: the bytes are on the disk when this returns, and after a crash the file is the old one or
/// the new one.
///
/// # Errors
/// [`HomeError::Io`].
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), HomeError> {
    let written = stage(path, bytes, mode)?;
    written.persist(path).map_err(|error| HomeError::io("writing", path)(error.error))?;
    sync_folder(path)
}

fn stage(path: &Path, bytes: &[u8], mode: u32) -> Result<tempfile::NamedTempFile, HomeError> {
    let fail = |error| HomeError::io("writing", path)(error);
    // Beside the file, so that renaming stays on one file system.
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix(".barn-").permissions(fs::Permissions::from_mode(mode));
    let mut file = builder.tempfile_in(folder_of(path)).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    Ok(file)
}

fn sync_folder(path: &Path) -> Result<(), HomeError> {
    let folder = folder_of(path);
    fs::File::open(&folder).and_then(|folder| folder.sync_all()).map_err(HomeError::io("writing", &folder))
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
