//! Fetching in units: any order, any peer, any lie.

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::transfer::end_of;
use barnraiser_store::geometry::{encoded_length, unit_count, unit_range};
use barnraiser_store::{Available, BLOB_BYTES_MAX, Durability, GROUP_BYTES, PartialError, ReadError, Store, UNIT_BYTES, check_length};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Random, blob_path, bytes, check_sound, encoding, fetch_missing, files_below, flip, home};

const MIB: usize = UNIT_BYTES as usize;

/// Units in any order, among them copies that were flipped, cut or lengthened: only the true ones count, and in the end
/// the blob is the seed's.
#[test]
fn any_order_and_any_lie_end_in_the_true_blob() {
    let (seed, fetcher) = (home(), home());
    let lengths =
        prop_oneof![0usize..40_000, (0usize..4, 0usize..3).prop_map(|(units, off)| (units * MIB + off).saturating_sub(1)), 0usize..3 * MIB];
    let mut runner = TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
    runner
        .run(&(lengths, any::<u64>()), |(length, number)| {
            let mut random = Random(number);
            let hash = seed.store.import_bytes(&random.bytes(length), Durability::Cached).unwrap();
            if fetcher.store.contains(&hash).unwrap() {
                return Ok(());
            }
            let partial = fetcher.store.partial(&hash, length as u64).unwrap();
            let mut order: Vec<u64> = (0..unit_count(length as u64)).collect();
            for last in (1..order.len()).rev() {
                order.swap(last, random.below(last as u64 + 1) as usize);
            }
            for unit in order {
                let range = unit_range(unit, length as u64);
                let encoded = encoding(&seed.store, &hash, range.clone()).unwrap();
                let mut lie = encoded.clone();
                match random.below(3) {
                    0 if !lie.is_empty() => {
                        let at = random.below(lie.len() as u64) as usize;
                        lie[at] ^= 1 << random.below(8);
                    }
                    1 if !lie.is_empty() => lie.truncate(random.below(lie.len() as u64) as usize),
                    _ => lie.push(0),
                }
                let refused = partial.write_unit(range.clone(), &lie).unwrap_err();
                prop_assert!(refused.is_peers_fault(), "{refused}");
                prop_assert!(!partial.has(unit));
                prop_assert!(partial.complete(Durability::Cached).is_err());
                partial.write_unit(range.clone(), &encoded).unwrap();
                prop_assert!(partial.has(unit));
                // Every verified unit can be served at once.
                prop_assert!(encoding(&fetcher.store, &hash, range).unwrap() == encoded);
            }
            prop_assert!(partial.is_complete() && partial.missing().is_empty());
            partial.complete(if random.chance(2) { Durability::Announced } else { Durability::Cached }).unwrap();
            prop_assert!(fetcher.store.read_all(&hash, u64::MAX).unwrap() == seed.store.read_all(&hash, u64::MAX).unwrap());
            Ok(())
        })
        .unwrap();
    assert!(check_sound(&fetcher.store).is_empty());
    assert_eq!(files_below(&fetcher.store.root().join("partials")), 0);
}

/// A lie about the length is found out with the last unit, whichever length is claimed.
#[test]
fn lying_length_is_the_peers_fault() {
    let (seed, fetcher) = (home(), home());
    for length in [1, 20_000, 3 * MIB, 3 * MIB + 1] {
        let hash = seed.store.import_bytes(&bytes(1, length), Durability::Cached).unwrap();
        for claimed in [length - 1, length + 1, length + MIB, 2 * length + MIB, length.next_power_of_two() * 2] {
            let claimed = claimed as u64;
            let partial = fetcher.store.partial(&hash, claimed).unwrap();
            let last = unit_range(unit_count(claimed) - 1, claimed);
            // The best a liar can do: the true bytes, padded or cut to what that length asks for.
            let true_last = unit_range(unit_count(length as u64) - 1, length as u64);
            let mut lie = encoding(&seed.store, &hash, true_last).unwrap();
            lie.resize(barnraiser_store::geometry::encoded_length(&last, claimed) as usize, 0);
            assert!(partial.write_unit(last, &lie).unwrap_err().is_peers_fault());
            assert!(!partial.length_is_proven());
        }
        // The true length begins anew; once it is proven, others are refused.
        let partial = fetcher.store.partial(&hash, length as u64).unwrap();
        fetch_missing(&seed.store, &partial);
        assert!(partial.length_is_proven());
        let error = fetcher.store.partial(&hash, length as u64 + 1).unwrap_err();
        assert!(matches!(error, PartialError::Length { proven: Some(proven), .. } if proven == length as u64));
        partial.complete(Durability::Cached).unwrap();
    }
    let error = fetcher.store.partial(&BlobHash([1; 32]), BLOB_BYTES_MAX + 1).unwrap_err();
    assert!(matches!(error, PartialError::Length { proven: None, .. }));
}

