//! Anti-entropy: two nodes make their sets of records equal, over a `/barn/sync/2` stream.
//!
//! The opener sends [`Frame::Open`] with the network, its cut and its first [`Turn`]; then both answer each other's
//! turns, one frame each (`u32` little-endian length, then the codec's bytes), until the opener sees that neither has
//! anything left and closes. What differs is found by negentropy (range-based set reconciliation: fingerprints of ranges,
//! of which those that differ are split until few ids remain), whose messages travel in the turns beside the records; so
//! the bytes grow with the difference and with the logarithm of the set. Only the opener learns what differs: it sends
//! what the other lacks and asks for what itself lacks.
//!
//! Both sides leave out what expires before the opener's cut (its now plus [`CUT_AHEAD`]): without that, two nodes that
//! forget at different moments would send each other dying records for ever.
//!
//! [`Session`] is the state machine of either side. It holds ids only; [`ItemSet`] is what it compares, which may change
//! between two turns, and whoever drives it looks the records up.

mod items;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use negentropy::{Id, Negentropy};
use serde::{Deserialize, Serialize};

use crate::bounded::{BoundedBytes, BoundedVec};
use crate::id::{NetworkId, RecordId};
use crate::record::RECORD_BYTES_MAX;
use crate::time::Timestamp;

pub use items::{ItemKey, ItemSet, Window};

/// The name under which streams of this protocol are opened.
pub const SYNC_PROTOCOL: &str = "/barn/sync/2";
/// The most bytes of one frame.
pub const SYNC_FRAME_BYTES_MAX: usize = 64 << 10;
/// The cut is this far ahead of the opener's clock (DESIGN section 5).
pub const CUT_AHEAD: Duration = Duration::from_secs(60);

/// The most bytes of a message of negentropy: half a frame, so that records keep flowing beside it.
const MESSAGE_BYTES_MAX: usize = 32 << 10;
/// The most ids asked for in a turn.
const WANTS_MAX: usize = 512;
/// The most ids that may have been asked for and not been answered: enough to fill the frames of a few turns.
const ASKED_MAX: usize = 4 * WANTS_MAX;
/// The most records in a turn.
const RECORDS_MAX: usize = 1024;
/// How many records are looked up at once.
const LOOK_UP: usize = 32;
/// The most turns that a session takes; a joiner of a network with 200,000 large records needs half of it.
const TURNS_MAX: usize = 1 << 15;
/// The most records that a session takes from its peer.
const SESSION_RECORDS_MAX: usize = 1 << 19;
/// Room in a frame for what surrounds the contents of a turn.
const FRAME_OVERHEAD: usize = 256;

/// What is sent on a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// The first frame of the opener.
    Open {
        /// Whose records.
        network: NetworkId,
        /// What expires before is left out by both.
        cut: Timestamp,
        /// The opener's first turn.
        turn: Turn,
    },
    /// Every other frame.
    Turn(Turn),
    /// Instead of the first answer.
    Refused(Refusal),
}

/// Why a session was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The asked node is no member of the network.
    #[error("it is not a member of the network")]
    UnknownNetwork,
    /// It is in too many other sessions.
    #[error("it is busy with other peers")]
    Busy,
}

/// One step of one side.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Turn {
    /// A message of negentropy: the opener's question, or the answer to it.
    message: Option<BoundedBytes<MESSAGE_BYTES_MAX>>,
    /// Records that the opener lacks; the other side asks for nothing.
    wants: BoundedVec<RecordId, WANTS_MAX>,
    /// Records that the receiver lacks.
    records: BoundedVec<BoundedBytes<RECORD_BYTES_MAX>, RECORDS_MAX>,
    /// Whether the sender has nothing left but to answer.
    finished: bool,
}

