//! Compressing what is sent, where it pays.
//!
//! It costs processor time of two machines and saves time on the line between them. So it is done only where the asker
//! takes it, where the line is known to be slow (its owner limits it, or the peer was seen to take little), and where a
//! probe of the bytes gets smaller: images are mostly compressed already.

use std::io;

use super::Rates;

/// A line that takes this many bytes a second or more is fast: a core compresses some ten times as much, and a machine
/// that serves so fast has better to do.
const FAST: u64 = 16 << 20;
/// The usual level of zstd; higher ones cost far more than they save here.
const LEVEL: i32 = 3;
/// Pieces of the bytes that are tried first, evenly spread, ...
const PROBES: usize = 4;
/// ... of so many bytes: together a sixteenth of a unit, so that what can't be compressed costs little.
const PROBE_BYTES: usize = 16 << 10;
/// It must get smaller by at least this part, or the other end's time isn't worth it.
const SAVED_DIVISOR: usize = 32;

/// Whether to try it, on a node with these limits and for a peer that took `measured` bytes a second (0: not known).
pub(crate) fn is_slow(rates: &Rates, measured: u64) -> bool {
    let limit = rates.up.into_iter().chain(rates.up_per_peer).min();
    limit.is_some_and(|limit| limit < FAST) || (1..FAST).contains(&measured)
}

/// The bytes compressed; `None` where that does not pay.
pub(crate) fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    // What is short is tried as a whole.
    if bytes.len() > 2 * PROBES * PROBE_BYTES {
        let step = bytes.len() / PROBES;
        let probe: Vec<u8> = (0..PROBES).flat_map(|number| bytes[number * step..].iter().take(PROBE_BYTES)).copied().collect();
        compress(&probe).filter(|packed| pays(packed.len(), probe.len()))?;
    }
    compress(bytes).filter(|packed| pays(packed.len(), bytes.len()))
}

fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut packed = vec![0; zstd_safe::compress_bound(bytes.len())];
    let length = zstd_safe::compress(&mut packed[..], bytes, LEVEL).ok()?;
    packed.truncate(length);
    Some(packed)
}

const fn pays(packed: usize, whole: usize) -> bool {
    packed < whole - whole / SAVED_DIVISOR
}

/// What `packed` holds, which must be exactly `length` bytes. No more memory than that is taken, whatever it says of itself.
///
/// # Errors
/// It is not zstd, or another number of bytes.
pub(crate) fn unpack(packed: &[u8], length: usize) -> io::Result<Vec<u8>> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut bytes = vec![0; length];
    match zstd_safe::decompress(&mut bytes[..], packed) {
        Ok(found) if found == length => Ok(bytes),
        Ok(found) => Err(wrong(format!("{found} bytes instead of {length}"))),
        Err(code) => Err(wrong(zstd_safe::get_error_name(code).to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn text_gets_smaller_and_comes_back_while_noise_is_left_alone() {
        let text: Vec<u8> = (0..1 << 20).map(|at: u32| b"make -C lua linux\n"[at as usize % 18] ^ (at / 9000) as u8).collect();
        let packed = pack(&text).unwrap();
        assert!(packed.len() * 4 < text.len(), "{} bytes", packed.len());
        assert_eq!(unpack(&packed, text.len()).unwrap(), text);
        assert_eq!(pack(&noise(1 << 20)), None);
        assert_eq!(pack(&noise(100)), None);
        assert_eq!(pack(&[]), None);
        // Half and half: the probes see both.
        let mut mixed = noise(1 << 20);
        mixed[..1 << 19].fill(7);
        let packed = pack(&mixed).unwrap();
        assert_eq!(unpack(&packed, mixed.len()).unwrap(), mixed);
    }

    #[test]
    fn a_bomb_and_what_is_short_or_broken_is_refused() {
        let bomb = compress(&vec![0; 256 << 20]).unwrap();
        assert!(bomb.len() < 64 << 10);
        assert!(unpack(&bomb, 1 << 20).is_err());
        let packed = pack(&[5; 10_000]).unwrap();
        assert!(unpack(&packed, 9_999).is_err() && unpack(&packed, 10_001).is_err());
        assert!(unpack(&packed[..packed.len() - 1], 10_000).is_err());
        assert!(unpack(b"no zstd at all", 10_000).is_err() && unpack(&[], 1).is_err());
        let mut flipped = packed;
        let middle = flipped.len() / 2;
        flipped[middle] ^= 255;
        assert!(unpack(&flipped, 10_000).map_or(true, |bytes| bytes != [5; 10_000]));
    }

    #[test]
    fn fast_lines_are_left_alone() {
        let limited = |up, up_per_peer| Rates { up, down: None, up_per_peer };
        assert!(!is_slow(&Rates::default(), 0) && !is_slow(&Rates::default(), 500 << 20));
        assert!(is_slow(&Rates::default(), 2 << 20));
        assert!(is_slow(&limited(Some(1 << 20), None), 0) && is_slow(&limited(None, Some(1 << 20)), 0));
        assert!(!is_slow(&limited(Some(100 << 20), None), 0) && is_slow(&limited(Some(100 << 20), Some(1 << 20)), 0));
    }
}
