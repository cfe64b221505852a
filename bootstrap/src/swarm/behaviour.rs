//! The libp2p behaviours of a node, and how they are set.

use std::time::Duration;

use barnraiser_protocol::id::{BlobHash, NetworkId};
use libp2p::gossipsub::{
    self, MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds, TopicScoreParams, ValidationMode, score_parameter_decay,
};
use libp2p::identity::Keypair;
use libp2p::kad::{self, RecordKey};
use libp2p::swarm::{NetworkBehaviour, StreamProtocol};
use libp2p::{connection_limits, identify, ping};
use tokio::sync::mpsc;

use super::providers::{Kademlia, ProviderStore};
use crate::config::Limits;
use crate::substream::{self, ControlOnly, Inbound, Opener};

/// The name under which peers recognise programs of this protocol family.
pub const IDENTIFY_PROTOCOL: &str = "barn/1";
/// Kademlia of our own: not that of any other libp2p network.
pub const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/barn/kad/1");

/// The most bytes of an announcement of gossip.
const ANNOUNCED_BYTES_MAX: usize = 8 << 10;
/// The most message ids that one announcement lists: it must fit [`ANNOUNCED_BYTES_MAX`] with 34 bytes an id.
const GOSSIP_IDS_MAX: usize = 200;
/// The most bytes of a gossip message. A record has 4 KiB at most, and its receiver refuses what is longer; but libp2p (gossipsub
/// 0.50) holds the length of all that it has read and not yet taken against this, and closes the stream: what is left of a
/// message and the 8 KiB that it reads at once. With a bound near those it drops what comes in a burst.
const GOSSIP_BYTES_MAX: usize = 64 << 10;
/// Provider records are renewed so many times in their lifetime, so that one that is lost on the way ends nothing.
const RENEWALS: u32 = 4;
/// A peer with this many invalid messages in a short time is cut off; see [`topic_score`].
const INVALID_WEIGHT: f64 = -10.0;
/// How long misbehaviour in gossip is remembered.
const SCORE_MEMORY: Duration = Duration::from_secs(600);
/// Pings find dead connections; each costs a wake-up on both ends.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Connections that one peer may have: two that crossed each other, and a bulk one each way, each twice for restarts.
const CONNECTIONS_PER_PEER: u32 = 8;
/// One connection in so many is kept for those that this node dials: else strangers who fill it up could keep it from
/// everybody that it wants to reach.
const KEPT_FOR_DIALS: u32 = 8;
/// Connections being set up at the same time, each way.
const PENDING_MAX: u32 = 64;

/// What shares the control connection.
#[derive(NetworkBehaviour)]
pub struct Control {
    /// Records.
    pub gossipsub: gossipsub::Behaviour,
    /// Finding peers and providers.
    pub kad: Kademlia,
    /// Who a peer is and where it listens.
    pub identify: identify::Behaviour,
    /// Whether it is alive, and how far.
    pub ping: ping::Behaviour,
}

/// Everything of a node.
#[derive(NetworkBehaviour)]
pub struct Node {
    limits: connection_limits::Behaviour,
    // Before the substreams: those forget a bulk connection when it closes, and this must still know it then.
    /// See [`ControlOnly`].
    pub control: ControlOnly<Control>,
    /// Our own streams.
    pub substream: substream::Behaviour,
}

/// A node's behaviours with the ends of its streams.
///
/// # Errors
/// A text where the library refuses the settings, which tests would show.
pub fn node(
    key: &Keypair,
    agent: String,
    limits: &Limits,
    protocols: &[&'static str],
) -> Result<(Node, Opener, mpsc::Receiver<Inbound>), String> {
    let (substream, opener, inbound) = substream::Behaviour::new(protocols);
    let control = Control { gossipsub: gossip()?, kad: kademlia(key, limits.announced_for), identify: identify(key, agent), ping: ping() };
    let control = ControlOnly::new(control, substream.bulk_connections());
    Ok((Node { limits: connection_limits(limits.connections), control, substream }, opener, inbound))
}

/// Limits on connections.
pub fn connection_limits(connections: u32) -> connection_limits::Behaviour {
    connection_limits::Behaviour::new(
        connection_limits::ConnectionLimits::default()
            .with_max_established(Some(connections))
            .with_max_established_incoming(Some(connections - connections / KEPT_FOR_DIALS))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
            .with_max_pending_incoming(Some(PENDING_MAX))
            .with_max_pending_outgoing(Some(PENDING_MAX)),
    )
}

/// Identify, telling peers at once when our addresses change.
pub fn identify(key: &Keypair, agent: String) -> identify::Behaviour {
    identify::Behaviour::new(
        identify::Config::new(IDENTIFY_PROTOCOL.into(), key.public()).with_agent_version(agent).with_push_listen_addr_updates(true),
    )
}

/// Ping.
pub fn ping() -> ping::Behaviour {
    ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL))
}

