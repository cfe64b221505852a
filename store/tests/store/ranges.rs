//! Ranges, against the reference.

use std::io::{Read as _, Seek as _, SeekFrom};

use barnraiser_protocol::id::BlobHash;
use barnraiser_store::geometry::encoded_length;
use barnraiser_store::{Durability, ReadError, UNIT_BYTES};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::oracle;
use crate::support::{bytes, encoding, home};

/// Lengths around the places where the tree changes its shape, and others.
fn lengths() -> impl Strategy<Value = usize> {
    let group = oracle::GROUP;
    prop_oneof![
        0usize..3,
        (0usize..40, 0usize..3).prop_map(move |(groups, off)| (groups * group + off).saturating_sub(1)),
        0usize..(3 * UNIT_BYTES as usize),
    ]
}

/// For any blob and any range of it: the encoding is the reference's, byte for byte, and as long as was said before.
#[test]
fn encoding_equals_the_reference() {
    let home = home();
    let strategy = (lengths(), any::<u64>(), any::<u64>(), any::<u64>());
    let mut runner = TestRunner::new(Config { cases: 96, failure_persistence: None, ..Config::default() });
    runner
        .run(&strategy, |(length, seed, a, b)| {
            let blob = bytes(seed, length);
            let (hash, imported) = home.store.import_reader(blob.as_slice(), Durability::Cached).unwrap();
            prop_assert_eq!(imported, length as u64);
            prop_assert_eq!(hash, BlobHash::of(&blob));
            prop_assert_eq!(hash, BlobHash::from(oracle::root(&blob)));
            let (a, b) = (a % (length as u64 + 1), b % (length as u64 + 1));
            let range = if length == 0 { 0..0 } else { a.min(b).min(length as u64 - 1)..a.max(b).max(a.min(b) + 1).min(length as u64) };
            let encoded = encoding(&home.store, &hash, range.clone()).unwrap();
            prop_assert_eq!(encoded.len() as u64, encoded_length(&range, length as u64));
            prop_assert!(encoded == oracle::encode(&blob, &range), "{} bytes, {:?}", length, range);
            Ok(())
        })
        .unwrap();
}

/// A reader that jumps about reads what a slice would.
#[test]
fn reader_reads_what_a_slice_would() {
    let home = home();
    let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let jumps = proptest::collection::vec((any::<u32>(), 0usize..600_000), 1..8);
    runner
        .run(&(lengths(), any::<u64>(), jumps), |(length, seed, jumps)| {
            let blob = bytes(seed, length);
            let hash = home.store.import_bytes(&blob, Durability::Cached).unwrap();
            let mut reader = home.store.reader(&hash).unwrap();
            for (at, count) in jumps {
                let at = at as usize % (length + 2);
                reader.seek(SeekFrom::Start(at as u64)).unwrap();
                let mut read = Vec::new();
                reader.by_ref().take(count as u64).read_to_end(&mut read).unwrap();
                let start = at.min(length);
                prop_assert!(read == blob[start..(start + count).min(length)]);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn ranges_that_are_none_are_refused() {
    let home = home();
    let hash = home.store.import_bytes(&bytes(1, 100), Durability::Cached).unwrap();
    for range in [0..101, 100..100, 5..5, 200..300] {
        assert!(matches!(encoding(&home.store, &hash, range), Err(ReadError::Range { length: 100, .. })));
    }
    let absent = BlobHash::of(b"not here");
    assert!(matches!(encoding(&home.store, &absent, 0..1), Err(ReadError::NotFound(hash)) if hash == absent));
}

/// The two ends of a transfer need only the geometry: bao-tree's own decoder reads what the store writes.
#[test]
fn foreign_decoder_reads_the_encoding() {
    use barnraiser_store::geometry::{chunk_ranges, shape};
    let home = home();
    let blob = bytes(7, 2 * UNIT_BYTES as usize + 12_345);
    let length = blob.len() as u64;
    let hash = home.store.import_bytes(&blob, Durability::Cached).unwrap();
    for range in [0..length, UNIT_BYTES..2 * UNIT_BYTES, length - 1..length] {
        let encoded = encoding(&home.store, &hash, range.clone()).unwrap();
        let mut target = vec![0u8; blob.len()];
        let outboard = bao_tree::io::outboard::EmptyOutboard { tree: shape(length), root: blake3::Hash::from(hash.0) };
        bao_tree::io::sync::decode_ranges(encoded.as_slice(), &chunk_ranges(&range, length), &mut target, outboard).unwrap();
        let part = range.start as usize..range.end as usize;
        assert!(target[part.clone()] == blob[part]);
    }
}
