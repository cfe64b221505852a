#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::id::NetworkId;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn publics(seeds: &[u8]) -> Vec<PublicKey> {
    seeds.iter().map(|seed| PublicKey::of(&key(*seed))).collect()
}

fn root(version: u64, seeds: &[u8], threshold: u32) -> Signed<Root> {
    let mut root = Root::new(version, Expiry::at(Timestamp(5_000)), NetworkParams::of("oak".parse().unwrap()));
    for role in Role::ALL {
        root.set_role(role, publics(seeds), threshold);
    }
    Signed::unsigned(&root).unwrap()
}

fn signed_by<T: Metadata>(document: &Signed<T>, seeds: &[u8]) -> Signed<T> {
    let signatures = seeds.iter().map(|seed| KeySignature::make(&key(*seed), document.canonical())).collect();
    Signed::parse(&Signed::<T>::from_value(document.value().clone(), signatures).unwrap().to_bytes()).unwrap()
}

/// The texts and the key id are what securesystemslib 1.4 (python-tuf 7.0) makes of the same values.
#[test]
fn canonical_json_and_key_ids_are_those_of_python_tuf() {
    let value = json!({
        "b": [1, true, null, -5],
        "a": { "z": "quote \" back \\ tab\t nl\n", "é": "é/slash" },
        "A": "x",
        "signed": { "_type": "root", "version": 1, "spec_version": "1.0.31" },
    });
    let theirs = "{\"A\":\"x\",\"a\":{\"z\":\"quote \\\" back \\\\ tab\t nl\n\",\"é\":\"é/slash\"},\"b\":[1,true,null,-5],\
                  \"signed\":{\"_type\":\"root\",\"spec_version\":\"1.0.31\",\"version\":1}}";
    assert_eq!(String::from_utf8(canonical(&value).unwrap()).unwrap(), theirs);
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let bytes = data_encoding::HEXLOWER.decode(public.as_bytes()).unwrap();
    let public = PublicKey::from_bytes(bytes.try_into().unwrap()).unwrap();
    assert_eq!(public.id().to_string(), "74c181c7ad8a0855d4b55e44d2ba87aabdddb196832571f15f92fece332e4916");
}

#[test]
fn numbers_that_are_not_integers_have_no_canonical_form() {
    assert!(matches!(canonical(&json!({ "a": 1.5 })), Err(TufError::Json(_))));
}

#[test]
fn one_of_one_and_two_of_three_are_enough_and_fewer_are_not() {
    let alone = root(1, &[1], 1);
    assert!(signed_by(&alone, &[1]).verify_first().is_ok());
    assert!(signed_by(&alone, &[]).verify_first().is_err());
    let shared = root(1, &[1, 2, 3], 2);
    for pair in [[1, 2], [2, 3], [3, 1]] {
        assert!(signed_by(&shared, &pair).verify_first().is_ok());
    }
    assert!(signed_by(&shared, &[1, 2, 3]).verify_first().is_ok());
    let error = signed_by(&shared, &[2]).verify_first().unwrap_err();
    assert_eq!(error, TufError::Threshold(ThresholdError { what: "root", have: 1, need: 2 }));
}

#[test]
fn a_signature_counts_once_and_a_foreign_key_never() {
    let shared = root(1, &[1, 2, 3], 2);
    assert!(signed_by(&shared, &[1, 1, 1]).verify_first().is_err());
    assert!(signed_by(&shared, &[1, 9]).verify_first().is_err());
    assert!(signed_by(&shared, &[9, 1, 8, 2]).verify_first().is_ok());
}

/// A bad signature beside a good one of the same key must not hide the good one, in either order.
#[test]
fn a_bad_signature_does_not_hide_a_good_one() {
    let document = root(1, &[1], 1);
    let good = KeySignature::make(&key(1), document.canonical());
    let bad = KeySignature { sig: "00".repeat(64), ..good.clone() };
    for signatures in [vec![good.clone(), bad.clone()], vec![bad, good]] {
        assert!(document.clone().with_signatures(signatures).verify_first().is_ok());
    }
}

/// One key under two ids would be two votes: an id must be its key's own.
#[test]
fn a_key_under_a_foreign_id_does_not_count() {
    let document = root(1, &[1], 1);
    let mut value = document.value().clone();
    let fake = "ab".repeat(32);
    value["keys"][&fake] = value["keys"].as_object().unwrap().values().next().unwrap().clone();
    for role in Role::ALL {
        value["roles"][role.name()]["keyids"].as_array_mut().unwrap().push(json!(fake));
        value["roles"][role.name()]["threshold"] = json!(2);
    }
    let error = Signed::<Root>::from_value(value, Vec::new()).unwrap_err();
    assert!(error.to_string().contains("2 signatures are asked for, from 1 usable keys"), "{error}");
}

