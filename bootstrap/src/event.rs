//! What the network layer reports by itself.

use barnraiser_protocol::id::{NetworkId, NodeId};
use libp2p::gossipsub::MessageId;
use libp2p::{Multiaddr, PeerId};

/// Something happened.
#[derive(Debug)]
pub enum NetEvent {
    /// A record arrived. Its bytes are as received and checked in no way.
    Record {
        /// The network on whose topic, or in whose exchange, it came.
        network: NetworkId,
        /// The record.
        bytes: Vec<u8>,
        /// Who sent it (not who wrote it).
        from: NodeId,
        /// By which way.
        via: Via,
    },
    /// A peer turned out to be a member of these of our networks. Comes again when the set changes.
    PeerConnected {
        /// The peer.
        node: NodeId,
        /// All networks that we share now.
        networks: Vec<NetworkId>,
    },
    /// Other addresses became known of a member of these networks: those to be remembered have changed.
    AddressesChanged {
        /// All networks that we share with that peer.
        networks: Vec<NetworkId>,
    },
    /// The last connection to a peer that was reported as connected closed.
    PeerDisconnected {
        /// The peer.
        node: NodeId,
    },
    /// An address on which this node listens, with its PeerId.
    Listening(Multiaddr),
    /// An address no longer listened on.
    NotListening(Multiaddr),
    /// An exchange of records with a peer ended; all records that it brought were reported before.
    Synced {
        /// The network.
        network: NetworkId,
        /// The peer.
        node: NodeId,
        /// How many records the peer sent.
        received: u64,
    },
    /// A peer broke a protocol or lied. It has been dealt with here; the node may want to remember.
    Misbehaved {
        /// The peer.
        node: NodeId,
        /// What it did.
        what: Misbehaviour,
    },
}

/// How a record came.
#[derive(Debug)]
pub enum Via {
    /// By gossip: it is passed on, or not, when the verdict is given with [`crate::Net::validated`].
    Gossip(MessageToken),
    /// By anti-entropy.
    Sync,
}

/// A gossiped record that waits for its verdict. One that is dropped is never passed on.
#[derive(Debug)]
pub struct MessageToken {
    pub(crate) id: MessageId,
    pub(crate) source: PeerId,
}

/// What becomes of a gossiped record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Good: pass it on.
    Accept,
    /// Of no use, and nobody's fault (late, over a quota): don't pass it on.
    Ignore,
    /// Bad, and its sender should have known: don't pass it on, and count it against the sender.
    Reject,
}

/// What a peer did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaviour {
    /// It sent bytes that are not the blob's.
    #[error("sent wrong bytes: {0}")]
    WrongBytes(String),
    /// It stated a length that is not the blob's.
    #[error("stated a wrong length of a blob: {0}")]
    WrongLength(String),
    /// It sent what the protocol does not allow: oversized, malformed, out of turn.
    #[error("broke the protocol {protocol}: {what}")]
    Protocol {
        /// Which.
        protocol: &'static str,
        /// In which way.
        what: String,
    },
}
