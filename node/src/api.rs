//! The shapes of `/api/v1`: what the daemon answers and what the command line asks. One definition for both sides.
//!
//! Paths are listed beside each type. `{net}` is a network's id or any unique prefix of it, or its name; `{id}` a batch
//! id or any unique prefix. Errors are [`Problem`] with a status from which the exit code follows
//! ([`Problem::exit_code`]).

mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use barnraiser_protocol::engine::query::{BatchView, JobView};
use barnraiser_protocol::id::{ActionId, BatchId, BlobHash, NetworkId, NodeId, OperatorId};
use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::record::payload::Priority;
use barnraiser_protocol::time::Timestamp;

pub use store::{BlobCount, StoreAsk, StoreDone, StoreEvent, StoreStats, StoredBlob};

/// Version of the JSON documents.
pub const VERSION: u32 = 1;

/// An error, as HTTP body. Status: 400 wrong usage, 403 not allowed, 404 not found, 409 failed, 422 verification failed,
/// 504 unreachable or timed out, 500 failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// What was wrong, where, and what to do.
    pub message: String,
}

impl Problem {
    /// The exit code that INTERFACES gives this kind of problem.
    pub const fn exit_code(&self) -> u8 {
        match self.status {
            400 => 2,
            404 => 3,
            422 => 4,
            403 => 5,
            504 => 6,
            424 => 7,
            _ => 1,
        }
    }
    /// Wrong usage or unreadable input: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }
    /// Not found: exit code 3.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { status: 404, message: message.into() }
    }
    /// Verification failed: exit code 4.
    pub fn unverified(message: impl Into<String>) -> Self {
        Self { status: 422, message: message.into() }
    }
    /// Not allowed: exit code 5.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { status: 403, message: message.into() }
    }
    /// Unreachable or timed out: exit code 6.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { status: 504, message: message.into() }
    }
    /// Anything else: exit code 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { status: 500, message: message.into() }
    }
}

/// `GET /api/v1/status`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of `barn`.
    pub barn: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// This node.
    pub node: NodeId,
    /// Its operator.
    pub operator: OperatorId,
    /// Since when it runs.
    pub since: Timestamp,
    /// Why it rests, in one line; `None` while it takes work.
    pub resting: Option<String>,
    /// Cores lent, and those in use.
    pub cores: (u16, u16),
    /// Memory lent in bytes, and in use.
    pub memory: (u64, u64),
    /// Addresses that it listens on, with `/p2p/`.
    pub addresses: Vec<String>,
    /// Its networks.
    pub networks: Vec<NetworkStatus>,
    /// Builds that run here.
    pub builds: Vec<BuildStatus>,
    /// What travels.
    #[serde(default)]
    pub traffic: TrafficStatus,
    /// What is kept.
    #[serde(default)]
    pub store: RoomStatus,
}

/// What travels to and from a node, in [`Status`]. All bytes are counted: blobs, gossip, and the transport's own as far as it
/// shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Bytes sent since the node started.
    pub up: u64,
    /// Bytes received since the node started.
    pub down: u64,
    /// Bytes a second sent, over the last seconds.
    pub up_rate: u64,
    /// Bytes a second received.
    pub down_rate: u64,
    /// The limit on what is sent, in bytes a second.
    pub up_limit: Option<u64>,
    /// The limit on what is received.
    pub down_limit: Option<u64>,
    /// The limit on blobs sent to each peer.
    pub up_per_peer_limit: Option<u64>,
    /// This month, as `2026-11`.
    pub month: String,
    /// Bytes sent in it.
    pub month_up: u64,
    /// Bytes received in it.
    pub month_down: u64,
    /// How many bytes there may be in it, sent and received together.
    pub monthly_cap: Option<u64>,
    /// When blobs may travel.
    pub hours: String,
    /// Why blobs don't travel now.
    pub resting: Option<String>,
}

