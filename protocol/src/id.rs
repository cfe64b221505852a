//! Newtypes for everything that is named by 32 bytes: digests and public keys.
//!
//! All print as 64 lower-case hexadecimal digits, are that string in JSON and TOML, and 32 bytes in bincode.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec;

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: 64 hexadecimal digits are wanted")]
pub struct IdParseError {
    /// Which kind of id was wanted.
    pub what: &'static str,
    /// What was given, cut to 80 characters.
    pub text: String,
}

/// The order of the bytes. Digests and keys nearly always differ in the first eight, and maps ask for little else.
#[inline]
fn compare(one: &[u8; 32], other: &[u8; 32]) -> Ordering {
    let first = |of: &[u8; 32]| u64::from_be_bytes([of[0], of[1], of[2], of[3], of[4], of[5], of[6], of[7]]);
    match first(one).cmp(&first(other)) {
        Ordering::Equal => one[8..].cmp(&other[8..]),
        order => order,
    }
}

macro_rules! id32 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; 32]);

        impl Ord for $name {
            #[inline]
            fn cmp(&self, other: &Self) -> Ordering {
                compare(&self.0, &other.0)
            }
        }

        impl PartialOrd for $name {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
            /// The first ten hexadecimal digits, for people.
            pub fn short(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0[..5])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;
            fn from_str(text: &str) -> Result<Self, IdParseError> {
                let error = || IdParseError { what: $what, text: text.chars().take(80).collect() };
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| error())?;
                Ok(Self(bytes.try_into().map_err(|_| error())?))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { codec::octets::serialize(&self.0, serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    codec::octets::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

id32!(
    /// BLAKE3 of a blob's plain bytes; `b3sum` agrees.
    BlobHash, "blob hash");
id32!(
    /// BLAKE3 of an action's canonical bytes ([`crate::action::Action::id`]).
    ActionId, "action id");
id32!(
    /// BLAKE3 of a record's signed bytes.
    RecordId, "record id");
id32!(
    /// A batch: the id of its `Batch` record.
    BatchId, "batch id");
id32!(
    /// BLAKE3 of the canonical `signed` part of a network's first `root.json`.
    NetworkId, "network id");
id32!(
    /// An operator's ed25519 public key. Votes are counted by it.
    OperatorId, "operator id");
id32!(
    /// A node's ed25519 public key, which is also its libp2p PeerId.
    NodeId, "node id");
id32!(
    /// BLAKE3 of an outcome ([`crate::outcome::Outcome::hash`]): what two builders must share to agree.
    OutcomeHash, "outcome hash");
id32!(
    /// SHA-256 of a blob's plain bytes, for TUF clients and `sha256sum`.
    Sha256, "SHA-256 digest");
id32!(
    /// A TUF key id: SHA-256 of the key's canonical JSON.
    KeyId, "key id");

impl BlobHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl From<RecordId> for BatchId {
    fn from(id: RecordId) -> Self {
        Self(id.0)
    }
}

impl From<BatchId> for RecordId {
    fn from(id: BatchId) -> Self {
        Self(id.0)
    }
}

impl From<blake3::Hash> for BlobHash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps of ids are in the order of their bytes, whichever of them differ.
    #[test]
    fn ids_are_in_the_order_of_their_bytes() {
        for at in 0..32 {
            let (mut one, mut other) = ([7; 32], [7; 32]);
            (one[at], other[31 - at]) = (1, 9);
            assert_eq!(BlobHash(one).cmp(&BlobHash(other)), one.cmp(&other), "byte {at}");
            assert_eq!(BlobHash(other).cmp(&BlobHash(one)), other.cmp(&one), "byte {at}");
            assert_eq!(BlobHash(one).cmp(&BlobHash(one)), Ordering::Equal);
        }
    }

    /// Text and JSON are the same 64 digits, and bincode is the 32 bytes.
    #[test]
    fn id_has_one_text_and_one_binary_form() {
        let hash = BlobHash::of(b"barn");
        assert_eq!(hash.to_string().parse::<BlobHash>().unwrap(), hash);
        assert_eq!(serde_json::to_string(&hash).unwrap(), format!("\"{hash}\""));
        assert_eq!(crate::codec::encode(&hash), hash.0);
        assert!("xyz".parse::<BlobHash>().unwrap_err().to_string().contains("blob hash"));
    }
}
