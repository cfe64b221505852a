//! The task that drives libp2p.
//!
//! [`Driver`] owns the swarm and never waits for anybody: what takes time (exchanges of records, serving blobs) runs in
//! tasks of its own, and events that nobody takes are kept up to a bound, then dropped if they are gossip. Commands come
//! from [`crate::Net`]; `events` turns libp2p's into ours; `discovery` decides whom to dial.

mod announcing;
pub mod behaviour;
mod book;
mod discovery;
mod events;
pub mod providers;
mod services;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId};
use barnraiser_protocol::sync::SYNC_PROTOCOL;
use barnraiser_protocol::transfer::BLOB_PROTOCOL;
use barnraiser_protocol::transfer::push::PUSH_PROTOCOL;
use barnraiser_protocol::transfer::reach::REACH_PROTOCOL;
use futures::StreamExt as _;
use libp2p::gossipsub::{MessageAcceptance, PublishError};
use libp2p::identity::Keypair;
use libp2p::kad::QueryId;
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::NetConfig;
use crate::event::{MessageToken, Misbehaviour, NetEvent, Verdict};
use crate::holder::{self, Holder};
use crate::identity::{keypair, node_id, with_peer};
use crate::net::{Context, KnownHolder, NetError, PeerInfo, StartError};
use crate::reach::{self, Dialler};
use crate::substream::Inbound;
use crate::topic::Topic;
use crate::traffic::transport::transport;
use crate::traffic::{Rates, Traffic};
use crate::{sync, transfer};
use behaviour::{Control, Node, blob_key, topic_score};
use book::Book;
use discovery::{Connecting, Membership};
use services::Services;

/// The protocols of our own streams.
pub const PROTOCOLS: [&str; 3] = [BLOB_PROTOCOL, SYNC_PROTOCOL, REACH_PROTOCOL];

/// Commands that wait for the swarm.
const COMMANDS_MAX: usize = 256;
/// Events that wait for the owner.
const EVENTS_MAX: usize = 1024;
/// The most bytes of a gossiped record.
const PUBLISH_BYTES_MAX: usize = barnraiser_protocol::record::RECORD_BYTES_MAX;
/// A connection that carries nothing and that nobody wants to keep closes after this long; bulk ones are such.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the swarm looks whether somebody should be dialled or synced with.
const TICK: Duration = Duration::from_secs(1);
/// How much the gossip score of a peer falls for each fault outside gossip.
const FAULT_SCORE: f64 = -40.0;

/// What the swarm's task is asked for.
pub(crate) enum Command {
    Join {
        network: NetworkId,
        bootstrap: Vec<Multiaddr>,
        known: Vec<Multiaddr>,
        reply: oneshot::Sender<()>,
    },
    Leave {
        network: NetworkId,
        reply: oneshot::Sender<()>,
    },
    Publish {
        network: NetworkId,
        topic: Topic,
        bytes: Vec<u8>,
        reply: oneshot::Sender<Result<(), NetError>>,
    },
    Subscribe {
        network: NetworkId,
        topic: Topic,
        wanted: bool,
        reply: oneshot::Sender<Result<(), NetError>>,
    },
    Provide {
        hash: BlobHash,
        wanted: bool,
        reply: oneshot::Sender<Result<(), NetError>>,
    },
    /// A fetch of `hash` found out whether `node` gives it.
    Judge {
        hash: BlobHash,
        node: NodeId,
        gave: bool,
    },
    Providers {
        hash: BlobHash,
        found: mpsc::Sender<NodeId>,
    },
    Members {
        network: NetworkId,
        reply: oneshot::Sender<Vec<NodeId>>,
    },
    Peers {
        reply: oneshot::Sender<Vec<PeerInfo>>,
    },
    Addresses {
        reply: oneshot::Sender<Vec<Multiaddr>>,
    },
    Known {
        network: NetworkId,
        reply: oneshot::Sender<Vec<Multiaddr>>,
    },
    Connect {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        reply: oneshot::Sender<Result<(), String>>,
    },
    Misbehaved {
        peer: PeerId,
        what: Misbehaviour,
    },
    Holders {
        network: NetworkId,
        reply: oneshot::Sender<Vec<KnownHolder>>,
    },
    Reachers {
        most: usize,
        reply: oneshot::Sender<Vec<NodeId>>,
    },
}

