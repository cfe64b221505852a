//! Which provider is asked for which unit of a blob.
//!
//! Units wait in one queue from which every provider takes, so a fast one takes more. In the first moments, while
//! others are still being connected to, nobody takes more than an equal share: otherwise whoever answers first would
//! serve small blobs alone. When no unit waits any more, idle providers take over units that their present provider has
//! had for long (the end game). Where somebody reads along ([`Schedule::set_in_order`]), the first units that are missing go
//! before all others and are taken over alike: what the reader waits for waits for nobody. Calls: [`Schedule::joined`], then [`Schedule::next`] as often as the provider has room,
//! each unit ended by [`Schedule::done`] or [`Schedule::failed`], and [`Schedule::left`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{ByteRange, Held};
use crate::id::NodeId;

/// How long a provider that has had its equal share waits for the others to take theirs.
const FAIR_START: Duration = Duration::from_millis(500);
/// A unit is stolen from its provider after this long at the earliest, ...
const STEAL_AFTER_MIN: Duration = Duration::from_millis(500);
/// ... and after this many times what the thief needs for a unit on average.
const STEAL_AFTER_MEANS: u32 = 3;
/// How many providers may work on one unit.
const COPIES_MAX: usize = 2;
/// Of so many waiting units the one is taken that the fewest others could give.
const LOOKED_AT: usize = 256;
/// With a reader, as many of the first units that are not done go first, in order. More than eight providers with two requests
/// each have in hand, so that none of them works far ahead while the reader waits; few enough that the others' order, which
/// spreads the blob, holds for most of it.
const IN_ORDER: usize = 24;

/// What a provider should do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Fetch this unit.
    Unit(ByteRange),
    /// Nothing for it now; ask again when something changed, or when the fetch is this old.
    Wait(Option<Duration>),
    /// Every unit is done.
    Finished,
}

#[derive(Debug, Clone, Default)]
struct Unit {
    end: u64,
    /// Who works on it, and since when.
    takers: Vec<(NodeId, Duration)>,
}

#[derive(Debug, Clone, Default)]
struct Provider {
    taken: usize,
    done: u32,
    busy: Duration,
    /// What it has, where that is a part: it fetches too.
    part: Option<Held>,
}

/// The units of one blob that are not verified yet, and who fetches them. Times are ages of the fetch.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Units not done, by their first byte.
    open: BTreeMap<u64, Unit>,
    /// Those of `open` that nobody fetches.
    waiting: BTreeSet<u64>,
    providers: BTreeMap<NodeId, Provider>,
    units: usize,
    /// Where the search for a waiting unit starts, so that fetchers of one blob don't all ask for the same units and
    /// can serve each other.
    cursor: u64,
    /// Makes this fetcher's order among units that are as rare as each other another one than that of all others.
    seed: u64,
    /// The last unit, until it is done. It goes first, since it proves the length: until then a fetcher can't serve
    /// others, which have no other proof of it.
    proof: Option<u64>,
    /// Whether nothing else is fetched before.
    proof_alone: bool,
    /// Whether somebody reads what comes, from the first byte on.
    in_order: bool,
    stolen: u64,
}

impl Schedule {
    /// A schedule of the units that are `missing`; `seed` picks where it begins. Where the blob's length is only a
    /// provider's word, `prove_length` holds all others back until the last unit, which proves it, is done.
    pub fn new(missing: &[ByteRange], prove_length: bool, seed: u64) -> Self {
        let unit = |range: &ByteRange| (range.start, Unit { end: range.end, takers: Vec::new() });
        let open: BTreeMap<u64, Unit> = missing.iter().map(unit).collect();
        let waiting: BTreeSet<u64> = open.keys().copied().collect();
        let last = open.last_key_value().map(|(&start, _)| start);
        let cursor = last.map_or(0, |last| seed % (last + 1));
        Self {
            units: waiting.len(),
            open,
            waiting,
            providers: BTreeMap::new(),
            cursor,
            seed,
            proof: last,
            proof_alone: prove_length,
            in_order: false,
            stolen: 0,
        }
    }

    /// Whether every unit is done.
    pub fn is_finished(&self) -> bool {
        self.open.is_empty()
    }

