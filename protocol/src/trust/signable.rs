//! Everything that `barn sign` signs.

use serde_json::Value;

use super::SignatureFile;
use super::charter::{Proposal, ProposalError, SignError};
use super::keys::SigningKey;
use super::order::{OrderDraft, OrderError};
use crate::id::BlobHash;
use crate::release::{ReleaseDraft, ReleaseError};

/// The most bytes of anything that can be signed: the longest is a release.
pub const SIGNABLE_BYTES_MAX: usize = 8 << 20;

/// A document that wants signatures.
#[derive(Debug, Clone, PartialEq)]
pub enum Signable {
    /// A new network, or a change of one's rules.
    Proposal(Box<Proposal>),
    /// A release.
    Release(Box<ReleaseDraft>),
    /// A ban or a pardon.
    Order(Box<OrderDraft>),
}

/// Why bytes are nothing that can be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignableError {
    /// Longer than [`SIGNABLE_BYTES_MAX`].
    #[error("{0} bytes; nothing that is signed has more than {SIGNABLE_BYTES_MAX}")]
    TooLarge(usize),
    /// Not JSON.
    #[error("this is no proposal, no release and no order: {0}")]
    Json(String),
    /// A signature file.
    #[error("this is a signature already; the proposal, release or order that it is for is wanted")]
    Signature,
    /// JSON of another kind.
    #[error("this is no proposal or order (of `barn network`) and no release (of `barn release propose`)")]
    Unknown,
    /// A proposal that can't be used.
    #[error(transparent)]
    Proposal(#[from] ProposalError),
    /// A release that can't be used.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// An order that can't be used.
    #[error(transparent)]
    Order(#[from] OrderError),
}

impl Signable {
    /// What `bytes` are.
    ///
    /// # Errors
    /// [`SignableError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SignableError> {
        if bytes.len() > SIGNABLE_BYTES_MAX {
            return Err(SignableError::TooLarge(bytes.len()));
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|e| SignableError::Json(e.to_string()))?;
        if value.get("barnraiser-proposal").is_some() {
            Ok(Self::Proposal(Box::new(Proposal::parse(bytes)?)))
        } else if value.get("barnraiser-release").is_some() {
            Ok(Self::Release(Box::new(ReleaseDraft::parse(bytes)?)))
        } else if value.get("barnraiser-order").is_some() {
            Ok(Self::Order(Box::new(OrderDraft::parse(bytes)?)))
        } else if value.get("barnraiser-signature").is_some() {
            Err(SignableError::Signature)
        } else {
            Err(SignableError::Unknown)
        }
    }

    /// What signature files name.
    pub fn id(&self) -> BlobHash {
        match self {
            Self::Proposal(proposal) => proposal.id(),
            Self::Release(release) => release.id(),
            Self::Order(order) => order.id(),
        }
    }

    /// What it is, in words; to be shown before it is signed. Several lines.
    pub fn describe(&self) -> String {
        match self {
            Self::Proposal(proposal) => proposal.describe(),
            Self::Release(release) => release.describe(),
            Self::Order(order) => order.describe(),
        }
    }

    /// Signs it.
    ///
    /// # Errors
    /// [`SignError`] where this key may not. For releases and orders that shows only when they are assembled, since they
    /// do not say who may sign them.
    pub fn sign(&self, key: &SigningKey) -> Result<SignatureFile, SignError> {
        match self {
            Self::Proposal(proposal) => proposal.sign(key),
            Self::Release(release) => Ok(release.sign(key)),
            Self::Order(order) => Ok(order.sign(key)),
        }
    }
}
