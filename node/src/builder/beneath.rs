//! Walks folders that a build has written, through descriptors that cannot leave them.
//!
//! Everything in such a folder is hostile: links to anywhere, folders nested ten thousand deep, modes of zero. No path
//! is resolved through a symbolic link, no recursion follows the depth, and at most two descriptors are open at once.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Paths longer than this are not walked: below Linux's `PATH_MAX`, so that every walked path can be opened in one call.
const WALK_PATH_BYTES_MAX: usize = 3072;
/// The most entries of one walk: what a large source tree has ten times over.
const WALK_ENTRIES_MAX: u64 = 4_000_000;
/// Removal renames what lies deeper than this up to the root, so that every path can be opened in one call.
const REMOVE_PATH_BYTES_MAX: usize = 1024;
/// What an entry costs beside its blocks: empty files would fill a disk with inodes otherwise.
const ENTRY_COST_BYTES: u64 = 1024;

/// A folder, and the only way to what is below it.
pub struct Beneath {
    root: OwnedFd,
}

/// One entry of a folder.
#[derive(Debug)]
pub struct Item {
    /// Its name, one part.
    pub name: OsString,
    /// What it is; links are not followed.
    pub kind: FileType,
    /// The rest of its metadata.
    pub stat: Stat,
}

/// What a folder takes on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// So many bytes.
    Bytes(u64),
    /// More than was asked for, or nested or filled beyond what can be walked.
    TooMuch,
}

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Beneath {
    /// The folder at `path`, which is this node's own and trusted up to its last part.
    ///
    /// # Errors
    /// What opening it says.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { root: rustix::fs::open(path, DIR_FLAGS, Mode::empty())? })
    }

    /// Opens the folder `relative`, no part of which may be a symbolic link.
    ///
    /// # Errors
    /// What opening it says; `ELOOP` or `ENOTDIR` where a part is a link.
    pub fn folder(&self, relative: &Path) -> io::Result<OwnedFd> {
        if relative.as_os_str().is_empty() {
            return Ok(rustix::fs::openat(&self.root, ".", DIR_FLAGS, Mode::empty())?);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.root, relative, DIR_FLAGS, Mode::empty(), resolve) {
            // Kernels before 5.6, or a container whose filter does not know the call: part by part comes to the same.
            Err(Errno::NOSYS | Errno::PERM) => self.folder_by_parts(relative),
            other => Ok(other?),
        }
    }

    fn folder_by_parts(&self, relative: &Path) -> io::Result<OwnedFd> {
        let mut at = rustix::fs::openat(&self.root, ".", DIR_FLAGS, Mode::empty())?;
        for component in relative.components() {
            let Component::Normal(part) = component else {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is not relative and normal"));
            };
            at = rustix::fs::openat(&at, part, DIR_FLAGS, Mode::empty())?;
        }
        Ok(at)
    }

    /// What is in the folder `relative`, sorted by the names' bytes. A folder without read permission is opened anyway:
    /// the build ran as this user.
    ///
    /// # Errors
    /// What opening or reading says.
    pub fn list(&self, relative: &Path) -> io::Result<Vec<Item>> {
        let folder = self.folder_despite_mode(relative)?;
        let mut items = list_open(&folder)?;
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(items)
    }

    fn folder_despite_mode(&self, relative: &Path) -> io::Result<OwnedFd> {
        match self.folder(relative) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && relative.file_name().is_some() => {
                let above = self.folder(relative.parent().unwrap_or(Path::new("")))?;
                let name = relative.file_name().unwrap_or_default();
                let stat = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Err(error);
                }
                rustix::fs::chmodat(&above, name, Mode::RWXU, AtFlags::empty())?;
                self.folder(relative)
            }
            other => other,
        }
    }

    /// The metadata of `relative` itself, links not followed.
    ///
    /// # Errors
    /// What the system says.
    pub fn stat(&self, relative: &Path) -> io::Result<Stat> {
        let above = self.folder_despite_mode(relative.parent().unwrap_or(Path::new("")))?;
        let name = relative.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Opens the regular file `relative` for reading; a fifo does not block, a device is not opened.
    ///
    /// # Errors
    /// What opening says, or `InvalidInput` where it is no regular file.
    pub fn file(&self, relative: &Path) -> io::Result<File> {
        let above = self.folder_despite_mode(relative.parent().unwrap_or(Path::new("")))?;
        let name = relative.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let regular = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !regular(&rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)?) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&above, name, flags, Mode::empty()) {
            Err(Errno::ACCESS) => {
                rustix::fs::chmodat(&above, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
                rustix::fs::openat(&above, name, flags, Mode::empty())?
            }
            other => other?,
        };
        if !regular(&rustix::fs::fstat(&file)?) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(File::from(file))
    }

    /// The text of the link `relative`.
    ///
    /// # Errors
    /// What the system says, or `InvalidData` where it is not UTF-8.
    pub fn link(&self, relative: &Path) -> io::Result<String> {
        let above = self.folder_despite_mode(relative.parent().unwrap_or(Path::new("")))?;
        let name = relative.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let target = rustix::fs::readlinkat(&above, name, Vec::new())?;
        target.into_string().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the link's target is not UTF-8"))
    }

    /// What all below takes on the disk, as far as it is not more than `limit` bytes. Things may change meanwhile:
    /// what vanishes is not counted.
    pub fn usage(&self, limit: u64) -> Usage {
        let mut waiting = vec![PathBuf::new()];
        let (mut bytes, mut entries) = (0u64, 0u64);
        while let Some(relative) = waiting.pop() {
            let Ok(folder) = self.folder(&relative) else { continue };
            let Ok(mut reader) = Dir::read_from(&folder) else { continue };
            while let Some(Ok(entry)) = reader.read() {
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                let Ok(stat) = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                entries += 1;
                let blocks = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
                bytes = bytes.saturating_add(blocks).saturating_add(ENTRY_COST_BYTES);
                if bytes > limit || entries > WALK_ENTRIES_MAX {
                    return Usage::TooMuch;
                }
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    let below = relative.join(name);
                    if below.as_os_str().len() > WALK_PATH_BYTES_MAX {
                        return Usage::TooMuch;
                    }
                    waiting.push(below);
                }
            }
        }
        Usage::Bytes(bytes)
    }

    /// Removes everything below, whatever its mode and depth. Nothing may write there any more.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    fn clear(&self) -> io::Result<()> {
        let mut stack = vec![PathBuf::new()];
        let mut raised = 0u64;
        while let Some(relative) = stack.last().cloned() {
            let folder = self.folder_despite_mode(&relative)?;
            rustix::fs::fchmod(&folder, Mode::RWXU)?;
            let mut below = Vec::new();
            for item in list_open(&folder)? {
                if item.kind != FileType::Directory {
                    rustix::fs::unlinkat(&folder, &item.name, AtFlags::empty())?;
                } else if rustix::fs::unlinkat(&folder, &item.name, AtFlags::REMOVEDIR).is_err() {
                    rustix::fs::chmodat(&folder, &item.name, Mode::RWXU, AtFlags::empty())?;
                    let path = relative.join(&item.name);
                    if path.as_os_str().len() > REMOVE_PATH_BYTES_MAX {
                        raised += 1;
                        rustix::fs::renameat(&folder, &item.name, &self.root, format!(".barn-raised-{raised}"))?;
                    } else {
                        below.push(path);
                    }
                }
            }
            if !below.is_empty() {
                stack.extend(below);
                continue;
            }
            drop(folder);
            match (relative.parent(), relative.file_name()) {
                (Some(parent), Some(name)) => {
                    let above = self.folder(parent)?;
                    rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR)?;
                    stack.pop();
                }
                // The root: gone through again as long as something was raised to it.
                _ if list_open(&self.root)?.is_empty() => {
                    stack.pop();
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn list_open(folder: impl AsFd) -> io::Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut reader = Dir::read_from(&folder)?;
    while let Some(entry) = reader.read() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        items.push(Item { name: name.to_owned(), kind: FileType::from_raw_mode(stat.st_mode), stat });
    }
    Ok(items)
}

