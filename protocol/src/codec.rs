//! The one place where bytes become types and types become bytes.
//!
//! bincode 2 with fixed-width little-endian integers. Its decoder is lenient (it accepts several spellings of some
//! values and ignores trailing bytes), so every decode checks that all input was consumed and that encoding the value
//! again gives the input back: one value has one spelling, or hashes and signatures would mean nothing.

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

/// The canonical bytes of `value`.
///
/// # Panics
/// Never for our types: bincode only fails for sequences of unknown length and for failing writers, and we have neither.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    match bincode::serde::encode_to_vec(value, bincode::config::standard().with_little_endian().with_fixed_int_encoding()) {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("a protocol type could not be encoded: {error}"),
    }
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
    if encode(&value) != bytes {
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
    if bytes.get(..consumed) != Some(&*encode(&value)) {
        return Err(DecodeError::NotCanonical);
    }
    Ok((value, consumed))
}

/// The value that [`encode`] made `bytes` of, which the caller knows.
pub(crate) fn decode_own<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    bincode::serde::borrow_decode_from_slice(bytes, config()).ok().map(|(value, _)| value)
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

    /// A map out of order would be a second spelling of the same value.
    #[test]
    fn second_spelling_is_refused() {
        use std::collections::BTreeMap;
        let unordered = encode(&vec![(2u8, 0u8), (1, 0)]);
        assert_eq!(decode::<BTreeMap<u8, u8>>(&unordered, 64), Err(DecodeError::NotCanonical));
    }
}
