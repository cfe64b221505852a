//! Records: everything that nodes tell each other, signed by its author.
//!
//! A record goes through three types: bytes → [`Record`] (decoded, canonical) → [`Verified`]`<Record>` (its signature
//! checked, and all that it proves by itself; of our network). The engine takes only the last. A record's id is the BLAKE3 of the bytes that are signed,
//! so a second signature on the same content is the same record.
//!
//! [`payload`] lists what can be said; [`Life`] says how long it is kept.

mod fraud;
mod notice;
pub mod payload;
mod seal;

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bounded::BoundedBytes;
use crate::codec::{self, DecodeError};
use crate::id::{NetworkId, NodeId, OperatorId, RecordId};
use crate::keys::{self, SecretKey, Signature, SignatureError};
use crate::time::Timestamp;
use crate::trust::order::{OrderError, Verb};

pub use fraud::{NoFraud, PROVABLE_BYTES_MAX, contradict};
pub use payload::{Kind, Payload};

/// The most bytes a record may have on the wire, signature included (DESIGN section 5).
pub const RECORD_BYTES_MAX: usize = 4096;
/// The most bytes a payload may have: the record less its envelope.
pub const PAYLOAD_BYTES_MAX: usize = RECORD_BYTES_MAX - 192;
/// The version of the envelope.
pub const RECORD_VERSION: u16 = 1;
/// How long a record is kept after the end of its effect, so that late peers still hear of it (DESIGN section 5).
pub const EXPIRY_GRACE: Duration = Duration::from_secs(600);

const RECORD_DOMAIN: &[u8] = b"barnraiser 2026 record v1\0";

/// How long records of a type are of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// What is going on now; expires.
    Board,
    /// What was built; kept as long as the output is.
    Evidence,
    /// Who is who; kept as long as the network lives.
    Standing,
}

/// What is signed: everything but the signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Envelope {
    kind: u16,
    version: u16,
    network: NetworkId,
    #[serde(with = "codec::octets")]
    author: [u8; 32],
    sequence: u64,
    issued: Timestamp,
    expires: Timestamp,
    payload: BoundedBytes<PAYLOAD_BYTES_MAX>,
}

impl Envelope {
    /// An envelope of this version, what its author signed of it, and the signature, which is not checked here.
    fn read(bytes: &[u8]) -> Result<(Self, Vec<u8>, Signature), RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::Envelope(DecodeError::TooLarge { given: bytes.len(), limit: RECORD_BYTES_MAX }));
        }
        let Some((signed, signature)) = bytes.split_last_chunk::<SIGNATURE_BYTES>() else {
            return Err(RecordError::Envelope(DecodeError::Malformed("shorter than a signature".into())));
        };
        let envelope: Self = codec::decode(signed, RECORD_BYTES_MAX).map_err(RecordError::Envelope)?;
        if envelope.version != RECORD_VERSION {
            return Err(RecordError::UnknownVersion(envelope.version));
        }
        let message = message(envelope.kind, signed);
        Ok((envelope, message, Signature(*signature)))
    }
}

/// A decoded record. Its signature is not checked yet: see [`Record::verify`]. Its bytes are not kept: the encoding has one
/// spelling for a value, so [`Record::bytes`] makes them again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    id: RecordId,
    frame: Arc<Frame>,
    author: [u8; 32],
    sequence: u64,
    issued: Timestamp,
    payload: Payload,
    signature: Signature,
}

/// What most records say alike: their network, and that they expire when their type does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    network: NetworkId,
    /// The end of its effect, where its type leaves that to its author.
    expires: Option<Timestamp>,
}

impl Frame {
    /// Of a record of a type; kept once for all that a thread reads one after the other of one network.
    fn of(kind: Kind, network: NetworkId, expires: Timestamp) -> Arc<Self> {
        thread_local!(static LAST: RefCell<Option<Arc<Frame>>> = const { RefCell::new(None) });
        if !kind.has_one_lifetime() {
            return Arc::new(Self { network, expires: Some(expires) });
        }
        LAST.with_borrow_mut(|last| match last {
            Some(last) if last.network == network => last.clone(),
            last => last.insert(Arc::new(Self { network, expires: None })).clone(),
        })
    }
}

/// Proof that a value's signature was checked. Only this crate can make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A record whose signature was checked, shared.
pub type SharedRecord = Arc<Verified<Record>>;

