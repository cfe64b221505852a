//! What is counted during a run, for the report.

use std::collections::{BTreeMap, BTreeSet};

use barnraiser_protocol::blame::{PROOF_SLOT, is_larger};
use barnraiser_protocol::engine::{BuildOrder, Event, Output};
use barnraiser_protocol::id::{ActionId, BatchId};
use barnraiser_protocol::record::payload::SlotNo;
use barnraiser_protocol::record::{Kind, Payload, SharedRecord};
use barnraiser_protocol::time::Timestamp;

use crate::world::mesh::Spread;
use crate::world::node::Build;

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It made what was asked for.
    Built,
    /// It ended by itself and made nothing.
    Failed,
    /// Its node stopped it: the lease was lost or handed back.
    Stopped,
    /// It died with its machine.
    Lost,
}

/// A build, from its order to its end.
#[derive(Debug, Clone)]
pub struct Span {
    /// Where it ran.
    pub node: usize,
    /// What was built.
    pub action: ActionId,
    /// Cores that it held.
    pub cores: u16,
    /// When it was ordered.
    pub since: Timestamp,
    /// When it ended.
    pub until: Timestamp,
    /// How.
    pub end: End,
}

impl Span {
    /// What it cost in core-seconds.
    pub fn core_seconds(&self) -> f64 {
        self.until.since(self.since).as_secs_f64() * f64::from(self.cores)
    }
}

/// Counts.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Since when all of this is counted.
    pub since: Timestamp,
    /// Records that their authors gossiped, by type.
    pub records: BTreeMap<Kind, u64>,
    /// Bytes of all copies of these that were sent, and of what comparisons brought.
    pub bytes: u64,
    /// The same of gossip alone, by type.
    pub bytes_of: BTreeMap<Kind, u64>,
    /// Microseconds until 99 of 100 nodes had a record, of those that were gossiped.
    pub spreads_us: Vec<u64>,
    /// Tenths of a millisecond from the saying of a record to its arrival at a node → how often it took so long. Whole
    /// nights have too many arrivals to keep each.
    pub hearings: BTreeMap<u64, u64>,
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
    /// All builds that have ended in any way, in the order of their ends.
    pub spans: Vec<Span>,
    /// Batch → when the first node knew that all of it is built.
    pub done: BTreeMap<BatchId, Timestamp>,
    /// Batch → when the first node thought that a job of it has failed for good, and all others have ended.
    pub given_up: BTreeMap<BatchId, Timestamp>,
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
    /// The same from when the node that claimed it last had a build less, where that was later: what is left of the wait
    /// where all machines are full for hours.
    pub free_waits_ms: Vec<u64>,
    /// Node → when a build of it ended last.
    room_since: BTreeMap<usize, Timestamp>,
}

impl Ledger {
    /// Nothing is counted yet.
    pub fn since(now: Timestamp) -> Self {
        Self { since: now, ..Self::default() }
    }

    /// An engine wants something.
    pub fn said(&mut self, node: usize, now: Timestamp, output: &Output) {
        match output {
            Output::Event(Event::Bound { action, .. }) => {
                self.ready.entry(*action).or_insert(now);
            }
            Output::Event(Event::LeaseLost { reason, .. }) if reason.starts_with("another builder") => self.conflicts += 1,
            Output::Event(Event::BatchDone { batch, ok }) => {
                let done = if *ok { &mut self.done } else { &mut self.given_up };
                done.entry(*batch).or_insert(now);
            }
            Output::Event(Event::LeaseLost { reason, .. }) if reason.starts_with("nothing was printed") => self.still += 1,
            Output::Event(Event::Resting { .. }) => self.rests += 1,
            Output::Start(order) if order.lease.slot == PROOF_SLOT => self.proofs += 1,
            Output::Start(order) if is_larger(order.lease.slot) => self.larger += 1,
            Output::Send(record) => {
                if let Payload::Claim(claim) = record.payload()
                    && let Some(ready) = self.ready.get(&claim.lease.action)
                {
                    let room = self.room_since.get(&node).copied().unwrap_or_default();
                    self.free_waits_ms.push(now.0.saturating_sub(ready.max(&room).0));
                }
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

    /// Begins to count anew. What was ready, claimed or done before remains known.
    pub fn restart(&mut self, now: Timestamp) {
        let Self { done, given_up, ready, claimed, room_since, .. } = std::mem::take(self);
        *self = Self { since: now, done, given_up, ready, claimed, room_since, ..Self::default() };
    }

    /// A machine has started, and has room.
    pub fn started(&mut self, node: usize, now: Timestamp) {
        self.room_since.insert(node, now);
    }

    /// A build has ended.
    pub fn ended(&mut self, node: usize, build: &Build, until: Timestamp, end: End) {
        self.room_since.insert(node, until);
        let BuildOrder { lease, action, .. } = &build.order;
        self.spans.push(Span { node, action: lease.action, cores: action.cores, since: build.since, until, end });
    }

    /// A record spreads.
    pub fn sent(&mut self, record: &SharedRecord, spread: &Spread) {
        *self.records.entry(record.kind()).or_default() += 1;
        let bytes = record.bytes().len() as u64 * spread.copies;
        self.bytes += bytes;
        *self.bytes_of.entry(record.kind()).or_default() += bytes;
        let nearly_all = spread.arrivals.len() * 99 / 100;
        self.spreads_us.extend(spread.arrivals.get(nearly_all).map(|arrival| arrival.after.as_micros() as u64));
        for arrival in &spread.arrivals {
            *self.hearings.entry(arrival.after.as_micros() as u64 / 100).or_default() += 1;
        }
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
        share_of(&self.waits_ms, 0.5)
    }

    /// The median of the waits of machines with room in milliseconds; 0 where nothing was claimed.
    pub fn free_wait_median_ms(&self) -> u64 {
        share_of(&self.free_waits_ms, 0.5)
    }

    /// The time in milliseconds within which that share of all records was known to 99 of 100 nodes.
    pub fn spread_ms(&self, share: f64) -> f64 {
        share_of(&self.spreads_us, share) as f64 / 1000.0
    }

    /// The time in milliseconds within which that share of all nodes had a record, over all records; 0 where there are none.
    pub fn hearing_ms(&self, share: f64) -> f64 {
        let all: u64 = self.hearings.values().sum();
        let mut below = (all as f64 * share) as u64;
        for (tenths, count) in &self.hearings {
            if below < *count {
                return *tenths as f64 / 10.0;
            }
            below -= count;
        }
        self.hearings.last_key_value().map_or(0.0, |(tenths, _)| *tenths as f64 / 10.0)
    }
}

/// The value below which that share of all values lies; 0 where there are none.
fn share_of(values: &[u64], share: f64) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}
