//! Signatures that are carried by hand: one file for each signer, merged where the document is.
//!
//! What is signed is the canonical `signed` part of TUF metadata. A [`SignatureFile`] names the document that it is
//! for, so that a mix-up is told from a bad signature.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::tuf::{KeySignature, PublicKey, RoleKeys, SIGNATURES_MAX};
use crate::id::BlobHash;
use crate::keys::SecretKey;

/// The most bytes of a signature file.
pub const SIGNATURE_FILE_BYTES_MAX: usize = 64 << 10;
/// The format that this version writes and reads.
const FORMAT: u32 = 1;

/// One signature of a signature file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RoleSignature {
    /// The part of the document: `root`, `targets`, or a channel's name.
    pub role: String,
    /// Key and signature, as TUF has them.
    #[serde(flatten)]
    pub signature: KeySignature,
}

/// Signatures on one document, apart from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureFile {
    #[serde(rename = "barnraiser-signature")]
    format: u32,
    of: BlobHash,
    signatures: BTreeSet<RoleSignature>,
}

/// Why bytes are not a signature file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFileError {
    /// Longer than [`SIGNATURE_FILE_BYTES_MAX`].
    #[error("{0} bytes are more than a signature file can have")]
    TooLarge(usize),
    /// Something else.
    #[error("not a signature file, as `barn sign` writes them: {0}")]
    NotOne(String),
    /// Of a later format.
    #[error("a signature file of format {0}; this version of Barnraiser reads {FORMAT}")]
    Newer(u32),
    /// Two files that are merged are for different documents.
    #[error("signatures for the document {} can't be merged with signatures for {}", .found.short(), .wanted.short())]
    OtherDocument {
        /// The document of the second file.
        found: BlobHash,
        /// The document of the first file.
        wanted: BlobHash,
    },
}

impl SignatureFile {
    pub(crate) fn new(of: BlobHash, signatures: BTreeSet<RoleSignature>) -> Self {
        Self { format: FORMAT, of, signatures }
    }

    /// The signature file in `bytes`.
    ///
    /// # Errors
    /// [`SignatureFileError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureFileError> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(rename = "barnraiser-signature")]
            format: u32,
        }
        if bytes.len() > SIGNATURE_FILE_BYTES_MAX {
            return Err(SignatureFileError::TooLarge(bytes.len()));
        }
        let not_one = |e: serde_json::Error| SignatureFileError::NotOne(e.to_string());
        let head: Head = serde_json::from_slice(bytes).map_err(not_one)?;
        if head.format != FORMAT {
            return Err(SignatureFileError::Newer(head.format));
        }
        serde_json::from_slice(bytes).map_err(not_one)
    }

    /// Its bytes: JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Texts, numbers and lists always serialise.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// The document that it is for ([`super::Signable::id`]).
    pub const fn of(&self) -> BlobHash {
        self.of
    }
    /// The signatures, unchecked.
    pub const fn signatures(&self) -> &BTreeSet<RoleSignature> {
        &self.signatures
    }

    /// Adds the signatures of another file on the same document.
    ///
    /// # Errors
    /// [`SignatureFileError::OtherDocument`].
    pub fn merge(&mut self, other: &Self) -> Result<(), SignatureFileError> {
        if other.of != self.of {
            return Err(SignatureFileError::OtherDocument { found: other.of, wanted: self.of });
        }
        self.signatures.extend(other.signatures.iter().cloned());
        Ok(())
    }
}

/// Why a signature is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its key is none of the role's.
    UnknownKey,
    /// Its key did not make it over this document.
    Bad,
}

/// A signature that is not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The key that it names, cut to 64 characters.
    pub keyid: String,
    /// Why.
    pub why: Refusal,
}

/// A role that lacks signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The part of the document.
    pub role: String,
    /// Distinct keys whose signature is good.
    pub have: usize,
    /// How many must be.
    pub need: usize,
    /// The signatures that are not counted.
    pub refused: Vec<Refused>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, have, need, refused } = self;
        write!(f, "{role:?} has {have} of {need} signatures, {} missing", need - have)?;
        for refused in refused {
            let key: String = refused.keyid.chars().take(10).collect();
            match refused.why {
                Refusal::UnknownKey => write!(f, "; one by key {key:?} does not count, since that key may not sign here")?,
                Refusal::Bad => write!(f, "; one by key {key:?} does not count, since it does not fit the document")?,
            }
        }
        Ok(())
    }
}

/// Why signatures don't make a document valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatherError {
    /// A file is for something else.
    #[error("signature file {} is for another document ({}, not {})", .index + 1, .found.short(), .wanted.short())]
    OtherDocument {
        /// Its place among the files, from 0.
        index: usize,
        /// The document that it is for.
        found: BlobHash,
        /// The document that is to be signed.
        wanted: BlobHash,
    },
    /// Not enough.
    #[error("{}", .0.iter().map(Missing::to_string).collect::<Vec<_>>().join("\n"))]
    Missing(Vec<Missing>),
}

/// One signed part of a document, and who may sign it.
pub(crate) struct Part<'a> {
    pub(crate) role: &'a str,
    pub(crate) canonical: &'a [u8],
    pub(crate) keys: &'a RoleKeys,
}

/// The good signatures for each part, in the order of the parts; one for each key, so that equal sets of signers give
/// equal documents.
pub(crate) fn gather(document: BlobHash, parts: &[Part<'_>], files: &[SignatureFile]) -> Result<Vec<Vec<KeySignature>>, GatherError> {
    if let Some((index, other)) = files.iter().enumerate().find(|(_, file)| file.of != document) {
        return Err(GatherError::OtherDocument { index, found: other.of, wanted: document });
    }
    let mut all = Vec::new();
    let mut missing = Vec::new();
    for part in parts {
        let mut signers: BTreeSet<PublicKey> = BTreeSet::new();
        let mut good = Vec::new();
        let mut refused = Vec::new();
        let given = files.iter().flat_map(|file| &file.signatures).filter(|given| given.role == part.role);
        for RoleSignature { signature, .. } in given.take(SIGNATURES_MAX) {
            let why = match signature.key(part.keys) {
                None => Refusal::UnknownKey,
                Some(key) if signers.contains(&key) => continue,
                Some(key) if signature.is_good(&key, part.canonical) => {
                    signers.insert(key);
                    good.push(signature.clone());
                    continue;
                }
                Some(_) => Refusal::Bad,
            };
            refused.push(Refused { keyid: signature.keyid.chars().take(64).collect(), why });
        }
        let need = usize::try_from(part.keys.threshold).unwrap_or(usize::MAX);
        if good.len() < need {
            missing.push(Missing { role: part.role.to_owned(), have: good.len(), need, refused });
        }
        good.sort();
        all.push(good);
    }
    if missing.is_empty() { Ok(all) } else { Err(GatherError::Missing(missing)) }
}

/// `key`'s signature on one part.
pub(crate) fn sign_part(role: &str, key: &SecretKey, canonical: &[u8]) -> RoleSignature {
    RoleSignature { role: role.to_owned(), signature: KeySignature::make(key, canonical) }
}
