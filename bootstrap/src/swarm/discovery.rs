//! Whom to dial: entry servers, remembered peers, members found through Kademlia.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use barnraiser_protocol::id::NetworkId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use super::behaviour::rendezvous_key;
use super::{Driver, Lookup};
use crate::event::NetEvent;
use crate::identity::{node_id, peer_of};
use crate::sync;
use crate::topic::Topic;

/// The first wait between two searches for members, doubled each time up to [`SEARCH_MAX`].
const SEARCH_MIN: Duration = Duration::from_secs(1);
const SEARCH_MAX: Duration = Duration::from_secs(60);
/// The wait where enough members are connected: the search then only renews what others know of us.
const SEARCH_SATED: Duration = Duration::from_secs(300);
/// The first wait between two dials of an entry server, doubled each time up to [`ENTRY_MAX`].
const ENTRY_MIN: Duration = Duration::from_millis(500);
const ENTRY_MAX: Duration = Duration::from_secs(60);
/// Remembered peers dialled in one tick, for each network.
const DIALS_PER_TICK: usize = 8;
/// Entry servers of a network.
const ENTRIES_MAX: usize = 16;

/// A network that was joined.
pub(super) struct Membership {
    entries: Vec<Entry>,
    next_search: Instant,
    search: Duration,
    pub(super) next_sync: Instant,
}

/// An entry server.
struct Entry {
    address: Multiaddr,
    /// Who answered there, once somebody has.
    peer: Option<PeerId>,
    next_dial: Instant,
    retry: Duration,
}

/// A peer that somebody waits for.
pub(super) struct Connecting {
    waiting: Vec<oneshot::Sender<Result<(), String>>>,
    /// Whether its addresses were looked up already.
    located: bool,
}

