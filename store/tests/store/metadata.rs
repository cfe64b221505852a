//! Records, pins and small values.

use barnraiser_protocol::id::{BlobHash, NetworkId, RecordId};
use barnraiser_store::{Pin, StoredRecord};

use crate::support::home;

fn record(number: u8, expiry_ms: u64) -> StoredRecord {
    StoredRecord { id: RecordId([number; 32]), expiry_ms, bytes: vec![number; 10] }
}

#[test]
fn records_come_in_the_order_of_expiry_and_go_when_it_has_passed() {
    let home = home();
    let (ours, other) = (NetworkId([1; 32]), NetworkId([2; 32]));
    for (number, expiry) in [(1, 300), (2, 100), (3, 200), (4, 100)] {
        let record = record(number, expiry);
        home.store.put_record(&ours, &record.id, record.expiry_ms, &record.bytes, number == 4).unwrap();
    }
    home.store.put_records(&other, &[record(9, 1), record(8, u64::MAX)], true).unwrap();
    let all = |network| home.store.records(network).map(|record| record.unwrap().id.0[0]).collect::<Vec<_>>();
    assert_eq!(all(&ours), [2, 4, 3, 1]);
    assert_eq!(home.store.records(&ours).next().unwrap().unwrap(), record(2, 100));
    home.store.delete_expired(&ours, 200).unwrap();
    assert_eq!(all(&ours), [3, 1], "what expires at that moment stays");
    assert_eq!(all(&other), [9, 8], "another network's records stay");
    home.store.delete_record(&ours, &RecordId([3; 32]), 200).unwrap();
    assert_eq!(all(&ours), [1]);
    home.store.delete_records(&other).unwrap();
    assert!(all(&other).is_empty());
    assert_eq!(all(&ours), [1]);
}

#[test]
fn small_values_are_found_by_prefix() {
    let home = home();
    for (key, value) in [("peer/b", "2"), ("peer/a", "1"), ("peers", "x"), ("counter", "7")] {
        home.store.meta_put(key.as_bytes(), value.as_bytes(), false).unwrap();
    }
    home.store.sync().unwrap();
    assert_eq!(home.store.meta_get(b"counter").unwrap(), Some(b"7".to_vec()));
    let found = home.store.meta_scan(b"peer/", 10).unwrap();
    assert_eq!(found, vec![(b"peer/a".to_vec(), b"1".to_vec()), (b"peer/b".to_vec(), b"2".to_vec())]);
    assert_eq!(home.store.meta_scan(b"peer/", 1).unwrap().len(), 1);
    assert_eq!(home.store.meta_scan(b"", 10).unwrap().len(), 4);
    home.store.meta_delete(b"counter").unwrap();
    assert_eq!(home.store.meta_get(b"counter").unwrap(), None);
}

#[test]
fn pins_have_names() {
    let home = home();
    let (a, b) = (BlobHash([1; 32]), BlobHash([2; 32]));
    home.store.pin("x", &a).unwrap();
    home.store.pin_tree("y", &a).unwrap();
    home.store.pin("x", &b).unwrap();
    assert_eq!(home.store.pins().unwrap(), vec![("x".to_owned(), Pin::Blob(b)), ("y".to_owned(), Pin::Tree(a))]);
    assert!(home.store.unpin("x").unwrap());
    assert!(!home.store.unpin("x").unwrap());
}
