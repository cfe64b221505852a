//! Hostile records of every kind: refused with a reason that names the fault, and never kept beyond their share.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use barnraiser_fuzz::mutate::Dice;
use barnraiser_fuzz::targets::TARGETS;
use barnraiser_fuzz::world::{START, World, node_key, operator, operator_key};
use barnraiser_fuzz::{corpus, samples, seeds};
use barnraiser_protocol::codec::DecodeError;
use barnraiser_protocol::engine::{Event, Output, Reception};
use barnraiser_protocol::id::NetworkId;
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::record::{EXPIRY_GRACE, Kind, Life, PAYLOAD_BYTES_MAX, Payload, Record, RecordError, SharedRecord};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::trust::members::Unauthorised;

/// A record's envelope has so many bytes before the length of its payload.
const HEAD: usize = 2 + 2 + 32 + 32 + 8 + 8 + 8;

/// A good record of each kind.
fn good(world: &World) -> Vec<SharedRecord> {
    Kind::ALL.iter().map(|kind| samples::record(world, *kind).unwrap_or_else(|| panic!("{kind:?} has no sample"))).collect()
}

/// The bytes of `record` with another payload in it, signed by its author.
fn resigned(record: &Record, by: &SecretKey, payload: &[u8]) -> Vec<u8> {
    let mut signed = record.bytes()[..HEAD].to_vec();
    signed.extend((payload.len() as u64).to_le_bytes());
    signed.extend(payload);
    let signature = by.sign(&Record::message(record.kind(), &signed));
    signed.extend(signature.0);
    signed
}

fn error(bytes: &[u8], network: NetworkId) -> RecordError {
    Record::open(bytes, network).unwrap_err()
}

#[test]
fn good_record_of_every_kind_is_taken_once() {
    let world = World::new();
    let mut engine = world.engine(3, false);
    for record in good(&world) {
        assert_eq!(Record::open(&record.bytes(), world.network()).as_ref(), Ok(&record));
        let expected = if engine.record(&record.id()).is_some() { Reception::Known } else { Reception::New };
        assert_eq!(engine.receive(START, &record), expected, "{:?}", record.kind());
        // What is replayed is known, and costs its sender nothing: gossip brings everything several times.
        assert_eq!(engine.receive(START, &record), Reception::Known, "{:?}", record.kind());
    }
}

#[test]
fn truncated_records_and_payloads_of_every_kind_are_refused() {
    let world = World::new();
    for record in good(&world) {
        let (bytes, by) = (record.bytes(), samples::author(record.kind()));
        for end in 0..bytes.len() {
            assert!(matches!(error(&bytes[..end], world.network()), RecordError::Envelope(_)), "{:?} at {end}", record.kind());
        }
        let payload = record.payload().to_bytes();
        for end in [0, payload.len() / 2, payload.len() - 1] {
            let cut = resigned(&record, &by, &payload[..end]);
            let found = error(&cut, world.network());
            assert!(matches!(found, RecordError::Payload { kind, .. } if kind == record.kind()), "{:?} at {end}: {found}", record.kind());
        }
    }
}

#[test]
fn trailing_bytes_of_every_kind_are_refused() {
    let world = World::new();
    for record in good(&world) {
        let mut longer = record.bytes();
        longer.push(0);
        assert!(Record::open(&longer, world.network()).is_err());
        let mut payload = record.payload().to_bytes();
        payload.push(0);
        let found = error(&resigned(&record, &samples::author(record.kind()), &payload), world.network());
        assert_eq!(found, RecordError::Payload { kind: record.kind(), error: DecodeError::Trailing(1) });
    }
}

/// A length that says more than there may be is refused before memory is taken; so is a record that is longer than those
/// of its kind, however well it is signed.
#[test]
fn oversized_records_of_every_kind_are_refused() {
    let world = World::new();
    for record in good(&world) {
        let by = samples::author(record.kind());
        let huge = resigned(&record, &by, &vec![0xff; PAYLOAD_BYTES_MAX + 1]);
        assert!(matches!(error(&huge, world.network()), RecordError::Envelope(_)), "{:?}", record.kind());
        let most = record.kind().bytes_max() - (record.bytes().len() - record.payload().to_bytes().len());
        let found = error(&resigned(&record, &by, &vec![0; most.min(PAYLOAD_BYTES_MAX) + 1]), world.network());
        let names = match found {
            RecordError::Payload { kind, .. } => kind == record.kind(),
            RecordError::Envelope(DecodeError::TooLarge { .. } | DecodeError::Malformed(_)) => true,
            _ => false,
        };
        assert!(names, "{:?}: {found}", record.kind());
        // Every place at which a length may stand.
        let payload = record.payload().to_bytes();
        for at in 0..payload.len().saturating_sub(7) {
            let mut lying = payload.clone();
            lying[at..at + 8].copy_from_slice(&(1_u64 << 60).to_le_bytes());
            match Record::open(&resigned(&record, &by, &lying), world.network()) {
                Ok(taken) => assert_eq!(taken.payload().to_bytes(), lying, "a second spelling"),
                Err(found) => assert!(!matches!(found, RecordError::Signature(_)), "{found}"),
            }
        }
    }
}

