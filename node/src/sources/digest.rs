//! The two digests that people write into recipes, computed in one pass.

use std::fmt;
use std::io::{self, Read, Write};

use barnraiser_protocol::id::{BlobHash, Sha256};
use sha2::Digest as _;

/// Bytes read at once: large enough that system calls don't count, small enough for every machine.
const CHUNK_BYTES: usize = 128 << 10;

/// What the bytes of a source must hash to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedHash {
    /// By BLAKE3.
    Blake3(BlobHash),
    /// By SHA-256.
    Sha256(Sha256),
}

impl fmt::Display for ExpectedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blake3(hash) => write!(f, "blake3 {hash}"),
            Self::Sha256(hash) => write!(f, "sha256 {hash}"),
        }
    }
}

/// Both digests and the length of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// BLAKE3: the blob's name.
    pub blake3: BlobHash,
    /// SHA-256.
    pub sha256: Sha256,
    /// Bytes.
    pub length: u64,
}

impl Digests {
    /// The digest of the algorithm that `expected` is of, if it differs from `expected`.
    pub fn mismatch(&self, expected: ExpectedHash) -> Option<ExpectedHash> {
        let actual = match expected {
            ExpectedHash::Blake3(_) => ExpectedHash::Blake3(self.blake3),
            ExpectedHash::Sha256(_) => ExpectedHash::Sha256(self.sha256),
        };
        (actual != expected).then_some(actual)
    }
}

/// Why a copy ended early.
pub(super) enum CopyError {
    /// The source of the bytes failed.
    Read(io::Error),
    /// Where they go failed.
    Write(io::Error),
    /// More bytes than allowed.
    TooLarge,
}

/// Copies at most `limit` bytes and digests them; `progress` hears the sum so far after every chunk.
pub(super) fn copy(from: &mut impl Read, to: &mut impl Write, limit: u64, mut progress: impl FnMut(u64)) -> Result<Digests, CopyError> {
    let (mut blake3, mut sha256) = (blake3::Hasher::new(), sha2::Sha256::new());
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut length = 0u64;
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        length += count as u64;
        if length > limit {
            return Err(CopyError::TooLarge);
        }
        blake3.update(&chunk[..count]);
        sha256.update(&chunk[..count]);
        to.write_all(&chunk[..count]).map_err(CopyError::Write)?;
        progress(length);
    }
    Ok(Digests { blake3: blake3.finalize().into(), sha256: Sha256(sha256.finalize().into()), length })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_pass_gives_both_digests_and_stops_at_the_limit() {
        let mut kept = Vec::new();
        let Ok(digests) = copy(&mut &b"barn"[..], &mut kept, 4, |_| {}) else { panic!("four bytes fit") };
        assert_eq!((digests.blake3, digests.sha256, digests.length), (BlobHash::of(b"barn"), Sha256::of(b"barn"), 4));
        assert_eq!(kept, b"barn");
        assert!(digests.mismatch(ExpectedHash::Sha256(Sha256::of(b"barn"))).is_none());
        assert_eq!(digests.mismatch(ExpectedHash::Blake3(BlobHash::of(b"x"))), Some(ExpectedHash::Blake3(digests.blake3)));
        assert!(matches!(copy(&mut &b"barn!"[..], &mut kept, 4, |_| {}), Err(CopyError::TooLarge)));
    }
}
