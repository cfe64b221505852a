//! What goes into the engine and what comes out of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::graph::{Limits, Packed};
use crate::id::{ActionId, BatchId, BlobHash, NodeId, OperatorId, RecordId};
use crate::keys::SecretKey;
use crate::outcome::{Outcome, Particulars};
use crate::platform::Facts;
use crate::record::SharedRecord;
use crate::record::payload::{LeaseRef, Payload};
use crate::time::Timestamp;
use crate::trust::members::Unauthorised;
use crate::trust::order::Verb;
use crate::verdict::Verdict;

/// This node's own choices; another node may have others without any harm.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's key: it signs board and evidence records.
    pub key: SecretKey,
    /// What the machine is.
    pub facts: Facts,
    /// Programs that a `host` environment may ask for and this machine has; asked once at start.
    pub programs: BTreeSet<String>,
    /// What it lends.
    pub lend: Lend,
}

/// What the owner lends to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lend {
    /// Whether it takes work at all.
    pub builds: bool,
    /// Whether it takes only the builds that settle disputes.
    pub arbiter_only: bool,
    /// Cores.
    pub cores: u16,
    /// Memory in bytes.
    pub memory: u64,
}

/// What is free of the machine, over all networks that it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Cores.
    pub cores: u16,
    /// Memory in bytes.
    pub memory: u64,
}

/// A build that is to start, under a lease that this node holds.
#[derive(Debug, Clone)]
pub struct BuildOrder {
    /// The lease.
    pub lease: LeaseRef,
    /// What to build.
    pub action: Arc<Action>,
    /// How people call it: `RECIPE[axis=value]`.
    pub label: String,
    /// The batch that it is built for.
    pub batch: BatchId,
    /// Limits.
    pub limits: Limits,
    /// Whether it settles a dispute. It is built twice then, the second time with everything made to differ that must not
    /// matter, unless the first build already says nothing of the job.
    pub twice: bool,
    /// Nodes that are known to have sources: the batch's authors.
    pub sources_from: Vec<NodeId>,
    /// For every need, the manifest and the nodes that revealed it.
    pub needs_from: Vec<(BlobHash, Vec<NodeId>)>,
}

/// A result of this node, with the salt that its commitment hides; kept until it is revealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnResult {
    /// The lease.
    pub lease: LeaseRef,
    /// What came of it.
    pub outcome: Outcome,
    /// What came of the second build, where there was one.
    pub again: Option<Outcome>,
    /// The salt of the commitment.
    pub salt: [u8; 32],
    /// What stands beside the outcome.
    pub particulars: Particulars,
}

impl OwnResult {
    /// The distinct outcomes: one, or two of a job that is not deterministic.
    pub fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        std::iter::once(&self.outcome).chain(self.again.as_ref().filter(|again| **again != self.outcome))
    }
}

/// What is told to the engine. Records come through [`super::Engine::receive`].
#[derive(Debug, Clone)]
pub enum Input {
    /// What is free now, counted over all networks of this node.
    Capacity(Capacity),
    /// The owner changed what is lent; `builds: false` rests. Running builds go on.
    Lend(Lend),
    /// Hands all leases back: pause, the owner's own work.
    HandBackAll,
    /// The node stops: hands all leases back, takes no more, and tells everyone that it is not there any more.
    Leave,
    /// A wanted blob: its bytes were fetched and their hash checked.
    Fetched {
        /// What for.
        want: Want,
        /// The bytes.
        bytes: Arc<[u8]>,
    },
    /// The graph of a batch, fetched and read: engines of one process can share it.
    Graph(BatchId, Arc<Packed>),
    /// A build is this far.
    Progress {
        /// Its lease.
        lease: LeaseRef,
        /// Bytes of log so far.
        log_bytes: u64,
        /// CPU time in milliseconds so far.
        cpu_ms: u64,
    },
    /// A build has ended.
    Finished {
        /// Its lease.
        lease: LeaseRef,
        /// What came of it.
        outcome: Outcome,
        /// What came of the second build, where [`BuildOrder::twice`] asked for one.
        again: Option<Outcome>,
        /// What stands beside it.
        particulars: Particulars,
    },
    /// Authors a record of this node: Batch, Cancel, Retry, Have.
    Author(Payload, std::time::Duration),
    /// Something this node kept from before a restart.
    Restore(OwnResult),
    /// A comparison of records with a peer has ended, and what it brought was received.
    Synced,
}

/// A blob that the engine can't go on without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    /// The graph of a batch.
    Graph(BatchId),
    /// A policy that a batch pins.
    Policy(BlobHash),
}

