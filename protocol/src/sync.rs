//! Anti-entropy: two nodes make their sets of records equal, over a `/barn/sync/1` stream.
//!
//! The opener sends [`Frame::Open`] with the network, its cut and its first [`Turn`]; then both answer each other's
//! turns, one frame each (`u32` little-endian length, then the codec's bytes), until the opener sees that neither has
//! anything left and closes. A turn compares ranges of record ids: a range whose fingerprints differ is split until few
//! ids remain, which are then listed; so the cost grows with the difference and with the logarithm of the set.
//!
//! Both sides leave out what expires before the opener's cut (its now plus [`CUT_AHEAD`]): without that, two nodes that
//! forget at different moments would send each other dying records for ever.
//!
//! [`Session`] is the state machine of either side. It holds ids only; whoever drives it looks the records up.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bounded::{BoundedBytes, BoundedVec};
use crate::id::{NetworkId, RecordId};
use crate::record::RECORD_BYTES_MAX;
use crate::time::Timestamp;

/// The name under which streams of this protocol are opened.
pub const SYNC_PROTOCOL: &str = "/barn/sync/1";
/// The most bytes of one frame.
pub const SYNC_FRAME_BYTES_MAX: usize = 64 << 10;
/// The cut is this far ahead of the opener's clock (DESIGN section 5).
pub const CUT_AHEAD: Duration = Duration::from_secs(60);

/// Ranges with up to this many ids are listed, larger ones are compared by fingerprint.
const LEAF_IDS: usize = 32;
/// A range that differs is cut into this many.
const SPLIT: usize = 16;
/// The most ids that a listed range may hold.
const IDS_MAX: usize = 2 * LEAF_IDS;
/// The most ranges in a turn.
const ENTRIES_MAX: usize = 256;
/// The most ids asked for in a turn.
const WANTS_MAX: usize = 512;
/// The most records in a turn.
const RECORDS_MAX: usize = 1024;
/// The most turns that a session takes; a joiner of a network with 200,000 large records needs half of it.
const TURNS_MAX: usize = 1 << 15;
/// The most records that a session takes from its peer.
const SESSION_RECORDS_MAX: usize = 1 << 19;
/// The most ranges that wait to be compared; an honest peer leads to a few thousand.
const QUEUE_MAX: usize = 1 << 16;
/// Room in a frame for what surrounds the contents of a turn.
const FRAME_OVERHEAD: usize = 256;

const FINGERPRINT_CONTEXT: &str = "barnraiser 2026 sync fingerprint v1";

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
    /// Ranges to compare.
    entries: BoundedVec<Entry, ENTRIES_MAX>,
    /// Records that the sender lacks.
    wants: BoundedVec<RecordId, WANTS_MAX>,
    /// Records that the receiver lacks.
    records: BoundedVec<BoundedBytes<RECORD_BYTES_MAX>, RECORDS_MAX>,
    /// Whether the sender has nothing left but to answer.
    finished: bool,
}

/// A range of ids, both ends included, and what the sender has in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    first: RecordId,
    last: RecordId,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Content {
    /// BLAKE3 of the ids, in order.
    Fingerprint([u8; 32]),
    /// The ids themselves, in order.
    Ids(BoundedVec<RecordId, IDS_MAX>),
}

/// What a peer did that the protocol does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyncFault {
    /// A range whose end is before its begin, or ids out of order or out of their range.
    #[error("a malformed range of record ids")]
    Range,
    /// More turns than any honest exchange takes.
    #[error("more than {TURNS_MAX} turns")]
    Turns,
    /// More records or ranges than a session may bring.
    #[error("more records or ranges than a session may bring")]
    Flood,
}

/// One side of an exchange.
#[derive(Debug)]
pub struct Session {
    /// Own ids, sorted.
    own: Vec<RecordId>,
    entries: VecDeque<Entry>,
    wants: VecDeque<RecordId>,
    to_send: VecDeque<RecordId>,
    /// Records already looked up that did not fit the last frame.
    looked_up: VecDeque<Vec<u8>>,
    /// What was sent or is in line for it: nothing is sent twice, however often it is asked for.
    promised: BTreeSet<RecordId>,
    turns: usize,
    received: usize,
    peer_finished: bool,
}

