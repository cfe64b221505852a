//! A new image for who has an old one, by the programs as people use them.

use std::fs;

use barnraiser_store::{Durability, Store};
use barnraiser_tests::{Lend, Village, path_text, text};

use super::SOON;

const MIB: usize = 1 << 20;

/// Noise that no two seeds share.
fn bytes(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// With a file named, and then with what is in the store; the file is right, and little was fetched.
#[test]
fn a_new_image_is_fetched_as_the_difference_to_the_old_one() {
    let village = Village::new().unwrap();
    let (_entry, address) = village.bootstrap().unwrap();
    let old = bytes(1, 8 * MIB);
    let versions: Vec<Vec<u8>> = (0..2)
        .map(|version| {
            let mut new = old.clone();
            for unit in 0..8 {
                new[unit * MIB + 200_000..][..9000].copy_from_slice(&bytes(version + 2, 9000));
            }
            new
        })
        .collect();
    let publisher = village.home("publisher");
    publisher.init(Lend::NOTHING).unwrap();
    let store = Store::open(&publisher.root().join("store")).unwrap();
    let hashes: Vec<String> =
        versions.iter().map(|version| store.import_bytes(version, Durability::Announced).unwrap().to_string()).collect();
    drop(store);
    publisher.ok(&["network", "create", "images", "--policy", "small", "--bootstrap", &address]).unwrap();
    let ticket = text(&publisher.json(&["network", "invite"]).unwrap()["ticket"]).unwrap();
    let _publishing = publisher.start().unwrap();
    let fetcher = village.home("fetcher");
    fetcher.init(Lend::NOTHING).unwrap();
    fetcher.ok(&["join", &ticket]).unwrap();
    let _fetching = fetcher.start().unwrap();
    fetcher.wait_present("images", 2, SOON).unwrap();

    let seed = village.path("old.img");
    fs::write(&seed, &old).unwrap();
    let to = village.path("new.img");
    let (seed, to) = (path_text(&seed).unwrap(), path_text(&to).unwrap());
    fetcher.fails(2, &["fetch", &hashes[0], "-o", to, "--seed", "/no/such/file"]).unwrap();
    // The second finds the first, in the store and where it is about to be written.
    for (arguments, hash, version) in [(&["--seed", seed][..], &hashes[0], &versions[0]), (&[], &hashes[1], &versions[1])] {
        let fetched = fetcher.json(&[&["fetch", hash, "-o", to], arguments].concat()).unwrap();
        assert!(fs::read(to).unwrap() == *version);
        let copied = fetched["copied"].as_u64().unwrap();
        let from_peers: u64 = fetched["bytes_by_peer"].as_object().unwrap().values().filter_map(|bytes| bytes.as_u64()).sum();
        assert!(copied > 7 * MIB as u64 && from_peers < MIB as u64 / 2, "{fetched}");
        assert_eq!(fetched["already_had"], 0);
    }
}
