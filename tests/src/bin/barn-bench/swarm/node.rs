//! A node that only provides or fetches one blob: the network layer and the store of `barn`, in a process of its own, so that
//! its memory and processor time can be told apart, and so that it can be put into a network namespace.
//!
//! It is told what to do by one line of JSON on standard input, says what there is to say on standard output, and ends when
//! standard input does.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use barnraiser_bootstrap::{BlobAccess, FetchRequest, Limits, Multiaddr, Net, NetConfig, RecordSource, Strangers};
use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId, RecordId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::sync::{ItemSet, Window};
use barnraiser_protocol::time::Timestamp;
use barnraiser_store::{Durability, Store};
use serde::{Deserialize, Serialize};

use super::{liar, raw, usage};

/// How often a node that may be starting is dialled, ...
const REACH_TRIES: usize = 30;
/// ... and how long between.
const REACH_AGAIN: Duration = Duration::from_millis(100);

/// What a node is to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    /// Take `file` in and serve it until told to end.
    Provide {
        /// Where its store is.
        store: PathBuf,
        /// What it has.
        file: PathBuf,
        /// Where it listens.
        listen: Multiaddr,
    },
    /// Fetch a blob, and write it to `to`.
    Fetch {
        /// Where its store is.
        store: PathBuf,
        /// The blob.
        hash: BlobHash,
        /// Who has it.
        providers: Vec<(NodeId, Multiaddr)>,
        /// Where it listens, if others may fetch from it.
        listen: Option<Multiaddr>,
        /// Where the blob goes.
        to: PathBuf,
    },
    /// Take `file` in and send others wrong bytes of it.
    Lie {
        /// Where its store is.
        store: PathBuf,
        /// What it says that it has.
        file: PathBuf,
        /// Where it listens.
        listen: Multiaddr,
    },
    /// Send `file` over a bare substream until told to end.
    RawSend {
        /// What is sent.
        file: PathBuf,
        /// Where it listens.
        listen: Multiaddr,
    },
    /// Write what a sender sends to `to`.
    RawReceive {
        /// The sender.
        from: Multiaddr,
        /// Where it goes.
        to: PathBuf,
    },
}

/// What a provider says when it is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    /// The node.
    pub node: NodeId,
    /// Where it listens.
    pub address: Multiaddr,
    /// What it provides.
    pub hash: BlobHash,
}

/// What a node used, and how long what it was told to do took.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Done {
    /// Seconds until all was here and verified.
    pub fetched_s: f64,
    /// Seconds until it was written where it was wanted.
    pub written_s: f64,
    /// Seconds of processor time, of all threads.
    pub cpu_s: f64,
    /// The most memory that was resident, in MiB.
    pub peak_mib: f64,
    /// Verified bytes by provider.
    pub by_peer: BTreeMap<NodeId, u64>,
}

impl Done {
    fn used() -> anyhow::Result<Self> {
        let (cpu_s, peak_mib) = usage::own()?;
        Ok(Self { cpu_s, peak_mib, ..Self::default() })
    }
}

/// Waits for the end of standard input.
async fn told_to_end() -> anyhow::Result<()> {
    tokio::task::spawn_blocking(|| std::io::stdin().lock().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

struct Everybody;

impl BlobAccess for Everybody {
    fn may_serve(&self, _: &BlobHash, _: &NodeId) -> bool {
        true
    }
}

struct NoRecords;

impl RecordSource for NoRecords {
    fn look(&self, _: &NetworkId, cut: Timestamp, look: &mut dyn FnMut(&Window<'_>)) {
        look(&ItemSet::default().window(cut, []));
    }

    fn get(&self, _: &NetworkId, _: &[RecordId]) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// Does what standard input says.
pub fn run() -> anyhow::Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let task: Task = serde_json::from_str(&line).context("the task can't be read")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        match task {
            Task::RawSend { file, listen } => {
                tokio::spawn(raw::send(file, listen));
                told_to_end().await?;
                Done::used()
            }
            Task::Lie { store, file, listen } => {
                tokio::spawn(liar::run(key_of(&store), store, file, listen));
                told_to_end().await?;
                Done::used()
            }
            Task::RawReceive { from, to } => {
                raw::receive(from, &to).await?;
                Done::used()
            }
            task => work(task).await,
        }
    })?;
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}

/// The key of the node whose store is there: others know it before the node begins.
pub fn key_of(store: &Path) -> SecretKey {
    SecretKey::from_seed(blake3::hash(store.as_os_str().as_encoded_bytes()).as_bytes())
}

/// Connects to a node that may be starting too. One that does not come is looked for again while others deliver.
async fn reach(net: &Net, node: NodeId, address: &Multiaddr) {
    for _ in 0..REACH_TRIES {
        match net.dial(node, vec![address.clone()]).await {
            Ok(()) => return,
            Err(_) => tokio::time::sleep(REACH_AGAIN).await,
        }
    }
    eprintln!("swarm: {} is not there", node.short());
}

async fn work(task: Task) -> anyhow::Result<Done> {
    let start = Instant::now();
    let (folder, listen) = match &task {
        Task::Provide { store, listen, .. } => (store, Some(listen.clone())),
        Task::Fetch { store, listen, .. } => (store, listen.clone()),
        Task::Lie { .. } | Task::RawSend { .. } | Task::RawReceive { .. } => bail!("a task without a store"),
    };
    let serves = listen.is_some();
    let store = Store::open(folder)?;
    let config = NetConfig {
        key: key_of(folder),
        listen: listen.into_iter().collect(),
        external: Vec::new(),
        agent: "barn-bench".into(),
        limits: Limits::default(),
        store: store.clone(),
        access: Arc::new(Everybody),
        records: Arc::new(NoRecords),
        branches: Arc::new(Strangers),
    };
    let node = config.key.node();
    let (net, mut events) = barnraiser_bootstrap::start(config).await?;
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let mut done = Done::default();
    match task {
        Task::Provide { file, .. } => {
            let (hash, _) = store.import_file(&file, Durability::Cached)?;
            let address = loop {
                if let Some(address) = net.addresses().await.into_iter().next() {
                    break address;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", serde_json::to_string(&Ready { node, address, hash })?)?;
            out.flush()?;
        }
        Task::Fetch { hash, providers, to, .. } => {
            futures::future::join_all(providers.iter().map(|(node, address)| reach(&net, *node, address))).await;
            let request = FetchRequest {
                hash,
                length: None,
                providers: providers.iter().map(|(node, _)| *node).collect(),
                network: None,
                durability: Durability::Cached,
                limit: u64::MAX,
            };
            let report = net.fetch(request, None).await?;
            done.fetched_s = start.elapsed().as_secs_f64();
            let from = store.clone();
            tokio::task::spawn_blocking(move || if serves { from.export(&hash, &to) } else { from.move_out(&hash, &to) }).await??;
            done.written_s = start.elapsed().as_secs_f64();
            done.by_peer = report.bytes_by_peer;
            if serves {
                println!("{}", serde_json::to_string(&done)?);
            }
        }
        Task::Lie { .. } | Task::RawSend { .. } | Task::RawReceive { .. } => {}
    }
    if serves {
        told_to_end().await?;
    }
    (done.cpu_s, done.peak_mib) = usage::own()?;
    net.shutdown().await;
    Ok(done)
}
