//! What is counted during a run, for the report.

use std::collections::{BTreeMap, BTreeSet};

use barnraiser_protocol::blame::{PROOF_SLOT, is_larger};
use barnraiser_protocol::engine::{Event, Output};
use barnraiser_protocol::id::ActionId;
use barnraiser_protocol::record::payload::SlotNo;
use barnraiser_protocol::record::{Kind, Payload, SharedRecord};
use barnraiser_protocol::time::Timestamp;

/// Counts.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Records that their authors gossiped, by type.
    pub records: BTreeMap<Kind, u64>,
    /// Bytes of these, times the nodes that they are meant for.
    pub bytes: u64,
    /// Records that reached a node, by gossip or comparison, known or not.
    pub received: u64,
    /// Records that a node refused.
    pub refused: u64,
    /// Records that comparisons brought.
    pub compared: u64,
    /// Builds that began.
    pub builds: u64,
    /// Builds that ended by themselves.
    pub builds_ended: u64,
    /// Builds that died with their machine.
    pub builds_lost: u64,
    /// Machines that a job brought down.
    pub killed: u64,
    /// Jobs that were tried on a larger machine.
    pub larger: u64,
    /// Rests of builders that failed where others succeeded.
    pub rests: u64,
    /// Builds by which machines proved themselves.
    pub proofs: u64,
    /// Builds that stood still and were ended for it.
    pub still: u64,
    /// Leases that their holder lost to another's.
    pub conflicts: u64,
    /// Action → when the first node could have claimed it.
    ready: BTreeMap<ActionId, Timestamp>,
    claimed: BTreeSet<(ActionId, SlotNo)>,
    /// Milliseconds from the moment when the first node could have claimed a slot to its first claim.
    pub waits_ms: Vec<u64>,
}

impl Ledger {
    /// An engine wants something.
    pub fn said(&mut self, now: Timestamp, output: &Output) {
        match output {
            Output::Event(Event::Bound { action, .. }) => {
                self.ready.entry(*action).or_insert(now);
            }
            Output::Event(Event::LeaseLost { reason, .. }) if reason.starts_with("another builder") => self.conflicts += 1,
            Output::Event(Event::LeaseLost { reason, .. }) if reason.starts_with("nothing was printed") => self.still += 1,
            Output::Event(Event::Resting { .. }) => self.rests += 1,
            Output::Start(order) if order.lease.slot == PROOF_SLOT => self.proofs += 1,
            Output::Start(order) if is_larger(order.lease.slot) => self.larger += 1,
            Output::Send(record) => {
                if let Payload::Claim(claim) = record.payload()
                    && self.claimed.insert((claim.lease.action, claim.lease.slot))
                    && let Some(ready) = self.ready.get(&claim.lease.action)
                {
                    self.waits_ms.push(now.0.saturating_sub(ready.0));
                }
            }
            _ => {}
        }
    }

    /// A record goes out to all but its author.
    pub fn sent(&mut self, record: &SharedRecord, nodes: usize) {
        *self.records.entry(record.kind()).or_default() += 1;
        self.bytes += record.bytes().len() as u64 * nodes.saturating_sub(1) as u64;
    }

    /// A comparison brings a record.
    pub fn compared(&mut self, record: &SharedRecord) {
        self.compared += 1;
        self.bytes += record.bytes().len() as u64;
    }

    /// How many records of a type were gossiped.
    pub fn count(&self, kind: Kind) -> u64 {
        self.records.get(&kind).copied().unwrap_or(0)
    }

    /// The share of all claims that lost to another's.
    pub fn conflict_share(&self) -> f64 {
        let claims = self.count(Kind::Claim);
        if claims == 0 { 0.0 } else { self.conflicts as f64 / claims as f64 }
    }

    /// The median of the waits in milliseconds; 0 where nothing was claimed.
    pub fn wait_median_ms(&self) -> u64 {
        let mut waits = self.waits_ms.clone();
        waits.sort_unstable();
        waits.get(waits.len() / 2).copied().unwrap_or(0)
    }
}
