//! Blobs: in, out, damaged, evicted.

use std::io::Read as _;
use std::ops::ControlFlow;

use barnraiser_protocol::id::BlobHash;
use barnraiser_store::{Collecting, Durability, Keeping, ReadError, Stats, Store};

use crate::support::{blob_path, bytes, check_sound, encoding, files_below, flip, home};

const LENGTHS: [usize; 9] = [0, 1, 16 << 10, (16 << 10) + 1, 1 << 20, (1 << 20) + 1, 3_333_333, 4 << 20, 6_543_210];

#[test]
fn what_goes_in_comes_out() {
    let home = home();
    for durability in [Durability::Cached, Durability::Announced] {
        for (seed, length) in LENGTHS.into_iter().enumerate() {
            let blob = bytes(seed as u64, length);
            let (hash, imported) = home.store.import_reader(blob.as_slice(), durability).unwrap();
            assert_eq!((hash, imported), (BlobHash::of(&blob), length as u64));
            assert!(home.store.contains(&hash).unwrap());
            assert_eq!(home.store.length(&hash).unwrap(), Some(length as u64));
            assert!(home.store.read_all(&hash, length as u64).unwrap() == blob);
            let mut read = Vec::new();
            home.store.reader(&hash).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == blob);
        }
    }
    assert_eq!(home.store.stats().unwrap(), Stats { blobs: 9, bytes: LENGTHS.iter().sum::<usize>() as u64 });
    assert!(check_sound(&home.store).is_empty());
}

/// A reader that gives a few bytes at a time makes no difference.
#[test]
fn import_does_not_depend_on_how_the_reader_gives() {
    struct Dribble<'a>(&'a [u8]);
    impl std::io::Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = buffer.len().min(self.0.len()).min(8191);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }
    let home = home();
    for length in LENGTHS {
        let blob = bytes(3, length);
        let (hash, _) = home.store.import_reader(Dribble(&blob), Durability::Cached).unwrap();
        assert_eq!(hash, BlobHash::of(&blob));
    }
}

/// A reader that fails in the middle leaves nothing behind.
#[test]
fn failing_reader_leaves_nothing() {
    struct Failing(usize);
    impl std::io::Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::other("the line went dead"));
            }
            let count = buffer.len().min(self.0);
            self.0 -= count;
            Ok(count)
        }
    }
    let home = home();
    for length in [10, 100_000, 5 << 20] {
        let error = home.store.import_reader(Failing(length), Durability::Announced).unwrap_err();
        assert!(error.to_string().contains("the line went dead"), "{error}");
    }
    assert_eq!(home.store.stats().unwrap(), Stats::default());
    assert_eq!(files_below(&home.store.root().join("tmp")) + files_below(&home.store.root().join("blobs")), 0);
}

/// Nothing that is promised to somebody is given away.
#[test]
fn cached_blob_is_moved_out_and_any_other_is_copied() {
    let home = home();
    let to = home.folder.path().join("moved");
    for (length, durability, pinned) in [
        (300_000, Durability::Cached, false),
        (5 << 20, Durability::Cached, false),
        (300_000, Durability::Announced, false),
        (300_000, Durability::Cached, true),
        (100, Durability::Cached, false),
    ] {
        let blob = bytes(5, length);
        let hash = home.store.import_bytes(&blob, durability).unwrap();
        if pinned {
            home.store.pin("mine", &hash).unwrap();
        }
        assert_eq!(home.store.move_out(&hash, &to).unwrap(), length as u64);
        assert!(std::fs::read(&to).unwrap() == blob);
        let goes = durability == Durability::Cached && !pinned && length > 16 << 10;
        assert_eq!(home.store.length(&hash).unwrap().is_none(), goes, "{length} bytes");
        assert!(!goes || home.store.import_bytes(&blob, Durability::Cached).is_ok(), "it may come again");
        home.store.release(&hash).unwrap();
        home.store.unpin("mine").unwrap();
        home.store.gc(0).unwrap();
    }
    assert_eq!(home.store.gc(0).unwrap().orphans, 0);
}

#[test]
fn source_file_stays_as_it_is_and_export_gives_it_back() {
    let home = home();
    let (source, copy) = (home.folder.path().join("source"), home.folder.path().join("copy"));
    for length in [7, 5_000_000] {
        let blob = bytes(9, length);
        std::fs::write(&source, &blob).unwrap();
        let (hash, _) = home.store.import_file(&source, Durability::Announced).unwrap();
        assert!(std::fs::read(&source).unwrap() == blob);
        std::fs::remove_file(&source).unwrap();
        assert_eq!(home.store.export(&hash, &copy).unwrap(), length as u64);
        assert!(std::fs::read(&copy).unwrap() == blob);
    }
    let error = home.store.import_file(&source, Durability::Cached).unwrap_err();
    assert!(error.to_string().contains("source"), "{error}");
    assert!(home.store.import_file(home.folder.path(), Durability::Cached).is_err());
}

