//! The evidence of an action: one blob from which any outsider can recompute the verdict.
//!
//! It holds the action, the policy, every commitment and reveal, the standing records of those who attested, and the
//! charter. Nothing in it is believed: [`Evidence::check`] verifies every signature against the network's id.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::bounded::{BoundedBytes, BoundedVec};
use crate::codec::{self, DecodeError};
use crate::engine::Engine;
use crate::id::{ActionId, BatchId, BlobHash, NetworkId, NodeId, OperatorId};
use crate::policy::{Policy, PolicyError};
use crate::record::{Kind, Payload, RECORD_BYTES_MAX, Record, RecordError, SharedRecord};
use crate::trust::charter::{Charter, CharterError, CharterParts};
use crate::trust::members::Members;
use crate::verdict::words::Words;
use crate::verdict::{Attestation, Verdict, verdict};

/// The most bytes of an evidence blob.
pub const EVIDENCE_BYTES_MAX: usize = 4 << 20;
/// The most records in one: thousands of builders.
const RECORDS_MAX: usize = 8192;

/// The evidence of an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The network.
    pub network: NetworkId,
    /// The action's canonical bytes.
    action: BoundedBytes<{ crate::action::ACTION_BYTES_MAX }>,
    /// The policy's bytes.
    policy: BoundedBytes<65536>,
    /// The charter, as [`CharterParts::to_bundle`].
    charter: BoundedBytes<{ 256 << 10 }>,
    /// The first slot of the newest attempt: failures of earlier ones were set aside by a Retry.
    attempt_first_slot: u16,
    /// Records, in the order of their ids.
    records: BoundedVec<BoundedBytes<RECORD_BYTES_MAX>, RECORDS_MAX>,
}

/// What evidence proves.
#[derive(Debug, Clone)]
pub struct Findings {
    /// The action that it is of.
    pub action: ActionId,
    /// The policy under which the verdict is.
    pub policy: Policy,
    /// The attestations that count or could count.
    pub attestations: Vec<Attestation>,
    /// The verdict, computed anew.
    pub verdict: Verdict,
}

