//! Blob transfer: what travels on a `/barn/blob/2` stream, and which provider is asked for which unit.
//!
//! The opener sends [`Request`]s, each in a frame (`u32` little-endian length, then the codec's bytes) and may send
//! several before the first is answered; answers come in the order of the requests. An answer is a frame with an
//! [`Answer`]; where it says that data follows, bao-encoded bytes of the range come in chunks (`u32` length, then that
//! many bytes) up to [`DATA_END`]. Who asks may say that it takes zstd; the provider then compresses what it likes to, and
//! says so by [`DATA_ZSTD`]. What is not verified by the receiver is worth nothing, so nothing is signed here.
//!
//! Goals: any byte can be checked on arrival; many providers at once; a resumed fetch asks for what is missing only.
//! Not goals: finding providers, order of delivery, secrecy of who asks for what.
//!
//! [`Schedule`] shares the units of one blob out among its providers, without I/O or clock. Whom a node asks, and whom it
//! serves, when all want a blob at once, is [`spread`]. What of a blob is equal to what the asker has, [`chunks`] tells.
//! Who can't be reached gives blobs to holders ([`push`]), which share their room out among those who fill it ([`holding`]);
//! [`keeping`] sees to it that what was released stays on enough of them, and [`preference`] has them asked before homes.

pub mod chunks;
pub mod holding;
pub mod keeping;
pub mod preference;
pub mod push;
pub mod reach;
mod schedule;
pub mod spread;

use serde::{Deserialize, Serialize};

use crate::bounded::BoundedVec;
use crate::id::BlobHash;

pub use schedule::{Next, Schedule};

/// The name under which streams of this protocol are opened.
pub const BLOB_PROTOCOL: &str = "/barn/blob/2";
/// The most bytes of one request or answer frame.
pub const FRAME_BYTES_MAX: usize = 4096;
/// The most bytes of one chunk of data: small enough that several streams share a connection fairly.
pub const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Blobs up to this length go over the control connection, since a new connection costs more than they do.
pub const INLINE_BYTES_MAX: u64 = 256 << 10;
/// The most bytes that one request may ask for: a unit of the store.
pub const GET_BYTES_MAX: u64 = 1 << 20;
/// The chunk length that ends the data of an answer.
pub const DATA_END: u32 = 0;
/// The chunk length that comes first where the data is one zstd frame, which must hold exactly the bytes that would have come
/// without, and be shorter.
pub const DATA_ZSTD: u32 = u32::MAX - 1;
/// The chunk length that says that the provider could not go on (a failing disk): what came before may still be good.
pub const DATA_ABORTED: u32 = u32::MAX;
/// The most ranges that an answer lists of what its sender holds.
pub const HELD_RANGES_MAX: usize = 64;
/// The most pieces of one request: as many as a frame holds.
pub const PIECES_MAX: usize = 250;

/// Bytes `start..end` of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// One behind the last byte.
    pub end: u64,
}

impl ByteRange {
    /// How many bytes; zero where the range is reversed.
    pub const fn length(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
    /// Whether all of `other` lies in this range.
    pub const fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

/// What the opener of a stream asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Do you have this blob, how long is it, and which parts? The data follows at once where all of it is held and
    /// it is no longer than `inline_max` bytes (which may not exceed [`INLINE_BYTES_MAX`]).
    Have {
        /// The blob.
        hash: BlobHash,
        /// The greatest length of a blob that the asker wants with the answer; zero for none.
        inline_max: u32,
    },
    /// Send this range, of [`GET_BYTES_MAX`] bytes at most.
    Get {
        /// The blob.
        hash: BlobHash,
        /// Which bytes.
        range: ByteRange,
        /// Whether the data may be compressed.
        zstd: bool,
    },
    /// Which blob is the chunk list of this one ([`chunks`])? A provider that has none yet makes it, and is [`Answer::Busy`]
    /// where that takes long.
    Chunks {
        /// The blob.
        hash: BlobHash,
    },
    /// Send these bytes, all within [`GET_BYTES_MAX`], one after the other and without proof: the asker proves what it puts
    /// together of them.
    Pieces {
        /// The blob.
        hash: BlobHash,
        /// Which bytes: in order, none twice, none empty.
        ranges: BoundedVec<ByteRange, PIECES_MAX>,
        /// Whether the data may be compressed.
        zstd: bool,
    },
}

impl Request {
    /// Whether the asker takes compressed data.
    pub const fn takes_zstd(&self) -> bool {
        matches!(self, Self::Get { zstd: true, .. } | Self::Pieces { zstd: true, .. })
    }

    /// The blob that is asked for.
    pub const fn hash(&self) -> &BlobHash {
        match self {
            Self::Have { hash, .. } | Self::Get { hash, .. } | Self::Chunks { hash } | Self::Pieces { hash, .. } => hash,
        }
    }
}

/// What a provider answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is here.
    Found {
        /// The blob's length in bytes. A claim: only the blob's last bytes prove it.
        length: u64,
        /// Which parts are here.
        held: Held,
        /// Whether data follows.
        data: bool,
    },
    /// Not here, or not the asked range.
    NotFound,
    /// Here perhaps, but too many others are served now.
    Busy,
    /// Not for you, or not over this connection.
    Refused,
    /// The blob's chunk list is this blob, which is here.
    Chunks {
        /// The list.
        list: BlobHash,
        /// The list's length in bytes.
        length: u64,
    },
}

/// Which parts of a blob a provider has, verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// Every byte.
    All,
    /// These ranges at least, in order.
    Ranges(BoundedVec<ByteRange, HELD_RANGES_MAX>),
}

impl Held {
    /// Whether all of `range` is here.
    pub fn covers(&self, range: &ByteRange) -> bool {
        match self {
            Self::All => true,
            Self::Ranges(ranges) => ranges.iter().any(|held| held.covers(range)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    /// The largest of each fit their frame, so that a receiver's limit never meets an honest sender.
    #[test]
    fn every_request_and_answer_fits_its_frame() {
        let hash = BlobHash([255; 32]);
        let range = ByteRange { start: u64::MAX - 1, end: u64::MAX };
        let ranges = BoundedVec::try_from(vec![range; HELD_RANGES_MAX]).unwrap();
        let answer = Answer::Found { length: u64::MAX, held: Held::Ranges(ranges), data: true };
        assert!(codec::encode(&answer).len() <= FRAME_BYTES_MAX);
        let pieces = BoundedVec::try_from(vec![range; PIECES_MAX]).unwrap();
        let chunks = Answer::Chunks { list: hash, length: u64::MAX };
        assert!(codec::encode(&chunks).len() <= FRAME_BYTES_MAX);
        for request in [
            Request::Have { hash, inline_max: u32::MAX },
            Request::Get { hash, range, zstd: true },
            Request::Chunks { hash },
            Request::Pieces { hash, ranges: pieces, zstd: true },
        ] {
            let bytes = codec::encode(&request);
            assert!(bytes.len() <= FRAME_BYTES_MAX);
            assert_eq!(codec::decode::<Request>(&bytes, FRAME_BYTES_MAX), Ok(request));
        }
    }
}
