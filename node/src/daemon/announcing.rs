//! What this node tells Kademlia that it has: the newest release of each channel, and the released files that are here.
//!
//! Both are what people look for who know nobody of the network. All else is found through results, holders and members;
//! each announcement costs traffic for as long as it stands, so nothing is announced that is not here, private, or superseded.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use barnraiser_bootstrap::BlobAccess as _;
use barnraiser_protocol::id::BlobHash;
use barnraiser_store::{Fault, Store};
use tokio::sync::Notify;

use super::Daemon;

/// How often it is looked what is still here. What was evicted is asked for in vain that long, at this node; others forget
/// it within an hour.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The most that is announced: more images than all channels of a few networks have.
const ANNOUNCED_MAX: usize = 1024;

/// Says that what is to be announced may have changed.
#[derive(Debug, Default)]
pub(super) struct Announcing(Notify);

impl Announcing {
    /// A release was taken, or a blob came or went.
    pub fn changed(&self) {
        self.0.notify_one();
    }
}

impl Daemon {
    /// Announces what there is to announce, and ends what is not here any more, for ever.
    pub(super) async fn announce_what_is_here(self: Arc<Self>) {
        let mut announced = BTreeSet::new();
        loop {
            let released = self.released();
            let (store, wanted) = (self.store.clone(), released.clone());
            let here = tokio::task::spawn_blocking(move || here(&store, &wanted)).await;
            match here {
                Ok(Ok(here)) => self.announce(&mut announced, here).await,
                Ok(Err(error)) => tracing::warn!(%error, "it can't be told what is to be announced"),
                Err(error) => tracing::error!(%error, "it can't be told what is to be announced"),
            }
            tokio::select! {
                () = self.announcing.0.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// The newest release of each channel, and its files.
    fn released(&self) -> BTreeSet<BlobHash> {
        let mut released = BTreeSet::new();
        for network in self.networks().values() {
            let releases = network.releases.read().unwrap_or_else(PoisonError::into_inner);
            for release in releases.values() {
                released.insert(BlobHash::of(&release.to_bytes()));
                released.extend(release.targets().values().map(|target| target.blob));
            }
        }
        released
    }

    async fn announce(&self, announced: &mut BTreeSet<BlobHash>, here: BTreeSet<BlobHash>) {
        let mut open: BTreeSet<BlobHash> = here.into_iter().filter(|hash| self.private.may_serve(hash, &self.node())).collect();
        if open.len() > ANNOUNCED_MAX {
            tracing::warn!(released = open.len(), announced = ANNOUNCED_MAX, "more is released than is announced to Kademlia");
            open = open.into_iter().take(ANNOUNCED_MAX).collect();
        }
        for gone in announced.difference(&open).copied().collect::<Vec<_>>() {
            tracing::debug!(hash = %gone, "not announced any more");
            if self.net.unprovide(gone).await.is_ok() {
                announced.remove(&gone);
            }
        }
        for new in open.difference(announced).copied().collect::<Vec<_>>() {
            match self.net.provide(new).await {
                Ok(()) => _ = announced.insert(new),
                // Tried again with the next look.
                Err(error) => tracing::debug!(hash = %new, %error, "can't be announced"),
            }
        }
    }
}

/// Those of `wanted` that are in the store.
fn here(store: &Store, wanted: &BTreeSet<BlobHash>) -> Result<BTreeSet<BlobHash>, Fault> {
    let mut here = BTreeSet::new();
    for hash in wanted {
        if store.contains(hash)? {
            here.insert(*hash);
        }
    }
    Ok(here)
}
