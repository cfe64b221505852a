//! Streams of our own protocols, opened on the connection that fits them.
//!
//! libp2p lets a behaviour open streams but leaves the choice of the connection to chance. Here every peer has a
//! control connection (the first one, shared with gossip and discovery) and, where blobs are moved, a **bulk** connection that
//! is dialled for them alone: yamux can deadlock when both ends push much on one connection, and a verdict must not
//! queue behind an image. Only the dialler of a bulk connection opens streams on it.
//!
//! [`Opener`] opens streams; incoming ones arrive in a bounded queue as [`Inbound`]. One that finds no room is reset at
//! once, so that its opener gets an error instead of silence. [`ControlOnly`] keeps other behaviours off the bulk
//! connections.

mod control_only;
pub mod frame;
mod handler;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, NotifyHandler, PeerAddresses, Stream,
    StreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

pub use control_only::ControlOnly;
use handler::{Handler, Opening, ToHandler};

use crate::identity::{ip_of, is_relayed, without_peer};

/// The most streams that one peer may have open to us; a fetcher uses two.
const STREAMS_PER_PEER: usize = 16;
/// Streams that wait to be accepted.
const ACCEPT_QUEUE: usize = 64;
/// Requests for streams that wait for the swarm.
const OPEN_QUEUE: usize = 256;
/// Requests that wait for one connection to be dialled.
const WAITING_MAX: usize = 64;
/// The longest that opening a stream takes, a dial included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Peers whose addresses are remembered for dialling bulk connections.
const ADDRESS_CACHE: usize = 1024;

/// On which connection a stream is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The first direct connection, else a relayed one; dialled where there is none.
    Control,
    /// A connection of its own, dialled where there is none; never relayed. Needs a control connection.
    Bulk,
    /// As [`Lane::Bulk`], dialled at those of the peer's addresses only that have this IP: what a peer says of itself is no reason
    /// to connect to somebody else.
    BulkAt(IpAddr),
}

impl Lane {
    /// Whether a bulk connection in this lane may be dialled at `address`.
    fn dials(self, address: &Multiaddr) -> bool {
        match self {
            Self::Control => false,
            Self::Bulk => !is_relayed(address),
            Self::BulkAt(ip) => !is_relayed(address) && ip_of(address) == Some(ip),
        }
    }
}

/// Why a stream was not opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// No connection, and none could be made.
    #[error("{peer} can't be reached: {reason}")]
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// What the dial said.
        reason: String,
    },
    /// Blobs don't go through relays.
    #[error("{0} is only reachable through a relay, which carries no blobs")]
    Relayed(PeerId),
    /// The peer does not speak it.
    #[error("{peer} does not speak {protocol}")]
    Unsupported {
        /// The peer.
        peer: PeerId,
        /// What was asked for.
        protocol: StreamProtocol,
    },
    /// The connection closed or failed in the meantime.
    #[error("the connection to {peer} failed: {reason}")]
    Connection {
        /// The peer.
        peer: PeerId,
        /// In which way.
        reason: String,
    },
    /// It took longer than a peer that is there needs.
    #[error("{peer} did not answer within {} s", OPEN_TIMEOUT.as_secs())]
    TimedOut {
        /// The peer.
        peer: PeerId,
    },
    /// Too many requests wait already.
    #[error("too many streams to {0} are being opened")]
    Overloaded(PeerId),
    /// The swarm is gone.
    #[error("the network is shut down")]
    ShutDown,
}

/// An incoming stream.
#[derive(Debug)]
pub struct Inbound {
    /// Who opened it.
    pub peer: PeerId,
    /// Which of our protocols.
    pub protocol: StreamProtocol,
    /// The stream.
    pub stream: Stream,
    /// Whether its connection goes through a relay.
    pub relayed: bool,
    /// Where its connection comes from.
    pub address: Multiaddr,
    /// Counts against the peer's streams as long as it is kept.
    pub slot: OwnedSemaphorePermit,
}

struct OpenRequest {
    peer: PeerId,
    lane: Lane,
    opening: Opening,
}

/// Opens streams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Opener {
    requests: mpsc::Sender<OpenRequest>,
}

