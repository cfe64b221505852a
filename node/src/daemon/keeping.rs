//! Keeps what was released on enough holders, where this node is one that sees to it: a maintainer's, or a holder.
//! What is done when is decided by [`Keeper`]; here it is asked, and copies are made.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::record::Kind;
use barnraiser_protocol::transfer::keeping::{Keeper, Task, ToKeep};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Daemon;
use super::networks::Network;
use crate::api::KeptStatus;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How long fetching what is to be copied, or copying it, may take: 64 GiB at 10 Mbit/s take longer, and go on where they
/// were.
const COPY_TIME: Duration = Duration::from_secs(3 * 3600);

/// What came of a task of a keeper.
enum Done {
    Asked { holder: NodeId, blob: BlobHash, has: Option<bool> },
    Copied { blob: BlobHash, to: NodeId, done: bool },
}

/// What is to be kept of a network: of the newest release of each channel the index, every file and its evidence.
pub(super) fn released(network: &Network) -> BTreeSet<ToKeep> {
    let releases = network.releases.read().unwrap_or_else(PoisonError::into_inner);
    let mut all = BTreeSet::new();
    for release in releases.values() {
        let index = BlobHash::of(&release.to_bytes());
        all.insert(ToKeep { blob: index, of: index });
        for target in release.targets().values() {
            let tree = target.origin.as_ref().map(|origin| origin.tree);
            all.insert(ToKeep { blob: target.blob, of: tree.unwrap_or(target.blob) });
            if let Some(origin) = &target.origin {
                all.insert(ToKeep { blob: origin.evidence, of: origin.evidence });
            }
        }
    }
    all
}

impl Daemon {
    /// Looks after the releases of a network, as long as this node is in it.
    pub(super) async fn keep_released(self: Arc<Self>, network: Arc<Network>) {
        let began = Instant::now();
        let mut keeper = Keeper::new(self.node(), 0);
        let (done_in, mut done) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
                // Bounded by the tasks that a keeper has under way.
                Some(done) = done.recv() => {
                    match done {
                        Done::Asked { holder, blob, has } => keeper.answered(holder, blob, has, began.elapsed()),
                        Done::Copied { blob, to, done } => keeper.copied(blob, to, done, began.elapsed()),
                    }
                    continue;
                }
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            }
            if !self.networks().get(&network.id).is_some_and(|known| Arc::ptr_eq(known, &network)) {
                return;
            }
            let Some(copies) = network.charter().map(|charter| charter.policy().holders) else { continue };
            let watchers = self.watchers(&network);
            if !watchers.contains(&self.node()) {
                network.set_kept(None);
                continue;
            }
            let now = began.elapsed();
            keeper.set_copies(copies);
            keeper.set_watchers(watchers);
            let mut holders = self.known_holders(network.id).await;
            // What this node holds itself counts: it can be asked like any other.
            holders.extend(self.holds_for(&network));
            keeper.set_holders(holders, now);
            keeper.set_kept(released(&network));
            let (lacking, looked_after) = keeper.lacking(now);
            network.set_kept(Some(KeptStatus { copies, looked_after, lacking }));
            // Copies are large, most of them; meanwhile another watcher sees to it.
            if self.net.traffic().rests() {
                continue;
            }
            for task in keeper.poll(now) {
                let (daemon, network, done) = (self.clone(), network.clone(), done_in.clone());
                tasks.spawn(async move {
                    let what = match task {
                        Task::Ask { holder, blob } => Done::Asked { holder, blob, has: daemon.has_all(holder, blob).await },
                        Task::Copy { blob, to } => Done::Copied { blob, to, done: daemon.copy_to(&network, blob, to).await },
                    };
                    // Without the keeper nobody needs to know.
                    let _ = done.send(what);
                });
            }
        }
    }

    /// This node, where it is a holder that can be reached and has told so.
    fn holds_for(&self, network: &Network) -> Option<NodeId> {
        self.net.holder()?;
        let node = self.node();
        let told =
            self.engines.ask(&network.id, |engine| engine.board().of_kind(Kind::Have).any(|record| NodeId(record.author_key()) == node));
        (told == Some(true)).then_some(node)
    }

    /// The nodes that see to it: those of maintainers, and members that hold; only such as have said lately that they are there.
    fn watchers(&self, network: &Network) -> BTreeSet<NodeId> {
        let watchers = self.engines.ask(&network.id, |engine| {
            let members = engine.members();
            let holders: BTreeSet<NodeId> = engine.board().of_kind(Kind::Have).map(|record| NodeId(record.author_key())).collect();
            let is_watcher = |node: &NodeId| {
                let operator = members.operator_of(node);
                operator.is_some_and(|operator| members.is_founder(&operator) || holders.contains(node) && engine.is_member(node))
            };
            engine.board().presences().map(|(node, ..)| node).filter(is_watcher).collect::<BTreeSet<_>>()
        });
        watchers.unwrap_or_default()
    }

    async fn has_all(&self, holder: NodeId, blob: BlobHash) -> Option<bool> {
        if holder == self.node() {
            // What is only cached may go at any time.
            return Some(self.net.holder().is_some_and(|holder| holder.holds(&blob)));
        }
        self.net.has_all(holder, blob).await
    }

    /// Gives a blob to a holder; fetches it first where it is not here. Whether the holder has it now.
    async fn copy_to(&self, network: &Network, blob: BlobHash, to: NodeId) -> bool {
        let copying = async {
            self.fetch_blob(network.id, blob, None, Vec::new(), None).await.map_err(|error| error.to_string())?;
            if to == self.node() {
                // It was fetched, and is held from now on.
                let holder = self.net.holder().cloned().ok_or("this node holds nothing for others")?;
                let held = tokio::task::spawn_blocking(move || holder.adopt(&blob, to)).await;
                return held.map_err(|error| error.to_string())?.map(|()| 0).map_err(|why| why.to_string());
            }
            self.push_to(to, blob, false).await.map_err(|error| error.to_string())
        };
        match tokio::time::timeout(COPY_TIME, copying).await {
            Ok(Ok(sent)) => {
                tracing::info!(blob = %blob.short(), to = %to.short(), sent, "a holder has a copy of what was released");
                true
            }
            Ok(Err(problem)) => {
                tracing::warn!(blob = %blob.short(), to = %to.short(), problem, "a copy of what was released can't be made");
                false
            }
            Err(_) => {
                tracing::warn!(blob = %blob.short(), to = %to.short(), "a copy of what was released takes too long");
                false
            }
        }
    }
}
