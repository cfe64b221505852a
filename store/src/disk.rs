//! The file layer: the few things that the store asks of a file system.
//!
//! Everything the store writes beside its database goes through [`Disk`], so that tests can lose what was not synced,
//! fill the disk or fail at any step. What a step promises after a power loss is said at each method, and the store
//! relies on nothing else.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Bytes that are written at once. The kernel keeps what comes at once in pages that lie together: those of a longer write
/// it must look for, and a machine that lends its memory must fetch them, which was measured to cost up to twice the time.
pub(crate) const PIECE_BYTES: usize = 128 << 10;

/// Parts that are written at once: the groups of a piece, and one for what does not fall on their borders.
const PIECE_PARTS_MAX: usize = PIECE_BYTES / (16 << 10) + 1;

/// An open file. Reads and writes name their place, so that one handle serves many threads.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads up to `buffer.len()` bytes from `offset`; 0 at the end.
    ///
    /// # Errors
    /// What the operating system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. Promises nothing until [`DiskFile::sync`].
    ///
    /// # Errors
    /// What the operating system says; some of the bytes may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `parts`, one behind the other, at `offset`. Promises what [`DiskFile::write_all_at`] does.
    ///
    /// # Errors
    /// What the operating system says; some of the bytes may have been written.
    fn write_parts_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        for part in parts {
            self.write_all_at(part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Makes the file `length` bytes long; what is added is zero and takes no room.
    ///
    /// # Errors
    /// What the operating system says.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// What the operating system says.
    fn length(&self) -> io::Result<u64>;

    /// When this returns, the file's bytes and length survive a power loss (its name may not).
    ///
    /// # Errors
    /// What the operating system says; then nothing is promised.
    fn sync(&self) -> io::Result<()>;

    /// Makes this empty file share `source`'s bytes where the file system can (a reflink). Whether it did.
    ///
    /// # Errors
    /// Only what is not "can't be done here".
    fn reflink_from(&self, source: BorrowedFd<'_>) -> io::Result<bool> {
        let _ = source;
        Ok(false)
    }

    /// The descriptor, for reflinks out of the store.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Reads exactly `buffer.len()` bytes from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the file is shorter, or what the operating system says.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A file system below the store's root.
pub trait Disk: Send + Sync + Debug {
    /// Makes a folder that doesn't exist. Its name survives after [`Disk::sync_folder`] of the folder around it.
    ///
    /// # Errors
    /// What the operating system says.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes an empty file for reading and writing; one that exists is emptied.
    ///
    /// # Errors
    /// What the operating system says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading, and for writing if `write`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] and what else the operating system says.
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, replacing what has it, at once for all readers. Survives after [`Disk::sync_folder`]
    /// of the new name's folder.
    ///
    /// # Errors
    /// What the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; open handles stay good.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names and lengths of the files in a folder, in no order.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>>;

    /// When this returns, the names in the folder survive a power loss.
    ///
    /// # Errors
    /// What the operating system says; then nothing is promised.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Bytes that may still be written.
    ///
    /// # Errors
    /// What the operating system says.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// The machine's own file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

/// A file of the machine's own file system.
#[derive(Debug)]
struct RealFile(fs::File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], mut offset: u64) -> io::Result<()> {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.0.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }
    fn write_parts_at(&self, mut parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut slices = Vec::with_capacity(PIECE_PARTS_MAX);
        while !parts.is_empty() {
            slices.clear();
            let mut length = 0;
            while let Some((part, rest)) = parts.split_first()
                && (slices.is_empty() || length + part.len() <= PIECE_BYTES && slices.len() < PIECE_PARTS_MAX)
            {
                slices.push(io::IoSlice::new(part));
                length += part.len();
                parts = rest;
            }
            write_slices_at(&self.0, &mut slices, offset)?;
            offset += length as u64;
        }
        Ok(())
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn sync(&self) -> io::Result<()> {
        // fdatasync also writes what is needed to find the bytes again: the length and the block map.
        self.0.sync_data()
    }
    fn reflink_from(&self, source: BorrowedFd<'_>) -> io::Result<bool> {
        reflink(&self.0, source)
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(std::os::fd::AsFd::as_fd(&self.0))
    }
}

/// Writes all of `slices` at `offset`.
fn write_slices_at(file: &fs::File, mut slices: &mut [io::IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    loop {
        // Those that are empty or written are no longer there.
        io::IoSlice::advance_slices(&mut slices, 0);
        if slices.is_empty() {
            return Ok(());
        }
        match rustix::io::pwritev(file, slices, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                io::IoSlice::advance_slices(&mut slices, count);
                offset += count as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes `to` share the bytes of `from` where the file system can. Whether it did.
///
/// # Errors
/// Only what is not "can't be done here".
pub(crate) fn reflink(to: impl std::os::fd::AsFd, from: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::io::Errno;
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        // Which of these a file system that has no reflinks answers differs from one to the next.
        Err(
            Errno::OPNOTSUPP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::NOTTY
            | Errno::NOSYS
            | Errno::PERM
            | Errno::BADF
            | Errno::TXTBSY
            | Errno::ISDIR,
        ) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Disk for RealDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().mode(0o700).create(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Box::new(RealFile(file)))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(fs::OpenOptions::new().read(true).write(write).open(path)?)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // What has no UTF-8 name is not the store's.
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => files.push((name, metadata.len())),
                Ok(_) => {}
                // Removed since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}
