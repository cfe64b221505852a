//! Anti-entropy, as far as its effect goes: two nodes that meet come to have the same records.
//!
//! How sets are compared has property tests of its own beside its code in the protocol; here two sets are simply held
//! against each other, with the opener's cut, and what is missing travels over a stream: late, in order, never lost.

use std::time::Duration;

use barnraiser_protocol::engine::Input;
use barnraiser_protocol::id::RecordId;
use barnraiser_protocol::sync::CUT_AHEAD;
use barnraiser_protocol::time::Timestamp;

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
        let (Some(ours), Some(theirs)) = (self.items(from, cut), self.items(to, cut)) else { return };
        let (gives, takes) = differences(ours, theirs);
        for (giver, taker, ids) in [(from, to, gives), (to, from, takes)] {
            let Some(engine) = &self.nodes[giver].engine else { return };
            let news: Vec<_> = ids.iter().filter_map(|id| engine.record(id).cloned()).collect();
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

    /// What a node shows to another, in order: nothing that a crash could undo, nothing that is about to be forgotten.
    fn items(&self, node: usize, cut: Timestamp) -> Option<impl Iterator<Item = (Timestamp, RecordId)> + '_> {
        let machine = &self.nodes[node];
        let all = machine.engine.as_ref()?.items().iter();
        Some(all.filter(move |(at, id)| *at >= cut && !machine.unwritten.contains(id)))
    }

    pub(super) fn learnt(&mut self, node: usize, life: u32) {
        if self.nodes[node].life == life {
            self.tell(node, Input::Synced);
        }
    }
}

/// What only `ours` has, and what only `theirs` has, both in order. In one pass and without a copy: sets are large, and
/// mostly nearly the same.
fn differences<T: Ord>(
    mut ours: impl Iterator<Item = (T, RecordId)>,
    mut theirs: impl Iterator<Item = (T, RecordId)>,
) -> (Vec<RecordId>, Vec<RecordId>) {
    let (mut gives, mut takes) = (Vec::new(), Vec::new());
    let (mut our, mut their) = (ours.next(), theirs.next());
    loop {
        match (&our, &their) {
            (None, None) => return (gives, takes),
            (Some(here), there) if there.as_ref().is_none_or(|there| here < there) => {
                gives.push(here.1);
                our = ours.next();
            }
            (Some(here), Some(there)) if here == there => (our, their) = (ours.next(), theirs.next()),
            (_, Some(there)) => {
                takes.push(there.1);
                their = theirs.next();
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
        let set = |numbers: &[u8]| numbers.iter().map(|number| (*number, RecordId([*number; 32]))).collect::<Vec<_>>().into_iter();
        let ids = |numbers: &[u8]| numbers.iter().map(|number| RecordId([*number; 32])).collect::<Vec<_>>();
        assert_eq!(differences(set(&[1, 2, 4, 6]), set(&[2, 3, 6, 7, 8])), (ids(&[1, 4]), ids(&[3, 7, 8])));
        assert_eq!(differences(set(&[]), set(&[5])), (ids(&[]), ids(&[5])));
        assert_eq!(differences(set(&[5]), set(&[])), (ids(&[5]), ids(&[])));
    }
}
