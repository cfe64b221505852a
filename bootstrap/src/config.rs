//! What the network layer is told at its start, and what it asks its owner.

use std::sync::Arc;
use std::time::Duration;

use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId, RecordId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::sync::Window;
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::transfer::{CHUNK_BYTES_MAX, GET_BYTES_MAX};
use barnraiser_protocol::trust::members::Branch;
use barnraiser_store::Store;
use libp2p::Multiaddr;

use crate::traffic::Rates;

/// How long an announcement to Kademlia lives that is not renewed.
pub const ANNOUNCED_FOR: Duration = Duration::from_secs(3600);

/// Whether a blob may be given away.
pub trait BlobAccess: Send + Sync {
    /// Whether `hash` may be served to `to`. Called for each request, from the network's tasks: it must not block.
    fn may_serve(&self, hash: &BlobHash, to: &NodeId) -> bool;

    /// Whether a whole network wants `hash` at the same moment, so that few are served at once and the others find it at
    /// those ([`barnraiser_protocol::transfer::spread`]). Called as `may_serve` is.
    fn is_rationed(&self, _hash: &BlobHash) -> bool {
        false
    }
}

/// Who is independent of whom, as far as this node knows: what peers may use here is shared out among branches.
pub trait Branches: Send + Sync {
    /// The branch of the operator that `node` works for, in any network of this node; none for strangers. Called from the
    /// network's task: it must not block.
    fn branch_of(&self, node: &NodeId) -> Option<Branch>;
}

/// Everybody is a stranger.
#[derive(Debug, Clone, Copy, Default)]
pub struct Strangers;

impl Branches for Strangers {
    fn branch_of(&self, _: &NodeId) -> Option<Branch> {
        None
    }
}

/// Who may push blobs here.
pub trait PushAccess: Send + Sync {
    /// Whether `from` may push. Called for each offer, from the network's tasks: it must not block.
    fn may_push(&self, from: &NodeId) -> bool;

    /// Whether `to` may be told that `hash` is here, by the rule of [`BlobAccess::may_serve`]; else its offer of it is put
    /// off. Called for blobs that are here, from threads where blocking is allowed.
    fn may_tell(&self, hash: &BlobHash, to: &NodeId) -> bool;
}

/// Everybody may push: room is shared out by who fills it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Everybody;

impl PushAccess for Everybody {
    fn may_push(&self, _: &NodeId) -> bool {
        true
    }

    fn may_tell(&self, _: &BlobHash, _: &NodeId) -> bool {
        true
    }
}

/// What a holder keeps for others.
#[derive(Clone)]
pub struct HoldConfig {
    /// Bytes that may be kept; each blob counts 4 KiB beside its own, or 1/262,144 of this where that is more.
    pub quota: u64,
    /// For whom.
    pub access: Arc<dyn PushAccess>,
}

/// The records that this node has, for anti-entropy. Called from threads where blocking is allowed.
pub trait RecordSource: Send + Sync {
    /// Calls `look` once with all live records of `network` that are not forgotten before `cut`; of a network that is not
    /// known here, with none.
    fn look(&self, network: &NetworkId, cut: Timestamp, look: &mut dyn FnMut(&Window<'_>));
    /// The bytes of those of `ids` that are still here, as they were received, in any order.
    fn get(&self, network: &NetworkId, ids: &[RecordId]) -> Vec<Vec<u8>>;
}

/// How much of this machine peers may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Peers of each network to which connections are kept open.
    pub peers_per_network: usize,
    /// Below this many peers of a network, more are looked for.
    pub peers_wanted: usize,
    /// Connections in all, bulk ones included.
    pub connections: u32,
    /// Units and inline blobs read from disk for peers at the same time; each takes up to about 1 MiB of memory.
    pub serving: usize,
    /// Exchanges of records with peers at the same time, each way.
    pub syncs: usize,
    /// The time between two exchanges of records with a random peer, for each network; drawn between 3/4 and 5/4.
    pub sync_interval: Duration,
    /// A provider that sends nothing for so long loses the unit.
    pub stall: Duration,
    /// The longest that a provider may take for one unit.
    pub unit_time_max: Duration,
    /// How fast bytes may move.
    pub rates: Rates,
    /// Units and inline blobs that are read, or wait to be sent, for one peer: so much of this node's memory a slow reader holds at
    /// most, whatever the number of its streams.
    pub serving_per_peer: usize,
    /// How long an announcement to Kademlia lives that is not renewed; this node renews its own four times in it. Nodes with
    /// different ones understand each other.
    pub announced_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers_per_network: 32,
            peers_wanted: 8,
            connections: 256,
            serving: 48,
            syncs: 4,
            sync_interval: Duration::from_secs(30),
            stall: Duration::from_secs(10),
            unit_time_max: Duration::from_secs(180),
            rates: Rates::default(),
            serving_per_peer: 12,
            announced_for: ANNOUNCED_FOR,
        }
    }
}

/// Fetches from so many providers at once share what may be received: eight of each of four blobs.
const SHARING: u64 = 32;

impl Limits {
    /// Where little may be received, a provider that waits for its share is not taken for one that stalls.
    pub(crate) fn share_rates(&mut self) {
        self.stall = self.rates.patience(self.stall, CHUNK_BYTES_MAX as u64, SHARING);
        self.unit_time_max = self.rates.patience(self.unit_time_max, GET_BYTES_MAX, SHARING);
    }
}

/// What [`crate::start`] needs.
#[derive(Clone)]
pub struct NetConfig {
    /// The node's key; its public half is the PeerId.
    pub key: SecretKey,
    /// Where to listen. TCP (`/ip4/0.0.0.0/tcp/4001`) and QUIC (`/ip4/0.0.0.0/udp/4001/quic-v1`); port 0 is any free one.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach this node although it does not listen there itself (behind a forwarded port).
    pub external: Vec<Multiaddr>,
    /// Name and version of this program, shown to peers.
    pub agent: String,
    /// How much peers may use.
    pub limits: Limits,
    /// Where blobs are fetched to and served from.
    pub store: Store,
    /// Who may have which blob.
    pub access: Arc<dyn BlobAccess>,
    /// The records to reconcile.
    pub records: Arc<dyn RecordSource>,
    /// Who is independent of whom.
    pub branches: Arc<dyn Branches>,
    /// Whether, and how much, this node keeps of what others push.
    pub hold: Option<HoldConfig>,
}

impl std::fmt::Debug for NetConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetConfig").field("key", &self.key).field("listen", &self.listen).finish_non_exhaustive()
    }
}
