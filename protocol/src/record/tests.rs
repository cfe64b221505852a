#![allow(clippy::unwrap_used)]

use super::payload::*;
use super::*;
use crate::id::{ActionId, BatchId};

const NETWORK: NetworkId = NetworkId([1; 32]);

fn claim() -> Payload {
    let lease = LeaseRef { action: ActionId([2; 32]), slot: SlotNo(1), epoch: 3 };
    Payload::Claim(Claim { lease, batch: BatchId([4; 32]), follows: ClaimTag::default() })
}

fn record() -> SharedRecord {
    let key = SecretKey::from_seed(&[9; 32]);
    Record::author(&key, NETWORK, 1, Timestamp(1000), Timestamp(2000), claim()).unwrap()
}

/// What an author makes is what a receiver opens.
#[test]
fn record_survives_the_wire() {
    let made = record();
    let opened = Record::open(&made.bytes(), NETWORK).unwrap();
    assert_eq!(opened, made);
    assert_eq!(opened.payload(), &claim());
}

/// Every flipped bit is caught: by the decoder or by the signature.
#[test]
fn flipped_bit_is_refused() {
    let bytes = record().bytes().to_vec();
    for at in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        assert!(Record::open(&damaged, NETWORK).is_err(), "bit {at}");
    }
}

#[test]
fn truncated_and_longer_records_are_refused() {
    let bytes = record().bytes().to_vec();
    for end in 0..bytes.len() {
        assert!(Record::decode(&bytes[..end]).is_err());
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(Record::open(&longer, NETWORK).is_err());
    assert!(Record::decode(&vec![0; RECORD_BYTES_MAX + 1]).is_err());
}

#[test]
fn record_of_a_foreign_network_is_refused() {
    let error = Record::open(&record().bytes(), NetworkId([5; 32])).unwrap_err();
    assert!(matches!(error, RecordError::ForeignNetwork { .. }));
}

/// What can't be read is passed on, so who wrote it, and for whom, is checked all the same.
#[test]
fn record_of_unknown_type_is_checked_as_far_as_it_can_be() {
    let key = SecretKey::from_seed(&[9; 32]);
    let bytes = Record::of_the_future(&key, NETWORK, 999);
    let unknown = RecordError::UnknownKind { kind: 999, author: key.public() };
    assert_eq!(Record::open(&bytes, NETWORK), Err(unknown));
    let foreign = Record::open(&bytes, NetworkId([5; 32])).unwrap_err();
    assert!(matches!(foreign, RecordError::ForeignNetwork { .. }), "{foreign}");
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        let error = Record::open(&damaged, NETWORK).unwrap_err();
        assert!(!matches!(error, RecordError::UnknownKind { .. }), "byte {at}: {error}");
    }
}

/// Claims, commitments and reveals once lived for as long as their authors liked: a short one broke the chain of epochs, here
/// earlier and there later.
#[test]
fn board_and_evidence_records_live_as_long_as_all_of_their_type() {
    let key = SecretKey::from_seed(&[9; 32]);
    let record = Record::author(&key, NETWORK, 1, Timestamp(1000), Timestamp(2000), claim()).unwrap();
    assert_eq!(record.expires(), Kind::Claim.latest_expiry(Timestamp(1000)), "made as it must be");
    let short = Kind::ALL.iter().filter(|kind| kind.life() != Life::Standing && !kind.has_one_lifetime());
    assert_eq!(short.collect::<Vec<_>>(), [&Kind::Presence]);
    let mut bytes = record.bytes();
    bytes.truncate(bytes.len() - 64);
    let at = bytes.windows(8).position(|bytes| bytes == record.expires().0.to_le_bytes()).unwrap();
    bytes[at..at + 8].copy_from_slice(&(record.expires().0 - 1).to_le_bytes());
    bytes.extend(key.sign(&Record::message(Kind::Claim, &bytes)).0);
    let error = Record::open(&bytes, NETWORK).unwrap_err();
    assert!(matches!(error, RecordError::Lifetime { kind: Kind::Claim, .. }), "{error}");
    assert!(error.to_string().contains("must expire at"), "{error}");
}

/// A board record can't be made to last for ever.
#[test]
fn lifetime_is_cut_to_what_the_type_allows() {
    let key = SecretKey::from_seed(&[9; 32]);
    let record = Record::author(&key, NETWORK, 1, Timestamp(1000), Timestamp::MAX, claim()).unwrap();
    assert_eq!(record.expires(), Kind::Claim.latest_expiry(Timestamp(1000)));
}

