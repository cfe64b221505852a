//! Opening a store: the lock, the version, what is not a store.

use barnraiser_store::{Durability, OpenError, Store};

use crate::support::{bytes, home};

#[test]
fn second_opener_is_told_that_the_store_is_in_use() {
    let home = home();
    let error = Store::open(home.store.root()).unwrap_err();
    assert!(matches!(&error, OpenError::Locked { pid: Some(pid), .. } if *pid == std::process::id()), "{error:?}");
    let root = home.store.root().to_owned();
    drop(home.store);
    Store::open(&root).unwrap();
}

#[test]
fn store_of_a_newer_version_is_refused_untouched() {
    let home = home();
    let root = home.store.root().to_owned();
    drop(home.store);
    std::fs::write(root.join("version"), "7\n").unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 7, known: 2, .. }));
    assert!(error.to_string().contains("use a newer `barn`"), "{error}");
    assert_eq!(std::fs::read_to_string(root.join("version")).unwrap(), "7\n");
    for text in ["", "banana", "0"] {
        std::fs::write(root.join("version"), text).unwrap();
        assert!(matches!(Store::open(&root), Err(OpenError::NotAStore { .. })), "{text:?}");
    }
}

#[test]
fn store_of_the_version_before_is_read_and_becomes_one_of_this() {
    let home = home();
    let root = home.store.root().to_owned();
    let hash = home.store.import_bytes(&bytes(1, 300_000), Durability::Announced).unwrap();
    drop(home.store);
    std::fs::write(root.join("version"), "1\n").unwrap();
    assert!(Store::open(&root).unwrap().contains(&hash).unwrap());
    assert_eq!(std::fs::read_to_string(root.join("version")).unwrap(), "2\n");
}

#[test]
fn damaged_database_is_refused_with_what_to_do() {
    let home = home();
    let root = home.store.root().to_owned();
    home.store.import_bytes(&bytes(1, 10), Durability::Announced).unwrap();
    drop(home.store);
    std::fs::write(root.join("db").join("CURRENT"), "MANIFEST-banana\n").unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(matches!(error, OpenError::DamagedDatabase { .. }), "{error:?}");
    assert!(error.to_string().contains("Move its folder `db` away"), "{error}");
}

#[test]
fn everything_is_there_after_opening_again() {
    let home = home();
    let root = home.store.root().to_owned();
    let hashes: Vec<_> =
        [5, 50_000, 5_000_000].map(|length| home.store.import_bytes(&bytes(1, length), Durability::Cached).unwrap()).into();
    home.store.pin("a", &hashes[0]).unwrap();
    // What was being written when a process ended is removed.
    std::fs::write(root.join("tmp").join("99"), "half").unwrap();
    drop(home.store);
    let store = Store::open(&root).unwrap();
    for hash in hashes {
        store.read_all(&hash, u64::MAX).unwrap();
    }
    assert_eq!(store.pins().unwrap().len(), 1);
    assert_eq!(store.stats().unwrap().blobs, 3);
    assert_eq!(crate::support::files_below(&root.join("tmp")), 0);
}

#[test]
fn folder_that_cannot_be_made_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = Store::open(&file.join("store")).unwrap_err();
    assert!(error.to_string().contains("file/store"), "{error}");
}
