//! New blobs put together of old ones: whatever the seed, the list and the pieces are, only the blob's own bytes count.

use std::fs;
use std::path::PathBuf;

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::transfer::chunks::{ChunkKey, ChunkList};
use barnraiser_store::geometry::{unit_count, unit_range};
use barnraiser_store::{Durability, Outline, PartialBlob, PartialError, Seed, Seeds, Store, UNIT_BYTES};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Home, Random, blob_path, bytes, check_sound, encoding, fetch_missing, flip, home};

const MIB: usize = UNIT_BYTES as usize;

/// `old` with some parts replaced, removed, inserted and moved.
fn changed(random: &mut Random, old: &[u8]) -> Vec<u8> {
    let mut new = old.to_vec();
    for _ in 0..random.below(12) {
        let at = random.below(new.len() as u64) as usize;
        let length = (random.below(50_000) as usize).min(new.len() - at);
        let fresh = random.bytes(length);
        match random.below(4) {
            0 => new[at..at + length].copy_from_slice(&fresh),
            1 => drop(new.splice(at..at, fresh)),
            2 => drop(new.drain(at..at + length)),
            _ => {
                let moved: Vec<u8> = new.drain(at..at + length).collect();
                let to = random.below(new.len() as u64 + 1) as usize;
                new.splice(to..to, moved);
            }
        }
    }
    new
}

/// Units that are put together; how many bytes seeds had, and how many units were refused.
fn assemble(seeds: &mut Seeds, list: &ChunkList, outline: &Outline, new: &[u8], to: &PartialBlob) -> (u64, u64) {
    let (mut copied, mut refused) = (0, 0);
    for unit in 0..unit_count(list.length()) {
        let Some(plan) = seeds.plan(list, unit) else { continue };
        let pieces: Vec<u8> = plan.pieces().flat_map(|piece| new[piece.start as usize..piece.end as usize].to_vec()).collect();
        let unit_bytes = seeds.assemble(&plan, &pieces).unwrap();
        match to.write_assembled(unit, unit_bytes, outline) {
            Ok(()) => copied += plan.copied(),
            Err(error) => {
                assert!(matches!(error, PartialError::Proof { .. }), "{error}");
                assert!(!to.has(unit));
                refused += 1;
            }
        }
    }
    (copied, refused)
}

fn list_of(store: &Store, hash: &BlobHash) -> ChunkList {
    let (list, length) = store.chunk_list(hash).unwrap().unwrap();
    assert_eq!(store.known_chunk_list(hash).unwrap(), Some((list, length)));
    ChunkList::from_bytes(&store.read_all(&list, length).unwrap()).unwrap()
}

