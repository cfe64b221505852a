//! Copies out of the store, verified as they are written.

use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bao_tree::ChunkRanges;
use barnraiser_protocol::id::BlobHash;
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::disk::reflink;
use crate::error::{Fault, ReadError};
use crate::import::Seen;
use crate::store::Store;
use crate::verify::{Bytes, Groups};

const BUFFER_BYTES: usize = 256 << 10;
/// As many may write to one path at the same time: more are a mistake.
const WRITERS_MAX: u32 = 100;

impl Store {
    /// Writes a blob to a file, which appears at once and whole, or not at all; what was there is replaced. Returns its
    /// length in bytes.
    ///
    /// # Errors
    /// [`ReadError`]; the path then holds what it held before.
    pub fn export(&self, hash: &BlobHash, to: &Path) -> Result<u64, ReadError> {
        self.export_watched(hash, to, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Store::export`]; `seen` is told how many bytes were proven since it was told last, and may call it off.
    ///
    /// # Errors
    /// As [`Store::export`].
    pub fn export_watched(&self, hash: &BlobHash, to: &Path, seen: Seen<'_>) -> Result<u64, ReadError> {
        let mut part = Part::beside(to)?;
        let length = self.copy_to(hash, &part.file, &part.path, seen)?;
        fs::rename(&part.path, to).map_err(|source| Fault::io("rename to", to, 4096, source))?;
        part.is_done = true;
        Ok(length)
    }

    /// As [`Store::export`], by taking the blob out of the store and not by copying it, where it is only cached, not pinned, and
    /// on the file system of `to`: for a store that lives only for this. Where that can't be, it is copied and stays.
    ///
    /// # Errors
    /// [`ReadError`]; the path then holds what it held before.
    pub fn move_out(&self, hash: &BlobHash, to: &Path) -> Result<u64, ReadError> {
        let opened = self.open_blob(hash)?;
        if descriptor(&opened.data).is_some() {
            // What this process has fetched, it proved before it wrote it.
            if !self.has_fetched(hash) {
                self.walk_blob(&opened, &ChunkRanges::all(), &mut Groups::new(|_| Ok(())))?;
            }
            if self.give_away(hash, to)? {
                return Ok(opened.length);
            }
        }
        self.export(hash, to)
    }

    /// Fills an empty file with a blob. Where the file system can, the bytes are shared instead of copied, after they
    /// were proven.
    pub(crate) fn copy_to(&self, hash: &BlobHash, file: &fs::File, path: &Path, seen: Seen<'_>) -> Result<u64, ReadError> {
        let opened = self.open_blob(hash)?;
        let mut proven = |bytes: &[u8]| match seen(bytes.len() as u64) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(io::Error::other("it was called off")),
        };
        if let Some(descriptor) = descriptor(&opened.data)
            && reflink(file.as_fd(), descriptor).map_err(|source| Fault::io("share bytes with", path, opened.length, source))?
        {
            self.walk_blob(&opened, &ChunkRanges::all(), &mut Groups::new(proven))?;
            return Ok(opened.length);
        }
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES.min(opened.length as usize + 1), file);
        let mut write = Groups::new(|bytes: &[u8]| writer.write_all(bytes).and_then(|()| proven(bytes)));
        let written = self.walk_blob(&opened, &ChunkRanges::all(), &mut write);
        let failed = |source| ReadError::from(Fault::io("write", path, opened.length, source));
        match written {
            Err(ReadError::Output(source)) => return Err(failed(source)),
            other => other?,
        }
        writer.flush().map_err(failed)?;
        Ok(opened.length)
    }
}

fn descriptor(bytes: &Bytes) -> Option<BorrowedFd<'_>> {
    match bytes {
        Bytes::File(file) => file.descriptor(),
        Bytes::Memory(_) => None,
    }
}

/// What is being written, until it has its name; removed if that never comes. Its own name is always the same, so that what a
/// process that was killed left behind is overwritten by the next, and does not stay for ever.
struct Part {
    path: PathBuf,
    /// Locked as long as it is open: another who writes to the same place takes another name.
    file: fs::File,
    is_done: bool,
}

impl Part {
    fn beside(to: &Path) -> Result<Self, Fault> {
        let name = to.file_name().ok_or_else(|| Fault::io("write to", to, 0, io::ErrorKind::IsADirectory.into()))?;
        let mut last = None;
        for number in 0..WRITERS_MAX {
            let mut part = std::ffi::OsString::from(".");
            part.push(name);
            part.push(format!(".{number}.part"));
            let path = to.with_file_name(part);
            match Self::take(&path) {
                Ok(Some(file)) => return Ok(Self { path, file, is_done: false }),
                Ok(None) => {}
                // Somebody else's, in a folder that everybody may write to.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => last = Some((path, error)),
                Err(source) => return Err(Fault::io("create", &path, 4096, source)),
            }
        }
        let (path, source) = last.unwrap_or_else(|| (to.to_owned(), io::ErrorKind::ResourceBusy.into()));
        Err(Fault::io("create", &path, 4096, source))
    }

    /// Opens and locks an empty file there; none where another has it.
    fn take(path: &Path) -> io::Result<Option<fs::File>> {
        let options = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::File::from(rustix::fs::open(path, options, Mode::from_raw_mode(0o666))?);
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
            return Ok(None);
        }
        // Who had it may have given it its name, or removed it, before the lock was ours.
        let (ours, there) = (file.metadata()?, fs::symlink_metadata(path));
        let is_there = there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
        if !is_there || !ours.is_file() || ours.uid() != rustix::process::geteuid().as_raw() {
            return Ok(None);
        }
        file.set_len(0)?;
        Ok(Some(file))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_file(&self.path);
        }
    }
}
