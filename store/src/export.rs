//! Copies out of the store, verified as they are written.

use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use bao_tree::ChunkRanges;
use barnraiser_protocol::id::BlobHash;

use crate::disk::reflink;
use crate::error::{Fault, ReadError};
use crate::import::Seen;
use crate::store::Store;
use crate::verify::{Bytes, Groups};

const BUFFER_BYTES: usize = 256 << 10;

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
        let name = to.file_name().ok_or_else(|| Fault::io("write to", to, 0, io::ErrorKind::IsADirectory.into()))?;
        let mut part_name = std::ffi::OsString::from(".");
        part_name.push(name);
        part_name.push(format!(".{}.part", std::process::id()));
        let part = to.with_file_name(part_name);
        let _removal = RemoveOnDrop(part.clone());
        let file = fs::File::create(&part).map_err(|source| Fault::io("create", &part, 4096, source))?;
        let length = self.copy_to(hash, &file, &part, seen)?;
        fs::rename(&part, to).map_err(|source| Fault::io("rename to", to, 4096, source))?;
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

/// Removes a file that was not renamed.
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // After the rename there is nothing of this name: that is the good case.
        let _ = fs::remove_file(&self.0);
    }
}
