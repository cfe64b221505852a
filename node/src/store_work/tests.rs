#![allow(clippy::unwrap_used)]
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use barnraiser_protocol::id::BlobHash;
use barnraiser_store::{Durability, Store};

use super::*;

/// A store, with everything that it tells.
struct Room {
    folder: tempfile::TempDir,
    store: Store,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self { folder, store }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn told(&self, ask: StoreAsk) -> (Result<StoreDone, Problem>, Vec<StoreEvent>) {
        let mut told = Vec::new();
        let done = run(&self.store, &ask, &mut |event| {
            told.push(event);
            ControlFlow::Continue(())
        });
        (done, told)
    }

    fn ask(&self, ask: StoreAsk) -> Result<StoreDone, Problem> {
        self.told(ask).0
    }

    fn add(&self, path: &Path) -> BlobHash {
        match self.ask(StoreAsk::Add { path: path.to_owned() }).unwrap() {
            StoreDone::Added { hash, .. } => hash,
            other => panic!("{other:?}"),
        }
    }

    /// Changes a byte of a blob where it lies on disk.
    fn damage(&self, hash: &BlobHash) {
        let name = hash.to_string();
        let path = self.store.root().join("blobs").join(&name[..2]).join(name);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 20_000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 20_000).unwrap();
    }
}

fn get(hash: impl ToString, to: std::path::PathBuf, tree: bool) -> StoreAsk {
    StoreAsk::Get { hash: hash.to_string(), to, tree }
}

fn unpin(hash: impl ToString, release: bool) -> StoreAsk {
    StoreAsk::Unpin { hash: hash.to_string(), tree: false, release }
}

#[test]
fn what_was_added_comes_out_by_any_unique_beginning_of_its_hash() {
    let room = Room::new();
    let bytes = vec![7; 3_000_000];
    let (done, told) = room.told(StoreAsk::Add { path: room.file("a", &bytes) });
    let hash = BlobHash::of(&bytes);
    assert_eq!(done.unwrap(), StoreDone::Added { hash, length: 3_000_000, entries: None });
    assert!(matches!(told[0], StoreEvent::Progress { length: Some(3_000_000), .. }), "{told:?}");
    let text = hash.to_string();
    // Whole bytes of the hash, and half of one more; letters of either size.
    for beginning in [text.clone(), text[..12].into(), text[..13].to_uppercase()] {
        room.ask(get(beginning, room.path("out"), false)).unwrap();
        assert!(std::fs::read(room.path("out")).unwrap() == bytes);
    }
}

#[test]
fn a_folder_becomes_a_tree_and_a_folder_again() {
    let room = Room::new();
    room.file("in/a/b", b"hello");
    room.file("in/c", &[1; 50_000]);
    let tree = room.add(&room.path("in"));
    let done = room.ask(get(tree, room.path("out"), true)).unwrap();
    assert!(matches!(done, StoreDone::Written { entries: Some(2), length: 50_005, .. }), "{done:?}");
    assert_eq!(std::fs::read(room.path("out/a/b")).unwrap(), b"hello");
    // A blob that is no tree is not laid out, and a place that is taken is not written over.
    let file = room.add(&room.path("in/c"));
    assert_eq!(room.ask(get(file, room.path("other"), true)).unwrap_err().exit_code(), 2);
    assert_eq!(room.ask(get(tree, room.path("out"), true)).unwrap_err().exit_code(), 2);
}

#[test]
fn bad_input_has_the_exit_code_of_its_kind() {
    let room = Room::new();
    let code = |ask: StoreAsk| room.ask(ask).unwrap_err().exit_code();
    let absent = "ab".repeat(32);
    assert_eq!(code(StoreAsk::Add { path: room.path("nothing") }), 3);
    assert_eq!(code(StoreAsk::Add { path: "/dev/null".into() }), 2);
    assert_eq!(code(get(&absent, room.path("out"), false)), 3);
    assert_eq!(code(get("xyz", room.path("out"), false)), 2);
    assert_eq!(code(get("ab".repeat(33), room.path("out"), false)), 2);
    assert_eq!(code(StoreAsk::Pin { hash: absent.clone(), tree: false }), 3);
    assert_eq!(code(unpin(&absent, false)), 3);
    let hash = room.add(&room.file("a", b"a"));
    room.add(&room.file("b", b"b"));
    // No beginning at all fits both.
    assert_eq!(code(get("", room.path("out"), false)), 2);
    assert_eq!(code(StoreAsk::Pin { hash: hash.to_string(), tree: true }), 2);
    assert_eq!(code(get(hash, room.path("no/folder/out"), false)), 2);
}

