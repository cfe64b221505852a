//! Floods: what strangers say takes bounded memory, and never the place of what a lease or a verdict rests on.

use super::super::board::{STRANGER_RECORDS_MAX, STRANGERS_RECORDS_MAX};
use super::*;
use crate::ticket::Vouch;

fn stranger(number: u32) -> SecretKey {
    let mut seed = [200; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_seed(&seed)
}

fn noise(by: u32, sequence: u64, now: Timestamp, lease: LeaseRef) -> SharedRecord {
    let payload = match sequence % 3 {
        0 => Payload::Claim(Claim { lease, batch: BatchId([7; 32]), follows: ClaimTag::default() }),
        1 => Payload::Commitment(Commitment { lease, commitment: [9; 32], says: Says::Word, renewed_ago_ms: 0 }),
        _ => Payload::Have(Have { blobs: BoundedVec::new() }),
    };
    Record::author(&stranger(by), NETWORK, sequence, now, now + DAY * 3000, payload).unwrap()
}

/// Ten thousand authors, some of whom say much: the board stays bounded, builds go on, and the invited still get in.
#[test]
fn ten_thousand_strangers_take_no_more_than_their_share() {
    let mut net = Net::new(4, Policy::small(), chain());
    let batch = net.submit();
    net.run(Duration::from_millis(1));
    let lease = net.started[0].1.lease;
    let before: Vec<SharedRecord> = net.engines[0].board.records().cloned().collect();
    let mut refused = 0;
    for by in 0..10_000 {
        let count = if by < 2 { STRANGER_RECORDS_MAX as u64 + 50 } else { 2 };
        for sequence in 0..count {
            let record = noise(by, sequence, net.now, lease);
            refused += usize::from(net.engines[0].receive(net.now, &record) == Reception::OverQuota);
        }
    }
    let said = 2 * (STRANGER_RECORDS_MAX + 50) + 9_998 * 2;
    assert_eq!(refused, said - STRANGERS_RECORDS_MAX);
    assert_eq!(net.engines[0].board.len(), before.len() + STRANGERS_RECORDS_MAX);
    assert!(before.iter().all(|record| net.engines[0].record(&record.id()).is_some()), "a member's record was dropped");

    // A guest gets in though strangers have filled their share, and then has as much room as any member.
    let (guest, machine) = (stranger(1_000_000), stranger(1_000_001));
    let vouch = Vouch::author(&operator_key(0), NETWORK, 99, net.now, net.now + DAY, 1, &[5; 32]).unwrap();
    let bearer = Some(vouch.proof(&guest.operator()));
    let certificate = Payload::OperatorCertificate(OperatorCertificate { bearer }.into());
    let node = Payload::NodeCertificate(NodeCertificate::new(&machine, &NETWORK, &guest.operator()).into());
    assert_eq!(net.engines[0].receive(net.now, vouch.invitation()), Reception::New);
    for payload in [certificate, node] {
        let record = Record::author(&guest, NETWORK, 1, net.now, Timestamp::MAX, payload).unwrap();
        assert_eq!(net.engines[0].receive(net.now, &record), Reception::New);
    }
    let have = Payload::Have(Have { blobs: BoundedVec::new() });
    let record = Record::author(&machine, NETWORK, 1, net.now, net.now + DAY, have).unwrap();
    assert_eq!(net.engines[0].receive(net.now, &record), Reception::New);

    // A ticket's key that did not sign opens nothing.
    let thief = stranger(1_000_002);
    let bearer = Some(vouch.proof(&guest.operator()));
    let payload = Payload::OperatorCertificate(OperatorCertificate { bearer }.into());
    let record = Record::author(&thief, NETWORK, 1, net.now, Timestamp::MAX, payload).unwrap();
    assert_eq!(net.engines[0].receive(net.now, &record), Reception::OverQuota);

    net.deliver();
    net.work();
    assert_eq!(net.engines[0].batch_result(&batch), Some(true));
}

/// What strangers said makes room again when its time is over.
#[test]
fn share_of_strangers_is_free_again_when_records_end() {
    let mut net = Net::new(1, Policy::small(), chain());
    let have = |by: u32, sequence: u64, now: Timestamp| {
        let payload = Payload::Have(Have { blobs: BoundedVec::new() });
        Record::author(&stranger(by), NETWORK, sequence, now, Timestamp::MAX, payload).unwrap()
    };
    for sequence in 0..STRANGER_RECORDS_MAX as u64 {
        assert_eq!(net.engines[0].receive(net.now, &have(1, sequence, net.now)), Reception::New);
    }
    assert_eq!(net.engines[0].receive(net.now, &have(1, 9999, net.now)), Reception::OverQuota);
    net.run(Kind::Have.lifetime_max() + Duration::from_secs(3600));
    assert_eq!(net.engines[0].receive(net.now, &have(1, 9999, net.now)), Reception::New);
}

/// Records come in any order: those of a node whose certificate comes late count as a member's from then on.
#[test]
fn author_is_no_stranger_any_more_once_vouched_for() {
    let mut net = Net::new(2, Policy::small(), chain());
    let machine = node_key(60);
    let have = |sequence: u64, now: Timestamp| {
        let payload = Payload::Have(Have { blobs: BoundedVec::new() });
        Record::author(&machine, NETWORK, sequence, now, now + DAY, payload).unwrap()
    };
    for sequence in 0..STRANGER_RECORDS_MAX as u64 {
        net.engines[0].receive(net.now, &have(sequence, net.now));
    }
    assert_eq!(net.engines[0].receive(net.now, &have(9999, net.now)), Reception::OverQuota);
    let payload = Payload::NodeCertificate(NodeCertificate::new(&machine, &NETWORK, &operator_key(1).operator()).into());
    let certificate = Record::author(&operator_key(1), NETWORK, 7, net.now, Timestamp::MAX, payload).unwrap();
    assert_eq!(net.engines[0].receive(net.now, &certificate), Reception::New);
    assert_eq!(net.engines[0].receive(net.now, &have(9999, net.now)), Reception::New);
}

/// Who is nobody's guest is not waited for: a thousand machines of strangers that say they are idle would keep members
/// from claiming until all these had had their turn.
#[test]
fn idle_machines_of_strangers_keep_nobody_from_work() {
    let mut net = Net::new(3, Policy { quorum: 1, slots: 1, ..Policy::small() }, Graph { jobs: vec![job("zlib", &[])] });
    let own = net.engines[1].board.latest_of(&node_key(1).node(), Kind::Presence).unwrap().payload().clone();
    for n in 0..1000u32 {
        let key = SecretKey::from_seed(blake3::hash(&n.to_le_bytes()).as_bytes());
        let presence = Record::author(&key, NETWORK, 1, net.now, net.now + Duration::from_secs(900), own.clone()).unwrap();
        for engine in &mut net.engines {
            engine.receive(net.now, &presence);
        }
    }
    net.submit();
    net.run(Duration::from_secs(1));
    assert_eq!(net.started.len(), 1);
}