impl Opener {
    /// Opens a stream of `protocol` to `peer` on a connection of the kind `lane`.
    ///
    /// # Errors
    /// [`OpenError`], after 15 seconds at the latest.
    pub async fn open(&self, peer: PeerId, protocol: StreamProtocol, lane: Lane) -> Result<Stream, OpenError> {
        let (reply, answer) = oneshot::channel();
        let request = OpenRequest { peer, lane, opening: Opening { peer, protocol, reply } };
        let open = async {
            self.requests.send(request).await.map_err(|_| OpenError::ShutDown)?;
            // The reply is dropped with the connection that was to carry the stream.
            answer.await.unwrap_or_else(|_| Err(OpenError::Connection { peer, reason: "closed while the stream was opened".into() }))
        };
        tokio::time::timeout(OPEN_TIMEOUT, open).await.unwrap_or(Err(OpenError::TimedOut { peer }))
    }
}

/// The ids of the bulk connections that we dialled, from the dial to the end.
#[derive(Clone, Debug, Default)]
pub struct BulkConnections(Arc<Mutex<HashSet<ConnectionId>>>);

impl BulkConnections {
    fn lock(&self) -> MutexGuard<'_, HashSet<ConnectionId>> {
        // The set is whole after each call, so a panic elsewhere did not break it.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// Whether we dialled `connection` for bulk.
    pub fn contains(&self, connection: &ConnectionId) -> bool {
        self.lock().contains(connection)
    }
}

/// What the connections of one peer share.
#[derive(Debug)]
struct Shared {
    slots: Arc<Semaphore>,
    /// Whether a bulk connection to it is open that we dialled.
    bulk: AtomicBool,
}

impl Shared {
    fn new() -> Self {
        Self { slots: Arc::new(Semaphore::new(STREAMS_PER_PEER)), bulk: AtomicBool::new(false) }
    }

    /// Whether something goes on with the peer, on whichever connection: while blobs move over the bulk one, the control
    /// connection stays, though nothing moves there. Both ends see to it, since either could close it. It says nothing about a
    /// bulk connection that we dialled: that one would keep itself open for ever.
    fn is_used(&self) -> bool {
        self.bulk.load(Ordering::Relaxed) || self.slots.available_permits() < STREAMS_PER_PEER
    }
}

/// Connections to one peer.
#[derive(Default)]
struct Peer {
    /// All but the bulk one, the direct ones before the relayed ones, else by age.
    control: Vec<Control>,
    bulk: Bulk,
    /// Streams that wait for a first connection.
    waiting: Vec<Opening>,
    keep_alive: bool,
}

struct Control {
    id: ConnectionId,
    relayed: bool,
    /// The peer's address, where we dialled it: one that works.
    dialled: Option<Multiaddr>,
}

#[derive(Default)]
enum Bulk {
    #[default]
    None,
    Dialling {
        id: ConnectionId,
        waiting: Vec<Opening>,
    },
    Open(ConnectionId),
}

/// The behaviour of our own protocols. It has no events: see [`Opener`] and [`Inbound`].
pub struct Behaviour {
    protocols: Arc<[StreamProtocol]>,
    requests: mpsc::Receiver<OpenRequest>,
    accept: mpsc::Sender<Inbound>,
    peers: HashMap<PeerId, Peer>,
    shared: HashMap<PeerId, Arc<Shared>>,
    addresses: PeerAddresses,
    bulk: BulkConnections,
    actions: VecDeque<ToSwarm<std::convert::Infallible, ToHandler>>,
}

impl Behaviour {
    /// A behaviour that accepts streams of `protocols`, with the means to open and to accept them.
    pub fn new(protocols: &[&'static str]) -> (Self, Opener, mpsc::Receiver<Inbound>) {
        let (requests_in, requests) = mpsc::channel(OPEN_QUEUE);
        let (accept, inbound) = mpsc::channel(ACCEPT_QUEUE);
        let behaviour = Self {
            protocols: protocols.iter().map(|name| StreamProtocol::new(name)).collect(),
            requests,
            accept,
            peers: HashMap::new(),
            shared: HashMap::new(),
            addresses: PeerAddresses::new(const { std::num::NonZeroUsize::new(ADDRESS_CACHE).unwrap() }),
            bulk: BulkConnections::default(),
            actions: VecDeque::new(),
        };
        (behaviour, Opener { requests: requests_in }, inbound)
    }

    /// The bulk connections that we dialled, for [`ControlOnly`].
    pub fn bulk_connections(&self) -> BulkConnections {
        self.bulk.clone()
    }

    /// Whether there is a connection to `peer` beside bulk ones.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|state| !state.control.is_empty())
    }

