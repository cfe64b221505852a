//! One good record of every kind. A kind without one does not compile.

use barnraiser_protocol::bounded::{BoundedString, BoundedVec};
use barnraiser_protocol::id::{ActionId, BlobHash};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::outcome::Outcome;
use barnraiser_protocol::record::payload::*;
use barnraiser_protocol::record::{Kind, Payload, SharedRecord};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::trust::order::{Order, OrderDraft, SignedOrder};

use crate::world::{START, World, maintainer, node_key, operator, operator_key, particulars};

/// The lease that the samples are about.
pub const LEASE: LeaseRef = LeaseRef { action: ActionId([2; 32]), slot: SlotNo(0), epoch: 1 };

/// Who may write records of that kind: the first founder, or its node.
pub fn author(kind: Kind) -> SecretKey {
    if kind.by_operator() { operator_key(0) } else { node_key(0) }
}

fn success(tree: u8) -> Outcome {
    Outcome::Success { tree: BlobHash([tree; 32]) }
}

fn reveal(tree: u8) -> Reveal {
    Reveal { lease: LEASE, outcome: success(tree), again: None, salt: [3; 32], particulars: particulars() }
}

fn signed(order: &Order, world: &World) -> Option<SignedOrder> {
    let draft = OrderDraft::new(order).ok()?;
    draft.assemble(&[draft.sign(&maintainer(0)), draft.sign(&maintainer(1))], &world.charter).ok()
}

/// A good payload of that kind; another one for each `variant`, where the kind has room for that. `None` only where a
/// sample could not be signed.
pub fn payload(world: &World, kind: Kind, variant: u8) -> Option<Payload> {
    let network = world.network();
    let batch = world.record(&node_key(0), 1, START, Payload::Batch(world.batch(7).into()))?.id();
    Some(match kind {
        Kind::Batch => Payload::Batch(world.batch(variant).into()),
        Kind::Cancel => Payload::Cancel(Cancel { batch: batch.into() }),
        Kind::Retry => Payload::Retry(Retry { batch: batch.into(), actions: BoundedVec::try_from(vec![LEASE.action]).ok()? }),
        Kind::Claim => Payload::Claim(Claim {
            lease: LeaseRef { epoch: u32::from(variant), ..LEASE },
            batch: batch.into(),
            follows: ClaimTag::default(),
        }),
        Kind::Renewal => {
            let progress = LeaseProgress { lease: LEASE, log_bytes: variant.into(), cpu_ms: 1, moved: START, before: START };
            Payload::Renewal(Renewal { leases: BoundedVec::try_from(vec![progress]).ok()? })
        }
        Kind::HandBack => {
            let leases = BoundedVec::try_from(vec![LEASE]).ok()?;
            Payload::HandBack(HandBack { leases })
        }
        Kind::Presence => {
            let features = BoundedVec::try_from(vec![BoundedString::cut("device:rpi4")]).ok()?;
            let (os, arch, isa) = (BoundedString::cut("linux"), BoundedString::cut("x86_64"), BoundedString::cut("x86-64-v3"));
            let free_cores = variant.into();
            Payload::Presence(
                Presence { accepting: true, arbiter_only: false, free_cores, cores: 8, free_memory_mib: 900, os, arch, isa, features }
                    .into(),
            )
        }
        Kind::Have => Payload::Have(Have { blobs: BoundedVec::try_from(vec![BlobHash([variant; 32])]).ok()? }),
        Kind::Commitment => {
            let commitment = success(variant).commitment(None, &operator(0), &[3; 32]);
            Payload::Commitment(Commitment { lease: LEASE, commitment, says: Says::Word, renewed_ago_ms: 0 })
        }
        Kind::Reveal => Payload::Reveal(reveal(variant).into()),
        Kind::Seal => {
            Payload::Seal(Seal { round: 1, previous: None, preimage: [variant; 32], root: merkle_root(&[batch]), records: 1 }.into())
        }
        Kind::OperatorCertificate => Payload::OperatorCertificate(OperatorCertificate { bearer: None }.into()),
        Kind::NodeCertificate => {
            Payload::NodeCertificate(NodeCertificate::new(&node_key(50_u8.wrapping_add(variant)), &network, &operator(0)).into())
        }
        Kind::Invitation => Payload::Invitation(Invitation { invitee: Invitee::Operator(operator(variant)), until: Timestamp::MAX }),
        Kind::JoinRequest => Payload::JoinRequest(JoinRequest { message: BoundedString::cut("I lend eight cores") }),
        Kind::FraudProof => {
            let said = |tree| world.record(&node_key(40), 1, START, Payload::Reveal(reveal(tree).into()));
            let (one, other): (SharedRecord, SharedRecord) = (said(variant)?, said(variant.wrapping_add(1))?);
            Payload::FraudProof(FraudProof::new(&one, &other).ok()?.into())
        }
        Kind::Suspension => {
            Payload::Suspension(Suspension { operator: operator(variant), reason: BoundedString::cut("builds differ") }.into())
        }
        Kind::Ban => Payload::Ban(signed(&Order::ban(network, operator(variant), START, "a wrong known answer"), world)?),
        Kind::Pardon => Payload::Pardon(signed(&Order::pardon(network, operator(variant), BlobHash([1; 32]), START, "a bad disk"), world)?),
        Kind::Rotation => Payload::Rotation(Rotation::new(&operator_key(90_u8.wrapping_add(variant)), &network, &operator(0)).into()),
        Kind::EnvironmentName => {
            let name = BoundedString::cut("debian-c");
            Payload::EnvironmentName(EnvironmentName { name, version: variant.into(), rootfs: BlobHash([4; 32]) }.into())
        }
        Kind::Withdraw => Payload::Withdraw(Withdraw { record: batch }),
        Kind::TestReport => {
            let (channel, device) = (BoundedString::cut("nightly"), BoundedString::cut("RPi5"));
            let (image, note) = (BlobHash([variant; 32]), BoundedString::cut("no sound"));
            Payload::TestReport(TestReport { channel, image, device, works: true, note }.into())
        }
        Kind::Metadata => {
            let role = BoundedString::cut("nightly");
            Payload::Metadata(Metadata { role, version: variant.into(), blob: BlobHash([5; 32]), length: 100 })
        }
    })
}

/// A good record of that kind, by who may write it.
pub fn record(world: &World, kind: Kind) -> Option<SharedRecord> {
    world.record(&author(kind), 1, START, payload(world, kind, 1)?)
}
