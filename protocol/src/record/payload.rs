//! What records say. Every collection is bounded by its type.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fraud::PROVABLE_BYTES_MAX;
use super::{Life, RECORD_BYTES_MAX};
use crate::blame::is_larger;
use crate::bounded::{BoundedString, BoundedVec};
use crate::codec::{self, DecodeError};
use crate::id::{ActionId, BatchId, BlobHash, NetworkId, NodeId, OperatorId, RecordId};
use crate::keys::{self, SecretKey, Signature, SignatureError};
use crate::outcome::{Outcome, Particulars};
use crate::time::Timestamp;
use crate::trust::order::SignedOrder;
use crate::verdict::ballot::lacks_room;

pub use super::fraud::FraudProof;
pub use super::notice::{EnvironmentName, Rotation, SUSPENSION, Suspension, TestReport, Withdraw, rotation_message};
pub use super::seal::{Seal, SealFault, chain_link, merkle_root};

/// A channel's name.
pub type ChannelName = BoundedString<32>;

/// One of the independent builds of an action. Slots below [`SlotNo::ARBITER`] are for the quorum, the others for the
/// operator who settles a dispute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotNo(pub u16);

impl SlotNo {
    /// The first slot of an arbiter.
    pub const ARBITER: Self = Self(0xff00);
    /// Whether it is for the operator who settles a dispute.
    pub const fn is_arbiter(self) -> bool {
        self.0 >= Self::ARBITER.0
    }
}

/// A slot of an action at an epoch: what a lease is for. The epoch is the fencing token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseRef {
    /// The action.
    pub action: ActionId,
    /// The slot.
    pub slot: SlotNo,
    /// 1 for the first lease of a slot.
    pub epoch: u32,
}

/// Which work goes first. Lower is more urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// A security fix.
    Security,
    /// A release.
    Release,
    /// A maintainer's own work.
    Maintainer,
    /// The nightly build.
    Nightly,
    /// Whenever there is nothing else.
    Background,
}

/// Asks for a graph to be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// For people.
    pub name: BoundedString<64>,
    /// Where its targets are meant to be released.
    pub channel: ChannelName,
    /// Which work goes first.
    pub priority: Priority,
    /// The graph ([`crate::graph::Graph`]), a blob.
    pub graph: BlobHash,
    /// Its length in bytes.
    pub graph_length: u64,
    /// Number of its jobs.
    pub jobs: u32,
    /// The policy, pinned.
    pub policy: BlobHash,
    /// Makes the draws of leases.
    pub nonce: [u8; 32],
    /// The source revision, for people.
    pub revision: BoundedString<64>,
    /// Where to read about it, for people.
    pub url: BoundedString<256>,
    /// For people and for picking.
    pub labels: BoundedVec<(BoundedString<32>, BoundedString<64>), 16>,
}

/// Ends a batch: nothing more is built for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The batch.
    pub batch: BatchId,
}

/// Opens new slots for jobs of a batch that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The batch, for which authority is checked.
    pub batch: BatchId,
    /// The actions whose failures so far are set aside.
    pub actions: BoundedVec<ActionId, 64>,
}

/// The first bytes of the id of a Claim, by which the claim for the next epoch cites it. They are few because whoever makes
/// two claims with the same ones gains what it would have without citing: a claim that follows either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimTag(pub [u8; 4]);

impl ClaimTag {
    /// Of the Claim with that id.
    pub fn of(claim: &RecordId) -> Self {
        Self(std::array::from_fn(|byte| claim.0[byte]))
    }
}

/// Takes a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// What for.
    pub lease: LeaseRef,
    /// The batch that it is built for.
    pub batch: BatchId,
    /// The claim of the epoch before, whose lease has ended; zero in the first epoch. Where another of that epoch turns out
    /// to have won, this one is void.
    pub follows: ClaimTag,
}

