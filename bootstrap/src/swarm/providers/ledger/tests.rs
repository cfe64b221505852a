//! The ledger beside a plain reference that looks through everything each time, and floods that it must withstand.

#![allow(clippy::unwrap_used)]
use barnraiser_protocol::id::OperatorId;
use barnraiser_protocol::trust::members::Branch;
use proptest::prelude::*;

use super::*;

fn bounds() -> Bounds {
    Bounds {
        records: 24,
        strangers: 18,
        party: 12,
        peer: 6,
        key: 8,
        key_strangers: 6,
        lifetime: Duration::from_secs(100),
        failed_for: Duration::from_secs(40),
        turn: Duration::from_secs(10),
    }
}

/// Large ones, as a node has them.
fn real_bounds() -> Bounds {
    Bounds {
        records: 16 << 10,
        strangers: 12 << 10,
        party: 2 << 10,
        peer: 512,
        key: 64,
        key_strangers: 48,
        lifetime: Duration::from_secs(3600),
        failed_for: Duration::from_secs(1800),
        turn: Duration::from_secs(60),
    }
}

fn node(number: u64) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    NodeId(bytes)
}

fn key(number: u64) -> Key {
    node(number).0
}

fn id(key_number: u64, provider: u64) -> Id {
    Id { key: key(key_number), provider: node(provider) }
}

