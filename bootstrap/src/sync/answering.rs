//! The exchanges of records that peers began: few at a time, and strangers never take the members' places.
//!
//! An exchange may take minutes, and a peer may take its time for each turn. So one peer has one exchange of a network, and
//! as many places as strangers have are kept for members: else a few keys that cost nothing could keep a node from ever
//! being compared with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use barnraiser_protocol::id::{NetworkId, NodeId};

/// The network whose records are compared, and with whom.
type Key = (NetworkId, NodeId);

/// The exchanges that are being answered.
#[derive(Debug)]
pub(crate) struct Answering {
    /// How many strangers may have, and members beside them.
    most: usize,
    now: Arc<Mutex<BTreeMap<Key, bool>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    key: Key,
    of: Arc<Mutex<BTreeMap<Key, bool>>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Answering {
    /// `most` places for strangers, and as many for members.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, now: Arc::default() }
    }

    /// A place for the exchange of `key`, if there is one.
    pub(super) fn begin(&self, key: Key, is_stranger: bool) -> Option<Slot> {
        // The map is whole after each call, so a panic elsewhere did not break it.
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let strangers = now.values().filter(|stranger| **stranger).count();
        let room = if is_stranger { strangers < self.most } else { now.len() < 2 * self.most };
        if !room || now.contains_key(&key) {
            return None;
        }
        now.insert(key, is_stranger);
        Some(Slot { key, of: self.now.clone() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn strangers_take_their_own_places_only_and_each_peer_one() {
        let key = |number| (NetworkId([1; 32]), NodeId([number; 32]));
        let answering = Answering::new(2);
        let first = answering.begin(key(1), true);
        assert!(first.is_some() && answering.begin(key(1), true).is_none(), "one each");
        let _second = answering.begin(key(2), true).unwrap();
        assert!(answering.begin(key(3), true).is_none());
        let members: Vec<_> = (10..20).filter_map(|number| answering.begin(key(number), false)).collect();
        assert_eq!(members.len(), 2);
        drop(first);
        assert!(answering.begin(key(3), true).is_some());
    }
}