/// The true end proves the true length, and nothing proves another one; a fetch that was shown it can show it to others.
#[test]
fn length_is_proven_by_the_end_of_a_blob() {
    let (seed, fetcher) = (home(), home());
    for length in [0, 1, 16 << 10, (16 << 10) + 1, 20_000, MIB, 3 * MIB, 3 * MIB + 1, 5 * MIB - 1] {
        let hash = seed.store.import_bytes(&bytes(length as u64, length), Durability::Cached).unwrap();
        let length = length as u64;
        let mut end = Vec::new();
        seed.store.encode_end(&hash, length, &mut end).unwrap();
        let range = |length| {
            let end = end_of(length);
            end.start..end.end
        };
        check_length(&hash, length, &range(length), &end).unwrap();
        for claimed in [length + 1, length + GROUP_BYTES, length + UNIT_BYTES, 2 * length + 1, length.saturating_sub(1), length / 2] {
            if claimed == length {
                continue;
            }
            // The best a liar can do: the true bytes, padded or cut to what that length asks for.
            let mut lie = end.clone();
            assert!(check_length(&hash, claimed, &range(claimed), &lie).unwrap_err().is_peers_fault());
            lie.resize(encoded_length(&range(claimed), claimed) as usize, 0);
            assert!(check_length(&hash, claimed, &range(claimed), &lie).unwrap_err().is_peers_fault());
        }
        for at in 0..end.len().min(200) {
            let mut lie = end.clone();
            lie[at] ^= 1;
            assert!(check_length(&hash, length, &range(length), &lie).unwrap_err().is_peers_fault());
        }
        let partial = fetcher.store.partial(&hash, length).unwrap();
        assert!(!partial.length_is_proven());
        partial.prove_length(end.clone()).unwrap();
        assert!(partial.length_is_proven());
        assert!(matches!(fetcher.store.partial(&hash, length + 1), Err(PartialError::Length { proven: Some(_), .. })));
        let mut shown = Vec::new();
        fetcher.store.encode_end(&hash, length, &mut shown).unwrap();
        assert_eq!(shown, end);
    }
    let error = check_length(&BlobHash([1; 32]), BLOB_BYTES_MAX + 1, &(0..1), &[]).unwrap_err();
    assert!(matches!(error, PartialError::Length { .. }));
}

#[test]
fn what_is_no_unit_is_refused_and_an_ended_fetch_says_so() {
    let (seed, fetcher) = (home(), home());
    let length = 2 * MIB as u64 + 5;
    let hash = seed.store.import_bytes(&bytes(2, length as usize), Durability::Cached).unwrap();
    let partial = fetcher.store.partial(&hash, length).unwrap();
    for range in [0..1, 1..UNIT_BYTES, 0..length, 3 * UNIT_BYTES..4 * UNIT_BYTES, length..length, u64::MAX - 1..u64::MAX] {
        assert!(matches!(partial.write_unit(range, &[]), Err(PartialError::NotAUnit { .. })));
    }
    let error = partial.complete(Durability::Cached).unwrap_err();
    assert!(matches!(error, PartialError::Incomplete { missing, .. } if missing == length));
    fetch_missing(&seed.store, &partial);
    let other = fetcher.store.partial(&hash, length).unwrap();
    partial.complete(Durability::Announced).unwrap();
    assert!(matches!(other.complete(Durability::Announced), Err(PartialError::Ended(_))));
    assert!(matches!(other.discard(), Err(PartialError::Ended(_))));
    assert!(fetcher.store.contains(&hash).unwrap());
    assert!(fetcher.store.partials_begun().unwrap().is_empty());
}

