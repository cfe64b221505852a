//! Logs of builds: those that run here, and those that were revealed anywhere.

use std::collections::BTreeSet;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use barnraiser_protocol::engine::query::{AttestationView, JobView};
use barnraiser_protocol::graph::JobIndex;
use barnraiser_protocol::id::{BatchId, OperatorId};

use super::Daemon;
use super::networks::Network;
use crate::api::Problem;

/// The most bytes of a log that one answer holds.
const CHUNK: u64 = 1 << 20;

/// Why `prefix` names no builder of a job, or `fits` of them; and whose logs there are.
fn not_one_builder(view: &JobView, prefix: &str, builders: &BTreeSet<OperatorId>, fits: usize) -> Problem {
    if builders.is_empty() {
        return Problem::not_found(format!("{} has no log yet: nobody has built it; it is {} ({})", view.label, view.state, view.why));
    }
    let there = builders.iter().map(|operator| {
        let readable = view.attestations.iter().filter(|attestation| attestation.operator == *operator).any(has_log);
        format!("\n  {operator}{}", if readable { "" } else { "  (not readable yet)" })
    });
    let there: String = there.collect();
    match fits {
        0 => Problem::not_found(format!("no operator {prefix:?} has built {}; these have:{there}", view.label)),
        _ => Problem::usage(format!("{prefix:?} fits {fits} builders of {}; give more digits:{there}", view.label)),
    }
}

/// Whether the builder told where its log is.
fn has_log(attestation: &AttestationView) -> bool {
    attestation.particulars.as_ref().is_some_and(|told| told.log.is_some())
}

/// A part of a log.
pub(super) struct LogPart {
    /// Bytes from the wanted place on, at most a mebibyte.
    pub bytes: Vec<u8>,
    /// Whether the build has ended and this is the last part.
    pub complete: bool,
    /// Whose build it is.
    pub operator: Option<OperatorId>,
}

impl Daemon {
    /// The log of a job from `offset` on: of the build that runs here, else of a result that was revealed; of `by` where
    /// that is given (an operator's id or a prefix of it).
    pub(super) async fn log_part(
        &self,
        network: &Arc<Network>,
        batch: BatchId,
        job: JobIndex,
        by: Option<&str>,
        offset: u64,
    ) -> Result<LogPart, Problem> {
        let view = self
            .engines
            .ask(&network.id, |engine| engine.job(&batch, job))
            .flatten()
            .ok_or_else(|| Problem::not_found("there is no such job"))?;
        let Some(action) = view.action else {
            return Err(Problem::not_found(format!("{} has no log yet: {}", view.label, view.why)));
        };
        let me = self.operator_key.operator();
        let wanted = |operator: &OperatorId| by.is_none_or(|prefix| operator.to_string().starts_with(prefix));
        let here = self.running().keys().find(|(id, lease)| *id == network.id && lease.action == action).map(|(_, lease)| *lease);
        if let Some(lease) = here.filter(|_| wanted(&me)) {
            let path = self.log_path(&network.id, &lease);
            let bytes = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<u8>> {
                let mut file = match std::fs::File::open(&path) {
                    Ok(file) => file,
                    // Inputs are still being fetched.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                    Err(error) => return Err(error),
                };
                file.seek(SeekFrom::Start(offset))?;
                let mut bytes = Vec::new();
                file.take(CHUNK).read_to_end(&mut bytes)?;
                Ok(bytes)
            })
            .await
            .map_err(|error| Problem::failed(error.to_string()))?
            .map_err(|error| Problem::failed(format!("the log can't be read: {error}")))?;
            return Ok(LogPart { bytes, complete: false, operator: Some(me) });
        }
        if let Some(prefix) = by {
            let holders = view.slots.iter().filter_map(|slot| slot.operator);
            let builders: BTreeSet<OperatorId> = holders.chain(view.attestations.iter().map(|attestation| attestation.operator)).collect();
            let fits = builders.iter().filter(|operator| wanted(operator)).count();
            if fits != 1 {
                return Err(not_one_builder(&view, prefix, &builders, fits));
            }
        }
        let revealed = view.attestations.iter().filter(|attestation| wanted(&attestation.operator));
        let Some((node, operator, log)) = revealed
            .filter_map(|attestation| Some((attestation.node, attestation.operator, attestation.particulars.as_ref()?.log?)))
            .next()
        else {
            let who: Vec<String> = view.slots.iter().filter_map(|slot| Some(slot.operator?.short())).collect();
            return Err(Problem::not_found(format!(
                "no log of {} is readable here yet: logs of other builders come with their results{}",
                view.label,
                if who.is_empty() { String::new() } else { format!(" (building or committed: {})", who.join(", ")) }
            )));
        };
        let bytes = self
            .fetch_bytes(network.id, log, None, vec![node], 256 << 20)
            .await
            .map_err(|error| Problem::unreachable(format!("the log can't be fetched: {error:#}")))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = bytes.len().min(start + CHUNK as usize);
        Ok(LogPart { bytes: bytes[start..end].to_vec(), complete: end == bytes.len(), operator: Some(operator) })
    }
}
