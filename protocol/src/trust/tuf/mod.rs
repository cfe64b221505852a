//! TUF 1.0 metadata: signed JSON with roles, thresholds and rotation, written and checked here.
//!
//! A signature covers the canonical JSON (OLPC's) of the `signed` part *as received*: fields that this version does not
//! know are covered too, and are handed on. A document goes from bytes to [`Signed`] (well-formed) to [`Trusted`]
//! (signed by enough keys of the role); only the latter is to be acted upon.
//!
//! Formats follow the TUF specification 1.0, so that any TUF client can check our metadata. What is our own stands in
//! `x-barnraiser`, which clients must ignore.

mod key;
mod roles;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{BlobHash, KeyId};
use crate::keys::{self, SecretKey, Signature};
use crate::time::Timestamp;

pub use key::{KEYS_MAX, KeyTable, PublicKey, RoleKeys};
pub use roles::{Binding, DelegatedRole, Delegations, Expiry, Hashes, NetworkParams, Role, RoleSpec, Root, SPEC_VERSION, Target, Targets};

/// The most signatures on one document.
pub const SIGNATURES_MAX: usize = 256;
/// The greatest version: the greatest integer that every JSON reader keeps exact.
pub const VERSION_MAX: u64 = (1 << 53) - 1;

/// Why metadata can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TufError {
    /// Longer than its type may be.
    #[error("{given} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Bytes given.
        given: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON of the wanted form.
    #[error("not TUF metadata: {0}")]
    Json(String),
    /// Of another type.
    #[error("TUF metadata of type {found:?}, {wanted:?} is wanted")]
    Type {
        /// Wanted.
        wanted: &'static str,
        /// Found, cut to 40 characters.
        found: String,
    },
    /// A field says what it may not.
    #[error("{field}: {reason}")]
    Field {
        /// Which.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// Not enough signatures.
    #[error(transparent)]
    Threshold(#[from] ThresholdError),
    /// It is too old.
    #[error("the {what} expired on {expires}, it is {now} now; ask the maintainers for a new one, and check this machine's clock")]
    Expired {
        /// The type.
        what: &'static str,
        /// When.
        expires: Timestamp,
        /// Now.
        now: Timestamp,
    },
    /// A root that does not follow the one before.
    #[error("root version {found} does not follow version {before}")]
    RootOrder {
        /// The version of the older root.
        before: u64,
        /// The version of the newer root.
        found: u64,
    },
}

impl TufError {
    pub(crate) fn field(field: &str, reason: impl Into<String>) -> Self {
        Self::Field { field: field.to_owned(), reason: reason.into() }
    }
}

/// Fewer good signatures than the role asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{have} of the {need} signatures that the {what} needs are good")]
pub struct ThresholdError {
    /// The type of the document.
    pub what: &'static str,
    /// Distinct keys of the role whose signature is good.
    pub have: usize,
    /// The threshold.
    pub need: usize,
}

/// The canonical JSON of `value`, which is what is signed.
///
/// # Errors
/// [`TufError::Json`] where there is none: numbers that are not integers.
pub fn canonical<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, TufError> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, olpc_cjson::CanonicalFormatter::new());
    value.serialize(&mut serializer).map_err(|e| TufError::Json(e.to_string()))?;
    Ok(bytes)
}

/// A type of metadata.
pub trait Metadata: Serialize + DeserializeOwned {
    /// Its `_type`.
    const TYPE: &'static str;
    /// The most bytes of a document, signatures included.
    const BYTES_MAX: usize;
    /// Its version.
    fn version(&self) -> u64;
    /// When it stops being good.
    fn expires(&self) -> Expiry;
    /// Checks what the type of a field can't say.
    ///
    /// # Errors
    /// [`TufError::Field`].
    fn check(&self) -> Result<(), TufError>;
}

/// One signature on a document. Key ids of other forms than ours are kept, and count for nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeySignature {
    /// TUF's key id.
    pub keyid: String,
    /// The signature, hexadecimal.
    pub sig: String,
}

impl KeySignature {
    /// `key`'s signature over the canonical bytes of a `signed` part.
    pub fn make(key: &SecretKey, canonical: &[u8]) -> Self {
        Self { keyid: PublicKey::of(key).id().to_string(), sig: data_encoding::HEXLOWER.encode(&key.sign(canonical).0) }
    }

    /// Its key, where it is one of the role's.
    pub(crate) fn key(&self, role: &RoleKeys) -> Option<PublicKey> {
        role.keys.get(&self.keyid.parse::<KeyId>().ok()?).copied()
    }

    /// Whether `key` made it over these bytes.
    pub(crate) fn is_good(&self, key: &PublicKey, canonical: &[u8]) -> bool {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(self.sig.as_bytes()).ok();
        let signature = bytes.and_then(|bytes| <[u8; 64]>::try_from(bytes).ok()).map(Signature);
        signature.is_some_and(|signature| keys::verify(key.as_bytes(), canonical, &signature).is_ok())
    }
}

/// The keys of `role` that signed these bytes: one counts once, however often it signed; others don't count.
pub(crate) fn good_keys(role: &RoleKeys, canonical: &[u8], signatures: &[KeySignature]) -> BTreeSet<PublicKey> {
    let mut good = BTreeSet::new();
    for signature in signatures.iter().take(SIGNATURES_MAX) {
        if let Some(key) = signature.key(role)
            && !good.contains(&key)
            && signature.is_good(&key, canonical)
        {
            good.insert(key);
        }
    }
    good
}

/// A well-formed document. Nobody has checked its signatures: see [`Signed::verify`].
#[derive(Debug, Clone, PartialEq)]
pub struct Signed<T> {
    value: Value,
    canonical: Vec<u8>,
    signed: T,
    signatures: Vec<KeySignature>,
}

