//! The places at a fetch: few providers are worked with at the same time, and who only says to have the blob must not keep out
//! who has it.
//!
//! A provider that has given nothing for a while leaves its place to one that was not tried yet, and comes again when all have
//! been. So of any number of providers that stall, lie slowly or trickle, each holds the true one up by [`SILENT`] at most, shared
//! by as many as there are places. Where nobody waits, nobody is hurried: a slow line is no lie.

use std::collections::BTreeMap;
use std::time::Duration;

use barnraiser_protocol::id::NodeId;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Providers that are worked with at the same time.
pub(super) const PLACES: usize = 8;
/// Who has given nothing yet keeps its place so long while others wait: connecting and a unit take less on most lines.
const SILENT: Duration = Duration::from_secs(3);
/// Who has given something, from then on.
const SILENT_SINCE: Duration = Duration::from_secs(15);

struct Place {
    since: Instant,
    /// When it gave a unit last.
    gave: Option<Instant>,
    /// Taken when it was told to leave.
    leave: Option<oneshot::Sender<()>>,
}

impl Place {
    /// When it has been silent for too long.
    fn patience(&self) -> Instant {
        self.gave.map_or(self.since + SILENT, |gave| gave + SILENT_SINCE)
    }
}

/// Who has a place.
#[derive(Default)]
pub(super) struct Places {
    taken: BTreeMap<NodeId, Place>,
}

impl Places {
    /// Whether all are taken.
    pub(super) fn is_full(&self) -> bool {
        self.taken.len() >= PLACES
    }

    /// Gives `node` a place; what comes says when it must leave.
    pub(super) fn take(&mut self, node: NodeId, now: Instant) -> oneshot::Receiver<()> {
        let (leave, told) = oneshot::channel();
        self.taken.insert(node, Place { since: now, gave: None, leave: Some(leave) });
        told
    }

    /// `node` gave a unit.
    pub(super) fn gave(&mut self, node: &NodeId, now: Instant) {
        if let Some(place) = self.taken.get_mut(node) {
            place.gave = Some(now);
        }
    }

    /// `node` works no more.
    pub(super) fn left(&mut self, node: &NodeId) {
        self.taken.remove(node);
    }

    /// Somebody who was not tried yet waits and all places are taken: whoever has been silent the longest leaves, if it was
    /// for too long. One at a time: the next when this one is gone.
    pub(super) fn make_room(&mut self, now: Instant) {
        if self.taken.values().any(|place| place.leave.is_none()) {
            return;
        }
        let silent = self.taken.values_mut().min_by_key(|place| place.patience()).filter(|place| place.patience() <= now);
        if let Some(leave) = silent.and_then(|place| place.leave.take()) {
            // One that ended just now leaves anyway.
            let _ = leave.send(());
        }
    }

    /// When the first can be made to leave.
    pub(super) fn next_room(&self) -> Option<Instant> {
        self.taken.values().filter(|place| place.leave.is_some()).map(Place::patience).min()
    }

    /// How many have given something lately, or may still.
    pub(super) fn promising(&self, now: Instant) -> usize {
        self.taken.values().filter(|place| now < place.patience()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silent_leaves_first_and_one_that_gives_stays() {
        let node = |number| NodeId([number; 32]);
        let (mut places, start) = (Places::default(), Instant::now());
        let mut told: Vec<_> = (0..PLACES as u8).map(|number| places.take(node(number), start + SILENT / 10 * number.into())).collect();
        assert!(places.is_full() && places.next_room() == Some(start + SILENT));
        places.make_room(start + SILENT / 2);
        places.gave(&node(0), start + SILENT / 2);
        places.make_room(start + SILENT);
        assert!(told.iter_mut().all(|told| told.try_recv().is_err()), "nobody was silent for long");
        places.make_room(start + SILENT * 2);
        assert!(told[1].try_recv().is_ok());
        places.make_room(start + SILENT * 2);
        assert_eq!(told.iter_mut().filter_map(|told| told.try_recv().ok()).count(), 0, "one at a time");
        assert_eq!(places.promising(start + SILENT * 2), 1);
        places.left(&node(1));
        places.make_room(start + SILENT * 2);
        assert!(told[2].try_recv().is_ok() && !places.is_full());
    }
}