impl Session {
    /// The opener's side, with the ids of its records that expire at the cut or later.
    pub fn open(own: Vec<RecordId>) -> Self {
        let mut session = Self::answer(own);
        let whole = (RecordId([0; 32]), RecordId([255; 32]));
        session.entries.push_back(session.describe(whole.0, whole.1));
        session
    }

    /// The other side, with the ids of its records that expire at the opener's cut or later.
    pub fn answer(mut own: Vec<RecordId>) -> Self {
        own.sort_unstable();
        own.dedup();
        Self {
            own,
            entries: VecDeque::new(),
            wants: VecDeque::new(),
            to_send: VecDeque::new(),
            looked_up: VecDeque::new(),
            promised: BTreeSet::new(),
            turns: 0,
            received: 0,
            peer_finished: false,
        }
    }

    /// Takes the peer's turn and returns the records that it brought, as received and unchecked.
    ///
    /// # Errors
    /// [`SyncFault`]: the peer is to blame, the session is over.
    pub fn handle(&mut self, turn: Turn) -> Result<Vec<Vec<u8>>, SyncFault> {
        self.turns += 1;
        if self.turns > TURNS_MAX {
            return Err(SyncFault::Turns);
        }
        self.received += turn.records.len();
        if self.received > SESSION_RECORDS_MAX || self.entries.len() + turn.entries.len() * SPLIT > QUEUE_MAX {
            return Err(SyncFault::Flood);
        }
        for entry in turn.entries.into_inner() {
            self.compare(entry)?;
        }
        // A peer can name ids faster than they are asked for, but no more of them than it may then send.
        if self.wants.len() > SESSION_RECORDS_MAX {
            return Err(SyncFault::Flood);
        }
        for id in turn.wants.iter() {
            if self.own.binary_search(id).is_ok() {
                self.promise(*id);
            }
        }
        self.peer_finished = turn.finished;
        Ok(turn.records.into_inner().into_iter().map(BoundedVec::into_inner).collect())
    }

