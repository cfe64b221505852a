//! Addresses of peers: what is remembered of whom, and when it is worth trying again.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use barnraiser_protocol::id::NetworkId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::identity::{is_loopback, is_relayed, with_peer, without_peer};

/// Peers remembered.
const PEERS_MAX: usize = 1024;
/// Addresses remembered of each.
const ADDRESSES_MAX: usize = 8;
/// Bytes of the longest address that is remembered.
const ADDRESS_BYTES_MAX: usize = 256;
/// The most addresses that are handed out for the next start.
const KNOWN_MAX: usize = 64;
/// The first wait after a failed dial, doubled each time up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(600);

/// What is known of a peer.
struct Entry {
    /// Without PeerIds, the best first.
    addresses: Vec<Multiaddr>,
    /// Those of our networks in which it was seen or is said to be.
    networks: BTreeSet<NetworkId>,
    /// When it was connected last, in this run.
    seen: Option<Instant>,
    next_dial: Instant,
    retry: Duration,
}

/// The addresses of peers.
#[derive(Default)]
pub(super) struct Book {
    entries: HashMap<PeerId, Entry>,
}

impl Book {
    fn entry(&mut self, peer: PeerId) -> &mut Entry {
        if !self.entries.contains_key(&peer) && self.entries.len() >= PEERS_MAX {
            // Never connected before connected long ago.
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.seen).map(|(peer, _)| *peer);
            oldest.and_then(|peer| self.entries.remove(&peer));
        }
        self.entries.entry(peer).or_insert_with(|| Entry {
            addresses: Vec::new(),
            networks: BTreeSet::new(),
            seen: None,
            next_dial: Instant::now(),
            retry: RETRY_MIN,
        })
    }

    /// Notes that `peer` may be reached at `addresses` and is said to be in `network`.
    pub(super) fn note(&mut self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>, network: Option<NetworkId>) {
        let entry = self.entry(peer);
        entry.networks.extend(network);
        for address in addresses {
            let address = without_peer(address);
            if is_usable(&address) && !entry.addresses.contains(&address) && entry.addresses.len() < ADDRESSES_MAX {
                entry.addresses.push(address);
            }
        }
    }

    /// Notes that `peer` is connected, by `address` if we dialled it.
    pub(super) fn connected(&mut self, peer: PeerId, address: Option<Multiaddr>, now: Instant) {
        let entry = self.entry(peer);
        entry.seen = Some(now);
        entry.retry = RETRY_MIN;
        if let Some(address) = address.map(without_peer).filter(is_usable) {
            // The one that just worked goes first.
            entry.addresses.retain(|other| *other != address);
            entry.addresses.insert(0, address);
            entry.addresses.truncate(ADDRESSES_MAX);
        }
    }

    /// Replaces what is known by what the peer itself says, but for the address that works; whether that changed anything.
    pub(super) fn identified(&mut self, peer: PeerId, said: Vec<Multiaddr>) -> bool {
        let before = self.addresses(&peer);
        self.entry(peer).addresses.truncate(1);
        self.note(peer, said, None);
        self.addresses(&peer) != before
    }

    /// All addresses of `peer`.
    pub(super) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.entries.get(peer).map(|entry| entry.addresses.clone()).unwrap_or_default()
    }

    /// Up to `most` peers of `network` that may be dialled now; they are then left alone for a while.
    pub(super) fn due(&mut self, network: &NetworkId, most: usize, now: Instant, skip: impl Fn(&PeerId) -> bool) -> Vec<PeerId> {
        let candidates = self.entries.iter_mut().filter(|(peer, entry)| {
            entry.next_dial <= now && entry.networks.contains(network) && !entry.addresses.is_empty() && !skip(peer)
        });
        let mut due = Vec::new();
        for (peer, entry) in candidates.take(most) {
            entry.dialled(now);
            due.push(*peer);
        }
        due
    }

    /// Notes that `peer` is being dialled.
    pub(super) fn dialled(&mut self, peer: PeerId, now: Instant) {
        self.entry(peer).dialled(now);
    }

    /// Whether `peer` was seen in `network`, or is said to be in it.
    pub(super) fn is_of(&self, peer: &PeerId, network: &NetworkId) -> bool {
        self.entries.get(peer).is_some_and(|entry| entry.networks.contains(network))
    }

    /// Addresses of members of `network` with PeerIds, for the next start.
    pub(super) fn known(&self, network: &NetworkId) -> Vec<Multiaddr> {
        let mut members: Vec<_> = self.entries.iter().filter(|(_, entry)| entry.networks.contains(network)).collect();
        members.sort_by_key(|(peer, entry)| (std::cmp::Reverse(entry.seen), **peer));
        let addresses =
            members.into_iter().flat_map(|(peer, entry)| entry.addresses.iter().map(|address| with_peer(address.clone(), *peer)));
        addresses.take(KNOWN_MAX).collect()
    }
}

