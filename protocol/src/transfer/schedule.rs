//! Which provider is asked for which unit of a blob.
//!
//! Units wait in one queue from which every provider takes, so a fast one takes more. In the first moments, while
//! others are still being connected to, nobody takes more than an equal share: otherwise whoever answers first would
//! serve small blobs alone. When no unit waits any more, idle providers take over units that their present provider has
//! had for long (the end game). Where somebody reads along ([`Schedule::set_in_order`]), the first units that are missing go
//! before all others and are taken over alike: what the reader waits for waits for nobody. Calls: [`Schedule::joined`], then [`Schedule::next`] as often as the provider has room,
//! each unit ended by [`Schedule::done`] or [`Schedule::failed`], and [`Schedule::left`].
//!
//! Where many fetch at once, they all lack the same, and who has everything should give each unit once before it gives any
//! of them twice. Only that one knows what it has given, so it is left to choose ([`Next::Any`]); those that fetch too are
//! asked for what they have. Where several have everything and nobody fetches beside us, no choice is left to them: two
//! might choose the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{ByteRange, GET_BYTES_MAX, Held, UnitSet};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Fetch this unit.
    Unit(ByteRange),
    /// Let it send one of these units, whichever it likes; [`Schedule::chosen`] or [`Schedule::chose_none`] follows.
    Any(UnitSet),
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
    /// What it has, once it has said so; a part where it fetches too.
    held: Option<Held>,
    /// Since when it may choose units, and has not chosen yet.
    choices: Vec<Duration>,
}

impl Provider {
    const fn part(&self) -> Option<&Held> {
        match &self.held {
            Some(held @ Held::Units(_)) => Some(held),
            _ => None,
        }
    }
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
    /// Whether somebody reads what comes, from the first byte on.
    in_order: bool,
    stolen: u64,
}

impl Schedule {
    /// A schedule of the units that are `missing`; `seed` picks where it begins.
    pub fn new(missing: &[ByteRange], seed: u64) -> Self {
        let unit = |range: &ByteRange| (range.start, Unit { end: range.end, takers: Vec::new() });
        let open: BTreeMap<u64, Unit> = missing.iter().map(unit).collect();
        let waiting: BTreeSet<u64> = open.keys().copied().collect();
        let cursor = open.last_key_value().map_or(0, |(last, _)| seed % (last + 1));
        Self { units: waiting.len(), open, waiting, providers: BTreeMap::new(), cursor, seed, in_order: false, stolen: 0 }
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
        if provider.held.as_ref() != Some(held) {
            provider.held = Some(held.clone());
        }
        let front = if self.in_order { self.at_the_front(&node, held, now) } else { None };
        if let Some(start) = front.or_else(|| self.waiting_for(&node, held)) {
            if !self.waiting.contains(&start) {
                self.stolen += 1;
                return self.take(start, node, now);
            }
            if now < FAIR_START && !self.may_take_more(&node) {
                return Next::Wait(Some(FAIR_START));
            }
            // What a reader waits for is nobody's choice.
            if *held == Held::All
                && front.is_none()
                && let Some(next) = self.choice(&node, now)
            {
                return next;
            }
            // What a reader waits for leaves the order of the rest alone.
            self.cursor = if front.is_some() { self.cursor } else { start };
            self.waiting.remove(&start);
            return self.take(start, node, now);
        }
        let patience = self.patience(&node);
        self.steal(node, held, now, patience)
    }

    /// What `node` should take over from others while it is spared otherwise: a unit that another one has had for `late` or
    /// longer. What waits is left to those that are not spared.
    pub fn take_over(&mut self, node: NodeId, held: &Held, now: Duration, late: Duration) -> Next {
        if self.open.is_empty() {
            return Next::Finished;
        }
        let patience = self.patience(&node).max(late);
        self.steal(node, held, now, patience)
    }

