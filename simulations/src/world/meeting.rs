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
        for (giver, taker, has, lacks) in [(from, to, &ours, &theirs), (to, from, &theirs, &ours)] {
            let Some(engine) = &self.nodes[giver].engine else { return };
            let news: Vec<_> = missing(has, lacks).filter_map(|id| engine.record(&id).cloned()).collect();
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
    pub fn items(&self, node: usize, cut: Timestamp) -> Option<Vec<(Timestamp, RecordId)>> {
        let engine = self.nodes[node].engine.as_ref()?;
        Some(engine.items().iter().filter(|(at, id)| *at >= cut && !self.nodes[node].unwritten.contains(id)).collect())
    }

    pub(super) fn learnt(&mut self, node: usize, life: u32) {
        if self.nodes[node].life == life {
            self.tell(node, Input::Synced);
        }
    }
}

/// What is in `has` and not in `lacks`, both in order.
fn missing<'a, T: Ord>(has: &'a [(T, RecordId)], lacks: &'a [(T, RecordId)]) -> impl Iterator<Item = RecordId> + 'a {
    let mut rest = lacks.iter().peekable();
    has.iter().filter_map(move |item| {
        while rest.next_if(|other| *other < item).is_some() {}
        rest.next_if(|other| *other == item).is_none().then_some(item.1)
    })
}
