//! Public keys as TUF writes them, and the keys that a role is signed with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Digest as _;

use super::{TufError, canonical};
use crate::id::KeyId;
use crate::keys::{SecretKey, SignatureError};

/// The most keys in one document: more maintainers than any project has.
pub const KEYS_MAX: usize = 128;

/// An ed25519 public key that is a point of the curve, and not a weak one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub(in crate::trust) [u8; 32]);

impl PublicKey {
    /// The key that `bytes` are.
    ///
    /// # Errors
    /// [`SignatureError::BadKey`] where they are none that a signature could be checked with.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, SignatureError> {
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(bytes)),
            _ => Err(SignatureError::BadKey),
        }
    }

    /// The public half of `key`.
    pub fn of(key: &SecretKey) -> Self {
        Self(key.public())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key object of TUF metadata.
    fn object(&self) -> Value {
        json!({ "keytype": "ed25519", "scheme": "ed25519", "keyval": { "public": self.to_string() } })
    }

    /// TUF's id of the key: SHA-256 of its canonical key object.
    pub fn id(&self) -> KeyId {
        // An object of texts always has a canonical form.
        KeyId(sha2::Sha256::digest(canonical(&self.object()).unwrap_or_default()).into())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", data_encoding::HEXLOWER.encode(&self.0[..5]))
    }
}

/// The `keys` of a document, as received: keys of types that we don't know stay in it and count for nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyTable(BTreeMap<KeyId, Value>);

impl KeyTable {
    /// Adds a key.
    pub fn insert(&mut self, key: PublicKey) -> KeyId {
        let id = key.id();
        self.0.insert(id, key.object());
        id
    }

    /// The ed25519 key of that id, if the id is the key's own and the key can be used.
    pub fn public(&self, id: &KeyId) -> Option<PublicKey> {
        let object = self.0.get(id)?;
        let text = |name: &str| object.get(name).and_then(Value::as_str);
        if text("keytype") != Some("ed25519") || text("scheme") != Some("ed25519") {
            return None;
        }
        let digest: [u8; 32] = sha2::Sha256::digest(canonical(object).ok()?).into();
        if KeyId(digest) != *id {
            return None;
        }
        let hex = object.get("keyval")?.get("public")?.as_str()?;
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?;
        PublicKey::from_bytes(bytes.try_into().ok()?).ok()
    }

    pub(super) fn check(&self) -> Result<(), TufError> {
        if self.0.len() > KEYS_MAX {
            return Err(TufError::field("keys", format!("{} keys, at most {KEYS_MAX} are allowed", self.0.len())));
        }
        Ok(())
    }

    /// The usable keys among `ids`.
    pub(super) fn role(&self, what: &str, ids: &BTreeSet<KeyId>, threshold: u32) -> Result<RoleKeys, TufError> {
        let keys: BTreeMap<KeyId, PublicKey> = ids.iter().filter_map(|id| Some((*id, self.public(id)?))).collect();
        let distinct = keys.values().collect::<BTreeSet<_>>().len();
        if threshold == 0 || usize::try_from(threshold).is_ok_and(|threshold| threshold > distinct) {
            let reason = format!("{threshold} signatures are asked for, from {distinct} usable keys");
            return Err(TufError::Field { field: format!("role {what}"), reason });
        }
        Ok(RoleKeys { threshold, keys })
    }
}

/// Who signs for a role, and how many of them must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleKeys {
    /// Distinct keys that must sign; at least 1, at most the number of keys.
    pub threshold: u32,
    /// Those that may.
    pub keys: BTreeMap<KeyId, PublicKey>,
}

impl RoleKeys {
    /// A role that nobody can sign for.
    pub const fn nobody() -> Self {
        Self { threshold: 1, keys: BTreeMap::new() }
    }
}