    /// What is left to `node` to choose from, which has everything; none where it is told which unit.
    fn choice(&mut self, node: &NodeId, now: Duration) -> Option<Next> {
        let wholes: Vec<&NodeId> = self.providers.iter().filter(|(_, other)| other.held == Some(Held::All)).map(|(node, _)| node).collect();
        let is_shared = self.providers.values().any(|other| other.part().is_some());
        let is_alone = wholes.len() == 1 && self.providers.values().all(|other| other.held.is_some());
        if !is_shared && !is_alone {
            return None;
        }
        // All that waits is on its way, unless somebody who should send it has stopped.
        let patience = self.patience(node);
        let counts = |by: &NodeId, since: Duration| by == node || now.saturating_sub(since) < patience;
        let since = self.providers.iter().flat_map(|(by, other)| other.choices.iter().map(move |since| (by, *since)));
        let on_their_way: Vec<(&NodeId, Duration)> = since.filter(|(by, since)| counts(by, *since)).collect();
        if on_their_way.len() >= self.waiting.len() {
            let oldest = on_their_way.iter().filter(|(by, _)| *by != node).map(|(_, since)| *since).min();
            return Some(Next::Wait(oldest.map(|since| since + patience)));
        }
        // Each of several chooses from units of its own, as long as there are such.
        let (count, rank) = (wholes.len() as u64, wholes.iter().position(|whole| *whole == node).unwrap_or(0) as u64);
        let units = || self.waiting.iter().map(|start| start / GET_BYTES_MAX);
        let mut wanted = UnitSet::new(units().filter(|unit| unit % count == rank));
        if wanted.count() == 0 {
            wanted = UnitSet::new(units());
        }
        let provider = self.providers.entry(*node).or_default();
        provider.taken += 1;
        provider.choices.push(now);
        Some(Next::Any(wanted))
    }

    /// `node` has chosen the unit that begins at `start`, and sends it.
    pub fn chosen(&mut self, node: &NodeId, start: u64, now: Duration) {
        self.chose(node);
        if let Some(unit) = self.open.get_mut(&start) {
            self.waiting.remove(&start);
            unit.takers.push((*node, now));
        }
    }

    /// `node` could not or would not send any of the units that it might choose from.
    pub fn chose_none(&mut self, node: &NodeId) {
        self.chose(node);
        if let Some(provider) = self.providers.get_mut(node) {
            provider.taken = provider.taken.saturating_sub(1);
        }
    }

    fn chose(&mut self, node: &NodeId) {
        if let Some(provider) = self.providers.get_mut(node) {
            // They are answered in their order.
            if !provider.choices.is_empty() {
                provider.choices.remove(0);
            }
        }
    }