fn seed_file(home: &Home, name: &str, bytes: &[u8]) -> PathBuf {
    let path = home.folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Any old and new blob: what is put together is the new one, it can be served at once, and little more than the changes
/// is fetched.
#[test]
fn any_new_blob_is_put_together_of_any_old_one() {
    let (provider, fetcher) = (home(), home());
    let mut runner = TestRunner::new(Config { cases: 25, failure_persistence: None, ..Config::default() });
    runner
        .run(&(MIB..4 * MIB, any::<u64>()), |(length, number)| {
            let mut random = Random(number);
            let old = random.bytes(length);
            let mut new = changed(&mut random, &old);
            new.resize(new.len().max(MIB + 1), 7);
            let hash = provider.store.import_bytes(&new, Durability::Cached).unwrap();
            let list = list_of(&provider.store, &hash);
            let outline = Outline::prove(&hash, list.length(), list.units()).unwrap();
            let seed = match number % 2 {
                0 => Seed::File(seed_file(&fetcher, "old", &old)),
                _ => Seed::Blob(fetcher.store.import_bytes(&old, Durability::Cached).unwrap()),
            };
            let mut seeds = fetcher.store.compare(&list, &[seed]);
            let partial = fetcher.store.partial(&hash, new.len() as u64).unwrap();
            let (copied, refused) = assemble(&mut seeds, &list, &outline, &new, &partial);
            prop_assert!(refused == 0 && copied + 12 * 90_000 + 2 * UNIT_BYTES > new.len() as u64, "{copied} of {}", new.len());
            for range in partial.verified() {
                let unit = unit_range(range.start / UNIT_BYTES, new.len() as u64);
                prop_assert!(encoding(&fetcher.store, &hash, unit.clone()).unwrap() == encoding(&provider.store, &hash, unit).unwrap());
            }
            fetch_missing(&provider.store, &partial);
            partial.complete(Durability::Cached).unwrap();
            prop_assert!(fetcher.store.read_all(&hash, u64::MAX).unwrap() == new);
            Ok(())
        })
        .unwrap();
    assert!(check_sound(&fetcher.store).is_empty());
}

/// Chunks that are listed for other bytes, pieces that are not the blob's, a seed that changes after it was compared:
/// the units that they are in are refused, and fetched as if there were no seed.
#[test]
fn lying_lists_pieces_and_seeds_cost_units_and_nothing_else() {
    let (provider, fetcher) = (home(), home());
    let mut random = Random(11);
    let old = random.bytes(5 * MIB + 99);
    let mut new = old.clone();
    for unit in 0..5 {
        new[unit * MIB + 300_000..][..5000].copy_from_slice(&random.bytes(5000));
    }
    let hash = provider.store.import_bytes(&new, Durability::Cached).unwrap();
    let honest = list_of(&provider.store, &hash);
    let outline = Outline::prove(&hash, honest.length(), honest.units()).unwrap();
    let path = seed_file(&fetcher, "old", &old);
    let seeds = |list: &ChunkList| fetcher.store.compare(list, &[Seed::File(path.clone())]);
    let partial = fetcher.store.partial(&hash, new.len() as u64).unwrap();

    // A list whose chunks are in another order than the blob's, as far as cutting allows.
    let mut chunks: Vec<(u32, ChunkKey)> = honest.chunks().iter().map(|chunk| (chunk.length, chunk.key)).collect();
    let last = chunks.len() - 1;
    chunks[..last].reverse();
    let blocks = honest.blocks_in(&(0..honest.length())).map(|block| block.key).collect();
    let lying = ChunkList::new(honest.length(), honest.units().to_vec(), blocks, chunks).unwrap();
    let (_, refused) = assemble(&mut seeds(&lying), &lying, &outline, &new, &partial);
    assert!(refused == 5 && partial.missing_bytes() == 5 * UNIT_BYTES, "{refused}: the last unit is in the last chunk, which is true");

    // Pieces of another blob.
    let (_, refused) = assemble(&mut seeds(&honest), &honest, &outline, &bytes(12, new.len()), &partial);
    assert!(refused == 5, "{refused}: all but the last unit, which has no piece");
    assert_eq!(partial.verified(), vec![5 * UNIT_BYTES..new.len() as u64]);

    // A seed that is changed, cut and removed between looking and copying.
    let mut compared = seeds(&honest);
    fs::write(&path, bytes(13, old.len())).unwrap();
    let (_, refused) = assemble(&mut compared, &honest, &outline, &new, &partial);
    assert_eq!(refused, 5);
    fs::write(&path, &old[..MIB]).unwrap();
    let plan = compared.plan(&honest, 3).unwrap();
    assert!(compared.assemble(&plan, &[0; MIB]).is_err());
    assert!(compared.assemble(&plan, &[]).is_err());
    fs::remove_file(&path).unwrap();
    assert!(seeds(&honest).plan(&honest, 3).is_none());

    fetch_missing(&provider.store, &partial);
    partial.complete(Durability::Announced).unwrap();
    assert!(fetcher.store.read_all(&hash, u64::MAX).unwrap() == new);
}

/// Unit hashes that don't lead to the name prove nothing, and an outline proves units of its own blob only.
#[test]
fn outlines_are_those_of_the_blob_or_refused() {
    let here = home();
    for length in [MIB + 1, 2 * MIB, 3 * MIB, 3 * MIB + 20_000, 7 * MIB + 5] {
        let content = bytes(length as u64, length);
        let hash = here.store.import_bytes(&content, Durability::Cached).unwrap();
        let list = list_of(&here.store, &hash);
        let outline = Outline::prove(&hash, list.length(), list.units()).unwrap();
        let mut units = list.units().to_vec();
        units[0][5] ^= 1;
        assert!(Outline::prove(&hash, list.length(), &units).unwrap_err().is_peers_fault());
        units[0][5] ^= 1;
        units.pop();
        assert!(Outline::prove(&hash, list.length(), &units).unwrap_err().is_peers_fault());
        assert!(Outline::prove(&hash, (list.length() - 1) / UNIT_BYTES * UNIT_BYTES, &units).is_err());
        let other = home();
        let partial = other.store.partial(&BlobHash([1; 32]), length as u64).unwrap();
        assert!(matches!(partial.write_assembled(0, content[..MIB].to_vec(), &outline), Err(PartialError::NotAUnit { .. })));
        let partial = other.store.partial(&hash, length as u64).unwrap();
        for unit in 0..unit_count(length as u64) {
            let range = unit_range(unit, length as u64);
            let bytes = &content[range.start as usize..range.end as usize];
            assert!(partial.write_assembled(unit, bytes[1..].to_vec(), &outline).unwrap_err().is_peers_fault());
            partial.write_assembled(unit, bytes.to_vec(), &outline).unwrap();
        }
        assert!(matches!(partial.write_assembled(99, Vec::new(), &outline), Err(PartialError::NotAUnit { .. })));
        partial.complete(Durability::Cached).unwrap();
        assert!(check_sound(&other.store).is_empty());
    }
}

/// What was put together survives the end of the process like every other unit, proven again.
#[test]
fn assembled_units_are_there_after_a_restart() {
    let (provider, fetcher) = (home(), home());
    let new = bytes(21, 4 * MIB + 5);
    let hash = provider.store.import_bytes(&new, Durability::Cached).unwrap();
    let list = list_of(&provider.store, &hash);
    let outline = Outline::prove(&hash, list.length(), list.units()).unwrap();
    let partial = fetcher.store.partial(&hash, list.length()).unwrap();
    for unit in [0, 2, 4] {
        let range = unit_range(unit, list.length());
        partial.write_assembled(unit, new[range.start as usize..range.end as usize].to_vec(), &outline).unwrap();
    }
    drop(partial);
    let Home { store, folder } = fetcher;
    drop(store);
    let store = Store::open(&folder.path().join("store")).unwrap();
    let partial = store.partial(&hash, list.length()).unwrap();
    assert_eq!(partial.missing(), vec![UNIT_BYTES..2 * UNIT_BYTES, 3 * UNIT_BYTES..4 * UNIT_BYTES]);
    fetch_missing(&provider.store, &partial);
    partial.complete(Durability::Cached).unwrap();
    assert!(check_sound(&store).is_empty());
}

/// A blob that is damaged gives no list and no seed; lists go with their blobs.
#[test]
fn lists_are_made_of_good_blobs_only_and_forgotten_with_them() {
    let here = home();
    let content = bytes(31, 2 * MIB);
    let hash = here.store.import_bytes(&content, Durability::Cached).unwrap();
    assert_eq!(here.store.known_chunk_list(&hash).unwrap(), None);
    let list = list_of(&here.store, &hash);
    assert!(list.chunks().len() > 100);
    for short in [0, 100, MIB] {
        let hash = here.store.import_bytes(&content[..short], Durability::Cached).unwrap();
        assert_eq!(here.store.chunk_list(&hash).unwrap(), None);
    }
    assert_eq!(here.store.probe(&list, &Seed::Blob(hash)).map(|(hits, seen)| hits * 2 > seen).ok(), Some(true));
    let other = here.store.import_bytes(&bytes(32, 2 * MIB), Durability::Cached).unwrap();
    assert_eq!(here.store.probe(&list, &Seed::Blob(other)).map(|(hits, _)| hits).ok(), Some(0));
    flip(&blob_path(&here.store, &other), MIB as u64);
    assert!(here.store.chunk_list(&other).is_err());
    here.store.gc(0).unwrap();
    assert_eq!(here.store.meta_scan(b"chunks/", 9).unwrap(), []);
    assert!(here.store.chunk_list(&hash).is_err());
}

/// Blocks that change where they are cost themselves and no more, however scattered they are.
#[test]
fn changed_blocks_cost_no_more_than_themselves() {
    let (provider, fetcher) = (home(), home());
    let mut random = Random(41);
    let old = random.bytes(4 * MIB);
    let mut new = old.clone();
    let mut changed = 0;
    for block in (0..new.len() / 4096).step_by(37) {
        new[block * 4096..][..4096].copy_from_slice(&random.bytes(4096));
        changed += 4096;
    }
    let hash = provider.store.import_bytes(&new, Durability::Cached).unwrap();
    let list = list_of(&provider.store, &hash);
    let seeds = fetcher.store.compare(&list, &[Seed::File(seed_file(&fetcher, "old", &old))]);
    let copied: u64 = (0..4).filter_map(|unit| seeds.plan(&list, unit)).map(|plan| plan.copied()).sum();
    assert_eq!(copied, new.len() as u64 - changed);
}
