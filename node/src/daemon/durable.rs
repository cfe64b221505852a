//! What must survive power loss before anything that follows from it is done or said.
//!
//! A node that published a commitment and then forgot it could publish another one, and would have proven itself a
//! cheat. So a disk that takes nothing stops everything that is promised, and nothing else: the node goes on to answer,
//! to serve and to hear, and goes on with the rest as soon as there is room.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use barnraiser_protocol::engine::{Output, OwnResult};
use barnraiser_protocol::id::NetworkId;
use barnraiser_protocol::record::SharedRecord;
use barnraiser_store::{Fault, StoredRecord};

use super::Daemon;
use super::builds::{KeptResult, result_key};

/// How soon a disk that refused is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Daemon {
    /// Writes what `outputs` want to be durable, however long that takes; `false` where the node stops before it is done.
    /// Then nothing of `outputs` may be carried out.
    pub(super) async fn make_durable(&self, outputs: &[(NetworkId, Output)]) -> bool {
        let mut records: BTreeMap<NetworkId, Vec<SharedRecord>> = BTreeMap::new();
        for (network, output) in outputs {
            match output {
                Output::Persist(record) => records.entry(*network).or_default().push(record.clone()),
                // Before the commitment to it, which is among the records.
                Output::PersistResult(result) => {
                    while let Err(problem) = self.keep_result(network, result).await {
                        if !self.wait_for_disk(problem).await {
                            return false;
                        }
                    }
                }
                _ => {}
            }
        }
        for (network, records) in records {
            while let Err(problem) = self.write_records(network, &records, true).await {
                if !self.wait_for_disk(problem).await {
                    return false;
                }
            }
            self.engines.written(&records);
        }
        if self.stuck.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!("the disk takes what must be written again");
        }
        true
    }

    /// Why nothing can be written now, if that is so.
    pub(super) fn stuck(&self) -> Option<String> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits a moment; `false` where the node stops.
    async fn wait_for_disk(&self, problem: String) -> bool {
        let before = self.stuck.lock().unwrap_or_else(PoisonError::into_inner).replace(problem.clone());
        if before.is_none() {
            tracing::error!(problem, "nothing can be written, so nothing is promised or published until it can");
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => true,
            () = self.stop.cancelled() => false,
        }
    }

    /// Writes records; with `sync` they survive power loss when this returns. A failure is noted only: what came from
    /// others comes again.
    pub(super) async fn persist(&self, network: NetworkId, records: &[SharedRecord], sync: bool) {
        if let Err(problem) = self.write_records(network, records, sync).await {
            tracing::error!(problem, "records can't be written");
        }
    }

    async fn write_records(&self, network: NetworkId, records: &[SharedRecord], sync: bool) -> Result<(), String> {
        let rows: Vec<StoredRecord> = records
            .iter()
            .map(|record| StoredRecord { id: record.id(), expiry_ms: record.forget_at().0, bytes: record.bytes().to_vec() })
            .collect();
        let store = self.store.clone();
        on_disk(move || store.put_records(&network, &rows, sync)).await
    }

    /// Writes a result that is not revealed yet, so that it survives power loss.
    async fn keep_result(&self, network: &NetworkId, result: &OwnResult) -> Result<(), String> {
        let key = result_key(network, &result.lease);
        let private = Some(self.private.of(&(*network, result.lease)));
        let kept = KeptResult { result: result.clone(), private };
        let value = serde_json::to_vec(&kept).map_err(|error| error.to_string())?;
        let store = self.store.clone();
        on_disk(move || store.meta_put(&key, &value, true)).await
    }
}

/// Runs what writes where blocking is allowed; gives the reason of a failure in words.
async fn on_disk(work: impl FnOnce() -> Result<(), Fault> + Send + 'static) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(written) => written.map_err(|fault| fault.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