    /// How many units were given to a second provider.
    pub const fn stolen(&self) -> u64 {
        self.stolen
    }

    /// Whether somebody reads what comes, from the first byte on: from now on the first units that are missing go first. May
    /// change at any time.
    pub const fn set_in_order(&mut self, in_order: bool) {
        self.in_order = in_order;
    }

    /// A provider is being connected to.
    pub fn joined(&mut self, node: NodeId) {
        self.providers.entry(node).or_default();
    }

    /// A provider is gone: what it had in hand waits again.
    pub fn left(&mut self, node: &NodeId) {
        self.providers.remove(node);
        for (&start, unit) in &mut self.open {
            if unit.takers.iter().any(|(taker, _)| taker == node) {
                unit.takers.retain(|(taker, _)| taker != node);
                if unit.takers.is_empty() {
                    self.waiting.insert(start);
                }
            }
        }
    }

    /// What `node`, which holds `held`, should fetch when the fetch is `now` old.
    pub fn next(&mut self, node: NodeId, held: &Held, now: Duration) -> Next {
        if self.open.is_empty() {
            return Next::Finished;
        }
        let provider = self.providers.entry(node).or_default();
        match held {
            Held::All => provider.part = None,
            Held::Ranges(_) if provider.part.as_ref() != Some(held) => provider.part = Some(held.clone()),
            Held::Ranges(_) => {}
        }
        let front = if self.in_order { self.at_the_front(node, held, now) } else { None };
        if let Some(start) = front.or_else(|| self.waiting_for(&node, held)) {
            if !self.waiting.contains(&start) {
                self.stolen += 1;
                return self.take(start, node, now);
            }
            if self.proof != Some(start) {
                if now < FAIR_START && !self.may_take_more(&node) {
                    return Next::Wait(Some(FAIR_START));
                }
                // What a reader waits for leaves the order of the rest alone.
                self.cursor = if front.is_some() { self.cursor } else { start };
            }
            self.waiting.remove(&start);
            return self.take(start, node, now);
        }
        self.steal(node, held, now)
    }

    /// `node` delivered the unit that begins at `start`, verified. False where another one was first.
    pub fn done(&mut self, node: &NodeId, start: u64, now: Duration) -> bool {
        let Some(unit) = self.open.remove(&start) else { return false };
        self.waiting.remove(&start);
        self.proof = self.proof.filter(|proof| *proof != start);
        if let (Some(provider), Some((_, since))) = (self.providers.get_mut(node), unit.takers.iter().find(|(taker, _)| taker == node)) {
            provider.done += 1;
            provider.busy += now.saturating_sub(*since);
        }
        true
    }

    /// `node` did not deliver the unit that begins at `start`.
    pub fn failed(&mut self, node: &NodeId, start: u64) {
        if let Some(unit) = self.open.get_mut(&start) {
            unit.takers.retain(|(taker, _)| taker != node);
            if unit.takers.is_empty() {
                self.waiting.insert(start);
            }
            if let Some(provider) = self.providers.get_mut(node) {
                provider.taken = provider.taken.saturating_sub(1);
            }
        }
    }

    /// The first waiting unit from the cursor on, around the end, that is in `held`. Where others fetch it too, one of the next
    /// that the fewest of them could give, and of those any: the one that has it all then gives each unit about once, and
    /// they have the rest from each other. In the order of the blob all would lack the same, and ask for it all at once.
    fn waiting_for(&self, node: &NodeId, held: &Held) -> Option<u64> {
        let is_held = |start: &&u64| self.open.get(start).is_some_and(|unit| held.covers(&ByteRange { start: **start, end: unit.end }));
        if let Some(proof) = self.proof {
            let first = self.waiting.get(&proof).filter(is_held);
            if self.proof_alone || first.is_some() {
                return first.copied();
            }
        }
        let in_line = self.waiting.range(self.cursor..).chain(self.waiting.range(..self.cursor));
        let mut others = self.providers.iter().filter(|(other, _)| *other != node).filter_map(|(_, other)| other.part.as_ref()).peekable();
        if others.peek().is_none() {
            return in_line.copied().find(|start| is_held(&start));
        }
        let others: Vec<&Held> = others.collect();
        let givers = |start: &u64| {
            let range = ByteRange { start: *start, end: self.open.get(start).map_or(*start, |unit| unit.end) };
            others.iter().filter(|part| part.covers(&range)).count()
        };
        in_line.filter(is_held).take(LOOKED_AT).min_by_key(|start| (givers(start), blend(**start ^ self.seed))).copied()
    }