/// Removes the folder at `path` and all below it, whatever a build did to modes and depth. A folder that isn't there is
/// no error. Nothing may write there any more.
///
/// # Errors
/// The first thing that could not be removed.
pub fn remove_scratch(path: &Path) -> io::Result<()> {
    match Beneath::open(path) {
        Ok(beneath) => beneath.clear()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    std::fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// Folders nested a thousand deep once made a recursive removal run out of descriptors and stack.
    #[test]
    fn deep_and_locked_folders_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let scratch = home.path().join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        let mut at = rustix::fs::open(&scratch, DIR_FLAGS, Mode::empty()).unwrap();
        for _ in 0..1200 {
            rustix::fs::mkdirat(&at, "dd", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "dd", DIR_FLAGS, Mode::empty()).unwrap();
        }
        let locked = scratch.join("locked");
        std::fs::create_dir_all(locked.join("in")).unwrap();
        std::fs::write(locked.join("in/file"), "x").unwrap();
        std::os::unix::fs::symlink("/", locked.join("link")).unwrap();
        std::fs::set_permissions(locked.join("in"), std::fs::Permissions::from_mode(0o000)).unwrap();
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).unwrap();
        assert_eq!(Beneath::open(&scratch).unwrap().usage(1 << 40), Usage::TooMuch);
        remove_scratch(&scratch).unwrap();
        assert!(!scratch.exists());
    }

    #[test]
    fn links_are_never_followed() {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", home.path().join("etc")).unwrap();
        let beneath = Beneath::open(home.path()).unwrap();
        assert!(beneath.folder(Path::new("etc")).is_err());
        assert!(beneath.file(Path::new("etc/passwd")).is_err());
        assert!(beneath.folder(Path::new("..")).is_err());
        assert!(beneath.folder_by_parts(Path::new("etc")).is_err());
        assert!(beneath.folder_by_parts(Path::new("..")).is_err());
    }
}
