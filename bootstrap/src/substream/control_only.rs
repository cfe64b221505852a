//! Keeps gossip and discovery off bulk connections.
//!
//! Gossipsub shares one queue of messages among all connections to a peer, and Kademlia asks on any of them: without
//! care a record would travel behind an image. On a bulk connection that we dialled, the inner behaviour is simply
//! absent. The other end can't know at first what an incoming connection is for: where it is not the first one of its peer, the
//! inner handler is there to answer but **passive**: it opens nothing until the peer has opened a stream of the inner
//! behaviour on it, which a dialler of bulk never does.

use std::collections::HashMap;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{AddressChange, ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::derive_prelude::Either;
use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler,
    SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::BulkConnections;

/// A behaviour that is confined to control connections.
pub struct ControlOnly<B: NetworkBehaviour> {
    inner: B,
    bulk: BulkConnections,
    /// The connections that the inner behaviour knows, oldest first, and whether each is active.
    connections: HashMap<PeerId, Vec<(ConnectionId, bool)>>,
    /// Connections to close since only passive ones are left.
    orphans: Vec<(PeerId, ConnectionId)>,
}

impl<B: NetworkBehaviour> ControlOnly<B> {
    /// Confines `inner` to connections that are not in `bulk`.
    pub fn new(inner: B, bulk: BulkConnections) -> Self {
        Self { inner, bulk, connections: HashMap::new(), orphans: Vec::new() }
    }

    /// The behaviour inside.
    pub const fn inner(&self) -> &B {
        &self.inner
    }

    /// The behaviour inside.
    pub const fn inner_mut(&mut self) -> &mut B {
        &mut self.inner
    }

    fn is_passive(&self, peer: &PeerId) -> bool {
        self.connections.get(peer).is_some_and(|connections| connections.iter().any(|(_, active)| *active))
    }

    fn active(&self, peer: &PeerId) -> Option<ConnectionId> {
        self.connections.get(peer)?.iter().find(|(_, active)| *active).map(|(id, _)| *id)
    }

    fn closed(&mut self, event: ConnectionClosed<'_>) {
        let mut remaining_established = 0;
        if let Some(connections) = self.connections.get_mut(&event.peer_id) {
            connections.retain(|(id, _)| *id != event.connection_id);
            remaining_established = connections.len();
            if connections.iter().all(|(_, active)| !active) {
                self.orphans.extend(connections.iter().map(|(id, _)| (event.peer_id, *id)));
            }
            if connections.is_empty() {
                self.connections.remove(&event.peer_id);
            }
        }
        self.inner.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed { remaining_established, ..event }));
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for ControlOnly<B> {
    type ConnectionHandler = Either<Reserved<THandler<B>>, dummy::ConnectionHandler>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local_addr: &Multiaddr,
        remote_addr: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local_addr, remote_addr)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local_addr: &Multiaddr,
        remote_addr: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(id, peer, local_addr, remote_addr)?;
        Ok(Either::Left(Reserved { inner, active: !self.is_passive(&peer), announce: false }))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.bulk.contains(&id) {
            return Ok(Vec::new());
        }
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.bulk.contains(&id) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        let inner = self.inner.handle_established_outbound_connection(id, peer, addr, role, port_use)?;
        Ok(Either::Left(Reserved { inner, active: true, announce: false }))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id: id, .. })
            | FromSwarm::ConnectionClosed(ConnectionClosed { connection_id: id, .. })
            | FromSwarm::AddressChange(AddressChange { connection_id: id, .. })
            | FromSwarm::DialFailure(DialFailure { connection_id: id, .. })
                if self.bulk.contains(&id) => {}
            FromSwarm::ConnectionEstablished(event) => {
                let active = event.endpoint.is_dialer() || !self.is_passive(&event.peer_id);
                let connections = self.connections.entry(event.peer_id).or_default();
                let other_established = connections.len();
                connections.push((event.connection_id, active));
                self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished { other_established, ..event }));
            }
            FromSwarm::ConnectionClosed(event) => self.closed(event),
            other => self.inner.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            Either::Left(Signal::Inner(event)) => self.inner.on_connection_handler_event(peer, id, event),
            Either::Left(Signal::Activated) => {
                let connections = self.connections.get_mut(&peer);
                if let Some(connection) = connections.and_then(|all| all.iter_mut().find(|(other, _)| *other == id)) {
                    connection.1 = true;
                }
            }
            Either::Right(never) => match never {},
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, id)) = self.orphans.pop() {
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) });
        }
        self.inner.poll(cx).map(|action| match action {
            ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event } => {
                let handler = self.active(&peer_id).map_or(NotifyHandler::Any, NotifyHandler::One);
                ToSwarm::NotifyHandler { peer_id, handler, event: Either::Left(event) }
            }
            other => other.map_in(Either::Left),
        })
    }
}

/// An inner handler, which while passive only answers.
pub struct Reserved<H> {
    inner: H,
    active: bool,
    announce: bool,
}

/// What a [`Reserved`] handler tells its behaviour.
#[derive(Debug)]
pub enum Signal<E> {
    /// The peer uses the connection for the inner behaviour, so it is no bulk connection.
    Activated,
    /// For the inner behaviour.
    Inner(E),
}

impl<H: ConnectionHandler> ConnectionHandler for Reserved<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = Signal<H::ToBehaviour>;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.active && self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if std::mem::take(&mut self.announce) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Signal::Activated));
        }
        if !self.active {
            // The first incoming stream wakes the connection.
            return Poll::Pending;
        }
        self.inner.poll(cx).map(|event| event.map_custom(Signal::Inner))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx).map(|event| event.map(Signal::Inner))
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, Self::InboundOpenInfo, Self::OutboundOpenInfo>,
    ) {
        if !self.active && matches!(event, ConnectionEvent::FullyNegotiatedInbound(_)) {
            self.active = true;
            self.announce = true;
        }
        self.inner.on_connection_event(event);
    }
}
