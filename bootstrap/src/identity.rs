//! A node's id and its libp2p PeerId are the same ed25519 key in two spellings.

use std::net::IpAddr;

use barnraiser_protocol::id::NodeId;
use barnraiser_protocol::keys::SecretKey;
use libp2p::identity::{DecodingError, Keypair, PublicKey, ed25519};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

/// The PeerId of `node`; `None` where its 32 bytes are no ed25519 key.
pub fn peer_id(node: &NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The node of `peer`; `None` where its key is not ed25519, so that it can't be a node of ours.
pub fn node_id(peer: &PeerId) -> Option<NodeId> {
    // An ed25519 PeerId is the identity multihash of the encoded public key.
    let key = PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    Some(NodeId(key.try_into_ed25519().ok()?.to_bytes()))
}

/// The transport's key pair of a node key.
///
/// # Errors
/// Never for the 32 bytes of a [`SecretKey`]; the library's signature allows for it.
pub fn keypair(key: &SecretKey) -> Result<Keypair, DecodingError> {
    Keypair::ed25519_from_bytes(key.seed())
}

/// The PeerId that `address` ends with, if it does.
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// `address` without the PeerId at its end.
pub fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if peer_of(&address).is_some() {
        address.pop();
    }
    address
}

/// `address` with `peer` at its end.
pub fn with_peer(address: Multiaddr, peer: PeerId) -> Multiaddr {
    without_peer(address).with(Protocol::P2p(peer))
}

/// Whether traffic to `address` goes through a relay.
pub fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::P2pCircuit))
}

/// Whether `address` only works on the machine that gave it.
pub fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// The IP address that `address` begins with; none of a name or of anything else. One of version 4 in the clothes of version 6 is
/// the one of version 4.
pub fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(IpAddr::from(ip).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn node_id_and_peer_id_name_the_same_key() {
        let key = SecretKey::from_seed(&[3; 32]);
        let peer = keypair(&key).unwrap().public().to_peer_id();
        assert_eq!(peer_id(&key.node()), Some(peer));
        assert_eq!(node_id(&peer), Some(key.node()));
        assert_eq!(node_id(&PeerId::random()), None, "a random one is the hash of nothing");
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        assert_eq!(without_peer(with_peer(address.clone(), peer)), address);
        assert!(is_loopback(&address) && !is_relayed(&address));
    }

    #[test]
    fn only_an_address_that_begins_with_an_ip_has_one() {
        let ip = |text: &str| ip_of(&text.parse().unwrap());
        let four = Some("192.0.2.1".parse().unwrap());
        assert_eq!((ip("/ip4/192.0.2.1/tcp/1"), ip("/ip6/::ffff:192.0.2.1/udp/1/quic-v1")), (four, four));
        assert_eq!(ip("/ip6/2001:db8::1/tcp/1"), Some("2001:db8::1".parse().unwrap()));
        assert_eq!((ip("/dns4/example.org/tcp/1"), ip("/memory/1")), (None, None));
    }
}
