//! The log of a build: what its programs print, as they print it, in a file that can be read meanwhile.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use barnraiser_protocol::id::BlobHash;

/// The most bytes of a log that are kept. The build goes on beyond.
pub const LOG_BYTES_MAX: u64 = 64 << 20;

/// A log being written.
pub struct Log {
    file: File,
    written: u64,
    limit: u64,
    /// Bytes printed, kept or not.
    printed: Arc<AtomicU64>,
}

impl Log {
    /// An empty log at `path`.
    ///
    /// # Errors
    /// What making the file says.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, LOG_BYTES_MAX)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, written: 0, limit, printed: Arc::default() })
    }

    /// How many bytes were printed so far; goes on counting while the log is elsewhere.
    pub fn printed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.printed)
    }

    /// Writes down all that comes, until the last writer is gone. A log that can't be written any more (a full disk) is
    /// read on, since the build would stop otherwise.
    pub fn pump(&mut self, mut from: impl Read) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    self.printed.fetch_add(length as u64, Ordering::Relaxed);
                    self.keep(&buffer[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "the output of a build could not be read on");
                    return;
                }
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = usize::try_from(self.limit.saturating_sub(self.written)).unwrap_or(usize::MAX);
        if room == 0 {
            return;
        }
        let kept = &bytes[..bytes.len().min(room)];
        self.append(kept);
        self.written += kept.len() as u64;
        if self.written >= self.limit {
            self.append(format!("\n==> the log is cut here, at {} bytes; the build goes on\n", self.limit).as_bytes());
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Err(error) = self.file.write_all(bytes) {
            tracing::warn!(%error, "a build's log could not be written");
            self.limit = 0;
        }
    }

    /// A line of the builder's own, which is kept whatever the length.
    pub fn note(&mut self, text: &str) {
        self.append(format!("==> {text}\n").as_bytes());
    }
}

/// The log's blob hash and length.
///
/// # Errors
/// What reading it says.
pub fn digest(path: &Path) -> io::Result<(BlobHash, u64)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok((hasher.finalize().into(), hasher.count()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn long_logs_are_cut_with_a_note() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("log");
        let mut log = Log::with_limit(&path, 10).unwrap();
        log.pump(&b"0123456789abcdef"[..]);
        log.note("end");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("0123456789\n==> the log is cut here, at 10 bytes") && text.ends_with("==> end\n"), "{text}");
        assert_eq!(log.printed().load(Ordering::Relaxed), 16);
        assert_eq!(digest(&path).unwrap(), (BlobHash::of(text.as_bytes()), text.len() as u64));
    }
}