/// How far a leased build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseProgress {
    /// The lease.
    pub lease: LeaseRef,
    /// Bytes of log so far.
    pub log_bytes: u64,
    /// CPU time so far in milliseconds.
    pub cpu_ms: u64,
    /// When one of them last grew: a build that stands still for too long loses its lease, however often it is renewed.
    pub moved: Timestamp,
    /// When the lease was renewed before, or claimed where it never was. A Renewal that comes more than one TTL later finds
    /// a lease that has lapsed, and has no effect.
    pub before: Timestamp,
}

impl LeaseProgress {
    /// The last renewal that was in time, by a Renewal issued at `issued` of leases that last for `ttl`.
    pub fn renewed_at(&self, issued: Timestamp, ttl: Duration) -> Timestamp {
        if issued > self.before + ttl { self.before } else { issued }
    }
}

/// The most leases that one node may hold: all fit into one Renewal.
pub const LEASES_PER_NODE_MAX: usize = 48;

/// Keeps all leases of a node that are listed; only its latest Renewal counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// All that the node holds.
    pub leases: BoundedVec<LeaseProgress, LEASES_PER_NODE_MAX>,
}

/// The most leases that one HandBack may list: all that a node may hold.
pub const HAND_BACKS_MAX: usize = LEASES_PER_NODE_MAX;

/// Gives leases back without a result and without penalty, at the moment when it is issued. Each stays beside the others
/// for as long as a Claim lives: a claim that follows a lease that was given back is no longer in need of it once the claim
/// before is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandBack {
    /// The leases.
    pub leases: BoundedVec<LeaseRef, HAND_BACKS_MAX>,
}

/// What a node is and has to spare; only its latest Presence counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Whether it takes work now.
    pub accepting: bool,
    /// Whether it takes only the work of an arbiter.
    pub arbiter_only: bool,
    /// Cores lent and not in use but for leases of this network: those are known to everybody.
    pub free_cores: u16,
    /// Cores lent.
    pub cores: u16,
    /// Memory lent and not in use but for leases of this network, in MiB.
    pub free_memory_mib: u32,
    /// Operating system, as [`crate::action::Environment::os`].
    pub os: BoundedString<16>,
    /// Architecture, as in [`crate::action::Environment::arch`].
    pub arch: BoundedString<16>,
    /// ISA level, for example `x86-64-v3`.
    pub isa: BoundedString<24>,
    /// See [`crate::action::Environment::features`].
    pub features: BoundedVec<BoundedString<32>, 16>,
}

impl Presence {
    /// What a node says last when it is stopped in good order: that it is not there. It has no operating system, which
    /// no running node can say.
    pub fn farewell() -> Self {
        Self {
            accepting: false,
            arbiter_only: false,
            free_cores: 0,
            cores: 0,
            free_memory_mib: 0,
            os: BoundedString::default(),
            arch: BoundedString::default(),
            isa: BoundedString::default(),
            features: BoundedVec::default(),
        }
    }

    /// Whether it is [`Presence::farewell`].
    pub fn is_farewell(&self) -> bool {
        self.os.is_empty()
    }
}

/// The most blobs of one [`Have`]: it must fit a record.
pub const HAVE_BLOBS_MAX: usize = 100;

/// Blobs that a node holds for others and serves. One without any says that the node is a holder, and may be pushed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// The blobs.
    pub blobs: BoundedVec<BlobHash, HAVE_BLOBS_MAX>,
}

/// What a commitment hides, in so far as it must be known before it is opened: whether it may open what others built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Says {
    /// A word on the job.
    Word,
    /// That memory, disk or time were lacking, on a machine that may have been too small.
    TooSmall,
    /// Nothing of the job: the machine spoilt the build.
    Nothing,
}

impl Says {
    /// Of an outcome in a slot.
    pub fn of(outcome: &Outcome, slot: SlotNo) -> Self {
        if !outcome.is_vote() {
            Self::Nothing
        } else if lacks_room(outcome) && !is_larger(slot) && !slot.is_arbiter() {
            Self::TooSmall
        } else {
            Self::Word
        }
    }
}

