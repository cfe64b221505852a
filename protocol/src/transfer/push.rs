//! What travels on a `/barn/push/1` stream: a node that can't be reached gives its blobs to a holder, which can.
//!
//! The pusher opens the stream, offers blobs, and sends what the holder wants of them; the holder proves every unit before
//! it keeps it and says when a blob would survive a power loss there. In turns:
//!
//! ```text
//! pusher → Offer { blobs, part_of }
//! holder → Wants [Kept | Part(ranges) | No(refusal)]        one for each blob that was offered, in order
//! pusher → Unit { blob, range }, data;  …  ;  Done            any of the wanted units, the last of a blob first
//! holder → Wants […]                                          until nothing is wanted any more; then the next Offer
//! ```
//!
//! A holder that will not go on says `Ended` at any time and closes. Data is chunked and encoded as in `/barn/blob/1`
//! ([`super`]). A push that is cut short is taken up by offering again: what the holder has proven, it does not want.
//! Whoever pushes needs no right to: nothing is believed, and what fills a holder is shared out by [`super::holding`].

use serde::{Deserialize, Serialize};

use super::ByteRange;
use crate::bounded::BoundedVec;
use crate::id::BlobHash;

/// The name under which streams of this protocol are opened. A node that speaks it is a holder.
pub const PUSH_PROTOCOL: &str = "/barn/push/1";
/// The most blobs of one offer: a tree of many small files costs few round trips.
pub const OFFERED_MAX: usize = 32;
/// The most ranges that a holder names of one blob; it wants the rest in the next turn.
pub const WANTED_RANGES_MAX: usize = 32;
/// The most bytes of a frame; the largest lists [`WANTED_RANGES_MAX`] ranges of each of [`OFFERED_MAX`] blobs.
pub const PUSH_FRAME_BYTES_MAX: usize = 32 << 10;

/// A blob that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// The blob.
    pub hash: BlobHash,
    /// Its length in bytes. A claim: only the blob's last bytes prove it.
    pub length: u64,
}

/// What the opener of the stream says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pushed {
    /// These blobs may be had.
    Offer {
        /// The blobs.
        blobs: BoundedVec<Offered, OFFERED_MAX>,
        /// The manifest of the tree that they are files of. Such blobs are found by whoever finds the tree.
        part_of: Option<BlobHash>,
    },
    /// A unit that was wanted; its data follows.
    Unit {
        /// Which of the offered blobs, from 0.
        blob: u8,
        /// Which bytes: a unit of the store.
        range: ByteRange,
    },
    /// No more comes in this turn.
    Done,
}

/// What the holder says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Taken {
    /// What it wants of each blob that was offered, in that order.
    Wants(BoundedVec<Want, OFFERED_MAX>),
    /// It takes nothing more on this stream.
    Ended(PushRefusal),
}

/// What a holder wants of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// Nothing: all of it is there, and survives a power loss.
    Kept,
    /// These ranges, which begin and end where units do.
    Part(BoundedVec<ByteRange, WANTED_RANGES_MAX>),
    /// Nothing, and it is not kept.
    No(PushRefusal),
}

/// Why a holder does not take a blob, or anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
pub enum PushRefusal {
    /// There is no room that is the pusher's to take.
    #[error("it is full, and nothing that others keep there goes for this")]
    Full,
    /// Longer than any blob that it takes.
    #[error("the blob is too large for it")]
    TooLarge,
    /// It takes from members of its networks only.
    #[error("it takes from members of its networks only")]
    NotAMember,
    /// Too many push at this moment, or somebody pushes the same blob.
    #[error("it is busy")]
    Busy,
    /// Sent through a relay.
    #[error("blobs don't travel through relays")]
    Relayed,
    /// What came was not the blob.
    #[error("it was sent wrong bytes")]
    WrongBytes,
    /// Its disk or database fails.
    #[error("it can't write")]
    Failing,
}

impl PushRefusal {
    /// Whether the same offer may be taken a little later.
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::Busy | Self::Full | Self::Failing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn every_frame_of_a_push_fits() {
        let offered = Offered { hash: BlobHash([255; 32]), length: u64::MAX };
        let range = ByteRange { start: u64::MAX - 1, end: u64::MAX };
        let part = Want::Part(BoundedVec::try_from(vec![range; WANTED_RANGES_MAX]).unwrap());
        let offer = Pushed::Offer { blobs: BoundedVec::try_from(vec![offered; OFFERED_MAX]).unwrap(), part_of: Some(BlobHash([1; 32])) };
        for frame in [offer, Pushed::Unit { blob: 255, range }, Pushed::Done] {
            let bytes = codec::encode(&frame);
            assert!(bytes.len() <= PUSH_FRAME_BYTES_MAX, "{}", bytes.len());
            assert_eq!(codec::decode::<Pushed>(&bytes, PUSH_FRAME_BYTES_MAX), Ok(frame));
        }
        let wants = Taken::Wants(BoundedVec::try_from(vec![part; OFFERED_MAX]).unwrap());
        for frame in [wants, Taken::Ended(PushRefusal::WrongBytes)] {
            let bytes = codec::encode(&frame);
            assert!(bytes.len() <= PUSH_FRAME_BYTES_MAX, "{}", bytes.len());
            assert_eq!(codec::decode::<Taken>(&bytes, PUSH_FRAME_BYTES_MAX), Ok(frame));
        }
    }
}