fn party(number: u8) -> Party {
    // Two branches, the others strangers.
    if number < 2 { Party::Branch(Branch(OperatorId([number; 32]))) } else { Party::V4([10, 0, number]) }
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[derive(Debug, Clone)]
enum Step {
    Announce(u64, u64, u8),
    Failed(u64, u64),
    Answered(u64, u64),
    Withdraw(u64, u64),
    Wait(u64),
}

/// As the ledger is described: a list, and every rule read off it.
#[derive(Debug, Default)]
struct Plain {
    records: Vec<(Id, Entry)>,
    /// When each party has been here since.
    since: BTreeMap<Party, Duration>,
}

impl Plain {
    fn position(&self, id: &Id) -> Option<usize> {
        self.records.iter().position(|(other, _)| other == id)
    }

    fn count(&self, of: impl Fn(&Id, &Entry) -> bool) -> usize {
        self.records.iter().filter(|(id, entry)| of(id, entry)).count()
    }

    fn remove(&mut self, id: &Id) -> Option<Entry> {
        let (_, entry) = self.records.remove(self.position(id)?);
        if self.count(|_, other| other.party == entry.party) == 0 {
            self.since.remove(&entry.party);
        }
        Some(entry)
    }

    fn add(&mut self, id: Id, entry: Entry) {
        self.since.entry(entry.party).or_insert(entry.since);
        self.records.push((id, entry));
    }

    fn stalest(&self, of: impl Fn(&Id, &Entry) -> bool) -> Option<Id> {
        self.records.iter().filter(|(id, entry)| of(id, entry)).map(|(id, entry)| (entry.renewed, *id)).min().map(|(_, id)| id)
    }

    fn victim(&self, of: impl Fn(&Id, &Entry) -> bool, since: impl Fn(&Party) -> Duration) -> Option<Id> {
        let candidates = || self.records.iter().filter(|(id, entry)| of(id, entry));
        if let Some((_, id)) = candidates().filter_map(|(id, entry)| Some((entry.failed?, *id))).min() {
            return Some(id);
        }
        let most = candidates()
            .map(|(_, entry)| entry.party)
            .max_by_key(|party| (candidates().filter(|(_, entry)| entry.party == *party).count(), since(party), *party))?;
        self.stalest(|id, entry| of(id, entry) && entry.party == most)
    }

    fn announce(&mut self, bounds: &Bounds, id: Id, party: Party, now: Duration) {
        for (old, _) in self.records.clone().into_iter().filter(|(_, entry)| entry.renewed + bounds.lifetime <= now) {
            self.remove(&old);
        }
        let known = self.remove(&id);
        let failed = known.as_ref().and_then(|known| known.failed).filter(|failed| now < *failed + bounds.failed_for);
        self.add(id, Entry { party, since: known.map_or(now, |known| known.since), renewed: now, failed, addresses: Vec::new() });
        if self.count(|other, _| other.provider == id.provider) > bounds.peer {
            let victim = self.stalest(|other, _| other.provider == id.provider).unwrap();
            self.remove(&victim);
        }
        if self.count(|_, entry| entry.party == party) > bounds.party {
            let victim = self.stalest(|_, entry| entry.party == party).unwrap();
            self.remove(&victim);
        }
        for (strangers, most) in [(true, bounds.key_strangers), (false, bounds.key)] {
            let at_key = |other: &Id, entry: &Entry| other.key == id.key && (!strangers || entry.party.is_stranger());
            if self.count(at_key) > most {
                let since = |party: &Party| {
                    let of_party = self.records.iter().filter(|(other, entry)| at_key(other, entry) && entry.party == *party);
                    of_party.map(|(_, entry)| entry.since).min().unwrap()
                };
                let victim = self.victim(at_key, since).unwrap();
                self.remove(&victim);
            }
        }
        for (strangers, most) in [(true, bounds.strangers), (false, bounds.records)] {
            let all = |_: &Id, entry: &Entry| !strangers || entry.party.is_stranger();
            if self.count(all) > most {
                let victim = self.victim(all, |party| self.since[party]).unwrap();
                self.remove(&victim);
            }
        }
    }

    fn mark(&mut self, id: &Id, failed: Option<Duration>) {
        if let Some(position) = self.position(id) {
            let entry = &mut self.records[position].1;
            entry.failed = failed.map(|now| entry.failed.unwrap_or(now));
        }
    }
}

fn check_against_reference(steps: &[Step]) {
    let bounds = bounds();
    let (mut ledger, mut plain, mut now) = (Ledger::new(bounds.clone(), 7), Plain::default(), Duration::ZERO);
    for step in steps {
        // No two announcements at the same moment, whose order nothing would tell.
        now += Duration::from_millis(1);
        match *step {
            Step::Announce(key, provider, of) => {
                ledger.announce(id(key, provider), party(of), Vec::new(), now);
                plain.announce(&bounds, id(key, provider), party(of), now);
            }
            Step::Failed(key, provider) => {
                ledger.failed(&id(key, provider), now);
                plain.mark(&id(key, provider), Some(now));
            }
            Step::Answered(key, provider) => {
                ledger.answered(&id(key, provider));
                plain.mark(&id(key, provider), None);
            }
            Step::Withdraw(key, provider) => {
                ledger.withdraw(&id(key, provider));
                plain.remove(&id(key, provider));
            }
            Step::Wait(time) => now += seconds(time),
        }
        let kept: BTreeSet<Id> = ledger.entries.keys().copied().collect();
        let wanted: BTreeSet<Id> = plain.records.iter().map(|(id, _)| *id).collect();
        assert_eq!(kept, wanted, "after {step:?}");
        check_whole(&ledger, &bounds);
    }
}

/// The bounds hold, and every index says the same.
fn check_whole(ledger: &Ledger, bounds: &Bounds) {
    let count = |of: &dyn Fn(&Id, &Entry) -> bool| ledger.entries.iter().filter(|(id, entry)| of(id, entry)).count();
    assert!(ledger.len() <= bounds.records && ledger.strangers <= bounds.strangers);
    assert_eq!(ledger.strangers, count(&|_, entry| entry.party.is_stranger()));
    assert_eq!(ledger.stalest.len(), ledger.len());
    assert_eq!(ledger.failed.iter().map(BTreeSet::len).sum::<usize>(), count(&|_, entry| entry.failed.is_some()));
    assert_eq!(ledger.ranks.iter().map(BTreeSet::len).sum::<usize>(), ledger.parties.len());
    for (party, holding) in &ledger.parties {
        assert_eq!(holding.stalest.len(), count(&|_, entry| entry.party == *party));
        assert!(holding.stalest.len() <= bounds.party && !holding.stalest.is_empty());
        assert!(ledger.ranks[class(party)].contains(&(holding.stalest.len(), holding.since, *party)));
    }
    for (peer, of_peer) in &ledger.peers {
        assert_eq!(of_peer.len(), count(&|id, _| id.provider == *peer));
        assert!(of_peer.len() <= bounds.peer && !of_peer.is_empty());
    }
    for key in ledger.entries.keys().map(|id| id.key).collect::<BTreeSet<_>>() {
        assert!(count(&|id, _| id.key == key) <= bounds.key);
        assert!(count(&|id, entry| id.key == key && entry.party.is_stranger()) <= bounds.key_strangers);
    }
}

fn step() -> impl Strategy<Value = Step> {
    // A peer is mostly seen at one place, and sometimes at another.
    let announce = (0u64..10, 0u64..24, prop_oneof![9 => Just(None), 1 => (0u8..8).prop_map(Some)])
        .prop_map(|(key, provider, moved)| Step::Announce(key, provider, moved.unwrap_or((provider % 8) as u8)));
    prop_oneof![
        12 => announce,
        2 => (0u64..10, 0u64..24).prop_map(|(key, provider)| Step::Failed(key, provider)),
        1 => (0u64..10, 0u64..24).prop_map(|(key, provider)| Step::Answered(key, provider)),
        1 => (0u64..10, 0u64..24).prop_map(|(key, provider)| Step::Withdraw(key, provider)),
        1 => (1u64..60).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is announced, marked and withdrawn, exactly those records are kept that the rules say.
    #[test]
    fn ledger_keeps_what_the_plain_reference_keeps(steps in proptest::collection::vec(step(), 1..300)) {
        check_against_reference(&steps);
    }
}

fn named(ledger: &Ledger, key_number: u64, now: Duration) -> Vec<NodeId> {
    ledger.providers(&key(key_number), 20, now).into_iter().map(|(node, ..)| node).collect()
}

/// In whatever order they come, and however often.
#[test]
fn a_thousand_sybils_in_one_prefix_crowd_nobody_out() {
    let sybils = Party::V4([203, 0, 113]);
    for honest_first in [true, false] {
        let mut ledger = Ledger::new(real_bounds(), 1);
        let honest = |ledger: &mut Ledger, now| {
            for number in 0..3 {
                assert_ne!(ledger.announce(id(1, number), party(10 + number as u8), Vec::new(), now), Kept::Refused);
            }
        };
        if honest_first {
            honest(&mut ledger, seconds(0));
        }
        for round in 0..3 {
            for sybil in 1000..2000 {
                ledger.announce(id(1, sybil), sybils, Vec::new(), seconds(1 + round));
            }
        }
        if !honest_first {
            honest(&mut ledger, seconds(10));
        }
        let named = named(&ledger, 1, seconds(11));
        assert_eq!(named.len(), 20);
        let places: Vec<_> = (0..3).map(|number| named.iter().position(|other| *other == node(number)).unwrap()).collect();
        assert!(places.iter().all(|place| *place < 4), "one of each place comes first: {places:?}");
        check_whole(&ledger, &real_bounds());
    }
}

/// A flood over all keys, from as many peers as there are records, until everything is full many times over.
#[test]
fn honest_old_record_survives_a_flood_over_all_keys() {
    let mut ledger = Ledger::new(real_bounds(), 1);
    ledger.announce(id(1, 1), Party::V4([198, 51, 100]), Vec::new(), seconds(0));
    for number in 0..100_000u64 {
        // Four places, of which each alone could fill its share.
        let place = Party::V4([203, 0, (number % 4) as u8]);
        ledger.announce(id(number % 40_000, 1_000_000 + number), place, Vec::new(), seconds(1 + number / 1000));
    }
    let full = ledger.len();
    assert_eq!(full, 4 * real_bounds().party + 1, "the flood has its share and no more");
    assert!(named(&ledger, 1, seconds(200)).contains(&node(1)));
    // Beyond the room for strangers, too: from eight places, then from as many as there are of /24s in a /16.
    for number in 0..100_000u64 {
        let place = Party::V4([203, 1, (number % 256) as u8]);
        ledger.announce(id(number % 40_000, 2_000_000 + number), place, Vec::new(), seconds(200 + number / 1000));
    }
    assert_eq!(ledger.len(), real_bounds().strangers);
    assert!(named(&ledger, 1, seconds(400)).contains(&node(1)), "it came before them, and holds least");
    check_whole(&ledger, &real_bounds());
    // A member finds room all the same.
    assert_eq!(ledger.announce(id(7, 7), party(0), Vec::new(), seconds(400)), Kept::New);
    assert_eq!(named(&ledger, 7, seconds(400))[0], node(7));
}

/// Strangers from more places than there is room for providers of a key don't push members out.
#[test]
fn members_keep_their_places_at_a_key_that_strangers_want() {
    let mut ledger = Ledger::new(real_bounds(), 1);
    for number in 0..500u64 {
        let place = Party::V6([0x20, 1, 0xd, 0xb8, (number >> 8) as u8, number as u8]);
        ledger.announce(id(1, 1000 + number), place, Vec::new(), seconds(number));
    }
    for number in 0..16 {
        let branch = Party::Branch(Branch(OperatorId([number as u8 + 1; 32])));
        assert_eq!(ledger.announce(id(1, number), branch, Vec::new(), seconds(600)), Kept::New);
    }
    for number in 0..500u64 {
        ledger.announce(id(1, 5000 + number), Party::V4([198, 51, number as u8]), Vec::new(), seconds(601));
    }
    let named = named(&ledger, 1, seconds(700));
    assert!((0..16).all(|number| named[..16].contains(&node(number))), "members are named first");
    check_whole(&ledger, &real_bounds());
}

#[test]
fn who_failed_goes_first_and_is_named_last_until_it_gives() {
    let mut ledger = Ledger::new(bounds(), 1);
    for number in 0..6 {
        ledger.announce(id(1, number), party(2 + number as u8), Vec::new(), seconds(number));
    }
    ledger.failed(&id(1, 0), seconds(10));
    ledger.failed(&id(1, 1), seconds(11));
    ledger.answered(&id(1, 1));
    assert_eq!(named(&ledger, 1, seconds(12)).last(), Some(&node(0)));
    // Saying it again does not help.
    assert_eq!(ledger.announce(id(1, 0), party(2), Vec::new(), seconds(13)), Kept::Renewed);
    assert_eq!(named(&ledger, 1, seconds(14)).last(), Some(&node(0)));
    // The key has six strangers at most: the seventh takes the place of the one that failed.
    assert_eq!(ledger.announce(id(1, 9), party(9), Vec::new(), seconds(15)), Kept::New);
    assert!(!named(&ledger, 1, seconds(16)).contains(&node(0)));
    // With time, and a new announcement, it is forgotten.
    ledger.failed(&id(1, 2), seconds(20));
    ledger.announce(id(1, 2), party(4), Vec::new(), seconds(61));
    assert!(ledger.entries[&id(1, 2)].failed.is_none());
}

#[test]
fn what_is_not_renewed_ends_and_what_is_renewed_stays() {
    let mut ledger = Ledger::new(bounds(), 1);
    ledger.announce(id(1, 1), party(2), Vec::new(), seconds(0));
    ledger.announce(id(1, 2), party(3), Vec::new(), seconds(0));
    ledger.announce(id(1, 1), party(2), Vec::new(), seconds(75));
    assert_eq!(named(&ledger, 1, seconds(99)).len(), 2);
    assert_eq!(named(&ledger, 1, seconds(100)), [node(1)], "it is not named any more, though nothing has removed it");
    ledger.announce(id(2, 3), party(3), Vec::new(), seconds(101));
    assert_eq!(ledger.len(), 2);
    assert!(ledger.withdraw(&id(1, 1)) && !ledger.withdraw(&id(1, 1)));
    assert_eq!(named(&ledger, 1, seconds(101)), []);
}

/// Else those who come first in some order would always be the only ones to be found.
#[test]
fn more_parties_than_can_be_named_take_turns() {
    let mut ledger = Ledger::new(real_bounds(), 1);
    for number in 0..48 {
        ledger.announce(id(1, number), party(2 + number as u8), Vec::new(), seconds(0));
    }
    let mut seen = BTreeSet::new();
    for turn in 0..20 {
        let now = seconds(60 * turn);
        let in_turn = named(&ledger, 1, now);
        assert_eq!(in_turn, named(&ledger, 1, now + seconds(59)), "within a turn they stay");
        seen.extend(in_turn);
    }
    assert!(seen.len() > 45, "{} of 48 were named", seen.len());
}