/// After a restart exactly the verified units are there; what rotted meanwhile is fetched again and nothing else.
#[test]
fn fetch_resumes_with_what_is_verified() {
    let (seed, fetcher) = (home(), home());
    let length = 6 * MIB as u64 + 77;
    let blob = bytes(3, length as usize);
    let hash = seed.store.import_bytes(&blob, Durability::Cached).unwrap();
    let partial = fetcher.store.partial(&hash, length).unwrap();
    for unit in [0, 2, 3, 6] {
        let range = unit_range(unit, length);
        partial.write_unit(range.clone(), &encoding(&seed.store, &hash, range).unwrap()).unwrap();
    }
    let some = vec![0..UNIT_BYTES, 2 * UNIT_BYTES..4 * UNIT_BYTES, 6 * UNIT_BYTES..length];
    assert_eq!(
        fetcher.store.available(&hash).unwrap(),
        Some(Available { length, complete: false, length_is_proven: true, ranges: some.clone() })
    );
    assert!(matches!(encoding(&fetcher.store, &hash, 0..2 * UNIT_BYTES), Err(ReadError::NotFound(_))));
    let root = fetcher.store.root().to_owned();
    let folder = fetcher.folder;
    drop((partial, fetcher.store));

    let store = Store::open(&root).unwrap();
    assert_eq!(store.partials_begun().unwrap(), vec![(hash, length)]);
    assert_eq!(store.partial(&hash, length).unwrap().verified(), some);
    drop(store);
    flip(&root.join("partials").join(hash.to_string()), 2 * UNIT_BYTES + 5);
    let store = Store::open(&root).unwrap();
    let partial = store.partial(&hash, length).unwrap();
    assert_eq!(partial.verified(), vec![0..UNIT_BYTES, 3 * UNIT_BYTES..4 * UNIT_BYTES, 6 * UNIT_BYTES..length]);
    assert_eq!(partial.missing_bytes(), 4 * UNIT_BYTES);
    fetch_missing(&seed.store, &partial);
    partial.complete(Durability::Announced).unwrap();
    assert!(store.read_all(&hash, u64::MAX).unwrap() == blob);
    assert!(check_sound(&store).is_empty());
    drop(folder);
}

/// Of a damaged blob only the damaged units are fetched again.
#[test]
fn damaged_blob_is_mended_by_fetching_only_what_is_wrong() {
    let (seed, fetcher) = (home(), home());
    for length in [3 * MIB as u64 + 9, 6 * MIB as u64] {
        let blob = bytes(4, length as usize);
        let hash = seed.store.import_bytes(&blob, Durability::Cached).unwrap();
        fetcher.store.import_bytes(&blob, Durability::Announced).unwrap();
        flip(&blob_path(&fetcher.store, &hash), UNIT_BYTES + 1);
        fetcher.store.read_all(&hash, u64::MAX).unwrap_err();
        // The store knows the length itself, so a wrong claim costs nothing.
        assert!(matches!(fetcher.store.partial(&hash, length + 1), Err(PartialError::Length { proven: Some(_), .. })));
        let partial = fetcher.store.partial(&hash, length).unwrap();
        assert_eq!(partial.missing(), vec![UNIT_BYTES..2 * UNIT_BYTES]);
        fetch_missing(&seed.store, &partial);
        partial.complete(Durability::Announced).unwrap();
        assert!(fetcher.store.read_all(&hash, u64::MAX).unwrap() == blob);
    }
    assert!(check_sound(&fetcher.store).is_empty());
}

#[test]
fn several_providers_fill_one_blob() {
    let (seed, fetcher) = (home(), home());
    let length = 24 * MIB as u64 + 1;
    let hash = seed.store.import_bytes(&bytes(5, length as usize), Durability::Cached).unwrap();
    let partial = fetcher.store.partial(&hash, length).unwrap();
    std::thread::scope(|scope| {
        for provider in 0..4 {
            let (seed, fetcher, partial) = (&seed, &fetcher, partial.clone());
            scope.spawn(move || {
                let other = fetcher.store.partial(&hash, length).unwrap();
                for step in 0..unit_count(length) {
                    // Every provider brings every unit, from another place on: the end game at its worst.
                    let range = unit_range((step + provider * 6) % unit_count(length), length);
                    let to = if step % 2 == 0 { &partial } else { &other };
                    to.write_unit(range.clone(), &encoding(&seed.store, &hash, range).unwrap()).unwrap();
                }
            });
        }
    });
    partial.complete(Durability::Announced).unwrap();
    assert!(fetcher.store.contains(&hash).unwrap());
    assert!(check_sound(&fetcher.store).is_empty());
}

