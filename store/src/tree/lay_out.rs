//! A tree becomes a folder. Every folder on the way is opened without following links, so nothing is written elsewhere,
//! whatever was in the place before.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::tree::Entry;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::Pattern;
use crate::error::{Fault, LayOutError};
use crate::store::Store;

/// How to lay a tree out.
#[derive(Debug, Clone, Default)]
pub struct LayOut {
    /// Take the right to write from the files: 0444 and 0555 instead of 0644 and 0755. Folders keep it, so that they can be
    /// removed and other trees laid over them.
    pub read_only: bool,
    /// Lay out only what one of these fits; everything, where there is none.
    pub only: Vec<Pattern>,
    /// The time of change that everything gets, in seconds since 1970.
    pub epoch_s: u64,
}

impl Store {
    /// Lays a tree out in a folder, which is made if it isn't there. What is in it already stays; a path that is taken is
    /// an error. Returns how many files and links were made.
    ///
    /// # Errors
    /// [`LayOutError`]: no tree, a blob of it missing or damaged, a path taken, or this machine's. What was laid out
    /// before stays there.
    pub fn lay_out(&self, tree: &BlobHash, folder: &Path, how: &LayOut) -> Result<u64, LayOutError> {
        let tree = self.tree(tree)?;
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Fault::io("make the folder", folder, 4096, error).into());
            }
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(folder, flags, Mode::empty()).map_err(|error| Fault::io("open", folder, 0, error.into()))?;
        let mut laying = Laying { store: self, folder, how, root, open: Vec::new() };
        let mut count = 0;
        for (path, entry) in tree.entries() {
            if how.only.is_empty() || how.only.iter().any(|pattern| pattern.matches(path)) {
                laying.thing(path, entry)?;
                count += 1;
            }
        }
        laying.close_to(0)?;
        set_time(laying.root.as_fd(), how.epoch_s).map_err(|error| Fault::io("set the time of", folder, 0, error.into()))?;
        Ok(count)
    }
}

struct Laying<'a> {
    store: &'a Store,
    folder: &'a Path,
    how: &'a LayOut,
    root: OwnedFd,
    /// The folders from the root down to where the last thing was made.
    open: Vec<(String, OwnedFd)>,
}

impl Laying<'_> {
    fn thing(&mut self, path: &str, entry: &Entry) -> Result<(), LayOutError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.go_to(folder)?;
        let parent = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
        match entry {
            Entry::EmptyFolder => self.go_to(path),
            Entry::Symlink { target } => {
                rustix::fs::symlinkat(target, parent, name).map_err(|error| self.failed("make the link", path, error))?;
                rustix::fs::utimensat(parent, name, &times(self.how.epoch_s), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| self.failed("set the time of", path, error))
            }
            Entry::File { hash, length, executable } => self.file(parent, name, path, hash, *length, *executable),
        }
    }

    fn file(
        &self,
        parent: BorrowedFd<'_>,
        name: &str,
        path: &str,
        hash: &BlobHash,
        length: u64,
        executable: bool,
    ) -> Result<(), LayOutError> {
        let actual = self.store.length(hash)?.ok_or(crate::error::ReadError::NotFound(*hash))?;
        if actual != length {
            return Err(LayOutError::Length { path: path.into(), hash: *hash, length, actual });
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(|error| self.failed("create", path, error))?;
        let file = File::from(file);
        self.store.copy_to(hash, &file, &self.at(path), &mut |_| ControlFlow::Continue(()))?;
        let mode = match (executable, self.how.read_only) {
            (false, false) => 0o644,
            (true, false) => 0o755,
            (false, true) => 0o444,
            (true, true) => 0o555,
        };
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|error| self.failed("set the mode of", path, error))?;
        set_time(file.as_fd(), self.how.epoch_s).map_err(|error| self.failed("set the time of", path, error))
    }

    /// Opens the folders down to `folder`, making those that aren't there.
    fn go_to(&mut self, folder: &str) -> Result<(), LayOutError> {
        let parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        let shared = self.open.iter().zip(&parts).take_while(|((name, _), part)| name == *part).count();
        self.close_to(shared)?;
        for depth in shared..parts.len() {
            let (name, path) = (parts[depth], parts[..=depth].join("/"));
            let parent = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(self.failed("make the folder", &path, error)),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|error| match error {
                Errno::NOTDIR | Errno::LOOP => {
                    LayOutError::Collision { path: path.clone(), reason: "something that is no folder is there".into() }
                }
                error => self.failed("open", &path, error),
            })?;
            rustix::fs::fchmod(&opened, Mode::from_raw_mode(0o755)).map_err(|error| self.failed("set the mode of", &path, error))?;
            self.open.push((name.to_owned(), opened));
        }
        Ok(())
    }

    /// Leaves folders until `depth` are open; their times are set last, since each new thing in them changes them.
    fn close_to(&mut self, depth: usize) -> Result<(), LayOutError> {
        while self.open.len() > depth
            && let Some((name, fd)) = self.open.pop()
        {
            set_time(fd.as_fd(), self.how.epoch_s).map_err(|error| self.failed("set the time of", &name, error))?;
        }
        Ok(())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    fn failed(&self, what: &'static str, path: &str, error: Errno) -> LayOutError {
        if error == Errno::EXIST {
            return LayOutError::Collision { path: path.into(), reason: "something of that name is there already".into() };
        }
        Fault::io(what, &self.at(path), 4096, error.into()).into()
    }
}

fn times(epoch_s: u64) -> Timestamps {
    let moment = Timespec { tv_sec: i64::try_from(epoch_s).unwrap_or(i64::MAX), tv_nsec: 0 };
    Timestamps { last_access: moment, last_modification: moment }
}

fn set_time(fd: BorrowedFd<'_>, epoch_s: u64) -> Result<(), Errno> {
    rustix::fs::futimens(fd, &times(epoch_s))
}