    /// `node` delivered the unit that begins at `start`, verified. False where another one was first.
    pub fn done(&mut self, node: &NodeId, start: u64, now: Duration) -> bool {
        let Some(unit) = self.open.remove(&start) else { return false };
        self.waiting.remove(&start);
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
        let in_line = self.waiting.range(self.cursor..).chain(self.waiting.range(..self.cursor));
        let mut others = self.providers.iter().filter(|(other, _)| *other != node).filter_map(|(_, other)| other.part()).peekable();
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
    /// long.
    fn at_the_front(&self, node: &NodeId, held: &Held, now: Duration) -> Option<u64> {
        let mut front = self.open.iter().take(IN_ORDER).filter(|(start, unit)| held.covers(&ByteRange { start: **start, end: unit.end }));
        let waiting = front.clone().find(|(start, _)| self.waiting.contains(start));
        let late = || front.find(|(_, unit)| self.is_late(node, unit, now));
        waiting.or_else(late).map(|(start, _)| *start)
    }

    /// Whether `node` may take the unit over from the one that has it.
    fn may_steal(node: NodeId, unit: &Unit) -> bool {
        unit.takers.len() < COPIES_MAX && unit.takers.iter().all(|(taker, _)| *taker != node)
    }

    fn is_late(&self, node: &NodeId, unit: &Unit, now: Duration) -> bool {
        let since = unit.takers.first().map(|(_, since)| *since);
        Self::may_steal(*node, unit) && since.is_some_and(|since| now.saturating_sub(since) >= self.patience(node))
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

    /// How long another one may have had a unit before `node` takes it over.
    fn patience(&self, node: &NodeId) -> Duration {
        let provider = self.providers.get(node).filter(|provider| provider.done > 0);
        let mean = provider.map_or(Duration::ZERO, |provider| provider.busy / provider.done);
        STEAL_AFTER_MIN.max(mean * STEAL_AFTER_MEANS)
    }

    fn steal(&mut self, node: NodeId, held: &Held, now: Duration, patience: Duration) -> Next {
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
        let mut schedule = Schedule::new(&units(8), 0);
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

    /// A provider that hangs costs time, never the blob.
    #[test]
    fn unit_of_a_stalled_provider_is_stolen_by_an_idle_one() {
        let mut schedule = Schedule::new(&units(1), 0);
        schedule.joined(node(2));
        let Next::Unit(unit) = schedule.next(node(1), &Held::All, Duration::ZERO) else { panic!("a unit waits") };
        assert_eq!(schedule.next(node(2), &Held::All, Duration::ZERO), Next::Wait(Some(STEAL_AFTER_MIN)));
        assert_eq!(schedule.next(node(2), &Held::All, STEAL_AFTER_MIN), Next::Unit(unit));
        assert_eq!(schedule.stolen(), 1);
        assert!(schedule.done(&node(2), unit.start, STEAL_AFTER_MIN));
        assert!(!schedule.done(&node(1), unit.start, STEAL_AFTER_MIN), "the late copy is not counted");
        assert_eq!(schedule.next(node(1), &Held::All, STEAL_AFTER_MIN), Next::Finished);
    }

    /// One that is spared begins nothing, and still does not let a fetch hang on another's last unit.
    #[test]
    fn one_that_is_spared_by_preference_takes_over_what_is_late_and_nothing_else() {
        let late = Duration::from_secs(4);
        let mut schedule = Schedule::new(&units(2), 0);
        schedule.joined(node(2));
        assert_eq!(schedule.take_over(node(2), &Held::All, late, late), Next::Wait(None), "all of it waits");
        let Next::Unit(unit) = schedule.next(node(1), &Held::All, Duration::ZERO) else { panic!("a unit waits") };
        assert_eq!(schedule.take_over(node(2), &Held::All, STEAL_AFTER_MIN, late), Next::Wait(Some(late)));
        assert_eq!(schedule.take_over(node(2), &Held::All, late, late), Next::Unit(unit));
        assert_eq!(schedule.stolen(), 1);
        assert_eq!(schedule.take_over(node(2), &Held::All, late, late), Next::Wait(None), "it has that one already");
    }

    /// Whoever reads along gets the first bytes at once, and is never held up by a provider that stands still while others do
    /// what nobody waits for.
    #[test]
    fn units_go_in_order_where_somebody_reads_along() {
        let mut schedule = Schedule::new(&units(64), 40 * MIB);
        schedule.set_in_order(true);
        schedule.joined(node(1));
        schedule.joined(node(2));
        let mut take = |number: u8, now| match schedule.next(node(number), &Held::All, now) {
            Next::Unit(range) => range.start / MIB,
            other => panic!("{other:?}"),
        };
        // In line, shared by two.
        assert_eq!([take(1, FAIR_START), take(2, FAIR_START), take(1, FAIR_START), take(2, FAIR_START)], [0, 1, 2, 3]);
        // One of them stands still; what it has is taken over before anything beyond the window is begun.
        for unit in 4..IN_ORDER as u64 {
            assert_eq!(take(1, FAIR_START), unit);
        }
        let beyond = take(1, FAIR_START);
        assert_eq!(beyond, 40, "nobody stands idle");
        assert_eq!(take(1, FAIR_START + STEAL_AFTER_MIN), 1);
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

    /// Who has everything may choose, but not what a reader waits for.
    #[test]
    fn what_a_reader_waits_for_is_left_to_nobodys_choice() {
        let mut schedule = Schedule::new(&units(64), 40 * MIB);
        schedule.set_in_order(true);
        for unit in 0..IN_ORDER as u64 {
            assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Unit(units(64)[unit as usize]));
        }
        assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Any(UnitSet::new(IN_ORDER as u64..64)));
    }

    /// What another fetcher has is left to it, as long as a third one has something that fewer could give.
    #[test]
    fn unit_that_fewest_could_give_is_asked_for_first() {
        let mut schedule = Schedule::new(&units(4), 0);
        let [two, four] = [0..2, 0..4].map(|units: std::ops::Range<u64>| Held::Units(UnitSet::new(units)));
        assert_eq!(schedule.next(node(2), &two, FAIR_START), Next::Unit(units(4)[0]));
        let mut asked = Vec::new();
        while let Next::Unit(range) = schedule.next(node(1), &four, FAIR_START) {
            asked.push(range);
        }
        assert_eq!(asked.last(), Some(&units(4)[1]), "it does not stand idle");
        assert!(asked.contains(&units(4)[2]) && asked.contains(&units(4)[3]), "{asked:?}");
    }

    /// Ten fetchers asked the one that had it all for the same unit at the same moment, each time.
    #[test]
    fn the_one_that_has_it_all_chooses_what_it_sends_where_others_fetch_too() {
        let mut schedule = Schedule::new(&units(4), 0);
        let part = Held::Units(UnitSet::new([0]));
        schedule.joined(node(1));
        assert_eq!(schedule.next(node(2), &part, FAIR_START), Next::Unit(units(4)[0]));
        for _ in 0..3 {
            assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Any(UnitSet::new(1..4)));
        }
        assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Wait(None), "all that waits is on its way");
        schedule.chosen(&node(1), 2 * MIB, FAIR_START);
        schedule.chose_none(&node(1));
        assert_eq!(schedule.next(node(1), &Held::All, FAIR_START), Next::Any(UnitSet::new([1, 3])));
        assert!(schedule.done(&node(1), 2 * MIB, FAIR_START));
        // A second one that has everything chooses from other units.
        assert_eq!(schedule.next(node(3), &Held::All, FAIR_START), Next::Wait(Some(FAIR_START + STEAL_AFTER_MIN)));
        schedule.chose_none(&node(1));
        assert_eq!(schedule.next(node(3), &Held::All, FAIR_START), Next::Any(UnitSet::new([1, 3])), "no even unit waits");
    }