/// Why evidence proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// Not evidence's bytes.
    #[error("not evidence: {0}")]
    Decode(#[from] DecodeError),
    /// A record in it is forged, or of another network.
    #[error("record {index} in it: {error}")]
    Record {
        /// Its place.
        index: usize,
        /// What is wrong.
        error: RecordError,
    },
    /// The charter in it is not this network's.
    #[error("the charter in it: {0}")]
    Charter(#[from] CharterError),
    /// The policy in it is none.
    #[error("the policy in it: {0}")]
    Policy(#[from] PolicyError),
    /// It would be larger than evidence may be.
    #[error("evidence of {0} records is too large")]
    TooLarge(usize),
}

impl Evidence {
    /// Gathers what `engine` knows of an action, for the policy of `batch`. `None` where the action or batch is unknown.
    ///
    /// # Errors
    /// [`EvidenceError::TooLarge`].
    pub fn gather(engine: &Engine, charter: &Charter, batch: &BatchId, action: &ActionId) -> Result<Option<Self>, EvidenceError> {
        let Some(known) = engine.action(action) else { return Ok(None) };
        let Some(policy) = engine.batch(batch).and_then(|view| engine.policy(&view.policy).cloned()) else {
            return Ok(None);
        };
        let board = engine.board();
        let mut records: Vec<SharedRecord> = Vec::new();
        let mut nodes = BTreeSet::new();
        for record in board.commitments(action).map(|(record, _)| record).chain(board.reveals(action).map(|(record, _)| record)) {
            nodes.insert(NodeId(record.author_key()));
            records.push(record.clone());
        }
        let operators: BTreeSet<OperatorId> = nodes.iter().filter_map(|node| engine.members().operator_of(node)).collect();
        // The whole chain of invitations of everyone who attested, up to the founders.
        // And of those who are banned, since two bans end a branch.
        let mut wanted: BTreeSet<OperatorId> = operators.iter().chain(engine.members().banned()).copied().collect();
        let mut queue: Vec<OperatorId> = wanted.iter().copied().collect();
        while let Some(operator) = queue.pop() {
            if let Some(inviter) = engine.members().membership(&operator).and_then(|membership| membership.inviter)
                && wanted.insert(inviter)
            {
                queue.push(inviter);
            }
        }
        for kind in [Kind::OperatorCertificate, Kind::NodeCertificate, Kind::Invitation] {
            records.extend(board.of_kind(kind).filter(|record| wanted.contains(&OperatorId(record.author_key()))).cloned());
        }
        for kind in [Kind::FraudProof, Kind::Suspension, Kind::Ban, Kind::Pardon] {
            records.extend(board.of_kind(kind).filter(|record| bars(record, engine.members(), &operators)).cloned());
        }
        records.sort_by_key(|record| record.id());
        let count = records.len();
        let too_large = || EvidenceError::TooLarge(count);
        let bytes: Vec<BoundedBytes<RECORD_BYTES_MAX>> =
            records.iter().filter_map(|record| BoundedBytes::try_from(record.bytes().to_vec()).ok()).collect();
        let evidence = Self {
            network: engine.params().network,
            action: known.to_bytes().try_into().map_err(|_| too_large())?,
            policy: policy.to_bytes().try_into().map_err(|_| too_large())?,
            charter: charter.parts().to_bundle()?.try_into().map_err(|_| too_large())?,
            attempt_first_slot: engine.attempt_first_slot(action),
            records: bytes.try_into().map_err(|_| too_large())?,
        };
        if evidence.to_bytes().len() > EVIDENCE_BYTES_MAX {
            return Err(too_large());
        }
        Ok(Some(evidence))
    }

    /// The canonical bytes, whose BLAKE3 a release names.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The evidence's name.
    pub fn hash(&self) -> BlobHash {
        BlobHash::of(&self.to_bytes())
    }

    /// Reads evidence; nothing is checked yet.
    ///
    /// # Errors
    /// [`EvidenceError::Decode`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EvidenceError> {
        Ok(codec::decode(bytes, EVIDENCE_BYTES_MAX)?)
    }

    /// Verifies everything in it and computes the verdict anew. The caller compares [`Evidence::network`] and
    /// [`Findings::action`] with what it wants evidence of.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn check(&self) -> Result<Findings, EvidenceError> {
        let charter = Charter::reload(self.network, CharterParts::from_bundle(&self.charter)?)?;
        let policy = Policy::from_bytes(&self.policy)?;
        let action = Action::from_bytes(&self.action)?.id();
        let mut records = Vec::new();
        for (index, bytes) in self.records.iter().enumerate() {
            records.push(Record::open(bytes, self.network).map_err(|error| EvidenceError::Record { index, error })?);
        }
        let mut members = Members::new(charter.grants());
        members.extend(&records);
        let attestations = attestations(&records, &members, &action);
        let verdict = verdict(&attestations, self.attempt_first_slot, &members, &policy);
        Ok(Findings { action, policy, attestations, verdict })
    }
}

/// Whether a record may take somebody's vote away, or give it back.
fn bars(record: &Record, members: &Members, of: &BTreeSet<OperatorId>) -> bool {
    match record.payload() {
        Payload::Suspension(suspension) => of.contains(&suspension.operator),
        Payload::FraudProof(proof) => {
            let operator = proof.node().and_then(|node| members.operator_of(&node));
            operator.is_some_and(|operator| of.contains(&operator))
        }
        _ => true,
    }
}

/// Reveals whose commitment is among the records, by operators that are known.
fn attestations(records: &[SharedRecord], members: &Members, action: &ActionId) -> Vec<Attestation> {
    let of_action = |record: &&SharedRecord| match record.payload() {
        Payload::Commitment(said) => said.lease.action == *action,
        Payload::Reveal(said) => said.lease.action == *action,
        _ => false,
    };
    let words = Words::of(records.iter().filter(of_action), |node| members.speaker(node));
    words.opened.into_iter().map(|(_, attestation)| attestation).collect()
}
