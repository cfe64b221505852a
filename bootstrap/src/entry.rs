//! The entry server: a node that only helps others to find each other.
//!
//! It speaks Kademlia and identify, knows no networks, holds no blobs and relays no records. Members of a network announce
//! themselves under a key that only members can make and look each other up there.

use std::collections::HashMap;
use std::time::Duration;

use barnraiser_protocol::keys::SecretKey;
use futures::StreamExt as _;
use libp2p::kad::{self, InboundRequest};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, connection_limits, identify, ping};

use crate::config::ANNOUNCED_FOR;
use crate::identity::{keypair, with_peer};
use crate::net::StartError;
use crate::swarm::behaviour::{self, KAD_PROTOCOL};
use crate::swarm::providers::{self, Kademlia, Party};

/// Connections of an entry server.
const CONNECTIONS_MAX: u32 = 2048;
/// How long the addresses that were asked for may take to be bound.
const BIND_TIMEOUT: Duration = Duration::from_secs(10);

/// What an entry server speaks.
#[derive(NetworkBehaviour)]
pub struct EntryBehaviour {
    limits: connection_limits::Behaviour,
    kad: Kademlia,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// A running entry server; [`EntryServer::run`] drives it.
pub struct EntryServer {
    swarm: Swarm<EntryBehaviour>,
    /// Where the latest connection of each connected peer comes from.
    seen_at: HashMap<PeerId, Multiaddr>,
    listening: Vec<Multiaddr>,
}

impl EntryServer {
    /// Binds `listen` and returns once every address is bound.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(key: &SecretKey, listen: &[Multiaddr], agent: String) -> Result<Self, StartError> {
        let key = keypair(key).map_err(|error| StartError::Key(error.to_string()))?;
        let behaviour = EntryBehaviour {
            limits: behaviour::connection_limits(CONNECTIONS_MAX),
            kad: behaviour::kademlia(&key, ANNOUNCED_FOR),
            identify: behaviour::identify(&key, agent),
            ping: behaviour::ping(),
        };
        let swarm = crate::swarm::swarm(key, behaviour)?;
        let mut server = Self { swarm, seen_at: HashMap::new(), listening: Vec::new() };
        for address in listen {
            let failed = |reason: String| StartError::Listen { address: address.clone(), reason };
            let id = server.swarm.listen_on(address.clone()).map_err(|error| failed(error.to_string()))?;
            let bound = async {
                loop {
                    match server.swarm.select_next_some().await {
                        SwarmEvent::NewListenAddr { listener_id, address } => {
                            server.listening.push(address);
                            if listener_id == id {
                                return Ok(());
                            }
                        }
                        SwarmEvent::ListenerClosed { listener_id, reason, .. } if listener_id == id => {
                            let reason = reason.err().map_or("it was closed".into(), |error| error.to_string());
                            return Err(reason);
                        }
                        other => server.on_event(other),
                    }
                }
            };
            tokio::time::timeout(BIND_TIMEOUT, bound).await.unwrap_or_else(|_| Err("nothing happened".into())).map_err(failed)?;
        }
        Ok(server)
    }

    /// Its PeerId.
    pub fn peer(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Where it listens, with its PeerId. More may come where it listens on all interfaces.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.listening.iter().map(|address| with_peer(address.clone(), self.peer())).collect()
    }

    /// Serves for ever. `on_address` is told of each address that is listened on later.
    pub async fn run(mut self, mut on_address: impl FnMut(Multiaddr)) {
        let peer = self.peer();
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => on_address(with_peer(address, peer)),
                SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                    tracing::error!(?addresses, ?reason, "no longer listening");
                }
                other => self.on_event(other),
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<EntryBehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                self.seen_at.insert(peer_id, endpoint.get_remote_address().clone());
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.seen_at.remove(&peer_id);
            }
            SwarmEvent::Behaviour(EntryBehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                tracing::debug!(peer = %peer_id, agent = %info.agent_version.escape_debug(), "a node came");
                if info.protocols.contains(&KAD_PROTOCOL) {
                    let addresses = providers::told(info.listen_addrs, self.seen_at.get(&peer_id));
                    providers::learn(&mut self.swarm.behaviour_mut().kad, &peer_id, &addresses);
                }
            }
            SwarmEvent::Behaviour(EntryBehaviourEvent::Kad(kad::Event::InboundRequest {
                request: InboundRequest::AddProvider { record: Some(record) },
            })) => {
                let seen_at = self.seen_at.get(&record.provider);
                // It knows no network, and so nobody's branch.
                let party = seen_at.map_or(Party::Elsewhere, Party::of_stranger);
                self.swarm.behaviour_mut().kad.store_mut().announced(record, party, seen_at);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(%send_back_addr, %error, "an incoming connection failed");
            }
            _ => {}
        }
    }
}