    /// The next turn of this side. `records` gives the bytes of some of the ids asked for, in any order; ids that it
    /// no longer has are left out.
    pub fn turn(&mut self, mut records: impl FnMut(&[RecordId]) -> Vec<Vec<u8>>) -> Turn {
        let mut room = SYNC_FRAME_BYTES_MAX - FRAME_OVERHEAD;
        let mut turn = Turn::default();
        let entries = take(&mut self.entries, ENTRIES_MAX, &mut room, |entry| match &entry.content {
            Content::Fingerprint(_) => 64 + 4 + 32,
            Content::Ids(ids) => 64 + 4 + 8 + 32 * ids.len(),
        });
        let wants = take(&mut self.wants, WANTS_MAX, &mut room, |_| 32);
        let mut sent = Vec::new();
        loop {
            if self.looked_up.is_empty() && !self.to_send.is_empty() {
                let batch: Vec<RecordId> = self.to_send.drain(..self.to_send.len().min(LEAF_IDS)).collect();
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
        turn.entries = entries.try_into().unwrap_or_default();
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
        self.entries.is_empty() && self.wants.is_empty() && self.to_send.is_empty() && self.looked_up.is_empty()
    }

    fn promise(&mut self, id: RecordId) {
        if self.promised.insert(id) {
            self.to_send.push_back(id);
        }
    }

    fn own_in(&self, first: RecordId, last: RecordId) -> &[RecordId] {
        let from = self.own.partition_point(|id| *id < first);
        let to = self.own.partition_point(|id| *id <= last);
        &self.own[from..to.max(from)]
    }

    fn describe(&self, first: RecordId, last: RecordId) -> Entry {
        let ids = self.own_in(first, last);
        let content = if ids.len() <= LEAF_IDS {
            // A leaf's ids are fewer than the bound.
            Content::Ids(ids.to_vec().try_into().unwrap_or_default())
        } else {
            Content::Fingerprint(fingerprint(ids))
        };
        Entry { first, last, content }
    }

    fn compare(&mut self, entry: Entry) -> Result<(), SyncFault> {
        let Entry { first, last, content } = entry;
        if first > last {
            return Err(SyncFault::Range);
        }
        match content {
            Content::Fingerprint(theirs) => {
                let own = self.own_in(first, last);
                if fingerprint(own) == theirs {
                    return Ok(());
                }
                if own.len() <= LEAF_IDS {
                    let entry = self.describe(first, last);
                    self.entries.push_back(entry);
                    return Ok(());
                }
                let starts: Vec<RecordId> = own.chunks(own.len().div_ceil(SPLIT)).map(|chunk| chunk[0]).collect();
                let mut from = first;
                for next in starts.into_iter().skip(1) {
                    let entry = self.describe(from, before(next));
                    self.entries.push_back(entry);
                    from = next;
                }
                let entry = self.describe(from, last);
                self.entries.push_back(entry);
            }
            Content::Ids(theirs) => {
                if !theirs.is_sorted_by(|a, b| a < b) || theirs.iter().any(|id| *id < first || *id > last) {
                    return Err(SyncFault::Range);
                }
                let own = self.own_in(first, last).to_vec();
                self.wants.extend(theirs.iter().filter(|id| own.binary_search(id).is_err()));
                for id in own {
                    if theirs.binary_search(&id).is_err() {
                        self.promise(id);
                    }
                }
            }
        }
        Ok(())
    }
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

fn fingerprint(ids: &[RecordId]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(FINGERPRINT_CONTEXT);
    for id in ids {
        hasher.update(&id.0);
    }
    *hasher.finalize().as_bytes()
}

/// The id before `id`, which is not the first of all (it comes after another one).
fn before(mut id: RecordId) -> RecordId {
    for byte in id.0.iter_mut().rev() {
        let (less, borrow) = byte.overflowing_sub(1);
        *byte = less;
        if !borrow {
            break;
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::codec;

    type Set = BTreeMap<RecordId, Vec<u8>>;

    fn record(number: u32) -> (RecordId, Vec<u8>) {
        let hash = blake3::hash(&number.to_le_bytes());
        let length = 40 + number as usize % 900;
        (RecordId(*hash.as_bytes()), hash.as_bytes().iter().copied().cycle().take(length).collect())
    }

    fn set(numbers: impl IntoIterator<Item = u32>) -> Set {
        numbers.into_iter().map(record).collect()
    }

    /// Takes a turn over the wire, as bytes.
    fn carry(turn: Turn) -> (Turn, usize) {
        let bytes = codec::encode(&Frame::Turn(turn));
        match codec::decode(&bytes, SYNC_FRAME_BYTES_MAX) {
            Ok(Frame::Turn(turn)) => (turn, bytes.len()),
            other => panic!("{other:?}"),
        }
    }

    /// Runs both sides to the end; the bytes that travelled, and the turns.
    fn exchange(left: &mut Set, right: &mut Set) -> (usize, usize) {
        let mut opener = Session::open(left.keys().copied().collect());
        let mut answerer = Session::answer(right.keys().copied().collect());
        let (before_left, before_right) = (left.clone(), right.clone());
        let find = |set: &Set, ids: &[RecordId]| ids.iter().filter_map(|id| set.get(id).cloned()).collect::<Vec<_>>();
        let (mut bytes, mut turns) = (0, 0);
        loop {
            let (turn, size) = carry(opener.turn(|ids| find(&before_left, ids)));
            right.extend(answerer.handle(turn).unwrap().into_iter().map(|r| (RecordId(r[..32].try_into().unwrap()), r)));
            let (turn, back) = carry(answerer.turn(|ids| find(&before_right, ids)));
            left.extend(opener.handle(turn).unwrap().into_iter().map(|r| (RecordId(r[..32].try_into().unwrap()), r)));
            bytes += size + back;
            turns += 2;
            if opener.is_finished() {
                return (bytes, turns);
            }
            assert!(turns < 100_000, "no end");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Any two sets become their union, on both sides.
        #[test]
        fn any_two_sets_converge_to_their_union(
            common in proptest::collection::btree_set(0u32..5000, 0..600),
            left_only in proptest::collection::btree_set(5000u32..10_000, 0..300),
            right_only in proptest::collection::btree_set(10_000u32..15_000, 0..300),
        ) {
            let mut left = set(common.iter().chain(&left_only).copied());
            let mut right = set(common.iter().chain(&right_only).copied());
            let union = set(common.iter().chain(&left_only).chain(&right_only).copied());
            exchange(&mut left, &mut right);
            prop_assert_eq!(left.len(), union.len());
            prop_assert!(left == union && right == union);
        }

        /// Hostile turns are refused or answered; they never panic.
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Frame::Turn(turn)) = codec::decode(&bytes, SYNC_FRAME_BYTES_MAX) {
                let mut session = Session::answer((0..100).map(|n| record(n).0).collect());
                let _ = session.handle(turn);
                session.turn(|_| vec![vec![0; RECORD_BYTES_MAX + 1]]);
            }
        }
    }

    /// A late joiner gets everything; large records fill frames and never overflow one.
    #[test]
    fn empty_set_learns_all() {
        let mut left = Set::new();
        let mut right: Set = (0..500)
            .map(|number| {
                let (id, _) = record(number);
                (id, id.0.iter().copied().cycle().take(RECORD_BYTES_MAX).collect())
            })
            .collect();
        exchange(&mut left, &mut right);
        assert_eq!(left.len(), 500);
        let mut left = set(0..10_000);
        let mut right = Set::new();
        exchange(&mut left, &mut right);
        assert_eq!(right.len(), 10_000);
    }

    #[test]
    fn cost_grows_with_the_difference_not_with_the_set() {
        let (mut left, mut right) = (set(0..20_000), set(0..20_000));
        let (bytes, turns) = exchange(&mut left, &mut right);
        assert!(bytes < 500 && turns == 2, "equal sets: {bytes} bytes in {turns} turns");
        right.extend([record(20_001)]);
        let (bytes, turns) = exchange(&mut left, &mut right);
        assert!(bytes < 20_000 && turns <= 12, "one more of 20,000: {bytes} bytes in {turns} turns");
        assert_eq!(left.len(), 20_001);
    }

    #[test]
    fn malformed_ranges_are_the_peers_fault() {
        let entry = |first: u8, last: u8, ids: &[u8]| Entry {
            first: RecordId([first; 32]),
            last: RecordId([last; 32]),
            content: Content::Ids(ids.iter().map(|n| RecordId([*n; 32])).collect::<Vec<_>>().try_into().unwrap()),
        };
        for bad in [entry(2, 1, &[]), entry(0, 9, &[3, 2]), entry(0, 9, &[3, 3]), entry(0, 2, &[3])] {
            let turn = Turn { entries: vec![bad].try_into().unwrap(), ..Turn::default() };
            assert_eq!(Session::answer(Vec::new()).handle(turn), Err(SyncFault::Range));
        }
    }

    /// A peer that names more and more ids is let go before they fill the memory.
    #[test]
    fn endless_ids_are_a_flood() {
        let mut session = Session::answer(Vec::new());
        let mut number = 0u32;
        loop {
            let entry = || {
                let mut ids: Vec<RecordId> = (number..number + 64).map(|n| record(n).0).collect();
                ids.sort_unstable();
                number += 64;
                Entry { first: RecordId([0; 32]), last: RecordId([255; 32]), content: Content::Ids(ids.try_into().unwrap()) }
            };
            let entries: Vec<Entry> = std::iter::repeat_with(entry).take(30).collect();
            let turn = Turn { entries: entries.try_into().unwrap(), ..Turn::default() };
            match session.handle(turn) {
                Ok(_) => session.turn(|_| Vec::new()),
                Err(fault) => break assert_eq!(fault, SyncFault::Flood),
            };
            assert!(session.wants.len() <= SESSION_RECORDS_MAX);
        }
    }

    /// Asking again and again for the same record costs its owner one sending.
    #[test]
    fn nothing_is_sent_twice() {
        let (id, bytes) = record(1);
        let mut session = Session::answer(vec![id]);
        let turn = Turn { wants: vec![id; 8].try_into().unwrap(), ..Turn::default() };
        session.handle(turn.clone()).unwrap();
        session.handle(turn).unwrap();
        assert_eq!(session.turn(|ids| vec![bytes.clone(); ids.len()]).records.len(), 1);
    }
}