/// What a process that was killed in the middle of an export left beside the file stayed there for ever.
#[test]
fn what_a_killed_export_left_is_used_by_the_next_one() {
    let home = home();
    let blob = bytes(6, 100_000);
    let hash = home.store.import_bytes(&blob, Durability::Cached).unwrap();
    let folder = home.folder.path().join("images");
    std::fs::create_dir(&folder).unwrap();
    let (to, left) = (folder.join("image"), folder.join(".image.0.part"));
    std::fs::write(&left, bytes(7, 200_000)).unwrap();
    home.store.export(&hash, &to).unwrap();
    assert!(std::fs::read(&to).unwrap() == blob && files_below(&folder) == 1);
    // One that somebody is writing to is left alone, and so is what only looks like one.
    let theirs = std::fs::File::create(&left).unwrap();
    theirs.lock().unwrap();
    std::os::unix::fs::symlink(&to, folder.join(".image.1.part")).unwrap();
    let other = home.store.import_bytes(&bytes(8, 70_000), Durability::Cached).unwrap();
    std::fs::hard_link(&to, folder.join("kept")).unwrap();
    let error = home.store.export(&other, &to).unwrap_err();
    assert!(error.to_string().contains(".image.1.part"), "{error}");
    std::fs::remove_file(folder.join(".image.1.part")).unwrap();
    home.store.export(&other, &to).unwrap();
    assert!(std::fs::read(&to).unwrap() == bytes(8, 70_000) && std::fs::read(folder.join("kept")).unwrap() == blob);
    assert!(left.exists());
}

#[test]
fn read_all_keeps_to_its_limit() {
    let home = home();
    let hash = home.store.import_bytes(&bytes(1, 50_000), Durability::Cached).unwrap();
    assert!(matches!(home.store.read_all(&hash, 49_999), Err(ReadError::TooLong { length: 50_000, limit: 49_999, .. })));
}

/// One bit that changed on disk: the blob is not served, not even its other parts, and the error names it.
#[test]
fn damaged_blob_is_refused_everywhere_and_mended_by_coming_again() {
    let home = home();
    let blob = bytes(4, 5_000_000);
    for (what, offset) in [("bytes", 3_000_000), ("tree", 64 * 100)] {
        for way in ["encode", "read", "reader", "export", "scrub"] {
            let hash = home.store.import_bytes(&blob, Durability::Announced).unwrap();
            let path = blob_path(&home.store, &hash);
            flip(&if what == "tree" { path.with_extension("tree") } else { path }, offset);
            let error = match way {
                "encode" => encoding(&home.store, &hash, 0..blob.len() as u64).unwrap_err().to_string(),
                "read" => home.store.read_all(&hash, u64::MAX).unwrap_err().to_string(),
                "reader" => {
                    let mut read = Vec::new();
                    let error = home.store.reader(&hash).unwrap().read_to_end(&mut read).unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
                    assert!(read[..] == blob[..read.len()], "no wrong byte may come before the error");
                    error.to_string()
                }
                "export" => {
                    let to = home.folder.path().join("export");
                    let error = home.store.export(&hash, &to).unwrap_err();
                    assert_eq!(files_below(home.folder.path()), files_below(home.store.root()), "nothing is left where it should go");
                    error.to_string()
                }
                _ => {
                    let scrubbed = home.store.scrub(&mut |_| ControlFlow::Continue(())).unwrap();
                    assert_eq!(scrubbed.damaged, vec![hash]);
                    format!("{hash}")
                }
            };
            assert!(error.contains(&hash.to_string()), "{way}: {error}");
            assert!(!home.store.contains(&hash).unwrap());
            assert!(matches!(encoding(&home.store, &hash, 0..1), Err(ReadError::NotFound(_))));
            assert_eq!(home.store.stats().unwrap().blobs, 0);
        }
    }
    let hash = home.store.import_bytes(&blob, Durability::Cached).unwrap();
    assert!(home.store.read_all(&hash, u64::MAX).unwrap() == blob);
}

