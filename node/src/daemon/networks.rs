//! The networks that this node is a member of: their charters, and records on their way in and out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use barnraiser_bootstrap::{NetEvent, Topic, Verdict, Via};
use barnraiser_protocol::engine::{Config as EngineConfig, Engine, Input, Params, Reception};
use barnraiser_protocol::id::{NetworkId, NodeId};
use barnraiser_protocol::record::{Kind, Payload, Record, RecordError, SharedRecord};
use barnraiser_protocol::release::Release;
use barnraiser_protocol::trust::charter::Charter;
use tokio::sync::mpsc;

use super::Daemon;
use super::builds::KeptResult;
use super::engines::now;
use super::metadata::Fetching;
use super::relay::Relay;
use crate::home::NetworkEntry;
use crate::platform::Platform;

/// How soon records are compared again of which some found no room, and how often in a row: strangers may well flood.
const COMPARE_AGAIN: Duration = Duration::from_millis(500);
const COMPARISONS_MAX: u32 = 3;
/// How many records are verified in one go, on a worker thread.
const VERIFY_TOGETHER: usize = 64;

/// A network of this node.
pub(super) struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name, as the home has it.
    pub name: String,
    /// The charter; `None` while joining.
    pub charter: RwLock<Option<Arc<Charter>>>,
    /// Channel → its newest release.
    pub releases: RwLock<BTreeMap<String, Arc<Release>>>,
    fetching: Mutex<Fetching>,
    relay: Mutex<Relay>,
    /// Whether a record found no room since the last comparison with a peer, and how often that was so in a row.
    no_room: Mutex<(bool, u32)>,
    /// Held while a charter or a release is taken: of two that come at once, the older must not be the last.
    pub taking: tokio::sync::Mutex<()>,
}

