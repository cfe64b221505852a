//! Nodes for tests: each with its own store, records and events, on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barnraiser_bootstrap::{
    BlobAccess, Branches, HoldConfig, Limits, Misbehaviour, Multiaddr, Net, NetConfig, NetEvent, RecordSource, Verdict, Via, start,
};
use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId, RecordId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::sync::{ItemSet, Window};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::trust::members::Branch;
use barnraiser_store::{Durability, Store};
use tempfile::TempDir;

pub const NETWORK: NetworkId = NetworkId([7; 32]);
pub const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
/// Far longer than anything here takes on a busy machine; what must be fast is measured.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What a node has and has seen.
#[derive(Default)]
pub struct Seen {
    pub records: BTreeMap<RecordId, (Timestamp, Vec<u8>)>,
    /// When each record came, and whether by gossip.
    pub arrivals: BTreeMap<RecordId, (Instant, bool)>,
    /// Those that gossip brought, first or later.
    pub gossiped: BTreeSet<RecordId>,
    pub peers: BTreeSet<NodeId>,
    pub misbehaved: Vec<(NodeId, Misbehaviour)>,
    pub synced: usize,
}

#[derive(Default)]
pub struct Records(Mutex<Seen>);

impl Records {
    pub fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

impl RecordSource for Records {
    fn look(&self, network: &NetworkId, cut: Timestamp, look: &mut dyn FnMut(&Window<'_>)) {
        assert_eq!(*network, NETWORK);
        let items: ItemSet = self.lock().records.iter().map(|(id, (at, _))| (*at, *id)).collect();
        look(&items.window(cut, []));
    }
    fn get(&self, _: &NetworkId, ids: &[RecordId]) -> Vec<Vec<u8>> {
        let seen = self.lock();
        ids.iter().filter_map(|id| seen.records.get(id).map(|(_, bytes)| bytes.clone())).collect()
    }
}

/// Serves everybody but those named first; the blobs named second are what everybody wants at once.
#[derive(Default)]
pub struct Access(pub Mutex<BTreeSet<NodeId>>, pub Mutex<BTreeSet<BlobHash>>);

impl BlobAccess for Access {
    fn may_serve(&self, _: &BlobHash, to: &NodeId) -> bool {
        !self.0.lock().unwrap().contains(to)
    }

    fn is_rationed(&self, hash: &BlobHash) -> bool {
        self.1.lock().unwrap().contains(hash)
    }
}

/// Who is in which branch; all others are strangers.
#[derive(Default)]
pub struct Kin(pub Mutex<BTreeMap<NodeId, Branch>>);

impl Branches for Kin {
    fn branch_of(&self, node: &NodeId) -> Option<Branch> {
        self.0.lock().unwrap().get(node).copied()
    }
}

pub struct Node {
    pub net: Net,
    pub store: Store,
    pub seen: Arc<Records>,
    pub access: Arc<Access>,
    pub kin: Arc<Kin>,
    pub key: SecretKey,
    dir: TempDir,
}

pub fn id_of(bytes: &[u8]) -> RecordId {
    RecordId(*blake3::hash(bytes).as_bytes())
}

impl Node {
    pub async fn new(listen: &[&str]) -> Self {
        Self::with_limits(listen, Limits::default()).await
    }

    pub async fn with_limits(listen: &[&str], limits: Limits) -> Self {
        Self::with(listen, limits, None).await
    }

    /// One that holds blobs.
    pub async fn with(listen: &[&str], limits: Limits, hold: Option<HoldConfig>) -> Self {
        let dir = TempDir::new().unwrap();
        let key = SecretKey::from_seed(&rand::random());
        Self::start(dir, key, listen, limits, hold).await
    }

