//! Which peers do something for others: hold blobs, dial back.

use std::collections::HashSet;

use barnraiser_protocol::id::{NetworkId, NodeId};
use barnraiser_protocol::transfer::push::PUSH_PROTOCOL;
use barnraiser_protocol::transfer::reach::REACH_PROTOCOL;
use libp2p::PeerId;
use libp2p::swarm::StreamProtocol;

use super::Driver;
use crate::identity::node_id;
use crate::net::KnownHolder;

/// Peers remembered for each. Holders are remembered after they disconnect, to be dialled again.
const PEERS_MAX: usize = 1024;

/// What peers said that they speak.
#[derive(Debug, Default)]
pub(super) struct Services {
    holders: HashSet<PeerId>,
    diallers: HashSet<PeerId>,
}

impl Services {
    /// Notes what a peer says that it speaks.
    pub(super) fn note(&mut self, peer: PeerId, protocols: &[StreamProtocol]) {
        for (known, name) in [(&mut self.holders, PUSH_PROTOCOL), (&mut self.diallers, REACH_PROTOCOL)] {
            if !protocols.iter().any(|protocol| protocol.as_ref() == name) {
                known.remove(&peer);
                continue;
            }
            if known.len() >= PEERS_MAX && !known.contains(&peer) {
                // Any: who is of use and still there says it again when it connects.
                let other = known.iter().next().copied();
                other.map(|other| known.remove(&other));
            }
            known.insert(peer);
        }
    }
}

impl Driver {
    /// The holders of `network` that were met, in the order of their ids: its entry servers, and peers that were seen in it.
    /// Strangers that say that they hold blobs are none.
    pub(super) fn holders(&self, network: &NetworkId) -> Vec<KnownHolder> {
        let Some(membership) = self.networks.get(network) else { return Vec::new() };
        let found = self.services.holders.iter().filter_map(|peer| {
            let entry = membership.has_entry(peer);
            let connected = self.peers.contains_key(peer);
            (entry || self.book.is_of(peer, network)).then_some(KnownHolder { node: node_id(peer)?, entry, connected })
        });
        let mut found: Vec<KnownHolder> = found.collect();
        found.sort_by_key(|holder| holder.node);
        found
    }

    /// Up to `most` connected peers that dial back, entry servers first.
    pub(super) fn reachers(&self, most: usize) -> Vec<NodeId> {
        let is_entry = |peer: &PeerId| self.networks.values().any(|membership| membership.has_entry(peer));
        let connected = self.services.diallers.iter().filter(|peer| self.peers.contains_key(*peer));
        let mut found: Vec<(bool, u32, NodeId)> =
            connected.filter_map(|peer| Some((!is_entry(peer), rand::random(), node_id(peer)?))).collect();
        found.sort_unstable();
        found.into_iter().take(most).map(|(.., node)| node).collect()
    }
}
