//! A disk without room: said so, nothing half-done, and all well once there is room again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barnraiser_store::geometry::unit_range;
use barnraiser_store::{Durability, Fault, ImportError, PartialError, Store, StoreOptions};

use crate::disks::FullDisk;
use crate::support::{bytes, check_sound, encoding, fast_folder, fetch_missing, files_below, home};

fn store_on(disk: &FullDisk, folder: &Path) -> Store {
    Store::open_with(&folder.join("store"), StoreOptions { disk: Arc::new(disk.clone()), ..StoreOptions::default() }).unwrap()
}

/// The disk fills up at every single step of an import.
#[test]
fn import_on_a_full_disk_leaves_nothing_and_works_later() {
    for length in [100_000, 1_500_000, 5_000_000] {
        let folder = fast_folder();
        let disk = FullDisk::new();
        let store = store_on(&disk, folder.path());
        let blob = bytes(1, length);
        for changes in 0.. {
            disk.fill_after(changes);
            let result = store.import_bytes(&blob, Durability::Announced);
            let full = disk.is_full();
            disk.fill_after(u64::MAX);
            match result {
                Ok(hash) => {
                    assert!(store.read_all(&hash, u64::MAX).unwrap() == blob);
                    break;
                }
                Err(ImportError::Fault(fault @ Fault::NoSpace { .. })) => assert!(fault.to_string().contains("no space left"), "{fault}"),
                Err(error) => panic!("{error}"),
            }
            assert!(full);
            assert_eq!(files_below(&store.root().join("tmp")), 0);
            assert_eq!(store.stats().unwrap().blobs, 0);
        }
        assert!(check_sound(&store).is_empty());
    }
}

/// The disk fills up at every single step of a fetch: it goes on with what was verified, once there is room.
#[test]
fn fetch_on_a_full_disk_goes_on_later() {
    let seed = home();
    let length = 2_500_000;
    let hash = seed.store.import_bytes(&bytes(2, length as usize), Durability::Cached).unwrap();
    let encoded: Vec<_> =
        (0..3).map(|unit| unit_range(unit, length)).map(|range| (encoding(&seed.store, &hash, range.clone()).unwrap(), range)).collect();
    for changes in 0..1000 {
        let folder = fast_folder();
        let disk = FullDisk::new();
        let store = store_on(&disk, folder.path());
        disk.fill_after(changes);
        let fetch = || -> Result<u64, (u64, PartialError)> {
            let partial = store.partial(&hash, length).map_err(|error| (length, error))?;
            for (encoded, range) in &encoded {
                partial.write_unit(range.clone(), encoded).map_err(|error| (partial.missing_bytes(), error))?;
            }
            partial.complete(Durability::Announced).map_err(|error| (partial.missing_bytes(), error))?;
            Ok(0)
        };
        let result = fetch();
        disk.fill_after(u64::MAX);
        if let Err((missing, error)) = result {
            assert!(matches!(&error, PartialError::Fault(fault) if fault.is_no_space()), "{error}");
            let partial = store.partial(&hash, length).unwrap();
            assert_eq!(partial.missing_bytes(), missing, "after {changes} changes");
            fetch_missing(&seed.store, &partial);
            partial.complete(Durability::Announced).unwrap();
            assert!(store.contains(&hash).unwrap());
            assert!(check_sound(&store).is_empty());
        } else {
            assert!(changes > 10);
            return;
        }
    }
    panic!("the fetch takes more steps than this test tries");
}

/// A tmpfs, unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.into()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A real file system that is full; needs the right to mount one.
#[test]
fn real_full_disk_is_refused_before_the_database_suffers() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(&folder.path().join("small"), "80m") else {
        eprintln!("not tried: a tmpfs can't be mounted here");
        return;
    };
    let store = Store::open(&mount.0.join("store")).unwrap();
    let mut hashes = Vec::new();
    let error = loop {
        match store.import_bytes(&bytes(hashes.len() as u64, 3_000_000), Durability::Announced) {
            Ok(hash) => hashes.push(hash),
            Err(error) => break error,
        }
        assert!(hashes.len() < 40, "the disk should be full by now");
    };
    assert!(matches!(&error, ImportError::Fault(fault) if fault.is_no_space()), "{error}");
    let ballast = mount.0.join("ballast");
    // Now even the reserve is taken, by somebody else.
    let _ = std::fs::write(&ballast, vec![1u8; 80 << 20]);
    assert!(store.import_bytes(b"small", Durability::Announced).is_err());
    for hash in &hashes {
        store.read_all(hash, u64::MAX).unwrap();
    }
    std::fs::remove_file(ballast).unwrap();
    assert!(store.release(&hashes[0]).unwrap());
    assert_eq!(store.gc(0).unwrap().blobs, 1);
    store.import_bytes(b"small", Durability::Announced).unwrap();
    assert!(check_sound(&store).is_empty());
    drop(store);
}

/// RocksDB takes writes again by itself, but asks for as much room as its largest write buffer: once that was 64 MiB.
#[test]
fn database_on_a_full_disk_goes_on_once_there_is_a_little_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(&folder.path().join("small"), "40m") else {
        eprintln!("not tried: a tmpfs can't be mounted here");
        return;
    };
    let store = Store::open(&mount.0.join("store")).unwrap();
    let ballast = mount.0.join("ballast");
    let _ = std::fs::write(&ballast, vec![1u8; 40 << 20]);
    // A part of its log is there already: that is filled first.
    let error = (0..20).find_map(|key: u8| store.meta_put(&[key], &bytes(u64::from(key), 1 << 20), true).err());
    let error = error.unwrap();
    assert!(error.is_no_space(), "{error}");
    assert!(store.meta_put(b"small", b"1", true).is_err());
    std::fs::remove_file(ballast).unwrap();
    let start = Instant::now();
    while let Err(error) = store.meta_put(b"small", b"2", true) {
        assert!(error.is_no_space() && start.elapsed() < Duration::from_secs(30), "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(store.meta_get(b"small").unwrap().as_deref(), Some(&b"2"[..]));
}