    /// Where several have it all, each is told what to send, so that no two choose the same.
    #[test]
    fn those_that_have_it_all_are_told_what_to_send_where_nobody_else_fetches() {
        let mut schedule = Schedule::new(&units(4), 0);
        schedule.joined(node(1));
        schedule.joined(node(2));
        assert!(matches!(schedule.next(node(1), &Held::All, FAIR_START), Next::Unit(_)), "the other may have it all too");
        assert!(matches!(schedule.next(node(2), &Held::All, FAIR_START), Next::Unit(_)));
        schedule.left(&node(1));
        assert!(matches!(schedule.next(node(2), &Held::All, FAIR_START), Next::Any(_)), "alone it may choose");
    }

    /// A swarm in small: one that has everything and sends one unit at a time, and fetchers that hear of each other's units
    /// some units later. What is sent once by the one should do.
    #[test]
    fn a_seed_sends_few_units_twice_before_all_have_been_sent_once() {
        const FETCHERS: u8 = 10;
        const UNITS: u64 = 64;
        let mut schedules: Vec<Schedule> = (0..u64::from(FETCHERS)).map(|seed| Schedule::new(&units(UNITS), seed)).collect();
        let (mut sent, mut order) = (vec![0u32; UNITS as usize], Vec::new());
        let mut known: Vec<(usize, u64)> = Vec::new();
        while sent.contains(&0) {
            for (fetcher, schedule) in schedules.iter_mut().enumerate() {
                // What the others have got, but for the last ten.
                for (other, number) in (0..usize::from(FETCHERS)).zip(1..) {
                    let held = known.iter().rev().skip(10).filter(|(by, _)| *by == other).map(|(_, unit)| *unit);
                    if other != fetcher {
                        let held = Held::Units(UnitSet::new(held));
                        while let Next::Unit(range) = schedule.next(node(number), &held, FAIR_START) {
                            schedule.done(&node(number), range.start, FAIR_START);
                        }
                    }
                }
                let Next::Any(wanted) = schedule.next(node(0), &Held::All, FAIR_START) else { continue };
                let Some(unit) = wanted.iter().min_by_key(|unit| sent[*unit as usize]) else { panic!("something is wanted") };
                sent[unit as usize] += 1;
                order.push(unit);
                schedule.chosen(&node(0), unit * MIB, FAIR_START);
                assert!(schedule.done(&node(0), unit * MIB, FAIR_START), "it comes once");
                known.push((fetcher, unit));
            }
        }
        // What the others got last is not heard of yet, and may be asked for.
        assert!(order.len() < UNITS as usize + usize::from(FETCHERS), "{} units were sent for {UNITS}", order.len());
    }

    proptest! {
        /// Whatever fails and leaves, every missing byte is delivered once by somebody as long as one provider stays.
        #[test]
        fn every_missing_byte_is_fetched(
            missing in proptest::sample::subsequence(units(40), 0..=40),
            in_order: bool,
            seed: u64,
            faults in proptest::collection::vec(0u8..4, 0..200),
        ) {
            let wanted: u64 = missing.iter().map(ByteRange::length).sum();
            let mut schedule = Schedule::new(&missing, seed);
            schedule.set_in_order(in_order);
            let (mut delivered, mut now) = (0, Duration::ZERO);
            let mut faults = faults.into_iter();
            while !schedule.is_finished() {
                now += Duration::from_millis(100);
                for number in 1..=3 {
                    let range = match schedule.next(node(number), &Held::All, now) {
                        Next::Unit(range) => range,
                        Next::Any(wanted) => {
                            let Some(unit) = wanted.iter().nth((seed % wanted.count()) as usize) else { panic!("nothing is wanted") };
                            if faults.next() == Some(1) {
                                schedule.chose_none(&node(number));
                                continue;
                            }
                            schedule.chosen(&node(number), unit * MIB, now);
                            units(40)[unit as usize]
                        }
                        Next::Wait(_) | Next::Finished => continue,
                    };
                    match faults.next() {
                        Some(1) => schedule.failed(&node(number), range.start),
                        Some(2) => schedule.left(&node(number)),
                        Some(3) => {}
                        _ => if schedule.done(&node(number), range.start, now) { delivered += range.length() },
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
