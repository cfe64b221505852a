//! Blobs and trees: fetched from the swarm, and kept from it while they are private.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use barnraiser_bootstrap::{BlobAccess, FetchProgress, FetchReport, FetchRequest};
use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId};
use barnraiser_protocol::record::payload::LeaseRef;
use barnraiser_protocol::tree::MANIFEST_BYTES_MAX;
use barnraiser_store::{Durability, Hold};
use tokio::sync::watch;

use super::Daemon;

/// The greatest blob that is fetched: a file system image of a large device.
pub(super) const BLOB_BYTES_MAX: u64 = 64 << 30;

/// How long a person's fetch waits for the first member that this node connects to, ...
const MEETING_TIME: Duration = Duration::from_secs(10);
/// ... and how often it looks.
const MEETING_LOOK: Duration = Duration::from_millis(200);

/// So many blobs are remembered as wanted by all: more than there are live batches. A graph that is forgotten is served like
/// any other blob.
const RATIONED_MAX: usize = 4096;

/// Blobs of results that are not revealed yet. They are not served: whoever could fetch a result before the quorum has
/// committed could copy it instead of building (DESIGN section 8.1).
///
/// What an action is built from is public, and stays so where a build copies it into its outputs: others need it to build
/// the same. So each result has a list of what is its alone.
#[derive(Debug, Default)]
pub(super) struct Private {
    inner: Mutex<Hidden>,
}

#[derive(Debug, Default)]
struct Hidden {
    /// Blob → in how many results it is.
    blobs: BTreeMap<BlobHash, usize>,
    results: BTreeMap<ResultId, BTreeSet<BlobHash>>,
    /// What all nodes of a network want at once: graphs and policies of batches.
    rationed: BTreeSet<BlobHash>,
}

/// A result of this node, or one that is on its way.
pub(super) type ResultId = (NetworkId, LeaseRef);

impl Private {
    fn lock(&self) -> MutexGuard<'_, Hidden> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps blobs of a result from the swarm.
    pub fn hide(&self, result: ResultId, blobs: impl IntoIterator<Item = BlobHash>) {
        let mut inner = self.lock();
        let Hidden { blobs: counts, results, .. } = &mut *inner;
        let of_result = results.entry(result).or_default();
        for blob in blobs {
            if of_result.insert(blob) {
                *counts.entry(blob).or_default() += 1;
            }
        }
    }

    /// Serves a blob from now on as what everybody wants at once.
    pub fn ration(&self, blob: BlobHash) {
        let mut inner = self.lock();
        if inner.rationed.len() >= RATIONED_MAX {
            inner.rationed.pop_first();
        }
        inner.rationed.insert(blob);
    }

    /// All of a result may be served from now on, but for what others hide.
    pub fn open(&self, result: &ResultId) {
        let mut inner = self.lock();
        for blob in inner.results.remove(result).unwrap_or_default() {
            if let Some(count) = inner.blobs.get_mut(&blob) {
                *count -= 1;
                if *count == 0 {
                    inner.blobs.remove(&blob);
                }
            }
        }
    }

    /// What a result hides.
    pub fn of(&self, result: &ResultId) -> Vec<BlobHash> {
        self.lock().results.get(result).into_iter().flatten().copied().collect()
    }
}

impl BlobAccess for Private {
    fn may_serve(&self, hash: &BlobHash, _to: &NodeId) -> bool {
        !self.lock().blobs.contains_key(hash)
    }

    fn is_rationed(&self, hash: &BlobHash) -> bool {
        self.lock().rationed.contains(hash)
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
            return Ok(FetchReport { length, bytes_by_peer: BTreeMap::new(), already_had: length, stolen: 0, lost: BTreeMap::new() });
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
        if progress.is_some() {
            self.meet_members(network).await;
        }
        providers.extend(self.net.who_has(network, hash).await.into_iter().filter(|node| *node != self.node()));
        Ok(self.net.fetch(request(&providers), progress).await?)
    }

    /// Waits until a member of the network is connected: who has just started its node is not told that nobody has anything.
    /// Not for long, since there may be none.
    async fn meet_members(&self, network: NetworkId) {
        let deadline = Instant::now() + MEETING_TIME;
        while Instant::now() < deadline && !self.net.peers().await.iter().any(|peer| peer.networks.contains(&network)) {
            tokio::time::sleep(MEETING_LOOK).await;
        }
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

    /// Holds blobs against eviction. Waits for evictions that are under way.
    pub(super) async fn hold(&self, mut hold: Hold, blobs: Vec<BlobHash>) -> anyhow::Result<Hold> {
        Ok(tokio::task::spawn_blocking(move || {
            blobs.into_iter().for_each(|hash| hold.add(hash));
            hold
        })
        .await?)
    }

    /// Fetches a tree's manifest and all its files; gives the hashes of all of them, held.
    pub(super) async fn fetch_tree(
        &self,
        network: NetworkId,
        tree: BlobHash,
        likely: Vec<NodeId>,
    ) -> anyhow::Result<(BTreeSet<BlobHash>, Hold)> {
        let hold = self.hold(self.store.hold(), vec![tree]).await?;
        self.fetch_bytes(network, tree, None, likely.clone(), MANIFEST_BYTES_MAX as u64).await?;
        let store = self.store.clone();
        let manifest = tokio::task::spawn_blocking(move || store.tree(&tree)).await??;
        let lengths: BTreeMap<BlobHash, u64> = manifest.blobs().collect();
        let hold = self.hold(hold, lengths.keys().copied().collect()).await?;
        for (hash, length) in &lengths {
            self.fetch_blob(network, *hash, Some(*length), likely.clone(), None).await?;
        }
        Ok((lengths.into_keys().chain([tree]).collect(), hold))
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

#[cfg(test)]
mod tests {
    use barnraiser_protocol::id::ActionId;
    use barnraiser_protocol::record::payload::SlotNo;

    use super::*;

    #[test]
    fn what_everybody_wants_is_told_from_other_blobs_and_not_remembered_without_bound() {
        let private = Private::default();
        let blob = |number: usize| BlobHash::of(&number.to_le_bytes());
        assert!(!private.is_rationed(&blob(0)));
        (0..RATIONED_MAX + 10).for_each(|number| private.ration(blob(number)));
        assert!(private.is_rationed(&blob(RATIONED_MAX + 9)));
        assert_eq!(private.lock().rationed.len(), RATIONED_MAX);
    }

    #[test]
    fn a_blob_is_served_once_no_result_hides_it() {
        let private = Private::default();
        let result = |slot| (NetworkId([1; 32]), LeaseRef { action: ActionId([2; 32]), slot: SlotNo(slot), epoch: 1 });
        let blob = |byte| BlobHash([byte; 32]);
        let served = |byte| private.may_serve(&blob(byte), &NodeId([9; 32]));
        // Twice, as of two builds of one result.
        private.hide(result(0), [blob(1), blob(2)]);
        private.hide(result(0), [blob(1)]);
        private.hide(result(1), [blob(2)]);
        assert!(!served(1) && !served(2) && served(3));
        assert_eq!(private.of(&result(0)), [blob(1), blob(2)]);
        private.open(&result(0));
        assert!(served(1) && !served(2));
        // What is opened twice, or never was hidden, takes nothing from others.
        private.open(&result(0));
        private.open(&result(7));
        assert!(!served(2));
        private.open(&result(1));
        assert!(served(2));
    }
}