impl<T: Metadata> Signed<T> {
    /// A document that nobody has signed yet.
    ///
    /// # Errors
    /// [`TufError`] where `signed` says what it may not.
    pub fn unsigned(signed: &T) -> Result<Self, TufError> {
        let value = serde_json::to_value(signed).map_err(|e| TufError::Json(e.to_string()))?;
        Self::from_value(value, Vec::new())
    }

    /// The document whose `signed` part is `value`.
    ///
    /// # Errors
    /// [`TufError`], all but signatures and expiry.
    pub fn from_value(value: Value, signatures: Vec<KeySignature>) -> Result<Self, TufError> {
        if let Some(found) = value.get("_type").and_then(Value::as_str).filter(|found| *found != T::TYPE) {
            return Err(TufError::Type { wanted: T::TYPE, found: found.chars().take(40).collect() });
        }
        if signatures.len() > SIGNATURES_MAX {
            return Err(TufError::field("signatures", format!("{}, at most {SIGNATURES_MAX} are allowed", signatures.len())));
        }
        let canonical = canonical(&value)?;
        if canonical.len() > T::BYTES_MAX {
            return Err(TufError::TooLarge { given: canonical.len(), limit: T::BYTES_MAX });
        }
        let signed = T::deserialize(&value).map_err(|e| TufError::Json(e.to_string()))?;
        signed.check()?;
        Ok(Self { value, canonical, signed, signatures })
    }

    /// The document in `bytes`.
    ///
    /// # Errors
    /// [`TufError`], all but signatures and expiry.
    pub fn parse(bytes: &[u8]) -> Result<Self, TufError> {
        #[derive(Deserialize)]
        struct Raw {
            signed: Value,
            signatures: Vec<KeySignature>,
        }
        if bytes.len() > T::BYTES_MAX {
            return Err(TufError::TooLarge { given: bytes.len(), limit: T::BYTES_MAX });
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| TufError::Json(e.to_string()))?;
        Self::from_value(raw.signed, raw.signatures)
    }

    /// The document's bytes: JSON, signatures as they are.
    pub fn to_bytes(&self) -> Vec<u8> {
        let document =
            BTreeMap::from([("signatures", serde_json::to_value(&self.signatures).unwrap_or_default()), ("signed", self.value.clone())]);
        // Texts, numbers, lists and objects always serialise.
        serde_json::to_vec_pretty(&document).unwrap_or_default()
    }

    /// What it says, unchecked: for showing, and for roots, which name the keys of their own signatures.
    pub const fn unverified(&self) -> &T {
        &self.signed
    }
    /// The `signed` part as received.
    pub const fn value(&self) -> &Value {
        &self.value
    }
    /// The bytes that are signed.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }
    /// BLAKE3 of the bytes that are signed.
    pub fn hash(&self) -> BlobHash {
        BlobHash::of(&self.canonical)
    }
    /// The signatures, unchecked.
    pub fn signatures(&self) -> &[KeySignature] {
        &self.signatures
    }

    /// The same document with other signatures.
    #[must_use]
    pub fn with_signatures(mut self, signatures: Vec<KeySignature>) -> Self {
        self.signatures = signatures;
        self
    }

    /// The keys of `role` whose signature is good.
    pub fn signers(&self, role: &RoleKeys) -> BTreeSet<PublicKey> {
        good_keys(role, &self.canonical, &self.signatures)
    }

    /// Checks that enough distinct keys of `role` signed. Does not look at the expiry: see [`Trusted::check_expiry`].
    ///
    /// # Errors
    /// [`ThresholdError`].
    pub fn verify(self, role: &RoleKeys) -> Result<Trusted<T>, ThresholdError> {
        let have = self.signers(role).len();
        let need = usize::try_from(role.threshold).unwrap_or(usize::MAX);
        if have < need {
            return Err(ThresholdError { what: T::TYPE, have, need });
        }
        Ok(Trusted(self))
    }
}

impl Signed<Root> {
    /// Checks a first root, which the keys that it names itself must have signed.
    ///
    /// # Errors
    /// [`ThresholdError`].
    pub fn verify_first(self) -> Result<Trusted<Root>, TufError> {
        let role = self.signed.role(Role::Root)?;
        Ok(self.verify(&role)?)
    }

    /// Checks a root that replaces `before`: its version is the next, and enough keys of the old and enough keys of the
    /// new one signed it.
    ///
    /// # Errors
    /// [`TufError::RootOrder`] or [`ThresholdError`].
    pub fn verify_after(self, before: &Trusted<Root>) -> Result<Trusted<Root>, TufError> {
        if self.signed.version != before.version + 1 {
            return Err(TufError::RootOrder { before: before.version, found: self.signed.version });
        }
        let trusted = self.verify(&before.role(Role::Root)?)?;
        trusted.0.verify_first()
    }
}

/// A document that enough keys of its role signed. Only [`Signed::verify`] makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Trusted<T>(Signed<T>);

impl<T: Metadata> Trusted<T> {
    /// The document.
    pub const fn document(&self) -> &Signed<T> {
        &self.0
    }

    /// Checks that it is still good.
    ///
    /// # Errors
    /// [`TufError::Expired`].
    pub fn check_expiry(&self, now: Timestamp) -> Result<(), TufError> {
        let expires = self.0.signed.expires().timestamp();
        if expires <= now {
            return Err(TufError::Expired { what: T::TYPE, expires, now });
        }
        Ok(())
    }
}

impl<T> Deref for Trusted<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.signed
    }
}

#[cfg(test)]
mod tests;
