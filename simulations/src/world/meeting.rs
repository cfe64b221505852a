//! Anti-entropy, as far as its effect goes: two nodes that meet come to have the same records.
//!
//! How sets are compared has property tests of its own beside its code in the protocol; here two sets are simply held
//! against each other, with the opener's cut, and what is missing travels over a stream: late, in order, never lost.

use std::time::Duration;

use barnraiser_protocol::engine::{Engine, Input};
use barnraiser_protocol::id::RecordId;
use barnraiser_protocol::sync::{CUT_AHEAD, ItemSet};

use super::{Happening, World};

/// A node that has just started and finds nobody tries again after this.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Records that travel in one turn.
const TURN_RECORDS: usize = 100;

impl World {
    pub(super) fn look_for_peer(&mut self, node: usize, life: u32, first: bool) {
        if self.nodes[node].life != life || self.nodes[node].engine.is_none() {
            return;
        }
        let peer = self.dice.below(self.nodes.len());
        let mutual = self.weather.connected(node, peer) && self.weather.connected(peer, node);
        let met = peer != node && mutual && self.nodes[peer].engine.is_some();
        if met {
            let delay = self.weather.delay(node, peer, &mut self.dice);
            self.after(delay, Happening::Meeting { from: node, to: peer });
        }
        let again = first && !met;
        let wait = if again { TRY_AGAIN } else { self.compare_every.mul_f64(self.dice.between(0.5, 1.5)) };
        self.after(wait, Happening::Compare { node, life, first: again });
    }

    pub(super) fn meet(&mut self, from: usize, to: usize) {
        if !self.weather.connected(from, to) || !self.weather.connected(to, from) {
            return;
        }
        let cut = self.nodes[from].clock(self.now) + CUT_AHEAD;
        let (Some(ours), Some(theirs)) = (self.items(from), self.items(to)) else { return };
        let (gives, takes) = differences(Run::from(ours.slices(), cut), Run::from(theirs.slices(), cut));
        for (giver, taker, ids) in [(from, to, gives), (to, from, takes)] {
            let Some(engine) = &self.nodes[giver].engine else { return };
            // Nothing is shown that a crash could undo.
            let shown = ids.iter().filter(|id| !self.nodes[giver].unwritten.contains(*id));
            let news: Vec<_> = shown.filter_map(|id| engine.record(id).cloned()).collect();
            let turn = self.weather.delay(giver, taker, &mut self.dice);
            for (number, record) in news.iter().enumerate() {
                let turns = u32::try_from(number / TURN_RECORDS).unwrap_or(u32::MAX) + 1;
                self.ledger.compared(record);
                self.after(turn.saturating_mul(turns), Happening::Arrival { from: giver, to: taker, record: record.clone() });
            }
            let turns = u32::try_from(news.len() / TURN_RECORDS).unwrap_or(u32::MAX) + 1;
            let life = self.nodes[taker].life;
            self.after(turn.saturating_mul(turns), Happening::Learnt { node: taker, life });
        }
    }

    fn items(&self, node: usize) -> Option<&ItemSet> {
        self.nodes[node].engine.as_ref().map(Engine::items)
    }

    pub(super) fn learnt(&mut self, node: usize, life: u32) {
        if self.nodes[node].life == life {
            self.tell(node, Input::Synced);
        }
    }
}

/// An ordered set, from the least item that has not been looked at.
struct Run<'a, T, S> {
    head: &'a [(T, RecordId)],
    rest: S,
}

impl<'a, T: Ord + Copy, S: Iterator<Item = &'a [(T, RecordId)]>> Run<'a, T, S> {
    /// All of `slices` but what is about to be forgotten, before `cut`.
    fn from(rest: S, cut: T) -> Self {
        let mut run = Self { head: &[], rest };
        while run.first().is_some_and(|(at, _)| *at < cut) {
            run.skip(run.head.partition_point(|(at, _)| *at < cut));
        }
        run
    }

    fn first(&mut self) -> Option<&'a (T, RecordId)> {
        while self.head.is_empty() {
            self.head = self.rest.next()?;
        }
        self.head.first()
    }

    fn skip(&mut self, items: usize) {
        self.head = &self.head[items..];
    }
}

/// What only `ours` has, and what only `theirs` has, both in order. In one pass, by stretches that are the same and without
/// a copy: sets are large, and mostly nearly the same.
fn differences<'a, T: Ord + Copy + 'a>(
    mut ours: Run<'a, T, impl Iterator<Item = &'a [(T, RecordId)]>>,
    mut theirs: Run<'a, T, impl Iterator<Item = &'a [(T, RecordId)]>>,
) -> (Vec<RecordId>, Vec<RecordId>) {
    let (mut gives, mut takes) = (Vec::new(), Vec::new());
    loop {
        match (ours.first(), theirs.first()) {
            (None, None) => return (gives, takes),
            (Some(here), there) if there.is_none_or(|there| here < there) => {
                gives.push(here.1);
                ours.skip(1);
            }
            (Some(here), Some(there)) if here == there => {
                let same = ours.head.iter().zip(theirs.head).take_while(|(here, there)| here == there).count();
                ours.skip(same);
                theirs.skip(same);
            }
            (_, Some(there)) => {
                takes.push(there.1);
                theirs.skip(1);
            }
            (Some(_), None) => return (gives, takes), // the second arm takes it
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gets_what_only_the_other_has() {
        let set = |numbers: &[u8]| numbers.iter().map(|number| (*number, RecordId([*number; 32]))).collect::<Vec<_>>();
        let ids = |numbers: &[u8]| numbers.iter().map(|number| RecordId([*number; 32])).collect::<Vec<_>>();
        let compare = |ours: &[u8], theirs: &[u8], pieces: usize, cut: u8| {
            let (ours, theirs) = (set(ours), set(theirs));
            differences(Run::from(ours.chunks(pieces), cut), Run::from(theirs.chunks(pieces + 1), cut))
        };
        for pieces in 1..5 {
            assert_eq!(compare(&[1, 2, 4, 6], &[2, 3, 6, 7, 8], pieces, 0), (ids(&[1, 4]), ids(&[3, 7, 8])));
            assert_eq!(compare(&[1, 2, 4, 6], &[2, 3, 6, 7, 8], pieces, 4), (ids(&[4]), ids(&[7, 8])));
            assert_eq!(compare(&[], &[5], pieces, 0), (ids(&[]), ids(&[5])));
            assert_eq!(compare(&[5], &[], pieces, 6), (ids(&[]), ids(&[])));
        }
    }
}