#[test]
fn discarded_fetch_leaves_nothing() {
    let (seed, fetcher) = (home(), home());
    let length = 2 * MIB as u64;
    let hash = seed.store.import_bytes(&bytes(6, length as usize), Durability::Cached).unwrap();
    let partial = fetcher.store.partial(&hash, length).unwrap();
    let range = unit_range(0, length);
    partial.write_unit(range.clone(), &encoding(&seed.store, &hash, range.clone()).unwrap()).unwrap();
    partial.discard().unwrap();
    assert!(matches!(partial.write_unit(range, &[]), Err(PartialError::Ended(_))));
    assert_eq!(files_below(&fetcher.store.root().join("partials")), 0);
    assert_eq!(fetcher.store.partial(&hash, length).unwrap().missing_bytes(), length);
}

/// Completing and discarding at the same time end in one of the two, and never wait for each other.
#[test]
fn complete_and_discard_at_once_do_not_block() {
    let (seed, fetcher) = (home(), home());
    for round in 0..40u64 {
        let length = if round % 2 == 0 { 1000 } else { 30_000 };
        let hash = seed.store.import_bytes(&bytes(round, length as usize), Durability::Cached).unwrap();
        let partial = fetcher.store.partial(&hash, length).unwrap();
        fetch_missing(&seed.store, &partial);
        let (completed, discarded) = std::thread::scope(|scope| {
            let completing = scope.spawn(|| partial.complete(Durability::Cached));
            let discarding = scope.spawn(|| partial.discard());
            (completing.join().unwrap(), discarding.join().unwrap())
        });
        assert!(completed.is_ok() || discarded.is_ok());
        assert_eq!(fetcher.store.contains(&hash).unwrap(), completed.is_ok());
    }
    assert!(check_sound(&fetcher.store).is_empty());
}

/// Whoever reads along gets the bytes in order as far as they are here, never one that is not, and all of them in the end.
#[test]
fn reader_along_a_fetch_gets_what_is_here_in_order() {
    let (seed, fetcher) = (home(), home());
    for length in [5_000, 3 * MIB, 3 * MIB + 70_001] {
        let blob = bytes(length as u64, length);
        let hash = seed.store.import_bytes(&blob, Durability::Cached).unwrap();
        let mut read = Vec::new();
        let read_on = |read: &mut Vec<u8>| {
            while fetcher.store.read_on(&hash, read.len() as u64, read).unwrap() > 0 {}
            read.len()
        };
        assert_eq!(read_on(&mut read), 0, "not even begun");
        let partial = fetcher.store.partial(&hash, length as u64).unwrap();
        assert_eq!(read_on(&mut read), 0);
        let units = unit_count(length as u64);
        for unit in [units - 1, 0].into_iter().chain(1..units) {
            let range = unit_range(unit, length as u64);
            partial.write_unit(range.clone(), &encoding(&seed.store, &hash, range).unwrap()).unwrap();
            let here = partial.verified().first().filter(|range| range.start == 0).map_or(0, |range| range.end as usize);
            assert_eq!(read_on(&mut read), here);
            assert!(read[..] == blob[..here]);
            // From the middle of a group as well.
            let mut tail = Vec::new();
            let from = here.saturating_sub(1001);
            assert_eq!(fetcher.store.read_on(&hash, from as u64, &mut tail).unwrap() as usize, here - from);
            assert!(tail[..] == blob[from..here]);
        }
        partial.complete(Durability::Cached).unwrap();
        assert!(read == blob);
        // Of a whole blob, unit by unit, the same.
        read.clear();
        assert_eq!(read_on(&mut read), length);
        assert!(read == blob);
        assert_eq!(fetcher.store.read_on(&hash, length as u64 + 5, &mut Vec::new()).unwrap(), 0);
    }
}
