//! The record store of Kademlia: who says to have what. Values are refused.
//!
//! [`ledger`] decides what is kept of what others announce, and whom a question is answered with; [`party`] who is counted
//! together. Here is what ties them to libp2p: keys, addresses, the clock, and this node's own announcements, which are
//! apart, so that no flood can push them out.

pub mod ledger;
mod party;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use barnraiser_protocol::id::NodeId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{self, ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};

use super::book::reachable;
use crate::identity::{node_id, peer_id, without_peer};
use ledger::{Bounds, Id, Kept, Key, Ledger};
pub use party::Party;

/// Records of others. One takes up to 1.2 KiB, addresses and indexes included: 20 MB when an attacker fills it all.
const RECORDS_MAX: usize = 16 << 10;
/// Of these strangers may have so many: what members announce is found however many strangers there are.
const STRANGERS_MAX: usize = RECORDS_MAX / 4 * 3;
/// Of these one branch, or the strangers of one network prefix: an eighth, so that a few places can't have it all.
const PARTY_MAX: usize = RECORDS_MAX / 8;
/// Records of one peer: more images and indexes than a node has of releases that are current.
const PEER_MAX: usize = 512;
/// Providers of one key: several times as many as are named at once, and a fetch uses eight.
const KEY_MAX: usize = 64;
/// Of these, strangers.
const KEY_STRANGERS_MAX: usize = 48;
/// Announcements of this node itself.
const OWN_MAX: usize = 4096;
/// Addresses kept of a provider, ...
const ADDRESSES_MAX: usize = 4;
/// ... and bytes of them in all, without PeerIds. A message with 20 providers and 20 closer nodes then stays below the
/// [`MESSAGE_BYTES_MAX`] that who asks takes: else a few peers with long addresses would make all answers about a key void.
const ADDRESS_BYTES_MAX: usize = 160;
/// The most bytes of a message of Kademlia, as the library has it.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Kademlia's k: as many providers, and as many closer nodes, are in one answer.
const REPLICATION: usize = 20;
/// Bytes that a node takes in a message beside its addresses: its PeerId, and what encodes both.
const PEER_BYTES: usize = 60;
/// Providers that Kademlia is given to name: a few more than it does, since who asks is left out.
const NAMED_MAX: usize = REPLICATION + 4;
/// How long a provider is named last that did not give what it announced: it may have been restarting.
const FAILED_FOR: Duration = Duration::from_secs(1800);
/// Where there are more parties than can be named, others are named this often.
const TURN: Duration = Duration::from_secs(60);

const _: () = assert!(
    2 * REPLICATION * (ADDRESS_BYTES_MAX + 44 * ADDRESSES_MAX + PEER_BYTES) < MESSAGE_BYTES_MAX,
    "providers and closer nodes fit one message, each address with its PeerId"
);

/// Kademlia, with our store.
pub type Kademlia = kad::Behaviour<ProviderStore>;

/// What Kademlia remembers here.
pub struct ProviderStore {
    local: PeerId,
    own: BTreeSet<Key>,
    others: Ledger,
    start: Instant,
}

impl ProviderStore {
    /// An empty one of the node `local`, which forgets what is not renewed for `lifetime`.
    pub fn new(local: PeerId, lifetime: Duration) -> Self {
        let bounds = Bounds {
            records: RECORDS_MAX,
            strangers: STRANGERS_MAX,
            party: PARTY_MAX,
            peer: PEER_MAX,
            key: KEY_MAX,
            key_strangers: KEY_STRANGERS_MAX,
            lifetime,
            failed_for: FAILED_FOR,
            turn: TURN,
        };
        Self { local, own: BTreeSet::new(), others: Ledger::new(bounds, rand::random()), start: Instant::now() }
    }

    /// Keeps what a peer announces, if there is room: Kademlia has checked that it speaks for itself. `seen_at` is where its
    /// connection comes from, `party` whom it is counted with. Whether it is kept.
    pub fn announced(&mut self, record: ProviderRecord, party: Party, seen_at: Option<&Multiaddr>) -> bool {
        let now = self.start.elapsed();
        let Some(id) = id(&record.key, &record.provider).filter(|_| record.provider != self.local) else {
            return false;
        };
        let kept = self.others.announce(id, party, told(record.addresses, seen_at), now);
        if kept == Kept::Refused {
            tracing::debug!(provider = %record.provider, ?party, "an announcement is not kept: there is no room");
        }
        kept != Kept::Refused
    }