/// What a peer did that the protocol does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyncFault {
    /// Not a message of negentropy, or one that does not follow from those before.
    #[error("a malformed message: {0}")]
    Message(String),
    /// A message or a wish of the side to which it does not belong.
    #[error("a message out of turn")]
    OutOfTurn,
    /// More turns than any honest exchange takes.
    #[error("more than {TURNS_MAX} turns")]
    Turns,
    /// More records or ids than a session may bring, or than were asked for.
    #[error("more records or ids than a session may bring")]
    Flood,
}

impl From<negentropy::Error> for SyncFault {
    fn from(error: negentropy::Error) -> Self {
        Self::Message(error.to_string())
    }
}

/// One side of an exchange.
#[derive(Debug)]
pub struct Session {
    is_opener: bool,
    /// To be sent with the next turn.
    message: Option<Vec<u8>>,
    /// The opener's: it has asked and was not answered yet.
    awaits: bool,
    wants: VecDeque<RecordId>,
    /// What was ever wanted: changes of the sets in between can make negentropy name an id twice.
    wanted: BTreeSet<RecordId>,
    /// Ids asked for of which nothing came yet.
    asked: usize,
    to_send: VecDeque<RecordId>,
    /// Records already looked up that did not fit the last frame.
    looked_up: VecDeque<Vec<u8>>,
    /// What was in line to be sent: nothing is sent twice, however often it is asked for.
    promised: BTreeSet<RecordId>,
    turns: usize,
    received: usize,
    peer_finished: bool,
}

impl Session {
    fn new(is_opener: bool) -> Self {
        Self {
            is_opener,
            message: None,
            awaits: false,
            wants: VecDeque::new(),
            wanted: BTreeSet::new(),
            asked: 0,
            to_send: VecDeque::new(),
            looked_up: VecDeque::new(),
            promised: BTreeSet::new(),
            turns: 0,
            received: 0,
            peer_finished: false,
        }
    }

    /// The opener's side, with what it has from its cut on.
    ///
    /// # Errors
    /// [`SyncFault::Message`] only where the window breaks its own rules.
    pub fn open(window: &Window<'_>) -> Result<Self, SyncFault> {
        let mut session = Self::new(true);
        session.message = Some(negentropy(window)?.initiate()?);
        Ok(session)
    }

    /// The other side.
    pub fn answer() -> Self {
        Self::new(false)
    }

    /// Takes the peer's turn and returns the records that it brought, as received and unchecked. `window` is what this
    /// side has now, from the opener's cut on.
    ///
    /// # Errors
    /// [`SyncFault`]: the peer is to blame, the session is over.
    pub fn handle(&mut self, turn: Turn, window: &Window<'_>) -> Result<Vec<Vec<u8>>, SyncFault> {
        self.turns += 1;
        if self.turns > TURNS_MAX {
            return Err(SyncFault::Turns);
        }
        self.received += turn.records.len();
        if self.received > SESSION_RECORDS_MAX {
            return Err(SyncFault::Flood);
        }
        self.asked = if turn.finished { 0 } else { self.asked.saturating_sub(turn.records.len()) };
        if let Some(message) = turn.message {
            self.compare(&message, window)?;
        }
        if self.is_opener && !turn.wants.is_empty() {
            return Err(SyncFault::OutOfTurn);
        }
        for id in turn.wants.iter() {
            self.promise(*id);
        }
        // The opener's own line is as long as its set; the other's is what it was asked for.
        if !self.is_opener && self.to_send.len() > ASKED_MAX {
            return Err(SyncFault::Flood);
        }
        self.peer_finished = turn.finished;
        Ok(turn.records.into_inner().into_iter().map(BoundedBytes::into_inner).collect())
    }

