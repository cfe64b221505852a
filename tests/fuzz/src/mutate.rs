//! How inputs are changed: what an enemy with a good message at hand would do to it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// A source of choices; the same seed makes the same ones.
pub struct Dice(ChaCha8Rng);

/// Numbers that are borders of something.
const BORDERS: [u64; 12] = [0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
/// What means something in the formats that people write.
const WORDS: [&str; 22] = [
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'''",
    "\\u0000",
    "\\ud800",
    "=",
    ":",
    ",",
    "\n",
    "#",
    "null",
    "1e999",
    "-1",
    "[[need]]\n",
    "{device}",
    "..",
    "//",
    "barn1",
    "\u{1f600}",
];

impl Dice {
    /// The dice of a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The remainder prefers small numbers by less than 2^-32, which no fuzzer notices.
        usize::try_from(self.0.next_u64() % (bound as u64).max(1)).unwrap_or(0)
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    fn span(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        let long = if self.below(4) == 0 { length - from } else { (length - from).min(16) };
        from..from + self.below(long + 1)
    }

    /// Changes `input` in one to eight ways; `others` are inputs from which pieces may be taken.
    pub fn mutate(&mut self, input: &[u8], others: &[Vec<u8>], most: usize) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..1 << self.below(4) {
            self.change(&mut bytes, others);
        }
        bytes.truncate(most);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        let at = self.below(bytes.len());
        match self.below(11) {
            0 | 1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                let value = self.below(256);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = u8::try_from(value).unwrap_or(0);
                }
            }
            3 => bytes.truncate(at),
            4 => {
                let more = self.below(64);
                bytes.extend((0..more).map(|n| u8::try_from(n).unwrap_or(0)));
            }
            5 => drop(bytes.drain(self.span(bytes.len()))),
            // A length, a count, a number of a variant: numbers of this encoding have 2, 4 or 8 bytes.
            6 | 7 => {
                let border = BORDERS[self.below(BORDERS.len())].to_le_bytes();
                let width = 2 << self.below(3);
                for (byte, new) in bytes.iter_mut().skip(at).zip(border).take(width) {
                    *byte = new;
                }
            }
            8 => {
                let span = self.span(bytes.len());
                let piece = bytes[span].to_vec();
                bytes.splice(at..at, piece);
            }
            9 => {
                let piece = self.pick(others).cloned().unwrap_or_default();
                let (from, to) = (self.span(piece.len()), self.span(bytes.len()));
                bytes.splice(to, piece[from].iter().copied());
            }
            _ => {
                let word = WORDS[self.below(WORDS.len())].as_bytes();
                bytes.splice(at..at, word.iter().copied());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that is printed must be worth something.
    #[test]
    fn same_seed_makes_the_same_inputs_within_the_bound() {
        let inputs = |seed| {
            let mut dice = Dice::new(seed);
            let others = [vec![1; 40], Vec::new()];
            (0..2000).map(|_| dice.mutate(&[7; 60], &others, 80)).collect::<Vec<_>>()
        };
        let made = inputs(5);
        assert_eq!(made, inputs(5));
        assert_ne!(made, inputs(6));
        assert!(made.iter().all(|bytes| bytes.len() <= 80) && made.iter().any(Vec::is_empty));
    }
}
