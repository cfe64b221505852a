//! Folders in and out.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use barnraiser_protocol::tree::{Entry, Tree};
use barnraiser_store::{Durability, ImportError, LayOut, LayOutError, Pattern};

use crate::support::{bytes, flip, home};

fn write(path: &Path, bytes: &[u8], mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn sample(folder: &Path) {
    write(&folder.join("bin/tool"), &bytes(1, 3_000_000), 0o750);
    write(&folder.join("lib/libz.so.1"), &bytes(2, 40_000), 0o600);
    write(&folder.join("lib/a/readme"), b"hello", 0o644);
    write(&folder.join("empty-file"), b"", 0o644);
    symlink("libz.so.1", folder.join("lib/libz.so")).unwrap();
    symlink("../bin/tool", folder.join("lib/tool")).unwrap();
    std::fs::create_dir_all(folder.join("share/empty")).unwrap();
}

#[test]
fn folder_goes_in_and_comes_out_the_same() {
    let home = home();
    let (source, target) = (home.folder.path().join("source"), home.folder.path().join("target"));
    sample(&source);
    let (hash, tree) = home.store.import_tree(&source, Durability::Announced).unwrap();
    assert_eq!((tree.len(), tree.hash()), (7, hash));
    assert_eq!(home.store.tree(&hash).unwrap(), tree);
    assert_eq!(tree.entry("share/empty"), Some(&Entry::EmptyFolder));
    assert!(matches!(tree.entry("bin/tool"), Some(Entry::File { executable: true, length: 3_000_000, .. })));
    assert!(matches!(tree.entry("lib/libz.so.1"), Some(Entry::File { executable: false, .. })));
    home.store.gc(0).unwrap();

    let how = LayOut { epoch_s: 1_700_000_000, ..LayOut::default() };
    assert_eq!(home.store.lay_out(&hash, &target, &how).unwrap(), 7);
    assert!(std::fs::read(target.join("lib/tool")).unwrap() == bytes(1, 3_000_000), "the link leads to the tool");
    assert_eq!(std::fs::read(target.join("empty-file")).unwrap(), b"");
    for (path, mode) in [("bin/tool", 0o755), ("lib/libz.so.1", 0o644), ("share/empty", 0o755), ("lib", 0o755)] {
        assert_eq!(target.join(path).metadata().unwrap().mode() & 0o7777, mode, "{path}");
    }
    for path in ["bin/tool", "lib/libz.so", "share/empty", "share", "lib", "lib/a", "."] {
        assert_eq!(target.join(path).symlink_metadata().unwrap().mtime(), 1_700_000_000, "{path}");
    }
    assert_eq!(home.store.import_tree(&target, Durability::Cached).unwrap().0, hash);
}

#[test]
fn only_what_fits_is_laid_out() {
    let home = home();
    let (source, target) = (home.folder.path().join("source"), home.folder.path().join("target"));
    sample(&source);
    let (hash, _) = home.store.import_tree(&source, Durability::Cached).unwrap();
    let how = LayOut { only: vec![Pattern::new("lib/*.so*"), Pattern::new("share")], read_only: true, epoch_s: 1 };
    assert_eq!(home.store.lay_out(&hash, &target, &how).unwrap(), 3);
    assert!(target.join("share/empty").is_dir() && !target.join("bin").exists() && !target.join("lib/a").exists());
    assert_eq!(target.join("lib/libz.so.1").metadata().unwrap().mode() & 0o7777, 0o444);
}

#[test]
fn two_trees_share_a_place_unless_they_collide() {
    let home = home();
    let target = home.folder.path().join("target");
    let tree = |name: &str| {
        let source = home.folder.path().join(name);
        write(&source.join("lib").join(name), b"x", 0o644);
        home.store.import_tree(&source, Durability::Cached).unwrap().0
    };
    let (one, two) = (tree("one"), tree("two"));
    home.store.lay_out(&one, &target, &LayOut::default()).unwrap();
    home.store.lay_out(&two, &target, &LayOut::default()).unwrap();
    let error = home.store.lay_out(&two, &target, &LayOut::default()).unwrap_err();
    assert!(matches!(&error, LayOutError::Collision { path, .. } if path == "lib/two"), "{error}");
}

/// A link that lies in the way is not followed.
#[test]
fn links_in_the_way_lead_nowhere() {
    let home = home();
    let (source, target, outside) =
        (home.folder.path().join("source"), home.folder.path().join("target"), home.folder.path().join("outside"));
    write(&source.join("lib/x"), b"x", 0o644);
    let (hash, _) = home.store.import_tree(&source, Durability::Cached).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::create_dir_all(&target).unwrap();
    symlink(&outside, target.join("lib")).unwrap();
    assert!(matches!(home.store.lay_out(&hash, &target, &LayOut::default()), Err(LayOutError::Collision { .. })));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn what_does_not_belong_in_a_tree_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let refused = |make: &dyn Fn(&Path)| {
        let home = home();
        let source = home.folder.path().join("source");
        std::fs::create_dir_all(source.join("d")).unwrap();
        make(&source);
        let error = home.store.import_tree(&source, Durability::Cached).unwrap_err();
        assert!(matches!(error, ImportError::NotForTrees { .. } | ImportError::Tree(_)), "{error}");
        error.to_string()
    };
    assert!(refused(&|at| write(&at.join("d/su"), b"x", 0o4755)).contains("d/su"));
    assert!(refused(&|at| symlink("/etc/passwd", at.join("d/link")).unwrap()).contains("d/link"));
    assert!(refused(&|at| symlink("../../x", at.join("d/link")).unwrap()).contains("d/link"));
    assert!(refused(&|at| std::fs::write(at.join(std::ffi::OsStr::from_bytes(b"d/\xff")), "x").unwrap()).contains("UTF-8"));
    assert!(refused(&|at| std::fs::write(at.join("d/a\nb"), "x").unwrap()).contains("control character"));
    assert!(
        refused(&|at| drop(std::os::unix::net::UnixListener::bind(at.join("d/socket")).unwrap())).contains("a device, a pipe or a socket")
    );
}

#[test]
fn tree_that_is_none_lacks_a_blob_or_is_damaged_is_refused() {
    let home = home();
    let target = home.folder.path().join("target");
    let lay_out = |hash| home.store.lay_out(&hash, &target, &LayOut::default());
    let text = home.store.import_bytes(b"no tree", Durability::Cached).unwrap();
    assert!(matches!(lay_out(text), Err(LayOutError::NotATree { .. })));
    let file = |hash, length| {
        let mut tree = Tree::new();
        tree.insert("x", Entry::File { hash, length, executable: false }).unwrap();
        home.store.import_tree_manifest(&tree, Durability::Cached).unwrap()
    };
    assert!(matches!(lay_out(file(barnraiser_protocol::id::BlobHash::of(b"absent"), 6)), Err(LayOutError::Read(_))));
    assert!(matches!(lay_out(file(text, 8)), Err(LayOutError::Length { length: 8, actual: 7, .. })));
    let blob = home.store.import_bytes(&bytes(1, 100_000), Durability::Cached).unwrap();
    flip(&crate::support::blob_path(&home.store, &blob), 5);
    assert!(matches!(lay_out(file(blob, 100_000)), Err(LayOutError::Read(_))));
}

/// A pinned tree keeps everything in it.
#[test]
fn pinned_tree_keeps_its_blobs() {
    let home = home();
    let source = home.folder.path().join("source");
    sample(&source);
    let (hash, tree) = home.store.import_tree(&source, Durability::Cached).unwrap();
    home.store.pin_tree("release", &hash).unwrap();
    assert_eq!(home.store.gc(0).unwrap().blobs, 0);
    for (blob, _) in tree.blobs() {
        assert!(home.store.contains(&blob).unwrap());
    }
    home.store.unpin("release").unwrap();
    assert_eq!(home.store.gc(0).unwrap().blobs, 5);
}
