#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::codec;

type Set = BTreeMap<RecordId, Vec<u8>>;

const CUT: Timestamp = Timestamp(1000);

fn record(number: u32) -> (RecordId, Vec<u8>) {
    let hash = blake3::hash(&number.to_le_bytes());
    let length = 40 + number as usize % 900;
    (RecordId(*hash.as_bytes()), hash.as_bytes().iter().copied().cycle().take(length).collect())
}

fn set(numbers: impl IntoIterator<Item = u32>) -> Set {
    numbers.into_iter().map(record).collect()
}

/// When a record is forgotten: the same wherever it is.
fn forgotten(id: &RecordId) -> Timestamp {
    CUT + Duration::from_millis(u64::from(id.0[0]) / 16)
}

fn items(set: &Set) -> ItemSet {
    set.keys().map(|id| (forgotten(id), *id)).collect()
}

/// Takes a turn over the wire, as bytes.
fn carry(turn: Turn) -> (Turn, usize) {
    let bytes = codec::encode(&Frame::Turn(turn));
    match codec::decode(&bytes, SYNC_FRAME_BYTES_MAX) {
        Ok(Frame::Turn(turn)) => (turn, bytes.len()),
        other => panic!("{other:?}"),
    }
}

/// One end of an exchange.
struct End {
    session: Session,
    items: ItemSet,
    records: Set,
}

impl End {
    fn take(&mut self, turn: Turn) {
        for bytes in self.session.handle(turn, &self.items.window(CUT, [])).unwrap() {
            let id = RecordId(bytes[..32].try_into().unwrap());
            self.records.insert(id, bytes);
            self.items.insert((forgotten(&id), id));
        }
    }
    fn turn(&mut self) -> (Turn, usize) {
        let records = &self.records;
        carry(self.session.turn(|ids| ids.iter().filter_map(|id| records.get(id).cloned()).collect()))
    }
}

/// Runs both sides to the end; the bytes that travelled, and the turns.
fn exchange(left: &mut Set, right: &mut Set) -> (usize, usize) {
    exchange_while(left, right, |_, _, _| ())
}