impl Entry {
    fn dialled(&mut self, now: Instant) {
        // Jitter keeps nodes that lost the same peer from returning to it all at once.
        self.next_dial = now + self.retry.mul_f64(rand::random_range(0.75..1.25));
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }
}

/// Of the addresses that a peer names as its own, those that can work for somebody who sees it at `seen_at`.
pub(super) fn reachable(named: Vec<Multiaddr>, seen_at: Option<&Multiaddr>) -> Vec<Multiaddr> {
    let near = seen_at.is_some_and(is_loopback);
    named.into_iter().filter(|address| is_usable(address) && (near || !is_loopback(address))).collect()
}

/// Whether an address is one that a node of ours can dial.
fn is_usable(address: &Multiaddr) -> bool {
    let is_somewhere = match address.iter().next() {
        Some(Protocol::Ip4(ip)) => !ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => !ip.is_unspecified(),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)) => true,
        _ => false,
    };
    is_somewhere && !is_relayed(address) && address.len() <= ADDRESS_BYTES_MAX
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn address_that_worked_is_kept_first_and_useless_ones_are_not_kept() {
        let (mut book, peer, now) = (Book::default(), PeerId::random(), Instant::now());
        let network = NetworkId([1; 32]);
        book.note(peer, [address("/ip4/10.0.0.1/tcp/1"), address("/ip4/0.0.0.0/tcp/1")], Some(network));
        book.connected(peer, Some(address("/ip4/10.0.0.2/tcp/2")), now);
        assert_eq!(book.addresses(&peer), [address("/ip4/10.0.0.2/tcp/2"), address("/ip4/10.0.0.1/tcp/1")]);
        book.identified(peer, vec![address("/ip4/10.0.0.3/udp/3/quic-v1")]);
        assert_eq!(book.addresses(&peer), [address("/ip4/10.0.0.2/tcp/2"), address("/ip4/10.0.0.3/udp/3/quic-v1")]);
        assert_eq!(book.known(&network).len(), 2);
        assert_eq!(book.known(&NetworkId([2; 32])), []);
    }

    /// A peer that does not answer is tried less and less often.
    #[test]
    fn dials_back_off() {
        let (mut book, peer, mut now) = (Book::default(), PeerId::random(), Instant::now());
        let network = NetworkId([1; 32]);
        book.note(peer, [address("/ip4/10.0.0.1/tcp/1")], Some(network));
        let mut dials = 0;
        for _ in 0..3600 {
            now += Duration::from_secs(1);
            dials += book.due(&network, 8, now, |_| false).len();
        }
        assert!((10..30).contains(&dials), "{dials} dials in an hour");
    }

    #[test]
    fn loopback_addresses_are_believed_from_loopback_only() {
        let named = vec![address("/ip4/127.0.0.1/tcp/1"), address("/ip4/10.0.0.1/tcp/1")];
        assert_eq!(reachable(named.clone(), Some(&address("/ip4/127.0.0.1/tcp/9"))).len(), 2);
        assert_eq!(reachable(named, Some(&address("/ip4/10.0.0.9/tcp/9"))), [address("/ip4/10.0.0.1/tcp/1")]);
    }

    #[test]
    fn flood_of_peers_does_not_push_out_those_that_were_connected() {
        let (mut book, peer) = (Book::default(), PeerId::random());
        book.connected(peer, Some(address("/ip4/10.0.0.1/tcp/1")), Instant::now());
        for _ in 0..2 * PEERS_MAX {
            book.note(PeerId::random(), [address("/ip4/10.0.0.2/tcp/1")], None);
        }
        assert_eq!(book.entries.len(), PEERS_MAX);
        assert_eq!(book.addresses(&peer).len(), 1);
    }
}