/// What the engine wants done, in this order. What must be durable before another thing comes first.
#[derive(Debug, Clone)]
pub enum Output {
    /// Write the record so that it survives power loss, before any later output.
    Persist(SharedRecord),
    /// Write a result that is not revealed yet so that it survives power loss, before any later output.
    PersistResult(OwnResult),
    /// Forget a result: it is revealed, and the record tells it.
    ForgetResult(LeaseRef),
    /// Tell everyone.
    Send(SharedRecord),
    /// Fetch a blob, check its hash, and hand it in as [`Input::Fetched`]. Asked again only after a restart.
    Fetch {
        /// What for.
        want: Want,
        /// Its hash.
        blob: BlobHash,
        /// Its length in bytes, where it is known.
        length: Option<u64>,
        /// A node that should have it.
        from: NodeId,
    },
    /// Start a build.
    Start(BuildOrder),
    /// Stop a build at once; nothing more is to be said of it.
    Stop(LeaseRef),
    /// From now on the outputs and the log of this result may be served.
    Open(OwnResult),
    /// Records whose time is over can be deleted.
    Forget(Vec<RecordId>),
    /// For people.
    Event(Event),
}

/// What a node makes of a record, for the one who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reception {
    /// New, kept, worth relaying.
    New,
    /// Known already: no penalty.
    Known,
    /// A later one of this author is known, or its time is over: no penalty.
    Outdated,
    /// Issued further ahead than clocks may differ; looked at again when its time comes. No penalty.
    Parked,
    /// The author has too many live records: not kept, not relayed.
    OverQuota,
    /// Its author may not say this, as far as this node knows; another charter or record may change that, and then peers
    /// that have it offer it again. Not kept, not relayed, no penalty.
    NotHeeded(Unauthorised),
    /// Its author may not say this, and no other record can change that.
    Unauthorised(&'static str),
}

/// What happened, for people, logs and pages. Refusals are events too.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A batch became known with its graph.
    BatchKnown {
        /// The batch.
        batch: BatchId,
        /// Number of its jobs.
        jobs: u32,
    },
    /// A batch can't be built: its graph or policy is not what it should be.
    BatchRefused {
        /// The batch.
        batch: BatchId,
        /// Why.
        reason: String,
    },
    /// A job stands for an action now.
    Bound {
        /// The batch.
        batch: BatchId,
        /// The job.
        job: String,
        /// The action.
        action: ActionId,
        /// 1 for the first binding.
        generation: u32,
    },
    /// A lease was taken.
    Claimed {
        /// The lease.
        lease: LeaseRef,
        /// By whom.
        operator: OperatorId,
    },
    /// A lease of this node ended without a result.
    LeaseLost {
        /// The lease.
        lease: LeaseRef,
        /// Why.
        reason: String,
    },
    /// Somebody committed to a result.
    Committed {
        /// The lease.
        lease: LeaseRef,
        /// Who.
        operator: OperatorId,
    },
    /// Somebody revealed a result.
    Revealed {
        /// The lease.
        lease: LeaseRef,
        /// Who.
        operator: OperatorId,
        /// What.
        outcome: Outcome,
    },
    /// The verdict of an action changed.
    Verdict {
        /// The action.
        action: ActionId,
        /// How people call it.
        label: String,
        /// The verdict.
        verdict: Verdict,
    },
    /// A record was refused, though its author signed it.
    Refused {
        /// The record.
        record: RecordId,
        /// Whose key signed it: a node's, or an operator's in the place of one.
        author: NodeId,
        /// What is wrong.
        reason: String,
    },
    /// An operator contradicted itself, and no result of it counts any more.
    FraudProven {
        /// Who.
        operator: OperatorId,
        /// The FraudProof.
        proof: RecordId,
    },
    /// What an operator reveals for a while does not count.
    Suspended {
        /// Who.
        operator: OperatorId,
        /// Until when.
        until: Timestamp,
        /// Which maintainer says so.
        by: OperatorId,
        /// Why.
        reason: String,
    },
    /// The maintainers banned or pardoned an operator.
    Ordered {
        /// The order's id, which a pardon names.
        order: BlobHash,
        /// Which of the two.
        verb: Verb,
        /// Whom.
        operator: OperatorId,
        /// Why.
        reason: String,
    },
    /// This node takes no work for a while: its builds fail where others' succeed.
    Resting {
        /// Until when.
        until: Timestamp,
        /// Why.
        reason: String,
    },
    /// All jobs of a batch are settled.
    BatchDone {
        /// The batch.
        batch: BatchId,
        /// Whether all of them succeeded.
        ok: bool,
    },
}

/// The engine's timers. Each is armed once at the most; arming it again moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// When to look at an action again, named by its place in the engine's list: a lease on it lapses, or its inputs may
    /// be had by now.
    Action(u32),
    /// When to look for work: this node's turn to claim something comes.
    Seek,
    /// When to renew this node's leases.
    Renew,
    /// When to tell others again what this node has to spare.
    Presence,
    /// When it is this node's turn to prove a contradiction.
    Accuse,
    /// When the next record's time is over.
    Expiry,
    /// When the next parked record's time comes.
    Parked,
    /// When to put work into order anew, by the durations that became known.
    Rank,
}