    fn compare(&mut self, message: &[u8], window: &Window<'_>) -> Result<(), SyncFault> {
        let mut negentropy = negentropy(window)?;
        if !self.is_opener {
            self.message = Some(negentropy.reconcile(message)?);
            return Ok(());
        }
        if !std::mem::take(&mut self.awaits) {
            return Err(SyncFault::OutOfTurn);
        }
        negentropy.set_initiator();
        let (mut have, mut need) = (Vec::new(), Vec::new());
        self.message = negentropy.reconcile_with_ids(message, &mut have, &mut need)?;
        // They come in the order of a hash table, which is another one in every run.
        need.sort_unstable_by(|one: &Id, other| one.as_bytes().cmp(other.as_bytes()));
        for id in have {
            self.promise(RecordId(id.to_bytes()));
        }
        for id in need {
            let id = RecordId(id.to_bytes());
            if self.wanted.insert(id) {
                self.wants.push_back(id);
            }
        }
        // A peer can name ids faster than they are asked for, but no more of them than it may then send.
        if self.wanted.len() > SESSION_RECORDS_MAX { Err(SyncFault::Flood) } else { Ok(()) }
    }

    /// The next turn of this side. `records` gives the bytes of some of the ids asked for, in any order; ids that it
    /// no longer has are left out.
    pub fn turn(&mut self, mut records: impl FnMut(&[RecordId]) -> Vec<Vec<u8>>) -> Turn {
        let mut room = SYNC_FRAME_BYTES_MAX - FRAME_OVERHEAD;
        let mut turn = Turn::default();
        if let Some(message) = self.message.take().and_then(|message| BoundedBytes::try_from(message).ok()) {
            room -= message.len();
            turn.message = Some(message);
            self.awaits = self.is_opener;
        }
        let may_ask = WANTS_MAX.min(ASKED_MAX - self.asked.min(ASKED_MAX));
        let wants = take(&mut self.wants, may_ask, &mut room, |_| 32);
        self.asked += wants.len();
        let mut sent = Vec::new();
        loop {
            if self.looked_up.is_empty() && !self.to_send.is_empty() {
                let batch: Vec<RecordId> = self.to_send.drain(..self.to_send.len().min(LOOK_UP)).collect();
                // Too large ones could not have been received and cannot be sent.
                self.looked_up.extend(records(&batch).into_iter().filter(|bytes| bytes.len() <= RECORD_BYTES_MAX));
                continue;
            }
            let more = take(&mut self.looked_up, RECORDS_MAX - sent.len(), &mut room, |bytes| 8 + bytes.len());
            if more.is_empty() {
                break;
            }
            sent.extend(more.into_iter().filter_map(|bytes| BoundedBytes::try_from(bytes).ok()));
        }
        // `take` keeps the bounds, so none of these conversions can fail.
        turn.wants = wants.try_into().unwrap_or_default();
        turn.records = sent.try_into().unwrap_or_default();
        turn.finished = self.is_idle();
        turn
    }

    /// Whether neither side has anything left: the opener then closes instead of taking another turn.
    pub fn is_finished(&self) -> bool {
        self.peer_finished && self.is_idle()
    }

    fn is_idle(&self) -> bool {
        let talked = self.message.is_none() && !self.awaits && self.asked == 0;
        talked && self.wants.is_empty() && self.to_send.is_empty() && self.looked_up.is_empty()
    }

    fn promise(&mut self, id: RecordId) {
        if self.promised.len() < SESSION_RECORDS_MAX && self.promised.insert(id) {
            self.to_send.push_back(id);
        }
    }
}

fn negentropy<'a>(window: &'a Window<'a>) -> Result<Negentropy<'a, Window<'a>>, negentropy::Error> {
    Negentropy::borrowed(window, MESSAGE_BYTES_MAX as u64)
}

/// Moves items from the front of `queue` as long as they fit.
fn take<T>(queue: &mut VecDeque<T>, most: usize, room: &mut usize, size: impl Fn(&T) -> usize) -> Vec<T> {
    let mut taken = Vec::new();
    while taken.len() < most {
        match queue.front().map(&size) {
            Some(bytes) if bytes <= *room => {
                *room -= bytes;
                taken.extend(queue.pop_front());
            }
            _ => break,
        }
    }
    taken
}

#[cfg(test)]
mod tests;