#[test]
fn truncated_or_missing_file_is_damage() {
    let home = home();
    let blob = bytes(5, 100_000);
    let hash = home.store.import_bytes(&blob, Durability::Announced).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(blob_path(&home.store, &hash)).unwrap();
    file.set_len(99_999).unwrap();
    assert!(matches!(home.store.read_all(&hash, u64::MAX), Err(ReadError::Damaged { .. })));
    home.store.import_bytes(&blob, Durability::Announced).unwrap();
    std::fs::remove_file(blob_path(&home.store, &hash)).unwrap();
    assert!(matches!(home.store.read_all(&hash, u64::MAX), Err(ReadError::Damaged { .. })));
    assert!(!home.store.contains(&hash).unwrap());
}

#[test]
fn collection_evicts_only_what_is_cached_and_not_pinned() {
    let home = home();
    let store = &home.store;
    let announced = store.import_bytes(&bytes(1, 100_000), Durability::Announced).unwrap();
    let pinned = store.import_bytes(&bytes(2, 100_000), Durability::Cached).unwrap();
    let cached = store.import_bytes(&bytes(3, 100_000), Durability::Cached).unwrap();
    let small = store.import_bytes(&bytes(4, 100), Durability::Cached).unwrap();
    store.pin("keep", &pinned).unwrap();
    let mut open = store.reader(&cached).unwrap();
    assert_eq!(store.gc(u64::MAX).unwrap().blobs, 0);
    let collected = store.gc(0).unwrap();
    assert_eq!((collected.blobs, collected.bytes), (2, 100_100));
    assert!(store.contains(&announced).unwrap() && store.contains(&pinned).unwrap());
    assert!(!store.contains(&cached).unwrap() && !store.contains(&small).unwrap());
    let mut read = Vec::new();
    open.read_to_end(&mut read).unwrap();
    assert!(read == bytes(3, 100_000), "what is open can be read to its end");
    assert!(store.release(&announced).unwrap() && store.unpin("keep").unwrap());
    assert_eq!(store.gc(0).unwrap().blobs, 2);
    assert_eq!((store.stats().unwrap(), files_below(&store.root().join("blobs"))), (Stats::default(), 0));
}

/// A blob that was cached and is imported to be announced is kept from then on.
#[test]
fn announcing_a_cached_blob_keeps_it() {
    let home = home();
    for length in [10, 100_000] {
        let hash = home.store.import_bytes(&bytes(1, length), Durability::Cached).unwrap();
        home.store.import_bytes(&bytes(1, length), Durability::Announced).unwrap();
        home.store.import_bytes(&bytes(1, length), Durability::Cached).unwrap();
        home.store.gc(0).unwrap();
        assert!(home.store.contains(&hash).unwrap());
    }
}

/// What is kept for others is as safe as what is announced, and removing it takes nothing that is announced too, whichever
/// came first.
#[test]
fn removing_ends_a_keep_and_spares_what_is_announced() {
    for length in [10, 100_000] {
        let home = home();
        let store = &home.store;
        let add = |seed, durability| store.import_bytes(&bytes(seed, length), durability).unwrap();
        let (kept, own, both) = (add(1, Durability::Cached), add(2, Durability::Announced), add(3, Durability::Cached));
        assert_eq!(store.keep(&kept).unwrap(), Keeping::Kept);
        assert_eq!(store.keep(&kept).unwrap(), Keeping::Kept);
        assert_eq!(store.keep(&own).unwrap(), Keeping::Announced);
        assert_eq!(store.keep(&both).unwrap(), Keeping::Kept);
        assert_eq!(store.keep(&BlobHash([7; 32])).unwrap(), Keeping::Absent);
        assert_eq!(add(3, Durability::Announced), both);
        store.gc(0).unwrap();
        assert!([kept, own, both].iter().all(|hash| store.contains(hash).unwrap()));
        assert_eq!(store.remove(&[kept, own, both]).unwrap(), [own, both]);
        store.gc(0).unwrap();
        assert_eq!([kept, own, both].map(|hash| store.contains(&hash).unwrap()), [false, true, true]);
    }
}

#[test]
fn removing_lowers_what_is_pinned_so_that_the_keep_ends_with_the_pin() {
    let home = home();
    let store = &home.store;
    let hash = store.import_bytes(&bytes(1, 100_000), Durability::Cached).unwrap();
    store.pin("mine", &hash).unwrap();
    store.keep(&hash).unwrap();
    assert_eq!(store.remove(&[hash]).unwrap(), [hash]);
    store.gc(0).unwrap();
    assert!(store.contains(&hash).unwrap());
    store.unpin("mine").unwrap();
    store.gc(0).unwrap();
    assert!(!store.contains(&hash).unwrap());
}

