//! Keeps the store to its quota, and in order.

use std::sync::Arc;
use std::time::Duration;

use super::Daemon;
use crate::api;

/// How often the quota is looked at. Imports and fetches that need room make it themselves; this is for what they don't see:
/// small blobs, and a disk that others fill.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How many looks it is until files are removed that nothing refers to, and fetches that were left: six hours.
const LOOKS_PER_COLLECTION: u32 = 360;

impl Daemon {
    /// Keeps order, for ever.
    pub(super) async fn keep_room(self: Arc<Self>) {
        self.store.set_quota(self.config.store.quota.0);
        for look in 0u32.. {
            let store = self.store.clone();
            let kept = tokio::task::spawn_blocking(move || {
                store.keep_to_quota()?;
                if look % LOOKS_PER_COLLECTION == LOOKS_PER_COLLECTION - 1 { store.gc(u64::MAX).map(drop) } else { Ok(()) }
            });
            if let Ok(Err(error)) = kept.await {
                tracing::warn!(%error, "the store can't be kept in order");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// For `barn status`.
    pub(super) async fn room_status(&self) -> Result<api::RoomStatus, api::Problem> {
        let store = self.store.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let stats = store.stats()?;
            Ok(api::RoomStatus { blobs: stats.blobs, bytes: stats.bytes, quota: store.quota_bytes()?, free: store.free_bytes()? })
        });
        let known: Result<_, barnraiser_store::Fault> = asked.await.map_err(|error| api::Problem::failed(error.to_string()))?;
        known.map_err(|fault| api::Problem::failed(fault.to_string()))
    }
}