/// Kademlia in server mode: on private addresses there is nobody who could confirm that we are reachable. What is announced
/// lives for `lifetime`, here and, by their own settings, at others.
pub fn kademlia(key: &Keypair, lifetime: Duration) -> Kademlia {
    let peer = key.public().to_peer_id();
    let mut config = kad::Config::new(KAD_PROTOCOL);
    config
        .set_query_timeout(Duration::from_secs(20))
        .set_provider_record_ttl(Some(lifetime))
        .set_provider_publication_interval(Some(lifetime / RENEWALS))
        // What others announce comes to us first, since the store must know where they are.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None);
    let mut kad = kad::Behaviour::with_config(peer, ProviderStore::new(peer, lifetime), config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

/// The key under which members of a network announce themselves, so that they find each other through any node.
pub fn rendezvous_key(network: &NetworkId) -> RecordKey {
    RecordKey::new(&blake3::derive_key("barnraiser 2026 rendezvous v1", network.as_bytes()))
}

/// The key of a blob's provider records.
pub fn blob_key(hash: &BlobHash) -> RecordKey {
    RecordKey::new(hash.as_bytes())
}

fn gossip() -> Result<gossipsub::Behaviour, String> {
    let config = gossipsub::ConfigBuilder::default()
        .heartbeat_interval(Duration::from_secs(1))
        .heartbeat_initial_delay(Duration::from_secs(1))
        // Records name their author and are signed by it; who publishes them is of no interest.
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(message_id)
        .max_transmit_size(GOSSIP_BYTES_MAX)
        .max_control_messages_sent(GOSSIP_IDS_MAX)
        .max_control_message_size(ANNOUNCED_BYTES_MAX)
        .duplicate_cache_time(Duration::from_secs(120))
        // Verdicts come from other threads; a message must still be in the cache then.
        .history_length(10)
        .history_gossip(3)
        .mesh_n(8)
        .mesh_n_low(4)
        .mesh_n_high(16)
        .mesh_outbound_min(2)
        .flood_publish(true)
        .connection_handler_queue_len(1024)
        .build()
        .map_err(|error| error.to_string())?;
    let mut behaviour = gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config).map_err(str::to_owned)?;
    behaviour.with_peer_score(score_params(), score_thresholds())?;
    Ok(behaviour)
}

/// A message is its topic and its bytes: who sends a record on another network's topic must not keep it from its own.
fn message_id(message: &gossipsub::Message) -> MessageId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(message.topic.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(&message.data);
    MessageId::new(hasher.finalize().as_bytes())
}

/// Our topics are silent for hours and many peers may share one address, so neither is held against anybody.
fn score_params() -> PeerScoreParams {
    PeerScoreParams {
        app_specific_weight: 1.0,
        ip_colocation_factor_weight: 0.0,
        behaviour_penalty_weight: -1.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: score_parameter_decay(SCORE_MEMORY),
        slow_peer_weight: -0.1,
        slow_peer_threshold: 10.0,
        decay_interval: Duration::from_secs(1),
        retain_score: SCORE_MEMORY,
        ..PeerScoreParams::default()
    }
}

fn score_thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: -50.0,
        publish_threshold: -100.0,
        graylist_threshold: -200.0,
        accept_px_threshold: 0.0,
        opportunistic_graft_threshold: 0.0,
    }
}

/// Only invalid messages count: the penalty is their number squared times ten, so the fifth cuts a peer off.
pub fn topic_score() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: INVALID_WEIGHT,
        invalid_message_deliveries_decay: score_parameter_decay(SCORE_MEMORY),
        ..TopicScoreParams::default()
    }
}
