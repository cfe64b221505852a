//! Who waits until there is more of a blob.
//!
//! A question that waits costs a look at the disk now and then, and none of the room that units are served in. So few wait at
//! the same time, one of each peer; who finds no room is answered at once.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use barnraiser_protocol::id::NodeId;

/// Questions that wait at the same time, of all peers: at ten looks a second each, what a slow disk can do.
const WAITS_MAX: usize = 64;

/// The peers whose questions wait.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<BTreeSet<NodeId>>);

/// A question that waits, as long as it lives.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    waits: &'a Waits,
    node: NodeId,
}

impl Waits {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        // The set is whole after each call, so a panic elsewhere did not break it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a question of `node` to wait; none where it has one that waits, or too many do.
    pub(crate) fn begin(&self, node: NodeId) -> Option<Waiting<'_>> {
        let mut waiting = self.lock();
        (waiting.len() < WAITS_MAX && waiting.insert(node)).then(|| Waiting { waits: self, node })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waits.lock().remove(&self.node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_of_each_peer_waits_and_not_too_many_of_all() {
        let waits = Waits::default();
        let node = |number: usize| NodeId([number as u8; 32]);
        let first = waits.begin(node(0));
        assert!(first.is_some() && waits.begin(node(0)).is_none());
        let others: Vec<_> = (1..WAITS_MAX).map(|number| waits.begin(node(number))).collect();
        assert!(others.iter().all(Option::is_some));
        assert!(waits.begin(node(WAITS_MAX)).is_none());
        drop(first);
        assert!(waits.begin(node(WAITS_MAX)).is_some());
    }
}
