//! Whose wish for a chunk list makes this node read a whole blob.
//!
//! A request of a few bytes can cost minutes of a disk and a processor: for each blob once, as long as its list is kept, and for
//! a blob of which none can be made, each time. So a peer for whom one was made waits several times as long as that took,
//! and what failed is not tried again for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use barnraiser_protocol::id::{BlobHash, NodeId};

/// A peer waits so many times what its last list took to be made: it alone has a quarter of this node's time at most.
const PAUSES: u32 = 3;
/// The most that it waits.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// How long a blob of which no list could be made is said to have none.
const FAILED_FOR: Duration = Duration::from_secs(600);
/// Peers and blobs remembered of each; the ones whose time ends first are forgotten.
const REMEMBERED_MAX: usize = 1024;

/// What a request for a list that is not there leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// It is made.
    Make,
    /// Not now.
    Later,
    /// There is none.
    Never,
}

/// Who has had lists made, and what has none.
#[derive(Debug, Default)]
pub(crate) struct Making {
    pauses: BTreeMap<NodeId, Instant>,
    failed: BTreeMap<BlobHash, Instant>,
}

impl Making {
    /// Whether `node` may have the list of `hash` made.
    pub(super) fn may(&self, node: &NodeId, hash: &BlobHash, now: Instant) -> May {
        if self.failed.get(hash).is_some_and(|until| now < *until) {
            May::Never
        } else if self.pauses.get(node).is_some_and(|until| now < *until) {
            May::Later
        } else {
            May::Make
        }
    }

    /// It was made for `node` and took so long, or there is none.
    pub(super) fn made(&mut self, node: NodeId, hash: BlobHash, is_there: bool, took: Duration, now: Instant) {
        remember(&mut self.pauses, node, now, (took * PAUSES).min(PAUSE_MAX));
        if !is_there {
            remember(&mut self.failed, hash, now, FAILED_FOR);
        }
    }
}

fn remember<K: Ord + Copy>(of: &mut BTreeMap<K, Instant>, key: K, now: Instant, time: Duration) {
    of.retain(|_, until| now < *until);
    if of.len() >= REMEMBERED_MAX {
        let first = of.iter().min_by_key(|(_, until)| **until).map(|(key, _)| *key);
        first.and_then(|key| of.remove(&key));
    }
    of.insert(key, now + time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_a_list_made_waits_and_what_failed_is_not_tried_again() {
        let (one, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let (blob, bad) = (BlobHash([3; 32]), BlobHash([4; 32]));
        let (mut making, start, took) = (Making::default(), Instant::now(), Duration::from_secs(2));
        assert_eq!(making.may(&one, &blob, start), May::Make);
        making.made(one, blob, true, took, start);
        assert_eq!(making.may(&one, &bad, start), May::Later);
        assert_eq!(making.may(&other, &bad, start), May::Make);
        assert_eq!(making.may(&one, &bad, start + took * PAUSES), May::Make);
        making.made(other, bad, false, took, start);
        assert_eq!(making.may(&one, &bad, start + took * PAUSES), May::Never);
        assert_eq!(making.may(&one, &bad, start + FAILED_FOR), May::Make);
        for number in 0..2 * REMEMBERED_MAX {
            let node = NodeId(*blake3::hash(&number.to_le_bytes()).as_bytes());
            making.made(node, blob, true, took, start + Duration::from_nanos(number as u64));
        }
        assert_eq!(making.pauses.len(), REMEMBERED_MAX);
    }
}