/// Another spelling of one key (with a field more) has an id of its own, and is still one key.
#[test]
fn one_key_in_two_spellings_is_one_key() {
    let document = root(1, &[1], 1);
    let mut value = document.value().clone();
    let object = json!({ "keytype": "ed25519", "scheme": "ed25519", "keyval": { "public": PublicKey::of(&key(1)).to_string() }, "x": 1 });
    let id = crate::id::Sha256::of(&canonical(&object).unwrap()).to_string();
    value["keys"][&id] = object;
    value["roles"]["root"]["keyids"].as_array_mut().unwrap().push(json!(id));
    value["roles"]["root"]["threshold"] = json!(2);
    assert!(Signed::<Root>::from_value(value, Vec::new()).is_err());
}

#[test]
fn weak_public_keys_are_refused() {
    assert!(PublicKey::from_bytes([0; 32]).is_err());
    let mut one = [0; 32];
    one[0] = 1;
    assert!(PublicKey::from_bytes(one).is_err());
}

/// Every leaf of the signed part is covered, known to this version or not.
#[test]
fn tampering_with_any_field_is_noticed() {
    let document = root(1, &[1], 1);
    let mut value = document.value().clone();
    value["from-a-later-version"] = json!({ "deep": ["x"] });
    let document = signed_by(&Signed::<Root>::from_value(value, Vec::new()).unwrap(), &[1]);
    let keys = document.unverified().role(Role::Root).unwrap();
    assert!(document.clone().verify(&keys).is_ok());
    let mut leaves = 0;
    for pointer in pointers(document.value(), String::new()) {
        let mut value = document.value().clone();
        let leaf = value.pointer_mut(&pointer).unwrap();
        *leaf = match leaf {
            Value::Bool(known) => json!(!*known),
            Value::Number(number) => json!(number.as_u64().unwrap() + 1),
            Value::String(text) => json!(format!("{text}0")),
            _ => continue,
        };
        leaves += 1;
        let tampered = Signed::<Root>::from_value(value, document.signatures().to_vec());
        assert!(tampered.map_or(true, |tampered| tampered.verify(&keys).is_err()), "{pointer}");
    }
    assert!(leaves > 15);
}

fn pointers(value: &Value, at: String) -> Vec<String> {
    match value {
        Value::Object(map) => map.iter().flat_map(|(name, value)| pointers(value, format!("{at}/{name}"))).collect(),
        Value::Array(list) => list.iter().enumerate().flat_map(|(i, value)| pointers(value, format!("{at}/{i}"))).collect(),
        _ => vec![at],
    }
}

/// What this version does not know is handed on, or the next reader's check would fail.
#[test]
fn unknown_fields_survive_the_round_trip() {
    let mut value = root(1, &[1], 1).value().clone();
    value["later"] = json!([1, 2]);
    let document = signed_by(&Signed::<Root>::from_value(value, Vec::new()).unwrap(), &[1]);
    let again = Signed::<Root>::parse(&document.to_bytes()).unwrap();
    assert_eq!(again.value()["later"], json!([1, 2]));
    assert!(again.verify_first().is_ok());
}

/// An unknown parameter of the network is a fork, so the root is refused instead.
#[test]
fn a_root_with_an_unknown_network_parameter_is_refused() {
    let mut value = root(1, &[1], 1).value().clone();
    value["x-barnraiser"]["later"] = json!(1);
    assert!(Signed::<Root>::from_value(value, Vec::new()).unwrap_err().to_string().contains("later"));
}

#[test]
fn a_new_root_needs_the_old_keys_and_the_new_ones() {
    let first = signed_by(&root(1, &[1, 2, 3], 2), &[1, 2]).verify_first().unwrap();
    let next = root(2, &[3, 4, 5], 2);
    // Two of the old (1, 3) and two of the new (3, 4).
    assert!(signed_by(&next, &[1, 3, 4]).verify_after(&first).is_ok());
    assert!(signed_by(&next, &[1, 2]).verify_after(&first).is_err());
    assert!(signed_by(&next, &[3, 4, 5]).verify_after(&first).is_err());
    let skipping = signed_by(&root(3, &[3, 4, 5], 2), &[1, 3, 4]).verify_after(&first);
    assert_eq!(skipping, Err(TufError::RootOrder { before: 1, found: 3 }));
    let same = signed_by(&root(1, &[1, 2, 3], 2), &[1, 2]).verify_after(&first);
    assert_eq!(same, Err(TufError::RootOrder { before: 1, found: 1 }));
}

