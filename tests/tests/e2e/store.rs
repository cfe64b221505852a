//! `barn store`, with a node and without one.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;

use barnraiser_tests::{Home, Lend, Village, list, path_text, text, wait};

use super::{SOON, founder, guest, ticket, wait_member};

/// Text, so that it can be read as output: lines that differ.
fn lines(count: usize) -> String {
    (0..count).map(|number| format!("line {number} of {count}\n")).collect()
}

/// Where a blob of more than 16 KiB lies.
fn blob_file(home: &Home, hash: &str) -> std::path::PathBuf {
    home.root().join("store/blobs").join(&hash[..2]).join(hash)
}

fn damage(home: &Home, hash: &str) {
    let file = fs::OpenOptions::new().write(true).open(blob_file(home, hash)).unwrap();
    file.write_all_at(b"X", 30_000).unwrap();
}

/// Everything once; what it says must not depend on who has the store.
fn every_command(village: &Village, home: &Home) {
    let bytes = lines(100_000);
    let file = village.write("in/large.txt", &bytes).unwrap();
    let file = path_text(&file).unwrap();
    village.write("in/folder/small.txt", "small").unwrap();
    let hash = blake3::hash(bytes.as_bytes()).to_string();

    assert_eq!(home.ok(&["store", "add", file]).unwrap().trim(), hash);
    let added = home.json(&["store", "add", file]).unwrap();
    assert_eq!((&added["kind"], &added["hash"]), (&"added".into(), &hash.as_str().into()));
    // Standard input, of unknown length.
    let mut add = home.command().args(["store", "add", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    add.stdin.take().unwrap().write_all(bytes.as_bytes()).unwrap();
    let output = add.wait_with_output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == hash);

    // Out again: to a file by a beginning of the hash, and to standard output.
    home.ok(&["store", "get", &hash[..10], "-o", "out.txt"]).unwrap();
    assert!(fs::read_to_string(village.path("out.txt")).unwrap() == bytes);
    assert!(home.ok(&["store", "get", &hash, "-o", "-"]).unwrap() == bytes);

    let tree = home.ok(&["store", "add", "in"]).unwrap().trim().to_owned();
    let _ = fs::remove_dir_all(village.path("out"));
    home.ok(&["store", "get", &tree, "--tree", "-o", "out"]).unwrap();
    assert_eq!(fs::read_to_string(village.path("out/folder/small.txt")).unwrap(), "small");

    home.ok(&["store", "pin", &tree, "--tree"]).unwrap();
    let listed = home.ok(&["--json", "store", "ls", &hash]).unwrap();
    let blob: serde_json::Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert_eq!((&blob["kind"], &blob["class"], blob["length"].as_u64()), (&"blob".into(), &"announced".into(), Some(bytes.len() as u64)));
    assert!(text(&list(&blob["pins"])[0]).unwrap().ends_with(&tree), "{blob}");
    assert!(home.ok(&["store", "ls"]).unwrap().contains("announced"));

    // Pinned, it stays whatever the quota; then it goes, and says how much.
    home.ok(&["store", "unpin", &hash, "--release"]).unwrap();
    assert_eq!(home.json(&["store", "gc", "--quota", "0 B"]).unwrap()["blobs"], 0);
    home.ok(&["store", "unpin", &tree, "--release"]).unwrap();
    let collected = home.json(&["store", "gc", "--quota", "0 B"]).unwrap();
    assert_eq!((&collected["kind"], &collected["blobs"]), (&"collected".into(), &3.into()), "{collected}");
    assert!(!blob_file(home, &hash).exists());

    home.ok(&["store", "add", file]).unwrap();
    let stats = home.json(&["store", "stats"]).unwrap();
    assert_eq!(stats["announced"]["blobs"], 1, "{stats}");
    assert!(home.ok(&["store", "scrub"]).unwrap().contains("all of it is right"));

    // Bad input.
    let absent = "ab".repeat(32);
    assert!(home.fails(3, &["store", "get", &absent]).unwrap().contains(&absent));
    assert!(home.fails(3, &["store", "get", &absent, "-o", "-"]).unwrap().contains(&absent));
    assert!(home.fails(3, &["store", "add", "no-such-file"]).unwrap().contains("no-such-file"));
    assert!(home.fails(3, &["store", "unpin", &hash]).unwrap().contains("not pinned by you"));
    assert!(home.fails(2, &["store", "get", "../../x", "-o", "-"]).unwrap().contains("no hash"));
    home.fails(2, &["store", "pin", &hash, "--tree"]).unwrap();
    home.fails(2, &["store", "gc", "--quota", "much"]).unwrap();
    home.fails(2, &["store", "get", &hash, "-o", "no/folder/x"]).unwrap();

    // A damaged blob is not given out, wherever it should go.
    damage(home, &hash);
    let ran = home.run(&["store", "get", &hash, "-o", "-"]).unwrap();
    assert!(ran.code == 4 && bytes.starts_with(&ran.out) && ran.err.contains("damaged"), "{}: {}", ran.code, ran.err);
    let error = home.fails(4, &["store", "get", &hash, "-o", "other.txt"]).unwrap();
    assert!(error.contains("damaged") && !village.path("other.txt").exists(), "{error}");
    home.fails(4, &["store", "scrub"]).unwrap();
    home.ok(&["store", "add", file]).unwrap();
    home.ok(&["store", "scrub"]).unwrap();
}

#[test]
fn store_commands_do_the_same_with_a_node_and_without() {
    let village = Village::new().unwrap();
    let with = village.home("with");
    assert!(with.fails(3, &["store", "ls"]).unwrap().contains("barn init"));
    with.init(Lend::NOTHING).unwrap();
    let _node = with.start().unwrap();
    every_command(&village, &with);
    let without = village.home("without");
    without.init(Lend::NOTHING).unwrap();
    every_command(&village, &without);
}

#[test]
fn scrub_fetches_damaged_blobs_again_from_the_swarm() {
    let village = Village::new().unwrap();
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::NOTHING, &["--bootstrap", &address]);
    let ticket = ticket(&ada, &address);
    let _ada = ada.start().unwrap();
    let bob = guest(&village, "bob", Lend::NOTHING, &ticket);
    let _bob = bob.start().unwrap();
    wait_member(&bob, 1, 2);
    let connected = |status: &serde_json::Value| status["networks"][0]["peers"].as_u64() >= Some(1);
    ada.wait_status("the other is a peer", SOON, connected).unwrap();
    let bytes = lines(200_000);
    let file = village.write("file", &bytes).unwrap();
    let hash = ada.ok(&["store", "add", path_text(&file).unwrap()]).unwrap().trim().to_owned();
    bob.ok(&["store", "add", path_text(&file).unwrap()]).unwrap();
    damage(&ada, &hash);
    // Who has it is asked of peers, which may not know each other well yet.
    wait("the blob is mended", SOON, || {
        let ran = ada.run(&["--json", "store", "scrub"])?;
        Ok((ran.code == 0 && ran.out.contains("\"mended\"")).then_some(()))
    })
    .unwrap();
    assert!(ada.ok(&["store", "get", &hash, "-o", "-"]).unwrap() == bytes);
    // It is kept as it was kept before.
    assert!(ada.ok(&["store", "ls", &hash]).unwrap().contains("announced"));
    assert!(ada.ok(&["store", "scrub"]).unwrap().contains("all of it is right"));
}