/// Whatever a signed payload is changed into, what is taken is spelled as it came: there is no second spelling of anything.
#[test]
fn what_is_taken_of_changed_payloads_has_one_spelling() {
    let world = World::new();
    let all: Vec<Vec<u8>> = good(&world).iter().map(|record| record.payload().to_bytes()).collect();
    let mut dice = Dice::new(3);
    for record in good(&world) {
        let by = samples::author(record.kind());
        for _ in 0..100 {
            let payload = dice.mutate(&record.payload().to_bytes(), &all, 4000);
            if let Ok(taken) = Record::open(&resigned(&record, &by, &payload), world.network()) {
                assert_eq!(taken.payload().to_bytes(), payload, "{:?}", record.kind());
            }
        }
    }
}

#[test]
fn records_of_another_network_are_refused_by_name() {
    let (world, foreign) = (World::new(), NetworkId([9; 32]));
    for record in good(&world) {
        let found = error(&record.bytes(), foreign);
        assert_eq!(found, RecordError::ForeignNetwork { found: world.network(), wanted: foreign });
        let mut engine = world.engine(3, false);
        if let Ok(other) = Record::author(&samples::author(record.kind()), foreign, 1, START, Timestamp::MAX, record.payload().clone()) {
            assert_eq!(engine.receive(START, &other), Reception::Unauthorised("it is of another network"));
        }
    }
}

#[test]
fn flipped_bits_and_others_signatures_of_every_kind_are_refused() {
    let world = World::new();
    for record in good(&world) {
        let bytes = record.bytes();
        for at in (0..bytes.len()).step_by(5) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(Record::open(&damaged, world.network()).is_err(), "{:?} at {at}", record.kind());
        }
        let forged = resigned(&record, &operator_key(66), &record.payload().to_bytes());
        assert!(matches!(error(&forged, world.network()), RecordError::Signature(_)), "{:?}", record.kind());
    }
}

/// Clocks differ by a minute; what is from further ahead waits for its time, and nobody is blamed.
#[test]
fn records_from_the_future_wait_and_those_of_the_past_are_outdated() {
    let world = World::new();
    for kind in Kind::ALL {
        let mut engine = world.engine(3, false);
        let payload = samples::payload(&world, *kind, 1).unwrap();
        let at = |issued| world.record(&samples::author(*kind), 2, issued, payload.clone()).unwrap();
        let later = START + Duration::from_secs(600);
        let record = at(later);
        assert_eq!(engine.receive(START, &record), Reception::Parked, "{kind:?}");
        assert!(engine.record(&record.id()).is_none());
        engine.handle_timeout(later);
        assert!(engine.record(&record.id()).is_some(), "{kind:?}");
        let old = at(START);
        let over = old.expires() + EXPIRY_GRACE;
        if over < Timestamp::MAX {
            assert_eq!(engine.receive(over, &old), Reception::Outdated, "{kind:?}");
        }
    }
}

/// No kind may live for longer than its life, and what revokes something not shorter.
#[test]
fn lifetimes_of_every_kind_are_bounded() {
    let world = World::new();
    for record in good(&world) {
        let kind = record.kind();
        // What leases and votes rest on, and what takes something away, ends when all of its kind do.
        let least = if kind.has_one_lifetime() { kind.latest_expiry(START) } else { START };
        let shorter = least.saturating_sub(Duration::from_millis(1));
        for expires in [START.saturating_sub(Duration::from_secs(1)), kind.latest_expiry(START) + Duration::from_millis(1), shorter] {
            let mut bytes = record.bytes();
            bytes.truncate(bytes.len() - 64);
            bytes[HEAD - 8..HEAD].copy_from_slice(&expires.0.to_le_bytes());
            let signature = samples::author(kind).sign(&Record::message(kind, &bytes));
            bytes.extend(signature.0);
            assert!(matches!(error(&bytes, world.network()), RecordError::Lifetime { .. }), "{kind:?}");
        }
        let cut = Record::author(&samples::author(kind), world.network(), 1, START, START, record.payload().clone()).unwrap();
        let expected = if kind.has_one_lifetime() { kind.latest_expiry(START) } else { START };
        assert_eq!(cut.expires(), expected, "{kind:?}");
        assert!(kind.life() != Life::Standing || kind.lifetime_max() > Duration::from_secs(3600 * 24 * 365), "{kind:?}");
    }
}

