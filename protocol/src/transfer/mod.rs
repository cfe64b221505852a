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
//! serves, when all want a blob at once, is [`spread`]; which unit it sends where that is left to it, [`Given`]. What of a blob
//! is equal to what the asker has, [`chunks`] tells.
//! Who can't be reached gives blobs to holders ([`push`]), which share their room out among those who fill it ([`holding`]);
//! [`keeping`] sees to it that what was released stays on enough of them, and [`preference`] has them asked before homes.

pub mod chunks;
mod given;
pub mod holding;
pub mod keeping;
pub mod preference;
pub mod push;
pub mod reach;
mod schedule;
pub mod spread;
mod units;

use serde::{Deserialize, Serialize};

use crate::bounded::BoundedVec;
use crate::id::BlobHash;

pub use given::Given;
pub use schedule::{Next, Schedule};
pub use units::{UNIT_SET_BYTES_MAX, UnitSet};

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
/// What proves a blob's length is the encoding of its end: the last group, which begins at a multiple of this many bytes.
pub const END_BYTES_MAX: u64 = 16 << 10;
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
    /// Do you have this blob, how long is it, and which parts? The whole of it follows at once where all of it is held and
    /// it is no longer than `inline_max` bytes (which may not exceed [`INLINE_BYTES_MAX`]); else its end, if asked for.
    Have {
        /// The blob.
        hash: BlobHash,
        /// The greatest length of a blob that the asker wants with the answer; zero for none.
        inline_max: u32,
        /// Whether the end of the blob is wanted, which proves its length ([`end_of`]).
        end: bool,
    },
    /// As `Have` without data, answered once the asked one has more than `units` units, or does not fetch it any more, or
    /// some seconds later: how one that fetches hears what another one has by now.
    Wait {
        /// The blob.
        hash: BlobHash,
        /// The units that the asker knows to be there.
        units: u64,
    },
    /// Send one of these units: the one that you have sent least often. The one that has everything can so give each unit
    /// once, to whomever, before it gives any of them twice.
    Any {
        /// The blob.
        hash: BlobHash,
        /// Which units.
        wanted: UnitSet,
        /// Whether the data may be compressed.
        zstd: bool,
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
        matches!(self, Self::Any { zstd: true, .. } | Self::Get { zstd: true, .. } | Self::Pieces { zstd: true, .. })
    }

    /// The blob that is asked for.
    pub const fn hash(&self) -> &BlobHash {
        match self {
            Self::Have { hash, .. }
            | Self::Wait { hash, .. }
            | Self::Any { hash, .. }
            | Self::Get { hash, .. }
            | Self::Chunks { hash }
            | Self::Pieces { hash, .. } => hash,
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
        /// What follows.
        data: Data,
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

/// The data behind an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// None.
    Nothing,
    /// The bao encoding of this range.
    Encoded(ByteRange),
    /// The pieces that were asked for, without proof.
    Pieces,
}

/// The range whose encoding proves that a blob has `length` bytes.
pub const fn end_of(length: u64) -> ByteRange {
    ByteRange { start: length.saturating_sub(1) / END_BYTES_MAX * END_BYTES_MAX, end: length }
}

/// Which parts of a blob a provider has, verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// Every byte.
    All,
    /// These units at least.
    Units(UnitSet),
}

impl Held {
    /// Whether all of `range` is here.
    pub fn covers(&self, range: &ByteRange) -> bool {
        match self {
            Self::All => true,
            Self::Units(units) => (range.start / GET_BYTES_MAX..range.end.div_ceil(GET_BYTES_MAX)).all(|unit| units.has(unit)),
        }
    }

    /// How many units are here, as far as is said.
    pub fn count(&self) -> u64 {
        match self {
            Self::All => u64::MAX,
            Self::Units(units) => units.count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn end_of_a_blob_is_its_last_group() {
        let group = END_BYTES_MAX;
        for (length, start) in [(0, 0), (1, 0), (group, 0), (group + 1, group), (7 * group, 6 * group), (7 * group + 5, 7 * group)] {
            assert_eq!(end_of(length), ByteRange { start, end: length });
        }
    }

    /// The largest of each fit their frame, so that a receiver's limit never meets an honest sender.
    #[test]
    fn every_request_and_answer_fits_its_frame() {
        let hash = BlobHash([255; 32]);
        let range = ByteRange { start: u64::MAX - 1, end: u64::MAX };
        let units = UnitSet::new(0..UNIT_SET_BYTES_MAX as u64 * 8);
        let answer = Answer::Found { length: u64::MAX, held: Held::Units(units.clone()), data: Data::Encoded(range) };
        assert!(codec::encode(&answer).len() <= FRAME_BYTES_MAX);
        let pieces = BoundedVec::try_from(vec![range; PIECES_MAX]).unwrap();
        let chunks = Answer::Chunks { list: hash, length: u64::MAX };
        assert!(codec::encode(&chunks).len() <= FRAME_BYTES_MAX);
        for request in [
            Request::Have { hash, inline_max: u32::MAX, end: true },
            Request::Wait { hash, units: u64::MAX },
            Request::Any { hash, wanted: units, zstd: true },
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
