//! A database and hash trees that rotted: found, named with what to do, and never less than was promised without a word.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use barnraiser_protocol::id::BlobHash;
use barnraiser_store::{Durability, OpenError, ReadError, Store, UNIT_BYTES};

use crate::support::{bytes, fetch_missing, flip, home};

/// A store with announced blobs of every kind, in tables, in the log, and in files of small blobs.
fn damaged_store_of() -> (tempfile::TempDir, PathBuf, Vec<(BlobHash, usize)>) {
    let home = home();
    let root = home.store.root().to_owned();
    let mut announced = Vec::new();
    let mut add = |store: &Store, seed: u64| {
        for length in [100, 9_000, 60_000, 5_000_000] {
            announced.push((store.import_bytes(&bytes(seed, length), Durability::Announced).unwrap(), length));
        }
    };
    add(&home.store, 1);
    let folder = home.folder;
    drop(home.store);
    // At each start what is in the log goes into tables.
    let store = Store::open(&root).unwrap();
    add(&store, 2);
    drop(store);
    let store = Store::open(&root).unwrap();
    add(&store, 3);
    drop(store);
    (folder, root, announced)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() { copy(&entry.path(), &to) } else { _ = fs::copy(entry.path(), to).unwrap() }
    }
}

/// One way to damage a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Removed,
    CutTo(u64),
    Flipped(u64),
}

impl Damage {
    fn all(length: u64) -> Vec<Self> {
        let mut all = vec![Self::Removed, Self::CutTo(0), Self::CutTo(length / 2), Self::CutTo(length.saturating_sub(1))];
        all.extend((0..5).map(|part| Self::Flipped(length * part / 5)));
        all.push(Self::Flipped(length.saturating_sub(1)));
        all
    }

    fn apply(self, path: &Path) {
        match self {
            Self::Removed => fs::remove_file(path).unwrap(),
            Self::CutTo(length) => OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap(),
            Self::Flipped(at) => flip(path, at),
        }
    }
}

/// Whatever becomes of a file of the database: the store is refused with what to do, or every announced blob is there and
/// right, or reading it says what is damaged and what to do. After doing that, all that lies in files is there again.
#[test]
fn damaged_file_of_the_database_is_refused_or_named_and_loses_nothing_silently() {
    let (folder, root, announced) = damaged_store_of();
    let mut names: Vec<String> =
        fs::read_dir(root.join("db")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let kinds = ["CURRENT", "MANIFEST-", ".sst", ".log", ".blob", "SYNCED"];
    for kind in kinds {
        assert!(names.iter().any(|name| name.contains(kind)), "no file of the kind {kind} to damage: {names:?}");
    }
    let (mut refused, mut named, mut harmless) = (0, 0, 0);
    for name in names.iter().filter(|name| *name != "LOCK" && !name.starts_with("LOG")) {
        let length = fs::metadata(root.join("db").join(name)).unwrap().len();
        for damage in Damage::all(length).into_iter().filter(|damage| length > 0 || matches!(damage, Damage::Removed)) {
            let copied = folder.path().join("copy");
            copy(&root, &copied);
            damage.apply(&copied.join("db").join(name));
            match Store::open(&copied) {
                Err(error) => {
                    assert!(matches!(error, OpenError::DamagedDatabase { .. }), "{name}, {damage:?}: {error:?}");
                    let text = error.to_string();
                    assert!(text.contains("Move its folder `db` away") && text.contains("barn store scrub"), "{text}");
                    check_advice(&copied, &announced);
                    refused += 1;
                }
                Ok(store) => {
                    if check_announced(&store, &announced, &format!("{name}, {damage:?}")) {
                        named += 1
                    } else {
                        harmless += 1
                    }
                }
            }
            fs::remove_dir_all(&copied).unwrap();
        }
    }
    println!("{refused} damages refused, {named} named when read, {harmless} without effect");
    assert!(refused > 0 && named + harmless > 0);
}

/// Every announced blob is there, or is said not to be readable, with what to do. Whether any could not be read.
fn check_announced(store: &Store, announced: &[(BlobHash, usize)], damage: &str) -> bool {
    let mut named = false;
    for (hash, length) in announced {
        match store.read_all(hash, u64::MAX) {
            Ok(read) => assert!(BlobHash::of(&read) == *hash && read.len() == *length),
            Err(ReadError::NotFound(_)) => panic!("{damage}: an announced blob of {length} bytes is gone without a word"),
            Err(ReadError::Fault(fault)) => {
                assert!(fault.to_string().contains("move the store's folder `db` away"), "{damage}: {fault}");
                named = true;
            }
            Err(error @ ReadError::Damaged { .. }) => {
                assert!(error.to_string().contains("fetch it again"), "{damage}: {error}");
                named = true;
            }
            Err(error) => panic!("{damage}: {error}"),
        }
    }
    named
}

/// Does what the error says, and looks whether that helps.
fn check_advice(root: &Path, announced: &[(BlobHash, usize)]) {
    fs::rename(root.join("db"), root.join("db-damaged")).unwrap();
    let store = Store::open(root).unwrap();
    let scrubbed = store.scrub(&mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    let in_files = announced.iter().filter(|(_, length)| *length > 16 << 10);
    assert_eq!(scrubbed.recovered, in_files.clone().count() as u64);
    for (hash, _) in in_files {
        assert_eq!(BlobHash::of(&store.read_all(hash, u64::MAX).unwrap()), *hash);
    }
}

/// A hash tree is as good as its blob: where it is cut, flipped or gone, the blob is not served, and is rebuilt from what is
/// right of it.
#[test]
fn damaged_hash_tree_is_found_and_rebuilt() {
    let seed = home();
    let blob = bytes(7, 9 * UNIT_BYTES as usize + 5);
    let hash = seed.store.import_bytes(&blob, Durability::Cached).unwrap();
    for damage in [Damage::Removed, Damage::CutTo(0), Damage::CutTo(1000), Damage::Flipped(0), Damage::Flipped(20_000)] {
        let home = home();
        home.store.import_bytes(&blob, Durability::Announced).unwrap();
        let name = hash.to_string();
        damage.apply(&home.store.root().join("blobs").join(&name[..2]).join(format!("{name}.tree")));
        let error = home.store.read_all(&hash, u64::MAX).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }) && error.to_string().contains("fetch it again"), "{damage:?}: {error}");
        assert!(!home.store.contains(&hash).unwrap(), "{damage:?}: it counts as absent");
        let partial = home.store.partial(&hash, blob.len() as u64).unwrap();
        let missing = partial.missing_bytes();
        assert!(missing > 0, "{damage:?}");
        fetch_missing(&seed.store, &partial);
        partial.complete(Durability::Announced).unwrap();
        assert!(home.store.read_all(&hash, u64::MAX).unwrap() == blob, "{damage:?}");
        println!("{damage:?}: {missing} of {} bytes were fetched", blob.len());
    }
}