/// A blob may be as long as a disk: who watches a scrub sees it go on within one, and may end it there.
#[test]
fn scrub_tells_how_far_it_is_within_a_blob_and_can_be_called_off() {
    let home = home();
    home.store.import_bytes(&bytes(9, 5_000_000), Durability::Cached).unwrap();
    let mut told = Vec::new();
    let scrubbed = home.store.scrub(&mut |count| {
        told.push(count);
        ControlFlow::Continue(())
    });
    assert_eq!((scrubbed.unwrap().bytes, told.iter().sum::<u64>()), (5_000_000, 5_000_000));
    assert!(told.len() > 100 && told.iter().all(|count| *count <= 16 << 10), "{} times", told.len());
    let mut seen = 0;
    let scrubbed = home.store.scrub(&mut |count| {
        seen += count;
        if seen > 100_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(scrubbed.unwrap(), barnraiser_store::Scrubbed::default());
    assert!(seen < 200_000);
}

#[test]
fn collection_tells_how_far_it_is_and_can_be_called_off() {
    let home = home();
    for seed in 0..10 {
        home.store.import_bytes(&bytes(seed, 100_000), Durability::Cached).unwrap();
    }
    let mut told = Vec::new();
    let collected = home.store.gc_watched(450_000, &mut |at| {
        told.push(at);
        if at == (Collecting::Evicting { done: 200_000, goal: 550_000 }) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((collected.unwrap().blobs, home.store.stats().unwrap().blobs), (2, 8));
    assert!(told.contains(&Collecting::Looking { entries: 10 }), "{told:?}");
    told.clear();
    home.store
        .gc_watched(450_000, &mut |at| {
            told.push(at);
            ControlFlow::Continue(())
        })
        .unwrap();
    // 8 are left; one more than fits half must go.
    assert!(told.contains(&Collecting::Evicting { done: 400_000, goal: 400_000 }), "{told:?}");
    assert_eq!(told.last(), Some(&Collecting::Sweeping { folders: 255 }));
}

/// Without its database a store takes its files in again.
#[test]
fn files_are_recovered_when_the_database_was_moved_away() {
    let home = home();
    let root = home.store.root().to_owned();
    let blob = bytes(8, 5_000_000);
    let hash = home.store.import_bytes(&blob, Durability::Announced).unwrap();
    let folder = home.folder;
    drop(home.store);
    std::fs::rename(root.join("db"), root.join("db.old")).unwrap();
    let store = Store::open(&root).unwrap();
    assert!(!store.contains(&hash).unwrap());
    assert_eq!(store.scrub(&mut |_| ControlFlow::Continue(())).unwrap().recovered, 1);
    assert!(store.read_all(&hash, u64::MAX).unwrap() == blob);
    drop(folder);
}

#[test]
fn many_threads_import_the_same_and_others() {
    let home = home();
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let store = &home.store;
            scope.spawn(move || {
                for seed in 0..12 {
                    let length = [100, 40_000, 1_500_000][seed as usize % 3];
                    let durability = if (seed + thread) % 2 == 0 { Durability::Announced } else { Durability::Cached };
                    let blob = bytes(seed, length);
                    let hash = store.import_bytes(&blob, durability).unwrap();
                    assert!(store.read_all(&hash, u64::MAX).unwrap() == blob);
                    store.stats().unwrap();
                }
            });
        }
    });
    assert_eq!(home.store.stats().unwrap().blobs, 12);
    assert!(check_sound(&home.store).is_empty());
}

/// Small blobs live in the database, which gives their room back too.
#[test]
fn evicting_small_blobs_frees_the_disk() {
    fn size(folder: &std::path::Path) -> u64 {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().map_or(0, |metadata| metadata.len())).sum()
    }
    let home = home();
    let mut random = crate::support::Random(1);
    let kept: Vec<_> = (0..1000).map(|_| home.store.import_bytes(&random.bytes(8000), Durability::Announced).unwrap()).collect();
    for _ in 0..8000 {
        home.store.import_bytes(&random.bytes(8000), Durability::Cached).unwrap();
    }
    let before = size(&home.store.root().join("db"));
    assert_eq!(home.store.gc(0).unwrap().blobs, 8000);
    let after = size(&home.store.root().join("db"));
    assert!(after < before / 2, "{before} bytes before, {after} after");
    for hash in kept {
        home.store.read_all(&hash, u64::MAX).unwrap();
    }
}