/// Why bytes are not a record that can be taken. All are the sender's fault but [`RecordError::UnknownKind`] and
/// [`RecordError::UnknownVersion`], which a newer node may well send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a record's bytes.
    #[error("not a record: {0}")]
    Envelope(DecodeError),
    /// A type that this version does not know; relayed within a quota, never penalised.
    #[error("record of unknown type {kind}")]
    UnknownKind {
        /// The type's code.
        kind: u16,
        /// Whose key stands in it. [`Record::open`] has checked that its owner signed it, for this network; before that
        /// it is anybody's word.
        author: [u8; 32],
    },
    /// An envelope of a later version, of which nothing can be checked; relayed within a quota, never penalised.
    #[error("record of unknown version {0}")]
    UnknownVersion(u16),
    /// The payload is not what its type says.
    #[error("bad {kind:?} payload: {error}")]
    Payload {
        /// The type.
        kind: Kind,
        /// What is wrong.
        error: DecodeError,
    },
    /// Of another network.
    #[error("record of network {}, not of {}", .found.short(), .wanted.short())]
    ForeignNetwork {
        /// The network that the record names.
        found: NetworkId,
        /// Ours.
        wanted: NetworkId,
    },
    /// It lives longer or shorter than its type may.
    #[error(
        "{kind:?} issued at {issued} expires at {expires}; its type must expire {} {}",
        if .kind.has_one_lifetime() { "at" } else { "from then on to" }, .kind.latest_expiry(*.issued)
    )]
    Lifetime {
        /// The type.
        kind: Kind,
        /// When it was issued.
        issued: Timestamp,
        /// When it expires.
        expires: Timestamp,
    },
    /// Its author did not sign it.
    #[error("{0}")]
    Signature(#[from] SignatureError),
    /// It says something for which its author has no right.
    #[error("unauthorised: {0}")]
    Unauthorised(#[from] NoConsent),
    /// A [`payload::Rotation`] to which the new key did not agree.
    #[error("unauthorised: operator {} names {} as its new key, which did not consent", .operator.short(), .successor.short())]
    Rotation {
        /// Who names it.
        operator: OperatorId,
        /// What is named.
        successor: OperatorId,
    },
    /// A [`payload::FraudProof`] that proves nothing.
    #[error("not a proof of fraud: {0}")]
    Fraud(#[from] NoFraud),
    /// A ban or pardon that can be none, whoever signed it.
    #[error("{0}")]
    Order(#[from] OrderError),
    /// A [`payload::Seal`] that can stand in no chain.
    #[error("not a seal: {0}")]
    Seal(#[from] payload::SealFault),
}

/// A [`payload::NodeCertificate`] to which its node did not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("operator {} claims node {}, which did not consent to work for it in network {}", .operator.short(), .node.short(), .network.short())]
pub struct NoConsent {
    /// Who claims it.
    pub operator: OperatorId,
    /// What is claimed.
    pub node: NodeId,
    /// The network that the record names.
    pub network: NetworkId,
}

/// Why a record can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorError {
    /// The payload does not fit.
    #[error("a record or payload of {given} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Bytes given.
        given: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Nobody would take it.
    #[error("{0}")]
    Refused(Box<RecordError>),
}

/// Bytes of a signature at the end of a record.
const SIGNATURE_BYTES: usize = 64;

impl Record {
    /// Makes and signs a record. `expires` becomes the nearest that its type allows.
    ///
    /// # Errors
    /// [`AuthorError`].
    pub fn author(
        key: &SecretKey,
        network: NetworkId,
        sequence: u64,
        issued: Timestamp,
        expires: Timestamp,
        payload: Payload,
    ) -> Result<SharedRecord, AuthorError> {
        let record = Self::sign(key, network, sequence, issued, expires, payload)?;
        record.check_claims().map_err(|error| AuthorError::Refused(error.into()))?;
        Ok(Arc::new(Verified(record)))
    }

    fn sign(
        key: &SecretKey,
        network: NetworkId,
        sequence: u64,
        issued: Timestamp,
        expires: Timestamp,
        payload: Payload,
    ) -> Result<Self, AuthorError> {
        let kind = payload.kind();
        let expires = expires.min(kind.latest_expiry(issued)).max(kind.earliest_expiry(issued));
        let unsigned = Signature([0; SIGNATURE_BYTES]);
        let author = key.public();
        let frame = Frame::of(kind, network, expires);
        let mut record = Self { id: RecordId([0; 32]), frame, author, sequence, issued, payload, signature: unsigned };
        let signed = record.signed_bytes()?;
        let (given, limit) = (signed.len() + SIGNATURE_BYTES, kind.bytes_max());
        if given > limit {
            return Err(AuthorError::TooLarge { given, limit });
        }
        let message = message(kind.code(), &signed);
        record.id = RecordId(*blake3::hash(&message).as_bytes());
        record.signature = key.sign(&message);
        Ok(record)
    }

    /// What is signed, without domain, type and length.
    fn signed_bytes(&self) -> Result<Vec<u8>, AuthorError> {
        let payload = self.payload.to_bytes();
        let given = payload.len();
        Ok(codec::encode(&Envelope {
            kind: self.kind().code(),
            version: RECORD_VERSION,
            network: self.frame.network,
            author: self.author,
            sequence: self.sequence,
            issued: self.issued,
            expires: self.expires(),
            payload: BoundedBytes::try_from(payload).map_err(|_| AuthorError::TooLarge { given, limit: PAYLOAD_BYTES_MAX })?,
        }))
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// [`RecordError`], all but its signature.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (envelope, message, signature) = Envelope::read(bytes)?;
        Self::of(&envelope, &message, signature)
    }

    /// The record that an envelope holds, whose author signed `message`.
    fn of(envelope: &Envelope, message: &[u8], signature: Signature) -> Result<Self, RecordError> {
        let Envelope { kind, network, author, sequence, issued, expires, ref payload, .. } = *envelope;
        let kind = Kind::from_code(kind).ok_or(RecordError::UnknownKind { kind, author })?;
        let (given, limit) = (message.len() - MESSAGE_HEAD_BYTES + SIGNATURE_BYTES, kind.bytes_max());
        if given > limit {
            return Err(RecordError::Payload { kind, error: DecodeError::TooLarge { given, limit } });
        }
        if expires < kind.earliest_expiry(issued) || expires > kind.latest_expiry(issued) {
            return Err(RecordError::Lifetime { kind, issued, expires });
        }
        let payload = Payload::from_bytes(kind, payload).map_err(|error| RecordError::Payload { kind, error })?;
        let id = RecordId(*blake3::hash(message).as_bytes());
        Ok(Self { id, frame: Frame::of(kind, network, expires), author, sequence, issued, payload, signature })
    }

    /// Checks that the record is of `network`, that its author signed it, and what it proves by itself.
    ///
    /// # Errors
    /// [`RecordError::ForeignNetwork`], [`RecordError::Signature`], or what the payload does not prove.
    pub fn verify(self, network: NetworkId) -> Result<SharedRecord, RecordError> {
        // Whatever was decoded fits.
        let message = self.signed_bytes().map_or_else(|_| Vec::new(), |signed| message(self.kind().code(), &signed));
        self.verify_message(network, &message)
    }

    fn verify_message(self, network: NetworkId, message: &[u8]) -> Result<SharedRecord, RecordError> {
        check(network, self.frame.network, &self.author, message, &self.signature)?;
        self.check_claims()?;
        Ok(Arc::new(Verified(self)))
    }

    /// What its author signs of a record of type `kind` whose bytes, without the signature, are `signed`: for whoever checks
    /// signatures by other means than [`Record::verify`].
    pub fn message(kind: Kind, signed: &[u8]) -> Vec<u8> {
        message(kind.code(), signed)
    }

    /// What a record proves by itself beside its signature. Here, so that it is checked once for all engines, and on the
    /// threads that check signatures.
    fn check_claims(&self) -> Result<(), RecordError> {
        let (network, operator) = (self.frame.network, OperatorId(self.author));
        match &self.payload {
            Payload::NodeCertificate(certificate) => {
                let checked = certificate.check_consent(&network, &operator);
                Ok(checked.map_err(|_| NoConsent { operator, node: certificate.node, network })?)
            }
            Payload::Rotation(rotation) => {
                let checked = rotation.check_consent(&network, &operator);
                checked.map_err(|_| RecordError::Rotation { operator, successor: rotation.successor })
            }
            Payload::FraudProof(proof) => Ok(proof.check(network)?),
            Payload::Ban(order) => Ok(order.check(network, Verb::Ban)?),
            Payload::Pardon(order) => Ok(order.check(network, Verb::Pardon)?),
            Payload::Seal(seal) => Ok(seal.check()?),
            _ => Ok(()),
        }
    }

    /// [`Record::decode`] and [`Record::verify`] in one. What can be checked of a record of unknown type is checked too:
    /// that it is of `network`, and that its author signed it.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn open(bytes: &[u8], network: NetworkId) -> Result<SharedRecord, RecordError> {
        let (envelope, message, signature) = Envelope::read(bytes)?;
        match Self::of(&envelope, &message, signature) {
            Ok(record) => record.verify_message(network, &message),
            Err(unknown @ RecordError::UnknownKind { .. }) => {
                check(network, envelope.network, &envelope.author, &message, &signature)?;
                Err(unknown)
            }
            Err(error) => Err(error),
        }
    }

    /// BLAKE3 of what is signed.
    pub const fn id(&self) -> RecordId {
        self.id
    }
    /// The bytes of its id, where they are.
    pub(crate) const fn id_bytes(&self) -> &[u8; 32] {
        &self.id.0
    }
    /// The author's public key: a node's for board and evidence, an operator's for standing records.
    pub const fn author_key(&self) -> [u8; 32] {
        self.author
    }
    /// The author's count of its own records; only picks the latest of those types of which only the latest counts.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }
    /// When its author says that it was made.
    pub const fn issued(&self) -> Timestamp {
        self.issued
    }
    /// The end of its effect.
    pub fn expires(&self) -> Timestamp {
        self.frame.expires.unwrap_or_else(|| self.kind().latest_expiry(self.issued))
    }
    /// When it may be forgotten: the end of its effect plus [`EXPIRY_GRACE`].
    pub fn forget_at(&self) -> Timestamp {
        self.expires() + EXPIRY_GRACE
    }
    /// Its network.
    pub fn network(&self) -> NetworkId {
        self.frame.network
    }
    /// What it says.
    pub const fn payload(&self) -> &Payload {
        &self.payload
    }
    /// Its type.
    pub const fn kind(&self) -> Kind {
        self.payload.kind()
    }
    /// The bytes as received, signature included; made anew at every call.
    pub fn bytes(&self) -> Vec<u8> {
        // Neither `sign` nor `read` makes a record that does not fit.
        let mut bytes = self.signed_bytes().unwrap_or_default();
        bytes.extend_from_slice(&self.signature.0);
        bytes
    }
}

/// Whether what `author` signed is of the network `wanted`, and it did sign it.
fn check(wanted: NetworkId, found: NetworkId, author: &[u8; 32], message: &[u8], signature: &Signature) -> Result<(), RecordError> {
    if found != wanted {
        return Err(RecordError::ForeignNetwork { found, wanted });
    }
    Ok(keys::verify(author, message, signature)?)
}

/// Bytes of [`message`] before the envelope.
const MESSAGE_HEAD_BYTES: usize = RECORD_DOMAIN.len() + 10;

/// What is signed: domain string ‖ type ‖ length ‖ the envelope as received.
fn message(kind: u16, signed: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(MESSAGE_HEAD_BYTES + signed.len());
    message.extend_from_slice(RECORD_DOMAIN);
    message.extend_from_slice(&kind.to_le_bytes());
    message.extend_from_slice(&(signed.len() as u64).to_le_bytes());
    message.extend_from_slice(signed);
    message
}

#[cfg(test)]
impl Record {
    /// The bytes of a record that [`Record::author`] would not make: what somebody without scruples sends.
    pub(crate) fn forge(key: &SecretKey, network: NetworkId, issued: Timestamp, payload: Payload) -> Vec<u8> {
        let expires = payload.kind().latest_expiry(issued);
        Self::sign(key, network, 1, issued, expires, payload).map_or_else(|_| Vec::new(), |record| record.bytes())
    }

    /// The bytes of a record whose type only a later version knows.
    pub(crate) fn of_the_future(key: &SecretKey, network: NetworkId, kind: u16) -> Vec<u8> {
        let (author, payload) = (key.public(), BoundedBytes::try_from(vec![7; 9]).unwrap_or_default());
        let (issued, expires) = (Timestamp(1000), Timestamp(2000));
        let signed = codec::encode(&Envelope { kind, version: RECORD_VERSION, network, author, sequence: 1, issued, expires, payload });
        [signed.as_slice(), &key.sign(&message(kind, &signed)).0].concat()
    }
}

#[cfg(test)]
mod tests;
