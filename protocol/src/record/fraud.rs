//! Two statements of one author that contradict each other, in one record: whoever reads it needs nobody's word.
//!
//! A [`FraudProof`] holds both records whole. It is checked when its own signature is, so every verified one proves what
//! it says of the *keys* that signed; for whom those nodes work is in certificates, and the members' business.
//!
//! A sequence that is used twice is no fraud: it only picks the latest record, and a home that was restored from a backup
//! does it in all honesty. Nor are two unlike commitments of two nodes of one operator: their salts differ though they
//! hide one outcome. Two commitments of one node are, since it keeps what it commits to before it says so.

use serde::{Deserialize, Serialize};

use super::{Payload, Record, RecordError};
use crate::bounded::BoundedBytes;
use crate::id::{NetworkId, NodeId, RecordId};

/// The most bytes of a record of which a [`FraudProof`] must hold two (DESIGN section 5).
pub const PROVABLE_BYTES_MAX: usize = 1536;

/// Two signed records that no honest author signs both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FraudProof {
    /// The one with the lower id.
    lower: BoundedBytes<PROVABLE_BYTES_MAX>,
    /// The other.
    higher: BoundedBytes<PROVABLE_BYTES_MAX>,
}

/// Why two records prove nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoFraud {
    /// One of them is none, or its author did not sign it.
    #[error("one of its two records: {0}")]
    Record(Box<RecordError>),
    /// They are not in the order of their ids: there is one spelling of a proof.
    #[error("its two records are not in the order of their ids")]
    Order,
    /// An honest author may have signed both.
    #[error("its two records, {} and {}, do not contradict each other", .0.short(), .1.short())]
    NoContradiction(RecordId, RecordId),
}

/// Whether no honest author signs both: two commitments, two reveals or two seals of one node, for one lease or round and
/// with another content. Two nodes of one operator may honestly build one slot while they can't hear each other, and get
/// unlike results where the job is not deterministic.
pub fn contradict(one: &Record, other: &Record) -> bool {
    if one.author_key() != other.author_key() {
        return false;
    }
    match (one.payload(), other.payload()) {
        (Payload::Commitment(one), Payload::Commitment(other)) => one.lease == other.lease && one.commitment != other.commitment,
        (Payload::Reveal(one), Payload::Reveal(other)) => {
            one.lease == other.lease && (&one.outcome, &one.again) != (&other.outcome, &other.again)
        }
        (Payload::Seal(one), Payload::Seal(other)) => one.round == other.round && one != other,
        _ => false,
    }
}

impl FraudProof {
    /// The proof that two records contradict each other.
    ///
    /// # Errors
    /// [`NoFraud::NoContradiction`] where they don't.
    pub fn new(one: &Record, other: &Record) -> Result<Self, NoFraud> {
        let none = || NoFraud::NoContradiction(one.id(), other.id());
        let (lower, higher) = if one.id() < other.id() { (one, other) } else { (other, one) };
        if !contradict(lower, higher) {
            return Err(none());
        }
        // What contradicts is of types whose records are short enough.
        let bytes = |record: &Record| BoundedBytes::try_from(record.bytes()).map_err(|_| none());
        Ok(Self { lower: bytes(lower)?, higher: bytes(higher)? })
    }

    /// The two records. Their signatures were checked where the proof was.
    ///
    /// # Errors
    /// [`NoFraud::Record`].
    pub fn records(&self) -> Result<(Record, Record), NoFraud> {
        let read = |bytes| Record::decode(bytes).map_err(|error| NoFraud::Record(error.into()));
        Ok((read(&self.lower)?, read(&self.higher)?))
    }

    /// The node that signed both.
    pub fn node(&self) -> Option<NodeId> {
        self.records().ok().map(|(lower, _)| NodeId(lower.author_key()))
    }

    /// Checks that both records are of `network`, signed, and contradict each other.
    ///
    /// # Errors
    /// [`NoFraud`].
    pub fn check(&self, network: NetworkId) -> Result<(), NoFraud> {
        let (lower, higher) = self.records()?;
        // Types first: a proof within a proof would be checked as deep as it goes.
        if !contradict(&lower, &higher) {
            return Err(NoFraud::NoContradiction(lower.id(), higher.id()));
        }
        if lower.id() >= higher.id() {
            return Err(NoFraud::Order);
        }
        for record in [lower, higher] {
            record.verify(network).map_err(|error| NoFraud::Record(error.into()))?;
        }
        Ok(())
    }
}
