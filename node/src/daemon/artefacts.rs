//! Blobs and trees: fetched from the swarm, and kept from it while they are private.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use barnraiser_bootstrap::{BlobAccess, FetchProgress, FetchReport, FetchRequest};
use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId};
use barnraiser_protocol::tree::MANIFEST_BYTES_MAX;
use barnraiser_store::Durability;
use tokio::sync::watch;

use super::Daemon;
use super::builds::distinct;

/// The greatest blob that is fetched: a file system image of a large device.
const BLOB_BYTES_MAX: u64 = 64 << 30;

/// Blobs of results that are not revealed yet, counted by the results that have them. They are not served: whoever could
/// fetch a result before the quorum has committed could copy it instead of building (DESIGN section 8.1).
#[derive(Debug, Default)]
pub(super) struct Private {
    hidden: Mutex<BTreeMap<BlobHash, usize>>,
}

impl Private {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<BlobHash, usize>> {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps blobs from the swarm.
    pub fn hide(&self, blobs: &[BlobHash]) {
        let mut hidden = self.lock();
        for blob in blobs {
            *hidden.entry(*blob).or_default() += 1;
        }
    }

    /// Takes one [`Private::hide`] of each back.
    pub fn open(&self, blobs: &[BlobHash]) {
        let mut hidden = self.lock();
        for blob in blobs {
            if let Some(count) = hidden.get_mut(blob) {
                *count -= 1;
                if *count == 0 {
                    hidden.remove(blob);
                }
            }
        }
    }
}

impl BlobAccess for Private {
    fn may_serve(&self, hash: &BlobHash, _to: &NodeId) -> bool {
        !self.lock().contains_key(hash)
    }
}

impl Daemon {
    /// Fetches a blob into the store, unless it is there. Asks `likely` and whoever else has it.
    pub(super) async fn fetch_blob(
        &self,
        network: NetworkId,
        hash: BlobHash,
        length: Option<u64>,
        likely: Vec<NodeId>,
        progress: Option<watch::Sender<FetchProgress>>,
    ) -> anyhow::Result<FetchReport> {
        self.fetch_within(network, hash, length, likely, progress, BLOB_BYTES_MAX).await
    }

    async fn fetch_within(
        &self,
        network: NetworkId,
        hash: BlobHash,
        length: Option<u64>,
        likely: Vec<NodeId>,
        progress: Option<watch::Sender<FetchProgress>>,
        limit: u64,
    ) -> anyhow::Result<FetchReport> {
        let store = self.store.clone();
        let here = tokio::task::spawn_blocking(move || store.length(&hash)).await??;
        if let Some(length) = here {
            return Ok(FetchReport { length, bytes_by_peer: BTreeMap::new(), already_had: length, stolen: 0 });
        }
        let mut providers: BTreeSet<NodeId> = likely.into_iter().filter(|node| *node != self.node()).collect();
        let request = |providers: &BTreeSet<NodeId>| FetchRequest {
            hash,
            length,
            network: Some(network),
            providers: providers.iter().copied().collect(),
            durability: Durability::Cached,
            limit,
        };
        // Who is likely to have it is asked first: a build waits for it. Others are looked for when they fail.
        if !providers.is_empty() && progress.is_none() {
            match self.net.fetch(request(&providers), None).await {
                Ok(report) => return Ok(report),
                Err(error) => tracing::debug!(%hash, %error, "looking for others who have it"),
            }
        }
        providers.extend(self.net.who_has(network, hash).await.into_iter().filter(|node| *node != self.node()));
        Ok(self.net.fetch(request(&providers), progress).await?)
    }

    /// Fetches a blob of at most `limit` bytes and reads it.
    pub(super) async fn fetch_bytes(
        &self,
        network: NetworkId,
        hash: BlobHash,
        length: Option<u64>,
        likely: Vec<NodeId>,
        limit: u64,
    ) -> anyhow::Result<Vec<u8>> {
        // What would not be read is not fetched either.
        self.fetch_within(network, hash, length, likely, None, limit).await?;
        let store = self.store.clone();
        Ok(tokio::task::spawn_blocking(move || store.read_all(&hash, limit)).await??)
    }

    /// Fetches a tree's manifest and all its files.
    pub(super) async fn fetch_tree(&self, network: NetworkId, tree: BlobHash, likely: Vec<NodeId>) -> anyhow::Result<()> {
        self.fetch_bytes(network, tree, None, likely.clone(), MANIFEST_BYTES_MAX as u64).await?;
        let store = self.store.clone();
        let manifest = tokio::task::spawn_blocking(move || store.tree(&tree)).await??;
        let lengths: BTreeMap<BlobHash, u64> = manifest.blobs().collect();
        for hash in distinct(lengths.keys().copied()) {
            self.fetch_blob(network, hash, lengths.get(&hash).copied(), likely.clone(), None).await?;
        }
        Ok(())
    }

    /// The manifest of a tree that is here, and all its files.
    pub(super) async fn blobs_of(&self, tree: BlobHash) -> Vec<BlobHash> {
        let store = self.store.clone();
        let manifest = tokio::task::spawn_blocking(move || store.tree(&tree)).await;
        let mut blobs = BTreeSet::from([tree]);
        match manifest {
            Ok(Ok(manifest)) => blobs.extend(manifest.blobs().map(|(hash, _)| hash)),
            Ok(Err(error)) => tracing::warn!(tree = %tree.short(), %error, "a manifest of this node can't be read"),
            Err(error) => tracing::warn!(tree = %tree.short(), %error, "a manifest of this node can't be read"),
        }
        blobs.into_iter().collect()
    }
}
