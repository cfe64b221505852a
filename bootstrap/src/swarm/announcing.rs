//! What this node announces to Kademlia, and what it keeps of what others do.

use barnraiser_protocol::id::BlobHash;
use libp2p::kad::ProviderRecord;
use libp2p::kad::store::RecordStore as _;

use super::Driver;
use super::behaviour::blob_key;
use super::providers::Party;
use crate::identity::node_id;
use crate::net::NetError;

/// Announcements that are begun in one go: each asks up to twenty nodes. The rest follows with the next tick.
const BEGUN_AT_ONCE: usize = 16;

impl Driver {
    /// Announces that this node has a blob, from now on, or does so no more.
    pub(super) fn provide(&mut self, hash: BlobHash, wanted: bool) -> Result<(), NetError> {
        let (local, key) = (*self.swarm.local_peer_id(), blob_key(&hash));
        self.unannounced.retain(|other| *other != hash);
        if !wanted {
            self.control().kad.stop_providing(&key);
            return Ok(());
        }
        // Kademlia renews all that is in its store; the first time is told to whoever is there, or comes.
        let added = self.control().kad.store_mut().add_provider(ProviderRecord::new(key, local, Vec::new()));
        added.map_err(|error| NetError::NotSent(error.to_string()))?;
        self.unannounced.push_back(hash);
        self.announce_again();
        Ok(())
    }

    /// Announces what could not be announced before, once somebody is there who keeps it.
    pub(super) fn announce_again(&mut self) {
        if self.unannounced.is_empty() || self.control().kad.kbuckets().all(|bucket| bucket.is_empty()) {
            return;
        }
        let count = self.unannounced.len().min(BEGUN_AT_ONCE);
        for hash in self.unannounced.drain(..count).collect::<Vec<_>>() {
            if let Err(error) = self.control().kad.start_providing(blob_key(&hash)) {
                tracing::debug!(%hash, %error, "a blob can't be announced");
            }
        }
    }

    /// Keeps what a peer announces, counted with its branch, or with those who are where it is.
    pub(super) fn keep_announcement(&mut self, record: ProviderRecord) {
        let seen_at = self.peers.get(&record.provider).map(|state| state.seen_at.clone());
        let branch = node_id(&record.provider).and_then(|node| self.context.config.branches.branch_of(&node));
        let party = match (branch, &seen_at) {
            (Some(branch), _) => Party::Branch(branch),
            (None, Some(address)) => Party::of_stranger(address),
            (None, None) => Party::Elsewhere,
        };
        self.control().kad.store_mut().announced(record, party, seen_at.as_ref());
    }
}