impl Driver {
    pub(super) fn join(&mut self, network: NetworkId, bootstrap: Vec<Multiaddr>, known: Vec<Multiaddr>) {
        let now = Instant::now();
        let membership = self.networks.entry(network).or_insert_with(|| Membership {
            entries: Vec::new(),
            next_search: now,
            search: SEARCH_MIN,
            next_sync: now,
        });
        for address in bootstrap {
            if membership.entries.len() < ENTRIES_MAX && membership.entries.iter().all(|e| e.address != address) {
                let peer = peer_of(&address);
                membership.entries.push(Entry { address, peer, next_dial: now, retry: ENTRY_MIN });
            }
        }
        for address in known {
            if let Some(peer) = peer_of(&address) {
                self.book.note(peer, [address], Some(network));
            }
        }
        if let Err(error) = self.subscribe(network, Topic::Control, true) {
            tracing::error!(%error, network = %network.short(), "the control topic can't be subscribed to");
        }
        // Peers that are connected already may have said before that they are members.
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.membership_changed(peer);
        }
        self.schedule_sync(network, now);
        self.on_tick(now);
    }

    pub(super) fn leave(&mut self, network: NetworkId) {
        for topic in Topic::all() {
            self.control().gossipsub.unsubscribe(&topic.of(&network));
        }
        self.control().kad.stop_providing(&rendezvous_key(&network));
        self.networks.remove(&network);
        let peers: Vec<PeerId> = self.members(&network).collect();
        for peer in peers {
            self.membership_changed(peer);
        }
    }

    /// Works out anew which networks we share with `peer`.
    pub(super) fn membership_changed(&mut self, peer: PeerId) {
        let Some(node) = node_id(&peer) else { return };
        let said = self.subscriptions.get(&peer);
        let shared: BTreeSet<NetworkId> =
            said.into_iter().flatten().filter(|network| self.networks.contains_key(network)).copied().collect();
        let crowded = |network: &NetworkId| self.members(network).count() > self.context.config.limits.peers_per_network;
        let keep = shared.iter().any(|network| !crowded(network));
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.networks == shared {
            return;
        }
        let new: Vec<NetworkId> = shared.difference(&state.networks).copied().collect();
        state.networks.clone_from(&shared);
        self.swarm.behaviour_mut().substream.keep_alive(peer, keep);
        for network in &new {
            self.book.note(peer, [], Some(*network));
        }
        self.emit(NetEvent::PeerConnected { node, networks: shared.into_iter().collect() });
        // Both ends notice at about the same time; one exchange is enough.
        if self.context.local < node {
            for network in new {
                self.spawn_sync(network, peer);
            }
        }
    }

    pub(super) fn on_tick(&mut self, now: Instant) {
        self.announce_again();
        let networks: Vec<NetworkId> = self.networks.keys().copied().collect();
        let limits = self.context.config.limits.clone();
        for network in networks {
            let members = self.members(&network).count();
            if members < limits.peers_wanted {
                self.dial_entries(network, now);
                self.dial_remembered(network, limits.peers_wanted - members, now);
            }
            self.search_if_due(network, members >= limits.peers_wanted, now);
            if self.networks.get(&network).is_some_and(|membership| membership.next_sync <= now) {
                self.schedule_sync(network, now);
                let members: Vec<PeerId> = self.members(&network).collect();
                if !members.is_empty() {
                    self.spawn_sync(network, members[rand::random_range(0..members.len())]);
                }
            }
        }
    }

    fn dial_entries(&mut self, network: NetworkId, now: Instant) {
        let Some(membership) = self.networks.get_mut(&network) else { return };
        let mut dials = Vec::new();
        for entry in &mut membership.entries {
            if entry.next_dial > now || entry.peer.is_some_and(|peer| self.peers.contains_key(&peer)) {
                continue;
            }
            entry.next_dial = now + entry.retry.mul_f64(rand::random_range(0.75..1.25));
            entry.retry = (entry.retry * 2).min(ENTRY_MAX);
            dials.push(match entry.peer {
                Some(peer) => DialOpts::peer_id(peer).addresses(vec![entry.address.clone()]).build(),
                None => entry.address.clone().into(),
            });
        }
        for opts in dials {
            self.dial(opts);
        }
    }

    fn dial_remembered(&mut self, network: NetworkId, wanted: usize, now: Instant) {
        let peers = &self.peers;
        let local = *self.swarm.local_peer_id();
        let skip = |peer: &PeerId| *peer == local || peers.contains_key(peer);
        for peer in self.book.due(&network, wanted.min(DIALS_PER_TICK), now, skip) {
            let addresses = self.book.addresses(&peer);
            self.dial(peer_opts(peer, addresses));
        }
    }

    /// Looks for members of `network` through Kademlia and announces this node as one.
    fn search_if_due(&mut self, network: NetworkId, sated: bool, now: Instant) {
        // Without anybody to ask, a search finds nothing and its result would only push the next one out.
        if self.peers.is_empty() {
            return;
        }
        let Some(membership) = self.networks.get_mut(&network) else { return };
        if membership.next_search > now {
            return;
        }
        let wait = if sated { SEARCH_SATED } else { membership.search };
        membership.next_search = now + wait.mul_f64(rand::random_range(0.75..1.25));
        membership.search = (membership.search * 2).min(SEARCH_MAX);
        let key = rendezvous_key(&network);
        let kad = &mut self.control().kad;
        if let Err(error) = kad.start_providing(key.clone()) {
            tracing::debug!(%error, "this node can't be announced as a member");
        }
        let query = kad.get_providers(key);
        self.lookups.insert(query, Lookup::Members(network));
    }

    /// A peer that can be asked for members has come: searches start over, at once.
    pub(super) fn search_soon(&mut self, now: Instant) {
        let wanted = self.context.config.limits.peers_wanted;
        let few: Vec<NetworkId> = self.networks.keys().filter(|network| self.members(network).count() < wanted).copied().collect();
        for network in few {
            if let Some(membership) = self.networks.get_mut(&network) {
                membership.search = SEARCH_MIN;
                membership.next_search = membership.next_search.min(now);
            }
        }
        self.on_tick(now);
    }

    /// Kademlia says that `peer` is a member of `network`.
    pub(super) fn member_found(&mut self, network: NetworkId, peer: PeerId, now: Instant) {
        if peer == *self.swarm.local_peer_id() || node_id(&peer).is_none() {
            return;
        }
        self.book.note(peer, [], Some(network));
        let wanted = self.context.config.limits.peers_wanted;
        if !self.peers.contains_key(&peer) && self.members(&network).count() < wanted {
            self.book.dialled(peer, now);
            let addresses = self.book.addresses(&peer);
            self.dial(peer_opts(peer, addresses));
        }
    }

    /// A connection that we dialled at `address` is there.
    pub(super) fn entry_answered(&mut self, address: &Multiaddr, peer: PeerId, now: Instant) {
        let entries = self.networks.values_mut().flat_map(|membership| &mut membership.entries);
        for entry in entries {
            if entry.address == *address || entry.peer == Some(peer) {
                entry.peer = Some(peer);
                entry.retry = ENTRY_MIN;
                // It may close the connection when nothing moves; there is no hurry to be back.
                entry.next_dial = now + ENTRY_MAX;
            }
        }
    }

    pub(super) fn connect(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, reply: oneshot::Sender<Result<(), String>>) {
        if peer == *self.swarm.local_peer_id() {
            // A reply that nobody waits for is not needed; likewise below.
            let _ = reply.send(Err("that is this node itself".into()));
            return;
        }
        if self.swarm.behaviour().substream.is_connected(&peer) {
            let _ = reply.send(Ok(()));
            return;
        }
        self.book.note(peer, addresses, None);
        if let Some(connecting) = self.connecting.get_mut(&peer) {
            connecting.waiting.retain(|waiting| !waiting.is_closed());
            connecting.waiting.push(reply);
            return;
        }
        self.connecting.insert(peer, Connecting { waiting: vec![reply], located: false });
        let opts = peer_opts(peer, self.book.addresses(&peer));
        if let Err(error) = self.swarm.dial(opts) {
            match error {
                // Then the end of that dial decides.
                libp2p::swarm::DialError::DialPeerConditionFalse(_) => {}
                other => self.connect_failed(peer, &other.to_string()),
            }
        }
    }

    /// A dial of `peer` failed: its addresses are looked up once, then whoever waits is told.
    pub(super) fn connect_failed(&mut self, peer: PeerId, reason: &str) {
        let Some(connecting) = self.connecting.get_mut(&peer) else { return };
        if !connecting.located && !self.peers.is_empty() {
            connecting.located = true;
            let query = self.control().kad.get_closest_peers(peer);
            self.lookups.insert(query, Lookup::Peer(peer));
            return;
        }
        self.connect_ended(peer, &Err(reason.to_owned()));
    }

    /// The addresses of `peer` were looked up.
    pub(super) fn located(&mut self, peer: PeerId) {
        if self.connecting.contains_key(&peer) {
            let opts = peer_opts(peer, self.book.addresses(&peer));
            if let Err(error) = self.swarm.dial(opts) {
                self.connect_failed(peer, &error.to_string());
            }
        }
    }

    pub(super) fn connect_ended(&mut self, peer: PeerId, result: &Result<(), String>) {
        for waiting in self.connecting.remove(&peer).into_iter().flat_map(|connecting| connecting.waiting) {
            let _ = waiting.send(result.clone());
        }
    }

    fn dial(&mut self, opts: DialOpts) {
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%error, "not dialled");
        }
    }

    fn schedule_sync(&mut self, network: NetworkId, now: Instant) {
        let wait = self.context.config.limits.sync_interval.mul_f64(rand::random_range(0.75..1.25));
        if let Some(membership) = self.networks.get_mut(&network) {
            membership.next_sync = now + wait;
        }
    }

    fn spawn_sync(&mut self, network: NetworkId, peer: PeerId) {
        let Some(node) = node_id(&peer) else { return };
        let context = self.context.clone();
        self.tasks.spawn(async move {
            // What comes of it is logged and reported by the exchange itself.
            let _ = sync::open(&context, network, node).await;
        });
    }
}

/// Dials `peer` by what we and the behaviours know of it, unless it is there or being dialled.
fn peer_opts(peer: PeerId, addresses: Vec<Multiaddr>) -> DialOpts {
    DialOpts::peer_id(peer)
        .condition(PeerCondition::DisconnectedAndNotDialing)
        .addresses(addresses)
        .extend_addresses_through_behaviour()
        .build()
}
