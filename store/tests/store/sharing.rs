//! Imports on a file system that shares bytes between files, and imports that are watched.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use barnraiser_protocol::id::BlobHash;
use barnraiser_store::disk::{Disk, DiskFile, RealDisk};
use barnraiser_store::{Durability, ImportError, Store, StoreOptions};

use crate::support::{bytes, check_sound, files_below, home};

/// The machine's file system, with reflinks that copy, and a count of what is written otherwise.
#[derive(Debug, Clone, Default)]
struct SharingDisk(Arc<AtomicU64>);

#[derive(Debug)]
struct SharingFile {
    written: Arc<AtomicU64>,
    real: Box<dyn DiskFile>,
}

impl DiskFile for SharingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.real.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.written.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        self.real.write_all_at(bytes, offset)
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.real.set_length(length)
    }
    fn length(&self) -> io::Result<u64> {
        self.real.length()
    }
    fn sync(&self) -> io::Result<()> {
        self.real.sync()
    }
    fn reflink_from(&self, source: BorrowedFd<'_>) -> io::Result<bool> {
        use std::os::unix::fs::FileExt as _;
        let source = std::fs::File::from(source.try_clone_to_owned()?);
        let mut bytes = vec![0; usize::try_from(source.metadata()?.len()).unwrap()];
        source.read_exact_at(&mut bytes, 0)?;
        self.real.write_all_at(&bytes, 0)?;
        Ok(true)
    }
}

impl Disk for SharingDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_folder(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SharingFile { written: self.0.clone(), real: RealDisk.create(path)? }))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path, write)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        RealDisk.list(path)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_folder(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }
}

/// Whatever the length, and nothing but the hash tree is written.
#[test]
fn a_file_is_shared_and_not_copied_where_the_file_system_can() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SharingDisk::default();
    let options = StoreOptions { disk: Arc::new(disk.clone()), ..StoreOptions::default() };
    let store = Store::open_with(&folder.path().join("store"), options).unwrap();
    let source = folder.path().join("source");
    for (seed, length) in [(16 << 10) + 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 6_543_210].into_iter().enumerate() {
        let blob = bytes(seed as u64, length);
        std::fs::write(&source, &blob).unwrap();
        let before = disk.0.load(Ordering::SeqCst);
        let imported = store.import_file(&source, Durability::Announced).unwrap();
        assert_eq!(imported, (BlobHash::of(&blob), length as u64));
        let written = disk.0.load(Ordering::SeqCst) - before;
        assert!(written <= length as u64 / 256, "{written} of {length} bytes were written");
        // The store's copy is its own.
        std::fs::write(&source, b"other").unwrap();
        assert!(store.read_all(&imported.0, length as u64).unwrap() == blob);
    }
    assert!(check_sound(&store).is_empty());
}

#[test]
fn a_watched_import_tells_every_byte_and_leaves_nothing_when_it_is_called_off() {
    let home = home();
    let source = home.folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for (name, length) in [("small", 100), ("large", 3_000_000)] {
        std::fs::write(source.join(name), bytes(7, length)).unwrap();
    }
    let mut told = 0;
    let mut seen = |count| {
        told += count;
        ControlFlow::Continue(())
    };
    home.store.import_tree_watched(&source, Durability::Announced, &mut seen).unwrap();
    assert_eq!(told, 3_000_100);

    let other = crate::support::home();
    let mut left = 5;
    let mut seen = |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let error = other.store.import_file_watched(&source.join("large"), Durability::Cached, &mut seen).unwrap_err();
    assert!(matches!(&error, ImportError::Source { source, .. } if source.to_string().contains("called off")), "{error}");
    assert_eq!(other.store.stats().unwrap().blobs, 0);
    assert!(files_below(&other.store.root().join("tmp")) + files_below(&other.store.root().join("blobs")) == 0);
}

/// What a person sees of a blob: how it is kept, and that it is damaged, until it comes again.
#[test]
fn a_listing_shows_how_blobs_are_kept_and_which_are_damaged() {
    let home = home();
    let cached = home.store.import_bytes(&bytes(1, 40_000), Durability::Cached).unwrap();
    let announced = home.store.import_bytes(&bytes(2, 50_000), Durability::Announced).unwrap();
    crate::support::flip(&crate::support::blob_path(&home.store, &announced), 30_000);
    assert!(home.store.read_all(&announced, 50_000).is_err());
    let of = |hash: &BlobHash| {
        let info = home.store.info(hash).unwrap().unwrap();
        (info.length, info.durability, info.damaged)
    };
    assert_eq!(of(&cached), (40_000, Durability::Cached, false));
    assert_eq!(of(&announced), (50_000, Durability::Announced, true));
    let listed = |beginning: &[u8]| home.store.infos(beginning).map(|info| info.unwrap().hash).collect::<Vec<_>>();
    let mut both = vec![cached, announced];
    both.sort_unstable();
    assert_eq!(listed(b""), both);
    assert_eq!(listed(&cached.0[..3]), [cached]);
    assert!(home.store.free_bytes().unwrap() > 0 && home.store.database_bytes().unwrap() > 0);
}