/// Codes are unique and stay what they are.
#[test]
fn kinds_and_codes_are_one_to_one() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_code(kind.code()), Some(*kind));
    }
}

/// A FraudProof must hold two of them (DESIGN section 5).
#[test]
fn evidence_records_stay_small() {
    let key = SecretKey::from_seed(&[9; 32]);
    let lease = LeaseRef { action: ActionId([2; 32]), slot: SlotNo(1), epoch: 3 };
    let particulars = crate::outcome::Particulars {
        log: Some(crate::id::BlobHash([0; 32])),
        log_length: 1,
        wall_ms: 1,
        cpu_ms: 1,
        memory_peak: 1,
        fingerprint: crate::bounded::BoundedString::cut(&"f".repeat(999)),
        sandbox: crate::bounded::BoundedString::cut(&"s".repeat(999)),
    };
    let outcome = crate::outcome::Outcome::Failure {
        class: crate::outcome::FailureClass::Build,
        stage: crate::bounded::BoundedString::cut(&"t".repeat(999)),
    };
    let reveal = Payload::Reveal(Reveal { lease, again: Some(outcome.clone().into()), outcome, salt: [0; 32], particulars }.into());
    let record = Record::author(&key, NETWORK, 1, Timestamp(1000), Timestamp::MAX, reveal).unwrap();
    assert!(record.bytes().len() <= PROVABLE_BYTES_MAX, "{}", record.bytes().len());
}

fn certificate(certificate: NodeCertificate) -> Payload {
    Payload::NodeCertificate(certificate.into())
}

/// Nobody can claim a node that did not agree to that: not with no consent, another node's, one for another network, or
/// one for another operator.
#[test]
fn certificate_without_its_nodes_consent_is_refused() {
    let (operator, node) = (SecretKey::from_seed(&[9; 32]), SecretKey::from_seed(&[10; 32]));
    let agreed = |node: &SecretKey, network, operator: &SecretKey| NodeCertificate::new(node, &network, &operator.operator());
    let good = agreed(&node, NETWORK, &operator);
    let other = SecretKey::from_seed(&[11; 32]);
    let bad = [
        NodeCertificate { consent: Signature([0; 64]), ..good },
        NodeCertificate { consent: operator.sign(&consent_message(&NETWORK, &operator.operator())), ..good },
        NodeCertificate { consent: node.sign(&bearer_message(&RecordId(NETWORK.0), &operator.operator())), ..good },
        NodeCertificate { node: node.node(), ..agreed(&other, NETWORK, &operator) },
        agreed(&node, NetworkId([5; 32]), &operator),
        agreed(&node, NETWORK, &other),
        // A point of small order signs everything where the check is lenient.
        NodeCertificate { node: NodeId([0; 32]), ..good },
    ];
    for bad in bad {
        let expected = NoConsent { operator: operator.operator(), node: bad.node, network: NETWORK };
        let forged = Record::forge(&operator, NETWORK, Timestamp(1000), certificate(bad.clone()));
        assert_eq!(Record::open(&forged, NETWORK), Err(RecordError::Unauthorised(expected)));
        let made = Record::author(&operator, NETWORK, 1, Timestamp(1000), Timestamp::MAX, certificate(bad));
        assert_eq!(made, Err(AuthorError::Refused(RecordError::Unauthorised(expected).into())));
    }
    let made = Record::author(&operator, NETWORK, 1, Timestamp(1000), Timestamp::MAX, certificate(good.clone())).unwrap();
    assert_eq!(Record::open(&made.bytes(), NETWORK), Ok(made));
    // Whoever copies the good one under a key of their own has another operator's consent.
    let copied = Record::forge(&other, NETWORK, Timestamp(1000), certificate(good));
    assert!(matches!(Record::open(&copied, NETWORK), Err(RecordError::Unauthorised(_))));
}

/// A node keeps a hundred thousand of them: what is large and rare is boxed.
#[test]
fn records_stay_small_in_memory() {
    assert!(size_of::<Payload>() <= 80, "{}", size_of::<Payload>());
    assert!(size_of::<Record>() <= 240, "{}", size_of::<Record>());
}