    /// Whether a bulk connection to `peer`, dialled by us, is open.
    pub fn has_bulk(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|state| matches!(state.bulk, Bulk::Open(_)))
    }

    /// Keeps the control connections to `peer` open although nothing moves, or lets them go when idle.
    pub fn keep_alive(&mut self, peer: PeerId, keep: bool) {
        let state = self.peers.entry(peer).or_default();
        state.keep_alive = keep;
        for control in &state.control {
            self.actions.push_back(notify(peer, control.id, ToHandler::KeepAlive(keep)));
        }
        self.forget_if_unused(&peer);
    }

    fn handler(&mut self, peer: PeerId, address: &Multiaddr, own_bulk: bool) -> Handler {
        let shared = self.shared.entry(peer).or_insert_with(|| Arc::new(Shared::new()));
        Handler::new(peer, address.clone(), own_bulk, self.protocols.clone(), shared.clone(), self.accept.clone())
    }

    fn note_bulk(&self, peer: &PeerId, open: bool) {
        if let Some(shared) = self.shared.get(peer) {
            shared.bulk.store(open, Ordering::Relaxed);
        }
    }

    fn open(&mut self, request: OpenRequest) {
        let OpenRequest { peer, lane, opening } = request;
        let state = self.peers.entry(peer).or_default();
        let Some(control) = state.control.first() else {
            if lane != Lane::Control {
                opening.fail(OpenError::Unreachable { peer, reason: "not connected".into() });
            } else if state.waiting.len() >= WAITING_MAX {
                opening.fail(OpenError::Overloaded(peer));
            } else {
                state.waiting.push(opening);
                self.actions.push_back(ToSwarm::Dial { opts: DialOpts::peer_id(peer).build() });
            }
            return self.forget_if_unused(&peer);
        };
        if lane == Lane::Control {
            self.actions.push_back(notify(peer, control.id, ToHandler::Open(opening)));
            return;
        }
        match &mut state.bulk {
            Bulk::Open(id) => self.actions.push_back(notify(peer, *id, ToHandler::Open(opening))),
            Bulk::Dialling { waiting, .. } if waiting.len() < WAITING_MAX => waiting.push(opening),
            Bulk::Dialling { .. } => opening.fail(OpenError::Overloaded(peer)),
            Bulk::None if control.relayed => opening.fail(OpenError::Relayed(peer)),
            Bulk::None => {
                let dialled = state.control.iter().filter_map(|c| c.dialled.clone());
                let mut addresses: Vec<Multiaddr> = dialled.filter(|address| lane.dials(address)).collect();
                let mut known: Vec<Multiaddr> = self.addresses.get(&peer).map(without_peer).collect();
                // TCP before QUIC: the kernel moves its bytes, which costs a fraction of the processor time.
                known.sort_by_key(|address| address.to_string().contains("/quic"));
                for address in known {
                    if lane.dials(&address) && !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                if addresses.is_empty() {
                    return opening
                        .fail(OpenError::Unreachable { peer, reason: "none of its addresses is known that may be dialled".into() });
                }
                let opts = DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .addresses(addresses)
                    // From the listening port the same pair of addresses would collide with the control connection.
                    .allocate_new_port()
                    .override_dial_concurrency_factor(std::num::NonZeroU8::MIN)
                    .build();
                let id = opts.connection_id();
                self.bulk.lock().insert(id);
                state.bulk = Bulk::Dialling { id, waiting: vec![opening] };
                self.actions.push_back(ToSwarm::Dial { opts });
            }
        }
    }

    fn established(&mut self, peer: PeerId, id: ConnectionId, address: &Multiaddr, dialler: bool) {
        let state = self.peers.entry(peer).or_default();
        if let Bulk::Dialling { id: dialled, waiting } = &mut state.bulk
            && *dialled == id
        {
            let waiting = std::mem::take(waiting);
            state.bulk = Bulk::Open(id);
            self.note_bulk(&peer, true);
            self.actions.extend(waiting.into_iter().map(|opening| notify(peer, id, ToHandler::Open(opening))));
            return;
        }
        let relayed = is_relayed(address);
        let dialled = (dialler && !relayed).then(|| without_peer(address.clone()));
        let place = if relayed { state.control.len() } else { state.control.partition_point(|c| !c.relayed) };
        state.control.insert(place, Control { id, relayed, dialled });
        if state.keep_alive {
            self.actions.push_back(notify(peer, id, ToHandler::KeepAlive(true)));
        }
        let waiting = std::mem::take(&mut state.waiting);
        self.actions.extend(waiting.into_iter().map(|opening| notify(peer, id, ToHandler::Open(opening))));
    }

    fn closed(&mut self, peer: PeerId, id: ConnectionId) {
        self.bulk.lock().remove(&id);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let was_bulk = matches!(state.bulk, Bulk::Open(open) if open == id);
        if was_bulk {
            state.bulk = Bulk::None;
        }
        state.control.retain(|control| control.id != id);
        if state.control.is_empty() {
            state.keep_alive = false;
            // The other side does not count a bulk connection as being connected; nor do we.
            if let Bulk::Open(bulk) = state.bulk {
                let connection = CloseConnection::One(bulk);
                self.actions.push_back(ToSwarm::CloseConnection { peer_id: peer, connection });
            }
        }
        if was_bulk {
            self.note_bulk(&peer, false);
        }
        self.forget_if_unused(&peer);
    }

    fn dial_failed(&mut self, peer: PeerId, id: ConnectionId, error: &DialError) {
        let was_bulk = self.bulk.lock().remove(&id);
        // Somebody else is dialling or has just connected: the waiting ones wait on.
        if !was_bulk && matches!(error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let waiting = match &mut state.bulk {
            Bulk::Dialling { id: dialled, waiting } if *dialled == id => {
                let waiting = std::mem::take(waiting);
                state.bulk = Bulk::None;
                waiting
            }
            _ if state.control.is_empty() => std::mem::take(&mut state.waiting),
            _ => return,
        };
        for opening in waiting {
            opening.fail(OpenError::Unreachable { peer, reason: error.to_string() });
        }
        self.forget_if_unused(&peer);
    }

    fn forget_if_unused(&mut self, peer: &PeerId) {
        let unused =
            |state: &Peer| state.control.is_empty() && state.waiting.is_empty() && matches!(state.bulk, Bulk::None) && !state.keep_alive;
        if self.peers.get(peer).is_some_and(unused) {
            self.peers.remove(peer);
            // Streams that are still held keep their semaphore; a peer that returns in between gets a fresh one, which
            // at most doubles its streams for a moment.
            self.shared.remove(peer);
        }
    }
}

fn notify(peer_id: PeerId, id: ConnectionId, event: ToHandler) -> ToSwarm<std::convert::Infallible, ToHandler> {
    ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(id), event }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote_addr: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, remote_addr, false))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let own_bulk = self.bulk.contains(&id);
        Ok(self.handler(peer, addr, own_bulk))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.addresses.on_swarm_event(&event);
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                self.established(peer_id, connection_id, endpoint.get_remote_address(), endpoint.is_dialer());
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.closed(peer_id, connection_id);
            }
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer_id), error, connection_id }) => {
                self.dial_failed(peer_id, connection_id, error);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            match self.requests.poll_recv(cx) {
                Poll::Ready(Some(request)) => self.open(request),
                // Every opener is gone, and so is the need for streams.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_asks_to_be_dialled_is_dialled_where_it_comes_from_and_nowhere_else() {
        let at: Multiaddr = "/ip4/192.0.2.7/tcp/50000".parse().unwrap();
        let (lane, bulk) = (Lane::BulkAt(ip_of(&at).unwrap()), Lane::Bulk);
        let relay = format!("/ip4/192.0.2.7/tcp/1/p2p/{}/p2p-circuit", PeerId::random());
        for (address, any, here) in [
            ("/ip4/192.0.2.7/tcp/4001", true, true),
            ("/ip4/192.0.2.7/udp/4001/quic-v1", true, true),
            ("/ip4/192.0.2.8/tcp/4001", true, false),
            ("/ip4/127.0.0.1/tcp/22", true, false),
            ("/ip4/10.0.0.1/tcp/80", true, false),
            ("/dns4/example.org/tcp/4001", true, false),
            (relay.as_str(), false, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!((bulk.dials(&address), lane.dials(&address)), (any, here), "{address}");
        }
    }
}
