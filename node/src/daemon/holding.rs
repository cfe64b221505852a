//! What this node holds for others, where it does: from whom, and whom it tells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use barnraiser_bootstrap::{BlobAccess as _, HoldConfig, Holder, PushAccess};
use barnraiser_protocol::bounded::BoundedVec;
use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId};
use barnraiser_protocol::record::payload::{HAVE_BLOBS_MAX, Have};
use barnraiser_protocol::record::{Kind, Payload};
use barnraiser_store::Store;

use super::Daemon;
use super::artefacts::Private;
use super::engines::Engines;
use super::networks::Network;
use crate::config::ServeConfig;

/// What a seed holds if its owner says nothing: this part of the disk's free bytes.
const FREE_SHARE: u64 = 10;
/// How often others are told of what is new here.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How often they are told again: twice in the life of a record.
const TELL_AGAIN: Duration = Duration::from_secs(11 * 3600);
/// The most blobs that others are told of, those that were used last: as many fit into a hundred records.
const TOLD_MAX: usize = 100 * HAVE_BLOBS_MAX;
/// How often it is looked for what began to come and was left.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// Members of any network of this node. What it hides itself they learn from no offer.
struct Members {
    engines: Arc<Engines>,
    private: Arc<Private>,
}

impl PushAccess for Members {
    fn may_push(&self, from: &NodeId) -> bool {
        self.engines.any(|engine| engine.is_member(from))
    }

    fn may_tell(&self, hash: &BlobHash, to: &NodeId) -> bool {
        self.private.may_serve(hash, to)
    }
}

/// What to hold, as the owner says it.
pub(super) fn hold_config(serve: &ServeConfig, store: &Store, engines: &Arc<Engines>, private: &Arc<Private>) -> Option<HoldConfig> {
    let quota = match (serve.hold, serve.seed_only) {
        (Some(size), _) => size.bytes(),
        // Of what would be free without what is here: what was held before a restart is held after it.
        (None, true) => match store.free_bytes().and_then(|free| Ok(free.saturating_add(store.stats()?.bytes))) {
            Ok(free) => free / FREE_SHARE,
            Err(error) => {
                tracing::error!(%error, "the disk can't be asked how much is free; nothing is held for others");
                return None;
            }
        },
        (None, false) => return None,
    };
    Some(HoldConfig { quota, access: Arc::new(Members { engines: engines.clone(), private: private.clone() }) })
}

impl Daemon {
    /// Tells members what is held here, for ever: in batches, soon after it came and twice a day.
    pub(super) async fn tell_held(self: Arc<Self>, holder: Arc<Holder>) {
        let mut told: BTreeMap<(NetworkId, Option<BlobHash>), Instant> = BTreeMap::new();
        let mut tidied = Instant::now();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(TELL_EVERY) => {}
            }
            if tidied.elapsed() >= TIDY_EVERY {
                tidied = Instant::now();
                let holder = holder.clone();
                if let Ok(Err(error)) = tokio::task::spawn_blocking(move || holder.tidy()).await {
                    tracing::error!(%error, "what began to come and was left can't be removed");
                }
            }
            // Who can't be reached is of no use as a holder.
            if self.net.is_reachable() == Some(false) {
                continue;
            }
            told.retain(|_, at| at.elapsed() < TELL_AGAIN);
            let held = holder.told(TOLD_MAX);
            let networks: Vec<Arc<Network>> = self.networks().values().cloned().collect();
            for network in networks {
                let known = self.known_blobs(&network);
                let of_network = held.iter().filter(|blob| known.contains(*blob)).copied().map(Some);
                // That it holds nothing yet is worth knowing, too: it may be pushed to.
                let new: Vec<Option<BlobHash>> =
                    std::iter::once(None).chain(of_network).filter(|blob| !told.contains_key(&(network.id, *blob))).collect();
                for batch in new.chunks(HAVE_BLOBS_MAX) {
                    let blobs: Vec<BlobHash> = batch.iter().copied().flatten().collect();
                    // Chunks are no longer than the bound.
                    let payload = Payload::Have(Have { blobs: BoundedVec::try_from(blobs).unwrap_or_default() });
                    let published = self.engines.with(&network.id, |engine, now| engine.publish(now, payload, Kind::Have.lifetime_max()));
                    if published.flatten().is_some() {
                        told.extend(batch.iter().map(|blob| ((network.id, *blob), Instant::now())));
                    }
                }
            }
        }
    }

    /// What members of a network may fetch by name: outputs that were revealed, and what is released. A holder tells a network
    /// of these alone, and not of what it holds for another.
    fn known_blobs(&self, network: &Network) -> BTreeSet<BlobHash> {
        let mut known = self
            .engines
            .ask(&network.id, |engine| {
                let reveals = engine.board().of_kind(Kind::Reveal).filter_map(|record| match record.payload() {
                    Payload::Reveal(reveal) => Some(reveal),
                    _ => None,
                });
                let trees =
                    reveals.flat_map(|reveal| std::iter::once(&reveal.outcome).chain(reveal.again.as_deref()).filter_map(|one| one.tree()));
                trees.collect::<BTreeSet<_>>()
            })
            .unwrap_or_default();
        known.extend(super::keeping::released(network).into_iter().map(|kept| kept.blob));
        known
    }
}