/// What a stranger says of each kind: refused by name where it takes a maintainer, else kept without effect.
#[test]
fn stranger_moves_nothing_with_any_kind() {
    let world = World::new();
    for kind in Kind::ALL {
        let mut engine = world.engine(3, false);
        while engine.poll_output().is_some() {}
        let before = (engine.members().memberships().clone(), engine.environments(), engine.last_seal());
        let stranger = if kind.by_operator() { operator_key(77) } else { node_key(77) };
        // What agrees to a founder agrees to nobody else.
        let Ok(record) = Record::author(&stranger, world.network(), 1, START, Timestamp::MAX, samples::payload(&world, *kind, 1).unwrap())
        else {
            assert!(matches!(kind, Kind::NodeCertificate | Kind::Rotation), "{kind:?}");
            continue;
        };
        let fault = match kind {
            Kind::Suspension | Kind::EnvironmentName => Some(Unauthorised::NotMaintainer),
            Kind::Seal => Some(Unauthorised::NotSealer),
            _ => None,
        };
        let expected = fault.map_or(Reception::New, Reception::NotHeeded);
        assert_eq!(engine.receive(START, &record), expected, "{kind:?}");
        assert_eq!(engine.record(&record.id()).is_some(), fault.is_none(), "{kind:?}");
        let told = std::iter::from_fn(|| engine.poll_output()).any(|output| match output {
            Output::Event(Event::Refused { reason, .. }) => fault.is_some_and(|fault| fault.to_string() == reason),
            _ => false,
        });
        assert_eq!(told, fault.is_some(), "{kind:?}");
        let after = (engine.members().memberships().clone(), engine.environments(), engine.last_seal());
        assert_eq!(before, after, "{kind:?}");
        // The maintainers' signatures count whoever carries them.
        assert_eq!(engine.members().is_barred(&operator(1)), *kind == Kind::Ban, "{kind:?}");
    }
}

/// Two unlike records of one author under one lease or for one round: a proof for those kinds of which an honest author
/// makes only one, and for no other.
#[test]
fn contradictions_are_proven_for_the_kinds_that_can_contradict() {
    let world = World::new();
    for kind in Kind::ALL {
        let mut engine = world.engine(3, false);
        for variant in [1, 2] {
            let payload = samples::payload(&world, *kind, variant).unwrap();
            let record = world.record(&samples::author(*kind), variant.into(), START, payload).unwrap();
            engine.receive(START, &record);
        }
        engine.handle_timeout(START + Duration::from_secs(60));
        let expected = matches!(kind, Kind::Commitment | Kind::Reveal | Kind::Seal);
        assert_eq!(engine.members().is_proven(&operator(0)), expected, "{kind:?}");
    }
}

/// Ten thousand authors with something of every kind: the board has a bound, and what members said is all there.
#[test]
fn ten_thousand_authors_of_every_kind_fill_no_more_than_their_share() {
    let world = World::new();
    let mut engine = world.engine(3, false);
    for record in good(&world) {
        engine.receive(START, &record);
    }
    let before: Vec<SharedRecord> = engine.board().records().cloned().collect();
    let payloads: Vec<Payload> = Kind::ALL.iter().map(|kind| samples::payload(&world, *kind, 3).unwrap()).collect();
    let mut refused = 0;
    for author in 0..10_000_u32 {
        let mut seed = [210; 32];
        seed[..4].copy_from_slice(&author.to_le_bytes());
        let key = SecretKey::from_seed(&seed);
        // Most say one thing, two of them talk without end.
        for n in 0..if author < 2 { 400 } else { 1 } {
            let payload = payloads[(author as usize + n) % payloads.len()].clone();
            let sequence = n as u64;
            let Some(record) = world.record(&key, sequence, START, payload) else { continue };
            match engine.receive(START, &record) {
                Reception::New => {}
                // One of a sequence that another record of its kind has replaced, or will have.
                Reception::Outdated if record.kind().latest_only() => {}
                Reception::OverQuota | Reception::NotHeeded(_) => refused += 1,
                other => panic!("{:?}: {other:?}", record.kind()),
            }
        }
    }
    assert!(engine.board().len() <= before.len() + 16_384 + 8, "{} records", engine.board().len());
    assert!(refused > 500, "{refused}");
    assert!(before.iter().all(|record| engine.record(&record.id()).is_some()), "a member's record was dropped");
    engine.handle_timeout(START + Duration::from_secs(3600));
}

/// The corpus has the seeds as the code makes them now: `cargo run -p barnraiser-fuzz -- seeds` writes them.
#[test]
fn corpus_holds_the_seeds() {
    let world = World::new();
    for target in TARGETS {
        let seeds = seeds::of(target, &world);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (name, bytes) in seeds {
            let path = corpus(target).join(&name);
            assert!(std::fs::read(&path).is_ok_and(|kept| kept == bytes), "{} is not what the code makes", path.display());
        }
    }
}

/// Every input that was ever kept, and some changes of each: none breaks a property.
#[test]
fn corpus_breaks_nothing() {
    for target in TARGETS {
        let mut dice = Dice::new(1);
        let paths = std::fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path());
        let inputs: Vec<Vec<u8>> = paths.map(|path| std::fs::read(path).unwrap()).collect();
        for input in &inputs {
            (target.run)(input);
        }
        for _ in 0..200 {
            let from = dice.pick(&inputs).unwrap().clone();
            (target.run)(&dice.mutate(&from, &inputs, target.bytes_max));
        }
    }
}
