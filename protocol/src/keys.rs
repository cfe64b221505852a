//! ed25519 keys and what they sign.
//!
//! A signature always covers a domain string first, so that what was signed for one purpose is worthless for another.
//! Verification is `verify_strict`, one at a time: batch verification may let two nodes disagree on one forgery.

use std::cell::RefCell;
use std::fmt;

use ed25519_dalek::{Signature as DalekSignature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::id::{NodeId, OperatorId};

/// A signature that does not verify, or a key that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The 32 bytes are no point on the curve.
    #[error("not an ed25519 public key")]
    BadKey,
    /// The key did not sign these bytes.
    #[error("the signature does not verify")]
    Mismatch,
}

/// 64 bytes of ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", data_encoding::HEXLOWER.encode(&self.0[..5]))
    }
}

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&data_encoding::HEXLOWER.encode(&self.0))
        } else {
            (&self.0[..32], &self.0[32..]).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let bytes = if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
            data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?
        } else {
            type Half = crate::bounded::BoundedBytes<32>;
            let (low, high) = <(Half, Half)>::deserialize(deserializer)?;
            [low.into_inner(), high.into_inner()].concat()
        };
        bytes.try_into().map(Self).map_err(|_| D::Error::custom("a signature has 64 bytes"))
    }
}

/// A secret ed25519 key. Its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key that 32 secret bytes stand for.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }
    /// The 32 secret bytes.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }
    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }
    /// The public half, where the key is an operator's.
    pub fn operator(&self) -> OperatorId {
        OperatorId(self.public())
    }
    /// The public half, where the key is a node's.
    pub fn node(&self) -> NodeId {
        NodeId(self.public())
    }
    /// Signs `message` as it is; callers put a domain string first.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
    /// A key for another purpose that only the holder of this one can make.
    pub fn derive(&self, purpose: &str) -> Self {
        Self::from_seed(&blake3::derive_key(purpose, &self.seed()))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", data_encoding::HEXLOWER.encode(&self.public()[..5]))
    }
}

/// Whether anybody can hold the secret half of `key`: it is a point on the curve, and none of the few (all zeros among
/// them) for which [`verify`] takes no signature.
pub fn is_usable(key: &[u8; 32]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| !key.is_weak())
}

/// Keys whose points a thread remembers: as many as write in a large network within a few minutes, in 400 kB.
const POINTS: usize = 2048;
/// Keys that share a shelf, the one that was asked for last in front. With one place for each key two in five of 500 would
/// be in each other's.
const SHELF: usize = 4;

thread_local! {
    /// Finding the point of a key is a tenth of the work of checking a signature, and few keys write many records. Each key
    /// has one shelf; whoever makes keys that fall on a shelf of others' gains that these are worked out once more.
    static KNOWN: RefCell<Vec<Option<VerifyingKey>>> = const { RefCell::new(Vec::new()) };
}

/// Where the point of a key is remembered.
fn shelf_of(key: &[u8; 32]) -> usize {
    usize::from(u16::from_le_bytes([key[0], key[1]])) % (POINTS / SHELF)
}

/// The point of a key, remembered or worked out.
fn point_of(key: &[u8; 32]) -> Result<VerifyingKey, ed25519_dalek::SignatureError> {
    KNOWN.with_borrow_mut(|known| {
        known.resize(POINTS, None);
        let shelf = &mut known[shelf_of(key) * SHELF..][..SHELF];
        let place = shelf.iter().position(|point| point.is_some_and(|point| point.as_bytes() == key));
        let point = match place.and_then(|place| shelf[place]) {
            Some(point) => point,
            None => VerifyingKey::from_bytes(key)?,
        };
        if place != Some(0) {
            shelf[..=place.unwrap_or(SHELF - 1)].rotate_right(1);
            shelf[0] = Some(point);
        }
        Ok(point)
    })
}

/// Checks that `key` signed `message`.
///
/// # Errors
/// [`SignatureError`], also for weak keys and for malleable signatures (`verify_strict`).
pub fn verify(key: &[u8; 32], message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
    let key = point_of(key).map_err(|_| SignatureError::BadKey)?;
    key.verify_strict(message, &DalekSignature::from_bytes(&signature.0)).map_err(|_| SignatureError::Mismatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More keys than have room on a shelf take turns in it, and none is taken for another.
    #[test]
    fn keys_that_share_a_shelf_are_told_apart() {
        let first = SecretKey::from_seed(&[7; 32]);
        let others = (0u32..).map(|number| SecretKey::from_seed(blake3::hash(&number.to_le_bytes()).as_bytes()));
        let beside = others.filter(|key| shelf_of(&key.public()) == shelf_of(&first.public())).take(SHELF);
        let keys: Vec<SecretKey> = beside.chain([first.clone()]).collect();
        for key in keys.iter().chain(keys.iter().rev()) {
            let signature = key.sign(b"text");
            for other in &keys {
                let right = other.public() == key.public();
                let expected = if right { Ok(()) } else { Err(SignatureError::Mismatch) };
                assert_eq!(verify(&other.public(), b"text", &signature), expected);
            }
        }
    }

    #[test]
    fn keys_that_nobody_can_hold_are_told() {
        assert!(is_usable(&SecretKey::from_seed(&[7; 32]).public()));
        assert!(!is_usable(&[0; 32]), "of small order");
        let usable = (1..=255).filter(|byte| is_usable(&[*byte; 32])).count();
        assert!((50..200).contains(&usable), "about every second text of 32 bytes is a point: {usable} of 255");
    }

    #[test]
    fn only_the_key_that_signed_verifies() {
        let key = SecretKey::from_seed(&[7; 32]);
        let signature = key.sign(b"message");
        assert_eq!(verify(&key.public(), b"message", &signature), Ok(()));
        assert_eq!(verify(&key.public(), b"massage", &signature), Err(SignatureError::Mismatch));
        assert_eq!(verify(&key.derive("other").public(), b"message", &signature), Err(SignatureError::Mismatch));
        let bytes = crate::codec::encode(&signature);
        assert_eq!(crate::codec::decode::<Signature>(&bytes, 128), Ok(signature));
    }
}