/// A peer with at least one connection.
struct Peer {
    since: Instant,
    /// Where its latest connection comes from, or goes to.
    seen_at: Multiaddr,
    round_trip: Option<Duration>,
    /// Those of its networks that we have joined.
    networks: BTreeSet<NetworkId>,
    identified: bool,
    agent: String,
    faults: u32,
}

/// Owns the swarm.
struct Driver {
    context: Arc<Context>,
    swarm: Swarm<Node>,
    events: mpsc::Sender<NetEvent>,
    commands: mpsc::Receiver<Command>,
    verdicts: mpsc::UnboundedReceiver<(MessageToken, Verdict)>,
    inbound: mpsc::Receiver<Inbound>,
    /// Events that found the queue full.
    late: VecDeque<NetEvent>,
    networks: BTreeMap<NetworkId, Membership>,
    /// What peers subscribed to, also of networks that we have not joined (yet).
    subscriptions: HashMap<PeerId, BTreeSet<NetworkId>>,
    peers: HashMap<PeerId, Peer>,
    book: Book,
    /// What was not announced yet, since nobody was there to be told.
    unannounced: VecDeque<BlobHash>,
    lookups: HashMap<QueryId, Lookup>,
    connecting: HashMap<PeerId, Connecting>,
    services: Services,
    dialler: Arc<Dialler>,
    tasks: JoinSet<()>,
}

/// What a Kademlia query is for.
enum Lookup {
    /// Members of a network.
    Members(NetworkId),
    /// Who has a blob.
    Blob(mpsc::Sender<NodeId>),
    /// The addresses of a peer.
    Peer(PeerId),
}

/// The context, the events, and the future that must be run.
type Started = (Arc<Context>, mpsc::Receiver<NetEvent>, std::pin::Pin<Box<dyn Future<Output = ()> + Send>>);

/// Sets the swarm up and binds its addresses.
pub(crate) fn start(
    config: NetConfig,
    holder: Option<Arc<Holder>>,
    verdicts: mpsc::UnboundedReceiver<(MessageToken, Verdict)>,
    stop: CancellationToken,
) -> Result<Started, StartError> {
    let key = keypair(&config.key).map_err(|error| StartError::Key(error.to_string()))?;
    let mut protocols = PROTOCOLS.to_vec();
    // Who speaks it is a holder.
    protocols.extend(holder.as_ref().map(|_| PUSH_PROTOCOL));
    let (behaviour, opener, inbound) =
        behaviour::node(&key, config.agent.clone(), &config.limits, &protocols).map_err(StartError::Setup)?;
    let mut config = config;
    config.limits.share_rates();
    let traffic = Arc::new(Traffic::new(config.limits.rates));
    let mut swarm = swarm_counted(key, behaviour, &traffic)?;
    for address in &config.listen {
        swarm.listen_on(address.clone()).map_err(|error| StartError::Listen { address: address.clone(), reason: error.to_string() })?;
    }
    for address in &config.external {
        swarm.add_external_address(address.clone());
    }
    let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
    let (events_in, events) = mpsc::channel(EVENTS_MAX);
    let context = Arc::new(Context::new(config, traffic.clone(), holder, opener, commands_in, events_in.downgrade()));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { traffic.run().await });
    tasks.spawn(reach::watch(context.clone()));
    let driver = Driver {
        context: context.clone(),
        swarm,
        events: events_in,
        commands,
        verdicts,
        inbound,
        late: VecDeque::new(),
        networks: BTreeMap::new(),
        subscriptions: HashMap::new(),
        peers: HashMap::new(),
        book: Book::default(),
        unannounced: VecDeque::new(),
        lookups: HashMap::new(),
        connecting: HashMap::new(),
        services: Services::default(),
        dialler: Arc::default(),
        tasks,
    };
    Ok((context, events, Box::pin(driver.run(stop))))
}

/// A swarm over TCP (TLS, yamux) and QUIC, with names resolved by DNS where this machine is set up for that, and without
/// limits on its traffic.
///
/// # Errors
/// [`StartError::Setup`] where this machine lacks something.
pub fn swarm<B: libp2p::swarm::NetworkBehaviour>(key: Keypair, behaviour: B) -> Result<Swarm<B>, StartError> {
    swarm_counted(key, behaviour, &Arc::new(Traffic::new(Rates::default())))
}

