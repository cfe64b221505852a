//! Keeps blobs for others: what nodes push that can't be reached themselves.
//!
//! A [`Holder`] is a store with a [`Ledger`], which says who fills it and what goes when it is full; the ledger's entries are
//! kept beside the blobs, so a restart forgets nothing. Blobs are served as any other node serves them ([`crate::transfer`]);
//! `take` answers those who push. Whoever may push is said by the owner: everybody at an entry server, members at a node.

mod take;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use barnraiser_protocol::codec;
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::transfer::holding::{Block, HELD_BLOBS_MAX, Kept, Ledger, Source};
use barnraiser_protocol::transfer::push::PushRefusal;
use barnraiser_store::{Fault, Store};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::{HoldConfig, PushAccess};

pub(crate) use take::take;

/// Pushes that are taken at the same time, of all peers: each has two units in memory.
const PUSHES_MAX: usize = 16;
/// ... and of one peer.
const PUSHES_PER_PEER: usize = 2;
/// In front of a blob's hash, under which the store keeps its entry of the ledger.
const KEY: &[u8] = b"held/";
/// The longest entry of the ledger.
const ENTRY_BYTES_MAX: usize = 1024;

/// What a holder keeps, as its owner looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeldStats {
    /// Blobs that are whole.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that began to come.
    pub parts: u64,
    /// Bytes that may be kept.
    pub quota: u64,
    /// Bytes that count: those of blobs and parts, and what each counts beside.
    pub used: u64,
}

/// A store that keeps what others push. Cheap to share behind an [`Arc`].
pub struct Holder {
    store: Store,
    ledger: Mutex<Ledger>,
    access: Arc<dyn PushAccess>,
    pushes: Arc<Semaphore>,
    by_peer: Mutex<BTreeMap<NodeId, Arc<Semaphore>>>,
    /// Counts up when something came or went that is told to others.
    changed: watch::Sender<u64>,
}

impl Holder {
    /// Opens what is held in `store`. Reads all entries of the ledger, and so blocks. What is over the quota goes.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn open(store: Store, config: HoldConfig) -> Result<Self, Fault> {
        let mut ledger = Ledger::new(config.quota);
        for (key, value) in store.meta_scan(KEY, HELD_BLOBS_MAX)? {
            let hash = key.get(KEY.len()..).and_then(|hash| <[u8; 32]>::try_from(hash).ok()).map(BlobHash);
            let (Some(hash), Ok(mut kept)) = (hash, codec::decode::<Kept>(&value, ENTRY_BYTES_MAX)) else {
                tracing::warn!("an entry of what is held can't be read; it is dropped");
                store.meta_delete(&key)?;
                continue;
            };
            let is_here = if kept.whole {
                store.contains(&hash)?
            } else {
                // Noted with each unit, and the entry only at the end of a push.
                kept.bytes = store.fetched_bytes(&hash)?.min(kept.length);
                kept.bytes > 0
            };
            if is_here {
                ledger.load(hash, kept);
            } else {
                store.meta_delete(&key)?;
            }
        }
        let gone = ledger.trim();
        let holder = Self {
            store,
            ledger: Mutex::new(ledger),
            access: config.access,
            pushes: Arc::new(Semaphore::new(PUSHES_MAX)),
            by_peer: Mutex::default(),
            changed: watch::Sender::new(0),
        };
        holder.let_go(&gone)?;
        Ok(holder)
    }

    /// How much is held.
    pub fn stats(&self) -> HeldStats {
        let ledger = self.ledger();
        let mut stats = HeldStats { quota: ledger.quota(), used: ledger.total(), ..HeldStats::default() };
        for (_, kept) in ledger.held() {
            if kept.whole {
                stats.blobs += 1;
                stats.bytes += kept.length;
            } else {
                stats.parts += 1;
            }
        }
        stats
    }

    /// Up to `most` of the blobs that others should be told of, those that were used last first.
    pub fn told(&self, most: usize) -> Vec<BlobHash> {
        let ledger = self.ledger();
        let mut told: Vec<(Timestamp, BlobHash)> =
            ledger.held().filter(|(_, kept)| kept.whole && kept.told).map(|(hash, kept)| (kept.used, *hash)).collect();
        drop(ledger);
        told.sort_unstable_by(|a, b| b.cmp(a));
        told.into_iter().take(most).map(|(_, hash)| hash).collect()
    }

    /// Holds a blob that is in the store already, as if this node had pushed it to itself. Blocks.
    ///
    /// # Errors
    /// [`PushRefusal`].
    pub fn adopt(&self, hash: &BlobHash, local: NodeId) -> Result<(), PushRefusal> {
        take::adopt(self, Source { block: Block::Unknown, peer: local }, *hash)
    }

    /// Whether all of a blob is held, by what was pushed.
    pub fn holds(&self, hash: &BlobHash) -> bool {
        self.ledger().get(hash).is_some_and(|kept| kept.whole)
    }

    /// Somebody fetches a blob: it goes later than others. Cheap, and forgotten with the process.
    pub fn touch(&self, hash: &BlobHash) {
        self.ledger().touch(now(), hash);
    }

    /// Sees when something came or went.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Lets go what began to come and was left for a day. Blocks.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn tidy(&self) -> Result<usize, Fault> {
        let gone = self.ledger().expire(now());
        self.let_go(&gone)?;
        Ok(gone.len())
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Each call leaves the ledger whole, so a panic elsewhere did not break it.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to push now, or none.
    fn permit(&self, peer: NodeId) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let of_peer = {
            let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
            by_peer.retain(|_, permits| permits.available_permits() < PUSHES_PER_PEER);
            by_peer.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(PUSHES_PER_PEER))).clone()
        };
        Some((of_peer.try_acquire_owned().ok()?, self.pushes.clone().try_acquire_owned().ok()?))
    }

    /// Removes blobs that the ledger let go. Blocks.
    fn let_go(&self, gone: &[BlobHash]) -> Result<(), Fault> {
        if gone.is_empty() {
            return Ok(());
        }
        for hash in gone {
            self.store.meta_delete(&key(hash))?;
        }
        for left in self.store.remove(gone)? {
            tracing::debug!(hash = %left, "a blob that is held no more stays, since something else keeps it here");
        }
        tracing::debug!(count = gone.len(), "blobs went, to make room");
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Writes a blob's entry of the ledger down. Blocks.
    fn write(&self, hash: &BlobHash, sync: bool) -> Result<(), Fault> {
        let kept = self.ledger().get(hash).cloned();
        match kept {
            Some(kept) => self.store.meta_put(&key(hash), &codec::encode(&kept), sync),
            None => self.store.meta_delete(&key(hash)),
        }
    }
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holder").field("store", &self.store).finish_non_exhaustive()
    }
}

fn key(hash: &BlobHash) -> Vec<u8> {
    [KEY, hash.as_bytes()].concat()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