#[test]
fn roots_with_impossible_roles_or_parameters_are_refused() {
    let change = |pointer: &str, to: Value| {
        let mut value = root(1, &[1], 1).value().clone();
        *value.pointer_mut(pointer).unwrap() = to;
        Signed::<Root>::from_value(value, Vec::new()).map(drop)
    };
    assert!(change("/version", json!(1)).is_ok());
    for (pointer, to) in [
        ("/version", json!(0)),
        ("/version", json!(VERSION_MAX + 1)),
        ("/version", json!(-1)),
        ("/_type", json!("targets")),
        ("/spec_version", json!("2.0.0")),
        ("/consistent_snapshot", json!(false)),
        ("/expires", json!("2030-01-01")),
        ("/expires", json!("2030-01-01T00:00:00.5Z")),
        ("/expires", json!("2030-01-01T00:00:00+01:00")),
        ("/roles/root/threshold", json!(0)),
        ("/roles/root/threshold", json!(2)),
        ("/roles/root/keyids", json!([])),
        ("/roles/timestamp", json!(null)),
        ("/keys", json!({})),
        ("/x-barnraiser/lease-ttl-s", json!(0)),
        ("/x-barnraiser/clock-difference-s", json!(3601)),
        ("/x-barnraiser/name", json!("../etc")),
    ] {
        assert!(change(pointer, to.clone()).is_err(), "{pointer} {to}");
    }
}

#[test]
fn expired_metadata_says_when_it_expired() {
    let trusted = signed_by(&root(1, &[1], 1), &[1]).verify_first().unwrap();
    assert!(trusted.check_expiry(Timestamp(4_999)).is_ok());
    let error = trusted.check_expiry(Timestamp(5_000)).unwrap_err();
    assert!(error.to_string().contains("1970-01-01T00:00:05Z"), "{error}");
}

#[test]
fn expiries_are_whole_seconds_and_have_one_spelling() {
    for millis in [0, 999, 1_700_000_000_123, u64::MAX] {
        let expiry = Expiry::at(Timestamp(millis));
        let text = serde_json::to_string(&expiry).unwrap();
        assert_eq!(serde_json::from_str::<Expiry>(&text).unwrap(), expiry, "{text}");
        assert_eq!(expiry.timestamp().0 % 1000, 0);
    }
}

/// A release must not pass for the network's rules, nor rules for a root.
#[test]
fn metadata_of_another_type_is_refused() {
    let targets = Targets::new(1, Expiry::at(Timestamp(0)), Binding { network: NetworkId([1; 32]), channel: None });
    let bytes = Signed::unsigned(&targets).unwrap().to_bytes();
    let error = Signed::<Root>::parse(&bytes).unwrap_err();
    assert_eq!(error, TufError::Type { wanted: "root", found: "targets".into() });
}

#[test]
fn oversized_documents_are_refused_before_they_are_parsed() {
    let error = Signed::<Root>::parse(&vec![b' '; Root::BYTES_MAX + 1]).unwrap_err();
    assert!(matches!(error, TufError::TooLarge { .. }));
    let many = vec![KeySignature { keyid: String::new(), sig: String::new() }; SIGNATURES_MAX + 1];
    assert!(Signed::<Root>::from_value(root(1, &[1], 1).value().clone(), many).is_err());
}

#[test]
fn deeply_nested_json_is_refused_and_does_not_exhaust_the_stack() {
    let deep = format!("{{\"signed\":{}", "[".repeat(30_000));
    assert!(Signed::<Root>::parse(deep.as_bytes()).is_err());
}

#[test]
fn targets_match_their_bytes_alone() {
    let target = Target::of(b"bytes");
    assert!(target.matches(b"bytes"));
    assert!(!target.matches(b"bytez") && !target.matches(b"byte"));
    let mut without = target.clone();
    without.custom.clear();
    assert!(!without.matches(b"bytes"));
    let mut other = target;
    other.hashes.sha256.0[0] ^= 1;
    assert!(!other.matches(b"bytes"));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Signed::<Root>::parse(&bytes);
        let _ = Signed::<Targets>::parse(&bytes);
    }

    /// Damage to a real document: refused, or (in blanks and the like) without effect.
    #[test]
    fn damaged_documents_never_panic_and_never_verify_as_another(at in any::<prop::sample::Index>(), byte: u8) {
        let document = signed_by(&root(1, &[1], 1), &[1]);
        let mut bytes = document.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(trusted) = Signed::<Root>::parse(&bytes).and_then(Signed::verify_first) {
            prop_assert_eq!(trusted.document().canonical(), document.canonical());
        }
    }
}