/// The same, with something that happens before each turn of the opener.
fn exchange_while(left: &mut Set, right: &mut Set, mut meanwhile: impl FnMut(usize, &mut End, &mut End)) -> (usize, usize) {
    let left_items = items(left);
    let session = Session::open(&left_items.window(CUT, [])).unwrap();
    let mut opener = End { session, items: left_items, records: std::mem::take(left) };
    let mut answerer = End { session: Session::answer(), items: items(right), records: std::mem::take(right) };
    let (mut bytes, mut turns) = (0, 0);
    loop {
        meanwhile(turns, &mut opener, &mut answerer);
        let (turn, size) = opener.turn();
        answerer.take(turn);
        let (turn, back) = answerer.turn();
        opener.take(turn);
        bytes += size + back;
        turns += 2;
        if opener.session.is_finished() {
            (*left, *right) = (opener.records, answerer.records);
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

    /// Records come and go by other ways while two nodes compare: it ends, and what both had throughout, both have.
    #[test]
    fn sets_may_change_in_between(
        left_only in proptest::collection::btree_set(0u32..2000, 0..400),
        right_only in proptest::collection::btree_set(2000u32..4000, 0..400),
        changes in proptest::collection::vec((any::<bool>(), any::<bool>(), 4000u32..4400), 0..200),
    ) {
        let (mut left, mut right) = (set(left_only.iter().copied()), set(right_only.iter().copied()));
        let mut changes = changes.into_iter();
        exchange_while(&mut left, &mut right, |_, opener, answerer| {
            for (add, here, number) in changes.by_ref().take(5) {
                let end = if here { &mut *opener } else { &mut *answerer };
                let (id, bytes) = record(number);
                if add {
                    end.records.insert(id, bytes);
                    end.items.insert((forgotten(&id), id));
                } else {
                    end.records.remove(&id);
                    end.items.remove(&(forgotten(&id), id));
                }
            }
        });
        for id in set(left_only.iter().chain(&right_only).copied()).keys() {
            prop_assert!(left.contains_key(id) && right.contains_key(id));
        }
    }

    /// Hostile turns are refused or answered, in bounds; they never panic.
    #[test]
    fn hostile_messages_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        begin in prop_oneof![Just(vec![]), Just(vec![0x61]), Just(vec![0x61, 0, 0])],
        opener in any::<bool>(),
    ) {
        let own = items(&set(0..100));
        let window = own.window(CUT, []);
        let message = [begin, bytes.clone()].concat();
        let turn = Turn { message: Some(message.try_into().unwrap()), ..Turn::default() };
        let mut session = if opener { Session::open(&window).unwrap() } else { Session::answer() };
        session.turn(|_| Vec::new());
        if session.handle(turn, &window).is_ok() {
            let turn = session.turn(|_| vec![vec![0; RECORD_BYTES_MAX + 1]]);
            prop_assert!(codec::encode(&Frame::Turn(turn)).len() <= SYNC_FRAME_BYTES_MAX);
        }
        if let Ok(Frame::Turn(turn)) = codec::decode(&bytes, SYNC_FRAME_BYTES_MAX) {
            let _ = Session::answer().handle(turn, &window);
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
    for joiner_opens in [true, false] {
        let (mut joiner, mut other) = (Set::new(), set(0..10_000));
        let (one, two) = if joiner_opens { (&mut joiner, &mut other) } else { (&mut other, &mut joiner) };
        exchange(one, two);
        assert_eq!((joiner.len(), other.len()), (10_000, 10_000));
    }
}

#[test]
fn cost_grows_with_the_difference_not_with_the_set() {
    let (mut left, mut right) = (set(0..20_000), set(0..20_000));
    let (bytes, turns) = exchange(&mut left, &mut right);
    assert!(bytes < 600 && turns == 2, "equal sets: {bytes} bytes in {turns} turns");
    right.extend([record(20_001)]);
    let (bytes, turns) = exchange(&mut left, &mut right);
    assert!(bytes < 6_000 && turns <= 10, "one more of 20,000: {bytes} bytes in {turns} turns");
    assert_eq!(left.len(), 20_001);
    right.extend(set(30_000..30_200));
    let records: usize = set(30_000..30_200).values().map(Vec::len).sum();
    let (bytes, _) = exchange(&mut left, &mut right);
    assert!(bytes < records + 200_000, "200 more: {bytes} bytes, of which {records} are the records");
    assert_eq!(left.len(), 20_201);
}

/// What is forgotten soon is neither compared nor asked for.
#[test]
fn nothing_below_the_cut_is_exchanged() {
    let all = items(&set(0..1000));
    let later = CUT + Duration::from_millis(8);
    let window = all.window(later, []);
    let kept = window.iter().count();
    assert!((300..700).contains(&kept) && window.iter().all(|(at, _)| at >= later));
    let empty = ItemSet::default();
    let mut opener = Session::open(&empty.window(later, [])).unwrap();
    let mut answerer = Session::answer();
    answerer.handle(opener.turn(|_| Vec::new()), &window).unwrap();
    opener.handle(answerer.turn(|_| Vec::new()), &empty.window(later, [])).unwrap();
    while let Some(message) = opener.turn(|_| Vec::new()).message {
        let turn = Turn { message: Some(message), ..Turn::default() };
        answerer.handle(turn, &window).unwrap();
        opener.handle(answerer.turn(|_| Vec::new()), &empty.window(later, [])).unwrap();
    }
    assert_eq!(opener.wanted.len(), kept);
}

#[test]
fn what_is_out_of_turn_is_the_peers_fault() {
    let none = ItemSet::default();
    let window = none.window(CUT, []);
    let message = || Some(vec![0x61].try_into().unwrap());
    let mut opener = Session::open(&window).unwrap();
    assert_eq!(opener.handle(Turn { message: message(), ..Turn::default() }, &window), Err(SyncFault::OutOfTurn), "nothing was asked");
    opener.turn(|_| Vec::new());
    opener.handle(Turn { message: message(), ..Turn::default() }, &window).unwrap();
    assert_eq!(opener.handle(Turn { message: message(), ..Turn::default() }, &window), Err(SyncFault::OutOfTurn), "answered twice");
    let mut opener = Session::open(&window).unwrap();
    let wish = Turn { wants: vec![RecordId([1; 32])].try_into().unwrap(), ..Turn::default() };
    assert_eq!(opener.handle(wish, &window), Err(SyncFault::OutOfTurn));
    for bad in [&[][..], &[0x10], &[0x61, 0, 0, 9], &[0x61, 0, 0, 2, 100, 1]] {
        let turn = Turn { message: Some(bad.to_vec().try_into().unwrap()), ..Turn::default() };
        assert!(matches!(Session::answer().handle(turn, &window), Err(SyncFault::Message(_))), "{bad:?}");
    }
}

/// A peer that names or asks for more and more ids is let go before they fill the memory.
#[test]
fn endless_ids_are_a_flood() {
    let none = ItemSet::default();
    let window = none.window(CUT, []);
    let mut number = 0u32;
    let mut ids = |count: u32| -> Vec<RecordId> {
        number += count;
        (number - count..number).map(|n| record(n).0).collect()
    };
    let mut session = Session::open(&window).unwrap();
    let fault = loop {
        // An answer that lists ids up to the end, and one range more, so that the talk goes on.
        session.awaits = true;
        let listed = ids(900);
        let mut message = vec![0x61, 1, 32];
        message.extend([255; 32]);
        message.extend([2, 0x87, 0x04]);
        message.extend(listed.iter().flat_map(|id| id.0));
        let turn = Turn { message: Some(message.try_into().unwrap()), ..Turn::default() };
        match session.handle(turn, &window) {
            Ok(_) => session.turn(|_| Vec::new()),
            Err(fault) => break fault,
        };
        assert!(session.wanted.len() <= SESSION_RECORDS_MAX);
    };
    assert_eq!((fault, session.wanted.len() > SESSION_RECORDS_MAX), (SyncFault::Flood, true));
    let mut session = Session::answer();
    let fault = loop {
        let turn = Turn { wants: ids(512).try_into().unwrap(), ..Turn::default() };
        if let Err(fault) = session.handle(turn, &window) {
            break fault;
        }
    };
    assert_eq!(fault, SyncFault::Flood);
    assert!(session.to_send.len() <= ASKED_MAX + WANTS_MAX);
}

/// Asking again and again for the same record costs its owner one sending.
#[test]
fn nothing_is_sent_twice() {
    let (id, bytes) = record(1);
    let own: ItemSet = [(forgotten(&id), id)].into_iter().collect();
    let mut session = Session::answer();
    let turn = Turn { wants: vec![id; 8].try_into().unwrap(), ..Turn::default() };
    session.handle(turn.clone(), &own.window(CUT, [])).unwrap();
    session.handle(turn, &own.window(CUT, [])).unwrap();
    assert_eq!(session.turn(|ids| vec![bytes.clone(); ids.len()]).records.len(), 1);
}
