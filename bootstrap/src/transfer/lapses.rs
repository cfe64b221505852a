//! Which nodes did not give what they said to have, lately: they are asked after others, by every fetch of this node.

use std::collections::BTreeMap;
use std::time::Duration;

use barnraiser_protocol::id::NodeId;
use tokio::time::Instant;

/// How long it is remembered: whoever was restarting, or behind a line that was down, is back by then.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Nodes remembered; of more the ones whose lapse is the oldest are forgotten.
const NODES_MAX: usize = 1024;

/// Nodes with a lapse, and when it was.
#[derive(Debug, Default)]
pub(crate) struct Lapses {
    nodes: BTreeMap<NodeId, Instant>,
}

impl Lapses {
    /// A fetch has found out whether `node` gives what it says to have.
    pub(crate) fn judge(&mut self, node: NodeId, gave: bool, now: Instant) {
        if gave {
            self.nodes.remove(&node);
            return;
        }
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&node) {
            let oldest = self.nodes.iter().min_by_key(|(_, at)| **at).map(|(node, _)| *node);
            oldest.and_then(|node| self.nodes.remove(&node));
        }
        self.nodes.insert(node, now);
    }

    /// Puts those with a lapse behind the others, which keep their order.
    pub(super) fn sort(&self, nodes: &mut [NodeId], now: Instant) {
        nodes.sort_by_key(|node| self.nodes.get(node).is_some_and(|at| now < *at + REMEMBERED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_failed_lately_comes_last_until_it_gives_or_time_has_passed() {
        let node = |number: usize| NodeId(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let (mut lapses, start) = (Lapses::default(), Instant::now());
        let order = |lapses: &Lapses, now| {
            let mut nodes = [node(1), node(2), node(3)];
            lapses.sort(&mut nodes, now);
            nodes
        };
        lapses.judge(node(1), false, start);
        lapses.judge(node(2), false, start);
        assert_eq!(order(&lapses, start), [node(3), node(1), node(2)]);
        lapses.judge(node(1), true, start);
        assert_eq!(order(&lapses, start), [node(1), node(3), node(2)]);
        assert_eq!(order(&lapses, start + REMEMBERED), [node(1), node(2), node(3)]);
        (0..2 * NODES_MAX).for_each(|number| lapses.judge(node(number), false, start + Duration::from_millis(number as u64)));
        assert_eq!(lapses.nodes.len(), NODES_MAX);
        assert!(!lapses.nodes.contains_key(&node(1)), "the oldest are forgotten");
    }
}
