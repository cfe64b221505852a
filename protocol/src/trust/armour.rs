//! Bytes as one word that people can carry: a prefix, then base32 of length ‖ payload ‖ checksum.
//!
//! The length tells a word that was cut off from one that was mistyped, and the checksum covers the prefix, so that a
//! word of one kind never passes for another. Upper-case letters are read too (QR codes are shorter with them).

use data_encoding::{BASE32_NOPAD, Encoding};

/// Bytes of the length in front.
const LENGTH_BYTES: usize = 2;
/// Bytes of the checksum at the end: one in four thousand million mistyped words passes.
const CHECKSUM_BYTES: usize = 4;
/// Domain of the checksum.
const CHECKSUM_DOMAIN: &str = "barnraiser 2026 checksum of a word v1";

/// Why a word can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArmourError {
    /// A letter that base32 doesn't have.
    #[error("{0:?} does not belong in it: only letters a to z and digits 2 to 7 do")]
    Character(char),
    /// Its end is missing.
    #[error("its end is missing: {given} of {wanted} characters are there; copy it whole")]
    Truncated {
        /// Characters behind the prefix.
        given: usize,
        /// Characters that should be there.
        wanted: usize,
    },
    /// The checksum doesn't fit.
    #[error("it is damaged: its checksum does not fit; copy it again")]
    Damaged,
}

const ENCODING: Encoding = BASE32_NOPAD;

/// `payload` as a word. Payloads are below 64 KiB: all that are printed are bounded far below it.
pub(crate) fn print(prefix: &str, payload: &[u8]) -> String {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&checksum(prefix, payload));
    format!("{prefix}{}", ENCODING.encode(&bytes).to_ascii_lowercase())
}

/// The payload of what stands behind the prefix in a word.
pub(crate) fn parse(prefix: &str, rest: &str) -> Result<Vec<u8>, ArmourError> {
    let rest = rest.to_ascii_uppercase();
    if let Some(foreign) = rest.chars().find(|c| !matches!(c, 'A'..='Z' | '2'..='7')) {
        return Err(ArmourError::Character(foreign.to_ascii_lowercase()));
    }
    // The first eight characters are five bytes, whatever follows.
    let head = rest.get(..8).ok_or(ArmourError::Truncated { given: rest.len(), wanted: 8 })?;
    let head = ENCODING.decode(head.as_bytes()).map_err(|_| ArmourError::Damaged)?;
    let length = usize::from(u16::from_le_bytes([head[0], head[1]]));
    let wanted = ((LENGTH_BYTES + length + CHECKSUM_BYTES) * 8).div_ceil(5);
    if rest.len() < wanted {
        return Err(ArmourError::Truncated { given: rest.len(), wanted });
    }
    let bytes = ENCODING.decode(rest.as_bytes()).map_err(|_| ArmourError::Damaged)?;
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(ArmourError::Damaged)?;
    let payload = body.get(LENGTH_BYTES..).ok_or(ArmourError::Damaged)?;
    if payload.len() != length || *sum != checksum(prefix, payload) {
        return Err(ArmourError::Damaged);
    }
    Ok(payload.to_vec())
}

fn checksum(prefix: &str, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut material = prefix.as_bytes().to_vec();
    material.push(0);
    material.extend_from_slice(payload);
    let [a, b, c, d, ..] = blake3::derive_key(CHECKSUM_DOMAIN, &material);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is printed is read, in either case; every cut is called a cut.
    #[test]
    fn words_survive_and_cuts_are_noticed() {
        for length in 0..80u8 {
            let payload: Vec<u8> = (0..length).collect();
            let word = print("x1", &payload);
            let rest = word.strip_prefix("x1").unwrap();
            assert_eq!(parse("x1", rest).unwrap(), payload);
            assert_eq!(parse("x1", &rest.to_ascii_uppercase()).unwrap(), payload);
            for end in 0..rest.len() {
                assert!(matches!(parse("x1", &rest[..end]), Err(ArmourError::Truncated { .. })), "{length} {end}");
            }
            assert_eq!(parse("x1", &format!("{rest}aaaaaaaa")), Err(ArmourError::Damaged));
            assert_eq!(parse("y1", rest), Err(ArmourError::Damaged));
        }
    }

    #[test]
    fn every_wrong_letter_is_noticed() {
        let word = print("x1", b"a payload of some length");
        let rest = word.strip_prefix("x1").unwrap();
        for at in 0..rest.len() {
            let mut wrong = rest.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'a' { b'b' } else { b'a' };
            assert!(parse("x1", std::str::from_utf8(&wrong).unwrap()).is_err(), "{at}");
        }
        assert_eq!(parse("x1", "ab1defgh"), Err(ArmourError::Character('1')));
    }
}
