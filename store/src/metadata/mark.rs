//! Up to which write the database has promised to lose nothing, told by a file of its own.
//!
//! A log that was cut off looks like one that ends there: the database would open, and lack what it had promised. So the number
//! of the last write that is certain to be synced is written down after each sync, beside the database. It is not synced
//! itself, and so may be behind after a power loss, never ahead.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The file, in the database's folder, so that it goes where that goes.
const NAME: &str = "SYNCED";
/// The number, and the first bytes of its hash.
const BYTES: usize = 16;

/// The file, and what it says.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    promised: Mutex<u64>,
}

impl Mark {
    /// Opens the mark of the database in `folder`, or makes it. One that is not whole says nothing: it is of no use to anybody
    /// but to find damage, and the damage is its own.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(NAME))?;
        let mut bytes = [0; BYTES];
        let promised = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => number(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        Ok(Self { file, promised: Mutex::new(promised) })
    }

    /// The write up to which nothing may be missing.
    pub(super) fn promised(&self) -> u64 {
        *self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All up to the write of that number is synced.
    pub(super) fn promise(&self, number: u64) {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        if number > *promised {
            *promised = number;
            // A promise that is not written down is kept all the same.
            if let Err(error) = self.file.write_all_at(&encoded(number), 0) {
                tracing::debug!(%error, "the mark of the database can't be written");
            }
        }
    }
}

fn encoded(number: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let hash = blake3::hash(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&hash.as_bytes()[..8]);
    bytes
}

fn number(bytes: &[u8; BYTES]) -> Option<u64> {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    let number = u64::from_le_bytes(number);
    (encoded(number) == *bytes).then_some(number)
}

/// Whether there is a database in `folder` of which the file is gone that says where it begins.
pub(super) fn lacks_current(folder: &Path) -> bool {
    let mut names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    !folder.join("CURRENT").exists() && names.any(|name| name.to_string_lossy().starts_with("MANIFEST-"))
}
