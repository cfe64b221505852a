//! Which branch each known node is in, for the network layer, which must not wait for the engines: a copy that is made anew
//! some moments after standing records came.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use barnraiser_bootstrap::Branches;
use barnraiser_protocol::id::{NetworkId, NodeId};
use barnraiser_protocol::trust::members::{Branch, Members};
use tokio::sync::Notify;

use super::Daemon;

/// How long after a change the copy is made, at the soonest: many records come together, and it looks through all members.
const SETTLE: Duration = Duration::from_secs(2);
/// The most nodes that are told apart, some 7 MB; all others are strangers.
const NODES_MAX: usize = 64 << 10;

/// The copy.
#[derive(Debug, Default)]
pub(super) struct KnownBranches {
    nodes: RwLock<HashMap<NodeId, Branch>>,
    changed: Notify,
}

impl KnownBranches {
    /// Somebody's standing may be another now.
    pub fn changed(&self) {
        self.changed.notify_one();
    }
}

impl Branches for KnownBranches {
    fn branch_of(&self, node: &NodeId) -> Option<Branch> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(node).copied()
    }
}

impl Daemon {
    /// Keeps the copy up to date, for ever.
    pub(super) async fn copy_branches(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.branches.changed.notified() => {}
                () = self.stop.cancelled() => return,
            }
            let networks: Vec<NetworkId> = self.networks().keys().copied().collect();
            let mut nodes = HashMap::new();
            for network in networks {
                self.engines.ask(&network, |engine| copy(engine.members(), &mut nodes));
            }
            *self.branches.nodes.write().unwrap_or_else(PoisonError::into_inner) = nodes;
            tokio::select! {
                () = tokio::time::sleep(SETTLE) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

/// Adds the nodes of all members that are not barred; what an earlier network says of a node stays.
fn copy(members: &Members, nodes: &mut HashMap<NodeId, Branch>) {
    for (operator, membership) in members.memberships() {
        if members.is_barred(operator) {
            continue;
        }
        for node in members.nodes_of(operator) {
            if nodes.len() >= NODES_MAX {
                return;
            }
            nodes.entry(node).or_insert(membership.branch);
        }
    }
}