impl Network {
    pub(super) fn new(entry: &NetworkEntry) -> Self {
        Self {
            id: entry.id,
            name: entry.name.clone(),
            charter: RwLock::new(entry.charter.clone().map(Arc::new)),
            releases: RwLock::default(),
            fetching: Mutex::default(),
            relay: Mutex::default(),
            no_room: Mutex::default(),
            taking: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn charter(&self) -> Option<Arc<Charter>> {
        self.charter.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is being fetched.
    pub(super) fn fetching(&self) -> MutexGuard<'_, Fetching> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether records are to be compared again at once: a member's records came before the word that it is one, and were
    /// taken for a stranger's, of whom few are kept.
    fn compare_again(&self) -> bool {
        let mut no_room = self.no_room.lock().unwrap_or_else(PoisonError::into_inner);
        let again = std::mem::take(&mut no_room.0) && no_room.1 < COMPARISONS_MAX;
        no_room.1 = if again { no_room.1 + 1 } else { 0 };
        again
    }

    /// Whether a record that can't be judged is passed on.
    fn pass_on(&self, sender: [u8; 32]) -> Verdict {
        let admitted = self.relay.lock().unwrap_or_else(PoisonError::into_inner).admit(now(), sender);
        if admitted { Verdict::Accept } else { Verdict::Ignore }
    }

    pub(super) fn release(&self, channel: &str) -> Option<Arc<Release>> {
        self.releases.read().unwrap_or_else(PoisonError::into_inner).get(channel).cloned()
    }
}

impl Daemon {
    /// Brings a network of the home to life: joins its swarm and, where the charter is known, starts its engine.
    pub(super) async fn start_network(self: &Arc<Self>, entry: NetworkEntry) -> anyhow::Result<()> {
        let known = self.networks().get(&entry.id).cloned();
        let network = match known {
            Some(network) => network,
            None => {
                let network = Arc::new(Network::new(&entry));
                *network.charter.write().unwrap_or_else(PoisonError::into_inner) = None;
                self.networks_mut().insert(entry.id, network.clone());
                let bootstrap = entry.bootstrap.iter().filter_map(|address| address.parse().ok()).collect();
                let remembered = self.remembered_peers(&entry.id);
                self.net.join(entry.id, bootstrap, remembered).await?;
                for topic in Topic::all() {
                    self.net.subscribe(entry.id, topic).await?;
                }
                network
            }
        };
        if let Some(charter) = entry.charter.clone() {
            self.adopt_charter(&network, charter).await?;
        }
        self.take_standing(&network, &entry.standing).await;
        for known in self.home.releases(&entry)? {
            self.adopt_release(&network, known.release).await?;
        }
        Ok(())
    }

    /// Publishes the standing records of this home: certificates, invitations, requests.
    pub(super) async fn take_standing(self: &Arc<Self>, network: &Arc<Network>, standing: &[Vec<u8>]) {
        for bytes in standing {
            match Record::open(bytes, network.id) {
                Ok(record) => {
                    let taken = self.engines.with(&network.id, |engine, now| engine.receive(now, &record));
                    if taken == Some(Reception::New) {
                        self.branches.changed();
                        self.persist(network.id, std::slice::from_ref(&record), true).await;
                        self.send(network.id, &record).await;
                    }
                }
                Err(error) => tracing::warn!(network = %network.name, %error, "a standing record of this home is bad"),
            }
        }
    }

    pub(super) async fn start_engine(self: &Arc<Self>, network: &Arc<Network>, charter: &Arc<Charter>) -> anyhow::Result<()> {
        let params = Params {
            network: network.id,
            lease_ttl: Duration::from_secs(charter.params().lease_ttl_s.into()),
            clock_difference: Duration::from_secs(charter.params().clock_difference_s.into()),
            grants: charter.grants().clone(),
            policy: charter.policy().clone(),
        };
        let config = EngineConfig {
            key: self.node_key.clone(),
            facts: Platform::this().facts(),
            programs: Platform::this().programs(),
            lend: self.engines.lend(),
        };
        let mut engine = Engine::new(params, config, rand::random(), now());
        let (store, id) = (self.store.clone(), network.id);
        let moment = now();
        let (records, results) = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
            store.delete_expired(&id, moment.0)?;
            let mut records = Vec::new();
            for stored in store.records(&id) {
                // Verified when it came; verified again, since a disk is not a proof.
                match Record::open(&stored?.bytes, id) {
                    Ok(record) => records.push(record),
                    Err(error) => tracing::warn!(%error, "a stored record is bad; it is left out"),
                }
            }
            // Who is who first: the records of those whom no member vouches for are bounded.
            records.sort_by_key(|record| !record.kind().by_operator());
            let results: Vec<Vec<u8>> = store.meta_scan(&result_prefix(&id), 10_000)?.into_iter().map(|(_, value)| value).collect();
            Ok((records, results))
        })
        .await??;
        for record in &records {
            engine.receive(moment, record);
        }
        for bytes in results {
            match serde_json::from_slice::<KeptResult>(&bytes) {
                Ok(kept) => {
                    self.hide_result(network.id, &kept).await;
                    engine.handle(moment, Input::Restore(kept.result));
                }
                Err(error) => tracing::error!(%error, "a result that was not revealed yet can't be read"),
            }
        }
        engine.hand_back_lost(moment);
        self.engines.add(network.id, engine);
        self.branches.changed();
        // What was heard before the charter was known could not be kept.
        for peer in self.net.peers().await {
            if peer.networks.contains(&network.id) {
                let (net, id) = (self.net.clone(), network.id);
                tokio::spawn(async move { net.sync_with(id, peer.node).await.map(drop) });
            }
        }
        Ok(())
    }

    /// Takes what the swarm brings, for ever.
    pub(super) async fn take_events(self: Arc<Self>, mut events: mpsc::Receiver<NetEvent>) {
        let mut arrived = Vec::new();
        while events.recv_many(&mut arrived, VERIFY_TOGETHER).await > 0 {
            let (mut records, mut synced) = (Vec::new(), Vec::new());
            for event in arrived.drain(..) {
                match event {
                    NetEvent::Record { network, bytes, from, via } => records.push((network, bytes, from, via)),
                    NetEvent::PeerConnected { networks, .. } | NetEvent::AddressesChanged { networks } => self.remember_peers(networks),
                    // Its records stand before it in this queue.
                    NetEvent::Synced { network, node, .. } => synced.push((network, node)),
                    NetEvent::Misbehaved { node, what } => tracing::warn!(node = %node.short(), %what, "a peer misbehaved"),
                    _ => {}
                }
            }
            if !records.is_empty() {
                self.take_records(records).await;
            }
            for (network, node) in synced {
                if self.networks().get(&network).is_some_and(|network| network.compare_again()) {
                    let net = self.net.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(COMPARE_AGAIN).await;
                        net.sync_with(network, node).await.map(drop)
                    });
                } else {
                    self.engines.with(&network, |engine, now| engine.handle(now, Input::Synced));
                }
            }
        }
    }

    async fn take_records(self: &Arc<Self>, records: Vec<(NetworkId, Vec<u8>, NodeId, Via)>) {
        let verified = tokio::task::spawn_blocking(move || {
            let open = |(network, bytes, from, via): (NetworkId, Vec<u8>, NodeId, Via)| (network, Record::open(&bytes, network), from, via);
            records.into_iter().map(open).collect::<Vec<_>>()
        })
        .await;
        let Ok(verified) = verified else { return };
        let mut keep: BTreeMap<NetworkId, Vec<SharedRecord>> = BTreeMap::new();
        for (id, opened, from, via) in verified {
            let Some(network) = self.networks().get(&id).cloned() else { continue };
            let verdict = match opened {
                Ok(record) => {
                    if record.kind() == Kind::Metadata {
                        self.notice_metadata(&network, &record);
                    }
                    match self.engines.with(&id, |engine, now| engine.receive(now, &record)) {
                        Some(Reception::New) => {
                            keep.entry(id).or_default().push(record);
                            Verdict::Accept
                        }
                        Some(Reception::Unauthorised(reason)) => {
                            tracing::debug!(from = %from.short(), reason, "refused a record");
                            Verdict::Reject
                        }
                        // This node's charter may be the one that is behind.
                        Some(Reception::NotHeeded(reason)) => {
                            tracing::debug!(from = %from.short(), %reason, "refused a record");
                            Verdict::Ignore
                        }
                        Some(Reception::OverQuota) => {
                            network.no_room.lock().unwrap_or_else(PoisonError::into_inner).0 = true;
                            Verdict::Ignore
                        }
                        // Joining: nothing is known of who may say what, but others may know.
                        None => network.pass_on(record.author_key()),
                        Some(_) => Verdict::Ignore,
                    }
                }
                // A newer node may well say what this one does not know.
                Err(RecordError::UnknownKind { author, .. }) => network.pass_on(author),
                Err(RecordError::UnknownVersion(_)) => network.pass_on(from.0),
                Err(error) => {
                    tracing::debug!(from = %from.short(), %error, "refused a record");
                    Verdict::Reject
                }
            };
            if let Via::Gossip(token) = via {
                self.net.validated(token, verdict);
            }
        }
        for (network, records) in keep {
            // Two records of a node that no honest one signs both bar its operator.
            if records.iter().any(|record| record.kind().by_operator() || record.kind() == Kind::FraudProof) {
                self.branches.changed();
            }
            self.persist(network, &records, false).await;
        }
    }

    /// Gossips a record of this node.
    pub(super) async fn send(&self, network: NetworkId, record: &SharedRecord) {
        let topic = self.topic_of(&network, record);
        if let Err(error) = self.net.publish(network, topic, record.bytes().to_vec()).await {
            // Anti-entropy brings it to others when somebody is there.
            tracing::debug!(%error, kind = ?record.kind(), "a record was not gossiped");
        }
    }

    fn topic_of(&self, network: &NetworkId, record: &Record) -> Topic {
        let of_action = |action| {
            let jobs = self.engines.ask(network, |engine| engine.jobs_of(action)).unwrap_or_default();
            jobs.first().map_or(Topic::Control, |(batch, _)| Topic::Batch(batch.0[0] % 16))
        };
        match record.payload() {
            Payload::Claim(claim) => Topic::Batch(claim.batch.0[0] % 16),
            Payload::Commitment(commitment) => of_action(&commitment.lease.action),
            Payload::Reveal(reveal) => of_action(&reveal.lease.action),
            _ => Topic::Control,
        }
    }

    fn remembered_peers(&self, network: &NetworkId) -> Vec<barnraiser_bootstrap::Multiaddr> {
        let text = self.store.meta_get(&peers_key(network)).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Keeps the addresses of members, beside other work.
    pub(super) fn remember_peers(self: &Arc<Self>, networks: Vec<NetworkId>) {
        let daemon = self.clone();
        tokio::spawn(async move {
            for network in networks {
                daemon.keep_peers(network).await;
            }
        });
    }

    /// Keeps the addresses of members, so that the next start needs no entry server. Those that were kept before stay
    /// where none is known now: a node that is stopping, or that nobody answered, must not forget whom it knew.
    pub(super) async fn keep_peers(&self, network: NetworkId) {
        let addresses = self.net.known_addresses(network).await;
        if addresses.is_empty() {
            return;
        }
        let text = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let store = self.store.clone();
        let kept = tokio::task::spawn_blocking(move || store.meta_put(&peers_key(&network), text.as_bytes(), false)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "addresses of peers can't be kept");
        }
    }
}

/// Where the store keeps a network's results that are not revealed.
pub(super) fn result_prefix(network: &NetworkId) -> Vec<u8> {
    [b"result/".as_slice(), network.as_bytes()].concat()
}

fn peers_key(network: &NetworkId) -> Vec<u8> {
    [b"peers/".as_slice(), network.as_bytes()].concat()
}