/// As [`swarm`], with all bytes going by `traffic`.
fn swarm_counted<B: libp2p::swarm::NetworkBehaviour>(key: Keypair, behaviour: B, traffic: &Arc<Traffic>) -> Result<Swarm<B>, StartError> {
    let idle = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(IDLE_TIMEOUT);
    let transports = |key: Keypair| {
        let counted = transport(&key, traffic).map_err(|error| StartError::Setup(error.to_string()))?;
        let builder = SwarmBuilder::with_existing_identity(key).with_tokio();
        builder.with_other_transport(|_| counted).map_err(|never| match never {})
    };
    let setup = |error: Box<dyn std::error::Error + Send + Sync>| StartError::Setup(error.to_string());
    match transports(key.clone())?.with_dns() {
        Ok(builder) => {
            let builder = builder.with_behaviour(|_| behaviour).map_err(|error| setup(error.into()))?;
            Ok(builder.with_swarm_config(idle).build())
        }
        Err(error) => {
            // No resolver is no reason not to serve those who have addresses.
            tracing::warn!(%error, "names can't be resolved on this machine (is /etc/resolv.conf in order?): addresses must be numbers");
            let builder = transports(key)?.with_behaviour(|_| behaviour).map_err(|error| setup(error.into()))?;
            Ok(builder.with_swarm_config(idle).build())
        }
    }
}