/// Says that an outcome is known, without saying which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitment {
    /// The lease under which it was built.
    pub lease: LeaseRef,
    /// [`Outcome::commitment`].
    #[serde(with = "codec::octets")]
    pub commitment: [u8; 32],
    /// What kind of outcome. A Reveal of another kind does not open it.
    pub says: Says,
    /// Milliseconds since the lease was last renewed, or claimed where it never was: a Renewal is forgotten soon after the
    /// next, and who claimed the slot too early would then look as if it had not.
    pub renewed_ago_ms: u32,
}

impl Commitment {
    /// When the lease was last renewed, or claimed, by a Commitment issued at `issued`.
    pub fn renewed_at(&self, issued: Timestamp) -> Timestamp {
        Timestamp(issued.0.saturating_sub(self.renewed_ago_ms.into()))
    }
}

/// Opens a commitment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reveal {
    /// The lease under which it was built.
    pub lease: LeaseRef,
    /// What came of it.
    pub outcome: Outcome,
    /// What came of the second build, which only who settles a dispute makes: everything that must not matter is made to
    /// differ in it, so two unlike outcomes show that the job is not deterministic (DESIGN section 8.5).
    pub again: Option<Box<Outcome>>,
    /// The salt of [`Outcome::commitment`].
    #[serde(with = "codec::octets")]
    pub salt: [u8; 32],
    /// What is not compared.
    pub particulars: Particulars,
}

impl Reveal {
    /// Whether it opens `commitment`, as a reveal of `operator` under the same lease.
    pub fn fits(&self, commitment: &Commitment, operator: &OperatorId) -> bool {
        commitment.says == Says::of(&self.outcome, self.lease.slot) && self.opens(operator) == commitment.commitment
    }

    /// The commitment that it opens, as a reveal of `operator`.
    pub fn opens(&self, operator: &OperatorId) -> [u8; 32] {
        self.outcome.commitment(self.again.as_deref(), operator, &self.salt)
    }
}

/// An operator takes part in the network. Written by the operator's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCertificate {
    /// The invitation that it follows, if it was not invited by name.
    pub bearer: Option<BearerProof>,
}

/// Shows that the holder of a ticket gave it to this operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BearerProof {
    /// The Invitation.
    pub invitation: RecordId,
    /// The ticket's key over [`bearer_message`].
    pub signature: Signature,
}

/// A node works for the operator that writes this, and agreed to. Written by the operator's key.
///
/// Without the node's word an operator could claim somebody else's node, and with it that node's votes. The consent is
/// checked when the record's signature is, so every verified certificate has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCertificate {
    /// The node.
    pub node: NodeId,
    /// The node's key over [`consent_message`].
    pub consent: Signature,
}

impl NodeCertificate {
    /// The certificate by which `node` works for `operator` in `network`, for that operator to sign.
    pub fn new(node: &SecretKey, network: &NetworkId, operator: &OperatorId) -> Self {
        Self { node: node.node(), consent: node.sign(&consent_message(network, operator)) }
    }

    /// Checks that the node agreed to work for `operator` in `network`.
    ///
    /// # Errors
    /// [`SignatureError`], also where it agreed to work for another operator or in another network.
    pub fn check_consent(&self, network: &NetworkId, operator: &OperatorId) -> Result<(), SignatureError> {
        keys::verify(&self.node.0, &consent_message(network, operator), &self.consent)
    }
}

/// Whom an invitation is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Invitee {
    /// One operator, by name.
    Operator(OperatorId),
    /// Whoever holds the ticket with the secret half of `key`.
    Bearer {
        /// The public half.
        key: [u8; 32],
        /// How many operators may use it; those with the lowest certificate ids count.
        uses: u16,
    },
}

/// A member vouches for another. Written by an operator's key; branches begin at those that a founder invites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// For whom.
    pub invitee: Invitee,
    /// An invitation can be used by certificates issued before this.
    pub until: Timestamp,
}

/// An operator without invitation asks for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// For the maintainers to read.
    pub message: BoundedString<512>,
}

