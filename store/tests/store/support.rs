//! What all tests share: bytes from a seed, a store in a folder of its own, and a check that a store is sound.

use std::ops::Range;
use std::path::Path;

use barnraiser_protocol::id::BlobHash;
use barnraiser_store::geometry::{unit_count, unit_range};
use barnraiser_store::{PartialBlob, ReadError, Store};

/// A store that goes with its folder.
pub struct Home {
    pub store: Store,
    pub folder: tempfile::TempDir,
}

pub fn home() -> Home {
    let folder = tempfile::tempdir().unwrap();
    Home { store: Store::open(&folder.path().join("store")).unwrap(), folder }
}

/// A folder in memory where the machine has one: for tests that bring their own idea of what a sync does.
pub fn fast_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The same numbers for the same seed, everywhere (splitmix64).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    Random(seed).bytes(length)
}

pub fn encoding(store: &Store, hash: &BlobHash, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
    let mut encoded = Vec::new();
    store.encode_ranges(hash, range, &mut encoded).map(|()| encoded)
}

/// Fetches what is missing from another store.
pub fn fetch_missing(from: &Store, to: &PartialBlob) {
    for unit in 0..unit_count(to.length()) {
        if !to.has(unit) {
            let range = unit_range(unit, to.length());
            to.write_unit(range.clone(), &encoding(from, to.hash(), range).unwrap()).unwrap();
        }
    }
}

/// Checks what must hold after any crash: nothing wrong is served; fetches hold nothing that is not proven; after a
/// collection every file has its entry. Blobs that were only cached may be damaged, and are named then.
pub fn check_sound(store: &Store) -> Vec<BlobHash> {
    let mut damaged = Vec::new();
    let blobs: Vec<_> = store.blobs().map(Result::unwrap).collect();
    for (hash, length) in blobs {
        let mut read = Vec::new();
        match store.read_verified(&hash, &mut read) {
            Ok(_) => {
                assert_eq!(BlobHash::of(&read), hash, "wrong bytes were served");
                assert_eq!(read.len() as u64, length);
            }
            Err(ReadError::Damaged { .. }) => {
                assert!(!store.contains(&hash).unwrap(), "a damaged blob must count as absent");
                damaged.push(hash);
            }
            Err(error) => panic!("{hash}: {error}"),
        }
    }
    for (hash, length) in store.partials_begun().unwrap() {
        let partial = store.partial(&hash, length).unwrap();
        for range in partial.verified() {
            encoding(store, &hash, range).unwrap();
        }
    }
    store.gc(u64::MAX).unwrap();
    assert_eq!(store.gc(u64::MAX).unwrap(), Default::default(), "a collection leaves nothing for the next");
    assert_eq!(files_below(&store.root().join("tmp")), 0);
    damaged
}

/// How many files are in a folder and below it.
pub fn files_below(folder: &Path) -> usize {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| if entry.file_type().unwrap().is_dir() { files_below(&entry.path()) } else { 1 })
        .sum()
}

/// Where a blob's bytes are on disk.
pub fn blob_path(store: &Store, hash: &BlobHash) -> std::path::PathBuf {
    let name = hash.to_string();
    store.root().join("blobs").join(&name[..2]).join(name)
}

/// Changes one bit of a file.
pub fn flip(path: &Path, offset: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}