    async fn start(dir: TempDir, key: SecretKey, listen: &[&str], limits: Limits, hold: Option<HoldConfig>) -> Self {
        let store = Store::open(dir.path()).unwrap();
        let (seen, access, kin) = (Arc::new(Records::default()), Arc::new(Access::default()), Arc::new(Kin::default()));
        let config = NetConfig {
            key: key.clone(),
            listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
            external: Vec::new(),
            agent: "test".into(),
            limits,
            store: store.clone(),
            access: access.clone(),
            records: seen.clone(),
            branches: kin.clone(),
            hold,
        };
        let (net, mut events) = start(config).await.unwrap();
        let (records, handle) = (seen.clone(), net.clone());
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let mut seen = records.lock();
                match event {
                    NetEvent::Record { network, bytes, via, .. } => {
                        assert_eq!(network, NETWORK);
                        let good = !bytes.starts_with(b"bad");
                        let gossip = matches!(via, Via::Gossip(_));
                        if let Via::Gossip(token) = via {
                            handle.validated(token, if good { Verdict::Accept } else { Verdict::Reject });
                        }
                        if good {
                            let id = id_of(&bytes);
                            seen.arrivals.entry(id).or_insert((Instant::now(), gossip));
                            if gossip {
                                seen.gossiped.insert(id);
                            }
                            seen.records.entry(id).or_insert((Timestamp::MAX, bytes));
                        }
                    }
                    NetEvent::PeerConnected { node, networks } => {
                        if networks.contains(&NETWORK) {
                            seen.peers.insert(node)
                        } else {
                            seen.peers.remove(&node)
                        };
                    }
                    NetEvent::PeerDisconnected { node } => {
                        seen.peers.remove(&node);
                    }
                    NetEvent::Misbehaved { node, what } => seen.misbehaved.push((node, what)),
                    NetEvent::Synced { .. } => seen.synced += 1,
                    _ => {}
                }
            }
        });
        let node = Self { net, store, seen, access, kin, key, dir };
        until("it listens", async || node.net.addresses().await.len() >= listen.len()).await;
        node
    }

    /// Ends the node and starts it anew, with the same key and store and nothing else.
    pub async fn restart(self, listen: &[&str]) -> Self {
        let Self { net, store, seen, access, kin, key, dir } = self;
        net.shutdown().await;
        drop((net, store, seen, access, kin));
        // Threads that still read for the old one let the store go when they are done.
        until("the store is free", async || Store::open(dir.path()).is_ok()).await;
        Self::start(dir, key, listen, Limits::default(), None).await
    }

    pub fn id(&self) -> NodeId {
        self.net.local()
    }

    pub async fn join(&self, known: &[Multiaddr]) {
        self.net.join(NETWORK, Vec::new(), known.to_vec()).await.unwrap();
    }

    /// Waits until it knows `others` as members.
    pub async fn meets(&self, others: &[&Self]) {
        until("members meet", async || others.iter().all(|other| self.seen.lock().peers.contains(&other.id()))).await;
    }

    pub fn add_record(&self, bytes: &[u8]) {
        self.seen.lock().records.insert(id_of(bytes), (Timestamp::MAX, bytes.to_vec()));
    }

    pub fn has_record(&self, bytes: &[u8]) -> bool {
        self.seen.lock().records.contains_key(&id_of(bytes))
    }

    pub fn add_blob(&self, bytes: &[u8]) -> BlobHash {
        self.store.import_bytes(bytes, Durability::Cached).unwrap()
    }

    pub fn blob(&self, hash: &BlobHash) -> Vec<u8> {
        self.store.read_all(hash, 1 << 30).unwrap()
    }
}

/// `count` members that all know each other.
pub async fn network(count: usize, listen: &[&str]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..count {
        let node = Node::new(listen).await;
        let mut known = Vec::new();
        for other in &nodes {
            known.extend(other.net.addresses().await);
        }
        node.join(&known).await;
        nodes.push(node);
    }
    for node in &nodes {
        let others: Vec<&Node> = nodes.iter().filter(|other| other.id() != node.id()).collect();
        node.meets(&others).await;
    }
    nodes
}

/// Waits until `condition` holds.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "not within {} s: {what}", DEADLINE.as_secs());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Bytes that look random and are the same each time.
pub fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Logs of a failing test: RUST_LOG=barnraiser_bootstrap=debug.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}