/// What a node keeps, in [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomStatus {
    /// Number of blobs.
    pub blobs: u64,
    /// Sum of their lengths.
    pub bytes: u64,
    /// How many bytes they may take before what is only cached goes.
    pub quota: Option<u64>,
    /// Bytes of the disk that are free.
    pub free: u64,
}

/// A network in [`Status`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// `joining` (no charter yet) or `live`.
    pub state: String,
    /// The version of its charter.
    pub charter: u64,
    /// Live connections to nodes of it.
    pub peers: usize,
    /// Live records.
    pub records: usize,
    /// Known batches.
    pub batches: usize,
    /// Leases that this node holds.
    pub leases: usize,
    /// The policy of new batches.
    pub policy: Option<Policy>,
    /// Operators that are known, with their standing.
    pub operators: Vec<OperatorStatus>,
    /// What operators said that joined without an invitation, the newest first; one each.
    #[serde(default)]
    pub requests: Vec<JoinRequestStatus>,
}

/// An operator that asks to be let in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequestStatus {
    /// Who.
    pub operator: OperatorId,
    /// What it says for itself; may be empty. A stranger's text.
    pub message: String,
    /// When it asked.
    pub at: Timestamp,
    /// Whether a member has invited it since.
    pub invited: bool,
}

/// An operator of a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperatorStatus {
    /// The key.
    pub operator: OperatorId,
    /// The operator that its branch begins with; `None` if nobody invited it.
    pub branch: Option<OperatorId>,
    /// Whether it founded the network.
    pub founder: bool,
    /// Whether the maintainers trust it.
    pub trusted: bool,
    /// Its nodes, and whether each said within the last minutes that it is there.
    pub nodes: Vec<(NodeId, bool)>,
}

/// A build that runs on this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildStatus {
    /// The network.
    pub network: NetworkId,
    /// The action.
    pub action: ActionId,
    /// How people call it.
    pub label: String,
    /// Since when.
    pub since: Timestamp,
    /// Bytes of log so far.
    pub log_bytes: u64,
    /// The step that runs, if any does.
    pub step: Option<String>,
}

/// `GET /api/v1/peers`: a list of these.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its operator, where a network of ours knows it.
    pub operator: Option<OperatorId>,
    /// Addresses.
    pub addresses: Vec<String>,
    /// Round trip in milliseconds, where it was measured.
    pub rtt_ms: Option<u64>,
    /// Networks that we share.
    pub networks: Vec<NetworkId>,
    /// How often it broke a protocol since it connected: oversized, malformed or wrong bytes.
    pub faults: u32,
}

/// `POST /api/v1/n/{net}/submit`; answers [`Submitted`]. Files are read by the daemon, as its own user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submit {
    /// The batch or recipe file, absolute; or the folder that relative paths in `text` begin at.
    pub path: PathBuf,
    /// The file's text where it came on standard input.
    pub text: Option<String>,
    /// Overrides the batch's channel.
    pub channel: Option<String>,
    /// Overrides the batch's priority.
    pub priority: Option<Priority>,
    /// Axes that are set to one value.
    pub set: BTreeMap<String, String>,
    /// Labels beside the batch's own.
    pub labels: BTreeMap<String, String>,
}

/// The answer to [`Submit`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submitted {
    /// The batch.
    pub batch: BatchId,
    /// Number of jobs.
    pub jobs: usize,
}

/// `GET /api/v1/n/{net}/batches`: a list of [`BatchView`]. `GET /api/v1/n/{net}/batches/{id}`: this.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BatchPage {
    /// The batch.
    pub batch: BatchView,
    /// Its jobs, in the order of its graph (`/jobs/{index}` gives one [`JobView`]).
    pub jobs: Vec<JobView>,
}

/// `POST /api/v1/n/{net}/batches/{id}/cancel` and `…/retry` (of all failed jobs, or of `?job=INDEX`) answer this.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// What was done, in words.
    pub message: String,
}

/// `POST /api/v1/pause`: this node takes no work and hands back what it has. `POST /api/v1/resume` takes nothing. Both
/// answer [`Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// For how many seconds; `None` until it is resumed.
    pub for_s: Option<u64>,
}

