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
use barnraiser_protocol::transfer::holding::{Block, Gone, HELD_BLOBS_MAX, Kept, Ledger, Source};
use barnraiser_protocol::transfer::push::PushRefusal;
use barnraiser_store::{Fault, Keeping, Store};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::{HoldConfig, PushAccess};

pub(crate) use take::take;

/// Pushes that are taken at the same time, of all peers: each has two units in memory.
const PUSHES_MAX: usize = 16;
/// ... of one block of addresses, since keys cost nothing ...
const PUSHES_PER_BLOCK: usize = 4;
/// ... and of one peer.
const PUSHES_PER_PEER: usize = 2;
/// The most entries of the ledger that are read at the start: twice as many as there can be, if a smaller quota was set since.
const ROWS_MAX: usize = 2 * HELD_BLOBS_MAX;
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

/// Pushes that may be taken at the same time, by who pushes: only of those who do at this moment.
type Permits<K> = Mutex<BTreeMap<K, Arc<Semaphore>>>;

/// The right to push one offer: of the peer, its block of addresses, and all.
type Permit = (OwnedSemaphorePermit, OwnedSemaphorePermit, OwnedSemaphorePermit);

/// A store that keeps what others push. Cheap to share behind an [`Arc`].
pub struct Holder {
    store: Store,
    ledger: Mutex<Ledger>,
    access: Arc<dyn PushAccess>,
    pushes: Arc<Semaphore>,
    by_block: Permits<Block>,
    by_peer: Permits<NodeId>,
    /// Counts up when something came or went that is told to others.
    changed: watch::Sender<u64>,
}

impl Holder {
    /// Opens what is held in `store`. Reads all entries of the ledger, and so blocks. What is over the quota goes, and what
    /// nothing came of.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn open(store: Store, config: HoldConfig) -> Result<Self, Fault> {
        let mut ledger = Ledger::new(config.quota);
        let mut gone = Vec::new();
        for (key, value) in store.meta_scan(KEY, ROWS_MAX)? {
            let hash = key.get(KEY.len()..).and_then(|hash| <[u8; 32]>::try_from(hash).ok()).map(BlobHash);
            let (Some(hash), Ok(mut kept)) = (hash, codec::decode::<Kept>(&value, ENTRY_BYTES_MAX)) else {
                tracing::warn!("an entry of what is held can't be read; it is dropped");
                store.meta_delete(&key)?;
                continue;
            };
            let was_whole = kept.whole;
            if let Some(length) = store.length(&hash)? {
                (kept.length, kept.bytes, kept.whole) = (length, length, true);
            } else {
                // Noted with each unit, and the entry only at the end of a push.
                (kept.bytes, kept.whole) = (store.fetched_bytes(&hash)?.min(kept.length), false);
            }
            if kept.whole {
                // Cut short between its completion and this; or its class was lowered, by whoever had another use for it.
                kept.whole = store.keep(&hash)? != Keeping::Absent;
                if kept.whole != was_whole {
                    store.meta_put(&key, &codec::encode(&kept), false)?;
                }
            }
            if kept.whole || kept.bytes > 0 {
                ledger.load(hash, kept);
            } else {
                gone.push(Gone { hash, whole: false });
            }
        }
        gone.extend(ledger.trim());
        let holder = Self {
            store,
            ledger: Mutex::new(ledger),
            access: config.access,
            pushes: Arc::new(Semaphore::new(PUSHES_MAX)),
            by_block: Mutex::default(),
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
    pub fn adopt(self: &Arc<Self>, hash: &BlobHash, local: NodeId) -> Result<(), PushRefusal> {
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
    fn permit(&self, source: &Source) -> Option<Permit> {
        let of_peer = permit(&self.by_peer, source.peer, PUSHES_PER_PEER)?;
        let of_block = permit(&self.by_block, source.block, PUSHES_PER_BLOCK)?;
        Some((of_peer, of_block, self.pushes.clone().try_acquire_owned().ok()?))
    }

    /// Removes what the ledger let go, after which it may be offered again. Blocks.
    fn let_go(&self, gone: &[Gone]) -> Result<(), Fault> {
        if gone.is_empty() {
            return Ok(());
        }
        let removed = self.remove(gone);
        {
            // Also what could not be removed: its entry is still on disk, and read at the next start.
            let mut ledger = self.ledger();
            gone.iter().for_each(|one| ledger.gone(&one.hash));
        }
        self.changed.send_modify(|count| *count += 1);
        removed
    }

    fn remove(&self, gone: &[Gone]) -> Result<(), Fault> {
        let whole: Vec<BlobHash> = gone.iter().filter(|one| one.whole).map(|one| one.hash).collect();
        if !whole.is_empty() {
            for left in self.store.remove(&whole)? {
                tracing::debug!(hash = %left, "a blob that is held no more stays, since something else keeps it here");
            }
        }
        for one in gone {
            // What somebody is fetching is not the holder's any more, and goes as what is fetched does.
            if !one.whole && !self.store.forget_partial(&one.hash)? {
                tracing::debug!(hash = %one.hash, "a part that is held no more stays, since it is being fetched");
            }
            // Last, so that a start after a crash finds what is left.
            self.store.meta_delete(&key(&one.hash))?;
        }
        tracing::debug!(count = gone.len(), "blobs went, to make room");
        Ok(())
    }

    /// Writes a blob's entry of the ledger down. Blocks.
    fn write(&self, hash: &BlobHash, sync: bool) -> Result<(), Fault> {
        let kept = self.ledger().get(hash).cloned();
        match kept {
            Some(kept) => self.store.meta_put(&key(hash), &codec::encode(&kept), sync)?,
            None => self.store.meta_delete(&key(hash))?,
        }
        // Let go meanwhile, perhaps with its entry deleted before this wrote it.
        if self.ledger().get(hash).is_none() { self.store.meta_delete(&key(hash)) } else { Ok(()) }
    }
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holder").field("store", &self.store).finish_non_exhaustive()
    }
}

/// One of `most` permits that `who` has at a time.
fn permit<K: Ord>(permits: &Permits<K>, who: K, most: usize) -> Option<OwnedSemaphorePermit> {
    let mut permits = permits.lock().unwrap_or_else(PoisonError::into_inner);
    permits.retain(|_, permits| permits.available_permits() < most);
    let of_one = permits.entry(who).or_insert_with(|| Arc::new(Semaphore::new(most))).clone();
    // With the map locked: nobody drops it as unused before it is taken.
    of_one.try_acquire_owned().ok()
}

fn key(hash: &BlobHash) -> Vec<u8> {
    [KEY, hash.as_bytes()].concat()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
