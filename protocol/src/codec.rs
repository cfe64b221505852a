//! The one place where bytes become types and types become bytes.
//!
//! bincode 2 with fixed-width little-endian integers. Its decoder is lenient (it accepts several spellings of some
//! values and ignores trailing bytes), so every decode checks that all input was consumed and that encoding the value
//! again gives the input back: one value has one spelling, or hashes and signatures would mean nothing.

use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most that any one decode may claim, whatever its caller allows: a graph of 100,000 jobs fits.
const LIMIT_MAX: usize = 64 << 20;

/// Bytes that are not the canonical form of the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the caller allows.
    #[error("{given} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Bytes given.
        given: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not of the wanted form, or truncated.
    #[error("malformed: {0}")]
    Malformed(String),
    /// More bytes than the value needs.
    #[error("{0} bytes behind the end")]
    Trailing(usize),
    /// A second spelling of a value.
    #[error("not the canonical spelling")]
    NotCanonical,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<LIMIT_MAX>()
}

/// For so many bytes room is made at once: nearly all that is encoded is a record, or smaller.
const ROOM: usize = 256;

/// Bytes one behind the other.
struct Appended<'a>(&'a mut Vec<u8>);

impl Writer for Appended<'_> {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// What is left of the bytes that are compared with what is written.
struct Compared<'a>(&'a [u8]);

impl Writer for Compared<'_> {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        match self.0.split_at_checked(bytes.len()) {
            Some((same, rest)) if same == bytes => {
                self.0 = rest;
                Ok(())
            }
            _ => Err(EncodeError::Other("not the same bytes")),
        }
    }
}

/// The canonical bytes of `value`.
///
/// # Panics
/// Never for our types: bincode only fails for sequences of unknown length and for failing writers, and we have neither.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ROOM);
    append(&mut bytes, value);
    bytes
}

/// Appends the canonical bytes of `value`; as [`encode`].
pub(crate) fn append<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    if let Err(error) = bincode::serde::encode_into_writer(value, Appended(bytes), config()) {
        unreachable!("a protocol type could not be encoded: {error}");
    }
}

/// Whether `bytes` are the canonical bytes of `value`; as [`encode`], without keeping what it makes.
fn is_spelled<T: Serialize>(value: &T, bytes: &[u8]) -> bool {
    let mut compared = Compared(bytes);
    bincode::serde::encode_into_writer(value, &mut compared, config()).is_ok() && compared.0.is_empty()
}

/// The value whose canonical form is all of `bytes`, of which there may be `limit` at most.
///
/// # Errors
/// [`DecodeError`] says in which way the bytes are not such a form.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { given: bytes.len(), limit });
    }
    let (value, consumed): (T, usize) =
        bincode::serde::borrow_decode_from_slice(bytes, config()).map_err(|e| DecodeError::Malformed(e.to_string()))?;
    if consumed != bytes.len() {
        return Err(DecodeError::Trailing(bytes.len() - consumed));
    }
    if !is_spelled(&value, bytes) {
        return Err(DecodeError::NotCanonical);
    }
    Ok(value)
}

/// The value whose canonical form `bytes` begin with, and the length of that form.
///
/// # Errors
/// [`DecodeError`] says in which way the bytes do not begin with such a form.
pub fn decode_front<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    let (value, consumed): (T, usize) =
        bincode::serde::borrow_decode_from_slice(bytes, config()).map_err(|e| DecodeError::Malformed(e.to_string()))?;
    if !bytes.get(..consumed).is_some_and(|bytes| is_spelled(&value, bytes)) {
        return Err(DecodeError::NotCanonical);
    }
    Ok((value, consumed))
}

/// The value that [`encode`] made `bytes` of, which the caller knows.
pub(crate) fn decode_own<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    bincode::serde::borrow_decode_from_slice(bytes, config()).ok().map(|(value, _)| value)
}

/// 32 bytes as they are, four words at a time: what serde makes of an array is the same bytes one by one, at five times the
/// cost. Only for this module's encoding, whose integers have a fixed width; text is what serde makes of it.
pub(crate) mod octets {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return bytes.serialize(serializer);
        }
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        words.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        if deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer);
        }
        let words = <[u64; 4]>::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_truncated_and_oversized_are_refused() {
        let bytes = encode(&(7u32, true));
        assert_eq!(decode::<(u32, bool)>(&bytes, 64), Ok((7, true)));
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode::<(u32, bool)>(&longer, 64), Err(DecodeError::Trailing(1)));
        assert!(matches!(decode::<(u32, bool)>(&bytes[..4], 64), Err(DecodeError::Malformed(_))));
        assert!(matches!(decode::<(u32, bool)>(&bytes, 3), Err(DecodeError::TooLarge { .. })));
    }

    /// Words are a faster way to the same bytes, and text does not know of them.
    #[test]
    fn thirty_two_bytes_are_spelled_as_they_are() {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Words(#[serde(with = "octets")] [u8; 32]);
        let bytes: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 7).unwrap_or(0));
        assert_eq!(encode(&Words(bytes)), bytes);
        assert_eq!(encode(&bytes), bytes);
        assert_eq!(decode(&bytes, 64), Ok(Words(bytes)));
        assert!(decode::<Words>(&bytes[..31], 64).is_err());
        assert_eq!(serde_json::to_string(&Words(bytes)).unwrap(), serde_json::to_string(&bytes).unwrap());
        assert_eq!(serde_json::from_str::<Words>(&serde_json::to_string(&bytes).unwrap()).unwrap(), Words(bytes));
    }

    /// A map out of order would be a second spelling of the same value.
    #[test]
    fn second_spelling_is_refused() {
        use std::collections::BTreeMap;
        let unordered = encode(&vec![(2u8, 0u8), (1, 0)]);
        assert_eq!(decode::<BTreeMap<u8, u8>>(&unordered, 64), Err(DecodeError::NotCanonical));
    }
}
