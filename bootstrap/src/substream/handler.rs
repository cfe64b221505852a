//! The part of the substream behaviour that lives with one connection.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use super::{Inbound, OpenError, Shared};
use crate::identity::is_relayed;

/// A stream that somebody waits for.
#[derive(Debug)]
pub struct Opening {
    pub(super) peer: PeerId,
    pub(super) protocol: StreamProtocol,
    pub(super) reply: oneshot::Sender<Result<Stream, OpenError>>,
}

impl Opening {
    pub(super) fn fail(self, error: OpenError) {
        // Nobody waits any more: then nobody needs the error.
        let _ = self.reply.send(Err(error));
    }
}

/// What the behaviour tells a connection.
#[derive(Debug)]
pub enum ToHandler {
    /// Open a stream.
    Open(Opening),
    /// Whether to stay although nothing moves.
    KeepAlive(bool),
}

/// Negotiates one of our protocols and hands the bare stream over.
#[derive(Debug, Clone)]
pub struct Upgrade(Arc<[StreamProtocol]>);

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = Vec<StreamProtocol>;
    fn protocol_info(&self) -> Self::InfoIter {
        self.0.to_vec()
    }
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;
    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;
    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

/// Opens and accepts streams on one connection.
pub struct Handler {
    peer: PeerId,
    address: Multiaddr,
    relayed: bool,
    /// Whether it is a bulk connection that we dialled.
    own_bulk: bool,
    protocols: Arc<[StreamProtocol]>,
    shared: Arc<Shared>,
    accept: mpsc::Sender<Inbound>,
    openings: VecDeque<Opening>,
    keep_alive: bool,
}

impl Handler {
    pub(super) fn new(
        peer: PeerId,
        address: Multiaddr,
        own_bulk: bool,
        protocols: Arc<[StreamProtocol]>,
        shared: Arc<Shared>,
        accept: mpsc::Sender<Inbound>,
    ) -> Self {
        let relayed = is_relayed(&address);
        Self { peer, address, relayed, own_bulk, protocols, shared, accept, openings: VecDeque::new(), keep_alive: false }
    }

    /// Queues an incoming stream, or resets it by dropping it.
    fn accept(&self, stream: Stream, protocol: StreamProtocol) {
        let Ok(slot) = self.shared.slots.clone().try_acquire_owned() else {
            tracing::debug!(peer = %self.peer, %protocol, "stream refused: the peer has too many");
            return;
        };
        let inbound = Inbound { peer: self.peer, protocol, stream, relayed: self.relayed, address: self.address.clone(), slot };
        if let Err(error) = self.accept.try_send(inbound) {
            tracing::debug!(peer = %self.peer, %error, "stream refused: nobody takes it");
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = ToHandler;
    type ToBehaviour = Infallible;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Opening;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(Upgrade(self.protocols.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        // Streams keep their connection open by themselves.
        self.keep_alive || !self.openings.is_empty() || (!self.own_bulk && self.shared.is_used())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, Opening, Infallible>> {
        // Queued openings came through `on_behaviour_event`, after which the connection polls.
        match self.openings.pop_front() {
            Some(opening) => {
                let upgrade = Upgrade(Arc::from([opening.protocol.clone()]));
                let protocol = SubstreamProtocol::new(upgrade, opening);
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
            }
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: ToHandler) {
        match event {
            ToHandler::Open(opening) => self.openings.push_back(opening),
            ToHandler::KeepAlive(keep) => self.keep_alive = keep,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Upgrade, Upgrade, (), Opening>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (stream, protocol), .. }) => {
                self.accept(stream, protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: opening }) => {
                // An opener that gave up drops the stream, which resets it.
                let _ = opening.reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: opening, error }) => {
                let peer = opening.peer;
                let error = match error {
                    StreamUpgradeError::Timeout => OpenError::TimedOut { peer },
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported { peer, protocol: opening.protocol.clone() },
                    StreamUpgradeError::Io(error) => OpenError::Connection { peer, reason: error.to_string() },
                    StreamUpgradeError::Apply(never) => match never {},
                };
                opening.fail(error);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn bulk_connection_keeps_the_control_connection_open_and_not_itself() {
        let (shared, peer, address) = (Arc::new(Shared::new()), PeerId::random(), "/ip4/127.0.0.1/tcp/1".parse::<Multiaddr>().unwrap());
        let (accept, _inbound) = mpsc::channel(1);
        let handler = |own_bulk| Handler::new(peer, address.clone(), own_bulk, Arc::from([]), shared.clone(), accept.clone());
        let (control, mut bulk) = (handler(false), handler(true));
        assert!(!control.connection_keep_alive() && !bulk.connection_keep_alive(), "nothing goes on");
        shared.bulk.store(true, Ordering::Relaxed);
        assert!(control.connection_keep_alive());
        assert!(!bulk.connection_keep_alive(), "an idle one closes");
        // Nor does a stream that the peer has open on another connection.
        let _slot = shared.slots.clone().try_acquire_owned().unwrap();
        assert!(!bulk.connection_keep_alive());
        let (reply, _answer) = oneshot::channel();
        bulk.on_behaviour_event(ToHandler::Open(Opening { peer, protocol: StreamProtocol::new("/test/substream"), reply }));
        assert!(bulk.connection_keep_alive(), "a stream is being opened");
    }
}