#[test]
fn what_is_pinned_outlives_a_collection_and_what_is_released_does_not() {
    let room = Room::new();
    let cached = |byte| room.store.import_bytes(&[byte; 20_000], Durability::Cached).unwrap();
    let (kept, gone) = (cached(1), cached(2));
    let added = room.add(&room.file("a", &[3; 20_000]));
    room.ask(StoreAsk::Pin { hash: kept.to_string(), tree: false }).unwrap();
    let (_, told) = room.told(StoreAsk::Ls { beginning: String::new() });
    let pins = told.iter().filter_map(|event| if let StoreEvent::Blob(blob) = event { Some((blob.hash, blob.pins.len())) } else { None });
    assert_eq!(pins.filter(|(_, pins)| *pins > 0).collect::<Vec<_>>(), [(kept, 1)]);
    // Nothing that could be of use goes where no quota says so.
    let collected = |quota| match room.ask(StoreAsk::Gc { quota }).unwrap() {
        StoreDone::Collected { blobs, left, .. } => (blobs, left),
        other => panic!("{other:?}"),
    };
    assert_eq!(collected(None), (0, 60_000));
    assert_eq!(collected(Some(0)), (1, 40_000));
    assert!(!room.store.contains(&gone).unwrap());
    room.ask(unpin(kept, false)).unwrap();
    // It is not pinned any more, and never was.
    assert_eq!(room.ask(unpin(kept, false)).unwrap_err().exit_code(), 3);
    assert_eq!(room.ask(unpin(added, false)).unwrap_err().exit_code(), 3);
    let done = room.ask(unpin(added, true)).unwrap();
    assert_eq!(done, StoreDone::Unpinned { hash: added, released: 1, pins: vec![] });
    assert_eq!(collected(Some(0)), (2, 0));
}

#[test]
fn a_tree_is_pinned_and_released_with_all_that_is_in_it() {
    let room = Room::new();
    room.file("in/a", &[1; 20_000]);
    room.file("in/b", &[2; 20_000]);
    let (tree, _) = room.store.import_tree(&room.path("in"), Durability::Cached).unwrap();
    room.ask(StoreAsk::Pin { hash: tree.to_string(), tree: true }).unwrap();
    let StoreDone::Stats(stats) = room.ask(StoreAsk::Stats).unwrap() else { panic!() };
    assert_eq!((stats.cached.blobs, stats.pinned.blobs, stats.pins), (3, 3, 1));
    room.ask(StoreAsk::Gc { quota: Some(0) }).unwrap();
    assert_eq!(room.store.stats().unwrap().blobs, 3);
    let announced = room.add(&room.path("in"));
    assert_eq!(announced, tree);
    // The pin knows that it is a tree.
    let done = room.ask(unpin(tree, true)).unwrap();
    assert_eq!(done, StoreDone::Unpinned { hash: tree, released: 3, pins: vec![] });
    room.ask(StoreAsk::Gc { quota: Some(0) }).unwrap();
    assert_eq!(room.store.stats().unwrap().blobs, 0);
}

/// Damage is told by a scrub, also where somebody else found it before; until it is mended, the blob fails verification.
#[test]
fn a_damaged_blob_is_told_and_not_given_out() {
    let room = Room::new();
    let (first, second) = (room.add(&room.file("a", &[1; 50_000])), room.add(&room.file("b", &[2; 50_000])));
    room.damage(&first);
    assert_eq!(room.ask(get(first, room.path("out"), false)).unwrap_err().exit_code(), 4);
    assert!(!room.path("out").exists());
    room.damage(&second);
    let (done, told) = room.told(StoreAsk::Scrub);
    let StoreDone::Scrubbed { damaged, mended: 0, .. } = done.unwrap() else { panic!() };
    let mut both = vec![first, second];
    both.sort_unstable();
    assert_eq!(damaged, both);
    let named = told.iter().filter(|event| matches!(event, StoreEvent::Damaged(blob) if blob.class == "announced")).count();
    assert_eq!(named, 2);
    assert_eq!(room.ask(get(first, room.path("out"), false)).unwrap_err().exit_code(), 4);
    // Taken in again, it is well again.
    room.add(&room.path("a"));
    room.ask(get(first, room.path("out"), false)).unwrap();
}

#[test]
fn an_import_that_nobody_waits_for_ends_and_leaves_nothing() {
    let room = Room::new();
    let path = room.file("a", &[1; 3_000_000]);
    let done = run(&room.store, &StoreAsk::Add { path }, &mut |_| ControlFlow::Break(()));
    assert!(done.unwrap_err().message.contains("called off"));
    assert_eq!(room.store.stats().unwrap().blobs, 0);
}