    /// The first of the units that a reader waits for that `node` should fetch: one that waits, else one that another has had for
    /// long. The first unit of all goes before the one that proves the length, where that is known.
    fn at_the_front(&self, node: NodeId, held: &Held, now: Duration) -> Option<u64> {
        if self.proof_alone && self.proof.is_some() {
            return None;
        }
        let mut front = self.open.iter().take(IN_ORDER).filter(|(start, unit)| held.covers(&ByteRange { start: **start, end: unit.end }));
        let proof = self.proof.filter(|proof| self.waiting.contains(proof));
        if let (Some(proof), Some((first, _))) = (proof, self.open.first_key_value())
            && !self.waiting.contains(first)
            && self.open.get(&proof).is_some_and(|unit| held.covers(&ByteRange { start: proof, end: unit.end }))
        {
            return Some(proof);
        }
        let waiting = front.clone().find(|(start, _)| self.waiting.contains(start));
        let late = || front.find(|(_, unit)| self.is_late(node, unit, now));
        waiting.or_else(late).map(|(start, _)| *start)
    }

    /// How long `node` leaves a unit to another.
    fn patience(&self, node: NodeId) -> Duration {
        let mean =
            self.providers.get(&node).filter(|provider| provider.done > 0).map_or(Duration::ZERO, |provider| provider.busy / provider.done);
        STEAL_AFTER_MIN.max(mean * STEAL_AFTER_MEANS)
    }

    /// Whether `node` may take the unit over from the one that has it.
    fn may_steal(node: NodeId, unit: &Unit) -> bool {
        unit.takers.len() < COPIES_MAX && unit.takers.iter().all(|(taker, _)| *taker != node)
    }

    fn is_late(&self, node: NodeId, unit: &Unit, now: Duration) -> bool {
        let since = unit.takers.first().map(|(_, since)| *since);
        Self::may_steal(node, unit) && since.is_some_and(|since| now.saturating_sub(since) >= self.patience(node))
    }

    /// Whether `node` is below its equal share, or all others have had theirs.
    fn may_take_more(&self, node: &NodeId) -> bool {
        let share = self.units.div_ceil(self.providers.len().max(1));
        self.providers.get(node).is_none_or(|provider| provider.taken < share)
            || self.providers.iter().all(|(other, provider)| other == node || provider.taken >= share)
    }

    fn take(&mut self, start: u64, node: NodeId, now: Duration) -> Next {
        self.providers.entry(node).or_default().taken += 1;
        match self.open.get_mut(&start) {
            Some(unit) => {
                unit.takers.push((node, now));
                Next::Unit(ByteRange { start, end: unit.end })
            }
            None => Next::Wait(None),
        }
    }

    fn steal(&mut self, node: NodeId, held: &Held, now: Duration) -> Next {
        let patience = self.patience(node);
        let oldest = self
            .open
            .iter()
            .filter(|(start, unit)| Self::may_steal(node, unit) && held.covers(&ByteRange { start: **start, end: unit.end }))
            .filter_map(|(start, unit)| unit.takers.first().map(|(_, since)| (*since, *start)))
            .min();
        match oldest {
            Some((since, start)) if now.saturating_sub(since) >= patience => {
                self.stolen += 1;
                self.take(start, node, now)
            }
            Some((since, _)) => Next::Wait(Some(since + patience)),
            None => Next::Wait(None),
        }
    }
}

