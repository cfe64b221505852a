//! What libp2p says, turned into what this node does and reports.

use std::collections::BTreeSet;
use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::kad::{self, GetProvidersOk, QueryResult};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{PeerId, gossipsub, identify};

use super::behaviour::{ControlEvent, KAD_PROTOCOL, NodeEvent};
use super::book::reachable;
use super::{Driver, Lookup, Peer, providers};
use crate::event::{MessageToken, NetEvent, Via};
use crate::identity::{node_id, with_peer};
use crate::topic::Topic;

/// Networks remembered of a peer; one that names more is not asked about them.
const NETWORKS_PER_PEER: usize = 64;
/// Characters kept of what a peer says that it runs.
const AGENT_CHARS: usize = 64;

impl Driver {
    pub(super) fn on_swarm_event(&mut self, event: SwarmEvent<NodeEvent>) {
        match event {
            SwarmEvent::Behaviour(NodeEvent::Control(event)) => self.on_control_event(event),
            SwarmEvent::NewListenAddr { address, .. } => {
                let address = with_peer(address, *self.swarm.local_peer_id());
                tracing::debug!(%address, "listening");
                self.emit(NetEvent::Listening(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                let address = with_peer(address, *self.swarm.local_peer_id());
                self.emit(NetEvent::NotListening(address));
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::warn!(?addresses, ?reason, "no longer listening");
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, .. } => self.on_closed(peer_id),
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                tracing::debug!(?peer_id, %error, "dial failed");
                if let Some(peer) = peer_id
                    && !self.swarm.behaviour().substream.is_connected(&peer)
                {
                    self.connect_failed(peer, &error.to_string());
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(%send_back_addr, %error, "an incoming connection failed");
            }
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let now = Instant::now();
        let dialled = match endpoint {
            ConnectedPoint::Dialer { address, .. } => Some(address.clone()),
            ConnectedPoint::Listener { .. } => None,
        };
        tracing::debug!(%peer, %connection, address = %endpoint.get_remote_address(), "connected");
        if let Some(address) = &dialled {
            self.entry_answered(address, peer, now);
        }
        self.book.connected(peer, dialled, now);
        let seen_at = endpoint.get_remote_address().clone();
        let state = self.peers.entry(peer).or_insert_with(|| Peer {
            since: now,
            seen_at: seen_at.clone(),
            round_trip: None,
            networks: BTreeSet::new(),
            identified: false,
            agent: String::new(),
            faults: 0,
        });
        state.seen_at = seen_at;
        self.connect_ended(peer, &Ok(()));
    }

    fn on_closed(&mut self, peer: PeerId) {
        if self.swarm.behaviour().substream.is_connected(&peer) {
            return;
        }
        self.subscriptions.remove(&peer);
        let Some(state) = self.peers.remove(&peer) else { return };
        tracing::debug!(%peer, "disconnected");
        if !state.networks.is_empty()
            && let Some(node) = node_id(&peer)
        {
            self.emit(NetEvent::PeerDisconnected { node });
        }
    }

    fn on_control_event(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Gossipsub(event) => self.on_gossip(event),
            ControlEvent::Kad(event) => self.on_kad(event),
            ControlEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            ControlEvent::Identify(_) => {}
            ControlEvent::Ping(event) => {
                if let (Ok(round_trip), Some(state)) = (event.result, self.peers.get_mut(&event.peer)) {
                    state.round_trip = Some(round_trip);
                }
            }
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let token = MessageToken { id: message_id, source: propagation_source };
                let network = Topic::parse(&message.topic).map(|(network, _)| network);
                let Some((network, from)) = network.zip(node_id(&propagation_source)) else {
                    return self.on_verdict(&token, crate::Verdict::Ignore);
                };
                // Longer ones are no records, and no honest node passes them on.
                if message.data.len() > super::PUBLISH_BYTES_MAX {
                    return self.on_verdict(&token, crate::Verdict::Reject);
                }
                self.emit(NetEvent::Record { network, bytes: message.data, from, via: Via::Gossip(token) });
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                if let Some((network, Topic::Control)) = Topic::parse(&topic) {
                    let said = self.subscriptions.entry(peer_id).or_default();
                    if said.len() < NETWORKS_PER_PEER {
                        said.insert(network);
                    }
                    self.membership_changed(peer_id);
                }
            }
            gossipsub::Event::Unsubscribed { peer_id, topic } => {
                if let Some((network, Topic::Control)) = Topic::parse(&topic) {
                    if let Some(said) = self.subscriptions.get_mut(&peer_id) {
                        said.remove(&network);
                    }
                    self.membership_changed(peer_id);
                }
            }
            gossipsub::Event::SlowPeer { peer_id, failed_messages } => {
                tracing::debug!(peer = %peer_id, ?failed_messages, "a peer takes gossip too slowly");
            }
            gossipsub::Event::GossipsubNotSupported { .. } => {}
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        // By the connection itself: where it sees us, or says to be, it could say anything.
        let seen_at = self.peers.get(&peer).map(|state| state.seen_at.clone());
        let addresses = reachable(info.listen_addrs, seen_at.as_ref());
        self.services.note(peer, &info.protocols);
        // A peer may say anew who it is as often as it likes; only the first time does it start a search.
        let mut is_new = false;
        let mut shared = Vec::new();
        if let Some(state) = self.peers.get_mut(&peer) {
            is_new = !std::mem::replace(&mut state.identified, true);
            state.agent = info.agent_version.chars().filter(|c| !c.is_control()).take(AGENT_CHARS).collect();
            shared.extend(state.networks.iter().copied());
        }
        if self.book.identified(peer, addresses) && !shared.is_empty() {
            self.emit(NetEvent::AddressesChanged { networks: shared });
        }
        if info.protocols.contains(&KAD_PROTOCOL) {
            // The one that works is among them, and the first.
            let addresses = providers::told(self.book.addresses(&peer), seen_at.as_ref());
            providers::learn(&mut self.control().kad, &peer, &addresses);
            self.announce_again();
            if is_new {
                self.search_soon(Instant::now());
            }
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(record) } } => {
                self.keep_announcement(record);
            }
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                let found = match &result {
                    QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) => providers.iter().copied().collect(),
                    _ => Vec::new(),
                };
                if let QueryResult::GetClosestPeers(result) = result {
                    let peers = match result {
                        Ok(found) => found.peers,
                        Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                    };
                    for info in peers {
                        self.book.note(info.peer_id, info.addrs, None);
                    }
                }
                self.on_found(id, found, step.last);
            }
            _ => {}
        }
    }

    /// A lookup found peers; `last` says that it has ended.
    fn on_found(&mut self, query: kad::QueryId, found: Vec<PeerId>, last: bool) {
        let Some(lookup) = self.lookups.get(&query) else { return };
        match lookup {
            Lookup::Members(network) => {
                let (network, now) = (*network, Instant::now());
                for peer in found {
                    self.member_found(network, peer, now);
                }
            }
            Lookup::Blob(sender) => {
                for node in found.iter().filter_map(node_id) {
                    // Whoever asked takes a bounded number and may be gone.
                    let _ = sender.try_send(node);
                }
            }
            Lookup::Peer(peer) => {
                let peer = *peer;
                if last {
                    self.lookups.remove(&query);
                    self.located(peer);
                }
                return;
            }
        }
        if last {
            self.lookups.remove(&query);
        }
    }
}