/// There is a new version of signed metadata; its bytes are a blob. Anyone may say so, since the metadata proves itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The role: `root`, `targets`, or a channel's name.
    pub role: BoundedString<64>,
    /// Its version.
    pub version: u64,
    /// The bytes.
    pub blob: BlobHash,
    /// Their length.
    pub length: u64,
}

/// What the ticket's key signs to hand an invitation to `operator`.
pub fn bearer_message(invitation: &RecordId, operator: &OperatorId) -> Vec<u8> {
    [b"barnraiser 2026 bearer v1\0".as_slice(), invitation.as_bytes(), operator.as_bytes()].concat()
}

/// What a node's key signs to work for `operator` in `network`.
pub fn consent_message(network: &NetworkId, operator: &OperatorId) -> Vec<u8> {
    [b"barnraiser 2026 node consent v1\0".as_slice(), network.as_bytes(), operator.as_bytes()].concat()
}

macro_rules! payloads {
    ($($(#[$doc:meta])* $name:ident($said:ty) = $code:literal, $life:ident, $lifetime:expr;)*) => {
        /// The types of records. Codes are for ever.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// All types.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
            /// The number on the wire.
            pub const fn code(self) -> u16 {
                match self { $(Self::$name => $code,)* }
            }
            /// The type that a number stands for.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
            /// How long records of this type are of use.
            pub const fn life(self) -> Life {
                match self { $(Self::$name => Life::$life,)* }
            }
            /// The longest time that a record of this type may be in effect.
            pub const fn lifetime_max(self) -> Duration {
                match self { $(Self::$name => $lifetime,)* }
            }
        }

        /// What a record says. What is large and rare is boxed: a node keeps a hundred thousand of the small ones.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Payload { $($(#[$doc])* $name($said),)* }

        impl Payload {
            /// Its type.
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$name(_) => Kind::$name,)* }
            }
            /// The canonical bytes.
            pub fn to_bytes(&self) -> Vec<u8> {
                match self { $(Self::$name(payload) => codec::encode(payload),)* }
            }
            /// The payload of that type in `bytes`.
            ///
            /// # Errors
            /// [`DecodeError`].
            pub fn from_bytes(kind: Kind, bytes: &[u8]) -> Result<Self, DecodeError> {
                Ok(match kind {
                    $(Kind::$name => Self::$name(codec::decode(bytes, super::PAYLOAD_BYTES_MAX)?),)*
                })
            }
        }
    };
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// A week: longer than any build.
const CLAIM_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Half a year: commitments and reveals are kept so long, until seals gather them (DESIGN section 5).
const EVIDENCE_LIFETIME: Duration = Duration::from_secs(180 * 24 * 3600);
/// "As long as the network": a century.
const FOREVER: Duration = Duration::from_secs(36_500 * 24 * 3600);