impl Driver {
    async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = self.events.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                Some(command) = self.commands.recv() => self.on_command(command),
                Some((token, verdict)) = self.verdicts.recv() => self.on_verdict(&token, verdict),
                Some(inbound) = self.inbound.recv() => self.on_inbound(inbound),
                permit = events.reserve(), if !self.late.is_empty() => match (permit, self.late.pop_front()) {
                    (Ok(permit), Some(event)) => permit.send(event),
                    // Nobody will ever take them.
                    _ => self.late.clear(),
                },
                _ = tick.tick() => {
                    self.context.traffic.sample();
                    self.on_tick(Instant::now());
                }
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a task of the network failed");
                    }
                }
            }
        }
        self.tasks.shutdown().await;
        tracing::debug!("the network is shut down");
    }

    fn control(&mut self) -> &mut Control {
        self.swarm.behaviour_mut().control.inner_mut()
    }

    /// Reports an event, late if the owner is slow. Gossip that would wait long is dropped instead: it comes again by
    /// anti-entropy. All other events are bounded by the number of connections.
    fn emit(&mut self, event: NetEvent) {
        if self.late.is_empty() {
            match self.events.try_send(event) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(event)) => self.late.push_back(event),
            }
        } else if matches!(event, NetEvent::Record { .. }) && self.late.len() >= EVENTS_MAX {
            tracing::debug!("a gossiped record is dropped: too many wait");
        } else {
            self.late.push_back(event);
        }
    }

    fn on_inbound(&mut self, inbound: Inbound) {
        let context = self.context.clone();
        match inbound.protocol.as_ref() {
            SYNC_PROTOCOL => self.tasks.spawn(sync::answer(context, inbound)),
            REACH_PROTOCOL => {
                let dialler = self.dialler.clone();
                self.tasks.spawn(async move { dialler.answer(&context.opener, inbound).await })
            }
            PUSH_PROTOCOL => self.tasks.spawn(async move {
                let Some(holder) = context.holder.clone() else { return };
                if let Some((peer, what)) = holder::take(holder, context.config.limits.clone(), context.traffic.clone(), inbound).await {
                    context.report(peer, what).await;
                }
            }),
            _ => self.tasks.spawn(transfer::serve(context, inbound)),
        };
    }

    fn on_verdict(&mut self, token: &MessageToken, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        self.control().gossipsub.report_message_validation_result(&token.id, &token.source, acceptance);
    }

    fn on_command(&mut self, command: Command) {
        // Whoever no longer waits for a reply does not need it; so failed sends are ignored below.
        match command {
            Command::Join { network, bootstrap, known, reply } => {
                self.join(network, bootstrap, known);
                let _ = reply.send(());
            }
            Command::Leave { network, reply } => {
                self.leave(network);
                let _ = reply.send(());
            }
            Command::Publish { network, topic, bytes, reply } => {
                let _ = reply.send(self.publish(network, topic, bytes));
            }
            Command::Subscribe { network, topic, wanted, reply } => {
                let _ = reply.send(self.subscribe(network, topic, wanted));
            }
            Command::Provide { hash, wanted, reply } => {
                let _ = reply.send(self.provide(hash, wanted));
            }
            Command::Judge { hash, node, gave } => self.control().kad.store_mut().judge(&blob_key(&hash), node, gave),
            Command::Providers { hash, found } => {
                let query = self.control().kad.get_providers(blob_key(&hash));
                self.lookups.insert(query, Lookup::Blob(found));
            }
            Command::Members { network, reply } => {
                let members = self.members(&network).filter_map(|peer| node_id(&peer)).collect();
                let _ = reply.send(members);
            }
            Command::Peers { reply } => {
                let _ = reply.send(self.peer_list());
            }
            Command::Addresses { reply } => {
                let local = *self.swarm.local_peer_id();
                let addresses = self.swarm.listeners().chain(self.swarm.external_addresses());
                let _ = reply.send(addresses.map(|address| with_peer(address.clone(), local)).collect());
            }
            Command::Known { network, reply } => {
                let _ = reply.send(self.book.known(&network));
            }
            Command::Connect { peer, addresses, reply } => self.connect(peer, addresses, reply),
            Command::Misbehaved { peer, what } => self.misbehaved(peer, what),
            Command::Holders { network, reply } => {
                let _ = reply.send(self.holders(&network));
            }
            Command::Reachers { most, reply } => {
                let _ = reply.send(self.reachers(most));
            }
        }
    }

    fn publish(&mut self, network: NetworkId, topic: Topic, bytes: Vec<u8>) -> Result<(), NetError> {
        if !self.networks.contains_key(&network) {
            return Err(NetError::NotAMember(network));
        }
        let given = bytes.len();
        if given > PUBLISH_BYTES_MAX {
            return Err(NetError::TooLarge { given, limit: PUBLISH_BYTES_MAX });
        }
        match self.control().gossipsub.publish(topic.of(&network), bytes) {
            Ok(_) | Err(PublishError::NoPeersSubscribedToTopic | PublishError::Duplicate) => Ok(()),
            Err(error) => Err(NetError::NotSent(error.to_string())),
        }
    }

    fn subscribe(&mut self, network: NetworkId, topic: Topic, wanted: bool) -> Result<(), NetError> {
        if !self.networks.contains_key(&network) {
            return Err(NetError::NotAMember(network));
        }
        let topic = topic.of(&network);
        let gossipsub = &mut self.control().gossipsub;
        if wanted {
            // Scores must be on when the first message comes. Setting them fails only where scoring is off.
            gossipsub.set_topic_params(topic.clone(), topic_score()).map_err(|e| NetError::NotSent(e.into()))?;
            gossipsub.subscribe(&topic).map_err(|error| NetError::NotSent(error.to_string()))?;
        } else {
            gossipsub.unsubscribe(&topic);
        }
        Ok(())
    }

    fn misbehaved(&mut self, peer: PeerId, what: Misbehaviour) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.faults = state.faults.saturating_add(1);
            let score = FAULT_SCORE * f64::from(state.faults);
            self.control().gossipsub.set_application_score(&peer, score);
        }
        if let Some(node) = node_id(&peer) {
            self.emit(NetEvent::Misbehaved { node, what });
        }
    }

    fn peer_list(&self) -> Vec<PeerInfo> {
        let info = |(peer, state): (&PeerId, &Peer)| {
            Some(PeerInfo {
                node: node_id(peer)?,
                addresses: self.book.addresses(peer),
                connected: state.since.elapsed(),
                round_trip: state.round_trip,
                networks: state.networks.iter().copied().collect(),
                bulk: self.swarm.behaviour().substream.has_bulk(peer),
                agent: state.agent.clone(),
                faults: state.faults,
            })
        };
        let mut list: Vec<PeerInfo> = self.peers.iter().filter_map(info).collect();
        list.sort_by_key(|info| info.node);
        list
    }

    /// The connected members of a network.
    fn members(&self, network: &NetworkId) -> impl Iterator<Item = PeerId> {
        self.peers.iter().filter(|(_, state)| state.networks.contains(network)).map(|(peer, _)| *peer)
    }
}