/// A number that has nothing to do with those of its neighbours: the last step of splitmix64 (Steele, Lea and Flood, 2014).
const fn blend(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bounded::BoundedVec;

    const MIB: u64 = 1 << 20;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn units(count: u64) -> Vec<ByteRange> {
        (0..count).map(|unit| ByteRange { start: unit * MIB, end: (unit + 1) * MIB }).collect()
    }

    /// The first to answer may not take it all while the others are being connected to.
    #[test]
    fn early_provider_waits_for_the_others_to_take_their_share() {
        let mut schedule = Schedule::new(&units(8), false, 0);
        for number in 1..=3 {
            schedule.joined(node(number));
        }
        let mut taken = 0;
        while let Next::Unit(range) = schedule.next(node(1), &Held::All, Duration::ZERO) {
            assert!(schedule.done(&node(1), range.start, Duration::ZERO));
            taken += 1;
        }
        assert_eq!(taken, 3, "a third of 8 units, rounded up");
        assert_eq!(schedule.next(node(1), &Held::All, Duration::ZERO), Next::Wait(Some(FAIR_START)));
        assert!(matches!(schedule.next(node(1), &Held::All, FAIR_START), Next::Unit(_)));
    }

    /// A lie about the length costs its teller one unit and nobody else anything.
    #[test]
    fn unproven_length_is_proven_before_anything_else_is_fetched() {
        let mut schedule = Schedule::new(&units(3), true, 1);
        let Next::Unit(last) = schedule.next(node(1), &Held::All, Duration::ZERO) else { panic!("a unit waits") };
        assert_eq!(last, units(3)[2]);
        assert!(matches!(schedule.next(node(1), &Held::All, Duration::ZERO), Next::Wait(_)));
        assert!(matches!(schedule.next(node(2), &Held::All, Duration::ZERO), Next::Wait(Some(_))));
        assert!(schedule.done(&node(1), last.start, Duration::ZERO));
        assert!(matches!(schedule.next(node(2), &Held::All, Duration::ZERO), Next::Unit(_)));
    }

    /// So that a fetcher can serve others from early on.
    #[test]
    fn last_unit_goes_first_and_holds_nobody_up_where_the_length_is_known() {
        let mut schedule = Schedule::new(&units(3), false, 0);
        assert_eq!(schedule.next(node(1), &Held::All, Duration::ZERO), Next::Unit(units(3)[2]));
        assert_eq!(schedule.next(node(2), &Held::All, Duration::ZERO), Next::Unit(units(3)[0]));
    }

    /// A provider that hangs costs time, never the blob.
    #[test]
    fn unit_of_a_stalled_provider_is_stolen_by_an_idle_one() {
        let mut schedule = Schedule::new(&units(1), false, 0);
        let Next::Unit(unit) = schedule.next(node(1), &Held::All, Duration::ZERO) else { panic!("a unit waits") };
        assert_eq!(schedule.next(node(2), &Held::All, Duration::ZERO), Next::Wait(Some(STEAL_AFTER_MIN)));
        assert_eq!(schedule.next(node(2), &Held::All, STEAL_AFTER_MIN), Next::Unit(unit));
        assert_eq!(schedule.stolen(), 1);
        assert!(schedule.done(&node(2), unit.start, STEAL_AFTER_MIN));
        assert!(!schedule.done(&node(1), unit.start, STEAL_AFTER_MIN), "the late copy is not counted");
        assert_eq!(schedule.next(node(1), &Held::All, STEAL_AFTER_MIN), Next::Finished);
    }

    /// Whoever reads along gets the first bytes at once, and is never held up by a provider that stands still while others do
    /// what nobody waits for.
    #[test]
    fn units_go_in_order_where_somebody_reads_along() {
        let mut schedule = Schedule::new(&units(64), false, 40 * MIB);
        schedule.set_in_order(true);
        let mut take = |number: u8, now| match schedule.next(node(number), &Held::All, now) {
            Next::Unit(range) => range.start / MIB,
            other => panic!("{other:?}"),
        };
        // The first, the one that proves the length, and then in line, shared by two.
        assert_eq!([take(1, FAIR_START), take(2, FAIR_START), take(1, FAIR_START), take(2, FAIR_START)], [0, 63, 1, 2]);
        // One of them stands still; what it has is taken over before anything beyond the window is begun.
        for unit in 3..IN_ORDER as u64 {
            assert_eq!(take(1, FAIR_START), unit);
        }
        let beyond = take(1, FAIR_START);
        assert_eq!(beyond, 40, "nobody stands idle");
        assert_eq!(take(1, FAIR_START + STEAL_AFTER_MIN), 2);
        for unit in [0, 1, 2] {
            assert!(schedule.done(&node(1), unit * MIB, FAIR_START));
        }
        // What is done moves the window on.
        let Next::Unit(next) = schedule.next(node(1), &Held::All, FAIR_START) else { panic!("a unit waits") };
        assert_eq!(next.start / MIB, IN_ORDER as u64);
        // Nobody reads any more: in the other order again.
        schedule.set_in_order(false);
        assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Unit(units(64)[41]));
    }

    /// A reader waits for the proof of a length that is only a provider's word, like everybody.
    #[test]
    fn reader_does_not_go_before_the_proof_of_the_length() {
        let mut schedule = Schedule::new(&units(3), true, 0);
        schedule.set_in_order(true);
        assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Unit(units(3)[2]));
        assert!(matches!(schedule.next(node(1), &Held::All, FAIR_START), Next::Wait(_)));
        assert!(schedule.done(&node(1), 2 * MIB, FAIR_START));
        assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Unit(units(3)[0]));
    }

    /// What another fetcher has is left to it, as long as the one that has it all has something that nobody else has.
    #[test]
    fn unit_that_fewest_could_give_is_asked_for_first() {
        let mut schedule = Schedule::new(&units(4), false, 0);
        let part = Held::Ranges(BoundedVec::try_from(vec![ByteRange { start: 0, end: 2 * MIB }]).unwrap());
        // The last, since it proves the length; then what the other lacks.
        assert_eq!(schedule.next(node(2), &part, FAIR_START), Next::Unit(units(4)[0]));
        assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Unit(units(4)[3]));
        assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Unit(units(4)[2]));
        assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Unit(units(4)[1]), "it does not stand idle");
    }

    /// Ten fetchers asked the one that had it all for the same unit at the same moment, each time.
    #[test]
    fn fetchers_that_lack_the_same_units_ask_for_different_ones() {
        let nothing = Held::Ranges(BoundedVec::new());
        let first = |seed: u64| {
            let mut schedule = Schedule::new(&units(64), false, seed);
            assert!(matches!(schedule.next(node(2), &nothing, FAIR_START), Next::Wait(_)));
            assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Unit(units(64)[63]));
            let Next::Unit(unit) = schedule.next(node(1), &Held::All, FAIR_START) else { panic!("a unit waits") };
            unit.start
        };
        let asked: BTreeSet<u64> = (0..10).map(first).collect();
        assert!(asked.len() >= 7, "{asked:?}");
    }

    proptest! {
        /// Whatever fails and leaves, every missing byte is delivered once by somebody as long as one provider stays.
        #[test]
        fn every_missing_byte_is_fetched(
            missing in proptest::sample::subsequence(units(40), 0..=40),
            prove_length: bool,
            in_order: bool,
            seed: u64,
            faults in proptest::collection::vec(0u8..4, 0..200),
        ) {
            let wanted: u64 = missing.iter().map(ByteRange::length).sum();
            let mut schedule = Schedule::new(&missing, prove_length, seed);
            schedule.set_in_order(in_order);
            let (mut delivered, mut now) = (0, Duration::ZERO);
            let mut faults = faults.into_iter();
            while !schedule.is_finished() {
                now += Duration::from_millis(100);
                for number in 1..=3 {
                    if let Next::Unit(range) = schedule.next(node(number), &Held::All, now) {
                        match faults.next() {
                            Some(1) => schedule.failed(&node(number), range.start),
                            Some(2) => schedule.left(&node(number)),
                            Some(3) => {}
                            _ => if schedule.done(&node(number), range.start, now) { delivered += range.length() },
                        }
                    }
                }
                prop_assert!(now < Duration::from_secs(600));
                // Three stalls at once leave units with two silent takers; the driver's time limit fails those.
                if now.as_millis() % 5000 == 0 {
                    for number in 1..=3 { schedule.left(&node(number)) }
                }
            }
            prop_assert_eq!(delivered, wanted);
        }
    }
}