payloads! {
    /// See [`Batch`].
    Batch(Box<Batch>) = 1, Board, Duration::from_secs(30 * 24 * 3600);
    /// See [`Cancel`]. Lives longer than what it ends.
    Cancel(Cancel) = 2, Board, Duration::from_secs(31 * 24 * 3600);
    /// See [`Retry`].
    Retry(Retry) = 3, Board, Duration::from_secs(31 * 24 * 3600);
    /// See [`Claim`].
    Claim(Claim) = 4, Board, CLAIM_LIFETIME;
    /// See [`Renewal`].
    Renewal(Renewal) = 5, Board, HOUR;
    /// See [`HandBack`].
    HandBack(HandBack) = 6, Board, CLAIM_LIFETIME;
    /// See [`Presence`].
    Presence(Box<Presence>) = 7, Board, HOUR;
    /// See [`Have`].
    Have(Have) = 8, Board, DAY;
    /// See [`Commitment`].
    Commitment(Commitment) = 16, Evidence, EVIDENCE_LIFETIME;
    /// See [`Reveal`].
    Reveal(Box<Reveal>) = 17, Evidence, EVIDENCE_LIFETIME;
    /// See [`Seal`].
    Seal(Box<Seal>) = 18, Evidence, FOREVER;
    /// See [`OperatorCertificate`].
    OperatorCertificate(Box<OperatorCertificate>) = 32, Standing, FOREVER;
    /// See [`NodeCertificate`].
    NodeCertificate(Box<NodeCertificate>) = 33, Standing, FOREVER;
    /// See [`Invitation`].
    Invitation(Invitation) = 34, Standing, FOREVER;
    /// See [`JoinRequest`].
    JoinRequest(JoinRequest) = 35, Standing, FOREVER;
    /// See [`FraudProof`]. Anyone may carry it, since it proves itself.
    FraudProof(Box<FraudProof>) = 36, Standing, FOREVER;
    /// See [`Suspension`].
    Suspension(Box<Suspension>) = 37, Standing, FOREVER;
    /// See [`crate::trust::order::Order`]. Anyone may carry it, since the maintainers' signatures are in it.
    Ban(SignedOrder) = 38, Standing, FOREVER;
    /// As [`Kind::Ban`], which it undoes.
    Pardon(SignedOrder) = 39, Standing, FOREVER;
    /// See [`Rotation`].
    Rotation(Box<Rotation>) = 40, Standing, FOREVER;
    /// See [`EnvironmentName`].
    EnvironmentName(Box<EnvironmentName>) = 41, Standing, FOREVER;
    /// See [`Withdraw`].
    Withdraw(Withdraw) = 42, Standing, FOREVER;
    /// See [`TestReport`].
    TestReport(Box<TestReport>) = 43, Standing, FOREVER;
    /// See [`Metadata`].
    Metadata(Metadata) = 48, Standing, FOREVER;
}

impl Kind {
    /// The latest expiry that a record of this type may have.
    pub fn latest_expiry(self, issued: Timestamp) -> Timestamp {
        issued + self.lifetime_max()
    }
    /// The earliest expiry that a record of this type may have: what revokes another must not end before that does, and
    /// what leases and votes rest on ends at the same time, whoever says it.
    pub fn earliest_expiry(self, issued: Timestamp) -> Timestamp {
        if self.has_one_lifetime() { self.latest_expiry(issued) } else { issued }
    }
    /// Whether all records of this type live equally long. A node says itself for how long it is present, and how long
    /// what it says of itself as an operator is true.
    pub const fn has_one_lifetime(self) -> bool {
        match self.life() {
            Life::Board | Life::Evidence => !matches!(self, Self::Presence),
            Life::Standing => self.revokes(),
        }
    }
    /// Whether records of this type take something away from others.
    const fn revokes(self) -> bool {
        matches!(self, Self::Cancel | Self::FraudProof | Self::Suspension | Self::Ban | Self::Pardon | Self::Rotation | Self::Withdraw)
    }
    /// The most bytes of a record of this type, signature included (DESIGN section 5).
    pub const fn bytes_max(self) -> usize {
        match self {
            Self::Commitment | Self::Reveal | Self::Seal => PROVABLE_BYTES_MAX,
            _ => RECORD_BYTES_MAX,
        }
    }
    /// Whether operators (and not nodes) write records of this type.
    pub const fn by_operator(self) -> bool {
        matches!(
            self,
            Self::OperatorCertificate
                | Self::NodeCertificate
                | Self::Invitation
                | Self::JoinRequest
                | Self::Suspension
                | Self::Ban
                | Self::Pardon
                | Self::Rotation
                | Self::EnvironmentName
                | Self::Withdraw
                | Self::TestReport
        )
    }
    /// Whether only the author's latest record of this type counts.
    pub const fn latest_only(self) -> bool {
        matches!(self, Self::Renewal | Self::Presence)
    }
    /// The batch by which gossip topics are chosen is in these; all others go over the control topic.
    pub const fn of_batch(self) -> bool {
        matches!(self, Self::Claim | Self::Commitment | Self::Reveal)
    }
}