/// `POST /api/v1/n/{net}/fetch`; streams [`FetchEvent`], one JSON document a line. The file is written by the daemon, as its own user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fetch {
    /// 64 hexadecimal digits, or `CHANNEL/NAME`.
    pub what: String,
    /// Where to write it, absolute; `None` leaves it in the store.
    pub to: Option<PathBuf>,
    /// An older version, absolute: what is equal is copied from it. `None` leaves it to the daemon what it compares with.
    #[serde(default)]
    pub seed: Option<PathBuf>,
    /// Whether the bytes are wanted in the answer, in order, each as soon as it is verified ([`FetchEvent::Bytes`]).
    #[serde(default)]
    pub along: bool,
}

/// One line of the answer to [`Fetch`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum FetchEvent {
    /// The length is known, and somebody has it or it is here. Once, before all others.
    Started {
        /// BLAKE3 of its bytes.
        hash: BlobHash,
        /// Its length in bytes; a provider's word until it is done, where no release says it.
        length: u64,
        /// Bytes that were here, verified, when it started: of an earlier fetch that was cut off.
        already_had: u64,
        /// Nodes that are asked for it first; more may be found later.
        providers: Vec<NodeId>,
    },
    /// How far it is.
    Progress {
        /// Verified bytes, those that were here before included.
        done: u64,
        /// Length, once it is known.
        length: Option<u64>,
        /// Nodes at work.
        providers: usize,
        /// Bytes that each node has served so far.
        #[serde(default)]
        bytes_by_peer: BTreeMap<NodeId, u64>,
    },
    /// So many bytes of the file follow the end of this line, and then the next line. Only where they were asked for.
    Bytes {
        /// How many; a unit (1 MiB) at most.
        count: u64,
    },
    /// It is there.
    Done(Fetched),
    /// It is not.
    Failed(Problem),
}

/// What was fetched, and who stands for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fetched {
    /// BLAKE3 of its bytes.
    pub hash: BlobHash,
    /// Its length in bytes.
    pub length: u64,
    /// Bytes that were here before.
    pub already_had: u64,
    /// Bytes that were copied from older versions.
    #[serde(default)]
    pub copied: u64,
    /// Bytes that each node served; in differences, what it takes to know what has changed included.
    pub bytes_by_peer: BTreeMap<NodeId, u64>,
    /// The release that it belongs to, where one is known.
    pub release: Option<ReleaseView>,
    /// Jobs whose output it is: (batch, label, operators that agree). Where the jobs are not known here, what the release's
    /// evidence proves: the label is then the action's id.
    pub built_by: Vec<(Option<BatchId>, String, Vec<OperatorId>)>,
}

/// `GET /api/v1/n/{net}/releases/{channel}`: the newest release; 404 where there is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseView {
    /// The channel.
    pub channel: String,
    /// The version, from 1.
    pub version: u64,
    /// When it expires.
    pub expires: String,
    /// Key ids whose signatures count, and how many are wanted.
    pub signed_by: Vec<String>,
    /// How many are wanted.
    pub threshold: usize,
    /// Name → what it is.
    pub targets: BTreeMap<String, ReleasedTarget>,
}

/// A file of a release.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleasedTarget {
    /// BLAKE3 of its bytes.
    pub blake3: BlobHash,
    /// SHA-256 of its bytes, in hexadecimal digits.
    pub sha256: String,
    /// Its length in bytes.
    pub length: u64,
    /// The action that made it.
    pub action: Option<ActionId>,
    /// The evidence blob.
    pub evidence: Option<BlobHash>,
}

/// `POST /api/v1/n/{net}/release/propose`: answers the unsigned release document (JSON, to be carried to the signers).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Propose {
    /// The channel.
    pub channel: String,
    /// The batch whose targets are released.
    pub batch: String,
    /// Only these targets; empty means all.
    pub names: Vec<String>,
}

/// `POST /api/v1/n/{net}/release/publish`: the assembled, signed release document; answers [`ReleaseView`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Publish {
    /// The document's text.
    pub document: String,
}