    /// A fetch has found out whether a node has what it announced.
    pub fn judge(&mut self, key: &RecordKey, provider: NodeId, gave: bool) {
        let Some(key) = key_bytes(key) else { return };
        let id = Id { key, provider };
        if gave {
            self.others.answered(&id);
        } else {
            self.others.failed(&id, self.start.elapsed());
        }
    }

    /// How many records of others there are.
    pub fn len(&self) -> usize {
        self.others.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.others.is_empty()
    }
}

/// Keys of ours are hashes; a stranger's of any other length are of no use to anybody.
fn key_bytes(key: &RecordKey) -> Option<Key> {
    key.as_ref().try_into().ok()
}

fn id(key: &RecordKey, provider: &PeerId) -> Option<Id> {
    Some(Id { key: key_bytes(key)?, provider: node_id(provider)? })
}

/// Of the addresses that a peer names, those that are kept: few, short, and no loopback but of who is seen at one.
pub fn told(addresses: Vec<Multiaddr>, seen_at: Option<&Multiaddr>) -> Vec<Multiaddr> {
    let mut kept: Vec<Multiaddr> = Vec::new();
    let mut bytes = 0;
    for address in reachable(addresses.into_iter().map(without_peer).collect(), seen_at) {
        if kept.len() < ADDRESSES_MAX && bytes + address.len() <= ADDRESS_BYTES_MAX && !kept.contains(&address) {
            bytes += address.len();
            kept.push(address);
        }
    }
    kept
}

/// Replaces the addresses by which Kademlia's routing table knows `peer`, and tells others of it, by `addresses`: it would
/// keep whatever it was ever told.
pub fn learn(kad: &mut Kademlia, peer: &PeerId, addresses: &[Multiaddr]) {
    if addresses.is_empty() {
        return;
    }
    for address in addresses {
        kad.add_address(peer, address.clone());
    }
    let known = kad.kbucket(*peer).map(|bucket| {
        let of_peer = bucket.iter().filter(|entry| entry.node.key.preimage() == peer);
        of_peer.flat_map(|entry| entry.node.value.iter().cloned().collect::<Vec<_>>()).collect::<Vec<_>>()
    });
    for stale in known.unwrap_or_default().iter().filter(|known| !addresses.contains(&without_peer((*known).clone()))) {
        kad.remove_address(peer, stale);
    }
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    /// For this node's own announcements; those of others come by [`ProviderStore::announced`].
    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let key = key_bytes(&record.key).filter(|_| record.provider == self.local).ok_or(Error::MaxProvidedKeys)?;
        if self.own.len() >= OWN_MAX && !self.own.contains(&key) {
            return Err(Error::MaxProvidedKeys);
        }
        self.own.insert(key);
        Ok(())
    }

    /// Whom a question is answered with, the best first: Kademlia names the first 20.
    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(bytes) = key_bytes(key) else { return Vec::new() };
        let record = |provider, expires, addresses| ProviderRecord { key: key.clone(), provider, expires, addresses };
        let own = self.own.contains(&bytes).then(|| record(self.local, None, Vec::new()));
        let others = self.others.providers(&bytes, NAMED_MAX, self.start.elapsed());
        let others = others
            .into_iter()
            .filter_map(|(node, addresses, end)| Some(record(peer_id(&node)?, Some(self.start + end), addresses.to_vec())));
        own.into_iter().chain(others).collect()
    }

    /// What this node announces again and again.
    fn provided(&self) -> Self::ProvidedIter<'_> {
        let record = |key: &Key| Cow::Owned(ProviderRecord::new(RecordKey::new(key), self.local, Vec::new()));
        self.own.iter().map(record).collect::<Vec<_>>().into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            if let Some(key) = key_bytes(key) {
                self.own.remove(&key);
            }
        } else if let Some(id) = id(key, provider) {
            self.others.withdraw(&id);
        }
    }
}
